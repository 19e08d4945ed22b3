"""How well masks agree, from counts of pixels."""

import numpy as np

from resnet_tf.data.masks import VOID


def confusion(truth, predicted, classes):
    """Count pixels.

    Args:
        truth: uint8, labels of any shape; VOID where a pixel does not count.
        predicted: integers of the same shape, labels below `classes`.
        classes: how many there are.

    Returns:
        int64 [classes, classes], the true class in rows and the predicted one in columns.

    Raises:
        ValueError: shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a mask of {truth.shape} for one of {predicted.shape}")
    counted = truth != VOID
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix):
    """Figures of each class.

    Args:
        matrix: of `confusion`.

    Returns:
        {"pixels", "iou", "accuracy": array [classes]}: how many are truly of it; of these and those that were taken for
        it the part that is both (intersection over union), NaN where there is neither; and the part of those that are
        truly of it that was found, NaN where there is none.
    """
    right, true, taken = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"pixels": true, "iou": right / (true + taken - right), "accuracy": right / true}


def figures(matrix):
    """The scores of a set.

    Args:
        matrix: of `confusion`, summed over all of its images.

    Returns:
        {"miou": mean of the IoU over the classes that are in the truth or in the answers, "pixel_accuracy": part of the
        pixels that is right}: fractions, over the pixels that are not void; as in the VOC challenge, where counts are
        summed over all images before anything is divided.
    """
    return {
        "miou": float(np.nanmean(per_class(matrix)["iou"])),
        "pixel_accuracy": float(np.trace(matrix) / matrix.sum()),
    }
