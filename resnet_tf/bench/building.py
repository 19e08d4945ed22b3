"""Benchmark of building a network beside keras.applications, in turn and in one process."""

import keras

from resnet_tf.bench import measure
from resnet_tf.config import BenchmarkConfig
from resnet_tf.models.builder import create_model

_PEERS = {"keras_applications": lambda: keras.applications.ResNet50(weights=None)}


def benchmark_build(config: BenchmarkConfig) -> dict:
    """Measure the seconds to build the network and, beside it, ResNet50 of keras.applications.

    Args:
        config: a `config.BenchmarkConfig`; the only peer is keras_applications.

    Returns:
        What `measure.summary` returns, in seconds.

    Raises:
        InputError: a peer is unknown.
    """
    settings = config.benchmark
    measure.check(config, _PEERS)
    builders = {"ours": lambda: create_model(config.model.model), **{name: _PEERS[name] for name in settings.peers}}

    def timed_build(build):
        run = measure.timed(build)
        return lambda: (keras.utils.clear_session(), run())[1]

    seconds = measure.in_turn({name: timed_build(build) for name, build in builders.items()}, settings.repeats)
    return measure.summary("build", config.model.model, "s", seconds, higher_is_better=False)
