"""RandAugment: each operation beside Pillow's, the choice of operations, and the same wherever it runs."""

import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from resnet_tf.data import draws, randaugment
from resnet_tf.data.augmentation import Augmentation

NAMES = list(randaugment.OPERATIONS)
SIZE = (37, 51)  # so that no shift of the magnitudes below ends exactly at a pixel centre


def keys(count):
    return draws.keys(0, tf.constant(0, tf.int64), tf.range(count, dtype=tf.int64))


@pytest.fixture(scope="module")
def images():
    """Smooth colours of a part of the range, noise, one colour, and an image of two."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(30, 220, (4, 5, 3), np.uint8)).resize(SIZE[::-1], Image.Resampling.BICUBIC)
    two = np.full((*SIZE, 3), 7, np.uint8)
    two[5:9, 3:20] = (250, 7, 100)
    noise = rng.integers(0, 256, (*SIZE, 3), np.uint8)
    return np.stack([np.array(coarse), noise, np.full((*SIZE, 3), 90, np.uint8), two])


def affine(image, *matrix):
    fill = randaugment._FILL
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill)


def pillow(name, image, level, sign):
    """What timm's augment_ops would do, level in [0, 1]."""
    factor, (width, height) = max(0.1, 1 + sign * 0.9 * level), image.size
    added = np.arange(256) + int(level * 110)
    return {
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "rotate": lambda: image.rotate(sign * level * 30, Image.Resampling.BILINEAR, fillcolor=randaugment._FILL),
        "posterize": lambda: image.point([value & ~(2 ** (8 - 4 + int(level * 4)) - 1) for value in range(256)] * 3),
        "solarize": lambda: ImageOps.solarize(image, 256 - int(level * 256)),
        "solarize_add": lambda: image.point([min(255, added[v]) if v < 128 else v for v in range(256)] * 3),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "shear_x": lambda: affine(image, 1, sign * level * 0.3, 0, 0, 1, 0),
        "shear_y": lambda: affine(image, 1, 0, 0, sign * level * 0.3, 1, 0),
        "translate_x": lambda: affine(image, 1, 0, sign * level * 0.45 * width, 0, 1, 0),
        "translate_y": lambda: affine(image, 1, 0, 0, 0, 1, sign * level * 0.45 * height),
    }[name]()


@pytest.mark.parametrize("name", NAMES)
def test_operation_equals_pillow(name, images):
    for level, sign in ((0.6, 1.0), (0.6, -1.0), (1.0, 1.0), (0.0, 1.0), (0.33, -1.0)):
        choice = np.full(4, NAMES.index(name), np.int32)
        levels, signs = np.full(4, level, np.float32), np.full(4, sign, np.float32)
        seen = randaugment.carry_out(images, choice, levels, signs).numpy().astype(int)
        expected = np.stack([np.array(pillow(name, Image.fromarray(image), level, sign)) for image in images])
        different = np.abs(seen - expected)
        # Pillow computes in double, here it is integers of 11 to 18 bits behind the point: a level where a value is all
        # but whole, and in warps a pixel whose origin is all but on the border.
        assert (different > 1).any(axis=3).mean() < 0.002, (level, sign, different.max())
        assert (different > 0).mean() < 0.02, (level, sign)


def pillow_wide(name, image, strength, sign):
    """What torchvision's TrivialAugmentWide does with Pillow, strength in 0 to 30 (its _augmentation_space)."""
    factor, shift = 1 + sign * 0.99 * strength / 30, sign * int(32 * strength / 30)
    bits, threshold = 8 - round(strength / 5), 255 - 8.5 * strength
    return {
        "shear_x": lambda: affine(image, 1, sign * 0.99 * strength / 30, 0, 0, 1, 0),
        "shear_y": lambda: affine(image, 1, 0, 0, sign * 0.99 * strength / 30, 1, 0),
        "translate_x": lambda: affine(image, 1, 0, shift, 0, 1, 0),
        "translate_y": lambda: affine(image, 1, 0, 0, 0, 1, shift),
        "rotate": lambda: image.rotate(sign * 4.5 * strength, Image.Resampling.BILINEAR, fillcolor=randaugment._FILL),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(factor),
        "color": lambda: ImageEnhance.Color(image).enhance(factor),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(factor),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(factor),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "solarize": lambda: ImageOps.solarize(image, threshold),
        "autocontrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("name", list(randaugment.WIDE))
def test_wide_operation_equals_pillow(name, images):
    for strength, sign in ((0, 1.0), (7, -1.0), (13, 1.0), (21, -1.0), (29, 1.0), (30, 1.0), (30, -1.0)):
        choice = np.full(4, list(randaugment.WIDE).index(name), np.int32)
        levels, signs = np.full(4, strength / 30, np.float32), np.full(4, sign, np.float32)
        seen = randaugment.carry_out(images, choice, levels, signs, "trivialaugment").numpy().astype(int)
        expected = np.stack([np.array(pillow_wide(name, Image.fromarray(image), strength, sign)) for image in images])
        different = np.abs(seen - expected)
        assert (different > 1).any(axis=3).mean() < 0.002, (strength, sign, different.max())  # as above
        assert (different > 0).mean() < 0.02, (strength, sign)


def test_trivial_draws_are_as_likely():
    choices, levels, signs = (values.numpy() for values in randaugment.draw_trivially(keys(28_000)))
    counts = np.bincount(choices + 1, minlength=14)
    assert len(counts) == 14 and np.abs(counts - 2000).max() < 216  # binomial: five deviations of 43
    strengths = np.bincount(np.rint(levels * 30).astype(int))
    np.testing.assert_allclose(levels * 30, np.rint(levels * 30), atol=1e-5)
    assert len(strengths) == 31 and np.abs(strengths - 28_000 / 31).max() < 148  # five deviations of 29.6
    assert abs(signs.mean()) < 5 / math.sqrt(28_000)
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 20, 3), np.uint8)
    augmentation = Augmentation(trivialaugment=True)
    seen = augmentation.colour(pixels, keys(16), None).numpy()
    assert (seen != pixels).any(axis=(1, 2, 3)).sum() > 8
    alone = np.concatenate([augmentation.colour(pixels[i : i + 2], keys(16)[i : i + 2], None) for i in range(0, 16, 2)])
    np.testing.assert_array_equal(alone, seen)


def test_operations_are_as_likely_and_half_are_carried_out():
    count = 20_000
    choices, levels, signs = randaugment.draw(keys(count), 2, 6.0, 0.5)
    for choice, level, sign in zip(choices, levels, signs, strict=True):
        counts = np.bincount(choice.numpy() + 1, minlength=16)
        assert len(counts) == 16
        # Binomial: deviations of 71 for none and 25 for each operation; five of them.
        assert abs(counts[0] - count / 2) < 355 and np.abs(counts[1:] - count / 30).max() < 127
        assert abs(sign.numpy().mean()) < 5 / math.sqrt(count)
        assert abs(level.numpy().mean() - 0.6) < 0.0018 and abs(level.numpy().std() - 0.05) < 0.00125
    assert abs(np.corrcoef(choices[0], choices[1])[0, 1]) < 0.036
    plain = randaugment.draw(keys(100), 3, 10.0)
    assert len(plain[0]) == 3 and np.all(plain[1][0] == 1)


def test_the_same_eager_in_a_dataset_compiled_and_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (16, 24, 20, 3), np.uint8)
    batch = pixels, keys(16)
    augmentation = Augmentation(randaugment=(2, 9, 0.5))

    def apply(pixels, keys):
        return augmentation.colour(pixels, keys, None)

    expected = apply(*batch).numpy()
    assert (expected != pixels).any(axis=(1, 2, 3)).sum() > 8  # a quarter has no operation
    inside = next(iter(tf.data.Dataset.from_tensors(batch).map(apply)))
    compiled = tf.function(apply, jit_compile=True)(*batch)
    alone = np.concatenate([apply(pixels[i : i + 2], batch[1][i : i + 2]) for i in range(0, 16, 2)])
    np.testing.assert_array_equal(alone, expected)
    for found in (inside, compiled):
        np.testing.assert_array_equal(found, expected)


def test_off_adds_nothing_to_the_program():
    def operations(augmentation):
        function = tf.function(lambda pixels, keys: augmentation.colour(pixels, keys, None))
        graph = function.get_concrete_function(tf.TensorSpec([4, 8, 8, 3], tf.uint8), tf.TensorSpec([4], tf.int64))
        return [operation.type for operation in graph.graph.get_operations()]

    assert operations(Augmentation()) == ["Placeholder", "Placeholder", "Cast", "Identity"]
    assert len(operations(Augmentation(randaugment=(2, 6)))) > 4
