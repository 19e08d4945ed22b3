"""Labelled images in memory: where they come from and how they are split."""

from collections.abc import Callable

import numpy as np

from resnet_tf.data import cifar, folder
from resnet_tf.data.splits import Loaded, Source, Split, check_total, resized
from resnet_tf.errors import InputError


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
            another format or larger than `splits.MAX_BYTES`.
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


def _load_digits(data_dir: str, image_size: int) -> Loaded:
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
    return [str(digit) for digit in range(10)], resized(splits, image_size, "--dataset: digits")


def _load_synthetic(data_dir: str, image_size: int) -> Loaded:
    """Noise whose mean brightness tells the class."""
    counts = {"train": 512, "test": 256}
    check_total(sum(counts.values()), image_size, "--dataset: synthetic")
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in counts.items():
        labels = rng.integers(0, 10, count, dtype=np.int32)
        noise = rng.integers(0, 128, (count, image_size, image_size, 3), dtype=np.uint8)
        splits[name] = Split(noise + (labels * 14).astype(np.uint8)[:, None, None, None], labels)
    return [f"class{index}" for index in range(10)], splits


_LOADERS: dict[str, Callable[[str, int], Loaded]] = {
    "digits": _load_digits,
    "cifar10": cifar.loader("cifar10"),
    "cifar100": cifar.loader("cifar100"),
    "folder": folder.load,
    "synthetic": _load_synthetic,
}
DATASETS = tuple(_LOADERS)
