"""Settings of the benchmark command, and which of its kinds uses which."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import KIND, NEVER, UNSET, check_used, setting
from resnet_tf.config.sections import DeviceConfig, ModelConfig
from resnet_tf.errors import InputError

_STEPPED = ("train", "loop", "augment", "evaluate")  # kinds whose steps have a batch of the network's
_BUILT = (*_STEPPED, "inference")  # kinds whose network all that tells it apart describes


@dataclasses.dataclass(frozen=True)
class BenchmarkSection:
    """Benchmark."""

    peers: tuple[str, ...] = setting(
        ("keras_fit",),
        "Peers: keras_fit, keras_fit_our_layers, keras_applications, timm_eager, timm_compile, timm_compile_graph, "
        "timm_compile_max, one_replica (train); keras_applications (build); pillow, opencv, simplejpeg, torchvision "
        "(input); keras_applications, keras_predict, timm, timm_onnx (inference).",
        used_with={KIND: ("train", "build", "input", "inference")},
    )
    data_dir: str = setting(
        "", "Folder or tar archive of images, at any depth, or a folder of `prepare`.",
        used_with={KIND: ("input", "evaluate", "inference")},
    )  # fmt: skip
    peers_data_dir: str = setting(
        "", "The images that peers read, if others, such as the originals.", used_with={KIND: ("input",)}
    )
    model_dir: str = setting(
        "", "An exported model, instead of --model with weights as drawn.", used_with={KIND: ("inference",)}
    )
    batches: tuple[int, ...] = setting((1, 8, 32), "Batch sizes.", used_with={KIND: ("inference",)})
    batch_size: int = setting(128, "Examples of a step over all replicas.", low=1, used_with={KIND: _STEPPED})
    image_size: int = setting(
        32, "Height and width of the images in pixels.", low=8, used_with={KIND: (*_BUILT, "input"), "model_dir": UNSET}
    )
    steps: int = setting(
        10,
        "Steps of one measurement; input: rounds through the images; evaluate: batches; inference: calls.",
        low=1,
        used_with={KIND: (*_BUILT, "input")},
    )
    repeats: int = setting(5, "Measurements of each system in turn; the median is reported.", low=1)
    lock: str = setting(
        "", "File that benchmarks started side by side lock: they compile together and measure each alone.",
        used_with={KIND: ("train",)},
    )  # fmt: skip
    results: str = setting("", "CSV file to append a row for each system to.", used_with={KIND: (*_BUILT, "input")})


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The benchmark command."""

    command: ClassVar[str] = "benchmark"
    kinds: ClassVar[tuple[str, ...]] = ("train", "loop", "build", "input", "augment", "evaluate", "inference")
    used_with: ClassVar[dict] = {  # of the sections that trainings have too
        "model": {KIND: (*_BUILT, "build"), "model_dir": UNSET},
        **{name: {KIND: _BUILT, "model_dir": UNSET} for name in ("shortcut", "graph", "zero_gamma", "initializer")},
        "bn": {KIND: ("train", "loop")},
        "init_from": NEVER,  # speed knows no weights
        "freeze": NEVER,
        "precision": {KIND: _STEPPED},
        "replicas": {KIND: ("train", "loop", "evaluate")},
        "gpus": {KIND: ("train", "loop")},
        "steps_per_call": {KIND: ("loop",)},
    }

    model: ModelConfig = ModelConfig()
    device: DeviceConfig = DeviceConfig()
    benchmark: BenchmarkSection = BenchmarkSection()

    def __post_init__(self):
        """Refuse what no benchmark uses."""
        check_used(self)
        if self.model.bn == "frozen":
            raise InputError("--bn=frozen is not used by benchmarks")
