"""Decode and resize images, and make the central crop that evaluation and serving use."""

import functools
import io
import struct

import numpy as np
import tensorflow as tf

from resnet_tf.data import formats, orientation, resizing
from resnet_tf.errors import InputError

MAX_PIXELS = 100_000_000
_FRAME = b"ANMF"  # the beginning of each frame of an animated WebP


def decode(data: bytes, name: str = "image") -> np.ndarray:
    """Decode an image outside of a graph, to the same pixels as `decode_tensor`.

        pixels = decode(pathlib.Path("dog.jpg").read_bytes(), "dog.jpg")

    Args:
        data: an encoded image of any format in `formats`; the first one of several frames is used.
        name: name of the image in errors.

    Returns:
        uint8 [H, W, 3], turned upright as the orientation tag says. Grey becomes RGB, alpha is dropped, 16-bit samples
        are reduced to their high byte.

    Raises:
        InputError: `data` is empty, truncated, damaged, of another format or larger than MAX_PIXELS.
    """
    data = readable(data, name)
    check_header(data, name)
    try:
        return _traced()(tf.constant(data)).numpy()
    except tf.errors.OpError as error:
        raise InputError(f"{name}: damaged or truncated image") from error


def encode_png(pixels: np.ndarray) -> bytes:
    """Encode pixels, uint8 [H, W, 3] or [H, W], as PNG."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def decode_tensor(data: tf.Tensor) -> tf.Tensor:
    """Decode an image inside a graph.

        photos = tf.data.Dataset.list_files("photos/*/*.jpg").map(lambda path: decode_tensor(tf.io.read_file(path)))

    Args:
        data: scalar string, an encoded JPEG, PNG, BMP, GIF or WebP.

    Returns:
        uint8 [None, None, 3], as from `decode`.

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if the data have another format, declare more than
            MAX_PIXELS pixels (they are not allocated then), are a BMP with a colour palette, or cannot be decoded.
    """

    def from_jpeg():
        shape = tf.io.extract_jpeg_shape(data)
        with tf.control_dependencies([check_pixels(shape[0], shape[1])]):
            # decode_image uses the fast transform, which shifts the mean of red and blue by one level.
            image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
        return orientation.upright(image, orientation.of_jpeg(data))

    image = tf.cond(tf.io.is_jpeg(data), from_jpeg, lambda: _decode_other(data))
    return tf.ensure_shape(image, [None, None, 3])


@orientation.rare(tf.TensorSpec([], tf.string))
def _decode_other(data: tf.Tensor) -> tf.Tensor:
    """Decode an image that is not a JPEG; see `decode_tensor`."""

    def from_webp():
        # decode_webp can only return the channels that are stored, and it decodes all frames of an animation.
        return tf.ensure_shape(tf.io.decode_webp(data), [None, None, None, None])[0, :, :, :3]

    def from_other():
        return tf.io.decode_image(data, channels=3, expand_animations=False)

    with tf.control_dependencies([check_pixels(*declared_size(data))]):
        image = tf.cond(_is_webp(data), from_webp, from_other)
    return orientation.upright(tf.ensure_shape(image, [None, None, 3]), orientation.of(data))


@functools.cache
def _traced():
    """Return `decode_tensor` as a graph that is traced once; eager execution takes ten times as long."""
    return tf.function(decode_tensor, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


def readable(data: bytes, name: str = "image", most_pixels: int | None = None) -> bytes:
    """Return an encoded image in a format that TensorFlow reads; images that only Pillow reads become PNGs.

    Args:
        data: the encoded image.
        name: name of the image in errors.
        most_pixels: largest allowed number of pixels; None for MAX_PIXELS.

    Raises:
        InputError: see `formats.as_png`. `check_header` reports errors in the other formats.
    """
    return data if not data or formats.is_known(data) else formats.as_png(data, name, most_pixels or MAX_PIXELS)


def check_pixels(height: tf.Tensor, width: tf.Tensor) -> tf.Operation:
    """Return an operation that raises InvalidArgumentError if an image declares too many pixels."""
    pixels = tf.abs(tf.cast(height, tf.int64) * tf.cast(width, tf.int64))
    return tf.debugging.Assert(pixels <= MAX_PIXELS, ["too many pixels:", height, width])


def declared_size(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the two sides that the header of a PNG, BMP, GIF or WebP declares, in any order; fail for other data.

    For an animated WebP the height is the sum over all frames, since all of them are decoded.
    """

    def numbers(start, count, dtype, little):
        values = tf.io.decode_raw(tf.strings.substr(data, start, count), dtype, little_endian=little)
        return tf.cast(values, tf.int64)

    def bmp():
        size = numbers(18, 8, tf.int32, True)
        with tf.control_dependencies([tf.debugging.Assert(_is_true_colour(data), ["a BMP with a colour palette"])]):
            return tf.identity(size)

    def unknown():
        with tf.control_dependencies([tf.debugging.Assert(False, [f"not a {formats.NAMES} image"])]):
            return tf.zeros([2], tf.int64)

    # TensorFlow's own message for a short string quotes its bytes, which Python cannot decode as text.
    with tf.control_dependencies([tf.debugging.Assert(tf.strings.length(data) >= 26, ["truncated image"])]):
        data = tf.identity(data)

    def starts(*kinds):
        return tf.reduce_any([tf.equal(tf.strings.substr(data, 0, len(kind)), kind) for kind in kinds])

    kinds = [
        (starts(b"\x89PNG\r\n\x1a\n"), lambda: numbers(16, 8, tf.int32, False)),
        (starts(b"GIF87a", b"GIF89a"), lambda: numbers(6, 4, tf.uint16, True)),
        (starts(b"BM"), bmp),
        (_is_webp(data), lambda: _webp_size(data)),
    ]
    size = tf.case(kinds, default=unknown)
    return size[0], size[1]


def _is_webp(data: tf.Tensor) -> tf.Tensor:
    return tf.equal(tf.strings.substr(data, 0, 4), b"RIFF") & tf.equal(tf.strings.substr(data, 8, 4), b"WEBP")


def _webp_size(data: tf.Tensor) -> tf.Tensor:
    """Return int64 [2], the sum of the heights of all frames, and the width; zeros for an unknown kind of WebP."""
    padded = tf.strings.join([tf.strings.substr(data, 12, 18), b"\0" * 18])
    head = tf.cast(tf.ensure_shape(tf.io.decode_raw(padded, tf.uint8)[:18], [18]), tf.int64)
    size = tf.reduce_sum(
        [
            tf.where(tf.equal(tf.strings.substr(data, 12, 4), kind), tf.stack(sides), 0)
            for kind, sides in _webp_sides(head).items()
        ],
        axis=0,
    )
    frames = tf.size(tf.raw_ops.StringSplitV2(input=[data], sep=_FRAME, maxsplit=-1).values, tf.int64) - 1
    return tf.stack([size[0] * tf.maximum(frames, 1), size[1]])


def _webp_sides(head) -> dict:
    """Return {kind of WebP: (height, width)} for the 18 bytes that begin with the kind, integers or tensors."""
    bits = head[9] + 2**8 * head[10] + 2**16 * head[11] + 2**24 * head[12]
    return {
        b"VP8 ": ((head[16] + 2**8 * head[17]) % 2**14, (head[14] + 2**8 * head[15]) % 2**14),
        b"VP8L": (bits // 2**14 % 2**14 + 1, bits % 2**14 + 1),
        b"VP8X": tuple(head[start] + 2**8 * head[start + 1] + 2**16 * head[start + 2] + 1 for start in (15, 12)),
    }


def _is_true_colour(data: tf.Tensor) -> tf.Tensor:
    """Return whether the samples of a BMP are colours or grey values, not palette indices; see `_check_bmp`."""
    padded = tf.strings.join([data, b"\0" * 30])  # so that a truncated file has a complete header

    def number(start, dtype):
        return tf.cast(tf.io.decode_raw(tf.strings.substr(padded, start, dtype.size), dtype)[0], tf.int64)

    start, stop, bits = 14 + number(14, tf.int32), number(10, tf.int32), number(28, tf.uint16)
    has_palette = (start >= 14) & (stop - start == 1024) & (stop <= tf.cast(tf.strings.length(data), tf.int64))

    def is_grey():
        palette = tf.io.decode_raw(tf.strings.substr(data, start, 1024), tf.uint8)
        return tf.reduce_all(tf.reshape(palette, [256, 4])[:, :3] == np.arange(256, dtype=np.uint8)[:, None])

    return (bits > 8) | tf.cond(has_palette, is_grey, lambda: False)


def check_header(data: bytes, name: str = "image", most_pixels: int | None = None) -> None:
    """Check the header of an image before it is decoded.

    Args:
        data: an encoded image.
        name: name of the image in errors.
        most_pixels: largest allowed number of pixels; None for MAX_PIXELS.

    Raises:
        InputError: `data` is empty, is not a JPEG, PNG, BMP, GIF or WebP, declares more pixels than allowed, or is a
            BMP with a colour palette (TensorFlow would return palette indices as grey values).
    """
    if not data:
        raise InputError(f"{name}: empty file, no image")
    try:
        if data.startswith(b"\xff\xd8\xff"):
            # The decoder's own parser is used, so that the same damaged files are accepted.
            height, width = tf.io.extract_jpeg_shape(data)[:2].numpy().tolist()
        elif data.startswith(b"\x89PNG\r\n\x1a\n"):
            width, height = struct.unpack_from(">II", data, 16)
        elif data.startswith(b"BM"):
            width, height = struct.unpack_from("<ii", data, 18)
            _check_bmp(data, name)
        elif data.startswith((b"GIF87a", b"GIF89a")):
            width, height = struct.unpack_from("<HH", data, 6)
        elif formats.is_webp(data):
            height, width = _webp_sides(data[12:30])[data[12:16]]
            height *= max(data.count(_FRAME), 1)
        else:
            raise InputError(f"{name}: not a {formats.NAMES} image")
    except (struct.error, LookupError, tf.errors.OpError, UnicodeDecodeError) as error:
        raise InputError(f"{name}: damaged or truncated image") from error
    most_pixels = most_pixels or MAX_PIXELS
    if abs(width * height) > most_pixels:
        raise InputError(f"{name}: {abs(width)} x {abs(height)} pixels; the limit is {most_pixels} in all")


def _check_bmp(data: bytes, name: str) -> None:
    (bits,) = struct.unpack_from("<H", data, 28)
    if bits > 8:
        return
    pixels, header = struct.unpack_from("<II", data, 10)
    palette = data[14 + header : pixels]
    colours = b"".join(palette[start : start + 3] for start in range(0, len(palette), 4))
    if colours != b"".join(bytes([value] * 3) for value in range(256)):
        raise InputError(f"{name}: a BMP with a colour palette is not supported; save it as PNG")


def resize_center(
    image: tf.Tensor | np.ndarray, size: int, resize: int = 0, interpolation: str = "", on_gpu: bool = False
) -> tf.Tensor:
    """Scale the shorter side and crop the centre, as evaluation and serving do.

        pixels = resize_center(decode(data), size=224, resize=256)

    Scaling has antialiasing and half-pixel centres, rounds to the nearest level and keeps the aspect ratio. If the
    shorter side already has the right size, the image is only cropped.

    Args:
        image: uint8 [H, W, 3] or [batch, H, W, 3]; the shape need not be known statically.
        size: side of the result in pixels.
        resize: length of the shorter side before the crop, in pixels and at least `size`; 0 for `size`.
        interpolation: "bilinear" or "bicubic" for the view of torchvision and timm on images of Pillow, which rounds
            the longer side down and half a pixel of a margin to the even number; see `resizing`. "" for bilinear with
            the longer side rounded to the nearest and margins rounded down.
        on_gpu: see `resizing.resize_window`.

    Returns:
        uint8 [size, size, 3] or [batch, size, size, 3].
    """
    image = tf.convert_to_tensor(image)
    resize = resize or size
    is_static = image.shape[-3:-1].is_fully_defined()
    sides = image.shape[-3:-1].as_list() if is_static else tf.shape(image)[-3:-1]

    def crop():
        if is_static:
            top, left = (margin(side, size, interpolation) for side in sides)
            return image[..., top : top + size, left : left + size, :]
        # Few operations, all of 32 bits and thus on the host: each costs a batch on a GPU microseconds.
        outer = [0] * (image.shape.rank - 3)
        begin = tf.pad(margin(sides, size, interpolation), [[len(outer), 1]])
        return tf.slice(image, begin, [-1] * len(outer) + [size, size, 3])

    def scale():
        with resizing.on_host(on_gpu):
            scaled = scaled_sides(*(sides if is_static else tf.unstack(sides)), resize, interpolation)
            offset = margin(scaled, size, interpolation)
        return resizing.resize_window(image, scaled, offset, [size, size], interpolation or "bilinear", on_gpu)

    if is_static:
        return crop() if min(sides) == resize else scale()
    if on_gpu:  # one operation, where a graph for a GPU would walk over those of `scale` for images that are cropped
        scale = resizing.as_one_operation(scale)
    view = tf.cond(tf.equal(tf.reduce_min(sides), resize), crop, scale)
    return tf.ensure_shape(view, [*image.shape[:-3], size, size, 3])


def margin(side: tf.Tensor | int, size: int, interpolation: str = "") -> tf.Tensor | int:
    """Return the pixels of a side before its central crop of `size`, as `resize_center` rounds for `interpolation`."""
    rest = side - size
    # The half of 4 n + 3 pixels, such as 7 / 2 = 3.5, goes to the even number above it.
    return rest // 2 + (rest % 4 // 3 if interpolation else 0)


def scaled_sides(
    height: tf.Tensor | int, width: tf.Tensor | int, shorter: tf.Tensor | int, interpolation: str = ""
) -> tf.Tensor:
    """Return height and width after the shorter side is scaled to `shorter`: int64 [2].

    They are rounded to the nearest, or as `resize_center` says for an `interpolation`.
    """
    sides = tf.cast(tf.stack([height, width]), tf.int64)
    least = tf.reduce_min(sides)
    if interpolation:
        return sides * tf.cast(shorter, tf.int64) // least
    return (2 * sides * tf.cast(shorter, tf.int64) + least) // (2 * least)


def fitted_sides(height: tf.Tensor | int, width: tf.Tensor | int, longer: tf.Tensor | int) -> tf.Tensor:
    """Return height and width after the longer side is scaled to `longer`, rounded, at least 1: int64 [2]."""
    sides = tf.cast(tf.stack([height, width]), tf.int64)
    most = tf.reduce_max(sides)
    return tf.maximum((2 * sides * tf.cast(longer, tf.int64) + most) // (2 * most), 1)
