"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) with timm's operations of increasing severity, on the device.

Keras' own layers are not used: neither `keras.layers.RandAugment` (Keras 3.15) nor keras-cv's (0.9) compiles under
XLA, for want of kernels of ImageProjectiveTransformV3 and HistogramFixedWidth; both draw from state that no resume
knows of; and Keras' draws its operations once for a whole batch, with one factor for shears and turns (0.5 is half a
turn). Here an example's operations follow from its key, as everything else that is random, and an operation on a
batch is three passes, a warp, a look-up table and a blend, of which each image uses one and passes the others as it
is.

Each operation is that of Pillow on uint8 pixels, as in timm; warps are bilinear, where timm takes bilinear or bicubic
at random.
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from resnet_tf.data import draws

LARGEST = 10.0  # magnitude
PROBABILITY = 0.5  # that a chosen operation is carried out, as in timm
_FILL = (124, 116, 104)  # what a warp brings in: ImageNet's mean colour

# Pixels are computed in integers, so that they are the same however a batch is cut and compiled: floats that are all
# but whole are rounded to one level or to its neighbour as operations are fused. Bits behind the point of places (views
# of up to 4,096 pixels), of the parts of their neighbours, and of a blend's factor.
_PLACE, _PART, _FACTOR = 18, 11, 16


@dataclasses.dataclass(frozen=True)
class Operation:
    """A row of the table.

    Attributes:
        kind: "warp", "table" or "blend": which of the three passes carries it out.
        argument: function(magnitude in [0, 1], sign of 1 or -1) -> argument; float32 tensors [n].
        apply: function of the pass: what becomes of the argument.
    """

    kind: str
    argument: Callable
    apply: Callable


# --- Warps: function(argument, height, width) -> where a pixel comes from, (x, y) = matrix (x, y, 1) ------------------


def _affine(a, b, c, d, e, f):
    return [[a, b, c], [d, e, f]]


def _rotate(angle, height, width):
    cosine, sine = tf.cos(angle), tf.sin(angle)
    right, down = width / 2, height / 2
    across = right - cosine * right + sine * down
    return _affine(cosine, -sine, across, sine, cosine, down - sine * right - cosine * down)


# --- Tables: function(argument [n, 1, 1], values [256], histogram [n, 3, 256]) -> int32 [n, 3 or 1, 256] --------------


def _equalize(_, values, histogram):
    present = tf.where(histogram > 0, values, 0)
    last = tf.one_hot(tf.reduce_max(present, axis=2), 256, dtype=tf.int32)
    step = (tf.reduce_sum(histogram, axis=2) - tf.reduce_sum(histogram * last, axis=2))[:, :, None] // 255
    below = tf.cumsum(histogram, axis=2, exclusive=True)
    equal = tf.minimum((step // 2 + below) // tf.maximum(step, 1), 255)
    return tf.where(step > 0, equal, values)


def _autocontrast(_, values, histogram):
    least = tf.reduce_min(tf.where(histogram > 0, values, 255), axis=2, keepdims=True)
    most = tf.reduce_max(tf.where(histogram > 0, values, 0), axis=2, keepdims=True)
    stretched = tf.clip_by_value((values - least) * 255 // tf.maximum(most - least, 1), 0, 255)
    return tf.where(most > least, stretched, values)


def _posterize(bits, values, _):
    step = tf.bitwise.left_shift(tf.ones_like(bits), 8 - bits)
    return values // step * step


# --- Blends: function(images) -> what an image fades into; int32 [n, height, width, 3] of integers in [0, 255] --------


def _grey(images):
    red, green, blue = tf.split(images, 3, axis=3)
    return tf.bitwise.right_shift(19595 * red + 38470 * green + 7471 * blue + 32768, 16)  # Pillow's "L"


def _mean_grey(images):
    pixels = images.shape[1] * images.shape[2]
    return (2 * tf.reduce_sum(_grey(images), [1, 2, 3], keepdims=True) + pixels) // (2 * pixels)


def _smooth(images):
    height, width = images.shape[1:3]
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    box = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    inner = (2 * (box + 4 * images[:, 1:-1, 1:-1]) + 13) // 26
    inside = tf.pad(tf.ones([height - 2, width - 2, 1], tf.bool), [[1, 1], [1, 1], [0, 0]])
    return tf.where(inside, tf.pad(inner, [[0, 0], [1, 1], [1, 1], [0, 0]]), images)


def _whole(most):
    """An argument that is an integer rising to `most`."""
    return lambda level, _: tf.floor(level * most)


def _signed(most):
    return lambda level, sign: sign * level * most


def _factor(level, sign):
    return tf.maximum(1 + sign * 0.9 * level, 0.1)


OPERATIONS = {  # in timm's order, with the argument at the largest magnitude
    "autocontrast": Operation("table", _whole(0), _autocontrast),
    "equalize": Operation("table", _whole(0), _equalize),
    "invert": Operation("table", _whole(0), lambda _, values, __: 255 - values),
    "rotate": Operation("warp", _signed(math.radians(30)), _rotate),
    "posterize": Operation("table", lambda level, _: 4 - tf.floor(level * 4), _posterize),
    "solarize": Operation(
        "table",
        lambda level, _: 256 - tf.floor(level * 256),
        lambda threshold, values, _: tf.where(values < threshold, values, 255 - values),
    ),
    "solarize_add": Operation(
        "table",
        _whole(110),
        lambda more, values, _: tf.where(values < 128, tf.minimum(values + more, 255), values),
    ),
    "color": Operation("blend", _factor, _grey),
    "contrast": Operation("blend", _factor, _mean_grey),
    "brightness": Operation("blend", _factor, tf.zeros_like),
    "sharpness": Operation("blend", _factor, _smooth),
    "shear_x": Operation("warp", _signed(0.3), lambda part, *_: _affine(1, part, 0, 0, 1, 0)),
    "shear_y": Operation("warp", _signed(0.3), lambda part, *_: _affine(1, 0, 0, part, 1, 0)),
    "translate_x": Operation("warp", _signed(0.45), lambda part, _, width: _affine(1, 0, part * width, 0, 1, 0)),
    "translate_y": Operation("warp", _signed(0.45), lambda part, height, _: _affine(1, 0, 0, 0, 1, part * height)),
}


def augment(images, keys, operations, magnitude, deviation=0.0):
    """Carry out some random operations on each image.

    Args:
        images: uint8 [n, height, width, 3], at least 3 x 3 pixels.
        keys: int64 [n]; see `draws.keys`.
        operations: how many are chosen, one after another, each of `OPERATIONS` as likely; each is then carried
            out with `PROBABILITY`.
        magnitude: in [0, 10]; timm's rand-m6 is 6.
        deviation: of the magnitude's normal distribution, which is clipped to [0, 10]; timm's mstd0.5 is 0.5.

    Returns:
        uint8 of the same shape.
    """
    for choice, level, sign in zip(*draw(keys, operations, magnitude, deviation), strict=True):
        images = carry_out(images, choice, level, sign)
    return images


def draw(keys, operations, magnitude, deviation=0.0):
    """What `augment` carries out.

    Args:
        keys: int64 [n].
        operations: see `augment`; likewise the others.
        magnitude: likewise.
        deviation: likewise.

    Returns:
        Three lists with an entry [n] for each operation: its index in `OPERATIONS`, int32, -1 for none; the
        magnitude in [0, 1], float32; the sign, 1 or -1, float32.
    """
    operations = int(operations)
    numbers = draws.uniform(keys, draws.Stream.OPERATIONS, 3 * operations)
    levels = magnitude + deviation * draws.normal(keys, draws.Stream.MAGNITUDES, operations)
    levels = tf.clip_by_value(levels, 0, LARGEST) / LARGEST
    choices, signs = [], []
    for place in range(operations):
        which, chance, sign = tf.unstack(numbers[:, 3 * place : 3 * place + 3], axis=1)
        index = tf.minimum(tf.cast(which * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
        choices.append(tf.where(chance < PROBABILITY, index, -1))
        signs.append(tf.where(sign < 0.5, -1.0, 1.0))
    return choices, tf.unstack(levels, axis=1), signs


def carry_out(images, choice, level, sign):
    """One operation on each image.

    Args:
        images: uint8 [n, height, width, 3].
        choice: int32 [n], indices into `OPERATIONS`; -1 for none.
        level: float32 [n], magnitude in [0, 1].
        sign: float32 [n], 1 or -1.

    Returns:
        uint8 of the same shape.
    """
    for look in (_warp, _look_up, _blend):
        images = look(images, choice, level, sign)
    return images


def _chosen(kind, choice, level, sign):
    """Which images have which operation of a kind: (bool [n], argument float32 [n], function) of each."""
    for index, operation in enumerate(OPERATIONS.values()):
        if operation.kind == kind:
            yield choice == index, operation.argument(level, sign), operation.apply


# Warps and blends are compiled on CPUs too, where that is five times as fast as op by op; each by itself, since XLA
# would compute the pixels of one again for each use in the next. The tables' sums and gathers are faster without.
@tf.function(jit_compile=True, autograph=False)
def _warp(images, choice, level, sign):
    height, width = images.shape[1:3]
    size, zeros = tf.shape(images)[0], tf.zeros_like(level)
    matrix = [[zeros + value for value in row] for row in _affine(1, 0, 0, 0, 1, 0)]
    for here, argument, where_from in _chosen("warp", choice, level, sign):
        other = where_from(argument, height, width)
        for row, new in zip(matrix, other, strict=True):
            row[:] = [tf.where(here, zeros + b, a) for a, b in zip(row, new, strict=True)]

    def source(row):
        a, b, c = (tf.cast(tf.round(value * 2**_PLACE), tf.int32)[:, None, None] for value in row)
        return a * tf.range(width) + b * tf.range(height)[:, None] + (a + b) // 2 + c

    def taps(place, most):
        place -= 2 ** (_PLACE - 1)
        first = tf.bitwise.right_shift(place, _PLACE)
        part = tf.bitwise.right_shift(place - tf.bitwise.left_shift(first, _PLACE), _PLACE - _PART)
        return [tf.clip_by_value(first + step, 0, most - 1) for step in (0, 1)], part[..., None]

    across, down = source(matrix[0]), source(matrix[1])
    inside = (across >= 0) & (across < width * 2**_PLACE) & (down >= 0) & (down < height * 2**_PLACE)
    (columns, right), (rows, low) = taps(across, width), taps(down, height)
    flat, start = tf.reshape(images, [-1, 3]), (tf.range(size) * height)[:, None, None]

    def line(row):
        left, other = (tf.cast(tf.gather(flat, (start + row) * width + column), tf.int32) for column in columns)
        return left * 2**_PART + right * (other - left)

    upper, lower = line(rows[0]), line(rows[1])
    moved = tf.bitwise.right_shift(upper * 2**_PART + low * (lower - upper), 2 * _PART)
    return tf.cast(tf.where(inside[..., None], moved, tf.constant(_FILL)), tf.uint8)


def _look_up(images, choice, level, sign):
    values = tf.range(256)
    table = tf.broadcast_to(values, [tf.shape(images)[0], 3, 256])
    place = 256 * (3 * tf.range(tf.shape(images)[0])[:, None, None, None] + tf.range(3)) + tf.cast(images, tf.int32)
    ones = tf.ones_like(tf.reshape(place, [-1]))
    histogram = tf.math.unsorted_segment_sum(ones, tf.reshape(place, [-1]), tf.size(table))
    histogram = tf.reshape(histogram, tf.shape(table))
    for here, argument, make in _chosen("table", choice, level, sign):
        other = make(tf.cast(argument, tf.int32)[:, None, None], values, histogram)
        table = tf.where(here[:, None, None], other, table)
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), place)


@tf.function(jit_compile=True, autograph=False)
def _blend(images, choice, level, sign):
    images = tf.cast(images, tf.int32)
    factor, other = tf.ones_like(level), tf.zeros_like(images)
    for here, argument, fades_into in _chosen("blend", choice, level, sign):
        factor = tf.where(here, argument, factor)
        other = tf.where(here[:, None, None, None], fades_into(images), other)
    factor = tf.cast(tf.round(factor * 2**_FACTOR), tf.int32)[:, None, None, None]
    # What the factor's last bit may lack, 255 of its halves, must not take a whole value to the level below.
    faded = tf.bitwise.right_shift(factor * (images - other) + 128, _FACTOR)
    return tf.cast(tf.clip_by_value(other + faded, 0, 255), tf.uint8)
