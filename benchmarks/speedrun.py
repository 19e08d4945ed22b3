"""Train a recipe many times in one process, and say how many seconds of steps an accuracy takes.

    python benchmarks/speedrun.py --runs=20 --target=0.94 --flagfile=flags/cifar10_fast.cfg --data_dir=DIR

All flags but --runs, --target and --out are those of `resnet_tf.train`, of a data set that is held on the device
(CIFAR). The program is compiled once, by a training of one step that does not count. Every training has the initial
weights, the order of examples and the random views of its own seed, from --seed on. "seconds" are those of the steps of
a training, from its first step to the end of its last one; "compile_seconds" and evaluation are counted apart. "top1"
is of one view of each image of the test or held-out split, "top1_mirrored" of the sum of the logits of it and its
mirror image. Prints one line for each training and one JSON object at the end.
"""

import argparse
import dataclasses
import json
import pathlib
import statistics
import sys
import time

import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from resnet_tf import config as configuration
from resnet_tf.data import draws
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.runs import devices, network, record, run_data
from resnet_tf.tasks import find
from resnet_tf.training import optimizer, schedule, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe


class Reseeded(supply.Resident):
    """A set on the device whose seed may change between trainings without another compilation.

    Attributes:
        seed: of the training to come.
    """

    seed = 0

    def take(self, step, count):
        """Return the data of at most `count` steps, and the seed; see `supply.Resident`."""
        self._seed = self.seed
        part = super().take(step, count)
        self._seed = 0  # what `batch` compiles
        return part._replace(data=[(*data, tf.constant(self.seed, tf.int64)) for data in part.data])

    def batch(self, replica, data, index, step):
        """Return a replica's part of a batch, whose random views are of the seed."""
        *data, seed = data
        batch = super().batch(replica, data, index, step)
        return batch._replace(keys=draws.keys(0, batch.keys, seed))


class Race:
    """Trainings of one configuration, one after another, by one compiled program."""

    def __init__(self, config: configuration.TrainConfig):
        """Load the data, build the network and copy both to the device.

        Raises:
            InputError: flags or data that do not work, or a data set that is not held on the device.
        """
        self.config, task = config, find.of(config)
        devices.use_precision(config.device.precision)
        strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
        source = task.load()[0]
        task.check(source)
        train = source.splits["train"]
        if not isinstance(train, Split):
            raise InputError(f"--view={config.views.view}: a set that is held on the device has --view=pad_crop")
        self.classes, self.held_out = len(source.classes), source.splits[run_data.held_out(source.splits)]
        size = config.optimizer.batch_size
        self.total = schedule.total_steps(config.optimizer, len(train))
        rates = schedule.from_config(config.schedule, size, len(train) / size, self.total)
        normalization = task.normalization(train)
        with strategy.scope():
            model = task.build(self.classes, strategy.num_replicas_in_sync)
            recipe = Recipe(
                optimizer=optimizer.from_config(config.optimizer, model), schedule=rates,
                loss_scale=optimizer.loss_scale_of(config.device.precision), clip=config.optimizer.clip,
                accumulate=config.optimizer.accumulate, ema=config.optimizer.ema,
                **task.recipe(source, normalization),
            )  # fmt: skip
            self.engine = Engine(strategy, model, normalization, recipe)
        self.supply = Reseeded(self.engine, train.images, train.labels, size, 0, self.total)
        self.initial = self.engine.state.get_all()
        mirrored = dataclasses.replace(self.held_out, images=np.ascontiguousarray(self.held_out.images[:, :, ::-1]))
        self.views = [SplitLogits(self.engine, config.data, split) for split in (self.held_out, mirrored)]

    def restart(self, seed: int) -> None:
        """Put the engine into the state before the first step of a training with `seed`."""
        own = dataclasses.replace(self.config, optimizer=dataclasses.replace(self.config.optimizer, seed=seed))
        model = network.build(own, self.classes)
        weights = {f"model/{variable.path}": np.asarray(variable) for variable in model.variables}
        known = {name: value for name, value in weights.items() if name in self.initial}
        self.engine.state.set_all(self.initial | known)
        self.engine.state.reset_averages()
        self.supply.seed = seed

    def run(self, steps: int) -> float:
        """Train `steps` steps and return their seconds."""
        start = time.perf_counter()
        self.engine.run(self.supply, 0, steps).numpy()  # waits for the device
        seconds = time.perf_counter() - start
        if self.engine.state.get("state/halted"):
            raise InputError("the loss or its gradient is not finite; lower --lr")
        return seconds

    def top1(self) -> tuple[float, float]:
        """Return the accuracy of one view, and of it and its mirror image."""
        first, second = (view.logits(ema=self.config.optimizer.ema > 0) for view in self.views)
        labels = self.held_out.labels
        return tuple(metrics.classification(logits, labels)["top1"] for logits in (first, first + second))


def summary(race: Race, target: float, seconds: list, accuracies: list, compiled: float) -> dict:
    """Return the JSON object of all trainings."""
    result = {
        "runs": len(seconds), "model": race.config.model.model, "steps": race.total, "target": target,
        "seconds": round(statistics.median(seconds), 3), "slowest": round(max(seconds), 3),
        "compile_seconds": round(compiled, 1), "examples": len(race.held_out),
    }  # fmt: skip
    for name, values in zip(("top1", "top1_mirrored"), zip(*accuracies, strict=True), strict=True):
        result[name] = statistics.fmean(values)
        result[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
        result[f"share_at_target_{name}"] = sum(value >= target for value in values) / len(values)
        result[f"each_{name}"] = list(values)
    return result | {"hardware": devices.hardware(), "commit": record.commit(), "versions": record.versions()}


def parsed() -> tuple[argparse.Namespace, configuration.TrainConfig]:
    """Return the script's settings and those of the training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, help="trainings")
    parser.add_argument("--target", type=float, default=0.94, help="accuracy to reach")
    parser.add_argument("--out", type=pathlib.Path, help="file for the JSON object")
    arguments, rest = parser.parse_known_args()
    if arguments.runs < 1:
        parser.error("--runs: at least 1")
    values = absl_flags.FlagValues()
    configuration.define_flags(configuration.TrainConfig, values)
    try:
        unknown = values(["speedrun", *rest])[1:]
        if unknown:
            parser.error(f"unexpected argument '{unknown[0]}'")
        return arguments, configuration.read_flags(configuration.TrainConfig, values)
    except (absl_flags.Error, InputError) as error:
        parser.error(str(error))


def main() -> None:
    """Run all trainings and print the result."""
    arguments, config = parsed()
    try:
        race = Race(config)
        first = config.optimizer.seed
        begun = time.perf_counter()
        race.restart(first)
        race.run(1)
        race.top1()
        compiled = time.perf_counter() - begun
        seconds, accuracies = [], []
        for seed in range(first, first + arguments.runs):
            race.restart(seed)
            seconds.append(race.run(race.total))
            accuracies.append(race.top1())
            one, both = accuracies[-1]
            print(f"seed {seed}: {seconds[-1]:.3f} s, top-1 {one:.4f}, with mirror images {both:.4f}", flush=True)
        result = summary(race, arguments.target, seconds, accuracies, compiled)
    except InputError as error:
        sys.exit(str(error))
    text = json.dumps(result)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
