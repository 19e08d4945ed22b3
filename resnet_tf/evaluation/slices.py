"""Accuracy on parts of a split: small and large, portrait and landscape, dark and bright images."""

import concurrent.futures
import io
import itertools
from collections.abc import Sequence

import numpy as np
from PIL import Image

from resnet_tf.data import orientation, processors
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics

COLUMNS = ("slice", "group", "low", "high", "examples", "top1", "low95", "high95")
SIDE, SHAPE, BRIGHTNESS = "shorter side (pixels)", "shape", "brightness (0 to 255)"
_MOST = 2000  # most images that are measured, evenly spaced in the split
_SIDE = 64  # brightness is measured on an image of about so many pixels
_SQUARE = 1.05  # largest ratio of the sides of a square image


def measure(split) -> dict[str, np.ndarray]:
    """Measure images, at most 2,000 of them.

    Args:
        split: a `Split` or an `Examples`.

    Returns:
        {"example": int [n], positions in the split; "height", "width": upright, in pixels; "brightness": mean
        luminance, 0 to 255}. Height and width are missing if the images are held in memory at one size; a value is NaN
        if Pillow cannot read the image.
    """
    count = min(len(split), _MOST)
    examples = np.linspace(0, len(split) - 1, count).round().astype(np.int64)
    if isinstance(split, Split):
        brightness = [float(_grey(Image.fromarray(split.images[example]))) for example in examples]
        return {"example": examples, "brightness": np.array(brightness)}
    with concurrent.futures.ThreadPoolExecutor(processors.count()) as pool:
        height, width, brightness = np.array(list(pool.map(lambda example: _look(split, example), examples))).T
    return {"example": examples, "height": height, "width": width, "brightness": brightness}


def _look(split, example):
    """Return height, width and brightness of an example; a JPEG is decoded at an eighth of its size if it is large."""
    try:
        image = Image.open(io.BytesIO(split.read(example)))
        width, height = image.size
        if split.boxes is None:
            sideways = split.exif == "apply" and orientation.is_sideways(image)
            image.draft("L", (_SIDE, _SIDE))
        else:
            top, left, height, width = split.boxes[example].tolist()
            image, sideways = image.crop((left, top, left + width, top + height)), False
        sides = (width, height) if sideways else (height, width)
        return *sides, _grey(image)
    except (OSError, ValueError, SyntaxError, InputError, Image.DecompressionBombError):
        return (np.nan,) * 3


def _grey(image):
    image = image.convert("L")
    image.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    return np.asarray(image, np.float64).mean()


def table(measured: dict[str, np.ndarray], right: np.ndarray) -> list[dict]:
    """Return the accuracy on each group of each slice.

    Args:
        measured: what `measure` returned.
        right: bool [examples of the split], whether each prediction is right.

    Returns:
        A {column of `COLUMNS`: value} for each group, the groups of a slice in ascending order. A slice is left out if
        all its images are in one group. "low" and "high" are the limits of the group: pixels, width / height, or
        luminance; "top1" is a fraction and "low95" and "high95" are its Wilson interval.
    """
    right, rows = right[measured["example"]], []
    if "height" in measured:
        height, width = measured["height"], measured["width"]
        shorter = np.minimum(height, width)
        rows += _rows(SIDE, shorter, *_thirds(shorter), right)
        names = ["portrait", "square", "landscape"]
        edges = [0, 1 / _SQUARE, _SQUARE, np.inf]
        rows += _rows(SHAPE, width / height, edges, names, right)
    brightness = measured["brightness"]
    return rows + _rows(BRIGHTNESS, brightness, *_thirds(brightness), right)


def _thirds(values: np.ndarray) -> tuple[Sequence[float], list[str]]:
    """Return the edges of thirds, fewer if many values are equal, and their names."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return [], []
    inner = np.unique(np.quantile(finite, [1 / 3, 2 / 3]))
    inner = inner[inner < finite.max()]  # so that the group above holds an image
    edges = [-np.inf, *inner, np.inf]
    texts = [f"{edge:.0f}" for edge in inner]
    if not texts:
        return edges, ["all"]
    between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
    return edges, [f"up to {texts[0]}", *between, f"above {texts[-1]}"]


def _rows(name, values, edges, groups, right):
    """Return the rows of a slice; a group holds low < value <= high."""
    rows = []
    for group, low, high in zip(groups, edges, edges[1:], strict=False):
        inside = (values > low) & (values <= high)
        count, hits = int(inside.sum()), int(right[inside].sum())
        if not count:
            continue
        interval = metrics.wilson(hits, count)
        row = (name, group, float(low), float(high), count, hits / count, *interval)
        rows.append(dict(zip(COLUMNS, row, strict=True)))
    return rows if len(rows) > 1 else []
