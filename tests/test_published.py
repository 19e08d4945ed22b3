"""Published weights by their tags, and folders in the layout of the Hugging Face hub."""

import numpy as np
import pytest

import resnet_tf
from resnet_tf import InputError
from resnet_tf.models import architectures, preprocessing, published, weights


def test_the_table_names_rows_of_networks_and_gives_facts_that_fit():
    table = published.table()
    assert sum(tag.library == "timm" for tag in table.values()) == 174
    for tag in table.values():
        assert not tag.row or tag.row in architectures.TABLE
        assert tag.reason or tag.row
        assert not tag.top1 or 60 < tag.top1 < 90 or tag.network == "test_resnet"  # percent, not shares
        assert not tag.crop or 0.8 < tag.crop <= tag.test_crop <= 1
        assert tag.library != "timm" or (tag.hub == f"timm/{tag.tag}" and tag.parameters > 1e5 and tag.gmacs > 0.1)
        if tag.library in ("timm", "torchvision"):  # benchmarks/peers/make_tags.py --rows writes them anew
            assert tag.row == _row_or_none(tag.network), tag.tag


def _row_or_none(network):
    try:
        return architectures.of_timm(network)
    except InputError:
        return ""


def test_parameters_and_macs_of_timm_are_those_of_our_rows():
    for name in ("resnet18.tv_in1k", "resnet50d.ra2_in1k", "resnetv2_101.a1h_in1k"):
        tag = published.find(name)
        cost = resnet_tf.cost(resnet_tf.create_model(tag.row, graph="timm" if "v2_18" in name else None))
        assert cost.trainable_parameters == tag.parameters
        assert cost.gmacs == pytest.approx(tag.gmacs, abs=6e-4)  # rounded to 1e-3


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


def test_a_tag_of_another_graph_names_its_row():
    with pytest.raises(InputError, match=r"^weights=resnet50d.ra2_in1k: weights of resnet50_v1d, not of resnet50_v1b$"):
        resnet_tf.create_model("resnet50_v1b", weights="timm/resnet50d.ra2_in1k")
    with pytest.raises(InputError, match="keras_hub/resnet_vd_50_imagenet: does not load: the names"):
        resnet_tf.create_model("resnet50_v1d", weights="keras_hub/resnet_vd_50_imagenet")


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
