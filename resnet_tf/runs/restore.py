"""A run's folder -> its trained network."""

import dataclasses

import numpy as np

from resnet_tf.config import CLASSIFICATION
from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, network, record
from resnet_tf.runs.runner import Runner


def load(folder, weights="raw", tasks=(CLASSIFICATION,)):
    """Read a run and its newest whole checkpoint, or its best one.

    Args:
        folder: of the run.
        weights: "best" for the checkpoint of the step whose top-1 on the held-out validation split was best, of several
            such the one of the lowest loss; else the newest.
        tasks: what it may be a run of; see `record.open_run`.

    Returns:
        The `record.Run`; its state {name: array}; its `colour.Normalization`.

    Raises:
        InputError: not a run, one without a checkpoint, or the best asked of one that holds no validation split out:
            to choose on the test split would spoil it.
    """
    run = record.open_run(folder, tasks=tasks)
    values = _load_best(run) if weights == "best" else checkpoint.load_latest(run.checkpoints)
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
            "train with --validation_examples"
        )
    path = checkpoint.best_path(run.checkpoints)
    if not path.exists():
        raise InputError(f"--weights=best: {run.folder} has not kept its best checkpoint, by an evaluation in training")
    return checkpoint.load(path)


def build_model(run, values, weights="raw", precision=None):
    """The trained `keras.Model` of a run, from normalised images of any size to logits.

    Args:
        run: a `record.Run`.
        values: of its checkpoint.
        weights: "raw" or "best": those of `values`; "ema": their moving average.
        precision: of activations; None for that of the run.

    Raises:
        InputError: the checkpoint is of another network, or has no such weights.
    """
    config = run.config
    if precision:
        config = dataclasses.replace(config, device=dataclasses.replace(config.device, precision=precision))
    model = network.build(config, len(run.manifest["classes"]), any_size=True)
    check_weights(run, weights)
    network.assign(model, values, run.checkpoints, "ema/" if weights == "ema" else "model/")
    return model


def check_weights(run, weights):
    """Refuse averaged weights of a run that has none, with an InputError."""
    if weights == "ema" and not run.config.optimizer.ema:
        raise InputError(f"--weights=ema: {run.folder} was trained without --ema")


def build_runner(run, values, normalization, strategy, weights="raw"):
    """A `Runner` of the trained network of a run."""
    with strategy.scope():
        return Runner(strategy, build_model(run, values, weights), normalization)


def step_of(values):
    """Steps that a checkpoint has behind it."""
    return int(np.asarray(values["state/step"]))
