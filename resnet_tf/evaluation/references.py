"""Published accuracies from a CSV file, as rows beside those of runs; they are in no test."""

import csv
import math

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.evaluation.compare import Group
from resnet_tf.models import find

# Columns of the file. `model` is a name of this library, or empty for other networks. Of the numbers, `top1_percent`
# is required. `sd_points` is the standard deviation over seeds in percentage points.
COLUMNS = (
    "dataset", "model", "name", "parameters_millions", "top1_percent", "sd_points", "top5_percent", "source",
)  # fmt: skip


def read(path: str) -> list[dict]:
    """Read a file of published accuracies.

    Args:
        path: CSV file with `COLUMNS`.

    Returns:
        One dict for each line: texts, and floats or None for numbers.

    Raises:
        InputError: the file is missing, has other columns, or a line has no name, source or accuracy.
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


def _checked(row, origin):
    """Return a row with its numbers as floats; `origin` names its file and line in errors."""
    if None in row or None in row.values():
        raise InputError(f"{origin}: not {len(COLUMNS)} values")
    for name in ("dataset", "name", "top1_percent", "source"):
        if not row[name].strip():
            raise InputError(f"{origin}: no {name}")
    limits = {"top1_percent": 100, "top5_percent": 100, "sd_points": 100, "parameters_millions": math.inf}
    numbers = {}
    for name, limit in limits.items():
        try:
            numbers[name] = float(row[name]) if row[name].strip() else None
        except ValueError:
            raise InputError(f"{origin}: {name}={row[name]} is no number") from None
        if numbers[name] is not None and not 0 <= numbers[name] <= limit:
            raise InputError(f"{origin}: {name}={row[name]} is out of range")
    if row["model"]:
        try:
            find(row["model"])
        except InputError as error:
            raise InputError(f"{origin}: {error}") from None
    return row | numbers


def beside(rows: list[dict], groups: list[Group], path: str) -> list[dict]:
    """Add published accuracies of the same data set to the rows of a comparison.

    Args:
        rows: what `compare.table` returned for the groups.
        groups: list of `compare.Group`, all of one data set.
        path: file of published accuracies; see `read`.

    Returns:
        The rows, with the text "published" if the file has their network, then one row of kind "published", with
        "source", for each line of the data set in the file.

    Raises:
        InputError: see `read`; or the runs are not of classification, or no line is of their data set.
    """
    config = groups[0].runs[0].config
    if config.task != configuration.CLASSIFICATION:
        raise InputError(f"--references={path}: of classification, and the runs are of {config.task}")
    dataset = config.data.dataset
    lines = [line for line in read(path) if line["dataset"] == dataset]
    if not lines:
        raise InputError(f"--references={path}: no line is of {dataset}, the data set of the runs")
    published = {group.name: _of_model(group.runs[0].config.model, lines) for group in groups}
    rows = [row | {"published": published[row["group"]]} for row in rows]
    return rows + [dict.fromkeys(rows[0]) | _row(line) for line in lines]


DIFFERENCES = (
    "group", "architecture", "runs", "top1_percent", "sd_points", "standard_error_points", "source", "name",
    "published_percent", "published_sd_points", "difference_points", "difference_in_standard_errors",
)  # fmt: skip


def differences(rows: list[dict], groups: list[Group], path: str) -> list[dict]:
    """Return how far the groups are from each published accuracy of their networks.

    Args:
        rows: what `compare.table` returned for the groups.
        groups: list of `compare.Group`, all of one data set.
        path: file of published accuracies; see `read`.

    Returns:
        {one of `DIFFERENCES`: value} for each line and each finished group of its network, in their orders. "runs": n.
        "standard_error_points": of the mean over seeds, their standard deviation over the root of n.
        "difference_points": ours less theirs, in percentage points; "difference_in_standard_errors": over our standard
        error. Both errors are None for one seed.
    """
    lines = [line for line in read(path) if line["dataset"] == groups[0].runs[0].config.data.dataset]
    first, found = {}, []
    for row in rows:  # the mean of several seeds stands before them
        first.setdefault(row["group"], row)
    for line in lines:
        for group in groups:
            if _lines_of(group.runs[0].config.model, [line]) and all(run.finished for run in group.runs):
                found.append(_difference(first[group.name], line))
    return found


def _difference(row, line):
    spread = None if row["top1_sd"] is None else 100 * row["top1_sd"]
    error = None if spread is None else spread / math.sqrt(row["runs"])
    points = 100 * row["top1"] - line["top1_percent"]
    values = (
        row["group"], row["architecture"], row["runs"], 100 * row["top1"], spread, error, line["source"], line["name"],
        line["top1_percent"], line["sd_points"], points, points / error if error else None,
    )  # fmt: skip
    return dict(zip(DIFFERENCES, values, strict=True))


def _lines_of(model, lines):
    """Return the lines of a network with its default shortcuts."""
    is_default = not model.shortcut or model.shortcut == find(model.model).shortcut
    return [line for line in lines if is_default and line["model"] == model.model]


def _of_model(model, lines):
    """Return the published accuracies of a network with its default shortcuts as text; None if there are none."""
    texts = []
    for line in _lines_of(model, lines):
        spread = "" if line["sd_points"] is None else f" \u00b1 {line['sd_points']:.2f}"
        texts.append(f"{line['top1_percent']:.2f}{spread} ({line['source']})")
    return "; ".join(texts) or None


def _row(line):
    """Return a line of the file as a row of the comparison's table, without the columns that only runs have."""
    millions, spread, top5 = line["parameters_millions"], line["sd_points"], line["top5_percent"]
    return {
        "kind": "published", "run": line["name"], "architecture": line["model"] or None, "source": line["source"],
        "parameters_mib": None if millions is None else 4e6 * millions / 2**20, "top1": line["top1_percent"] / 100,
        "top1_sd": None if spread is None else spread / 100, "top5": None if top5 is None else top5 / 100,
    }  # fmt: skip
