"""Splits and data sets, and the limits, sizes and orders that all of them share."""

import hashlib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from resnet_tf.data import images
from resnet_tf.data.examples import Examples
from resnet_tf.errors import InputError

MAX_BYTES = 4 * 2**30  # of images that are all held in memory, decoded or encoded

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Split:
    """Images and their labels.

    Attributes:
        images: uint8 [n, H, W, 3].
        labels: int32 [n].
        names: of the files that the images were decoded from, within their folder or archive; None where there are
            none.

    Raises:
        ValueError: shapes or dtypes are others, or the lengths differ.
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

    def take(self, chosen) -> "Split":
        """Return the examples that an index array or a mask chooses."""
        names = None if self.names is None else [self.names[place] for place in np.arange(len(self))[chosen]]
        return Split(self.images[chosen], self.labels[chosen], names)


@dataclass(frozen=True, eq=False)
class Source:
    """A data set.

    Attributes:
        name: one of `sources.DATASETS`.
        classes: class names; a label is an index into them.
        splits: "train", "test" and, where there is one, "validation"; each a `Split`, decoded and in
            memory, or an `Examples`, encoded where it is.
        ignored: what lies beside the images and was not taken, in words; "" for nothing.
    """

    name: str
    classes: tuple[str, ...]
    splits: dict[str, Split | Examples]
    ignored: str = ""

    def __str__(self) -> str:
        """In one line how many images of how many classes there are, and what was ignored."""
        counts = [f"{name} {len(split):,}" for name, split in self.splits.items()]
        counts[0] += " images"
        classes = f"{len(self.classes):,} class{'es' if len(self.classes) > 1 else ''}"
        return ", ".join([*counts, classes]) + (f"; ignored: {self.ignored}" if self.ignored else "")

    def checksum(self) -> str:
        """Return 16 hex digits that depend on classes, labels and images, not on the splits' order."""
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
    """Return a source of `Examples` with what is done with the orientation tags of their images; see `Examples`."""
    return replace(source, splits={name: replace(split, exif=exif) for name, split in source.splits.items()})


# Classes and splits, as a loader returns them.
Loaded = tuple[list[str], dict[str, Split]]
Indexed = tuple[list[str], dict[str, Examples]]


def existing(data_dir: str, dataset: str) -> Path:
    """Return where the data are.

    Args:
        data_dir: as given by the user.
        dataset: what to call the data set in errors.

    Raises:
        InputError: `data_dir` is empty or names nothing that exists.
    """
    if not data_dir:
        raise InputError(f"--data_dir: {dataset} needs the folder or archive that holds the images")
    path = Path(data_dir)
    if not path.exists():
        raise InputError(f"{path} does not exist")
    return path


def check_total(count: int, image_size: int, what: str) -> None:
    """Refuse decoded images that would not fit.

    Args:
        count: how many images.
        image_size: side of each.
        what: what to call them in errors.

    Raises:
        InputError: together they are larger than MAX_BYTES.
    """
    total = count * image_size * image_size * 3
    if total > MAX_BYTES:
        raise InputError(
            f"{what}: {count} or more images of size {image_size} take over {MAX_BYTES / 2**30:.0f} GiB of"
            " memory; use a smaller --image_size or fewer images"
        )


def check_encoded(size: int, root: Path) -> None:
    """Refuse encoded images that would not fit.

    Args:
        size: of the images of an archive so far, in bytes.
        root: the archive.

    Raises:
        InputError: `size` is larger than MAX_BYTES.
    """
    if size > MAX_BYTES:
        raise InputError(
            f"{root} holds over {MAX_BYTES / 2**30:.0f} GiB of images, too many to hold in memory: unpack it; python -m"
            " resnet_tf.prepare makes a few large files of the folder"
        )


def with_test(splits: dict[str, T]) -> dict[str, T] | None:
    """Return train, test and, if there is one, validation; what is there for validation serves as a missing test.

    Args:
        splits: by name: "train", "validation", "test".

    Returns:
        The splits in that order; None where there is no train, or neither of the others.
    """
    if "test" not in splits and "validation" in splits:
        splits = {**splits, "test": splits["validation"]}
        del splits["validation"]
    if not {"train", "test"} <= splits.keys():
        return None
    return {name: splits[name] for name in ("train", "test", "validation") if name in splits}


def arranged(wanted: Sequence[str], found: Sequence[str], splits: dict[str, Examples], rename: bool = False) -> Indexed:
    """Bring labels into the order of the classes that the user wants.

    Args:
        wanted: the names in order; empty to leave all as it is.
        found: the names that the source has, in the order of its labels.
        splits: whose labels follow `found`.
        rename: whether other names, as many and none of them found, may take the place of `found`.

    Returns:
        The names in order, and splits whose labels follow them.

    Raises:
        InputError: a name wanted twice, or other names than those found.
    """
    if not wanted:
        return list(found), splits
    wanted = list(wanted)
    twice = sorted({name for name in wanted if wanted.count(name) > 1}) if len(set(wanted)) < len(wanted) else []
    if twice:
        raise InputError(f"--classes: more than once: {listed(twice)}")
    if rename and len(wanted) == len(found) and not set(wanted) & set(found):
        return wanted, splits
    position = {name: index for index, name in enumerate(wanted)}
    faults = [
        f"{what}: {listed(sorted(names))}"
        for what, names in (("lacks", set(found) - set(wanted)), ("not in the data", set(wanted) - set(found)))
        if names
    ]
    if faults:
        raise InputError(f"--classes: {'; '.join(faults)}")
    labels = np.array([position[name] for name in found], np.int32)
    return wanted, {name: replace(split, labels=labels[split.labels]) for name, split in splits.items()}


def listed(names: Collection[str], most: int = 8) -> str:
    """Return the names with commas between, only the first `most` where there are more."""
    rest = len(names) - most
    return ", ".join(list(names)[:most]) + (f" and {rest} more" if rest > 0 else "")


def resized(splits: dict[str, Split], image_size: int, what: str) -> dict[str, Split]:
    """Bring images that are all of one size to `image_size`.

    Args:
        splits: the images as they were stored.
        image_size: the side wanted; images of that size pass unchanged.
        what: what to call the data in errors.

    Returns:
        The same splits with images through `images.resize_center`.

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
