"""Look inside a built network: its row, the responses and stages that papers analyse, and the parts of its weights."""

import collections
import dataclasses

import keras

from resnet_tf.models.architectures import Architecture, find
from resnet_tf.models.layers import close
from resnet_tf.models.naming import network_of, renamed
from resnet_tf.models.variants import PaddedIdentity


def row_of(model: keras.Model) -> Architecture:
    """Return the row of a built network, with the shortcut and the graph that it was built with.

        row_of(resnet_tf.create_model("cifar_resnet20_v1", shortcut="B")).shortcut  # "B"

    Both are derived from the layers, so this also works for a network that Keras saved and loaded.
    """
    row = find(network_of(model))
    layers = {layer.name: layer for layer in model.layers}
    if row.shortcut != "none" and row.entry == "block":
        projections = sum(name.endswith("_shortcut_conv") for name in layers)
        padded = any(isinstance(layer, PaddedIdentity) for layer in layers.values())
        # An exported network pads by operations without a class of their own. B has a projection in any network, and
        # in every stage but the first unless the stem has other channels than that.
        of_b = len(row.blocks) - (row.stem_channels == row.filters[0] * row.of_stage(1).expansion)
        kind = "A" if padded or not projections else "B" if projections == of_b else "C"
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


def responses(model: keras.Model) -> dict:
    """Return the response of each convolution with a 3x3 kernel (He et al. 2015, figure 7).

        probe = with_outputs(model, list(responses(model).values()))

    These are 6n+1 convolutions in a CIFAR net of 6n+2 layers, including the stem; the middle one of each bottleneck;
    and the three of a deep stem. A 7x7 stem is not counted.

    The response is the output of the batch normalisation after the convolution, before the nonlinearity and before the
    addition. In a v2 that BN belongs to the next layer of the block. Where there is no such BN, the response is the
    output of the convolution itself: in the last convolution of a basic v2 block, and in the CIFAR stem of timm's
    graph, which the shortcut of the first block reads too.

    Args:
        model: a network of `create_model`.

    Returns:
        {name of the convolution: symbolic tensor [batch, height, width, channels]} in the order of layers.
    """
    readers, outputs = _readers(model), {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (3, 3):
            after = readers[id(layer.output)]
            is_normalised = len(after) == 1 and isinstance(after[0], keras.layers.BatchNormalization)
            outputs[layer.name] = (after[0] if is_normalised else layer).output
    return outputs


def rectified(model: keras.Model) -> list[str]:
    """Return the convolutions of `responses` whose response only a ReLU reads, in the order of layers.

        rectified(resnet_tf.create_model("cifar_resnet8_v1"))[:2]  # ["stem_conv", "stage1_block1_conv1"]

    A channel of these that is never above 0 is dead: it passes nothing on, and no gradient comes back through it. In a
    residual post-activation network these are all but the last one of each basic block, to which the shortcut is added.
    """
    readers = _readers(model)

    def is_read_by_relu(tensor):
        after = readers[id(tensor)]
        return bool(after) and all(isinstance(layer, keras.layers.ReLU) for layer in after)

    return [name for name, response in responses(model).items() if is_read_by_relu(response)]


def _readers(model):
    """Return the layers that read each tensor: {id of the tensor: [layer, ...]}."""
    readers = collections.defaultdict(list)
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            readers[id(tensor)].append(layer)
    return readers


def stage_ends(model: keras.Model) -> dict:
    """Return the output of each stage: {"stage1": symbolic tensor [batch, height, width, channels], ...}.

        features = with_outputs(model, stage_ends(model))(images)  # {"stage1": ..., "stage2": ...}

    As in `create_backbone`, the last stage of a v2 is activated and the others are sums without activation.
    """
    row = find(network_of(model))
    ending = "add" if row.preactivation or row.last_relu == "branch" else "relu"
    names = [
        f"stage{stage}_block{count}_{ending}" if count else f"stage{stage}_pool"
        for stage, count in enumerate(row.blocks, start=1)
    ]
    if row.preactivation:
        names[-1] = "head_relu"
    return {f"stage{stage}": model.get_layer(name).output for stage, name in enumerate(names, start=1)}


def part(name: str) -> str:
    """Return the part of a network that a layer or variable belongs to: "stem", "stage1", ..., "head" or "logits".

    >>> part("stage2_block1_conv1/kernel")
    'stage2'
    """
    return name.split("/")[0].split("_")[0]


def depths(model: keras.Model) -> dict[str, int]:
    """Return {part: distance from the output} for the parts of a network that have weights, beginning with the stem.

        depths(resnet_tf.create_model("cifar_resnet20_v1"))  # {"stem": 4, "stage1": 3, ..., "logits": 0}

    The distance is 0 for "logits" and for "head", the last batch normalisation of a v2, and 1 for the last stage.
    """
    stages = [f"stage{number}" for number in range(len(find(network_of(model)).blocks), 0, -1)]
    order = ["logits", *stages, "stem"]
    distances = {name: depth for depth, name in reversed(list(enumerate(order)))}
    return distances | {"head": 0} if find(network_of(model)).preactivation else distances


def with_outputs(model: keras.Model, outputs) -> keras.Model:
    """Return a model with the same layers and weights, but other outputs: any structure of symbolic tensors.

    features = with_outputs(model, model.get_layer("pool").output)(images)
    """
    network = network_of(model)
    return renamed(close(find(network), model.inputs, outputs, network), model.name, network)
