"""What a network costs: parameters, multiply-accumulates, activations, memory.

A MAC is one multiply and one add. The FLOPs that papers print are these, or twice these, or what the counter thop
makes of them, which adds batch normalisation; so each figure here is named with its unit.
"""

import dataclasses
import math

import keras

from resnet_tf.errors import InputError
from resnet_tf.models.layers import Layers


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one image.

    Attributes:
        parameters: all weights, the moving statistics of BN included.
        trainable_parameters: without these.
        macs: multiply-accumulates of convolutions and dense layers.
        activations: numbers that convolutions and dense layers put out.
        normalized: numbers that batch normalisations put out.
    """

    parameters: int
    trainable_parameters: int
    macs: int
    activations: int
    normalized: int

    @property
    def gmacs(self):
        """10^9 multiply-accumulates."""
        return self.macs / 1e9

    @property
    def gflops_thop(self):
        """10^9 operations as thop counts them: two for a MAC, four for each number that passes a BN."""
        return (2 * self.macs + 4 * self.normalized) / 1e9

    @property
    def mib_float32(self):
        """Trainable parameters in MiB at 4 bytes each."""
        return self.trainable_parameters * 4 / 2**20

    @property
    def mib_float16(self):
        """Trainable parameters in MiB at 2 bytes each."""
        return self.mib_float32 / 2


def cost(model):
    """Cost of a built model, from its own layers.

    Args:
        model: a `keras.Model` with one input of a known size.

    Raises:
        InputError: the size is not known.
    """
    if None in model.inputs[0].shape[1:]:
        raise InputError(f"{model.name}: the input has no size; build it with input_shape=(height, width, 3)")
    macs = activations = normalized = 0
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            normalized += math.prod(layer.output.shape[1:])
        if not isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            continue
        outputs = math.prod(layer.output.shape[1:])
        # Every output is a sum over one column of the kernel; a convolution's output has its pixels besides.
        macs += outputs * math.prod(layer.kernel.shape[:-1])
        activations += outputs
    count = {True: 0, False: 0}
    for variable in model.variables:
        count[variable.trainable] += math.prod(variable.shape)
    return Cost(count[True] + count[False], count[True], macs, activations, normalized)


def cost_by_name(name, shortcut=None, image_size=None, num_classes=None, graph=None):
    """The same for a network of the table, without building it; the paper's size and classes where None."""
    from resnet_tf.models.builder import grow, row_of

    row = row_of(name, shortcut, graph)
    counter = _Counter()
    size = image_size or row.input_size
    stages = grow(counter, row, _Tensor((size, size, 3)))
    counter.head(stages[-1], row, num_classes or row.classes, None)
    tally = counter.tally
    counts = (tally[name] for name in ("macs", "activations", "normalized"))
    return Cost(tally["parameters"] + tally["statistics"], tally["parameters"], *counts)


@dataclasses.dataclass(frozen=True)
class _Tensor:
    shape: tuple[int, ...]


class _Counter(Layers):
    """Walks the plan of a network like `Layers`, and counts instead of building."""

    def __init__(self):
        super().__init__()
        names = ("parameters", "statistics", "macs", "activations", "normalized")
        object.__setattr__(self, "tally", dict.fromkeys(names, 0))

    def conv(self, x, filters, kernel, stride=1, dilation=1, zero=False, *, name):
        height, width, channels = x.shape
        pixels = -(-height // stride) * -(-width // stride)
        weights = kernel * kernel * channels * filters
        self._count(weights, weights * pixels, filters * pixels)
        return _Tensor((-(-height // stride), -(-width // stride), filters))

    def norm(self, x, zero=False, *, name):
        self._count(2 * x.shape[-1], 0, 0)
        self.tally["statistics"] += 2 * x.shape[-1]
        self.tally["normalized"] += math.prod(x.shape)
        return x

    def relu(self, x, *, name, of_sum=False):
        return x

    def add(self, x, y, *, name):
        if x.shape != y.shape:
            raise ValueError(f"{name}: {x.shape} and {y.shape}")
        return y

    def max_pool(self, x, *, name, activated):
        return self.average_pool(x, 2, name=name)

    def average_pool(self, x, stride, dilation=1, *, name):
        return _Tensor((-(-x.shape[0] // stride), -(-x.shape[1] // stride), x.shape[2]))

    def pad_identity(self, x, filters, stride, *, name):
        return _Tensor((-(-x.shape[0] // stride), -(-x.shape[1] // stride), filters))

    def global_pool(self, x, *, name):
        return _Tensor(x.shape[-1:])

    def dense(self, x, units, *, name):
        weights = x.shape[-1] * units
        self._count(weights + units, weights, units)
        return _Tensor((units,))

    def _count(self, parameters, macs, activations):
        self.tally["parameters"] += parameters
        self.tally["macs"] += macs
        self.tally["activations"] += activations
