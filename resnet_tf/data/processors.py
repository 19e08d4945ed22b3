"""Count the processors, and set the threads of tf.data."""

import os
import pathlib


def count() -> int:
    """Return how many processors this process may use, given its CPU affinity and the CPU quota of its container."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # the quota is "max", or there is no such file
        return allowed


def dataset_options(threads: int = 0):
    """Return `tf.data.Options` without autotuning, and with a pool of `threads` threads if it is not 0."""
    import tensorflow as tf

    options = tf.data.Options()
    # When an iterator ends, TensorFlow 2.21 may wait for its tuning thread for as long as the iterator has lived.
    options.autotune.enabled = False
    if threads:
        options.threading.private_threadpool_size = threads
        options.threading.max_intra_op_parallelism = 1  # there are many images, so one thread per image is best
    return options
