"""The same functions, written so that XLA's programs on a GPU read and write less memory when they train.

A training step of these networks is bound by bytes, not by MACs (docs/performance.md). What XLA fuses depends on how a
function and its gradient are written; the values do not, apart from rounding.
"""

import functools
import itertools

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
    axes = [0, 1, 2]

    @tf.custom_gradient
    def normalize(x, gamma, beta):
        wide = tf.cast(x, tf.float32)
        mean = tf.reduce_sum(wide, axes) / count
        variance = tf.maximum(tf.reduce_sum(wide * wide, axes) / count - mean * mean, 0)
        inverse = tf.math.rsqrt(variance + epsilon)
        scale = gamma * inverse
        outputs = tf.cast(wide * scale + (beta - mean * scale), x.dtype)

        def gradient(upstream, *_):
            wide, upstream = tf.cast(x, tf.float32), tf.cast(upstream, tf.float32)
            centred = wide - mean
            beta_gradient = tf.reduce_sum(upstream, axes)
            gamma_gradient = tf.reduce_sum(upstream * centred, axes) * inverse
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
    to the first of equal maxima, as there. It is kept in memory, as BN's gradient before it would compute it twice.

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

    def gradient(upstream):
        """Of the windows r and r - 1, rows 2r and 2r + 1 of x are taps 0 and 1, and 2 and none; so columns."""
        around = [[0, 0], [1, 1], [1, 1], [0, 0]]
        upstream, chosen = tf.pad(upstream, around), tf.pad(first, around)
        of_window = np.array([[2, 9], [0, 1]], np.uint8)  # the one before, this one
        total = tf.zeros([], upstream.dtype)
        for i, j in itertools.product(range(2), repeat=2):
            tap = 3 * of_window[i][:, None, None, None] + of_window[j][:, None]  # [2, 1, 2, 1]; 9 and more: none
            window = np.s_[:, i : i + rows + 1, None, j : j + columns + 1, None]
            total += tf.where(chosen[window] == tap, upstream[window], tf.zeros([], upstream.dtype))
        spread = tf.reshape(total, [-1, 2 * rows + 2, 2 * columns + 2, x.shape[-1]])[:, :height, :width]
        return optimization_barrier(spread)[0]

    return largest, gradient
