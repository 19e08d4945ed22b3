"""One image for its views, as pixels or as a JPEG of which no more is decoded than is seen; upright in both cases."""

import tensorflow as tf

from resnet_tf.data import images, orientation


def decoded(data, box):
    """Pixels of an encoded image, or of a box of it: uint8 [height, width, 3]; see `geometry.View` for both."""
    pixels = images.decode_tensor(data)
    if box is None:
        return pixels
    return pixels[box[0] : box[0] + box[2], box[1] : box[1] + box[3]]


def on_image(data, box, function):
    """function(image), which decodes of a JPEG no more than it needs."""
    return tf.cond(
        tf.io.is_jpeg(data),
        lambda: function(Encoded(data, box)),
        lambda: function(Decoded(decoded(data, box))),
    )


class Decoded:
    """An image as pixels."""

    def __init__(self, pixels):
        self.pixels = pixels
        shape = tf.shape(pixels)
        self.height, self.width = shape[0], shape[1]

    def window(self, top, left, height, width):
        """Part of the image: uint8 [height, width, 3]."""
        return self.pixels[top : top + height, left : left + width]

    def resized(self, box, size):
        """A part of the image as a square: uint8 [size, size, 3]."""
        return _shrink(self.window(*box), size)

    def scaled(self, height, width, top, left, size):
        """A square of the image scaled to height x width: uint8 [size, size, 3]."""
        sides, offset = tf.stack([height, width]), tf.stack([top, left])
        start, stop = images.source_window([self.height, self.width], sides, offset, [size, size])
        extent = stop - start
        pixels = self.window(*tf.unstack(tf.cast(tf.concat([start, extent], axis=0), tf.int32)))
        return images.resize_part(pixels, [self.height, self.width], start, sides, offset, [size, size])


class Encoded(Decoded):
    """A JPEG, of which only the part that is asked for is decoded."""

    def __init__(self, data, box):
        shape = tf.io.extract_jpeg_shape(data)
        with tf.control_dependencies([images.check_pixels(shape[0], shape[1])]):
            self.data = tf.identity(data)
        self.orientation = orientation.of_jpeg(data)
        self.sides = orientation.upright_sides(shape[:2], self.orientation)
        whole = (0, 0, self.sides[0], self.sides[1])
        self.top, self.left, self.height, self.width = whole if box is None else tf.unstack(box)

    def window(self, top, left, height, width):
        """Likewise."""
        return orientation.upright(self._decoded(self._stored(top, left, height, width)), self.orientation)

    def _stored(self, top, left, height, width):
        """Where a box of the upright image lies in the stored one: int32 [4]."""
        box = tf.stack([self.top + top, self.left + left, height, width])
        return orientation.stored_box(box, self.sides, self.orientation)

    def _decoded(self, where, ratio=1):
        """Pixels of a box of the stored image, not turned yet, both sides over `ratio`: 1, 2, 4 or 8."""
        half = ratio // 2
        where = (where + tf.constant([half, half, 0, 0])) // ratio  # to the nearest
        return tf.io.decode_and_crop_jpeg(self.data, where, channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE")

    def resized(self, box, size):
        """Likewise."""
        # The decoder halves once, twice or three times at next to no cost, which saves most of the work on photos
        # of many megapixels. The box snaps to the coarser grid, by half a pixel of the view at most.
        halvings = tf.math.count_nonzero(tf.minimum(box[2], box[3]) // size >= [2, 4, 8])
        where = self._stored(*box)
        pixels = tf.switch_case(
            tf.cast(halvings, tf.int32), [lambda ratio=ratio: self._decoded(where, ratio) for ratio in (1, 2, 4, 8)]
        )
        return _shrink(orientation.upright(pixels, self.orientation), size)


def _shrink(pixels, size):
    """Pixels as a square, antialiased where a side still shrinks to less than a half."""
    shape = tf.shape(pixels)

    def plain():
        resized = tf.raw_ops.ResizeBilinear(images=pixels[None], size=[size, size], half_pixel_centers=True)
        return tf.cast(resized[0] + 0.5, tf.uint8)  # bilinear values stay within [0, 255]

    def antialiased():
        sides = tf.cast(shape[:2], tf.int64)
        start = tf.zeros([2], tf.int64)
        target = tf.constant([size, size], tf.int64)
        return images.resize_part(pixels, sides, start, target, start, [size, size])

    return tf.cond(tf.reduce_max(shape[:2]) >= 2 * size, antialiased, plain)
