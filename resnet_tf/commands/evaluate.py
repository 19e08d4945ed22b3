"""Evaluate runs, an exported model or imported weights: `python -m resnet_tf.evaluate --run=runs/NAME --report=DIR`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Evaluate a run, an ensemble, an exported model or imported weights on a split of the data."
    return command.launch(description, config.EvaluateConfig, _run, argv)


def _run(settings, _):
    from resnet_tf import tasks

    return tasks.evaluate(settings)


sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.evaluate(...)`

if __name__ == "__main__":
    sys.exit(main())
