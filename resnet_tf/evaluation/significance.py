"""Whether runs differ by more than chance: paired tests on their answers to the same examples."""

import itertools
import math
import statistics

import numpy as np

from resnet_tf.evaluation import answers


def mcnemar(a_only, b_only):
    """McNemar's test, exact and two-sided: of the examples that one of two networks has right, is it each half?

    Args:
        a_only: examples that A alone has right.
        b_only: examples that B alone has right.

    Returns:
        p: probability of a division at least as uneven, of a binomial of `a_only` + `b_only` trials at 1/2. Computed
        in whole numbers, so that no approximation is needed for many examples or small p.
    """
    trials = a_only + b_only
    ways = total = 1
    for k in range(min(a_only, b_only)):
        ways = ways * (trials - k) // (k + 1)
        total += ways
    return min(1.0, total / 2 ** (trials - 1)) if trials else 1.0


def difference(a_only, b_only, examples):
    """How much more of the examples A has right than B, with a 95% interval.

    The interval is Bonett and Price's adjusted Wald interval (2012) for paired proportions, which stays honest where
    few or no examples are answered differently.

    Args:
        a_only: examples that A alone has right.
        b_only: examples that B alone has right.
        examples: all of them.

    Returns:
        Difference, lower end, upper end: in percentage points.
    """
    a, b = (a_only + 1) / (examples + 2), (b_only + 1) / (examples + 2)
    margin = statistics.NormalDist().inv_cdf(0.975) * math.sqrt((a + b - (a - b) ** 2) / (examples + 2))
    return tuple(
        100 * value for value in ((a_only - b_only) / examples, max(-1.0, a - b - margin), min(1.0, a - b + margin))
    )


def holm(p_values):
    """Holm's adjusted p (1979): each may be compared with the level that all tests together are to keep.

    Args:
        p_values: list of p.

    Returns:
        List of adjusted p in the same order.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def of_pairs(made):
    """Test every pair of groups by the answers of their first runs.

    Args:
        made: list of `Group`.

    Returns:
        List of {"a", "b": names of runs, "evaluated_a", "evaluated_b", "examples", "a_only", "b_only",
        "difference_points", "low_points", "high_points", "p", "p_holm"}; list of notes: what was not tested, and why.
    """
    chosen, notes = [], []
    for group in made:
        answered = [run for run in group.runs if run.answers]
        chosen += answered[:1]
        if not answered:
            notes.append(f"{group.name}: not tested: {group.runs[0].unanswered}")
    rows = []
    for a, b in itertools.combinations(chosen, 2):
        labels = [run.answers["label"] for run in (a, b)]
        if a.evaluation["split"] != b.evaluation["split"] or not np.array_equal(*labels):
            notes.append(f"{a.name} and {b.name}: not tested: other examples")
            continue
        right = [answers.right(run.answers) for run in (a, b)]
        a_only, b_only = int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())
        points, low, high = difference(a_only, b_only, len(labels[0]))
        rows.append(
            {"a": a.name, "b": b.name, "evaluated_a": a.evaluated, "evaluated_b": b.evaluated,
             "examples": len(labels[0]), "a_only": a_only, "b_only": b_only, "difference_points": points,
             "low_points": low, "high_points": high, "p": mcnemar(a_only, b_only)}
        )  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p"] for row in rows]), strict=True):
        row["p_holm"] = adjusted
    return rows, notes
