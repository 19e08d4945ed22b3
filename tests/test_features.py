"""Features: what the classifier reads, of every example once."""

import numpy as np
import pytest
from PIL import Image

from resnet_tf import features, train
from resnet_tf.evaluation import answers
from resnet_tf.runs import checkpoint

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run on a folder of images."""
    folder = tmp_path_factory.mktemp("features")
    for index in range(13):
        path = folder / "data" / ("train" if index < 8 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (6, 5, 3), np.uint8)
        Image.fromarray(pixels).resize((40, 30 + index), Image.BICUBIC).save(path)
    flags = ["--dataset=folder", "--view=random_resized_crop", f"--data_dir={folder}/data", "--image_size=24",
             "--model=cifar_resnet8_v2", "--batch_size=4", "--train_steps=2"]  # fmt: skip
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    return folder / "run"


def test_features_are_what_the_classifier_reads(run, tmp_path, last_json):
    parquet = pytest.importorskip("pyarrow.parquet")
    for name in ("f.npz", "f.parquet"):
        assert features.main([f"--run={run}", f"--out={tmp_path}/{name}"]) == 0
        assert last_json()["examples"] == {"train": 8, "test": 5}
    arrays = np.load(tmp_path / "f.npz")
    weights = checkpoint.load_latest(run / "checkpoints")
    logits = arrays["test_features"] @ weights["model/logits/kernel"] + weights["model/logits/bias"]
    made = answers.of_logits(logits, arrays["test_labels"])
    scored = answers.read(run / "examples.csv")
    np.testing.assert_allclose(made["loss"], scored["loss"], rtol=1e-4)  # six digits, and float32
    assert list(made["label"]) == list(scored["label"]) and list(arrays["test_names"]) == list(scored["name"])
    table = parquet.read_table(tmp_path / "f.parquet").to_pydict()
    assert table["split"] == ["train"] * 8 + ["test"] * 5
    assert table["name"][8:] == list(scored["name"]) and table["label"][8:] == list(scored["label"])
    np.testing.assert_array_equal(np.float32(table["features"][8:]), arrays["test_features"])


def test_parts_are_together_what_one_file_is(run, tmp_path, last_json, monkeypatch):
    flags = [f"--run={run}", f"--out={tmp_path}/f.npz"]
    assert features.main(flags) == 0
    for part in ("1/2", "2/2"):
        assert features.main([*flags, f"--shard={part}"]) == 0
        done = last_json()
        assert done["shard"] == part and done["files"] == sum(done["examples"].values())
    whole, *parts = (np.load(tmp_path / name) for name in ("f.npz", *(f"f-0000{n}-of-00002.npz" for n in (1, 2))))
    for key, values in whole.items():
        for index, part in enumerate(parts):
            if values.dtype == np.float32:  # batches of other sizes round otherwise
                np.testing.assert_allclose(part[key], values[index::2], rtol=1e-4, atol=1e-5)
            else:
                np.testing.assert_array_equal(part[key], values[index::2])
    monkeypatch.setattr("resnet_tf.evaluation.features._tables", None)  # a part that is done is not done again
    assert features.main([*flags, "--shard=2/2"]) == 0 and last_json() == done


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--out={tmp}/f.txt"], "--out"),
        (["--out={tmp}/none/f.npz"], "--out"),
        (["--out={tmp}/f.npz", "--splits=test,validation"], "--splits=test,validation: the data have train, test"),
        (["--out={tmp}/f.npz", "--data_dir={tmp}/none"], "--data_dir"),
        (["--out={tmp}/f.npz", "--shard=3/2"], "--shard=3/2: not I/N"),
        (["--out={tmp}/f.npz", "--shard=1/6"], "--shard=1/6: test has 5 examples, fewer than parts"),
        (["--out={tmp}/f.npz", "--run={tmp}"], "--run"),
    ],
)
def test_bad_input_is_one_line(flags, named, run, tmp_path, capsys):
    flags = [flag.format(tmp=tmp_path) for flag in flags]
    assert features.main([f"--run={run}", *flags]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and named in error
    assert not list(tmp_path.iterdir())
