"""The sections of a training configuration: frozen dataclasses with one flag for each field."""

import dataclasses
import re

from resnet_tf.config.fields import SET, UNSET, setting
from resnet_tf.config.precision import PRECISIONS
from resnet_tf.config.shared import (
    color_jitter_setting,
    exif_setting,
    interpolation_setting,
    lighting_setting,
    threads_setting,
)

SMALL_DATASETS = ("cifar10", "cifar100", "digits", "synthetic")
AUTO = "auto"  # the value of --init_from that asks for published weights where they can be had
_ENCODED = ("folder", "records", "tfds", "voc")
DATASETS = (*SMALL_DATASETS, *_ENCODED)
_DECODING = ("random_resized_crop", "scale_jitter", "resize_crop")  # views that decode every image in every epoch

_BEARING_NOISE = ("bootstrap_hard", "bootstrap_soft", "gce", "sce")

# Values of `used_with` that several flags share.
_DECODED = {"view": _DECODING}
_BOXED = {"view": ("random_resized_crop",)}
_STEPPED = {"schedule": ("steps",)}
_TAUGHT = {"teacher": SET}
_FILED = {"dataset": ("folder", "records")}

# Networks that used timm's graph before --graph existed.
_TWO_GRAPHS = re.compile(r"(cifar_resnet\d+|resnet18|resnet34)_v2")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Model."""

    model: str = setting("cifar_resnet20_v1", "Name of the network; python -m resnet_tf.models lists them.")
    shortcut: str = setting(
        "",
        "Shortcuts where shapes change. A: pad with zeros; B: project; C: project everywhere. Unset: the network's.",
        choices=("", "A", "B", "C"),
    )
    graph: str = setting(
        "",
        "Graph of v2 networks for CIFAR or with basic blocks. paper: He et al. 2016; timm: for timm's weights, where "
        "the first shortcut skips the stem's activation and bottlenecks have the stride in the 3x3. Unset: paper.",
        choices=("", "paper", "timm"),
        earlier=lambda run: "timm" if _TWO_GRAPHS.fullmatch(run.get("model", "")) else "",
    )
    zero_gamma: bool = setting(False, "Start every residual branch at zero (Bag of Tricks, section 3.1).")
    initializer: str = setting(
        "he",
        "he: Gaussian, fan-out (He et al. 2015); he_fan_in: the same, fan-in; xavier: uniform in "
        "+-sqrt(6 / (fan-in + fan-out)), where fans are channels times kernel area (Glorot 2010), not channels alone "
        "as in the formula of Bag of Tricks.",
        choices=("he", "he_fan_in", "xavier"),
    )
    drop_path: float = setting(
        0.0,
        "Stochastic depth: probability that training drops the branch of the last block, for each image anew; that of "
        "block l of L is l / L of it (Huang 2016).",
        low=0.0, high=0.9,
    )  # fmt: skip
    bn: str = setting(
        "local",
        "Batch normalisation. local: statistics of each replica's batch, moving statistics averaged over replicas; "
        "sync: statistics of the global batch; frozen: gamma, beta and moving statistics of --init_from, unchanged.",
        choices=("local", "sync", "frozen"),
    )
    init_from: str = setting(
        "",
        "Initial weights: a run; an exported model; a published tag; a folder of config.json and model.safetensors; or "
        "MODEL:FILE as in --teacher. auto: published weights of --model where they can be had, else none. The "
        "classifier is copied by class name, or starts anew if the classes differ.",
    )
    freeze: tuple[str, ...] = setting(
        (),
        "Parts that keep the weights and statistics of --init_from: stem, stage1 to stage4.",
        used_with={"init_from": SET},
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data."""

    dataset: str = setting("cifar10", "Source of the images; see docs/data.md.", choices=DATASETS)
    data_dir: str = setting(
        "", "Folder or archive of the images.", used_with={"dataset": ("cifar10", "cifar100", *_ENCODED)},
        changes_result=False,
    )  # fmt: skip
    tfds_name: str = setting(
        "", "TFDS name of the data set in --data_dir, such as imagenet2012 or imagenette/320px-v2.",
        used_with={"dataset": ("tfds",)},
    )  # fmt: skip
    classes: tuple[str, ...] = setting(
        (), "Class names in the order of their labels; other classes are left out. Unset: all, in the source's order.",
        used_with={"dataset": _ENCODED},
    )  # fmt: skip
    labels: str = setting(
        "", "CSV file of labels, and optionally splits, of the images in --data_dir (docs/photos.md). FILE:COLUMN: "
        "other labels of its training images, such as noisy ones (docs/noisy_labels.md).",
        used_with={"dataset": ("folder",)}, changes_result=False,
    )  # fmt: skip
    val_is: str = setting(
        "validation",
        "Meaning of a folder val, valid, validation or dev where there is no test. validation: the best weights are "
        "chosen on it; test: it is only scored, as in runs recorded before this flag.",
        choices=("validation", "test"),
        used_with=_FILED,
        earlier=lambda run: "test" if run.get("dataset") in _FILED["dataset"] else "validation",
        changes_result=False,  # the checksum of the data covers the names of the splits
    )
    validation_share: float = setting(
        0.0,
        "Share of the training images of each class to hold out for validation, if the data have no validation split.",
        low=0.0, high=0.9, used_with={"dataset": _ENCODED},
    )  # fmt: skip
    test_share: float = setting(
        0.0, "Share of the training images of each class to hold out as the test split, if the data have none.",
        low=0.0, high=0.9, used_with={"dataset": _ENCODED},
    )  # fmt: skip
    split_seed: int = setting(0, "Seed by which the shares are drawn.", low=0, used_with={"dataset": _ENCODED})
    sampling: str = setting(
        "natural",
        "Training images of an epoch. natural: each once; balanced: each class as often as the largest one, by "
        "repeating images of the others.",
        choices=("natural", "balanced"),
    )
    validation_examples: int = setting(
        0,
        "Training examples to hold out; training evaluates on them instead of the test split.",
        low=0,
        used_with={"dataset": DATASETS},
    )
    validation_sampling: str = setting(
        "stratified",
        "How --validation_examples are drawn, the same for every seed. stratified: in proportion to the classes; "
        "random: regardless of class, as runs recorded before this flag do.",
        choices=("stratified", "random"),
        earlier="random",
        changes_result=False,  # the checksum of the data covers the held-out examples
    )
    fold: str = setting(
        "", "I/N: hold out part I of N of the training images, such as 1/5, for cross-validation; the parts do not "
        "overlap.",
        used_with={"dataset": DATASETS, "validation_examples": UNSET},
        changes_result=False,  # the checksum of the data covers the held-out examples
    )  # fmt: skip
    skip_bad_images: int = setting(
        0, "Most images that may be skipped because they cannot be decoded; skipped ones are listed.", low=0,
        used_with={"dataset": _ENCODED} | _DECODED,
    )  # fmt: skip
    exif: str = exif_setting()
    image_size: int = setting(32, "Height and width of the network's input in pixels.", low=8)
    eval_size: int = setting(0, "Side in pixels of the central crop in evaluation and export. 0: --image_size.", low=0)
    resize: int = setting(
        0, "Shorter image side in pixels before the central crop of evaluation. 0: the side of the crop.", low=0
    )
    interpolation: str = interpolation_setting(_DECODED)
    normalization: str = setting(
        "channel",
        "channel: mean and standard deviation of each channel; pixel: the mean image (He 2015); imagenet: the "
        "constants of Bag of Tricks; inception: mean and deviation 127.5, which map [0, 255] to [-1, 1].",
        choices=("channel", "pixel", "imagenet", "inception"),
    )


@dataclasses.dataclass(frozen=True)
class ViewConfig:
    """Training views."""

    view: str = setting(
        "pad_crop",
        "Crop of a training image. pad_crop: for small images held on the device (CIFAR); the others decode images in "
        "every epoch: random_resized_crop (Bag of Tricks), scale_jitter (He 2015), resize_crop.",
        choices=("pad_crop", *_DECODING),
    )
    pad: int = setting(4, "Pixels added on each side before the crop.", low=0, used_with={"view": ("pad_crop",)})
    area: tuple[float, ...] = setting((0.08, 1.0), "Smallest and largest fraction of the image.", used_with=_BOXED)
    aspect: tuple[float, ...] = setting((0.75, 4 / 3), "Smallest and largest width over height.", used_with=_BOXED)
    scale: tuple[int, ...] = setting(
        (256, 480), "Smallest and largest shorter side in pixels; one number for resize_crop.",
        used_with={"view": ("scale_jitter", "resize_crop")},
    )  # fmt: skip
    mirror: bool = setting(True, "Mirror training images with probability 0.5.")
    mirroring: str = setting(
        "random",
        "Which images --mirror mirrors. random: each view with probability 0.5; alternate: each image in every other "
        "epoch, half of the images in the first one (Jordan 2024).",
        choices=("random", "alternate"),
        used_with={"mirror": (True,)},
    )
    progressive: tuple[int, ...] = setting(
        (),
        "Sides in pixels of training views before --image_size, for equal parts of the training: 96,112 trains a third "
        "of the epochs at each of 96, 112 and --image_size (fastai).",
        used_with=_DECODED,
    )
    repeats: int = setting(
        1, "Views of each image in a batch; an epoch has as many times fewer images (Hoffer 2020).", low=1,
        used_with=_DECODED,
    )  # fmt: skip
    color_jitter: tuple[float, ...] = color_jitter_setting()
    randaugment: tuple[float, ...] = setting(
        (), "RandAugment: operations, magnitude in 0 to 10, and optionally its deviation (timm's rand-m6-mstd0.5: "
        "2,6,0.5).",
    )  # fmt: skip
    trivialaugment: bool = setting(
        False, "TrivialAugment Wide: one operation of random strength for each image (Müller 2021).",
        used_with={"randaugment": UNSET},
    )  # fmt: skip
    lighting: float = lighting_setting()
    erasing: float = setting(0.0, "Probability of erasing a random rectangle (Zhong 2017).", low=0.0, high=1.0)
    erasing_area: tuple[float, ...] = setting(
        (0.02, 0.4), "Smallest and largest erased fraction of the image (Zhong 2017; torchvision: 0.02,0.33).",
        used_with={"erasing": SET},
    )  # fmt: skip
    erasing_fill: str = setting(
        "mean",
        "Colour of erased pixels. mean: 0 after normalisation (Zhong 2017, RE-M); black: 0 before normalisation.",
        choices=("mean", "black"),
        used_with={"erasing": SET},
    )
    mixup: float = setting(0.0, "Alpha of mixup's Beta distribution (Zhang 2017; Bag of Tricks: 0.2).", low=0.0)
    cutmix: float = setting(0.0, "Alpha of CutMix's Beta distribution (Yun 2019: 1.0).", low=0.0)
    threads: int = threads_setting(_DECODED)
    hold_images: bool = setting(
        False,
        "Decode the training images once, hold them on the devices and crop there; they must have one size.",
        used_with=_DECODED,
        changes_result=False,  # except for rounding, and for the edges of partly decoded JPEGs
    )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Optimization."""

    train_steps: int = setting(0, "Length of the training in steps.", low=0)
    train_epochs: float = setting(0.0, "Length of the training in epochs, if --train_steps is 0.", low=0.0)
    batch_size: int = setting(128, "Global batch size: examples of a step over all replicas.", low=1)
    accumulate: int = setting(
        1, "Parts into which each replica splits its batch to save memory; gradients are accumulated.", low=1
    )
    optimizer: str = setting(
        "sgd",
        "sgd and nesterov use momentum; adam adds L2 to the gradient; adamw and lamb decouple weight decay; muon: for "
        "convolutions after the stem, and adamw for the rest (Jordan 2024).",
        choices=("sgd", "nesterov", "adam", "adamw", "lamb", "muon"),
    )
    momentum: float = setting(0.9, "Momentum of SGD and Muon (0.95); beta 1 of Adam and LAMB.", low=0.0, high=1.0)
    weight_decay: float = setting(
        1e-4, "Lambda of lambda/2 |w|^2 in the loss; adamw, lamb and muon subtract lambda times learning rate times w.",
        low=0.0,
    )  # fmt: skip
    decay: str = setting(
        "kernels",
        "Weights that decay. kernels: of convolutions and dense layers; all: biases, gamma and beta too; none.",
        choices=("kernels", "all", "none"),
    )
    layer_decay: float = setting(
        1.0, "Learning rate of each stage over that of the next one; the classifier has the full one. 1: all equal.",
        low=0.0, high=1.0,
    )  # fmt: skip
    clip: float = setting(0.0, "Largest gradient norm, after the sum over replicas. 0: no limit.", low=0.0)
    ema: float = setting(
        0.0, "Decay of a moving average of all weights, which is also evaluated (0.9999). 0: none.", low=0.0, high=1.0
    )
    precise_bn: int = setting(
        0, "Batches for recomputing BN statistics after training, as He et al. did for release. 0: none.", low=0,
        used_with={"bn": ("local", "sync")},
    )  # fmt: skip
    seed: int = setting(0, "Seed of initial weights, example order and augmentation.", low=0)


@dataclasses.dataclass(frozen=True)
class ScheduleConfig:
    """Learning rate."""

    lr: float = setting(0.1, "Learning rate.", low=0.0)
    linear_scaling: bool = setting(False, "Multiply --lr by --batch_size / 256 (Goyal 2017; Bag of Tricks 3.1).")
    schedule: str = setting(
        "steps",
        "steps: multiply by --lr_factor at --lr_steps or --lr_epochs; cosine: fall to 0 (Bag of Tricks 5.1); poly: "
        "fall to 0 as (1 - t)^0.9 (DeepLab); plateau: multiply by --lr_factor when the error stays; constant; "
        "one_cycle: rise from 1/25 over --warmup_epochs, or 30% of the steps, and fall (Smith 2018), both as half a "
        "cosine, with a momentum 0.1 lower at the highest rate; flat_cosine: fall as half a cosine over the last "
        "quarter (fastai).",
        choices=("steps", "cosine", "poly", "plateau", "constant", "one_cycle", "flat_cosine"),
    )
    lr_steps: tuple[int, ...] = setting(
        (), "Steps at which the learning rate is multiplied by --lr_factor.", used_with=_STEPPED
    )
    lr_epochs: tuple[float, ...] = setting(
        (), "Epochs at which the learning rate is multiplied by --lr_factor.", used_with=_STEPPED
    )
    lr_factor: float = setting(
        0.1, "Factor of each learning rate drop.", low=0.0, used_with={"schedule": ("steps", "plateau")}
    )
    patience: int = setting(
        5,
        "Evaluations without a lower error before the learning rate drops. The error is of the held-out validation "
        "split if there is one, else of the training batches since the last evaluation.",
        low=1,
        used_with={"schedule": ("plateau",)},
    )
    warmup_epochs: float = setting(0.0, "Epochs over which the learning rate rises linearly from 0.", low=0.0)
    warmup_lr: float = setting(
        0.0, "Learning rate until the training error is below --warmup_until_error (ResNet-110: 0.01).", low=0.0
    )
    warmup_until_error: float = setting(
        0.0, "Top-1 training error, the mean of an epoch, that ends the warm-up (0.8).", low=0.0, high=1.0
    )


@dataclasses.dataclass(frozen=True)
class LossConfig:
    """Loss."""

    loss: str = setting(
        "softmax",
        "softmax: cross-entropy; bce: binary cross-entropy of each class, with targets above 0.2 set to 1 (Wightman "
        "2021). For wrong labels: bootstrap_hard and bootstrap_soft (Reed 2014), gce: generalized (Zhang 2018), sce: "
        "symmetric cross-entropy (Wang 2019).",
        choices=("softmax", "bce", *_BEARING_NOISE),
    )
    label_smoothing: float = setting(
        0.0, "Target probability spread over all classes (Szegedy 2016; Bag of Tricks: 0.1).", low=0.0, high=0.9,
        used_with={"loss": ("softmax", *_BEARING_NOISE)},
    )  # fmt: skip
    class_weights: str = setting(
        "none",
        "Weights of the classes in the loss. none: 1; balanced: images / (classes x images of the class), so that all "
        "classes weigh the same; or a CSV file with the columns class,weight.",
        used_with={"loss": ("softmax",)},
    )
    teacher: str = setting(
        "",
        "Network to distil: a run, an exported model, or MODEL:FILE, a network name and its weights "
        "(resnet152_v1d:imagenet downloads them, cifar_resnet56_v1:cifar10 comes with this package).",
        used_with={"loss": ("softmax",)},  # a teacher gives one distribution over the classes
    )
    temperature: float = setting(20.0, "Temperature of distillation (Bag of Tricks 5.3).", low=0.1, used_with=_TAUGHT)
    distillation: float = setting(1.0, "Weight of the distillation loss.", low=0.0, used_with=_TAUGHT)


@dataclasses.dataclass(frozen=True)
class DeviceConfig:
    """Devices."""

    precision: str = setting(
        "float32",
        "Precision of activations; weights and logits are float32. tf32: float32 with products of 10 bits on GPUs.",
        choices=tuple(PRECISIONS),
    )
    replicas: int = setting(
        0, "Replicas on this machine: GPUs, or parts of the CPU if there is none. 0: all GPUs, or one.", low=0
    )
    deterministic: bool = setting(
        False,
        "Compute the same bits when the same command runs again on the same devices, resumed or not. GPUs take some 7% "
        "longer for it.",
    )
    gpus: tuple[int, ...] = setting((), "Indices of the GPUs to use. Unset: the first ones.", changes_result=False)
    steps_per_call: int = setting(
        0, "Most steps in one call of the compiled program. 0: 1,000 on a GPU, 10 on a CPU.", low=0,
        changes_result=False,
    )  # fmt: skip
    data_service: tuple[str, ...] = setting(
        (),
        "Addresses host:port of resnet_tf.data_server processes that decode images for this training.",
        used_with=_DECODED | {"hold_images": UNSET},  # held images are decoded only once
        changes_result=False,
    )


@dataclasses.dataclass(frozen=True)
class RecordConfig:
    """Record."""

    out: str = setting("", "Run folder. Unset: runs/ and a name made of the flags.", changes_result=False)
    log_every: int = setting(100, "Steps between rows of metrics.csv.", low=1, changes_result=False)
    eval_every: int = setting(0, "Steps between evaluations. 0: only at the end.", low=0, changes_result=False)
    eval_epochs: float = setting(
        0.0, "Epochs between evaluations, rounded to steps. 0: as --eval_every says.", low=0.0,
        changes_result=False,
    )  # fmt: skip
    stop_after: int = setting(
        0, "Epochs without a lower validation loss after which training ends. 0: it runs its full length.", low=0
    )
    finish_on: str = setting(
        "last",
        "Weights of the finished run, which evaluation and export take. last: of the last step; best: of the step "
        "with the highest score on the validation split.",
        choices=("last", "best"),
    )
    extend: bool = setting(
        False, "Lengthen the run in --out, which has a smaller --train_epochs or --train_steps.", changes_result=False
    )
    checkpoint_every: int = setting(
        2000, "Steps between checkpoints; the last step has one too.", low=1, changes_result=False
    )
    results: str = setting("", "CSV file to append a result row to.", changes_result=False)
    histograms: bool = setting(False, "Write histograms of all weights at each evaluation.", changes_result=False)
    profile_steps: tuple[int, ...] = setting(
        (), "First and last step of a profiler trace for TensorBoard.", changes_result=False
    )
    debug_step: int = setting(
        0, "Repeat this step of the run in --out layer by layer, report where values are not finite, and exit.", low=0,
        changes_result=False,
    )  # fmt: skip
    smoke: bool = setting(
        False, "Shrink the recipe to a minute on a laptop: smallest network of its kind, few steps, small images, "
        "synthetic if --data_dir is unset.", changes_result=False,  # manifests record it as unset
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChoiceConfig:
    """Choices."""

    auto: tuple[str, ...] = setting(
        (),
        "Flags to choose from the images and the device where they are not set, as the recipe photos does; "
        "docs/photos.md has the table.",
        changes_result=False,  # what is chosen is recorded
    )
    page: bool = setting(
        False, "Write a report page of the held-out images to the run folder at the end.", changes_result=False
    )
