"""What a run learns: all of a training that is not the same for every kind of answer.

`loop.train` asks a task for its data, its network, what to minimise and how to score; steps, schedules, checkpoints
and records know nothing of it.
"""

import pathlib

from resnet_tf.evaluation import answers, metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import cost_by_name, find
from resnet_tf.runs import network, record, run_data
from resnet_tf.training import distillation, losses, recipe, smoke


class Classification:
    """Images that have a class each.

    Attributes:
        config: the `TrainConfig`.
        figure: of a score, the one that the best checkpoint and a plateau go by; the higher the better.
        views: what `score` looks at.
        columns: of a results file.
        metrics_columns: of metrics.csv.
    """

    figure, views = "top1", "center"
    columns, metrics_columns = record.ACCURACY_COLUMNS, record.METRICS_COLUMNS

    def __init__(self, config):
        """Refuse flags that cannot work before anything is read.

        Raises:
            InputError: no such network, or a --teacher that is nothing.
        """
        self.config = config
        find(config.model.model)
        if config.loss.teacher:
            network.locate("teacher", config.loss.teacher)

    @staticmethod
    def shrink(config):
        """The configuration of --smoke."""
        return smoke.shrink(config)

    def load(self):
        """A `splits.Source`, and the images left out; see `run_data.load`."""
        return run_data.load(self.config)

    def check(self, source):
        """Refuse labels that can only be wrong, before a training; those of images were looked at as they were read."""

    def build(self, classes, replicas):
        """The network, a `keras.Model`."""
        return network.build(self.config, classes, replicas)

    def recipe(self, classes, normalization):
        """What of a `recipe.Recipe` depends on the task, by name.

        Args:
            classes: names of the data's.
            normalization: a `colour.Normalization`.
        """
        config, teacher = self.config, None
        if config.loss.teacher:
            trained = network.load("teacher", config.loss.teacher, config, len(classes))
            teacher = distillation.Teacher(trained, classes, normalization)
        return {
            "loss": losses.from_config(config.loss),
            "teacher": teacher,
            **recipe.from_views(config.views, config.optimizer.seed),
        }

    def view(self, normalization):
        """What streamed training images are seen through; see `supply.Streamed`."""
        return run_data.training_view(self.config)

    def macs(self, classes):
        """Multiplications of one image's forward pass; None where that is not known."""
        model = self.config.model
        return cost_by_name(model.model, model.shortcut, self.config.data.image_size, classes, model.graph).macs

    def evaluation(self, runner, split, normalization):
        """What `score` asks, its data in place."""
        return SplitLogits(runner, self.config.data, split, threads=self.config.views.threads)

    def score(self, evaluation, split, ema, check):
        """Score a split, every example once.

        Args:
            evaluation: of `evaluation`.
            split: that it is of.
            ema: by the averaged weights.
            check: called now and then; what it raises ends the evaluation.

        Returns:
            {"examples", "top1", "top5", "loss"}; and what `keep` writes.
        """
        logits = evaluation.logits(ema, check)
        return metrics.classification(logits, split.labels), logits

    def keep(self, folder, split, classes, answered):
        """Write the answers of the last evaluation one by one into a run's folder."""
        answers.write(folder / answers.FILE, answers.of_logits(answered, split.labels, split.names))

    def row(self, steps, epochs, figures):
        """The columns of a results file that describe a run and its score: {column: value}."""
        return accuracy_row(self.config, steps, epochs, figures)


def dataset(data):
    """A data set and its archive in a few words."""
    archive = pathlib.PurePath(data.data_dir).name
    return data.dataset + (f":{archive}" if archive else "")


def accuracy_row(config, steps, epochs, figures):
    """The columns of an accuracy file that describe a run and its score: {column: value}."""
    return {
        "model": config.network,
        "recipe": describe(config),
        "dataset": dataset(config.data),
        "steps": steps,
        "epochs": round(epochs, 2),
        **{name: figures[name] for name in ("examples", "top1", "top5")},
    }


def describe(config):
    """A recipe in a few words, for a column of results."""
    views, loss = config.views, config.loss
    return in_words(config, {
        "smoothing": loss.label_smoothing, "bce": loss.loss == "bce", "distilled": bool(loss.teacher),
        "mixup": views.mixup, "cutmix": views.cutmix, "erasing": views.erasing,
        "black": views.erasing_fill == "black",
    })  # fmt: skip


def in_words(config, options):
    """What all tasks have of a recipe, and options of one, {name: bool or number}, where they are not false or 0."""
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
