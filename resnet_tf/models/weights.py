"""Weights in and out: timm, torchvision, keras.applications, and this project's own files.

Names are translated by rule from our layer names, so that a network's table row is all there is to
keep. Kernels of PyTorch are [out, in, height, width]; ours are [height, width, in, out].
"""

import json
import logging
import pathlib
import re

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models import inside, padding, weight_files
from resnet_tf.models.architectures import as_in_timm, find
from resnet_tf.models.weight_files import Opened, first_line, open_file

# Where the best known published weights of a graph are: (kind, place). The recipe is part of timm's name.
# timm: repository of the Hugging Face hub, its file model.safetensors. keras: class in keras.applications.
PUBLISHED = {
    "resnet18_v1b": ("timm", "timm/resnet18.a1_in1k"),
    "resnet34_v1b": ("timm", "timm/resnet34.a1_in1k"),
    "resnet50_v1b": ("timm", "timm/resnet50.a1_in1k"),
    "resnet101_v1b": ("timm", "timm/resnet101.a1h_in1k"),
    "resnet152_v1b": ("timm", "timm/resnet152.a1h_in1k"),
    "resnet50_v1c": ("timm", "timm/resnet50c.gluon_in1k"),
    "resnet101_v1c": ("timm", "timm/resnet101c.gluon_in1k"),
    "resnet152_v1c": ("timm", "timm/resnet152c.gluon_in1k"),
    "resnet18_v1d": ("timm", "timm/resnet18d.ra2_in1k"),
    "resnet34_v1d": ("timm", "timm/resnet34d.ra2_in1k"),
    "resnet50_v1d": ("timm", "timm/resnet50d.ra2_in1k"),
    "resnet101_v1d": ("timm", "timm/resnet101d.ra2_in1k"),
    "resnet152_v1d": ("timm", "timm/resnet152d.ra2_in1k"),
    "resnet200_v1d": ("timm", "timm/resnet200d.ra2_in1k"),
    "resnet50_v2": ("timm", "timm/resnetv2_50.a1h_in1k"),
    "resnet50_v1": ("keras", "ResNet50"),
    "resnet101_v1": ("keras", "ResNet101"),
    "resnet152_v1": ("keras", "ResNet152"),
}
# A basic net's v1 is its v1b.
PUBLISHED |= {name.replace("v1b", "v1"): PUBLISHED[name] for name in ("resnet18_v1b", "resnet34_v1b")}

# What other code bases call the parts of the networks of PyTorch: (pattern, timm's and torchvision's name).
_ALIASES = (
    (re.compile(r"^(linear|classifier|head\.fc|head)\."), "fc."),
    (re.compile(r"\.shortcut\.(\d)"), r".downsample.\1"),
)
_log = logging.getLogger(__name__)
_BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_KERAS_BN_EPSILON = 1.001e-5  # of keras.applications; ours is 1e-5
_LAYER = re.compile(r"stage(\d+)_block(\d+)_(conv|bn|shortcut_conv|shortcut_bn)(\d*)")


def open_source(name, source, ema=True):
    """Open weights for a network: a file, or "imagenet" for the published ones of the network `name`.

    Returns:
        A `weight_files.Opened`.

    Raises:
        InputError: there is no such file, it is damaged, or nothing is published.
    """
    if isinstance(source, Opened):
        return source
    return open_file(fetch(name) if source == "imagenet" else source, ema)


def graph_of(name, opened):
    """Which graph of a v2 opened weights are of: "paper" or "timm"; None where there is one, or they do not tell."""
    row = find(name)
    timm = as_in_timm(row)
    if not row.preactivation or timm.graph == row.graph:
        return None
    if opened.about:
        changed = [key for key in row.graph if row.graph[key] != timm.graph[key]]
        theirs = opened.about["graph"]
        return "timm" if all(theirs.get(key) == timm.graph[key] for key in changed) else "paper"
    return "timm" if opened.kind == "torch" else None


def load(model, source, ema=True, pad=None):
    """Fill a network with weights.

    Args:
        model: built by `create_model`; its name and its layers say the graph.
        source: "imagenet"; a file, see `weight_files.open_file`; or what that returned.
        ema: whether to take the averaged weights of a file that has both.
        pad: where shortcut A put its zero channels in the network that the weights are of: "behind" or "both"; None to
            tell by the names.

    Raises:
        InputError: the file is missing, damaged, or of another network (names what is missing, unused
            or of another shape); the model is left as it was.
    """
    opened = open_source(model.name, source, ema)
    if opened.kind != "ours":
        assign(model, convert(model, opened, pad=pad))
        return
    check_graph(model, opened)
    try:
        model.load_weights(opened.origin)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{opened.origin}: not the weights of {model.name} ({first_line(error)})") from None


def check_graph(model, opened):
    """Refuse weights whose origin says another graph, of which every shape fits; warn where that cannot be told.

    Where the stride of a bottleneck lies, and what the first shortcut of a v2 carries, changes no shape.

    Raises:
        InputError: names what differs.
    """
    row = inside.row_of(model)
    if opened.about:
        theirs, ours = opened.about["graph"], json.loads(json.dumps(row.graph))
        differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if differing:
            listed = "; ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in differing)
            raise InputError(
                f"{opened.origin}: weights of {opened.about['network']}, another graph than {model.name}: {listed}"
            )
        return
    if graph_of(model.name, opened) == "timm" and row.graph != as_in_timm(row).graph:
        raise InputError(f"{opened.origin}: weights of timm's graph of {model.name}, not of the paper's: --graph=timm")
    twins = row.bottleneck and not row.preactivation  # v1 and v1b
    if twins and opened.kind == "keras" and row.stride_in == "3x3":
        raise InputError(
            f"{opened.origin}: keras.applications has the stride of a bottleneck in its first 1x1, {model.name} in its "
            f"3x3: these are weights of {model.name.replace('_v1b', '_v1')}"
        )
    if twins and opened.kind == "torch" and row.stride_in == "1x1":
        _log.warning(
            "%s: has the names of PyTorch, whose published networks have the stride of a bottleneck in its 3x3 (%s); "
            "%s has it in the first 1x1, which is right for weights that came from Caffe alone",
            opened.origin, model.name.replace("_v1", "_v1b"), model.name,
        )  # fmt: skip
    twins = twins or row.stem == "deep"  # v1c and v1d
    if opened.kind == "ours" and (twins or (row.preactivation and as_in_timm(row).graph != find(model.name).graph)):
        _log.warning(
            "%s: does not say which network its weights are of, and those of another graph would fit; taken for %s. "
            "Files that resnet_tf.convert writes say it.", opened.origin, model.name,
        )  # fmt: skip


def convert(model, source, origin="the weights", pad=None):
    """Translate a state dict to a network's own variables.

    Args:
        model: built by `create_model`.
        source: a `weight_files.Opened`, or {name: NumPy array} of timm, torchvision or keras.applications.
        origin: what to name in an error, for arrays.
        pad: see `load`.

    Returns:
        {variable path: array} for every variable of the model.

    Raises:
        InputError: names are missing or unused, shapes differ, or the graph is another: a file for another network;
            or a number is not finite, or a variance negative.
    """
    opened = source if isinstance(source, Opened) else weight_files.of_arrays(dict(source), origin)
    check_graph(model, opened)
    row, origin, arrays = inside.row_of(model), opened.origin, opened.arrays
    aliased = {}
    if opened.kind == "torch" and not row.preactivation:
        arrays, aliased = _usual_names(arrays)
    translate = _keras_value if opened.kind == "keras" else _torch_value
    values, missing, used = {}, [], set()
    for variable in model.variables:
        names = source_names(model.name, variable.path, arrays)
        if names[0] not in arrays:
            missing.append(names[0])
            continue
        used.update(names)
        value = translate(arrays, names, variable.path)
        if value.shape != tuple(variable.shape):
            raise InputError(
                f"{origin}: {names[0]} gives {list(value.shape)} for {variable.path}, which is "
                f"{list(variable.shape)}: weights of another network than {model.name}"
            )
        _check_values(origin, names[0], value, variable.path)
        values[variable.path] = value
    headless = not any(layer.name == "logits" for layer in model.layers)
    heads = ("fc.", "head.fc.", "predictions/") if headless else ()
    unused = [name for name in arrays if name not in used and not name.startswith(heads)]
    if missing or unused:
        raise InputError(f"{origin}: not the weights of {model.name}: {_some('missing', missing, 'unused', unused)}")
    if row.shortcut == "A" and not opened.about:
        values = padding.to_behind(row, values, padding.decide(pad, opened, "linear" in aliased, model.name))
    elif pad:
        raise InputError(
            f"--padding={pad} is not used by {origin}: {model.name} pads no channels, or the file says where"
        )
    return values


def _usual_names(arrays):
    """Names as torchvision has them, and the first parts of those that were called otherwise."""
    renamed, aliased = {}, set()
    for name, value in arrays.items():
        usual = name
        for pattern, replacement in _ALIASES:
            usual = pattern.sub(replacement, usual)
        if usual in arrays and usual != name:
            usual = name  # both are there: for the list of what is unused
        if usual != name:
            aliased.add(name.split(".")[0])
        renamed[usual] = value
    return renamed, aliased


def _check_values(origin, name, value, path):
    """Refuse what no network computes with, which would make every answer NaN."""
    if not np.isfinite(value).all():
        raise InputError(f"{origin}: {name} holds {np.count_nonzero(~np.isfinite(value))} numbers that are not finite")
    if path.endswith("moving_variance") and (value < 0).any():
        raise InputError(f"{origin}: {name} is a variance and holds {value.min():g}")


def _some(*pairs):
    said = []
    for what, names in zip(pairs[::2], pairs[1::2], strict=True):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            said.append(f"{what} {', '.join(sorted(names)[:3])}{more}")
    return "; ".join(said)


def assign(model, values):
    """Give a network the values that `convert` returned."""
    for variable in model.variables:
        variable.assign(values[variable.path])


def state_dict(model):
    """The network's weights under timm's names (torchvision's, where the graph is torchvision's).

    Returns:
        {name: float32 NumPy array in PyTorch's layout}.
    """
    result = {}
    for variable in model.variables:
        name = source_names(model.name, variable.path, {})[0]
        value = np.asarray(variable)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 2:
            value = value.T
            if find(model.name).preactivation:
                value = value[:, :, None, None]  # timm's v2 ends in a 1x1 convolution
        result[name] = np.ascontiguousarray(value)
    return result


def source_names(model_name, path, arrays):
    """What a variable is called in a state dict; more than one name where several make one value.

    Args:
        model_name: of a network of the table.
        path: of our variable, such as "stage1_block1_conv1/kernel".
        arrays: the state dict, whose style decides between the names of PyTorch and of Keras.
    """
    layer, kind = path.split("/")
    if any(name.startswith("conv1_conv/") for name in arrays):
        return _keras_names(layer, kind)
    row = find(model_name)
    renamed = _torch_v2_layer(layer) if row.preactivation else _torch_layer(layer, row)
    return [f"{renamed}.{_BN.get(kind, 'weight' if kind == 'kernel' else kind)}"]


def _torch_layer(layer, row):
    if layer == "logits":
        return "fc"
    match = _LAYER.fullmatch(layer)
    if not match:
        kind, index = re.fullmatch(r"stem_(conv|bn)(\d?)", layer).groups()
        if not index:
            return f"{kind}1"
        last = index == "3" and kind == "bn"
        return "bn1" if last else f"conv1.{3 * (int(index) - 1) + (kind == 'bn')}"
    stage, block, kind, index = match.groups()
    prefix = f"layer{stage}.{int(block) - 1}"
    if kind.startswith("shortcut"):
        pooled = row.downsample == "avg_pool"  # timm keeps a place for the pool in every projection
        return f"{prefix}.downsample.{(kind == 'shortcut_bn') + pooled}"
    return f"{prefix}.{kind}{index}"


def _torch_v2_layer(layer):
    fixed = {"logits": "head.fc", "stem_conv": "stem.conv", "head_bn": "norm"}
    if layer in fixed:
        return fixed[layer]
    stage, block, kind, index = _LAYER.fullmatch(layer).groups()
    prefix = f"stages.{int(stage) - 1}.blocks.{int(block) - 1}"
    if kind == "shortcut_conv":
        return f"{prefix}.downsample.conv"
    return f"{prefix}.{'norm' if kind == 'bn' else kind}{index}"


def _torch_value(arrays, names, path):
    value = np.asarray(arrays[names[0]], np.float32)
    if path == "logits/kernel":
        return value.reshape(value.shape[:2]).T
    return value.transpose(2, 3, 1, 0) if value.ndim == 4 else value


def _keras_names(layer, kind):
    if layer == "logits":
        return [f"predictions/{kind}"]
    match = _LAYER.fullmatch(layer)
    if match:
        stage, block, part, index = match.groups()
        prefix = f"conv{int(stage) + 1}_block{block}_{index or 0}"
        part = part.removeprefix("shortcut_")
    else:
        prefix, part = "conv1", layer.removeprefix("stem_")
    if kind == "moving_mean":  # takes in the bias of the convolution, which BN would subtract again
        return [f"{prefix}_bn/moving_mean", f"{prefix}_conv/bias"]
    return [f"{prefix}_{part}/{kind}"]


def _keras_value(arrays, names, path):
    value = np.asarray(arrays[names[0]], np.float32)
    if path.endswith("moving_mean") and names[1] in arrays:
        return value - arrays[names[1]]
    if path.endswith("moving_variance"):
        return value + np.float32(_KERAS_BN_EPSILON - 1e-5)
    return value


def save(model, path):
    """Write a network's weights: .weights.h5 for this project, .safetensors under timm's names.

    Raises:
        InputError: another ending.
    """
    path = pathlib.Path(path)
    row = inside.row_of(model)
    about, partial = weight_files.describe(model.name, row), path.with_name(f".partial-{path.name}")
    if path.name.endswith(".weights.h5"):
        import h5py

        model.save_weights(partial)
        with h5py.File(partial, "a") as file:
            file.attrs[weight_files.ABOUT] = about
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        if row.preactivation and row.graph != as_in_timm(row).graph and row.stem != "3x3":
            raise InputError(
                f"--out={path}: timm would take these names for its own graph, not the paper's; write a .weights.h5"
            )
        save_file(state_dict(model), partial, {"format": "pt", weight_files.ABOUT: about})
    else:
        raise InputError(f"--out={path}: ends neither in .weights.h5 (ours) nor in .safetensors (timm's names)")
    partial.replace(path)


def fetch(name):
    """Fetch the best known published ImageNet weights of a graph, by its library's own hub client.

    Returns:
        Path of the file in the client's cache.

    Raises:
        InputError: there are none, or they cannot be had now; says what to do without a network.
    """
    if name not in PUBLISHED:
        raise InputError(f"weights=imagenet: none are published for {name}; there are for {', '.join(PUBLISHED)}")
    kind, place = PUBLISHED[name]
    try:
        if kind == "timm":
            from huggingface_hub import hf_hub_download

            return hf_hub_download(place, "model.safetensors")
        import keras

        applications = keras.src.applications.resnet
        file = f"{place.lower()}_weights_tf_dim_ordering_tf_kernels.h5"
        digest = applications.WEIGHTS_HASHES[place.lower()][0]
        return keras.utils.get_file(
            file, applications.BASE_WEIGHTS_PATH + file, cache_subdir="models", file_hash=digest
        )
    except ImportError:
        raise InputError("weights=imagenet: needs huggingface_hub: pip install 'resnet_tf[convert]'") from None
    except Exception as error:  # each client has errors of its own for a network that is not there
        raise InputError(
            f"weights=imagenet: {place} cannot be fetched ({first_line(error)}); without a network, bring the file "
            "from a machine that has one and give its path as weights"
        ) from None
