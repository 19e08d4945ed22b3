"""Other labels of the same training images, such as noisy ones: a column of a table, `--labels=FILE:COLUMN`.

The images have labels already, by their folders or by the only table beside them. Those of the training images are
replaced; validation and test images keep their own, also where they were held out of the training images.
"""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np

from resnet_tf.data import labels
from resnet_tf.data.splits import Source, listed
from resnet_tf.errors import InputError

_SHOWN = 3


def parted(value: str) -> tuple[str, tuple[str, str] | None]:
    """Return what a value of --labels says: the path of a table or "", and (path, column) of other labels or None."""
    path, colon, column = value.rpartition(":")
    if not (colon and path and column) or Path(value).is_file():
        return value, None
    return "", (path, column)


def applied(source: Source, data_dir: str, path: str, column: str) -> Source:
    """Return a source whose training images have the labels of a column; `relabelled` says which and how many.

    Args:
        source: of a folder or archive.
        data_dir: path of the folder or archive.
        path: CSV or TSV with a column of files, such as path, that names every training image.
        column: name of the column of classes.

    Raises:
        InputError: see `of_split`.
    """
    train, new = source.splits["train"], of_split(source, "train", data_dir, path, column)
    changed = int((new != train.labels).sum())
    said = f"training labels from {Path(path).name}, column {column}: {changed:,} of {len(train):,} differ"
    record = {"file": path, "column": column, "sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest()}
    return dataclasses.replace(
        source,
        splits=source.splits | {"train": dataclasses.replace(train, labels=new)},
        how="; ".join(filter(None, (source.how, said))),
        relabelled=record | {"changed": changed},
    )


def of_split(source: Source, split: str, data_dir: str, path: str, column: str) -> np.ndarray:
    """Return the labels that a column of a table gives the images of a split, int32 [n]; see `applied`.

    Raises:
        InputError: see `labels.read_column`; a label is no class of the images; or an image of the split has no row.
    """
    where = f"--labels={path}:{column}"
    every = [name for examples in source.splits.values() for name in examples.names]
    rows = labels.read_column(where, Path(path), column, Path(data_dir), every)
    names, numbers = source.splits[split].names, {name: number for number, name in enumerate(source.classes)}
    lacking = [name for name in names if name not in rows]
    if lacking:
        kind = "training" if split == "train" else split
        raise InputError(
            f"{where}: {len(lacking):,} of {len(names):,} {kind} images have no row: {listed(lacking, _SHOWN)}"
        )
    for line, label in map(rows.get, names):
        if label not in numbers:
            raise InputError(
                f"{where}, line {line}: {label!r} is no class of the images, which are {listed(source.classes)}"
            )
    return np.array([numbers[rows[name][1]] for name in names], np.int32)
