"""Export a run of segmentation: `python -m resnet_tf.transfer.export --run=runs/NAME --out=model`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Export a run of segmentation as a SavedModel.", config.SegmentationExportConfig, _run, argv)


def _run(settings, _):
    for name in ("run", "out"):
        if not getattr(settings.export, name):
            raise InputError(f"--{name} is not set")
    from resnet_tf.transfer import serving

    return serving.export(settings.export)


if __name__ == "__main__":
    sys.exit(main())
