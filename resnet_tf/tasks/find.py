"""Find the task of a configuration or a run folder in the table `config.TASKS`, and evaluate or export by it."""

from resnet_tf.config import CLASSIFICATION, TASKS
from resnet_tf.runs import record


def of(config):
    """Return the `task.Task` of a training configuration, shrunk if its --smoke is set.

    Raises:
        InputError: flags that cannot work.
    """
    return TASKS[config.task].task_type(config)


def type_of_run(folder) -> type:
    """Return the task class of a run folder, the value of --run.

    Raises:
        InputError: no such folder, or not a run folder.
    """
    return TASKS[record.open_run(folder, tasks=tuple(TASKS)).config.task].task_type


def evaluate(config) -> dict:
    """Score the run, exported model or network that a `config.EvaluateConfig` names; see `Task.evaluate`."""
    first = config.evaluation.run.split(",")[0]
    task_type = type_of_run(first) if first else TASKS[CLASSIFICATION].task_type
    return task_type.evaluate(config)


def export(config) -> dict:
    """Export the run of any task, or the network, that a `config.ExportConfig` names; see `Task.export`."""
    task_type = TASKS[CLASSIFICATION].task_type if getattr(config, "network", "") else type_of_run(config.run)
    return task_type.export(config)
