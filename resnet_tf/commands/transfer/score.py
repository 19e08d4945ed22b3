"""Score a run of segmentation or detection: `python -m resnet_tf.transfer.score --run=runs/NAME --report=DIR`.

This is `python -m resnet_tf.evaluate`, limited to the flags that these tasks use.
"""

import dataclasses
import sys

from resnet_tf import command, config


def _run(settings, _):
    command.require(settings, "run")
    from resnet_tf import tasks

    return tasks.evaluate(config.EvaluateConfig(config.EvaluationSection(**dataclasses.asdict(settings))))


main = command.entry(
    "Score a run of segmentation or detection on a split of its data, every whole image once.", config.ScoreConfig, _run
)

if __name__ == "__main__":
    sys.exit(main())
