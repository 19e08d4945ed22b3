"""Metrics of a classifier, computed from its logits in float64."""

import math
from collections.abc import Sequence

import numpy as np

_NORMAL = 1.959963984540054  # 97.5% of a normal distribution lie below so many standard deviations


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis, float64 of the shape of `logits`."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    exponentials = np.exp(shifted)
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def classification(logits: np.ndarray, labels: np.ndarray) -> dict:
    """Return accuracy and loss, every example counted once.

    Args:
        logits: float [n, classes].
        labels: int [n].

    Returns:
        {"examples": n, "top1": fraction, "top5": fraction, "loss": mean cross-entropy in nats}. An
        example is right in the top k if fewer than k other classes score at least as high as its label, so that ties
        count as errors. An example whose logits hold a NaN is wrong, however few classes there are.
    """
    rank, losses = _rank_and_loss(logits, labels)
    top1, top5 = (float((rank <= k).mean()) for k in (1, 5))
    return {"examples": len(labels), "top1": top1, "top5": top5, "loss": float(losses.mean())}


def per_class(logits: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of `classification` for the examples of each class.

    Args:
        logits: float [n, classes].
        labels: int [n].

    Returns:
        {"examples", "top1", "top5", "loss": array [classes]}; all but "examples" are NaN for a class without examples.
    """
    rank, losses = _rank_and_loss(logits, labels)
    classes = logits.shape[1]
    examples = np.bincount(labels, minlength=classes)
    by_example = {"top1": rank <= 1, "top5": rank <= 5, "loss": losses}
    with np.errstate(invalid="ignore"):
        means = {name: np.bincount(labels, values, classes) / examples for name, values in by_example.items()}
    return {"examples": examples, **means}


def wilson(right: int, examples: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction (Wilson 1927), which also holds for few examples and near 0 and 1.

    Args:
        right: number of examples that are right.
        examples: number of examples, at least 1.

    Returns:
        Lowest and highest fraction, in [0, 1].
    """
    fraction, square = right / examples, _NORMAL**2 / examples
    middle = (fraction + square / 2) / (1 + square)
    half = math.sqrt(fraction * (1 - fraction) * square + square**2 / 4) / (1 + square)
    return max(0.0, middle - half), min(1.0, middle + half)


def precision_and_recall(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return how well each class is found, from a confusion matrix.

    Args:
        matrix: what `confusion` returned.

    Returns:
        {"precision", "recall", "f1", "support": array [classes]}. Precision is the fraction of the predictions of a
        class that are right, NaN if it is never predicted. Recall is the fraction of the examples of a class that are
        found, NaN if it has none. F1 is their harmonic mean, NaN if both are. Support is the number of examples.
    """
    found, support, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        f1 = 2 * found / (support + predicted)
        return {"precision": found / predicted, "recall": found / support, "f1": f1, "support": support}


def overall(matrix: np.ndarray, top1: float) -> dict:
    """Return the metrics that show how evenly classes are found, and how sure the accuracy is.

    Args:
        matrix: what `confusion` returned, of at least one example.
        top1: fraction of the examples that are right; see `classification`.

    Returns:
        {"balanced_accuracy": mean recall over the classes that have examples, "macro_f1": mean F1 over the classes
        that have examples or are predicted, "top1_interval": [low, high] of `wilson`}; all are fractions.
    """
    each, examples = precision_and_recall(matrix), int(matrix.sum())
    means = {name: float(np.nanmean(each[key])) for name, key in (("balanced_accuracy", "recall"), ("macro_f1", "f1"))}
    return means | {"top1_interval": list(wilson(round(top1 * examples), examples))}


def confusion(predicted: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix: int [classes, classes], true classes in rows and predicted classes in columns.

    Args:
        predicted: int [n], class numbers.
        labels: int [n], class numbers.
        classes: number of classes.
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def most_confused(matrix: np.ndarray, most: int | None = None) -> list[tuple[int, int, int]]:
    """Return pairs of classes that are confused, the most frequent first.

    Args:
        matrix: what `confusion` returned.
        most: largest number of pairs; None for all.

    Returns:
        List of (label, predicted, times), all integers, with label != predicted and times > 0.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")[:most]
    return [(int(rows[i]), int(columns[i]), int(wrong[rows[i], columns[i]])) for i in order]


def calibration(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> dict[str, np.ndarray]:
    """Return confidence and accuracy in bins of equal width (Guo et al. 2017, section 2, whose figures have 15).

    Args:
        probability: float [n] in [0, 1], of the predicted class.
        right: bool [n], whether the predicted class is the true one.
        bins: number of bins; bin m of M holds (m - 1) / M < probability <= m / M.

    Returns:
        {"low", "high", "examples", "confidence", "accuracy": array [bins]}; confidence is the mean probability;
        confidence and accuracy are NaN in a bin without examples.
    """
    edges = np.linspace(0, 1, bins + 1)
    numbers = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    examples = np.bincount(numbers, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(numbers, probability, bins) / examples
        accuracy = np.bincount(numbers, np.asarray(right, np.float64), bins) / examples
    return {"low": edges[:-1], "high": edges[1:], "examples": examples, "confidence": confidence, "accuracy": accuracy}


def expected_calibration_error(probability: np.ndarray, right: np.ndarray, bins: int = 15) -> float:
    """Return the ECE (Guo et al. 2017, equation 3), a fraction in [0, 1]; see `calibration` for the arguments.

    It is the mean of |accuracy - confidence| over bins, weighted by their numbers of examples.
    """
    table = calibration(probability, right, bins)
    gaps = np.abs(table["accuracy"] - table["confidence"]) * table["examples"]
    return float(np.nansum(gaps) / len(probability))


def average(members: list[np.ndarray], shares: Sequence[float] | None = None, kind: str = "softmax") -> np.ndarray:
    """Average the logits or probabilities of several networks.

    Args:
        members: list of float [n, classes], logits or logarithms of probabilities.
        shares: weights of the members, not negative, their sum above 0; None for equal weights.
        kind: "logits" to average logits; "softmax" to average probabilities and return their logarithms.

    Returns:
        float64 [n, classes].
    """
    shares = np.ones(len(members)) if shares is None else np.asarray(shares, np.float64)
    shares = shares / shares.sum()
    if kind == "logits":
        return sum(share * logits.astype(np.float64) for share, logits in zip(shares, members, strict=True))
    total = None
    for share, logits in zip(shares, members, strict=True):
        if share:
            part = _log_softmax(logits) + np.log(share)
            total = part if total is None else np.logaddexp(total, part)
    return total


def _log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def _rank_and_loss(logits, labels):
    """Return the rank of each example's label (1 is the best, NaN has rank infinity) and its cross-entropy in nats."""
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} rows of logits for {len(labels)} labels")
    examples = np.arange(len(labels))
    rank = np.where(np.isnan(logits).any(axis=1), np.inf, (logits >= logits[examples, labels][:, None]).sum(axis=1))
    return rank, -_log_softmax(logits)[examples, labels]
