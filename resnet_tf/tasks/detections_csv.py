"""Detections of a split as a file: detections.csv."""

import csv
import pathlib

import numpy as np

from resnet_tf.data.boxes import Detections
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures

FILE = "detections.csv"
COLUMNS = ("image", "class", "score", "top", "left", "bottom", "right")


def write(path, names, classes, detections):
    """Write detections as CSV, whole or not at all; numbers with as many digits as it takes to read them back.

    Args:
        path: of the file.
        names: of the images; see `Examples.names`.
        classes: their names.
        detections: `boxes.Detections` of each image. One without any has no row.
    """
    rows = []
    for name, found in zip(names, detections, strict=True):
        numbers = np.column_stack([found.scores, found.boxes]).astype(np.float32)  # whose str() is the shortest
        rows += [(name, classes[label], *map(str, row)) for label, row in zip(found.labels, numbers, strict=True)]
    pictures.write_table(path, COLUMNS, rows)


def read(path, names, classes):
    """Read the `boxes.Detections` of each image, in the order of `names`, from a file that `write` wrote.

    Args:
        path: of the file.
        names: of the images that detections are wanted of.
        classes: their names.

    Raises:
        InputError: no such file, or one with other columns, a damaged row, or an image or class that is not named.
    """
    path = pathlib.Path(path)
    rows = {name: [] for name in names}
    position = {name: label for label, name in enumerate(classes)}
    try:
        with open(path, newline="") as file:
            reader = csv.reader(file)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise InputError(f"{path}: its columns are {','.join(header)}, not {','.join(COLUMNS)}")
            for name, label, *numbers in reader:
                if name not in rows or label not in position:
                    raise InputError(f"{path}: row {reader.line_num}: no image {name}, or no class {label}")
                score, top, left, bottom, right = map(np.float32, numbers)
                rows[name].append(Detections((top, left, bottom, right), score, position[label]))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except InputError:
        raise
    except (ValueError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}") from None
    return [
        Detections(
            np.array([row.boxes for row in rows[name]], np.float32).reshape(-1, 4),
            np.array([row.scores for row in rows[name]], np.float32),
            np.array([row.labels for row in rows[name]], np.int32),
        )
        for name in names
    ]
