"""The temperature of a run's network: calibration.json in the run folder, which `evaluate --calibrate` writes."""

import json
import math

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.runs import record

FILE = "calibration.json"


def write(run: record.Run, temperature: float, examples: int, weights: str, step: int) -> None:
    """Write the temperature of a network atomically.

    Args:
        run: a `record.Run`.
        temperature: number by which its logits are divided.
        examples: number of examples of the validation split on which it was fitted.
        weights: value of --weights.
        step: number of training steps of these weights.
    """
    content = {"temperature": temperature, "split": "validation", "examples": examples, "step": step}
    content |= {"weights": weights, "command": record.command(), "commit": record.commit()}
    files.write_json(run.folder / FILE, content)


def read(run: record.Run, weights: str, step: int) -> float:
    """Return the temperature of the weights of a run.

    Args:
        run: a `record.Run`.
        weights: value of --weights.
        step: number of training steps of these weights.

    Raises:
        InputError: the run has no temperature, or one of other weights, or its file is damaged.
    """
    path = run.folder / FILE
    remedy = f"evaluate --run={run.folder} --weights={weights} --calibrate makes it"
    try:
        content = json.loads(path.read_text())
        temperature, of = float(content["temperature"]), (content["weights"], content["step"])
    except FileNotFoundError:
        raise InputError(f"--calibrated: {run.folder} has no {FILE}; {remedy}") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged; {remedy}") from None
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError(f"{path}: damaged; {remedy}")
    if of != (weights, step):
        reason = f"of weights {of[0]} after {of[1]} steps, not {weights} after {step}"
        raise InputError(f"--calibrated: {path} is {reason}; {remedy}")
    return temperature
