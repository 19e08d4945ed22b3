"""Score a run on a split of its data, every example once."""

import dataclasses
import time

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.training import checkpoint, devices, feed, loop, record, restore


def evaluate(config):
    """Evaluate a run.

    Args:
        config: a `config.EvaluateConfig`.

    Returns:
        {"run", "split", "views", "weights", "steps", "examples", "top1", "top5", "loss", "images_per_second"}, with
        "scales" where there are several; the same is written to evaluation.json in the run's folder.

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
    data = config.data
    held, size = config.views.view == "pad_crop", configuration.evaluation_size(data)
    if settings.views == "ten_crop" and (held or data.resize in (0, size)):
        raise InputError(f"--views=ten_crop: {run.folder} has no --resize above {size} pixels to crop from")
    _check_scales(settings, held, run.folder)
    source, _ = feed.load(config)
    if list(source.classes) != run.manifest["classes"]:
        raise InputError(f"--data_dir={data.data_dir}: its classes are not those that {run.folder} was trained on")
    if settings.split not in source.splits:
        raise InputError(f"--split={settings.split}: the data have {', '.join(source.splits)}")
    split = source.splits[settings.split]
    engine = restore.build_engine(run, values, normalization, strategy, settings.weights)
    answers = feed.Evaluation(
        engine, data, split, settings.batch_size, settings.views, settings.average, config.views.threads,
        settings.scales,
    )  # fmt: skip
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
    if settings.views == "multi_scale":
        result["scales"] = list(settings.scales)
    checkpoint.write_json(run.folder / "evaluation.json", result)
    if settings.results:
        epochs = result["steps"] * run.config.optimizer.batch_size / len(source.splits["train"])
        row = record.provenance(run.config.optimizer.seed, time.monotonic() - started)
        row |= loop.accuracy_row(run.config, result["steps"], epochs, figures)
        record.append_result(settings.results, record.ACCURACY_COLUMNS, row)
    return result


def _check_scales(settings, held, folder):
    """Refuse scales that cannot be, or are not used."""
    listed = ",".join(map(str, settings.scales))
    if settings.views != "multi_scale":
        if settings.scales != configuration.EvaluationSection().scales:
            raise InputError(f"--scales={listed} is not used by --views={settings.views}")
        return
    if held:
        raise InputError(f"--views=multi_scale: the images of {folder} are held in memory at one size")
    if settings.batch_size:
        raise InputError(f"--batch_size={settings.batch_size} is not used by --views=multi_scale: sizes differ")
    if not settings.scales or list(settings.scales) != sorted(set(settings.scales)) or settings.scales[0] < 8:
        raise InputError(f"--scales={listed}: not rising numbers of at least 8 pixels")
