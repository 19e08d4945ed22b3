"""Train the task of a configuration, choosing what --auto names, and say in words how it ended."""

from collections.abc import Sequence

from resnet_tf.data import progress
from resnet_tf.data.splits import Source
from resnet_tf.runs import devices, record
from resnet_tf.tasks import find
from resnet_tf.training import choices, loop


def train(config, source: Source | None = None, callbacks: Sequence[loop.Callback] = ()) -> dict:
    """Train, evaluate and record a run; see `loop.train`.

    Args:
        config: the configuration of a training of any task.
        source: data from Python; None for those of the configuration.
        callbacks: hooks of the training.
    """
    choice = None
    if choices.wanted(config):
        choice = choices.choose(config, source)
        config = choice.config
        for line in (*map("warning: {}".format, choice.warnings), *choices.described(choice.reasons)):
            progress.say(line)
    task = find.of(config)
    result = loop.train(task, source, callbacks, choice)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)  # the same one as in training
    if not config.record.debug_step and devices.worker(strategy) == 0:  # the machine that wrote the run
        for line in task.conclude(record.open_run(result["run"], tasks=(config.task,)), result):
            progress.say(line)
    return result
