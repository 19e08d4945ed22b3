"""Views: drawn as theory has it, cut from the right place, and equal to plain references."""

import io
import math
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from resnet_tf.data import geometry, images

DRAWS = np.random.default_rng(0).random((4000, geometry.DRAWS), np.float32)


def encode(pixels, form="PNG", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def smooth(height, width, seed=0):
    """An image without detail, which JPEG and every kernel keep closely."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@tf.function(input_signature=[tf.TensorSpec([], tf.int32)] * 2 + [tf.TensorSpec([None, geometry.DRAWS])])
def boxes(height, width, draws):
    def one(numbers):
        return tf.stack(geometry.random_box(height, width, numbers, (0.08, 1.0), (3 / 4, 4 / 3)))

    return tf.map_fn(one, draws, fn_output_signature=tf.int32)


# --- What is drawn ---------------------------------------------------------------------------------------------------


def test_area_and_aspect_of_boxes_are_uniform_where_all_fit():
    """On a huge square a box of up to 0.5 of the area always fits, so that nothing is rejected."""

    @tf.function
    def draw(draws):
        def one(numbers):
            return tf.stack(
                geometry.random_box(tf.constant(10_000), tf.constant(10_000), numbers, (0.1, 0.5), (0.5, 2))
            )

        return tf.map_fn(one, draws, fn_output_signature=tf.int32)

    top, left, height, width = draw(DRAWS).numpy().T.astype(float)
    area = height * width / 1e8
    # Kolmogorov-Smirnov on 4,000 draws passes 1.95 / sqrt(4,000) = 0.031 once in 1,000.
    for values, low, high in (
        (area, 0.1, 0.5),
        (np.log(width / height), math.log(0.5), math.log(2)),
        (top / (10_000 - height), 0, 1),
        (left / (10_000 - width), 0, 1),
    ):
        ranks = (np.sort(values) - low) / (high - low)
        assert np.abs(ranks - (np.arange(len(ranks)) + 0.5) / len(ranks)).max() < 0.031
    assert abs(np.corrcoef(area, np.log(width / height))[0, 1]) < 0.08  # five standard deviations


@pytest.mark.parametrize("height, width", [(400, 500), (224, 224), (30, 3000), (3000, 30), (1, 1), (1, 500), (2, 3)])
def test_boxes_lie_inside_and_keep_their_limits(height, width):
    top, left, tall, wide = boxes(height, width, DRAWS[:500]).numpy().T
    assert (top >= 0).all() and (left >= 0).all() and (tall >= 1).all() and (wide >= 1).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()
    if min(height, width) >= 200:  # else rounding to pixels shows
        assert (tall * wide >= 0.078 * height * width).all()
        assert (wide / tall > 0.73).all() and (wide / tall < 1.37).all()


def test_box_that_never_fits_is_the_central_one_of_the_nearest_aspect():
    top, left, tall, wide = boxes(30, 3000, DRAWS[:50]).numpy().T
    last = (tall == 30) & (wide == 40)
    assert last.sum() > 25  # an area of 8% of it is 30 x 240 at least: no box of aspect 4/3 fits
    assert (left[last] == 1480).all() and (top[last] == 0).all()


def test_scale_jitter_takes_every_integer_alike():
    @tf.function
    def draw(draws):
        def one(numbers):
            return tf.stack(geometry.random_place(tf.constant(400), tf.constant(600), numbers, (256, 480), 224))

        return tf.map_fn(one, draws, fn_output_signature=tf.int64)

    height, width, top, left = draw(np.random.default_rng(1).random((30_000, geometry.DRAWS), np.float32)).numpy().T
    counts = np.bincount(height - 256, minlength=225)
    assert len(counts) == 225 and counts.min() > 0
    # Chi-squared of 224 degrees of freedom passes 314 once in 10,000.
    assert ((counts - 30_000 / 225) ** 2 / (30_000 / 225)).sum() < 314
    assert (np.abs(width - 1.5 * height) <= 0.5).all()
    assert (top >= 0).all() and (top <= height - 224).all() and (left <= width - 224).all()
    assert (top == height - 224).any() and (left == width - 224).any() and (left == 0).any()


def test_largest_draw_stays_inside():
    draws = np.full((1, geometry.DRAWS), 1 - 2.0**-24, np.float32)
    for height, width in ((400, 500), (256, 4096), (9999, 300)):
        top, left, tall, wide = boxes(height, width, draws).numpy()[0]
        assert top + tall <= height and left + wide <= width
        place = geometry.random_place(height, width, tf.constant(draws[0]), (256, 480), 224)
        assert place[2] <= place[0] - 224 and place[3] <= place[1] - 224


# --- What is seen ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(300, 400), (90, 120), (900, 1500), (2500, 2300)])
def test_random_resized_crop_shows_its_box(form, shape):
    pixels = smooth(*shape)
    data = encode(pixels, form, **({"quality": 95, "subsampling": 0} if form == "JPEG" else {}))
    view = geometry.View("random_resized_crop", 64, mirror=False)
    for draws in DRAWS[:6]:
        top, left, tall, wide = (int(v) for v in boxes(*shape, draws[None]).numpy()[0])
        seen = view(data, tf.constant(draws)).numpy().astype(int)
        expected = Image.fromarray(pixels).resize((64, 64), Image.BILINEAR, box=(left, top, left + wide, top + tall))
        # Half a pixel of the view where the box snaps to the decoder's grid, and JPEG's own loss.
        assert np.abs(seen - np.array(expected).astype(int)).mean() < (2 if form == "JPEG" else 0.6)


def test_jpeg_of_many_pixels_is_averaged_not_sampled():
    """A pattern of alternating columns would alias to stripes of black and white; its mean is grey."""
    pixels = np.zeros((1024, 1024, 3), np.uint8)
    pixels[:, ::2] = 255
    for form, options in (("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {})):
        view = geometry.View("random_resized_crop", 64, area=(1.0, 1.0), aspect=(1.0, 1.0), mirror=False)
        seen = view(encode(pixels, form, **options), tf.constant(DRAWS[0])).numpy().astype(int)
        assert np.abs(seen - 127).max() <= 8


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_scale_jitter_is_a_crop_of_the_scaled_image(form):
    data = encode(smooth(150, 200), form, **({"quality": 95} if form == "JPEG" else {}))
    pixels = images.decode(data)
    view = geometry.View("scale_jitter", 32, scale=(40, 90), mirror=False)
    for draws in DRAWS[:6]:
        height, width, top, left = (int(v) for v in geometry.random_place(150, 200, draws, (40, 90), 32))
        scaled = np.round(tf.image.resize(pixels, [height, width], antialias=True).numpy())
        seen = view(data, tf.constant(draws)).numpy()
        # A crop that starts inside the JPEG smooths its chroma at the border, else only rounding differs.
        difference = np.abs(seen - scaled[top : top + 32, left : left + 32])
        assert difference.max() <= (6 if form == "JPEG" else 1) and difference.mean() < 0.3


def test_resize_crop_has_one_scale():
    data = encode(smooth(150, 200))
    jittered = geometry.View("scale_jitter", 32, scale=(40, 40))(data, tf.constant(DRAWS[0]))
    np.testing.assert_array_equal(geometry.View("resize_crop", 32, scale=(40,))(data, tf.constant(DRAWS[0])), jittered)


def test_mirror_has_probability_one_half():
    data, mirrored = encode(smooth(40, 50)), 0
    for draws in DRAWS[:200]:
        plain = geometry.View("resize_crop", 32, scale=(32,), mirror=False)(data, tf.constant(draws)).numpy()
        seen = geometry.View("resize_crop", 32, scale=(32,))(data, tf.constant(draws)).numpy()
        flipped = (seen == plain[:, ::-1]).all()
        assert flipped or (seen == plain).all()
        mirrored += flipped
    assert 65 < mirrored < 135  # five standard deviations


@pytest.mark.parametrize("kind, scale", [("random_resized_crop", (256, 480)), ("scale_jitter", (40, 90))])
@pytest.mark.parametrize("form", ["PNG", "JPEG", "GIF", "BMP"])
def test_views_of_a_box_never_leave_it(kind, scale, form):
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[30:90, 40:130] = 255
    options = {"quality": 100, "subsampling": 0} if form == "JPEG" else {}
    view = geometry.View(kind, 32, scale=scale)
    for draws in DRAWS[:10]:
        seen = view(encode(pixels, form, **options), tf.constant(draws), tf.constant([32, 48, 56, 80])).numpy()
        assert seen.min() > 240


@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_views_are_the_same_eager_and_in_a_dataset(form):
    data = encode(smooth(150, 200), form)
    view = geometry.View("random_resized_crop", 32)
    dataset = tf.data.Dataset.from_tensor_slices(DRAWS[:20]).map(lambda draws: view(data, draws))
    for draws, seen in zip(DRAWS, dataset, strict=False):
        np.testing.assert_array_equal(seen, view(data, tf.constant(draws)))


@pytest.mark.parametrize("shape", [(1, 400), (400, 1), (1, 1), (10_000, 3), (5, 10_000)])
def test_narrow_images_fill_every_view(shape):
    data = encode(np.full((*shape, 3), 200, np.uint8))
    draws = tf.constant(DRAWS[0])
    seen = [geometry.View(kind, 32, scale=(40, 90))(data, draws) for kind in ("random_resized_crop", "scale_jitter")]
    for pixels in [*seen, geometry.center(data, 32, 40), *geometry.ten_crop(data, 32, 40)]:
        assert pixels.shape == (32, 32, 3) and (pixels.numpy() == 200).all()


@pytest.mark.parametrize("data", [b"", b"text", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM" + bytes(60)])
def test_what_is_no_image_fails(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        geometry.View("random_resized_crop", 32)(data, tf.constant(DRAWS[0]))
    with pytest.raises(tf.errors.InvalidArgumentError):
        geometry.center(data, 32)


def odd_images():
    """{file name: (encoded, RGB pixels)} of what lies in real folders beside plain JPEGs."""
    pixels = smooth(40, 60)
    image = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    alpha = np.dstack([pixels, np.arange(2400, dtype=np.uint8).reshape(40, 60)])
    deep = pixels.astype(np.uint16) * 256 + 77
    cmyk, turned = io.BytesIO(), encode(pixels, "JPEG", exif=exif, quality=95)
    image.convert("CMYK").save(cmyk, "JPEG", quality=95)
    grey, palette = image.convert("L"), image.quantize(32)
    named = {
        "named.JPEG": (encode(pixels), pixels),
        "turned.JPEG": (turned, np.array(ImageOps.exif_transpose(Image.open(io.BytesIO(turned))))),
        "cmyk.jpg": (cmyk.getvalue(), np.array(Image.open(io.BytesIO(cmyk.getvalue())).convert("RGB"))),
        "deep.png": (tf.io.encode_png(deep).numpy(), pixels),
        "alpha.png": (tf.io.encode_png(alpha).numpy(), pixels),
        "narrow.png": (encode(pixels[:, :1]), pixels[:, :1]),
        "wide.jpg": (encode(np.full((4, 10_000, 3), 90, np.uint8), "JPEG"), np.full((4, 10_000, 3), 90, np.uint8)),
    }
    for name, kind, form in (("grey.png", grey, "PNG"), ("palette.png", palette, "PNG"), ("first.gif", palette, "GIF")):
        file = io.BytesIO()
        kind.save(file, form)
        named[name] = (file.getvalue(), np.array(kind.convert("RGB")))
    return named


@pytest.mark.parametrize("name", odd_images())
@pytest.mark.parametrize("kind", geometry.VIEWS)
def test_odd_images_are_seen_as_their_pixels(name, kind):
    """In every view, as a lossless copy of what Pillow decodes is."""
    data, pixels = odd_images()[name]
    view = geometry.View(kind, 24, scale=(24,) if kind == "resize_crop" else (24, 40))
    for draws in DRAWS[:4]:
        seen, expected = (view(d, tf.constant(draws)).numpy().astype(int) for d in (data, encode(pixels)))
        # A box of a JPEG starts inside its chroma's grid; CMYK has a rounding more.
        assert np.abs(seen - expected).mean() < (2 if name.endswith(("turned.JPEG", "jpg")) else 0.01)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.sampled_from(["JPEG", "PNG", "GIF", "BMP"]), st.integers(0, 63))
def test_views_of_any_image_are_whole(height, width, form, row):
    data = encode(np.full((height, width, 3), 200, np.uint8), form)
    for kind, scale in (("random_resized_crop", (256, 480)), ("scale_jitter", (16, 40)), ("resize_crop", (20,))):
        seen = geometry.View(kind, 16, scale=scale)(data, tf.constant(DRAWS[row])).numpy().astype(int)
        assert np.abs(seen - 200).max() <= 1


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM"]), st.binary(max_size=80))
def test_random_bytes_fail_as_bad_input(start, rest):
    with pytest.raises(tf.errors.InvalidArgumentError):
        geometry.View("random_resized_crop", 16)(start + rest, tf.constant(DRAWS[0]))


def test_truncated_jpeg_fails():
    data = encode(smooth(300, 400), "JPEG", quality=95)
    for kind in geometry.VIEWS:
        view = geometry.View(kind, 64, scale=(300, 300), area=(0.9, 1.0))
        with pytest.raises(tf.errors.InvalidArgumentError):
            view(data[: len(data) // 2], tf.fill([geometry.DRAWS], 0.99))
    with pytest.raises(tf.errors.InvalidArgumentError):
        geometry.center(data[: len(data) // 2], 64)


def test_declared_bombs_are_refused_before_they_are_decoded():
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">II", 30_000, 30_000) + b"\x08\x02\x00\x00\x00"
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    jpeg = bytearray(encode(smooth(30, 40), "JPEG"))
    at = jpeg.index(b"\xff\xc0") + 5
    jpeg[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    for data in (png, bytes(jpeg)):
        for view in (
            lambda data: geometry.center(data, 32),
            lambda data: geometry.View("scale_jitter", 32)(data, DRAWS[0]),
        ):
            with pytest.raises(tf.errors.InvalidArgumentError, match="too many pixels"):
                view(data)


# --- Test views ------------------------------------------------------------------------------------------------------


def reference_ten_crop(pixels, size):
    """Krizhevsky's ten views of an image whose shorter side has its size already."""
    height, width, _ = pixels.shape
    corners = [(0, 0), (0, width - size), (height - size, 0), (height - size, width - size)]
    # The centre is rounded to the top and the left of each image, the mirrored one too.
    places = [*corners, ((height - size) // 2, (width - size) // 2)]
    mirrored = pixels[:, ::-1]
    return np.stack(
        [image[top : top + size, left : left + size] for image in (pixels, mirrored) for top, left in places]
    )


@pytest.mark.parametrize("shape", [(40, 58), (58, 40), (40, 40), (40, 59), (59, 40)])
def test_ten_crop_of_an_image_that_needs_no_scaling(shape, rng):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    np.testing.assert_array_equal(geometry.ten_crop(encode(pixels), 32, 40), reference_ten_crop(pixels, 32))


def test_ten_crop_equals_torchvision():
    """Made with torchvision.transforms.functional.ten_crop by benchmarks/peers/make_ten_crop.py."""
    golden = np.load(pathlib.Path(__file__).parent / "golden" / "views" / "ten_crop.npz")
    size = golden["crops"].shape[1]
    seen = geometry.ten_crop(encode(golden["image"]), size, min(golden["image"].shape[:2]))
    np.testing.assert_array_equal(seen, golden["crops"])


def test_ten_crop_of_a_larger_image_is_scaled_first():
    pixels = smooth(150, 214)
    scaled = np.round(tf.image.resize(pixels, [40, 57], antialias=True).numpy()).astype(int)
    difference = np.abs(geometry.ten_crop(encode(pixels), 32, 40).numpy() - reference_ten_crop(scaled, 32))
    assert difference.max() <= 1  # a value that lies between two levels may be rounded to either


@pytest.mark.parametrize("shape", [(120, 160), (90, 200), (200, 90)])
def test_boxes_of_the_mirrored_five_are_those_of_a_mirrored_image(shape):
    boxes = geometry.ten_boxes(*shape, 48, 60)
    mirrored = [[top, shape[1] - left - wide, tall, wide] for top, left, tall, wide in boxes[5:]]
    np.testing.assert_allclose(mirrored, boxes[:5], atol=1e-9)


def test_centre_is_one_of_the_ten():
    data = encode(smooth(150, 210))
    np.testing.assert_array_equal(geometry.center(data, 32, 40), geometry.ten_crop(data, 32, 40)[4])


def test_whole_image_is_scaled_by_its_shorter_side():
    pixels = smooth(150, 210)
    seen = geometry.scaled_whole(encode(pixels), 40).numpy()
    expected = np.round(tf.image.resize(pixels, [40, 56], antialias=True).numpy())
    assert seen.shape == (40, 56, 3) and np.abs(seen - expected).max() <= 1
