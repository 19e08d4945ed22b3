"""Trainings in MLflow, in a folder, and in Weights & Biases, offline."""

import json
import sys

import pytest

import resnet_tf
from resnet_tf.errors import InputError
from resnet_tf.runs import record
from resnet_tf.training import logging_callbacks, loop
from resnet_tf.training.logging_callbacks import MLflow, WandB

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SMALL = {
    "model": "cifar_resnet8_v1", "dataset": "synthetic", "image_size": 16, "batch_size": 32, "train_steps": 4,
    "log_every": 2, "eval_every": 2, "checkpoint_every": 2, "ema": 0.9,
}  # fmt: skip


class Breaks(loop.Callback):
    """Ends a training at a checkpoint, as a crash does."""

    def on_checkpoint(self, path):
        raise RuntimeError("crash")


def expected(folder):
    """{(metric, step): value} as metrics.csv has them."""
    rows = record.read_metrics(folder / "metrics.csv")
    return {(name, row["step"]): value for row in rows for name, value in logging_callbacks.metrics_of(row).items()}


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("GIT_PYTHON_REFRESH", "quiet")
    return pytest.importorskip("mlflow").MlflowClient(tracking_uri=(tmp_path / "store").as_uri())


def logged(client, run_id):
    """{(metric, step): value} of a run, without the result; no metric has a step twice."""
    names = [name for name in client.get_run(run_id).data.metrics if not name.startswith("result/")]
    points = [(name, one.step, one.value) for name in names for one in client.get_metric_history(run_id, name)]
    found = {(name, step): value for name, step, value in points}
    assert len(found) == len(points)
    return found


def test_a_resumed_training_goes_on_in_the_same_run_of_mlflow(mlflow, tmp_path):
    folder, uri = tmp_path / "run", (tmp_path / "store").as_uri()
    with pytest.raises(RuntimeError, match="crash"):
        resnet_tf.fit(callbacks=[MLflow("digits", uri), Breaks()], out=str(folder), **SMALL)
    run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
    assert mlflow.get_run(run_id).info.status == "RUNNING"
    assert ("test/loss", 2) in logged(mlflow, run_id) and ("train/loss", 4) not in logged(mlflow, run_id)

    result = resnet_tf.fit(callbacks=[MLflow("digits", uri)], out=str(folder), **SMALL)
    assert json.loads((folder / "mlflow.json").read_text())["run_id"] == run_id
    there = mlflow.get_run(run_id)
    assert there.info.status == "FINISHED" and there.info.run_name == "run"
    wanted = expected(folder)
    assert {"train/loss", "train/lr", "test/top1", "test_ema/loss"} <= {name for name, _ in wanted}
    found = logged(mlflow, run_id)
    timed = [key for key in wanted if "second" in key[0]]  # the first rows were written again, at another time
    assert found.keys() == wanted.keys()
    for key in set(wanted) - set(timed):
        assert found[key] == pytest.approx(wanted[key]), key
    assert there.data.metrics["result/top1"] == pytest.approx(result["top1"])
    assert there.data.metrics["result/ema/loss"] == pytest.approx(result["ema"]["loss"])
    assert there.data.tags["result/split"] == "test"
    assert there.data.params["batch_size"] == "32" and there.data.params["model"] == "cifar_resnet8_v1"

    resnet_tf.fit(callbacks=[MLflow("digits", uri)], out=str(folder), **SMALL)  # finished: nothing is sent twice
    assert logged(mlflow, run_id) == found
    mlflow.delete_run(run_id)
    (folder / "mlflow.json").write_text('{"run_id": "0123456789abcdef0123456789abcdef"}')  # gone there
    resnet_tf.fit(callbacks=[MLflow("digits", uri)], out=str(folder), **SMALL)
    other = json.loads((folder / "mlflow.json").read_text())["run_id"]
    assert other not in (run_id, "0123456789abcdef0123456789abcdef")
    assert logged(mlflow, other) == pytest.approx(wanted)


def test_a_lost_server_does_not_end_a_training(mlflow, tmp_path, monkeypatch, caplog):
    callback = MLflow("digits", (tmp_path / "store").as_uri())
    log_batch, calls = type(mlflow).log_batch, []

    def sometimes(self, run_id, metrics=(), **others):
        calls.append(len(metrics))
        if metrics and sum(map(bool, calls)) < 3:
            raise ConnectionError("no server")
        return log_batch(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(type(mlflow), "log_batch", sometimes)
    resnet_tf.fit(callbacks=[callback], out=str(tmp_path / "run"), **SMALL)
    assert "MLflow: no server" in caplog.text
    run_id = json.loads((tmp_path / "run" / "mlflow.json").read_text())["run_id"]
    assert logged(mlflow, run_id) == pytest.approx(expected(tmp_path / "run"))


def test_a_server_that_is_not_there_is_one_line(tmp_path, monkeypatch, mlflow):
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE")
    uri = (tmp_path / "else").as_uri()
    with pytest.raises(InputError, match=r"^MLflow\(uri=file://") as caught:
        resnet_tf.fit(callbacks=[MLflow("digits", uri)], out=str(tmp_path / "run"), **SMALL)
    assert "\n" not in str(caught.value)
    wandb = pytest.importorskip("wandb")

    def no_key(**_):
        raise wandb.Error("No API key configured.\nUse `wandb login`")

    monkeypatch.setattr(wandb, "init", no_key)
    with pytest.raises(InputError, match=r"^WandB\(project=x\): No API key configured. Use `wandb login`$"):
        resnet_tf.fit(callbacks=[WandB("x")], out=str(tmp_path / "run"), **SMALL)
    (tmp_path / "run" / "mlflow.json").write_text("{")
    with pytest.raises(InputError, match=r"mlflow.json: damaged$"):
        resnet_tf.fit(callbacks=[MLflow("digits", uri)], out=str(tmp_path / "run"), **SMALL)


def test_weights_and_biases_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_SILENT", "true")
    folder, runs, init = tmp_path / "run", [], wandb.init

    def noted(**options):
        runs.append((options, init(**options)))
        logged = runs[-1][1].log
        rows = options["rows"] = []
        run = runs[-1][1]
        finish = run.finish
        monkeypatch.setattr(run, "log", lambda row, step: (rows.append((step, row)), logged(row, step=step)))
        monkeypatch.setattr(run, "finish", lambda: (options.update(summary=dict(run.summary)), finish()))
        return run

    monkeypatch.setattr(wandb, "init", noted)
    callback = WandB("digits", mode="offline", tags=["small"])
    with pytest.raises(RuntimeError, match="crash"):
        resnet_tf.fit(callbacks=[callback, Breaks()], out=str(folder), **SMALL)
    runs[0][1].finish()
    result = resnet_tf.fit(callbacks=[WandB("digits", mode="offline")], out=str(folder), **SMALL)
    (first, _), (second, _) = runs
    assert first["id"] == second["id"] == json.loads((folder / "wandb.json").read_text())["id"]
    assert second["resume"] == "allow" and first["tags"] == ["small"] and second["config"]["batch_size"] == 32
    sent = [(row["step"], logging_callbacks.metrics_of(row)) for row in record.read_metrics(folder / "metrics.csv")]
    assert second["rows"] == sent  # offline it is not known what is there; what is there twice is ignored
    assert second["summary"]["result/top1"] == pytest.approx(result["top1"])
    assert list((folder / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("make, extra", [(MLflow, "mlflow"), (lambda: WandB("x"), "wandb")])
def test_what_is_not_installed_is_named(make, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, extra, None)
    with pytest.raises(InputError, match=rf"pip install 'resnet_tf\[{extra}\]'"):
        make()
