"""Tests of whether runs differ by more than chance: by their predictions for the same examples, and over seeds."""

import itertools
import math
import statistics

import numpy as np

from resnet_tf.evaluation import answers
from resnet_tf.evaluation.compare import Group

# Columns of significance.csv.
COLUMNS = (
    "a", "b", "evaluated_a", "evaluated_b", "examples", "a_only", "b_only", "difference_points", "low_points",
    "high_points", "p", "p_holm",
)  # fmt: skip

# Columns of significance_seeds.csv.
SEEDS_COLUMNS = (
    "a",
    "b",
    "runs_a",
    "runs_b",
    "difference_points",
    "low_points",
    "high_points",
    "degrees_of_freedom",
    "p",
    "p_holm",
)


def mcnemar(a_only: int, b_only: int) -> float:
    """Return p of McNemar's exact two-sided test of whether A and B are right equally often.

    p is the probability of a division at least as uneven in a binomial of `a_only` + `b_only` trials at 1/2. It is
    computed in integers, exact for many examples and small p.

    Args:
        a_only: number of examples that A alone has right.
        b_only: number of examples that B alone has right.
    """
    trials = a_only + b_only
    ways = total = 1
    for k in range(min(a_only, b_only)):
        ways = ways * (trials - k) // (k + 1)
        total += ways
    return min(1.0, total / 2 ** (trials - 1)) if trials else 1.0


def difference(a_only: int, b_only: int, examples: int) -> tuple[float, float, float]:
    """Return the difference of the accuracies of A and B, with a 95% interval, in percentage points.

    The interval is the adjusted Wald interval of Bonett and Price (2012) for paired proportions, which keeps its
    coverage if few or no predictions differ.

    Args:
        a_only: number of examples that A alone has right.
        b_only: number of examples that B alone has right.
        examples: number of all examples.

    Returns:
        Difference, lower end, upper end.
    """
    a, b = (a_only + 1) / (examples + 2), (b_only + 1) / (examples + 2)
    margin = statistics.NormalDist().inv_cdf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (examples + 2))
    fractions = (a_only - b_only) / examples, max(-1.0, a - b - margin), min(1.0, a - b + margin)
    return tuple(100 * value for value in fractions)


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's adjusted p (1979), which may be compared with the level that all tests together should keep."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def welch(a: list[float], b: list[float]) -> tuple[float, float, float, float, float]:
    """Return Welch's test of whether two means differ, of samples whose spreads may differ.

    Args:
        a: two values or more.
        b: two values or more.

    Returns:
        Difference of the means, a less b; ends of its 95% interval; degrees of freedom (Welch and Satterthwaite),
        infinite where no value differs within its sample; p, two-sided.
    """
    shares = [statistics.variance(values) / len(values) for values in (a, b)]
    apart, variance = statistics.fmean(a) - statistics.fmean(b), sum(shares)
    if not variance:
        return apart, apart, apart, math.inf, float(not apart)
    freedom = variance**2 / sum(share**2 / (len(values) - 1) for share, values in zip(shares, (a, b), strict=True))
    error = math.sqrt(variance)
    low, high = 0.0, 1e6  # between which the quantile lies: of one degree of freedom it is 12.7
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student(middle, freedom) > 0.05 else (low, middle)
    return apart, apart - high * error, apart + high * error, freedom, student(abs(apart) / error, freedom)


def student(t: float, freedom: float) -> float:
    """Return the probability of a value beyond -t or t under Student's t; t is 0 or above."""
    return _beta(freedom / (freedom + t * t), freedom / 2, 0.5)


def _beta(x, a, b):
    """Return the regularised incomplete beta function by its continued fraction (Abramowitz and Stegun 26.5.8)."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # where the fraction converges slowly
        return 1 - _beta(1 - x, b, a)
    tail = 1.0
    for m in range(200, 0, -1):  # from its end; 200 terms are many times those that double precision needs
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        tail = 1 + even / (1 + odd / tail)
    tail = 1 - (a + b) * x / (a + 1) / tail
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(scale) / (a * tail)


def of_seeds(groups: list[Group]) -> list[dict]:
    """Test every pair of groups of several seeds by the first metric of their runs; see `welch`.

    Returns:
        List of {column of `SEEDS_COLUMNS`: value}, where "a" and "b" are names of groups.
    """
    several = [group for group in groups if len(group.runs) > 1]
    rows = []
    for pair in itertools.combinations(several, 2):
        metric = next(iter(pair[0].runs[0].metrics))
        values = [[100 * run.evaluation[metric] for run in group.runs] for group in pair]
        names, counts = (group.name for group in pair), map(len, values)
        rows.append(dict(zip(SEEDS_COLUMNS, (*names, *counts, *welch(*values)), strict=False)))  # p_holm follows
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows


def of_pairs(groups: list[Group]) -> tuple[list[dict], list[str]]:
    """Test every pair of groups by the predictions of the first run with predictions of each group.

    Returns:
        List of {column of `COLUMNS`: value}, where "a" and "b" are names of runs; list of sentences that say which
        pairs were not tested, and why.
    """
    runs, notes = [], []
    for group in groups:
        with_predictions = [run for run in group.runs if run.answers]
        runs += with_predictions[:1]
        if not with_predictions:
            notes.append(f"{group.name}: not tested: {group.runs[0].unanswered}")
    rows = []
    for a, b in itertools.combinations(runs, 2):
        labels = [run.answers["label"] for run in (a, b)]
        if a.evaluation["split"] != b.evaluation["split"] or not np.array_equal(*labels):
            notes.append(f"{a.name} and {b.name}: not tested: other examples")
            continue
        right = [answers.right(run.answers) for run in (a, b)]
        a_only, b_only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        points, low, high = difference(a_only, b_only, len(labels[0]))
        values = (a.name, b.name, a.evaluated, b.evaluated, len(labels[0]), a_only, b_only, points, low, high)
        rows.append(dict(zip(COLUMNS, (*values, mcnemar(a_only, b_only)), strict=False)))  # p_holm follows
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows, notes
