"""A network with imported weights in the place of a run, for `export`: published weights, or a file of one's own."""

import dataclasses
import pathlib

import numpy as np

from resnet_tf import config as configuration
from resnet_tf.data.colour import PUBLISHED, Normalization
from resnet_tf.errors import InputError
from resnet_tf.models import adaptation, create_model, imagenet, preprocessing, weights
from resnet_tf.runs import network, record

# --data_dir of its data in the description of an export: evaluations name a folder themselves.
_UNKNOWN = "not recorded"


def load(settings: configuration.ExportConfig) -> tuple:
    """Build the network of --network and --init_from.

    Args:
        settings: a `config.ExportConfig` with a network and its weights.

    Returns:
        A `record.Run` without a folder; a `keras.Model` from normalised images of any size to logits; a
        `colour.Normalization`.

    Raises:
        InputError: no such network or weights; or the names of the classes or the preprocessing are not known.
    """
    opened = weights.open_source(settings.network, settings.init_from)
    training = network.trained_as("init_from", f"{settings.network}:{settings.init_from}")
    names = _classes(settings, adaptation.classes_of(opened.arrays or {}), training)
    expected = _preprocessing(settings)
    graph = weights.graph_of(settings.network, opened)
    model = create_model(
        settings.network, num_classes=len(names), input_shape=(None, None, 3), weights=opened, head="keep",
        dtype=_POLICIES[settings.activations],
    )  # fmt: skip
    if expected.order == "BGR":
        stem = model.weights[0]
        stem.assign(np.asarray(stem)[:, :, ::-1])  # so that the network takes RGB, as all models of this package
    normalization = Normalization(np.asarray(expected.mean, np.float32), np.asarray(expected.std, np.float32))
    # The data of the zoo are known, so that its exports can be scored on them.
    is_own = training is not None and expected.resize == expected.size
    config = configuration.TrainConfig(
        model=configuration.ModelConfig(model=settings.network, graph=graph or ""),
        data=configuration.DataConfig(
            dataset=training.dataset if is_own else "folder", data_dir=_UNKNOWN, image_size=expected.size,
            resize=0 if expected.resize == expected.size else expected.resize, normalization="imagenet",
            interpolation="" if is_own else expected.interpolation,
        ),
        views=configuration.ViewConfig(view="pad_crop" if is_own else "random_resized_crop"),
        optimizer=configuration.OptimizerConfig(train_steps=1),
    )  # fmt: skip
    manifest = {
        "weights": f"imported from {settings.init_from}",
        "data": {"examples": {}, "checksum": ""},
        "classes": names,
        "task": config.task,
        "flags": record.plain(config),
    }
    return record.Run(pathlib.Path(), manifest, config), model, normalization


_POLICIES = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


def _classes(settings, count, training):
    """Return the names of the classes in the order of the outputs."""
    origin = f"--init_from={settings.init_from}"
    if count is None:
        raise InputError(
            f"{origin}: has no head whose classes can be counted; export needs a classifier, in a file that "
            "resnet_tf.convert writes or one with timm's names"
        )
    if settings.classes_file:
        return _read(settings.classes_file, count, origin)
    if training:
        return list(training.classes)
    if count != len(imagenet.classes()):
        raise InputError(f"{origin}: has {count:,} classes, whose names are not known; --classes_file names them")
    return [words for _, words in imagenet.classes()]


def _read(file, count, origin):
    try:
        names = pathlib.Path(file).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--classes_file={file}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    names = [name.strip() for name in names]
    while names and not names[-1]:
        names.pop()
    if len(names) != count:
        raise InputError(f"--classes_file={file}: {len(names):,} lines, but {origin} has {count:,} classes")
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if twice:
        raise InputError(f"--classes_file={file}: empty or more than once: {', '.join(map(repr, twice[:8]))}")
    return names


def _preprocessing(settings):
    """Return the `preprocessing.Preprocessing` of the weights, that of `evaluate --network`, changed as flags say."""
    known = network.expected_of("init_from", f"{settings.network}:{settings.init_from}", tested=True)
    if known and settings.normalization:
        raise InputError(f"--normalization={settings.normalization} is not used by published weights")
    if not known:
        if not settings.image_size or not settings.normalization:
            raise InputError(
                f"--init_from={settings.init_from}: what images its weights expect is not known; set --image_size and "
                "--normalization, and --resize if it is larger"
            )
        kind = PUBLISHED[settings.normalization]
        order = "BGR" if settings.normalization == "caffe" else "RGB"
        mean, std = (tuple(map(float, values)) for values in (kind.mean, kind.std))
        known = preprocessing.Preprocessing(mean, std, settings.image_size, settings.image_size, "", order)
    known = known.at(settings.image_size or known.size)
    known = dataclasses.replace(known, resize=settings.resize or known.resize)
    if known.resize < known.size:
        raise InputError(f"--resize={known.resize} is less than --image_size={known.size}")
    return known
