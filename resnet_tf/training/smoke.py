"""Shrinks any recipe to a minute on a laptop, to see that it runs."""

import dataclasses
import os
import re

import numpy as np

from resnet_tf.config import GIVEN, TrainConfig
from resnet_tf.runs import devices

_EXAMPLES = 64  # of each split; one epoch of them is the training
_BATCH = 8
_SIZE = 32
# (pattern, replacement) of names: the smallest network of each kind.
_SMALLEST = (
    (r"^(cifar_(?:resnet|plain|seresnet))(?!9(?:_\w+)?$)\d+", r"\g<1>8"),
    (r"^cifar_wrn\d+_\d+", "cifar_wrn10_2"),
    (r"^(resnet|plain)\d+(?=_v|$)", r"\g<1>18"),
    (r"^seresnet\d+$", "seresnet18"),
    (r"^resnext\d+.*", "resnext50_32x4d"),
    (r"^resnetrs\d+", "resnetrs50"),
    (r"^resnetv2_\d+x\d_bit", "resnetv2_50x1_bit"),
)


def shrink(config: TrainConfig) -> TrainConfig:
    """Return the same recipe on the smallest network of its kind, a few small images, and eight steps.

    Args:
        config: a `TrainConfig` whose `record.smoke` is set.

    Returns:
        A `TrainConfig` without `record.smoke`. Its images are synthetic if --data_dir is unset.
    """
    replace = dataclasses.replace
    streamed = config.views.view != "pad_crop"
    data = config.data
    if not data.data_dir and data.dataset not in ("digits", GIVEN):
        data = replace(
            data, dataset="synthetic", tfds_name="", classes=(), skip_bad_images=0, labels="", val_is="validation"
        )
    data = replace(data, validation_examples=min(data.validation_examples, _EXAMPLES))
    views = replace(config.views, hold_images=False)  # views this small cannot be cut from held images
    if streamed:
        data = replace(data, image_size=_SIZE, eval_size=_SIZE + 8 if data.eval_size else 0)
        data = replace(data, resize=_SIZE + 16 if data.resize else 0)
        scale = (_SIZE + 8, _SIZE + 16)[: len(views.scale)]
        views = replace(views, progressive=(_SIZE - 8,) if views.progressive else ())
        views = replace(views, scale=scale if views.view in ("scale_jitter", "resize_crop") else views.scale)
    loss = config.loss
    if loss.teacher:
        loss = replace(loss, teacher=f"{smallest('resnet152_v1d')}:random")
    return replace(config, data=data, views=views, loss=loss, **shrunk_parts(config))


def shrunk_parts(config):
    """Return the shrunk sections that the configurations of all tasks have, {name: section}."""
    replace = dataclasses.replace
    replicas = max(1, config.device.replicas, len(config.device.gpus))
    model = replace(config.model, model=smallest(config.model.model))
    if model.init_from and not os.path.exists(model.init_from):
        model = replace(model, init_from="", freeze=(), bn="local" if model.bn == "frozen" else model.bn)
    optimizer = replace(
        config.optimizer, train_steps=0, train_epochs=1.0, batch_size=_BATCH * replicas,
        accumulate=min(config.optimizer.accumulate, 2),
        precise_bn=min(config.optimizer.precise_bn, 2),
    )  # fmt: skip
    schedule = replace(
        config.schedule,
        lr=min(config.schedule.lr, 0.01),
        linear_scaling=False,
        lr_steps=(),
        lr_epochs=(0.5,) if config.schedule.lr_steps or config.schedule.lr_epochs else (),
        warmup_epochs=min(config.schedule.warmup_epochs, 0.25),
    )
    device = config.device
    if not devices.has_gpu():
        device = replace(device, precision="float32")  # a CPU has no kernels of half precision worth a minute
    record = replace(
        config.record, smoke=False, results="", log_every=1, eval_every=4 if config.record.eval_every else 0,
        checkpoint_every=4,
    )  # fmt: skip
    return {"model": model, "optimizer": optimizer, "schedule": schedule, "device": device, "record": record}


def few(source):
    """Return a source with a few random examples of each split, the same ones every time."""
    order = np.random.default_rng(0).permutation
    splits = {name: split.take(np.sort(order(len(split))[:_EXAMPLES])) for name, split in source.splits.items()}
    return dataclasses.replace(source, splits=splits)


def smallest(name: str) -> str:
    """Return the name of the smallest network of the same kind."""
    for pattern, smallest in _SMALLEST:
        name = re.sub(pattern, smallest, name)
    return name
