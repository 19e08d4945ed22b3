"""Scoring a run of segmentation, with pictures."""

import dataclasses
import pathlib
import time

import numpy as np

from resnet_tf.data import images
from resnet_tf.data import segmentation as masked
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, pictures
from resnet_tf.training import devices, record
from resnet_tf.training.step import Engine
from resnet_tf.transfer import metrics, segmentation, serving
from resnet_tf.transfer import pictures as drawn

_SHOWN = 4  # images in the gallery, evenly over the split


def score(section):
    """Score a split.

    Args:
        section: a `config.ScoreSection`.

    Returns:
        {"run", "steps", "split", "views", "weights", "examples", "miou", "pixel_accuracy", "images_per_second"}.

    Raises:
        InputError: no such run, split or data; other data than the run's; --report exists.
    """
    started = time.monotonic()
    if section.report:
        charts.require("--report")
        if pathlib.Path(section.report).exists():
            raise InputError(f"--report={section.report}: exists already; remove it or choose another")
    if section.results:
        record.check_results(section.results, segmentation.COLUMNS)
    strategy = devices.make_strategy(1)
    with strategy.scope():
        run, model, normalization, steps = serving.load(section.run, section.weights)
        engine = Engine(strategy, model, normalization)
    devices.use_precision(run.config.device.precision)
    where = section.data_dir or run.config.data.data_dir
    config = dataclasses.replace(run.config, data=dataclasses.replace(run.config.data, data_dir=where))
    source = masked.index(config.data.dataset, where, config.data.classes)
    if source.checksum() != run.manifest["data"]["checksum"]:
        raise InputError(f"--data_dir={where}: its images or masks are not those of the run")
    if section.split not in source.splits:
        raise InputError(f"--split={section.split}: there are {', '.join(source.splits)}")
    split, classes = source.splits[section.split], list(source.classes)
    shown = set(np.linspace(0, len(split) - 1, min(_SHOWN, len(split))).astype(int).tolist())
    evaluation = segmentation.Evaluation(engine, split, normalization, config.views.threads)
    rows = []

    def look(example, truth, predicted):
        if section.report and example in shown:
            rows.append((images.decode(split.read(example)), truth, predicted))

    begun = time.monotonic()
    matrix = evaluation.confusion(look=look)
    rate = len(split) / (time.monotonic() - begun)
    figures = {"examples": len(split), **metrics.figures(matrix)}
    if section.report:
        folder = pathlib.Path(section.report)
        folder.mkdir(parents=True)
        segmentation.write_classes(folder / segmentation.CLASSES_FILE, classes, matrix)
        pictures.write(folder / "masks.png", drawn.gallery(rows, classes), 150)
        pictures.write(folder / "iou.png", drawn.bars(metrics.per_class(matrix), classes), 150)
    if section.results:
        epochs = steps * config.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(config.optimizer.seed, time.monotonic() - started)
        row |= segmentation.accuracy_row(config, steps, epochs, figures)
        row["dataset"] += f" {section.split}"
        record.append_result(section.results, segmentation.COLUMNS, row)
    return {
        "run": str(run.folder),
        "steps": steps,
        "split": section.split,
        "views": segmentation.Segmentation.views,
        "weights": section.weights,
        **figures,
        "images_per_second": round(rate, 1),
    }
