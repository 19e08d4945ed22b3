"""Splits and data sets, and the checks of sizes and class names that all data sets share."""

import csv
import difflib
import hashlib
import io
import json
import os
import unicodedata
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from resnet_tf import files
from resnet_tf.data import archives, images
from resnet_tf.data.examples import Examples
from resnet_tf.data.ignored import Ignored
from resnet_tf.errors import InputError

SPLITS = ("train", "test", "validation")  # their order in a source
# Names of splits in folders and files.
SPLIT_NAMES = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
# More names, which are used in any case; the names above have precedence.
ANY_SPLIT_NAMES = {**SPLIT_NAMES, "training": "train", "testing": "test", "dev": "validation"}
TABLE = ("file", "label", "split")  # the columns of `write_table`
MAX_BYTES = 4 * 2**30  # largest size of images in memory, decoded or encoded

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Split:
    """A split in memory: decoded images and their labels.

    Attributes:
        images: uint8 [n, H, W, 3].
        labels: int32 [n].
        names: paths of the image files within their folder or archive; None if the images are not from files.

    Raises:
        ValueError: shapes, dtypes or lengths are wrong.
    """

    images: np.ndarray
    labels: np.ndarray
    names: list[str] | None = None

    def __post_init__(self):
        """Check that shapes, dtypes and lengths agree."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[-1] != 3:
            raise ValueError(f"images must be uint8 [n, H, W, 3], not {_describe(self.images)}")
        if self.labels.dtype != np.int32 or self.labels.ndim != 1:
            raise ValueError(f"labels must be int32 [n], not {_describe(self.labels)}")
        if len(self.images) != len(self.labels):
            raise ValueError(f"{len(self.images)} images, but {len(self.labels)} labels")
        if self.names is not None and len(self.names) != len(self.labels):
            raise ValueError(f"{len(self.names)} names, but {len(self.labels)} labels")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def take(self, indices: np.ndarray) -> "Split":
        """Return the examples that an index array or a boolean mask selects."""
        names = None if self.names is None else [self.names[index] for index in np.arange(len(self))[indices]]
        return Split(self.images[indices], self.labels[indices], names)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
        name: one of `sources.DATASETS`.
        classes: class names; a label is an index into them.
        splits: some of SPLITS, in that order; "train" is always one of them, unless the source is only for scoring.
            Each is a `Split`, decoded in memory, or an `Examples`, encoded where it is.
        ignored: the files that are not used, in words; "" if there are none.
        how: how the data were split or labelled, in words; "" if the data themselves say all of it.
        was_split: whether a share of the training images was held out, which `write_table` records.
        relabelled: where other labels of the training images are from, {"file", "column", "sha256", "changed": number
            of images}; None if they have their own.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split | Examples]
    ignored: str = ""
    how: str = ""
    was_split: bool = False
    relabelled: dict | None = None

    def __str__(self) -> str:
        """Return the numbers of images and classes, how they were split, and the ignored files in one line."""
        counts = [f"{name} {len(split):,}" for name, split in self.splits.items()]
        counts[0] += " images"
        classes = f"{len(self.classes):,} class{'es' if len(self.classes) > 1 else ''}"
        parts = [", ".join([*counts, classes]), self.how, self.ignored and f"ignored: {self.ignored}"]
        return "; ".join(part for part in parts if part)

    def checksum(self) -> str:
        """Return 16 hex digits that depend on classes, labels and images, but not on the order of the splits."""
        digest = hashlib.sha256()
        parts = [(name, self.splits[name]) for name in sorted(self.splits)]
        shapes = [(name, split.images.shape if isinstance(split, Split) else [len(split)]) for name, split in parts]
        digest.update(json.dumps([self.classes, shapes]).encode())
        for _, split in parts:
            if isinstance(split, Split):
                digest.update(np.ascontiguousarray(split.labels, "<i4"))
                digest.update(np.ascontiguousarray(split.images))
            else:
                digest.update(split.digest())
        return digest.hexdigest()[:16]


def tagged(source: Source, exif: str) -> Source:
    """Return a source whose `Examples` treat orientation tags as `exif` says; see `Examples`."""
    return replace(source, splits={name: replace(split, exif=exif) for name, split in source.splits.items()})


def check_trainable(source: Source) -> None:
    """Refuse data from which no classifier can be trained.

    Raises:
        InputError: there are fewer than two classes, or a class has no image in the split "train".
    """
    if len(source.classes) < 2:
        found = f"one class only, {source.classes[0]}" if source.classes else "no class"
        raise InputError(f"--data_dir: {found}; training needs images of at least two classes, a folder for each")
    counts = np.bincount(source.splits["train"].labels, minlength=len(source.classes))
    lacking = [name for name, count in zip(source.classes, counts, strict=True) if not count]
    if lacking:
        raise InputError(f"--data_dir: no training image of class {listed(lacking)}")


def write_table(source: Source, path: str | os.PathLike) -> bool:
    """Write the label and the split of each image file as CSV with the columns TABLE, sorted by file.

    Given as `labels` to `sources.index`, with the same data, the table leads to the same splits and classes. It is
    UTF-8, in which bytes of names that are no UTF-8 stay as they are.

    Args:
        source: a data set whose examples are whole images.
        path: the file; it is replaced atomically.

    Returns:
        Whether the examples have names; if not, no file is written.
    """
    rows = [
        (name, source.classes[label], split_name)
        for split_name, split in source.splits.items()
        if split.names is not None
        for name, label in zip(split.names, split.labels, strict=True)
    ]
    if rows:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([TABLE, *sorted(rows)])
        content = text.getvalue().encode("utf-8", "surrogateescape")
        files.replace_atomically(path, lambda file: file.write(content))
    return bool(rows)


# Classes and splits.
Loaded = tuple[list[str], dict[str, Split]]
Indexed = tuple[list[str], dict[str, Examples]]


def existing(data_dir: str, dataset: str) -> Path:
    """Return the path of the data.

    Args:
        data_dir: the path as given by the user.
        dataset: name of the data set in errors.

    Raises:
        InputError: `data_dir` is empty or does not exist.
    """
    if not data_dir:
        raise InputError(f"--data_dir: {dataset} needs the folder or archive that holds the images")
    path = Path(data_dir)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return path


def check_total(count: int, image_size: int, what: str) -> None:
    """Refuse decoded images that do not fit into memory.

    Args:
        count: number of images.
        image_size: side of the images in pixels.
        what: name of the images in errors.

    Raises:
        InputError: the images together are larger than MAX_BYTES.
    """
    total = count * image_size * image_size * 3
    if total > MAX_BYTES:
        raise InputError(
            f"{what}: {count} or more images of size {image_size} take over {MAX_BYTES / 2**30:.0f} GiB of memory; use "
            "a smaller --image_size or fewer images"
        )


def read_archive(root: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """Yield the wanted files of an archive; see `archives.read_members`.

    Raises:
        InputError: the files that were read are larger than MAX_BYTES, too large for memory.
    """
    size = 0
    for name, data in archives.read_members(root, wanted):
        size += len(data)
        if size > MAX_BYTES:
            raise InputError(
                f"{root} holds over {MAX_BYTES / 2**30:.0f} GiB of images, too many for memory: unpack it; python -m "
                "resnet_tf.prepare can convert the folder to a few large files"
            )
        yield name, data


def with_test(splits: dict[str, T]) -> dict[str, T] | None:
    """Return the splits "train", "test" and optionally "validation"; if there is no test, validation becomes test.

    Args:
        splits: {"train", "validation" or "test": split}.

    Returns:
        The splits in that order; None if there is no train, or neither validation nor test.
    """
    if "test" not in splits and "validation" in splits:
        splits = {**splits, "test": splits["validation"]}
        del splits["validation"]
    if not {"train", "test"} <= splits.keys():
        return None
    return {name: splits[name] for name in ("train", "test", "validation") if name in splits}


def ordered(splits: dict[str, T], val_is: str = "validation") -> dict[str, T] | None:
    """Return the splits in the order of SPLITS; None if there is no train.

    Args:
        splits: {"train", "validation" or "test": split}.
        val_is: "test" makes validation the test split if there is no other one, as earlier releases did.
    """
    if val_is == "test" and "test" not in splits and "validation" in splits:
        return with_test(splits)
    return {name: splits[name] for name in SPLITS if name in splits} if "train" in splits else None


def arranged(
    wanted: Sequence[str],
    names: Sequence[str],
    splits: dict[str, Examples],
    rename: bool = False,
    ignored: Ignored | None = None,
) -> Indexed:
    """Change labels to the order of classes that the user wants, and leave out the examples of other classes.

    Args:
        wanted: the user's names in order; empty to change nothing.
        names: the names in the source, in the order of its labels.
        splits: splits with labels in the order of `names`.
        rename: whether `wanted` may be new names for the classes, the same number and all different from `names`.
        ignored: counts the examples that are left out.

    Returns:
        The names in order, and splits with labels in this order.

    Raises:
        InputError: `wanted` has duplicates or names that are not in `names`, or a split has none of its classes.
    """
    if not wanted:
        return list(names), splits
    wanted = list(wanted)
    twice = sorted({name for name in wanted if wanted.count(name) > 1}) if len(set(wanted)) < len(wanted) else []
    if twice:
        raise InputError(f"--classes: more than once: {listed(twice)}")
    if rename and len(wanted) == len(names) and not set(wanted) & set(names):
        return wanted, splits
    check_known(wanted, names)
    position = {name: index for index, name in enumerate(wanted)}
    labels = np.array([position.get(name, -1) for name in names], np.int32)
    arranged_splits = {}
    for split_name, split in splits.items():
        new = labels[split.labels]
        if (new >= 0).all():
            arranged_splits[split_name] = replace(split, labels=new)
            continue
        if not (new >= 0).any():
            raise InputError(f"--classes: {split_name} has no image of {listed(wanted)}")
        if ignored is not None:
            ignored.add(others(len(names) - len(wanted)), int((new < 0).sum()))
        arranged_splits[split_name] = replace(split.take(new >= 0), labels=new[new >= 0])
    return wanted, arranged_splits


def others(count: int) -> str:
    """Return the words for images of `count` classes that are left out, as a kind of `Ignored`."""
    return f"images of {count} other class{'es' if count > 1 else ''}"


def check_known(wanted: Sequence[str], names: Collection[str], flag: str = "--classes") -> None:
    """Refuse names of classes that the data do not have; the InputError gives the nearest name."""
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        near = difflib.get_close_matches(unknown[0], names, 1)
        hint = f" (did you mean {near[0]}?)" if near else f"; they have {listed(sorted(names))}"
        raise InputError(f"{flag}: not in the data: {listed(unknown)}{hint}")


def merged_names(found: dict[str, str], where: str) -> dict[str, str]:
    """Return {name as it is written: name of the class}, after a check that no two classes have almost one name.

    Two forms of Unicode for the same text (NFC and NFD, of which macOS makes the second) are one class.

    Args:
        found: {name as it is written: where it was found first, such as "train/Cat"}.
        where: name of the data in the error.

    Raises:
        InputError: two names differ only by case, accents or surrounding blanks. Names of a single letter may: "a" and
            "A" are different classes of handwriting.
    """
    forms: dict[str, list[str]] = {}
    for name in found:
        forms.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    alike: dict[str, str] = {}
    for name in sorted(forms):
        key = _bare(name)
        if key in alike and len(key) > 1:
            first, second = (found[forms[one][0]] for one in (alike[key], name))
            raise InputError(
                f"{where}: the classes {first!r} and {second!r} differ only by case, accents or blanks; give one class "
                "one name"
            )
        alike[key] = name
    return {name: written[0] if len(written) == 1 else same for same, written in forms.items() for name in written}


def _bare(name: str) -> str:
    """Return a name without case, accents and surrounding blanks."""
    parts = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", name).casefold().strip())
    # Marks of other scripts than Latin, Greek and Cyrillic are kept, since they are letters rather than accents.
    return "".join(part for part in parts if not "\u0300" <= part <= "\u036f")


def listed(names: Collection[str], most: int = 8) -> str:
    """Return the names separated by commas; only the first `most` of them if there are more."""
    rest = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {rest} more" if rest > 0 else "")


def resized(splits: dict[str, Split], image_size: int, what: str) -> dict[str, Split]:
    """Resize images that all have the same size by `images.resize_center`.

    Args:
        splits: the images as they are stored.
        image_size: side of the result in pixels.
        what: name of the data in errors.

    Raises:
        InputError: the result would be larger than MAX_BYTES.
    """
    check_total(sum(map(len, splits.values())), image_size, what)

    def resize(array: np.ndarray) -> np.ndarray:
        if array.shape[1:3] == (image_size, image_size):
            return array
        result = np.empty((len(array), image_size, image_size, 3), np.uint8)
        for start in range(0, len(array), 256):
            part = slice(start, start + 256)
            result[part] = images.resize_center(array[part], image_size)
        return result

    return {name: Split(resize(split.images), split.labels, split.names) for name, split in splits.items()}


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
