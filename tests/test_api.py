"""From Python: fit, evaluate, export and predict; and data that are given there."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
import yaml

import resnet_tf
from resnet_tf import InputError, config, train
from resnet_tf.data import Source, Split
from resnet_tf.runs import restore
from resnet_tf.training import loop

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SMALL = {"model": "cifar_resnet8_v1", "image_size": 16, "batch_size": 8, "train_steps": 2}


@pytest.fixture(scope="module")
def source():
    labels = np.arange(24, dtype=np.int32) % 2
    images = np.broadcast_to((200 * labels).astype(np.uint8)[:, None, None, None], (24, 16, 16, 3)).copy()
    return Source("mine", ["dark", "bright"], {"train": Split(images, labels), "test": Split(images[:7], labels[:7])})


@pytest.fixture(scope="module")
def given(source, tmp_path_factory):
    folder = tmp_path_factory.mktemp("given") / "run"
    assert resnet_tf.fit(source, **SMALL, out=str(folder))["examples"] == 7
    return folder


@pytest.mark.parametrize("lines", [
    "import resnet_tf\nfirst = resnet_tf.evaluate\nimport resnet_tf.evaluate",
    "import resnet_tf.evaluate\nfirst = resnet_tf.evaluate",
    "from resnet_tf import evaluate as first\nimport resnet_tf",
    "import resnet_tf\nfrom resnet_tf.commands import evaluate, export\nfirst = resnet_tf.evaluate",
])  # fmt: skip
def test_commands_are_modules_and_functions_in_any_order(lines):
    script = f"""{lines}
import sys
assert first is resnet_tf.evaluate and callable(first) and first.main
assert {{"fit", "evaluate", "export", "predict", "create_model"}} <= set(dir(resnet_tf))
assert "tensorflow" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_source_needs_no_data_set(given, source, tmp_path, capsys):
    flags = yaml.safe_load((given / "manifest.yaml").read_text())["flags"]
    assert flags["dataset"] == config.GIVEN and flags["data_dir"] == ""
    assert resnet_tf.fit(source, **SMALL, out=str(given))["steps"] == 2  # it goes on
    with pytest.raises(InputError, match="dataset=given: the data were given from Python"):
        resnet_tf.evaluate(given)
    with pytest.raises(InputError, match="dataset=given: the data were given from Python"):
        resnet_tf.fit(**SMALL, dataset="given", out=str(tmp_path / "run"))
    for flag in ({"data_dir": "photos"}, {"validation_examples": 8}, {"classes": ("a", "b")}):
        with pytest.raises(InputError, match=f"--{next(iter(flag))}.* is not used by --dataset=given"):
            resnet_tf.fit(source, **SMALL, **flag)
    assert train.main(["--dataset=given", "--train_steps=1"]) == 2
    assert "flag --dataset=given" in capsys.readouterr().err


def test_what_fit_returns(tmp_path, capfd):
    settings = {"arch": "cifar_resnet8_v1", "dataset": "digits", "image_size": 16, "bs": 64, "learning_rate": 0.1}
    said = []

    class Says(loop.Callback):
        def on_row(self, row):
            said.append(row)

    fitted = resnet_tf.fit(callbacks=[Says()], **settings, steps=4, eval_every=2, out=tmp_path / "run", verbose=0)
    assert capfd.readouterr() == ("", "")
    assert isinstance(fitted, resnet_tf.Fitted) and isinstance(fitted, dict) and fitted["steps"] == 4
    assert fitted.run_dir == tmp_path / "run" and fitted.metrics == {
        name: fitted[name] for name in ("top1", "top5", "loss")
    }
    history = fitted.history
    assert history["test_step"] == [2, 4] and history["test_top1"][-1] == pytest.approx(fitted["top1"], abs=1e-6)
    assert history["loss"] == [row["loss"] for row in said if row["split"] == "train"] and len(history["lr"]) > 0
    assert fitted.evaluate(split="test")["top1"] == pytest.approx(fitted["top1"], abs=1e-6)
    assert fitted.export(tmp_path / "model", format="keras")["version"] == 1

    images = np.arange(3 * 20 * 16 * 3, dtype=np.uint8).reshape(3, 20, 16, 3)
    answers = fitted.predict(images, top_k=10, batch_size=2)
    assert [index for index, _, _ in answers] == [0, 1, 2]
    expected = resnet_tf.preprocessing_of(fitted.run_dir).layer()(images[:, 2:18])
    probabilities = tf.nn.softmax(fitted.model(expected)).numpy()
    for (_, classes, error), row in zip(answers, probabilities, strict=True):
        assert error is None
        np.testing.assert_allclose([dict(classes)[str(digit)] for digit in range(10)], row, rtol=0, atol=1e-5)
    assert resnet_tf.predict(tmp_path / "model", list(images))[0][1][0][0] == answers[0][1][0][0]
    for wrong in (images.astype(np.float32), images[0], [images[0], images[0, 0]]):
        with pytest.raises(InputError, match=r"^files: image \d is not uint8 \[height, width, 3\]"):
            fitted.predict(wrong)
    with pytest.raises(InputError, match="verbose=2: not 0 or 1"):
        resnet_tf.fit(verbose=2, **settings)


def test_fit_says_how_it_goes_unless_it_shall_be_quiet(tmp_path, capfd):
    """Quiet ends with the call, also one that fails."""
    with pytest.raises(InputError):
        resnet_tf.fit(**SMALL, dataset="cifar10", data_dir=str(tmp_path / "none"), verbose=0)
    resnet_tf.fit(**SMALL, dataset="synthetic", out=tmp_path / "run")
    said = capfd.readouterr().err
    assert "data     train 512 images" in said and "step 2/2" in said


def test_another_source_does_not_go_on(given, source):
    fewer = {name: split.take(np.arange(len(split) // 2)) for name, split in source.splits.items()}
    with pytest.raises(InputError, match=r"^source: checksum"):
        resnet_tf.fit(dataclasses.replace(source, splits=fewer), **SMALL, out=str(given))


def test_export_and_predict(given, source, tmp_path):
    exported = resnet_tf.export(given, tmp_path / "model")
    assert exported["version"] == 1 and exported["run"] == str(given)
    (tmp_path / "a.png").write_bytes(tf.io.encode_png(source.splits["test"].images[1]).numpy())
    (tmp_path / "b.png").write_bytes(b"none")
    first, second = resnet_tf.predict(tmp_path / "model", [tmp_path / "a.png", tmp_path / "b.png"], top_k=1)
    assert first[0] == str(tmp_path / "a.png") and first[1][0][0] in ("dark", "bright") and first[2] is None
    assert second[1] == [] and isinstance(second[2], InputError)
    expected = resnet_tf.preprocessing_of(given)
    assert expected == resnet_tf.preprocessing_of(tmp_path / "model") and (expected.size, expected.resize) == (16, 16)
    _, _, normalization = restore.load(given)
    pixels = source.splits["test"].images
    np.testing.assert_allclose(expected.layer()(pixels), normalization(pixels), rtol=1e-5, atol=1e-5)
    (tmp_path / "model" / "1" / "model.json").write_text("{}")
    with pytest.raises(InputError, match=r"model\.json: damaged \(KeyError\('preprocessing'\)\)"):
        resnet_tf.preprocessing_of(tmp_path / "model")
    (of_run,) = resnet_tf.predict(given, tmp_path / "a.png", top_k=1)
    assert of_run[1][0] == (first[1][0][0], pytest.approx(first[1][0][1], abs=1e-5))


def test_other_tasks_and_scores(tmp_path):
    with pytest.raises(InputError, match="task=poetry: not one of classification, segmentation, detection"):
        resnet_tf.fit(task="poetry")
    with pytest.raises(InputError, match="fit: unknown setting nonsense"):
        resnet_tf.fit(nonsense=1)
    run = tmp_path / "run"
    settings = SMALL | {"dataset": "synthetic", "output_stride": 2}
    result = resnet_tf.fit(task="segmentation", **settings, out=str(run))
    assert result.metrics.keys() == {"miou", "pixel_accuracy"}
    assert result.model.get_layer("stem_conv").trainable
    assert resnet_tf.evaluate(run)["miou"] == pytest.approx(result["miou"], abs=1e-6)
    with pytest.raises(InputError, match="of segmentation make no ensemble"):
        resnet_tf.evaluate([run, run])


@pytest.mark.parametrize(
    "flags, named",
    [
        ({"precision": "flaot16"}, "fit: precision=flaot16: not one of float32, tf32, bfloat16, float16"),
        ({"batch_size": 0}, "fit: batch_size=0: not in the range 1 to inf"),
        ({"lr_steps": "10,many"}, "fit: lr_steps=10,many: not int values separated by commas"),
        ({"lr_steps": 10}, "fit: lr_steps=10: "),
    ],
)
def test_values_that_a_flag_would_refuse_are_refused(flags, named):
    with pytest.raises(InputError, match=f"^{re.escape(named)}"):
        resnet_tf.fit(dataset="digits", **SMALL | flags)


def test_lists_may_be_written_as_on_the_command_line():
    made = config.from_settings(
        config.ExportConfig, {"run": "run", "out": "model", "format": "savedmodel,onnx"}, "test"
    )
    assert made.format == ("savedmodel", "onnx")
