"""Temperature scaling (Guo et al. 2017, section 4.2): a number by which logits are divided so that confidence is kept.

The temperature changes no prediction, only how sure the network says to be. It is fitted on examples that the network
was not trained on, and not on those on which its effect is measured.
"""

import dataclasses

import numpy as np

from resnet_tf.evaluation import answers, metrics

LIMITS = (0.05, 20.0)  # lowest and highest temperature: with no mistake, or no skill, the best would be 0 or infinite
_ITERATIONS = 40  # of a golden section: the logarithm of the temperature is then known to 3e-8
_GOLDEN = (5**0.5 - 1) / 2


def fit(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the temperature that minimises the mean cross-entropy of softmax(logits / temperature).

    The cross-entropy is convex in 1 / temperature, so a golden section over the logarithm finds its only minimum.

    Args:
        logits: float [n, classes]; examples with a value that is not finite are left out.
        labels: int [n].

    Returns:
        A number in `LIMITS`, and one of them if the minimum lies beyond; 1 if no example is left, or if
        no temperature changes the loss.
    """
    finite = np.isfinite(logits).all(axis=1)
    if not finite.any():
        return 1.0
    shifted = logits[finite].astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    own = shifted[np.arange(len(shifted)), labels[finite]]

    def loss(exponent):
        scale = np.exp(-exponent)
        return float(np.mean(np.log(np.exp(shifted * scale).sum(axis=1)) - own * scale))

    low, high = np.log(LIMITS)
    inner = [high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)]
    losses = [loss(exponent) for exponent in inner]
    for _ in range(_ITERATIONS):
        if losses[0] <= losses[1]:
            high, inner[1], losses[1] = inner[1], inner[0], losses[0]
            inner[0] = high - _GOLDEN * (high - low)
            losses[0] = loss(inner[0])
        else:
            low, inner[0], losses[0] = inner[0], inner[1], losses[1]
            inner[1] = low + _GOLDEN * (high - low)
            losses[1] = loss(inner[1])
    # The first of equals: where no temperature changes the loss, that is 1.
    candidates = (1.0, *LIMITS, float(np.exp((low + high) / 2)))
    return min(candidates, key=lambda temperature: loss(np.log(temperature)))


def is_bounded(temperature: float) -> bool:
    """Return whether a temperature is one of `LIMITS`, so that the best one lies there or beyond."""
    return temperature <= LIMITS[0] or temperature >= LIMITS[1]


@dataclasses.dataclass(frozen=True)
class Calibrated:
    """A split after temperature scaling.

    Attributes:
        temperature: the fitted temperature.
        fitted_on: "validation" if it was fitted on this other split; "halves" if on the scored split itself, by
            two-fold cross-fitting: each half is scaled by the temperature of the other half, and `temperature` is that
            of the whole split.
        probability: float64 [n], probability of the predicted class after scaling.
        error: expected calibration error after scaling, a fraction.
    """

    temperature: float
    fitted_on: str
    probability: np.ndarray
    error: float


def calibrate(logits: np.ndarray, predictions: dict, held_out: tuple[np.ndarray, np.ndarray] | None) -> Calibrated:
    """Scale the logits of a split by a temperature that was not fitted on the same examples.

    Args:
        logits: float [n, classes] of the scored split.
        predictions: what `answers.of_logits` returned for them.
        held_out: logits and labels of the validation split; None to cross-fit on the scored split.
    """
    if held_out is not None:
        temperature = fit(*held_out)
        each = np.full(len(logits), temperature)
    else:
        temperature = fit(logits, predictions["label"])
        # The order of a split may be that of its classes, so halves are drawn, always in the same way.
        second = np.random.default_rng(0).permutation(len(logits)) % 2 == 1
        each = np.full(len(logits), temperature)
        for half in (second, ~second):
            if half.any():
                each[~half] = fit(logits[half], predictions["label"][half])
    probabilities = metrics.probabilities(logits / each[:, None])
    probability = probabilities[np.arange(len(logits)), predictions["predicted"]]
    error = metrics.expected_calibration_error(probability, answers.right(predictions))
    return Calibrated(temperature, "halves" if held_out is None else "validation", probability, error)
