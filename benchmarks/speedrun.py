"""Train recipes many times in one process, and say how many seconds of steps an accuracy takes.

    python benchmarks/speedrun.py --runs=20 --target=0.94 --flagfile=flags/cifar10_fast.cfg --data_dir=DIR
    python benchmarks/speedrun.py --grid=flags/grids/cifar10_fast.yaml --minutes=4 --results=FILE.csv --data_dir=DIR

All flags but those of --help are those of `resnet_tf.train`, of a data set that is held on the device (CIFAR). With
--grid the rows of a grid file are trained one after another, each with the seeds of the file; --only names some of
them. The program of a row is compiled once, by a training of one step that does not count. A training has the initial
weights, the order of examples and the random views that `train` has with its seed.

What is printed and written, of each training in the CSV file and as mean of each row in the table and in JSON:

seconds          from the first step of a training to the end of its last one, which the device has finished. Reading
                 the data, compiling, drawing the initial weights and evaluating are not in it; the random views are.
compile_seconds  of the training of one step and of the first evaluation
top1             accuracy of one view of each image of the test split, or of the validation images that
                 --validation_examples holds out of the training images
top1_mirrored    the same of the sum of the logits of an image and its mirror image

The CSV file and the JSON file are written after each training, so that nothing is lost where the process is stopped.
After --minutes no training or compilation begins. SIGTERM and Ctrl-C end the trainings and print the table, which is
followed by one JSON object in the last line.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import signal
import statistics
import sys
import tempfile
import time

import keras
import numpy as np
import tensorflow as tf
from absl import flags as absl_flags

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.runs import devices, network, record, run_data
from resnet_tf.sweeps import grid
from resnet_tf.tasks import find
from resnet_tf.training import optimizer, schedule, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe

COLUMNS = (
    *record.RESULT_COLUMNS, "name", "model", "dataset", "split", "examples", "steps", "epochs", "batch", "precision",
    "seconds", "compile_seconds", "top1", "top1_mirrored", "target",
)  # fmt: skip
_RUNS = 20


class Race:
    """Trainings of one configuration, one after another, by one compiled program."""

    def __init__(self, config: configuration.TrainConfig):
        """Load the data, build the network and copy both to the device.

        Raises:
            InputError: flags or data that do not work, or a data set that is not held on the device.
        """
        self.config, task = config, find.of(config)
        if config.optimizer.precise_bn:
            raise InputError(f"--precise_bn={config.optimizer.precise_bn}: not counted here, and left out")
        devices.use_precision(config.device.precision)
        strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
        source = task.load()[0]
        task.check(source)
        train = source.splits["train"]
        if not isinstance(train, Split):
            raise InputError(f"--view={config.views.view}: a set that is held on the device has --view=pad_crop")
        self.split = run_data.held_out(source.splits)
        self.classes, self.held_out, self.examples = len(source.classes), source.splits[self.split], len(train)
        size = config.optimizer.batch_size
        self.total = schedule.total_steps(config.optimizer, len(train))
        rates = schedule.from_config(config.schedule, size, len(train) / size, self.total)
        normalization = task.normalization(train)
        with strategy.scope():
            model = task.build(self.classes, strategy.num_replicas_in_sync)
            network.whiten(model, config, train, normalization)
            recipe = Recipe(
                optimizer=optimizer.from_config(config.optimizer, model), schedule=rates,
                loss_scale=optimizer.loss_scale_of(config.device.precision), clip=config.optimizer.clip,
                accumulate=config.optimizer.accumulate, ema=config.optimizer.ema,
                **task.recipe(source, normalization),
            )  # fmt: skip
            self.engine = Engine(strategy, model, normalization, recipe)
        self.supply = supply.Resident(
            self.engine, train.images, train.labels, size, 0, self.total, run_data.alternates(config)
        )
        self.initial = self.engine.state.get_all()
        mirrored = dataclasses.replace(self.held_out, images=np.ascontiguousarray(self.held_out.images[:, :, ::-1]))
        self.views = [SplitLogits(self.engine, config.data, split) for split in (self.held_out, mirrored)]

    def restart(self, seed: int) -> None:
        """Put the engine into the state before the first step of a training with `seed`."""
        own = dataclasses.replace(self.config, optimizer=dataclasses.replace(self.config.optimizer, seed=seed))
        model = network.build(own, self.classes)
        weights = {f"model/{variable.path}": np.asarray(variable) for variable in model.trainable_variables}
        known = {name: value for name, value in weights.items() if name in self.initial}
        self.engine.state.set_all(self.initial | known)
        self.engine.state.reset_averages()
        self.supply.seed = seed

    def compile(self) -> float:
        """Compile what trainings and evaluations need, and return the seconds that it took."""
        start = time.perf_counter()
        self.restart(self.config.optimizer.seed)
        self.run(1)
        self.top1()
        return time.perf_counter() - start

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


@dataclasses.dataclass
class Setting:
    """Trainings that differ by their seed alone, and what has become of them.

    Attributes:
        name: of the row of the grid; "" without a grid.
        config: a `TrainConfig`.
        seeds: one of each training.
        rows: a row of the CSV file of each training that is done.
        error: why the trainings ended; "" if they did not.
    """

    name: str
    config: configuration.TrainConfig
    seeds: list[int]
    rows: list[dict] = dataclasses.field(default_factory=list)
    error: str = ""

    def summary(self, target: float) -> dict:
        """Return the JSON object of the trainings that are done."""
        result = {"name": self.name, "runs": len(self.rows), "model": self.config.model.model, "target": target}
        if self.error:
            result["error"] = self.error
        if not self.rows:
            return result
        seconds = [row["seconds"] for row in self.rows]
        result |= {name: self.rows[0][name] for name in ("steps", "epochs", "split", "examples", "compile_seconds")}
        result |= {"seconds": statistics.median(seconds), "slowest": max(seconds), "each_seconds": seconds}
        for name in ("top1", "top1_mirrored"):
            values = [row[name] for row in self.rows]
            result[name] = statistics.fmean(values)
            result[f"{name}_sd"] = statistics.stdev(values) if len(values) > 1 else None
            result[f"share_at_target_{name}"] = sum(value >= target for value in values) / len(values)
            result[f"each_{name}"] = values
        return result


class Trainings:
    """The trainings of all settings, and the files that hold their results."""

    def __init__(self, settings: list[Setting], arguments: argparse.Namespace):
        """Refuse a file of results that has other columns, before the work starts."""
        self.settings, self._arguments, self._begun = settings, arguments, time.perf_counter()
        if arguments.results:
            record.check_results(arguments.results, COLUMNS)

    def run(self) -> None:
        """Train every setting, until the time is up or somebody stops the process."""
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            for setting in self.settings:
                self._train(setting)
                keras.backend.clear_session()
        except KeyboardInterrupt:
            print("stopped", file=sys.stderr)
        self.write()

    def _train(self, setting):
        if self._is_late(setting):
            return
        try:
            race = Race(setting.config)
            compiled = race.compile()
            print(f"{setting.name or setting.config.model.model}: compiled in {compiled:.1f} s", flush=True)
            for seed in setting.seeds:
                if self._is_late(setting):
                    return
                setting.rows.append(self._row(setting, race, seed, compiled))
                if self._arguments.results:
                    record.append_result(self._arguments.results, COLUMNS, setting.rows[-1])
                self.write()
        except (InputError, tf.errors.ResourceExhaustedError) as error:
            setting.error = str(error).splitlines()[0]
            print(f"{setting.name}: {setting.error}", file=sys.stderr, flush=True)

    def _is_late(self, setting):
        late = time.perf_counter() - self._begun >= 60 * self._arguments.minutes
        if late:
            setting.error = f"--minutes={self._arguments.minutes:g} are over"
        return late

    def _row(self, setting, race, seed, compiled):
        """Train one seed; return its row of the CSV file."""
        begun = time.perf_counter()
        race.restart(seed)
        seconds = race.run(race.total)
        one, both = race.top1()
        text = f"{setting.name} seed {seed}: {seconds:.3f} s, top-1 {one:.4f}, with mirror images {both:.4f}"
        print(text.strip(), flush=True)
        batch = setting.config.optimizer.batch_size
        values = (
            setting.name, setting.config.model.model, setting.config.data.dataset, race.split, len(race.held_out),
            race.total, round(race.total * batch / race.examples, 2), batch, setting.config.device.precision,
            round(seconds, 3), round(compiled, 1), one, both, self._arguments.target,
        )  # fmt: skip
        provenance = record.provenance(seed, time.perf_counter() - begun)
        return provenance | dict(zip(COLUMNS[len(record.RESULT_COLUMNS) :], values, strict=True))

    def result(self) -> dict:
        """Return the JSON object: of the one setting, or of all rows of a grid."""
        where = {"hardware": devices.hardware(), "commit": record.commit(), "versions": record.versions()}
        summaries = [setting.summary(self._arguments.target) for setting in self.settings]
        return (summaries[0] if not self._arguments.grid else {"settings": summaries}) | where

    def write(self) -> None:
        """Write the JSON file, whole or not at all."""
        if self._arguments.out:
            text = json.dumps(self.result()) + "\n"
            files.replace_atomically(self._arguments.out, lambda file: file.write(text.encode()))

    def table(self) -> str:
        """Return a table of the settings, the first of those with equal runs being the most accurate one."""
        lines = ["| setting | runs | seconds (slowest) | epochs | top-1 | mirrored | at target | compile s |"]
        lines.append("|---" * 8 + "|")
        found = [setting.summary(self._arguments.target) for setting in self.settings]
        for one in sorted(found, key=lambda one: -one.get("top1_mirrored", -1.0)):
            name = one["name"] or one["model"]
            if not one["runs"]:
                lines.append(f"| {name} | 0 | {one.get('error', 'not trained')} | | | | | |")
                continue
            top1, both = (
                f"{one[key]:.4f}" + (f" ± {one[f'{key}_sd']:.4f}" if one["runs"] > 1 else "")
                for key in ("top1", "top1_mirrored")
            )
            seconds = f"{one['seconds']:.2f} ({one['slowest']:.2f})"
            share = f"{one['share_at_target_top1_mirrored']:.0%}"
            cells = (name, one["runs"], seconds, f"{one['epochs']:g}", top1, both, share, one["compile_seconds"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines)


def parsed() -> tuple[argparse.Namespace, list[Setting]]:
    """Return the script's own arguments and the settings to train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--grid", help="file of rows of flags; see `resnet_tf.sweep`")
    parser.add_argument("--only", help="names of rows of the grid, with commas between them; unset: all")
    parser.add_argument("--runs", type=int, help=f"trainings of each setting; unset: the grid's seeds, or {_RUNS}")
    parser.add_argument("--seed", type=int, help="of the first training; unset: the grid's seeds, or 0")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no training begins after these")
    parser.add_argument("--target", type=float, default=0.94, help="accuracy to reach")
    parser.add_argument("--results", help="CSV file to append a row of each training to")
    parser.add_argument("--out", type=pathlib.Path, help="file for the JSON object")
    arguments, rest = parser.parse_known_args()
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs: at least 1")
    if arguments.only and not arguments.grid:
        parser.error("--only: names rows of a --grid")
    try:
        return arguments, (_of_grid if arguments.grid else _of_flags)(arguments, rest)
    except (absl_flags.Error, InputError) as error:
        parser.error(str(error))


def _of_flags(arguments, rest):
    values = absl_flags.FlagValues()
    configuration.define_flags(configuration.TrainConfig, values)
    first = arguments.seed or 0
    if unknown := values(["speedrun", *rest, f"--seed={first}"])[1:]:
        raise InputError(f"unexpected argument '{unknown[0]}'")
    config = configuration.read_flags(configuration.TrainConfig, values)
    return [Setting("", config, list(range(first, first + (arguments.runs or _RUNS))))]


def _of_grid(arguments, rest):
    unused = pathlib.Path(tempfile.gettempdir(), f"speedrun-{os.getpid()}")  # no run folder is written
    found = {}
    for training in grid.plan(configuration.SweepConfig(grid=arguments.grid, out=str(unused)), rest):
        setting = found.setdefault(training.group, Setting(training.group, training.config, []))
        setting.seeds.append(training.config.optimizer.seed)
    for setting in found.values():
        first = setting.seeds[0] if arguments.seed is None else arguments.seed
        if arguments.runs or arguments.seed is not None:
            setting.seeds = list(range(first, first + (arguments.runs or len(setting.seeds))))
        numbers = dataclasses.replace(setting.config.optimizer, seed=first)
        setting.config = dataclasses.replace(setting.config, optimizer=numbers)
    names = arguments.only.split(",") if arguments.only else list(found)
    if unknown := [name for name in names if name not in found]:
        raise InputError(f"--only: {unknown[0]} is no row of {arguments.grid}; there are {', '.join(found)}")
    return [found[name] for name in names]


def main() -> None:
    """Run all trainings, and print the table and the JSON object."""
    arguments, settings = parsed()
    try:
        trainings = Trainings(settings, arguments)
    except InputError as error:
        sys.exit(str(error))
    trainings.run()
    if not arguments.grid and settings[0].error and not settings[0].rows:
        sys.exit(settings[0].error)
    print(trainings.table())
    print(json.dumps(trainings.result()))


if __name__ == "__main__":
    main()
