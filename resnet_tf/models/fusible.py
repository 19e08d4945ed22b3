"""Layer functions written so that XLA reads and writes less GPU memory in training.

Memory traffic, not arithmetic, limits the training of these networks (docs/performance.md). What XLA can fuse depends
on how a function and its gradient are written. The values are the same up to rounding.
"""

import functools

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util


def wanted() -> bool:
    """Return whether the function being traced will be compiled by XLA for a GPU."""
    return bool(on_gpu() and control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))


def on_gpu() -> list:
    """Return the GPUs; an empty list if there are none."""
    return tf.config.list_physical_devices("GPU")


def count_of_each_channel(x: tf.Tensor) -> tf.Tensor:
    """Return the number of values per channel in [batch, height, width, channels], a float32 scalar."""
    return tf.reduce_prod(tf.cast(tf.shape(x)[:-1], tf.float32))


def sums_of_each_channel(*values: tf.Tensor) -> list[tf.Tensor]:
    """Return the sum over all but the last axis of each [batch, height, width, channels].

    A tensor with at least 64 channels and 16,384 values per image is first summed in groups of a power of two of
    pixels. The groups that XLA chooses by itself are multiples of 7 times 7, the last resolution of 224 pixels; their
    loops are not unrolled and keep fewer bytes in flight. In ResNet-50 with batch 256 on an H200, the kernels of large
    tensors reach 3.4 to 4.2 TB/s this way, instead of 3.0 to 3.8.
    """
    *pixels, channels = values[0].shape[1:]
    if None in pixels or channels < 64 or np.prod(pixels) * channels < 2**14:
        return [tf.reduce_sum(value, [0, 1, 2]) for value in values]
    pixels = tf.reduce_prod(tf.shape(values[0])[:-1])
    # A thread block sums 128 channels of one group. An H100 runs 264 blocks at once; 784 is nearly three times that,
    # and rounding the group size down to a power of two gives between 784 and twice as many blocks.
    limit = pixels * max(channels // 128, 1) // 784
    sizes = tf.constant(2 ** np.arange(15), tf.int32)
    size = tf.reduce_max(tf.where((sizes <= limit) & (pixels % sizes == 0), sizes, 1))
    shape = tf.stack([pixels // size, size, channels])
    groups = tf.concat([tf.reduce_sum(tf.reshape(value, shape), 1) for value in values], 1)
    return tf.split(tf.reduce_sum(groups, 0), len(values))


def global_norm(tensors: list[tf.Tensor]) -> tf.Tensor:
    """Compute `tf.linalg.global_norm` in two stages: sums per index of the last axis, then one sum over all tensors.

    By itself XLA needs a second kernel for each tensor, which is 32 more in a training step of ResNet-50.
    """
    parts = []
    for tensor in tensors:
        axes = list(range(tensor.shape.rank))
        parts.append(tf.reshape(tf.reduce_sum(tf.square(tensor), axes[:-1] or axes), [-1]))
    return tf.sqrt(tf.reduce_sum(*optimization_barrier(tf.concat(parts, 0))))


def batch_norm(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float) -> tuple:
    """Normalise a batch in training, as one scale and one offset per channel.

    This form is cheap enough that XLA recomputes it when the gradient of the following ReLU needs to know which values
    were positive, instead of storing them. In ResNet-50 with batch 256 the gradient reads and writes 2.1 GB less.

    Args:
        x: [batch, height, width, channels].
        gamma: float32 [channels].
        beta: float32 [channels].
        epsilon: number added to the variance.

    Returns:
        The outputs, with shape and type of `x`; mean and variance of the batch, float32 [channels], through which no
        gradient flows.
    """
    count = count_of_each_channel(x)

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        wide = tf.cast(x, tf.float32)
        total, squares = sums_of_each_channel(wide, wide * wide)
        mean = total / count
        variance = tf.maximum(squares / count - mean * mean, 0)
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        outputs = tf.cast(wide * scale + (beta - mean * scale), x.dtype)

        def gradient(upstream, *_):
            wide, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
            centred = wide - mean
            beta_gradient, gamma_gradient = sums_of_each_channel(upstream, upstream * centred)
            gamma_gradient *= inverse
            through_variance = -scale * inverse * gamma_gradient / count
            through_mean = -scale * beta_gradient / count
            x_gradient = upstream * scale + centred * through_variance + through_mean
            return tf.cast(x_gradient, x.dtype), gamma_gradient, beta_gradient

        return (outputs, mean, variance), gradient

    return normalize(x, gamma, beta)


@tf.custom_gradient
def relu_of_sum(x: tf.Tensor) -> tf.Tensor:
    """Compute max(x, 0) of a sum of two paths, with a gradient that reads the output instead of the sum.

    By itself XLA reads both paths and adds them again in the gradient. That is one more pass over the largest tensors
    and prevents some fusions: 5.3 GB in ResNet-50 with batch 256.
    """
    outputs = tf.nn.relu(x)

    def gradient(upstream):
        (stored,) = optimization_barrier(outputs)
        return tf.where(stored > 0, upstream, tf.zeros([], upstream.dtype))

    return outputs, gradient


@tf.custom_gradient
def max_pool_2x2(x: tf.Tensor) -> tf.Tensor:
    """Compute a 2x2 max pool of stride 2 without padding, with elementwise operations in both directions.

    The values are those of `tf.nn.max_pool2d`, and the gradient goes to the first of equal maxima, as there. XLA
    compiles the gradient of that operation to a scatter, as `max_pool` says.

    Args:
        x: [batch, height, width, channels], with height and width known and at least 2.

    Returns:
        [batch, height // 2, width // 2, channels].
    """
    height, width, channels = x.shape[1:]
    rows, columns = height // 2, width // 2
    taps = [x[:, i : 2 * rows : 2, j : 2 * columns : 2] for i in range(2) for j in range(2)]
    largest = functools.reduce(tf.maximum, taps)
    first = tf.fill(tf.shape(largest), tf.constant(3, tf.uint8))
    for tap in reversed(range(3)):
        first = tf.where(taps[tap] == largest, tf.constant(tap, tf.uint8), first)
    largest, first = optimization_barrier(largest, first)

    def gradient(upstream):
        taps = np.arange(4, dtype=np.uint8).reshape(1, 1, 2, 1, 2, 1)
        windows = (tf.reshape(values, [-1, rows, 1, columns, 1, channels]) for values in (upstream, first))
        upstream, chosen = windows
        inner = tf.where(chosen == taps, upstream, tf.zeros([], upstream.dtype))
        inner = tf.reshape(inner, [-1, 2 * rows, 2 * columns, channels])
        return tf.pad(inner, [[0, 0], [0, height % 2], [0, width % 2], [0, 0]])

    return largest, gradient


@tf.custom_gradient
def max_pool(x: tf.Tensor) -> tf.Tensor:
    """Compute a 3x3 max pool of stride 2 without padding, with elementwise operations in both directions.

    The values are those of `tf.nn.max_pool2d`. XLA compiles the gradient of that operation to a scatter, which takes 3%
    of a training step of ResNet-50 on an H100. As there, the gradient goes to the first of equal maxima. The kernels of
    the gradient here do not branch and load at least four values at a time. Only the outermost pixels use the scatter;
    XLA removes it if they are padding, as in all networks here.

    Args:
        x: [batch, height, width, channels], with height and width known and at least 3.

    Returns:
        [batch, (height - 3) // 2 + 1, (width - 3) // 2 + 1, channels].
    """
    height, width = x.shape[1:3]
    rows, columns = (height - 3) // 2 + 1, (width - 3) // 2 + 1
    taps = [x[:, i : i + 2 * rows - 1 : 2, j : j + 2 * columns - 1 : 2] for i in range(3) for j in range(3)]
    largest = functools.reduce(tf.maximum, taps)
    first = tf.fill(tf.shape(largest), tf.constant(8, tf.uint8))
    for tap in reversed(range(8)):
        first = tf.where(taps[tap] == largest, tf.constant(tap, tf.uint8), first)
    # The gradient addresses all windows as one list, in which the window of the next row is `columns` further. After
    # the last window of a row or of an image comes the first of the next one. Only its taps in row or column 0 could be
    # reached by mistake, so they get the number 9, which is no tap.
    first_row = (tf.range(rows) == 0)[:, None, None] & (first < 3)
    first_column = (tf.range(columns) == 0)[:, None] & (first % 3 == 0)
    argmax = tf.where(first_row | first_column, tf.constant(9, tf.uint8), first)
    largest, argmax = optimization_barrier(largest, argmax)

    def gradient(upstream):
        windows = [tf.reshape(values, [-1, x.shape[-1]]) for values in (upstream, argmax)]
        windows = optimization_barrier(*(tf.pad(values, [[0, columns + 1], [0, 0]]) for values in windows))

        def of(window, tap):
            gradients, taps = (values[window : window - columns - 1 or None] for values in windows)
            gradients = tf.where(taps == tap, gradients, tf.zeros([], gradients.dtype))
            return tf.reshape(gradients, [-1, rows, 1, columns, 1, x.shape[-1]])

        # Row 2r + 1 is tap 1 of window r. Row 2r + 2 is tap 2 of window r and tap 0 of window r + 1. Columns are alike.
        below, right = np.array([False, True])[:, None, None, None], np.array([False, True])[:, None]
        inner = tf.where(
            below,
            tf.where(right, of(0, 8) + of(1, 6) + of(columns, 2) + of(columns + 1, 0), of(0, 7) + of(columns, 1)),
            tf.where(right, of(0, 5) + of(1, 3), of(0, 4)),
        )
        inner = tf.reshape(inner, [-1, 2 * rows, 2 * columns, x.shape[-1]])
        (inner,) = optimization_barrier(inner)
        outer = tf.raw_ops.MaxPoolGrad(
            orig_input=x, orig_output=largest, grad=upstream, ksize=[1, 3, 3, 1], strides=[1, 2, 2, 1], padding="VALID"
        )
        beside = outer[:, 1 : 2 * rows + 1]
        inner = tf.concat([beside[:, :, :1], inner, beside[:, :, 2 * columns + 1 :]], 2)
        return tf.concat([outer[:, :1], inner, outer[:, 2 * rows + 1 :]], 1)

    return largest, gradient
