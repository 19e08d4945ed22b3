"""Settings of the commands that are not a training."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import KIND, SET, check_used, exif_setting, setting
from resnet_tf.config.run import TrainConfig, check_data, check_views
from resnet_tf.config.sections import SMALL_DATASETS, RecordConfig
from resnet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class PictureSection(RecordConfig):
    """Record."""

    out: str = setting("", "Picture to write, .png or .svg.")


@dataclasses.dataclass(frozen=True)
class GallerySection:
    """Gallery."""

    shown: str = setting(
        "training",
        "training: what the network is trained on; ten_crop: what evaluate --views=ten_crop scores.",
        choices=("training", "ten_crop"),
    )
    examples: int = setting(4, "Images of the training split, the first of epoch 0.", low=1, high=32)
    epochs: int = setting(
        4, "Views of each, one of each epoch from 0 on.", low=1, high=16, used_with={"shown": ("training",)}
    )


@dataclasses.dataclass(frozen=True)
class ShowConfig(TrainConfig):
    """The show command: all of a training run, of which it takes data and views."""

    record: PictureSection = PictureSection()
    gallery: GallerySection = GallerySection()

    def __post_init__(self):
        """Refuse combinations of data and views that make no sense; how long to train may stay open."""
        check_used(self)
        check_data(self.data)
        views, examples = self.views, self.gallery.examples
        if (views.mixup or views.cutmix) and examples % 2:
            raise InputError(f"--examples={examples}: --mixup and --cutmix pair them, so it must be even")
        check_views(views, self.data, 2)


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Comparison."""

    out: str = setting("", "Folder to write the tables, the curves and the report to.")
    title: str = setting("", "Title of the report. Unset: how many runs of what.")
    price_per_hour: float = setting(
        0.0, "Price of an hour of one GPU, or of the machine where it has none, in any currency. 0: no prices.", low=0.0
    )
    references: str = setting(
        "", "CSV file of published figures to show beside the runs': results/references/published.csv, or one's own."
    )
    responses: bool = setting(
        False, "Add layer responses, as analyze responses draws them: of each run, or of the first of several seeds; "
        "needs checkpoints and the data, or the responses.csv of analyze in the run's folder.",
    )  # fmt: skip
    data_dir: str = setting(
        "", "Where the data are now, if not where they were in training.", used_with={"responses": SET}
    )

    def __post_init__(self):
        """Refuse flags that are not used."""
        check_used(self)


_EXPORTED = {  # format: precisions of the weights that it has
    "savedmodel": {"float32", "bfloat16", "float16"},
    "tflite": {"float32", "float16", "int8"},
    "onnx": {"float32", "float16"},
    "keras": {"float32"},
}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """Export."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in evaluate.", choices=("raw", "ema", "best"))
    out: str = setting("", "Folder of the model's versions, each a folder with a number for its name.")
    version: int = setting(0, "Number of the version, which must not exist yet. 0: that after the highest.", low=0)
    format: tuple[str, ...] = setting(("savedmodel",), "Formats: savedmodel, tflite, onnx, keras.")
    precision: str = setting(
        "float32",
        "Precision of weights in the files: float32; bfloat16 (savedmodel); float16 (savedmodel, tflite, onnx); int8, "
        "of activations too (tflite).",
        choices=("float32", "bfloat16", "float16", "int8"),
    )
    activations: str = setting(
        "float32",
        "Precision of activations: bfloat16 and float16 are for GPUs; on CPUs they are slower.",
        choices=("float32", "bfloat16", "float16"),
        used_with={"format": ("savedmodel",)},
    )
    top_k: int = setting(
        5, "Classes that an answer names, the likeliest first.", low=1, used_with={"format": ("savedmodel",)}
    )
    ten_crop: bool = setting(False, "A signature that averages over ten crops.", used_with={"format": ("savedmodel",)})
    calibration_examples: int = setting(
        200, "Images of the training split from which the ranges of activations are taken.", low=1,
        used_with={"precision": ("int8",)},
    )  # fmt: skip
    data_dir: str = setting(
        "", "Where these are, if not where they were in training.", used_with={"precision": ("int8",)}
    )
    licence: str = setting("", "Licence of the weights, for the model card.")
    intended_use: str = setting("", "What the model is for, in a line for the model card.")

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        listed = ",".join(self.format)
        if not self.format or len(set(self.format)) < len(self.format) or set(self.format) - set(_EXPORTED):
            raise InputError(f"--format={listed}: not one or more of {', '.join(_EXPORTED)}, each once")
        for name in self.format:
            if self.precision not in _EXPORTED[name]:
                raise InputError(f"--precision={self.precision} is not for --format={name}")
        check_used(self)


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    model: str = setting(
        "", "Exported model: a folder of versions, the folder of one, or a .tflite, .onnx or .keras file."
    )
    server: str = setting(
        "", "Instead: address of TensorFlow Serving. http://HOST:PORT: REST; grpc://HOST:PORT or HOST:PORT: gRPC."
    )
    model_name: str = setting("", "Name of the model on --server.", used_with={"server": SET})
    timeout: float = setting(60.0, "Seconds that an answer of --server may take.", low=0.001, used_with={"server": SET})
    top_k: int = setting(
        0, "Classes named of each image. 0: as many as a SavedModel was exported to name; 5 of a file's.", low=0
    )
    batch_size: int = setting(32, "Images at a time.", low=1)
    format: str = setting(
        "",
        "Of the answers: table, csv (a row for each class) or jsonl (a JSON object for each image). Unset: by the "
        "suffix of --out, else table.",
        choices=("", "table", "csv", "jsonl"),
    )
    out: str = setting("", "File to write the answers to. Unset: to stdout.")

    def __post_init__(self):
        """Refuse combinations that make no sense."""
        if bool(self.model) == bool(self.server):
            problem = "are both set: unset one" if self.model else "are not set: say what classifies"
            raise InputError(f"--model and --server {problem}")
        if self.server and not self.model_name:
            raise InputError(f"--server={self.server} needs --model_name: the model's name there")
        check_used(self)


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """Conversion."""

    model: str = setting("", "Name of the network.")
    source: str = setting(
        "", "Weights: .safetensors, or .pth, .pt, .th, .pth.tar, .ckpt, .bin of PyTorch, .h5 of Keras, or ours."
    )
    out: str = setting("", "File to write: .weights.h5 (ours) or .safetensors (timm's names).")
    num_classes: int = setting(0, "Classes of the weights. 0: the paper's.", low=0)
    shortcut: str = setting("", "Shortcut, as in training.", choices=("", "A", "B", "C"))
    graph: str = setting(
        "", "Graph, as in training. Unset: the one that the weights are of.", choices=("", "paper", "timm")
    )
    ema: bool = setting(True, "Take the moving average of a file that holds it beside the weights; false: the weights.")
    padding: str = setting(
        "",
        "Where shortcut A puts its zero channels in the network that the weights are of: behind the others (He et al. "
        "2015) or on both sides. Unset: on both sides where the classifier is called linear, else behind.",
        choices=("", "behind", "both"),
    )


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
    """Listing."""

    json: bool = setting(False, "Print everything in the JSON line, and no table.")
    diagram: tuple[str, ...] = setting((), "Draw these networks by block instead; NAME:timm for timm's graph.")
    out: str = setting("", "File of the drawing, .png or .svg. Unset: the networks' names.", used_with={"diagram": SET})

    def __post_init__(self):
        """Refuse flags that are not used."""
        check_used(self)


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """Preparation."""

    dataset: str = setting("folder", "Source of images, as in training.", choices=("folder", "records", "tfds", "voc"))
    data_dir: str = setting("", "Folder or archive of the images.")
    tfds_name: str = setting("", "Name of the set in --data_dir.", used_with={"dataset": ("tfds",)})
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels, as in training.")
    exif: str = exif_setting()
    out: str = setting("", "Folder to write; --dataset=records reads it.")
    shorter_side: int = setting(
        288, "Scale images down whose shorter side is longer, in pixels. 0: keep every image as it is.", low=0
    )
    quality: int = setting(90, "Quality of the JPEGs that are written.", low=1, high=100)
    shards: int = setting(0, "Files of each split. 0: one for some 200 MB of the source.", low=0)
    skip_bad_images: int = setting(0, "Leave out up to that many bad images, and name them in report.csv.", low=0)

    def __post_init__(self):
        """Refuse flags that are not used."""
        check_used(self)


@dataclasses.dataclass(frozen=True)
class DataServerConfig:
    """Data server."""

    port: int = setting(5050, "Port that trainings name; the next one is taken too.", low=1, high=65534)
    host: str = setting("localhost", "Name by which trainings reach this machine.")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Sweep."""

    grid: str = setting("", "YAML file of the trainings; docs/training.md, section Sweeps, says how it is written.")
    out: str = setting("", "Folder of the runs, of sweep.csv and of summary.md.")
    processes: int = setting(
        0,
        "Trainings at a time. 0: one for each GPU, or one. Where there are several GPUs and processes, each training "
        "gets one GPU, in turn.",
        low=0,
    )
    results: str = setting("", "CSV file to which each training appends a row with its result.")
    smoke: bool = setting(False, "Shrink each training, as --smoke of train does.")


@dataclasses.dataclass(frozen=True)
class AnalyzeConfig:
    """Analysis."""

    command: ClassVar[str] = "analyze"
    kinds: ClassVar[tuple[str, ...]] = ("responses", "gradients", "activations", "grad_cam")

    out: str = setting("", "Picture to write, .png or .svg.")
    csv: str = setting(
        "", "File of the figures. Unset: beside --out, ending in .csv.", used_with={KIND: ("responses", "gradients")}
    )
    run: str = setting("", "Folder of the run.", used_with={KIND: ("activations", "grad_cam")})
    weights: str = setting(
        "raw", "raw, ema or best, as in evaluate.", choices=("raw", "ema", "best"),
        used_with={KIND: ("responses", "activations", "grad_cam")},
    )  # fmt: skip
    data_dir: str = setting(
        "", "Where the data are; of responses, where they are now, if not where they were in training.",
        used_with={KIND: ("responses", "gradients")},
    )  # fmt: skip
    examples: int = setting(
        0, "Test images, evenly out of the split. 0: all of a set in memory, 1,024 of others.", low=0,
        used_with={KIND: ("responses",)},
    )  # fmt: skip
    dataset: str = setting("digits", "Source of images.", choices=SMALL_DATASETS, used_with={KIND: ("gradients",)})
    image_size: int = setting(32, "Height and width of the images in pixels.", low=8, used_with={KIND: ("gradients",)})
    batch_size: int = setting(128, "Training images in the batch.", low=2, used_with={KIND: ("gradients",)})
    seeds: int = setting(3, "Initial weights and batches to average over.", low=1, used_with={KIND: ("gradients",)})
    zero_gamma: bool = setting(True, "Show residual networks with --zero_gamma too.", used_with={KIND: ("gradients",)})
    channels: int = setting(8, "Strongest channels of each stage.", low=1, high=64, used_with={KIND: ("activations",)})
    class_name: str = setting("", "Class to explain. Unset: the one predicted.", used_with={KIND: ("grad_cam",)})


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Features."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in evaluate.", choices=("raw", "ema", "best"))
    splits: tuple[str, ...] = setting(("train", "test"), "Splits of its data.")
    data_dir: str = setting("", "Where the data are now, if not where they were in training.")
    out: str = setting("", "File to write, .parquet or .npz.")
