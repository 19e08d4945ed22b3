"""Index TFRecord shards: data sets of `prepare` by their index file, shards of other programs by reading them once."""

import contextlib
import json
import logging
import os
import re
import zipfile
import zlib
from collections.abc import Callable
from concurrent import futures
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf import files
from resnet_tf.data import processors, shards
from resnet_tf.data.examples import TENSORFLOW_ERRORS, Examples, Records
from resnet_tf.data.ignored import Ignored
from resnet_tf.data.progress import Progress
from resnet_tf.data.splits import SPLIT_NAMES, Indexed, arranged, existing, listed, ordered
from resnet_tf.errors import InputError

CACHE = "resnet_tf_index.npz"  # the result of a scan, stored beside the shards
MAX_CLASSES = 2**20

_SHARD = re.compile(r"(train|test|val|valid|validation)-(\d{5,})-of-(\d{5,})(?:\.tfrecords?)?")
_TEXTS = ("image/class/text", "image/class/synset")  # features with the name of the class, in order of preference
_FRAME = 16  # bytes around a record: its length, and checksums of the length and of the record
_MISSING = np.iinfo(np.int64).min  # replaces the label of a record without one
_BUFFER = 2**20
_GZIP = "gzip-compressed; unpack it (gunzip), since records are read at their positions in the shard"
_LACKS = re.compile(r"Feature: (\S+) \(data type: \w+\) is required but could not be found")
_log = logging.getLogger(__name__)

# Columns of a split: "shard" int32 [n], "offset" int64 [n], and the columns of a parser.
Columns = dict[str, np.ndarray]


def index(
    data_dir: str, classes: tuple[str, ...] = (), ignored: Ignored | None = None, val_is: str = "validation"
) -> Indexed:
    """Find the records of a prepared data set, or of TFRecord shards of other programs.

    Shards of other programs are named SPLIT-NUMBER-of-COUNT, optionally with .tfrecord at the end, in the folder or its
    subfolder SPLIT. Their records are tf.train.Example with image/encoded and image/class/label. They are read once,
    with all checksums; the result is stored in the file CACHE if the folder is writable. Labels that begin at 1, as in
    Inception's ImageNet shards, are shifted to begin at 0. The names of the classes are image/class/text or
    image/class/synset, if each label has a unique name there, else their numbers.

    Args:
        data_dir: the folder.
        classes: the classes to use, in the order of their labels; or new names in the order of the labels, if none of
            them is an existing name.
        ignored: counts the examples of other classes.
        val_is: see `splits.ordered`.

    Returns:
        The classes, and the splits "train" and, if they are there, "test" and "validation", in the order of the
        records. A split without labels (all are -1) is omitted.

    Raises:
        InputError: shards are missing, truncated or damaged (the first error is named), or labels or names are wrong.
    """
    root = existing(data_dir, "records")
    if not root.is_dir():
        raise InputError(f"{root} is not a folder of TFRecord shards")
    if (root / shards.INDEX).exists():
        names, splits = _read_prepared(root)
    else:
        names, splits = _read_foreign(root, len(classes))
    ready = ordered(splits, val_is)
    if ready is None:
        raise InputError(f"{root} has no training examples, only {listed(sorted(splits))}")
    return arranged(classes, names, ready, rename=True, ignored=ignored)


# --- Prepared sets -------------------------------------------------------------------------------------------------


def _read_prepared(root: Path) -> Indexed:
    content = shards.read_index(root)
    try:
        names = content["classes"]
        if not names or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
            raise ValueError("classes")
        for split, entry in content["splits"].items():
            if split not in ("train", "validation", "test"):
                raise ValueError("splits")
            for shard in entry["shards"]:
                if os.path.basename(shard["file"]) != shard["file"] or shard["examples"] < 0:
                    raise ValueError("shards")
        splits = {split: shards.read_split(root, content, split) for split in content["splits"]}
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OverflowError, MemoryError) as error:
        raise InputError(f"{root / shards.INDEX}: damaged; fetch it again, or prepare the data again") from error
    empty = [split for split, examples in splits.items() if not len(examples)]
    if empty:
        raise InputError(f"{root} has no examples in {listed(empty)}")
    if any((examples.labels < 0).any() or (examples.storage.offset < 0).any() for examples in splits.values()):
        raise InputError(f"{root}: negative labels or offsets in a file SPLIT.npz; prepare the data again")
    return list(names), splits


# --- Shards of other programs --------------------------------------------------------------------------------------


def _read_foreign(root: Path, wanted: int) -> Indexed:
    """Return classes and splits of shards without an index; there are at least `wanted` classes."""
    columns = scan(root, _find_shards(root), _label_parser(), "labels")
    for split in columns.values():
        _check_labelled(split)
    labels = {name: split["label"] for name, split in columns.items()}
    check_labels(root, labels)
    labels = {name: values for name, values in labels.items() if (values >= 0).all()}
    if not labels:
        raise InputError(f"{root}: no split has labels")
    shift = min(values.min() for values in labels.values())
    if shift == 1:
        _log.info("%s: labels begin at 1, as in Inception's ImageNet shards; 1 is subtracted", root)
    shift = int(shift == 1)
    count = int(max(values.max() for values in labels.values())) - shift + 1
    names = _class_names([columns[name] for name in labels], shift, count)
    if not names:
        names = [str(number) for number in range(max(count, wanted))]
    return names, {name: as_examples(columns[name], values - shift) for name, values in labels.items()}


def _check_labelled(split: Columns) -> None:
    """Refuse records without a label; the error says what the first of them has instead."""
    lacking = np.flatnonzero(split["label"] == _MISSING)
    if len(lacking):
        shard, offset = split["shard"][lacking[0]], split["offset"][lacking[0]]
        path, before = str(split["path"][shard]), int(lacking[0] - np.searchsorted(split["shard"], shard))
        record = next(iter(_records(path).skip(before))).numpy()
        raise InputError(
            f"{path}: record at byte {offset}: no image/class/label; {_content(record)} "
            f"(the first of {len(lacking)} without a label)"
        )


def check_labels(root: Path, labels: dict[str, np.ndarray], count: int = MAX_CLASSES) -> None:
    """Refuse labels out of range, except in a split whose labels are all -1.

    Args:
        root: the folder, for errors.
        labels: int64 [n] for each split.
        count: number of classes; labels must be below it.

    Raises:
        InputError: a split has no examples, or a label is missing, negative or too large.
    """
    for name, values in labels.items():
        if not len(values):
            raise InputError(f"{root} has no examples in {name}")
        if (values == -1).all():
            continue
        wrong = values[(values < 0) | (values >= count)]
        if len(wrong):
            raise InputError(f"{root}: {len(wrong)} records of {name} have no class label below {count}: {wrong[0]}")


def as_examples(columns: Columns, labels: np.ndarray, key: str = "image/encoded") -> Examples:
    """Return a split with one example per record.

    Args:
        columns: the result of `scan` for the split.
        labels: [n], from 0.
        key: key of the feature that holds the encoded image.
    """
    storage = Records(columns["path"].tolist(), columns["shard"], columns["offset"], key)
    return Examples(storage, np.arange(len(labels), dtype=np.int64), labels.astype(np.int32))


def _find_shards(root: Path) -> dict[str, list[Path]]:
    """Return the shards of each split, and refuse incomplete sets of shards."""
    sets: dict[tuple[Path, str, int, str], dict[int, Path]] = {}
    folders = [root, *(root / name for name in SPLIT_NAMES if (root / name).is_dir())]
    for path in (path for folder in folders for path in folder.iterdir()):
        match = _SHARD.fullmatch(path.name)
        if match and path.is_file():
            key = path.parent, match[1], int(match[3]), path.suffix
            sets.setdefault(key, {})[int(match[2])] = path
    if not sets:
        packed = [path for folder in folders for path in folder.glob("*.gz") if _SHARD.fullmatch(path.stem)]
        if packed:
            raise InputError(f"{min(packed)}: {_GZIP}")
        example = "train-00000-of-00008.tfrecord"
        raise InputError(f"{root} holds neither {shards.INDEX} nor shards with names like {example}")
    splits: dict[str, list[Path]] = {}
    for (folder, name, count, suffix), members in sorted(sets.items()):
        missing = [number for number in range(min(count, 10**5)) if number not in members]
        if missing:
            first = folder / f"{name}-{missing[0]:05d}-of-{count:05d}{suffix}"
            raise InputError(f"{first}: the shard is missing, {len(missing)} of {count} in total; fetch them again")
        if max(members) >= count or SPLIT_NAMES[name] in splits:
            raise InputError(f"{folder} holds shards of more than one set for {SPLIT_NAMES[name]}")
        splits[SPLIT_NAMES[name]] = [members[number] for number in range(count)]
    for path in (path for paths in splits.values() for path in paths):
        if not path.stat().st_size:
            raise InputError(f"{path}: the shard is empty; fetch it again")
    return splits


def _label_parser() -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return the parser for the features of Inception's shards."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, _MISSING),
    } | {key: tf.io.FixedLenFeature([], tf.string, "") for key in _TEXTS}

    def parse(record):
        values = tf.io.parse_single_example(record, features)
        return {"label": values["image/class/label"]} | {key: values[key] for key in _TEXTS}

    return parse


def _class_names(columns: list[Columns], shift: int, count: int) -> list[str]:
    """Return the names of the classes if each class has exactly one name, else []."""
    for key in _TEXTS:
        labelled = [(split[f"{key}:label"].tolist(), split[key].tolist()) for split in columns]
        pairs = {pair for labels, names in labelled for pair in zip(labels, names, strict=True)}
        names = {label - shift: name for label, name in pairs if name}
        if len(names) == len(pairs) == count == len(set(names.values())):
            return [names[label] for label in range(count)]
    return []


# --- Reading once --------------------------------------------------------------------------------------------------


def scan(
    folder: Path, splits: dict[str, list[Path]], parse: Callable[[tf.Tensor], dict[str, tf.Tensor]], kind: str
) -> dict[str, Columns]:
    """Read every record of TFRecord shards once and verify the checksums, several shards at a time.

    Args:
        folder: folder of the file CACHE, which is read if it belongs to the same shards, and else written if possible.
        splits: shards of each split, in order, each with at least one record.
        parse: function(record, scalar string) -> {name: tensor}. Scalars become an array [n], tensors of shape [k] an
            array [n, k], and tensors of variable length, [None] or [None, k], are concatenated.
        kind: name of `parse` in CACHE.

    Returns:
        For each split "path" [shards], "shard" int32 [n], "offset" int64 [n], and the arrays of `parse`. Strings that
        `parse` returns beside a "label" become arrays of the k different strings, with their labels [k] in NAME:label.

    Raises:
        InputError: a record is damaged or cannot be parsed; names the shard and the byte.
    """
    paths = {name: [str(path) for path in files] for name, files in splits.items()}
    try:
        stats = [os.stat(path) for files in paths.values() for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: the shard cannot be read ({error.strerror}); fetch it again") from error
    signature = json.dumps([1, kind, [[name, *map(os.path.basename, files)] for name, files in paths.items()]])
    signature += json.dumps([[stat.st_size, stat.st_mtime_ns] for stat in stats])
    splits = _read_cache(folder / CACHE, signature, paths)
    if splits is None:
        splits = _scan_all(paths, parse, sum(stat.st_size for stat in stats))
        _write_cache(folder / CACHE, signature, splits)
    return {name: {"path": np.array(paths[name]), **columns} for name, columns in splits.items()}


def _scan_all(paths: dict[str, list[str]], parse: Callable, size: int) -> dict[str, Columns]:
    columns = _column_reader(parse)
    progress = Progress("reading shards for their index", size)

    def read(path: str) -> Columns:
        try:
            values = {name: value.numpy() for name, value in columns(tf.constant(path)).items()}
        except TENSORFLOW_ERRORS as error:
            raise _fault(path, parse) from error
        # TensorFlow accepts a file that ends within the first bytes of a record.
        if int((values["length"].astype(np.int64) + _FRAME).sum()) != os.path.getsize(path):
            raise _fault(path, parse)
        return values

    pool = futures.ThreadPoolExecutor(max_workers=2 * processors.count())
    try:
        waiting = {name: [pool.submit(read, path) for path in files] for name, files in paths.items()}
        sizes = {future: os.path.getsize(p) for n in paths for future, p in zip(waiting[n], paths[n], strict=True)}
        for future in futures.as_completed(sizes):
            future.result()
            progress.add(sizes[future])
        return {name: _joined([future.result() for future in of_split]) for name, of_split in waiting.items()}
    finally:
        pool.shutdown(cancel_futures=True)
        progress.end()


def _records(path) -> tf.data.Dataset:
    return tf.data.TFRecordDataset(path, buffer_size=_BUFFER).with_options(processors.dataset_options())


def _column_reader(parse: Callable) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Return function(path) -> columns of the records of a shard, traced once for all shards."""

    def of_record(record):
        return {"length": tf.strings.length(record), **parse(record)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(path):
        columns = _records(path).map(of_record).ragged_batch(2**40).get_single_element()
        return {name: value.flat_values if hasattr(value, "flat_values") else value for name, value in columns.items()}

    return read


def _fault(path: str, parse: Callable) -> InputError:
    """Read a bad shard again to find out which record is bad."""
    offset, reason = 0, "broken checksum or truncated shard; fetch it again"
    try:
        for record in _records(path):
            parse(record)
            offset += _FRAME + len(record.numpy())
    except tf.errors.DataLossError:
        with open(path, "rb") as file:
            if offset == 0 and file.read(2) == b"\x1f\x8b":
                return InputError(f"{path}: {_GZIP}")
    except tf.errors.OpError as error:
        lacking = _LACKS.search(error.message)
        reason = f"no {lacking[1]}" if lacking else " ".join(error.message.split())[:200]
        reason += f"; {_content(record.numpy())}"
    except UnicodeDecodeError:
        reason = "no tf.train.Example"
    return InputError(f"{path}: record at byte {offset}: {reason}")


def _content(record: bytes) -> str:
    """Describe the features of a record in words."""
    try:
        names = sorted(tf.train.Example.FromString(record).features.feature)
    except Exception:  # the name of the exception depends on the version of protocol buffers
        return "it is no tf.train.Example"
    return f"it has {listed(names)}" if names else "it has nothing"


def _joined(parts: list[Columns]) -> Columns:
    """Concatenate the columns of the shards of a split."""
    lengths = [part.pop("length").astype(np.int64) for part in parts]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    for name in [name for name, column in columns.items() if column.dtype == object]:
        pairs = sorted(set(zip(columns["label"].tolist(), columns[name].tolist(), strict=True)))
        columns[f"{name}:label"] = np.array([label for label, _ in pairs], np.int64)
        columns[name] = np.array([text.decode("utf-8", "replace") for _, text in pairs], np.str_)
    columns["shard"] = np.repeat(np.arange(len(parts), dtype=np.int32), [len(length) for length in lengths])
    columns["offset"] = np.concatenate([np.cumsum(length + _FRAME) - length - _FRAME for length in lengths])
    return columns


def _read_cache(path: Path, signature: str, splits: dict) -> dict[str, Columns] | None:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if arrays["signature"].item() != signature:
                return None
            columns: dict[str, Columns] = {name: {} for name in splits}
            for key in arrays.files:
                name, _, column = key.partition(":")
                if name in columns:
                    columns[name][column] = arrays[key]
            return columns
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def _write_cache(path: Path, signature: str, splits: dict[str, Columns]) -> None:
    arrays = {f"{name}:{column}": array for name, columns in splits.items() for column, array in columns.items()}
    # Where the folder is not writable, the shards are scanned again next time.
    with contextlib.suppress(OSError), files.writing(path, str(os.getpid())) as partial, open(partial, "wb") as file:
        np.savez(file, signature=np.array(signature), **arrays)
