"""Several trainings in one process are what each is alone."""

import threading
import time

import numpy as np
import pytest
import yaml

from resnet_tf import config
from resnet_tf.errors import InputError
from resnet_tf.training import checkpoint, lanes, loop, signals

SETTINGS = {
    "model": "cifar_resnet8_v1", "dataset": "digits", "image_size": 16, "batch_size": 64, "precision": "float32",
    "train_steps": 6, "log_every": 3,
}  # fmt: skip


def job(folder, **settings):
    made = config.from_settings(config.TrainConfig, SETTINGS | settings | {"out": str(folder)}, "test")
    return lanes.Job(folder.name, made, f"train {folder.name}")


def test_runs_side_by_side_are_those_made_alone(tmp_path):
    ended = {}
    jobs = [job(tmp_path / f"seed{seed}", seed=seed) for seed in (0, 1)]
    jobs.append(job(tmp_path / "bad", teacher=str(tmp_path / "none")))
    lanes.train(jobs, 3, on_end=lambda job, outcome: ended.update({job.name: outcome}))
    assert isinstance(ended["bad"], InputError) and "--teacher" in str(ended["bad"])
    for name, seed in (("seed0", 0), ("seed1", 1)):
        alone = loop.train(job(tmp_path / "alone" / name, seed=seed).config)
        assert ended[name]["top1"] == alone["top1"]
        ours, theirs = (
            checkpoint.load_latest(folder / "checkpoints") for folder in (tmp_path / name, tmp_path / "alone" / name)
        )
        for part in theirs:
            np.testing.assert_array_equal(ours[part], theirs[part], err_msg=part)
        assert yaml.safe_load((tmp_path / name / "manifest.yaml").read_text())["command"] == f"train {name}"


def test_trainings_that_share_a_gpu_have_one_precision(tmp_path):
    jobs = [job(tmp_path / precision, precision=precision) for precision in ("float32", "bfloat16")]
    with pytest.raises(InputError, match="--precision=bfloat16 and float32"):
        lanes.train(jobs, 2)


def test_a_signal_stops_all_and_they_go_on(tmp_path, monkeypatch):
    heard = []

    class Stop(signals.Stop):
        def __init__(self):
            super().__init__()
            heard.append(self)

    monkeypatch.setattr(lanes.signals, "Stop", Stop)
    jobs = [job(tmp_path / f"seed{seed}", seed=seed, train_steps=40, steps_per_call=1, log_every=1) for seed in (0, 1)]
    rows = tmp_path / "seed0" / "metrics.csv"

    def stop_soon(job, _=None):
        def wait():
            while not rows.exists() or len(rows.read_text().splitlines()) < 5:
                time.sleep(0.05)
            heard[0].name = "SIGTERM"

        if job.name == "seed0":
            threading.Thread(target=wait, daemon=True).start()

    ended = {}
    with pytest.raises(signals.Stopped):
        lanes.train(jobs, 2, on_start=stop_soon, on_end=lambda job, outcome: ended.update({job.name: outcome}))
    assert all(isinstance(outcome, signals.Stopped) for outcome in ended.values()), ended
    assert 0 < checkpoint.steps(tmp_path / "seed0" / "checkpoints")[-1] < 40
    monkeypatch.undo()
    lanes.train(jobs, 2, on_end=lambda job, outcome: ended.update({job.name: outcome}))
    assert [outcome["steps"] for outcome in ended.values()] == [40, 40]
