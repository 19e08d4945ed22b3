"""Where batches come from: a small set that lives on the devices, or encoded images that are decoded as they come."""

import dataclasses
import time

import numpy as np

from resnet_tf.data import augmentation, batches, resident, service, sources
from resnet_tf.data.examples import Memory
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, network, run_data

_MOST_BATCHES, _GROUP_BYTES = 8, 2**29  # of a stream that a GPU works on at once
_MOST_WITHOUT_IMAGES = 32  # likewise, where the images are on the device
_GROUPS_AHEAD = 2  # that wait there


def hold(config, split):
    """The images of a training split where --hold_images asks for them: uint8 [n, height, width, 3]; else None.

    Raises:
        InputError: an image is damaged, or they have several sizes, take too much memory, or would have to be averaged.
    """
    if not config.views.hold_images:
        return None
    images = sources.decoded(split)
    height, width = images.shape[1:3]
    if run_data.training_view(config).shrinks(height, width):
        raise InputError(
            f"--hold_images: views of --image_size={config.data.image_size} shrink images of {height} x {width} pixels "
            "so much that pixels must be averaged, which held ones are not: prepare smaller ones"
        )
    return images


def recipe_settings(config):
    """What of a `TrainConfig` a `step.Recipe` needs to know about views."""
    views = config.views
    return {
        "pad_crop": resident.PadCrop(views.pad, views.mirror) if views.view == "pad_crop" else None,
        "augmentation": augmentation.Augmentation(
            views.color_jitter or (0.0,) * 4, views.lighting, views.erasing, views.mixup, views.cutmix,
            views.randaugment, views.erasing_area, views.erasing_fill,
        ),
        "seed": config.optimizer.seed,
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Steps:
    """Metrics of some steps that may still be running.

    Attributes:
        rows: list of float32 tensors [n, columns]; see `step.METRICS`.
        waited: seconds that the steps stood waiting for images.
    """

    rows: list
    waited: float = 0.0

    def numpy(self):
        """float32 [steps, columns]; waits for the device."""
        return np.concatenate([rows.numpy() for rows in self.rows])


def _group_size(engine, batch, size):
    """Batches that a program takes at once, of images of a size or, 0, none: each launch costs some 7 ms on a GPU."""
    if not devices.on_gpu(engine.strategy):
        return 1
    if not size:
        return _MOST_WITHOUT_IMAGES
    return max(1, min(_MOST_BATCHES, _GROUP_BYTES // (batch // engine.replicas * size * size * 3)))


class Training:
    """Steps on a training split."""

    def __init__(self, engine, config, split, first_step, most, view=None, held=None, repeats=1):
        """Put the data in place.

        Args:
            engine: a `step.Engine`.
            config: a `TrainConfig`.
            split: a `Split` or an `Examples`.
            first_step: where the run goes on.
            most: steps of one call.
            view: that streamed images are seen through; None of a `Split`.
            held: what `hold` returned.
            repeats: views of each streamed example that an epoch has room for.
        """
        self._view, self._repeats = view, repeats
        self._engine, self._config, self._split = engine, config, split
        self._batch, self._seed = config.optimizer.batch_size, config.optimizer.seed
        if isinstance(split, Split):
            self._data = engine.place(split.images, split.labels)
            self._order = np.zeros((most, self._batch), np.int32)
        else:
            service.check(config.device.data_service)
            if config.device.data_service and isinstance(split.storage, Memory):
                raise InputError("--data_service cannot send images that are held in memory: unpack the archive")
            self._order = None
            self._held = [None] * engine.local_replicas if held is None else engine.place(held)
            self._sides = () if held is None else held.shape[1:3]
            self._group_size = _group_size(engine, self._batch, 0 if self._sides else config.data.image_size)
            self.restart(first_step)

    def _stream(self, first_step, ahead=2):
        views, engine = self._config.views, self._engine

        def part(replica):
            return batches.training(
                self._split, self._view, batch=self._batch, seed=self._seed, first_step=first_step,
                repeats=self._repeats, threads=views.threads, replica=engine.first_replica + replica,
                replicas=engine.replicas, servers=self._config.device.data_service, held=self._sides,
            )  # fmt: skip

        return [iter(dataset) for dataset in engine.streams(part, ahead)]

    @property
    def streamed(self):
        """Whether examples are decoded as they come, so that steps may stand waiting for them."""
        return self._order is None

    def restart(self, step):
        """Go on from another step than the one given at first."""
        if self._order is None:
            self._data, self._group, self._done = self._stream(step, _GROUPS_AHEAD * self._group_size), None, 0

    def steps(self, step, count):
        """Run `count` steps from `step` on; see `Engine.train`.

        Returns:
            A `Steps`, which may still be running.
        """
        if self._order is not None:
            self._order[:count] = resident.order(len(self._split), self._batch, step, count, self._seed)
            return Steps([self._engine.train(self._data, self._order, count)[:count]])
        rows, waited = [], 0.0
        while count:
            if self._group is None:
                asked = time.perf_counter()
                self._group = [tuple(next(iterator) for _ in range(self._group_size)) for iterator in self._data]
                self._done = 0
                waited += time.perf_counter() - asked
            start, stop = self._done, min(self._done + count, self._group_size)
            rows.append(self._engine.train_stream(self._group, start, stop, self._held)[start:stop])
            count -= stop - start
            self._group, self._done = (None, 0) if stop == self._group_size else (self._group, stop)
        return Steps(rows, waited)

    def peek(self, step, count):
        """Look at the batches of some steps without training on them.

        Yields:
            For each step a list over this machine's replicas of (pixels, labels, keys), as `Engine.views` takes them.
        """
        with run_data.named_errors(self._split):
            if self._order is None:
                iterators = self._stream(step)
                for _ in range(count):
                    pairs = zip(iterators, self._held, strict=True)
                    yield [self._engine.seen(next(iterator), held) for iterator, held in pairs]
                return
            for row in range(step, step + count):
                order = resident.order(len(self._split), self._batch, row, 1, self._seed)[0]
                yield [self._engine.gather(replica, data, order, row) for replica, data in enumerate(self._data)]


def precise_bn(engine, batches, step, count):
    """Put statistics over whole batches in the place of BN's moving ones, of the weights as they are and averaged.

    Args:
        engine: a `step.Engine`.
        batches: a `Training`.
        step: from which on batches are taken.
        count: of batches.
    """
    layers = [
        (layer.moving_mean.path, layer.moving_variance.path, layer.momentum)
        for layer in network.bn_layers(engine.model)
    ]
    engine.state.set(engine.batch_statistics(batches.peek(step, count), layers))
