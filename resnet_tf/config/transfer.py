"""What trainings of segmentation and detection have in common, and what the commands after them are told."""

import dataclasses

from resnet_tf.config.fields import setting
from resnet_tf.config.run import check_jitter
from resnet_tf.config.sections import GIVEN
from resnet_tf.errors import InputError


def check_transfer(config):
    """Refuse settings of data and views that make no sense."""
    data, views = config.data, config.views
    if data.dataset not in ("synthetic", GIVEN) and not data.data_dir:
        raise InputError(f"--data_dir= is not set and needed by --dataset={data.dataset}")
    if len(views.scale) != 2 or not 0 < views.scale[0] <= views.scale[1]:
        raise InputError(f"--scale={','.join(map(str, views.scale))}: not two positive rising numbers")
    check_jitter(views.color_jitter)


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Score."""

    run: str = setting("", "Folder of the run.")
    split: str = setting("test", "Split of its data to score.", choices=("train", "validation", "test"))
    weights: str = setting("raw", "raw, ema or best, as in resnet_tf.evaluate.", choices=("raw", "ema", "best"))
    data_dir: str = setting("", "Where the data are now. Unset: where they were.")
    results: str = setting("", "CSV file to append a row with the result to.")
    report: str = setting("", "Folder to make, of pictures and of the figures of each class.")


@dataclasses.dataclass(frozen=True)
class TransferExportConfig:
    """Export."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in resnet_tf.evaluate.", choices=("raw", "ema", "best"))
    out: str = setting("", "Folder of the model's versions, each a folder with a number for its name.")
    version: int = setting(0, "Number of the version, which must not exist yet. 0: that after the highest.", low=0)
