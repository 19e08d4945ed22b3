"""Operations on boxes as tensors of static shapes: anchors, coding, matching, sampling, proposals, RoI align.

Boxes are float32 [..., 4]: top, left, bottom, right in pixels of the view, half-open.

IoU and box coding come from `keras.utils.bounding_boxes`. Two layers come from keras-cv 0.9: `AnchorGenerator`, and
`ROIGenerator`, which runs TensorFlow's `non_max_suppression_padded` on each level: exact greedy NMS, 8 ms for 2,000
boxes on a CPU. These parts of Keras 3.15 and keras-cv 0.9 are not used:

    clip_to_image_size  accepts only dictionaries of boxes in the order left, top, right, bottom.
    RoI align           is private in keras-cv. `align` here is two matrix products, whose gradient needs no scatter,
                        whose order is arbitrary on GPUs.
    BoxMatcher          does not support ignored objects. With `force_match_for_each_col`, padding makes anchor 0
                        positive, as tests/test_detection.py shows; without, the best anchor of an object may not be.
    balanced_sample     is private and uses the global random generator, so a resumed run would draw other boxes.
    MultiClassNonMaxSuppression   is `tf.image.combined_non_max_suppression`, which has no kernel for XLA or GPUs.
"""

import math
from typing import NamedTuple

import keras_cv
import numpy as np
import tensorflow as tf
from keras.utils import bounding_boxes

from resnet_tf.data import draws
from resnet_tf.data.boxes import IGNORED, OBJECT, Detections, ImageObjects

_FORMAT = "yxyx"  # Keras' name for the order top, left, bottom, right
_IGNORED_FROM = 0.5  # IoU with an ignored object above which a box is not negative
_MAX_LOG = math.log(1000 / 16)  # largest log of a side over that of its anchor, as in Detectron
_SAMPLES = 2  # samples of a RoI align bin along each axis
_LEVEL, _LEVEL_SIZE = 4, 224  # Lin et al. 2017, equation 1


class Matches(NamedTuple):
    """The objects and the background among the boxes of each example. A box can be neither."""

    matched: tf.Tensor  # int32 [b, n], index of the object of highest IoU
    positive: tf.Tensor  # bool [b, n], whether the box counts as that object
    negative: tf.Tensor  # bool [b, n], whether the box counts as background


def anchors(sides, strides, sizes, ratios) -> list[np.ndarray]:
    """Return the anchors at every position of some feature maps (Ren et al. 2015, section 3.1).

    Args:
        sides: height and width of the view in pixels.
        strides: stride of each level in pixels.
        sizes: square roots of anchor areas in pixels, a tuple for each level.
        ratios: widths over heights.

    Returns:
        List over levels of float32 [positions * sizes * ratios, 4], row by row, sizes before ratios. Like in
        torchvision, anchors may extend beyond the view.
    """
    result = []
    for stride, of_level in zip(strides, sizes, strict=True):
        make = keras_cv.layers.AnchorGenerator(_FORMAT, [1.0], list(of_level), list(ratios), [stride], dtype="float32")
        with tf.init_scope():
            result.append(make(image_shape=(*sides, 3))[0].numpy())
    return result


def iou(boxes, others) -> tf.Tensor:
    """Return the IoU of boxes [(b,) n, 4] and [(b,) m, 4], [(b,) n, m]; 0 for boxes without area."""
    return bounding_boxes.compute_iou(boxes, others, _FORMAT)


def encode(boxes, anchors, variance=(1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Return the deltas of boxes from anchors, [..., 4], divided by `variance`.

    Deltas are y and x offsets of the centres in anchor sides, and logarithms of height and width ratios.
    """
    return bounding_boxes.encode_box_to_deltas(anchors, boxes, _FORMAT, _FORMAT, variance=variance)


def decode(deltas, anchors, side: int, variance=(1.0, 1.0, 1.0, 1.0)) -> tf.Tensor:
    """Return the boxes of deltas of `encode`, clipped to a square view of side `side`."""
    # Keras does not bound the exponent: deltas of an untrained network would give infinite sides.
    highest = [math.inf, math.inf, *(_MAX_LOG / of_side for of_side in variance[2:])]
    boxes = bounding_boxes.decode_deltas_to_boxes(
        anchors, tf.minimum(deltas, highest), _FORMAT, _FORMAT, variance=variance
    )
    return tf.clip_by_value(boxes, 0.0, float(side))


def area(boxes) -> tf.Tensor:
    """Return the areas of boxes [..., 4] in square pixels, [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def match(boxes, objects: ImageObjects, low: float, high: float, best: bool = False) -> Matches:
    """Match boxes with objects and background.

    Args:
        boxes: float32 [n, 4] or [b, n, 4]; boxes without area are neither positive nor negative.
        objects: `boxes.ImageObjects` of tensors [b, most, ...].
        low: a box is negative if its IoU with every object is below.
        high: a box is positive if its IoU with any object is at least this.
        best: make the boxes of highest IoU with each object positive too, including ties.

    Returns:
        `Matches`; boxes over an ignored object are not negative.
    """
    ious = iou(boxes, objects.boxes)
    kinds = objects.kinds[:, None]
    of_objects = tf.where(kinds == OBJECT, ious, 0.0)
    highest = tf.reduce_max(of_objects, axis=2)
    positive = highest >= high
    if best:
        tops = tf.reduce_max(of_objects, axis=1, keepdims=True)
        positive |= tf.reduce_any((of_objects == tops) & (tops > 0), axis=2)
    is_over_ignored = tf.reduce_any((kinds == IGNORED) & (ious > _IGNORED_FROM), axis=2)
    has_area = area(boxes) > 0
    return Matches(
        tf.argmax(of_objects, axis=2, output_type=tf.int32),
        positive & has_area,
        (highest < low) & ~positive & ~is_over_ignored & has_area,
    )


def sample(matches: Matches, keys, stream: draws.Stream, count: int, most: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Sample boxes: positive ones up to a limit, the rest negative.

    Args:
        matches: a `Matches`.
        keys: int64 [b], see `draws.keys`; they determine the sample.
        stream: a `draws.Stream`.
        count: boxes of an example to sample.
        most: most positive boxes of an example.

    Returns:
        Indices, int32 [b, min(count, n)], positive ones first; bool of the same shape, false for padding where an
        example has too few boxes.
    """
    _, positive, negative = matches
    total = positive.shape[-1]
    count, most = min(count, total), min(most, total)
    order = draws.uniform(keys, stream, total)
    (hit, hits), (miss, misses) = (
        tf.math.top_k(tf.where(mask, order, -1.0), limit) for mask, limit in ((positive, most), (negative, count))
    )
    hit, miss = (tf.reduce_sum(tf.cast(numbers >= 0, tf.int32), axis=1, keepdims=True) for numbers in (hit, miss))
    slot = tf.range(count)[None]
    index = tf.gather(tf.concat([hits, misses], axis=1), tf.where(slot < hit, slot, most + slot - hit), batch_dims=1)
    return index, slot < hit + miss


def propose(objectness, deltas, anchors: list, side: int, candidates: int, count: int, threshold: float) -> tf.Tensor:
    """Return the proposals of an RPN (Ren et al. 2015, section 3.3).

    Args:
        objectness: float32 [b, n], logits at each anchor.
        deltas: float32 [b, n, 4] from the anchors, with variance 1.
        anchors: list over levels.
        side: side of the view in pixels.
        candidates: best anchors of each level, before NMS.
        count: proposals of all levels, after NMS.
        threshold: IoU above which NMS, within a level, drops the box of lower score.

    Returns:
        float32 [b, count or fewer, 4], by falling score; padded with boxes of -1.
    """
    make = keras_cv.layers.ROIGenerator(
        _FORMAT, candidates, 0.0, threshold, count, candidates, 0.0, threshold, count, dtype="float32"
    )
    offsets = np.cumsum([0, *map(len, anchors)])
    boxes, scores = {}, {}
    for level, (of_level, start, stop) in enumerate(zip(anchors, offsets, offsets[1:], strict=False)):
        boxes[level] = decode(deltas[:, start:stop], of_level, side)
        scores[level] = tf.sigmoid(objectness[:, start:stop])
    return make(boxes, scores)[0]


def align(features: list, strides: list[int], boxes, size: int) -> tf.Tensor:
    """Crop features by RoI align (He et al. 2017, Mask R-CNN): means of 2x2 bilinear samples in each bin.

    Pixel centres are at halves. A box uses the level of Lin et al. 2017, equation 1, or the nearest available one.
    Bilinear sampling and the mean of a bin are separable, so each axis has one matrix.

    Args:
        features: list over levels of [b, height, width, channels].
        strides: strides of the levels, powers of two.
        boxes: float32 [b, n, 4], within the view.
        size: bins along each axis.

    Returns:
        [b, n, size, size, channels] of the dtype of the features.
    """
    levels = [int(math.log2(stride)) for stride in strides]
    sides = tf.sqrt(tf.maximum(area(boxes), 1.0))
    # 1e-6, so that 224 itself belongs to the upper level whatever the last bit of the logarithm.
    level = tf.floor(_LEVEL + tf.math.log(sides / _LEVEL_SIZE) / math.log(2) + 1e-6)
    level = tf.clip_by_value(level, levels[0], levels[-1])
    total = 0
    for of_level, stride, values in zip(levels, strides, features, strict=True):
        down = _bins(boxes[..., 0], boxes[..., 2], stride, values.shape[1], size)
        across = _bins(boxes[..., 1], boxes[..., 3], stride, values.shape[2], size)
        if len(levels) > 1:
            down *= tf.cast(level == of_level, tf.float32)[..., None, None]
        rows = tf.einsum("bnih,bhwc->bniwc", tf.cast(down, values.dtype), values)
        total += tf.matmul(tf.cast(across, values.dtype)[:, :, None], rows)
    return total


def _bins(start, stop, stride, count, size):
    """Return the weight of each position of an axis in each bin: [b, n] to [b, n, size, count]; rows sum to 1."""
    points = (tf.range(size * _SAMPLES, dtype=tf.float32) + 0.5) / (size * _SAMPLES)
    points = (start[..., None] + (stop - start)[..., None] * points) / stride - 0.5
    points = tf.clip_by_value(points, 0.0, count - 1.0)
    shares = tf.maximum(1 - tf.abs(points[..., None] - tf.range(count, dtype=tf.float32)), 0.0)
    return tf.reduce_mean(tf.reshape(shares, [-1, start.shape[1], size, _SAMPLES, count]), axis=3)


def detect(boxes, scores, least: float, threshold: float, count: int) -> tf.Tensor:
    """Return the best boxes of all classes after NMS within each class.

    Args:
        boxes: float32 [b, n, classes, 4].
        scores: float32 [b, n, classes], in [0, 1].
        least: score above which a box is kept.
        threshold: IoU above which NMS drops the box of lower score.
        count: boxes of an example.

    Returns:
        float32 [b, count, PACKED], by falling score, see `boxes.Detections.pack`; padded with rows of zeros.
    """
    total, classes = scores.shape[1:]
    by_class = tf.reshape(tf.transpose(boxes, [0, 2, 1, 3]), [-1, total, 4])
    of_class = tf.reshape(tf.transpose(scores, [0, 2, 1]), [-1, total])
    most = min(count, total)
    index, valid = tf.image.non_max_suppression_padded(
        by_class, of_class, most, threshold, least, pad_to_max_output_size=True, canonicalized_coordinates=True
    )
    kept = tf.where(tf.range(most)[None] < valid[:, None], tf.gather(of_class, index, batch_dims=1), 0.0)
    kept = tf.reshape(kept, [-1, classes * most])
    kept_boxes = tf.reshape(tf.gather(by_class, index, batch_dims=1), [-1, classes * most, 4])
    labels = tf.tile(tf.repeat(tf.range(classes), most)[None], [tf.shape(scores)[0], 1])
    missing = max(0, count - classes * most)
    packed = tf.pad(Detections(kept_boxes, kept, labels).pack(), [[0, 0], [0, missing], [0, 0]])
    best, order = tf.math.top_k(tf.pad(kept, [[0, 0], [0, missing]]), count)
    return tf.where(best[..., None] > 0, tf.gather(packed, order, batch_dims=1), 0.0)
