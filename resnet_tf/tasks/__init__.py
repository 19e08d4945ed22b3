"""What a run learns: classification, segmentation, detection, side by side under the protocol of `task.Task`."""

from resnet_tf.tasks.find import of, type_of_run

__all__ = ["of", "type_of_run"]
