"""Show training views: `python -m resnet_tf.show --flagfile=flags/NAME.cfg --data_dir=DIR --out=gallery.png`."""

import sys

from resnet_tf import command, config

main = command.entry("Draw images and their training views.", config.ShowConfig, "resnet_tf.evaluation.gallery:show")

if __name__ == "__main__":
    sys.exit(main())
