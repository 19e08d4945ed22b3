"""Files of weights: what is in them, under which names, and what they say of themselves."""

import dataclasses
import json
import logging
import pathlib
import re

import numpy as np

from resnet_tf.errors import InputError

ABOUT = "resnet_tf"  # the attribute or metadata in which our own files say what network they are of
_log = logging.getLogger(__name__)

# Where a checkpoint of PyTorch keeps a network, the averaged ones first.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_PLAIN = ("state_dict", "model", "model_state_dict", "net", "network")
# What wrappers put before every name: DataParallel, torch.compile, Lightning, detection frameworks.
_PREFIXES = re.compile(r"^(module\.|_orig_mod\.|model\.|backbone\.)+")


@dataclasses.dataclass(frozen=True)
class Opened:
    """A file of weights.

    Attributes:
        origin: its path, for errors.
        kind: whose names it has: "ours" (.weights.h5), "torch" (timm, torchvision and their kin) or "keras"
            (keras.applications).
        arrays: {name: float32 NumPy array} without prefixes; None for "ours", which Keras reads itself.
        about: what `describe` wrote into it; None where it does not say.
    """

    origin: str
    kind: str
    arrays: dict | None = None
    about: dict | None = None


def describe(name, row):
    """What a file of ours says of its network: the name, and the fields of its row that make the graph."""
    return json.dumps({"network": name, "graph": row.graph})


def open_file(path, ema=True):
    """Read a file of weights.

    Args:
        path: of a .weights.h5 of ours; a state dict of PyTorch, .safetensors, .pth, .pt, .th, .pth.tar, .tar, .ckpt or
            .bin; or an .h5 of keras.applications.
        ema: whether to take the averaged weights of a checkpoint that has both.

    Raises:
        InputError: missing, damaged, of an unknown kind, or a pickle where PyTorch is not installed.
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


def of_arrays(arrays, origin, about=None):
    """The same of arrays that are in memory already: {name: array} of timm, torchvision or keras.applications."""
    kind = "keras" if any(name.startswith("conv1_conv/") for name in arrays) else "torch"
    if kind == "torch":
        arrays = _without_prefixes(arrays, origin)
    return Opened(str(origin), kind, arrays, about)


def first_line(error):
    """The first line of an error's message, or its type's name."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


# --- Formats ---------------------------------------------------------------------------------------------------------


def _read_safetensors(path, ema):
    try:
        from safetensors import deserialize, safe_open
    except ImportError:
        raise InputError(f"{path}: reading it needs safetensors: pip install 'resnet_tf[convert]'") from None
    import ml_dtypes  # a part of TensorFlow

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
            f"{path}: a {path.suffix} is a pickle, which only PyTorch reads without running it, and PyTorch is not "
            "installed; install torch, or take the .safetensors file"
        ) from None
    content = torch.load(path, map_location="cpu", weights_only=True)
    return of_arrays(arrays_of_torch(content, path, ema), path)


def arrays_of_torch(content, origin, ema=True):
    """The state dict of what `torch.load` gave.

    Args:
        content: a state dict, or a dict that holds one, or one and its moving average.
        origin: the file, for errors.
        ema: whether to take the average where there are both.

    Returns:
        {name: float32 NumPy array}.

    Raises:
        InputError: no state dict is in it.
    """
    if not isinstance(content, dict):
        raise InputError(f"{origin}: holds a {type(content).__name__}, not a state dict")
    averaged = next((name for name in _AVERAGED if isinstance(content.get(name), dict)), None)
    plain = next((name for name in _PLAIN if isinstance(content.get(name), dict)), None)
    if averaged and plain:
        taken, other = (averaged, plain) if ema else (plain, averaged)
        _log.info("%s: holds two sets of weights: takes %s, leaves %s (see --ema)", origin, taken, other)
        content = content[taken]
    elif averaged or plain:
        content = content[averaged or plain]
    tensors = {name: value for name, value in content.items() if hasattr(value, "detach")}
    if not tensors:
        raise InputError(f"{origin}: no state dict in it; it has {', '.join(map(str, list(content)[:5])) or 'nothing'}")
    return {name: value.detach().float().numpy() for name, value in tensors.items() if value.is_floating_point()}


def _read_h5(path, ema):
    import h5py

    arrays = {}
    with h5py.File(path) as file:
        about = file.attrs.get(ABOUT)
        file = file.get("model_weights", file)
        if path.name.endswith(".weights.h5") and "conv1_conv" not in file:  # ours: Keras reads it into a model
            return Opened(str(path), "ours", None, json.loads(about) if about else None)

        def visit(name, item):
            if isinstance(item, h5py.Dataset):
                layer, variable = name.split("/")[-2:]
                arrays[f"{layer}/{variable.split(':')[0]}"] = item[()]

        file.visititems(visit)
    return of_arrays(arrays, path)


_READERS = {".safetensors": _read_safetensors, ".h5": _read_h5}
_READERS |= dict.fromkeys((".pth", ".pt", ".th", ".pth.tar", ".tar", ".ckpt", ".bin"), _read_torch)


# --- Names of PyTorch ------------------------------------------------------------------------------------------------


def _without_prefixes(arrays, origin):
    """Names as timm and torchvision have them, without what wrappers put before."""
    found = {}
    for name, value in arrays.items():
        if name.endswith("num_batches_tracked"):
            continue
        plain = _PREFIXES.sub("", name)
        if plain in found:
            raise InputError(f"{origin}: two weights are called {plain} but for their prefixes")
        found[plain] = value
    return found
