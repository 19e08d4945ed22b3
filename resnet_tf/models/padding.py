"""Convert weights of networks whose shortcut A pads zero channels on both sides, as in akamaster's code.

Shortcut A here appends the zero channels after the others, as in He et al. and fb.resnet.torch. The two networks differ
only in the order of channels, so a permutation converts the weights.
"""

import logging

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models.architectures import Architecture
from resnet_tf.models.weight_files import Opened

SIDES = ("behind", "both")
_log = logging.getLogger(__name__)


def decide(asked: str | None, opened: Opened, linear: bool, name: str) -> str:
    """Return where the network of a state dict pads: "behind" or "both".

    Args:
        asked: the user's choice; None or "" to derive it from the names of the weights.
        opened: the weights.
        linear: whether the classifier is called "linear", as in the code that pads on both sides.
        name: name of the network in this project, for the warning.
    """
    if asked and asked not in SIDES:
        raise InputError(f"--padding={asked}: not one of {', '.join(SIDES)}")
    if asked or opened.kind != "torch":
        return asked or "behind"
    if linear:
        _log.info(
            "%s: shortcut A is taken to pad on both sides, since the classifier is called linear (see --padding)",
            opened.origin,
        )
        return "both"
    _log.warning(
        "%s: does not say where shortcut A pads its zero channels; %s assumes behind the others. Use --padding=both "
        "for weights of code that pads on both sides.", opened.origin, name,
    )  # fmt: skip
    return "behind"


def orders(row: Architecture) -> list[np.ndarray]:
    """Return one int array per stage: for each channel here, its index in a network that pads on both sides."""
    permutations = [np.arange(row.filters[0] * row.expansion)]
    for filters in row.filters[1:]:
        width, inner = filters * row.expansion, permutations[-1]
        front = (width - len(inner)) // 2
        added = [channel for channel in range(width) if not front <= channel < front + len(inner)]
        permutations.append(np.concatenate([inner + front, np.array(added, int)]))
    return permutations


def to_behind(row: Architecture, values: dict[str, np.ndarray], side: str) -> dict[str, np.ndarray]:
    """Reorder the channels of weights as if their network padded behind.

    Args:
        row: a network of basic blocks with shortcut A.
        values: {variable path: array} in the layout of this project.
        side: "behind" or "both", where the network of `values` pads.

    Returns:
        {variable path: array} in the order of a network that pads behind.
    """
    if side == "behind":
        return values
    by_stage = orders(row)
    return {path: _permuted(path, value, by_stage) for path, value in values.items()}


def _permuted(path, value, by_stage):
    layer = path.split("/")[0]
    if layer == "logits":
        return value[by_stage[-1]] if value.ndim == 2 else value
    if not layer.startswith("stage"):
        return value
    stage, block, part = layer.split("_", 2)
    index = int(stage.removeprefix("stage")) - 1
    inner = by_stage[index]
    outer = by_stage[index - 1] if index and block == "block1" else inner  # the input channels of the block
    if part == "conv1":
        return value[:, :, outer]
    if part == "se_conv1":
        return value[:, :, inner] if value.ndim == 4 else value
    if part == "se_conv2":
        return value[..., inner]
    if part == "conv2":
        return value[..., inner]
    return value[inner] if part == "bn2" else value
