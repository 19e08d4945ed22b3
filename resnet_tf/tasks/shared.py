"""Parts that the segmentation and detection tasks share: smoke data, streamed evaluation, metrics and class tables."""

import dataclasses

import numpy as np
import tensorflow as tf

from resnet_tf.config import GIVEN
from resnet_tf.data import batches, colour
from resnet_tf.evaluation import pictures
from resnet_tf.runs import run_data
from resnet_tf.training import losses

CLASSES_FILE = "classes.csv"


def shrunk_data(data, size: int, **unset):
    """Return the data section of --smoke: views of `size` pixels; without data, synthetic and with `unset`."""
    data = dataclasses.replace(data, image_size=size)
    if data.data_dir or data.dataset == GIVEN:
        return data
    return dataclasses.replace(data, dataset="synthetic", classes=(), **unset)


def fill_of(normalization: colour.Normalization) -> tuple[int, ...]:
    """Return the mean colour, three integers, for padding images."""
    return tuple(int(value) for value in np.round(normalization.mean))


def top_k(logits, labels, counted) -> dict:
    """Return the top-1 and top-5 accuracy of each example, {"top1", "top5": float32 [n]}.

    Args:
        logits: float32 [n, ..., classes].
        labels: int32 [n, ...].
        counted: float32 [n, ...], 1 for a position that counts, else 0.
    """
    axes = list(range(1, counted.shape.rank))
    ranks = losses.rank(logits, labels)
    total = tf.maximum(tf.reduce_sum(counted, axes), 1.0)
    return {
        name: tf.reduce_sum(counted * tf.cast(ranks < limit, tf.float32), axes) / total
        for name, limit in (("top1", 2), ("top5", 6))
    }


class StreamedEvaluation:
    """A split that is decoded and predicted in batches, every image once."""

    def __init__(self, runner, split, see, batch: int, threads: int = 0):
        """Create the datasets.

        Args:
            runner: a `runner.Runner`.
            split: an `Examples`.
            see: function(encoded image, box) that returns the pixels, in a graph; see `batches.testing`.
            batch: images of a batch over all replicas of this machine.
            threads: decoding threads; 0 for one for each core.
        """
        self._runner, self._split, self._batch = runner, split, batch
        options = {"batch": batch, "threads": threads, "replicas": runner.local_replicas}
        self._streams = runner.streams(lambda replica: batches.testing(split, see, replica=replica, **options))

    def predictions(self, combine, ema: bool, check):
        """Yield the outputs of each batch; the last batch is padded. Call `check` after each one.

        For `combine` and `ema` see `Runner.predict_stream`.

        Raises:
            InputError: an image that cannot be read.
        """
        iterators = [iter(dataset) for dataset in self._streams]
        with run_data.named_errors(self._split):
            for outputs in self._runner.predict_stream(iterators, -(-len(self._split) // self._batch), combine, ema):
                yield outputs
                check()


def write_classes(path, classes: list[str], table: dict) -> None:
    """Write the metrics of each class as CSV.

    `table` is {column: array [classes]}: integers, then floats, whose NaN become empty cells.
    """
    counts, *metrics = table.values()
    cells = [["" if np.isnan(value) else f"{value:.6g}" for value in column] for column in metrics]
    pictures.write_table(path, ("class", *table), zip(classes, counts, *cells, strict=True))
