"""Read CIFAR-10 and CIFAR-100: the official archives, and folders that TFDS prepared."""

import codecs
import io
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from resnet_tf.data import archives
from resnet_tf.data.splits import Loaded, Split, existing, resized
from resnet_tf.errors import InputError


@dataclass(frozen=True)
class _CifarFormat:
    """The layout of one of the official versions."""

    archive: str
    folder: str
    train: tuple[str, ...]
    test: str
    classes: str
    parse_batch: Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]
    parse_classes: Callable[[bytes, str], list[str]]

    @property
    def files(self) -> tuple[str, ...]:
        return (*self.train, self.test, self.classes)


class _PickledArray:
    """A replacement for the unpickling of uint8 arrays.

    NumPy's own unpickling trusts its input: a hostile state can make it follow pointers from the file.
    """

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran_order, data = state
        if dtype.name not in ("u1", b"u1"):
            raise ValueError(f"an array of {dtype.name}")
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")


class _PickledType:
    """A replacement for the unpickling of NumPy dtypes, which keeps only the name."""

    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        pass


def _pickled_bytes(text: str, encoding: str) -> bytes:
    """Replace _codecs.encode, which pickle protocols below 3 use for bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding}")
    return codecs.encode(text, "latin1")


class _CifarUnpickler(pickle.Unpickler):
    """An unpickler of plain values and uint8 arrays only, since an unrestricted pickle may run any code."""

    # The first name is that of NumPy 1, the second that of NumPy 2.
    ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy._core.multiarray", "_reconstruct"): _PickledArray,
        ("numpy", "ndarray"): None,
        ("numpy", "dtype"): _PickledType,
        ("_codecs", "encode"): _pickled_bytes,
    }

    def find_class(self, module, name):
        try:
            return self.ALLOWED[module, name]
        except KeyError:
            raise InputError(f"refused to load {module}.{name}") from None


def _unpickle(data: bytes, name: str) -> dict:
    try:
        content = _CifarUnpickler(io.BytesIO(data), encoding="bytes").load()
        # Pickled by Python 2, keys are bytes; by Python 3, they may be either.
        return {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
    except InputError as error:
        raise InputError(f"{name}: {error}; this is not the official file, fetch it again") from error
    except Exception as error:  # a damaged pickle can raise any exception
        raise InputError(f"{name}: not a CIFAR pickle, or damaged or truncated; fetch it again") from error


def _python_batch(labels_key: str) -> Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]:
    def parse(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
        content = _unpickle(data, name)
        rows, labels = getattr(content.get("data"), "array", None), content.get(labels_key)
        if rows is None or rows.ndim != 2 or rows.shape[1] != 3072:
            raise InputError(f"{name}: has no 'data' of [n, 3072] bytes; fetch it again")
        if not isinstance(labels, list) or not all(type(x) is int and x.bit_length() < 32 for x in labels):
            raise InputError(f"{name}: has no list of integers {labels_key!r}; fetch it again")
        if len(rows) != len(labels):
            raise InputError(f"{name}: {len(rows)} images, but {len(labels)} labels; fetch it again")
        return rows, np.array(labels, np.int64)

    return parse


def _python_classes(key: str) -> Callable[[bytes, str], list[str]]:
    def parse(data: bytes, name: str) -> list[str]:
        names = _unpickle(data, name).get(key)
        if not isinstance(names, list) or not all(isinstance(item, bytes | str) for item in names):
            raise InputError(f"{name}: has no list of names {key!r}; fetch it again")
        return [item.decode("utf-8", "replace") if isinstance(item, bytes) else item for item in names]

    return parse


def _binary_batch(label_bytes: int) -> Callable[[bytes, str], tuple[np.ndarray, np.ndarray]]:
    def parse(data: bytes, name: str) -> tuple[np.ndarray, np.ndarray]:
        length = label_bytes + 3072
        if len(data) % length:
            raise InputError(f"{name}: {len(data)} bytes are not whole records of {length}; fetch it again")
        records = np.frombuffer(data, np.uint8).reshape(-1, length)
        # In CIFAR-100 the coarse label comes first and the fine label last.
        return records[:, label_bytes:], records[:, label_bytes - 1].astype(np.int64)

    return parse


def _binary_classes(data: bytes, name: str) -> list[str]:
    return data.decode("utf-8", "replace").split()


_CIFAR_FORMATS = {
    "cifar10": (
        _CifarFormat(
            archive="cifar-10-python.tar.gz",
            folder="cifar-10-batches-py",
            train=tuple(f"data_batch_{index}" for index in range(1, 6)),
            test="test_batch",
            classes="batches.meta",
            parse_batch=_python_batch("labels"),
            parse_classes=_python_classes("label_names"),
        ),
        _CifarFormat(
            archive="cifar-10-binary.tar.gz",
            folder="cifar-10-batches-bin",
            train=tuple(f"data_batch_{index}.bin" for index in range(1, 6)),
            test="test_batch.bin",
            classes="batches.meta.txt",
            parse_batch=_binary_batch(1),
            parse_classes=_binary_classes,
        ),
    ),
    "cifar100": (
        _CifarFormat(
            archive="cifar-100-python.tar.gz",
            folder="cifar-100-python",
            train=("train",),
            test="test",
            classes="meta",
            parse_batch=_python_batch("fine_labels"),
            parse_classes=_python_classes("fine_label_names"),
        ),
        _CifarFormat(
            archive="cifar-100-binary.tar.gz",
            folder="cifar-100-binary",
            train=("train.bin",),
            test="test.bin",
            classes="fine_label_names.txt",
            parse_batch=_binary_batch(2),
            parse_classes=_binary_classes,
        ),
    ),
}


def loader(dataset: str) -> Callable[[str, int], Loaded]:
    """Return function(data_dir, image_size) that loads "cifar10" or "cifar100"; see `sources.load`.

    The function raises InputError if the data are missing, damaged, inconsistent or too large.
    """

    def load_cifar(data_dir: str, image_size: int) -> Loaded:
        formats = _CIFAR_FORMATS[dataset]
        root = existing(data_dir, dataset)
        if not root.is_dir():
            return _read_cifar(root, formats, image_size)
        for layout in formats:
            for path in (root / layout.folder, root / layout.archive):
                if path.exists():
                    return _read_cifar(path, (layout,), image_size)
            if root.name == layout.folder or (root / layout.classes).is_file():
                return _read_cifar(root, (layout,), image_size)
        versions = [info.parent for info in (root / dataset).glob("*/dataset_info.json")]
        if versions:
            newest = max(versions, key=lambda path: [int(n) for n in path.name.split(".") if n.isdigit()])
            return _read_tfds(newest, image_size)
        names = [name for layout in formats for name in (layout.archive, layout.folder + "/")]
        names.append(f"{dataset}/VERSION/dataset_info.json (TFDS)")
        raise InputError(f"{root} holds no {dataset}; looked for {', '.join(names)}")

    return load_cifar


def _read_cifar(path: Path, formats: tuple[_CifarFormat, ...], image_size: int) -> Loaded:
    """Read an official archive or its unpacked folder, which has one of the `formats`."""

    def wanted(name: str) -> bool:
        file = PurePosixPath(name)
        folders = {layout.folder for layout in formats if file.name in layout.files}
        return not name.endswith("/") and bool(folders) and file.parent.name in ("", *folders)

    contents = {PurePosixPath(name).name: data for name, data in archives.read_members(path, wanted)}
    layout = next((layout for layout in formats if contents.keys() & set(layout.files)), None)
    if layout is None:
        folders = " or ".join(layout.folder for layout in formats)
        raise InputError(f"{path} holds no files of {folders}")
    missing = sorted(set(layout.files) - contents.keys())
    if missing:
        raise InputError(f"{path} lacks {', '.join(missing)}; fetch or unpack it again")

    classes = layout.parse_classes(contents[layout.classes], f"{path}: {layout.classes}")
    if not classes or len(set(classes)) < len(classes):
        raise InputError(f"{path}: {layout.classes}: no class names, or duplicate ones; fetch it again")

    def read(files: tuple[str, ...]) -> Split:
        rows, labels = [], []
        for file in files:
            batch, batch_labels = layout.parse_batch(contents[file], f"{path}: {file}")
            if not len(batch):
                raise InputError(f"{path}: {file}: no images; fetch it again")
            if batch_labels.min() < 0 or batch_labels.max() >= len(classes):
                raise InputError(f"{path}: {file}: labels beyond the {len(classes)} classes; fetch it again")
            rows.append(batch)
            labels.append(batch_labels.astype(np.int32))
        planes = np.concatenate(rows).reshape(-1, 3, 32, 32)
        return Split(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), np.concatenate(labels))

    splits = {"train": read(layout.train), "test": read((layout.test,))}
    return classes, resized(splits, image_size, f"{path}")


def _read_tfds(path: Path, image_size: int) -> Loaded:
    """Read a data set that TFDS prepared; nothing is downloaded."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise InputError(f"{path} needs tensorflow-datasets: pip install tensorflow-datasets") from error
    try:
        builder = tfds.builder_from_directory(path)
        classes = list(builder.info.features["label"].names)
        splits = {}
        for name in ("train", "test"):
            batches = list(builder.as_dataset(split=name, batch_size=1000, shuffle_files=False))
            pixels = np.concatenate([batch["image"] for batch in batches])
            labels = np.concatenate([batch["label"] for batch in batches])
            splits[name] = Split(pixels, labels.astype(np.int32))
    # For a damaged folder TFDS raises various exceptions, KeyError and AssertionError among them.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read by TFDS ({reason}); prepare it again") from error
    return classes, resized(splits, image_size, f"{path}")
