"""The task of image classification: a class for every image."""

from resnet_tf.data import splits
from resnet_tf.evaluation import answers as answering
from resnet_tf.evaluation import evaluate, metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import cost_by_name
from resnet_tf.runs import describe, network, run_data
from resnet_tf.serving import export
from resnet_tf.tasks import closing
from resnet_tf.tasks.task import Task
from resnet_tf.training import distillation, losses, recipe, smoke, supply


class Classification(Task):
    """The classification task of a `config.TrainConfig`; `task.Task` documents the methods."""

    name = "classification"
    test_view = "center"

    def __init__(self, config):
        """Check the configuration, and that --teacher exists."""
        super().__init__(config)
        if self.config.loss.teacher:
            network.locate("teacher", self.config.loss.teacher)

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke; see `smoke.shrink`."""
        return smoke.shrink(config)

    @property
    def repeats(self):
        """The value of --repeats."""
        return self.config.views.repeats

    @property
    def sizes(self):
        """The values of --progressive, and --image_size last."""
        smaller = self.config.views.progressive
        return (*smaller, self.config.data.image_size) if smaller else ()

    def load(self):
        """Read the data; see `run_data.load`."""
        return run_data.load(self.config)

    def check(self, source):
        """Refuse data of one class, or with a class that has no training image."""
        splits.check_trainable(source)

    def hold(self, split):
        """Return the images of --hold_images; see `supply.held_images`."""
        return supply.held_images(self.config, split)

    def normalization(self, split):
        """Return the `colour.Normalization` of a training split, estimated on evaluation crops."""
        return run_data.normalization_of(self.config, split)

    def build(self, classes, replicas=1):
        """Build the network of --model."""
        return network.build(self.config, classes, replicas)

    def sampled(self, split):
        """Return the training split with the repetitions of --sampling; see `run_data.balanced`."""
        return run_data.balanced(split) if self.config.data.sampling == "balanced" else split

    def recipe(self, source, normalization):
        """Return the loss, the teacher and the augmentation, for `recipe.Recipe`."""
        config, classes, teacher = self.config, source.classes, None
        if config.loss.teacher:
            trained = network.load("teacher", config.loss.teacher, config, len(classes))
            teacher = distillation.Teacher(trained, classes, normalization)
        loss = losses.from_config(config.loss, classes, source.splits["train"].labels)
        return {"loss": loss, "teacher": teacher, **recipe.from_views(config.views, config.optimizer.seed)}

    def view(self, normalization):
        """Return a `geometry.View`; see `run_data.training_view`."""
        return run_data.training_view(self.config)

    def macs(self, classes):
        """Return the multiply-adds of the forward pass of one image, or None."""
        model = self.config.model
        return cost_by_name(model.model, model.shortcut, self.config.data.image_size, classes, model.graph).macs

    def evaluation(self, runner, split, normalization):
        """Return a `SplitLogits`, which keeps small splits on the devices."""
        return SplitLogits(runner, self.config.data, split, threads=self.config.views.threads, keep=True)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "top1", "top5", "loss"}, and the logits, float32 [n, classes]."""
        logits = evaluation.logits(ema, check)
        return metrics.classification(logits, split.labels), logits

    def keep(self, folder, split, classes, answers):
        """Write examples.csv, the prediction for each example."""
        answering.write(folder / answering.FILE, answering.of_logits(answers, split.labels, split.names))

    def conclude(self, run, result):
        """Write the page of --page, and say how good the network is and what to do next; see `closing`."""
        return closing.conclude(run, result, self.config.choice.page)

    def describe(self):
        """Return a short description of the recipe."""
        return describe.classification_recipe(self.config)

    @classmethod
    def evaluate(cls, config):
        """Score a run, an ensemble, an exported model or a network; see `evaluate.evaluate`."""
        return evaluate.evaluate(config)

    @classmethod
    def export(cls, config):
        """Export in any format; see `serving.export`."""
        return export.export(config)
