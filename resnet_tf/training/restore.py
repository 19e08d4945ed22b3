"""A run's folder -> its trained network."""

import numpy as np

from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.training import checkpoint, loop, record
from resnet_tf.training.step import Engine


def load(folder):
    """Read a run and its newest whole checkpoint.

    Args:
        folder: of the run.

    Returns:
        The `record.Run`; its state {name: array}; its `colour.Normalization`.

    Raises:
        InputError: not a run, or one without a checkpoint.
    """
    run = record.open_run(folder)
    values = checkpoint.load_latest(run.checkpoints)
    if values is None:
        raise InputError(f"--run={folder}: no checkpoint yet")
    try:
        normalization = colour.Normalization(values["normalization/mean"], values["normalization/std"])
    except KeyError as error:
        raise InputError(f"--run={folder}: its checkpoint lacks {error}") from None
    return run, values, normalization


def build_model(run, values):
    """The trained `keras.Model` of a run, from normalised images of any size to logits.

    Raises:
        InputError: the checkpoint is of another network.
    """
    model = loop.build_model(run.config, len(run.manifest["classes"]), any_size=True)
    for variable in model.variables:
        value = values.get(f"model/{variable.path}")
        if value is None or value.shape != tuple(variable.shape):
            found = "nothing" if value is None else list(value.shape)
            raise InputError(f"{run.checkpoints}: {found} for {variable.path}, not {list(variable.shape)}")
        variable.assign(value)
    return model


def build_engine(run, values, normalization, strategy):
    """An engine that runs the trained network of a run on a strategy."""
    with strategy.scope():
        return Engine(strategy, build_model(run, values), normalization)


def step_of(values):
    """Steps that a checkpoint has behind it."""
    return int(np.asarray(values["state/step"]))
