"""What a training says before its first step: data, network, device and length, a line each."""

import math

from resnet_tf.config import evaluation_size
from resnet_tf.runs import devices


def lines(session) -> list[str]:
    """Return four lines about a `session.Session`: what was found, the network, the device, and the length."""
    task, source, plan = session.task, session.source, session.plan
    return [
        f"data     {source}",
        f"network  {_network(task.config, session.engine.model)}",
        f"device   {devices.hardware()}, {_replicas(session.engine.replicas)}{task.config.device.precision}",
        f"length   {_length(plan)}; in {session.context.folder}",
    ]


def _network(config, model):
    count = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    size = config.data.image_size
    seen = getattr(config.data, "eval_size", 0) and evaluation_size(config.data)
    smaller = ", ".join(map(str, getattr(config.views, "progressive", ())))
    views = (f"{smaller} and then " if smaller else "") + f"{size} x {size} pixels"
    views += f", {seen} x {seen} in evaluation" if seen and seen != size else ""
    weights = f"starts from {config.model.init_from}" if config.model.init_from else "starts from scratch"
    frozen = f", {', '.join(config.model.freeze)} frozen" if config.model.freeze else ""
    return f"{config.network}, {count:,} trainable weights, {views}; {weights}{frozen}"


def _replicas(count):
    return f"{count} replicas, " if count > 1 else ""


def _length(plan):
    epochs = plan.total / plan.steps_per_epoch
    return f"{plan.total:,} steps of {plan.batch_size} images, {epochs:,.4g} epoch{'' if epochs == 1 else 's'}"
