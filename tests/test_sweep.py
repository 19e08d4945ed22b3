"""Sweeps: what a grid file means, what it refuses, and processes that fail, stop, and go on."""

import csv
import dataclasses
import fcntl
import json
import os
import pathlib
import sys

import numpy as np
import pytest
import yaml

from resnet_tf import config
from resnet_tf import sweep as command
from resnet_tf.errors import InputError
from resnet_tf.runs import record, signals
from resnet_tf.sweeps import grid as grids
from resnet_tf.sweeps import sweep

ROOT = pathlib.Path(__file__).parent.parent
GRIDS = sorted((ROOT / "flags" / "grids").glob("*.yaml"))
TINY = {
    "dataset": "synthetic", "image_size": 16, "model": "cifar_resnet8_v1", "batch_size": 32, "train_steps": 4,
    "mirror": False, "pad": 0,
}  # fmt: skip
SEEDS = {"flags": TINY, "grid": {"seed": [0, 1]}}


@pytest.fixture
def settings(tmp_path):
    """Function(grid, other settings) -> the settings of a sweep in a folder of its own."""

    def make(grid, **more):
        path = tmp_path / "grid.yaml"
        path.write_text(grid if isinstance(grid, str) else yaml.safe_dump(grid, sort_keys=False))
        return config.SweepConfig(grid=str(path), out=str(tmp_path / "out"), **more)

    return make


def rows_of(settings):
    with open(pathlib.Path(settings.out, "sweep.csv"), newline="") as file:
        return list(csv.DictReader(file))


# --- From a grid file to trainings -----------------------------------------------------------------------------------


def test_rows_and_grid_multiply(settings):
    grid = SEEDS | {"rows": [{"name": "a b"}, {"name": "slow", "lr": 0.01}]}
    grid["grid"] = {"model": ["cifar_resnet8_v1", "cifar_plain8"], "shortcut": ["A"], "seed": [0, 1]}
    grid["flags"] = {name: value for name, value in TINY.items() if name != "model"}
    trainings = grids.plan(settings(grid, results="r.csv"), ["--momentum=0.5"])
    assert [training.name for training in trainings] == [
        f"{row}-{model}-shortcutA-seed{seed}"
        for seed in (0, 1)
        for row in ("a_b", "slow")
        for model in ("cifar_resnet8_v1", "cifar_plain8")
    ]
    last = trainings[-1]
    assert last.flags == {"lr": "0.01", "model": "cifar_plain8", "shortcut": "A", "seed": "1"}
    assert trainings[0].flags["lr"] == "0.1"  # what it is where a row does not say
    assert last.config.optimizer.momentum == 0.5 and last.config.optimizer.seed == 1 and not last.config.views.mirror
    assert last.config.record.results == "r.csv" and last.config.record.out.endswith(f"/out/{last.name}")


@pytest.mark.parametrize("cumulative", [True, False])
def test_cumulative_rows_keep_the_flags_before_them(cumulative, settings):
    rows = [
        {"name": "falls", "lr_steps": [2, 3]},
        {"name": "cosine", "schedule": "cosine", "lr_steps": []},
        {"name": "smooth", "label_smoothing": 0.1},
    ]
    trainings = grids.plan(settings({"flags": TINY, "rows": rows, "cumulative": cumulative}))
    assert [training.config.schedule.lr_steps for training in trainings] == [(2, 3), (), ()]
    assert [training.config.schedule.schedule for training in trainings] == [
        "steps", "cosine", "cosine" if cumulative else "steps"
    ]  # fmt: skip
    assert [training.config.loss.label_smoothing for training in trainings] == [0, 0, 0.1]


def test_recipe_is_seen_from_the_grid_file(settings, tmp_path, monkeypatch):
    (tmp_path / "recipe.cfg").write_text("".join(f"--{name}={value}\n" for name, value in TINY.items()) + "--lr=0.3\n")
    made = settings({"flagfile": "recipe.cfg", "grid": {"seed": [5]}})
    monkeypatch.chdir("/")
    assert grids.plan(made)[0].config.schedule.lr == 0.3


@pytest.mark.parametrize("path", GRIDS, ids=lambda path: path.stem)
def test_committed_grid_is_complete(path, tmp_path):
    header = "".join(line for line in path.read_text().splitlines() if line.startswith("#"))
    assert f"python -m resnet_tf.sweep --grid=flags/grids/{path.name} --out=" in header
    assert "Expected: " in header and "Run time: " in header
    for smoke in (False, True):
        made = config.SweepConfig(grid=str(path), out=str(tmp_path), smoke=smoke)
        assert len(grids.plan(made, ["--data_dir=/nowhere"] if "--data_dir=" in header else [])) >= 9


@pytest.mark.parametrize(
    "name, expected",
    [
        ("imagenet_tweaks", "76.21, 76.66, 76.87, 77.16%"),
        ("imagenet_refinements", "77.16% at first, 77.91% with cosine, 78.31% with smoothing, 78.67% with"),
    ],
)
def test_tables_5_and_6_of_bag_of_tricks(name, expected, tmp_path):
    path = ROOT / "flags" / "grids" / f"{name}.yaml"
    assert expected in path.read_text()
    made = grids.plan(config.SweepConfig(grid=str(path), out=str(tmp_path)), ["--data_dir=/nowhere"])
    of_seed = [training.config for training in made if training.config.optimizer.seed == 0]
    for recipe in of_seed:  # all that is efficient stays
        assert recipe.optimizer.batch_size == 1024 and recipe.model.zero_gamma and recipe.device.precision == "float16"
    if name == "imagenet_tweaks":
        assert [recipe.model.model[-3:].strip("_") for recipe in of_seed] == ["v1", "v1b", "v1c", "v1d"]
        return
    rows = [
        (recipe.schedule.schedule, recipe.loss.label_smoothing, bool(recipe.loss.teacher), recipe.views.mixup,
         recipe.optimizer.train_epochs) for recipe in of_seed
    ]  # fmt: skip
    assert rows == [
        ("steps", 0, False, 0, 120), ("cosine", 0, False, 0, 120), ("cosine", 0.1, False, 0, 120),
        ("cosine", 0.1, True, 0, 120), ("cosine", 0.1, False, 0.2, 200), ("cosine", 0.1, True, 0.2, 200),
    ]  # fmt: skip
    assert {recipe.model.model for recipe in of_seed} == {"resnet50_v1d"}


def with_rows(*rows, **flags):
    return {"flags": TINY | flags, "rows": list(rows)}


@pytest.mark.parametrize(
    "grid, extra, named",
    [
        ("a: [", [], "not YAML"),
        ("", [], "neither rows nor grid"),
        (SEEDS | {"row": []}, [], "unknown part row"),
        (SEEDS | {"grid": {"seed": 1}}, [], "seed in grid is not a list"),
        (SEEDS | {"flags": ["lr"]}, [], "flags is not a dict"),
        (SEEDS | {"flags": {"lrr": 1}}, [], "no flag --lrr"),
        (SEEDS | {"flags": {"out": "x"}}, [], "--out is set by the sweep"),
        (SEEDS | {"flags": TINY | {"seed": 1}}, [], "--seed is in grid and elsewhere"),
        (SEEDS | {"flagfile": "no.cfg"}, [], "no.cfg"),
        (with_rows({"lr": 1}), [], "a row without a name"),
        (with_rows({"name": "../"}), [], "'../'"),
        (with_rows({"name": "x", "lr": None}), [], "--lr has no value"),
        (with_rows({"name": "x", "lr": "fast"}), [], "row x: flag --lr=fast"),
        (with_rows({"name": "x", "model": "cifar_resnet9_v1"}), [], "row x: --model=cifar_resnet9_v1"),
        (with_rows({"name": "x", "schedule": "cosine", "lr_steps": [1]}), [], "row x: --lr_steps"),
        (with_rows({"name": "x"}, dataset="cifar10"), [], "row x: --dataset=cifar10 needs --data_dir"),
        (with_rows({"name": "x"}, {"name": "x", "lr": 1}), [], "two trainings are named x"),
        (with_rows({"name": "x"}, {"name": "y", "pad": 0}), [], "x and y are the same training"),
        (SEEDS, ["--seed=3"], "after --: --seed is set by the grid"),
        (SEEDS, ["--out=x"], "after --: --out is set by the sweep"),
        (SEEDS, ["--lrr=3"], "after --: Unknown command line flag 'lrr'"),
        (SEEDS, ["stray"], "after --: unexpected argument 'stray'"),
    ],
)
def test_bad_grid_is_one_line_and_nothing_starts(grid, extra, named, settings, capsys):
    made = settings(grid)
    assert command.main([f"--grid={made.grid}", f"--out={made.out}", "--", *extra]) == 1
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith("error: ") and named in line and captured.out == ""
    assert made.grid in line or "after --" in line
    assert not pathlib.Path(made.out).exists()


def test_settings_that_are_missing(settings):
    made = settings(SEEDS)
    for name in ("grid", "out"):
        with pytest.raises(InputError, match=f"--{name} is not set"):
            sweep.run(dataclasses.replace(made, **{name: ""}))


# --- Processes: a stand-in for the training, whose lr says what becomes of it -----------------------------------------

STAND_IN = """
import json, os, pathlib, signal, sys, time, yaml
flags = {"lr": 0.1, "seed": 0}
flags |= {key: yaml.safe_load(value) for key, value in (part[2:].split("=", 1) for part in sys.argv[2:])}
scratch, folder = pathlib.Path(sys.argv[1]), pathlib.Path(flags["out"])
with open(scratch / "started", "a") as file:
    words = [os.environ.get("CUDA_VISIBLE_DEVICES", "all"), os.environ.get("RESNET_TF_SHARED_BY", "1")]
    file.write(" ".join([folder.name, *words]) + "\\n")
def wait_for(count):  # until so many have started
    while len((scratch / "started").read_text().split("\\n")) <= count:
        time.sleep(0.01)
def write(step):
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "checkpoints" / f"step-{step:08d}.npz").touch()
    manifest = {"flags": flags, "data": {"examples": {"train": 64}}}
    (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest))
if flags["lr"] == 13 and not (scratch / "mended").exists():
    print("error: no luck\\nclean-up", file=sys.stderr)
    sys.exit(1)
if flags["lr"] == 9 and not (scratch / "mended").exists():
    os.kill(os.getpid(), signal.SIGKILL)
if flags["lr"] == 2:
    wait_for(2)
if flags["lr"] == 5:
    print("step 1/4", flush=True)
    while not (scratch / "shown").exists():
        time.sleep(0.01)
if flags["lr"] == 3 and not (folder / "checkpoints").exists():
    def save(*_):
        write(2)
        sys.exit(75)
    signal.signal(signal.SIGTERM, save)
    wait_for(2)
    os.kill(os.getppid(), int(os.environ["SENT"]))
    time.sleep(60)
if flags["lr"] == 4:
    signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGINT))
    (scratch / "pid").write_text(str(os.getpid()))
    os.kill(os.getppid(), signal.SIGINT)
    while True:
        time.sleep(60)
write(4)
row = dict.fromkeys(COLUMNS, "") | {"step": 4, "split": "test", "loss": 1.5, "top5": 1, "wall_seconds": 7}
row["top1"] = 0.5 + flags["seed"] / 8
(folder / "metrics.csv").write_text(",".join(row) + "\\n" + ",".join(map(str, row.values())) + "\\n")
(folder / "evaluation.json").write_text("{}")
"""


@pytest.fixture
def program(tmp_path):
    """A command that does as a training does, and the names of those that it was started for."""
    path = tmp_path / "stand_in.py"
    path.write_text(STAND_IN.replace("COLUMNS", repr(record.METRICS_COLUMNS)))

    def started():
        lines = (tmp_path / "started").read_text().splitlines()
        (tmp_path / "started").write_text("")
        return lines

    return (sys.executable, str(path), str(tmp_path)), started


def test_failures_harm_no_others_and_are_tried_again(settings, program, tmp_path, capsys):
    run, started = program
    made = settings(SEEDS | {"rows": [{"name": "bad", "lr": 13}, {"name": "shot", "lr": 9}, {"name": "good"}]})
    result = sweep.run(made, program=run)
    names = [f"{name}-seed{seed}" for seed in (0, 1) for name in ("bad", "shot", "good")]
    failing = [name for name in names if "good" not in name]
    assert [line.split()[0] for line in started()] == names
    assert result["failed"] == failing and result["runs"] == 6 and result["done"] == 2 and result["best"] == "good"
    rows = rows_of(made)
    assert [row["name"] for row in rows] == names
    assert [row["status"] for row in rows] == ["failed", "failed", "done"] * 2
    assert [row["error"] for row in rows] == ["no luck", "killed by SIGKILL", ""] * 2
    assert f"bad-seed0: failed: no luck ({made.out}/bad-seed0.log)" in capsys.readouterr().err
    (tmp_path / "mended").touch()
    result = sweep.run(made, program=run)
    assert [line.split()[0] for line in started()] == failing and not result["failed"]
    log = pathlib.Path(made.out, "bad-seed0.log").read_text()
    assert log.count(f"--out={made.out}/bad-seed0") == 2 and "error: no luck" in log  # the log goes on, too
    assert sweep.run(made, program=run) == result and not started()
    (group,) = [group for group in result["groups"] if group["name"] == "good"]
    values = [0.5, 0.625]
    assert group["n"] == 2 and group["top1_mean"] == np.mean(values) and group["eval_loss_std"] == 0
    assert group["top1_std"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
    assert "| good | 2 | 0.5625 ± 0.0884 | 1.0000 ± 0.0000 |" in pathlib.Path(made.out, "summary.md").read_text()


@pytest.mark.parametrize("sent", ["SIGTERM", "SIGINT"])
def test_signals_are_passed_on_and_the_same_command_goes_on(sent, settings, program, monkeypatch):
    run, started = program
    monkeypatch.setenv("SENT", str(int(getattr(signals.signal, sent))))
    grid = {"flags": TINY, "rows": [{"name": "first"}, {"name": "slow", "lr": 3}, {"name": "last", "seed": 1}]}
    made = settings(grid)
    with pytest.raises(signals.Stopped, match=f"{sent}: 1 of 3 trainings are done in {made.out}; the same command"):
        sweep.run(made, program=run)
    assert [line.split()[0] for line in started()] == ["first", "slow"]
    assert [(row["status"], row["steps"]) for row in rows_of(made)] == [
        ("done", "4"),
        ("waiting", "2"),
        ("waiting", "0"),
    ]
    assert sweep.run(made, program=run)["done"] == 3
    assert [line.split()[0] for line in started()] == ["slow", "last"]


def test_a_second_interrupt_ends_all_at_once(settings, program, tmp_path):
    run, _ = program
    made = settings({"flags": TINY | {"lr": 4}, "grid": {"seed": [0, 1]}})
    with pytest.raises(KeyboardInterrupt):
        sweep.run(made, program=run)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_what_trainings_say_is_shown_while_they_run(settings, program, tmp_path, monkeypatch):
    def say(text):
        if text == "seed1: step 1/4":
            (tmp_path / "shown").touch()  # what it waits for

    monkeypatch.setattr(sweep, "_SHOWN_EVERY", 0.05)
    monkeypatch.setattr(sweep, "_say", say)
    made = settings({"flags": TINY | {"lr": 5}, "grid": {"seed": [1]}})
    assert sweep.run(made, program=program[0])["done"] == 1


@pytest.mark.parametrize("visible, cards", [(None, {"0", "1"}), ("5,7", {"5", "7"})])
def test_several_at_once_take_turns_on_the_gpus(visible, cards, settings, program, monkeypatch):
    run, started = program
    monkeypatch.setattr(sweep.tf.config, "list_physical_devices", lambda kind: ["", ""])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    made = settings({"flags": TINY | {"lr": 2}, "grid": {"seed": [0, 1]}})  # each waits for the other
    sweep.run(made, program=run)
    assert {line.split()[1] for line in started()} == cards
    alone = dataclasses.replace(made, out=f"{made.out}2", processes=1)
    sweep.run(dataclasses.replace(alone, grid=settings(SEEDS).grid), program=run)
    assert {line.split()[1] for line in started()} == {visible or "all"}
    shared = dataclasses.replace(made, out=f"{made.out}3", processes=3)  # on two GPUs: one has two of them
    sweep.run(dataclasses.replace(shared, grid=settings(SEEDS).grid), program=run)
    assert {line.split()[2] for line in started()} == {"2"}


def test_folder_of_other_flags_or_in_use_is_refused(settings, program):
    run, started = program
    made = settings(SEEDS)
    sweep.run(made, program=run)
    started()
    with pytest.raises(InputError, match=r"row seed0: --out=.*/out/seed0: a run of other flags: --lr=0.1 there"):
        sweep.run(made, ["--lr=0.5"], program=run)
    with open(pathlib.Path(made.out, ".lock")) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match=f"--out={made.out}: a sweep, or a training"):
            sweep.run(made, program=run)
    assert not os.path.getsize(pathlib.Path(run[2], "started"))


# --- The whole -------------------------------------------------------------------------------------------------------


def test_a_sweep_of_two_real_trainings(settings, tmp_path, capsys):
    made = settings(SEEDS)
    flags = [f"--grid={made.grid}", f"--out={made.out}", "--processes=2", f"--results={tmp_path}/r.csv"]
    assert command.main([*flags, "--", "--log_every=2"]) == 0, pathlib.Path(made.out, "seed0.log").read_text()
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    scores = [json.loads(pathlib.Path(made.out, f"seed{seed}", "evaluation.json").read_text()) for seed in (0, 1)]
    top1 = [score["top1"] for score in scores]
    assert scores[0]["loss"] != scores[1]["loss"]
    assert result["runs"] == result["done"] == 2 and not result["failed"] and result["best"] == "all"
    (group,) = result["groups"]
    # metrics.csv and the summary hold six digits.
    assert group["top1_mean"] == pytest.approx(np.mean(top1), rel=1e-5)
    assert group["eval_loss_std"] == pytest.approx(np.std([score["loss"] for score in scores], ddof=1), abs=1e-5)
    for row, score in zip(rows_of(made), scores, strict=True):
        assert row["status"] == "done" and float(row["top1"]) == pytest.approx(score["top1"], rel=1e-5)
    with open(tmp_path / "r.csv", newline="") as file:
        appended = sorted(csv.DictReader(file), key=lambda row: row["seed"])
    assert [row["seed"] for row in appended] == ["0", "1"]
    assert all("-m resnet_tf.train" in row["command"] and f"seed={row['seed']}" in row["command"] for row in appended)
    assert command.main([*flags, "--", "--log_every=2"]) == 0
    again = capsys.readouterr()
    assert json.loads(again.out.strip().splitlines()[-1]) == result and "started" not in again.err
