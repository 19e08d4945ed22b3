"""Find or load data sets of labelled images and split them."""

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

        source = index("folder", "flowers", validation_examples=500)
        print(source)  # train 2,500 images, test 1,000, validation 500, 5 classes

    Args:
        dataset: one of DATASETS except SMALL_DATASETS; "synthetic" is possible and has 768 JPEGs of 96 x 128 pixels.
        data_dir: path of the data:

            - "folder": a folder or tar archive of [anything/]SPLIT/CLASS/[anything/]IMAGE, with the splits train and
              test, or train and val, or all three, in any case; hidden files are ignored;
            - "records": a folder that `prepare` wrote, or a folder of TFRecord shards; see `records.index`;
            - "tfds": a TFDS data folder, or the folder of one prepared version; see `tfds.index`;
            - "voc": a folder or tar archive of PASCAL VOC devkits, whose boxes are the examples; see `voc.index`.
        classes: class names in the order of their labels; empty for the default order of the source.
        validation_examples: see `load`.
        tfds_name: name of the set in a TFDS data folder, such as "imagenet2012" or "imagenette/320px-v2".
        validation_sampling: see `load`.
        exif: "apply" turns images upright as their orientation tags say, "ignore" uses them as they are stored.

    Returns:
        The data set, whose splits are non-empty `Examples`.

    Raises:
        InputError: an argument is out of range; the data are missing, damaged or inconsistent; or the images of an
            archive are larger than `splits.MAX_BYTES`.
    """
    if dataset in _LOADERS and dataset != "synthetic":
        raise InputError(
            f"--dataset: {dataset} is held in memory and needs --view=pad_crop; the other views are for "
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
    """Load a data set into memory, with all images resized to `image_size` x `image_size`.

        source = load("cifar10", "data/cifar-10-python.tar.gz", validation_examples=5000)
        pixels = source.splits["train"].images  # uint8 [45000, 32, 32, 3]

    Args:
        dataset: one of DATASETS.
        data_dir: path of the data. For "cifar10" and "cifar100" the official archive (Python or binary version), the
            unpacked folder, a folder that holds either, or a TFDS data folder. "digits" and "synthetic" need no path;
            for the others see `index`.
        image_size: images of another size are resized by `images.resize_center`; boxes are cropped before.
        validation_examples: how many training examples to hold out as the split "validation". They are the same ones
            every time, and the other examples stay in order.
        classes: see `index`; must be empty for SMALL_DATASETS.
        tfds_name: see `index`.
        validation_sampling: "stratified" holds out the same fraction of each class, to within one example, but never
            its only example; "random" does not consider classes.
        exif: see `index`.

    Returns:
        The data set, whose splits are non-empty `Split`s.

    Raises:
        InputError: an argument is out of range, or the data are missing, damaged, inconsistent, of another format or
            larger than `splits.MAX_BYTES`.
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
    """Call a loader; if its error names a file, prepend the flag --data_dir."""
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
    # The seed is constant, since runs with different seeds must have the same validation split to be comparable.
    order = np.random.default_rng(0).permutation(len(train))
    if sampling == "stratified":
        _, labels, sizes = np.unique(train.labels, return_inverse=True, return_counts=True)
        quotas = _quotas(sizes, count)
        by_class = order[np.argsort(labels[order], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)  # index within the class
        indices = by_class[rank < np.repeat(quotas, sizes)]
    else:
        indices = order[:count]
    is_held_out = np.zeros(len(train), bool)
    is_held_out[indices] = True
    return {**splits, "train": train.take(~is_held_out), "validation": train.take(is_held_out)}


def _quotas(sizes: np.ndarray, count: int) -> np.ndarray:
    """Return how many examples of each class to hold out: int [classes] with sum `count`.

    Each number is within one of the class's share. It may be larger if small classes, which keep at least one example,
    cannot give their share.

    Args:
        sizes: int [classes], number of examples of each class, at least 1.
        count: number of examples to hold out.
    """
    largest = int((sizes - 1).sum())
    if count > largest:
        raise InputError(
            f"--validation_examples: {count} would leave a class without a training example; with {len(sizes)} classes "
            f"of {sizes.sum()} examples in total, the largest possible number is {largest}"
        )
    shares = sizes * (count / sizes.sum())
    quotas = np.minimum(sizes * count // sizes.sum(), sizes - 1)
    while quotas.sum() < count:
        quotas[np.where(quotas < sizes - 1, shares - quotas, -np.inf).argmax()] += 1
    return quotas


# --- Encoded data sets, decoded into memory --------------------------------------------------------------------------


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
    """Decode images that have the same size, without resizing: uint8 [n, height, width, 3].

    Raises:
        InputError: an image is damaged or differs in size from the first one; or the decoded images are larger than
            `splits.MAX_BYTES`.
    """
    flag, first = "--hold_images", examples.name(0)
    if examples.boxes is not None:
        raise InputError(f"{flag}: the examples are boxes of images, which have different sizes")
    shape = images.decode(examples.read(0), first).shape
    if len(examples) * math.prod(shape) > MAX_BYTES:
        sides = f"{shape[0]} x {shape[1]}"
        raise InputError(f"{flag}: {len(examples)} images of {sides} pixels take over {MAX_BYTES // 2**30} GiB decoded")

    def view(pixels: tf.Tensor) -> tf.Tensor:
        with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(tf.shape(pixels) == shape), ["other size"])]):
            return tf.ensure_shape(tf.identity(pixels), shape)

    def fault(example: int) -> str:
        actual = images.decode(examples.read(example), examples.name(example)).shape
        if actual == shape:
            return ""
        return f"{actual[0]} x {actual[1]} pixels, but {first} has {shape[0]} x {shape[1]}: {flag} needs equal sizes"

    return _decode_all(examples, view, shape, fault)


def _decode_all(examples: Examples, view: Callable, shape: tuple, fault: Callable = lambda example: "") -> np.ndarray:
    """Return view(pixels), of the given shape, of all examples; fault(example) says why `view` fails for an example."""
    read, boxed = examples.reader(), examples.boxes is not None
    boxes = examples.boxes if boxed else np.zeros((len(examples), 4), np.int32)

    def see(image: tf.Tensor, box: tf.Tensor, *sides: tf.Tensor) -> tf.Tensor:
        data = verify.check_format(read(image))
        pixels = images.decode_tensor(annotations.checked(data, *sides) if sides else data)
        return view(tf.image.crop_to_bounding_box(pixels, *tf.unstack(box)) if boxed else pixels)

    result = np.empty((len(examples), *shape), np.uint8)
    done = 0
    parts = (examples.image, boxes) if examples.sides is None else (examples.image, boxes, examples.sides)
    dataset = tf.data.Dataset.from_tensor_slices(parts).with_options(processors.dataset_options())
    try:
        for batch in dataset.map(see, num_parallel_calls=processors.count()).batch(256).prefetch(2):
            result[done : done + len(batch)] = batch.numpy()
            done += len(batch)
    except TENSORFLOW_ERRORS:
        for example in range(done, len(examples)):  # find the example that failed
            reason = verify.reason(examples, example) or fault(example)
            if reason:
                raise InputError(f"{examples.name(example)}: {reason}") from None
        raise
    return result


# --- Small data sets -------------------------------------------------------------------------------------------------


def _load_digits(data_dir: str, image_size: int) -> Loaded:
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise InputError("--dataset: digits needs scikit-learn: pip install 'resnet_tf[demo]'") from error
    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)  # scikit-learn's values are 0 to 16
    rgb = np.repeat(grey[..., None], 3, axis=-1)
    labels = digits.target.astype(np.int32)
    train, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    splits = {"train": Split(rgb[train], labels[train]), "test": Split(rgb[test], labels[test])}
    return [str(digit) for digit in range(10)], resized(splits, image_size, "--dataset: digits")


_SYNTHETIC_COUNTS = {"train": 512, "test": 256}
_SYNTHETIC_SIZE = (96, 128)  # size of the encoded images: not square, so that tests notice swapped sides


def _load_synthetic(data_dir: str, image_size: int) -> Loaded:
    check_total(sum(_SYNTHETIC_COUNTS.values()), image_size, "--dataset: synthetic")
    return _synthetic(image_size, image_size)


def _synthetic(height: int, width: int) -> Loaded:
    """Make images of noise, whose mean brightness tells the class."""
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
