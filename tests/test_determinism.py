"""--deterministic: what it sets, when it can no longer be set, and what a run keeps of it."""

import os
import signal
import threading

import numpy as np
import pytest
import tensorflow as tf
import test_scripts
import yaml

from resnet_tf import tasks, train
from resnet_tf.config import (
    DataConfig,
    DeviceConfig,
    ModelConfig,
    OptimizerConfig,
    RecordConfig,
    TrainConfig,
    ViewConfig,
)
from resnet_tf.runs import checkpoint, devices, signals
from resnet_tf.training import loop

FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.fixture(autouse=True)
def unused_gpus(monkeypatch):
    monkeypatch.setattr(devices, "_gpus_are_used", threading.Event())
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_max_hlo_modules=1")
    yield
    devices.use_determinism(False)


def test_other_flags_of_xla_stay():
    devices.use_determinism(False)
    assert os.environ["XLA_FLAGS"] == "--xla_dump_max_hlo_modules=1"
    for _ in range(2):
        devices.use_determinism(True)
        assert os.environ["XLA_FLAGS"] == f"--xla_dump_max_hlo_modules=1 {FLAG}"


def test_sums_on_a_cpu_keep_their_order():
    """Else networks of some 20 convolutions differ in the last bit of momentum from the second step on, by chance."""
    for wanted in (False, True, False):  # a later training of the process without the flag is as in one of its own
        devices.use_determinism(wanted)
        assert tf.config.optimizer.get_experimental_options().get("arithmetic_optimization", True) is not wanted


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


class Cut(loop.Callback):
    """Sends SIGTERM at the first row of metrics.csv."""

    def on_row(self, row):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.slow  # test_faults has one replica and two machines
@pytest.mark.parametrize("replicas", [1, 2])
def test_two_runs_and_one_that_is_cut_end_alike(replicas, tmp_path):
    """From JPEG files with changes of colour, whose random numbers follow from seed and step."""

    def run(name, callbacks=()):
        config = TrainConfig(
            model=ModelConfig(model="cifar_resnet8_v1"),
            data=DataConfig(dataset="synthetic", image_size=16, normalization="imagenet"),
            views=ViewConfig(view="random_resized_crop", color_jitter=(0.4, 0.0, 0.4, 0.4), mixup=0.2, erasing=0.25),
            optimizer=OptimizerConfig(train_steps=6, batch_size=8, ema=0.9),
            device=DeviceConfig(deterministic=True, replicas=replicas, steps_per_call=2),
            record=RecordConfig(out=f"{tmp_path}/{name}", log_every=2),
        )
        return tasks.train(config, callbacks=callbacks)

    for name in ("whole", "again"):
        run(name)
    with pytest.raises(signals.Stopped, match="SIGTERM at step 2 of 6"):
        run("cut", [Cut()])
    run("cut")
    whole, *others = (checkpoint.load_latest(tmp_path / name / "checkpoints") for name in ("whole", "again", "cut"))
    assert whole["state/step"] == 6
    for other in others:
        for name, array in whole.items():
            np.testing.assert_array_equal(array, other[name], err_msg=name)


def test_the_script_counts_arrays_that_differ(tmp_path, capsys, monkeypatch):
    script = test_scripts.script("determinism")
    row = "step,epoch,wall_seconds,split,loss,top1,lr,gradient_norm\n2,1,3.5,train,0.5,0.25,0.1,1\n"
    for name, bias in (("whole", 0.0), ("again", 0.0), ("cut", 0.5)):
        folder = tmp_path / f"r20-{name}"
        checkpoint.save(
            folder / "checkpoints", 2, {"kernel": np.ones(3, np.float32), "bias": np.float32([bias, np.nan])}
        )
        (folder / "metrics.csv").write_text(row)
    monkeypatch.setattr(script, "run", lambda *_: (0, ""))
    flags = [f"--out={tmp_path}", "--networks=r20"]
    assert script.main([*flags, "--parts=whole,again"]) == 0
    assert "| r20 again | 2 | 3.5 | 2 | 2 | 0 | equal |" in capsys.readouterr().out
    assert script.main([*flags, "--parts=cut"]) == 1
    assert "| r20 cut | 2 | 3.5 | 1 | 2 | 0.5 | equal |" in capsys.readouterr().out
    monkeypatch.setattr(script, "run", lambda *_: (1, "error: --data_dir=x: no such file"))
    assert script.main([*flags, "--parts=free"]) == 1
    assert "error: r20 free: exit code 1: error: --data_dir=x: no such file" in capsys.readouterr().err
    assert script.main(["--parts=half"]) == 1
    assert "--parts=half: not one of whole" in capsys.readouterr().err
