"""Random erasing, mixup and CutMix of batches of normalised images on the device.

The random numbers of an example depend on its key, and its partner is its neighbour in the batch. A replica with an
even number of examples therefore computes the same as a single device would.
"""

import math

import tensorflow as tf

from resnet_tf.data import draws

_TRIES = 10
_AREA = (0.02, 0.4)
_ASPECT = 0.3  # smallest aspect ratio; the largest one is its inverse


def erase(images: tf.Tensor, keys: tf.Tensor, probability: float, area=_AREA, fill=0.0) -> tf.Tensor:
    """Erase a random rectangle of each image (Zhong et al. 2017, arXiv 1708.04896, algorithm 1).

    The area of the rectangle is uniform. The aspect ratio is in [0.3, 1 / 0.3] and, unlike in the paper, uniform in its
    logarithm, so that tall and wide rectangles are equally likely. The first of ten tries that fits is erased; if none
    fits, nothing is.

    Args:
        images: float [n, height, width, channels].
        keys: int64 [n]; see `draws.keys`.
        probability: probability that a rectangle of an image is erased.
        area: smallest and largest fraction of the image area that is erased; 0.02 and 0.4 in the paper.
        fill: value of erased pixels, a number or an array that broadcasts to an image. After normalisation 0 is the
            mean colour (RE-M in the paper).

    Returns:
        Images of the same shape and type.
    """
    boxes = erasing_boxes(keys, *images.shape[1:3], probability, area)
    return _fill(images, boxes, tf.cast(fill, images.dtype))


def erasing_boxes(keys: tf.Tensor, height: int, width: int, probability: float, area=_AREA) -> tf.Tensor:
    """Draw the rectangles of `erase`.

    Args:
        keys: int64 [n]; see `draws.keys`.
        height: height of the images.
        width: width of the images.
        probability: see `erase`.
        area: see `erase`.

    Returns:
        int32 [n, 4]: top, left, bottom, right, the last two exclusive; all 0 for an image without a rectangle.
    """
    numbers = draws.uniform(keys, draws.Stream.ERASING, 3 + 2 * _TRIES)
    chance, position, areas, aspects = tf.split(numbers, [1, 2, _TRIES, _TRIES], axis=1)
    areas = height * width * (area[0] + (area[1] - area[0]) * areas)
    root = tf.exp(math.log(_ASPECT) * (aspects - 0.5))  # the square root of the aspect ratio
    tall, wide = tf.cast(tf.round(tf.sqrt(areas) * root), tf.int32), tf.cast(tf.round(tf.sqrt(areas) / root), tf.int32)
    fits = (tall < height) & (wide < width)
    first = tf.reduce_min(tf.where(fits, tf.range(_TRIES), _TRIES), axis=1)
    one_hot = tf.one_hot(first, _TRIES, dtype=tf.int32)  # all 0 if no try fits, which gives an empty box
    one_hot *= tf.cast(chance < probability, tf.int32)
    sides = tf.stack([tf.reduce_sum(tall * one_hot, axis=1), tf.reduce_sum(wide * one_hot, axis=1)], axis=1)
    room = tf.constant([height, width]) - sides
    # In float32 the product with a number just below 1 may be rounded up to room + 1.
    corner = tf.minimum(tf.cast(position * tf.cast(room + 1, tf.float32), tf.int32), room)
    boxes = tf.concat([corner, corner + sides], axis=1)
    return tf.where(tf.reduce_all(sides > 0, axis=1, keepdims=True), boxes, 0)


def mixup(images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, alpha: float) -> tuple:
    """Apply mixup (Zhang et al. 2017, arXiv 1710.09412): images and targets become lambda x_i + (1 - lambda) x_j.

    Each example has its own lambda from Beta(alpha, alpha). The partner j of i is i XOR 1; since batches are shuffled,
    a neighbour is a random example.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        alpha: parameter of the Beta distribution, above 0; 0.2 in Bag of Tricks.

    Returns:
        Images and targets, of the same shapes and types, and lambda, float32 [n].

    Raises:
        ValueError: n is odd.
    """
    return mix(images, targets, keys, alpha, 0.0)


def cutmix(images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, alpha: float) -> tuple:
    """Apply CutMix (Yun et al. 2019, arXiv 1905.04899): replace a box by the partner's pixels, and mix the targets.

    The box has the fraction 1 - Beta(alpha, alpha) of the area and a uniform centre, and is clipped to the image.
    lambda is the fraction of the image outside of the clipped box. Partners are as in `mixup`.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        alpha: parameter of the Beta distribution, above 0; 1 in the paper.

    Returns:
        Images and targets, of the same shapes and types, and lambda, float32 [n].

    Raises:
        ValueError: n is odd.
    """
    return mix(images, targets, keys, 0.0, alpha)


def mix(images: tf.Tensor, targets: tf.Tensor, keys: tf.Tensor, mixup_alpha: float, cutmix_alpha: float) -> tuple:
    """Apply mixup or CutMix; if both are on, each example gets either with probability 0.5, as in timm.

    Args:
        images: float [n, height, width, channels], n even.
        targets: float [n, classes].
        keys: int64 [n]; see `draws.keys`.
        mixup_alpha: see `mixup`; 0 turns it off.
        cutmix_alpha: see `cutmix`; 0 turns it off.

    Returns:
        Images and targets, of the same shapes and types, and lambda, float32 [n], the weight of the example itself.

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
        own = outside = draws.beta(keys, draws.Stream.MIXING, mixup_alpha)  # weight in total and outside of the box
    if cutmix_alpha:
        boxes = cutmix_boxes(keys, height, width, cutmix_alpha)
        if mixup_alpha:
            is_cutmix = draws.uniform(keys, draws.Stream.PLACING, 3)[:, 2] < 0.5
            boxes = tf.where(is_cutmix[:, None], boxes, 0)
            outside = tf.where(is_cutmix, 1.0, own)
        else:
            outside = tf.ones_like(keys, tf.float32)
        area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        own = outside * (1 - tf.cast(area, tf.float32) / (height * width))  # one of the factors is 1
    weight = tf.cast(own, targets.dtype)[:, None]
    targets = weight * targets + (1 - weight) * partner(targets)
    return _blend(images, outside, boxes), targets, own


def cutmix_boxes(keys: tf.Tensor, height: int, width: int, alpha: float) -> tf.Tensor:
    """Draw the boxes of `cutmix`.

    Args:
        keys: int64 [n]; see `draws.keys`.
        height: height of the images.
        width: width of the images.
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


def partner(values: tf.Tensor) -> tf.Tensor:
    """Return [n, ...], n even, with the value of example i XOR 1 at each index i."""
    pairs = tf.reshape(values, [-1, 2, *values.shape[1:]])
    return tf.reshape(tf.reverse(pairs, [1]), tf.shape(values))


def _inside(boxes, height, width):
    top, left, bottom, right = tf.unstack(boxes[:, None], axis=2)
    rows, columns = tf.range(height), tf.range(width)
    return (((rows >= top) & (rows < bottom))[:, :, None] & ((columns >= left) & (columns < right))[:, None])[..., None]


# XLA is also used on CPUs, where it needs a single pass over the pixels.
@tf.function(jit_compile=True, autograph=False)
def _fill(images, boxes, fill):
    return tf.where(_inside(boxes, *images.shape[1:3]), fill, images)


@tf.function(jit_compile=True, autograph=False)
def _blend(images, outside, boxes):
    """Mix each image with weight `outside` with its partner; inside of the box, if any, the weight is 0."""
    weight = outside[:, None, None, None]
    if boxes is not None:
        weight = tf.where(_inside(boxes, *images.shape[1:3]), 0.0, weight)
    weight = tf.cast(weight, images.dtype)
    return weight * images + (1 - weight) * partner(images)
