"""Export a run as a SavedModel: `python -m resnet_tf.export --run=runs/NAME --out=DIR`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Export a run as a SavedModel.", config.ExportConfig, _run, argv)


def _run(settings, _):
    for name in ("run", "out"):
        if not getattr(settings.export, name):
            raise InputError(f"--{name} is not set")
    from resnet_tf.serving import savedmodel

    return savedmodel.export(settings.export.run, settings.export.out, settings.export.weights)


if __name__ == "__main__":
    sys.exit(main())
