"""One training step: forward, backward, update. Pure functions from tensors to tensors.

`engine.Engine` reads the variables before a step, sums over the replicas between backward and update, and assigns the
variables after it; `debug` calls the same functions eagerly. A state is {"weights", "statistics", "averages":
{path: tensor}, "slots": {slot: {path: tensor}}, "scalars": {name: tensor}}, and "teacher", a list of tensors, where
there is a teacher; see `state.State.read`.

Whether a step counts is decided on the sums, so that all replicas decide alike. A step whose numbers are not finite
changes nothing: under a loss scale it is skipped, otherwise the training halts in the state before that step.
"""

from typing import NamedTuple

import keras
import tensorflow as tf

from resnet_tf.models import fusible
from resnet_tf.runs.runner import inputs_of
from resnet_tf.training import optimizer
from resnet_tf.training.recipe import Recipe

# The metrics of a step in the order of the columns that `Engine.run` returns. top1 and top5 compare with the labels,
# also where targets are mixed; gradient_norm is before clipping; skipped is 1 for a step that a loss scale skipped.
METRICS = ("loss", "top1", "top5", "lr", "gradient_norm", "loss_scale", "skipped")


class Batch(NamedTuple):
    """One replica's part of a global batch.

    Attributes:
        pixels: uint8 [n, height, width, 3].
        labels: int32 [n], or the masks or objects of other tasks.
        keys: int64 [n], from which random changes are drawn; see `draws.keys`.
    """

    pixels: tf.Tensor
    labels: tf.Tensor
    keys: tf.Tensor


def augment(recipe: Recipe, model: keras.Model, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
    """Turn a batch into what the network is trained on: normalized images and targets, augmented and mixed.

    Returns:
        float32 [n, height, width, 3]; and targets as the loss takes them, float32 [n, classes] for classification.
    """
    targets = recipe.loss.targets(batch.labels, model.outputs[0].shape[-1])
    return recipe.augmentation.finish(batch.pixels, targets, batch.keys, recipe.normalization, recipe.pad_crop)


def forward_backward(recipe: Recipe, model: keras.Model, state: dict, batch: Batch, examples: int) -> dict:
    """Compute loss, gradients, new BN statistics and metrics of one batch.

    Args:
        recipe: how the network is trained.
        model: the network.
        state: see this module.
        batch: of this replica.
        examples: size of the global batch, which losses and metrics are divided by, so that sums over replicas and
            accumulated parts are means.

    Returns:
        {"gradients": list in the order of the weights, still times the loss scale, "statistics": list in the order of
        the statistics, "loss", "top1", "top5": scalars}.
    """
    images, targets = augment(recipe, model, batch)
    weights, statistics = list(state["weights"].values()), list(state["statistics"].values())
    taught = recipe.teacher.logits(state["teacher"], images) if recipe.teacher else None
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(weights)
        inputs = inputs_of(model, images, targets, batch.keys)
        outputs, statistics = model.stateless_call(weights, statistics, inputs, training=True)
        loss = tf.reduce_sum(recipe.loss(outputs, targets, taught)) / examples
        scaled = loss * state["scalars"]["scale"] if recipe.loss_scale else loss
    gradients = tape.gradient(scaled, weights)
    metrics = recipe.loss.metrics(outputs, batch.labels)
    return {
        "gradients": gradients,
        "statistics": list(statistics),
        "loss": loss,
        **{name: tf.reduce_sum(metrics[name]) / examples for name in ("top1", "top5")},
    }


def accumulated(recipe: Recipe, model: keras.Model, state: dict, batch: Batch, examples: int) -> dict:
    """Sum `forward_backward` over `recipe.accumulate` parts of the batch, one after another; same result."""
    parts = recipe.accumulate
    batches = [tf.reshape(values, [parts, values.shape[0] // parts, *values.shape[1:]]) for values in batch]

    def body(part, sums):
        statistics = dict(zip(state["statistics"], sums["statistics"], strict=True))
        one = Batch(*(values[part] for values in batches))
        new = forward_backward(recipe, model, state | {"statistics": statistics}, one, examples)
        added = {name: tf.nest.map_structure(tf.add, sums[name], new[name]) for name in sums}
        return part + 1, added | {"statistics": new["statistics"]}

    zero = {name: tf.zeros([]) for name in ("loss", "top1", "top5")}
    zero |= {"gradients": [tf.zeros_like(weight) for weight in state["weights"].values()]}
    zero |= {"statistics": list(state["statistics"].values())}
    return tf.while_loop(lambda part, _: part < parts, body, [tf.constant(0), zero])[1]


def update(recipe: Recipe, state: dict, sums: dict) -> tuple[dict, tf.Tensor]:
    """Apply the optimizer.

    Args:
        recipe: how the network is trained.
        state: the state before the step.
        sums: what `forward_backward` returns, summed over the replicas.

    Returns:
        The state after the step; float32 [columns], the `METRICS` of the step.
    """
    scalars = state["scalars"]
    lr = recipe.schedule.lr_of(scalars["step"], scalars)
    gradients = sums["gradients"]
    if recipe.loss_scale:
        gradients = [gradient / scalars["scale"] for gradient in gradients]
    norm = (fusible if fusible.wanted() else tf.linalg).global_norm(gradients)
    is_finite = tf.math.is_finite(norm) & tf.math.is_finite(sums["loss"])
    # Under a loss scale a gradient may overflow, which the scale answers for. A loss may never.
    is_broken = ~tf.math.is_finite(sums["loss"]) if recipe.loss_scale else ~is_finite
    is_halted = (scalars["halted"] > 0) | is_broken
    old = {group: state[group] for group in ("weights", "statistics", "slots", "averages")}
    new_state = _where(is_finite & ~is_halted, lambda: _updated(recipe, state, sums, gradients, norm, lr), old)
    new_scalars = {"step": scalars["step"] + 1} | recipe.schedule.advance(scalars["step"], scalars, 1.0 - sums["top1"])
    if recipe.loss_scale:
        new_scalars |= recipe.loss_scale.advance(scalars, is_finite)
    counts = ~is_halted if recipe.loss_scale else ~is_halted & is_finite
    new_scalars = {name: tf.where(counts, value, scalars[name]) for name, value in new_scalars.items()}
    new_state["scalars"] = new_scalars | {"halted": tf.cast(is_halted, tf.float32)}
    scale = scalars["scale"] if recipe.loss_scale else tf.ones([])
    skipped = tf.cast(~is_finite, tf.float32)
    return new_state, tf.stack([sums["loss"], sums["top1"], sums["top5"], lr, norm, scale, skipped])


def _updated(recipe, state, sums, gradients, norm, lr):
    """Return the state after a step that counts, without its scalars."""
    scalars = state["scalars"]
    weights = list(state["weights"].values())
    slots = {slot: list(values.values()) for slot, values in state["slots"].items()}
    clipped = optimizer.clip(gradients, norm, recipe.clip)
    applied = scalars["step"]
    if recipe.loss_scale:
        applied -= tf.cast(scalars["skipped_steps"], tf.int64)
    shift = recipe.schedule.momentum_shift(scalars["step"])
    rule = recipe.optimizer if shift is None else recipe.optimizer.shifted(shift)
    new_weights, new_slots = rule.update(weights, slots, clipped, lr, applied)
    new_weights = dict(zip(state["weights"], new_weights, strict=True))
    new_statistics = dict(zip(state["statistics"], sums["statistics"], strict=True))
    network = new_weights | new_statistics
    count = tf.cast(scalars["step"], tf.float32)
    decay = tf.minimum(recipe.ema, (1 + count) / (10 + count))
    return {
        "weights": new_weights,
        "statistics": new_statistics,
        "slots": {slot: dict(zip(state["weights"], values, strict=True)) for slot, values in new_slots.items()},
        "averages": {name: a + (1 - decay) * (network[name] - a) for name, a in state["averages"].items()},
    }


def _where(condition, new, old):
    """Return new() where a scalar condition holds, else old. XLA computes both and selects; a CPU computes one."""
    if not fusible.wanted():
        return tf.cond(condition, new, lambda: old)
    return tf.nest.map_structure(lambda a, b: tf.where(condition, a, b), new(), old)
