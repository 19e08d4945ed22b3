"""benchmarks/scale.py: what it refuses, what it makes of measurements, and, slowly, that all of it runs."""

import csv
import json

import pytest
import test_scripts

from resnet_tf.bench import peers, scaled


@pytest.fixture(scope="module")
def scale():
    return test_scripts.script("scale")


class Stub:
    """Processes whose measurements are given."""

    versions = "stub 1"

    def __init__(self, name, systems):
        self.name, self._answers = name, {system: iter(seconds) for system, seconds in systems.items()}
        self.systems = list(systems)

    def request(self, system):
        self._asked = system

    def answer(self, deadline):
        seconds = next(self._answers[self._asked])
        if seconds is None:
            raise peers.InputError("its process ended")
        return seconds

    def close(self):
        pass


def test_shares_ratios_and_rows(scale, monkeypatch, tmp_path, capsys):
    """One GPU: 1 s. Two: 1.25 s, of which 0.125 s are the all-reduce; 2 s from files; DDP fails in its second round."""
    planned = {
        1: [Stub("mirrored", {"device": [9, 1, 1, 1]})],
        2: [
            Stub("mirrored", {"device": [9, 1.25, 1.25, 1.3], "unsummed": [9] + [1.125] * 3,
                              "files": [9, 2, 2, 2]}),
            Stub("processes", {"device": [9, 1.0, 1.25, 1.3]}),
            Stub("ddp", {"device": [9, 2.5, None]}),
        ],
    }  # fmt: skip
    monkeypatch.setattr(scale, "started", lambda arguments, gpus, *_: planned[gpus])
    monkeypatch.setattr(scale, "cards_here", lambda: ["0", "1"])
    flags = ["--gpus=2,1", "--data_dir=x", "--batch_size=10", "--steps=10", "--repeats=3"]
    results, picture = tmp_path / "speed.csv", tmp_path / "scale.png"
    assert scale.main([*flags, f"--results={results}", f"--picture={picture}"]) == 0
    printed = capsys.readouterr()
    found = json.loads(printed.out.strip().splitlines()[-1])["gpus"]
    assert found["1"]["images_per_second"] == {"mirrored device": 100.0}
    two = found["2"]
    assert two["images_per_second"]["mirrored device"] == 160.0 and two["times_one"]["mirrored device"] == 1.6
    assert two["lost"] == {"all-reduce": 0.1, "input": 0.375, "host": pytest.approx(1 - 1 / 1.125, abs=1e-3)}
    assert two["processes_over_mirrored"] == 1.0 and two["mirrored_over_ddp"] == 2.0
    assert "2 GPUs, ddp device: left out: its process ended" in printed.err
    assert "| 2 | mirrored x2, from files | 100 |" in printed.out
    rows = {(row["strategy"], row["system"]): row for row in csv.DictReader(results.open())}
    assert set(rows) == {
        ("mirrored x1", "ours"), ("mirrored x2", "ours"), ("mirrored x2, no all-reduce", "ours"),
        ("mirrored x2, from files", "ours"), ("processes x2", "ours"), ("ddp x2", "timm_compile"),
    }  # fmt: skip
    peer = rows["ddp x2", "timm_compile"]
    assert (peer["ratio"], peer["versions"], peer["batch"], peer["images_per_second"]) == (
        "2.0",
        "stub 1",
        "20",
        "80.0",
    )
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_what_takes_too_long_is_left_out(scale, monkeypatch, capsys):
    monkeypatch.setattr(scale, "started", lambda *_: [Stub("mirrored", {"device": [9, 1, 1], "files": [9, 1, 1]})])
    monkeypatch.setattr(scale, "cards_here", lambda: ["0"])
    assert scale.main(["--gpus=1", "--data_dir=x", "--seconds=4"]) == 1  # nothing was measured
    assert "files: left out: --seconds=4 are over" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--gpus=4"], "--gpus=4: there are 2 GPUs"),
        (["--gpus=two"], "--gpus=two: not numbers of GPUs"),
        (["--parts=disk"], "--parts=disk: not one of device, unsummed"),
        (["--gpus=1"], "--data_dir is not set"),
    ],
)
def test_refusals(scale, flags, said, monkeypatch, capsys):
    monkeypatch.setattr(scale, "cards_here", lambda: ["0", "1"])
    assert scale.main(flags) == 1
    assert said in capsys.readouterr().err.strip()


def test_every_part_is_explained(scale):
    for part in scale.PARTS:
        assert f"    {part} " in scale.__doc__
    for system in scaled.SYSTEMS:
        assert f"    {system} " in scaled.__doc__


@pytest.mark.slow
def test_all_of_it_runs_on_parts_of_a_cpu(scale, capsys):
    assert scale.main(["--gpus=1,2", "--smoke", "--parts=device,unsummed,sync,files,processes"]) == 0
    found = json.loads(capsys.readouterr().out.strip().splitlines()[-1])["gpus"]
    assert len(found["1"]["images_per_second"]) == 2 and len(found["2"]["images_per_second"]) == 7
