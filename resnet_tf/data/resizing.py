"""Antialiased resizing: by TensorFlow's kernel on CPUs, and by products of matrices on GPUs, for which it has none.

Each axis is resized by itself: output[i] is the sum over j of weight[i, j] * input[j]. The weights are a triangle
(bilinear) or Keys' cubic with a = -0.5 (bicubic), stretched by the factor by which the axis shrinks, with half-pixel
centres and a sum of one. Bilinear is `tf.image.resize(antialias=True)`. Bicubic is Pillow's `resize`: values are
rounded to 8 bits between the two axes, since a cubic overshoots at edges and Pillow cuts that off twice. Pillow's
bilinear rounds between the axes too, which changes a value by one level at most.
"""

import contextlib
from collections.abc import Callable

import tensorflow as tf

_RADIUS = {"bilinear": 1, "bicubic": 2}
INTERPOLATIONS = tuple(_RADIUS)
_BITS = 22  # after the point of Pillow's weights


def on_host(wanted: bool) -> contextlib.AbstractContextManager:
    """Return a context in which sizes are computed on the host, if wanted; each that a GPU computes is waited for."""
    return tf.device("/CPU:0") if wanted else contextlib.nullcontext()


def as_one_operation(function: Callable, signature=None):
    """Return a function that stays one operation in a graph which calls it.

    TensorFlow walks over all operations of branches that are not taken, if these are parts of the graph.
    """
    whole = {"_noinline": True}
    return tf.function(function, input_signature=signature, autograph=False, experimental_attributes=whole)


def source_window(sides, scaled, offset, size, interpolation: str = "bilinear") -> tuple[tf.Tensor, tf.Tensor]:
    """Return the part of an image under a window of the scaled image: start and stop of rows and columns, int64 [2].

    Args:
        sides: height and width of the image.
        scaled: height and width of the scaled image, int64 [2].
        offset: top and left of the window in the scaled image, int64 [2].
        size: height and width of the window.
        interpolation: one of `INTERPOLATIONS`.
    """
    sides, size = tf.cast(sides, tf.int64), tf.cast(size, tf.int64)
    margin = _RADIUS[interpolation] * (tf.reduce_max(sides // scaled) + 1) + 1  # larger than the radius of the kernel
    start = tf.maximum(offset * sides // scaled - margin, 0)
    return start, tf.minimum((offset + size) * sides // scaled + margin, sides)


def resize_window(image, scaled, offset, size, interpolation: str = "bilinear", on_gpu: bool = False) -> tf.Tensor:
    """Return a window of a scaled image.

    Only the part under the window is resized, since a very long image would not fit into memory.

    Args:
        image: uint8 [..., H, W, 3].
        scaled: int64 [2], height and width of the scaled image.
        offset: int64 [2], top and left of the window in the scaled image.
        size: height and width of the window.
        interpolation: one of `INTERPOLATIONS`.
        on_gpu: whether a graph that runs on a GPU resizes there, by products; the values may then differ by one level
            where they are half-way between two.

    Returns:
        uint8 [..., size[0], size[1], 3]: antialiased, half-pixel centres, rounded to the nearest.
    """
    # The shape is taken where the image is, which would otherwise be copied to the host for it.
    shape = tf.shape(image, tf.int64)
    with on_host(on_gpu):
        sides = shape[-3:-1]
        start, stop = source_window(sides, scaled, offset, size, interpolation)
    part = image[..., start[0] : stop[0], start[1] : stop[1], :]
    return resize_part(part, sides, start, scaled, offset, size, interpolation, on_gpu)


def resize_part(
    part, sides, start, scaled, offset, size, interpolation: str = "bilinear", on_gpu: bool = False
) -> tf.Tensor:
    """Return the window of `resize_window` from the part of the image that `source_window` returned.

    Args:
        part: uint8 [..., h, w, 3], that part of the image.
        sides: height and width of the whole image.
        start: first row and column of the part.
        scaled: see `resize_window`.
        offset: see `resize_window`.
        size: see `resize_window`.
        interpolation: see `resize_window`.
        on_gpu: see `resize_window`.
    """
    batch, size = part if part.shape.rank == 4 else part[None], tf.cast(size, tf.int32)
    where = (batch, sides, start, scaled, offset, size, interpolation)
    on_cpu = by_kernel if interpolation == "bilinear" else by_integers
    if on_gpu:
        # The index of the device on which the graph runs, known when it runs: a SavedModel moves between machines.
        device = tf.raw_ops.DeviceIndex(device_names=["CPU", "GPU"])
        pixels = tf.switch_case(device, [lambda: on_cpu(*where), lambda: by_products(*where)])
    else:
        pixels = on_cpu(*where)
    pixels = tf.saturate_cast(tf.round(pixels) if interpolation == "bilinear" else _levels(pixels), tf.uint8)
    return pixels if part.shape.rank == 4 else pixels[0]


def by_kernel(part, sides, start, scaled, offset, size, interpolation: str = "bilinear") -> tf.Tensor:
    """Resize bilinearly by TensorFlow's kernel, which runs on CPUs only.

    Args:
        part: uint8 [batch, h, w, 3]; this and the other arguments as for `resize_part`.
        sides: see `resize_part`.
        start: see `resize_part`.
        scaled: see `resize_part`.
        offset: see `resize_part`.
        size: see `resize_part`.
        interpolation: "bilinear".

    Returns:
        float32 [batch, size[0], size[1], 3], not rounded.
    """
    ratio = tf.cast(scaled, tf.float64) / tf.cast(sides, tf.float64)
    translation = tf.cast(start, tf.float64) * ratio - tf.cast(offset, tf.float64)
    return tf.raw_ops.ScaleAndTranslate(
        images=part, size=size, scale=tf.cast(ratio, tf.float32), translation=tf.cast(translation, tf.float32),
        kernel_type="triangle", antialias=True,
    )  # fmt: skip


def by_integers(part, sides, start, scaled, offset, size, interpolation: str = "bicubic") -> tf.Tensor:
    """Resize with Pillow's integers (src/libImaging/Resample.c), so that every level is Pillow's.

    Weights are whole numbers of 22 bits after the point. With floating-point numbers, values half-way between two
    levels, which are frequent where an image grows by a simple ratio, would be rounded otherwise now and then, and
    twice, so that one of some million values would differ by two levels.

    See `by_kernel` for the arguments; the result is of whole numbers in [0, 255].
    """
    for axis in (1, 0):
        where = (sides[axis], scaled[axis], offset[axis], size[axis], interpolation)
        first, taps = pillow_weights(*where)
        last = tf.shape(part)[1 + axis] - 1
        first -= tf.cast(start[axis], tf.int32)
        shape = [1, -1, 1, 1] if axis == 0 else [1, 1, -1, 1]

        def add(tap, total, part=part, axis=axis, first=first, taps=taps, last=last, shape=shape):
            # Taps behind the end of the image have the weight 0.
            pixels = tf.gather(part, tf.minimum(first + tap, last), axis=1 + axis)
            return tap + 1, total + tf.cast(pixels, tf.int32) * tf.reshape(taps[tap], shape)

        counts = tf.tensor_scatter_nd_update(tf.shape(part), [[1 + axis]], size[axis : axis + 1])
        half = tf.fill(counts, 2 ** (_BITS - 1))
        shapes = [tf.TensorShape([]), tf.TensorShape([None, None, None, part.shape[-1]])]
        count = tf.shape(taps)[0]
        _, total = tf.while_loop(lambda tap, _, count=count: tap < count, add, [0, half], shape_invariants=shapes)
        part = tf.cast(tf.clip_by_value(tf.bitwise.right_shift(total, _BITS), 0, 255), tf.uint8)
    return tf.cast(part, tf.float32)


def pillow_weights(side, scaled, offset, size, interpolation: str = "bicubic") -> tuple[tf.Tensor, tf.Tensor]:
    """Return Pillow's weights of one axis.

    Args:
        side: see `weights`.
        scaled: see `weights`.
        offset: see `weights`.
        size: see `weights`.
        interpolation: see `weights`.

    Returns:
        The first pixel of the image under each kernel, int32 [size]; the weights of the pixels from there on, int32
        [taps, size], whose columns sum to about 2^22.
    """
    side = tf.cast(side, tf.float64)
    factor = side / tf.cast(scaled, tf.float64)
    wide = tf.maximum(factor, 1)
    support = _RADIUS[interpolation] * wide
    centres = (tf.cast(tf.range(size) + tf.cast(offset, tf.int32), tf.float64) + 0.5) * factor
    first = tf.maximum(tf.floor(centres - support + 0.5), 0)
    behind = tf.minimum(tf.floor(centres + support + 0.5), side)
    taps = tf.range(2 * tf.math.ceil(support) + 1, dtype=tf.float64)[:, None]
    values = (_cubic if interpolation == "bicubic" else _triangle)(tf.abs((taps + first - centres + 0.5) / wide))
    values = tf.where(taps < behind - first, values, 0)
    values *= 2**_BITS / tf.reduce_sum(values, axis=0)
    return tf.cast(first, tf.int32), tf.cast(tf.sign(values) * tf.floor(tf.abs(values) + 0.5), tf.int32)


def by_products(part, sides, start, scaled, offset, size, interpolation: str = "bilinear") -> tf.Tensor:
    """Resize by products of matrices; see `by_kernel` for the arguments and the result.

    GPUs may multiply float32 in TF32, which keeps 11 bits of each factor; pixels would be wrong by up to 0.2 levels.
    Pixels have 8 bits. Weights, and values between the axes, are split into two numbers of at most 11 bits each, so
    that no factor loses anything, with TF32 or without.
    """
    shape = tf.shape(part)
    rows, columns = (
        weights(shape[1 + axis], sides[axis], start[axis], scaled[axis], offset[axis], size[axis], interpolation)
        for axis in (0, 1)
    )
    # Planes of one colour, [batch * 3, h, w], transposed while they are bytes.
    planes = tf.cast(tf.reshape(tf.transpose(part, [0, 3, 1, 2]), [-1, shape[1], shape[2]]), tf.float32)
    # Both parts of the weights side by side in one product, which reads the pixels once.
    across = tf.matmul(planes, tf.concat(_split(columns), 0), transpose_b=True)
    across = tf.add(*tf.split(across, 2, axis=2))
    rows = _split(rows)
    high, low = (_levels(across), None) if interpolation == "bicubic" else _split(across)
    along = tf.add(*tf.split(tf.matmul(tf.concat(rows, 0), high), 2, axis=1))
    along = along if low is None else along + tf.matmul(rows[0], low)
    return tf.transpose(tf.reshape(along, [shape[0], 3, size[0], size[1]]), [0, 2, 3, 1])


def weights(count, side, start, scaled, offset, size, interpolation: str = "bilinear") -> tf.Tensor:
    """Return the weights of one axis.

    Args:
        count: pixels of the part of the image.
        side: pixels of the whole image.
        start: first pixel of the part.
        scaled: pixels of the whole scaled image.
        offset: first pixel of the window in the scaled image.
        size: pixels of the window.
        interpolation: one of `INTERPOLATIONS`.

    Returns:
        float32 [size, count], whose rows sum to one.
    """
    factor = tf.cast(side, tf.float64) / tf.cast(scaled, tf.float64)
    centres = (tf.cast(tf.range(size) + tf.cast(offset, tf.int32), tf.float64) + 0.5) * factor
    pixels = tf.cast(tf.range(count) + tf.cast(start, tf.int32), tf.float64) + 0.5
    # Positions need float64; distances in units of the kernel do not.
    distances = tf.abs(tf.cast((pixels - centres[:, None]) / tf.maximum(factor, 1), tf.float32))
    values = (_cubic if interpolation == "bicubic" else _triangle)(distances)
    return values / tf.reduce_sum(values, axis=1, keepdims=True)


def _triangle(distance):
    return tf.maximum(1 - distance, 0)


def _cubic(x):
    near, far = (1.5 * x - 2.5) * x * x + 1, ((2.5 - 0.5 * x) * x - 4) * x + 2
    return tf.where(x < 1, near, tf.where(x < 2, far, 0))


def _levels(values):
    """Round to whole levels of 0 to 255, half upwards as Pillow does; float32."""
    return tf.clip_by_value(tf.floor(values + 0.5), 0, 255)


def _split(values):
    """Return two float32 numbers of at most 11 significant bits each for every value, to which they add up."""
    high = tf.cast(tf.cast(values, tf.float16), tf.float32)
    return high, tf.cast(tf.cast(values - high, tf.float16), tf.float32)
