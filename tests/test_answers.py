"""Answers for each example, written and read back."""

import numpy as np
import pytest

from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers


def test_answers_survive_writing_and_reading(tmp_path, rng):
    logits, labels = rng.normal(size=(7, 3)), rng.integers(0, 3, 7)
    made = answers.of_logits(logits, labels, [f"a,{i}.jpg" for i in range(7)])
    np.testing.assert_array_equal(made["predicted"], logits.argmax(axis=1))
    np.testing.assert_allclose(made["loss"].mean(), -np.log(np.exp(logits) / np.exp(logits).sum(1, keepdims=True))[
        np.arange(7), labels].mean(), rtol=1e-12)  # fmt: skip
    answers.write(tmp_path / "examples.csv", made)
    found = answers.read(tmp_path / "examples.csv")
    for name in ("example", "name", "label", "predicted"):
        assert list(found[name]) == list(made[name])
    for name in ("probability", "loss"):
        np.testing.assert_allclose(found[name], made[name], rtol=1e-5)  # six digits


def test_an_answer_of_nan_is_not_right(tmp_path):
    logits = np.eye(3)[[0, 1, 1]]
    logits[0] = np.nan  # of which the first class, its own, would stand first
    answers.write(tmp_path / "examples.csv", answers.of_logits(logits, np.array([0, 1, 2])))
    assert answers.right(answers.read(tmp_path / "examples.csv")).tolist() == [False, True, False]


@pytest.mark.parametrize("text", ["a,b\n1,2\n", "example,name,label,predicted,probability,loss\n0,,x,1,0.5,1\n"])
def test_damaged_answers_are_named(tmp_path, text):
    (tmp_path / "examples.csv").write_text(text)
    with pytest.raises(InputError, match=r"examples\.csv"):
        answers.read(tmp_path / "examples.csv")
    with pytest.raises(InputError, match="no such file"):
        answers.read(tmp_path / "none.csv")
