"""The table of networks: one row of data per named network.

The names follow GluonCV, the code of the Bag of Tricks paper (arXiv 1812.01187):

    plainN, cifar_plainN    the residual net without its shortcuts (He et al. 2015, arXiv 1512.03385)
    *_v1                    He et al. 2015: post-activation; a bottleneck has its stride in the first 1x1
    *_v1b                   ResNet-B: the stride is in the 3x3 (torchvision's "v1.5")
    *_v1c                   v1b with a deep stem: three 3x3 convolutions (32, 32, 64), the first with stride 2
    *_v1d                   v1c with an average pool before the 1x1 of a down-sampling shortcut
    *_v2                    He et al. 2016 (arXiv 1603.05027): BN-ReLU before each convolution

Details of v2:

- The stem is activated once, before the two paths of the first block separate (appendix of the paper). In nets of
  basic blocks the first shortcut therefore carries the activated stem. In timm it carries the stem without
  activation; `graph="timm"` builds that graph, for timm's weights.
- The BN-ReLU of the stem comes after its max pool, as in timm and TF-slim. fb.resnet.torch has it before the pool,
  which is the same function unless a gamma is negative.
- Bottlenecks for CIFAR (164 and 1001 layers) have the stride in the first 1x1, as in the authors' code
  (KaimingHe/resnet-1k-layers). Bottlenecks for ImageNet have it in the 3x3, as in fb.resnet.torch.
- GluonCV's v2 is a different graph: it has a BN on the images and a BN-ReLU before the stem's pool.

Basic blocks (18 and 34 layers) have no 1x1, so their v1 and v1b are the same graph.

Shortcuts where the shape changes: A is a strided identity followed by zero channels; B is a 1x1 projection; C has
projections in every block. ImageNet nets use B by default, CIFAR nets use A (as in the paper).
"""

import dataclasses
import difflib
import fnmatch
import re

from resnet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One row of the table.

    Attributes:
        blocks: number of blocks in each stage.
        filters: channels of the 3x3 convolutions in each stage.
        bottleneck: True for blocks of 1x1, 3x3 and 1x1 (four times as wide), False for blocks of two 3x3.
        stem: "7x7" (stride 2, then a 3x3 max pool of stride 2), "deep" (three 3x3 instead of the 7x7) or "3x3"
            (CIFAR: stride 1, no pool).
        shortcut: "A", "B", "C", or "none" for a plain net.
        stride_in: "1x1" or "3x3", the convolution of a bottleneck that has the stride.
        downsample: "conv" or "avg_pool", the first operation of a projection that changes the resolution.
        preactivation: True for BN-ReLU before the convolutions (v2), False for BN-ReLU after them.
        first_shortcut: "activated" or "raw", the stem that the identity in the first block of a v2 carries.
        input_size: height and width of the paper's images in pixels.
        classes: number of classes in the paper's data set.
    """

    blocks: tuple[int, ...]
    filters: tuple[int, ...] = (64, 128, 256, 512)
    bottleneck: bool = False
    stem: str = "7x7"
    shortcut: str = "B"
    stride_in: str = "3x3"
    downsample: str = "conv"
    preactivation: bool = False
    first_shortcut: str = "activated"
    input_size: int = 224
    classes: int = 1000

    @property
    def expansion(self) -> int:
        """Output channels of a block divided by the channels of its 3x3."""
        return 4 if self.bottleneck else 1

    @property
    def graph(self) -> dict:
        """{field: value} of the fields that define the graph, without the fields that have no effect in this row."""
        names = {"blocks", "filters", "bottleneck", "stem", "shortcut", "preactivation", "downsample"}
        if self.bottleneck:
            names.add("stride_in")
        elif self.preactivation:
            names.add("first_shortcut")
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in names}


_IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
    200: (3, 24, 36, 3),
}
_IMAGENET_VARIANTS = {
    "v1": {"stride_in": "1x1"},
    "v1b": {},
    "v1c": {"stem": "deep"},
    "v1d": {"stem": "deep", "downsample": "avg_pool"},
    "v2": {"preactivation": True},
}
_CIFAR = {"filters": (16, 32, 64), "stem": "3x3", "shortcut": "A", "input_size": 32, "classes": 10}
_CIFAR_BASIC_DEPTHS = (20, 32, 44, 56, 110)
_CIFAR_BOTTLENECK_DEPTHS = (164, 1001)  # v2, 9n+2; the papers have no basic net of these depths


def _table():
    rows = {}
    for depth in (18, 34):
        rows[f"plain{depth}"] = Architecture(_IMAGENET_BLOCKS[depth], shortcut="none")
    for depth, blocks in _IMAGENET_BLOCKS.items():
        for letter, fields in _IMAGENET_VARIANTS.items():
            rows[f"resnet{depth}_{letter}"] = Architecture(blocks, bottleneck=depth >= 50, **fields)
    for depth in _CIFAR_BASIC_DEPTHS:
        rows[f"cifar_plain{depth}"] = _cifar("plain", depth)
    for depth in (*_CIFAR_BASIC_DEPTHS, 1202):
        rows[f"cifar_resnet{depth}_v1"] = _cifar("v1", depth)
    for depth in (*_CIFAR_BASIC_DEPTHS, *_CIFAR_BOTTLENECK_DEPTHS):
        rows[f"cifar_resnet{depth}_v2"] = _cifar("v2", depth)
    return rows


def _cifar(kind, depth):
    """Return the row of a CIFAR net, or None if there is no net of that depth."""
    bottleneck = kind == "v2" and depth in _CIFAR_BOTTLENECK_DEPTHS
    layers = 9 if bottleneck else 6
    if depth <= 2 or (depth - 2) % layers:
        return None
    fields = dict(_CIFAR)
    if kind == "plain":
        fields["shortcut"] = "none"
    elif bottleneck:
        fields["shortcut"] = "B"  # the first block of bottlenecks adds channels already, which A cannot do
        fields["stride_in"] = "1x1"
    return Architecture(((depth - 2) // layers,) * 3, bottleneck=bottleneck, preactivation=kind == "v2", **fields)


TABLE = _table()


def as_in_timm(row: Architecture) -> Architecture:
    """Return the row of timm's pre-activation graph (resnetv2.py) for the row of the paper's graph."""
    return dataclasses.replace(row, first_shortcut="raw", stride_in="3x3")


def list_models(pattern: str = "*") -> list[str]:
    """Return the names in the table that match a shell pattern, such as "resnet50*", in the table's order.

    >>> list_models("resnet50_v1*")
    ['resnet50_v1', 'resnet50_v1b', 'resnet50_v1c', 'resnet50_v1d']
    """
    return [name for name in TABLE if fnmatch.fnmatchcase(name, pattern)]


def find(name: str) -> Architecture:
    """Return the row of a network in the table, or of a CIFAR net of any valid depth.

        >>> find("cifar_resnet26_v1").blocks
        (4, 4, 4)

    Raises:
        InputError: there is no such network; the message names the nearest ones.
    """
    if name in TABLE:
        return TABLE[name]
    match = re.fullmatch(r"cifar_(plain|resnet)(\d{1,5})(_v1|_v2)?", name)
    if match and bool(match[3]) == (match[1] == "resnet"):
        kind = match[3][1:] if match[3] else "plain"
        depth = int(match[2])
        row = _cifar(kind, depth)
        if row:
            return row
        below = max(8, 2 + (depth - 2) // 6 * 6)
        nearest = [below] if depth < 8 else sorted([below, below + 6], key=lambda valid: abs(valid - depth))
        named = " or ".join(f"cifar_{match[1]}{valid}{match[3] or ''}" for valid in nearest)
        raise InputError(f"--model={name}: a CIFAR net has 6n+2 layers; the nearest is {named}")
    nearest = difflib.get_close_matches(name, TABLE, n=3, cutoff=0)
    raise InputError(f"--model={name}: no such network; the nearest names are {', '.join(nearest)}")
