"""Inference of one model on the replicas of a strategy; `engine.Engine` adds training."""

import functools

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.data import colour
from resnet_tf.models import repeated
from resnet_tf.runs import devices
from resnet_tf.runs.packing import flattened, unflattened
from resnet_tf.runs.state import State


class Runner:
    """A model on the replicas of a strategy. Create both inside `strategy.scope()`.

    Attributes:
        state: the `State`.
        replicas: number of replicas on all machines.
        local_replicas: number of replicas on this machine.
        first_replica: index of the first replica of this machine among all.
        on_gpu: whether the replicas are GPUs.
        network: the model as steps compute it; see `models.repeated`.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, model: keras.Model, normalization: colour.Normalization, recipe=None
    ):
        """Create the variables, including those of a `recipe.Recipe` if given; the first call compiles.

        The model maps normalised images to logits, its first output; see `inputs_of`.
        """
        self.strategy = strategy
        self.model = model
        self.replicas = strategy.num_replicas_in_sync
        self.local_replicas = len(strategy.extended.worker_devices)
        self.first_replica = devices.worker(strategy) * self.local_replicas
        self.state = State(strategy, model, recipe)
        self._normalization = normalization
        self.on_gpu = devices.on_gpu(strategy)
        self.network = model
        if self.on_gpu:
            devices.note_use_of_gpus()
            self.network = repeated.of(model)  # an XLA program that is short however deep the network is
        self._whole = self.on_gpu and self.replicas == 1  # one XLA program for each call
        self._predict_call = self.compiled(self._predict_batches)
        self._predict_stream_call = tf.function(self._predict_stream_batch, autograph=False)
        self._forward_stream = tf.function(self._forward, jit_compile=self.on_gpu, autograph=False)
        self._sum_call = tf.function(self._sum_numbers, autograph=False)
        if self.on_gpu and not self._whole:
            self._forward = tf.function(self._forward, jit_compile=True, autograph=False)

    # --- Data --------------------------------------------------------------------------------------------------------

    def place(self, *arrays) -> list[tuple]:
        """Copy arrays to every replica of this machine; return a list over replicas of tuples of tensors."""
        copies = []
        for device in self.strategy.extended.worker_devices:
            with tf.device(device):
                copies.append(tuple(tf.identity(tf.convert_to_tensor(array)) for array in arrays))
        return copies

    def streams(self, make_dataset, ahead: int = 2) -> list[tf.data.Dataset]:
        """Create one dataset for each replica; reuse them, since TensorFlow keeps what a dataset has traced.

        Args:
            make_dataset: function(replica) that returns the dataset of a replica's part of each batch; replicas of
                this machine are counted from 0.
            ahead: batches to prefetch to the replica's device if it is a GPU.

        Returns:
            List over replicas of datasets.
        """
        datasets = []
        for replica, device in enumerate(self.strategy.extended.worker_devices):
            dataset = make_dataset(replica)
            if self.on_gpu:
                dataset = dataset.apply(tf.data.experimental.prefetch_to_device(device, ahead))
            datasets.append(dataset)
        return datasets

    # --- Running the model -------------------------------------------------------------------------------------------

    def predict(self, images, batch: int, ema: bool = False) -> np.ndarray:
        """Return the logits of images in inference mode. Each machine predicts on its own.

        Args:
            images: uint8 [n, height, width, 3], NumPy; or the result of `place` for this array alone.
            batch: examples of a batch over all local replicas; a multiple of their number.
            ema: use the averaged weights.

        Returns:
            float32 [n, classes], NumPy.
        """
        data = images if isinstance(images, list) else self.place(images)
        examples = data[0][0].shape[0]
        batches = -(-examples // batch)
        # The last batch is padded with example 0; the extra logits are cut off below.
        order = np.zeros(batches * batch, np.int32)
        order[:examples] = np.arange(examples)
        with self.device:
            parts = self._predict_call(data, tf.constant(order.reshape(batches, batch)), ema)
        logits = np.concatenate([part.numpy() for part in parts], axis=1)
        return logits.reshape(batches * batch, -1)[:examples]

    def predict_stream(self, iterators, batches: int, combine, ema: bool = False):
        """Yield the logits of streamed views in inference mode, batch by batch.

        Args:
            iterators: iterators over the datasets of `streams`, whose elements are {"pixels": uint8 [n, views, height,
                width, 3], ...}; "pixels" may be a tuple of the pixels and further arguments of `combine`.
            batches: number of batches.
            combine: function(float32 logits [n, views, classes], ...) that returns float32 [n, classes].
            ema: use the averaged weights.

        Yields:
            float32 [batch, classes], NumPy.
        """
        waiting = []
        for _ in range(batches):
            waiting.append(self._predict_stream_call(iterators, combine, ema))
            if len(waiting) > 1:  # read a batch while the device works on the next one
                yield np.concatenate([part.numpy() for part in waiting.pop(0)])
        for parts in waiting:
            yield np.concatenate([part.numpy() for part in parts])

    def _predict_stream_batch(self, iterators, combine, ema):
        def one(replica, iterator):
            pixels, *more = tf.nest.flatten(next(iterator)["pixels"])
            views, sides = pixels.shape[1], pixels.shape[2:]
            # XLA would compile again for every image size.
            forward = self._forward_stream if sides.is_fully_defined() else functools.partial(Runner._forward, self)
            sides = sides if sides.is_fully_defined() else tf.shape(pixels)[2:]
            pixels = tf.reshape(pixels, tf.concat([[-1], sides], axis=0))
            logits = forward(*self.state.read_network(replica, ema), pixels)
            return combine(tf.reshape(logits, [-1, views, logits.shape[-1]]), *more)

        return self.each_replica(one, iterators)

    def _predict_batches(self, data, order, ema):
        """Predict the batches whose examples are the rows of `order`, one after another in the graph."""

        def body(index, parts):
            new = self.each_replica(functools.partial(self._replica_predict, ema), data, order[index])
            rows = zip(parts, new, strict=True)
            return index + 1, [tf.tensor_scatter_nd_update(part, [[index]], row[None]) for part, row in rows]

        batches, batch = order.shape
        local = self.local_replicas
        empty = [tf.zeros([batches, batch // local, self.model.output_shape[-1]])] * local
        return tf.while_loop(lambda index, _: index < batches, body, [tf.constant(0), empty])[1]

    def _replica_predict(self, ema, replica, data, order):
        batch = order.shape[0] // self.local_replicas
        pixels = tf.gather(data[0], order[replica * batch : (replica + 1) * batch])
        return self._forward(*self.state.read_network(replica, ema), pixels)

    def _forward(self, weights, statistics, pixels):
        inputs = inputs_of(self.model, self._normalization(pixels))
        outputs = self.network.stateless_call(weights, statistics, inputs, training=False)[0]
        return tf.nest.flatten(outputs)[0]  # further outputs are for training

    def sum_over_machines(self, numbers: list[float]) -> np.ndarray:
        """Return the sums of a list of numbers over machines, float32, NumPy; all machines must call it."""
        if self.replicas == self.local_replicas:
            return np.array(numbers, np.float32)
        return self._sum_call(tf.constant(numbers, tf.float32) / self.local_replicas).numpy()

    def _sum_numbers(self, numbers):
        return self.each_replica(lambda *_: all_reduce([numbers])[0], [None] * self.local_replicas)[0]

    # --- Replicas ----------------------------------------------------------------------------------------------------

    def each_replica(self, function, data: list, *arguments) -> list:
        """Call function(replica, data[replica], *arguments) in the context of each replica of this machine.

        Return the list of results. Replicas are counted from 0.
        """
        if self.replicas == 1:
            return [function(0, data[0], *arguments)]

        def in_replica():
            context = tf.distribute.get_replica_context()
            replica = int(tf.get_static_value(context.replica_id_in_sync_group)) % self.local_replicas
            return function(replica, data[replica], *arguments)

        return list(self.strategy.experimental_local_results(self.strategy.run(in_replica)))

    def compiled(self, function):
        """Return a `tf.function` to call within `device`; with one GPU it is one XLA program."""
        return tf.function(function, jit_compile=self._whole, autograph=False)

    @property
    def device(self):
        """The context for calling a program of one GPU; otherwise TensorFlow would use the first GPU."""
        return tf.device(self.strategy.extended.worker_devices[0] if self._whole else None)


def inputs_of(model, images, targets=None, keys=None):
    """Return the inputs of a network.

    Args:
        model: a `keras.Model` of images, or of images, targets and keys, such as a detector that samples boxes around
            the objects in training.
        images: float32 [n, height, width, 3], normalised.
        targets: training targets; None in inference, where zeros replace them.
        keys: int64 [n], keys of the examples; None in inference.

    Returns:
        A tensor, or a list of three.
    """
    if len(model.inputs) == 1:
        return images
    if targets is None:
        count = images.shape[0] or tf.shape(images)[0]
        return [images, *(tf.zeros([count, *more.shape[1:]], more.dtype) for more in model.inputs[1:])]
    return [images, targets, keys]


def all_reduce(sums):
    """Sum a structure of float32 tensors over replicas, as one vector: one collective in a fixed order.

    Call it within a replica. An XLA program includes the sum.
    """
    context = tf.distribute.get_replica_context()
    return unflattened(context.all_reduce(tf.distribute.ReduceOp.SUM, flattened(sums)), sums)
