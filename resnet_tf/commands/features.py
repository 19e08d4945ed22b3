"""The vectors that a trained network makes of images: `python -m resnet_tf.features --run=RUN --out=FILE.parquet`."""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Write the vector before the classifier of every example, for linear probes and searches."
    return command.launch(description, config.FeaturesConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.evaluation import features

    return features.write(settings)


if __name__ == "__main__":
    sys.exit(main())
