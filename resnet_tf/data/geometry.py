"""Views of one image, on the host and in uint8: which part of it is seen, at which size, mirrored or not.

A view is drawn from numbers in [0, 1) that the caller gives, so nothing here is random by itself. Of a
JPEG only the part that is seen is decoded. All views are of the upright image, whose orientation tag
(EXIF) decoding has applied.

Scaling is bilinear with half-pixel centres. `random_resized_crop` shrinks by the whole part of the
factor (2, 4 or 8) inside the JPEG decoder, which averages, and by what remains without antialiasing, as
MXNet and OpenCV do; docs/performance.md has what antialiasing would cost and change. All other views
antialias, as evaluation does.
"""

import dataclasses
import math

import tensorflow as tf

from resnet_tf.data import boxes, decoding, images, masks

DRAWS = 24  # numbers that a view may use
_TRIES = 10  # as in torchvision and MXNet
_POSITION, MIRROR = 2 * _TRIES, 2 * _TRIES + 2  # where in the draws the position and the mirroring are


@dataclasses.dataclass(frozen=True)
class View:
    """What a training view is.

    Attributes:
        kind: one of VIEWS.
        size: height and width of the view in pixels.
        area: random_resized_crop: smallest and largest part of the image's area.
        aspect: random_resized_crop: smallest and largest width over height.
        scale: scale_jitter: smallest and largest shorter side in pixels; resize_crop: the one.
        mirror: whether views are mirrored with probability 0.5.
    """

    kind: str
    size: int
    area: tuple[float, float] = (0.08, 1.0)
    aspect: tuple[float, float] = (3 / 4, 4 / 3)
    scale: tuple[int, ...] = (256, 480)
    mirror: bool = True

    def __call__(self, data, draws, box=None):
        """Decodes a view of an image.

        Args:
            data: scalar string, an encoded JPEG, PNG, BMP, GIF or WebP.
            draws: float32 [DRAWS] in [0, 1).
            box: int32 [4], top, left, height and width: the part of the image that stands for the whole.

        Returns:
            uint8 [size, size, 3].

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, for data that cannot be decoded or are too large.
        """
        view = decoding.on_image(data, box, lambda image: VIEWS[self.kind](image, draws, self))
        if self.mirror:
            view = tf.cond(draws[MIRROR] < 0.5, lambda: tf.reverse(view, [1]), lambda: view)
        return tf.ensure_shape(view, [self.size, self.size, 3])

    def box(self, height, width, draws):
        """Which part of an image the view shows.

        Args:
            height: of the image in pixels, an integer.
            width: likewise.
            draws: see `__call__`.

        Returns:
            Top, left, height and width in pixels of the image, floats; and whether it is mirrored.
        """
        mirrored = self.mirror and bool(draws[MIRROR] < 0.5)
        if VIEWS[self.kind] is random_resized_crop:
            box = random_box(tf.constant(height), tf.constant(width), draws, self.area, self.aspect)
            return [float(side) for side in box], mirrored
        place = random_place(tf.constant(height), tf.constant(width), draws, self.scale, self.size)
        tall, wide, top, left = (int(number) for number in place)
        return _unscaled(top, left, self.size, height / tall, width / wide), mirrored

    def lines(self, height, width, draws):
        """Where the rows and columns of the view lie in an image that is held as pixels; see `resident.sampled`.

        Args:
            height: of the image in pixels, a Python integer.
            width: likewise.
            draws: see `__call__`.

        Returns:
            float32 [size], [size]: pixels of the image, the centre of its first one being 0. Columns go from right to
            left where the view is mirrored.
        """
        sides, size = (height, width), self.size
        if VIEWS[self.kind] is random_resized_crop:
            box = random_box(tf.constant(height), tf.constant(width), draws, self.area, self.aspect)
            rows, columns = (_line(box[axis], box[2 + axis] / size, size, box[axis], box[2 + axis]) for axis in (0, 1))
        else:
            place = random_place(tf.constant(height), tf.constant(width), draws, self.scale, size)
            steps = [sides[axis] / place[axis] for axis in (0, 1)]
            offsets = [tf.cast(place[2 + axis], tf.float64) * steps[axis] for axis in (0, 1)]
            rows, columns = (_line(offsets[axis], steps[axis], size, 0, sides[axis]) for axis in (0, 1))
        if self.mirror:
            columns = tf.where(draws[MIRROR] < 0.5, columns[::-1], columns)
        return rows, columns

    def shrinks(self, height, width):
        """Whether a view of an image may be so much smaller than its part of it that `__call__` averages pixels."""
        if VIEWS[self.kind] is random_resized_crop:
            return max(height, width) >= 2 * self.size
        return self.scale[0] < min(height, width)


def _line(start, step, size, first, extent):
    """Places of `size` pixels from `start` on, `step` apart, none beyond the centres of the outermost of `extent`."""
    places = tf.cast(start, tf.float64) + tf.cast(step, tf.float64) * (tf.range(size, dtype=tf.float64) + 0.5) - 0.5
    first = tf.cast(first, tf.float64)
    return tf.cast(tf.clip_by_value(places, first, first + tf.cast(extent, tf.float64) - 1), tf.float32)


# --- Training views --------------------------------------------------------------------------------------------------


def random_resized_crop(image, draws, view):
    """A rectangle of random area and aspect, resized to a square (GoogLeNet; Bag of Tricks, section 2.1).

    Args:
        image: a `decoding.Encoded` or `decoding.Decoded`.
        draws: see `View`.
        view: a `View`.

    Returns:
        uint8 [size, size, 3].
    """
    return image.resized(random_box(image.height, image.width, draws, view.area, view.aspect), view.size)


def random_box(height, width, draws, area, aspect):
    """The rectangle of `random_resized_crop`.

    Area is uniform and the logarithm of the aspect is uniform, out of ten tries the first that fits into the
    image; where none does, the largest central rectangle of the nearest allowed aspect, as in torchvision.

    Args:
        height: of the image, int32 scalar tensor.
        width: likewise.
        draws: float32 [DRAWS] in [0, 1).
        area: smallest and largest part of the image's area.
        aspect: smallest and largest width over height.

    Returns:
        Top, left, height and width: int32 scalar tensors.
    """
    tall, wide = tf.cast(height, tf.float32), tf.cast(width, tf.float32)
    pixels = tall * wide * (area[0] + (area[1] - area[0]) * draws[:_TRIES])
    low, high = math.log(aspect[0]), math.log(aspect[1])
    root = tf.exp(0.5 * (low + (high - low) * draws[_TRIES : 2 * _TRIES]))
    side = tf.sqrt(pixels)
    sides = tf.cast(tf.round(tf.stack([side / root, side * root])), tf.int32)
    fits = (sides[0] <= height) & (sides[1] <= width) & (sides[0] > 0) & (sides[1] > 0)
    # One more try, which fits always.
    whole = tf.clip_by_value(wide / tall, aspect[0], aspect[1])
    last = tf.stack([tf.minimum(tall, wide / whole), tf.minimum(wide, tall * whole)])
    sides = tf.concat([sides, tf.maximum(1, tf.cast(tf.round(last), tf.int32))[:, None]], axis=1)
    chosen = tf.argmax(tf.concat([fits, [True]], axis=0))
    box_height, box_width = sides[0, chosen], sides[1, chosen]
    position = tf.where(chosen == _TRIES, 0.5, draws[_POSITION : _POSITION + 2])
    top = _pick(height - box_height, position[0])
    left = _pick(width - box_width, position[1])
    return top, left, box_height, box_width


def scale_jitter(image, draws, view):
    """The shorter side scaled to a random integer, then a random square of it (He et al. 2015, section 3.4).

    Args:
        image: a `decoding.Encoded` or `decoding.Decoded`.
        draws: see `View`.
        view: a `View`, whose `scale` has two integers, both possible.

    Returns:
        uint8 [size, size, 3].
    """
    return image.scaled(*random_place(image.height, image.width, draws, view.scale, view.size), view.size)


def random_place(height, width, draws, scale, size):
    """The scaled sides and the offset of `scale_jitter`: four int64 scalar tensors, height and top first."""
    shorter = scale[0] + _pick(scale[-1] - scale[0], draws[0])
    sides = images.scaled_sides(height, width, tf.cast(shorter, tf.int64))
    top = _pick(sides[0] - size, draws[_POSITION])
    left = _pick(sides[1] - size, draws[_POSITION + 1])
    return sides[0], sides[1], top, left


def _pick(most, draw):
    """An integer in [0, most] from a number in [0, 1)."""
    dtype = most.dtype if tf.is_tensor(most) else tf.int32
    # In float64: in float32 a number just below 1 times most + 1 may round up to most + 1.
    return tf.cast(tf.cast(draw, tf.float64) * tf.cast(most + 1, tf.float64), dtype)


VIEWS = {
    "random_resized_crop": random_resized_crop,
    "scale_jitter": scale_jitter,
    "resize_crop": scale_jitter,  # with one scale instead of two (the VOC recipe)
}


@dataclasses.dataclass(frozen=True)
class MaskedView:
    """The same random part of an image and of its mask, scaled alike (DeepLab; Bag of Tricks, section 6.2).

    Both sides are scaled by one random factor, a random square is cut out of it, and what is missing of the square is
    filled up on the right and below. The image is scaled as by every view; the mask takes the nearest pixel.

    Attributes:
        size: height and width of the view in pixels.
        scale: smallest and largest factor, times the image's own size.
        mirror: whether views are mirrored with probability 0.5.
        fill: red, green and blue in [0, 255] of what is no image.
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    mirror: bool = True
    fill: tuple[int, int, int] = (124, 117, 104)

    def __call__(self, data, labels, draws):
        """Decodes a view.

        Args:
            data: scalar string, an encoded image.
            labels: uint8 [H, W], of its mask; see `masks`.
            draws: float32 [DRAWS] in [0, 1).

        Returns:
            uint8 [size, size, 3], and labels, uint8 [size, size], void where there is no image.

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, for data that cannot be decoded, or a mask of another
                size.
        """
        image = images.decode_tensor(data)
        sides = tf.shape(image, tf.int64)[:2]
        fits = tf.debugging.Assert(tf.reduce_all(tf.shape(labels, tf.int64) == sides), ["mask of another size"])
        with tf.control_dependencies([fits]):
            image = tf.identity(image)
        factor = self.scale[0] + (self.scale[1] - self.scale[0]) * draws[0]
        scaled = tf.cast(tf.round(tf.cast(sides, tf.float32) * factor), tf.int64)
        scaled = tf.maximum(scaled, 1)
        extent = tf.minimum(scaled, self.size)
        offset = tf.stack([_pick(scaled[axis] - extent[axis], draws[_POSITION + axis]) for axis in (0, 1)])
        pixels = images.resize_window(image, scaled, offset, extent)
        for axis in (0, 1):
            centres = 2 * (offset[axis] + tf.range(extent[axis])) + 1
            labels = tf.gather(labels, centres * sides[axis] // (2 * scaled[axis]), axis=axis)
        missing = [[0, self.size - extent[0]], [0, self.size - extent[1]]]
        pixels = filled(pixels, missing, self.fill)
        labels = tf.pad(labels, missing, constant_values=masks.VOID)
        if self.mirror:
            reverse = draws[MIRROR] < 0.5
            pixels = tf.cond(reverse, lambda: tf.reverse(pixels, [1]), lambda: pixels)
            labels = tf.cond(reverse, lambda: tf.reverse(labels, [1]), lambda: labels)
        shape = [self.size, self.size]
        return tf.ensure_shape(pixels, [*shape, 3]), tf.ensure_shape(labels, shape)


@dataclasses.dataclass(frozen=True)
class BoxedView:
    """An image with its objects at a random scale, on a square (scale jitter as in Ghiasi et al. 2021, Copy-Paste).

    The image is scaled so that its longer side is the square's, times a random factor. What is smaller than the square
    lies at its top left and is filled up; of what is larger a random part is cut out. Boxes follow exactly. One of
    which less than half of the area is left becomes ignored; one of which less than a pixel is left of a side vanishes.

    Attributes:
        size: height and width of the view in pixels.
        scale: smallest and largest factor, 1 for an image that just fits; its logarithm is uniform.
        mirror: whether views are mirrored with probability 0.5.
        fill: red, green and blue in [0, 255] of what is no image.
        most: rows of each view; `boxes.Objects.most` of the split is enough for all.
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    mirror: bool = True
    fill: tuple[int, int, int] = (124, 117, 104)
    most: int = 100

    def __call__(self, data, rows, draws):
        """Decodes a view.

        Args:
            data: scalar string, an encoded image.
            rows: float32 [k, boxes.PACKED], its objects; see `boxes.ImageObjects.pack`.
            draws: float32 [DRAWS] in [0, 1).

        Returns:
            uint8 [size, size, 3], and float32 [most, boxes.PACKED], the objects in pixels of the view, and after them
            rows of zeros.

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, for data that cannot be decoded, a box that reaches
                out of the image, or more objects than `most`.
        """
        image = images.decode_tensor(data)
        sides = tf.shape(image, tf.int64)[:2]
        corners, labels, kinds = boxes.ImageObjects.unpack(rows)
        within = tf.reduce_all(corners[:, 2:] <= tf.cast(sides, tf.float32))
        with tf.control_dependencies([tf.debugging.Assert(within, ["a box outside of the image"])]):
            image = tf.identity(image)
        low, high = (math.log(factor) for factor in self.scale)
        longer = tf.cast(tf.round(self.size * tf.exp(low + (high - low) * draws[0])), tf.int64)
        scaled = images.fitted_sides(sides[0], sides[1], longer)
        extent = tf.minimum(scaled, self.size)
        offset = tf.stack([_pick(scaled[axis] - extent[axis], draws[_POSITION + axis]) for axis in (0, 1)])
        pixels = images.resize_window(image, scaled, offset, extent)
        pixels = filled(pixels, [[0, self.size - extent[0]], [0, self.size - extent[1]]], self.fill)

        def twice(pair):
            return tf.cast(tf.tile(pair, [2]), tf.float32)

        moved = corners * twice(scaled) / twice(sides) - twice(offset)
        seen = tf.clip_by_value(moved, 0.0, twice(extent))
        if self.mirror:
            reverse = draws[MIRROR] < 0.5
            pixels = tf.cond(reverse, lambda: tf.reverse(pixels, [1]), lambda: pixels)
            top, left, bottom, right = tf.unstack(seen, axis=1)
            mirrored = tf.stack([top, self.size - right, bottom, self.size - left], axis=1)
            seen = tf.where(reverse, mirrored, seen)
        rest, whole = seen[:, 2:] - seen[:, :2], moved[:, 2:] - moved[:, :2]
        cut = tf.reduce_prod(rest, axis=1) < 0.5 * tf.reduce_prod(whole, axis=1)
        kinds = tf.where(cut, boxes.IGNORED, kinds)
        left = tf.reduce_all(rest >= 1, axis=1)
        found = tf.boolean_mask(boxes.ImageObjects(seen, labels, kinds).pack(), left)
        found = tf.pad(found, [[0, self.most - tf.shape(found)[0]], [0, 0]])
        return tf.ensure_shape(pixels, [self.size, self.size, 3]), tf.ensure_shape(found, [self.most, boxes.PACKED])


# --- Test views ------------------------------------------------------------------------------------------------------


def center(data, size, resize=0, box=None):
    """The central square of an image whose shorter side is scaled to `resize`: uint8 [size, size, 3].

    Args:
        data: scalar string, an encoded image.
        size: side of the square in pixels.
        resize: pixels; 0 for `size`.
        box: see `View`.
    """
    return images.resize_center(decoding.decoded(data, box), size, resize)


def ten_crop(data, size, resize=0, box=None):
    """Corners and centre of an image, and their mirror images (Krizhevsky 2012; He et al. 2015, section 4.1).

    Args:
        data: scalar string, an encoded image.
        size: side of the squares in pixels.
        resize: shorter side of the scaled image in pixels; 0 for `size`.
        box: see `View`.

    Returns:
        uint8 [10, size, size, 3]: top left, top right, bottom left, bottom right, centre; then these of the mirrored
        image, whose top left is the mirrored top right. torchvision's TenCrop has the same order.
    """
    image = decoding.Decoded(decoding.decoded(data, box))
    height, width = tf.unstack(images.scaled_sides(image.height, image.width, resize or size))
    places = _six_places(height, width, size)
    crops = tf.stack([image.scaled(height, width, top, left, size) for top, left in places])
    return tf.concat([crops[:5], tf.reverse(tf.gather(crops, _MIRRORED), [2])], axis=0)


def ten_boxes(height, width, size, resize=0):
    """Which parts of an image `ten_crop` shows.

    Args:
        height: of the image in pixels, an integer.
        width: likewise.
        size: see `ten_crop`.
        resize: likewise.

    Returns:
        Ten of top, left, height and width in pixels of the image, floats; the last five are shown mirrored.
    """
    tall, wide = images.scaled_sides(height, width, resize or size)
    places = _six_places(tall, wide, size)
    boxes = [_unscaled(int(top), int(left), size, height / int(tall), width / int(wide)) for top, left in places]
    return boxes[:5] + [boxes[place] for place in _MIRRORED]


# Of the places, those that lie at the corners and the centre of the mirrored image, in the order of the first five.
_MIRRORED = [1, 0, 3, 2, 5]


def _six_places(height, width, size):
    """Top and left of the corners, of the centre, and of what becomes the mirrored image's centre.

    Where the margin is odd the centre is rounded to the left, and that of the mirrored image to the other side.
    """
    bottom, right, zero = height - size, width - size, tf.zeros([], tf.int64)
    corners = [(zero, zero), (zero, right), (bottom, zero), (bottom, right)]
    return [*corners, (bottom // 2, right // 2), (bottom // 2, right - right // 2)]


def _unscaled(top, left, size, down, across):
    """A square of a scaled image in pixels of the image."""
    return [top * down, left * across, size * down, size * across]


def scaled_whole(data, resize, box=None):
    """The whole image with its shorter side scaled, for fully convolutional scoring (He et al. 2015, section 4.1).

    Args:
        data: scalar string, an encoded image.
        resize: shorter side of the scaled image in pixels.
        box: see `View`.

    Returns:
        uint8 [height, width, 3].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, for a strip so long that it would be too large.
    """
    pixels = decoding.decoded(data, box)
    shape = tf.shape(pixels)
    sides = images.scaled_sides(shape[0], shape[1], resize)
    with tf.control_dependencies([images.check_pixels(sides[0], sides[1])]):
        sides = tf.identity(sides)
    return images.resize_window(pixels, sides, tf.zeros([2], tf.int64), sides)


def filled_whole(data, multiple, fill):
    """The whole image at its own size, filled up on the right and below.

    Args:
        data: scalar string, an encoded image.
        multiple: what height and width of the result are multiples of, in pixels.
        fill: red, green and blue in [0, 255] of what is no image.

    Returns:
        uint8 [height, width, 3].
    """
    pixels = images.decode_tensor(data)
    missing = -tf.shape(pixels)[:2] % multiple
    return filled(pixels, [[0, missing[0]], [0, missing[1]]], fill)


def boxed_whole(data, size, fill=BoxedView.fill):
    """The whole image with its longer side scaled to that of a square, at the top left of it and filled up.

    Args:
        data: scalar string, an encoded image.
        size: side of the square in pixels.
        fill: red, green and blue in [0, 255] of what is no image.

    Returns:
        uint8 [size, size, 3]; and float32 [2], pixels of the view in a pixel of the image, down and across.
    """
    return boxed(images.decode_tensor(data), size, fill)


def boxed(pixels, size, fill=BoxedView.fill):
    """The same of pixels, uint8 [height, width, 3]."""
    sides = tf.shape(pixels, tf.int64)[:2]
    scaled = images.fitted_sides(sides[0], sides[1], size)
    pixels = images.resize_window(pixels, scaled, tf.zeros([2], tf.int64), scaled)
    pixels = filled(pixels, [[0, size - scaled[0]], [0, size - scaled[1]]], fill)
    return tf.ensure_shape(pixels, [size, size, 3]), tf.cast(scaled / sides, tf.float32)


def filled(pixels, missing, fill):
    """Pixels, uint8 [..., height, width, 3], with rows and columns of a colour around: [before, after] of both axes."""
    inside = tf.pad(tf.ones(tf.shape(pixels)[-3:-1], tf.bool), missing)
    around = [[0, 0]] * (pixels.shape.rank - 3) + [*missing, [0, 0]]
    return tf.where(inside[..., None], tf.pad(pixels, around), tf.constant(fill, tf.uint8))
