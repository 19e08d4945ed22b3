"""The same functions, written so that XLA's programs on a GPU read and write less memory when they train.

A training step of these networks is bound by bytes, not by MACs (docs/performance.md). What XLA fuses depends on how a
function and its gradient are written; the values do not, apart from rounding.
"""

import functools

import numpy as np
import tensorflow as tf
from tensorflow.compiler.tf2xla.python.xla import optimization_barrier
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util


def wanted():
    """Whether what is being traced is a program of XLA's for a GPU."""
    return bool(on_gpu() and control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()))


def on_gpu():
    """Whether there is a GPU."""
    return tf.config.list_physical_devices("GPU")


def count_of_each_channel(x):
    """Values that [batch, height, width, channels] has of each channel, float32."""
    return tf.reduce_prod(tf.cast(tf.shape(x)[:-1], tf.float32))


def sums_of_each_channel(*values):
    """Sums over all but the last axis, of [batch, height, width, channels].

    Those of 64 channels and 16,384 values an image, or more, are first sums of groups of pixels, in each a power of
    two. XLA's own groups have the 7 times 7 in them that 224 pixels come down to: their loops are not unrolled, so that
    fewer bytes are under way. In ResNet-50 with batch 256 the kernels of large tensors so reach 3.4 to 4.2 TB/s of an
    H200, not 3.0 to 3.8.
    """
    *pixels, channels = values[0].shape[1:]
    if None in pixels or channels < 64 or np.prod(pixels) * channels < 2**14:
        return [tf.reduce_sum(value, [0, 1, 2]) for value in values]
    pixels = tf.reduce_prod(tf.shape(values[0])[:-1])
    # A block of threads adds up 128 channels of a group. An H100 has room for 264 blocks at once: 784 are nearly three
    # times as many, and with groups of powers of two they come out as 784 or up to twice that.
    most = pixels * max(channels // 128, 1) // 784
    sizes = tf.constant(2 ** np.arange(15), tf.int32)
    size = tf.reduce_max(tf.where((sizes <= most) & (pixels % sizes == 0), sizes, 1))
    shape = tf.stack([pixels // size, size, channels])
    groups = tf.concat([tf.reduce_sum(tf.reshape(value, shape), 1) for value in values], 1)
    return tf.split(tf.reduce_sum(groups, 0), len(values))


def global_norm(tensors):
    """`tf.linalg.global_norm`, of sums for each place on the last axis, which one kernel then adds up for all tensors.

    XLA by itself takes a second kernel for each: 32 more in a step of ResNet-50.
    """
    parts = []
    for tensor in tensors:
        axes = list(range(tensor.shape.rank))
        parts.append(tf.reshape(tf.reduce_sum(tf.square(tensor), axes[:-1] or axes), [-1]))
    return tf.sqrt(tf.reduce_sum(*optimization_barrier(tf.concat(parts, 0))))


def batch_norm(x, gamma, beta, epsilon):
    """Batch normalisation in training, as a scale and an offset for each channel.

    So it is cheap enough for XLA to compute again where the gradient of a ReLU after it asks which values were
    positive, instead of keeping the answer in memory. In ResNet-50 with batch 256 its gradient reads and writes 2.1 GB
    less.

    Args:
        x: [batch, height, width, channels].
        gamma: float32 [channels].
        beta: likewise.
        epsilon: that is added to the variance.

    Returns:
        The same shape and type as x; mean and variance of the batch, float32 [channels], through which no gradient
        flows.
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
def relu_of_sum(x):
    """max(x, 0) of a sum of two paths, whose gradient reads the result.

    XLA knows that the result is positive where the sum is, and would read both paths to add them up again: a pass more
    over the largest tensors, 5.3 GB in all of ResNet-50 with batch 256, with what it then cannot fuse.
    """
    outputs = tf.nn.relu(x)

    def gradient(upstream):
        (kept,) = optimization_barrier(outputs)
        return tf.where(kept > 0, upstream, tf.zeros([], upstream.dtype))

    return outputs, gradient


@tf.custom_gradient
def max_pool(x):
    """3x3 max pool of stride 2 without padding, elementwise in both directions: the values of `tf.nn.max_pool2d`.

    XLA makes a scatter of that operation's gradient, which on an H100 takes 3% of a ResNet-50's step. The gradient goes
    to the first of equal maxima, as there. The gradient's kernels neither branch nor load less than four values at a
    time. Outermost pixels have the scatter's, which XLA leaves out where they are padding, as in all networks here.

    Args:
        x: [batch, height, width, channels], height and width known and at least 3.

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
    # The gradient takes all windows in one line: that of the next row is `columns` further. What follows the last of a
    # row or of an image is the first of another, of which only row or column 0 would be in reach: 9 is no tap.
    first_row = (tf.range(rows) == 0)[:, None, None] & (first < 3)
    first_column = (tf.range(columns) == 0)[:, None] & (first % 3 == 0)
    chosen = tf.where(first_row | first_column, tf.constant(9, tf.uint8), first)
    largest, chosen = optimization_barrier(largest, chosen)

    def gradient(upstream):
        line = [tf.reshape(of_window, [-1, x.shape[-1]]) for of_window in (upstream, chosen)]
        line = optimization_barrier(*(tf.pad(of_window, [[0, columns + 1], [0, 0]]) for of_window in line))

        def of(window, tap):
            gradients, taps = (of_window[window : window - columns - 1 or None] for of_window in line)
            gradients = tf.where(taps == tap, gradients, tf.zeros([], gradients.dtype))
            return tf.reshape(gradients, [-1, rows, 1, columns, 1, x.shape[-1]])

        # Row 2r + 1 is tap 1 of window r; row 2r + 2, below it, is tap 2 of window r and tap 0 of r + 1. So columns.
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
