"""The settings of commands other than trainings and evaluation."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import KIND, SET, UNSET, Checked, check_used, listed, setting
from resnet_tf.config.run import TrainConfig, check_data, check_views
from resnet_tf.config.sections import SMALL_DATASETS, RecordConfig
from resnet_tf.config.shared import exif_setting, weights_setting
from resnet_tf.config.transfer import TransferExportConfig
from resnet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class PictureSection(RecordConfig):
    """Record."""

    out: str = setting("", "Image file to write, .png or .svg.")


@dataclasses.dataclass(frozen=True)
class GallerySection:
    """Gallery."""

    shown: str = setting(
        "training",
        "training: the views of training; ten_crop: the views of evaluate --views=ten_crop.",
        choices=("training", "ten_crop"),
    )
    examples: int = setting(4, "Training images to show: the first ones of epoch 0.", low=1, high=32)
    epochs: int = setting(
        4, "Views of each image, one for each epoch from 0.", low=1, high=16, used_with={"shown": ("training",)}
    )


@dataclasses.dataclass(frozen=True)
class ShowConfig(TrainConfig):
    """The configuration of the show command: that of a training, whose data and views are drawn."""

    record: PictureSection = PictureSection()
    gallery: GallerySection = GallerySection()

    def __post_init__(self):
        """Refuse combinations of data and views that cannot work; unlike in training, the length may be unset."""
        if self.choice.auto:
            return  # `choices.choose` builds the configuration that is checked
        check_used(self)
        check_data(self.data)
        views, examples = self.views, self.gallery.examples
        if (views.mixup or views.cutmix) and examples % 2:
            raise InputError(f"--examples={examples}: --mixup and --cutmix pair them, so it must be even")
        check_views(views, self.data, 2)


@dataclasses.dataclass(frozen=True)
class CompareConfig(Checked):
    """Comparison."""

    out: str = setting("", "Folder for the tables, curves and report.")
    title: str = setting("", "Title of the report. Unset: the number of runs and their data set.")
    price_per_hour: float = setting(
        0.0, "Price of an hour of one GPU, or of a machine without GPUs, in any currency. 0: no prices.", low=0.0
    )
    references: str = setting("", "CSV file of published results to show, such as results/references/published.csv.")
    responses: bool = setting(
        False, "Add layer responses of each run, or of the first of several seeds, as `analyze responses` draws them; "
        "needs checkpoints and the data, or responses.csv of `analyze` in the run folder.",
    )  # fmt: skip
    data_dir: str = setting(
        "", "Current folder of the data. Unset: the one recorded in training.", used_with={"responses": SET}
    )


_NETWORK = {"network": SET}
_EXPORTED = {  # {format: precisions of its weights}
    "savedmodel": {"float32", "bfloat16", "float16"},
    "tflite": {"float32", "float16", "int8"},
    "onnx": {"float32", "float16", "int8"},
    "keras": {"float32"},
}


@dataclasses.dataclass(frozen=True)
class ExportConfig(TransferExportConfig):
    """Export."""

    network: str = setting("", "Name of a network to export instead of a run, with the weights of --init_from.")
    init_from: str = setting(
        "",
        "Weights: a file that `convert` reads; imagenet to download them; or cifar10 for those of this package.",
        used_with=_NETWORK,
    )
    classes_file: str = setting(
        "", "Text file of the names of the classes, a line each in the order of the outputs. Unset: ImageNet's, for "
        "weights of 1,000 classes, and CIFAR-10's, for cifar10.", used_with=_NETWORK,
    )  # fmt: skip
    image_size: int = setting(
        0,
        "Height and width of the network's input in pixels. 0, for --init_from=imagenet and cifar10: as published.",
        low=0,
        used_with=_NETWORK,
    )
    resize: int = setting(
        0, "Shorter image side in pixels before the central crop. 0: as published, or the side of the crop.", low=0,
        used_with=_NETWORK,
    )  # fmt: skip
    normalization: str = setting(
        "", "Normalisation that the weights of a file were trained with, as in `evaluate`.",
        choices=("", "imagenet", "torchvision", "inception", "caffe"), used_with=_NETWORK,
    )  # fmt: skip
    format: tuple[str, ...] = setting(("savedmodel",), "Formats: savedmodel, tflite, onnx, keras.")
    precision: str = setting(
        "float32",
        "Precision of the stored weights: float32; bfloat16 (savedmodel); float16 (savedmodel, tflite, onnx); int8, "
        "which also quantises activations (tflite, onnx).",
        choices=("float32", "bfloat16", "float16", "int8"),
    )
    activations: str = setting(
        "float32",
        "Precision of activations; bfloat16 and float16 are for GPUs and slower on CPUs.",
        choices=("float32", "bfloat16", "float16"),
        used_with={"format": ("savedmodel",)},
    )
    input: str = setting(
        "float32",
        "Type of the pixels, 0 to 255, that TFLite and ONNX files take: float32, or uint8, a quarter of the bytes.",
        choices=("float32", "uint8"),
        used_with={"format": ("tflite", "onnx")},
    )
    compile: str = setting(
        "none",
        "xla: weights are constants, BN is folded, and on a GPU XLA compiles the network, which then answers "
        "several times as fast. The file is twice as large, and batches have --batch_sizes at most. none: any batch.",
        choices=("none", "xla"),
        used_with={"format": ("savedmodel",)},
    )
    batch_sizes: tuple[int, ...] = setting(
        (1, 8, 32, 128),
        "Sizes of batches to compile for. Others are padded to the next one; a larger batch is refused.",
        used_with={"compile": ("xla",)},
    )
    top_k: int = setting(5, "Most likely classes of each prediction.", low=1, used_with={"format": ("savedmodel",)})
    ten_crop: bool = setting(
        False, "Add a signature that averages over ten crops.", used_with={"format": ("savedmodel",)}
    )
    calibrated: bool = setting(
        False,
        "Divide the logits by the temperature that `evaluate --calibrate` stored in the run, so that probabilities are "
        "as high as they are often right. The likeliest class stays the same.",
        used_with={"run": SET},
    )
    calibration_examples: int = setting(
        200, "Training images for calibrating the ranges of activations.", low=1,
        used_with={"precision": ("int8",)},
    )  # fmt: skip
    data_dir: str = setting(
        "", "Current folder of the data. Unset: the one recorded in training.", used_with={"precision": ("int8",)}
    )
    licence: str = setting("", "Licence of the weights, for the model card.")
    intended_use: str = setting("", "Intended use of the model, one line of the model card.")

    def __post_init__(self):
        """Refuse combinations that cannot work, before any file is read."""
        if self.run and self.network:
            raise InputError("--run and --network: one thing is exported; unset the other")
        if self.network and not self.init_from:
            raise InputError("--init_from is not set, which --network needs: a file of weights, or imagenet")
        if self.network and (self.weights or self.precision == "int8"):
            flag = f"--weights={self.weights}" if self.weights else "--precision=int8"
            raise InputError(
                f"{flag} is not used by --network: {'it is' if self.weights else 'it measures images'} of a run"
            )
        if not self.format or len(set(self.format)) < len(self.format) or set(self.format) - set(_EXPORTED):
            raise InputError(f"--format={listed(self.format)}: not one or more of {', '.join(_EXPORTED)}, each once")
        for name in self.format:
            if self.precision not in _EXPORTED[name]:
                raise InputError(f"--precision={self.precision} is not for --format={name}")
        check_used(self)
        if self.input != "float32" and "keras" in self.format:
            raise InputError(f"--input={self.input} is not for --format=keras")
        if not self.batch_sizes or len(set(self.batch_sizes)) < len(self.batch_sizes) or min(self.batch_sizes) < 1:
            raise InputError(f"--batch_sizes={listed(self.batch_sizes)}: not one or more positive numbers, each once")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """Prediction."""

    model: str = setting(
        "", "Model: a folder of versions, one version, a .tflite, .onnx or .keras file, or a run folder."
    )
    runtime: str = setting(
        "",
        "openvino: run an .onnx file in OpenVINO, on the CPU. Unset: onnxruntime.",
        choices=("", "openvino"),
        used_with={"model": SET},
    )
    run: str = setting("", "Run folder, instead of --model, with the choice of --weights.")
    weights: str = weights_setting({"run": SET})
    server: str = setting(
        "",
        "Address of TensorFlow Serving or `serve`, instead of --model: http://HOST:PORT for REST, [grpc://]HOST:PORT "
        "for gRPC.",
    )
    model_name: str = setting("", "Name of the model on --server.", used_with={"server": SET})
    timeout: float = setting(
        60.0, "Longest wait in seconds for a response of --server.", low=0.001, used_with={"server": SET}
    )
    top_k: int = setting(
        0, "Classes to list for each image. 0: --top_k of the export for a SavedModel, 5 for other formats.", low=0
    )
    batch_size: int = setting(32, "Images of a batch.", low=1)
    format: str = setting(
        "",
        "Output format: table, csv (a row for each class) or jsonl (a JSON object for each image). Unset: from the "
        "suffix of --out, else table.",
        choices=("", "table", "csv", "jsonl"),
    )
    out: str = setting("", "File for the predictions. Unset: standard output.")
    shard: str = setting(
        "",
        "I/N: classify part I of N of the files, such as 2/8, into a file of its own beside --out. A part that is done "
        "stays as it is.",
        used_with={"out": SET, "watch": UNSET},
    )
    watch: bool = setting(
        False,
        "After the named files, go on with each new image in the named folders, until SIGINT (Ctrl-C) or SIGTERM.",
    )

    def __post_init__(self):
        """Refuse combinations that cannot work."""
        named = [name for name in ("model", "run", "server") if getattr(self, name)]
        if not named:
            raise InputError("--model, --run and --server are not set: say what classifies")
        if len(named) > 1:
            raise InputError(f"{' and '.join(f'--{name}' for name in named)} are both set: unset one")
        if self.server and not self.model_name:
            raise InputError(f"--server={self.server} needs --model_name: the model's name there")
        check_used(self)


@dataclasses.dataclass(frozen=True)
class ConvertConfig(Checked):
    """Conversion."""

    model: str = setting("", "Name of the network.")
    source: str = setting(
        "",
        "Weights: a .safetensors; .pth, .pt, .th, .pth.tar, .ckpt or .bin of PyTorch; .h5 of Keras or of resnet_tf; a "
        "folder of config.json and model.safetensors; a published tag; or cifar10 for those of this package.",
    )
    run: str = setting(
        "", "Run folder to write, instead of --model and --source.", used_with={"format": ("hub",), "model": UNSET}
    )
    weights: str = weights_setting({"run": SET})
    out: str = setting(
        "", "File to write: .weights.h5 (resnet_tf) or .safetensors (timm's names); a new folder for hub."
    )
    format: str = setting(
        "file",
        "file: one file of weights; hub: a folder that the Hugging Face hub and timm read, with config.json, "
        "model.safetensors and README.md.",
        choices=("file", "hub"),
    )
    licence: str = setting("", "Licence of the weights, for README.md.", used_with={"format": ("hub",)})
    num_classes: int = setting(0, "Number of classes of the weights. 0: that of the paper.", low=0)
    shortcut: str = setting("", "Shortcut, as in `train`.", choices=("", "A", "B", "C"))
    graph: str = setting("", "Graph, as in `train`. Unset: the graph of the weights.", choices=("", "paper", "timm"))
    ema: bool = setting(True, "Read the moving average if the file has one; false: always read the raw weights.")
    padding: str = setting(
        "",
        "Position of the zero channels of shortcut A in the source network. behind: after the others (He et al. 2015); "
        "both: on both sides. Unset: both if the classifier is named linear, else behind.",
        choices=("", "behind", "both"),
    )


@dataclasses.dataclass(frozen=True)
class ModelsConfig(Checked):
    """Listing."""

    json: bool = setting(False, "Print all columns in the JSON line instead of a table.")
    pretrained: bool = setting(
        False,
        "List published weights, and those of this package, instead: [PATTERN] is of their tags, such as "
        "resnet50*.a1_in1k, or of networks.",
        used_with={"diagram": UNSET},
    )
    diagram: tuple[str, ...] = setting((), "Networks to draw block by block instead; NAME:timm for timm's graph.")
    out: str = setting(
        "", "Image file to write, .png or .svg. Unset: named after the networks.", used_with={"diagram": SET}
    )


@dataclasses.dataclass(frozen=True)
class PrepareConfig(Checked):
    """Preparation."""

    dataset: str = setting(
        "folder", "Source of the images, as in `train`.", choices=("folder", "records", "tfds", "voc")
    )
    data_dir: str = setting("", "Folder or archive of the images.")
    tfds_name: str = setting("", "TFDS name of the data set in --data_dir.", used_with={"dataset": ("tfds",)})
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels. Unset: the source's order.")
    exif: str = exif_setting()
    out: str = setting("", "Folder to write, for --dataset=records.")
    shorter_side: int = setting(
        288, "Longest shorter side in pixels; larger images are scaled down. 0: keep every image unchanged.", low=0
    )
    quality: int = setting(90, "JPEG quality.", low=1, high=100)
    shards: int = setting(0, "Files of each split. 0: one for about 200 MB of the source.", low=0)
    skip_bad_images: int = setting(
        0, "Most images that may be skipped because they cannot be decoded; report.csv lists them.", low=0
    )


@dataclasses.dataclass(frozen=True)
class DataServerConfig:
    """Data server."""

    port: int = setting(5050, "Port for trainings to connect to; the next port is used too.", low=1, high=65534)
    host: str = setting("localhost", "Host name of this machine, as trainings reach it.")


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Sweep."""

    grid: str = setting("", "YAML file of the trainings; see docs/training.md, section Sweeps.")
    out: str = setting("", "Folder for the runs, sweep.csv and summary.md.")
    processes: int = setting(
        0,
        "Trainings at the same time. 0: one for each GPU, or one. With several GPUs and processes, each training gets "
        "one GPU, in turn.",
        low=0,
    )
    results: str = setting("", "CSV file to append a result row of each training to.")
    smoke: bool = setting(False, "Shrink each training, like --smoke of `train`.")


@dataclasses.dataclass(frozen=True)
class AnalyzeConfig:
    """Analysis."""

    command: ClassVar[str] = "analyze"
    kinds: ClassVar[tuple[str, ...]] = ("responses", "gradients", "activations", "grad_cam", "label_errors")

    out: str = setting("", "Image file to write, .png or .svg; of label_errors a .csv file.")
    csv: str = setting(
        "",
        "CSV file of the plotted values. Unset: --out with the suffix .csv.",
        used_with={KIND: ("responses", "gradients")},
    )
    run: str = setting("", "Run folder.", used_with={KIND: ("activations", "grad_cam")})
    weights: str = weights_setting({KIND: ("responses", "activations", "grad_cam", "label_errors")})
    data_dir: str = setting(
        "", "Folder of the data. Unset, for responses and label_errors of runs: the one recorded in training.",
        used_with={KIND: ("responses", "gradients", "label_errors")},
    )  # fmt: skip
    examples: int = setting(
        0, "Test images, evenly spaced in the split. 0: all of a data set in memory, 1,024 of others.", low=0,
        used_with={KIND: ("responses",)},
    )  # fmt: skip
    dataset: str = setting("digits", "Source of the images.", choices=SMALL_DATASETS, used_with={KIND: ("gradients",)})
    image_size: int = setting(32, "Height and width of the images in pixels.", low=8, used_with={KIND: ("gradients",)})
    batch_size: int = setting(128, "Training images in the batch.", low=2, used_with={KIND: ("gradients",)})
    seeds: int = setting(
        3, "Seeds of initial weights and batches to average over.", low=1, used_with={KIND: ("gradients",)}
    )
    zero_gamma: bool = setting(True, "Also show residual networks with --zero_gamma.", used_with={KIND: ("gradients",)})
    channels: int = setting(
        8, "Strongest channels of each stage to show.", low=1, high=64, used_with={KIND: ("activations",)}
    )
    class_name: str = setting("", "Class to explain. Unset: the predicted one.", used_with={KIND: ("grad_cam",)})


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """Features."""

    run: str = setting("", "Run folder.")
    weights: str = weights_setting()
    splits: tuple[str, ...] = setting((), "Splits of the data. Unset: train, and test or, without one, validation.")
    data_dir: str = setting("", "Current folder of the data. Unset: the one recorded in training.")
    out: str = setting("", "File to write, .parquet or .npz.")
    shard: str = setting(
        "",
        "I/N: write part I of N of the examples of each split, such as 2/8, to a file of its own beside --out. A part "
        "that is done stays as it is.",
    )
