"""resnet_tf: the ResNet family for TensorFlow, its training, evaluation and serving."""

import importlib
import os

from resnet_tf.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow has oneDNN's kernels off on processors without AVX-512, where they are faster by a third too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Commands are found as modules of this package too: `python -m resnet_tf.train`, `from resnet_tf import train`.
__path__.append(os.path.join(os.path.dirname(__file__), "commands"))

__version__ = "0.1.0"
_MODELS = ("cost", "create_backbone", "create_model", "list_models")
_COMMANDS = ("evaluate", "export", "predict")  # modules that can be called; see `command.Callable`
__all__ = ["InputError", *_MODELS, "fit", *_COMMANDS]


def __getattr__(name):
    """Import TensorFlow when it is first needed, so that --help and bad flags answer at once."""
    if name in _MODELS:
        return getattr(importlib.import_module("resnet_tf.models"), name)
    if name == "fit":
        return importlib.import_module("resnet_tf.api").fit
    if name in _COMMANDS:
        return importlib.import_module(f"resnet_tf.{name}")
    raise AttributeError(f"module 'resnet_tf' has no attribute '{name}'")


def __dir__():
    """Name what can be asked for, imported yet or not."""
    return sorted({*globals(), *__all__})
