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
from resnet_tf.models import fusible, variants, whitening

# He et al. 2015. Keras' momentum is one minus PyTorch's.
BATCH_NORM = {"momentum": 0.9, "epsilon": 1e-5}

# The supported Keras dtype policies. The mixed ones keep variables and logits in float32. In float64 networks are
# compared without the rounding of float32.
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16", "float64")
# Passed to every layer, since a user's keras.json may say "channels_first".
FORMAT = "channels_last"

# Convolutions before the first stage by kind of stem: (share of the stem's channels in eighths, kernel, stride).
_STEMS = {
    "3x3": ((8, 3, 1),),
    "7x7": ((8, 7, 2),),
    "deep": ((4, 3, 2), (4, 3, 1), (8, 3, 1)),
    "tiered": ((3, 3, 2), (4, 3, 1), (8, 3, 1)),
}


def stem_plan(row) -> list[tuple[int, int, int]]:
    """Return the convolutions before the first stage of an `Architecture` as [(filters, kernel, stride), ...]."""
    plan = [(eighths * row.stem_channels // 8, kernel, stride) for eighths, kernel, stride in _STEMS[row.stem]]
    return [(filters, 1, stride) for filters, _, stride in plan] if row.whitened else plan


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
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' layer on TensorFlow's fused kernel, for channels last.

    Keras computes moments and scaling by a chain of elementwise operations, each of which is a pass over memory on a
    CPU. The fused kernel gives the same numbers in one operation, and TensorFlow can fold it into the preceding
    convolution in inference. Training with XLA on a GPU uses `fusible.batch_norm`. Synchronised statistics use Keras'
    implementation.
    """

    def call(self, inputs, training=None, mask=None):
        """Normalise images [batch, height, width, channels]; statistics are float32, or float64 in float64."""
        training = bool(training and self.trainable)
        if (training and self.synchronized) or self.compute_dtype == "float64":  # which the kernel does not have
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
    """Keras' layer, 3x3 or 2x2 with stride 2; see `fusible.max_pool` and `fusible.max_pool_2x2`."""

    def call(self, inputs, training=None):
        """Return the maximum of each window of images [batch, height, width, channels]."""
        if not (training and fusible.wanted()):
            return super().call(inputs)
        return fusible.max_pool(inputs) if self.pool_size[0] == 3 else fusible.max_pool_2x2(inputs)


@keras.saving.register_keras_serializable("resnet_tf")
class SumReLU(keras.layers.ReLU):
    """Keras' layer after the addition of two paths; see `fusible.relu_of_sum`."""

    def call(self, inputs, training=None):
        """Return max(inputs, 0)."""
        return fusible.relu_of_sum(inputs) if training and fusible.wanted() else super().call(inputs)


# Keras' own layers with the same results; that of a standardised convolution has the standardised kernel.
KERAS = {BatchNormalization: keras.layers.BatchNormalization, MaxPool: keras.layers.MaxPooling2D,
         SumReLU: keras.layers.ReLU, variants.GroupedConv2D: keras.layers.Conv2D,
         variants.StandardizedConv2D: keras.layers.Conv2D}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Layers:
    """A factory of the layers of one network, which share precision and initializer.

    Attributes:
        dtype: a Keras dtype policy, such as "float32" or "mixed_bfloat16".
        sync_bn: whether batch statistics are computed over all replicas.
        zero_gamma: whether every residual branch starts at zero.
        initializer: "he", "he_fan_in" or "xavier"; see `initializer_of`.
        seed: seed of the initial weights. Each kernel is drawn from (seed, its name), so that it does not depend on
            the other layers of the network.
        drop_path: probability that the branch of the last block is dropped; None for no stochastic depth.
    """

    dtype: str = "float32"
    sync_bn: bool = False
    zero_gamma: bool = False
    initializer: str = "he"
    seed: int = 0
    drop_path: float | None = None

    def __post_init__(self):
        """Refuse a precision in which batch normalisation cannot be computed or would lose its statistics."""
        name = keras.dtype_policies.get(self.dtype).name
        if name not in POLICIES:
            raise InputError(f"dtype={name}: not one of {', '.join(POLICIES)}")

    # --- Single layers -----------------------------------------------------------------------------------------------

    def conv(
        self, x, filters, kernel, stride=1, dilation=1, zero=False, *, groups=1, standardized=False, name
    ):  # fmt: skip
        """Add a convolution without bias, padded by dilation (kernel - 1) / 2 on each side; `zero`: starts at zero."""
        pad = (kernel - 1) // 2
        if stride > 1 and pad:
            x = self.pad(x, pad, name=f"{name}_pad")
        kind = variants.StandardizedConv2D if standardized else keras.layers.Conv2D
        return (variants.GroupedConv2D if groups > 1 else kind)(
            filters,
            kernel,
            stride,
            groups=groups,
            padding="valid" if stride > 1 else "same",
            data_format=FORMAT,
            dilation_rate=dilation,
            use_bias=False,
            kernel_initializer="zeros" if zero else self.initializer_of(name),
            dtype=self.dtype,
            name=name,
        )(x)

    def whiten(self, x):
        """Add the fixed convolution of a whitened stem: an orthogonal one until `whitening.fit` sets it from images."""
        seed = self.initializer_of(whitening.LAYER).seed
        return keras.layers.Conv2D(
            whitening.SIDE**2 * x.shape[-1], whitening.SIDE, padding="same", data_format=FORMAT, use_bias=False,
            kernel_initializer=keras.initializers.Orthogonal(seed=seed), trainable=False, dtype=self.dtype,
            name=whitening.LAYER,
        )(x)  # fmt: skip

    def pad(self, x, pixels, *, name):
        """Add a border of zeros to each image."""
        return keras.layers.ZeroPadding2D(pixels, data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def pad_identity(self, x, filters, stride, *, name):
        """Add shortcut A."""
        return variants.PaddedIdentity(filters, stride, dtype=self.dtype, name=name)(x)

    def norm(self, x, zero=False, *, kind="bn", name):
        """Add the normalisation of an `Architecture.norm`; `zero`: gamma starts at zero."""
        start = "zeros" if zero else "ones"
        if kind == "evos":
            return variants.EvoNorm(dtype=self.dtype, name=name)(x)
        if kind == "gn":
            return keras.layers.GroupNormalization(
                variants.GROUPS, epsilon=BATCH_NORM["epsilon"], gamma_initializer=start, dtype=self.dtype, name=name
            )(x)
        return BatchNormalization(
            **BATCH_NORM,
            gamma_initializer=start,
            synchronized=self.sync_bn,
            dtype=self.dtype,
            name=name,
        )(x)

    def relu(self, x, *, name, of_sum=False):
        """Add a ReLU; `of_sum` says that its input is the sum of two paths."""
        return (SumReLU if of_sum else keras.layers.ReLU)(dtype=self.dtype, name=name)(x)

    def norm_relu(self, x, row, *, name, relu):
        """Add the normalisation of a row and its activation, whose layer is named `relu`."""
        x = self.norm(x, kind=row.norm, name=name)
        if row.norm == "evos":  # activated already; the layer marks the place
            return keras.layers.Activation("linear", dtype=self.dtype, name=relu)(x)
        return self.activate(x, row, name=relu)

    def activate(self, x, row, *, name, of_sum=False):
        """Add the activation of a row; `of_sum` is as in `relu`."""
        if row.activation == "relu":
            return self.relu(x, name=name, of_sum=of_sum)
        return variants.celu(x, dtype=self.dtype, name=name)

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
            x = variants.MinusInfinityPadding(1, dtype=self.dtype, name=f"{name}_pad")(x)
        return MaxPool(3, 2, padding="valid", data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def max_pool_2x2(self, x, *, name):
        """Add a 2x2 max pool of stride 2 without padding, so without a pixel at an odd edge."""
        return MaxPool(2, 2, padding="valid", data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def max_pool_of_stride_1(self, x, *, name):
        """Add a 3x3 max pool that keeps the resolution; Keras' "same" pads with minus infinity."""
        return keras.layers.MaxPooling2D(3, 1, "same", FORMAT, dtype=self.dtype, name=name)(x)

    def average_pool(self, x, stride, dilation=1, padding="same", *, name):
        """Add a 2x2 average pool; at an odd edge it averages only real pixels, since Keras' "same" ignores padding."""
        if dilation > 1:
            return variants.DilatedAveragePool(dilation, dtype=self.dtype, name=name)(x)
        return keras.layers.AveragePooling2D(2, stride, padding, FORMAT, dtype=self.dtype, name=name)(x)

    def antialias(self, x, kind, *, name):
        """Add the pool of stride 2 that an `Architecture.antialias` names; "avg" is 2x2."""
        if kind == "blur":
            return variants.BlurPool(dtype=self.dtype, name=name)(x)
        return self.average_pool(x, 2, name=name)

    def squeeze(self, x, *, name):
        """Add the mean over height and width, which stay as axes of length 1."""
        return keras.layers.GlobalAveragePooling2D(FORMAT, keepdims=True, dtype=self.dtype, name=name)(x)

    def gate(self, x, y, *, name):
        """Multiply [batch, height, width, channels] by the sigmoid of [batch, 1, 1, channels]."""
        y = keras.layers.Activation("sigmoid", dtype=self.dtype, name=f"{name}_sigmoid")(y)
        return keras.layers.Multiply(dtype=self.dtype, name=name)([x, y])

    def dense_1x1(self, x, filters, *, name):
        """Add a 1x1 convolution with bias."""
        return keras.layers.Conv2D(
            filters, 1, data_format=FORMAT, kernel_initializer=self.initializer_of(name), dtype=self.dtype, name=name
        )(x)

    def conv_over_channels(self, x, kernel, *, name):
        """Add a convolution of one filter without bias along the channels of [batch, 1, 1, channels]."""
        channels = x.shape[-1]
        x = keras.layers.Reshape((channels, 1), dtype=self.dtype, name=f"{name}_in")(x)
        x = keras.layers.Conv1D(
            1, kernel, padding="same", data_format=FORMAT, use_bias=False, dtype=self.dtype, name=name,
            kernel_initializer=self.initializer_of(name),
        )(x)  # fmt: skip
        return keras.layers.Reshape((1, 1, channels), dtype=self.dtype, name=f"{name}_out")(x)

    def global_pool(self, x, kind="avg", *, name):
        """Add the mean over height and width, or the maximum if `kind` is "max"."""
        pool = keras.layers.GlobalMaxPooling2D if kind == "max" else keras.layers.GlobalAveragePooling2D
        return pool(data_format=FORMAT, dtype=self.dtype, name=name)(x)

    def image_keys(self, images):
        """Return the keys of the images for `drop`."""
        return variants.ImageKeys(dtype=self.dtype, name="drop_keys")(images)

    def drop(self, x, keys, rate, block, *, name):
        """Add stochastic depth of a residual branch; see `variants.StochasticDepth`."""
        return variants.StochasticDepth(rate, block, dtype=self.dtype, name=name)([x, keys])

    def dropout(self, x, rate, *, name):
        """Add dropout of features in training."""
        return keras.layers.Dropout(rate, dtype=self.dtype, name=name)(x)

    def dense(self, x, units, deviation=None, bias=True, *, name):
        """Add a dense layer in the precision of variables, with a normal initializer if `deviation` is given."""
        initializer = self.initializer_of(name, True)
        if deviation:
            initializer = keras.initializers.RandomNormal(stddev=deviation, seed=initializer.seed)
        dtype = keras.dtype_policies.get(self.dtype).variable_dtype
        return keras.layers.Dense(units, use_bias=bias, kernel_initializer=initializer, dtype=dtype, name=name)(x)

    def scale(self, x, factor, *, name):
        """Multiply by a number."""
        return keras.layers.Rescaling(factor, dtype=self.dtype, name=name)(x)

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
        kernel = row.shortcut_kernel if stride > 1 else 1
        x = self.conv(x, filters, kernel, stride, standardized=row.standardized, name=f"{name}_conv")
        return x if row.preactivation else self.norm(x, kind=row.norm, name=f"{name}_bn")

    def attention(self, x, row, *, name):
        """Scale the channels by what an `Architecture.attention` says of their means; `name` is a prefix.

        - se: two dense layers; the first divides the channels by `row.reduction`, rounded to a multiple of 8 and at
          least 8 (Hu et al. 2018; the rounding is timm's).
        - eca: a convolution along the channels, as wide as the odd number next to (log2(channels) + 1) / 2, at least 3
          (Wang et al. 2020, equation 12).
        """
        if row.attention == "none":
            return x
        channels = x.shape[-1]
        name = f"{name}_{row.attention}"
        y = self.squeeze(x, name=f"{name}_pool")
        if row.attention == "eca":
            kernel = int((math.log2(channels) + 1) / 2)
            y = self.conv_over_channels(y, max(kernel + (kernel + 1) % 2, 3), name=f"{name}_conv")
        else:
            fewer = max(8, int(channels / row.reduction + 4) // 8 * 8)
            y = self.relu(self.dense_1x1(y, fewer, name=f"{name}_conv1"), name=f"{name}_relu")
            y = self.dense_1x1(y, channels, name=f"{name}_conv2")
        return self.gate(x, y, name=name)

    def stem(self, x, row):
        """Build everything before the first stage. In a v2 the last BN-ReLU is part of the first block instead."""
        plan = stem_plan(row)
        x = self.whiten(x) if row.whitened else x
        for index, (filters, kernel, stride) in enumerate(plan, start=1):
            suffix = index if len(plan) > 1 else ""
            x = self.conv(x, filters, kernel, stride, standardized=row.standardized, name=f"stem_conv{suffix}")
            if index < len(plan) or not row.preactivation:
                x = self.norm_relu(x, row, name=f"stem_bn{suffix}", relu=f"stem_relu{suffix}")
        return x if row.stem == "3x3" else self.stem_pool(x, row)

    def stem_pool(self, x, row):
        """Build the layers that halve the resolution between the convolutions of the stem and the first stage."""
        if row.stem_pool == "conv":
            x = self.conv(x, x.shape[-1], 3, 2, standardized=row.standardized, name="stem_pool_conv")
            return self.norm_relu(x, row, name="stem_pool_bn", relu="stem_pool_relu")
        if row.antialias == "avg":  # without a pixel at an odd edge, as in timm
            return self.average_pool(x, 2, padding="valid", name="stem_pool")
        if row.antialias == "blur":
            return self.antialias(self.max_pool_of_stride_1(x, name="stem_pool_max"), "blur", name="stem_pool")
        activated = not row.preactivation or row.stem_pool == "max_of_zeros"
        return self.max_pool(x, name="stem_pool", activated=activated)

    def head(self, x, row, classes, dropout, pooling="avg"):
        """Build the BN-ReLU of a v2, the global pool unless `pooling` is None, and logits unless `classes` is 0."""
        if row.preactivation:
            x = self.norm_relu(x, row, name="head_bn", relu="head_relu")
        of_max = bool(classes) and row.head == "max"
        if pooling:
            x = self.global_pool(x, "max" if of_max else pooling, name="pool")
        if of_max:  # before the dense layer, so that it is the last one as in all networks
            x = self.scale(x, 1 / 8, name="pool_scale")
        if dropout:
            x = self.dropout(x, dropout, name="dropout")
        return self.dense(x, classes, bias=not of_max, name="logits") if classes else x

    def initializer_of(self, name, dense=False):
        """Return the initializer of the kernel of a layer.

        - he: Gaussian with standard deviation sqrt(2 / fan_out), fan_out = kernel^2 filters (He et al. 2015b, arXiv
          1502.01852, and the ResNet authors' code); sqrt(1 / fan_in) for the dense layer, which no ReLU follows.
        - he_fan_in: the same with fan_in = kernel^2 channels, which keeps the variance forward instead of backward. It
          is larger by 2.3 in the first layer of the networks for CIFAR.
        - xavier: uniform in +-sqrt(6 / (fan_in + fan_out)), with fans of channels times kernel^2 (Glorot and Bengio
          2010, Keras, MXNet). The formula in Bag of Tricks, section 2.1, counts channels only, which triples the range
          of a 3x3.
        """
        seed = zlib.crc32(f"{self.seed}/{name}".encode())
        if self.initializer == "xavier":
            return keras.initializers.GlorotUniform(seed=seed)
        if dense:
            return HeNormal(1.0, "fan_in", seed)
        return HeNormal(2.0, "fan_in" if self.initializer == "he_fan_in" else "fan_out", seed)


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
