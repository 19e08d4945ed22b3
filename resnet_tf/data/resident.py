"""Order and random views of the examples of data sets that are held on the device.

All random numbers depend only on (seed, epoch) or (seed, epoch, example), not on the number of replicas or on whether a
run was resumed.
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


def order(examples: int, batch: int, first_step: int, steps: int, seed: int) -> np.ndarray:
    """Return the indices of the examples in the batches of consecutive training steps.

    Each epoch has its own permutation; a batch may contain examples of two epochs.

    Args:
        examples: number of training examples.
        batch: number of examples in a global batch.
        first_step: index of the first step.
        steps: number of steps.
        seed: seed of the run.

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


def draw_views(keys: tf.Tensor, pad: int, mirror: bool) -> tuple[tf.Tensor, tf.Tensor]:
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
    # In float32 the product with a number just below 1 may be rounded up to 2 pad + 1.
    return tf.minimum(tf.cast(numbers[:, :2] * (2 * pad + 1), tf.int32), 2 * pad), mirrored


def pad_crop_mirror(images: tf.Tensor, offsets: tf.Tensor, mirrored: tf.Tensor, pad: int) -> tf.Tensor:
    """Pad with zeros, crop to the original size, and mirror (He et al. 2015, section 4.2).

    This is one gather of pixels, without a padded copy. Normalise the images before, so that zero is the mean colour.

    Args:
        images: float [batch, height, width, channels].
        offsets: int32 [batch, 2]; see `draw_views`.
        mirrored: bool [batch].
        pad: pixels on each side.

    Returns:
        Images of the same shape.
    """
    if not pad:  # XLA fuses this with the preceding operations; it cannot fuse the gather below
        return tf.where(mirrored[:, None, None, None], tf.reverse(images, [2]), images)
    batch, height, width, channels = images.shape
    columns = tf.range(width)
    columns = tf.where(mirrored[:, None], width - 1 - columns, columns) + offsets[:, 1:] - pad
    rows = tf.range(height) + offsets[:, :1] - pad
    inside = ((rows >= 0) & (rows < height))[:, :, None] & ((columns >= 0) & (columns < width))[:, None, :]
    rows, columns = tf.clip_by_value(rows, 0, height - 1), tf.clip_by_value(columns, 0, width - 1)
    first = tf.range(batch)[:, None] * height  # index of the first row of each image in the flat batch
    pixels = (first + rows)[:, :, None] * width + columns[:, None, :]
    cropped = tf.gather(tf.reshape(images, [-1, channels]), pixels)
    return tf.where(inside[..., None], cropped, tf.zeros([], images.dtype))


def sampled(images: tf.Tensor, indices: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Return views of decoded images by bilinear interpolation, like `geometry.View` of encoded images.

    Args:
        images: uint8 [n, height, width, channels], with fewer than 2^31 pixels in total.
        indices: int32 [batch], indices below n.
        rows: float32 [batch, size] in [0, height - 1]; see `geometry.View.lines`.
        columns: float32 [batch, size] in [0, width - 1].

    Returns:
        uint8 [batch, size, size, channels], rounded to the nearest.
    """
    height, width, channels = images.shape[1:]
    flat = tf.reshape(images, [-1, channels])

    def around(positions, last):
        before = tf.floor(positions)
        index = tf.cast(before, tf.int32)
        return index, tf.minimum(index + 1, last), positions - before

    top, bottom, down = around(rows, height - 1)
    left, right, across = around(columns, width - 1)

    def at(row, column):
        pixels = ((indices[:, None] * height + row) * width)[:, :, None] + column[:, None, :]
        return tf.cast(tf.gather(flat, pixels), tf.float32)

    across, down = across[:, None, :, None], down[:, :, None, None]
    upper = at(top, left) + (at(top, right) - at(top, left)) * across
    lower = at(bottom, left) + (at(bottom, right) - at(bottom, left)) * across
    return tf.cast(upper + (lower - upper) * down + 0.5, tf.uint8)
