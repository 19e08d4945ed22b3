"""Extract the feature vectors of a trained network: `python -m resnet_tf.features --run=RUN --out=FILE.parquet`."""

import sys

from resnet_tf import command, config

main = command.entry(
    "Write the input of the classifier for every example, for linear probes and similarity search.",
    config.FeaturesConfig,
    "resnet_tf.evaluation.features:write",
)

if __name__ == "__main__":
    sys.exit(main())
