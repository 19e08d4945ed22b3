"""The blocks: post-activation (2015) and pre-activation (2016), basic and bottleneck alike.

A basic block is two 3x3 convolutions; a bottleneck is 1x1, 3x3 and a 1x1 four times as wide. The two
paths are added. A plain net is the same without the shortcut.
"""


def convolutions(row, filters, stride):
    """The convolutions of a block: [(kernel, filters, stride), ...]."""
    if not row.bottleneck:
        return [(3, filters, stride), (3, filters, 1)]
    first, middle = (stride, 1) if row.stride_in == "1x1" else (1, stride)
    return [(1, filters, first), (3, filters, middle), (1, filters * row.expansion, 1)]


def postactivation(layers, x, row, filters, stride, name):
    """Convolution, BN, ReLU; the last ReLU comes after the addition (He et al. 2015, figure 2 and 5)."""
    plan = convolutions(row, filters, stride)
    y = x
    for index, (kernel, width, step) in enumerate(plan, start=1):
        y = layers.conv(y, width, kernel, step, name=f"{name}_conv{index}")
        y = layers.norm(y, name=f"{name}_bn{index}")
        if index < len(plan):
            y = layers.relu(y, name=f"{name}_relu{index}")
    if row.shortcut != "none":
        shortcut = layers.shortcut(x, row, plan[-1][1], stride, name=f"{name}_shortcut")
        y = layers.add(shortcut, y, name=f"{name}_add")
    return layers.relu(y, name=f"{name}_relu")


def preactivation(layers, x, row, filters, stride, name):
    """BN, ReLU, convolution; a projection reads the pre-activated tensor (He et al. 2016, figure 4e and its code)."""
    plan = convolutions(row, filters, stride)
    y, activated = x, None
    for index, (kernel, width, step) in enumerate(plan, start=1):
        y = layers.relu(layers.norm(y, name=f"{name}_bn{index}"), name=f"{name}_relu{index}")
        activated = y if activated is None else activated
        y = layers.conv(y, width, kernel, step, name=f"{name}_conv{index}")
    identity = row.shortcut != "C" and stride == 1 and x.shape[-1] == plan[-1][1]
    shortcut = x if identity else layers.shortcut(activated, row, plan[-1][1], stride, name=f"{name}_shortcut")
    return layers.add(shortcut, y, name=f"{name}_add")
