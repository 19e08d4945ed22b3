"""Train segmentation: `python -m resnet_tf.transfer.segment --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Train a network that gives every pixel a class, evaluate it, and keep the run in a folder."
    return command.launch(description, config.SegmentConfig, _run, argv)


def _run(settings, _):
    from resnet_tf import tasks
    from resnet_tf.training import loop

    return loop.train(tasks.of(settings))


if __name__ == "__main__":
    sys.exit(main())
