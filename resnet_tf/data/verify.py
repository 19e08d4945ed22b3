"""Find images that cannot be decoded before a training begins."""

from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from resnet_tf.data import boxes, images, masks, orientation, processors
from resnet_tf.data.examples import TENSORFLOW_ERRORS, Examples
from resnet_tf.data.progress import Progress
from resnet_tf.errors import InputError


def verify(
    examples: Examples, limit: int, report: Callable[[int, int], None] | None = None
) -> tuple[Examples, list[tuple[str, str]]]:
    """Read every image once and remove the examples whose image or box is bad.

    JPEGs are decoded at an eighth of their size, which still reads all of their data; other formats are fully decoded.
    Images that pass can be decoded by `images.decode`.

    Args:
        examples: a split.
        limit: how many bad images, or bad boxes of good images, may be removed.
        report: function(images read so far, all images), called after each image; None shows a percentage on stderr.

    Returns:
        The good examples in order; and the name and the fault of each bad image or box.

    Raises:
        InputError: there are more than `limit` bad images or boxes, the first of which is named; or no good one.
    """
    storage, used = examples.storage, np.unique(examples.image)
    progress = Progress("checking images", len(used))
    sides = np.zeros((len(storage), 2), np.int64)
    bad: list[tuple[str, str]] = []
    for done, (image, size) in enumerate(zip(used, _sides(examples, used), strict=True), 1):
        if isinstance(size, str):
            bad.append((storage.name(int(image)), size))
            _check_count(bad, limit)
        else:
            sides[image] = size
        progress.add(1)
        if report:
            report(done, len(used))
    progress.end()
    decoded = sides[examples.image].min(axis=1) > 0
    inside = _inside(examples, sides[examples.image])
    for example in np.flatnonzero(decoded & ~inside):
        bad.append(describe_box(examples, example, sides[examples.image[example]]))
        _check_count(bad, limit)
    good = decoded & inside
    if not good.any():
        raise InputError(f"{bad[0][0]}: {bad[0][1]}; and no image is good" if bad else "no images")
    return (examples if good.all() else examples.take(good)), bad


def annotations(examples: Examples) -> None:
    """Check that the annotations of a split fit its images; see `masks.verify` and `boxes.verify`."""
    if examples.masks is not None:
        masks.verify(examples)
    if examples.objects is not None:
        boxes.verify(examples)


def check_format(data: tf.Tensor) -> tf.Tensor:
    """Return `data` unchanged; the graph fails if `images.check_header` refuses the image.

    Args:
        data: scalar string, an encoded image; JPEGs are not checked, since their decoder reports all errors.
    """

    def check(data):
        images.check_header(data)
        return data

    def call_check():
        return tf.ensure_shape(tf.numpy_function(check, [data], tf.string, stateful=False), [])

    return tf.cond(tf.io.is_jpeg(data), lambda: data, call_check)


def reason(examples: Examples, example: int) -> str | None:
    """Return in one line what is wrong with an example; None if it is good.

    Args:
        examples: a split.
        example: index of one of its examples.
    """
    name = examples.name(example)
    try:
        sides = np.array(images.decode(examples.read(example), name).shape[:2])
    except InputError as error:
        return str(error).removeprefix(f"{name}: ")
    one = examples.take([example])
    return None if _inside(one, sides[None])[0] else describe_box(examples, example, sides)[1]


def describe_box(examples: Examples, example: int, sides: np.ndarray) -> tuple[str, str]:
    """Return the name of an example whose box or annotation does not fit its image, and the reason."""
    top, left, height, width = examples.boxes[example].tolist()
    if examples.sides is not None and (examples.sides[example] != sides).any():
        return examples.name(example), boxes.other_size(sides, examples.sides[example], examples.read(example))
    box = f"box of {height} x {width} at {top}, {left}"
    return examples.name(example), f"{box} is not in the image of {sides[0]} x {sides[1]} pixels"


def _check_count(bad: list[tuple[str, str]], limit: int) -> None:
    if len(bad) > limit:
        name, fault = bad[0]
        raise InputError(f"{name}: {fault} (the first of {len(bad)} or more bad images; --skip_bad_images={limit})")


def _inside(examples: Examples, sides: np.ndarray) -> np.ndarray:
    """Return which examples are whole images, or boxes inside their images of these sizes: bool [n]."""
    if examples.boxes is None:
        return np.ones(len(examples), bool)
    start, size = examples.boxes[:, :2].astype(np.int64), examples.boxes[:, 2:].astype(np.int64)
    inside = ((start >= 0) & (size > 0) & (start + size <= sides)).all(axis=1)
    return inside if examples.sides is None else inside & (examples.sides == sides).all(axis=1)


def _sides(examples: Examples, indices: np.ndarray) -> Iterator[np.ndarray | str]:
    """Yield height and width of some images of a split, or what is wrong with an image."""
    read = examples.reader()
    threads = processors.count()

    dataset = tf.data.Dataset.from_tensor_slices(indices).map(
        lambda image: _decoded_sides(read(image)), num_parallel_calls=threads, deterministic=True
    )
    iterator = iter(dataset.prefetch(64).with_options(processors.dataset_options(threads)))
    for image in indices:
        try:
            yield next(iterator).numpy()[:2]
        except TENSORFLOW_ERRORS:  # the iterator continues with the next image
            one = Examples(examples.storage, np.array([image]), np.zeros(1, np.int32), exif=examples.exif)
            yield reason(one, 0) or "damaged image"


def _decoded_sides(data: tf.Tensor) -> tf.Tensor:
    """Decode an image and return its height and width, and a value that is not used: int32 [3]."""

    def of_jpeg():
        sides = tf.io.extract_jpeg_shape(data)[:2]
        with tf.control_dependencies([images.check_pixels(sides[0], sides[1])]):
            pixels = tf.io.decode_jpeg(data, channels=3, ratio=8)
        sides = orientation.upright_sides(sides, orientation.of_jpeg(data))
        # A pixel is returned too, since TensorFlow would remove the decoding if no pixel were used.
        return tf.concat([sides, tf.cast(pixels[0, 0, :1], tf.int32)], axis=0)

    def of_other():
        return tf.shape(images.decode_tensor(check_format(data)))

    return tf.cond(tf.io.is_jpeg(data), of_jpeg, of_other)
