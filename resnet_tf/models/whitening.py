"""The fixed first convolution of a whitened stem, computed from images."""

import keras
import numpy as np

LAYER = "stem_whiten"
SIDE = 3  # of the patches in pixels
EPSILON = 1e-2  # added to the variances, so that directions which images hardly have are not blown up; Page 2019
_AT_ONCE = 512  # images


def kernel(images: np.ndarray) -> np.ndarray:
    """Return filters whose responses to the 3x3 patches of images are uncorrelated and of variance 1.

    They are the eigenvectors of the second moments of the patches, each divided by the root of its eigenvalue plus
    `EPSILON`, the largest eigenvalue first; the largest entry of each is positive, so that machines agree on the sign
    (Page 2019, How to train your ResNet 8; in github.com/KellerJordan/cifar10-airbench too).

    Args:
        images: float32 [n, height, width, channels], normalised, of at least 3 pixels a side.

    Returns:
        float32 [3, 3, channels, 9 channels], a kernel of a convolution.
    """
    channels = images.shape[-1]
    size = SIDE * SIDE * channels
    moments, count = np.zeros((size, size)), 0
    for start in range(0, len(images), _AT_ONCE):
        part = images[start : start + _AT_ONCE]
        windows = np.lib.stride_tricks.sliding_window_view(part, (SIDE, SIDE), (1, 2))
        patches = np.moveaxis(windows, 3, -1).reshape(-1, size)  # [..., row, column, channel]
        moments += (patches.T @ patches).astype(np.float64)
        count += len(patches)
    values, vectors = np.linalg.eigh(moments / count)
    values, vectors = values[::-1], vectors[:, ::-1]
    largest = vectors[np.abs(vectors).argmax(0), np.arange(size)]
    scaled = vectors * np.sign(largest) / np.sqrt(np.maximum(values, 0) + EPSILON)
    return scaled.reshape(SIDE, SIDE, channels, size).astype(np.float32)


def is_whitened(model: keras.Model) -> bool:
    """Return whether a network has the fixed convolution."""
    return any(layer.name == LAYER for layer in model.layers)


def fit(model: keras.Model, images: np.ndarray) -> None:
    """Set the fixed convolution of a network for normalised images; see `kernel`."""
    model.get_layer(LAYER).kernel.assign(kernel(images))
