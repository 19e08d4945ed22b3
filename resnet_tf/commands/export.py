"""Export a run for serving: `python -m resnet_tf.export --run=runs/NAME --out=model --format=savedmodel,onnx`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Export a run as a SavedModel, TFLite, ONNX or Keras model.", config.ExportConfig, _run, argv)


def _run(settings, _):
    for name in ("run", "out"):
        if not getattr(settings, name):
            raise InputError(f"--{name} is not set")
    from resnet_tf import tasks

    return tasks.export(settings)


sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.export(...)`

if __name__ == "__main__":
    sys.exit(main())
