"""Peers of the benchmark of training: `Model.fit` of Keras in this process, PyTorch in another process."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import keras
import numpy as np
import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf.data import resident
from resnet_tf.data.colour import Normalization
from resnet_tf.errors import InputError
from resnet_tf.models import architectures
from resnet_tf.models.layers import KERAS

PATIENCE = 900.0  # seconds to wait for a process to answer; torch.compile may take minutes
SCRIPT = pathlib.Path(__file__).with_name("torch_train.py")


@dataclasses.dataclass
class System:
    """A system that is measured.

    Attributes:
        run: function that does the steps of one measurement and returns their seconds.
        versions: versions of its software, if it does not run in this process; otherwise "".
        peak_mib: peak of its device memory in MiB; None if unknown.
    """

    run: Callable | None
    versions: str = ""
    peak_mib: float | None = None


@dataclasses.dataclass(frozen=True)
class Task:
    """The training task of all systems.

    Attributes:
        config: settings of the benchmark.
        recipe: settings of the optimizer.
        lr: learning rate.
        network: function() that builds our network.
        normalization: a `colour.Normalization`.
        images: uint8 [n, size, size, 3], a pool from which batches are drawn.
        labels: int32 [n].
        classes: number of classes.
        on_gpu: whether training runs on a GPU.
    """

    config: configuration.BenchmarkConfig
    recipe: configuration.OptimizerConfig
    lr: float
    network: Callable
    normalization: Normalization
    images: np.ndarray
    labels: np.ndarray
    classes: int
    on_gpu: bool


def keras_fit(task: Task, stack: contextlib.ExitStack) -> System:
    """Train the same network, built of Keras' own layers alone, by `Model.fit`."""

    def as_keras_layer(layer):
        return KERAS.get(type(layer), type(layer)).from_config(layer.get_config())

    return _fit(task, keras.models.clone_model(task.network(), clone_function=as_keras_layer))


def keras_fit_our_layers(task: Task, stack: contextlib.ExitStack) -> System:
    """Train our network by `Model.fit`."""
    return _fit(task, task.network())


def keras_applications(task: Task, stack: contextlib.ExitStack) -> System:
    """Train the nearest network of keras.applications by `Model.fit`.

    Its ResNets are v1 with biases in the convolutions; v1b differs from them in which convolution has the stride.

    Raises:
        InputError: keras.applications has no such network.
    """
    name = task.config.model.model
    match = re.fullmatch(r"resnet(50|101|152)_(v1|v1b|v2)", name)
    if not match or task.config.model.shortcut or task.config.model.graph:
        raise InputError(f"--peers=keras_applications: it has no network like --model={name} as set")
    make = getattr(keras.applications, f"ResNet{match[1]}" + ("V2" if match[2] == "v2" else ""))
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(configuration.PRECISIONS[task.config.device.precision].policy)
    try:
        network = make(
            weights=None, classes=task.classes, input_shape=task.images.shape[1:], classifier_activation=None
        )
    finally:
        keras.config.set_dtype_policy(policy)
    return _fit(task, network)


class _Held(keras.layers.Layer):
    """Normalised images on the device, looked up by index, so that copies from the host do not limit `fit`."""

    def __init__(self, task):
        super().__init__(dtype=configuration.PRECISIONS[task.config.device.precision].policy)
        self._pool = self.add_weight(
            shape=task.images.shape, dtype=self.compute_dtype, initializer="zeros", trainable=False, autocast=False
        )
        batch = task.config.benchmark.batch_size
        parts = [task.images[first : first + batch] for first in range(0, len(task.images), batch)]
        self._pool.assign(tf.concat([tf.cast(task.normalization(part), self.compute_dtype) for part in parts], axis=0))

    def call(self, indices):
        return tf.gather(self._pool.value, indices)

    def compute_output_shape(self, shape):
        return (*shape, *self._pool.shape[1:])


def _fit(task, network):
    indices = keras.Input((), dtype="int32")
    model = keras.Model(indices, network(_Held(task)(indices)))
    recipe, settings = task.recipe, task.config.benchmark
    optimizer = keras.optimizers.SGD(task.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay)
    if configuration.PRECISIONS[task.config.device.precision].is_scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    # XLA on a GPU only, as in our steps and as with "auto" of Keras.
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), jit_compile=task.on_gpu)
    order = resident.order(len(task.labels), settings.batch_size, 0, settings.steps, seed=0)
    dataset = tf.data.Dataset.from_tensor_slices((order, task.labels[order])).prefetch(2)
    clock = _EpochClock()

    def run():
        model.fit(dataset, shuffle=False, verbose=0, callbacks=[clock])
        return clock.seconds

    return System(run)


class _EpochClock(keras.callbacks.Callback):
    """Clock of the steps of an epoch.

    It leaves out the time in which `fit` makes and deletes its iterator: TensorFlow 2.21 can wait at its end for the
    thread that tunes tf.data, which sleeps for up to as long as the iterator has lived.
    """

    def on_epoch_begin(self, epoch, logs=None):
        self._start = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        self.seconds = time.perf_counter() - self._start


def _name_in_timm(model: configuration.ModelConfig) -> str | None:
    """Return timm's name of a network as it is set; None if timm has no network of that graph."""
    row = architectures.find(model.model)
    if model.shortcut or (architectures.as_in_timm(row).graph != row.graph and model.graph != "timm"):
        return None
    return architectures.name_in_timm(model.model)


def _timm(task, stack, peer, mode):
    config, settings = task.config, task.config.benchmark
    name = _name_in_timm(config.model)
    if not name:
        raise InputError(f"--peers={peer}: timm has no network like --model={config.model.model} as set")
    arguments = [
        f"--model={name}", f"--classes={task.classes}",
        f"--image_size={settings.image_size}", f"--batch_size={settings.batch_size}", f"--steps={settings.steps}",
        f"--precision={config.device.precision}", f"--mode={mode}", f"--device={'cuda' if task.on_gpu else 'cpu'}",
    ]  # fmt: skip
    if tf.config.experimental.tensor_float_32_execution_enabled():
        arguments.append("--tf32")
    process = Process(f"--peers={peer}", [other_python(), SCRIPT, *arguments], other_environment())
    stack.callback(process.close)
    system = System(None, process.answer("versions")["versions"])
    if settings.lock:  # all processes prepare together, so this one may begin while ours is compiled
        process.request()

    def run():
        answer = process.ask("seconds")
        system.peak_mib = answer.get("peak_memory_mib")
        return answer["seconds"]

    system.run = run
    return system


def other_python() -> str:
    """Return the Python interpreter of peers that run without TensorFlow."""
    return os.environ.get("RESNET_TF_PEER_PYTHON") or sys.executable


class Process:
    """A process that answers each line of its stdin with a line of JSON, an object.

    Args:
        label: name in errors, such as --peers=NAME.
        command: list of the program and its arguments.
        environment: environment variables, a dict.
        patience: seconds to wait for an answer; None for `PATIENCE`.
    """

    def __init__(self, label, command, environment, patience=None):
        self._label, self._buffer, self._asked, self.patience = label, b"", False, patience
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (open for the life of the process)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, env=environment,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self._errors.close()
            raise InputError(f"{label}: RESNET_TF_PEER_PYTHON={command[0]}: {error.strerror}") from None

    def request(self, request="go"):
        """Request one measurement; `ask` reads the answer later."""
        self._asked = True
        with contextlib.suppress(BrokenPipeError):  # it has ended: `answer` reports why
            self._process.stdin.write(f"{request}\n".encode())
            self._process.stdin.flush()

    def ask(self, key, request="go"):
        """Return the answer to the pending request, or to a new one if none is pending; it has `key`."""
        if not self._asked:
            self.request(request)
        self._asked = False
        return self.answer(key)

    def answer(self, key):
        """Wait for an answer that has `key`, and return it.

        Raises:
            InputError: the process reports an error, ends, answers without `key`, or needs more time than its patience.
        """
        patience = PATIENCE if self.patience is None else self.patience
        out, deadline = self._process.stdout.fileno(), time.monotonic() + patience
        while b"\n" not in self._buffer:
            if not select.select([out], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise InputError(f"{self._label}: no answer in {patience:g} s; leave it out")
            more = os.read(out, 65536)
            if not more:
                raise InputError(f"{self._label}: its process ended: {self._last_error()}")
            self._buffer += more
        line, self._buffer = self._buffer.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = {}
        if "error" in answer:
            raise InputError(f"{self._label}: {answer['error']}")
        if key not in answer:
            raise InputError(f"{self._label}: its process answered {line.decode(errors='replace')[:200]!r}")
        return answer

    def _last_error(self):
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no message")

    def close(self):
        """Kill the process and all processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for file in (self._process.stdin, self._process.stdout, self._errors):
            with contextlib.suppress(BrokenPipeError):
                file.close()


def other_environment() -> dict:
    """Return this process's environment without paths to TensorFlow's libraries, since PyTorch brings its own."""
    environment = dict(os.environ)
    imported = [*environment.pop("PYTHONPATH", "").split(":"), *sys.path]
    folders = [os.path.abspath(folder) for folder in imported if folder]
    environment.pop("XLA_FLAGS", None)
    libraries = [
        library
        for library in environment.pop("LD_LIBRARY_PATH", "").split(":")
        if library and not any(pathlib.Path(os.path.abspath(library)).is_relative_to(folder) for folder in folders)
    ]
    return environment | ({"LD_LIBRARY_PATH": ":".join(libraries)} if libraries else {})


_TIMM_MODES = {  # how timm's network is compiled, by peer
    "timm_eager": "eager", "timm_compile": "default", "timm_compile_graph": "reduce-overhead",
    "timm_compile_max": "max-autotune",
}  # fmt: skip
PEERS = {
    "keras_fit": keras_fit, "keras_fit_our_layers": keras_fit_our_layers, "keras_applications": keras_applications,
    **{name: functools.partial(_timm, peer=name, mode=mode) for name, mode in _TIMM_MODES.items()},
}  # fmt: skip
