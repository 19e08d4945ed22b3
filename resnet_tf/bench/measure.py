"""Helpers of all benchmarks: checks, timing of systems in turn, medians, ratios and spreads, rows of results."""

import fcntl
import statistics
import sys
import time
from collections.abc import Callable, Collection, Mapping

from resnet_tf.config import BenchmarkConfig
from resnet_tf.errors import InputError
from resnet_tf.runs import record


def check(config: BenchmarkConfig, known: Collection[str] | None, columns: tuple = record.SPEED_COLUMNS) -> None:
    """Check --peers and --results before a benchmark begins.

    Args:
        config: a `config.BenchmarkConfig`.
        known: names of the peers that the benchmark has; None if it does not read --peers.
        columns: columns of the file of --results.

    Raises:
        InputError: a peer is unknown, or the file of --results has other columns.
    """
    settings = config.benchmark
    unknown = set(settings.peers) - set(known) if known is not None else ()
    if unknown:
        raise InputError(f"--peers={','.join(sorted(unknown))}: not one of {', '.join(known)}")
    if settings.results:
        record.check_results(settings.results, columns)


class Machine:
    """A lock on a machine, shared by processes while they prepare and held by one process alone while it measures.

    The lock is an `flock` of the operating system on a file, so it ends with the process. Use it in a `with`.

    Args:
        path: lock file, created if missing; "" if nobody else measures on the machine.
    """

    def __init__(self, path):
        self._path = path
        try:
            self._file = open(path, "a") if path else None  # noqa: SIM115 (open as long as the machine is held)
        except OSError as error:
            raise InputError(f"--lock={path}: {error.strerror}") from None

    def __enter__(self):
        """Wait until no other process measures, then share the machine."""
        self._hold(fcntl.LOCK_SH)
        return self

    def alone(self):
        """Wait until no other process prepares or measures, then hold the machine alone."""
        self._hold(fcntl.LOCK_EX)

    def _hold(self, operation):
        if not self._file:
            return
        try:
            fcntl.flock(self._file, operation | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"--lock={self._path}: waiting for other benchmarks", file=sys.stderr, flush=True)
            fcntl.flock(self._file, operation)

    def __exit__(self, *_):
        if self._file:
            self._file.close()


def timed(work: Callable) -> Callable:
    """Return a function that calls `work` and returns the seconds that the call took."""

    def run():
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return run


def timed_training(engine, supply, steps: int) -> Callable:
    """Return a function that trains `steps` more steps of an `Engine` on a supply and returns their seconds."""

    def train():
        start = engine.step
        engine.run(supply, start, start + steps).numpy()  # waits for the device

    return timed(train)


def in_turn(systems: dict, repeats: int, machine: Machine | None = None) -> dict:
    """Measure systems in the order A B C A B C ..., after a warm-up round, so that drift affects all of them alike.

    Args:
        systems: {name: function that does the work and returns its seconds}.
        repeats: measurements of each system.
        machine: a `Machine` to hold alone after the warm-up round; None if no lock is needed.

    Returns:
        {name: list of seconds}.
    """
    seconds = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        if repeat == 1 and machine:
            machine.alone()
        for name, measure in systems.items():
            start = time.perf_counter()
            taken = measure()
            if repeat:
                seconds[name].append(taken)
            note = "" if repeat else f" (warm-up; {time.perf_counter() - start:.1f} s with compilation)"
            print(f"{name}: {taken:.3f} s{note}", file=sys.stderr, flush=True)
    return seconds


def images_per_second(images: Mapping[str, int], seconds: dict) -> dict:
    """Divide the images of each system by the seconds of its measurements: {system: list of images/s}."""
    return {name: [images[name] / taken for taken in values] for name, values in seconds.items()}


def summary(benchmark: str, model: str, unit: str, measurements: dict, higher_is_better: bool) -> dict:
    """Summarise the measurements of a benchmark.

    Args:
        benchmark: name of the benchmark.
        model: name of the network.
        unit: unit of the measurements.
        measurements: {system: list of numbers}, "ours" among them.
        higher_is_better: False for times.

    Returns:
        {"benchmark", "model", "ours", "unit", "peers", "ratio", "spread"}. "ours" and "peers" are medians. "ratio" is
        how many times better ours is than each peer: the median of the ratios of each round, since drift of the
        machine affects the systems of a round alike. "spread" is (largest - smallest) / median of each system.
    """
    medians = {name: statistics.median(values) for name, values in measurements.items()}
    peers = [name for name in measurements if name != "ours"]
    power = 1 if higher_is_better else -1
    rounds = {name: zip(measurements["ours"], measurements[name], strict=True) for name in peers}
    ratios = {name: statistics.median((ours / theirs) ** power for ours, theirs in rounds[name]) for name in peers}
    return {
        "benchmark": benchmark, "model": model, "ours": round(medians["ours"], 3), "unit": unit,
        "peers": {name: round(medians[name], 3) for name in peers},
        "ratio": {name: round(ratios[name], 3) for name in peers},
        "spread": {
            name: round((max(values) - min(values)) / medians[name], 3) for name, values in measurements.items()
        },
    }  # fmt: skip


def append_speeds(
    config: BenchmarkConfig, result: dict, started: float, by_system: dict | None = None, **columns
) -> None:
    """Append one row for each system to the file of --results, if that flag is set.

    Args:
        config: a `config.BenchmarkConfig`.
        result: what `summary` returned, in images/s.
        started: `time.monotonic()` when the benchmark began.
        by_system: {system: {column: value}} for columns that differ between systems.
        columns: more columns, equal for all systems; they replace columns derived from `config`.
    """
    path = config.benchmark.results
    if not path:
        return
    common = record.provenance(0, time.monotonic() - started) | {"benchmark": result["benchmark"]}
    common |= {"model": config.model.model, "precision": config.device.precision} | columns
    for name, speed in {"ours": result["ours"], **result["peers"]}.items():
        row = {"system": name, "images_per_second": round(speed, 1), "ratio": result["ratio"].get(name, "")}
        record.append_result(path, record.SPEED_COLUMNS, common | row | (by_system or {}).get(name, {}))
