"""Average precision of detections: PASCAL VOC's, implemented here, and COCO's, by the library faster-coco-eval.

Detections of a split are a list of `boxes.Detections`, NumPy arrays in pixels of the image, one for each example; the
truth is the split's `boxes.Objects`. Boxes are half-open floats, so an area is (bottom - top) * (right - left), without
the 1 that VOC's devkit adds to each side of its inclusive integers.

Both use the float64 IoU of faster-coco-eval; the float32 IoU of `keras.utils.bounding_boxes` may round a detection
across a threshold. Matching here goes by falling score and gives an object to at most one detection; `regions.match`,
for training, gives it to every box above a threshold.
"""

from typing import NamedTuple

import numpy as np

from resnet_tf.data.boxes import IGNORED
from resnet_tf.errors import InputError

_AREAS = ("all", "small", "medium", "large")  # COCO area ranges, split at 32 and 96 pixels squared
_MOST = 100  # best detections of a class in an image that COCO counts


class Curve(NamedTuple):
    """The precision-recall curve of a class: arrays [k], in order of falling score.

    Attributes:
        recall: fraction of the objects that are found.
        precision: fraction of the detections that are right.
        scores: scores of the detections.
        objects: number of objects, without ignored ones.
    """

    recall: np.ndarray
    precision: np.ndarray
    scores: np.ndarray
    objects: int


def require(what: str) -> None:
    """Raise an InputError that names `what` if faster-coco-eval is not installed."""
    try:
        import faster_coco_eval  # noqa: F401
    except ImportError:
        raise InputError(f"{what} needs faster-coco-eval: pip install 'resnet_tf[detect]'") from None


def ious(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the IoU of boxes [n, 4] and [m, 4], float64 [n, m] in [0, 1]; 0 for boxes without area.

    Raises:
        InputError: faster-coco-eval is not installed.
    """
    require("average precision")
    from faster_coco_eval.core import mask

    boxes, others = (np.array(_sized(array)).reshape(-1, 4) for array in (boxes, others))
    result = mask.iou(boxes, others, [0] * len(others))  # 0: not a crowd, for which IoU is defined differently
    return np.reshape(result, [len(boxes), len(others)])


def curves(detections, truths, classes: int, iou: float = 0.5) -> list[Curve]:
    """Return the precision-recall curve of each class.

    As in VOC's devkit, each detection belongs to the object of its class and image with the highest IoU, if that is at
    least `iou`. The first detection of an object is right, further ones are wrong. Ignored objects and their detections
    do not count.

    Args:
        detections: `boxes.Detections` of each example.
        truths: `boxes.Objects` of the same examples.
        classes: number of classes.
        iou: smallest IoU of a right detection.

    Raises:
        ValueError: different numbers of examples.
        InputError: faster-coco-eval is not installed.
    """
    _check(detections, truths)
    judged = [_judged(one, truths.of(example), iou) for example, one in enumerate(detections)]
    scores, labels, right, counted = (np.concatenate(part) for part in zip(*judged, strict=True))
    result = []
    for label in range(classes):
        objects = int((~truths.ignored[truths.labels == label]).sum())
        indices = np.flatnonzero(counted & (labels == label))
        indices = indices[np.argsort(-scores[indices], kind="stable")]
        hits = np.cumsum(right[indices])
        recall = hits / objects if objects else np.full(len(hits), np.nan)
        result.append(Curve(recall, hits / np.arange(1, len(hits) + 1), scores[indices], objects))
    return result


def _judged(detections, truth, iou):
    """Return scores, labels, is_right and is_counted of the detections in an image, by falling score."""
    order = np.argsort(-detections.scores, kind="stable")
    boxes, scores, labels = (part[order] for part in detections)
    right, counted = np.zeros(len(order), bool), np.ones(len(order), bool)
    if len(truth.boxes) and len(order):
        overlaps = np.where(labels[:, None] == truth.labels, ious(boxes, truth.boxes), -1)
        matched = overlaps.argmax(axis=1)
        hits = np.flatnonzero(overlaps.max(axis=1) >= iou)
        right[hits[np.unique(matched[hits], return_index=True)[1]]] = True  # the first detection of each object
        counted[hits] = truth.kinds[matched[hits]] != IGNORED
    return scores, labels, right, counted


def area(curve: Curve) -> float:
    """Return VOC's average precision from 2010 on: the area under the curve, with precision made non-increasing.

    It is 0 if nothing is found and NaN if there are no objects (Everingham et al. 2010, section 4.2; VOC devkits).
    """
    if not curve.objects:
        return np.nan
    highest = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return float(np.sum(np.diff(curve.recall, prepend=0) * highest))


def eleven_point(curve: Curve) -> float:
    """Return VOC's average precision until 2009; NaN if there are no objects.

    It is the mean over recalls r = 0, 0.1 ... 1 of the highest precision at any recall of at least r.
    """
    if not curve.objects:
        return np.nan
    return float(np.mean([curve.precision[curve.recall >= tenth / 10].max(initial=0) for tenth in range(11)]))


def coco(detections, truths, classes: int) -> tuple[dict, dict]:
    """Return COCO's average precision: 101 recalls, the 100 best detections of a class in an image.

    Args:
        detections: see `curves`.
        truths: see `curves`. Ignored objects are crowds: detections inside are not counted. Objects have the area of
            their box, COCO's own results that of their outline, so ap_small, ap_medium and ap_large differ slightly.
        classes: number of classes.

    Returns:
        {"ap": mean over IoU of 0.5, 0.55 ... 0.95, "ap50", "ap75", "ap_small", "ap_medium", "ap_large"}, means over the
        classes with such objects, None without any; and the table {"objects": int [classes], "ap", "ap50": float
        [classes]}, NaN for classes without objects.

    Raises:
        ValueError: different numbers of examples.
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
    # [IoU, recall, class, area, most detections]; -1 without objects.
    precision = evaluation.eval["precision"][..., evaluation.params.maxDets.index(_MOST)]
    precision = np.where(precision < 0, np.nan, precision)
    by_class = {name: precision[at].mean(axis=(0, 1)) for name, at in (("ap", slice(None)), ("ap50", slice(1)))}
    areas = dict(zip(_AREAS, by_class["ap"].T, strict=True))
    metrics = {
        "ap": _mean(areas["all"]),
        "ap50": _mean(by_class["ap50"][:, 0]),
        "ap75": _mean(precision[5].mean(axis=0)[:, 0]),
        **{f"ap_{name}": _mean(areas[name]) for name in _AREAS[1:]},
    }
    objects = np.bincount(truths.labels[~truths.ignored], minlength=classes)
    return metrics, {"objects": objects, **{name: values[:, 0] for name, values in by_class.items()}}


def as_coco(detections, truths, classes: int) -> tuple[dict, list]:
    """Return truth as the content of COCO's instances.json, and detections as that of results.json; ids from 1."""
    annotations, results = [], []
    for example, one in enumerate(detections):
        image, truth = {"image_id": example + 1}, truths.of(example)
        for box, label, kind in zip(_sized(truth.boxes), truth.labels.tolist(), truth.kinds, strict=True):
            annotations.append({
                **image, "id": len(annotations) + 1, "category_id": label + 1, "bbox": box, "area": box[2] * box[3],
                "iscrowd": int(kind == IGNORED),
            })  # fmt: skip
        for box, score, label in zip(_sized(one.boxes), one.scores.tolist(), one.labels.tolist(), strict=True):
            results.append({**image, "category_id": label + 1, "bbox": box, "score": score})
    truth = {
        "images": [{"id": example + 1} for example in range(len(truths))],
        "annotations": annotations,
        "categories": [{"id": label + 1, "name": str(label)} for label in range(classes)],
    }
    return truth, results


def _sized(boxes):
    """Return boxes [k, 4] in COCO's form, lists of left, top, width and height."""
    top, left, bottom, right = np.asarray(boxes, np.float64).reshape(-1, 4).T
    return np.stack([left, top, right - left, bottom - top], axis=1).tolist()


def _check(detections, truths):
    if len(detections) != len(truths):
        raise ValueError(f"detections of {len(detections)} examples for {len(truths)}")


def _mean(values):
    """Return the mean of the values that are not NaN; None if all are."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if len(numbers) else None
