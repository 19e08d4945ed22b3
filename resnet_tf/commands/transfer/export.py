"""Export a run of segmentation or detection: `python -m resnet_tf.transfer.export --run=runs/NAME --out=model`.

This is `python -m resnet_tf.export`, limited to the flags that these tasks use.
"""

import dataclasses
import sys

from resnet_tf import command, config


def _run(settings, _):
    command.require(settings, "run", "out")
    from resnet_tf import tasks

    return tasks.export(config.ExportConfig(**dataclasses.asdict(settings)))


main = command.entry("Export a run of segmentation or detection as a SavedModel.", config.TransferExportConfig, _run)

if __name__ == "__main__":
    sys.exit(main())
