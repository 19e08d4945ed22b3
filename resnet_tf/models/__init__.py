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
    value = getattr(importlib.import_module(f"resnet_tf.models.{_LAZY[name]}"), name)
    globals()[name] = value  # in the place of the submodule that may have the same name
    return value
