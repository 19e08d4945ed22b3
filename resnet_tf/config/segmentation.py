"""The configuration of a segmentation training: shared sections, and its own head, data and views."""

import dataclasses
from typing import ClassVar

from resnet_tf.config import shared
from resnet_tf.config.fields import check_used, listed, setting
from resnet_tf.config.run import check_training, described
from resnet_tf.config.sections import DeviceConfig, ModelConfig, OptimizerConfig, RecordConfig, ScheduleConfig
from resnet_tf.config.transfer import check_transfer
from resnet_tf.errors import InputError

_ENCODED = ("camvid", "voc", "ade20k")
SEGMENTATION_DATASETS = (*_ENCODED, "synthetic")


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """Head."""

    head: str = setting(
        "fcn", "fcn: Bag of Tricks, section 6.2; deeplabv3plus: Chen et al. 2018.", choices=("fcn", "deeplabv3plus")
    )
    output_stride: int = setting(
        8, "Image pixels for each pixel of the last stage: 8, 16 or 32. Dilations replace the strides.", low=1
    )
    auxiliary: float = setting(
        0.0, "Loss weight of a second head on the stage before the last (GluonCV: 0.5). 0: no such head.", low=0.0
    )
    dropout: float = setting(0.1, "Dropout probability in the heads.", low=0.0, high=0.9)


@dataclasses.dataclass(frozen=True)
class SegmentationDataConfig:
    """Data."""

    dataset: str = setting(
        "camvid", "Layout of images and masks in --data_dir; see docs/transfer.md.", choices=SEGMENTATION_DATASETS
    )
    data_dir: str = setting(
        "", "Folder or tar archive of images and masks.", used_with={"dataset": _ENCODED}, changes_result=False
    )
    classes: tuple[str, ...] = setting(
        (), "Class names for your own data, in the order of their indices. Unset: those of the data set."
    )
    mask_values: tuple[int, ...] = setting(
        (),
        "Mask pixel values of the classes, in the order of --classes, such as 0,255 for binary masks; other values are "
        "void. Unset: the indices of --dataset.",
        used_with={"dataset": _ENCODED},
    )
    exif: str = shared.exif_setting()
    image_size: int = setting(480, "Height and width of training views in pixels.", low=16)
    normalization: str = shared.normalization_setting()


@dataclasses.dataclass(frozen=True)
class SegmentationViewConfig:
    """Training views."""

    scale: tuple[float, ...] = setting((0.5, 2.0), "Smallest and largest scaling factor of an image.")
    mirror: bool = setting(True, "Mirror images and masks with probability 0.5.")
    color_jitter: tuple[float, ...] = shared.color_jitter_setting()
    lighting: float = shared.lighting_setting()
    threads: int = shared.threads_setting()


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """The configuration of a segmentation training."""

    task: ClassVar[str] = "segmentation"

    model: ModelConfig = ModelConfig()
    head: HeadConfig = HeadConfig()
    data: SegmentationDataConfig = SegmentationDataConfig()
    views: SegmentationViewConfig = SegmentationViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    device: DeviceConfig = DeviceConfig()
    record: RecordConfig = RecordConfig()

    @property
    def network(self) -> str:
        """A short description of the network, for tables."""
        return f"{self.head.head} {described(self.model)} stride {self.head.output_stride}"

    def __post_init__(self):
        """Refuse combinations that cannot work, before any file is read."""
        if self.record.smoke:
            return
        check_used(self)
        check_training(self)
        check_transfer(self)
        values = self.data.mask_values
        if values and (len(set(values)) < max(2, len(values)) or not 0 <= min(values) <= max(values) <= 255):
            raise InputError(f"--mask_values={listed(values)}: not two or more different numbers, 0 to 255")
