"""Losses of classification: of labels, mixed targets and a teacher's logits. Logits and losses are float32."""

import csv
import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from resnet_tf.config import LossConfig
from resnet_tf.errors import InputError

_PRESENT = 0.2  # the target above which bce takes a class for present; --bce-target-thresh of timm's A recipes

# Of the losses that bear wrong labels, as their papers have them for CIFAR-10.
_TRUSTED = {"bootstrap_hard": 0.8, "bootstrap_soft": 0.95}  # beta: weight of the targets
_POWER = 0.7  # q of gce
_CE_WEIGHT, _RCE_WEIGHT, _LOG_OF_ZERO = 0.1, 1.0, -4.0  # alpha, beta and A of sce


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of each example.

    softmax: the cross-entropy of the targets. bce: the mean over classes of binary cross-entropies; a class counts as
    present where its target is above 0.2 (ResNet strikes back, Wightman et al. 2021).

    Four bear wrong labels. With p the probabilities and t the targets, summed over the classes:

    kind            loss
    bootstrap_hard  -(0.8 t + 0.2 z) log p, with z 1 for the likeliest class (Reed et al. 2014, equation 7)
    bootstrap_soft  -(0.95 t + 0.05 p) log p, also where p is differentiated (equation 6)
    gce             t (1 - p^0.7) / 0.7 (generalized cross-entropy, Zhang and Sabuncu 2018, equation 6)
    sce             -0.1 t log p - p log t, where log t is at least -4 (symmetric cross-entropy, Wang et al. 2019,
                    equations 5 to 7)

    The numbers are the papers' for CIFAR-10. Targets that are smoothed, or mixed by mixup and CutMix, are put into the
    same formulas; gce and the bootstrapping losses are then the mean over the labels, weighted by the targets.

    Attributes:
        kind: "softmax", "bce", or one of the table.
        smoothing: e. The label's target is 1 - e + e/K, that of every other class e/K. Bag of Tricks, equation 4,
            writes e/(K - 1) for the others; its code in GluonCV and Keras have e/K, as here.
        temperature: T of distillation.
        distillation: weight of the teacher's term, T^2 CE(softmax(r/T), softmax(z/T)); 1 in Bag of Tricks, section 5.3.
        class_weights: for softmax: factor of each class's term of the cross-entropy, as in PyTorch's; () for 1.
    """

    kind: str = "softmax"
    smoothing: float = 0.0
    temperature: float = 20.0
    distillation: float = 1.0
    class_weights: tuple[float, ...] = ()

    def targets(self, labels: tf.Tensor, classes: int) -> tf.Tensor:
        """Return float32 targets [n, classes] for int32 labels [n]."""
        targets = tf.one_hot(labels, classes)
        return targets * (1 - self.smoothing) + self.smoothing / classes if self.smoothing else targets

    def __call__(self, logits, targets, teacher=None):
        """Return the loss of each example.

        Args:
            logits: float32 [n, classes].
            targets: float32 [n, classes]; mixed where images are mixed.
            teacher: float32 [n, classes], a teacher's logits for the same images; None for no teacher.

        Returns:
            float32 [n], in nats.
        """
        if self.kind == "bce":
            present = tf.cast(targets > _PRESENT, tf.float32)
            losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(present, logits), axis=1)
        elif self.kind != "softmax":
            losses = _bearing_noise(self.kind, logits, targets)
        elif self.class_weights:
            # Written out, since the gradient of TensorFlow's operation holds only for targets with the sum 1.
            losses = -tf.reduce_sum(targets * self.class_weights * tf.nn.log_softmax(logits), axis=1)
        else:
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        if teacher is not None:
            soft = tf.nn.softmax(teacher / self.temperature)
            taught = tf.nn.softmax_cross_entropy_with_logits(soft, logits / self.temperature)
            losses += self.distillation * self.temperature**2 * taught
        return losses

    def metrics(self, logits: tf.Tensor, labels: tf.Tensor) -> dict[str, tf.Tensor]:
        """Return for each example whether no other class, or fewer than five others, score as high as its own.

        Args:
            logits: float32 [n, classes].
            labels: int32 [n].

        Returns:
            {"top1", "top5": float32 [n], 0 or 1}.
        """
        ranks = rank(logits, labels)
        return {"top1": tf.cast(ranks < 2, tf.float32), "top5": tf.cast(ranks < 6, tf.float32)}


def _bearing_noise(kind: str, logits: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
    """Return the losses of a kind that bears wrong labels, float32 [n]; see `Loss`."""
    logs = tf.nn.log_softmax(logits)
    if kind == "gce":
        return tf.reduce_sum(targets * (1 - tf.exp(_POWER * logs)), axis=1) / _POWER
    if kind == "sce":
        reverse = -tf.reduce_sum(tf.exp(logs) * tf.math.log(tf.maximum(targets, math.exp(_LOG_OF_ZERO))), axis=1)
        return -_CE_WEIGHT * tf.reduce_sum(targets * logs, axis=1) + _RCE_WEIGHT * reverse
    trusted, classes = _TRUSTED[kind], logits.shape[-1]
    own = tf.exp(logs) if kind == "bootstrap_soft" else tf.one_hot(tf.argmax(logits, axis=1), classes)
    return -tf.reduce_sum((trusted * targets + (1 - trusted) * own) * logs, axis=1)


def rank(logits: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
    """Return how many classes score at least as high as the label's class, which counts too.

    Args:
        logits: float32 [..., classes].
        labels: int32 [...].

    Returns:
        float32 [...]: 1 where no other class scores as high, infinite where a logit is NaN.
    """
    own = tf.gather(logits, labels, batch_dims=labels.shape.rank)[..., None]
    ranks = tf.reduce_sum(tf.cast(logits >= own, tf.float32), axis=-1)
    return tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), float("inf"), ranks)


def from_config(config: LossConfig, classes: Sequence[str] = (), labels: np.ndarray | None = None) -> Loss:
    """Return the loss that a `LossConfig` describes.

    Args:
        config: the section of the configuration.
        classes: names of the classes, for --class_weights.
        labels: int32 [n], labels of the training images, for --class_weights=balanced.

    Raises:
        InputError: the file of --class_weights is missing, damaged, or has other classes.
    """
    weights = class_weights(config.class_weights, classes, labels)
    return Loss(config.loss, config.label_smoothing, config.temperature, config.distillation, weights)


def class_weights(value: str, classes: Sequence[str], labels: np.ndarray | None) -> tuple[float, ...]:
    """Return the weight of each class for a value of --class_weights; () for none.

    balanced: n / (K n_c) for n images of K classes, n_c of them of the class (King & Zeng 2001; scikit-learn).

    Raises:
        InputError: see `from_config`.
    """
    if value == "none":
        return ()
    if value == "balanced":
        counts = np.bincount(labels, minlength=len(classes))
        return tuple((len(labels) / (len(classes) * np.maximum(counts, 1))).tolist())
    try:
        with open(value, newline="", encoding="utf-8-sig") as file:
            given = {row["class"]: float(row["weight"]) for row in csv.DictReader(file)}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"--class_weights={value}: not none, balanced, or a CSV file with the columns class,weight ({error})"
        ) from None
    if differing := sorted(set(given) ^ set(classes)):
        raise InputError(f"--class_weights={value}: it differs from the data in the classes {', '.join(differing)}")
    weights = tuple(given[name] for name in classes)
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise InputError(f"--class_weights={value}: weights must be numbers from 0, and one of them above 0")
    return weights
