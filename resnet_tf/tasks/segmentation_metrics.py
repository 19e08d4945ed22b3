"""Metrics of segmentation, from counts of pixels."""

import numpy as np

from resnet_tf.data.masks import VOID


def confusion(truth: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Return the confusion matrix of a mask, int64 [classes, classes]: true classes in rows, predicted in columns.

    Args:
        truth: uint8 labels of any shape; VOID for pixels that do not count.
        predicted: integer labels below `classes`, of the same shape.
        classes: number of classes.

    Raises:
        ValueError: shapes differ.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"a mask of {truth.shape} for one of {predicted.shape}")
    counted = truth != VOID
    pairs = truth[counted].astype(np.int64) * classes + predicted[counted]
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def per_class(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Return the metrics of each class of a confusion matrix, {"pixels", "iou", "accuracy": array [classes]}.

    "pixels" counts true pixels; "iou" is intersection over union of true and predicted pixels, NaN without either;
    "accuracy" is the fraction of the true pixels that is predicted right, NaN without true pixels.
    """
    right, true, predicted = np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0)
    with np.errstate(invalid="ignore"):
        return {"pixels": true, "iou": right / (true + predicted - right), "accuracy": right / true}


def scores(matrix: np.ndarray) -> dict[str, float]:
    """Return {"miou", "pixel_accuracy"} of a confusion matrix that is summed over all images, as in the VOC challenge.

    "miou" is the mean IoU over classes with true or predicted pixels; "pixel_accuracy" is the fraction of right pixels.
    Both are fractions that ignore void pixels.
    """
    return {
        "miou": float(np.nanmean(per_class(matrix)["iou"])),
        "pixel_accuracy": float(np.trace(matrix) / matrix.sum()),
    }
