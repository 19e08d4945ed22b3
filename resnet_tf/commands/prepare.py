"""Prepare a data set for fast reading: `python -m resnet_tf.prepare --dataset=folder --data_dir=SRC --out=DIR`."""

import logging
import sys
import time

from resnet_tf import command, config

_log = logging.getLogger(__name__)


def _run(settings, _):
    command.require(settings, "out")
    from resnet_tf.data import prepare, sources

    started = time.monotonic()
    source = sources.index(
        settings.dataset, settings.data_dir, classes=settings.classes, tfds_name=settings.tfds_name, exif=settings.exif
    )
    _log.info("%s", source)
    result = prepare.prepare(
        source, settings.out, settings.shorter_side, settings.quality, settings.shards, settings.skip_bad_images
    )
    return result | {"wall_seconds": round(time.monotonic() - started, 2)}


main = command.entry(
    "Write a data set as small JPEGs in a few large files. The same command resumes an interrupted one.",
    config.PrepareConfig,
    _run,
)

if __name__ == "__main__":
    sys.exit(main())
