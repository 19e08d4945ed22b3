"""Data sets in folders of images, or in tar or zip archives of such folders."""

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from resnet_tf.data import archives, formats, labels
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.ignored import Ignored, is_hidden
from resnet_tf.data.splits import (
    ANY_SPLIT_NAMES,
    SPLIT_NAMES,
    SPLITS,
    Indexed,
    arranged,
    check_known,
    existing,
    listed,
    merged_names,
    ordered,
    others,
    read_archive,
)
from resnet_tf.errors import InputError

# Words in the names of folders that hold images of all classes.
_GENERAL = {*ANY_SPLIT_NAMES, "images", "image", "imgs", "img", "photos", "pictures", "jpegs", "pngs", "data", "all"}

# {class: {name: encoded image, or size of the file}}
_Members = dict[str, dict[str, bytes | int]]


@dataclasses.dataclass(frozen=True)
class Layout:
    """The images of a data set by split and class.

    Attributes:
        root: the folder or archive.
        members: {split: {class: {name of an image: its size, or its content from an archive}}}; all images are in
            "train" if the data have no splits. A folder of a class in a split may be empty.
        is_split: whether the data themselves have splits.
        how: where labels and splits are from, in words, if not from the names of folders.
    """

    root: Path
    members: dict[str, _Members]
    is_split: bool
    how: list[str]


def index(
    data_dir: str,
    classes: tuple[str, ...] = (),
    ignored: Ignored | None = None,
    table: str = "",
    val_is: str = "validation",
    how: list[str] | None = None,
) -> Indexed:
    """Find the labelled images of a folder or archive; see `find` for the layouts.

    Args:
        data_dir: path of the folder or archive; see `sources.index`.
        classes: the classes to use, in the order of their labels; empty for all of them, sorted by name.
        ignored: counts files that are not used.
        table: path of a CSV of labels; see `labels.read`.
        val_is: see `splits.ordered`.
        how: receives sentences about labels and splits.

    Returns:
        The classes, and the splits, sorted by class and name. "train" has images of every class; the other splits may
        lack some. Images of an archive are held in memory, encoded.

    Raises:
        InputError: see `find`; there is no "train", or it lacks a class.
    """
    ignored = Ignored() if ignored is None else ignored
    layout = find(existing(data_dir, "folder"), table, ignored)
    members = ordered(layout.members, val_is)
    if members is None:
        _refuse_without_train(layout, ignored)
    for split, of_split in members.items():
        empty = sorted(label for label, found in of_split.items() if not found)
        if empty:
            raise InputError(f"{layout.root} has no images of class {', '.join(empty)} in {split}")
    names = _classes(layout.root, members, classes, layout.how)
    unused = {label for of_split in members.values() for label in of_split} - set(names)
    left_out = sum(len(files) for of_split in members.values() for label, files in of_split.items() if label in unused)
    if left_out:
        ignored.add(others(len(unused)), left_out)
    splits = {split: examples(layout.root, of_split, names) for split, of_split in members.items()}
    empty = [split for split, found in splits.items() if not len(found)]
    if empty:
        raise InputError(f"--classes: {listed(empty)} has no image of {listed(names)}")
    if how is not None:
        how += layout.how
    return arranged(classes, names, splits)


def _refuse_without_train(layout: Layout, ignored: Ignored) -> None:
    beside = f"; ignored: {ignored}" if str(ignored) else ""
    found = listed([split for split in SPLITS if split in layout.members])
    raise InputError(f"{layout.root} has no images for training, only for {found}{beside}")


def find(root: Path, table: str, ignored: Ignored, known: Collection[str] = ()) -> Layout:
    """Find the images of a folder or archive and their classes, in one of these layouts.

    - [anything/]SPLIT/CLASS/[anything/]IMAGE, where SPLIT is one of train, test and val, or another usual name for
      these, in any case.
    - [wrapping folders/]CLASS/[anything/]IMAGE, without splits.
    - Images anywhere with a CSV of labels: `table`, or the only one in the folder or beside it that fits.

    Links to folders are followed if they are a class or inside a class, and lead to a folder in `root`. Hidden files
    are ignored.

    Args:
        root: the folder or archive.
        table: path of the CSV; "" to use the folders.
        ignored: counts files that are not used.
        known: names of classes, which tell the folders of classes from those that wrap them.

    Raises:
        InputError: the data are missing, in another layout, or too large; the archive is damaged; or the format of some
            images cannot be read.
    """
    if table:
        files = dict(_files(root, bool, ignored))
        return _labelled(root, labels.read(Path(table), root, _images(files)), files, ignored)
    files = dict(_files(root, lambda name: bool(_split_levels(name)), ignored))
    if any(_split_levels(name) for name in files):
        return _by_split(root, files, ignored)
    if root.is_dir():  # once more, since a link to a folder may be a class
        ignored.clear()
        files = dict(_files(root, bool, ignored))
    above = _wrapping(_images(files), known)
    level = len(above)
    groups = {_folders(name)[level] for name in _images(files) if len(_folders(name)) > level}
    are_classes = _are_classes(groups)
    if are_classes and len(groups) > 1:
        return _by_class(root, files, above, ignored)
    fitting = labels.beside(root, _images(files))
    if fitting is None and are_classes:
        return _by_class(root, files, above, ignored)
    if fitting is None:
        where = f"directly in {', '.join(sorted(groups))}" if groups else "in no folder of a class"
        raise InputError(
            f"{root} needs images in CLASS/ or SPLIT/CLASS/, or a CSV of labels (--labels); "
            + (f"it has {len(_images(files)):,} images {where}" if _images(files) else "it has no images")
            + (f"; ignored: {ignored}" if str(ignored) else "")
        )
    return _labelled(root, fitting, files, ignored)


# --- Reading names ---------------------------------------------------------------------------------------------------


def _files(root: Path, follow: Callable[[str], bool], ignored: Ignored) -> Iterator[tuple[str, bytes | int]]:
    """Yield images with their sizes, or contents (of an archive), and folders, whose names end in "/".

    Args:
        root: the folder or archive.
        follow: function(name of a link to a folder) -> whether to follow it.
        ignored: counts other files.
    """

    def wanted(name: str) -> bool:
        if is_hidden(name):
            return False
        if name.endswith("/") or formats.is_image(name):
            return True
        ignored.file(name)
        return False

    if root.is_dir():
        yield from archives.list_files(root, wanted, lambda name: not is_hidden(name) and follow(name), ignored)
        return
    yield from read_archive(root, wanted)


def _images(files: Iterable[str]) -> list[str]:
    return [name for name in files if not name.endswith("/")]


def _folders(name: str) -> list[str]:
    """Return the components of the path of a folder (whose name ends in "/"), or of the folder of an image."""
    return name.split("/")[:-1]


# --- CLASS/IMAGE -----------------------------------------------------------------------------------------------------


def _wrapping(images: list[str], known: Collection[str]) -> tuple[str, ...]:
    """Return the path of the folder whose subfolders are the classes: below the folders that wrap the whole set."""
    above: list[str] = []
    deeper = [_folders(name) for name in images if "/" in name]
    while deeper:
        level = len(above)
        children = {parts[level] for parts in deeper}
        if len(children) > 1 or children & set(known):
            break
        below = [parts for parts in deeper if len(parts) > level + 1]
        # A lone folder with images of its own is a class, unless it has several folders beside them.
        if len({parts[level + 1] for parts in below}) < (1 if len(below) == len(deeper) else 2):
            break
        above.append(*children)
        deeper = below
    return tuple(above)


def _are_classes(groups: set[str]) -> bool:
    """Return whether folders of images may be classes: not those of splits, nor train_images and test_images alone."""
    named = {name for name in groups if name.lower() in ANY_SPLIT_NAMES}
    if named:
        return named == {"train"} and len(groups) > 2  # a train among other vehicles
    return any(_GENERAL.isdisjoint(re.split(r"[\W\d_]+", name.lower())) for name in groups)


def _by_class(root: Path, files: dict[str, bytes | int], above: tuple[str, ...], ignored: Ignored) -> Layout:
    level, found = len(above), {}
    for name, content in files.items():
        parts = _folders(name)
        if tuple(parts[:level]) != above or len(parts) == level:
            if not name.endswith("/"):
                ignored.add("images outside of CLASS")
            continue
        of_class = found.setdefault(parts[level], {})
        if not name.endswith("/"):
            of_class[name] = content
    empty = sorted(label for label, images in found.items() if not images)
    how = [f"without images: the folder{'s' if len(empty) > 1 else ''} {listed(empty)}"] if empty else []
    members = _merged(root, {"train": {label: images for label, images in found.items() if images}})
    return Layout(root, members, False, how)


# --- A table of labels -----------------------------------------------------------------------------------------------


def _labelled(root: Path, table: labels.Table, files: dict[str, bytes | int], ignored: Ignored) -> Layout:
    members: dict[str, _Members] = {}
    for name, (label, split) in table.rows.items():
        members.setdefault(split, {}).setdefault(label, {})[name] = files[name]
    if table.member:
        ignored.add(PurePosixPath(table.member).suffix.lower(), -1)  # which was counted as a file of no use
    ignored.add("images without a label", len(_images(files)) - len(table.rows))
    how = [f"labels from {table.name}" + (f", splits from {table.splits_from}" if table.splits_from else "")]
    return Layout(root, _merged(root, members), bool(table.splits_from), how)


# --- SPLIT/CLASS/IMAGE -----------------------------------------------------------------------------------------------


def _by_split(root: Path, files: dict[str, bytes | int], ignored: Ignored) -> Layout:
    folders = [name for name in files if name.endswith("/") and _split_levels(name)]
    images = {name: content for name, content in files.items() if not name.endswith("/")}
    outside = [name for name in images if not _split_levels(name)]
    ignored.add("images outside of SPLIT/CLASS", len(outside))
    for name in outside:
        del images[name]
    above, splits = _find_splits(root, images, folders)
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
    members = _merged(root, {split: members[split] for split in SPLITS if split in members})
    names = {label for of_split in members.values() for label in of_split}
    every = [name for of_split in members.values() for found in of_split.values() for name in found]
    if len(names) == 1 and all(name.count("/") > len(above) + 2 for name in every):
        raise InputError(
            f"{root}: one class, {names.pop()}, with all images in folders below it; expected SPLIT/CLASS/"
        )
    return Layout(root, members, True, [])


def _split_levels(name: str) -> list[int]:
    """Return which components of a path may be the folder of a split: they have its name and a folder below."""
    return [level for level, part in enumerate(_folders(name)[:-1]) if part.lower() in ANY_SPLIT_NAMES]


def _outermost(name: str) -> tuple[str, ...]:
    """Return the path of the first folder that may be the folder of a split."""
    return tuple(_folders(name)[: _split_levels(name)[0] + 1])


def _split_and_class(name: str, above: tuple[str, ...], splits: dict[str, str]) -> tuple[str, str] | None:
    """Return split and class of an image or folder, or None if it is outside of the data set."""
    folders, level = _folders(name), len(above)
    if len(folders) < level + 2 or tuple(folders[:level]) != above or folders[level] not in splits:
        return None
    return splits[folders[level]], folders[level + 1]


def _find_splits(root: Path, images: Iterable[str], folders: list[str]) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the path of the folder that contains the data set, and {name of a folder in it: its split}.

    Images directly in SPLIT/CLASS determine the folder of the data set. If there are none for training, the outermost
    folders with names of splits do.
    """
    outermost = {_outermost(name) for name in (*images, *folders)}
    direct = {tuple(parts[:-1]) for parts in map(_folders, images) if parts[-2] in SPLIT_NAMES}
    aboves = {split[:-1] for split in direct}
    if len(aboves) > 1 or all(SPLIT_NAMES[split[-1]] != "train" for split in direct):
        aboves = {split[:-1] for split in outermost}
    listing = ", ".join("/".join(split) for split in sorted(outermost)) or "none"
    if len(aboves) > 1:
        raise InputError(f"{root} holds more than one data set or split of a kind: {listing}")
    (above,) = aboves or {()}
    present = sorted({split[-1] for split in outermost if split[:-1] == above} | {split[-1] for split in direct})
    splits: dict[str, str] = {}
    for names in (SPLIT_NAMES, {name: ANY_SPLIT_NAMES[name.lower()] for name in present}):
        taken = set(splits.values())
        new = {name: names[name] for name in present if name in names and names[name] not in taken}
        if len(set(new.values())) < len(new):
            raise InputError(f"{root} holds more than one data set or split of a kind: {listing}")
        splits |= new
    return above, splits


# --- Classes ---------------------------------------------------------------------------------------------------------


def _merged(root: Path, members: dict[str, _Members]) -> dict[str, _Members]:
    """Give every class one name in all splits; see `splits.merged_names`."""
    found = {label: f"{split}/{label}" for split, of_split in members.items() for label in of_split}
    names = merged_names(found, str(root))
    merged: dict[str, _Members] = {split: {} for split in members}
    for split, of_split in members.items():
        for label, images in of_split.items():
            merged[split].setdefault(names[label], {}).update(images)
    return merged


def _classes(root: Path, members: dict[str, _Members], wanted: tuple[str, ...], how: list[str]) -> list[str]:
    """Return the sorted classes to use, after a check that train has images of all of them."""
    found = {label for of_split in members.values() for label in of_split}
    check_known(wanted, found)
    names = sorted(found if not wanted else found & set(wanted))
    lacking = [label for label in names if label not in members["train"]]
    if lacking:
        elsewhere = " and ".join(split for split in members if members[split].keys() & set(lacking))
        raise InputError(
            f"{root} has no training images of class {listed(lacking)}, which {elsewhere} has; --classes can leave out "
            "classes"
        )
    for split in members:
        absent = [label for label in names if label not in members[split]]
        if absent:
            how.append(f"no image in {split} of class {listed(absent)}")
    return names


def examples(root: Path, members: _Members, classes: list[str]) -> Examples:
    """Return the images of a split as examples, in the order of `classes`, of which labels are indices, and names."""
    of_classes = [members.get(label, {}) for label in classes]
    files = [item for images in of_classes for item in sorted(images.items())]
    targets = np.repeat(np.arange(len(classes), dtype=np.int32), [len(images) for images in of_classes])
    return Examples(store(root, files), np.arange(len(files), dtype=np.int64), targets)


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
