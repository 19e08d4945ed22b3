"""What the commands after a training of segmentation or detection are told."""

import dataclasses

from resnet_tf.config.fields import setting


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
