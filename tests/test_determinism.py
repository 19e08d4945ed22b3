"""--deterministic: what it sets, when it can no longer be set, and what a run keeps of it."""

import os
import threading

import pytest
import yaml

from resnet_tf import train
from resnet_tf.runs import devices

FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.fixture(autouse=True)
def unused_gpus(monkeypatch):
    monkeypatch.setattr(devices, "_gpus_are_used", threading.Event())
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_max_hlo_modules=1")


def test_other_flags_of_xla_stay():
    devices.use_determinism(False)
    assert os.environ["XLA_FLAGS"] == "--xla_dump_max_hlo_modules=1"
    for _ in range(2):
        devices.use_determinism(True)
        assert os.environ["XLA_FLAGS"] == f"--xla_dump_max_hlo_modules=1 {FLAG}"


def test_too_late_is_said(tmp_path, capsys):
    devices.note_use_of_gpus()
    devices.use_determinism(False)
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--train_steps=1"]
    assert train.main([*flags, "--deterministic", f"--out={tmp_path}/run"]) == 1
    assert "--deterministic: this process has used a GPU without it" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    os.environ["XLA_FLAGS"] += f" {FLAG}"  # it was set before, then
    devices.use_determinism(True)


def test_a_run_keeps_that_it_is_deterministic(tmp_path, capsys):
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--train_steps=2", "--batch_size=8"]
    assert train.main([*flags, "--deterministic", f"--out={tmp_path}/run"]) == 0
    manifest = yaml.safe_load((tmp_path / "run" / "manifest.yaml").read_text())
    assert manifest["flags"]["deterministic"] is True and FLAG in manifest["command"]
    capsys.readouterr()
    assert train.main([*flags, f"--out={tmp_path}/run"]) == 1  # its end would not be what a whole run gives
    assert "deterministic" in capsys.readouterr().err
