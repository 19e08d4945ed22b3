"""Where numbers fail: one step once more, op by op, every layer looked at."""

import sys

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint
from resnet_tf.runs.runner import inputs_of


class NotFinite(Exception):
    """The loss or the gradient of a step is no number; the engine has halted in the state before it.

    Attributes:
        step: counted from 1.
        loss: of it.
    """

    def __init__(self, step, loss):
        super().__init__(step, loss)
        self.step, self.loss = step, loss


def inspect(engine, parts):
    """Run one step eagerly, without changing anything.

    Args:
        engine: in the state before the step.
        parts: over this machine's replicas, (pixels, labels, keys).

    Returns:
        Rows {"layer", "what", "min", "max", "finite"} in the order of the computation: the largest and smallest weights
        and the output of each layer, the loss, then gradients from the last layer to the first; of the first replica
        in whose part something is not finite, else of the first.
    """
    tables = [_inspect_part(engine, replica, part) for replica, part in enumerate(parts)]
    return next((table for table in tables if not all(row["finite"] for row in table)), tables[0])


def first_failure(table):
    """The first row that is not finite, or None."""
    return next((row for row in table if not row["finite"]), None)


def _inspect_part(engine, replica, part):
    state, model = engine.state.read(replica), engine.model
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    watched = keras.Model(model.inputs, [*(layer.output for layer in layers), *model.outputs])
    images, targets = engine.views(*part)
    rows = [_row("images", "input", images)]
    weights = state["weights"]
    for path, value in (weights | state["statistics"]).items():
        if not bool(tf.reduce_all(tf.math.is_finite(value))):
            rows.append(_row(path, "weights", value))
    recipe = engine.recipe
    teacher = recipe.teacher.logits(engine.state.read_teacher(replica), images) if recipe.teacher else None
    if teacher is not None:
        rows.append(_row("teacher", "output", teacher))
    values = [weights[variable.path] for variable in watched.trainable_variables]
    statistics = [state["statistics"][variable.path] for variable in watched.non_trainable_variables]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(values)
        inputs = inputs_of(model, images, targets, part[2])
        outputs, _ = watched.stateless_call(values, statistics, inputs, training=True)
        outputs, answers = outputs[: len(layers)], outputs[len(layers) :]
        loss = tf.reduce_mean(recipe.loss(answers if len(answers) > 1 else answers[0], targets, teacher))
        scaled = loss * state["scalars"]["scale"] if recipe.loss_scale else loss
    rows += [_row(layer.name, "output", output) for layer, output in zip(layers, outputs, strict=True)]
    rows.append(_row("loss", "loss", loss))
    gradients = tape.gradient(scaled, values)
    named = zip(watched.trainable_variables, gradients, strict=True)
    rows += [_row(variable.path, "gradient", gradient) for variable, gradient in reversed(list(named))]
    return rows


def _row(layer, what, value):
    value = tf.cast(value, tf.float32).numpy()
    finite = bool(np.isfinite(value).all())
    shown = value[np.isfinite(value)] if not finite else value
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (float("nan"), float("nan"))
    return {"layer": layer, "what": what, "min": low, "max": high, "finite": finite}


def explain(failure, engine, batches, run, chief, normalization):
    """The error that ends a run whose numbers failed; the state before the step is kept for --debug_step.

    Returns:
        An InputError of one line: step, first layer that fails, likely cause, and how to see it again.
    """
    step, config = failure.step, run.config
    if chief:
        arrays = engine.state.get_all() | {
            "normalization/mean": normalization.mean,
            "normalization/std": normalization.std,
        }
        checkpoint.save_halted(run.checkpoints, step, arrays)
    found = first_failure(inspect(engine, next(batches.peek(step - 1, 1))))
    where = f"first in the {found['what']} of {found['layer']}" if found else "not seen when it is run op by op"
    part, rate = config.optimizer, config.schedule
    cause = f"--lr={rate.lr:g} is too high for --batch_size={part.batch_size}"
    if config.device.precision == "float16":
        cause += ", or activations pass the range of --precision=float16 (try bfloat16)"
    what = f"loss is {failure.loss:g}" if not np.isfinite(failure.loss) else "the gradient is not finite"
    saved = checkpoint.steps(run.checkpoints)
    last = f"the last good checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint yet"
    return InputError(
        f"{what} at step {step} of {run.folder}, {where}; {last}; likely cause: {cause}; "
        f"the same command with --debug_step={step} shows every layer"
    )


def reproduce(engine, batches, run, step):
    """Run a step of a run once more and print what every layer does in it.

    Args:
        engine: of the run.
        batches: a `feed.Training`.
        run: a `record.Run`.
        step: counted from 1.

    Returns:
        {"run", "step", "layer", "what"}: the first layer whose numbers fail, or None and None.

    Raises:
        InputError: no state from before that step is kept.
    """
    path = checkpoint.halted_path(run.checkpoints, step)
    values = checkpoint.load(path) if path.exists() else checkpoint.load_latest(run.checkpoints, before=step)
    if values is None:
        raise InputError(f"--debug_step={step}: {run.checkpoints} has no checkpoint of an earlier step")
    engine.state.set_all(values)
    engine.state.set({"state/halted": 0.0})
    batches.restart(engine.step)
    for done in range(engine.step, step - 1):
        batches.steps(done, 1)
    table = inspect(engine, next(batches.peek(step - 1, 1)))
    for row in table:
        mark = "" if row["finite"] else "   <- not finite"
        print(f"{row['what']:9} {row['layer']:44} {row['min']:12.4g} {row['max']:12.4g}{mark}", file=sys.stderr)
    found = first_failure(table) or {"layer": None, "what": None}
    return {"run": str(run.folder), "step": step, "layer": found["layer"], "what": found["what"]}
