"""Speed of training beside peers, the systems in turn; and of the training loop beside its bare step."""

import contextlib
import csv
import dataclasses
import tempfile
import time

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.bench import measure, peers
from resnet_tf.data import colour, resident, sources
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.runs import devices, network, record
from resnet_tf.training import loop, optimizer
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.schedule import Schedule
from resnet_tf.training.supply import Resident

_RECIPE = configuration.OptimizerConfig(train_steps=1)  # He et al.: SGD, momentum, L2 on kernels
_RATE = configuration.ScheduleConfig().lr
_POOL_BATCHES = 4  # gone round: enough that no cache holds them, and little memory at any size
_SHORTEST = 0.1  # seconds that a loop is timed for; metrics.csv has milliseconds
_ONE_REPLICA = "one_replica"  # the peer of several replicas
_LARGE = 64  # pixels from which images are not padded and cropped, as those of CIFAR are


# --- Beside peers ----------------------------------------------------------------------------------------------------


def benchmark_train(config):
    """Images per second of training steps, ours and each peer's.

    Ours reads uint8 images on the device and crops, mirrors and normalises them in the step, large ones not
    cropped; peers have normalised images on the device, which costs them less. Each system is compiled in the
    first round, which is not counted.

    Args:
        config: a `config.BenchmarkConfig`; peers are `peers.PEERS`, and one_replica: ours on one device with a
            replica's share of the batch.

    Returns:
        What `measure.summary` makes of it, in images per second; and "peak_memory_mib", {system: MiB}, of a GPU.

    Raises:
        InputError: an unknown peer, one that has no such network or is not installed, more than one replica
            beside peers, or a lock that cannot be opened.
    """
    settings = config.benchmark
    known = peers.PEERS | {_ONE_REPLICA: _one_replica}
    measure.check_peers(settings.peers, known)
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size % replicas:
        raise InputError(f"--batch_size={settings.batch_size} does not divide by the replicas")
    elsewhere = [name for name in settings.peers if name != _ONE_REPLICA]
    if replicas > 1 and elsewhere:
        raise InputError(f"--peers={','.join(elsewhere)} train on one device, not on {replicas}: say --replicas=1")
    started = time.monotonic()
    task = _task(config, devices.on_gpu(strategy))
    with measure.Machine(settings.lock) as machine, contextlib.ExitStack() as stack:
        systems = {name: _watched(lambda: known[name](task, stack), task) for name in settings.peers}  # noqa: B023
        systems = {"ours": _watched(lambda: _ours(task, strategy), task)} | systems
        seconds = measure.in_turn({name: system.run for name, system in systems.items()}, settings.repeats, machine)
    batches = dict.fromkeys(systems, settings.batch_size) | {_ONE_REPLICA: settings.batch_size // replicas}
    rates = {name: [batches[name] * settings.steps / taken for taken in values] for name, values in seconds.items()}
    result = measure.summary("train", config.model.model, "images/s", rates, higher_is_better=True)
    result["peak_memory_mib"] = {
        name: round(system.peak_mib) for name, system in systems.items() if system.peak_mib is not None
    }
    strategies = dict.fromkeys(systems, "one device") | {"ours": f"mirrored x{replicas}", _ONE_REPLICA: "mirrored x1"}
    versions = {name: system.versions for name, system in systems.items()}
    _append(config, result, started, strategies, versions, batches)
    return result


def _task(config, on_gpu):
    settings = config.benchmark
    rng, classes, size = np.random.default_rng(0), find(config.model.model).classes, settings.image_size
    count = settings.batch_size * min(settings.steps, _POOL_BATCHES)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return peers.Task(
        config=config,
        recipe=_RECIPE,
        rate=_RATE,
        network=lambda: _network(config, classes),
        normalization=colour.normalization("channel", images[: settings.batch_size]),
        images=images,
        labels=rng.integers(0, classes, count, dtype=np.int32),
        classes=classes,
        on_gpu=on_gpu,
    )


def _network(config, classes, replicas=1):
    return network.create(config.model, classes, config.benchmark.image_size, config.device.precision, replicas)


def _engine(config, strategy, classes, normalization):
    with strategy.scope():
        model = _network(config, classes, strategy.num_replicas_in_sync)
        recipe = Recipe(
            optimizer.from_config(_RECIPE, model),
            Schedule(_RATE),
            loss_scale=optimizer.loss_scale_of(config.device.precision),
            pad_crop=resident.PadCrop(pad=_pad(config), mirror=True),
        )
        return Engine(strategy, model, normalization, recipe)


def _pad(config):
    return 4 if config.benchmark.image_size < _LARGE else 0


def _ours(task, strategy):
    settings = task.config.benchmark
    engine = _engine(task.config, strategy, task.classes, task.normalization)
    supply = Resident(engine, task.images, task.labels, settings.batch_size, seed=0, capacity=settings.steps)

    def run():
        begun, start = time.perf_counter(), engine.step
        engine.run(supply, start, start + settings.steps).numpy()  # waits for the device
        return time.perf_counter() - begun

    return peers.System(run)


def _one_replica(task, stack):
    settings, device = task.config.benchmark, task.config.device
    replicas = devices.make_strategy(device.replicas, device.gpus).num_replicas_in_sync
    share = dataclasses.replace(settings, batch_size=settings.batch_size // replicas)
    alone = dataclasses.replace(task, config=dataclasses.replace(task.config, benchmark=share))
    return _ours(alone, devices.make_strategy(1, device.gpus[:1]))


def _watched(make, task):
    """Make a system and have the peak of its memory noted, where it shares TensorFlow's allocator on a GPU."""
    if not task.on_gpu:
        return make()

    def in_use(which):
        return tf.config.experimental.get_memory_info("GPU:0")[which]

    before = in_use("current")
    system = make()
    if system.versions:  # a process of its own, which reports its own
        return system
    held, run = in_use("current") - before, system.run
    compiled = False

    def watched():
        nonlocal held, compiled
        others = in_use("current") - held
        tf.config.experimental.reset_memory_stats("GPU:0")
        seconds = run()
        if compiled:
            system.peak_mib = max(system.peak_mib or 0.0, (in_use("peak") - others) / 2**20)
        else:  # the peak of what XLA tries while it compiles is not the step's; Keras makes its slots only now
            held, compiled = in_use("current") - others, True
        return seconds

    system.run = watched
    return system


def _append(config, result, started, strategies, versions, batches):
    settings = config.benchmark
    if not settings.results:
        return
    common = record.provenance(0, time.monotonic() - started) | {
        "benchmark": result["benchmark"],
        "model": config.model.model,
        "precision": config.device.precision,
    }
    for name, rate in {"ours": result["ours"], **result["peers"]}.items():
        row = common | {"system": name, "strategy": strategies[name], "images_per_second": round(rate, 1)}
        row |= {"batch": batches[name]}
        row |= {"versions": versions.get(name) or common["versions"], "ratio": result["ratio"].get(name, "")}
        record.append_result(settings.results, record.SPEED_COLUMNS, row)


# --- The loop beside its step ----------------------------------------------------------------------------------------


def benchmark_loop(config):
    """Images per second of a training run beside those of its compiled step called again and again.

    The run is `loop.train` on the synthetic set, by the clock between rows of its metrics.csv: order of examples,
    checks, progress, rows and events are all in it. The bare step is `Engine.run` by itself.

    Args:
        config: a `config.BenchmarkConfig`; --steps are those timed, with a row every 100, or at the end of fewer.

    Returns:
        What `measure.summary` makes of it, in images per second; the peer is "bare_step".

    Raises:
        InputError: as `loop.train`; or --steps are too few to time.
    """
    settings = config.benchmark
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
    started = time.monotonic()
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    systems = {"ours": lambda: _run_seconds(config), "bare_step": _bare_step(config, strategy)}
    seconds = measure.in_turn(systems, settings.repeats)
    images = settings.batch_size * settings.steps
    rates = {name: [images / taken for taken in values] for name, values in seconds.items()}
    result = measure.summary("loop", config.model.model, "images/s", rates, higher_is_better=True)
    strategies = dict.fromkeys(systems, f"mirrored x{strategy.num_replicas_in_sync}")
    _append(config, result, started, strategies, {}, dict.fromkeys(systems, settings.batch_size))
    return result


def _run_seconds(config):
    settings = config.benchmark
    every = min(100, settings.steps)
    total = every + settings.steps  # those before the first row compile and warm up
    with tempfile.TemporaryDirectory() as folder:
        training = configuration.TrainConfig(
            model=config.model,
            data=configuration.DataConfig(dataset="synthetic", image_size=settings.image_size),
            views=configuration.ViewConfig(pad=_pad(config)),
            optimizer=configuration.OptimizerConfig(train_steps=total, batch_size=settings.batch_size),
            device=config.device,
            record=configuration.RecordConfig(out=f"{folder}/run", log_every=every, checkpoint_every=total),
        )
        loop.train(configuration.TASKS[training.task].task_type(training))
        with open(f"{folder}/run/metrics.csv", newline="") as file:
            times = [float(row["wall_seconds"]) for row in csv.DictReader(file) if row["split"] == "train"]
    seconds = times[-1] - times[0]
    if seconds < _SHORTEST:
        raise InputError(f"--steps={settings.steps} took {seconds:.2f} s, too short to time: at least {_SHORTEST:g} s")
    return seconds


def _bare_step(config, strategy):
    settings = config.benchmark
    split = sources.load("synthetic", image_size=settings.image_size).splits["train"]
    engine = _engine(config, strategy, 10, colour.normalization("channel", split.images))
    capacity = config.device.steps_per_call or (100 if engine.on_gpu else 10)
    supply = Resident(engine, split.images, split.labels, settings.batch_size, seed=0, capacity=capacity)

    def run():
        begun, start = time.perf_counter(), engine.step
        engine.run(supply, start, start + settings.steps).numpy()  # waits for the device
        return time.perf_counter() - begun

    return run
