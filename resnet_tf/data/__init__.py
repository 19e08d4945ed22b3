"""Find, decode, crop, augment and batch images."""

from resnet_tf.data.archives import read_members
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.data.examples import Examples
from resnet_tf.data.for_keras import pipeline
from resnet_tf.data.geometry import View
from resnet_tf.data.images import decode, decode_tensor, resize_center
from resnet_tf.data.resident import PadCrop
from resnet_tf.data.sources import DATASETS, index, load
from resnet_tf.data.splits import Source, Split

__all__ = [
    "DATASETS",
    "Augmentation",
    "Examples",
    "PadCrop",
    "Source",
    "Split",
    "View",
    "decode",
    "decode_tensor",
    "index",
    "load",
    "pipeline",
    "read_members",
    "resize_center",
]
