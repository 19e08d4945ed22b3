"""The records of a run: folder, manifest, metrics.csv, and rows of results files with their provenance."""

import csv
import dataclasses
import datetime
import io
import json
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


def results_columns(task: str) -> tuple[str, ...]:
    """Return the columns of a results file for trainings and scores of a task."""
    described = ("model", "recipe", "dataset", "steps", "epochs", "examples")
    return (*RESULT_COLUMNS, *described, *configuration.TASKS[task].columns)


def metrics_columns(task: str) -> tuple[str, ...]:
    """Return the columns of metrics.csv of a task."""
    return tuple(dict.fromkeys((*METRICS_COLUMNS, *configuration.TASKS[task].columns)))


ACCURACY_COLUMNS = results_columns(configuration.CLASSIFICATION)
SPEED_COLUMNS = (
    *RESULT_COLUMNS, "benchmark", "model", "batch", "precision", "strategy", "system", "images_per_second", "ratio"
)  # fmt: skip
INFERENCE_COLUMNS = (
    *RESULT_COLUMNS, "benchmark", "model", "batch", "precision", "format", "system", "p50_ms", "p95_ms", "p99_ms",
    "images_per_second", "ratio", "load_seconds", "first_seconds",
)  # fmt: skip
MANIFEST = "manifest.yaml"
LENGTHS = ("train_epochs", "train_steps")  # flags that --extend may raise
_log = logging.getLogger(__name__)


# --- Provenance of results -------------------------------------------------------------------------------------------


def provenance(seed: int, wall_seconds: float) -> dict:
    """Return the columns that all results files share, {column: value}."""
    return {
        "date": _now(),
        "commit": commit(),
        "command": command(),
        "hardware": devices.hardware(),
        "versions": versions(),
        "seed": seed,
        "wall_seconds": round(wall_seconds, 1),
    }


def _now():
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def commit() -> str:
    """Return the commit of the source, plus "-dirty" if files differ; or $RESNET_TF_COMMIT, for copies without git."""
    if os.environ.get("RESNET_TF_COMMIT"):
        return os.environ["RESNET_TF_COMMIT"]
    package = pathlib.Path(__file__).parent.parent

    def git(*arguments):
        line = ["git", "-C", package, *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        name = git("rev-parse", "--short=12", "HEAD")
        return name + ("-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def command() -> str:
    """Return the command line of this process, after $XLA_FLAGS without the path of CUDA."""
    main = sys.modules["__main__"]
    module = getattr(getattr(main, "__spec__", None), "name", None)
    program = ["python", "-m", module] if module else [os.path.basename(sys.argv[0])]
    xla = " ".join(flag for flag in os.environ.get("XLA_FLAGS", "").split() if "cuda_data_dir" not in flag)
    return (f"XLA_FLAGS={shlex.quote(xla)} " if xla else "") + shlex.join([*program, *sys.argv[1:]])


def versions() -> str:
    """Return the versions of Python, TensorFlow, Keras and this package."""
    import keras
    import tensorflow as tf

    import resnet_tf

    ours = f"resnet_tf {resnet_tf.__version__}"
    return f"python {platform.python_version()}; tensorflow {tf.__version__}; keras {keras.__version__}; {ours}"


def append_result(path, columns: tuple[str, ...], row: dict | None) -> None:
    """Append a row to a results file; write the header first if the file is new.

    Args:
        path: CSV file.
        columns: columns in order.
        row: {column: value} of all columns; None to write only the header, before several processes append rows.

    Raises:
        InputError: the file has other columns.
        OSError: the file cannot be written.
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
            file.write(text.getvalue())  # one write, so that rows of several processes do not mix
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def check_results(path, columns: tuple[str, ...]) -> None:
    """Refuse an existing results file with other columns, before the work starts.

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


@dataclasses.dataclass
class Run:
    """A run folder. Use `create` or `open_run` to make one.

    Attributes:
        folder: path of the folder.
        manifest: content of manifest.yaml.
        config: configuration of the run, of the type of its task.
    """

    folder: pathlib.Path
    manifest: dict
    config: object

    @property
    def checkpoints(self):
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def finished(self):
        """Whether the run has an evaluation.json; see `finish`."""
        return (self.folder / "evaluation.json").exists()

    @property
    def ended(self) -> dict:
        """{"step", "reason"} of a training that ended before its last step; {} of another one."""
        try:
            return json.loads((self.folder / "ended.json").read_text())
        except (OSError, ValueError):
            return {}

    def end(self, step: int, reason: str) -> None:
        """Write ended.json: where and why the training ended early."""
        files.write_json(self.folder / "ended.json", {"step": step, "reason": reason})

    def finish(self, evaluation: dict) -> None:
        """Write evaluation.json: the metrics, the command and the commit."""
        files.write_json(self.folder / "evaluation.json", evaluation | {"command": command(), "commit": commit()})


def open_run(folder, flag: str = "--run=", tasks: tuple[str, ...] = (configuration.CLASSIFICATION,)) -> Run:
    """Open an existing run.

    Args:
        folder: run folder.
        flag: prefix of the folder in errors; "" if it was given without a flag.
        tasks: allowed tasks of the run, keys of `config.TASKS`.

    Raises:
        InputError: no such folder, not a run folder, or a run of another task.
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


def check_folder(folder, config) -> bool:
    """Check, without writing, that a run of a configuration may use a folder.

    Returns:
        True if the folder has a run with the same flags, False if it is missing or empty.

    Raises:
        InputError: the folder has a run with other flags, or is not a run folder.
    """
    folder = pathlib.Path(folder)
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    if not folder.is_dir():
        raise InputError(f"--out={folder}: a file, not a folder")
    if not (folder / MANIFEST).exists():
        raise InputError(f"--out={folder}: not empty and not a run's folder; choose another")
    ours, theirs = plain(config), plain(open_run(folder, "--out=", (config.task,)).config)
    fields = configuration.fields_of(type(config))
    differing = [
        f"--{name}={theirs[name]!r} there, {ours[name]!r} here"
        for name in ours
        if fields[name].metadata["changes_result"]
        and ours[name] != theirs[name]
        # Images of these sets have no EXIF tags, so runs recorded before the flag can resume.
        and not (name == "exif" and config.data.dataset in configuration.SMALL_DATASETS)
        and not (name in LENGTHS and config.record.extend)
    ]
    if differing:
        is_length = all(line.startswith(tuple(f"--{name}=" for name in LENGTHS)) for line in differing)
        hint = "; --extend lengthens a run" if is_length else ""
        raise InputError(f"--out={folder}: a run of other flags: {'; '.join(differing)}{hint}")
    return True


def plain(config) -> dict:
    """Return the settings of a configuration as a manifest holds them, {flag: value}."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in configuration.settings_of(config).items()
    }


def create(folder, config, source, model_summary: dict, chosen: dict[str, str] | None = None) -> Run:
    """Create a run folder with its manifest.

    Args:
        folder: path of the folder; created with its parents.
        config: configuration of the run.
        source: the loaded `splits.Source`.
        model_summary: facts about the model for the manifest.
        chosen: what was chosen for the user, {flag: value and reason}.

    Raises:
        InputError: the path is a file.
    """
    folder = pathlib.Path(folder)
    manifest = {
        "command": command(),
        "commit": commit(),
        "created": _now(),
        "hardware": devices.hardware(),
        "versions": versions(),
        "model": model_summary,
        "data": {
            "examples": {name: len(one) for name, one in source.splits.items()},
            "checksum": source.checksum(),
            **({"labels": source.relabelled} if source.relabelled else {}),
        },
        "classes": list(source.classes),
        "task": config.task,
        **({"chosen": chosen} if chosen else {}),
        "flags": plain(config),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--out={folder}: a file is in the way") from None
    return _write(folder, manifest, config)


def lengthen(run: Run, config, note: str) -> Run:
    """Record that a run goes on to another length: its new flags, and a note under "extended"."""
    manifest = run.manifest | {"extended": [*run.manifest.get("extended", ()), note]}
    flags = manifest.pop("flags")  # the last entry
    return _write(run.folder, manifest | {"flags": flags | {name: plain(config)[name] for name in LENGTHS}}, config)


def _write(folder, manifest, config):
    text = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True)
    files.replace_atomically(folder / MANIFEST, lambda file: file.write(text.encode()))
    return Run(folder, manifest, config)


# --- Metrics ---------------------------------------------------------------------------------------------------------


def read_metrics(path) -> list[dict]:
    """Read metrics.csv: a {column: number, or "" for an empty cell} for each row; [] if there is no file."""
    path = pathlib.Path(path)
    if not path.exists():
        return []
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        for name, value in row.items():  # columns vary with the task and the release
            if name != "split" and value:
                row[name] = int(row[name]) if name == "step" else float(row[name])
    return rows
