"""Runs in words: their recipe, their data, and the row of a results file."""

import pathlib

from resnet_tf.config import TASKS


def dataset(data):
    """Return a data set and its archive in a few words."""
    archive = pathlib.PurePath(data.data_dir).name
    return data.dataset + (f":{archive}" if archive else "")


def results_row(config, recipe, steps, epochs, metrics):
    """Return the columns of a results file that describe a run and its score.

    Args:
        config: the configuration of the run, of any task.
        recipe: the recipe in a few words.
        steps: behind the network.
        epochs: the same in epochs.
        metrics: {"examples": how many, and each metric of the task: a fraction}.

    Returns:
        {column: value}.
    """
    return {
        "model": config.network,
        "recipe": recipe,
        "dataset": dataset(config.data),
        "steps": steps,
        "epochs": round(epochs, 2),
        **{name: metrics[name] for name in ("examples", *TASKS[config.task].columns)},
    }


def classification_recipe(config):
    """Return the recipe of a `TrainConfig` in a few words, for a column of results."""
    views, loss = config.views, config.loss
    return in_words(config, {
        "smoothing": loss.label_smoothing, "bce": loss.loss == "bce", "distilled": bool(loss.teacher),
        "mixup": views.mixup, "cutmix": views.cutmix, "erasing": views.erasing,
        "black": views.erasing_fill == "black",
    })  # fmt: skip


def in_words(config, options):
    """Return the recipe of a run of any task in a few words.

    Args:
        config: the configuration of the run.
        options: of its task, {name: bool or number}; those that are false or 0 are left out.
    """
    part, rate, model = config.optimizer, config.schedule, config.model
    words = [part.optimizer, f"lr {rate.lr:g}", *(["x batch/256"] if rate.linear_scaling else [])]
    falls = "/".join(f"{fall:g}" for fall in rate.lr_steps or rate.lr_epochs) or "none"
    words.append(f"x{rate.lr_factor:g} at {falls}" if rate.schedule == "steps" else rate.schedule)
    words.append(f"batch {part.batch_size} decay {part.weight_decay:g} {part.decay} {config.device.precision}")
    options = {
        "transferred": bool(model.init_from), f"frozen {'+'.join(model.freeze)}": bool(model.freeze),
        "layer decay": part.layer_decay if part.layer_decay < 1 else 0, "warm-up": rate.warmup_epochs,
        "zero gamma": model.zero_gamma, **options,
        "clip": part.clip, "ema": part.ema, "precise bn": part.precise_bn,
    }  # fmt: skip
    words += [name if value is True else f"{name} {value:g}" for name, value in options.items() if value]
    return " ".join(words)
