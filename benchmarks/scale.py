"""Training speed on 1, 2, 4, 8 ... GPUs of this machine, and what is lost on the way there.

    python benchmarks/scale.py --gpus=1,2 --data_dir=imagenette192.tar --results=results/speed.csv --picture=scale.png
    python benchmarks/scale.py --gpus=2 --parts=device,processes --compile_together     # two processes or one
    python benchmarks/scale.py --gpus=1,2,4 --smoke                                     # on parts of a CPU

Every GPU gets --batch_size images. The parts:

    device      one process with all GPUs (MirroredStrategy), images held on the GPUs
    unsummed    the same without the sum over GPUs, each of which then trains alone
    sync        the same as `device` with synchronised batch normalisation
    files       from JPEG files of --data_dir with every augmentation
    processes   a process for each GPU, joined by TF_CONFIG; measures those of device, sync and files that are named
    ddp         the peer: PyTorch's DistributedDataParallel with torch.compile on timm's network, a process a GPU;
                RESNET_TF_PEER_PYTHON names the interpreter that has torch and timm

All systems of one number of GPUs are compiled, one after another (or --compile_together), then measured in turn; the
figures are medians. A number of GPUs takes at most --seconds: systems that are not compiled by then are left out, and
the rounds that are done count. What fails is left out too and said. Rows are appended to --results when a number of
GPUs is done. The table comes last, before one line of JSON. What is lost is the difference of two runs:

    all-reduce      `device` beside `unsummed`: the sum, and the wait for the slowest GPU
    host            `unsummed` beside the number of GPUs times one GPU: launches by one process, power, clocks
    input           `files` beside `device`: reading, decoding, cropping, copying, and the augmentation on the GPU
"""

import argparse
import contextlib
import json
import os
import pathlib
import socket
import statistics
import sys
import tempfile
import time

from resnet_tf import files
from resnet_tf.bench import peers, scaled
from resnet_tf.errors import InputError
from resnet_tf.models import architectures
from resnet_tf.runs import devices, record

PARTS = (*scaled.SYSTEMS, "processes", "ddp")
MEANT = {"unsummed": ", no all-reduce", "sync": ", bn=sync", "files": ", from files"}
SMOKE = {"model": "resnet18_v1b", "image_size": 32, "batch_size": 4, "steps": 2, "repeats": 2, "precision": "float32"}


class Group:
    """Processes that train together, and the systems that they measure."""

    def __init__(self, name, systems, processes):
        """Take the `peers.Process` of each GPU, or the one of all."""
        self.name, self.systems, self._processes = name, systems, processes
        self.versions = [process.answer("versions")["versions"] for process in processes].pop()

    def request(self, system):
        """Ask for a measurement of a system."""
        for process in self._processes:
            process.request(system)

    def answer(self, deadline):
        """Seconds of the requested measurement: those of the slowest process."""
        seconds = []
        for process in self._processes:
            process.patience = max(1.0, deadline - time.monotonic())
            seconds.append(process.ask("seconds")["seconds"])
        return max(seconds)

    def close(self):
        """End the processes."""
        for process in self._processes:
            process.close()


def free_ports(count):
    """Ports of this machine that are free now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("localhost", 0))
        return [one.getsockname()[1] for one in sockets]


def ours(arguments, gpus, cards, count, folder):
    """Start `count` processes of ours on `gpus` devices together."""
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("model", "precision", "image_size", "steps")]
    flags += [f"--data_dir={arguments.data_dir}", f"--batch_size={arguments.batch_size * gpus}", f"--out={folder}/run"]
    command = [sys.executable, "-m", "resnet_tf.bench.scaled", *flags, f"--replicas={gpus // count}"]
    workers, started = [f"localhost:{port}" for port in free_ports(count)], []
    root = str(pathlib.Path(__file__).parents[1])
    for index in range(count):
        environment = dict(os.environ) | {"PYTHONPATH": ":".join([root, *os.environ.get("PYTHONPATH", "").split(":")])}
        environment.pop("TF_CONFIG", None)
        mine = cards[:gpus] if count == 1 else cards[index : index + 1]
        if mine:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
        if count > 1:
            task = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}}
            environment["TF_CONFIG"] = json.dumps(task)
        started.append(
            peers.Process(f"{gpus} GPUs, process {index} of {count}", command, environment, arguments.seconds)
        )
    return started


def ddp(arguments, gpus, cards):
    """Start the processes of the peer."""
    name = architectures.name_in_timm(arguments.model)
    if not name:
        raise InputError(f"--parts=ddp: timm has no network like --model={arguments.model}")
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("image_size", "batch_size", "steps", "precision")]
    flags += [f"--model={name}", "--classes=1000", "--mode=default", f"--device={'cuda' if cards else 'cpu'}"]
    command = [peers.other_python(), peers.SCRIPT, *flags]
    environment, (port,) = peers.other_environment(), free_ports(1)
    together = {"WORLD_SIZE": str(gpus), "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    if cards:
        together["CUDA_VISIBLE_DEVICES"] = ",".join(cards[:gpus])
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(gpus)]
    return [
        peers.Process(f"ddp {rank['RANK']} of {gpus}", command, environment | together | rank, arguments.seconds)
        for rank in ranks
    ]


def started(arguments, gpus, cards, folder, stack):
    """The groups of a number of GPUs; one that does not start is left out and said."""
    wanted = [name for name in scaled.SYSTEMS if name in arguments.parts and (gpus > 1 or name in ("device", "files"))]
    plans = [("mirrored", wanted, lambda: ours(arguments, gpus, cards, 1, f"{folder}/mirrored"))]
    if "processes" in arguments.parts and gpus > 1:
        apart = [name for name in wanted if name != "unsummed"] or ["device"]
        plans.append(("processes", apart, lambda: ours(arguments, gpus, cards, gpus, f"{folder}/processes")))
    if "ddp" in arguments.parts:
        plans.append(("ddp", ["device"], lambda: ddp(arguments, gpus, cards)))
    groups = []
    for name, systems, start in plans:
        if not systems:
            continue
        processes = []
        try:
            processes = start()
            groups.append(Group(name, systems, processes))
            stack.callback(groups[-1].close)
        except InputError as error:
            say(f"{gpus} GPUs, {name}: left out: {error}")
            for process in processes:
                process.close()
    return groups


def measured(groups, arguments, gpus, deadline):
    """Compile all systems, then measure them in turn: {(group, system): list of seconds, one of each round}."""
    ready, broken = [], set()

    def take(group, system, request=True):
        try:
            if request:
                group.request(system)
            return group.answer(deadline)
        except InputError as error:
            say(f"{gpus} GPUs, {group.name} {system}: left out: {error}")
            broken.add(group)  # its processes may no longer be in step with one another
            return None

    longest = max((len(group.systems) for group in groups), default=0)
    for turn in range(longest):
        now = [(group, group.systems[turn]) for group in groups if turn < len(group.systems) and group not in broken]
        if arguments.compile_together:
            for group, system in now:
                group.request(system)
        for group, system in now:
            begun = time.monotonic()
            if begun > deadline - 5:
                say(f"{gpus} GPUs, {group.name} {system}: left out: --seconds={arguments.seconds:g} are over")
                if arguments.compile_together:
                    broken.add(group)
                continue
            if take(group, system, request=not arguments.compile_together) is not None:
                ready.append((group, system))
                say(f"{gpus} GPUs, {group.name} {system}: first call {time.monotonic() - begun:.0f} s")
    seconds = {(group.name, system): [] for group, system in ready}
    for number in range(arguments.repeats):
        if number and time.monotonic() > deadline:
            say(f"{gpus} GPUs: {number} of {arguments.repeats} rounds: --seconds={arguments.seconds:g} are over")
            break
        for group, system in ready:
            if group not in broken and (taken := take(group, system)) is not None:
                seconds[group.name, system].append(taken)
                say(f"{gpus} GPUs, {group.name} {system}: {taken:.3f} s")
    return {key: values for key, values in seconds.items() if values}


def ratio(seconds, one, other):
    """How many times faster one system is than another: the median over the rounds that both have; None if none."""
    rounds = list(zip(seconds.get(one, ()), seconds.get(other, ()), strict=False))
    return round(statistics.median(theirs / mine for mine, theirs in rounds), 4) if rounds else None


def summary(seconds, arguments, gpus):
    """Figures of a number of GPUs, {"images_per_second": {system: figure}, ...}."""
    images = arguments.batch_size * gpus * arguments.steps
    rates = {key: images / statistics.median(values) for key, values in seconds.items()}
    device = ("mirrored", "device")
    found = {
        "images_per_second": {" ".join(key): round(rate, 1) for key, rate in rates.items()},
        "spread": {
            " ".join(key): round((max(values) - min(values)) / statistics.median(values), 3)
            for key, values in seconds.items()
        },
        "processes_over_mirrored": ratio(seconds, ("processes", "device"), device),
        "mirrored_over_ddp": ratio(seconds, device, ("ddp", "device")),
        "processes_over_ddp": ratio(seconds, ("processes", "device"), ("ddp", "device")),
        "lost": {},
    }
    for name, key, reference in (
        ("all-reduce", device, ("mirrored", "unsummed")), ("input", ("mirrored", "files"), device),
    ):  # fmt: skip
        if (part := ratio(seconds, key, reference)) is not None:
            found["lost"][name] = round(1 - part, 4)
    return {name: value for name, value in found.items() if value is not None}


def strategy(group, system, gpus):
    """What the column `strategy` says of a system, with the number of replicas."""
    if group == "ddp":
        return f"ddp x{gpus}" if gpus > 1 else "one device"
    return f"{group} x{gpus}{MEANT.get(system, '')}"


def append(arguments, gpus, found, seconds, versions, started):
    """Append a row for each system to --results."""
    if not arguments.results:
        return
    common = record.provenance(0, time.monotonic() - started) | {
        "benchmark": "scale", "model": arguments.model, "precision": arguments.precision,
        "batch": arguments.batch_size * gpus,
    }  # fmt: skip
    for group, system in seconds:
        row = {"images_per_second": found["images_per_second"][f"{group} {system}"], "system": "ours", "ratio": ""}
        if group == "ddp":
            row |= {"system": "timm_compile", "versions": versions[group], "ratio": found.get("mirrored_over_ddp", "")}
        row["strategy"] = strategy(group, system, gpus)
        record.append_result(arguments.results, record.SPEED_COLUMNS, common | row)


def add_host(results):
    """Add to each number of GPUs how many times one GPU it is, and the share that is lost on the host."""
    for gpus, found in results.items():
        one = results.get(1, {}).get("images_per_second", {})
        for key, rate in found["images_per_second"].items():
            if alone := one.get(key) or (key.startswith("processes") and one.get(key.replace("processes", "mirrored"))):
                found.setdefault("times_one", {})[key] = round(rate / alone, 3)
        if (alone := one.get("mirrored device")) and (rate := found["images_per_second"].get("mirrored unsummed")):
            found["lost"]["host"] = round(1 - rate / (gpus * alone), 4)


def table(results):
    """The results as lines of a Markdown table."""
    lines = ["| GPUs | system | images/s | times one GPU | share of linear | spread |", "|---|---|---|---|---|---|"]
    for gpus, found in results.items():
        for key, rate in found["images_per_second"].items():
            times = found.get("times_one", {}).get(key)
            more = (f"{times:.2f}", f"{times / gpus:.3f}") if times else ("", "")
            lines.append(f"| {gpus} | {strategy(*key.split(), gpus)} | {rate:,.0f} | {more[0]} | {more[1]} "
                         f"| {100 * found['spread'][key]:.1f}% |")  # fmt: skip
    lines += ["", "| GPUs | lost to the all-reduce | host | input | processes / mirrored | ours / DDP |"]
    lines += ["|---|---|---|---|---|---|"]
    for gpus, found in results.items():
        lost = [f"{100 * found['lost'][name]:.1f}%" if name in found["lost"] else ""
                for name in ("all-reduce", "host", "input")]  # fmt: skip
        ratios = [found.get(name, "") for name in ("processes_over_mirrored", "mirrored_over_ddp")]
        lines.append("| " + " | ".join(map(str, (gpus, *lost, *ratios))) + " |")
    return lines


def draw(results, path, title):
    """Draw images/s beside a straight line through one GPU, and the shares that are lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = list(results)
    for key in dict.fromkeys(key for found in results.values() for key in found["images_per_second"]):
        points = [(gpus, results[gpus]["images_per_second"].get(key)) for gpus in numbers]
        points = [point for point in points if point[1]]
        left.plot(*zip(*points, strict=True), marker="o", markersize=4, label=key.replace(" device", ""))
    if alone := results.get(1, {}).get("images_per_second", {}).get("mirrored device"):
        left.plot(numbers, [alone * gpus for gpus in numbers], "--", color="0.6", label="linear")
    left.set(xlabel="GPUs", ylabel="images/s", xticks=numbers, ylim=(0, None), title=title)
    left.legend(frameon=False, fontsize=8)
    names = [name for name in ("all-reduce", "host", "input") if any(name in one["lost"] for one in results.values())]
    for index, name in enumerate(names):
        bars = [(place, 100 * found["lost"][name]) for place, found in enumerate(results.values())
                if name in found["lost"]]  # fmt: skip
        right.bar([place + (index - 1) * 0.27 for place, _ in bars], [share for _, share in bars], 0.25, label=name)
    right.axhline(0, color="0.3", linewidth=0.8)
    right.set(xlabel="GPUs", ylabel="lost, % of images/s", title="Lost to", xlim=(-0.6, len(numbers) - 0.4))
    right.set_xticks(range(len(numbers)), numbers)
    if names:
        right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def say(text):
    """Show a line of progress."""
    print(f"{time.strftime('%T')} {text}", file=sys.stderr, flush=True)


def parsed(argv=None):
    """Parse and check the flags; return them, and the names of the GPUs, () without any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", default="1,2", help="numbers of GPUs, such as 1,2,4,8")
    parser.add_argument("--parts", default=",".join(PARTS), help="of those above")
    parser.add_argument("--model", default="resnet50_v1b")
    parser.add_argument("--precision", default="float16")
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--batch_size", type=int, default=256, help="images of one GPU")
    parser.add_argument("--steps", type=int, default=24, help="steps of a measurement")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=500.0, help="most seconds for one number of GPUs")
    parser.add_argument("--compile_together", action="store_true",
                        help="let the groups compile at the same time: sooner done, but kernels are chosen by trials "
                             "that disturb one another")  # fmt: skip
    parser.add_argument("--data_dir", default="", help="JPEG files for the part `files`: a folder or tar archive")
    parser.add_argument("--results", default="", help="CSV file to append a row for each system to")
    parser.add_argument("--picture", default="", help="PNG file to draw the results to")
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny network on a few small images, to see that it runs"
    )
    arguments = parser.parse_args(argv)
    if arguments.smoke:
        vars(arguments).update(SMOKE)
    arguments.parts = arguments.parts.split(",")
    if unknown := set(arguments.parts) - set(PARTS):
        raise InputError(f"--parts={','.join(sorted(unknown))}: not one of {', '.join(PARTS)}")
    numbers = arguments.gpus.split(",")
    if not all(number.isdigit() and int(number) for number in numbers):
        raise InputError(f"--gpus={arguments.gpus}: not numbers of GPUs, such as 1,2,4")
    arguments.gpus = sorted({int(number) for number in numbers})
    cards = cards_here()
    if not cards and not arguments.smoke:
        raise InputError("--gpus: there is no GPU; --smoke runs on parts of the CPU")
    if cards and arguments.gpus[-1] > len(cards):
        raise InputError(f"--gpus={arguments.gpus[-1]}: there are {len(cards)} GPUs")
    if "files" in arguments.parts and not arguments.data_dir and not arguments.smoke:
        raise InputError("--data_dir is not set: the part `files` reads JPEG files from there; --parts leaves it out")
    if arguments.results:
        record.check_results(arguments.results, record.SPEED_COLUMNS)
    return arguments, cards


def cards_here():
    """Names of the GPUs as CUDA_VISIBLE_DEVICES has them; () without any."""
    import tensorflow as tf

    count = len(tf.config.list_physical_devices("GPU"))
    visible = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return (visible or [str(index) for index in range(count)])[:count]


def main(argv=None):
    """Measure each number of GPUs, append, draw and print."""
    try:
        arguments, cards = parsed(argv)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    results = {}
    for gpus in arguments.gpus:
        begun = time.monotonic()
        with contextlib.ExitStack() as stack:
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            groups = started(arguments, gpus, cards, folder, stack)
            versions = {group.name: group.versions for group in groups}
            seconds = measured(groups, arguments, gpus, begun + arguments.seconds)
        results[gpus] = summary(seconds, arguments, gpus)
        append(arguments, gpus, results[gpus], seconds, versions, begun)
        say(f"{gpus} GPUs: {time.monotonic() - begun:.0f} s in all")
    add_host(results)
    if arguments.picture:
        draw(results, arguments.picture, f"{arguments.model}, {arguments.batch_size} images a GPU")
    print("\n".join(table(results)))
    result = {"benchmark": "scale", "model": arguments.model, "unit": "images/s", "hardware": devices.hardware()}
    print(files.to_json(result | {"gpus": {str(gpus): found for gpus, found in results.items()}}), flush=True)
    return 0 if all(found["images_per_second"] for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
