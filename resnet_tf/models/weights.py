"""Weights in and out: timm, torchvision, keras.applications, and this project's own files.

Names are translated by rule from our layer names, so that a network's table row is all there is to
keep. Kernels of PyTorch are [out, in, height, width]; ours are [height, width, in, out].
"""

import pathlib
import re

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models.architectures import find

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

_BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_KERAS_BN_EPSILON = 1.001e-5  # of keras.applications; ours is 1e-5
_LAYER = re.compile(r"stage(\d+)_block(\d+)_(conv|bn|shortcut_conv|shortcut_bn)(\d*)")


def load(model, source):
    """Fill a network with weights.

    Args:
        model: built by `create_model`; its name says the graph.
        source: "imagenet", or a file: .weights.h5 that `model.save_weights` or `convert` wrote; a state
            dict of timm or torchvision, .safetensors or .pth; keras.applications .h5.

    Raises:
        InputError: the file is missing, damaged, or of another network (names what is missing, unused
            or of another shape); the model is left as it was.
    """
    if source == "imagenet":
        source = fetch(model.name)
    if str(source).endswith(".weights.h5") and not _is_keras_application(source):
        try:
            model.load_weights(source)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(f"{source}: not the weights of {model.name} ({_first_line(error)})") from None
        return
    assign(model, convert(model, read(source), source))


def read(path):
    """Read a weight file: {name: NumPy array}, as its framework names them.

    Raises:
        InputError: missing, damaged, of an unknown kind, or a .pth where PyTorch is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    if path.suffix not in _READERS:
        raise InputError(f"{path}: not one of {', '.join(_READERS)}")
    try:
        return _READERS[path.suffix](path)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        raise InputError(f"{path}: damaged, or no weights ({_first_line(error)})") from None


def _read_safetensors(path):
    try:
        from safetensors.numpy import load_file
    except ImportError:
        raise InputError(f"{path}: reading it needs safetensors: pip install 'resnet_tf[convert]'") from None
    return load_file(path)


def _read_pth(path):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: a .pth is a pickle, which only PyTorch reads without running it, and PyTorch is not "
            "installed; install torch, or take the .safetensors file"
        ) from None
    content = torch.load(path, map_location="cpu", weights_only=True)
    content = content.get("state_dict", content)
    return {name: tensor.numpy() for name, tensor in content.items()}


def _read_h5(path):
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        file = file.get("model_weights", file)

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                layer, variable = name.split("/")[-2:]
                arrays[f"{layer}/{variable.split(':')[0]}"] = item[()]

        file.visititems(visit)
    return arrays


_READERS = {".safetensors": _read_safetensors, ".pth": _read_pth, ".pt": _read_pth, ".h5": _read_h5}


def _is_keras_application(path):
    return pathlib.Path(path).is_file() and any(name.startswith("conv1_conv/") for name in read(path))


def convert(model, arrays, origin="the weights"):
    """Translate a state dict to a network's own variables.

    Args:
        model: built by `create_model`.
        arrays: {name: NumPy array} of timm, torchvision or keras.applications.
        origin: what to name in an error.

    Returns:
        {variable path: array} for every variable of the model.

    Raises:
        InputError: names are missing or unused, or shapes differ: a file for another network.
    """
    arrays = dict(arrays)
    keras_names = any(name.startswith("conv1_conv/") for name in arrays)
    translate = _keras_value if keras_names else _torch_value
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
        values[variable.path] = value
    unused = [name for name in arrays if name not in used and not name.endswith("num_batches_tracked")]
    if missing or unused:
        raise InputError(f"{origin}: not the weights of {model.name}: {_some('missing', missing, 'unused', unused)}")
    return values


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
    if path.name.endswith(".weights.h5"):
        partial = path.with_name(f".partial-{path.name}")
        model.save_weights(partial)
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        partial = path.with_name(f".partial-{path.name}")
        save_file(state_dict(model), partial)
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
            f"weights=imagenet: {place} cannot be fetched ({_first_line(error)}); without a network, bring the file "
            "from a machine that has one and give its path as weights"
        ) from None


def _first_line(error):
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
