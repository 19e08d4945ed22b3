"""Seconds to build a network beside keras.applications, in turn and in one process."""

import time

import keras

from resnet_tf.bench import measure
from resnet_tf.models.builder import create_model

_PEERS = {"keras_applications": lambda: keras.applications.ResNet50(weights=None)}


def benchmark_build(config):
    """Build the network and keras.applications' ResNet50 in turn.

    Args:
        config: a `config.BenchmarkConfig`; peers are keras_applications.

    Returns:
        What `measure.summary` makes of it, in seconds.

    Raises:
        InputError: an unknown peer.
    """
    settings = config.benchmark
    measure.check_peers(settings.peers, _PEERS)
    builders = {"ours": lambda: create_model(config.model.model), **{name: _PEERS[name] for name in settings.peers}}

    def timed(build):
        def run():
            keras.utils.clear_session()
            begun = time.perf_counter()
            build()
            return time.perf_counter() - begun

        return run

    seconds = measure.in_turn({name: timed(build) for name, build in builders.items()}, settings.repeats)
    return measure.summary("build", config.model.model, "s", seconds, higher_is_better=False)
