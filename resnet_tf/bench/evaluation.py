"""Speed of evaluation beside its forward pass alone, and what ten crops cost, in turn and in one process."""

import time

import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.bench import inputs, measure
from resnet_tf.data import colour, images
from resnet_tf.errors import InputError
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import find
from resnet_tf.runs import devices, network, record
from resnet_tf.runs.runner import Runner


def benchmark_evaluate(config):
    """Measure the evaluation of encoded images: read, decode, scale, crop, normalise, forward, logits on the host.

    Args:
        config: a `config.BenchmarkConfig`; --steps are batches, whose images go round those of --data_dir.

    Returns:
        What `measure.summary` makes of it, in images/s of the central crop. Peers are "forward", the compiled network
        on one batch of normalised images in memory, of the same size, again and again, and "ten_crop", whose
        views are as many at a time: its ratio is how many times the time of one crop it takes.

    Raises:
        InputError: no images.
    """
    settings = config.benchmark
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
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

    def evaluation(views, images):
        answers = SplitLogits(runner, data, split, images, views)

        def run():
            begun = time.perf_counter()
            answered = len(answers.logits())
            seconds = time.perf_counter() - begun
            if answered != count:
                raise AssertionError(f"{answered} of {count} images were answered")
            return seconds

        return run

    systems = {
        "ours": evaluation("center", batch),
        "forward": _forward(model, split, size, batch, settings.steps, strategy),
    }
    seconds = measure.in_turn(systems | {"ten_crop": evaluation("ten_crop", max(1, batch // 10))}, settings.repeats)
    rates = {name: [count / taken for taken in values] for name, values in seconds.items()}
    result = measure.summary("evaluate", config.model.model, "images/s", rates, higher_is_better=True)
    if settings.results:
        common = record.provenance(0, time.monotonic() - started) | {
            "benchmark": "evaluate", "model": config.model.model, "batch": batch, "precision": config.device.precision,
            "strategy": f"mirrored x{strategy.num_replicas_in_sync}",
        }  # fmt: skip
        for name, rate in {"ours": result["ours"], **result["peers"]}.items():
            row = {"system": name, "images_per_second": round(rate, 1), "ratio": result["ratio"].get(name, "")}
            record.append_result(settings.results, record.SPEED_COLUMNS, common | row)
    return result


def _forward(model, split, size, batch, steps, strategy):
    """On one device, so that of several replicas the rate is that of one."""
    pixels = [images.resize_center(images.decode(split.read(example)), size).numpy() for example in range(batch)]
    batch_in_memory = colour.IMAGENET(np.stack(pixels))
    forward = tf.function(lambda x: model(x, training=False), jit_compile=devices.on_gpu(strategy))

    def run():
        begun = time.perf_counter()
        for _ in range(steps):
            answers = forward(batch_in_memory)
        answers.numpy()  # waits for the device
        return time.perf_counter() - begun

    return run
