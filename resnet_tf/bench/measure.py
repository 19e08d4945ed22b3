"""What all benchmarks share: peers that exist, systems measured in turn, medians, ratios, spreads."""

import fcntl
import statistics
import sys
import time

from resnet_tf.errors import InputError


def check_peers(chosen, known):
    """Refuse peers that a benchmark does not have.

    Raises:
        InputError: names them and those there are.
    """
    unknown = set(chosen) - set(known)
    if unknown:
        raise InputError(f"--peers={','.join(sorted(unknown))}: not one of {', '.join(known)}")


class Machine:
    """A machine that processes share while they make ready, and that each has to itself while it measures.

    What holds it is a lock of the operating system on a file, which ends with the process. Use it in a `with`.

    Args:
        path: of the file, made where there is none; "" for a machine that nobody else measures on.
    """

    def __init__(self, path):
        self._path = path
        try:
            self._file = open(path, "a") if path else None  # noqa: SIM115 (open as long as the machine is held)
        except OSError as error:
            raise InputError(f"--lock={path}: {error.strerror}") from None

    def __enter__(self):
        """Wait until nobody measures."""
        self._hold(fcntl.LOCK_SH)
        return self

    def alone(self):
        """Wait until nobody makes ready or measures, and keep it so."""
        self._hold(fcntl.LOCK_EX)

    def _hold(self, how):
        if not self._file:
            return
        try:
            fcntl.flock(self._file, how | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"--lock={self._path}: waiting for other benchmarks", file=sys.stderr, flush=True)
            fcntl.flock(self._file, how)

    def __exit__(self, *_):
        if self._file:
            self._file.close()


def in_turn(systems, repeats, machine=None):
    """Measure systems A B C A B C ..., after one round that warms up, so that a drift meets all alike.

    Args:
        systems: {name: function that does the work and returns its seconds}.
        repeats: measurements of each.
        machine: a `Machine` to have to oneself after the first round; None where it is so.

    Returns:
        {name: list of seconds}.
    """
    seconds = {name: [] for name in systems}
    for repeat in range(repeats + 1):
        if repeat == 1 and machine:
            machine.alone()
        for name, measure in systems.items():
            begun = time.perf_counter()
            taken = measure()
            if repeat:
                seconds[name].append(taken)
            note = "" if repeat else f" (warm-up; {time.perf_counter() - begun:.1f} s with compilation)"
            print(f"{name}: {taken:.3f} s{note}", file=sys.stderr, flush=True)
    return seconds


def summary(benchmark, model, unit, figures, higher_is_better):
    """The result of a benchmark.

    Args:
        benchmark: its name.
        model: the network's name.
        unit: of the figures.
        figures: {system: list of measurements}, "ours" among them.
        higher_is_better: False for times.

    Returns:
        {"benchmark", "model", "ours", "unit", "peers", "ratio", "spread"}: medians; how many times better ours
        is than each peer, the median over rounds, since a machine's drift meets the systems of a round alike;
        (largest - smallest) / median of each system.
    """
    medians = {name: statistics.median(values) for name, values in figures.items()}
    peers = [name for name in figures if name != "ours"]
    power = 1 if higher_is_better else -1
    rounds = {name: zip(figures["ours"], figures[name], strict=True) for name in peers}
    ratios = {name: statistics.median((ours / theirs) ** power for ours, theirs in rounds[name]) for name in peers}
    return {
        "benchmark": benchmark,
        "model": model,
        "ours": round(medians["ours"], 3),
        "unit": unit,
        "peers": {name: round(medians[name], 3) for name in peers},
        "ratio": {name: round(ratios[name], 3) for name in peers},
        "spread": {name: round((max(values) - min(values)) / medians[name], 3) for name, values in figures.items()},
    }
