"""Data sets: what is read must be exactly what was stored, and anything else be refused in one line."""

import io
import os
import pickle
import shutil
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_tf.data import DATASETS, Source, Split, archives, decode, folder, load, read_members, resize_center
from resnet_tf.errors import InputError

# The files of the official archives, classes last.
CIFAR = {
    ("cifar10", "py"): ("cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta"),
    ("cifar10", "bin"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "batches.meta.txt"),
    ("cifar100", "py"): ("cifar-100-python.tar.gz", "cifar-100-python", "meta"),
    ("cifar100", "bin"): ("cifar-100-binary.tar.gz", "cifar-100-binary", "fine_label_names.txt"),
}


def refused(data_dir, dataset="folder", **options):
    """The message with which `load` refuses."""
    with pytest.raises(InputError) as caught:
        load(dataset, str(data_dir), **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def pack(path, files, mode="w:gz"):
    """Writes an archive of files given as bytes or as a ready TarInfo."""
    with tarfile.open(path, mode) as tar:
        for name, data in files.items():
            info = data if isinstance(data, tarfile.TarInfo) else tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
            tar.addfile(info, io.BytesIO(data) if isinstance(data, bytes) else None)
    return path


def unpack(path, files):
    for name, data in files.items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    return path


# --- splits, sources, hold-out ---------------------------------------------------------------------


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


@pytest.mark.parametrize("count", [-1, 512, 1000])
def test_validation_examples_out_of_range(count):
    assert "--validation_examples" in refused("", "synthetic", validation_examples=count)
    assert len(load("synthetic", validation_examples=511).splits["train"]) == 1


def test_bad_arguments():
    assert "--dataset" in refused("", "imagenet")
    assert "--image_size" in refused("", "synthetic", image_size=0)
    assert "4 GiB" in refused("", "synthetic", image_size=2000)
    assert "4 GiB" in refused("", "digits", image_size=2000)
    assert set(DATASETS) == {"digits", "cifar10", "cifar100", "folder", "synthetic"}


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


# --- CIFAR -----------------------------------------------------------------------------------------


def make_cifar(dataset, version, rows=3):
    """Files of an official archive, and the images and labels of its training and test split."""
    rng = np.random.default_rng(0)
    count = 10 if dataset == "cifar10" else 100
    classes = tuple(f"class_{index}" for index in range(count))
    folder, meta = CIFAR[dataset, version][1:]
    if dataset == "cifar10":
        names = [f"data_batch_{index}" for index in range(1, 6)] + ["test_batch"]
    else:
        names = ["train", "test"]
    files, batches = {}, []
    for name in names:
        images = rng.integers(0, 256, (rows, 32, 32, 3), np.uint8)
        labels = rng.integers(0, count, rows)
        labels[0] = count - 1
        batches.append((images, labels))
        flat = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).reshape(rows, 3072)
        coarse = rng.integers(0, 20, rows)
        if version == "py":
            key = b"labels" if dataset == "cifar10" else b"fine_labels"
            content = {b"data": flat, key: labels.tolist(), b"coarse_labels": coarse.tolist()}
            files[f"{folder}/{name}"] = pickle.dumps(content, protocol=2)
        else:
            columns = [labels, flat] if dataset == "cifar10" else [coarse, labels, flat]
            columns = [column.astype(np.uint8).reshape(rows, -1) for column in columns]
            files[f"{folder}/{name}.bin"] = np.concatenate(columns, axis=1).tobytes()
    if version == "py":
        key = b"label_names" if dataset == "cifar10" else b"fine_label_names"
        files[f"{folder}/{meta}"] = pickle.dumps({key: [name.encode() for name in classes]}, protocol=2)
    else:
        files[f"{folder}/{meta}"] = ("\n".join(classes) + "\n\n").encode()
    files[f"{folder}/readme.html"] = b"not read"
    train = [np.concatenate(column) for column in zip(*batches[:-1], strict=True)]
    return files, classes, {"train": train, "test": batches[-1]}


def assert_holds(source, classes, splits):
    assert source.classes == classes
    assert set(source.splits) == set(splits)
    for name, (images, labels) in splits.items():
        assert np.array_equal(source.splits[name].images, images)
        assert np.array_equal(source.splits[name].labels, labels)


@pytest.mark.parametrize("dataset, version", CIFAR)
def test_cifar_round_trip(dataset, version, tmp_path):
    files, classes, splits = make_cifar(dataset, version)
    archive, folder, _ = CIFAR[dataset, version]
    unpacked = unpack(tmp_path / "unpacked", files)
    (tmp_path / "packed").mkdir()
    packed = pack(tmp_path / "packed" / archive, files)
    renamed = shutil.copytree(unpacked / folder, tmp_path / "renamed")
    for place in (packed, packed.parent, unpacked, unpacked / folder, renamed):
        assert_holds(load(dataset, str(place)), classes, splits)
    small = load(dataset, str(packed), image_size=16).splits["test"]
    assert small.images.shape == (3, 16, 16, 3)
    other = "cifar100" if dataset == "cifar10" else "cifar10"
    assert str(packed) in refused(packed, other)


def test_cifar_pickled_by_python_2(tmp_path):
    """Protocol 2 of Python 2 stores bytes as plain strings, and names numpy's old module."""
    files, classes, splits = make_cifar("cifar10", "py", rows=1)

    def string(data):  # BINSTRING
        return b"T" + len(data).to_bytes(4, "little") + data

    for name, data in list(files.items())[:6]:
        content = pickle.loads(data)
        label = bytes(content[b"labels"])
        pixels = string(content[b"data"].tobytes())
        array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + string(b"b") + b"\x87R"
        dtype = b"cnumpy\ndtype\n" + string(b"u1") + b"K\x00K\x01\x87R"
        dtype += b"(K\x03" + string(b"|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        array += b"(K\x01K\x01M\x00\x0c\x86" + dtype + b"\x89" + pixels + b"tb"
        files[name] = b"\x80\x02}(" + string(b"data") + array + string(b"labels") + b"](K" + label + b"eu."
        assert np.array_equal(pickle.loads(files[name], encoding="bytes")[b"data"], content[b"data"])
    assert_holds(load("cifar10", str(pack(tmp_path / "c.tar.gz", files))), classes, splits)


def test_cifar_pickled_by_python_3(tmp_path):
    """Text keys, arrays in Fortran order, and each way in which numpy stores bytes."""
    original, classes, splits = make_cifar("cifar100", "py")
    files = dict(original)
    for protocol in (2, 3, 4):
        for name in ("cifar-100-python/train", "cifar-100-python/test"):
            content = {key.decode(): value for key, value in pickle.loads(original[name]).items()}
            content["data"] = np.asfortranarray(content["data"])
            files[name] = pickle.dumps(content, protocol=protocol)
        assert_holds(load("cifar100", str(pack(tmp_path / "c.tar", files, "w"))), classes, splits)


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_hostile_pickles_are_refused_and_not_run(tmp_path):
    files, _, _ = make_cifar("cifar10", "py")
    batch = "cifar-10-batches-py/data_batch_3"
    content = pickle.loads(files[batch])
    trap = tmp_path / "trap"
    for hostile in (
        Payload(trap),
        {**content, b"extra": Payload(trap)},
        {**content, b"data": content[b"data"].astype(object)},
        {**content, b"data": content[b"data"].astype(np.int64)},
        {**content, b"labels": [np.int64(1)] * 3},
    ):
        files[batch] = pickle.dumps(hostile, protocol=2)
        message = refused(pack(tmp_path / "c.tar.gz", files), "cifar10")
        assert "c.tar.gz: data_batch_3" in message
        assert not trap.exists()
    files[batch] = pickle.dumps(Payload(trap), protocol=2)
    assert "mkdir" in refused(pack(tmp_path / "c.tar.gz", files), "cifar10")
    pickle.loads(files[batch])
    assert trap.exists()  # it would have run


@pytest.mark.parametrize("dataset, version", CIFAR)
def test_damaged_cifar_batches_are_named(dataset, version, tmp_path):
    files, classes, _ = make_cifar(dataset, version)
    folder, meta = CIFAR[dataset, version][1:]
    root = unpack(tmp_path, files) / folder
    for name in [name for name in os.listdir(root) if name != "readme.html"]:
        intact = (root / name).read_bytes()
        damages = [b"", intact[:-1], intact[: len(intact) // 2], intact[:1]]
        if name == meta and version == "bin":  # where a shorter text is a valid one
            damages = [b"", b"a\na\n", b"\n".join(name.encode() for name in classes[:-1])]
        for damage in damages:
            (root / name).write_bytes(damage)
            message = refused(root, dataset)
            # Too few classes show in the first batch that uses the last one.
            assert str(root) in message and (name in message or "labels beyond" in message)
        (root / name).unlink()
        assert f"lacks {name}" in refused(tmp_path, dataset)
        (root / name).write_bytes(intact)
    load(dataset, str(root))


@pytest.mark.parametrize(
    "change, expected",
    [
        ({b"labels": [0, 1]}, "3 images, but 2 labels"),
        ({b"labels": [0, 1, 10]}, "labels beyond"),
        ({b"labels": [0, 1, -1]}, "labels beyond"),
        ({b"labels": [0, 1, 2**70]}, "labels"),
        ({b"labels": [0, 1, "2"]}, "labels"),
        ({b"labels": None}, "labels"),
        ({b"data": np.zeros((3, 3071), np.uint8)}, "3072"),
        ({b"data": b"text"}, "3072"),
    ],
)
def test_inconsistent_cifar_batches_are_named(change, expected, tmp_path):
    files, _, _ = make_cifar("cifar10", "py")
    batch = "cifar-10-batches-py/test_batch"
    files[batch] = pickle.dumps({**pickle.loads(files[batch]), **change}, protocol=2)
    message = refused(pack(tmp_path / "c.tar.gz", files), "cifar10")
    assert "c.tar.gz: test_batch" in message and expected in message


@pytest.mark.parametrize("dataset", ["cifar10", "cifar100", "folder"])
def test_missing_data(dataset, tmp_path):
    assert "--data_dir" in refused("", dataset)
    assert f"--data_dir: {tmp_path}/none" in refused(tmp_path / "none", dataset)
    assert f"--data_dir: {tmp_path}" in refused(tmp_path, dataset)
    for name, content in {"empty": b"", "text.tar.gz": b"some text" * 100, "page.zip": b"PK\x03\x04"}.items():
        file = tmp_path / name
        file.write_bytes(content)
        message = refused(file, dataset)
        assert str(file) in message and "--data_dir" in message


def test_cifar_says_what_it_looked_for(tmp_path):
    message = refused(tmp_path, "cifar10")
    for name in ("cifar-10-python.tar.gz", "cifar-10-batches-bin/", "cifar10/VERSION/dataset_info.json"):
        assert name in message


@pytest.fixture
def tfds_dir(tmp_path):
    """A TFDS data folder as a download would leave it, only smaller."""
    import tensorflow_datasets as tfds

    rng = np.random.default_rng(0)
    splits = {
        name: (rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count))
        for name, count in (("train", 7), ("test", 4))
    }
    names = [f"class_{index}" for index in range(10)]
    tfds.dataset_builders.store_as_tfds_dataset(
        name="cifar10",
        version="3.0.2",
        features=tfds.features.FeaturesDict(
            {
                "id": tfds.features.Text(),
                "image": tfds.features.Image(shape=(32, 32, 3)),
                "label": tfds.features.ClassLabel(names=names),
            }
        ),
        split_datasets={
            name: [
                (index, {"id": f"{name}_{index}", "image": image, "label": int(label)})
                for index, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
            for name, (images, labels) in splits.items()
        },
        data_dir=tmp_path,
    )
    return tmp_path, tuple(names), splits


def test_tfds_folder(tfds_dir):
    root, classes, splits = tfds_dir
    first = load("cifar10", str(root))
    assert first.classes == classes
    for name, (images, labels) in splits.items():  # TFDS stores them in an order of its own
        stored = {image.tobytes(): label for image, label in zip(images, labels, strict=True)}
        read = first.splits[name]
        assert {i.tobytes(): label for i, label in zip(read.images, read.labels, strict=True)} == stored
    assert load("cifar10", str(root)).checksum() == first.checksum()
    assert "cifar-100-python" in refused(root, "cifar100")
    (record,) = (root / "cifar10").glob("*/*train*tfrecord*")
    record.write_bytes(record.read_bytes()[:-100])
    assert f"--data_dir: {record.parent}" in refused(root, "cifar10")
    record.unlink()
    assert f"--data_dir: {record.parent}" in refused(root, "cifar10")


# --- folders ---------------------------------------------------------------------------------------


def picture(seed, form="PNG", size=(8, 8), mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, form)
    return file.getvalue()


@pytest.fixture
def tree():
    """A small data set, its names in no order."""
    return {
        f"set/{split}/{label}/{number}.png": picture(seed)
        for seed, (split, label, number) in enumerate(
            (split, label, number) for split in ("train", "test") for label in "ba" for number in (2, 10, 1)
        )
    }


def pixels_of(data):
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture
def decoded_once(monkeypatch):
    """Decodes the same images only once, wherever they are read from: small sets take long to set up."""
    decode_all, known = folder._decode_all, {}

    def decode_new(root, files, image_size):
        key = tuple(data for _, data in files), image_size
        if key not in known:
            known[key] = decode_all(root, files, image_size)
        return known[key]

    monkeypatch.setattr(folder, "_decode_all", decode_new)


@pytest.mark.usefixtures("decoded_once")
def test_folder_and_archives_of_it_are_equal(tree, tmp_path):
    tree["set/train/b/notes.txt"] = b"ignored"
    tree["set/train/b/.hidden.png"] = b"ignored"
    tree["set/index.csv"] = b"ignored"
    tree["set/overview.png"] = b"ignored"
    root = unpack(tmp_path / "tree", tree)
    source = load("folder", str(root), image_size=8)
    assert source.classes == ("a", "b")
    paths = [f"set/train/{label}/{number}.png" for label in "ab" for number in (1, 10, 2)]
    assert np.array_equal(source.splits["train"].images, [pixels_of(tree[path]) for path in paths])
    assert source.splits["train"].labels.tolist() == [0, 0, 0, 1, 1, 1]
    places = [root / "set"]
    for suffix, mode in {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}.items():
        places.append(pack(tmp_path / f"files{suffix}", tree, mode))
    with tarfile.open(tmp_path / "dot.tar", "w") as tar:  # as `tar -c .` does, with the folders
        tar.add(root, ".")
    for place in [*places, tmp_path / "dot.tar"]:
        assert load("folder", str(place), image_size=8).checksum() == source.checksum()


def test_folder_formats_and_sizes(tmp_path):
    files = {}
    for split in ("train", "test"):
        files |= {
            f"{split}/x/a.JPG": picture(0, "JPEG"),
            f"{split}/x/b.jpeg": picture(1, "JPEG", (20, 8), "L"),
            f"{split}/x/c.Png": picture(2, "PNG", (30, 50)),
            f"{split}/x/d.bmp": picture(3, "BMP", (4, 5)),
            f"{split}/x/e.gif": picture(4, "GIF", (8, 9)),
        }
    images = load("folder", str(unpack(tmp_path, files)), image_size=8).splits["train"].images
    for image, (name, data) in zip(images, files.items(), strict=False):
        assert np.array_equal(image, resize_center(decode(data, name), 8))
    assert np.ptp(images[1], axis=-1).max() == 0  # the grey one


@pytest.mark.parametrize("damage", [b"", b"text", picture(0, "JPEG")[:-20], picture(0)[:-20]])
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_image_is_named(tree, damage, packed, tmp_path):
    tree["set/train/b/10.png"] = damage
    place = pack(tmp_path / "c.tar", tree, "w") if packed else unpack(tmp_path, tree)
    assert f"{place}: set/train/b/10.png: " in refused(place)


@pytest.mark.usefixtures("decoded_once")
def test_validation_folders(tree, tmp_path):
    for number, name in enumerate(("val", "valid", "validation")):
        root = tmp_path / name
        unpack(root, {path.replace("/test/", f"/{name}/"): data for path, data in tree.items()})
        assert set(load("folder", str(root), image_size=8).splits) == {"train", "test"}
        both = unpack(root, tree)
        unpack(root, {f"set/{name}/{label}/new.png": picture(100 + number) for label in "ab"})
        source = load("folder", str(both), image_size=8)
        assert list(map(len, source.splits.values())) == [6, 6, 8]
        assert set(source.splits) == {"train", "test", "validation"}
        assert pixels_of(picture(100 + number)).tolist() in source.splits["validation"].images.tolist()
        assert "--validation_examples" in refused(both, image_size=8, validation_examples=2)
    unpack(root, {f"set/val/{label}/1.png": picture(0) for label in "ab"})
    assert "set/val, set/validation" in refused(root)


def without(tree, part):
    return {name: data for name, data in tree.items() if part not in name}


def test_folder_layout_errors(tree, tmp_path):
    cases = {
        "no train": (without(tree, "/train/"), "found of such folders: set/test"),
        "no test": (without(tree, "/test/"), "found of such folders: set/train"),
        "neither": ({"a/1.png": picture(0)}, "found of such folders: none"),
        "two sets": (tree | {"other/train/a/1.png": picture(0)}, "other/train, set/test, set/train"),
        "class only in train": (tree | {"set/train/c/1.png": picture(0)}, "one of train and test: c"),
        "class only in test": (tree | {"set/test/d/1.png": picture(0)}, "one of train and test: d"),
        "class only in val": (
            tree | {f"set/val/{label}/1.png": picture(0) for label in "abe"},
            "one of train and validation: e",
        ),
    }
    for name, (files, expected) in cases.items():
        assert expected in refused(pack(tmp_path / "c.tar", files, "w"))
        assert expected in refused(unpack(tmp_path / name, files))


def test_empty_class_is_refused(tree, tmp_path):
    root = unpack(tmp_path / "tree", tree)
    for split in ("train", "test"):
        (root / "set" / split / "c").mkdir()
    assert "no images of class c in train" in refused(root)
    with tarfile.open(tmp_path / "c.tar", "w") as tar:
        tar.add(root, ".")
    assert "no images of class c in train" in refused(tmp_path / "c.tar")


def limit_bytes(monkeypatch, limit):
    for module in ("splits", "folder"):
        monkeypatch.setattr(f"resnet_tf.data.{module}.MAX_BYTES", limit)


def test_too_large_sets_are_refused_before_decoding(tree, tmp_path, monkeypatch):
    place = pack(tmp_path / "c.tar", tree, "w")
    assert "4 GiB" in refused(place, image_size=20_000)
    limit_bytes(monkeypatch, 12 * 8 * 8 * 3)
    assert "GiB of images" in refused(place, image_size=1)  # the encoded ones: small but all held
    limit_bytes(monkeypatch, sum(map(len, tree.values())))
    load("folder", str(place), image_size=8)


def test_truncated_archives_of_either_kind_are_refused(tree, tmp_path):
    for dataset, files in (("folder", tree), ("cifar10", make_cifar("cifar10", "py")[0])):
        for mode in ("w:gz", "w:xz"):
            place = pack(tmp_path / "c.tar", files, mode)
            whole = place.read_bytes()
            for part in (0, 0.01, 0.5, 0.99):
                place.write_bytes(whole[: int(len(whole) * part)])
                assert f"--data_dir: {place}: " in refused(place, dataset)


# --- archives --------------------------------------------------------------------------------------


def everything(path):
    return list(read_members(path, lambda name: True))


def test_read_members_offers_files_and_folders(tmp_path):
    files = {"b/2": b"two", "b/1": b"one", "a": b"", "c/d/e": b"e"}
    root = unpack(tmp_path / "tree", files)
    (root / "empty").mkdir()
    expected = [("a", b""), ("b/", b""), ("b/1", b"one"), ("b/2", b"two"), ("c/", b""), ("c/d/", b"")]
    expected += [("c/d/e", b"e"), ("empty/", b"")]
    assert everything(root) == expected
    assert list(read_members(root, lambda name: name == "b/2")) == [("b/2", b"two")]
    for mode in ("w", "w:gz", "w:bz2", "w:xz"):
        assert everything(pack(tmp_path / "c.tar", files, mode)) == list(files.items())
    assert list(read_members(tmp_path / "c.tar", lambda name: name == "a")) == [("a", b"")]


def member(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    "name, content",
    [
        ("/etc/x.png", b"data"),
        ("train/../../x.png", b"data"),
        ("..", b"data"),
        ("train/a/x.png", member("train/a/x.png", tarfile.SYMTYPE, "ok.txt")),
        ("train/a/x.png", member("train/a/x.png", tarfile.LNKTYPE, "ok.txt")),
        ("train/a/x.png", member("train/a/x.png", tarfile.CHRTYPE)),
        ("train/a/x.png", member("train/a/x.png", tarfile.FIFOTYPE)),
    ],
)
def test_unsafe_members_are_refused_by_name(name, content, tmp_path):
    path = pack(tmp_path / "c.tar.gz", {"ok.txt": b"fine", name: content})
    for wanted in (lambda name: True, lambda name: False):
        with pytest.raises(InputError) as caught:
            list(read_members(path, wanted))
        assert str(path) in str(caught.value) and repr(name) in str(caught.value)


def test_links_in_folders(tmp_path):
    root = unpack(tmp_path / "tree", {"a/1": b"one", "b/2": b"two"})
    outside = unpack(tmp_path / "outside", {"3": b"three"})
    (root / "c").symlink_to(outside, target_is_directory=True)
    (root / "d").symlink_to("a/1")
    assert [item for item in everything(root) if item[1]] == [("d", b"one"), ("a/1", b"one"), ("b/2", b"two")]
    (root / "a" / "e").symlink_to(outside / "3")
    with pytest.raises(InputError, match="a/e: refused, a link that leads outside"):
        everything(root)
    assert list(read_members(root, lambda name: name == "b/2")) == [("b/2", b"two")]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_truncated_archives_are_refused(mode, tmp_path):
    rng = np.random.default_rng(0)
    # One of the sizes fills its last block: what follows it could be missed without a trace.
    files = {f"{index}.bin": rng.bytes(size) for index, size in enumerate((700, 1024, 5000, 100))}
    whole = pack(tmp_path / "whole.tar", files, mode).read_bytes()
    end = len(whole)
    if mode == "w":  # where padding follows the two empty blocks that mark the end
        end = 4 * 512 + 1024 + 1024 + 5120 + 512
    cuts = {*range(0, end, max(end // 60, 1)), *(size for size in range(512, end, 512)), end - 1, end - 5}
    cut = tmp_path / "cut.tar"
    for length in sorted(cuts):
        cut.write_bytes(whole[:length])
        with pytest.raises(InputError) as caught:
            everything(cut)
        assert str(cut) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_damaged_archives_are_refused_or_read(mode, tmp_path):
    """No other exception and no shortened list, whichever byte is changed."""
    rng = np.random.default_rng(1)
    files = {f"{index}.bin": rng.bytes(300) for index in range(4)}
    whole = pack(tmp_path / "whole.tar", files, mode).read_bytes()
    path = tmp_path / "damaged.tar"
    refusals = 0
    for at in range(0, min(len(whole), 4 * 1024), 7):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        try:
            read = everything(path)
            assert len(read) == 4
            assert mode == "w" or read == list(files.items())  # those carry checksums
        except InputError:
            refusals += 1
    assert refusals > 10


def test_huge_members_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 1000)
    files = {"small": b"x" * 1000, "large": b"x" * 1001}
    for place in (pack(tmp_path / "c.tar.gz", files), unpack(tmp_path / "tree", files)):
        assert list(read_members(place, lambda name: name == "small")) == [("small", b"x" * 1000)]
        with pytest.raises(InputError, match="large"):
            everything(place)


# --- real images -----------------------------------------------------------------------------------


def test_real_cifar10_folder():
    folder = os.environ.get("RESNET_TF_DATA")
    if not folder:
        pytest.skip("RESNET_TF_DATA does not name the folder that holds cifar10_jpegq75.tar.xz")
    start = time.monotonic()
    source = load("folder", str(Path(folder, "cifar10_jpegq75.tar.xz")))
    assert time.monotonic() - start < 60
    assert len(source.classes) == 10
    for name, count in (("train", 5000), ("test", 1000)):
        assert np.bincount(source.splits[name].labels).tolist() == [count] * 10
    mean = source.splits["train"].images.mean((0, 1, 2)) / 255
    assert np.abs(mean - [0.4913, 0.4821, 0.4465]).max() < 0.01
