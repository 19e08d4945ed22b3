"""Examples that stay encoded where they are: an index of a split, and how one image is read.

An index holds a few numbers an example, so that a set of ImageNet's size is shuffled, split and resumed by
arithmetic. Images are read by TensorFlow's own operations, without Python, so that a pipeline may run anywhere.
"""

import dataclasses
import hashlib
import os
from typing import Protocol

import numpy as np
import tensorflow as tf

from resnet_tf.data import formats, images, orientation
from resnet_tf.errors import InputError

# What TensorFlow's operations raise; the second where a message quotes a record that is no text.
TENSORFLOW_ERRORS = (tf.errors.OpError, UnicodeDecodeError)


class Storage(Protocol):
    """Where encoded images are. Those that only Pillow reads are handed out as PNGs; see `formats`.

    Attributes:
        names: what to call the images in reports, without the place on this machine.
    """

    names: list[str]

    def __len__(self) -> int:
        """Returns the number of images."""

    def name(self, image: int) -> str:
        """Returns what to call an image in errors and reports."""

    def read(self, image: int) -> bytes:
        """Reads one image; raises InputError, which names it, where that fails."""

    def reader(self):
        """Returns function(int64 scalar tensor) -> scalar string tensor, for use in a graph."""

    def fingerprint(self) -> bytes:
        """Returns bytes that differ where the images are others."""


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Images that are a file each.

    Attributes:
        root: folder that the names begin in.
        names: paths relative to it, with forward slashes.
        sizes: int64 [n], bytes of each file.
    """

    root: str
    names: list[str]
    sizes: np.ndarray

    def __len__(self):
        return len(self.names)

    def name(self, image):
        """See `Storage`."""
        return f"{self.root}: {self.names[image]}"

    def read(self, image):
        """See `Storage`."""
        try:
            with open(f"{self.root}/{self.names[image]}", "rb") as file:
                data = file.read()
        except OSError as error:
            raise InputError(f"{self.name(image)}: {error.strerror}") from error
        return _readable(self, image, data)

    def reader(self):
        """See `Storage`."""
        root, names = os.fsencode(self.root), tf.constant([os.fsencode(name) for name in self.names])
        return _reader(self, lambda image: tf.io.read_file(tf.strings.join([root, "/", names[image]])))

    def fingerprint(self):
        """See `Storage`."""
        return os.fsencode("\0".join(self.names)) + self.sizes.astype("<i8").tobytes()


@dataclasses.dataclass(frozen=True, eq=False)
class Memory:
    """Images that are held in memory, still encoded: those of an archive.

    Attributes:
        origin: what to call where they came from.
        names: of the images there.
        data: the encoded images.
    """

    origin: str
    names: list[str]
    data: list[bytes]

    def __len__(self):
        return len(self.names)

    def name(self, image):
        """See `Storage`."""
        return f"{self.origin}: {self.names[image]}"

    def read(self, image):
        """See `Storage`."""
        return _readable(self, image, self.data[image])

    def reader(self):
        """See `Storage`."""
        data = tf.constant(self.data)
        return _reader(self, lambda image: data[image])

    def fingerprint(self):
        """See `Storage`."""
        return os.fsencode("\0".join(self.names)) + b"".join(hashlib.sha256(data).digest() for data in self.data)


def _readable(storage: Files | Memory, image: int, data: bytes) -> bytes:
    """An encoded image as TensorFlow reads it."""
    return images.readable(data, storage.name(image)) if formats.by_pillow([storage.names[image]])[0] else data


def _reader(storage: Files | Memory, plain):
    """function(image) of a graph: `plain`, or where there are files for Pillow, one that calls Python for them."""
    foreign = formats.by_pillow(storage.names)
    if not foreign.any():
        return plain

    def by_pillow(image):
        return tf.ensure_shape(tf.numpy_function(storage.read, [image], tf.string, stateful=False), [])

    foreign = tf.constant(foreign)
    return lambda image: tf.cond(foreign[image], lambda: by_pillow(image), lambda: plain(image))


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Images in TFRecord shards of tf.train.Example; every read checks the record's checksum.

    Attributes:
        shards: paths.
        shard: int32 [n], which of them holds an image.
        offset: int64 [n], byte in the shard where its record begins.
        key: of the feature that is the encoded image.
    """

    shards: list[str]
    shard: np.ndarray
    offset: np.ndarray
    key: str = "image/encoded"

    def __len__(self):
        return len(self.shard)

    @property
    def names(self):
        """See `Storage`."""
        files = [os.path.basename(path) for path in self.shards]
        places = zip(self.shard.tolist(), self.offset.tolist(), strict=True)
        return [f"{files[shard]}: record at byte {offset}" for shard, offset in places]

    def name(self, image):
        """See `Storage`."""
        return f"{self.shards[self.shard[image]]}: record at byte {self.offset[image]}"

    def read(self, image):
        """See `Storage`."""
        try:
            return self.reader()(tf.constant(image, tf.int64)).numpy()
        except tf.errors.DataLossError as error:
            raise InputError(f"{self.name(image)}: broken checksum or truncated shard") from error
        except TENSORFLOW_ERRORS as error:
            reason = " ".join(getattr(error, "message", "no tf.train.Example").split())
            raise InputError(f"{self.name(image)}: cannot be read ({reason})") from error

    def reader(self):
        """See `Storage`."""
        shards, shard, offset = tf.constant(self.shards), tf.constant(self.shard), tf.constant(self.offset)

        def read(image):
            # tf.data.TFRecordDataset cannot start at a byte; the operation beneath it can.
            records = tf.raw_ops.TFRecordDatasetV2(
                filenames=[shards[shard[image]]],
                compression_type="",
                buffer_size=tf.constant(0, tf.int64),
                byte_offsets=[offset[image]],
            )
            first = {"output_types": [tf.string], "output_shapes": [[]]}
            one = tf.raw_ops.TakeDataset(input_dataset=records, count=tf.constant(1, tf.int64), **first)
            record = tf.raw_ops.DatasetToSingleElement(dataset=one, **first)[0]
            return tf.io.parse_single_example(record, {self.key: tf.io.FixedLenFeature([], tf.string)})[self.key]

        return read

    def fingerprint(self):
        """See `Storage`."""
        return self.shard.astype("<i4").tobytes() + self.offset.astype("<i8").tobytes()


@dataclasses.dataclass(frozen=True, eq=False)
class Examples:
    """A split: labelled images, or labelled boxes of images.

    Attributes:
        storage: a `Files`, `Memory` or `Records`.
        image: int64 [n], the image of each example; several examples may be boxes of one.
        labels: int32 [n].
        boxes: int32 [n, 4], top, left, height and width in pixels; or None, where examples are whole images.
        masks: `masks.Masks` of the images, where pixels have classes and `labels` mean nothing; or None.
        objects: `boxes.Objects` of the examples, where objects have classes and `labels` mean nothing; or None.
        sides: int64 [n, 2], height and width of each example's image as its annotation has it; or None, where no
            annotation does. An image of another size is refused when it is read; see `boxes.checked`.
        exif: "apply" or "ignore", what is done with the orientation tags of the images; see `orientation.treated`.
            Boxes, masks and objects are of the images as they are seen then.
    """

    storage: Storage
    image: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray | None = None
    masks: object = None
    objects: object = None
    sides: np.ndarray | None = None
    exif: str = "apply"

    def __post_init__(self):
        """Checks that lengths and dtypes agree."""
        if self.image.dtype != np.int64 or self.labels.dtype != np.int32:
            raise ValueError(f"image must be int64 and labels int32, not {self.image.dtype} and {self.labels.dtype}")
        if self.image.shape != self.labels.shape or self.labels.ndim != 1:
            raise ValueError(f"{self.image.shape} images, but {self.labels.shape} labels")
        if self.boxes is not None and self.boxes.shape != (len(self), 4):
            raise ValueError(f"boxes of shape {self.boxes.shape} for {len(self)} examples")
        if self.objects is not None and len(self.objects) != len(self):
            raise ValueError(f"objects of {len(self.objects)} examples for {len(self)}")

    def __len__(self) -> int:
        """Returns the number of examples."""
        return len(self.labels)

    def name(self, example: int) -> str:
        """Returns what to call an example in errors and reports."""
        return self.storage.name(int(self.image[example]))

    @property
    def names(self) -> list[str]:
        """What reports call the examples: their files within folder or archive, so that it stays where data move."""
        names = self.storage.names
        return [names[image] for image in self.image]

    def read(self, example: int) -> bytes:
        """Reads the encoded image of an example, as it is to be decoded.

        Raises:
            InputError: names the image, where that fails.
        """
        data = self.storage.read(int(self.image[example]))
        return data if self.exif == "apply" else orientation.ignored(tf.constant(data)).numpy()

    def reader(self):
        """Returns function(int64 scalar tensor, the image) -> scalar string tensor, likewise, for use in a graph."""
        read, treated = self.storage.reader(), orientation.treated(self.exif)
        return lambda image: treated(read(image))

    @property
    def needs_python(self) -> bool:
        """Whether Pillow reads some of the images, so that they cannot be read where there is no Python."""
        return bool(formats.by_pillow(getattr(self.storage, "names", ())).any())

    def take(self, chosen) -> "Examples":
        """Returns the examples that an index array or a mask chooses, of the same storage."""
        boxes = None if self.boxes is None else self.boxes[chosen]
        objects = None if self.objects is None else self.objects.take(chosen)
        sides = None if self.sides is None else self.sides[chosen]
        return dataclasses.replace(
            self, image=self.image[chosen], labels=self.labels[chosen], boxes=boxes, objects=objects, sides=sides
        )

    def digest(self) -> bytes:
        """Returns 32 bytes that differ where the examples are others."""
        digest = hashlib.sha256(self.storage.fingerprint())
        digest.update(self.image.astype("<i8").tobytes() + self.labels.astype("<i4").tobytes())
        if self.boxes is not None:
            digest.update(self.boxes.astype("<i4").tobytes())
        if self.masks is not None:
            digest.update(self.masks.fingerprint())
        if self.objects is not None:
            digest.update(self.objects.fingerprint())
        return digest.digest()
