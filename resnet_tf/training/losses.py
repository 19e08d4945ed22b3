"""What is minimised: of labels, of mixed targets, of a teacher's answers. Logits and losses are float32."""

import dataclasses

import tensorflow as tf

_PRESENT = 0.2  # of a mixed target: what --bce-target-thresh is in timm's A recipes


@dataclasses.dataclass(frozen=True)
class Loss:
    """The loss of each example.

    softmax: cross-entropy of the targets. bce: the mean over classes of binary cross-entropies, every class that
    has more than 0.2 of the target being wholly there (ResNet strikes back, Wightman et al. 2021).

    Attributes:
        kind: "softmax" or "bce".
        smoothing: e; the label has 1 - e + e/K, every other class e/K. Bag of Tricks, equation 4, writes e/(K - 1)
            for the others; its code, GluonCV's, and Keras have e/K, as here.
        temperature: T of distillation.
        distillation: weight of the teacher's term, T^2 CE(softmax(r/T), softmax(z/T)); 1 in Bag of Tricks, section 5.3.
    """

    kind: str = "softmax"
    smoothing: float = 0.0
    temperature: float = 20.0
    distillation: float = 1.0

    def targets(self, labels, classes):
        """int32 labels [n] to float32 targets [n, classes]."""
        targets = tf.one_hot(labels, classes)
        return targets * (1 - self.smoothing) + self.smoothing / classes if self.smoothing else targets

    def __call__(self, logits, targets, teacher=None):
        """The loss of each example.

        Args:
            logits: float32 [n, classes].
            targets: float32 [n, classes], mixed where examples are.
            teacher: float32 [n, classes], logits of a teacher for the same images; None for none.

        Returns:
            float32 [n], in nats.
        """
        if self.kind == "bce":
            present = tf.cast(targets > _PRESENT, tf.float32)
            losses = tf.reduce_mean(tf.nn.sigmoid_cross_entropy_with_logits(present, logits), axis=1)
        else:
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
        if teacher is not None:
            soft = tf.nn.softmax(teacher / self.temperature)
            taught = tf.nn.softmax_cross_entropy_with_logits(soft, logits / self.temperature)
            losses += self.distillation * self.temperature**2 * taught
        return losses

    def metrics(self, logits, labels):
        """Of each example, whether no other class, or fewer than five, score as high as its own.

        Args:
            logits: float32 [n, classes].
            labels: int32 [n].

        Returns:
            {"top1", "top5": float32 [n], 0 or 1}.
        """
        place = rank(logits, labels)
        return {"top1": tf.cast(place < 2, tf.float32), "top5": tf.cast(place < 6, tf.float32)}


def rank(logits, labels):
    """Classes that score at least as high as one's own, that one too.

    Args:
        logits: float32 [..., classes].
        labels: int32 [...].

    Returns:
        float32 [...], 1 where no other class scores as high, infinite where a logit is NaN.
    """
    own = tf.gather(logits, labels, batch_dims=labels.shape.rank)[..., None]
    place = tf.reduce_sum(tf.cast(logits >= own, tf.float32), axis=-1)
    return tf.where(tf.reduce_any(tf.math.is_nan(logits), axis=-1), float("inf"), place)


def from_config(config):
    """The loss that a `LossConfig` describes."""
    return Loss(config.loss, config.label_smoothing, config.temperature, config.distillation)
