"""What a run leaves behind: its folder, manifest, metrics, TensorBoard events, and the progress line."""

import csv
import datetime
import io
import logging
import os
import pathlib
import platform
import shlex
import subprocess
import sys

import yaml

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.runs import devices

METRICS_COLUMNS = (
    "step", "epoch", "wall_seconds", "split", "loss", "top1", "top5", "lr", "images_per_second", "mfu", "data_wait",
    "gradient_norm", "loss_scale", "skipped",
)  # fmt: skip
RESULT_COLUMNS = ("date", "commit", "command", "hardware", "versions", "seed", "wall_seconds")


def results_columns(task):
    """The columns of a results file of trainings and scores of a task, by its name."""
    described = ("model", "recipe", "dataset", "steps", "epochs", "examples")
    return (*RESULT_COLUMNS, *described, *configuration.TASKS[task].columns)


def metrics_columns(task):
    """The columns of metrics.csv of a task, by its name."""
    return tuple(dict.fromkeys((*METRICS_COLUMNS, *configuration.TASKS[task].columns)))


ACCURACY_COLUMNS = results_columns(configuration.CLASSIFICATION)
SPEED_COLUMNS = (
    *RESULT_COLUMNS, "benchmark", "model", "batch", "precision", "strategy", "system", "images_per_second", "ratio"
)  # fmt: skip
INFERENCE_COLUMNS = (
    *RESULT_COLUMNS, "benchmark", "model", "batch", "precision", "format", "system", "p50_ms", "p95_ms", "p99_ms",
    "images_per_second", "ratio",
)  # fmt: skip
MANIFEST = "manifest.yaml"
_log = logging.getLogger(__name__)


# --- Where a number comes from ---------------------------------------------------------------------------------------


def provenance(seed, wall_seconds):
    """The columns that every results file has: {column: value}."""
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "command": command(),
        "hardware": devices.hardware(),
        "versions": versions(),
        "seed": seed,
        "wall_seconds": round(wall_seconds, 1),
    }


def commit():
    """Commit of the source, with "-dirty" after it where files differ; or $RESNET_TF_COMMIT, for copies without git."""
    if os.environ.get("RESNET_TF_COMMIT"):
        return os.environ["RESNET_TF_COMMIT"]
    package = pathlib.Path(__file__).parent.parent

    def git(*arguments):
        return subprocess.run(
            ["git", "-C", package, *arguments], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        return name + ("-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def command():
    """The command line of this process, as one would type it, $XLA_FLAGS before it but for where CUDA is."""
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None)
    program = ["python", "-m", module] if module else [os.path.basename(sys.argv[0])]
    xla = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "cuda_data_dir" not in flag)
    return (f"XLA_FLAGS={shlex.quote(xla)} " if xla else "") + shlex.join([*program, *sys.argv[1:]])


def versions():
    """Versions of Python, TensorFlow, Keras and this package, in one string."""
    import keras
    import tensorflow as tf

    import resnet_tf

    return (
        f"python {platform.python_version()}; tensorflow {tf.__version__}; keras {keras.__version__}; "
        f"resnet_tf {resnet_tf.__version__}"
    )


def append_result(path, columns, row):
    """Append one row to a results file, with a header where the file is new.

    Args:
        path: of the CSV file.
        columns: its columns in order.
        row: {column: value}, all of them; None for the header alone, before several processes append.

    Raises:
        InputError: the file has other columns.
        OSError: it cannot be written.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    if path.exists() and path.stat().st_size:
        check_results(path, columns)
    else:
        writer.writeheader()
    if row is not None:
        writer.writerow(row)
    try:
        with open(path, "a", newline="") as file:
            file.write(text.getvalue())  # one write: rows of several processes do not mix
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_results(path, columns):
    """Refuse a results file that exists and has other columns, before the work whose result goes there.

    Raises:
        InputError: names the file and its columns.
    """
    path = pathlib.Path(path)
    if path.is_dir():
        raise InputError(f"--results={path}: a folder, not a CSV file")
    if path.is_file() and path.stat().st_size:
        with open(path, newline="") as file:
            header = next(csv.reader(file), [])
        if tuple(header) != tuple(columns):
            raise InputError(f"--results={path}: its columns are {','.join(header)}, not {','.join(columns)}")


# --- The run folder --------------------------------------------------------------------------------------------------


class Run:
    """A run's folder.

    Attributes:
        folder: path.
        manifest: what manifest.yaml holds.
        config: the configuration of the run, that of its task.
    """

    def __init__(self, folder, manifest, config):
        """Use `create` or `open_run`."""
        self.folder, self.manifest, self.config = pathlib.Path(folder), manifest, config

    @property
    def checkpoints(self):
        """Folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def finished(self):
        """Whether `finish` was called."""
        return (self.folder / "evaluation.json").exists()

    def finish(self, evaluation):
        """Write evaluation.json, with the command and the commit that it is of."""
        of = {"command": command(), "commit": commit()}
        files.write_json(self.folder / "evaluation.json", evaluation | of)


def open_run(folder, flag="--run=", tasks=(configuration.CLASSIFICATION,)):
    """Open an existing run.

    Args:
        folder: of the run.
        flag: what errors put before the folder; "" where it was named without one.
        tasks: names of those that it may be a run of, of `config.TASKS`.

    Raises:
        InputError: no such folder, not a run's, or a run of another task.
    """
    folder = pathlib.Path(folder)
    path = folder / MANIFEST
    if not folder.is_dir():
        raise InputError(f"{flag}{folder}: no such folder")
    try:
        manifest = yaml.safe_load(path.read_text())
        task = manifest.get("task", configuration.CLASSIFICATION)
        if task not in tasks:
            raise InputError(f"{flag}{folder}: a run of {task}, not of {' or '.join(tasks)}")
        config_type = configuration.TASKS[task].config_type
        return Run(folder, manifest, configuration.from_settings(config_type, manifest["flags"], path, recorded=True))
    except FileNotFoundError:
        raise InputError(f"{flag}{folder}: not a run's folder, it has no {MANIFEST}") from None
    except (yaml.YAMLError, TypeError, KeyError, AttributeError, UnicodeDecodeError):
        raise InputError(f"{path}: damaged manifest") from None


def check_folder(folder, config):
    """Whether a run's folder exists and belongs to these flags; nothing is written.

    Returns:
        True where a run with the same flags is there, False where nothing is.

    Raises:
        InputError: it belongs to a run of other flags (says which), or is something else.
    """
    folder = pathlib.Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise InputError(f"--out={folder}: a file, not a folder")
    if not (folder / MANIFEST).exists():
        raise InputError(f"--out={folder}: not empty and not a run's folder; choose another")
    ours, theirs = _plain(config), _plain(open_run(folder, "--out=", (config.task,)).config)
    fields = configuration.fields_of(type(config))
    differing = [
        f"--{name}={theirs[name]!r} there, {ours[name]!r} here"
        for name in ours
        if fields[name].metadata["changes_result"]
        and ours[name] != theirs[name]
        # Images of these sets have no tags, so that a run from before the flag goes on as it is.
        and not (name == "exif" and config.data.dataset in configuration.SMALL_DATASETS)
    ]
    if differing:
        raise InputError(f"--out={folder}: a run of other flags: {'; '.join(differing)}")
    return True


def _plain(config):
    """Settings as YAML holds them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in configuration.settings_of(config).items()
    }


def create(folder, config, source, model_summary):
    """Make a run's folder with its manifest.

    Args:
        folder: path; made with its parents.
        config: a `TrainConfig`.
        source: the `sources.Source` that was loaded.
        model_summary: plain facts of the model for the manifest.
    """
    folder = pathlib.Path(folder)
    manifest = {
        "command": command(),
        "commit": commit(),
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "hardware": devices.hardware(),
        "versions": versions(),
        "model": model_summary,
        "data": {
            "examples": {name: len(split) for name, split in source.splits.items()},
            "checksum": source.checksum(),
        },
        "classes": list(source.classes),
        "task": config.task,
        "flags": _plain(config),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--out={folder}: a file is in the way") from None
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    files.replace_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))
    return Run(folder, manifest, config)


# --- Metrics ---------------------------------------------------------------------------------------------------------


def read_metrics(path):
    """Rows of a metrics.csv: [{column: number, or "" where there is none}]; [] where there is no file."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name, value in row.items():  # runs of earlier versions, and of other tasks, have other columns
            if name != "split" and value:
                row[name] = int(row[name]) if name == "step" else float(row[name])
    return rows
