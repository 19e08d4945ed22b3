"""Sets that TFDS prepared: its records, labels, names and boxes; nothing fetched."""

import json
import shutil
import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from files import contents, picture, refused, unpack

from resnet_tf.data import boxes, decode, load
from resnet_tf.data.sources import index

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

NAMES = ["cat", "dog", "eel"]
PICTURES = [picture(seed, "JPEG", (12, 10)) for seed in range(12)]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing here may ask for it."""

    def refuse(*_):
        raise AssertionError("the network was asked for")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def store(data_dir, name, splits, features, config=None, version="1.0.0", **options):
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name, version=version, features=tfds.features.FeaturesDict(features), split_datasets=splits,
        data_dir=data_dir, config=config, **options,
    )  # fmt: skip


def labelled(numbers, label=lambda number: number % 3):
    return [(number, {"image": PICTURES[number], "label": label(number)}) for number in numbers]


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory):
    """A data folder with three sets: labels and an unlabelled test, boxes, and no labels at all."""
    root = tmp_path_factory.mktemp("tfds")
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    label = tfds.features.ClassLabel(names=NAMES)
    splits = {"train": labelled(range(8)), "validation": labelled(range(8, 12)), "test": labelled([0, 1], lambda _: -1)}
    config = tfds.core.BuilderConfig(name="small", version="1.0.0")
    store(root, "photos", splits, {"image": image, "label": label}, config)
    objects = {"bbox": tfds.features.BBoxFeature(), "label": label, "is_difficult": np.bool_}
    for name in ("voc", "things"):
        store(root, name, boxed(), {"image": image, "objects": tfds.features.Sequence(objects)})
    store(root, "nameless", {"train": [(0, {"image": PICTURES[0]})]}, {"image": image})
    return root


# xmin, ymin, xmax, ymax as VOC has them, from 1 on.
OBJECTS = {
    "train": [[("dog", (2, 3, 5, 9), 0), ("cat", (1, 1, 10, 12), 0)], [("eel", (4, 4, 6, 6), 1)], []],
    "validation": [[("eel", (4, 4, 7, 6), 0), ("cat", (4, 4, 4, 4), 0)]],
    "test": [[]],
}


def boxed():
    """The splits of OBJECTS as TFDS stores them, in parts of height and width."""

    def item(name, corners, difficult):
        left, top, right, bottom = (corner / side for corner, side in zip(corners, (10, 12, 10, 12), strict=True))
        box = tfds.features.BBox(top, left, bottom, right)
        return {"bbox": box, "label": name, "is_difficult": bool(difficult)}

    return {
        split: [
            (f"{split}{n}", {"image": PICTURES[n], "objects": [item(*values) for values in of_image]})
            for n, of_image in enumerate(images)
        ]
        for split, images in OBJECTS.items()
    }


def found(place, name="", **options):
    return index("tfds", str(place), tfds_name=name, **options)


def names_it(place, name="", **options):
    return refused(place, "tfds", index, tfds_name=name, **options)


def test_records_of_a_set(data_dir):
    version = data_dir / "photos/small/1.0.0"
    for place, name in ((data_dir, "photos/small"), (data_dir, "photos/small:1.0.0"), (version, "")):
        source = found(place, name)
        assert source.classes == tuple(NAMES)
        # The test split has no labels, so that validation is the test.
        assert {name: len(split) for name, split in source.splits.items()} == {"train": 8, "test": 4}
        for split, numbers in (("train", range(8)), ("test", range(8, 12))):
            stored = sorted((PICTURES[number], number % 3, None) for number in numbers)
            assert sorted(contents(source.splits[split])) == stored
    shard = source.splits["train"].storage.shards[0]
    assert shard.startswith(f"{version}/photos-train.tfrecord-")
    loaded = load("tfds", str(data_dir), image_size=10, tfds_name="photos/small")
    assert np.array_equal(loaded.splits["train"].images[0], decode(source.splits["train"].read(0))[1:11])
    builder = tfds.builder_from_directory(version)
    of_tfds = builder.as_dataset(split="train", decoders={"image": tfds.decode.SkipDecoding()})
    assert [(row["image"].numpy(), row["label"].numpy(), None) for row in of_tfds] == contents(source.splits["train"])


def test_classes(data_dir):
    labels = found(data_dir, "photos/small").splits["train"].labels
    turned = found(data_dir, "photos/small", classes=("eel", "cat", "dog"))
    assert turned.splits["train"].labels.tolist() == ((labels + 1) % 3).tolist()
    assert found(data_dir, "photos/small", classes=("x", "y", "z")).classes == ("x", "y", "z")
    part = found(data_dir, "photos/small", classes=("cat", "dog"))
    assert len(part.splits["train"]) == (labels < 2).sum() and "of 1 other class" in part.ignored


def test_boxes(data_dir, caplog):
    source = found(data_dir, "voc")
    train = {data: (label, box) for data, label, box in contents(source.splits["train"]) if label != 0}
    assert train == {PICTURES[0]: (1, [2, 1, 7, 4])}
    assert sorted(source.splits["train"].boxes.tolist()) == [[0, 0, 12, 10], [2, 1, 7, 4]]
    # The test split is without boxes; the box of no area is skipped.
    assert list(source.splits) == ["train", "test"]
    assert contents(source.splits["test"]) == [(PICTURES[0], 2, [3, 3, 3, 4])]
    assert "skipped 1 boxes" in caplog.text and "record at byte 0" in caplog.text
    other = found(data_dir, "things").splits["train"]  # pixels from 0 on, the last one not included
    assert sorted(other.boxes.tolist()) == [[1, 1, 11, 9], [3, 2, 6, 3]]
    assert load("tfds", str(data_dir), image_size=4, tfds_name="voc").splits["train"].images.shape == (2, 4, 4, 3)


def test_boxes_are_those_of_the_devkit():
    corners = np.array([[top, left, bottom, right] for left, top, right, bottom in [(2, 3, 5, 9), (1, 1, 10, 12)]])
    parts = (corners / [12, 10, 12, 10]).astype(np.float32).astype(np.float64)
    sides = np.array([[12, 10]] * 2)
    for one, other in zip(
        boxes.from_corners(corners, sides, True), boxes.from_corners(parts * [12, 10, 12, 10], sides, True), strict=True
    ):
        assert np.array_equal(one, other)


def test_the_newest_version_is_taken(data_dir, tmp_path):
    for version in ("1.0.0", "1.2.0", "1.10.0"):
        shutil.copytree(data_dir / "photos/small/1.0.0", tmp_path / "photos" / version)
    storage = found(tmp_path, "photos").splits["train"].storage
    assert storage.shards[0].startswith(f"{tmp_path}/photos/1.10.0/")
    storage = found(tmp_path, "photos:1.2.0").splits["train"].storage
    assert storage.shards[0].startswith(f"{tmp_path}/photos/1.2.0/")
    assert "holds no prepared version 2.0.0" in names_it(tmp_path, "photos:2.0.0")


@pytest.mark.parametrize(
    "name, expected",
    [
        ("", "--tfds_name is not set"),
        ("imagenet2012", "run: tfds build imagenet2012 --data_dir="),
        ("photos/large", "run: tfds build photos/large --data_dir="),
        ("../photos", "--tfds_name=../photos: not of the form"),
        ("/photos", "--tfds_name=/photos: not of the form"),
        ("photos/..", "--tfds_name=photos/..: not of the form"),
        ("a/b/c", "--tfds_name=a/b/c: not of the form"),
        ("nameless", "needs 'image' and a class 'label', or 'image' and 'objects'; found image"),
    ],
)
def test_names_of_nothing(data_dir, name, expected):
    assert expected in names_it(data_dir, name)


def test_a_version_needs_no_name(data_dir):
    assert "--tfds_name=photos: " in names_it(data_dir / "photos/small/1.0.0", "photos")
    assert "not a TFDS data folder" in names_it(data_dir / "photos/small/1.0.0/features.json")


def test_damage_is_named(data_dir, tmp_path):
    def spoil(shard):
        data = bytearray(shard.read_bytes())
        data[100] ^= 1
        shard.write_bytes(data)

    def rewrite(info, change):
        content = json.loads(info.read_text())
        change(content)
        info.write_text(json.dumps(content))

    train, info = "photos-train.tfrecord-00000-of-00001", "dataset_info.json"
    cases = {
        "missing": (lambda root: (root / train).unlink(), f"{train}: the shard is missing or empty"),
        "empty": (lambda root: (root / train).write_bytes(b""), f"{train}: the shard is missing or empty"),
        "truncated": (lambda root: (root / train).write_bytes((root / train).read_bytes()[:-1]), f"{train}: record at"),
        "checksum": (lambda root: spoil(root / train), f"{train}: record at byte 0: broken checksum"),
        "fewer": (lambda root: shutil.copy(root / train.replace("train", "test"), root / train), "2 records of train"),
        "no features": (lambda root: (root / "features.json").unlink(), "cannot be read by TFDS"),
        "info": (lambda root: (root / info).write_text("{"), "cannot be read by TFDS"),
        "array_record": (
            lambda root: rewrite(root / info, lambda content: content.update(fileFormat="array_record")),
            "has the file format array_record; only tfrecord can be read",
        ),
        "labels": (lambda root: (root / "label.labels.txt").write_text("cat\ndog\n"), "class label below 2: 2"),
    }
    for name, (change, expected) in cases.items():
        root = shutil.copytree(data_dir / "photos/small/1.0.0", tmp_path / name)
        (root / "resnet_tf_index.npz").unlink(missing_ok=True)
        change(root)
        message = names_it(root)
        assert expected in message and str(root) in message


# --- preparing from archives that are there --------------------------------------------------------


class FromHand(tfds.core.GeneratorBasedBuilder):
    """A set whose images a person puts into downloads/manual."""

    VERSION = tfds.core.Version("1.0.0")
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put CLASS.jpg there."

    def _info(self):
        features = {"image": tfds.features.Image(), "label": tfds.features.ClassLabel(names=NAMES)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(manager), "test": self._generate_examples(manager)}

    def _generate_examples(self, manager):
        for path in sorted(manager.manual_dir.glob("*.jpg")):
            yield path.name, {"image": path, "label": path.stem}


class FromFarAway(FromHand):
    """A set that would be fetched."""

    def _split_generators(self, manager):
        manager.download("http://example.com/cats.tar")
        return super()._split_generators(manager)


def test_a_set_is_prepared_from_its_archives(tmp_path):
    pictures = {f"{name}.jpg": PICTURES[number] for number, name in enumerate(NAMES)}
    assert "run: tfds build from_hand" in names_it(tmp_path, "from_hand")
    unpack(tmp_path / "downloads/manual", pictures)
    source = found(tmp_path, "from_hand")
    assert sorted(contents(source.splits["train"])) == sorted((PICTURES[n], n, None) for n in range(3))
    assert "http://example.com/cats.tar is not in" in names_it(tmp_path, "from_far_away")
    assert not (tmp_path / "from_far_away/1.0.0").exists()
    assert "TFDS cannot prepare it" in names_it(tmp_path, "unheard_of")
    shutil.rmtree(tmp_path / "from_hand")
    (tmp_path / "downloads/manual/fox.jpg").write_bytes(PICTURES[0])
    assert "--tfds_name=from_hand: TFDS cannot prepare it" in names_it(tmp_path, "from_hand")
