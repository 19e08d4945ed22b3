"""Segmentation: networks, training, the score, and what is served."""

import csv
import dataclasses
import shutil
import signal

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_tf import compare, evaluate, predict
from resnet_tf import config as configuration
from resnet_tf import export as export_command
from resnet_tf.data import colour, images
from resnet_tf.data import segmentation as data_segmentation
from resnet_tf.data.masks import VOID
from resnet_tf.errors import InputError
from resnet_tf.models import create_backbone, create_model, inside
from resnet_tf.runs import checkpoint, devices, network, record, restore
from resnet_tf.runs.runner import Runner
from resnet_tf.tasks import heads, segmentation
from resnet_tf.tasks import segmentation_metrics as metrics
from resnet_tf.training import optimizer, schedule, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.transfer import export, score, segment

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def test_enlarge_is_bilinear_resizing(rng):
    """For any size, growing or as it is; float32 rounding is some 1e-7 of values around 1."""
    for sides, wanted in (((5, 4), (37, 53)), ((1, 1), (6, 7)), ((8, 8), (64, 64)), ((6, 6), (6, 6))):
        x, like = rng.normal(size=(2, *sides, 3)).astype(np.float32), np.zeros((2, *wanted, 1), np.float32)
        expected = tf.image.resize(x, wanted, "bilinear")
        np.testing.assert_allclose(heads.Enlarge()([x, like]), expected, atol=2e-6)


@pytest.mark.parametrize(("name", "head", "stride"), [
    ("resnet18_v2", "deeplabv3plus", 16), ("cifar_resnet8_v1", "fcn", 2),
])  # fmt: skip
def test_every_pixel_has_logits(name, head, stride, rng):
    model = heads.create(name, 5, head=head, output_stride=stride, auxiliary=True)
    images = rng.normal(size=(2, 33, 47, 3)).astype(np.float32)
    logits, auxiliary = model(images)
    assert logits.shape == auxiliary.shape == (2, 33, 47, 5)
    assert logits.dtype == tf.float32
    # All of the classifier but its logits is there under the same names, and the rest is the part "logits".
    theirs = {v.path: v.shape for v in create_model(name, num_classes=7).variables if inside.part(v.path) != "logits"}
    ours = {v.path: v.shape for v in model.variables}
    assert theirs.items() <= ours.items()
    assert {inside.part(path) for path in ours.keys() - theirs.keys()} == {"logits"}
    assert set(map(inside.part, ours)) <= inside.depths(model).keys()
    alone = heads.create(name, 5, head=head, output_stride=stride)
    np.testing.assert_array_equal(alone(images), logits)  # the auxiliary head changes nothing of it
    with pytest.raises(InputError, match="output_stride=3"):
        heads.create(name, 5, output_stride=3)


def test_mixed_precision_keeps_logits_in_float32():
    model = heads.create("resnet18_v1d", 3, head="deeplabv3plus", dtype="mixed_bfloat16")
    assert model.outputs[0].dtype == "float32" and model.get_layer("logits_decoder2_conv").compute_dtype == "bfloat16"
    backbone = create_backbone("resnet18_v1d", (5,), zero_gamma=True, initializer="xavier")
    assert not backbone.get_layer("stage1_block1_bn2").gamma.numpy().any()


def test_dropout_follows_the_image(rng):
    layer = heads.ImageDropout(0.25)
    x = np.ones((3, 16, 16, 8), np.float32)
    images = rng.normal(size=(3, 32, 32, 3)).astype(np.float32)
    images[2] = images[0]
    dropped = layer([x, images], training=True).numpy()
    np.testing.assert_array_equal(dropped, layer([x, images], training=True))
    np.testing.assert_array_equal(dropped[0], dropped[2])
    assert (dropped[0] != dropped[1]).any()
    np.testing.assert_array_equal(np.unique(dropped), np.float32([0, 1 / 0.75]))
    # 2,048 draws an image: three deviations of their mean are 0.03.
    np.testing.assert_allclose((dropped == 0).mean(axis=(1, 2, 3)), 0.25, atol=0.03)
    np.testing.assert_array_equal(layer([x, images]), x)
    assert not keras.tree.flatten(layer.variables)


# --- Training --------------------------------------------------------------------------------------------------------

SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--output_stride=2", "--auxiliary=0.5",
    "--batch_size=8", "--train_steps=12", "--log_every=4", "--checkpoint_every=4", "--lr=0.1", "--ema=0.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("segmentation")
    flags = [*SMALL, f"--out={folder}/run", f"--results={folder}/results.csv", "--eval_every=6"]
    assert segment.main(flags) == 0
    return folder


def state_of(folder):
    return checkpoint.load_latest(folder / "checkpoints")


def test_a_run_is_recorded(trained):
    rows = record.read_metrics(trained / "run" / "metrics.csv")
    train = [row for row in rows if row["split"] == "train"]
    scores = [row for row in rows if row["split"] == "test"]
    assert train[-1]["loss"] < train[0]["loss"] and 0 < train[-1]["top1"] <= 1
    assert [row["step"] for row in scores] == [6, 12] and all(0 <= row["miou"] <= 1 for row in scores)
    with open(trained / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == record.results_columns("segmentation")
    assert row["model"] == "fcn cifar_resnet8_v1 stride 2" and row["examples"] == "64"
    with open(trained / "run" / "classes.csv", newline="") as file:
        classes = list(csv.DictReader(file))
    found = [float(row["iou"]) for row in classes if row["iou"]]
    # Six digits in each file.
    assert float(row["miou"]) == pytest.approx(np.mean(found), abs=2e-6)


def test_runs_are_compared_by_their_own_figures(trained, tmp_path, last_json):
    for seed in (0, 1):
        other = shutil.copytree(trained / "run", tmp_path / f"seed{seed}")
        manifest = (other / "manifest.yaml").read_text().replace("seed: 0\n", f"seed: {seed}\n")
        (other / "manifest.yaml").write_text(manifest)
    assert compare.main([f"{tmp_path}/seed0", f"{tmp_path}/seed1", f"--out={tmp_path}/out"]) == 0
    result = last_json()
    *_, last = (row for row in record.read_metrics(trained / "run" / "metrics.csv") if row["split"] == "test")
    assert result["best"]["miou"] == pytest.approx(last["miou"], rel=1e-5) and result["pairs"] == 0
    assert [group["seeds"] for group in result["groups"]] == [[0, 1]] and result["groups"][0]["miou_sd"] == 0
    drawn = {path.name for path in (tmp_path / "out").glob("curves_*.png")}
    assert drawn == {"curves_miou.png", "curves_pixel_accuracy.png", "curves_loss.png"}
    text = (tmp_path / "out" / "report.md").read_text()
    assert "fcn cifar_resnet8_v1" in text and "Mean IoU, last (%)" in text and "Top-1" not in text


def test_resume_equals_unbroken_to_the_bit(trained, tmp_path, monkeypatch):
    """Dropout's choices too, which follow from the views."""
    flags = [*SMALL, f"--out={tmp_path}/run"]
    write = checkpoint.save

    def stop_after(folder, step, arrays):
        path = write(folder, step, arrays)
        if step == 8:
            signal.raise_signal(signal.SIGTERM)
        return path

    monkeypatch.setattr(checkpoint, "save", stop_after)
    assert segment.main(flags) == 75
    monkeypatch.undo()
    assert segment.main(flags) == 0
    ours, theirs = state_of(tmp_path / "run"), state_of(trained / "run")
    for name, value in theirs.items():
        if not name.startswith("window/"):
            np.testing.assert_array_equal(ours[name], value, name)
    same = ("step", "split", "loss", "top1", "miou", "lr", "gradient_norm")
    rows = [[{key: row.get(key) for key in same} for row in record.read_metrics(folder / "run" / "metrics.csv")
             if row["split"] == "train"] for folder in (tmp_path, trained)]  # fmt: skip
    assert rows[0] == rows[1]


def test_a_network_learns_four_images_by_heart(rewritten_graphs):
    """From which it is sure that image, mask and loss belong together."""
    config = configuration.from_settings(configuration.SegmentConfig, {
        "dataset": "synthetic", "image_size": 30, "model": "cifar_resnet8_v1", "output_stride": 1, "batch_size": 4,
        "train_steps": 100, "lr": 0.2, "schedule": "cosine", "scale": (1.0, 1.0), "mirror": False, "dropout": 0.0,
    }, "test")  # fmt: skip
    source = data_segmentation.index("synthetic")
    few = source.splits["train"].take(np.arange(4))
    source = dataclasses.replace(source, splits={"train": few, "test": few})
    strategy = devices.make_strategy(1)
    with strategy.scope():
        task = segmentation.Segmentation(config)
        model = task.build(3, 1)
        recipe = Recipe(
            optimizer=optimizer.from_config(config.optimizer, model),
            schedule=schedule.Schedule(0.2, "cosine", total=100),
            **task.recipe(source, colour.IMAGENET),
        )  # fmt: skip
        engine = Engine(strategy, model, colour.IMAGENET, recipe)
    engine.run(supply.make(engine, config, few, 0, 10, task.view(colour.IMAGENET)), 0, 100)
    figures, _ = task.score(task.evaluation(engine, few, colour.IMAGENET), few, False, lambda: None)
    assert figures["examples"] == 4 and figures["miou"] > 0.9


def test_pixel_loss_is_a_plain_mean(rng):
    logits, auxiliary = (rng.normal(size=(2, 5, 6, 4)).astype(np.float32) for _ in range(2))
    labels = rng.integers(0, 4, (2, 5, 6), dtype=np.uint8)
    labels[0, :2] = VOID
    expected, right = [], []
    for example in range(2):
        total, hits = 0.0, []
        for row, column in np.ndindex(5, 6):
            label = labels[example, row, column]
            if label == VOID:
                continue
            for values, weight in ((logits, 1.0), (auxiliary, 0.5)):
                z = values[example, row, column].astype(np.float64)
                total += weight * (np.log(np.exp(z).sum()) - z[label])
            hits.append(logits[example, row, column].argmax() == label)
        expected.append(total / 30)
        right.append(np.mean(hits))
    loss = segmentation.PixelLoss(4, 0.5)
    np.testing.assert_allclose(loss([logits, auxiliary], loss.targets(labels, 4)), expected, rtol=1e-5)
    figures = loss.metrics([logits, auxiliary], tf.constant(labels))
    np.testing.assert_allclose(figures["top1"], right, rtol=1e-6)
    np.testing.assert_array_equal(figures["top5"], [1, 1])


def test_two_replicas_score_every_image_once(trained):
    run, values, normalization = restore.load(trained / "run", tasks=("segmentation",))
    split = data_segmentation.index("synthetic").splits["test"].take(np.arange(5))
    found = []
    for replicas in (1, 2):
        strategy = devices.make_strategy(replicas)
        with strategy.scope():
            model = segmentation.Segmentation(run.config).build(3)
            network.assign(model, values, "test")
            engine = Runner(strategy, model, normalization)
        found.append(list(segmentation.Evaluation(engine, split, normalization).answers()))
    assert [example for example, _, _ in found[1]] == list(range(5))
    for one, two in zip(*found, strict=True):
        np.testing.assert_array_equal(one[2], two[2])


def test_starts_from_a_classifier(tmp_path, capsys):
    flags = [*SMALL, "--train_steps=1", "--ema=0", "--auxiliary=0", "--init_from=cifar_resnet8_v1:random", "--seed=1",
             "--freeze=stem,stage1", "--layer_decay=0.5"]  # fmt: skip
    assert segment.main([*flags, f"--out={tmp_path}/run"]) == 0
    ours = state_of(tmp_path / "run")
    kept = [v for v in create_model("cifar_resnet8_v1").variables if inside.part(v.path) in ("stem", "stage1")]
    for variable in kept:
        np.testing.assert_array_equal(ours[f"model/{variable.path}"], variable.numpy(), variable.path)
    capsys.readouterr()
    assert segment.main([*flags, "--freeze=stage9", f"--out={tmp_path}/other"]) == 1
    assert "--freeze=stage9" in capsys.readouterr().err


@pytest.mark.parametrize(("flags", "words"), [
    (("--data_dir=/nowhere/at/all", "--dataset=camvid"), "/nowhere/at/all"),
    (("--dataset=camvid",), "--data_dir= is not set"),
    (("--scale=2,1",), "--scale=2"),
    (("--data_service=localhost:1",), "--data_service"),
    (("--color_jitter=1",), "--color_jitter"),
    (("--output_stride=3",), "output_stride=3"),
    (("--batch_size=100",), "--batch_size=100"),
])  # fmt: skip
def test_bad_flags_are_named(flags, words, tmp_path, capsys):
    assert segment.main([*SMALL, *flags, f"--out={tmp_path}/run"]) == 1
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


# --- Afterwards ------------------------------------------------------------------------------------------------------


def test_what_is_scored_is_what_is_served(trained, tmp_path, last_json, capsys):
    assert export.main([f"--run={trained}/run", f"--out={tmp_path}/model", "--weights=ema"]) == 0
    served = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures
    assert last_json()["version"] == 1
    assert predict.main([f"--model={tmp_path}/model", __file__]) == 1
    assert "a model for segmentation, not for classification" in capsys.readouterr().err
    report = tmp_path / "report"
    flags = [f"--run={trained}/run", "--weights=ema", f"--report={report}", f"--results={tmp_path}/r.csv"]
    assert score.main(flags) == 0
    result = last_json()
    assert evaluate.main(flags[:2]) == 0  # another name for it
    assert last_json() | {"images_per_second": 0} == result | {"images_per_second": 0}
    split, total = data_segmentation.index("synthetic").splits["test"], np.zeros((3, 3), np.int64)
    for example in range(len(split)):
        answer = served["serving_default"](image_bytes=tf.constant(split.read(example)))
        total += metrics.confusion(split.masks.read(example), answer["masks"].numpy()[0], 3)
    assert [name.decode() for name in answer["classes"].numpy()] == ["ground", "grey", "bright"]
    assert metrics.scores(total) == {name: result[name] for name in ("miou", "pixel_accuracy")}
    pixels = images.decode(split.read(example))
    both = served["images"](images=tf.constant(np.stack([pixels, pixels])))["masks"].numpy()
    np.testing.assert_array_equal(both, np.repeat(answer["masks"].numpy(), 2, axis=0))
    assert sorted(path.name for path in report.iterdir()) == ["classes.csv", "iou.png", "masks.png"]
    rows = {(row["step"], row["split"]): row for row in record.read_metrics(trained / "run" / "metrics.csv")}
    assert rows[12, "test_ema"]["miou"] == pytest.approx(result["miou"], abs=1e-6)  # six digits


def test_exporting_refuses(trained, tmp_path, capsys):
    (tmp_path / "model" / "3").mkdir(parents=True)
    for flags, words in (
        ((f"--out={tmp_path}/model",), "--run is not set"),
        ((f"--run={trained}/run", f"--out={tmp_path}/model", "--version=3"), "--version=3"),
        ((f"--run={trained}/run", f"--out={tmp_path}/model", "--weights=best"), "no validation split"),
    ):
        assert export.main(list(flags)) == 1
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert export_command.main([f"--run={trained}/run", f"--out={tmp_path}/model", "--format=onnx"]) == 1
    assert f"--format is not used by --run={trained}/run, a run of segmentation" in capsys.readouterr().err


def test_scoring_refuses(trained, tmp_path, capsys):
    for flags, words in (
        ((), "--run is not set"),
        (("--run=/nowhere/at/all",), "/nowhere/at/all"),
        ((f"--run={trained}/run", "--split=validation"), "there are train, test"),
        ((f"--run={trained}/run", f"--report={trained}"), "exists already"),
    ):
        assert score.main(list(flags)) == 1
        assert words in capsys.readouterr().err.strip().splitlines()[-1]
    for flags, words in (
        ((f"--run={trained}/run", "--views=ten_crop"), f"--views is not used by --run={trained}/run, a run of segm"),
        ((f"--run={trained}/run,{trained}/run",), "runs of segmentation make no ensemble"),
    ):
        assert evaluate.main(list(flags)) == 1
        assert words in capsys.readouterr().err.strip().splitlines()[-1]


def test_poly_falls_as_in_deeplab():
    rates = schedule.Schedule(0.5, "poly", total=10, warmup=2)
    found = [float(rates.lr_of(tf.constant(step, tf.int64), {})) for step in range(10)]
    expected = [0.25, 0.5, *(0.5 * (1 - step / 8) ** 0.9 for step in range(8))]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
