"""Decode images for a training on another machine: `python -m resnet_tf.data_server --port=5050 --host=NAME`.

The training connects with `--data_service=NAME:5050`. Both machines need the images under the same path.
"""

import sys

from resnet_tf import command, config

main = command.entry(
    "Decode images for a training, until stopped.", config.DataServerConfig, "resnet_tf.data.service:serve"
)

if __name__ == "__main__":
    sys.exit(main())
