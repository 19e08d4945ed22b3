"""Data sets that are folders of images, packed or not."""

import os
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf.data import archives, images
from resnet_tf.data.splits import MAX_BYTES, Loaded, Split, check_total, existing
from resnet_tf.errors import InputError

_IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
_SPLIT_FOLDERS = {
    "train": "train",
    "test": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}


def load(data_dir: str, image_size: int) -> Loaded:
    """Loads a folder or tar archive of [anything/]SPLIT/CLASS/IMAGE.

    Args:
        data_dir: where it is; see `sources.load`.
        image_size: side of the images, which go through `images.resize_center`.

    Returns:
        The sorted classes, and "train", "test" and, where there is one, "validation".

    Raises:
        InputError: the data are missing, damaged, in other folders than these or too large.
    """
    root = existing(data_dir, "folder")
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
            check_total(count, image_size, f"{root}")
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
    options = tf.data.Options()
    # TensorFlow 2.21 may wait for the tuning thread when an iterator ends, for as long as the iterator has lived.
    options.autotune.enabled = False
    encoded = tf.data.Dataset.from_tensor_slices([data for _, data in files]).with_options(options)
    try:
        for batch in encoded.map(view, num_parallel_calls=os.cpu_count()).batch(256).prefetch(2):
            result[done : done + len(batch)] = batch.numpy()
            done += len(batch)
    except tf.errors.OpError:
        for name, data in files[done:]:  # which one was it?
            images.decode(data, f"{root}: {name}")
        raise
    return result
