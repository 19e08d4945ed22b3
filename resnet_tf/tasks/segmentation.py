"""The task of semantic segmentation: a class for every pixel."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from resnet_tf.data import annotated_views, census, masks, segmentation
from resnet_tf.runs import describe, network, run_data
from resnet_tf.tasks import heads
from resnet_tf.tasks import segmentation_metrics as metrics
from resnet_tf.tasks import segmentation_pictures as drawn
from resnet_tf.tasks.shared import CLASSES_FILE, StreamedEvaluation, fill_of, shrunk_data, top_k, write_classes
from resnet_tf.tasks.task import Task
from resnet_tf.training import smoke

MULTIPLE = 32  # pad the sides of whole images to multiples: few shapes, and every stride divides them
_SMOKE_SIZE = 16

_log = logging.getLogger(__name__)


class Segmentation(Task):
    """The segmentation task of a `config.SegmentConfig`; `task.Task` documents the methods."""

    name = "segmentation"

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke."""
        data = shrunk_data(config.data, _SMOKE_SIZE, mask_values=())
        head = config.head
        if head.output_stride == 8:  # gradients of that many dilated layers take a CPU five times as long
            head = dataclasses.replace(head, output_stride=16)
        return dataclasses.replace(config, data=data, head=head, **smoke.shrunk_parts(config))

    def load(self):
        """Read the index of examples with masks; no example is skipped."""
        data = self.config.data
        run_data.refuse_given(data)
        source = segmentation.index(data.dataset, data.data_dir, data.classes, data.mask_values, data.exif)
        _log.info("%s", source)
        return source, []

    def check(self, source):
        """Refuse training masks that cannot be right; see `census.check`."""
        census.check(source.splits["train"], source.classes)

    def build(self, classes, replicas=1):
        """Build an FCN or a DeepLabV3+ for images of any size."""
        config, head = self.config, self.config.head
        settings = network.settings(config.model, config.device.precision, replicas, config.optimizer.seed)
        settings |= {"head": head.head, "output_stride": head.output_stride, "dropout": head.dropout}
        model = heads.create(config.model.model, classes, auxiliary=head.auxiliary > 0, **settings)
        network.freeze(model, config.model)
        return model

    def loss(self, classes):
        """Return a `PixelLoss`."""
        return PixelLoss(classes, self.config.head.auxiliary)

    def view(self, normalization):
        """Return an `annotated_views.MaskedView`."""
        views = self.config.views
        size, fill = self.config.data.image_size, fill_of(normalization)
        return annotated_views.MaskedView(size, views.scale, views.mirror, fill)

    def evaluation(self, runner, split, normalization):
        """Return an `Evaluation`."""
        return Evaluation(runner, split, normalization, self.config.views.threads)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "miou", "pixel_accuracy"}, and the confusion matrix."""
        matrix = evaluation.confusion(ema, check, look)
        return {"examples": len(split), **metrics.scores(matrix)}, matrix

    def keep(self, folder, split, classes, answers):
        """Write classes.csv, the metrics of each class."""
        write_classes(folder / CLASSES_FILE, classes, metrics.per_class(answers))

    def describe(self):
        """Return a short description of the recipe."""
        options = {"crop": self.config.data.image_size, "auxiliary": self.config.head.auxiliary}
        return describe.in_words(self.config, options)

    def pictures(self, split, classes, answers, shown):
        """Return figures of masks and of the IoU of each class."""
        return {"masks.png": drawn.gallery(shown, classes), "iou.png": drawn.bars(metrics.per_class(answers), classes)}

    def served(self, model, normalization, classes):
        """Return functions from pixels to masks."""
        fill = fill_of(normalization)

        def segment(pixels):
            shape = tf.shape(pixels)[1:3]
            missing = -shape % MULTIPLE
            filled = annotated_views.filled(pixels, [[0, missing[0]], [0, missing[1]]], fill)
            logits = tf.nest.flatten(model(normalization(filled), training=False))[0]
            masks = tf.cast(tf.argmax(logits, axis=-1), tf.uint8)
            return {"masks": masks[:, : shape[0], : shape[1]], "classes": tf.constant(classes)}

        return lambda pixels: segment(pixels[None]), segment


@dataclasses.dataclass(frozen=True)
class PixelLoss:
    """Softmax cross-entropy of pixels; `losses.Loss` documents the methods.

    It is the sum over pixels that are not void, divided by the number of all pixels of a view, as in GluonCV. So every
    pixel has the same weight, and neither replicas nor accumulation change the gradient.

    Attributes:
        classes: number of classes; higher labels are void.
        auxiliary: weight of the loss of the auxiliary head.
    """

    classes: int
    auxiliary: float = 0.0

    def targets(self, labels, classes):
        """Return the labels unchanged."""
        return labels

    def __call__(self, outputs, targets, teacher=None):
        """Return the loss of each example, float32 [n], in nats.

        Args:
            outputs: float32 logits [n, height, width, classes]; or a list of these and the auxiliary logits.
            targets: uint8 [n, height, width].
            teacher: None.
        """
        counted, labels = self._counted(targets)
        total = 0.0
        for logits, weight in zip(tf.nest.flatten(outputs), (1.0, self.auxiliary), strict=False):
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            total += weight * tf.reduce_mean(losses * counted, axis=[1, 2])
        return total

    def metrics(self, outputs, labels):
        """Return the top-1 and top-5 accuracy of the pixels of each example."""
        counted, labels = self._counted(labels)
        return top_k(tf.nest.flatten(outputs)[0], labels, counted)

    def _counted(self, labels):
        """Return 1 for each pixel that is not void, else 0; and labels with 0 for void."""
        labels = tf.cast(labels, tf.int32)
        counted = labels < self.classes
        return tf.cast(counted, tf.float32), tf.where(counted, labels, 0)


class Evaluation(StreamedEvaluation):
    """Predictions for whole images at their own size, one image for each replica at a time."""

    def __init__(self, runner, split, normalization, threads: int = 0):
        """Create the datasets; for the arguments see `StreamedEvaluation`."""
        fill = fill_of(normalization)

        def see(data, _):
            return annotated_views.filled_whole(data, MULTIPLE, fill)[None]

        super().__init__(runner, split, see, runner.local_replicas, threads)

    def answers(self, ema: bool = False, check=lambda: None):
        """Yield the index of each example, its labels and the predicted labels, both uint8 [H, W].

        Args:
            ema: use the averaged weights.
            check: function to call after each batch; its exceptions end the evaluation.

        Raises:
            InputError: an image or mask that cannot be read, or whose sizes differ.
        """
        count, split = len(self._split), self._split
        firsts = range(0, count, self._batch)
        for first, predicted in zip(firsts, self.predictions(_labels_of, ema, check), strict=True):
            for example in range(first, first + self._batch):
                truth = split.masks.read(int(split.image[min(example, count - 1)]))  # the last batch is padded
                height, width = (-(-side // MULTIPLE) * MULTIPLE for side in truth.shape)
                one, predicted = np.split(predicted, [height * width])
                if len(one) < height * width:
                    break
                if example < count:
                    yield example, truth, one.reshape(height, width)[: truth.shape[0], : truth.shape[1]]
            if len(predicted) or len(one) < height * width:
                masks.verify(split)
                raise AssertionError(f"{split.name(first)}: predictions for another number of pixels")

    def confusion(self, ema: bool = False, check=lambda: None, look=None) -> np.ndarray:
        """Return the confusion matrix, int64 [classes, classes]; `look` receives each item of `answers`."""
        classes = self._runner.model.outputs[0].shape[-1]
        total, counted = np.zeros((classes, classes), np.int64), 0
        for example, truth, predicted in self.answers(ema, check):
            if look:
                look(example, truth, predicted)
            total += metrics.confusion(truth, predicted, classes)
            counted += int((truth != masks.VOID).sum())
        if total.sum() != counted:
            raise AssertionError(f"{total.sum()} of {counted} pixels were scored")
        return total


def _labels_of(logits):
    """Return the class of each pixel: float32 [pixels, 1, classes] to uint8 [pixels]."""
    return tf.cast(tf.argmax(logits[:, 0], axis=-1), tf.uint8)
