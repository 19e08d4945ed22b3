"""Count the cost of a network: parameters, multiply-accumulates (MACs), activations, memory.

A MAC is one multiplication and one addition. The "FLOPs" of papers are MACs, twice the MACs, or the number that the
tool thop prints, which includes batch normalisation. Each number here therefore names its unit.
"""

import dataclasses
import math

import keras

from resnet_tf.errors import InputError
from resnet_tf.models import whitening
from resnet_tf.models.layers import Layers
from resnet_tf.models.variants import EvoNorm


@dataclasses.dataclass(frozen=True)
class Cost:
    """The cost of a network for one image.

    Attributes:
        parameters: number of weights, including the moving statistics of BN.
        trainable_parameters: number of weights without the moving statistics.
        macs: multiply-accumulates of convolutions and dense layers.
        activations: output values of convolutions and dense layers.
        normalized: output values of normalisations.
    """

    parameters: int
    trainable_parameters: int
    macs: int
    activations: int
    normalized: int

    @property
    def gmacs(self) -> float:
        """10^9 multiply-accumulates."""
        return self.macs / 1e9

    @property
    def gflops_thop(self) -> float:
        """10^9 operations as thop counts them: two for each MAC, four for each output value of a BN."""
        return (2 * self.macs + 4 * self.normalized) / 1e9

    @property
    def mib_float32(self) -> float:
        """Trainable parameters in MiB at 4 bytes each."""
        return self.trainable_parameters * 4 / 2**20

    @property
    def mib_float16(self) -> float:
        """Trainable parameters in MiB at 2 bytes each."""
        return self.mib_float32 / 2


def cost(model: keras.Model) -> Cost:
    """Count the cost of a built model from its layers.

    >>> cost(create_model("resnet50_v1b")).trainable_parameters
    25557032

    Args:
        model: a model with one input of known size.

    Raises:
        InputError: the size of the input is not known.
    """
    if None in model.inputs[0].shape[1:]:
        raise InputError(f"{model.name}: the input has no fixed size; build it with input_shape=(height, width, 3)")
    macs = activations = normalized = 0
    for layer in model.layers:
        if isinstance(layer, (keras.layers.BatchNormalization, keras.layers.GroupNormalization, EvoNorm)):
            normalized += math.prod(layer.output.shape[1:])
        if not isinstance(layer, keras.layers.Conv1D | keras.layers.Conv2D | keras.layers.Dense):
            continue
        outputs = math.prod(layer.output.shape[1:])
        # Every output value is a sum over all but the last axis of the kernel.
        macs += outputs * math.prod(layer.kernel.shape[:-1])
        activations += outputs
    count = {True: 0, False: 0}
    for variable in model.variables:
        count[variable.trainable] += math.prod(variable.shape)
    return Cost(count[True] + count[False], count[True], macs, activations, normalized)


def cost_by_name(name: str, shortcut=None, image_size=None, num_classes=None, graph=None) -> Cost:
    """Count the cost of a network without building it; None stands for the paper's image size and classes.

    >>> round(cost_by_name("resnet50_v1b").gmacs, 2)
    4.09
    """
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
    """A stand-in for `Layers` that counts what the layers cost instead of building them."""

    def __init__(self):
        super().__init__()
        names = ("parameters", "statistics", "macs", "activations", "normalized")
        object.__setattr__(self, "tally", dict.fromkeys(names, 0))

    def conv(
        self, x, filters, kernel, stride=1, dilation=1, zero=False, *, groups=1, standardized=False, name
    ):  # fmt: skip
        height, width, channels = x.shape
        pixels = -(-height // stride) * -(-width // stride)
        weights = kernel * kernel * channels // groups * filters
        self._count(weights, weights * pixels, filters * pixels)
        return _Tensor((-(-height // stride), -(-width // stride), filters))

    def whiten(self, x):
        weights = self.tally["parameters"]
        x = self.conv(x, whitening.SIDE**2 * x.shape[-1], whitening.SIDE, name=whitening.LAYER)
        self.tally["statistics"] += self.tally["parameters"] - weights  # which are not trained
        self.tally["parameters"] = weights
        return x

    def norm(self, x, zero=False, *, kind="bn", name):
        self._count((3 if kind == "evos" else 2) * x.shape[-1], 0, 0)
        self.tally["statistics"] += 2 * x.shape[-1] if kind == "bn" else 0
        self.tally["normalized"] += math.prod(x.shape)
        return x

    def norm_relu(self, x, row, *, name, relu):
        return self.norm(x, kind=row.norm, name=name)

    def relu(self, x, *, name, of_sum=False):
        return x

    def activate(self, x, row, *, name, of_sum=False):
        return x

    def add(self, x, y, *, name):
        if x.shape != y.shape:
            raise ValueError(f"{name}: {x.shape} and {y.shape}")
        return y

    def max_pool(self, x, *, name, activated):
        return self.average_pool(x, 2, name=name)

    def max_pool_2x2(self, x, *, name):
        return self.average_pool(x, 2, padding="valid", name=name)

    def max_pool_of_stride_1(self, x, *, name):
        return x

    def antialias(self, x, kind, *, name):
        return self.average_pool(x, 2, name=name)

    def squeeze(self, x, *, name):
        return _Tensor((1, 1, x.shape[-1]))

    def gate(self, x, y, *, name):
        return x

    def dense_1x1(self, x, filters, *, name):
        return self.dense(x, filters, name=name)

    def conv_over_channels(self, x, kernel, *, name):
        channels = x.shape[-1]
        self._count(kernel, kernel * channels, channels)
        return x

    def average_pool(self, x, stride, dilation=1, padding="same", *, name):
        if padding == "valid":
            return _Tensor((x.shape[0] // stride, x.shape[1] // stride, x.shape[2]))
        return _Tensor((-(-x.shape[0] // stride), -(-x.shape[1] // stride), x.shape[2]))

    def pad_identity(self, x, filters, stride, *, name):
        return _Tensor((-(-x.shape[0] // stride), -(-x.shape[1] // stride), filters))

    def global_pool(self, x, kind="avg", *, name):
        return _Tensor(x.shape[-1:])

    def scale(self, x, factor, *, name):
        return x

    def dense(self, x, units, deviation=None, bias=True, *, name):
        weights = x.shape[-1] * units
        self._count(weights + bias * units, weights, units)
        return _Tensor((*x.shape[:-1], units))

    def _count(self, parameters, macs, activations):
        self.tally["parameters"] += parameters
        self.tally["macs"] += macs
        self.tally["activations"] += activations
