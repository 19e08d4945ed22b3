"""How strongly layers answer, and how gradients reach them: residual nets beside plain ones.

`responses` and `gradients` return plain figures, `draw_responses` and `draw_gradients` draw them.
"""

import csv
import math
import pathlib

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.config import evaluation_size
from resnet_tf.data import batches, colour, geometry, resident, sources
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures
from resnet_tf.models import create_model, find, inside
from resnet_tf.runs import checkpoint, restore, run_data
from resnet_tf.training import losses

_EXAMPLES = 1024  # of a split that is decoded as it is read
_RESPONSE_COLUMNS = ("run", "model", "layer_number", "layer", "std", "rank")
KEPT = "responses.csv"  # in the folder of a run whose checkpoints may be gone
_GRADIENT_COLUMNS = ("model", "zero_gamma", "layer", "variable", "gradient_norm")


# --- Responses -------------------------------------------------------------------------------------------------------


def analyse_responses(settings, folders):
    """Draw the layer responses of runs.

    Args:
        settings: a `config.AnalyzeConfig`.
        folders: of the runs. Each is shown its own test images; runs of several data sets may stand side by side.

    Returns:
        {"out", "csv", "runs": as the picture calls them, "layers": of each}.

    Raises:
        InputError: no runs, a folder that is none, one without a checkpoint, or data that are not there.
    """
    out = pictures.check(settings.out, "analyze")
    table = pictures.check_table(settings.csv, out)
    folders = list(dict.fromkeys(pathlib.Path(folder) for folder in folders))
    if not folders:
        raise InputError("no runs were named: analyze responses RUN... --out=FILE")
    configs = [restore.load(folder, settings.weights)[0].config for folder in folders]  # before hours go into the first
    figures, rows, plain = {}, [], []
    for folder, label, config in zip(folders, _labels(folders, configs), configs, strict=True):
        found = of_run(folder, settings.examples, settings.data_dir, settings.weights)
        figures[label] = found
        ranks = {layer: rank for rank, layer in enumerate(sorted(found, key=found.get, reverse=True), start=1)}
        rows += [
            (folder, config.model.model, number, layer, f"{std:.6g}", ranks[layer])
            for number, (layer, std) in enumerate(found.items(), start=1)
        ]
        if find(config.model.model).shortcut == "none":
            plain.append(label)
    pictures.write(out, draw_responses(figures, plain))
    pictures.write_table(table, _RESPONSE_COLUMNS, rows)
    return {"out": str(out), "csv": str(table), "runs": list(figures), "layers": [len(f) for f in figures.values()]}


def _labels(folders, configs):
    """Networks' names, with the data set where there are several, and with the folder where two would be the same."""
    names = [config.model.model for config in configs]
    if len({config.data.dataset for config in configs}) > 1:
        names = [f"{name}, {config.data.dataset}" for name, config in zip(names, configs, strict=True)]
    return [
        f"{name} ({folder})" if names.count(name) > 1 else name for name, folder in zip(names, folders, strict=True)
    ]


def of_run(folder, examples=0, data_dir="", weights="raw"):
    """The layer responses of a run to its test images, in float32.

    Args:
        folder: of the run.
        examples: how many test images, taken evenly out of the split; 0 for all of a set that is held in memory, and
            1,024 of one that is not.
        data_dir: where the data are now; "" for where they were in training.
        weights: "raw", "ema" or "best", as in `restore`.

    Returns:
        See `responses`.

    Raises:
        InputError: no run, no checkpoint, or data that are missing or have other classes.
    """
    run, values, normalization = restore.load(folder, weights)
    config, source = run_data.of_run(run, data_dir)
    split = source.splits["test"]
    count = min(len(split), examples or (len(split) if isinstance(split, Split) else _EXAMPLES))
    split = split.take(np.arange(count) * len(split) // count)
    model = restore.build_model(run, values, weights, precision="float32")
    with run_data.named_errors(split):
        return responses(model, (normalization(pixels) for pixels in _views(config.data, split)))


def of_run_or_kept(folder, data_dir=""):
    """The layer responses that a run's checkpoint gives, or, where it has none, those kept in its folder.

    They are kept by `python -m resnet_tf.analyze responses RUN --out=FILE --csv=RUN/responses.csv`.

    Args:
        folder: of the run.
        data_dir: where the data are now; "" for where they were in training.

    Returns:
        See `responses`; None where there is neither.

    Raises:
        InputError: the file of those kept is of something else, or as `of_run`.
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
        found = {row["layer"]: float(row["std"]) for row in rows}
    except (KeyError, TypeError, ValueError):
        found = {}
    if not found or len(found) < len(rows):  # a layer twice: of several runs
        raise InputError(f"{path}: not the layer responses of one run, as analyze responses writes them")
    return found


def _views(data, split):
    """Evaluation's views of a split in batches, uint8 [n, size, size, 3]."""
    size = evaluation_size(data)
    batch = 128 if size <= 64 else 32
    if isinstance(split, Split):
        for start in range(0, len(split), batch):
            yield split.images[start : start + batch]
        return
    for views in batches.testing(split, lambda image, box: geometry.center(image, size, data.resize, box), batch=batch):
        yield views["pixels"][views["labels"] >= 0]


def responses(model, images):
    """Standard deviation of the response of each 3x3 layer (He et al. 2015, figure 7).

    Over all examples, positions and channels together. One pass through all layers; of each batch only sums are kept,
    in float64.

    Args:
        model: of `create_model`; `inside.responses` says what its layers and their responses are.
        images: batches of normalised images, float32 [n, height, width, 3].

    Returns:
        {name of the convolution: standard deviation} in the order of layers.
    """
    layers = inside.responses(model)
    network = inside.with_outputs(model, list(layers.values()))

    # A program of its own keeps no layer longer than its sums and the next layer need it.
    @tf.function
    def sums(batch):
        found = []
        for output in network(batch, training=False):
            values = tf.cast(output, tf.float64)
            moments = tf.reduce_sum(values), tf.reduce_sum(tf.square(values))
            found.append([tf.cast(tf.size(output, tf.int64), tf.float64), *moments])
        return tf.convert_to_tensor(found)

    program = sums.get_concrete_function(tf.TensorSpec([None, *model.input_shape[1:]], tf.float32))
    count, total, squares = np.sum([program(batch).numpy() for batch in images], axis=0).T
    deviations = np.sqrt(squares / count - np.square(total / count))
    return dict(zip(layers, deviations.tolist(), strict=True))


def draw_responses(figures, plain=()):
    """A figure of two charts: responses in the order of layers, and sorted by size, as in He et al. 2015, figure 7.

    Args:
        figures: {name of a network or run: {layer: standard deviation}}.
        plain: the names that are drawn dashed, as plain nets.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.6), layout="constrained")
    charts = figure.subplots(2, 1)
    names = sorted(figures, key=lambda name: len(figures[name]))
    for name, shade in zip(names, pictures.colours(len(names)), strict=True):
        values = list(figures[name].values())
        for chart, drawn in zip(charts, (values, sorted(values, reverse=True)), strict=True):
            line = "--" if name in plain else "-"
            chart.plot(range(1, len(drawn) + 1), drawn, line, color=shade, label=name, linewidth=1.5)
    for chart, order in zip(charts, ("in the order of the network", "sorted by size"), strict=True):
        chart.set_ylim(bottom=0)
        pictures.label(chart, f"3x3 layer, {order}", "standard deviation of the response")
    pictures.legend(figure)
    return figure


# --- Gradients at initialisation -------------------------------------------------------------------------------------


def analyse_gradients(settings, names):
    """Draw the gradients of networks at initialisation, before any step.

    Args:
        settings: a `config.AnalyzeConfig`.
        names: of networks of the table, or CIFAR nets.

    Returns:
        {"out", "csv", "networks": as the picture calls them, "layers": with a kernel of each, "seeds", "examples"}.

    Raises:
        InputError: no networks or an unknown one; no such data, or too few of them; images too small for a network.
    """
    out = pictures.check(settings.out, "analyze")
    table = pictures.check_table(settings.csv, out)
    if not names:
        raise InputError("no networks were named: analyze gradients NETWORK... --out=FILE")
    plain = [name for name in names if find(name).shortcut == "none"]
    variants = [
        (name, zero)
        for name in dict.fromkeys(names)
        for zero in (False, True)
        if not zero or (settings.zero_gamma and name not in plain)
    ]
    size, batch = settings.image_size, settings.batch_size
    data = configuration.DataConfig(dataset=settings.dataset, data_dir=settings.data_dir, image_size=size)
    configuration.check_used(data)
    configuration.check_data(data)
    source = sources.load(data.dataset, data.data_dir, image_size=size)
    train = source.splits["train"]
    if batch > len(train):
        raise InputError(f"--batch_size={batch}: there are {len(train)} training examples")
    normalization = colour.normalization("channel", train.images)
    figures = {}
    for name, zero in variants:
        norms = []
        for seed in range(settings.seeds):
            chosen = resident.order(len(train), batch, 0, 1, seed)[0]
            pixels, labels = normalization(train.images[chosen]), train.labels[chosen]
            norms.append(gradients(name, pixels, labels, len(source.classes), zero, seed))
        figures[name, zero] = {path: float(np.mean([found[path] for found in norms])) for path in norms[0]}
    rows = [
        (name, zero, *path.split("/"), f"{norm:.6g}")
        for (name, zero), found in figures.items()
        for path, norm in found.items()
    ]
    pictures.write(out, draw_gradients(figures, plain))
    pictures.write_table(table, _GRADIENT_COLUMNS, rows)
    return {
        "out": str(out),
        "csv": str(table),
        "networks": [_called(*variant) for variant in figures],
        "layers": [len(_of_kind(found, "kernel")) for found in figures.values()],
        "seeds": settings.seeds,
        "examples": batch,
    }


def gradients(name, images, labels, classes, zero_gamma=False, seed=0):
    """Norms of the gradient of a network at initialisation (He et al. 2015b), before any step.

    Of the mean cross-entropy of one batch, by whose statistics BN normalises; without weight decay.

    Args:
        name: of a network of the table.
        images: normalised, float32 [n, height, width, 3].
        labels: int [n].
        classes: their number.
        zero_gamma: start every residual branch at zero.
        seed: of the initial weights.

    Returns:
        {path of the variable, such as "stage1_block1_conv1/kernel": L2 norm}, in the order of layers.

    Raises:
        InputError: no such network, or images too small for it.
    """
    shape = tuple(images.shape[1:])
    model = create_model(name, num_classes=classes, input_shape=shape, zero_gamma=zero_gamma, seed=seed)
    loss = losses.Loss()
    with tf.GradientTape() as tape:
        logits = model(images, training=True)
        mean = tf.reduce_mean(loss(logits, loss.targets(labels, classes)))
    found = tape.gradient(mean, [variable.value for variable in model.trainable_variables])
    norms = [float(tf.norm(gradient)) for gradient in found]
    return dict(zip([variable.path for variable in model.trainable_variables], norms, strict=True))


def _of_kind(norms, kind):
    """Norms of the kernels, or gammas, in the order of layers."""
    return [norm for path, norm in norms.items() if path.endswith(f"/{kind}")]


def _called(name, zero_gamma):
    return f"{name}, zero gamma" if zero_gamma else name


def draw_gradients(figures, plain=()):
    """A figure of two charts with a logarithmic axis: gradients of kernels, and of BN's gammas, in the order of layers.

    It is logarithmic down to the smallest norm of a network without zero gamma, and linear from there to zero.

    Args:
        figures: {(name, whether with zero gamma): what `gradients` returned, or its mean over seeds}.
        plain: the names that are drawn dashed, as plain nets.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 6.6), layout="constrained")
    names = list(dict.fromkeys(name for name, _ in figures))
    shades = dict(zip(names, pictures.colours(len(names)), strict=True))
    kinds = {"kernel": "convolutions and dense layer", "gamma": "gammas of batch normalisation"}
    for chart, (kind, said) in zip(figure.subplots(2, 1), kinds.items(), strict=True):
        drawn = {variant: np.array(_of_kind(norms, kind)) for variant, norms in figures.items()}
        ordinary = [norm for (_, zero), values in drawn.items() if not zero for norm in values if 0 < norm < math.inf]
        least = min(ordinary, default=1.0)
        chart.set_yscale("symlog", linthresh=10 ** math.floor(math.log10(least)), linscale=0.5)
        for (name, zero), values in drawn.items():
            line = "none" if zero else "--" if name in plain else "-"
            chart.plot(
                range(1, len(values) + 1), values, linestyle=line, marker="x" if zero else ".", color=shades[name],
                label=_called(name, zero), linewidth=1, markersize=4, clip_on=False,
            )  # fmt: skip
        chart.set_ylim(bottom=0)
        pictures.label(chart, f"{said}, in the order of the network", "norm of the gradient")
    pictures.legend(figure)
    return figure
