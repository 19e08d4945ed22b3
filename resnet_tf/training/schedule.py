"""Learning rates as functions of the step, inside the compiled program."""

import dataclasses
import fractions
import math
from typing import NamedTuple

import tensorflow as tf

from resnet_tf.config import OptimizerConfig, ScheduleConfig

_POWER = 0.9  # of poly
_CYCLED = 0.1  # of the momentum in one cycle


class Anneal(NamedTuple):
    """A schedule that is flat or rises, and then falls by half a cosine: shares of the steps and of the highest rate.

    Attributes:
        share: share of the steps before the fall.
        first: learning rate of the first step over the highest one; 1 for a flat start, else it rises by half a cosine.
        last: learning rate of the end over the highest one.
    """

    share: float
    first: float
    last: float


ANNEALED = {"one_cycle": Anneal(0.3, 1 / 25, 1 / 250_000), "flat_cosine": Anneal(0.75, 1.0, 1e-5)}
DEPEND_ON_LENGTH = ("cosine", "poly", *ANNEALED)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """A learning rate that falls, after a warm-up. T is the number of steps after the warm-up, t the steps since.

    kind        learning rate
    steps       lr, multiplied by `factor` at each of `boundaries` (He et al. 2015, section 4.2: 0.1 at 32k and 48k)
    cosine      0.5 (1 + cos(t pi / T)) lr (Bag of Tricks, section 5.1)
    poly        (1 - t / T)^0.9 lr (DeepLab, Chen et al. 2016, section 4.1)
    plateau     lr, multiplied by `factor` where evaluations no longer get better; see `after_plateau`
    constant    lr
    one_cycle   half a cosine up from lr / 25 to lr over the first 30% of the steps, or over the warm-up where there is
                one, then half a cosine down to lr / 250,000 at the last step (Smith & Topin 2018, arXiv 1708.07120)
    flat_cosine lr for 75% of the steps, warm-up included, then half a cosine down to lr / 100,000 (fit_flat_cos of
                fastai, by Mikhail Grankin)

    The paper's one-cycle policy is linear, with a third phase down to nearly 0. Two phases of cosines are what fastai
    and PyTorch's OneCycleLR made of it, whose shares and divisors these are. The momentum goes the other way, as in
    both: it is that of the optimizer at the ends, and 0.1 less where the learning rate is highest (the paper's 0.95 and
    0.85); see `momentum_shift`.

    Linear warm-up (Goyal et al. 2017; Bag of Tricks, section 3.1): of its m steps the i-th, i from 1, has i / m of
    the learning rate. Warm-up of ResNet-110 (He et al. 2015): another learning rate until the training error is below
    80%, about 400 steps. It is that of whole epochs here; see `advance`.

    Attributes:
        lr: the highest learning rate.
        kind: "steps", "cosine", "poly", "plateau", "constant", "one_cycle" or "flat_cosine".
        boundaries: for steps: the steps at which the learning rate falls.
        factor: for steps and plateau: what each fall multiplies the learning rate by.
        total: for kinds of `DEPEND_ON_LENGTH`: steps of the training.
        warmup: steps of the linear warm-up; for one_cycle: of the rise.
        warmup_lr: learning rate of the other warm-up.
        warmup_until_error: mean top-1 error of an epoch, in [0, 1], below which the other warm-up ends; 0 for none.
        epoch: steps of an epoch, for `warmup_until_error`.
    """

    lr: float
    kind: str = "steps"
    boundaries: tuple[int, ...] = ()
    factor: float = 0.1
    total: int = 0
    warmup: int = 0
    warmup_lr: float = 0.0
    warmup_until_error: float = 0.0
    epoch: int = 1

    def initial_state(self) -> dict[str, float]:
        """Return the scalars that the schedule carries from step to step: {name: float}."""
        state = {"error": 0.0, "warming": 1.0} if self.warmup_until_error else {}
        return state | ({"falls": 0.0, "best_error": 1.0, "waited": 0.0} if self.kind == "plateau" else {})

    def lr_of(self, step: tf.Tensor, state: dict) -> tf.Tensor:
        """Return the learning rate of a step.

        Args:
            step: int64 scalar tensor, from 0.
            state: of the schedule, before the step.

        Returns:
            float32 scalar tensor.
        """
        lr = tf.constant(self.lr, tf.float32)
        if self.kind in ANNEALED:
            lr *= self._annealed(step, ANNEALED[self.kind].first, 1.0, ANNEALED[self.kind].last)
        elif self.kind in ("cosine", "poly"):
            done = tf.cast(step - self.warmup, tf.float32) / max(1, self.total - self.warmup)
            done = tf.clip_by_value(done, 0.0, 1.0)
            lr *= 0.5 * (1 + tf.cos(math.pi * done)) if self.kind == "cosine" else tf.pow(1 - done, _POWER)
        elif self.kind == "plateau":
            lr *= tf.pow(tf.constant(self.factor, tf.float32), state["falls"])
        else:
            falls = tf.add_n([tf.cast(step >= boundary, tf.float32) for boundary in self.boundaries] or [tf.zeros([])])
            lr *= tf.pow(tf.constant(self.factor, tf.float32), falls)
        if self.warmup and self.kind != "one_cycle":
            lr *= tf.minimum(1.0, tf.cast(step + 1, tf.float32) / self.warmup)
        return tf.where(state["warming"] > 0, self.warmup_lr, lr) if self.warmup_until_error else lr

    def momentum_shift(self, step: tf.Tensor) -> tf.Tensor | None:
        """Return what to add to the optimizer's momentum at a step, float32 from -0.1 to 0; None where it is constant.

        Args:
            step: int64 scalar tensor, from 0.
        """
        return self._annealed(step, 0.0, -_CYCLED, 0.0) if self.kind == "one_cycle" else None

    def _annealed(self, step, first, highest, last):
        """Return a value at a step that goes by half cosines as the learning rate does, of the kinds of `ANNEALED`.

        It is `first` at the first step, `highest` before the fall of the learning rate, and `last` at the end.
        """
        anneal, step = ANNEALED[self.kind], tf.cast(step, tf.float32)
        if self.kind == "one_cycle":  # the highest and the last rate are those of a step, as in OneCycleLR
            top, end = (self.warmup or anneal.share * self.total) - 1, self.total - 1
        else:
            top, end = anneal.share * self.total, self.total

        def between(start, stop, first, last):
            done = tf.clip_by_value((step - start) / max(1e-9, stop - start), 0.0, 1.0)
            return last + (first - last) * 0.5 * (1 + tf.cos(math.pi * done))

        return tf.where(step < top, between(0, top, first, highest), between(top, end, highest, last))

    def advance(self, step: tf.Tensor, state: dict, error: tf.Tensor) -> dict:
        """Return the state after a step.

        The warm-up of He et al. 2015 lasts until the training error is below 80%, about 400 steps, which is an epoch. A
        mean over 50 steps falls below it after about 90, when a rate of 0.1 still kills channels of 110 layers. So the
        error is that of whole epochs.

        Args:
            step: int64 scalar tensor, from 0.
            state: before the step: "error" is the sum of the errors since the epoch began.
            error: training error of the step, in [0, 1].
        """
        state = {name: state[name] for name in self.initial_state()}
        if not self.warmup_until_error:
            return state
        summed = state["error"] + error
        ends = tf.equal((step + 1) % self.epoch, 0)
        done = ends & (summed / self.epoch < self.warmup_until_error)
        return state | {
            "error": tf.where(ends, 0.0, summed),
            "warming": tf.where(done, 0.0, state["warming"]),
        }


def after_plateau(state: dict, error: float, patience: int) -> dict:
    """Return the state of a plateau schedule after an evaluation.

    Args:
        state: {"falls", "best_error", "waited"}: Python numbers.
        error: of the evaluation, in [0, 1]; of validation or training data, never of the test split.
        patience: evaluations without a lower error until the learning rate falls.
    """
    if error < state["best_error"]:
        return {"falls": state["falls"], "best_error": error, "waited": 0.0}
    waited = state["waited"] + 1
    if waited >= patience:
        return {"falls": state["falls"] + 1, "best_error": state["best_error"], "waited": 0.0}
    return {"falls": state["falls"], "best_error": state["best_error"], "waited": waited}


def total_steps(config: OptimizerConfig, examples: int) -> int:
    """Return the number of steps of a training; the last step may end after the last epoch.

    The number is exact, computed from the decimals of --train_epochs. Earlier releases computed it in floating point,
    which made some trainings one step too long. Such a run keeps that step if it has done it, and otherwise ends
    without it.

    Args:
        config: an `OptimizerConfig`.
        examples: number of examples in the training split.
    """
    epochs = fractions.Fraction(str(config.train_epochs))
    return config.train_steps or math.ceil(epochs * examples / config.batch_size)


def from_config(config: ScheduleConfig, batch_size: int, steps_per_epoch: float, total: int) -> Schedule:
    """Return the schedule that a `ScheduleConfig` describes.

    Args:
        config: the section of the configuration.
        batch_size: of a global batch.
        steps_per_epoch: float, examples over batch size.
        total: steps of the training.
    """
    return Schedule(
        lr=config.lr * (batch_size / 256 if config.linear_scaling else 1),
        kind=config.schedule,
        boundaries=config.lr_steps or tuple(round(epoch * steps_per_epoch) for epoch in config.lr_epochs),
        factor=config.lr_factor,
        total=total,
        warmup=round(config.warmup_epochs * steps_per_epoch),
        warmup_lr=config.warmup_lr,
        warmup_until_error=config.warmup_until_error,
        epoch=max(1, round(steps_per_epoch)),
    )
