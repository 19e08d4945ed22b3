"""Decode images for a training on another machine: `python -m resnet_tf.data_server --port=5050 --host=NAME`.

The training names it by `--data_service=NAME:5050`. Both must see the images under the same path.
"""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Decode images for a training, until it is stopped.", config.DataServerConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.data import service

    return service.serve(settings)


if __name__ == "__main__":
    sys.exit(main())
