"""The commands as a person meets them: flags, one-line errors, and the way from training to an answer."""

import collections
import csv
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from files import command_of

import resnet_tf
from resnet_tf import analyze, benchmark, compare, config, evaluate, export, features, predict, show, sweep, train
from resnet_tf.commands import main as program
from resnet_tf.data import images as views
from resnet_tf.data import sources
from resnet_tf.evaluation import metrics
from resnet_tf.runs import checkpoint, devices, record, restore
from resnet_tf.transfer import detect, score, segment
from resnet_tf.transfer import export as transfer_export

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

ROOT = pathlib.Path(__file__).parent.parent
FLAGFILES = sorted((ROOT / "flags").glob("*.cfg"))
COMMANDS = {
    "train": train,
    "evaluate": evaluate,
    "compare": compare,
    "export": export,
    "predict": predict,
    "benchmark": benchmark,
    "show": show,
    "analyze": analyze,
    "sweep": sweep,
    "features": features,
    "transfer.segment": segment,
    "transfer.detect": detect,
    "transfer.score": score,
    "transfer.export": transfer_export,
}
SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--train_steps=16",
    "--lr=0.05", "--pad=0", "--mirror=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands") / "run"
    assert train.main([*SMALL, f"--out={folder}"]) == 0
    return folder


@pytest.fixture(scope="module")
def exported(run):
    folder = run.parent / "model"
    assert export.main([f"--run={run}", f"--out={folder}"]) == 0
    return folder


def refused(main, flags, capsys, code=1):
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert main(flags) == code
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert captured.out == "" and lines[-1].startswith("error: ") and "Traceback" not in captured.err
    return lines[-1]


# --- From training to an answer --------------------------------------------------------------------------------------


def test_evaluate_counts_every_example(run, last_json, tmp_path):
    assert evaluate.main([f"--run={run}", "--batch_size=100", f"--results={tmp_path}/r.csv"]) == 0
    result = last_json()
    assert result["examples"] == 256 and 0 <= result["top1"] <= result["top5"] <= 1
    stored = json.loads((run / "evaluation.json").read_text())
    assert stored == result | {"command": stored["command"], "commit": stored["commit"]}
    assert evaluate.main([f"--run={run}", "--batch_size=7"]) == 0
    assert last_json()["top1"] == result["top1"]
    assert len((tmp_path / "r.csv").read_text().splitlines()) == 2


def test_exported_model_answers_as_evaluated(run, exported, tmp_path):
    """In a process of its own, that knows nothing of this package."""
    test = sources.load("synthetic", image_size=16).splits["test"]
    stored, values, normalization = restore.load(run)
    engine = restore.build_runner(stored, values, normalization, devices.make_strategy(1))
    expected = metrics.probabilities(engine.predict(test.images, 100))
    larger = np.repeat(np.repeat(test.images[:3], 3, axis=1), 2, axis=2)  # 48x32: resized and cropped
    np.savez(tmp_path / "in.npz", images=test.images, larger=larger)
    script = """
import sys, numpy as np, tensorflow as tf
data, model = np.load(sys.argv[2]), tf.saved_model.load(sys.argv[1])
png = [tf.io.encode_png(image).numpy() for image in data["images"]]
by_bytes = model.signatures["serving_default"](image_bytes=tf.constant(png))
by_images = model.signatures["images"](images=tf.constant(data["images"]))
larger = model.signatures["images"](images=tf.constant(data["larger"]))
assert "resnet_tf" not in sys.modules
np.savez(sys.argv[3], bytes=by_bytes["probabilities"], images=by_images["probabilities"],
         larger=larger["probabilities"], classes=by_bytes["classes"].numpy().astype("S"), scores=by_bytes["scores"])
"""
    arguments = [sys.executable, "-c", script, str(exported / "1"), str(tmp_path / "in.npz"), str(tmp_path / "out.npz")]
    subprocess.run(arguments, check=True, capture_output=True, cwd=tmp_path)
    answers = np.load(tmp_path / "out.npz")
    np.testing.assert_allclose(answers["bytes"], expected, atol=1e-5)
    np.testing.assert_allclose(answers["images"], expected, atol=1e-5)
    viewed = views.resize_center(larger, 16).numpy()
    np.testing.assert_allclose(answers["larger"], metrics.probabilities(engine.predict(viewed, 3)), atol=1e-5)
    best = expected.argsort(axis=1)[:, ::-1][:, :5]
    assert answers["classes"].shape == (256, 5)
    assert (answers["classes"] == np.array([f"class{i}".encode() for i in range(10)])[best]).mean() > 0.99
    np.testing.assert_allclose(answers["scores"], np.take_along_axis(expected, best, 1), atol=1e-5)


def test_predict_names_files_and_goes_on_after_a_bad_one(exported, tmp_path, capsys):
    test = sources.load("synthetic", image_size=16).splits["test"]
    good = tmp_path / "good.png"
    good.write_bytes(tf.io.encode_png(test.images[0]).numpy())
    jpeg = tmp_path / "other.jpg"
    jpeg.write_bytes(tf.io.encode_jpeg(np.repeat(test.images[1], 2, axis=0), quality=95).numpy())
    assert predict.main([f"--model={exported}", str(good), str(jpeg)]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4 and lines[1].startswith(str(good)) and lines[2].startswith(str(jpeg))
    answer = json.loads(lines[-1])
    # Counts of the classes, not each answer again, which would be a line of megabytes for a large folder.
    assert answer["images"] == sum(answer["classes"].values()) == 2 and "predictions" not in answer
    assert all(name in lines[1] + lines[2] for name in answer["classes"])

    bad = tmp_path / "bad.png"
    bad.write_bytes(good.read_bytes()[:60])
    assert predict.main([f"--model={exported}", str(bad), str(good), str(tmp_path / "absent.png")]) == 0
    captured = capsys.readouterr()
    lines = captured.out.strip().splitlines()
    assert lines[1].startswith(str(good)) and len(lines) == 3 and json.loads(lines[2])["failed"] == 2
    assert f"{bad}: " in captured.err and "absent.png: No such file" in captured.err


def test_export_refuses_to_overwrite(run, exported, capsys):
    before = sorted(path.name for path in exported.rglob("*"))
    line = refused(export.main, [f"--run={run}", f"--out={exported}", "--version=1"], capsys)
    assert f"--version=1: {exported}/1" in line
    assert sorted(path.name for path in exported.rglob("*")) == before


def test_benchmark_reports_a_ratio_for_each_peer(capsys, tmp_path):
    flags = ["train", "--model=cifar_resnet8_v1", "--image_size=16", "--batch_size=8", "--steps=2", "--repeats=1"]
    assert benchmark.main([*flags, f"--results={tmp_path}/speed.csv"]) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["ratio"]["keras_fit"] == pytest.approx(result["ours"] / result["peers"]["keras_fit"], rel=0.01)
    rows = (tmp_path / "speed.csv").read_text().splitlines()
    assert len(rows) == 3 and ",ours," in rows[1] and rows[1].endswith(",")
    assert "--peers=torch" in refused(benchmark.main, [*flags, "--peers=torch"], capsys)


def test_benchmark_of_building(capsys):
    flags = ["build", "--model=cifar_resnet8_v1", "--peers=keras_applications", "--repeats=1"]
    assert benchmark.main(flags) == 0
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert result["ratio"]["keras_applications"] > 1  # 8 layers beside 50
    assert "--peers=keras_fit" in refused(benchmark.main, [*flags, "--peers=keras_fit"], capsys)
    assert "--results" in refused(benchmark.main, [*flags, "--results=x.csv"], capsys)


# --- Flags -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_flagfile_is_complete(path, capsys):
    """Header with command, expectation and time; flags that exist and go together; a network that exists."""
    text = path.read_text()
    header = "".join(line for line in text.splitlines() if line.startswith("#"))
    assert "Expected: " in header and "Run time: " in header
    data = [] if "--dataset=digits" in text else ["--data_dir=/nowhere/at/all"]
    command = command_of(path)
    line = refused(command.main, [f"--flagfile={path}", *data, "--out=", "--lr=oops"], capsys, code=2)
    assert "--lr=oops" in line  # all flags before it were taken
    if data:
        assert "/nowhere/at/all" in refused(command.main, [f"--flagfile={path}", *data], capsys)


@pytest.mark.parametrize(
    "name, figure",
    [
        ("imagenet_plain18", "top-1 error 27.94%"),  # He et al. 2015, table 2
        ("imagenet_plain34", "top-1 error 28.54%"),
        ("imagenet_r18", "top-1 error 27.88%"),
        ("imagenet_r50_baseline", "top-1 75.87%"),  # Bag of Tricks, table 4
        ("imagenet_r50_efficient", "top-1 76.21%"),
        ("imagenet_r50d", "top-1 79.15%"),  # table 6
        ("imagenet_r50d_distil", "top-1 79.29%"),
        ("imagenet_resnext50", "top-1 error 22.2%"),  # Xie et al. 2017, table 3
        ("imagenet_seresnet50", "top-1 error 23.29%"),  # Hu et al. 2018, table 2
        ("imagenet_resnetrs50", "top-1 78.8%"),  # Bello et al. 2021
        ("cifar10_wrn28_10", "test error 4.00%"),  # Zagoruyko and Komodakis 2016, table 5
    ],
)
def test_recipe_expects_what_its_paper_has(name, figure):
    assert f"# Expected: {figure} " in (ROOT / "flags" / f"{name}.cfg").read_text()


def recipe_of(name):
    """The configuration of a recipe."""
    values = config.fields.flags.FlagValues()
    config.define_flags(config.TrainConfig, values)
    values(["", f"--flagfile={ROOT}/flags/{name}.cfg", "--data_dir=x"])
    return config.read_flags(config.TrainConfig, values)


@pytest.mark.parametrize("name, model", [("voc0712_r101", "resnet101_v1b"), ("voc0712_r101_v2", "resnet101_v2")])
def test_voc_recipes_are_those_of_their_figures(name, model):
    recipe = recipe_of(name)
    assert recipe.model.model == model and recipe.data.normalization == "inception"
    views = recipe.views
    assert (views.erasing, views.erasing_area, views.erasing_fill) == (0.5, (0.02, 0.33), "black")
    assert "--views=ten_crop --average=logits" in (ROOT / "flags" / f"{name}.cfg").read_text()


@pytest.mark.parametrize(
    "name",
    sorted({path.stem for path in (ROOT / "flags").glob("cifar10_*.cfg")} - {"cifar10_wrn28_10", "cifar10_fast"}),
)
def test_cifar_recipes_are_the_papers(name):
    """He et al. 2015, section 4.2: the mean image is subtracted, every parameter decays, 0.1 falls at 32k and 48k."""
    recipe = recipe_of(name)
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert recipe.data.normalization == "pixel" and (optimizer.weight_decay, optimizer.decay) == (1e-4, "all")
    assert (optimizer.optimizer, optimizer.momentum, optimizer.batch_size) == ("sgd", 0.9, 128)
    assert (optimizer.train_steps, schedule.lr, schedule.lr_steps) == (64_000, 0.1, (32_000, 48_000))
    assert recipe.data.validation_examples == (5_000 if name.endswith("_45k") else 0)
    deep = "110" in name or "1202" in name
    assert (schedule.warmup_lr, schedule.warmup_until_error) == ((0.01, 0.8) if deep else (0, 0))


def test_the_recipe_of_wide_resnets_is_the_papers():
    """Zagoruyko and Komodakis 2016, section 3: 200 epochs, the rate times 0.2 at 60, 120 and 160."""
    recipe = recipe_of("cifar10_wrn28_10")
    optimizer, schedule = recipe.optimizer, recipe.schedule
    assert (optimizer.optimizer, optimizer.momentum, optimizer.batch_size) == ("nesterov", 0.9, 128)
    assert (optimizer.train_epochs, optimizer.weight_decay, optimizer.decay) == (200, 5e-4, "all")
    assert (schedule.lr, schedule.lr_epochs, schedule.lr_factor) == (0.1, (60, 120, 160), 0.2)


def test_one_program_has_all_commands(capsys):
    files = {path.stem for path in (ROOT / "resnet_tf" / "commands").glob("*.py")} - {"__init__", "command", "main"}
    assert {f"resnet_tf.{file}" for file in files} <= set(program.COMMANDS.values())
    assert {"models", "segment", "detect", "score"} <= set(program.COMMANDS)
    assert program.main([]) == 0
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in program.COMMANDS) and "Train a network" in text
    assert program.main(["--version"]) == 0 and resnet_tf.__version__ in capsys.readouterr().out
    assert program.main(["trian"]) == 2
    assert capsys.readouterr().err.startswith("error: trian: no such command; the nearest are train")
    assert program.main(["models", "resnet50_v1d"]) == 0 and "25,576,264" in capsys.readouterr().out
    assert program.main(["train", "--no_such_flag"]) == 2


def test_commands_are_modules_of_the_package_wherever_python_runs(tmp_path):
    told = subprocess.run([sys.executable, "-m", "resnet_tf.models", "--help"], cwd=tmp_path, capture_output=True)
    other = subprocess.run([sys.executable, "-m", "resnet_tf.convert", "--help"], cwd=tmp_path, capture_output=True)
    assert told.returncode == other.returncode == 0 and b"--padding" in other.stdout


def test_flags_are_few_and_have_help(capsys):
    # What makes a result what it is; how a process runs and records comes besides. Three more than 75: recipes that
    # published results need (--trivialaugment, --mirroring, --progressive), no value of another flag.
    fields = config.fields_of(config.TrainConfig).values()
    assert sum(field.metadata["changes_result"] for field in fields) < 78
    for name, command in COMMANDS.items():
        assert command.main(["--help"]) == 0
        text = capsys.readouterr().out
        assert "usage:" in text, name
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, field in config.fields_of(config.TrainConfig).items():
        assert f"  --{name}\n" in text and len(field.metadata["help"]) > 10
    for group in ("Model:", "Data:", "Optimization:", "Learning rate:", "Loss:", "Devices:", "Record:"):
        assert f"\n{group}\n" in text


@pytest.mark.parametrize(
    "flags, code, named",
    [
        (["--lr_rate=1"], 2, "lr_rate"),
        (["--lr=fast"], 2, "--lr=fast"),
        (["--shortcut=D"], 2, "--shortcut=D"),
        (["--batch_size=0"], 2, "--batch_size=0"),
        (["--lr_steps=1,x"], 2, "--lr_steps"),
        (["--flagfile=/no/such.cfg"], 2, "/no/such.cfg"),
        (["stray"], 2, "'stray'"),
        ([], 1, "--train_steps"),
        (["--train_steps=1", "--train_epochs=1"], 1, "--train_epochs=1"),
        (["--train_steps=1", "--lr_steps=5,3"], 1, "--lr_steps=5,3"),
        (["--train_steps=1", "--lr_steps=5", "--lr_epochs=3"], 1, "--lr_epochs"),
        (["--train_steps=1", "--warmup_lr=0.1"], 1, "--warmup_until_error"),
        (["--train_steps=1", "--decay=none"], 1, "--decay=none"),
        (["--train_steps=1", "--optimizer=nesterov", "--momentum=0"], 1, "--optimizer=nesterov"),
        (["--train_steps=1", "--ema=1"], 1, "--ema=1"),
        (["--train_steps=1", "--bn=frozen"], 1, "--init_from"),
        (["--train_steps=1", "--batch_size=6", "--accumulate=4"], 1, "--accumulate=4"),
        (["--train_steps=1", "--schedule=cosine", "--lr_steps=5"], 1, "--lr_steps"),
        (["--train_steps=1", "--patience=3"], 1, "--patience"),
        (["--train_steps=1", "--schedule=plateau"], 1, "--eval_every"),
        (["--train_epochs=5", "--warmup_epochs=5"], 1, "--warmup_epochs=5"),
        (["--train_steps=1", "--warmup_epochs=5", "--dataset=synthetic"], 1, "--warmup_epochs=5"),
        (["--train_steps=1", "--warmup_epochs=5", "--warmup_lr=1", "--warmup_until_error=0.5"], 1, "--warmup_epochs"),
        (["--train_steps=1", "--loss=bce", "--label_smoothing=0.1"], 1, "--label_smoothing"),
        (["--train_steps=1", "--temperature=2"], 1, "--temperature"),
        (["--train_steps=1", "--distillation=0.5"], 1, "--teacher"),
        (["--train_steps=1", "--teacher=x", "--loss=bce"], 1, "--teacher"),
        (["--train_steps=1", "--teacher=/no/run", "--dataset=synthetic"], 1, "--teacher=/no/run"),
        (["--train_steps=1", "--teacher=resnet9:random", "--dataset=synthetic"], 1, "resnet9"),
        (["--train_steps=1", "--init_from=/no/run", "--dataset=synthetic"], 1, "--init_from=/no/run"),
        (["--train_steps=1", "--teacher=resnet18_v1b:/no/file", "--data_dir=/no/data"], 1, "/no/file"),
        (["--train_steps=1", "--erasing_fill=black", "--dataset=synthetic"], 1, "fill needs --erasing"),
        (["--train_steps=1", "--erasing_area=0.02,0.3", "--dataset=synthetic"], 1, "area needs --erasing"),
        (["--train_steps=1", "--erasing=0.5", "--erasing_area=0.3", "--dataset=synthetic"], 1, "--erasing_area=0.3"),
        (["--train_steps=1", "--erasing=0.5", "--erasing_area=0.5,2", "--dataset=synthetic"], 1, "more than the whole"),
        (["--train_steps=1", "--erasing=0.5", "--erasing_fill=black", "--normalization=pixel", "--dataset=synthetic"],
         1, "--normalization=pixel"),
        (["--train_steps=1", "--profile_steps=1,2", "--dataset=synthetic"], 1, "--profile_steps"),
        (["--train_steps=1", "--profile_steps=5,3"], 1, "--profile_steps=5,3"),
        (["--train_steps=1", "--data_service=a:1", "--dataset=synthetic"], 1, "--data_service"),
        (["--train_steps=1", "--gpus=0", "--dataset=synthetic"], 1, "--gpus=0"),
        (["--train_steps=1", "--debug_step=3", "--dataset=synthetic", "--out=no_run"], 1, "--debug_step=3"),
        (["--train_steps=1", "--dataset=digits", "--data_dir=x"], 1, "--data_dir is not used by --dataset=digits"),
        (["--train_steps=1", "--dataset=cifar10"], 1, "--data_dir"),
        (["--train_steps=1", "--batch_size=9", "--replicas=2"], 1, "--batch_size=9"),
        (["--train_steps=1", "--dataset=synthetic", "--model=cifar_resnet21_v1"], 1, "cifar_resnet20_v1"),
        (["--train_steps=1", "--dataset=synthetic", "--replicas=3", "--batch_size=9"], 1, "--replicas=3"),
        (["--train_steps=1", "--dataset=synthetic", "--batch_size=513"], 1, "--batch_size=513"),
        (["--train_steps=1", "--dataset=synthetic", "--validation_examples=512"], 1, "--validation_examples"),
        (["--train_steps=1", "--dataset=synthetic", "--model=cifar_plain8", "--shortcut=B"], 1, "--shortcut=B"),
        (["--train_steps=1", "--dataset=folder", "--data_dir=/no/such"], 1, "/no/such"),
        (["--train_steps=1", "--dataset=cifar10", "--data_dir=."], 1, "--data_dir"),
    ],
)  # fmt: skip
def test_bad_flags_are_one_line_and_leave_nothing(flags, code, named, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert named in refused(train.main, flags, capsys, code)
    assert not list(tmp_path.iterdir())


def test_run_folder_of_other_flags_is_refused(run, capsys):
    before = (run / "metrics.csv").read_text()
    line = refused(train.main, [*SMALL, "--lr=0.5", f"--out={run}"], capsys)
    assert "--lr=0.05 there, 0.5 here" in line and "--model" not in line
    assert (run / "metrics.csv").read_text() == before


def test_folder_that_is_no_run_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert f"--out={tmp_path}" in refused(train.main, [*SMALL, f"--out={tmp_path}"], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    assert "--run=" in refused(evaluate.main, [f"--run={tmp_path}"], capsys)
    assert "--run=" in refused(evaluate.main, [f"--run={tmp_path}/absent"], capsys)
    assert "--model=" in refused(predict.main, [f"--model={tmp_path}", "x.png"], capsys)
    assert "--split=validation" in refused(evaluate.main, ["--split=validation", f"--run={_run_of(tmp_path)}"], capsys)


def _run_of(tmp_path):
    folder = tmp_path / "run"
    assert train.main([*SMALL, "--train_steps=1", f"--out={folder}"]) == 0
    return folder


def test_default_run_folder_follows_from_the_flags():
    from resnet_tf.training import session

    def folder(**values):
        settings = {"train_steps": 5, "dataset": "synthetic", **values}
        return session.run_folder(config.from_settings(config.TrainConfig, settings, "test"))

    assert folder() == folder(log_every=7, steps_per_call=3)
    assert folder() != folder(lr=0.2)
    # Written down, since a new flag must not change it: a command would start anew beside its own run.
    assert folder(dataset="digits", lr=0.05).as_posix() == "runs/cifar_resnet20_v1-digits-91f9e457"


def test_help_and_bad_flags_do_not_wait_for_tensorflow():
    script = "import sys\nfrom resnet_tf import train\ntrain.main(['--nope'])\nassert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_package_exports():
    assert resnet_tf.list_models("cifar_resnet2*") == ["cifar_resnet20_v1", "cifar_resnet20_v2"]
    with pytest.raises(AttributeError):
        resnet_tf.no_such_thing  # noqa: B018


# --- Real images -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["cifar_resnet8_v1", pytest.param("cifar_resnet20_v1", marks=pytest.mark.slow)])
def test_cifar10_recipe_runs_on_real_images(model, real_data, tmp_path, last_json):
    """On the official binary version; not marked slow with a smaller network, since all test images are scored."""
    unpacked = [sys.executable, real_data / "unpack_cifar10.py", tmp_path / "cifar10"]
    subprocess.run(unpacked, check=True, capture_output=True)
    flags = [f"--flagfile={ROOT}/flags/cifar10_resnet20.cfg", f"--data_dir={tmp_path}/cifar10", f"--model={model}"]
    assert train.main([*flags, "--train_steps=60", "--log_every=20", f"--out={tmp_path}/run"]) == 0
    assert last_json()["examples"] == 10_000
    run = record.open_run(tmp_path / "run")
    assert run.manifest["data"]["examples"] == {"train": 50_000, "test": 10_000} and len(run.manifest["classes"]) == 10
    mean = checkpoint.load_latest(run.checkpoints)["normalization/mean"] / 255  # an image, as in the paper
    assert mean.shape == (32, 32, 3) and np.abs(mean.mean((0, 1)) - [0.4914, 0.4822, 0.4465]).max() < 1e-4
    with (tmp_path / "run" / "examples.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    assert sorted(collections.Counter(labels).values()) == [1000] * 10

    losses = [row["loss"] for row in record.read_metrics(tmp_path / "run" / "metrics.csv") if row["split"] == "train"]
    # A network that learns nothing stays at ln 10 = 2.30; 60 steps of this recipe reach about 1.8.
    assert losses[-1] < 2.05 and losses[-1] < losses[0]
