"""Layers that only some networks have: special convolutions, EvoNorm-S0, special pools and paddings."""

import keras
import tensorflow as tf
from tensorflow.python.framework import ops
from tensorflow.python.ops import control_flow_util

from resnet_tf.models import fusible

GROUPS = 32  # of group normalisation and EvoNorm-S0
CELU_ALPHA = 0.3  # Page 2019


@keras.saving.register_keras_serializable("resnet_tf")
class GroupedConv2D(keras.layers.Conv2D):
    """Keras' layer with `groups`, on TensorFlow's kernel; for channels last.

    Keras compiles each grouped convolution by XLA, also where nothing else is compiled. On a CPU, XLA's own grouped
    convolution is a naive loop whose gradient takes a hundred times as long as TensorFlow's, so that there a function
    that is compiled has one convolution for each group.
    """

    def convolution_op(self, inputs, kernel):
        """Convolve images [batch, height, width, channels]."""
        options = {"padding": self.padding.upper(), "dilations": self.dilation_rate}
        inputs, kernel = tf.convert_to_tensor(inputs), tf.convert_to_tensor(kernel)
        if fusible.on_gpu() or not control_flow_util.GraphOrParentsInXlaContext(ops.get_default_graph()):
            return tf.nn.conv2d(inputs, kernel, self.strides, **options)
        parts = zip(tf.split(inputs, self.groups, -1), tf.split(kernel, self.groups, -1), strict=True)
        return tf.concat([tf.nn.conv2d(*part, self.strides, **options) for part in parts], -1)


@keras.saving.register_keras_serializable("resnet_tf")
class StandardizedConv2D(keras.layers.Conv2D):
    """Convolution whose kernel has mean 0 and variance 1 over the inputs of each filter (Qiao et al. 2019).

    The kernel is standardised in the precision of variables, float32 in mixed ones. As in BiT (Kolesnikov et al. 2020)
    there is no gain.
    """

    EPSILON = 1e-8  # added to the variance; that of BiT

    def build(self, input_shape):
        """Create the kernel, which mixed precision too reads in float32."""
        super().build(input_shape)
        self._kernel._autocast = False

    def convolution_op(self, inputs, kernel):
        """Convolve images [batch, height, width, channels]."""
        return super().convolution_op(inputs, tf.cast(self.standardized_kernel(), inputs.dtype))

    def standardized_kernel(self):
        """Return the kernel that images are convolved with, [height, width, channels, filters]."""
        kernel = tf.convert_to_tensor(self.kernel)
        mean, variance = tf.nn.moments(kernel, [0, 1, 2], keepdims=True)
        return (kernel - mean) * tf.math.rsqrt(variance + self.EPSILON)


@keras.saving.register_keras_serializable("resnet_tf")
class EvoNorm(keras.layers.Layer):
    """EvoNorm-S0 (Liu et al. 2020, arXiv 2004.02967): x sigmoid(v x) / std, over groups of channels of each image.

    It is normalisation and activation in one, computed in the precision of variables, float32 in mixed ones.

    Args:
        groups: number of groups.
        epsilon: number added to the variance.
    """

    def __init__(self, groups=GROUPS, epsilon=1e-5, **kwargs):
        super().__init__(**kwargs)
        self.groups = groups
        self.epsilon = epsilon

    def build(self, input_shape):
        """Create gamma, beta and v, [channels]."""
        for name, initializer in (("gamma", "ones"), ("beta", "zeros"), ("v", "ones")):
            shape = input_shape[-1:]
            setattr(self, name, self.add_weight(shape=shape, name=name, initializer=initializer, autocast=False))

    def call(self, inputs):
        """Map [batch, height, width, channels] to the same shape."""
        x, shape = tf.cast(inputs, self.variable_dtype), tf.shape(inputs)
        gamma, beta, v = (tf.convert_to_tensor(variable) for variable in (self.gamma, self.beta, self.v))
        grouped = tf.reshape(x, [shape[0], shape[1], shape[2], self.groups, inputs.shape[-1] // self.groups])
        _, variance = tf.nn.moments(grouped, [1, 2, 4], keepdims=True)
        scaled = tf.reshape(x * tf.sigmoid(x * v), tf.shape(grouped)) * tf.math.rsqrt(variance + self.epsilon)
        return tf.cast(tf.reshape(scaled, shape) * gamma + beta, inputs.dtype)

    def compute_output_shape(self, input_shape):
        """Return the shape of the input."""
        return input_shape

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "groups": self.groups, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable("resnet_tf")
class PaddedIdentity(keras.layers.Layer):
    """Shortcut A (He et al. 2015): every `stride`-th pixel, with zeros in the new channels. It has no parameters.

    The zero channels follow the others, as in fb.resnet.torch; `padding` converts weights of code that pads both sides.

    Args:
        filters: channels of the output, at least as many as the input has.
        stride: stride in pixels along both axes.
    """

    def __init__(self, filters, stride, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.stride = stride

    def call(self, inputs):
        """Map [batch, height, width, channels] to [batch, ceil(height / stride), ceil(width / stride), filters]."""
        # A 1x1 pool takes every stride-th pixel; on a CPU it is four times as fast as a strided slice.
        outputs = inputs
        if self.stride > 1:
            outputs = keras.ops.average_pool(inputs, 1, self.stride, data_format="channels_last")
        return keras.ops.pad(outputs, [[0, 0]] * 3 + [[0, self.filters - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output; sides that are None stay None."""
        batch, *size, _ = input_shape
        size = [None if side is None else -(-side // self.stride) for side in size]
        return (batch, *size, self.filters)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}


def celu(x, *, dtype, name):
    """Add CELU (Barron 2017, arXiv 1704.07483): x, or alpha (exp(x / alpha) - 1) where x is negative.

    It is written as Keras' layers, so that files of Keras need nothing else: the ELU between two factors.
    """
    x = keras.layers.Rescaling(1 / CELU_ALPHA, dtype=dtype, name=f"{name}_in")(x)
    x = keras.layers.Activation("elu", dtype=dtype, name=f"{name}_elu")(x)
    return keras.layers.Rescaling(CELU_ALPHA, dtype=dtype, name=name)(x)


@keras.saving.register_keras_serializable("resnet_tf")
class BlurPool(keras.layers.Layer):
    """3x3 binomial filter of stride 2 over images with reflected borders (Zhang 2019, arXiv 1904.11486)."""

    def call(self, inputs):
        """Map [batch, height, width, channels] to [batch, ceil(height / 2), ceil(width / 2), channels]."""
        x = tf.pad(inputs, [[0, 0], [1, 1], [1, 1], [0, 0]], "REFLECT")
        x = (x[:, :-2:2] + 2 * x[:, 1:-1:2] + x[:, 2::2]) / 4
        return (x[:, :, :-2:2] + 2 * x[:, :, 1:-1:2] + x[:, :, 2::2]) / 4

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output; sides that are None stay None."""
        batch, *size, channels = input_shape
        return (batch, *(None if side is None else -(-side // 2) for side in size), channels)

    def get_config(self):
        """Arguments of the constructor; without this method Keras would ask for it."""
        return super().get_config()


@keras.saving.register_keras_serializable("resnet_tf")
class MinusInfinityPadding(keras.layers.Layer):
    """Padding of images with minus infinity, which a max pool never selects.

    Args:
        pixels: width of the padding on each side.
    """

    def __init__(self, pixels, **kwargs):
        super().__init__(**kwargs)
        self.pixels = pixels

    def call(self, inputs):
        """Map [batch, height, width, channels] to [batch, height + 2 pixels, width + 2 pixels, channels]."""
        sides = [[0, 0], [self.pixels] * 2, [self.pixels] * 2, [0, 0]]
        return keras.ops.pad(inputs, sides, constant_values=float("-inf"))

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "pixels": self.pixels}


@keras.saving.register_keras_serializable("resnet_tf")
class DilatedAveragePool(keras.layers.Layer):
    """2x2 average pool of stride 1 over pixels that are `dilation` apart; at the edges it averages only real pixels.

    It replaces the pool of v1d's shortcut in a network whose strides have become dilations.

    Args:
        dilation: distance in pixels.
    """

    def __init__(self, dilation, **kwargs):
        super().__init__(**kwargs)
        self.dilation = dilation

    def call(self, inputs):
        """Average [batch, height, width, channels]; the shape stays the same."""
        return self._sum(inputs) / self._sum(keras.ops.ones_like(inputs[:1, :, :, :1]))

    def _sum(self, x):
        offset = self.dilation
        padded = keras.ops.pad(x, [[0, 0], [0, offset], [0, offset], [0, 0]])
        rows = padded[:, :-offset] + padded[:, offset:]
        return rows[:, :, :-offset] + rows[:, :, offset:]

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "dilation": self.dilation}


@keras.saving.register_keras_serializable("resnet_tf")
class ImageKeys(keras.layers.Layer):
    """A hash of each image, the key of its random numbers in `StochasticDepth`; images differ at every step."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)  # autocast would round the images

    def call(self, inputs):
        """Map float32 [batch, height, width, channels] to int64 [batch]."""
        # Rounded, since compilers differ in the last bits of fused operations.
        levels = tf.cast(tf.round(64 * inputs[:, ::7, ::7]), tf.int64)
        levels = tf.reshape(levels, [tf.shape(inputs)[0], -1])
        weights = 2 * tf.range(tf.cast(tf.shape(levels)[1], tf.int64)) + 1
        return tf.reduce_sum(levels * weights, axis=1)

    def compute_output_spec(self, inputs):
        """Return the symbolic output."""
        return keras.KerasTensor(inputs.shape[:1], "int64")

    def get_config(self):
        """Arguments of the constructor; without this method Keras would ask for it."""
        return super().get_config()


@keras.saving.register_keras_serializable("resnet_tf")
class StochasticDepth(keras.layers.Layer):
    """Stochastic depth (Huang et al. 2016, arXiv 1603.09382): in training, drops a residual branch of some images.

    What is kept is divided by 1 - rate, so that nothing changes in inference. It has no state: a resumed run drops the
    same branches as an uninterrupted one, on any number of replicas.

    Args:
        rate: probability that the branch of an image is dropped.
        block: number of the block in its network, from 1, so that blocks drop independently.
    """

    def __init__(self, rate, block, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate
        self.block = block

    def call(self, inputs, training=None):
        """Drop images of a branch [batch, height, width, channels] by their keys, int64 [batch]."""
        x, keys = inputs
        if not training:
            return x
        kept = self.uniform(keys) >= self.rate
        return tf.where(kept[:, None, None, None], x / tf.cast(1 - self.rate, x.dtype), tf.zeros([], x.dtype))

    def uniform(self, keys):
        """Return multiples of 2^-24 in [0, 1), float32 [batch], from SplitMix64 of keys, int64 [batch]."""
        state = tf.bitcast(tf.convert_to_tensor(keys), tf.uint64)
        for step in (self.block, 1):
            state += tf.constant(step * 0x9E3779B97F4A7C15 % 2**64, tf.uint64)
            for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
                state ^= tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64))
                state *= tf.constant(factor, tf.uint64)
        bits = tf.bitwise.right_shift(state, tf.constant(40, tf.uint64))
        # Cast to int32 first, which holds the 24 bits: not every device can cast uint64 to floats.
        return tf.cast(tf.cast(bits, tf.int32), tf.float32) * 2.0**-24

    def compute_output_shape(self, input_shape):
        """Return the shape of the branch."""
        return input_shape[0]

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate, "block": self.block}
