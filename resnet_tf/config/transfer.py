"""What trainings of segmentation and detection have in common, and what the commands after them are told."""

import dataclasses

from resnet_tf.config.fields import setting
from resnet_tf.config.run import GIVEN, check_jitter
from resnet_tf.errors import InputError


def check_transfer(config, annotations):
    """Refuse settings of data and views that make no sense; `annotations` are what images have."""
    data, views = config.data, config.views
    if (data.dataset in ("synthetic", GIVEN)) == bool(data.data_dir):
        needed = "is not used by" if data.data_dir else "is not set and needed by"
        raise InputError(f"--data_dir={data.data_dir} {needed} --dataset={data.dataset}")
    if config.device.data_service:
        raise InputError(f"--data_service is not used by {config.task}: {annotations} are read here")
    if len(views.scale) != 2 or not 0 < views.scale[0] <= views.scale[1]:
        raise InputError(f"--scale={','.join(map(str, views.scale))}: not two positive rising numbers")
    check_jitter(views.color_jitter)


@dataclasses.dataclass(frozen=True)
class ScoreSection:
    """Score."""

    run: str = setting("", "Folder of the run.")
    split: str = setting("test", "Split of its data to score.", choices=("train", "validation", "test"))
    weights: str = setting("raw", "raw, ema or best, as in resnet_tf.evaluate.", choices=("raw", "ema", "best"))
    data_dir: str = setting("", "Where the data are now. Unset: where they were.")
    results: str = setting("", "CSV file to append a row with the result to.")
    report: str = setting("", "Folder to make, of pictures and of the figures of each class.")


@dataclasses.dataclass(frozen=True)
class TransferExportSection:
    """Export."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in resnet_tf.evaluate.", choices=("raw", "ema", "best"))
    out: str = setting("", "Folder of the model's versions, each a folder with a number for its name.")
    version: int = setting(0, "Number of the version, which must not exist yet. 0: that after the highest.", low=0)


@dataclasses.dataclass(frozen=True)
class TransferExportConfig:
    """The export command of segmentation and detection."""

    export: TransferExportSection = TransferExportSection()


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """The score command of segmentation and detection."""

    score: ScoreSection = ScoreSection()
