"""The network of a run, and trained networks for --init_from and --teacher."""

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
from resnet_tf.models import create_model, fetching, find, hub, inside, preprocessing, published, whitening, zoo
from resnet_tf.models.layers import BatchNormalization
from resnet_tf.runs import checkpoint, record, run_data, versions

_log = logging.getLogger(__name__)
_WHITENING_EXAMPLES = 4096  # images from which a whitened stem is computed
MANIFEST_ASSET = "run.yaml"  # in assets.extra of an exported model: flags, classes and normalisation


def build(config, classes: int, replicas: int = 1, any_size: bool = False) -> keras.Model:
    """Build the network of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.
        classes: number of classes.
        replicas: replicas that train the network together.
        any_size: accept images of any size, even if training and evaluation use one size.
    """
    size = config.data.image_size
    if any_size or config.views.progressive or configuration.evaluation_size(config.data) != size:
        size = None
    model = create(config.model, classes, size, config.device.precision, replicas, config.optimizer.seed)
    freeze(model, config.model)
    return model


def whiten(model: keras.Model, config, split, normalization) -> None:
    """Set the fixed convolution of a whitened network from training images; other networks stay as they are.

    Args:
        model: a network of `create_model`.
        config: a `TrainConfig`.
        split: the training split, a `Split` or an `Examples`.
        normalization: the `colour.Normalization` of the training.
    """
    if whitening.is_whitened(model):
        data = config.data
        size = configuration.evaluation_size(data)
        images = run_data.sample(split, _WHITENING_EXAMPLES, size, data.resize, data.interpolation)
        whitening.fit(model, np.asarray(normalization(images), np.float32))


def create(model, classes: int, size: int | None, precision: str, replicas: int = 1, seed: int = 0) -> keras.Model:
    """Build the network of a `ModelConfig` for images of `size` pixels a side, or of any size if None."""
    options = settings(model, precision, replicas, seed)
    return create_model(model.model, num_classes=classes, input_shape=(size, size, 3), **options)


def settings(model, precision: str, replicas: int = 1, seed: int = 0) -> dict:
    """Return keyword arguments of `create_model` for a `ModelConfig`, without classes and input shape."""
    named = {name: getattr(model, name) for name in ("shortcut", "graph", "zero_gamma", "initializer")}
    dtype = configuration.PRECISIONS[precision].policy
    named["drop_path"] = model.drop_path or None
    return named | {"sync_bn": model.bn == "sync" and replicas > 1, "dtype": dtype, "seed": seed}


def freeze(model: keras.Model, config) -> None:
    """Make layers untrainable as a `ModelConfig` says: the parts of --freeze; with --bn=frozen every BN.

    A frozen BN normalises by its moving statistics.

    Raises:
        InputError: the network does not have such a part.
    """
    parts, known = config.freeze, inside.depths(model)
    for part in parts:
        if part not in known:
            raise InputError(f"--freeze={','.join(parts)}: {model.name} has {', '.join(known)}")
    for layer in model.layers:
        is_frozen_bn = config.bn == "frozen" and isinstance(layer, keras.layers.BatchNormalization)
        if is_frozen_bn or inside.part(layer.name) in parts:
            layer.trainable = False


@dataclasses.dataclass(frozen=True)
class Trained:
    """A trained network.

    Attributes:
        origin: name for messages.
        model: a `keras.Model` from normalised images to logits.
        normalization: the `colour.Normalization` it was trained with.
        classes: names of its classes; None if unknown.
    """

    origin: str
    model: keras.Model
    normalization: colour.Normalization
    classes: list[str] | None


def locate(flag: str, origin: str, model: str = "") -> str:
    """Return the kind of trained network that `origin`, see `load`, names: "run", "exported" or "weights".

    Args:
        flag: flag to name in errors.
        origin: see `load`.
        model: name of the network that is to take the weights of a tag or a folder; "" for any.

    Raises:
        InputError: none of the three, or weights of another network; names the flag.
    """
    path = pathlib.Path(origin)
    if (path / record.MANIFEST).exists():
        return "run"
    if (versions.locate(path) / versions.SAVED_MODEL).exists():
        return "exported"
    name, weights = _named(flag, origin)
    if model and not published.are_one(name, model) and (weights == origin or hub.is_folder(weights)):
        raise InputError(f"--{flag}={origin}: weights of {name}, not of --model={model}")
    if fetching.looks_like_tag(weights) and not pathlib.Path(weights).exists():
        published.check_row(published.find(weights), name, f"--{flag}")
    elif weights == zoo.NAME:
        zoo.path_of(name)
    elif weights not in ("random", "imagenet") and not (pathlib.Path(weights).is_file() or hub.is_folder(weights)):
        raise InputError(f"--{flag}={origin}: there is no file {weights}")
    return "weights"


def _named(flag, origin):
    """Return the network that weights are for, and the weights, as `models.create_model` takes them."""
    if hub.is_folder(origin):
        return hub.read(origin).row, origin
    if not pathlib.Path(origin).exists() and fetching.looks_like_tag(origin):
        tag = published.find(origin)
        published.check_row(tag, tag.row, f"--{flag}")
        return tag.row, origin
    if origin in ("imagenet", zoo.NAME):
        raise InputError(f"--{flag}={origin}: say of which network, as MODEL:{origin}")
    name, _, weights = origin.partition(":")
    if pathlib.Path(origin).exists() or not weights:
        raise InputError(
            f"--{flag}={origin}: no run, no exported model, no folder of config.json and model.safetensors, no "
            "published tag, and not MODEL:FILE"
        )
    find(name)
    return name, weights


def name_of(flag: str, origin: str) -> str:
    """Return the name of the network that weights are for; see `load`."""
    return _named(flag, origin)[0]


def expected_of(flag: str, origin: str, tested: bool = False) -> preprocessing.Preprocessing | None:
    """Return the preprocessing that travels with weights: of published ones, of folders of the hub's layout, of `zoo`.

    Args:
        flag: flag to name in errors.
        origin: weights; see `load`.
        tested: see `preprocessing.of_published`.

    Returns:
        None for other files, which do not say.

    Raises:
        InputError: no such weights.
    """
    name, weights = _named(flag, origin)
    if training := trained_as(flag, origin):
        return preprocessing.of_training(training)
    if hub.is_folder(weights):
        folder = hub.read(weights)
        return folder.tested if tested else folder.expected
    if weights == "imagenet":
        return preprocessing.of_published(name, tested) if name in published.best() else None
    is_tag = published.is_tag(weights) and not pathlib.Path(weights).exists()
    return preprocessing.of_published(weights, tested) if is_tag else None


def trained_as(flag: str, origin: str) -> zoo.Training | None:
    """Return how weights were trained, where their file says it: that of "cifar10", or a copy of one; see `zoo`.

    Raises:
        InputError: no such weights.
    """
    name, weights = _named(flag, origin)
    return zoo.read(zoo.path_of(name) if weights == zoo.NAME else weights)


def normalization_as(training: zoo.Training) -> colour.Normalization:
    """Return the normalisation of a training of the zoo, to the bit."""
    return colour.Normalization(np.asarray(training.mean, np.float32), np.asarray(training.std, np.float32))


def load(flag: str, origin: str, config, classes: int | None = None) -> Trained:
    """Read a trained network.

    Args:
        flag: flag to name in errors, "teacher" or "init_from".
        origin: a run folder; an exported model; a published tag, with or without "timm/"; a folder in the layout of
            the Hugging Face hub, see `models.hub`; or MODEL:WEIGHTS, where WEIGHTS is what `weights.open_source` takes,
            or "random".
        config: a `TrainConfig`, for input size and precision.
        classes: number of classes of MODEL:WEIGHTS; None for that of a tag or a folder, else of the paper.

    Raises:
        InputError: no such network.
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
    name, weights = _named(flag, origin)
    expected = None if weights == "random" else expected_of(flag, origin)
    training = trained_as(flag, origin)
    size = config.data.image_size
    if training and flag == "teacher":
        expected.at(size)  # refuses what its mean image does not fit
    dtype = configuration.PRECISIONS[config.device.precision].policy
    head = None if flag == "init_from" else "keep"  # a teacher needs the head, a start does not
    pretrained = {} if weights == "random" else {"weights": weights}
    count, labels = (len(training.classes), list(training.classes)) if training else _outputs_of(weights)
    is_same = flag == "init_from" and name == config.model.model
    shortcut = config.model.shortcut if is_same else ""  # such as chenyaofo's B for CIFAR
    model = create_model(
        name, num_classes=classes or count, input_shape=(size, size, 3), shortcut=shortcut or None, dtype=dtype,
        head=head, **pretrained,
    )  # fmt: skip
    normalization = colour.PUBLISHED[preprocessing.name_of(expected.mean) if expected else "imagenet"]
    normalization = normalization_as(training) if training else normalization
    return Trained(origin, model, normalization, labels)


def _outputs_of(weights):
    """Return the number of classes of weights and the names of these, None for what is not known or no head."""
    if hub.is_folder(weights):
        folder = hub.read(weights)
        return folder.classes or None, list(folder.labels) or None
    if published.is_tag(weights) and not pathlib.Path(weights).exists():
        return published.find(weights).classes or None, None
    return None, None


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


def describe_exported(flag: str, path) -> tuple:
    """Read the description that `resnet_tf.export` stored in a SavedModel.

    Args:
        flag: flag to name in errors.
        path: folder of the model or of its versions.

    Returns:
        The `TrainConfig` of the exported run; {"flags", "classes", "normalization", "variables"}.

    Raises:
        InputError: no description, or a damaged one.
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
    for name in ("mean", "std"):
        values[f"normalization/{name}"] = np.asarray(described["normalization"][name], np.float32)
    return _restored(flag, origin, theirs, described["classes"], values, config)


def assign(model: keras.Model, values: dict[str, np.ndarray], origin, prefix: str = "model/") -> None:
    """Set the weights and moving statistics of a network to `values`, {prefix + variable path: array}.

    Raises:
        InputError: an array is missing or has another shape; names `origin`.
    """
    for variable in model.variables:
        value = values.get(prefix + variable.path)
        if value is None or value.shape != tuple(variable.shape):
            stored = "nothing" if value is None else list(value.shape)
            raise InputError(f"{origin}: {stored} for {variable.path}, not {list(variable.shape)}")
        variable.assign(value)


def start_from(model: keras.Model, trained: Trained, classes: list[str] | None = None) -> None:
    """Copy the weights of a trained network, and its head if the classes fit; log what happens to the head.

    Args:
        model: network to copy to, with initial weights.
        trained: network to copy from.
        classes: class names of `model` in the order of their labels. If `trained` has the same names, its head
            is copied class by class; with other names the head keeps its initial weights. If either has no names, a
            head of the same size is copied unchanged.

    Raises:
        InputError: another network, or another graph of the same network.
    """
    ours, others = inside.row_of(model).graph, inside.row_of(trained.model).graph
    differing = [f"{key} {others.get(key)} there, {ours[key]} here" for key in ours if others.get(key) != ours[key]]
    theirs = {variable.path: variable for variable in trained.model.variables}
    order, message = _order_of(trained, classes)
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
        hint = "; see --graph" if inside.row_of(model).preactivation else ""
        raise InputError(f"--init_from={trained.origin}: another graph than {model.name}: {'; '.join(differing)}{hint}")
    kept = any(inside.part(variable.path) == "logits" for variable, _ in copied)
    _log.info("--init_from=%s: %s", trained.origin, message if kept else "its head starts anew")
    for variable, source in copied:
        variable.assign(source)


def _order_of(trained, classes):
    """Return the output of a trained network for each class, None if the head starts anew; and a log message."""
    if classes is None or trained.classes is None:
        return slice(None), "its head is kept as it is: which classes it has is not known"
    if list(trained.classes) == list(classes):
        return slice(None), "its head is kept: it has the same classes"
    if sorted(trained.classes) == sorted(classes):
        return [trained.classes.index(name) for name in classes], "its head is kept, by the names of the classes"
    return None, ""


def bn_layers(model: keras.Model) -> list[BatchNormalization]:
    """Return the BN layers whose moving statistics training changes, in order."""
    return [layer for layer in model.layers if isinstance(layer, BatchNormalization) and layer.trainable]
