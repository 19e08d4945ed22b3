"""Evaluate a run: `python -m resnet_tf.evaluate --run=runs/NAME`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Evaluate a run on a split of its data.", config.EvaluateConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.evaluation import evaluate

    return evaluate.evaluate(settings)


if __name__ == "__main__":
    sys.exit(main())
