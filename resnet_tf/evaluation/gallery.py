"""Pictures of images and their views, which the functions of training and evaluation make, and of mistakes."""

import dataclasses

import numpy as np
import tensorflow as tf
from PIL import Image

from resnet_tf.config import ShowConfig, check_ten_crop, evaluation_size
from resnet_tf.data import batches, geometry, images, resident
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, pictures
from resnet_tf.runs import run_data
from resnet_tf.training import choices, losses, recipe

_COLOURS = (
    "#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000", "#469990",
)  # fmt: skip
_INCHES = 1.6  # side of an image
_LONGEST = 320  # longer side of the image of a mistake in pixels: 24 photos as stored may take a gigabyte


@dataclasses.dataclass(frozen=True)
class Look:
    """One view of an image.

    Attributes:
        pixels: uint8 [height, width, 3], the input of the network before normalisation.
        box: top, left, height and width of the visible part of the original, in pixels.
        mirrored: whether the view is mirrored.
        classes: (name, weight) of the classes of its target, the largest weight first.
    """

    pixels: np.ndarray
    box: list[float]
    mirrored: bool
    classes: list[tuple[str, float]]


@dataclasses.dataclass(frozen=True)
class Row:
    """An image and its views.

    Attributes:
        original: uint8 [height, width, 3].
        label: name of its class.
        looks: its views.
    """

    original: np.ndarray
    label: str
    looks: list[Look]


def show(config: ShowConfig) -> dict:
    """Draw the first images of a training and their views to --out.

    Returns:
        {"out", "shown", "examples", "views": number of views of each example}.

    Raises:
        InputError: --out is no .png or .svg file in an existing folder; data are missing, damaged or too few; or
            matplotlib is not installed.
    """
    out, section = pictures.check(config.record.out, "show"), config.gallery
    if choices.wanted(config):
        config = choices.choose(config).config
    rows = (training_rows if section.shown == "training" else ten_crop_rows)(config)
    pictures.write(out, draw(rows, section.shown))
    return {"out": str(out), "shown": section.shown, "examples": len(rows), "views": len(rows[0].looks)}


def training_rows(config: ShowConfig) -> list[Row]:
    """Make the training views of the first examples of epoch 0, one for each of the first --epochs epochs.

    An image is mixed with its neighbour among the shown examples, as training mixes neighbours in a batch.
    """
    source, split, examples = _first_examples(config)
    originals = [_original(split, example) for example in examples]
    normalization = run_data.normalization_of(config, split)
    settings, view = recipe.from_views(config.views, config.optimizer.seed), run_data.training_view(config)
    labels = split.labels[examples]
    rows = [Row(image, source.classes[label], []) for (image, _), label in zip(originals, labels, strict=True)]
    for epoch in range(config.gallery.epochs):
        epochs, alternate = np.full(len(examples), epoch), run_data.alternates(config)
        keys, numbers = batches.drawn(settings["seed"], epochs, examples * config.views.repeats, alternate)
        if view:
            pixels = tf.stack(
                [view(split.read(i), row, _box(split, i)) for i, row in zip(examples, numbers, strict=True)]
            )
            boxes = [view.box(*box[2:], row) for (_, box), row in zip(originals, numbers.numpy(), strict=True)]
        else:
            pixels, pad = split.images[examples], config.views.pad
            offsets, mirrored = resident.draw_views(keys, pad, settings["pad_crop"].mirror)
            corners = offsets.numpy() - pad
            if alternate:  # before the crop, which is then from the other side of the original
                mirrored = numbers[:, geometry.MIRROR].numpy() < 0.5
                pixels = np.where(mirrored[:, None, None, None], pixels[:, :, ::-1], pixels)
                corners[:, 1] *= np.where(mirrored, -1, 1)
            corners = corners.tolist()
            boxes = [([*c, *pixels.shape[1:3]], bool(m)) for c, m in zip(corners, mirrored, strict=True)]
        targets = losses.Loss(config.loss.loss, config.loss.label_smoothing).targets(labels, len(source.classes))
        seen, targets = settings["augmentation"].finish(pixels, targets, keys, normalization, settings["pad_crop"])
        seen = seen.numpy() * normalization.std + normalization.mean
        seen = np.clip(np.round(seen), 0, 255).astype(np.uint8)
        for row, image, (_, inside), (box, mirrored), target in zip(
            rows, seen, originals, boxes, targets.numpy(), strict=True
        ):
            weights = [(source.classes[label], float(target[label])) for label in np.argsort(-target) if target[label]]
            row.looks.append(Look(image, [box[0] + inside[0], box[1] + inside[1], *box[2:]], mirrored, weights))
    return rows


def ten_crop_rows(config: ShowConfig) -> list[Row]:
    """Make the ten crops of evaluation for the first training examples of epoch 0; see `geometry.ten_crop`.

    Raises:
        InputError: images are held in memory at one size, or --resize is not set.
    """
    check_ten_crop(config, "--shown=ten_crop", "the recipe")
    data, size, way = config.data, evaluation_size(config.data), config.data.interpolation
    source, split, examples = _first_examples(config)
    rows = []
    for example in examples:
        image, (top, left, height, width) = _original(split, example)
        crops = geometry.ten_crop(split.read(example), size, data.resize, _box(split, example), way).numpy()
        boxes = [[b[0] + top, b[1] + left, *b[2:]] for b in geometry.ten_boxes(height, width, size, data.resize, way)]
        looks = [Look(crop, box, index >= 5, []) for index, (crop, box) in enumerate(zip(crops, boxes, strict=True))]
        rows.append(Row(image, source.classes[split.labels[example]], looks))
    return rows


def _first_examples(config):
    """Return the source, its training split and the indices of the first examples of epoch 0, int64."""
    source, _ = run_data.load(config)
    split, count, seed = source.splits["train"], config.gallery.examples, config.optimizer.seed
    if count > len(split):
        raise InputError(f"--examples={count}: there are {len(split)} training examples")
    if isinstance(split, Split):
        return source, split, resident.order(len(split), count, 0, 1, seed)[0].astype(np.int64)
    first = np.arange(count, dtype=np.int64)
    return source, split, batches.shuffled(first, seed, np.zeros(count, np.int64), len(split)).numpy()


def _original(split, example):
    """Return an image as stored, and the box of the example in it: top, left, height, width."""
    if isinstance(split, Split):
        image = split.images[example]
    else:
        image = images.decode(split.read(example), split.name(example))
    box = None if isinstance(split, Split) else _box(split, example)
    return image, [0, 0, *image.shape[:2]] if box is None else box.tolist()


def stored(split, example: int) -> np.ndarray:
    """Return an example of a `Split` or `Examples` as it is stored, its box if it has one: uint8 [height, width, 3]."""
    image, (top, left, height, width) = _original(split, example)
    return image[top : top + height, left : left + width]


def smaller(pixels: np.ndarray, longest: int) -> np.ndarray:
    """Return an image scaled down to a longer side of `longest` pixels; a smaller one as it is."""
    if max(pixels.shape[:2]) <= longest:
        return pixels
    image = Image.fromarray(pixels)
    image.thumbnail((longest, longest), Image.Resampling.BICUBIC, reducing_gap=2.0)
    return np.asarray(image)


def _box(split, example):
    return None if split.boxes is None else split.boxes[example]


def draw(rows: list[Row], shown: str = "training"):
    """Return a `Figure` with a row for each image: the original with the boxes of its views, then the views.

    The frame of a view has the colour of its box.

    Args:
        rows: list of `Row`.
        shown: "training", or "ten_crop" to draw mirrored views below the others.
    """
    lines = 2 if shown == "ten_crop" else 1
    columns, wide = len(rows[0].looks) // lines, 1.0 + 0.6 * lines
    figure = charts.new_figure(_INCHES * (columns + wide), _INCHES * 1.25 * lines * len(rows))
    grid = figure.add_gridspec(lines * len(rows), columns + 1, width_ratios=[wide, *[1] * columns])
    for index, row in enumerate(rows):
        first = lines * index
        _draw_original(figure.add_subplot(grid[first : first + lines, 0]), row)
        for number, look in enumerate(row.looks):
            axes = figure.add_subplot(grid[first + number // columns, 1 + number % columns])
            axes.imshow(look.pixels, interpolation="nearest")
            _frame(axes, _COLOURS[_colour(row, number) % len(_COLOURS)])
            weights = [f"{charts.short(name)} {weight:.2f}" for name, weight in look.classes if weight >= 0.005]
            axes.set_title("\n".join(weights[:2]), fontsize=7)
            if look.mirrored:
                style = {"fontsize": 6.5, "color": "white", "bbox": {"color": "black", "alpha": 0.6, "pad": 1.5}}
                axes.text(0.04, 0.04, "mirrored", transform=axes.transAxes, **style)
    return figure


def _colour(row, number):
    """Return the index of the first view with the same box, so that equal boxes share a colour."""
    return next(index for index, look in enumerate(row.looks) if look.box == row.looks[number].box)


def _draw_original(axes, row):
    from matplotlib.patches import Rectangle

    height, width = row.original.shape[:2]
    axes.imshow(row.original, interpolation="antialiased")
    for number, look in enumerate(row.looks):
        if _colour(row, number) != number:
            continue
        top, left, tall, wide = look.box
        # Coordinates are centres of pixels; edges lie half a pixel before.
        corner, colour = (left - 0.5, top - 0.5), _COLOURS[number % len(_COLOURS)]
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor="white", linewidth=2.6, clip_on=False))
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=colour, linewidth=1.4, clip_on=False))
    edges = np.array([look.box for look in row.looks])
    axes.set_xlim(min(0, edges[:, 1].min()) - 0.5, max(width, (edges[:, 1] + edges[:, 3]).max()) - 0.5)
    axes.set_ylim(max(height, (edges[:, 0] + edges[:, 2]).max()) - 0.5, min(0, edges[:, 0].min()) - 0.5)
    _frame(axes, "#888888")
    axes.set_title(f"{charts.short(row.label)}, {width} x {height}", fontsize=7)


def _frame(axes, colour):
    charts.hide_ticks(axes)
    for spine in axes.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(1.6)


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example whose prediction is wrong.

    Attributes:
        name: name of its file, or else its position in the split.
        pixels: uint8 [height, width, 3], the example as stored, or at most 320 pixels long.
        label: its class, and the predicted probability of this class.
        predicted: the likeliest class, and its probability.
    """

    name: str
    pixels: np.ndarray
    label: tuple[str, float]
    predicted: tuple[str, float]


def mistakes(split, indices: np.ndarray, probabilities: np.ndarray, classes: list[str]) -> list[Mistake]:
    """Look up the images, names and classes of examples whose predictions are wrong.

    Args:
        split: a `Split` or an `Examples`.
        indices: int [n], positions in the split.
        probabilities: float [n, classes], predictions for these examples.
        classes: names of the classes.
    """
    mistakes, names = [], split.names
    for example, row in zip(indices, probabilities, strict=True):
        label, predicted = ((classes[c], float(row[c])) for c in (split.labels[example], row.argmax()))
        name = names[example] if names else f"example {example}"
        mistakes.append(Mistake(name, smaller(stored(split, example), _LONGEST), label, predicted))
    return mistakes


def draw_mistakes(mistakes: list[Mistake], columns: int = 6):
    """Return a `Figure` of mistakes: each image with its true class, its predicted class and the end of its file name.

    Args:
        mistakes: list of `Mistake`, in reading order.
        columns: images in a row.
    """
    rows = -(-len(mistakes) // columns)
    figure = charts.new_figure(columns * 1.25 * _INCHES, rows * 1.55 * _INCHES)
    figure.get_layout_engine().set(h_pad=0.08)
    grid = figure.add_gridspec(rows, columns)
    for index, mistake in enumerate(mistakes):
        axes = figure.add_subplot(grid[index // columns, index % columns])
        small = max(mistake.pixels.shape[:2]) < 64
        axes.imshow(mistake.pixels, interpolation="nearest" if small else "antialiased")
        _frame(axes, "#888888")
        axes.set_box_aspect(1)  # so that images of all shapes fit one grid
        axes.set_xlabel(charts.short_end(mistake.name, 30), fontsize=6, parse_math=False)
        for above, verb, (name, probability) in ((0.13, "is", mistake.label), (0.02, "said", mistake.predicted)):
            style = {"fontsize": 7.5, "ha": "center", "color": "black" if verb == "is" else _COLOURS[0]}
            text = f"{verb} {charts.short(name, 20)} ({_probability(probability)})"
            axes.text(0.5, 1 + above, text, transform=axes.transAxes, **style)
    return figure


def _probability(value):
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
