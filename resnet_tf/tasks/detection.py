"""Detection: objects that have a box and a class each."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from resnet_tf.config import GIVEN
from resnet_tf.data import annotated_views, batches, boxes, detection, draws
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures
from resnet_tf.runs import describe, network, run_data
from resnet_tf.runs.runner import inputs_of
from resnet_tf.tasks import average_precision, detections_csv, detectors, regions
from resnet_tf.tasks import detection_pictures as drawn
from resnet_tf.tasks.segmentation import fill_of
from resnet_tf.tasks.task import Task
from resnet_tf.training import losses, smoke

CLASSES_FILE = "classes.csv"
_SMOKE_SIZE, _SMOKE_BOXES = 64, 4
_CHOICES = ("candidates", "proposal_nms", "score_threshold", "nms", "detections")  # flags of these names
_DRAWN_FROM = 0.5  # score of boxes in pictures
_AT_ONCE = 8  # images of a replica in evaluation
_LOW, _HIGH = 0.3, 0.7  # IoU of an anchor that is background, or an object (Ren et al. 2015, section 3.1.2)
_BETA = 1 / 9  # of the smooth L1 of anchors, as in the code of Faster R-CNN; 1 of boxes

_log = logging.getLogger(__name__)


class Detection(Task):
    """Objects that have a box and a class each, by a `config.DetectConfig`; see `task.Task` for what each part is."""

    name = "detection"

    def __init__(self, config):
        """Refuse to begin without the package that scores, too."""
        super().__init__(config)
        average_precision.require("detection")

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke."""
        data = dataclasses.replace(config.data, image_size=_SMOKE_SIZE)
        if not data.data_dir and data.dataset != GIVEN:
            data = dataclasses.replace(data, dataset="synthetic", classes=())
        # Of a c4 the last stage works on every box: on a CPU that is most of the time.
        few = {name: min(getattr(config.detector, name), _SMOKE_BOXES) for name in ("regions", "eval_proposals")}
        detector = dataclasses.replace(config.detector, **few)
        return dataclasses.replace(config, data=data, detector=detector, **smoke.shrunk_parts(config))

    def load(self):
        """Read the index of examples with objects; nothing is left out."""
        data = self.config.data
        run_data.refuse_given(data)
        source = detection.index(data.dataset, data.data_dir, data.classes, data.exif)
        _log.info("%s", source)
        most = source.splits["train"].objects.most
        if most > data.most_objects:
            raise InputError(f"--most_objects={data.most_objects}: an image has {most}")
        return source, []

    def build(self, classes, replicas=1):
        """Build a Faster R-CNN."""
        return build(self.config, classes, replicas)

    def loss(self, classes):
        """Return a `DetectionLoss`."""
        return loss_of(self.config, classes)

    def view(self, normalization):
        """Return a `annotated_views.BoxedView`."""
        data, views = self.config.data, self.config.views
        return annotated_views.BoxedView(
            data.image_size, views.scale, views.mirror, fill_of(normalization), data.most_objects
        )

    def evaluation(self, runner, split, normalization):
        """Return an `Evaluation`."""
        return Evaluation(runner, split, normalization, self.config)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "ap50", "ap50_voc07", "ap75", "ap"}; and what was found, with the figures of classes."""
        found = evaluation.detections(ema, check)
        for example, one in enumerate(found if look else ()):
            look(example, split.objects.rows(example), one)
        figures, table = figures_of(found, split.objects, evaluation.classes)
        return {"examples": len(found), **figures}, (found, table)

    def keep(self, folder, split, classes, answers):
        """Write detections.csv, what was found, and classes.csv, the figures of each class."""
        found, table = answers
        detections_csv.write(folder / detections_csv.FILE, split.names, classes, found)
        write_classes(folder / CLASSES_FILE, classes, table)

    def describe(self):
        """Return the recipe in a few words."""
        options = {"square": self.config.data.image_size, "proposals": self.config.detector.eval_proposals}
        return describe.in_words(self.config, options)

    def pictures(self, split, classes, answers, shown):
        """Return images with their boxes, and the curves of precision over recall."""
        curves = average_precision.curves(answers[0], split.objects, len(classes))
        return {
            "boxes.png": drawn.box_gallery(shown, classes, _DRAWN_FROM),
            "precision_recall.png": drawn.precision_recall(curves, classes),
        }

    def served(self, model, normalization, classes):
        """Return functions from pixels to boxes, scores and labels; see `serving`."""
        size, fill, names = self.config.data.image_size, fill_of(normalization), tf.constant(classes)

        def detect(pixels):
            views, scales = tf.map_fn(
                lambda one: annotated_views.boxed(one, size, fill), pixels, fn_output_signature=(tf.uint8, tf.float32)
            )
            outputs = model(inputs_of(model, normalization(views)), training=False)
            return in_pixels(boxes.Detections.unpack(outputs.detections), scales)._asdict()

        def detect_one(pixels):
            answer = {name: values[0] for name, values in detect(pixels[None]).items()}
            return {name: values[answer["scores"] > 0] for name, values in answer.items()} | {"classes": names}

        return detect_one, lambda pixels: detect(pixels) | {"classes": names}


def build(config, classes, replicas=1):
    """The network that a `DetectConfig` describes, for so many classes."""
    detector = config.detector
    model = detectors.create(
        config.model.model,
        classes,
        config.data.image_size,
        neck=detector.neck,
        anchor_sizes=detector.anchor_sizes,
        anchor_ratios=detector.anchor_ratios,
        most=config.data.most_objects,
        choices=detectors.Choices(
            proposals=(detector.proposals, detector.eval_proposals),
            rois=(detector.regions, detector.region_objects),
            **{name: getattr(detector, name) for name in _CHOICES},
        ),
        **network.settings(config.model, config.device.precision, replicas, config.optimizer.seed),
    )
    network.freeze(model, config.model)
    return model


def loss_of(config, classes):
    """The loss that a `DetectConfig` describes."""
    detector = config.detector
    _, anchors = detectors.anchors_of(
        config.model.model, config.data.image_size, detector.neck, detector.anchor_sizes, detector.anchor_ratios
    )
    return DetectionLoss(np.concatenate(anchors), classes, detector.anchors)


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionLoss:
    """The four terms of Faster R-CNN (Ren et al. 2015, equation 1, and Girshick 2015, equation 1), all of weight 1.

    Of anchors and of rois alike: cross-entropy, the mean over those that were drawn, and the smooth L1 of the deltas of
    those that are objects, summed over these and divided by as many as were drawn, as in Detectron.

    Attributes:
        anchors: float32 [n, 4], of all levels.
        classes: how many, without the background.
        drawn: anchors of an image that count, half of them objects.
    """

    anchors: np.ndarray
    classes: int
    drawn: int = 256

    def targets(self, labels, classes):
        """Return the packed objects as they are."""
        return labels

    def __call__(self, outputs, targets, teacher=None):
        """Return the loss of each example, float32 [n].

        Args:
            outputs: a `detectors.Outputs`.
            targets: float32 [n, most, boxes.PACKED]; see `boxes.ImageObjects.pack`.
            teacher: None.
        """
        outputs = detectors.Outputs(*outputs)  # a list, where `debug` looks at layers besides
        objects = boxes.ImageObjects.unpack(targets)
        return self._of_anchors(outputs, objects) + self._of_rois(outputs, objects)

    def metrics(self, outputs, labels):
        """Return the parts of each example's rois for which no other class, or fewer than five, score as high."""
        outputs = detectors.Outputs(*outputs)
        truth, _, counted = self._roi_targets(outputs.rois, boxes.ImageObjects.unpack(labels))
        place = losses.rank(tf.reshape(outputs.class_logits, [*outputs.rois.shape[:2], -1]), truth)
        return {
            name: tf.reduce_sum(counted * tf.cast(place < most, tf.float32), axis=1) / _total(counted)
            for name, most in (("top1", 2), ("top5", 6))
        }

    def _of_anchors(self, outputs, objects):
        matches = regions.match(self.anchors, objects, _LOW, _HIGH, best=True)
        index, there = regions.sample(matches, outputs.keys, draws.Stream.ANCHORS, self.drawn, self.drawn // 2)
        matched, positive, objectness, deltas = (
            tf.gather(values, index, batch_dims=1)
            for values in (matches.matched, matches.positive, outputs.objectness, outputs.anchor_deltas)
        )
        counted = tf.cast(there, tf.float32)
        positive = counted * tf.cast(positive, tf.float32)
        truth = tf.gather(objects.boxes, matched, batch_dims=1)
        target_deltas = regions.encode(truth, tf.gather(tf.constant(self.anchors), index))
        cross_entropy = tf.nn.sigmoid_cross_entropy_with_logits(positive, objectness)
        smooth_l1 = _smooth_l1(deltas - target_deltas, _BETA)
        return tf.reduce_sum(counted * cross_entropy + positive * smooth_l1, axis=1) / _total(counted)

    def _of_rois(self, outputs, objects):
        labels, truth, counted = self._roi_targets(outputs.rois, objects)
        count = outputs.rois.shape[1]
        class_logits = tf.reshape(outputs.class_logits, [-1, count, self.classes + 1])
        deltas = tf.reshape(outputs.roi_deltas, [-1, count, self.classes, 4])
        target_deltas = regions.encode(truth, outputs.rois, detectors.ROI_VARIANCE)
        of_class = tf.one_hot(labels, self.classes)  # zeros for the background
        smooth_l1 = tf.reduce_sum(of_class * _smooth_l1(deltas - target_deltas[:, :, None], 1.0), axis=2)
        cross_entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, class_logits)
        return tf.reduce_sum(counted * (cross_entropy + smooth_l1), axis=1) / _total(counted)

    def _roi_targets(self, rois, objects):
        """Return of rois [n, m, 4] the classes, int32 [n, m], the objects' boxes, and 1 where a roi counts, else 0."""
        matches = regions.match(rois, objects, detectors.OBJECT_FROM, detectors.OBJECT_FROM)
        truth, labels = (tf.gather(values, matches.matched, batch_dims=1) for values in (objects.boxes, objects.labels))
        labels = tf.where(matches.positive, labels, self.classes)
        return labels, truth, tf.cast(regions.area(rois) > 0, tf.float32)


def _total(counted):
    return tf.maximum(tf.reduce_sum(counted, axis=1), 1.0)


def _smooth_l1(differences, beta):
    """Return the smooth L1, summed over the last axis: x^2 / 2 beta below beta, |x| - beta / 2 above."""
    size = tf.abs(differences)
    return tf.reduce_sum(tf.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta), axis=-1)


class Evaluation:
    """Detections of whole images, every image once."""

    def __init__(self, runner, split, normalization, config):
        """Put the data in place.

        Args:
            runner: a `runner.Runner`.
            split: an `Examples` with objects.
            normalization: a `colour.Normalization`.
            config: a `config.DetectConfig`.
        """
        self._runner, self._split, self._most = runner, split, config.detector.detections
        self.classes = runner.model.get_layer("logits_detections").classes
        self._batch = min(_AT_ONCE, len(split)) * runner.local_replicas
        size, fill = config.data.image_size, fill_of(normalization)

        def see(data, box):
            pixels, scale = annotated_views.boxed_whole(data, size, fill)
            return pixels[None], scale

        def part(replica):
            return batches.testing(
                split, see, batch=self._batch, threads=config.views.threads, replica=replica,
                replicas=runner.local_replicas,
            )  # fmt: skip

        self._streams = runner.streams(part)

    def detections(self, ema=False, check=lambda: None):
        """Answer for the whole split.

        Args:
            ema: by the averaged weights.
            check: called after each batch; what it raises ends the evaluation.

        Returns:
            List of `boxes.Detections` for each example, its boxes in pixels of the image.

        Raises:
            InputError: an image that cannot be read.
        """
        iterators = [iter(dataset) for dataset in self._streams]
        count = -(-len(self._split) // self._batch)
        parts = []
        with run_data.named_errors(self._split):
            for found in self._runner.predict_stream(iterators, count, self._in_pixels, ema):
                parts.append(found)
                check()
        return [detected(rows) for rows in np.concatenate(parts)[: len(self._split)]]

    def _in_pixels(self, packed, scale):
        found = boxes.Detections.unpack(tf.reshape(packed, [-1, self._most, boxes.PACKED]))
        return in_pixels(found, scale).pack()


def in_pixels(found, scale):
    """Return `boxes.Detections` of [n, k] in pixels of views in pixels of the images, whose scales are [n, 2]."""
    return found._replace(boxes=found.boxes / tf.tile(scale, [1, 2])[:, None])


def detected(rows):
    """Return the `boxes.Detections` of an image from rows of `regions.detect`, [k, PACKED], without the padding."""
    found = boxes.Detections.unpack(rows)
    return boxes.Detections(*(part[found.scores > 0] for part in found))


def figures_of(found, objects, classes):
    """The score of detections.

    Args:
        found: `boxes.Detections` of each example.
        objects: `boxes.Objects` of the same examples.
        classes: how many there are.

    Returns:
        {"ap50": area under the curve of precision and recall at an IoU of 0.5, mean over classes, as in VOC from 2010
        on; "ap50_voc07": the same of eleven points, as in VOC2007; "ap75", "ap": COCO's}; and the table of the classes,
        {"objects", "ap50", "ap50_voc07", "ap": array [classes]}, NaN where a class has no objects.
    """
    coco, table = average_precision.coco(found, objects, classes)
    curves = average_precision.curves(found, objects, classes)
    area, points = (
        np.array([of(curve) for curve in curves]) for of in (average_precision.area, average_precision.eleven_point)
    )
    figures = {"ap50": float(np.nanmean(area)), "ap50_voc07": float(np.nanmean(points))}
    return (
        figures | {name: coco[name] for name in ("ap75", "ap")},
        {"objects": table["objects"], "ap50": area, "ap50_voc07": points, "ap": table["ap"]},
    )


def write_classes(path, classes, table):
    """Write the figures of each class as CSV, whole or not at all; empty where there is none."""
    rows = [
        (name, table["objects"][number], *("" if np.isnan(value) else f"{value:.6g}" for value in figures))
        for number, (name, *figures) in enumerate(
            zip(classes, *(table[column] for column in ("ap50", "ap50_voc07", "ap")), strict=True)
        )
    ]
    pictures.write_table(path, ("class", *table), rows)
