"""What a training writes as it goes: metrics.csv, events for TensorBoard, progress on stderr, a profiler trace."""

import contextlib
import csv
import io
import pathlib
import sys
import time

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.data import progress
from resnet_tf.runs.record import METRICS_COLUMNS, read_metrics

_IMAGES = 16  # of the batch that TensorBoard shows


class Recorder:
    """Writes metrics.csv, TensorBoard scalars, and progress to stderr."""

    def __init__(self, run, total_steps, resumed_step, callbacks=(), columns=METRICS_COLUMNS):
        """Open the files and drop the rows after `resumed_step`, whose steps will run again."""
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
    def wall_seconds(self) -> float:
        """Seconds since the start of the run, including those before a resume."""
        return time.monotonic() - self._started

    def write(self, step: int, epoch: float, split: str, **values: float) -> None:
        """Write one row: metrics of a split at a step; for "train", means over the steps since its last row."""
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

    def histograms(self, step: int, engine) -> None:
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
        """Show progress on a line of the terminal that is overwritten; nothing if stderr is not a terminal."""
        if self._terminal:
            minutes, seconds = divmod(int(seconds_left), 60)
            line = (
                f"step {step}/{self._total}  loss {loss:.4f}  top-1 {top1:.4f}  "
                f"{images_per_second:,.0f} images/s  {minutes}:{seconds:02d} left"
            )
            progress.say(f"\r\x1b[2K{line}", end="")

    def message(self, text: str) -> None:
        """Write a line to stderr."""
        progress.say(f"\r\x1b[2K{text}" if self._terminal else text)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._file.close()
        for events in self._events.values():
            events.close()


class Silent:
    """The recorder of machines that do not write: it knows the rows of the file, and ignores all calls."""

    def __init__(self, run, resumed_step):
        self.rows = [row for row in read_metrics(run.folder / "metrics.csv") if row["step"] <= resumed_step]
        self._started = time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Seconds since this process began to train."""
        return time.monotonic() - self._started

    def __getattr__(self, name):
        return lambda *_, **__: None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


class Profile:
    """A profiler trace for TensorBoard's Profile tab, in which each step is a call with its own name."""

    def __init__(self, folder, steps):
        """Args: the run's folder; first and last step, counted from 1, or () for no trace."""
        self._folder = str(folder / "events" / "train")
        self._first, self._last = steps or (0, 0)
        self.running = False

    def steps_until_border(self, step: int) -> int:
        """Return how many steps the next call may have after `step` steps."""
        if not self._last or step >= self._last:
            return 1 << 30
        return 1 if step + 1 >= self._first else self._first - 1 - step

    @contextlib.contextmanager
    def step(self, step):
        """Trace the call within this context, which begins after `step` steps."""
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
