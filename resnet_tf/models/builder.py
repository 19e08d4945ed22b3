"""A row of the table -> a Keras functional graph."""

import dataclasses

import keras

from resnet_tf.errors import InputError
from resnet_tf.models import blocks
from resnet_tf.models.architectures import find
from resnet_tf.models.layers import Layers


def create_model(name, *, num_classes=None, input_shape=None, shortcut=None, sync_bn=False, dtype="float32", seed=0):
    """Build a network of the table, or a CIFAR net of any valid depth.

    Args:
        name: such as "cifar_resnet20_v1"; see `architectures`.
        num_classes: of the data; the paper's where None.
        input_shape: (height, width, channels); height and width may be None.
        shortcut: "A", "B" or "C" instead of the row's own.
        sync_bn: batch statistics over all replicas of a distribution strategy.
        dtype: Keras policy: "float32", "mixed_bfloat16" or "mixed_float16".
        seed: of the initial weights.

    Returns:
        A `keras.Model` from normalised images, float [batch, height, width, channels], to logits,
        float32 [batch, num_classes].

    Raises:
        InputError: an unknown name, or an option that the network cannot have.
    """
    row = _with_shortcut(name, find(name), shortcut)
    layers = Layers(dtype=dtype, sync_bn=sync_bn, seed=seed)
    images = keras.Input(input_shape or (row.input_size, row.input_size, 3), name="images")
    x = layers.stem(images, row)
    block = blocks.preactivation if row.preactivation else blocks.postactivation
    for stage, (count, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        for index in range(1, count + 1):
            stride = 2 if index == 1 and stage > 1 else 1
            x = block(layers, x, row, filters, stride, f"stage{stage}_block{index}")
    if row.preactivation:
        x = layers.relu(layers.norm(x, name="head_bn"), name="head_relu")
    return keras.Model(images, layers.logits(x, num_classes or row.classes), name=name)


def _with_shortcut(name, row, shortcut):
    if not shortcut or shortcut == row.shortcut:
        return row
    if row.shortcut == "none":
        raise InputError(f"--shortcut={shortcut}: {name} is a plain net, without shortcuts")
    if shortcut not in ("A", "B", "C"):
        raise InputError(f"--shortcut={shortcut}: not A, B or C")
    if shortcut == "A" and row.bottleneck:
        raise InputError(f"--shortcut=A: {name} has bottlenecks, for which the papers use B or C")
    return dataclasses.replace(row, shortcut=shortcut)
