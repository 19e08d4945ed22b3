"""Random numbers without state: a function of a key, and of nothing else.

Every example of every epoch has a key of its own, and every number is a hash of the key and of its place.
So nothing that is drawn depends on the batch, on the number of replicas or threads, or on where a run was
resumed; and every number is the same on the host and on the device, compiled by XLA or not.

The hash is the output function of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number
generators, OOPSLA 2014), computed on uint64 tensors.
"""

import enum
import math

import tensorflow as tf

_GAMMA = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio, odd: steps of a Weyl sequence


class Stream(enum.IntEnum):
    """What numbers are drawn for: more draws of one do not shift those of another."""

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


def keys(seed, epoch, example):
    """The key of each view.

    Args:
        seed: of the run, a Python integer; taken modulo 2^64.
        epoch: int64 [n], or a scalar.
        example: int64 [n], or a scalar.

    Returns:
        int64 [n]. Any other seed, epoch or example gives an unrelated key.
    """
    state = _mix(_constant(seed), 1)
    for part in (epoch, example):
        state = _mix(state, tf.bitcast(tf.convert_to_tensor(part, tf.int64), tf.uint64) + _constant(1))
    return tf.bitcast(state, tf.int64)


def uniform(keys, stream, count):
    """Uniform numbers, multiples of 2^-24.

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`, a Python integer.
        count: numbers for each key. The first ones do not depend on how many are asked for.

    Returns:
        float32 [..., count] in [0, 1).
    """
    state = _mix(tf.bitcast(tf.convert_to_tensor(keys, tf.int64), tf.uint64), int(stream))
    bits = _mix(state[..., None], tf.bitcast(tf.range(1, count + 1, dtype=tf.int64), tf.uint64))
    # By way of int32, which holds the 24 bits: casts between uint64 and floats are not everywhere.
    return tf.cast(tf.cast(tf.bitwise.right_shift(bits, _constant(40)), tf.int32), tf.float32) * 2.0**-24


def normal(keys, stream, count):
    """Normal numbers of mean 0 and variance 1, by Box and Muller (1958).

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`.
        count: numbers for each key.

    Returns:
        float32 [..., count], all finite and below 5.8 in magnitude.
    """
    numbers = uniform(keys, stream, 2 * count)
    radius = tf.sqrt(-2 * tf.math.log(1 - numbers[..., :count]))  # 1 - u is in (0, 1], and exact
    return radius * tf.cos(2 * math.pi * numbers[..., count:])


def beta(keys, stream, alpha):
    """Numbers from Beta(alpha, alpha), exactly and without rejection.

    If T is Student's t of 2 alpha degrees of freedom, (1 + T / sqrt(2 alpha + T^2)) / 2 is Beta(alpha, alpha); T
    itself is drawn by Bailey's polar method (Mathematics of Computation 62, 1994). Both together are written here so
    that no small alpha overflows.

    Args:
        keys: int64 [...]; see `keys`.
        stream: a `Stream`, whose first two numbers are used.
        alpha: above 0, a Python number.

    Returns:
        float32 [...] in [0, 1].

    Raises:
        ValueError: `alpha` is not above 0.
    """
    if not alpha > 0:
        raise ValueError(f"alpha={alpha}: a Beta distribution needs one above 0")
    numbers = uniform(keys, stream, 2)
    power = tf.exp(tf.math.log(1 - numbers[..., 0]) / alpha)  # u^(1 / alpha); 0 where that underflows
    # Half a step aside, so that no cosine is 0 (nor 0 / 0 below).
    cosine = tf.cos(2 * math.pi * (numbers[..., 1] + 2.0**-25))
    part = (1 - power) * tf.square(cosine)
    return 0.5 + 0.5 * tf.sign(cosine) * tf.sqrt(part / (power + part))


def _constant(number):
    return tf.constant(number % 2**64, tf.uint64)


def _mix(state, place):
    """SplitMix64's output `place` steps after `state`; uint64."""
    place = _constant(place) if isinstance(place, int) else place
    state = state + place * _constant(_GAMMA)
    state = (state ^ tf.bitwise.right_shift(state, _constant(30))) * _constant(0xBF58476D1CE4E5B9)
    state = (state ^ tf.bitwise.right_shift(state, _constant(27))) * _constant(0x94D049BB133111EB)
    return state ^ tf.bitwise.right_shift(state, _constant(31))
