"""What --auto chooses, and that nothing which is set is chosen; recipes by name."""

import re
import shutil
import subprocess

import pytest
import yaml
from files import picture, unpack

import resnet_tf
from resnet_tf import config as configuration
from resnet_tf import evaluate, train
from resnet_tf.config import TrainConfig, from_settings, recipes
from resnet_tf.errors import InputError
from resnet_tf.models import fetching, weights
from resnet_tf.runs import record
from resnet_tf.training import choices, facts

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

TINY = ("--model=cifar_resnet8_v1", "--train_epochs=1", "--page=false", "--image_size=32")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes of twelve pictures of 40 x 48 pixels, in folders."""
    names = [f"{label}/{number}.png" for label in ("cat", "dog", "owl") for number in range(12)]
    return unpack(tmp_path_factory.mktemp("data") / "photos", {
        name: picture(seed, size=(40, 48)) for seed, name in enumerate(names)
    })  # fmt: skip


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    monkeypatch.setattr(facts, "_can_download", lambda name: False)


def chosen(differing=(), splits=("train", "validation"), **given):
    """Settings that are chosen for facts that differ from those of 8,500 photos on an H200."""
    known = {
        "images": 8500, "side": 300, "size": None, "on_gpu": True, "replicas": 1, "memory": 140 * 2**30, "half": True,
        "weights": "",
    } | dict(differing)  # fmt: skip
    recipe = recipes.settings(TrainConfig, "photos")
    given = {"init_from": known["weights"]} | given
    names = set(recipe["auto"]) - set(given)
    settings = configuration.settings_of(from_settings(TrainConfig, recipe | given | {"data_dir": "x"}, "test"))
    state = choices._Chosen(names, {name: value for name, value in settings.items() if name not in names}, {})
    source = resnet_tf.data.Source("folder", ("a", "b"), dict.fromkeys(splits))
    choices._fill(state, facts.Facts(**known), source)
    values = {name: field.default for name, field in configuration.fields_of(TrainConfig).items()}
    values |= state.given | state.values | {"auto": ()}
    from_settings(TrainConfig, values, "test")  # every combination of choices can work
    return values


CPU = {"on_gpu": False, "half": False, "memory": 0}


@pytest.mark.parametrize("weights_of", ["", "resnet18_v1b:random"])
@pytest.mark.parametrize("on", [{}, CPU, {"memory": 8 * 2**30, "half": False}, {"replicas": 3}, CPU | {"replicas": 2}])
@pytest.mark.parametrize("images", [4, 7, 150, 999, 5000, 25_000, 10**6])
def test_all_choices_work_together(images, on, weights_of):
    values = chosen(on | {"images": images, "weights": weights_of})
    assert values["batch_size"] <= images and values["batch_size"] % on.get("replicas", 1) == 0
    scratch = "resnet50_v1d" if images > 1000 and on is not CPU and "on_gpu" not in on else "resnet18_v1d"
    assert values["model"] == ("resnet18_v1b" if weights_of else scratch)
    assert bool(values["freeze"]) == (bool(weights_of) and (images <= 20_000 or "on_gpu" in on))


def test_choices_follow_images_and_memory():
    large = chosen()
    assert (large["batch_size"], large["precision"], large["hold_images"]) == (256, "float16", False)
    small = chosen({"memory": 8 * 2**30, "half": False})
    assert small["batch_size"] < 256 and small["precision"] == "float32"
    # The learning rate falls with the batch.
    assert small["lr"] / small["batch_size"] == pytest.approx(large["lr"] / large["batch_size"])
    assert chosen({"size": (192, 192), "side": 192})["hold_images"]
    # Views of long images may shrink them so much that held pixels would have to be averaged.
    assert not chosen({"size": (192, 400), "side": 192})["hold_images"]
    # Views are no larger than the images.
    assert (chosen({"side": 70})["image_size"], chosen({"side": 70})["eval_size"]) == (64, 0)
    assert chosen({"side": 20})["image_size"] == 32
    assert not chosen(splits=("train", "test"))["stop_after"]


def test_imagenette_on_a_large_gpu_gets_what_was_measured():
    """The flags of the training with the figure in docs/photos.md."""
    measured = {
        "model": "resnet50_v1d", "hold_images": True, "area": (0.25, 1.0), "image_size": 160, "eval_size": 192,
        "resize": 192, "zero_gamma": True, "label_smoothing": 0.1, "optimizer": "nesterov", "weight_decay": 5e-4,
        "schedule": "cosine", "warmup_epochs": 5.0, "batch_size": 256, "lr": 0.2, "precision": "float16",
        "eval_epochs": 1.0, "finish_on": "best", "train_epochs": 250.0, "color_jitter": (0.3, 0.0, 0.3, 0.1),
        "mixup": 0.2, "cutmix": 1.0, "normalization": "imagenet", "view": "random_resized_crop",
    }  # fmt: skip
    values = chosen({"images": 8523, "side": 192, "size": (192, 192)})
    assert {name: values[name] for name in measured} == measured


def test_facts_of_gpus(photos, monkeypatch):
    """Two stand-ins for GPUs: the older and the smaller one count; images of one size are found to be so."""
    monkeypatch.setattr(facts.devices, "has_gpu", lambda: True)
    monkeypatch.setattr(facts.tf.config, "list_physical_devices", lambda kind: ["new", "old"])
    details = {"new": {"compute_capability": (9, 0)}, "old": {"compute_capability": (7, 5)}}
    monkeypatch.setattr(facts.tf.config.experimental, "get_device_details", details.get)
    answer = subprocess.CompletedProcess([], 0, "143771\n15360\n")
    monkeypatch.setattr(facts.subprocess, "run", lambda *arguments, **options: answer)
    train_split = resnet_tf.data.index("folder", str(photos)).splits["train"]
    found = facts.of(train_split, 0, "")
    assert (found.on_gpu, found.replicas, found.half, found.memory) == (True, 2, True, 15360 * 2**20)
    assert (found.images, found.side, found.size) == (36, 40, (40, 48))
    monkeypatch.setattr(facts.subprocess, "run", lambda *arguments, **options: fail())
    details["old"] = {"compute_capability": (6, 1)}
    assert facts.of(train_split, 1, "")[4:7] == (1, 8 * 2**30, False)  # the driver does not say: an assumption


def fail():
    raise FileNotFoundError("nvidia-smi")


@pytest.mark.parametrize("given", [
    {"batch_size": 128}, {"image_size": 32}, {"train_epochs": 3.0}, {"lr": 0.1}, {"precision": "float32"},
    {"mixup": 0.0}, {"eval_size": 0}, {"freeze": ()}, {"finish_on": "last"}, {"stop_after": 0},
])  # fmt: skip
def test_a_flag_that_is_set_is_not_chosen_even_at_its_default(given):
    ((name, value),) = given.items()
    assert chosen(**given)[name] == value
    assert chosen()[name] != value or name in ("eval_size", "freeze")


def test_a_folder_of_photos_in_one_command(photos, tmp_path, monkeypatch, capsys, last_json):
    """The run records what was chosen and how it was split; the same command resumes; other images are another run."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "photos"
    shutil.copytree(photos, folder)
    flags = ["--recipe=photos", "--data_dir=photos", *TINY]
    assert train.main(flags) == 0
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert any(
        re.match(r"data     train 29 images, validation 7, 3 classes; split by seed 0: 20% of", one) for one in lines
    )
    assert any(one.startswith("network  cifar_resnet8_v1, ") and "from scratch" in one for one in lines)
    assert any(one.startswith("device   ") for one in lines) and any(one.startswith("length   ") for one in lines)
    assert any(
        re.match(r"Right for \d of 7 validation images: [\d.]+% \(95% interval \d+ to \d+%\)", one) for one in lines
    )
    assert any("warning: no pretrained weights for" in one for one in lines)
    (run,) = (tmp_path / "runs").iterdir()
    manifest = yaml.safe_load((run / "manifest.yaml").read_text())
    assert manifest["chosen"]["validation_share"].startswith("0.2: 36 images, fewer than 1,000")
    assert (
        not set(manifest["chosen"]) & {"model", "train_epochs", "image_size", "page"} and not manifest["flags"]["auto"]
    )
    assert len((run / "split.csv").read_text().splitlines()) == 37
    # Again, and evaluated: the split is the recorded one although a photo came since.
    assert train.main(flags) == 0
    assert [run] == list((tmp_path / "runs").iterdir())
    (folder / "cat" / "new.png").write_bytes(picture(99, size=(40, 48)))
    capsys.readouterr()
    assert evaluate.main([f"--run={run}", "--split=validation"]) == 0
    assert last_json()["examples"] == 7
    # The same from Python.
    settings = {"model": "cifar_resnet8_v1", "epochs": 1.0, "page": False, "image_size": 32}
    result = resnet_tf.fit(recipe="photos", data_dir="photos", **settings)
    (other,) = set((tmp_path / "runs").iterdir()) - {run}
    assert result.run_dir.name == other.name and record.open_run(other).config.data.validation_share == 0.2
    assert result["examples"] == 7 and len((other / "split.csv").read_text().splitlines()) == 38


def test_weights_at_hand_are_taken(photos, tmp_path, monkeypatch):
    """The network is that of the weights; published ones are taken where they can be had."""
    path = tmp_path / "r18.weights.h5"
    weights.save(resnet_tf.create_model("resnet18_v1b", num_classes=5), path)
    config = from_settings(
        TrainConfig,
        recipes.settings(TrainConfig, "photos") | {"data_dir": str(photos), "init_from": f"resnet18_v1b:{path}"},
        "test",
    )
    choice = choices.choose(config)
    assert choice.config.model.model == "resnet18_v1b" and choice.config.model.freeze[-1] == "stage4"
    assert not choice.warnings
    monkeypatch.setattr(facts, "_can_download", lambda name: True)
    monkeypatch.setattr(fetching, "fetch", lambda name: str(path))
    config = from_settings(TrainConfig, recipes.settings(TrainConfig, "photos") | {"data_dir": str(photos)}, "test")
    choice = choices.choose(config)
    assert choice.config.model.init_from == "resnet18_v1d:imagenet" and not choice.warnings


def test_auto_weights_without_a_recipe(photos, monkeypatch):
    """--init_from=auto alone chooses nothing else."""
    flags = {"dataset": "folder", "data_dir": str(photos), "view": "random_resized_crop", "model": "resnet18_v1b"}
    flags |= {"train_epochs": 1.0, "image_size": 32, "batch_size": 8, "validation_share": 0.2}
    config = from_settings(TrainConfig, flags | {"init_from": "auto"}, "test")
    choice = choices.choose(config)
    assert choice.config.model.init_from == "" and "no pretrained weights for resnet18_v1b" in choice.warnings[0]
    assert set(choice.reasons) == {"init_from"} and choice.config.optimizer == config.optimizer
    monkeypatch.setattr(facts, "_can_download", lambda name: True)
    monkeypatch.setattr(fetching, "fetch", lambda name: "file")
    assert choices.choose(config).config.model.init_from == "resnet18_v1b:imagenet"


def test_recipes_are_found_by_name(capsys):
    assert train.main(["--list_recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(recipes.names()) and any(line.startswith("photos ") for line in lines)
    assert train.main(["--recipe=photo"]) == 1
    assert "--recipe=photo: no such recipe; the nearest are photos" in capsys.readouterr().err
    assert train.main(["--recipe=photos", "--recipe=demo"]) == 1
    assert "name one" in capsys.readouterr().err
    expanded = recipes.expanded(["--out=x", "--recipe", "demo"])
    assert expanded == [f"--flagfile={recipes.path('demo')}", "--out=x"]


def test_names_from_elsewhere_and_near_misses(capsys):
    assert train.main(["--dataset=synthetic", "--epochs=0", "--learning_rate=1", "--batch", "64"]) == 1
    assert "--train_epochs=0" in capsys.readouterr().err  # known, and refused for its value
    assert train.main(["--trainepochs=3"]) == 2
    assert capsys.readouterr().err.strip() == (
        "error: unknown flag --trainepochs; the nearest is --train_epochs (see --help)"
    )
    with pytest.raises(InputError, match="unknown setting zero_gama; the nearest is zero_gamma"):
        resnet_tf.fit(zero_gama=True)


def test_help_begins_with_examples_and_data(capsys):
    assert train.main(["--help"]) == 0
    text = capsys.readouterr().out
    assert text.index("train --recipe=photos --data_dir=photos") < text.index("\nData:") < text.index("\nModel:")
    assert text.count("  python -m resnet_tf.train") == 3
