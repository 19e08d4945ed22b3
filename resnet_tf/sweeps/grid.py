"""Reader of a grid file, which lists the trainings of a sweep.

A grid file is YAML. Each part is optional, but there must be rows or grid:

    flagfile: ../cifar10_resnet20.cfg     # recipe of all trainings, relative to the grid file
    flags: {eval_every: 4000}             # flags of all trainings
    rows:                                 # names, each with the flags in which it differs
      - {name: baseline}
      - {name: warm-up, warmup_epochs: 5}
      - {name: zero-gamma, zero_gamma: true}
    cumulative: true                      # whether each row keeps the flags of the rows before it
    grid:                                 # train each row with each combination of these values
      seed: [0, 1, 2]

Values are values of flags; a list stands for "1,2,3". Later parts override earlier ones: flagfile, flags, flags after
-- on the command line, rows, grid. The name of a training joins its row and the values of the grid: warm-up-seed1.
"""

import dataclasses
import itertools
import os
import pathlib
import re
from collections.abc import Sequence

import yaml
from absl import flags as absl_flags

from resnet_tf import config as configuration
from resnet_tf.errors import InputError
from resnet_tf.models import find
from resnet_tf.runs import record
from resnet_tf.training import smoke

_PARTS = ("flagfile", "flags", "rows", "cumulative", "grid")
_RESERVED = ("out", "results", "smoke", "debug_step")  # flags that a grid may not set


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of a sweep.

    Attributes:
        name: name of the training and its folder.
        group: name without the seed.
        folder: folder of the run.
        flags: {flag: value as text} of the flags in which the trainings differ.
        arguments: arguments of its command.
        config: the `TrainConfig` of these arguments, before --smoke shrinks it.
    """

    name: str
    group: str
    folder: pathlib.Path
    flags: dict
    arguments: list
    config: configuration.TrainConfig


def plan(settings: configuration.SweepConfig, extra: Sequence[str] = ()) -> list[Training]:
    """Read a grid file and check each of its trainings, without writing anything.

    Args:
        settings: a `config.SweepConfig`.
        extra: further flags of all trainings.

    Returns:
        Trainings in the order of the file, all of one seed before those of the next.

    Raises:
        InputError: the file or a row of it is wrong.
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
    for name in (*differing, *_RESERVED):
        if given[name].present:
            raise InputError(f"after --: --{name} is set by the {'grid' if name in differing else 'sweep'} itself")
    cells = [dict(zip(grid["grid"], values, strict=True)) for values in itertools.product(*grid["grid"].values())]
    seeds = grid["grid"].get("seed", [None])
    trainings = []
    # Finish one seed before the next, so that an interrupted sweep has complete tables.
    for (row_name, row), cell in sorted(itertools.product(rows, cells), key=lambda p: seeds.index(p[1].get("seed"))):
        name = _name(row_name, cell)
        if not name:
            raise InputError(f"{path}: a row whose name {row_name!r} has neither letters nor digits")
        folder = pathlib.Path(settings.out, name)
        arguments = [*common, *_as_flags(row | cell), f"--out={folder}"]
        try:
            config = configuration.read_flags(configuration.TrainConfig, _parse(arguments))
            find(config.model.model)
            record.check_folder(folder, smoke.shrink(config) if settings.smoke else config)
        except (absl_flags.Error, InputError) as error:
            raise InputError(f"{path}, row {name}: {' '.join(str(error).split())}") from None
        texts = {key: _text(configuration.settings_of(config)[key]) for key in differing}
        group = _name(row_name, {key: value for key, value in cell.items() if key != "seed"})
        trainings.append(Training(name, group or "all", folder, texts, arguments, config))
    _check_distinct(path, trainings)
    return trainings


def _read(path):
    """Read and check a grid file, and return its parts, empty if missing."""
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
            if name in _RESERVED:
                raise InputError(f"--grid={path}: --{name} is set by the sweep itself")
            if value is None or isinstance(value, dict):
                raise InputError(f"--grid={path}: --{name} has no value")
            if part is not grid["grid"] and name in grid["grid"]:
                raise InputError(f"--grid={path}: --{name} is in grid and elsewhere")
    return grid


def _own_flags(row):
    return {key: value for key, value in row.items() if key != "name"}


def _rows(grid):
    """Return the rows with the flags that they keep from earlier rows: [(name, {flag: value})]."""
    rows, kept = [], {}
    for row in grid["rows"]:
        kept = (kept if grid["cumulative"] else {}) | _own_flags(row)
        rows.append((row["name"], kept))
    return rows


def _name(row, cell):
    """Join a row and the values of the grid, the seed last, to a name that is fit for a folder."""
    cell = dict(sorted(cell.items(), key=lambda item: item[0] == "seed"))
    parts = [row, *(_text(value) if key == "model" else f"{key}{_text(value)}" for key, value in cell.items())]
    return re.sub(r"[^\w.+-]+", "_", "-".join(part for part in parts if part)).strip("._-")


def _text(value):
    """Return a value as text for --flag=."""
    if isinstance(value, (list, tuple)):
        return ",".join(map(_text, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _as_flags(values):
    return [f"--{name}={_text(value)}" for name, value in values.items()]


def _parse(arguments):
    """Parse flags as the process of a training does."""
    values = absl_flags.FlagValues()
    configuration.define_flags(configuration.TrainConfig, values)
    rest = values(["train", *arguments])[1:]
    if rest:
        raise absl_flags.Error(f"unexpected argument '{rest[0]}': flags begin with --")
    return values


def _check_distinct(path, trainings):
    """Refuse two trainings of one name, or of the same flags, which would count as two seeds."""
    names, seen = set(), {}
    for training in trainings:
        if training.name in names:
            raise InputError(f"{path}: two trainings are named {training.name}")
        names.add(training.name)
        settings = configuration.settings_of(training.config) | {"out": ""}
        other = seen.setdefault(tuple(settings.items()), training.name)
        if other != training.name:
            raise InputError(f"{path}: {other} and {training.name} are the same training")
