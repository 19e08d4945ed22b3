"""The sections of a training run: frozen dataclasses, one flag for each field."""

import dataclasses
import re
from typing import NamedTuple

from resnet_tf.config.fields import SET, UNSET, exif_setting, setting

SMALL_DATASETS = ("cifar10", "cifar100", "digits", "synthetic")
_ENCODED = ("folder", "records", "tfds", "voc")
DATASETS = (*SMALL_DATASETS, *_ENCODED)
GIVEN = "given"  # --dataset of a run whose data were given from Python; no command can read them again
_DECODING = ("random_resized_crop", "scale_jitter", "resize_crop")  # views that decode each image anew

# With what several flags are used.
_DECODED = {"view": _DECODING}
_BOXED = {"view": ("random_resized_crop",)}
_STEPPED = {"schedule": ("steps",)}
_TAUGHT = {"teacher": SET}

# Networks that had timm's graph before there was --graph.
_TWO_GRAPHS = re.compile(r"(cifar_resnet\d+|resnet18|resnet34)_v2")


class Precision(NamedTuple):
    """What a --precision means; weights and logits stay float32 in all of them.

    Attributes:
        policy: Keras' dtype policy of the layers.
        bits: of an activation.
        tf32: whether products of float32 keep 10 bits on GPUs.
        is_scaled: whether training needs a loss scale.
    """

    policy: str
    bits: int
    tf32: bool = False
    is_scaled: bool = False


PRECISIONS = {
    "float32": Precision("float32", 32),
    "tf32": Precision("float32", 32, tf32=True),
    "bfloat16": Precision("mixed_bfloat16", 16),
    "float16": Precision("mixed_float16", 16, is_scaled=True),
}


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Model."""

    model: str = setting("cifar_resnet20_v1", "Name of the network; python -m resnet_tf.models lists them.")
    shortcut: str = setting(
        "",
        "Shortcuts where shapes change: A pads with zeros, B projects, C projects everywhere. Unset: the row's own.",
        choices=("", "A", "B", "C"),
    )
    graph: str = setting(
        "",
        "Of a v2 net for CIFAR or of basic blocks: paper (He et al. 2016); timm, for its weights: the first shortcut "
        "carries the stem before its activation, and bottlenecks have the stride in the 3x3. Unset: paper.",
        choices=("", "paper", "timm"),
        earlier=lambda run: "timm" if _TWO_GRAPHS.fullmatch(run.get("model", "")) else "",
    )
    zero_gamma: bool = setting(False, "Start every residual branch at zero (Bag of Tricks, section 3.1).")
    initializer: str = setting(
        "he",
        "he: Gaussian, fan-out (He et al. 2015); xavier: uniform in +-sqrt(6 / (fan-in + fan-out)), which are channels "
        "times the kernel's area (Glorot 2010); the formula in Bag of Tricks has channels alone.",
        choices=("he", "xavier"),
    )
    bn: str = setting(
        "local",
        "Batch normalisation over each replica's part of the batch (moving statistics are averaged over replicas), "
        "over the global batch, or by --init_from's moving statistics, which stay as they are with gamma and beta.",
        choices=("local", "sync", "frozen"),
    )
    init_from: str = setting(
        "",
        "Weights to start from: a run, an exported model, or MODEL:FILE as in --teacher; the head follows the names of "
        "the classes, and starts anew where they are others.",
    )
    freeze: tuple[str, ...] = setting(
        (),
        "Parts that keep --init_from's weights and statistics: stem, stage1 to stage4, as variables are named.",
        used_with={"init_from": SET},
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data."""

    dataset: str = setting("cifar10", "Source of images; README, section Data.", choices=DATASETS)
    data_dir: str = setting(
        "", "Folder or archive of the images.", used_with={"dataset": ("cifar10", "cifar100", *_ENCODED)},
        changes_result=False,
    )  # fmt: skip
    tfds_name: str = setting(
        "", "Name of the set in --data_dir: imagenet2012, imagenette/320px-v2.", used_with={"dataset": ("tfds",)}
    )
    classes: tuple[str, ...] = setting(
        (), "Class names in the order of their labels. Unset: the source's own order.", used_with={"dataset": _ENCODED}
    )
    validation_examples: int = setting(
        0,
        "Hold that many training examples out and evaluate on them, not on the test split.",
        low=0,
        used_with={"dataset": DATASETS},
    )
    validation_sampling: str = setting(
        "stratified",
        "How --validation_examples are chosen, alike for every seed: stratified, of each class its share; random, "
        "regardless of class, as in runs that were recorded before there was this flag.",
        choices=("stratified", "random"),
        earlier="random",
        changes_result=False,  # of a run without such examples; of one with them the data's checksum sees the splits
    )
    skip_bad_images: int = setting(
        0, "Leave out up to that many images that cannot be decoded, and name them.", low=0,
        used_with={"dataset": _ENCODED} | _DECODED,
    )  # fmt: skip
    exif: str = exif_setting()
    image_size: int = setting(32, "Height and width of the network's input in pixels.", low=8)
    eval_size: int = setting(
        0, "Height and width of the central crop of evaluation and export, where it is not --image_size.", low=0
    )
    resize: int = setting(
        0, "Shorter side to which evaluation scales an image before its central crop. 0: that of the crop.", low=0
    )
    normalization: str = setting(
        "channel",
        "channel: mean and standard deviation of each channel; pixel: the mean image (He 2015); imagenet: the "
        "constants of Bag of Tricks; inception: 127.5 for both, which makes [-1, 1] of [0, 255].",
        choices=("channel", "pixel", "imagenet", "inception"),
    )


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Training views."""

    view: str = setting(
        "pad_crop",
        "pad_crop: a small set, held on the device (CIFAR); the others decode each image anew: random_resized_crop "
        "(Bag of Tricks), scale_jitter (He 2015), resize_crop.",
        choices=("pad_crop", *_DECODING),
    )
    pad: int = setting(4, "Pixels added on each side before the crop.", low=0, used_with={"view": ("pad_crop",)})
    area: tuple[float, ...] = setting((0.08, 1.0), "Smallest and largest part of the image.", used_with=_BOXED)
    aspect: tuple[float, ...] = setting((0.75, 4 / 3), "Smallest and largest width over height.", used_with=_BOXED)
    scale: tuple[int, ...] = setting(
        (256, 480), "Smallest and largest shorter side in pixels; of resize_crop, the one.",
        used_with={"view": ("scale_jitter", "resize_crop")},
    )  # fmt: skip
    mirror: bool = setting(True, "Mirror training images with probability 0.5.")
    repeats: int = setting(
        1, "Views of an image in a batch, in as many fewer images an epoch (Hoffer 2020).", low=1, used_with=_DECODED
    )
    color_jitter: tuple[float, ...] = setting(
        (), "Ranges of the factors of brightness, contrast, saturation, hue; Bag of Tricks: 0.4,0,0.4,0.4."
    )
    randaugment: tuple[float, ...] = setting(
        (), "RandAugment: operations, their magnitude of 10 and perhaps its deviation; timm's rand-m6-mstd0.5: 2,6,0.5."
    )
    lighting: float = setting(0.0, "Deviation of the PCA noise's coefficients (AlexNet, Bag of Tricks: 0.1).", low=0.0)
    erasing: float = setting(0.0, "Probability that a random rectangle is erased (Zhong 2017).", low=0.0, high=1.0)
    erasing_area: tuple[float, ...] = setting(
        (0.02, 0.4), "Smallest and largest part of the image that is erased (Zhong 2017; torchvision: 0.02,0.33).",
        used_with={"erasing": SET},
    )  # fmt: skip
    erasing_fill: str = setting(
        "mean",
        "What is erased becomes the mean colour, 0 after normalisation (Zhong 2017, RE-M), or black, as where erasing "
        "comes before normalisation.",
        choices=("mean", "black"),
        used_with={"erasing": SET},
    )
    mixup: float = setting(0.0, "Alpha of mixup's Beta distribution (Zhang 2017; Bag of Tricks: 0.2).", low=0.0)
    cutmix: float = setting(0.0, "Alpha of CutMix's Beta distribution (Yun 2019: 1.0).", low=0.0)
    threads: int = setting(
        0, "Threads that decode images. 0: one for each core.", low=0, used_with=_DECODED, changes_result=False
    )
    hold_images: bool = setting(
        False,
        "Hold the training images, all of one size, decoded on the devices and cut views there, not on the host.",
        used_with=_DECODED,
        changes_result=False,  # but for rounding, and for the edges of the parts that a JPEG decoder cuts out
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimization."""

    train_steps: int = setting(0, "Length of the training in steps.", low=0)
    train_epochs: float = setting(0.0, "Length of the training in epochs, where --train_steps is 0.", low=0.0)
    batch_size: int = setting(128, "Global batch: examples of one step over all replicas.", low=1)
    accumulate: int = setting(
        1, "Work through each replica's batch in so many parts, one after another, to save memory.", low=1
    )
    optimizer: str = setting(
        "sgd",
        "sgd, and nesterov: with momentum; adam: L2 in the gradient; adamw, lamb: decoupled decay.",
        choices=("sgd", "nesterov", "adam", "adamw", "lamb"),
    )
    momentum: float = setting(0.9, "Momentum of SGD; beta 1 of Adam and LAMB.", low=0.0, high=1.0)
    weight_decay: float = setting(
        1e-4, "Lambda of lambda/2 |w|^2, added to the gradient; for adamw and lamb, times the rate, off the weight.",
        low=0.0,
    )  # fmt: skip
    decay: str = setting(
        "kernels",
        "What decays: kernels (of convolutions and dense layers), all (also biases, gamma, beta), none.",
        choices=("kernels", "all", "none"),
    )
    layer_decay: float = setting(
        1.0, "The rate of each stage over that of the next; the last has so much of the classifier's. 1: all alike.",
        low=0.0, high=1.0,
    )  # fmt: skip
    clip: float = setting(0.0, "Largest norm of the gradient, after the sum over replicas. 0: no limit.", low=0.0)
    ema: float = setting(
        0.0, "Decay of a moving average of all weights, evaluated beside them (0.9999). 0: none.", low=0.0, high=1.0
    )
    precise_bn: int = setting(
        0, "Batches from which BN's statistics are computed anew at the end, as He et al. did for release. 0: none.",
        low=0, used_with={"bn": ("local", "sync")},
    )  # fmt: skip
    seed: int = setting(0, "Seed of initial weights, order of examples and augmentation.", low=0)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate."""

    lr: float = setting(0.1, "Learning rate.", low=0.0)
    linear_scaling: bool = setting(False, "Multiply --lr by --batch_size / 256 (Goyal 2017; Bag of Tricks 3.1).")
    schedule: str = setting(
        "steps",
        "steps: multiplied by --lr_factor at --lr_steps or --lr_epochs; cosine: to 0 at the end (Bag of Tricks 5.1); "
        "poly: likewise, by (1 - t)^0.9 (DeepLab); plateau: multiplied when the error stays; constant.",
        choices=("steps", "cosine", "poly", "plateau", "constant"),
    )
    lr_steps: tuple[int, ...] = setting(
        (), "Steps after which the rate is multiplied by --lr_factor.", used_with=_STEPPED
    )
    lr_epochs: tuple[float, ...] = setting((), "The same in epochs.", used_with=_STEPPED)
    lr_factor: float = setting(
        0.1, "Factor of the rate at each fall.", low=0.0, used_with={"schedule": ("steps", "plateau")}
    )
    patience: int = setting(
        5,
        "Evaluations without a lower error until the rate falls; of the validation split where one is held out, else "
        "of the training batches since the evaluation before.",
        low=1,
        used_with={"schedule": ("plateau",)},
    )
    warmup_epochs: float = setting(0.0, "Epochs over which the rate rises linearly from 0.", low=0.0)
    warmup_lr: float = setting(
        0.0, "Rate until the training error has fallen below --warmup_until_error (ResNet-110: 0.01).", low=0.0
    )
    warmup_until_error: float = setting(
        0.0, "Top-1 error, a running mean over some 50 steps, that ends the warm-up (0.8).", low=0.0, high=1.0
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Loss."""

    loss: str = setting(
        "softmax",
        "softmax cross-entropy; bce: a binary one for each class, targets above 0.2 taken as 1 (Wightman 2021).",
        choices=("softmax", "bce"),
    )
    label_smoothing: float = setting(
        0.0, "Part of the target that is spread over all classes (Szegedy 2016; Bag of Tricks: 0.1).", low=0.0,
        high=0.9, used_with={"loss": ("softmax",)},
    )  # fmt: skip
    teacher: str = setting(
        "",
        "Network to distil: a run, an exported model, or MODEL:FILE, a network of the table and its weights "
        "(resnet152_v1d:imagenet downloads them).",
        used_with={"loss": ("softmax",)},  # it teaches one distribution over the classes
    )
    temperature: float = setting(20.0, "Temperature of distillation (Bag of Tricks 5.3).", low=0.1, used_with=_TAUGHT)
    distillation: float = setting(1.0, "Weight of the teacher's loss beside the labels'.", low=0.0, used_with=_TAUGHT)


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Devices."""

    precision: str = setting(
        "float32",
        "Precision of activations; weights and logits stay float32. tf32: float32 whose products keep 10 bits on GPUs.",
        choices=tuple(PRECISIONS),
    )
    replicas: int = setting(
        0, "Replicas of this machine: GPUs, or parts of the CPU where there is none. 0: every GPU, or one.", low=0
    )
    gpus: tuple[int, ...] = setting((), "Numbers of the GPUs to use. Unset: the first ones.", changes_result=False)
    steps_per_call: int = setting(
        0,
        "Most steps of one call into the compiled program. 0: 1,000 on a GPU, 10 on a CPU.",
        low=0,
        changes_result=False,
    )
    data_service: tuple[str, ...] = setting(
        (),
        "Addresses (host:port) of resnet_tf.data_server processes that decode for this one.",
        used_with=_DECODED | {"hold_images": UNSET},  # else nothing is decoded after the start
        changes_result=False,
    )


@dataclasses.dataclass(frozen=True)
class RecordConfig:
    """Record."""

    out: str = setting("", "Folder of the run. Unset: runs/ and a name made of the flags.", changes_result=False)
    log_every: int = setting(100, "Steps between rows of metrics.csv.", low=1, changes_result=False)
    eval_every: int = setting(0, "Steps between evaluations. 0: at the end only.", low=0, changes_result=False)
    checkpoint_every: int = setting(
        2000, "Steps between checkpoints; one is written at the end too.", low=1, changes_result=False
    )
    results: str = setting("", "CSV file to append a row with the result to.", changes_result=False)
    histograms: bool = setting(False, "Write histograms of all weights at each evaluation.", changes_result=False)
    profile_steps: tuple[int, ...] = setting(
        (), "First and last step of a profiler trace for TensorBoard.", changes_result=False
    )
    debug_step: int = setting(
        0, "Run that step of --out once more, layer by layer, say where numbers fail, and end.", low=0,
        changes_result=False,
    )  # fmt: skip
    smoke: bool = setting(
        False, "Shrink the recipe to a minute on a laptop: smallest network of its kind, few steps, small images; "
        "synthetic ones where --data_dir is unset.", changes_result=False,  # as the run is recorded it is not set
    )  # fmt: skip
