"""The network of a run, and networks that come from elsewhere: to start from, or to learn from."""

import dataclasses
import logging
import pathlib

import keras
import numpy as np
import tensorflow as tf
import yaml

from resnet_tf import config as configuration
from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.models import create_model, find, inside
from resnet_tf.models.layers import BatchNormalization
from resnet_tf.runs import checkpoint, record, versions

_log = logging.getLogger(__name__)
MANIFEST_ASSET = "run.yaml"  # in assets.extra of an exported model: what its network is


def build(config, classes, replicas=1, any_size=False):
    """The network that a `TrainConfig` describes, for so many classes; of any image size if it will see several."""
    size = config.data.image_size
    if any_size or configuration.evaluation_size(config.data) != size:
        size = None
    model = create(config.model, classes, size, config.device.precision, replicas, config.optimizer.seed)
    freeze(model, config.model)
    return model


def create(model, classes, size, precision, replicas=1, seed=0):
    """The network that a `ModelConfig` describes, for images of `size` pixels a side, or None for any."""
    return create_model(
        model.model,
        num_classes=classes,
        input_shape=(size, size, 3),
        **settings(model, precision, replicas, seed),
    )


def settings(model, precision, replicas=1, seed=0):
    """How the layers of the network that a `ModelConfig` describes are made: arguments of `create_model` by name."""
    return {
        "shortcut": model.shortcut,
        "graph": model.graph,
        "zero_gamma": model.zero_gamma,
        "initializer": model.initializer,
        "sync_bn": model.bn == "sync" and replicas > 1,
        "dtype": configuration.PRECISIONS[precision].policy,
        "seed": seed,
    }


def freeze(model, config):
    """Keep what a `ModelConfig` keeps: --freeze, parts with weights and statistics; --bn=frozen, every BN.

    A BN that is kept answers by its moving statistics.

    Raises:
        InputError: a part that the network does not have.
    """
    parts, there = config.freeze, inside.depths(model)
    for part in parts:
        if part not in there:
            raise InputError(f"--freeze={','.join(parts)}: {model.name} has {', '.join(there)}")
    for layer in model.layers:
        kept = config.bn == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        if kept or inside.part(layer.name) in parts:
            layer.trainable = False


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network that somebody has trained.

    Attributes:
        origin: what to call it.
        model: a `keras.Model`, from normalised images to logits.
        normalization: a `colour.Normalization`, its own.
        classes: their names; None where the weights do not tell.
    """

    origin: str
    model: keras.Model
    normalization: colour.Normalization
    classes: list[str] | None


def locate(flag, origin):
    """What kind of a trained network `origin` names: "run", "exported" or "weights"; nothing is read.

    Args:
        flag: what to name in errors.
        origin: see `load`.

    Raises:
        InputError: none of them.
    """
    path = pathlib.Path(origin)
    if (path / record.MANIFEST).exists():
        return "run"
    if (versions.locate(path) / versions.SAVED_MODEL).exists():
        return "exported"
    name, _, weights = origin.partition(":")
    if path.exists() or not weights:
        raise InputError(f"--{flag}={origin}: no run, no exported model, and not MODEL:FILE")
    find(name)
    if weights not in ("random", "imagenet") and not pathlib.Path(weights).is_file():
        raise InputError(f"--{flag}={origin}: there is no file {weights}")
    return "weights"


def load(flag, origin, config, classes=None):
    """Read a trained network.

    Args:
        flag: what to name in errors, "teacher" or "init_from".
        origin: a run's folder, an exported model's, or MODEL:WEIGHTS, the weights a file or tag of `weights.load`,
            or "random" for weights as drawn.
        config: the `TrainConfig` whose input size and precision it takes.
        classes: how many MODEL:WEIGHTS have; None for the paper's.

    Raises:
        InputError: nothing that is a network.
    """
    kind, path = locate(flag, origin), pathlib.Path(origin)
    if kind == "run":
        run = record.open_run(path)
        values = checkpoint.load_latest(run.checkpoints)
        if values is None:
            raise InputError(f"--{flag}={origin}: a run without a checkpoint yet")
        return _restored(flag, origin, run.config, run.manifest["classes"], values, config)
    if kind == "exported":
        return _exported(flag, origin, path, config)
    name, _, weights = origin.partition(":")
    size = config.data.image_size
    settings = {
        "num_classes": classes,
        "input_shape": (size, size, 3),
        "dtype": configuration.PRECISIONS[config.device.precision].policy,
    }
    model = create_model(name, **settings, **({} if weights == "random" else {"weights": weights}))
    return Trained(origin, model, colour.IMAGENET, None)


def _restored(flag, origin, theirs, classes, values, config):
    precision = dataclasses.replace(theirs.device, precision=config.device.precision)
    data = dataclasses.replace(theirs.data, image_size=config.data.image_size)
    plain = dataclasses.replace(theirs.model, bn="local", init_from="", freeze=())
    model = build(dataclasses.replace(theirs, device=precision, data=data, model=plain), len(classes))
    try:
        assign(model, values, origin)
        mean, std = values["normalization/mean"], values["normalization/std"]
    except (InputError, KeyError) as error:
        raise InputError(f"--{flag}={origin}: {error}") from None
    return Trained(origin, model, colour.Normalization(mean, std), list(classes))


def describe_exported(flag, path):
    """What an exported model says of itself.

    Args:
        flag: what to name in errors.
        path: of the model's folder, or of the one with its versions.

    Returns:
        The `TrainConfig` of the run that it was; and {"flags", "classes", "normalization", "variables"}.

    Raises:
        InputError: it says nothing, or is damaged.
    """
    try:
        described = yaml.safe_load((versions.locate(path) / "assets.extra" / MANIFEST_ASSET).read_text())
        theirs = configuration.from_settings(configuration.TrainConfig, described["flags"], path, recorded=True)
        return theirs, {name: described[name] for name in ("flags", "classes", "normalization", "variables")}
    except (OSError, KeyError, TypeError, AttributeError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"--{flag}={path}: not a model that resnet_tf.export wrote ({error})") from None


def _exported(flag, origin, path, config):
    theirs, described = describe_exported(flag, path)
    try:
        exported = tf.saved_model.load(str(versions.locate(path)))
        stored = getattr(exported, "weights", None) or exported.variables  # models of earlier releases
        arrays = [variable.numpy().astype(np.float32) for variable in stored]
    except (OSError, KeyError, AttributeError, tf.errors.OpError) as error:
        raise InputError(f"--{flag}={origin}: not a model that resnet_tf.export wrote ({error})") from None
    names = described["variables"]
    if len(names) != len(arrays):
        raise InputError(f"--{flag}={origin}: {len(arrays)} variables, not {len(names)}")
    values = {f"model/{name}": array for name, array in zip(names, arrays, strict=True)}
    values |= {
        f"normalization/{name}": np.asarray(described["normalization"][name], np.float32) for name in ("mean", "std")
    }
    return _restored(flag, origin, theirs, described["classes"], values, config)


def assign(model, values, origin, prefix="model/"):
    """Give a network the weights and moving statistics of a checkpoint.

    Raises:
        InputError: they are of another network.
    """
    for variable in model.variables:
        value = values.get(prefix + variable.path)
        if value is None or value.shape != tuple(variable.shape):
            found = "nothing" if value is None else list(value.shape)
            raise InputError(f"{origin}: {found} for {variable.path}, not {list(variable.shape)}")
        variable.assign(value)


def start_from(model, trained, classes=None):
    """Copy a trained network: all of it but its head, and the head as far as the names of the classes allow.

    Args:
        model: the network to fill, with its weights as drawn.
        trained: a `Trained`.
        classes: names of the classes of `model` in the order of their labels. Where `trained` has the same names, each
            row of its head goes to its own class; where it has others, the head stays as drawn. Where one of both has
            no names, a head of the same size is copied as it is. One line of the log says which.

    Raises:
        InputError: it is another network, or another graph of the same name.
    """
    ours, found = inside.row_of(model).graph, inside.row_of(trained.model).graph
    differing = [f"{key} {found.get(key)} there, {ours[key]} here" for key in ours if found.get(key) != ours[key]]
    theirs = {variable.path: variable for variable in trained.model.variables}
    order, said = _order_of(trained, classes)
    copied = []
    for variable in model.variables:
        source = theirs.get(variable.path)
        fits = source is not None and source.shape == variable.shape
        if inside.part(variable.path) != "logits":
            if not fits:
                raise InputError(f"--init_from={trained.origin}: has no {variable.path} of {list(variable.shape)}")
            copied.append((variable, source))
        elif fits and order is not None:
            copied.append((variable, np.asarray(source)[..., order]))
    if differing:
        hint = "; see --graph" if find(model.name).preactivation else ""
        raise InputError(f"--init_from={trained.origin}: another graph than {model.name}: {'; '.join(differing)}{hint}")
    kept = any(inside.part(variable.path) == "logits" for variable, _ in copied)
    _log.info("--init_from=%s: %s", trained.origin, said if kept else "its head starts anew")
    for variable, source in copied:
        variable.assign(source)


def _order_of(trained, classes):
    """Which output of a trained network is each class; None where the head starts anew; and what to say of it."""
    if classes is None or trained.classes is None:
        return slice(None), "its head is kept as it is: which classes it has is not known"
    if list(trained.classes) == list(classes):
        return slice(None), "its head is kept: it has the same classes"
    if sorted(trained.classes) == sorted(classes):
        return [trained.classes.index(name) for name in classes], "its head is kept, by the names of the classes"
    return None, ""


def bn_layers(model):
    """The layers with moving statistics that training changes, in order."""
    return [layer for layer in model.layers if isinstance(layer, BatchNormalization) and layer.trainable]
