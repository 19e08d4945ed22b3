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

__version__ = "1.0.0"
# Names that the package hands on, by the module that has them. TensorFlow is imported when one is first asked for, so
# that --help and bad flags answer at once.
_HOMES = dict.fromkeys(("cost", "create_backbone", "create_model", "list_models"), "models") | {"fit": "api"}
_COMMANDS = ("evaluate", "export", "predict")  # modules that can be called; see `command.Callable`
__all__ = ["InputError", *_HOMES, *_COMMANDS]


def __getattr__(name):
    """Import a name that the package hands on."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _COMMANDS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__():
    """List the names that the package hands on, imported yet or not."""
    return sorted({*globals(), *__all__})
