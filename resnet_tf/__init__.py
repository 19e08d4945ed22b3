"""resnet_tf: the ResNet family for TensorFlow, its training, evaluation and serving."""

import importlib
import importlib.machinery
import os
import sys

from resnet_tf.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
# TensorFlow has oneDNN's kernels off on processors without AVX-512, where they are faster by a third too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Commands are found as modules of this package too: `python -m resnet_tf.train`, `from resnet_tf import train`.
__path__.append(os.path.join(os.path.dirname(__file__), "commands"))

__version__ = "1.0.0"
# Names that the package hands on, by the module that has them. TensorFlow is imported when one is first asked for, so
# that --help and bad flags answer at once. Editors and type checkers read them in __init__.pyi.
_HOMES = dict.fromkeys(("cost", "create_backbone", "create_model", "list_models"), "models")
_HOMES |= {"decode_predictions": "models.imagenet"} | dict.fromkeys(("Fitted", "fit", "preprocessing_of"), "api")
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


def _register():
    """Import what Keras shall know, which registers it; with another backend than TensorFlow's it is of no use."""
    if "tensorflow" in sys.modules:
        importlib.import_module(f"{__name__}.models.naming")  # imports the layers too


class _AfterKeras:
    """A finder of modules that finds Keras alone, as Python does by itself, and registers the layers once it is there.

    So `keras.models.load_model` reads what this package made after `import resnet_tf`, which does not import Keras.
    Keras 3.15 loads registered classes only: for safety it does not import the module that a file names, unless it is
    one of Keras' own packages (`keras.src.saving.serialization_lib._retrieve_class_or_fn`).
    """

    @staticmethod
    def find_spec(name, path=None, target=None):
        """Return how to import Keras; None for every other module."""
        spec = importlib.machinery.PathFinder.find_spec(name, path, target) if name == "keras" else None
        if spec and spec.loader:
            execute = spec.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterKeras)
