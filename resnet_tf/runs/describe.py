"""Short descriptions of runs for results files: recipe, data set, and the row of a score."""

import pathlib

from resnet_tf.config import TASKS


def dataset(data) -> str:
    """Return the name of a data set and the last part of its --data_dir, such as "folder:imagenette"."""
    archive = pathlib.PurePath(data.data_dir).name
    return data.dataset + (f":{archive}" if archive else "")


def results_row(config, recipe: str, steps: int, epochs: float, metrics: dict) -> dict:
    """Return the columns of a results file for a run of any task and its score.

    `metrics` has the number of "examples" and each metric of the task, a fraction; `recipe` is that of `in_words`.
    """
    return {
        "model": config.network,
        "recipe": recipe,
        "dataset": dataset(config.data),
        "steps": steps,
        "epochs": round(epochs, 2),
        **{name: metrics[name] for name in ("examples", *TASKS[config.task].columns)},
    }


def classification_recipe(config) -> str:
    """Return a short description of the recipe of a `TrainConfig`; see `in_words`."""
    views, loss = config.views, config.loss
    return in_words(config, {
        "smoothing": loss.label_smoothing, loss.loss: loss.loss != "softmax", "distilled": bool(loss.teacher),
        "mixup": views.mixup, "cutmix": views.cutmix, "erasing": views.erasing,
        "black": views.erasing_fill == "black", "trivialaugment": views.trivialaugment,
        "alternating": views.mirroring == "alternate", "progressive": bool(views.progressive),
    })  # fmt: skip


def in_words(config, options: dict[str, bool | float]) -> str:
    """Return a short description of a recipe: settings of all tasks, then the options that are true or not 0.

    Args:
        config: configuration of a run of any task.
        options: options of the task, {name: value}.
    """
    optimizer, schedule, model = config.optimizer, config.schedule, config.model
    words = [optimizer.optimizer, f"lr {schedule.lr:g}", *(["x batch/256"] if schedule.linear_scaling else [])]
    drops = "/".join(f"{drop:g}" for drop in schedule.lr_steps or schedule.lr_epochs) or "none"
    words.append(f"x{schedule.lr_factor:g} at {drops}" if schedule.schedule == "steps" else schedule.schedule)
    words.append(f"batch {optimizer.batch_size} decay {optimizer.weight_decay:g} {optimizer.decay}")
    words.append(config.device.precision)
    options = {
        "transferred": bool(model.init_from), f"frozen {'+'.join(model.freeze)}": bool(model.freeze),
        "layer decay": optimizer.layer_decay if optimizer.layer_decay < 1 else 0, "warm-up": schedule.warmup_epochs,
        "zero gamma": model.zero_gamma, "drop path": model.drop_path, **options,
        "clip": optimizer.clip, "ema": optimizer.ema, "precise bn": optimizer.precise_bn,
    }  # fmt: skip
    words += [name if value is True else f"{name} {value:g}" for name, value in options.items() if value]
    return " ".join(words)
