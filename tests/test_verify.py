"""Bad images: every one is found and named, no good one is lost, and what passes can be decoded."""

import struct
import zlib

import numpy as np
import pytest
from files import contents, pack, picture, unpack
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_tf.data import decode, sources, verify
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def png_of(width, height):
    """A PNG that claims to be of that size."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def jpeg_of(height, width):
    """A JPEG whose frame header claims that size."""
    data = bytearray(picture(0, "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


JPEG = picture(1, "JPEG", (64, 48))
BAD = {
    "bomb.jpg": (jpeg_of(60000, 60000), "60000 x 60000 pixels"),
    "bomb.png": (png_of(20000, 20000), "20000 x 20000 pixels"),
    "empty.jpg": (b"", "empty file"),
    "palette.bmp": (picture(2, "BMP", mode="P"), "colour palette"),
    "text.png": (b"some text", "not a JPEG"),
    "truncated.gif": (picture(3, "GIF")[:-40], "damaged"),
    "truncated.jpg": (JPEG[: len(JPEG) // 2], "damaged"),
    "truncated.png": (picture(4)[:-30], "damaged"),
    "without_end.jpg": (JPEG[:-40], "damaged"),
}


@pytest.mark.parametrize("packed", [False, True])
def test_bad_images_are_left_out_and_named(packed, tmp_path):
    good = {f"train/a/good{number}.{form.lower()}": picture(number, form, (9, 7 + number)) for number, form in
            enumerate(("JPEG", "PNG", "BMP", "GIF"))}  # fmt: skip
    good["train/a/grey.jpg"] = picture(9, "JPEG", (64, 64), "L")
    tree = good | {f"train/a/{name}": data for name, (data, _) in BAD.items()} | {"test/a/1.png": picture(0)}
    place = pack(tmp_path / "c.tar", tree, "w") if packed else unpack(tmp_path, tree)
    split = sources.index("folder", str(place)).splits["train"]
    seen = []
    left, bad = verify.verify(split, len(BAD), lambda done, total: seen.append((done, total)))
    assert [data for data, _, _ in contents(left)] == [data for _, data in sorted(good.items())]
    assert [name for name, _ in bad] == [f"{place}: train/a/{name}" for name in sorted(BAD)]
    for (_, reason), name in zip(bad, sorted(BAD), strict=True):
        assert BAD[name][1] in reason and "\n" not in reason and str(tmp_path) not in reason
    assert seen == [(number, len(split)) for number in range(1, len(split) + 1)]
    with pytest.raises(InputError) as caught:
        verify.verify(split, len(BAD) - 1)
    assert str(caught.value) == (
        f"{place}: train/a/bomb.jpg: {bad[0][1]} (the first of {len(BAD)} or more bad images; "
        f"--skip_bad_images={len(BAD) - 1})"
    )
    assert verify.verify(left, 0) == (left, [])


def memory(images, image=None, boxes=None):
    image = np.arange(len(images)) if image is None else np.array(image)
    storage = Memory("tests", [str(number) for number in range(len(images))], images)
    return Examples(storage, image, np.zeros(len(image), np.int32), boxes)


def test_boxes_that_are_not_in_their_image():
    boxes = np.array([[0, 0, 8, 8], [4, 4, 5, 4], [0, 0, 1, 1], [-1, 0, 2, 2], [2, 2, 0, 3], [7, 7, 1, 1]], np.int32)
    split = memory([picture(0), b"text", picture(1)], [0, 0, 1, 2, 2, 2], boxes)
    left, bad = verify.verify(split, 4)
    assert left.image.tolist() == [0, 2] and left.boxes.tolist() == [[0, 0, 8, 8], [7, 7, 1, 1]]
    assert [name for name, _ in bad] == ["tests: 1", "tests: 0", "tests: 2", "tests: 2"]
    assert bad[1][1] == "box of 5 x 4 at 4, 4 is not in the image of 8 x 8 pixels"
    with pytest.raises(InputError, match="tests: 1: not a JPEG"):
        verify.verify(split, 3)


def test_no_image_at_all_is_good():
    with pytest.raises(InputError, match=r"tests: 0: not a JPEG.*no image is good"):
        verify.verify(memory([b"text", b"text"]), 5)


def test_files_that_vanish(tmp_path):
    unpack(tmp_path, {f"{split}/a/{name}.png": picture(0) for split in ("train", "test") for name in "xyz"})
    split = sources.index("folder", str(tmp_path)).splits["train"]
    (tmp_path / "train/a/y.png").unlink()
    left, bad = verify.verify(split, 1)
    assert len(left) == 2 and bad == [(f"{tmp_path}: train/a/y.png", "No such file or directory")]


def test_damaged_heads_of_jpegs_pass_where_they_can_be_decoded():
    """The decoder gets over much that is wrong between segments; a check of our own must not be stricter."""
    images = []
    for place in range(2, 30):
        for value in (0x00, 0xC0, 0xD9, 0xE1, 0xFF):
            damaged = bytearray(picture(5, "JPEG", (40, 24)))
            damaged[place] = value
            images.append(bytes(damaged))
    left, bad = verify.verify(memory(images), len(images))
    good = []
    for number, image in enumerate(images):
        try:
            decode(image)
            good.append(number)
        except InputError:
            pass
    assert left.image.tolist() == good and len(bad) == len(images) - len(good)
    assert 5 < len(bad) < len(images)  # of both kinds there are some


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_what_passes_can_be_decoded_and_what_does_not_cannot(data):
    """Also where only a byte is wrong: an eighth of the size must show what the full size shows."""
    images = []
    for form in ("JPEG", "PNG", "JPEG", "GIF", "BMP", "JPEG"):
        damaged = bytearray(picture(len(images), form, (40, 24)))
        for _ in range(data.draw(st.integers(0, 2))):
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
        images.append(
            bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
        )
    split = memory([*images, picture(0)])
    left, bad = verify.verify(split, len(images))
    for number, image in enumerate(images):
        try:
            decode(image)
        except InputError:
            assert number not in left.image
        else:
            assert number in left.image
    assert len(left) + len(bad) == len(split)


def test_real_photos(real_data):
    split = sources.index("voc", str(real_data / "bccd_voc.tar")).splits["test"]
    left, bad = verify.verify(split, 0)
    assert left is split and not bad and len(split) == 945
