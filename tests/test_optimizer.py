"""The papers' SGD and schedules, at their corners."""

import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf.config import OptimizerConfig
from resnet_tf.evaluation import metrics
from resnet_tf.training import optimizer, schedule


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_its_formula(nesterov, rng):
    sgd = optimizer.SGD(0.9, nesterov, weight_decay=0.1, decay=(True, False))
    weights = [rng.normal(size=4), rng.normal(size=4)]
    ours = [tf.constant(weight, tf.float32) for weight in weights]
    slots = {"momentum": [tf.zeros(4), tf.zeros(4)]}
    momenta = [np.zeros(4), np.zeros(4)]
    for rate in (0.1, 0.1, 0.01):
        gradients = [rng.normal(size=4), rng.normal(size=4)]
        ours, slots = sgd.update(ours, slots, [tf.constant(g, tf.float32) for g in gradients], tf.constant(rate))
        for index, decay in enumerate((0.1, 0.0)):
            total = gradients[index] + decay * weights[index]
            momenta[index] = 0.9 * momenta[index] + total
            weights[index] = weights[index] - rate * (total + 0.9 * momenta[index] if nesterov else momenta[index])
    np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-6)


def test_decay_is_by_role():
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    paths = [variable.path for variable in model.trainable_variables]
    chosen = {path for path, decays in zip(paths, optimizer.decayed(model, "kernels"), strict=True) if decays}
    # 1 stem, 6 in blocks, 2 projections, 1 dense; the BN of a shortcut is not among them.
    assert len(chosen) == 10 and all(path.endswith("/kernel") for path in chosen)
    assert all(optimizer.decayed(model, "all")) and not any(optimizer.decayed(model, "none"))


def rate(plan, step, state=None):
    state = {name: tf.constant(value) for name, value in (state or plan.initial_state()).items()}
    return float(plan.rate(tf.constant(step, tf.int64), state))


def test_step_schedule_at_its_corners():
    plan = schedule.from_config(OptimizerConfig(lr=0.1, lr_steps=(32_000, 48_000)), steps_per_epoch=390.6)
    for step, expected in [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (64_000, 0.001)]:
        assert rate(plan, step) == pytest.approx(expected, rel=1e-5)


def test_epochs_are_turned_into_steps():
    plan = schedule.from_config(OptimizerConfig(lr_epochs=(1.5,)), steps_per_epoch=10.0)
    assert plan.boundaries == (15,)


def test_warm_up_ends_once_and_for_all():
    plan = schedule.Schedule(0.1, (200,), 0.1, warmup_lr=0.01, warmup_until_error=0.8)
    state = plan.initial_state()
    rates = []
    for step in range(300):
        rates.append(rate(plan, step, state))
        # The error falls below 80% at step 100, then comes back: the warm-up must not.
        error = 0.9 if step < 100 or step > 250 else 0.5
        state = {name: float(value) for name, value in plan.advance(state, error).items()}
    assert rates[100] == pytest.approx(0.01)
    ended = next(step for step, value in enumerate(rates) if value > 0.05)
    assert 100 < ended < 130  # a running mean over 50 steps follows within half its length
    assert set(np.round(rates[ended:200], 6)) == {0.1} and set(np.round(rates[200:], 6)) == {0.01}


def test_loss_scale_halves_skips_and_grows():
    scale = optimizer.LossScale(initial=8.0, growth_steps=2)
    state = scale.initial_state()
    seen = []
    for finite in (True, True, False, True, True):
        state = {
            name: float(value)
            for name, value in scale.advance(
                {name: tf.constant(value) for name, value in state.items()}, tf.constant(finite)
            ).items()
        }
        seen.append(state["scale"])
    assert seen == [8.0, 16.0, 8.0, 8.0, 16.0]
    assert state["skipped_steps"] == 1


def test_metrics_count_every_example_and_ties_are_wrong():
    logits = np.array([[3.0, 1, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0], [0, 1, 2, 3, 4, 5], [np.nan] * 6])
    figures = metrics.classification(logits, np.array([0, 0, 0, 0]))
    assert figures["examples"] == 4
    assert figures["top1"] == 0.25  # a tie and a network that answers NaN are not right
    assert figures["top5"] == 0.5
    one = metrics.classification(logits[:1], np.array([0]))
    assert one["loss"] == pytest.approx(np.log(np.exp(logits[0]).sum()) - 3)
    np.testing.assert_allclose(metrics.probabilities(logits[:3]).sum(axis=1), 1)
