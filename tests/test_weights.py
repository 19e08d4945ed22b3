"""Weights in and out: formats, names, nesting, and graphs that a file must not be taken for."""

import json
import pathlib

import drawn
import h5py
import keras
import numpy as np
import pytest
import reference
from safetensors.numpy import load_file, save_file
from test_family import GOLDEN, TOLERANCE, randomise, relative

import resnet_tf
from resnet_tf import config, convert
from resnet_tf.data import colour
from resnet_tf.errors import InputError
from resnet_tf.models import architectures, builder, inside, padding, published, weight_files, weights
from resnet_tf.runs import network
from resnet_tf.serving.convert import keras_file


@pytest.mark.parametrize(
    "name",
    # Bottlenecks are in v2, timm's names of a deep stem in test_variants_equal_to_timm of tests/test_variants.py.
    ["resnet18_v1b", pytest.param("resnet50_v1d", marks=pytest.mark.slow), "resnet50_v2"],
)
def test_weights_go_out_and_come_back(name, tmp_path):
    model = resnet_tf.create_model(name, num_classes=7)
    values = randomise(model)
    weights.save(model, tmp_path / "w.safetensors")
    weights.save(model, tmp_path / "w.weights.h5")
    for file in ("w.safetensors", "w.weights.h5"):
        again = resnet_tf.create_model(name, num_classes=7, weights=str(tmp_path / file))
        for variable in again.variables:
            np.testing.assert_array_equal(variable.numpy(), values[variable.path])
    golden = json.loads(str(np.load(GOLDEN / f"{name}.npz")["shapes"]))
    assert set(weights.state_dict(model)) == set(golden)  # timm's own names, none missing
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w.safetensors", "w.weights.h5"]


def test_convert_command(tmp_path, last_json, capsys):
    source, out = tmp_path / "source.safetensors", tmp_path / "out.weights.h5"
    weights.save(resnet_tf.create_model("resnet18_v1b"), source)
    assert convert.main(["--model=resnet18_v1b", f"--source={source}", f"--out={out}"]) == 0
    assert last_json()["parameters"] == 11_699_112 and out.exists()

    def refused(*flags):
        assert convert.main(list(flags)) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    other = f"--out={tmp_path}/other.weights.h5"
    line = refused("--model=resnet34_v1b", f"--source={source}", other)
    assert "weights of resnet18_v1b, another graph than resnet34_v1b" in line and "blocks [2, 2, 2, 2] there" in line
    save_file(load_file(source), tmp_path / "silent.safetensors")  # as others write it
    silent = f"--source={tmp_path}/silent.safetensors"
    line = refused("--model=resnet34_v1b", silent, other)
    assert "resnet34_v1b" in line and "missing" in line and "layer" in line
    line = refused("--model=resnet18_v1d", silent, other)
    assert "resnet18_v1d" in line
    (tmp_path / "bad.safetensors").write_bytes(source.read_bytes()[:1000])
    assert "bad.safetensors" in refused("--model=resnet18_v1b", f"--source={tmp_path}/bad.safetensors", other)
    assert "no such file" in refused("--model=resnet18_v1b", f"--source={tmp_path}/none.pth", other)
    assert "not one of" in refused("--model=resnet18_v1b", f"--source={GOLDEN}/resnet18_v1b.npz", other)
    assert ".weights.h5" in refused("--model=resnet18_v1b", f"--source={source}", "--out=x.bin")
    assert not (tmp_path / "other.weights.h5").exists()


def test_pth_is_refused_without_torch_and_never_run(tmp_path, monkeypatch):
    import pickle
    import sys

    class Payload:
        def __reduce__(self):
            return (pathlib.Path(tmp_path / "ran").touch, ())

    (tmp_path / "evil.pth").write_bytes(pickle.dumps(Payload()))
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="needs PyTorch, which is not installed"):
        weight_files.open_file(tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_keras_h5_file_is_read(tmp_path):
    """The layout of the published files: a group a layer, variables with ":0" in a group of the same name."""

    theirs = keras.applications.ResNet50(weights=None, classes=5, classifier_activation=None, input_shape=(96, 96, 3))
    randomise(theirs)
    arrays = {f"{layer.name}/{each.name}": each.numpy() for layer in theirs.layers for each in layer.variables}
    with h5py.File(tmp_path / "resnet50.h5", "w") as file:
        for layer in theirs.layers:
            for variable in layer.variables:
                file[f"{layer.name}/{layer.name}/{variable.name}:0"] = variable.numpy()
    small = {"input_shape": (96, 96, 3)}
    ours = resnet_tf.create_model("resnet50_v1", num_classes=5, weights=tmp_path / "resnet50.h5", **small)
    images = drawn.images(96, 96)
    expected = theirs(images)
    assert relative(ours(images), expected) < TOLERANCE
    theirs.save(tmp_path / "theirs.keras")
    theirs.save_weights(tmp_path / "theirs.weights.h5")
    for file in ("theirs.keras", "theirs.weights.h5"):  # what users of Keras 3 write
        weights.load(ours, weight_files.of_arrays({name: 0 * value for name, value in arrays.items()}, "zeros"))
        weights.load(ours, tmp_path / file)
        assert relative(ours(images), expected) < TOLERANCE
    with h5py.File(tmp_path / "notop.h5", "w") as file:
        for name, value in arrays.items():
            if not name.startswith("predictions"):
                file[f"{name.split('/')[0]}/{name}:0"] = value
    headless = resnet_tf.create_model("resnet50_v1", num_classes=0, weights=tmp_path / "notop.h5", **small)
    features = np.asarray(headless(images))
    assert relative(features @ arrays["predictions/kernel"] + arrays["predictions/bias"], expected) < TOLERANCE


def test_weights_that_are_not_published_or_not_reachable(monkeypatch):
    with pytest.raises(InputError, match="none are published for resnet200_v1b"):
        resnet_tf.create_model("resnet200_v1b", weights="imagenet")
    import huggingface_hub

    def no_network(*_):
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_network)
    with pytest.raises(InputError, match=r"timm/resnet50d.ra4_e3600_r224_in1k/model.safetensors .*no network.*copy"):
        resnet_tf.create_model("resnet50_v1d", weights="imagenet")
    assert set(published.best()) <= set(architectures.TABLE)


# --- Graphs ----------------------------------------------------------------------------------------------------------


def stored(model, file):
    """The network's file by `convert`, and the same without what it says of itself, as `save_weights` writes it."""
    weights.save(model, file)
    model.save_weights(file.with_name(f"bare-{file.name}"))
    return file, file.with_name(f"bare-{file.name}")


@pytest.mark.parametrize(
    "theirs, ours, differing",
    [
        ({"name": "resnet50_v1b"}, {"name": "resnet50_v1"}, "stride_in 3x3 there, 1x1 here"),
        # The other way round, which test_names_of_pytorch_warn_of_a_stride_in_the_first_1x1 refuses too.
        pytest.param(
            {"name": "resnet50_v1"}, {"name": "resnet50_v1b"}, "stride_in 1x1 there, 3x3 here", marks=pytest.mark.slow
        ),
        ({"name": "resnet18_v1c"}, {"name": "resnet18_v1d"}, "downsample conv there, avg_pool here"),
        ({"name": "cifar_resnet8_v2"}, {"name": "cifar_resnet8_v2", "graph": "timm"}, "first_shortcut activated there"),
    ],
)  # fmt: skip
def test_a_file_of_ours_is_refused_by_another_graph(theirs, ours, differing, tmp_path, caplog):
    """Every shape fits, and the answers would be of no network."""
    file, bare = stored(resnet_tf.create_model(**theirs), tmp_path / "w.weights.h5")
    with pytest.raises(InputError, match=differing):
        resnet_tf.create_model(**ours, weights=file)
    assert not caplog.records
    resnet_tf.create_model(**ours, weights=bare)  # nothing can be known, so that it is said
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "does not say which network" in caplog.text
    caplog.clear()
    resnet_tf.create_model(**theirs, weights=file)
    assert not caplog.records


def test_names_of_pytorch_warn_of_a_stride_in_the_first_1x1(tmp_path, caplog):
    model = resnet_tf.create_model("resnet50_v1", num_classes=3)
    theirs = weight_files.of_arrays(weights.state_dict(model), "torchvision.pth")
    weights.load(resnet_tf.create_model("resnet50_v1b", num_classes=3), theirs)
    assert not caplog.records
    weights.load(model, theirs)
    assert "stride of a bottleneck in its 3x3 (resnet50_v1b)" in caplog.text
    caplog.clear()
    weights.save(model, tmp_path / "w.safetensors")  # which says that it is of resnet50_v1
    weights.load(model, tmp_path / "w.safetensors")
    assert not caplog.records
    with pytest.raises(InputError, match="weights of resnet50_v1, another graph than resnet50_v1b"):
        resnet_tf.create_model("resnet50_v1b", num_classes=3, weights=tmp_path / "w.safetensors")


def test_timms_file_of_a_basic_v2_builds_timms_graph(tmp_path):
    golden = np.load(GOLDEN / "resnet18_v2.npz")
    shapes = {name: tuple(shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    save_file(drawn.weights(shapes, "resnet18_v2"), tmp_path / "timm.safetensors")
    model = resnet_tf.create_model("resnet18_v2", input_shape=(97, 97, 3), weights=tmp_path / "timm.safetensors")
    logits = model(drawn.images(97, 97), training=False)
    assert relative(logits[:, :50], golden["97x97/logits"], golden["97x97/std"]) < TOLERANCE
    # What is converted goes on as that graph, and no other takes it.
    flags = ["--model=resnet18_v2", f"--source={tmp_path}/timm.safetensors"]
    assert convert.main([*flags, f"--out={tmp_path}/ours.weights.h5"]) == 0
    again = resnet_tf.create_model("resnet18_v2", input_shape=(97, 97, 3), weights=tmp_path / "ours.weights.h5")
    np.testing.assert_array_equal(again(drawn.images(97, 97)), logits)
    for file in ("timm.safetensors", "ours.weights.h5"):
        with pytest.raises(InputError, match=r"graph"):
            resnet_tf.create_model("resnet18_v2", graph="paper", weights=tmp_path / file)
    weights.save(model, tmp_path / "back.safetensors")
    paper = resnet_tf.create_model("resnet18_v2")
    with pytest.raises(InputError, match=r"timm would load these weights into its own graph"):
        weights.save(paper, tmp_path / "paper.safetensors")
    assert not (tmp_path / "paper.safetensors").exists()


# --- Names and nesting of PyTorch ------------------------------------------------------------------------------------


class Tensor:
    """What torch.load gives, as far as it is looked at."""

    def __init__(self, array, floating=True):
        self.array, self.floating = array, floating

    def detach(self):
        return self

    def float(self):
        return Tensor(np.asarray(self.array, np.float32))

    def is_floating_point(self):
        return self.floating

    def numpy(self):
        if self.array.dtype != np.float32:
            raise TypeError("as torch says of bfloat16, and of a parameter that needs a gradient")
        return self.array


def tensors(arrays):
    return {name: Tensor(np.asarray(value, np.float64)) for name, value in arrays.items()}


def test_nested_state_dicts_and_moving_averages(caplog):
    plain, mean = tensors({"a.weight": np.ones(3)}), tensors({"a.weight": np.full(3, 2.0)})
    caplog.set_level("INFO")
    for nested in (plain, {"state_dict": plain}, {"model": plain, "epoch": 3}, {"model_state_dict": plain}):
        assert weight_files.arrays_of_torch(nested, "f")["a.weight"][0] == 1
    for name in ("state_dict_ema", "model_ema"):
        assert weight_files.arrays_of_torch({name: mean}, "f")["a.weight"][0] == 2
        assert not caplog.records
        both = {"state_dict": plain, name: mean}
        assert weight_files.arrays_of_torch(both, "f")["a.weight"][0] == 2
        assert f"uses {name}, not state_dict" in caplog.text
        assert weight_files.arrays_of_torch(both, "f", ema=False)["a.weight"][0] == 1
        caplog.clear()
    dino = {"student": plain, "teacher": mean, "epoch": 3}
    assert weight_files.arrays_of_torch(dino, "f")["a.weight"][0] == 2
    counted = weight_files.arrays_of_torch(plain | {"n": Tensor(np.array(3), False)}, "f")
    assert set(counted) == {"a.weight"}
    for bad, said in (({"optimizer": {}, "epoch": 1}, "its keys are optimizer, epoch"), ([1], "holds a list")):
        with pytest.raises(InputError, match=said):
            weight_files.arrays_of_torch(bad, "f.pth")


@pytest.mark.parametrize("suffix", ["pth", "pt", "th", "pth.tar", "ckpt", "bin"])
def test_every_suffix_of_pytorch_is_read(suffix, tmp_path, monkeypatch):
    import sys
    import types

    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    values = randomise(model)
    content = {"state_dict": tensors({f"module.{name}": value for name, value in weights.state_dict(model).items()})}
    torch = types.SimpleNamespace(load=lambda path, map_location, weights_only: content if weights_only else None)
    monkeypatch.setitem(sys.modules, "torch", torch)
    (tmp_path / f"w.{suffix}").write_bytes(b"for the stand-in of PyTorch")
    again = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B", weights=tmp_path / f"w.{suffix}")
    for variable in again.variables:
        np.testing.assert_array_equal(variable.numpy(), values[variable.path])


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "model.", "backbone.", "module._orig_mod.", "model.backbone."]
)
def test_prefixes_and_other_names_of_the_parts(prefix):
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    values = randomise(model)
    arrays = {prefix + name: value for name, value in weights.state_dict(model).items()}
    arrays[prefix + "bn1.num_batches_tracked"] = np.array(7)
    found = weights.convert(model, arrays)
    assert all((found[path] == value).all() for path, value in values.items())
    renamed = {}
    for name, value in arrays.items():  # as kuangliu's code and its copies call them
        name = name.replace(".downsample.", ".shortcut.").replace(prefix + "fc.", prefix + "linear.")
        renamed[name] = value
    found = weights.convert(model, renamed)
    assert all((found[path] == value).all() for path, value in values.items())
    with pytest.raises(InputError, match=r"two weights are called conv1\.weight"):
        weights.convert(model, arrays | {"conv1.weight": arrays[prefix + "conv1.weight"]})


def test_numbers_that_no_network_computes_with_are_refused():
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    arrays = weights.state_dict(model)
    for name, value, said in (
        ("layer2.0.conv1.weight", np.nan, "layer2.0.conv1.weight holds 1 numbers that are not finite"),
        ("fc.bias", np.inf, "fc.bias holds 1 numbers that are not finite"),
        ("bn1.running_var", -0.5, "bn1.running_var is a variance and holds -0.5"),
    ):
        damaged = {key: array.copy() for key, array in arrays.items()}
        damaged[name].flat[0] = value
        with pytest.raises(InputError, match=said.replace(".", r"\.")):
            weights.convert(model, damaged)


def test_bfloat16_safetensors(tmp_path):
    import ml_dtypes

    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    values = randomise(model)
    halves = {name: value.astype(ml_dtypes.bfloat16) for name, value in weights.state_dict(model).items()}
    header, data = {}, b""
    for name, value in halves.items():  # the library's own writer of NumPy arrays has no bfloat16
        header[name] = {"dtype": "BF16", "shape": value.shape, "data_offsets": [len(data), len(data) + value.nbytes]}
        data += value.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    again = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B", weights=tmp_path / "w.safetensors")
    for variable in again.variables:  # eight bits of mantissa
        np.testing.assert_allclose(variable.numpy(), values[variable.path], rtol=2**-8)


# --- Shortcut A, padded on both sides --------------------------------------------------------------------------------


@pytest.mark.parametrize("name, blocks", [("cifar_resnet20_v1", 3), ("cifar_resnet8_v1", 1)])
def test_channels_padded_on_both_sides_answer_as_their_authors_graph(name, blocks, caplog):
    """The names and the padding of akamaster/pytorch_resnet_cifar10."""
    caplog.set_level("INFO")
    model = resnet_tf.create_model(name)
    values = randomise(model)
    images = drawn.images(32, 32)
    expected = reference.Reference(values, pad="both").cifar(images, blocks, "v1", "A")
    behind = reference.Reference(values).cifar(images, blocks, "v1", "A")
    assert relative(behind, expected) > 0.1
    arrays = {f"module.{key}".replace("fc.", "linear."): value for key, value in weights.state_dict(model).items()}

    def answer(arrays, pad=None):
        weights.load(model, weight_files.of_arrays(arrays, "resnet20.th"), pad=pad)
        return model(images, training=False)

    assert relative(answer(arrays), expected) < 1e-5
    assert "shortcut A is taken to pad on both sides" in caplog.text
    assert relative(answer(arrays, "behind"), behind) < 1e-5
    caplog.clear()
    fc = {key.replace("linear.", "fc."): value for key, value in arrays.items()}
    assert relative(answer(fc), behind) < 1e-5
    assert "does not say where shortcut A pads" in caplog.text
    assert relative(answer(fc, "both"), expected) < 1e-5


def test_padding_flag_of_convert(tmp_path, capsys):
    model = resnet_tf.create_model("cifar_resnet8_v1")
    values = randomise(model)
    save_file(weights.state_dict(model), tmp_path / "theirs.safetensors")
    flags = ["--model=cifar_resnet8_v1", f"--source={tmp_path}/theirs.safetensors", f"--out={tmp_path}/w.weights.h5"]
    assert convert.main([*flags, "--padding=both"]) == 0
    again = resnet_tf.create_model("cifar_resnet8_v1", weights=tmp_path / "w.weights.h5")
    images = drawn.images(32, 32)
    expected = reference.Reference(values, pad="both").cifar(images, 1, "v1", "A")
    assert relative(again(images, training=False), expected) < 1e-5
    weights.save(model, tmp_path / "ours.safetensors")
    ours = [flags[0], f"--source={tmp_path}/ours.safetensors", f"--out={tmp_path}/x.weights.h5", "--padding=both"]
    assert convert.main(ours) == 1
    assert "--padding=both is not used for" in capsys.readouterr().err
    assert not (tmp_path / "x.weights.h5").exists()


def test_orders_are_permutations():
    for name, options in (("cifar_resnet20_v1", {}), ("resnet18_v1", {"shortcut": "A"})):
        row = builder.row_of(name, **options)
        for order, filters in zip(padding.orders(row), row.filters, strict=True):
            assert sorted(order) == list(range(filters))


# --- Without a head --------------------------------------------------------------------------------------------------


def test_no_classes_end_in_the_pool_and_take_weights_with_a_head(tmp_path):
    model = resnet_tf.create_model("resnet18_v1b", num_classes=5, input_shape=(64, 64, 3))
    values = randomise(model)
    weights.save(model, tmp_path / "w.safetensors")
    trunk = resnet_tf.create_model(
        "resnet18_v1b", num_classes=0, input_shape=(64, 64, 3), weights=tmp_path / "w.safetensors"
    )
    images = drawn.images(64, 64)
    features = trunk(images, training=False)
    assert features.shape == (2, 512)
    logits = features @ values["logits/kernel"] + values["logits/bias"]
    np.testing.assert_allclose(logits, model(images, training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "cifar_resnet8_v2"])
def test_pooling_of_features(name):
    models = [resnet_tf.create_model(name, num_classes=0, pooling=pooling) for pooling in ("avg", "max", None)]
    average, largest, features = (np.asarray(model(drawn.images(32, 32))) for model in models)
    assert features.shape == (2, 8, 8, 64) and average.shape == largest.shape == (2, 64)
    np.testing.assert_allclose(average, features.mean((1, 2)), rtol=1e-5, atol=1e-6)  # float32 sums of 64 values
    np.testing.assert_array_equal(largest, features.max((1, 2)))
    with pytest.raises(InputError, match="pooling=max: a classifier has the average pool"):
        resnet_tf.create_model(name, pooling="max")
    with pytest.raises(InputError, match="pooling=sum: not one of"):
        resnet_tf.create_model(name, num_classes=0, pooling="sum")


# --- Other classes and channels than those of the weights ------------------------------------------------------------


def write(model, path):
    """Write the weights in the format that the path names."""
    if path.suffix == ".keras":
        model.save(path)
    else:
        weights.save(model, path)
    return path


@pytest.mark.parametrize("file", ["w.safetensors", "w.weights.h5", "w.keras"])
@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "cifar_resnet8_v2"])
def test_a_head_of_other_classes_starts_anew(name, file, tmp_path, caplog):
    values = randomise(model := resnet_tf.create_model(name, num_classes=7, shortcut="B"))
    path = write(model, tmp_path / file)

    def load(**options):
        return resnet_tf.create_model(name, shortcut="B", weights=path, **options)

    fresh = resnet_tf.create_model(name, num_classes=5, shortcut="B", seed=3)
    other = load(num_classes=5, seed=3)
    assert "has a head of 7 classes; one of 5 classes starts anew" in caplog.text
    for variable, new in zip(other.weights, fresh.weights, strict=True):
        expected = new.numpy() if variable.path.startswith("logits") else values[variable.path]
        np.testing.assert_array_equal(variable.numpy(), expected, err_msg=variable.path)
    caplog.clear()
    kept = load(num_classes=7, head="keep", dropout=0.5)
    np.testing.assert_array_equal(kept.get_layer("logits").kernel, values["logits/kernel"])
    assert not caplog.records
    assert np.abs(load(num_classes=7, head="new").get_layer("logits").kernel - values["logits/kernel"]).max() > 0.01
    for options in ({"num_classes": 5, "head": "keep"}, {}):  # the paper's ten classes were not asked for
        with pytest.raises(InputError, match=r"they have 7 classes, not (5|10): num_classes=7 keeps their head"):
            load(**options)
    with pytest.raises(InputError, match="head=old: not one of keep, new"):
        load(head="old")


def test_a_teacher_needs_its_head_and_a_start_does_not(tmp_path):
    model = resnet_tf.create_model("cifar_resnet8_v1", num_classes=7)
    origin = f"cifar_resnet8_v1:{write(model, tmp_path / 'w.weights.h5')}"
    trunk = write(resnet_tf.create_model("cifar_resnet8_v1", num_classes=0), tmp_path / "trunk.weights.h5")
    settings = config.TrainConfig(
        data=config.DataConfig(dataset="digits", image_size=32), optimizer=config.OptimizerConfig(train_steps=1)
    )
    with pytest.raises(InputError, match="they have 7 classes, not 5"):
        network.load("teacher", origin, settings, 5)
    with pytest.raises(InputError, match="missing logits/bias, logits/kernel"):
        network.load("teacher", f"cifar_resnet8_v1:{trunk}", settings, 5)
    assert network.load("init_from", f"cifar_resnet8_v1:{trunk}", settings).model.output_shape == (None, 10)


@pytest.mark.parametrize("more", [{}, {"fc.0.weight": np.ones((4, 64)), "fc.2.bias": np.ones(4)}])
def test_a_trunk_of_self_supervised_training_gets_a_head(more, caplog):
    model = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B")
    values = randomise(model)
    state = {name: value for name, value in weights.state_dict(model).items() if not name.startswith("fc.")} | more
    source = weight_files.of_arrays({f"module.{name}": value for name, value in state.items()}, "trunk.pth")
    for classes in (None, 5):
        caplog.clear()
        other = resnet_tf.create_model("cifar_resnet8_v1", shortcut="B", num_classes=classes, weights=source)
        assert f"trunk.pth: has no head; one of {classes or 10} classes starts anew" in caplog.text
        np.testing.assert_array_equal(other.get_layer("stem_conv").kernel, values["stem_conv/kernel"])
    with pytest.raises(InputError, match=r"missing fc\.bias, fc\.weight"):
        resnet_tf.create_model("cifar_resnet8_v1", shortcut="B", weights=source, head="keep")
    del source.arrays["bn1.weight"]
    with pytest.raises(InputError, match=r"missing bn1\.weight"):
        resnet_tf.create_model("cifar_resnet8_v1", shortcut="B", num_classes=5, weights=source)


@pytest.mark.parametrize("name, stem", [("cifar_resnet8_v1", "stem_conv"), ("resnet18_v1d", "stem_conv1")])
def test_the_first_kernel_fits_images_of_other_channels(name, stem, tmp_path):
    values = randomise(model := resnet_tf.create_model(name, num_classes=4, input_shape=(32, 32, 3)))
    path, images = write(model, tmp_path / "w.weights.h5"), drawn.images(32, 32)

    def of(channels):
        return resnet_tf.create_model(name, num_classes=4, input_shape=(32, 32, channels), weights=path)

    kernel = values[f"{stem}/kernel"]
    np.testing.assert_array_equal(of(4).get_layer(stem).kernel, kernel[:, :, [0, 1, 2, 0]] * np.float32(3 / 4))
    np.testing.assert_array_equal(of(2).get_layer(stem).kernel, kernel[:, :, :2] * np.float32(3 / 2))
    grey = images[..., :1]  # sums in another order: a few units in the sixth digit
    assert relative(of(1)(grey), model(np.repeat(grey, 3, -1))) < 1e-5
    assert relative(of(6)(np.tile(images, 2)), model(images)) < 1e-5
    one = write(of(1), tmp_path / "one.weights.h5")
    with pytest.raises(InputError, match=f"{stem}/kernel has shape"):
        resnet_tf.create_model(name, num_classes=4, input_shape=(32, 32, 2), weights=one)


@pytest.mark.parametrize("file", ["w.safetensors", "w.weights.h5"])
def test_weights_of_a_backbone(file, tmp_path):
    randomise(model := resnet_tf.create_model("resnet18_v2", num_classes=4, graph="timm", input_shape=(64, 64, 3)))
    path, images = write(model, tmp_path / file), drawn.images(64, 64)
    backbone = resnet_tf.create_backbone("resnet18_v2", (2, 4, 5), weights=path)  # the file says that it is timm's
    expected = inside.with_outputs(model, list(inside.stage_ends(model).values()))(images, training=False)
    for level, features in backbone(images, training=False).items():
        np.testing.assert_array_equal(features, expected[int(level) - 2])
    with pytest.raises(InputError, match="no such file"):
        resnet_tf.create_backbone("resnet18_v2", weights=tmp_path / "none.h5")


def test_weights_of_keras_before_it_wrote_names(tmp_path):
    values = randomise(model := resnet_tf.create_model("cifar_resnet8_v1"))
    weights.save(model, tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
    again = resnet_tf.create_model("cifar_resnet8_v1", weights=tmp_path / "w.weights.h5")
    for variable in again.variables:
        np.testing.assert_array_equal(variable.numpy(), values[variable.path])
    with pytest.raises(InputError, match=r"not the weights of cifar_resnet14_v1|another graph"):
        resnet_tf.create_model("cifar_resnet14_v1", weights=tmp_path / "w.weights.h5")


@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "resnet18_v1d"])
def test_weights_of_an_exported_file(name, tmp_path):
    values = randomise(model := resnet_tf.create_model(name, num_classes=4, input_shape=(32, 32, 3)))
    keras_file(tmp_path / "model.keras", model, colour.IMAGENET, 32)
    again = resnet_tf.create_model(name, num_classes=4, weights=tmp_path / "model.keras")
    for variable in again.variables:
        np.testing.assert_array_equal(variable.numpy(), values[variable.path])
    with pytest.raises(InputError, match="another graph than"):
        resnet_tf.create_model(name.replace("v1", "v2").replace("v2d", "v2"), weights=tmp_path / "model.keras")


@pytest.mark.parametrize(
    "prefix, beside",
    [
        ("module.encoder_q.", ("module.encoder_k.conv1.weight", "module.queue", "module.queue_ptr")),
        ("encoder_q.", ("encoder_k.conv1.weight",)),
        ("module.base_encoder.", ("module.momentum_encoder.conv1.weight", "module.predictor.0.weight")),
        (
            "teacher.backbone.",
            ("student.backbone.conv1.weight", "teacher.head.mlp.0.weight", "student.head.mlp.0.bias"),
        ),
        ("module.backbone.", ()),
        ("encoder.", ()),
        (  # SwAV
            "module.",
            ("module.projection_head.0.weight", "module.projection_head.1.running_mean", "module.prototypes.weight"),
        ),
    ],
)
def test_trunks_of_self_supervised_training(prefix, beside):
    """Of two networks in one file, the one that is handed on; their heads and queues are left out."""
    model = resnet_tf.create_model("cifar_resnet8_v1", num_classes=0, shortcut="B", seed=3)
    state = {f"{prefix}{name}": value for name, value in weights.state_dict(model).items()}
    state |= {f"{prefix}fc.0.weight": np.ones((4, 4), np.float32)} | dict.fromkeys(beside, np.ones(3, np.float32))
    other = resnet_tf.create_model("cifar_resnet8_v1", num_classes=0, shortcut="B", seed=4)
    weights.assign(other, weights.convert(other, state))
    for ours, theirs in zip(other.weights, model.weights, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=ours.path)
    with pytest.raises(InputError, match="unused decoder"):
        weights.convert(other, state | {"decoder.weight": np.ones(3, np.float32)})
