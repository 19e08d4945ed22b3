"""Several trainings in one process are what each is alone."""

import threading
import time

import numpy as np
import pytest
import yaml

from resnet_tf import config
from resnet_tf.errors import InputError
from resnet_tf.training import checkpoint, lanes, loop, sweep
from resnet_tf.training import grid as grids

FLAGS = {"model": "cifar_resnet8_v1", "dataset": "digits", "image_size": 16, "batch_size": 64,
         "train_steps": 6, "log_every": 3}  # fmt: skip


def sweep_of(folder, grid):
    """Train a grid in lanes."""
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump({"flags": FLAGS} | grid))
    return sweep.run(config.SweepSection(grid=str(path), out=str(folder), lanes=3))


def test_runs_side_by_side_are_those_made_alone(tmp_path):
    rows = [{"name": "a"}, {"name": "b", "seed": 1}, {"name": "bad", "teacher": str(tmp_path / "none")}]
    result = sweep_of(tmp_path / "runs", {"rows": rows})
    assert (result["done"], result["failed"]) == (2, ["bad"])
    assert "--teacher" in (tmp_path / "runs" / "sweep.csv").read_text()
    for name, seed in (("a", 0), ("b", 1)):
        alone = tmp_path / name
        loop.train(config.from_settings(config.TrainConfig, FLAGS | {"seed": seed, "out": str(alone)}, "test"))
        ours, theirs = (checkpoint.load_latest(folder / "checkpoints") for folder in (tmp_path / "runs" / name, alone))
        for part in theirs:
            np.testing.assert_array_equal(ours[part], theirs[part], err_msg=part)
    command = yaml.safe_load((tmp_path / "runs" / "b" / "manifest.yaml").read_text())["command"]
    assert command.startswith("python -m resnet_tf.train --batch_size=64") and "--seed=1" in command


def test_trainings_that_share_a_gpu_have_one_precision(tmp_path):
    with pytest.raises(InputError, match="--precision=bfloat16 and float32"):
        sweep_of(tmp_path / "runs", {"rows": [{"name": name, "precision": name} for name in ("float32", "bfloat16")]})


def test_no_training_goes_on_before_all_are_compiled(tmp_path, monkeypatch):
    """The first is compiled alone; while programs are compiled none that trains may hold the GPU."""
    events = []

    def train(settings, source, callbacks, stop):
        settings = settings.optimizer
        events.append(("begins", settings.seed))
        time.sleep(0.1 * settings.seed)
        callbacks[0].on_compiled(lambda: events.append(("compiled", settings.seed)))
        events.append(("goes on", settings.seed))

    monkeypatch.setattr(loop, "train", train)
    trainings = [
        grids.Training(
            str(seed), "", tmp_path, {}, [],
            config.from_settings(config.TrainConfig, FLAGS | {"seed": seed}, "test"),
        ) for seed in (1, 2, 3)
    ]  # fmt: skip
    pool = lanes.Lanes(3, {one.name: one.config for one in trainings})
    for training in trainings:
        pool.start(training)
    over, deadline = [], time.monotonic() + 30
    while len(over) < 3 and time.monotonic() < deadline:
        over += pool.ended()
        time.sleep(0.01)
    assert [code for _, code, _ in over] == [0, 0, 0]
    assert events[:2] == [("begins", 1), ("compiled", 1)]
    assert {event for event, _ in events[-3:]} == {"goes on"}


def test_stopped_lanes_are_saved(tmp_path):
    settings = FLAGS | {"train_steps": 4000, "steps_per_call": 1, "log_every": 1, "out": str(tmp_path / "run")}
    training = grids.Training("run", "run", tmp_path / "run", {}, ["--some=flag"],
                              config.from_settings(config.TrainConfig, settings, "test"))  # fmt: skip
    pool = lanes.Lanes(2, {"run": training.config})
    pool.start(training)
    rows = tmp_path / "run" / "metrics.csv"
    deadline = threading.Event()
    threading.Timer(60, deadline.set).start()
    while not (rows.exists() and len(rows.read_text().splitlines()) > 3) and not deadline.is_set():
        time.sleep(0.05)
    pool.stop()
    while not (over := pool.ended()) and not deadline.is_set():
        time.sleep(0.05)
    (ended, code, said), = over  # fmt: skip
    assert (ended.name, code) == ("run", 75) and "SIGTERM at step" in said
    assert 0 < checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] < 4000
    assert pool.free and not pool.busy
