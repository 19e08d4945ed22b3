"""Erasing and mixing of normalised images, on the device and batched.

Whatever is drawn for an example comes from its own key, and its partner is its neighbour in the batch. So
a replica that has an even part of the batch makes of it what a single one would.
"""

import math

import tensorflow as tf

from resnet_tf.data import draws

_TRIES = 10
_AREA = (0.02, 0.4)
_ASPECT = 0.3  # and up to its inverse


def erase(images, keys, probability, area=_AREA, fill=0.0):
    """Random erasing (Zhong et al. 2017, arXiv 1708.04896, algorithm 1).

    A rectangle of an area that is uniform in its range and an aspect ratio in [0.3, 1 / 0.3], here uniform
    in its logarithm, so that tall and wide ones are as likely. The first of ten tries that fits is erased; where
    none fits, nothing is.

    Args:
        images: float [n, height, width, channels].
        keys: int64 [n]; see `draws.keys`.
        probability: that an image is erased at all.
        area: smallest and largest part of the image that is erased; 0.02 and 0.4 in the paper.
        fill: what erased pixels become, a number or an array that broadcasts to an image. 0 is after normalisation the
            mean colour (the paper's RE-M).

    Returns:
        Images of the same shape and type.
    """
    boxes = erasing_boxes(keys, *images.shape[1:3], probability, area)
    return _fill(images, boxes, tf.cast(fill, images.dtype))


def erasing_boxes(keys, height, width, probability, area=_AREA):
    """Draw what `erase` erases.

    Args:
        keys: int64 [n]; see `draws.keys`.
        height: of the images, a Python integer.
        width: of the images, likewise.
        probability: that an image is erased at all.
        area: see `erase`.

    Returns:
        int32 [n, 4]: top, left, bottom, right, the last two exclusive; all 0 where nothing is erased.
    """
    numbers = draws.uniform(keys, draws.Stream.ERASING, 3 + 2 * _TRIES)
    chance, place, areas, aspects = tf.split(numbers, [1, 2, _TRIES, _TRIES], axis=1)
    areas = height * width * (area[0] + (area[1] - area[0]) * areas)
    root = tf.exp(math.log(_ASPECT) * (aspects - 0.5))  # of the aspect ratio
    tall, wide = tf.cast(tf.round(tf.sqrt(areas) * root), tf.int32), tf.cast(tf.round(tf.sqrt(areas) / root), tf.int32)
    fits = (tall < height) & (wide < width)
    first = tf.reduce_min(tf.where(fits, tf.range(_TRIES), _TRIES), axis=1)
    chosen = tf.one_hot(first, _TRIES, dtype=tf.int32)  # all 0, thus an empty box, where none fits
    chosen *= tf.cast(chance < probability, tf.int32)
    sides = tf.stack([tf.reduce_sum(tall * chosen, axis=1), tf.reduce_sum(wide * chosen, axis=1)], axis=1)
    room = tf.constant([height, width]) - sides
    # The minimum: in float32 a number just below 1 may come out as room + 1.
    corner = tf.minimum(tf.cast(place * tf.cast(room + 1, tf.float32), tf.int32), room)
    boxes = tf.concat([corner, corner + sides], axis=1)
    return tf.where(tf.reduce_all(sides > 0, axis=1, keepdims=True), boxes, 0)


def mixup(images, targets, keys, alpha):
    """Mixup (Zhang et al. 2017, arXiv 1710.09412): lambda x_i + (1 - lambda) x_j, targets likewise.

    lambda is from Beta(alpha, alpha), another for each example; j, the partner of i, is i XOR 1. Batches are
    shuffled, so that a neighbour is as random as any.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        alpha: of the Beta distribution, above 0; 0.2 in Bag of Tricks.

    Returns:
        images, targets, of the same shapes and types, and lambda, float32 [n].

    Raises:
        ValueError: n is odd.
    """
    return mix(images, targets, keys, alpha, 0.0)


def cutmix(images, targets, keys, alpha):
    """CutMix (Yun et al. 2019, arXiv 1905.04899): a box of the partner's pixels, and of its target as much.

    The box has 1 - Beta(alpha, alpha) of the area and a uniform centre, and is clipped to the image; lambda is what
    the example keeps after that. Partners as in `mixup`.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        alpha: of the Beta distribution, above 0; 1 in the paper.

    Returns:
        images, targets, of the same shapes and types, and lambda, float32 [n].

    Raises:
        ValueError: n is odd.
    """
    return mix(images, targets, keys, 0.0, alpha)


def mix(images, targets, keys, mixup_alpha, cutmix_alpha):
    """Mixup or CutMix; where both are wanted, each example takes one of them with probability 0.5, as in timm.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        mixup_alpha: see `mixup`; 0 for none.
        cutmix_alpha: see `cutmix`; 0 for none.

    Returns:
        images, targets, of the same shapes and types, and lambda, float32 [n]: the example's own part.

    Raises:
        ValueError: n is odd.
    """
    if not (mixup_alpha or cutmix_alpha):
        return images, targets, tf.ones_like(keys, tf.float32)
    if images.shape[0] is not None and images.shape[0] % 2:
        raise ValueError(f"{images.shape[0]} examples in a batch: mixing pairs neighbours, so it must be even")
    height, width = images.shape[1:3]
    boxes = None
    if mixup_alpha:
        own = outside = draws.beta(keys, draws.Stream.MIXING, mixup_alpha)  # outside: of the box
    if cutmix_alpha:
        boxes = cutmix_boxes(keys, height, width, cutmix_alpha)
        if mixup_alpha:
            cut = draws.uniform(keys, draws.Stream.PLACING, 3)[:, 2] < 0.5
            boxes = tf.where(cut[:, None], boxes, 0)
            outside = tf.where(cut, 1.0, own)
        else:
            outside = tf.ones_like(keys, tf.float32)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        kept = 1 - tf.cast(area, tf.float32) / (height * width)
        own = outside * kept  # one of them is 1
    part = tf.cast(own, targets.dtype)[:, None]
    targets = part * targets + (1 - part) * partner(targets)
    return _blend(images, outside, boxes), targets, own


def cutmix_boxes(keys, height, width, alpha):
    """Draw the boxes of `cutmix`.

    Args:
        keys: int64 [n]; see `draws.keys`.
        height: of the images, a Python integer.
        width: of the images, likewise.
        alpha: see `cutmix`.

    Returns:
        int32 [n, 4]: top, left, bottom, right, the last two exclusive; clipped to the image.
    """
    size = tf.constant([height, width], tf.float32)
    side = tf.sqrt(1 - draws.beta(keys, draws.Stream.MIXING, alpha))
    half = tf.cast(size * side[:, None], tf.int32) // 2
    centre = tf.cast(size * draws.uniform(keys, draws.Stream.PLACING, 2), tf.int32)
    limit = tf.constant([height, width])
    return tf.concat([tf.maximum(centre - half, 0), tf.minimum(centre + half, limit)], axis=1)


def partner(values):
    """What belongs to example i XOR 1, for each i; [n, ...] with n even."""
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, [1]), tf.shape(values))


def _inside(boxes, height, width):
    top, left, bottom, right = tf.unstack(boxes[:, None], axis=2)
    rows, columns = tf.range(height), tf.range(width)
    return (((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None])[..., None]


# Compiled on CPUs too: one pass over the pixels.
@tf.function(jit_compile=True, autograph=False)
def _fill(images, boxes, fill):
    return tf.where(_inside(boxes, *images.shape[1:3]), fill, images)


@tf.function(jit_compile=True, autograph=False)
def _blend(images, outside, boxes):
    """Each image times `outside` plus the partner's rest; inside of its box, if any, the partner's alone."""
    part = outside[:, None, None, None]
    if boxes is not None:
        part = tf.where(_inside(boxes, *images.shape[1:3]), 0.0, part)
    part = tf.cast(part, images.dtype)
    return part * images + (1 - part) * partner(images)
