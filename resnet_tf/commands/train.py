"""Train a network: `python -m resnet_tf.train --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Train a network to classify images, evaluate it, and save the run to a folder.", config.TrainConfig, command.train
)

if __name__ == "__main__":
    sys.exit(main())
