"""Hold out training examples for validation and test: a number or a share of them, of each class alike."""

import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Sequence

import numpy as np

from resnet_tf.data import near_duplicates
from resnet_tf.data.examples import Examples, Files, Memory
from resnet_tf.data.splits import Split, listed, ordered
from resnet_tf.errors import InputError

_SIDES = ("validation", "test")  # in the order in which they get examples
_TRAIN = -1


def by_count(splits: dict, count: int, sampling: str) -> dict:
    """Hold out `count` training examples as the split "validation"; see `sources.load`."""
    if not count:
        return splits
    train = splits["train"]
    if "validation" in splits:
        raise InputError("--validation_examples: the data already have a validation split; leave it at 0")
    if not 0 < count < len(train):
        raise InputError(f"--validation_examples: {count} is not in the range 0 to {len(train) - 1}")
    # The seed is constant, since runs with different seeds must have the same validation split to be comparable.
    order = np.random.default_rng(0).permutation(len(train))
    if sampling == "stratified":
        _, labels, sizes = np.unique(train.labels, return_inverse=True, return_counts=True)
        largest = int((sizes - 1).sum())
        if count > largest:
            raise InputError(
                f"--validation_examples: {count} would leave a class without a training example; with {len(sizes)} "
                f"classes of {sizes.sum()} examples in total, the largest possible number is {largest}"
            )
        quotas = _quotas(sizes, count, sizes - 1)
        by_class = order[np.argsort(labels[order], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # index within the class
        indices = by_class[rank < np.repeat(quotas, sizes)]
    else:
        indices = order[:count]
    is_held_out = np.zeros(len(train), bool)
    is_held_out[indices] = True
    return {**splits, "train": train.take(~is_held_out), "validation": train.take(is_held_out)}


def by_fold(splits: dict, fold: str) -> tuple[dict, list[str]]:
    """Hold out one of K parts of the training examples as the split "validation", for cross-validation.

    The parts do not overlap, are together all training examples, and have the same share of each class, to within one
    example. They are the same for every seed, and do not keep near-duplicates together.

    Args:
        splits: the splits that the data have, with "train" and without "validation".
        fold: I/K for part I, from 1, of K; "" for none.

    Returns:
        The splits, whose examples keep their order; and what was done, in sentences, none if nothing was.

    Raises:
        InputError: `fold` is no part of at least two, or the data have a validation split.
    """
    if not fold:
        return splits, []
    parts, train = re.fullmatch(r"(\d+)/(\d+)", fold), splits["train"]
    index, count = map(int, parts.groups()) if parts else (0, 0)
    if not 1 <= index <= count or not 2 <= count <= len(train):
        raise InputError(f"--fold={fold}: say I/N for part I of N of the training images, such as 1/5")
    if "validation" in splits:
        raise InputError(
            f"--fold={fold}: the data already have a validation split; --val_is=test makes a folder val the test split"
        )
    order = np.random.default_rng(0).permutation(len(train))
    by_class = order[np.argsort(train.labels[order], kind="stable")]
    is_held_out = np.zeros(len(train), bool)
    is_held_out[by_class[index - 1 :: count]] = True
    held = {"train": train.take(~is_held_out), "validation": train.take(is_held_out)}
    return {**splits, **held}, [f"part {index} of {count} held out for validation"]


def _quotas(sizes: np.ndarray, count: int, most: np.ndarray) -> np.ndarray:
    """Return how many examples of each class to hold out: int [classes] with sum `count`.

    Each number is within one of the class's share. It may be larger if small classes cannot give their share.

    Args:
        sizes: int [classes], number of examples of each class, at least 1.
        count: number of examples to hold out, at most the sum of `most`.
        most: int [classes], the largest number that each class can give.
    """
    shares = sizes * (count / sizes.sum())
    quotas = np.minimum(sizes * count // sizes.sum(), most)
    while quotas.sum() < count:
        quotas[np.where(quotas < most, shares - quotas, -np.inf).argmax()] += 1
    return quotas


# --- Shares ----------------------------------------------------------------------------------------------------------


def check_shares(validation_share: float, test_share: float, seed: int) -> None:
    """Refuse shares that are negative or leave nothing to train on, and negative seeds; raises InputError."""
    for flag, share in (("--validation_share", validation_share), ("--test_share", test_share)):
        if not 0 <= share < 1:
            raise InputError(f"{flag}: {share} is not in the range 0 to 1, without 1")
    if not validation_share + test_share < 1:
        raise InputError(
            f"--validation_share and --test_share: {validation_share:g} + {test_share:g} leave nothing for training"
        )
    if seed < 0:
        raise InputError(f"--split_seed: {seed} is negative")


def by_share(
    splits: dict[str, Split | Examples],
    validation_share: float,
    test_share: float,
    seed: int,
    classes: Sequence[str],
    of_each: str = "class",
) -> tuple[dict[str, Split | Examples], list[str]]:
    """Hold out shares of the training examples as the splits that the data lack.

    Each class gives the same share, to within one example, and at least one example to each split if it has enough:
    two for one split, three for two. Examples of the same image and near-duplicates stay in the same split; see
    `near_duplicates.groups`. If that would leave a split without a class that has enough examples, near-duplicates of
    this class are not kept together.

    The choice depends on the seed and on the names of the images below their common folder, so that it is the same on
    every machine, and an image that is added later moves few others.

    Args:
        splits: the splits that the data have, with "train".
        validation_share: part of the training examples for "validation"; 0 for none.
        test_share: part for "test".
        seed: number that chooses the examples.
        classes: names of the classes.
        of_each: "class", or "" if labels are not used, so that the examples are chosen alike.

    Returns:
        The splits, whose examples keep their order; and what was done, in sentences, none if nothing was.

    Raises:
        InputError: see `check_shares`.
    """
    check_shares(validation_share, test_share, seed)
    shares = dict(zip(_SIDES, (validation_share, test_share), strict=True))
    shares = {name: share for name, share in shares.items() if share and name not in splits}
    if not shares:
        return splits, []
    train = splits["train"]
    names = sorted({classes[label] for label in np.unique(train.labels)}) if of_each else [""]
    # Labels by name, so that the choice does not depend on the order of the classes.
    position = {name: number for number, name in enumerate(names)}
    by_name = np.array([position.get(name, 0) for name in classes], np.int64)
    labels = by_name[train.labels] if of_each else np.zeros(len(train), np.int64)
    sizes = np.bincount(labels, minlength=len(names))
    quotas = _quotas_of_shares(sizes, list(shares.values()))
    groups = near_duplicates.groups(train)
    side, dropped = _assigned(labels, groups, _order(train, seed), quotas)
    held = {name: train.take(side == number) for number, name in enumerate(shares)}
    result = ordered({**splits, **{name: _compact(split) for name, split in held.items()}})
    result["train"] = _compact(train.take(side == _TRAIN))
    result = {name: split for name, split in result.items() if len(split)}
    whole = f"of each {of_each}" if of_each else "of the images"
    parts = [f"{100 * share:g}% for {name}" for name, share in shares.items()]
    parts[0] = parts[0].replace("%", f"% {whole}")
    said = [f"split by seed {seed}: {' and '.join(parts)}"]
    images = train.image if isinstance(train, Examples) else np.arange(len(train))
    first = np.unique(images, return_index=True)[1]  # an example of each image
    _, counts = np.unique(groups[first[~np.isin(labels[first], dropped)]], return_counts=True)
    if (counts > 1).any():
        said.append(f"{counts[counts > 1].sum():,} near-duplicates kept together")
    if dropped:
        said.append(f"near-duplicates{_of_classes(names, dropped)} not kept together, since there is little else")
    for number, name in enumerate(shares):
        lacking = np.flatnonzero(quotas[number] == 0)
        if len(lacking):
            said.append(f"too few images for {name}{_of_classes(names, lacking)}, which stay in training")
    return result, said


def _of_classes(names: list[str], labels: Sequence[int]) -> str:
    """Return " of class a, b"; "" if labels are not used."""
    return f" of class {listed([names[label] for label in labels])}" if names != [""] else ""


def _quotas_of_shares(sizes: np.ndarray, shares: list[float]) -> np.ndarray:
    """Return how many examples of each class each split gets: int [splits, classes]; see `by_share`."""
    quotas, left = [], sizes - 1  # one example of each class is for training
    for number, share in enumerate(shares):
        later = len(shares) - number - 1
        # The splits that follow need an example as well, if the class has enough.
        most = np.where(left > later, left - later, np.minimum(left, 1))
        quota = _quotas(sizes, min(int(share * sizes.sum() + 0.5), int(most.sum())), most)
        quotas.append(np.maximum(quota, np.minimum(most, 1)))
        left = left - quotas[-1]
    return np.array(quotas)


def _order(split: Split | Examples, seed: int) -> np.ndarray:
    """Return the order in which examples are chosen: indices, sorted by a hash of seed and name."""
    names = split.names
    if names is None or not isinstance(getattr(split, "storage", split), Files | Memory | Split):
        names = [str(number) for number in range(len(split))]
    names = [unicodedata.normalize("NFC", name) for name in names]
    # The folder or archive may wrap the data in folders or not.
    common = os.path.commonprefix([name.rpartition("/")[0] + "/" for name in names]).rpartition("/")[0]
    start = len(common) + 1 if common else 0
    keys = [hashlib.sha256(f"{seed}/{name[start:]}".encode("utf-8", "surrogateescape")).digest() for name in names]
    return np.array(sorted(range(len(names)), key=keys.__getitem__), np.int64)


def _assigned(
    labels: np.ndarray, groups: np.ndarray, order: np.ndarray, quotas: np.ndarray
) -> tuple[np.ndarray, list[int]]:
    """Return the split of each example, int [n], _TRAIN or a row of `quotas`; and classes that had to be ungrouped."""
    dropped: list[int] = []
    while True:
        alone = np.isin(labels, dropped)
        unit = np.where(alone, len(labels) + groups.max() + np.arange(len(labels)), groups)
        side, counts = _filled(labels, unit, order, quotas)
        lacking = np.flatnonzero(((counts == 0) & (quotas > 0)).any(0))
        new = sorted(set(lacking.tolist()) - set(dropped))
        if not new:
            return side, dropped
        dropped = sorted(dropped + new)


def _filled(
    labels: np.ndarray, unit: np.ndarray, order: np.ndarray, quotas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Give whole units to the splits, in order; return the split of each example and counts [splits, classes]."""
    members: dict[int, list[int]] = {}
    for example in order.tolist():
        members.setdefault(int(unit[example]), []).append(example)
    side, counts = np.full(len(labels), _TRAIN), np.zeros_like(quotas)
    left = np.bincount(labels, minlength=quotas.shape[1])  # training examples of each class

    def give(examples: list[int], number: int) -> None:
        side[examples] = number
        np.add.at(counts[number], labels[examples], 1)
        np.subtract.at(left, labels[examples], 1)

    for examples in members.values():
        needed = np.bincount(labels[examples], minlength=1) if len(examples) > 1 else None
        for number in range(len(quotas)):
            if needed is None:
                label = labels[examples[0]]
                fits = counts[number, label] < quotas[number, label]
            else:
                fits = (counts[number, : len(needed)] + needed <= quotas[number, : len(needed)])[needed > 0].all()
            if fits:
                give(examples, number)
                break
    # A class whose units are all larger than its quota gives its smallest one, if others are left for training.
    for number, label in np.argwhere((counts == 0) & (quotas > 0)).tolist():
        own = [one for one in members.values() if side[one[0]] == _TRAIN and (labels[one] == label).any()]
        for examples in sorted(own, key=len):
            if (np.bincount(labels[examples], minlength=len(left)) < np.maximum(left, 1)).all():
                give(examples, number)
                break
    return side, counts


def _compact(split: Split | Examples) -> Split | Examples:
    """Return a split without the images that it does not use, as if it had been in a folder of its own."""
    if not isinstance(split, Examples) or split.masks is not None or not isinstance(split.storage, Files | Memory):
        return split
    used, image = np.unique(split.image, return_inverse=True)
    storage = split.storage
    names = [storage.names[number] for number in used]
    if isinstance(storage, Files):
        storage = Files(storage.root, names, storage.sizes[used])
    else:
        storage = Memory(storage.origin, names, [storage.data[number] for number in used])
    return dataclasses.replace(split, storage=storage, image=image.astype(np.int64))
