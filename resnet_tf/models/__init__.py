"""Configuration in, Keras graph out."""

from resnet_tf.models.architectures import Architecture, find, list_models
from resnet_tf.models.builder import create_backbone, create_model
from resnet_tf.models.cost import Cost, cost, cost_by_name

__all__ = ["Architecture", "Cost", "cost", "cost_by_name", "create_backbone", "create_model", "find", "list_models"]
