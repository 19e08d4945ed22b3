"""Runs training steps on the replicas of a strategy. How a step is compiled depends on the devices.

    GPUs   one call, of many steps, is one XLA program on each GPU. Programs of several GPUs exchange data by XLA's
           collectives: one all-reduce of the packed sums in each step, and those of synchronised BN. The host does
           nothing between the steps of a call.
    CPU    a loop in a TensorFlow graph, without XLA, whose convolutions are 2 to 5 times slower than oneDNN's.

Each replica divides its loss by the size of the global batch, and gradients are summed. The moving statistics of BN are
averaged over replicas at every step, so that all replicas hold the same state to the bit.
"""

import dataclasses
import functools

import numpy as np
import tensorflow as tf

from resnet_tf.runs.packing import Packing
from resnet_tf.runs.runner import Runner, all_reduce
from resnet_tf.training import step


@dataclasses.dataclass(frozen=True)
class Steps:
    """Metrics of steps that may still be running.

    Attributes:
        rows: list of float32 tensors [n, columns]; see `step.METRICS`.
        waited: seconds for which the host waited for images.
    """

    rows: list
    waited: float = 0.0

    def numpy(self) -> np.ndarray:
        """Return float32 [steps, columns]. Waits for the device."""
        return np.concatenate([rows.numpy() for rows in self.rows])


class Engine(Runner):
    """Trains and runs one model on the replicas of a strategy.

    Build the model and the engine inside `strategy.scope()`.

    Attributes:
        recipe: the `recipe.Recipe`, with the normalization of the engine.
        stop_reason: why the training is to end; "" until `request_stop`.
    """

    stop_reason = ""

    def __init__(self, strategy, model, normalization, recipe):
        """Create the variables. Nothing is compiled before the first call.

        Args:
            strategy: as for a `Runner`.
            model: as for a `Runner`.
            normalization: as for a `Runner`.
            recipe: a `recipe.Recipe`.
        """
        super().__init__(strategy, model, normalization, recipe)
        self.recipe = dataclasses.replace(recipe, normalization=normalization)
        self._gradients = step.accumulated if recipe.accumulate > 1 else step.forward_backward
        self._supply = self._call = None
        if self.on_gpu:
            deep = self.network is not self.model  # it has loops
            self._packing = Packing(self.state.weights, self.state.statistics, recipe.optimizer, by_shape=deep)
            self._packed_recipe = dataclasses.replace(self.recipe, optimizer=self._packing.optimizer)
            if self.replicas > 1:
                self._program = tf.function(self._program, jit_compile=True, autograph=False)

    @property
    def step(self) -> int:
        """Number of steps done. Waits for the device."""
        return int(self.state.get("state/step"))

    def request_stop(self, reason: str = "a callback asked for it") -> None:
        """End the training after the steps under way; it is evaluated, saved and finished there."""
        self.stop_reason = reason

    def run(self, supply, start, stop) -> Steps:
        """Run the steps from `start`, counted from 0, up to `stop`. Does not wait for the last call on a GPU.

        Args:
            supply: a `supply.Resident`, `Streamed` or `Held`.
            start: the first step, which must be the engine's `step`.
            stop: the step after the last.
        """
        if self._supply is not supply:  # each supply has a program of its own
            self._supply, self._call = supply, self.compiled(functools.partial(self._steps, supply))
        rows, waited = [], 0.0
        while start < stop:
            part = supply.take(start, stop - start)
            first, last = part.first, part.first + part.count
            with self.device:
                rows.append(self._call(part.data, tf.constant(first), tf.constant(last))[first:last])
            start, waited = start + part.count, waited + part.waited
        return Steps(rows, waited)

    def _steps(self, supply, data, first, last):
        """Run the batches from `first` up to `last` of one call; float32 [supply.capacity, columns], other rows 0."""
        if self.on_gpu:
            return self.each_replica(functools.partial(self._program, supply), data, first, last)[0]  # all are alike
        data = self.each_replica(lambda _, part: supply.prepare(part), data)

        def one_step(index, replica, data):
            state = self.state.read(replica)
            batch = supply.batch(replica, data, index, state["scalars"]["step"])
            sums = self._gradients(self.recipe, self.network, state, batch, batch.pixels.shape[0] * self.replicas)
            state, row = step.update(self.recipe, state, self.summed(sums))
            self.state.write(replica, state)
            return row

        def body(index, metrics):
            row = self.each_replica(functools.partial(one_step, index), data)[0]
            return index + 1, tf.tensor_scatter_nd_update(metrics, [[index]], row[None])

        metrics = tf.zeros([supply.capacity, len(step.METRICS)])
        return tf.while_loop(lambda index, _: index < last, body, [first, metrics])[1]

    def _program(self, supply, replica, data, first, last):
        """Run the steps of one call on one GPU as one program, in which the packed state goes from step to step."""
        data, start = supply.prepare(data), self.state.read(replica)

        def body(index, metrics, packed):
            state = self._packing.unpack(packed) | {"teacher": start["teacher"]}
            batch = supply.batch(replica, data, index, state["scalars"]["step"])
            sums = self._gradients(self.recipe, self.network, state, batch, batch.pixels.shape[0] * self.replicas)
            packed, row = step.update(self._packed_recipe, packed, self.summed(self._packing.pack_sums(sums)))
            return index + 1, tf.tensor_scatter_nd_update(metrics, [[index]], row[None]), packed

        metrics = tf.zeros([supply.capacity, len(step.METRICS)])
        loop = [first, metrics, self._packing.pack(start)]
        _, metrics, packed = tf.while_loop(lambda index, *_: index < last, body, loop)
        self.state.write(replica, self._packing.unpack(packed))
        return metrics

    def summed(self, sums: dict) -> dict:
        """Sum what `step.forward_backward` returns over the replicas; BN statistics are averaged."""
        if self.replicas == 1:
            return sums
        return all_reduce(sums | {"statistics": [value / self.replicas for value in sums["statistics"]]})

    def augment(self, batch) -> tf.Tensor:
        """Return what the network is trained on, as arrays in [0, 255] before normalization: float32; for pictures."""
        images, _ = step.augment(self.recipe, self.model, batch)
        return images * self.recipe.normalization.std + self.recipe.normalization.mean
