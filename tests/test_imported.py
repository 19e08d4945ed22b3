"""Exports of networks with imported weights, without a run: published weights, or a file of one's own."""

import json

import files
import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf import InputError, export, runs
from resnet_tf.data import colour, geometry
from resnet_tf.models import create_model, imagenet, preprocessing, weights

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")
NAMES = [f"kind {number}" for number in range(7)]


def saved(folder, classes, seed=1):
    """A file of weights of a small network, with statistics that are not those of a new one; and the network."""
    model = create_model("cifar_resnet8_v1", num_classes=classes, input_shape=(None, None, 3), seed=seed)
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        if "moving" in variable.path:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
    path = folder / f"{classes}.safetensors"
    weights.save(model, path)
    return path, model


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A network of seven classes, exported in two formats with the normalisation of Caffe."""
    folder = tmp_path_factory.mktemp("own")
    path, model = saved(folder, 7)
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    exported = resnet_tf.export(
        out=folder / "model", network="cifar_resnet8_v1", init_from=path, classes_file=folder / "names.txt",
        image_size=24, resize=28, normalization="caffe", format="savedmodel,keras", licence="CC0 1.0",
    )  # fmt: skip
    return folder, model, exported


def test_a_file_of_weights_is_exported_with_names_preprocessing_and_card(own):
    folder, model, exported = own
    assert (exported["classes"], exported["version"]) == (7, 1) and "run" not in exported
    assert (exported["network"], exported["init_from"]) == ("cifar_resnet8_v1", str(folder / "7.safetensors"))
    data = files.picture(1, size=(40, 30))
    pixels = geometry.center(tf.constant(data), 24, 28).numpy().astype(np.float32)
    expected = tf.nn.softmax(model(pixels[None, ..., ::-1] - colour.PUBLISHED["caffe"].mean[::-1]))[0].numpy()
    (folder / "a.png").write_bytes(data)
    for file in (folder / "model", folder / "model" / "1" / "model.keras"):
        ((_, best, error),) = resnet_tf.predict(file, folder / "a.png", top_k=5)
        assert error is None and [name for name, _ in best] == [NAMES[label] for label in np.argsort(-expected)[:5]]
        np.testing.assert_allclose([share for _, share in best], np.sort(expected)[::-1][:5], rtol=0, atol=1e-5)
    told = resnet_tf.preprocessing_of(folder / "model")
    assert (told.size, told.resize) == (24, 28) and told.mean == pytest.approx(colour.PUBLISHED["caffe"].mean.tolist())
    card = json.loads((folder / "model" / "1" / "model.json").read_text())
    assert card["classes"] == NAMES and card["accuracy"] is None and card["steps"] is None
    text = (folder / "model" / "1" / "model.md").read_text()
    assert f"imported from {folder}/7.safetensors" in text and "the data of their training are not recorded" in text
    assert "These weights were not evaluated." in text and "CC0 1.0" in text and "Trained at" not in text


def test_what_was_exported_is_scored_on_a_folder(own):
    folder, _, _ = own
    for number, name in enumerate(NAMES[:2]):
        (folder / "photos" / name).mkdir(parents=True)
        (folder / "photos" / name / "1.png").write_bytes(files.picture(number, size=(40, 30)))
    assert resnet_tf.evaluate(model=folder / "model", data_dir=folder / "photos")["examples"] == 2
    with pytest.raises(InputError, match="not recorded does not exist"):
        resnet_tf.evaluate(model=folder / "model")


def test_weights_of_a_thousand_classes_have_the_names_of_imagenet(tmp_path):
    path, _ = saved(tmp_path, 1000)
    flags = [f"--init_from={path}", "--image_size=32", "--normalization=imagenet", "--format=keras"]
    assert export.main(["--network=cifar_resnet8_v1", *flags, f"--out={tmp_path}/model"]) == 0
    card = json.loads((tmp_path / "model" / "1" / "model.json").read_text())
    assert card["classes"] == [words for _, words in imagenet.classes()] and card["resize"] == 0


@pytest.mark.parametrize("network, order", [("resnet18_v1d", "RGB"), ("resnet50_v1", "BGR")])
def test_published_weights_have_their_preprocessing(network, order, tmp_path, monkeypatch):
    """A small network in the place of the published one, whose table of preprocessing alone is asked."""
    path, model = saved(tmp_path, 1000)
    known = preprocessing.of_published(network, tested=True)
    assert known.order == order
    monkeypatch.setattr(runs.network, "expected_of", lambda *_, **__: known)
    resnet_tf.export(
        out=tmp_path / "model", network="cifar_resnet8_v1", init_from=path, format="keras,savedmodel", image_size=32
    )
    told = resnet_tf.preprocessing_of(tmp_path / "model")
    assert told.mean == pytest.approx(known.mean) and told.std == pytest.approx(known.std)
    resize = 32 * known.resize // known.size
    assert (told.size, told.resize, told.interpolation) == (32, resize, known.interpolation)
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    probabilities = keras.models.load_model(tmp_path / "model" / "1" / "model.keras")(pixels)
    np.testing.assert_allclose(probabilities, tf.nn.softmax(model(known.layer()(pixels))), rtol=0, atol=1e-5)
    data = files.picture(1, size=(60, 45))
    view = geometry.center(tf.constant(data), 32, resize, None, known.interpolation).numpy().astype(np.float32)
    signature = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures["serving_default"]
    served = signature(image_bytes=tf.constant([data]))["probabilities"]
    np.testing.assert_allclose(served, tf.nn.softmax(model(known.layer()(view[None]))), rtol=0, atol=1e-5)


KNOWN = ["--image_size=32", "--normalization=imagenet"]


@pytest.mark.parametrize(
    "flags, said",
    [
        (KNOWN, "has 7 classes, whose names are not known; --classes_file names them"),
        ([*KNOWN, "--classes_file={0}/two.txt"], "2 lines, but --init_from={0}/7.safetensors has 7 classes"),
        ([*KNOWN, "--classes_file={0}/twice.txt"], "empty or more than once: 'a'"),
        ([*KNOWN, "--classes_file={0}/none.txt"], "none.txt: No such file"),
        (["--classes_file={0}/names.txt"], "what images its weights expect is not known; set --image_size and"),
        ([*KNOWN, "--classes_file={0}/names.txt", "--resize=30"], "--resize=30 is less than --image_size=32"),
        ([*KNOWN, "--init_from="], "--init_from is not set, which --network needs"),
        ([*KNOWN, "--init_from={0}/headless.safetensors"], "has no head whose classes can be counted"),
        ([*KNOWN, "--init_from={0}/none.safetensors"], "no such file"),
        ([*KNOWN, "--run=r"], "--run and --network: one thing is exported"),
        ([*KNOWN, "--weights=ema"], "--weights=ema is not used by --network"),
        ([*KNOWN, "--format=tflite", "--precision=int8"], "--precision=int8 is not used by --network"),
        ([*KNOWN, "--calibrated"], "--calibrated needs --run"),
        (["--network=", "--image_size=32", "--run=r", "--init_from="], "--image_size needs --network"),
    ],
)
def test_what_is_not_known_is_refused_in_one_line(own, flags, said, tmp_path, capsys):
    folder = own[0]
    (folder / "two.txt").write_text("a\nb\n")
    (folder / "twice.txt").write_text("a\na\nb\nc\nd\ne\nf\n")
    if not (folder / "headless.safetensors").exists():
        weights.save(create_model("cifar_resnet8_v1", num_classes=0), folder / "headless.safetensors")
    given = ["--network=cifar_resnet8_v1", f"--init_from={folder}/7.safetensors", f"--out={tmp_path}/out"]
    assert export.main([*given, *(flag.format(folder) for flag in flags)]) == 1
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ") and said.format(folder) in line
    assert not (tmp_path / "out").exists()


def test_export_from_python_needs_what_the_command_needs():
    with pytest.raises(InputError, match=r"^run is not set"):
        resnet_tf.export()
    with pytest.raises(InputError, match=r"^out is not set"):
        resnet_tf.export("run")
