"""Bounding boxes: from annotations to pixels; and objects and detections packed into the columns of one array."""

import dataclasses
import logging
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from resnet_tf.data import images, orientation
from resnet_tf.data.splits import listed
from resnet_tf.errors import InputError

OBJECT, IGNORED = 1, 2  # kinds of an object; 0 is padding
PACKED = 6  # columns: the box, the class, and the kind of an object or the score of a detection

Values = np.ndarray | tf.Tensor

_log = logging.getLogger(__name__)


class Annotation(NamedTuple):
    """One object as a data set describes it."""

    label: str | int  # name or number of its class
    corners: list[float]  # top, left, bottom and right as they are written there
    ignored: bool  # see `Objects`


class ImageObjects(NamedTuple):
    """The objects of one image or of a batch, as NumPy arrays or as tensors."""

    boxes: Values  # float32 [..., k, 4], top, left, bottom and right in pixels
    labels: Values  # int32 [..., k], classes
    kinds: Values  # int32 [..., k], `OBJECT`, `IGNORED`, or 0 for padding

    def pack(self) -> Values:
        """Return float32 [..., k, PACKED]: top, left, bottom, right, class, kind."""
        return _pack(*self)

    @classmethod
    def unpack(cls, rows) -> "ImageObjects":
        """Return the objects that `pack` put into an array or a tensor."""
        boxes, labels, kinds = _unpack(rows)
        return cls(boxes, labels, _cast(kinds, "int32"))


class Detections(NamedTuple):
    """What a detector finds in one image or in a batch, as NumPy arrays or as tensors."""

    boxes: Values  # float32 [..., k, 4], top, left, bottom and right in pixels
    scores: Values  # float32 [..., k], the higher the surer
    labels: Values  # int32 [..., k], classes

    def pack(self) -> Values:
        """Return float32 [..., k, PACKED]: top, left, bottom, right, class, score."""
        return _pack(self.boxes, self.labels, self.scores)

    @classmethod
    def unpack(cls, rows) -> "Detections":
        """Return the detections that `pack` put into an array or a tensor."""
        boxes, labels, scores = _unpack(rows)
        return cls(boxes, scores, labels)


def _pack(boxes, labels, last):
    concat = tf.concat if tf.is_tensor(boxes) else np.concatenate
    return concat([_cast(part, "float32") for part in (boxes, labels[..., None], last[..., None])], axis=-1)


def _unpack(rows):
    return rows[..., :4], _cast(rows[..., 4], "int32"), rows[..., 5]


def _cast(values, dtype):
    return tf.cast(values, dtype) if tf.is_tensor(values) else np.asarray(values, dtype)


@dataclasses.dataclass(frozen=True, eq=False)
class Objects:
    """The objects of each example of a split.

    Attributes:
        starts: int64 [n + 1]; the objects of example i have the indices starts[i] to starts[i + 1] - 1.
        boxes: float32 [m, 4], top, left, bottom and right in pixels of the image, half-open: 0 <= top < bottom <=
            height.
        labels: int32 [m], classes of the objects.
        ignored: bool [m], objects that evaluation ignores: difficult ones in PASCAL VOC, crowds in COCO.
    """

    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.starts) - 1

    @property
    def most(self) -> int:
        """The largest number of objects in an example."""
        return int(np.diff(self.starts).max(initial=0))

    def of(self, example: int) -> ImageObjects:
        """Return the objects of one example."""
        return self._part(slice(self.starts[example], self.starts[example + 1]))

    def rows(self, example: int) -> np.ndarray:
        """Return float32 [k, PACKED], the objects of one example as views give them; see `ImageObjects.pack`."""
        return self.of(example).pack()

    def reader(self):
        """Return a function(int64 scalar tensor) -> `rows` of an example, for use in a graph."""
        starts, rows = tf.constant(self.starts), tf.constant(self._part(slice(None)).pack())
        return lambda example: rows[starts[example] : starts[example + 1]]

    def _part(self, part: slice) -> ImageObjects:
        kinds = np.where(self.ignored[part], IGNORED, OBJECT).astype(np.int32)
        return ImageObjects(self.boxes[part], self.labels[part], kinds)

    def take(self, indices: np.ndarray) -> "Objects":
        """Return the objects of the examples that an index array or a boolean mask selects."""
        examples = np.arange(len(self))[indices]
        counts = np.diff(self.starts)[examples]
        starts = np.concatenate([[0], np.cumsum(counts)])
        where = np.arange(starts[-1]) + np.repeat(self.starts[examples] - starts[:-1], counts)
        return Objects(starts, self.boxes[where], self.labels[where], self.ignored[where])

    def fingerprint(self) -> bytes:
        """Return bytes that differ if the objects differ."""
        return self.starts.astype("<i8").tobytes() + self._part(slice(None)).pack().astype("<f4").tobytes()


def clipped(corners: np.ndarray, sides: np.ndarray, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Clip boxes to their images.

    Args:
        corners: float [n, 4], top, left, bottom and right in pixels.
        sides: int [n, 2], height and width of the images.
        inclusive: True if pixels count from 1 and the last one belongs to the box, as in PASCAL VOC; False if they
            count from 0 and boxes are half-open.

    Returns:
        Half-open boxes that count from 0, [n, 4] of the type of `corners`; and bool [n], whether the box is valid: its
        corners are in order and it has an area within the image.
    """
    is_finite = np.isfinite(corners).all(axis=1)
    corners = np.where(is_finite[:, None], corners, 0)
    first, last = corners[:, :2], corners[:, 2:]
    start = np.maximum(first - int(inclusive), 0)
    stop = np.minimum(last, sides.astype(corners.dtype))
    good = is_finite & (first < last).all(axis=1) & (start < stop).all(axis=1)
    return np.concatenate([start, stop], axis=1), good


def from_corners(corners: np.ndarray, sides: np.ndarray, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Convert corners to boxes of whole pixels, clipped to their images.

    Args:
        corners: see `clipped`; fractions are rounded.
        sides: see `clipped`.
        inclusive: see `clipped`.

    Returns:
        int32 [n, 4], top, left, height and width; and bool [n], whether the box is valid.
    """
    boxes, good = clipped(np.rint(corners), sides, inclusive)
    boxes = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return np.where(good[:, None], boxes, 0).astype(np.int32), good


def warn_skipped(what: str, names: list[str]) -> None:
    """Log one line that names the images of invalid boxes; log nothing if there are none.

    Args:
        what: name of the data.
        names: name of the image of each invalid box.
    """
    if names:
        skipped = listed(list(dict.fromkeys(names)))
        _log.warning("%s: skipped %d boxes without area in the image: %s", what, len(names), skipped)


def sides_of(data: tf.Tensor) -> tf.Tensor:
    """Return height and width of an encoded image, upright, int64 [2]; JPEGs and PNGs are not decoded."""

    def of_jpeg():
        return orientation.upright_sides(tf.io.extract_jpeg_shape(data)[:2], orientation.of_jpeg(data))

    def of_png():
        stored = tf.io.decode_raw(tf.strings.substr(data, 16, 8), tf.int32, little_endian=False)[::-1]
        return orientation.upright_sides(stored, orientation.of(data))

    def of_other():
        is_png = tf.equal(tf.strings.substr(data, 0, 8), b"\x89PNG\r\n\x1a\n") & (tf.strings.length(data) >= 24)
        return tf.cond(is_png, of_png, lambda: tf.shape(images.decode_tensor(data))[:2])

    return tf.cast(tf.cond(tf.io.is_jpeg(data), of_jpeg, of_other), tf.int64)


def checked(data: tf.Tensor, sides: tf.Tensor) -> tf.Tensor:
    """Return an encoded image unchanged; the graph fails if its height and width are not `sides`, int64 [2]."""
    same = tf.reduce_all(sides_of(data) == sides)
    with tf.control_dependencies([tf.debugging.Assert(same, ["another size than its annotation says"])]):
        return tf.identity(data)


def other_size(actual, sides, data: bytes) -> str:
    """Return the error for an image of size `actual` whose annotation says `sides`."""
    reason = f"{actual[0]} x {actual[1]} pixels, but its annotation says {sides[0]} x {sides[1]}"
    return reason + orientation.advice(data)


def verify(examples) -> None:
    """Decode every image of a split with objects.

    Raises:
        InputError: an image cannot be decoded, or its size contradicts its annotation or a box; names the first one.
    """
    for example in range(len(examples)):
        data = examples.read(example)
        pixels = images.decode(data, examples.name(example))
        if examples.sides is not None and tuple(examples.sides[example]) != pixels.shape[:2]:
            raise InputError(f"{examples.name(example)}: {other_size(pixels.shape, examples.sides[example], data)}")
        bottoms_and_rights = examples.objects.of(example).boxes[:, 2:]
        if (bottoms_and_rights > pixels.shape[:2]).any():
            down, across = bottoms_and_rights.max(axis=0)
            raise InputError(
                f"{examples.name(example)}: {pixels.shape[0]} x {pixels.shape[1]} pixels, but a box down to "
                f"{down:g} and across to {across:g}{orientation.advice(data)}"
            )
