"""Folders of weights in the layout of keras-hub's presets.

    config.json           the backbone: blocks, stem and filters
    model.weights.h5      its weights
    task.json             the classifier on it, if there is one: its classes
    task.weights.h5       the weights of its head
    image_converter.json  the preprocessing

`kagglehub.model_download` gets such folders, `save_to_preset` of keras-hub writes them. The names of weights are those
of the layers of its ResNetBackbone (keras_hub/src/models/resnet/resnet_backbone.py), which counts from 0.
"""

import json
import pathlib
import re

from resnet_tf.errors import InputError
from resnet_tf.models import preprocessing, published, weight_files
from resnet_tf.models.architectures import TABLE, as_in_timm, find

CONFIG, WEIGHTS, TASK, HEAD = "config.json", "model.weights.h5", "task.json", "task.weights.h5"
_CONVERTER = "image_converter.json"
_DEPTHS = (18, 26, 34, 50, 101, 152, 200)
# {(pre-activation, pools in shortcuts, kernels of the stem): letters of the network here}
_LETTERS = {
    (False, False, (7,)): "v1b",
    (False, False, (3, 3, 3)): "v1c",
    (False, True, (3, 3, 3)): "v1d",
    (True, False, (7,)): "v2",
}
_STEMS = {(7,): (64,), (3, 3, 3): (32, 32, 64)}


def is_folder(path) -> bool:
    """Return whether a path is a folder in this layout."""
    return (pathlib.Path(path) / CONFIG).is_file() and (pathlib.Path(path) / WEIGHTS).is_file()


def read(path) -> tuple[str, int, preprocessing.Preprocessing | None]:
    """Return the name of the network here, the number of classes (0 without a head), and the preprocessing, if told.

    Raises:
        InputError: a file is damaged, or no network here has the graph.
    """
    folder = pathlib.Path(path)
    classes, expected = 0, None
    if (folder / TASK).is_file() and (folder / HEAD).is_file():
        classes = _read(folder / TASK, lambda task: int(task["config"]["num_classes"]))
    if (folder / _CONVERTER).is_file():
        expected = _read(folder / _CONVERTER, lambda converter: _expected(converter["config"]))
    return _row_of(folder), classes, expected


def _read(file, pick):
    """Return what a function picks from a file of JSON."""
    try:
        return pick(json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, KeyError, TypeError, IndexError, ZeroDivisionError) as error:
        raise InputError(f"{file}: damaged, or not of keras-hub ({error!r})") from None


def _expected(config):
    """Return the preprocessing of an image converter, which scales the shorter side to the side of the crop."""
    if not config.get("image_size") or config["interpolation"] not in ("bilinear", "bicubic"):
        return None
    scale, offset = (_three(config.get(name), default) for name, default in (("scale", 1.0), ("offset", 0.0)))
    mean = tuple(round(-shift / factor, 3) for shift, factor in zip(offset, scale, strict=True))
    std = tuple(round(1 / factor, 3) for factor in scale)
    size = int(config["image_size"][0])
    return preprocessing.Preprocessing(mean, std, size, size, config["interpolation"])


def _three(value, default):
    value = default if value is None else value
    return list(map(float, value)) if isinstance(value, list) else [float(value)] * 3


def _row_of(folder):
    file = folder / CONFIG
    config = _read(file, lambda config: config["config"])
    try:
        kind, blocks = config["block_type"], tuple(config["stackwise_num_blocks"])
        filters, strides = tuple(config["stackwise_num_filters"]), tuple(config["stackwise_num_strides"])
        kernels, stem = tuple(config["input_conv_kernel_sizes"]), tuple(config["input_conv_filters"])
        letters = _LETTERS.get((bool(config["use_pre_activation"]), kind.endswith("_vd"), kernels), "")
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{file}: damaged, or not of a ResNet of keras-hub ({error!r})") from None
    counts, widths = (" ".join(map(str, numbers)) for numbers in (blocks, filters))
    reason = f"no network here has its {kind}s {counts} of {widths} channels"
    if kind == "basic_block_vd":
        reason = "the shortcut of its first block is a projection, which no network of basic blocks here has"
    elif _STEMS.get(kernels) == stem and strides == (1, 2, 2, 2):
        for name in (f"resnet{depth}_{letters}" for depth in _DEPTHS):
            row = TABLE.get(name)
            if row and (row.blocks, row.filters) == (blocks, filters) and row.bottleneck == kind.startswith("bottle"):
                return name
    raise InputError(f"{file}: {reason}")


def open_folder(path, name: str) -> weight_files.Opened:
    """Read the weights of a folder under this package's names, with those of the head if there is one.

    Raises:
        InputError: the folder is damaged, or of another network than `name`.
    """
    folder = pathlib.Path(path)
    network, classes, _ = read(folder)
    if not published.are_one(network, name):
        raise InputError(f"{path}: weights of {network}, not of {name}")
    arrays = _translated(folder / WEIGHTS, network)
    if classes:
        arrays |= _translated(folder / HEAD, network)
    about = json.loads(weight_files.describe(network, as_in_timm(find(network))))
    return weight_files.Opened(str(path), "ours", arrays, about)


def _translated(file, network):
    """Return {layer/variable: array} of a file, under the names of the network here."""
    row = find(network)
    arrays = weight_files.read_layers(file, None if file.name == HEAD else _order(row))
    return {f"{_our_layer(layer, row)}/{kind}": value for (layer, kind), value in arrays.items()}


def _our_layer(layer, row):
    """Return the name here of a layer of keras-hub; its own for a layer that no backbone has, which is then unused."""
    if layer in ("post_bn", "predictions"):
        return {"post_bn": "head_bn", "predictions": "logits"}[layer]
    if match := re.fullmatch(r"conv(\d)_(conv|bn)", layer):
        index, kind = match.groups()
        return f"stem_{kind}{index if row.stem == 'deep' else ''}"
    match = re.fullmatch(r"stack(\d)_block(\d+)_(pre_activation|\d)_(conv|bn)", layer)
    if not match:
        return layer
    stage, block, index, kind = match.groups()
    prefix = f"stage{int(stage) + 1}_block{int(block) + 1}"
    if index == "0":
        return f"{prefix}_shortcut_{kind}"
    number = 0 if index == "pre_activation" else int(index)
    return f"{prefix}_{kind}{number + (row.preactivation and kind == 'bn')}"


def _order(row):
    """Return {class: names of its layers} in the order in which Keras numbers them.

    Files from before Keras wrote names have numbers alone. In a block, the projection comes before the last
    convolution, since Keras sorts layers by their distance from the output.
    """
    stems = range(1, 4 if row.stem == "deep" else 2)
    convs, norms = [f"conv{index}" for index in stems], [f"conv{index}" for index in stems]
    norms = norms[:-1] if row.preactivation else norms
    last = 3 if row.bottleneck else 2
    for stage, count in enumerate(row.blocks):
        for block in range(count):
            name, middle = f"stack{stage}_block{block}", list(range(1, last))
            projection = [0] if block == 0 and (stage > 0 or row.bottleneck) else []
            parts = [f"{name}_{index}" for index in (*middle, *projection, last)]
            convs += parts
            norms += [f"{name}_{index}" for index in ("pre_activation", *middle)] if row.preactivation else parts
    norms += ["post"] if row.preactivation else []
    return {"conv2d": [f"{name}_conv" for name in convs], "batch_normalization": [f"{name}_bn" for name in norms]}
