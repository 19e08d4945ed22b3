"""Losses that bear wrong labels, beside their papers' formulas in float64, one example at a time."""

import numpy as np
import pytest
import tensorflow as tf

from resnet_tf import train
from resnet_tf.training import losses

KINDS = ("bootstrap_hard", "bootstrap_soft", "gce", "sce")


def by_hand(kind, logits, targets):
    """The loss of one example: equations 6 and 7 of Reed 2014, 6 of Zhang 2018, 5 to 7 of Wang 2019."""
    p = np.exp(logits - logits.max())
    p /= p.sum()
    cross_entropy = -sum(t * np.log(one) for t, one in zip(targets, p, strict=True))
    if kind == "bootstrap_hard":
        return 0.8 * cross_entropy - 0.2 * np.log(p[p.argmax()])
    if kind == "bootstrap_soft":
        return 0.95 * cross_entropy - 0.05 * sum(one * np.log(one) for one in p)
    if kind == "gce":
        return sum(t * (1 - one**0.7) / 0.7 for t, one in zip(targets, p, strict=True))
    reverse = -sum(one * (max(np.log(t), -4.0) if t else -4.0) for t, one in zip(targets, p, strict=True))
    return 0.1 * cross_entropy + reverse


def numbers(rng):
    """Logits, and targets of a label, smoothed, and mixed."""
    logits = rng.normal(0, 3, (6, 5))
    targets = np.eye(5)[[0, 1, 2, 3, 4, 0]]
    targets[2:4] = 0.9 * targets[2:4] + 0.1 / 5
    targets[4:] = 0.3 * targets[4:] + 0.7 * np.eye(5)[[2, 2]]
    return logits, targets


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradient_equal_the_formula(kind, rng):
    logits, targets = numbers(rng)
    given = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(given)
        seen = losses.Loss(kind)(given, tf.constant(targets, tf.float32))
    expected = [by_hand(kind, row, target) for row, target in zip(logits, targets, strict=True)]
    np.testing.assert_allclose(seen, expected, rtol=2e-5, atol=1e-6)
    step = 1e-5
    slopes = np.array([
        [(by_hand(kind, row + step * unit, target) - by_hand(kind, row - step * unit, target)) / (2 * step)
         for unit in np.eye(5)]
        for row, target in zip(logits, targets, strict=True)
    ])  # fmt: skip
    np.testing.assert_allclose(tape.gradient(seen, given), slopes, rtol=1e-3, atol=1e-5)


def test_a_wrong_label_weighs_less_than_in_cross_entropy():
    """What the losses are for: the gradient of a label that the network is sure is wrong is small."""
    logits = tf.constant([[8.0, 0.0, 0.0]])
    wrong, norms = tf.constant([[0.0, 1.0, 0.0]]), {}
    for kind in ("softmax", *KINDS):
        with tf.GradientTape() as tape:
            tape.watch(logits)
            loss = losses.Loss(kind)(logits, wrong)
        norms[kind] = float(tf.norm(tape.gradient(loss, logits)))
    assert all(norms[kind] < norms["softmax"] for kind in KINDS)
    assert norms["gce"] < 0.01 * norms["softmax"]  # about p^0.7 of it (Zhang 2018, section 3.3)


@pytest.mark.parametrize("kind", KINDS)
def test_sure_networks_have_finite_losses(kind):
    logits = tf.constant([[200.0, -200.0, 0.0], [-200.0, 200.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = losses.Loss(kind)(logits, tf.one_hot([0, 0], 3))
    assert np.isfinite(loss).all() and np.isfinite(tape.gradient(loss, logits)).all()


def test_flags_of_one_loss_are_refused_with_another(tmp_path, capsys):
    flags = ["--dataset=digits", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=16", "--train_steps=1"]
    for more, named in (
        (["--loss=gce", "--class_weights=balanced"], "--class_weights is not used by --loss=gce"),
        (["--loss=sce", "--teacher=x"], "--teacher is not used by --loss=sce"),
        (
            ["--loss=bce", "--label_smoothing=0.1"],
            "--label_smoothing is not used by --loss=bce; it needs",
        ),
    ):
        assert train.main([*flags, *more, f"--out={tmp_path}/run"]) == 1
        assert named in capsys.readouterr().err.strip().splitlines()[-1] and not (tmp_path / "run").exists()
    kinds = ["--loss=gce", "--label_smoothing=0.1", "--mixup=0.2", f"--out={tmp_path}/run"]
    assert train.main([*flags, *kinds]) == 0
