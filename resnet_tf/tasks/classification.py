"""Classification: images that have a class each."""

from resnet_tf.evaluation import answers as answering
from resnet_tf.evaluation import evaluate, metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import cost_by_name
from resnet_tf.runs import describe, network, run_data
from resnet_tf.serving import export
from resnet_tf.tasks.task import Task
from resnet_tf.training import distillation, losses, recipe, smoke, supply


class Classification(Task):
    """Images that have a class each; see `task.Task` for what each part is."""

    name = "classification"
    test_view = "center"

    def __init__(self, config):
        """Refuse a --teacher that is nothing, too."""
        super().__init__(config)
        if self.config.loss.teacher:
            network.locate("teacher", self.config.loss.teacher)

    @classmethod
    def shrink(cls, config):
        """Return the configuration of --smoke; see `smoke.shrink`."""
        return smoke.shrink(config)

    @property
    def repeats(self):
        """--repeats."""
        return self.config.views.repeats

    def load(self):
        """Read the data; see `run_data.load`."""
        return run_data.load(self.config)

    def hold(self, split):
        """Return the images of --hold_images; see `supply.held_images`."""
        return supply.held_images(self.config, split)

    def normalization(self, split):
        """Return the `colour.Normalization` of a training split, by views of evaluation."""
        return run_data.normalization_of(self.config, split)

    def build(self, classes, replicas=1):
        """Build a network of the table."""
        return network.build(self.config, classes, replicas)

    def loss(self, classes):
        """Return the loss that the flags name."""
        return losses.from_config(self.config.loss)

    def recipe(self, classes, normalization):
        """Return the loss, all that --view and its like ask for, and the teacher."""
        config, teacher = self.config, None
        if config.loss.teacher:
            trained = network.load("teacher", config.loss.teacher, config, len(classes))
            teacher = distillation.Teacher(trained, classes, normalization)
        views = recipe.from_views(config.views, config.optimizer.seed)
        return {"loss": self.loss(len(classes)), "teacher": teacher, **views}

    def view(self, normalization):
        """Return a `geometry.View`; see `run_data.training_view`."""
        return run_data.training_view(self.config)

    def macs(self, classes):
        """Return the multiplications of one image's forward pass, or None."""
        model = self.config.model
        return cost_by_name(model.model, model.shortcut, self.config.data.image_size, classes, model.graph).macs

    def evaluation(self, runner, split, normalization):
        """Return a `SplitLogits`."""
        return SplitLogits(runner, self.config.data, split, threads=self.config.views.threads)

    def score(self, evaluation, split, ema, check, look=None):
        """Return {"examples", "top1", "top5", "loss"}, and the logits, float32 [n, classes]."""
        logits = evaluation.logits(ema, check)
        return metrics.classification(logits, split.labels), logits

    def keep(self, folder, split, classes, answers):
        """Write examples.csv: the answers one by one."""
        answering.write(folder / answering.FILE, answering.of_logits(answers, split.labels, split.names))

    def describe(self):
        """Return the recipe in a few words."""
        return describe.classification_recipe(self.config)

    @classmethod
    def evaluate(cls, config):
        """Score one run or an ensemble, with all that `evaluate.evaluate` has for them."""
        return evaluate.evaluate(config)

    @classmethod
    def export(cls, config):
        """Export in every format; see `serving.export`."""
        return export.export(config)
