"""Masks for segmentation: PNGs that hold the class index of each pixel, which are mapped to labels or void."""

import dataclasses
import io
import struct

import numpy as np
import tensorflow as tf

from resnet_tf.data import images, orientation
from resnet_tf.data.examples import Examples, Storage
from resnet_tf.errors import InputError

VOID = 255  # the label of pixels that loss and metrics ignore
MOST_CLASSES = 254  # labels are uint8
_REFUSED = 254  # the entry of a table for an index without meaning
_GREY, _PALETTE = 0, 3  # colour types of PNG


def table(classes: int, first: int = 0, void: tuple[int, ...] = (VOID,)) -> np.ndarray:
    """Return the table that maps the indices of a mask to labels.

    Args:
        classes: number of classes.
        first: index of the first class; the others follow.
        void: indices of void pixels.

    Returns:
        uint8 [256]: labels from 0, VOID, or a mark for indices that a mask must not have.
    """
    labels = np.full(256, _REFUSED, np.uint8)
    labels[list(void)] = VOID
    labels[first : first + classes] = np.arange(classes)
    return labels


def table_of(values: tuple[int, ...]) -> np.ndarray:
    """Return the table that maps these pixel values to the labels 0, 1, ..., and all other values to VOID."""
    labels = np.full(256, VOID, np.uint8)
    labels[list(values)] = np.arange(len(values))
    return labels


def is_refused(table: np.ndarray) -> np.ndarray:
    """Return which values a mask must not have: bool [256]."""
    return table == _REFUSED


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a split; mask i belongs to image i.

    Attributes:
        storage: the encoded masks.
        table: see `table`.
    """

    storage: Storage
    table: np.ndarray

    def read(self, image: int) -> np.ndarray:
        """Return the labels of the pixels of an image, uint8 [H, W]; raises InputError, which names the mask."""
        name = self.storage.name(image)
        indices = decode(self.storage.read(image), name)
        labels = self.table[indices]
        if (labels == _REFUSED).any():
            raise InputError(f"{name}: index {indices[labels == _REFUSED].max()} belongs to no class")
        return labels

    def reader(self):
        """Return function(int64 scalar tensor) -> labels, uint8 [H, W], for use in a graph."""
        read, table = self.storage.reader(), tf.constant(self.table)

        def decoded(image):
            labels = tf.gather(table, tf.cast(_decode_tensor(read(image)), tf.int32))
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(labels != _REFUSED), ["no such class"])]):
                return tf.identity(labels)

        return decoded

    def fingerprint(self) -> bytes:
        """Return bytes that differ if the masks differ."""
        return self.storage.fingerprint() + self.table.tobytes()


def decode(data: bytes, name: str = "mask") -> np.ndarray:
    """Decode a mask outside of a graph.

    Args:
        data: a PNG of 8-bit grey values, or with a palette of any depth, whose colours do not matter.
        name: name of the mask in errors.

    Returns:
        uint8 [H, W]: the indices as they are stored.

    Raises:
        InputError: the mask has another format, holds colours instead of indices, is damaged, or is larger than
            `images.MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    images.check_header(data, name)
    if not data.startswith(b"\x89PNG"):
        raise InputError(f"{name}: not a PNG; masks must be PNGs")
    depth, colour = struct.unpack_from(">BB", data, 24) if len(data) > 25 else (0, 0)
    if not (colour == _PALETTE or (colour == _GREY and depth == 8)):
        raise InputError(f"{name}: holds no class indices: save it as 8-bit grey values or with a palette")
    try:
        return np.asarray(Image.open(io.BytesIO(data)), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name}: damaged or truncated mask") from error


def _decode_tensor(data: tf.Tensor) -> tf.Tensor:
    """Decode a mask inside a graph. Pillow reads masks with a palette, which TensorFlow would convert to colours."""

    def from_grey():
        with tf.control_dependencies([images.check_pixels(*images.declared_size(data))]):
            return tf.io.decode_png(data, channels=1)[..., 0]

    def from_other():
        return tf.ensure_shape(tf.numpy_function(decode, [data], tf.uint8, stateful=False), [None, None])

    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(data) > 32, ["truncated mask"])]):
        data = tf.identity(data)
    png = tf.equal(tf.strings.substr(data, 0, 4), b"\x89PNG")
    grey = tf.equal(tf.strings.substr(data, 24, 2), bytes([8, _GREY]))
    return tf.cond(png & grey, from_grey, from_other)


def verify(examples: Examples) -> None:
    """Read every image and mask of a split.

    Raises:
        InputError: an image or mask cannot be decoded, their sizes differ, or an index belongs to no class; names it.
    """
    for example, image in enumerate(examples.image):
        data = examples.read(example)
        pixels = images.decode(data, examples.name(example))
        labels = examples.masks.read(int(image))
        if labels.shape != pixels.shape[:2]:
            raise InputError(
                f"{examples.masks.storage.name(int(image))}: {labels.shape[0]} x {labels.shape[1]} pixels, but "
                f"{pixels.shape[0]} x {pixels.shape[1]} in {examples.name(example)}{orientation.advice(data)}"
            )
