"""Lengthen a run that is in its folder: --extend."""

import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.runs import record
from resnet_tf.training import schedule


def lengthened(run, config) -> str:
    """Return the length of a recorded run where --extend asks for a longer one, such as "--train_epochs=10"; else "".

    Raises:
        InputError: the new length is not longer, or in another unit.
    """
    theirs, ours = (_length(one.optimizer) for one in (run.config, config))
    if not config.record.extend or theirs == ours:
        return ""
    where = f"--out={run.folder}: a run of {theirs}, not of {ours}"
    if theirs.partition("=")[0] != ours.partition("=")[0]:
        raise InputError(f"{where}: --extend keeps the unit of the length")
    if any(getattr(run.config.optimizer, name) > getattr(config.optimizer, name) for name in record.LENGTHS):
        raise InputError(f"{where}: --extend makes runs longer, not shorter")
    return theirs


def _length(optimizer):
    name = "train_steps" if optimizer.train_steps else "train_epochs"
    return f"--{name}={configuration.listed([getattr(optimizer, name)])}"


def consequence(config, step: int, before, after) -> str:
    """Return in a sentence whether a lengthened run is what a run of the new length would have been.

    Args:
        config: the new configuration.
        step: of the checkpoint that the run goes on from.
        before: `schedule.Schedule` of the recorded length.
        after: `schedule.Schedule` of the new one.
    """
    if config.optimizer.precise_bn and step >= before.total > 0:
        return "its BN statistics are those of --precise_bn at the old end: not the same as a run of the new length"
    if getattr(config.views, "progressive", ()):
        return "the sizes of --progressive depend on the length: not the same as a run of the new length"
    if after.kind in schedule.DEPEND_ON_LENGTH:
        return (
            f"--schedule={after.kind} depends on the length: not the same as a run of the new length. The learning "
            f"rate of the last step was {_lr(before, max(step - 1, 0)):.3g} and the next one is {_lr(after, step):.3g}"
        )
    return f"exactly as a run of the new length, since --schedule={after.kind} does not depend on it"


def _lr(rates, step):
    return float(rates.lr_of(tf.constant(step, tf.int64), rates.initial_state()))
