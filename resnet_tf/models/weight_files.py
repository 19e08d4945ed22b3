"""Read files of weights and the description of the network that this project stores in its own files."""

import dataclasses
import json
import logging
import pathlib
import re

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models.architectures import Architecture

ABOUT = "resnet_tf"  # the HDF5 attribute or safetensors metadata that describes the network of a file of this project
# Parts of self-supervised training beside a trunk that has no prefix of its own: those of SwAV.
_BESIDE = ("projection_head.", "prototypes.")
_log = logging.getLogger(__name__)

# The keys of a PyTorch checkpoint that may hold the averaged or the plain weights.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher")
_PLAIN = ("state_dict", "model", "model_state_dict", "net", "network", "student")
# Prefixes that wrappers add to every name: DataParallel, torch.compile, Lightning, detection frameworks.
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.|encoder\.)+")
# {prefix of the network that self-supervised training hands on: prefixes of what it needed beside it}: MoCo v1 and v2,
# MoCo v3, and DINO, whose teacher is the average of the student.
_TRUNKS = {
    "encoder_q.": ("encoder_k.", "queue"),
    "base_encoder.": ("momentum_encoder.", "predictor."),
    "teacher.": ("student.",),
}


@dataclasses.dataclass(frozen=True)
class Opened:
    """The content of a file of weights.

    Attributes:
        origin: path of the file, for errors.
        kind: the naming scheme: "ours" (.weights.h5 and .keras of this project), "torch" (timm, torchvision and code
            like theirs) or "keras" (keras.applications).
        arrays: {name: float32 NumPy array} without prefixes; None for a .weights.h5 from before Keras wrote the names
            of layers into it, which Keras reads itself.
        about: the network as `describe` wrote it into the file; None if the file does not say.
    """

    origin: str
    kind: str
    arrays: dict | None = None
    about: dict | None = None


def describe(name: str, row: Architecture) -> str:
    """Return the description of a network that is stored in its weight files, as JSON: its name and its graph."""
    return json.dumps({"network": name, "graph": row.graph})


def open_file(path: str | pathlib.Path, ema: bool = True) -> Opened:
    """Read a file of weights.

    Args:
        path: a .weights.h5 or .keras of this project; a PyTorch state dict (.safetensors, .pth, .pt, .th, .pth.tar,
            .tar, .ckpt or .bin); or an .h5, .weights.h5 or .keras of keras.applications, with or without its head.
        ema: whether to take the averaged weights of a checkpoint that also has plain ones.

    Raises:
        InputError: the file is missing, damaged or of an unknown kind, or a pickle and PyTorch is not installed.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    suffix = next((suffix for suffix in _READERS if path.name.endswith(suffix)), None)
    if not suffix:
        raise InputError(f"{path}: not one of {', '.join(_READERS)}")
    try:
        return _READERS[suffix](path, ema)
    except InputError:
        raise
    except Exception as error:  # each library has errors of its own for a damaged file
        raise InputError(f"{path}: damaged, or no weights ({first_line(error)})") from None


def of_arrays(arrays: dict[str, np.ndarray], origin: str | pathlib.Path, about: dict | None = None) -> Opened:
    """Return an `Opened` of arrays in memory: {name: array} of timm, torchvision or keras.applications."""
    kind = "keras" if any(name.startswith("conv1_conv/") for name in arrays) else "torch"
    if kind == "torch":
        arrays = _without_prefixes(arrays, origin)
    return Opened(str(origin), kind, arrays, about)


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


# --- Formats ---------------------------------------------------------------------------------------------------------


def _read_safetensors(path, ema):
    import ml_dtypes  # a part of TensorFlow
    from safetensors import deserialize, safe_open

    kinds = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": ml_dtypes.bfloat16}
    arrays = {}
    for name, tensor in deserialize(path.read_bytes()):
        if tensor["dtype"] in kinds:  # the others are counters
            values = np.frombuffer(tensor["data"], kinds[tensor["dtype"]])
            arrays[name] = values.astype(np.float32).reshape(tensor["shape"])
    with safe_open(path, "np") as file:
        about = (file.metadata() or {}).get(ABOUT)
    return of_arrays(arrays, path, json.loads(about) if about else None)


def _read_torch(path, ema):
    try:
        import torch
    except ImportError:
        raise InputError(
            f"{path}: reading a {path.suffix} file safely needs PyTorch, which is not installed; install torch, or use "
            "the .safetensors file"
        ) from None
    content = torch.load(path, map_location="cpu", weights_only=True)
    return of_arrays(arrays_of_torch(content, path, ema), path)


def arrays_of_torch(content, origin: str | pathlib.Path, ema: bool = True) -> dict[str, np.ndarray]:
    """Extract the state dict from the result of `torch.load`.

    Args:
        content: a state dict, or a dict that holds a state dict, its moving average, or both.
        origin: path of the file, for errors.
        ema: whether to take the average if there are both.

    Returns:
        {name: float32 NumPy array}.

    Raises:
        InputError: it holds no state dict.
    """
    if not isinstance(content, dict):
        raise InputError(f"{origin}: holds a {type(content).__name__}, not a state dict")
    averaged = next((name for name in _AVERAGED if isinstance(content.get(name), dict)), None)
    plain = next((name for name in _PLAIN if isinstance(content.get(name), dict)), None)
    if averaged and plain:
        taken, other = (averaged, plain) if ema else (plain, averaged)
        _log.info("%s: holds two sets of weights: uses %s, not %s (see --ema)", origin, taken, other)
        content = content[taken]
    elif averaged or plain:
        content = content[averaged or plain]
    tensors = {name: value for name, value in content.items() if hasattr(value, "detach")}
    if not tensors:
        raise InputError(f"{origin}: holds no state dict; its keys are {', '.join(map(str, list(content)[:5]))}")
    return {name: value.detach().float().numpy() for name, value in tensors.items() if value.is_floating_point()}


def _read_h5(path, ema):
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        about = file.attrs.get(ABOUT)
        file = file.get("model_weights", file)
        if path.name.endswith(".weights.h5") and "conv1_conv" not in file:
            return _of_layers(_by_layer(file), path, json.loads(about) if about else None)

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                layer, variable = name.split("/")[-2:]
                arrays[f"{layer}/{variable.split(':')[0]}"] = item[()]

        file.visititems(visit)
    return of_arrays(arrays, path)


def _by_layer(file):
    """Return {layer/variable: array} of a .weights.h5 of Keras 3; None if a layer has no name there.

    Keras calls the groups after classes, conv2d and conv2d_1, and puts the names of layers into attributes.
    """
    arrays, unnamed = {}, []

    def visit(path, group):
        kind = _NUMBERED.sub("", path.split("/")[-2]) if path.endswith("/vars") else ""
        if kind not in _VARIABLES or not len(group):
            return
        if "name" not in group.attrs:
            unnamed.append(path)
            return
        for index, variable in zip(group, _VARIABLES[kind], strict=False):
            arrays[f"{group.attrs['name']}/{variable}"] = group[index][()]

    file.visititems(visit)
    return None if unnamed or not arrays else arrays


def read_layers(
    path: str | pathlib.Path, order: dict[str, list[str]] | None = None
) -> dict[tuple[str, str], np.ndarray]:
    """Return {(layer, variable): array} of a .weights.h5 of Keras 3.

    Args:
        path: the file.
        order: {class, such as "conv2d": names of its layers in their order in the model}, for files from before Keras
            wrote names; None to refuse these.

    Raises:
        InputError: the file is missing or damaged, or has other layers than `order`.
    """
    import h5py

    try:
        with h5py.File(path) as file:
            arrays = _by_layer(file)
            if arrays is None and order:
                arrays = _by_number(file, order)
    except Exception as error:  # h5py has errors of its own for a damaged file
        raise InputError(f"{path}: damaged, or no weights ({first_line(error)})") from None
    if arrays is None:
        raise InputError(f"{path}: does not name its layers, and has not those of the network")
    return {tuple(name.rsplit("/", 1)): value for name, value in arrays.items()}


def _by_number(file, order):
    """Return {layer/variable: array} by the numbers of layers, conv2d and conv2d_1; None if there are others."""
    found = {kind: {} for kind in order}

    def visit(path, group):
        name = path.split("/")[-2] if path.endswith("/vars") else ""
        kind = _NUMBERED.sub("", name)
        if kind in found and len(group):
            found[kind][int(name.removeprefix(kind).lstrip("_") or 0)] = [group[index][()] for index in sorted(group)]

    file.visititems(visit)
    arrays = {}
    for kind, names in order.items():
        if sorted(found[kind]) != list(range(len(names))):
            return None
        for number, name in enumerate(names):
            for variable, value in zip(_VARIABLES[kind], found[kind][number], strict=False):
                arrays[f"{name}/{variable}"] = value
    return arrays


def _of_layers(arrays, origin, about):
    """Return an `Opened` of {layer/variable: array}, of keras.applications or of this project."""
    if arrays and any(name.startswith("conv1_conv/") for name in arrays):
        return of_arrays(arrays, origin)
    return Opened(str(origin), "ours", arrays, about)


def _read_keras(path, ema):
    import keras

    from resnet_tf.models import inside, naming

    model = keras.models.load_model(path, compile=False)
    # An exported network stands between its normalization and its probabilities.
    model = next((layer for layer in model.layers if isinstance(layer, keras.Model)), model)
    arrays = {
        f"{layer.name}/{variable.name}": np.asarray(variable, np.float32)
        for layer in model.layers
        for variable in layer.weights
    }
    try:
        about = json.loads(describe(naming.network_of(model), inside.row_of(model)))
    except InputError:  # the model has another name than its network
        about = None
    return _of_layers(arrays, path, about)


# The variables of a layer in the order in which Keras writes them, by the name of its class in a .weights.h5.
_VARIABLES = {
    "conv1d": ("kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "grouped_conv2d": ("kernel", "bias"),
    "standardized_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "group_normalization": ("gamma", "beta"),
    "evo_norm": ("gamma", "beta", "v"),
}
_NUMBERED = re.compile(r"_\d+$")
_READERS = {".safetensors": _read_safetensors, ".h5": _read_h5, ".keras": _read_keras}
_READERS |= dict.fromkeys((".pth", ".pt", ".th", ".pth.tar", ".tar", ".ckpt", ".bin"), _read_torch)
SUFFIXES = tuple(_READERS)


# --- Names of PyTorch ------------------------------------------------------------------------------------------------


def _without_prefixes(arrays, origin):
    """Return the arrays under the names of timm and torchvision, without the prefixes of wrappers."""
    bare = {_PREFIXES.sub("", name): name for name in arrays}
    trunk = next((prefix for prefix in _TRUNKS if any(name.startswith(prefix) for name in bare)), None)
    if trunk and len(bare) == len(arrays):
        kept = {name: full for name, full in bare.items() if not name.startswith(_TRUNKS[trunk])}
        count = len(bare) - len(kept)
        _log.info("%s: takes %s*, and leaves out %d others of self-supervised training", origin, trunk, count)
        arrays = {name.removeprefix(trunk): arrays[full] for name, full in kept.items()}
    renamed = {}
    beside = [name for name in arrays if _PREFIXES.sub("", name).startswith(_BESIDE)]
    if beside:
        _log.info("%s: leaves out %d weights of self-supervised training, such as %s", origin, len(beside), beside[0])
    for name, value in arrays.items():
        if name.endswith("num_batches_tracked") or name in beside:
            continue
        plain = _PREFIXES.sub("", name)
        if plain in renamed:
            raise InputError(f"{origin}: two weights are called {plain} after their prefixes are removed")
        renamed[plain] = value
    return renamed
