"""TFRecord shards, prepared and foreign: every record once, its place to the byte, and damage named."""

import gzip
import json
import logging
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from files import as_record, contents, picture, refused, unpack, write_shard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resnet_tf.data import decode, load, prepare, records, verify
from resnet_tf.data.sources import index
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

NAMES = ("cat", "dog", "eel")
IMAGES = [picture(seed, "JPEG", (12, 10)) for seed in range(12)]


def inception(image, label, text=b"", synset=b""):
    features = {"image/encoded": image, "image/class/label": label, "image/height": 12, "image/filename": b"x"}
    features |= {"image/class/text": text} if text else {}
    return as_record(features | ({"image/class/synset": synset} if synset else {}))


def write_foreign(root, first=1, texts=NAMES, synsets=None, suffix="", form="{split}-{shard:05d}-of-{count:05d}"):
    """Two splits of 8 and 4 records; returns image and label, from 0 on, of each record."""
    expected = {}
    for split, count, numbers in (("train", 3, range(8)), ("validation", 2, range(8, 12))):
        expected[split] = [(IMAGES[number], number % 3, None) for number in numbers]
        for shard, part in enumerate(np.array_split(np.array(numbers), count)):
            rows = [
                inception(
                    IMAGES[number],
                    first + number % 3,
                    texts[number % 3].encode() if texts else b"",
                    synsets[number % 3].encode() if synsets else b"",
                )
                for number in part
            ]
            write_shard(root / (form.format(split=split, shard=shard, count=count) + suffix), rows)
    return expected


def found(root, **options):
    return index("records", str(root), **options)


def names_it(root, **options):
    return refused(root, "records", index, **options)


# --- foreign shards --------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".tfrecord"])
@pytest.mark.parametrize("form", ["{split}-{shard:05d}-of-{count:05d}", "{split}/{split}-{shard:05d}-of-{count:05d}"])
def test_foreign_shards(suffix, form, tmp_path):
    expected = write_foreign(tmp_path, suffix=suffix, form=form)
    unpack(tmp_path, {"readme.txt": b"", "train-00000-of-00001.json": b""})
    source = found(tmp_path)
    assert source.classes == NAMES and list(source.splits) == ["train", "validation"]
    assert contents(source.splits["train"]) == expected["train"]
    assert contents(source.splits["validation"]) == expected["validation"]
    earlier = found(tmp_path, val_is="test").splits  # as earlier releases named it
    assert list(earlier) == ["train", "test"] and contents(earlier["test"]) == expected["validation"]
    split = source.splits["train"]
    read = split.storage.reader()
    assert [read(number).numpy() for number in range(8)] == [image for image, _, _ in expected["train"]]
    assert split.labels.dtype == np.int32 and split.storage.shard.tolist() == [0, 0, 0, 1, 1, 1, 2, 2]
    loaded = load("records", str(tmp_path), image_size=10)
    assert loaded.classes == NAMES
    assert np.abs(loaded.splits["validation"].images[1].astype(int) - decode(IMAGES[9])[1:11]).max() == 0


def test_labels_from_one_are_shifted_and_said_to_be(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    from_one = write_foreign(tmp_path / "one", first=1)
    assert contents(found(tmp_path / "one").splits["train"]) == from_one["train"]
    assert "labels begin at 1" in caplog.text
    caplog.clear()
    from_zero = write_foreign(tmp_path / "zero", first=0)
    assert contents(found(tmp_path / "zero").splits["train"]) == from_zero["train"]
    assert not caplog.text
    # A zero in any split tells that they begin there.
    write_shard(tmp_path / "one/validation-00001-of-00002", [inception(IMAGES[0], 0)])
    assert found(tmp_path / "one").splits["train"].labels.tolist() == [1, 2, 3, 1, 2, 3, 1, 2]


def test_names_of_classes(tmp_path):
    def classes(name, **options):
        write_foreign(tmp_path / name, **options)
        return found(tmp_path / name).classes

    assert classes("text", synsets=("n1", "n2", "n3")) == NAMES
    assert classes("synset", texts=("crane", "dog", "crane"), synsets=("n1", "n2", "n3")) == ("n1", "n2", "n3")
    assert classes("neither", texts=None) == ("0", "1", "2")
    assert classes("one lacks", texts=("cat", "", "eel")) == ("0", "1", "2")
    write_shard(tmp_path / "text/validation-00001-of-00002", [inception(IMAGES[0], 1, b"Cat")])
    assert found(tmp_path / "text").classes == ("0", "1", "2")  # Cat and cat


def test_classes_are_named_or_ordered_by_the_user(tmp_path):
    write_foreign(tmp_path / "named")
    write_foreign(tmp_path / "numbers", texts=None)
    labels = found(tmp_path / "named").splits["train"].labels
    turned = found(tmp_path / "named", classes=("eel", "cat", "dog"))
    assert turned.classes == ("eel", "cat", "dog")
    assert turned.splits["train"].labels.tolist() == ((labels + 1) % 3).tolist()
    for folder in ("named", "numbers"):
        other = found(tmp_path / folder, classes=("x", "y", "z"))
        assert other.classes == ("x", "y", "z") and (other.splits["train"].labels == labels).all()
        assert "--classes" in names_it(tmp_path / folder, classes=("x", "y"))
    assert "--classes" in names_it(tmp_path / "named", classes=("cat", "dog", "fox"))
    assert found(tmp_path / "numbers", classes=("x", "y", "z", "unseen")).classes[3] == "unseen"


def test_splits_without_labels_are_left_out(tmp_path):
    write_foreign(tmp_path)
    write_shard(tmp_path / "test-00000-of-00001", [inception(IMAGES[0], -1)] * 2)
    assert {name: len(split) for name, split in found(tmp_path).splits.items()} == {"train": 8, "validation": 4}
    write_shard(tmp_path / "test-00000-of-00001", [inception(IMAGES[0], -1), inception(IMAGES[0], 2)])
    assert "1 records of test have no class label" in names_it(tmp_path)


def test_incomplete_and_doubled_sets_are_named(tmp_path):
    write_foreign(tmp_path / "set")
    cases = {
        "no train": (lambda root: [path.unlink() for path in root.glob("train*")], "has no training examples"),
        "gap": (lambda root: (root / "train-00001-of-00003").unlink(), "train-00001-of-00003: the shard is missing, 1"),
        "last": (lambda root: (root / "validation-00001-of-00002").unlink(), "validation-00001-of-00002: the shard is"),
        "empty": (
            lambda root: (root / "train-00002-of-00003").write_bytes(b""),
            "train-00002-of-00003: the shard is empty",
        ),
        "two": (
            lambda root: shutil.copy(root / "train-00000-of-00003", root / "train-00000-of-00001"),
            "more than one",
        ),
        "both": (lambda root: shutil.copy(root / "train-00000-of-00003", root / "val-00000-of-00001"), "more than one"),
        "many": (
            lambda root: shutil.copy(root / "train-00000-of-00003", root / "test-00003-of-99999999"),
            "is missing",
        ),
    }
    for name, (change, expected) in cases.items():
        root = shutil.copytree(tmp_path / "set", tmp_path / name)
        change(root)
        assert expected in names_it(root)
    (tmp_path / "nothing").mkdir()
    assert "holds neither index.json nor shards" in names_it(tmp_path / "nothing")
    assert "not a folder" in names_it(tmp_path / "set" / "train-00000-of-00003")


def test_records_that_make_no_sense_are_named(tmp_path):
    image = {"image/encoded": IMAGES[0]}
    cases = {
        "no label": (image, "no image/class/label; it has image/encoded (the first of 1 without a label)"),
        "other keys": ({"image": IMAGES[0], "label": 1}, "no image/encoded; it has image, label"),
        "nothing": ({}, "no image/encoded; it has nothing"),
        "negative": (image | {"image/class/label": -2}, "have no class label below 1048576: -2"),
        "huge": (image | {"image/class/label": 2**40}, f"{2**40}"),
        "text": (image | {"image/class/label": b"cat"}, "; it has image/class/label, image/encoded"),
        "two": (image | {"image/class/label": [1, 2]}, "; it has image/class/label, image/encoded"),
        "no image": ({"image/class/label": 1}, "no image/encoded; it has image/class/label"),
    }
    for name, (features, expected) in cases.items():
        write_foreign(tmp_path / name)
        path = tmp_path / name / "validation-00000-of-00002"
        good = inception(IMAGES[0], 1)
        write_shard(path, [good, as_record(features)])
        message = names_it(tmp_path / name)
        assert expected in message
        assert "class label below" in message or f"{path}: record at byte {16 + len(good)}: " in message


def test_compressed_shards_are_called_so(tmp_path):
    """By their content, and by a name that ends like that."""
    write_foreign(tmp_path)
    shard = tmp_path / "train-00001-of-00003"
    shard.write_bytes(gzip.compress(shard.read_bytes()))
    assert f"{shard}: gzip-compressed; unpack it" in names_it(tmp_path)
    for path in list(tmp_path.iterdir()):
        path.rename(path.with_name(f"{path.name}.gz"))
    assert f"{tmp_path}/train-00000-of-00003.gz: gzip-compressed; unpack it" in names_it(tmp_path)


def test_damage_is_named_with_its_place(tmp_path):
    write_foreign(tmp_path)
    path = tmp_path / "train-00001-of-00003"
    whole = path.read_bytes()
    lengths = [len(inception(IMAGES[number], 1 + number % 3, NAMES[number % 3].encode())) for number in (3, 4, 5)]
    starts = np.cumsum([0, *(length + 16 for length in lengths)])
    assert starts[-1] == len(whole)
    start = starts[1]
    for at in (start, start + 9, start + 20, starts[2] - 1):  # length, its checksum, content, its checksum
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert f"{path}: record at byte {start}: broken checksum or truncated shard" in names_it(tmp_path)
    for end in (start + 5, starts[2] - 1):
        path.write_bytes(whole[:end])
        assert f"{path}: record at byte {start}: broken checksum or truncated shard" in names_it(tmp_path)
    path.write_bytes(whole[:5])
    assert f"{path}: record at byte 0: broken checksum or truncated shard" in names_it(tmp_path)
    path.write_bytes(whole)
    split = found(tmp_path).splits["train"]
    assert split.storage.offset[3:6].tolist() == starts[:-1].tolist()


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(min_size=1, max_size=200), st.booleans())
def test_random_bytes_are_refused(tmp_path, data, framed):
    """As a shard, or as the content of a sound record."""
    write_foreign(tmp_path)
    path = tmp_path / "train-00000-of-00003"
    if framed:
        write_shard(path, [data])
    else:
        path.write_bytes(data)
    assert f"{path}: record at byte 0: " in names_it(tmp_path)


# --- what a scan leaves behind ---------------------------------------------------------------------


def test_a_scan_is_kept_and_done_again_when_shards_change(tmp_path, monkeypatch):
    expected = write_foreign(tmp_path)
    first = found(tmp_path)
    assert (tmp_path / records.CACHE).is_file()
    assert not list(tmp_path.glob(".*"))
    scans = []
    scan_all = records._scan_all
    monkeypatch.setattr(records, "_scan_all", lambda *arguments: scans.append(1) or scan_all(*arguments))
    again = found(tmp_path)
    assert not scans and again.checksum() == first.checksum()
    assert contents(again.splits["train"]) == expected["train"] and again.classes == first.classes
    moved = shutil.copytree(tmp_path, tmp_path / "elsewhere" / "set")
    assert found(moved).checksum() == first.checksum() and not scans
    assert found(moved).splits["train"].storage.shards[0].startswith(str(moved))
    os.utime(tmp_path / "train-00000-of-00003", ns=(1, 1))
    assert found(tmp_path).checksum() == first.checksum() and len(scans) == 1
    write_shard(tmp_path / "train-00000-of-00003", [inception(IMAGES[0], 1, b"cat")])
    assert len(found(tmp_path).splits["train"]) == 6 and len(scans) == 2
    for damage in (b"", b"text", (tmp_path / records.CACHE).read_bytes()[:-200]):
        (tmp_path / records.CACHE).write_bytes(damage)
        assert len(found(tmp_path).splits["train"]) == 6
    assert len(scans) == 5


def test_a_folder_that_cannot_be_written_is_scanned(tmp_path, monkeypatch, capfd):
    expected = write_foreign(tmp_path)

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(records.os, "replace", refuse)  # as root, permissions keep nobody out
    for _ in range(2):
        assert contents(found(tmp_path).splits["train"]) == expected["train"]
    assert not (tmp_path / records.CACHE).exists() and not list(tmp_path.glob(".*"))
    assert not capfd.readouterr().out


# --- prepared sets ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A prepared folder of two classes, and what it was made of."""
    root = tmp_path_factory.mktemp("prepared")
    tree = {f"{split}/{label}/{n}.jpg": picture(n, "JPEG", (12, 10)) for split in ("train", "val") for label in "ab"
            for n in range(5)}  # fmt: skip
    prepare.prepare(index("folder", str(unpack(root / "tree", tree))), root / "out", shorter_side=0, shard_count=2)
    return root / "out", tree


def test_prepared_sets(prepared):
    root, tree = prepared
    source = found(root)
    assert source.classes == ("a", "b") and list(source.splits) == ["train", "validation"]
    for name, folder in (("train", "train"), ("validation", "val")):
        stored = sorted((data, "ab".index(path.split("/")[1]), None) for path, data in tree.items() if folder in path)
        assert sorted(contents(source.splits[name])) == stored
    turned = found(root, classes=("b", "a"))
    assert (turned.splits["train"].labels == 1 - source.splits["train"].labels).all()
    assert len(found(root, validation_examples=3, val_is="test").splits["train"]) == 7


def test_prepared_sets_that_are_not_whole_are_named(prepared, tmp_path):
    shard = "train-00001-of-00002.tfrecord"

    def rewrite(root, change):
        content = json.loads((root / "index.json").read_text())
        change(content)
        (root / "index.json").write_text(json.dumps(content))

    cases = {
        "missing": (lambda root: (root / shard).unlink(), f"{shard}: the shard is missing"),
        "truncated": (lambda root: (root / shard).write_bytes((root / shard).read_bytes()[:-1]), f"{shard}: "),
        "no npz": (lambda root: (root / "train.npz").unlink(), "train.npz"),
        "npz": (lambda root: (root / "train.npz").write_bytes(b"PK\3\4"), "train.npz"),
        "no json": (lambda root: (root / "index.json").write_text("{"), "index.json"),
        "format": (lambda root: rewrite(root, lambda content: content.update(format=9)), "index.json"),
        "classes": (
            lambda root: rewrite(root, lambda content: content.update(classes=["a", 1])),
            "index.json: damaged",
        ),
        "no splits": (lambda root: rewrite(root, lambda content: content.pop("splits")), "index.json: damaged"),
        "splits": (lambda root: rewrite(root, lambda content: content.update(splits=[1])), "index.json: damaged"),
        "outside": (
            lambda root: rewrite(root, lambda c: c["splits"]["train"]["shards"][0].update(file="../x")),
            "index.json: damaged",
        ),
        "too many": (
            lambda root: rewrite(root, lambda c: c["splits"]["train"]["shards"][0].update(examples=10**15)),
            "index.json",
        ),
        "one split": (
            lambda root: rewrite(root, lambda content: content["splits"].pop("train")),
            "has no training examples, only validation",
        ),
    }
    for name, (change, expected) in cases.items():
        root = shutil.copytree(prepared[0], tmp_path / name)
        change(root)
        message = names_it(root)
        assert expected in message and str(root) in message


def test_a_broken_record_of_a_prepared_set_is_named_when_it_is_read(prepared, tmp_path):
    root = shutil.copytree(prepared[0], tmp_path / "set")
    split = found(root).splits["train"]
    shard, offset = split.storage.shards[split.storage.shard[3]], int(split.storage.offset[3])
    data = bytearray(Path(shard).read_bytes())
    (length,) = struct.unpack_from("<Q", data, offset)
    data[offset + 12 + length // 2] ^= 1
    Path(shard).write_bytes(data)
    message = refused(root, "records", load, image_size=8)
    assert f"{shard}: record at byte {offset}: broken checksum" in message
    assert split.read(2)


def test_records_that_cannot_be_read_later_are_named(tmp_path):
    """A sound record of random bytes in a shard of the same size, as an index of the past would meet it."""
    write_foreign(tmp_path)
    split = found(tmp_path).splits["train"]
    shard = Path(split.storage.shards[0])
    (length,) = struct.unpack_from("<Q", shard.read_bytes())
    write_shard(shard, [b"\x80\xff" * (length // 2) + b"\x80" * (length % 2)])
    with pytest.raises(InputError, match=f"{shard}: record at byte 0: cannot be read"):
        split.read(0)
    left, bad = verify.verify(split, 3)
    assert [name for name, _ in bad] == [split.name(number) for number in range(3)]
    assert left.image.tolist() == [3, 4, 5, 6, 7] and "\n" not in str(bad)
