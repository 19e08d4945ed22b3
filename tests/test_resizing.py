"""Antialiased resizing beside an exact reference, `tf.image.resize` and Pillow."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf.data import images, resizing

SHAPES = [(375, 500), (224, 500), (300, 301), (60, 80), (3000, 40), (700, 600)]


def exact(pixels, size, resize, interpolation):
    """The central crop of a scaled image in float64, as the docstrings define it; [size, size, 3]."""

    def weights(side, scaled):
        factor = side / scaled
        centres = ((scaled - size) // 2 + np.arange(size) + 0.5) * factor
        x = np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(factor, 1)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        cubic = np.where(x < 1, near, np.where(x < 2, far, 0))
        values = np.maximum(1 - x, 0) if interpolation == "bilinear" else cubic
        return values / values.sum(1, keepdims=True)

    height, width = pixels.shape[:2]
    tall, wide = images.scaled_sides(height, width, resize).numpy()
    across = np.matmul(weights(width, wide), pixels.astype(np.float64))
    if interpolation == "bicubic":
        across = np.clip(np.floor(across + 0.5), 0, 255)
    return np.tensordot(weights(height, tall), across, 1)


def window(way, pixels, size, resize, interpolation):
    sides = tf.constant(pixels.shape[:2], tf.int64)
    scaled = images.scaled_sides(*pixels.shape[:2], resize)
    offset, extent = (scaled - size) // 2, tf.constant([size, size])
    start, stop = resizing.source_window(sides, scaled, offset, extent, interpolation)
    part = tf.constant(pixels)[None, start[0] : stop[0], start[1] : stop[1]]
    return way(part, sides, start, scaled, offset, extent, interpolation)[0].numpy()


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact_and_the_kernel_nearly(shape, interpolation, rng):
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)  # noise is the worst case: neighbours differ most
    expected = exact(pixels, 224, 256, interpolation)
    found = window(resizing.by_products, pixels, 224, 256, interpolation)
    way = resizing.by_kernel if interpolation == "bilinear" else resizing.by_integers
    kernel = window(way, pixels, 224, 256, interpolation)
    if interpolation == "bilinear":
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-3)
        # The kernel computes positions in float32, which moves the taps by 1e-5 pixels of noise of 255 levels.
        np.testing.assert_allclose(kernel, expected, rtol=0, atol=1e-2)
    else:  # a value half-way between two levels may be rounded differently between the axes
        assert (np.abs(found - expected) > 1e-3).mean() < 1e-3 and np.abs(found - expected).max() < 1.2
        kernel_off = np.abs(kernel - np.clip(expected, 0, 255))  # whole levels
        assert (kernel_off > 0.501).mean() < 1e-3 and kernel_off.max() < 1.7


@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_way_is_pillow_to_a_level(shape, interpolation, rng):
    pixels = rng.integers(0, 256, (*shape, 3), np.uint8)
    tall, wide = images.scaled_sides(*shape, 256, interpolation).numpy().tolist()
    top, left = (images.margin(side, 224, interpolation) for side in (tall, wide))
    whole = Image.fromarray(pixels).resize((wide, tall), getattr(Image.Resampling, interpolation.upper()))
    theirs = np.asarray(whole)[top : top + 224, left : left + 224].astype(int)
    for on_gpu in (False, True):
        difference = np.abs(images.resize_center(pixels, 224, 256, interpolation, on_gpu).numpy().astype(int) - theirs)
        if interpolation == "bilinear":
            assert difference.max() <= 1
        elif not on_gpu or not tf.config.list_physical_devices("GPU"):
            assert difference.max() == 0
        else:  # a value half-way between two levels may be rounded otherwise between the axes
            assert difference.max() <= 2 and (difference > 1).mean() < 1e-4 and (difference > 0).mean() < 0.01


def test_factors_of_products_have_eleven_bits(rng):
    """So that multiplication in TF32 loses nothing of them."""
    values = (255 * rng.random(10_000)).astype(np.float32)
    high, low = (part.numpy() for part in resizing._split(tf.constant(values)))
    for part in (high, low):
        mantissa, _ = np.frexp(part)
        np.testing.assert_array_equal(mantissa * 2**11 % 1, 0)
    assert np.abs(values.astype(np.float64) - high - low).max() <= 2**-14  # float32 itself resolves 255 to 2**-16


def test_the_device_is_asked_when_the_graph_runs(rng, tmp_path):
    """In a graph that takes any size, is saved, and is loaded on a machine without a GPU, the kernel answers."""
    module = tf.Module()
    signature = [tf.TensorSpec([None, None, None, 3], tf.uint8)]
    module.view = tf.function(lambda pixels: images.resize_center(pixels, 32, 40, on_gpu=True), signature)
    tf.saved_model.save(module, str(tmp_path))
    loaded = tf.saved_model.load(str(tmp_path))
    for shape in ((2, 60, 80, 3), (1, 41, 333, 3), (3, 40, 50, 3)):
        pixels = rng.integers(0, 256, shape, np.uint8)
        expected = images.resize_center(pixels, 32, 40)
        if not tf.config.list_physical_devices("GPU"):
            np.testing.assert_array_equal(loaded.view(pixels), expected)
        assert np.abs(loaded.view(pixels).numpy().astype(int) - expected.numpy()).max() <= 1


@pytest.mark.skipif(not tf.config.list_physical_devices("GPU"), reason="needs a GPU")
@pytest.mark.parametrize("interpolation", resizing.INTERPOLATIONS)
def test_products_are_exact_on_a_gpu(interpolation, rng):
    pixels = rng.integers(0, 256, (375, 500, 3), np.uint8)
    found = window(resizing.by_products, pixels, 224, 256, interpolation)
    difference = np.abs(found - exact(pixels, 224, 256, interpolation))
    assert (difference > 1e-3).mean() < 1e-3 and difference.max() < (1e-3 if interpolation == "bilinear" else 1.2)
