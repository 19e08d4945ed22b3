"""Shortcut A that pads its zero channels on both sides, as akamaster's code and its copies do.

Ours pads them behind, as He et al. and fb.resnet.torch do. The two networks are the same but for the order of their
channels; so the weights of one become those of the other by a permutation.
"""

import logging

import numpy as np

from resnet_tf.errors import InputError

PLACES = ("behind", "both")
_log = logging.getLogger(__name__)


def decide(asked, opened, linear, name):
    """Where the network of a state dict pads: "behind" or "both".

    Args:
        asked: what the user says; None or "" to tell by the names.
        opened: a `weight_files.Opened`.
        linear: whether its classifier is called "linear", as in the code that pads on both sides.
        name: of our network, for the warning.
    """
    if asked and asked not in PLACES:
        raise InputError(f"--padding={asked}: not one of {', '.join(PLACES)}")
    if asked or opened.kind != "torch":
        return asked or "behind"
    if linear:
        _log.info(
            "%s: its classifier is called linear: its shortcut A pads on both sides (see --padding)", opened.origin
        )
        return "both"
    _log.warning(
        "%s: does not tell where shortcut A pads its zero channels; %s takes them to be behind. --padding=both is for "
        "code that pads on both sides.", opened.origin, name,
    )  # fmt: skip
    return "behind"


def orders(row):
    """For each stage, which channel of a network that pads on both sides is each of ours: [int array, ...]."""
    found = [np.arange(row.filters[0] * row.expansion)]
    for filters in row.filters[1:]:
        width, inner = filters * row.expansion, found[-1]
        front = (width - len(inner)) // 2
        added = [channel for channel in range(width) if not front <= channel < front + len(inner)]
        found.append(np.concatenate([inner + front, np.array(added, int)]))
    return found


def to_behind(row, values, place):
    """Put the channels of a network's values in the order of one that pads behind.

    Args:
        row: of a network of basic blocks with shortcut A.
        values: {variable path: array} in our layout.
        place: where the network that they are of pads.

    Returns:
        The same in our order.
    """
    if place == "behind":
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
    outer = by_stage[index - 1] if index and block == "block1" else inner  # what comes into the block
    if part == "conv1":
        return value[:, :, outer]
    if part == "conv2":
        return value[..., inner]
    return value[inner] if part == "bn2" else value
