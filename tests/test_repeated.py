"""Equal blocks computed in a loop: the same function and gradients as without, and the same training."""

import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf import train
from resnet_tf.models import repeated
from resnet_tf.runs import checkpoint

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.mark.parametrize(
    "name, shortcut, turn, loops",
    [
        ("cifar_resnet26_v1", "A", 1, [3, 3, 3]),
        ("cifar_resnet26_v1", "C", 1, [3, 3, 3]),
        ("cifar_resnet26_v2", None, 1, [3, 3, 3]),
        ("cifar_plain38", None, 2, [2, 2, 2]),  # five equal blocks: one before two turns of two
        pytest.param("resnet50_v1d", None, 1, [3, 5], marks=pytest.mark.slow),
    ],
)
def test_loops_compute_the_network(name, shortcut, turn, loops, monkeypatch, rng):
    monkeypatch.setattr(repeated, "LEAST", 3)
    monkeypatch.setattr(repeated, "A_TURN", [turn])
    model = resnet_tf.create_model(name, shortcut=shortcut, input_shape=(32, 32, 3), num_classes=10)
    network = repeated.of(model)
    assert network.loops == loops
    weights = [tf.convert_to_tensor(variable.value) for variable in model.trainable_variables]
    statistics = [
        tf.convert_to_tensor(rng.uniform(0.5, 1.5, variable.shape).astype(np.float32))
        for variable in model.non_trainable_variables
    ]
    images = tf.constant(rng.normal(size=(2, 32, 32, 3)), tf.float32)

    @tf.function(autograph=False)
    def step(network, training):
        with tf.GradientTape() as tape:
            tape.watch(weights)
            logits, new = network.stateless_call(weights, statistics, images, training=training)
            loss = tf.reduce_mean(tf.nn.log_softmax(logits)[:, 0])
        return logits, new, tape.gradient(loss, weights)

    for training in (False, True):
        pairs = zip(tf.nest.flatten(step(model, training)), tf.nest.flatten(step(network, training)), strict=True)
        for one, two in pairs:
            # oneDNN may choose another kernel within a loop, which adds in another order.
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5 * max(1, np.abs(one).max()))


def test_a_turn_has_some_blocks_and_few_are_left_over():
    """Of the networks of 1,202 and 1,001 layers: 18 turns of 11 blocks and one more, 11 turns of 10."""
    assert [repeated.blocks_a_turn(count) for count in (199, 110)] == [11, 10]


def test_networks_without_enough_equal_blocks_stay_as_they_are():
    model = resnet_tf.create_model("cifar_resnet110_v1")
    assert repeated.of(model) is model
    detector_like = resnet_tf.create_backbone("resnet50_v1b")
    assert repeated.of(detector_like) is detector_like


@pytest.mark.slow  # compiles two programs
def test_a_training_with_loops_is_that_without(tmp_path, monkeypatch, as_on_gpus):
    """As on a GPU, where loops are used, compiled by XLA for the CPU."""
    as_on_gpus()
    flags = [
        "--dataset=synthetic", "--image_size=8", "--model=cifar_resnet20_v1", "--batch_size=8", "--train_steps=3",
        "--precise_bn=2",
    ]  # fmt: skip
    saved = {}
    for name, least in (("loops", 2), ("none", 99)):
        monkeypatch.setattr(repeated, "LEAST", least)
        monkeypatch.setattr(repeated, "A_TURN", [1])
        assert train.main([*flags, f"--out={tmp_path}/{name}"]) == 0
        saved[name] = checkpoint.load_latest(tmp_path / name / "checkpoints")
    assert saved["loops"].keys() == saved["none"].keys()
    for key, value in saved["none"].items():
        np.testing.assert_allclose(saved["loops"][key], value, rtol=1e-3, atol=1e-4, err_msg=key)
