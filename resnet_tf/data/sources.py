"""Find or load data sets of labelled images and split them."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf.data import boxes as annotations
from resnet_tf.data import cifar, folder, holding_out, images, other_labels, processors, records, tfds, verify, voc
from resnet_tf.data.examples import TENSORFLOW_ERRORS, Examples, Memory
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.splits import (
    ANY_SPLIT_NAMES,
    MAX_BYTES,
    Indexed,
    Loaded,
    Source,
    Split,
    check_total,
    existing,
    listed,
    others,
    resized,
)
from resnet_tf.errors import InputError


def index(
    dataset: str,
    data_dir: str = "",
    classes: tuple[str, ...] = (),
    validation_examples: int = 0,
    tfds_name: str = "",
    validation_sampling: str = "stratified",
    exif: str = "apply",
    *,
    labels: str = "",
    validation_share: float = 0.0,
    test_share: float = 0.0,
    split_seed: int = 0,
    val_is: str = "validation",
    fold: str = "",
) -> Source:
    """Find the images of a data set, which stay encoded where they are and are decoded when they are used.

        source = index("folder", "flowers.zip", validation_share=0.2)
        print(source)  # train 2,400 images, validation 600, 5 classes; split by seed 0: 20% of each class ...

    Args:
        dataset: one of DATASETS except SMALL_DATASETS; "synthetic" is possible and has 768 JPEGs of 96 x 128 pixels.
        data_dir: path of the data:

            - "folder": a folder, tar or zip archive of [anything/]SPLIT/CLASS/[anything/]IMAGE, of CLASS/IMAGE, or of
              images with a CSV of labels; see `folder.find`;
            - "records": a folder that `prepare` wrote, or a folder of TFRecord shards; see `records.index`;
            - "tfds": a TFDS data folder, or the folder of one prepared version; see `tfds.index`;
            - "voc": a folder or archive of PASCAL VOC devkits, whose boxes are the examples; see `voc.index`.
        classes: class names in the order of their labels; empty for the default order of the source. Examples of other
            classes are left out, and counted in `ignored`.
        validation_examples: see `load`.
        tfds_name: name of the set in a TFDS data folder, such as "imagenet2012" or "imagenette/320px-v2".
        validation_sampling: see `load`.
        exif: "apply" turns images upright as their orientation tags say, "ignore" uses them as they are stored.
        labels: path of a CSV of files, labels and, optionally, splits, for "folder"; see `labels.read`. The table of
            `splits.write_table` is one. FILE:COLUMN replaces the labels of the training images alone; see
            `other_labels.applied`.
        validation_share: part of the training examples to hold out as "validation", if the data have no such split;
            see `holding_out.by_share`.
        test_share: the same for "test".
        split_seed: number that chooses the examples of the shares.
        val_is: "validation", or "test" to make a folder val the test split if there is no other one, as earlier
            releases did; for "folder" and "records".
        fold: I/K to hold out part I of K of the training examples; see `holding_out.by_fold`.

    Returns:
        The data set, whose splits are non-empty `Examples`: always "train", and "test" and "validation" if the data
        have them or they are held out.

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
    table, other = _check_labels(dataset, labels, classes)
    asked = _Asked(data_dir, tuple(classes), tfds_name, exif, table, val_is)
    names, splits = _named(_index, dataset, asked)
    splits = holding_out.by_count(splits, validation_examples, validation_sampling)
    splits, folded = holding_out.by_fold(splits, fold)
    shared, said = holding_out.by_share(splits, validation_share, test_share, split_seed, names)
    source = _source(dataset, names, shared, asked, folded + said, len(shared) > len(splits))
    return other_labels.applied(source, data_dir, *other) if other else source


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What a caller of `index` asks for, and what the indexer says of the data."""

    data_dir: str
    classes: tuple[str, ...] = ()
    tfds_name: str = ""
    exif: str = "apply"
    labels: str = ""
    val_is: str = "validation"
    ignored: Ignored = dataclasses.field(default_factory=Ignored)
    how: list[str] = dataclasses.field(default_factory=list)


def _index(dataset: str, asked: _Asked) -> Indexed:
    names, splits = _INDEXERS[dataset](asked)
    return names, {name: dataclasses.replace(split, exif=asked.exif) for name, split in splits.items()}


def _source(
    dataset: str, names: Sequence[str], splits: dict, asked: _Asked, said: list[str], was_split: bool
) -> Source:
    return Source(dataset, tuple(names), splits, str(asked.ignored), "; ".join([*asked.how, *said]), was_split)


def _check_labels(dataset: str, labels: str, classes: Sequence[str]) -> tuple:
    """Return a table of labels and other labels of the training images; see `other_labels.parted`."""
    if labels and dataset != "folder":
        raise InputError(f"--labels is for --dataset=folder, not for {dataset}")
    table, other = other_labels.parted(labels)
    if other and classes:
        raise InputError(f"--labels={labels}: other labels of the training images are not used with --classes")
    return table, other


def load(
    dataset: str,
    data_dir: str = "",
    image_size: int = 32,
    validation_examples: int = 0,
    classes: tuple[str, ...] = (),
    tfds_name: str = "",
    validation_sampling: str = "stratified",
    exif: str = "apply",
    *,
    labels: str = "",
    validation_share: float = 0.0,
    test_share: float = 0.0,
    split_seed: int = 0,
    val_is: str = "validation",
    fold: str = "",
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
        labels: see `index`.
        validation_share: see `index`; the examples are the same.
        test_share: see `index`.
        split_seed: see `index`.
        val_is: see `index`.
        fold: see `index`.

    Returns:
        The data set, whose splits are non-empty `Split`s; see `index`.

    Raises:
        InputError: an argument is out of range, or the data are missing, damaged, inconsistent, of another format or
            larger than `splits.MAX_BYTES`.
    """
    if dataset not in DATASETS:
        raise InputError(f"--dataset: {dataset!r} is not one of {', '.join(DATASETS)}")
    if image_size < 1:
        raise InputError(f"--image_size: {image_size} is not positive")
    table, other = _check_labels(dataset, labels, classes)
    asked = _Asked(data_dir, tuple(classes), tfds_name, exif, table, val_is)
    if dataset in _LOADERS:
        if classes:
            raise InputError(f"--classes is not used by --dataset={dataset}")
        names, splits = _named(_LOADERS[dataset], data_dir, image_size)
    else:
        names, splits = _named(_index, dataset, asked)
        _named(check_total, sum(map(len, splits.values())), image_size, f"{Path(data_dir)}")
    splits = holding_out.by_count(splits, validation_examples, validation_sampling)
    splits, folded = holding_out.by_fold(splits, fold)
    shared, said = holding_out.by_share(splits, validation_share, test_share, split_seed, names)
    was_split = len(shared) > len(splits)
    if dataset not in _LOADERS:
        shared = _named(_decoded, shared, image_size)
    source = _source(dataset, names, shared, asked, folded + said, was_split)
    return other_labels.applied(source, data_dir, *other) if other else source


def scored_folder(
    data_dir: str,
    classes: Sequence[str],
    labels: str = "",
    exif: str = "apply",
    split: str = "test",
) -> Source:
    """Find the images of a folder or archive to score with a network that was trained on certain classes.

    Args:
        data_dir: data in one of the layouts of `folder.find`.
        classes: the classes of the network. Images of other classes are left out and counted in `ignored`.
        labels: path of a CSV of labels; see `index`.
        exif: see `index`.
        split: the split to use if the data have splits, with any usual name such as "val"; "" for test or, without
            one, validation. If the data have no splits, all images are used.

    Returns:
        A data set with the given classes in their order, some of which may have no image, and a single split, "test".

    Raises:
        InputError: the data are missing or damaged; they have splits, but not this one; or none of their classes, as
            written, is one of the network's.
    """
    return _named(_scored_folder, data_dir, tuple(classes), labels, exif, split)


def _scored_folder(data_dir: str, classes: tuple[str, ...], labels: str, exif: str, split: str) -> Source:
    ignored, root = Ignored(), existing(data_dir, "folder")
    if other_labels.parted(labels)[1]:
        raise InputError(f"--labels={labels}: other labels are of training images, and these are scored by their own")
    layout = folder.find(root, labels, ignored, classes)
    split = split or ("validation" if "test" not in layout.members and "validation" in layout.members else "test")
    wanted = ANY_SPLIT_NAMES.get(split.lower(), split) if layout.is_split else "train"
    if wanted not in layout.members:
        raise InputError(f"{root} has no images in a split {split}, only in {listed(sorted(layout.members))}")
    members = {name: images for name, images in layout.members[wanted].items() if images}
    unknown = sorted(members.keys() - set(classes))
    if len(unknown) == len(members):
        raise InputError(
            f"{root} has images of {listed(unknown)}, none of which is a class of the network: {listed(classes)}"
        )
    if unknown:
        ignored.add(others(len(unknown)), sum(len(members[name]) for name in unknown))
        layout.how.append(f"not a class of the network: {listed(unknown)}")
    lacking = [name for name in classes if name not in members]
    if lacking:
        layout.how.append(f"no image of class {listed(lacking)}")
    found = dataclasses.replace(folder.examples(root, members, list(classes)), exif=exif)
    return Source("folder", tuple(classes), {"test": found}, str(ignored), "; ".join(layout.how))


def _named(function: Callable, *arguments):
    """Call a loader; if its error names a file, prepend the flag --data_dir."""
    try:
        return function(*arguments)
    except InputError as error:
        if str(error).startswith("--"):
            raise
        raise InputError(f"--data_dir: {error}") from error


# --- Encoded data sets, decoded into memory --------------------------------------------------------------------------


def _decoded(splits: dict[str, Examples], image_size: int) -> dict[str, Split]:
    def view(pixels: tf.Tensor) -> tf.Tensor:
        return images.resize_center(pixels, image_size)

    shape = (image_size, image_size, 3)
    return {name: Split(_decode_all(split, view, shape), split.labels, split.names) for name, split in splits.items()}


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
_INDEXERS: dict[str, Callable[[_Asked], Indexed]] = {
    "folder": lambda asked: folder.index(
        asked.data_dir, asked.classes, asked.ignored, asked.labels, asked.val_is, asked.how
    ),
    "records": lambda asked: records.index(asked.data_dir, asked.classes, asked.ignored, asked.val_is),
    "tfds": lambda asked: tfds.index(asked.data_dir, asked.classes, asked.tfds_name, asked.exif, asked.ignored),
    "voc": lambda asked: voc.index(asked.data_dir, asked.classes, asked.exif, asked.ignored),
    "synthetic": _index_synthetic,
}
SMALL_DATASETS = tuple(_LOADERS)
DATASETS = (*_LOADERS, *(name for name in _INDEXERS if name not in _LOADERS))
