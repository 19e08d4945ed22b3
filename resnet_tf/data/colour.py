"""Convert batches of uint8 pixels to the network's float inputs on the device: random colours and normalisation.

Training, evaluation and export share `Normalization`, so that they cannot differ. The random colour changes of an
image are a single affine map of RGB, applied together with the normalisation in one pass over the pixels. Values are
neither clipped nor rounded in between, so they may leave [0, 255].
"""

import dataclasses
import math

import numpy as np
import tensorflow as tf

from resnet_tf.data import draws

# The luma of ITU-R BT.601, and the chroma axes I and Q of NTSC, which are zero for grey.
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
LUMA = _YIQ[0]
_GREY = np.ones((3, 1)) * LUMA  # maps RGB to grey
_CHROMA = np.eye(3) - _GREY
_TURN = np.linalg.inv(_YIQ) @ [[0, 0, 0], [0, 0, -1], [0, 1, 0]] @ _YIQ  # turns the chroma by 90 degrees

# Principal components of ImageNet's RGB in [0, 255], published with fb.resnet.torch: square roots of the eigenvalues of
# the covariance, and the eigenvectors as columns.
EIGENVALUES = np.array([55.46, 4.794, 1.148])
EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])

_CHUNK = 1024  # images that are float64 at the same time: 25 MB at 32x32


@dataclasses.dataclass(frozen=True)
class Normalization:
    """The normalisation (pixels - mean) / std.

        images = colour.IMAGENET(pixels)  # uint8 [batch, height, width, 3] -> float32

    Attributes:
        mean: float32 [3] or [height, width, 3], in [0, 255].
        std: float32 [3] or a scalar array, above 0.
    """

    mean: np.ndarray
    std: np.ndarray

    def __call__(self, images) -> tf.Tensor:
        """Normalise uint8 [..., height, width, 3] to float32 of the same shape."""
        return (tf.cast(images, tf.float32) - self.mean) * (np.float32(1) / self.std)


IMAGENET = Normalization(  # of Bag of Tricks (arXiv 1812.01187)
    np.array([123.68, 116.779, 103.939], np.float32), np.array([58.393, 57.12, 57.375], np.float32)
)
# The normalisations of published weights, under their libraries' names. Weights of caffe expect the channels in the
# order BGR; the code that loads them must reorder the channels of the first kernel.
PUBLISHED = {
    "imagenet": IMAGENET,
    "torchvision": Normalization(  # half a level from the former in green and blue
        255 * np.array([0.485, 0.456, 0.406], np.float32), 255 * np.array([0.229, 0.224, 0.225], np.float32)
    ),
    "inception": Normalization(np.full(3, 127.5, np.float32), np.full(3, 127.5, np.float32)),
    "caffe": Normalization(IMAGENET.mean, np.ones(3, np.float32)),
}


def normalization(kind: str, images: np.ndarray) -> Normalization:
    """Compute the normalisation of a training set.

    Args:
        kind: "channel" for the mean and standard deviation of each channel. "pixel" for the mean image (He et al.
            2015, section 4.2) and a single standard deviation of the differences from it, which batch normalisation
            cancels and which keeps half precision in range.
        images: uint8 [n, height, width, 3].
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


def jitter(images: tf.Tensor, keys: tf.Tensor, strengths) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw random brightness, contrast, saturation and hue (Bag of Tricks, section 2.1).

    Each change of strength s has a factor from U[1 - s, 1 + s]. They are applied in this order: brightness scales the
    image; contrast blends it with the mean of its luma; saturation scales its chroma about its luma (Rec. 601); hue
    turns its chroma in YIQ by (factor - 1) pi, as MXNet's operator does. According to the paper's text, hue, saturation
    and brightness change; the paper's code, a script of GluonCV, changes brightness, contrast and saturation.

    Args:
        images: uint8 or float [n, height, width, 3] in [0, 255]; used for contrast only.
        keys: int64 [n]; see `draws.keys`.
        strengths: strengths of brightness, contrast, saturation and hue, four Python numbers in [0, 1]: 0.4, 0, 0.4,
            0.4 in the paper's text, 0.4, 0.4, 0.4, 0 in its code.

    Returns:
        matrix, float32 [n, 3, 3], and offset, float32 [n, 3]: RGB becomes matrix @ RGB + offset.
    """
    factors = 1 + (2 * draws.uniform(keys, draws.Stream.COLOUR, 4) - 1) * tf.constant(strengths, tf.float32)
    brightness, contrast, saturation, hue = tf.unstack(factors, axis=1)
    angle = (hue - 1) * math.pi
    cosine, sine = tf.cos(angle)[:, None, None], tf.sin(angle)[:, None, None]
    # Saturation and hue do not change grey. Their product is therefore this sum, and the grey that contrast adds need
    # not be multiplied by it.
    grey, chroma, turn = (tf.constant(matrix, tf.float32) for matrix in (_GREY, _CHROMA, _TURN))
    matrix = grey + saturation[:, None, None] * (cosine * chroma + sine * turn)
    matrix *= (brightness * contrast)[:, None, None]
    if not strengths[1]:
        return matrix, tf.zeros_like(matrix[:, 0])
    means = tf.reduce_mean(tf.cast(images, tf.float32), [1, 2])
    mean_grey = tf.reduce_sum(means * tf.constant(LUMA, tf.float32), axis=1)
    return matrix, tf.repeat(((1 - contrast) * brightness * mean_grey)[:, None], 3, axis=1)


def lighting(keys: tf.Tensor, deviation: float) -> tf.Tensor:
    """Draw AlexNet's PCA noise: each principal component of ImageNet's RGB times N(0, deviation).

    Args:
        keys: int64 [n]; see `draws.keys`.
        deviation: standard deviation of the coefficients; 0.1 in AlexNet (Krizhevsky et al. 2012) and Bag of Tricks.

    Returns:
        float32 [n, 3], to be added to RGB in [0, 255].
    """
    components = tf.constant((EIGENVECTORS * EIGENVALUES).T * deviation, tf.float32)
    coefficients = draws.normal(keys, draws.Stream.LIGHTING, 3)
    # A sum instead of a matmul, which GPUs may round to 10 bits.
    return tf.reduce_sum(coefficients[:, :, None] * components, axis=1)


def transform(images: tf.Tensor, matrix=None, offset=None, normalization: Normalization | None = None) -> tf.Tensor:
    """Apply an affine map of RGB to each image and normalise it, in one pass.

    Args:
        images: uint8 or float [n, height, width, 3] in [0, 255].
        matrix: float32 [n, 3, 3]; None for the identity.
        offset: float32 [n, 3]; None for 0.
        normalization: a `Normalization`; None for no normalisation.

    Returns:
        float32 [n, height, width, 3].
    """
    if matrix is None and offset is None:
        return normalization(images) if normalization else tf.cast(images, tf.float32)
    mean, scale = (normalization.mean, np.float32(1) / normalization.std) if normalization else (0.0, 1.0)
    return _transform(images, matrix, offset, tf.constant(mean), tf.constant(scale))


# XLA is also used on CPUs, where this is nine times faster than without it, and three times faster than a matmul.
@tf.function(jit_compile=True, autograph=False)
def _transform(images, matrix, offset, mean, scale):
    """Mix the channels of each image by its matrix, add its offset, and normalize: float32 of the shape of `images`."""
    images = tf.cast(images, tf.float32)
    if matrix is not None:
        columns = tf.unstack(matrix[:, None, None], axis=-1)  # the contributions of R, G and B
        images = sum(images[..., channel : channel + 1] * columns[channel] for channel in range(3))
    if offset is not None:
        images += offset[:, None, None]
    return (images - mean) * scale
