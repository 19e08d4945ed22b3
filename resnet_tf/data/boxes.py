"""Boxes of objects, from annotations to pixels, and the columns of objects and detections that lie in one array."""

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
        starts: int64 [n + 1], where in what follows each example's objects begin, and where the last one's end.
        boxes: float32 [m, 4], top, left, bottom and right in pixels of the image, half-open: 0 <= top < bottom <=
            height.
        labels: int32 [m], their classes.
        ignored: bool [m], those that count neither as found nor as missed: difficult in PASCAL VOC, crowds in COCO.
    """

    starts: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.starts) - 1

    @property
    def most(self) -> int:
        """Objects of the example that has most of them."""
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

    def take(self, chosen) -> "Objects":
        """Returns those of the examples that an index array or a mask chooses."""
        examples = np.arange(len(self))[chosen]
        counts = np.diff(self.starts)[examples]
        starts = np.concatenate([[0], np.cumsum(counts)])
        where = np.arange(starts[-1]) + np.repeat(self.starts[examples] - starts[:-1], counts)
        return Objects(starts, self.boxes[where], self.labels[where], self.ignored[where])

    def fingerprint(self) -> bytes:
        """Returns bytes that differ where the objects are others."""
        return self.starts.astype("<i8").tobytes() + self._part(slice(None)).pack().astype("<f4").tobytes()


def clipped(corners: np.ndarray, sides: np.ndarray, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Turns corners into boxes that lie in their images.

    Args:
        corners: float [n, 4], top, left, bottom and right in pixels.
        sides: int [n, 2], height and width of the images.
        inclusive: whether pixels count from 1 and the last one belongs to the box, as in PASCAL VOC; else from 0, and
            it does not.

    Returns:
        [n, 4] of the type of `corners`, the same half-open, from 0 on and cut off at the image's edges; and bool [n],
        whether the box is good: one whose corners are in order, with area between them and within the image.
    """
    finite = np.isfinite(corners).all(axis=1)
    corners = np.where(finite[:, None], corners, 0)
    first, last = corners[:, :2], corners[:, 2:]
    start = np.maximum(first - int(inclusive), 0)
    stop = np.minimum(last, sides.astype(corners.dtype))
    good = finite & (first < last).all(axis=1) & (start < stop).all(axis=1)
    return np.concatenate([start, stop], axis=1), good


def from_corners(corners: np.ndarray, sides: np.ndarray, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Turns corners into boxes of whole pixels.

    Args:
        corners: see `clipped`; fractions are rounded.
        sides: see `clipped`.
        inclusive: see `clipped`.

    Returns:
        int32 [n, 4], top, left, height and width, cut off at the image's edges; and bool [n], whether the box is good.
    """
    placed, good = clipped(np.rint(corners), sides, inclusive)
    placed = np.concatenate([placed[:, :2], placed[:, 2:] - placed[:, :2]], axis=1)
    return np.where(good[:, None], placed, 0).astype(np.int32), good


def warn_skipped(what: str, names: list[str]) -> None:
    """Logs, in one line, whose boxes were not good; nothing where there are none.

    Args:
        what: the data.
        names: of the image of each such box.
    """
    if names:
        skipped = listed(list(dict.fromkeys(names)))
        _log.warning("%s: skipped %d boxes without area in the image: %s", what, len(names), skipped)


def sides_of(data: tf.Tensor) -> tf.Tensor:
    """Height and width of an encoded image, upright, in a graph; of a JPEG or PNG without decoding it: int64 [2]."""

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
    """Returns an encoded image, in a graph, which fails for one whose height and width are not `sides`, int64 [2]."""
    same = tf.reduce_all(sides_of(data) == sides)
    with tf.control_dependencies([tf.debugging.Assert(same, ["another size than its annotation says"])]):
        return tf.identity(data)


def other_size(found, sides, data: bytes) -> str:
    """What is wrong with an encoded image of one size whose annotation says another."""
    said = f"{found[0]} x {found[1]} pixels, but its annotation says {sides[0]} x {sides[1]}"
    return said + orientation.advice(data)


def verify(examples) -> None:
    """Decodes every image of a split with objects.

    Raises:
        InputError: names the first that cannot be decoded, or has another size than its annotation or a box says.
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
