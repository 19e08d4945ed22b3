"""Checks that segmentation and detection share, and the settings of the commands on their runs."""

import dataclasses

from resnet_tf.config.fields import GIVEN, listed, setting
from resnet_tf.config.run import check_jitter
from resnet_tf.config.shared import weights_setting
from resnet_tf.errors import InputError


def check_transfer(config) -> None:
    """Refuse data and view settings that cannot work in a `SegmentConfig` or `DetectConfig`."""
    data, views = config.data, config.views
    if data.dataset not in ("synthetic", GIVEN) and not data.data_dir:
        raise InputError(f"--data_dir= is not set and needed by --dataset={data.dataset}")
    if len(views.scale) != 2 or not 0 < views.scale[0] <= views.scale[1]:
        raise InputError(f"--scale={listed(views.scale)}: not two positive rising numbers")
    check_jitter(views.color_jitter)


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Score."""

    run: str = setting("", "Run folder.")
    split: str = setting("test", "Split to score.", choices=("train", "validation", "test"))
    weights: str = weights_setting()
    data_dir: str = setting("", "Current folder of the data. Unset: the one recorded in training.")
    results: str = setting("", "CSV file to append a result row to.")
    report: str = setting("", "New folder for pictures and the metrics of each class.")


@dataclasses.dataclass(frozen=True)
class TransferExportConfig:
    """Export."""

    run: str = setting("", "Run folder.")
    weights: str = weights_setting()
    out: str = setting("", "Model folder; each version is a numbered folder inside.")
    version: int = setting(0, "Number of the new version, which must not exist. 0: the highest plus one.", low=0)
