"""A trained run as it lies in its folder: manifest.yaml, metrics.csv, evaluation.json and examples.csv.

Checkpoints and events are not read. A file that is missing, cut short or damaged is named.
"""

import csv
import dataclasses
import itertools
import json
import os
import pathlib
import re
import statistics

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
    """A run as it lies in its folder.

    Attributes:
        name: of the folder, or its path where names collide.
        folder: path.
        manifest: what manifest.yaml holds.
        config: the `TrainConfig`, or what another task has.
        rows: of metrics.csv.
        evaluation: evaluation.json; the last evaluation of metrics.csv where there is no such file yet.
        cost: `Cost` of the network on one image of evaluation's size; None of other tasks, whose heads are not counted.
        answers: examples.csv as `answers.read` gives it, or None.
        unanswered: why there are no answers; "" where there are.
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
    def steps(self):
        """Steps behind the network that was evaluated."""
        return self.evaluation["steps"]

    @property
    def steps_per_epoch(self):
        """Steps that see as many examples as the training split has."""
        return self.manifest["data"]["examples"]["train"] / self.config.optimizer.batch_size

    @property
    def planned(self):
        """Steps that the flags ask for."""
        return schedule.total_steps(self.config.optimizer, self.manifest["data"]["examples"]["train"])

    @property
    def finished(self):
        """Whether all steps that were planned are done; the network evaluated may be an earlier one all the same."""
        return max(self.steps, self.rows[-1]["step"]) >= self.planned

    @property
    def seed(self):
        """Of the initial weights, the order of examples and the augmentation."""
        return self.config.optimizer.seed

    @property
    def held_out(self):
        """Split of the curve: "validation" where one was held out, else "test"."""
        return "validation" if "validation" in self.manifest["data"]["examples"] else "test"

    @property
    def figures(self):
        """{column: title} of the metrics that runs of its task are compared by, fractions all of them."""
        metrics = configuration.TASKS[self.config.task].metrics
        return {metric.column: metric.title for metric in metrics if metric.compared}

    @property
    def evaluated(self):
        """What was evaluated, and how where that is not by one central crop of the raw weights: "test, ten_crop"."""
        usual = {"views": ("center", "whole"), "weights": ("raw",)}
        return ", ".join(
            [self.evaluation["split"]]
            + [
                str(self.evaluation[key])
                for key, values in usual.items()
                if self.evaluation.get(key, values[0]) not in values
            ]
        )

    @property
    def images_per_second(self):
        """Of the training: median over the rows of metrics.csv; None where there are none."""
        rates = [row["images_per_second"] for row in self.rows if row["split"] == "train" and row["images_per_second"]]
        return statistics.median(rates) if rates else None

    @property
    def wall_seconds(self):
        """From the start to the last row, evaluations included."""
        return self.rows[-1]["wall_seconds"]

    @property
    def gpus(self):
        """GPUs of the run, by its flags and its machine's name; 0 where it has none. Of a cluster, one machine's."""
        hardware = self.manifest["hardware"]
        if not _GPU.search(hardware):
            return 0
        found = re.search(r" x(\d+)$", hardware)
        device = self.config.device
        return len(device.gpus) or device.replicas or int(found[1] if found else 1)

    @property
    def sharing(self):
        """Trainings that had the machine's GPU together, by what `devices.hardware` says of it."""
        found = re.search(r", shared by (\d+) trainings$", self.manifest["hardware"])
        return int(found[1]) if found else 1

    def curve(self, split, column):
        """A column of metrics.csv over epochs.

        Args:
            split: "train", "test", "validation", or one of the latter with "_ema".
            column: "loss", or one of `figures`.

        Returns:
            Steps, epochs and values: arrays of one length, 0 where there is no such row.
        """
        rows = [row for row in self.rows if row["split"] == split and row.get(column, "") != ""]
        kinds = {"step": np.int64}
        return tuple(
            np.array([row[name] for row in rows], kinds.get(name, np.float64)) for name in ("step", "epoch", column)
        )


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_all(folders):
    """Read runs; those that cannot be read are named and left out.

    Args:
        folders: paths.

    Returns:
        List of `Trained`; list of (folder, why it was left out).

    Raises:
        InputError: none is left, or they cannot be in one table; see `check_comparable`.
    """
    runs, skipped, seen = [], [], set()
    for folder, name in zip(folders, names(folders), strict=True):
        place = os.path.realpath(folder)
        try:
            if place in seen:
                raise InputError(f"{folder}: named twice")
            seen.add(place)
            runs.append(read(folder, name))
        except InputError as error:
            skipped.append((printable(folder), printable(error)))
    if not runs:
        raise InputError(f"no run is left to compare: {'; '.join(reason for _, reason in skipped)}")
    check_comparable(runs)
    return runs, skipped


def names(folders):
    """What to call runs: their folders' names, or the paths as given where two have the same name."""
    places = [os.path.realpath(folder) for folder in folders]
    short = [os.path.basename(place) for place in set(places)]
    chosen = [(os.path.basename(place), str(folder)) for folder, place in zip(folders, places, strict=True)]
    return [printable(path if short.count(name) > 1 else name) for name, path in chosen]


def printable(path):
    """A path as text: names of folders need be neither Unicode nor printable."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(path))


def read(folder, name=None):
    """Read a run's folder.

    Args:
        folder: path.
        name: what to call it; its own name where None.

    Returns:
        A `Trained`.

    Raises:
        InputError: names the file that is missing, cut short or damaged; or there is no evaluation yet.
    """
    folder = pathlib.Path(folder)
    try:
        run = record.open_run(folder, flag="", tasks=tuple(configuration.TASKS))
        _check_whole(folder / record.MANIFEST)
        _check_manifest(folder / record.MANIFEST, run.manifest)
        figures = [metric.column for metric in configuration.TASKS[run.config.task].metrics if metric.compared]
        rows = _read_rows(folder / "metrics.csv", figures)
        evaluation = _read_evaluation(folder / "evaluation.json", rows, figures)
        answers, unanswered, cost = None, f"{folder}: no class of each image", None
        if run.config.task == configuration.CLASSIFICATION:
            answers, unanswered = _read_answers(folder / answering.FILE, evaluation)
            size, classes = configuration.evaluation_size(run.config.data), len(run.manifest["classes"])
            model = run.config.model
            cost = cost_by_name(model.model, model.shortcut, size, classes, model.graph)
    except OSError as error:
        raise InputError(f"{error.filename}: {error.strerror}") from None
    except InputError as error:  # of flags that the manifest holds, it names no file
        raise InputError(str(error) if str(folder) in str(error) else f"{folder}: {error}") from None
    name = name or names([folder])[0]
    return Trained(name, folder, run.manifest, run.config, rows, evaluation, cost, answers, unanswered)


def _check_whole(path):
    """Refuse a text file whose last line has no end: what was written by lines was cut."""
    if not path.read_bytes().endswith(b"\n"):
        raise InputError(f"{path}: cut short")


def _check_manifest(path, manifest):
    data, classes = manifest.get("data"), manifest.get("classes")
    texts = all(isinstance(manifest.get(key), str) for key in ("command", "commit", "hardware", "versions"))
    try:
        whole = texts and isinstance(classes, list) and classes and data["checksum"] and data["examples"]["train"] > 0
    except (KeyError, TypeError):
        whole = False
    # Flags are written last and in order; without any of the last section the file was cut between two lines.
    if not whole or not set(manifest["flags"]) & {
        field.name for field in dataclasses.fields(configuration.RecordConfig)
    }:
        raise InputError(f"{path}: damaged manifest")


def _read_rows(path, figures):
    if not path.exists():
        raise InputError(f"{path}: no such file")
    _check_whole(path)
    numbers = ("step", "epoch", "wall_seconds")
    try:
        rows = record.read_metrics(path)
        if not all(isinstance(row[name], int | float) for row in rows for name in (*numbers, *_of(row, figures))):
            raise ValueError
        if any(None in row or None in row.values() for row in rows):  # more or fewer values than columns
            raise ValueError
    except (ValueError, KeyError, TypeError, csv.Error):
        raise InputError(f"{path}: damaged") from None
    if not rows:
        raise InputError(f"{path}: no rows yet")
    return rows


def _of(row, figures):
    """What a row must have: of classification all, of other tasks the loss of training, or the figures of a score."""
    if "top1" in figures:
        return ("loss", *figures)
    return ("loss",) if row["split"] == "train" else tuple(figures)


def _read_evaluation(path, rows, figures):
    """What evaluation.json holds, or the last evaluation of the curve."""
    if not path.exists():
        scored = [row for row in rows if row["split"] in ("test", "validation")]
        if not scored:
            raise InputError(f"{path.parent}: no evaluation yet")
        last = scored[-1]
        return {"split": last["split"], "steps": last["step"], **{name: last[name] for name in _of(last, figures)}}
    try:
        evaluation = json.loads(path.read_text())
        if evaluation.get("loss", 0) is None:  # it was not finite, which JSON cannot say
            evaluation["loss"] = float("nan")
        found = [evaluation[name] for name in ("steps", "examples", *_of(evaluation, figures))]
        if not isinstance(evaluation["split"], str) or not all(isinstance(figure, int | float) for figure in found):
            raise ValueError
        if not all(0 <= evaluation[name] <= 1 for name in figures):
            raise ValueError
        if "top1" in figures and evaluation["top1"] > evaluation["top5"]:
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path}: damaged") from None
    return evaluation


def _read_answers(path, evaluation):
    """Answers of that evaluation and "", or None and why there are none."""
    if not path.exists():
        return None, f"no {path.name}"
    try:
        answers = answering.read(path)
    except InputError as error:
        return None, str(error)
    right, count = answering.right(answers).sum(), len(answers["label"])
    # Counts may differ by ties for the first place, which an evaluation counts as wrong.
    if count != evaluation.get("examples", count) or abs(right - evaluation["top1"] * count) > max(1, count / 1000):
        return None, f"{path}: of another evaluation"
    return answers, ""


def check_comparable(runs):
    """Refuse runs that do not belong in one table.

    Args:
        runs: list of `Trained`.

    Raises:
        InputError: two of them differ in their task, data or classes; says which and in what.
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
