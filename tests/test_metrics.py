"""Figures and pictures of how a classifier errs, against plain loops and hand-made cases."""

import numpy as np
import pytest
import tensorflow as tf

from resnet_tf.evaluation import charts, metrics
from resnet_tf.training import losses


def softmax(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def test_confusion_counts_pairs(rng):
    labels, predicted = rng.integers(0, 4, (2, 50))
    matrix = metrics.confusion(predicted, labels, 5)
    for true in range(5):
        for said in range(5):
            assert matrix[true, said] == sum((labels == true) & (predicted == said))
    pairs = metrics.most_confused(matrix)
    assert [times for _, _, times in pairs] == sorted((times for _, _, times in pairs), reverse=True)
    assert sum(times for _, _, times in pairs) == (labels != predicted).sum()
    assert all(true != said and matrix[true, said] == times for true, said, times in pairs)
    assert metrics.most_confused(matrix, 2) == pairs[:2]


def test_figures_of_classes_are_those_of_their_examples(rng):
    logits, labels = rng.normal(size=(60, 8)), rng.integers(0, 7, 60)
    figures = metrics.per_class(logits, labels)
    for label in range(7):
        own = metrics.classification(logits[labels == label], labels[labels == label])
        for name, value in own.items():
            assert figures[name][label] == pytest.approx(value)
    assert figures["examples"][7] == 0 and np.isnan(figures["top1"][7])  # a class that has no examples


@pytest.mark.parametrize("classes", [3, 8])  # of three, any rank is among the first five
def test_answers_of_nan_are_wrong(classes):
    logits = np.eye(classes, dtype=np.float32)
    logits[0] = np.nan
    logits[1, 0] = np.nan  # not the example's own
    labels = np.arange(classes)
    expected = np.where(labels < 2, 0, 1)
    figures = metrics.classification(logits, labels)
    assert figures["top1"] == figures["top5"] == pytest.approx(1 - 2 / classes)
    each, trained = metrics.per_class(logits, labels), losses.Loss().metrics(tf.constant(logits), tf.constant(labels))
    for name in ("top1", "top5"):
        np.testing.assert_array_equal(each[name], expected)
        np.testing.assert_array_equal(trained[name], expected)


def test_calibration_error_is_the_sum_over_bins(rng):
    probability = np.concatenate([rng.random(500), [0.0, 1 / 15, 0.2, 1.0]])  # edges belong to the bin below
    right = rng.random(504) < 0.6
    expected, empty = 0.0, 0
    for number in range(1, 16):
        low, high = (number - 1) / 15, number / 15
        inside = [i for i, p in enumerate(probability) if low < p <= high or (number == 1 and p == 0)]
        if inside:
            gap = np.mean([right[i] for i in inside]) - np.mean([probability[i] for i in inside])
            expected += len(inside) / 504 * abs(gap)
    assert metrics.expected_calibration_error(probability, right) == pytest.approx(expected)
    table = metrics.calibration(probability, right)
    assert table["examples"].sum() == 504 and len(table["low"]) == 15 and not empty
    one = metrics.calibration(np.array([0.95, 0.99]), [True, False])
    assert one["examples"][-1] == 2 and one["accuracy"][-1] == 0.5 and one["confidence"][-1] == pytest.approx(0.97)
    assert np.isnan(one["accuracy"][0])
    # Confidence that is always kept, and confidence that never is.
    assert metrics.expected_calibration_error(np.ones(10), np.ones(10, bool)) == 0
    assert metrics.expected_calibration_error(np.ones(10), np.zeros(10, bool)) == 1


def test_members_are_averaged_by_their_shares(rng):
    one, two, three = rng.normal(size=(3, 20, 6)) * 4
    shares = np.array([0.5, 0.3, 0.2])
    mean = sum(share * softmax(logits) for share, logits in zip(shares, (one, two, three), strict=True))
    np.testing.assert_allclose(np.exp(metrics.average([one, two, three], shares * 7)), mean, rtol=1e-12)
    by_logits = metrics.average([one, two, three], shares, "logits")
    np.testing.assert_allclose(by_logits, 0.5 * one + 0.3 * two + 0.2 * three, rtol=1e-12)
    np.testing.assert_allclose(np.exp(metrics.average([one, two])), (softmax(one) + softmax(two)) / 2, rtol=1e-12)
    np.testing.assert_allclose(np.exp(metrics.average([one, two], [0, 2])), softmax(two), rtol=1e-12)


def texts(figure):
    """All that is written in a figure."""
    import matplotlib.text

    return [text.get_text() for text in figure.findobj(matplotlib.text.Text) if text.get_text()]


def test_small_confusion_has_each_count_in_its_cell(rng):
    matrix = rng.integers(0, 3, (10, 10)) * rng.integers(20, 1500, (10, 10))
    figure = charts.confusion(matrix, [f"name{i}" for i in range(10)])
    cells = {(t.get_position()[::-1], t.get_text()) for t in figure.axes[0].texts}
    expected = {((float(r), float(c)), str(matrix[r, c])) for r, c in zip(*np.nonzero(matrix), strict=True)}
    assert {((float(r), float(c)), text) for (r, c), text in cells} == expected
    assert {f"name{i}" for i in range(10)} <= set(texts(figure))


def test_large_confusion_names_the_most_frequent_pair(rng):
    matrix = np.diag(np.full(300, 40))
    matrix[7, 250], matrix[90, 91] = 9, 3
    said = texts(charts.confusion(matrix, [f"kind {i}" for i in range(300)]))
    assert said.index("kind 7 \u2192 kind 250") < said.index("kind 90 \u2192 kind 91")
    assert "12,000 of 12,012 right. Most confused:" in said
    charts.confusion(np.zeros((30, 30), int), [str(i) for i in range(30)])  # nothing at all is no error


def test_classes_that_are_confused_are_sorted_side_by_side(rng):
    groups = rng.permutation(60) // 5
    matrix = np.where(groups[:, None] == groups, rng.integers(3, 9, (60, 60)), rng.random((60, 60)) < 0.01)
    order = charts.spectral_order(matrix)
    assert sorted(order) == list(range(60))
    changes = (np.diff(groups[order]) != 0).sum()
    assert changes <= 15  # 11 where all groups are whole; of a random order some 54


def test_reliability_draws_every_bin(rng):
    probability = rng.random(1000)
    right = rng.random(1000) < probability
    table = metrics.calibration(probability, right)
    figure = charts.reliability(table, metrics.expected_calibration_error(probability, right))
    bars = figure.axes[0].containers[0]
    np.testing.assert_allclose([bar.get_height() for bar in bars], table["accuracy"])
    assert any("of 1,000 examples" in text for text in texts(figure))
