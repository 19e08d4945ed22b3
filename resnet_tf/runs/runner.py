"""One model on the replicas of a strategy, in inference; `engine.Engine` trains it."""

import functools

import numpy as np
import tensorflow as tf

from resnet_tf.runs import devices
from resnet_tf.runs.packing import flattened, unflattened
from resnet_tf.runs.state import State


class Runner:
    """Runs one model on the replicas of a strategy.

    Build the model and the runner inside `strategy.scope()`.

    Attributes:
        state: the `State`.
        replicas: of all machines.
        local_replicas: of this one.
        first_replica: of this machine, among all.
        on_gpu: whether the replicas are GPUs.
    """

    def __init__(self, strategy, model, normalization, recipe=None):
        """Make the variables; nothing is compiled before the first call.

        Args:
            strategy: a MirroredStrategy or MultiWorkerMirroredStrategy.
            model: from normalised images to logits, the first output where it has more; see `inputs_of`.
            normalization: a `colour.Normalization`.
            recipe: a `recipe.Recipe` whose variables are in the state too.
        """
        self.strategy = strategy
        self.model = model
        self.replicas = strategy.num_replicas_in_sync
        self.local_replicas = len(strategy.extended.worker_devices)
        self.first_replica = devices.worker(strategy) * self.local_replicas
        self.state = State(strategy, model, recipe)
        self._normalization = normalization
        self.on_gpu = devices.on_gpu(strategy)
        self._whole = self.on_gpu and self.replicas == 1  # the whole of a call's function is one program
        self._predict_call = self.compiled(self._predict_batches)
        self._predict_stream_call = tf.function(self._predict_stream_batch, autograph=False)
        self._forward_stream = tf.function(self._forward, jit_compile=self.on_gpu, autograph=False)
        self._sum_call = tf.function(self._sum_numbers, autograph=False)
        if self.on_gpu and not self._whole:
            self._forward = tf.function(self._forward, jit_compile=True, autograph=False)

    # --- Data --------------------------------------------------------------------------------------------------------

    def place(self, *arrays):
        """Copy arrays to every replica of this machine: a list over these of tuples of tensors."""
        copies = []
        for device in self.strategy.extended.worker_devices:
            with tf.device(device):
                copies.append(tuple(tf.identity(tf.convert_to_tensor(array)) for array in arrays))
        return copies

    def streams(self, make_dataset, ahead=2):
        """Make one dataset for each replica. Make it once: TensorFlow keeps what a dataset has traced.

        Args:
            make_dataset: function(replica) that makes the dataset of a replica's part of each batch; replicas of
                this machine are counted from 0.
            ahead: batches that wait on the replica's own device where that is a GPU.

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

    def predict(self, images, batch, ema=False):
        """Logits of images, in inference mode, every image once. Each machine answers for itself.

        Args:
            images: uint8 [n, height, width, 3], NumPy; or what `place` made of them alone.
            batch: examples at a time over all local replicas; a multiple of their number.
            ema: by the averaged weights.

        Returns:
            float32 [n, classes], NumPy.
        """
        data = images if isinstance(images, list) else self.place(images)
        examples = data[0][0].shape[0]
        batches = -(-examples // batch)
        # The last batch is filled up with example 0, whose extra answers are cut off below.
        order = np.zeros(batches * batch, np.int32)
        order[:examples] = np.arange(examples)
        with self.device:
            parts = self._predict_call(data, tf.constant(order.reshape(batches, batch)), ema)
        logits = np.concatenate([part.numpy() for part in parts], axis=1)
        return logits.reshape(batches * batch, -1)[:examples]

    def predict_stream(self, iterators, batches, combine, ema=False):
        """Logits of streamed views, in inference mode.

        Args:
            iterators: over elements of `streams`, {"pixels": uint8 [n, views, height, width, 3], ...}; or, of pixels,
                a tuple of these and what else `combine` takes.
            batches: how many to take.
            combine: function(float32 logits [n, views, classes], ...) -> float32 [n, classes].
            ema: by the averaged weights.

        Yields:
            float32 [batch, classes], NumPy.
        """
        waiting = None
        for _ in range(batches):
            parts = self._predict_stream_call(iterators, combine, ema)
            if waiting is not None:  # read while the device works on the batch after it
                yield np.concatenate([part.numpy() for part in waiting])
            waiting = parts
        if waiting is not None:
            yield np.concatenate([part.numpy() for part in waiting])

    def _predict_stream_batch(self, iterators, combine, ema):
        def one(replica, iterator):
            pixels, *more = tf.nest.flatten(next(iterator)["pixels"])
            views, sides = pixels.shape[1], pixels.shape[2:]
            # Images of any size, each another: XLA would compile for every one.
            forward = self._forward_stream if sides.is_fully_defined() else functools.partial(Runner._forward, self)
            sides = sides if sides.is_fully_defined() else tf.shape(pixels)[2:]
            pixels = tf.reshape(pixels, tf.concat([[-1], sides], axis=0))
            logits = forward(*self.state.read_network(replica, ema), pixels)
            return combine(tf.reshape(logits, [-1, views, logits.shape[-1]]), *more)

        return self.each_replica(one, iterators)

    def _predict_batches(self, data, order, ema):
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
        outputs = self.model.stateless_call(weights, statistics, inputs, training=False)[0]
        return tf.nest.flatten(outputs)[0]  # what else there is, is for training

    def sum_over_machines(self, numbers):
        """Sums of a list of numbers that each machine gives, float32, NumPy; all machines must call it."""
        if self.replicas == self.local_replicas:
            return np.array(numbers, np.float32)
        return self._sum_call(tf.constant(numbers, tf.float32) / self.local_replicas).numpy()

    def _sum_numbers(self, numbers):
        return self.each_replica(lambda *_: all_reduce([numbers])[0], [None] * self.local_replicas)[0]

    # --- Replicas ----------------------------------------------------------------------------------------------------

    def each_replica(self, function, data, *arguments):
        """Call function(replica, its data, *arguments) for every replica of this machine, counted from 0.

        Args:
            function: called within each replica.
            data: list over these replicas.
            *arguments: the same for all.

        Returns:
            List over these replicas of what the function returns.
        """
        if self.replicas == 1:
            return [function(0, data[0], *arguments)]

        def in_replica():
            context = tf.distribute.get_replica_context()
            replica = int(tf.get_static_value(context.replica_id_in_sync_group)) % self.local_replicas
            return function(replica, data[replica], *arguments)

        return list(self.strategy.experimental_local_results(self.strategy.run(in_replica)))

    def compiled(self, function):
        """Return a `tf.function`, to be called within `device`; one XLA program where there is one GPU."""
        return tf.function(function, jit_compile=self._whole, autograph=False)

    @property
    def device(self):
        """Context in which a program for one GPU is called: TensorFlow would take the first GPU."""
        return tf.device(self.strategy.extended.worker_devices[0] if self._whole else None)


def inputs_of(model, images, targets=None, keys=None):
    """What a network is called with.

    Args:
        model: a `keras.Model`, of images or of images, targets and keys: one that needs in training to know what is
            there, as a detector does.
        images: float32 [n, height, width, 3], normalised.
        targets: of training; None in inference, where zeros stand for them.
        keys: int64 [n], likewise.

    Returns:
        A tensor, or a list.
    """
    if len(model.inputs) == 1:
        return images
    if targets is None:
        count = images.shape[0] or tf.shape(images)[0]
        return [images, *(tf.zeros([count, *more.shape[1:]], more.dtype) for more in model.inputs[1:])]
    return [images, targets, keys]


def all_reduce(sums):
    """Sum a structure of float32 tensors over replicas, as one vector: one collective, one order.

    Call it within a replica. In a program of XLA's the sum is in the program too.
    """
    context = tf.distribute.get_replica_context()
    return unflattened(context.all_reduce(tf.distribute.ReduceOp.SUM, flattened(sums)), sums)
