"""Data sets in folders of images, or in tar archives of such folders."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from resnet_tf.data import archives, formats
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.data.splits import Indexed, arranged, existing, read_archive, with_test
from resnet_tf.errors import InputError

SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
# More names of the folders of splits, in any case; the names above have precedence.
_MORE_NAMES = {**SPLIT_NAMES, "training": "train", "testing": "test", "dev": "validation"}

# {class: {name: encoded image, or size of the file}}
_Members = dict[str, dict[str, bytes | int]]


def index(data_dir: str, classes: tuple[str, ...] = (), ignored: Ignored | None = None) -> Indexed:
    """Find the images of a folder or tar archive of [anything/]SPLIT/CLASS/[anything/]IMAGE.

    Links to folders are followed if they are a class or inside a class, and lead to a folder in `data_dir`.

    Args:
        data_dir: path of the folder or archive; see `sources.index`.
        classes: order of the classes; empty for sorted by name.
        ignored: counts files that are not used.

    Returns:
        The classes, and the splits "train", "test" and, if there is a third one, "validation", sorted by class and
        name. Images of an archive are held in memory, encoded.

    Raises:
        InputError: the data are missing, in another layout, or too large; the archive is damaged; or the format of some
            images cannot be read.
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
    members: dict[str, _Members] = {split: {} for split in splits.values()}
    for name in folders:
        parts = _split_and_class(name, above, splits)
        if parts and name.count("/") == len(above) + 2:
            members[parts[0]].setdefault(parts[1], {})
    for name, content in images.items():
        parts = _split_and_class(name, above, splits)
        if parts:
            members[parts[0]].setdefault(parts[1], {})[name] = content
        else:
            ignored.add(f"images in {'/'.join(_outermost(name))}/")
    members = with_test(members)
    names = _common_classes(root, members)
    train = [name for files in members["train"].values() for name in files]
    if len(names) == 1 and all(name.count("/") > len(above) + 2 for name in train):
        raise InputError(f"{root}: one class, {names[0]}, with all images in folders below it; expected SPLIT/CLASS/")
    return arranged(classes, names, {split: _examples(root, of_split, names) for split, of_split in members.items()})


def _files(root: Path, ignored: Ignored) -> Iterator[tuple[str, bytes | int]]:
    """Yield images below the folder of a split, with their sizes or contents (of an archive), and folders."""

    def wanted(name: str) -> bool:
        if is_hidden(name):
            return False
        if name.endswith("/"):
            return bool(_split_levels(name))
        if not formats.is_image(name):
            ignored.file(name)
        elif not _split_levels(name):
            ignored.add("images outside of SPLIT/CLASS")
        else:
            return True
        return False

    if root.is_dir():

        def follow(name: str) -> bool:
            return not is_hidden(name) and bool(_split_levels(name))

        yield from archives.list_files(root, wanted, follow, ignored)
        return
    yield from read_archive(root, wanted)


def _folders(name: str) -> list[str]:
    """Return the components of the path of a folder (whose name ends in "/"), or of the folder of an image."""
    return name.split("/")[:-1]


def _split_levels(name: str) -> list[int]:
    """Return which components of a path may be the folder of a split: they have its name and a folder below."""
    return [level for level, part in enumerate(_folders(name)[:-1]) if part.lower() in _MORE_NAMES]


def _outermost(name: str) -> tuple[str, ...]:
    """Return the path of the first folder that may be the folder of a split."""
    return tuple(_folders(name)[: _split_levels(name)[0] + 1])


def _split_and_class(name: str, above: tuple[str, ...], splits: dict[str, str]) -> tuple[str, str] | None:
    """Return split and class of an image or folder, or None if it is outside of the data set."""
    folders, level = _folders(name), len(above)
    if len(folders) < level + 2 or tuple(folders[:level]) != above or folders[level] not in splits:
        return None
    return splits[folders[level]], folders[level + 1]


def _find_splits(
    root: Path, images: Iterable[str], folders: list[str], ignored: Ignored
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the path of the folder that contains the data set, and {name of a folder in it: its split}.

    Images directly in SPLIT/CLASS determine the folder of the data set. If there are none, the outermost folders with
    names of splits do.
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
    present = sorted({split[-1] for split in outermost if split[:-1] == above} | {split[-1] for split in direct})
    splits: dict[str, str] = {}
    for names in (SPLIT_NAMES, {name: _MORE_NAMES[name.lower()] for name in present}):
        taken = set(splits.values())
        new = {name: names[name] for name in present if name in names and names[name] not in taken}
        if len(set(new.values())) < len(new):
            raise InputError(f"{root} holds more than one data set or split of a kind: {listed}")
        splits |= new
    if with_test({split: name for name, split in splits.items()}) is None:
        needed = "train/CLASS/ and in test/CLASS/ or val/CLASS/"
        beside = f"; ignored: {ignored}" if str(ignored) else ""
        raise InputError(f"{root} needs images in {needed}; folders with names of splits: {listed}{beside}")
    return above, splits


def _common_classes(root: Path, members: dict[str, _Members]) -> list[str]:
    """Return the sorted classes. Every split must have the same classes, and every class must have images."""
    for name, of_split in members.items():
        empty = sorted(label for label, files in of_split.items() if not files)
        if empty:
            raise InputError(f"{root} has no images of class {', '.join(empty)} in {name}")
        differing = sorted(of_split.keys() ^ members["train"].keys())
        if differing:
            raise InputError(f"{root} has these classes in only one of train and {name}: {', '.join(differing)}")
    return sorted(members["train"])


def _examples(root: Path, members: _Members, classes: list[str]) -> Examples:
    counts = [len(members[label]) for label in classes]
    files = [item for label in classes for item in sorted(members[label].items())]
    labels = np.repeat(np.arange(len(classes), dtype=np.int32), counts)
    return Examples(store(root, files), np.arange(len(files), dtype=np.int64), labels)


def store(root: Path, files: list[tuple[str, bytes | int]]) -> Files | Memory:
    """Return the storage of images, from names with sizes (of a folder) or with contents (of an archive).

    Raises:
        InputError: the format of some images cannot be read; see `formats.check_readable`.
    """
    names, contents = [name for name, _ in files], [content for _, content in files]
    formats.check_readable(names, str(root))
    if root.is_dir():
        return Files(str(root), names, np.array(contents, np.int64))
    return Memory(str(root), names, contents)
