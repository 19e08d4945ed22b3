"""Decoding images, and the one view of an image that evaluation and serving share."""

import struct

import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError

MAX_PIXELS = 100_000_000


def decode(data: bytes, name: str = "image") -> np.ndarray:
    """Decodes an image outside of a graph, to the very pixels of `decode_tensor`.

    Args:
        data: an encoded JPEG, PNG, BMP or GIF, whose first frame is taken.
        name: what to call the image in errors.

    Returns:
        uint8 [H, W, 3]: grey becomes RGB, alpha is dropped, of 16-bit samples the high byte stays. An
        orientation tag is not applied.

    Raises:
        InputError: `data` is empty, truncated, damaged, of another format or above MAX_PIXELS.
    """
    check_header(data, name)
    try:
        return decode_tensor(tf.constant(data)).numpy()
    except tf.errors.OpError as error:
        raise InputError(f"{name}: damaged or truncated image") from error


def decode_tensor(data: tf.Tensor) -> tf.Tensor:
    """Decodes an image inside a graph.

    Args:
        data: scalar string, an encoded JPEG, PNG, BMP or GIF.

    Returns:
        uint8 [None, None, 3], as `decode`, but without the checks of `check_header`.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, for data that cannot be decoded.
    """
    # decode_image alone takes the fast transform, which is off by one level in the mean of red and blue.
    image = tf.cond(
        tf.io.is_jpeg(data),
        lambda: tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(data, channels=3, expand_animations=False),
    )
    image.set_shape([None, None, 3])
    return image


def check_header(data: bytes, name: str = "image") -> None:
    """Refuses by its first bytes what should not, or would wrongly, be decoded.

    Args:
        data: an encoded image.
        name: what to call it in errors.

    Raises:
        InputError: `data` is empty, no JPEG, PNG, BMP or GIF, declares more than MAX_PIXELS pixels, or
            is a BMP with a colour palette (TensorFlow would give palette indices for grey values).
    """
    if not data:
        raise InputError(f"{name}: empty file, no image")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            height, width = _jpeg_size(data)
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            _check_bmp(data, name)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
        else:
            raise InputError(f"{name}: not a JPEG, PNG, BMP or GIF image")
    except (struct.error, IndexError) as error:
        raise InputError(f"{name}: damaged or truncated image") from error
    if abs(width * height) > MAX_PIXELS:
        raise InputError(f"{name}: {abs(width)} x {abs(height)} pixels; the limit is {MAX_PIXELS} in all")


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """Height and width from the frame header, found by hopping from segment to segment."""
    at = 2
    while True:
        while data[at + 1] == 0xFF:  # padding
            at += 1
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return struct.unpack_from(">HH", data, at + 5)
        at += 2 + length


def _check_bmp(data: bytes, name: str) -> None:
    (bits,) = struct.unpack_from("<H", data, 28)
    if bits > 8:
        return
    pixels, header = struct.unpack_from("<II", data, 10)
    palette = data[14 + header : pixels]
    colours = b"".join(palette[at : at + 3] for at in range(0, len(palette), 4))
    if colours != b"".join(bytes([value] * 3) for value in range(256)):
        raise InputError(f"{name}: a BMP with a colour palette is not supported; save it as PNG")


def resize_center(image: tf.Tensor | np.ndarray, size: int) -> tf.Tensor:
    """Scales the shorter side to `size` and crops the centre: the view that evaluation and serving see.

    Bilinear with antialiasing and half-pixel centres, rounded to the nearest; the aspect is kept, the
    longer side being rounded. An image whose shorter side is `size` is only cropped, so that one of
    `size` x `size` passes unchanged.

    Args:
        image: uint8 [H, W, 3] or [batch, H, W, 3]; the shape need not be known statically.
        size: side of the result.

    Returns:
        uint8 [size, size, 3] or [batch, size, size, 3].
    """
    image = tf.convert_to_tensor(image)
    if image.shape.rank == 3:
        return resize_center(image[None], size)[0]
    known = image.shape[1:3].is_fully_defined()
    height, width = image.shape[1:3] if known else tf.unstack(tf.shape(image)[1:3])
    shorter = min(height, width) if known else tf.minimum(height, width)

    def crop():
        top, left = (height - size) // 2, (width - size) // 2
        return image[:, top : top + size, left : left + size]

    def resize():
        sides = tf.cast(tf.stack([height, width]), tf.int64)
        short = tf.cast(shorter, tf.int64)
        scaled = (2 * sides * size + short) // (2 * short)
        offset = (scaled - size) // 2
        # Only what the crop is made of is resized: a long strip as a whole would not fit into memory.
        margin = short // size + 2  # beyond the kernel's reach
        start = tf.maximum(offset * sides // scaled - margin, 0)
        stop = tf.minimum((offset + size) * sides // scaled + margin, sides)
        pixels = tf.raw_ops.ScaleAndTranslate(
            images=image[:, start[0] : stop[0], start[1] : stop[1]],
            size=[size, size],
            scale=tf.cast(scaled / sides, tf.float32),
            translation=tf.cast(start * scaled / sides - tf.cast(offset, tf.float64), tf.float32),
            kernel_type="triangle",
            antialias=True,
        )
        return tf.saturate_cast(tf.round(pixels), tf.uint8)

    if known:
        return crop() if shorter == size else resize()
    return tf.ensure_shape(tf.cond(tf.equal(shorter, size), crop, resize), [None, size, size, 3])
