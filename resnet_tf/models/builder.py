"""Build the Keras model of a network: a classifier, or a backbone with outputs at several strides."""

import dataclasses
import functools
import os

import keras
import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models import blocks, naming
from resnet_tf.models.architectures import Architecture, as_in_timm, find
from resnet_tf.models.layers import Layers, close

INITIALIZERS = ("he", "he_fan_in", "xavier")
GRAPHS = ("paper", "timm")
POOLINGS = ("avg", "max", None)
HEADS = ("keep", "new", None)


def create_model(
    network: str | None = None,
    *,
    name: str | None = None,
    num_classes: int | None = None,
    input_shape: tuple | None = None,
    shortcut: str | None = None,
    graph: str | None = None,
    zero_gamma: bool = False,
    initializer: str = "he",
    dropout: float | None = None,
    drop_path: float | None = None,
    sync_bn: bool = False,
    dtype: str = "float32",
    seed: int = 0,
    weights: str | os.PathLike | None = None,
    head: str | None = None,
    pooling: str | None = "avg",
) -> keras.Model:
    """Build a network of the table, or a CIFAR net of any valid depth.

        model = resnet_tf.create_model("resnet50_v1d", num_classes=10, weights="runs/mine/best.weights.h5")
        images = colour.IMAGENET(pixels)  # uint8 [batch, 224, 224, 3] -> float32
        logits = model(images)  # float32 [batch, 10]

    Args:
        network: name of the network, such as "resnet50_v1d" or "cifar_resnet20_v1"; see `architectures`.
        name: name of the Keras model, such as "student", by which two copies are told apart in one graph; None for the
            name of the network, and for a backbone with "_backbone" after it. Files of weights stay those of the
            network. Where it alone is given, it is the name of the network, as in earlier releases.
        num_classes: number of classes; None for that of the paper. 0 builds no classifier: the network ends in the
            global pool.
        input_shape: (height, width, channels); height and width may be None, for any size. With other channels than
            the weights have, the first kernel is adapted; see `adaptation.with_channels`.
        shortcut: "A", "B" or "C"; None for the default of the network.
        graph: "paper" or "timm", for a v2 whose graph in timm differs from the paper's; see `architectures`. None for
            the graph that `weights` belong to, or the paper's if they do not say.
        zero_gamma: start every residual branch at zero (Bag of Tricks, section 3.1); see `blocks`.
        initializer: "he", "he_fan_in" or "xavier"; see `layers.Layers.initializer_of`.
        dropout: rate in (0, 1) of the dropout before the logits; None for no dropout, as in the papers.
        drop_path: probability in (0, 1) with which training drops the residual branch of the last block, for each image
            anew; of block l of L it is l / L of that (stochastic depth, Huang et al. 2016, arXiv 1603.09382). None for
            no dropping.
        sync_bn: whether batch statistics are computed over all replicas of a distribution strategy; of no effect in
            networks without batch normalisation.
        dtype: Keras policy: "float32", "mixed_bfloat16", "mixed_float16"; or "float64", in which implementations can be
            compared without the rounding of float32.
        seed: seed of the initial weights.
        weights: None; a file (.weights.h5 of this network, or any file that `convert` reads); "imagenet" for published
            weights; or "cifar10" for those of a CIFAR net that come with this package, see `zoo`.
        head: "keep" to take the logits of `weights`, or "new" to start them anew. None for a new head, with a warning,
            where the weights have none, or have another number of classes than a `num_classes` that is given.
        pooling: without a classifier, "avg" or "max" over height and width; None for the last features themselves. As
            in keras.applications.

    Returns:
        A model from normalised images, float [batch, height, width, channels], to logits, float32 (or float64) [batch,
        num_classes], or without a classifier to features [batch, channels], or [batch, height / stride, width / stride,
        channels] without a pool.

    Raises:
        InputError: the name is unknown, the network does not have an option, or the weights do not fit. It is a
            ValueError.
    """
    name, own_name = naming.split(network, name)
    weight_file = None
    if weights:
        from resnet_tf.models import weights as files

        weight_file = files.open_source(name, weights)
        graph = graph or files.graph_of(name, weight_file)
    row = row_of(name, shortcut, graph)
    if initializer not in INITIALIZERS:
        raise InputError(f"--initializer={initializer}: not one of {', '.join(INITIALIZERS)}")
    if dropout is not None and not 0 < dropout < 1:
        raise InputError(f"dropout={dropout}: not between 0 and 1; use None for no dropout")
    classes = row.classes if num_classes is None else num_classes
    _check_head(head, pooling, classes)
    _check_branches(name, row, zero_gamma, drop_path)
    layers = Layers(keras.dtype_policies.get(dtype), sync_bn, zero_gamma, initializer, seed, drop_path)
    images, stages = _trunk(name, row, layers, input_shape)
    model = close(row, images, layers.head(stages[-1], row, classes, dropout, pooling), name)
    if weight_file:
        files.load(model, weight_file, head=head or ("fill" if num_classes is None else "fit"))
    return naming.renamed(model, own_name, name)


def _check_branches(name, row, zero_gamma, drop_path):
    if drop_path is not None and not 0 < drop_path < 1:
        raise InputError(f"drop_path={drop_path}: not between 0 and 1; use None for no dropping")
    if drop_path and row.shortcut == "none":
        raise InputError(f"--drop_path={drop_path:g}: {name} is a plain net, without shortcuts")
    if zero_gamma and row.last_relu == "branch":
        raise InputError(f"--zero_gamma: the branches of {name} end in an activation, which passes no gradient at zero")
    if zero_gamma and row.standardized:
        raise InputError(f"--zero_gamma: the kernels of {name} are standardised, so that none can start at zero")


def _check_head(head, pooling, classes):
    if head not in HEADS:
        raise InputError(f"head={head}: not one of keep, new")
    if pooling not in POOLINGS:
        raise InputError(f"pooling={pooling}: not one of avg, max, None")
    if classes and pooling != "avg":
        raise InputError(f"pooling={pooling}: a classifier has the average pool of the papers; use num_classes=0")


def create_backbone(
    network: str | None = None,
    levels: tuple = (2, 3, 4, 5),
    *,
    name: str | None = None,
    output_stride: int | None = None,
    input_shape: tuple = (None, None, 3),
    shortcut: str | None = None,
    graph: str | None = None,
    zero_gamma: bool = False,
    initializer: str = "he",
    drop_path: float | None = None,
    sync_bn: bool = False,
    dtype: str = "float32",
    seed: int = 0,
    weights: str | os.PathLike | None = None,
) -> keras.Model:
    """Build the stages of a network for detection and segmentation.

        backbone = resnet_tf.create_backbone("resnet50_v1b", levels=(3, 4, 5))
        features = backbone(images)  # {"3": [batch, height / 8, width / 8, 512], "4": ..., "5": ...}

    Args:
        network: name of the network.
        levels: outputs to return. Level k is the last output at stride 2^k of the undilated network: 2 to 5 are the
            four stages of an ImageNet net, 0 to 2 the three stages of a CIFAR net. The last stage of a v2 is followed
            by a BN-ReLU; the other stages of a v2 are sums without activation.
        name: as for `create_model`.
        output_stride: 16 or 8 instead of 32. Later strides become dilations (Bag of Tricks, section 6.2, after
            DeepLab), which keeps the values at the original positions.
        input_shape: (height, width, channels); height and width may be None, for any size.
        shortcut: as for `create_model`.
        graph: as for `create_model`.
        zero_gamma: as for `create_model`.
        initializer: as for `create_model`.
        drop_path: as for `create_model`.
        sync_bn: as for `create_model`.
        dtype: as for `create_model`.
        seed: as for `create_model`.
        weights: as for `create_model`; their head is ignored.

    Returns:
        A model from normalised images to {level, a string: float [batch, height / stride, width / stride, channels]}.
        Its layers and weights have the same names as in `create_model`.

    Raises:
        InputError: the network does not have one of the levels, or the output stride, or the weights do not fit.
    """
    name, own_name = naming.split(network, name)
    if weights:
        from resnet_tf.models import weights as files

        weights = files.open_source(name, weights)
        graph = graph or files.graph_of(name, weights)
    row = row_of(name, shortcut, graph)
    first = levels_of(name)[0]
    available = {str(level): index for index, level in enumerate(levels_of(name))}
    wanted = [str(level) for level in levels]
    missing = [level for level in wanted if level not in available]
    if missing or not wanted:
        raise InputError(f"levels {', '.join(missing) or 'none'}: {name} has {', '.join(available)}")
    last = 2 ** (first + len(row.blocks) - 1)
    allowed = [last >> halvings for halvings in range(3) if last >> halvings >= 2**first]
    if output_stride is not None and output_stride not in allowed:
        raise InputError(f"output_stride={output_stride}: {name} has {', '.join(map(str, allowed))}")
    if output_stride is not None and (row.antialias != "none" or row.shortcut_kernel > 1 or row.entry == "conv"):
        raise InputError(f"output_stride={output_stride}: the strides of {name} cannot become dilations")
    _check_branches(name, row, zero_gamma, drop_path)
    layers = Layers(dtype, sync_bn, zero_gamma, initializer, seed, drop_path)
    images, stages = _trunk(name, row, layers, input_shape, output_stride)
    if row.preactivation:
        stages[-1] = layers.norm_relu(stages[-1], row, name="head_bn", relu="head_relu")
    model = close(row, images, {level: stages[available[level]] for level in wanted}, f"{name}_backbone")
    if weights:
        trunk = create_model(
            name, num_classes=0, input_shape=(None, None, images.shape[-1]), shortcut=shortcut, graph=graph,
            weights=weights,
        )  # fmt: skip
        files.assign(model, {variable.path: np.asarray(variable) for variable in trunk.weights})
    return naming.renamed(model, own_name, name)


def levels_of(name: str) -> list[int]:
    """Return the levels that `create_backbone` offers, in rising order: 2 to 5, or 0 to 2 for most CIFAR nets.

    >>> levels_of("resnet50_v1b")
    [2, 3, 4, 5]
    """
    row = find(name)
    first = 2 if row.stem != "3x3" else 1 if row.entry == "conv" else 0
    return list(range(first, first + len(row.blocks)))


def grow(
    layers: Layers, row: Architecture, images, output_stride: int | None = None, stages: int | None = None
) -> list:
    """Build the stem and the first `stages` stages (None for all) on `images`; return the output of each stage."""
    keys = layers.image_keys(images) if layers.drop_path else None
    x = layers.stem(images, row)
    stride, dilation, outputs = 1 if row.stem == "3x3" else 4, 1, []
    for stage in range(1, len(row.blocks[:stages]) + 1):
        first = blocks.Sampling(is_first=True)
        if stage > 1:
            first = blocks.Sampling(2, dilation, removed=output_stride is not None and stride >= output_stride)
            stride, dilation = stride * first.effective_stride, dilation * (2 if first.removed else 1)
        x = grow_stage(layers, row, x, stage, first, dilation, keys)
        outputs.append(x)
    return outputs


def grow_stage(
    layers: Layers, row: Architecture, x, stage: int, first: blocks.Sampling, dilation: int = 1, keys=None
):  # fmt: skip
    """Build stage number `stage`, from 1, on `x`; `first` is the sampling of its first block.

    With the `keys` of images, their branches are dropped as `layers.drop_path` says.
    """
    row, before, total = row.of_stage(stage), sum(row.blocks[: stage - 1]), sum(row.blocks)
    if row.entry == "conv":
        x, first = blocks.entry(layers, x, row, row.filters[stage - 1], f"stage{stage}"), blocks.Sampling()
    block = blocks.preactivation if row.preactivation else blocks.postactivation
    for index in range(1, row.blocks[stage - 1] + 1):
        sampling = first if index == 1 else blocks.Sampling(dilation=dilation)
        number, drop = before + index, None
        if keys is not None:
            rate = layers.drop_path * number / total
            drop = functools.partial(layers.drop, keys=keys, rate=rate, block=number)
        x = block(layers, x, row, row.filters[stage - 1], sampling, f"stage{stage}_block{index}", drop)
    return x


def _trunk(name, row, layers, input_shape, output_stride=None):
    shape = tuple(input_shape or (row.input_size, row.input_size, 3))
    # Every layer accepts a single pixel, but an image smaller than the total stride is surely a mistake.
    smallest = 2 ** levels_of(name)[-1]
    if len(shape) != 3 or any(side is not None and side < smallest for side in shape[:2]):
        raise InputError(f"input_shape={shape}: {name} needs (height, width, channels) of at least {smallest} pixels")
    images = keras.Input(shape, dtype="float32", name="images")
    return images, grow(layers, row, images, output_stride)


def row_of(name: str, shortcut: str | None = None, graph: str | None = None) -> Architecture:
    """Return the row of a network, with `shortcut` and `graph` instead of its own if they are given.

    Raises:
        InputError: there is no such network, or it does not have this shortcut or graph.
    """
    row = find(name)
    if graph:
        row = _of_graph(name, row, graph)
    if not shortcut or shortcut == row.shortcut:
        return row
    if row.shortcut == "none":
        raise InputError(f"--shortcut={shortcut}: {name} is a plain net, without shortcuts")
    if row.entry == "conv":
        raise InputError(f"--shortcut={shortcut}: the shapes of {name} change outside its blocks")
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
            f"--graph={graph}: {name} has one graph; cifar_resnet*_v2, resnet18_v2 and resnet34_v2 also have timm's"
        )
    return timm if graph == "timm" else row
