"""Relabel images as a person filled in: `python -m resnet_tf.relabel --labels=F --edits=label_errors.csv --out=F`."""

import sys

from resnet_tf import command, config


def _run(settings, _):
    command.require(settings, "labels", "edits", "out")
    from resnet_tf.evaluation import label_errors

    return label_errors.apply(settings.labels, settings.edits, settings.out)


main = command.entry(
    "Change labels as the column new_label of a report's label_errors.csv says.", config.RelabelConfig, _run
)

if __name__ == "__main__":
    sys.exit(main())
