"""Training speed of several networks, batches and precisions on one GPU, 224 pixels: `benchmark train`, side by side.

    python benchmarks/matrix.py --models=resnet50_v1b,resnet101_v1b --batch_sizes=256,512 --results=results/speed.csv

Compiling takes minutes and most of a processor, measuring seconds of the GPU alone. So they compile together, as many
as fit into --gib of its memory, and take turns to measure (--lock). Those that --results has of this commit are left
out, so that the same command goes on where it was stopped. What each says is in DIR/NAME.log, with --logs=DIR. Prints
one JSON line; exit code 1 where one failed.
"""

import argparse
import csv
import itertools
import os
import pathlib
import signal
import subprocess
import sys
import time

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.models import cost_by_name
from resnet_tf.runs import record

# What ours and one peer hold together, over what convolutions put out in 16 bits. TensorFlow keeps what it once had: 57
# GiB for ResNet-101 with batch 512 on an H200, 3.7 times as much; PyTorch's peak is twice as much. ResNet-50-D had 61,
# 5.4 times as much; room for that would leave half of the memory empty else, so one row may fail, and go on alone.
HELD = 5.7
PROGRAM = (sys.executable, "-m", "resnet_tf.benchmark", "train")


def planned(arguments):
    """The benchmarks to run, those that hold most memory first: [(name, GiB, flags)]."""
    found, done = [], measured(arguments)
    for model, batch, precision in itertools.product(
        arguments.models.split(","), map(int, arguments.batch_sizes.split(",")), arguments.precisions.split(",")
    ):
        gib = HELD * 2 * cost_by_name(model).activations * batch / 2**30
        flags = [f"--model={model}", f"--batch_size={batch}", f"--precision={precision}"]
        if (model, str(batch), precision) not in done:
            found.append((f"{model}-{batch}-{precision}", gib, flags))
    return sorted(found, key=lambda one: -one[1])


def measured(arguments):
    """(model, batch, precision) of which the results have ours and all peers at this commit."""
    path, commit, systems = pathlib.Path(arguments.results), record.commit(), {}
    if path.exists():
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                if row["commit"] == commit and row["benchmark"] == "train":
                    systems.setdefault((row["model"], row["batch"], row["precision"]), set()).add(row["system"])
    return [key for key, there in systems.items() if {"ours", *arguments.peers.split(",")} <= there]


def run(waiting, arguments, program=PROGRAM):
    """Run them; the names of those that failed."""
    logs = pathlib.Path(arguments.logs)
    logs.mkdir(parents=True, exist_ok=True)
    common = [f"--{name}={getattr(arguments, name)}" for name in ("steps", "repeats", "peers", "results")]
    running, failed = [], []
    try:
        while waiting or running:
            held = sum(gib for _, gib, _ in running)
            fits = (one for one in waiting if not running or held + one[1] <= arguments.gib)
            chosen = next(fits, None) if len(running) < arguments.processes else None
            if chosen:
                name, gib, flags = chosen
                waiting.remove(chosen)
                command = [*program, "--image_size=224", *common, f"--lock={logs}/lock", *flags]
                with open(logs / f"{name}.log", "ab") as log:
                    process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
                running.append((name, gib, process))
                say(f"{name}: started")
                continue
            time.sleep(0.2)
            for name, _, process in [one for one in running if one[2].poll() is not None]:
                running = [one for one in running if one[0] != name]
                last = (logs / f"{name}.log").read_text(errors="replace").strip().split("\n")[-1]
                say(f"{name}: {last[:300]}")
                if process.returncode:
                    failed.append(name)
    finally:
        for _, _, process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return failed


def say(text):
    """Show a line of progress."""
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)


def parser():
    """The flags."""
    flags = argparse.ArgumentParser()
    flags.add_argument("--models", default="resnet50_v1b,resnet50_v1d,resnet50_v2,resnet101_v1b")
    flags.add_argument("--batch_sizes", default="128,256,512")
    flags.add_argument("--precisions", default="float16,bfloat16")
    flags.add_argument("--peers", default="timm_compile")
    flags.add_argument("--results", required=True)
    flags.add_argument("--logs", default="runs/matrix")
    flags.add_argument("--steps", type=int, default=20)
    flags.add_argument("--repeats", type=int, default=5)
    flags.add_argument("--processes", type=int, default=6, help="at a time, at most")
    flags.add_argument("--gib", type=float, default=135.0, help="of the GPU's memory that they may hold together")
    return flags


def main():
    """Run what is not measured yet."""
    arguments = parser().parse_args()
    try:
        record.check_results(arguments.results, record.SPEED_COLUMNS)
        waiting = planned(arguments)
    except InputError as error:
        sys.exit(f"error: {error}")
    record.append_result(arguments.results, record.SPEED_COLUMNS, None)  # else the first two might both write a header
    count = len(waiting)
    failed = run(waiting, arguments)
    print(files.to_json({"measured": count - len(failed), "failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # either ends the benchmarks, too
    sys.exit(main())
