"""Images with masks: layouts, views, refusals, and the score of masks."""

import io

import numpy as np
import pytest
import tensorflow as tf
from files import pack, unpack
from PIL import Image

from resnet_tf import config
from resnet_tf.data import annotated_views, batches, geometry, masks, segmentation
from resnet_tf.errors import InputError
from resnet_tf.runs import run_data
from resnet_tf.tasks import segmentation_metrics as metrics

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SIDES = (37, 53)  # height and width


def encoded(pixels, form="PNG", palette=False, **options):
    image = Image.fromarray(pixels)
    if palette:
        image = Image.frombytes("P", pixels.shape[::-1], pixels.tobytes())
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def pair(seed, classes, first=0, sides=SIDES, palette=False):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (*sides, 3), dtype=np.uint8)
    indices = rng.integers(first, first + classes, sides, dtype=np.uint8)
    return encoded(pixels, "JPEG"), encoded(indices, palette=palette), indices


def camvid(splits=("train", "val", "test"), mask=None, classes=11):
    files = {"camvid/train.txt": b"0\n"}
    for number, split in enumerate(splits):
        for index in range(2):
            image, found, _ = pair(10 * number + index, classes + 1)
            files[f"camvid/{split}/{index}.jpg"] = image
            files[f"camvid/{split}annot/{index}.png"] = found if mask is None else mask
    return files


def in_graph(split, image):
    """Labels as a stream of views reads them."""
    return tf.function(split.masks.reader(), autograph=False)(tf.constant(image, tf.int64))


def refused(data_dir, dataset="camvid", **options):
    with pytest.raises(InputError) as caught:
        segmentation.index(dataset, str(data_dir), **options)
    return str(caught.value)


def test_camvid_from_archive_and_folder(tmp_path):
    files = camvid()
    archive, folder = pack(tmp_path / "c.tar", files, "w"), unpack(tmp_path / "folder", files)
    packed, unpacked = segmentation.index("camvid", str(archive)), segmentation.index("camvid", str(folder))
    assert segmentation.DATASETS == config.SEGMENTATION_DATASETS
    assert list(packed.splits) == ["train", "test", "validation"] and len(packed.classes) == 11
    _, _, indices = pair(20, 12)
    for source in (packed, unpacked):
        labels = source.splits["test"].masks.read(0)
        np.testing.assert_array_equal(labels, np.where(indices == 11, masks.VOID, indices))
        np.testing.assert_array_equal(labels, in_graph(source.splits["test"], 0))
    changed = pack(tmp_path / "other.tar", files | {"camvid/trainannot/1.png": pair(5, 12)[1]}, "w")
    assert segmentation.index("camvid", str(changed)).checksum() != packed.checksum()
    assert packed.splits["train"].take([1]).name(0).endswith("train/1.jpg")


def test_voc_reads_palettes_as_indices(tmp_path):
    files = {}
    for name in "abc":
        image, mask, _ = pair(ord(name), 21, palette=True)
        files |= {f"VOC2012/JPEGImages/{name}.jpg": image, f"VOC2012/SegmentationClass/{name}.png": mask}
    few = encoded(np.arange(4, dtype=np.uint8).reshape(2, 2), palette=True, bits=2)
    files |= {"VOC2012/JPEGImages/d.jpg": encoded(np.zeros((2, 2, 3), np.uint8), "JPEG"),
              "VOC2012/SegmentationClass/d.png": few,
              "VOC2012/ImageSets/Segmentation/train.txt": b"c\na\n",
              "VOC2012/ImageSets/Segmentation/val.txt": b"b\nd\n"}  # fmt: skip
    source = segmentation.index("voc", str(unpack(tmp_path, files)))
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 2, "test": 2}
    train, test = source.splits["train"], source.splits["test"]
    np.testing.assert_array_equal(train.masks.read(0), pair(ord("c"), 21)[2])
    np.testing.assert_array_equal(in_graph(train, 1), pair(ord("a"), 21)[2])
    np.testing.assert_array_equal(in_graph(test, 1), [[0, 1], [2, 3]])
    files["VOC2012/ImageSets/Segmentation/train.txt"] = b"c\nnone\n"
    assert "no image for none" in refused(unpack(tmp_path, files), "voc")


def test_ade20k_has_void_first_and_names_in_a_file(tmp_path):
    files = {}
    for split in ("training", "validation"):
        image, mask, indices = pair(3, 151)
        files |= {f"ADE/images/{split}/x.jpg": image, f"ADE/annotations/{split}/x.png": mask}
    source = segmentation.index("ade20k", str(unpack(tmp_path, files)))
    assert source.classes[0] == "class1" and len(source.classes) == 150
    labels = source.splits["train"].masks.read(0)
    np.testing.assert_array_equal(labels, np.where(indices == 0, masks.VOID, indices - 1))
    rows = ["Idx\tRatio\tTrain\tVal\tStuff\tName", *(f"{n}\t0\t0\t0\t0\tthing{n}, other" for n in range(1, 151))]
    source = segmentation.index("ade20k", str(unpack(tmp_path, {"ADE/objectInfo150.txt": "\n".join(rows).encode()})))
    assert source.classes[149] == "thing150"


def test_bad_data_are_named(tmp_path):
    files = camvid(("train", "val"))
    lost = dict(files)
    del lost["camvid/trainannot/1.png"]
    assert "no mask for 1" in refused(pack(tmp_path / "a.tar", lost))
    assert "camvid" in refused(pack(tmp_path / "b.tar", {"x/y.png": b""}))
    assert "does not exist" in refused(tmp_path / "none")
    assert "1 classes" in refused(pack(tmp_path / "c.tar", files), classes=("one",))
    bad = {
        "10 x 10 pixels, but 37 x 53": encoded(np.zeros((10, 10), np.uint8)),
        "index 12 belongs to no class": encoded(np.full(SIDES, 12, np.uint8)),
        "no class indices": encoded(np.zeros((*SIDES, 3), np.uint8)),
        "not a PNG": encoded(np.zeros(SIDES, np.uint8), "GIF"),
        "damaged": encoded(np.random.default_rng(0).integers(0, 9, SIDES, dtype=np.uint8))[:-400],
        "no image": b"",
    }
    for number, (fault, mask) in enumerate(bad.items()):
        data = camvid(("train", "val"), mask)
        split = segmentation.index("camvid", str(unpack(tmp_path / str(number), data))).splits["train"]
        with pytest.raises(InputError, match=f"trainannot/0.png.*{fault}"), run_data.named_errors(split):
            if number == 0:
                next(iter(batches.training(split, annotated_views.MaskedView(16), batch=2, threads=1)))
            elif number == 1:
                in_graph(split, 0)
            masks.verify(split)


def test_views_keep_image_and_mask_together():
    """A mask that is a function of the image stays that function of every view."""
    source = segmentation.index("synthetic")
    split = source.splits["train"]
    view = annotated_views.MaskedView(24, (0.5, 2.0), True, (250, 0, 250))
    first = iter(batches.training(split, view, batch=64, seed=3, threads=1))
    views = next(first)
    pixels, labels = views["pixels"].numpy().astype(int), views["labels"].numpy()
    missing = (pixels == [250, 0, 250]).all(axis=-1)
    assert 0.05 < missing.mean() < 0.5 and (labels[missing] == masks.VOID).all()
    brightness = pixels.mean(axis=-1)
    expected = np.select([brightness > 165, brightness > 75], [2, 1], 0)
    counted = labels != masks.VOID
    # Scaling blends neighbours where classes meet, a pixel or two around rectangles of 10.
    assert (labels == expected)[counted].mean() > 0.8
    inner = counted[:, 2:-2, 2:-2]
    same = np.ones_like(inner)
    for down in range(5):
        for across in range(5):
            same &= labels[:, 2:-2, 2:-2] == labels[:, down : down + 20, across : across + 20]
    assert (labels == expected)[:, 2:-2, 2:-2][inner & same].mean() > 0.999
    # Views depend on seed, epoch and example alone: step 1 of a stream is step 0 of one that begins there.
    split = split.take(np.arange(4))
    stream = iter(batches.training(split, view, batch=4, threads=1))
    next(stream)
    second, resumed = next(stream), next(iter(batches.training(split, view, batch=4, first_step=1, threads=1)))
    for name in ("pixels", "labels"):
        np.testing.assert_array_equal(second[name], resumed[name])


def test_view_of_scale_one_is_the_image_itself():
    split = segmentation.index("synthetic").splits["test"]
    view = annotated_views.MaskedView(64, (1.0, 1.0), False, (1, 2, 3))
    pixels, labels = view(split.read(5), in_graph(split, 5), tf.zeros([geometry.DRAWS]))
    np.testing.assert_array_equal(pixels[:24, :30], np.array(Image.open(io.BytesIO(split.read(5)))))
    np.testing.assert_array_equal(labels[:24, :30], split.masks.read(5))
    np.testing.assert_array_equal(pixels, annotated_views.filled_whole(split.read(5), 64, (1, 2, 3)))


def test_scores_equal_a_plain_loop():
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(0, 4, (3, 20, 30), dtype=np.uint8), rng.integers(0, 4, (3, 20, 30), dtype=np.uint8)
    truth[rng.random(truth.shape) < 0.2] = masks.VOID
    predicted[predicted == 3] = 5  # class 3 is only in the truth, 5 only in the answers, 4 in neither
    matrix = sum(metrics.confusion(t, p, 6) for t, p in zip(truth, predicted, strict=True))
    assert matrix.dtype == np.int64 and matrix.sum() == (truth != masks.VOID).sum()
    ious = []
    for label in (0, 1, 2, 3, 5):
        both = either = 0
        for t, p in zip(truth.ravel(), predicted.ravel(), strict=True):
            if t != masks.VOID:
                both += t == label and p == label
                either += t == label or p == label
        ious.append(both / either)
    right = sum(t == p for t, p in zip(truth.ravel(), predicted.ravel(), strict=True))
    found = metrics.scores(matrix)
    assert found["miou"] == pytest.approx(np.mean(ious), abs=1e-12)
    assert found["pixel_accuracy"] == pytest.approx(right / matrix.sum(), abs=1e-12)
    assert np.isnan(metrics.per_class(matrix)["iou"][4])
    with pytest.raises(ValueError, match="20, 30"):
        metrics.confusion(truth[0], predicted[0, :10], 6)
