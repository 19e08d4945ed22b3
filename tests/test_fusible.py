"""What layers compute in programs of XLA's for a GPU: the values and gradients of the usual operations."""

import collections

import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf.models import fusible
from resnet_tf.models.layers import SumReLU


def value_and_gradients(function, *arguments, compiled=False):
    """Outputs and gradients of a weighted sum of the first."""

    def both():
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            outputs = tf.nest.flatten(function(*arguments))
            weights = tf.reshape(tf.sin(tf.range(tf.size(outputs[0]), dtype=tf.float32)), outputs[0].shape)
            loss = tf.reduce_sum(tf.cast(outputs[0], tf.float32) * weights)
        return [*outputs, *tape.gradient(loss, arguments)]

    return tf.function(both, jit_compile=compiled)()


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 1e-2)])  # of 24 and of 8 bits
# Sums of all pixels, of groups of two, of an odd number of pixels.
@pytest.mark.parametrize("shape", [(4, 5, 6, 7), (9, 16, 20, 65), (7, 15, 15, 75)])
def test_fusible_batch_norm_is_the_fused_kernel_and_its_gradient(shape, dtype, tolerance, rng):
    x = tf.constant(rng.normal(3, 2, shape), dtype)
    gamma, beta = (tf.constant(rng.normal(size=shape[-1]), tf.float32) for _ in range(2))
    count = x.shape[:-1].num_elements()

    def kernel(x, gamma, beta):
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=1e-3, is_training=True
        )
        return outputs, mean, variance * (count - 1) / count  # which it gives of a sample

    ours = value_and_gradients(lambda *given: fusible.batch_norm(*given, 1e-3), x, gamma, beta, compiled=True)
    theirs = value_and_gradients(kernel, x, gamma, beta)
    assert [value.dtype for value in ours] == [value.dtype for value in theirs]
    for a, b in zip(ours, theirs, strict=True):
        a, b = tf.cast(a, tf.float32).numpy(), tf.cast(b, tf.float32).numpy()
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.abs(b).max())


def test_fusible_relu_is_the_relu_and_its_gradient(rng):
    x = tf.constant(rng.integers(-2, 3, (2, 3, 4, 5)), tf.float16)  # zeros, where the gradient is zero
    ours = value_and_gradients(fusible.relu_of_sum, x, compiled=True)
    for a, b in zip(ours, value_and_gradients(tf.nn.relu, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_fusible_global_norm_is_the_norm(rng):
    shapes = [(), (1,), (7,), (5, 3), (3, 3, 4, 2)]
    tensors = [tf.constant(rng.normal(size=shape), tf.float32) for shape in shapes]
    norm = tf.function(fusible.global_norm, jit_compile=True)
    expected = np.sqrt(sum(np.sum(np.square(tensor.numpy(), dtype=np.float64)) for tensor in tensors))
    np.testing.assert_allclose(norm(tensors), expected, rtol=1e-6)  # of float32
    tensors[2] *= np.float32("inf")
    assert not np.isfinite(norm(tensors))  # by which a step that fails is told


def test_what_is_fusible_is_for_programs_of_a_gpu_alone(monkeypatch, rng):
    """There every layer that trains takes it, with the same outcome; elsewhere none, since no CPU or Keras needs it."""
    model = resnet_tf.create_model("test_resnet", input_shape=(32, 32, 3), num_classes=3)
    images = tf.constant(rng.normal(size=(4, 32, 32, 3)), tf.float32)
    taken = collections.Counter()

    def counted(name, function):
        return lambda *given: taken.update([name]) or function(*given)

    for function in ("batch_norm", "relu_of_sum", "max_pool"):
        monkeypatch.setattr(fusible, function, counted(function, getattr(fusible, function)))

    def step():
        with tf.GradientTape() as tape:
            outputs, statistics = model.stateless_call(
                [variable.value for variable in model.trainable_variables],
                [variable.value for variable in model.non_trainable_variables], images, training=True,
            )  # fmt: skip
            loss = tf.reduce_sum(outputs * [1.0, -1.0, 2.0])
        return [outputs, *statistics, *tape.gradient(loss, [variable.value for variable in model.trainable_variables])]

    expected = tf.function(step, jit_compile=True)()
    monkeypatch.setattr(fusible, "on_gpu", lambda: True)
    tf.function(step)()
    tf.function(lambda: model(images, training=False), jit_compile=True)()
    assert not taken
    found = tf.function(step, jit_compile=True)()
    # Of the stem three, of three basic blocks and a bottleneck two or three, and of three shortcuts.
    assert taken == {"batch_norm": 3 + 3 * 2 + 3 + 3, "relu_of_sum": 4, "max_pool": 1}
    assert not any(isinstance(layer, SumReLU) for layer in resnet_tf.create_model("resnet18_v2").layers)
    for a, b in zip(found, expected, strict=True):
        # Sums in another order; a ReLU's gradient may be let through on the other side of zero for that.
        assert np.linalg.norm(a - b) <= 1e-3 * np.linalg.norm(b) + 1e-6


@pytest.mark.parametrize("size", [(8, 8), (9, 9), (7, 10), (3, 4)])
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("side", [2, 3])
def test_pool_by_taps_is_the_max_pool_and_its_gradient(side, size, compiled, rng):
    # Few distinct values, so that most windows have several maxima: the first of them has the gradient.
    x = tf.constant(rng.integers(-2, 3, (2, *size, 5)), tf.float32)

    def both(pool):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = pool(x)
            loss = tf.reduce_sum(y * tf.reshape(tf.range(tf.size(y), dtype=tf.float32), y.shape))
        return y, tape.gradient(loss, x)

    pool = {2: fusible.max_pool_2x2, 3: fusible.max_pool}[side]
    ours = tf.function(lambda: both(pool), jit_compile=compiled)()
    theirs = both(lambda x: tf.nn.max_pool2d(x, side, 2, "VALID"))
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(a, b)
