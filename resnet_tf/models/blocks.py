"""The blocks: post-activation (2015) and pre-activation (2016), basic and bottleneck alike.

A basic block is two 3x3 convolutions; a bottleneck is 1x1, 3x3 and a 1x1 four times as wide. The two
paths are added. A plain net is the same without the shortcut.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Step:
    """What a block does to the resolution.

    Attributes:
        stride: of the block in the paper, 1 or 2.
        dilation: of its convolutions up to the one that has the stride.
        removed: a dilation, twice as large from there on, stands for the stride.
        opens: whether it is the first block of the network.
    """

    stride: int = 1
    dilation: int = 1
    removed: bool = False
    opens: bool = False

    @property
    def kept(self):
        """The stride that is left."""
        return 1 if self.removed else self.stride


def convolutions(row, filters, step):
    """The convolutions of a block: [(kernel, filters, stride, dilation), ...]."""
    if row.bottleneck:
        plan = [(1, filters), (3, filters), (1, filters * row.expansion)]
        strided = 0 if row.stride_in == "1x1" else 1
    else:
        plan = [(3, filters), (3, filters)]
        strided = 0
    after = step.dilation * (2 if step.removed else 1)
    return [
        (kernel, width, step.kept if index == strided else 1, step.dilation if index <= strided else after)
        for index, (kernel, width) in enumerate(plan)
    ]


def postactivation(layers, x, row, filters, step, name):
    """Convolution, BN, ReLU; the last ReLU comes after the addition (He et al. 2015, figures 2 and 5).

    Zero gamma: the last BN of the branch (Bag of Tricks, section 3.1).
    """
    plan = convolutions(row, filters, step)
    y = x
    for index, (kernel, width, stride, dilation) in enumerate(plan, start=1):
        last = index == len(plan)
        y = layers.conv(y, width, kernel, stride, dilation, name=f"{name}_conv{index}")
        zero = last and layers.zero_gamma and row.shortcut != "none"
        y = layers.norm(y, zero, name=f"{name}_bn{index}")
        if not last:
            y = layers.relu(y, name=f"{name}_relu{index}")
    if row.shortcut != "none":
        shortcut = layers.shortcut(x, row, plan[-1][1], step, name=f"{name}_shortcut")
        y = layers.add(shortcut, y, name=f"{name}_add")
    return layers.relu(y, name=f"{name}_relu", of_sum=row.shortcut != "none")


def preactivation(layers, x, row, filters, step, name):
    """BN, ReLU, convolution (He et al. 2016, figure 4e, appendix, and the authors' code).

    A projection reads the pre-activated tensor; so does the first block's identity, unless the row says "raw".

    Zero gamma: no BN ends the branch, so its last convolution starts at zero. A zero gamma in the BN
    before it would leave a ReLU at zero, through which no gradient ever comes.
    """
    plan = convolutions(row, filters, step)
    y, activated = x, None
    for index, (kernel, width, stride, dilation) in enumerate(plan, start=1):
        y = layers.relu(layers.norm(y, name=f"{name}_bn{index}"), name=f"{name}_relu{index}")
        activated = y if activated is None else activated
        zero = index == len(plan) and layers.zero_gamma
        y = layers.conv(y, width, kernel, stride, dilation, zero, name=f"{name}_conv{index}")
    identity = row.shortcut != "C" and step.kept == 1 and x.shape[-1] == plan[-1][1]
    raw = identity and not (step.opens and row.first_shortcut == "activated")
    shortcut = layers.shortcut(x if raw else activated, row, plan[-1][1], step, name=f"{name}_shortcut")
    return layers.add(shortcut, y, name=f"{name}_add")
