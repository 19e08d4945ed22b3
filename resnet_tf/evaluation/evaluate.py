"""Evaluation of runs, exported models and imported weights on a split of their data, every example once."""

import csv
import dataclasses
import logging
import os
import pathlib
import time
from typing import NamedTuple

import numpy as np

from resnet_tf.config import EvaluateConfig, EvaluationSection, TrainConfig
from resnet_tf.data import sources
from resnet_tf.data.progress import Progress
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, calibration, metrics, report, scored
from resnet_tf.evaluation.outcome import Outcome
from resnet_tf.runs import describe, record, run_data, temperature

_COMPARED = 20  # files by which a moved data set is recognised
_log = logging.getLogger(__name__)


def evaluate(config: EvaluateConfig) -> dict:
    """Evaluate a run, an ensemble of runs, an exported model or imported weights.

    The result of a single run on its own data is also written to evaluation.json in its folder, with command and
    commit, and its predictions to examples.csv.

    Returns:
        {"run", "split", "views", "weights", "steps", "examples", "top1", "top5", "loss", "ece", "balanced_accuracy",
        "macro_f1", "top1_interval": [low, high], "images_per_second"}, and "scales" if there are several. Instead of
        "run" there are "runs", "shares" and "average" for an ensemble, "model" for an exported model, "network" and
        "init_from" for imported weights. "ece" is `metrics.expected_calibration_error`; for the metrics of classes see
        `metrics.overall`. With --report or --calibrate there are also "temperature", "temperature_from": "validation"
        or "halves", and "ece_calibrated"; see `calibration.Calibrated`. If the images are not those of the training,
        there is "data_dir" and "how", a sentence, or "data_changed": true. Where imported weights have ImageNet's
        classes and the data have some of them, all of these are among the classes of the data; "among_classes" is their
        number, "all_classes": {"classes", "top1", "top5", "loss"} are among all classes, and "in_words" says both.

    Raises:
        InputError: the model, its data or the split is missing, classes differ, runs make no ensemble, or files cannot
            be written.
    """
    section = config.evaluation
    if section.results:
        record.check_results(section.results, record.ACCURACY_COLUMNS)
    report.check(section.report, section.examples)
    started = time.monotonic()
    target = scored.find(config)
    data = _load_data(section, target)
    outcome, held_out = _score(section, target, data)
    result = outcome.result
    if section.report:
        report.write(section.report, outcome)
    if section.examples:
        report.write_examples(section.examples, outcome.logits, outcome.predictions, outcome.classes)
    if outcome.run and outcome.is_own:
        answers.write(outcome.run.folder / answers.FILE, outcome.predictions)
        outcome.run.finish(result)
    if section.calibrate:
        logits, labels = (outcome.logits, outcome.split.labels) if held_out is None else held_out
        temperature.write(outcome.run, calibration.fit(logits, labels), len(labels), result["weights"], result["steps"])
    if section.results:
        steps = result["steps"] if outcome.run else 0  # `target.row` then replaces steps and epochs
        settings, train = data.settings, data.source.splits.get("train", ())
        epochs = steps * settings.optimizer.batch_size / max(1, len(train))
        row = record.provenance(settings.optimizer.seed, time.monotonic() - started)
        recipe = describe.classification_recipe(settings)
        row |= describe.results_row(settings, recipe, steps, epochs, result) | target.row
        row |= {} if outcome.is_own else {"epochs": ""}  # the number of training images is not known here
        record.append_result(section.results, record.ACCURACY_COLUMNS, row)
    return result


def write_for_run(run: str | pathlib.Path, out: str | pathlib.Path, split: str = "", weights: str = "") -> pathlib.Path:
    """Score a run of classification on its own data and write a report, without a change to the run's folder.

    Args:
        run: folder of the run.
        out: folder of the report; may lie in the run's folder.
        split: split to score; "" for the validation split if the run holds one out, else the test split.
        weights: "raw", "ema" or "best", or "", as --weights.

    Returns:
        Path of the page, report.html in `out`.

    Raises:
        InputError: see `evaluate`.
    """
    split = split or run_data.held_out(record.open_run(run).manifest["data"]["examples"])
    section = EvaluationSection(run=str(run), split=split, weights=weights, report=str(out))
    report.check(section.report, "")
    target = scored.find(EvaluateConfig(section))
    outcome, _ = _score(section, target, _load_data(section, target))
    report.write(out, outcome)
    return pathlib.Path(out) / report.PAGE


class _Data(NamedTuple):
    """The data of an evaluation.

    Attributes:
        settings: `TrainConfig` of the target, with the folder of these data.
        source: a `splits.Source`.
        is_own: whether they are the data set that the network was trained on.
        has_changed: whether the data set has another checksum than in training.
    """

    settings: TrainConfig
    source: Source
    is_own: bool
    has_changed: bool


def _score(section, target, data) -> tuple[Outcome, tuple | None]:
    """Score a split; also return logits and labels of the validation split if they are needed and another split."""
    source = data.source
    name = _split_of(section, source)
    classes, split = list(source.classes), source.splits[name]
    outputs = target.outputs(source)  # of the classes of the data, where the network has more
    every, seconds = _logits(section, target, source, name, outputs)
    logits = every if outputs is None else every[:, outputs]
    scores = metrics.classification(logits, split.labels)
    predictions = answers.of_logits(logits, split.labels, split.names)
    scores["ece"] = metrics.expected_calibration_error(predictions["probability"], answers.right(predictions))
    matrix = metrics.confusion(predictions["predicted"], split.labels, len(classes))
    scores |= metrics.overall(matrix, scores["top1"])
    held_out = calibrated = None
    if section.report or section.calibrate:
        if name != "validation" and "validation" in source.splits:
            others, _ = _logits(section, target, source, "validation", outputs)
            held_out = others if outputs is None else others[:, outputs], source.splits["validation"].labels
        calibrated = calibration.calibrate(logits, predictions, held_out)
        scores |= {"temperature": calibrated.temperature, "temperature_from": calibrated.fitted_on}
        scores["ece_calibrated"] = calibrated.error
    views = {"views": section.views} | ({"scales": list(section.scales)} if section.views == "multi_scale" else {})
    result = target.identity | {"split": name} | views | scores
    result["images_per_second"] = round(len(split) / seconds, 1)
    if outputs is not None and len(classes) < every.shape[1]:
        result |= _among_all(scores, len(classes), every, np.asarray(outputs)[split.labels])
    if not data.is_own:
        result |= {"data_dir": section.data_dir, "how": getattr(source, "how", "")}
    elif data.has_changed:
        result["data_changed"] = True
    run = record.open_run(result["run"]) if "run" in result else None
    return Outcome(result, classes, split, logits, predictions, calibrated, run, data.is_own), held_out


def _among_all(scores, classes, logits, labels) -> dict:
    """Return the scores among all outputs of a network, beside those among the classes of the data; also in words."""
    every = metrics.classification(logits, labels)
    every = {"classes": logits.shape[1], **{name: every[name] for name in ("top1", "top5", "loss")}}
    words = (
        f"top-1 {scores['top1']:.4f} among the {classes} classes of the images, {every['top1']:.4f} among all "
        f"{logits.shape[1]:,} of the network"
    )
    _log.info("%s", words)
    return {"among_classes": classes, "all_classes": every, "in_words": words}


def _split_of(section, source) -> str:
    """Return the name of the split to score; of a network, all images of data without splits."""
    if not section.split and section.network and list(source.splits) == ["train"]:
        return "train"
    return section.split or run_data.scored(source.splits)


def _load_data(section, target) -> _Data:
    """Load the data of a target, from --data_dir if that is set, and check their classes and splits.

    --data_dir may be the data set of the training in another place, or, of a target with --dataset=folder, any folder
    of images.
    """
    settings = target.config
    is_folder = settings.data.dataset == "folder" and target.classes is not None
    if section.labels and not is_folder:
        raise InputError(f"--labels={section.labels} is for targets with --dataset=folder, not {settings.data.dataset}")
    if section.data_dir:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=section.data_dir))
    source = None if section.labels else _own(section, target, settings, is_folder)
    is_own = source is not None
    if not is_own:
        options = {"labels": section.labels, "exif": settings.data.exif, "split": section.split}
        source = sources.scored_folder(section.data_dir, tuple(target.classes), **options)
        source = dataclasses.replace(source, splits={section.split or "test": source.splits["test"]})
        _log.info("%s", source)
    if target.classes is not None and list(source.classes) != target.classes:
        raise InputError(f"--data_dir={settings.data.data_dir}: its classes are not those of {target.origin}")
    if _split_of(section, source) not in source.splits:
        raise InputError(f"--split={section.split}: the data have {', '.join(source.splits)}")
    if section.calibrate and not is_own:
        raise InputError(f"--calibrate: {section.data_dir} is not the data set of the training")
    if section.calibrate and "validation" not in source.splits:
        raise InputError(
            f"--calibrate: {target.origin} holds no validation split out, on which the temperature is fitted; train "
            "with --validation_share"
        )
    has_changed = bool(is_own and target.checksum and source.checksum() != target.checksum)
    if has_changed:
        _log.warning(
            "warning: %s: images were added, removed or relabelled since the training, so that it may have seen some "
            "of the images that are held out now", target.origin,
        )  # fmt: skip
    return _Data(settings, source, is_own, has_changed)


def _own(section, target, settings, is_folder):
    """Return the data set of the training, at the place of `settings`; None if there are other images."""
    recorded = target.config.data.data_dir
    if not section.data_dir or not is_folder or os.path.realpath(section.data_dir) == os.path.realpath(recorded):
        try:
            return run_data.load(_as_recorded(section, settings))[0]
        except InputError:
            return run_data.load(settings)[0]  # files of the recorded split are gone; the checksum tells
    path = pathlib.Path(section.data_dir)
    if path.is_dir() and not (_has_splits(path, target.classes) or _is_moved(target, path)):
        return None
    try:
        source, _ = run_data.load(_as_recorded(section, settings))
    except InputError:
        if not path.exists():
            raise
        return None
    # Where a share would be held out, the data do not say themselves which images are for scoring.
    is_split = not getattr(source, "was_split", False)
    is_same = target.checksum and source.checksum() == target.checksum
    return source if is_same or (is_split and list(source.classes) == target.classes) else None


def _as_recorded(section, settings):
    """Return the settings of a run with the split that it recorded; see `run_data.as_recorded`."""
    run = section.run.split(",")[0]
    return run_data.as_recorded(settings, pathlib.Path(run)) if run else settings


def _has_splits(path, classes):
    """Return whether a folder, or a folder in it, has train/CLASS/; a class may be named train too."""
    parents = [path, *(child for child in path.iterdir() if child.is_dir())]
    trains = [child for parent in parents for child in parent.iterdir() if child.name.lower() in ("train", "training")]
    return any((train / name).is_dir() for train in trains for name in classes)


def _is_moved(target, path):
    """Return whether a folder has the files that split.csv of a run lists, judged by some of them."""
    table = pathlib.Path(target.identity.get("run", "")) / "split.csv"
    if "run" not in target.identity or not table.is_file():
        return False
    with open(table, newline="", errors="surrogateescape") as file:
        names = [row.get("file") or "" for row in csv.DictReader(file)]
    return bool(names) and all((path / name).is_file() for name in names[:: max(1, len(names) // _COMPARED)])


def _logits(section, target, source, name, outputs=None) -> tuple[np.ndarray, float]:
    """Return the logits of a split, averaged over the members, and the seconds that they took.

    With `outputs`, see `scored.Target`, they are those of all outputs of the network.
    """
    split, classes = source.splits[name], source.classes
    members = target.members(source, split)
    of = "" if name == _split_of(section, source) else f" of the split {name}, for the temperature"
    progress = Progress(f"evaluating {len(split)} examples{of}", sum(member.checks for member in members))
    start = time.monotonic()
    every = [member.logits(lambda: progress.add(1)) for member in members]
    seconds = time.monotonic() - start
    progress.end()
    for logits in every:
        if logits.shape[0] != len(split) or (outputs is None and logits.shape[1] != len(classes)):
            raise AssertionError(f"logits of shape {logits.shape} for {len(split)} examples of {len(classes)} classes")
    if len(every) > 1:
        every = [metrics.average(every, section.shares or None, section.average)]
    return every[0], seconds
