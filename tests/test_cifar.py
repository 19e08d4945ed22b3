"""CIFAR's archives and TFDS's copy: what is read is exactly what was stored, and no pickle is run."""

import os
import pickle
import shutil

import numpy as np
import pytest
from files import pack, refused, unpack

from resnet_tf.data import load

# The files of the official archives, classes last.
CIFAR = {
    ("cifar10", "py"): ("cifar-10-python.tar.gz", "cifar-10-batches-py", "batches.meta"),
    ("cifar10", "bin"): ("cifar-10-binary.tar.gz", "cifar-10-batches-bin", "batches.meta.txt"),
    ("cifar100", "py"): ("cifar-100-python.tar.gz", "cifar-100-python", "meta"),
    ("cifar100", "bin"): ("cifar-100-binary.tar.gz", "cifar-100-binary", "fine_label_names.txt"),
}


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


@pytest.mark.parametrize("mode", ["w:gz", "w:xz"])
def test_truncated_archives_are_refused(mode, tmp_path):
    place = pack(tmp_path / "c.tar", make_cifar("cifar10", "py")[0], mode)
    whole = place.read_bytes()
    for part in (0, 0.01, 0.5, 0.99):
        place.write_bytes(whole[: int(len(whole) * part)])
        assert f"--data_dir: {place}: " in refused(place, "cifar10")
