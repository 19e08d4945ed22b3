"""The settings of the benchmark command, and which kinds of benchmark use each."""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import KIND, NEVER, UNSET, check_used, setting
from resnet_tf.config.sections import DeviceConfig, ModelConfig
from resnet_tf.errors import InputError

_STEPPED = ("train", "loop", "augment", "evaluate")  # kinds that run steps of --batch_size
_BUILT = (*_STEPPED, "inference")  # kinds that build the network of the model flags


@dataclasses.dataclass(frozen=True)
class BenchmarkSection:
    """Benchmark."""

    peers: tuple[str, ...] = setting(
        ("keras_fit",),
        "Systems to compare with: keras_fit, keras_fit_our_layers, keras_applications, timm_eager, timm_compile, "
        "timm_compile_graph, timm_compile_max, one_replica (train); keras_applications (build); pillow, opencv, "
        "simplejpeg, torchvision (input); keras_applications, keras_predict, timm, timm_onnx, timm_compile, "
        "timm_compile_graph, timm_compile_max (inference).",
        used_with={KIND: ("train", "build", "input", "inference")},
    )
    data_dir: str = setting(
        "", "Folder or tar archive of images, at any depth, or a folder that `prepare` wrote.",
        used_with={KIND: ("input", "evaluate", "inference", "serving")},
    )  # fmt: skip
    peers_data_dir: str = setting(
        "", "Images for the peers, such as the originals of prepared ones. Unset: --data_dir.",
        used_with={KIND: ("input",)},
    )  # fmt: skip
    model_dir: str = setting(
        "",
        "Exported model. Unset: --model with random weights; serving needs one.",
        used_with={KIND: ("inference", "serving")},
    )
    clients: tuple[int, ...] = setting(
        (1, 8, 32), "Numbers of clients that send requests at the same time.", used_with={KIND: ("serving",)}
    )
    formats: tuple[str, ...] = setting(
        (),
        "Formats of ours: savedmodel, savedmodel_frozen, savedmodel_pixels, savedmodel_xla, savedmodel_xla_pixels, "
        "tflite, onnx, onnx_int8, onnx_openvino, onnx_int8_openvino, keras, decoding. Unset: all that the model has "
        "but xla, int8, openvino and decoding.",
        used_with={KIND: ("inference",)},
    )
    activations: str = setting(
        "float32", "Precision of activations, of the peers of PyTorch too; other than float32 for SavedModels alone.",
        choices=("float32", "bfloat16", "float16"), used_with={KIND: ("inference",), "model_dir": UNSET},
    )  # fmt: skip
    batches: tuple[int, ...] = setting((1, 8, 32), "Batch sizes.", used_with={KIND: ("inference",)})
    batch_size: int = setting(128, "Examples of a step over all replicas.", low=1, used_with={KIND: _STEPPED})
    image_size: int = setting(
        32, "Height and width of the images in pixels.", low=8, used_with={KIND: (*_BUILT, "input"), "model_dir": UNSET}
    )
    steps: int = setting(
        10,
        "Length of a measurement in steps; input: passes over the images; evaluate: batches; inference: calls; "
        "serving: requests of each client.",
        low=1,
        used_with={KIND: (*_BUILT, "input", "serving")},
    )
    repeats: int = setting(
        5,
        "Measurements of each system, in turn; the median is reported.",
        low=1,
        used_with={KIND: (*_BUILT, "build", "input")},
    )
    lock: str = setting(
        "", "Lock file for benchmarks that run at the same time: they compile together but measure alone.",
        used_with={KIND: ("train",)},
    )  # fmt: skip
    results: str = setting("", "CSV file to append a row for each system to.", used_with={KIND: (*_BUILT, "input")})


@dataclasses.dataclass(frozen=True)
class BenchmarkConfig:
    """The configuration of the benchmark command."""

    command: ClassVar[str] = "benchmark"
    kinds: ClassVar[tuple[str, ...]] = (
        "train", "loop", "build", "input", "augment", "evaluate", "inference", "serving",
    )  # fmt: skip
    used_with: ClassVar[dict] = {  # rules for flags of the sections shared with trainings
        "model": {KIND: (*_BUILT, "build"), "model_dir": UNSET},
        **{
            name: {KIND: _BUILT, "model_dir": UNSET}
            for name in ("shortcut", "graph", "zero_gamma", "initializer", "drop_path")
        },
        "bn": {KIND: ("train", "loop")},
        "init_from": NEVER,  # speed does not depend on the weights
        "freeze": NEVER,
        "precision": {KIND: _STEPPED},
        "replicas": {KIND: ("train", "loop", "evaluate")},
        "gpus": {KIND: ("train", "loop")},
        "deterministic": {KIND: ("train", "loop")},
        "steps_per_call": {KIND: ("loop",)},
    }

    model: ModelConfig = ModelConfig()
    device: DeviceConfig = DeviceConfig()
    benchmark: BenchmarkSection = BenchmarkSection()

    def __post_init__(self):
        """Refuse flags and values that no benchmark uses."""
        check_used(self)
        if self.model.bn == "frozen":
            raise InputError("--bn=frozen is not used by benchmarks")
