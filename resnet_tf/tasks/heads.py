"""Segmentation networks: a head on a dilated backbone.

The names of head layers begin with logits_, the part of a network that starts anew with --init_from and has the full
learning rate with --layer_decay.

keras-cv's DeepLabV3+ is not used: its upsampling expects stride 32, its decoder has one 1x1 convolution instead of the
paper's two of 3x3, its batch normalisation has other constants, and it includes softmax.
"""

import keras
import tensorflow as tf

from resnet_tf.data import draws
from resnet_tf.models import builder, find
from resnet_tf.models.layers import FORMAT, Layers, close

_WIDTH, _LOW_WIDTH = 256, 48  # channels of DeepLabV3+ (Chen et al. 2018), sections 3.1 and 4.1
_DILATIONS = (6, 12, 18)  # of its pyramid at stride 16; doubled at stride 8


def create(
    name: str, classes: int, *, head="fcn", output_stride=8, auxiliary=False, dropout=0.1, dtype="float32",
    sync_bn=False, seed=0, **options,
) -> keras.Model:  # fmt: skip
    """Build a segmentation network for images of any size.

    Args:
        name: network of the table; the model has the same name.
        classes: number of classes.
        head: "fcn", as in GluonCV for Bag of Tricks, section 6.2: 3x3 convolution to a quarter of the channels, BN,
            ReLU, dropout, 1x1 to the classes; or "deeplabv3plus" (Chen et al. 2018).
        output_stride: output stride of the backbone; see `create_backbone`.
        auxiliary: add an FCN head on the stage before the last (Zhao et al. 2017, PSPNet).
        dropout: dropout probability of the heads; 0 for none.
        dtype: Keras dtype policy.
        sync_bn: compute batch statistics over all replicas.
        seed: seed of the initial weights.
        **options: options of `create_backbone`.

    Returns:
        A `keras.Model` from normalised images, float [batch, height, width, 3], to logits, float32 [batch, height,
        width, classes]; with `auxiliary` to a list of these and the auxiliary logits.

    Raises:
        InputError: an unknown name, or an output stride that the network does not support.
    """
    low, before, last = (builder.levels_of(name)[stage] for stage in (0, -2, -1))
    common = {"dtype": dtype, "sync_bn": sync_bn, "seed": seed}
    backbone = builder.create_backbone(name, (low, before, last), output_stride=output_stride, **common, **options)
    layers = Layers(keras.dtype_policies.get(dtype), sync_bn, seed=seed)
    images, stages = backbone.inputs[0], backbone.output
    top = stages[str(last)]
    if head == "fcn":
        x = _fcn(layers, top, images, dropout, "logits")
    else:
        dilations = [dilation * max(1, 16 // (output_stride or 16)) for dilation in _DILATIONS]
        x = _deeplab(layers, top, stages[str(low)], images, dilations, dropout)
    logits = _logits(layers, x, images, classes, "logits")
    if not auxiliary:
        return close(find(name), images, logits, name)
    x = _fcn(layers, stages[str(before)], images, dropout, "logits_auxiliary")
    outputs = [logits, _logits(layers, x, images, classes, "logits_auxiliary")]
    return close(find(name), images, outputs, name)


def _fcn(layers, x, images, dropout, name):
    x = _conv(layers, x, x.shape[-1] // 4, 3, name=name)
    return _drop(layers, x, images, dropout, name)


def _deeplab(layers, x, low, images, dilations, dropout):
    """Atrous spatial pyramid pooling, then a decoder that adds detail from the first stage."""
    branches = [_conv(layers, x, _WIDTH, 1, name="logits_pyramid1")]
    for number, dilation in enumerate(dilations, start=2):
        branches.append(_conv(layers, x, _WIDTH, 3, dilation, name=f"logits_pyramid{number}"))
    pooled = keras.layers.GlobalAveragePooling2D(FORMAT, keepdims=True, dtype=layers.dtype, name="logits_pool")(x)
    pooled = _conv(layers, pooled, _WIDTH, 1, name="logits_pooled")
    branches.append(Enlarge(dtype=layers.dtype, name="logits_pooled_enlarge")([pooled, x]))
    x = keras.layers.Concatenate(dtype=layers.dtype, name="logits_pyramid")(branches)
    x = _drop(layers, _conv(layers, x, _WIDTH, 1, name="logits_project"), images, dropout, "logits_project")
    low = _conv(layers, low, _LOW_WIDTH, 1, name="logits_low")
    x = Enlarge(dtype=layers.dtype, name="logits_project_enlarge")([x, low])
    x = keras.layers.Concatenate(dtype=layers.dtype, name="logits_decoder")([x, low])
    for number in (1, 2):
        x = _conv(layers, x, _WIDTH, 3, name=f"logits_decoder{number}")
    return x


def _conv(layers, x, filters, kernel, dilation=1, *, name):
    x = layers.conv(x, filters, kernel, dilation=dilation, name=f"{name}_conv")
    return layers.relu(layers.norm(x, name=f"{name}_bn"), name=f"{name}_relu")


def _drop(layers, x, images, rate, name):
    return ImageDropout(rate, dtype=layers.dtype, name=f"{name}_dropout")([x, images]) if rate else x


def _logits(layers, x, images, classes, name):
    return Enlarge(dtype="float32", name=f"{name}_enlarge")([layers.dense(x, classes, name=name), images])


@keras.saving.register_keras_serializable("resnet_tf")
class Enlarge(keras.layers.Layer):
    """Bilinear upsampling to the size of another tensor, with half-pixel centres like `tf.image.resize`.

    One matrix product for each axis, since XLA compiles it and its gradient.
    """

    def call(self, inputs):
        """Resize [batch, h, w, channels] like [batch, height, width, any] to [batch, height, width, channels]."""
        x, like = inputs
        down, across = (interpolation(tf.shape(x)[axis], tf.shape(like)[axis], x.dtype) for axis in (1, 2))
        x = tf.einsum("Hh,bhwc->bHwc", down, x)
        return tf.einsum("Ww,bhwc->bhWc", across, x)

    def compute_output_shape(self, input_shape):
        """Return the static shape of the output; unknown axes of the other tensor are None."""
        x, like = input_shape
        return (*like[:3], x[-1])


def interpolation(count, wanted, dtype=tf.float32) -> tf.Tensor:
    """Return the bilinear interpolation matrix from `count` to `wanted` positions, [wanted, count]; rows sum to 1."""
    ratio = tf.cast(count, tf.float32) / tf.cast(wanted, tf.float32)
    positions = (tf.range(tf.cast(wanted, tf.float32)) + 0.5) * ratio - 0.5
    positions = tf.clip_by_value(positions, 0.0, tf.cast(count - 1, tf.float32))
    distance = tf.abs(positions[:, None] - tf.range(tf.cast(count, tf.float32)))
    return tf.cast(tf.maximum(1 - distance, 0.0), dtype)


@keras.saving.register_keras_serializable("resnet_tf")
class ImageDropout(keras.layers.Layer):
    """Dropout whose mask is a hash of the image, which differs at every step by augmentation.

    So it has no state: a resumed run drops the same features as an uninterrupted one, on any number of replicas.

    Args:
        rate: probability that a feature is dropped.
    """

    def __init__(self, rate, **kwargs):
        super().__init__(autocast=False, **kwargs)  # autocast would round the images
        self.rate = rate

    def call(self, inputs, training=None):
        """Drop features [batch, h, w, channels] by float32 images [batch, height, width, 3]."""
        x, images = inputs
        if not training:
            return x
        shape = tf.shape(x)
        # Rounded, since compilers differ in the last bits of fused operations.
        levels = tf.cast(tf.round(64 * images[:, ::7, ::7]), tf.int64)
        levels = tf.reshape(levels, [shape[0], -1])
        weights = 2 * tf.range(tf.cast(tf.shape(levels)[1], tf.int64)) + 1
        keys = tf.reduce_sum(levels * weights, axis=1)
        is_kept = draws.uniform(keys, draws.Stream.DROPOUT, tf.reduce_prod(shape[1:])) >= self.rate
        return tf.where(tf.reshape(is_kept, shape), x / tf.cast(1 - self.rate, x.dtype), tf.zeros([], x.dtype))

    def compute_output_shape(self, input_shape):
        """Return the shape of the features."""
        return input_shape[0]

    def get_config(self):
        """Return the arguments of the constructor."""
        return {**super().get_config(), "rate": self.rate}
