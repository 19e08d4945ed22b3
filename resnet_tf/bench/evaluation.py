"""Benchmark of evaluation beside its forward pass alone, and of ten crops, in turn and in one process."""

import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.bench import inputs, measure
from resnet_tf.data import colour, images
from resnet_tf.errors import InputError
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import find
from resnet_tf.runs import devices, network
from resnet_tf.runs.runner import Runner


def benchmark_evaluate(config: configuration.BenchmarkConfig) -> dict:
    """Measure the evaluation of encoded images: read, decode, scale, crop, normalise, forward, copy logits to the host.

    Args:
        config: a `config.BenchmarkConfig`. --steps is the number of batches; the images of --data_dir are repeated as
            often as these need.

    Returns:
        What `measure.summary` returns, in images/s of the central crop. The peers are "forward", the compiled network
        called again and again on one batch of normalised images in memory, and "ten_crop", with as many views in a
        batch: its ratio is how many times longer it takes than one crop.

    Raises:
        InputError: there are no images, or the batch does not divide by the replicas.
    """
    settings = config.benchmark
    measure.check(config, None)
    started, size, batch = time.monotonic(), settings.image_size, settings.batch_size
    split = inputs.examples_of(inputs.read_images(settings.data_dir))
    count = batch * settings.steps
    split = split.take(np.arange(count) % len(split))
    devices.use_precision(config.device.precision)
    strategy = devices.make_strategy(config.device.replicas)
    if batch % strategy.num_replicas_in_sync:
        raise InputError(f"--batch_size={batch} does not divide by the replicas")
    with strategy.scope():
        model = network.create(config.model, find(config.model.model).classes, size, config.device.precision)
        runner = Runner(strategy, model, colour.IMAGENET)
    data = configuration.DataConfig(
        dataset="folder", data_dir=settings.data_dir, image_size=size, resize=round(size * inputs.RESIZE)
    )

    def evaluation(views, batch):
        split_logits = SplitLogits(runner, data, split, batch, views)

        def work():
            rows = len(split_logits.logits())
            if rows != count:
                raise AssertionError(f"{rows} rows of logits for {count} images")

        return measure.timed(work)

    systems = {
        "ours": evaluation("center", batch),
        "forward": _forward(model, split, size, batch, settings.steps, strategy),
        "ten_crop": evaluation("ten_crop", max(1, batch // 10)),
    }
    seconds = measure.in_turn(systems, settings.repeats)
    speeds = measure.images_per_second(dict.fromkeys(systems, count), seconds)
    result = measure.summary("evaluate", config.model.model, "images/s", speeds, higher_is_better=True)
    measure.append_speeds(config, result, started, batch=batch, strategy=f"mirrored x{strategy.num_replicas_in_sync}")
    return result


def _forward(model, split, size, batch, steps, strategy) -> Callable:
    """Return a function that times forward passes on one device, also if there are several replicas."""
    pixels = [images.resize_center(images.decode(split.read(example)), size).numpy() for example in range(batch)]
    normalised = colour.IMAGENET(np.stack(pixels))
    forward = tf.function(lambda x: model(x, training=False), jit_compile=devices.on_gpu(strategy))

    def work():
        for _ in range(steps):
            logits = forward(normalised)
        logits.numpy()  # waits for the device

    return measure.timed(work)
