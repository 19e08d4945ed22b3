"""The configuration of a classification training, and the checks that trainings of all tasks share.

A recipe is a file of flags, `--flagfile=flags/NAME.cfg`; a later flag overrides an earlier one.
"""

import dataclasses
from typing import ClassVar

from resnet_tf.config.fields import GIVEN, check_used, listed
from resnet_tf.config.sections import (
    AUTO,
    SMALL_DATASETS,
    ChoiceConfig,
    DataConfig,
    DeviceConfig,
    LossConfig,
    ModelConfig,
    OptimizerConfig,
    RecordConfig,
    ScheduleConfig,
    ViewConfig,
)
from resnet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """The configuration of a classification training."""

    task: ClassVar[str] = "classification"

    data: DataConfig = DataConfig()
    choice: ChoiceConfig = ChoiceConfig()
    model: ModelConfig = ModelConfig()
    views: ViewConfig = ViewConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    schedule: ScheduleConfig = ScheduleConfig()
    loss: LossConfig = LossConfig()
    device: DeviceConfig = DeviceConfig()
    record: RecordConfig = RecordConfig()

    @property
    def network(self) -> str:
        """A short description of the network, for tables."""
        return described(self.model)

    def __post_init__(self):
        """Refuse combinations that cannot work, before any file is read."""
        if self.record.smoke or self.choice.auto or self.model.init_from == AUTO:
            return  # `smoke.shrink` and `choices.choose` build the configuration that is checked
        check_used(self)
        check_training(self)
        if self.loss.teacher and not self.loss.distillation:
            raise InputError(f"--distillation=0 leaves --teacher={self.loss.teacher} unused: unset it")
        check_data(self.data)
        replicas = max(1, self.device.replicas, len(self.device.gpus))
        check_views(self.views, self.data, self.optimizer.batch_size // (replicas * self.optimizer.accumulate))


def described(model: ModelConfig) -> str:
    """Return the name of a network, with its shortcut and graph where they are not the default."""
    graph = "timm's graph" if model.graph == "timm" else ""
    return " ".join(filter(None, (model.model, model.shortcut, graph)))


def check_training(config) -> None:
    """Refuse combinations of model, optimizer, schedule, device and record settings that cannot work."""
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
        raise InputError(f"--gpus={listed(device.gpus)} are not --replicas={device.replicas}: unset one of them")
    replicas = max(1, device.replicas, len(device.gpus))
    parts = replicas * optimizer.accumulate
    if optimizer.batch_size % parts:
        accumulated = f" times --accumulate={optimizer.accumulate}" if optimizer.accumulate > 1 else ""
        raise InputError(f"--batch_size={optimizer.batch_size} does not divide by --replicas={replicas}{accumulated}")
    if model.bn == "frozen" and not model.init_from:
        raise InputError("--bn=frozen needs --init_from: moving statistics to freeze")
    steps = config.record.profile_steps
    if steps and (len(steps) != 2 or not 0 < steps[0] <= steps[1]):
        raise InputError(f"--profile_steps={listed(steps)}: not a first and a last step")
    check_schedule(config.schedule, optimizer, config.record)


def check_schedule(schedule: ScheduleConfig, optimizer: OptimizerConfig, record: RecordConfig) -> None:
    """Refuse combinations of learning rate settings that cannot work."""
    if schedule.lr_steps and schedule.lr_epochs:
        raise InputError("--lr_steps and --lr_epochs are both set: empty one of them")
    for name in ("lr_steps", "lr_epochs"):
        values = getattr(schedule, name)
        if list(values) != sorted(set(values)) or any(value <= 0 for value in values):
            raise InputError(f"--{name}={listed(values)}: not positive and rising")
    evaluates = record.eval_every or record.eval_epochs
    if record.eval_every and record.eval_epochs:
        raise InputError("--eval_every and --eval_epochs are both set: set one of them to 0")
    if schedule.schedule == "plateau" and not evaluates:
        raise InputError("--schedule=plateau needs --eval_every or --eval_epochs: how often it looks at the error")
    if record.stop_after and not evaluates:
        raise InputError("--stop_after needs --eval_epochs or --eval_every: how often it looks at the validation loss")
    if record.stop_after and optimizer.precise_bn:
        raise InputError("--stop_after is not used with --precise_bn, which works on the last step of a full training")
    if bool(schedule.warmup_lr) != bool(schedule.warmup_until_error):
        raise InputError("--warmup_lr and --warmup_until_error go together: one of them is 0")
    if schedule.warmup_lr and schedule.warmup_epochs:
        raise InputError("--warmup_epochs and --warmup_until_error are two ways to warm up: unset one of them")
    if optimizer.train_epochs and schedule.warmup_epochs >= optimizer.train_epochs:
        raise InputError(
            f"--warmup_epochs={schedule.warmup_epochs:g} is not shorter than --train_epochs={optimizer.train_epochs:g}"
        )


def evaluation_size(data: DataConfig) -> int:
    """Return the side in pixels of the central crop in evaluation."""
    return data.eval_size or data.image_size


def check_jitter(jitter: tuple[float, ...]) -> None:
    """Refuse a --color_jitter other than () or four numbers in [0, 1]."""
    if jitter and (len(jitter) != 4 or any(not 0 <= value <= 1 for value in jitter)):
        raise InputError(f"--color_jitter={listed(jitter)}: not four numbers in the range 0 to 1")


def check_ten_crop(config: TrainConfig, flag: str, name: str) -> None:
    """Refuse `flag` where evaluation of the network `name` leaves no margin around the central crop."""
    size = evaluation_size(config.data)
    if config.views.view == "pad_crop" or config.data.resize in (0, size):
        raise InputError(f"{flag}: {name} has no --resize above {size} pixels to crop from")


def check_data(data: DataConfig) -> None:
    """Refuse combinations of data settings that cannot work."""
    if data.dataset not in ("digits", "synthetic", GIVEN) and not data.data_dir:
        raise InputError(f"--dataset={data.dataset} needs --data_dir: the folder or archive of the images")
    if data.fold and data.validation_share:
        raise InputError(
            f"--fold={data.fold} and --validation_share are two ways to hold images out: unset one of them"
        )
    if data.resize and data.resize < evaluation_size(data):
        crop = f"--eval_size={data.eval_size}" if data.eval_size else f"--image_size={data.image_size}"
        raise InputError(f"--resize={data.resize} is less than {crop}")


def check_views(views: ViewConfig, data: DataConfig, batch: int) -> None:
    """Refuse combinations of view settings that cannot work; `batch` is the examples of a step on one replica."""
    for name in ("resize", "eval_size"):
        if views.view == "pad_crop" and getattr(data, name) not in (0, data.image_size):
            raise InputError(f"--{name} is not used by --view=pad_crop: its images are held at --image_size")
    if views.view != "pad_crop" and data.dataset in set(SMALL_DATASETS) - {"synthetic"}:
        raise InputError(f"--view={views.view}: {data.dataset} is small and held on the device: --view=pad_crop")
    for name in ("area", "aspect", "erasing_area"):
        low_high = getattr(views, name)
        if len(low_high) != 2 or not 0 < low_high[0] <= low_high[1]:
            raise InputError(f"--{name}={listed(low_high)}: not two positive rising numbers")
        if name != "aspect" and low_high[1] > 1:
            raise InputError(f"--{name}={listed(low_high)}: more than the whole image")
    if views.erasing_fill == "black" and (views.view, data.normalization) == ("pad_crop", "pixel"):
        raise InputError(
            "--erasing_fill=black is not used by --view=pad_crop with --normalization=pixel: the mean image is taken "
            "off before the crop, so that black is another number at each pixel"
        )
    if views.view in ("scale_jitter", "resize_crop"):
        count = 1 if views.view == "resize_crop" else 2
        if len(views.scale) != count or list(views.scale) != sorted(views.scale):
            raise InputError(f"--scale={listed(views.scale)}: --view={views.view} takes {count} rising number(s)")
        if views.scale[0] < data.image_size:
            raise InputError(f"--scale={listed(views.scale)} is less than --image_size={data.image_size}")
    if any(not 8 <= size <= data.image_size for size in views.progressive):
        raise InputError(f"--progressive={listed(views.progressive)}: not from 8 to --image_size={data.image_size}")
    if (views.mirroring, views.view, data.normalization) == ("alternate", "pad_crop", "pixel"):
        raise InputError(
            "--mirroring=alternate is not used by --view=pad_crop with --normalization=pixel: the mean image is taken "
            "off images that are not mirrored yet"
        )
    check_jitter(views.color_jitter)
    randaugment = views.randaugment
    if randaugment:
        count, magnitude = (*randaugment, 0, 0)[:2]
        is_valid = len(randaugment) in (2, 3) and count >= 1 and count % 1 == 0 and 0 <= magnitude <= 10
        if not is_valid or min(randaugment) < 0:
            raise InputError(
                f"--randaugment={listed(randaugment)}: not a number of operations and a magnitude in 0 to 10"
            )
    for name in ("mixup", "cutmix"):
        if getattr(views, name) and batch % 2:
            raise InputError(f"--{name} pairs examples: --batch_size must be even on each replica")
