"""Seconds to build a network beside keras.applications, in turn and in one process."""

import statistics
import sys
import time

import keras

from resnet_tf.errors import InputError
from resnet_tf.models.builder import create_model

_PEERS = {"keras_applications": lambda: keras.applications.ResNet50(weights=None)}


def benchmark_build(config):
    """Build the network and keras.applications' ResNet50 in turn.

    Args:
        config: a `config.BenchmarkConfig`; peers are keras_applications.

    Returns:
        {"benchmark", "model", "ours", "unit", "peers", "ratio", "spread"}, medians in seconds; the ratio
        is how many times faster ours is.

    Raises:
        InputError: an unknown peer.
    """
    settings = config.benchmark
    unknown = set(settings.peers) - set(_PEERS)
    if unknown:
        raise InputError(f"--peers={','.join(sorted(unknown))}: not one of {', '.join(_PEERS)}")
    if settings.results:
        raise InputError(f"--results={settings.results}: build times are no images per second; leave it unset")
    systems = {"ours": lambda: create_model(config.model.model), **{name: _PEERS[name] for name in settings.peers}}
    seconds = {name: [] for name in systems}
    for repeat in range(settings.repeats + 1):  # the first warms up
        for name, build in systems.items():
            keras.utils.clear_session()
            begun = time.perf_counter()
            build()
            if repeat:
                seconds[name].append(time.perf_counter() - begun)
                print(f"{name}: {seconds[name][-1]:.2f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "benchmark": "build",
        "model": config.model.model,
        "ours": round(medians["ours"], 3),
        "unit": "s",
        "peers": {name: round(medians[name], 3) for name in settings.peers},
        "ratio": {name: round(medians[name] / medians["ours"], 3) for name in settings.peers},
        "spread": {name: round((max(v) - min(v)) / medians[name], 3) for name, v in seconds.items()},
    }
