"""Replicas: GPUs where there are some, else parts of the CPU."""

import contextlib
import functools
import json
import logging
import os
import platform

import tensorflow as tf

from resnet_tf.config import PRECISIONS
from resnet_tf.data import processors
from resnet_tf.errors import InputError

SHARED_BY = "RESNET_TF_SHARED_BY"  # in the environment: how many trainings a sweep has on a GPU, or on this machine


def make_strategy(replicas=0, gpus=()):
    """A MirroredStrategy; a MultiWorkerMirroredStrategy where $TF_CONFIG names a cluster of several workers.

    Args:
        replicas: how many of this machine; 0 for every GPU, or one where there is none.
        gpus: numbers of the GPUs to use; () for the first `replicas`.

    Raises:
        InputError: more than there are, or a TF_CONFIG that cannot be read. Parts of the CPU have to be made before
            TensorFlow is first used.
    """
    return _make_strategy(replicas, tuple(gpus), os.environ.get("TF_CONFIG", ""))


# One strategy for the same devices: a second one would number its collectives from the start again, and
# TensorFlow takes those of equal number for the same ("Shape mismatch in the collective instance").
@functools.cache
def _make_strategy(replicas, chosen, cluster):
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    workers = _workers(cluster)
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:
            _set_memory_growth(gpu)
        count, kind, available = len(chosen) or replicas or len(gpus), "GPU", len(gpus)
    else:
        if chosen:
            raise InputError(f"--gpus={','.join(map(str, chosen))}: there is no GPU")
        count, kind = replicas or 1, "CPU"
        available = _split_cpu(count) if workers < 2 else 1
    if count > available or max(chosen, default=0) >= available:
        flag = f"--gpus={','.join(map(str, chosen))}" if chosen else f"--replicas={count}"
        raise InputError(f"{flag}: there are {available} {kind} devices")
    if workers > 1:
        if gpus:
            tf.config.set_visible_devices([gpus[index] for index in chosen or range(count)], "GPU")
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy([f"/{kind}:{index}" for index in chosen or range(count)])


def _workers(cluster):
    """How many workers a TF_CONFIG names."""
    if not cluster:
        return 1
    try:
        parsed = json.loads(cluster)
        return len(parsed["cluster"].get("worker", ())) + len(parsed["cluster"].get("chief", ()))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"TF_CONFIG={cluster}: not JSON with a cluster and a task") from None


def workers(strategy):
    """How many machines train together."""
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def worker(strategy):
    """Number of this machine among those that train together, from 0; the first keeps the run's folder."""
    if workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def _set_memory_growth(gpu):
    with contextlib.suppress(RuntimeError):  # in use already, as it was set then
        tf.config.experimental.set_memory_growth(gpu, True)  # several small trainings may share a card


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count > 1 and len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
        with contextlib.suppress(RuntimeError):  # in use already: the number below tells
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return len(tf.config.list_logical_devices("CPU"))


def has_gpu():
    """Whether this machine has a GPU that TensorFlow can use."""
    return bool(tf.config.list_physical_devices("GPU"))


def on_gpu(strategy):
    """Whether the replicas are GPUs."""
    return "GPU" in strategy.extended.worker_devices[0]


def hardware():
    """The machine in words: "NVIDIA H100 80GB HBM3 x1" or a processor's name and its cores; and by how many shared."""
    trainings = os.environ.get(SHARED_BY)
    return _machine() + (f", shared by {trainings} trainings" if trainings else "")


def _machine():
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
    return f"{name} x{processors.count()}"


# Dense peak of the tensor cores in TFLOP/s, from NVIDIA's data sheets: by precision, for names as CUDA gives them.
_PEAK_TFLOPS = {
    "H200": {"float16": 989, "bfloat16": 989, "tf32": 494, "float32": 67},
    "H100 PCIe": {"float16": 756, "bfloat16": 756, "tf32": 378, "float32": 51},
    "H100": {"float16": 989, "bfloat16": 989, "tf32": 494, "float32": 67},
    "A100": {"float16": 312, "bfloat16": 312, "tf32": 156, "float32": 19.5},
    "L40": {"float16": 362, "bfloat16": 362, "tf32": 183, "float32": 91.6},
    "A10": {"float16": 125, "bfloat16": 125, "tf32": 62.5, "float32": 31.2},
    "L4": {"float16": 121, "bfloat16": 121, "tf32": 60, "float32": 30.3},
    "V100": {"float16": 125, "float32": 15.7},
    "T4": {"float16": 65, "float32": 8.1},
}


def peak_flops(precision):
    """FLOP/s that one GPU of this machine could do at most; None where the table has no such GPU."""
    if not tf.config.list_physical_devices("GPU"):
        return None
    name = hardware()
    for card, peaks in _PEAK_TFLOPS.items():
        if card in name:
            return peaks[precision] * 1e12 if precision in peaks else None
    return None


def use_precision(precision):
    """Let products of float32 keep all their bits, or 10 of them with tf32; for the whole process."""
    tf.config.experimental.enable_tensor_float_32_execution(PRECISIONS[precision].tf32)
