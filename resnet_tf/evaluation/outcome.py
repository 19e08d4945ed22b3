"""What an evaluation of a split found: all that a report is made from."""

import dataclasses

import numpy as np

from resnet_tf.evaluation.calibration import Calibrated
from resnet_tf.runs import record


@dataclasses.dataclass(frozen=True)
class Outcome:
    """An evaluated split.

    Attributes:
        result: what `evaluate.evaluate` returns.
        classes: names of the classes.
        split: the scored `Split` or `Examples`.
        logits: float [n, classes].
        predictions: what `answers.of_logits` returned.
        calibrated: the split after temperature scaling; None if no report is written.
        run: the single run that was scored, else None.
        is_own: whether the images are those of the data set that the network was trained on.
    """

    result: dict
    classes: list[str]
    split: object
    logits: np.ndarray
    predictions: dict
    calibrated: Calibrated | None
    run: record.Run | None
    is_own: bool
