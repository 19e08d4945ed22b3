"""The image behind a view: upright pixels, or an encoded JPEG of which only the visible part is decoded."""

from collections.abc import Callable

import tensorflow as tf

from resnet_tf.data import images, orientation, resizing


def decoded(data: tf.Tensor, box: tf.Tensor | None) -> tf.Tensor:
    """Decode an image, or a box of it, to uint8 [height, width, 3]; see `geometry.View` for the arguments."""
    pixels = images.decode_tensor(data)
    if box is None:
        return pixels
    return pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]


def on_image(data: tf.Tensor, box: tf.Tensor | None, function: Callable) -> tf.Tensor:
    """Return function(image); of a JPEG only the part that the function uses is decoded."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: function(Encoded(data, box)),
        lambda: function(Decoded(decoded(data, box))),
    )


class Decoded:
    """A decoded image."""

    def __init__(self, pixels):
        self.pixels = pixels
        shape = tf.shape(pixels)
        self.height, self.width = shape[0], shape[1]

    def window(self, top, left, height, width):
        """Return a part of the image: uint8 [height, width, 3]."""
        return self.pixels[top : top + height, left : left + width]

    def resized(self, box, size):
        """Return a part of the image, resized to a square: uint8 [size, size, 3]."""
        return _shrink(self.window(*box), size)

    def scaled(self, height, width, top, left, size, interpolation="bilinear"):
        """Return a square of the image after the image is scaled to height x width: uint8 [size, size, 3]."""
        sides, offset = tf.stack([height, width]), tf.stack([top, left])
        start, stop = resizing.source_window([self.height, self.width], sides, offset, [size, size], interpolation)
        extent = stop - start
        pixels = self.window(*tf.unstack(tf.cast(tf.concat([start, extent], axis=0), tf.int32)))
        whole = [self.height, self.width]
        return resizing.resize_part(pixels, whole, start, sides, offset, [size, size], interpolation)


class Encoded(Decoded):
    """An encoded JPEG, of which only the requested parts are decoded."""

    def __init__(self, data, box):
        shape = tf.io.extract_jpeg_shape(data)
        with tf.control_dependencies([images.check_pixels(shape[0], shape[1])]):
            self.data = tf.identity(data)
        self.orientation = orientation.of_jpeg(data)
        self.sides = orientation.upright_sides(shape[:2], self.orientation)
        whole = (0, 0, self.sides[0], self.sides[1])
        self.top, self.left, self.height, self.width = whole if box is None else tf.unstack(box)

    def window(self, top, left, height, width):
        """See `Decoded`."""
        return orientation.upright(self._decoded(self._stored(top, left, height, width)), self.orientation)

    def _stored(self, top, left, height, width):
        """Return a box of the upright image in coordinates of the stored image: int32 [4]."""
        upright = tf.stack([self.top + top, self.left + left, height, width])
        return orientation.stored_box(upright, self.sides, self.orientation)

    def _decoded(self, box, ratio=1):
        """Decode a box of the stored image, without turning it, with both sides divided by `ratio`: 1, 2, 4 or 8."""
        half = ratio // 2
        box = (box + tf.constant([half, half, 0, 0])) // ratio  # rounded to the nearest
        return tf.io.decode_and_crop_jpeg(self.data, box, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def resized(self, box, size):
        """See `Decoded`."""
        # The decoder can halve the size up to three times at almost no cost, which saves most of the work for photos
        # of many megapixels. Rounding the box to the coarser grid moves it by at most half a pixel of the view.
        halvings = tf.math.count_nonzero(tf.minimum(box[2], box[3]) // size >= [2, 4, 8])
        stored = self._stored(*box)
        pixels = tf.switch_case(
            tf.cast(halvings, tf.int32), [lambda ratio=ratio: self._decoded(stored, ratio) for ratio in (1, 2, 4, 8)]
        )
        return _shrink(orientation.upright(pixels, self.orientation), size)


def _shrink(pixels, size):
    """Resize pixels to a square, with antialiasing if a side still shrinks to half its size or less."""
    shape = tf.shape(pixels)

    def plain():
        resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[size, size], half_pixel_centers=True)
        return tf.cast(resized[0] + 0.5, tf.uint8)  # bilinear values stay within [0, 255]

    def antialiased():
        sides = tf.cast(shape[:2], tf.int64)
        start = tf.zeros([2], tf.int64)
        target = tf.constant([size, size], tf.int64)
        return resizing.resize_part(pixels, sides, start, target, start, [size, size])

    return tf.cond(tf.reduce_max(shape[:2]) >= 2 * size, antialiased, plain)
