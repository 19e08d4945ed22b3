"""Images with boxes: layouts, what is refused or skipped, and views in which boxes stay on their objects."""

import io
import json
import logging
import zipfile

import numpy as np
import pytest
import tensorflow as tf
from files import pack, picture, pixels_of, refused, unpack
from PIL import Image
from test_voc import CAT, DOG, annotation, devkit

from resnet_tf.data import annotated_views, batches, boxes, detection, geometry
from resnet_tf.errors import InputError
from resnet_tf.runs import run_data

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

KIT = "VOCdevkit/VOC2007"
SIDES = (37, 53)  # height and width


def of(split, example):
    """Boxes, labels and whether they are ignored, of the objects of an example, as lists."""
    objects = split.objects.of(example)
    return [part.tolist() for part in (objects.boxes, objects.labels, objects.kinds == boxes.IGNORED)]


def warnings(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


# --- PASCAL VOC ------------------------------------------------------------------------------------------------------


@pytest.fixture
def voc():
    """Images are 12 pixels high and 10 wide."""
    return devkit(
        {"trainval": ["2", "1"], "test": ["3", "4"]},
        {"1": [DOG, CAT], "2": [("eel", 1.5, 4, 6, 6.25, 0), ("dog", 1, 1, 2, 2, 1)], "3": [CAT], "4": []},
    )


def test_voc_from_folder_and_archive(voc, tmp_path):
    places = unpack(tmp_path / "tree", voc), pack(tmp_path / "c.tar", dict(reversed(voc.items())), "w")
    for place in places:
        source = detection.index("voc", str(place))
        assert source.classes == ("cat", "dog", "eel") and list(source.splits) == ["train", "test"]
        train, test = source.splits["train"], source.splits["test"]
        assert train.read(0) == voc[f"{KIT}/JPEGImages/2.jpg"] and train.boxes is None and train.masks is None
        assert of(train, 0) == [[[3, 0.5, 6.25, 6], [0, 0, 2, 2]], [2, 1], [False, True]]
        assert of(train, 1) == [[[2, 1, 9, 5], [0, 0, 12, 10]], [1, 0], [False, False]]
        assert of(test, 1) == [[], [], []] and len(test) == 2 and test.objects.most == 1  # nothing to be found there
        found = train.objects
        assert [part.dtype for part in (found.starts, found.boxes, found.labels, found.ignored)] == [
            np.int64, np.float32, np.int32, bool,
        ]  # fmt: skip
    turned = detection.index("voc", str(places[0]), classes=("eel", "dog", "cat"))
    assert of(turned.splits["train"], 1)[1] == [1, 2] and turned.checksum() != source.checksum()
    voc[f"{KIT}/Annotations/2.xml"] = annotation([("eel", 1.5, 4, 6, 6.25, 1), ("dog", 1, 1, 2, 2, 1)])
    assert detection.index("voc", str(unpack(tmp_path / "other", voc))).checksum() != source.checksum()


def test_taken_examples_keep_their_objects(voc, tmp_path):
    test = detection.index("voc", str(unpack(tmp_path, voc))).splits["test"]
    train = detection.index("synthetic").splits["train"]
    assert of(test.take(np.array([False, True])), 0) == [[], [], []] and of(test.take([1, 0, 0]), 2) == of(test, 0)
    chosen = np.random.default_rng(0).permutation(64)[:40]
    taken = train.take(chosen)
    assert [of(taken, place) for place in range(40)] == [of(train, example) for example in chosen]
    rows = train.objects.rows(3)
    np.testing.assert_array_equal(rows, np.column_stack([*train.objects.of(3)[:2], np.ones(len(rows))]))


def test_boxes_without_area_are_skipped_and_others_cut_off(voc, tmp_path, caplog):
    bad = [("dog", 4, 4, 4, 9), ("dog", 5, 2, 3, 8), ("dog", 11, 2, 14, 8), ("dog", -5, 2, 0, 8)]
    voc[f"{KIT}/Annotations/2.xml"] = annotation([*bad, ("dog", -3, 2.5, 40, 50)])
    train = detection.index("voc", str(unpack(tmp_path, voc))).splits["train"]
    assert of(train, 0) == [[[1.5, 0, 12, 10]], [1], [False]] and len(of(train, 1)[0]) == 2
    (warning,) = warnings(caplog)
    assert "skipped 4 boxes" in warning and warning.count("JPEGImages/2.jpg") == 1


def test_bad_devkits_are_named(voc, tmp_path):
    cases = {
        "trainval.txt lists 2, which has no image": {"JPEGImages/2.jpg": None},
        "test.txt lists 3, which has no annotation": {"Annotations/3.xml": None},
        "Annotations/3.xml: no annotation (syntax error": {"Annotations/3.xml": b"box"},
        "Annotations/3.xml: no annotation (no size/height)": {"Annotations/3.xml": b"<annotation><size/></annotation>"},
        "Annotations/3.xml: no annotation (a size of 12 x 0)": {"Annotations/3.xml": annotation([CAT], width=0)},
        "no boxes in test": {"Annotations/3.xml": annotation([(*CAT, 1)])},
        "has no boxes in test": {"ImageSets/Main/test.txt": b""},
        "needs trainval.txt or train.txt in": {"ImageSets/Main/trainval.txt": None},
        "has images for training alone: hold some out with --validation_share": {"ImageSets/Main/test.txt": None},
    }
    for number, (expected, changes) in enumerate(cases.items()):
        files = {name: data for name, data in voc.items() if name.removeprefix(f"{KIT}/") not in changes}
        files |= {f"{KIT}/{name}": data for name, data in changes.items() if data is not None}
        message = refused(unpack(tmp_path / str(number), files), "voc", detection.index)
        assert message.startswith("--data_dir: ") and expected in message
    place = unpack(tmp_path / "good", voc)
    message = refused(place, "voc", detection.index, classes=("cat", "dog"))
    assert "Annotations/2.xml: class eel is not in --classes" in message
    message = refused(place, "voc", detection.index, classes=("cat", "dog", "eel", "fox"))
    assert message == "--classes: not in the data: fox; they have cat, dog, eel"
    assert "does not exist" in refused(tmp_path / "none", "voc", detection.index)


def test_images_of_another_size_than_their_annotations_are_named(voc, tmp_path):
    voc[f"{KIT}/JPEGImages/1.jpg"] = picture(0, "JPEG", (10, 12))  # turned
    split = detection.index("voc", str(unpack(tmp_path, voc))).splits["train"]
    view = annotated_views.BoxedView(16, most=2)
    fault = r"JPEGImages/1\.jpg: 10 x 12 pixels, but its annotation says 12 x 10$"
    with pytest.raises(InputError, match=fault), run_data.named_errors(split):
        next(iter(batches.training(split, view, batch=2, threads=1)))


# --- COCO ------------------------------------------------------------------------------------------------------------


def instances(images, annotations, categories=((7, "dog"), (90, "ant"))):
    """JSON of {id: file}, (image, category, bbox[, crowd]) and (id, name); images are 12 x 10."""
    return {
        "info": {},
        "images": [{"id": key, "file_name": file, "height": 12, "width": 10} for key, file in images.items()],
        "annotations": [
            {"id": number, "image_id": image, "category_id": category, "bbox": box, "iscrowd": int(any(crowd))}
            for number, (image, category, box, *crowd) in enumerate(annotations)
        ],
        "categories": [{"id": key, "name": name} for key, name in categories],
    }  # fmt: skip


@pytest.fixture
def coco():
    train = instances(
        {30: "b.jpg", 4: "a.jpg"},
        [(4, 90, [1, 2, 3, 4]), (30, 7, [0.5, 0.25, 4, 8]), (4, 7, [8, 9, 5, 5], True), (4, 7, [3, 3, 0, 2])],
        ((90, "ant"), (7, "dog")),
    )
    val = instances({1: "deep/c.jpg", 2: "d.jpg"}, [(1, 7, [0, 0, 10, 12])])
    return {"train2017": train, "val2017": val}


def as_files(coco, folder="coco/"):
    files = {f"coco/annotations/instances_{name}.json": json.dumps(data).encode() for name, data in coco.items()}
    for number, name in enumerate(("train2017/a.jpg", "train2017/b.jpg", "val2017/deep/c.jpg", "val2017/d.jpg")):
        files[folder + name] = picture(number, "JPEG", (12, 10))
    return files


def test_coco_from_folder_and_archive(coco, tmp_path, caplog):
    files = as_files(coco)
    places = [
        unpack(tmp_path / "tree", files),
        pack(tmp_path / "c.tar", files, "w"),
        unpack(tmp_path / "images", as_files(coco, "coco/images/")),
    ]
    for number, place in enumerate(places, 1):
        source = detection.index("coco", str(place))
        assert source.classes == ("dog", "ant") and list(source.splits) == ["train", "test"]  # by their ids
        train, test = source.splits["train"], source.splits["test"]
        assert train.read(0) == files["coco/train2017/b.jpg"] and train.read(1) == files["coco/train2017/a.jpg"]
        assert of(train, 0) == [[[0.25, 0.5, 8.25, 4.5]], [0], [False]]
        assert of(train, 1) == [[[2, 1, 6, 4], [9, 8, 12, 10]], [1, 0], [False, True]]
        assert of(test, 0) == [[[0, 0, 12, 10]], [0], [False]] and of(test, 1) == [[], [], []]
        assert len(warnings(caplog)) == number and "skipped 1 boxes" in caplog.text
    turned = detection.index("coco", str(places[0]), classes=("ant", "dog"))
    assert of(turned.splits["train"], 1)[1] == [0, 1]
    assert "instances_train2017.json: class ant is not in --classes" in refused(
        places[0], "coco", detection.index, classes=("dog",)
    )
    three = as_files({**coco, "test": coco["val2017"]})
    three |= {name.replace("val2017", "test"): data for name, data in files.items() if "val2017/" in name}
    found = detection.index("coco", str(unpack(tmp_path / "three", three))).splits
    assert list(found) == ["train", "test", "validation"]


def changed(part, number=0, **values):
    """A fault: a row of a part of instances_train2017.json with other values; None for none."""

    def change(content):
        row = content[part][number]
        row.update(values)
        for key in [key for key, value in row.items() if value is None]:
            del row[key]

    return change


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda content: content.pop("annotations"), "no annotations"),
        (lambda content: content.update(images={}), "no images of type list"),
        (changed("images", file_name=None), "images: no file_name"),
        (changed("images", width=None), "images: no width"),
        (changed("images", width=0), "b.jpg of 12 x 0 pixels"),
        (changed("images", id=4), "images: duplicate ids or file names"),
        (changed("images", file_name="a.jpg"), "images: duplicate ids or file names"),
        (changed("images", file_name="../annotations/a.jpg"), "lists ../annotations/a.jpg, which is not in"),
        (changed("annotations", image_id=5), "no image 5"),
        (changed("annotations", category_id=1), "no category 1"),
        (changed("annotations", category_id=[7]), "no category_id of type int"),
        (changed("annotations", bbox=None), "annotations: no bbox"),
        (changed("annotations", bbox=[1, 2, 3]), "bbox of 3 numbers"),
        (changed("annotations", bbox=[1, 2, 3, float("nan")]), "bbox of [1, 2, 3, nan]"),
        (changed("annotations", bbox=[1, 2, 3, "4"]), "bbox of [1, 2, 3, '4']"),
        (changed("annotations", bbox=[10**400, 2, 3, 4]), "bbox of "),
        (changed("categories", name=None), "categories: no name"),
        (changed("categories", id=7), "categories: none, or duplicate ids or names"),
        (changed("categories", name="cat"), "instances_val2017.json: other categories than in"),
    ],
)
def test_bad_instances_are_named(coco, tmp_path, change, expected):
    change(coco["train2017"])
    message = refused(unpack(tmp_path, as_files(coco)), "coco", detection.index)
    assert message.startswith("--data_dir: ") and "annotations/instances_" in message and expected in message


def test_what_is_no_coco_is_refused(coco, tmp_path):
    files = as_files(coco)
    for number, data in enumerate((b"", b"{", b"\xff\xfe\xfa", b"[" * 100_000)):
        place = unpack(tmp_path / str(number), files | {"coco/annotations/instances_train2017.json": data})
        assert "instances_train2017.json: not JSON" in refused(place, "coco", detection.index)
    assert "needs annotations/instances_train" in refused(
        pack(tmp_path / "c.tar", {"a.jpg": b""}), "coco", detection.index
    )
    twice = as_files({**coco, "train2014": coco["train2017"]})
    assert "both coco/annotations" in refused(unpack(tmp_path / "twice", twice), "coco", detection.index)
    for number, parts in enumerate((["annotations"], ["annotations", "images"])):
        none = as_files({name: content | {part: [] for part in parts} for name, content in coco.items()})
        place = unpack(tmp_path / f"none{number}", none)
        assert "no boxes in train, test" in refused(place, "coco", detection.index)


@pytest.mark.parametrize("made", [np.asarray, tf.convert_to_tensor])
def test_objects_and_detections_have_their_class_in_one_column(made):
    """So that nothing takes a score for a class."""
    places, labels = made(np.arange(24, dtype=np.float32).reshape(2, 3, 4)), made(np.int32([[7, 8, 9], [1, 2, 3]]))
    kinds, scores = made(np.int32([[1, 2, 0], [1, 0, 0]])), made(np.float32([[0.5, 0.25, 0], [1, 0, 0]]))
    for one, last in (
        (boxes.ImageObjects(places, labels, kinds), kinds),
        (boxes.Detections(places, scores, labels), scores),
    ):
        rows = one.pack()
        assert rows.shape == (2, 3, boxes.PACKED) and rows.dtype == np.float32
        np.testing.assert_array_equal(np.asarray(rows), np.dstack([places, labels, last]))
        for ours, theirs in zip(type(one).unpack(rows), one, strict=True):
            assert ours.dtype == theirs.dtype
            np.testing.assert_array_equal(ours, theirs)


# --- Layouts of programs for labelling -------------------------------------------------------------------------------


def photo(number):
    return picture(number, "JPEG", (12, 10))


def summary(place, dataset, **options):
    """Numbers of images, and the boxes and labels of the first one, of each split."""
    source = detection.index(dataset, str(place), **options)
    return source, {name: (len(split), *of(split, 0)[:2]) for name, split in source.splits.items()}


def places_of(files, tmp_path):
    """The same files as a folder, a zip archive and a tar archive."""
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for name, data in files.items():
            archive.writestr(f"set/{name}", data)
    return unpack(tmp_path / "set", files), tmp_path / "set.zip", pack(tmp_path / "set.tar", files)


def test_annotations_beside_images_in_folders_of_splits(tmp_path):
    """As Roboflow exports PASCAL VOC, and as labelImg writes them."""
    rows = {"train/a": [DOG, CAT], "train/b": [(*CAT, 1), DOG], "valid/c": [CAT], "test/d": [DOG]}
    files = {f"{name}.xml": annotation(objects) for name, objects in rows.items()}
    files |= {f"{name}.jpg": photo(number) for number, name in enumerate(rows)}
    files |= {"README.dataset.txt": b"", "train/unlabelled.jpg": photo(9), "valid/a.jpg": photo(8)}
    for place in places_of(files, tmp_path):
        source, found = summary(place, "voc")
        assert source.classes == ("cat", "dog") and source.ignored == "2 images without an annotation"
        dog, cat = [2, 1, 9, 5], [0, 0, 12, 10]
        assert found == {
            "train": (2, [dog, cat], [1, 0]), "test": (1, [dog], [1]), "validation": (1, [cat], [0]),
        }  # fmt: skip
        assert of(source.splits["train"], 1)[2] == [True, False]
        assert source.splits["train"].read(0) == files["train/a.jpg"]
    without_test = {name: data for name, data in files.items() if not name.startswith("test")}
    place = unpack(tmp_path / "other", without_test)
    assert list(summary(place, "voc")[1]) == ["train", "test"]
    assert list(summary(place, "voc", val_is="validation")[1]) == ["train", "validation"]
    assert not summary(place, "voc", validation_share=0.5)[0].was_split


@pytest.mark.parametrize(
    "form", ["Annotations/{}.xml JPEGImages/{}.jpg", "annotations/{}.xml images/{}.jpg", "{}.xml {}.jpg"]
)
def test_annotations_without_lists(form, tmp_path):
    annotations, images = form.split()
    files = {annotations.format(number): annotation([DOG]) for number in range(10)}
    files |= {images.format(number): photo(number) for number in range(10)}
    files |= {f"SegmentationClass/{number}.png": b"" for number in range(10)}
    place = unpack(tmp_path, files)
    message = refused(place, "voc", detection.index)
    assert message.endswith(
        "has images for training alone: hold some out with --validation_share, or put some into a split val or test"
    )
    source, found = summary(place, "voc", validation_share=0.2, test_share=0.1, split_seed=1)
    assert {name: count for name, (count, *_) in found.items()} == {"train": 7, "test": 1, "validation": 2}
    assert source.was_split and source.how == "split by seed 1: 20% of the images for validation and 10% for test"
    for split in source.splits.values():
        assert [of(split, number)[1] for number in range(len(split))] == [[0]] * len(split)
        names = split.names
        assert [split.read(number) for number in range(len(split))] == [files[name] for name in names]


def test_loose_annotations_that_do_not_fit_are_named(tmp_path):
    good = {
        "train/a.xml": annotation([DOG]),
        "train/a.jpg": photo(1),
        "val/b.xml": annotation([DOG]),
        "val/b.jpg": photo(2),
    }
    cases = {
        "1 of 3 annotations have no image: train/lost.xml": {"train/lost.xml": annotation([])},
        "train/a.xml has several images: train/a.jpg, train/a.png": {"train/a.png": photo(3)},
        "c.xml is in no folder of a split": {"c.xml": annotation([DOG]), "c.jpg": photo(3)},
        "train/a.xml: no annotation (": {"train/a.xml": b"<annotation>"},
        "has annotations of validation, but not of train": {"train/a.xml": None},
        "nor images with .xml files": {"train/a.xml": None, "val/b.xml": None},
    }
    for number, (expected, changes) in enumerate(cases.items()):
        files = {name: data for name, data in {**good, **changes}.items() if data is not None}
        message = refused(unpack(tmp_path / str(number), files), "voc", detection.index)
        assert message.startswith("--data_dir: ") and expected in message


def roboflow(images, annotations):
    """A file of Roboflow, whose class 0 is a group without boxes."""
    content = instances(images, annotations, ((0, "cells"), (1, "RBC"), (2, "WBC")))
    for category in content["categories"]:
        category["supercategory"] = "cells" if category["id"] else "none"
    return json.dumps(content).encode()


def test_roboflow(tmp_path):
    files = {
        "train/_annotations.coco.json": roboflow(
            {0: "a.rf.1.jpg", 1: "b.jpg"}, [(0, 2, [1, 2, 3, 4]), (1, 1, [0, 0, 4, 8])]
        ),
        "valid/_annotations.coco.json": roboflow({0: "c.jpg"}, [(0, 1, [0, 0, 10, 12])]),
        "test/_annotations.coco.json": roboflow({0: "d.jpg"}, [(0, 1, [0, 0, 5, 6])]),
    }
    files |= {
        name: photo(number)
        for number, name in enumerate(("train/a.rf.1.jpg", "train/b.jpg", "valid/c.jpg", "test/d.jpg"))
    }
    for place in places_of(files, tmp_path):
        source, found = summary(place, "coco")
        assert source.classes == ("RBC", "WBC")
        assert source.how == "left out cells, a group of classes without boxes"
        assert found == {
            "train": (2, [[2, 1, 6, 4]], [1]), "test": (1, [[0, 0, 6, 5]], [0]),
            "validation": (1, [[0, 0, 12, 10]], [0]),
        }  # fmt: skip
        assert source.splits["train"].read(1) == files["train/b.jpg"]
    # With one box of its own it is a class like the others.
    files["test/_annotations.coco.json"] = roboflow({0: "d.jpg"}, [(0, 0, [0, 0, 5, 6]), (0, 1, [0, 0, 5, 6])])
    source, _ = summary(unpack(tmp_path / "used", files), "coco")
    assert source.classes == ("cells", "RBC", "WBC") and source.how == ""
    single = json.loads(files["valid/_annotations.coco.json"])
    single["categories"] = [
        {"id": 0, "name": "fruit", "supercategory": "none"}, {"id": 1, "name": "fruit", "supercategory": "fruit"},
    ]  # fmt: skip
    one = {
        "train/_annotations.coco.json": json.dumps(single).encode(),
        "train/c.jpg": photo(2),
        "train/x.jpg": photo(3),
    }
    one |= {name.replace("train", "valid"): data for name, data in one.items()}
    assert summary(unpack(tmp_path / "one", one), "coco")[0].classes == ("fruit",)
    files.pop("train/a.rf.1.jpg")
    message = refused(unpack(tmp_path / "lost", files), "coco", detection.index)
    assert "train/_annotations.coco.json lists a.rf.1.jpg, which is not in train" in message


@pytest.mark.parametrize(
    "file, folder, names",
    [
        ("annotations/instances_default.json", "images/", ("a.jpg", "b.jpg")),  # CVAT
        ("annotations/instances_Train.json", "images/Train/", ("a.jpg", "b.jpg")),
        ("annotations/instances_default.json", "images/default/", ("a.jpg", "b.jpg")),
        ("annotations/instances_default.json", "images/", ("deep/a.jpg", "deep/b.jpg")),
        ("annotations/instances_train2017.json", "", ("train2017/a.jpg", "train2017/b.jpg")),
        ("labels.json", "data/", ("a.jpg", "b.jpg")),  # FiftyOne
        ("result.json", "", ("images/a.jpg", "images\\b.jpg")),  # Label Studio
        ("labels.json", "photos/2024/", ("a.jpg", "b.jpg")),
    ],
)
def test_one_file_of_annotations(file, folder, names, tmp_path):
    content = instances(dict(enumerate(names)), [(0, 7, [1, 2, 3, 4]), (1, 90, [0, 0, 4, 8])])
    files = {f"set/{file}": json.dumps(content).encode(), "other/a.jpg": photo(7)}
    files |= {f"set/{folder}{name}".replace("\\", "/"): photo(number) for number, name in enumerate(names)}
    place = unpack(tmp_path, files)
    assert "has images for training alone" in refused(place, "coco", detection.index)
    source, found = summary(place, "coco", test_share=0.5)
    assert source.classes == ("dog", "ant") and {name: row[0] for name, row in found.items()} == {"train": 1, "test": 1}
    train, test = source.splits.values()
    assert sorted((train.read(0), test.read(0))) == sorted((photo(0), photo(1)))


def test_files_of_annotations_for_each_split(tmp_path):
    """FiftyOne and CVAT; of files that name no split only a lone one is used."""

    def one(name):
        return json.dumps(instances({0: name}, [(0, 7, [1, 2, 3, 4])])).encode()

    fiftyone = {"train/labels.json": one("a.jpg"), "validation/labels.json": one("a.jpg"), "labels.json": one("a.jpg")}
    fiftyone |= {"train/data/a.jpg": photo(0), "validation/data/a.jpg": photo(1)}
    cvat = {"annotations/instances_Train.json": one("a.jpg"), "annotations/instances_Validation.json": one("a.jpg")}
    cvat |= {"images/Train/a.jpg": photo(0), "images/Validation/a.jpg": photo(1)}
    cvat |= {"annotations/instances_default.json": one("a.jpg")}
    for number, files in enumerate((fiftyone, cvat)):
        source, found = summary(unpack(tmp_path / str(number), files), "coco", val_is="validation")
        assert list(found) == ["train", "validation"]
        assert [split.read(0) for split in source.splits.values()] == [photo(0), photo(1)]
        assert source.ignored == "1 files of annotations that name no split"
    twice = {"a/labels.json": one("a.jpg"), "b/labels.json": one("a.jpg")}
    assert "both a/labels.json and b/labels.json" in refused(unpack(tmp_path / "x", twice), "coco", detection.index)
    lost = {"labels.json": one("a.jpg"), "1/a.jpg": photo(0), "2/a.jpg": photo(1)}
    message = refused(unpack(tmp_path / "y", lost), "coco", detection.index)
    assert "lists a.jpg, which is not in the folder itself or data and means several files: 1/a.jpg, 2/a.jpg" in message
    only = {"valid/_annotations.coco.json": one("a.jpg"), "valid/a.jpg": photo(0)}
    message = refused(unpack(tmp_path / "z", only), "coco", detection.index)
    assert "has annotations of validation, but not of train" in message


# --- Views -----------------------------------------------------------------------------------------------------------


def encoded(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def scaled_by_pillow(pixels, longer):
    height, width = pixels.shape[:2]
    sides = [max(1, int(np.floor(side * longer / max(height, width) + 0.5))) for side in (height, width)]
    return np.array(Image.fromarray(pixels).resize(sides[::-1], Image.Resampling.BILINEAR)), sides


def close(view, reference):
    """Pillow rounds between its two passes, so that levels differ by one here and there."""
    return np.abs(view.astype(int) - reference).max() <= 1


@pytest.mark.parametrize("scale", [(0.4, 0.9), (0.7, 3.0)])
def test_view_equals_pillow_and_boxes_follow(scale, rng):
    size, mirrored, kinds = 31, 0, []
    view = annotated_views.BoxedView(size, scale, True, (250, 0, 250), 8)
    seen = tf.function(view.__call__, autograph=False)
    pixels = rng.integers(0, 256, (*SIDES, 3), dtype=np.uint8)
    data, whole = encoded(pixels), np.tile(SIDES, 2)
    for numbers in rng.random((40, geometry.DRAWS)).astype(np.float32):
        corners = np.sort(rng.uniform(0, 1, (6, 2, 2)), axis=1).reshape(6, 4) * whole
        rows = np.column_stack([corners, np.arange(6), [1, 1, 1, 1, 1, 2]]).astype(np.float32)
        got, labels = (part.numpy() for part in seen(data, rows, numbers))
        longer = round(size * scale[0] * (scale[1] / scale[0]) ** float(numbers[0]))
        large, sides = scaled_by_pillow(pixels, longer)
        extent = np.minimum(sides, size)
        top, left = (
            int(float(n) * (side - part + 1)) for n, side, part in zip(numbers[20:22], sides, extent, strict=True)
        )
        reference = np.full((size, size, 3), (250, 0, 250), np.uint8)
        reference[: extent[0], : extent[1]] = large[top : top + extent[0], left : left + extent[1]]
        expected = []
        for *box, label, kind in rows.astype(float):
            moved = np.array(box) * np.tile(sides, 2) / whole - [top, left, top, left]
            t, x, b, r = np.clip(moved, 0, np.tile(extent, 2))
            if min(b - t, r - x) >= 1:
                part = (b - t) * (r - x) / ((moved[2] - moved[0]) * (moved[3] - moved[1]))
                x, r = (size - r, size - x) if numbers[22] < 0.5 else (x, r)
                expected.append([t, x, b, r, label, 2 if part < 0.5 else kind])
        mirrored += numbers[22] < 0.5
        assert close(got, reference[:, ::-1] if numbers[22] < 0.5 else reference)
        np.testing.assert_allclose(labels[: len(expected)], np.reshape(expected, (-1, 6)), atol=1e-4)  # float32
        assert labels.shape == (8, 6) and labels.dtype == np.float32 and not labels[len(expected) :].any()
        kinds += labels[labels[:, 4] < 5, 5].tolist()
    assert 10 < mirrored < 30
    assert (kinds.count(2) > 10) == (scale[1] > 1) and kinds.count(1) > 50  # cut ones, only where there is a crop


def test_stream_of_views_keeps_boxes_on_objects_and_resumes():
    """Where a box is, the picture is as bright as its class says, and nowhere else."""
    split = detection.index("synthetic").splits["train"]
    view = annotated_views.BoxedView(64, (1.0, 2.0), True, (0, 0, 0), split.objects.most)
    stream = iter(batches.training(split, view, batch=32, seed=3, threads=1))
    first, second = next(stream), next(stream)
    resumed = next(iter(batches.training(split, view, batch=32, seed=3, first_step=1, threads=1)))
    for name in ("pixels", "labels"):
        np.testing.assert_array_equal(second[name], resumed[name])
    brightness = first["pixels"].numpy().mean(axis=-1)
    expected = np.zeros_like(brightness)
    for image, rows in zip(expected, first["labels"].numpy(), strict=True):
        for top, left, bottom, right, label, kind in rows[rows[:, 5] > 0]:
            assert kind in (1, 2)
            image[round(float(top)) : round(float(bottom)), round(float(left)) : round(float(right))] = label + 1
    found = np.select([brightness > 165, brightness > 75], [2, 1], 0)
    # Scaling by up to 2.1 blends a pixel or two on the rims of rectangles that are 10 to 40 wide.
    assert (found == expected).mean() > 0.97 and (expected > 0).mean() > 0.1


def test_more_objects_than_rows_fail():
    split = detection.index("synthetic").splits["train"]
    example = int(np.diff(split.objects.starts).argmax())
    view = annotated_views.BoxedView(64, (1.0, 1.0), most=split.objects.most - 1)
    with pytest.raises(tf.errors.InvalidArgumentError):
        view(split.read(example), split.objects.rows(example), tf.zeros([geometry.DRAWS]))


@pytest.mark.parametrize("shape", [SIDES, (53, 37), (1, 300), (61, 61)])
def test_whole_image_equals_pillow(shape, rng):
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    view, scale = annotated_views.boxed_whole(encoded(pixels), 41, (9, 8, 7))
    large, sides = scaled_by_pillow(pixels, 41)
    reference = np.full((41, 41, 3), (9, 8, 7), np.uint8)
    reference[: sides[0], : sides[1]] = large
    assert close(view.numpy(), reference) and max(sides) == 41
    assert scale.dtype == np.float32
    np.testing.assert_allclose(scale, np.array(sides) / shape, rtol=1e-6)  # float32
    same, scale = annotated_views.boxed_whole(encoded(pixels), max(shape))
    np.testing.assert_array_equal(same[: shape[0], : shape[1]], pixels_of(encoded(pixels)))
    assert scale.numpy().tolist() == [1, 1]


# --- Real photos -----------------------------------------------------------------------------------------------------


def test_real_blood_cells(real_data, caplog):
    source = detection.index("voc", str(real_data / "bccd_voc.tar"))
    assert source.classes == ("Platelets", "RBC", "WBC")
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 205 + 87, "test": 72}
    assert {name: len(split.objects.boxes) for name, split in source.splits.items()} == {"train": 3941, "test": 945}
    assert "skipped 2 boxes" in caplog.text and "00338" in caplog.text and "00343" in caplog.text
    boxes.verify(source.splits["test"])
