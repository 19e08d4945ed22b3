"""Evaluation of runs, exported models and imported weights on a split of their data, every example once."""

import dataclasses
import time

import numpy as np

from resnet_tf.config import EvaluateConfig
from resnet_tf.data.progress import Progress
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, metrics, report, scored
from resnet_tf.runs import describe, record, run_data


def evaluate(config: EvaluateConfig) -> dict:
    """Evaluate a run, an ensemble of runs, an exported model or imported weights.

    The result of a single run is also written to evaluation.json in its folder, with command and commit, and its
    predictions to examples.csv.

    Returns:
        {"run", "split", "views", "weights", "steps", "examples", "top1", "top5", "loss", "ece", "images_per_second"},
        and "scales" if there are several. Instead of "run" there are "runs", "shares" and "average" for an ensemble,
        "model" for an exported model, "network" and "init_from" for imported weights. "ece" is
        `metrics.expected_calibration_error`.

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
    settings, source = _load_data(section, target)
    classes, split = list(source.classes), source.splits[section.split]
    every, seconds = _logits(target.members(source, split), split, classes)
    logits = every[0] if len(every) == 1 else metrics.average(every, section.shares or None, section.average)
    scores = metrics.classification(logits, split.labels)
    predictions = answers.of_logits(logits, split.labels, split.names)
    scores["ece"] = metrics.expected_calibration_error(predictions["probability"], answers.right(predictions))
    views = {"views": section.views} | ({"scales": list(section.scales)} if section.views == "multi_scale" else {})
    result = target.identity | {"split": section.split} | views | scores
    result["images_per_second"] = round(len(split) / seconds, 1)
    if section.report:
        report.write(section.report, result, classes, split, logits, predictions)
    if section.examples:
        report.write_examples(section.examples, logits, predictions, classes)
    if "run" in result:
        run = record.open_run(result["run"])
        answers.write(run.folder / answers.FILE, predictions)
        run.finish(result)
    if section.results:
        steps = result["steps"] if "run" in result else 0  # `target.row` then replaces steps and epochs
        epochs = steps * settings.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(settings.optimizer.seed, time.monotonic() - started)
        recipe = describe.classification_recipe(settings)
        row |= describe.results_row(settings, recipe, steps, epochs, scores) | target.row
        record.append_result(section.results, record.ACCURACY_COLUMNS, row)
    return result


def _load_data(section, target):
    """Load the data of a target, from --data_dir if that is set, and check their classes and splits."""
    settings = target.config
    if section.data_dir:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=section.data_dir))
    source, _ = run_data.load(settings)
    if target.classes is not None and list(source.classes) != target.classes:
        raise InputError(f"--data_dir={settings.data.data_dir}: its classes are not those of {target.origin}")
    if section.split not in source.splits:
        raise InputError(f"--split={section.split}: the data have {', '.join(source.splits)}")
    return settings, source


def _logits(members, split, classes) -> tuple[list[np.ndarray], float]:
    """Return the logits of each member and the seconds that they took."""
    progress = Progress(f"evaluating {len(split)} examples", sum(member.checks for member in members))
    start = time.monotonic()
    every = [member.logits(lambda: progress.add(1)) for member in members]
    seconds = time.monotonic() - start
    progress.end()
    for logits in every:
        if logits.shape != (len(split), len(classes)):
            raise AssertionError(f"logits of shape {logits.shape} for {len(split)} examples of {len(classes)} classes")
    return every, seconds
