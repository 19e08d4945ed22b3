"""Read data sets that TensorFlow Datasets (TFDS) prepared, from its TFRecord shards, without downloading anything."""

import contextlib
import re
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf.data import boxes, images, orientation, records
from resnet_tf.data.examples import Examples, Records
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.splits import SPLIT_NAMES, Indexed, arranged, existing, listed, ordered
from resnet_tf.errors import InputError

_INFO = "dataset_info.json"


def index(
    data_dir: str,
    classes: tuple[str, ...] = (),
    name: str = "",
    exif: str = "apply",
    ignored: Ignored | None = None,
) -> Indexed:
    """Find the records of a data set that TFDS prepared as TFRecord shards.

    The examples are images with a "label"; or, in a data set for detection, the boxes of "objects" that are not
    difficult. If the data set is not prepared but its archives are in DATA_DIR/downloads/manual, TFDS prepares it.

    Args:
        data_dir: a TFDS data folder, or the folder of one prepared version, which holds dataset_info.json.
        classes: the classes to use, in the order of their labels; or new names in the order of the labels, if none of
            them is an existing name.
        name: name of the data set in a data folder, such as "cifar10", "imagenette/320px-v2" or "voc/2007:5.0.0";
            without a version, the newest one is used.
        exif: whether boxes refer to the images after ("apply") or before ("ignore") their orientation tags turn them.
        ignored: counts the examples of other classes.

    Returns:
        The classes, and the splits "train" and, if they are there, "test" and "validation", in the order of the
        records. Validation is "test" if there is no other test split with labels. A split without labels, such as
        ImageNet's test split, is omitted.

    Raises:
        InputError: the data set is missing, in another format or without images and labels; or shards are missing,
            truncated or damaged.
    """
    root = existing(data_dir, "tfds")
    if not root.is_dir():
        raise InputError(f"{root} is not a TFDS data folder")
    folder = _version_folder(root, name)
    info, features = _read_info(folder)
    splits = {SPLIT_NAMES[split]: _shards(folder, info.splits[split]) for split in info.splits if split in SPLIT_NAMES}
    if "objects" in features:
        names, examples = _read_boxes(folder, info, splits, exif)
    else:
        names, examples = _read_labels(folder, info, splits)
    ready = ordered(examples, "test")
    if ready is None:
        raise InputError(f"{folder} has no training examples with labels; found {listed(sorted(examples)) or 'none'}")
    return arranged(classes, names, ready, rename=True, ignored=ignored)


# --- Finding a data set --------------------------------------------------------------------------------------------


def _version_folder(root: Path, name: str) -> Path:
    if (root / _INFO).is_file():
        if name:
            raise InputError(f"--tfds_name={name}: {root} is already the folder of a data set; leave the flag unset")
        return root
    if not name:
        raise InputError(f"--tfds_name is not set, and {root} holds no {_INFO}; set the name, such as cifar10")
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
            f"access run: tfds build {name} --data_dir={root}"
        )
    return folder


def _newest(folder: Path, version: str) -> Path | None:
    """Return the folder of the given prepared version, or of the newest one."""
    versions = [info.parent for info in folder.glob(f"*/{_INFO}") if re.fullmatch(r"[\d.]+", info.parent.name)]
    versions = [path for path in versions if version in ("", path.name)]
    return max(versions, key=lambda path: [int(number or 0) for number in path.name.split(".")], default=None)


def _prepare(root: Path, name: str) -> None:
    """Let TFDS prepare a data set from local archives."""
    tfds = _import_tfds(root)

    def refuse(resource):
        raise InputError(f"{resource.url} is not in {root / 'downloads' / 'manual'}; nothing is downloaded")

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
    """Convert every exception of TFDS for damaged folders and archives, such as KeyError, to a one-line InputError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{what} ({reason})") from error


# --- Reading a data set --------------------------------------------------------------------------------------------


def _read_info(folder: Path):
    """Return TFDS's description of a data set, and its features by name."""
    tfds = _import_tfds(folder)
    with _tfds_errors(f"{folder} cannot be read by TFDS"):
        info = tfds.builder_from_directory(str(folder)).info
        features, kind = dict(info.features), info.file_format
    if kind != tfds.core.FileFormat.TFRECORD:
        raise InputError(f"{folder}: has the file format {kind.value}; only tfrecord can be read: prepare it again")
    labelled = "objects" in features or isinstance(features.get("label"), tfds.features.ClassLabel)
    if not labelled or not isinstance(features.get("image"), tfds.features.Image):
        needed = "needs 'image' and a class 'label', or 'image' and 'objects'"
        raise InputError(f"{folder}: {needed}; found {listed(sorted(features))}")
    return info, features


def _shards(folder: Path, split) -> list[Path]:
    """Return the non-empty shards of a split, after a check that they exist."""
    with _tfds_errors(f"{folder / _INFO}: damaged; prepare the set again"):
        pairs = list(zip([Path(path) for path in split.filepaths], split.shard_lengths, strict=True))
    for path, length in pairs:
        if length and not (path.is_file() and path.stat().st_size):
            raise InputError(f"{path}: the shard is missing or empty; prepare the set again")
    return [path for path, length in pairs if length]


def _scan(folder: Path, info, splits: dict[str, list[Path]], parse, kind: str) -> dict[str, records.Columns]:
    """Return the result of `records.scan`, after a check of the number of examples."""
    columns = records.scan(folder, {name: paths for name, paths in splits.items() if paths}, parse, kind)
    lengths = {SPLIT_NAMES[split]: info.splits[split].num_examples for split in info.splits if split in SPLIT_NAMES}
    for name, split in columns.items():
        if len(split["offset"]) != lengths[name]:
            counts = f"{len(split['offset'])} records of {name}, not {lengths[name]}"
            raise InputError(f"{folder}: {counts} as {_INFO} says; a shard is truncated: prepare the set again")
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
    inclusive = info.name == "voc"  # TFDS keeps VOC's boxes, which count from 1 and include the last pixel
    splits = {name: _box_examples(split, len(names), inclusive, f"{folder}, {name}") for name, split in columns.items()}
    return names, {name: examples for name, examples in splits.items() if len(examples)}


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
    """Return the boxes of a split that are not difficult as examples."""
    image = np.repeat(np.arange(len(columns["count"]), dtype=np.int64), columns["count"])
    sides = columns["sides"][image].astype(np.float64)
    # TFDS stores top, left, bottom, right as fractions of height and width.
    corners = columns["box"].astype(np.float64) * np.concatenate([sides, sides], axis=1)
    is_used = columns["difficult"] == 0
    storage = Records(columns["path"].tolist(), columns["shard"], columns["offset"], "image")
    crops, good = boxes.from_corners(corners, columns["sides"][image], inclusive)
    boxes.warn_skipped(what, [storage.name(index) for index in image[is_used & ~good]])
    is_used &= good
    labels = columns["label"][is_used]
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        raise InputError(f"{what}: labels of objects beyond the {classes} classes")
    return Examples(storage, image[is_used], labels.astype(np.int32), crops[is_used])
