"""The devices of a run: replicas on GPUs or parts of the CPU, their description, and float32 precision."""

import contextlib
import functools
import logging
import os
import platform
import threading

import tensorflow as tf

from resnet_tf.config import PRECISIONS
from resnet_tf.data import processors
from resnet_tf.errors import InputError
from resnet_tf.runs import cluster

SHARED_BY = "RESNET_TF_SHARED_BY"  # environment variable: trainings that a sweep runs on one GPU or machine
# XLA leaves out kernels that add in no fixed order, and takes no kernel for having been the fastest in a trial.
DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_gpus_are_used = threading.Event()  # in this process; XLA reads its flags once, before it compiles
_sums_are_kept = threading.Event()  # in the order of the source, by `use_determinism`


def make_strategy(replicas: int = 0, gpus=()) -> tf.distribute.Strategy:
    """Return a MirroredStrategy, or a MultiWorkerMirroredStrategy for several machines, which then meet; see `cluster`.

    Args:
        replicas: replicas on this machine; 0 for every GPU, or one without GPUs.
        gpus: indices of the GPUs to use; () for the first `replicas`.

    Raises:
        InputError: more replicas than devices, or an invalid TF_CONFIG. The CPU can be split only before TensorFlow is
            first used.
    """
    return _make_strategy(replicas, tuple(gpus), cluster.configure())


# One strategy for the same devices: a second one would number its collectives from the start again, and TensorFlow
# confuses collectives of equal number ("Shape mismatch in the collective instance").
@functools.cache
def _make_strategy(replicas, indices, tf_config):
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    machines = cluster.parse(tf_config)
    workers = max(1, len(machines.addresses))
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        for gpu in gpus:
            with contextlib.suppress(RuntimeError):  # already in use, with the setting made before
                tf.config.experimental.set_memory_growth(gpu, True)  # lets several small trainings share a GPU
        count, kind, available = len(indices) or replicas or len(gpus), "GPU", len(gpus)
    else:
        if indices:
            raise InputError(f"--gpus={','.join(map(str, indices))}: there is no GPU")
        count, kind = replicas or 1, "CPU"
        available = _split_cpu(count) if workers < 2 else 1
    if count > available or max(indices, default=0) >= available:
        flag = f"--gpus={','.join(map(str, indices))}" if indices else f"--replicas={count}"
        raise InputError(f"{flag}: there are {available} {kind} devices")
    if workers > 1:
        if gpus:
            tf.config.set_visible_devices([gpus[index] for index in indices or range(count)], "GPU")
        cluster.meet(machines)
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.MirroredStrategy([f"/{kind}:{index}" for index in indices or range(count)])


def workers(strategy: tf.distribute.Strategy) -> int:
    """Return the number of machines that train together."""
    return strategy.num_replicas_in_sync // len(strategy.extended.worker_devices)


def worker(strategy: tf.distribute.Strategy) -> int:
    """Return the index of this machine among those that train together; machine 0 writes the run folder."""
    if workers(strategy) == 1:
        return 0
    resolver = strategy.cluster_resolver
    chiefs = len(resolver.cluster_spec().as_dict().get("chief", ()))
    return resolver.task_id + (chiefs if resolver.task_type == "worker" else 0)


def _split_cpu(count):
    cpu = tf.config.list_physical_devices("CPU")[0]
    if count > 1 and len(tf.config.get_logical_device_configuration(cpu) or ()) < count:
        with contextlib.suppress(RuntimeError):  # already in use: the returned number shows it
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * count)
    return len(tf.config.list_logical_devices("CPU"))


def has_gpu() -> bool:
    """Return whether TensorFlow can use a GPU on this machine."""
    return bool(tf.config.list_physical_devices("GPU"))


def on_gpu(strategy: tf.distribute.Strategy) -> bool:
    """Return whether the replicas are GPUs."""
    return "GPU" in strategy.extended.worker_devices[0]


def hardware() -> str:
    """Return GPU name and count, such as "NVIDIA H100 80GB HBM3 x1", or CPU name and cores; and who shares it."""
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


# Dense tensor core peak in TFLOP/s, {part of the CUDA device name: {precision: peak}}; from NVIDIA's data sheets.
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


def peak_flops(precision: str) -> float | None:
    """Return the peak FLOP/s of one GPU of this machine; None if the table lacks the GPU or the precision."""
    if not has_gpu():
        return None
    name = hardware()
    peaks = next((peaks for card, peaks in _PEAK_TFLOPS.items() if card in name), {})
    return peaks[precision] * 1e12 if precision in peaks else None


def use_precision(precision: str) -> None:
    """Set, for the whole process, whether float32 products keep all bits or, for "tf32", 10 bits."""
    tf.config.experimental.enable_tensor_float_32_execution(PRECISIONS[precision].tf32)


def use_determinism(wanted: bool) -> None:
    """Have programs be compiled that give the same bits in every run on the same devices, if wanted.

    On GPUs this is up to XLA, and for the whole process. On a CPU, TensorFlow makes one sum of several additions, in an
    order that differs from one graph to the next: of momentum, gradient and decayed weight, for one. All else repeats
    by itself: images, their changes and dropout are drawn by seed and step.

    Raises:
        InputError: XLA has compiled for a GPU in this process already, without this.
    """
    if wanted != _sums_are_kept.is_set():
        tf.config.optimizer.set_experimental_options({"arithmetic_optimization": not wanted})
        _sums_are_kept.set() if wanted else _sums_are_kept.clear()
    if not wanted:
        return
    flags = os.environ.get("XLA_FLAGS", "").split()
    if DETERMINISTIC in flags:
        return
    if _gpus_are_used.is_set():
        raise InputError(
            f"--deterministic: this process has used a GPU without it; set XLA_FLAGS={DETERMINISTIC} before, or train "
            "in a process of its own"
        )
    os.environ["XLA_FLAGS"] = " ".join([*flags, DETERMINISTIC])


def note_use_of_gpus() -> None:
    """Note that XLA compiles for GPUs in this process from here on; see `use_determinism`."""
    _gpus_are_used.set()
