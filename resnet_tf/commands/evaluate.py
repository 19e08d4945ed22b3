"""Evaluate runs, an exported model or imported weights: `python -m resnet_tf.evaluate --run=runs/NAME --report=DIR`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Evaluate a run, an ensemble, an exported model or imported weights on a split of the data.",
    config.EvaluateConfig,
    "resnet_tf.tasks:evaluate",
)
sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.evaluate(...)`

if __name__ == "__main__":
    sys.exit(main())
