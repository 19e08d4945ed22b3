"""What a user of Keras does: save, load, in a process of their own."""

import os
import pathlib
import subprocess
import sys

import drawn
import keras
import numpy as np
import pytest

import resnet_tf
from resnet_tf.data import colour
from resnet_tf.serving import convert

# {file: (builder, network, options)}; together they have every kind of layer and every option that changes a graph.
KINDS = {
    "plain": ("model", "cifar_plain8", {}),
    "a": ("model", "cifar_resnet8_v1", {}),
    "b": ("model", "cifar_resnet8_v1", {"shortcut": "B", "initializer": "xavier", "zero_gamma": True}),
    "c": ("model", "cifar_resnet8_v1", {"shortcut": "C", "dropout": 0.5}),
    "v2": ("model", "cifar_resnet8_v2", {}),
    "v2_timm": ("model", "cifar_resnet8_v2", {"graph": "timm"}),
    "any_size": ("model", "cifar_resnet8_v1", {"input_shape": (None, None, 3), "num_classes": 0}),
    "sync_bn": ("model", "cifar_resnet8_v1", {"sync_bn": True}),
    "bfloat16": ("model", "cifar_resnet8_v1", {"dtype": "mixed_bfloat16"}),
    "float16": ("model", "cifar_resnet8_v2", {"dtype": "mixed_float16"}),
    "cifar_backbone": ("backbone", "cifar_resnet8_v2", {"levels": (0, 2)}),
    "plain18": ("model", "plain18", {}),
    "v1_c": ("model", "resnet18_v1", {"shortcut": "C"}),
    "v1d": ("model", "resnet18_v1d", {}),
    "v2_18": ("model", "resnet18_v2", {}),
    "dilated_backbone": ("backbone", "resnet18_v1d", {"levels": (2, 5), "output_stride": 8}),
}
EXPORTED = ("a", "v2", "v1d", "v2_18")  # zero channels, padding with minus infinity, pools in shortcuts
LOAD = """
import pathlib, sys
folder = pathlib.Path(sys.argv[1])
{before}
import keras, numpy as np
images = np.load(folder / "images.npy")
for file in sys.argv[2:]:
    model = keras.models.load_model(folder / file, compile=False)
    outputs = keras.tree.flatten(model({images}, training=False))
    expected = np.load(folder / f"{{file}}.npz")
    assert len(outputs) == len(expected.files), file
    for got, name in zip(outputs, expected.files):
        np.testing.assert_array_equal(np.asarray(keras.ops.cast(got, "float32")), expected[name], err_msg=file)
assert ("resnet_tf" in sys.modules) == bool({ours})
print(len(sys.argv) - 2)
"""


def build(kind):
    """A network of the table above at 32 pixels, with statistics that are not those of a new one."""
    builder, name, options = KINDS[kind]
    create = resnet_tf.create_model if builder == "model" else resnet_tf.create_backbone
    model = create(name, **{"input_shape": (32, 32, 3)} | options)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if "moving" in variable.path or "gamma" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    return model


def keep(folder, file, outputs):
    values = [np.asarray(keras.ops.cast(output, "float32")) for output in keras.tree.flatten(outputs)]
    np.savez(folder / f"{file}.npz", *values)


def load_elsewhere(folder, files, before="", ours="", images="images"):
    """Load files in a fresh process, which compares their outputs to the bit; return what it printed last."""
    script = LOAD.format(before=before, ours=repr(ours), images=images)
    paths = {"PYTHONPATH": str(pathlib.Path(resnet_tf.__file__).parents[1])} if ours else {"PYTHONPATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), *files], env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()[-1]


def test_every_kind_of_graph_loads_after_import_of_the_package(tmp_path):
    images = drawn.images(32, 32)
    np.save(tmp_path / "images.npy", images)
    files = []
    for kind in KINDS:
        model = build(kind)
        for file in (f"{kind}.keras", "a.h5") if kind == "a" else (f"{kind}.keras",):
            model.save(tmp_path / file)
            keep(tmp_path, file, model(images, training=False))
            files.append(file)
    assert load_elsewhere(tmp_path, files, "import resnet_tf", "yes") == str(len(files))


def test_exported_files_load_without_the_package(tmp_path):
    images = drawn.images(32, 32)
    np.save(tmp_path / "images.npy", images)
    files = [f"{kind}.keras" for kind in EXPORTED]
    for kind, file in zip(EXPORTED, files, strict=True):
        convert.keras_file(tmp_path / file, build(kind), colour.IMAGENET, 32)
        keep(tmp_path, file, keras.models.load_model(tmp_path / file)(255 * images, training=False))
    assert load_elsewhere(tmp_path, files, images="255 * images") == str(len(files))


@pytest.mark.parametrize("before", ["import tensorflow, resnet_tf", "import resnet_tf, tensorflow"])
def test_the_layers_are_registered_in_either_order_of_imports(tmp_path, before):
    np.save(tmp_path / "images.npy", drawn.images(32, 32))
    model = build("a")
    model.save(tmp_path / "a.keras")
    keep(tmp_path, "a.keras", model(drawn.images(32, 32), training=False))
    assert load_elsewhere(tmp_path, ["a.keras"], before, "yes") == "1"


def test_names_under_which_layers_were_saved_stay():
    """Files of earlier releases hold these names. None is a name of Keras, whose own have no package before them."""
    names = ("HeNormal", "PaddedIdentity", "BatchNormalization", "MaxPool", "SumReLU", "MinusInfinityPadding",
             "DilatedAveragePool")  # fmt: skip
    for name in names:
        assert keras.saving.get_registered_name(keras.saving.get_registered_object(f"resnet_tf>{name}")) == (
            f"resnet_tf>{name}"
        )
        assert keras.saving.get_registered_object(name) is None
    assert type(keras.initializers.get({"class_name": "HeNormal", "config": {}})) is keras.initializers.HeNormal


def test_the_package_alone_does_not_import_tensorflow():
    script = "import resnet_tf, sys; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
