"""Figures that others published, as rows beside those of runs: data of a CSV file, of no run and in no test."""

import csv
import math

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.models import find

# Of the file. `model` is a name of the table, or empty for a network that is not in it; of the numbers only
# `top1_percent` must be there. `sd_points` is the deviation of a mean over seeds, in points of per cent.
COLUMNS = (
    "dataset", "model", "name", "parameters_millions", "top1_percent", "sd_points", "top5_percent", "source",
)  # fmt: skip


def read(path):
    """Read a file of published figures.

    Args:
        path: of the CSV file; `COLUMNS`.

    Returns:
        List of dicts, one a line: texts, and for numbers floats, None where there is none.

    Raises:
        InputError: no such file, other columns, or a line without name, source or figure; names file and line.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if tuple(reader.fieldnames or ()) != COLUMNS:
                raise InputError(f"--references={path}: its columns are not {','.join(COLUMNS)}")
            return [_checked(row, f"--references={path}, line {reader.line_num}") for row in reader]
    except OSError as error:
        raise InputError(f"--references={path}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"--references={path}: no CSV file: {error}") from None


def _checked(row, place):
    if None in row or None in row.values():
        raise InputError(f"{place}: not {len(COLUMNS)} values")
    for name in ("dataset", "name", "top1_percent", "source"):
        if not row[name].strip():
            raise InputError(f"{place}: no {name}")
    most = {"top1_percent": 100, "top5_percent": 100, "sd_points": 100, "parameters_millions": math.inf}
    numbers = {}
    for name, limit in most.items():
        try:
            numbers[name] = float(row[name]) if row[name].strip() else None
        except ValueError:
            raise InputError(f"{place}: {name}={row[name]} is no number") from None
        if numbers[name] is not None and not 0 <= numbers[name] <= limit:
            raise InputError(f"{place}: {name}={row[name]} is out of range")
    if row["model"]:
        try:
            find(row["model"])
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
    return row | numbers


def beside(rows, made, path):
    """Put published figures of the same data set beside the rows of a comparison.

    Args:
        rows: what `compare.table` returns.
        made: list of `compare.Group`, which the rows are of; of one data set.
        path: of the file; see `read`.

    Returns:
        The rows, those of runs with "published" where the file has their network, as text; then one of kind
        "published" for each line of the file that is of the runs' data set, with "source".

    Raises:
        InputError: see `read`; runs of another task than classification, or a file without a line for their data set.
    """
    config = made[0].runs[0].config
    if config.task != configuration.CLASSIFICATION:
        raise InputError(f"--references={path}: of classification, and the runs are of {config.task}")
    dataset = config.data.dataset
    found = [line for line in read(path) if line["dataset"] == dataset]
    if not found:
        raise InputError(f"--references={path}: no line is of {dataset}, the data set of the runs")
    published = {group.name: _of_model(group.runs[0].config.model, found) for group in made}
    told = [row | {"published": published[row["group"]]} for row in rows]
    return told + [dict.fromkeys(rows[0]) | _row(line) for line in found]


def _of_model(model, lines):
    """What was published of a network with the shortcuts that it has by itself: text, None for nothing."""
    own = not model.shortcut or model.shortcut == find(model.model).shortcut
    lines = [line for line in lines if own and line["model"] == model.model]
    return "; ".join(f"{_figure(line)} ({line['source']})" for line in lines) or None


def _figure(line):
    spread = "" if line["sd_points"] is None else f" \u00b1 {line['sd_points']:.2f}"
    return f"{line['top1_percent']:.2f}{spread}"


def _row(line):
    """A line of the file as a row of the comparison's table, without what is known of runs alone."""
    millions, spread, top5 = line["parameters_millions"], line["sd_points"], line["top5_percent"]
    return {
        "kind": "published",
        "run": line["name"],
        "architecture": line["model"] or None,
        "parameters_mib": None if millions is None else 4e6 * millions / 2**20,
        "top1": line["top1_percent"] / 100,
        "top1_sd": None if spread is None else spread / 100,
        "top5": None if top5 is None else top5 / 100,
        "source": line["source"],
    }
