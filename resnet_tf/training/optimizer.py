"""Optimizers as the papers have them, on plain tensors, and the loss scale of float16.

Each optimizer is a frozen dataclass with `slots`, the names of the tensors that it keeps for every weight;
`elementwise`, whether it updates each element of a decaying weight without looking at the others; and `update`, a pure
function. SGD and Adam add the L2 penalty to the gradient, so that momentum sees it; AdamW and LAMB decouple it.
"""

import dataclasses

import keras
import tensorflow as tf

from resnet_tf.config import PRECISIONS, OptimizerConfig
from resnet_tf.models import inside


def decayed(model: keras.Model, decay: str) -> list[bool]:
    """Return which variables weight decay applies to, by their role in their layer and never by name.

    Args:
        model: a `keras.Model`.
        decay: "kernels" for those of convolutions and dense layers, "all" or "none".

    Returns:
        A list of bool, one for each of `model.trainable_variables`.
    """
    kernels = {id(layer.kernel) for layer in model.layers if getattr(layer, "kernel", None) is not None}
    rules = {"kernels": lambda variable: id(variable) in kernels, "all": lambda _: True, "none": lambda _: False}
    return [rules[decay](variable) for variable in model.trainable_variables]


def scaled(model: keras.Model, layer_decay: float) -> list[float] | tuple[()]:
    """Return factors of the learning rate by depth: each part has `layer_decay` times the factor of the next part.

    Source: Clark et al. 2020, ELECTRA, section A.2.

    Args:
        model: of `create_model`.
        layer_decay: in [0, 1].

    Returns:
        A list of numbers, one for each of `model.trainable_variables`; () where all are 1.
    """
    if layer_decay == 1:
        return ()
    depths = inside.depths(model)
    return [layer_decay ** depths[inside.part(variable.path)] for variable in model.trainable_variables]


def _lrs(optimizer, lr):
    """Return the learning rate of each weight."""
    return [lr * scale for scale in optimizer.scales] if optimizer.scales else [lr] * len(optimizer.decay)


@dataclasses.dataclass(frozen=True)
class SGD:
    """Momentum: v <- m v + g + decay w; w <- w - lr v. Nesterov: w <- w - lr (g + decay w + m v).

    The learning rate stands outside the momentum, as in Torch and PyTorch. Keras and Caffe have it inside, which
    differs in the few steps after it changes.

    Attributes:
        momentum: in [0, 1].
        nesterov: whether to use Nesterov's form.
        weight_decay: L2 penalty.
        decay: for each weight, whether the penalty applies to it.
        scales: for each weight, the factor of its learning rate; () for 1.
    """

    momentum: float
    nesterov: bool
    weight_decay: float
    decay: tuple[bool, ...]
    scales: tuple[float, ...] = ()

    slots = ("momentum",)
    elementwise = True

    def shifted(self, shift: tf.Tensor) -> "SGD":
        """Return the optimizer with another momentum, from 0: `shift`, a float32 scalar tensor, is added to it."""
        return dataclasses.replace(self, momentum=tf.maximum(self.momentum + shift, 0.0))

    def update(
        self, weights: list, slots: dict, gradients: list, lr: tf.Tensor, applied: tf.Tensor
    ) -> tuple[list, dict]:
        """Return the weights and slots after one step.

        Args:
            weights: list of float32 tensors.
            slots: {"momentum": list of tensors of the same shapes}.
            gradients: list of tensors of the same shapes.
            lr: float32 scalar tensor.
            applied: int64 scalar tensor, the number of updates before this one.
        """
        new_weights, new_momenta = [], []
        rows = zip(weights, slots["momentum"], gradients, self.decay, _lrs(self, lr), strict=True)
        for weight, momentum, gradient, decay, own_lr in rows:
            if decay and self.weight_decay:
                gradient = gradient + self.weight_decay * weight
            momentum = self.momentum * momentum + gradient
            direction = gradient + self.momentum * momentum if self.nesterov else momentum
            new_momenta.append(momentum)
            new_weights.append(weight - own_lr * direction)
        return new_weights, {"momentum": new_momenta}


@dataclasses.dataclass(frozen=True)
class Adam:
    """Adam (Kingma & Ba 2015, algorithm 1): L2 in the gradient, or decoupled (AdamW, Loshchilov & Hutter 2019).

    m <- b1 m + (1 - b1) g; v <- b2 v + (1 - b2) g^2; w <- w - lr m' / (sqrt(v') + eps), m' and v' corrected for
    their start at 0. Decoupled: w <- w - lr decay w besides, as in PyTorch.

    Attributes:
        beta1: decay of the mean of gradients.
        weight_decay: L2 penalty, or the decoupled decay.
        decay: for each weight, whether it decays.
        decoupled: AdamW.
        beta2: decay of the mean of their squares.
        epsilon: added to the root.
        scales: see `SGD`.
    """

    beta1: float
    weight_decay: float
    decay: tuple[bool, ...]
    decoupled: bool = False
    beta2: float = 0.999
    epsilon: float = 1e-8
    scales: tuple[float, ...] = ()

    slots = ("mean", "square")
    elementwise = True

    def shifted(self, shift: tf.Tensor) -> "Adam":
        """Return the optimizer with another beta 1; see `SGD.shifted`."""
        return dataclasses.replace(self, beta1=tf.maximum(self.beta1 + shift, 0.0))

    def update(
        self, weights: list, slots: dict, gradients: list, lr: tf.Tensor, applied: tf.Tensor
    ) -> tuple[list, dict]:
        """Return the weights and slots after one step; see `SGD.update`."""
        new_weights, means, squares = [], [], []
        directions = self._directions(weights, slots, gradients, applied)
        for (weight, decay, direction, mean, square), own_lr in zip(directions, _lrs(self, lr), strict=True):
            if decay and self.decoupled:
                direction = direction + self.weight_decay * weight
            new_weights.append(weight - own_lr * direction)
            means.append(mean)
            squares.append(square)
        return new_weights, {"mean": means, "square": squares}

    def _directions(self, weights, slots, gradients, applied):
        count = tf.cast(applied + 1, tf.float32)
        correct1, correct2 = 1 - tf.pow(self.beta1, count), 1 - tf.pow(self.beta2, count)
        rows = zip(weights, gradients, self.decay, slots["mean"], slots["square"], strict=True)
        for weight, gradient, decays, mean, square in rows:
            decay = decays and self.weight_decay > 0
            if decay and not self.decoupled:
                gradient = gradient + self.weight_decay * weight
            mean = self.beta1 * mean + (1 - self.beta1) * gradient
            square = self.beta2 * square + (1 - self.beta2) * tf.square(gradient)
            direction = (mean / correct1) / (tf.sqrt(square / correct2) + self.epsilon)
            yield weight, decay, direction, mean, square


@dataclasses.dataclass(frozen=True)
class LAMB(Adam):
    """LAMB (You et al. 2020, algorithm 2): Adam's step of each layer scaled to the norm of the layer's weights.

    r = m' / (sqrt(v') + eps) + decay w; w <- w - lr |w| / |r| r, the ratio 1 where either norm is 0. Weights that do
    not decay (biases, gamma, beta) take Adam's step unscaled, as in timm.
    """

    decoupled: bool = True
    epsilon: float = 1e-6

    elementwise = False  # it needs the norm of each weight

    def update(
        self, weights: list, slots: dict, gradients: list, lr: tf.Tensor, applied: tf.Tensor
    ) -> tuple[list, dict]:
        """Return the weights and slots after one step; see `SGD.update`."""
        new_weights, means, squares = [], [], []
        directions = self._directions(weights, slots, gradients, applied)
        for (weight, decay, direction, mean, square), own_lr in zip(directions, _lrs(self, lr), strict=True):
            if decay:
                direction = direction + self.weight_decay * weight
                size, length = tf.norm(weight), tf.norm(direction)
                ratio = tf.where((size > 0) & (length > 0), size / tf.maximum(length, 1e-30), 1.0)
                direction = ratio * direction
            new_weights.append(weight - own_lr * direction)
            means.append(mean)
            squares.append(square)
        return new_weights, {"mean": means, "square": squares}


@dataclasses.dataclass(frozen=True)
class Muon(Adam):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon) for matrices, and AdamW for other weights.

    Matrices: v <- m v + g; w <- w - lr decay w - lr 0.2 sqrt(max(rows, columns)) O(g + m v), where O takes five steps
    of a quintic Newton-Schulz iteration towards the nearest matrix with orthonormal rows or columns. The factor makes
    a step as large as AdamW's (Liu et al. 2025, arXiv 2502.16982, equation 4), so that both share learning rate and
    decay. The kernel of a convolution is a matrix of [height x width x inputs, filters]; see `matrices`.

    The mathematics is `keras.optimizers.Muon` of Keras 3.15. That class as it is takes AdamW's step for all variables
    that have not two dimensions (`_should_use_adamw`): for all convolutions, and Muon's for the classifier.

    Attributes:
        beta1: of AdamW's steps.
        matrices: for each weight, whether it takes Muon's step; "mean" is then its v, and "square" stays 0.
        momentum: m, in [0, 1]; 0.95 in the source.
        functions: Keras' optimizer, for its methods. It has variables, which a compiled step cannot create: None to
            create it here.
    """

    decoupled: bool = True
    epsilon: float = 1e-7  # Keras'
    matrices: tuple[bool, ...] = ()
    momentum: float = 0.95
    functions: keras.optimizers.Muon | None = None

    def __post_init__(self):
        """Create Keras' optimizer."""
        object.__setattr__(self, "functions", self.functions or keras.optimizers.Muon())

    def shifted(self, shift: tf.Tensor) -> "Muon":
        """Return the optimizer with another momentum of matrices; see `SGD.shifted`."""
        return dataclasses.replace(self, momentum=tf.maximum(self.momentum + shift, 0.0))

    def update(
        self, weights: list, slots: dict, gradients: list, lr: tf.Tensor, applied: tf.Tensor
    ) -> tuple[list, dict]:
        """Return the weights and slots after one step; see `SGD.update`."""
        new_weights, means, squares = [], [], []
        directions = self._directions(weights, slots, gradients, applied)
        rows = zip(directions, self.matrices, gradients, slots["mean"], slots["square"], _lrs(self, lr), strict=True)
        for (weight, decay, direction, mean, square), is_matrix, gradient, old_mean, old_square, own_lr in rows:
            if is_matrix:
                mean, square = self.momentum * old_mean + gradient, old_square
                matrix = tf.reshape(gradient + self.momentum * mean, [-1, weight.shape[-1]])
                matrix = self.functions.zeropower_via_newtonschulz5(matrix, self.functions.ns_steps)
                direction = tf.reshape(self.functions.lr_adjust(matrix), weight.shape)
            if decay:
                direction = direction + self.weight_decay * weight
            new_weights.append(weight - own_lr * direction)
            means.append(mean)
            squares.append(square)
        return new_weights, {"mean": means, "square": squares}


def matrices(model: keras.Model) -> list[bool]:
    """Return which variables take the step of `Muon`: kernels of convolutions after the stem.

    The source keeps the first and the last layer out, and all vectors.

    Args:
        model: of `create_model`.

    Returns:
        A list of bool, one for each of `model.trainable_variables`.
    """
    kernels = {id(layer.kernel) for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}
    return [id(variable) in kernels and inside.part(variable.path) != "stem" for variable in model.trainable_variables]


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

    def initial_state(self) -> dict[str, float]:
        """Scalars that are carried from step to step: {name: float}."""
        return {"scale": self.initial, "good_steps": 0.0, "skipped_steps": 0.0}

    def advance(self, state: dict, is_finite: tf.Tensor) -> dict:
        """Return the state after a step.

        Args:
            state: {name: float32 scalar tensor}.
            is_finite: bool scalar tensor, whether all of the summed gradient was finite.
        """
        good = tf.where(is_finite, state["good_steps"] + 1, 0.0)
        grow = good >= self.growth_steps
        scale = tf.where(is_finite, tf.where(grow, state["scale"] * 2, state["scale"]), state["scale"] / 2)
        return {
            "scale": tf.clip_by_value(scale, 1.0, 2.0**24),
            "good_steps": tf.where(grow, 0.0, good),
            "skipped_steps": state["skipped_steps"] + tf.where(is_finite, 0.0, 1.0),
        }


def from_config(config: OptimizerConfig, model: keras.Model) -> SGD | Adam | LAMB | Muon:
    """Return the optimizer that an `OptimizerConfig` describes, for the weights of `model`."""
    decay, penalty = tuple(decayed(model, config.decay)), config.weight_decay
    scales = tuple(scaled(model, config.layer_decay))
    kinds = {
        "sgd": lambda: SGD(config.momentum, False, penalty, decay, scales),
        "nesterov": lambda: SGD(config.momentum, True, penalty, decay, scales),
        "adam": lambda: Adam(config.momentum, penalty, decay, scales=scales),
        "adamw": lambda: Adam(config.momentum, penalty, decay, decoupled=True, scales=scales),
        "lamb": lambda: LAMB(config.momentum, penalty, decay, scales=scales),
        "muon": lambda: Muon(
            0.9, penalty, decay, scales=scales, matrices=tuple(matrices(model)), momentum=config.momentum
        ),
    }
    return kinds[config.optimizer]()


def loss_scale_of(precision: str) -> LossScale | None:
    """Return the `LossScale` that a --precision needs, or None."""
    return LossScale() if PRECISIONS[precision].is_scaled else None


def clip(gradients: list[tf.Tensor], norm: tf.Tensor, limit: float) -> list[tf.Tensor]:
    """Scale gradients so that their common norm is at most `limit` (Pascanu 2013).

    Args:
        gradients: list of tensors.
        norm: their global norm, a scalar tensor.
        limit: a Python number; 0 for none.
    """
    if not limit:
        return gradients
    factor = tf.minimum(1.0, limit / tf.maximum(norm, 1e-30))
    return [gradient * factor for gradient in gradients]
