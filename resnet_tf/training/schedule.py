"""Learning rates as functions of the step, inside the compiled program."""

import dataclasses

import tensorflow as tf

_MEMORY = 0.98  # of the running training error: about 50 steps


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A rate that falls at given steps, after a warm-up that lasts until the training error has fallen.

    He et al. 2015, section 4.2: 0.1, divided by 10 at 32k and 48k steps; for ResNet-110, 0.01 until
    the training error is below 80% (about 400 steps), then on as before.

    Attributes:
        lr: rate at the start.
        boundaries: steps from which on the rate is multiplied by `factor` once more.
        factor: of each fall.
        warmup_lr: rate of the warm-up.
        warmup_until_error: top-1 error in [0, 1] that ends it; 0 for no warm-up.
    """

    lr: float
    boundaries: tuple[int, ...] = ()
    factor: float = 0.1
    warmup_lr: float = 0.0
    warmup_until_error: float = 0.0

    def initial_state(self):
        """Scalars that the schedule carries from step to step: {name: float}."""
        return {"error": 1.0, "warming": 1.0} if self.warmup_until_error else {}

    def rate(self, step, state):
        """Rate of a step.

        Args:
            step: int64 scalar tensor, from 0.
            state: of the schedule, before the step.

        Returns:
            float32 scalar tensor.
        """
        falls = tf.add_n([tf.cast(step >= boundary, tf.float32) for boundary in self.boundaries] or [tf.zeros([])])
        rate = self.lr * tf.pow(tf.constant(self.factor, tf.float32), falls)
        return tf.where(state["warming"] > 0, self.warmup_lr, rate) if state else rate

    def advance(self, state, error):
        """State after a step whose training error in [0, 1] is given."""
        if not state:
            return {}
        average = _MEMORY * state["error"] + (1 - _MEMORY) * error
        still = tf.cast(average >= self.warmup_until_error, tf.float32)
        return {"error": average, "warming": state["warming"] * still}


def from_config(config, steps_per_epoch):
    """The schedule that an `OptimizerConfig` describes.

    Args:
        config: the section of the configuration.
        steps_per_epoch: float, examples over batch size.
    """
    boundaries = config.lr_steps or tuple(round(epoch * steps_per_epoch) for epoch in config.lr_epochs)
    return Schedule(config.lr, boundaries, config.lr_factor, config.warmup_lr, config.warmup_until_error)
