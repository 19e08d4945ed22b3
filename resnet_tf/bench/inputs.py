"""Benchmarks of the input: its host part beside other decoders, and its device part beside a training step."""

import functools
import io
import pathlib
import statistics
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.bench import measure
from resnet_tf.data import archives, batches, colour, draws, geometry, images, processors, shards
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, network
from resnet_tf.training import optimizer, schedule
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.supply import Resident

RESIZE = 8 / 7  # shorter side over crop size in benchmarks: 256 over 224
_MAX_IMAGES = 1000
_HOST_BATCH = 50
_ALL_ON = Augmentation((0.4, 0.0, 0.4, 0.4), lighting=0.1, erasing=0.25, mixup=0.2)


def benchmark_input(config: configuration.BenchmarkConfig) -> dict:
    """Measure decoding, random resized crop and mirroring into uint8 batches, beside peers.

    Ours is the stream that training reads. All systems read the same encoded images from memory and cut the same
    boxes. Each is timed by the processor time that it uses on one thread, which gives images/s of one core.

    Returns:
        What `measure.summary` returns, in images/s of one core, and "threads": {number of threads: images/s by the
        clock}.

    Raises:
        InputError: there are no images, a peer is unknown, or a peer's package is not installed.
    """
    settings = config.benchmark
    measure.check(config, _PEERS)
    started, size = time.monotonic(), settings.image_size
    encoded = read_images(settings.data_dir)
    stream = _Stream(encoded, size, settings.steps)
    views = _draw_views(read_images(settings.peers_data_dir) if settings.peers_data_dir else encoded, settings.steps)
    peers = {name: functools.partial(_peer_seconds, _PEERS[name](size), views) for name in settings.peers}
    systems = {"ours": stream.processor_seconds} | peers
    seconds = measure.in_turn(systems, settings.repeats)
    speeds = measure.images_per_second(dict.fromkeys(systems, len(views)) | {"ours": stream.images}, seconds)
    result = measure.summary("input", "random_resized_crop", "images/s of a core", speeds, higher_is_better=True)
    counts = sorted({1, min(2, processors.count()), processors.count()})
    clocks = {str(threads): functools.partial(stream.clock_seconds, threads) for threads in counts}
    seconds = measure.in_turn(clocks, settings.repeats)
    result["threads"] = {name: round(stream.images / statistics.median(taken), 1) for name, taken in seconds.items()}
    threads = {f"ours, {name} threads": speed for name, speed in result["threads"].items()}
    rows = result | {"peers": result["peers"] | threads}
    measure.append_speeds(config, rows, started, model=f"{size} pixels", batch=_HOST_BATCH, strategy="one core")
    return result


class _Stream:
    """The stream of training images, read from memory.

    Attributes:
        images: images that one measurement reads.
    """

    def __init__(self, encoded, size, rounds):
        self._examples, self._view = examples_of(encoded), geometry.View("random_resized_crop", size)
        self._batches = max(1, len(encoded) * rounds // _HOST_BATCH)
        self.images = self._batches * _HOST_BATCH

    def _open(self, threads):
        """Open the stream and empty its buffers, so that every later batch is computed after its request."""
        stream = iter(batches.training(self._examples, self._view, batch=_HOST_BATCH, threads=threads))
        for _ in range(batches.AHEAD + 1):
            next(stream)
        return stream

    def processor_seconds(self):
        """Return the processor time of one measurement on one thread."""
        # Measure between two moments at which the buffers are full and no work is under way.
        stream = self._open(1)
        time.sleep(1.0)
        start = time.process_time()
        for _ in range(self._batches):
            next(stream)
        time.sleep(1.0)
        return time.process_time() - start

    def clock_seconds(self, threads):
        """Return the wall time of one measurement."""
        stream = self._open(threads)
        start = time.perf_counter()
        for _ in range(self._batches):
            next(stream)
        return time.perf_counter() - start


def _peer_seconds(read, views):
    """Return the processor time that a peer takes to read all views and stack them into batches."""
    start, batch = time.process_time(), []
    for data, box, mirror in views:
        batch.append(read(data, box, mirror))
        if len(batch) == _HOST_BATCH:
            np.stack(batch)
            batch = []
    return time.process_time() - start


def _draw_views(encoded, rounds):
    """Draw the views that training draws of `encoded` in so many epochs: [(encoded image, box, whether mirrored)]."""
    count = len(encoded)
    position = tf.range(count * rounds, dtype=tf.int64)
    example = batches.shuffled(position % count, 0, position // count, count)
    keys = draws.keys(0, position // count, example)
    numbers = draws.uniform(keys, draws.Stream.GEOMETRY, geometry.DRAWS).numpy()
    view = geometry.View("random_resized_crop", 1)
    views = []
    for data, row in zip([encoded[index] for index in example.numpy()], numbers, strict=True):
        height, width = images.decode(data).shape[:2]
        box = geometry.random_box(tf.constant(height), tf.constant(width), row, view.area, view.aspect)
        views.append((data, [int(side) for side in box], row[geometry.MIRROR] < 0.5))
    return views


def benchmark_augment(config: configuration.BenchmarkConfig) -> dict:
    """Measure jitter, lighting, normalisation, erasing and mixup, which run on the device, beside a training step.

    Returns:
        What `measure.summary` returns, in ms of a step with everything on; "device_part_ms", the time that this adds
        to a step without augmentation; "share", the same as a fraction of that step; and "alone_ms", the time of the
        device part by itself, a better measure if steps vary by more than the device part takes.
    """
    settings = config.benchmark
    measure.check(config, None)
    started, size, batch = time.monotonic(), settings.image_size, settings.batch_size
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * batch, size, size, 3), np.uint8)
    labels = rng.integers(0, 1000, 2 * batch, np.int32)
    systems = {
        "ours": _augmented_steps(config, strategy, pixels, labels, _ALL_ON),
        "without": _augmented_steps(config, strategy, pixels, labels, Augmentation()),
        "alone": _device_part(strategy, pixels[:batch], labels[:batch], settings.steps),
    }
    seconds = measure.in_turn(systems, settings.repeats)
    times = {name: [1000 * taken / settings.steps for taken in values] for name, values in seconds.items()}
    alone = statistics.median(times.pop("alone"))
    result = measure.summary("augment", config.model.model, "ms", times, higher_is_better=False)
    without = result["peers"]["without"]
    result["device_part_ms"] = round(result["ours"] - without, 3)
    result["alone_ms"] = round(alone, 3)
    result["share"] = round(result["device_part_ms"] / without, 4)
    speeds = result | {"ours": 1000 * batch / result["ours"], "peers": {"without": 1000 * batch / without}}
    measure.append_speeds(config, speeds, started, batch=batch, strategy="one device")
    return result


def _augmented_steps(config, strategy, pixels, labels, augmentation):
    settings, precision = config.benchmark, config.device.precision
    with strategy.scope():
        model = network.create(config.model, 1000, settings.image_size, precision)
        recipe = Recipe(
            optimizer.from_config(configuration.OptimizerConfig(), model), schedule.Schedule(0.01),
            augmentation=augmentation, loss_scale=optimizer.loss_scale_of(precision),
        )  # fmt: skip
        engine = Engine(strategy, model, colour.IMAGENET, recipe)
    supply = Resident(engine, pixels, labels, settings.batch_size, seed=0, capacity=settings.steps)
    return measure.timed_training(engine, supply, settings.steps)


def _device_part(strategy, pixels, labels, steps):
    augment = tf.function(
        lambda pixels, labels, keys: _ALL_ON.finish(pixels, tf.one_hot(labels, 1000), keys, colour.IMAGENET),
        jit_compile=devices.on_gpu(strategy),
    )
    batch = tf.constant(pixels), tf.constant(labels), draws.keys(0, 0, np.arange(len(labels)))

    def work():
        for _ in range(steps):
            augmented, _ = augment(*batch)
        augmented[0, 0, 0].numpy()  # waits for the device

    return measure.timed(work)


def read_images(data_dir: str) -> list[bytes]:
    """Read at most 1,000 encoded images into memory.

    Args:
        data_dir: a folder or tar archive of images at any depth, or a folder that `prepare` wrote.

    Raises:
        InputError: `data_dir` is "" or holds no images.
    """
    if not data_dir:
        raise InputError("--data_dir is not set: a folder or tar archive of images to read")
    path = pathlib.Path(data_dir)
    if (path / "index.json").exists():
        index = shards.read_index(path)
        split = shards.read_split(path, index, next(iter(index["splits"])))
        return [split.read(example) for example in range(min(len(split), _MAX_IMAGES))]
    encoded = []
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
    for name, data in archives.read_members(path, lambda name: name.lower().endswith(suffixes)):
        images.check_header(data, f"{path}: {name}")
        encoded.append(data)
        if len(encoded) == _MAX_IMAGES:
            break
    if not encoded:
        raise InputError(f"--data_dir={data_dir}: no images there")
    return encoded


def examples_of(encoded: list[bytes]) -> Examples:
    """Return encoded images as `Examples` in memory, all of label 0."""
    names = [f"image {index}" for index in range(len(encoded))]
    return Examples(Memory("memory", names, encoded), np.arange(len(encoded)), np.zeros(len(encoded), np.int32))


# --- Peers: function(size) -> function(encoded, box, mirror) -> uint8 [size, size, 3] ---------------------------------


def _module(name, package):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise InputError(f"--peers: {package} is not installed ({error})") from None


def _pillow(size: int) -> Callable:
    image = _module("PIL.Image", "pillow")

    def read(data, box, mirror):
        top, left, height, width = box
        pixels = image.open(io.BytesIO(data)).convert("RGB").crop((left, top, left + width, top + height))
        pixels = np.asarray(pixels.resize((size, size), image.Resampling.BILINEAR))
        return pixels[:, ::-1] if mirror else pixels

    return read


def _torchvision(size: int) -> Callable:
    image, torch = _module("PIL.Image", "pillow"), _module("torch", "torch")
    functional = _module("torchvision.transforms.functional", "torchvision")
    torch.set_num_threads(1)

    def read(data, box, mirror):
        pixels = functional.resized_crop(image.open(io.BytesIO(data)).convert("RGB"), *box, [size, size])
        return functional.pil_to_tensor(functional.hflip(pixels) if mirror else pixels)

    return read


def _opencv(size: int, decode: Callable | None = None) -> Callable:
    cv2 = _module("cv2", "opencv-python-headless")
    cv2.setNumThreads(1)
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    decode = decode or (lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags))

    def read(data, box, mirror):
        top, left, height, width = box
        pixels = decode(data)[top : top + height, left : left + width]
        pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
        return pixels[:, ::-1] if mirror else pixels

    return read


def _simplejpeg(size: int) -> Callable:
    decode = _module("simplejpeg", "simplejpeg").decode_jpeg
    return _opencv(size, functools.partial(decode, colorspace="RGB"))


_PEERS = {"pillow": _pillow, "torchvision": _torchvision, "opencv": _opencv, "simplejpeg": _simplejpeg}
