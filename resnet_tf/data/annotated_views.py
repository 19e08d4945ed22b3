"""Views of images with masks or boxes: random views for training, whole images for evaluation, uint8 on the host."""

import dataclasses
import math

import tensorflow as tf

from resnet_tf.data import boxes, images, masks, resizing
from resnet_tf.data.geometry import MIRROR, POSITION, pick


@dataclasses.dataclass(frozen=True)
class MaskedView:
    """A random view of an image and its mask (DeepLab; Bag of Tricks, section 6.2).

    Both sides are scaled by the same random factor, and a random square is cropped. A smaller image is padded on the
    right and below. The image is scaled bilinearly, the mask by the nearest pixel.

    Attributes:
        size: height and width of the view in pixels.
        scale: smallest and largest factor relative to the size of the image.
        mirror: whether views are mirrored with probability 0.5.
        fill: red, green and blue of the padding, in [0, 255].
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    mirror: bool = True
    fill: tuple[int, int, int] = (124, 117, 104)

    def __call__(self, data: tf.Tensor, labels: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode a view.

        Args:
            data: scalar string, an encoded image.
            labels: uint8 [H, W], the labels of its mask; see `masks`.
            draws: float32 [geometry.DRAWS] in [0, 1).

        Returns:
            Pixels, uint8 [size, size, 3], and labels, uint8 [size, size], which are void in the padding.

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, if the data cannot be decoded or the mask has another
                size than the image.
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
        offset = tf.stack([pick(scaled[axis] - extent[axis], draws[POSITION + axis]) for axis in (0, 1)])
        pixels = resizing.resize_window(image, scaled, offset, extent)
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
    """A random view of an image and its objects (scale jitter as in Ghiasi et al. 2021, Copy-Paste).

    The longer side is scaled to the side of the view times a random factor. A smaller image is padded on the right and
    below; of a larger image a random part is cropped. Boxes are transformed accordingly. If less than half of the area
    of a box remains, its object is ignored; if less than a pixel of a side remains, the box is removed.

    Attributes:
        size: height and width of the view in pixels.
        scale: smallest and largest factor, where 1 just fits the view; its logarithm is uniform.
        mirror: whether views are mirrored with probability 0.5.
        fill: red, green and blue of the padding, in [0, 255].
        most: number of rows in each view; `boxes.Objects.most` of the split is always enough.
    """

    size: int
    scale: tuple[float, float] = (0.5, 2.0)
    mirror: bool = True
    fill: tuple[int, int, int] = (124, 117, 104)
    most: int = 100

    def __call__(self, data: tf.Tensor, rows: tf.Tensor, draws: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Decode a view.

        Args:
            data: scalar string, an encoded image.
            rows: float32 [k, boxes.PACKED], its objects; see `boxes.ImageObjects.pack`.
            draws: float32 [geometry.DRAWS] in [0, 1).

        Returns:
            Pixels, uint8 [size, size, 3], and objects in pixels of the view, float32 [most, boxes.PACKED]. Unused rows
            are zeros.

        Raises:
            tf.errors.InvalidArgumentError: when the graph runs, if the data cannot be decoded, a box reaches out of the
                image, or there are more objects than `most`.
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
        offset = tf.stack([pick(scaled[axis] - extent[axis], draws[POSITION + axis]) for axis in (0, 1)])
        pixels = resizing.resize_window(image, scaled, offset, extent)
        pixels = filled(pixels, [[0, self.size - extent[0]], [0, self.size - extent[1]]], self.fill)

        def twice(pair):
            return tf.cast(tf.tile(pair, [2]), tf.float32)

        moved = corners * twice(scaled) / twice(sides) - twice(offset)
        visible = tf.clip_by_value(moved, 0.0, twice(extent))
        if self.mirror:
            reverse = draws[MIRROR] < 0.5
            pixels = tf.cond(reverse, lambda: tf.reverse(pixels, [1]), lambda: pixels)
            top, left, bottom, right = tf.unstack(visible, axis=1)
            mirrored = tf.stack([top, self.size - right, bottom, self.size - left], axis=1)
            visible = tf.where(reverse, mirrored, visible)
        remaining, whole = visible[:, 2:] - visible[:, :2], moved[:, 2:] - moved[:, :2]
        is_cut = tf.reduce_prod(remaining, axis=1) < 0.5 * tf.reduce_prod(whole, axis=1)
        kinds = tf.where(is_cut, boxes.IGNORED, kinds)
        rows = boxes.ImageObjects(visible, labels, kinds).pack()
        rows = tf.boolean_mask(rows, tf.reduce_all(remaining >= 1, axis=1))
        rows = tf.pad(rows, [[0, self.most - tf.shape(rows)[0]], [0, 0]])
        return tf.ensure_shape(pixels, [self.size, self.size, 3]), tf.ensure_shape(rows, [self.most, boxes.PACKED])


# --- Evaluation ----------------------------------------------------------------------------------------------------


def filled_whole(data: tf.Tensor, multiple: int, fill: tuple) -> tf.Tensor:
    """Decode the whole image at its own size and pad it on the right and below.

    Args:
        data: scalar string, an encoded image.
        multiple: height and width of the result are multiples of this number of pixels.
        fill: red, green and blue of the padding, in [0, 255].

    Returns:
        uint8 [height, width, 3].
    """
    pixels = images.decode_tensor(data)
    missing = -tf.shape(pixels)[:2] % multiple
    return filled(pixels, [[0, missing[0]], [0, missing[1]]], fill)


def boxed_whole(data: tf.Tensor, size: int, fill: tuple = BoxedView.fill) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode the whole image, scale its longer side to `size`, and pad it on the right and below to a square.

    Args:
        data: scalar string, an encoded image.
        size: side of the square in pixels.
        fill: red, green and blue of the padding, in [0, 255].

    Returns:
        uint8 [size, size, 3]; and float32 [2], the scale factors of height and width.
    """
    return boxed(images.decode_tensor(data), size, fill)


def boxed(pixels: tf.Tensor, size: int, fill: tuple = BoxedView.fill) -> tuple[tf.Tensor, tf.Tensor]:
    """Scale and pad decoded pixels, uint8 [height, width, 3]; see `boxed_whole`."""
    sides = tf.shape(pixels, tf.int64)[:2]
    scaled = images.fitted_sides(sides[0], sides[1], size)
    pixels = resizing.resize_window(pixels, scaled, tf.zeros([2], tf.int64), scaled)
    pixels = filled(pixels, [[0, size - scaled[0]], [0, size - scaled[1]]], fill)
    return tf.ensure_shape(pixels, [size, size, 3]), tf.cast(scaled / sides, tf.float32)


def filled(pixels: tf.Tensor, missing, fill: tuple) -> tf.Tensor:
    """Pad uint8 [..., height, width, 3] with a colour; `missing` is [before, after] of rows and of columns."""
    inside = tf.pad(tf.ones(tf.shape(pixels)[-3:-1], tf.bool), missing)
    around = [[0, 0]] * (pixels.shape.rank - 3) + [*missing, [0, 0]]
    return tf.where(inside[..., None], tf.pad(pixels, around), tf.constant(fill, tf.uint8))
