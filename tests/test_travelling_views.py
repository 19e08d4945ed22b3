"""What images weights expect, travelling with them: into evaluation, fine-tuning, export, and folders of the hub."""

import json

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import resnet_tf
from resnet_tf import InputError, config, convert, export, train
from resnet_tf.data import colour, geometry
from resnet_tf.evaluation import scored
from resnet_tf.models import hub, preprocessing, weights
from resnet_tf.runs import network
from resnet_tf.serving import hub_folder
from resnet_tf.training import choices, expectations

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def views_of(network, init_from, **flags):
    """The settings with which evaluation scores imported weights."""
    flags = {"network": network, "init_from": init_from, "dataset": "folder", "data_dir": "photos"} | flags
    settings = config.from_settings(config.EvaluateConfig, flags, "evaluate")
    found = scored._with_their_views(settings.evaluation, settings.imported)
    return found.image_size, found.resize, found.interpolation, found.normalization


def test_evaluation_takes_the_views_of_tags_unless_flags_say_otherwise():
    tag = "resnet50d.ra4_e3600_r224_in1k"
    assert views_of("resnet50_v1d", tag) == (288, 288, "bicubic", "inception")
    assert views_of("resnet50_v1d", "imagenet") == (288, 288, "bicubic", "inception")  # the same weights
    assert views_of("resnet50_v1b", "timm/resnet50.a3_in1k") == (224, 235, "bicubic", "imagenet")
    assert views_of("resnet50_v1b", "resnet50.tv_in1k") == (224, 256, "bilinear", "imagenet")
    assert views_of("resnet50_v1", "imagenet") == (224, 256, "bilinear", "caffe")
    flags = {"image_size": 224, "resize": 256, "interpolation": "bilinear", "normalization": "imagenet"}
    assert views_of("resnet50_v1d", tag, **flags) == (224, 256, "bilinear", "imagenet")
    assert views_of("resnet50_v1d", tag, image_size=224)[:2] == (224, 224)  # the share of the crop stays


def test_evaluation_refuses_what_cannot_be():
    with pytest.raises(InputError, match="weights of resnet50_v1d, not of resnet50_v1b"):
        views_of("resnet50_v1b", "resnet50d.ra2_in1k")
    with pytest.raises(InputError, match="nearest tags are"):
        views_of("resnet50_v1b", "resnet50.a9_in1k")
    with pytest.raises(InputError, match="--image_size is not set"):
        views_of("resnet50_v1b", __file__)  # a file, which does not say what images it expects


@pytest.mark.parametrize(
    "origin, named",
    [
        ("resnet50d.ra2_in1k", "--init_from=resnet50d.ra2_in1k: weights of resnet50_v1d, not of --model=resnet50_v1b"),
        ("ecaresnet50d_pruned.miil_in1k", "--init_from=ecaresnet50d_pruned.miil_in1k: does not load: its channels are"),
        ("timm/resnet50.a9_in1k", "timm/resnet50.a9_in1k: no such published weights; the nearest tags are"),
        ("resnet50_v1b:no_file", "--init_from=resnet50_v1b:no_file: there is no file no_file"),
        ("nothing", "--init_from=nothing: no run, no exported model, no folder of config.json"),
    ],
)
def test_training_refuses_weights_of_another_network_before_it_begins(origin, named, tmp_path, capsys):
    flags = ["--model=resnet50_v1b", "--dataset=synthetic", f"--init_from={origin}",
             "--train_steps=1", f"--out={tmp_path}/run"]  # fmt: skip
    assert train.main(flags) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert named in line and not (tmp_path / "run").exists()


def test_an_option_that_a_row_cannot_have_is_refused_with_a_tag():
    with pytest.raises(InputError, match="--shortcut=A: resnet50_v1b has bottlenecks"):
        resnet_tf.create_model("resnet50_v1b", shortcut="A")
    with pytest.raises(InputError, match="--interpolation "):
        config.from_settings(config.TrainConfig, {"interpolation": "bicubic", "dataset": "digits"}, "fit")


def test_fine_tuning_takes_normalization_scaling_and_crop():
    theirs = choices._settings_of("resnet50d.ra4_e3600_r224_in1k")
    assert theirs == {
        "model": "resnet50_v1d", "normalization": "inception", "interpolation": "bicubic", "crop": (224, 235)
    }  # fmt: skip
    assert choices._settings_of("resnet50_v1b:timm/resnet50.a1_in1k")["crop"] == (224, 235)
    assert network.expected_of("init_from", f"resnet50_v1b:{__file__}") is None


def warned(init_from, kind, was_chosen=False, config_type=config.TrainConfig, **flags):
    """The warning of a training whose images have the normalization `kind`, a key of `colour.PUBLISHED` or levels."""
    flags = {"init_from": init_from, "train_steps": 1, "dataset": "folder", "data_dir": "photos"} | flags
    if config_type is config.TrainConfig:
        flags = {"view": "random_resized_crop", "image_size": 224, "resize": 256} | flags
    named = isinstance(kind, str)
    settings = config.from_settings(config_type, flags | ({"normalization": kind} if named else {}), "fit")
    normalization = colour.PUBLISHED[kind] if named else colour.Normalization(*kind)
    return expectations.warning(settings, normalization, was_chosen)


def test_fine_tuning_says_which_flags_give_what_weights_expect():
    inception = "resnet50d.ra4_e3600_r224_in1k"
    v1b, v1d = {"model": "resnet50_v1b"}, {"model": "resnet50_v1d"}
    assert warned("resnet50.tv_in1k", "imagenet", **v1b) == ""
    assert warned(inception, "inception", **v1d, interpolation="bicubic", resize=235) == ""
    test = {"image_size": 192, "eval_size": 288, "resize": 288}  # the size at which they are tested
    assert warned(inception, "inception", **v1d, interpolation="bicubic", **test) == ""
    line = warned(inception, "imagenet", **v1d)
    assert line == (
        f"--init_from={inception}: its weights expect other images than they get: --normalization=inception (mean 128 "
        "and deviation 128, not 124 117 104 and 58.4 57.1 57.4); --interpolation=bicubic; --image_size=224 --resize=235"
    )
    assert "--image_size" not in warned(inception, "imagenet", was_chosen=True, **v1d)
    assert "--normalization=imagenet" in warned("resnet50.tv_in1k", "inception", **v1b)
    # Statistics of the images: of photographs near enough, of dark ones not; and a mean image.
    levels = np.array([122, 116, 106], np.float32), np.full(3, 70, np.float32)
    assert warned("resnet50.tv_in1k", levels, **v1b) == ""
    assert warned("resnet50.tv_in1k", (np.full((224, 224, 3), levels[0]), np.float32(70)), **v1b) == ""
    line = warned("resnet50.tv_in1k", (levels[0] / 4, levels[1]), **v1b)
    assert "--normalization=imagenet (mean 124 116 104" in line and "--interpolation" not in line
    line = warned("resnet50_v1:imagenet", "imagenet", model="resnet50_v1")  # keras.applications, whose deviation is 1
    assert "and deviation 1, not 124 117 104 and 58.4 57.1 57.4, which no --normalization gives" in line
    held = {"view": "pad_crop", "image_size": 32, "resize": 0, "dataset": "digits", "data_dir": ""}
    assert warned("resnet50.a1_in1k", "imagenet", **held, **v1b) == ""  # small images are as they are
    assert warned(f"resnet50_v1b:{__file__}", "inception", **v1b) == warned("", "inception", **v1b) == ""


def test_other_tasks_say_it_of_what_they_have_flags_for():
    flags = {"data_dir": "photos", "dataset": "camvid", "model": "resnet50_v1d", "config_type": config.SegmentConfig}
    line = warned("resnet50d.ra4_e3600_r224_in1k", "imagenet", **flags)
    assert line.endswith("and 58.4 57.1 57.4)") and "--normalization=inception" in line
    assert warned("resnet50d.ra4_e3600_r224_in1k", "inception", **flags) == ""


@pytest.mark.parametrize("labels", [("b", "a", "c"), ()])
def test_a_head_of_a_folder_is_copied_by_the_names_of_its_classes(labels, tmp_path):
    theirs = resnet_tf.create_model("resnet18_v1b", num_classes=3, seed=5)
    expected = preprocessing.of_published("resnet18.tv_in1k")
    weights.save(theirs, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(hub_folder.describe(theirs, expected, labels)))
    settings = config.from_settings(
        config.TrainConfig, {"model": "resnet18_v1b", "dataset": "digits", "train_steps": 1}, "fit"
    )
    trained = network.load("init_from", str(tmp_path), settings)
    assert trained.classes == (list(labels) or None)
    ours = resnet_tf.create_model("resnet18_v1b", num_classes=3, input_shape=(32, 32, 3), seed=6)
    network.start_from(ours, trained, ["a", "b", "c"])
    order = [1, 0, 2] if labels else [0, 1, 2]
    kernels = [np.asarray(model.get_layer("logits").kernel) for model in (ours, theirs)]
    np.testing.assert_array_equal(kernels[0], kernels[1][:, order])


@pytest.fixture(scope="module")
def bicubic(tmp_path_factory):
    """A run with bicubic views, and its exported model."""
    folder = tmp_path_factory.mktemp("bicubic")
    for index in range(8):
        path = folder / "data" / ("train" if index < 4 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (47 + index, 61, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    flags = ["--dataset=folder", "--view=random_resized_crop", f"--data_dir={folder}/data", "--image_size=32",
             "--resize=36", "--interpolation=bicubic", "--normalization=imagenet", "--model=cifar_resnet8_v1",
             "--batch_size=2", "--train_steps=1", f"--out={folder}/run"]  # fmt: skip
    assert train.main(flags) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/model"]) == 0
    return folder


def test_a_run_with_bicubic_views_is_served_with_them(bicubic):
    photo = bicubic / "data" / "test" / "a" / "6.png"
    view = geometry.center(photo.read_bytes(), 32, 36, None, "bicubic").numpy()
    with Image.open(photo) as image:  # of 61 x 53 pixels
        sides = (61 * 36 // 53, 36)
        whole = image.resize(sides, Image.Resampling.BICUBIC)
        left, top = (round((side - 32) / 2) for side in sides)
        np.testing.assert_array_equal(view, np.asarray(whole)[top : top + 32, left : left + 32])
    loaded = tf.saved_model.load(str(bicubic / "model" / "1"))
    served = loaded.signatures["serving_default"](image_bytes=tf.constant([photo.read_bytes()]))["probabilities"]
    # The crop itself needs no scaling: the signature of images only cuts it.
    pixels = np.pad(view, ((2, 2), (2, 2), (0, 0)))
    of_crop = loaded.signatures["images"](images=tf.constant(pixels[None]))["probabilities"]
    np.testing.assert_allclose(served, of_crop, rtol=0, atol=1e-6)  # float32 of probabilities, the same pixels
    card = json.loads((bicubic / "model" / "1" / "model.json").read_text())
    assert card["interpolation"] == "bicubic" and "bicubic" in card["preprocessing"]["words"][1]
    for source in (bicubic / "run", bicubic / "model"):
        expected = resnet_tf.preprocessing_of(source)
        assert (expected.size, expected.resize, expected.interpolation) == (32, 36, "bicubic")
    ((_, classes, error),) = resnet_tf.predict(bicubic / "run", photo, top_k=2)
    assert error is None
    by_name = dict(classes)
    np.testing.assert_allclose([by_name["a"], by_name["b"]], served[0], rtol=0, atol=1e-6)


def test_a_run_goes_to_the_hub_with_its_views(bicubic, tmp_path, monkeypatch):
    # As if timm had this network, since those that it has take longer to train.
    monkeypatch.setattr(hub, "timm_name", {"cifar_resnet8_v1": "resnet18"}.get)
    assert convert.main([f"--run={bicubic}/run", f"--out={tmp_path}/folder", "--format=hub"]) == 0
    told = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert told["label_names"] == ["a", "b"] and told["pretrained_cfg"]["interpolation"] == "bicubic"
    assert told["pretrained_cfg"]["crop_pct"] == 32 / 36 and told["pretrained_cfg"]["input_size"] == [3, 32, 32]
    theirs = resnet_tf.preprocessing_of(tmp_path / "folder")
    ours = resnet_tf.preprocessing_of(bicubic / "run")
    assert (theirs.size, theirs.resize, theirs.interpolation) == (ours.size, ours.resize, ours.interpolation)
    np.testing.assert_allclose(theirs.mean, ours.mean, rtol=0, atol=1e-3)
    assert (told["num_features"], told["pretrained_cfg"]["first_conv"]) == (64, "conv1")


def test_a_training_from_a_folder_of_the_hub_warns_once(bicubic, tmp_path, caplog):
    model = resnet_tf.create_model("test_resnet", num_classes=2)
    weights.save(model, tmp_path / "model.safetensors")
    expected = preprocessing.of_published("resnet18d.ra4_e3600_r224_in1k")
    (tmp_path / "config.json").write_text(json.dumps(hub_folder.describe(model, expected, ("a", "b"))))
    flags = ["--dataset=folder", "--view=random_resized_crop", f"--data_dir={bicubic}/data", "--image_size=32",
             "--model=test_resnet", f"--init_from={tmp_path}", "--batch_size=2", f"--out={tmp_path}/run"]  # fmt: skip
    assert train.main([*flags, "--train_steps=1"]) == 0
    (line,) = [record.getMessage() for record in caplog.records if "other images" in record.getMessage()]
    assert "--normalization=inception" in line and "--interpolation=bicubic" in line
    caplog.clear()
    assert train.main([*flags, "--train_steps=2", "--extend"]) == 0  # goes on, and has said it
    assert not [record for record in caplog.records if "other images" in record.getMessage()]
