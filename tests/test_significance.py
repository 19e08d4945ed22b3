"""Tests of significance: McNemar's and Welch's, their correction and intervals, and which runs are tested."""

import dataclasses
import json
import math
import statistics

import numpy as np
import pytest
from compared import check_page, make_run, read_csv, run_command
from scipy import stats

from resnet_tf.evaluation import answers, significance, trained
from resnet_tf.evaluation import compare as comparing


@pytest.fixture
def two(tmp_path):
    return [make_run(tmp_path / "a", right=0.9), make_run(tmp_path / "b", right=0.88, lr=0.2)]


# --- Which runs are tested -------------------------------------------------------------------------------------------


def test_answers_that_do_not_belong_to_the_evaluation_are_not_tested(two, last_json):
    other = answers.read(two[1] / "examples.csv")
    other["predicted"] = (other["label"] + 1) % 10
    answers.write(two[1] / "examples.csv", other)
    assert trained.read(two[1]).unanswered.endswith("of another evaluation")
    (two[0] / "examples.csv").write_text("a,b\n1,2\n")
    assert "its columns are" in trained.read(two[0]).unanswered
    assert run_command(two, two[0].parent / "out") == 0 and last_json()["pairs"] == 0
    text = (two[0].parent / "out" / "report.md").read_text()
    assert "a: not tested: " in text and "b: not tested: " in text
    assert len(read_csv(two[0].parent / "out" / "significance.csv")) == 0


def test_only_answers_to_the_same_examples_are_compared(two):
    a, b = map(trained.read, two)
    moved = dataclasses.replace(b, answers={**b.answers, "label": np.roll(b.answers["label"], 1)})
    rows, notes = significance.of_pairs(comparing.groups([a, moved]))
    assert rows == [] and notes == ["a and b: not tested: other examples"]
    other = dataclasses.replace(b, evaluation={**b.evaluation, "split": "train"})
    assert significance.of_pairs(comparing.groups([a, other]))[0] == []
    assert len(significance.of_pairs(comparing.groups([a, b]))[0]) == 1


# --- Statistics ------------------------------------------------------------------------------------------------------


def test_mcnemar_by_hand():
    assert significance.mcnemar(0, 0) == 1 and significance.mcnemar(3, 3) == 1
    assert significance.mcnemar(1, 8) == significance.mcnemar(8, 1) == 2 * (1 + 9) / 2**9
    assert significance.mcnemar(0, 6) == 2 / 2**6


@pytest.mark.parametrize("b, c", [(0, 1), (4, 9), (12, 13), (25, 60), (480, 400), (7000, 6800), (3000, 1000)])
def test_mcnemar_as_scipy(b, c):
    assert significance.mcnemar(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)


@pytest.mark.parametrize("a, b", [
    ([91.8, 91.2, 91.5, 91.7, 91.4], [90.6, 90.9, 90.2, 90.5, 90.8]), ([85.2, 86.7], [91.8, 91.7, 91.9]),
    ([1.0, 2.0, 3.0], [2.0, 1.0, 3.5, 2.5]), ([50.0, 50.0], [50.0, 50.1]), ([91.0] * 4 + [91.01], [10.0, 10.2]),
])  # fmt: skip
def test_welch_as_scipy(a, b):
    theirs = stats.ttest_ind(a, b, equal_var=False)
    apart, low, high, freedom, p = significance.welch(a, b)
    assert p == pytest.approx(theirs.pvalue, rel=1e-9) and freedom == pytest.approx(theirs.df)
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval()), rel=1e-9, abs=1e-9)
    assert apart == pytest.approx(statistics.mean(a) - statistics.mean(b))
    assert significance.welch(b, a)[4] == pytest.approx(p) and significance.welch(b, a)[1] == pytest.approx(-high)


def test_welch_of_seeds_that_do_not_differ():
    assert significance.welch([3.0, 3.0], [3.0, 3.0]) == (0, 0, 0, math.inf, 1)
    assert significance.welch([3.0, 3.0], [2.0, 2.0]) == (1, 1, 1, math.inf, 0)


def test_seeds_are_tested_by_group(tmp_path):
    """Two groups of several seeds and one run alone: one pair; the report has it, and its file."""
    made = [make_run(tmp_path / f"a{seed}", seed=seed, right=0.9 - 0.01 * seed) for seed in range(3)]
    made += [make_run(tmp_path / f"b{seed}", seed=seed, right=0.8 - 0.02 * seed, lr=0.2) for seed in range(2)]
    made.append(make_run(tmp_path / "c", lr=0.3))
    assert run_command(made, tmp_path / "out") == 0
    (row,) = read_csv(tmp_path / "out" / "significance_seeds.csv")
    assert tuple(row) == significance.SEEDS_COLUMNS and (row["runs_a"], row["runs_b"]) == ("3", "2")
    values = [100 * json.loads((run / "evaluation.json").read_text())["top1"] for run in made]
    expected = stats.ttest_ind(values[:3], values[3:5], equal_var=False).pvalue
    assert float(row["p"]) == float(row["p_holm"]) == pytest.approx(expected)
    assert "## Significance over seeds" in (tmp_path / "out" / "report.md").read_text()
    check_page((tmp_path / "out" / "report.html").read_text())
    assert run_command(made[2:], tmp_path / "few") == 0  # one group of several seeds: nothing to test over seeds
    assert not (tmp_path / "few" / "significance_seeds.csv").exists()
    assert "Significance over seeds" not in (tmp_path / "few" / "report.md").read_text()


def test_holm_by_hand():
    # Holm 1979: sorted, times 4, 3, 2, 1, never falling: 0.005 x 4, 0.01 x 3, 0.03 x 2, then max(0.06, 0.04 x 1).
    assert significance.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert significance.holm([0.9, 0.8]) == [1, 1] and significance.holm([]) == []


def test_interval_of_a_difference():
    points, low, high = significance.difference(7, 1, 21)
    # By hand: proportions 8/23 and 2/23, variance (10/23 - (6/23)^2) / 23, 1.959964 of its roots to each side.
    assert points == pytest.approx(100 * 6 / 21)
    assert (low, high) == (pytest.approx(1.338, abs=0.001), pytest.approx(50.836, abs=0.001))
    assert significance.difference(0, 0, 50)[1] < 0 < significance.difference(0, 0, 50)[2]


def test_interval_covers(rng):
    true = 0.03 - 0.05
    counts = rng.multinomial(300, [0.03, 0.05, 0.92], 4000)
    held = [low <= 100 * true <= high for _, low, high in (significance.difference(b, c, 300) for b, c, _ in counts)]
    # 95% with a standard error of 0.34 points; the adjustment makes the interval a little wide.
    assert 0.935 < np.mean(held) < 0.985
