"""Export a model for serving: `python -m resnet_tf.export --run=runs/NAME --out=model --format=savedmodel,onnx`."""

import sys

from resnet_tf import command, config


def _run(settings, _):
    command.require(settings, *(() if settings.network else ("run",)), "out")
    from resnet_tf import tasks

    return tasks.export(settings)


main = command.entry(
    "Export a run, or a network with imported weights, as a SavedModel, TFLite, ONNX or Keras model.",
    config.ExportConfig,
    _run,
)
sys.modules[__name__].__class__ = command.Callable  # `resnet_tf.export(...)`

if __name__ == "__main__":
    sys.exit(main())
