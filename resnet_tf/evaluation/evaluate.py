"""Score a run on a split of its data, every example once."""

import dataclasses
import time

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.training import checkpoint, devices, feed, loop, record, restore


def evaluate(config):
    """Evaluate a run.

    Args:
        config: a `config.EvaluateConfig`.

    Returns:
        {"run", "split", "views", "weights", "steps", "examples", "top1", "top5", "loss", "images_per_second"}; the same is
        written to evaluation.json in the run's folder.

    Raises:
        InputError: no such run or split, or data whose classes are not those of the run.
    """
    settings = config.evaluation
    if not settings.run:
        raise InputError("--run is not set: the folder of the run to evaluate")
    if settings.results:
        record.check_results(settings.results, record.ACCURACY_COLUMNS)
    started = time.monotonic()
    run, values, normalization = restore.load(settings.run)
    devices.use_precision(run.config.device.precision)
    strategy = devices.make_strategy(settings.replicas)
    config = run.config
    if settings.data_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=settings.data_dir))
    whole = config.views.view == "pad_crop" or config.data.resize in (0, config.data.image_size)
    if settings.views != "center" and whole:
        raise InputError(f"--views={settings.views}: {run.folder} has no --resize above its --image_size to crop from")
    data = config.data
    source, _ = feed.load(config)
    if list(source.classes) != run.manifest["classes"]:
        raise InputError(f"--data_dir={data.data_dir}: its classes are not those that {run.folder} was trained on")
    if settings.split not in source.splits:
        raise InputError(f"--split={settings.split}: the data have {', '.join(source.splits)}")
    split = source.splits[settings.split]
    engine = restore.build_engine(run, values, normalization, strategy, settings.weights)
    answers = feed.Evaluation(
        engine, data, split, settings.batch_size, settings.views, settings.average, config.views.threads
    )
    begun = time.monotonic()
    figures = metrics.classification(answers.logits(), split.labels)
    seconds = time.monotonic() - begun
    result = {
        "run": str(run.folder),
        "split": settings.split,
        "views": settings.views,
        "weights": settings.weights,
        "steps": restore.step_of(values),
        **figures,
        "images_per_second": round(len(split) / seconds, 1),
    }
    checkpoint.write_json(run.folder / "evaluation.json", result)
    if settings.results:
        epochs = result["steps"] * run.config.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(run.config.optimizer.seed, time.monotonic() - started)
        row |= loop.accuracy_row(run.config, result["steps"], epochs, figures)
        record.append_result(settings.results, record.ACCURACY_COLUMNS, row)
    return result
