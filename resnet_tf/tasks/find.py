"""From a configuration or a run's folder to its task, by the table `config.TASKS`."""

from resnet_tf.config import TASKS
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
