"""Train detection: `python -m resnet_tf.transfer.detect --flagfile=flags/NAME.cfg --data_dir=...`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Train Faster R-CNN to detect objects, evaluate it, and save the run to a folder.",
    config.DetectConfig,
    command.train,
)

if __name__ == "__main__":
    sys.exit(main())
