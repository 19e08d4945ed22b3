"""How many threads are worth their while."""

import os
import pathlib


def count():
    """Processors that this process may use: of its affinity and of its container's share of time."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = pathlib.Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, min(allowed, -(-int(quota) // int(period))))
    except (OSError, ValueError):  # no such limit ("max"), or no such file
        return allowed
