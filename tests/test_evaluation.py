"""Evaluation: what may be scored, the best of validation, reports, and bad input."""

import csv
import io
import json
import os
import resource
import shutil
import tarfile

import files
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf import benchmark, config, evaluate, export, prepare, train
from resnet_tf.bench import inputs
from resnet_tf.data import colour, geometry, sources
from resnet_tf.evaluation import answers, charts, gallery, metrics, report, scored
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import create_model, weights
from resnet_tf.runs import checkpoint, devices, record, restore, run_data
from resnet_tf.runs.runner import Runner

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--train_steps=12",
    "--lr=0.05", "--pad=0", "--mirror=false", "--validation_examples=60", "--eval_every=4", "--checkpoint_every=8",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs that hold 60 examples out, and differ in their seed."""
    folder = tmp_path_factory.mktemp("evaluation")
    for seed in (0, 1):
        assert train.main([*SMALL, f"--seed={seed}", f"--out={folder}/{seed}"]) == 0
    return [folder / "0", folder / "1"]


@pytest.fixture(scope="module")
def exported(runs):
    assert export.main([f"--run={runs[0]}", f"--out={runs[0].parent}/model"]) == 0
    return runs[0].parent / "model"


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A run on a folder of images of odd sizes, and its exported model."""
    folder = tmp_path_factory.mktemp("streamed")
    for index in range(14):
        path = folder / "data" / ("train" if index < 8 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (6, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((40 + 7 * (index % 3), 60 - 5 * (index % 4)), Image.BICUBIC).save(path)
    flags = ["--dataset=folder", "--view=random_resized_crop", f"--data_dir={folder}/data", "--image_size=24",
             "--resize=28", "--model=cifar_resnet8_v1", "--batch_size=4", "--train_steps=3"]  # fmt: skip
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/model"]) == 0
    return folder


def refused(flags, capsys):
    """The one line with which evaluate refuses."""
    capsys.readouterr()
    assert evaluate.main([str(flag) for flag in flags]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


def table_of(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def probabilities_of(folder, split="test", weights="raw"):
    run, values, normalization = restore.load(folder, weights)
    engine = restore.build_runner(run, values, normalization, devices.make_strategy(1), weights)
    found = run_data.load(run.config)[0].splits[split]
    return metrics.probabilities(engine.predict(found.images, 50)), found.labels


# --- What a run keeps ------------------------------------------------------------------------------------------------


def test_training_leaves_the_answers_that_its_evaluation_is_of(runs, last_json):
    shares, labels = probabilities_of(runs[0], "validation")
    stored = json.loads((runs[0] / "evaluation.json").read_text())
    assert (stored["split"], stored["views"], stored["weights"]) == ("validation", "center", "raw")
    found = answers.read(runs[0] / answers.FILE)
    np.testing.assert_array_equal(found["label"], labels)
    np.testing.assert_array_equal(found["predicted"], shares.argmax(axis=1))
    assert (found["predicted"] == found["label"]).mean() == stored["top1"]
    assert found["loss"].mean() == pytest.approx(stored["loss"], rel=1e-5)
    before = (runs[0] / answers.FILE).read_text()
    assert train.main([*SMALL, "--seed=0", f"--out={runs[0]}"]) == 0  # a finished run answers again
    assert (runs[0] / answers.FILE).read_text() == before


def test_best_is_the_checkpoint_of_the_best_validation(runs, last_json, tmp_path):
    rows = record.read_metrics(runs[1] / "metrics.csv")
    curve = {row["step"]: row["top1"] for row in rows if row["split"] == "validation"}
    assert len(curve) == 3 and len(set(curve.values())) > 1
    best = max(curve, key=curve.get)  # the first of equal ones
    assert evaluate.main([f"--run={runs[1]}", "--weights=best", "--split=validation"]) == 0
    result = last_json()
    assert result["steps"] == best and result["top1"] == pytest.approx(curve[best], abs=1e-6)
    assert export.main([f"--run={runs[1]}", "--weights=best", f"--out={tmp_path}/model"]) == 0
    assert evaluate.main([f"--model={tmp_path}/model", "--split=validation"]) == 0
    assert last_json()["loss"] == pytest.approx(result["loss"], abs=1e-5)


def test_a_run_goes_on_from_its_best_checkpoint(runs, tmp_path):
    """Bit for bit to where the unbroken run ended: best.npz holds all that the others hold."""
    kept = checkpoint.load(checkpoint.best_path(runs[1] / "checkpoints"))
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in ("manifest.yaml", "metrics.csv"):
        (folder / name).write_bytes((runs[1] / name).read_bytes())
    checkpoint.save(folder / "checkpoints", int(kept["state/step"]), kept)
    assert train.main([*SMALL, "--seed=1", f"--out={folder}"]) == 0
    one, two = (checkpoint.load_latest(path / "checkpoints") for path in (runs[1], folder))
    assert one.keys() == two.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


# --- What is scored --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("average", ["softmax", "logits"])
def test_ensemble_is_the_mean_of_its_members(runs, average, last_json):
    before = [(run / "evaluation.json").read_text() for run in runs]
    flags = [f"--run={runs[0]},{runs[1]}", "--shares=3,1", f"--average={average}"]
    assert evaluate.main(flags) == 0
    result = last_json()
    (one, labels), (two, _) = (probabilities_of(run) for run in runs)
    mean = 0.75 * one + 0.25 * two
    if average == "logits":
        mean = one**0.75 * two**0.25
        mean /= mean.sum(axis=1, keepdims=True)
    assert result["examples"] == 256 and result["top1"] == (mean.argmax(axis=1) == labels).mean()
    assert result["loss"] == pytest.approx(-np.log(mean[np.arange(256), labels]).mean(), abs=1e-5)
    right = mean.argmax(axis=1) == labels
    assert result["ece"] == pytest.approx(metrics.expected_calibration_error(mean.max(axis=1), right), abs=1e-5)
    assert result["runs"] == [str(run) for run in runs] and result["shares"] == [0.75, 0.25]
    assert [(run / "evaluation.json").read_text() for run in runs] == before  # they are of the members alone


def test_exported_model_is_scored_as_served(runs, exported, streamed, last_json):
    for run, model, count in ((runs[0], exported, 256), (streamed / "run", streamed / "model", 6)):
        results = []
        for flag in (f"--run={run}", f"--model={model}"):
            assert evaluate.main([flag, "--batch_size=5", "--split=test"]) == 0
            results.append(last_json())
        assert results[0]["examples"] == results[1]["examples"] == count
        assert results[1]["model"] == f"{model}/1"  # the version that is scored
        assert results[0]["top1"] == results[1]["top1"]
        assert results[0]["loss"] == pytest.approx(results[1]["loss"], abs=1e-5)
    moved = streamed / "moved"
    os.rename(streamed / "data", moved)
    assert evaluate.main([f"--model={streamed}/model", f"--data_dir={moved}"]) == 0
    assert last_json()["examples"] == 6
    os.rename(moved, streamed / "data")


def test_imported_weights_are_scored_as_the_run_they_are_of(streamed, last_json, tmp_path):
    run, values, _ = restore.load(streamed / "run")
    restore.build_model(run, values).save_weights(f"{tmp_path}/net.weights.h5")
    flags = ["--network=cifar_resnet8_v1", f"--init_from={tmp_path}/net.weights.h5", "--dataset=folder",
             f"--data_dir={streamed}/data", "--image_size=24", "--resize=28", "--normalization=channel"]  # fmt: skip
    flags += ["--views=ten_crop", f"--results={tmp_path}/r.csv"]
    assert evaluate.main([f"--run={streamed}/run", "--views=ten_crop"]) == 0
    expected = last_json()
    assert evaluate.main(flags) == 0
    result = last_json()
    assert result["loss"] == pytest.approx(expected["loss"], abs=1e-5)
    assert result["network"] == "cifar_resnet8_v1" and "run" not in result
    (row,) = table_of(tmp_path / "r.csv")
    assert "net.weights.h5" in row["recipe"] and row["steps"] == ""


@pytest.mark.parametrize(
    "kind, prepare",
    [
        ("inception", lambda rgb: rgb / 127.5 - 1),
        ("torchvision", lambda rgb: (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]),
        ("caffe", lambda rgb: rgb[..., ::-1] - [103.939, 116.779, 123.68]),
    ],
)
def test_imported_weights_see_images_as_their_library_prepared_them(kind, prepare, streamed, tmp_path):
    model = create_model("cifar_resnet8_v1", num_classes=2, input_shape=(24, 24, 3))
    model.save_weights(f"{tmp_path}/net.weights.h5")
    settings = config.EvaluateConfig(
        config.EvaluationSection(network="cifar_resnet8_v1", data_dir=f"{streamed}/data"),
        config.ImportedSection(
            init_from=f"{tmp_path}/net.weights.h5", dataset="folder", image_size=24, normalization=kind
        ),
    )
    found = scored.find(settings)
    source, _ = run_data.load(found.config)
    split = source.splits["test"]
    (member,) = found.members(source, split)
    logits = member.logits(lambda: None)
    for example in range(len(split)):
        view = geometry.center(split.read(example), 24).numpy().astype(np.float32)
        np.testing.assert_allclose(logits[example], model(prepare(view)[None])[0], rtol=1e-4, atol=1e-4)


# --- Reports ---------------------------------------------------------------------------------------------------------

FILES = ("calibration.csv", "classes.csv", "confusion.csv", "confusion.png", "evaluation.json", "examples.csv",
         "label_errors.csv", "mistakes.png", "reliability.png", "report.html", "slices.csv")  # fmt: skip


def test_report_holds_tables_that_agree_and_pictures(runs, last_json, tmp_path):
    out = tmp_path / "reports" / "one"
    for _ in range(2):  # the second time into the folder that is there
        assert evaluate.main([f"--run={runs[1]}", f"--report={out}"]) == 0
    result = last_json()
    assert tuple(sorted(path.name for path in out.iterdir())) == FILES
    assert [path.name for path in out.parent.iterdir()] == ["one"]
    assert json.loads((out / "evaluation.json").read_text()) == result
    rows = list(csv.reader((out / "confusion.csv").read_text().splitlines()))
    matrix = np.array([[int(count) for count in row[1:]] for row in rows[1:]])
    assert matrix.sum() == 256 and matrix.trace() / 256 == result["top1"] and rows[0][1:] == [r[0] for r in rows[1:]]
    classes = table_of(out / "classes.csv")
    assert sum(int(row["examples"]) * float(row["top1"]) for row in classes) == pytest.approx(256 * result["top1"])
    for row, counts in zip(classes, matrix, strict=True):
        if row["times"]:
            assert counts[rows[0][1:].index(row["most_confused_with"])] == int(row["times"])
    bins = table_of(out / "calibration.csv")
    gaps = [
        int(b["examples"]) / 256 * abs(float(b["accuracy"]) - float(b["confidence"])) for b in bins if b["accuracy"]
    ]
    assert sum(gaps) == pytest.approx(result["ece"], abs=1e-5)
    for name in ("confusion.png", "reliability.png", "mistakes.png"):
        assert min(Image.open(out / name).size) > 300
    found = answers.read(out / "examples.csv")
    worst = report.worst_mistakes(found, 5)
    assert (found["predicted"][worst] != found["label"][worst]).all()
    wrong = found["loss"][found["predicted"] != found["label"]]
    np.testing.assert_array_equal(found["loss"][worst], np.sort(wrong)[::-1][:5])


def test_examples_have_names_and_their_likeliest_classes(streamed, tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    for ending in ("csv", "parquet"):
        assert evaluate.main([f"--run={streamed}/run", f"--examples={tmp_path}/e.{ending}"]) == 0
    rows = table_of(tmp_path / "e.csv")
    table = pyarrow.read_table(tmp_path / "e.parquet").to_pylist()
    assert len(rows) == len(table) == 6 and list(rows[0]) == list(table[0])
    found = answers.read(streamed / "run" / answers.FILE)
    for row, other, predicted, loss in zip(rows, table, found["predicted"], found["loss"], strict=True):
        assert row["name"] == other["name"] and row["name"].startswith(f"test/{row['class']}/")
        assert row["class_1"] == other["class_1"] == "ab"[predicted]
        assert float(row["probability_1"]) >= float(row["probability_2"]) and "class_3" not in row  # of two classes
        assert other["probability_1"] + other["probability_2"] == pytest.approx(1)
        own = other["probability_1"] if other["class_1"] == other["class"] else other["probability_2"]
        assert -np.log(own) == pytest.approx(loss, rel=1e-4)


def test_files_are_named_by_every_source_and_view(streamed, tmp_path):
    expected = [f"test/{name}/{number}.png" for name, numbers in (("a", (10, 12, 8)), ("b", (11, 13, 9)))
                for number in numbers]  # fmt: skip
    small = ["--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=4", "--train_steps=1"]
    held = tmp_path / "held"  # decoded into memory
    assert train.main([*small, "--dataset=folder", f"--data_dir={streamed}/data", f"--out={held}"]) == 0
    assert list(answers.read(held / answers.FILE)["name"]) == expected
    views = ["--views=ten_crop"], ["--views=multi_scale", "--scales=24,28"], ["--views=center"]
    copy = shutil.copytree(streamed / "run", tmp_path / "run")  # evaluation leaves its answers in it
    for run, flags in ((copy, views[0]), (copy, views[1]), (held, views[2])):
        assert evaluate.main([f"--run={run}", *flags, f"--examples={tmp_path}/e.csv"]) == 0
        assert [row["name"] for row in table_of(tmp_path / "e.csv")] == expected
    assert prepare.main([f"--data_dir={streamed}/data", "--dataset=folder", f"--out={tmp_path}/set"]) == 0
    splits = [using("records", str(tmp_path / "set")).splits["test"] for using in (sources.load, sources.index)]
    assert splits[0].names == splits[1].names and splits[0].take([2, 0]).names == [splits[0].names[n] for n in (2, 0)]
    assert splits[0].names[0] == "test-00000-of-00001.tfrecord: record at byte 0"


def test_mistakes_name_their_files(streamed):
    """Or the position, where there are no files."""
    answered = np.array([[0.25, 0.75]])
    for using, view in ((sources.load, "memory"), (sources.index, "stream")):
        split = using("folder", f"{streamed}/data").splits["test"]
        found = gallery.mistakes(split, [1], answered, ["a", "b"])
        assert [mistake.name for mistake in found] == ["test/a/12.png"], view
        (axes,) = gallery.draw_mistakes(found).axes
        assert axes.get_xlabel() == "test/a/12.png"
    found = gallery.mistakes(sources.load("synthetic").splits["test"], [7], np.full((1, 10), 0.1), [*"abcdefghij"])
    assert found[0].name == "example 7"
    odd = [gallery.Mistake("$x_\udcff^$.png", np.zeros((4, 4, 3), np.uint8), ("a", 0.1), ("b", 0.9))]
    gallery.draw_mistakes(odd).savefig(io.BytesIO(), format="png")  # neither mathematics nor an error
    assert charts.short_end("a" * 30, 30) == "a" * 30 and charts.short_end("b" + "a" * 30, 30) == "\u2026" + "a" * 29


def test_full_disk_leaves_no_half_of_a_report(runs, tmp_path, capsys):
    before = (runs[0] / "evaluation.json").read_text()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))  # less than a picture takes
    try:
        line = refused([f"--run={runs[0]}", "--split=train", f"--report={tmp_path}/report"], capsys)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in line and not list(tmp_path.iterdir())
    assert (runs[0] / "evaluation.json").read_text() == before


# --- Bad input -------------------------------------------------------------------------------------------------------

NETWORK = ("--network=cifar_resnet8_v1", "--init_from=imagenet", "--dataset=synthetic", "--image_size=16")


@pytest.mark.parametrize(
    "flags, named",
    [
        ([], "--run is not set"),
        (["--run={0}", "--model={model}"], "--run and --model"),
        (["--run={0}", *NETWORK], "--run and --network"),
        (["--run={0}", "--dataset=digits"], "--dataset needs --network"),
        (["--run={0}", "--init_from=x"], "--init_from needs --network"),
        (["--run={0}", "--shares=1"], "--shares is not used by a single run"),
        (["--run={0},{1}", "--shares=1,2,3"], "--shares=1,2,3: 3 for 2 runs"),
        (["--run={0},{1}", "--shares=0,0"], "--shares=0,0"),
        (["--run={0},{1}", "--shares=-1,2"], "--shares=-1,2"),
        (["--run={0},{1}", "--shares=nan,2"], "--shares=nan,2"),
        (["--run={0},/no/run"], "--run=/no/run"),
        (["--run={0},{tmp}/other"], "--run={tmp}/other: the checksum of its data"),
        (["--run={0},{tmp}/classes"], "--run={tmp}/classes: its classes"),
        (["--run={tmp}/plain", "--weights=best"], "--weights=best: {tmp}/plain holds no validation split out"),
        (["--run={tmp}/other", "--weights=best"], "--weights=best: {tmp}/other has not kept"),
        (["--model={0}"], "--model={0}: has no SavedModel"),
        (["--model={tmp}/foreign"], "--model={tmp}/foreign"),
        (["--model={model}", "--weights=ema"], "--weights needs --run"),
        (["--model={model}", "--views=ten_crop"], "--views is not used by --model"),
        (["--model={model}", "--average=logits"], "--average is not used by --model"),
        (["--model={model}", "--data_dir=/no/data"], "--data_dir"),
        (NETWORK[:1], "--init_from is not set"),
        (NETWORK[:2], "--dataset is not set"),
        (NETWORK[:3], "--image_size is not set"),
        ([*NETWORK, "--weights=best"], "--weights needs --run"),
        ([*NETWORK, "--init_from=/no/file.h5"], "--init_from=cifar_resnet8_v1:/no/file.h5"),
        ([*NETWORK, "--network=resnet9"], "resnet9"),
        ([*NETWORK, "--resize=20"], "--resize"),
        ([*NETWORK, "--views=ten_crop"], "--views=ten_crop"),
        ([*NETWORK], "weights=imagenet: none are published for cifar_resnet8_v1"),
        (["--run={0}", "--report={tmp}/file"], "--report={tmp}/file: a file, not a folder"),
        (["--run={0}", "--report={tmp}/file/report"], "--report={tmp}/file/report: {tmp}/file cannot be written"),
        (["--run={0}", "--examples={tmp}/e.txt"], "--examples={tmp}/e.txt"),
        (["--run={0}", "--examples={tmp}/none/e.csv"], "--examples={tmp}/none/e.csv"),
        (["--run={0}", "--split=test", "--scales=16"], "--scales is not used by --views=center"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_leaves_nothing(flags, named, runs, exported, faults, capsys):
    def filled(text):
        return text.format(*runs, model=exported, tmp=faults)

    before = {path: path.stat().st_mtime_ns for folder in (*runs, faults) for path in folder.rglob("*")}
    assert filled(named) in refused([filled(flag) for flag in flags], capsys)
    assert before == {path: path.stat().st_mtime_ns for folder in (*runs, faults) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def faults(runs, tmp_path_factory):
    """Runs that do not go with the others, and what is in the way."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "file").write_text("mine")
    manifest = (runs[0] / "manifest.yaml").read_text()
    data = record.open_run(runs[0]).manifest["data"]["checksum"]
    changed = {
        "other": manifest.replace(data, "0123456789abcdef"),
        "classes": manifest.replace("- class9", "- class10"),
        "plain": manifest.replace("    validation: 60\n", ""),
    }
    for name, text in changed.items():
        assert text != manifest
        (folder / name / "checkpoints").mkdir(parents=True)
        (folder / name / "manifest.yaml").write_text(text)
        newest = runs[0] / "checkpoints" / "step-00000012.npz"
        (folder / name / "checkpoints" / newest.name).write_bytes(newest.read_bytes())
    module = tf.Module()
    served = tf.function(lambda x: {"y": x}, input_signature=[tf.TensorSpec([None])])
    tf.saved_model.save(module, str(folder / "foreign"), signatures={"serving_default": served})
    return folder


def test_parquet_without_pyarrow_is_one_line(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    line = refused([f"--run={runs[0]}", f"--examples={tmp_path}/e.parquet"], capsys)
    assert "pip install 'resnet_tf[parquet]'" in line and not list(tmp_path.iterdir())


def test_data_whose_split_differs_make_no_ensemble(runs, tmp_path, capsys):
    flags = [*SMALL, "--validation_examples=50", "--train_steps=1", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    assert f"--run={tmp_path}/run: the checksum" in refused([f"--run={runs[0]},{tmp_path}/run"], capsys)


# --- Speed -----------------------------------------------------------------------------------------------------------


def test_benchmark_beside_the_forward_pass_and_ten_crops(streamed, last_json, tmp_path):
    flags = ["evaluate", "--model=cifar_resnet8_v1", f"--data_dir={streamed}/data", "--image_size=16", "--steps=3",
             "--batch_size=20", "--repeats=1", f"--results={tmp_path}/speed.csv"]  # fmt: skip
    assert benchmark.main(flags) == 0
    result = last_json()
    assert set(result["ratio"]) == {"forward", "ten_crop"}
    assert min(result["ours"], *result["peers"].values()) > 0  # which is faster is for a quiet machine
    rows = table_of(tmp_path / "speed.csv")
    assert [row["system"] for row in rows] == ["ours", "forward", "ten_crop"]


# --- Real images -----------------------------------------------------------------------------------------------------
# The same views once more, with Pillow to decode and NumPy for all that follows. Pillow's own resampling would not do:
# it rounds to uint8 between columns and rows, which changes many pixels by a level. Shorter sides are primes, for else
# values lie exactly between two levels (of 160 pixels scaled to 60, 2% do), which float32 and float64 round apart.


def triangle(size, scaled):
    """float64 [scaled, size]: bilinear weights with half-pixel centres, as wide as a pixel of the smaller image."""
    wide = max(1.0, size / scaled)
    centres = (np.arange(scaled)[:, None] + 0.5) * size / scaled
    weights = np.maximum(0, 1 - np.abs(np.arange(size) + 0.5 - centres) / wide)
    return weights / weights.sum(axis=1, keepdims=True)


def scaled_by_hand(pixels, shorter):
    height, width, _ = pixels.shape
    tall, wide = (int(side * shorter / min(height, width) + 0.5) for side in (height, width))
    rows = np.tensordot(triangle(height, tall), pixels.astype(np.float64), 1)
    return np.round(np.einsum("xw,hwc->hxc", triangle(width, wide), rows, optimize=True))


def ten_crops_by_hand(pixels, size, shorter):
    whole = scaled_by_hand(pixels, shorter)
    height, width, _ = whole.shape
    bottom, right = height - size, width - size
    places = [(0, 0), (0, right), (bottom, 0), (bottom, right), (bottom // 2, right // 2)]
    images = (whole, whole[:, ::-1])
    return [np.stack([image[top : top + size, left : left + size] for image in images for top, left in places])]


def scales_by_hand(pixels, scales):
    wholes = [scaled_by_hand(pixels, scale) for scale in scales]
    return [np.stack([whole, whole[:, ::-1]]) for whole in wholes]


def test_views_of_real_images_score_as_a_plain_reference(real_data):
    with tarfile.open(real_data / "imagenet_samples100.tar") as tar:
        files = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)[:12]
        encoded = [tar.extractfile(member).read() for member in files]
    pixels = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in encoded]
    strategy = devices.make_strategy(1)
    with strategy.scope():
        model = create_model("cifar_resnet8_v1", num_classes=10, input_shape=(None, None, 3))
        engine = Runner(strategy, model, colour.IMAGENET)
    network = tf.function(lambda x: model(x, training=False), reduce_retracing=True)

    def logits(views):
        return network(((views - colour.IMAGENET.mean) / colour.IMAGENET.std).astype(np.float32)).numpy()

    # Weights as drawn tell images apart, but through BN that has seen none: softmax would be 0 or 1, of one class.
    raw = np.concatenate([logits(ten_crops_by_hand(image, 48, 53)[0][4:5]) for image in pixels])
    kernel, bias = model.get_layer("logits").variables
    scale = 1 / raw.std(axis=0).mean()
    kernel.assign(kernel * scale)
    bias.assign(-raw.mean(axis=0) * scale)

    split = inputs.examples_of(encoded)
    data = config.DataConfig(dataset="folder", data_dir="-", image_size=48, resize=53)
    for views, by_hand in (
        ("ten_crop", lambda p: ten_crops_by_hand(p, 48, 53)),
        ("multi_scale", lambda p: scales_by_hand(p, (41, 59))),
    ):
        expected = []
        for image in pixels:
            raw = np.concatenate([logits(batch) for batch in by_hand(image)]).astype(np.float64)
            shares = np.exp(raw - raw.max(axis=1, keepdims=True))
            expected.append((shares / shares.sum(axis=1, keepdims=True)).mean(axis=0))
        found = SplitLogits(engine, data, split, views=views, scales=(41, 59)).logits()
        assert np.std(expected, axis=0).mean() > 0.05  # else any answer would do
        # 1e-5 for sums in float32, and the few values so near the middle of two levels that they are rounded apart.
        np.testing.assert_allclose(np.exp(found), expected, atol=1e-4)


# --- Some of ImageNet's classes --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_imagenet(tmp_path_factory):
    """Weights with a head of 1,000 classes, whose biases prefer label 100 to all others; images of three classes."""
    folder = tmp_path_factory.mktemp("imagenet")
    model = create_model("cifar_resnet8_v1", num_classes=1000, seed=1)
    bias = model.get_layer("logits").bias
    bias.assign(np.where(np.arange(1000) == 100, 0.5, 0).astype(np.float32))
    weights.save(model, folder / "net.weights.h5")
    for number, name in enumerate(("n02124075", "English springer", "tench")):
        (folder / "some" / name).mkdir(parents=True)
        for index in range(4):
            (folder / "some" / name / f"{index}.png").write_bytes(files.picture(10 * number + index, size=(32, 32)))
    return folder


def network_of(folder, images="some", *flags):
    return ["--network=cifar_resnet8_v1", f"--init_from={folder}/net.weights.h5", "--dataset=folder",
            f"--data_dir={folder}/{images}", "--image_size=32", *flags]  # fmt: skip


def test_a_folder_of_some_classes_of_imagenet(of_imagenet, last_json, tmp_path, capsys):
    """Scored among its own classes, and among all of them; both agree with the network asked directly."""
    assert evaluate.main(network_of(of_imagenet, "some", f"--report={tmp_path}/report")) == 0
    result = last_json()
    model = create_model("cifar_resnet8_v1", num_classes=1000, weights=of_imagenet / "net.weights.h5")
    source = sources.index("folder", f"{of_imagenet}/some")
    assert source.classes == ("English springer", "n02124075", "tench")
    split, outputs = source.splits["train"], [217, 285, 0]
    pixels = np.stack([geometry.center(split.read(example), 32) for example in range(len(split))])
    logits = model(colour.IMAGENET(pixels)).numpy()
    for found, values, labels in (
        (result, logits[:, outputs], split.labels),
        (result["all_classes"], logits, np.array(outputs)[split.labels]),
    ):
        expected = metrics.classification(values, labels)
        for name in ("top1", "top5", "loss"):
            assert found[name] == pytest.approx(expected[name], abs=1e-5), name
    assert (result["among_classes"], result["all_classes"]["classes"], result["examples"]) == (3, 1000, 12)
    assert result["in_words"] == (
        f"top-1 {result['top1']:.4f} among the 3 classes of the images, {result['all_classes']['top1']:.4f} among all "
        "1,000 of the network"
    )
    assert (tmp_path / "report" / "report.html").exists()


def test_a_folder_with_other_classes_than_imagenets_is_refused(of_imagenet, capsys):
    for images, names in (("mixed", ("tench", "my dog", "other")), ("twice", ("tench", "n01440764"))):
        for name in names:
            (of_imagenet / images / name).mkdir(parents=True)
            (of_imagenet / images / name / "1.png").write_bytes(files.picture(1, size=(32, 32)))
    assert evaluate.main(network_of(of_imagenet, "mixed")) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "mixed: the weights have ImageNet's classes, but not classes of ImageNet-1k" in line
    assert line.endswith(": my dog, other")
    assert evaluate.main(network_of(of_imagenet, "twice")) == 1
    assert "n01440764, tench: name the same class of ImageNet-1k" in capsys.readouterr().err
