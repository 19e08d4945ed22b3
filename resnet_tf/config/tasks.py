"""The one table of tasks: how each is configured, who does its work, and the numbers that it is scored by.

The rows are data, so that every room may read them: classes of rooms above this one are import paths, and are imported
when they are asked for. A new task is a module with a `tasks.task.Task`, and a row here.
"""

import dataclasses
import importlib


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that a task is scored by: a fraction, the higher the better.

    Attributes:
        column: its column in metrics.csv and its key in evaluation.json.
        title: what tables and pictures call it.
        label: what lines of progress call it; "" where they leave it out.
        drawn_as_error: whether curves show what is missing to 1.
        compared: whether comparisons of runs show it.
    """

    column: str
    title: str
    label: str = ""
    drawn_as_error: bool = False
    compared: bool = True


@dataclasses.dataclass(frozen=True)
class TaskRow:
    """A task.

    Attributes:
        config: import path of its configuration, "MODULE:NAME": a dataclass of sections whose `task` is the row's key.
        task: import path of its `tasks.task.Task`.
        metrics: of a score. Best checkpoints, a plateau and comparisons go by the first.
    """

    config: str
    task: str
    metrics: tuple[Metric, ...]

    @property
    def config_type(self) -> type:
        """The class of its configuration."""
        return _imported(self.config)

    @property
    def task_type(self) -> type:
        """The class that does its work."""
        return _imported(self.task)

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of its metrics."""
        return tuple(metric.column for metric in self.metrics)


def _imported(path):
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)


CLASSIFICATION = "classification"  # the task of a manifest that names none

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
