"""Views of an image for training and evaluation, uint8 on the host: a crop, its size, mirrored or not.

The caller passes the random numbers of a view, so the functions here are deterministic. Only the visible part of a JPEG
is decoded. Views show the upright image, after its orientation tag (EXIF) is applied.

Scaling is bilinear with half-pixel centres and antialiasing; views for evaluation may be bicubic. The exception is
`random_resized_crop`, which shrinks by a factor of 2, 4 or 8 inside the JPEG decoder, which averages, and by the rest
without antialiasing, as MXNet and OpenCV do; docs/performance.md says what antialiasing would cost and change.
"""

import dataclasses
import math

import tensorflow as tf

from resnet_tf.data import decoding, images, resizing
from resnet_tf.errors import InputError

DRAWS = 24  # random numbers per view
_TRIES = 10  # as in torchvision and MXNet
POSITION, MIRROR = 2 * _TRIES, 2 * _TRIES + 2  # indices of the random numbers for position and mirroring


@dataclasses.dataclass(frozen=True)
class View:
    """A random view for training.

        view = View("random_resized_crop", 224)
        pixels = view(data, tf.random.uniform([DRAWS]))  # encoded image -> uint8 [224, 224, 3]

    Attributes:
        kind: one of VIEWS.
        size: height and width of the view in pixels.
        area: random_resized_crop: smallest and largest fraction of the image area.
        aspect: random_resized_crop: smallest and largest ratio of width to height.
        scale: scale_jitter: smallest and largest shorter side in pixels; resize_crop: the shorter side.
        mirror: whether views are mirrored with probability 0.5.
    """

    kind: str
    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    scale: tuple[int, ...] = (256, 480)
    mirror: bool = True

    def __post_init__(self):
        """Refuse a kind that there is not.

        Raises:
            InputError: it names those that there are.
        """
        if self.kind not in VIEWS:
            raise InputError(f"view={self.kind}: not one of {', '.join(VIEWS)}, the random views of training")

    def __call__(self, data: tf.Tensor, draws: tf.Tensor, box: tf.Tensor | None = None) -> tf.Tensor:
        """Decode a view of an image.

        Args:
            data: scalar string, an encoded JPEG, PNG, BMP, GIF or WebP.
            draws: float32 [DRAWS], random numbers in [0, 1).
            box: int32 [4], top, left, height and width of the part of the image to use; None for the whole image.

        Returns:
            uint8 [size, size, 3].

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, if the data cannot be decoded or are too large.
        """
        view = decoding.on_image(data, box, lambda image: VIEWS[self.kind](image, draws, self))
        if self.mirror:
            view = tf.cond(draws[MIRROR] < 0.5, lambda: tf.reverse(view, [1]), lambda: view)
        return tf.ensure_shape(view, [self.size, self.size, 3])

    def box(self, height: int, width: int, draws: tf.Tensor) -> tuple[list[float], bool]:
        """Return the part of an image that the view shows.

        Args:
            height: height of the image in pixels.
            width: width of the image in pixels.
            draws: see `__call__`.

        Returns:
            Top, left, height and width in pixels of the image; and whether the view is mirrored.
        """
        mirrored = self.mirror and bool(draws[MIRROR] < 0.5)
        if VIEWS[self.kind] is random_resized_crop:
            box = random_box(tf.constant(height), tf.constant(width), draws, self.area, self.aspect)
            return [float(side) for side in box], mirrored
        position = random_place(tf.constant(height), tf.constant(width), draws, self.scale, self.size)
        scaled_height, scaled_width, top, left = (int(number) for number in position)
        return _unscaled(top, left, self.size, height / scaled_height, width / scaled_width), mirrored

    def lines(self, height: int, width: int, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the positions of the rows and columns of the view in a decoded image; see `resident.sampled`.

        Args:
            height: height of the image in pixels.
            width: width of the image in pixels.
            draws: see `__call__`.

        Returns:
            float32 [size], [size], in pixels of the image; the centre of its first pixel is 0. The columns are reversed
            if the view is mirrored.
        """
        sides, size = (height, width), self.size
        if VIEWS[self.kind] is random_resized_crop:
            box = random_box(tf.constant(height), tf.constant(width), draws, self.area, self.aspect)
            rows, columns = (_line(box[axis], box[2 + axis] / size, size, box[axis], box[2 + axis]) for axis in (0, 1))
        else:
            position = random_place(tf.constant(height), tf.constant(width), draws, self.scale, size)
            spacing = [sides[axis] / position[axis] for axis in (0, 1)]
            offsets = [tf.cast(position[2 + axis], tf.float64) * spacing[axis] for axis in (0, 1)]
            rows, columns = (_line(offsets[axis], spacing[axis], size, 0, sides[axis]) for axis in (0, 1))
        if self.mirror:
            columns = tf.where(draws[MIRROR] < 0.5, columns[::-1], columns)
        return rows, columns

    def resized(self, size: int) -> "View":
        """Return the view with another side in pixels, which shows the same parts of images."""
        scale = tuple(round(side * size / self.size) for side in self.scale)
        return dataclasses.replace(self, size=size, scale=scale)

    def shrinks(self, height: int, width: int) -> bool:
        """Return whether a view may shrink the image so much that `__call__` averages pixels."""
        if VIEWS[self.kind] is random_resized_crop:
            return max(height, width) >= 2 * self.size
        return self.scale[0] < min(height, width)


def _line(start, spacing, size, first, extent):
    """Return the positions of `size` pixels from `start`, clipped to the centres of `extent` pixels from `first`."""
    centres = tf.cast(spacing, tf.float64) * (tf.range(size, dtype=tf.float64) + 0.5) - 0.5
    positions, first = tf.cast(start, tf.float64) + centres, tf.cast(first, tf.float64)
    return tf.cast(tf.clip_by_value(positions, first, first + tf.cast(extent, tf.float64) - 1), tf.float32)


# --- Training views --------------------------------------------------------------------------------------------------


def random_resized_crop(image, draws, view):
    """Resize a rectangle of random area and aspect ratio to a square (GoogLeNet; Bag of Tricks, section 2.1).

    Args:
        image: a `decoding.Encoded` or `decoding.Decoded`.
        draws: see `View`.
        view: a `View`.

    Returns:
        uint8 [size, size, 3].
    """
    return image.resized(random_box(image.height, image.width, draws, view.area, view.aspect), view.size)


def random_box(height, width, draws, area, aspect):
    """Draw the rectangle of `random_resized_crop`.

    Area and logarithm of the aspect ratio are uniform. The first of ten tries that fits into the image is used; if none
    fits, the largest central rectangle with the nearest allowed aspect ratio, as in torchvision.

    Args:
        height: height of the image, int32 scalar.
        width: width of the image, int32 scalar.
        draws: float32 [DRAWS] in [0, 1).
        area: smallest and largest fraction of the image area.
        aspect: smallest and largest ratio of width to height.

    Returns:
        Top, left, height and width: int32 scalars.
    """
    tall, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    pixels = tall * wide * (area[0] + (area[1] - area[0]) * draws[:_TRIES])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    root = tf.exp(0.5 * (low + (high - low) * draws[_TRIES : 2 * _TRIES]))
    side = tf.sqrt(pixels)
    sides = tf.cast(tf.round(tf.stack([side / root, side * root])), tf.int32)
    fits = (sides[0] <= height) & (sides[1] <= width) & (sides[0] > 0) & (sides[1] > 0)
    # One more try, which always fits.
    whole = tf.clip_by_value(wide / tall, aspect[0], aspect[1])
    last = tf.stack([tf.minimum(tall, wide / whole), tf.minimum(wide, tall * whole)])
    sides = tf.concat([sides, tf.maximum(1, tf.cast(tf.round(last), tf.int32))[:, None]], axis=1)
    index = tf.argmax(tf.concat([fits, [True]], axis=0))
    box_height, box_width = sides[0, index], sides[1, index]
    position = tf.where(index == _TRIES, 0.5, draws[POSITION : POSITION + 2])
    top = pick(height - box_height, position[0])
    left = pick(width - box_width, position[1])
    return top, left, box_height, box_width


def scale_jitter(image, draws, view):
    """Scale the shorter side to a random integer and crop a random square (He et al. 2015, section 3.4).

    Args:
        image: a `decoding.Encoded` or `decoding.Decoded`.
        draws: see `View`.
        view: a `View`, whose `scale` has the smallest and the largest integer.

    Returns:
        uint8 [size, size, 3].
    """
    return image.scaled(*random_place(image.height, image.width, draws, view.scale, view.size), view.size)


def random_place(height, width, draws, scale, size):
    """Draw the scaled height and width and the top and left of `scale_jitter`: four int64 scalars."""
    shorter = scale[0] + pick(scale[-1] - scale[0], draws[0])
    sides = images.scaled_sides(height, width, tf.cast(shorter, tf.int64))
    top = pick(sides[0] - size, draws[POSITION])
    left = pick(sides[1] - size, draws[POSITION + 1])
    return sides[0], sides[1], top, left


def pick(largest, draw):
    """Map a number in [0, 1) to an integer in [0, largest]."""
    dtype = largest.dtype if tf.is_tensor(largest) else tf.int32
    # float64, since in float32 the product of a number just below 1 may be rounded up to largest + 1.
    return tf.cast(tf.cast(draw, tf.float64) * tf.cast(largest + 1, tf.float64), dtype)


VIEWS = {
    "random_resized_crop": random_resized_crop,
    "scale_jitter": scale_jitter,
    "resize_crop": scale_jitter,  # with one scale instead of a range (the VOC recipe)
}


# --- Views for evaluation --------------------------------------------------------------------------------------------


def center(
    data: tf.Tensor, size: int, resize: int = 0, box: tf.Tensor | None = None, interpolation: str = ""
) -> tf.Tensor:
    """Scale the shorter side of an image to `resize` and crop the central square: uint8 [size, size, 3].

    Args:
        data: scalar string, an encoded image.
        size: side of the square in pixels.
        resize: length of the shorter side in pixels; 0 for `size`.
        box: see `View`.
        interpolation: see `images.resize_center`.
    """
    return images.resize_center(decoding.decoded(data, box), size, resize, interpolation)


def ten_crop(
    data: tf.Tensor, size: int, resize: int = 0, box: tf.Tensor | None = None, interpolation: str = ""
) -> tf.Tensor:
    """Crop corners and centre of an image and of its mirror image (Krizhevsky 2012; He et al. 2015, section 4.1).

    Args:
        data: scalar string, an encoded image.
        size: side of the squares in pixels.
        resize: shorter side of the scaled image in pixels; 0 for `size`.
        box: see `View`.
        interpolation: see `images.resize_center`.

    Returns:
        uint8 [10, size, size, 3]: top left, top right, bottom left, bottom right, centre; then the same crops of the
        mirrored image, whose top left is the mirrored top right. torchvision's TenCrop has the same order.
    """
    image = decoding.Decoded(decoding.decoded(data, box))
    height, width = tf.unstack(images.scaled_sides(image.height, image.width, resize or size, interpolation))
    positions = _six_positions(height, width, size)
    kernel = interpolation or "bilinear"
    crops = tf.stack([image.scaled(height, width, top, left, size, kernel) for top, left in positions])
    return tf.concat([crops[:5], tf.reverse(tf.gather(crops, _MIRRORED), [2])], axis=0)


def ten_boxes(height: int, width: int, size: int, resize: int = 0, interpolation: str = "") -> list[list[float]]:
    """Return the parts of an image that `ten_crop` shows.

    Args:
        height: height of the image in pixels.
        width: width of the image in pixels.
        size: see `ten_crop`.
        resize: see `ten_crop`.
        interpolation: see `ten_crop`.

    Returns:
        Top, left, height and width in pixels of the image, for each of the ten crops; the last five are mirrored.
    """
    tall, wide = images.scaled_sides(height, width, resize or size, interpolation)
    positions = _six_positions(tall, wide, size)
    boxes = [_unscaled(int(top), int(left), size, height / int(tall), width / int(wide)) for top, left in positions]
    return boxes[:5] + [boxes[index] for index in _MIRRORED]


# Indices of the positions that become corners and centre of the mirrored image, in the order of the first five.
_MIRRORED = [1, 0, 3, 2, 5]


def _six_positions(height, width, size):
    """Return top and left of the four corners, of the centre, and of the centre of the mirrored image.

    If the margin is odd, the centre is rounded to the left and the centre of the mirrored image to the right.
    """
    bottom, right, zero = height - size, width - size, tf.zeros([], tf.int64)
    corners = [(zero, zero), (zero, right), (bottom, zero), (bottom, right)]
    return [*corners, (bottom // 2, right // 2), (bottom // 2, right - right // 2)]


def _unscaled(top, left, size, down, across):
    """Return a square of the scaled image as top, left, height and width in pixels of the original image."""
    return [top * down, left * across, size * down, size * across]


def scaled_whole(data: tf.Tensor, resize: int, box: tf.Tensor | None = None, interpolation: str = "") -> tf.Tensor:
    """Scale the shorter side of the whole image, for fully convolutional evaluation (He et al. 2015, section 4.1).

    Args:
        data: scalar string, an encoded image.
        resize: shorter side of the scaled image in pixels.
        box: see `View`.
        interpolation: see `images.resize_center`.

    Returns:
        uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the scaled image would be too large.
    """
    pixels = decoding.decoded(data, box)
    shape = tf.shape(pixels)
    sides = images.scaled_sides(shape[0], shape[1], resize, interpolation)
    with tf.control_dependencies([images.check_pixels(sides[0], sides[1])]):
        sides = tf.identity(sides)
    return resizing.resize_window(pixels, sides, tf.zeros([2], tf.int64), sides, interpolation or "bilinear")
