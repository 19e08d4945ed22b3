"""How fast images are read: the host part beside other decoders, and the device part beside a training step."""

import io
import pathlib
import statistics
import time

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.bench import measure
from resnet_tf.data import archives, batches, colour, draws, geometry, images, processors, shards
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.errors import InputError
from resnet_tf.runs import devices, network, record
from resnet_tf.training import optimizer, schedule
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.supply import Resident

RESIZE = 8 / 7  # what benchmarks have for the shorter side over the crop: 256 over 224
_MAX_IMAGES = 1000
_HOST_BATCH = 50
_ALL_ON = Augmentation((0.4, 0.0, 0.4, 0.4), lighting=0.1, erasing=0.25, mixup=0.2)


def benchmark_input(config):
    """Measure decoding, random resized crop and mirroring into uint8 batches, beside peers.

    Ours is the stream that training reads. All systems get the same encoded images from memory and cut the same
    boxes, and each is timed by the processor time that it used on one thread: images a second of one core.

    Args:
        config: a `config.BenchmarkConfig`.

    Returns:
        What `measure.summary` makes of it, in images/s of one core, and "threads": {number: images/s by the clock}.

    Raises:
        InputError: no images, an unknown peer, or a peer's package that is not installed.
    """
    settings = config.benchmark
    measure.check_peers(settings.peers, _PEERS)
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
    started, size = time.monotonic(), settings.image_size
    encoded = read_images(settings.data_dir)
    originals = read_images(settings.peers_data_dir) if settings.peers_data_dir else encoded
    rounds = settings.steps
    view = geometry.View("random_resized_crop", size)
    examples = examples_of(encoded)
    order, numbers = _draw(len(originals), len(originals) * rounds)
    boxes = [_box(originals[index], row) for index, row in zip(order, numbers, strict=True)]
    mirrored = numbers[:, geometry.MIRROR] < 0.5

    def opened(threads):
        stream = iter(batches.training(examples, view, batch=_HOST_BATCH, threads=threads))
        for _ in range(batches.AHEAD + 1):
            next(stream)
        return stream

    per_turn = max(1, len(examples) * rounds // _HOST_BATCH)

    def processor_time():
        # From a stream whose buffers are full, with nothing in work, to the next time that this is so.
        stream = opened(1)
        time.sleep(1.0)
        begun = time.process_time()
        for _ in range(per_turn):
            next(stream)
        time.sleep(1.0)
        return time.process_time() - begun

    def clock_time(threads):
        stream = opened(threads)  # and emptied: every batch from here on is waited for
        begun = time.perf_counter()
        for _ in range(per_turn):
            next(stream)
        return time.perf_counter() - begun

    def peer(name):
        see = _PEERS[name](size)

        def run():
            begun, batch = time.process_time(), []
            for index, box, flip in zip(order, boxes, mirrored, strict=True):
                batch.append(see(originals[index], box, flip))
                if len(batch) == _HOST_BATCH:
                    np.stack(batch)
                    batch = []
            return time.process_time() - begun

        return run

    systems = {"ours": processor_time} | {name: peer(name) for name in settings.peers}
    seconds = measure.in_turn(systems, settings.repeats)
    counts = {name: len(originals) * rounds for name in systems} | {"ours": per_turn * _HOST_BATCH}
    rates = {name: [counts[name] / taken for taken in values] for name, values in seconds.items()}
    result = measure.summary("input", "random_resized_crop", "images/s of a core", rates, higher_is_better=True)
    clocks = {str(threads): lambda threads=threads: clock_time(threads) for threads in _thread_counts()}
    walls = measure.in_turn(clocks, settings.repeats)
    result["threads"] = {name: round(counts["ours"] / statistics.median(values), 1) for name, values in walls.items()}
    _append(config, result, started, f"{size} pixels", _HOST_BATCH)
    return result


def benchmark_augment(config):
    """Measure the device part, jitter, lighting, normalisation, erasing and mixup, beside a training step.

    Args:
        config: a `config.BenchmarkConfig`.

    Returns:
        What `measure.summary` makes of it, in ms of a step with everything on, "device_part_ms", what that adds
        to a step without, and "share", of such a step; and "alone_ms", the device part by itself, which tells more
        where steps vary by more than it takes.
    """
    settings = config.benchmark
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
    started, size, batch = time.monotonic(), settings.image_size, settings.batch_size
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(1)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2 * batch, size, size, 3), np.uint8)
    labels = rng.integers(0, 1000, 2 * batch, np.int32)

    def step(augmentation):
        recipe = configuration.OptimizerConfig()
        with strategy.scope():
            model = network.create(config.model, 1000, size, config.device.precision)
            training = Recipe(
                optimizer.from_config(recipe, model), schedule.Schedule(0.01), augmentation=augmentation,
                loss_scale=optimizer.loss_scale_of(config.device.precision),
            )  # fmt: skip
            engine = Engine(strategy, model, colour.IMAGENET, training)
        supply = Resident(engine, pixels, labels, batch, seed=0, capacity=settings.steps)

        def run():
            begun, start = time.perf_counter(), engine.step
            engine.run(supply, start, start + settings.steps).numpy()  # waits for the device
            return time.perf_counter() - begun

        return run

    see = tf.function(
        lambda pixels, labels, keys: _ALL_ON.finish(pixels, tf.one_hot(labels, 1000), keys, colour.IMAGENET),
        jit_compile=devices.on_gpu(strategy),
    )
    some = tf.constant(pixels[:batch]), tf.constant(labels[:batch]), draws.keys(0, 0, np.arange(batch))

    def alone():
        begun = time.perf_counter()
        for _ in range(settings.steps):
            images, _ = see(*some)
        images[0, 0, 0].numpy()
        return time.perf_counter() - begun

    systems = {"ours": step(_ALL_ON), "without": step(Augmentation()), "alone": alone}
    seconds = measure.in_turn(systems, settings.repeats)
    times = {name: [1000 * taken / settings.steps for taken in values] for name, values in seconds.items()}
    by_itself = statistics.median(times.pop("alone"))
    result = measure.summary("augment", config.model.model, "ms", times, higher_is_better=False)
    without = result["peers"]["without"]
    result["device_part_ms"] = round(result["ours"] - without, 3)
    result["alone_ms"] = round(by_itself, 3)
    result["share"] = round(result["device_part_ms"] / without, 4)
    speeds = result | {"ours": 1000 * batch / result["ours"], "peers": {"without": 1000 * batch / without}}
    _append(config, speeds, started, config.model.model, batch)
    return result


def _thread_counts():
    return sorted({1, min(2, processors.count()), processors.count()})


def _append(config, result, started, model, batch):
    settings = config.benchmark
    if not settings.results:
        return
    common = record.provenance(0, time.monotonic() - started) | {
        "benchmark": result["benchmark"], "model": model, "batch": batch, "precision": config.device.precision,
        "strategy": "one core" if result["benchmark"] == "input" else "one device",
    }  # fmt: skip
    threads = {f"ours, {name} threads": rate for name, rate in result.get("threads", {}).items()}
    for name, rate in {"ours": result["ours"], **result["peers"], **threads}.items():
        figures = {"images_per_second": round(rate, 1), "ratio": result["ratio"].get(name, "")}
        record.append_result(settings.results, record.SPEED_COLUMNS, common | {"system": name} | figures)


# --- Images and what is drawn for them -------------------------------------------------------------------------------


def read_images(data_dir):
    """Read encoded images into memory, at most 1,000: of a folder or tar at any depth, or of a prepared folder.

    Raises:
        InputError: there are none.
    """
    if not data_dir:
        raise InputError("--data_dir is not set: a folder or tar archive of images to read")
    path = pathlib.Path(data_dir)
    if (path / "index.json").exists():
        index = shards.read_index(path)
        split = shards.read_split(path, index, next(iter(index["splits"])))
        return [split.read(example) for example in range(min(len(split), _MAX_IMAGES))]
    found = []
    suffixes = (".jpg", ".jpeg", ".png", ".bmp", ".gif")
    for name, data in archives.read_members(path, lambda name: name.lower().endswith(suffixes)):
        images.check_header(data, f"{path}: {name}")
        found.append(data)
        if len(found) == _MAX_IMAGES:
            break
    if not found:
        raise InputError(f"--data_dir={data_dir}: no images there")
    return found


def examples_of(encoded):
    """Encoded images in memory as an `Examples`, all of label 0."""
    names = [f"image {index}" for index in range(len(encoded))]
    return Examples(Memory("memory", names, encoded), np.arange(len(encoded)), np.zeros(len(encoded), np.int32))


def _draw(count, positions):
    """What a stream of so many positions draws: examples, and the numbers of their views."""
    position = tf.range(positions, dtype=tf.int64)
    example = batches.shuffled(position % count, 0, position // count, count)
    keys = draws.keys(0, position // count, example)
    return example.numpy(), draws.uniform(keys, draws.Stream.GEOMETRY, geometry.DRAWS).numpy()


def _box(data, numbers):
    height, width = images.decode(data).shape[:2]
    default = geometry.View("random_resized_crop", 1)
    box = geometry.random_box(tf.constant(height), tf.constant(width), numbers, default.area, default.aspect)
    return [int(side) for side in box]


# --- Peers: function(size) -> function(encoded, box, mirror) -> uint8 [size, size, 3] ---------------------------------


def _module(name, package):
    try:
        return __import__(name, fromlist=["_"])
    except ImportError as error:
        raise InputError(f"--peers: {package} is not installed ({error})") from None


def _pillow(size):
    image = _module("PIL.Image", "pillow")

    def see(data, box, mirror):
        top, left, height, width = box
        pixels = image.open(io.BytesIO(data)).convert("RGB").crop((left, top, left + width, top + height))
        pixels = np.asarray(pixels.resize((size, size), image.Resampling.BILINEAR))
        return pixels[:, ::-1] if mirror else pixels

    return see


def _torchvision(size):
    image, torch = _module("PIL.Image", "pillow"), _module("torch", "torch")
    functional = _module("torchvision.transforms.functional", "torchvision")
    torch.set_num_threads(1)

    def see(data, box, mirror):
        pixels = functional.resized_crop(image.open(io.BytesIO(data)).convert("RGB"), *box, [size, size])
        return functional.pil_to_tensor(functional.hflip(pixels) if mirror else pixels)

    return see


def _with_opencv(decode):
    def make(size):
        cv2 = _module("cv2", "opencv-python-headless")
        cv2.setNumThreads(1)
        read = decode(cv2)

        def see(data, box, mirror):
            top, left, height, width = box
            pixels = read(data)[top : top + height, left : left + width]
            pixels = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_LINEAR)
            return pixels[:, ::-1] if mirror else pixels

        return see

    return make


def _decode_opencv(cv2):
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def _decode_simplejpeg(cv2):
    decode = _module("simplejpeg", "simplejpeg").decode_jpeg
    return lambda data: decode(data, colorspace="RGB")


_PEERS = {
    "pillow": _pillow,
    "torchvision": _torchvision,
    "opencv": _with_opencv(_decode_opencv),
    "simplejpeg": _with_opencv(_decode_simplejpeg),
}
