"""Masks: for each pixel of an image the index of its class, in a PNG, which becomes a label or void."""

import dataclasses
import io
import struct

import numpy as np
import tensorflow as tf

from resnet_tf.data import images, orientation
from resnet_tf.data.examples import Examples, Storage
from resnet_tf.errors import InputError

VOID = 255  # the label of pixels that count neither in the loss nor in the score
MOST_CLASSES = 254  # labels are uint8
_REFUSED = 254  # what a table has for an index that stands for nothing
_GREY, _PALETTE = 0, 3  # colour types of PNG


def table(classes: int, first: int = 0, void: tuple[int, ...] = (VOID,)) -> np.ndarray:
    """What the indices of a mask stand for.

    Args:
        classes: how many there are.
        first: index of the first class; the others follow it.
        void: indices without a class.

    Returns:
        uint8 [256]: labels from 0 on, VOID, or a mark for indices that a mask must not have.
    """
    labels = np.full(256, _REFUSED, np.uint8)
    labels[list(void)] = VOID
    labels[first : first + classes] = np.arange(classes)
    return labels


def table_of(values: tuple[int, ...]) -> np.ndarray:
    """Returns what `table` does, for classes of these pixel values in their order; all other values are void."""
    labels = np.full(256, VOID, np.uint8)
    labels[list(values)] = np.arange(len(values))
    return labels


def is_refused(table: np.ndarray) -> np.ndarray:
    """Returns bool [256]: the values that a mask must not have."""
    return table == _REFUSED


@dataclasses.dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a split's images, each at the index of its image.

    Attributes:
        storage: of the encoded masks.
        table: see `table`.
    """

    storage: Storage
    table: np.ndarray

    def read(self, image: int) -> np.ndarray:
        """Returns the labels of an image's pixels, uint8 [H, W]; raises InputError, which names the mask."""
        name = self.storage.name(image)
        indices = decode(self.storage.read(image), name)
        labels = self.table[indices]
        if (labels == _REFUSED).any():
            raise InputError(f"{name}: index {indices[labels == _REFUSED].max()} is of no class")
        return labels

    def reader(self):
        """Returns function(int64 scalar tensor) -> labels, uint8 [H, W], for use in a graph."""
        read, labels = self.storage.reader(), tf.constant(self.table)

        def decoded(image):
            found = tf.gather(labels, tf.cast(_decode_tensor(read(image)), tf.int32))
            with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(found != _REFUSED), ["no such class"])]):
                return tf.identity(found)

        return decoded

    def fingerprint(self) -> bytes:
        """Returns bytes that differ where the masks are others."""
        return self.storage.fingerprint() + self.table.tobytes()


def decode(data: bytes, name: str = "mask") -> np.ndarray:
    """Decodes a mask outside of a graph.

    Args:
        data: a PNG of 8-bit grey values or of a palette of any depth, whose colours do not matter.
        name: what to call it in errors.

    Returns:
        uint8 [H, W]: the indices as they are stored.

    Raises:
        InputError: another format, colours instead of indices, damaged, or above `images.MAX_PIXELS`.
    """
    from PIL import Image, UnidentifiedImageError

    images.check_header(data, name)
    if not data.startswith(b"\x89PNG"):
        raise InputError(f"{name}: not a PNG, which masks are")
    depth, colour = struct.unpack_from(">BB", data, 24) if len(data) > 25 else (0, 0)
    if not (colour == _PALETTE or (colour == _GREY and depth == 8)):
        raise InputError(f"{name}: holds no class indices: save it as 8-bit grey values or with a palette")
    try:
        return np.asarray(Image.open(io.BytesIO(data)), np.uint8)
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{name}: damaged or truncated mask") from error


def _decode_tensor(data: tf.Tensor) -> tf.Tensor:
    """The same inside a graph. TensorFlow's decoder turns a palette into colours, so that Pillow reads those."""

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
    """Reads every image and mask of a split.

    Raises:
        InputError: names the first that cannot be decoded, does not fit its image, or has an index of no class.
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
