"""The settings of the evaluate command."""

import dataclasses

from resnet_tf.config.fields import SET, UNSET, check_used, listed, setting
from resnet_tf.config.sections import DATASETS
from resnet_tf.config.shared import exif_setting, interpolation_setting, weights_setting
from resnet_tf.errors import InputError

_IMPORTED = {"network": SET}


@dataclasses.dataclass(frozen=True)
class EvaluationSection:
    """Evaluation."""

    run: str = setting("", "Run folder; several, separated by commas, form an ensemble.")
    model: str = setting("", "Exported model to score instead of a run.")
    network: str = setting("", "Name of a network to score instead of a run, with the weights of --init_from.")
    split: str = setting(
        "", "Split to score. Unset: test if there is one, else validation.", choices=("", "test", "validation", "train")
    )
    weights: str = weights_setting({"run": SET})
    shares: tuple[float, ...] = setting((), "Weights of the ensemble's members. Unset: equal.", used_with={"run": SET})
    data_dir: str = setting(
        "",
        "Current folder or archive of the data, or, for runs and exported models of --dataset=folder, any folder of "
        "images of some of their classes. Unset, for runs and exported models: the one recorded in training.",
    )
    labels: str = setting(
        "", "CSV file of the labels of --data_dir, with the columns file and label. Unset: folders name the classes.",
        used_with={"data_dir": SET, "network": UNSET},
    )  # fmt: skip
    views: str = setting(
        "center",
        "center: one central crop; ten_crop: the four corners and the centre, and their mirror images; multi_scale: "
        "the whole image and its mirror image at each of --scales (He 2015).",
        choices=("center", "ten_crop", "multi_scale"),
        used_with={"model": UNSET},
    )
    scales: tuple[int, ...] = setting(
        (224, 256, 384, 480, 640), "Shorter sides in pixels.", used_with={"views": ("multi_scale",)}
    )
    average: str = setting(
        "softmax",
        "Quantity to average over views and ensemble members: softmax (He 2015) or logits.",
        choices=("softmax", "logits"),
        used_with={"model": UNSET},
    )
    batch_size: int = setting(
        0, "Images of a batch over all replicas. 0: 500 small images, 64 large ones, 6 for ten_crop.", low=0,
        used_with={"views": ("center", "ten_crop")},  # multi_scale takes one image at a time
    )  # fmt: skip
    replicas: int = setting(
        0,
        "Replicas on this machine: GPUs, or parts of the CPU. 0: all GPUs, or one.",
        low=0,
        used_with={"model": UNSET},
    )
    report: str = setting("", "New folder for a page to read, report.html, and for tables and pictures.")
    calibrate: bool = setting(
        False,
        "Fit the temperature of the network on the validation split and store it in the run, for `export "
        "--calibrated` (Guo et al. 2017).",
        used_with={"run": SET, "views": ("center",)},
    )
    examples: str = setting("", "File, .csv or .parquet, for the five most likely classes of each example.")
    results: str = setting("", "CSV file to append a result row to.")


@dataclasses.dataclass(frozen=True)
class ImportedSection:
    """Data of a network with imported weights."""

    init_from: str = setting(
        "",
        "Weights: a file that `convert` reads; a folder of config.json and model.safetensors; a published tag, see "
        "python -m resnet_tf.models --pretrained; imagenet for the best of those; or cifar10 for this package's own.",
        used_with=_IMPORTED,
    )
    dataset: str = setting(
        "",
        "Source of the images, as in `train`. Unset: cifar10, for --init_from=cifar10.",
        choices=("", *DATASETS),
        used_with=_IMPORTED,
    )
    tfds_name: str = setting(
        "", "TFDS name of the data set, as in `train`.", used_with=_IMPORTED | {"dataset": ("tfds",)}
    )
    classes: tuple[str, ...] = setting((), "Class names in the order of the outputs.", used_with=_IMPORTED)
    exif: str = exif_setting(_IMPORTED)
    image_size: int = setting(
        0, "Height and width of the network's input in pixels. 0: that at which published weights were tested.", low=0,
        used_with=_IMPORTED,
    )  # fmt: skip
    resize: int = setting(
        0,
        "Shorter side of the image in pixels before the crop. 0: that of published weights, else the side of the crop.",
        low=0,
        used_with=_IMPORTED,
    )
    interpolation: str = interpolation_setting(_IMPORTED)
    normalization: str = setting(
        "",
        "Normalisation that the weights were trained with. imagenet: the constants of Bag of Tricks, which also fit "
        "most weights of timm and torchvision; torchvision: the very constants of those; inception: mean and deviation "
        "127.5; caffe: BGR minus its mean (keras.applications' ResNet50); channel and pixel: statistics of the "
        "training split. Unset: that of published weights, else imagenet.",
        choices=("", "imagenet", "torchvision", "inception", "caffe", "channel", "pixel"),
        used_with=_IMPORTED,
    )


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The configuration of the evaluate command."""

    evaluation: EvaluationSection = EvaluationSection()
    imported: ImportedSection = ImportedSection()

    def __post_init__(self):
        """Refuse combinations that cannot work, before any file is read."""
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
        if section.calibrate and len(members) > 1:
            raise InputError("--calibrate is not used by an ensemble: it stores the temperature of one run")
        if section.shares and len(section.shares) != len(members):
            raise InputError(f"--shares={listed(section.shares)}: {len(section.shares)} for {len(members)} runs")
        if section.shares and not (min(section.shares) >= 0 and 0 < sum(section.shares) < float("inf")):
            raise InputError(f"--shares={listed(section.shares)}: not numbers from 0 with a sum above 0")
        scales = section.scales
        if not scales or list(scales) != sorted(set(scales)) or scales[0] < 8:
            raise InputError(f"--scales={listed(scales)}: not rising numbers of at least 8 pixels")
        if scored == ["network"]:
            for name in ("init_from", "dataset"):
                is_known = name == "dataset" and self.imported.init_from == "cifar10"
                if not getattr(self.imported, name) and not is_known:
                    raise InputError(f"--{name} is not set, which --network needs")


@dataclasses.dataclass(frozen=True)
class RelabelConfig:
    """Relabelling."""

    labels: str = setting("", "CSV file of the labels, with the columns file and label, such as split.csv of a run.")
    edits: str = setting(
        "", "CSV file with the columns file and new_label, such as label_errors.csv of a report: rows with a new_label "
        "change the label of the file, and those with - remove the file.",
    )  # fmt: skip
    out: str = setting("", "CSV file of the changed labels to write.")
