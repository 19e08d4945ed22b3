"""A task of one's own: one file, this one, and one row of the table; and what the base class gives it."""

import ast
import dataclasses
import json
import pathlib
from typing import ClassVar

import numpy as np
import pytest
import tensorflow as tf
from matplotlib.figure import Figure

from resnet_tf import compare, config, evaluate, export, tasks
from resnet_tf.data import Source, Split
from resnet_tf.evaluation.logits import SplitLogits
from resnet_tf.runs import network, record
from resnet_tf.tasks.task import Task
from resnet_tf.training import loop

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

LEVELS = ["dark", "grey", "bright"]  # the images' labels: how bright they are


@dataclasses.dataclass(frozen=True)
class BrightnessConfig(config.TrainConfig):
    """A training of the toy."""

    task: ClassVar[str] = "brightness"


class SquaredError:
    """One number for each image, 0 to 2, from which the label is told."""

    def targets(self, labels, classes):
        return labels

    def __call__(self, outputs, targets, teacher=None):
        return tf.square(outputs[:, 0] - tf.cast(targets, tf.float32))

    def metrics(self, outputs, labels):
        near = tf.cast(tf.abs(outputs[:, 0] - tf.cast(labels, tf.float32)) < 0.5, tf.float32)
        return {"top1": near, "top5": near}


class Brightness(Task):
    """How bright an image is, as a number."""

    name = "brightness"

    def load(self):
        labels = np.arange(24, dtype=np.int32) % 3
        images = np.broadcast_to((100 * labels).astype(np.uint8)[:, None, None, None], (24, 16, 16, 3)).copy()
        return Source("brightness", LEVELS, {"train": Split(images, labels), "test": Split(images[:9], labels[:9])}), []

    def build(self, classes, replicas=1):
        return network.build(self.config, 1, replicas)

    def loss(self, classes):
        return SquaredError()

    def view(self, normalization):
        return None  # the images are in memory

    def evaluation(self, runner, split, normalization):
        return SplitLogits(runner, self.config.data, split)

    def score(self, evaluation, split, ema, check, look=None):
        answers = evaluation.logits(ema, check)[:, 0]
        for example, answer in enumerate(answers if look else ()):
            look(example, int(split.labels[example]), float(answer))
        closeness = np.exp(-np.abs(answers - split.labels)).mean()
        return {"examples": len(split), "closeness": float(closeness)}, answers

    def pictures(self, split, classes, answers, shown):
        figure = Figure()
        for axes, (image, truth, answer) in zip(figure.subplots(1, len(shown)), shown, strict=True):
            axes.imshow(image)
            axes.set_title(f"{classes[truth]} {answer:.1f}")
        return {"told.png": figure}


ROW = config.TaskRow(
    config=f"{__name__}:BrightnessConfig",
    task=f"{__name__}:Brightness",
    metrics=(config.Metric("closeness", "Closeness", label="closeness"),),
)


@pytest.fixture
def trained(monkeypatch, tmp_path, capsys):
    """The folder of a toy's run, while the table has its row."""
    monkeypatch.setitem(config.TASKS, "brightness", ROW)
    settings = {
        "model": "cifar_resnet8_v1", "dataset": "synthetic", "image_size": 16, "batch_size": 8, "train_steps": 2,
        "lr": 0.001,
        "out": str(tmp_path / "run"), "results": str(tmp_path / "results.csv"),
    }  # fmt: skip
    result = loop.train(tasks.of(config.from_settings(BrightnessConfig, settings, "test")))
    assert result["steps"] == 2 and 0 < result["closeness"] <= result["best_closeness"] <= 1
    assert f"test  closeness {result['closeness']:.4f}" in capsys.readouterr().err
    return tmp_path / "run"


def test_a_task_is_one_file_and_one_row(trained, tmp_path, last_json, capsys):
    rows = record.read_metrics(trained / "metrics.csv")
    assert tuple(rows[0]) == (*record.METRICS_COLUMNS, "closeness") and rows[-1]["closeness"] > 0
    (header, row) = (tmp_path / "results.csv").read_text().splitlines()
    assert header.endswith(",examples,closeness") and f",9,{json.loads(last(trained))['closeness']}" in row

    assert evaluate.main([f"--run={trained}", f"--report={tmp_path}/report"]) == 0
    result, scored = json.loads(last(trained)), last_json()
    assert {scored[name] == result[name] for name in ("steps", "split", "views", "examples", "closeness")} == {True}
    assert [path.name for path in (tmp_path / "report").iterdir()] == ["told.png"]

    assert compare.main([str(trained), f"--out={tmp_path}/comparison"]) == 0
    report = (tmp_path / "comparison" / "report.md").read_text()
    assert "Closeness, last (%)" in report and "![Closeness (%)](curves_closeness.png)" in report

    for command, flags, words in (
        (evaluate, ["--views=ten_crop"], f"--views is not used by --run={trained}, a run of brightness"),
        (export, [f"--out={tmp_path}/model"], "models of brightness cannot be exported"),
    ):
        assert command.main([f"--run={trained}", *flags]) == 1
        assert words in capsys.readouterr().err


def last(folder):
    """evaluation.json."""
    return (folder / "evaluation.json").read_text()


def test_the_table_and_the_classes_agree():
    for name, row in config.TASKS.items():
        assert row.config_type.task == row.task_type.name == name and issubclass(row.task_type, Task)
        assert len({metric.column for metric in row.metrics}) == len(row.metrics) > 0
        # A setting is a flag, or there is none.
        for section in config.section_types(row.config_type).values():
            assert [field.name for field in dataclasses.fields(section)] == list(section.__annotations__)


def test_rooms_below_know_no_task():
    package = pathlib.Path(tasks.__file__).parent.parent
    for room in ("config", "data", "models", "runs", "training", "serving", "evaluation", "bench"):
        for path in (package / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module] if isinstance(node, ast.ImportFrom) else []
                names += [f"{node.module}.{name.name}" for name in node.names] if names else []
                names += [name.name for name in node.names] if isinstance(node, ast.Import) else []
                assert not [name for name in names if name and name.startswith("resnet_tf.tasks")], path
