"""Figures of a classifier from its logits, in float64."""

import numpy as np


def probabilities(logits):
    """Softmax over the last axis: [n, classes] to float64 of the same shape."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def classification(logits, labels):
    """Count what is right, every example once.

    Args:
        logits: float [n, classes].
        labels: int [n].

    Returns:
        {"examples": n, "top1": fraction, "top5": fraction, "loss": mean cross-entropy in nats}. An
        example is right in the top k where fewer than k classes score at least as high as its own,
        so that ties (and a network that answers NaN) count against it.
    """
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} answers for {len(labels)} examples")
    own = logits[np.arange(len(labels)), labels][:, None]
    # Written so that a NaN, which compares as false, ranks behind every class.
    behind = (logits < own).sum(axis=1)
    rank = logits.shape[1] - behind  # 1 where no other class scores as high
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
    return {
        "examples": len(labels),
        "top1": float((rank <= 1).mean()),
        "top5": float((rank <= min(5, logits.shape[1])).mean()),
        "loss": float(losses.mean()),
    }
