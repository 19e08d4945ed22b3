"""Scripts of benchmarks/peers: their data, views and predictions are those that resnet_tf uses and reads."""

import json
import pathlib
import runpy
import sys

import numpy as np
import pytest
from PIL import Image

from resnet_tf.data import holding_out, sources
from resnet_tf.evaluation import answers

PEERS = pathlib.Path(__file__).parents[1] / "benchmarks" / "peers"


@pytest.fixture
def peers(monkeypatch):
    pytest.importorskip("torch", reason="the peers need PyTorch")
    monkeypatch.syspath_prepend(str(PEERS))


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 9), ("val", 4)):
        for label in ("a", "b"):
            folder = tmp_path / "photos" / split / label
            folder.mkdir(parents=True)
            for index in range(count + (label == "a" and split == "train")):
                Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(folder / f"{index}.jpeg")
    return tmp_path / "photos"


def test_the_peer_holds_out_the_images_that_resnet_tf_holds_out(peers, photos):
    import imagenette_files

    indexed = sources.index("folder", str(photos), val_is="test").splits
    ours = holding_out.by_count(indexed, 5, "stratified")
    theirs = imagenette_files.read(photos, 5)
    assert theirs["classes"] == ["a", "b"]
    for split in ("train", "validation"):
        names = [ours[split].name(index) for index in range(len(ours[split]))]
        assert [name.split("/")[-2:] for name in names] == [name.split("/")[-2:] for name in theirs[split][2]]
        np.testing.assert_array_equal(ours[split].labels, theirs[split][1].numpy())


def test_views_of_the_peer_are_pillows(peers):
    import torch
    import views

    pixels = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    image = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    for top, left, height, width, size in ((0, 0, 48, 48, 32), (5, 7, 40, 33, 32), (3, 10, 20, 17, 32)):
        rows = views.weights(torch.tensor([top]), torch.tensor([height]), 48, size)
        columns = views.weights(torch.tensor([left]), torch.tensor([width]), 48, size)
        found = views.scaled(image, rows, columns)[0].permute(1, 2, 0).numpy()
        box = Image.fromarray(pixels).crop((left, top, left + width, top + height))
        wanted = np.asarray(box.resize((size, size), Image.Resampling.BILINEAR)).astype(float)
        assert np.abs(found - wanted).max() <= 1  # Pillow also rounds between the two axes


def test_the_random_views_keep_their_area_and_shape(peers):
    import torch
    import views

    torch.manual_seed(0)
    image = torch.arange(48.0).expand(200, 3, 48, 48)  # each column is its own position
    found = views.random(image, 24, 0.35)
    assert found.shape == (200, 3, 24, 24) and found.min() >= 0 and found.max() <= 47
    span = (found[:, 0, 0, -1] - found[:, 0, 0, 0]).float()
    assert 0.4 < (span > 0).float().mean() < 0.6  # mirrored half of the time: 5 standard deviations are 0.18
    assert span.abs().max() <= 47 and span.abs().min() >= 0.5 * 48 * (1 - 2 / 24)  # sqrt(0.35 x 3/4) of the side


def test_a_peer_trains_goes_on_and_resnet_tf_reads_its_predictions(peers, photos, tmp_path, monkeypatch, capsys):
    import imagenette_files
    import torch
    import torch_imagenette

    def small(name, classes):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, 2), torch.nn.BatchNorm2d(8), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(8, classes),
        )  # fmt: skip

    def run(out, *flags):
        command = [
            "torch_imagenette.py", f"--data={photos}", "--batch=4", "--size=32", "--epochs=2", "--long=2",
            "--precision=float32", "--compile=none", f"--out={tmp_path / out}", *flags,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", command)
        torch_imagenette.main()
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {name: value for name, value in result.items() if "seconds" not in name}

    monkeypatch.setattr(torch_imagenette, "build", small)
    table = f"--results={tmp_path / 'rows.csv'}"
    result = run("out", table)
    folder = tmp_path / "out" / "xse_resnext50_fastai_32_2_0"
    read = answers.read(folder / answers.FILE)
    assert result["split"] == "test" and result["examples"] == len(read["label"]) == 8 and result["steps"] == 8
    assert answers.right(read).mean() == result["top1"]
    assert run("out", table) == result  # a finished seed is not repeated
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2

    with pytest.raises(SystemExit, match=r"--lr=0\.008 there, 0\.1 here"):
        run("out", "--lr=0.1")

    class Stopped(Exception):
        """The training is interrupted."""

    def stopped(*arguments):
        saved(*arguments)
        raise Stopped

    saved = imagenette_files.save
    monkeypatch.setattr(imagenette_files, "save", stopped)
    with pytest.raises(Stopped):
        run("again", "--save_every=1")
    monkeypatch.setattr(imagenette_files, "save", saved)
    assert run("again", "--save_every=1") == result  # to the bit, on a CPU


def test_the_network_of_fastai_has_its_parts(peers):
    import torch
    import xresnet

    model = xresnet.xse_resnext50(10)
    norms = [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    # Three of the stem, three of each of 16 branches, four of shortcuts; branches start at zero.
    assert len(norms) == 3 + 48 + 4 and sum(not norm.weight.any() for norm in norms) == 16
    attention = [index for index, part in enumerate(model.modules()) if isinstance(part, xresnet.SimpleSelfAttention)]
    assert len(attention) == 1 and model[4 + 2].branch[-1].conv.weight.shape == (256, 256, 1)
    assert model(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    # Without attention it is SE-ResNeXt-50-D: timm's seresnext50_32x4d and what the deep stem adds to resnet50d.
    plain = xresnet.xse_resnext50(1000, attention=False)
    assert sum(weight.numel() for weight in plain.parameters()) == 27_559_896 + (25_576_264 - 25_557_032)


def test_pairs_of_other_images_are_refused(tmp_path, monkeypatch, capsys):
    for name, label in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        row = f"0,val/x/1.jpeg,{label},0,0.9,0.1"
        (tmp_path / name / "examples.csv").write_text("example,name,label,predicted,probability,loss\n" + row + "\n")
    script = runpy.run_path(str(PEERS / "paired.py"))
    monkeypatch.setattr(sys, "argv", ["paired.py", f"--pairs={tmp_path}/a:{tmp_path}/b"])
    script["main"]()
    assert json.loads(capsys.readouterr().out)["p_holm"] == 1
    monkeypatch.setattr(sys, "argv", ["paired.py", f"--pairs={tmp_path}/a:{tmp_path}/c"])
    with pytest.raises(SystemExit, match="other images"):
        script["main"]()


FAKE = """
import pathlib, torch
data = torch.load("cifar10/test.pt")
assert data["images"].shape == (3, 32, 32, 3) and data["labels"].tolist() == [2, 2, 2], data["labels"]
assert data["images"][0, 0, 1].tolist() == [1, 1, 1]
print("|  run     |  epoch  |  val_acc  |  tta_val_acc  |  total_time_seconds  |")
for run in range(9):
    print(f"|  {run}  |  0  |  0.5000  |    |  1.0  |")
    print(f"|    |  1  |  0.9{run}00  |    |  2.0  |")
    print(f"|    |  eval  |  0.9{run}00  |  0.9{run}50  |  {run}.5  |")
"""


def test_a_file_of_airbench_runs_on_the_official_files(peers, tmp_path, monkeypatch, capsys):
    import airbench

    folder = tmp_path / "data"
    folder.mkdir()
    pixels = np.tile(np.arange(32, dtype=np.uint8), 3 * 32)
    for name in (*airbench.TRAIN, *airbench.TEST):
        (folder / name).write_bytes((bytes([2]) + pixels.tobytes()) * 3)
    (tmp_path / "fake.py").write_text(FAKE)
    command = ["airbench.py", f"--file={tmp_path / 'fake.py'}", f"--data_dir={folder}", f"--work={tmp_path / 'work'}"]
    monkeypatch.setattr(sys, "argv", [*command, "--runs=3"])
    airbench.main()
    result = json.loads(capsys.readouterr().out)
    assert result["runs"] == 3 and result["seconds"] == 2.5  # runs 1, 2, 3; 0 is the warm-up
    assert result["each_top1"] == [0.91, 0.92, 0.93] and result["each_top1_mirrored"] == [0.915, 0.925, 0.935]
    (folder / airbench.TRAIN[0]).write_bytes(b"short")
    with pytest.raises(SystemExit, match="cut short"):
        airbench.main()
