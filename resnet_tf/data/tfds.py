"""Data sets that TensorFlow Datasets (TFDS) prepared, read from its own TFRecord shards; nothing is ever fetched."""

import contextlib
import re
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf.data import boxes, images, orientation, records
from resnet_tf.data.examples import Examples, Records
from resnet_tf.data.folder import SPLIT_NAMES
from resnet_tf.data.splits import Indexed, arranged, existing, listed, with_test
from resnet_tf.errors import InputError

_INFO = "dataset_info.json"


def index(data_dir: str, classes: tuple[str, ...] = (), name: str = "", exif: str = "apply") -> Indexed:
    """Find the records of a data set that TFDS prepared as TFRecord shards.

    Examples are the images with their "label"; or, in a set for detection, the boxes of "objects" that are not
    difficult, with theirs. Where the set is not prepared but its archives are in DATA_DIR/downloads/manual, TFDS
    prepares it from them.

    Args:
        data_dir: a TFDS data folder, or the folder of one prepared version, which holds dataset_info.json.
        classes: their order; or names, in the order of the labels, for classes that have none of these names.
        name: of the set in a data folder, as in "cifar10", "imagenette/320px-v2" or "voc/2007:5.0.0"; of several
            versions the newest is taken.
        exif: whether boxes are of the images as their orientation tags turn them, "apply", or as stored, "ignore".

    Returns:
        The classes, and "train", "test" and, where there is one, "validation", in the order of the records. A split
        without labels, such as ImageNet's test split, is left out.

    Raises:
        InputError: the set is not there, of another format or without images and labels; shards are missing,
            truncated or damaged.
    """
    root = existing(data_dir, "tfds")
    if not root.is_dir():
        raise InputError(f"{root} is not a TFDS data folder")
    folder = _version_folder(root, name)
    info, features = _read_info(folder)
    splits = {SPLIT_NAMES[split]: _shards(folder, info.splits[split]) for split in info.splits if split in SPLIT_NAMES}
    if "objects" in features:
        names, found = _read_boxes(folder, info, splits, exif)
    else:
        names, found = _read_labels(folder, info, splits)
    ready = with_test(found)
    if ready is None:
        raise InputError(f"{folder} needs train and test, or train and validation; found {listed(sorted(found))}")
    return arranged(classes, names, ready, rename=True)


# --- Finding a set -------------------------------------------------------------------------------------------------


def _version_folder(root: Path, name: str) -> Path:
    if (root / _INFO).is_file():
        if name:
            raise InputError(f"--tfds_name={name}: {root} is itself the folder of a prepared set; leave it unset")
        return root
    if not name:
        raise InputError(f"--tfds_name is not set, and {root} holds no {_INFO}; say which set of it, such as cifar10")
    path, _, version = name.partition(":")
    parts = path.split("/")
    if not all(re.fullmatch(r"\w[\w.\-]*", part) for part in [*parts, version or "0"]) or len(parts) > 2:
        raise InputError(f"--tfds_name={name}: not of the form NAME, NAME/CONFIG or NAME/CONFIG:VERSION")
    folder = _newest(root.joinpath(*parts), version)
    if folder is None and any((root / "downloads" / "manual").glob("*")):
        _prepare(root, name)
        folder = _newest(root.joinpath(*parts), version)
    if folder is None:
        raise InputError(
            f"{root.joinpath(*parts)} holds no prepared version{version and ' ' + version}; on a machine with network "
            f"run: tfds build {name} --data_dir={root}"
        )
    return folder


def _newest(folder: Path, version: str) -> Path | None:
    """The newest version that was prepared, or the one asked for."""
    versions = [info.parent for info in folder.glob(f"*/{_INFO}") if re.fullmatch(r"[\d.]+", info.parent.name)]
    versions = [path for path in versions if version in ("", path.name)]
    return max(versions, key=lambda path: [int(number or 0) for number in path.name.split(".")], default=None)


def _prepare(root: Path, name: str) -> None:
    """Let TFDS prepare a set from archives that are there."""
    tfds = _import_tfds(root)

    def refuse(resource):
        raise InputError(f"{resource.url} is not in {root / 'downloads' / 'manual'}; nothing is fetched")

    with _tfds_errors(f"--tfds_name={name}: TFDS cannot prepare it from {root / 'downloads' / 'manual'}"):
        builder = tfds.builder(name, data_dir=str(root), try_gcs=False)
        make = builder._make_download_manager

        def make_offline(*args, **kwargs):
            manager = make(*args, **kwargs)
            manager._download = refuse
            return manager

        builder._make_download_manager = make_offline
        config = tfds.download.DownloadConfig(
            manual_dir=str(root / "downloads" / "manual"), try_download_gcs=False, compute_stats="skip"
        )
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results
            builder.download_and_prepare(
                download_dir=str(root / "downloads"), download_config=config, file_format="tfrecord"
            )


def _import_tfds(root: Path):
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(f"{root} needs tensorflow-datasets: pip install tensorflow-datasets") from error
    return tensorflow_datasets


@contextlib.contextmanager
def _tfds_errors(what: str):
    """One line for whatever TFDS raises for damaged folders and archives, KeyError and AssertionError among it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{what} ({reason})") from error


# --- Reading one ---------------------------------------------------------------------------------------------------


def _read_info(folder: Path):
    """TFDS's description of a set, and its features by name."""
    tfds = _import_tfds(folder)
    with _tfds_errors(f"{folder} cannot be read by TFDS"):
        info = tfds.builder_from_directory(str(folder)).info
        features, kind = dict(info.features), info.file_format
    if kind != tfds.core.FileFormat.TFRECORD:
        raise InputError(f"{folder}: of file format {kind.value}; only tfrecord is read: prepare it with that")
    labelled = "objects" in features or isinstance(features.get("label"), tfds.features.ClassLabel)
    if not labelled or not isinstance(features.get("image"), tfds.features.Image):
        needed = "needs 'image' and a class 'label', or 'image' and 'objects'"
        raise InputError(f"{folder}: {needed}; found {listed(sorted(features))}")
    return info, features


def _shards(folder: Path, split) -> list[Path]:
    """The shards of a split that hold records, each of which is there."""
    with _tfds_errors(f"{folder / _INFO}: damaged; prepare the set again"):
        pairs = list(zip([Path(path) for path in split.filepaths], split.shard_lengths, strict=True))
    for path, length in pairs:
        if length and not (path.is_file() and path.stat().st_size):
            raise InputError(f"{path}: the shard is missing or empty; prepare the set again")
    return [path for path, length in pairs if length]


def _scan(folder: Path, info, splits: dict[str, list[Path]], parse, kind: str) -> dict[str, records.Columns]:
    """What `records.scan` finds, once it has found as many examples as TFDS says there are."""
    columns = records.scan(folder, {name: paths for name, paths in splits.items() if paths}, parse, kind)
    lengths = {SPLIT_NAMES[split]: info.splits[split].num_examples for split in info.splits if split in SPLIT_NAMES}
    for name, split in columns.items():
        if len(split["offset"]) != lengths[name]:
            found = f"{len(split['offset'])} records of {name}, not {lengths[name]}"
            raise InputError(f"{folder}: {found} as {_INFO} says; a shard is truncated: prepare the set again")
    return columns


def _read_labels(folder: Path, info, splits: dict[str, list[Path]]) -> Indexed:
    features = {"image": tf.io.FixedLenFeature([], tf.string), "label": tf.io.FixedLenFeature([], tf.int64)}

    def parse(record):
        return {"label": tf.io.parse_single_example(record, features)["label"]}

    names = list(info.features["label"].names)
    columns = _scan(folder, info, splits, parse, "tfds labels")
    labels = {name: split["label"] for name, split in columns.items()}
    records.check_labels(folder, labels, len(names))
    labelled = {name: values for name, values in labels.items() if (values >= 0).all()}
    return names, {name: records.as_examples(columns[name], values, "image") for name, values in labelled.items()}


def _read_boxes(folder: Path, info, splits: dict[str, list[Path]], exif: str) -> Indexed:
    with _tfds_errors(f"{folder}: its 'objects' have no 'bbox' and 'label'"):
        names, keys = list(info.features["objects"]["label"].names), set(info.features["objects"].keys())
        if "bbox" not in keys:
            raise KeyError("bbox")
    columns = _scan(folder, info, splits, _box_parser("is_difficult" in keys, exif), "tfds boxes")
    inclusive = info.name == "voc"  # TFDS took VOC's boxes, from 1 on and with the last pixel, as they are
    found = {name: _box_examples(split, len(names), inclusive, f"{folder}, {name}") for name, split in columns.items()}
    return names, {name: examples for name, examples in found.items() if len(examples)}


def _box_parser(has_difficult: bool, exif: str):
    treated = orientation.treated(exif)
    features = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "objects/bbox": tf.io.RaggedFeature(tf.float32),
        "objects/label": tf.io.RaggedFeature(tf.int64),
    }
    if has_difficult:
        features["objects/is_difficult"] = tf.io.RaggedFeature(tf.int64)

    def parse(record):
        values = tf.io.parse_single_example(record, features)
        labels = values["objects/label"]
        data = treated(values["image"])
        sides = tf.cond(
            tf.io.is_jpeg(data),
            lambda: orientation.upright_sides(tf.io.extract_jpeg_shape(data)[:2], orientation.of_jpeg(data)),
            lambda: tf.shape(images.decode_tensor(data))[:2],
        )
        return {
            "sides": sides,
            "count": tf.size(labels),
            "label": labels,
            "box": tf.reshape(values["objects/bbox"], [tf.size(labels), 4]),
            "difficult": values.get("objects/is_difficult", tf.zeros_like(labels)),
        }

    return parse


def _box_examples(columns: records.Columns, classes: int, inclusive: bool, what: str) -> Examples:
    """The boxes of a split that are not difficult."""
    image = np.repeat(np.arange(len(columns["count"]), dtype=np.int64), columns["count"])
    sides = columns["sides"][image].astype(np.float64)
    # TFDS stores parts of the height and width: top, left, bottom, right.
    corners = columns["box"].astype(np.float64) * np.concatenate([sides, sides], axis=1)
    kept = columns["difficult"] == 0
    storage = Records(columns["path"].tolist(), columns["shard"], columns["offset"], "image")
    placed, good = boxes.from_corners(corners, columns["sides"][image], inclusive)
    boxes.warn_skipped(what, [storage.name(number) for number in image[kept & ~good]])
    kept &= good
    labels = columns["label"][kept]
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"{what}: labels of objects beyond the {classes} classes")
    return Examples(storage, image[kept], labels.astype(np.int32), placed[kept])
