"""Data sets that are folders of images, packed or not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resnet_tf.data import archives
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.splits import Indexed, arranged, check_encoded, existing, with_test
from resnet_tf.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}

# Encoded images, or sizes of files, by class and by name.
_Members = dict[str, dict[str, bytes | int]]


def index(data_dir: str, classes: tuple[str, ...] = ()) -> Indexed:
    """Finds the images of a folder or tar archive of [anything/]SPLIT/CLASS/IMAGE.

    Args:
        data_dir: where it is; see `sources.index`.
        classes: their order, instead of the alphabet's.

    Returns:
        The classes, and "train", "test" and, where there is one, "validation", in the order of classes and names. Of
        a folder no file is read; of an archive the images are held in memory, encoded.

    Raises:
        InputError: the data are missing, in other folders than these, or too large; a damaged archive.
    """
    root = existing(data_dir, "folder")
    found: dict[tuple[str, str], _Members] = {}  # by what is above the split, and split
    for name, content in _files(root):
        key, label = _place(name)
        files = found.setdefault(key, {}).setdefault(label, {})
        if not name.endswith("/"):
            files[name] = content
    named = _name_splits(root, found)
    names = _common_classes(root, named)
    return arranged(classes, names, {split: _examples(root, members, names) for split, members in named.items()})


def _files(root: Path) -> Iterator[tuple[str, bytes | int]]:
    def wanted(name: str) -> bool:
        return _place(name) is not None

    if root.is_dir():
        yield from archives.list_files(root, wanted)
        return
    size = 0
    for name, data in archives.read_members(root, wanted):
        size += len(data)
        check_encoded(size, root)
        yield name, data


def _place(name: str) -> tuple[tuple[str, str], str] | None:
    """What is above the split, the split, and the class, of an image or of a class's folder (with a "/" at the end)."""
    if not name.endswith("/") and not name.lower().endswith(IMAGE_SUFFIXES):
        return None
    parts = name.rstrip("/").split("/")
    folders = parts if name.endswith("/") else parts[:-1]
    if len(folders) < 2 or folders[-2] not in SPLIT_NAMES or any(part.startswith(".") for part in parts):
        return None
    return ("/".join(folders[:-2]), folders[-2]), folders[-1]


def _name_splits(root: Path, found: dict[tuple[str, str], _Members]) -> dict[str, _Members]:
    """Tells which folder is which split."""
    folders = ", ".join("/".join(key).lstrip("/") for key in sorted(found)) or "none"
    named = {SPLIT_NAMES[split]: members for (_, split), members in found.items()}
    if len({above for above, _ in found}) > 1 or len(named) < len(found):
        raise InputError(f"{root} holds more than one data set or split of a kind: {folders}")
    named = with_test(named)
    if named is None:
        needed = "train/CLASS/ and in test/CLASS/ or val/CLASS/"
        raise InputError(f"{root} needs images in {needed}; found of such folders: {folders}")
    return named


def _common_classes(root: Path, named: dict[str, _Members]) -> list[str]:
    """The sorted classes, of which every split must have the same, and none be empty."""
    for name, members in named.items():
        empty = sorted(label for label, files in members.items() if not files)
        if empty:
            raise InputError(f"{root} has no images of class {', '.join(empty)} in {name}")
        differing = sorted(members.keys() ^ named["train"].keys())
        if differing:
            raise InputError(f"{root} has only in one of train and {name}: {', '.join(differing)}")
    return sorted(named["train"])


def _examples(root: Path, members: _Members, classes: list[str]) -> Examples:
    counts = [len(members[label]) for label in classes]
    files = [item for label in classes for item in sorted(members[label].items())]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return Examples(store(root, files), np.arange(len(files), dtype=np.int64), labels)


def store(root: Path, files: list[tuple[str, bytes | int]]) -> Files | Memory:
    """Returns the storage of images of a folder (names and sizes) or of an archive (names and contents)."""
    names, contents = [name for name, _ in files], [content for _, content in files]
    if root.is_dir():
        return Files(str(root), names, np.array(contents, np.int64))
    return Memory(str(root), names, contents)
