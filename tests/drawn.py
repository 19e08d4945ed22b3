"""Weights and images drawn the same wherever NumPy is, for comparing implementations. Needs NumPy alone.

`numpy.random.RandomState` is used because its stream never changes. Weights are drawn in the order of a
PyTorch state dict, one after another from one stream, in PyTorch's layout.
"""

import zlib

import numpy as np

# {network: factor of the last scale and shift of each residual branch}. Without it the sum of branches grows through so
# many blocks until the sigmoids of squeeze-and-excitation are steps, and one float64 differs from another by 1e-2.
_DAMPED = {"resnetrs350": 0.25, "resnetrs420": 0.25}


def weights(shapes, seed):
    """Draw a state dict.

    Args:
        shapes: {name: shape} in the order of the state dict, without "num_batches_tracked".
        seed: a string, such as the network's name, by which some are damped.

    Returns:
        {name: float32 array}: kernels Gaussian by fan-out; scales and variances uniform in [0.7, 1.3],
        shifts, means and biases Gaussian of 0.1, so that no order or epsilon stays hidden.
    """
    random = np.random.RandomState(zlib.crc32(seed.encode()))
    drawn = {}
    for name, shape in shapes.items():
        if len(shape) == 4 and shape[2:] != (1, 1):
            value = random.standard_normal(shape) * np.sqrt(2 / (shape[0] * shape[2] * shape[3]))
        elif len(shape) >= 2:
            value = random.standard_normal(shape) / np.sqrt(shape[1])
        elif name.endswith(("weight", "running_var")):
            value = random.uniform(0.7, 1.3, shape)
        else:
            value = random.standard_normal(shape) * 0.1
        if name.endswith(("bn3.weight", "bn3.bias")):
            value = value * _DAMPED.get(seed, 1)
        drawn[name] = value.astype(np.float32)
    return drawn


def images(height, width):
    """Two images, float32 [2, height, width, 3], Gaussian."""
    return np.random.RandomState(height * 1000 + width).standard_normal((2, height, width, 3)).astype(np.float32)
