"""What a network answered for each example of a split: examples.csv of a run's folder."""

import csv
import pathlib

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics, pictures

FILE = "examples.csv"
COLUMNS = ("example", "name", "label", "predicted", "probability", "loss")


def of_logits(logits, labels, names=None):
    """Answers in the order of the split.

    Args:
        logits: float [n, classes].
        labels: int [n].
        names: of the n examples, such as their files; None where they have none.

    Returns:
        {column of `COLUMNS`: array [n]}: `example` is the position in the split, from 0; `label` and `predicted` are
        class numbers; `probability` is that of `predicted`, in [0, 1]; `loss` is in nats.
    """
    shares = metrics.probabilities(logits)
    every = np.arange(len(labels))
    predicted = shares.argmax(axis=1)
    with np.errstate(divide="ignore"):
        loss = -np.log(shares[every, labels])
    return {
        "example": every,
        "name": np.array([""] * len(labels) if names is None else names, dtype=object),
        "label": np.asarray(labels),
        "predicted": predicted,
        "probability": shares[every, predicted],
        "loss": loss,
    }


def right(answers):
    """Which examples are right: bool [n]. One whose probability is NaN is not, whatever class stands first."""
    return (answers["predicted"] == answers["label"]) & ~np.isnan(answers["probability"])


def write(path, answers):
    """Write answers as CSV, whole or not at all; probability and loss with six digits."""
    rows = zip(*(answers[name] for name in COLUMNS), strict=True)
    pictures.write_table(path, COLUMNS, ([*row[:4], f"{row[4]:.6g}", f"{row[5]:.6g}"] for row in rows))


def read(path):
    """Read what `write` wrote: {column: array}.

    Raises:
        InputError: no such file, or one with other columns or a damaged row.
    """
    path = pathlib.Path(path)
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
            if rows and tuple(rows[0]) != COLUMNS:
                raise InputError(f"{path}: its columns are {','.join(map(str, rows[0]))}, not {','.join(COLUMNS)}")
        kinds = {"name": object, "probability": np.float64, "loss": np.float64}
        return {name: np.array([row[name] for row in rows], dtype=object).astype(kinds.get(name, np.int64))
                for name in COLUMNS}  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}") from None
