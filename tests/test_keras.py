"""What a user of Keras does: save, load, in a process of their own."""

import ast
import doctest
import importlib
import inspect
import os
import pathlib
import subprocess
import sys

import drawn
import keras
import numpy as np
import pytest

import resnet_tf
from resnet_tf import api, data, models
from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.models import architectures, builder, imagenet, inside, naming, preprocessing, weights
from resnet_tf.serving import convert

# {file: (builder, network, options)}; together they have every kind of layer and every option that changes a graph.
KINDS = {
    "plain": ("model", "cifar_plain8", {}),
    "a": ("model", "cifar_resnet8_v1", {}),
    "b": ("model", "cifar_resnet8_v1", {"shortcut": "B", "initializer": "xavier", "zero_gamma": True}),
    "c": ("model", "cifar_resnet8_v1", {"shortcut": "C", "dropout": 0.5}),
    "v2": ("model", "cifar_resnet8_v2", {}),
    "any_size": ("model", "cifar_resnet8_v1", {"input_shape": (None, None, 3), "num_classes": 0}),
    "sync_bn": ("model", "cifar_resnet8_v1", {"sync_bn": True}),
    "bfloat16": ("model", "cifar_resnet8_v1", {"dtype": "mixed_bfloat16"}),
    "float16": ("model", "cifar_resnet8_v2", {"dtype": "mixed_float16"}),
    "cifar_backbone": ("backbone", "cifar_resnet8_v2", {"levels": (0, 2)}),
    "v1d": ("model", "resnet18_v1d", {}),
    "v2_18": ("model", "resnet18_v2", {}),
    "named": ("model", "cifar_resnet8_v2", {"name": "student", "graph": "timm"}),
    "named_backbone": ("backbone", "cifar_resnet8_v1", {"name": "trunk", "levels": (1,)}),
    "dilated_backbone": ("backbone", "resnet18_v1d", {"levels": (2, 5), "output_stride": 8}),
    "drop_path": ("model", "cifar_resnet8_v1", {"drop_path": 0.5}),
    "float64": ("model", "cifar_resnet8_v1", {"dtype": "float64"}),
    "se": ("model", "cifar_seresnet8_v1", {}),
    "wide": ("model", "cifar_wrn10_2", {}),
    "blur": ("model", "resnetblur18", {}),
    "tiered": ("model", "resnet10t", {}),
    "mixed": ("model", "test_resnet", {}),
    "page": ("model", "cifar_resnet9_whitened", {}),
}
# The kinds of the table that only deep networks have, of the same layers, and some of which other networks above have
# each part: C's shortcuts, a deep stem, no shortcuts, and timm's graph. For releases.
DEEP = {
    "plain18": ("model", "plain18", {}),
    "v2_timm": ("model", "cifar_resnet8_v2", {"graph": "timm"}),
    "v1_c": ("model", "resnet18_v1", {"shortcut": "C"}),
    "v1c_18": ("model", "resnet18_v1c", {}),
    "v1_50": ("model", "resnet50_v1", {}),
    "v1b_50": ("model", "resnet50_v1b", {}),
    "v1c_50": ("model", "resnet50_v1c", {}),
    "v1d_50": ("model", "resnet50_v1d", {}),
    "v2_50": ("model", "resnet50_v2", {}),
    "v2_164": ("model", "cifar_resnet164_v2", {}),
    "groups": ("model", "resnext50_32x4d", {}),
    "eca": ("model", "ecaresnet26t", {}),
    "aa": ("model", "resnetaa34d", {}),
    "gn": ("model", "resnet50_gn", {}),
    "evos": ("model", "resnetv2_50d_evos", {}),
    "bit": ("model", "resnetv2_50x1_bit", {}),
    "rs": ("model", "resnetrs50", {}),
    "v2_18d": ("model", "resnetv2_18d", {}),
    "senet": ("model", "senet154", {}),
}
# Zero channels, padding with minus infinity, pools in shortcuts, CELU.
EXPORTED = ("a", "v2", "v1d", "v2_18", "named", "page")
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
    builder, name, options = (KINDS | DEEP)[kind]
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


@pytest.mark.parametrize(
    "kinds", [pytest.param(KINDS, id="small"), pytest.param(DEEP, id="deep", marks=pytest.mark.slow)]
)
def test_every_kind_of_graph_loads_after_import_of_the_package(kinds, tmp_path):
    images = drawn.images(32, 32)
    np.save(tmp_path / "images.npy", images)
    files = []
    for kind in kinds:
        model = build(kind)
        for file in (f"{kind}.keras", "a.h5") if kind == "a" else (f"{kind}.keras",):
            model.save(tmp_path / file)
            keep(tmp_path, file, model(images, training=False))
            files.append(file)
    assert load_elsewhere(tmp_path, files, "import resnet_tf", "yes") == str(len(files))


def test_every_kind_of_graph_of_the_table_is_loaded_above():
    """Every value of every field, but numbers of blocks and widths, which make no other layers."""

    def values(row):
        numbers = ("blocks", "filters", "groups", "base_width", "stem_width")
        return {(name, "given" if name in numbers else str(value)) for name, value in row.graph.items()}

    built = set().union(*(values(architectures.find(name)) for _, name, _ in (KINDS | DEEP).values()))
    lacking = {name: values(row) - built for name, row in architectures.TABLE.items() if values(row) - built}
    assert not lacking


def test_exported_files_load_without_the_package(tmp_path):
    images = drawn.images(32, 32)
    np.save(tmp_path / "images.npy", images)
    files = [f"{kind}.keras" for kind in EXPORTED]
    for kind, file in zip(EXPORTED, files, strict=True):
        convert.keras_file(tmp_path / file, build(kind), colour.IMAGENET, 32)
        keep(tmp_path, file, keras.models.load_model(tmp_path / file)(255 * images, training=False))
    assert load_elsewhere(tmp_path, files, images="255 * images") == str(len(files))


def test_two_copies_with_names_of_their_own_in_one_graph(tmp_path, capsys):
    """What finds the row of a network by its name finds it for a named one, also after Keras saved and loaded it."""
    images = keras.Input((32, 32, 3))
    copies = [resnet_tf.create_model("cifar_resnet8_v2", name=name, graph="timm", seed=1) for name in ("one", "two")]
    both = keras.Model(images, [copy(images) for copy in copies])
    both.save(tmp_path / "both.keras")
    loaded = keras.models.load_model(tmp_path / "both.keras").get_layer("two")
    plain = resnet_tf.create_model("cifar_resnet8_v2", graph="timm", seed=2)
    clone = keras.models.clone_model(loaded)
    with pytest.raises(InputError, match=r"^two: does not say which network it is, as a copy"):
        weights.save(clone, tmp_path / "clone.weights.h5")
    clone.network = "cifar_resnet8_v2"
    for named in (copies[1], loaded, clone):
        assert named.name == "two" and naming.network_of(named) == "cifar_resnet8_v2"
        assert inside.row_of(named).graph == inside.row_of(plain).graph
        assert resnet_tf.cost(named) == resnet_tf.cost(plain)
        assert list(inside.depths(named)) == list(inside.depths(plain))
        assert naming.network_of(inside.with_outputs(named, named.get_layer("pool").output)) == "cifar_resnet8_v2"
        assert weights.state_dict(named).keys() == weights.state_dict(plain).keys()
    for file in ("mine.weights.h5", "mine.safetensors"):
        weights.save(loaded, tmp_path / file)
        weights.load(plain, tmp_path / file)
        np.testing.assert_array_equal(plain(drawn.images(32, 32)), copies[0](drawn.images(32, 32)))
        resnet_tf.create_model("cifar_resnet8_v2", name="three", weights=tmp_path / file)
        assert not capsys.readouterr().err
    loaded.save(tmp_path / "named.keras")
    resnet_tf.create_model("cifar_resnet8_v2", name="four", weights=tmp_path / "named.keras")


def test_names_of_models_that_cannot_be_are_refused():
    plain = keras.Model(inputs := keras.Input((1,)), inputs)
    assert type(resnet_tf.create_model("cifar_resnet8_v1")) is type(plain)  # the class that files of before have
    assert resnet_tf.create_model(name="cifar_resnet8_v1").name == "cifar_resnet8_v1"  # as in earlier releases
    for create in (resnet_tf.create_model, resnet_tf.create_backbone):
        for name in ("", "a/b", 3):
            with pytest.raises(InputError, match=f"name={name!r}: not a name of a Keras model"):
                create("cifar_resnet8_v1", name=name)
        with pytest.raises(InputError, match="network: no name is given"):
            create()


@pytest.mark.parametrize(
    "before",
    [
        "import tensorflow, resnet_tf",
        # Every kind of graph is loaded above after the package and Keras, which imports TensorFlow, in this order.
        pytest.param("import resnet_tf, tensorflow", marks=pytest.mark.slow),
    ],
)
def test_the_layers_are_registered_in_either_order_of_imports(tmp_path, before):
    np.save(tmp_path / "images.npy", drawn.images(32, 32))
    model = build("a")
    model.save(tmp_path / "a.keras")
    keep(tmp_path, "a.keras", model(drawn.images(32, 32), training=False))
    assert load_elsewhere(tmp_path, ["a.keras"], before, "yes") == "1"


def test_names_under_which_layers_were_saved_stay():
    """Files of earlier releases hold these names. None is a name of Keras, whose own have no package before them."""
    names = ("HeNormal", "PaddedIdentity", "BatchNormalization", "MaxPool", "SumReLU", "MinusInfinityPadding",
             "DilatedAveragePool", "GroupedConv2D", "StandardizedConv2D", "EvoNorm", "BlurPool", "ImageKeys",
             "StochasticDepth", "NamedNetwork")  # fmt: skip
    for name in names:
        assert keras.saving.get_registered_name(keras.saving.get_registered_object(f"resnet_tf>{name}")) == (
            f"resnet_tf>{name}"
        )
        assert keras.saving.get_registered_object(name) is None
    assert type(keras.initializers.get({"class_name": "HeNormal", "config": {}})) is keras.initializers.HeNormal


def test_the_package_alone_does_not_import_tensorflow():
    script = "import resnet_tf, sys; assert not {'tensorflow', 'keras', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


# --- Before and after a network --------------------------------------------------------------------------------------


def test_preprocessing_of_published_weights():
    plain = resnet_tf.preprocessing_of("timm/resnet50d.ra2_in1k")
    assert plain == resnet_tf.preprocessing_of("resnet50d.ra2_in1k")
    assert (plain.size, plain.resize, plain.crop, plain.interpolation) == (224, 256, 0.875, "bicubic")
    assert resnet_tf.preprocessing_of("resnet50_v1d") == resnet_tf.preprocessing_of("resnet50d.ra4_e3600_r224_in1k")
    assert resnet_tf.preprocessing_of("resnet50_v1b").resize == 235  # int(224 / 0.95), as in timm
    assert resnet_tf.preprocessing_of("resnet200_v1d").resize == 269  # int(256 / 0.95)
    assert resnet_tf.preprocessing_of("resnet50_v2").mean == (127.5, 127.5, 127.5)
    for name in ("resnet200_v1b", "no/such/run"):
        with pytest.raises(InputError, match=f"{name}: no published weights, run folder or exported model"):
            resnet_tf.preprocessing_of(name)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_layer_that_normalises(dtype, rng, tmp_path):
    pixels = rng.integers(0, 256, (2, 5, 7, 3)).astype(dtype)
    layer = resnet_tf.preprocessing_of("resnet18d.ra2_in1k").layer()
    expected = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(layer(pixels), expected, rtol=0, atol=1e-5)  # float32 of numbers up to 3
    assert type(layer) is keras.layers.Normalization
    caffe = resnet_tf.preprocessing_of("ResNet50").layer()
    theirs = keras.applications.resnet.preprocess_input(pixels.astype(np.float32))
    np.testing.assert_allclose(caffe(pixels), theirs, rtol=0, atol=1e-4)  # float32 of numbers up to 152
    keras.Sequential([keras.Input((5, 7, 3)), caffe]).save(tmp_path / "model.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "model.keras")(pixels), caffe(pixels))


def test_layer_that_subtracts_a_mean_image(rng):
    mean = rng.uniform(0, 255, (4, 4, 3))
    expected = preprocessing.Preprocessing(tuple(map(tuple, mean.tolist())), (50.0,) * 3, 4, 4)
    pixels = rng.integers(0, 256, (2, 4, 4, 3), np.uint8)
    np.testing.assert_allclose(expected.layer()(pixels), (pixels - mean) / 50, rtol=0, atol=1e-5)


def test_names_of_the_most_likely_classes():
    probabilities = np.zeros((2, 1000), np.float32)
    probabilities[0, [285, 217, 0]] = 0.5, 0.25, 0.125
    probabilities[1] = 1 / 1000
    first, second = resnet_tf.decode_predictions(keras.ops.convert_to_tensor(probabilities), top=3)
    assert first == [
        ("n02124075", "Egyptian cat", 0.5), ("n02102040", "English springer, English springer spaniel", 0.25),
        ("n01440764", "tench, Tinca tinca", 0.125),
    ]  # fmt: skip
    assert [identifier for identifier, _, _ in second] == ["n01440764", "n01443537", "n01484850"]  # ties by label
    assert len(resnet_tf.decode_predictions(probabilities)[0]) == 5
    for values, top, said in (
        (probabilities[0], 5, r"shape \[1000\], not \[batch, 1000\]"),
        (probabilities[:, :10], 5, r"shape \[2, 10\]"),
        (probabilities * 9 - 4, 5, "networks return logits"),
        (probabilities * np.nan, 5, r"not in \[0, 1\]"),
        (probabilities, 0, "top=0: not in the range 1 to 1000"),
    ):
        with pytest.raises(InputError, match=said):
            resnet_tf.decode_predictions(values, top)


def test_classes_of_imagenet_are_those_of_tensorflow_datasets():
    labels = pytest.importorskip("tensorflow_datasets.datasets.siscore.labels")
    identifiers, words = zip(*imagenet.classes(), strict=True)
    assert list(words) == labels.IMAGENET_LABELS_LIST
    assert list(identifiers) == sorted(set(identifiers)) and len(identifiers) == 1000


# --- At the prompt ---------------------------------------------------------------------------------------------------


def test_dir_shows_the_api_in_a_fresh_process():
    script = """
import sys
import resnet_tf
assert set(resnet_tf.__all__) <= set(dir(resnet_tf)), dir(resnet_tf)
assert "tensorflow" not in sys.modules
from resnet_tf import models
assert set(models.__all__) <= set(dir(models)), dir(models)
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_type_checkers_may_read_the_annotations():
    package = pathlib.Path(resnet_tf.__file__).parent
    assert (package / "py.typed").read_text() == ""
    lines = [
        line for line in ast.parse((package / "__init__.pyi").read_text()).body if isinstance(line, ast.ImportFrom)
    ]
    assert sorted(alias.asname for line in lines for alias in line.names) == sorted(resnet_tf.__all__)
    for line in lines:
        for alias in line.names:
            assert hasattr(importlib.import_module(line.module), alias.name), alias.name


def test_every_public_function_has_an_example():
    public = {getattr(package, name) for package in (resnet_tf, models, data) for name in package.__all__}
    public |= {getattr(weights, name) for name in ("load", "convert", "assign", "state_dict", "save", "open_source")}
    own = {name: value for name, value in vars(inside).items() if getattr(value, "__module__", "") == inside.__name__}
    public |= {value for name, value in own.items() if not name.startswith("_")}
    public |= {getattr(api, name) for name in ("evaluate", "export", "predict")}  # resnet_tf has modules that call them
    functions = [value for value in public if inspect.isfunction(value)]
    assert len(functions) > 25
    for function in functions:
        assert f"{function.__name__}(" in inspect.getdoc(function), function


def test_examples_with_answers_hold():
    for module in (architectures, imagenet, inside, builder, naming, inspect.getmodule(resnet_tf.cost)):
        done = doctest.testmod(module, extraglobs={"create_model": resnet_tf.create_model})
        assert done.attempted and not done.failed, module
