"""Fold batch normalisation into convolutions, for networks that only predict."""

import collections

import keras
import numpy as np
import tensorflow as tf


def fold(model: keras.Model) -> keras.Model:
    """Return a copy of a network in which each BN that follows a convolution is part of it.

    In inference a BN multiplies each channel by a number and adds another one. The kernel is multiplied by the first,
    and the second becomes the bias of the convolution. BN before the convolution, as in v2, stays. Kernels and biases
    are stored in the precision in which the network computes, since they are never trained again.

    Args:
        model: a functional model of this package with its weights; its outputs may be any.

    Returns:
        A model with the same outputs up to rounding: to 1e-5 of the probabilities in float32.
    """
    norms = _norms(model)
    folded = {norm.name for norm in norms.values()}

    def copy(layer):
        if layer.name in folded:
            return lambda inputs, **_: inputs
        config = layer.get_config()
        if isinstance(layer, keras.layers.Conv2D):
            config |= {"dtype": layer.compute_dtype, "use_bias": layer.use_bias or layer.name in norms}
            config["kernel_initializer"] = "zeros"  # the weights are set below
        return type(layer).from_config(config)

    result = keras.models.clone_model(model, clone_function=copy)
    for layer in result.layers:
        if not layer.weights:
            continue
        original = model.get_layer(layer.name)
        values = [np.asarray(tf.cast(weight, tf.float32)) for weight in original.weights]
        if layer.name in norms:
            values = _folded(values, norms[layer.name])
        for weight, value in zip(layer.weights, values, strict=True):
            weight.assign(value)
    return result


def _norms(model):
    """Return {name of a convolution: the BN that alone uses its output}."""
    uses, norms = collections.Counter(tensor._keras_history.operation.name for tensor in model.outputs), {}
    for layer in model.layers:
        for node in layer._inbound_nodes:
            for parent in node.parent_nodes:
                uses[parent.operation.name] += 1
                is_norm = isinstance(layer, keras.layers.BatchNormalization)
                if is_norm and isinstance(parent.operation, keras.layers.Conv2D):
                    norms[parent.operation.name] = layer
    return {name: norm for name, norm in norms.items() if uses[name] == 1}


def _folded(values, norm):
    """Return kernel and bias of a convolution, [kernel] or [kernel, bias], together with its BN."""
    kernel, bias = values if len(values) == 2 else (*values, 0)
    mean, variance = (np.asarray(one, np.float64) for one in (norm.moving_mean, norm.moving_variance))
    scale = 1 / np.sqrt(variance + norm.epsilon)
    scale = scale * np.asarray(norm.gamma, np.float64) if norm.scale else scale
    beta = np.asarray(norm.beta, np.float64) if norm.center else 0
    return [kernel * scale, (bias - mean) * scale + beta]
