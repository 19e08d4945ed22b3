"""One step: forward, backward, sum over replicas, update. The fast path lives here and only here.

The step is a pure function from tensors to tensors (`_gradients`, `_update`); variables are read
before it and assigned after it. How it is compiled depends on the devices:

    GPUs   a whole call, many steps, is one XLA program on each; of streamed images, a group of batches.
           Programs of several GPUs sum by collectives of XLA's: one of a step's packed vector, and
           those of synchronised BN. The host does nothing between steps.
    CPU    no XLA: its convolutions are 2 to 5 times slower than oneDNN's

Gradients are summed and each replica's loss is divided by the global batch. Moving statistics of BN
are averaged with them at every step, so that all replicas always hold the same state to the bit.
Whether a step counts is decided on the sums, alike on every replica. A step whose numbers fail changes
nothing: under a loss scale it is skipped, else the engine halts, its state that of the step before.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from resnet_tf.data import draws, resident
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.models import fusible
from resnet_tf.runs.packing import Packing
from resnet_tf.runs.runner import Runner, all_reduce, inputs_of
from resnet_tf.training import optimizer
from resnet_tf.training.losses import Loss

# Of a step, in the order of the columns that `Engine.train` returns. top1 and top5 are of the labels, also where
# targets are mixed; gradient_norm is before clipping; skipped is 1 for a step that a loss scale skipped.
METRICS = ("loss", "top1", "top5", "lr", "gradient_norm", "loss_scale", "skipped")
_FIGURES = ("loss", "top1", "top5")  # those that are sums over replicas


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How an engine trains.

    Attributes:
        optimizer: an `optimizer.SGD`, `Adam` or `LAMB`.
        schedule: a `schedule.Schedule`.
        loss: a `losses.Loss`, or what has the same methods.
        loss_scale: an `optimizer.LossScale` for float16, else None.
        clip: largest norm of the summed gradient; 0 for no limit.
        accumulate: parts that a replica's batch is worked through in, one after another.
        ema: decay of the moving average of weights and statistics; 0 for none. Its first steps have
            (1 + t) / (10 + t) where that is less, as in TensorFlow's ExponentialMovingAverage.
        pad_crop: a `resident.PadCrop`; None for images that are streamed, which come cropped.
        augmentation: an `augmentation.Augmentation`.
        teacher: a `distillation.Teacher`; None for none.
        seed: of the random views.
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


class Engine(Runner):
    """Trains and runs one model on the replicas of a strategy.

    Build the model and the engine inside `strategy.scope()`.
    """

    def __init__(self, strategy, model, normalization, recipe):
        """Make the variables; nothing is compiled before the first call.

        Args:
            strategy: as of a `Runner`.
            model: likewise.
            normalization: likewise.
            recipe: a `Recipe`.
        """
        super().__init__(strategy, model, normalization, recipe)
        self.recipe = recipe
        self._optimizer = recipe.optimizer
        if self._gpu:
            self._packing = Packing(self.state.weights, self.state.statistics, recipe.optimizer)
            self._optimizer = self._packing.optimizer
        self._train_call = self._compiled(self._train_steps)
        self._train_stream_call = self._compiled(self._train_stream_steps)
        self._statistics_call = self._compiled(self._replica_statistics)
        if self._gpu and not self._whole:
            self._program = tf.function(self._program, jit_compile=True, autograph=False)

    # --- Training ----------------------------------------------------------------------------------------------------

    @property
    def step(self):
        """Steps done, a Python integer. Waits for the device."""
        return int(self.state.get("state/step"))

    def train(self, data, order, count):
        """Run some steps. Does not wait for a GPU.

        Args:
            data: what `place` made of uint8 images [n, height, width, 3] and int32 labels [n].
            order: int32 [most, batch]: the examples of each step, of the same shape in every call, so
                that nothing is compiled twice.
            count: how many rows of it to run, from the first.

        Returns:
            float32 tensor [most, columns]: `METRICS` of each step; rows from `count` on are zero.
        """
        return self._train_call(data, tf.constant(order), tf.constant(count))

    def train_stream(self, groups, start, stop, held):
        """Run some steps on streamed batches. Does not wait for a GPU.

        Args:
            groups: over replicas, tuples of elements of `streams`, as many in every call, so that nothing is compiled
                twice: {"pixels", "labels", "keys"} each; see `batches.training`.
            start: first batch of the group to train on.
            stop: the one after the last.
            held: what `place` made of the images, uint8 [n, height, width, 3], where batches only say where views lie;
                else None for each replica.

        Returns:
            float32 tensor [group, columns]: `METRICS` of each step; rows of other batches are zero.
        """
        return self._train_stream_call(list(zip(groups, held, strict=True)), tf.constant(start), tf.constant(stop))

    def _train_stream_steps(self, data, start, stop):
        def prepare(data):
            group, held = data
            return _stack(group), held

        def batch(replica, data, index, _):
            stacked, held = data
            return self.seen({name: values[index] for name, values in stacked.items()}, held)

        return self._steps(prepare, batch, data, start, stop, len(data[0][0]))

    @staticmethod
    def seen(batch, held):
        """Pixels, labels and keys of a streamed batch, as `views` takes them; `held` are a replica's, of `place`."""
        if held is None:
            return batch["pixels"], batch["labels"], batch["keys"]
        pixels = resident.sampled(held[0], batch["examples"], batch["rows"], batch["columns"])
        return pixels, batch["labels"], batch["keys"]

    def _train_steps(self, data, order, count):
        def batch(replica, data, index, step):
            return self.gather(replica, data, order[index], step)

        return self._steps(lambda data: data, batch, data, tf.constant(0), count, order.shape[0])

    def _steps(self, prepare, batch, data, start, stop, most):
        """Steps start to stop on what batch(replica, prepare(its data), index, step of the run) gives; the metrics."""

        def program(replica, data, _):
            return self._program(prepare, batch, replica, data, start, stop, most)

        def step(replica, data, index):
            state, teacher = self.state.read(replica), self.state.read_teacher(replica)
            sums = self._gradients(state, teacher, *batch(replica, data, index, state["scalars"]["step"]))
            state, row = self._update(state, self._summed(sums))
            self.state.write(replica, state)
            return row

        def body(index, metrics):
            row = self._each_replica(step, data, index)[0]
            return index + 1, tf.tensor_scatter_nd_update(metrics, [[index]], row[None])

        if self._gpu:
            return self._each_replica(program, data, None)[0]  # which are alike on all
        data = self._each_replica(lambda _, data, __: prepare(data), data, None)
        metrics = tf.zeros([most, len(METRICS)])
        return tf.while_loop(lambda index, _: index < stop, body, [start, metrics])[1]

    def _program(self, prepare, batch, replica, data, start, stop, most):
        """`_steps` of one replica as one program on its GPU: the packed state goes from step to step within it."""

        def body(index, metrics, packed):
            state = self._packing.unpack(packed)
            sums = self._gradients(state, teacher, *batch(replica, data, index, state["scalars"]["step"]))
            packed, row = self._update(packed, self._summed(self._packing.pack_sums(sums)))
            return index + 1, tf.tensor_scatter_nd_update(metrics, [[index]], row[None]), packed

        data, teacher = prepare(data), self.state.read_teacher(replica)
        loop = [start, tf.zeros([most, len(METRICS)]), self._packing.pack(self.state.read(replica))]
        _, metrics, packed = tf.while_loop(lambda index, *_: index < stop, body, loop)
        self.state.write(replica, self._packing.unpack(packed))
        return metrics

    def _summed(self, sums):
        return all_reduce(sums) if self.replicas > 1 else sums

    def gather(self, replica, data, order, step):
        """A replica's part of a batch from what `place` made.

        Args:
            replica: of this machine, from 0.
            data: its images and labels.
            order: int32 [batch], the examples of the global batch.
            step: that it is of, from 0.

        Returns:
            pixels, labels, keys; see `views`.
        """
        images, labels = data
        batch = order.shape[0] // self.replicas
        first = (self.first_replica + replica) * batch
        chosen = tf.convert_to_tensor(order)[first : first + batch]
        positions = step * order.shape[0] + tf.range(first, first + batch, dtype=tf.int64)
        keys = draws.keys(self.recipe.seed, positions // images.shape[0], tf.cast(chosen, tf.int64))
        return tf.gather(images, chosen), tf.gather(labels, chosen), keys

    def views(self, pixels, labels, keys):
        """What the network is given of a batch: normalised images and targets, augmented and mixed.

        Args:
            pixels: uint8 [n, height, width, 3].
            labels: int32 [n].
            keys: int64 [n]; see `draws.keys`.

        Returns:
            float32 [n, height, width, 3] and float32 [n, classes].
        """
        recipe = self.recipe
        targets = recipe.loss.targets(labels, self.model.outputs[0].shape[-1])
        return recipe.augmentation.finish(pixels, targets, keys, self._normalization, recipe.pad_crop)

    def denormalize(self, images):
        """Normalised images back to [0, 255], float32."""
        return images * self._normalization.std + self._normalization.mean

    def _gradients(self, state, teacher, pixels, labels, keys):
        """This replica's part of everything that is summed over replicas."""
        parts = self.recipe.accumulate
        batch = (pixels, labels, keys)
        examples = pixels.shape[0] * self.replicas
        if parts == 1:
            sums = self._gradients_of_part(state, list(state["statistics"].values()), teacher, batch, examples)
        else:
            batches = [tf.reshape(values, [parts, values.shape[0] // parts, *values.shape[1:]]) for values in batch]

            def body(part, sums):
                chosen = [values[part] for values in batches]
                new = self._gradients_of_part(state, sums["statistics"], teacher, chosen, examples)
                added = {name: tf.nest.map_structure(tf.add, sums[name], new[name]) for name in sums}
                return part + 1, added | {"statistics": new["statistics"]}

            zero = {name: tf.zeros([]) for name in _FIGURES}
            zero |= {"gradients": [tf.zeros_like(weight) for weight in state["weights"].values()]}
            zero |= {"statistics": list(state["statistics"].values())}
            sums = tf.while_loop(lambda part, _: part < parts, body, [tf.constant(0), zero])[1]
        if self.replicas > 1:
            sums["statistics"] = [value / self.replicas for value in sums["statistics"]]
        return sums

    def _gradients_of_part(self, state, statistics, teacher, batch, examples):
        recipe, labels = self.recipe, batch[1]
        images, targets = self.views(*batch)
        weights = list(state["weights"].values())
        answers = recipe.teacher.logits(teacher, images) if recipe.teacher else None
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            inputs = inputs_of(self.model, images, targets, batch[2])
            outputs, statistics = self.model.stateless_call(weights, statistics, inputs, training=True)
            loss = tf.reduce_sum(recipe.loss(outputs, targets, answers)) / examples
            scaled = loss * state["scalars"]["scale"] if recipe.loss_scale else loss
        gradients = tape.gradient(scaled, weights)
        figures = recipe.loss.metrics(outputs, labels)
        return {
            "gradients": gradients,
            "statistics": list(statistics),
            "loss": loss,
            **{name: tf.reduce_sum(figures[name]) / examples for name in ("top1", "top5")},
        }

    def _update(self, state, sums):
        """New state from the old one and the sums over replicas; and the metrics of the step."""
        recipe, scalars = self.recipe, state["scalars"]
        rate = recipe.schedule.rate(scalars["step"], scalars)
        gradients = sums["gradients"]
        if recipe.loss_scale:
            gradients = [gradient / scalars["scale"] for gradient in gradients]
        norm = (fusible if fusible.wanted() else tf.linalg).global_norm(gradients)
        fine = tf.math.is_finite(norm) & tf.math.is_finite(sums["loss"])
        # A gradient that fails under a loss scale is the scale's business; a loss never is.
        broken = ~tf.math.is_finite(sums["loss"]) if recipe.loss_scale else ~fine
        halted = (scalars["halted"] > 0) | broken
        old = {group: state[group] for group in ("weights", "statistics", "slots", "averages")}

        def updated():
            weights = list(state["weights"].values())
            slots = {slot: list(values.values()) for slot, values in state["slots"].items()}
            clipped = optimizer.clip(gradients, norm, recipe.clip)
            applied = scalars["step"]
            if recipe.loss_scale:
                applied -= tf.cast(scalars["skipped_steps"], tf.int64)
            new_weights, new_slots = self._optimizer.update(weights, slots, clipped, rate, applied)
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

        counts = ~halted if recipe.loss_scale else ~halted & fine
        new_state = self._choose(fine & ~halted, updated, old)
        new_scalars = {"step": scalars["step"] + 1} | recipe.schedule.advance(scalars, 1.0 - sums["top1"])
        if recipe.loss_scale:
            new_scalars |= recipe.loss_scale.advance(scalars, fine)
        new_scalars = {name: tf.where(counts, value, scalars[name]) for name, value in new_scalars.items()}
        new_state["scalars"] = new_scalars | {"halted": tf.cast(halted, tf.float32)}
        scale = scalars["scale"] if recipe.loss_scale else tf.ones([])
        skipped = tf.cast(~fine, tf.float32)
        return new_state, tf.stack([sums["loss"], sums["top1"], sums["top5"], rate, norm, scale, skipped])

    def _choose(self, condition, new, old):
        """new() where a scalar condition holds, else old; XLA computes both and selects, a CPU only the one."""
        if not self._gpu:
            return tf.cond(condition, new, lambda: old)
        return tf.nest.map_structure(lambda a, b: tf.where(condition, a, b), new(), old)

    # --- Statistics of BN --------------------------------------------------------------------------------------------

    def batch_statistics(self, batches, layers):
        """Mean and variance of what each BN is given in all of the batches ("precise BN"), of weights and averages.

        Args:
            batches: iterable of lists over this machine's replicas of (pixels, labels, keys), global batches.
            layers: (path of the moving mean, path of the moving variance, momentum) of each layer to compute.

        Returns:
            {name in the state, model/PATH or ema/PATH: float32 array}.
        """
        # A mean of variances would leave out how far the means of the batches lie apart; so squares are averaged. In
        # float64, since the mean's square is taken from them.
        total, count = {}, 0
        for batch in batches:
            for name, value in self._statistics_call(batch, tuple(layers)).items():
                total[name] = total.get(name, 0.0) + value.numpy().astype(np.float64)
            count += 1
        found = {name: value / count for name, value in total.items()}
        for prefix in ("model/", "ema/") if self.recipe.ema else ("model/",):
            for mean, variance, _ in layers:
                found[prefix + variance] = np.maximum(found[prefix + variance] - found[prefix + mean] ** 2, 0)
        return {name: value.astype(np.float32) for name, value in found.items()}

    def _replica_statistics(self, batch, layers):
        """Sums over replicas of the parts of a batch's means, and in the place of variances of its mean squares."""
        wanted = {path for mean, variance, _ in layers for path in (mean, variance)}  # the others are frozen

        def one(replica, part, _):
            inputs, found = inputs_of(self.model, *self.views(*part), part[2]), {}
            for prefix in ("model/", "ema/") if self.recipe.ema else ("model/",):
                weights, statistics = self.state.read_network(replica, prefix == "ema/")
                zero = [
                    tf.zeros_like(value) if path in wanted else value
                    for path, value in zip(self.state.statistics, statistics, strict=True)
                ]
                # From moving statistics of 0 the new ones are (1 - momentum) times the batch's.
                moved = self.model.stateless_call(weights, zero, inputs, training=True)[1]
                moved = dict(zip(self.state.statistics, moved, strict=True))
                for mean, variance, momentum in layers:
                    first, spread = (moved[path] / (1 - momentum) for path in (mean, variance))
                    found[prefix + mean] = first / self.replicas
                    found[prefix + variance] = (spread + tf.square(first)) / self.replicas
            return self._summed(found)

        return self._each_replica(one, batch, None)[0]


def _stack(batches):
    # On the device: tf.data's batches lie in pinned memory, which is copied to a GPU while it works; what it would
    # stack of them does not, and the launches of kernels wait for such a copy.
    return tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *batches)
