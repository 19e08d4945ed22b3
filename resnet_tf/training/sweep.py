"""Several trainings from one small file: ablations, several seeds. Each is a process of its own, or a lane.

A grid file is YAML. All of its parts may be left out, but not rows and grid both:

    flagfile: ../cifar10_resnet20.cfg     # the recipe of all, as seen from the grid file
    flags: {eval_every: 4000}             # flags of all
    rows:                                 # trainings by name, and the flags in which they differ
      - {name: baseline}
      - {name: warm-up, warmup_epochs: 5}
      - {name: zero-gamma, zero_gamma: true}
    cumulative: true                      # each row keeps the flags of the rows before it: one trick after another
    grid:                                 # each row with each combination of these values
      seed: [0, 1, 2]

Values are those of the flags; a list of values stands for "1,2,3". Later parts win: flagfile, flags, flags after -- on
the command line, rows, grid. A training is named by its row and the values of the grid, as in warm-up-seed1.
"""

import contextlib
import csv
import dataclasses
import io
import itertools
import os
import pathlib
import re
import shlex
import signal
import statistics
import subprocess
import sys
import time

import tensorflow as tf
import yaml
from absl import flags as absl_flags

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.training import checkpoint, lanes, record, schedule, signals, smoke

PROGRAM = (sys.executable, "-m", "resnet_tf.train")
_PARTS = ("flagfile", "flags", "rows", "cumulative", "grid")
_OURS = ("out", "results", "smoke", "debug_step")  # flags that no grid sets
_STOPPED = (signals.EXIT_CODE, -signal.SIGTERM, -signal.SIGINT)  # saved, or before there was anything to save
_FIGURES = ("steps", "split", "top1", "top5", "eval_loss", "wall_seconds")  # --loss is a flag


# --- From a grid file to trainings -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a sweep.

    Attributes:
        name: that of its folder.
        group: what its name would be without the seed.
        folder: of the run.
        flags: those in which the trainings differ, {flag: its value as text}.
        arguments: of its command.
        config: the `TrainConfig` that they make, before --smoke shrinks it.
    """

    name: str
    group: str
    folder: pathlib.Path
    flags: dict
    arguments: list
    config: configuration.TrainConfig


def plan(settings, extra=()):
    """Read a grid file and check every training of it; nothing is written.

    Args:
        settings: a `config.SweepSection`.
        extra: flags of every training besides.

    Returns:
        [`Training`] in the order of the file.

    Raises:
        InputError: names the file and the row.
    """
    path = settings.grid
    grid = _read(path)
    recipe = {"flagfile": os.path.normpath(pathlib.Path(path).parent / grid["flagfile"])} if grid["flagfile"] else {}
    own = {name: value for name, value in (("results", settings.results), ("smoke", settings.smoke)) if value}
    common = [*_as_flags(recipe | grid["flags"]), *extra, *_as_flags(own)]
    rows = _rows(grid)
    differing = list(dict.fromkeys([*itertools.chain(*(row for _, row in rows)), *grid["grid"]]))
    try:
        given = _parse(extra)
    except absl_flags.Error as error:
        raise InputError(f"after --: {error}") from None
    for name in (*differing, *_OURS):
        if given[name].present:
            raise InputError(f"after --: --{name} is set by the {'grid' if name in differing else 'sweep'} itself")
    trainings = []
    for (name, row), values in itertools.product(rows, itertools.product(*grid["grid"].values())):
        cell = dict(zip(grid["grid"], values, strict=True))
        named = _name(name, cell)
        if not named:
            raise InputError(f"{path}: a row whose name {name!r} has neither letters nor digits")
        folder = pathlib.Path(settings.out, named)
        arguments = [*common, *_as_flags(row | cell), f"--out={folder}"]
        try:
            config = configuration.read_flags(configuration.TrainConfig, _parse(arguments))
            find(config.model.model)
            record.check_folder(folder, smoke.shrink(config) if settings.smoke else config)
        except (absl_flags.Error, InputError) as error:
            raise InputError(f"{path}, row {named}: {' '.join(str(error).split())}") from None
        texts = {key: _text(configuration.settings_of(config)[key]) for key in differing}
        group = _name(name, {key: value for key, value in cell.items() if key != "seed"})
        trainings.append(Training(named, group or "all", folder, texts, arguments, config))
    _check_distinct(path, trainings)
    return trainings


def _read(path):
    """The parts of a grid file, those that are left out as empty."""
    if not path:
        raise InputError("--grid is not set: the YAML file of the trainings")
    try:
        content = yaml.safe_load(pathlib.Path(path).read_text())
    except OSError as error:
        raise InputError(f"--grid={path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--grid={path}: not YAML: {error}") from None
    if not isinstance(content, dict) or not (content.get("rows") or content.get("grid")):
        raise InputError(f"--grid={path}: has neither rows nor grid")
    unknown = set(content) - set(_PARTS)
    if unknown:
        raise InputError(f"--grid={path}: unknown part {min(map(str, unknown))}; there are {', '.join(_PARTS)}")
    empty = {"flagfile": "", "flags": {}, "rows": [{"name": ""}], "cumulative": False, "grid": {}}
    grid = empty | {key: value for key, value in content.items() if value}
    wrong = next((key for key, value in grid.items() if not isinstance(value, type(empty[key]))), None)
    if wrong:
        raise InputError(f"--grid={path}: {wrong} is not a {type(empty[wrong]).__name__}")
    for row in grid["rows"]:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            raise InputError(f"--grid={path}: a row without a name: {row}")
    for name, values in grid["grid"].items():
        if not isinstance(values, list) or not values:
            raise InputError(f"--grid={path}: {name} in grid is not a list of values")
    fields = configuration.fields_of(configuration.TrainConfig)
    for part in (grid["flags"], grid["grid"], *map(_own_flags, grid["rows"])):
        for name, value in part.items():
            if name not in fields:
                raise InputError(f"--grid={path}: there is no flag --{name}")
            if name in _OURS:
                raise InputError(f"--grid={path}: --{name} is set by the sweep itself")
            if value is None or isinstance(value, dict):
                raise InputError(f"--grid={path}: --{name} has no value")
            if part is not grid["grid"] and name in grid["grid"]:
                raise InputError(f"--grid={path}: --{name} is in grid and elsewhere")
    return grid


def _own_flags(row):
    return {key: value for key, value in row.items() if key != "name"}


def _rows(grid):
    """The rows with the flags that they keep from those before: [(name, {flag: value})]."""
    rows, kept = [], {}
    for row in grid["rows"]:
        kept = (kept if grid["cumulative"] else {}) | _own_flags(row)
        rows.append((row["name"], kept))
    return rows


def _name(row, cell):
    """The name of a training from its row and the values of the grid, the seed last; fit for a folder."""
    cell = dict(sorted(cell.items(), key=lambda item: item[0] == "seed"))
    parts = [row, *(_text(value) if key == "model" else f"{key}{_text(value)}" for key, value in cell.items())]
    return re.sub(r"[^\w.+-]+", "_", "-".join(part for part in parts if part)).strip("._-")


def _text(value):
    """A value as one would type it after --flag=."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_flags(values):
    return [f"--{name}={_text(value)}" for name, value in values.items()]


def _parse(arguments):
    """Flags of a training, as its own process will read them."""
    values = absl_flags.FlagValues()
    configuration.define_flags(configuration.TrainConfig, values)
    rest = values(["train", *arguments])[1:]
    if rest:
        raise absl_flags.Error(f"unexpected argument '{rest[0]}': flags begin with --")
    return values


def _check_distinct(path, trainings):
    """Refuse two trainings of one name, or of the same flags: they would pass for two seeds."""
    names, seen = set(), {}
    for training in trainings:
        if training.name in names:
            raise InputError(f"{path}: two trainings are named {training.name}")
        names.add(training.name)
        settings = configuration.settings_of(training.config) | {"out": ""}
        other = seen.setdefault(tuple(settings.items()), training.name)
        if other != training.name:
            raise InputError(f"{path}: {other} and {training.name} are the same training")


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
    if saved != total or not rows or rows[-1]["step"] != total:
        return False, {"steps": saved}
    last = rows[-1] | {"steps": total, "eval_loss": rows[-1]["loss"]}
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
            checkpoint.replace_atomically(path, lambda file, content=content: file.write(content.encode()))


def _spread(summary, name):
    deviation = summary[f"{name}_std"]
    return f"{summary[f'{name}_mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


# --- The sweep -------------------------------------------------------------------------------------------------------


def run(settings, extra=(), program=PROGRAM):
    """Train all of a grid; go on where it was stopped.

    Args:
        settings: a `config.SweepSection`.
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
    if settings.lanes and settings.processes:
        raise InputError(f"--lanes={settings.lanes} and --processes={settings.processes}: unset one of them")
    if settings.results:
        record.check_results(settings.results, record.ACCURACY_COLUMNS)
    trainings = plan(settings, extra)
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
            pool = None
            if settings.lanes and waiting:
                pool = lanes.Lanes(settings.lanes, {training.name: training.config for training in waiting})
            _work(waiting, pool or _Pool(program, settings.processes, lock), report, stop)
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
    told = False
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

    @property
    def free(self):
        return bool(self._slots)

    @property
    def busy(self):
        return bool(self._running)

    def start(self, training):
        """Start a training whose output is appended to its log."""
        slot = self._slots.pop(0)
        environment = os.environ | ({} if slot is None else {"CUDA_VISIBLE_DEVICES": slot})
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


def _last_error(training, process, begin):
    """The line by which a training said why it failed, of its log from byte `begin` on."""
    with open(_log(training), "rb") as log:
        log.seek(begin)
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    if process.returncode < 0:
        return f"killed by {signal.Signals(-process.returncode).name}"
    named = [line for line in lines if line.startswith("error: ")]
    return (named or lines or [f"exit code {process.returncode}"])[-1].removeprefix("error: ")


def _say(text):
    print(text, file=sys.stderr, flush=True)
