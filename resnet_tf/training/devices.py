"""Replicas: GPUs where there are some, else parts of the CPU."""

import contextlib
import functools
import logging
import os
import platform

import tensorflow as tf

from resnet_tf.errors import InputError


def make_strategy(replicas=0):
    """A MirroredStrategy.

    Args:
        replicas: how many; 0 for every GPU, or one where there is none.

    Raises:
        InputError: more than there are. Parts of the CPU have to be made before TensorFlow is first used.
    """
    return _make_strategy(replicas)


# One strategy for the same devices: a second one would number its collectives from the start again, and
# TensorFlow takes those of equal number for the same ("Shape mismatch in the collective instance").
@functools.cache
def _make_strategy(replicas):
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:
            _set_memory_growth(gpu)
        count, kind, available = replicas or len(gpus), "GPU", len(gpus)
    else:
        count, kind = replicas or 1, "CPU"
        available = _split_cpu(count)
    if count > available:
        raise InputError(f"--replicas={count}: there are {available} {kind} devices")
    return tf.distribute.MirroredStrategy([f"/{kind}:{index}" for index in range(count)])


def _set_memory_growth(gpu):
    with contextlib.suppress(RuntimeError):  # in use already, as it was set then
        tf.config.experimental.set_memory_growth(gpu, True)  # several small trainings may share a card


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count > 1 and len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
        with contextlib.suppress(RuntimeError):  # in use already: the number below tells
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return len(tf.config.list_logical_devices("CPU"))


def on_gpu(strategy):
    """Whether the replicas are GPUs."""
    return "GPU" in strategy.extended.worker_devices[0]


def hardware():
    """The machine in words, such as "NVIDIA H100 80GB HBM3 x1" or a processor's name and its cores."""
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        name = tf.config.experimental.get_device_details(gpus[0]).get("device_name", "GPU")
        return f"{name} x{len(gpus)}"
    name = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            name = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} x{len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()}"
