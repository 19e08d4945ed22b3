"""Where the batches of a training come from.

Resident   the whole set lives decoded on the devices, where the step also crops
Streamed   the host decodes and crops images ahead of the devices
Held       decoded images live on the devices, and the host says where to cut each view
"""

import time
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from resnet_tf.config import TrainConfig
from resnet_tf.data import batches, draws, resident, service, sources
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.runs import run_data
from resnet_tf.training.step import Batch

_MOST_STACKED, _STACKED_BYTES = 8, 2**29  # batches of images in one XLA call, and their bytes on one GPU
_MOST_STACKED_WITHOUT_IMAGES = 32
_STACKS_AHEAD = 2  # that wait on the GPU


class Part(NamedTuple):
    """The steps of one call into the compiled program.

    Attributes:
        data: list over the replicas of this machine of nested tensors, for `prepare`; of the same shapes in every call,
            so that nothing is compiled twice.
        first: index of the first batch to train on.
        count: number of batches.
        waited: seconds spent waiting for images.
    """

    data: list
    first: int
    count: int
    waited: float = 0.0


class Progression(NamedTuple):
    """Sides of training views that change in equal parts of a training (progressive resizing, Howard 2018, fastai).

    The first use of a size compiles the step for it.

    Attributes:
        sizes: sides in pixels, one for each part of the training.
        total: steps of the training.
    """

    sizes: tuple[int, ...]
    total: int

    def part(self, step: int) -> int:
        """Return the index of the part that a step, from 0, is in; the last one after the end."""
        return min(step * len(self.sizes) // self.total, len(self.sizes) - 1)

    def size(self, step: int) -> int:
        """Return the side of the views of a step."""
        return self.sizes[self.part(step)]

    def ahead(self, step: int) -> int:
        """Return the number of steps from `step` to the end of its part; of the last part, which has no end, many."""
        part = self.part(step)
        return 2**31 if part == len(self.sizes) - 1 else -(-(part + 1) * self.total // len(self.sizes)) - step


class Resident:
    """A set that lives whole on every device; the step crops and mirrors.

    Attributes:
        capacity: most steps in one call.
        seed: of the order and of random changes. The compiled program takes it as data, so that trainings which differ
            by it have one program, which XLA can keep for the next (docs/performance.md).
    """

    def __init__(self, engine, images, labels, batch_size, seed, capacity, alternate=False):
        """Copy the set to the devices.

        Args:
            engine: an `engine.Engine`.
            images: uint8 [n, height, width, 3], NumPy.
            labels: int32 [n], NumPy.
            batch_size: examples of a global batch.
            seed: of the order and of random changes.
            capacity: most steps in one call.
            alternate: whether to mirror each image in every other epoch; see `draws.alternating`.
        """
        self.capacity, self._alternate = capacity, alternate
        self._engine, self._count, self._batch_size, self.seed = engine, len(labels), batch_size, seed
        self._data = engine.place(images, labels)
        self._order = np.zeros((capacity, batch_size), np.int32)

    def restart(self, step: int) -> None:
        """Go on from any step, without preparation."""

    def take(self, step: int, count: int) -> Part:
        """Return the data of at most `count` steps from `step` on."""
        count = min(count, self.capacity)
        self._order[:count] = resident.order(self._count, self._batch_size, step, count, self.seed)
        drawn = tf.constant(self._order), self._seed()
        return Part([(*data, *drawn) for data in self._data], 0, count)

    def _seed(self):
        return tf.constant(np.array(self.seed % 2**64, np.uint64).view(np.int64))

    def prepare(self, data):
        """Return the data of a call as `batch` takes them; called once in each call, in the compiled program."""
        return data

    def batch(self, replica, data, index, step) -> Batch:
        """Return a replica's part of one batch; called in the compiled program.

        Args:
            replica: number among those of this machine, from 0.
            data: from `prepare`.
            index: of the batch in the call, an int32 scalar.
            step: of the run, an int64 scalar.
        """
        images, labels, order, seed = data
        size = self._batch_size // self._engine.replicas
        first = (self._engine.first_replica + replica) * size
        indices = order[index][first : first + size]
        positions = step * self._batch_size + tf.range(first, first + size, dtype=tf.int64)
        epochs, examples = positions // images.shape[0], tf.cast(indices, tf.int64)
        pixels, keys = tf.gather(images, indices), draws.keys(seed, epochs, examples)
        if self._alternate:
            mirrored = draws.alternating(seed, epochs, examples) < 0.5
            pixels = tf.where(mirrored[:, None, None, None], tf.reverse(pixels, [2]), pixels)
        return Batch(pixels, tf.gather(labels, indices), keys)

    def peek(self, step: int, count: int) -> Iterator[list[Batch]]:
        """Yield the batches of some steps without training on them: lists of `Batch` over this machine's replicas."""
        for row in range(step, step + count):
            drawn = tf.constant(resident.order(self._count, self._batch_size, row, 1, self.seed)), self._seed()
            yield [self.batch(replica, (*data, *drawn), 0, row) for replica, data in enumerate(self._data)]


class Streamed:
    """Images that the host decodes, crops and mirrors while the devices work on the batches before.

    Attributes:
        capacity: most steps in one call.
    """

    def __init__(self, engine, config, split, first_step, view, repeats=1, sides=(), progression=None):
        """Start the stream.

        Args:
            engine: an `engine.Engine`.
            config: a `TrainConfig`.
            split: an `Examples`.
            first_step: step that the run goes on from.
            view: a `geometry.View`, or another function that decodes a random view of an example.
            repeats: views of each example in an epoch.
            sides: height and width of images that are on the devices; () where the stream has the images.
            progression: a `Progression` of a `geometry.View`; None for views of one size.
        """
        service.check(config.device.data_service)
        if config.device.data_service and isinstance(split.storage, Memory):
            raise InputError("--data_service cannot send images that are held in memory: unpack the archive")
        self._engine, self._config, self._split = engine, config, split
        self._view, self._repeats, self._sides, self._progression = view, repeats, sides, progression
        self._part = None
        size = 0 if sides else config.data.image_size
        self.capacity = batches_per_call(engine, config.optimizer.batch_size, size)
        self.restart(first_step)

    def restart(self, step: int) -> None:
        """Go on from another step."""
        self._iterators = self._stream(step, _STACKS_AHEAD * self.capacity)
        self._stack, self._done = None, 0
        self._part = self._progression and self._progression.part(step)

    def take(self, step: int, count: int) -> Part:
        """Return the data of at most `count` steps from `step` on; waits for them. Steps must follow one another."""
        waited = 0.0
        if self._progression:
            count = min(count, self._progression.ahead(step))
            if self._progression.part(step) != self._part:
                self.restart(step)
        if self._stack is None:
            begun = time.perf_counter()
            self._stack = [tuple(next(iterator) for _ in range(self.capacity)) for iterator in self._iterators]
            waited = time.perf_counter() - begun
        stack, first = self._stack, self._done
        count = min(count, self.capacity - first)
        self._stack, self._done = (None, 0) if first + count == self.capacity else (stack, first + count)
        return Part(self._on_replicas(stack), first, count, waited)

    def prepare(self, data):
        """Stack the batches of a call; see `Resident.prepare`."""
        # On the device: tf.data's batches lie in pinned memory, from which they are copied to a GPU while it works. A
        # stack that tf.data made would not lie there, and the launches of kernels would wait for its copy.
        return tf.nest.map_structure(lambda *tensors: tf.stack(tensors), *data)

    def batch(self, replica, data, index, step) -> Batch:
        """Return a replica's part of one batch; see `Resident.batch`."""
        return Batch(**{name: data[name][index] for name in Batch._fields})

    def peek(self, step: int, count: int) -> Iterator[list[Batch]]:
        """Yield the batches of some steps without training on them; see `Resident.peek`."""
        with run_data.named_errors(self._split):
            iterators = self._stream(step)
            for _ in range(count):
                data = self._on_replicas([(next(iterator),) for iterator in iterators])
                yield [self.batch(replica, self.prepare(part), 0, step) for replica, part in enumerate(data)]

    def _on_replicas(self, stacks):
        """Return the data of each replica for its stack of batches."""
        return stacks

    def _stream(self, first_step, ahead=2):
        config, engine = self._config, self._engine
        view = self._view.resized(self._progression.size(first_step)) if self._progression else self._view

        def part(replica):
            return batches.training(
                self._split, view, batch=config.optimizer.batch_size, seed=config.optimizer.seed,
                first_step=first_step, repeats=self._repeats, threads=config.views.threads,
                replica=engine.first_replica + replica, replicas=engine.replicas,
                servers=config.device.data_service, held=self._sides, alternate=run_data.alternates(config),
            )  # fmt: skip

        return [iter(dataset) for dataset in engine.streams(part, ahead)]


class Held(Streamed):
    """Decoded images of one size on the devices; the stream says only where the views of each batch lie in them."""

    def __init__(self, engine, config, split, first_step, view, repeats, images, progression=None):
        """Copy the images to the devices and start the stream.

        Args:
            engine: an `engine.Engine`.
            config: a `TrainConfig`.
            split: an `Examples`.
            first_step: step that the run goes on from.
            view: a `geometry.View`.
            repeats: views of each example in an epoch.
            images: uint8 [n, height, width, 3], NumPy; from `held_images`.
            progression: see `Streamed`.
        """
        self._images = engine.place(images)
        super().__init__(engine, config, split, first_step, view, repeats, images.shape[1:3], progression)

    def prepare(self, data):
        """Stack where the views of a call lie; see `Resident.prepare`."""
        stack, images = data
        return super().prepare(stack), images

    def batch(self, replica, data, index, step) -> Batch:
        """Return a replica's part of one batch, cut out of the images; see `Resident.batch`."""
        stack, (images,) = data
        where = {name: values[index] for name, values in stack.items()}
        pixels = resident.sampled(images, where["examples"], where["rows"], where["columns"])
        return Batch(pixels, where["labels"], where["keys"])

    def _on_replicas(self, stacks):
        """Return the data of each replica: its stack of positions, and its images."""
        return list(zip(stacks, self._images, strict=True))


def held_images(config: TrainConfig, split: Examples) -> np.ndarray | None:
    """Decode the images of a training split where --hold_images asks for it.

    Args:
        config: a `TrainConfig`.
        split: an `Examples`.

    Returns:
        uint8 [n, height, width, 3], NumPy; None where they are streamed.

    Raises:
        InputError: an image is damaged, or they have several sizes, take too much memory, or would have to be averaged.
    """
    if not config.views.hold_images:
        return None
    images = sources.decoded(split)
    height, width = images.shape[1:3]
    smallest = min((*config.views.progressive, config.data.image_size))
    if run_data.training_view(config).resized(smallest).shrinks(height, width):
        flag = "image_size" if smallest == config.data.image_size else "progressive"
        raise InputError(
            f"--hold_images: views of --{flag}={smallest} shrink images of {height} x {width} pixels "
            "so much that pixels must be averaged, which held ones are not: prepare smaller ones"
        )
    return images


def make(engine, config, split, first_step, capacity, view=None, held=None, repeats=1, progression=None):
    """Return the supply of a training split.

    Args:
        engine: an `engine.Engine`.
        config: a `TrainConfig`.
        split: a `Split`, which is `Resident`, or an `Examples`.
        first_step: step that the run goes on from.
        capacity: most steps in one call of a `Resident`.
        view: for streamed examples, a function that decodes a random view; see `tasks.task.Task.view`.
        held: from `held_images`.
        repeats: views of each streamed example in an epoch.
        progression: a `Progression` of streamed examples; None for none.
    """
    if isinstance(split, Split):
        part = config.optimizer
        return Resident(
            engine, split.images, split.labels, part.batch_size, part.seed, capacity, run_data.alternates(config)
        )
    if held is not None:
        return Held(engine, config, split, first_step, view, repeats, held, progression)
    return Streamed(engine, config, split, first_step, view, repeats, progression=progression)


def batches_per_call(engine, batch_size: int, image_size: int) -> int:
    """How many batches to stack into one XLA call, whose launch takes some 7 ms on a GPU; 1 on a CPU.

    Args:
        engine: an `engine.Engine`.
        batch_size: of the global batch.
        image_size: height and width in pixels; 0 if no images are transferred.
    """
    if not engine.on_gpu:
        return 1
    if not image_size:
        return _MOST_STACKED_WITHOUT_IMAGES
    replica_bytes = batch_size // engine.replicas * image_size * image_size * 3
    return max(1, min(_MOST_STACKED, _STACKED_BYTES // replica_bytes))
