"""Splits and data sets in memory, and the limits and sizes that all of them share."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resnet_tf.data import images
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
        name: one of `sources.DATASETS`.
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


Loaded = tuple[list[str], dict[str, Split]]  # classes and splits, as a loader returns them


def existing(data_dir: str, dataset: str) -> Path:
    """Returns where the data are.

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
    """Refuses decoded images that would not fit.

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


def resized(splits: dict[str, Split], image_size: int, what: str) -> dict[str, Split]:
    """Brings images that are all of one size to `image_size`.

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

    return {name: Split(resize(split.images), split.labels) for name, split in splits.items()}


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
