"""Fit published weights to a network with other classes or other channels than theirs."""

import logging

import numpy as np

from resnet_tf.errors import InputError

# What to do with the head of weights: take it; start it anew; start it anew if there is none; the same and also if it
# has another number of classes.
HEADS = ("keep", "new", "fill", "fit")
# First components of the names of heads: torchvision, timm's v2, keras.applications, this project. Heads of
# self-supervised training may have several layers, so that their names begin with these and go on.
_NAMES = ("fc.", "head.", "predictions/", "logits/")
_log = logging.getLogger(__name__)


def of_head(name: str) -> bool:
    """Return whether a name in a state dict belongs to the head of its network."""
    return name.startswith(_NAMES)


def classes_of(arrays: dict[str, np.ndarray]) -> int | None:
    """Return the number of classes of the head in {name: array}, by its bias if it has one; None if unclear."""
    head = {name: array for name, array in arrays.items() if of_head(name)}
    sizes = {len(array) for array in head.values() if array.ndim == 1}
    if not sizes:  # PyTorch has a weight of [classes, features], Keras a kernel of [features, classes]
        sizes = {array.shape[0 if name.endswith("weight") else -1] for name, array in head.items()}
    return sizes.pop() if len(sizes) == 1 else None


def starts_anew(head: str, kernel: np.ndarray | None, classes: int, origin: str) -> bool:
    """Return whether a head keeps its initial weights, and log why.

    Args:
        head: one of `HEADS`.
        kernel: the kernel of the head of the weights, [features, classes]; None if they have none.
        classes: number of classes of the network.
        origin: path of the weights, for messages.

    Raises:
        InputError: the weights have another number of classes, and `head` is "keep" or "fill".
    """
    if head not in HEADS:
        raise InputError(f"head={head}: not one of {', '.join(HEADS)}")
    if head == "new":
        _log.info("%s: the head of %d classes starts anew", origin, classes)
        return True
    if kernel is None:
        if head != "keep":
            _log.warning("%s: has no head; one of %d classes starts anew", origin, classes)
        return head != "keep"
    theirs = kernel.shape[-1]
    if theirs == classes:
        return False
    if head == "fit":
        _log.warning("%s: has a head of %d classes; one of %d classes starts anew", origin, theirs, classes)
        return True
    raise InputError(
        f"{origin}: weights of another network: they have {theirs} classes, not {classes}: num_classes={theirs} "
        "keeps their head, head=new starts another"
    )


def with_channels(kernel: np.ndarray, channels: int) -> np.ndarray:
    """Return the first kernel of a network for images of another number of channels than red, green and blue.

    As `adapt_input_conv` of timm (timm/models/_manipulate.py): for one channel the sum over the three, which answers
    to a grey image as the network does to its copies in three channels; for N channels red, green, blue, red, ... times
    3/N, which keeps the size of the sums.

    Args:
        kernel: float32 [height, width, 3, filters].
        channels: channels of the images, at least 1.

    Returns:
        float32 [height, width, channels, filters]; `kernel` itself if it does not have three channels.
    """
    if kernel.shape[2] != 3 or channels == 3:
        return kernel
    if channels == 1:
        return kernel.sum(2, keepdims=True)
    return np.take(kernel, np.arange(channels) % 3, 2) * np.float32(3 / channels)
