"""A training run from its configuration to its result; reads like the method section of a paper."""

import dataclasses
import hashlib
import json
import math
import pathlib
import time

import numpy as np

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.models import create_model, find
from resnet_tf.training import checkpoint, devices, feed, optimizer, record, schedule
from resnet_tf.training.step import METRICS, Engine


def run_folder(config):
    """Folder of a run: --out, or runs/ and a name that the flags alone determine, so that a restart finds it."""
    if config.record.out:
        return pathlib.Path(config.record.out)
    fields = configuration.fields_of(type(config))
    settings = {k: v for k, v in configuration.settings_of(config).items() if fields[k].metadata["changes_result"]}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]
    return pathlib.Path("runs", f"{config.model.model}-{config.data.dataset}-{digest}")


def build_model(config, classes, replicas=1, any_size=False):
    """The network that a `TrainConfig` describes, for so many classes; of any image size if it will see several."""
    size = config.data.image_size
    if any_size or configuration.evaluation_size(config.data) != size:
        size = None
    return create_model(
        config.model.model,
        num_classes=classes,
        input_shape=(size, size, 3),
        shortcut=config.model.shortcut,
        zero_gamma=config.model.zero_gamma,
        initializer=config.model.initializer,
        sync_bn=config.model.sync_bn and replicas > 1,
        dtype=configuration.PRECISIONS[config.device.precision],
        seed=config.optimizer.seed,
    )


def train(config):
    """Train, evaluate and record one run; go on where it was if its folder is there.

    Args:
        config: a `config.TrainConfig`.

    Returns:
        {"run", "steps", "split", "examples", "top1", "top5", "loss", "best_top1", "images_per_second",
        "wall_seconds"}: the last evaluation, on the validation split where one is held out, else on the
        test split; `best_top1` is the best of the curve, for the record and not chosen by.

    Raises:
        InputError: bad flags, files or data; or the loss is no longer a number.
    """
    # --- Refuse what cannot work before anything is read or written --------------------------------------------------
    find(config.model.model)
    folder = run_folder(config)
    resume = record.check_folder(folder, config)
    if config.record.results:
        record.check_results(config.record.results, record.ACCURACY_COLUMNS)

    # --- Data: the training set and the split to evaluate on ----------------------------------------------------------
    strategy = devices.make_strategy(config.device.replicas)
    batch_size, replicas = config.optimizer.batch_size, strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise InputError(f"--batch_size={batch_size} does not divide by the {replicas} replicas there are")
    source, skipped = feed.load(config)
    training = source.splits["train"]
    held_out = "validation" if "validation" in source.splits else "test"
    evaluated = source.splits[held_out]
    if batch_size > len(training):
        raise InputError(f"--batch_size={batch_size} is more than the {len(training)} training examples")
    steps_per_epoch = len(training) / batch_size
    total = config.optimizer.train_steps or math.ceil(config.optimizer.train_epochs * steps_per_epoch)

    # --- Model, optimizer, compiled step ------------------------------------------------------------------------------
    with strategy.scope():
        model = build_model(config, len(source.classes), replicas)
        normalization = feed.normalization(config, training)
        engine = Engine(
            strategy,
            model,
            normalization,
            optimizer=optimizer.from_config(config.optimizer, model),
            schedule=schedule.from_config(config.optimizer, steps_per_epoch),
            loss_scale=optimizer.LossScale() if config.device.precision == "float16" else None,
            **feed.engine_settings(config),
        )

    # --- Run folder, resume -------------------------------------------------------------------------------------------
    # What a checkpoint holds is all there is: weights, moving statistics, momentum, step, schedule and loss scale.
    # The position in the data and every random choice follow from the seed and the step.
    if resume:
        run = record.open_run(folder)
        _check_same_data(run, source)
        values = checkpoint.load_latest(run.checkpoints)
        if values is not None:
            engine.set_state(values)
    else:
        parameters = sum(math.prod(variable.shape) for variable in model.trainable_variables)
        run = record.create(folder, config, source, {"name": model.name, "trainable_parameters": parameters})
    feed.write_skipped(folder, skipped)
    step = engine.step
    recorder = record.Recorder(run, total, step)
    if step:
        recorder.message(f"{folder}: goes on from step {step} of {total}")
    frozen = {"normalization/mean": normalization.mean, "normalization/std": normalization.std}

    def evaluate():
        figures = metrics.classification(evaluation.logits(), evaluated.labels)
        if figures["examples"] != len(evaluated):
            raise AssertionError(f"{figures['examples']} of {len(evaluated)} examples were scored")
        return figures

    # --- The loop -----------------------------------------------------------------------------------------------------
    asynchronous = devices.on_gpu(strategy)
    most = config.device.steps_per_call or (100 if asynchronous else 10)
    batches = feed.Training(engine, config, training, step, most)
    evaluation = feed.Evaluation(engine, config.data, evaluated, threads=config.views.threads)
    stops = [every for every in (config.record.log_every, config.record.eval_every, config.record.checkpoint_every)
             if every]  # fmt: skip
    window = _Window(recorder, config, folder, batch_size, steps_per_epoch, total)
    pending, figures = None, None
    try:
        while step < total:
            count = min(most, total - step, *(every - step % every for every in stops))
            begun = time.monotonic()
            with feed.named_errors(training):
                dispatched = _Call(batches.steps(step, count), step, count, begun)
            if pending:  # read what the call before has measured while the device works on this one
                window.collect(pending)
            pending, step = dispatched, step + count
            if not asynchronous:
                window.collect(pending)
                pending = None
            evaluation_due = config.record.eval_every and step % config.record.eval_every == 0
            checkpoint_due = step % config.record.checkpoint_every == 0
            if not (evaluation_due or checkpoint_due or step == total):
                continue
            if pending:
                window.collect(pending)
                pending = None
            if checkpoint_due or step == total:
                window.write(step)
            if evaluation_due or step == total:
                figures = evaluate()
                values = {name: figures[name] for name in ("loss", "top1", "top5")}
                recorder.write(step, step / steps_per_epoch, held_out, **values)
            if checkpoint_due or step == total:  # after the evaluation, whose row a resume would lack otherwise
                checkpoint.save(run.checkpoints, step, engine.get_state() | frozen)
            window.pause()

        # --- Result --------------------------------------------------------------------------------------------------
        trained = figures is not None
        figures = figures or evaluate()
        result = {
            "run": str(folder),
            "steps": step,
            "split": held_out,
            **figures,
            "best_top1": max([row["top1"] for row in recorder.rows if row["split"] == held_out] + [figures["top1"]]),
            "images_per_second": window.images_per_second,
            "wall_seconds": round(recorder.wall_seconds if trained else recorder.rows[-1]["wall_seconds"], 1),
        }
        run.finish(result)
    finally:
        recorder.close()
    if config.record.results and trained:
        row = record.provenance(config.optimizer.seed, result["wall_seconds"])
        row |= accuracy_row(config, step, step / steps_per_epoch, figures)
        record.append_result(config.record.results, record.ACCURACY_COLUMNS, row)
    return result


def _check_same_data(run, source):
    expected, found = run.manifest["data"]["checksum"], source.checksum()
    if expected != found:
        raise InputError(
            f"--data_dir: checksum {found} of the images is not {expected}, that of the run in {run.folder}"
        )


def accuracy_row(config, steps, epochs, figures):
    """The columns of an accuracy file that describe a run and its score: {column: value}."""
    part = config.optimizer
    falls = "/".join(f"{fall:g}" for fall in part.lr_steps or part.lr_epochs) or "none"
    recipe = (
        f"{'nesterov' if part.nesterov else 'sgd'} lr {part.lr:g} x{part.lr_factor:g} at {falls} "
        f"batch {part.batch_size} decay {part.weight_decay:g} {part.decay} {config.device.precision}"
    )
    archive = pathlib.PurePath(config.data.data_dir).name
    return {
        "model": config.model.model + (f" {config.model.shortcut}" if config.model.shortcut else ""),
        "recipe": recipe,
        "dataset": config.data.dataset + (f":{archive}" if archive else ""),
        "steps": steps,
        "epochs": round(epochs, 2),
        **{name: figures[name] for name in ("examples", "top1", "top5")},
    }


@dataclasses.dataclass(frozen=True)
class _Call:
    """A call into the compiled program that may still be running."""

    metrics: object
    first_step: int
    count: int
    dispatched: float


class _Window:
    """The steps since the last row of metrics: their sums, their time, and the check that they are numbers."""

    def __init__(self, recorder, config, folder, batch_size, steps_per_epoch, total):
        self._recorder, self._config, self._folder = recorder, config, folder
        self._batch_size, self._steps_per_epoch, self._total = batch_size, steps_per_epoch, total
        self._rows, self._seconds = [], 0.0
        self._ready = None  # when the call before this one was done; None after a pause
        self._compiled = False
        self._timed_steps, self._timed_seconds = 0, 0.0

    @property
    def images_per_second(self):
        """Rate over all calls but the first, which compiles; evaluations and checkpoints apart."""
        return round(self._timed_steps * self._batch_size / self._timed_seconds, 1) if self._timed_seconds else 0.0

    def pause(self):
        """The device was used for something else; its clock starts again at the next call."""
        self._ready = None

    def collect(self, call):
        """Wait for a call and add what it measured."""
        values = call.metrics.numpy()[: call.count]
        now = time.monotonic()
        seconds = now - max(call.dispatched, self._ready or 0.0)
        self._ready = now
        if self._compiled:
            self._timed_steps, self._timed_seconds = self._timed_steps + call.count, self._timed_seconds + seconds
        self._compiled = True
        self._check_finite(values[:, METRICS.index("loss")], call.first_step)
        self._rows.extend(values)
        self._seconds += seconds
        step = call.first_step + call.count
        pace = self.images_per_second or call.count * self._batch_size / seconds
        loss, top1, _ = values.mean(axis=0)
        self._recorder.progress(step, loss, top1, pace, (self._total - step) * self._batch_size / pace)
        if step % self._config.record.log_every == 0:
            self.write(step)

    def write(self, step):
        """Write the row of the steps since the last one, if there are any."""
        if not self._rows:
            return
        loss, top1, _ = np.mean(self._rows, axis=0)
        self._recorder.write(
            step, step / self._steps_per_epoch, "train", loss=loss, top1=top1, lr=self._rows[-1][METRICS.index("lr")],
            images_per_second=len(self._rows) * self._batch_size / self._seconds,
        )  # fmt: skip
        self._rows, self._seconds = [], 0.0

    def _check_finite(self, losses, first_step):
        bad = np.flatnonzero(~np.isfinite(losses))
        if not bad.size:
            return
        step = first_step + int(bad[0]) + 1
        saved = checkpoint.steps(self._folder / "checkpoints")
        last = f"the last good checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint yet"
        part = self._config.optimizer
        cause = f"--lr={part.lr:g} is too high for --batch_size={part.batch_size}"
        if self._config.device.precision == "float16":
            cause += ", or activations pass the range of --precision=float16 (try bfloat16)"
        raise InputError(f"loss is {losses[bad[0]]} at step {step} of {self._folder}; {last}; likely cause: {cause}")
