"""Show what training sees: `python -m resnet_tf.show --flagfile=flags/NAME.cfg --data_dir=DIR --out=gallery.png`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    return command.launch("Draw images and the views that training makes of them.", config.ShowConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.evaluation import gallery

    return gallery.show(settings)


if __name__ == "__main__":
    sys.exit(main())
