"""Several trainings from one grid file: ablations, several seeds. Each is a process of its own."""

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

import tensorflow as tf

from resnet_tf import config as configuration
from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, record, signals
from resnet_tf.sweeps import grid
from resnet_tf.training import schedule

PROGRAM = (sys.executable, "-m", "resnet_tf.train")
_STOPPED = (signals.EXIT_CODE, -signal.SIGTERM, -signal.SIGINT)  # saved, or before there was anything to save
_SHOWN_EVERY = 60.0  # seconds between two looks at what the trainings say
_FIGURES = ("steps", "split", "top1", "top5", "eval_loss", "wall_seconds")  # --loss is a flag


# --- What is there of them -------------------------------------------------------------------------------------------


def figures_of(folder):
    """What a run has reached.

    Args:
        folder: of the run; need not exist.

    Returns:
        Whether it is finished, and {"steps", "split", "top1", "top5", "eval_loss", "wall_seconds"}: of its last
        evaluation where it is finished (by metrics.csv, since `evaluate` writes evaluation.json anew), else "steps".
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
    return True, {name: last[name] for name in _FIGURES}


def group(trainings, figures):
    """Mean and spread of the finished trainings that differ by their seed alone.

    Args:
        trainings: [`Training`].
        figures: {name of a training: its figures} of those that are finished.

    Returns:
        [{"name", "n", "top1_mean", "top1_std", "top5_mean", ...}] in the order of the trainings; the deviation is
        that of a sample (n - 1), None where n is 1. Groups of which none is finished are left out.
    """
    groups = {}
    for training in trainings:
        settings = configuration.settings_of(training.config) | {"seed": 0, "out": ""}
        groups.setdefault(tuple(settings.items()), []).append(training)
    found = []
    for members in groups.values():
        done = [figures[member.name] for member in members if member.name in figures]
        if not done:
            continue
        summary = {"name": members[0].group, "n": len(done)}
        for name in ("top1", "top5", "eval_loss"):
            values = [one[name] for one in done]
            summary[f"{name}_mean"] = round(statistics.fmean(values), 6)
            summary[f"{name}_std"] = round(statistics.stdev(values), 6) if len(values) > 1 else None
        found.append(summary)
    return found


class _Report:
    """The state of all trainings, and the two files that show it."""

    def __init__(self, settings, trainings):
        self._settings, self._trainings = settings, trainings
        self.figures = {}
        self.errors = {}
        self.done = set()
        for training in trainings:
            self.look(training)

    def look(self, training):
        """Read what a run has reached."""
        finished, self.figures[training.name] = figures_of(training.folder)
        if finished:
            self.done.add(training.name)
        return finished

    def groups(self):
        return group(self._trainings, {name: self.figures[name] for name in self.done})

    def write(self):
        """Write sweep.csv and summary.md, each whole."""
        text = io.StringIO()
        columns = ("name", *self._trainings[0].flags, "status", *_FIGURES, "run", "error")
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        for training in self._trainings:
            name = training.name
            status = "done" if name in self.done else "failed" if name in self.errors else "waiting"
            row = {"name": name, "status": status, "run": training.folder, "error": self.errors.get(name, "")}
            writer.writerow(row | training.flags | self.figures[name])
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


# --- The sweep -------------------------------------------------------------------------------------------------------


def run(settings, extra=(), program=PROGRAM):
    """Train all of a grid; go on where it was stopped.

    Args:
        settings: a `config.SweepConfig`.
        extra: flags of every training besides.
        program: the command that trains, to which the flags are added.

    Returns:
        {"out", "runs", "done", "failed", "best", "groups"}: how many trainings there are, and are finished; names of
        those that failed; the group of the highest mean top-1, for the record and not chosen by; see `group`.

    Raises:
        InputError: a grid that cannot be trained, before anything starts; or another sweep is at work in --out.
        signals.Stopped: a signal came, or trainings were stopped; all is saved.
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
    if settings.results and not settings.smoke:  # else the first two to end might both write a header
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
        "out": str(out),
        "runs": len(trainings),
        "done": len(report.done),
        "failed": [training.name for training in trainings if training.name in report.errors],
        "best": max(groups, key=lambda one: one["top1_mean"])["name"] if groups else None,
        "groups": groups,
    }


@contextlib.contextmanager
def _lock(folder):
    """Hold a folder; trainings inherit the lock, so that one left behind by a sweep that was killed holds it, too."""
    import fcntl

    with open(folder / ".lock", "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"--out={folder}: a sweep, or a training that it left behind, is at work there") from None
        yield file.fileno()


def _work(waiting, pool, report, stop):
    """Train what is waiting; on a signal pass it on, and wait for what runs to save."""
    told, shown = False, time.monotonic()
    try:
        while pool.busy or (waiting and not stop.name):
            while waiting and pool.free and not stop.name:
                training = waiting.pop(0)
                pool.start(training)
                _say(f"{training.name}: started")
            if stop.name and not told:
                pool.stop()
                told = True
            time.sleep(0.1)
            if time.monotonic() - shown >= _SHOWN_EVERY:
                for training, line in pool.said():
                    _say(f"{training.name}: {line}")
                shown = time.monotonic()
            for training, code, said in pool.ended():
                if report.look(training):
                    figures = report.figures[training.name]
                    _say(f"{training.name}: top-1 {figures['top1']:.4f}, {figures['wall_seconds']:.0f} s")
                elif code in _STOPPED:
                    _say(f"{training.name}: stopped at step {report.figures[training.name]['steps']}")
                else:
                    report.errors[training.name] = said
                    _say(
                        f"{training.name}: failed: {said}" + (f" ({_log(training)})" if _log(training).exists() else "")
                    )
                report.write()
    finally:
        pool.kill()


class _Pool:
    """Processes that train, so many at a time.

    Attributes:
        free: whether another may be started.
        busy: whether one runs.
    """

    def __init__(self, program, size, lock):
        gpus = _gpus()
        size = size or max(1, len(gpus))
        # A process alone has every GPU, as a training without a sweep.
        cards = [gpus[slot % len(gpus)] if len(gpus) > 1 and size > 1 else None for slot in range(size)]
        self._program, self._lock, self._slots, self._running = program, lock, cards, []
        shared_by = math.ceil(size / max(1, len(gpus)))
        self._environment = os.environ | ({devices.SHARED_BY: str(shared_by)} if shared_by > 1 else {})

    @property
    def free(self):
        return bool(self._slots)

    @property
    def busy(self):
        return bool(self._running)

    def start(self, training):
        """Start a training whose output is appended to its log."""
        slot = self._slots.pop(0)
        environment = self._environment | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
        command = [*self._program, *training.arguments]
        with open(_log(training), "ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            begin = log.tell()
            # In a session of its own: Ctrl-C goes to the sweep alone, which passes it on once.
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True,
                pass_fds=[self._lock],
            )  # fmt: skip
        self._running.append((training, process, slot, begin))

    def stop(self):
        """Ask all to save and end: by SIGTERM, which ends one that has not begun without a traceback."""
        for _, process, _, _ in self._running:
            process.terminate()

    def said(self):
        """The last line of each that runs, where there is one: [(training, line)]."""
        lines = [(training, _lines(training, begin)) for training, _, _, begin in self._running]
        return [(training, of_training[-1]) for training, of_training in lines if of_training]

    def ended(self):
        """Those that have ended since: [(training, exit code, last line of error)]."""
        over = [entry for entry in self._running if entry[1].poll() is not None]
        for entry in over:
            self._running.remove(entry)
            self._slots.insert(0, entry[2])
        return [(training, process.returncode, _last_error(training, process, begin))
                for training, process, _, begin in over]  # fmt: skip

    def kill(self):
        """End what still runs at once; checkpoints stay."""
        for _, process, _, _ in self._running:
            process.kill()
            process.wait()


def _gpus():
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them. Listing them takes no memory there."""
    count = len(tf.config.list_physical_devices("GPU"))
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] or [str(index) for index in range(count)]


def _log(training):
    return training.folder.with_name(f"{training.name}.log")


def _lines(training, begin):
    """A training's log from byte `begin` on."""
    with open(_log(training), "rb") as log:
        log.seek(begin)
        return [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]


def _last_error(training, process, begin):
    """The line by which a training said why it failed, of its log from byte `begin` on."""
    lines = _lines(training, begin)
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    named = [line for line in lines if line.startswith("error: ")]
    return (named or lines or [f"exit code {process.returncode}"])[-1].removeprefix("error: ")


def _say(text):
    print(text, file=sys.stderr, flush=True)
