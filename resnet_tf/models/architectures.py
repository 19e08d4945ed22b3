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
- Bottlenecks for CIFAR have the stride in the first 1x1, as in the authors' code (KaimingHe/resnet-1k-layers).
  Bottlenecks for ImageNet have it in the 3x3, as in fb.resnet.torch.
- GluonCV's v2 is a different graph: it has a BN on the images and a BN-ReLU before the stem's pool.

Basic blocks (18 and 34 layers) have no 1x1, so their v1 and v1b are the same graph.

The nets of 164 and 1001 layers for CIFAR have bottlenecks, in v1 as in v2 (He et al. 2016, table 2 compares them).

All other rows are in `family`, under the names of timm; `of_timm` translates timm's names of the rows above:

    resnetNt, resnetNs      v1d with a tiered stem (24, 32, 64); v1c with a stem of twice the width (64, 64, 128)
    resnext*_GxWd           G groups of W channels in the 3x3 of the first stage (Xie et al. 2017, arXiv 1611.05431)
    wide_resnet*_2          twice the channels in the 3x3 (Zagoruyko and Komodakis 2016, arXiv 1605.07146)
    se*, eca*               attention over channels (Hu et al. 2018, arXiv 1709.01507; Wang et al. 2020, 1910.03151)
    resnetaa*, resnetblur*  pools before the strides (average; Zhang 2019, arXiv 1904.11486)
    resnetrs*               ResNet-RS (Bello et al. 2021, arXiv 2103.07579): v1d with SE and a convolution for the pool
    *_gn, *_evos            group normalisation (Wu and He 2018, arXiv 1803.08494); EvoNorm-S0 (arXiv 2004.02967)
    resnetv2_*              pre-activation with what the letters d and t say
    resnetv2_*xK_bit        BiT (Kolesnikov et al. 2020, arXiv 1912.11370): K times as wide, group normalisation and
                            standardised kernels
    cifar_wrnD_K            Wide ResNets of CIFAR: v2 of depth D, K times as wide (arXiv 1605.07146)
    cifar_resnext29_GxWd    ResNeXt of CIFAR (arXiv 1611.05431)
    cifar_seresnetN_v1      cifar_resnetN_v1 with squeeze and excitation
    cifar_resnet9           ResNet-9 of Page 2018 (How to train your ResNet, github.com/davidcpage/cifar10-fast): each
                            stage enters by a convolution and a max pool, and two of the three have one block
    cifar_resnet9_celu      the same with CELU, as in part 8 of that series (2019)
    cifar_resnet9_whitened  the same with CELU and a whitened stem, as there

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
        stem: "7x7" (stride 2, then a 3x3 max pool of stride 2), "deep" (three 3x3 instead of the 7x7), "tiered" (the
            same with rising widths) or "3x3" (CIFAR: stride 1, no pool).
        shortcut: "A", "B", "C", or "none" for a plain net.
        stride_in: "1x1" or "3x3", the convolution of a bottleneck that has the stride.
        downsample: "conv" or "avg_pool", the first operation of a projection that changes the resolution.
        preactivation: True for BN-ReLU before the convolutions (v2), False for BN-ReLU after them.
        first_shortcut: "activated" or "raw", the stem that the identity in the first block of a v2 carries.
        stem_width: channels that the stem ends in; 0 for 64, or 16 of a CIFAR net.
        stem_pool: "max"; "max_of_zeros" (the same, padded with zeros although its input is not activated, as in BiT);
            "conv" (a 3x3 of stride 2 with BN and ReLU, as in ResNet-RS).
        bottlenecks: `bottleneck` of each stage, where the stages differ; empty otherwise.
        groups: groups of the 3x3 of a bottleneck.
        base_width: channels of one group for each 64 of `filters`.
        first_divisor: by what the channels of the first 1x1 of a bottleneck are divided (2 in SENet-154).
        shortcut_kernel: side of the kernel of a projection that changes the resolution (3 in SENet-154).
        attention: "none", "se" (squeeze and excitation) or "eca" (efficient channel attention), after the last BN.
        reduction: by what "se" divides the channels.
        antialias: "none", or the pool that has the strides of 3x3 convolutions and of the stem's pool: "avg" (2x2) or
            "blur" (3x3 binomial).
        norm: "bn", "gn" (32 groups) or "evos" (EvoNorm-S0, which is also the activation).
        standardized: whether kernels are standardised (Qiao et al. 2019, arXiv 1903.10520).
        entry: what halves the resolution of a stage: "block", its first block; or "conv", a 3x3 with BN and ReLU and a
            2x2 max pool before its blocks, of which it may have none.
        last_relu: where the last ReLU of a block of v1 is: after the "sum", or in the "branch" before it.
        activation: "relu" or "celu" (Barron 2017, arXiv 1704.07483, with alpha 0.3).
        head: "avg", the mean over height and width, and logits with bias; or "max", an eighth of the maximum, and
            logits without.
        whitened: whether the stem is a fixed 3x3 that whitens patches, see `whitening`, and then a 1x1 for the 3x3.
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
    stem_width: int = 0
    stem_pool: str = "max"
    bottlenecks: tuple[bool, ...] = ()
    groups: int = 1
    base_width: int = 64
    first_divisor: int = 1
    shortcut_kernel: int = 1
    attention: str = "none"
    reduction: int = 16
    antialias: str = "none"
    norm: str = "bn"
    standardized: bool = False
    entry: str = "block"
    last_relu: str = "sum"
    activation: str = "relu"
    head: str = "avg"
    whitened: bool = False
    input_size: int = 224
    classes: int = 1000

    @property
    def expansion(self) -> int:
        """Output channels of a block divided by the channels of its 3x3."""
        return 4 if self.bottleneck else 1

    @property
    def stem_channels(self) -> int:
        """Output channels of the stem."""
        return self.stem_width or (16 if self.stem == "3x3" else 64)

    def of_stage(self, stage: int) -> "Architecture":
        """Return the row whose blocks stage number `stage`, from 1, has: this one unless the stages differ."""
        if not self.bottlenecks:
            return self
        return dataclasses.replace(self, bottleneck=self.bottlenecks[stage - 1], bottlenecks=())

    def width(self, filters: int) -> int:
        """Return the channels of the 3x3 of a block in a stage of `filters`."""
        return filters * self.base_width // 64 * self.groups if self.bottleneck else filters

    @property
    def graph(self) -> dict:
        """{field: value} of the fields that define the graph, without the fields that have no effect in this row.

        The fields of `_LATER` are absent if they have their default, as in files of weights from before these fields.
        """
        names = {"blocks", "filters", "bottleneck", "stem", "shortcut", "preactivation", "downsample"}
        if self.bottleneck:
            names.add("stride_in")
        elif self.preactivation and self.stem_channels == self.filters[0]:  # else the first shortcut projects
            names.add("first_shortcut")
        names |= {name for name, default in _LATER.items() if getattr(self, name) != default}
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name in names}


# Fields that tell graphs apart and that are named in files of weights only where they differ from their default, since
# older files do not have them.
_LATER = {
    name: Architecture.__dataclass_fields__[name].default
    for name in ("stem_width", "stem_pool", "bottlenecks", "groups", "base_width", "first_divisor", "shortcut_kernel",
                 "attention", "reduction", "antialias", "norm", "standardized", "entry", "last_relu", "activation",
                 "head", "whitened")
}  # fmt: skip

_IMAGENET_BLOCKS = {
    18: (2, 2, 2, 2),
    26: (2, 2, 2, 2),
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
_C = _IMAGENET_VARIANTS["v1c"]
_D = _IMAGENET_VARIANTS["v1d"]
_T = {"stem": "tiered", "downsample": "avg_pool"}
_S = {"stem": "deep", "stem_width": 128}
_SE, _ECA = {"attention": "se"}, {"attention": "eca"}
_AA, _BLUR = {"antialias": "avg"}, {"antialias": "blur"}
_V2_OF_TIMM = {"preactivation": True, "first_shortcut": "raw"}
_RS = {**_D, **_SE, "reduction": 4, "stem_pool": "conv"}
_BIT = {"preactivation": True, "stem_pool": "max_of_zeros", "norm": "gn", "standardized": True}
_SENET = {**_SE, **_S, "groups": 64, "base_width": 4, "first_divisor": 2, "shortcut_kernel": 3}


def _next(groups, width):
    return {"groups": groups, "base_width": width}


def _of(blocks, *parts, basic=False, **fields):
    """Return the row of a depth in the table, or of a tuple of blocks, with the fields of `parts` and `fields`."""
    basic = basic or blocks in (18, 34)
    merged = {key: value for part in (*parts, fields) for key, value in part.items()}
    return Architecture(_IMAGENET_BLOCKS.get(blocks, blocks), bottleneck=not basic, **merged)


def _bit(depth, factor):
    filters = tuple(factor * filters for filters in (64, 128, 256, 512))
    return _of(depth, _BIT, filters=filters, stem_width=64 * factor)


# The rows under timm's names; their fields are those of timm/models/resnet.py and resnetv2.py.
_NAMED = (
    {
        "resnet10t": _of((1, 1, 1, 1), _T, basic=True),
        "resnet14t": _of((1, 1, 1, 1), _T),
        "resnet26t": _of(26, _T),
        "resnet50t": _of(50, _T),
    }
    | {f"resnet{depth}s": _of(depth, _S) for depth in (50, 101, 152)}
    | {f"wide_resnet{depth}_2": _of(depth, base_width=128) for depth in (50, 101)}
    | {
        "resnet50_gn": _of(50, norm="gn"),
        "resnext50_32x4d": _of(50, _next(32, 4)),
        "resnext50d_32x4d": _of(50, _D, _next(32, 4)),
        "resnext101_32x4d": _of(101, _next(32, 4)),
        "resnext101_32x8d": _of(101, _next(32, 8)),
        "resnext101_32x16d": _of(101, _next(32, 16)),
        "resnext101_32x32d": _of(101, _next(32, 32)),
        "resnext101_64x4d": _of(101, _next(64, 4)),
        "ecaresnetlight": _of((1, 1, 11, 3), _ECA, downsample="avg_pool"),
        "ecaresnet26t": _of(26, _T, _ECA),
        "ecaresnet50d": _of(50, _D, _ECA),
        "ecaresnet50t": _of(50, _T, _ECA),
        "ecaresnet101d": _of(101, _D, _ECA),
        "ecaresnet200d": _of(200, _D, _ECA),
        "ecaresnet269d": _of((3, 30, 48, 8), _D, _ECA),
        "ecaresnext26t_32x4d": _of(26, _T, _ECA, _next(32, 4)),
        "ecaresnext50t_32x4d": _of(50, _T, _ECA, _next(32, 4)),
    }
    | {f"seresnet{depth}": _of(depth, _SE) for depth in (18, 34, 50, 101, 152)}
    | {
        "seresnet50t": _of(50, _T, _SE),
        "seresnet152d": _of(152, _D, _SE),
        "seresnet200d": _of(200, _D, _SE),
        "seresnet269d": _of((3, 30, 48, 8), _D, _SE),
        "seresnext26d_32x4d": _of(26, _D, _SE, _next(32, 4)),
        "seresnext26t_32x4d": _of(26, _T, _SE, _next(32, 4)),
        "seresnext50_32x4d": _of(50, _SE, _next(32, 4)),
        "seresnext101_32x4d": _of(101, _SE, _next(32, 4)),
        "seresnext101_32x8d": _of(101, _SE, _next(32, 8)),
        "seresnext101d_32x8d": _of(101, _D, _SE, _next(32, 8)),
        "seresnext101_64x4d": _of(101, _SE, _next(64, 4)),
        "senet154": _of(152, _SENET),
        "resnetblur18": _of(18, _BLUR),
        "resnetblur50": _of(50, _BLUR),
        "resnetblur50d": _of(50, _D, _BLUR),
        "resnetblur101d": _of(101, _D, _BLUR),
        "resnetaa34d": _of(34, _D, _AA),
        "resnetaa50": _of(50, _AA),
        "resnetaa50d": _of(50, _D, _AA),
        "resnetaa101d": _of(101, _D, _AA),
        "seresnetaa50d": _of(50, _D, _SE, _AA),
        "seresnextaa101d_32x8d": _of(101, _D, _SE, _AA, _next(32, 8)),
        "seresnextaa201d_32x8d": _of((3, 24, 36, 4), _D, _S, _SE, _AA, _next(32, 8)),
        "resnetrs50": _of(50, _RS, input_size=160),
        "resnetrs101": _of(101, _RS, input_size=192),
        "resnetrs152": _of(152, _RS, input_size=256),
        "resnetrs200": _of(200, _RS, input_size=256),
        "resnetrs270": _of((4, 29, 53, 4), _RS, input_size=256),
        "resnetrs350": _of((4, 36, 72, 4), _RS, input_size=288),
        "resnetrs420": _of((4, 44, 87, 4), _RS, input_size=320),
        "test_resnet": _of(
            (1, 1, 1, 1), _D, basic=True, filters=(32, 48, 48, 96), bottlenecks=(False, False, True, False),
            stem_width=32, input_size=160,
        ),
    }
    | {f"resnetv2_{depth}d": _of(depth, _D, _V2_OF_TIMM) for depth in (18, 34)}
    | {f"resnetv2_{depth}d": _of(depth, _D, preactivation=True) for depth in (50, 101, 152)}
    | {
        "resnetv2_50t": _of(50, _T, preactivation=True),
        "resnetv2_50d_gn": _of(50, _D, preactivation=True, norm="gn"),
        "resnetv2_50d_evos": _of(50, _D, preactivation=True, norm="evos"),
    }
    | {
        f"resnetv2_{depth}x{factor}_bit": _bit(depth, factor)
        for depth, factor in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    }
)  # fmt: skip

_CIFAR = {"filters": (16, 32, 64), "stem": "3x3", "shortcut": "A", "input_size": 32, "classes": 10}
_PAGE = {**_CIFAR, "filters": (128, 256, 512), "stem_width": 64, "shortcut": "B", "entry": "conv",
         "last_relu": "branch", "head": "max"}  # fmt: skip
_CIFAR_BASIC_DEPTHS = (20, 32, 44, 56, 110)
_CIFAR_BOTTLENECK_DEPTHS = (164, 1001)  # 9n+2; the papers have no basic net of these depths


def _table():
    rows = {}
    for depth in (18, 34):
        rows[f"plain{depth}"] = Architecture(_IMAGENET_BLOCKS[depth], shortcut="none")
    for depth, blocks in _IMAGENET_BLOCKS.items():
        for letter, fields in _IMAGENET_VARIANTS.items():
            rows[f"resnet{depth}_{letter}"] = Architecture(blocks, bottleneck=depth not in (18, 34), **fields)
    for depth in _CIFAR_BASIC_DEPTHS:
        rows[f"cifar_plain{depth}"] = _cifar("plain", depth)
    for depth in (*_CIFAR_BASIC_DEPTHS, *_CIFAR_BOTTLENECK_DEPTHS, 1202):
        rows[f"cifar_resnet{depth}_v1"] = _cifar("v1", depth)
    for depth in (*_CIFAR_BASIC_DEPTHS, *_CIFAR_BOTTLENECK_DEPTHS):
        rows[f"cifar_resnet{depth}_v2"] = _cifar("v2", depth)
    for depth in (20, 56, 110):
        rows[f"cifar_seresnet{depth}_v1"] = dataclasses.replace(_cifar("v1", depth), **_SE)
    for depth, factor in ((16, 8), (28, 10), (40, 4)):
        rows[f"cifar_wrn{depth}_{factor}"] = _cifar_wide(depth, factor)
    for groups in (8, 16):
        wide = {**_CIFAR, "filters": (64, 128, 256), "shortcut": "B", "stem_width": 64}
        rows[f"cifar_resnext29_{groups}x64d"] = Architecture((3, 3, 3), bottleneck=True, groups=groups, **wide)
    page = Architecture((1, 0, 1), **_PAGE)
    rows["cifar_resnet9"] = page
    rows["cifar_resnet9_celu"] = dataclasses.replace(page, activation="celu")
    rows["cifar_resnet9_whitened"] = dataclasses.replace(page, activation="celu", whitened=True)
    return rows | _NAMED


def _cifar(kind, depth):
    """Return the row of a CIFAR net, or None if there is no net of that depth."""
    bottleneck = kind != "plain" and depth in _CIFAR_BOTTLENECK_DEPTHS
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


def _cifar_wide(depth, factor):
    """Return the row of a Wide ResNet of CIFAR, or None if there is no net of that depth."""
    if depth < 10 or (depth - 4) % 6 or not factor:
        return None
    filters = tuple(factor * filters for filters in (16, 32, 64))
    blocks = ((depth - 4) // 6,) * 3
    return Architecture(blocks, preactivation=True, **{**_CIFAR, "filters": filters, "shortcut": "B"})


TABLE = _table()

# timm's names of rows that have a name of their own here.
_RENAMED = (
    {f"resnet{depth}": f"resnet{depth}_v1b" for depth in (18, 26, 34, 50, 101, 152, 200)}
    | {f"resnet{depth}c": f"resnet{depth}_v1c" for depth in (50, 101, 152)}
    | {f"resnet{depth}d": f"resnet{depth}_v1d" for depth in (18, 26, 34, 50, 101, 152, 200)}
    | {f"resnetv2_{depth}": f"resnet{depth}_v2" for depth in (18, 34, 50, 101, 152)}
)


def names_of_timm() -> list[str]:
    """Return timm's names of all networks that the table has, without their tags of weights."""
    return [*_RENAMED, *_NAMED]


def of_timm(name: str) -> str:
    """Return the name of the row that is timm's network `name`, without its tag of weights.

        >>> of_timm("resnet50d"), of_timm("resnext50_32x4d"), of_timm("resnetv2_50")
        ('resnet50_v1d', 'resnext50_32x4d', 'resnet50_v2')

    "resnetv2_18" and "resnetv2_34" are the rows resnet18_v2 and resnet34_v2 with `graph="timm"`.

    Raises:
        InputError: the table has no such network.
    """
    if name not in _RENAMED and name not in _NAMED:
        raise InputError(f"{name}: no network of timm that is in the table")
    return _RENAMED.get(name, name)


def name_in_timm(name: str) -> str | None:
    """Return timm's name of the network in the row `name`; None if timm has no such network.

    >>> name_in_timm("resnet50_v1d"), name_in_timm("resnext50_32x4d"), name_in_timm("cifar_resnet20_v1")
    ('resnet50d', 'resnext50_32x4d', None)
    """
    return next((theirs for theirs in names_of_timm() if of_timm(theirs) == name), None)


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
    if re.fullmatch(r"cifar_seresnet\d+_v1", name):
        return dataclasses.replace(find(name.replace("seresnet", "resnet")), **_SE)
    if match := re.fullmatch(r"cifar_wrn(\d{1,4})_(\d{1,3})", name):
        if row := _cifar_wide(int(match[1]), int(match[2])):
            return row
        raise InputError(
            f"--model={name}: a Wide ResNet of CIFAR has 6n+4 layers and a whole factor, as cifar_wrn28_10"
        )
    if name in _RENAMED:
        raise InputError(f"--model={name}: timm's {name} is {_RENAMED[name]} here")
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
