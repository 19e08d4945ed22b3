"""The base class of tasks: the parts of training, scoring and export that depend on the kind of prediction.

`loop.train` asks a task for data, network, loss and score; steps, schedules, checkpoints and records are the same for
all tasks. `scoring` and `serving` ask it for reports and exported models.
"""

import dataclasses

import keras

from resnet_tf.config import TASKS
from resnet_tf.data import augmentation
from resnet_tf.data.colour import Normalization
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.runs import describe, record, run_data
from resnet_tf.runs.runner import Runner
from resnet_tf.tasks import scoring, serving
from resnet_tf.training import smoke


class Task:
    """A task. A subclass implements all methods that raise `NotImplementedError` and needs a row in `config.TASKS`.

    Attributes:
        name: key of the row in `config.TASKS`, equal to `task` of its configuration.
        config: configuration of the run, shrunk if `smoke`.
        smoke: whether --smoke was set; training then uses a few examples of each split.
        test_view: view of an example in evaluation, one word for results.
        repeats: views of each image in a batch.
    """

    name: str
    test_view = "whole"
    repeats = 1

    def __init__(self, config):
        """Take a configuration of the type in the row of the task.

        Raises:
            InputError: no such network, or flags that a subclass refuses.
        """
        self.smoke = config.record.smoke
        self.config = self.shrink(config) if self.smoke else config
        find(self.config.model.model)

    # --- Names of metrics and columns ---------------------------------------------------------------------------------

    @property
    def metric(self):
        """The metric for the best checkpoint and the plateau schedule; higher is better."""
        return TASKS[self.name].columns[0]

    @property
    def columns(self):
        """The columns of a results file."""
        return record.results_columns(self.name)

    @property
    def metrics_columns(self):
        """The columns of metrics.csv."""
        return record.metrics_columns(self.name)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sides in pixels of training views in equal parts of the training; () where all are of --image_size."""
        return ()

    # --- Training -----------------------------------------------------------------------------------------------------

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke: a small version of the recipe, with `record.smoke` off."""
        return dataclasses.replace(config, **smoke.shrunk_parts(config))

    def load(self) -> tuple[Source, list[tuple[str, str]]]:
        """Read the index of the data.

        Returns:
            The source, with splits "train", "test" and optionally "validation"; (name, reason) of skipped images.

        Raises:
            InputError: data that are missing or damaged.
        """
        raise NotImplementedError

    def check(self, source: Source) -> None:
        """Refuse, with an InputError, labels that cannot be right."""

    def hold(self, split):
        """Return training images to hold on the devices, uint8 [n, height, width, 3]; None to decode in every epoch."""
        return None

    def normalization(self, split) -> Normalization:
        """Return the normalization of a training split."""
        data = self.config.data
        return run_data.normalization(data.normalization, split, data.image_size)

    def build(self, classes: int, replicas: int = 1) -> keras.Model:
        """Build the network for a number of classes and of replicas that train it together.

        It maps normalised images to the input of the loss; its first output is the prediction. It may have two more
        inputs, targets and keys; see `runner.inputs_of`.
        """
        raise NotImplementedError

    def loss(self, classes: int):
        """Return a loss with the methods of `losses.Loss`, for a number of classes."""
        raise NotImplementedError

    def augmentation(self) -> augmentation.Augmentation:
        """Return the augmentation of training views; by default of colours only."""
        views = self.config.views
        return augmentation.Augmentation(views.color_jitter or (0.0,) * 4, views.lighting)

    def sampled(self, split):
        """Return the training split as an epoch goes through it, perhaps with examples more than once."""
        return split

    def recipe(self, source: Source, normalization: Normalization) -> dict:
        """Return the arguments of `recipe.Recipe` that depend on the task and the data.

        They are {"loss", "augmentation", "seed"} and optionally "pad_crop" and "teacher".
        """
        seed = self.config.optimizer.seed
        return {"loss": self.loss(len(source.classes)), "augmentation": self.augmentation(), "seed": seed}

    def view(self, normalization: Normalization):
        """Return the view of streamed training examples, such as a `geometry.View`; None for data in memory.

        The mean of the normalization pads images.
        """
        raise NotImplementedError

    def macs(self, classes: int) -> int | None:
        """Return the multiply-adds of the forward pass of one image; None if unknown, which leaves out MFU."""
        return None

    # --- Score --------------------------------------------------------------------------------------------------------

    def evaluation(self, runner: Runner, split, normalization: Normalization):
        """Return the object that `score` evaluates a split with, such as a `logits.SplitLogits`."""
        raise NotImplementedError

    def score(self, evaluation, split, ema: bool, check, look=None) -> tuple[dict, object]:
        """Score a split, every example once.

        Args:
            evaluation: result of `evaluation`.
            split: the split to score.
            ema: use the averaged weights.
            check: function to call regularly; its exceptions end the evaluation.
            look: function to call with (index, truth, answer) of each example, for pictures; None for no pictures.

        Returns:
            {"examples": number of examples, and each metric of the row: a fraction}; the answers, for `keep` and
            `pictures`.

        Raises:
            InputError: an example that cannot be read.
        """
        raise NotImplementedError

    def keep(self, folder, split, classes: list[str], answers) -> None:
        """Write the answers of `score` for a split into a run folder, a `pathlib.Path`; by default nothing."""

    def conclude(self, run: record.Run, result: dict) -> list[str]:
        """Return what to say at the end of a training, in sentences; by default nothing.

        Args:
            run: the finished run.
            result: of `loop.train`.
        """
        return []

    def describe(self) -> str:
        """Return a short description of the recipe, for a results file."""
        return describe.in_words(self.config, {})

    def row(self, steps: int, epochs: float, metrics: dict) -> dict:
        """Return the columns of a results file for a run and its score; see `describe.results_row`."""
        return describe.results_row(self.config, self.describe(), steps, epochs, metrics)

    def pictures(self, split, classes: list[str], answers, shown: list[tuple]) -> dict:
        """Return the pictures of a report, {file name: `matplotlib.figure.Figure`}; by default none.

        `answers` is the second result of `score`; `shown` has (image, truth, answer) of some examples.
        """
        return {}

    @classmethod
    def evaluate(cls, config) -> dict:
        """Score the run of a `config.EvaluateConfig`; see `scoring.score`.

        Raises:
            InputError: a flag that the task does not use; or see `scoring.score`.
        """
        if "," in config.evaluation.run:
            raise InputError(f"--run={config.evaluation.run}: runs of {cls.name} make no ensemble; name one")
        refuse_others(cls.name, config.evaluation, ("run", "split", "weights", "data_dir", "results", "report"))
        return scoring.score(config.evaluation)

    # --- Export -------------------------------------------------------------------------------------------------------

    def served(self, model: keras.Model, normalization: Normalization, classes: list[str]):
        """Return the functions of an exported model; see `tasks.serving` for their outputs.

        Returns:
            A function of the pixels of one image, uint8 [height, width, 3], and a function of several images, uint8 [n,
            height, width, 3]; both return {name: tensor}.

        Raises:
            InputError: models of the task cannot be exported.
        """
        raise InputError(f"--run: models of {self.name} cannot be exported")

    @classmethod
    def export(cls, config) -> dict:
        """Export the run of a `config.ExportConfig`; see `serving.export`.

        Raises:
            InputError: a flag that the task does not use; or see `serving.export`.
        """
        refuse_others(cls.name, config, ("run", "weights", "out", "version"))
        return serving.export(config)


def refuse_others(task: str, section, used: tuple[str, ...]) -> None:
    """Refuse settings of a section that a task does not use, unless they have their defaults.

    Raises:
        InputError: names the flag, the run and its task.
    """
    for field in dataclasses.fields(section):
        if field.name not in used and getattr(section, field.name) != field.default:
            raise InputError(f"--{field.name} is not used by --run={section.run}, a run of {task}")
