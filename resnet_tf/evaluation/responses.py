"""Responses of layers and their gradients at initialisation, to compare residual nets with plain nets.

`responses` and `gradients` return numbers; `draw_responses` and `draw_gradients` draw them in a
`matplotlib.figure.Figure`.
"""

import csv
import functools
import math
import pathlib
from collections.abc import Iterable
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.config import evaluation_size
from resnet_tf.data import batches, colour, geometry, resident, sources
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, pictures
from resnet_tf.models import create_model, find, inside, zoo
from resnet_tf.runs import checkpoint, network, restore, run_data
from resnet_tf.training import losses

_EXAMPLES = 1024  # default number of examples of a split that is not in memory
_RESPONSE_COLUMNS = ("run", "model", "layer_number", "layer", "std", "rank", "channels", "dead")
_OF_ZOO = f":{zoo.NAME}"  # behind the name of a network
KEPT = "responses.csv"  # file in the folder of a run, used if its checkpoints are gone
_GRADIENT_COLUMNS = ("model", "zero_gamma", "layer", "variable", "gradient_norm")


class Response(NamedTuple):
    """What a layer answers to images.

    Attributes:
        std: standard deviation over all examples, positions and channels together.
        channels: number of channels.
        dead: number of channels that are above 0 nowhere in any image, so that the ReLU behind them passes nothing;
            None where something else than a ReLU reads the response, see `inside.rectified`.
    """

    std: float
    channels: int
    dead: int | None


def analyse_responses(settings: configuration.AnalyzeConfig, subjects: list) -> dict:
    """Draw the layer responses of trained networks to --out and write them to --csv.

    Args:
        settings: a `config.AnalyzeConfig`.
        subjects: folders of runs, and NETWORK:cifar10 for weights that come with the package. Each sees the test images
            of its own data, so that networks of different data sets may be drawn together.

    Returns:
        {"out", "csv", "runs": names in the picture, "layers": [number of layers of each], "dead": [number of dead
        channels of each, see `Response`]}.

    Raises:
        InputError: nothing is named, or a run, its checkpoint or its data are missing, or there are no such weights.
    """
    out = pictures.check(settings.out, "analyze")
    table = pictures.check_table(settings.csv, out)
    # A slash at the end of a folder says nothing.
    subjects = list(dict.fromkeys(str(pathlib.Path(subject)) for subject in subjects))
    if not subjects:
        raise InputError("no runs were named: analyze responses RUN... --out=FILE")
    known = [_known(subject, settings) for subject in subjects]  # fails early
    labels = _labels(subjects, [names for *names, _ in known])
    deviations, dead, rows, plain = {}, [], [], []
    for subject, label, (model, _, measured) in zip(subjects, labels, known, strict=True):
        layers = measured()
        deviations[label] = stds = _stds(layers)
        dead.append(sum(one.dead or 0 for one in layers.values()))
        ranks = {layer: rank for rank, layer in enumerate(sorted(stds, key=stds.get, reverse=True), start=1)}
        rows += [
            (subject, model, number, layer, f"{one.std:.6g}", ranks[layer], one.channels, one.dead)
            for number, (layer, one) in enumerate(layers.items(), start=1)
        ]
        if find(model).shortcut == "none":
            plain.append(label)
    pictures.write(out, draw_responses(deviations, plain))
    pictures.write_table(table, _RESPONSE_COLUMNS, rows)
    counts = [len(layers) for layers in deviations.values()]
    return {"out": str(out), "csv": str(table), "runs": list(deviations), "layers": counts, "dead": dead}


def _known(subject, settings):
    """Return the names of the network and of the data set of a subject, and a function that measures it."""
    if subject.endswith(_OF_ZOO) and not pathlib.Path(subject).exists():
        if settings.weights:
            raise InputError(f"--weights={settings.weights}: {subject} has one set of weights")
        name = subject.removesuffix(_OF_ZOO)
        dataset = _data_of_zoo(name, settings.data_dir)[1].dataset
        return name, dataset, functools.partial(_of_zoo, name, settings.data_dir, settings.examples)
    config = restore.load(subject, settings.weights)[0].config
    measured = functools.partial(_of_run, subject, settings.examples, settings.data_dir, settings.weights)
    return config.model.model, config.data.dataset, measured


def _labels(subjects, known):
    """Return names of networks, with the data set if there are several, and with the subject if names are equal."""
    names = [model for model, _ in known]
    if len({dataset for _, dataset in known}) > 1:
        names = [f"{name}, {dataset}" for name, dataset in known]
    return [
        f"{name} ({subject})" if names.count(name) > 1 else name for name, subject in zip(names, subjects, strict=True)
    ]


def _stds(layers):
    return {layer: one.std for layer, one in layers.items()}


def _data_of_zoo(name, data_dir):
    """Return how weights of the zoo were trained, and the settings of the data."""
    training = zoo.read(zoo.path_of(name))
    data = configuration.DataConfig(dataset=training.dataset, data_dir=data_dir, image_size=training.size)
    configuration.check_data(data)
    return training, data


def of_zoo(name: str, data_dir: str, examples: int = 0) -> dict[str, float]:
    """Return the layer responses of a network of `zoo` to the test images of its data set; see `responses`.

        of_zoo("cifar_resnet20_v1", "cifar-10-python.tar.gz")

    Args:
        name: name of the network.
        data_dir: folder or archive of the data set.
        examples: number of test images, spread evenly over the split; 0 for all.

    Raises:
        InputError: there are no such weights, or the data are missing.
    """
    return _stds(_of_zoo(name, data_dir, examples))


def _of_zoo(name, data_dir, examples):
    training, data = _data_of_zoo(name, data_dir)
    split = sources.load(data.dataset, data.data_dir, image_size=data.image_size).splits["test"]
    model = create_model(name, weights=zoo.NAME)
    return _of_split(model, network.normalization_as(training), data, split, examples)


def of_run(folder: str | pathlib.Path, examples: int = 0, data_dir: str = "", weights: str = "") -> dict[str, float]:
    """Return the layer responses of a run to its test images, in float32; see `responses`.

    Args:
        folder: folder of the run.
        examples: number of test images, spread evenly over the split; 0 for all images if they are in memory, and
            otherwise for 1,024.
        data_dir: where the data are now; "" if they are where they were in training.
        weights: "raw", "ema" or "best", as in `restore`.

    Raises:
        InputError: the run or its checkpoint is missing, or its data are missing or have other classes.
    """
    return _stds(_of_run(folder, examples, data_dir, weights))


def _of_run(folder, examples, data_dir, weights):
    run, values, normalization = restore.load(folder, weights)
    config, source = run_data.of_run(run, data_dir)
    split = source.splits[run_data.scored(source.splits)]
    model = restore.build_model(run, values, weights, precision="float32")
    return _of_split(model, normalization, config.data, split, examples)


def _of_split(model, normalization, data, split, examples):
    count = min(len(split), examples or (len(split) if isinstance(split, Split) else _EXAMPLES))
    split = split.take(np.arange(count) * len(split) // count)
    with run_data.named_errors(split):
        return measure(model, (normalization(pixels) for pixels in _views(data, split)))


def of_run_or_kept(folder: str | pathlib.Path, data_dir: str = "") -> dict[str, float] | None:
    """Return the layer responses of a run's checkpoint, or else of `KEPT` in its folder, or else None.

    `python -m resnet_tf.analyze responses RUN --out=FILE --csv=RUN/responses.csv` writes the file `KEPT`.

    Args:
        folder: folder of the run.
        data_dir: where the data are now; "" if they are where they were in training.

    Raises:
        InputError: the file holds something else, or as `of_run`.
    """
    folder = pathlib.Path(folder)
    if checkpoint.steps(folder / "checkpoints"):
        return of_run(folder, data_dir=data_dir)
    path = folder / KEPT
    if not path.exists():
        return None
    with path.open(newline="", errors="replace") as file:
        rows = list(csv.DictReader(file))
    try:
        layers = {row["layer"]: float(row["std"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        layers = {}
    if not layers or len(layers) < len(rows):  # a repeated layer: responses of several runs
        raise InputError(f"{path}: not the layer responses of one run, as analyze responses writes them")
    return layers


def _views(data, split):
    """Yield the evaluation views of a split in batches, uint8 [n, size, size, 3]."""
    size = evaluation_size(data)
    batch = 128 if size <= 64 else 32
    if isinstance(split, Split):
        for start in range(0, len(split), batch):
            yield split.images[start : start + batch]
        return

    def view(image, box):
        return geometry.center(image, size, data.resize, box, data.interpolation)

    for views in batches.testing(split, view, batch=batch):
        yield views["pixels"][views["labels"] >= 0]


def responses(model: keras.Model, images: Iterable) -> dict[str, float]:
    """Return the standard deviation of the response of each 3x3 layer (He et al. 2015, figure 7); see `measure`.

    Returns:
        {name of the convolution: standard deviation} in the order of layers.
    """
    return _stds(measure(model, images))


def measure(model: keras.Model, images: Iterable) -> dict[str, Response]:
    """Return what each 3x3 layer answers to images.

    One forward pass computes all layers; only sums in float64 and the largest values are kept of each batch.

    Args:
        model: a model of `create_model`; `inside.responses` defines its layers and their responses.
        images: batches of normalised images, float32 [n, height, width, 3].

    Returns:
        {name of the convolution: `Response`} in the order of layers.
    """
    layers = inside.responses(model)
    measured, rectified = inside.with_outputs(model, list(layers.values())), set(inside.rectified(model))

    # A compiled function frees the output of a layer as soon as its numbers and the next layer are computed.
    @tf.function
    def numbers(batch):
        rows, largest = [], []
        for output in measured(batch, training=False):
            values = tf.cast(output, tf.float64)
            moments = tf.reduce_sum(values), tf.reduce_sum(tf.square(values))
            rows.append([tf.cast(tf.size(output, tf.int64), tf.float64), *moments])
            largest.append(tf.reduce_max(output, axis=(0, 1, 2)))
        return tf.convert_to_tensor(rows), tf.concat(largest, 0)

    program = numbers.get_concrete_function(tf.TensorSpec([None, *model.input_shape[1:]], tf.float32))
    sums, peaks = 0.0, -np.inf
    for batch in images:
        rows, largest = program(batch)
        sums, peaks = sums + rows.numpy(), np.maximum(peaks, largest.numpy())
    count, total, squares = sums.T
    channels = [response.shape[-1] for response in layers.values()]
    dead = [int((part <= 0).sum()) for part in np.split(peaks, np.cumsum(channels)[:-1])]
    deviations = np.sqrt(squares / count - np.square(total / count)).tolist()
    return {
        name: Response(std, width, silent if name in rectified else None)
        for name, std, width, silent in zip(layers, deviations, channels, dead, strict=True)
    }


def draw_responses(deviations: dict[str, dict[str, float]], plain: Iterable[str] = ()):
    """Draw responses in the order of layers, and below sorted by size, as in He et al. 2015, figure 7.

    Args:
        deviations: {name of a network or run: {layer: standard deviation}}.
        plain: names of plain nets, which are drawn dashed.
    """
    figure = charts.new_figure(7, 6.6)
    both = figure.subplots(2, 1)
    names = sorted(deviations, key=lambda name: len(deviations[name]))
    for name, shade in zip(names, pictures.colours(len(names)), strict=True):
        values = list(deviations[name].values())
        for axes, drawn in zip(both, (values, sorted(values, reverse=True)), strict=True):
            line = "--" if name in plain else "-"
            axes.plot(range(1, len(drawn) + 1), drawn, line, color=shade, label=name, linewidth=1.5)
    for axes, order in zip(both, ("in the order of the network", "sorted by size"), strict=True):
        axes.set_ylim(bottom=0)
        pictures.label(axes, f"3x3 layer, {order}", "standard deviation of the response")
    pictures.legend(figure)
    return figure


def analyse_gradients(settings: configuration.AnalyzeConfig, names: list[str]) -> dict:
    """Draw the gradients of networks at initialisation to --out and write them to --csv.

    Args:
        settings: a `config.AnalyzeConfig`.
        names: names of networks.

    Returns:
        {"out", "csv", "networks": names in the picture, "layers": [number of layers with a kernel of each], "seeds",
        "examples"}.

    Raises:
        InputError: no network is named or one is unknown, data are missing or too few, or images are too small.
    """
    out = pictures.check(settings.out, "analyze")
    table = pictures.check_table(settings.csv, out)
    if not names:
        raise InputError("no networks were named: analyze gradients NETWORK... --out=FILE")
    plain = [name for name in names if find(name).shortcut == "none"]
    variants = []
    for name in dict.fromkeys(names):
        variants += [(name, False), *([(name, True)] if settings.zero_gamma and name not in plain else [])]
    size, batch = settings.image_size, settings.batch_size
    data = configuration.DataConfig(dataset=settings.dataset, data_dir=settings.data_dir, image_size=size)
    configuration.check_used(data)
    configuration.check_data(data)
    source = sources.load(data.dataset, data.data_dir, image_size=size)
    train = source.splits["train"]
    if batch > len(train):
        raise InputError(f"--batch_size={batch}: there are {len(train)} training examples")
    normalization = colour.normalization("channel", train.images)
    means = {}
    for name, zero in variants:
        norms = []
        for seed in range(settings.seeds):
            indices = resident.order(len(train), batch, 0, 1, seed)[0]
            pixels, labels = normalization(train.images[indices]), train.labels[indices]
            norms.append(gradients(name, pixels, labels, len(source.classes), zero, seed))
        means[name, zero] = {path: float(np.mean([of_seed[path] for of_seed in norms])) for path in norms[0]}
    rows = [
        (*variant, *path.split("/"), f"{norm:.6g}") for variant, norms in means.items() for path, norm in norms.items()
    ]
    pictures.write(out, draw_gradients(means, plain))
    pictures.write_table(table, _GRADIENT_COLUMNS, rows)
    return {
        "out": str(out), "csv": str(table), "networks": [_variant_name(*variant) for variant in means],
        "layers": [len(_of_kind(norms, "kernel")) for norms in means.values()],
        "seeds": settings.seeds, "examples": batch,
    }  # fmt: skip


def gradients(name: str, images, labels, classes: int, zero_gamma: bool = False, seed: int = 0) -> dict[str, float]:
    """Return the norms of the gradient of a network at initialisation (He et al. 2015b), before any step.

    The loss is the mean cross-entropy of one batch, whose statistics BN uses, without weight decay.

    Args:
        name: name of the network.
        images: normalised images, float32 [n, height, width, 3].
        labels: int [n].
        classes: number of classes.
        zero_gamma: whether every residual branch starts at zero.
        seed: seed of the initial weights.

    Returns:
        {path of the variable, such as "stage1_block1_conv1/kernel": L2 norm}, in the order of layers.

    Raises:
        InputError: the network is unknown, or images are too small for it.
    """
    shape = tuple(images.shape[1:])
    model = create_model(name, num_classes=classes, input_shape=shape, zero_gamma=zero_gamma, seed=seed)
    loss = losses.Loss()
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        mean = tf.reduce_mean(loss(logits, loss.targets(labels, classes)))
    norms = map(tf.norm, tape.gradient(mean, [variable.value for variable in model.trainable_variables]))
    return {variable.path: float(norm) for variable, norm in zip(model.trainable_variables, norms, strict=True)}


def _of_kind(norms, kind):
    """Return the norms of all kernels or gammas, in the order of layers."""
    return [norm for path, norm in norms.items() if path.endswith(f"/{kind}")]


def _variant_name(name, zero_gamma):
    return f"{name}, zero gamma" if zero_gamma else name


def draw_gradients(norms: dict[tuple[str, bool], dict[str, float]], plain: Iterable[str] = ()):
    """Draw gradients of kernels and, below, of BN's gammas in the order of layers, on logarithmic axes.

    The axes are linear between zero and the smallest norm of a network without zero gamma.

    Args:
        norms: {(name, whether with zero gamma): what `gradients` returned, or its mean over seeds}.
        plain: names of plain nets, which are drawn dashed.
    """
    figure = charts.new_figure(7, 6.6)
    names = list(dict.fromkeys(name for name, _ in norms))
    colours = dict(zip(names, pictures.colours(len(names)), strict=True))
    kinds = {"kernel": "convolutions and dense layer", "gamma": "gammas of batch normalisation"}
    for axes, (kind, title) in zip(figure.subplots(2, 1), kinds.items(), strict=True):
        drawn = {variant: np.array(_of_kind(of_variant, kind)) for variant, of_variant in norms.items()}
        ordinary = [norm for (_, zero), values in drawn.items() if not zero for norm in values if 0 < norm < math.inf]
        least = min(ordinary, default=1.0)
        axes.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(least)), linscale=0.5)
        for (name, zero), values in drawn.items():
            line = "none" if zero else "--" if name in plain else "-"
            axes.plot(
                range(1, len(values) + 1), values, linestyle=line, marker="x" if zero else ".", color=colours[name],
                label=_variant_name(name, zero), linewidth=1, markersize=4, clip_on=False,
            )  # fmt: skip
        axes.set_ylim(bottom=0)
        pictures.label(axes, f"{title}, in the order of the network", "norm of the gradient")
    pictures.legend(figure)
    return figure
