"""Find images that are almost equal, such as the photos of a burst or copies that were saved again.

If one of them is trained on and another one is for evaluation, the evaluation is too good.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from resnet_tf.data import images, processors
from resnet_tf.data.examples import Examples
from resnet_tf.data.progress import Progress
from resnet_tf.data.splits import Split

SIDE = 16  # of the thumbnails that are compared, in pixels
TOLERANCE = 1.5  # of 255: saving a photo again as JPEG changes the mean of a block by less than one level
_COARSE = 4  # side of the thumbnails that are compared first, to save time
_AT_ONCE = 256


def groups(split: Split | Examples) -> np.ndarray:
    """Return a number for each example, the same one for examples of the same image or of near-duplicates.

    Near-duplicates have the same height and width, and their grey thumbnails of SIDE x SIDE pixels differ by at most
    TOLERANCE everywhere. Images that cannot be read have none.

    Args:
        split: the examples.

    Returns:
        int64 [n], the smallest index of an image of the group.
    """
    image = split.image if isinstance(split, Examples) else np.arange(len(split))
    used, position = np.unique(image, return_inverse=True)
    numbers, sides, thumbnails = _thumbnails(split, used)
    root = np.arange(len(used))
    # Equal ones go first, since there are as many pairs of them as their number squared.
    known: dict[bytes, int] = {}
    same = np.array([known.setdefault(a.tobytes() + b.tobytes(), n) for n, (a, b) in _each(sides, thumbnails)], int)
    different = np.unique(same)
    root[numbers] = numbers[same]
    for pairs in _pairs(sides[different], thumbnails[different]):
        for pair in numbers[different[pairs]]:
            first, second = (_find(root, number) for number in pair)
            root[max(first, second)] = min(first, second)
    return used[np.array([_find(root, number) for number in range(len(root))], np.int64)[position]]


def _each(*arrays: np.ndarray) -> Iterator:
    return enumerate(zip(*arrays, strict=True))


def _find(root: np.ndarray, number: int) -> int:
    while root[number] != number:
        root[number] = root[root[number]]
        number = root[number]
    return number


def _thumbnails(split: Split | Examples, used: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return what can be read: positions in `used`, height and width [n, 2], and grey float32 [n, SIDE, SIDE]."""
    if isinstance(split, Split):
        parts = [
            tf.image.resize(_grey(split.images[start : start + _AT_ONCE]), [SIDE, SIDE], "area").numpy()
            for start in range(0, len(split), _AT_ONCE)
        ]
        sides = np.tile(np.array(split.images.shape[1:3], np.int32), (len(split), 1))
        return np.arange(len(split)), sides, np.concatenate(parts)[..., 0]
    read = split.reader()

    def see(number: tf.Tensor, image: tf.Tensor):
        return number, *_thumbnail(read(image))

    dataset = tf.data.Dataset.from_tensor_slices((np.arange(len(used)), used)).with_options(
        processors.dataset_options()
    )
    dataset = dataset.map(see, num_parallel_calls=processors.count()).ignore_errors()
    progress, found = Progress("comparing images", len(used)), []
    for batch in dataset.batch(_AT_ONCE).prefetch(2):
        found.append([part.numpy() for part in batch])
        progress.add(len(found[-1][0]))
    progress.end()
    if not found:
        return np.zeros(0, np.int64), np.zeros((0, 2), np.int32), np.zeros((0, SIDE, SIDE), np.float32)
    return tuple(np.concatenate(parts) for parts in zip(*found, strict=True))


def _thumbnail(data: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return height and width of an encoded image, int32 [2], and its thumbnail, float32 [SIDE, SIDE]."""

    def jpeg(ratio: int) -> tf.Tensor:
        return tf.cast(tf.io.decode_jpeg(data, channels=1, ratio=ratio, dct_method="INTEGER_ACCURATE"), tf.float32)

    def from_jpeg():
        sides = tf.io.extract_jpeg_shape(data)[:2]
        with tf.control_dependencies([images.check_pixels(sides[0], sides[1])]):
            # The decoder makes an eighth of the size at a fraction of the cost.
            grey = tf.cond(tf.reduce_min(sides) >= 8 * SIDE, lambda: jpeg(8), lambda: jpeg(1))
        return sides, tf.ensure_shape(grey, [None, None, 1])

    def from_other():
        grey = _grey(images.decode_tensor(data))
        return tf.shape(grey)[:2], tf.ensure_shape(grey, [None, None, 1])

    sides, grey = tf.cond(tf.io.is_jpeg(data), from_jpeg, from_other)
    return tf.ensure_shape(sides, [2]), tf.image.resize(grey, [SIDE, SIDE], "area")[..., 0]


def _grey(pixels: tf.Tensor | np.ndarray) -> tf.Tensor:
    return tf.image.rgb_to_grayscale(tf.cast(pixels, tf.float32))


def _pairs(sides: np.ndarray, thumbnails: np.ndarray) -> Iterator[np.ndarray]:
    """Yield which thumbnails of images of equal sides are near each other: int64 [pairs, 2]."""
    flat = thumbnails.reshape(-1, SIDE * SIDE)
    blocks = SIDE // _COARSE
    coarse = thumbnails.reshape(-1, _COARSE, blocks, _COARSE, blocks).mean((2, 4)).reshape(-1, _COARSE**2)
    means = flat.mean(1)
    order = np.lexsort((means, sides[:, 1], sides[:, 0]))
    sides, means, coarse = sides[order], means[order], coarse[order]
    near = np.arange(len(order))  # positions whose follower at the distance of `step` may be near
    for step in range(1, len(order)):
        near = near[near + step < len(order)]
        near = near[(sides[near] == sides[near + step]).all(1) & (means[near + step] - means[near] <= TOLERANCE)]
        if not len(near):
            break
        close = near[(np.abs(coarse[near] - coarse[near + step]) <= TOLERANCE).all(1)]
        first, second = order[close], order[close + step]
        equal = (np.abs(flat[first] - flat[second]) <= TOLERANCE).all(1)
        yield np.stack([first[equal], second[equal]], axis=1)
