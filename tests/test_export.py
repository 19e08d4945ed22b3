"""Exported models: every format answers as its run was evaluated, says what it is, and survives bad input."""

import importlib.util
import io
import json
import pathlib
import resource

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf import config, export, train
from resnet_tf.data import colour, images
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.models import cost, create_model
from resnet_tf.runs import devices, network, record, restore, run_data, versions
from resnet_tf.serving import convert, runtimes, savedmodel

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

ROOT = pathlib.Path(__file__).parent.parent


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run that has learned real digits, with the mean image of the pixels as its normalisation."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    flags = ["--dataset=digits", "--model=cifar_resnet8_v1", "--image_size=16", "--mirror=false", "--pad=1"]
    flags += ["--normalization=pixel", "--batch_size=64", "--train_steps=60", "--lr=0.05", f"--out={folder}"]
    assert train.main(flags) == 0
    return folder


@pytest.fixture(scope="module")
def streamed(tmp_path_factory):
    """A run whose images are larger than its crop, and its exported model."""
    folder = tmp_path_factory.mktemp("streamed")
    flags = ["--dataset=synthetic", "--view=random_resized_crop", "--image_size=24", "--resize=28", "--batch_size=4"]
    flags += ["--model=cifar_resnet8_v1", "--train_steps=2", "--validation_examples=8"]
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    flags = [f"--run={folder}/run", f"--out={folder}/model", "--ten_crop", "--top_k=3", "--licence=CC0 1.0"]
    assert export.main(flags) == 0
    return folder


@pytest.fixture(scope="module")
def signatures(streamed):
    model = tf.saved_model.load(str(streamed / "model" / "1"))
    yield model.signatures


def refused(flags, capsys, code=1):
    """The one line with which export refuses."""
    capsys.readouterr()
    assert export.main([str(flag) for flag in flags]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


# --- The same answers ------------------------------------------------------------------------------------------------

# float16 keeps 11 bits of a kernel, bfloat16 8; int8 is held to its accuracy below.
LARGEST = {"float32": 1e-5, "float16": 1e-2, "bfloat16": 8e-2, "int8": 1.0}


def test_every_format_answers_as_evaluated_in_a_fresh_process(digits, tmp_path, capfd):
    spec = importlib.util.spec_from_file_location("parity", ROOT / "benchmarks" / "parity.py")
    parity = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(parity)
    pixels, labels, expected = parity.evaluated(digits)
    top1 = (expected.argmax(1) == labels).mean()
    assert len(labels) == 360 and top1 == json.loads((digits / "evaluation.json").read_text())["top1"] > 0.8
    found = parity.read_all(parity.export_all(digits, tmp_path), pixels, tmp_path)
    assert len(found) == sum(map(len, parity.EXPORTS.values()))
    for (precision, name), answers in found.items():
        np.testing.assert_allclose(answers, expected, atol=LARGEST[precision], err_msg=f"{name} {precision}")
        assert answers.shape == expected.shape and (answers.argmax(1) == labels).mean() > top1 - 0.02
    sizes = {precision: (tmp_path / precision / "1" / "model.tflite").stat().st_size for precision in LARGEST
             if precision != "bfloat16"}  # fmt: skip
    assert sizes["int8"] < 0.5 * sizes["float32"] and sizes["float16"] < 0.6 * sizes["float32"]


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_files_of_bytes_answer_as_files_of_numbers(precision, streamed, tmp_path, rng):
    pixels, answers = rng.integers(0, 256, (3, 24, 24, 3), np.uint8), []
    for kind in ("float32", "uint8"):
        flags = ["--format=tflite,onnx", f"--precision={precision}", f"--input={kind}"]
        assert export.main([f"--run={streamed}/run", f"--out={tmp_path}/{kind}", *flags]) == 0
        assert f"take images after step 3, {kind} [" in (tmp_path / kind / "1" / "model.md").read_text()
        files = [runtimes.load(tmp_path / kind / "1" / name) for name in ("model.tflite", "model.onnx")]
        assert [file.dtype for file in files] == [kind] * 2
        answers.append([file.probabilities(pixels.astype(file.dtype)) for file in files])
    for numbers, whole in zip(*answers, strict=True):  # int8: the scale of the first activation may differ
        np.testing.assert_allclose(whole, numbers, atol=1e-6 if precision == "float32" else 0.02)


def test_int8_of_onnx_computes_in_integers_for_each_filter(streamed, tmp_path, last_json):
    """Every convolution reads integers, with a scale for each of its filters."""
    onnx = pytest.importorskip("onnx")
    flags = ["--format=onnx", "--precision=int8", "--calibration_examples=3"]
    assert export.main([f"--run={streamed}/run", f"--out={tmp_path}/model", *flags]) == 0
    assert last_json()["files"] == ["model.json", "model.md", "model.onnx"]
    graph = onnx.load(tmp_path / "model" / "1" / "model.onnx").graph
    makers = {output: node for node in graph.node for output in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    convolutions = [node for node in graph.node if node.op_type == "Conv"]
    assert len(convolutions) == 7
    for node in convolutions:
        activations, kernel = (makers[name] for name in node.input[:2])
        assert activations.op_type == kernel.op_type == "DequantizeLinear"
        assert constants[kernel.input[0]].data_type == onnx.TensorProto.INT8
        assert constants[kernel.input[1]].dims == constants[kernel.input[0]].dims[:1]


def test_keras_file_has_only_layers_of_keras(tmp_path, rng):
    """Of a network whose stem pads by minus infinity; CIFAR's shortcuts are in the run above."""
    model = create_model("resnet18_v2", num_classes=7, input_shape=(None, None, 3))
    path = tmp_path / "model.keras"
    convert.keras_file(path, model, colour.IMAGENET, 40)
    loaded = keras.models.load_model(path)
    assert not any(type(layer).__module__.startswith("resnet_tf") for layer in loaded._flatten_layers())
    pixels = rng.integers(0, 256, (2, 40, 40, 3)).astype(np.float32)
    expected = tf.nn.softmax(model(colour.IMAGENET(pixels), training=False))
    np.testing.assert_allclose(loaded(pixels), expected, atol=1e-5)


def test_signatures_agree_with_the_network(streamed, signatures):
    run, values, normalization = restore.load(streamed / "run")
    engine = restore.build_runner(run, values, normalization, devices.make_strategy(1))
    split = run_data.load(run.config)[0].splits["validation"]
    data = tf.constant([split.read(one) for one in range(len(split))])

    center = metrics.probabilities(SplitLogits(engine, run.config.data, split).logits())
    answers = signatures["serving_default"](image_bytes=data)
    np.testing.assert_allclose(answers["probabilities"], center, atol=1e-5)
    assert answers["classes"].shape == answers["scores"].shape == (8, 3)
    np.testing.assert_allclose(answers["scores"], -np.sort(-center, axis=1)[:, :3], atol=1e-5)

    ten = SplitLogits(engine, run.config.data, split, views="ten_crop")
    found = signatures["ten_crop"](image_bytes=data)["probabilities"]
    np.testing.assert_allclose(found, metrics.probabilities(ten.logits()), atol=1e-5)

    features = signatures["features"](image_bytes=data)["features"].numpy()
    kernel, bias = (values[f"model/logits/{name}"] for name in ("kernel", "bias"))
    np.testing.assert_allclose(metrics.probabilities(features @ kernel + bias), center, atol=1e-5)
    pixels = tf.constant(np.stack([images.decode(content) for content in data.numpy()]))
    np.testing.assert_allclose(signatures["images_features"](images=pixels)["features"], features, atol=1e-5)
    with pytest.raises(tf.errors.InvalidArgumentError, match="an empty batch"):
        signatures["serving_default"](image_bytes=tf.constant([], tf.string))


def test_warm_up_is_a_request_that_the_model_answers(streamed, signatures):
    from tensorflow_serving.apis import prediction_log_pb2

    path = streamed / "model" / "1" / "assets.extra" / savedmodel.WARM_UP
    (record,) = tf.data.TFRecordDataset(str(path))
    request = prediction_log_pb2.PredictionLog.FromString(record.numpy()).predict_log.request
    inputs = {name: tf.constant(tf.make_ndarray(value)) for name, value in request.inputs.items()}
    assert signatures[request.model_spec.signature_name](**inputs)["probabilities"].shape == (1, 10)


def test_a_training_starts_from_an_exported_model_in_half_precision(streamed, tmp_path):
    """From the folder of versions; kernels lose half a unit of 8 bits, vectors nothing."""
    assert export.main([f"--run={streamed}/run", f"--out={tmp_path}/model", "--precision=bfloat16"]) == 0
    run, values, _ = restore.load(streamed / "run")
    loaded = network.load("init_from", str(tmp_path / "model"), run.config)
    for variable in loaded.model.variables:
        ours, theirs = values[f"model/{variable.path}"], np.asarray(variable)
        np.testing.assert_allclose(theirs, ours, rtol=2**-8 if ours.ndim > 1 else 0, atol=1e-7, err_msg=variable.path)
    # The kernels in use are those of the file, also in a session, which is how TensorFlow Serving loads models.
    folder, pixels = str(tmp_path / "model" / "1"), np.zeros((1, 24, 24, 3), np.uint8)
    eager = tf.saved_model.load(folder).signatures["images"](images=tf.constant(pixels))["probabilities"]
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], folder).signature_def["images"]
        found = session.run(graph.outputs["probabilities"].name, {graph.inputs["images"].name: pixels})
    np.testing.assert_allclose(found, eager, atol=1e-6)


# --- Versions and the card -------------------------------------------------------------------------------------------


def test_versions_count_up_and_the_newest_is_read(streamed, tmp_path, last_json, capsys):
    run, out = streamed / "run", tmp_path / "deep" / "model"
    for flags, version in (([], 1), (["--version=9"], 9), ([], 10)):
        assert export.main([f"--run={run}", f"--out={out}", "--format=keras", *flags]) == 0
        result = last_json()
        assert (result["version"], result["format"], result["signatures"]) == (version, ["keras"], [])
        assert result["files"] == ["model.json", "model.keras", "model.md"]
        assert result["bytes"] == sum((out / str(version) / name).stat().st_size for name in result["files"])
    assert versions.locate(out) == out / "10" and versions.locate(out / "9") == out / "9"
    (out / "11").mkdir()  # not one of ours, or one half copied
    assert versions.locate(out) == out / "10" and versions.locate(tmp_path) == tmp_path
    before = sorted(out.rglob("*"))
    assert f"--version=9: {out}/9 exists" in refused([f"--run={run}", f"--out={out}", "--version=9"], capsys)
    assert f"--out={out}/9: a model itself" in refused([f"--run={run}", f"--out={out}/9"], capsys)
    assert sorted(out.rglob("*")) == before


def test_a_version_that_somebody_else_made_meanwhile_stays(tmp_path):
    with pytest.raises(InputError, match="meanwhile"), versions.writing(tmp_path / "model", 1) as folder:
        (folder / "ours").touch()
        (tmp_path / "model" / "1").mkdir()
        (tmp_path / "model" / "1" / "theirs").touch()
    assert [path.name for path in (tmp_path / "model").rglob("*")] == ["1", "theirs"]


def test_card_tells_accuracy_only_of_the_weights_that_it_is_of(streamed, tmp_path):
    run = streamed / "run"
    card = json.loads((streamed / "model" / "1" / "model.json").read_text())
    stored = json.loads((run / "evaluation.json").read_text())
    assert card["accuracy"]["top1"] == stored["top1"] and card["accuracy"]["split"] == "validation"
    assert stored["command"] == record.command()
    assert (card["image_size"], card["resize"], card["input"], card["formats"]) == (24, 28, "float32", ["savedmodel"])
    model = create_model("cifar_resnet8_v1", num_classes=10, input_shape=(24, 24, 3))
    assert card["cost"]["parameters"] == cost(model).trainable_parameters
    assert card["cost"]["gflops"] == pytest.approx(2 * cost(model).macs / 1e9, abs=1e-4)
    assert set(card["files"]) | {"model.json", "model.md"} == {
        path.relative_to(streamed / "model" / "1").as_posix()
        for path in (streamed / "model" / "1").rglob("*") if path.is_file()
    }  # fmt: skip
    text = (streamed / "model" / "1" / "model.md").read_text()
    assert f"Top-1 {stored['top1']:.4f}" in text and "CC0 1.0" in text and card["data"]["checksum"] in text

    moved = tmp_path / "run"
    moved.mkdir()
    for name in ("manifest.yaml", "checkpoints"):
        (moved / name).symlink_to(run / name)
    for number, evaluation in enumerate((stored | {"steps": 1}, stored | {"weights": "ema"}), start=1):
        (moved / "evaluation.json").write_text(json.dumps(evaluation))
        assert export.main([f"--run={moved}", f"--out={tmp_path}/model", "--format=keras"]) == 0
        folder = tmp_path / "model" / str(number)
        assert json.loads((folder / "model.json").read_text())["accuracy"] is None
        assert "not evaluated" in (folder / "model.md").read_text()


# --- Bad input -------------------------------------------------------------------------------------------------------


def encoded(rng):
    """A small image in every format."""
    pixels = Image.fromarray(rng.integers(0, 256, (30, 26, 3), np.uint8)).resize((52, 60))
    for form in ("JPEG", "PNG", "GIF", "BMP"):
        file = io.BytesIO()
        pixels.save(file, form)
        yield file.getvalue()


def damaged(rng, good):
    """A random string; or a file that was cut, or in which some bytes changed."""
    kind = rng.integers(3)
    if kind == 0:
        return rng.bytes(rng.integers(0, 100))
    data = bytearray(good[rng.integers(len(good))])
    if kind == 1:
        return bytes(data[: rng.integers(len(data))])
    for place in rng.integers(0, len(data) if rng.integers(2) else 64, rng.integers(1, 9)):
        data[place] = rng.integers(256)
    return bytes(data)


def bad_positions(signature, batch):
    """Positions that the error of a signature names; none where there is none."""
    try:
        signature(image_bytes=tf.constant(batch))
    except tf.errors.InvalidArgumentError as error:
        return [int(number) for number in str(error).split("image_bytes[")[1].split("]")[0].split(", ")]
    return []


def test_ten_thousand_byte_strings_are_images_or_named(signatures, rng, capfd):
    """And exactly those are named that the decoder outside of graphs refuses; the good ones are answered for."""
    good, refused_ones = list(encoded(rng)), 0
    for number in range(100):
        batch = [damaged(rng, good) for _ in range(100)]
        bad = bad_positions(signatures["features"], batch)
        refused_ones += len(bad)
        if number % 10 == 0:
            for position, content in enumerate(batch):
                try:
                    images.decode(content)
                    assert position not in bad
                except InputError:
                    assert position in bad
    assert 3000 < refused_ones < 9900  # of both kinds there were many
    assert signatures["serving_default"](image_bytes=tf.constant(good))["classes"].shape == (4, 3)


def test_bad_images_of_a_batch_are_named_by_position(signatures, rng, capfd):
    jpeg, png, _, _ = encoded(rng)
    huge = bytearray(png)
    huge[16:24] = (10_001).to_bytes(4, "big") + (10_000).to_bytes(4, "big")
    file = io.BytesIO()
    Image.new("P", (8, 8)).save(file, "BMP")
    batch = [jpeg, b"", png, jpeg[:200], b"not an image, but more than a few bytes", bytes(huge), file.getvalue(), png]
    for name in ("serving_default", "features", "ten_crop"):
        assert bad_positions(signatures[name], batch) == [1, 3, 4, 5, 6]
    assert bad_positions(signatures["serving_default"], [jpeg, png]) == []


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--run={run}", "--out={tmp}/m", "--format=tflite,pb"], "--format=tflite,pb"),
        (["--run={run}", "--out={tmp}/m", "--format="], "--format="),
        (["--run={run}", "--out={tmp}/m", "--format=savedmodel,onnx", "--precision=bfloat16"], "--format=onnx"),
        (
            ["--run={run}", "--out={tmp}/m", "--format=onnx,keras", "--input=uint8"],
            "--input=uint8 is not for --format=keras",
        ),
        (["--run={run}", "--out={tmp}/m", "--precision=int8"], "--precision=int8 is not for --format=savedmodel"),
        (
            ["--run={run}", "--out={tmp}/m", "--format=onnx", "--ten_crop"],
            "--ten_crop is not used by --format=onnx; it needs --format=savedmodel",
        ),
        (
            ["--run={run}", "--out={tmp}/m", "--data_dir=x"],
            "--data_dir is not used by --precision=float32; it needs --precision=int8",
        ),
        (["--run={digits}", "--out={tmp}/m", "--ten_crop"], "--ten_crop: {digits} has no --resize above 16"),
        (["--run={run}", "--out={tmp}/file"], "--out={tmp}/file: a file"),
        (["--run={run}", "--out={tmp}/file/m"], "Not a directory"),
        (["--run={tmp}/absent", "--out={tmp}/m"], "--run={tmp}/absent: no such folder"),
        (["--run={tmp}/untrained", "--out={tmp}/m"], "no checkpoint yet"),
        (["--run={run}", "--out={tmp}/m", "--weights=ema"], "--weights=ema"),
        (["--out={tmp}/m"], "--run is not set"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(flags, named, digits, streamed, tmp_path, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "untrained").mkdir()
    (tmp_path / "untrained" / "manifest.yaml").write_bytes((streamed / "run" / "manifest.yaml").read_bytes())
    places = {"run": streamed / "run", "digits": digits, "tmp": tmp_path}
    before = sorted(tmp_path.rglob("*"))
    assert named.format(**places) in refused([flag.format(**places) for flag in flags], capsys)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("form", ["savedmodel", "tflite", "onnx", "keras"])
def test_full_disk_leaves_nothing(form, streamed, tmp_path, capfd):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # less than the weights take
    try:
        line = refused([f"--run={streamed}/run", f"--out={tmp_path}/model", f"--format={form}"], capfd)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "File too large" in line and not list(tmp_path.iterdir())


def test_exported_settings_are_refused_before_tensorflow_is_asked():
    with pytest.raises(InputError, match="each once"):
        config.ExportConfig(format=("onnx", "onnx"))
