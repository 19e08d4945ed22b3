"""Boxes of objects, from annotations to pixels."""

import logging

import numpy as np

from resnet_tf.data.splits import listed

_log = logging.getLogger(__name__)


def from_corners(corners: np.ndarray, sides: np.ndarray, inclusive: bool) -> tuple[np.ndarray, np.ndarray]:
    """Turns corners into boxes that lie in their images.

    Args:
        corners: float [n, 4], top, left, bottom and right in pixels; fractions are rounded.
        sides: int [n, 2], height and width of the images.
        inclusive: whether pixels count from 1 and the last one belongs to the box, as in PASCAL VOC; else from 0, and
            it does not.

    Returns:
        int32 [n, 4], top, left, height and width, cut off at the image's edges; and bool [n], whether the box is good:
        one whose corners are in order, with area between them and within the image.
    """
    finite = np.isfinite(corners).all(axis=1)
    whole = np.rint(np.clip(np.where(finite[:, None], corners, 0), -1e9, 1e9)).astype(np.int64)
    first, last = whole[:, :2], whole[:, 2:]
    good = finite & (first < last).all(axis=1)
    start = np.maximum(first - int(inclusive), 0)
    size = np.minimum(last, sides) - start
    return np.concatenate([start, size], axis=1).astype(np.int32), good & (size > 0).all(axis=1)


def warn_skipped(what: str, names: list[str]) -> None:
    """Logs, in one line, whose boxes were not good; nothing where there are none.

    Args:
        what: the data.
        names: of the image of each such box.
    """
    if names:
        images = listed(list(dict.fromkeys(names)))
        _log.warning("%s: skipped %d boxes without area in the image: %s", what, len(names), images)
