"""SGD as the papers have it: L2 in the gradient, so that the momentum sees it."""

import dataclasses

import tensorflow as tf


def decayed(model, decay):
    """Which variables the weight decay applies to, by their role in their layer and never by name.

    Args:
        model: a `keras.Model`.
        decay: "kernels" (of convolutions and dense layers), "all" or "none".

    Returns:
        A list of bool, one for each of `model.trainable_variables`.
    """
    kernels = {id(layer.kernel) for layer in model.layers if getattr(layer, "kernel", None) is not None}
    chosen = {"kernels": lambda variable: id(variable) in kernels, "all": lambda _: True, "none": lambda _: False}
    return [chosen[decay](variable) for variable in model.trainable_variables]


@dataclasses.dataclass(frozen=True)
class SGD:
    """Momentum: v <- m v + g + decay w; w <- w - lr v. Nesterov: w <- w - lr (g + decay w + m v).

    The rate stands outside the momentum, as in Torch and PyTorch; Keras and Caffe have it inside,
    which differs in the few steps after the rate changes.

    Attributes:
        momentum: in [0, 1].
        nesterov: the other form.
        weight_decay: L2 penalty.
        decay: for each weight, whether the penalty applies to it.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    decay: tuple[bool, ...]

    slots = ("momentum",)  # one tensor of each kind for every weight

    def update(self, weights, slots, gradients, rate):
        """One step.

        Args:
            weights: list of float32 tensors.
            slots: {"momentum": list of tensors of the same shapes}.
            gradients: list of tensors of the same shapes.
            rate: float32 scalar tensor.

        Returns:
            New weights and new slots.
        """
        new_weights, new_momenta = [], []
        for weight, momentum, gradient, decay in zip(weights, slots["momentum"], gradients, self.decay, strict=True):
            if decay and self.weight_decay:
                gradient = gradient + self.weight_decay * weight
            momentum = self.momentum * momentum + gradient
            direction = gradient + self.momentum * momentum if self.nesterov else momentum
            new_momenta.append(momentum)
            new_weights.append(weight - rate * direction)
        return new_weights, {"momentum": new_momenta}


@dataclasses.dataclass(frozen=True)
class LossScale:
    """Dynamic loss scale of float16 training, decided on the gradients summed over replicas.

    A step whose gradient is not finite is skipped on every replica alike, and the scale halved;
    after `growth_steps` good steps in a row it doubles.

    Attributes:
        initial: scale at the start.
        growth_steps: good steps until it doubles.
    """

    initial: float = 2.0**15
    growth_steps: int = 2000

    def initial_state(self):
        """Scalars that are carried from step to step: {name: float}."""
        return {"scale": self.initial, "good_steps": 0.0, "skipped_steps": 0.0}

    def advance(self, state, finite):
        """State after a step.

        Args:
            state: float32 scalar tensors by name.
            finite: bool scalar tensor, whether the summed gradient was.
        """
        good = tf.where(finite, state["good_steps"] + 1, 0.0)
        grow = good >= self.growth_steps
        scale = tf.where(finite, tf.where(grow, state["scale"] * 2, state["scale"]), state["scale"] / 2)
        return {
            "scale": tf.clip_by_value(scale, 1.0, 2.0**24),
            "good_steps": tf.where(grow, 0.0, good),
            "skipped_steps": state["skipped_steps"] + tf.where(finite, 0.0, 1.0),
        }


def from_config(config, model):
    """The optimizer that an `OptimizerConfig` describes, for the weights of `model`."""
    return SGD(config.momentum, config.nesterov, config.weight_decay, tuple(decayed(model, config.decay)))
