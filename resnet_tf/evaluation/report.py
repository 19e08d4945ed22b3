"""A folder that says how a classifier errs: tables for programs, pictures for people."""

import dataclasses
import os
import pathlib
import shutil

import numpy as np

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, charts, gallery, metrics, pictures

_MISTAKES = 24  # of the gallery
_LIKELIEST = 5
_DPI = 150


@dataclasses.dataclass(frozen=True, eq=False)
class Report:
    """What a report is made of.

    Attributes:
        result: of the evaluation, a dict.
        classes: their names.
        split: a `Split` or an `Examples`.
        logits: float [n, classes].
        answered: of `answers.of_logits`.
    """

    result: dict
    classes: list[str]
    split: object
    logits: np.ndarray
    answered: dict


def check(folder, examples):
    """Refuse a report's folder, or a file of examples, that could not be written after the work.

    Args:
        folder: of --report; "" for none.
        examples: of --examples; likewise.

    Raises:
        InputError: names the flag.
    """
    if folder:
        path = pathlib.Path(folder)
        if path.exists() and not path.is_dir():
            raise InputError(f"--report={folder}: a file, not a folder")
        nearest = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK):
            raise InputError(f"--report={folder}: {nearest} cannot be written to")
        charts.require("--report")
    if examples:
        pictures.check_data_file("examples", examples, ".csv")


def write(folder, report):
    """Write a report.

    evaluation.json, examples.csv, classes.csv, confusion.csv and .png, calibration.csv, reliability.png, and
    mistakes.png where there are some. All of it is written beside the folder and then moved into it, so that a full
    disk leaves no half of it.

    Args:
        folder: made with its parents if missing; files of an earlier report there are replaced.
        report: a `Report`.

    Raises:
        OSError: disk full or not writable.
    """
    out = pathlib.Path(folder).absolute()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _fill(partial, report)
        out.mkdir(exist_ok=True)
        (out / "mistakes.png").unlink(missing_ok=True)  # there may be none this time
        for file in sorted(partial.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder, report):
    classes, answered = report.classes, report.answered
    matrix = metrics.confusion(answered["predicted"], answered["label"], len(classes))
    calibration = metrics.calibration(answered["probability"], answers.right(answered))
    files.write_json(folder / "evaluation.json", report.result)
    answers.write(folder / answers.FILE, answered)
    columns, rows = class_table(report.logits, answered["label"], matrix, classes)
    pictures.write_table(folder / "classes.csv", columns, rows)
    named = ([name, *counts] for name, counts in zip(classes, matrix.tolist(), strict=True))
    pictures.write_table(folder / "confusion.csv", ["true \\ predicted", *classes], named)
    bins = zip(*(calibration[name].tolist() for name in calibration), strict=True)
    pictures.write_table(
        folder / "calibration.csv", list(calibration), ([_digits(value) for value in row] for row in bins)
    )
    pictures.write(folder / "confusion.png", charts.confusion(matrix, classes), _DPI)
    pictures.write(folder / "reliability.png", charts.reliability(calibration, report.result["ece"]), _DPI)
    worst = worst_mistakes(answered, _MISTAKES)
    if len(worst):
        shares = metrics.probabilities(report.logits[worst])
        mistakes = gallery.mistakes(report.split, worst, shares, classes)
        pictures.write(folder / "mistakes.png", gallery.draw_mistakes(mistakes), _DPI)


def worst_mistakes(answered, most):
    """The examples that were answered wrongly with the highest loss: int [at most `most`], the worst first.

    Args:
        answered: of `answers.of_logits`.
        most: how many.
    """
    wrong = np.flatnonzero(~answers.right(answered))
    return wrong[np.argsort(-answered["loss"][wrong], kind="stable")[:most]]


def class_table(logits, labels, matrix, classes):
    """The figures of each class, and what it is most often taken for.

    Args:
        logits: float [n, classes].
        labels: int [n].
        matrix: of `metrics.confusion`.
        classes: their names.

    Returns:
        Names of columns, and a list of rows; empty where a class has no examples, or no mistakes.
    """
    figures = metrics.per_class(logits, labels)
    wrong = matrix - np.diag(np.diag(matrix))
    rows = []
    for label, name in enumerate(classes):
        taken_for, times = int(wrong[label].argmax()), int(wrong[label].max())
        confused = [classes[taken_for], times] if times else ["", ""]
        numbers = [_digits(float(figures[column][label])) for column in ("top1", "top5", "loss")]
        rows.append([label, name, int(figures["examples"][label]), *numbers, *confused])
    return ["label", "class", "examples", "top1", "top5", "loss", "most_confused_with", "times"], rows


def _digits(value):
    """A number of six digits as text; "" for NaN."""
    return "" if value != value else f"{value:.6g}"


# --- Each example's likeliest classes --------------------------------------------------------------------------------


def likeliest(logits, answered, classes):
    """The five likeliest classes of each example, fewer where there are fewer classes.

    Args:
        logits: float [n, classes].
        answered: of `answers.of_logits`.
        classes: their names.

    Returns:
        {column: array or list [n]}: example, name, label and class, which are the true ones, loss in nats, then class_1
        and probability_1, the likeliest, to class_5 and probability_5.
    """
    shares = metrics.probabilities(logits)
    count = min(_LIKELIEST, len(classes))
    best = np.argsort(-shares, axis=1, kind="stable")[:, :count]
    names = np.array(classes, dtype=object)
    table = {name: answered[name] for name in ("example", "name", "label")}
    table |= {"class": names[answered["label"]], "loss": answered["loss"]}
    for place in range(count):
        chosen = best[:, place]
        table[f"class_{place + 1}"] = names[chosen]
        table[f"probability_{place + 1}"] = shares[np.arange(len(shares)), chosen]
    return table


def write_examples(path, logits, answered, classes):
    """Write what `likeliest` returns, as the ending says, .csv or .parquet; whole or not at all.

    Raises:
        OSError: disk full or not writable.
    """
    path = pathlib.Path(path)
    _WRITERS[path.suffix](path, likeliest(logits, answered, classes))


def _csv(path, table):
    columns = [
        [f"{value:.6g}" for value in values] if values.dtype.kind == "f" else values.tolist()
        for values in table.values()
    ]
    pictures.write_table(path, list(table), zip(*columns, strict=True))


def _parquet(path, table):
    import pyarrow
    import pyarrow.parquet

    columns = pyarrow.table({name: pyarrow.array(values.tolist()) for name, values in table.items()})
    files.replace_atomically(path, lambda file: pyarrow.parquet.write_table(columns, file))


_WRITERS = {".csv": _csv, ".parquet": _parquet}
