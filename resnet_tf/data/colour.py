"""Colour, on the device and batched: uint8 pixels in, the network's floats out.

Training, evaluation and export all call `Normalization`, so that they cannot differ.
"""

import dataclasses

import numpy as np
import tensorflow as tf

_CHUNK = 1024  # images at a time in float64: 25 MB of 32x32


@dataclasses.dataclass(frozen=True)
class Normalization:
    """(pixels - mean) / std.

    Attributes:
        mean: float32 [3] or [height, width, 3], in [0, 255].
        std: float32 [3] or a scalar array, above 0.
    """

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, images):
        """uint8 [..., height, width, 3] to float32 of the same shape."""
        return (tf.cast(images, tf.float32) - self.mean) * (np.float32(1) / self.std)


def normalization(kind, images):
    """The statistics of a training set.

    Args:
        kind: "channel": mean and standard deviation of each channel. "pixel": the mean image (He et
            al. 2015, section 4.2), over one standard deviation of all that remains; batch
            normalisation makes the network blind to that scale, which keeps half precision in range.
        images: uint8 [n, height, width, 3].

    Returns:
        A `Normalization`.
    """
    axes = (0, 1, 2) if kind == "channel" else 0
    total, squares = 0.0, 0.0
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK].astype(np.float64)
        total = total + chunk.sum(axes)
        squares = squares + np.square(chunk).sum(axes)
    count = images.size / np.size(total)
    mean = total / count
    variance = squares / count - np.square(mean)
    std = np.sqrt(variance if kind == "channel" else variance.mean())
    return Normalization(mean.astype(np.float32), np.maximum(std, 1e-3).astype(np.float32))
