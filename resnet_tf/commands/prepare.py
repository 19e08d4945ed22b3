"""Prepare a data set for fast reading: `python -m resnet_tf.prepare --dataset=folder --data_dir=SRC --out=DIR`."""

import logging
import sys
import time

from resnet_tf import command, config
from resnet_tf.errors import InputError

_log = logging.getLogger(__name__)


def main(argv=None):
    """Run the command; returns its exit code."""
    description = "Write a data set as small JPEGs in a few large files. Started again, it goes on where it was."
    return command.launch(description, config.PrepareConfig, _run, argv)


def _run(settings, _):
    from resnet_tf.data import prepare, sources

    if not settings.out:
        raise InputError("--out is not set")
    begun = time.monotonic()
    source = sources.index(
        settings.dataset, settings.data_dir, classes=settings.classes, tfds_name=settings.tfds_name, exif=settings.exif
    )
    _log.info("%s", source)
    result = prepare.prepare(
        source, settings.out, settings.shorter_side, settings.quality, settings.shards, settings.skip_bad_images
    )
    return result | {"wall_seconds": round(time.monotonic() - begun, 2)}


if __name__ == "__main__":
    sys.exit(main())
