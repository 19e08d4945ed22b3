"""Score a run of segmentation or detection: `python -m resnet_tf.transfer.score --run=runs/NAME --report=DIR`.

It is another name for `python -m resnet_tf.evaluate`, with the flags that these tasks use.
"""

import dataclasses
import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Score a run of segmentation or detection on a split of its data, every image once and whole."
    return command.launch(description, config.ScoreConfig, _run, argv)


def _run(settings, _):
    if not settings.run:
        raise InputError("--run is not set")
    from resnet_tf import tasks

    return tasks.evaluate(config.EvaluateConfig(config.EvaluationSection(**dataclasses.asdict(settings))))


if __name__ == "__main__":
    sys.exit(main())
