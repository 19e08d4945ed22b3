"""What a training of segmentation is: the sections of a training, with its own network, data and views."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import check_used, exif_setting, setting
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
        "fcn",
        "fcn: as in Bag of Tricks, section 6.2; deeplabv3plus: Chen et al. 2018.",
        choices=("fcn", "deeplabv3plus"),
    )
    output_stride: int = setting(
        8, "Pixels of the image for one of the last stage, whose strides become dilations: 8, 16 or 32.", low=1
    )
    auxiliary: float = setting(
        0.0, "Weight of the loss of a second head, on the stage before the last (GluonCV: 0.5). 0: none.", low=0.0
    )
    dropout: float = setting(0.1, "Rate of dropout in the heads.", low=0.0, high=0.9)


@dataclasses.dataclass(frozen=True)
class SegmentationDataConfig:
    """Data."""

    dataset: str = setting(
        "camvid", "How images and masks lie in --data_dir; docs/transfer.md.", choices=SEGMENTATION_DATASETS
    )
    data_dir: str = setting(
        "", "Folder or tar archive of images and masks.", used_with={"dataset": _ENCODED}, changes_result=False
    )
    classes: tuple[str, ...] = setting(
        (), "Class names in the order of their indices, for a set of one's own. Unset: the data set's."
    )
    mask_values: tuple[int, ...] = setting(
        (),
        "Values that the classes' pixels have in masks, in the order of --classes: 0,255 for binary masks; all others "
        "are void. Unset: the indices of --dataset.",
        used_with={"dataset": _ENCODED},
    )
    exif: str = exif_setting()
    image_size: int = setting(480, "Height and width of training views in pixels.", low=16)
    normalization: str = setting(
        "imagenet",
        "imagenet: the constants of Bag of Tricks; channel: mean and standard deviation of each channel.",
        choices=("imagenet", "channel"),
    )


@dataclasses.dataclass(frozen=True)
class SegmentationViewConfig:
    """Training views."""

    scale: tuple[float, ...] = setting((0.5, 2.0), "Smallest and largest factor that an image is scaled by.")
    mirror: bool = setting(True, "Mirror images and masks with probability 0.5.")
    color_jitter: tuple[float, ...] = setting(
        (), "Ranges of the factors of brightness, contrast, saturation, hue; Bag of Tricks: 0.4,0,0.4,0.4."
    )
    lighting: float = setting(0.0, "Deviation of the PCA noise's coefficients (AlexNet, Bag of Tricks: 0.1).", low=0.0)
    threads: int = setting(0, "Threads that decode images. 0: one for each core.", low=0, changes_result=False)


@dataclasses.dataclass(frozen=True)
class SegmentConfig:
    """All of a training of segmentation: the sections above and those of every training."""

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
    def network(self):
        """The network in words."""
        return f"{self.head.head} {described(self.model)} stride {self.head.output_stride}"

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        if self.record.smoke:
            return
        check_used(self)
        check_training(self)
        check_transfer(self)
        values = self.data.mask_values
        if values and (len(set(values)) < max(2, len(values)) or not 0 <= min(values) <= max(values) <= 255):
            raise InputError(f"--mask_values={','.join(map(str, values))}: not two or more different numbers, 0 to 255")
