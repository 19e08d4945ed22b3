"""Average precision of detections: PASCAL VOC's here, COCO's by the library faster-coco-eval.

Detections of a split are a list with `boxes.Detections` of NumPy arrays for each example, in pixels of the image; truth
is the split's `boxes.Objects`. Boxes are half-open and in floats, so that an area is (bottom - top) * (right - left),
without the 1 that VOC's devkit adds to each side of its inclusive integers.

The IoU of both is faster-coco-eval's, in float64, since that of `keras.utils.bounding_boxes` is in float32, whose
rounding may move a detection across a threshold. Matching here follows the order of scores and gives an object to one
detection at most; `regions.match`, which chooses what a network learns from, gives it to every box above a threshold.
"""

from typing import NamedTuple

import numpy as np

from resnet_tf.data.boxes import IGNORED
from resnet_tf.errors import InputError

_AREAS = ("all", "small", "medium", "large")  # of COCO: split at 32 and 96 pixels squared
_MOST = 100  # detections of a class in an image that COCO counts, the best ones


class Curve(NamedTuple):
    """Of one class, what is found as the threshold on scores goes down: arrays [k], a detection at a time.

    Attributes:
        recall: part of the objects that is found.
        precision: part of the detections that is right.
        scores: of the detections, falling.
        objects: how many there are, ignored ones not counted.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    objects: int


def require(what):
    """Refuse to begin work whose COCO figures could not be computed.

    Args:
        what: needs them, such as a flag.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise InputError(f"{what} needs faster-coco-eval: pip install 'resnet_tf[detect]'") from None


def ious(boxes, others):
    """Return the intersection over union of boxes [n, 4] and [m, 4], float64 [n, m] in [0, 1]; 0 without area.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    require("average precision")
    from faster_coco_eval.core import mask

    boxes, others = (np.array(_sized(array)).reshape(-1, 4) for array in (boxes, others))
    found = mask.iou(boxes, others, [0] * len(others))  # 0: no crowd, whose IoU would be another
    return np.reshape(found, [len(boxes), len(others)])


def curves(detections, truths, classes, iou=0.5):
    """Precision and recall of each class.

    As in VOC's devkit: an object is that of the highest overlap of its class in the image; the first detection of it is
    right where they overlap by `iou` at least, each further one is wrong, and those of an ignored object do not count.

    Args:
        detections: `boxes.Detections` of each example.
        truths: `boxes.Objects` of the same examples.
        classes: how many there are.
        iou: least overlap of a right detection.

    Returns:
        A `Curve` for each class.

    Raises:
        ValueError: other examples in one than in the other.
        InputError: faster-coco-eval is not installed.
    """
    _check(detections, truths)
    judged = [_judged(found, truths.of(example), iou) for example, found in enumerate(detections)]
    scores, labels, right, counted = (np.concatenate(part) for part in zip(*judged, strict=True))
    result = []
    for label in range(classes):
        objects = int((~truths.ignored[truths.labels == label]).sum())
        chosen = np.flatnonzero(counted & (labels == label))
        chosen = chosen[np.argsort(-scores[chosen], kind="stable")]
        hits = np.cumsum(right[chosen])
        recall = hits / objects if objects else np.full(len(hits), np.nan)
        result.append(Curve(recall, hits / np.arange(1, len(hits) + 1), scores[chosen], objects))
    return result


def _judged(found, truth, iou):
    """Return scores, labels, whether right and whether counted, of detections in one image, the surest first."""
    order = np.argsort(-found.scores, kind="stable")
    boxes, scores, labels = (part[order] for part in found)
    right, counted = np.zeros(len(order), bool), np.ones(len(order), bool)
    if len(truth.boxes) and len(order):
        of_class = np.where(labels[:, None] == truth.labels, ious(boxes, truth.boxes), -1)
        matched = of_class.argmax(axis=1)
        hits = np.flatnonzero(of_class.max(axis=1) >= iou)
        right[hits[np.unique(matched[hits], return_index=True)[1]]] = True  # the first of each object
        counted[hits] = truth.kinds[matched[hits]] != IGNORED
    return scores, labels, right, counted


def area(curve):
    """Return VOC's average precision from 2010 on (Everingham et al. 2010, section 4.2; the challenge's devkits).

    It is the area under the curve, made to fall: 0 where nothing is found, NaN where there are no objects.
    """
    if not curve.objects:
        return np.nan
    highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(np.diff(curve.recall, prepend=0) * highest))


def eleven_point(curve):
    """Return VOC's average precision until 2009; NaN where there are no objects.

    It is the mean of the highest precisions at recalls of 0, 0.1 ... 1 and above them.
    """
    if not curve.objects:
        return np.nan
    return float(np.mean([curve.precision[curve.recall >= tenth / 10].max(initial=0) for tenth in range(11)]))


def coco(detections, truths, classes):
    """COCO's average precision, on 101 points of recall and of the 100 best detections of a class in an image.

    Args:
        detections: see `curves`.
        truths: see `curves`. Ignored objects are crowds: what lies in one, by its own area, is not counted. An object's
            area is that of its box, where COCO's own figures take that of its outline, so that ap_small, ap_medium
            and ap_large differ a little from these.
        classes: how many there are.

    Returns:
        {"ap": mean over IoU of 0.5, 0.55 ... 0.95, "ap50", "ap75", "ap_small", "ap_medium", "ap_large"}, means over the
        classes that have such objects, None where there is none; and the table {"objects": int [classes], "ap", "ap50":
        float [classes]}, NaN where a class has none.

    Raises:
        ValueError: other examples in one than in the other.
        InputError: faster-coco-eval is not installed.
    """
    _check(detections, truths)
    require("COCO's average precision")
    from faster_coco_eval import COCO, COCOeval_faster

    truth, results = as_coco(detections, truths, classes)
    truth = COCO(truth)
    evaluation = COCOeval_faster(truth, truth.loadRes(results), "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    # [IoU, recall, class, area, most detections]; -1 where there are no objects.
    precision = evaluation.eval["precision"][..., evaluation.params.maxDets.index(_MOST)]
    precision = np.where(precision < 0, np.nan, precision)
    by_class = {name: precision[at].mean(axis=(0, 1)) for name, at in (("ap", slice(None)), ("ap50", slice(1)))}
    areas = dict(zip(_AREAS, by_class["ap"].T, strict=True))
    figures = {
        "ap": _mean(areas["all"]),
        "ap50": _mean(by_class["ap50"][:, 0]),
        "ap75": _mean(precision[5].mean(axis=0)[:, 0]),
        **{f"ap_{name}": _mean(areas[name]) for name in _AREAS[1:]},
    }
    objects = np.bincount(truths.labels[~truths.ignored], minlength=classes)
    return figures, {"objects": objects, **{name: found[:, 0] for name, found in by_class.items()}}


def as_coco(detections, truths, classes):
    """Return detections and truth, see `curves`, as COCO's files have them.

    The first is the content of instances.json, a dictionary; the second of results.json, a list. Ids count from 1.
    """
    annotations, results = [], []
    for example, found in enumerate(detections):
        image, truth = {"image_id": example + 1}, truths.of(example)
        for box, label, kind in zip(_sized(truth.boxes), truth.labels.tolist(), truth.kinds, strict=True):
            annotations.append({
                **image, "id": len(annotations) + 1, "category_id": label + 1, "bbox": box, "area": box[2] * box[3],
                "iscrowd": int(kind == IGNORED),
            })  # fmt: skip
        for box, score, label in zip(_sized(found.boxes), found.scores.tolist(), found.labels.tolist(), strict=True):
            results.append({**image, "category_id": label + 1, "bbox": box, "score": score})
    truth = {
        "images": [{"id": example + 1} for example in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
    }
    return truth, results


def _sized(boxes):
    """Return left, top, width and height of boxes [k, 4], as COCO has them: lists of floats."""
    top, left, bottom, right = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([left, top, right - left, bottom - top], axis=1).tolist()


def _check(detections, truths):
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} examples for {len(truths)}")


def _mean(values):
    """Over those that are numbers; None where there is none."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
