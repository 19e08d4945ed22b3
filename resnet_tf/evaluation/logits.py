"""Logits of a split, every example once, from one view of each image, ten crops or several scales."""

import functools
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from resnet_tf.config import evaluation_size
from resnet_tf.data import batches, geometry
from resnet_tf.data.splits import Split
from resnet_tf.runs import run_data

_SMALL_IMAGE_BATCH, _LARGE_IMAGE_BATCH = 500, 64  # default batch of images up to 64 pixels, and of larger ones
_KEPT_BYTES = 2**28
_BATCHES_PER_CALL = 8  # batches of images on the device that one call evaluates


class SplitLogits:
    """Evaluation of a split that can be repeated with changing weights."""

    def __init__(
        self, runner, data, split, batch: int = 0, views: str = "center", average: str = "softmax", threads: int = 0,
        scales: Sequence[int] = (), keep: bool = False,
    ):  # fmt: skip
        """Copy images in memory to the devices; streams of other images are opened later.

        Args:
            runner: a `runner.Runner`.
            data: the `DataConfig` of the run.
            split: a `Split` or an `Examples`.
            batch: examples in a batch over all replicas, rounded up to a multiple of their number; 0 for a default.
            views: "center", "ten_crop" or "multi_scale"; ignored for a `Split` in memory, which has one view.
                "multi_scale" is He et al. 2015, section 4.1: fully convolutional on the whole image at several scales,
                and mirrored as in Simonyan and Zisserman 2014. Sizes differ, so each replica takes one image at a time.
            average: kind of the average over views, "softmax" (He et al. 2015) or "logits".
            threads: threads that decode; 0 for one for each core.
            scales: shorter sides in pixels for "multi_scale"; the runner's model must take any image size.
            keep: keep the decoded views on the devices, if they have at most 256 MiB, for splits that are evaluated
                again and again; only for "center".
        """
        self._runner, self._split = runner, split
        size, resize, replicas = evaluation_size(data), data.resize, runner.local_replicas
        way = data.interpolation
        views_of_image = 10 if views == "ten_crop" else 1
        large = max(1, _LARGE_IMAGE_BATCH // views_of_image)
        batch = batch or (_SMALL_IMAGE_BATCH if isinstance(split, Split) or size <= 64 else large)
        self._batch = -(-batch // replicas) * replicas
        self._threads = threads
        self._average = average
        self._streams = {}  # by index of the view, opened at first use
        self._views = {
            "center": [lambda data, box: geometry.center(data, size, resize, box, way)[None]],
            "ten_crop": [lambda data, box: geometry.ten_crop(data, size, resize, box, way)],
            "multi_scale": [functools.partial(_whole_and_mirrored, scale=scale, way=way) for scale in scales],
        }[views]
        if views == "multi_scale":
            self._batch = replicas
        self._is_kept = keep and views == "center" and len(split) * size * size * 3 <= _KEPT_BYTES
        self._data = self._place(split.images) if isinstance(split, Split) else None

    def _place(self, images):
        """Copy images to the devices in parts, one for each call, of one shape so that they are compiled once."""
        part = min(-(-len(images) // self._batch), _BATCHES_PER_CALL) * self._batch
        parts = [images[start : start + part] for start in range(0, len(images), part)]
        parts[-1] = np.resize(parts[-1], (part, *images.shape[1:]))
        return [self._runner.place(images) for images in parts]

    def _decoded(self):
        """Return the view of every example, uint8 [n, size, size, 3]."""
        see = self._views[0]
        stream = batches.testing(self._split, see, batch=self._batch, threads=self._threads)
        with run_data.named_errors(self._split):
            return np.concatenate([batch["pixels"][:, 0].numpy() for batch in stream])[: len(self._split)]

    @property
    def checks(self) -> int:
        """Number of times that `logits` calls its `check`."""
        return len(self._data) if self._data is not None else len(self._views) * -(-len(self._split) // self._batch)

    def logits(self, ema: bool = False, check: Callable = lambda: None) -> np.ndarray:
        """Return the logits of the whole split.

        Args:
            ema: whether to use the averaged weights.
            check: function that is called between batches; an exception of it ends the evaluation.

        Returns:
            float32 [n, classes], averaged over views; logarithms of probabilities if probabilities were averaged.
        """
        if self._data is None and self._is_kept:
            self._data = self._place(self._decoded())
        if self._data is not None:
            parts = []
            for placed in self._data:
                parts.append(self._runner.predict(placed, self._batch, ema))
                check()
            return np.concatenate(parts)[: len(self._split)]
        total = self._logits_of(0, ema, check)
        if len(self._views) == 1:
            return total
        # Each view is averaged with its mirror image already. Add them one by one: all views of ImageNet take 1 GB.
        softmax = self._average == "softmax"
        for number in range(1, len(self._views)):
            logits = self._logits_of(number, ema, check)
            total = np.logaddexp(total, logits) if softmax else total + logits
        count = np.float32(len(self._views))
        return total - np.log(count) if softmax else total / count

    def _streams_of(self, number):
        if number not in self._streams:
            view, replicas = self._views[number], self._runner.local_replicas  # each machine evaluates the whole split
            options = {"batch": self._batch, "threads": self._threads, "replicas": replicas}
            self._streams[number] = self._runner.streams(
                lambda replica: batches.testing(self._split, view, replica=replica, **options)
            )
        return self._streams[number]

    def _logits_of(self, number, ema, check):
        iterators = [iter(dataset) for dataset in self._streams_of(number)]
        count = -(-len(self._split) // self._batch)
        with run_data.named_errors(self._split):
            parts = []
            for logits in self._runner.predict_stream(iterators, count, COMBINE[self._average], ema):
                parts.append(logits)
                check()
        return np.concatenate(parts)[: len(self._split)]


def _whole_and_mirrored(data, box, scale, way):
    whole = geometry.scaled_whole(data, scale, box, way)
    return tf.stack([whole, tf.reverse(whole, [1])])


def _mean_softmax(logits):
    if logits.shape[1] == 1:
        return logits[:, 0]
    likelihoods = tf.nn.log_softmax(logits)
    return tf.reduce_logsumexp(likelihoods, axis=1) - tf.math.log(float(logits.shape[1]))


COMBINE = {"softmax": _mean_softmax, "logits": lambda logits: tf.reduce_mean(logits, axis=1)}
