"""The task of object detection: boxes and their classes."""

import dataclasses
import logging

import numpy as np
import tensorflow as tf

from resnet_tf.data import annotated_views, boxes, detection, draws
from resnet_tf.errors import InputError
from resnet_tf.runs import describe, network, run_data
from resnet_tf.runs.runner import inputs_of
from resnet_tf.tasks import average_precision, detections_csv, detectors, regions
from resnet_tf.tasks import detection_pictures as drawn
from resnet_tf.tasks.shared import CLASSES_FILE, StreamedEvaluation, fill_of, shrunk_data, top_k, write_classes
from resnet_tf.tasks.task import Task
from resnet_tf.training import smoke

_SMOKE_SIZE, _SMOKE_BOXES = 64, 4
_CHOICES = ("candidates", "proposal_nms", "score_threshold", "nms", "detections")  # both flags and fields of `Choices`
_DRAWN_FROM = 0.5  # lowest score of boxes in pictures
_BATCH = 8  # images of a replica in evaluation
_LOW, _HIGH = 0.3, 0.7  # IoU below which an anchor is background, from which on an object (Ren et al. 2015, 3.1.2)
_BETA = 1 / 9  # of the smooth L1 of anchors, as in the code of Faster R-CNN; that of rois is 1

_log = logging.getLogger(__name__)


class Detection(Task):
    """The detection task of a `config.DetectConfig`; `task.Task` documents the methods."""

    name = "detection"

    def __init__(self, config):
        """Check the configuration, and that faster-coco-eval is installed."""
        super().__init__(config)
        average_precision.require("detection")

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke."""
        data = shrunk_data(config.data, _SMOKE_SIZE)
        # The last stage of c4 runs on every box, which takes most of the time on a CPU.
        few = {name: min(getattr(config.detector, name), _SMOKE_BOXES) for name in ("regions", "eval_proposals")}
        detector = dataclasses.replace(config.detector, **few)
        return dataclasses.replace(config, data=data, detector=detector, **smoke.shrunk_parts(config))

    def load(self):
        """Read the index of examples with objects; no example is skipped."""
        data = self.config.data
        run_data.refuse_given(data)
        source = detection.index(
            data.dataset, data.data_dir, data.classes, data.exif, validation_share=data.validation_share,
            test_share=data.test_share, split_seed=data.split_seed,
        )  # fmt: skip
        _log.info("%s", source)
        most = source.splits["train"].objects.most
        if most > data.most_objects:
            raise InputError(f"--most_objects={data.most_objects}: an image has {most}")
        return source, []

    def build(self, classes, replicas=1):
        """Build a Faster R-CNN."""
        config, detector = self.config, self.config.detector
        choices = detectors.Choices(
            proposals=(detector.proposals, detector.eval_proposals),
            rois=(detector.regions, detector.region_objects),
            **{name: getattr(detector, name) for name in _CHOICES},
        )
        settings = network.settings(config.model, config.device.precision, replicas, config.optimizer.seed)
        settings |= self._anchors() | {"most": config.data.most_objects, "choices": choices}
        model = detectors.create(config.model.model, classes, config.data.image_size, **settings)
        network.freeze(model, config.model)
        return model

    def loss(self, classes):
        """Return a `DetectionLoss`."""
        config = self.config
        _, anchors = detectors.anchors_of(config.model.model, config.data.image_size, **self._anchors())
        return DetectionLoss(np.concatenate(anchors), classes, config.detector.anchors)

    def _anchors(self):
        return {name: getattr(self.config.detector, name) for name in ("neck", "anchor_sizes", "anchor_ratios")}

    def view(self, normalization):
        """Return an `annotated_views.BoxedView`."""
        data, views, fill = self.config.data, self.config.views, fill_of(normalization)
        return annotated_views.BoxedView(data.image_size, views.scale, views.mirror, fill, data.most_objects)

    def evaluation(self, runner, split, normalization):
        """Return an `Evaluation`."""
        return Evaluation(runner, split, normalization, self.config)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "ap50", "ap50_voc07", "ap75", "ap"}; and detections, table and curves of the classes."""
        detections = evaluation.detections(ema, check)
        for example, one in enumerate(detections if look else ()):
            look(example, split.objects.rows(example), one)
        curves = average_precision.curves(detections, split.objects, evaluation.classes)
        metrics, table = metrics_of(detections, split.objects, curves)
        return {"examples": len(detections), **metrics}, (detections, table, curves)

    def keep(self, folder, split, classes, answers):
        """Write detections.csv, and classes.csv with the metrics of each class."""
        detections, table, _ = answers
        detections_csv.write(folder / detections_csv.FILE, split.names, classes, detections)
        write_classes(folder / CLASSES_FILE, classes, table)

    def describe(self):
        """Return a short description of the recipe."""
        options = {"square": self.config.data.image_size, "proposals": self.config.detector.eval_proposals}
        return describe.in_words(self.config, options)

    def pictures(self, split, classes, answers, shown):
        """Return figures of boxes and of precision over recall."""
        return {
            "boxes.png": drawn.box_gallery(shown, classes, _DRAWN_FROM),
            "precision_recall.png": drawn.precision_recall(answers[2], classes),
        }

    def served(self, model, normalization, classes):
        """Return functions from pixels to boxes, scores and labels."""
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


@dataclasses.dataclass(frozen=True, eq=False)
class DetectionLoss:
    """The four terms of Faster R-CNN (Ren et al. 2015, equation 1; Girshick 2015, equation 1), all of weight 1.

    For anchors and for rois: the mean cross-entropy over the sampled ones, and the smooth L1 of the deltas of objects,
    summed over objects and divided by the number of sampled ones, as in Detectron.

    Attributes:
        anchors: float32 [n, 4], of all levels.
        classes: number of classes, without the background.
        drawn: anchors of an image to sample, at most half of them objects.
    """

    anchors: np.ndarray
    classes: int
    drawn: int = 256

    def targets(self, labels, classes):
        """Return the packed objects unchanged."""
        return labels

    def __call__(self, outputs, targets, teacher=None):
        """Return the loss of each example, float32 [n].

        Args:
            outputs: a `detectors.Outputs`.
            targets: float32 [n, most, boxes.PACKED]; see `boxes.ImageObjects.pack`.
            teacher: None.
        """
        outputs = detectors.Outputs(*outputs)  # `debug` passes a list
        objects = boxes.ImageObjects.unpack(targets)
        return self._of_anchors(outputs, objects) + self._of_rois(outputs, objects)

    def metrics(self, outputs, labels):
        """Return the top-1 and top-5 accuracy of the rois of each example."""
        outputs = detectors.Outputs(*outputs)
        truth, _, counted = self._roi_targets(outputs.rois, boxes.ImageObjects.unpack(labels))
        return top_k(tf.reshape(outputs.class_logits, [*outputs.rois.shape[:2], -1]), truth, counted)

    def _of_anchors(self, outputs, objects):
        matches = regions.match(self.anchors, objects, _LOW, _HIGH, best=True)
        index, is_sampled = regions.sample(matches, outputs.keys, draws.Stream.ANCHORS, self.drawn, self.drawn // 2)
        matched, positive, objectness, deltas = (
            tf.gather(values, index, batch_dims=1)
            for values in (matches.matched, matches.positive, outputs.objectness, outputs.anchor_deltas)
        )
        counted = tf.cast(is_sampled, tf.float32)
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
        """Return classes, int32 [n, m], object boxes, and 1 for each roi of [n, m, 4] that has an area, else 0."""
        matches = regions.match(rois, objects, detectors.OBJECT_FROM, detectors.OBJECT_FROM)
        truth, labels = (tf.gather(values, matches.matched, batch_dims=1) for values in (objects.boxes, objects.labels))
        labels = tf.where(matches.positive, labels, self.classes)
        return labels, truth, tf.cast(regions.area(rois) > 0, tf.float32)


def _total(counted):
    return tf.maximum(tf.reduce_sum(counted, axis=1), 1.0)


def _smooth_l1(differences, beta):
    """Return the sum over the last axis of x^2 / (2 beta) for |x| below beta, |x| - beta / 2 above."""
    size = tf.abs(differences)
    return tf.reduce_sum(tf.where(size < beta, 0.5 * size * size / beta, size - 0.5 * beta), axis=-1)


class Evaluation(StreamedEvaluation):
    """Detections in whole images."""

    def __init__(self, runner, split, normalization, config):
        """Create the datasets; for the arguments see `StreamedEvaluation`; `config` is a `config.DetectConfig`."""
        self._most = config.detector.detections
        self.classes = runner.model.get_layer("logits_detections").classes
        size, fill = config.data.image_size, fill_of(normalization)

        def see(data, _):
            pixels, scale = annotated_views.boxed_whole(data, size, fill)
            return pixels[None], scale

        super().__init__(runner, split, see, min(_BATCH, len(split)) * runner.local_replicas, config.views.threads)

    def detections(self, ema: bool = False, check=lambda: None) -> list[boxes.Detections]:
        """Return the detections of each example, their boxes in pixels of the image.

        Args:
            ema: use the averaged weights.
            check: function to call after each batch; its exceptions end the evaluation.

        Raises:
            InputError: an image that cannot be read.
        """
        packed = np.concatenate(list(self.predictions(self._in_pixels, ema, check)))
        return [detected(rows) for rows in packed[: len(self._split)]]

    def _in_pixels(self, packed, scale):
        detections = boxes.Detections.unpack(tf.reshape(packed, [-1, self._most, boxes.PACKED]))
        return in_pixels(detections, scale).pack()


def in_pixels(detections: boxes.Detections, scale) -> boxes.Detections:
    """Convert boxes [n, k, 4] from pixels of views to pixels of images; `scale` [n, 2] is view over image."""
    return detections._replace(boxes=detections.boxes / tf.tile(scale, [1, 2])[:, None])


def detected(rows) -> boxes.Detections:
    """Return the detections of an image from the rows of `regions.detect`, [k, PACKED], without padding."""
    detections = boxes.Detections.unpack(rows)
    return boxes.Detections(*(part[detections.scores > 0] for part in detections))


def metrics_of(detections: list[boxes.Detections], objects: boxes.Objects, curves: list) -> tuple[dict, dict]:
    """Return the metrics of detections.

    Args:
        detections: detections of each example.
        objects: true objects of the same examples.
        curves: `average_precision.curves` of these, one for each class.

    Returns:
        Means over classes: {"ap50": area under the precision-recall curve at an IoU of 0.5, as in VOC from 2010 on;
        "ap50_voc07": its eleven-point form, as in VOC2007; "ap75", "ap": COCO's}; and the table {"objects", "ap50",
        "ap50_voc07", "ap": array [classes]}, NaN for classes without objects.
    """
    coco, table = average_precision.coco(detections, objects, len(curves))
    area = np.array([average_precision.area(curve) for curve in curves])
    points = np.array([average_precision.eleven_point(curve) for curve in curves])
    metrics = {"ap50": float(np.nanmean(area)), "ap50_voc07": float(np.nanmean(points))}
    return (
        metrics | {name: coco[name] for name in ("ap75", "ap")},
        {"objects": table["objects"], "ap50": area, "ap50_voc07": points, "ap": table["ap"]},
    )
