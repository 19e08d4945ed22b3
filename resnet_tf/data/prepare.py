"""Write a prepared data set (see `shards`): small JPEGs in a few large files, which are fast to read in any order.

Shards are written one by one. A finished shard has a note of its content beside it until all shards are finished. A
call that finds the notes of an interrupted call continues with the shards without a note. The result depends neither on
the number of threads nor on interruptions.
"""

import contextlib
import csv
import dataclasses
import fcntl
import hashlib
import io
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf

from resnet_tf import files
from resnet_tf.data import boxes as annotations
from resnet_tf.data import images, orientation, processors, resizing, shards, verify
from resnet_tf.data.examples import Examples, Files, Memory, Records
from resnet_tf.data.splits import Source
from resnet_tf.errors import InputError

SHARD_BYTES = 200e6  # bytes of the source's images per shard, if the number of shards is not given
REPORT = "report.csv"
_SETTINGS = ".prepare.json"  # settings of an unfinished folder
_AHEAD = 64  # images that are prepared in advance


def prepare(
    source: Source,
    out: str | os.PathLike,
    shorter_side: int = 288,
    quality: int = 90,
    shard_count: int = 0,
    skip_bad_images: int = 0,
) -> dict:
    """Write a prepared data set, or continue an interrupted one.

    Images whose shorter side is longer than `shorter_side` are scaled down to it (bilinear, antialiased) and encoded as
    JPEG, 4:2:0. Smaller JPEGs keep their bytes. Smaller images of other formats, JPEGs of four colours, and JPEGs with
    an orientation tag that turns them become upright RGB JPEGs without tag. If the examples are boxes of images, the
    pixels in the boxes are scaled and stored. The training split is shuffled, always in the same order, so that every
    shard has a mixture of classes; other splits keep their order.

    Args:
        source: a data set whose splits are `Examples`.
        out: folder to write; created if missing.
        shorter_side: largest shorter side in pixels. 0 keeps the bytes of every image with its orientation tag, except
            that boxes are cropped, and images that only Pillow reads become PNGs.
        quality: quality of the JPEGs, 1 to 100.
        shard_count: number of shards per split, at most one per example; 0 for about SHARD_BYTES of the source each.
        skip_bad_images: how many images that cannot be read or decoded may be skipped, in all splits together; the file
            REPORT in `out` names them.

    Returns:
        {"out", "examples": {split: n}, "skipped", "shards", "bytes" (of the shards), "images_per_second" (0 if there
        was nothing to do), "wall_seconds"}.

    Raises:
        InputError: `out` has other settings or another source, is in use by another process, or is not a prepared data
            set; too many images are bad, the last of which is named; or the disk is full.
    """
    begun = time.monotonic()
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise InputError(f"--out={out}: a file, not a folder")
    settings = {
        "dataset": source.name,
        "shorter_side": shorter_side,
        "quality": quality,
        "shards": shard_count,
        "boxes": "cropped" if any(split.boxes is not None for split in source.splits.values()) else "none",
        "exif": next(iter(source.splits.values())).exif,
        "source": _checksum(source),
    }
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        rate = 0.0
        if not _finished(out, settings):
            shards.replace_json(out / _SETTINGS, settings)
            parts = {name: _parts(name, split, out, shard_count) for name, split in source.splits.items()}
            rate = _write_missing(source, parts, shorter_side, quality, skip_bad_images)
            _finish(source, parts, out, settings)
        index = shards.read_index(out)
        for path in [*out.glob(".*-of-*.json"), *out.glob(".*.partial"), out / _SETTINGS]:
            path.unlink(missing_ok=True)
    splits = index["splits"]
    files = [shard for split in splits.values() for shard in split["shards"]]
    return {
        "out": str(out),
        "examples": {name: split["examples"] for name, split in splits.items()},
        "skipped": sum(split["skipped"] for split in splits.values()),
        "shards": len(files),
        "bytes": sum(shard["bytes"] for shard in files),
        "images_per_second": round(rate, 1),
        "wall_seconds": round(time.monotonic() - begun, 2),
    }


def _checksum(source: Source) -> str:
    """Return 16 hex digits that depend on classes and examples."""
    parts = {name: split.digest().hex() for name, split in sorted(source.splits.items())}
    return hashlib.sha256(json.dumps([source.classes, parts]).encode()).hexdigest()[:16]


# --- The folder ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(folder: Path):
    """Lock the folder against other processes."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out={folder}: another process is writing to it") from None
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        os.close(handle)


def _finished(out: Path, settings: dict) -> bool:
    """Return whether the folder is complete; refuse it if it has other settings or is not a prepared data set."""
    finished = (out / shards.INDEX).exists()
    if finished:
        index = shards.read_index(out)
        existing = index["settings"]
        for split in index["splits"].values():
            shards.check_sizes(out, split)
    elif (out / _SETTINGS).exists():
        existing = shards.read_json(out / _SETTINGS)
    elif {path.name for path in out.iterdir()} - {files.partial_path(out / _SETTINGS).name}:
        raise InputError(f"--out={out}: not empty and not a prepared data set; choose another")
    else:
        return False
    existing.setdefault("exif", "ignore")  # the behaviour before this setting existed
    differing = [
        "other images" if name == "source" else f"--{name}={existing.get(name)} there, {value} here"
        for name, value in settings.items()
        if existing.get(name) != value
    ]
    if differing:
        raise InputError(f"--out={out}: prepared with other settings: {'; '.join(differing)}; choose another")
    return finished


# --- Shards ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Part:
    """A shard to be written.

    Attributes:
        path: path of the shard.
        indices: int64, indices of its examples in the split, in order.
        note: {"examples", "bytes", "crc32", "offsets", "labels", "skipped": [[name, reason]]}; None if not yet written.
    """

    path: Path
    indices: np.ndarray
    note: dict | None

    @property
    def note_path(self) -> Path:
        return self.path.with_name(f".{self.path.stem}.json")


def _parts(split: str, examples: Examples, out: Path, count: int) -> list[_Part]:
    """Return the shards of a split, with the notes of finished ones."""
    total = len(examples)
    order = np.random.default_rng(0).permutation(total) if split == "train" else np.arange(total)
    count = max(1, min(count or round(_encoded_bytes(examples) / SHARD_BYTES), total))
    parts = []
    for shard, indices in enumerate(np.array_split(order, count)):
        part = _Part(out / shards.shard_name(split, shard, count), indices, None)
        if part.note_path.exists() and part.path.exists():
            note = shards.read_json(part.note_path)
            part.note = note if part.path.stat().st_size == note["bytes"] else None
        parts.append(part)
    return parts


def _encoded_bytes(examples: Examples) -> float:
    storage, used = examples.storage, np.unique(examples.image)
    if isinstance(storage, Files):
        return storage.sizes[used].sum()
    if isinstance(storage, Memory):
        return sum(len(storage.data[image]) for image in used)
    return sum(os.path.getsize(path) for path in storage.shards) * len(used) / len(storage)


def _write_missing(source, parts, shorter_side, quality, skip_bad_images) -> float:
    """Write the missing shards and return images/s."""
    tally = _Tally(sum(map(len, source.splits.values())), skip_bad_images)
    for part in (part for of_split in parts.values() for part in of_split if part.note):
        tally.done += len(part.indices)
        for name, reason in part.note["skipped"]:
            tally.skip(name, reason)
    tally.before = tally.done
    for name, split in source.splits.items():
        missing = [part for part in parts[name] if part.note is None]
        if missing:
            indices = np.concatenate([part.indices for part in missing])
            encoded = _prepared_images(split.take(indices), shorter_side, quality)
            for part in missing:
                _write(part, split.take(part.indices), source.classes, encoded, tally)
    return tally.end()


def _write(part: _Part, examples: Examples, classes: tuple[str, ...], encoded: Iterator, tally: "_Tally") -> None:
    """Write one shard with the next images of the iterator, and its note."""
    labels, skipped = [], []

    def records():
        for example, label in enumerate(examples.labels.tolist()):
            try:
                data, sides = next(encoded)
            except tf.errors.OpError as error:
                skipped.append([examples.name(example), _reason(examples, example, error)])
                tally.skip(*skipped[-1])
            else:
                height, width = sides.numpy().tolist()
                labels.append(label)
                yield shards.encode(data.numpy(), height, width, label, classes[label], _filename(examples, example))
            tally.step()

    offsets, size, crc32 = shards.write_shard(part.path, records())
    part.note = {"examples": len(labels), "bytes": size, "crc32": crc32}
    part.note |= {"offsets": offsets, "labels": labels, "skipped": skipped}
    shards.replace_json(part.note_path, part.note)


def _finish(source: Source, parts: dict[str, list[_Part]], out: Path, settings: dict) -> None:
    """Write the files of a data set besides its shards, the index last; see `shards`."""
    splits, report = {}, io.StringIO(newline="")
    rows = csv.writer(report, lineterminator="\n")
    rows.writerow(["split", "name", "reason"])
    for name, split in source.splits.items():
        notes = [part.note for part in parts[name]]
        skipped = [row for note in notes for row in note["skipped"]]
        rows.writerows([name, *row] for row in skipped)
        arrays = {
            "shard": np.repeat(np.arange(len(notes), dtype=np.int32), [note["examples"] for note in notes]),
            "offset": np.array([offset for note in notes for offset in note["offsets"]], np.int64),
            "labels": np.array([label for note in notes for label in note["labels"]], np.int32),
        }
        lengths = {len(array) + len(skipped) for array in arrays.values()}
        if lengths != {len(split)}:
            raise RuntimeError(f"{out}: {lengths} of {len(split)} examples of {name} were written or skipped")
        shards.replace(out / f"{name}.npz", partial(np.savez, **arrays))
        files = [
            {"file": part.path.name} | {key: part.note[key] for key in ("examples", "bytes", "crc32")}
            for part in parts[name]
        ]
        splits[name] = {"examples": len(split) - len(skipped), "skipped": len(skipped), "shards": files}
    shards.replace(out / REPORT, lambda file: file.write(report.getvalue().encode(errors="surrogateescape")))
    index = {"format": shards.FORMAT, "classes": list(source.classes), "settings": settings, "splits": splits}
    shards.replace_json(out / shards.INDEX, index)


def _filename(examples: Examples, example: int) -> str:
    """Return the name of an example in its data set, without the path of the data set."""
    storage, image = examples.storage, examples.image[example]
    if isinstance(storage, Records):
        name = f"{os.path.basename(storage.shards[storage.shard[image]])}: record at byte {storage.offset[image]}"
    else:
        name = storage.names[image]
    if examples.boxes is None:
        return name
    top, left, height, width = examples.boxes[example].tolist()
    return f"{name}: box of {height} x {width} at {top}, {left}"


# --- Images ----------------------------------------------------------------------------------------------------------


def _prepared_images(examples: Examples, shorter_side: int, quality: int) -> Iterator:
    """Return an iterator over the images to store: encoded, scalar string, and height and width, int32 [2].

    For a bad image the iterator raises tf.errors.OpError and then continues with the next image.
    """
    threads = processors.count()

    read = examples.reader()
    cropped = examples.boxes is not None
    boxes = examples.boxes if cropped else np.zeros((len(examples), 4), np.int32)

    def make(image, box, *sides):
        data = annotations.checked(read(image), *sides) if sides else read(image)
        data = verify.check_format(data)
        pixels = images.decode_tensor(data)  # even if the bytes are kept, to be sure that decoding works
        if cropped:
            pixels = _crop(pixels, box)
        if not shorter_side:
            return (_encode(pixels, quality) if cropped else data), tf.shape(pixels)[:2]
        height, width = tf.unstack(tf.shape(pixels)[:2])
        small = tf.minimum(height, width) <= shorter_side

        def shrink():
            scaled = images.scaled_sides(height, width, shorter_side)
            return resizing.resize_window(pixels, scaled, tf.zeros([2], tf.int64), scaled)

        stored = tf.cond(small, lambda: pixels, shrink)
        keep = tf.constant(False) if cropped else small & _is_plain_jpeg(data) & (orientation.of(data) == 1)
        return tf.cond(keep, lambda: data, lambda: _encode(stored, quality)), tf.shape(stored)[:2]

    parts = (examples.image, boxes) if examples.sides is None else (examples.image, boxes, examples.sides)
    dataset = tf.data.Dataset.from_tensor_slices(parts).with_options(processors.dataset_options(threads))
    return iter(dataset.map(make, num_parallel_calls=threads, deterministic=True).prefetch(_AHEAD))


def _is_plain_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Return whether an image is a JPEG of one or three colours; few decoders can read CMYK."""
    return tf.cond(tf.io.is_jpeg(data), lambda: tf.io.extract_jpeg_shape(data)[2] <= 3, lambda: False)


def _crop(pixels: tf.Tensor, box: tf.Tensor) -> tf.Tensor:
    start, stop = box[:2], box[:2] + box[2:]
    inside = tf.reduce_all(start >= 0) & tf.reduce_all(box[2:] > 0) & tf.reduce_all(stop <= tf.shape(pixels)[:2])
    with tf.control_dependencies([tf.debugging.Assert(inside, ["not in the image:", box])]):
        return pixels[start[0] : stop[0], start[1] : stop[1]]


def _encode(pixels: tf.Tensor, quality: int) -> tf.Tensor:
    return tf.io.encode_jpeg(pixels, format="rgb", quality=quality)


def _reason(examples: Examples, example: int, error: tf.errors.OpError) -> str:
    """Return in one line why an image is bad."""
    name = examples.name(example)
    try:
        height, width, _ = images.decode(examples.read(example), name).shape
    except InputError as damage:
        return str(damage).removeprefix(f"{name}: ")
    if examples.sides is not None and examples.sides[example].tolist() != [height, width]:
        return annotations.other_size((height, width), examples.sides[example], examples.read(example))
    if examples.boxes is not None:
        return f"box {examples.boxes[example].tolist()} is empty or not in the image of {height} x {width} pixels"
    return f"{height} x {width} pixels cannot be stored ({' '.join(error.message.split())})"


# --- Progress --------------------------------------------------------------------------------------------------------


class _Tally:
    """A counter of images that shows progress on stderr and refuses too many bad images.

    Attributes:
        total: number of images.
        done: number of images that were written or skipped.
        before: number of these images that earlier calls wrote or skipped.
        skipped: number of bad images.
    """

    def __init__(self, total: int, limit: int):
        self.total, self.limit = total, limit
        self.done = self.before = self.skipped = 0
        self._terminal = sys.stderr.isatty()
        self._begun = self._shown = time.monotonic()

    def skip(self, name: str, reason: str) -> None:
        """Count a bad image; raise InputError if there are too many."""
        self.skipped += 1
        if self.skipped > self.limit:
            raise InputError(f"{name}: {reason} (bad image {self.skipped}; --skip_bad_images={self.limit})")

    def step(self) -> None:
        """Count an image that was written or skipped."""
        self.done += 1
        now = time.monotonic()
        if now - self._shown >= (0.2 if self._terminal else 10):
            self._shown = now
            self._show("\r\x1b[2K" if self._terminal else "", "" if self._terminal else "\n")

    def end(self) -> float:
        """Show the final state and return images/s."""
        if self.done > self.before:
            self._show("\r\x1b[2K" if self._terminal else "", "\n")
        return self._rate()

    def _rate(self) -> float:
        return (self.done - self.before) / max(time.monotonic() - self._begun, 1e-9)

    def _show(self, start: str, end: str) -> None:
        rate = self._rate()
        minutes, seconds = divmod(int((self.total - self.done) / max(rate, 1e-9)), 60)
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        line = f"{self.done}/{self.total} images{skipped}  {rate:,.0f} images/s  {minutes}:{seconds:02d} left"
        print(f"{start}{line}", end=end, file=sys.stderr, flush=True)
