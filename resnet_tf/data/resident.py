"""Sets that live on the device whole: order of examples, and the random view of each.

Everything random is stateless, a function of (seed, epoch) or (seed, epoch, example). So neither the
number of replicas nor a resume changes what is drawn.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from resnet_tf.data import draws


@dataclasses.dataclass(frozen=True)
class PadCrop:
    """How the random crop of images on the device is drawn; see `draw_views`."""

    pad: int = 0
    mirror: bool = False


@functools.lru_cache(maxsize=4)
def _permutation(examples, seed, epoch):
    return np.random.default_rng((seed, epoch)).permutation(examples).astype(np.int32)


def order(examples, batch, first_step, steps, seed):
    """Which examples make the batches of some steps.

    Each epoch is a permutation of its own; a batch may span the border between two.

    Args:
        examples: size of the training set.
        batch: examples of a global batch.
        first_step: the first step wanted, from 0.
        steps: how many.
        seed: of the run.

    Returns:
        int32 [steps, batch], indices below `examples`.
    """
    start, stop = first_step * batch, (first_step + steps) * batch
    parts = []
    for epoch in range(start // examples, -(-stop // examples)):
        origin = epoch * examples
        permutation = _permutation(examples, seed, epoch)
        parts.append(permutation[max(start - origin, 0) : min(stop - origin, examples)])
    return np.concatenate(parts).reshape(steps, batch) if parts else np.zeros((0, batch), np.int32)


def draw_views(keys, pad, mirror):
    """Draw the crop and the mirroring of some images.

    Args:
        keys: int64 [batch]; see `draws.keys`.
        pad: pixels added on each side before the crop.
        mirror: whether images are mirrored with probability 0.5.

    Returns:
        offsets, int32 [batch, 2], top and left of the crop in [0, 2 pad]; mirrored, bool [batch].
    """
    numbers = draws.uniform(keys, draws.Stream.GEOMETRY, 3)
    mirrored = numbers[:, 2] < 0.5 if mirror else tf.zeros(tf.shape(keys), tf.bool)
    # The minimum: in float32 a number just below 1 may come out as 2 pad + 1.
    return tf.minimum(tf.cast(numbers[:, :2] * (2 * pad + 1), tf.int32), 2 * pad), mirrored


def pad_crop_mirror(images, offsets, mirrored, pad):
    """Pad with zeros, crop to the size before, and mirror (He et al. 2015, section 4.2).

    One gather of pixels instead of a padded copy. Normalise first: zero is then the mean colour.

    Args:
        images: float [batch, height, width, channels].
        offsets: int32 [batch, 2]; see `draw_views`.
        mirrored: bool [batch].
        pad: pixels on each side.

    Returns:
        Images of the same shape.
    """
    if not pad:  # one pass that XLA fuses with what comes before, where a gather of pixels is a pass of its own
        return tf.where(mirrored[:, None, None, None], tf.reverse(images, [2]), images)
    batch, height, width, channels = images.shape
    columns = tf.range(width)
    columns = tf.where(mirrored[:, None], width - 1 - columns, columns) + offsets[:, 1:] - pad
    rows = tf.range(height) + offsets[:, :1] - pad
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = tf.clip_by_value(rows, 0, height - 1), tf.clip_by_value(columns, 0, width - 1)
    first = tf.range(batch)[:, None] * height  # row number of each image's first row in the flat batch
    pixels = (first + rows)[:, :, None] * width + columns[:, None, :]
    cropped = tf.gather(tf.reshape(images, [-1, channels]), pixels)
    return tf.where(inside[..., None], cropped, tf.zeros([], images.dtype))


def sampled(images, chosen, rows, columns):
    """Views of images, bilinear between the pixels of a grid: what `geometry.View` makes of encoded ones.

    Args:
        images: uint8 [n, height, width, channels], of fewer than 2^31 pixels in all.
        chosen: int32 [batch], indices below n.
        rows: float32 [batch, size] in [0, height - 1]; see `geometry.View.lines`.
        columns: float32 [batch, size] in [0, width - 1].

    Returns:
        uint8 [batch, size, size, channels], rounded to the nearest.
    """
    height, width, channels = images.shape[1:]
    flat = tf.reshape(images, [-1, channels])

    def around(places, last):
        before = tf.floor(places)
        index = tf.cast(before, tf.int32)
        return index, tf.minimum(index + 1, last), places - before

    top, bottom, down = around(rows, height - 1)
    left, right, across = around(columns, width - 1)

    def at(row, column):
        pixels = ((chosen[:, None] * height + row) * width)[:, :, None] + column[:, None, :]
        return tf.cast(tf.gather(flat, pixels), tf.float32)

    across, down = across[:, None, :, None], down[:, :, None, None]
    upper = at(top, left) + (at(top, right) - at(top, left)) * across
    lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * across
    return tf.cast(upper + (lower - upper) * down + 0.5, tf.uint8)
