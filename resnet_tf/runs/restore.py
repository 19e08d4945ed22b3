"""Restore the trained network of a run from its folder."""

import dataclasses

import keras
import numpy as np

from resnet_tf.config import CLASSIFICATION
from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, network, record
from resnet_tf.runs.runner import Runner


def resolved(run, weights: str) -> str:
    """Return the value of --weights for a run: "" means "best" where training finished on it, else "raw"."""
    return weights or ("best" if run.config.record.finish_on == "best" else "raw")


def load(folder, weights: str = "", tasks: tuple[str, ...] = (CLASSIFICATION,)) -> tuple:
    """Read a run and its newest undamaged checkpoint, or its best one.

    Args:
        folder: run folder.
        weights: "best" for the best checkpoint, see `checkpoint.best_path`; "raw" or "ema" for the newest; "" as
            `resolved` says.
        tasks: allowed tasks of the run; see `record.open_run`.

    Returns:
        The `record.Run`; the state {name: array}; the `colour.Normalization`.

    Raises:
        InputError: not a run, no checkpoint, or "best" of a run without a held-out validation split: selection on the
            test split would bias its score.
    """
    run = record.open_run(folder, tasks=tasks)
    is_best = resolved(run, weights) == "best"
    values = _load_best(run) if is_best else checkpoint.load_latest(run.checkpoints)
    if values is None:
        raise InputError(f"--run={folder}: no checkpoint yet")
    try:
        normalization = colour.Normalization(values["normalization/mean"], values["normalization/std"])
    except KeyError as error:
        raise InputError(f"--run={folder}: its checkpoint lacks {error}") from None
    return run, values, normalization


def _load_best(run):
    if "validation" not in run.manifest["data"]["examples"]:
        raise InputError(
            f"--weights=best: {run.folder} holds no validation split out, and nothing is chosen on the test split; "
            "train with --validation_share or --validation_examples"
        )
    path = checkpoint.best_path(run.checkpoints)
    if not path.exists():
        raise InputError(f"--weights=best: {run.folder} has not kept its best checkpoint, by an evaluation in training")
    return checkpoint.load(path)


def build_model(run, values: dict, weights: str = "raw", precision: str | None = None) -> keras.Model:
    """Build the trained network of a classification run, from normalised images of any size to logits.

    Args:
        run: a `record.Run`.
        values: state of its checkpoint.
        weights: "raw" or "best" for the weights in `values`; "ema" for their moving average.
        precision: precision of activations; None for that of the run.

    Raises:
        InputError: a checkpoint of another network, or no such weights.
    """
    config = run.config
    if precision:
        config = dataclasses.replace(config, device=dataclasses.replace(config.device, precision=precision))
    model = network.build(config, len(run.manifest["classes"]), any_size=True)
    assign(model, run, values, weights)
    return model


def assign(model: keras.Model, run, values: dict, weights: str) -> None:
    """Set a network of a run to the weights in the state `values`; see `build_model`.

    Raises:
        InputError: a checkpoint of another network, or "ema" of a run without a moving average.
    """
    if weights == "ema" and not run.config.optimizer.ema:
        raise InputError(f"--weights=ema: {run.folder} was trained without --ema")
    network.assign(model, values, run.checkpoints, "ema/" if weights == "ema" else "model/")


def build_runner(run, values, normalization, strategy, weights: str = "raw") -> Runner:
    """Return a `Runner` of the trained network of a run; for the arguments see `load` and `build_model`."""
    with strategy.scope():
        return Runner(strategy, build_model(run, values, weights), normalization)


def step_of(values: dict) -> int:
    """Return the number of training steps of a checkpoint."""
    return int(np.asarray(values["state/step"]))
