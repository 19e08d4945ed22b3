"""How a training ends: early or late, on its best weights, and lengthened; what is scored when."""

import os
import signal

import numpy as np
import pytest
import yaml

import resnet_tf
from resnet_tf import evaluate, export, train
from resnet_tf.data import Source, Split
from resnet_tf.evaluation import metrics
from resnet_tf.runs import checkpoint, record
from resnet_tf.training import loop

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

# 512 training images, of which 384 stay: 12 steps are an epoch.
SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.02", "--pad=2",
    "--log_every=12", "--validation_examples=128",
)  # fmt: skip
LOSSES = (3.0, 2.0, 2.5, 2.6, 2.7, 2.8, 1.0, 1.0)


@pytest.fixture
def scripted(monkeypatch):
    """Scores of the evaluations in turn: the loss of `LOSSES`, and the top-1 that fits."""

    def script(losses=LOSSES):
        calls = []

        def scored(logits, labels):
            calls.append(len(labels))
            loss = losses[min(len(calls), len(losses)) - 1]
            return {"examples": len(labels), "top1": 1 / (1 + loss), "top5": 0.9, "loss": loss}

        monkeypatch.setattr(metrics, "classification", scored)
        return calls

    return script


def rows_of(folder, split="validation"):
    return [row for row in record.read_metrics(folder / "metrics.csv") if row["split"] == split]


def test_training_ends_where_the_validation_loss_stays(tmp_path, scripted, last_json, capsys):
    """The second epoch is the best; three epochs without a better one end the training after the fifth of eight."""
    calls = scripted()
    out = tmp_path / "run"
    flags = [*SMALL, "--train_epochs=8", "--eval_epochs=1", "--stop_after=3", "--finish_on=best", f"--out={out}"]
    assert train.main(flags) == 0
    result = last_json()
    assert [row["step"] for row in rows_of(out)] == [12, 24, 36, 48, 60]
    assert result["steps"] == 60 and result["weights"] == "best" and result["best_step"] == 24
    assert "no lower validation loss for 3 epochs, since epoch 2" in result["ended"]
    # Five evaluations and one of the best weights on 128 validation images, and the test split once.
    assert calls == [128] * 6 + [256] and result["test"]["examples"] == 256
    # The same command again does not go on.
    assert train.main(flags) == 0
    again = last_json()
    assert again["steps"] == 60 and again["ended"] == result["ended"] and len(rows_of(out)) == 5
    # The weights of the finished run are those of the best step, the last ones are there too.
    assert evaluate.main([f"--run={out}", "--split=validation"]) == 0
    assert last_json()["steps"] == 24
    assert evaluate.main([f"--run={out}", "--split=validation", "--weights=raw"]) == 0
    assert last_json()["steps"] == 60
    assert export.main([f"--run={out}", f"--out={tmp_path}/model"]) == 0
    capsys.readouterr()


def test_stopped_before_it_ends_it_ends_at_the_same_step(tmp_path, scripted, last_json):
    """The patience is counted from the rows, so that an interrupted run ends as an unbroken one."""

    class Stop(loop.Callback):
        def on_row(self, row):
            if row["split"] == "validation" and row["step"] == 36:
                raise KeyboardInterrupt

    flags = dict(one.lstrip("-").split("=") for one in SMALL)
    flags |= {"train_epochs": 8.0, "eval_epochs": 1.0, "stop_after": 3, "checkpoint_every": 12, "out": tmp_path / "run"}
    flags = {name: type(getattr_default(name))(value) for name, value in flags.items()}
    scripted()
    with pytest.raises(KeyboardInterrupt):
        resnet_tf.fit(callbacks=[Stop()], **flags)
    scripted(LOSSES[2:])  # the third evaluation is done again
    result = resnet_tf.fit(**flags)
    assert result["steps"] == 60 and "since epoch 2" in result["ended"]


def test_a_signal_while_the_best_weights_are_scored_keeps_the_last_ones(tmp_path, monkeypatch, last_json):
    """The state is then that of the best step, and must not be written as that of the last one."""
    calls = []

    def scored(logits, labels):
        calls.append(len(labels))
        if len(calls) == 3:  # two evaluations, then that of the best weights; the test split would be next
            os.kill(os.getpid(), signal.SIGTERM)
        return {"examples": len(labels), "top1": 1 / len(calls), "top5": 0.9, "loss": float(len(calls))}

    monkeypatch.setattr(metrics, "classification", scored)
    flags = [*SMALL, "--train_epochs=2", "--eval_epochs=1", "--finish_on=best", f"--out={tmp_path}/run"]
    assert train.main(flags) == 75
    folder = tmp_path / "run" / "checkpoints"
    assert checkpoint.steps(folder)[-1] == 24 == checkpoint.load_latest(folder)["state/step"]
    assert checkpoint.load(checkpoint.best_path(folder))["state/step"] == 12
    assert train.main(flags) == 0
    assert last_json()["best_step"] == 12


def getattr_default(name):
    from resnet_tf import config

    return config.fields_of(config.TrainConfig)[name].default


def test_a_callback_ends_a_training(tmp_path):
    class Ask(loop.Callback):
        def on_start(self, run, engine):
            self.engine = engine

        def on_row(self, row):
            if row["split"] == "train" and row["step"] == 4:
                self.engine.request_stop("four steps are enough")

    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), np.uint8)
    split = Split(images, np.arange(64, dtype=np.int32) % 2)
    source = Source("mine", ("a", "b"), {"train": split, "test": split.take(np.arange(8))})
    flags = {"model": "cifar_resnet8_v1", "image_size": 16, "batch_size": 16, "train_steps": 20, "log_every": 2}
    flags["steps_per_call"] = 2
    result = resnet_tf.fit(source, [Ask()], out=tmp_path / "run", **flags)
    assert result["steps"] == 4 and result["ended"] == "four steps are enough"
    assert checkpoint.steps(tmp_path / "run" / "checkpoints")[-1] == 4
    # Finished is finished, also without the callback; a longer one goes on.
    assert resnet_tf.fit(source, out=tmp_path / "run", **flags)["steps"] == 4
    assert resnet_tf.fit(source, out=tmp_path / "run", **flags | {"train_steps": 22, "extend": True})["steps"] == 22


@pytest.mark.parametrize(
    "schedule, is_exact",
    # What is said of each schedule is in tests/test_optimizer.py.
    [("steps", True), pytest.param("cosine", False, marks=pytest.mark.slow)],
)
def test_a_lengthened_run_is_the_longer_one_where_the_schedule_allows(tmp_path, last_json, capsys, schedule, is_exact):
    flags = [*SMALL, f"--schedule={schedule}", "--checkpoint_every=4"]
    assert train.main([*flags, "--train_steps=12", f"--out={tmp_path}/long"]) == 0
    long = last_json()
    out = f"--out={tmp_path}/run"
    assert train.main([*flags, "--train_steps=8", out]) == 0
    capsys.readouterr()
    assert train.main([*flags, "--train_steps=12", out]) == 1
    assert capsys.readouterr().err.strip().endswith("--train_steps=8 there, 12 here; --extend lengthens a run")
    assert train.main([*flags, "--train_steps=6", out, "--extend"]) == 1
    assert "makes runs longer, not shorter" in capsys.readouterr().err
    assert train.main([*flags, "--train_epochs=2", out, "--extend"]) == 1
    assert "keeps the unit" in capsys.readouterr().err
    assert train.main([*flags, "--train_steps=12", out, "--extend"]) == 0
    result = last_json()
    (note,) = yaml.safe_load((tmp_path / "run" / "manifest.yaml").read_text())["extended"]
    assert ("exactly as" in note) == is_exact and note.startswith("from --train_steps=8 at step 8: ")
    assert (result["loss"] == long["loss"]) == is_exact and result["steps"] == 12
    assert record.open_run(tmp_path / "run").config.optimizer.train_steps == 12
    # Without --extend it is now a run of 12 steps.
    assert train.main([*flags, "--train_steps=12", out]) == 0


def test_what_needs_a_validation_split_says_so(tmp_path, capsys):
    flags = [*SMALL[:-1], "--train_epochs=2", "--eval_epochs=1", f"--out={tmp_path}/run"]
    for flag in ("--stop_after=2", "--finish_on=best"):
        assert train.main([*flags, flag]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line.startswith(f"error: {flag.partition('=')[0]} chooses by a validation split")
    assert train.main([*flags, "--eval_every=4"]) == 1
    assert "--eval_every and --eval_epochs are both set" in capsys.readouterr().err
    assert train.main([*SMALL, "--train_epochs=2", "--stop_after=2", f"--out={tmp_path}/run"]) == 1
    assert "--stop_after needs --eval_epochs" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
