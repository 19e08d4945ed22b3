"""Prepares a training: refuses what cannot work, then builds data, network, engine and run folder, or resumes them."""

import dataclasses
import hashlib
import json
import logging
import math
import pathlib
from typing import NamedTuple

from resnet_tf import config as configuration
from resnet_tf.data import colour, splits
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, network, record, run_data
from resnet_tf.training import expectations, extension, introduction, optimizer, schedule, smoke, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.recorder import Recorder, Silent
from resnet_tf.training.window import Window

_log = logging.getLogger(__name__)


class Plan(NamedTuple):
    """How long a training is and what it is measured in.

    Attributes:
        total: steps.
        batch_size: examples of a global batch.
        steps_per_epoch: float.
        log_every: steps between rows of metrics.csv.
        steps_per_call: most steps between two borders.
        is_scaled: whether a loss scale answers for gradients that are not finite.
        is_streamed: whether steps may wait for images.
        eval_every: steps between evaluations; 0 for only at the end.
        mfu_of_rate: share of the GPUs' peak that one image a second takes; None where it is not known.
    """

    total: int
    batch_size: int
    steps_per_epoch: float
    log_every: int = 100
    steps_per_call: int = 10
    is_scaled: bool = False
    is_streamed: bool = False
    mfu_of_rate: float | None = None
    eval_every: int = 0


class Context(NamedTuple):
    """Where a training runs.

    Attributes:
        strategy: a `tf.distribute.Strategy`.
        machines: how many train together.
        is_chief: whether this one writes; all of them read.
        folder: path of the run.
        is_resumed: whether the run is there already.
    """

    strategy: object
    machines: int
    is_chief: bool
    folder: pathlib.Path
    is_resumed: bool


@dataclasses.dataclass
class Session:
    """A training that is ready for its next step.

    Attributes:
        task: a `tasks.task.Task`.
        context: a `Context`.
        source: a `data.Source`.
        held_out: name of the split to evaluate on, "validation" where there is one, else "test".
        normalization: a `colour.Normalization`.
        engine: an `engine.Engine`, in the state of its last checkpoint.
        supply: of batches, from the engine's step on.
        plan: a `Plan`.
        run: a `record.Run`.
        recorder: a `recorder.Recorder`, or a `recorder.Silent` on machines that do not write.
        window: a `window.Window`.
        evaluation: what the task scores with.
    """

    task: object
    context: Context
    source: splits.Source
    held_out: str
    normalization: colour.Normalization
    engine: Engine
    supply: object
    plan: Plan
    run: record.Run
    recorder: object
    window: Window
    evaluation: object

    def introduce(self):
        """Say what is trained on what, and for how long; show what the network is trained on in its first step."""
        for line in introduction.lines(self):
            self.recorder.message(line)
        if self.engine.step:
            self.recorder.message(f"{self.context.folder}: goes on from step {self.engine.step} of {self.plan.total}")
        else:
            self.recorder.images(self.engine, self.supply)


def run_folder(config) -> pathlib.Path:
    """Return the folder of a run: --out, or runs/ and a name made of the flags, so that a restart finds it.

    A flag at its default has no part in the name, so that the name stays where a later release has more flags.
    """
    if config.record.out:
        return pathlib.Path(config.record.out)
    fields = configuration.fields_of(type(config))
    settings = {
        name: value
        for name, value in configuration.settings_of(config).items()
        if fields[name].metadata["changes_result"] and value != fields[name].default
    }
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return pathlib.Path("runs", f"{config.model.model}-{config.data.dataset}-{digest}")


def prepare(task, source, callbacks, choice=None) -> Session:
    """Prepare a training; see `loop.train`.

    Args:
        task: a `tasks.task.Task`.
        source: a `data.Source`; None for that of the configuration.
        callbacks: of `loop.Callback`.
        choice: a `choices.Choice` with the data, where --auto chose; else None.
    """
    config = task.config
    context = _choose_context(task)
    skipped = choice.skipped if choice else []
    if choice:
        source = choice.source
    elif source is None:
        source, skipped = task.load()
    source = smoke.few(source) if task.smoke else source
    task.check(source)
    held_out = _held_out(config, source)
    natural, training = source.splits["train"], task.sampled(source.splits["train"])
    batch_size, total = config.optimizer.batch_size, schedule.total_steps(config.optimizer, len(training))
    rates = schedule.from_config(config.schedule, batch_size, len(training) / batch_size, total)
    _check_lengths(config, training, rates, total)
    held = task.hold(training)

    normalization = task.normalization(natural)
    engine = _build(task, context, source, normalization, rates)
    is_new = context.is_chief and not context.is_resumed
    if is_new and (line := expectations.warning(config, normalization, choice is not None)):
        _log.warning("%s", line)
    run, values = _open_run(task, context, source, engine, choice.reasons if choice else {})
    step = engine.step
    steps_per_call = config.device.steps_per_call or (1000 if engine.on_gpu else 10)
    progression = supply.Progression(task.sizes, total) if task.sizes else None
    batches = supply.make(
        engine, config, training, step, steps_per_call, task.view(normalization), held, task.repeats, progression
    )
    del held  # the devices have their own copy now

    macs, peak = task.macs(len(source.classes)), devices.peak_flops(config.device.precision)
    plan = Plan(
        total, batch_size, len(training) / batch_size, config.record.log_every, steps_per_call,
        is_scaled=engine.recipe.loss_scale is not None, is_streamed=not isinstance(batches, supply.Resident),
        # A step on one image: forward, and twice that backward.
        mfu_of_rate=6 * macs / (peak * engine.replicas) if macs and peak and not progression else None,
        eval_every=config.record.eval_every or round(config.record.eval_epochs * len(training) / batch_size),
    )  # fmt: skip
    if context.is_chief and not config.record.debug_step:  # which writes nothing
        recorder = Recorder(run, total, step, callbacks, task.metrics_columns)
        run_data.write_skipped(context.folder, skipped)
        if source.was_split:
            splits.write_table(source, context.folder / run_data.SPLIT_FILE)
        recorder.hyperparameters(config)
    else:
        recorder = Silent(run, step)
    window = Window(recorder, plan)
    window.set_state(values)
    evaluation = task.evaluation(engine, source.splits[held_out], normalization)
    return Session(
        task, context, source, held_out, normalization, engine, batches, plan, run, recorder, window, evaluation
    )


def _choose_context(task):
    """Choose devices and folder, and refuse what cannot work before anything is read or written."""
    config = task.config
    if config.model.init_from:
        network.locate("init_from", config.model.init_from, config.model.model)
    devices.use_precision(config.device.precision)
    devices.use_determinism(config.device.deterministic)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    is_chief = devices.worker(strategy) == 0
    folder = run_folder(config)
    is_resumed = record.check_folder(folder, config) if is_chief else bool(checkpoint.steps(folder / "checkpoints"))
    if config.record.debug_step and not is_resumed:
        raise InputError(f"--debug_step={config.record.debug_step}: {folder} is no run yet")
    if config.record.results:
        record.check_results(config.record.results, task.columns)
    batch_size, replicas = config.optimizer.batch_size, strategy.num_replicas_in_sync
    if batch_size % (replicas * config.optimizer.accumulate):
        raise InputError(f"--batch_size={batch_size} does not divide by the {replicas} replicas there are")
    return Context(strategy, devices.workers(strategy), is_chief, folder, is_resumed)


def _held_out(config, source):
    """Return the name of the split to evaluate on, and refuse settings that need a validation split without one."""
    held_out = run_data.held_out(source.splits)
    if held_out not in source.splits:
        raise InputError(
            "--data_dir: there are only training images, and nothing to evaluate on; --validation_share=0.2 holds a "
            "fifth of them out"
        )
    for name, value in (("stop_after", config.record.stop_after), ("finish_on", config.record.finish_on == "best")):
        if value and held_out != "validation":
            raise InputError(
                f"--{name} chooses by a validation split, and there is none: --validation_share=0.1 or "
                "--validation_examples holds one out"
            )
    return held_out


def _check_lengths(config, training, rates, total):
    batch_size, profiled = config.optimizer.batch_size, config.record.profile_steps
    if batch_size > len(training):
        raise InputError(f"--batch_size={batch_size} is more than the {len(training)} training examples")
    if rates.warmup >= total:
        raise InputError(f"--warmup_epochs={config.schedule.warmup_epochs:g} is not shorter than the {total} steps")
    if profiled and profiled[1] > total:
        raise InputError(f"--profile_steps: step {profiled[1]} is after the last, {total}")


def _build(task, context, source, normalization, rates):
    """Build network and engine, with the weights of --init_from where the run is new."""
    config = task.config
    with context.strategy.scope():
        model = task.build(len(source.classes), context.strategy.num_replicas_in_sync)
        if config.task == configuration.CLASSIFICATION and not context.is_resumed:
            network.whiten(model, config, source.splits["train"], normalization)
        recipe = Recipe(
            optimizer=optimizer.from_config(config.optimizer, model),
            schedule=rates,
            loss_scale=optimizer.loss_scale_of(config.device.precision),
            clip=config.optimizer.clip,
            accumulate=config.optimizer.accumulate,
            ema=config.optimizer.ema,
            **task.recipe(source, normalization),
        )
        engine = Engine(context.strategy, model, normalization, recipe)
        if config.model.init_from and not context.is_resumed:
            network.start_from(model, network.load("init_from", config.model.init_from, config), source.classes)
            engine.state.reset_averages()
    return engine


def _open_run(task, context, source, engine, chosen):
    """Create the run's folder, or read it and put the engine into the state of the last checkpoint.

    A checkpoint holds all there is: weights, moving statistics and averages, optimizer, step, schedule, loss scale, and
    the sums of the row of metrics that is not full yet. The position in the data and every random choice follow from
    the seed and the step.

    Returns:
        A `record.Run`; the checkpoint's {name: array}, or None.
    """
    config, folder, model = task.config, context.folder, engine.model
    if context.is_resumed:
        run = record.open_run(folder, tasks=(config.task,))
        _check_same_data(run, config, source)
        values = checkpoint.load_latest(run.checkpoints)
        if values is not None:
            engine.state.set_all(values)
            engine.state.set({"state/halted": 0.0})
        if theirs := extension.lengthened(run, config):
            run = _lengthen(run, config, theirs, engine, context.is_chief)
        return run, values
    if not context.is_chief:
        return record.Run(folder, {}, config), None
    parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    summary = {"name": model.name, "trainable_parameters": parameters}
    return record.create(folder, config, source, summary, chosen), None


def _lengthen(run, config, theirs, engine, is_chief):
    """Record and say that a run of the length `theirs` goes on, and whether that is exact."""
    examples = run.manifest["data"]["examples"]["train"]
    total, batch_size = schedule.total_steps(run.config.optimizer, examples), run.config.optimizer.batch_size
    before = schedule.from_config(run.config.schedule, batch_size, examples / batch_size, total)
    note = f"from {theirs} at step {engine.step}: "
    note += extension.consequence(config, engine.step, before, engine.recipe.schedule)
    if is_chief:
        _log.warning("--extend: %s", note)
        run = record.lengthen(run, config, note)
    return run


def _check_same_data(run, config, source):
    expected, checksum = run.manifest["data"]["checksum"], source.checksum()
    if expected == checksum:
        return
    theirs, ours = (getattr(data, "validation_sampling", None) for data in (run.config.data, config.data))
    if theirs != ours and config.data.validation_examples:
        raise InputError(
            f"--validation_sampling={ours}: the validation examples of the run in {run.folder} are those of "
            f"--validation_sampling={theirs}"
        )
    theirs, ours = (getattr(data, "val_is", None) for data in (run.config.data, config.data))
    if theirs != ours:
        raise InputError(
            f"--val_is={ours}: the run in {run.folder} took its validation images as --val_is={theirs} does"
        )
    origin = "source" if config.data.dataset == configuration.GIVEN else "--data_dir"
    raise InputError(f"{origin}: checksum {checksum} of the images is not {expected}, that of the run in {run.folder}")
