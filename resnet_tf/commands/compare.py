"""Compare runs: `python -m resnet_tf.compare runs/A runs/B ... --out=DIR`."""

import sys

from resnet_tf import command, config
from resnet_tf.errors import InputError


def _run(settings, folders):
    if not folders:
        raise InputError("no runs were named: compare RUN... --out=DIR")
    if not settings.out:
        raise InputError("--out is not set: the folder to write the comparison to")
    from resnet_tf.evaluation import page

    return page.compare(settings, folders)


main = command.entry("Compare trained runs.", config.CompareConfig, _run, positional="RUN...")

if __name__ == "__main__":
    sys.exit(main())
