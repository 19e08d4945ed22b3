"""Folders in the layout of keras-hub's presets, written here from this package's networks.

That ResNetBackbone of keras-hub 0.32 answers as the network here was checked by hand with its own folders, with names
and with numbers alone, for v1, vd and v2.
"""

import json
import re
import sys
import types

import h5py
import numpy as np
import pytest

import resnet_tf
from resnet_tf import InputError, config
from resnet_tf.data import colour
from resnet_tf.models import architectures, hub, keras_hub, preprocessing, published
from resnet_tf.runs import network

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")
CONVERTER = {
    "image_size": [224, 224], "scale": [1 / 255 / 0.229, 1 / 255 / 0.224, 1 / 255 / 0.225],
    "offset": [-0.485 / 0.229, -0.456 / 0.224, -0.406 / 0.225], "interpolation": "bicubic",
}  # fmt: skip


def their_name(layer, row):
    """The name in keras-hub of a layer here."""
    fixed = {"head_bn": "post_bn", "logits": "predictions", "stem_conv": "conv1_conv", "stem_bn": "conv1_bn"}
    if layer in fixed:
        return fixed[layer]
    if layer.startswith("stem_"):
        return re.sub(r"stem_(\w+)(\d)", r"conv\2_\1", layer)
    stage, block, part = re.fullmatch(r"stage(\d)_block(\d+)_(\w+)", layer).groups()
    part = part.replace("shortcut_conv", "0_conv").replace("shortcut_bn", "0_bn")
    if row.preactivation:
        part = {"bn1": "pre_activation_bn", "bn2": "1_bn", "bn3": "2_bn"}.get(part, part)
    return f"stack{int(stage) - 1}_block{int(block) - 1}_" + re.sub(r"^(conv|bn)(\d)$", r"\2_\1", part)


def config_of(row):
    deep = row.stem == "deep"
    return {
        "block_type": ("bottleneck" if row.bottleneck else "basic") + "_block" + "_vd" * (row.downsample == "avg_pool"),
        "use_pre_activation": row.preactivation, "stackwise_num_blocks": list(row.blocks),
        "stackwise_num_filters": [64, 128, 256, 512], "stackwise_num_strides": [1, 2, 2, 2],
        "input_conv_filters": [32, 32, 64] if deep else [64], "input_conv_kernel_sizes": [3, 3, 3] if deep else [7],
    }  # fmt: skip


def write(folder, model, row, named=True, head=True):
    """Write a folder as `save_to_preset` does; Keras counts the layers of a class in the order of the model."""
    folder.mkdir()
    counts = {}
    with h5py.File(folder / "model.weights.h5", "w") as trunk, h5py.File(folder / "task.weights.h5", "w") as task:
        for layer in model.layers:
            if not layer.weights or (layer.name == "logits" and not head):
                continue
            kind = {"Conv2D": "conv2d", "Dense": "dense"}.get(type(layer).__name__, "batch_normalization")
            number = counts.setdefault(kind, 0)
            counts[kind] += 1
            file = task if layer.name == "logits" else trunk
            group = file.create_group(f"layers/{kind}{f'_{number}' if number else ''}/vars")
            if named or kind == "dense":
                group.attrs["name"] = their_name(layer.name, row)
            for index, variable in enumerate(layer.weights):
                group[str(index)] = np.asarray(variable)
    config = {"class_name": "ResNetBackbone", "config": config_of(row)}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "image_converter.json").write_text(json.dumps({"config": CONVERTER}))
    if head:
        (folder / "task.json").write_text(json.dumps({"config": {"num_classes": model.output_shape[-1]}}))


def same(model, other):
    return all(np.array_equal(one, two) for one, two in zip(model.weights, other.weights, strict=True))


@pytest.mark.parametrize(
    "name, graph, named",
    [
        ("resnet18_v1b", None, False),
        ("resnet50_v1d", None, True),
        ("resnet50_v1d", None, False),
        ("resnet50_v2", None, False),
        ("resnet18_v2", "timm", True),
    ],
)
def test_weights_come_in_with_names_and_with_numbers(name, graph, named, tmp_path):
    row = architectures.as_in_timm(architectures.find(name)) if graph else architectures.find(name)
    model = resnet_tf.create_model(name, num_classes=5, graph=graph, seed=3)
    write(tmp_path / "preset", model, row, named)
    folder = hub.read(tmp_path / "preset")
    assert (folder.row, folder.classes, folder.labels) == (name, 5, ())
    view = resnet_tf.preprocessing_of(tmp_path / "preset")
    assert (view.size, view.resize, view.interpolation) == (224, 224, "bicubic")
    assert view.mean == pytest.approx((123.675, 116.28, 103.53)) and view.std == pytest.approx((58.395, 57.12, 57.375))
    other = resnet_tf.create_model(name, num_classes=5, weights=tmp_path / "preset", head="keep", seed=4)
    assert same(model, other)  # in the graph that the folder says


def test_a_folder_without_a_head_and_with_another_number_of_classes(tmp_path, caplog):
    row = architectures.find("resnet18_v1b")
    model = resnet_tf.create_model("resnet18_v1b", num_classes=5, seed=3)
    write(tmp_path / "trunk", model, row, head=False)
    assert keras_hub.read(tmp_path / "trunk")[1] == 0
    other = resnet_tf.create_model("resnet18_v1b", num_classes=3, weights=tmp_path / "trunk", seed=4)
    np.testing.assert_array_equal(
        model.get_layer("stage4_block2_conv2").kernel, other.get_layer("stage4_block2_conv2").kernel
    )
    assert network.locate("init_from", str(tmp_path / "trunk"), "resnet18_v1b") == "weights"
    assert network.name_of("init_from", str(tmp_path / "trunk")) == "resnet18_v1b"
    settings = config.from_settings(
        config.TrainConfig, {"model": "resnet18_v1b", "dataset": "digits", "train_steps": 1}, "fit"
    )
    trained = network.load("init_from", str(tmp_path / "trunk"), settings)
    np.testing.assert_array_equal(trained.model.get_layer("stem_conv").kernel, model.get_layer("stem_conv").kernel)
    assert trained.classes is None and trained.normalization is colour.PUBLISHED["imagenet"]
    (tmp_path / "trunk" / "image_converter.json").unlink()
    with pytest.raises(InputError, match="does not say what images it expects"):
        resnet_tf.preprocessing_of(tmp_path / "trunk")
    assert network.expected_of("init_from", str(tmp_path / "trunk")) is None


def test_folders_that_do_not_load_say_why(tmp_path):
    row, folder = architectures.find("resnet18_v1b"), tmp_path / "preset"
    write(folder, resnet_tf.create_model("resnet18_v1b", num_classes=5), row)
    with pytest.raises(InputError, match="weights of resnet18_v1b, not of resnet50_v1b"):
        resnet_tf.create_model("resnet50_v1b", weights=folder)
    config = config_of(row)
    for changed, reason in (
        ({"block_type": "basic_block_vd"}, "the shortcut of its first block is a projection"),
        ({"stackwise_num_blocks": [3, 12, 48, 3]}, "no network here has its basic_blocks 3 12 48 3 of 64 128 256 512"),
        ({"stackwise_num_strides": [1, 1, 1, 1]}, "no network here has"),
        ({"block_type": None}, "damaged, or not of a ResNet of keras-hub"),
    ):
        (folder / "config.json").write_text(json.dumps({"config": config | changed}))
        with pytest.raises(InputError, match=reason):
            keras_hub.read(folder)
    for text in ("{", "[]", "{}"):
        (folder / "config.json").write_text(text)
        with pytest.raises(InputError, match=r"config.json: damaged"):
            resnet_tf.create_model("resnet18_v1b", weights=folder)
    (folder / "config.json").write_text(json.dumps({"config": config}))
    with h5py.File(folder / "model.weights.h5", "a") as file:
        del file["layers/conv2d_7"]
    with pytest.raises(InputError, match="not the weights of resnet18_v1b: missing stage"):
        resnet_tf.create_model("resnet18_v1b", num_classes=5, weights=folder)
    (folder / "model.weights.h5").write_bytes(b"no HDF5")
    with pytest.raises(InputError, match=r"model.weights.h5: damaged, or no weights"):
        resnet_tf.create_model("resnet18_v1b", weights=folder)


def test_a_tag_is_fetched_as_a_folder(monkeypatch, tmp_path):
    tag = "keras_hub/resnet_18_imagenet"
    model = resnet_tf.create_model("resnet18_v1b", seed=3)
    write(tmp_path / "preset", model, architectures.find("resnet18_v1b"))
    asked = []

    def download(handle):
        asked.append(handle)
        if len(asked) > 1:
            raise OSError("no network")
        return str(tmp_path / "preset")

    monkeypatch.setitem(sys.modules, "kagglehub", types.SimpleNamespace(model_download=download))
    assert same(resnet_tf.create_model("resnet18_v1b", weights=tag), model)
    assert asked == ["keras/resnetv1/keras/resnet_18_imagenet/3"]
    with pytest.raises(
        InputError, match=r"cannot be downloaded \(no network\); without a network, copy the folder of kera"
    ):
        resnet_tf.create_model("resnet18_v1b", weights=tag)
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(InputError, match="needs kagglehub: pip install kagglehub"):
        resnet_tf.create_model("resnet18_v1b", weights=tag)
    view = preprocessing.of_published("keras_hub/resnet_v2_50_imagenet")
    assert view.mean == (127.5,) * 3 and (view.size, view.resize, view.interpolation) == (224, 224, "bicubic")
    loading = [name for name in published.names("keras_hub/*") if not published.find(name).reason]
    assert len(loading) == 13 and not published.find("swav/resnet50").reason
