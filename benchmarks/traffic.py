"""Bytes that the kernels of a compiled step read and write, from what XLA dumps of a program.

    XLA_FLAGS="--xla_dump_to=DIR --xla_dump_hlo_as_text" python -m resnet_tf.benchmark train ... --peers=
    python benchmarks/traffic.py DIR/*train_steps*after_optimizations.txt

Prints one JSON line, GB by kind of kernel, of the largest loop in the file: for each kernel all that it is given and
all that it makes, each once. So it knows nothing of caches, nor of what a kernel reads twice.
"""

import argparse
import collections
import math
import pathlib
import re
import sys

from resnet_tf import files

SIZES = {"pred": 1, "u8": 1, "s8": 1, "f16": 2, "bf16": 2, "f32": 4, "s32": 4, "u32": 4, "s64": 8, "u64": 8, "f64": 8}
FREE = {"parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "replica-id"}
INSTRUCTION = re.compile(r"(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\w+\[\S*) ([\w\-]+)\((.*)")


def size(shape):
    """Bytes of a shape as XLA writes it, "f16[256,56,56,64]{3,2,1,0}" or a tuple of such."""
    parts = re.findall(r"\b([a-z]+\d*)\[([\d,]*)\]", shape)
    return sum(SIZES.get(kind, 0) * math.prod(int(side) for side in sides.split(",") if side) for kind, sides in parts)


def computations(text):
    """{name: [(instruction, shape, operation, the rest of its line), ...]} of a module."""
    found, current = {}, None
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) \(.*\{\s*$", line):
            current = found.setdefault(head[1], [])
        elif line.startswith("}"):
            current = None
        elif current is not None and (match := INSTRUCTION.match(line.strip())):
            current.append(match.groups())
    return found


def kind_of(name, operation, rest):
    """What kind of kernel an instruction is."""
    if operation == "custom-call":
        target = re.search(r'custom_call_target="([^"]+)"', rest)[1].lower()
        return "convolutions" if "conv" in target else "matrix products" if "gemm" in target else "other calls"
    if operation == "fusion":
        return "matrix products" if "gemm" in name else "reductions" if "reduce" in name else "elementwise"
    return operation


def traffic(text):
    """{kind: {"kernels", "read_gb", "written_gb"}} of the largest loop of a module; without one, of all of it."""
    found, shapes = computations(text), {}
    sums = collections.defaultdict(lambda: {"kernels": 0, "read_gb": 0.0, "written_gb": 0.0})

    def walk(computation):
        for name, shape, operation, rest in found[computation]:
            shapes[name] = shape
            called = re.search(r"to_apply=%?([\w.\-]+)", rest)
            if operation == "call" and called:  # kernels of one CUDA graph
                walk(called[1])
            elif operation not in FREE:
                row = sums[kind_of(name, operation, rest)]
                row["kernels"] += 1
                row["read_gb"] += sum(size(shapes.get(given, "")) for given in operands(rest)) / 1e9
                row["written_gb"] += size(shape) / 1e9

    loops = set(re.findall(r"body=%?([\w.\-]+)", text)) or {re.search(r"ENTRY %?([\w.\-]+)", text)[1]}
    walk(max(loops, key=lambda body: len(found[body])))
    return dict(sorted(sums.items(), key=lambda item: -item[1]["read_gb"] - item[1]["written_gb"]))


def operands(rest):
    """Names of what an instruction is given."""
    return re.findall(r"%([\w.\-]+)", rest.split("), ")[0])


def main():
    """Read, add up and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("file", help="a module after optimisation, as text")
    path = pathlib.Path(parser.parse_args().file)
    try:
        text = path.read_text()
    except OSError as error:
        sys.exit(f"error: {path}: {error.strerror}")
    if not text.startswith("HloModule"):
        sys.exit(f"error: {path}: not a module of XLA's as text")
    kinds = traffic(text)
    total = sum(row["read_gb"] + row["written_gb"] for row in kinds.values())
    kinds = {kind: {name: round(value, 3) for name, value in row.items()} for kind, row in kinds.items()}
    print(files.to_json({"gb": round(total, 2), "kinds": kinds}))


if __name__ == "__main__":
    main()
