"""Sums of the metrics since the last row of metrics.csv, and the time that the steps took."""

import time

import numpy as np

from resnet_tf.training.debug import NotFinite
from resnet_tf.training.step import METRICS

_CALL_SECONDS = 2.0  # longest time of one call, so that the run notices signals soon
_FIRST_STEPS = 8  # steps of a call until the time of a step is known
_COLUMN = {name: index for index, name in enumerate(METRICS)}
_MEANS = ("loss", "top1", "top5", "gradient_norm")


class Window:
    """Adds up the metrics of steps, writes a row every `log_every` steps and at the end, and checks for NaN."""

    def __init__(self, recorder, plan):
        """Start empty.

        Args:
            recorder: a `recorder.Recorder`.
            plan: a `session.Plan`.
        """
        self._recorder, self._plan = recorder, plan
        self._sums, self._count, self._finite_norms = np.zeros(len(METRICS)), 0, 0
        self._errors = np.zeros(2)  # sum of training errors and steps since the last evaluation
        self._last_lr, self._last_scale = 0.0, 1.0
        self._clear_times()
        self._compiled = False
        self._timed_steps, self._timed_seconds = 0, 0.0
        # Steps a second of the last call. Not the mean of all calls: while other trainings compile on the device, the
        # first calls may take a hundred times as long, and short calls are slow themselves.
        self._pace = 0.0

    # --- What a checkpoint keeps: sums, not times ---------------------------------------------------------------------

    def get_state(self) -> dict[str, np.ndarray]:
        """Return {name: array} of the row that is not full yet."""
        return {
            "window/sums": self._sums, "window/counts": np.array([self._count, self._finite_norms], np.int64),
            "window/errors": self._errors, "window/last": np.array([self._last_lr, self._last_scale]),
        }  # fmt: skip

    def set_state(self, values: dict | None) -> None:
        """Take the sums from a checkpoint; None, or a checkpoint without them, leaves the window empty."""
        if values is None or "window/sums" not in values:
            return
        self._sums, self._errors = values["window/sums"].copy(), values["window/errors"].copy()
        self._count, self._finite_norms = (int(count) for count in values["window/counts"])
        self._last_lr, self._last_scale = (float(value) for value in values["window/last"])

    # --- Time ---------------------------------------------------------------------------------------------------------

    @property
    def images_per_second(self) -> float:
        """Images a second over all calls but the first, which compiles; without evaluations and checkpoints."""
        return round(self._timed_steps * self._plan.batch_size / self._timed_seconds, 1) if self._timed_seconds else 0.0

    def steps_ahead(self) -> int:
        """Return how many steps the next call may have, so that it ends before a person would grow impatient."""
        return max(1, int(_CALL_SECONDS * self._pace)) if self._pace else _FIRST_STEPS

    # --- Sums ---------------------------------------------------------------------------------------------------------

    def collect(self, steps, first_step: int, begun: float) -> None:
        """Wait for a call into the compiled program and add its metrics.

        Calling the program once more before waiting would gain nothing: a call returns when all but its last steps are
        done.

        Args:
            steps: an `engine.Steps`.
            first_step: steps done before the call.
            begun: `time.monotonic` at the start of the call.

        Raises:
            NotFinite: the loss, or without a loss scale the gradient, of a step is not finite.
        """
        values = steps.numpy().astype(np.float64)
        count, seconds = len(values), time.monotonic() - begun
        if self._compiled:
            self._timed_steps, self._timed_seconds = self._timed_steps + count, self._timed_seconds + seconds
            self._pace = count / max(seconds, 1e-6)
        self._compiled = True
        failed = self._first_not_finite(values)
        each, waited = seconds / count, steps.waited / count
        # One by one: a resumed run adds in the same order.
        for step, row in enumerate(values[:failed], start=first_step + 1):
            norm = row[_COLUMN["gradient_norm"]]
            self._finite_norms += int(np.isfinite(norm))
            self._sums += np.where(np.isfinite(row), row, 0.0)
            self._errors += (1 - row[_COLUMN["top1"]], 1)
            self._last_lr, self._last_scale = row[_COLUMN["lr"]], row[_COLUMN["loss_scale"]]
            self._count, self._timed_here = self._count + 1, self._timed_here + 1
            self._seconds, self._waited = self._seconds + each, self._waited + waited
            if step % self._plan.log_every == 0 or step == self._plan.total:
                self._write(step)
        if failed is not None:
            raise NotFinite(first_step + failed + 1, values[failed][_COLUMN["loss"]])
        pace = self.images_per_second or count * self._plan.batch_size / seconds
        loss, top1 = (values[:, _COLUMN[name]].mean() for name in ("loss", "top1"))
        self._recorder.progress(step, loss, top1, pace, (self._plan.total - step) * self._plan.batch_size / pace)

    def error_since_evaluation(self) -> float:
        """Return the mean top-1 error of the training batches since the last call of this function."""
        total, count = self._errors
        self._errors = np.zeros(2)
        return float(total / max(1, count))

    def _write(self, step):
        means = {name: self._sums[_COLUMN[name]] / self._count for name in _MEANS}
        means["gradient_norm"] = self._sums[_COLUMN["gradient_norm"]] / max(1, self._finite_norms)
        if self._plan.is_scaled:
            means |= {"loss_scale": self._last_scale, "skipped": self._sums[_COLUMN["skipped"]]}
        speed = self._timed_here * self._plan.batch_size / self._seconds if self._seconds else 0.0
        if self._plan.mfu_of_rate:
            means["mfu"] = speed * self._plan.mfu_of_rate
        if self._plan.is_streamed:
            means["data_wait"] = self._waited / self._seconds if self._seconds else 0.0
        self._recorder.write(
            step,
            step / self._plan.steps_per_epoch,
            "train",
            lr=self._last_lr,
            images_per_second=speed,
            **means,
        )
        self._sums, self._count, self._finite_norms = np.zeros(len(METRICS)), 0, 0
        self._clear_times()

    def _clear_times(self):
        # Steps of the row that this process has run. Steps before a resume count for the means, not for the speed.
        self._timed_here, self._seconds, self._waited = 0, 0.0, 0.0

    def _first_not_finite(self, values):
        """Return the index of the first step whose numbers are not finite, or None."""
        failed = ~np.isfinite(values[:, _COLUMN["loss"]])
        if not self._plan.is_scaled:
            failed |= ~np.isfinite(values[:, _COLUMN["gradient_norm"]])
        return int(np.flatnonzero(failed)[0]) if failed.any() else None
