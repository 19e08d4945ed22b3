"""A prepared data set: TFRecord shards, where each record begins, and an index.

A folder of the format holds `index.json`, which is written last, so that a folder that has it is complete:

    {"format": 1,
     "classes": [names in the order of their labels],
     "settings": {what the images were made with},
     "splits": {"train": {"examples": n, "skipped": n, "shards": [
         {"file": "train-00000-of-00004.tfrecord", "examples": n, "bytes": size, "crc32": of the file}]}, ...}}

for each split `SPLIT.npz` with `shard` (int32 [n], index into the split's shards), `offset` (int64 [n], byte where the
record begins) and `labels` (int32 [n]), in the order of the records; and the shards, whose records are
tf.train.Example as `encode` makes them.
"""

import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf import files
from resnet_tf.data.examples import Examples, Records
from resnet_tf.errors import InputError

FORMAT = 1
INDEX = "index.json"
_FRAME = 16  # bytes around a record: its length, and checksums of the length and of the record


def shard_name(split: str, shard: int, count: int) -> str:
    """Return the file name of a split's shard, of `count`."""
    return f"{split}-{shard:05d}-of-{count:05d}.tfrecord"


def encode(image: bytes, height: int, width: int, label: int, text: str, filename: str) -> bytes:
    """Encode one labelled image as a tf.train.Example, to the same bytes every time.

    Args:
        image: encoded JPEG, PNG, BMP, GIF or WebP.
        height: of the image in pixels.
        width: likewise.
        label: from 0 on.
        text: name of the label's class.
        filename: where the image is from.
    """

    def integer(value):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def string(value):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    features = {
        "image/encoded": string(image),
        "image/height": integer(height),
        "image/width": integer(width),
        "image/class/label": integer(label),
        "image/class/text": string(text.encode()),
        "image/filename": string(filename.encode(errors="surrogateescape")),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString(deterministic=True)


# --- Writing ---------------------------------------------------------------------------------------------------------


def write_shard(path: Path, records: Iterable[bytes]) -> tuple[list[int], int, int]:
    """Write a shard so that `path` is whole or absent, whenever the process ends.

    Args:
        path: of the shard; one that is there is replaced.
        records: what it shall hold.

    Returns:
        Bytes where the records begin, and length and CRC-32 of the file.

    Raises:
        InputError: disk full or not writable.
    """
    partial = files.partial_path(path)
    offsets, end = [], 0
    try:
        try:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for record in records:
                    writer.write(record)
                    offsets.append(end)
                    end += _FRAME + len(record)
        except tf.errors.OpError as error:
            reason = " ".join(error.message.split()).removeprefix(f"{partial}; ")
            raise InputError(f"{path}: cannot be written ({reason})") from error
        crc32 = 0
        with open(partial, "rb") as file:
            while part := file.read(2**20):
                crc32 = zlib.crc32(part, crc32)
            size = file.tell()
            os.fsync(file.fileno())
        if size != end:
            raise InputError(f"{path}: cannot be written ({size} of {end} bytes arrived)")
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return offsets, size, crc32


def replace(path: Path, write: Callable) -> None:
    """Write a small file so that `path` holds all of the new content, or what it held before.

    Args:
        path: of the file.
        write: function(binary file) that writes the content.

    Raises:
        InputError: disk full or not writable.
    """
    try:
        files.replace_atomically(path, write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def replace_json(path: Path, content) -> None:
    """Write a JSON file as `replace` does."""
    replace(path, lambda file: file.write((files.to_json(content, indent=1) + "\n").encode()))


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_index(folder: Path) -> dict:
    """Read index.json.

    Args:
        folder: of the prepared data set.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path = Path(folder) / INDEX
    index = read_json(path)
    if index.get("format") != FORMAT:
        raise InputError(f"{path}: of format {index.get('format')}, not {FORMAT}: prepare the data anew")
    return index


def read_split(folder: Path, index: dict, split: str) -> Examples:
    """Read where the examples of a split are.

    Args:
        folder: of the prepared data set.
        index: what `read_index` returned.
        split: one of its splits.

    Returns:
        The split, in the order of its records.

    Raises:
        InputError: a shard is missing or of another size than the index says; SPLIT.npz is missing, damaged, or does
            not fit the index.
    """
    folder = Path(folder)
    entry = index["splits"][split]
    check_sizes(folder, entry)
    path = folder / f"{split}.npz"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            shard, offset, labels = arrays["shard"], arrays["offset"], arrays["labels"]
    except FileNotFoundError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, KeyError, OSError) as error:
        raise InputError(f"{path}: damaged ({error})") from error
    counts = [shard["examples"] for shard in entry["shards"]]
    expected = np.repeat(np.arange(len(counts), dtype=np.int32), counts)
    lengths = {len(expected), len(offset), len(labels), entry["examples"]}
    if len(lengths) > 1 or not np.array_equal(shard, expected) or labels.max(initial=0) >= len(index["classes"]):
        raise InputError(f"{path}: does not fit {INDEX}; prepare the data anew")
    files = [str(folder / shard["file"]) for shard in entry["shards"]]
    return Examples(Records(files, shard, offset), np.arange(len(shard), dtype=np.int64), labels)


def check_sizes(folder: Path, split: dict) -> None:
    """Refuse shards that are not there or not as long as they were written.

    Args:
        folder: of the prepared data set.
        split: an entry of the index.

    Raises:
        InputError: names the shard.
    """
    for shard in split["shards"]:
        path = Path(folder) / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise InputError(f"{path}: the shard is missing; fetch it again, or prepare the data anew")
        if size != shard["bytes"]:
            raise InputError(f"{path}: {size} bytes, not {shard['bytes']}; fetch it again, or prepare the data anew")


def read_json(path: Path) -> dict:
    """Read a JSON file: a dict, empty where it holds something else.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise InputError(f"{path}: damaged") from error
    return content if isinstance(content, dict) else {}
