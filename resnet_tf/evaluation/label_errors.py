"""Examples whose labels are probably wrong, by confident learning (Northcutt, Jiang and Chuang 2021), and relabelling.

A report lists them in label_errors.csv. A person fills in its column new_label, and `apply` changes the labels.
"""

import csv
import dataclasses
import io
import logging
import pathlib

import numpy as np

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, pictures

FILE = "label_errors.csv"
COLUMNS = ("file", "label", "suggested", "confidence", "score", "new_label")
DROP = "-"  # as a new label: remove the file
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Suspects:
    """Examples whose labels are probably wrong, the most suspicious first.

    Attributes:
        example: int [n], positions in the split.
        suggested: int [n], the class that the network suggests.
        confidence: float64 [n], probability of the suggested class.
        score: float64 [n], probability of the suggested class minus that of the label; of `by_loss`, the loss in nats.
        weak: whether the network was trained on these examples, so that it repeats most wrong labels.
    """

    example: np.ndarray
    suggested: np.ndarray
    confidence: np.ndarray
    score: np.ndarray
    weak: bool


def find(probabilities: np.ndarray, labels: np.ndarray) -> Suspects:
    """Find probable label errors among examples that the network was not trained on.

    The threshold of a class is the mean probability that the network gives it on the examples of this label (equation
    2). An example counts for the likeliest class whose threshold it reaches (equation 1). Its label is suspected if
    this is another class, and likelier than the label. Suspects are ordered by the difference of the two
    probabilities, the normalized margin of the paper. Thresholds make the result robust to a network that is too sure,
    or surer of some classes than of others.

    Args:
        probabilities: float [n, classes]; examples with NaN are never suspected.
        labels: int [n].
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    examples = np.arange(len(labels))
    own = np.nan_to_num(probabilities[examples, labels])
    sums = np.bincount(labels, own, probabilities.shape[1])
    # A class without examples has no threshold, and nothing is counted for it.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    suggested = confident.argmax(axis=1)
    margin = confident[examples, suggested] - own
    (suspected,) = np.nonzero((suggested != labels) & (margin > 0))
    order = suspected[np.argsort(-margin[suspected], kind="stable")]
    return Suspects(order, suggested[order], probabilities[order, suggested[order]], margin[order], weak=False)


def by_loss(predictions: dict[str, np.ndarray]) -> Suspects:
    """Return the wrong predictions on training examples, the highest loss first; see `answers.of_logits`."""
    wrong = np.flatnonzero(~answers.right(predictions))
    order = wrong[np.argsort(-predictions["loss"][wrong], kind="stable")]
    columns = (predictions[name][order] for name in ("predicted", "probability", "loss"))
    return Suspects(order, *columns, weak=True)


def write(path: str | pathlib.Path, suspects: Suspects, split, classes: list[str]) -> None:
    """Write label_errors.csv atomically, with an empty column new_label for a person to fill in.

    Args:
        path: path of the file.
        suspects: what `find` or `by_loss` returned.
        split: the `Split` or `Examples` of the examples.
        classes: names of the classes.
    """
    names = split.names
    columns = (suspects.example, suspects.suggested, suspects.confidence, suspects.score)
    rows = [
        [name_of(names, example), classes[split.labels[example]], classes[suggested], f"{confidence:.4f}",
         f"{score:.4f}", ""]
        for example, suggested, confidence, score in zip(*columns, strict=True)
    ]  # fmt: skip
    _write(path, COLUMNS, rows)


def name_of(names: list[str] | None, example: int) -> str:
    """Return the name of an example: its file, or its position in the split."""
    return names[example] if names else f"example {example}"


def apply(labels: str | pathlib.Path, edits: str | pathlib.Path, out: str | pathlib.Path) -> dict:
    """Change labels as a person has filled in, and write the changed file atomically.

    Args:
        labels: CSV file with the columns file and label, such as split.csv of a run; other columns are kept.
        edits: CSV file with the columns file and new_label, such as label_errors.csv. Rows with an empty new_label
            change nothing; "-" removes the file.
        out: CSV file to write, with the columns and the order of `labels`.

    Returns:
        {"out", "files": number of rows written, "relabelled", "dropped", "unchanged": rows whose new label is the
        label that they have, "new_classes": labels that no file had before}.

    Raises:
        InputError: a file is missing or lacks a column, names a file twice or one that is not in `labels`, or there is
            nothing to do.
    """
    columns, rows = _read(labels, "--labels", ("file", "label"))
    wanted = _wanted(edits, {row["file"] for row in rows}, labels)
    known, kept = {row["label"] for row in rows}, []
    counts = {"relabelled": 0, "dropped": 0, "unchanged": 0}
    for row in rows:
        new = wanted.get(row["file"])
        if new == DROP:
            counts["dropped"] += 1
            continue
        if new is not None:
            counts["unchanged" if new == row["label"] else "relabelled"] += 1
        kept.append(row if new is None else row | {"label": new})
    if not counts["relabelled"] + counts["dropped"]:
        raise InputError(f"--edits={edits}: nothing to do: each new_label is the label that the file has")
    if not kept:
        raise InputError(f"--edits={edits}: no file would be left")
    new_classes = sorted({row["label"] for row in kept} - known)
    if new_classes:
        _log.warning("warning: no file had these labels before: %s", ", ".join(new_classes))
    _write(pictures.in_folder("out", out), columns, ([row[column] for column in columns] for row in kept))
    return {"out": str(out), "files": len(kept), **counts, "new_classes": new_classes}


def _wanted(edits, known, labels):
    """Return {file: new label} of the rows that have one."""
    _, rows = _read(edits, "--edits", ("file", "new_label"))
    wanted = {}
    for row in rows:
        new = row["new_label"].strip()
        if not new:
            continue
        if row["file"] not in known:
            raise InputError(f"--edits={edits}: {row['file']} is not in {labels}")
        if wanted.setdefault(row["file"], new) != new:
            raise InputError(f"--edits={edits}: {row['file']} has two new labels, {wanted[row['file']]} and {new}")
    if not wanted:
        raise InputError(f"--edits={edits}: nothing to do: the column new_label is empty")
    return wanted


def _read(path, flag, needed):
    """Return columns and rows {column: text} of a CSV file, with commas or, as some spreadsheets write, semicolons."""
    try:
        text = pathlib.Path(path).read_bytes().decode("utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{flag}={path}: {error.strerror}") from None
    header = text.split("\n", 1)[0]
    reader = csv.DictReader(
        io.StringIO(text, newline=""), delimiter=";" if ";" in header and "," not in header else ","
    )
    try:
        columns, rows = reader.fieldnames or [], list(reader)
    except csv.Error as error:
        raise InputError(f"{flag}={path}: damaged: {error}") from None
    if missing := [name for name in needed if name not in columns]:
        raise InputError(f"{flag}={path}: has no column {missing[0]}; it has {', '.join(columns) or 'none'}")
    for number, row in enumerate(rows, start=2):
        if None in row or None in row.values():
            raise InputError(f"{flag}={path}: row {number} has not {len(columns)} values")
    return columns, rows


def _write(path, columns, rows):
    data = pictures.csv_text(columns, rows).encode(errors="surrogateescape")  # names of files may hold any bytes
    files.replace_atomically(path, lambda file: file.write(data))
