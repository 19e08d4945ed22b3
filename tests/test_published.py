"""Published weights by their tags, and folders in the layout of the Hugging Face hub."""

import functools
import importlib.util
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import resnet_tf
from resnet_tf import InputError, convert, list_networks
from resnet_tf.models import architectures, hub, preprocessing, published, weights
from resnet_tf.runs import network


def test_the_table_names_rows_of_networks_and_gives_facts_that_fit():
    table = published.table()
    assert sum(tag.publisher == "timm" for tag in table.values()) == 174
    for tag in table.values():
        assert not tag.row or tag.row in architectures.TABLE
        assert tag.reason or tag.row
        assert not tag.top1 or 60 < tag.top1 < 90 or tag.network == "test_resnet"  # percent, not shares
        assert not tag.crop or 0.8 < tag.crop <= tag.test_crop <= 1
        assert tag.publisher != "timm" or (tag.hub == f"timm/{tag.tag}" and tag.parameters > 1e5 and tag.gmacs > 0.1)
        if tag.publisher in ("timm", "torchvision"):  # benchmarks/peers/make_tags.py --rows writes them anew
            assert tag.row == _row_or_none(tag.network), tag.tag


def _row_or_none(network):
    try:
        return architectures.of_timm(network)
    except InputError:
        return ""


def costs_of_tags(wanted):
    """Check parameters and GMACs, counted by hooks in timm, of every tag that `wanted` takes."""
    costs = functools.cache(resnet_tf.models.cost_by_name)
    for tag in filter(wanted, published.table().values()):
        graph = "timm" if tag.row in ("resnet18_v2", "resnet34_v2") else ""
        cost = costs(tag.row, "", tag.size, tag.classes, graph)
        assert cost.trainable_parameters == tag.parameters, tag.tag
        assert cost.gmacs == pytest.approx(tag.gmacs, abs=6e-4, rel=1e-5), tag.tag  # rounded to 1e-3


def test_parameters_and_macs_of_timm_are_those_of_our_rows():
    plain = re.compile(r"resnet\d+_v\w+")
    costs_of_tags(lambda tag: tag.publisher == "timm" and tag.classes and plain.fullmatch(tag.row))


@pytest.mark.skipif(
    not importlib.util.find_spec("resnet_tf.models.variants"), reason="networks of timm's names cannot be built yet"
)
def test_parameters_and_macs_of_every_tag():
    costs_of_tags(lambda tag: tag.publisher == "timm" and tag.classes and not tag.reason)


def test_what_imagenet_means():
    best = {row: tag.tag for row, tag in published.best().items()}
    assert best["resnet50_v1b"] == "resnet50.a1_in1k" and best["resnet50_v1d"] == "resnet50d.ra4_e3600_r224_in1k"
    assert best["resnet50_v1"] == "ResNet50" and best["resnet34_v1"] == best["resnet34_v1b"]
    assert best["resnet200_v1d"] == "resnet200d.ra2_in1k"
    assert best["resnetv2_34d"] == "resnetv2_34d.ra4_e3600_r224_in1k"  # the one of 384 pixels is tested at 448
    assert best["resnetaa101d"] == "resnetaa101d.sw_in12k_ft_in1k"  # there is none of ImageNet-1k alone
    for row, tag in published.best().items():
        assert tag.classes == 1000 and "-nc-" not in tag.licence and not tag.reason
        assert published.are_one(row, tag.row) and published.best_of(row) == tag
    with pytest.raises(InputError, match=r"published for resnext101_32x16d, by name there are resnext101_32x16d.fb_"):
        published.best_of("resnext101_32x16d")  # all of them forbid commercial use


def test_a_tag_that_is_not_there():
    with pytest.raises(InputError) as error:
        resnet_tf.create_model("resnet50_v1b", weights="resnet50.a1_in2k")
    message, _, tags = str(error.value).partition(" the nearest tags are ")
    assert message == "resnet50.a1_in2k: no such published weights;"
    assert "resnet50.a1_in1k" in tags and len(tags.split(", ")) == 3
    with pytest.raises(InputError, match="nearest tags are"):
        resnet_tf.create_model("resnet50_v1b", weights="timm/nothing_like_it")
    with pytest.raises(InputError, match=r"^resnet50.safetensors: no such file$"):  # a file, not a tag
        resnet_tf.create_model("resnet50_v1b", weights="resnet50.safetensors")


def test_a_tag_of_another_graph_names_its_row():
    with pytest.raises(InputError, match=r"^weights=resnet50d.ra2_in1k: weights of resnet50_v1d, not of resnet50_v1b$"):
        resnet_tf.create_model("resnet50_v1b", weights="timm/resnet50d.ra2_in1k")
    with pytest.raises(InputError, match="keras_hub/resnet_vd_18_imagenet: does not load: the shortcut of its first"):
        resnet_tf.create_model("resnet18_v1d", weights="keras_hub/resnet_vd_18_imagenet")


def test_a_tag_that_cannot_be_fetched_says_which_file(monkeypatch):
    import huggingface_hub

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(InputError) as error:
        resnet_tf.create_model("resnet50_v1d", weights="resnet50d.ra2_in1k")
    assert str(error.value) == (
        "weights=resnet50d.ra2_in1k: timm/resnet50d.ra2_in1k/model.safetensors of the Hugging Face hub cannot be "
        "downloaded (no network); without a network, copy the file model.safetensors from another machine and give its "
        "path as weights (--init_from, --source)"
    )


def test_a_tag_is_fetched_and_loaded(monkeypatch, tmp_path):
    import huggingface_hub

    model = resnet_tf.create_model("resnet18_v1d", input_shape=(64, 64, 3), seed=3)
    weights.save(model, tmp_path / "model.safetensors")
    asked = []

    def download(repository, file):
        asked.append((repository, file))
        return str(tmp_path / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    other = resnet_tf.create_model("resnet18_v1d", input_shape=(64, 64, 3), weights="timm/resnet18d.ra2_in1k")
    assert asked == [("timm/resnet18d.ra2_in1k", "model.safetensors")]
    np.testing.assert_array_equal(other.weights[0], model.weights[0])


def test_preprocessing_of_every_tag():
    for name, tag in published.table().items():
        if tag.crop:
            for tested in (False, True):
                view = preprocessing.of_published(name, tested)
                assert view.size <= view.resize and view.interpolation in ("bilinear", "bicubic")
        else:
            with pytest.raises(InputError, match="does not say what images it expects"):
                preprocessing.of_published(name)
    tested = preprocessing.of_published("resnet50d.ra4_e3600_r224_in1k", tested=True)
    assert (tested.size, tested.resize) == (288, 288)
    assert preprocessing.of_published("torchvision/resnet50.IMAGENET1K_V2").resize == 232  # torchvision's own number


# --- Commands --------------------------------------------------------------------------------------------------------


def test_the_list_of_published_weights(capsys, last_json):
    assert list_networks.main(["--pretrained", "resnet50d.*"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("resnet50d.ra4_e3600_r224_in1k" in line and "81.84" in line and "imagenet)" in line for line in lines)
    assert list_networks.main(["--pretrained", "--json", "resnet34_v1", "ecaresnet50d_pruned.*", "ResNet50"]) == 0
    rows = {row["tag"]: row for row in last_json()["pretrained"]}
    assert rows["resnet34.tv_in1k"]["licence"] == "bsd-3-clause" and rows["resnet34.tv_in1k"]["parameters"] == 21797672
    assert "pruned" in rows["ecaresnet50d_pruned.miil_in1k"]["reason"] and rows["ResNet50"]["row"] == "resnet50_v1"
    assert list_networks.main(["--pretrained", "resnet50.a9_in1k"]) == 1
    assert "no such published weights; the nearest tags are resnet50." in capsys.readouterr().err


# --- Folders of the hub ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of resnet18_v1d for 64 pixels, written from a file of weights."""
    path = tmp_path_factory.mktemp("hub")
    model = resnet_tf.create_model("resnet18_v1d", num_classes=5, seed=3)
    weights.save(model, path / "source.safetensors")
    flags = [f"--source={path}/source.safetensors", "--model=resnet18_v1d", "--num_classes=5", "--licence=apache-2.0"]
    assert convert.main([*flags, f"--out={path}/folder", "--format=hub"]) == 0
    return path / "folder"


def test_a_folder_of_the_hub_goes_out_and_comes_back(folder):
    config = json.loads((folder / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("resnet18d", 5, 512)
    expected = config["pretrained_cfg"]
    assert (expected["first_conv"], expected["classifier"], expected["input_size"]) == ("conv1.0", "fc", [3, 224, 224])
    assert (folder / "README.md").read_text().startswith("---\nlibrary_name: timm\n")
    assert "license: apache-2.0" in (folder / "README.md").read_text()
    model = resnet_tf.create_model("resnet18_v1d", num_classes=5, seed=3)
    other = resnet_tf.create_model("resnet18_v1d", num_classes=5, weights=folder, head="keep")
    np.testing.assert_array_equal(other.get_layer("logits").kernel, model.get_layer("logits").kernel)
    view = resnet_tf.preprocessing_of(folder)
    assert (view.size, view.resize, view.interpolation) == (224, 256, "bilinear")
    assert view.mean == pytest.approx((123.675, 116.28, 103.53), abs=1e-3)
    assert network.locate("init_from", str(folder)) == "weights"
    assert network.name_of("init_from", str(folder)) == "resnet18_v1d"


def test_a_folder_of_another_network_and_a_damaged_one(folder, tmp_path):
    with pytest.raises(InputError, match="weights of resnet18_v1d, not of resnet50_v1b"):
        resnet_tf.create_model("resnet50_v1b", weights=folder)
    with pytest.raises(InputError, match=r"^--init_from=.*: weights of resnet18_v1d, not of --model=resnet18_v1b$"):
        network.locate("init_from", str(folder), "resnet18_v1b")
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    for text, named in (("{", "damaged"), ('{"architecture": "vit"}', "damaged"), ("[]", "damaged")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(InputError, match=rf"config.json: {named}"):
            resnet_tf.create_model("resnet18_v1d", weights=tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"] |= {"crop_pct": 0.95, "test_input_size": [3, 288, 288], "test_crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    views = [network.expected_of("init_from", str(tmp_path), tested) for tested in (False, True)]
    assert [(view.size, view.resize) for view in views] == [(224, 235), (288, 288)]  # as timm's files say
    config["architecture"] = "vit_base"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="architecture vit_base: no network here has its graph"):
        resnet_tf.create_model("resnet18_v1d", weights=tmp_path)


def test_names_of_timm_go_there_and_back():
    for name, row in published.rows().items():
        if row:
            assert hub.timm_name(row) == name
    for name in ("cifar_resnet20_v1", "resnet50_v1", "plain18"):
        with pytest.raises(InputError, match=f"--format=hub: timm has no {name}"):
            hub.timm_name(name)


def test_bad_input_of_the_hubs_format_leaves_nothing(folder, tmp_path, capsys):
    def refused(*flags):
        assert convert.main([*flags, "--format=hub"]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    assert "exists already" in refused("--model=resnet18_v1d", f"--source={folder}", f"--out={folder}")
    out = f"--out={tmp_path}/new"
    weights.save(resnet_tf.create_model("cifar_resnet8_v1"), tmp_path / "cifar.weights.h5")
    line = refused("--model=cifar_resnet8_v1", f"--source={tmp_path}/cifar.weights.h5", out)
    assert line == "error: --format=hub: timm has no cifar_resnet8_v1"
    assert "--run is not used" in refused("--model=resnet18_v1d", "--run=x", out)
    assert f"--run={tmp_path}/none: no such folder" in refused(f"--run={tmp_path}/none", out)
    assert not list(tmp_path.glob("*new*"))


@pytest.mark.slow
def test_timm_reads_the_folder(folder, tmp_path):
    """By the interpreter that RESNET_TF_PEER_PYTHON names, or this one, where it has timm."""
    script = (
        "import sys, numpy as np, torch, timm\n"
        "model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval()\n"
        "config = timm.data.resolve_model_data_config(model)\n"
        "assert list(config['input_size']) == [3, 224, 224] and config['interpolation'] == 'bilinear', config\n"
        "assert abs(config['crop_pct'] - 0.875) < 1e-6, config\n"
        "images = torch.from_numpy(np.load(sys.argv[2])).permute(0, 3, 1, 2)\n"
        "np.save(sys.argv[3], model(images).detach().numpy())\n"
    )
    images = np.random.default_rng(0).normal(size=(2, 64, 64, 3)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    python = os.environ.get("RESNET_TF_PEER_PYTHON") or sys.executable
    answer = subprocess.run(
        [python, "-c", script, str(folder), str(tmp_path / "images.npy"), str(tmp_path / "logits.npy")],
        capture_output=True, text=True,
    )  # fmt: skip
    if "No module named" in answer.stderr:
        pytest.skip(f"{python} has no timm")
    assert answer.returncode == 0, answer.stderr
    ours = resnet_tf.create_model("resnet18_v1d", num_classes=5, input_shape=(64, 64, 3), weights=folder, head="keep")
    # float32 sums in another order, over logits of about one
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), ours(images, training=False), rtol=0, atol=2e-5)
