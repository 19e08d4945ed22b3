"""Labelled images in memory: where they come from and how they are split."""

import codecs
import hashlib
import io
import json
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import tensorflow as tf

from resnet_tf.data import archives, images
from resnet_tf.errors import InputError

MAX_BYTES = 4 * 2**30  # of decoded images, which are all held in memory


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [n, H, W, 3].
        labels: int32 [n].

    Raises:
        ValueError: shapes or dtypes are others, or the lengths differ.
    """

    images: np.ndarray
    labels: np.ndarray

    def __post_init__(self):
        """Checks that shapes, dtypes and lengths agree."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(f"images must be uint8 [n, H, W, 3], not {_describe(self.images)}")
        if self.labels.dtype != np.int32 or self.labels.ndim != 1:
            raise ValueError(f"labels must be int32 [n], not {_describe(self.labels)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, but {len(self.labels)} labels")

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
        name: one of DATASETS.
        classes: class names; a label is an index into them.
        splits: "train", "test" and, where there is one, "validation".
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split]

    def checksum(self) -> str:
        """Returns 16 hex digits that depend on classes, labels and pixels, not on the splits' order."""
        digest = hashlib.sha256()
        parts = [(name, self.splits[name]) for name in sorted(self.splits)]
        shapes = [(name, split.images.shape) for name, split in parts]
        digest.update(json.dumps([self.classes, shapes]).encode())
        for _, split in parts:
            digest.update(np.ascontiguousarray(split.labels, "<i4"))
            digest.update(np.ascontiguousarray(split.images))
        return digest.hexdigest()[:16]


def load(dataset: str, data_dir: str = "", image_size: int = 32, validation_examples: int = 0) -> Source:
    """Loads a data set into memory, every image as `image_size` x `image_size`.

    Args:
        dataset: one of DATASETS.
        data_dir: where it is. For "cifar10" and "cifar100" the official archive (Python or binary
            version), the folder that was unpacked from it, a folder that holds either, or a TFDS data
            folder. For "folder" a folder or tar archive of [anything/]SPLIT/CLASS/IMAGE, with the
            splits train and test, or train and val, or all three; hidden files are ignored. The others
            need none.
        image_size: images of another size go through `images.resize_center`.
        validation_examples: how many examples to hold out of the training split as "validation": the
            same ones every time, the others staying in order.

    Returns:
        The data set, its splits all non-empty.

    Raises:
        InputError: an argument is out of range, or the data are missing, damaged, inconsistent, of
            another format or larger than MAX_BYTES.
    """
    if dataset not in _LOADERS:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(DATASETS)}")
    if image_size < 1:
        raise InputError(f"--image_size: {image_size} is not positive")
    try:
        classes, splits = _LOADERS[dataset](data_dir, image_size)
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise InputError(f"--data_dir: {error}") from error  # it names a file: say which flag led there
    if validation_examples:
        splits = _hold_out(splits, validation_examples)
    return Source(dataset, tuple(classes), splits)


_Loaded = tuple[list[str], dict[str, Split]]


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _hold_out(splits: dict[str, Split], count: int) -> dict[str, Split]:
    train = splits["train"]
    if "validation" in splits:
        raise InputError("--validation_examples: the data already have a validation split; leave it at 0")
    if not 0 < count < len(train):
        raise InputError(f"--validation_examples: {count} is not in the range 0 to {len(train) - 1}")
    held = np.zeros(len(train), bool)
    # Not the run's seed: runs with different seeds must share the split to be compared.
    held[np.random.default_rng(0).permutation(len(train))[:count]] = True
    return {
        **splits,
        "train": Split(train.images[~held], train.labels[~held]),
        "validation": Split(train.images[held], train.labels[held]),
    }


def _check_total(count: int, image_size: int, what: str) -> None:
    total = count * image_size * image_size * 3
    if total > MAX_BYTES:
        raise InputError(
            f"{what}: {count} or more images of size {image_size} take over {MAX_BYTES / 2**30:.0f} GiB of"
            " memory; use a smaller --image_size or fewer images"
        )


def _resized(splits: dict[str, Split], image_size: int, what: str) -> dict[str, Split]:
    """Brings images that are all of one size to `image_size`."""
    _check_total(sum(map(len, splits.values())), image_size, what)

    def resize(array: np.ndarray) -> np.ndarray:
        if array.shape[1:3] == (image_size, image_size):
            return array
        result = np.empty((len(array), image_size, image_size, 3), np.uint8)
        for start in range(0, len(array), 256):
            part = slice(start, start + 256)
            result[part] = images.resize_center(array[part], image_size)
        return result

    return {name: Split(resize(split.images), split.labels) for name, split in splits.items()}


# --- digits and synthetic -------------------------------------------------------------------------


def _load_digits(data_dir: str, image_size: int) -> _Loaded:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise InputError("--dataset: digits needs scikit-learn: pip install 'resnet_tf[demo]'") from error
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # values are 0 to 16
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = {"train": Split(rgb[train], labels[train]), "test": Split(rgb[test], labels[test])}
    return [str(digit) for digit in range(10)], _resized(splits, image_size, "--dataset: digits")


def _load_synthetic(data_dir: str, image_size: int) -> _Loaded:
    """Noise whose mean brightness tells the class."""
    counts = {"train": 512, "test": 256}
    _check_total(sum(counts.values()), image_size, "--dataset: synthetic")
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in counts.items():
        labels = rng.integers(0, 10, count, dtype=np.int32)
        noise = rng.integers(0, 128, (count, image_size, image_size, 3), dtype=np.uint8)
        splits[name] = Split(noise + (labels * 14).astype(np.uint8)[:, None, None, None], labels)
    return [f"class{index}" for index in range(10)], splits


# --- CIFAR ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _CifarFormat:
    """How one of the official versions is laid out."""

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
    """Takes what a pickled uint8 array is rebuilt from, without reaching numpy's own unpickling.

    That trusts its input: a hostile state can make numpy follow pointers out of the file.
    """

    def __init__(self, *_):
        pass

    def __setstate__(self, state):
        _, shape, dtype, fortran_order, data = state
        if dtype.name not in ("u1", b"u1"):
            raise ValueError(f"an array of {dtype.name}")
        self.array = np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran_order else "C")


class _PickledType:
    """Takes what a pickled numpy dtype is rebuilt from: its name, and a state without meaning here."""

    def __init__(self, name, *_):
        self.name = name

    def __setstate__(self, state):
        pass


def _pickled_bytes(text: str, encoding: str) -> bytes:
    """Stands for _codecs.encode, with which protocols below 3 pickle bytes."""
    if encoding != "latin1":
        raise ValueError(f"encoding {encoding}")
    return codecs.encode(text, "latin1")


class _CifarUnpickler(pickle.Unpickler):
    """Admits uint8 arrays beside plain values: an unrestricted pickle may run any code."""

    # Named as Python 2's numpy and numpy 1 call them, or as numpy 2 does.
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
    except Exception as error:  # a damaged pickle can end in any exception
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
        # CIFAR-100 puts the coarse label first, the fine one last.
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


def _load_cifar(dataset: str) -> Callable[[str, int], _Loaded]:
    def load_cifar(data_dir: str, image_size: int) -> _Loaded:
        formats = _CIFAR_FORMATS[dataset]
        root = _existing(data_dir, dataset)
        if not root.is_dir():
            return _read_cifar(root, formats, image_size)
        for layout in formats:
            for place in (root / layout.folder, root / layout.archive):
                if place.exists():
                    return _read_cifar(place, (layout,), image_size)
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


def _read_cifar(path: Path, formats: tuple[_CifarFormat, ...], image_size: int) -> _Loaded:
    """Reads an official archive, or its unpacked folder, in whichever of `formats` it is."""

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
        raise InputError(f"{path}: {layout.classes}: no class names, or some twice; fetch it again")

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
    return classes, _resized(splits, image_size, f"{path}")


def _read_tfds(path: Path, image_size: int) -> _Loaded:
    """Reads a data set that TFDS prepared; nothing is ever fetched."""
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
    # TFDS raises what it likes for a damaged folder, KeyError and AssertionError among them.
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read by TFDS ({reason}); prepare it again") from error
    return classes, _resized(splits, image_size, f"{path}")


# --- folders of images ----------------------------------------------------------------------------

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLIT_FOLDERS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def _load_folder(data_dir: str, image_size: int) -> _Loaded:
    root = _existing(data_dir, "folder")
    # Contents by (what is above the split, split), then by class, then by name.
    found: dict[tuple[str, str], dict[str, dict[str, bytes]]] = {}

    def place(name: str) -> tuple[tuple[str, str], str] | None:
        """The key above and the class of an image or, with a "/" at the end, of a class's folder."""
        parts = name.rstrip("/").split("/")
        folders = parts if name.endswith("/") else parts[:-1]
        image = name.endswith("/") or name.lower().endswith(_IMAGE_SUFFIXES)
        hidden = any(part.startswith(".") for part in parts)
        if not image or hidden or len(folders) < 2 or folders[-2] not in _SPLIT_FOLDERS:
            return None
        return ("/".join(folders[:-2]), folders[-2]), folders[-1]

    count = size = 0
    for name, data in archives.read_members(root, lambda name: place(name) is not None):
        key, label = place(name)
        files = found.setdefault(key, {}).setdefault(label, {})
        if not name.endswith("/"):
            images.check_header(data, f"{root}: {name}")
            files[name] = data
            count, size = count + 1, size + len(data)
            _check_total(count, image_size, f"{root}")
            if size > MAX_BYTES:
                raise InputError(f"{root} holds over {MAX_BYTES / 2**30:.0f} GiB of images")

    named = _name_splits(root, found)
    classes = _common_classes(root, named)
    splits = {}
    for name, members in named.items():
        files = [(file, data) for label in classes for file, data in sorted(members[label].items())]
        labels = np.repeat(np.arange(len(classes), dtype=np.int32), [len(members[c]) for c in classes])
        splits[name] = Split(_decode_all(root, files, image_size), labels)
    return classes, splits


def _name_splits(root: Path, found: dict[tuple[str, str], dict]) -> dict[str, dict[str, dict[str, bytes]]]:
    """Tells which folder is which split."""
    folders = ", ".join("/".join(key).lstrip("/") for key in sorted(found)) or "none"
    named = {_SPLIT_FOLDERS[split]: classes for (_, split), classes in found.items()}
    if len({above for above, _ in found}) > 1 or len(named) < len(found):
        raise InputError(f"{root} holds more than one data set or split of a kind: {folders}")
    if "test" not in named and "validation" in named:
        named["test"] = named.pop("validation")
    if not {"train", "test"} <= named.keys():
        needed = "train/CLASS/ and in test/CLASS/ or val/CLASS/"
        raise InputError(f"{root} needs images in {needed}; found of such folders: {folders}")
    return {name: named[name] for name in ("train", "test", "validation") if name in named}


def _common_classes(root: Path, named: dict[str, dict[str, dict[str, bytes]]]) -> list[str]:
    """The sorted classes, of which every split must have the same, and none be empty."""
    for name, members in named.items():
        empty = sorted(label for label, files in members.items() if not files)
        if empty:
            raise InputError(f"{root} has no images of class {', '.join(empty)} in {name}")
        differing = sorted(members.keys() ^ named["train"].keys())
        if differing:
            raise InputError(f"{root} has only in one of train and {name}: {', '.join(differing)}")
    return sorted(named["train"])


def _decode_all(root: Path, files: list[tuple[str, bytes]], image_size: int) -> np.ndarray:
    def view(data: tf.Tensor) -> tf.Tensor:
        return images.resize_center(images.decode_tensor(data), image_size)

    result = np.empty((len(files), image_size, image_size, 3), np.uint8)
    done = 0
    encoded = tf.data.Dataset.from_tensor_slices([data for _, data in files])
    try:
        for batch in encoded.map(view, num_parallel_calls=tf.data.AUTOTUNE).batch(256).prefetch(1):
            result[done : done + len(batch)] = batch.numpy()
            done += len(batch)
    except tf.errors.OpError:
        for name, data in files[done:]:  # which one was it?
            images.decode(data, f"{root}: {name}")
        raise
    return result


# --------------------------------------------------------------------------------------------------


def _existing(data_dir: str, dataset: str) -> Path:
    if not data_dir:
        raise InputError(f"--data_dir: {dataset} needs the folder or archive that holds the images")
    path = Path(data_dir)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return path


_LOADERS: dict[str, Callable[[str, int], _Loaded]] = {
    "digits": _load_digits,
    "cifar10": _load_cifar("cifar10"),
    "cifar100": _load_cifar("cifar100"),
    "folder": _load_folder,
    "synthetic": _load_synthetic,
}
DATASETS = tuple(_LOADERS)
