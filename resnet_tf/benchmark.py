"""Measure speed against peers in one run: `python -m resnet_tf.benchmark train --model=... --peers=keras_fit`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Measure speed against peers: alternating, warm, median of several."
    return command.launch(description, config.BenchmarkConfig, _run, argv, positional="train")


def _run(settings, kinds):
    if kinds != ["train"]:
        raise InputError(f"{' '.join(kinds) or 'nothing'} to measure: say train")
    from resnet_tf.training import benchmark

    return benchmark.benchmark_train(settings)


if __name__ == "__main__":
    sys.exit(main())
