"""The file detections.csv: detections of a split."""

import csv
import pathlib

import numpy as np

from resnet_tf.data.boxes import Detections
from resnet_tf.errors import InputError
from resnet_tf.evaluation import pictures

FILE = "detections.csv"
COLUMNS = ("image", "class", "score", "top", "left", "bottom", "right")


def write(path, names: list[str], classes: list[str], detections: list[Detections]) -> None:
    """Write the detections of each named image as CSV, with enough digits to read the same numbers back.

    An image without detections has no row.
    """
    rows = []
    for name, one in zip(names, detections, strict=True):
        numbers = np.column_stack([one.scores, one.boxes]).astype(np.float32)  # str() of float32 is the shortest
        rows += [(name, classes[label], *map(str, row)) for label, row in zip(one.labels, numbers, strict=True)]
    pictures.write_table(path, COLUMNS, rows)


def read(path, names: list[str], classes: list[str]) -> list[Detections]:
    """Read the detections of each named image from a file of `write`.

    Raises:
        InputError: no such file, other columns, a damaged row, or an unknown image or class.
    """
    path = pathlib.Path(path)
    rows = {name: [] for name in names}
    index_of = {name: label for label, name in enumerate(classes)}
    try:
        with open(path, newline="") as file:
            reader = csv.reader(file)
            header = tuple(next(reader, ()))
            if header != COLUMNS:
                raise InputError(f"{path}: its columns are {','.join(header)}, not {','.join(COLUMNS)}")
            for name, label, *numbers in reader:
                if name not in rows or label not in index_of:
                    raise InputError(f"{path}: row {reader.line_num}: no image {name}, or no class {label}")
                score, top, left, bottom, right = map(np.float32, numbers)
                rows[name].append(Detections((top, left, bottom, right), score, index_of[label]))
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
