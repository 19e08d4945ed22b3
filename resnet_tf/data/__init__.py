"""Where images come from: archives, image decoding and labelled data sets."""

from resnet_tf.data.archives import read_members
from resnet_tf.data.images import decode, decode_tensor, resize_center
from resnet_tf.data.sources import DATASETS, Source, Split, load

__all__ = ["DATASETS", "Source", "Split", "decode", "decode_tensor", "load", "read_members", "resize_center"]
