"""What a run leaves behind: its folder, manifest, metrics, TensorBoard events, and the progress line."""

import contextlib
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
import time

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
_IMAGES = 16  # of the batch that TensorBoard shows
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


# --- Metrics and progress --------------------------------------------------------------------------------------------


class Recorder:
    """Writes metrics.csv, TensorBoard scalars, and progress to stderr."""

    def __init__(self, run, total_steps, resumed_step, callbacks=(), columns=METRICS_COLUMNS):
        """Open the files; rows after the step that a run goes on from are dropped, since they will come again."""
        import tensorflow as tf

        self._tf, self._callbacks, self._columns = tf, callbacks, columns
        self._path = run.folder / "metrics.csv"
        self.rows = [row for row in read_metrics(self._path) if row["step"] <= resumed_step]
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        files.replace_atomically(self._path, lambda file: file.write(text.getvalue().encode()))
        self._file = open(self._path, "a", newline="")  # noqa: SIM115 (open for the length of the run)
        self._writer = csv.DictWriter(self._file, columns, lineterminator="\n")
        self._events = {}
        self._labels = {"loss": "loss", "top1": "top-1"}  # rows of training have these in every task
        self._labels |= {metric.column: metric.label for metric in configuration.TASKS[run.config.task].metrics}
        self._folder = run.folder
        self._total = total_steps
        self._terminal = sys.stderr.isatty()
        self._started = time.monotonic() - (self.rows[-1]["wall_seconds"] if self.rows else 0.0)

    @property
    def wall_seconds(self):
        """Seconds of the run, those before a resume included."""
        return time.monotonic() - self._started

    def write(self, step, epoch, split, **values):
        """Write one row: metrics of a split ("train": the steps since its row before) at a step."""
        row = dict.fromkeys(self._columns, "")
        row |= {"step": step, "epoch": round(epoch, 4), "wall_seconds": round(self.wall_seconds, 3), "split": split}
        row |= {name: float(f"{value:.6g}") for name, value in values.items()}
        self.rows.append(row)
        self._writer.writerow(row)
        self._file.flush()
        with self._writer_of(split).as_default(step):
            for name, value in values.items():
                self._tf.summary.scalar(name, value)
            if "top1" in values:
                self._tf.summary.scalar("error", 1 - values["top1"])
        self._events[split].flush()
        self._say(row)
        for callback in self._callbacks:
            callback.on_row(row)

    def _writer_of(self, split):
        if split not in self._events:
            self._events[split] = self._tf.summary.create_file_writer(str(self._folder / "events" / split))
        return self._events[split]

    def hyperparameters(self, config):
        """Write the flags for TensorBoard's HParams tab."""
        from tensorboard.plugins.hparams import api

        settings = {
            name: value if isinstance(value, (bool, int, float, str)) else ",".join(map(str, value))
            for name, value in configuration.settings_of(config).items()
        }
        with self._writer_of("train").as_default(0):
            api.hparams(settings)
        self._writer_of("train").flush()

    def images(self, engine, supply):
        """Write what the network is trained on in the first batch, some images of it."""
        batch = next(supply.peek(0, 1))[0]
        few = batch._make(values[:_IMAGES] for values in batch)
        pixels = self._tf.clip_by_value(engine.augment(few) / 255, 0, 1)
        with self._writer_of("train").as_default(0):
            self._tf.summary.image("views", pixels, max_outputs=_IMAGES)
        self._writer_of("train").flush()

    def histograms(self, step, engine):
        """Write histograms of all weights."""
        with self._writer_of("train").as_default(step):
            for name in engine.state.variables:
                if name.startswith("model/"):
                    self._tf.summary.histogram(name.removeprefix("model/"), engine.state.get(name))

    def _say(self, row):
        parts = [f"step {row['step']}/{self._total}", f"epoch {row['epoch']:.2f}", row["split"]]
        parts += [f"{label} {row[name]:.4f}" for name, label in self._labels.items() if label and row[name] != ""]
        if row["images_per_second"]:
            parts.append(f"lr {row['lr']:g}")
            parts.append(f"{row['images_per_second']:,.0f} images/s")
        self.message("  ".join(parts))

    def progress(self, step, loss, top1, images_per_second, seconds_left):
        """Show where the run is, on one line that is written over; nothing where stderr is a file."""
        if self._terminal:
            minutes, seconds = divmod(int(seconds_left), 60)
            line = (
                f"step {step}/{self._total}  loss {loss:.4f}  top-1 {top1:.4f}  "
                f"{images_per_second:,.0f} images/s  {minutes}:{seconds:02d} left"
            )
            print(f"\r\x1b[2K{line}", end="", file=sys.stderr, flush=True)

    def message(self, text):
        """A line of its own on stderr."""
        print(f"\r\x1b[2K{text}" if self._terminal else text, file=sys.stderr, flush=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        for events in self._events.values():
            events.close()


class Silent:
    """Stands for the recorder on machines that only help: it reads the rows and writes nothing."""

    def __init__(self, run, resumed_step):
        self.rows = [row for row in read_metrics(run.folder / "metrics.csv") if row["step"] <= resumed_step]
        self._started = time.monotonic()

    @property
    def wall_seconds(self):
        """Seconds since this process began to train."""
        return time.monotonic() - self._started

    def __getattr__(self, name):
        return lambda *_, **__: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Profile:
    """A profiler trace of some steps, for TensorBoard's Profile tab; each of them a call of its own, and named."""

    def __init__(self, folder, steps):
        """Args: the run's folder; first and last step, counted from 1, or () for no trace."""
        self._folder = str(folder / "events" / "train")
        self._first, self._last = steps or (0, 0)
        self.running = False

    def steps_until_border(self, step):
        """How many steps a call may have after `step` steps."""
        if not self._last or step >= self._last:
            return 1 << 30
        return 1 if step + 1 >= self._first else self._first - 1 - step

    @contextlib.contextmanager
    def step(self, step):
        """Around the call that begins after `step` steps."""
        import tensorflow as tf

        if not self._last or not self._first <= step + 1 <= self._last:
            yield
            return
        if not self.running:
            pathlib.Path(self._folder).mkdir(parents=True, exist_ok=True)
            tf.profiler.experimental.start(self._folder)
            self.running = True
        with tf.profiler.experimental.Trace("train", step_num=step + 1, _r=1):
            yield
            if step + 1 == self._last:
                tf.test.experimental.sync_devices()
        if step + 1 == self._last:
            tf.profiler.experimental.stop()
            self.running = False


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
