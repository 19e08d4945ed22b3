"""PASCAL VOC devkits: every box once, to the pixel, and hostile or damaged annotations refused."""

import csv
import io
import logging

import numpy as np
import pytest
from files import contents, pack, picture, refused, unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_tf.data import batches, boxes, decode, geometry, load, prepare, resize_center, verify, voc
from resnet_tf.data.sources import index
from resnet_tf.errors import InputError
from resnet_tf.runs import run_data

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def annotation(objects, width=10, height=12):
    """XML of (class, xmin, ymin, xmax, ymax[, difficult])."""
    text = f"<annotation><size><width>{width}</width><height>{height}</height><depth>3</depth></size>"
    for name, *corners in objects:
        sides = zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=False)
        box = "".join(f"<{side}>{value}</{side}>" for side, value in sides)
        difficult = f"<difficult>{corners[4]}</difficult>" if len(corners) > 4 else ""
        text += f"<object><name>{name}</name>{difficult}<bndbox>{box}</bndbox><part><name>head</name></part></object>"
    return (text + "</annotation>").encode()


def devkit(lists, objects, root="VOCdevkit/VOC2007"):
    """Files of a devkit with the lists {name: identifiers} and the objects {identifier: objects}."""
    files = {f"{root}/ImageSets/Main/{name}.txt": "\n".join(of_list).encode() for name, of_list in lists.items()}
    for number, (identifier, of_image) in enumerate(objects.items()):
        files[f"{root}/JPEGImages/{identifier}.jpg"] = picture(number, "JPEG", (12, 10))
        files[f"{root}/Annotations/{identifier}.xml"] = annotation(of_image)
    return files


DOG, CAT = ("dog", 2, 3, 5, 9), ("cat", 1, 1, 10, 12)


@pytest.fixture
def one_year():
    files = devkit(
        {"train": ["1"], "val": ["2"], "trainval": ["1  1", "2 -1", ""], "test": ["3", "4"], "cat_train": ["9"]},
        {"1": [DOG, CAT], "2": [("eel", 4, 4, 6, 6, 0), ("dog", 1, 1, 2, 2, 1)], "3": [CAT], "4": [DOG], "5": [CAT]},
    )
    return files | {
        "VOCdevkit/VOC2007/ImageSets/Layout/test.txt": b"5",
        "VOCdevkit/VOC2007/SegmentationClass/1.png": b"",
    }


def found(place, **options):
    return index("voc", str(place), **options)


def test_boxes_are_examples(one_year, tmp_path):
    root = unpack(tmp_path / "tree", one_year)
    packed = pack(tmp_path / "c.tar.xz", dict(reversed(one_year.items())), "w:xz")
    first = one_year["VOCdevkit/VOC2007/JPEGImages/1.jpg"]
    for place in (root, root / "VOCdevkit", root / "VOCdevkit/VOC2007", packed):
        source = found(place)
        assert source.classes == ("cat", "dog", "eel") and list(source.splits) == ["train", "test"]
        train = contents(source.splits["train"])
        assert train[:2] == [(first, 1, [2, 1, 7, 4]), (first, 0, [0, 0, 12, 10])]
        assert train[2] == (one_year["VOCdevkit/VOC2007/JPEGImages/2.jpg"], 2, [3, 3, 3, 3])
        assert len(train) == 3 and [label for _, label, _ in contents(source.splits["test"])] == [0, 1]
        assert source.splits["train"].boxes.dtype == np.int32
        assert len(source.splits["train"].storage) == 2
    turned = found(root, classes=("eel", "dog", "cat"))
    assert turned.splits["train"].labels.tolist() == [1, 2, 0]
    part = found(root, classes=("cat", "dog"))
    assert part.splits["train"].labels.tolist() == [1, 0] and part.ignored == "1 images of 1 other class"


def test_boxes_are_cut_out_before_they_are_resized(one_year, tmp_path):
    loaded = load("voc", str(unpack(tmp_path, one_year)), image_size=4)
    pixels = decode(one_year["VOCdevkit/VOC2007/JPEGImages/1.jpg"])
    assert np.array_equal(loaded.splits["train"].images[0], resize_center(pixels[2:9, 1:5], 4))
    assert np.array_equal(loaded.splits["train"].images[1], resize_center(pixels, 4))
    assert loaded.splits["train"].labels.tolist() == [1, 0, 2]


def test_years_and_lists(tmp_path):
    """07+12: all trainval are training; a year of train and val only has a validation split."""
    old = devkit({"trainval": ["1"], "train": ["1"], "val": ["1"], "test": ["2"]}, {"1": [DOG], "2": [DOG]})
    new = devkit({"trainval": ["1", "2"], "val": ["2"]}, {"1": [CAT], "2": [CAT]}, "VOCdevkit/VOC2012")
    cut = devkit({"train": ["1"], "val": ["2"]}, {"1": [CAT], "2": [CAT, CAT]}, "VOCdevkit/VOC2012")

    def labels(name, files):
        return {
            split: examples.labels.tolist() for split, examples in found(unpack(tmp_path / name, files)).splits.items()
        }

    assert labels("both", old | new) == {"train": [1, 0, 0], "test": [1]}
    assert labels("cut", old | cut) == {"train": [1, 0], "test": [1], "validation": [0, 0]}
    assert labels("alone", cut) == {"train": [0], "test": [0, 0]}
    message = refused(tmp_path / "alone/VOCdevkit/VOC2012/JPEGImages", "voc", index)
    assert "holds no folder with Annotations, JPEGImages and ImageSets/Main" in message
    only = devkit({"trainval": ["1"]}, {"1": [CAT]})
    assert labels("only", only) == {"train": [0]}
    message = refused(unpack(tmp_path / "none", devkit({"test": ["1"]}, {"1": [CAT]})), "voc", index)
    assert "needs trainval.txt or train.txt in ImageSets/Main" in message


def test_boxes_of_no_area_are_skipped_and_named_in_one_line(one_year, tmp_path, caplog):
    kit = "VOCdevkit/VOC2007"
    bad = [("dog", 4, 4, 4, 4), ("dog", 5, 2, 3, 8), ("dog", 11, 2, 14, 8), ("dog", 3, 8, 9, 8)]
    one_year[f"{kit}/Annotations/2.xml"] = annotation([*bad, CAT])
    one_year[f"{kit}/Annotations/1.xml"] = annotation([DOG, ("dog", -3, -2, 40, 50), ("dog", 1.6, 2.4, 4.6, 8.5)])
    train = found(unpack(tmp_path, one_year)).splits["train"]
    assert train.boxes.tolist() == [[2, 1, 7, 4], [0, 0, 12, 10], [1, 1, 7, 4], [0, 0, 12, 10]]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "skipped 4 boxes" in warning and warning.count(f"{kit}/JPEGImages/2.jpg") == 1 and "\n" not in warning


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.floats() | st.integers(-20, 40).map(float)] * 4), max_size=8), st.booleans())
def test_good_boxes_lie_in_their_image(corners, inclusive):
    sides = np.tile([12, 10], (len(corners), 1))
    placed, good = boxes.from_corners(np.array(corners, np.float64).reshape(-1, 4), sides, inclusive)
    assert placed.dtype == np.int32 and placed.shape == (len(corners), 4) and len(good) == len(corners)
    for (top, left, height, width), corner in zip(placed[good].tolist(), np.array(corners)[good].tolist(), strict=True):
        assert 0 <= top < top + height <= 12 and 0 <= left < left + width <= 10
        assert top == max(round(corner[0]) - inclusive, 0) and top + height == min(round(corner[2]), 12)
        assert left == max(round(corner[1]) - inclusive, 0) and left + width == min(round(corner[3]), 10)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "BMP", "GIF"])
def test_sizes_that_annotations_lack_are_those_of_the_pictures(form, one_year, tmp_path):
    """Boxes are cut off at them as at those that are written."""
    kit, outside = "VOCdevkit/VOC2007", [("dog", 2, 3, 40, 50)]
    one_year[f"{kit}/JPEGImages/1.jpg"] = picture(0, form, (12, 10))
    for name, sized in (("with", True), ("without", False)):
        xml = annotation(outside)
        plain = xml[: xml.index(b"<size>")] + xml[xml.index(b"</size>") + 7 :]
        one_year[f"{kit}/Annotations/1.xml"] = xml if sized else plain
        for place in (unpack(tmp_path / name, one_year), pack(tmp_path / f"{name}.tar", one_year, "w")):
            train = found(place).splits["train"]
            assert train.boxes[0].tolist() == [2, 1, 10, 9] and train.sides.tolist() == [[12, 10]] * len(train)
            assert verify.verify(train, 0)[1] == []
    one_year[f"{kit}/JPEGImages/1.jpg"] = b"no image"
    assert "JPEGImages/1.jpg: not a " in refused(unpack(tmp_path / "bad", one_year), "voc", index)


def test_pictures_of_another_size_than_their_annotation_says_are_named_or_skipped(one_year, tmp_path):
    """Larger, so that every box is in them, and all the same not where it should be."""
    kit = "VOCdevkit/VOC2007"
    one_year[f"{kit}/JPEGImages/1.jpg"] = picture(0, "JPEG", (24, 20))
    place = unpack(tmp_path / "set", one_year)
    fault = "JPEGImages/1.jpg: 24 x 20 pixels, but its annotation says 12 x 10"
    assert fault in refused(place, "voc", load, image_size=4)
    train = found(place).splits["train"]
    view = geometry.View("random_resized_crop", 8)
    with pytest.raises(InputError, match=fault), run_data.named_errors(train):
        next(iter(batches.training(train, view, batch=3, threads=1)))
    with pytest.raises(InputError, match="--skip_bad_images=1"):
        verify.verify(train, 1)  # two boxes of it
    left, bad = verify.verify(train, 2)
    assert [f"{name}: {reason}".endswith(fault) for name, reason in bad] == [True, True] and len(left) == 1
    prepare.prepare(found(place), tmp_path / "out", skip_bad_images=2)
    reasons = [row["reason"] for row in csv.DictReader((tmp_path / "out" / "report.csv").read_text().splitlines())]
    assert reasons == [fault.split(": ")[1]] * 2


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_sizes_of_annotations_are_of_the_image_as_it_is_seen(form, one_year, tmp_path):
    """Of one that its orientation tag turns: upright where tags are applied, as it is stored where they are not."""
    kit = "VOCdevkit/VOC2007"  # whose annotations say 12 x 10

    def read(name, sides, sized=True, exif="apply"):
        file = io.BytesIO()
        image = Image.new("RGB", sides[::-1], (90, 20, 200))
        tag = image.getexif()
        tag[0x0112] = 6  # a quarter turn
        image.save(file, form, exif=tag.tobytes())
        xml = annotation([("dog", 2, 3, 6, 7)])
        plain = xml[: xml.index(b"<size>")] + xml[xml.index(b"</size>") + 7 :]
        files = {f"{kit}/JPEGImages/1.jpg": file.getvalue(), f"{kit}/Annotations/1.xml": xml if sized else plain}
        split = index("voc", str(unpack(tmp_path / name, one_year | files)), exif=exif).splits["train"]
        return split.sides[0].tolist(), [reason for _, reason in verify.verify(split, 9)[1]]

    assert read("upright", (10, 12)) == ([12, 10], [])
    assert read("stored", (12, 10), exif="ignore") == ([12, 10], [])
    turned = "10 x 12 pixels, but its annotation says 12 x 10"
    assert read("other", (12, 10))[1] == [f"{turned}; its orientation tag turns it, --exif=ignore ignores the tag"]
    assert read("ignored", (10, 12), exif="ignore")[1] == [turned]
    assert read("silent", (10, 12), sized=False) == ([12, 10], [])
    assert read("silent and ignored", (12, 10), sized=False, exif="ignore") == ([12, 10], [])


def test_what_lists_name_must_be_there(one_year, tmp_path):
    kit = "VOCdevkit/VOC2007"
    cases = {
        f"{kit}/JPEGImages/3.jpg": "test.txt lists 3, which has no image",
        f"{kit}/Annotations/2.xml": "trainval.txt lists 2, which has no annotation",
    }
    for number, (name, expected) in enumerate(cases.items()):
        files = {file: data for file, data in one_year.items() if file != name}
        assert expected in refused(unpack(tmp_path / str(number), files), "voc", index)
        assert expected in refused(pack(tmp_path / "c.tar", files, "w"), "voc", index)
    twice = one_year | {f"{kit}/ImageSets/Main/test.txt": b"3\n3\n"}
    assert "test.txt lists some images twice" in refused(unpack(tmp_path / "twice", twice), "voc", index)
    both = one_year | {f"{kit}/JPEGImages/3.png": b""}
    assert "both " in refused(unpack(tmp_path / "both", both), "voc", index)
    none = one_year | {f"{kit}/ImageSets/Main/test.txt": b"\n"}
    assert "has no boxes in test" in refused(unpack(tmp_path / "none", none), "voc", index)


def test_an_archive_too_large_for_memory_is_refused(one_year, tmp_path, monkeypatch):
    place = pack(tmp_path / "c.tar", one_year, "w")
    monkeypatch.setattr("resnet_tf.data.splits.MAX_BYTES", 1000)
    assert "too many for memory" in refused(place, "voc", index)
    assert len(found(unpack(tmp_path / "tree", one_year)).splits["train"]) == 3


# --- annotations -----------------------------------------------------------------------------------

LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
HOSTILE = {
    "entities": f'<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{LAUGHS}]><a>&l9;</a>'.encode(),
    "file": b'<!DOCTYPE a [<!ENTITY f SYSTEM "file:///etc/passwd">]><annotation>&f;</annotation>',
    "empty doctype": b"<!DOCTYPE annotation>" + annotation([CAT]),
    "utf-16": ("<!DOCTYPE annotation>" + annotation([CAT]).decode()).encode("utf-16"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_document_types_are_refused(name):
    with pytest.raises(InputError, match=r"1.xml: no annotation \(it declares a document type\)"):
        voc.parse_annotation(HOSTILE[name], "1.xml")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", "no annotation"),
        (b"text", "no annotation"),
        (annotation([CAT])[:-5], "no annotation"),
        (b'<?xml version="1.0" encoding="unheard-of"?>' + annotation([CAT]), "no annotation"),
        (b"<annotation>&undefined;</annotation>", "no annotation"),
        (b"<annotation><size></size></annotation>", "no size/height"),
        (annotation([CAT], width=0), "a size of 12 x 0"),
        (annotation([CAT], width="nan"), "size/width of nan"),
        (annotation([("cat", 1, 2, "1e999", 4)]), "bndbox/xmax of inf"),
        (annotation([("cat", 1, 2, "left", 4)]), "left"),
        (annotation([("cat", 1, 2, 3)]), "no bndbox/ymax"),
        (annotation([(" ", 1, 2, 3, 4)]), "no name"),
        (annotation([("cat", 1, 2, 3, 4, "maybe")]), "maybe"),
        (b" " * 2**20 + annotation([CAT]), "the limit for an annotation is 1048576"),
    ],
)
def test_bad_annotations_are_named(data, expected, one_year, tmp_path):
    with pytest.raises(InputError, match=r"^kit: 1\.xml: [^\n]*$") as caught:
        voc.parse_annotation(data, "kit: 1.xml")
    assert expected in str(caught.value)
    one_year["VOCdevkit/VOC2007/Annotations/1.xml"] = data
    assert "Annotations/1.xml: " in refused(unpack(tmp_path, one_year), "voc", index)


def test_annotations_are_read_as_they_are_written():
    plain = annotation([DOG, (" a&amp;b ", 1.5, 2, 3, 4, 0), ("eel", 1, 1, 2, 2, 1)])
    expected = ([12.0, 10.0], [
        ("dog", [3.0, 2.0, 9.0, 5.0], False), ("a&b", [2.0, 1.5, 4.0, 3.0], False), ("eel", [1.0, 1.0, 2.0, 2.0], True),
    ])  # fmt: skip
    assert voc.parse_annotation(plain, "x") == expected
    assert voc.parse_annotation(plain.decode().encode("utf-16"), "x") == expected
    deep = b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + plain.removeprefix(b"<annotation>")
    assert voc.parse_annotation(deep, "x") == expected


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_bytes_end_in_another_exception(data):
    plain = bytearray(annotation([DOG, CAT]))
    for _ in range(data.draw(st.integers(1, 4))):
        plain[data.draw(st.integers(0, len(plain) - 1))] = data.draw(st.integers(0, 255))
    for content in (bytes(plain), data.draw(st.binary(max_size=100))):
        try:
            sides, objects = voc.parse_annotation(content, "x")
        except InputError as error:
            assert str(error).startswith("x: ") and "\n" not in str(error)
        else:
            assert (sides is None or min(sides) >= 1) and all(
                name and len(corners) == 4 for name, corners, _ in objects
            )


# --- real photos -----------------------------------------------------------------------------------


def test_real_blood_cells(real_data, caplog):
    source = found(real_data / "bccd_voc.tar")
    assert source.classes == ("Platelets", "RBC", "WBC")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 3941, "test": 945}
    assert len(source.splits["train"].storage) == 205 + 87 and len(source.splits["test"].storage) == 72
    text = caplog.text
    assert "skipped 2 boxes" in text and "BloodImage_00338" in text and "BloodImage_00343" in text
    for split in source.splits.values():
        start, size = split.boxes[:, :2], split.boxes[:, 2:]
        assert start.min() >= 0 and size.min() > 0 and ((start + size) <= (480, 640)).all()
