"""Train every run of a grid: `python -m resnet_tf.sweep --grid=flags/grids/NAME.yaml --out=DIR -- --data_dir=...`.

Flags after -- are passed to every training. The same command resumes a sweep that was stopped.
"""

import sys

from resnet_tf import command, config


def _run(settings, arguments):
    from resnet_tf.sweeps import sweep

    return sweep.run(settings, arguments)


main = command.entry(
    "Train every run of a grid, each in its own process; flags after -- are passed to every training.",
    config.SweepConfig,
    _run,
    positional="[-- --flag=value ...]",
    code=lambda result: 1 if result["failed"] else 0,
)

if __name__ == "__main__":
    sys.exit(main())
