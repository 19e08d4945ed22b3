"""Train segmentation: `python -m resnet_tf.transfer.segment --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Train a network that classifies every pixel, evaluate it, and save the run to a folder.",
    config.SegmentConfig,
    command.train,
)

if __name__ == "__main__":
    sys.exit(main())
