"""Score runs, exported models and imported weights on a split of their data, every example once."""

import dataclasses
import time

from resnet_tf.data.progress import Progress
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, metrics, report, scored
from resnet_tf.runs import describe, record, run_data


def evaluate(config):
    """Evaluate what a configuration names.

    Args:
        config: a `config.EvaluateConfig`.

    Returns:
        {"run", "split", "views", "weights", "steps", "examples", "top1", "top5", "loss", "ece", "images_per_second"},
        with "scales" where there are several; "runs", "shares" and "average" for an ensemble, "model", or "network" and
        "init_from" in the place of a run. "ece" is `metrics.expected_calibration_error`. Of a single run the same is
        written to evaluation.json in its folder, with command and commit, and to examples.csv the answers that it is
        of.

    Raises:
        InputError: nothing there to score, no such split, data whose classes are others, runs that make no ensemble,
            or files that cannot be written.
    """
    section = config.evaluation
    if section.results:
        record.check_results(section.results, record.ACCURACY_COLUMNS)
    report.check(section.report, section.examples)
    started = time.monotonic()

    # --- What is scored, and on what ----------------------------------------------------------------------------------
    found = scored.find(config)
    settings = found.config
    if section.data_dir:
        settings = dataclasses.replace(settings, data=dataclasses.replace(settings.data, data_dir=section.data_dir))
    source, _ = run_data.load(settings)
    classes = list(source.classes)
    if found.classes is not None and classes != found.classes:
        raise InputError(f"--data_dir={settings.data.data_dir}: its classes are not those of {found.origin}")
    if section.split not in source.splits:
        raise InputError(f"--split={section.split}: the data have {', '.join(source.splits)}")
    split = source.splits[section.split]
    members = found.members(source, split)

    # --- Answers, every example once ----------------------------------------------------------------------------------
    progress = Progress(f"evaluating {len(split)} examples", sum(member.checks for member in members))
    begun = time.monotonic()
    every = [member.logits(lambda: progress.add(1)) for member in members]
    seconds = time.monotonic() - begun
    progress.end()
    for logits in every:
        if logits.shape != (len(split), len(classes)):
            raise AssertionError(f"{logits.shape} answers for {len(split)} examples of {len(classes)} classes")
    logits = every[0] if len(every) == 1 else metrics.average(every, section.shares or None, section.average)
    figures = metrics.classification(logits, split.labels)
    answered = answers.of_logits(logits, split.labels, split.names)
    figures["ece"] = metrics.expected_calibration_error(answered["probability"], answers.right(answered))

    # --- Results ------------------------------------------------------------------------------------------------------
    views = {"views": section.views} | ({"scales": list(section.scales)} if section.views == "multi_scale" else {})
    result = found.said | {"split": section.split} | views | figures
    result["images_per_second"] = round(len(split) / seconds, 1)
    if section.report:
        report.write(section.report, report.Report(result, classes, split, logits, answered))
    if section.examples:
        report.write_examples(section.examples, logits, answered, classes)
    if "run" in result:
        run = record.open_run(result["run"])
        answers.write(run.folder / answers.FILE, answered)
        run.finish(result)
    if section.results:
        steps = result["steps"] if "run" in result else 0  # which the row does not have then
        epochs = steps * settings.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(settings.optimizer.seed, time.monotonic() - started)
        recipe = describe.classification_recipe(settings)
        row |= describe.results_row(settings, recipe, steps, epochs, figures) | found.row
        record.append_result(section.results, record.ACCURACY_COLUMNS, row)
    return result
