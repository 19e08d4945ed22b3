"""Build networks from their configuration as Keras models."""

import importlib

from resnet_tf.models.architectures import Architecture, find, list_models

_LAZY = {
    "create_model": "builder",
    "create_backbone": "builder",
    "Cost": "cost",
    "cost": "cost",
    "cost_by_name": "cost",
}
__all__ = ["Architecture", "Cost", "cost", "cost_by_name", "create_backbone", "create_model", "find", "list_models"]


def __dir__():
    """List the names that the package hands on, imported yet or not."""
    return sorted({*globals(), *__all__})


def __getattr__(name):
    """Import Keras only when a network is first requested."""
    if name not in _LAZY:
        raise AttributeError(f"module 'resnet_tf.models' has no attribute '{name}'")
    module = importlib.import_module(f"resnet_tf.models.{_LAZY[name]}")
    for public, submodule in _LAZY.items():  # all names: importing the module `cost` has replaced the function `cost`
        if submodule == _LAZY[name]:
            globals()[public] = getattr(module, public)
    return globals()[name]
