"""Export a run of segmentation or detection: `python -m resnet_tf.transfer.export --run=runs/NAME --out=model`.

It is another name for `python -m resnet_tf.export`, with the flags that these tasks use.
"""

import dataclasses
import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Export a run of segmentation or detection as a SavedModel."
    return command.launch(description, config.TransferExportConfig, _run, argv)


def _run(settings, _):
    for name in ("run", "out"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is not set")
    from resnet_tf import tasks

    return tasks.export(config.ExportConfig(**dataclasses.asdict(settings)))


if __name__ == "__main__":
    sys.exit(main())
