"""Settings of the commands that are not a training."""

import dataclasses

from resnet_tf.config.fields import setting
from resnet_tf.config.run import DeviceConfig, ModelConfig, RecordConfig, TrainConfig, check_data, check_views
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

    run: str = setting("", "Folder of the run.")
    split: str = setting("test", "Split of its data.", choices=("test", "validation", "train"))
    weights: str = setting("raw", "raw, or ema: the moving average of a run with --ema.", choices=("raw", "ema"))
    data_dir: str = setting("", "Where the data are now, if not where they were in training.")
    views: str = setting(
        "center",
        "center: one central crop; ten_crop: corners, centre, and these mirrored; multi_scale: the whole image at "
        "each of --scales, and mirrored (He 2015).",
        choices=("center", "ten_crop", "multi_scale"),
    )
    scales: tuple[int, ...] = setting((224, 256, 384, 480, 640), "multi_scale: shorter sides in pixels.")
    average: str = setting(
        "softmax", "Averaged over views: softmax (He 2015) or logits.", choices=("softmax", "logits")
    )
    batch_size: int = setting(0, "Images at a time, over all replicas. 0: 500 small ones, 64 large ones.", low=0)
    replicas: int = setting(0, "Replicas, as in training.", low=0)
    results: str = setting("", "CSV file to append a row with the result to.")


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """The evaluate command."""

    evaluation: EvaluationSection = EvaluationSection()


@dataclasses.dataclass(frozen=True)
class ComparisonSection:
    """Comparison."""

    out: str = setting("", "Folder to write the tables, the curves and the report to.")
    title: str = setting("", "Title of the report. Unset: how many runs of what.")
    price_per_hour: float = setting(
        0.0, "Price of an hour of one GPU, or of the machine where it has none, in any currency. 0: no prices.", low=0.0
    )


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """The compare command."""

    comparison: ComparisonSection = ComparisonSection()


@dataclasses.dataclass(frozen=True)
class ExportSection:
    """Export."""

    run: str = setting("", "Folder of the run.")
    weights: str = setting("raw", "raw, or ema: the moving average of a run with --ema.", choices=("raw", "ema"))
    out: str = setting("", "Folder of the SavedModel, which must not exist yet.")


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """The export command."""

    export: ExportSection = ExportSection()


@dataclasses.dataclass(frozen=True)
class PredictionSection:
    """Prediction."""

    model: str = setting("", "Folder of an exported model.")


@dataclasses.dataclass(frozen=True)
class PredictConfig:
    """The predict command."""

    prediction: PredictionSection = PredictionSection()


@dataclasses.dataclass(frozen=True)
class ConversionSection:
    """Conversion."""

    model: str = setting("", "Name of the network.")
    source: str = setting("", "Weights: .safetensors or .pth of timm or torchvision, .h5 of Keras, or ours.")
    out: str = setting("", "File to write: .weights.h5 (ours) or .safetensors (timm's names).")
    num_classes: int = setting(0, "Classes of the weights. 0: the paper's.", low=0)
    shortcut: str = setting("", "Shortcut, as in training.", choices=("", "A", "B", "C"))


@dataclasses.dataclass(frozen=True)
class ConvertConfig:
    """The convert command."""

    conversion: ConversionSection = ConversionSection()


@dataclasses.dataclass(frozen=True)
class ListingSection:
    """Listing."""

    json: bool = setting(False, "Print everything in the JSON line, and no table.")
    diagram: str = setting("", "Draw that network by block instead.")
    out: str = setting("", "File of the drawing, .png or .svg. Unset: the network's name.")


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
        "timm_compile_max (train); keras_applications (build); pillow, opencv, simplejpeg, torchvision (input).",
    )
    data_dir: str = setting("", "input: folder or tar archive of images, at any depth, or a folder of `prepare`.")
    peers_data_dir: str = setting("", "input: the images that peers read, if others, such as the originals.")
    batch_size: int = setting(128, "Examples of a step over all replicas.", low=1)
    image_size: int = setting(32, "Height and width of the images in pixels.", low=8)
    steps: int = setting(10, "Steps of one measurement; input: rounds through the images.", low=1)
    repeats: int = setting(5, "Measurements of each system in turn; the median is reported.", low=1)
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
        if self.device.data_service:
            raise InputError("--data_service is not used by benchmarks")


@dataclasses.dataclass(frozen=True)
class PreparationSection:
    """Preparation."""

    dataset: str = setting("folder", "Source of images, as in training.", choices=("folder", "records", "tfds", "voc"))
    data_dir: str = setting("", "Folder or archive of the images.")
    tfds_name: str = setting("", "Name of the set in --data_dir, for --dataset=tfds.")
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels, as in training.")
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
