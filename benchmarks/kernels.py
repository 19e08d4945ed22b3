"""Where the time of a profiler's trace went on a GPU: milliseconds by kind of kernel, and in which none ran.

    python -m resnet_tf.train --flagfile=... --profile_steps=20,29 --out=runs/A
    python benchmarks/kernels.py runs/A --steps=10

Prints one JSON line: of the first GPU in the newest trace under the folder, the milliseconds from its first kernel to
the end of its last, those in which none ran, and, by kind, those of kernels and their number; with --steps, of a step.
Kernels that run side by side count each, so kinds can add up to more than the time in which some ran.
"""

import argparse
import collections
import pathlib
import re
import sys

from resnet_tf import files

# The first that a kernel's name holds is its kind. XLA names its own after what is fused.
KINDS = {
    "collectives": r"nccl|all-reduce|all_reduce",
    "copies": r"memcpy|memset",
    "reductions": r"reduce|reduction",
    "convolutions": r"conv(?!ert)|fprop|dgrad|wgrad|xmma|cudnn",
    "matrix products": r"gemm|nvjet|cublas|cutlass|_dot",
    "elementwise": r"",
}


def kind_of(name):
    """The kind of a kernel, one of KINDS."""
    return next(kind for kind, pattern in KINDS.items() if re.search(pattern, name.lower()))


def summary(kernels):
    """What went where, milliseconds.

    Args:
        kernels: [(name, begin, end), ...], nanoseconds, at least one.

    Returns:
        {"ms", "idle_ms", "kinds": {kind: [ms, kernels]}, "longest": {name: ms}}, kinds and names by their time.
    """
    kinds, names = collections.defaultdict(lambda: [0.0, 0]), collections.Counter()
    busy, until = 0.0, min(begin for _, begin, _ in kernels)
    first = until
    for name, begin, end in sorted(kernels, key=lambda kernel: kernel[1]):
        kinds[kind_of(name)][0] += (end - begin) / 1e6
        kinds[kind_of(name)][1] += 1
        names[name] += (end - begin) / 1e6
        busy += max(end - max(begin, until), 0) / 1e6
        until = max(until, end)
    return {
        "ms": (until - first) / 1e6,
        "idle_ms": (until - first) / 1e6 - busy,
        "kinds": dict(sorted(kinds.items(), key=lambda item: -item[1][0])),
        "longest": dict(names.most_common(12)),
    }


def kernels_of(folder):
    """Kernels of the first GPU in the newest trace under a folder; exits where there is none."""
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    files = sorted(pathlib.Path(folder).rglob("*.xplane.pb"), key=lambda path: path.stat().st_mtime)
    if not files:
        sys.exit(f"error: {folder}: no profiler trace (*.xplane.pb) under it: train with --profile_steps=FIRST,LAST")
    space = xplane_pb2.XSpace.FromString(files[-1].read_bytes())
    for plane in sorted(space.planes, key=lambda plane: plane.name):
        if "/device:GPU:" not in plane.name:
            continue
        kernels = [
            (plane.event_metadata[event.metadata_id].name, start, start + event.duration_ps / 1e3)
            for line in plane.lines if line.name.startswith("Stream")
            for event in line.events
            for start in [line.timestamp_ns + event.offset_ps / 1e3]
        ]  # fmt: skip
        if kernels:
            return kernels
    sys.exit(f"error: {files[-1]}: no kernel of a GPU in this trace")


def main():
    """Read, add up and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", help="a run's, or any with a trace under it")
    parser.add_argument("--steps", type=int, default=1, help="that the trace is of")
    arguments = parser.parse_args()
    found, steps = summary(kernels_of(arguments.folder)), arguments.steps

    def shares(value):
        if isinstance(value, dict):
            return {name: shares(part) for name, part in value.items()}
        return [round(part / steps, 3) for part in value] if isinstance(value, list) else round(value / steps, 3)

    print(files.to_json(shares(found)))


if __name__ == "__main__":
    main()
