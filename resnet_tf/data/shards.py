"""Read and write prepared data sets: TFRecord shards, the position of each record, and an index.

A folder of this format holds:

- `index.json`, which is written last, so that a folder with this file is complete:

    {"format": 1,
     "classes": [names in the order of their labels],
     "settings": {settings of `prepare`},
     "splits": {"train": {"examples": n, "skipped": n, "shards": [
         {"file": "train-00000-of-00004.tfrecord", "examples": n, "bytes": size, "crc32": checksum}]}, ...}}

- `SPLIT.npz` for each split, with `shard` (int32 [n], index of the shard), `offset` (int64 [n], byte at which the
  record begins) and `labels` (int32 [n]), in the order of the records;
- the shards, whose records are tf.train.Example; see `encode`.
"""

import json
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
    """Return the file name of shard number `shard` of `count` shards of a split."""
    return f"{split}-{shard:05d}-of-{count:05d}.tfrecord"


def encode(image: bytes, height: int, width: int, label: int, text: str, filename: str) -> bytes:
    """Encode one labelled image as a tf.train.Example, to the same bytes every time.

    Args:
        image: encoded JPEG, PNG, BMP, GIF or WebP.
        height: height of the image in pixels.
        width: width of the image in pixels.
        label: label of the image, from 0.
        text: name of its class.
        filename: name of the file that the image was read from.
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
    """Write a shard atomically: `path` is complete or absent, even if the process is killed.

    Args:
        path: path of the shard; an existing file is replaced.
        records: content of the shard.

    Returns:
        The offsets of the records, and size and CRC-32 of the file.

    Raises:
        InputError: the disk is full or not writable.
    """
    offsets, end, crc32 = [], 0, 0
    with files.writing(path) as partial:
        try:
            with tf.io.TFRecordWriter(str(partial)) as writer:
                for record in records:
                    writer.write(record)
                    offsets.append(end)
                    end += _FRAME + len(record)
        except tf.errors.OpError as error:
            reason = " ".join(error.message.split()).removeprefix(f"{partial}; ")
            raise InputError(f"{path}: cannot be written ({reason})") from error
        with open(partial, "rb") as file:
            while part := file.read(2**20):
                crc32 = zlib.crc32(part, crc32)
            size = file.tell()
        if size != end:
            raise InputError(f"{path}: cannot be written (only {size} of {end} bytes were)")
    return offsets, size, crc32


def replace(path: Path, write: Callable) -> None:
    """Write a small file atomically; see `files.replace_atomically`.

    Raises:
        InputError: the disk is full or not writable.
    """
    try:
        files.replace_atomically(path, write)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def replace_json(path: Path, content) -> None:
    """Write a JSON file atomically; see `replace`."""
    replace(path, lambda file: file.write((files.to_json(content, indent=1) + "\n").encode()))


# --- Reading ---------------------------------------------------------------------------------------------------------


def read_index(folder: Path) -> dict:
    """Read the index.json of a prepared data set.

    Raises:
        InputError: it is missing, damaged or of another format.
    """
    path = Path(folder) / INDEX
    index = read_json(path)
    if index.get("format") != FORMAT:
        raise InputError(f"{path}: has format {index.get('format')}, not {FORMAT}: prepare the data again")
    return index


def read_split(folder: Path, index: dict, split: str) -> Examples:
    """Read the positions and labels of the examples of a split, in the order of the records.

    Args:
        folder: folder of the prepared data set.
        index: the result of `read_index`.
        split: name of the split.

    Raises:
        InputError: a shard is missing or its size differs from the index; SPLIT.npz is missing, damaged, or does not
            fit the index.
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
        raise InputError(f"{path}: does not fit {INDEX}; prepare the data again")
    files = [str(folder / shard["file"]) for shard in entry["shards"]]
    return Examples(Records(files, shard, offset), np.arange(len(shard), dtype=np.int64), labels)


def check_sizes(folder: Path, split: dict) -> None:
    """Check that the shards of a split exist and have the sizes in the index.

    Args:
        folder: folder of the prepared data set.
        split: the entry of the split in the index.

    Raises:
        InputError: a shard is missing or has another size; names the shard.
    """
    for shard in split["shards"]:
        path = Path(folder) / shard["file"]
        size = path.stat().st_size if path.is_file() else None
        if size is None:
            raise InputError(f"{path}: the shard is missing; fetch it again, or prepare the data again")
        if size != shard["bytes"]:
            raise InputError(f"{path}: {size} bytes, not {shard['bytes']}; fetch it again, or prepare the data again")


def read_json(path: Path) -> dict:
    """Read a dict from a JSON file; return {} if the file holds something else.

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
