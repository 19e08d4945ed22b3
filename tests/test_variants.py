"""Networks with groups, attention, other norms, stems or pools, and stochastic depth; parity with timm's."""

import json
import os
import pathlib
import subprocess
import sys

import drawn
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from test_family import GOLDEN, TOLERANCE, assert_all_trained, randomise, relative

import resnet_tf
from resnet_tf.errors import InputError
from resnet_tf.models import architectures, builder, cost, cost_by_name, inside, variants, weights


def exact(name):
    """The largest difference where both sides compute in float64: another order gives 1e-15, amplified up to 4e-12."""
    return 1e-6 if "evos" in name else 1e-9  # timm's EvoNorm takes variances in float32 in every precision


# The rest has no other layers and takes longer.
SLOW_VARIANTS = ("senet154", "wide_resnet50_2", "resnet50s", "resnetv2_50d_evos")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(path.stem, marks=[pytest.mark.slow] if path.stem in SLOW_VARIANTS else [])
        for path in sorted((GOLDEN / "variants").glob("*.npz"))
    ],
)
def test_variants_equal_to_timm(name):
    """One network for each value of a field, against timm's in float64; see benchmarks/peers/make_goldens.py."""
    golden = np.load(GOLDEN / "variants" / f"{name}.npz")
    shapes = {name: tuple(shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    model = resnet_tf.create_model(name, input_shape=(None, None, 3), dtype="float64")
    state = drawn.weights(shapes, name)
    weights.assign(model, weights.convert(model, state))
    back = weights.state_dict(model)
    assert back.keys() == state.keys() and all((back[key] == value).all() for key, value in state.items())
    for size in ("64x64", "65x65", "64x96"):
        height, width = map(int, size.split("x"))
        logits = model(drawn.images(height, width), training=False)[:, :50]
        assert relative(logits, golden[f"{size}/logits"], golden[f"{size}/std"]) < exact(name), size
    single = resnet_tf.create_model(name, input_shape=(None, None, 3))
    weights.assign(single, weights.convert(single, state))
    logits = single(drawn.images(65, 65), training=False)[:, :50]
    # Sums over standardised kernels cancel: timm's own float32 is 1e-4 from its float64 there, 1e-6 elsewhere.
    tolerance = 1e-4 if "bit" in name else 1e-5
    assert relative(logits, golden["65x65/logits"], golden["65x65/std"]) < tolerance


@pytest.mark.slow
@pytest.mark.parametrize(
    "timm",
    architectures.names_of_timm(),
)
def test_every_network_answers_as_timm_does_today(timm, tmp_path):
    """What benchmarks/timm_parity.py writes into results/timm_parity.csv."""
    python = os.environ.get("RESNET_TF_PEER_PYTHON")
    if not python:
        pytest.skip("RESNET_TF_PEER_PYTHON is not set: an interpreter that has timm")
    folder = pathlib.Path(__file__).parents[1] / "benchmarks"
    row = architectures.of_timm(timm)
    sizes = "96x96,97x97,64x96"
    subprocess.run([python, folder / "peers" / "timm_answers.py", tmp_path, sizes, f"{timm}={row}"], check=True)
    script = "import sys, pathlib, timm_parity; print(*timm_parity.compared(pathlib.Path(sys.argv[1])).values())"
    environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{folder.parent}"}
    arguments = [sys.executable, "-c", script, str(tmp_path / f"{timm}.npz")]
    found = subprocess.run(arguments, check=True, capture_output=True, text=True, env=environment).stdout.split()
    assert max(map(float, found[-3:])) < exact(timm)


def test_parameters_are_those_of_timm():
    counts = json.loads((GOLDEN / "timm_parameters.json").read_text())
    lacking = {"ecaresnet50d_pruned", "ecaresnet101d_pruned", "resnetv2_50d_frn"}
    assert set(architectures.names_of_timm()) == set(counts) - lacking
    for name in architectures.names_of_timm():
        graph = "timm" if name in ("resnetv2_18", "resnetv2_34") else None
        row = architectures.of_timm(name)
        assert cost_by_name(row, graph=graph).trainable_parameters == counts[name], name


def test_names_of_timm():
    assert [architectures.of_timm(name) for name in ("resnet50", "resnet50d", "resnet101c", "resnetv2_50")] == [
        "resnet50_v1b", "resnet50_v1d", "resnet101_v1c", "resnet50_v2"
    ]  # fmt: skip
    assert architectures.of_timm("resnext50_32x4d") == "resnext50_32x4d"
    assert {architectures.of_timm(name) for name in architectures.names_of_timm()} <= set(architectures.TABLE)
    for name in ("resnet50_v1b", "cifar_resnet20_v1", "resnetv2_50d_frn", "vgg16"):
        with pytest.raises(InputError, match=f"{name}: no network of timm that is in the table"):
            architectures.of_timm(name)
    with pytest.raises(InputError, match=r"--model=resnet50d: timm's resnet50d is resnet50_v1d here"):
        resnet_tf.create_model("resnet50d")


# Millions of parameters: Zagoruyko and Komodakis 2016, tables 4 and 5; Xie et al. 2017, table 7, which cuts 68.16 off.
@pytest.mark.parametrize(
    "name, millions",
    [("cifar_wrn16_8", 11.0), ("cifar_wrn28_10", 36.5), ("cifar_wrn40_4", 8.9), ("cifar_wrn22_8", 17.2),
     ("cifar_resnext29_8x64d", 34.4), ("cifar_resnext29_16x64d", 68.1)],
)  # fmt: skip
def test_parameters_of_wide_nets_of_cifar(name, millions):
    assert cost_by_name(name).trainable_parameters / 1e6 == pytest.approx(millions, abs=0.06)


def test_depths_of_wide_nets():
    with pytest.raises(InputError, match=r"cifar_wrn27_10: a Wide ResNet of CIFAR has 6n\+4 layers"):
        architectures.find("cifar_wrn27_10")


@pytest.mark.parametrize("name", ["cifar_wrn16_2", "cifar_seresnet8_v1"])
def test_variants_of_cifar_by_rule(name):
    model = resnet_tf.create_model(name)
    assert cost(model) == cost_by_name(name)
    assert inside.row_of(model).graph == builder.row_of(name).graph
    assert_all_trained(model)


def test_a_wide_net_equals_plain_operations():
    model = resnet_tf.create_model("cifar_wrn10_2", input_shape=(None, None, 3))
    written = reference.Reference(randomise(model))
    written.small = True
    for height, width in ((32, 32), (33, 47)):
        images = drawn.images(height, width)
        stem = written.conv(images, "stem_conv")
        expected = written.stages(stem, (1, 1, 1), (32, 64, 128), False, "B", "v2")
        assert relative(model(images, training=False), expected) < TOLERANCE


def test_what_cannot_be_built_is_refused():
    for name in ("resnetaa50d", "resnetblur18", "senet154"):
        with pytest.raises(InputError, match=f"output_stride=16: the strides of {name} cannot become dilations"):
            resnet_tf.create_backbone(name, output_stride=16)
    with pytest.raises(InputError, match="--zero_gamma: the kernels of resnetv2_50x1_bit are standardised"):
        resnet_tf.create_model("resnetv2_50x1_bit", zero_gamma=True)


@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "cifar_resnet8_v2"])
def test_stochastic_depth(name, tmp_path):
    model = resnet_tf.create_model(name, drop_path=0.6)
    plain = resnet_tf.create_model(name)
    assert [weight.path for weight in model.weights] == [weight.path for weight in plain.weights]
    plain.set_weights(model.get_weights())
    images = drawn.images(32, 32).repeat(50, 0) + np.random.RandomState(0).normal(size=(100, 32, 32, 3))
    images = images.astype(np.float32)
    np.testing.assert_array_equal(model(images), plain(images))  # nothing is dropped in inference
    drops = [layer for layer in model.layers if isinstance(layer, variants.StochasticDepth)]
    assert [(layer.name, round(layer.rate, 9)) for layer in drops] == [
        ("stage1_block1_drop", 0.2), ("stage2_block1_drop", 0.4), ("stage3_block1_drop", 0.6)
    ]  # fmt: skip
    probe = keras.Model(model.input, [[layer.input[0], layer.output] for layer in drops])
    kept = []
    for layer, (branch, output) in zip(drops, probe(images, training=True), strict=True):
        scale = np.asarray(output) / np.asarray(branch)
        stays = np.nanmax(scale, (1, 2, 3)) > 0
        np.testing.assert_allclose(np.asarray(output)[stays], np.asarray(branch)[stays] / (1 - layer.rate), rtol=1e-5)
        assert not np.asarray(output)[~stays].any()
        assert abs(stays.mean() - (1 - layer.rate)) < 0.2  # four standard deviations of 100 images
        kept.append(stays)
    assert abs(np.corrcoef(kept[0], kept[2])[0, 1]) < 0.4  # blocks drop independently; four standard deviations
    assert_all_trained(model)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(again(images, training=True), again(images, training=True))  # by key, no state
    for rate in (0, 1, -0.1):
        with pytest.raises(InputError, match=f"drop_path={rate}: not between 0 and 1"):
            resnet_tf.create_model(name, drop_path=rate)
    with pytest.raises(InputError, match=r"--drop_path=0\.5: cifar_plain8 is a plain net"):
        resnet_tf.create_model("cifar_plain8", drop_path=0.5)


@pytest.mark.parametrize("compiled", [False, True])
def test_grouped_convolutions_train_alike_in_every_mode(compiled):
    """In graphs, and compiled by XLA, which has one convolution for each group on a CPU."""
    images = tf.constant(drawn.images(8, 8).repeat(4, -1))  # 12 channels in 3 groups
    layer = variants.GroupedConv2D(6, 3, 1, "same", groups=3)
    layer(images)

    def step(images):
        with tf.GradientTape() as tape:
            outputs = layer(images)
            loss = tf.reduce_sum(outputs**2)
        return outputs, tape.gradient(loss, layer.kernel.value)

    outputs, gradient = tf.function(step, jit_compile=compiled)(images)
    parts = zip(np.split(images, 3, -1), np.split(layer.kernel, 3, -1), strict=True)
    expected = np.concatenate([tf.nn.conv2d(part, kernel, 1, "SAME") for part, kernel in parts], -1)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)  # float32 in another order of sums
    np.testing.assert_allclose(gradient, step(images)[1], rtol=1e-4, atol=1e-4)
