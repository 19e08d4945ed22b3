"""Labelled images: where they come from and how they are split."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf.data import boxes as annotations
from resnet_tf.data import cifar, folder, images, processors, records, tfds, verify, voc
from resnet_tf.data.examples import TENSORFLOW_ERRORS, Examples, Memory
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.splits import MAX_BYTES, Indexed, Loaded, Source, Split, check_total, resized
from resnet_tf.errors import InputError


def index(
    dataset: str,
    data_dir: str = "",
    classes: tuple[str, ...] = (),
    validation_examples: int = 0,
    tfds_name: str = "",
    validation_sampling: str = "stratified",
    exif: str = "apply",
) -> Source:
    """Find the images of a data set, which stay encoded where they are and are decoded when they are used.

    Args:
        dataset: one of DATASETS, but none of SMALL_DATASETS other than "synthetic", which becomes 768 JPEGs of 96 x
            128 pixels in memory.
        data_dir: where the data are:

            - "folder": a folder or tar archive of [anything/]SPLIT/CLASS/[anything/]IMAGE, with the splits train and
              test, or train and val, or all three, in any case; hidden files are ignored;
            - "records": a folder that `prepare` wrote, or one of TFRecord shards; see `records.index`;
            - "tfds": a TFDS data folder, or the folder of one prepared version; see `tfds.index`;
            - "voc": a folder or tar archive of PASCAL VOC devkits, whose boxes are the examples; see `voc.index`.
        classes: class names in the order that their labels shall have; empty for the source's own order.
        validation_examples: see `load`.
        tfds_name: name of the set in a TFDS data folder, as in "imagenet2012" or "imagenette/320px-v2".
        validation_sampling: see `load`.
        exif: "apply" turns images upright as their orientation tags say, "ignore" takes them as they are stored.

    Returns:
        The data set, its splits all non-empty `Examples`.

    Raises:
        InputError: an argument is out of range, or the data are missing, damaged or inconsistent, or an archive's are
            larger than `splits.MAX_BYTES`.
    """
    if dataset in _LOADERS and dataset != "synthetic":
        raise InputError(
            f"--dataset: {dataset} is small and held in memory: --view=pad_crop is for it; the other views are for "
            f"{', '.join(_INDEXERS)}"
        )
    if dataset not in _INDEXERS:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(DATASETS)}")
    if classes and dataset == "synthetic":
        raise InputError(f"--classes is not used by --dataset={dataset}")
    ignored = Ignored()
    names, splits = _named(_index, dataset, data_dir, tuple(classes), tfds_name, exif, ignored)
    return Source(dataset, tuple(names), _hold_out(splits, validation_examples, validation_sampling), str(ignored))


def _index(
    dataset: str, data_dir: str, classes: tuple[str, ...], tfds_name: str, exif: str, ignored: Ignored
) -> Indexed:
    names, splits = _INDEXERS[dataset](data_dir, classes, tfds_name, exif, ignored)
    return names, {name: dataclasses.replace(split, exif=exif) for name, split in splits.items()}


def load(
    dataset: str,
    data_dir: str = "",
    image_size: int = 32,
    validation_examples: int = 0,
    classes: tuple[str, ...] = (),
    tfds_name: str = "",
    validation_sampling: str = "stratified",
    exif: str = "apply",
) -> Source:
    """Load a data set into memory, every image as `image_size` x `image_size`.

    Args:
        dataset: one of DATASETS.
        data_dir: where it is. For "cifar10" and "cifar100" the official archive (Python or binary
            version), the folder that was unpacked from it, a folder that holds either, or a TFDS data
            folder. "digits" and "synthetic" need none; for the others see `index`.
        image_size: images of another size go through `images.resize_center`, after their box is cut
            out where they are boxes.
        validation_examples: how many examples to hold out of the training split as "validation": the
            same ones every time, the others staying in order.
        classes: see `index`; none for SMALL_DATASETS.
        tfds_name: likewise.
        validation_sampling: how these are chosen: "stratified", of each class its share of `validation_examples`, to
            within one, but never its only example; or "random", regardless of class.
        exif: likewise; images of SMALL_DATASETS have no tags.

    Returns:
        The data set, its splits all non-empty and `Split`.

    Raises:
        InputError: an argument is out of range, or the data are missing, damaged, inconsistent, of
            another format or larger than `splits.MAX_BYTES`.
    """
    if dataset not in DATASETS:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(DATASETS)}")
    if image_size < 1:
        raise InputError(f"--image_size: {image_size} is not positive")
    ignored = Ignored()
    if dataset in _LOADERS:
        if classes:
            raise InputError(f"--classes is not used by --dataset={dataset}")
        names, splits = _named(_LOADERS[dataset], data_dir, image_size)
    else:
        names, splits = _named(_decoded, dataset, data_dir, tuple(classes), tfds_name, exif, ignored, image_size)
    return Source(dataset, tuple(names), _hold_out(splits, validation_examples, validation_sampling), str(ignored))


def _named(function: Callable, *arguments):
    """Call a loader; where its error names a file, says which flag led there."""
    try:
        return function(*arguments)
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise InputError(f"--data_dir: {error}") from error


def _hold_out(splits: dict, count: int, sampling: str) -> dict:
    if not count:
        return splits
    train = splits["train"]
    if "validation" in splits:
        raise InputError("--validation_examples: the data already have a validation split; leave it at 0")
    if not 0 < count < len(train):
        raise InputError(f"--validation_examples: {count} is not in the range 0 to {len(train) - 1}")
    # Not the run's seed: runs with different seeds must share the split to be compared.
    order = np.random.default_rng(0).permutation(len(train))
    if sampling == "stratified":
        _, labels, sizes = np.unique(train.labels, return_inverse=True, return_counts=True)
        quotas = _quotas(sizes, count)
        by_class = order[np.argsort(labels[order], kind="stable")]
        place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # of each within its class
        chosen = by_class[place < np.repeat(quotas, sizes)]
    else:
        chosen = order[:count]
    held = np.zeros(len(train), bool)
    held[chosen] = True
    return {**splits, "train": train.take(~held), "validation": train.take(held)}


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """How many of the examples of each class are held out.

    Args:
        sizes: int [classes], examples of each class, none of them 0.
        count: how many are held out in all.

    Returns:
        int [classes], whose sum is `count`: each within one of its share, unless classes of few examples, of which one
        always stays, make the others give more.
    """
    most = int((sizes - 1).sum())
    if count > most:
        raise InputError(
            f"--validation_examples: {count} would leave a class without a training example; {len(sizes)} classes of "
            f"{sizes.sum()} examples in all can give {most}"
        )
    shares = sizes * (count / sizes.sum())
    quotas = np.minimum(sizes * count // sizes.sum(), sizes - 1)
    while quotas.sum() < count:
        quotas[np.where(quotas < sizes - 1, shares - quotas, -np.inf).argmax()] += 1
    return quotas


# --- Encoded sets, decoded into memory -------------------------------------------------------------


def _decoded(
    dataset: str,
    data_dir: str,
    classes: tuple[str, ...],
    tfds_name: str,
    exif: str,
    ignored: Ignored,
    image_size: int,
) -> Loaded:
    names, splits = _index(dataset, data_dir, classes, tfds_name, exif, ignored)
    check_total(sum(map(len, splits.values())), image_size, f"{Path(data_dir)}")

    def view(pixels: tf.Tensor) -> tf.Tensor:
        return images.resize_center(pixels, image_size)

    shape = (image_size, image_size, 3)
    return names, {
        name: Split(_decode_all(split, view, shape), split.labels, split.names) for name, split in splits.items()
    }


def decoded(examples: Examples) -> np.ndarray:
    """Decode images that all have one size, as they are: uint8 [n, height, width, 3].

    Raises:
        InputError: one is damaged, or has another size than the first; or all are larger than `splits.MAX_BYTES`.
    """
    flag, first = "--hold_images", examples.name(0)
    if examples.boxes is not None:
        raise InputError(f"{flag}: these examples are boxes of images, of many sizes")
    shape = images.decode(examples.read(0), first).shape
    if len(examples) * math.prod(shape) > MAX_BYTES:
        sides = f"{shape[0]} x {shape[1]}"
        raise InputError(f"{flag}: {len(examples)} images of {sides} pixels take over {MAX_BYTES // 2**30} GiB decoded")

    def view(pixels: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.shape(pixels) == shape), ["other size"])]):
            return tf.ensure_shape(tf.identity(pixels), shape)

    def fault(example: int) -> str:
        found = images.decode(examples.read(example), examples.name(example)).shape
        if found == shape:
            return ""
        return f"{found[0]} x {found[1]} pixels, but {first} has {shape[0]} x {shape[1]}: {flag} is for one size"

    return _decode_all(examples, view, shape, fault)


def _decode_all(examples: Examples, view: Callable, shape: tuple, fault: Callable = lambda example: "") -> np.ndarray:
    """All examples through view(pixels), which has `shape`; fault(example) says why one whose image is good fails."""
    read, boxed = examples.reader(), examples.boxes is not None
    boxes = examples.boxes if boxed else np.zeros((len(examples), 4), np.int32)

    def see(image: tf.Tensor, box: tf.Tensor, *sides: tf.Tensor) -> tf.Tensor:
        data = verify.check_format(read(image))
        pixels = images.decode_tensor(annotations.checked(data, *sides) if sides else data)
        return view(tf.image.crop_to_bounding_box(pixels, *tf.unstack(box)) if boxed else pixels)

    result = np.empty((len(examples), *shape), np.uint8)
    done = 0
    options = tf.data.Options()
    # TensorFlow 2.21 may wait for the tuning thread when an iterator ends, for as long as the iterator has lived.
    options.autotune.enabled = False
    parts = (examples.image, boxes) if examples.sides is None else (examples.image, boxes, examples.sides)
    dataset = tf.data.Dataset.from_tensor_slices(parts).with_options(options)
    try:
        for batch in dataset.map(see, num_parallel_calls=processors.count()).batch(256).prefetch(2):
            result[done : done + len(batch)] = batch.numpy()
            done += len(batch)
    except TENSORFLOW_ERRORS:
        for example in range(done, len(examples)):  # which one was it?
            found = verify.reason(examples, example) or fault(example)
            if found:
                raise InputError(f"{examples.name(example)}: {found}") from None
        raise
    return result


# --- Small sets ------------------------------------------------------------------------------------


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


_SYNTHETIC_COUNTS = {"train": 512, "test": 256}
_SYNTHETIC_SIZE = (96, 128)  # where they are encoded: not square, so that geometry shows


def _load_synthetic(data_dir: str, image_size: int) -> Loaded:
    check_total(sum(_SYNTHETIC_COUNTS.values()), image_size, "--dataset: synthetic")
    return _synthetic(image_size, image_size)


def _synthetic(height: int, width: int) -> Loaded:
    """Noise whose mean brightness tells the class."""
    rng = np.random.default_rng(0)
    splits = {}
    for name, count in _SYNTHETIC_COUNTS.items():
        labels = rng.integers(0, 10, count, dtype=np.int32)
        noise = rng.integers(0, 128, (count, height, width, 3), dtype=np.uint8)
        splits[name] = Split(noise + (labels * 14).astype(np.uint8)[:, None, None, None], labels)
    return [f"class{index}" for index in range(10)], splits


def _index_synthetic(*_) -> Indexed:
    names, splits = _synthetic(*_SYNTHETIC_SIZE)
    encoded = {}
    for name, split in splits.items():
        data = [tf.io.encode_jpeg(image).numpy() for image in split.images]
        files = [f"{name}/{names[label]}/{number}.jpg" for number, label in enumerate(split.labels)]
        storage = Memory("synthetic", files, data)
        encoded[name] = Examples(storage, np.arange(len(data), dtype=np.int64), split.labels)
    return names, encoded


_LOADERS: dict[str, Callable[[str, int], Loaded]] = {
    "digits": _load_digits,
    "cifar10": cifar.loader("cifar10"),
    "cifar100": cifar.loader("cifar100"),
    "synthetic": _load_synthetic,
}
_INDEXERS: dict[str, Callable[[str, tuple[str, ...], str, str, Ignored], Indexed]] = {
    "folder": lambda data_dir, classes, _, __, ignored: folder.index(data_dir, classes, ignored),
    "records": lambda data_dir, classes, *_: records.index(data_dir, classes),
    "tfds": lambda data_dir, classes, name, exif, _: tfds.index(data_dir, classes, name, exif),
    "voc": lambda data_dir, classes, _, exif, __: voc.index(data_dir, classes, exif),
    "synthetic": _index_synthetic,
}
SMALL_DATASETS = tuple(_LOADERS)
DATASETS = (*_LOADERS, *(name for name in _INDEXERS if name not in _LOADERS))
