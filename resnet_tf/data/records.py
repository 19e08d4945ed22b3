"""TFRecord shards: data sets that `prepare` wrote, by their index, and shards of others, by reading them once."""

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

from resnet_tf.data import processors, shards
from resnet_tf.data.examples import TENSORFLOW_ERRORS, Examples, Records
from resnet_tf.data.folder import SPLIT_NAMES
from resnet_tf.data.progress import Progress
from resnet_tf.data.splits import Indexed, arranged, existing, listed, with_test
from resnet_tf.errors import InputError

CACHE = "resnet_tf_index.npz"  # what a scan found, beside the shards
MAX_CLASSES = 2**20

_SHARD = re.compile(r"(train|test|val|valid|validation)-(\d{5,})-of-(\d{5,})(?:\.tfrecords?)?")
_TEXTS = ("image/class/text", "image/class/synset")  # names of a record's class, the first choice first
_FRAME = 16  # bytes around a record: its length, and checksums of the length and of the record
_MISSING = np.iinfo(np.int64).min  # stands for a label that a record lacks
_BUFFER = 2**20
_GZIP = "gzip-compressed; unpack it (gunzip): records are read where they lie in their shard"
_LACKS = re.compile(r"Feature: (\S+) \(data type: \w+\) is required but could not be found")
_log = logging.getLogger(__name__)

# Of each split: "shard" int32 [n], "offset" int64 [n], and the columns that a parser makes.
Columns = dict[str, np.ndarray]


def index(data_dir: str, classes: tuple[str, ...] = ()) -> Indexed:
    """Find the records of a prepared data set, or of TFRecord shards of others.

    Shards of others are named SPLIT-NUMBER-of-COUNT, perhaps with .tfrecord at the end, and are in the folder itself
    or in subfolders of the split's name. Their records are tf.train.Example with image/encoded and image/class/label.
    They are read once, with all checksums; what was found is kept in the file CACHE where the folder can be written.
    Labels from 1 on, as those of Inception's ImageNet shards, are brought to begin at 0. Classes are called by
    image/class/text or else image/class/synset, where each label has one name of its own, else by their numbers.

    Args:
        data_dir: the folder.
        classes: their order; or names, in the order of the labels, for classes that have none of these names.

    Returns:
        The classes, and "train", "test" and, where there is one, "validation", in the order of the records. A split
        all of whose labels are -1 is left out.

    Raises:
        InputError: shards are missing, truncated or damaged, the first fault being named; labels or names make no
            sense.
    """
    root = existing(data_dir, "records")
    if not root.is_dir():
        raise InputError(f"{root} is not a folder of TFRecord shards")
    if (root / shards.INDEX).exists():
        names, splits = _read_prepared(root)
    else:
        names, splits = _read_foreign(root, len(classes))
    ready = with_test(splits)
    if ready is None:
        raise InputError(f"{root} needs train and test, or train and validation; found {listed(sorted(splits))}")
    return arranged(classes, names, ready, rename=True)


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
        raise InputError(f"{root / shards.INDEX}: damaged; fetch it again, or prepare the data anew") from error
    empty = [split for split, examples in splits.items() if not len(examples)]
    if empty:
        raise InputError(f"{root} has no examples in {listed(empty)}")
    if any((examples.labels < 0).any() or (examples.storage.offset < 0).any() for examples in splits.values()):
        raise InputError(f"{root}: negative labels or places in a file SPLIT.npz; prepare the data anew")
    return list(names), splits


# --- Shards of others ----------------------------------------------------------------------------------------------


def _read_foreign(root: Path, wanted: int) -> Indexed:
    """Classes and splits of shards without an index, of which the user may have named `wanted` classes."""
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
        _log.info("%s: labels begin at 1 and are taken less 1, as in Inception's ImageNet shards", root)
    shift = int(shift == 1)
    count = int(max(values.max() for values in labels.values())) - shift + 1
    names = _class_names([columns[name] for name in labels], shift, count)
    if not names:
        names = [str(number) for number in range(max(count, wanted))]
    return names, {name: as_examples(columns[name], values - shift) for name, values in labels.items()}


def _check_labelled(split: Columns) -> None:
    """Refuse records without a label, the first of which says what it has instead."""
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
    """Refuse labels that are none, except for a split whose labels are all -1.

    Args:
        root: what to name in errors.
        labels: int64 [n] of each split.
        count: a label is below it.

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
    """Return a split of one example a record.

    Args:
        columns: what `scan` returned for the split.
        labels: from 0 on, [n].
        key: of the feature that is the encoded image.
    """
    storage = Records(columns["path"].tolist(), columns["shard"], columns["offset"], key)
    return Examples(storage, np.arange(len(labels), dtype=np.int64), labels.astype(np.int32))


def _find_shards(root: Path) -> dict[str, list[Path]]:
    """The complete sets of shards by split."""
    found: dict[tuple[Path, str, int, str], dict[int, Path]] = {}
    folders = [root, *(root / name for name in SPLIT_NAMES if (root / name).is_dir())]
    for path in (path for folder in folders for path in folder.iterdir()):
        match = _SHARD.fullmatch(path.name)
        if match and path.is_file():
            key = path.parent, match[1], int(match[3]), path.suffix
            found.setdefault(key, {})[int(match[2])] = path
    if not found:
        packed = [path for folder in folders for path in folder.glob("*.gz") if _SHARD.fullmatch(path.stem)]
        if packed:
            raise InputError(f"{min(packed)}: {_GZIP}")
        example = "train-00000-of-00008.tfrecord"
        raise InputError(f"{root} holds neither {shards.INDEX} nor shards that are named like {example}")
    splits: dict[str, list[Path]] = {}
    for (folder, name, count, suffix), members in sorted(found.items()):
        missing = [number for number in range(min(count, 10**5)) if number not in members]
        if missing:
            first = folder / f"{name}-{missing[0]:05d}-of-{count:05d}{suffix}"
            raise InputError(f"{first}: the shard is missing, {len(missing)} of {count} in all; fetch them again")
        if max(members) >= count or SPLIT_NAMES[name] in splits:
            raise InputError(f"{folder} holds shards of more than one set for {SPLIT_NAMES[name]}")
        splits[SPLIT_NAMES[name]] = [members[number] for number in range(count)]
    for path in (path for paths in splits.values() for path in paths):
        if not path.stat().st_size:
            raise InputError(f"{path}: an empty file, no shard; fetch it again")
    return splits


def _label_parser() -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """Parser of Inception's features."""
    features = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64, _MISSING),
    } | {key: tf.io.FixedLenFeature([], tf.string, "") for key in _TEXTS}

    def parse(record):
        values = tf.io.parse_single_example(record, features)
        return {"label": values["image/class/label"]} | {key: values[key] for key in _TEXTS}

    return parse


def _class_names(columns: list[Columns], shift: int, count: int) -> list[str]:
    """Names of the classes, if each has one and one only."""
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
    """Read every record of TFRecord shards once, checksums included, several shards at a time.

    Args:
        folder: where the file CACHE is read, if it is of the same shards, or else written, if that is possible.
        splits: shards of each, in order, none of them without records.
        parse: function(scalar string, a record) -> tensors by name. A scalar becomes an array [n], one of shape [k]
            an array [n, k], and one whose length is the record's, [None] or [None, k], those of all records together.
        kind: stands for `parse` in CACHE.

    Returns:
        Of each split: "path" [shards], "shard" int32 [n], "offset" int64 [n], and the arrays of `parse`. Of strings
        that `parse` returns with a "label", [k] different ones, and their labels [k] as NAME:label.

    Raises:
        InputError: names the shard and the byte where a record is damaged, or cannot be parsed.
    """
    paths = {name: [str(path) for path in files] for name, files in splits.items()}
    try:
        stats = [os.stat(path) for files in paths.values() for path in files]
    except OSError as error:
        raise InputError(f"{error.filename}: the shard cannot be read ({error.strerror}); fetch it again") from error
    signature = json.dumps([1, kind, [[name, *map(os.path.basename, files)] for name, files in paths.items()]])
    signature += json.dumps([[stat.st_size, stat.st_mtime_ns] for stat in stats])
    known = _read_cache(folder / CACHE, signature, paths)
    if known is None:
        known = _scan_all(paths, parse, sum(stat.st_size for stat in stats))
        _write_cache(folder / CACHE, signature, known)
    return {name: {"path": np.array(paths[name]), **columns} for name, columns in known.items()}


def _scan_all(paths: dict[str, list[str]], parse: Callable, size: int) -> dict[str, Columns]:
    columns = _column_reader(parse)
    progress = Progress("reading shards for their index", size)

    def read(path: str) -> Columns:
        try:
            values = {name: value.numpy() for name, value in columns(tf.constant(path)).items()}
        except TENSORFLOW_ERRORS as error:
            raise _fault(path, parse) from error
        # TensorFlow takes a file that ends within the first bytes of a record for whole.
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
    options = tf.data.Options()
    # TensorFlow 2.21 may wait for the tuning thread when an iterator ends, for as long as the iterator has lived.
    options.autotune.enabled = False
    return tf.data.TFRecordDataset(path, buffer_size=_BUFFER).with_options(options)


def _column_reader(parse: Callable) -> Callable[[tf.Tensor], dict[str, tf.Tensor]]:
    """function(path) -> columns of its records, compiled once for all shards."""

    def of_record(record):
        return {"length": tf.strings.length(record), **parse(record)}

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def read(path):
        columns = _records(path).map(of_record).ragged_batch(2**40).get_single_element()
        return {name: value.flat_values if hasattr(value, "flat_values") else value for name, value in columns.items()}

    return read


def _fault(path: str, parse: Callable) -> InputError:
    """Say where a shard is bad, by reading it again."""
    offset, fault = 0, "broken checksum or truncated shard; fetch it again"
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
        fault = f"{reason}; {_content(record.numpy())}"
    except UnicodeDecodeError:
        fault = "no tf.train.Example"
    return InputError(f"{path}: record at byte {offset}: {fault}")


def _content(record: bytes) -> str:
    """What a record has, in words."""
    try:
        names = sorted(tf.train.Example.FromString(record).features.feature)
    except Exception:  # protocol buffers have an error of their own, by a name that depends on their version
        return "it is no tf.train.Example"
    return f"it has {listed(names)}" if names else "it has nothing"


def _joined(parts: list[Columns]) -> Columns:
    """The columns of a split from those of its shards."""
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


def _write_cache(path: Path, signature: str, known: dict[str, Columns]) -> None:
    arrays = {f"{name}:{column}": array for name, columns in known.items() for column, array in columns.items()}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with open(partial, "wb") as file:
            np.savez(file, signature=np.array(signature), **arrays)
        os.replace(partial, path)
    except OSError:  # a folder that others keep; it is scanned again next time
        with contextlib.suppress(OSError):
            partial.unlink()
