"""Colour and mixing: distributed as the papers say, equal to plain NumPy, the same wherever they run."""

import numpy as np
import pytest
import tensorflow as tf

from resnet_tf.data import colour, draws, mixing
from resnet_tf.data.augmentation import Augmentation

COUNT = 20_000
ALL_ON = Augmentation((0.4, 0.4, 0.4, 0.4), lighting=0.1, erasing=0.5, mixup=0.2, cutmix=1.0)


def some_keys(count=COUNT, seed=0, epoch=0):
    return draws.keys(seed, tf.constant(epoch, tf.int64), tf.range(count, dtype=tf.int64))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (16, 24, 20, 3), np.uint8)
    return tf.constant(pixels), tf.one_hot(rng.integers(0, 7, 16), 7), some_keys(16)


# --- Draws -----------------------------------------------------------------------------------------------------------


def test_keys_are_all_different():
    grid = tf.meshgrid(tf.range(50, dtype=tf.int64), tf.range(200, dtype=tf.int64))
    found = [draws.keys(seed, *(tf.reshape(axis, [-1]) for axis in grid)).numpy() for seed in range(5)]
    assert len(set(np.concatenate(found).tolist())) == 50_000


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_a_seed_gives_the_same_keys_as_a_tensor(seed):
    """Trainings whose set is on the device take it as data of their program."""
    np.testing.assert_array_equal(some_keys(9, tf.constant(seed, tf.int64)), some_keys(9, seed))


def test_numbers_are_uniform_and_independent():
    numbers = draws.uniform(some_keys(), draws.Stream.GEOMETRY, 4).numpy()
    assert numbers.min() >= 0 and numbers.max() < 1
    neighbours = [
        *numbers.T,
        [*numbers[1:, 0].tolist(), 0.5],  # the next example
        draws.uniform(some_keys(epoch=1), draws.Stream.GEOMETRY, 1)[:, 0],
        draws.uniform(some_keys(seed=1), draws.Stream.GEOMETRY, 1)[:, 0],
        draws.uniform(some_keys(), draws.Stream.COLOUR, 1)[:, 0],
    ]
    # A correlation has standard deviation 1 / sqrt(20,000) = 0.0071, and there are 28 of them; five of it.
    assert np.abs(np.corrcoef(neighbours) - np.eye(len(neighbours))).max() < 0.036
    for values in numbers.T:
        # Chi-squared of 99 degrees of freedom passes 161 once in 10,000.
        counts = np.bincount((values * 100).astype(int), minlength=100)
        assert ((counts - COUNT / 100) ** 2 / (COUNT / 100)).sum() < 161


def test_normal_numbers_have_their_moments():
    values = draws.normal(some_keys(), draws.Stream.LIGHTING, 3).numpy()
    assert np.isfinite(values).all()
    # Standard deviations over 60,000: of the mean 0.0041, variance 0.0058, fourth moment 0.040; five of each.
    assert abs(values.mean()) < 0.021 and abs((values**2).mean() - 1) < 0.029 and abs((values**4).mean() - 3) < 0.2


@pytest.mark.parametrize("alpha", [0.1, 0.2, 1.0, 2.5])
def test_beta_has_its_mean_and_variance(alpha):
    values = draws.beta(some_keys(), draws.Stream.MIXING, alpha).numpy().astype(float)
    variance = 1 / (4 * (2 * alpha + 1))  # 0.179 for 0.2; a uniform lambda would have 0.083
    assert values.min() >= 0 and values.max() <= 1
    # Values lie in [0, 1], so the variance's deviation is at most 0.25 / sqrt(20,000) = 0.0018; five of each.
    assert abs(values.mean() - 0.5) < 5 * np.sqrt(variance / COUNT) and abs(values.var() - variance) < 0.009


# --- Colour ----------------------------------------------------------------------------------------------------------


def reference_jitter(image, brightness, contrast, saturation, hue):
    """Step by step on pixels, as one would write it down."""
    weights = np.array([0.299, 0.587, 0.114])
    image = image * brightness
    image = contrast * image + (1 - contrast) * (image @ weights).mean()
    grey = (image @ weights)[..., None]
    image = grey + saturation * (image - grey)
    yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    angle = (hue - 1) * np.pi
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    return image @ (np.linalg.inv(yiq) @ turn @ yiq).T


def test_jitter_equals_the_steps_one_by_one(batch):
    pixels, _, keys = batch
    strengths = (0.4, 0.3, 0.2, 0.1)
    seen = colour.transform(pixels, *colour.jitter(pixels, keys, strengths)).numpy()
    factors = 1 + (2 * draws.uniform(keys, draws.Stream.COLOUR, 4).numpy() - 1) * strengths
    for image, row, found in zip(pixels.numpy().astype(float), factors, seen, strict=True):
        # YIQ's rows do not sum to nought exactly (0.0001), which moves values by a few hundredths of a level.
        np.testing.assert_allclose(found, reference_jitter(image, *row), atol=0.1)


def test_jitter_factors_are_uniform():
    matrix, _ = colour.jitter(None, some_keys(), (0.4, 0, 0, 0))
    factors = matrix.numpy()[:, 0, 0]
    assert factors.min() >= 0.6 - 1e-6 and factors.max() <= 1.4 + 1e-6
    assert abs(factors.mean() - 1) < 0.009 and abs(factors.var() - 0.8**2 / 12) < 0.002


def test_grey_stays_grey_under_saturation_and_hue():
    grey = tf.constant(np.full((16, 4, 4, 3), 100, np.uint8))
    seen = colour.transform(grey, *colour.jitter(grey, some_keys(16), (0, 0, 1, 1))).numpy()
    np.testing.assert_allclose(seen, 100, atol=0.1)


def test_lighting_has_the_covariance_of_its_components():
    noise = colour.lighting(some_keys(), 0.1).numpy()
    expected = colour.EIGENVECTORS @ np.diag((0.1 * colour.EIGENVALUES) ** 2) @ colour.EIGENVECTORS.T
    # An entry's deviation is at most sqrt(2) x its variance of 10.3 / sqrt(20,000) = 0.10; five of it.
    assert np.abs(np.cov(noise.T) - expected).max() < 0.52 and np.abs(noise.mean(axis=0)).max() < 0.12


# --- Erasing and mixing ----------------------------------------------------------------------------------------------


def test_erasing_has_its_probability_and_area():
    boxes = mixing.erasing_boxes(some_keys(), 224, 224, 0.25).numpy()
    sides = boxes[:, 2:] - boxes[:, :2]
    erased = sides.min(axis=1) > 0
    # Ten tries fail all but never; the fraction's deviation is 0.0031.
    assert abs(erased.mean() - 0.25) < 0.016
    assert (boxes >= 0).all() and (boxes <= 224).all()
    area = sides[erased].prod(axis=1) / 224**2
    aspect = sides[erased, 0] / sides[erased, 1]
    assert area.min() > 0.018 and area.max() < 0.41
    assert aspect.min() > 0.28 and aspect.max() < 3.6
    # Large and long boxes fit less often, so the mean is somewhat below that of U[0.02, 0.4].
    assert 0.18 < area.mean() < 0.212 and abs(np.log(aspect).mean()) < 0.05


def test_erased_area_is_uniform_in_its_range():
    keys = some_keys()
    wide, narrow = (mixing.erasing_boxes(keys, 224, 224, 1.0, area).numpy() for area in ((0.02, 0.33), (0.02, 0.08)))
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) / 224**2 for boxes in (wide, narrow)]
    # Sides are rounded to pixels: 0.02 of the image in the longest box is 17 x 58 pixels, off by 4% at most.
    assert 0.019 < areas[0].min() < 0.021 and 0.32 < areas[0].max() < 0.335
    assert areas[1].min() > 0.019 and areas[1].max() < 0.0815
    # Every box of the narrow range fits. Its deciles lie where they should, by five deviations of 0.0035 of one, and
    # what rounding moves.
    spread = (areas[1] - 0.02) / 0.06
    np.testing.assert_allclose(np.quantile(spread, np.arange(1, 10) / 10), np.arange(1, 10) / 10, atol=0.02)


@pytest.mark.parametrize("fill", ["mean", "black"])
@pytest.mark.parametrize("kind", ["imagenet", "inception", "pixel"])
def test_erased_pixels_are_the_mean_or_black_and_others_stay(fill, kind, batch):
    pixels, targets, keys = batch
    normalization = colour.PUBLISHED.get(kind) or colour.normalization(kind, pixels.numpy())
    seen, _ = Augmentation(erasing=1.0, erasing_area=(0.1, 0.3), erasing_fill=fill).finish(
        pixels, targets, keys, normalization
    )
    boxes = mixing.erasing_boxes(keys, 24, 20, 1.0, (0.1, 0.3)).numpy()
    for image, found, (top, left, bottom, right) in zip(pixels.numpy().astype(float), seen.numpy(), boxes, strict=True):
        expected = (image - normalization.mean) / normalization.std
        black = image.copy()
        black[top:bottom, left:right] = 0  # erased first, then normalised
        expected[top:bottom, left:right] = 0
        if fill == "black":
            expected = (black - normalization.mean) / normalization.std
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_mixup_equals_numpy(batch):
    images, targets = colour.IMAGENET(batch[0]).numpy(), batch[1].numpy()
    mixed, mixed_targets, own = (value.numpy() for value in mixing.mixup(images, targets, batch[2], 0.2))
    partner = np.arange(16) ^ 1
    part = own[:, None, None, None]
    np.testing.assert_allclose(mixed, part * images + (1 - part) * images[partner], atol=1e-5)
    np.testing.assert_allclose(mixed_targets, own[:, None] * targets + (1 - own[:, None]) * targets[partner], atol=1e-6)
    np.testing.assert_array_equal(own, draws.beta(batch[2], draws.Stream.MIXING, 0.2))


def test_cutmix_lambda_is_the_share_of_pixels(batch):
    """Each image is of one value, which tells whose a pixel is."""
    values = np.arange(16, dtype=np.float32)
    images = np.broadcast_to(values[:, None, None, None], (16, 24, 20, 3))
    mixed, targets, own = (
        value.numpy() for value in mixing.cutmix(images.copy(), np.eye(16, dtype=np.float32), batch[2], 1.0)
    )
    share = (mixed == images).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(own, share, atol=1e-6)
    np.testing.assert_allclose(np.diag(targets), share, atol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    assert ((mixed == images) | (mixed == images[np.arange(16) ^ 1])).all() and 0 < own.min() < own.max() <= 1


def test_both_mixings_share_the_examples():
    keys = some_keys(2000)
    images = np.zeros((2000, 8, 8, 1), np.float32)
    images[1::2] = 1
    mixed, _, _ = mixing.mix(images, np.eye(2, dtype=np.float32)[np.arange(2000) % 2], keys, 1.0, 1.0)
    blended = ((mixed.numpy() != 0) & (mixed.numpy() != 1)).any(axis=(1, 2, 3))
    assert abs(blended.mean() - 0.5) < 0.06


def test_odd_batches_cannot_be_mixed(batch):
    with pytest.raises(ValueError, match="even"):
        mixing.mixup(colour.IMAGENET(batch[0][:3]), batch[1][:3], batch[2][:3], 0.2)


# --- All together ----------------------------------------------------------------------------------------------------


def apply(pixels, targets, keys):
    return ALL_ON.mix(ALL_ON.colour(pixels, keys, colour.IMAGENET), targets, keys)


def test_the_same_eager_in_a_dataset_and_compiled(batch):
    expected = apply(*batch)
    inside = next(iter(tf.data.Dataset.from_tensors(batch).map(apply)))
    compiled = tf.function(apply, jit_compile=True)(*batch)
    for found in (inside, compiled):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=2e-5)  # fused operations round less often


def test_replicas_make_of_their_part_what_one_makes_of_it(batch):
    whole = apply(*batch)
    halves = [apply(*(value[part] for value in batch)) for part in (slice(0, 8), slice(8, 16))]
    for index, value in enumerate(whole):
        np.testing.assert_allclose(np.concatenate([half[index] for half in halves]), value, atol=1e-5)


def test_nothing_on_is_normalisation_alone(batch):
    images = Augmentation().colour(batch[0], batch[2], colour.IMAGENET)
    np.testing.assert_array_equal(images, colour.IMAGENET(batch[0]))
    assert Augmentation().mix(images, batch[1], batch[2])[0] is images
