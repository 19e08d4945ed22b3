"""Data sets that are folders of images, packed or not."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from resnet_tf.data import archives, formats
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.data.splits import Indexed, arranged, check_encoded, existing, with_test
from resnet_tf.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
# Other names of the folders of splits, which are taken in any case too; those above have precedence.
_MORE_NAMES = {**SPLIT_NAMES, "training": "train", "testing": "test", "dev": "validation"}

# Encoded images, or sizes of files, by class and by name.
_Members = dict[str, dict[str, bytes | int]]


def index(data_dir: str, classes: tuple[str, ...] = (), ignored: Ignored | None = None) -> Indexed:
    """Finds the images of a folder or tar archive of [anything/]SPLIT/CLASS/[anything/]IMAGE.

    Links to folders are followed where they are a class, or in one, and lead to somewhere in `data_dir`.

    Args:
        data_dir: where it is; see `sources.index`.
        classes: their order, instead of the alphabet's.
        ignored: is told what lies there and is not taken.

    Returns:
        The classes, and "train", "test" and, where there is one, "validation", in the order of classes and names. Of
        a folder no file is read; of an archive the images are held in memory, encoded.

    Raises:
        InputError: the data are missing, in other folders than these, or too large; a damaged archive; images in a
            format that nothing here can read.
    """
    root, ignored = existing(data_dir, "folder"), Ignored() if ignored is None else ignored
    images: dict[str, bytes | int] = {}
    folders: list[str] = []
    for name, content in _files(root, ignored):
        if name.endswith("/"):
            folders.append(name)
        else:
            images[name] = content
    above, splits = _find_splits(root, images, folders, ignored)
    named: dict[str, _Members] = {split: {} for split in splits.values()}
    for name in folders:
        place = _place(name, above, splits)
        if place and name.count("/") == len(above) + 2:
            named[place[0]].setdefault(place[1], {})
    for name, content in images.items():
        place = _place(name, above, splits)
        if place:
            named[place[0]].setdefault(place[1], {})[name] = content
        else:
            ignored.add(f"images in {'/'.join(_outermost(name))}/")
    named = with_test(named)
    names = _common_classes(root, named)
    if len(names) == 1 and all(name.count("/") > len(above) + 2 for files in named["train"].values() for name in files):
        raise InputError(f"{root} has one class, {names[0]}, and its images lie deeper: classes go right below splits")
    return arranged(classes, names, {split: _examples(root, members, names) for split, members in named.items()})


def _files(root: Path, ignored: Ignored) -> Iterator[tuple[str, bytes | int]]:
    """Images below the folder of a split, with their sizes or, from an archive, contents; and folders."""

    def wanted(name: str) -> bool:
        if is_hidden(name):
            return False
        if name.endswith("/"):
            return bool(_places(name))
        if not formats.is_image(name):
            ignored.file(name)
        elif not _places(name):
            ignored.add("images outside of SPLIT/CLASS")
        else:
            return True
        return False

    if root.is_dir():
        yield from archives.list_files(root, wanted, lambda name: not is_hidden(name) and bool(_places(name)), ignored)
        return
    size = 0
    for name, data in archives.read_members(root, wanted):
        size += len(data)
        check_encoded(size, root)
        yield name, data


def _folders(name: str) -> list[str]:
    """The folders of an image, or of a folder (with a "/" at the end) with itself."""
    return name.split("/")[:-1]


def _places(name: str) -> list[int]:
    """Which of the folders of an image, or of a folder, may be that of a split: they have one of a class below."""
    return [at for at, part in enumerate(_folders(name)[:-1]) if part.lower() in _MORE_NAMES]


def _outermost(name: str) -> tuple[str, ...]:
    """The first folder that may be that of a split, with those above it."""
    return tuple(_folders(name)[: _places(name)[0] + 1])


def _place(name: str, above: tuple[str, ...], splits: dict[str, str]) -> tuple[str, str] | None:
    """Split and class of an image, or of a folder, in the data set; None outside of it."""
    folders, at = _folders(name), len(above)
    if len(folders) < at + 2 or tuple(folders[:at]) != above or folders[at] not in splits:
        return None
    return splits[folders[at]], folders[at + 1]


def _find_splits(
    root: Path, images: Iterable[str], folders: list[str], ignored: Ignored
) -> tuple[tuple[str, ...], dict[str, str]]:
    """The folders above the data set, and of each folder of a split in it which one it is.

    Where images lie right in folders of classes in splits, these tell where the data set is. Else the outermost
    folders whose names are those of splits do.
    """
    outermost = {_outermost(name) for name in (*images, *folders)}
    direct = {tuple(parts[:-1]) for parts in map(_folders, images) if parts[-2] in SPLIT_NAMES}
    aboves = {split[:-1] for split in direct}
    if len(aboves) > 1 or with_test({SPLIT_NAMES[split[-1]]: split for split in direct}) is None:
        aboves = {split[:-1] for split in outermost}
    listed = ", ".join("/".join(split) for split in sorted(outermost)) or "none"
    if len(aboves) > 1:
        raise InputError(f"{root} holds more than one data set or split of a kind: {listed}")
    (above,) = aboves or {()}
    there = sorted({split[-1] for split in outermost if split[:-1] == above} | {split[-1] for split in direct})
    splits: dict[str, str] = {}
    for names in (SPLIT_NAMES, {name: _MORE_NAMES[name.lower()] for name in there}):
        taken = set(splits.values())
        found = {name: names[name] for name in there if name in names and names[name] not in taken}
        if len(set(found.values())) < len(found):
            raise InputError(f"{root} holds more than one data set or split of a kind: {listed}")
        splits |= found
    if with_test({split: name for name, split in splits.items()}) is None:
        needed = "train/CLASS/ and in test/CLASS/ or val/CLASS/"
        beside = f"; ignored: {ignored}" if str(ignored) else ""
        raise InputError(f"{root} needs images in {needed}; found of such folders: {listed}{beside}")
    return above, splits


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
    """Returns the storage of images of a folder (names and sizes) or of an archive (names and contents).

    Raises:
        InputError: some are in a format that nothing here can read; see `formats.check_readable`.
    """
    names, contents = [name for name, _ in files], [content for _, content in files]
    formats.check_readable(names, str(root))
    if root.is_dir():
        return Files(str(root), names, np.array(contents, np.int64))
    return Memory(str(root), names, contents)
