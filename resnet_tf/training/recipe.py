"""How a network is trained, apart from the network and the data."""

import dataclasses

from resnet_tf.config import ViewConfig
from resnet_tf.data import colour, resident
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.training import optimizer
from resnet_tf.training.losses import Loss


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What `step.forward_backward` and `step.update` need to know.

    Attributes:
        optimizer: an `optimizer.SGD`, `Adam` or `LAMB`.
        schedule: a `schedule.Schedule`.
        loss: a `losses.Loss`, or an object with the same methods.
        loss_scale: an `optimizer.LossScale` for float16, else None.
        clip: largest norm of the summed gradient; 0 for no limit.
        accumulate: number of parts into which a replica splits its batch, to work through them one after another.
        ema: decay of the moving average of weights and statistics; 0 for none. In the first steps the decay is
            (1 + t) / (10 + t) where that is smaller, as in TensorFlow's ExponentialMovingAverage.
        pad_crop: a `resident.PadCrop` for images on the device; None for images that arrive cropped.
        augmentation: an `augmentation.Augmentation`.
        teacher: a `distillation.Teacher`; None for none.
        seed: of all random changes to images.
        normalization: a `colour.Normalization`; the `Engine` sets its own.
    """

    optimizer: object
    schedule: object
    loss: Loss = dataclasses.field(default_factory=Loss)
    loss_scale: optimizer.LossScale | None = None
    clip: float = 0.0
    accumulate: int = 1
    ema: float = 0.0
    pad_crop: resident.PadCrop | None = None
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    teacher: object = None
    seed: int = 0
    normalization: colour.Normalization | None = None


def from_views(views: ViewConfig, seed: int) -> dict:
    """Return the fields of a `Recipe` that a `ViewConfig` describes, {name: value}."""
    mirror = views.mirror and views.mirroring == "random"  # `supply.Resident` mirrors alternately
    return {
        "pad_crop": resident.PadCrop(views.pad, mirror) if views.view == "pad_crop" else None,
        "augmentation": Augmentation(
            views.color_jitter or (0.0,) * 4, views.lighting, views.erasing, views.mixup, views.cutmix,
            views.randaugment, views.erasing_area, views.erasing_fill, views.trivialaugment,
        ),
        "seed": seed,
    }  # fmt: skip
