"""Exports with weights as constants, folded BN and declared sizes of batches."""

import asyncio
import itertools
import json

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.python.eager import context

from resnet_tf import config, evaluate, export, train
from resnet_tf.bench import inference as speed
from resnet_tf.bench import timed
from resnet_tf.data import colour, images, resizing
from resnet_tf.errors import InputError
from resnet_tf.models import create_model
from resnet_tf.runs import network, restore
from resnet_tf.serving import batching, compiled, folding, predict, runtimes, savedmodel, servable

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A run; its model as it was and compiled, in folders plain and xla."""
    folder = tmp_path_factory.mktemp("compiled")
    flags = ["--dataset=synthetic", "--view=random_resized_crop", "--image_size=24", "--resize=28", "--batch_size=4"]
    flags += ["--model=cifar_resnet8_v1", "--train_steps=2", "--validation_examples=8"]
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/plain"]) == 0
    assert export.main([f"--run={folder}/run", f"--out={folder}/xla", "--compile=xla", "--batch_sizes=4,1,2"]) == 0
    return folder


def drawn(name, dtype="float32"):
    """A network whose BN is not the identity."""
    model = create_model(name, num_classes=7, input_shape=(32, 32, 3), dtype=dtype)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if len(variable.shape) == 1:
            centre = 1 if variable.path.endswith(("gamma", "moving_variance")) else 0
            variable.assign(centre + rng.uniform(-0.3, 0.3, variable.shape))
    return model


@pytest.mark.parametrize("name, left", [("resnet18_v1d", 0), ("resnet18_v2", 9), ("cifar_resnet8_v1", 0)])
def test_folded_networks_give_the_same_probabilities(name, left, rng):
    model = drawn(name)
    folded = folding.fold(model)
    assert sum(isinstance(layer, tf.keras.layers.BatchNormalization) for layer in folded.layers) == left
    inputs = rng.standard_normal((3, 32, 32, 3)).astype(np.float32)
    expected, found = (tf.nn.softmax(one(inputs, training=False)) for one in (model, folded))
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_kernels_have_the_precision_of_the_activations():
    folded = folding.fold(drawn("resnet18_v2", "mixed_float16"))
    kinds = {(type(layer).__name__, weight.dtype) for layer in folded.layers for weight in layer.weights}
    assert kinds == {("Conv2D", "float16"), ("BatchNormalization", "float32"), ("Dense", "float32")}


@pytest.mark.parametrize("device", [0, 1])
def test_any_declared_batch_answers_alike_on_every_device(device, rng, monkeypatch):
    """Device 1 is a GPU, where XLA compiles and batches are padded; XLA does so on a CPU too, for this test."""
    monkeypatch.setattr(tf.raw_ops, "DeviceIndex", lambda device_names: tf.constant(device))
    model = drawn("cifar_resnet8_v1")
    both = tf.keras.Model(model.inputs, [model.get_layer("pool").output, model.output])
    answers = compiled.make(both, colour.IMAGENET, 32, (6, 1, 4), 2.0, 37, "bilinear", 3)
    assert sorted(answers) == [32, 37]
    whole = rng.integers(0, 256, (6, 37, 37, 3), np.uint8)
    cropped = images.resize_center(whole, 32, 37, "bilinear").numpy()
    features, logits = both(colour.IMAGENET(cropped), training=False)
    for pixels, answer in ((cropped, answers[32]), (whole, answers[37])):
        for count in (1, 2, 4, 5, 6):
            found = answer(tf.constant(pixels[:count]))
            np.testing.assert_allclose(found["features"], features[:count], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(found["probabilities"], tf.nn.softmax(logits / 2)[:count], atol=1e-5)
            scores, indices = tf.math.top_k(found["probabilities"], 3)
            np.testing.assert_array_equal(found["scores"], scores)
            np.testing.assert_array_equal(found["indices"], indices)
        for count, words in ((0, "an empty batch"), (7, "a batch of 7 images; the largest declared is 6")):
            with pytest.raises(tf.errors.InvalidArgumentError, match=words):
                answer(tf.zeros([count, *pixels.shape[1:]], tf.uint8))


def test_a_compiled_export_answers_as_before_in_every_signature(exported, rng):
    plain, xla = (servable.load(exported / name) for name in ("plain", "xla"))
    assert plain.signatures.keys() == xla.signatures.keys()
    assert (plain.batch_sizes, xla.batch_sizes) == ((), (1, 2, 4))
    ways = [(40, 33), (28, 28), (28, 30)]  # to be scaled; only to be cropped, in the compiled program and before it
    for (name, signature), sides in itertools.product(plain.signatures.items(), ways):
        pixels = list(rng.integers(0, 256, (3, *sides, 3), np.uint8))
        items = [images.encode_png(one) for one in pixels] if signature.takes_files else pixels
        expected, found = plain.run(name, items), xla.run(name, items)
        for key, values in expected.items():
            if key == "classes":
                np.testing.assert_array_equal(found[key], values)
            else:
                np.testing.assert_allclose(found[key], values, rtol=1e-4, atol=1e-5)


def sent(function, rng):
    """Return the types of what travels between devices when pixels on the second part of the CPU are given."""
    with tf.device("/CPU:1"):
        pixels = tf.identity(rng.integers(0, 256, (2, 28, 28, 3), np.uint8))
        context.enable_run_metadata()
        try:
            function(images=pixels)
            (graphs,) = context.context().export_run_metadata().function_graphs
        finally:
            context.disable_run_metadata()
    nodes = [node for part in graphs.partition_graphs for node in part.node]
    assert sum(node.device.endswith("CPU:1") for node in nodes) > 20
    return [tf.as_dtype(node.attr["T"].type) for node in nodes if node.op == "_Send"]


def test_nothing_travels_between_devices(exported, rng):
    """The second part of the CPU stands for a GPU; images of the right height need no scaling."""
    assert not sent(runtimes.load_signature(exported / "xla", "images"), rng)


def test_of_an_answer_a_gpu_sends_only_indices_of_classes(exported):
    """Names are looked up on the host, by numbers that the compiled network returns."""
    signature = runtimes.load_signature(exported / "xla", "images")
    nodes = [node for function in signature.graph.as_graph_def().library.function for node in function.node_def]
    (names,) = (node for node in nodes if node.op == "GatherV2" and node.attr["Tparams"].type == tf.string)
    assert names.attr["Tindices"].type == tf.int64
    assert sum(node.op == "TopKV2" for node in nodes) == 1  # of the network that all branches call


def test_pixels_stay_on_their_device(rng):
    """Sizes are computed on the host; the pixels once travelled there to tell their shape."""

    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")])
    def scaled(images):
        where = (tf.constant([20, 20], tf.int64), tf.constant([1, 1], tf.int64), [18, 18])
        return resizing.resize_window(images, *where, on_gpu=True)

    types = sent(scaled, rng)
    assert types and tf.uint8 not in types


def test_a_compiled_export_says_so_and_a_training_starts_from_it(exported):
    card = json.loads((exported / "xla" / "1" / "model.json").read_text())
    assert (card["compile"], card["batch_sizes"]) == ("xla", [4, 1, 2])
    assert "compiled for 4, 1, 2" in (exported / "xla" / "1" / "model.md").read_text()
    requests = tf.data.TFRecordDataset(str(exported / "xla" / "1" / "assets.extra" / savedmodel.WARM_UP))
    assert len(list(requests)) == 3  # one of each size
    run, values, _ = restore.load(exported / "run")
    loaded = network.load("init_from", str(exported / "xla"), run.config)
    for variable in loaded.model.variables:
        np.testing.assert_array_equal(values[f"model/{variable.path}"], np.asarray(variable))


def test_every_caller_keeps_to_the_largest_batch(exported, tmp_path, rng, last_json):
    for index in range(6):
        pixels = rng.integers(0, 256, (30, 30, 3), np.uint8)
        (tmp_path / f"{index}.png").write_bytes(images.encode_png(pixels))
    model, sizes = runtimes.load(exported / "xla"), []
    classify = model.classify
    model.classify = lambda encoded: sizes.append(len(encoded)) or classify(encoded)
    paths = sorted(tmp_path.glob("*.png"))
    found = [predictions for _, predictions, _ in predict.classify_files(model, paths, 32)]
    expected = [predictions for _, predictions, _ in predict.classify_files(runtimes.load(exported / "plain"), paths)]
    assert sizes == [4, 2] and [one[0][0] for one in found] == [one[0][0] for one in expected]
    scores = []
    for name in ("plain", "xla"):
        assert evaluate.main([f"--model={exported}/{name}"]) == 0
        scores.append(last_json())
    assert scores[0]["top1"] == scores[1]["top1"] and scores[1]["loss"] == pytest.approx(scores[0]["loss"], abs=1e-5)


def test_what_a_batch_cannot_have_is_named_and_the_next_one_is_answered(exported, rng):
    model = servable.load(exported / "xla")
    pixels = list(rng.integers(0, 256, (5, 30, 30, 3), np.uint8))
    with pytest.raises(runtimes.Refused, match=r"^a batch of 5 images; the largest declared is 4$"):
        model.run("images", pixels)
    with pytest.raises(runtimes.Refused, match=r"^images: .*several sizes in a batch: 30 x 30 x 3, 31 x 30 x 3$"):
        model.run("images", [pixels[0], np.zeros((31, 30, 3), np.uint8)])
    assert model.run("images", pixels[:4])["probabilities"].shape == (4, 10)


def test_a_benchmark_times_both_exports(tmp_path, rng):
    """Of a network with random weights; the pixels need only the central crop."""
    encoded = [images.encode_png(rng.integers(0, 256, (40, 50, 3), np.uint8)) for _ in range(2)]
    section = config.BenchmarkSection(formats=("savedmodel_xla", "onnx_int8"), image_size=28, batches=(1, 3))
    settings = config.BenchmarkConfig(model=config.ModelConfig(model="cifar_resnet8_v1"), benchmark=section)
    folder, card = speed._model(settings, tmp_path, encoded)
    photos = speed._write_images(tmp_path / "images", encoded, card)
    assert np.load(photos / "squares.npy").shape == (2, 32, 32, 3) and not (folder / "model.onnx").exists()
    answers = {}
    for name in ("savedmodel_pixels", "savedmodel_xla_pixels"):
        call, take, _, _ = timed.OURS[name][0](str(folder), photos, "float32")
        answers[name] = call(take(1, 3))
    np.testing.assert_allclose(*answers.values(), atol=1e-5)
    call, take, versions, _ = timed.OURS["onnx_int8"][0](str(folder), photos, "float32")
    np.testing.assert_allclose(call(take(0, 2)).sum(axis=1), 1, atol=1e-5)
    assert "onnxruntime" in versions
    call, take, _, _ = timed.OURS["savedmodel_xla"][0](str(folder), photos, "float32")
    assert [len(one) for one in call(take(0, 2))] == [5, 5]
    with pytest.raises(runtimes.Refused, match="the largest declared is 3"):
        call(take(0, 4))


@pytest.mark.parametrize("error", [tf.errors.ResourceExhaustedError, tf.errors.InternalError])
def test_too_little_memory_is_named_and_a_smaller_batch_is_answered(error):
    def run(kind, items):
        with runtimes.refusals(len(items)):
            if len(items) > 2:
                raise error(None, None, "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.")
            return {"x": np.array(items)}

    async def main():
        batcher = batching.Batcher(run, 8, 0.05)
        worker = asyncio.ensure_future(batcher.work())
        jobs = (("a", [1]), ("a", [2, 3]), ("a", [4, 5, 6]), ("a", [7]))
        results = await asyncio.gather(*(batcher.submit(*job) for job in jobs), return_exceptions=True)
        worker.cancel()
        batcher.close()
        return results

    one, two, many, last = asyncio.run(main())
    assert [list(answer["x"]) for answer in (one, two, last)] == [[1], [2, 3], [7]]
    assert isinstance(many, runtimes.NoMemory)
    assert str(many) == "the device has too little memory for a batch of 3; send fewer images"


@pytest.mark.parametrize(
    "settings, named",
    [
        ({"compile": "xla", "batch_sizes": (0, 4)}, "--batch_sizes=0,4"),
        ({"compile": "xla", "batch_sizes": ()}, "--batch_sizes="),
        ({"compile": "xla", "batch_sizes": (4, 4)}, "each once"),
        ({"batch_sizes": (4,)}, "--batch_sizes is not used by --compile=none"),
        ({"compile": "xla", "format": ("onnx",)}, "--compile is not used by --format=onnx"),
    ],
)
def test_settings_that_cannot_work_are_named(settings, named):
    with pytest.raises(InputError, match=named):
        config.ExportConfig(run="run", out="model", **settings)


def test_the_card_of_earlier_releases_declares_nothing(exported, tmp_path):
    (tmp_path / "model.json").write_text("{}")
    assert runtimes.batch_sizes(tmp_path) == () == runtimes.batch_sizes(tmp_path / "absent")
