"""Residual blocks: post-activation (2015) and pre-activation (2016), each as basic block and as bottleneck.

A basic block has two 3x3 convolutions. A bottleneck has a 1x1, a 3x3 and a 1x1 with four times the channels. The
shortcut is added to the result. The blocks of a plain net have no shortcut.
"""

import dataclasses
import typing

from resnet_tf.models.architectures import Architecture


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Stride and dilation of a block.

    Attributes:
        stride: stride of the block in the paper, 1 or 2.
        dilation: dilation of the convolutions up to and including the one that has the stride.
        removed: whether the stride is replaced by twice the dilation in the convolutions that follow.
        is_first: whether the block is the first one of the network.
    """

    stride: int = 1
    dilation: int = 1
    removed: bool = False
    is_first: bool = False

    @property
    def effective_stride(self) -> int:
        """The stride that the block is built with."""
        return 1 if self.removed else self.stride


class Convolution(typing.NamedTuple):
    """A convolution of a block; `antialiased` says that a pool of stride 2 follows its activation."""

    kernel: int
    filters: int
    stride: int
    dilation: int
    groups: int = 1
    antialiased: bool = False


def convolutions(row: Architecture, filters: int, sampling: Sampling) -> list[Convolution]:
    """Return the convolutions of a block in a stage of `filters`."""
    if row.bottleneck:
        width = row.width(filters)
        plan = [(1, width // row.first_divisor), (3, width), (1, filters * row.expansion)]
        strided = 0 if row.stride_in == "1x1" else 1
    else:
        plan = [(3, filters), (3, filters)]
        strided = 0
    stride, before, after = sampling.effective_stride, sampling.dilation, sampling.dilation * (1 + sampling.removed)
    pooled = row.antialias != "none" and stride > 1
    return [
        Convolution(
            kernel,
            width,
            stride if index == strided and not pooled else 1,
            before if index <= strided else after,
            row.groups if row.bottleneck and kernel > 1 else 1,
            pooled and index == strided,
        )
        for index, (kernel, width) in enumerate(plan)
    ]


def postactivation(layers, x, row: Architecture, filters: int, sampling: Sampling, name: str, drop=None):
    """Build a block of convolution, BN, ReLU, with the last ReLU after the addition (He et al. 2015, figs. 2 and 5).

    A row may have the last ReLU in the branch instead.

    `zero_gamma` starts the last BN of the branch at zero (Bag of Tricks, section 3.1). `drop` is a function that adds
    stochastic depth to the branch.
    """
    plan = convolutions(row, filters, sampling)
    y = x
    for index, part in enumerate(plan, start=1):
        last = index == len(plan)
        y = _convolve(layers, y, row, part, name=f"{name}_conv{index}")
        zero = last and layers.zero_gamma and row.shortcut != "none"
        y = layers.norm(y, zero, kind=row.norm, name=f"{name}_bn{index}")
        if not last or row.last_relu == "branch":
            y = layers.activate(y, row, name=f"{name}_relu{index}")
        if part.antialiased:
            y = layers.antialias(y, row.antialias, name=f"{name}_pool")
    y = layers.attention(y, row, name=name)
    if row.shortcut != "none":
        y = drop(y, name=f"{name}_drop") if drop else y
        shortcut = layers.shortcut(x, row, plan[-1].filters, sampling, name=f"{name}_shortcut")
        y = layers.add(shortcut, y, name=f"{name}_add")
    if row.last_relu == "branch":
        return y
    return layers.activate(y, row, name=f"{name}_relu", of_sum=row.shortcut != "none")


def entry(layers, x, row: Architecture, filters: int, name: str):
    """Build what a stage begins with if `row.entry` is "conv": a 3x3, BN, the activation and a 2x2 max pool."""
    x = layers.conv(x, filters, 3, name=f"{name}_conv")
    x = layers.norm_relu(x, row, name=f"{name}_bn", relu=f"{name}_relu")
    return layers.max_pool_2x2(x, name=f"{name}_pool")


def preactivation(layers, x, row: Architecture, filters: int, sampling: Sampling, name: str, drop=None):
    """Build a block of BN, ReLU, convolution (He et al. 2016, figure 4e, appendix, and the authors' code).

    A projection reads the activated tensor. The identity of the first block does too, unless the row says "raw".

    `zero_gamma` starts the last convolution at zero, since the branch does not end in a BN. With a zero gamma in the
    BN before it, the ReLU would output zero and pass no gradient. `drop` is as in `postactivation`.
    """
    plan = convolutions(row, filters, sampling)
    y, activated = x, None
    for index, part in enumerate(plan, start=1):
        y = layers.norm_relu(y, row, name=f"{name}_bn{index}", relu=f"{name}_relu{index}")
        activated = y if activated is None else activated
        zero = index == len(plan) and layers.zero_gamma
        y = _convolve(layers, y, row, part, zero, name=f"{name}_conv{index}")
    is_identity = row.shortcut != "C" and sampling.effective_stride == 1 and x.shape[-1] == plan[-1].filters
    is_raw = is_identity and not (sampling.is_first and row.first_shortcut == "activated")
    shortcut = layers.shortcut(x if is_raw else activated, row, plan[-1].filters, sampling, name=f"{name}_shortcut")
    y = drop(y, name=f"{name}_drop") if drop else y
    return layers.add(shortcut, y, name=f"{name}_add")


def _convolve(layers, x, row, part, zero=False, *, name):
    return layers.conv(
        x, part.filters, part.kernel, part.stride, part.dilation, zero, groups=part.groups,
        standardized=row.standardized, name=name,
    )  # fmt: skip
