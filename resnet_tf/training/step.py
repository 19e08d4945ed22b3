"""One step: forward, backward, sum over replicas, update. The fast path lives here and only here.

The step is a pure function from tensors to tensors (`_gradients`, `_update`); variables are read
before it and assigned after it. How it is compiled depends on the devices:

    one GPU       a whole call, many steps, is one XLA program
    several GPUs  forward and backward, and the update, are each compiled by XLA; between them one
                  all-reduce of a single packed vector. Synchronised BN has collectives of its own,
                  which XLA cannot hold; forward and backward then run without it.
    CPU           no XLA: its convolutions are 2 to 5 times slower than oneDNN's

Gradients are summed and each replica's loss is divided by the global batch. Moving statistics of BN
are averaged with them at every step, so that all replicas always hold the same state to the bit.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from resnet_tf.data import draws
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.training import devices

METRICS = ("loss", "top1", "lr")  # of a step, in the order of the columns that `Engine.train` returns


@dataclasses.dataclass(frozen=True)
class Views:
    """The random view of images that live on the device; see `resident.draw_views`."""

    pad: int = 0
    mirror: bool = False


class Engine:
    """Trains and runs one model on the replicas of a strategy.

    Build the model and the engine inside `strategy.scope()`.

    Attributes:
        state: {name: variable} of all that a checkpoint holds: weights, moving statistics, optimizer
            slots, the step, and the scalars of schedule and loss scale.
    """

    def __init__(
        self, strategy, model, normalization, *, optimizer=None, schedule=None, loss_scale=None, views=None,
        augmentation=None, seed=0,
    ):  # fmt: skip
        """Make the variables; nothing is compiled before the first call.

        Args:
            strategy: a MirroredStrategy.
            model: from normalised images to logits.
            normalization: a `colour.Normalization`.
            optimizer: an `optimizer.SGD`; None for an engine that only runs the model.
            schedule: a `schedule.Schedule`; None likewise.
            loss_scale: an `optimizer.LossScale` for float16, else None.
            views: a `Views`; None for none, and for images that are streamed, which come as views.
            augmentation: an `augmentation.Augmentation`; None for none.
            seed: of the random views.
        """
        self.strategy = strategy
        self.model = model
        self.replicas = strategy.num_replicas_in_sync
        self._normalization = normalization
        self._optimizer, self._schedule, self._loss_scale = optimizer, schedule, loss_scale
        self._views, self._seed = views, seed
        self._augmentation = augmentation or Augmentation()

        self._weights = {variable.path: variable.value for variable in model.trainable_variables}
        self._statistics = {variable.path: variable.value for variable in model.non_trainable_variables}
        self._slots = {
            slot: {path: _zeros_like(variable) for path, variable in self._weights.items()}
            for slot in (optimizer.slots if optimizer else ())
        }
        self._scalars = {"step": _scalar(0, tf.int64)}
        for part in (schedule, loss_scale):
            if part is not None:
                self._scalars |= {name: _scalar(value) for name, value in part.initial_state().items()}
        self.state = {f"model/{path}": variable for path, variable in (self._weights | self._statistics).items()}
        for slot, variables in self._slots.items():
            self.state |= {f"{slot}/{path}": variable for path, variable in variables.items()}
        self.state |= {f"state/{name}": variable for name, variable in self._scalars.items()}

        gpu = devices.on_gpu(strategy)
        whole = gpu and self.replicas == 1
        parts = gpu and not whole
        synchronised = any(getattr(layer, "synchronized", False) for layer in model.layers)
        self._train_call = tf.function(self._train_steps, jit_compile=whole, autograph=False)
        self._train_stream_call = tf.function(self._train_stream_steps, autograph=False)
        self._predict_call = tf.function(self._predict_batches, jit_compile=whole, autograph=False)
        self._predict_stream_call = tf.function(self._predict_stream_batch, autograph=False)
        self._forward_stream = tf.function(self._forward, jit_compile=gpu, autograph=False)
        if whole:  # what feeds the step is no part of the program, each step is
            self._step_on = tf.function(self._step_on, jit_compile=True, autograph=False)
        if parts:
            self._update = tf.function(self._update, jit_compile=True, autograph=False)
            self._forward = tf.function(self._forward, jit_compile=True, autograph=False)
        if parts and not synchronised:
            self._gradients = tf.function(self._gradients, jit_compile=True, autograph=False)

    # --- Data --------------------------------------------------------------------------------------------------------

    def place(self, *arrays):
        """Copy arrays to every replica: a list over replicas of tuples of tensors."""
        copies = []
        for device in self.strategy.extended.worker_devices:
            with tf.device(device):
                copies.append(tuple(tf.identity(tf.convert_to_tensor(array)) for array in arrays))
        return copies

    def stream(self, make_dataset):
        """Open one iterator for each replica.

        Args:
            make_dataset: function(replica=, replicas=) that makes the dataset of a replica's part of each batch.

        Returns:
            List over replicas of iterators, two batches ahead on the replica's own device where that is a GPU.
        """
        iterators = []
        for replica, device in enumerate(self.strategy.extended.worker_devices):
            dataset = make_dataset(replica=replica, replicas=self.replicas)
            if devices.on_gpu(self.strategy):
                dataset = dataset.apply(tf.data.experimental.prefetch_to_device(device, 2))
            iterators.append(iter(dataset))
        return iterators

    # --- Training ----------------------------------------------------------------------------------------------------

    @property
    def step(self):
        """Steps done, a Python integer. Waits for the device."""
        return int(self._local(self._scalars["step"], 0).numpy())

    def train(self, data, order, count):
        """Run some steps. Does not wait for a GPU.

        Args:
            data: what `place` made of uint8 images [n, height, width, 3] and int32 labels [n].
            order: int32 [most, batch]: the examples of each step, of the same shape in every call, so
                that nothing is compiled twice.
            count: how many rows of it to run, from the first.

        Returns:
            float32 tensor [most, 3]: `METRICS` of each step; rows from `count` on are zero.
        """
        return self._train_call(data, tf.constant(order), tf.constant(count))

    def train_stream(self, iterators, most, count):
        """Run some steps on batches from `stream`. Does not wait for a GPU.

        Args:
            iterators: over {"pixels", "labels", "keys"}; see `batches.training`.
            most: rows of the result, the same in every call, so that nothing is compiled twice.
            count: how many steps to run, at most so many.

        Returns:
            As `train`.
        """
        return self._train_stream_call(iterators, tf.fill([most], 0), tf.constant(count))

    def _train_stream_steps(self, iterators, rows, count):
        return self._loop(self._replica_stream_step, iterators, rows, count)

    def _train_steps(self, data, order, count):
        return self._loop(self._replica_step, data, order, count)

    def _loop(self, step, data, order, count):
        def body(index, metrics):
            row = self._each_replica(step, data, order[index])[0]
            return index + 1, tf.tensor_scatter_nd_update(metrics, [[index]], row[None])

        metrics = tf.zeros([order.shape[0], len(METRICS)])
        return tf.while_loop(lambda index, _: index < count, body, [tf.constant(0), metrics])[1]

    def _replica_stream_step(self, replica, iterator, _):
        batch = next(iterator)
        return self._step_on(replica, batch["pixels"], batch["labels"], batch["keys"])

    def _replica_step(self, replica, data, order):
        images, labels = data
        batch = order.shape[0] // self.replicas
        part = slice(replica * batch, (replica + 1) * batch)
        chosen = order[part]
        step = self._local(self._scalars["step"], replica).read_value()
        positions = step * order.shape[0] + tf.range(part.start, part.stop, dtype=tf.int64)
        keys = draws.keys(self._seed, positions // images.shape[0], tf.cast(chosen, tf.int64))
        return self._step_on(replica, tf.gather(images, chosen), tf.gather(labels, chosen), keys)

    def _step_on(self, replica, pixels, labels, keys):
        """One step on this replica's part of a batch; returns the metrics."""
        state = self._read(replica)
        sums = self._gradients(state, pixels, labels, keys)
        if self.replicas > 1:
            sums = _all_reduce(sums)
        new_state, metrics = self._update(state, sums)
        self._assign(replica, new_state)
        return metrics

    def _gradients(self, state, pixels, labels, keys):
        """This replica's part of everything that is summed over replicas."""
        classes = self.model.output_shape[-1]
        images, targets = self._augmentation.finish(pixels, labels, keys, classes, self._normalization, self._views)
        batch = images.shape[0] * self.replicas
        weights = list(state["weights"].values())
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(weights)
            logits, statistics = self.model.stateless_call(
                weights, list(state["statistics"].values()), images, training=True
            )
            losses = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_sum(losses) / batch
            scaled = loss * state["scalars"]["scale"] if self._loss_scale else loss
        gradients = tape.gradient(scaled, weights)
        right = tf.equal(tf.argmax(logits, axis=1, output_type=labels.dtype), labels)
        return {
            "gradients": gradients,
            "statistics": [value / self.replicas for value in statistics] if self.replicas > 1 else statistics,
            "loss": loss,
            "top1": tf.reduce_sum(tf.cast(right, tf.float32)) / batch,
        }

    def _update(self, state, sums):
        """New state from the old one and the sums over replicas; and the metrics of the step."""
        weights, scalars = list(state["weights"].values()), state["scalars"]
        slots = {slot: list(values.values()) for slot, values in state["slots"].items()}
        rate = self._schedule.rate(scalars["step"], scalars if self._schedule.initial_state() else {})
        gradients, statistics = sums["gradients"], sums["statistics"]
        if self._loss_scale:
            gradients = [gradient / scalars["scale"] for gradient in gradients]
        new_weights, new_slots = self._optimizer.update(weights, slots, gradients, rate)
        new_scalars = {"step": scalars["step"] + 1}
        new_scalars |= self._schedule.advance(scalars if self._schedule.initial_state() else {}, 1.0 - sums["top1"])
        if self._loss_scale:
            finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])

            def keep(new, old):
                return [tf.where(finite, a, b) for a, b in zip(new, old, strict=True)]

            new_weights = keep(new_weights, weights)
            new_slots = {slot: keep(values, slots[slot]) for slot, values in new_slots.items()}
            statistics = keep(statistics, state["statistics"].values())
            new_scalars |= self._loss_scale.advance(scalars, finite)
        new_state = {
            "weights": dict(zip(state["weights"], new_weights, strict=True)),
            "statistics": dict(zip(state["statistics"], statistics, strict=True)),
            "slots": {slot: dict(zip(state["weights"], values, strict=True)) for slot, values in new_slots.items()},
            "scalars": new_scalars,
        }
        return new_state, tf.stack([sums["loss"], sums["top1"], rate])

    # --- Running the model -------------------------------------------------------------------------------------------

    def predict(self, images, batch):
        """Logits of images, in inference mode, every image once.

        Args:
            images: uint8 [n, height, width, 3], NumPy; or what `place` made of them alone.
            batch: examples at a time over all replicas; a multiple of their number.

        Returns:
            float32 [n, classes], NumPy.
        """
        data = images if isinstance(images, list) else self.place(images)
        examples = data[0][0].shape[0]
        batches = -(-examples // batch)
        # The last batch is filled up with example 0, whose extra answers are cut off below.
        order = np.zeros(batches * batch, np.int32)
        order[:examples] = np.arange(examples)
        parts = self._predict_call(data, tf.constant(order.reshape(batches, batch)))
        logits = np.concatenate([part.numpy() for part in parts], axis=1)
        return logits.reshape(batches * batch, -1)[:examples]

    def predict_stream(self, iterators, batches, combine):
        """Logits of streamed views, in inference mode.

        Args:
            iterators: from `stream`, over {"pixels": uint8 [n, views, height, width, 3], ...}.
            batches: how many to take.
            combine: function(float32 logits [n, views, classes]) -> float32 [n, classes].

        Yields:
            float32 [batch, classes], NumPy.
        """
        waiting = None
        for _ in range(batches):
            parts = self._predict_stream_call(iterators, combine)
            if waiting is not None:  # read while the device works on the batch after it
                yield np.concatenate([part.numpy() for part in waiting])
            waiting = parts
        if waiting is not None:
            yield np.concatenate([part.numpy() for part in waiting])

    def _predict_stream_batch(self, iterators, combine):
        def one(replica, iterator, _):
            pixels = next(iterator)["pixels"]
            views, sides = pixels.shape[1], pixels.shape[2:]
            # Images of any size, each another: XLA would compile for every one.
            forward = self._forward_stream if sides.is_fully_defined() else functools.partial(Engine._forward, self)
            sides = sides if sides.is_fully_defined() else tf.shape(pixels)[2:]
            state = self._read(replica)
            pixels = tf.reshape(pixels, tf.concat([[-1], sides], axis=0))
            logits = forward(list(state["weights"].values()), list(state["statistics"].values()), pixels)
            return combine(tf.reshape(logits, [-1, views, logits.shape[-1]]))

        return self._each_replica(one, iterators, None)

    def _predict_batches(self, data, order):
        def body(index, parts):
            new = self._each_replica(self._replica_predict, data, order[index])
            rows = zip(parts, new, strict=True)
            return index + 1, [tf.tensor_scatter_nd_update(part, [[index]], row[None]) for part, row in rows]

        batches, batch = order.shape
        empty = [tf.zeros([batches, batch // self.replicas, self.model.output_shape[-1]])] * self.replicas
        return tf.while_loop(lambda index, _: index < batches, body, [tf.constant(0), empty])[1]

    def _replica_predict(self, replica, data, order):
        batch = order.shape[0] // self.replicas
        pixels = tf.gather(data[0], order[replica * batch : (replica + 1) * batch])
        state = self._read(replica)
        return self._forward(list(state["weights"].values()), list(state["statistics"].values()), pixels)

    def _forward(self, weights, statistics, pixels):
        return self.model.stateless_call(weights, statistics, self._normalization(pixels), training=False)[0]

    # --- Replicas and variables --------------------------------------------------------------------------------------

    def _each_replica(self, function, data, order):
        """Call function(replica, data of the replica, order) on every replica; a list of what they return."""
        if self.replicas == 1:
            return [function(0, data[0], order)]

        def in_replica():
            context = tf.distribute.get_replica_context()
            replica = int(tf.get_static_value(context.replica_id_in_sync_group))
            return function(replica, data[replica], order)

        return list(self.strategy.experimental_local_results(self.strategy.run(in_replica)))

    def _local(self, variable, replica):
        return self.strategy.experimental_local_results(variable)[replica]

    def _groups(self):
        return {"weights": self._weights, "statistics": self._statistics, "scalars": self._scalars}

    def _read(self, replica):
        def read(variables):
            return {name: self._local(variable, replica).read_value() for name, variable in variables.items()}

        state = {group: read(variables) for group, variables in self._groups().items()}
        return state | {"slots": {slot: read(variables) for slot, variables in self._slots.items()}}

    def _assign(self, replica, state):
        def assign(variables, values):
            for name, value in values.items():
                self._local(variables[name], replica).assign(value, read_value=False)

        for group, variables in self._groups().items():
            assign(variables, state[group])
        for slot, variables in self._slots.items():
            assign(variables, state["slots"][slot])

    def get_state(self):
        """All of the state as NumPy arrays: {name: array}. Waits for the device."""
        return {name: self._local(variable, 0).numpy() for name, variable in self.state.items()}

    def set_state(self, values):
        """Give every replica the state in {name: array}; names that `state` lacks are passed over."""
        for name, variable in self.state.items():
            for replica in range(self.replicas):
                self._local(variable, replica).assign(values[name])


def _scalar(value, dtype=tf.float32):
    return tf.Variable(value, dtype=dtype, trainable=False)


def _zeros_like(variable):
    return tf.Variable(tf.zeros(variable.shape, variable.dtype), trainable=False)


def _all_reduce(sums):
    """Sum a structure of float32 tensors over replicas as one packed vector: one collective, one order."""
    flat = tf.nest.flatten(sums)
    packed = tf.concat([tf.reshape(tensor, [-1]) for tensor in flat], axis=0)
    packed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, packed)
    parts = tf.split(packed, [tensor.shape.num_elements() for tensor in flat])
    parts = [tf.reshape(part, tensor.shape) for part, tensor in zip(parts, flat, strict=True)]
    return tf.nest.pack_sequence_as(sums, parts)
