"""Predictions for each example of a split, and their file: examples.csv in the folder of a run."""

import csv
import pathlib

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics, pictures

FILE = "examples.csv"
COLUMNS = ("example", "name", "label", "predicted", "probability", "loss")


def of_logits(logits: np.ndarray, labels: np.ndarray, names: list | None = None) -> dict[str, np.ndarray]:
    """Return the prediction for each example, in the order of the split.

    Args:
        logits: float [n, classes].
        labels: int [n].
        names: n names of examples, such as their files; None if they have none.

    Returns:
        {column of `COLUMNS`: array [n]}: `example` is the position in the split, from 0; `label` and `predicted` are
        class numbers; `probability` is the probability of `predicted`, in [0, 1]; `loss` is in nats.
    """
    probabilities = metrics.probabilities(logits)
    examples = np.arange(len(labels))
    predicted = probabilities.argmax(axis=1)
    with np.errstate(divide="ignore"):
        loss = -np.log(probabilities[examples, labels])
    names = np.array([""] * len(labels) if names is None else names, dtype=object)
    columns = examples, names, np.asarray(labels), predicted, probabilities[examples, predicted], loss
    return dict(zip(COLUMNS, columns, strict=True))


def right(answers: dict[str, np.ndarray]) -> np.ndarray:
    """Return which predictions are right: bool [n]; a prediction whose probability is NaN is wrong."""
    return (answers["predicted"] == answers["label"]) & ~np.isnan(answers["probability"])


def write(path: str | pathlib.Path, answers: dict[str, np.ndarray]) -> None:
    """Write predictions to a CSV file atomically, probability and loss with six significant digits."""
    rows = zip(*(answers[name] for name in COLUMNS), strict=True)
    pictures.write_table(path, COLUMNS, ([*row[:4], f"{row[4]:.6g}", f"{row[5]:.6g}"] for row in rows))


def read(path: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Read a CSV file that `write` wrote, and return it as {column: array}.

    Raises:
        InputError: the file is missing, has other columns or a damaged row.
    """
    path = pathlib.Path(path)
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = list(csv.DictReader(file))
            if rows and tuple(rows[0]) != COLUMNS:
                raise InputError(f"{path}: its columns are {','.join(map(str, rows[0]))}, not {','.join(COLUMNS)}")
        types = {"name": object, "probability": np.float64, "loss": np.float64}
        return {name: np.array([row[name] for row in rows], dtype=object).astype(types.get(name, np.int64))
                for name in COLUMNS}  # fmt: skip
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, TypeError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: damaged: {error}") from None
