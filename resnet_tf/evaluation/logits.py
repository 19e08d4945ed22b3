"""Logits of a split, every example once: by one view of each image, by ten crops, or at several scales."""

import functools

import numpy as np
import tensorflow as tf

from resnet_tf.config import evaluation_size
from resnet_tf.data import batches, geometry
from resnet_tf.data.splits import Split
from resnet_tf.runs import run_data

_EVALUATION_BATCH, _LARGE_BATCH = 500, 64  # of small images and views, and of large ones
_HELD_BATCHES = 8  # of images on the device that are answered for in one call
_TEN = 10


class SplitLogits:
    """Answers for a split, every example once."""

    def __init__(self, runner, data, split, batch=0, views="center", average="softmax", threads=0, scales=()):
        """Put the data in place.

        Args:
            runner: a `runner.Runner`.
            data: the `DataConfig` of the run.
            split: a `Split` or an `Examples`.
            batch: examples at a time over all replicas, rounded up to a multiple of their number; 0 to choose.
            views: "center", "ten_crop" or "multi_scale"; a `Split` in memory has but its one. The last is He et al.
                2015, section 4.1: fully convolutional on the whole image at several scales, and mirrored as in the
                work that they follow (Simonyan and Zisserman 2014); images of many sizes, so one a replica at a time.
            average: over views: "softmax" (He et al. 2015) or "logits".
            threads: that decode; 0 for one for each core.
            scales: of multi_scale, shorter sides in pixels. The runner's model must take any size.
        """
        self._runner, self._split = runner, split
        size, resize, replicas = evaluation_size(data), data.resize, runner.local_replicas
        views_of_image = _TEN if views == "ten_crop" else 1
        large = max(1, _LARGE_BATCH // views_of_image)
        batch = batch or (_EVALUATION_BATCH if isinstance(split, Split) or size <= 64 else large)
        self._batch = -(-batch // replicas) * replicas
        self._threads = threads
        self._average = average
        self._streams = {}  # of each view, made when it is first asked for
        self._views = {
            "center": [lambda data, box: geometry.center(data, size, resize, box)[None]],
            "ten_crop": [lambda data, box: geometry.ten_crop(data, size, resize, box)],
            "multi_scale": [functools.partial(_whole_and_mirrored, scale=scale) for scale in scales],
        }[views]
        if views == "multi_scale":
            self._batch = replicas
        self._data = self._placed(split) if isinstance(split, Split) else None

    def _placed(self, split):
        """Images on the devices, in parts between which one may look up, all of one shape so that they compile once."""
        part = min(-(-len(split) // self._batch), _HELD_BATCHES) * self._batch
        parts = [split.images[start : start + part] for start in range(0, len(split), part)]
        parts[-1] = np.resize(parts[-1], (part, *split.images.shape[1:]))
        return [self._runner.place(images) for images in parts]

    @property
    def checks(self):
        """How often `logits` calls its `check`."""
        return len(self._data) if self._data is not None else len(self._views) * -(-len(self._split) // self._batch)

    def logits(self, ema=False, check=lambda: None):
        """Answer for the whole split.

        Args:
            ema: by the averaged weights.
            check: called between batches; what it raises ends the evaluation.

        Returns:
            float32 [n, classes], NumPy; averaged over views, as logarithms where softmax was averaged.
        """
        if self._data is not None:
            parts = []
            for placed in self._data:
                parts.append(self._runner.predict(placed, self._batch, ema))
                check()
            return np.concatenate(parts)[: len(self._split)]
        total = self._logits_of(0, ema, check)
        if len(self._views) == 1:
            return total
        # Each is averaged with its mirror image already. Added as they come: all together are 1 GB for ImageNet.
        softmax = self._average == "softmax"
        for number in range(1, len(self._views)):
            logits = self._logits_of(number, ema, check)
            total = np.logaddexp(total, logits) if softmax else total + logits
        count = np.float32(len(self._views))
        return total - np.log(count) if softmax else total / count

    def _streams_of(self, number):
        if number in self._streams:
            return self._streams[number]
        view = self._views[number]
        replicas = self._runner.local_replicas  # each machine answers for the whole

        def part(replica):
            return batches.testing(
                self._split, view, batch=self._batch, threads=self._threads, replica=replica, replicas=replicas
            )

        self._streams[number] = self._runner.streams(part)
        return self._streams[number]

    def _logits_of(self, number, ema, check):
        iterators = [iter(dataset) for dataset in self._streams_of(number)]
        count = -(-len(self._split) // self._batch)
        with run_data.named_errors(self._split):
            parts = []
            for answers in self._runner.predict_stream(iterators, count, COMBINE[self._average], ema):
                parts.append(answers)
                check()
        return np.concatenate(parts)[: len(self._split)]


def _whole_and_mirrored(data, box, scale):
    whole = geometry.scaled_whole(data, scale, box)
    return tf.stack([whole, tf.reverse(whole, [1])])


def _mean_softmax(logits):
    if logits.shape[1] == 1:
        return logits[:, 0]
    likelihoods = tf.nn.log_softmax(logits)
    return tf.reduce_logsumexp(likelihoods, axis=1) - tf.math.log(float(logits.shape[1]))


COMBINE = {"softmax": _mean_softmax, "logits": lambda logits: tf.reduce_mean(logits, axis=1)}
