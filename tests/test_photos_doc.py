"""docs/photos.md: every command of its ten steps runs, its table is that of the code, its bad inputs are refused."""

import contextlib
import csv
import importlib
import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from files import picture, unpack

from resnet_tf import train
from resnet_tf.training import choices, facts

DOC = pathlib.Path(__file__).parent.parent / "docs" / "photos.md"
# What makes the trainings of the document small enough for a test.
SMALL = ("--model=cifar_resnet8_v1", "--train_epochs=2", "--image_size=32", "--batch_size=8")
CLASSES = ("cat", "dog", "owl")

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def commands():
    """The command lines of the ten steps, without `python -m`."""
    text = DOC.read_text()
    steps = text[text.index("## Ten steps") : text.index("## What the folder may look like")]
    return [line.strip().removeprefix("python -m ") for line in steps.splitlines() if "python -m resnet_tf" in line]


def run(line, capsys):
    """Run a command of this process; return its last line as JSON and all it said."""
    module, *arguments = shlex.split(line)
    small = SMALL if module in ("resnet_tf.train", "resnet_tf.show") else ()
    assert importlib.import_module(module).main([*arguments, *small]) == 0, capsys.readouterr().err
    captured = capsys.readouterr()
    return json.loads(captured.out.strip().splitlines()[-1]), captured.err


@pytest.mark.slow  # a test of each command is elsewhere
def test_ten_steps(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(facts, "_can_download", lambda name: False)
    unpack(tmp_path, {
        f"photos/{label}/{number}.jpg": picture(100 * place + number, "JPEG", (40, 48))
        for place, label in enumerate(CLASSES) for number in range(8)
    })  # fmt: skip
    unpack(tmp_path, {f"new/{number}.png": picture(900 + number, size=(50, 40)) for number in range(3)})
    show, first, report, relabel, second, again, export, predict, to_file, serve = commands()

    assert run(show, capsys)[0]["out"] == "views.png" and (tmp_path / "views.png").stat().st_size > 10_000
    result, said = run(first, capsys)
    assert result["split"] == "validation" and result["weights"] == "best"
    assert "python -m resnet_tf.export --run=runs/first" in said
    page = (tmp_path / "runs" / "first" / "report" / "report.html").read_text()
    assert f"of {result['examples']} " in page

    scored, _ = run(report, capsys)
    assert scored["top1"] == result["top1"] and scored["temperature"] > 0
    with open("report/label_errors.csv", newline="") as file:
        header = next(csv.reader(file))
    # What a person would write who found a wrong label: here of the first photo of all.
    with open("runs/first/split.csv", newline="") as file:
        before = list(csv.DictReader(file))
    row = dict.fromkeys(header, "") | {"file": before[0]["file"], "new_label": "owl"}
    with open("report/label_errors.csv", "w", newline="") as file:
        csv.writer(file).writerows([header, [row[name] for name in header]])
    run(relabel, capsys)
    with open("labels.csv", newline="") as file:
        after = list(csv.DictReader(file))
    assert before[0]["label"] == "cat" and after[0] == before[0] | {"label": "owl"} and after[1:] == before[1:]

    changed, _ = run(second, capsys)
    assert changed["examples"] == result["examples"]  # each photo is in its split
    run(again, capsys)
    assert run(export, capsys)[0]["version"] == 1
    assert run(predict, capsys)[0]["images"] == 3
    run(to_file, capsys)
    with open("answers.csv", newline="") as file:
        assert {row["file"] for row in csv.DictReader(file)} == {f"new/{number}.png" for number in range(3)}
    with served(serve) as address, urllib.request.urlopen(address, timeout=30) as answer:
        assert answer.status == 200 and b"<html" in answer.read()


@contextlib.contextmanager
def served(line):
    """The address of the server of a command line, in a process of its own, on any free port."""
    module, *arguments = shlex.split(line)
    environment = os.environ | {"PYTHONPATH": str(DOC.parent.parent)}
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments, "--port=0"], stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        deadline, said = time.monotonic() + 120, []
        while time.monotonic() < deadline and (text := process.stderr.readline()):
            said.append(text)
            if found := re.search(r"ready at (http://\S+)", text):
                yield found[1]
                break
        else:
            raise AssertionError("".join(said))
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()


def test_the_table_of_choices_is_that_of_the_code():
    lines = []
    for row in choices.ROWS:
        settings, most = row.settings, "any" if row.most == float("inf") else f"up to {row.most:,}"
        cells = ("pretrained" if row.pretrained else "from scratch", "GPU" if row.on_gpu else "CPU", most)
        cells += (settings["model"], row.side, f"{settings['train_epochs']:g}", settings["batch_size"])
        lines.append("| " + " | ".join(map(str, (*cells, settings["optimizer"], f"{settings['lr']:g}"))) + " |")
    assert "\n".join(lines) in DOC.read_text(), "\n".join(lines)


@pytest.mark.parametrize("names, said", [
    (["cat/1", "cat/2", "cat/3"], "one class only, cat"),
    (["cat/1", "dog/1"], "nothing to evaluate on"),
    (["cat/1", "cat/2", "Cat/3", "dog/1"], "Cat"),
])  # fmt: skip
def test_bad_folders_are_refused_in_a_line(tmp_path, monkeypatch, capsys, names, said):
    monkeypatch.setattr(facts, "_can_download", lambda name: False)
    unpack(tmp_path / "photos", {f"{name}.png": picture(seed) for seed, name in enumerate(names)})
    assert train.main(["--recipe=photos", f"--data_dir={tmp_path}/photos", f"--out={tmp_path}/run"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert said in line and not (tmp_path / "run").exists()


# What a split says of such a class is in tests/test_photos.py, and what trains without bad images in test_batches.py.
@pytest.mark.slow
def test_a_class_with_one_image_and_an_unreadable_picture(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(facts, "_can_download", lambda name: False)
    images = {f"{name}.png": picture(seed, size=(40, 40)) for seed, name in enumerate(
        [f"{label}/{number}" for label in ("cat", "dog") for number in range(6)] + ["owl/1"]
    )}  # fmt: skip
    unpack(tmp_path / "photos", images | {"dog/0.png": b"no picture"})
    flags = ["--recipe=photos", f"--data_dir={tmp_path}/photos", *SMALL[:1], "--train_epochs=1", "--page=false"]
    assert train.main([*flags, f"--out={tmp_path}/bad"]) == 1
    assert "dog/0.png" in capsys.readouterr().err.splitlines()[-1]
    assert train.main([*flags, f"--out={tmp_path}/run", "--skip_bad_images=1"]) == 0
    assert "too few images for validation of class owl" in capsys.readouterr().err
    assert "dog/0.png" in (tmp_path / "run" / "skipped.csv").read_text()
