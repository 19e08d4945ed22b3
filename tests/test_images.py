"""Decoding, and the view of an image that evaluation and serving share."""

import io
import struct
import zlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf.data import images
from resnet_tf.errors import InputError


@pytest.fixture
def pixels():
    """A smooth image, which JPEG keeps closely, that is not square."""
    small = np.random.default_rng(0).integers(0, 256, (3, 4, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((40, 30), Image.Resampling.BICUBIC))


def encode(pixels, form, mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_lossless_formats_keep_every_pixel(pixels, form):
    assert np.array_equal(images.decode(encode(pixels, form)), pixels)


def test_alpha_is_dropped(pixels):
    rgba = np.dstack([pixels, np.full(pixels.shape[:2], 7, np.uint8)])
    file = io.BytesIO()
    Image.fromarray(rgba).save(file, "PNG")
    assert np.array_equal(images.decode(file.getvalue()), pixels)


@pytest.mark.parametrize("form", ["PNG", "BMP"])
def test_grey_becomes_rgb(pixels, form):
    grey = np.array(Image.fromarray(pixels).convert("L"))
    decoded = images.decode(encode(pixels, form, "L"))
    assert np.array_equal(decoded, np.repeat(grey[..., None], 3, axis=-1))


@pytest.mark.parametrize("options", [{}, {"progressive": True}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_jpeg_is_close_to_the_original(pixels, options, mode):
    original = np.array(Image.fromarray(pixels).convert(mode).convert("RGB")).astype(int)
    decoded = images.decode(encode(pixels, "JPEG", mode, quality=95, subsampling=0, **options))
    assert decoded.dtype == np.uint8 and decoded.shape == pixels.shape
    assert np.abs(decoded - original).mean() < 3


def test_jpeg_gives_the_pixels_of_pillow(pixels):
    """Accurate transform and smooth chroma, as most decoders have it; the fast one darkens red and blue."""
    data = encode(pixels, "JPEG", quality=75, subsampling="4:2:0")
    assert np.array_equal(images.decode(data), np.array(Image.open(io.BytesIO(data))))


def test_gif_gives_the_first_frame(pixels):
    first = Image.fromarray(pixels).quantize(16)
    file = io.BytesIO()
    first.save(file, "GIF", save_all=True, append_images=[Image.fromarray(255 - pixels).quantize(16)])
    assert np.array_equal(images.decode(file.getvalue()), np.array(first.convert("RGB")))


def test_16_bit_png_keeps_the_high_bytes():
    wide = np.random.default_rng(0).integers(0, 2**16, (5, 6, 3), np.uint16)
    data = tf.io.encode_png(wide).numpy()
    assert np.array_equal(images.decode(data), wide >> 8)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_graph_and_eager_decoding_agree(pixels, form):
    data = encode(pixels, form)
    graph = tf.function(images.decode_tensor, input_signature=[tf.TensorSpec([], tf.string)])
    assert graph.get_concrete_function().output_shapes.as_list() == [None, None, 3]
    assert np.array_equal(graph(data), images.decode(data))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_truncated_images_are_refused_by_name(pixels, form):
    data = encode(pixels, form)
    for length in [*range(60), *range(60, len(data) - 2, max(len(data) // 40, 1)), len(data) - 2]:
        with pytest.raises(InputError, match=r"^cat\.x: [^\n]*$"):
            images.decode(data[:length], "cat.x")


@pytest.mark.parametrize("data", [b"", b"text", b"\x00" * 1000, b"RIFF\x24\x00\x00\x00WEBPVP8 "])
def test_other_data_are_refused_by_name(data):
    with pytest.raises(InputError, match=r"^cat\.x: "):
        images.decode(data, "cat.x")


def test_palettes(pixels):
    colours = Image.fromarray(pixels).quantize(16)
    file = io.BytesIO()
    colours.save(file, "PNG")
    assert np.array_equal(images.decode(file.getvalue()), np.array(colours.convert("RGB")))
    file = io.BytesIO()
    colours.save(file, "BMP")
    with pytest.raises(InputError, match=r"cat\.bmp: a BMP with a colour palette"):
        images.decode(file.getvalue(), "cat.bmp")


def test_huge_declared_sizes_are_refused_before_decoding(pixels):
    jpeg = encode(pixels, "JPEG")
    at = jpeg.index(b"\xff\xc0") + 5
    header = struct.pack(">II", 20_000, 10_000) + b"\x08\x02\x00\x00\x00"
    chunk = b"IHDR" + header
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    bmp = bytearray(encode(pixels, "BMP"))
    bmp[18:26] = struct.pack("<ii", 20_000, -10_000)
    gif = bytearray(encode(pixels, "GIF"))
    gif[6:10] = struct.pack("<HH", 20_000, 10_000)
    for data in (
        jpeg[:at] + struct.pack(">HH", 10_000, 20_000) + jpeg[at + 4 :],
        png,
        bytes(bmp),
        bytes(gif),
    ):
        with pytest.raises(InputError, match="20000 x 10000 pixels; the limit is 100000000"):
            images.decode(data)


def reference_view(pixels, size):
    """Resizes the whole image, and only then crops."""
    height, width, _ = pixels.shape
    shorter = min(height, width)
    sides = [int(side * size / shorter + 0.5) for side in (height, width)]
    resized = np.round(tf.image.resize(pixels, sides, antialias=True).numpy()).astype(np.uint8)
    top, left = ((side - size) // 2 for side in sides)
    return resized[top : top + size, left : left + size]


@tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
def dynamic_view(pixels):
    return images.resize_center(pixels, 32)


@pytest.mark.parametrize(
    "shape",
    [(8, 8), (8, 9), (33, 32), (32, 77), (77, 32), (500, 333), (31, 100), (1, 50), (224, 300), (1500, 1001)],
)
def test_view_is_the_centre_of_the_resized_image(shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    view = images.resize_center(pixels, 32).numpy()
    assert view.dtype == np.uint8
    # The one rounding may fall differently where the value is half-way.
    difference = np.abs(view.astype(int) - reference_view(pixels, 32))
    assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    assert np.array_equal(dynamic_view(pixels), view)
    assert np.array_equal(images.resize_center(np.stack([pixels, pixels]), 32), [view, view])


def test_shrinking_averages_rather_than_drops():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200
    view = images.resize_center(stripes, 8).numpy()[:, 1:-1]  # the border's kernel is cut off
    assert np.abs(view.astype(int) - 100).max() <= 2


def test_view_of_the_right_size_is_unchanged():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    assert np.array_equal(images.resize_center(pixels, 32), pixels)
    assert np.array_equal(dynamic_view(pixels), pixels)


def test_view_of_a_long_strip_takes_little_memory():
    strip = np.full((1, 1_000_000, 3), 9, np.uint8)  # resized as a whole: 224 x 224,000,000 pixels
    assert np.array_equal(images.resize_center(strip, 224), np.full((224, 224, 3), 9))
