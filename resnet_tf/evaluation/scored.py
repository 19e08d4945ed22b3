"""Targets of an evaluation: a run, an ensemble of runs, an exported model, or a network with imported weights."""

import dataclasses
import functools
import json
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.data import colour, images
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import adaptation, create_model, hub, imagenet, preprocessing, published, weights, zoo
from resnet_tf.runs import devices, network, restore, run_data, versions
from resnet_tf.runs.runner import Runner
from resnet_tf.serving import runtimes

_SERVED_BATCH = 64
_LEAST = np.finfo(np.float32).tiny  # replaces probabilities that a softmax in float32 has rounded to 0


@dataclasses.dataclass(frozen=True)
class Member:
    """One network of the target.

    Attributes:
        checks: number of times that `logits` calls its check.
        logits: function(check) that returns float [n, classes] for the whole split, every example once.
    """

    checks: int
    logits: Callable


@dataclasses.dataclass(frozen=True)
class Target:
    """Target of an evaluation.

    Attributes:
        identity: {key: value} that identify it in the result.
        config: the `TrainConfig` of its data.
        classes: names of its classes; None if they are not known.
        origin: flag and value that name it in errors.
        members: function(source, split) that returns a list of `Member`.
        row: {column: value} of an accuracy file that replace values derived from `config`.
        checksum: checksum of its data at the time of training; "" if it is not known.
        outputs: function(source) that returns the output, an index, of each class of the data, where the network has
            more outputs than these; it returns None where they are the same, in the same order.
    """

    identity: dict
    config: configuration.TrainConfig
    classes: list[str] | None
    origin: str
    members: Callable
    row: dict
    checksum: str = ""
    outputs: Callable = lambda source: None


def find(config: configuration.EvaluateConfig) -> Target:
    """Find the target of an evaluation, without reading its data.

    Raises:
        InputError: the target is missing or damaged, or cannot be evaluated with these settings.
    """
    for name, function in (("run", _runs), ("model", _exported), ("network", _imported)):
        if getattr(config.evaluation, name):
            return function(config)
    raise AssertionError("EvaluateConfig requires one of them")


def _runs(config):
    section = config.evaluation
    loaded = [restore.load(folder, section.weights) for folder in section.run.split(",")]
    first = loaded[0][0]
    for run, _, _ in loaded:
        _check_views(section, run.config, str(run.folder))
        if run.manifest["classes"] != first.manifest["classes"]:
            raise InputError(f"--run={run.folder}: its classes are not those of {first.folder}")
        if first.config.views.view == "pad_crop" and first.config.data.dataset not in configuration.SMALL_DATASETS:
            tags = [one.config.data.exif for one in (run, first)]
            if tags[0] != tags[1]:  # all members share one set of decoded images
                raise InputError(f"--run={run.folder}: of --exif={tags[0]}, not {tags[1]} as {first.folder}")
        ours, theirs = run.manifest["data"]["checksum"], first.manifest["data"]["checksum"]
        if ours != theirs:
            reason = f"the checksum of its data and their splits is {ours}, not {theirs} as of {first.folder}"
            raise InputError(f"--run={run.folder}: {reason}")
    steps = [restore.step_of(values) for _, values, _ in loaded]
    weights = restore.resolved(first, section.weights)
    identity = {"run": str(first.folder), "weights": weights, "steps": steps[0]}
    row = {}
    if len(loaded) > 1:
        shares = np.array(section.shares or [1.0] * len(loaded))
        shares = [round(share, 6) for share in (shares / shares.sum()).tolist()]
        folders = [str(run.folder) for run, _, _ in loaded]
        identity = {"runs": folders, "shares": shares, "average": section.average, "weights": weights}
        identity["steps"] = steps
        row = {"recipe": f"ensemble, mean {section.average}, of {' '.join(folders)}", "seed": "", "steps": ""}
        row |= {"epochs": "", "model": " + ".join(run.config.model.model for run, _, _ in loaded)}

    @functools.cache  # one network for several splits
    def runners():
        strategy = devices.make_strategy(section.replicas)
        return [restore.build_runner(*one, strategy, section.weights) for one in loaded]

    def members(source, split):
        return [_member(section, split, run.config, r) for (run, _, _), r in zip(loaded, runners(), strict=True)]

    classes, checksum = first.manifest["classes"], first.manifest["data"]["checksum"]
    return Target(identity, first.config, classes, f"--run={first.folder}", members, row, checksum)


def _member(section, split, config, runner):
    if not isinstance(split, Split):
        split = dataclasses.replace(split, exif=config.data.exif)  # which may differ between members
    split_logits = SplitLogits(
        runner, config.data, split, section.batch_size, section.views, section.average, config.views.threads,
        section.scales,
    )  # fmt: skip

    def logits(check):
        devices.use_precision(config.device.precision)  # global state, which may differ between members
        return split_logits.logits(check=check)

    return Member(split_logits.checks, logits)


def _check_views(section, config, name):
    """Refuse views that cannot be made from the data of a run."""
    if section.views == "ten_crop":
        configuration.check_ten_crop(config, "--views=ten_crop", name)
    if section.views == "multi_scale" and config.views.view == "pad_crop":
        raise InputError(f"--views=multi_scale: the images of {name} are held in memory at one size")


def _exported(config):
    section = config.evaluation
    model = versions.locate(section.model)
    signatures = {name: runtimes.load_signature(section.model, name) for name in ("serving_default", "images")}
    exported, description = network.describe_exported("model", section.model)

    def members(source, split):
        batch = min([section.batch_size or _SERVED_BATCH, *runtimes.batch_sizes(model)[-1:]])
        if not isinstance(split, Split) and split.boxes is not None:
            batch = 1  # boxes differ in size
        starts = range(0, len(split), batch)

        def logits(check):
            parts = []
            with run_data.named_errors(split):
                for start in starts:
                    outputs = _serve(signatures, split, range(start, min(start + batch, len(split))))
                    parts.append(np.log(np.maximum(outputs["probabilities"].numpy(), _LEAST)))
                    check()
            return np.concatenate(parts)

        return [Member(len(starts), logits)]

    row = {"steps": "", "epochs": ""}
    identity, origin = {"model": str(model)}, f"--model={section.model}"
    return Target(identity, exported, description["classes"], origin, members, row, _checksum(model))


def _checksum(model):
    """Return the checksum of the data that the card of an exported model has; "" for an export without a card."""
    try:
        return str(json.loads((model / versions.CARD).read_text())["data"]["checksum"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _serve(signatures, split, examples):
    """Call the exported model on a range of examples: on encoded images if there are files, otherwise on pixels."""
    if isinstance(split, Split):
        return signatures["images"](images=tf.constant(split.images[examples.start : examples.stop]))
    if split.boxes is None:
        return signatures["serving_default"](image_bytes=tf.constant([split.read(example) for example in examples]))
    top, left, height, width = split.boxes[examples.start]
    pixels = images.decode(split.read(examples.start), split.name(examples.start))
    return signatures["images"](images=tf.constant(pixels[None, top : top + height, left : left + width]))


def _with_their_views(section, imported):
    """Return the settings of imported weights with what travels with them in place of what is not set.

    Raises:
        InputError: no such weights, or --image_size is not set and not known.
    """
    origin = f"{section.network}:{imported.init_from}"
    if imported.init_from == zoo.NAME:
        imported = dataclasses.replace(imported, dataset=imported.dataset or zoo.NAME)
    if imported.init_from != "imagenet":  # check the file before reading the data
        network.locate("init_from", origin)
        if published.is_tag(imported.init_from) or hub.is_folder(imported.init_from):
            network.locate("init_from", imported.init_from, section.network)
    expected = network.expected_of("init_from", origin, tested=True)
    changed = {"normalization": imported.normalization or "imagenet"}
    if expected:
        kind = "caffe" if expected.order == "BGR" else preprocessing.name_of(expected.mean)
        kind = "" if network.trained_as("init_from", origin) else kind  # that of the training, to the bit
        expected = expected.at(imported.image_size or expected.size)
        changed = {"normalization": imported.normalization or kind, "image_size": expected.size}
        if imported.dataset not in configuration.SMALL_DATASETS:  # which are held at --image_size
            changed["resize"] = imported.resize or expected.resize
            changed["interpolation"] = imported.interpolation or expected.interpolation
    elif not imported.image_size:
        raise InputError("--image_size is not set, which --network needs")
    return dataclasses.replace(imported, **changed)


def _imported(config):
    section, imported = config.evaluation, _with_their_views(config.evaluation, config.imported)
    training = network.trained_as("init_from", f"{section.network}:{imported.init_from}")
    known = imported.normalization in ("", *colour.PUBLISHED)
    in_memory = imported.dataset in configuration.SMALL_DATASETS
    settings = configuration.TrainConfig(
        model=configuration.ModelConfig(model=section.network),
        data=configuration.DataConfig(
            dataset=imported.dataset, data_dir=section.data_dir, tfds_name=imported.tfds_name,
            classes=imported.classes, image_size=imported.image_size, resize=imported.resize,
            normalization="imagenet" if known else imported.normalization, exif=imported.exif,
            interpolation=imported.interpolation,
        ),
        views=configuration.ViewConfig(view="pad_crop" if in_memory else "random_resized_crop"),
        optimizer=configuration.OptimizerConfig(train_steps=1),
    )  # fmt: skip
    _check_views(section, settings, f"--dataset={imported.dataset}")
    if section.views == "multi_scale" and training and np.ndim(training.mean) > 1:
        raise InputError(f"--views=multi_scale: the weights expect images less a mean image of {training.size} pixels")

    @functools.cache
    def opened():
        return weights.open_source(section.network, imported.init_from)

    def outputs(source):
        """Return the outputs of some of ImageNet's classes, by their names, in a network of all of them."""
        given, every = len(source.classes), len(imagenet.classes())
        if adaptation.classes_of(opened().arrays or {}) != every or given > every:
            return None
        if given == every and (imported.classes or not all(map(imagenet.is_class, source.classes))):
            return None  # named in the order of the outputs
        try:
            return imagenet.labels_of(source.classes)
        except InputError as error:
            raise InputError(
                f"--data_dir={section.data_dir}: the weights have ImageNet's classes, but {error}"
            ) from None

    def members(source, split):
        strategy = devices.make_strategy(section.replicas)
        classes = len(source.classes) if outputs(source) is None else len(imagenet.classes())
        with strategy.scope():
            # The input has any size, for --views=multi_scale.
            model = create_model(
                section.network, num_classes=classes, input_shape=(None, None, 3), weights=opened(), head="keep",
            )  # fmt: skip
            if imported.normalization == "caffe":
                stem = next(variable for variable in model.variables if variable.path.startswith("stem_conv"))
                stem.assign(np.asarray(stem)[:, :, ::-1])  # BGR to RGB
            if not imported.normalization:
                normalization = network.normalization_as(training)
            elif known:
                normalization = colour.PUBLISHED[imported.normalization]
            else:
                normalization = run_data.normalization_of(settings, source.splits["train"])
            return [_member(section, split, settings, Runner(strategy, model, normalization))]

    identity = {"network": section.network, "init_from": imported.init_from}
    row = {"recipe": f"weights {imported.init_from}", "steps": "", "epochs": ""}
    labels = _labels(imported, training)
    return Target(identity, settings, labels, f"--network={section.network}", members, row, outputs=outputs)


def _labels(imported, training):
    """Return the names of the classes that weights have, for images in folders; None if they are not known.

    Those of a training of the zoo are known for its own data too.

    Those of ImageNet are found by `outputs`, also for images of some of them.
    """
    if training and imported.dataset in ("folder", training.dataset) and not imported.classes:
        return list(training.classes)
    if imported.dataset != "folder" or imported.classes or not hub.is_folder(imported.init_from):
        return None
    labels = list(hub.read(imported.init_from).labels)
    return labels if labels and len(labels) != len(imagenet.classes()) else None
