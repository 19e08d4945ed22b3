"""The layers of blocks, stems, shortcuts and heads.

A layer with a stride first pads both sides equally and then convolves without padding, as the reference
implementations do. Keras' padding="same" would pad even sizes only behind, which gives other outputs.
"""

import dataclasses
import math
import sys
import zlib

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.models import fusible

# He et al. 2015. Keras' momentum is one minus PyTorch's.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}

# The supported Keras dtype policies. All of them keep variables and logits in float32.
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
# Passed to every layer, since a user's keras.json may say "channels_first".
FORMAT = "channels_last"

# Convolutions before the first stage: (filters, kernel, stride).
STEMS = {
    "3x3": ((16, 3, 1),),
    "7x7": ((64, 7, 2),),
    "deep": ((32, 3, 2), (32, 3, 1), (64, 3, 1)),
}


@keras.saving.register_keras_serializable("resnet_tf")
class HeNormal(keras.initializers.Initializer):
    """Gaussian with standard deviation sqrt(scale / fan), not truncated.

    NumPy draws the values, since TensorFlow would take a fifth of the time in which a ResNet-50 is built.

    Args:
        scale: 2 if a ReLU follows the layer (He et al. 2015b), 1 otherwise.
        fan: "fan_in" or "fan_out" of the kernel, [..., in, out].
        seed: a non-negative integer.
    """

    def __init__(self, scale, fan, seed):
        self.scale = scale
        self.fan = fan
        self.seed = seed

    def __call__(self, shape, dtype=None):
        """Return a kernel of the given shape."""
        fan = math.prod(shape[:-2]) * (shape[-2] if self.fan == "fan_in" else shape[-1])
        values = np.random.Generator(np.random.SFC64(self.seed)).standard_normal(shape, np.float32)
        values *= np.float32(math.sqrt(self.scale / fan))
        return keras.ops.convert_to_tensor(values, dtype)

    def get_config(self):
        """Arguments of the constructor."""
        return {"scale": self.scale, "fan": self.fan, "seed": self.seed}


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
            outputs = keras.ops.average_pool(inputs, 1, self.stride, data_format=FORMAT)
        return keras.ops.pad(outputs, [[0, 0]] * 3 + [[0, self.filters - inputs.shape[-1]]])

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output; sides that are None stay None."""
        batch, *size, _ = input_shape
        size = [None if side is None else -(-side // self.stride) for side in size]
        return (batch, *size, self.filters)

    def get_config(self):
        """Arguments of the constructor."""
        return {**super().get_config(), "filters": self.filters, "stride": self.stride}


@keras.saving.register_keras_serializable("resnet_tf")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer on TensorFlow's fused kernel, for channels last.

    Keras computes moments and scaling by a chain of elementwise operations, each of which is a pass over memory on a
    CPU. The fused kernel gives the same numbers in one operation, and TensorFlow can fold it into the preceding
    convolution in inference. Training with XLA on a GPU uses `fusible.batch_norm`. Synchronised statistics use Keras'
    implementation.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise images [batch, height, width, channels]; statistics are float32."""
        training = bool(training and self.trainable)
        if training and self.synchronized:
            return super().call(inputs, training=training, mask=mask)
        if training and fusible.wanted():
            gamma, beta = (tf.convert_to_tensor(variable) for variable in (self.gamma, self.beta))
            outputs, mean, variance = fusible.batch_norm(inputs, gamma, beta, self.epsilon)
        else:
            outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
                x=inputs,
                scale=self.gamma,
                offset=self.beta,
                mean=[] if training else self.moving_mean,
                variance=[] if training else self.moving_variance,
                epsilon=self.epsilon,
                is_training=training,
            )
            if training:  # The kernel returns the unbiased variance, n / (n - 1) times Keras'.
                count = fusible.count_of_each_channel(inputs)
                variance = variance * ((count - 1) / count)
        if training:
            for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
                moving.assign(moving * self.momentum + batch * (1 - self.momentum))
        return outputs


@keras.saving.register_keras_serializable("resnet_tf")
class MaxPool(keras.layers.MaxPooling2D):
    """Keras' layer, 3x3 with stride 2; see `fusible.max_pool`."""

    def call(self, inputs, training=None):
        """Return the maximum of each window of images [batch, height, width, channels]."""
        return fusible.max_pool(inputs) if training and fusible.wanted() else super().call(inputs)


@keras.saving.register_keras_serializable("resnet_tf")
class SumReLU(keras.layers.ReLU):
    """Keras' layer after the addition of two paths; see `fusible.relu_of_sum`."""

    def call(self, inputs, training=None):
        """Return max(inputs, 0)."""
        return fusible.relu_of_sum(inputs) if training and fusible.wanted() else super().call(inputs)


# Keras' own layers with the same results.
KERAS = {BatchNormalization: keras.layers.BatchNormalization, MaxPool: keras.layers.MaxPooling2D,
         SumReLU: keras.layers.ReLU}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layers:
    """A factory of the layers of one network, which share precision and initializer.

    Attributes:
        dtype: a Keras dtype policy, such as "float32" or "mixed_bfloat16".
        sync_bn: whether batch statistics are computed over all replicas.
        zero_gamma: whether every residual branch starts at zero.
        initializer: "he" or "xavier"; see `initializer_of`.
        seed: seed of the initial weights. Each kernel is drawn from (seed, its name), so that it does not depend on
            the other layers of the network.
    """

    dtype: str = "float32"
    sync_bn: bool = False
    zero_gamma: bool = False
    initializer: str = "he"
    seed: int = 0

    def __post_init__(self):
        """Refuse a precision in which batch normalisation cannot be computed or would lose its statistics."""
        name = keras.dtype_policies.get(self.dtype).name
        if name not in POLICIES:
            raise InputError(f"dtype={name}: not one of {', '.join(POLICIES)}")

    # --- Single layers -----------------------------------------------------------------------------------------------

    def conv(self, x, filters, kernel, stride=1, dilation=1, zero=False, *, name):
        """Add a convolution without bias, padded by dilation (kernel - 1) / 2 on each side; `zero`: starts at zero."""
        pad = (kernel - 1) // 2
        if stride > 1 and pad:
            x = self.pad(x, pad, name=f"{name}_pad")
        return keras.layers.Conv2D(
            filters,
            kernel,
            stride,
            padding="valid" if stride > 1 else "same",
            data_format=FORMAT,
            dilation_rate=dilation,
            use_bias=False,
            kernel_initializer="zeros" if zero else self.initializer_of(name),
            dtype=self.dtype,
            name=name,
        )(x)

    def pad(self, x, pixels, *, name):
        """Add a border of zeros to each image."""
        return keras.layers.ZeroPadding2D(pixels, data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def pad_identity(self, x, filters, stride, *, name):
        """Add shortcut A."""
        return PaddedIdentity(filters, stride, dtype=self.dtype, name=name)(x)

    def norm(self, x, zero=False, *, name):
        """Add batch normalisation over channels; `zero`: gamma starts at zero."""
        return BatchNormalization(
            **BATCH_NORM,
            gamma_initializer="zeros" if zero else "ones",
            synchronized=self.sync_bn,
            dtype=self.dtype,
            name=name,
        )(x)

    def relu(self, x, *, name, of_sum=False):
        """Add a ReLU; `of_sum` says that its input is the sum of two paths."""
        return (SumReLU if of_sum else keras.layers.ReLU)(dtype=self.dtype, name=name)(x)

    def add(self, x, y, *, name):
        """Add the two paths of a block."""
        return keras.layers.Add(dtype=self.dtype, name=name)([x, y])

    def max_pool(self, x, *, name, activated):
        """Add a 3x3 max pool of stride 2 that pads 1 on each side.

        Args:
            x: [batch, height, width, channels].
            name: name of the layer.
            activated: whether x is the output of a ReLU, so that padding with zeros has no effect on the maximum.
        """
        if activated:
            x = self.pad(x, 1, name=f"{name}_pad")
        else:
            x = MinusInfinityPadding(1, dtype=self.dtype, name=f"{name}_pad")(x)
        return MaxPool(3, 2, padding="valid", data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def average_pool(self, x, stride, dilation=1, *, name):
        """Add a 2x2 average pool; at an odd edge it averages only real pixels, since Keras' "same" ignores padding."""
        if dilation > 1:
            return DilatedAveragePool(dilation, dtype=self.dtype, name=name)(x)
        return keras.layers.AveragePooling2D(2, stride, "same", FORMAT, dtype=self.dtype, name=name)(x)

    def global_pool(self, x, kind="avg", *, name):
        """Add the mean over height and width, or the maximum if `kind` is "max"."""
        pool = keras.layers.GlobalMaxPooling2D if kind == "max" else keras.layers.GlobalAveragePooling2D
        return pool(data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def dropout(self, x, rate, *, name):
        """Add dropout of features in training."""
        return keras.layers.Dropout(rate, dtype=self.dtype, name=name)(x)

    def dense(self, x, units, deviation=None, *, name):
        """Add a dense layer, float32 in every precision, with a normal initializer if `deviation` is given."""
        initializer = self.initializer_of(name, True)
        if deviation:
            initializer = keras.initializers.RandomNormal(stddev=deviation, seed=initializer.seed)
        return keras.layers.Dense(units, kernel_initializer=initializer, dtype="float32", name=name)(x)

    # --- Combinations of layers --------------------------------------------------------------------------------------

    def shortcut(self, x, row, filters, sampling, *, name):
        """Bring the input of a block to the shape of its output.

        Args:
            x: input of the block, or its activation in a v2.
            row: the `Architecture` of the network.
            filters: channels of the output.
            sampling: the `blocks.Sampling` of the block.
            name: prefix of the layers' names.
        """
        stride = sampling.effective_stride
        if row.shortcut != "C" and stride == 1 and x.shape[-1] == filters:
            return x
        if row.shortcut == "A":
            return self.pad_identity(x, filters, stride, name=f"{name}_pad")
        if row.downsample == "avg_pool" and sampling.stride > 1:
            x, stride = self.average_pool(x, stride, sampling.dilation, name=f"{name}_pool"), 1
        x = self.conv(x, filters, 1, stride, name=f"{name}_conv")
        return x if row.preactivation else self.norm(x, name=f"{name}_bn")

    def stem(self, x, row):
        """Build everything before the first stage. In a v2 the last BN-ReLU is part of the first block instead."""
        plan = STEMS[row.stem]
        for index, (filters, kernel, stride) in enumerate(plan, start=1):
            suffix = index if len(plan) > 1 else ""
            x = self.conv(x, filters, kernel, stride, name=f"stem_conv{suffix}")
            if index < len(plan) or not row.preactivation:
                x = self.relu(self.norm(x, name=f"stem_bn{suffix}"), name=f"stem_relu{suffix}")
        if row.stem == "3x3":
            return x
        return self.max_pool(x, name="stem_pool", activated=not row.preactivation)

    def head(self, x, row, classes, dropout, pooling="avg"):
        """Build the BN-ReLU of a v2, the global pool unless `pooling` is None, and logits unless `classes` is 0."""
        if row.preactivation:
            x = self.relu(self.norm(x, name="head_bn"), name="head_relu")
        if pooling:
            x = self.global_pool(x, pooling, name="pool")
        if dropout:
            x = self.dropout(x, dropout, name="dropout")
        return self.dense(x, classes, name="logits") if classes else x

    def initializer_of(self, name, dense=False):
        """Return the initializer of the kernel of a layer.

        - he: Gaussian with standard deviation sqrt(2 / fan_out), fan_out = kernel^2 filters (He et al. 2015b, arXiv
          1502.01852, and the ResNet authors' code); sqrt(1 / fan_in) for the dense layer, which no ReLU follows.
        - xavier: uniform in +-sqrt(6 / (fan_in + fan_out)), with fans of channels times kernel^2 (Glorot and Bengio
          2010, Keras, MXNet). The formula in Bag of Tricks, section 2.1, counts channels only, which triples the range
          of a 3x3.
        """
        seed = zlib.crc32(f"{self.seed}/{name}".encode())
        if self.initializer == "xavier":
            return keras.initializers.GlorotUniform(seed=seed)
        return HeNormal(1.0, "fan_in", seed) if dense else HeNormal(2.0, "fan_out", seed)


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


def close(row, inputs, outputs, name, model_type=keras.Model):
    """Create the Keras model from the tensors of a network.

    Keras traverses the graph recursively, with two calls per block; 1,202 layers exceed Python's limit.
    """
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(limit + 10 * sum(row.blocks))
    try:
        return model_type(inputs, outputs, name=name)
    finally:
        sys.setrecursionlimit(limit)
