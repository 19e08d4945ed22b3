"""The papers' SGD and schedules, at their corners."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf.config import DataConfig, OptimizerConfig, ScheduleConfig, TrainConfig, ViewConfig
from resnet_tf.evaluation import metrics
from resnet_tf.training import extension, optimizer, schedule


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_equals_its_formula(nesterov, rng):
    sgd = optimizer.SGD(0.9, nesterov, weight_decay=0.1, decay=(True, False))
    weights = [rng.normal(size=4), rng.normal(size=4)]
    ours = [tf.constant(weight, tf.float32) for weight in weights]
    slots = {"momentum": [tf.zeros(4), tf.zeros(4)]}
    momenta = [np.zeros(4), np.zeros(4)]
    for rate in (0.1, 0.1, 0.01):
        gradients = [rng.normal(size=4), rng.normal(size=4)]
        ours, slots = sgd.update(ours, slots, [tf.constant(g, tf.float32) for g in gradients], tf.constant(rate), None)
        for index, decay in enumerate((0.1, 0.0)):
            total = gradients[index] + decay * weights[index]
            momenta[index] = 0.9 * momenta[index] + total
            weights[index] = weights[index] - rate * (total + 0.9 * momenta[index] if nesterov else momenta[index])
    np.testing.assert_allclose(ours, weights, rtol=1e-5, atol=1e-6)


def three_steps(ours, rng, shape=(3, 4)):
    """Weights after three steps of an optimizer, the gradients, and the weights at the start, of two variables."""
    weights = [rng.normal(size=shape).astype(np.float32) for _ in range(2)]
    gradients = [[rng.normal(size=shape).astype(np.float32) for _ in range(2)] for _ in range(3)]
    values, slots = [tf.constant(w) for w in weights], {slot: [tf.zeros(shape)] * 2 for slot in ours.slots}
    for applied, step in enumerate(gradients):
        values, slots = ours.update(
            values, slots, [tf.constant(g) for g in step], tf.constant(0.1), tf.constant(applied, tf.int64)
        )
    return [value.numpy() for value in values], gradients, weights


def adam(weights, gradients, penalty, coupled, epsilon, direction=lambda weight, step: step):
    """Algorithm 1 of Kingma & Ba in float64; the first of two variables decays."""
    results = []
    for index, weight in enumerate(weights):
        weight, mean, square = weight.astype(np.float64), 0.0, 0.0
        for count, step in enumerate(gradients, 1):
            gradient = step[index] + (penalty * weight if coupled and index == 0 else 0)
            mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
            change = (mean / (1 - 0.9**count)) / (np.sqrt(square / (1 - 0.999**count)) + epsilon)
            if index == 0 and not coupled:
                change = direction(weight, change + penalty * weight)
            weight = weight - 0.1 * change
        results.append(weight)
    return results


@pytest.mark.parametrize("decoupled", [False, True])
def test_adam_equals_its_formula(decoupled, rng):
    ours, gradients, weights = three_steps(optimizer.Adam(0.9, 0.2, (True, False), decoupled), rng)
    # The correction 1 - 0.999^t in float32 has 4 digits at t = 1.
    np.testing.assert_allclose(ours, adam(weights, gradients, 0.2, not decoupled, 1e-8), rtol=1e-4, atol=1e-5)


def test_lamb_equals_its_formula(rng):
    ours, gradients, weights = three_steps(optimizer.LAMB(0.9, 0.2, (True, False)), rng)

    def scaled(weight, change):
        return change * np.linalg.norm(weight) / np.linalg.norm(change)

    np.testing.assert_allclose(ours, adam(weights, gradients, 0.2, False, 1e-6, scaled), rtol=1e-4, atol=1e-5)
    still = optimizer.LAMB(0.9, 0.2, (True,)).update(
        [tf.zeros(3)], {"mean": [tf.zeros(3)], "square": [tf.zeros(3)]}, [tf.zeros(3)], tf.constant(0.1), tf.constant(0)
    )[0]
    assert not np.any(still)  # and no 0 / 0


def orthogonal(matrix):
    """The Newton-Schulz iteration of Jordan et al. 2024 (Muon, listing 2) in float64."""
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / np.linalg.norm(x)
    for _ in range(5):
        x = a * x + (b * x @ x.T + c * x @ x.T @ x @ x.T) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (1, 1, 4, 9)])
def test_muon_equals_its_formula(shape, rng):
    muon = optimizer.Muon(0.9, 0.2, (True, False), matrices=(True, False), momentum=0.95)
    ours, gradients, weights = three_steps(muon, rng, shape)
    weight, momentum = weights[0].astype(np.float64).reshape(-1, shape[-1]), 0.0
    for step in gradients:
        gradient = step[0].astype(np.float64).reshape(weight.shape)
        momentum = 0.95 * momentum + gradient
        update = orthogonal(gradient + 0.95 * momentum)
        sizes = np.linalg.svd(update, compute_uv=False)
        assert sizes.min() > 0.6 and sizes.max() < 1.3  # about orthonormal, by design of its coefficients
        weight = weight - 0.1 * 0.2 * weight - 0.1 * 0.2 * np.sqrt(max(weight.shape)) * update
    np.testing.assert_allclose(ours[0].reshape(weight.shape), weight, rtol=1e-4, atol=1e-5)
    adamw = adam(weights[::-1], [step[::-1] for step in gradients], 0.0, False, 1e-7)
    np.testing.assert_allclose(ours[1], adamw[0], rtol=1e-4, atol=1e-5)


def test_muon_is_for_convolutions_after_the_stem():
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    chosen = optimizer.matrices(model)
    left = {variable.path for variable, one in zip(model.trainable_variables, chosen, strict=True) if not one}
    kernels = {path for path in left if path.endswith("/kernel")}
    assert sum(chosen) == 8 and kernels == {"stem_conv/kernel", "logits/kernel"}
    made = optimizer.from_config(OptimizerConfig(optimizer="muon", momentum=0.95), model)
    assert made.matrices == tuple(chosen) and made.momentum == 0.95 and made.beta1 == 0.9


def test_clip_keeps_direction_and_what_is_short():
    gradients = [tf.constant([3.0, 0.0]), tf.constant([4.0])]
    norm = tf.linalg.global_norm(gradients)
    np.testing.assert_allclose(optimizer.clip(gradients, norm, 1.0)[0], [0.6, 0], rtol=1e-6)
    np.testing.assert_allclose(optimizer.clip(gradients, norm, 1.0)[1], [0.8], rtol=1e-6)
    np.testing.assert_array_equal(optimizer.clip(gradients, norm, 6.0)[1], [4.0])
    assert optimizer.clip(gradients, norm, 0.0) is gradients


def test_decay_is_by_role():
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    paths = [variable.path for variable in model.trainable_variables]
    chosen = {path for path, decays in zip(paths, optimizer.decayed(model, "kernels"), strict=True) if decays}
    # 1 stem, 6 in blocks, 2 projections, 1 dense; the BN of a shortcut is not among them.
    assert len(chosen) == 10 and all(path.endswith("/kernel") for path in chosen)
    assert all(optimizer.decayed(model, "all")) and not any(optimizer.decayed(model, "none"))


def rate(plan, step, state=None):
    state = {name: tf.constant(value) for name, value in (state or plan.initial_state()).items()}
    return float(plan.lr_of(tf.constant(step, tf.int64), state))


def plan_of(batch_size=128, total=1000, steps_per_epoch=10.0, **settings):
    return schedule.from_config(ScheduleConfig(**settings), batch_size, steps_per_epoch, total)


def test_cosine_after_a_linear_warm_up():
    plan = plan_of(lr=0.4, schedule="cosine", warmup_epochs=5, batch_size=1024, linear_scaling=True)
    assert plan.lr == pytest.approx(1.6) and plan.warmup == 50
    # Bag of Tricks: step i of the m first, i from 1, has i / m of the rate; then half a cosine over what remains.
    assert [rate(plan, step) for step in (0, 24, 49)] == pytest.approx([1.6 / 50, 0.8, 1.6])
    assert rate(plan, 50) == pytest.approx(1.6)
    assert rate(plan, 525) == pytest.approx(0.8, rel=1e-4)
    assert rate(plan, 999) == pytest.approx(0.5 * 1.6 * (1 + np.cos(np.pi * 949 / 950)), rel=1e-2)
    assert rate(plan, 5000) == 0


@pytest.mark.parametrize(
    "examples, batch, epochs, steps",
    [
        (1000, 30, 15.0, 500),
        (100, 22, 1.1, 5),
        (1000, 10, 0.1, 10),
        (1000, 30, 1.0, 34),
        (1_281_167, 256, 120.0, 600_548),
    ],
)
def test_steps_of_epochs_are_counted_exactly(examples, batch, epochs, steps):
    assert schedule.total_steps(OptimizerConfig(train_epochs=epochs, batch_size=batch), examples) == steps
    assert schedule.total_steps(OptimizerConfig(train_steps=7, batch_size=batch), examples) == 7


def test_plateau_falls_after_patience_and_never_without_reason():
    state = {"falls": 0.0, "best_error": 1.0, "waited": 0.0}
    falls = []
    for error in (0.9, 0.8, 0.8, 0.85, 0.81, 0.7, 0.7, 0.7, 0.7):
        state = schedule.after_plateau(state, error, patience=3)
        falls.append(state["falls"])
    assert falls == [0, 0, 0, 0, 1, 1, 1, 1, 2] and state["best_error"] == 0.7
    plan = plan_of(lr=0.1, schedule="plateau", lr_factor=0.5)
    assert rate(plan, 7, state) == pytest.approx(0.025)
    kept = plan.advance(
        tf.constant(0, tf.int64), {name: tf.constant(value) for name, value in state.items()}, tf.constant(0.1)
    )
    assert {name: float(value) for name, value in kept.items()} == pytest.approx(state)


def test_constant_rate_is_constant():
    plan = plan_of(lr=0.3, schedule="constant")
    assert rate(plan, 0) == rate(plan, 10**6) == pytest.approx(0.3)


# torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=20, pct_start=0.3, cycle_momentum=False) of 2.13.
ONE_CYCLE = (
    *(0.016, 0.05266874, 0.1486687, 0.2673313, 0.3633313, 0.4, 0.3949856, 0.3801939, 0.3563665, 0.3246983),
    *(0.2867772, 0.2445048, 0.2000008, 0.1554968, 0.1132244, 0.07530334, 0.04363513, 0.01980775, 0.005015998, 1.6e-06),
)


def test_one_cycle_equals_pytorch():
    rates = [rate(plan_of(lr=0.4, schedule="one_cycle", total=20), step) for step in range(20)]
    np.testing.assert_allclose(rates, ONE_CYCLE, rtol=1e-4, atol=1e-7)  # float32 cosines
    longer = plan_of(lr=0.4, schedule="one_cycle", warmup_epochs=1, total=20)  # ten steps up
    rates = [rate(longer, step) for step in range(20)]
    assert rates[0] == pytest.approx(0.016) and np.argmax(rates) == 9 and rates[9] == pytest.approx(0.4)
    assert np.all(np.diff(rates[:10]) > 0) and np.all(np.diff(rates[9:]) < 0) and rates[19] == pytest.approx(1.6e-6)


# The momentum of torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=20, pct_start=0.3) of 2.13.
CYCLED = (
    *(0.95, 0.9404508, 0.9154508, 0.8845492, 0.8595492, 0.85, 0.8512536, 0.8549516, 0.8609084, 0.8688255),
    *(0.8783058, 0.888874, 0.9, 0.911126, 0.9216942, 0.9311745, 0.9390916, 0.9450484, 0.9487464, 0.95),
)


def test_momentum_cycles_as_in_pytorch():
    plan = plan_of(lr=0.4, schedule="one_cycle", total=20)
    shifts = [plan.momentum_shift(tf.constant(step, tf.int64)) for step in range(20)]
    for made, name in (
        (optimizer.SGD(0.95, True, 0.0, ()), "momentum"),
        (optimizer.Adam(0.95, 0.0, ()), "beta1"),
        (optimizer.LAMB(0.95, 0.0, ()), "beta1"),
        (optimizer.Muon(0.9, 0.0, (), momentum=0.95), "momentum"),
    ):
        seen = [float(getattr(made.shifted(shift), name)) for shift in shifts]
        np.testing.assert_allclose(seen, CYCLED, atol=2e-7)
        assert type(made.shifted(shifts[0])) is type(made)
    assert float(optimizer.SGD(0.05, False, 0.0, ()).shifted(shifts[5]).momentum) == 0
    for kind in ("steps", "cosine", "poly", "plateau", "constant", "flat_cosine"):
        assert plan_of(schedule=kind, total=20).momentum_shift(tf.constant(3, tf.int64)) is None


def test_flat_cosine_equals_its_formula():
    plan = plan_of(lr=0.2, schedule="flat_cosine", total=40)
    # fastai's combined_cos(0.75, lr, lr, lr / 1e5), by the share of the training that is done.
    done = np.maximum(0, (np.arange(40) / 40 - 0.75) / 0.25)
    expected = 0.2 + (1 + np.cos(np.pi * (1 - done))) * (0.2 / 1e5 - 0.2) / 2
    np.testing.assert_allclose([rate(plan, step) for step in range(40)], expected, rtol=1e-4)
    warm = plan_of(lr=0.2, schedule="flat_cosine", warmup_epochs=1, total=40)
    assert [rate(warm, step) for step in (0, 4, 9, 29)] == pytest.approx([0.02, 0.1, 0.2, 0.2])


def test_lengthening_says_what_depends_on_the_length():
    plain = TrainConfig(data=DataConfig(dataset="synthetic"), optimizer=OptimizerConfig(train_steps=40))
    for kind, exact in (("constant", True), ("one_cycle", False), ("flat_cosine", False), ("cosine", False)):
        before, after = (plan_of(lr=0.2, schedule=kind, total=total) for total in (20, 40))
        said = extension.consequence(plain, 20, before, after)
        assert said.startswith("exactly as a run of the new length") == exact and f"--schedule={kind}" in said
    grown = dataclasses.replace(plain, views=ViewConfig(view="random_resized_crop", progressive=(16,)))
    assert "the sizes of --progressive depend on the length" in extension.consequence(grown, 20, before, after)


def test_step_schedule_at_its_corners():
    plan = plan_of(lr=0.1, lr_steps=(32_000, 48_000))
    for step, expected in [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (64_000, 0.001)]:
        assert rate(plan, step) == pytest.approx(expected, rel=1e-5)


def test_epochs_are_turned_into_steps():
    plan = plan_of(lr_epochs=(1.5,))
    assert plan.boundaries == (15,)


def test_warm_up_lasts_until_an_epoch_has_a_low_error():
    plan = schedule.Schedule(0.1, boundaries=(80,), warmup_lr=0.01, warmup_until_error=0.8, epoch=20)
    state, rates = plan.initial_state(), []
    for step in range(100):
        rates.append(rate(plan, step, state))
        # The first epoch has a mean of 0.81, though its end is low; the second one of 0.79, and all later ones of 0.9.
        error = (0.9 if step < 18 else 0.0) if step < 20 else 0.79 if step < 40 else 0.9
        new = plan.advance(tf.constant(step, tf.int64), state, tf.constant(error))
        state = {name: float(value) for name, value in new.items()}
    # It ends with the second epoch and does not come back.
    assert rates == pytest.approx([0.01] * 40 + [0.1] * 40 + [0.01] * 20)
    assert state["error"] == 0.0  # an epoch ended with the last step


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
