"""A training run from its configuration to its result; reads like the method section of a paper."""

import hashlib
import json
import math
import pathlib
import time

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, network, record, run_data, signals
from resnet_tf.training import debug, feed, optimizer, schedule, smoke
from resnet_tf.training.step import Engine, Recipe
from resnet_tf.training.window import Window


def run_folder(config):
    """Folder of a run: --out, or runs/ and a name that the flags alone determine, so that a restart finds it.

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


class Callback:
    """What may look on while a run trains; every method does nothing unless it is overridden."""

    def on_start(self, run, engine):
        """Before the first step: the `record.Run` and the `step.Engine`."""

    def on_row(self, row):
        """After each row of metrics.csv: {column: value}; see `record.METRICS_COLUMNS`."""

    def on_checkpoint(self, path):
        """After each checkpoint."""

    def on_end(self, result):
        """After the last evaluation: what `train` returns."""


def train(task, source=None, callbacks=()):
    """Train, evaluate and record one run; go on where it was if its folder is there.

    Args:
        task: what is learnt, a `tasks.task.Task`, and by its `config` how.
        source: data that are here already, a `data.Source` with splits "train" and "test"; None for those of the
            configuration.
        callbacks: of `Callback`.

    Returns:
        {"run", "steps", "split", "views", "weights", "examples", "top1", "top5", "loss", "best_top1",
        "images_per_second", "wall_seconds"}: the last evaluation, on the validation split where one is held out, else
        on the test split; `best_top1` is the best of the curve, for the record and not chosen by. examples.csv of the
        run's folder has its answers one by one. With --ema also "ema":
        {"top1", "top5", "loss"} of the averaged weights. Other tasks have other metrics.

    Raises:
        InputError: bad flags, files or data; or the loss is no longer a number.
        signals.Stopped: a signal came, and the checkpoint is written; or another machine of the cluster is gone.
    """
    # --- Refuse what cannot work before anything is read or written --------------------------------------------------
    config = task.config
    if config.model.init_from:
        network.locate("init_from", config.model.init_from)
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(config.device.replicas, config.device.gpus)
    machines = devices.workers(strategy)
    chief = devices.worker(strategy) == 0  # of several machines the first writes, all read
    folder = run_folder(config)
    resume = record.check_folder(folder, config) if chief else bool(checkpoint.steps(folder / "checkpoints"))
    if config.record.debug_step and not resume:
        raise InputError(f"--debug_step={config.record.debug_step}: {folder} is no run yet")
    if config.record.results:
        record.check_results(config.record.results, task.columns)

    # --- Data: the training set and the split to evaluate on ----------------------------------------------------------
    batch_size, replicas = config.optimizer.batch_size, strategy.num_replicas_in_sync
    if batch_size % (replicas * config.optimizer.accumulate):
        raise InputError(f"--batch_size={batch_size} does not divide by the {replicas} replicas there are")
    source, skipped = (source, []) if source else task.load()
    if task.smoke:
        source = smoke.few(source)
    task.check(source)
    training = source.splits["train"]
    held_out = "validation" if "validation" in source.splits else "test"
    evaluated = source.splits[held_out]
    if batch_size > len(training):
        raise InputError(f"--batch_size={batch_size} is more than the {len(training)} training examples")
    held = task.hold(training)
    steps_per_epoch = len(training) / batch_size
    total = schedule.total_steps(config.optimizer, len(training))
    rates = schedule.from_config(config.schedule, batch_size, steps_per_epoch, total)
    if rates.warmup >= total:
        raise InputError(f"--warmup_epochs={config.schedule.warmup_epochs:g} is not shorter than the {total} steps")
    if config.record.profile_steps and config.record.profile_steps[1] > total:
        raise InputError(f"--profile_steps: step {config.record.profile_steps[1]} is after the last, {total}")

    # --- Model, optimizer, compiled step ------------------------------------------------------------------------------
    with strategy.scope():
        model = task.build(len(source.classes), replicas)
        normalization = task.normalization(training)
        recipe = Recipe(
            optimizer=optimizer.from_config(config.optimizer, model),
            schedule=rates,
            loss_scale=optimizer.LossScale() if config.device.precision == "float16" else None,
            clip=config.optimizer.clip,
            accumulate=config.optimizer.accumulate,
            ema=config.optimizer.ema,
            **task.recipe(source.classes, normalization),
        )
        engine = Engine(strategy, model, normalization, recipe)
        if config.model.init_from and not resume:
            network.start_from(model, network.load("init_from", config.model.init_from, config), source.classes)
            engine.state.reset_averages()

    # --- Run folder, resume -------------------------------------------------------------------------------------------
    # A checkpoint holds all there is: weights, moving statistics and averages, optimizer, step, schedule, loss scale,
    # and the sums of the row of metrics that is not full yet. The position in the data and every random choice follow
    # from the seed and the step.
    values = None
    if resume:
        run = record.open_run(folder, tasks=(config.task,))
        _check_same_data(run, config, source)
        values = checkpoint.load_latest(run.checkpoints)
        if values is not None:
            engine.state.set_all(values)
            engine.state.set({"state/halted": 0.0})
    elif chief:
        parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        run = record.create(folder, config, source, {"name": model.name, "trainable_parameters": parameters})
    else:
        run = record.Run(folder, {}, config)
    step = engine.step
    most = config.device.steps_per_call or (1000 if devices.on_gpu(strategy) else 10)
    batches = feed.Training(engine, config, training, step, most, task.view(normalization), held, task.repeats)
    del held  # which are on the devices now
    if config.record.debug_step:
        return debug.reproduce(engine, batches, run, config.record.debug_step)
    evaluation = task.evaluation(engine, evaluated, normalization)
    macs, peak = task.macs(len(source.classes)), devices.peak_flops(config.device.precision)
    # A step on one image: forward, and twice that backward.
    mfu_of_rate = 6 * macs / (peak * replicas) if macs and peak else None
    recorder = record.Recorder(run, total, step, callbacks, task.metrics_columns) if chief else record.Silent(run, step)
    window = Window(recorder, config, batch_size, steps_per_epoch, total, mfu_of_rate, batches.streamed)
    window.set_state(values)
    if chief:
        run_data.write_skipped(folder, skipped)
        recorder.hyperparameters(config)
    if step:
        recorder.message(f"{folder}: goes on from step {step} of {total}")
    else:
        recorder.images(engine, batches)
    stop = signals.Stop()

    # --- What happens at the borders between calls --------------------------------------------------------------------
    answered = None  # by the weights as they are, in the last evaluation

    def score():
        nonlocal answered
        found = {}
        for name, ema in (("", False), ("_ema", True))[: 2 if config.optimizer.ema else 1]:
            # Machines stop together, at the border of a call; a single one need not end its evaluation before.
            check = stop.check if machines == 1 else lambda: None
            figures, answers = task.score(evaluation, evaluated, ema, check)
            if figures["examples"] != len(evaluated):
                raise AssertionError(f"{figures['examples']} of {len(evaluated)} examples were scored")
            found[held_out + name] = figures
            if not ema:
                answered = answers
        return found

    def evaluate():
        found = score()
        for split, figures in found.items():
            recorder.write(step, step / steps_per_epoch, split, **_without(figures, "examples"))
        if config.record.histograms:
            recorder.histograms(step, engine)
        if rates.kind == "plateau":
            seen = held_out == "validation"
            error = 1 - found[held_out][task.metric] if seen else window.error_since_evaluation()
            state = {name: float(engine.state.get(f"state/{name}")) for name in ("falls", "best_error", "waited")}
            after = schedule.after_plateau(state, error, config.schedule.patience)
            engine.state.set({f"state/{name}": np.float32(value) for name, value in after.items()})
        ranks = [_rank(row, task.metric) for row in recorder.rows if row["split"] == held_out]
        if chief and held_out == "validation" and ranks[-1] > max(ranks[:-1], default=(-1.0, 0.0)):
            checkpoint.save_best(run.checkpoints, arrays())
        return found

    def arrays():
        values = engine.state.get_all() | window.get_state()
        return values | {"normalization/mean": normalization.mean, "normalization/std": normalization.std}

    def save():
        if chief:
            path = checkpoint.save(run.checkpoints, step, arrays())
            for callback in callbacks:
                callback.on_checkpoint(path)

    def agree():
        """How many steps the next call may have, and whether to stop, as all machines see it."""
        ahead, halt = engine.sum_over_machines([min(window.steps_ahead(), most), bool(stop.name)])
        return int(ahead / machines), halt > 0

    def due(every):
        return step == total or bool(every and step % every == 0)

    def stopped(signal):
        """Save at a border, whether or not its evaluation is done: a resume sees by the rows what is missing."""
        save()
        return signals.Stopped(
            f"{signal} at step {step} of {total}, saved in {folder}; the same command goes on from there"
        )

    def finish_step():
        if step == total and config.optimizer.precise_bn:
            feed.precise_bn(engine, batches, total, config.optimizer.precise_bn)

    # --- The loop -----------------------------------------------------------------------------------------------------
    stops = (config.record.eval_every, config.record.checkpoint_every)
    profile = record.Profile(run.folder, config.record.profile_steps if chief else ())
    figures = None
    with stop.listening(), recorder:
        try:
            for callback in callbacks:
                callback.on_start(run, engine)
            scored = any(row["step"] == step and row["split"] == held_out for row in recorder.rows)
            if step and due(config.record.eval_every) and not scored:  # it was stopped before that evaluation
                try:
                    finish_step()
                    figures = evaluate()
                    save()
                except signals.Stopped as signal:
                    raise stopped(signal) from None
            while step < total:
                ahead, halt = agree()
                if halt:
                    raise stopped(stop.name or "a signal to another machine")
                count = min(ahead, total - step, profile.steps_until_border(step),
                            *(every - step % every for every in stops if every))  # fmt: skip
                begun = time.monotonic()
                with run_data.named_errors(training, config.device.data_service), profile.step(step):
                    window.collect(batches.steps(step, count), step, begun)
                step += count
                if not (due(config.record.eval_every) or due(config.record.checkpoint_every)):
                    continue
                try:
                    if due(config.record.eval_every):
                        finish_step()
                        figures = evaluate()
                    if due(config.record.checkpoint_every):
                        save()
                except signals.Stopped as signal:
                    raise stopped(signal) from None
        except debug.NotFinite as failure:
            raise debug.explain(failure, engine, batches, run, chief, normalization) from None
        except (tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.InternalError):
            if machines == 1:
                raise
            raise signals.Stopped(
                f"another machine of the cluster is gone; start all of them again to go on in {folder}"
            ) from None

        # --- Result --------------------------------------------------------------------------------------------------
        trained = figures is not None
        new = trained or not run.finished  # also where it was killed after its last checkpoint
        figures = figures or score()
        curve = [row[task.metric] for row in recorder.rows if row["split"] == held_out]
        result = {
            "run": str(folder),
            "steps": step,
            "split": held_out,
            "views": task.test_view,
            "weights": "raw",
            **figures[held_out],
            f"best_{task.metric}": max([*curve, figures[held_out][task.metric]]),
            "images_per_second": window.images_per_second,
            "wall_seconds": round(recorder.wall_seconds if trained else recorder.rows[-1]["wall_seconds"], 1),
        }
        if config.optimizer.ema:
            result["ema"] = _without(figures[f"{held_out}_ema"], "examples")
        if chief:
            task.keep(run.folder, evaluated, source.classes, answered)
            run.finish(result)
    if chief and config.record.results and new:
        row = record.provenance(config.optimizer.seed, result["wall_seconds"])
        row |= task.row(step, step / steps_per_epoch, figures[held_out])
        record.append_result(config.record.results, task.columns, row)
    for callback in callbacks:
        callback.on_end(result)
    return result


def _rank(row, figure):
    """What the best evaluation is the highest by: the figure, then the lower loss, where there is one."""
    loss = row.get("loss")
    return row[figure], -loss if isinstance(loss, float) and math.isfinite(loss) else -math.inf


def _without(figures, name):
    return {key: value for key, value in figures.items() if key != name}


def _check_same_data(run, config, source):
    expected, found = run.manifest["data"]["checksum"], source.checksum()
    if expected != found:
        theirs, ours = (getattr(data, "validation_sampling", None) for data in (run.config.data, config.data))
        if theirs != ours and config.data.validation_examples:
            raise InputError(
                f"--validation_sampling={ours}: the validation examples of the run in {run.folder} are those of "
                f"--validation_sampling={theirs}"
            )
        raise InputError(
            f"--data_dir: checksum {found} of the images is not {expected}, that of the run in {run.folder}"
        )
