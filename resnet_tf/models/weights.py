"""Load, convert and save weights: timm, torchvision, keras.applications, and this project's own files.

Rules translate the names of layers, so there is no table of names per network. Kernels of PyTorch are [out, in,
height, width]; kernels here are [height, width, in, out].
"""

import json
import logging
import pathlib
import re

import keras
import numpy as np

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.models import adaptation, hub, inside, keras_hub, naming, padding, weight_files
from resnet_tf.models.architectures import as_in_timm, find
from resnet_tf.models.fetching import locate
from resnet_tf.models.weight_files import Opened, first_line, open_file

# Names in other PyTorch code: (pattern, replacement by the name in timm and torchvision).
_ALIASES = (
    (re.compile(r"^(linear|classifier|head\.fc|head)\."), "fc."),
    (re.compile(r"\.shortcut\.(\d)"), r".downsample.\1"),
)
_log = logging.getLogger(__name__)
_BN = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
_KERAS_BN_EPSILON = 1.001e-5  # keras.applications; here it is 1e-5
_LAYER = re.compile(r"stage(\d+)_block(\d+)_(conv|bn|shortcut_conv|shortcut_bn|se_conv|eca_conv)(\d*)")
# Layers of blocks and stems that have another name in timm than the rules give.
_ATTENTION = {"se_conv": "se.fc", "eca_conv": "se.conv"}
_STEM = {"stem_whiten": "whiten", "stem_pool_conv": "maxpool.0", "stem_pool_bn": "maxpool.1"}


def open_source(name: str, source: str | pathlib.Path | Opened, ema: bool = True) -> Opened:
    """Open weights for the network `name`.

        opened = open_source("resnet50_v1b", "resnet50.safetensors")

    Args:
        name: name of the network.
        source: a file; a folder in the layout of the Hugging Face hub or of keras-hub, see `hub`; a published tag, such
            as "resnet50.a1_in1k", or "imagenet" for the best published weights, see `published`; "cifar10" for those
            that come with this package, see `zoo`.
        ema: see `load`.

    Raises:
        InputError: there is no such file, it is damaged or of another network, or no such weights are published.
    """
    if isinstance(source, Opened):
        return source
    source = locate(name, source)
    if keras_hub.is_folder(source):
        return keras_hub.open_folder(source, name)
    return open_file(hub.weights_in(source, name) if hub.is_folder(source) else source, ema)


def graph_of(name: str, opened: Opened) -> str | None:
    """Return the graph of a v2 that weights belong to: "paper" or "timm"; None if unknown or there is only one."""
    row = find(name)
    timm = as_in_timm(row)
    if not row.preactivation or timm.graph == row.graph:
        return None
    if opened.about:
        changed = [key for key in row.graph if row.graph[key] != timm.graph[key]]
        theirs = opened.about["graph"]
        return "timm" if all(theirs.get(key) == timm.graph[key] for key in changed) else "paper"
    return "timm" if opened.kind == "torch" else None


def load(
    model: keras.Model,
    source: str | pathlib.Path | Opened,
    ema: bool = True,
    pad: str | None = None,
    head: str = "keep",
) -> None:
    """Load weights into a network.

        model = resnet_tf.create_model("resnet50_v1b")
        weights.load(model, "resnet50.a1_in1k.safetensors")  # or the tag "resnet50.a1_in1k", or "imagenet"

    Args:
        model: a network of `create_model`.
        source: see `open_source`; or an `Opened`.
        ema: whether to take the averaged weights of a file that also has plain ones.
        pad: "behind" or "both", where shortcut A has its zero channels in the network of the weights; None to derive
            it from their names.
        head: one of `adaptation.HEADS`.

    Raises:
        InputError: the file is missing, damaged, or of another network (the message names weights that are missing,
            unused or of another shape). The model is then unchanged.
    """
    opened = open_source(naming.network_of(model), source, ema)
    if opened.arrays is not None:
        assign(model, convert(model, opened, pad=pad, head=head))
        return
    check_graph(model, opened)
    try:
        model.load_weights(opened.origin)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{opened.origin}: not the weights of {model.name} ({first_line(error)})") from None


def check_graph(model: keras.Model, opened: Opened) -> None:
    """Refuse weights of another graph whose shapes all fit, and warn if the graph of the weights is unknown.

    The position of a bottleneck's stride and the first shortcut of a v2 do not change any shape.

    Raises:
        InputError: the graphs differ; the message says in what.
    """
    row, network = inside.row_of(model), naming.network_of(model)
    if opened.about:
        theirs, ours = opened.about["graph"], json.loads(json.dumps(row.graph))
        differing = sorted(key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key))
        if differing:
            listed = "; ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in differing)
            raise InputError(
                f"{opened.origin}: weights of {opened.about['network']}, another graph than {model.name}: {listed}"
            )
        return
    if graph_of(network, opened) == "timm" and row.graph != as_in_timm(row).graph:
        raise InputError(f"{opened.origin}: weights of timm's graph of {model.name}, not of the paper's: --graph=timm")
    twins = row.bottleneck and not row.preactivation  # v1 and v1b
    if twins and opened.kind == "keras" and row.stride_in == "3x3" and "_v1b" in model.name:
        raise InputError(
            f"{opened.origin}: weights of keras.applications, whose bottlenecks have the stride in the first 1x1; "
            f"{model.name} has it in the 3x3. Load them into {network.replace('_v1b', '_v1')}"
        )
    if twins and opened.kind == "torch" and row.stride_in == "1x1":
        _log.warning(
            "%s: has the names of PyTorch, whose published networks have the stride of a bottleneck in its 3x3 (%s); "
            "%s has it in the first 1x1, which is right only for weights that come from Caffe",
            opened.origin, network.replace("_v1", "_v1b"), model.name,
        )  # fmt: skip
    twins = twins or row.stem == "deep"  # v1c and v1d
    if opened.kind == "ours" and (twins or (row.preactivation and as_in_timm(row).graph != find(network).graph)):
        _log.warning(
            "%s: does not say which network its weights belong to, and weights of another graph would fit too; assumed "
            "to be of %s. Files that resnet_tf.convert writes say it.", opened.origin, model.name,
        )  # fmt: skip


def convert(
    model: keras.Model,
    source: Opened | dict[str, np.ndarray],
    origin: str = "the weights",
    pad: str | None = None,
    head: str = "keep",
) -> dict[str, np.ndarray]:
    """Translate a state dict to the variables of a network.

        state = {name: tensor.numpy() for name, tensor in torch_model.state_dict().items()}
        weights.assign(model, weights.convert(model, state))

    Args:
        model: a network of `create_model`.
        source: an `Opened`, or {name: array} of timm, torchvision or keras.applications.
        origin: name of the arrays in errors.
        pad: see `load`.
        head: one of `adaptation.HEADS`.

    Returns:
        {variable path: array} for every variable of the model, but not for those of a head that starts anew.

    Raises:
        InputError: the weights belong to another network (names are missing or unused, shapes or graphs differ), or
            hold a number that is not finite or a negative variance.
    """
    opened = source if isinstance(source, Opened) else weight_files.of_arrays(dict(source), origin)
    check_graph(model, opened)
    row, origin, arrays = inside.row_of(model), opened.origin, opened.arrays
    aliased = {}
    if opened.kind == "torch" and not row.preactivation:
        arrays, aliased = _usual_names(arrays)
    translate = _TRANSLATIONS[opened.kind]
    values, missing, used = {}, [], set()
    new_head = _head_starts_anew(model, opened, arrays, head)
    first = model.weights[0]
    for variable in model.weights:  # model.variables has the states of random generators too
        if new_head and inside.part(variable.path) == "logits":
            continue
        names = _names(model, variable, opened, arrays)
        if names[0] not in arrays:
            missing.append(names[0])
            continue
        used.update(names)
        value = translate(arrays, names, variable.path)
        if variable is first:
            value = adaptation.with_channels(value, variable.shape[2])
        if value.shape != tuple(variable.shape):
            raise InputError(
                f"{origin}: {names[0]} has shape {list(value.shape)}, but {variable.path} has "
                f"{list(variable.shape)}: weights of another network than {model.name}"
            )
        if opened.kind != "ours":
            _check_values(origin, names[0], value, variable.path)
        values[variable.path] = value
    headless = new_head or not any(layer.name == "logits" for layer in model.layers)
    unused = [name for name in arrays if name not in used and not (headless and adaptation.of_head(name))]
    if missing or unused:
        raise InputError(f"{origin}: not the weights of {model.name}: {_some('missing', missing, 'unused', unused)}")
    if row.shortcut == "A" and not opened.about:
        values = padding.to_behind(row, values, padding.decide(pad, opened, "linear" in aliased, model.name))
    elif pad:
        raise InputError(
            f"--padding={pad} is not used for {origin}: {model.name} pads no channels, or the file says where"
        )
    return values


def _names(model, variable, opened, arrays):
    """Return the names of a variable in weights of any kind; see `source_names`."""
    return [variable.path] if opened.kind == "ours" else source_names(naming.network_of(model), variable.path, arrays)


def _head_starts_anew(model, opened, arrays, head):
    kernel = next((variable for variable in model.weights if variable.path == "logits/kernel"), None)
    if kernel is None:
        return False
    names = _names(model, kernel, opened, arrays)
    theirs = _TRANSLATIONS[opened.kind](arrays, names, kernel.path) if names[0] in arrays else None
    return adaptation.starts_anew(head, theirs, kernel.shape[-1], opened.origin)


def _usual_names(arrays):
    """Return the arrays under torchvision's names, and the first components of the names that were replaced."""
    renamed, aliased = {}, set()
    for name, value in arrays.items():
        usual = name
        for pattern, replacement in _ALIASES:
            usual = pattern.sub(replacement, usual)
        if usual in arrays and usual != name:
            usual = name  # both names exist, so this one must be reported as unused
        if usual != name:
            aliased.add(name.split(".")[0])
        renamed[usual] = value
    return renamed, aliased


def _check_values(origin, name, value, path):
    """Refuse values that are not finite and negative variances, which would make every output NaN."""
    if not np.isfinite(value).all():
        raise InputError(f"{origin}: {name} holds {np.count_nonzero(~np.isfinite(value))} numbers that are not finite")
    if path.endswith("moving_variance") and (value < 0).any():
        raise InputError(f"{origin}: {name} is a variance and holds {value.min():g}")


def _some(*pairs):
    parts = []
    for label, names in zip(pairs[::2], pairs[1::2], strict=True):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{label} {', '.join(sorted(names)[:3])}{more}")
    return "; ".join(parts)


def assign(model: keras.Model, values: dict[str, np.ndarray]) -> None:
    """Assign the values that `convert` returned to the variables of a network; a head that starts anew has none.

    weights.assign(model, weights.convert(model, state))
    """
    for variable in model.weights:
        if variable.path in values or inside.part(variable.path) != "logits":
            variable.assign(values[variable.path])


def state_dict(model: keras.Model) -> dict[str, np.ndarray]:
    """Return the weights of a network in PyTorch's layout, float32, under timm's names.

        torch_model.load_state_dict({name: torch.tensor(value) for name, value in state_dict(model).items()})

    For the graphs that torchvision has, these are also torchvision's names.
    """
    result = {}
    for variable in model.weights:
        name = source_names(naming.network_of(model), variable.path, {})[0]
        value = np.asarray(variable, np.float32)
        if value.ndim == 4:
            value = value.transpose(3, 2, 0, 1)
        elif value.ndim == 3:
            value = value.transpose(2, 1, 0)
        elif value.ndim == 2:
            value = value.T
            if find(naming.network_of(model)).preactivation:
                value = value[:, :, None, None]  # timm's v2 ends in a 1x1 convolution
        result[name] = np.ascontiguousarray(value)
    return result


def source_names(model_name: str, path: str, arrays: dict[str, np.ndarray]) -> list[str]:
    """Return the name of a variable in a state dict, or several names if the value is computed from several arrays.

    Args:
        model_name: name of the network.
        path: path of the variable, such as "stage1_block1_conv1/kernel".
        arrays: the state dict, whose names tell PyTorch from Keras.
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
    if layer in _STEM:
        return _STEM[layer]
    match = _LAYER.fullmatch(layer)
    if entry := re.fullmatch(r"stage(\d)_(conv|bn)", layer):
        return f"layer{entry[1]}.{entry[2]}"
    if not match:
        kind, index = re.fullmatch(r"stem_(conv|bn)(\d?)", layer).groups()
        if not index:
            return f"{kind}1"
        last = index == "3" and kind == "bn"
        return "bn1" if last else f"conv1.{3 * (int(index) - 1) + (kind == 'bn')}"
    stage, block, kind, index = match.groups()
    prefix = f"layer{stage}.{int(block) - 1}"
    if kind.startswith("shortcut"):
        pooled = row.downsample == "avg_pool"  # in timm every projection has a module for the pool
        return f"{prefix}.downsample.{(kind == 'shortcut_bn') + pooled}"
    return f"{prefix}.{_ATTENTION.get(kind, kind)}{index}"


def _torch_v2_layer(layer):
    fixed = {"logits": "head.fc", "head_bn": "norm"}
    if layer in fixed:
        return fixed[layer]
    if layer.startswith("stem_"):
        return layer.replace("stem_", "stem.").replace("bn", "norm")
    stage, block, kind, index = _LAYER.fullmatch(layer).groups()
    prefix = f"stages.{int(stage) - 1}.blocks.{int(block) - 1}"
    if kind == "shortcut_conv":
        return f"{prefix}.downsample.conv"
    return f"{prefix}.{'norm' if kind == 'bn' else kind}{index}"


def _torch_value(arrays, names, path):
    value = np.asarray(arrays[names[0]], np.float32)
    if path == "logits/kernel":
        return value.reshape(value.shape[:2]).T
    if value.ndim == 3:  # a convolution along the channels
        return value.transpose(2, 1, 0)
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
    if kind == "moving_mean":  # the bias of the convolution is subtracted from the mean, which has the same effect
        return [f"{prefix}_bn/moving_mean", f"{prefix}_conv/bias"]
    return [f"{prefix}_{part}/{kind}"]


def _keras_value(arrays, names, path):
    value = np.asarray(arrays[names[0]], np.float32)
    if path.endswith("moving_mean") and names[1] in arrays:
        return value - arrays[names[1]]
    if path.endswith("moving_variance"):
        return value + np.float32(_KERAS_BN_EPSILON - 1e-5)
    return value


def _our_value(arrays, names, path):
    return np.asarray(arrays[names[0]], np.float32)


_TRANSLATIONS = {"ours": _our_value, "torch": _torch_value, "keras": _keras_value}


def save(model: keras.Model, path: str | pathlib.Path) -> None:
    """Write the weights of a network: as .weights.h5 for this project, or as .safetensors under timm's names.

        weights.save(model, "mine.safetensors")

    Raises:
        InputError: the path has another suffix, or timm would load the weights into another graph.
    """
    path = pathlib.Path(path)
    row = inside.row_of(model)
    about = weight_files.describe(naming.network_of(model), row)
    if path.name.endswith(".weights.h5"):
        import h5py

        with files.writing(path, suffix=".weights.h5") as partial:
            model.save_weights(partial)
            with h5py.File(partial, "a") as file:
                file.attrs[weight_files.ABOUT] = about
    elif path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        if row.preactivation and row.graph != as_in_timm(row).graph and row.stem != "3x3":
            raise InputError(
                f"--out={path}: timm would load these weights into its own graph, not the paper's; write a .weights.h5"
            )
        with files.writing(path) as partial:
            save_file(state_dict(model), partial, {"format": "pt", weight_files.ABOUT: about})
    else:
        raise InputError(f"--out={path}: ends neither in .weights.h5 (resnet_tf) nor in .safetensors (timm's names)")
