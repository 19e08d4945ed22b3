"""Prepared data sets: what is stored, what is kept, and that a broken run ends as an unbroken one."""

import contextlib
import csv
import fcntl
import functools
import io
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from resnet_tf.data import images, processors, shards
from resnet_tf.data import prepare as preparing
from resnet_tf.data.examples import Examples, Files, Memory, Records
from resnet_tf.data.prepare import prepare
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

FEATURES = {
    "image/encoded": tf.io.FixedLenFeature([], tf.string),
    "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    "image/class/text": tf.io.FixedLenFeature([], tf.string),
    "image/filename": tf.io.FixedLenFeature([], tf.string),
    "image/height": tf.io.FixedLenFeature([], tf.int64),
    "image/width": tf.io.FixedLenFeature([], tf.int64),
}


def smooth(height, width, seed=0):
    """Pixels that JPEG keeps closely."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels, form="JPEG", mode="RGB", **options):
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form, **options)
    return file.getvalue()


def memory(data, labels=None, boxes=None, prefix="image"):
    """Examples of encoded images, the labels taking turns."""
    labels = np.arange(len(data)) % 2 if labels is None else np.array(labels)
    names = [f"{prefix}{number:03d}.jpg" for number in range(len(data))]
    storage = Memory("set.tar", names, list(data))
    return Examples(storage, np.arange(len(data), dtype=np.int64), labels.astype(np.int32), boxes)


def source_of(**splits):
    return Source("folder", ("cat", "dog"), splits)


@functools.cache
def encoded_images():
    """40 of two sizes, and 7."""
    sides = [(30, 40), (70, 50)]
    train = [encoded(smooth(*sides[number % 3 == 0], number), quality=80) for number in range(40)]
    return train, [encoded(smooth(60, 80, 100 + number)) for number in range(7)]


def make_source():
    train, test = encoded_images()
    return source_of(train=memory(list(train)), test=memory(list(test), prefix="test"))


@pytest.fixture
def source():
    """Of training images and a test split."""
    return make_source()


def records_of(folder, split):
    """{file name: parsed record}; a second record of a name fails."""
    files = [str(path) for path in sorted(pathlib.Path(folder).glob(f"{split}-*.tfrecord"))]
    found = {}
    for record in tf.data.TFRecordDataset(files):
        parsed = {key: value.numpy() for key, value in tf.io.parse_single_example(record, FEATURES).items()}
        assert found.setdefault(parsed["image/filename"].decode(), parsed) is parsed
    return found


def content(folder):
    return {path.name: path.read_bytes() for path in pathlib.Path(folder).iterdir()}


def refused(function, *arguments, **options):
    """The one line with which it refuses."""
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- What is stored --------------------------------------------------------------------------------------------------


def test_every_example_is_there_once_with_its_label(source, tmp_path):
    result = prepare(source, tmp_path / "out", shorter_side=48, shard_count=4)
    assert result["examples"] == {"train": 40, "test": 7} and result["skipped"] == 0 and result["shards"] == 8
    for split, examples in source.splits.items():
        found = records_of(tmp_path / "out", split)
        assert sorted(found) == examples.storage.names
        for number, name in enumerate(examples.storage.names):
            record = found[name]
            assert record["image/class/label"] == examples.labels[number] == number % 2
            assert record["image/class/text"].decode() == source.classes[number % 2]
            pixels = images.decode(record["image/encoded"])
            original = images.decode(examples.read(number))
            assert pixels.shape[:2] == (record["image/height"], record["image/width"])
            assert min(pixels.shape[:2]) == min(48, *original.shape[:2])
            if min(original.shape[:2]) <= 48:
                assert record["image/encoded"] == examples.read(number)


def test_index_tells_where_all_is(source, tmp_path):
    out = tmp_path / "out"
    result = prepare(source, out, shorter_side=48, shard_count=3)
    index = shards.read_index(out)
    assert index["classes"] == ["cat", "dog"] and index["settings"]["shorter_side"] == 48
    files = [shard for split in index["splits"].values() for shard in split["shards"]]
    written = {name: data for name, data in content(out).items() if name.endswith(".tfrecord")}
    assert {shard["file"]: (shard["bytes"], shard["crc32"]) for shard in files} == {
        name: (len(data), zlib.crc32(data)) for name, data in written.items()
    }
    assert result["bytes"] == sum(map(len, written.values()))
    assert [shard["examples"] for shard in index["splits"]["train"]["shards"]] == [14, 13, 13]
    assert sorted(set(content(out)) - set(written)) == ["index.json", "report.csv", "test.npz", "train.npz"]
    for split in source.splits:
        examples = shards.read_split(out, index, split)
        assert isinstance(examples.storage, Records)
        found = records_of(out, split)
        stored = [record["image/encoded"] for record in found.values()]  # in the order of the files
        assert [examples.read(number) for number in range(len(examples))] == stored
        assert examples.labels.tolist() == [record["image/class/label"] for record in found.values()]


def test_training_examples_are_shuffled_and_others_are_not(tmp_path):
    data = [encoded(smooth(8, 8))] * 60
    splits = {name: memory(data, labels=[0] * 30 + [1] * 30) for name in ("train", "test")}
    prepare(source_of(**splits), tmp_path / "out", shard_count=3)
    index = shards.read_index(tmp_path / "out")
    train, test = (shards.read_split(tmp_path / "out", index, split) for split in splits)
    for shard in range(3):
        assert 4 <= train.labels[train.storage.shard == shard].sum() <= 16
    assert list(records_of(tmp_path / "out", "test")) == splits["test"].storage.names
    assert np.array_equal(test.labels, splits["test"].labels)


@pytest.mark.parametrize("shape", [(300, 400), (401, 299), (97, 60), (61, 1000), (60, 61)])
def test_resized_as_pillow_does(shape, tmp_path):
    """Pillow's bilinear filter is the same antialiased triangle."""
    pixels = smooth(*shape, seed=shape[0])
    data = encoded(pixels, "PNG")
    prepare(source_of(train=memory([data])), tmp_path / "out", shorter_side=48, quality=100)
    (record,) = records_of(tmp_path / "out", "train").values()
    stored = images.decode(record["image/encoded"])
    height, width = (int(side * 48 / min(shape) + 0.5) for side in shape)
    expected = np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)).astype(int)
    assert stored.shape == expected.shape
    # Chroma has half the resolution, and JPEG rounds.
    assert np.abs(stored - expected).mean() < 1.5 and np.abs(stored - expected).max() < 20


@pytest.mark.parametrize("form", ["PNG", "GIF", "BMP"])
@pytest.mark.parametrize("shorter_side", [0, 48])
def test_other_formats_become_jpeg_unless_all_is_kept(form, shorter_side, tmp_path):
    data = encoded(smooth(20, 30), form)
    prepare(source_of(train=memory([data])), tmp_path / "out", shorter_side=shorter_side, quality=100)
    (record,) = records_of(tmp_path / "out", "train").values()
    stored = record["image/encoded"]
    assert (record["image/height"], record["image/width"]) == (20, 30)
    if shorter_side:
        assert Image.open(io.BytesIO(stored)).format == "JPEG"
        # What libjpeg makes of the same pixels, 4:2:0 and of the quality asked for; another build may round one level.
        expected = images.decode(encoded(images.decode(data), quality=100, subsampling=2)).astype(int)
        assert np.abs(images.decode(stored) - expected).max() <= 1
    else:
        assert stored == data


def test_large_images_are_kept_where_no_size_is_wanted(tmp_path):
    data = [encoded(smooth(400, 300)), encoded(smooth(20, 30), mode="L")]
    prepare(source_of(train=memory(data)), tmp_path / "out", shorter_side=0)
    assert sorted(record["image/encoded"] for record in records_of(tmp_path / "out", "train").values()) == sorted(data)


def test_four_colours_become_three_and_grey_stays(tmp_path):
    pixels = smooth(40, 30)
    data = [encoded(pixels, mode="CMYK", quality=95), encoded(pixels, mode="L")]
    prepare(source_of(test=memory(data)), tmp_path / "out", shorter_side=48)
    cmyk, grey = records_of(tmp_path / "out", "test").values()
    stored = Image.open(io.BytesIO(cmyk["image/encoded"]))
    assert stored.mode == "RGB" and np.abs(np.array(stored).astype(int) - pixels).mean() < 5
    assert grey["image/encoded"] == data[1]


def test_quality_is_that_of_the_flag(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), np.uint8)
    data = encoded(noise, "PNG")
    for quality in (50, 90, 100):
        prepare(source_of(train=memory([data])), tmp_path / str(quality), shorter_side=64, quality=quality)
        (record,) = records_of(tmp_path / str(quality), "train").values()
        tables = Image.open(io.BytesIO(record["image/encoded"])).quantization
        assert tables == Image.open(io.BytesIO(encoded(noise, quality=quality))).quantization


@pytest.mark.parametrize("shorter_side", [0, 16])
def test_boxes_are_stored_as_images_of_their_own(shorter_side, tmp_path):
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[10:42, 20:68] = (200, 30, 60)
    storage = Memory("set.tar", ["scene.png"], [encoded(pixels, "PNG")])
    boxes = np.array([[10, 20, 32, 48], [42, 68, 18, 12], [0, 0, 60, 80]], np.int32)
    examples = Examples(storage, np.zeros(3, np.int64), np.array([1, 0, 1], np.int32), boxes)
    prepare(source_of(test=examples), tmp_path / "out", shorter_side=shorter_side)
    first, second, third = records_of(tmp_path / "out", "test").items()
    assert first[0] == "scene.png: box of 32 x 48 at 10, 20"
    sides = [(16, 24), (18, 12), (16, 21)] if shorter_side else [(32, 48), (18, 12), (60, 80)]
    found = [images.decode(record["image/encoded"]) for _, record in (first, second, third)]
    assert [image.shape[:2] for image in found] == sides
    assert np.abs(found[0].astype(int) - [200, 30, 60]).max() < 5 and found[1].max() < 5
    assert [record["image/class/label"] for _, record in (first, second, third)] == [1, 0, 1]
    assert shards.read_index(tmp_path / "out")["settings"]["boxes"] == "cropped"


def test_files_and_records_are_sources_too(source, tmp_path):
    """A folder, and then what was prepared of it, at a smaller size."""
    train = source.splits["train"]
    for name, data in zip(train.storage.names, train.storage.data, strict=True):
        (tmp_path / name).write_bytes(data)
    sizes = np.array([len(data) for data in train.storage.data], np.int64)
    files = Examples(Files(str(tmp_path), train.storage.names, sizes), train.image, train.labels)
    prepare(source_of(train=files), tmp_path / "one", shorter_side=48, shard_count=2)
    prepare(source_of(train=train), tmp_path / "other", shorter_side=48, shard_count=2)
    assert records_of(tmp_path / "one", "train") == records_of(tmp_path / "other", "train")
    stored = shards.read_split(tmp_path / "one", shards.read_index(tmp_path / "one"), "train")
    prepare(source_of(train=stored), tmp_path / "two", shorter_side=16, shard_count=1)
    again = records_of(tmp_path / "two", "train")
    assert len(again) == 40 and all(min(r["image/height"], r["image/width"]) == 16 for r in again.values())
    assert sum(record["image/class/label"] for record in again.values()) == 20


def test_number_of_shards_follows_from_the_source(source, tmp_path, monkeypatch):
    total = sum(map(len, source.splits["train"].storage.data))
    monkeypatch.setattr(preparing, "SHARD_BYTES", total / 5)
    assert prepare(source, tmp_path / "out")["shards"] == 5 + 1
    assert prepare(source, tmp_path / "many", shard_count=20)["shards"] == 20 + 7  # one an example at most


@settings(max_examples=100, deadline=None)
@given(
    st.binary(max_size=50), st.integers(1, 10**5), st.integers(1, 10**5), st.integers(0, 10**6), st.text(), st.text()
)
def test_records_hold_what_they_were_given(image, height, width, label, text, filename):
    record = shards.encode(image, height, width, label, text, filename)
    assert record == shards.encode(image, height, width, label, text, filename)
    parsed = {key: value.numpy() for key, value in tf.io.parse_single_example(record, FEATURES).items()}
    assert parsed == {
        "image/encoded": image, "image/height": height, "image/width": width, "image/class/label": label,
        "image/class/text": text.encode(), "image/filename": filename.encode(),
    }  # fmt: skip


# --- Going on ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """Folder that an unbroken run has written."""
    folder = tmp_path_factory.mktemp("unbroken") / "whole"
    prepare(make_source(), folder, shorter_side=48, shard_count=4)
    return folder


@pytest.fixture
def whole(unbroken, tmp_path):
    """What an unbroken run writes, and a folder of it to work on."""
    shutil.copytree(unbroken, tmp_path / "whole")
    return content(unbroken)


@pytest.mark.parametrize("threads", [1, 7])
def test_threads_change_nothing(threads, source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(processors, "count", lambda: threads)
    prepare(source, tmp_path / "out", shorter_side=48, shard_count=4)
    assert content(tmp_path / "out") == whole


class Power(BaseException):
    """Fails, as nothing that is caught."""


def cut_at(monkeypatch, count):
    """Lets the power fail when a file is about to get its name, after so many did; each gets it by os.replace."""
    replace, done = os.replace, []

    def cut(*paths):
        if len(done) == count:
            raise Power
        done.append(replace(*paths))

    monkeypatch.setattr(os, "replace", cut)


# Settings, 8 shards with a note each, two arrays, the report, the index. The first shard, the first and the last of
# the second split, and all that comes behind shards: those between are shards like them.
QUICK = {0, 1, 2, 9, 10, 16, 17, 18, 19, 20}


@pytest.mark.parametrize(
    "count", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in range(1 + 2 * 8 + 2 + 1 + 1)]
)
def test_goes_on_where_it_was_broken_off(count, source, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(Power):
        cut_at(patch, count)
        prepare(source, out, shorter_side=48, shard_count=4)
    assert not (out / "index.json").exists()
    for path in out.iterdir():
        assert path.name.startswith(".") or path.read_bytes() == whole[path.name]
    written, write_shard = [], shards.write_shard
    monkeypatch.setattr(shards, "write_shard", lambda *arguments: written.append(1) or write_shard(*arguments))
    result = prepare(source, out, shorter_side=48, shard_count=4)
    assert result["examples"] == {"train": 40, "test": 7}
    assert len(written) == 8 - min(max(count - 1, 0) // 2, 8)  # at most the one in work is made again
    assert content(out) == whole


SCRIPT = """
import json, sys
import numpy as np
from resnet_tf.data import prepare
from resnet_tf.data.examples import Examples, Files
from resnet_tf.data.splits import Source
root, out, shorter_side = sys.argv[1], sys.argv[2], int(sys.argv[3])
names, sizes = json.loads(sys.argv[4])
files = Files(root, names, np.array(sizes, np.int64))
labels = (np.arange(len(names)) % 2).astype(np.int32)
source = Source("folder", ("cat", "dog"), {"train": Examples(files, np.arange(len(names)), labels)})
print("ready", flush=True)
prepare.prepare(source, out, shorter_side, shard_count=60)
"""


def test_killed_run_goes_on(tmp_path):
    (tmp_path / "images").mkdir()
    data = [encoded(smooth(300, 400, number), quality=95) for number in range(10)]
    names = [f"{number:04d}.jpg" for number in range(600)]
    for number, name in enumerate(names):
        (tmp_path / "images" / name).write_bytes(data[number % 10])
    sizes = np.array([len(data[number % 10]) for number in range(600)], np.int64)
    out, root = tmp_path / "out", str(tmp_path / "images")
    arguments = [sys.executable, "-c", SCRIPT, root, str(out), "100", json.dumps([names, sizes.tolist()])]
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    while process.poll() is None and len(list(out.glob("*.tfrecord"))) < 5:
        time.sleep(0.002)
    assert process.poll() is None  # it was not done yet
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not (out / "index.json").exists()
    labels = (np.arange(600) % 2).astype(np.int32)
    source = source_of(train=Examples(Files(root, names, sizes), np.arange(600), labels))
    written, made = sorted(out.glob("*.tfrecord")), len(list(out.glob(".train-*.json")))
    assert len(written) - 1 <= made <= len(written)
    before = {path: path.stat().st_mtime_ns for path in sorted(out.glob("*.tfrecord"))[:made]}
    prepare(source, out, shorter_side=100, shard_count=60)
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    prepare(source, tmp_path / "whole", shorter_side=100, shard_count=60)
    assert content(out) == content(tmp_path / "whole")
    assert sorted(records_of(out, "train")) == names


def test_finished_folder_answers_without_work(source, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "write_shard", None)
    (tmp_path / "whole" / ".train-00000-of-00004.json").write_text("{}")  # killed before it was removed
    again = prepare(source, tmp_path / "whole", shorter_side=48, shard_count=4)
    assert again["examples"] == {"train": 40, "test": 7} and again["images_per_second"] == 0
    assert content(tmp_path / "whole") == whole


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize(
    "change, named",
    [
        ({"shorter_side": 50}, "--shorter_side=48 there, 50 here"),
        ({"quality": 91}, "--quality=90 there, 91 here"),
        ({"shard_count": 3}, "--shards=4 there, 3 here"),
        ({}, "other images"),
    ],
)
def test_other_settings_are_refused(change, named, finished, source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        if not finished:
            cut_at(patch, 4)
        with contextlib.suppress(Power):
            prepare(source, out, shorter_side=48, shard_count=4)
    before = content(out)
    assert ("index.json" in before) == finished
    if not change:
        source = source_of(train=source.splits["test"], test=source.splits["train"])
    line = refused(prepare, source, out, **{"shorter_side": 48, "shard_count": 4} | change)
    assert f"--out={out}: " in line and named in line
    assert content(out) == before


def test_folders_of_something_else_are_left_alone(source, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    assert f"--out={tmp_path}: not empty" in refused(prepare, source, tmp_path)
    assert f"--out={tmp_path}/thesis.txt: a file" in refused(prepare, source, tmp_path / "thesis.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.json").write_text("[1, 2]")
    assert "index.json" in refused(prepare, source, tmp_path / "site")
    assert content(tmp_path / "site") == {"index.json": b"[1, 2]"}


def test_folder_in_work_is_refused(source, tmp_path):
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    assert f"--out={tmp_path}: another process" in refused(prepare, source, tmp_path)
    os.close(handle)
    prepare(source, tmp_path)


# --- What can go wrong ------------------------------------------------------------------------------------------------


def spoiled(source):
    """The source with three bad images in train, one in test, and their names."""
    train, test = source.splits["train"].storage.data, source.splits["test"].storage.data
    train[3] = train[3][:-30]
    train[17] = b"<html>"
    train[30] = encoded(smooth(9, 9), "BMP", "P")
    test[5] = b""
    return {"image003.jpg": "truncated", "image017.jpg": "not a", "image030.jpg": "palette", "test005.jpg": "empty"}


def test_first_bad_image_ends_it_by_name(source, tmp_path):
    bad = spoiled(source)
    line = refused(prepare, source, tmp_path / "out", shard_count=4)
    assert any(f"set.tar: {name}: " in line and reason in line for name, reason in bad.items())
    assert "--skip_bad_images=0" in line
    assert not (tmp_path / "out" / "index.json").exists()
    assert "--skip_bad_images=2" in refused(prepare, source, tmp_path / "out", shard_count=4, skip_bad_images=2)
    result = prepare(source, tmp_path / "out", shard_count=4, skip_bad_images=4)  # a larger limit goes on
    assert result["skipped"] == 4
    prepare(source, tmp_path / "whole", shard_count=4, skip_bad_images=4)
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_skipped_images_are_left_out_and_reported(source, tmp_path):
    bad = spoiled(source)
    good = {split: set(examples.storage.names) - set(bad) for split, examples in source.splits.items()}
    result = prepare(source, tmp_path / "out", shard_count=4, skip_bad_images=9)
    assert result["examples"] == {"train": 37, "test": 6} and result["skipped"] == 4
    with open(tmp_path / "out" / "report.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert set(rows) == {f"set.tar: {name}" for name in bad}
    for name, reason in bad.items():
        row = rows[f"set.tar: {name}"]
        assert reason in row["reason"] and row["split"] == ("test" if name.startswith("test") else "train")
    index = shards.read_index(tmp_path / "out")
    for split, examples in source.splits.items():
        found = records_of(tmp_path / "out", split)
        assert set(found) == good[split]
        assert all(
            record["image/class/label"] == examples.labels[examples.storage.names.index(name)]
            for name, record in found.items()
        )
        assert len(shards.read_split(tmp_path / "out", index, split)) == len(found)


def test_missing_files_and_broken_records_are_bad_images(source, tmp_path):
    prepare(source, tmp_path / "one", shard_count=1)
    stored = shards.read_split(tmp_path / "one", shards.read_index(tmp_path / "one"), "train")
    path = tmp_path / "one" / "train-00000-of-00001.tfrecord"
    data = bytearray(path.read_bytes())
    data[stored.storage.offset[7] + 100] ^= 1
    path.write_bytes(data)
    assert "record at byte" in refused(prepare, source_of(train=stored), tmp_path / "two")
    assert prepare(source_of(train=stored), tmp_path / "two", skip_bad_images=1)["examples"] == {"train": 39}
    good = encoded(smooth(9, 9))
    (tmp_path / "a.jpg").write_bytes(good)
    files = Files(str(tmp_path), ["a.jpg", "gone.jpg"], np.array([len(good), 9]))
    examples = Examples(files, np.arange(2), np.zeros(2, np.int32))
    assert "gone.jpg: No such file" in refused(prepare, source_of(train=examples), tmp_path / "three")
    assert prepare(source_of(train=examples), tmp_path / "three", skip_bad_images=1)["examples"] == {"train": 1}


@pytest.mark.parametrize("box", [(10, 10, 40, 5), (-1, 0, 5, 5), (0, 0, 0, 5), (0, 30, 5, 11)])
def test_boxes_that_leave_the_image_are_bad(box, tmp_path):
    data = [encoded(smooth(30, 40)), encoded(smooth(30, 40, 1))]
    boxes = np.array([box, (0, 0, 30, 40)], np.int32)
    source = source_of(train=memory(data, boxes=boxes))
    line = refused(prepare, source, tmp_path / "out")
    assert "image000.jpg: box" in line and "30 x 40 pixels" in line
    assert prepare(source, tmp_path / "out", skip_bad_images=1)["examples"] == {"train": 1}


def test_images_too_long_for_jpeg_are_bad(tmp_path):
    source = source_of(train=memory([tf.io.encode_png(np.zeros((2, 70_000, 3), np.uint8)).numpy()]))
    line = refused(prepare, source, tmp_path / "out")
    assert "2 x 70000 pixels cannot be stored" in line


def test_full_disk_is_one_line_and_goes_on(tmp_path):
    """A limit to the length of files stands for a full disk, where writing fails half-way too."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 100, 100, 3), np.uint8)
    source = source_of(train=memory([encoded(pixels) for pixels in noise]))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
        line = refused(prepare, source, tmp_path / "out", shard_count=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "train-00000-of-00001.tfrecord: cannot be written" in line
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".prepare.json"]
    prepare(source, tmp_path / "out", shard_count=1)
    assert len(records_of(tmp_path / "out", "train")) == 20


@pytest.mark.parametrize("damage", ["shorter", "gone", "swapped", "cut"])
def test_damaged_folders_are_refused_by_name(damage, source, whole, tmp_path):
    out = tmp_path / "whole"
    shard, arrays = out / "train-00002-of-00004.tfrecord", out / "train.npz"
    if damage == "shorter":
        shard.write_bytes(whole[shard.name][:-1])
    elif damage == "gone":
        shard.unlink()
    elif damage == "swapped":
        arrays.write_bytes(whole["test.npz"])
    else:
        arrays.write_bytes(whole["train.npz"][:-40])
    named = shard if damage in ("shorter", "gone") else arrays
    assert f"{named}: " in refused(shards.read_split, out, shards.read_index(out), "train")
    if named == shard:
        assert f"{named}: " in refused(prepare, source, out, shorter_side=48, shard_count=4)
    (out / "index.json").write_bytes(whole["index.json"].replace(b'"format": 1', b'"format": 2'))
    assert "format 2" in refused(shards.read_index, out)


def test_progress_is_shown_on_stderr(source, tmp_path, capsys):
    prepare(source, tmp_path / "out", shard_count=2)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.startswith("47/47 images  ") and "\r" not in captured.err
    assert "images/s" in captured.err and captured.err.endswith("left\n")
