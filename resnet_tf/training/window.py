"""The steps since the last row of metrics: their sums, their time, and the check that they are numbers."""

import time

import numpy as np

from resnet_tf.training.debug import NotFinite
from resnet_tf.training.step import METRICS

_CALL_SECONDS = 2.0  # that one call takes at most, so that a signal is heard in time
_FIRST_STEPS = 8  # of a call, until it is known how long one takes
_COLUMN = {name: index for index, name in enumerate(METRICS)}
_MEANS = ("loss", "top1", "top5", "gradient_norm")


class Window:
    """Adds up what calls measured, and writes a row every `log_every` steps and at the end."""

    def __init__(self, recorder, config, batch_size, steps_per_epoch, total, mfu_of_rate, streamed=False):
        """Start empty.

        Args:
            recorder: a `record.Recorder`.
            config: a `TrainConfig`.
            batch_size: global.
            steps_per_epoch: float.
            total: steps of the run.
            mfu_of_rate: what of the cards' peak one image a second takes; None where that is not known.
            streamed: whether images are decoded as they come, so that rows say how long steps waited for them.
        """
        self._recorder, self._config, self._streamed = recorder, config, streamed
        self._batch_size, self._steps_per_epoch, self._total = batch_size, steps_per_epoch, total
        self._mfu_of_rate = mfu_of_rate
        self._sums, self._count, self._finite_norms = np.zeros(len(METRICS)), 0, 0
        self._errors = np.zeros(2)  # sum of training errors and steps since the last evaluation
        self._last_rate, self._last_scale = 0.0, 1.0
        self._clear_times()
        self._compiled = False
        self._timed_steps, self._timed_seconds = 0, 0.0
        # Steps a second of the last call. Not of all: where others compile or train on the device, the first ones may
        # take a hundred times as long, and calls that are short for that are slow themselves.
        self._pace = 0.0

    # --- What a checkpoint keeps of it: sums, not times ---------------------------------------------------------------

    def get_state(self):
        """{name: array} of the row that is not full yet."""
        return {
            "window/sums": self._sums, "window/counts": np.array([self._count, self._finite_norms], np.int64),
            "window/errors": self._errors, "window/last": np.array([self._last_rate, self._last_scale]),
        }  # fmt: skip

    def set_state(self, values):
        """Take it from a checkpoint; None or one without a window leaves it empty."""
        if values is None or "window/sums" not in values:
            return
        self._sums, self._errors = values["window/sums"].copy(), values["window/errors"].copy()
        self._count, self._finite_norms = (int(count) for count in values["window/counts"])
        self._last_rate, self._last_scale = (float(value) for value in values["window/last"])

    # --- Time ---------------------------------------------------------------------------------------------------------

    @property
    def images_per_second(self):
        """Rate over all calls but the first, which compiles; evaluations and checkpoints apart."""
        return round(self._timed_steps * self._batch_size / self._timed_seconds, 1) if self._timed_seconds else 0.0

    def steps_ahead(self):
        """How many steps a call may have so that it takes no longer than a person or a scheduler would wait."""
        return max(1, int(_CALL_SECONDS * self._pace)) if self._pace else _FIRST_STEPS

    # --- Sums ---------------------------------------------------------------------------------------------------------

    def collect(self, steps, first_step, begun):
        """Wait for a call into the compiled program and add what it measured.

        Nothing is gained by a call more ahead of the device: a call returns when all but its last steps are done.

        Args:
            steps: a `feed.Steps`.
            first_step: steps done before the call.
            begun: when, by `time.monotonic`.

        Raises:
            NotFinite: a step failed.
        """
        values = steps.numpy().astype(np.float64)
        count, seconds = len(values), time.monotonic() - begun
        if self._compiled:
            self._timed_steps, self._timed_seconds = self._timed_steps + count, self._timed_seconds + seconds
            self._pace = count / max(seconds, 1e-6)
        self._compiled = True
        failed = self._first_failure(values)
        each, waited = seconds / count, steps.waited / count
        # One by one: a resumed run adds in the same order.
        for step, row in enumerate(values[:failed], start=first_step + 1):
            norm = row[_COLUMN["gradient_norm"]]
            self._finite_norms += int(np.isfinite(norm))
            self._sums += np.where(np.isfinite(row), row, 0.0)
            self._errors += (1 - row[_COLUMN["top1"]], 1)
            self._last_rate, self._last_scale = row[_COLUMN["lr"]], row[_COLUMN["loss_scale"]]
            self._count, self._timed_here = self._count + 1, self._timed_here + 1
            self._seconds, self._waited = self._seconds + each, self._waited + waited
            if step % self._config.record.log_every == 0 or step == self._total:
                self._write(step)
        if failed is not None:
            raise NotFinite(first_step + failed + 1, values[failed][_COLUMN["loss"]])
        pace = self.images_per_second or count * self._batch_size / seconds
        loss, top1 = (values[:, _COLUMN[name]].mean() for name in ("loss", "top1"))
        self._recorder.progress(step, loss, top1, pace, (self._total - step) * self._batch_size / pace)

    def error_since_evaluation(self):
        """Mean top-1 error of the training batches since it was last asked for."""
        total, count = self._errors
        self._errors = np.zeros(2)
        return float(total / max(1, count))

    def _write(self, step):
        means = {name: self._sums[_COLUMN[name]] / self._count for name in _MEANS}
        means["gradient_norm"] = self._sums[_COLUMN["gradient_norm"]] / max(1, self._finite_norms)
        if self._config.device.precision == "float16":
            means |= {"loss_scale": self._last_scale, "skipped": self._sums[_COLUMN["skipped"]]}
        rate = self._timed_here * self._batch_size / self._seconds if self._seconds else 0.0
        if self._mfu_of_rate:
            means["mfu"] = rate * self._mfu_of_rate
        if self._streamed:
            means["data_wait"] = self._waited / self._seconds if self._seconds else 0.0
        self._recorder.write(
            step, step / self._steps_per_epoch, "train", lr=self._last_rate, images_per_second=rate, **means
        )
        self._sums, self._count, self._finite_norms = np.zeros(len(METRICS)), 0, 0
        self._clear_times()

    def _clear_times(self):
        # Steps of the row that this process has run; those before a resume count for the means, not for the rate.
        self._timed_here, self._seconds, self._waited = 0, 0.0, 0.0

    def _first_failure(self, values):
        """Index of the first step whose numbers failed; None where there is none."""
        failed = ~np.isfinite(values[:, _COLUMN["loss"]])
        if self._config.device.precision != "float16":  # where the loss scale answers for the gradient
            failed |= ~np.isfinite(values[:, _COLUMN["gradient_norm"]])
        return int(np.flatnonzero(failed)[0]) if failed.any() else None
