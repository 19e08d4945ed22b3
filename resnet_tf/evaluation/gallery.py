"""Pictures of images and of the views that are made of them, by the very functions that training and evaluation use."""

import dataclasses

import numpy as np
import tensorflow as tf

from resnet_tf.config import check_ten_crop, evaluation_size
from resnet_tf.data import batches, geometry, images, resident
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, pictures
from resnet_tf.runs import run_data
from resnet_tf.training import losses, recipe

_COLOURS = (
    "#e6194b", "#4363d8", "#3cb44b", "#f58231", "#911eb4", "#42d4f4", "#f032e6", "#9a6324", "#808000", "#469990",
)  # fmt: skip
_INCHES = 1.6  # a picture's side


@dataclasses.dataclass(frozen=True)
class Look:
    """One view of an image.

    Attributes:
        pixels: uint8 [height, width, 3], as the network sees them, but for the normalisation.
        box: top, left, height and width of the part of the original that it shows, in pixels.
        mirrored: whether it is shown mirrored.
        classes: (name, weight) of its target, the largest first.
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
        label: its class.
        looks: its views.
    """

    original: np.ndarray
    label: str
    looks: list[Look]


def show(config):
    """Draw the first images of a training and what becomes of them.

    Args:
        config: a `config.ShowConfig`.

    Returns:
        {"out", "shown", "examples", "views": of each}.

    Raises:
        InputError: --out is no .png or .svg in a folder that exists; data that are missing, damaged or too few;
            matplotlib is not installed.
    """
    out, section = pictures.check(config.record.out, "show"), config.gallery
    rows = (training_rows if section.shown == "training" else ten_crop_rows)(config)
    pictures.write(out, draw(rows, section.shown))
    return {"out": str(out), "shown": section.shown, "examples": len(rows), "views": len(rows[0].looks)}


def training_rows(config):
    """What training sees of the first examples of epoch 0, in that epoch and in those after it.

    Of mixed images the partner is the neighbour among those shown, as it is the neighbour in a batch.

    Args:
        config: a `config.ShowConfig`.

    Returns:
        List of `Row`.
    """
    source, split, chosen = _chosen(config)
    originals = [_original(split, example) for example in chosen]
    normalization = run_data.normalization_of(config, split)
    settings, view = recipe.from_views(config.views, config.optimizer.seed), run_data.training_view(config)
    labels = split.labels[chosen]
    rows = [Row(image, source.classes[label], []) for (image, _), label in zip(originals, labels, strict=True)]
    for epoch in range(config.gallery.epochs):
        keys, numbers = batches.drawn(settings["seed"], np.full(len(chosen), epoch), chosen * config.views.repeats)
        if view:
            pixels = tf.stack(
                [view(split.read(i), row, _box(split, i)) for i, row in zip(chosen, numbers, strict=True)]
            )
            boxes = [view.box(*box[2:], row) for (_, box), row in zip(originals, numbers.numpy(), strict=True)]
        else:
            pixels, pad = split.images[chosen], config.views.pad
            offsets, mirrored = resident.draw_views(keys, pad, config.views.mirror)
            corners = (offsets.numpy() - pad).tolist()
            boxes = [([*c, *pixels.shape[1:3]], bool(m)) for c, m in zip(corners, mirrored, strict=True)]
        targets = losses.from_config(config.loss).targets(labels, len(source.classes))
        seen, targets = settings["augmentation"].finish(pixels, targets, keys, normalization, settings["pad_crop"])
        seen = seen.numpy() * normalization.std + normalization.mean
        seen = np.clip(np.round(seen), 0, 255).astype(np.uint8)
        for row, image, (_, inside), (box, mirrored), target in zip(
            rows, seen, originals, boxes, targets.numpy(), strict=True
        ):
            parts = [(source.classes[label], float(target[label])) for label in np.argsort(-target) if target[label]]
            box = [box[0] + inside[0], box[1] + inside[1], *box[2:]]
            row.looks.append(Look(image, box, mirrored, parts))
    return rows


def ten_crop_rows(config):
    """The ten crops of evaluation of the first training examples of epoch 0; see `geometry.ten_crop`.

    Args:
        config: a `config.ShowConfig`.

    Returns:
        List of `Row`, each of ten looks.

    Raises:
        InputError: images that are held at one size, or no --resize to crop from.
    """
    check_ten_crop(config, "--shown=ten_crop", "the recipe")
    data, size = config.data, evaluation_size(config.data)
    source, split, chosen = _chosen(config)
    rows = []
    for example in chosen:
        image, (top, left, height, width) = _original(split, example)
        crops = geometry.ten_crop(split.read(example), size, data.resize, _box(split, example)).numpy()
        boxes = [[b[0] + top, b[1] + left, *b[2:]] for b in geometry.ten_boxes(height, width, size, data.resize)]
        looks = [Look(crop, box, place >= 5, []) for place, (crop, box) in enumerate(zip(crops, boxes, strict=True))]
        rows.append(Row(image, source.classes[split.labels[example]], looks))
    return rows


def _chosen(config):
    """The source, its training split and the first examples of epoch 0, int64."""
    source, _ = run_data.load(config)
    split, count, seed = source.splits["train"], config.gallery.examples, config.optimizer.seed
    if count > len(split):
        raise InputError(f"--examples={count}: there are {len(split)} training examples")
    if isinstance(split, Split):
        return source, split, resident.order(len(split), count, 0, 1, seed)[0].astype(np.int64)
    first = np.arange(count, dtype=np.int64)
    return source, split, batches.shuffled(first, seed, np.zeros(count, np.int64), len(split)).numpy()


def _original(split, example):
    """An image as it is stored, and the part of it that is the example: top, left, height, width."""
    if isinstance(split, Split):
        image = split.images[example]
    else:
        image = images.decode(split.read(example), split.name(example))
    box = None if isinstance(split, Split) else _box(split, example)
    return image, [0, 0, *image.shape[:2]] if box is None else box.tolist()


def _box(split, example):
    return None if split.boxes is None else split.boxes[example]


# --- The picture -----------------------------------------------------------------------------------------------------


def draw(rows, shown="training"):
    """A figure with a row for each image: the original with its boxes, then its views framed in their boxes' colours.

    Args:
        rows: list of `Row`.
        shown: "training", or "ten_crop", whose mirrored views stand below the others.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    lines = 2 if shown == "ten_crop" else 1
    across, wide = len(rows[0].looks) // lines, 1.0 + 0.6 * lines
    size = _INCHES * (across + wide), _INCHES * 1.25 * lines * len(rows)
    figure = Figure(figsize=size, layout="constrained")
    grid = figure.add_gridspec(lines * len(rows), across + 1, width_ratios=[wide, *[1] * across])
    for place, row in enumerate(rows):
        first = lines * place
        _draw_original(figure.add_subplot(grid[first : first + lines, 0]), row)
        for number, look in enumerate(row.looks):
            axes = figure.add_subplot(grid[first + number // across, 1 + number % across])
            axes.imshow(look.pixels, interpolation="nearest")
            _bare(axes, _COLOURS[_colour(row, number) % len(_COLOURS)])
            parts = [f"{charts.short(name)} {weight:.2f}" for name, weight in look.classes if weight >= 0.005]
            axes.set_title("\n".join(parts[:2]), fontsize=7)
            if look.mirrored:
                words = {"fontsize": 6.5, "color": "white", "bbox": {"color": "black", "alpha": 0.6, "pad": 1.5}}
                axes.text(0.04, 0.04, "mirrored", transform=axes.transAxes, **words)
    return figure


def _colour(row, number):
    """Views of one box share its colour."""
    return next(place for place, look in enumerate(row.looks) if look.box == row.looks[number].box)


def _draw_original(axes, row):
    from matplotlib.patches import Rectangle

    height, width = row.original.shape[:2]
    axes.imshow(row.original, interpolation="antialiased")
    for number, look in enumerate(row.looks):
        if _colour(row, number) != number:
            continue
        top, left, tall, wide = look.box
        # Edges of pixels lie half a pixel before their centres.
        corner, colour = (left - 0.5, top - 0.5), _COLOURS[number % len(_COLOURS)]
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor="white", linewidth=2.6, clip_on=False))
        axes.add_patch(Rectangle(corner, wide, tall, fill=False, edgecolor=colour, linewidth=1.4, clip_on=False))
    edges = np.array([look.box for look in row.looks])
    axes.set_xlim(min(0, edges[:, 1].min()) - 0.5, max(width, (edges[:, 1] + edges[:, 3]).max()) - 0.5)
    axes.set_ylim(max(height, (edges[:, 0] + edges[:, 2]).max()) - 0.5, min(0, edges[:, 0].min()) - 0.5)
    _bare(axes, "#888888")
    axes.set_title(f"{charts.short(row.label)}, {width} x {height}", fontsize=7)


def _bare(axes, colour):
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_edgecolor(colour)
        spine.set_linewidth(1.6)


# --- Mistakes --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Mistake:
    """An example that was answered wrongly.

    Attributes:
        name: of its file, or else its position in the split.
        pixels: uint8 [height, width, 3], the example as it is stored.
        label: its class, and the probability that was given to it.
        predicted: the likeliest class, and its probability.
    """

    name: str
    pixels: np.ndarray
    label: tuple[str, float]
    predicted: tuple[str, float]


def mistakes(split, chosen, probabilities, classes):
    """Look examples up.

    Args:
        split: a `Split` or an `Examples`.
        chosen: int [n], positions in it.
        probabilities: float [n, classes], what was answered to these.
        classes: their names.

    Returns:
        List of `Mistake`.
    """
    found, names = [], split.names
    for example, shares in zip(chosen, probabilities, strict=True):
        image, (top, left, height, width) = _original(split, example)
        label, predicted = split.labels[example], shares.argmax()
        found.append(
            Mistake(
                name=names[example] if names else f"example {example}",
                pixels=image[top : top + height, left : left + width],
                label=(classes[label], float(shares[label])),
                predicted=(classes[predicted], float(shares[predicted])),
            )
        )
    return found


def draw_mistakes(found, across=6):
    """A figure of mistakes: each image with its true class, what it was taken for, and the end of its file's name.

    Args:
        found: list of `Mistake`, in reading order.
        across: images in a row.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    rows = -(-len(found) // across)
    figure = Figure(figsize=(across * 1.25 * _INCHES, rows * 1.55 * _INCHES), layout="constrained")
    figure.get_layout_engine().set(h_pad=0.08)
    grid = figure.add_gridspec(rows, across)
    for place, mistake in enumerate(found):
        axes = figure.add_subplot(grid[place // across, place % across])
        small = max(mistake.pixels.shape[:2]) < 64
        axes.imshow(mistake.pixels, interpolation="nearest" if small else "antialiased")
        _bare(axes, "#888888")
        axes.set_box_aspect(1)  # one grid for images of all shapes
        axes.set_xlabel(charts.short_end(mistake.name, 30), fontsize=6, parse_math=False)
        for above, verb, (name, probability) in ((0.13, "is", mistake.label), (0.02, "said", mistake.predicted)):
            words = {"fontsize": 7.5, "ha": "center", "color": "black" if verb == "is" else _COLOURS[0]}
            text = f"{verb} {charts.short(name, 20)} ({_probability(probability)})"
            axes.text(0.5, 1 + above, text, transform=axes.transAxes, **words)
    return figure


def _probability(value):
    return f"{value:.3f}" if value >= 0.001 else f"{value:.0e}"
