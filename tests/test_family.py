"""Every row of the table: counts, parity with other implementations, gradients, structure, backbones, weights."""

import contextlib
import io
import json
import math
import os
import pathlib
import re
import subprocess
import sys

import drawn
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf

import resnet_tf
from resnet_tf.errors import InputError
from resnet_tf.list_networks import main as list_command
from resnet_tf.models import architectures, builder, cost, cost_by_name, diagram, inside, weights

GOLDEN = pathlib.Path(__file__).parent / "golden"
SIZES = ((224, 224), (225, 225), (160, 192), (97, 97))  # of the goldens
# The same halvings, in a fifth of the time: even down to an odd map, odd all the way, not square, even and odd.
SMALLER = ((96, 96), (65, 65), (64, 96), (97, 97))
TOLERANCE = 1e-4  # of the logits' standard deviation; float32 in another order of sums gives some 2e-6

# Trainable parameters at 1000 classes (v1 = v1b, c = d, v2), and GMACs at 224x224 (v1, b, c = d).
COUNTS = {
    18: (11_689_512, 11_708_744, 11_687_720, 1.814, 1.814, 2.054),
    34: (21_797_672, 21_816_904, 21_795_880, 3.664, 3.664, 3.903),
    50: (25_557_032, 25_576_264, 25_549_352, 3.858, 4.089, 4.329),
    101: (44_549_160, 44_568_392, 44_541_480, 7.570, 7.801, 8.041),
    152: (60_192_808, 60_212_040, 60_185_128, 11.282, 11.514, 11.753),
    200: (64_673_832, 64_693_064, 64_666_152, 14.776, 15.007, 15.247),
}
CIFAR_COUNTS = {
    "cifar_resnet20_v1": 269_722, "cifar_resnet32_v1": 464_154, "cifar_resnet44_v1": 658_586,
    "cifar_resnet56_v1": 853_018, "cifar_resnet110_v1": 1_727_962, "cifar_resnet1202_v1": 19_421_274,
    "cifar_resnet164_v1": 1_704_154, "cifar_resnet1001_v1": 10_328_602,
    "cifar_resnet164_v2": 1_703_258, "cifar_resnet1001_v2": 10_327_706,
}  # fmt: skip


def relative(ours, theirs, std=None):
    return float(np.abs(np.asarray(ours) - np.asarray(theirs)).max() / (np.std(theirs) if std is None else std))


def randomise(model, seed=0):
    """Random weights and statistics, as `drawn.weights` has them."""
    random = np.random.RandomState(seed)
    for variable in model.variables:
        value = random.uniform(0.7, 1.3, variable.shape)
        if variable.path.endswith("kernel"):
            value = random.standard_normal(variable.shape) * np.sqrt(2 / math.prod(variable.shape[:-1]))
        elif not variable.path.endswith(("gamma", "variance")):
            value = random.standard_normal(variable.shape) * 0.1
        variable.assign(value)
    return {variable.path: variable.numpy() for variable in model.variables}


# --- Counts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", COUNTS)
def test_golden_counts(depth):
    v1, deep, v2, macs_v1, macs_b, macs_deep = COUNTS[depth]
    expected = {"v1": (v1, macs_v1), "v1b": (v1, macs_b), "v1c": (deep, macs_deep), "v1d": (deep, macs_deep)}
    for letter, (parameters, gmacs) in expected.items():
        figures = cost_by_name(f"resnet{depth}_{letter}")
        assert figures.trainable_parameters == parameters
        assert figures.gmacs == pytest.approx(gmacs, rel=1e-3)
    assert cost_by_name(f"resnet{depth}_v2").trainable_parameters == v2


@pytest.mark.parametrize("name, gflops", [("v1", 15.203), ("v1b", 15.668), ("v2", 15.659)])
def test_golden_counts_of_thop(name, gflops):
    """What the package thop counts of ResNet-101 at 224 pixels, to the digits that such tables print."""
    assert round(cost_by_name(f"resnet101_{name}").gflops_thop, 3) == gflops


@pytest.mark.parametrize("name", CIFAR_COUNTS)
def test_golden_cifar_counts(name):
    assert cost_by_name(name).trainable_parameters == CIFAR_COUNTS[name]
    if name.endswith("v1") and not architectures.find(name).bottleneck:  # which have B
        assert cost_by_name(name, shortcut="B").trainable_parameters == CIFAR_COUNTS[name] + 2_752


@pytest.mark.parametrize(
    "name",
    [
        "plain18",
        "resnet18_v1c",
        "resnet34_v1d",
        "resnet50_v1",
        "resnet50_v1d",
        "resnet50_v2",
        "cifar_resnet20_v2",
        "seresnext26t_32x4d",
        "ecaresnet26t",
        "resnetaa34d",
        "resnetrs50",
        "test_resnet",
        "resnetv2_50d_evos",
    ],
)
def test_cost_by_name_equals_cost_of_the_built_model(name):
    model = resnet_tf.create_model(name)
    assert resnet_tf.cost(model) == cost_by_name(name)
    assert cost(model).trainable_parameters == sum(math.prod(v.shape) for v in model.trainable_variables)


def test_cost_needs_a_size():
    with pytest.raises(InputError, match="no fixed size"):
        cost(resnet_tf.create_model("resnet18_v1b", input_shape=(None, None, 3)))


# --- Parity ----------------------------------------------------------------------------------------------------------


def deepest_slow(names, depths="101|152|200"):
    """The deepest ImageNet networks have no other layers than the rest, and take the longest: they are slow."""
    for name in names:
        yield pytest.param(name, marks=[pytest.mark.slow] if re.match(rf"resnet({depths})_", name) else [])


@pytest.mark.parametrize("name", deepest_slow((path.stem for path in sorted(GOLDEN.glob("*.npz"))), "34|101|152|200"))
def test_equal_to_timm(name):
    """timm's answers with weights drawn anew here; see benchmarks/peers/make_goldens.py."""
    golden = np.load(GOLDEN / f"{name}.npz")
    shapes = {name: tuple(shape) for name, shape in json.loads(str(golden["shapes"])).items()}
    graph = "timm" if name in ("resnet18_v2", "resnet34_v2") else None
    model = resnet_tf.create_model(name, input_shape=(None, None, 3), graph=graph)
    weights.assign(model, weights.convert(model, drawn.weights(shapes, name)))
    stages = [f"stage{stage}_block{count}" for stage, count in enumerate(architectures.find(name).blocks, start=1)]
    end = "_add" if name.endswith("v2") else "_relu"
    probe = keras.Model(model.input, [*(model.get_layer(f"{name}{end}").output for name in stages), model.output])
    # The deep ones at one even and one odd size: the code path is the same, the time is not.
    for height, width in SIZES if len(model.layers) < 300 else ((224, 224), (97, 97)):
        *outputs, logits = probe(drawn.images(height, width), training=False)
        key = f"{height}x{width}"
        assert relative(logits[:, :50], golden[f"{key}/logits"], golden[f"{key}/std"]) < TOLERANCE, key
        found = np.array([[np.mean(x, dtype=np.float64), np.std(x, dtype=np.float64)] for x in outputs])
        np.testing.assert_allclose(found[:, 1], golden[f"{key}/stages"][:, 1], rtol=1e-4)
        assert np.abs(found[:, 0] - golden[f"{key}/stages"][:, 0]).max() < 1e-4 * found[:, 1].max()


def test_goldens_cover_what_timm_has():
    depths = {"v1b": (18, 34, 50, 101, 152), "v1c": (50, 101, 152), "v1d": (18, 34, 50, 101, 152, 200), "v2": (50,)}
    wanted = {f"resnet{depth}_{letter}" for letter, each in depths.items() for depth in each}
    assert wanted <= {path.stem for path in GOLDEN.glob("*.npz")}


@pytest.mark.slow
def test_goldens_are_what_timm_answers_today():
    pytest.importorskip("timm", reason="timm is not installed")
    import importlib.util

    script = pathlib.Path(__file__).parents[1] / "benchmarks" / "peers" / "make_goldens.py"
    spec = importlib.util.spec_from_file_location("make_goldens", script)
    make_goldens = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_goldens)
    for timm_name, our_name in make_goldens.NETWORKS.items():
        kept = np.load(GOLDEN / f"{our_name}.npz")
        made = make_goldens.golden(timm_name, our_name)
        for name in kept.files:
            if name != "source":
                assert str(kept[name]) == str(made[name]) if name == "shapes" else np.allclose(kept[name], made[name])


@pytest.mark.parametrize("depth", [50, *(pytest.param(depth, marks=pytest.mark.slow) for depth in (101, 152))])
def test_equal_to_keras_applications(depth):
    """Keras' v1 has the stride in the first 1x1, biases in its convolutions, and another epsilon."""
    theirs = getattr(keras.applications, f"ResNet{depth}")(
        weights=None, input_shape=(None, None, 3), include_top=False, pooling="avg"
    )
    randomise(theirs)
    arrays = {"predictions/kernel": np.eye(2048, 10), "predictions/bias": np.zeros(10)}  # the first pooled features
    for layer in theirs.layers:
        arrays |= {f"{layer.name}/{variable.name}": variable.numpy() for variable in layer.variables}
    ours = resnet_tf.create_model(f"resnet{depth}_v1", num_classes=10, input_shape=(None, None, 3))
    weights.assign(ours, weights.convert(ours, arrays))
    for height, width in SMALLER:
        images = drawn.images(height, width)
        expected = theirs(images, training=False)[:, :10]
        assert relative(ours(images, training=False), expected) < TOLERANCE
    if depth > 50:  # said once
        return
    other = resnet_tf.create_model(f"resnet{depth}_v1b", num_classes=10, input_shape=(None, None, 3))
    for variable, source in zip(other.variables, ours.variables, strict=True):
        variable.assign(source)
    assert relative(other(images, training=False), expected) > 0.01  # v1b is another graph
    with pytest.raises(InputError, match=r"Load them into resnet50_v1$"):
        weights.convert(other, arrays)


@pytest.mark.parametrize("letter", ["v1", "v1b", "v1c", "v1d", "v2"])
# Of 50 layers the goldens of timm have all letters but v1, which keras.applications has, both above.
@pytest.mark.parametrize("depth", [18, pytest.param(50, marks=pytest.mark.slow)])
def test_equal_to_plain_operations(depth, letter):
    model = resnet_tf.create_model(f"resnet{depth}_{letter}", input_shape=(None, None, 3), num_classes=20)
    written = reference.Reference(randomise(model))
    for height, width in SMALLER:
        images = drawn.images(height, width)
        assert relative(model(images, training=False), written.imagenet(images, depth, letter)) < TOLERANCE


@pytest.mark.parametrize("option", "ABC")
@pytest.mark.parametrize("name", ["resnet18_v1", "cifar_resnet14_v1", "cifar_resnet14_v2", "cifar_resnet14_v2 timm"])
def test_shortcuts_equal_plain_operations(name, option):
    name, _, graph = name.partition(" ")
    model = resnet_tf.create_model(
        name, input_shape=(None, None, 3), shortcut=option, graph=graph or None, num_classes=20
    )
    written = reference.Reference(randomise(model), graph or "paper")
    for height, width in ((32, 32), (33, 47)):
        images = drawn.images(height, width)
        if name.startswith("cifar"):
            expected = written.cifar(images, 2, name[-2:], option)
        else:
            expected = written.imagenet(images, 18, "v1", option)
        assert relative(model(images, training=False), expected) < TOLERANCE


@pytest.mark.parametrize("name", ["plain18", "cifar_plain14"])
def test_plain_nets_equal_plain_operations(name):
    model = resnet_tf.create_model(name, input_shape=(None, None, 3), num_classes=20)
    written = reference.Reference(randomise(model))
    images = drawn.images(64, 65)
    plain = written.imagenet(images, 18, "v1", "none") if name == "plain18" else written.cifar(images, 2, "v1", "none")
    assert relative(model(images, training=False), plain) < TOLERANCE


@pytest.mark.parametrize(
    "letter, graph, strided", [("v1", None, "conv1"), ("v2", "paper", "conv1"), ("v2", "timm", "conv2")]
)
def test_bottlenecks_of_cifar_equal_plain_operations(letter, graph, strided):
    model = resnet_tf.create_model(f"cifar_resnet164_{letter}", graph=graph)
    found = {name for name, layer in convolutions(model).items() if layer.strides[0] > 1}
    assert found == {f"stage{stage}_block1_{name}" for stage in (2, 3) for name in (strided, "shortcut_conv")}
    written = reference.Reference(randomise(model), graph or "paper")
    images = drawn.images(32, 32)
    assert relative(model(images, training=False), written.cifar(images, 18, letter, "B", bottleneck=True)) < TOLERANCE


@pytest.mark.parametrize("name", ["resnet18_v2", "cifar_resnet20_v2"])
def test_the_paper_and_timm_have_other_first_shortcuts(name):
    """With the same weights the graphs answer otherwise, and each equals what was written down of it."""
    answers, images = {}, drawn.images(64, 64)
    for graph in (None, "paper", "timm"):
        model = resnet_tf.create_model(name, input_shape=(64, 64, 3), num_classes=20, graph=graph)
        written = reference.Reference(randomise(model), graph or "paper")
        expected = written.imagenet(images, 18, "v2") if "18" in name else written.cifar(images, 3, "v2", "A")
        answers[graph] = model(images, training=False)
        assert relative(answers[graph], expected) < TOLERANCE
    np.testing.assert_array_equal(answers[None], answers["paper"])
    assert relative(answers["timm"], answers["paper"]) > 0.1


def test_graph_is_refused_where_there_is_one():
    for name in ("resnet50_v2", "resnet18_v1b", "cifar_resnet20_v1"):
        with pytest.raises(InputError, match=f"--graph=timm: {name} has one graph"):
            resnet_tf.create_model(name, graph="timm")
    with pytest.raises(InputError, match="--graph=slim: not one of paper, timm"):
        resnet_tf.create_model("resnet18_v2", graph="slim")


@pytest.mark.parametrize(
    "name, options",
    [
        ("resnet50_v1", {}), ("resnet50_v1b", {}), ("resnet18_v1", {"shortcut": "A"}), ("plain18", {}),
        ("resnet18_v2", {}), ("resnet18_v2", {"graph": "timm"}), ("cifar_resnet164_v2", {"graph": "timm"}),
        ("cifar_resnet164_v2", {}), ("cifar_resnet8_v1", {"shortcut": "C"}), ("cifar_resnet8_v2", {"shortcut": "B"}),
        ("resnet14t", {}), ("test_resnet", {}), ("resnetv2_18d", {}), ("resnext50_32x4d", {}), ("cifar_wrn10_2", {}),
    ],
)  # fmt: skip
def test_a_built_network_tells_its_row(name, options):
    model = resnet_tf.create_model(name, **options)
    row = builder.row_of(name, **options)
    assert inside.row_of(model).graph == row.graph
    assert inside.row_of(keras.models.clone_model(model)).graph == row.graph


# --- Training --------------------------------------------------------------------------------------------------------


# Of the other rows, one for each value of a field; see make_goldens.py.
TRAINED = (
    "test_resnet", "resnet14t", "seresnext26t_32x4d", "ecaresnet26t", "resnetblur18", "resnetaa34d", "resnetrs50",
    "resnet50_gn", "resnetv2_50d_evos", "resnetv2_50x1_bit", "cifar_seresnet20_v1", "cifar_wrn16_8",
)  # fmt: skip
OTHERS = re.compile(r"cifar_(resnet1|seresnet|wrn|resnext)")


@pytest.mark.parametrize(
    "name",
    [
        *deepest_slow(
            (row for row in architectures.TABLE if row not in architectures.names_of_timm() and not OTHERS.match(row)),
            "34|101|152|200",
        ),
        *TRAINED,
    ],
)
def test_gradients_reach_every_variable_of_every_row(name):
    model = resnet_tf.create_model(name, input_shape=(32, 32, 3) if "cifar" in name else (64, 64, 3))
    assert_all_trained(model)


def assert_all_trained(model):
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:])).astype(np.float32)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits([0, 1], model(images, training=True)))
    variables = [variable.value for variable in model.trainable_variables]
    for variable, gradient in zip(model.trainable_variables, tape.gradient(loss, variables), strict=True):
        assert gradient is not None and np.isfinite(gradient).all() and np.any(gradient), variable.path


@pytest.mark.parametrize("name", [f"cifar_resnet{depth}_{letter}" for depth in (110, 164) for letter in ("v1", "v2")])
def test_gradients_reach_every_variable_of_deep_cifar_nets(name):
    assert_all_trained(resnet_tf.create_model(name))


@pytest.mark.slow
def test_the_deepest_net_builds_within_pythons_recursion():
    model = resnet_tf.create_model("cifar_resnet1202_v1")
    assert sum(math.prod(variable.shape) for variable in model.trainable_variables) == 19_421_274


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cifar_resnet1202_v1", "cifar_resnet1001_v1", "cifar_resnet1001_v2"])
def test_gradients_reach_every_variable_of_the_deepest(name):
    assert_all_trained(resnet_tf.create_model(name))


@pytest.mark.parametrize("name", ["resnet18_v1b", "resnet50_v1d", "resnet50_v2", "cifar_resnet8_v2"])
def test_zero_gamma_starts_as_the_shortcuts_alone_and_trains(name):
    row = architectures.find(name)
    model = resnet_tf.create_model(name, zero_gamma=True, input_shape=(64, 64, 3))
    path = "kernel" if row.preactivation else "gamma"
    zeros = [v.path for v in model.trainable_variables if v.path.endswith(path) and not np.any(v.numpy())]
    last = 3 if row.bottleneck else 2
    kind = "conv" if row.preactivation else "bn"
    assert len(zeros) == sum(row.blocks) and all(p.split("/")[0].endswith(f"_{kind}{last}") for p in zeros)
    # The zeros themselves must get a gradient at once, or the branch would stay shut for ever.
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(drawn.images(64, 64), training=True) ** 2)
    chosen = [v.value for v in model.trainable_variables if v.path in zeros]
    assert all(np.any(gradient) for gradient in tape.gradient(loss, chosen))


def test_fan_in_changes_only_the_scale_of_kernels_whose_channels_change():
    out, inwards = (resnet_tf.create_model("cifar_resnet8_v1", initializer=name) for name in ("he", "he_fan_in"))
    for ours, theirs in zip(out.trainable_variables, inwards.trainable_variables, strict=True):
        ratio = 1.0
        if len(ours.shape) == 4:
            ratio = math.sqrt(ours.shape[3] / ours.shape[2])  # standard deviations: sqrt(2 / 9 in) and sqrt(2 / 9 out)
        np.testing.assert_allclose(theirs, ratio * ours.numpy(), rtol=1e-6)


def test_xavier_is_uniform_in_the_stated_range():
    kernel = resnet_tf.create_model("resnet18_v1b", initializer="xavier").get_layer("stage2_block1_conv1").kernel
    limit = math.sqrt(6 / (9 * 64 + 9 * 128))
    values = kernel.numpy()
    assert np.abs(values).max() <= limit and np.abs(values).max() > 0.99 * limit
    assert values.std() == pytest.approx(limit / math.sqrt(3), rel=0.01)


# --- Structure -------------------------------------------------------------------------------------------------------


def convolutions(model):
    return {layer.name: layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)}


@pytest.mark.parametrize("depth", [18, pytest.param(34, marks=pytest.mark.slow)])
def test_no_projection_in_the_first_stage_of_basic_nets(depth):
    for letter in ("v1", "v1b", "v1c", "v1d", "v2"):
        names = [name for name in convolutions(resnet_tf.create_model(f"resnet{depth}_{letter}")) if "shortcut" in name]
        assert names == [f"stage{stage}_block1_shortcut_conv" for stage in (2, 3, 4)]


@pytest.mark.parametrize("letter, strided", [("v1", "conv1"), ("v1b", "conv2"), ("v1d", "conv2"), ("v2", "conv2")])
def test_where_the_stride_is(letter, strided):
    found = {
        name
        for name, layer in convolutions(resnet_tf.create_model(f"resnet50_{letter}")).items()
        if layer.strides[0] > 1
    }
    expected = {f"stage{stage}_block1_{strided}" for stage in (2, 3, 4)}
    expected |= {"stem_conv1"} if letter == "v1d" else {"stem_conv"}
    if letter != "v1d":
        expected |= {f"stage{stage}_block1_shortcut_conv" for stage in (2, 3, 4)}
    assert found == expected


def test_v2_ends_in_bn_and_relu():
    names = [layer.name for layer in resnet_tf.create_model("resnet50_v2").layers]
    assert names[-4:] == ["head_bn", "head_relu", "pool", "logits"]
    assert "stem_bn" not in names and not any(name.endswith("shortcut_bn") for name in names)


def test_names_and_weights_do_not_depend_on_the_size():
    models = [resnet_tf.create_model("resnet18_v1d", input_shape=shape) for shape in ((224, 224, 3), (None, None, 3))]
    paths = [[variable.path for variable in model.variables] for model in models]
    assert paths[0] == paths[1]


def test_dropout_is_in_training_alone():
    model = resnet_tf.create_model("cifar_resnet8_v1", dropout=0.5)
    images = drawn.images(32, 32)
    np.testing.assert_array_equal(model(images), model(images))
    assert model.get_layer("dropout").rate == 0.5
    assert "dropout" not in [layer.name for layer in resnet_tf.create_model("cifar_resnet8_v1").layers]


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"name": "resnet18_v1", "input_shape": (31, 64, 3)}, "32 pixels"),
        ({"name": "cifar_resnet20_v1", "input_shape": (3, 3, 3)}, "4 pixels"),
        ({"name": "resnet18_v1", "initializer": "zeros"}, "he, he_fan_in, xavier"),
        ({"name": "resnet18_v1", "dropout": 1.5}, "dropout"),
        ({"name": "resnet50_v1", "shortcut": "A"}, "bottleneck"),
        ({"name": "resnet50"}, "resnet50_v"),
    ],
)
def test_impossible_options_are_one_line(arguments, said):
    with pytest.raises(ValueError) as error:
        resnet_tf.create_model(**arguments)
    assert said in str(error.value) and "\n" not in str(error.value)


# --- Backbones -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, widths", [("resnet18_v1", (64, 128, 256, 512)), ("resnet50_v2", (256, 512, 1024, 2048))]
)
def test_backbone_levels(name, widths):
    backbone = resnet_tf.create_backbone(name)
    outputs = backbone(drawn.images(96, 128))
    assert list(outputs) == ["2", "3", "4", "5"]
    for level, width in zip((2, 3, 4, 5), widths, strict=True):
        assert outputs[str(level)].shape == (2, 96 >> level, 128 >> level, width)


def test_backbone_shares_weights_with_the_classifier(tmp_path):
    model = resnet_tf.create_model("resnet18_v1d", input_shape=(None, None, 3))
    values = randomise(model)
    backbone = resnet_tf.create_backbone("resnet18_v1d", levels=(5,))
    for variable in backbone.variables:
        variable.assign(values[variable.path])
    pooled = tf.reduce_mean(backbone(drawn.images(64, 64))["5"], [1, 2])
    logits = pooled @ values["logits/kernel"] + values["logits/bias"]
    np.testing.assert_allclose(logits, model(drawn.images(64, 64)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18_v1",
        "resnet50_v1",
        pytest.param("resnet50_v1b", marks=pytest.mark.slow),  # resnext50_32x4d but for its groups
        "resnet18_v1d",
        pytest.param("resnet50_v1d", marks=pytest.mark.slow),  # the stem and pools of resnet18_v1d, the rest of v1b
        "resnet50_v2",
        "cifar_resnet8_v1",
        "resnext50_32x4d",
    ],
)
def test_dilation_keeps_the_values_at_the_old_positions(name):
    """What makes ImageNet weights fit a dilated network; nothing but exact padding gives it at the border too."""
    cifar = name.startswith("cifar")
    level, stride, size = ("2", 4, 32) if cifar else ("5", 32, 96)
    plain = resnet_tf.create_backbone(name, levels=(level,))
    values = randomise(plain)
    images = drawn.images(size, size)
    expected = plain(images, training=False)[level]
    for divided in (2, 4):
        dilated = resnet_tf.create_backbone(name, levels=(level,), output_stride=stride // divided)
        for variable in dilated.variables:
            variable.assign(values[variable.path])
        found = dilated(images, training=False)[level]
        assert found.shape[1] == expected.shape[1] * divided
        assert relative(found[:, ::divided, ::divided], expected) < TOLERANCE


@pytest.mark.parametrize("arguments", [{"levels": (1, 2)}, {"levels": (6,)}, {"levels": ()}, {"output_stride": 4 * 3}])
def test_backbone_refuses_what_is_not_there(arguments):
    with pytest.raises(InputError, match="resnet18_v1 has"):
        resnet_tf.create_backbone("resnet18_v1", **arguments)


# --- Command ---------------------------------------------------------------------------------------------------------


def test_models_command(capsys, tmp_path, last_json):
    assert list_command(["resnet50_v*"]) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 7 and "25,557,032" in lines[1] and "3.858" in lines[1]
    assert "GMACs  GFLOPs (thop)" in lines[0] and " 7.758 " in lines[1]  # 2 x 3.858, and 4 x 10.6 million of BN
    assert list_command(["--json"]) == 0
    assert [row["name"] for row in last_json()["models"]] == resnet_tf.list_models()
    assert list_command(["--json", "cifar_resnet26_v1"]) == 0  # of the rule, not of the table
    row = last_json()["models"][0]
    assert row["trainable_parameters"] == 366_938 and row["gflops_thop"] > 2 * row["gmacs"]
    assert list_command(["resnet51*"]) == 1
    assert "nearest" in capsys.readouterr().err
    # Side by side, of plans of other lengths too.
    assert list_command(["--diagram=resnet50_v1d,cifar_plain20", f"--out={tmp_path}/two.png"]) == 0
    assert (tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")
    assert list_command(["--diagram=resnet50_v1d,resnet51", f"--out={tmp_path}/none.png"]) == 1
    assert list_command(["--diagram=resnet50_v1d", f"--out={tmp_path}/none.pdf"]) == 1
    assert "nearest" in capsys.readouterr().err and not list(tmp_path.glob("none*"))


def test_diagrams_show_what_the_letters_change():
    texts = {name: [box.text for box in diagram.boxes(f"resnet50_{name}")] for name in ("v1", "v1b", "v1d", "v2")}
    shortcuts = [box.shortcut for box in diagram.boxes("resnet50_v1d") if box.stage]
    assert (
        texts["v1"][5] == "1x1, 128, /2\n3x3, 128\n1x1, 512" and texts["v1b"][5] == "1x1, 128\n3x3, 128, /2\n1x1, 512"
    )
    assert texts["v1d"][1] == "3x3, 32, /2\n3x3, 32\n3x3, 64"
    assert shortcuts == ["projection", "identity", *["pooled projection", "identity"] * 3]
    assert texts["v2"][-1].startswith("BN, ReLU") and not texts["v1b"][-1].startswith("BN")
    assert not any(box.shortcut for box in diagram.boxes("plain34"))


# --- What a machine's keras.json says --------------------------------------------------------------------------------


def test_networks_do_not_depend_on_keras_json(tmp_path):
    """One that says channels_first, or floats of 16 bits, would build another network without a word."""
    (tmp_path / "keras.json").write_text(
        json.dumps({"image_data_format": "channels_first", "floatx": "float16", "backend": "tensorflow"})
    )
    told = subprocess.run(
        [sys.executable, "-c", _DESCRIBE],
        env=os.environ | {"KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert told.returncode == 0, told.stderr[-2000:]
    with contextlib.redirect_stdout(io.StringIO()) as usual:
        exec(_DESCRIBE, {})
    found, expected = (json.loads(text.splitlines()[-1]) for text in (told.stdout, usual.getvalue()))
    assert found == expected
    assert found["resnet18_v2"][0]["stem_conv/kernel"] == [[7, 7, 3, 64], "float32"]


_DESCRIBE = """
import json
import numpy as np
import resnet_tf
from resnet_tf.tasks import detectors, heads
found = {}
def describe(name, model, *more):
    variables = {variable.path: [list(variable.shape), variable.dtype] for variable in model.variables}
    found[name] = [variables, [[output.shape, output.dtype] for output in model.outputs], *more]
for name in ("cifar_resnet8_v1", "resnet18_v1d", "resnet18_v2"):
    model = resnet_tf.create_model(name, num_classes=3)
    describe(name, model, np.array(model(np.ones((1, *model.input_shape[1:]), np.float32))).tolist())
for head in ("fcn", "deeplabv3plus"):
    describe(head, heads.create("resnet18_v1d", 3, head=head, dropout=0))
for neck in ("c4", "fpn"):
    describe(neck, detectors.create("resnet18_v1d", 3, 64, neck=neck))
print(json.dumps(found))
"""


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_precisions_that_no_network_has_are_refused_at_once(dtype):
    with pytest.raises(InputError, match=f"dtype={dtype}: not one of float32, mixed_bfloat16, mixed_float16"):
        resnet_tf.create_model("cifar_resnet8_v1", dtype=dtype)
    with pytest.raises(InputError, match=f"dtype={dtype}"):
        resnet_tf.create_backbone("resnet18_v1b", dtype=dtype)


def test_float64_rounds_nowhere_to_float32():
    """The layers that could: batch normalisation in training too, group normalisation, EvoNorm, kernels, the head."""
    for name in ("cifar_resnet8_v1", "resnetv2_50d_evos"):
        model = resnet_tf.create_model(name, num_classes=3, input_shape=(32, 32, 3), dtype="float64")
        assert {variable.dtype for variable in model.weights} == {"float64"}
        assert {layer.compute_dtype for layer in model.layers if layer.name != "images"} == {"float64"}
        assert model(np.ones((2, 32, 32, 3)), training=name.startswith("cifar")).dtype == "float64"
    assert {value.dtype for value in weights.state_dict(model).values()} == {np.dtype("float32")}
