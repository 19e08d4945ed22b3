"""The tasks of a run, subclasses of `task.Task`: classification, segmentation and detection."""

from resnet_tf.tasks.find import evaluate, export, of, type_of_run
from resnet_tf.tasks.serving import load
from resnet_tf.tasks.train import train

__all__ = ["evaluate", "export", "load", "of", "train", "type_of_run"]
