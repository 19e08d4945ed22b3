"""Order and random views of small sets: complete, stateless, and distributed as they should be."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_tf.data import colour, draws, resident


@settings(deadline=None, max_examples=50)
@given(
    examples=st.integers(1, 60), batch=st.integers(1, 25), cut=st.integers(0, 12), steps=st.integers(0, 12),
    seed=st.integers(0, 3),
)  # fmt: skip
def test_order_is_whole_epochs_and_does_not_depend_on_calls(examples, batch, cut, steps, seed):
    whole = resident.order(examples, batch, 0, cut + steps, seed)
    parts = [resident.order(examples, batch, 0, cut, seed), resident.order(examples, batch, cut, steps, seed)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    flat = whole.reshape(-1)
    for start in range(0, len(flat) - examples + 1, examples):
        np.testing.assert_array_equal(np.sort(flat[start : start + examples]), np.arange(examples))


def test_order_differs_by_epoch_and_seed():
    epochs = resident.order(100, 100, 0, 2, seed=0)
    assert (epochs[0] != epochs[1]).any()
    assert (epochs[0] != resident.order(100, 100, 0, 1, seed=1)[0]).any()


def views(epoch, seed=0, batch=20_000, pad=4, mirror=True):
    keys = draws.keys(seed, tf.constant(epoch, tf.int64), tf.range(batch, dtype=tf.int64))
    return [draw.numpy() for draw in resident.draw_views(keys, pad, mirror)]


def test_views_are_uniform_and_independent():
    offsets, mirrored = views(7)
    for axis in (0, 1):
        counts = np.bincount(offsets[:, axis], minlength=9)
        assert len(counts) == 9
        # Chi-squared of 8 degrees of freedom passes 31.8 once in 10,000.
        assert ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 31.8
    # A correlation of independent draws has standard deviation 1 / sqrt(20,000) = 0.007; five of them.
    correlations = np.corrcoef([offsets[:, 0], offsets[:, 1], mirrored])
    assert np.abs(correlations - np.eye(3)).max() < 0.036
    assert abs(mirrored.mean() - 0.5) < 0.018


def test_views_depend_on_epoch_and_seed_alone():
    for first, second in zip(views(3), views(3), strict=True):
        np.testing.assert_array_equal(first, second)
    assert (views(3)[0] != views(4)[0]).any()
    assert (views(3)[0] != views(3, seed=1)[0]).any()
    assert not views(3, mirror=False)[1].any()


def reference_view(image, offset, mirrored, pad):
    padded = np.pad(image, [(pad, pad), (pad, pad), (0, 0)])
    top, left = offset
    crop = padded[top : top + image.shape[0], left : left + image.shape[1]]
    return crop[:, ::-1] if mirrored else crop


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("pad, shape", [(4, (32, 32, 3)), (2, (5, 7, 3)), (0, (6, 6, 3))])
def test_pad_crop_mirror_equals_numpy(jit, pad, shape, rng):
    images = rng.normal(size=(16, *shape)).astype(np.float32)
    offsets, mirrored = views(0, batch=16, pad=pad)
    function = tf.function(lambda x, o, m: resident.pad_crop_mirror(x, o, m, pad), jit_compile=jit)
    expected = [reference_view(*parts, pad) for parts in zip(images, offsets, mirrored, strict=True)]
    np.testing.assert_array_equal(function(images, tf.constant(offsets), tf.constant(mirrored)), expected)


def test_normalization_by_channel_and_by_pixel(rng):
    images = rng.integers(0, 256, (1500, 6, 6, 3), dtype=np.uint8)
    for kind, axes in (("channel", (0, 1, 2)), ("pixel", 0)):
        normalised = colour.normalization(kind, images)(images).numpy()
        np.testing.assert_allclose(normalised.mean(axes), 0, atol=1e-5)
        np.testing.assert_allclose(normalised.std((0, 1, 2) if kind == "channel" else None), 1, atol=1e-5)
    assert colour.normalization("pixel", images).mean.shape == (6, 6, 3)


def test_normalization_of_a_constant_image_is_finite():
    assert np.isfinite(
        colour.normalization("channel", np.full((3, 4, 4, 3), 7, np.uint8))(np.zeros((1, 4, 4, 3)))
    ).all()
