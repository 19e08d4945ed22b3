"""Weights that come with the package: a zoo drawn here, made by its script, and the files of the repository."""

import csv
import importlib.util
import io
import json
import pathlib
import tarfile

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import resnet_tf
from resnet_tf import InputError, analyze, list_networks
from resnet_tf.evaluation import responses
from resnet_tf.models import zoo
from resnet_tf.runs import restore

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")
ROOT = pathlib.Path(__file__).parents[1]
NET = "cifar_resnet8_v1"
LIMIT = 4_000_000  # bytes of a file
WHEEL = 10_000_000  # bytes of all files of a wheel
ROWS = zoo.table()
# About 20 s of one core for 1,000 images of 32 layers; the deeper ones are left to releases.
QUICK = ("cifar_resnet20_v1", "cifar_plain20", "cifar_resnet32_v1")


def script():
    spec = importlib.util.spec_from_file_location("make_zoo", ROOT / "benchmarks" / "make_zoo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def binary(folder, splits):
    """CIFAR-10's official binary version of {"train" or "test": (images, labels)}."""
    folder = folder / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for name, (images, labels) in splits.items():
        flat = np.concatenate([labels[:, None], images.transpose(0, 3, 1, 2).reshape(len(images), -1)], 1)
        parts = np.array_split(flat.astype(np.uint8), 5) if name == "train" else [flat.astype(np.uint8)]
        names = [f"data_batch_{number}" for number in range(1, 6)] if name == "train" else ["test_batch"]
        for file, part in zip(names, parts, strict=True):
            (folder / f"{file}.bin").write_bytes(part.tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(zoo.CLASSES) + "\n")
    return folder.parent


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Data, two runs of two steps, and the zoo that the script made of the first one."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    sets = {name: (rng.integers(0, 256, (n, 32, 32, 3)), rng.integers(0, 10, n)) for name, n in
            (("train", 50), ("test", 40))}  # fmt: skip
    data = binary(folder / "data", sets)
    shared = {
        "model": NET, "dataset": "cifar10", "data_dir": str(data), "train_steps": 2, "batch_size": 10, "lr": 0.05,
        "precision": "bfloat16", "verbose": 0,
    }  # fmt: skip
    for seed, kind in ((0, "pixel"), (1, "channel")):
        resnet_tf.fit(**shared, seed=seed, normalization=kind, out=str(folder / f"seed{seed}"))
    make = script()
    with pytest.MonkeyPatch.context() as patch:
        in_use(patch, folder, make)
        make.main([str(folder / "seed0"), f"--data_dir={data}", "--seed=0", "--log=results/some/runs"])
    return folder, data, sets, make


def in_use(patch, folder, make):
    """Let the package and the script use the drawn zoo."""
    patch.setattr(zoo, "FOLDER", folder / "cifar10")
    patch.setattr(zoo, "_TABLES", (folder / "zoo.csv",))
    patch.setattr(make, "RESULTS", folder / "zoo.csv")


@pytest.fixture
def drawn(made, monkeypatch):
    """`made`, whose zoo is in use for one test; the repository's is for others."""
    in_use(monkeypatch, made[0], made[3])
    return made


def expected_logits(folder, images):
    """Logits of the run itself with its kernels rounded to float16, on images in levels."""
    run, values, normalization = restore.load(folder / "seed0")
    model = restore.build_model(run, values, precision="float32")
    for variable in model.weights:
        if len(variable.shape) > 1:
            variable.assign(np.asarray(variable).astype(np.float16))
    return np.asarray(model(normalization(images)))


def test_the_script_writes_a_file_that_says_how_it_was_made_and_a_row(drawn):
    folder, _, _, make = drawn
    row, path = zoo.table()[NET], folder / "cifar10" / f"{NET}.safetensors"
    assert (row["file"], row["sha256"]) == (f"resnet_tf/models/cifar10/{NET}.safetensors", zoo.sha256(path))
    assert int(row["bytes"]) == path.stat().st_size and tuple(row) == make.COLUMNS
    manifest = restore.load(folder / "seed0")[0].manifest
    assert {key: row[key] for key in ("command", "commit", "hardware", "versions")} == {
        key: manifest[key] for key in ("command", "commit", "hardware", "versions")
    }
    assert (row["seed"], row["steps"], row["run"], row["examples"]) == ("0", "2", "results/some/runs/seed0", "40")
    assert float(row["top1_run"]) == json.loads((folder / "seed0" / "evaluation.json").read_text())["top1"]
    told = zoo.read(path)
    assert (told.top1, told.examples) == (float(row["top1"]), 40) and told.classes == zoo.CLASSES
    assert (told.command, told.commit, told.seed) == (row["command"], row["commit"], 0)
    kinds = {(value.ndim > 1, value.dtype.name) for value in load_file(path).values()}
    assert kinds == {(True, "float16"), (False, "float32")}  # small variances would be lost in float16
    make.main(
        [str(folder / "seed0"), f"--data_dir={drawn[1]}", "--seed=0", "--log=results/some/runs"]
    )  # again: the same file
    assert zoo.table()[NET]["sha256"] == row["sha256"] and list(zoo.table()) == [NET]


def test_the_network_the_backbone_and_a_new_head_have_its_weights(drawn):
    folder, _, (_, (images, _)), _ = drawn[0], drawn[1], drawn[2].values(), drawn[3]
    model = resnet_tf.create_model(NET, weights="cifar10")
    inputs = resnet_tf.preprocessing_of(NET).layer()(images)
    # The layer divides by the root of a squared deviation, one rounding from the run's own.
    np.testing.assert_allclose(model(inputs), expected_logits(folder, images), rtol=1e-4, atol=1e-5)
    kernel = {variable.path: np.asarray(variable) for variable in model.weights}
    for other in (resnet_tf.create_backbone(NET, levels=(0, 2), weights="cifar10"),
                  resnet_tf.create_model(NET, num_classes=3, weights="cifar10")):  # fmt: skip
        for variable in other.weights:
            if "logits" not in variable.path:
                assert np.array_equal(variable, kernel[variable.path]), variable.path


def test_evaluate_gives_the_accuracy_of_the_table_to_the_digit(drawn, tmp_path):
    folder, data, sets, _ = drawn
    right = np.argmax(expected_logits(folder, sets["test"][0]), 1) == sets["test"][1]
    row, copy = zoo.table()[NET], tmp_path / "copy.safetensors"
    copy.write_bytes((folder / "cifar10" / f"{NET}.safetensors").read_bytes())
    for source in ("cifar10", str(copy)):
        scores = resnet_tf.evaluate(network=NET, init_from=source, data_dir=str(data), **(
            {} if source == "cifar10" else {"dataset": "cifar10"}
        ))  # fmt: skip
        assert (scores["top1"], scores["top5"]) == (float(row["top1"]), float(row["top5"])) and scores["examples"] == 40
        assert scores["top1"] == right.mean() and int(row["right_of_first_1000"]) == right.sum()


def test_what_images_it_expects_travels_to_the_bit(drawn, tmp_path):
    folder, data, _, _ = drawn
    expected, normalization = resnet_tf.preprocessing_of(NET), restore.load(folder / "seed0")[2]
    assert (expected.size, expected.resize) == (32, 32)
    assert np.array_equal(np.asarray(expected.mean, np.float32), normalization.mean)  # the mean image
    assert np.array_equal(np.asarray(expected.std, np.float32), np.broadcast_to(normalization.std, 3))
    assert resnet_tf.preprocessing_of(folder / "cifar10" / f"{NET}.safetensors") == expected
    for flags in ({"image_size": 64}, {"dataset": "folder", "views": "multi_scale"}):
        with pytest.raises(InputError, match="mean image of 32 pixels"):
            resnet_tf.evaluate(network=NET, init_from="cifar10", data_dir=str(data), **flags)
    photos = tmp_path / "photos"
    for name in zoo.CLASSES:
        (photos / "test" / name).mkdir(parents=True)
        (photos / "train" / name).mkdir(parents=True)
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(photos / "test" / name / "a.png")
        Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(photos / "train" / name / "a.png")
    scores = resnet_tf.evaluate(network=NET, init_from="cifar10", dataset="folder", data_dir=str(photos))
    assert (scores["examples"], scores["top1"]) == (10, 0.1)  # all images are one


def test_an_export_has_names_normalization_and_the_same_accuracy(drawn, tmp_path):
    folder, data, sets, _ = drawn
    exported = resnet_tf.export(network=NET, init_from="cifar10", out=tmp_path / "model")
    assert exported["classes"] == 10
    buffer = io.BytesIO()
    Image.fromarray(sets["test"][0][0].astype(np.uint8)).save(buffer, "png")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    ((_, best, error),) = resnet_tf.predict(tmp_path / "model", tmp_path / "a.png")
    logits = expected_logits(folder, sets["test"][0][:1])
    shares = np.exp(logits[0]) / np.exp(logits[0]).sum()
    named = resnet_tf.decode_predictions(shares[None], top=5, weights="cifar10")[0]
    assert error is None and [name for name, _ in best] == [name for name, _, _ in named]
    np.testing.assert_allclose([share for _, share in best], [share for _, _, share in named], rtol=0, atol=1e-5)
    scores = resnet_tf.evaluate(model=str(tmp_path / "model"), data_dir=str(data))
    assert scores["top1"] == float(zoo.table()[NET]["top1"])
    with pytest.raises(InputError, match="--normalization=imagenet is not used"):
        resnet_tf.export(network=NET, init_from="cifar10", out=tmp_path / "no", normalization="imagenet")


def test_a_training_starts_from_it_with_its_head_and_can_be_taught_by_it(drawn, tmp_path, caplog):
    _, data, _, _ = drawn
    shared = {"model": NET, "dataset": "cifar10", "data_dir": str(data), "batch_size": 10, "lr": 1e-6, "train_steps": 1}
    with caplog.at_level("INFO"):
        fitted = resnet_tf.fit(**shared, init_from=f"{NET}:cifar10", normalization="pixel", out=str(tmp_path / "a"))
        resnet_tf.fit(**shared, teacher=f"{NET}:cifar10", normalization="pixel", out=str(tmp_path / "b"))
    assert "its head is kept: it has the same classes" in caplog.text
    theirs = resnet_tf.create_model(NET, weights="cifar10")
    for ours, variable in zip(fitted.model.weights, theirs.weights, strict=True):
        if "moving" not in variable.path:
            np.testing.assert_allclose(ours, variable, rtol=0, atol=1e-4)  # one step of 1e-6


def test_layer_responses_of_weights_beside_those_of_a_run(drawn, tmp_path, last_json):
    """The run has the same kernels, of which the package has float16."""
    folder, data, _, _ = drawn
    subjects = [f"{NET}:cifar10", str(folder / "seed0")]
    assert analyze.main(["responses", *subjects, f"--data_dir={data}", f"--out={tmp_path}/r.png"]) == 0
    assert last_json()["runs"] == [f"{NET} ({subject})" for subject in subjects]
    with (tmp_path / "r.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    ours, theirs = ([float(row["std"]) for row in rows if row["run"] == subject] for subject in subjects)
    assert len(ours) == 7 and all(value > 0 for value in ours)
    np.testing.assert_allclose(ours, theirs, rtol=2e-3)
    few = responses.of_zoo(NET, str(data), 8)
    assert list(few) == [row["layer"] for row in rows[:7]] and few != responses.of_zoo(NET, str(data))


def test_predictions_are_named_by_the_classes_of_the_weights():
    shares = np.eye(10, dtype=np.float32)[[3]] * 0.9 + 0.01
    assert resnet_tf.decode_predictions(shares, top=1, weights="cifar10")[0][0][:2] == ("cat", "cat")
    for arguments, message in (
        ((shares,), r"not \[batch, 1000\] as of ImageNet-1k"),
        ((shares[:, :9], 5, "cifar10"), r"not \[batch, 10\] as of CIFAR-10"),
        ((shares, 11, "cifar10"), "top=11: not in the range 1 to 10"),
        ((shares, 5, "digits"), "weights=digits: not one of imagenet, cifar10"),
    ):
        with pytest.raises(InputError, match=message):
            resnet_tf.decode_predictions(*arguments)


def test_the_list_of_weights_has_them(drawn, last_json, capsys):
    list_networks.main(["--pretrained", "--json", "cifar_*", "resnet50_v1d"])
    rows = last_json()["pretrained"]
    (own,) = (row for row in rows if row["weights"] == "cifar10")
    assert (own["row"], own["file"], own["classes"]) == (NET, f"resnet_tf/models/cifar10/{NET}.safetensors", 10)
    assert own["top1"] == 100 * float(zoo.table()[NET]["top1"]) and set(own) == set(rows[0])
    list_networks.main(["--pretrained", NET])
    assert f"{NET}.safetensors (resnet_tf) (weights=cifar10)" in capsys.readouterr().out


def test_weights_that_are_not_there_or_damaged_are_one_line(drawn, tmp_path, monkeypatch):
    folder, data, _, _ = drawn
    with pytest.raises(InputError, match=f"^weights=cifar10: none for cifar_resnet14_v1, only for {NET}$"):
        resnet_tf.create_model("cifar_resnet14_v1", weights="cifar10")
    with pytest.raises(InputError, match=f"^weights=cifar10: none for resnet50_v1b, only for {NET}$"):
        resnet_tf.evaluate(network="resnet50_v1b", init_from="cifar10", data_dir=str(data))
    monkeypatch.chdir(tmp_path)
    pathlib.Path("cifar10").mkdir()  # a folder of data, which has no weights
    with pytest.raises(InputError, match=r"^--init_from=cifar10: say of which network, as MODEL:cifar10$"):
        resnet_tf.fit(model=NET, init_from="cifar10", dataset="digits", train_steps=1, out=str(tmp_path / "run"))
    whole = (folder / "cifar10" / f"{NET}.safetensors").read_bytes()
    monkeypatch.setattr(zoo, "FOLDER", tmp_path)
    for ask in (resnet_tf.create_model, resnet_tf.create_backbone, resnet_tf.preprocessing_of):
        with pytest.raises(InputError, match=f"lacks {NET}.safetensors, which is resnet_tf/models/cifar10/{NET}"):
            ask(NET, **({} if ask is resnet_tf.preprocessing_of else {"weights": "cifar10"}))
    (tmp_path / f"{NET}.safetensors").write_bytes(whole[:-1] + b"x")
    with pytest.raises(InputError, match=r"another SHA-256$"):
        resnet_tf.create_model(NET, weights="cifar10")
    for name, change in {"truncated": whole[:100], "text": b"a pointer to a large file"}.items():
        (tmp_path / f"{name}.safetensors").write_bytes(change)
        with pytest.raises(InputError, match=rf"{name}.safetensors: damaged"):
            resnet_tf.preprocessing_of(tmp_path / f"{name}.safetensors")
    about = json.loads(safe_open(folder / "cifar10" / f"{NET}.safetensors", "np").metadata()["resnet_tf"])
    for name, change in {"short": {"mean": [1.0, 2.0]}, "zero": {"std": [0.0, 1.0, 1.0]}, "more": {"new": 1}}.items():
        path = tmp_path / f"{name}.safetensors"
        save_file({"a": np.zeros(1)}, path, {"resnet_tf": json.dumps(about | {zoo.KEY: about[zoo.KEY] | change})})
        with pytest.raises(InputError, match=rf"{name}.safetensors: damaged"):
            zoo.read(path)
    monkeypatch.setattr(zoo, "_TABLES", (tmp_path / "no.csv",))
    with pytest.raises(InputError, match=r"none for .*, results/zoo.csv has no row yet$"):
        resnet_tf.create_model(NET, weights="cifar10")


@pytest.mark.parametrize(
    "change, message",
    [("seed", "its seed is 1, not 0"), ("unfinished", "no evaluation.json"), ("data", "its data are digits")],
)
def test_the_script_refuses_other_runs(drawn, change, message, tmp_path, monkeypatch):
    folder, data, _, make = drawn
    run = folder / "seed1"
    if change == "data":
        resnet_tf.fit(model=NET, dataset="digits", train_steps=1, batch_size=10, out=str(tmp_path / "run"), verbose=0)
        run = tmp_path / "run"
    if change == "unfinished":
        (tmp_path / "run").symlink_to(folder / "seed0")
        monkeypatch.setattr(pathlib.Path, "is_file", lambda path: path.name != "evaluation.json" and path.exists())
        run = folder / "seed0"
    before = (folder / "zoo.csv").read_bytes()
    with pytest.raises(SystemExit, match=message):
        make.main([str(run), f"--data_dir={data}", "--seed=0"])
    assert (folder / "zoo.csv").read_bytes() == before


# --- The files of the repository -------------------------------------------------------------------------------------


def test_the_table_has_the_columns_of_its_script():
    with open(ROOT / "results" / "zoo.csv", newline="") as file:
        assert tuple(next(csv.reader(file))) == script().COLUMNS
    held = {path.stem for path in (ROOT / "resnet_tf" / "models" / "cifar10").glob("*")}
    assert held == set(ROWS)  # neither a file without a row, nor a row without a file
    # What the wheel holds; see exclude-package-data of pyproject.toml.
    packed = [int(row["bytes"]) for name, row in ROWS.items() if not any(depth in name for depth in ("110", "164"))]
    assert sum(packed) < WHEEL


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_that_of_its_row_and_loads(name):
    row, path = ROWS[name], zoo.path_of(name)  # which compares the hash
    told = zoo.read(path)
    assert path.stat().st_size == int(row["bytes"]) < LIMIT
    assert (told.seed, told.seed) == (4, int(row["seed"])) and told.steps == int(row["steps"]) == 64000
    assert (told.top1, told.examples) == (float(row["top1"]), int(row["examples"])) and told.examples == 10000
    assert (told.command, told.commit) == (row["command"], row["commit"])
    assert (ROOT / row["run"] / "manifest.yaml").is_file() and (ROOT / row["run"] / "metrics.csv").is_file()  # its log
    assert abs(float(row["top1"]) - float(row["top1_run"])) <= 0.002  # what float16 and bfloat16 may change
    with safe_open(path, "np") as file:
        assert json.loads(file.metadata()["resnet_tf"])["network"] == name
    resnet_tf.create_model(name, weights="cifar10")


@pytest.fixture(scope="module")
def first_images(real_data, tmp_path_factory):
    """The first 1,000 test images of CIFAR-10, and one training image for each file."""
    with tarfile.open(real_data / "cifar10_lossless.tar") as tar:
        sprite = np.asarray(Image.open(tar.extractfile("cifar10/test_00.webp")).convert("RGB"))
        labels = np.load(io.BytesIO(tar.extractfile("cifar10/y_test.npy").read()))[:1000]
    images = sprite.reshape(-1, 32, 40, 32, 3).transpose(0, 2, 1, 3, 4).reshape(1000, 32, 32, 3)
    return binary(tmp_path_factory.mktemp("cifar10"), {"train": (images[:5], labels[:5]), "test": (images, labels)})


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_a_network_is_right_about_as_many_test_images_as_its_row_says(name, first_images):
    scores = resnet_tf.evaluate(network=name, init_from="cifar10", data_dir=str(first_images))
    assert scores["examples"] == 1000
    assert round(1000 * scores["top1"]) == int(ROWS[name]["right_of_first_1000"])
