"""Score a run of any task, with an optional report of pictures."""

import dataclasses
import pathlib
import time

import numpy as np

from resnet_tf.config import EvaluationSection
from resnet_tf.data import images
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, pictures
from resnet_tf.runs import devices, record, restore, run_data
from resnet_tf.runs.runner import Runner
from resnet_tf.tasks import find, serving

_SHOWN = 4  # images in the report, evenly spaced in the split


def score(section: EvaluationSection) -> dict:
    """Score a run on a split; the run folder is not changed.

    Args:
        section: a section with a run, of which `run`, `split`, `weights`, `data_dir`, `results` and `report` are used.

    Returns:
        {"run", "steps", "split", "views", "weights", "examples", the metrics of the task, "images_per_second"}.

    Raises:
        InputError: no such run, split or data; other data than the run's; --report exists.
    """
    started = time.monotonic()
    if section.report:
        charts.require("--report")
        if pathlib.Path(section.report).exists():
            raise InputError(f"--report={section.report}: exists already; remove it or choose another")
    strategy = devices.make_strategy(1)
    with strategy.scope():
        run, model, normalization, steps = serving.load(section.run, section.weights)
        runner = Runner(strategy, model, normalization)
    devices.use_precision(run.config.device.precision)
    data_dir = section.data_dir or run.config.data.data_dir
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, data_dir=data_dir))
    task = find.of(config)
    if section.results:
        record.check_results(section.results, task.columns)
    source, _ = task.load()
    if source.checksum() != run.manifest["data"]["checksum"]:
        raise InputError(f"--data_dir={data_dir}: its images or annotations are not those of the run")
    name = section.split or run_data.scored(source.splits)
    if name not in source.splits:
        raise InputError(f"--split={name}: there are {', '.join(source.splits)}")
    split, classes = source.splits[name], list(source.classes)

    evaluation = task.evaluation(runner, split, normalization)
    examples, look = _gallery(split)
    begun = time.monotonic()
    metrics, answers = task.score(evaluation, split, False, lambda: None, look if section.report else None)
    images_per_second = len(split) / (time.monotonic() - begun)

    if section.report:
        folder = pathlib.Path(section.report)
        folder.mkdir(parents=True)
        task.keep(folder, split, classes, answers)
        for file, figure in task.pictures(split, classes, answers, examples).items():
            pictures.write(folder / file, figure, 150)
    if section.results:
        epochs = steps * config.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(config.optimizer.seed, time.monotonic() - started) | task.row(steps, epochs, metrics)
        row["dataset"] += f" {name}"
        record.append_result(section.results, task.columns, row)
    result = {"run": str(run.folder), "steps": steps, "split": name, "views": task.test_view}
    result["weights"] = restore.resolved(run, section.weights)
    return result | metrics | {"images_per_second": round(images_per_second, 1)}


def _gallery(split):
    """Return a list of (image, truth, answer), and the function for `Task.score` that fills it."""
    shown = set(np.linspace(0, len(split) - 1, min(_SHOWN, len(split))).astype(int).tolist())
    examples = []

    def look(example, truth, answer):
        if example in shown:
            is_decoded = isinstance(split, Split)
            image = split.images[example] if is_decoded else images.decode(split.read(example))
            examples.append((image, truth, answer))

    return examples, look
