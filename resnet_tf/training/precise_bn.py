"""Statistics of BN over many whole batches, in place of its moving averages ("precise BN")."""

import functools

import numpy as np
import tensorflow as tf

from resnet_tf.runs import network
from resnet_tf.runs.runner import all_reduce, inputs_of
from resnet_tf.training import step
from resnet_tf.training.engine import Engine
from resnet_tf.training.supply import Resident, Streamed


def precise_bn(engine: Engine, supply: Resident | Streamed, first_step: int, count: int) -> None:
    """Set the statistics of BN to those of whole batches, for the weights and for their moving average.

    Args:
        engine: of the training.
        supply: of its batches.
        first_step: the first step whose batch is used.
        count: number of batches.
    """
    prefixes = ("model/", "ema/") if engine.recipe.ema else ("model/",)
    layers = [
        (layer.moving_mean.path, layer.moving_variance.path, layer.momentum)
        for layer in network.bn_layers(engine.model)
    ]
    compute = engine.compiled(functools.partial(_means_and_squares, engine, layers, prefixes))
    # The mean of variances would leave out how far the means of the batches lie apart, so squares are averaged; in
    # float64, since the square of the mean is subtracted from them.
    total = {}
    for batch in supply.peek(first_step, count):
        with engine.device:
            values = compute(batch)
        for name, value in values.items():
            total[name] = total.get(name, 0.0) + value.numpy().astype(np.float64)
    statistics = {name: value / count for name, value in total.items()}
    for prefix in prefixes:
        for mean, variance, _ in layers:
            spread = statistics[prefix + variance] - statistics[prefix + mean] ** 2
            statistics[prefix + variance] = np.maximum(spread, 0)
    engine.state.set({name: value.astype(np.float32) for name, value in statistics.items()})


def _means_and_squares(engine, layers, prefixes, batch):
    """Return the mean and, under the name of the variance, the mean square of what each BN is given in a batch."""
    wanted = {path for mean, variance, _ in layers for path in (mean, variance)}  # the others are frozen

    def one(replica, part):
        part = step.Batch(*part)
        inputs, sums = inputs_of(engine.model, *step.augment(engine.recipe, engine.model, part), part.keys), {}
        for prefix in prefixes:
            weights, statistics = engine.state.read_network(replica, prefix == "ema/")
            zero = [
                tf.zeros_like(value) if path in wanted else value
                for path, value in zip(engine.state.statistics, statistics, strict=True)
            ]
            # From moving statistics of 0 the new ones are (1 - momentum) times those of the batch.
            moved = engine.network.stateless_call(weights, zero, inputs, training=True)[1]
            moved = dict(zip(engine.state.statistics, moved, strict=True))
            for mean, variance, momentum in layers:
                first, spread = (moved[path] / (1 - momentum) for path in (mean, variance))
                sums[prefix + mean] = first / engine.replicas
                sums[prefix + variance] = (spread + tf.square(first)) / engine.replicas
        return all_reduce(sums) if engine.replicas > 1 else sums

    return engine.each_replica(one, batch)[0]
