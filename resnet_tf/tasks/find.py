"""From a configuration or a run's folder to its task, by the table `config.TASKS`."""

from resnet_tf.config import CLASSIFICATION, TASKS
from resnet_tf.runs import record


def of(config):
    """Return the `task.Task` of a configuration, shrunk where its --smoke is set.

    Args:
        config: the configuration of a training, of any task.

    Raises:
        InputError: flags that cannot work.
    """
    return TASKS[config.task].task_type(config)


def type_of_run(folder):
    """Return the class of the task that a run was trained for.

    Args:
        folder: of the run, as --run names it.

    Raises:
        InputError: no such folder, or not a run's.
    """
    return TASKS[record.open_run(folder, tasks=tuple(TASKS)).config.task].task_type


def evaluate(config):
    """Score what a `config.EvaluateConfig` names: a run of any task, else a network that classifies.

    Returns:
        What the `evaluate` of the task returns.

    Raises:
        InputError: as the `evaluate` of the task.
    """
    first = config.evaluation.run.split(",")[0]
    task_type = type_of_run(first) if first else TASKS[CLASSIFICATION].task_type
    return task_type.evaluate(config)


def export(config):
    """Export the run that a `config.ExportConfig` names, of any task.

    Returns:
        What the `export` of the task returns.

    Raises:
        InputError: as the `export` of the task.
    """
    return type_of_run(config.run).export(config)
