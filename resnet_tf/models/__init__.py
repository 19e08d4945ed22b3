"""Configuration in, Keras graph out."""

from resnet_tf.models.architectures import Architecture, find, list_models
from resnet_tf.models.builder import create_model

__all__ = ["Architecture", "create_model", "find", "list_models"]
