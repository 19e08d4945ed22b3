"""Program of `benchmarks/scale.py`: training steps of ours in one process with several devices, or one of several.

It first prints {"versions": "..."}. For each line on stdin, the name of a system, it trains the steps of one
measurement and prints {"seconds", "waited"}, of which `waited` are those for which the host waited for images. The
first line of a name builds and compiles the system, and its seconds count for nothing. It prints an error as {"error":
"..."} and ends when stdin ends. Processes that train together find each other by TF_CONFIG, and must be asked for the
same systems in the same order.

    device      steps on images that the devices hold
    unsummed    the same without the sum over replicas, so that each trains alone: what the all-reduce costs
    sync        the same as `device` with synchronised batch normalisation
    files       steps on JPEG files with every augmentation
"""

import argparse
import functools
import json
import os
import sys
import time

from resnet_tf import config as configuration
from resnet_tf.bench import training
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, record
from resnet_tf.training import session
from resnet_tf.training.engine import Engine

# Every change of images that classification has, as in the measurement from files of docs/performance.md.
AUGMENTED = {
    "views": {"view": "random_resized_crop", "color_jitter": (0.4, 0.0, 0.4, 0.4), "lighting": 0.1, "mixup": 0.2,
              "erasing": 0.25},
    "loss": {"label_smoothing": 0.1},
}  # fmt: skip
_FILLED = 3  # calls before a measurement from files: so many lie ready in queues, which filled while others trained
SYSTEMS = ("device", "unsummed", "sync", "files")


class Unsummed(Engine):
    """An engine whose replicas train alone: its step lacks the all-reduce and nothing else."""

    def summed(self, sums: dict) -> dict:
        """Return the sums of this replica."""
        return sums


def main() -> None:
    """Parse the flags, then answer each line of stdin with one measurement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "precision", "data_dir", "out"):
        parser.add_argument(f"--{name}", default="")
    for name in ("replicas", "image_size", "batch_size", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that prints of libraries do not mix with answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    answer(versions=record.versions())
    systems = {}
    try:
        devices.use_precision(arguments.precision)
        for line in sys.stdin:
            name = line.strip()
            if name not in systems:
                make = from_files if name == "files" else functools.partial(from_device, name)
                systems[name] = make(arguments)
            answer(**systems[name]())
    except InputError as error:
        answer(error=str(error))
    except Exception as error:
        answer(error=f"{type(error).__name__}: {error}"[:500])
        raise


def _strategy(arguments):
    return devices.make_strategy(arguments.replicas)


def from_device(name: str, arguments: argparse.Namespace):
    """Return a function that trains --steps steps on images of the devices; {"seconds", "waited"}."""
    section = configuration.BenchmarkSection(
        peers=(), batch_size=arguments.batch_size, image_size=arguments.image_size, steps=arguments.steps
    )
    config = configuration.BenchmarkConfig(
        model=configuration.ModelConfig(model=arguments.model, bn="sync" if name == "sync" else "local"),
        device=configuration.DeviceConfig(precision=arguments.precision), benchmark=section,
    )  # fmt: skip
    kind = Unsummed if name == "unsummed" else Engine
    system = training.steps_from_device(config, _strategy(arguments), kind)
    return lambda: {"seconds": system.run(), "waited": 0.0}


def from_files(arguments: argparse.Namespace):
    """Return a function that trains twice --steps steps on JPEG files, as a training does; {"seconds", "waited"}.

    Twice, since batches come in groups and wait in queues, which must not be most of a measurement. The seconds are
    given for --steps.
    """
    sections = {
        "model": configuration.ModelConfig(model=arguments.model),
        "data": configuration.DataConfig(
            dataset="folder" if arguments.data_dir else "synthetic", data_dir=arguments.data_dir,
            image_size=arguments.image_size, normalization="imagenet",
        ),
        "views": configuration.ViewConfig(**AUGMENTED["views"]),
        "loss": configuration.LossConfig(**AUGMENTED["loss"]),
        "optimizer": configuration.OptimizerConfig(train_steps=10**6, batch_size=arguments.batch_size),
        "device": configuration.DeviceConfig(precision=arguments.precision, replicas=arguments.replicas),
        "record": configuration.RecordConfig(out=arguments.out, checkpoint_every=10**6),
    }  # fmt: skip
    config = configuration.TrainConfig(**sections)
    ready = session.prepare(configuration.TASKS[config.task].task_type(config), None, ())
    engine, supply = ready.engine, ready.supply

    def train(steps):
        start = engine.step
        done = engine.run(supply, start, start + steps)
        done.numpy()  # waits for the devices
        return done.waited

    def measured():
        train(_FILLED * supply.capacity)
        begun = time.perf_counter()
        waited = train(2 * arguments.steps)
        return {"seconds": (time.perf_counter() - begun) / 2, "waited": waited / 2}

    return measured


if __name__ == "__main__":
    main()
