"""Boxes as tensors: anchors, coding, matching, sampling, proposals, RoI align. Of static shapes, which XLA compiles.

Boxes are float32 [..., 4], top, left, bottom, right in pixels of the view, half-open.

IoU and the coding of boxes are those of `keras.utils.bounding_boxes`. Of keras-cv 0.9 two public layers are used:
`AnchorGenerator`, and `ROIGenerator`, which is TensorFlow's `non_max_suppression_padded` level by level: exactly the
greedy choice, 8 ms for 2,000 boxes on a CPU. The following of Keras 3.15 and keras-cv 0.9 is not used:

    clip_to_image_size  takes dictionaries of boxes in the order left, top, right, bottom alone.
    RoI align           is private in keras-cv. `align` is two products of matrices, so that its gradient needs no
                        scatter, whose order a GPU chooses.
    BoxMatcher          knows no ignored objects. With `force_match_for_each_col` padding makes anchor 0 positive, as
                        tests/test_detection.py shows; without, the best anchor of an object is not positive.
    balanced_sample     is private, and draws from the global generator, so that a resumed run would draw other boxes.
    MultiClassNonMaxSuppression   is `tf.image.combined_non_max_suppression`, which has no kernel for XLA or GPUs.
"""

import math
from typing import NamedTuple

import keras_cv
import numpy as np
import tensorflow as tf
from keras.utils import bounding_boxes

from resnet_tf.data import draws
from resnet_tf.data.boxes import IGNORED, OBJECT, Detections

_FORMAT = "yxyx"  # Keras' name of the order top, left, bottom, right
_IGNORED_FROM = 0.5  # IoU with an ignored object from which on a box is not negative
_MAX_LOG = math.log(1000 / 16)  # of a side over its anchor's, as in Detectron
_SAMPLES = 2  # of a bin of RoI align, each way
_LEVEL, _LEVEL_SIZE = 4, 224  # Lin et al. 2017, equation 1


class Matches(NamedTuple):
    """Which boxes of each example are objects, and which are background. A box can be neither."""

    matched: tf.Tensor  # int32 [b, n], the object of highest IoU with each box
    positive: tf.Tensor  # bool [b, n], whether the box is that object
    negative: tf.Tensor  # bool [b, n], whether the box is background


def anchors(sides, strides, sizes, ratios):
    """The anchors of every place of some feature maps (Ren et al. 2015, section 3.1).

    Args:
        sides: height and width of the view in pixels.
        strides: of each level in pixels.
        sizes: of each level, square roots of the areas of its anchors.
        ratios: widths over heights.

    Returns:
        List over levels of float32 [places * sizes * ratios, 4], row by row, sizes before ratios. Those that reach out
        of the view are among them, as in torchvision.
    """
    found = []
    for stride, of_level in zip(strides, sizes, strict=True):
        make = keras_cv.layers.AnchorGenerator(_FORMAT, [1.0], list(of_level), list(ratios), [stride], dtype="float32")
        with tf.init_scope():
            found.append(make(image_shape=(*sides, 3))[0].numpy())
    return found


def iou(boxes, others):
    """Return the intersection over union of boxes [(b,) n, 4] and [(b,) m, 4], [(b,) n, m]; 0 without area."""
    return bounding_boxes.compute_iou(boxes, others, _FORMAT)


def encode(boxes, anchors, variance=(1.0, 1.0, 1.0, 1.0)):
    """Return the deltas of boxes from anchors, [..., 4], over `variance`.

    They are y and x of the centres' distance in sides of the anchor, and the logarithms of the ratios of the sides.
    """
    return bounding_boxes.encode_box_to_deltas(anchors, boxes, _FORMAT, _FORMAT, variance=variance)


def decode(deltas, anchors, side, variance=(1.0, 1.0, 1.0, 1.0)):
    """Return the boxes of deltas that `encode` made, cut off at the edges of a square view of that side."""
    # Keras' exponent has no bound, so that deltas of an untrained network would make infinite sides.
    highest = [math.inf, math.inf, *(_MAX_LOG / of_side for of_side in variance[2:])]
    boxes = bounding_boxes.decode_deltas_to_boxes(
        anchors, tf.minimum(deltas, highest), _FORMAT, _FORMAT, variance=variance
    )
    return tf.clip_by_value(boxes, 0.0, float(side))


def area(boxes):
    """Return the areas of boxes [..., 4] in square pixels, [...]."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def match(boxes, objects, low, high, best=False):
    """Tell which boxes are objects and which are background.

    Args:
        boxes: float32 [n, 4] or [b, n, 4]; those without area are neither positive nor negative.
        objects: `boxes.ImageObjects` of tensors [b, most, ...].
        low: IoU with every object below which a box is negative.
        high: IoU with any object from which on it is positive.
        best: whether the boxes of the highest IoU with an object are positive too, ties and all.

    Returns:
        `Matches`, in which boxes over an ignored object are not negative.
    """
    ious = iou(boxes, objects.boxes)
    kinds = objects.kinds[:, None]
    of_objects = tf.where(kinds == OBJECT, ious, 0.0)
    highest = tf.reduce_max(of_objects, axis=2)
    positive = highest >= high
    if best:
        tops = tf.reduce_max(of_objects, axis=1, keepdims=True)
        positive |= tf.reduce_any((of_objects == tops) & (tops > 0), axis=2)
    over_ignored = tf.reduce_any((kinds == IGNORED) & (ious > _IGNORED_FROM), axis=2)
    real = area(boxes) > 0
    return Matches(
        tf.argmax(of_objects, axis=2, output_type=tf.int32),
        positive & real,
        (highest < low) & ~positive & ~over_ignored & real,
    )


def sample(matches, keys, stream, count, most):
    """Choose boxes at random, as many positive ones as there are up to a limit, the rest negative.

    Args:
        matches: a `Matches`.
        keys: int64 [b]; see `draws.keys`. The choice is a function of them.
        stream: a `draws.Stream`.
        count: boxes of an example.
        most: of which positive.

    Returns:
        int32 [b, count], which ones, the positive first, or [b, n] where there are no more; and bool of the same shape,
        false where there were too few to choose from.
    """
    _, positive, negative = matches
    total = positive.shape[-1]
    count, most = min(count, total), min(most, total)
    order = draws.uniform(keys, stream, total)
    (hit, hits), (miss, misses) = (
        tf.math.top_k(tf.where(chosen, order, -1.0), of) for chosen, of in ((positive, most), (negative, count))
    )
    hit, miss = (tf.reduce_sum(tf.cast(numbers >= 0, tf.int32), axis=1, keepdims=True) for numbers in (hit, miss))
    place = tf.range(count)[None]
    index = tf.gather(tf.concat([hits, misses], axis=1), tf.where(place < hit, place, most + place - hit), batch_dims=1)
    return index, place < hit + miss


def propose(objectness, deltas, anchors, side, candidates, count, threshold):
    """The proposals of an RPN (Ren et al. 2015, section 3.3).

    Args:
        objectness: float32 [b, n], logits at each anchor.
        deltas: float32 [b, n, 4] from the anchors, without a variance.
        anchors: list over levels.
        side: of the view.
        candidates: of each level, those of the highest scores, before boxes that overlap are suppressed.
        count: of all levels, after that.
        threshold: IoU above which the one of lower score is suppressed, within a level.

    Returns:
        float32 [b, count or fewer, 4], falling by score; boxes of -1 where there are not so many.
    """
    make = keras_cv.layers.ROIGenerator(
        _FORMAT, candidates, 0.0, threshold, count, candidates, 0.0, threshold, count, dtype="float32"
    )
    places = np.cumsum([0, *map(len, anchors)])
    boxes, scores = {}, {}
    for level, (of_level, start, stop) in enumerate(zip(anchors, places, places[1:], strict=False)):
        boxes[level] = decode(deltas[:, start:stop], of_level, side)
        scores[level] = tf.sigmoid(objectness[:, start:stop])
    return make(boxes, scores)[0]


def align(features, strides, boxes, size):
    """RoI align (He et al. 2017, Mask R-CNN): means of 2x2 bilinear samples of each bin, pixel centres at halves.

    A box takes the level of Lin et al. 2017, equation 1, or the nearest that there is. Bilinear sampling and the mean
    of a bin are the same for all columns of a row, so that both are one matrix for each axis.

    Args:
        features: list over levels of [b, height, width, channels].
        strides: of the levels, powers of two.
        boxes: float32 [b, n, 4], within the view.
        size: bins of each side.

    Returns:
        [b, n, size, size, channels] of the type of the features.
    """
    levels = [int(math.log2(stride)) for stride in strides]
    sides = tf.sqrt(tf.maximum(area(boxes), 1.0))
    # A little more than none, since 224 itself belongs to the upper level whatever the logarithm's last bit.
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
    """How much of each place of an axis is in each bin: [b, n] to [b, n, size, count], rows of sum 1."""
    points = (tf.range(size * _SAMPLES, dtype=tf.float32) + 0.5) / (size * _SAMPLES)
    points = (start[..., None] + (stop - start)[..., None] * points) / stride - 0.5
    points = tf.clip_by_value(points, 0.0, count - 1.0)
    shares = tf.maximum(1 - tf.abs(points[..., None] - tf.range(count, dtype=tf.float32)), 0.0)
    return tf.reduce_mean(tf.reshape(shares, [-1, start.shape[1], size, _SAMPLES, count]), axis=3)


def detect(boxes, scores, least, threshold, count):
    """The best boxes of all classes, after those that overlap are suppressed class by class.

    Args:
        boxes: float32 [b, n, classes, 4].
        scores: float32 [b, n, classes], in [0, 1].
        least: score above which a box is kept.
        threshold: IoU above which the one of lower score is suppressed.
        count: boxes of an example.

    Returns:
        float32 [b, count, PACKED], falling by score, see `boxes.Detections.pack`; rows of zeros where there are not so
        many.
    """
    total, classes = scores.shape[1:]
    by_class = tf.reshape(tf.transpose(boxes, [0, 2, 1, 3]), [-1, total, 4])
    of_class = tf.reshape(tf.transpose(scores, [0, 2, 1]), [-1, total])
    most = min(count, total)
    index, valid = tf.image.non_max_suppression_padded(
        by_class, of_class, most, threshold, least, pad_to_max_output_size=True, canonicalized_coordinates=True
    )
    kept = tf.where(tf.range(most)[None] < valid[:, None], tf.gather(of_class, index, batch_dims=1), 0.0)
    found = tf.reshape(tf.gather(by_class, index, batch_dims=1), [-1, classes * most, 4])
    kept = tf.reshape(kept, [-1, classes * most])
    labels = tf.tile(tf.repeat(tf.range(classes), most)[None], [tf.shape(scores)[0], 1])
    found = Detections(found, kept, labels).pack()
    found = tf.pad(found, [[0, 0], [0, max(0, count - classes * most)], [0, 0]])
    kept = tf.pad(kept, [[0, 0], [0, max(0, count - classes * most)]])
    best, order = tf.math.top_k(kept, count)
    return tf.where(best[..., None] > 0, tf.gather(found, order, batch_dims=1), 0.0)
