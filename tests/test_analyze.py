"""Looking into networks: which layers are taken, their figures beside independent ones, and the command."""

import csv
import re
import xml.etree.ElementTree

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf import analyze, config, train
from resnet_tf.data import colour, sources
from resnet_tf.evaluation import attribution, metrics, responses
from resnet_tf.models import create_model, inside
from resnet_tf.runs import devices, restore

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SIZE = 16
SMALL = (
    "--dataset=digits", f"--image_size={SIZE}", "--batch_size=32", "--train_steps=3", "--lr=0.05", "--pad=0",
    "--mirror=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A residual run and a plain one."""
    folders = []
    for model in ("cifar_resnet8_v1", "cifar_plain8"):
        folders.append(tmp_path_factory.mktemp("analyze") / model)
        assert train.main([*SMALL, f"--model={model}", f"--out={folders[-1]}"]) == 0
    return folders


@pytest.fixture(scope="module")
def test_split():
    return sources.load("digits", image_size=SIZE).splits["test"]


@pytest.fixture
def digit(test_split, tmp_path):
    """A file of the first test image."""
    path = tmp_path / "digit.png"
    Image.fromarray(test_split.images[0]).save(path)
    return path


def shaken(name, **options):
    """A network whose every variable, statistics too, has been moved, so that no two layers are alike."""
    model = create_model(name, input_shape=(SIZE, SIZE, 3), **options)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        noise = rng.uniform(0.5, 1.5, variable.shape).astype(np.float32)
        variable.assign(noise if "kernel" not in variable.path else variable.numpy() * noise)
    return model


def cut(model, layer, images):
    """What a layer puts out, float32."""
    return keras.Model(model.input, model.get_layer(layer).output)(images, training=False).numpy()


# --- Layers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, options, count",
    [
        ("cifar_resnet20_v1", {}, 19),  # 6n + 2 with n = 3, but for the dense layer
        ("cifar_resnet20_v1", {"shortcut": "C"}, 19),
        ("cifar_plain20", {}, 19),
        ("cifar_resnet20_v2", {}, 19),
        ("cifar_resnet20_v2", {"graph": "timm"}, 19),
        ("resnet18_v1d", {}, 3 + 16),  # the deep stem
        ("resnet18_v2", {}, 16),  # no 7x7 stem
        ("resnet50_v1", {}, 16),  # one of a bottleneck
    ],
)
def test_layers_are_the_3x3_and_their_responses_the_bn_after(name, options, count):
    found = inside.responses(create_model(name, **options))
    assert len(found) == count
    for conv, tensor in found.items():
        stage, _, number = conv.rpartition("conv")
        expected = f"{stage}bn{int(number) + 1 if 'v2' in name else number}" if number else "stem_bn"
        if "v2" in name and conv == "stem_conv":
            expected = "stage1_block1_bn1"
        # No BN before the addition, to which timm's stem goes too.
        if "v2" in name and (conv.endswith("conv2") or (conv == "stem_conv" and options.get("graph") == "timm")):
            expected = conv
        assert tensor._keras_history.operation.name == expected
    places = [list(map(int, re.findall(r"\d+", conv))) for conv in found]  # of the stem none, or its number
    assert places == sorted(places, key=lambda place: (len(place) == 3, place))


def test_bottleneck_of_v2_is_read_behind_its_bn():
    found = inside.responses(create_model("resnet50_v2"))
    assert len(found) == 16
    assert all(tensor._keras_history.operation.name == conv.replace("conv2", "bn3") for conv, tensor in found.items())


@pytest.mark.parametrize(
    "name, options, ends",
    [
        ("cifar_resnet14_v1", {"shortcut": "B"}, ["bn2", "bn2"]),
        ("cifar_resnet14_v2", {}, ["bn2", "conv2"]),
        ("cifar_plain14", {}, ["bn2", "bn2"]),
    ],
)
def test_responses_are_the_deviations_of_the_layers(name, options, ends, rng):
    model = shaken(name, **options)
    images = rng.normal(size=(7, SIZE, SIZE, 3)).astype(np.float32)
    found = responses.responses(model, [images[:4], images[4:]])  # batches of two sizes
    assert len(found) == 13
    second = "bn1" if "v2" not in name else "bn2"
    for conv, layer in ((1, second), (2, ends[1])):
        for stage in (1, 2, 3):
            values = cut(model, f"stage{stage}_block2_{layer}", images)
            # Float32 in, and sums in float64 on both sides; convolutions round by batch.
            expected = values.std(dtype=np.float64)
            assert found[f"stage{stage}_block2_conv{conv}"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "name, rectified", [("cifar_resnet14_v1", 7), ("cifar_plain14", 13), ("cifar_resnet14_v2", 7), ("resnet50_v1b", 16)]
)
def test_layers_that_a_relu_reads(name, rectified):
    assert len(inside.rectified(create_model(name))) == rectified


def test_dead_channels_are_counted(rng):
    model = create_model("cifar_resnet8_v1", input_shape=(SIZE, SIZE, 3))
    images = rng.normal(size=(6, SIZE, SIZE, 3)).astype(np.float32)
    largest = cut(model, "stage2_block1_bn1", images).max(axis=(1, 2))  # [image, channel]
    first, second, third = np.argsort(largest.max(axis=0))[-3:]  # channels
    before = responses.measure(model, [images])["stage2_block1_conv1"]
    assert before[1:] == (32, (largest.max(axis=0) <= 0).sum())
    beta = np.zeros(32, np.float32)
    beta[[first, second]] = -1e3
    beta[third] = -np.sort(largest[:, third])[-2:].mean()  # above 0 in one image alone
    model.get_layer("stage2_block1_bn1").beta.assign(beta)
    images = images[np.argsort(largest[:, third])]  # which is in the second batch
    found = responses.measure(model, [images[:4], images[4:]])
    assert found["stage2_block1_conv1"].dead == before.dead + 2
    assert found["stage2_block1_conv2"][1:] == (32, None)


# --- Gradients -------------------------------------------------------------------------------------------------------


def loss_of_resnet8(weights, images, labels):
    """Training loss of cifar_resnet8_v1 in plain operations, from {path: tensor}."""

    def layer(x, name, stride=1):
        conv = f"{name}_conv" if name == "stem" else name.replace("@", "conv")
        bn = f"{name}_bn" if name == "stem" else name.replace("@", "bn")
        x = tf.nn.conv2d(x, weights[f"{conv}/kernel"], stride, [[0, 0], [1, 1], [1, 1], [0, 0]])
        mean, variance = tf.nn.moments(x, [0, 1, 2])
        return tf.nn.batch_normalization(x, mean, variance, weights[f"{bn}/beta"], weights[f"{bn}/gamma"], 1e-5)

    x = tf.nn.relu(layer(images, "stem"))
    for stage in (1, 2, 3):
        stride = 1 if stage == 1 else 2
        y = layer(tf.nn.relu(layer(x, f"stage{stage}_block1_@1", stride)), f"stage{stage}_block1_@2")
        shortcut = x[:, ::stride, ::stride]
        x = tf.nn.relu(tf.pad(shortcut, [[0, 0]] * 3 + [[0, y.shape[-1] - x.shape[-1]]]) + y)
    logits = tf.reduce_mean(x, [1, 2]) @ weights["logits/kernel"] + weights["logits/bias"]
    return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))


def test_gradients_are_those_of_plain_operations(rng):
    images, labels = rng.normal(size=(8, SIZE, SIZE, 3)).astype(np.float32), np.arange(8, dtype=np.int32)
    found = responses.gradients("cifar_resnet8_v1", images, labels, 10, seed=3)
    model = create_model("cifar_resnet8_v1", num_classes=10, input_shape=(SIZE, SIZE, 3), seed=3)
    weights = {variable.path: tf.constant(variable.numpy()) for variable in model.trainable_variables}
    assert found.keys() == weights.keys()
    for path, value in weights.items():  # one layer at a time
        with tf.GradientTape() as tape:
            tape.watch(value)
            loss = loss_of_resnet8(weights, images, labels)
        # Float32 through eight layers, by other kernels.
        assert found[path] == pytest.approx(float(tf.norm(tape.gradient(loss, value))), rel=1e-3), path


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_zero_gamma_shuts_the_branches_but_for_what_opens_them(version, rng):
    images, labels = rng.normal(size=(8, SIZE, SIZE, 3)).astype(np.float32), np.arange(8, dtype=np.int32)
    name = f"cifar_resnet14_{version}"
    assert all(norm > 0 for path, norm in responses.gradients(name, images, labels, 10).items())
    norms = responses.gradients(name, images, labels, 10, zero_gamma=True)
    # What opens a branch: gamma of its last BN, and the beta that is added; in v2, without BN there, the convolution.
    opening = {"v1": ("bn2/gamma", "bn2/beta"), "v2": ("conv2/kernel",)}[version]
    for path, norm in norms.items():
        if version == "v2" and "block1_bn1" in path:
            continue  # read by the shortcut too where shapes change
        assert (norm > 0) == (not path.startswith("stage") or path.endswith(opening)), path


def test_gradients_command_averages_seeds(tmp_path, last_json):
    flags = ["gradients", "cifar_plain8", "cifar_resnet8_v1", f"--image_size={SIZE}", "--batch_size=16", "--seeds=2"]
    assert analyze.main([*flags, f"--out={tmp_path}/g.svg", f"--csv={tmp_path}/figures.csv"]) == 0
    result = last_json()
    networks = ["cifar_plain8", "cifar_resnet8_v1", "cifar_resnet8_v1, zero gamma"]
    assert result["networks"] == networks and result["layers"] == [8, 8, 8] and result["kind"] == "gradients"
    assert xml.etree.ElementTree.parse(tmp_path / "g.svg").getroot().tag.endswith("svg")
    with open(result["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["figures.csv", "g.svg"]
    train_split = sources.load("digits", image_size=SIZE).splits["train"]
    normalization = colour.normalization("channel", train_split.images)
    norms = []
    for seed in (0, 1):
        chosen = np.random.default_rng((seed, 0)).permutation(len(train_split))[:16]  # the order of epoch 0
        images = normalization(train_split.images[chosen])
        norms.append(responses.gradients("cifar_plain8", images, train_split.labels[chosen], 10, seed=seed))
    for row in rows:
        if row["model"] == "cifar_plain8":
            path = f"{row['layer']}/{row['variable']}"
            assert float(row["gradient_norm"]) == pytest.approx((norms[0][path] + norms[1][path]) / 2, rel=1e-4)
    assert {row["zero_gamma"] for row in rows if row["model"] == "cifar_resnet8_v1"} == {"True", "False"}


def test_gradients_are_drawn_with_their_zeros():
    def norms(*kernels):
        return {f"layer{number}/kernel": norm for number, norm in enumerate(kernels)} | {"bn/gamma": 0.5}

    found = {
        ("plain", False): norms(1000.0, 0.2),
        ("residual", False): norms(3.0, 0.3),
        ("residual", True): norms(0, 1),
    }
    chart = responses.draw_gradients(found, plain=["plain"]).axes[0]
    assert [line.get_linestyle() for line in chart.lines] == ["--", "-", "None"]
    assert chart.lines[1].get_color() == chart.lines[2].get_color() != chart.lines[0].get_color()
    assert chart.lines[2].get_ydata().tolist() == [0, 1] and chart.get_ylim()[0] == 0
    assert chart.yaxis.get_transform().linthresh == pytest.approx(0.1)


# --- Of images -------------------------------------------------------------------------------------------------------


def subject(model):
    return attribution.Subject(model, colour.IMAGENET, [f"class{i}" for i in range(10)], SIZE, 0)


@pytest.mark.parametrize("name", ["cifar_resnet8_v1", "cifar_resnet8_v2", "cifar_plain8"])
def test_grad_cam_is_cam(name, rng):
    """Zhou et al. 2016, equation 2: a class's weights of the dense layer over the feature maps before the pool."""
    model = create_model(name, input_shape=(SIZE, SIZE, 3))
    view = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    maps = cut(model, "head_relu" if "v2" in name else "stage3_block1_relu", colour.IMAGENET(view[None]))[0]
    cam = maps @ model.get_layer("logits").kernel.numpy()
    for number in np.argsort(cam.max(axis=(0, 1)))[-2:]:  # two of which there is something to see
        found = attribution.grad_cam(subject(model), view, f"class{number}")
        heat, expected = found.heat, np.maximum(cam[..., number], 0) / cam[..., number].size
        assert found.explained == f"class{number}" and heat.max() > 0
        np.testing.assert_allclose(heat, expected, atol=1e-5 * expected.max())
    assert attribution.grad_cam(subject(model), view).explained == f"class{cam.mean(axis=(0, 1)).argmax()}"


@pytest.mark.parametrize("name", ["cifar_resnet14_v1", "cifar_resnet14_v2"])
def test_activations_are_the_strongest_channels(name, rng):
    model = create_model(name, input_shape=(SIZE, SIZE, 3))
    view = rng.integers(0, 256, (SIZE, SIZE, 3), np.uint8)
    found = attribution.activations(subject(model), view, 5)
    ends = [f"stage{stage}_block2_{'add' if 'v2' in name else 'relu'}" for stage in (1, 2, 3)]
    if "v2" in name:
        ends[-1] = "head_relu"
    for end, (stage, maps), side in zip(ends, found.items(), (SIZE, SIZE // 2, SIZE // 4), strict=True):
        assert stage == end.split("_")[0].replace("head", "stage3")
        values = cut(model, end, colour.IMAGENET(view[None]))[0]
        sizes = np.abs(values).mean(axis=(0, 1))
        assert sizes[list(maps)] == pytest.approx(np.sort(sizes)[::-1][:5], rel=1e-6)
        for channel, drawn in maps.items():
            assert drawn.shape == (side, side)
            np.testing.assert_allclose(drawn, values[..., channel], atol=1e-6 * np.abs(values).max())


def test_an_image_file_is_answered_as_in_evaluation(runs, test_split, digit):
    stored, values, normalization = restore.load(runs[0])
    engine = restore.build_runner(stored, values, normalization, devices.make_strategy(1))
    expected = metrics.probabilities(engine.predict(test_split.images[:1], 1))[0]
    seen = attribution.load(runs[0])
    found = attribution.grad_cam(seen, seen.view(digit), "4")
    assert found.probability == pytest.approx(expected[4], abs=1e-5)
    assert found.predicted == str(expected.argmax())
    larger = digit.with_name("larger.png")
    Image.fromarray(np.repeat(np.repeat(test_split.images[0], 3, axis=0), 2, axis=1)).save(larger)
    assert seen.view(larger).shape == (SIZE, SIZE, 3)


# --- The command -----------------------------------------------------------------------------------------------------


def test_responses_of_runs_in_a_picture_and_a_table(runs, test_split, tmp_path, last_json):
    out = tmp_path / "responses.png"
    assert analyze.main(["responses", *map(str, runs), f"--out={out}"]) == 0
    result = last_json()
    assert result == {
        "kind": "responses", "out": str(out), "csv": f"{tmp_path}/responses.csv",
        "runs": ["cifar_resnet8_v1", "cifar_plain8"], "layers": [7, 7], "dead": [0, 0],
    }  # fmt: skip
    assert np.asarray(Image.open(out).convert("RGB")).std() > 10
    with open(result["csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    stored, values, normalization = restore.load(runs[1])
    model = restore.build_model(stored, values)
    found = [row for row in rows if row["model"] == "cifar_plain8"]
    deviations = [float(row["std"]) for row in found]
    expected = cut(model, "stage2_block1_bn1", normalization(test_split.images)).std(dtype=np.float64)
    assert found[3]["layer"] == "stage2_block1_conv1" and deviations[3] == pytest.approx(expected, rel=1e-5)
    assert [row["channels"] for row in found] == ["16"] * 3 + ["32"] * 2 + ["64"] * 2
    of_block = {row["model"]: row["dead"] for row in rows if row["layer"] == "stage3_block1_conv2"}
    assert of_block == {"cifar_resnet8_v1": "", "cifar_plain8": "0"}  # a shortcut is added to the one alone
    assert [int(row["rank"]) for row in found] == [1 + sorted(deviations, reverse=True).index(v) for v in deviations]
    few = responses.of_run(runs[1], examples=36)["stage2_block1_conv1"]
    every_tenth = cut(model, "stage2_block1_bn1", normalization(test_split.images[::10]))
    assert few == pytest.approx(every_tenth.std(dtype=np.float64), rel=1e-5)


def test_decoded_views_come_once_each(test_split, tmp_path):
    """What fills up the last batch is left out."""
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        for index in range(5):
            Image.fromarray(test_split.images[index]).save(tmp_path / split / "a" / f"{index}.png")
    split = sources.index("folder", str(tmp_path)).splits["test"]
    views = responses._views(config.DataConfig(dataset="folder", data_dir="x", image_size=SIZE), split)
    np.testing.assert_array_equal(np.concatenate(list(views)), test_split.images[:5])


def test_any_number_of_runs_plain_ones_dashed():
    figures = {f"net{count}": {str(layer): 1.0 + layer for layer in range(count)} for count in range(9, 1, -1)}
    charts = responses.draw_responses(figures, plain=["net4"]).axes
    assert [len(chart.lines) for chart in charts] == [8, 8]
    assert [line.get_label() for line in charts[0].lines] == sorted(figures)  # by depth
    assert [line.get_label() for line in charts[0].lines if line.get_linestyle() == "--"] == ["net4"]
    assert len({line.get_color() for line in charts[0].lines}) == 8
    assert charts[1].lines[0].get_ydata().tolist() == [2.0, 1.0]


@pytest.mark.parametrize("kind", ["activations", "grad_cam"])
def test_an_image_in_a_picture(kind, runs, digit, tmp_path, last_json):
    out = tmp_path / f"{kind}.png"
    files = [str(digit)] * (2 if kind == "grad_cam" else 1)
    assert analyze.main([kind, *files, f"--run={runs[0]}", f"--out={out}"]) == 0
    result = last_json()
    assert np.asarray(Image.open(out).convert("RGB")).std() > 10
    if kind == "grad_cam":
        assert [one["file"] for one in result["images"]] == files and result["images"][0]["class"] in "0123456789"
    else:
        assert result["layers"] == 3 and result["channels"] == [8, 8, 8]


@pytest.mark.parametrize(
    "flags, named",
    [
        ([], "analyze: say responses, gradients"),
        (["fly"], "analyze fly: say"),
        (["responses", "RUN", "--out=g.jpg"], "--out=g.jpg"),
        (["responses", "RUN", "--out=no/folder/g.png"], "--out=no/folder/g.png"),
        (["responses", "RUN", "--csv=g.txt"], "--csv=g.txt"),
        (["responses", "RUN", "--seeds=2"], "--seeds is not used by analyze responses"),
        (["responses", "RUN", "--weights=ema"], "--weights=ema"),
        (["responses"], "no runs"),
        (["responses", "RUN", "/no/run"], "/no/run"),
        (["responses", "RUN", "."], "not a run"),
        (["responses", "EMPTY"], "no checkpoint"),
        (["responses", "RUN", "--data_dir=x"], "--data_dir is not used by --dataset=digits"),
        (["responses", "cifar_resnet20_v1:cifar10"], "--dataset=cifar10 needs --data_dir"),
        (["responses", "cifar_resnet20_v1:cifar10", "--data_dir=/no/data"], "/no/data"),
        (["responses", "resnet50_v1:cifar10", "--data_dir=x"], "weights=cifar10: none for resnet50_v1"),
        (
            ["responses", "cifar_resnet20_v1:cifar10", "--data_dir=x", "--weights=best"],
            "--weights=best: cifar_resnet20",
        ),
        (["gradients"], "no networks"),
        (["gradients", "cifar_resnet8_v1", "resnet9"], "resnet9"),
        (["gradients", "cifar_plain8", "resnet9", "--zero_gamma=false"], "resnet9"),
        (["gradients", "cifar_plain8", "--dataset=cifar10"], "--data_dir"),
        (["gradients", "cifar_plain8", "--batch_size=5000"], "--batch_size=5000"),
        (["gradients", "resnet18_v1b", "--image_size=8"], "resnet18_v1b"),
        (["activations", "DIGIT"], "--run is not set"),
        (["activations", "--run=RUN"], "no image"),
        (["activations", "--run=RUN", "DIGIT", "more.png"], "more.png"),
        (["activations", "--run=RUN", "absent.png"], "absent.png: No such file"),
        (["grad_cam", "--run=RUN", "DIGIT", "TEXT"], "text.png: not a JPEG, PNG, BMP, GIF or WebP"),
        (["grad_cam", "--run=RUN", "DIGIT", "--class_name=cat"], "--class_name=cat"),
        (["grad_cam", "--run=/no/run", "DIGIT"], "--run=/no/run"),
    ],
)
def test_bad_input_is_one_line(flags, named, runs, digit, tmp_path, monkeypatch, capsys):
    text, empty = tmp_path / "text.png", tmp_path / "empty"
    text.write_text("not an image")
    empty.mkdir()
    (empty / "manifest.yaml").write_bytes((runs[0] / "manifest.yaml").read_bytes())
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    names = {"RUN": str(runs[0]), "EMPTY": str(empty), "DIGIT": str(digit), "TEXT": str(text)}
    given = [names.get(flag, flag.replace("=RUN", f"={runs[0]}")) for flag in flags]
    out = [] if any(flag.startswith("--out") for flag in given) else ["--out=g.png"]
    capsys.readouterr()
    assert analyze.main([*given, *out]) == 1
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert lines[-1].startswith("error: ") and named in lines[-1] and "Traceback" not in captured.err
    assert captured.out == "" and not list(work.iterdir())
