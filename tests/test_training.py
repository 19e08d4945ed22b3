"""The engine and the loop: replicas, precision, resume, faults."""

import csv
import dataclasses
import os
import resource
import shutil
import time
import traceback
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

import resnet_tf
from resnet_tf import config as configuration
from resnet_tf import evaluate, tasks, train
from resnet_tf.data import colour, draws, resident
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, devices, record
from resnet_tf.training import loop, optimizer, schedule, session, window
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.step import METRICS
from resnet_tf.training.supply import Resident

BATCH = 16


def make_engine(replicas, sync_bn=True, dtype="float32", initial_scale=2.0**15, lr=0.02, **recipe):
    images = np.random.default_rng(1).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(64, dtype=np.int32) % 10
    strategy = devices.make_strategy(replicas)
    with strategy.scope():
        model = resnet_tf.create_model("cifar_resnet8_v1", input_shape=(16, 16, 3), sync_bn=sync_bn, dtype=dtype)
        settings = {
            "optimizer": optimizer.from_config(configuration.OptimizerConfig(), model),
            "schedule": schedule.Schedule(lr),
            "loss_scale": optimizer.LossScale(initial_scale) if dtype == "mixed_float16" else None,
            "pad_crop": resident.PadCrop(2, True),
        }
        engine = Engine(strategy, model, colour.normalization("channel", images), Recipe(**settings | recipe))
    return engine, images, labels


def run_steps(engine, images, labels, steps):
    supply = Resident(engine, images, labels, BATCH, seed=0, capacity=steps)
    return engine.run(supply, engine.step, engine.step + steps).numpy()


def test_the_seed_is_data_of_the_compiled_program():
    """So trainings that differ by it are compiled once, where XLA keeps its programs."""
    engine, images, labels = make_engine(1)
    graphs, keys = [], []
    for seed in (0, 1):
        supply = Resident(engine, images, labels, BATCH, seed=seed, capacity=2)
        ((*data,),) = supply.take(0, 2).data

        @tf.function(autograph=False)
        def batch(data, supply=supply):
            return supply.batch(0, data, 0, tf.constant(0, tf.int64))

        taken = batch.get_concrete_function(tuple(data))
        graphs.append(str(taken.graph.as_graph_def()))
        keys.append(taken(*data)[2].numpy())
    assert graphs[0] == graphs[1]
    assert not np.array_equal(*keys)


@pytest.fixture(scope="module")
def one_and_two():
    results = []
    for replicas in (1, 2):
        engine, images, labels = make_engine(replicas)
        metrics = run_steps(engine, images, labels, 4)
        results.append((engine, metrics, engine.state.get_all(), engine.predict(images, 10), images))
    return results


def test_one_and_two_replicas_agree(one_and_two):
    (_, metrics_one, state_one, logits_one, _), (_, metrics_two, state_two, logits_two, _) = one_and_two
    # Sums in another order: 1e-7 a step, amplified by four steps of training through BN.
    np.testing.assert_allclose(metrics_one, metrics_two, rtol=1e-4)
    assert state_one.keys() == state_two.keys() and state_one["state/step"] == 4
    for name, value in state_one.items():
        np.testing.assert_allclose(value, state_two[name], rtol=1e-3, atol=2e-5, err_msg=name)
    np.testing.assert_allclose(logits_one, logits_two, atol=5e-4)


def test_replicas_hold_the_same_bits(one_and_two):
    engine = one_and_two[1][0]
    for name, variable in engine.state.variables.items():
        first, second = (engine.state.local(variable, replica).numpy() for replica in (0, 1))
        np.testing.assert_array_equal(first, second, err_msg=name)


def test_predict_answers_every_image_once_at_any_batch(one_and_two):
    for engine, _, _, logits, images in one_and_two:
        assert logits.shape == (64, 10)
        np.testing.assert_allclose(engine.predict(images, 64), logits, atol=1e-5)
        np.testing.assert_allclose(engine.predict(images[:7], 4), logits[:7], atol=1e-5)


def test_statistics_that_are_not_synchronised_are_averaged():
    engine, images, labels = make_engine(2, sync_bn=False)
    run_steps(engine, images, labels, 1)
    name = "model/stem_bn/moving_mean"
    stem = engine.model.get_layer("stem_conv")
    initial = make_engine(1)[0].state.get_all()["model/stem_conv/kernel"]
    stem.kernel.assign(initial)
    order = resident.order(64, BATCH, 0, 1, seed=0)[0]
    pixels = engine._normalization(images[order])
    keys = draws.keys(0, 0, order.astype(np.int64))
    viewed = resident.pad_crop_mirror(pixels, *resident.draw_views(keys, 2, True), 2)
    halves = [np.mean(stem(half), axis=(0, 1, 2)) for half in np.split(viewed.numpy(), 2)]
    for replica in (0, 1):
        local = engine.state.local(engine.state.variables[name], replica).numpy()
        np.testing.assert_allclose(local, 0.1 * np.mean(halves, axis=0), atol=1e-6)


def test_float16_step_that_overflows_is_skipped_on_every_replica():
    engine, images, labels = make_engine(2, sync_bn=False, dtype="mixed_float16", initial_scale=2.0**24)
    before = engine.state.get_all()
    run_steps(engine, images, labels, 1)
    after = engine.state.get_all()
    assert after["state/skipped_steps"] == 1 and after["state/scale"] == 2.0**23 and after["state/step"] == 1
    for name in before:
        if not name.startswith("state/"):
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    run_steps(engine, images, labels, 14)
    final = engine.state.get_all()
    assert final["state/skipped_steps"] < 15 and np.isfinite(final["model/logits/kernel"]).all()
    assert (final["model/logits/kernel"] != before["model/logits/kernel"]).any()


# --- The loop --------------------------------------------------------------------------------------------------------

SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.05",
    "--train_epochs=0", "--train_steps=24", "--lr_steps=20", "--log_every=6", "--eval_every=12",
    "--checkpoint_every=8", "--pad=2", "--steps_per_call=6",
)  # fmt: skip


def interrupt_after(monkeypatch, step):
    """Make the run end like a killed process right after the checkpoint of a step."""
    save = checkpoint.save

    def save_and_stop(folder, at, arrays):
        save(folder, at, arrays)
        if at == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_and_stop)


def train_rows(folder):
    keys = ("step", "epoch", "split", "loss", "top1", "top5", "lr")
    return [{key: row[key] for key in keys} for row in record.read_metrics(folder / "metrics.csv")]


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "unbroken"
    flags = [*SMALL, "--warmup_lr=0.01", "--warmup_until_error=0.95"]
    assert train.main([*flags, f"--out={folder}"]) == 0
    return folder, flags


def test_resumed_run_equals_the_unbroken_bit_for_bit(unbroken, tmp_path, monkeypatch, capsys):
    folder, flags = unbroken
    broken = tmp_path / "broken"
    with monkeypatch.context() as patch:
        interrupt_after(patch, 8)
        assert train.main([*flags, f"--out={broken}"]) == 130
    assert checkpoint.steps(broken / "checkpoints") == [8]
    assert train.main([*flags, f"--out={broken}"]) == 0
    assert "goes on from step 8" in capsys.readouterr().err
    whole, resumed = (checkpoint.load_latest(path / "checkpoints") for path in (folder, broken))
    assert whole.keys() == resumed.keys() and int(whole["state/step"]) == 24
    for name in whole:
        np.testing.assert_array_equal(whole[name], resumed[name], err_msg=name)
    assert train_rows(folder) == train_rows(broken)


def test_run_folder_explains_itself(unbroken):
    folder, _ = unbroken
    manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
    assert manifest["flags"]["lr_steps"] == [20] and manifest["flags"]["model"] == "cifar_resnet8_v1"
    assert manifest["data"]["examples"] == {"train": 512, "test": 256}
    assert len(manifest["classes"]) == 10 and manifest["model"]["trainable_parameters"] == 75_290
    rows = train_rows(folder)
    assert [row["step"] for row in rows if row["split"] == "train"] == [6, 12, 18, 24]
    assert [row["step"] for row in rows if row["split"] == "test"] == [12, 24]
    # Guessing has an error of 90%, so the warm-up ends with the first epoch, after 16 steps.
    assert [row["lr"] for row in rows if row["split"] == "train"] == pytest.approx([0.01, 0.01, 0.05, 0.005])
    assert checkpoint.steps(folder / "checkpoints") == [16, 24]
    assert list(folder.glob("events/*/events*"))
    assert not list(folder.rglob("*.partial"))


def test_finished_run_answers_again_and_appends_nothing(unbroken, last_json, tmp_path):
    folder, flags = unbroken
    before = (folder / "metrics.csv").read_text()
    assert train.main([*flags, f"--out={folder}", f"--results={tmp_path}/r.csv"]) == 0
    result = last_json()
    assert result["steps"] == 24 and result["examples"] == 256
    assert (folder / "metrics.csv").read_text() == before and not (tmp_path / "r.csv").exists()
    killed = tmp_path / "killed"  # after its last checkpoint
    shutil.copytree(folder, killed, ignore=shutil.ignore_patterns("evaluation.json"))
    assert train.main([*flags, f"--out={killed}", f"--results={tmp_path}/r.csv"]) == 0
    assert (killed / "evaluation.json").exists() and len((tmp_path / "r.csv").read_text().splitlines()) == 2


def test_damaged_checkpoint_is_passed_over_aloud(unbroken, caplog, tmp_path):
    folder, _ = unbroken
    for path in (folder / "checkpoints").iterdir():
        content = bytearray(path.read_bytes())
        if "24" in path.name:
            content[len(content) // 2] ^= 1
        (tmp_path / path.name).write_bytes(content)
    assert int(checkpoint.load_latest(tmp_path)["state/step"]) == 16
    assert "step-00000024.npz: damaged" in caplog.text
    (tmp_path / "step-00000016.npz").write_bytes(b"")
    with pytest.raises(InputError, match="all 2 checkpoints are damaged"):
        checkpoint.load_latest(tmp_path)


def test_full_disk_keeps_the_last_checkpoint(tmp_path):
    arrays = {"a": np.zeros(100_000)}
    checkpoint.save(tmp_path, 1, arrays)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError) as error:
            checkpoint.save(tmp_path, 2, arrays)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert error.value.filename.endswith("step-00000002.npz")
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.npz"]
    np.testing.assert_array_equal(checkpoint.load_latest(tmp_path)["a"], arrays["a"])


def test_disk_full_in_training_is_one_line(tmp_path, monkeypatch, capsys):
    def full(folder, step, arrays):
        raise OSError(28, os.strerror(28), str(folder / "step.npz"))

    monkeypatch.setattr(checkpoint, "save", full)
    assert train.main([*SMALL, f"--out={tmp_path}/run"]) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last == f"error: {tmp_path}/run/checkpoints/step.npz: No space left on device"


def test_loss_that_is_no_number_stops_with_step_layer_and_a_way_to_see_it(tmp_path, capsys):
    flags = [flag for flag in SMALL if not flag.startswith(("--lr", "--checkpoint"))]
    flags = [*flags, "--lr=1e25", f"--out={tmp_path}/run"]
    assert train.main(flags) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and "--lr=1e+25" in last and " at step 2 of " in last
    assert "first in the output of stage1_block1_" in last and "--debug_step=2" in last
    # The call that failed held six steps, of which the first was good, and no checkpoint came before it.
    assert "no checkpoint yet" in last
    (kept,) = (tmp_path / "run" / "checkpoints").iterdir()
    state = checkpoint.load(kept)
    assert int(state["state/step"]) == 1 and all(np.isfinite(value).all() for value in state.values())
    before = sorted(path.name for path in (tmp_path / "run").rglob("*"))
    assert train.main([*flags, "--debug_step=2"]) == 0
    captured = capsys.readouterr()
    assert "not finite" in captured.err and "stage1_block1" in captured.out.strip().splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "run").rglob("*")) == before
    assert train.main([*flags, "--debug_step=1"]) == 1
    assert "--debug_step=1" in capsys.readouterr().err


def test_command_begins_with_the_flags_of_xla(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    plain = record.command()
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_cuda_data_dir=/opt/cuda --first=1 --second=2")
    assert record.command() == f"XLA_FLAGS='--first=1 --second=2' {plain}"


def test_results_row(tmp_path):
    path = tmp_path / "results" / "cifar10.csv"
    row = dict.fromkeys(record.ACCURACY_COLUMNS, 1)
    record.append_result(path, record.ACCURACY_COLUMNS, row)
    record.append_result(path, record.ACCURACY_COLUMNS, row | {"model": "a,b"})
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [r["model"] for r in rows] == ["1", "a,b"] and tuple(rows[0]) == record.ACCURACY_COLUMNS
    with pytest.raises(InputError, match="its columns are"):
        record.check_results(path, record.SPEED_COLUMNS)


def test_validation_split_is_held_out_and_test_is_not_looked_at(tmp_path, last_json):
    flags = [*SMALL, "--train_steps=2", "--validation_examples=100", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    result = last_json()
    assert result["split"] == "validation" and result["examples"] == 100
    assert {row["split"] for row in train_rows(tmp_path / "run")} == {"train", "validation"}


def test_the_best_of_equal_top1_has_the_lowest_loss(tmp_path, monkeypatch, last_json):
    """Steps 2 to 6: the third equals the best before and has the lower loss; the fifth equals it in both.

    The last score is of the test split: it is scored once, at the end, and chooses nothing.
    """
    scores = iter([(0.2, 3.0), (0.5, 2.0), (0.5, 1.0), (0.5, float("nan")), (0.5, 1.0), (0.4, 0.1), (0.9, 0.01)])

    def scored(logits, labels):
        top1, loss = next(scores)
        return {"examples": len(labels), "top1": top1, "top5": 0.9, "loss": loss}

    monkeypatch.setattr("resnet_tf.evaluation.metrics.classification", scored)
    flags = [*SMALL, "--train_steps=6", "--eval_every=1", "--validation_examples=100", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    assert int(checkpoint.load(checkpoint.best_path(tmp_path / "run" / "checkpoints"))["state/step"]) == 3
    result = last_json()
    assert result["top1"] == 0.4 and result["test"]["top1"] == 0.9 and next(scores, None) is None


def forget(run, name):
    """Takes a flag out of a run's manifest, as of a release before it."""
    manifest = yaml.safe_load((run / "manifest.yaml").read_text())
    del manifest["flags"][name]
    (run / "manifest.yaml").write_text(yaml.safe_dump(manifest, sort_keys=False))


def test_runs_from_before_stratified_validation_keep_what_they_held_out(tmp_path, capsys, last_json):
    flags = [*SMALL, "--train_steps=2", "--checkpoint_every=1"]
    held = [*flags, "--validation_examples=100", f"--out={tmp_path}/held"]
    assert train.main([*held, "--validation_sampling=random"]) == 0
    result = last_json()
    forget(tmp_path / "held", "validation_sampling")
    assert evaluate.main([f"--run={tmp_path}/held", "--split=validation"]) == 0
    scored = last_json()
    assert scored["top1"] == result["top1"] and scored["loss"] == pytest.approx(result["loss"])
    assert train.main(held) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: --validation_sampling=stratified") and "--validation_sampling=random" in line
    assert train.main([*held, "--validation_sampling=random"]) == 0
    # Nothing is asked of a run that held nothing out.
    assert train.main([*flags, f"--out={tmp_path}/none"]) == 0
    forget(tmp_path / "none", "validation_sampling")
    assert train.main([*flags, f"--out={tmp_path}/none"]) == 0


def test_every_setting_is_read(tmp_path, monkeypatch):
    """A flag that nothing reads is a promise not kept."""
    read, counted, plain = set(), set(), configuration.settings_of

    def recorder(section):
        class Recording(type(section)):
            def __getattribute__(self, name):
                read.add(name)
                return super().__getattribute__(name)

        return Recording(**{f.name: getattr(section, f.name) for f in dataclasses.fields(section)})

    values = {
        "dataset": "synthetic", "image_size": 16, "model": "cifar_resnet8_v1", "batch_size": 32, "train_steps": 2,
        "out": str(tmp_path / "run"), "results": str(tmp_path / "r.csv"),
    }  # fmt: skip
    streamed = {"view": "resize_crop", "scale": (20,), "out": str(tmp_path / "streamed")}
    plateau = {"schedule": "plateau", "eval_every": 1, "out": str(tmp_path / "plateau")}
    for changed in ({}, {}, streamed, plateau):  # the first one is resumed too
        bare = configuration.from_settings(configuration.TrainConfig, values | changed, "test")
        recording = configuration.TrainConfig(
            **{name: recorder(getattr(bare, name)) for name in configuration.section_types(configuration.TrainConfig)}
        )
        read.clear()  # of what the checks of the flags read
        monkeypatch.setattr(configuration, "settings_of", lambda _, bare=bare: plain(bare))  # so does the manifest
        tasks.train(recording)
        counted |= read
    unread = set(configuration.fields_of(configuration.TrainConfig)) - counted
    assert unread == {"train_epochs", "lr_epochs"} & unread  # not reached where the same is given in steps


def test_rate_of_a_row_is_of_the_steps_that_this_process_ran():
    """A row that was begun before a resume has the means of all its steps, but not their time."""
    from resnet_tf.training.engine import Steps
    from resnet_tf.training.session import Plan
    from resnet_tf.training.window import Window

    rows = []

    class Recorder:
        def progress(self, *_):
            pass

        def write(self, step, epoch, split, **values):
            rows.append(values)

    before, after = (Window(Recorder(), Plan(total=100, batch_size=10, steps_per_epoch=1.0)) for _ in range(2))
    before.collect(Steps([tf.fill([90, len(METRICS)], 2.0)]), 0, time.monotonic() - 9)
    after.set_state(before.get_state())
    after.collect(Steps([tf.fill([10, len(METRICS)], 1.0)]), 90, time.monotonic() - 1)
    assert rows[0]["loss"] == pytest.approx(1.9)
    assert rows[0]["images_per_second"] == pytest.approx(100, rel=0.2)  # 10 steps of 10 images in a second


def test_debugging_sees_a_teacher_that_fails(tmp_path, capsys):
    teacher = [*SMALL, "--train_steps=1", "--normalization=imagenet", f"--out={tmp_path}/teacher"]
    assert train.main(teacher) == 0
    (saved,) = (tmp_path / "teacher" / "checkpoints").iterdir()
    values = checkpoint.load(saved)
    values["model/logits/bias"] = np.full_like(values["model/logits/bias"], np.nan)
    checkpoint.save(saved.parent, 1, values)
    flags = [*SMALL, "--normalization=imagenet", f"--teacher={tmp_path}/teacher", f"--out={tmp_path}/run"]
    assert train.main(flags) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "loss is nan at step 1" in last and "first in the output of teacher" in last


def test_calls_are_long_again_after_slow_ones(monkeypatch):
    """A device that others have kept busy does not leave a run with calls of a step each."""
    clock = [0.0]
    monkeypatch.setattr(window.time, "monotonic", lambda: clock[0])
    plan = session.Plan(total=1000, batch_size=128, steps_per_epoch=10.0)
    silent = types.SimpleNamespace(progress=lambda *_: None, write=lambda *_, **__: None)
    measured = window.Window(silent, plan)

    def call(step, count, seconds):
        rows = types.SimpleNamespace(numpy=lambda: np.ones((count, len(METRICS)), np.float32), waited=0.0)
        begun = clock[0]
        clock[0] += seconds
        measured.collect(rows, step, begun)

    call(0, 8, 60.0)  # compiles
    call(8, 8, 80.0)  # others compile
    assert measured.steps_ahead() == 1
    call(16, 1, 0.1)
    assert measured.steps_ahead() == 20


def test_few_frames_lie_between_the_loop_and_the_network(tmp_path, monkeypatch):
    """A reader who follows a step from the loop to the network passes through seven functions at most."""
    depths = []
    call = keras.Model.stateless_call

    def counted(*arguments, **keywords):
        files = [frame.filename for frame in traceback.extract_stack() if "/resnet_tf/" in frame.filename]
        if loop.__file__ in files and keywords.get("training"):
            depths.append(len(files) - files.index(loop.__file__))
        return call(*arguments, **keywords)

    monkeypatch.setattr(keras.Model, "stateless_call", counted)
    flags = ["--train_steps=1", f"--out={tmp_path}/run"]
    assert train.main([*SMALL, *flags]) == 0
    assert depths and max(depths) <= 7
