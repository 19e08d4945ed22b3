"""Stateless random numbers, which depend on a key only.

Every example of every epoch has its own key, and every number is a hash of the key and of its index. Random numbers
therefore do not depend on the batch, the number of replicas or threads, or the step at which a run was resumed. They
are the same on host and device, with and without XLA.

The hash is the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators,
OOPSLA 2014), computed on uint64 tensors.
"""

import enum
import math

import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd: the increment of a Weyl sequence


class Stream(enum.IntEnum):
    """The purposes of random numbers. The numbers of one stream do not depend on the other streams."""

    GEOMETRY = 1
    COLOUR = 2
    LIGHTING = 3
    ERASING = 4
    MIXING = 5
    PLACING = 6
    OPERATIONS = 7
    MAGNITUDES = 8
    DROPOUT = 9
    ANCHORS = 10
    REGIONS = 11
    MIRRORING = 12


def keys(seed: int, epoch, example) -> tf.Tensor:
    """Return the key of each view, int64 [n]; another seed, epoch or example gives an unrelated key.

    Args:
        seed: seed of the run, taken modulo 2^64; an int64 scalar tensor where one program serves many seeds.
        epoch: int64 [n], or a scalar.
        example: int64 [n], or a scalar.
    """
    state = _mix(tf.bitcast(seed, tf.uint64) if tf.is_tensor(seed) else _constant(seed), 1)
    for part in (epoch, example):
        state = _mix(state, tf.bitcast(tf.convert_to_tensor(part, tf.int64), tf.uint64) + _constant(1))
    return tf.bitcast(state, tf.int64)


def uniform(keys: tf.Tensor, stream: int, count: int) -> tf.Tensor:
    """Draw uniform numbers, multiples of 2^-24.

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`.
        count: how many numbers to draw per key. Drawing more does not change the first ones.

    Returns:
        float32 [..., count] in [0, 1).
    """
    state = _mix(tf.bitcast(tf.convert_to_tensor(keys, tf.int64), tf.uint64), int(stream))
    bits = _mix(state[..., None], tf.bitcast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64))
    # Cast to int32 first, which holds the 24 bits: not every device can cast uint64 to floats.
    return tf.cast(tf.cast(tf.bitwise.right_shift(bits, _constant(40)), tf.int32), tf.float32) * 2.0**-24


def alternating(seed: int, epoch: tf.Tensor, example: tf.Tensor) -> tf.Tensor:
    """Return numbers that mirror each example in every other epoch, where numbers below 0.5 mirror.

    The number of an example is a hash of the seed and its index, half a turn on in each epoch: half of the examples
    are mirrored in the first epoch, and every pair of epochs shows both sides of each (Jordan 2024, arXiv 2404.00498,
    section 3.6).

    Args:
        seed: as for `keys`.
        epoch: int64 [n], from 0.
        example: int64 [n].

    Returns:
        float32 [n] in [0, 1).
    """
    first = uniform(keys(seed, tf.zeros_like(epoch), example), Stream.MIRRORING, 1)[..., 0]
    turned = first + 0.5 * tf.cast(epoch % 2, tf.float32)
    return tf.where(turned < 1, turned, turned - 1)


def normal(keys: tf.Tensor, stream: int, count: int) -> tf.Tensor:
    """Draw normal numbers of mean 0 and variance 1, by the method of Box and Muller (1958).

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`.
        count: how many numbers to draw per key.

    Returns:
        float32 [..., count], all finite and below 5.8 in magnitude.
    """
    numbers = uniform(keys, stream, 2 * count)
    radius = tf.sqrt(-2 * tf.math.log(1 - numbers[..., :count]))  # 1 - u is in (0, 1], and exact
    return radius * tf.cos(2 * math.pi * numbers[..., count:])


def beta(keys: tf.Tensor, stream: int, alpha: float) -> tf.Tensor:
    """Draw numbers from Beta(alpha, alpha), exactly and without rejection.

    If T is Student's t of 2 alpha degrees of freedom, (1 + T / sqrt(2 alpha + T^2)) / 2 is Beta(alpha, alpha). T is
    drawn by Bailey's polar method (Mathematics of Computation 62, 1994). The two formulas are combined here such that a
    small alpha does not overflow.

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`; its first two numbers are used.
        alpha: above 0.

    Returns:
        float32 [...] in [0, 1].

    Raises:
        ValueError: `alpha` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: a Beta distribution needs one above 0")
    numbers = uniform(keys, stream, 2)
    power = tf.exp(tf.math.log(1 - numbers[..., 0]) / alpha)  # u^(1 / alpha); underflows to 0
    # Shifted by half of the numbers' spacing, so that no cosine is 0, which would give 0 / 0 below.
    cosine = tf.cos(2 * math.pi * (numbers[..., 1] + 2.0**-25))
    part = (1 - power) * tf.square(cosine)
    return 0.5 + 0.5 * tf.sign(cosine) * tf.sqrt(part / (power + part))


def _constant(number):
    return tf.constant(number % 2**64, tf.uint64)


def _mix(state, index):
    """Return number `index` of the SplitMix64 sequence that begins at `state`; uint64."""
    index = _constant(index) if isinstance(index, int) else index
    state = state + index * _constant(_GAMMA)
    state = (state ^ tf.bitwise.right_shift(state, _constant(30))) * _constant(0xBF58476D1CE4E5B9)
    state = (state ^ tf.bitwise.right_shift(state, _constant(27))) * _constant(0x94D049BB133111EB)
    return state ^ tf.bitwise.right_shift(state, _constant(31))
