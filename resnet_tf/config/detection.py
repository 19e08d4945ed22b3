"""What a training of detection is: the sections of a training, with its own network, data and views."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import check_used, exif_setting, setting
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
        "c4: proposals from the last stage but one, and the last as the head of each box (He et al. 2015, appendix A); "
        "fpn: a feature pyramid (Lin et al. 2017).",
        choices=("c4", "fpn"),
    )
    anchor_sizes: tuple[float, ...] = setting(
        (), "Square roots of the anchors' areas in pixels of the view: all at each place of c4, one for each level of "
        "fpn. Unset: 128,256,512, or 8 strides of each level.",
    )  # fmt: skip
    anchor_ratios: tuple[float, ...] = setting((0.5, 1.0, 2.0), "Widths of anchors over their heights.")
    candidates: int = setting(
        2000, "Anchors of each level, the best ones, that proposals are made of before overlaps are suppressed.", low=1
    )
    proposals: int = setting(1000, "Proposals of an image in training, after that.", low=1)
    eval_proposals: int = setting(300, "Proposals of an image in evaluation (Ren et al. 2015).", low=1)
    proposal_nms: float = setting(0.7, "IoU above which the proposal of lower score is suppressed.", low=0.0, high=1.0)
    anchors: int = setting(256, "Anchors of an image that proposals are learnt from, half of them objects.", low=2)
    regions: int = setting(128, "Boxes of an image that the head of boxes learns from.", low=1)
    region_objects: float = setting(
        0.25, "The part of these that is objects at most (Girshick 2015).", low=0.0, high=1.0
    )
    score_threshold: float = setting(0.05, "Score above which a detection counts.", low=0.0, high=1.0)
    nms: float = setting(
        0.5, "IoU above which the detection of lower score is suppressed, class by class.", low=0.0, high=1.0
    )
    detections: int = setting(100, "Detections of an image at most.", low=1)


@dataclasses.dataclass(frozen=True)
class DetectionDataConfig:
    """Data."""

    dataset: str = setting(
        "voc", "How images and boxes lie in --data_dir; docs/transfer.md.", choices=DETECTION_DATASETS
    )
    data_dir: str = setting(
        "", "Folder or tar archive of images and boxes.", used_with={"dataset": ("voc", "coco")}, changes_result=False
    )
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels. Unset: the data set's.")
    exif: str = exif_setting()
    most_objects: int = setting(100, "Objects of an image at most, in training.", low=1)
    image_size: int = setting(
        640, "Height and width in pixels of the square on which images lie, longer side to side.", low=16
    )
    normalization: str = setting(
        "imagenet",
        "imagenet: the constants of Bag of Tricks; channel: mean and standard deviation of each channel.",
        choices=("imagenet", "channel"),
    )


@dataclasses.dataclass(frozen=True)
class DetectionViewConfig:
    """Training views."""

    scale: tuple[float, ...] = setting(
        (0.8, 1.25), "Smallest and largest factor of the size at which an image just fits the square."
    )
    mirror: bool = setting(True, "Mirror images and boxes with probability 0.5.")
    color_jitter: tuple[float, ...] = setting(
        (), "Ranges of the factors of brightness, contrast, saturation, hue; Bag of Tricks: 0.4,0,0.4,0.4."
    )
    lighting: float = setting(0.0, "Deviation of the PCA noise's coefficients (AlexNet, Bag of Tricks: 0.1).", low=0.0)
    threads: int = setting(0, "Threads that decode images. 0: one for each core.", low=0, changes_result=False)


@dataclasses.dataclass(frozen=True)
class DetectConfig:
    """All of a training of detection: the sections above and those of every training."""

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
    def network(self):
        """The network in words."""
        return f"faster_rcnn {self.detector.neck} {described(self.model)}"

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        if self.record.smoke:
            return
        check_used(self)
        check_training(self)
        check_transfer(self)
        for name in ("anchor_sizes", "anchor_ratios"):
            values = getattr(self.detector, name)
            if any(value <= 0 for value in values) or (name == "anchor_ratios" and not values):
                raise InputError(f"--{name}={','.join(map(str, values))}: not positive numbers")
