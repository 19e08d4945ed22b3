"""Masks that make no sense: what is refused, what is told, and how much is looked at for it."""

import logging

import numpy as np
import pytest
from files import unpack
from test_segmentation_data import camvid, encoded, in_graph, pair

from resnet_tf import config
from resnet_tf.data import census, masks, segmentation
from resnet_tf.errors import InputError
from resnet_tf.tasks.segmentation import Segmentation
from resnet_tf.transfer import segment

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

TWO = ("ground", "thing")


def voc(tmp_path, found, classes=TWO, **options):
    """A set of masks of these values, each of which fills a stripe."""
    files = {}
    for number, values in enumerate(found):
        mask = np.repeat(np.array(values, np.uint8), 8)[None].repeat(6, axis=0)
        files[f"V/SegmentationClass/{number:04}.png"] = encoded(mask)
        files[f"V/JPEGImages/{number:04}.png"] = encoded(np.zeros((*mask.shape, 3), np.uint8))
    names = "\n".join(f"{number:04}" for number in range(len(found))).encode()
    files |= {f"V/ImageSets/Segmentation/{name}.txt": names for name in ("train", "val")}
    return segmentation.index("voc", str(unpack(tmp_path, files)), classes, **options)


def told(source, caplog):
    """The warnings of a check that passes."""
    caplog.clear()
    caplog.set_level(logging.INFO)
    census.check(source.splits["train"], source.classes)
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def refused(source):
    with pytest.raises(InputError) as caught:
        census.check(source.splits["train"], source.classes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_good_masks_pass_without_a_word(tmp_path, caplog):
    assert told(voc(tmp_path, [[0, 1, 255], [0, 0], [1, 1]]), caplog) == []
    assert "every class has pixels (3 of 3 training masks checked)" in caplog.text
    assert told(segmentation.index("synthetic"), caplog) == []


def test_binary_masks_are_refused_or_read_by_their_values(tmp_path, caplog):
    found = [[0, 255], [0, 0], [255, 0, 255]]
    message = refused(voc(tmp_path, found))
    assert "SegmentationClass/000" in message and "--mask_values=0,255 (3 of 3" in message
    source = voc(tmp_path, found, mask_values=(0, 255))
    assert told(source, caplog) == []
    train = source.splits["train"]
    np.testing.assert_array_equal(train.masks.read(0)[0], [0] * 8 + [1] * 8)
    np.testing.assert_array_equal(in_graph(train, 0), train.masks.read(0))
    assert source.checksum() != voc(tmp_path, found).checksum()
    turned = voc(tmp_path, found, mask_values=(255, 0)).splits["train"]
    np.testing.assert_array_equal(turned.masks.read(0)[0], [1] * 8 + [0] * 8)


def test_values_that_are_not_among_mask_values_are_told(tmp_path, caplog):
    (warning,) = told(voc(tmp_path, [[0, 255, 254, 3]], mask_values=(0, 255)), caplog)
    assert "50% of pixels are void: --mask_values lacks 3, 254 (1 of 1" in warning


def test_numbering_from_one(tmp_path, caplog):
    """Of no class where the layout has no index after the last, else void."""
    message = refused(voc(tmp_path, [[1, 2], [2, 255]]))
    assert "index 2 belongs to no class; 2 occurs and 0 does not" in message and "--mask_values of 1 to 2" in message
    assert told(voc(tmp_path, [[1, 2], [2, 255]], mask_values=(1, 2)), caplog)[0].count("lacks 255") == 1
    files = camvid(("train", "val"), pair(0, 11, first=1)[1])
    (warning,) = told(segmentation.index("camvid", str(unpack(tmp_path / "camvid", files))), caplog)
    assert "no pixel is of class sky; 11 occurs and 0 does not" in warning and "--mask_values of 1 to 11" in warning


def test_numbering_from_zero_where_it_is_from_one(tmp_path, caplog):
    files = {}
    for split in ("training", "validation"):
        image, mask, _ = pair(3, 3)
        files |= {f"ADE/images/{split}/x.jpg": image, f"ADE/annotations/{split}/x.png": mask}
    source = segmentation.index("ade20k", str(unpack(tmp_path, files)), ("a", "b", "c"))
    (warning,) = told(source, caplog)
    assert "no pixel is of class c; 0 occurs and 3 does not" in warning and "--mask_values of 0 to 2" in warning


def test_an_index_of_no_class_is_named_with_its_mask(tmp_path):
    message = refused(voc(tmp_path, [[0, 1], [0, 1, 7], [1]]))
    assert "SegmentationClass/0001.png: index 7 belongs to no class (3 of 3" in message


def test_masks_that_are_void_all_over(tmp_path, caplog):
    (warning,) = told(voc(tmp_path, [[0, 1], [255], [255, 255]]), caplog)
    assert "all pixels are void in 2 masks" in warning
    assert all(f"SegmentationClass/000{number}.png" in warning for number in (1, 2))
    assert "no mask has a pixel of a class, only the void values 255 (2 of 2" in refused(voc(tmp_path, [[255], [255]]))


def test_a_class_without_a_pixel_is_named(tmp_path, caplog):
    (warning,) = told(voc(tmp_path, [[0, 1], [2, 255]], (*TWO, "grey", "lost")), caplog)
    assert "no pixel is of class lost (2 of 2" in warning


def test_few_masks_are_looked_at_while_nothing_is_missing(tmp_path, caplog, monkeypatch):
    """And more, but not all, where a class is; all where every class is."""
    monkeypatch.setattr(census, "_AT_ONCE", 2)
    monkeypatch.setattr(census, "_LEAST", 4)
    monkeypatch.setattr(census, "_MOST", 8)
    read = []
    decode = masks.decode
    monkeypatch.setattr(masks, "decode", lambda data, name: read.append(name) or decode(data, name))
    late = [[255]] * 20
    late[np.random.default_rng(0).permutation(20)[-1]] = [0, 1]  # the last that is looked at
    cases = ([[0, 1]] * 20, TWO, 4), ([[0, 1]] * 20, (*TWO, "lost"), 8), (late, TWO, 20)
    for found, classes, expected in cases:
        read.clear()
        told(voc(tmp_path / str(expected), found, classes), caplog)
        assert len(read) == len(set(read)) == expected and f"{expected} of 20 training masks checked" in caplog.text


SMALL = ("--dataset=voc", "--classes=ground,thing", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=2",
         "--train_steps=1", "--output_stride=2")  # fmt: skip


def test_training_is_refused_before_it_leaves_anything(tmp_path, capsys):
    voc(tmp_path / "data", [[0, 255]] * 3)
    flags = [*SMALL, f"--data_dir={tmp_path}/data", f"--out={tmp_path}/run"]
    for more, expected in (
        ((), "--mask_values=0,255"),
        (("--mask_values=0,128,255",), "--mask_values: 3 values, but 2 classes"),
        (("--mask_values=0,0",), "--mask_values=0,0: not two or more different"),
        (("--mask_values=0,256",), "--mask_values=0,256: not"),
        (("--mask_values=7",), "--mask_values=7: not"),
        (("--mask_values=0,255", "--dataset=synthetic", "--data_dir="), "--mask_values is not used"),
    ):
        assert segment.main([*flags, *more]) == 1
        assert expected in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "run").exists()
    assert segment.main([*flags, "--mask_values=0,255"]) == 0
    settings = {"dataset": "voc", "classes": TWO, "mask_values": (0, 255), "train_steps": 1, "smoke": True}
    shrunk = Segmentation.shrink(config.from_settings(config.SegmentConfig, settings, "test"))
    assert (shrunk.data.dataset, shrunk.data.mask_values) == ("synthetic", ())  # whose masks hold indices
