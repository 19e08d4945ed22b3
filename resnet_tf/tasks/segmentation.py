"""Segmentation: pixels that have a class each."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from resnet_tf.config import GIVEN
from resnet_tf.data import annotated_views, batches, census, masks, segmentation
from resnet_tf.evaluation import pictures
from resnet_tf.runs import describe, network, run_data
from resnet_tf.tasks import heads
from resnet_tf.tasks import segmentation_metrics as metrics
from resnet_tf.tasks import segmentation_pictures as drawn
from resnet_tf.tasks.task import Task
from resnet_tf.training import losses, smoke

CLASSES_FILE = "classes.csv"
MULTIPLE = 32  # what the sides of whole images are filled up to: few shapes, and no stride that leaves a rest
_SMOKE_SIZE = 16

_log = logging.getLogger(__name__)


class Segmentation(Task):
    """Pixels that have a class each, by a `config.SegmentConfig`; see `task.Task` for what each part is."""

    name = "segmentation"

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke."""
        data = dataclasses.replace(config.data, image_size=_SMOKE_SIZE)
        if not data.data_dir and data.dataset != GIVEN:
            data = dataclasses.replace(data, dataset="synthetic", classes=(), mask_values=())
        head = config.head
        if head.output_stride == 8:  # a CPU takes five times as long for the gradients of that many dilated layers
            head = dataclasses.replace(head, output_stride=16)
        return dataclasses.replace(config, data=data, head=head, **smoke.shrunk_parts(config))

    def load(self):
        """Read the index of examples with masks; nothing is left out."""
        data = self.config.data
        run_data.refuse_given(data)
        source = segmentation.index(data.dataset, data.data_dir, data.classes, data.mask_values, data.exif)
        _log.info("%s", source)
        return source, []

    def check(self, source):
        """Look at training masks; see `census.check`."""
        census.check(source.splits["train"], source.classes)

    def build(self, classes, replicas=1):
        """Build an FCN or a DeepLabV3+."""
        return build(self.config, classes, replicas)

    def loss(self, classes):
        """Return a `PixelLoss`."""
        return PixelLoss(classes, self.config.head.auxiliary)

    def view(self, normalization):
        """Return a `annotated_views.MaskedView`."""
        views = self.config.views
        return annotated_views.MaskedView(
            self.config.data.image_size, views.scale, views.mirror, fill_of(normalization)
        )

    def evaluation(self, runner, split, normalization):
        """Return an `Evaluation`."""
        return Evaluation(runner, split, normalization, self.config.views.threads)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "miou", "pixel_accuracy"}, and the confusion matrix; `look` is told as answers come."""
        matrix = evaluation.confusion(ema, check, look or (lambda example, truth, predicted: None))
        return {"examples": len(split), **metrics.figures(matrix)}, matrix

    def keep(self, folder, split, classes, answers):
        """Write classes.csv: the figures of each class."""
        write_classes(folder / CLASSES_FILE, classes, answers)

    def describe(self):
        """Return the recipe in a few words."""
        options = {"crop": self.config.data.image_size, "auxiliary": self.config.head.auxiliary}
        return describe.in_words(self.config, options)

    def pictures(self, split, classes, answers, shown):
        """Return images with their masks, and a bar for the IoU of each class."""
        return {
            "masks.png": drawn.gallery(shown, classes),
            "iou.png": drawn.bars(metrics.per_class(answers), classes),
        }

    def served(self, model, normalization, classes):
        """Return functions from pixels to masks; see `serving`."""
        fill = fill_of(normalization)

        def segment(pixels):
            shape = tf.shape(pixels)[1:3]
            missing = -shape % MULTIPLE
            filled = annotated_views.filled(pixels, [[0, missing[0]], [0, missing[1]]], fill)
            logits = tf.nest.flatten(model(normalization(filled), training=False))[0]
            masks = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)
            return {"masks": masks[:, : shape[0], : shape[1]], "classes": tf.constant(classes)}

        return lambda pixels: segment(pixels[None]), segment


def build(config, classes, replicas=1):
    """The network that a `SegmentConfig` describes, for so many classes and images of any size."""
    head = config.head
    model = heads.create(
        config.model.model,
        classes,
        head=head.head,
        output_stride=head.output_stride,
        auxiliary=head.auxiliary > 0,
        dropout=head.dropout,
        **network.settings(config.model, config.device.precision, replicas, config.optimizer.seed),
    )
    network.freeze(model, config.model)
    return model


def fill_of(normalization):
    """The colour that stands where there is no image: the mean, three integers."""
    return tuple(int(value) for value in np.round(normalization.mean))


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """Softmax cross-entropy of each pixel; see `losses.Loss` for what each part is.

    The mean over all pixels of a view, to which those that are void add nothing: as in GluonCV, so that a pixel weighs
    the same whatever else is in its view, and neither replicas nor accumulation change the gradient.

    Attributes:
        classes: how many; labels from there on are void.
        auxiliary: weight of the second answer's loss.
    """

    classes: int
    auxiliary: float = 0.0

    def targets(self, labels, classes):
        """Labels as they are."""
        return labels

    def __call__(self, outputs, targets, teacher=None):
        """The loss of each example.

        Args:
            outputs: float32 logits [n, height, width, classes]; or a list of these and the auxiliary ones.
            targets: uint8 [n, height, width].
            teacher: None.

        Returns:
            float32 [n], in nats.
        """
        counted, labels = self._counted(targets)
        total = 0.0
        for logits, weight in zip(tf.nest.flatten(outputs), (1.0, self.auxiliary), strict=False):
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            total += weight * tf.reduce_mean(losses * counted, axis=[1, 2])
        return total

    def metrics(self, outputs, labels):
        """Of each example the part of its pixels for which no other class, or fewer than five, score as high."""
        counted, labels = self._counted(labels)
        place = losses.rank(tf.nest.flatten(outputs)[0], labels)
        pixels = tf.maximum(tf.reduce_sum(counted, axis=[1, 2]), 1.0)
        return {
            name: tf.reduce_sum(counted * tf.cast(place < most, tf.float32), axis=[1, 2]) / pixels
            for name, most in (("top1", 2), ("top5", 6))
        }

    def _counted(self, labels):
        """1 where a pixel counts, else 0; and labels that are all of a class."""
        labels = tf.cast(labels, tf.int32)
        counted = labels < self.classes
        return tf.cast(counted, tf.float32), tf.where(counted, labels, 0)


class Evaluation:
    """Answers for whole images at their own size, every pixel once."""

    def __init__(self, runner, split, normalization, threads=0):
        """Put the data in place.

        Args:
            runner: a `runner.Runner`.
            split: an `Examples` with masks.
            normalization: a `colour.Normalization`.
            threads: that decode; 0 for one for each core.
        """
        self._runner, self._split, self._at_once = runner, split, runner.local_replicas
        fill = fill_of(normalization)

        def part(replica):  # images of many sizes, so one a replica at a time
            return batches.testing(
                split, lambda data, box: annotated_views.filled_whole(data, MULTIPLE, fill)[None],
                batch=self._at_once, threads=threads, replica=replica, replicas=self._at_once,
            )  # fmt: skip

        self._streams = runner.streams(part)

    def answers(self, ema=False, check=lambda: None):
        """Answer image by image.

        Args:
            ema: by the averaged weights.
            check: called after each batch; what it raises ends the evaluation.

        Yields:
            The position of an example; its labels and what was predicted, uint8 [H, W] both.

        Raises:
            InputError: an image or mask that cannot be read, or one of another size than the other.
        """
        count, split = len(self._split), self._split
        iterators = [iter(dataset) for dataset in self._streams]
        firsts = range(0, count, self._at_once)
        with run_data.named_errors(split):
            found = self._runner.predict_stream(iterators, len(firsts), labels_of, ema)
            for first, predicted in zip(firsts, found, strict=True):
                for example in range(first, first + self._at_once):
                    truth = split.masks.read(int(split.image[min(example, count - 1)]))  # the last batch is filled up
                    sides = [-(-side // MULTIPLE) * MULTIPLE for side in truth.shape]
                    one, predicted = np.split(predicted, [sides[0] * sides[1]])
                    if len(one) < sides[0] * sides[1]:
                        break
                    if example < count:
                        yield example, truth, one.reshape(sides)[: truth.shape[0], : truth.shape[1]]
                if len(predicted) or len(one) < sides[0] * sides[1]:
                    masks.verify(split)
                    raise AssertionError(f"{split.name(first)}: answers for other pixels than it has")
                check()

    def confusion(self, ema=False, check=lambda: None, look=lambda example, truth, predicted: None):
        """int64 [classes, classes] of the whole split; see `metrics.confusion`. `look` sees each answer as it comes."""
        classes = self._runner.model.outputs[0].shape[-1]
        total, counted = np.zeros((classes, classes), np.int64), 0
        for example, truth, predicted in self.answers(ema, check):
            look(example, truth, predicted)
            total += metrics.confusion(truth, predicted, classes)
            counted += int((truth != masks.VOID).sum())
        if total.sum() != counted:
            raise AssertionError(f"{total.sum()} of {counted} pixels were scored")
        return total


def labels_of(logits):
    """The class of each pixel: float32 [pixels, 1, classes] to uint8 [pixels]."""
    return tf.cast(tf.argmax(logits[:, 0], axis=-1), tf.uint8)


def write_classes(path, classes, matrix):
    """Write the figures of each class as CSV, whole or not at all; empty where there is none."""
    found, rows = metrics.per_class(matrix), []
    for number, name in enumerate(classes):
        figures = [found[column][number] for column in ("iou", "accuracy")]
        rows.append((name, found["pixels"][number], *("" if np.isnan(value) else f"{value:.6g}" for value in figures)))
    pictures.write_table(path, ("class", *found), rows)
