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
        example is right in the top k where fewer than k other classes score at least as high as its own, so that ties
        count against it. One whose logits hold a NaN is wrong, however few the classes are.
    """
    rank, losses = _scored(logits, labels)
    return {
        "examples": len(labels),
        "top1": float((rank <= 1).mean()),
        "top5": float((rank <= 5).mean()),
        "loss": float(losses.mean()),
    }


def per_class(logits, labels):
    """The figures of `classification` for the examples of each class.

    Args:
        logits: float [n, classes].
        labels: int [n].

    Returns:
        {"examples", "top1", "top5", "loss": array [classes]}; NaN for a class without examples, but for their number.
    """
    rank, losses = _scored(logits, labels)
    classes = logits.shape[1]
    examples = np.bincount(labels, minlength=classes)
    of_each = {"top1": rank <= 1, "top5": rank <= 5, "loss": losses}
    with np.errstate(invalid="ignore"):
        means = {name: np.bincount(labels, values, classes) / examples for name, values in of_each.items()}
    return {"examples": examples, **means}


def confusion(predicted, labels, classes):
    """Count answers: int [classes, classes], the true class in rows and the predicted one in columns.

    Args:
        predicted: int [n], class numbers.
        labels: likewise.
        classes: how many there are.
    """
    pairs = np.asarray(labels, np.int64) * classes + np.asarray(predicted, np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def most_confused(matrix, most=None):
    """Pairs of classes that are taken for each other, the most frequent first.

    Args:
        matrix: of `confusion`.
        most: how many pairs at most; None for all.

    Returns:
        List of (label, predicted, times), all integers, with label != predicted and times > 0.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    rows, columns = np.nonzero(wrong)
    order = np.argsort(-wrong[rows, columns], kind="stable")[:most]
    return [(int(rows[i]), int(columns[i]), int(wrong[rows[i], columns[i]])) for i in order]


def calibration(probability, right, bins=15):
    """Confidence and accuracy over bins of equal width (Guo et al. 2017, section 2, whose figures have 15).

    Args:
        probability: float [n] in [0, 1], of the predicted class.
        right: bool [n], whether it is the true one.
        bins: how many; bin m of M holds (m - 1) / M < probability <= m / M.

    Returns:
        {"low", "high", "examples", "confidence", "accuracy": array [bins]}; confidence is the mean probability; it and
        the accuracy are NaN in a bin without examples.
    """
    edges = np.linspace(0, 1, bins + 1)
    which = np.clip(np.searchsorted(edges, probability, side="left") - 1, 0, bins - 1)
    examples = np.bincount(which, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(which, probability, bins) / examples
        accuracy = np.bincount(which, np.asarray(right, np.float64), bins) / examples
    return {"low": edges[:-1], "high": edges[1:], "examples": examples, "confidence": confidence, "accuracy": accuracy}


def expected_calibration_error(probability, right, bins=15):
    """ECE (Guo et al. 2017, equation 3): the mean of |accuracy - confidence| over bins, weighted by their examples.

    Args:
        probability: see `calibration`; likewise `right` and `bins`.
        right: likewise.
        bins: likewise.

    Returns:
        A fraction in [0, 1].
    """
    table = calibration(probability, right, bins)
    gaps = np.abs(table["accuracy"] - table["confidence"]) * table["examples"]
    return float(np.nansum(gaps) / len(probability))


def average(members, shares=None, kind="softmax"):
    """Average the answers of several networks.

    Args:
        members: list of float [n, classes], logits or logarithms of probabilities.
        shares: weights of the members, not negative, their sum above 0; None for all alike.
        kind: "softmax": probabilities are averaged, and their logarithms returned; "logits": logits are.

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
            shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
            part = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)) + np.log(share)
            total = part if total is None else np.logaddexp(total, part)
    return total


def _scored(logits, labels):
    """Rank of each example's own class, 1 the best and infinite for NaN, and its cross-entropy in nats."""
    if len(logits) != len(labels) or not len(labels):
        raise ValueError(f"{len(logits)} answers for {len(labels)} examples")
    own = logits[np.arange(len(labels)), labels][:, None]
    rank = np.where(np.isnan(logits).any(axis=1), np.inf, (logits >= own).sum(axis=1))
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return rank, np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(len(labels)), labels]
