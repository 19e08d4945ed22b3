"""The protocol of a task: all of a training, a score and an export that is not the same for every kind of answer.

`loop.train` asks a task for its data, its network, what to minimise and how to score; steps, schedules, checkpoints and
records know nothing of it. `scoring` and `serving` ask it for what they write of a run that is trained.
"""

import dataclasses

from resnet_tf.config import TASKS
from resnet_tf.data import augmentation
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.runs import describe, record, run_data
from resnet_tf.tasks import scoring, serving
from resnet_tf.training import smoke


class Task:
    """A task. A subclass has all methods that raise `NotImplementedError` here, and a row of `config.TASKS`.

    Attributes:
        name: the key of its row in `config.TASKS`, and `task` of its configuration.
        config: the configuration of the run, shrunk where `smoke`.
        smoke: whether --smoke was set: the loop takes a few examples of each split.
        test_view: what a score sees of an example, in a word, for the results.
        repeats: views of each example that an epoch has room for.
    """

    name: str
    test_view = "whole"
    repeats = 1

    def __init__(self, config):
        """Refuse flags that cannot work before anything is read.

        Args:
            config: the configuration that the row of the task names.

        Raises:
            InputError: no such network, or what a subclass refuses.
        """
        self.smoke = config.record.smoke
        self.config = self.shrink(config) if self.smoke else config
        find(self.config.model.model)

    # --- Names of what is written -------------------------------------------------------------------------------------

    @property
    def metric(self):
        """The column of the metric that the best checkpoint and a plateau go by; the higher the better."""
        return TASKS[self.name].columns[0]

    @property
    def columns(self):
        """The columns of a results file."""
        return record.results_columns(self.name)

    @property
    def metrics_columns(self):
        """The columns of metrics.csv."""
        return record.metrics_columns(self.name)

    # --- Training -----------------------------------------------------------------------------------------------------

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke: the same recipe, small, with `record.smoke` off."""
        return dataclasses.replace(config, **smoke.shrunk_parts(config))

    def load(self):
        """Read the index of the data.

        Returns:
            A `splits.Source` with the splits "train" and "test", and perhaps "validation"; and the images that were
            left out, a list of (name, reason).

        Raises:
            InputError: data that are missing or damaged.
        """
        raise NotImplementedError

    def check(self, source):
        """Refuse, before a training, labels of a `splits.Source` that can only be wrong, with an InputError."""

    def hold(self, split):
        """Return training images to hold decoded on the devices, uint8 [n, height, width, 3]; None to decode anew."""
        return None

    def normalization(self, split):
        """Return the `colour.Normalization` of a training split."""
        data = self.config.data
        return run_data.normalization(data.normalization, split, data.image_size)

    def build(self, classes, replicas=1):
        """Build the network.

        Args:
            classes: how many.
            replicas: that train it together.

        Returns:
            A `keras.Model` from normalised images to what the loss takes; its first output is its answer. One that must
            know in training what is there has two more inputs, targets and keys; see `runner.inputs_of`.
        """
        raise NotImplementedError

    def loss(self, classes):
        """Return what is minimised, with the methods of `losses.Loss`.

        Args:
            classes: how many.
        """
        raise NotImplementedError

    def augmentation(self):
        """Return the `augmentation.Augmentation` of training views: here, of their colours alone."""
        views = self.config.views
        return augmentation.Augmentation(views.color_jitter or (0.0,) * 4, views.lighting)

    def recipe(self, classes, normalization):
        """Return what of a `recipe.Recipe` depends on the task.

        Args:
            classes: names of the data's.
            normalization: a `colour.Normalization`.

        Returns:
            {"loss", "augmentation", "seed"}, perhaps with "pad_crop" and "teacher": arguments of `recipe.Recipe`.
        """
        seed = self.config.optimizer.seed
        return {"loss": self.loss(len(classes)), "augmentation": self.augmentation(), "seed": seed}

    def view(self, normalization):
        """Return what streamed training examples are seen through, such as a `geometry.View`; None of a set in memory.

        Args:
            normalization: a `colour.Normalization`, whose mean fills what lies outside of an image.
        """
        raise NotImplementedError

    def macs(self, classes):
        """Return the multiplications of one image's forward pass; None where they are not known, and MFU is not."""
        return None

    # --- Score --------------------------------------------------------------------------------------------------------

    def evaluation(self, runner, split, normalization):
        """Return what `score` asks for answers, its data in place.

        Args:
            runner: a `runner.Runner`.
            split: of a `splits.Source`.
            normalization: a `colour.Normalization`.
        """
        raise NotImplementedError

    def score(self, evaluation, split, ema, check, look=None):
        """Score a split, every example once.

        Args:
            evaluation: of `evaluation`.
            split: that it is of.
            ema: whether by the averaged weights.
            check: called now and then; what it raises ends the evaluation.
            look: called with (example, truth, answer) for each example, for pictures; None where none are wanted.

        Returns:
            {"examples": how many, and each metric of the row: a fraction}; and answers, which `keep` and `pictures`
            take.

        Raises:
            InputError: an example that cannot be read.
        """
        raise NotImplementedError

    def keep(self, folder, split, classes, answers):
        """Write the answers of the last evaluation into a run's folder: here, nothing.

        Args:
            folder: a `pathlib.Path`.
            split: that was scored.
            classes: their names.
            answers: of `score`.
        """

    def describe(self):
        """Return the recipe in a few words, for a results file."""
        return describe.in_words(self.config, {})

    def row(self, steps, epochs, metrics):
        """Return the columns of a results file that describe a run and its score; see `describe.results_row`."""
        return describe.results_row(self.config, self.describe(), steps, epochs, metrics)

    def pictures(self, split, classes, answers, shown):
        """Return the pictures of a report, {file: `matplotlib.figure.Figure`}: here, none.

        Args:
            split: that was scored.
            classes: their names.
            answers: of `score`.
            shown: list of (image, truth, answer) of some examples, as `look` was told them.
        """
        return {}

    @classmethod
    def evaluate(cls, config):
        """Score a run for `evaluate --run`.

        Args:
            config: a `config.EvaluateConfig` with a run.

        Returns:
            What `scoring.score` returns.

        Raises:
            InputError: a flag that scores of the task do not use, or as `scoring.score`.
        """
        if "," in config.evaluation.run:
            raise InputError(f"--run={config.evaluation.run}: runs of {cls.name} make no ensemble; name one")
        refuse_others(cls.name, config.evaluation, ("run", "split", "weights", "data_dir", "results", "report"))
        return scoring.score(config.evaluation)

    # --- Export -------------------------------------------------------------------------------------------------------

    def served(self, model, normalization, classes):
        """Return what an exported model answers with; see `serving`.

        Args:
            model: the trained network.
            normalization: a `colour.Normalization`.
            classes: their names.

        Returns:
            Functions of the pixels of one image, uint8 [height, width, 3], and of several, [n, height, width, 3], each
            to {name: tensor}.

        Raises:
            InputError: models of the task cannot be exported.
        """
        raise InputError(f"--run: models of {self.name} cannot be exported")

    @classmethod
    def export(cls, config):
        """Export a run for `export --run`.

        Args:
            config: a `config.ExportConfig` with a run and a folder.

        Returns:
            What `serving.export` returns.

        Raises:
            InputError: a flag that exports of the task do not use, or as `serving.export`.
        """
        refuse_others(cls.name, config, ("run", "weights", "out", "version"))
        return serving.export(config)


def refuse_others(task, section, used):
    """Refuse settings of a section that a task does not use, where they are not at their defaults.

    Args:
        task: its name.
        section: with a `run`.
        used: names of its settings that are used.

    Raises:
        InputError: names the flag, the run and its task.
    """
    for field in dataclasses.fields(section):
        if field.name not in used and getattr(section, field.name) != field.default:
            raise InputError(f"--{field.name} is not used by --run={section.run}, a run of {task}")
