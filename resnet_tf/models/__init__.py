"""Configuration in, Keras graph out."""

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


def __getattr__(name):
    """Import Keras when a network is first asked for."""
    if name not in _LAZY:
        raise AttributeError(f"module 'resnet_tf.models' has no attribute '{name}'")
    module = importlib.import_module(f"resnet_tf.models.{_LAZY[name]}")
    for other, home in _LAZY.items():  # all of them: importing the module cost has put it in the place of its function
        if home == _LAZY[name]:
            globals()[other] = getattr(module, other)
    return globals()[name]
