"""RandAugment (Cubuk et al. 2019, arXiv 1909.13719) with timm's operations of increasing severity, on the device.

TrivialAugment Wide (Müller and Hutter 2021, arXiv 2103.10158) is beside it: the same operations with wider ranges, one
for each image, of a random strength.

The operations of an example depend on its key, like all other random numbers. An operation on a batch has three passes,
a warp, a look-up table and a blend. Each image is changed by one of them at most.

Each operation computes what Pillow computes on uint8 pixels, as in timm. Warps are bilinear; timm chooses between
bilinear and bicubic at random.

Why not `keras.layers.RandAugment` (Keras 3.15) or keras-cv's layer (0.9)? Neither compiles under XLA, which lacks
ImageProjectiveTransformV3 and HistogramFixedWidth. Both draw from a state that cannot be resumed. Keras' layer also
draws the operations once for a whole batch, with one factor for shears and rotations (0.5 is half a turn).
"""

import dataclasses
import math
from collections.abc import Callable

import tensorflow as tf

from resnet_tf.data import draws

LARGEST = 10.0  # largest magnitude
PROBABILITY = 0.5  # probability that a drawn operation is applied, as in timm
_FILL = (124, 116, 104)  # colour of pixels from outside of the image: ImageNet's mean colour

# Pixels are computed in fixed-point integers, so that they do not depend on how a batch is split and compiled: floats
# close to an integer would be rounded up or down depending on how XLA fuses operations. These are the fractional bits
# of positions (for views of up to 4,096 pixels), of interpolation weights, and of the factor of a blend.
_POSITION, _WEIGHT, _FACTOR = 18, 11, 16


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the table.

    Attributes:
        kind: "warp", "table" or "blend", the pass that applies it.
        argument: function(magnitude in [0, 1], sign of 1 or -1) -> argument; float32 tensors [n].
        apply: function that the pass calls; see the comments below.
    """

    kind: str
    argument: Callable
    apply: Callable


# --- Warps: function(argument, height, width) -> matrix; a pixel is read from (x, y) = matrix (x, y, 1) ---------------


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


# --- Blends: function(images) -> images to blend with; int32 [n, height, width, 3] in [0, 255] ------------------------


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


def _integer(largest):
    """Return the argument of an operation that takes an integer from 0 to `largest`."""
    return lambda level, _: tf.floor(level * largest)


def _signed(largest):
    return lambda level, sign: sign * level * largest


def _factor(level, sign):
    return tf.maximum(1 + sign * 0.9 * level, 0.1)


OPERATIONS = {  # in timm's order; numbers are arguments at the largest magnitude
    "autocontrast": Operation("table", _integer(0), _autocontrast),
    "equalize": Operation("table", _integer(0), _equalize),
    "invert": Operation("table", _integer(0), lambda _, values, __: 255 - values),
    "rotate": Operation("warp", _signed(math.radians(30)), _rotate),
    "posterize": Operation("table", lambda level, _: 4 - tf.floor(level * 4), _posterize),
    "solarize": Operation(
        "table",
        lambda level, _: 256 - tf.floor(level * 256),
        lambda threshold, values, _: tf.where(values < threshold, values, 255 - values),
    ),
    "solarize_add": Operation(
        "table",
        _integer(110),
        lambda addend, values, _: tf.where(values < 128, tf.minimum(values + addend, 255), values),
    ),
    "color": Operation("blend", _factor, _grey),
    "contrast": Operation("blend", _factor, _mean_grey),
    "brightness": Operation("blend", _factor, tf.zeros_like),
    "sharpness": Operation("blend", _factor, _smooth),
    "shear_x": Operation("warp", _signed(0.3), lambda shear, *_: _affine(1, shear, 0, 0, 1, 0)),
    "shear_y": Operation("warp", _signed(0.3), lambda shear, *_: _affine(1, 0, 0, shear, 1, 0)),
    "translate_x": Operation("warp", _signed(0.45), lambda shift, _, width: _affine(1, 0, shift * width, 0, 1, 0)),
    "translate_y": Operation("warp", _signed(0.45), lambda shift, height, _: _affine(1, 0, 0, 0, 1, shift * height)),
}


def _wide(name, argument, apply=None):
    """Return an operation of `OPERATIONS` with the range of TrivialAugment Wide."""
    return dataclasses.replace(OPERATIONS[name], argument=argument, apply=apply or OPERATIONS[name].apply)


def _wide_factor(level, sign):
    return 1 + sign * 0.99 * level


WIDE = {  # in torchvision's order, after identity; numbers are those of the paper's table 1 at the largest strength
    "shear_x": _wide("shear_x", _signed(0.99)),
    "shear_y": _wide("shear_y", _signed(0.99)),
    # In whole pixels, however large the image is. At strength 15 it is 16, as in the paper's code; torchvision rounds
    # 15.999999 down to 15.
    "translate_x": _wide(
        "translate_x", lambda level, sign: sign * tf.floor(level * 32), lambda shift, *_: _affine(1, 0, shift, 0, 1, 0)
    ),
    "translate_y": _wide(
        "translate_y", lambda level, sign: sign * tf.floor(level * 32), lambda shift, *_: _affine(1, 0, 0, 0, 1, shift)
    ),
    "rotate": _wide("rotate", _signed(math.radians(135))),
    "brightness": _wide("brightness", _wide_factor),
    "color": _wide("color", _wide_factor),
    "contrast": _wide("contrast", _wide_factor),
    "sharpness": _wide("sharpness", _wide_factor),
    "posterize": _wide("posterize", lambda level, _: 8 - tf.round(level * 6)),
    "solarize": _wide("solarize", lambda level, _: tf.math.ceil(255 - level * 255)),
    "autocontrast": OPERATIONS["autocontrast"],
    "equalize": OPERATIONS["equalize"],
}
_STRENGTHS = 31  # of TrivialAugment Wide: 0 to 30
_POLICIES = {"randaugment": OPERATIONS, "trivialaugment": WIDE}


def augment_trivially(images: tf.Tensor, keys: tf.Tensor) -> tf.Tensor:
    """Apply one random operation of random strength to each image: TrivialAugment Wide.

    The operation is the identity or one of `WIDE`, all with the same probability; its strength is one of 31, all with
    the same probability; its direction, where it has one, is random. Operations compute what torchvision's
    TrivialAugmentWide does with Pillow's bilinear interpolation, where `WIDE` draws the same; pixels from outside have
    ImageNet's mean colour.

    Args:
        images: uint8 [n, height, width, 3], at least 3 x 3 pixels.
        keys: int64 [n]; see `draws.keys`.

    Returns:
        uint8 of the same shape.
    """
    return carry_out(images, *draw_trivially(keys), policy="trivialaugment")


def draw_trivially(keys: tf.Tensor) -> tuple:
    """Draw the operation of each image: its index in `WIDE` or -1 for identity, strength in [0, 1], sign; each [n]."""
    choice, strength, sign = tf.unstack(draws.uniform(keys, draws.Stream.OPERATIONS, 3), axis=1)
    index = tf.minimum(tf.cast(choice * (len(WIDE) + 1), tf.int32), len(WIDE)) - 1
    level = tf.minimum(tf.floor(strength * _STRENGTHS), _STRENGTHS - 1) / (_STRENGTHS - 1)
    return index, level, tf.where(sign < 0.5, -1.0, 1.0)


def augment(images: tf.Tensor, keys: tf.Tensor, operations: int, magnitude: float, deviation: float = 0.0) -> tf.Tensor:
    """Apply random operations to each image, one after the other.

    Args:
        images: uint8 [n, height, width, 3], at least 3 x 3 pixels.
        keys: int64 [n]; see `draws.keys`.
        operations: number of operations to draw from `OPERATIONS`, all with the same probability. Each drawn operation
            is then applied with `PROBABILITY`.
        magnitude: mean magnitude in [0, 10]; 6 for timm's rand-m6.
        deviation: standard deviation of the magnitude, which is normal and clipped to [0, 10]; 0.5 for timm's mstd0.5.

    Returns:
        uint8 of the same shape.
    """
    for choice, level, sign in zip(*draw(keys, operations, magnitude, deviation), strict=True):
        images = carry_out(images, choice, level, sign)
    return images


def draw(keys: tf.Tensor, operations: int, magnitude: float, deviation: float = 0.0) -> tuple:
    """Draw the operations of `augment`.

    Args:
        keys: int64 [n].
        operations: see `augment`.
        magnitude: see `augment`.
        deviation: see `augment`.

    Returns:
        Three lists with a tensor [n] for each operation: its index in `OPERATIONS`, int32, or -1 for none; the
        magnitude in [0, 1], float32; the sign, 1 or -1, float32.
    """
    operations = int(operations)
    numbers = draws.uniform(keys, draws.Stream.OPERATIONS, 3 * operations)
    levels = magnitude + deviation * draws.normal(keys, draws.Stream.MAGNITUDES, operations)
    levels = tf.clip_by_value(levels, 0, LARGEST) / LARGEST
    choices, signs = [], []
    for start in range(0, 3 * operations, 3):
        choice, chance, sign = tf.unstack(numbers[:, start : start + 3], axis=1)
        index = tf.minimum(tf.cast(choice * len(OPERATIONS), tf.int32), len(OPERATIONS) - 1)
        choices.append(tf.where(chance < PROBABILITY, index, -1))
        signs.append(tf.where(sign < 0.5, -1.0, 1.0))
    return choices, tf.unstack(levels, axis=1), signs


def carry_out(
    images: tf.Tensor, choice: tf.Tensor, level: tf.Tensor, sign: tf.Tensor, policy: str = "randaugment"
) -> tf.Tensor:
    """Apply one operation to each image.

    Args:
        images: uint8 [n, height, width, 3].
        choice: int32 [n], indices into the table of operations; -1 for none.
        level: float32 [n], magnitude in [0, 1].
        sign: float32 [n], 1 or -1.
        policy: "randaugment" for `OPERATIONS`, "trivialaugment" for `WIDE`.

    Returns:
        uint8 of the same shape.
    """
    for apply in (_warp, _look_up, _blend):
        images = apply(images, choice, level, sign, policy)
    return images


def _operations_of(kind, choice, level, sign, policy):
    """Yield (images with the operation, bool [n]; argument, float32 [n]; function) for each operation of a kind."""
    for index, operation in enumerate(_POLICIES[policy].values()):
        if operation.kind == kind:
            yield choice == index, operation.argument(level, sign), operation.apply


# XLA is also used on CPUs, where it makes warps and blends five times faster. They are compiled separately, since XLA
# would recompute the pixels of one pass for each use in the next. Sums and gathers of tables are faster without XLA.
@tf.function(jit_compile=True, autograph=False)
def _warp(images, choice, level, sign, policy):
    height, width = images.shape[1:3]
    size, zeros = tf.shape(images)[0], tf.zeros_like(level)
    matrix = [[zeros + value for value in row] for row in _affine(1, 0, 0, 0, 1, 0)]
    for is_used, argument, make_matrix in _operations_of("warp", choice, level, sign, policy):
        for row, new in zip(matrix, make_matrix(argument, height, width), strict=True):
            row[:] = [tf.where(is_used, zeros + b, a) for a, b in zip(row, new, strict=True)]

    def source(row):
        a, b, c = (tf.cast(tf.round(value * 2**_POSITION), tf.int32)[:, None, None] for value in row)
        return a * tf.range(width) + b * tf.range(height)[:, None] + (a + b) // 2 + c

    def taps(position, count):
        position -= 2 ** (_POSITION - 1)
        first = tf.bitwise.right_shift(position, _POSITION)
        weight = tf.bitwise.right_shift(position - tf.bitwise.left_shift(first, _POSITION), _POSITION - _WEIGHT)
        return [tf.clip_by_value(first + offset, 0, count - 1) for offset in (0, 1)], weight[..., None]

    across, down = source(matrix[0]), source(matrix[1])
    inside = (across >= 0) & (across < width * 2**_POSITION) & (down >= 0) & (down < height * 2**_POSITION)
    (columns, right), (rows, low) = taps(across, width), taps(down, height)
    flat, start = tf.reshape(images, [-1, 3]), (tf.range(size) * height)[:, None, None]

    def line(row):
        left, other = (tf.cast(tf.gather(flat, (start + row) * width + column), tf.int32) for column in columns)
        return left * 2**_WEIGHT + right * (other - left)

    upper, lower = line(rows[0]), line(rows[1])
    moved = tf.bitwise.right_shift(upper * 2**_WEIGHT + low * (lower - upper), 2 * _WEIGHT)
    return tf.cast(tf.where(inside[..., None], moved, tf.constant(_FILL)), tf.uint8)


def _look_up(images, choice, level, sign, policy):
    values = tf.range(256)
    table = tf.broadcast_to(values, [tf.shape(images)[0], 3, 256])
    index = 256 * (3 * tf.range(tf.shape(images)[0])[:, None, None, None] + tf.range(3)) + tf.cast(images, tf.int32)
    ones = tf.ones_like(tf.reshape(index, [-1]))
    histogram = tf.math.unsorted_segment_sum(ones, tf.reshape(index, [-1]), tf.size(table))
    histogram = tf.reshape(histogram, tf.shape(table))
    for is_used, argument, make_table in _operations_of("table", choice, level, sign, policy):
        other = make_table(tf.cast(argument, tf.int32)[:, None, None], values, histogram)
        table = tf.where(is_used[:, None, None], other, table)
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), index)


@tf.function(jit_compile=True, autograph=False)
def _blend(images, choice, level, sign, policy):
    images = tf.cast(images, tf.int32)
    factor, other = tf.ones_like(level), tf.zeros_like(images)
    for is_used, argument, make_images in _operations_of("blend", choice, level, sign, policy):
        factor = tf.where(is_used, argument, factor)
        other = tf.where(is_used[:, None, None, None], make_images(images), other)
    factor = tf.cast(tf.round(factor * 2**_FACTOR), tf.int32)[:, None, None, None]
    # The factor is off by at most half of its last bit, so the product is off by 255 / 2 at most. Adding 128 keeps the
    # shift from rounding an exact integer down to the level below.
    blended = tf.bitwise.right_shift(factor * (images - other) + 128, _FACTOR)
    return tf.cast(tf.clip_by_value(other + blended, 0, 255), tf.uint8)
