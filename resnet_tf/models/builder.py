"""A row of the table -> a Keras functional graph: a classifier, or a backbone with outputs at several strides."""

import dataclasses

import keras

from resnet_tf.errors import InputError
from resnet_tf.models import blocks
from resnet_tf.models.architectures import as_in_timm, find
from resnet_tf.models.layers import Layers, close

INITIALIZERS = ("he", "xavier")
GRAPHS = ("paper", "timm")


def create_model(
    name,
    *,
    num_classes=None,
    input_shape=None,
    shortcut=None,
    graph=None,
    zero_gamma=False,
    initializer="he",
    dropout=None,
    sync_bn=False,
    dtype="float32",
    seed=0,
    weights=None,
):
    """Build a network of the table, or a CIFAR net of any valid depth.

    Args:
        name: such as "resnet50_v1d" or "cifar_resnet20_v1"; see `architectures`.
        num_classes: of the data; the paper's where None. 0 for a network without a head, which ends in the global
            average pool.
        input_shape: (height, width, channels); height and width may be None, for any size.
        shortcut: "A", "B" or "C" instead of the row's own.
        graph: of a v2, where timm's is another graph than the paper's: "paper" or "timm"; see `architectures`. None
            for the one that `weights` are of, and the paper's where they do not tell.
        zero_gamma: start every residual branch at zero (Bag of Tricks, section 3.1); see `blocks`.
        initializer: "he" or "xavier", exactly as `layers.Layers` says.
        dropout: rate before the logits in (0, 1); None for none, as the papers have it.
        sync_bn: batch statistics over all replicas of a distribution strategy.
        dtype: Keras policy: "float32", "mixed_bfloat16" or "mixed_float16"; others are refused.
        seed: of the initial weights.
        weights: None; a file (.weights.h5 of this network, or what `convert` reads); or "imagenet" for
            the best known published ones.

    Returns:
        A `keras.Model` from normalised images, float [batch, height, width, channels], to logits, float32 [batch,
        num_classes], or without a head to features [batch, channels].

    Raises:
        InputError: an unknown name, or an option that the network cannot have. It is a ValueError.
    """
    opened = None
    if weights:
        from resnet_tf.models import weights as files

        opened = files.open_source(name, weights)
        graph = graph or files.graph_of(name, opened)
    row = row_of(name, shortcut, graph)
    if initializer not in INITIALIZERS:
        raise InputError(f"--initializer={initializer}: not one of {', '.join(INITIALIZERS)}")
    if dropout is not None and not 0 < dropout < 1:
        raise InputError(f"dropout={dropout}: not between 0 and 1; None for none")
    layers = Layers(keras.dtype_policies.get(dtype), sync_bn, zero_gamma, initializer, seed)
    images, stages = _trunk(name, row, layers, input_shape)
    logits = layers.head(stages[-1], row, row.classes if num_classes is None else num_classes, dropout)
    model = close(row, images, logits, name)
    if opened:
        files.load(model, opened)
    return model


def create_backbone(
    name,
    levels=(2, 3, 4, 5),
    *,
    output_stride=None,
    input_shape=(None, None, 3),
    shortcut=None,
    graph=None,
    zero_gamma=False,
    initializer="he",
    sync_bn=False,
    dtype="float32",
    seed=0,
):
    """Build the stages of a network for detection and segmentation.

    Args:
        name: of a network of the table.
        levels: which outputs: level k is the last one at stride 2^k of the undilated network, so 2 to 5
            are the four stages of an ImageNet net, 0 to 2 the three of a CIFAR net. A v2 stage is
            activated by a BN-ReLU where it ends the network; the inner ones are raw sums.
        output_stride: 16 or 8 instead of 32: later strides become dilations (Bag of Tricks, section
            6.2, after DeepLab), such that the values at the old positions stay what they were.
        input_shape: (height, width, channels), None for any size.
        shortcut: as for `create_model`.
        graph: as for `create_model`.
        zero_gamma: as for `create_model`.
        initializer: as for `create_model`.
        sync_bn: as for `create_model`.
        dtype: as for `create_model`.
        seed: as for `create_model`.

    Returns:
        A `keras.Model` from normalised images to {level: float [batch, height / stride, width / stride,
        channels]}. Layers have the names, and weights the paths, that they have in `create_model`.

    Raises:
        InputError: levels or an output stride that the network does not have.
    """
    row = row_of(name, shortcut, graph)
    first = levels_of(name)[0]
    available = {str(level): index for index, level in enumerate(levels_of(name))}
    wanted = [str(level) for level in levels]
    missing = [level for level in wanted if level not in available]
    if missing or not wanted:
        raise InputError(f"levels {', '.join(missing) or 'none'}: {name} has {', '.join(available)}")
    last = 2 ** (first + len(row.blocks) - 1)
    allowed = [last >> shift for shift in range(3) if last >> shift >= 2**first]
    if output_stride is not None and output_stride not in allowed:
        raise InputError(f"output_stride={output_stride}: {name} has {', '.join(map(str, allowed))}")
    layers = Layers(dtype, sync_bn, zero_gamma, initializer, seed)
    images, stages = _trunk(name, row, layers, input_shape, output_stride)
    if row.preactivation:
        stages[-1] = layers.relu(layers.norm(stages[-1], name="head_bn"), name="head_relu")
    return close(row, images, {level: stages[available[level]] for level in wanted}, f"{name}_backbone")


def levels_of(name):
    """The levels of `create_backbone` that a network has, rising: 2 to 5, or 0 to 2 of a CIFAR net."""
    row = find(name)
    first = 0 if row.stem == "3x3" else 2
    return list(range(first, first + len(row.blocks)))


def grow(layers, row, images, output_stride=None, stages=None):
    """Put stem and stages after `images`, all of them or so many; returns the output of each stage."""
    x = layers.stem(images, row)
    stride, dilation, outputs = 1 if row.stem == "3x3" else 4, 1, []
    for stage in range(1, len(row.blocks[:stages]) + 1):
        first = blocks.Step(opens=True)
        if stage > 1:
            first = blocks.Step(2, dilation, removed=output_stride is not None and stride >= output_stride)
            stride, dilation = stride * first.kept, dilation * (2 if first.removed else 1)
        x = grow_stage(layers, row, x, stage, first, dilation)
        outputs.append(x)
    return outputs


def grow_stage(layers, row, x, stage, first, dilation=1):
    """Put one stage, counted from 1, after `x`; `first` is the `blocks.Step` of its first block."""
    block = blocks.preactivation if row.preactivation else blocks.postactivation
    for index in range(1, row.blocks[stage - 1] + 1):
        step = first if index == 1 else blocks.Step(dilation=dilation)
        x = block(layers, x, row, row.filters[stage - 1], step, f"stage{stage}_block{index}")
    return x


def _trunk(name, row, layers, input_shape, output_stride=None):
    shape = tuple(input_shape or (row.input_size, row.input_size, 3))
    # Every layer takes what a 3x3 makes of one pixel, but an image that the strides shrink to nothing is a mistake.
    smallest = 2 ** (len(row.blocks) - 1) * (1 if row.stem == "3x3" else 4)
    if len(shape) != 3 or any(side is not None and side < smallest for side in shape[:2]):
        raise InputError(f"input_shape={shape}: {name} needs (height, width, channels) of at least {smallest} pixels")
    images = keras.Input(shape, dtype="float32", name="images")
    return images, grow(layers, row, images, output_stride)


def row_of(name, shortcut=None, graph=None):
    """The row of a name, with another shortcut or graph where one is given.

    Raises:
        InputError: there is no such network.
    """
    row = find(name)
    if graph:
        row = _of_graph(name, row, graph)
    if not shortcut or shortcut == row.shortcut:
        return row
    if row.shortcut == "none":
        raise InputError(f"--shortcut={shortcut}: {name} is a plain net, without shortcuts")
    if shortcut not in ("A", "B", "C"):
        raise InputError(f"--shortcut={shortcut}: not A, B or C")
    if shortcut == "A" and row.bottleneck:
        raise InputError(f"--shortcut=A: {name} has bottlenecks, for which the papers use B or C")
    return dataclasses.replace(row, shortcut=shortcut)


def _of_graph(name, row, graph):
    if graph not in GRAPHS:
        raise InputError(f"--graph={graph}: not one of {', '.join(GRAPHS)}")
    timm = as_in_timm(row)
    if not row.preactivation or timm.graph == row.graph:
        raise InputError(
            f"--graph={graph}: {name} has one graph; cifar_resnet*_v2, resnet18_v2 and resnet34_v2 have timm's besides"
        )
    return timm if graph == "timm" else row
