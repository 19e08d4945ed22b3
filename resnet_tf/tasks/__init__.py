"""What a run learns: classification, segmentation, detection, side by side under the protocol of `task.Task`."""

from resnet_tf.tasks.find import evaluate, export, of, type_of_run

__all__ = ["evaluate", "export", "of", "type_of_run"]
