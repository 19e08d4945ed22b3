"""The configuration of a detection training: shared sections, and its own detector, data and views."""

import dataclasses
from typing import ClassVar

from resnet_tf.config import shared
from resnet_tf.config.fields import check_used, listed, setting
from resnet_tf.config.run import check_training, described
from resnet_tf.config.sections import DeviceConfig, ModelConfig, OptimizerConfig, RecordConfig, ScheduleConfig
from resnet_tf.config.transfer import check_transfer
from resnet_tf.errors import InputError

DETECTION_DATASETS = ("voc", "coco", "synthetic")


@dataclasses.dataclass(frozen=True)
class DetectorConfig:
    """Detector."""

    neck: str = setting(
        "c4",
        "c4: propose from the last stage but one, and apply the last stage to each box (He et al. 2015, appendix A); "
        "fpn: a feature pyramid (Lin et al. 2017).",
        choices=("c4", "fpn"),
    )
    anchor_sizes: tuple[float, ...] = setting(
        (), "Square roots of anchor areas in pixels of the view: c4 uses all of them at each position, fpn one for "
        "each level. Unset: 128,256,512 for c4, 8 strides of each level for fpn.",
    )  # fmt: skip
    anchor_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), "Anchor widths over heights.")
    candidates: int = setting(2000, "Highest-scoring anchors of each level before NMS.", low=1)
    proposals: int = setting(1000, "Proposals of an image in training, after NMS.", low=1)
    eval_proposals: int = setting(300, "Proposals of an image in evaluation, after NMS (Ren et al. 2015).", low=1)
    proposal_nms: float = setting(0.7, "IoU above which NMS drops the proposal of lower score.", low=0.0, high=1.0)
    anchors: int = setting(256, "Anchors of an image in the loss; at most half of them are objects.", low=2)
    regions: int = setting(128, "RoIs of an image in the loss of the box head.", low=1)
    region_objects: float = setting(
        0.25, "Largest fraction of --regions that are objects (Girshick 2015).", low=0.0, high=1.0
    )
    score_threshold: float = setting(0.05, "Lowest score of a detection.", low=0.0, high=1.0)
    nms: float = setting(0.5, "IoU above which NMS drops the detection of lower score in a class.", low=0.0, high=1.0)
    detections: int = setting(100, "Most detections of an image.", low=1)


@dataclasses.dataclass(frozen=True)
class DetectionDataConfig:
    """Data."""

    dataset: str = setting(
        "voc", "Layout of images and boxes in --data_dir; see docs/transfer.md.", choices=DETECTION_DATASETS
    )
    data_dir: str = setting(
        "", "Folder or archive of images and boxes.", used_with={"dataset": ("voc", "coco")}, changes_result=False
    )
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels. Unset: those of the data set.")
    validation_share: float = setting(
        0.0, "Share of the training images to hold out for validation, if the data have no validation split.",
        low=0.0, high=0.9,
    )  # fmt: skip
    test_share: float = setting(
        0.0, "Share of the training images to hold out as the test split, if the data have none.", low=0.0, high=0.9
    )
    split_seed: int = setting(0, "Seed by which the shares are drawn.", low=0)
    exif: str = shared.exif_setting()
    most_objects: int = setting(100, "Most objects of a training image.", low=1)
    image_size: int = setting(640, "Side in pixels of the square view; the longer side of an image fills it.", low=16)
    normalization: str = shared.normalization_setting()


@dataclasses.dataclass(frozen=True)
class DetectionViewConfig:
    """Training views."""

    scale: tuple[float, ...] = setting(
        (0.8, 1.25), "Smallest and largest scaling factor; 1 is the size at which an image just fits the square."
    )
    mirror: bool = setting(True, "Mirror images and boxes with probability 0.5.")
    color_jitter: tuple[float, ...] = shared.color_jitter_setting()
    lighting: float = shared.lighting_setting()
    threads: int = shared.threads_setting()


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """The configuration of a detection training."""

    task: ClassVar[str] = "detection"

    model: ModelConfig = ModelConfig()
    detector: DetectorConfig = DetectorConfig()
    data: DetectionDataConfig = DetectionDataConfig()
    views: DetectionViewConfig = DetectionViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    device: DeviceConfig = DeviceConfig()
    record: RecordConfig = RecordConfig()

    @property
    def network(self) -> str:
        """A short description of the network, for tables."""
        return f"faster_rcnn {self.detector.neck} {described(self.model)}"

    def __post_init__(self):
        """Refuse combinations that cannot work, before any file is read."""
        if self.record.smoke:
            return
        check_used(self)
        check_training(self)
        check_transfer(self)
        for name in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self.detector, name)
            if any(value <= 0 for value in values) or (name == "anchor_ratios" and not values):
                raise InputError(f"--{name}={listed(values)}: not positive numbers")
