"""Evaluate runs, an exported model or imported weights: `python -m resnet_tf.evaluate --run=runs/NAME --report=DIR`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Evaluate a run, an ensemble, an exported model or imported weights on a split of the data."
    return command.launch(description, config.EvaluateConfig, _run, argv)


def _run(settings, _):
    from resnet_tf import tasks
    from resnet_tf.evaluation import evaluate

    if not settings.evaluation.run:
        return evaluate.evaluate(settings)
    first = settings.evaluation.run.split(",")[0]
    return tasks.type_of_run(first).evaluate(settings)


if __name__ == "__main__":
    sys.exit(main())
