"""Settings of the commands that are not a training."""

import dataclasses

from resnet_tf.config.fields import exif_setting, setting
from resnet_tf.config.run import (
    DATASETS,
    SMALL_DATASETS,
    DeviceConfig,
    ModelConfig,
    RecordConfig,
    TrainConfig,
    check_data,
    check_views,
)
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
    epochs: int = setting(4, "training: views of each, one of each epoch from 0 on.", low=1, high=16)


@dataclasses.dataclass(frozen=True)
class ShowConfig(TrainConfig):
    """The show command: all of a training run, of which it takes data and views."""

    record: PictureSection = PictureSection()
    gallery: GallerySection = GallerySection()

    def __post_init__(self):
        """Refuse combinations of data and views that make no sense; how long to train may stay open."""
        check_data(self.data)
        views, examples = self.views, self.gallery.examples
        if (views.mixup or views.cutmix) and examples % 2:
            raise InputError(f"--examples={examples}: --mixup and --cutmix pair them, so it must be even")
        check_views(views, self.data, 2)


@dataclasses.dataclass(frozen=True)
class EvaluationSection:
    """Evaluation."""

    run: str = setting("", "Folder of the run; several, with commas between, are an ensemble.")
    model: str = setting("", "Instead of a run: folder of an exported model, which is scored as it is served.")
    network: str = setting("", "Instead of a run: name of a network, with the weights of --init_from.")
    split: str = setting("test", "Split of the data.", choices=("test", "validation", "train"))
    weights: str = setting(
        "raw",
        "Of a run: raw; ema: the moving average of one with --ema; best: raw, of the step whose top-1 on the held-out "
        "validation split was best.",
        choices=("raw", "ema", "best"),
    )
    shares: tuple[float, ...] = setting((), "Weights of an ensemble's members. Unset: all alike.")
    data_dir: str = setting("", "Where the data are; of runs and exported models, if not where they were in training.")
    views: str = setting(
        "center",
        "center: one central crop; ten_crop: corners, centre, and these mirrored; multi_scale: the whole image at "
        "each of --scales, and mirrored (He 2015).",
        choices=("center", "ten_crop", "multi_scale"),
    )
    scales: tuple[int, ...] = setting((224, 256, 384, 480, 640), "multi_scale: shorter sides in pixels.")
    average: str = setting(
        "softmax",
        "Averaged over views and over the members of an ensemble: softmax (He 2015) or logits.",
        choices=("softmax", "logits"),
    )
    batch_size: int = setting(
        0, "Images at a time, over all replicas. 0: 500 small ones, 64 large ones, 6 of ten crops.", low=0
    )
    replicas: int = setting(0, "Replicas, as in training.", low=0)
    report: str = setting("", "Folder to write tables and pictures of the mistakes to.")
    examples: str = setting("", "File, .csv or .parquet, of each example's five likeliest classes.")
    results: str = setting("", "CSV file to append a row with the result to.")


@dataclasses.dataclass(frozen=True)
class ImportedSection:
    """Data of a network with imported weights."""

    init_from: str = setting("", "Weights of --network: a file that resnet_tf.convert reads, or imagenet.")
    dataset: str = setting("", "Source of images, as in training.", choices=("", *DATASETS))
    tfds_name: str = setting("", "Name of the set, as in training.")
    classes: tuple[str, ...] = setting((), "Class names in the order of the weights' classes, as in training.")
    exif: str = exif_setting()
    image_size: int = setting(0, "Height and width of the network's input in pixels.", low=0)
    resize: int = setting(0, "Shorter side before the central crop in pixels. 0: that of the crop.", low=0)
    normalization: str = setting(
        "imagenet",
        "What the weights were trained with: imagenet (timm's and torchvision's too, to a level in 400), inception "
        "(127.5 in mean and deviation), caffe (BGR less its mean: keras.applications' ResNet50); channel and pixel: of "
        "the data's training split.",
        choices=("imagenet", "inception", "caffe", "channel", "pixel"),
    )


# Which flags what is scored uses, of those that not all use.
_SCORED_BY = {
    "run": {"weights", "shares", "views", "scales", "average", "replicas"},
    "model": set(),
    "network": {"views", "scales", "average", "replicas", *(f.name for f in dataclasses.fields(ImportedSection))},
}


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The evaluate command."""

    evaluation: EvaluationSection = EvaluationSection()
    imported: ImportedSection = ImportedSection()

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        section = self.evaluation
        scored = [name for name in _SCORED_BY if getattr(section, name)]
        if not scored:
            raise InputError("--run is not set: the folder of the run to evaluate (or say --model, or --network)")
        if len(scored) > 1:
            raise InputError(f"{' and '.join(f'--{name}' for name in scored)}: one thing is scored; unset the others")
        used, some = _SCORED_BY[scored[0]], set().union(*_SCORED_BY.values())
        for part in (section, self.imported):
            for field in dataclasses.fields(part):
                if field.name in some - used and getattr(part, field.name) != field.default:
                    raise InputError(f"--{field.name} is not used by --{scored[0]}")
        members = section.run.split(",")
        if section.shares and len(members) == 1:
            raise InputError("--shares is not used by a single run")
        if section.shares and len(section.shares) != len(members):
            raise InputError(f"--shares={_listed(section.shares)}: {len(section.shares)} for {len(members)} runs")
        if section.shares and not (min(section.shares) >= 0 and 0 < sum(section.shares) < float("inf")):
            raise InputError(f"--shares={_listed(section.shares)}: not numbers from 0 with a sum above 0")
        if "views" in used:
            _check_scales(section)
        if scored == ["network"]:
            for name in ("init_from", "dataset", "image_size"):
                if not getattr(self.imported, name):
                    raise InputError(f"--{name} is not set, which --network needs")


def _check_scales(section):
    """Refuse scales that cannot be, or are not used."""
    listed = _listed(section.scales)
    if section.views != "multi_scale":
        if section.scales != EvaluationSection().scales:
            raise InputError(f"--scales={listed} is not used by --views={section.views}")
        return
    if section.batch_size:
        raise InputError(f"--batch_size={section.batch_size} is not used by --views=multi_scale: sizes differ")
    if not section.scales or list(section.scales) != sorted(set(section.scales)) or section.scales[0] < 8:
        raise InputError(f"--scales={listed}: not rising numbers of at least 8 pixels")


def _listed(values):
    return ",".join(f"{value:g}" for value in values)


@dataclasses.dataclass(frozen=True)
class ComparisonSection:
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
    data_dir: str = setting("", "responses: where the data are now, if not where they were in training.")


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The compare command."""

    comparison: ComparisonSection = ComparisonSection()


@dataclasses.dataclass(frozen=True)
class ExportSection:
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
        "Precision of activations of a SavedModel: bfloat16 and float16 are for GPUs; on CPUs they are slower.",
        choices=("float32", "bfloat16", "float16"),
    )
    top_k: int = setting(5, "savedmodel: classes that an answer names, the likeliest first.", low=1)
    ten_crop: bool = setting(False, "savedmodel: a signature that averages over ten crops.")
    calibration_examples: int = setting(
        200, "int8: images of the training split from which the ranges of activations are taken.", low=1
    )
    data_dir: str = setting("", "int8: where these are, if not where they were in training.")
    licence: str = setting("", "Licence of the weights, for the model card.")
    intended_use: str = setting("", "What the model is for, in a line for the model card.")


_EXPORTED = {  # format: precisions of the weights that it has
    "savedmodel": {"float32", "bfloat16", "float16"},
    "tflite": {"float32", "float16", "int8"},
    "onnx": {"float32", "float16"},
    "keras": {"float32"},
}
_EXPORTED_BY = {"savedmodel": {"activations", "top_k", "ten_crop"}, "int8": {"calibration_examples", "data_dir"}}


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """The export command."""

    export: ExportSection = ExportSection()

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        section = self.export
        listed = ",".join(section.format)
        if not section.format or len(set(section.format)) < len(section.format) or set(section.format) - set(_EXPORTED):
            raise InputError(f"--format={listed}: not one or more of {', '.join(_EXPORTED)}, each once")
        for name in section.format:
            if section.precision not in _EXPORTED[name]:
                raise InputError(f"--precision={section.precision} is not for --format={name}")
        for condition, names in _EXPORTED_BY.items():
            if condition in (*section.format, section.precision):
                continue
            for field in dataclasses.fields(section):
                if field.name in names and getattr(section, field.name) != field.default:
                    flag = "precision" if condition == "int8" else "format"
                    raise InputError(f"--{field.name} is not used without --{flag}={condition}")


@dataclasses.dataclass(frozen=True)
class PredictionSection:
    """Prediction."""

    model: str = setting(
        "", "Exported model: a folder of versions, the folder of one, or a .tflite, .onnx or .keras file."
    )
    server: str = setting(
        "", "Instead: address of TensorFlow Serving. http://HOST:PORT: REST; grpc://HOST:PORT or HOST:PORT: gRPC."
    )
    model_name: str = setting("", "Name of the model on --server.")
    timeout: float = setting(60.0, "Seconds that an answer of --server may take.", low=0.001)
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


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """The predict command."""

    prediction: PredictionSection = PredictionSection()

    def __post_init__(self):
        """Refuse combinations that make no sense."""
        section = self.prediction
        if bool(section.model) == bool(section.server):
            problem = "are both set: unset one" if section.model else "are not set: say what classifies"
            raise InputError(f"--model and --server {problem}")
        if section.server and not section.model_name:
            raise InputError(f"--server={section.server} needs --model_name: the model's name there")
        for name in ("model_name", "timeout"):
            if section.model and getattr(section, name) != getattr(PredictionSection, name):
                raise InputError(f"--{name} is not used by --model")


@dataclasses.dataclass(frozen=True)
class ConversionSection:
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
class ConvertConfig:
    """The convert command."""

    conversion: ConversionSection = ConversionSection()


@dataclasses.dataclass(frozen=True)
class ListingSection:
    """Listing."""

    json: bool = setting(False, "Print everything in the JSON line, and no table.")
    diagram: tuple[str, ...] = setting((), "Draw these networks by block instead; NAME:timm for timm's graph.")
    out: str = setting("", "File of the drawing, .png or .svg. Unset: the networks' names.")


@dataclasses.dataclass(frozen=True)
class ModelsConfig:
    """The models command."""

    listing: ListingSection = ListingSection()


@dataclasses.dataclass(frozen=True)
class BenchmarkSection:
    """Benchmark."""

    peers: tuple[str, ...] = setting(
        ("keras_fit",),
        "Peers: keras_fit, keras_fit_our_layers, keras_applications, timm_eager, timm_compile, timm_compile_graph, "
        "timm_compile_max, one_replica (train); keras_applications (build); pillow, opencv, simplejpeg, torchvision "
        "(input); keras_applications, keras_predict, timm, timm_onnx (inference).",
    )
    data_dir: str = setting(
        "", "input, evaluate, inference: folder or tar archive of images, at any depth, or a folder of `prepare`."
    )
    peers_data_dir: str = setting("", "input: the images that peers read, if others, such as the originals.")
    model_dir: str = setting("", "inference: an exported model, instead of --model with weights as drawn.")
    batches: tuple[int, ...] = setting((1, 8, 32), "inference: batch sizes.")
    batch_size: int = setting(128, "Examples of a step over all replicas.", low=1)
    image_size: int = setting(32, "Height and width of the images in pixels.", low=8)
    steps: int = setting(
        10,
        "Steps of one measurement; input: rounds through the images; evaluate: batches; inference: calls.",
        low=1,
    )
    repeats: int = setting(5, "Measurements of each system in turn; the median is reported.", low=1)
    lock: str = setting(
        "",
        "train: file that benchmarks started side by side lock: they compile together and measure each alone.",
    )
    results: str = setting("", "CSV file to append a row for each system to.")


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The benchmark command."""

    model: ModelConfig = ModelConfig()
    device: DeviceConfig = DeviceConfig()
    benchmark: BenchmarkSection = BenchmarkSection()

    def __post_init__(self):
        """Refuse what no benchmark uses."""
        if self.model.init_from:
            raise InputError(f"--init_from={self.model.init_from} is not used by benchmarks: speed knows no weights")
        if self.model.bn == "frozen":
            raise InputError("--bn=frozen is not used by benchmarks")
        if self.model.freeze:
            raise InputError(f"--freeze={','.join(self.model.freeze)} is not used by benchmarks")
        if self.device.data_service:
            raise InputError("--data_service is not used by benchmarks")


@dataclasses.dataclass(frozen=True)
class PreparationSection:
    """Preparation."""

    dataset: str = setting("folder", "Source of images, as in training.", choices=("folder", "records", "tfds", "voc"))
    data_dir: str = setting("", "Folder or archive of the images.")
    tfds_name: str = setting("", "Name of the set in --data_dir, for --dataset=tfds.")
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels, as in training.")
    exif: str = exif_setting()
    out: str = setting("", "Folder to write; --dataset=records reads it.")
    shorter_side: int = setting(
        288, "Scale images down whose shorter side is longer, in pixels. 0: keep every image as it is.", low=0
    )
    quality: int = setting(90, "Quality of the JPEGs that are written.", low=1, high=100)
    shards: int = setting(0, "Files of each split. 0: one for some 200 MB of the source.", low=0)
    skip_bad_images: int = setting(0, "Leave out up to that many bad images, and name them in report.csv.", low=0)


@dataclasses.dataclass(frozen=True)
class PrepareConfig:
    """The prepare command."""

    preparation: PreparationSection = PreparationSection()


@dataclasses.dataclass(frozen=True)
class DataServerSection:
    """Data server."""

    port: int = setting(5050, "Port that trainings name; the next one is taken too.", low=1, high=65534)
    host: str = setting("localhost", "Name by which trainings reach this machine.")


@dataclasses.dataclass(frozen=True)
class DataServerConfig:
    """The data_server command."""

    server: DataServerSection = DataServerSection()


@dataclasses.dataclass(frozen=True)
class SweepSection:
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
class SweepConfig:
    """The sweep command."""

    sweep: SweepSection = SweepSection()


@dataclasses.dataclass(frozen=True)
class AnalysisSection:
    """Analysis."""

    out: str = setting("", "Picture to write, .png or .svg.")
    csv: str = setting("", "responses, gradients: file of the figures. Unset: beside --out, ending in .csv.")
    run: str = setting("", "activations, grad_cam: folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in evaluate.", choices=("raw", "ema", "best"))
    data_dir: str = setting(
        "", "responses: where the data are now, if not where they were in training; gradients: where they are."
    )
    examples: int = setting(
        0, "responses: test images, evenly out of the split. 0: all of a set in memory, 1,024 of others.", low=0
    )
    dataset: str = setting("digits", "gradients: source of images.", choices=SMALL_DATASETS)
    image_size: int = setting(32, "gradients: height and width of the images in pixels.", low=8)
    batch_size: int = setting(128, "gradients: training images in the batch.", low=2)
    seeds: int = setting(3, "gradients: initial weights and batches to average over.", low=1)
    zero_gamma: bool = setting(True, "gradients: show residual networks with --zero_gamma too.")
    channels: int = setting(8, "activations: the strongest channels of each stage.", low=1, high=64)
    class_name: str = setting("", "grad_cam: class to explain. Unset: the one predicted.")


ANALYSES = {  # kind of analysis: what it uses of its section
    "responses": {"out", "csv", "weights", "data_dir", "examples"},
    "gradients": {"out", "csv", "data_dir", "dataset", "image_size", "batch_size", "seeds", "zero_gamma"},
    "activations": {"out", "run", "weights", "channels"},
    "grad_cam": {"out", "run", "weights", "class_name"},
}


@dataclasses.dataclass(frozen=True)
class AnalyzeConfig:
    """The analyze command."""

    analysis: AnalysisSection = AnalysisSection()


def check_analysis(kind, analysis):
    """Refuse a kind that is not in `ANALYSES`, and settings that it does not use."""
    if kind not in ANALYSES:
        raise InputError(f"{kind or 'nothing'} to analyse: say {', '.join(ANALYSES)}")
    for field in dataclasses.fields(analysis):
        value = getattr(analysis, field.name)
        if field.name not in ANALYSES[kind] and value != field.default:
            raise InputError(f"--{field.name}={value} is not used by analyze {kind}")


@dataclasses.dataclass(frozen=True)
class FeaturesSection:
    """Features."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, ema or best, as in evaluate.", choices=("raw", "ema", "best"))
    splits: tuple[str, ...] = setting(("train", "test"), "Splits of its data.")
    data_dir: str = setting("", "Where the data are now, if not where they were in training.")
    out: str = setting("", "File to write, .parquet or .npz.")


@dataclasses.dataclass(frozen=True)
class FeaturesConfig:
    """The features command."""

    features: FeaturesSection = FeaturesSection()
