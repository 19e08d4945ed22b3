"""Where batches come from: a small set that lives on the devices, or encoded images that are decoded as they come."""

import contextlib
import csv
import dataclasses
import functools
import io
import logging
import time

import numpy as np
import tensorflow as tf

from resnet_tf import files
from resnet_tf.config import evaluation_size
from resnet_tf.data import augmentation, batches, colour, geometry, images, resident, service, sources, verify
from resnet_tf.data.examples import Memory
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, network, signals
from resnet_tf.training.step import Views

_log = logging.getLogger(__name__)

_STATISTICS_EXAMPLES = 4096  # of a streamed set, whose mean and deviation are estimated
STREAM_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,  # where TensorFlow's message quotes bytes that are no text
)
_MOST_BATCHES, _GROUP_BYTES = 8, 2**29  # of a stream that a GPU works on at once
_MOST_WITHOUT_IMAGES = 32  # likewise, where the images are on the device
_GROUPS_AHEAD = 2  # that wait there
_EVALUATION_BATCH, _LARGE_BATCH = 500, 64  # of small images and views, and of large ones
_HELD_BATCHES = 8  # of images on the device that are answered for in one call
_TEN = 10


def load(config):
    """The data of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.

    Returns:
        A `splits.Source`, its splits in memory for --view=pad_crop and encoded for the others; and the images left
        out, (name, reason) each.

    Raises:
        InputError: data that are missing, damaged or too large; more bad images than --skip_bad_images.
    """
    data = config.data
    common = {
        "dataset": data.dataset,
        "data_dir": data.data_dir,
        "classes": data.classes,
        "validation_examples": data.validation_examples,
        "validation_sampling": data.validation_sampling,
        "tfds_name": data.tfds_name,
        "exif": data.exif,
    }
    if config.views.view == "pad_crop":
        source = sources.load(image_size=data.image_size, **common)
        _log.info("%s", source)
        return source, []
    source, skipped = sources.index(**common), []
    _log.info("%s", source)
    if data.skip_bad_images:
        splits = {}
        for name, examples in source.splits.items():
            splits[name], bad = verify.verify(examples, data.skip_bad_images - len(skipped))
            skipped += bad
        source = dataclasses.replace(source, splits=splits)
    return source, skipped


def of_run(run, data_dir=""):
    """The data of a run.

    Args:
        run: a `record.Run`.
        data_dir: where they are now; "" for where they were in training.

    Returns:
        The run's `TrainConfig` with that folder; a `splits.Source`.

    Raises:
        InputError: data that are missing or damaged, or whose classes are not those of the run.
    """
    config = run.config
    if data_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir))
    source, _ = load(config)
    if list(source.classes) != run.manifest["classes"]:
        raise InputError(
            f"--data_dir={config.data.data_dir}: its classes are not those that {run.folder} was trained on"
        )
    return config, source


def write_skipped(folder, skipped):
    """Name in skipped.csv of a run's folder what was left out; nothing where nothing was."""
    if skipped:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("image", "reason"), *skipped])
        files.replace_atomically(folder / "skipped.csv", lambda file: file.write(text.getvalue().encode()))


def view_of(config):
    """The training view that a `TrainConfig` describes; None for a set that lives on the device."""
    views, size = config.views, config.data.image_size
    if views.view == "pad_crop":
        return None
    return geometry.View(views.view, size, views.area, views.aspect, views.scale, views.mirror)


def hold(config, split):
    """The images of a training split where --hold_images asks for them: uint8 [n, height, width, 3]; else None.

    Raises:
        InputError: an image is damaged, or they have several sizes, take too much memory, or would have to be averaged.
    """
    if not config.views.hold_images:
        return None
    images = sources.decoded(split)
    height, width = images.shape[1:3]
    if view_of(config).shrinks(height, width):
        raise InputError(
            f"--hold_images: views of --image_size={config.data.image_size} shrink images of {height} x {width} pixels "
            "so much that pixels must be averaged, which held ones are not: prepare smaller ones"
        )
    return images


def recipe_settings(config):
    """What of a `TrainConfig` a `step.Recipe` needs to know about views."""
    views = config.views
    return {
        "views": Views(views.pad, views.mirror) if views.view == "pad_crop" else None,
        "augmentation": augmentation.Augmentation(
            views.color_jitter or (0.0,) * 4, views.lighting, views.erasing, views.mixup, views.cutmix,
            views.randaugment, views.erasing_area, views.erasing_fill,
        ),
        "seed": config.optimizer.seed,
    }  # fmt: skip


def normalization(config, split):
    """The `colour.Normalization` of a training split; estimated on 4,096 of its examples where it is streamed."""
    kind = config.data.normalization
    if kind in colour.PUBLISHED:
        return colour.PUBLISHED[kind]
    if isinstance(split, Split):
        return colour.normalization(kind, split.images)
    return colour.normalization(kind, sample(config, split, _STATISTICS_EXAMPLES))


def sample(config, split, count):
    """Some images of a split as evaluation sees them, the same ones every time: uint8 [n, size, size, 3]."""
    # Not the run's seed: runs with different seeds must share what they are evaluated with.
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    if isinstance(split, Split):
        return split.images[chosen]
    size = evaluation_size(config.data)
    views = batches.testing(
        split.take(chosen), lambda data, box: geometry.center(data, size, config.data.resize, box), batch=1
    )
    with named_errors(split):
        return np.concatenate([view["pixels"].numpy() for view in views])


@contextlib.contextmanager
def named_errors(split, servers=()):
    """Where a stream fails, say which image it is.

    Raises:
        InputError: names the first bad image of the split.
        signals.Stopped: a data server was started anew and knows nothing of this stream.
    """
    try:
        yield
    except STREAM_ERRORS as error:
        if servers and "dispatcher" in str(error):
            raise signals.Stopped(
                f"--data_service={','.join(servers)}: a data server was started anew; the same command goes on from "
                "the last checkpoint"
            ) from None
        if not isinstance(split, Split):
            verify.verify(split, 0)
            verify.annotations(split)
        if "too many pixels:" in str(error):
            raise InputError(f"--scales: an image would have over {images.MAX_PIXELS} pixels") from None
        raise


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

    def __init__(self, engine, config, split, first_step, most, view=None, held=None):
        """Put the data in place.

        Args:
            engine: a `step.Engine`.
            config: a `TrainConfig`.
            split: a `Split` or an `Examples`.
            first_step: where the run goes on.
            most: steps of one call.
            view: that streamed images are seen through; None for that of the configuration.
            held: what `hold` returned.
        """
        self._view = view or view_of(config)
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
                repeats=views.repeats, threads=views.threads, replica=engine.first_replica + replica,
                replicas=engine.replicas, servers=self._config.device.data_service, held=self._sides,
            )  # fmt: skip

        return [iter(dataset) for dataset in engine.streams(part, ahead)]

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
        with named_errors(self._split):
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


class Evaluation:
    """Answers for a split, every example once."""

    def __init__(self, runner, data, split, batch=0, views="center", average="softmax", threads=0, scales=()):
        """Put the data in place.

        Args:
            runner: a `runner.Runner`.
            data: the `DataConfig` of the run.
            split: a `Split` or an `Examples`.
            batch: examples at a time over all replicas, rounded up to a multiple of their number; 0 to choose.
            views: "center", "ten_crop" or "multi_scale"; a `Split` in memory has but its one. The last is He et al.
                2015, section 4.1: fully convolutional on the whole image at several scales, and mirrored as in the
                work that they follow (Simonyan and Zisserman 2014); images of many sizes, so one a replica at a time.
            average: over views: "softmax" (He et al. 2015) or "logits".
            threads: that decode; 0 for one for each core.
            scales: of multi_scale, shorter sides in pixels. The runner's model must take any size.
        """
        self._runner, self._split = runner, split
        size, resize, replicas = evaluation_size(data), data.resize, runner.local_replicas
        views_of_image = _TEN if views == "ten_crop" else 1
        large = max(1, _LARGE_BATCH // views_of_image)
        batch = batch or (_EVALUATION_BATCH if isinstance(split, Split) or size <= 64 else large)
        self._batch = -(-batch // replicas) * replicas
        self._threads = threads
        self._average = average
        self._streams = {}  # of each view, made when it is first asked for
        self._views = {
            "center": [lambda data, box: geometry.center(data, size, resize, box)[None]],
            "ten_crop": [lambda data, box: geometry.ten_crop(data, size, resize, box)],
            "multi_scale": [functools.partial(_whole_and_mirrored, scale=scale) for scale in scales],
        }[views]
        if views == "multi_scale":
            self._batch = replicas
        self._data = self._placed(split) if isinstance(split, Split) else None

    def _placed(self, split):
        """Images on the devices, in parts between which one may look up, all of one shape so that they compile once."""
        part = min(-(-len(split) // self._batch), _HELD_BATCHES) * self._batch
        parts = [split.images[start : start + part] for start in range(0, len(split), part)]
        parts[-1] = np.resize(parts[-1], (part, *split.images.shape[1:]))
        return [self._runner.place(images) for images in parts]

    @property
    def checks(self):
        """How often `logits` calls its `check`."""
        return len(self._data) if self._data is not None else len(self._views) * -(-len(self._split) // self._batch)

    def logits(self, ema=False, check=lambda: None):
        """Answer for the whole split.

        Args:
            ema: by the averaged weights.
            check: called between batches; what it raises ends the evaluation.

        Returns:
            float32 [n, classes], NumPy; averaged over views, as logarithms where softmax was averaged.
        """
        if self._data is not None:
            parts = []
            for placed in self._data:
                parts.append(self._runner.predict(placed, self._batch, ema))
                check()
            return np.concatenate(parts)[: len(self._split)]
        total = self._logits_of(0, ema, check)
        if len(self._views) == 1:
            return total
        # Each is averaged with its mirror image already. Added as they come: all together are 1 GB for ImageNet.
        softmax = self._average == "softmax"
        for number in range(1, len(self._views)):
            logits = self._logits_of(number, ema, check)
            total = np.logaddexp(total, logits) if softmax else total + logits
        count = np.float32(len(self._views))
        return total - np.log(count) if softmax else total / count

    def _streams_of(self, number):
        if number in self._streams:
            return self._streams[number]
        view = self._views[number]
        replicas = self._runner.local_replicas  # each machine answers for the whole

        def part(replica):
            return batches.testing(
                self._split, view, batch=self._batch, threads=self._threads, replica=replica, replicas=replicas
            )

        self._streams[number] = self._runner.streams(part)
        return self._streams[number]

    def _logits_of(self, number, ema, check):
        iterators = [iter(dataset) for dataset in self._streams_of(number)]
        count = -(-len(self._split) // self._batch)
        with named_errors(self._split):
            parts = []
            for answers in self._runner.predict_stream(iterators, count, COMBINE[self._average], ema):
                parts.append(answers)
                check()
        return np.concatenate(parts)[: len(self._split)]


def _whole_and_mirrored(data, box, scale):
    whole = geometry.scaled_whole(data, scale, box)
    return tf.stack([whole, tf.reverse(whole, [1])])


def _mean_softmax(logits):
    if logits.shape[1] == 1:
        return logits[:, 0]
    likelihoods = tf.nn.log_softmax(logits)
    return tf.reduce_logsumexp(likelihoods, axis=1) - tf.math.log(float(logits.shape[1]))


COMBINE = {"softmax": _mean_softmax, "logits": lambda logits: tf.reduce_mean(logits, axis=1)}
