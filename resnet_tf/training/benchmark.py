"""Speed of training beside peers: one process, one model, one batch, the systems in turn."""

import time

import keras
import numpy as np

from resnet_tf import config as configuration
from resnet_tf import measure
from resnet_tf.data import colour, resident
from resnet_tf.errors import InputError
from resnet_tf.models import create_model
from resnet_tf.models.layers import BatchNormalization
from resnet_tf.training import devices, optimizer, record
from resnet_tf.training.schedule import Schedule
from resnet_tf.training.step import Engine, Views

_RECIPE = configuration.OptimizerConfig(train_steps=1)  # He et al.: SGD, momentum, L2 on kernels


def benchmark_train(config):
    """Images per second of training steps, ours and each peer's.

    Ours reads uint8 images on the device and pads, crops, mirrors and normalises them in the step;
    peers are given normalised float images, which costs them less. The peer keras_fit is the same
    network of Keras' own layers alone, trained by `Model.fit`; keras_fit_our_layers has ours.

    Args:
        config: a `config.BenchmarkConfig`.

    Returns:
        What `measure.summary` makes of it, in images per second.

    Raises:
        InputError: an unknown peer.
    """
    settings = config.benchmark
    measure.check_peers(settings.peers, _PEERS)
    if settings.results:
        record.check_results(settings.results, record.SPEED_COLUMNS)
    strategy = devices.make_strategy(config.device.replicas)
    if settings.batch_size % strategy.num_replicas_in_sync:
        raise InputError(f"--batch_size={settings.batch_size} does not divide by the replicas")
    started = time.monotonic()
    rng = np.random.default_rng(0)
    images, labels = _random_examples(rng, settings.batch_size * settings.steps, settings.image_size)
    systems = {"ours": _ours(config, strategy, images, labels)}
    systems |= {name: _PEERS[name](config, images, labels) for name in settings.peers}
    seconds = measure.in_turn(systems, settings.repeats)
    rates = {name: [len(labels) / taken for taken in values] for name, values in seconds.items()}
    result = measure.summary("train", config.model.model, "images/s", rates, higher_is_better=True)
    if settings.results:
        common = record.provenance(0, time.monotonic() - started) | {
            "benchmark": "train",
            "model": config.model.model,
            "batch": settings.batch_size,
            "precision": config.device.precision,
            "strategy": f"mirrored x{strategy.num_replicas_in_sync}",
        }
        for name, rate in {"ours": result["ours"], **result["peers"]}.items():
            figures = {"images_per_second": round(rate, 1), "ratio": result["ratio"].get(name, "")}
            record.append_result(settings.results, record.SPEED_COLUMNS, common | {"system": name} | figures)
    return result


def _random_examples(rng, count, size):
    classes = 10
    images = rng.integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    return images, rng.integers(0, classes, count, dtype=np.int32)


def _network(config, labels):
    size = config.benchmark.image_size
    return create_model(
        config.model.model,
        num_classes=int(labels.max()) + 1,
        input_shape=(size, size, 3),
        shortcut=config.model.shortcut,
        zero_gamma=config.model.zero_gamma,
        initializer=config.model.initializer,
        sync_bn=config.model.sync_bn,
        dtype=configuration.PRECISIONS[config.device.precision],
    )


def _ours(config, strategy, images, labels):
    settings = config.benchmark
    with strategy.scope():
        model = _network(config, labels)
        engine = Engine(
            strategy,
            model,
            colour.normalization("channel", images),
            optimizer=optimizer.from_config(_RECIPE, model),
            schedule=Schedule(_RECIPE.lr),
            loss_scale=optimizer.LossScale() if config.device.precision == "float16" else None,
            views=Views(pad=4, mirror=True),
        )
    data = engine.place(images, labels)

    def run():
        begun = time.perf_counter()
        order = resident.order(len(labels), settings.batch_size, engine.step, settings.steps, seed=0)
        engine.train(data, order, settings.steps).numpy()  # waits for the device
        return time.perf_counter() - begun

    return run


def _keras_fit(config, images, labels):
    def as_keras_has_it(layer):
        if not isinstance(layer, BatchNormalization):
            return type(layer).from_config(layer.get_config())
        return keras.layers.BatchNormalization.from_config(layer.get_config())

    return _fit(
        config, keras.models.clone_model(_network(config, labels), clone_function=as_keras_has_it), images, labels
    )


def _fit(config, model, images, labels):
    model.compile(
        keras.optimizers.SGD(_RECIPE.lr, momentum=_RECIPE.momentum, weight_decay=_RECIPE.weight_decay),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    normalised = colour.normalization("channel", images)(images).numpy()

    clock = _EpochClock()

    def run():
        model.fit(normalised, labels, batch_size=config.benchmark.batch_size, verbose=0, callbacks=[clock])
        return clock.seconds

    return run


class _EpochClock(keras.callbacks.Callback):
    """Seconds of an epoch's steps alone.

    Making and taking down the iterator of `fit` is left out: TensorFlow 2.21 can wait at its end for
    the thread that tunes tf.data, which sleeps for up to as long as the iterator has lived.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self._begun


def _keras_fit_our_layers(config, images, labels):
    return _fit(config, _network(config, labels), images, labels)


_PEERS = {"keras_fit": _keras_fit, "keras_fit_our_layers": _keras_fit_our_layers}
