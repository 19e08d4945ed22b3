"""The table of tasks: the configuration, the implementation and the metrics of each.

Rows hold import paths, resolved on first use, since this room may not import the rooms above it. A new task is a module
with a `tasks.task.Task` and a row here.
"""

import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a task: a fraction, higher is better.

    Attributes:
        column: column of metrics.csv and key of evaluation.json.
        title: name in tables and figures.
        label: name in progress lines; "" to leave it out.
        drawn_as_error: whether curves show 1 minus the metric.
        compared: whether comparisons of runs show it.
    """

    column: str
    title: str
    label: str = ""
    drawn_as_error: bool = False
    compared: bool = True


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """A row of `TASKS`.

    Attributes:
        config: import path "MODULE:NAME" of the configuration, a dataclass of sections whose `task` is the row's key.
        task: import path of the `tasks.task.Task`.
        metrics: metrics of the task. The first decides the best checkpoint, the plateau schedule and comparisons.
    """

    config: str
    task: str
    metrics: tuple[Metric, ...]

    @property
    def config_type(self) -> type:
        """The configuration class."""
        return _imported(self.config)

    @property
    def task_type(self) -> type:
        """The `tasks.task.Task` subclass."""
        return _imported(self.task)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the metrics."""
        return tuple(metric.column for metric in self.metrics)


def _imported(path):
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


CLASSIFICATION = "classification"  # the task of manifests without one

TASKS = {
    CLASSIFICATION: TaskRow(
        config="resnet_tf.config.run:TrainConfig",
        task="resnet_tf.tasks.classification:Classification",
        metrics=(
            Metric("top1", "Top-1", label="top-1", drawn_as_error=True),
            Metric("top5", "Top-5", drawn_as_error=True),
        ),
    ),
    "segmentation": TaskRow(
        config="resnet_tf.config.segmentation:SegmentConfig",
        task="resnet_tf.tasks.segmentation:Segmentation",
        metrics=(
            Metric("miou", "Mean IoU", label="mIoU"),
            Metric("pixel_accuracy", "Pixel accuracy", label="pixel accuracy"),
        ),
    ),
    "detection": TaskRow(
        config="resnet_tf.config.detection:DetectConfig",
        task="resnet_tf.tasks.detection:Detection",
        metrics=(
            Metric("ap50", "AP50", label="AP50"),
            Metric("ap50_voc07", "AP50, VOC2007", compared=False),
            Metric("ap75", "AP75"),
            Metric("ap", "AP", label="AP"),
        ),
    ),
}
