"""Probable label errors of all training images, by runs that each held another part of them out (--fold).

A network repeats most wrong labels that it was trained on. Therefore each image is scored by the run that has not seen
it (Northcutt, Jiang and Chuang 2021, Confident learning, arXiv 1911.00068, section 4).
"""

import logging
from typing import NamedTuple

import numpy as np

from resnet_tf.config import AnalyzeConfig
from resnet_tf.data import other_labels
from resnet_tf.errors import InputError
from resnet_tf.evaluation import label_errors, metrics, pictures
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.runs import devices, restore, run_data

COLUMNS = (*label_errors.COLUMNS, "margin", "suspected", "truth")
_SHARES = (0.01, 0.05, 0.1, 0.25, 0.5)  # of the images, at which recall is given
_log = logging.getLogger(__name__)


class Held(NamedTuple):
    """Images that were held out, and what the network that has not seen them says of them.

    Attributes:
        names: list of n files.
        probabilities: float64 [n, classes].
        given: int [n], the labels that are trained on.
        own: int [n], the labels of the folders, which differ from the given ones where a run has --labels=FILE:COLUMN.
    """

    names: list[str]
    probabilities: np.ndarray
    given: np.ndarray
    own: np.ndarray


class Scores(NamedTuple):
    """How probable it is that the label of an image is wrong.

    Attributes:
        wrong: float64 [n], 1 minus the self-confidence, which is the probability of the given label.
        margin: float64 [n], probability of the given label minus that of the likeliest other one, in [-1, 1]; the
            normalized margin.
        suggested: int [n], the likeliest other class.
        suspected: bool [n], the rule of confident learning; see `label_errors.find`.
    """

    wrong: np.ndarray
    margin: np.ndarray
    suggested: np.ndarray
    suspected: np.ndarray


def analyse_label_errors(settings: AnalyzeConfig, runs: list[str]) -> dict:
    """Write the images that some runs held out, the most probably wrong label first.

    The CSV file has the columns of a report's label_errors.csv, so that `relabel` takes it when new_label is filled in:
    suggested, confidence (of the suggested class) and score (see `Scores.wrong`); then margin, suspected (0 or 1), and
    truth, the label of the folder where the runs were trained on other labels than those.

    Args:
        settings: `out`, `data_dir` and `weights` are used.
        runs: folders of runs of the same data and classes, whose validation splits do not overlap.

    Returns:
        {"out", "runs", "examples", "unscored": training images that no run held out, "suspected"}; and where the true
        labels are known "wrong": number of wrong labels, "recall": {share of the images: share of the wrong labels
        among the first ones}, "recall_at_wrong": the same at as many images as labels are wrong, and
        "average_precision".

    Raises:
        InputError: --out is no .csv file; a run is missing, has other classes or images without names, holds no
            validation split out, or one that overlaps with another run's.
    """
    if not settings.out.endswith(".csv"):
        raise InputError(f"--out={settings.out}: does not end in .csv")
    out = pictures.in_folder("out", settings.out)
    if len(runs) < 2:
        raise InputError("analyze label_errors: name two runs or more, each of another --fold")
    classes, parts, images = None, [], set()
    for run in runs:
        held, names, every = _held_out(run, settings)
        if classes not in (None, names):
            raise InputError(f"{run}: its classes are not those of {runs[0]}")
        twice = {name for part in parts for name in part.names}.intersection(held.names)
        if twice:
            raise InputError(f"{run}: another run held {min(twice)} out too: give each run another --fold")
        classes, images = names, images | every
        parts.append(held)
    listed, *arrays = zip(*parts, strict=True)
    held = Held([name for names in listed for name in names], *map(np.concatenate, arrays))
    scores = scored(held.probabilities, held.given)
    order = np.argsort(-scores.wrong, kind="stable")
    knows = bool((held.given != held.own).any())
    _write(out, held, scores, order, classes, knows)
    result = {"out": str(out), "runs": list(runs), "examples": len(order), "unscored": len(images) - len(order)}
    if result["unscored"]:
        _log.warning("%d training images were held out by no run, and have no score", result["unscored"])
    result["suspected"] = int(scores.suspected.sum())
    return result | (found((held.given != held.own)[order]) if knows else {})


def scored(probabilities: np.ndarray, given: np.ndarray) -> Scores:
    """Score labels by the probabilities of networks that have not seen the images.

    Args:
        probabilities: float [n, classes].
        given: int [n].
    """
    examples = np.arange(len(given))
    own = probabilities[examples, given]
    others = probabilities.copy()
    others[examples, given] = -1.0
    suggested = others.argmax(axis=1)
    suspected = np.zeros(len(given), bool)
    suspected[label_errors.find(probabilities, given).example] = True
    return Scores(1 - own, own - others[examples, suggested], suggested, suspected)


def found(wrong: np.ndarray) -> dict:
    """Return how well an order finds wrong labels.

    Args:
        wrong: bool [n], whether the label is wrong, in the order of the list; one is.

    Returns:
        {"wrong", "recall", "recall_at_wrong", "average_precision"}; see `analyse_label_errors`.
    """
    count, hits = int(wrong.sum()), np.cumsum(wrong)
    recall = {f"{share:g}": float(hits[max(1, round(share * len(wrong))) - 1] / count) for share in _SHARES}
    precision = hits[wrong] / (np.flatnonzero(wrong) + 1)
    return {
        "wrong": count,
        "recall": recall,
        "recall_at_wrong": float(hits[count - 1] / count),
        "average_precision": float(precision.mean()),
    }


def _held_out(folder, settings):
    """Return the `Held` of a run, its classes, and the names of all its training and validation images."""
    run, values, normalization = restore.load(folder, settings.weights)
    config, source = run_data.of_run(run, settings.data_dir)
    if "validation" not in source.splits:
        raise InputError(f"{folder}: it held no validation images out: train it with --fold=1/5 and so on")
    split = source.splits["validation"]
    if split.names is None:
        raise InputError(f"{folder}: images of --dataset={config.data.dataset} have no files to name")
    devices.use_precision(config.device.precision)
    weights = restore.resolved(run, settings.weights)
    runner = restore.build_runner(run, values, normalization, devices.make_strategy(), weights)
    logits = SplitLogits(runner, config.data, split, threads=config.views.threads).logits()
    other = other_labels.parted(config.data.labels)[1]
    given = other_labels.of_split(source, "validation", config.data.data_dir, *other) if other else split.labels
    every = {*split.names, *source.splits["train"].names}
    return Held(list(split.names), metrics.probabilities(logits), given, split.labels), source.classes, every


def _write(out, held, scores, order, classes, knows):
    def row(index):
        suggested = scores.suggested[index]
        return (
            held.names[index], classes[held.given[index]], classes[suggested],
            f"{held.probabilities[index, suggested]:.4f}", f"{scores.wrong[index]:.4f}", "",
            f"{scores.margin[index]:.4f}", int(scores.suspected[index]), classes[held.own[index]] if knows else "",
        )  # fmt: skip

    pictures.write_table(out, COLUMNS, map(row, order))
