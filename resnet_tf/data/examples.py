"""Index the examples of a split, whose images stay encoded where they are, and read one image.

The index holds a few numbers per example, so that a data set as large as ImageNet is shuffled, split and resumed by
arithmetic. TensorFlow operations read the images, without Python, so that a pipeline can run anywhere.
"""

import dataclasses
import hashlib
import os
from typing import Protocol

import numpy as np
import tensorflow as tf

from resnet_tf.data import formats, images, orientation
from resnet_tf.errors import InputError

# The errors of TensorFlow operations; the second one occurs when a message quotes a record that is not text.
TENSORFLOW_ERRORS = (tf.errors.OpError, UnicodeDecodeError)


class Storage(Protocol):
    """The storage of encoded images. Images that only Pillow reads are returned as PNGs; see `formats`.

    Attributes:
        names: names of the images in reports, without the path of the data set on this machine.
    """

    names: list[str]

    def __len__(self) -> int:
        """Return the number of images."""

    def name(self, image: int) -> str:
        """Return the name of an image in errors."""

    def read(self, image: int) -> bytes:
        """Read one image; raises InputError, which names the image, if that fails."""

    def reader(self):
        """Return function(int64 scalar tensor) -> scalar string tensor, for use in a graph."""

    def fingerprint(self) -> bytes:
        """Return bytes that differ if the images differ."""


@dataclasses.dataclass(frozen=True, eq=False)
class Files:
    """Images in files of their own.

    Attributes:
        root: the folder that contains the files.
        names: paths relative to `root`, with forward slashes.
        sizes: int64 [n], size of each file in bytes.
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
    """Encoded images in memory, read from an archive.

    Attributes:
        origin: name of the archive.
        names: names of the images in the archive.
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
    """Return an encoded image in a format that TensorFlow reads."""
    return images.readable(data, storage.name(image)) if formats.by_pillow([storage.names[image]])[0] else data


def _reader(storage: Files | Memory, plain):
    """Return function(image) for a graph: `plain`, or one that calls Python for images that only Pillow reads."""
    needs_pillow = formats.by_pillow(storage.names)
    if not needs_pillow.any():
        return plain

    def by_pillow(image):
        return tf.ensure_shape(tf.numpy_function(storage.read, [image], tf.string, stateful=False), [])

    needs_pillow = tf.constant(needs_pillow)
    return lambda image: tf.cond(needs_pillow[image], lambda: by_pillow(image), lambda: plain(image))


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """Images in TFRecord shards of tf.train.Example; reading verifies the checksum of the record.

    Attributes:
        shards: paths of the shards.
        shard: int32 [n], index of the shard that holds each image.
        offset: int64 [n], byte in the shard at which the record of each image begins.
        key: key of the feature that holds the encoded image.
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
        positions = zip(self.shard.tolist(), self.offset.tolist(), strict=True)
        return [f"{files[shard]}: record at byte {offset}" for shard, offset in positions]

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
            # tf.data.TFRecordDataset cannot start at a byte; the operation behind it can.
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
    """The examples of a split: labelled images, or labelled boxes of images.

    Attributes:
        storage: a `Files`, `Memory` or `Records`.
        image: int64 [n], index of the image of each example; several examples may be boxes of the same image.
        labels: int32 [n]; unused with `masks` or `objects`.
        boxes: int32 [n, 4], top, left, height and width in pixels; None if the examples are whole images.
        masks: a `masks.Masks` for segmentation, else None.
        objects: a `boxes.Objects` for detection, else None.
        sides: int64 [n, 2], height and width of each example's image according to its annotation, else None. An image
            of another size is refused when it is read; see `boxes.checked`.
        exif: "apply" or "ignore", the treatment of orientation tags; see `orientation.treated`. Boxes, masks and
            objects refer to the image after this treatment.
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
        """Check that lengths and dtypes agree."""
        if self.image.dtype != np.int64 or self.labels.dtype != np.int32:
            raise ValueError(f"image must be int64 and labels int32, not {self.image.dtype} and {self.labels.dtype}")
        if self.image.shape != self.labels.shape or self.labels.ndim != 1:
            raise ValueError(f"{self.image.shape} images, but {self.labels.shape} labels")
        if self.boxes is not None and self.boxes.shape != (len(self), 4):
            raise ValueError(f"boxes of shape {self.boxes.shape} for {len(self)} examples")
        if self.objects is not None and len(self.objects) != len(self):
            raise ValueError(f"objects of {len(self.objects)} examples for {len(self)}")

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def name(self, example: int) -> str:
        """Return the name of an example in errors."""
        return self.storage.name(int(self.image[example]))

    @property
    def names(self) -> list[str]:
        """Names of the examples in reports: paths within the data set, which stay the same if the data set is moved."""
        names = self.storage.names
        return [names[image] for image in self.image]

    def read(self, example: int) -> bytes:
        """Read the encoded image of an example, without its orientation tag if `exif` is "ignore".

        Raises:
            InputError: reading fails; names the image.
        """
        data = self.storage.read(int(self.image[example]))
        return data if self.exif == "apply" else orientation.ignored(tf.constant(data)).numpy()

    def reader(self):
        """Return function(index of an image, int64 scalar) -> encoded image as in `read`, for use in a graph."""
        read, treated = self.storage.reader(), orientation.treated(self.exif)
        return lambda image: treated(read(image))

    @property
    def needs_python(self) -> bool:
        """Whether some images need Pillow, so that they cannot be read without Python."""
        return bool(formats.by_pillow(getattr(self.storage, "names", ())).any())

    def take(self, indices: np.ndarray) -> "Examples":
        """Return the examples that an index array or a boolean mask selects."""
        boxes = None if self.boxes is None else self.boxes[indices]
        objects = None if self.objects is None else self.objects.take(indices)
        sides = None if self.sides is None else self.sides[indices]
        return dataclasses.replace(
            self, image=self.image[indices], labels=self.labels[indices], boxes=boxes, objects=objects, sides=sides
        )

    def digest(self) -> bytes:
        """Return 32 bytes that differ if the examples differ."""
        digest = hashlib.sha256(self.storage.fingerprint())
        digest.update(self.image.astype("<i8").tobytes() + self.labels.astype("<i4").tobytes())
        if self.boxes is not None:
            digest.update(self.boxes.astype("<i4").tobytes())
        if self.masks is not None:
            digest.update(self.masks.fingerprint())
        if self.objects is not None:
            digest.update(self.objects.fingerprint())
        return digest.digest()
