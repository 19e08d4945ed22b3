"""Folder with a page, tables and charts of a classifier's errors, and the file of the likeliest classes of examples."""

import os
import pathlib
import shutil

import numpy as np

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import (
    answers,
    charts,
    gallery,
    label_errors,
    metrics,
    pictures,
    report_page,
    slices,
)
from resnet_tf.evaluation.outcome import Outcome

PAGE = "report.html"

_MISTAKES = 24  # images in mistakes.png
_LIKELIEST = 5
_DPI = 150


def check(folder: str, examples: str) -> None:
    """Check that a report and a file of examples can be written, before the work for them begins.

    Args:
        folder: value of --report; "" for no report.
        examples: value of --examples; "" for no file.

    Raises:
        InputError: the report or the file cannot be written, or a package that it needs is missing.
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


def write(folder: str | pathlib.Path, outcome: Outcome) -> None:
    """Write a report.

    Its files are report.html, the page that shows them, evaluation.json, examples.csv, classes.csv, confusion.csv and
    .png, calibration.csv, reliability.png, label_errors.csv, slices.csv and, if there are mistakes, mistakes.png. They
    are written to a folder beside `folder` and then moved into it, so that a full disk leaves no partial report.

    Args:
        folder: folder of the report, created with its parents if missing; files of an earlier report are replaced.
        outcome: what was evaluated.
    """
    out = pathlib.Path(folder).absolute()
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _fill(partial, outcome)
        out.mkdir(exist_ok=True)
        (out / "mistakes.png").unlink(missing_ok=True)  # there may be none this time
        for file in sorted(partial.iterdir()):
            os.replace(file, out / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(folder, outcome):
    classes, split, logits, predictions = outcome.classes, outcome.split, outcome.logits, outcome.predictions
    matrix = metrics.confusion(predictions["predicted"], predictions["label"], len(classes))
    calibration = metrics.calibration(predictions["probability"], answers.right(predictions))
    files.write_json(folder / "evaluation.json", outcome.result)
    answers.write(folder / answers.FILE, predictions)
    columns, rows = class_table(logits, predictions["label"], matrix, classes)
    pictures.write_table(folder / "classes.csv", columns, rows)
    counts = ([name, *row] for name, row in zip(classes, matrix.tolist(), strict=True))
    pictures.write_table(folder / "confusion.csv", ["true \\ predicted", *classes], counts)
    bins = zip(*(calibration[name].tolist() for name in calibration), strict=True)
    bins = ([_digits(value) for value in row] for row in bins)
    pictures.write_table(folder / "calibration.csv", list(calibration), bins)
    pictures.write(folder / "confusion.png", charts.confusion(matrix, classes), _DPI)
    pictures.write(folder / "reliability.png", charts.reliability(calibration, outcome.result["ece"]), _DPI)
    worst = worst_mistakes(predictions, _MISTAKES)
    if len(worst):
        probabilities = metrics.probabilities(logits[worst])
        mistakes = gallery.mistakes(split, worst, probabilities, classes)
        pictures.write(folder / "mistakes.png", gallery.draw_mistakes(mistakes), _DPI)
    is_trained_on = outcome.result["split"] == "train" and outcome.is_own and "network" not in outcome.result
    probabilities = metrics.probabilities(logits)
    suspects = label_errors.by_loss(predictions) if is_trained_on else label_errors.find(probabilities, split.labels)
    label_errors.write(folder / label_errors.FILE, suspects, split, classes)
    groups = slices.table(slices.measure(split), answers.right(predictions))
    rows = ([_digits(value) if isinstance(value, float) else value for value in row.values()] for row in groups)
    pictures.write_table(folder / "slices.csv", slices.COLUMNS, rows)
    text = report_page.render(outcome, matrix, worst, suspects, groups)
    files.replace_atomically(folder / PAGE, lambda file: file.write(text.encode(errors="replace")))


def worst_mistakes(predictions: dict[str, np.ndarray], most: int) -> np.ndarray:
    """Return the positions of the wrong predictions with the highest loss: int [at most `most`], the worst first."""
    wrong = np.flatnonzero(~answers.right(predictions))
    return wrong[np.argsort(-predictions["loss"][wrong], kind="stable")[:most]]


def class_table(logits: np.ndarray, labels: np.ndarray, matrix: np.ndarray, classes: list[str]) -> tuple[list, list]:
    """Return the metrics of each class, and the class with which it is most often confused.

    Args:
        logits: float [n, classes].
        labels: int [n].
        matrix: what `metrics.confusion` returned.
        classes: names of the classes.

    Returns:
        Names of columns, and one row for each class; cells are "" if the class has no examples, or no mistakes.
    """
    scores, found = metrics.per_class(logits, labels), metrics.precision_and_recall(matrix)
    wrong = matrix - np.diag(np.diag(matrix))
    rows = []
    for label, name in enumerate(classes):
        times = int(wrong[label].max())
        confused = [classes[int(wrong[label].argmax())], times] if times else ["", ""]
        numbers = [_digits(float(scores[column][label])) for column in ("top1", "top5", "loss")]
        more = [_digits(float(found[column][label])) for column in found]
        rows.append([label, name, int(scores["examples"][label]), *numbers, *confused, *more])
    return ["label", "class", "examples", "top1", "top5", "loss", "most_confused_with", "times", *found], rows


def _digits(value):
    """Return a number with six significant digits as text; "" for NaN and infinities."""
    return f"{value:.6g}" if np.isfinite(value) else ""


def likeliest(logits: np.ndarray, predictions: dict[str, np.ndarray], classes: list[str]) -> dict[str, np.ndarray]:
    """Return a table of the five likeliest classes of each example.

    Args:
        logits: float [n, classes].
        predictions: what `answers.of_logits` returned.
        classes: names of the classes.

    Returns:
        {column: array [n]}: example, name, label and class (the true class), loss in nats, then class_1 and
        probability_1 of the likeliest class, up to class_5 and probability_5, fewer if there are fewer classes.
    """
    probabilities = metrics.probabilities(logits)
    best = np.argsort(-probabilities, axis=1, kind="stable")[:, :_LIKELIEST]
    names = np.array(classes, dtype=object)
    table = {name: predictions[name] for name in ("example", "name", "label")}
    table |= {"class": names[predictions["label"]], "loss": predictions["loss"]}
    for rank, indices in enumerate(best.T, start=1):
        table[f"class_{rank}"] = names[indices]
        table[f"probability_{rank}"] = probabilities[np.arange(len(probabilities)), indices]
    return table


def write_examples(path: str, logits: np.ndarray, predictions: dict, classes: list[str]) -> None:
    """Write the table of `likeliest` atomically to a .csv or .parquet file."""
    table = likeliest(logits, predictions, classes)
    if path.endswith(".parquet"):
        import pyarrow

        columns = {name: pyarrow.array(values.tolist()) for name, values in table.items()}
        return pictures.write_parquet(path, pyarrow.table(columns))
    columns = [
        [f"{value:.6g}" for value in values] if values.dtype.kind == "f" else values.tolist()
        for values in table.values()
    ]
    pictures.write_table(path, list(table), zip(*columns, strict=True))
