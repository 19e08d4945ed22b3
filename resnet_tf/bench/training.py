"""Benchmarks of training: steps beside peers, and the training loop beside its bare step."""

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
from resnet_tf.runs import devices, network
from resnet_tf.training import loop, optimizer
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.schedule import Schedule
from resnet_tf.training.supply import Resident

_RECIPE = configuration.OptimizerConfig(train_steps=1)  # He et al.: SGD, momentum, L2 on kernels
_LR = configuration.ScheduleConfig().lr
_POOL_BATCHES = 4  # drawn from again and again: too many for a cache, and little memory at any image size
_SHORTEST = 0.1  # shortest time of a loop; metrics.csv holds milliseconds
_ONE_REPLICA = "one_replica"  # the peer of several replicas
_LARGE = 64  # image side in pixels from which images are not padded and cropped, as those of CIFAR are


def benchmark_train(config: configuration.BenchmarkConfig) -> dict:
    """Measure images per second of training steps, ours and those of each peer.

    Ours reads uint8 images on the device and crops, mirrors and normalises them in the step (large images are not
    cropped). Peers read images on the device that are normalised already, which is less work. Each system is compiled
    in the first round, which is not counted.

    Args:
        config: a `config.BenchmarkConfig`. Peers are those of `peers.PEERS`, and one_replica: ours on one device with
            the batch of one replica.

    Returns:
        What `measure.summary` returns, in images/s; and "peak_memory_mib", {system: MiB}, on a GPU.

    Raises:
        InputError: a peer is unknown, lacks the network or is not installed, several replicas are measured beside
            peers, or the file of --lock cannot be opened.
    """
    settings = config.benchmark
    known = peers.PEERS | {_ONE_REPLICA: _one_replica}
    measure.check(config, known)
    devices.use_precision(config.device.precision)
    devices.use_determinism(config.device.deterministic)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    replicas = strategy.num_replicas_in_sync
    if settings.batch_size % replicas:
        raise InputError(f"--batch_size={settings.batch_size} does not divide by the replicas")
    on_one_device = [name for name in settings.peers if name != _ONE_REPLICA]
    if replicas > 1 and on_one_device:
        raise InputError(f"--peers={','.join(on_one_device)} train on one device, not on {replicas}: say --replicas=1")
    started = time.monotonic()
    task = _task(config, devices.on_gpu(strategy))
    with measure.Machine(settings.lock) as machine, contextlib.ExitStack() as stack:
        systems = {name: _watched(lambda: known[name](task, stack), task) for name in settings.peers}  # noqa: B023
        systems = {"ours": _watched(lambda: _ours(task, strategy), task)} | systems
        seconds = measure.in_turn({name: system.run for name, system in systems.items()}, settings.repeats, machine)
    batches = dict.fromkeys(systems, settings.batch_size) | {_ONE_REPLICA: settings.batch_size // replicas}
    images = {name: batch * settings.steps for name, batch in batches.items()}
    speeds = measure.images_per_second(images, seconds)
    result = measure.summary("train", config.model.model, "images/s", speeds, higher_is_better=True)
    result["peak_memory_mib"] = {
        name: round(system.peak_mib) for name, system in systems.items() if system.peak_mib is not None
    }
    strategies = dict.fromkeys(systems, "one device") | {"ours": f"mirrored x{replicas}", _ONE_REPLICA: "mirrored x1"}
    by_system = {
        name: {"strategy": strategies[name], "batch": batches[name]}
        | ({"versions": system.versions} if system.versions else {})
        for name, system in systems.items()
    }
    measure.append_speeds(config, result, started, by_system)
    return result


def _task(config, on_gpu):
    settings = config.benchmark
    rng, classes, size = np.random.default_rng(0), find(config.model.model).classes, settings.image_size
    count = settings.batch_size * min(settings.steps, _POOL_BATCHES)
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return peers.Task(
        config=config, recipe=_RECIPE, lr=_LR, network=lambda: _network(config, classes),
        normalization=colour.normalization("channel", images[: settings.batch_size]),
        images=images, labels=rng.integers(0, classes, count, dtype=np.int32), classes=classes, on_gpu=on_gpu,
    )  # fmt: skip


def _network(config, classes, replicas=1):
    return network.create(config.model, classes, config.benchmark.image_size, config.device.precision, replicas)


def _engine(config, strategy, classes, normalization, engine_type=Engine):
    with strategy.scope():
        model = _network(config, classes, strategy.num_replicas_in_sync)
        recipe = Recipe(
            optimizer.from_config(_RECIPE, model), Schedule(_LR),
            loss_scale=optimizer.loss_scale_of(config.device.precision),
            pad_crop=resident.PadCrop(pad=_pad(config), mirror=True),
        )  # fmt: skip
        return engine_type(strategy, model, normalization, recipe)


def _pad(config):
    return 4 if config.benchmark.image_size < _LARGE else 0


def steps_from_device(config: configuration.BenchmarkConfig, strategy, engine_type: type = Engine) -> peers.System:
    """Return our training steps on images that the devices of a strategy hold, as `benchmark_train` measures them.

    Args:
        config: a `config.BenchmarkConfig`; --batch_size is that of all replicas on all machines.
        strategy: of `devices.make_strategy`.
        engine_type: an `Engine`, or a subclass that leaves out a part of the step.
    """
    return _ours(_task(config, devices.on_gpu(strategy)), strategy, engine_type)


def _ours(task, strategy, engine_type=Engine):
    settings = task.config.benchmark
    engine = _engine(task.config, strategy, task.classes, task.normalization, engine_type)
    supply = Resident(engine, task.images, task.labels, settings.batch_size, seed=0, capacity=settings.steps)
    return peers.System(measure.timed_training(engine, supply, settings.steps))


def _one_replica(task, stack):
    settings, device = task.config.benchmark, task.config.device
    replicas = devices.make_strategy(device.replicas, device.gpus).num_replicas_in_sync
    share = dataclasses.replace(settings, batch_size=settings.batch_size // replicas)
    alone = dataclasses.replace(task, config=dataclasses.replace(task.config, benchmark=share))
    return _ours(alone, devices.make_strategy(1, device.gpus[:1]))


def _watched(make, task):
    """Make a system whose `run` also notes the peak of its memory, if it shares TensorFlow's allocator on a GPU."""
    if not task.on_gpu:
        return make()

    def memory(key):
        return tf.config.experimental.get_memory_info("GPU:0")[key]

    before = memory("current")
    system = make()
    if system.versions:  # it runs in another process, which reports its own memory
        return system
    held, run = memory("current") - before, system.run
    compiled = False

    def watched():
        nonlocal held, compiled
        others = memory("current") - held
        tf.config.experimental.reset_memory_stats("GPU:0")
        seconds = run()
        if compiled:
            system.peak_mib = max(system.peak_mib or 0.0, (memory("peak") - others) / 2**20)
        else:  # XLA's trials while it compiles are not part of the step; Keras makes its slots only in the first call
            held, compiled = memory("current") - others, True
        return seconds

    system.run = watched
    return system


def benchmark_loop(config: configuration.BenchmarkConfig) -> dict:
    """Measure images per second of a training run beside those of its compiled step called again and again.

    The run is `loop.train` on the synthetic set, timed by the clock between rows of its metrics.csv, so that the order
    of examples, checks, progress, rows and events are included. The bare step is `Engine.run` by itself.

    Args:
        config: a `config.BenchmarkConfig`; --steps is the number of timed steps, with a row every 100 or, if they are
            fewer, at the end.

    Returns:
        What `measure.summary` returns, in images/s; the peer is "bare_step".

    Raises:
        InputError: --steps are too few to time, or as `loop.train`.
    """
    settings = config.benchmark
    measure.check(config, None)
    started = time.monotonic()
    devices.use_precision(config.device.precision)
    devices.use_determinism(config.device.deterministic)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    systems = {"ours": lambda: _run_seconds(config), "bare_step": _bare_step(config, strategy)}
    seconds = measure.in_turn(systems, settings.repeats)
    speeds = measure.images_per_second(dict.fromkeys(systems, settings.batch_size * settings.steps), seconds)
    result = measure.summary("loop", config.model.model, "images/s", speeds, higher_is_better=True)
    mirrored = f"mirrored x{strategy.num_replicas_in_sync}"
    measure.append_speeds(config, result, started, batch=settings.batch_size, strategy=mirrored)
    return result


def _run_seconds(config):
    settings = config.benchmark
    log_every = min(100, settings.steps)
    total = log_every + settings.steps  # the steps before the first row compile and warm up
    with tempfile.TemporaryDirectory() as folder:
        training = configuration.TrainConfig(
            model=config.model,
            data=configuration.DataConfig(dataset="synthetic", image_size=settings.image_size),
            views=configuration.ViewConfig(pad=_pad(config)),
            optimizer=configuration.OptimizerConfig(train_steps=total, batch_size=settings.batch_size),
            device=config.device,
            record=configuration.RecordConfig(out=f"{folder}/run", log_every=log_every, checkpoint_every=total),
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
    return measure.timed_training(engine, supply, settings.steps)
