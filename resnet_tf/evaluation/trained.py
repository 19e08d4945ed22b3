"""A trained run read from its folder: manifest.yaml, metrics.csv, evaluation.json and examples.csv.

Checkpoints and events are not read. Errors name the file that is missing, cut short or damaged.
"""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import statistics
from collections.abc import Sequence

import numpy as np

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers as answering
from resnet_tf.models import Cost, cost_by_name
from resnet_tf.runs import record
from resnet_tf.training import schedule

_GPU = re.compile(r"NVIDIA|Tesla|GeForce|Quadro|TITAN|Instinct|Radeon", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Trained:
    """Files of a run.

    Attributes:
        name: name of the folder, or its path if several folders have this name.
        folder: folder of the run.
        manifest: content of manifest.yaml.
        config: the `TrainConfig`, or the configuration of another task.
        rows: rows of metrics.csv.
        evaluation: content of evaluation.json, or the last evaluation of metrics.csv if that file is missing.
        cost: `Cost` of the network for one image of evaluation; None for other tasks, whose heads are not counted.
        answers: predictions of examples.csv as `answers.read` returns them, or None.
        unanswered: reason why there are no predictions; "" if there are.
    """

    name: str
    folder: pathlib.Path
    manifest: dict
    config: object
    rows: list[dict]
    evaluation: dict
    cost: Cost | None
    answers: dict | None
    unanswered: str

    @property
    def steps(self) -> int:
        """Number of training steps of the evaluated network."""
        return self.evaluation["steps"]

    @property
    def planned(self) -> int:
        """Number of steps that the flags ask for."""
        return schedule.total_steps(self.config.optimizer, self.manifest["data"]["examples"]["train"])

    @property
    def finished(self) -> bool:
        """Whether all planned steps are done; even then an earlier checkpoint may be the evaluated network."""
        return max(self.steps, self.rows[-1]["step"]) >= self.planned

    @property
    def seed(self) -> int:
        """Seed of the initial weights, the order of examples and the augmentation."""
        return self.config.optimizer.seed

    @property
    def held_out(self) -> str:
        """Split of the curve of evaluations: "validation" if there is one, else "test"."""
        return "validation" if "validation" in self.manifest["data"]["examples"] else "test"

    @property
    def metrics(self) -> dict[str, str]:
        """{column: title} of the metrics by which runs of its task are compared; all of them are fractions."""
        return {metric.column: metric.title for metric in _compared(self.config)}

    @property
    def evaluated(self) -> str:
        """Evaluated split, with views and weights other than one central crop and raw weights: "test, ten_crop"."""
        defaults = {"views": ("center", "whole"), "weights": ("raw",)}
        values = {key: self.evaluation.get(key, usual[0]) for key, usual in defaults.items()}
        unusual = [str(value) for key, value in values.items() if value not in defaults[key]]
        return ", ".join([self.evaluation["split"], *unusual])

    @property
    def images_per_second(self) -> float | None:
        """Speed of training: the median over rows of metrics.csv; None if no row has one."""
        speeds = [row["images_per_second"] for row in self.rows if row["split"] == "train" and row["images_per_second"]]
        return statistics.median(speeds) if speeds else None

    @property
    def wall_seconds(self) -> float:
        """Wall time from the start to the last row, evaluations included."""
        return self.rows[-1]["wall_seconds"]

    @property
    def gpus(self) -> int:
        """Number of GPUs by flags and name of the machine (of one machine in a cluster); 0 if there is none."""
        hardware = self.manifest["hardware"]
        if not _GPU.search(hardware):
            return 0
        match = re.search(r" x(\d+)$", hardware)
        device = self.config.device
        return len(device.gpus) or device.replicas or int(match[1] if match else 1)

    @property
    def sharing(self) -> int:
        """Number of trainings that shared the GPU, by the text of `devices.hardware`."""
        match = re.search(r", shared by (\d+) trainings$", self.manifest["hardware"])
        return int(match[1]) if match else 1

    def curve(self, split: str, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return a column of metrics.csv over epochs.

        Args:
            split: "train", "test", "validation", "test_ema" or "validation_ema".
            column: "loss", or one of `metrics`.

        Returns:
            Steps, epochs and values: arrays of one length, which is 0 if there is no such row.
        """
        rows = [row for row in self.rows if row["split"] == split and row.get(column, "") != ""]
        types = {"step": np.int64, "epoch": np.float64, column: np.float64}
        return tuple(np.array([row[name] for row in rows], kind) for name, kind in types.items())


def _compared(config):
    return [metric for metric in configuration.TASKS[config.task].metrics if metric.compared]


def read_all(folders: Sequence) -> tuple[list[Trained], list[tuple[str, str]]]:
    """Read the folders of runs, and skip runs that cannot be read.

    Returns:
        List of `Trained`; list of (folder, reason) for skipped runs.

    Raises:
        InputError: no run can be read, or runs do not belong in one table; see `check_comparable`.
    """
    runs, skipped, seen = [], [], set()
    for folder, name in zip(folders, names(folders), strict=True):
        path = os.path.realpath(folder)
        try:
            if path in seen:
                raise InputError(f"{folder}: named twice")
            seen.add(path)
            runs.append(read(folder, name))
        except InputError as error:
            skipped.append((printable(folder), printable(error)))
    if not runs:
        raise InputError(f"no run is left to compare: {'; '.join(reason for _, reason in skipped)}")
    check_comparable(runs)
    return runs, skipped


def names(folders: Sequence) -> list[str]:
    """Return names of runs: names of their folders, or the given paths if several folders have the same name."""
    paths = [os.path.realpath(folder) for folder in folders]
    unique = [os.path.basename(path) for path in set(paths)]
    pairs = zip(map(os.path.basename, paths), folders, strict=True)
    return [printable(folder if unique.count(name) > 1 else name) for name, folder in pairs]


def printable(path: str | pathlib.Path) -> str:
    """Return a path as printable text, since names of folders may hold any bytes."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path))


def read(folder: str | pathlib.Path, name: str | None = None) -> Trained:
    """Read the folder of a run.

    Args:
        folder: path of the folder.
        name: name of the run; None for the name of the folder.

    Raises:
        InputError: a file is missing, cut short or damaged, or there is no evaluation yet.
    """
    folder = pathlib.Path(folder)
    try:
        run = record.open_run(folder, flag="", tasks=tuple(configuration.TASKS))
        _check_whole(folder / record.MANIFEST)
        _check_manifest(folder / record.MANIFEST, run.manifest)
        metrics = [metric.column for metric in _compared(run.config)]
        rows = _read_rows(folder / "metrics.csv", metrics)
        evaluation = _read_evaluation(folder / "evaluation.json", rows, metrics)
        answers, unanswered, cost = None, f"{folder}: no class of each image", None
        if run.config.task == configuration.CLASSIFICATION:
            answers, unanswered = _read_answers(folder / answering.FILE, evaluation)
            size, classes = configuration.evaluation_size(run.config.data), len(run.manifest["classes"])
            model = run.config.model
            cost = cost_by_name(model.model, model.shortcut, size, classes, model.graph)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    except InputError as error:  # errors of flags in the manifest name no file
        raise InputError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    name = name or names([folder])[0]
    return Trained(name, folder, run.manifest, run.config, rows, evaluation, cost, answers, unanswered)


def _check_whole(path):
    """Refuse a text file whose last line has no line end: writing it was interrupted."""
    if not path.read_bytes().endswith(b"\n"):
        raise InputError(f"{path}: cut short")


def _check_manifest(path, manifest):
    data, classes = manifest.get("data"), manifest.get("classes")
    texts = all(isinstance(manifest.get(key), str) for key in ("command", "commit", "hardware", "versions"))
    try:
        whole = texts and isinstance(classes, list) and classes and data["checksum"] and data["examples"]["train"] > 0
    except (KeyError, TypeError):
        whole = False
    # Flags are written last and in order: if no flag of the last section is there, the file was cut between two lines.
    last = {field.name for field in dataclasses.fields(configuration.RecordConfig)}
    if not whole or not set(manifest["flags"]) & last:
        raise InputError(f"{path}: damaged manifest")


def _read_rows(path, metrics):
    if not path.exists():
        raise InputError(f"{path}: no such file")
    _check_whole(path)
    numbers = ("step", "epoch", "wall_seconds")
    try:
        rows = record.read_metrics(path)
        if not all(isinstance(row[name], int | float) for row in rows for name in (*numbers, *_required(row, metrics))):
            raise ValueError
        if any(None in row or None in row.values() for row in rows):  # too many or too few values
            raise ValueError
    except (ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path}: damaged") from None
    if not rows:
        raise InputError(f"{path}: no rows yet")
    return rows


def _required(row, metrics):
    """Return the columns that a row must have: all in classification; else the loss in training rows or the metrics."""
    if "top1" in metrics:
        return ("loss", *metrics)
    return ("loss",) if row["split"] == "train" else tuple(metrics)


def _read_evaluation(path, rows, metrics):
    """Return the content of evaluation.json, or the last evaluation of metrics.csv."""
    if not path.exists():
        last = next((row for row in reversed(rows) if row["split"] in ("test", "validation")), None)
        if not last:
            raise InputError(f"{path.parent}: no evaluation yet")
        return {"split": last["split"], "steps": last["step"], **{n: last[n] for n in _required(last, metrics)}}
    try:
        evaluation = json.loads(path.read_text())
        if evaluation.get("loss", 0) is None:  # JSON holds null for NaN and infinity
            evaluation["loss"] = float("nan")
        numbers = [evaluation[name] for name in ("steps", "examples", *_required(evaluation, metrics))]
        if not isinstance(evaluation["split"], str) or not all(isinstance(number, int | float) for number in numbers):
            raise ValueError
        if not all(0 <= evaluation[name] <= 1 for name in metrics):
            raise ValueError
        if "top1" in metrics and evaluation["top1"] > evaluation["top5"]:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged") from None
    return evaluation


def _read_answers(path, evaluation):
    """Return the predictions of an evaluation and "", or None and the reason why there are none."""
    if not path.exists():
        return None, f"no {path.name}"
    try:
        answers = answering.read(path)
    except InputError as error:
        return None, str(error)
    right, count = answering.right(answers).sum(), len(answers["label"])
    # Counts may differ by ties for the highest logit, which an evaluation counts as wrong.
    if count != evaluation.get("examples", count) or abs(right - evaluation["top1"] * count) > max(1, count / 1000):
        return None, f"{path}: of another evaluation"
    return answers, ""


def check_comparable(runs: list[Trained]) -> None:
    """Refuse runs that do not belong in one table.

    Raises:
        InputError: two runs differ in their task, data or classes.
    """
    first = runs[0]
    for other in runs[1:]:
        ours, theirs = first.manifest, other.manifest
        if first.config.task != other.config.task:
            differs = f"task: {first.config.task} and {other.config.task}"
        elif ours["classes"] != theirs["classes"]:
            pairs = list(itertools.zip_longest(ours["classes"], theirs["classes"], fillvalue="none"))
            number = next(i for i, (one, another) in enumerate(pairs) if one != another)
            differs = f"classes: class {number} is {pairs[number][0]} and {pairs[number][1]}"
        elif ours["data"]["checksum"] != theirs["data"]["checksum"]:
            described = [
                f"{run.config.data.dataset} of checksum {run.manifest['data']['checksum']}" for run in (first, other)
            ]
            differs = f"data: {' and '.join(described)}"
        else:
            continue
        raise InputError(f"{first.name} and {other.name} do not belong in one table, they differ in their {differs}")
