"""Train all of a grid: `python -m resnet_tf.sweep --grid=flags/grids/NAME.yaml --out=DIR -- --data_dir=...`.

Flags after -- go to every training. The same command goes on where it was stopped.
"""

import sys

from resnet_tf import command, config


def main(argv=None):
    """Run the command; returns its exit code, 1 where a training failed."""
    return command.launch(
        "Train all of a grid, each in a process of its own; flags after -- go to every training.",
        config.SweepConfig,
        _run,
        argv,
        positional="[-- --flag=value ...]",
        code=lambda result: 1 if result["failed"] else 0,
    )


def _run(settings, arguments):
    from resnet_tf.sweeps import sweep

    return sweep.run(settings, arguments)


if __name__ == "__main__":
    sys.exit(main())
