"""Finds where numbers are not finite: runs one step again, eagerly, and looks at every layer."""

import dataclasses
import sys

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint
from resnet_tf.training import step
from resnet_tf.training.engine import Engine


class NotFinite(Exception):
    """The loss or the gradient of a step is not finite; the engine has halted in the state before that step.

    Attributes:
        step: number of the step, counted from 1.
        loss: of the step.
    """

    def __init__(self, step, loss):
        super().__init__(step, loss)
        self.step, self.loss = step, loss


def inspect(engine: Engine, parts: list[step.Batch]) -> list[dict]:
    """Run one step eagerly, without changing the state.

    Args:
        engine: an `engine.Engine` in the state before the step.
        parts: list over this machine's replicas of `step.Batch`.

    Returns:
        Rows {"layer", "what", "min", "max", "finite"} in the order of the computation: the images, weights that are not
        finite, the output of each layer, the loss, then gradients from the last layer to the first. They are of the
        first replica with a value that is not finite, or else of the first replica.
    """
    tables = [_inspect_part(engine, replica, part) for replica, part in enumerate(parts)]
    return next((table for table in tables if not all(row["finite"] for row in table)), tables[0])


def first_failure(table: list[dict]) -> dict | None:
    """Return the first row with a value that is not finite, or None."""
    return next((row for row in table if not row["finite"]), None)


class _Watched:
    """A loss that keeps what it is given; the network has the outputs of its layers besides its own."""

    def __init__(self, loss, outputs):
        """Args: the loss; how many outputs the network itself has."""
        self._loss, self._outputs = loss, outputs

    def targets(self, labels, classes):
        """Return what the loss itself makes of labels."""
        return self._loss.targets(labels, classes)

    def __call__(self, outputs, targets, teacher=None):
        """Return what the loss itself makes of the network's own outputs."""
        own, self.layers, self.teacher = outputs[: self._outputs], outputs[self._outputs :], teacher
        self._own = own if len(own) > 1 else own[0]
        self.losses = self._loss(self._own, targets, teacher)
        return self.losses

    def metrics(self, outputs, labels):
        """Return what the loss itself makes of the network's own outputs."""
        return self._loss.metrics(self._own, labels)


def _inspect_part(engine, replica, part):
    state, model = engine.state.read(replica), engine.model
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    watched = keras.Model(model.inputs, [*model.outputs, *(layer.output for layer in layers)])
    images, _ = step.augment(engine.recipe, model, part)
    rows = [_row("images", "input", images)]
    for path, value in (state["weights"] | state["statistics"]).items():
        if not bool(tf.reduce_all(tf.math.is_finite(value))):
            rows.append(_row(path, "weights", value))
    # In the order of the watched network, which may be another.
    state["weights"] = {variable.path: state["weights"][variable.path] for variable in watched.trainable_variables}
    state["statistics"] = {
        variable.path: state["statistics"][variable.path] for variable in watched.non_trainable_variables
    }
    loss = _Watched(engine.recipe.loss, len(model.outputs))
    recipe = dataclasses.replace(engine.recipe, loss=loss)
    sums = step.forward_backward(recipe, watched, state, part, part.pixels.shape[0])
    if loss.teacher is not None:
        rows.append(_row("teacher", "output", loss.teacher))
    rows += [_row(layer.name, "output", output) for layer, output in zip(layers, loss.layers, strict=True)]
    rows.append(_row("loss", "loss", sums["loss"]))
    gradients = zip(state["weights"], sums["gradients"], strict=True)
    return rows + [_row(path, "gradient", gradient) for path, gradient in reversed(list(gradients))]


def _row(layer, what, value):
    value = tf.cast(value, tf.float32).numpy()
    finite = bool(np.isfinite(value).all())
    shown = value[np.isfinite(value)] if not finite else value
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (float("nan"), float("nan"))
    return {"layer": layer, "what": what, "min": low, "max": high, "finite": finite}


def explain(failure: NotFinite, engine: Engine, supply, run, chief: bool, normalization) -> InputError:
    """Return the error that ends a run whose numbers are not finite, and keep the state for --debug_step.

    Returns:
        An InputError of one line: the step, the first layer that is not finite, the likely cause, and the flag that
        shows the step again.
    """
    number, config = failure.step, run.config
    if chief:
        arrays = engine.state.get_all() | {
            "normalization/mean": normalization.mean,
            "normalization/std": normalization.std,
        }
        checkpoint.save_halted(run.checkpoints, number, arrays)
    row = first_failure(inspect(engine, next(supply.peek(number - 1, 1))))
    where = f"first in the {row['what']} of {row['layer']}" if row else "not seen when it is run op by op"
    part, rate = config.optimizer, config.schedule
    cause = f"--lr={rate.lr:g} is too high for --batch_size={part.batch_size}"
    if engine.recipe.loss_scale:
        cause += ", or activations pass the range of --precision=float16 (try bfloat16)"
    what = f"loss is {failure.loss:g}" if not np.isfinite(failure.loss) else "the gradient is not finite"
    saved = checkpoint.steps(run.checkpoints)
    last = f"the last good checkpoint is of step {saved[-1]}" if saved else "there is no checkpoint yet"
    return InputError(
        f"{what} at step {number} of {run.folder}, {where}; {last}; likely cause: {cause}; "
        f"the same command with --debug_step={number} shows every layer"
    )


def reproduce(engine: Engine, supply, run, number: int) -> dict:
    """Run a step of a run again and print the smallest and largest value of every layer.

    Args:
        engine: the `engine.Engine` of the run.
        supply: of batches; see `supply.make`.
        run: a `record.Run`.
        number: of the step, counted from 1.

    Returns:
        {"run", "step", "layer", "what"}: the first layer that is not finite, or None and None.

    Raises:
        InputError: no state from before that step is kept.
    """
    path = checkpoint.halted_path(run.checkpoints, number)
    values = checkpoint.load(path) if path.exists() else checkpoint.load_latest(run.checkpoints, before=number)
    if values is None:
        raise InputError(f"--debug_step={number}: {run.checkpoints} has no checkpoint of an earlier step")
    engine.state.set_all(values)
    engine.state.set({"state/halted": 0.0})
    supply.restart(engine.step)
    for done in range(engine.step, number - 1):
        engine.run(supply, done, done + 1)
    table = inspect(engine, next(supply.peek(number - 1, 1)))
    for row in table:
        mark = "" if row["finite"] else "   <- not finite"
        print(f"{row['what']:9} {row['layer']:44} {row['min']:12.4g} {row['max']:12.4g}{mark}", file=sys.stderr)
    row = first_failure(table) or {"layer": None, "what": None}
    return {"run": str(run.folder), "step": number, "layer": row["layer"], "what": row["what"]}
