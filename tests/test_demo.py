"""The first command that a person runs."""

import pathlib

import pytest

from resnet_tf import demo
from resnet_tf.runs import record

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

RECIPE = pathlib.Path(__file__).parent.parent / "flags" / "demo.cfg"


def settings_of(flags, monkeypatch):
    """What the demo would run with, in the place of the minutes that it takes."""
    seen = []
    monkeypatch.setattr(demo, "_run", lambda settings, _: seen.append(settings) or {})
    assert demo.main(flags) == 0
    return seen[0]


def test_no_flags_are_the_flags_of_its_recipe(monkeypatch):
    plain, recipe = settings_of([], monkeypatch), settings_of([f"--flagfile={RECIPE}"], monkeypatch)
    assert plain == recipe and plain.data.dataset == "digits" and plain.optimizer.train_epochs == 20
    assert settings_of(["--seed=3"], monkeypatch).optimizer.seed == 3


@pytest.mark.parametrize(
    "flags",
    [
        [],
        # Of one recipe more nothing but the training differs, which tests/test_seeing.py has of each.
        pytest.param([f"--flagfile={RECIPE.parent}/imagenette_r50d.cfg"], marks=pytest.mark.slow),
    ],
)
def test_smoke_goes_the_whole_way(flags, tmp_path, monkeypatch, capsys, last_json):
    """In a folder of its own; images are held in memory by the first recipe, and streamed by the second."""
    monkeypatch.chdir(tmp_path)
    assert demo.main([*flags, "--smoke", "--model=cifar_resnet8_v1"]) == 0
    assert set(last_json()) == {"examples", "top1", "top5", "loss"}
    (run,) = (path.parent for path in tmp_path.glob("runs/*/manifest.yaml"))
    assert record.open_run(run).config.model.model == "cifar_resnet8_v1"
    assert len(list(run.with_name(f"{run.name}-images").iterdir())) == 3
    assert (run.with_name(f"{run.name}-savedmodel") / "1" / "model.json").is_file()
