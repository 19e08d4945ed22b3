"""What a training run is: frozen dataclasses, one flag for each field.

A recipe is a file of flags, `--flagfile=flags/NAME.cfg`; flags that come later win.
"""

import dataclasses
import re
from typing import ClassVar

from resnet_tf.config.fields import exif_setting, setting
from resnet_tf.errors import InputError

SMALL_DATASETS = ("cifar10", "cifar100", "digits", "synthetic")
DATASETS = (*SMALL_DATASETS, "folder", "records", "tfds", "voc")
GIVEN = "given"  # --dataset of a run whose data were given from Python; no command can read them again

# Networks that had timm's graph before there was --graph.
_TWO_GRAPHS = re.compile(r"(cifar_resnet\d+|resnet18|resnet34)_v2")

# Precision names and the Keras policies behind them: variables and logits stay float32 in all of them.
PRECISIONS = {"float32": "float32", "tf32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}


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
        (), "Parts that keep --init_from's weights and statistics: stem, stage1 to stage4, as variables are named."
    )


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data."""

    dataset: str = setting("cifar10", "Source of images; README, section Data.", choices=DATASETS)
    data_dir: str = setting("", "Folder or archive of the images.", changes_result=False)
    tfds_name: str = setting(
        "", "Name of the set in --data_dir, for --dataset=tfds: imagenet2012, imagenette/320px-v2."
    )
    classes: tuple[str, ...] = setting((), "Class names in the order of their labels. Unset: the source's own order.")
    validation_examples: int = setting(
        0, "Hold that many training examples out and evaluate on them, not on the test split.", low=0
    )
    validation_sampling: str = setting(
        "stratified",
        "How --validation_examples are chosen, alike for every seed: stratified, of each class its share; random, "
        "regardless of class, as in runs that were recorded before there was this flag.",
        choices=("stratified", "random"),
        earlier="random",
        changes_result=False,  # of a run without such examples; of one with them the data's checksum sees the splits
    )
    skip_bad_images: int = setting(0, "Leave out up to that many images that cannot be decoded, and name them.", low=0)
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
        choices=("pad_crop", "random_resized_crop", "scale_jitter", "resize_crop"),
    )
    pad: int = setting(4, "pad_crop: pixels added on each side before the crop.", low=0)
    area: tuple[float, ...] = setting((0.08, 1.0), "random_resized_crop: smallest and largest part of the image.")
    aspect: tuple[float, ...] = setting((0.75, 4 / 3), "random_resized_crop: smallest and largest width over height.")
    scale: tuple[int, ...] = setting(
        (256, 480), "scale_jitter: smallest and largest shorter side in pixels; resize_crop: the one."
    )
    mirror: bool = setting(True, "Mirror training images with probability 0.5.")
    repeats: int = setting(1, "Views of an image in a batch, in as many fewer images an epoch (Hoffer 2020).", low=1)
    color_jitter: tuple[float, ...] = setting(
        (), "Ranges of the factors of brightness, contrast, saturation, hue; Bag of Tricks: 0.4,0,0.4,0.4."
    )
    randaugment: tuple[float, ...] = setting(
        (), "RandAugment: operations, their magnitude of 10 and perhaps its deviation; timm's rand-m6-mstd0.5: 2,6,0.5."
    )
    lighting: float = setting(0.0, "Deviation of the PCA noise's coefficients (AlexNet, Bag of Tricks: 0.1).", low=0.0)
    erasing: float = setting(0.0, "Probability that a random rectangle is erased (Zhong 2017).", low=0.0, high=1.0)
    erasing_area: tuple[float, ...] = setting(
        (0.02, 0.4), "erasing: smallest and largest part of the image (Zhong 2017; torchvision: 0.02,0.33)."
    )
    erasing_fill: str = setting(
        "mean",
        "erasing: what is erased becomes the mean colour, 0 after normalisation (Zhong 2017, RE-M), or black, as where "
        "erasing comes before normalisation.",
        choices=("mean", "black"),
    )
    mixup: float = setting(0.0, "Alpha of mixup's Beta distribution (Zhang 2017; Bag of Tricks: 0.2).", low=0.0)
    cutmix: float = setting(0.0, "Alpha of CutMix's Beta distribution (Yun 2019: 1.0).", low=0.0)
    threads: int = setting(0, "Threads that decode images. 0: one for each core.", low=0, changes_result=False)
    hold_images: bool = setting(
        False,
        "Hold the training images, all of one size, decoded on the devices and cut views there, not on the host.",
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
        low=0,
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
    lr_steps: tuple[int, ...] = setting((), "Steps after which the rate is multiplied by --lr_factor.")
    lr_epochs: tuple[float, ...] = setting((), "The same in epochs.")
    lr_factor: float = setting(0.1, "Factor of the rate at each fall.", low=0.0)
    patience: int = setting(
        5,
        "plateau: evaluations without a lower error until the rate falls; of the validation split where one is held "
        "out, else of the training batches since the evaluation before.",
        low=1,
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
        0.0, "Part of the target that is spread over all classes (Szegedy 2016; Bag of Tricks: 0.1).", low=0.0, high=0.9
    )
    teacher: str = setting(
        "",
        "Network to distil: a run, an exported model, or MODEL:FILE, a network of the table and its weights "
        "(resnet152_v1d:imagenet downloads them).",
    )
    temperature: float = setting(20.0, "Temperature of distillation (Bag of Tricks 5.3).", low=0.1)
    distillation: float = setting(1.0, "Weight of the teacher's loss beside the labels'.", low=0.0)


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
        (), "Addresses (host:port) of resnet_tf.data_server processes that decode for this one.", changes_result=False
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


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """All of a training run: the sections above."""

    task: ClassVar[str] = "classification"

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    views: ViewConfig = ViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    device: DeviceConfig = DeviceConfig()
    record: RecordConfig = RecordConfig()

    @property
    def network(self):
        """The network in words."""
        return described(self.model)

    def __post_init__(self):
        """Refuse combinations that make no sense, before anything is read."""
        if self.record.smoke:
            return  # `smoke.shrink` makes a configuration of its own, which is checked
        check_training(self)
        if self.device.data_service and self.views.view == "pad_crop":
            raise InputError("--data_service is not used by --view=pad_crop: its images are on the device")
        if self.device.data_service and self.views.hold_images:
            raise InputError("--data_service is not used with --hold_images: nothing is decoded after the start")
        check_loss(self.loss, self.views)
        check_data(self.data)
        replicas = max(1, self.device.replicas, len(self.device.gpus))
        check_views(self.views, self.data, self.optimizer.batch_size // (replicas * self.optimizer.accumulate))


def described(model):
    """A `ModelConfig` in words: the name, and shortcut and graph where they are not the network's own."""
    graph = "timm's graph" if model.graph == "timm" else ""
    return " ".join(filter(None, (model.model, model.shortcut, graph)))


def check_training(config):
    """Refuse settings of model, optimizer, schedule, devices and record that make no sense together."""
    model, optimizer, device = config.model, config.optimizer, config.device
    if bool(optimizer.train_steps) == bool(optimizer.train_epochs):
        raise InputError(
            f"--train_steps={optimizer.train_steps} and --train_epochs={optimizer.train_epochs:g}: "
            "set one of them and the other to 0"
        )
    if optimizer.optimizer == "nesterov" and not optimizer.momentum:
        raise InputError("--optimizer=nesterov needs --momentum above 0")
    if optimizer.weight_decay and optimizer.decay == "none":
        raise InputError(f"--decay=none leaves --weight_decay={optimizer.weight_decay:g} unused: set it to 0")
    if optimizer.ema >= 1:
        raise InputError(f"--ema={optimizer.ema:g}: an average that never moves; below 1")
    if device.gpus and device.replicas not in (0, len(device.gpus)):
        raise InputError(f"--gpus={_listed(device.gpus)} are not --replicas={device.replicas}: unset one of them")
    replicas = max(1, device.replicas, len(device.gpus))
    parts = replicas * optimizer.accumulate
    if optimizer.batch_size % parts:
        accumulated = f" times --accumulate={optimizer.accumulate}" if optimizer.accumulate > 1 else ""
        raise InputError(f"--batch_size={optimizer.batch_size} does not divide by --replicas={replicas}{accumulated}")
    if model.bn == "frozen" and not model.init_from:
        raise InputError("--bn=frozen needs --init_from: moving statistics to freeze")
    if model.freeze and not model.init_from:
        raise InputError(f"--freeze={','.join(model.freeze)} needs --init_from: weights to keep")
    if model.bn == "frozen" and optimizer.precise_bn:
        raise InputError("--precise_bn recomputes statistics that --bn=frozen keeps: unset one of them")
    steps = config.record.profile_steps
    if steps and (len(steps) != 2 or not 0 < steps[0] <= steps[1]):
        raise InputError(f"--profile_steps={_listed(steps)}: not a first and a last step")
    check_schedule(config.schedule, optimizer, config.record)


def check_schedule(schedule, optimizer, record):
    """Refuse settings of a `ScheduleConfig` that make no sense together."""
    if schedule.lr_steps and schedule.lr_epochs:
        raise InputError("--lr_steps and --lr_epochs are both set: empty one of them")
    for name in ("lr_steps", "lr_epochs"):
        values = getattr(schedule, name)
        if list(values) != sorted(set(values)) or any(value <= 0 for value in values):
            raise InputError(f"--{name}={','.join(map(str, values))}: not positive and rising")
    used = {"steps": {"lr_steps", "lr_epochs", "lr_factor"}, "plateau": {"lr_factor", "patience"}}
    for field in dataclasses.fields(schedule):
        if field.name in ("lr_steps", "lr_epochs", "lr_factor", "patience"):
            unused = field.name not in used.get(schedule.schedule, ())
            if unused and getattr(schedule, field.name) != field.default:
                raise InputError(f"--{field.name} is not used by --schedule={schedule.schedule}")
    if schedule.schedule == "plateau" and not record.eval_every:
        raise InputError("--schedule=plateau needs --eval_every: how often it looks at the error")
    if bool(schedule.warmup_lr) != bool(schedule.warmup_until_error):
        raise InputError("--warmup_lr and --warmup_until_error go together: one of them is 0")
    if schedule.warmup_lr and schedule.warmup_epochs:
        raise InputError("--warmup_epochs and --warmup_until_error are two ways to warm up: unset one of them")
    if optimizer.train_epochs and schedule.warmup_epochs >= optimizer.train_epochs:
        raise InputError(
            f"--warmup_epochs={schedule.warmup_epochs:g} is not shorter than --train_epochs={optimizer.train_epochs:g}"
        )


def check_loss(loss, views):
    """Refuse settings of a `LossConfig` that make no sense together."""
    if loss.loss == "bce" and loss.label_smoothing:
        raise InputError("--label_smoothing is not used by --loss=bce, whose targets are 0 and 1")
    if loss.teacher and not loss.distillation:
        raise InputError(f"--distillation=0 leaves --teacher={loss.teacher} unused: unset it")
    for field in dataclasses.fields(loss):
        unused = field.name in ("temperature", "distillation") and not loss.teacher
        if unused and getattr(loss, field.name) != field.default:
            raise InputError(f"--{field.name} needs --teacher: the network to distil")
    if loss.teacher and loss.loss == "bce":
        raise InputError("--teacher needs --loss=softmax: it teaches one distribution over the classes")


def evaluation_size(data):
    """Height and width of evaluation's central crop of a `DataConfig`, in pixels."""
    return data.eval_size or data.image_size


def check_jitter(jitter):
    """Refuse a --color_jitter that is not one."""
    if jitter and (len(jitter) != 4 or any(not 0 <= value <= 1 for value in jitter)):
        raise InputError(f"--color_jitter={_listed(jitter)}: not four numbers in the range 0 to 1")


def check_ten_crop(config, flag, name):
    """Refuse ten crops of a `TrainConfig` whose evaluation has no room around its crop."""
    size = evaluation_size(config.data)
    if config.views.view == "pad_crop" or config.data.resize in (0, size):
        raise InputError(f"{flag}: {name} has no --resize above {size} pixels to crop from")


def check_data(data):
    """Refuse settings of a `DataConfig` that make no sense together."""
    needs_none = data.dataset in ("digits", "synthetic", GIVEN)
    if needs_none and data.data_dir:
        raise InputError(f"--data_dir={data.data_dir} is not used by --dataset={data.dataset}")
    if not needs_none and not data.data_dir:
        raise InputError(f"--dataset={data.dataset} needs --data_dir: the folder or archive of the images")
    if data.tfds_name and data.dataset != "tfds":
        raise InputError(f"--tfds_name={data.tfds_name} is not used by --dataset={data.dataset}")
    if data.resize and data.resize < evaluation_size(data):
        crop = f"--eval_size={data.eval_size}" if data.eval_size else f"--image_size={data.image_size}"
        raise InputError(f"--resize={data.resize} is less than {crop}")
    unused = ("classes", "skip_bad_images") if data.dataset in (*SMALL_DATASETS, GIVEN) else ()
    for name in (*unused, *(["validation_examples"] if data.dataset == GIVEN else [])):
        if getattr(data, name):
            raise InputError(f"--{name} is not used by --dataset={data.dataset}")


_VIEW_SETTINGS = {  # which view uses what, of the settings that not all views use
    "pad_crop": {"pad"},
    "random_resized_crop": {"area", "aspect", "repeats", "threads", "hold_images"},
    "scale_jitter": {"scale", "repeats", "threads", "hold_images"},
    "resize_crop": {"scale", "repeats", "threads", "hold_images"},
}


def check_views(views, data, batch):
    """Refuse settings of a `ViewConfig` that make no sense together, for a replica's batch of so many examples."""
    used, some = _VIEW_SETTINGS[views.view], set().union(*_VIEW_SETTINGS.values())
    for field in dataclasses.fields(views):
        if field.name in some - used and getattr(views, field.name) != field.default:
            raise InputError(f"--{field.name} is not used by --view={views.view}")
    if views.view == "pad_crop" and data.skip_bad_images:
        raise InputError("--skip_bad_images is not used by --view=pad_crop")
    for name in ("resize", "eval_size"):
        if views.view == "pad_crop" and getattr(data, name) not in (0, data.image_size):
            raise InputError(f"--{name} is not used by --view=pad_crop: its images are held at --image_size")
    if views.view != "pad_crop" and data.dataset in set(SMALL_DATASETS) - {"synthetic"}:
        raise InputError(f"--view={views.view}: {data.dataset} is small and held on the device: --view=pad_crop")
    for name in ("area", "aspect", "erasing_area"):
        low_high = getattr(views, name)
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            raise InputError(f"--{name}={_listed(low_high)}: not two positive rising numbers")
        if name != "aspect" and low_high[1] > 1:
            raise InputError(f"--{name}={_listed(low_high)}: more than the whole image")
    for name in ("erasing_area", "erasing_fill"):
        if not views.erasing and getattr(views, name) != getattr(ViewConfig, name):
            raise InputError(f"--{name} needs --erasing: the probability that an image is erased")
    if views.erasing_fill == "black" and (views.view, data.normalization) == ("pad_crop", "pixel"):
        raise InputError(
            "--erasing_fill=black is not used by --view=pad_crop with --normalization=pixel: the mean image is taken "
            "off before the crop, so that black is another number at each pixel"
        )
    if "scale" in used:
        count = 1 if views.view == "resize_crop" else 2
        if len(views.scale) != count or list(views.scale) != sorted(views.scale):
            raise InputError(f"--scale={_listed(views.scale)}: --view={views.view} takes {count} rising number(s)")
        if views.scale[0] < data.image_size:
            raise InputError(f"--scale={_listed(views.scale)} is less than --image_size={data.image_size}")
    check_jitter(views.color_jitter)
    chosen = views.randaugment
    sane = len(chosen) in (2, 3) and chosen[0] >= 1 and chosen[0] % 1 == 0 and 0 <= chosen[1] <= 10
    if chosen and not (sane and min(chosen) >= 0):
        raise InputError(f"--randaugment={_listed(chosen)}: not a number of operations and a magnitude in 0 to 10")
    for name in ("mixup", "cutmix"):
        if getattr(views, name) and batch % 2:
            raise InputError(f"--{name} pairs examples: --batch_size must be even on each replica")


def _listed(values):
    return ",".join(f"{value:g}" for value in values)
