"""Train a network: `python -m resnet_tf.train --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Train a network, evaluate it, and keep the run in a folder.", config.TrainConfig, _run, argv)


def _run(settings, _):
    from resnet_tf import tasks
    from resnet_tf.training import loop

    return loop.train(tasks.of(settings))


if __name__ == "__main__":
    sys.exit(main())
