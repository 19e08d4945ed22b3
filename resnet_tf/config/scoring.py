"""Settings of the evaluate command."""

import dataclasses

from resnet_tf.config.fields import SET, UNSET, check_used, exif_setting, setting
from resnet_tf.config.sections import DATASETS
from resnet_tf.errors import InputError

_IMPORTED = {"network": SET}


@dataclasses.dataclass(frozen=True)
class EvaluationSection:
    """Evaluation."""

    run: str = setting("", "Folder of the run; several, with commas between, are an ensemble.")
    model: str = setting("", "Instead of a run: folder of an exported model, which is scored as it is served.")
    network: str = setting("", "Instead of a run: name of a network, with the weights of --init_from.")
    split: str = setting("test", "Split of the data.", choices=("test", "validation", "train"))
    weights: str = setting(
        "raw",
        "raw; ema: the moving average of a run with --ema; best: raw, of the step whose top-1 on the held-out "
        "validation split was best.",
        choices=("raw", "ema", "best"),
        used_with={"run": SET},
    )
    shares: tuple[float, ...] = setting(
        (), "Weights of an ensemble's members. Unset: all alike.", used_with={"run": SET}
    )
    data_dir: str = setting("", "Where the data are; of runs and exported models, if not where they were in training.")
    views: str = setting(
        "center",
        "center: one central crop; ten_crop: corners, centre, and these mirrored; multi_scale: the whole image at "
        "each of --scales, and mirrored (He 2015).",
        choices=("center", "ten_crop", "multi_scale"),
        used_with={"model": UNSET},
    )
    scales: tuple[int, ...] = setting(
        (224, 256, 384, 480, 640), "Shorter sides in pixels.", used_with={"views": ("multi_scale",)}
    )
    average: str = setting(
        "softmax",
        "Averaged over views and over the members of an ensemble: softmax (He 2015) or logits.",
        choices=("softmax", "logits"),
        used_with={"model": UNSET},
    )
    batch_size: int = setting(
        0, "Images at a time, over all replicas. 0: 500 small ones, 64 large ones, 6 of ten crops.", low=0,
        used_with={"views": ("center", "ten_crop")},  # sizes differ in multi_scale
    )  # fmt: skip
    replicas: int = setting(0, "Replicas, as in training.", low=0, used_with={"model": UNSET})
    report: str = setting("", "Folder to write tables and pictures of the mistakes to.")
    examples: str = setting("", "File, .csv or .parquet, of each example's five likeliest classes.")
    results: str = setting("", "CSV file to append a row with the result to.")


@dataclasses.dataclass(frozen=True)
class ImportedSection:
    """Data of a network with imported weights."""

    init_from: str = setting("", "Weights: a file that resnet_tf.convert reads, or imagenet.", used_with=_IMPORTED)
    dataset: str = setting("", "Source of images, as in training.", choices=("", *DATASETS), used_with=_IMPORTED)
    tfds_name: str = setting("", "Name of the set, as in training.", used_with=_IMPORTED | {"dataset": ("tfds",)})
    classes: tuple[str, ...] = setting((), "Class names in the weights' order, as in training.", used_with=_IMPORTED)
    exif: str = exif_setting(_IMPORTED)
    image_size: int = setting(0, "Height and width of the network's input in pixels.", low=0, used_with=_IMPORTED)
    resize: int = setting(
        0, "Shorter side before the central crop in pixels. 0: that of the crop.", low=0, used_with=_IMPORTED
    )
    normalization: str = setting(
        "imagenet",
        "What the weights were trained with: imagenet (timm's and torchvision's too, to a level in 400), inception "
        "(127.5 in mean and deviation), caffe (BGR less its mean: keras.applications' ResNet50); channel and pixel: of "
        "the data's training split.",
        choices=("imagenet", "inception", "caffe", "channel", "pixel"),
        used_with=_IMPORTED,
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The evaluate command."""

    evaluation: EvaluationSection = EvaluationSection()
    imported: ImportedSection = ImportedSection()

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        section = self.evaluation
        scored = [name for name in ("run", "model", "network") if getattr(section, name)]
        if not scored:
            raise InputError("--run is not set: the folder of the run to evaluate (or say --model, or --network)")
        if len(scored) > 1:
            raise InputError(f"{' and '.join(f'--{name}' for name in scored)}: one thing is scored; unset the others")
        check_used(self)
        members = section.run.split(",")
        if section.shares and len(members) == 1:
            raise InputError("--shares is not used by a single run")
        if section.shares and len(section.shares) != len(members):
            raise InputError(f"--shares={_listed(section.shares)}: {len(section.shares)} for {len(members)} runs")
        if section.shares and not (min(section.shares) >= 0 and 0 < sum(section.shares) < float("inf")):
            raise InputError(f"--shares={_listed(section.shares)}: not numbers from 0 with a sum above 0")
        scales = section.scales
        if not scales or list(scales) != sorted(set(scales)) or scales[0] < 8:
            raise InputError(f"--scales={_listed(scales)}: not rising numbers of at least 8 pixels")
        if scored == ["network"]:
            for name in ("init_from", "dataset", "image_size"):
                if not getattr(self.imported, name):
                    raise InputError(f"--{name} is not set, which --network needs")


def _listed(values):
    return ",".join(f"{value:g}" for value in values)
