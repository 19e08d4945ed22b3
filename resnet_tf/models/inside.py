"""What lies inside a built network: the layers that papers look at, found by what they are and what reads them."""

import collections
import dataclasses

import keras

from resnet_tf.models.architectures import find
from resnet_tf.models.layers import PaddedIdentity, close


def row_of(model):
    """The row of the table that a built network has, with the shortcut and the graph that it was built with.

    Its layers tell, so that this holds for a network that was saved and loaded by Keras, too.
    """
    row = find(model.name)
    layers = {layer.name: layer for layer in model.layers}
    if row.shortcut != "none":
        projections = sum(name.endswith("_shortcut_conv") for name in layers)
        padded = any(isinstance(layer, PaddedIdentity) for layer in layers.values())
        kind = "A" if padded else "C" if projections == sum(row.blocks) else "B"
        row = dataclasses.replace(row, shortcut=kind)
    if row.bottleneck and (strided := layers.get("stage2_block1_conv1")) is not None:
        if max(strided.strides) > 1:
            row = dataclasses.replace(row, stride_in="1x1")
        elif max(layers["stage2_block1_conv2"].strides) > 1:
            row = dataclasses.replace(row, stride_in="3x3")
    if row.preactivation:
        activated = id(layers["stage1_block1_relu1"].output)
        added = [id(tensor) for tensor in layers["stage1_block1_add"].input]
        raw = activated not in added and not row.bottleneck and row.shortcut != "C"
        row = dataclasses.replace(row, first_shortcut="raw" if raw else "activated")
    return row


def responses(model):
    """The response of each 3x3 layer (He et al. 2015, figure 7).

    A layer is a convolution with a 3x3 kernel: in a CIFAR net of 6n+2 layers all but the last, 6n+1 with the stem; of
    a bottleneck the middle one; a 7x7 stem does not count, the three convolutions of a deep one do. Its response is
    what follows batch normalisation, before the nonlinearity and, at the end of a block, before the addition. In a
    pre-activation net (v2) that is the BN of the next layer of the block. The last of a basic v2 block has none before
    the addition, so that what is added is taken, the convolution's own output; so has a CIFAR stem of timm's graph,
    where the first block's shortcut reads it too.

    Args:
        model: of `create_model`.

    Returns:
        {name of the convolution: symbolic tensor [batch, height, width, channels]} in the order of layers.
    """
    readers = collections.defaultdict(list)
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            readers[id(tensor)].append(layer)
    found = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3):
            after = readers[id(layer.output)]
            normalised = len(after) == 1 and isinstance(after[0], keras.layers.BatchNormalization)
            found[layer.name] = (after[0] if normalised else layer).output
    return found


def stage_ends(model):
    """The output of each stage: {"stage1": symbolic tensor [batch, height, width, channels], ...}.

    As of `create_backbone`: the last of a v2 is activated, its others are raw sums.
    """
    row = find(model.name)
    ending = "add" if row.preactivation else "relu"
    names = [f"stage{stage}_block{count}_{ending}" for stage, count in enumerate(row.blocks, start=1)]
    if row.preactivation:
        names[-1] = "head_relu"
    return {f"stage{stage}": model.get_layer(name).output for stage, name in enumerate(names, start=1)}


def part(name):
    """The part of a network that a layer or variable of that name belongs to: "stem", "stage1", ..., "logits"."""
    return name.split("/")[0].split("_")[0]


def depths(model):
    """The parts of a network that have weights, from the images on: {part: parts between it and the logits' end}.

    The logits, and before them the last batch normalisation of a v2 ("head"), have 0; the last stage has 1.
    """
    stages = [f"stage{number}" for number in range(len(find(model.name).blocks), 0, -1)]
    order = ["logits", *stages, "stem"]
    found = {name: depth for depth, name in reversed(list(enumerate(order)))}
    return found | {"head": 0} if find(model.name).preactivation else found


def with_outputs(model, outputs):
    """The same layers with other outputs, a structure of symbolic tensors: a `keras.Model` that shares the weights."""
    return close(find(model.name), model.inputs, outputs, model.name)
