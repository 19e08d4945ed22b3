"""What a run shows: TensorBoard's events and profile, and every recipe, shrunk."""

import gzip
import json
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import yaml
from absl import flags as absl_flags
from files import command_of
from tensorboard.backend.event_processing import event_accumulator

from resnet_tf import config as configuration
from resnet_tf import train
from resnet_tf.runs import devices, record
from resnet_tf.tasks import classification, detection, segmentation
from resnet_tf.transfer import detect, segment

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

ROOT = pathlib.Path(__file__).parent.parent
FLAGFILES = sorted((ROOT / "flags").glob("*.cfg"))
TASKS = {  # by their commands
    train: (configuration.TrainConfig, classification.Classification),
    segment: (configuration.SegmentConfig, segmentation.Segmentation),
    detect: (configuration.DetectConfig, detection.Detection),
}
SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.01", "--pad=2",
    "--train_steps=12", "--log_every=4", "--eval_every=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seen") / "run"
    flags = [*SMALL, "--ema=0.9", "--histograms", "--profile_steps=6,7", f"--out={folder}"]
    assert train.main(flags) == 0
    return folder


def events(folder, split):
    accumulator = event_accumulator.EventAccumulator(str(folder / "events" / split), size_guidance={"images": 0})
    return accumulator.Reload()


def test_events_have_what_a_run_is_judged_by(seen):
    found = events(seen, "train")
    expected = {"loss", "top1", "top5", "error", "lr", "images_per_second", "gradient_norm"}
    tags = found.Tags()["tensors"]
    assert expected <= set(tags) and "views" in tags
    assert "stem_conv/kernel" in tags and len(found.Tensors("stem_conv/kernel")) == 2  # at both evaluations
    assert [event.step for event in found.Tensors("loss")] == [4, 8, 12]
    picture = found.Tensors("views")[0].tensor_proto.string_val
    assert len(picture) == 2 + 16 and all(image.startswith(b"\x89PNG") for image in picture[2:])
    assert "_hparams_/session_start_info" in events(seen, "train").summary_metadata
    for split in ("test", "test_ema"):
        assert {"loss", "top1", "top5"} <= set(events(seen, split).Tags()["tensors"])


def test_rows_say_the_same_as_events(seen):
    rows = [row for row in record.read_metrics(seen / "metrics.csv") if row["split"] == "train"]
    values = [event.tensor_proto for event in events(seen, "train").Tensors("loss")]
    from tensorflow import make_ndarray

    assert [float(make_ndarray(value)) for value in values] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert all(row["mfu"] == "" for row in rows)  # of a CPU the peak is not known
    assert devices.peak_flops("float16") is None


def get(port, path):
    with urllib.request.urlopen(f"http://localhost:{port}/{path}", timeout=30) as answer:
        content = answer.read()
    return gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content


def test_profile_opens_in_tensorboard(seen):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(seen / "events"), "--port", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as board:
        try:
            for _ in range(300):
                time.sleep(0.2)
                assert board.poll() is None
                try:
                    runs = json.loads(get(port, "data/plugin/profile/runs"))
                except OSError:
                    continue
                if runs:
                    break
            (run,) = runs
            tools = json.loads(get(port, f"data/plugin/profile/run_tools?run={run}"))
            assert "trace_viewer@" in tools or "trace_viewer" in tools
            trace = next((seen / "events").rglob("*.xplane.pb")).read_bytes()
        finally:
            board.kill()
    assert b"train" in trace and b"step_num" in trace


# Next to another recipe in all that a training does but the rows of its network, or the numbers of its schedule. All
# are read and shrunk below; `pytest -m slow` trains these too.
NEIGHBOURS = {
    "ade20k_fcn_r50d", "imagenet_plain18", "imagenet_plain34", "imagenet_r34_b", "imagenet_r34_c",
    "imagenet_r50_baseline", "imagenet_r50_efficient", "imagenet_r101", "imagenet_r101_v2", "imagenet_resnetrs50",
    "imagenet_resnext50", "imagenet_seresnet50", "imagenette_r50d", "imagenette_short", "imagenette_long",
    "cifar10_wrn28_10", "voc0712_r101", "voc_faster_rcnn_r101",
    "imagenet_r50d", "imagenet_r18", "imagenet_r34_a",  # imagenet_r50d_distil without what it adds
    "imagenet_r50_a3",  # tests/test_batches.py trains with its parts: loss, optimizer, mixing, RandAugment
    "voc_faster_rcnn_r50", "photos",  # tests/test_detection.py and test_choices.py train as these do
}  # fmt: skip


def shrunk(path):
    """What --smoke makes of a recipe: its settings by name."""
    kind, task = TASKS[command_of(path)]
    values = absl_flags.FlagValues()
    configuration.define_flags(kind, values)
    values(["", f"--flagfile={path}", "--smoke"])
    return configuration.settings_of(task.shrink(configuration.read_flags(kind, values)))


def alike():
    """The recipes, in groups that --smoke makes the same training of."""
    groups = {}
    for path in FLAGFILES:
        groups.setdefault(str(shrunk(path)), []).append(path)
    return [
        pytest.param(
            paths, id="=".join(path.stem for path in paths),
            marks=[pytest.mark.slow] if NEIGHBOURS & {path.stem for path in paths} else [],
        )
        for paths in groups.values()
    ]  # fmt: skip


@pytest.mark.parametrize("paths", alike())
def test_every_recipe_runs_shrunk(paths, tmp_path, last_json):
    assert command_of(paths[0]).main([f"--flagfile={paths[0]}", "--smoke", f"--out={tmp_path}/run"]) == 0
    result = last_json()
    assert result["steps"] == 8 and result["examples"] == 64
    rows = record.read_metrics(tmp_path / "run" / "metrics.csv")
    assert all(row["loss"] > 0 for row in rows if row["split"] == "train")
    manifest = yaml.safe_load((tmp_path / "run" / "manifest.yaml").read_text())
    for path in paths:
        assert_kept(path, manifest["flags"])


@pytest.mark.parametrize("path", FLAGFILES, ids=lambda path: path.stem)
def test_what_makes_a_recipe_stays_when_it_is_shrunk(path):
    assert_kept(path, shrunk(path))


def assert_kept(path, settings):
    """Only sizes and lengths shrink."""
    lines = path.read_text().splitlines()
    for name in ("optimizer", "schedule", "loss", "mixup", "cutmix", "label_smoothing", "view", "zero_gamma", "ema"):
        kept = settings.get(name)  # of the flags that the task has
        for asked in [line.split("=", 1)[1] for line in lines if line.startswith(f"--{name}=")]:
            assert str(kept).lower() == asked or float(asked) == kept
