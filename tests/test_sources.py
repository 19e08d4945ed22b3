"""Sources: splits and their checksums, hold-out, the small sets, and what is refused of any set."""

import numpy as np
import pytest
from files import contents, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from resnet_tf import config
from resnet_tf.data import DATASETS, Source, Split, decode, holding_out, load
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.sources import index
from resnet_tf.data.splits import arranged, listed
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.mark.parametrize(
    "images, labels",
    [
        (np.zeros((2, 4, 4, 3), np.float32), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 1), np.uint8), np.zeros(2, np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros((2, 1), np.int32)),
        (np.zeros((2, 4, 4, 3), np.uint8), np.zeros(3, np.int32)),
    ],
)
def test_split_checks_its_arrays(images, labels):
    with pytest.raises(ValueError):
        Split(images, labels)


def test_checksum_depends_on_all_but_the_order_of_splits():
    def source(classes=("a", "b"), pixel=0, label=0, names=("train", "test")):
        images = np.zeros((2, 4, 4, 3), np.uint8)
        images[1, 3, 3, 2] = pixel
        first = Split(images, np.array([0, label], np.int32))
        second = Split(images[:1], first.labels[:1])
        return Source("folder", classes, dict(zip(names, (first, second), strict=True)))

    sums = [
        source(),
        source(pixel=1),
        source(label=1),
        source(classes=("a", "c")),
        source(classes=("a,", "b")),
        source(names=("test", "train")),
        source(names=("train", "validation")),
    ]
    assert len({item.checksum() for item in sums}) == len(sums)
    same = source()
    reordered = Source("folder", same.classes, dict(reversed(same.splits.items())))
    assert reordered.checksum() == same.checksum()
    assert len(same.checksum()) == 16


def test_validation_examples_are_taken_off_the_training_split():
    whole, held = load("synthetic"), load("synthetic", validation_examples=100)
    train, validation = held.splits["train"], held.splits["validation"]
    assert len(train) == 412 and len(validation) == 100
    index = {image.tobytes(): position for position, image in enumerate(whole.splits["train"].images)}
    assert len(index) == 512
    positions = [[index[image.tobytes()] for image in split.images] for split in (train, validation)]
    assert sorted(positions[0] + positions[1]) == list(range(512))
    assert positions[0] == sorted(positions[0])
    assert positions[1] != list(range(100)) and positions[1] != list(range(412, 512))
    for split, where in zip((train, validation), positions, strict=True):
        assert np.array_equal(split.labels, whole.splits["train"].labels[where])
    assert held.splits["test"].images.tobytes() == whole.splits["test"].images.tobytes()
    assert load("synthetic", validation_examples=100).checksum() == held.checksum()


def test_validation_examples_are_of_each_class_its_share():
    whole = load("synthetic").splits["train"].labels
    for count in (1, 7, 100, 333, 502):
        for using in (load, index):
            held = using("synthetic", validation_examples=count).splits["validation"].labels
            shares = np.bincount(whole, minlength=10) * count / 512
            assert len(held) == count and (np.abs(np.bincount(held, minlength=10) - shares) < 1).all()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.floats(0, 1))
def test_every_class_keeps_an_example_and_the_rest_is_fair(sizes, part):
    sizes = np.array(sizes)
    most = int((sizes - 1).sum())
    count = round(part * most)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    splits = {"train": memory(np.random.default_rng(1).permutation(labels)), "test": memory([0])}
    if not count > 0:
        return
    held = holding_out.by_count(splits, count, "stratified")
    found = np.bincount(held["validation"].labels, minlength=len(sizes))
    assert found.sum() == count and (found < sizes).all()
    assert sorted([*held["train"].image, *held["validation"].image]) == list(range(len(labels)))
    shares = sizes * count / len(labels)
    assert (found > shares - 1)[found < sizes - 1].all()  # less than its share only has who has no more to give
    if sizes.min() > 1 and 2 * count <= len(labels):
        assert (np.abs(found - shares) < 1).all()


def test_random_validation_examples_are_those_of_earlier_runs():
    """Chosen as they were before there was --validation_sampling, which manifests without it mean."""
    whole = load("synthetic").splits["train"]
    held = load("synthetic", validation_examples=100, validation_sampling="random")
    chosen = np.sort(np.random.default_rng(0).permutation(512)[:100])
    assert held.splits["validation"].images.tobytes() == whole.images[chosen].tobytes()
    flags = {"dataset": "synthetic", "train_steps": 1}
    for recorded, expected in ((True, "random"), (False, "stratified")):
        found = config.from_settings(config.TrainConfig, flags, "test", recorded)
        assert found.data.validation_sampling == expected


@pytest.mark.parametrize("count", [-1, 503, 512, 1000])
def test_validation_examples_out_of_range(count):
    assert "--validation_examples" in refused("", "synthetic", validation_examples=count)
    assert (np.bincount(load("synthetic", validation_examples=502).splits["train"].labels) == 1).all()


def test_bad_arguments():
    assert "--dataset" in refused("", "imagenet")
    assert "--image_size" in refused("", "synthetic", image_size=0)
    assert "4 GiB" in refused("", "synthetic", image_size=2000)
    assert "4 GiB" in refused("", "digits", image_size=2000)
    assert set(DATASETS) == {"digits", "cifar10", "cifar100", "synthetic", "folder", "records", "tfds", "voc"}


# --- digits and synthetic --------------------------------------------------------------------------


def test_digits():
    from sklearn.datasets import load_digits

    source = load("digits", image_size=8)
    assert source.classes == tuple("0123456789")
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train), len(test)) == (1437, 360)
    assert np.bincount(test.labels).min() >= 34  # stratified
    original = {image.tobytes() for image in load_digits().images}
    back = np.round(np.concatenate([train.images, test.images])[..., 0] / 255 * 16)
    assert {image.tobytes() for image in back} == original
    assert train.images.max() == 255 and np.ptp(train.images, axis=-1).max() == 0
    assert load("digits").splits["train"].images.shape == (1437, 32, 32, 3)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    assert "resnet_tf[demo]" in refused("", "digits")


def test_synthetic_is_repeatable_and_learnable():
    source = load("synthetic", image_size=16)
    assert source.checksum() == load("synthetic", image_size=16).checksum()
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train), len(test), len(source.classes)) == (512, 256, 10)
    means = [train.images[train.labels == label].mean() for label in range(10)]
    nearest = np.abs(test.images.mean((1, 2, 3))[:, None] - means).argmin(1)
    assert (nearest == test.labels).mean() > 0.9


# --- encoded sets ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "folder", "voc"])
def test_missing_data(dataset, tmp_path):
    assert "--data_dir" in refused("", dataset)
    assert f"--data_dir: {tmp_path}/none" in refused(tmp_path / "none", dataset)
    assert f"--data_dir: {tmp_path}" in refused(tmp_path, dataset)
    for name, content in {"empty": b"", "text.tar.gz": b"some text" * 100, "page.zip": b"PK\x03\x04"}.items():
        file = tmp_path / name
        file.write_bytes(content)
        message = refused(file, dataset)
        assert str(file) in message and "--data_dir" in message


def memory(labels, boxes=None):
    """A split of an image for each label."""
    data = [bytes([number % 256]) for number in range(len(labels))]
    storage = Memory("tests", [f"{number}.png" for number in range(len(labels))], data)
    return Examples(storage, np.arange(len(labels)), np.array(labels, np.int32), boxes)


def test_checksum_of_encoded_sets_depends_on_all_of_them():
    def source(labels=(0, 1), boxes=None, names=("train", "test"), classes=("a", "b")):
        return Source("folder", classes, {names[0]: memory(labels, boxes), names[1]: memory((1,))})

    boxes = np.array([[0, 0, 1, 1], [0, 0, 2, 2]], np.int32)
    sums = [source(), source((1, 1)), source(boxes=boxes), source(boxes=boxes[::-1]), source(names=("test", "train"))]
    sums.append(source(classes=("a", "c")))
    assert len({item.checksum() for item in sums}) == len(sums)
    assert source().checksum() == source().checksum()
    mixed = Source("folder", ("a", "b"), {"train": memory((0, 1)), "test": load("digits").splits["test"]})
    assert mixed.checksum() != source().checksum()


def test_synthetic_encoded_is_repeatable_and_learnable():
    source = index("synthetic")
    assert source.checksum() == index("synthetic").checksum()
    train, test = source.splits["train"], source.splits["test"]
    assert (len(train), len(test), len(source.classes)) == (512, 256, 10)
    first = decode(train.read(0))
    assert first.shape == (96, 128, 3) and train.read(0).startswith(b"\xff\xd8\xff")
    brightness = [[decode(split.read(i)).mean() for i in range(64)] for split in (train, test)]
    means = 63.5 + 14 * np.arange(10)
    for split, values in zip((train, test), brightness, strict=True):
        assert (np.abs(np.array(values)[:, None] - means).argmin(1) == split.labels[:64]).all()


def test_validation_examples_are_taken_off_encoded_sets_alike():
    whole, held, loaded = index("synthetic"), index("synthetic", validation_examples=100), load("synthetic")
    train, validation = contents(held.splits["train"]), contents(held.splits["validation"])
    assert len(train) == 412 and len(validation) == 100
    assert sorted(train + validation) == sorted(contents(whole.splits["train"]))
    assert len(set(train + validation)) == 512
    same = load("synthetic", validation_examples=100).splits
    for name in ("train", "validation"):
        assert np.array_equal(held.splits[name].labels, same[name].labels)
    assert contents(held.splits["test"]) == contents(whole.splits["test"])
    assert np.array_equal(whole.splits["train"].labels, loaded.splits["train"].labels)
    for count in (-1, 512):
        assert "--validation_examples" in refused("", "synthetic", index, validation_examples=count)


def test_small_sets_are_not_streamed():
    for dataset in ("cifar10", "cifar100", "digits"):
        assert refused("", dataset, index).startswith(
            f"--dataset: {dataset} is held in memory and needs --view=pad_crop"
        )
    assert "--dataset" in refused("", "imagenet", index)
    for using in (load, index):
        assert "--classes" in refused("", "synthetic", using, classes=("a",))
    for dataset in ("folder", "records", "tfds", "voc"):
        assert "--data_dir" in refused("", dataset, index)
        assert "--data_dir: /none/such" in refused("/none/such", dataset, index)


def test_classes_are_arranged_or_refused():
    splits = {"train": memory((0, 1, 2, 1))}
    names, same = arranged((), ["a", "b", "c"], splits)
    assert names == ["a", "b", "c"] and same is splits
    names, ordered = arranged(("c", "a", "b"), ["a", "b", "c"], splits)
    assert [names[label] for label in ordered["train"].labels] == ["a", "b", "c", "b"]
    assert ordered["train"].labels.dtype == np.int32 and names == ["c", "a", "b"]
    names, renamed = arranged(("x", "y", "z"), ["a", "b", "c"], splits, rename=True)
    assert names == ["x", "y", "z"] and renamed["train"].labels.tolist() == [0, 1, 2, 1]
    ignored = Ignored()
    names, part = arranged(("c", "b"), ["a", "b", "c"], splits, ignored=ignored)
    assert names == ["c", "b"] and part["train"].labels.tolist() == [1, 0, 1]
    assert part["train"].image.tolist() == [1, 2, 3] and str(ignored) == "1 images of 1 other class"
    cases = [
        (("a", "b", "c", "d"), False, "not in the data: d; they have a, b, c"),
        (("a", "b", "d"), True, "not in the data: d"),
        (("x", "y", "z"), False, "not in the data: x, y, z; they have a, b, c"),
        (("x", "y"), True, "not in the data: x, y"),
        (("a", "b", "c", "a"), True, "more than once: a"),
    ]
    for wanted, rename, expected in cases:
        with pytest.raises(InputError, match="--classes: .*" + expected):
            arranged(wanted, ["a", "b", "c"], splits, rename)


def test_long_lists_are_cut():
    assert listed(["a", "b"]) == "a, b"
    assert listed([str(number) for number in range(1000)], 3) == "0, 1, 2 and 997 more"
