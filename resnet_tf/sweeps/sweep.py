"""Sweep over the trainings of a grid file, such as ablations or seeds, each in a process of its own."""

import contextlib
import csv
import io
import math
import os
import pathlib
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, record, signals
from resnet_tf.sweeps import grid
from resnet_tf.training import schedule

PROGRAM = (sys.executable, "-m", "resnet_tf.train")
_STOPPED = (signals.EXIT_CODE, -signal.SIGTERM, -signal.SIGINT)  # exit codes after saving, or before the first step
_SHOWN_EVERY = 60.0  # seconds between two prints of the trainings' last lines
_METRICS = ("steps", "split", "top1", "top5", "eval_loss", "wall_seconds")  # not "loss", which is a flag


def metrics_of(folder: pathlib.Path) -> tuple[bool, dict]:
    """Return whether a run is finished, and its metrics.

    The metrics of a finished run are {"steps", "split", "top1", "top5", "eval_loss", "wall_seconds"} of the last
    evaluation in metrics.csv (`evaluate` may have replaced evaluation.json). Those of other runs are {"steps"}.

    Args:
        folder: folder of the run, which need not exist.
    """
    saved = (checkpoint.steps(folder / "checkpoints") or [0])[-1]
    if not (folder / "evaluation.json").exists():
        return False, {"steps": saved}
    run = record.open_run(folder)
    total = schedule.total_steps(run.config.optimizer, run.manifest["data"]["examples"]["train"])
    rows = [row for row in record.read_metrics(folder / "metrics.csv") if row["split"] in ("validation", "test")]
    if saved < total or not rows or rows[-1]["step"] < total:
        return False, {"steps": saved}
    last = rows[-1] | {"steps": saved, "eval_loss": rows[-1]["loss"]}
    return True, {name: last[name] for name in _METRICS}


def group(trainings: list[grid.Training], metrics: dict[str, dict]) -> list[dict]:
    """Return means and deviations of finished trainings that differ by their seed alone.

    Args:
        trainings: list of `grid.Training`.
        metrics: {name of a finished training: its metrics}.

    Returns:
        [{"name", "n", "top1_mean", "top1_std", "top5_mean", ...}] in the order of the trainings; "std" is the sample
        standard deviation (n - 1), None if n is 1. Groups without a finished training are left out.
    """
    groups = {}
    for training in trainings:
        settings = configuration.settings_of(training.config) | {"seed": 0, "out": ""}
        groups.setdefault(tuple(settings.items()), []).append(training)
    summaries = []
    for members in groups.values():
        done = [metrics[member.name] for member in members if member.name in metrics]
        if not done:
            continue
        summary = {"name": members[0].group, "n": len(done)}
        for name in ("top1", "top5", "eval_loss"):
            values = [one[name] for one in done]
            summary[f"{name}_mean"] = round(statistics.fmean(values), 6)
            summary[f"{name}_std"] = round(statistics.stdev(values), 6) if len(values) > 1 else None
        summaries.append(summary)
    return summaries


class _Report:
    """The state of all trainings, and the two files that show it.

    Attributes:
        metrics: {name of a training: its metrics}.
        errors: {name of a failed training: its error}.
        done: names of finished trainings.
    """

    def __init__(self, settings, trainings):
        self._settings, self._trainings = settings, trainings
        self.metrics, self.errors, self.done = {}, {}, set()
        for training in trainings:
            self.update(training)

    def update(self, training):
        """Read the metrics of a training, and return whether it is finished."""
        finished, self.metrics[training.name] = metrics_of(training.folder)
        if finished:
            self.done.add(training.name)
        return finished

    def groups(self):
        return group(self._trainings, {name: self.metrics[name] for name in self.done})

    def write(self):
        """Write sweep.csv and summary.md, each atomically."""
        text = io.StringIO()
        columns = ("name", *self._trainings[0].flags, "status", *_METRICS, "run", "error")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for training in self._trainings:
            name = training.name
            status = "done" if name in self.done else "failed" if name in self.errors else "waiting"
            row = {"name": name, "status": status, "run": training.folder, "error": self.errors.get(name, "")}
            writer.writerow(row | training.flags | self.metrics[name])
        table = [
            f"{self._settings.grid}: {len(self.done)} of {len(self._trainings)} trainings; mean and standard deviation"
            " over seeds.\n",
            "| training | runs | top-1 | top-5 | loss |",
            "|---|---|---|---|---|",
        ]
        for one in self.groups():
            cells = [_spread(one, name) for name in ("top1", "top5", "eval_loss")]
            table.append(f"| {one['name']} | {one['n']} | {' | '.join(cells)} |")
        for name, content in (("sweep.csv", text.getvalue()), ("summary.md", "\n".join(table) + "\n")):
            path = pathlib.Path(self._settings.out, name)
            files.replace_atomically(path, lambda file, content=content: file.write(content.encode()))


def _spread(summary, name):
    deviation = summary[f"{name}_std"]
    return f"{summary[f'{name}_mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def run(settings: configuration.SweepConfig, extra: Sequence[str] = (), program: Sequence[str] = PROGRAM) -> dict:
    """Run all trainings of a grid, or the rest of them after an interruption.

    Args:
        settings: a `config.SweepConfig`.
        extra: further flags of all trainings.
        program: command of a training, to which its flags are added.

    Returns:
        {"out", "runs": number of trainings, "done": number of finished trainings, "failed": names of failed trainings,
        "best": name of the group with the highest mean top-1, for the record only, "groups": see `group`}.

    Raises:
        InputError: the grid is wrong, before anything starts, or another sweep runs in --out.
        signals.Stopped: a signal arrived or trainings were stopped; their state is saved.
    """
    if not settings.out:
        raise InputError("--out is not set: the folder of the runs")
    if settings.results:
        record.check_results(settings.results, record.ACCURACY_COLUMNS)
    trainings = grid.plan(settings, extra)
    out = pathlib.Path(settings.out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise InputError(f"--out={out}: a file, not a folder") from None
    if settings.results and not settings.smoke:  # so that two trainings that end together do not both write a header
        record.append_result(settings.results, record.ACCURACY_COLUMNS, None)
    with _lock(out) as lock:
        report = _Report(settings, trainings)
        report.write()
        if report.done:
            _say(f"{out}: {len(report.done)} of {len(trainings)} trainings are done")
        stop = signals.Stop()
        waiting = [training for training in trainings if training.name not in report.done]
        with stop.listening():
            _work(waiting, _Pool(program, settings.processes, lock), report, stop)
    left = len(trainings) - len(report.done) - len(report.errors)
    if left:
        raise signals.Stopped(
            f"{stop.name or 'trainings were stopped'}: {len(report.done)} of {len(trainings)} trainings are done in "
            f"{out}; the same command goes on from there"
        )
    groups = report.groups()
    return {
        "out": str(out), "runs": len(trainings), "done": len(report.done),
        "failed": [training.name for training in trainings if training.name in report.errors],
        "best": max(groups, key=lambda one: one["top1_mean"])["name"] if groups else None, "groups": groups,
    }  # fmt: skip


@contextlib.contextmanager
def _lock(folder):
    """Lock a folder; trainings inherit the lock, so that a training that outlives its sweep also holds it."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out={folder}: a sweep, or a training that it left behind, is at work there") from None
        yield file.fileno()


def _work(waiting, pool, report, stop):
    """Run the waiting trainings; after a signal, ask running trainings to save and wait for them."""
    stopping, shown = False, time.monotonic()
    try:
        while pool.running or (waiting and not stop.name):
            while waiting and pool.slots and not stop.name:
                training = waiting.pop(0)
                pool.start(training)
                _say(f"{training.name}: started")
            if stop.name and not stopping:
                pool.stop()
                stopping = True
            time.sleep(0.1)
            if time.monotonic() - shown >= _SHOWN_EVERY:
                for training, line in pool.last_lines():
                    _say(f"{training.name}: {line}")
                shown = time.monotonic()
            for training, code, error in pool.pop_ended():
                finished, metrics = report.update(training), report.metrics[training.name]
                if finished:
                    _say(f"{training.name}: top-1 {metrics['top1']:.4f}, {metrics['wall_seconds']:.0f} s")
                elif code in _STOPPED:
                    _say(f"{training.name}: stopped at step {metrics['steps']}")
                else:
                    report.errors[training.name] = error
                    log = _log(training)
                    _say(f"{training.name}: failed: {error}" + (f" ({log})" if log.exists() else ""))
                report.write()
    finally:
        pool.kill()


class _Pool:
    """Processes of trainings.

    Attributes:
        slots: free places, each the GPU of its training or None for all GPUs.
        running: list of (training, process, slot, start of its lines in the log).
    """

    def __init__(self, program, size, lock):
        gpus = _gpus()
        size = size or max(1, len(gpus))
        # A single process uses every GPU, like a training without a sweep.
        cards = [gpus[slot % len(gpus)] if len(gpus) > 1 and size > 1 else None for slot in range(size)]
        self._program, self._lock, self.slots, self.running = program, lock, cards, []
        shared_by = math.ceil(size / max(1, len(gpus)))
        self._environment = os.environ | ({devices.SHARED_BY: str(shared_by)} if shared_by > 1 else {})

    def start(self, training):
        """Start a training, and append its output to its log."""
        slot = self.slots.pop(0)
        environment = self._environment | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
        command = [*self._program, *training.arguments]
        with open(_log(training), "ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            # A new session keeps Ctrl-C from the training; the sweep passes it on once.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                pass_fds=[self._lock],
            )  # fmt: skip
        self.running.append((training, process, slot, begin))

    def stop(self):
        """Ask all to save and end by SIGTERM, which ends a training before its first step without a traceback."""
        for _, process, _, _ in self.running:
            process.terminate()

    def last_lines(self):
        """Return the last line of the log of each running training that has one: [(training, line)]."""
        logs = [(training, _lines(training, begin)) for training, _, _, begin in self.running]
        return [(training, lines[-1]) for training, lines in logs if lines]

    def pop_ended(self):
        """Remove trainings that have ended, and return them: [(training, exit code, error)]."""
        ended = [entry for entry in self.running if entry[1].poll() is not None]
        for entry in ended:
            self.running.remove(entry)
            self.slots.insert(0, entry[2])
        return [
            (training, process.returncode, _error(training, process, begin)) for training, process, _, begin in ended
        ]

    def kill(self):
        """Kill all running trainings; their checkpoints stay."""
        for _, process, _, _ in self.running:
            process.kill()
            process.wait()


def _gpus():
    """Return the GPUs of this process as CUDA_VISIBLE_DEVICES names them, without allocating memory on them."""
    count = len(tf.config.list_physical_devices("GPU"))
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(index) for index in range(count)]


def _log(training):
    return training.folder.with_name(f"{training.name}.log")


def _lines(training, begin):
    """Return the lines of a training's log from byte `begin` on."""
    with open(_log(training), "rb") as log:
        log.seek(begin)
        return [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]


def _error(training, process, begin):
    """Return the reason why a training failed, from its log from byte `begin` on."""
    lines = _lines(training, begin)
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    named = [line for line in lines if line.startswith("error: ")]
    return (named or lines or [f"exit code {process.returncode}"])[-1].removeprefix("error: ")


def _say(text):
    print(text, file=sys.stderr, flush=True)
