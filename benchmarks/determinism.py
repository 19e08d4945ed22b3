"""Whether trainings with --deterministic give the same bits, whole or cut and resumed, and what that costs.

    python benchmarks/determinism.py --data_dir=cifar-10-python.tar.gz --out=/tmp/determinism
    python benchmarks/determinism.py --data_dir=CIFAR --photos=imagenette192.tar --gpus=2 --out=/tmp/determinism2
    python benchmarks/determinism.py --smoke

The parts, each for the recipe of ResNet-20 on CIFAR-10 (r20) and for ResNet-50 at 224 pixels in float16 from JPEG files
with every augmentation (r50; from those of --photos, or from synthetic ones):

    whole    a training with --deterministic
    again    the same
    cut      the same, stopped by SIGTERM at a third of its steps and resumed
    free     the same without --deterministic
    cost     steps with and without it, in turn, of two processes, medians of the ratios of --repeats rounds

Every array of the last checkpoint is compared with that of `whole`: weights, moving statistics, optimizer, loss scale.
A training takes at most --seconds, then it is stopped; the same command with the same --out goes on where this one was
stopped. Prints a table, then one line of JSON.
"""

import argparse
import contextlib
import json
import os
import pathlib
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from resnet_tf import files
from resnet_tf.bench import peers
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, record, signals

ROOT = pathlib.Path(__file__).parents[1]
PARTS = ("whole", "again", "cut", "free", "cost")
NETWORKS = ("r20", "r50")
AUGMENTED = (
    "--view=random_resized_crop", "--normalization=imagenet", "--color_jitter=0.4,0,0.4,0.4", "--lighting=0.1",
    "--mixup=0.2", "--erasing=0.25", "--label_smoothing=0.1",
)  # fmt: skip


def training_flags(arguments, network):
    """Flags of the trainings of a network."""
    if network == "r20":
        flags = [f"--flagfile={ROOT}/flags/cifar10_resnet20.cfg", f"--train_steps={arguments.r20_steps}"]
        flags += [f"--data_dir={arguments.data_dir}"] if arguments.data_dir else ["--dataset=synthetic"]
        flags += ["--model=cifar_resnet8_v1", "--batch_size=32", "--warmup_epochs=0"] if arguments.smoke else []
    else:
        size, batch = (32, 16) if arguments.smoke else (224, 256 * arguments.gpus)
        flags = ["--model=resnet18_v1b"] if arguments.smoke else ["--model=resnet50_v1b", "--precision=float16"]
        data = [f"--data_dir={arguments.photos}"] if arguments.photos else []
        flags += [f"--dataset={'folder' if data else 'synthetic'}", *data, f"--image_size={size}"]
        flags += [f"--batch_size={batch}", f"--train_steps={arguments.r50_steps}", "--log_every=10", *AUGMENTED]
    flags += ["--log_every=1", "--steps_per_call=1"] if arguments.smoke else []  # else it ends before it is cut
    return [*flags, f"--replicas={arguments.gpus}"]


def trained(arguments, network, part):
    """Train, or go on, and return (steps, seconds of them); None where the time was not enough, which is said."""
    folder = pathlib.Path(arguments.out) / f"{network}-{part}"
    flags = [*training_flags(arguments, network), f"--out={folder}"] + (["--deterministic"] if part != "free" else [])
    total = arguments.r20_steps if network == "r20" else arguments.r50_steps
    deadline = time.monotonic() + arguments.seconds
    while True:
        cut_at = total / 3 if part == "cut" and not checkpoint.steps(folder / "checkpoints") else None
        code, last = run(flags, folder, cut_at, deadline)
        if code == 0 and cut_at is not None:
            raise InputError(f"{network} {part}: it ended before it was cut; train more steps")
        if code == 0:
            rows = [row for row in record.read_metrics(folder / "metrics.csv") if row["split"] == "train"]
            return rows[-1]["step"], rows[-1]["wall_seconds"]
        if code != signals.EXIT_CODE:
            raise InputError(f"{network} {part}: exit code {code}: {last}")
        say(f"{network} {part}: {last}")
        if cut_at is None:
            return None


def run(flags, folder, cut_at, deadline):
    """Train as a process, stopped by SIGTERM after `cut_at` steps or at the deadline; its exit code and last words."""
    environment = dict(os.environ) | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen([sys.executable, "-m", "resnet_tf.train", *flags], stdout=said, stderr=said,
                                   env=environment)  # fmt: skip
        try:
            is_stopped = False
            while process.poll() is None:
                time.sleep(0.05)
                late = time.monotonic() > deadline
                if not is_stopped and (late or (cut_at is not None and reached(folder) >= cut_at)):
                    process.send_signal(signal.SIGTERM)
                    is_stopped = True
                if time.monotonic() > deadline + 120:
                    process.kill()
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        lines = [line for line in said.read().splitlines() if line.strip()] or [""]
        wanted = [line for line in lines if re.match("stopped|error", line)] or lines
        return process.returncode, wanted[-1]


def reached(folder):
    """The step of the last row of a run; 0 before the first."""
    with contextlib.suppress(OSError, InputError, ValueError, KeyError, IndexError):
        return record.read_metrics(folder / "metrics.csv")[-1]["step"]
    return 0


def compared(arguments, network, part):
    """Compare the end of a training with that of `whole`: {"arrays", "equal", "largest", "rows_equal"}."""
    ends, rows = [], []
    for name in ("whole", part):
        folder = pathlib.Path(arguments.out) / f"{network}-{name}"
        ends.append(checkpoint.load_latest(folder / "checkpoints"))
        keys = ("step", "split", "loss", "top1", "lr", "gradient_norm")
        rows.append([[row[key] for key in keys] for row in record.read_metrics(folder / "metrics.csv")])
    first, second = ends
    equal = [name for name in first if np.array_equal(first[name], second[name], equal_nan=True)]
    apart = (np.abs(first[name].astype(np.float64) - second[name]) for name in first)
    largest = max(float(np.nanmax(one, initial=0.0)) for one in apart)
    return {"arrays": len(first), "equal": len(equal), "largest": largest, "rows_equal": rows[0] == rows[1]}


def cost(arguments, network):
    """Steps a second with --deterministic over those without, the median of rounds; and both medians."""
    size, batch, steps = (32, 128, 1000) if network == "r20" else (224, 256 * arguments.gpus, 24)
    name, precision = ("cifar_resnet20_v1", "float32") if network == "r20" else ("resnet50_v1b", "float16")
    if arguments.smoke:
        name, size, batch, steps, precision = "cifar_resnet8_v1", 32, 8, 5, "float32"
    flags = [f"--model={name}", f"--image_size={size}", f"--batch_size={batch}", f"--steps={steps}"]
    flags += [f"--precision={precision}", f"--replicas={arguments.gpus}"]
    command, seconds = [sys.executable, "-m", "resnet_tf.bench.scaled", *flags], {"deterministic": [], "free": []}
    deadline = time.monotonic() + arguments.seconds
    with contextlib.ExitStack() as stack:
        processes = {}
        for kind in seconds:
            environment = dict(os.environ) | {"PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}".rstrip(":")}
            if kind == "deterministic":
                environment["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {devices.DETERMINISTIC}".strip()
            processes[kind] = peers.Process(f"{network} cost, {kind}", command, environment, arguments.seconds)
            stack.callback(processes[kind].close)
            processes[kind].answer("versions")
            processes[kind].ask("seconds", "device")
        for _ in range(arguments.repeats):
            if time.monotonic() > deadline and seconds["free"]:
                break
            for kind, process in processes.items():
                seconds[kind].append(process.ask("seconds", "device")["seconds"])
    rates = {kind: round(steps / statistics.median(values), 2) for kind, values in seconds.items()}
    ratios = [free / same for same, free in zip(seconds["deterministic"], seconds["free"], strict=True)]
    return {"steps_per_second": rates, "ratio": round(statistics.median(ratios), 4)}


def say(text):
    """Show a line of progress."""
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)


def parsed(argv):
    """Parse and check the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", default="", help="CIFAR-10 for r20; unset: synthetic images")
    parser.add_argument("--photos", default="", help="JPEG files for r50; unset: synthetic ones")
    parser.add_argument("--out", default="", help="folder of the runs, kept; unset: a temporary one")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--gpus", type=int, default=1, help="replicas in one process")
    parser.add_argument("--r20_steps", type=int, default=64000)
    parser.add_argument("--r50_steps", type=int, default=500)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=400.0, help="most seconds of one training, or of `cost`")
    parser.add_argument("--smoke", action="store_true", help="small networks and few steps, to see that it runs")
    arguments = parser.parse_args(argv)
    arguments.parts, arguments.networks = arguments.parts.split(","), arguments.networks.split(",")
    for name, known in (("parts", PARTS), ("networks", NETWORKS)):
        if unknown := set(getattr(arguments, name)) - set(known):
            raise InputError(f"--{name}={','.join(sorted(unknown))}: not one of {', '.join(known)}")
    if arguments.smoke:
        vars(arguments).update(r20_steps=24, r50_steps=6, repeats=2)
    return arguments


def main(argv=None):
    """Train, compare and print; exit code 1 where bits differ that should not."""
    try:
        arguments = parsed(argv)
        with contextlib.ExitStack() as stack:
            arguments.out = arguments.out or stack.enter_context(tempfile.TemporaryDirectory())
            rows, costs = measured(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("| case | steps | seconds | arrays equal to `whole` | arrays | largest difference | rows of metrics.csv |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        same = "equal" if row["rows_equal"] else "differ"
        print(f"| {row['case']} | {row['steps']:,} | {row['seconds']:.1f} | {row['equal']} | {row['arrays']} "
              f"| {row['largest']:.3g} | {same} |")  # fmt: skip
    for network, found in costs.items():
        print(f"\n{network}: {found['ratio']:.3f} of the steps/s without --deterministic, {found['steps_per_second']}")
    print(files.to_json({"hardware": devices.hardware(), "gpus": arguments.gpus, "cases": rows, "cost": costs}))
    wanted = [row for row in rows if not row["case"].endswith("free")]
    return int(any(row["equal"] != row["arrays"] or not row["rows_equal"] for row in wanted))


def measured(arguments):
    """Do the parts: the rows of the table, and {network: cost}."""
    rows, costs = [], {}
    for network in arguments.networks:
        for part in arguments.parts:
            if part == "cost":
                costs[network] = cost(arguments, network)
                say(f"{network} cost: {json.dumps(costs[network])}")
                continue
            done = trained(arguments, network, part)
            if not done:
                continue
            say(f"{network} {part}: {done[0]} steps in {done[1]:.1f} s")
            if pathlib.Path(arguments.out, f"{network}-whole").exists():
                row = {"case": f"{network} {part}", "steps": done[0], "seconds": done[1]}
                rows.append(row | compared(arguments, network, part))
    return rows, costs


if __name__ == "__main__":
    sys.exit(main())
