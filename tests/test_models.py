"""Counts in closed form, and the structure that counts alone do not show."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf.errors import InputError
from resnet_tf.models import blocks, find, layers, variants


def trainable(model):
    return sum(math.prod(variable.shape) for variable in model.trainable_variables)


def closed_form(n, option):
    """Parameters of a CIFAR v1 net of 6n+2 layers, ten classes, counted by hand from the paper's table."""
    count = 3 * 9 * 16 + 2 * 16  # stem
    for stage, width in enumerate((16, 32, 64)):
        before = width // 2 if stage else width
        first = 9 * before * width + 9 * width * width + 4 * width
        rest = 18 * width * width + 4 * width
        count += first + (n - 1) * rest
        if option == "B" and stage:
            count += before * width + 2 * width
        if option == "C":
            count += before * width + (n - 1) * width * width + n * 2 * width
    return count + 64 * 10 + 10


# He et al. 2015 and the closed form agree on these.
GOLDEN = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}


@pytest.mark.parametrize("depth", GOLDEN)
def test_cifar_golden_counts(depth):
    assert closed_form((depth - 2) // 6, "A") == GOLDEN[depth]
    assert trainable(resnet_tf.create_model(f"cifar_resnet{depth}_v1")) == GOLDEN[depth]
    if depth < 110:
        assert trainable(resnet_tf.create_model(f"cifar_plain{depth}")) == GOLDEN[depth]


@pytest.mark.parametrize("depth", [8, 14, 20, 26])
@pytest.mark.parametrize("option", "ABC")
def test_any_depth_and_shortcut(depth, option):
    model = resnet_tf.create_model(f"cifar_resnet{depth}_v1", shortcut=option)
    assert trainable(model) == closed_form((depth - 2) // 6, option)
    projections = [layer.name for layer in model.layers if layer.name.endswith("shortcut_conv")]
    n = (depth - 2) // 6
    assert len(projections) == {"A": 0, "B": 2, "C": 3 * n}[option]
    if option == "B":
        assert projections == ["stage2_block1_shortcut_conv", "stage3_block1_shortcut_conv"]


def test_strides_are_where_the_paper_has_them():
    model = resnet_tf.create_model("cifar_resnet14_v1", shortcut="B")
    strided = {
        layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv2D) and layer.strides != (1, 1)
    }
    assert strided == {
        "stage2_block1_conv1",
        "stage2_block1_shortcut_conv",
        "stage3_block1_conv1",
        "stage3_block1_shortcut_conv",
    }


def test_plain_net_has_no_second_path():
    kinds = {type(layer).__name__ for layer in resnet_tf.create_model("cifar_plain20").layers}
    assert not kinds & {"Add", "PaddedIdentity", "Concatenate"}


def test_shortcut_a_has_no_parameters_and_keeps_pixels():
    layer = variants.PaddedIdentity(filters=5, stride=2)
    for size in (6, 7):
        images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
        outputs = layer(images).numpy()
        assert outputs.shape == tuple(layer.compute_output_shape(images.shape))
        np.testing.assert_array_equal(outputs[..., :3], images[:, ::2, ::2])
        assert not outputs[..., 3:].any()
    assert not layer.weights


def reference_conv(x, kernel, stride):
    """A convolution by definition, in float64: pad (k - 1) / 2 on every side, then slide."""
    k = kernel.shape[0]
    pad = (k - 1) // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    height, width = ((side - k) // stride + 1 for side in x.shape[1:3])
    out = np.zeros((x.shape[0], height, width, kernel.shape[3]))
    for row in range(height):
        for column in range(width):
            window = x[:, row * stride : row * stride + k, column * stride : column * stride + k]
            out[:, row, column] = np.tensordot(window, kernel, axes=3)
    return out


def reference_forward(model, x, n):
    """The CIFAR v1 net with shortcut A in NumPy, from the paper, with the model's own weights."""
    weights = {variable.path: variable.numpy().astype(np.float64) for variable in model.variables}

    def conv_bn(x, conv, bn, stride):
        x = reference_conv(x, weights[f"{conv}/kernel"], stride)
        gamma, beta, mean, var = (weights[f"{bn}/{k}"] for k in ("gamma", "beta", "moving_mean", "moving_variance"))
        return (x - mean) / np.sqrt(var + 1e-5) * gamma + beta

    x = np.maximum(conv_bn(x.astype(np.float64), "stem_conv", "stem_bn", 1), 0)
    for stage in (1, 2, 3):
        for block in range(1, n + 1):
            name, stride = f"stage{stage}_block{block}", 2 if stage > 1 and block == 1 else 1
            y = np.maximum(conv_bn(x, f"{name}_conv1", f"{name}_bn1", stride), 0)
            y = conv_bn(y, f"{name}_conv2", f"{name}_bn2", 1)
            shortcut = x[:, ::stride, ::stride]
            shortcut = np.pad(shortcut, [(0, 0)] * 3 + [(0, y.shape[-1] - x.shape[-1])])
            x = np.maximum(y + shortcut, 0)
    return x.mean(axis=(1, 2)) @ weights["logits/kernel"] + weights["logits/bias"]


@pytest.mark.parametrize("size", [32, 31])
def test_graph_equals_an_independent_forward_pass(size, rng):
    model = resnet_tf.create_model("cifar_resnet8_v1", input_shape=(size, size, 3))
    for variable in model.variables:  # random statistics too: fresh ones hide a wrong epsilon or order
        low, high = (0.5, 1.5) if "variance" in variable.path or "gamma" in variable.path else (-0.3, 0.3)
        variable.assign(rng.uniform(low, high, variable.shape))
    images = rng.normal(size=(2, size, size, 3)).astype(np.float32)
    expected = reference_forward(model, images, 1)
    # float32 sums of up to 576 products, thrice over: a few units in the sixth digit.
    np.testing.assert_allclose(model(images, training=False), expected, rtol=0, atol=2e-5 * expected.std() + 1e-6)


def test_batch_normalization_equals_keras_own(rng):
    images = rng.normal(2, 3, (8, 5, 5, 4)).astype(np.float32)
    ours = layers.BatchNormalization(**layers.BATCH_NORM)
    theirs = keras.layers.BatchNormalization(**layers.BATCH_NORM)
    for training in (True, True, False):
        np.testing.assert_allclose(ours(images, training=training), theirs(images, training=training), atol=2e-6)
    for a, b in zip(ours.variables, theirs.variables, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, err_msg=a.path)


@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "cifar_plain8", "cifar_resnet8_v2"])
def test_gradients_reach_every_variable(name, rng):
    model = resnet_tf.create_model(name)
    with tf.GradientTape() as tape:
        logits = model(rng.normal(size=(4, 32, 32, 3)).astype(np.float32), training=True)
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1, 2, 3], logits))
    variables = [variable.value for variable in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None and np.any(gradient), variable.path


def test_he_initialisation_is_fan_out_and_seeded():
    kernel = resnet_tf.create_model("cifar_resnet8_v1", seed=1).get_layer("stage3_block1_conv2").kernel.numpy()
    # Standard error of a standard deviation from n draws is 1 / sqrt(2 n) of it: 0.4% for 36,864; five of them.
    assert abs(kernel.std() / math.sqrt(2 / (9 * 64)) - 1) < 0.02
    again = resnet_tf.create_model("cifar_resnet8_v1", seed=1).get_layer("stage3_block1_conv2").kernel.numpy()
    other = resnet_tf.create_model("cifar_resnet8_v1", seed=2).get_layer("stage3_block1_conv2").kernel.numpy()
    np.testing.assert_array_equal(kernel, again)
    assert np.abs(kernel - other).max() > 0.01


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_in_every_precision(policy, rng):
    model = resnet_tf.create_model("cifar_resnet8_v1", dtype=policy)
    assert model(rng.normal(size=(2, 32, 32, 3)).astype(np.float32)).dtype == tf.float32
    assert model.get_layer("stage1_block1_conv1").compute_dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in model.variables} == {"float32"}


def test_model_saves_and_loads(tmp_path, rng):
    model = resnet_tf.create_model("cifar_resnet8_v1")
    model.save(tmp_path / "model.keras")
    images = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(model(images), loaded(images))


@pytest.mark.parametrize(
    "name, expected",
    [
        ("cifar_resnet21_v1", ["cifar_resnet20_v1", "cifar_resnet26_v1"]),
        ("cifar_resnet25_v1", ["cifar_resnet26_v1", "cifar_resnet20_v1"]),
        ("cifar_plain3", ["cifar_plain8"]),
        ("resnet51_v1", ["resnet50_v1"]),
        ("cifar_plain20_v1", ["cifar_plain20"]),
    ],
)
def test_unknown_name_says_the_nearest(name, expected):
    with pytest.raises(InputError) as error:
        resnet_tf.create_model(name)
    named = str(error.value).split("nearest")[1]
    assert named.index(expected[0]) == min(named.index(other) for other in expected)
    assert name in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name, shortcut", [("cifar_plain20", "B"), ("resnet50_v1", "A"), ("cifar_resnet20_v1", "D")])
def test_impossible_shortcut_is_refused(name, shortcut):
    with pytest.raises(InputError, match="--shortcut"):
        resnet_tf.create_model(name, shortcut=shortcut)


def test_bottleneck_stride():
    def plan(name, sampling):
        return [part[:4] for part in blocks.convolutions(find(name), 64, sampling)]

    step = blocks.Sampling(stride=2)
    assert plan("resnet50_v1", step) == [(1, 64, 2, 1), (3, 64, 1, 1), (1, 256, 1, 1)]
    assert plan("resnet50_v1b", step) == [(1, 64, 1, 1), (3, 64, 2, 1), (1, 256, 1, 1)]
    removed = blocks.Sampling(stride=2, dilation=2, removed=True)
    assert plan("resnet50_v1b", removed) == [(1, 64, 1, 2), (3, 64, 1, 2), (1, 256, 1, 4)]
