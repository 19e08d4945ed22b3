"""Comparing runs: what is read, what is refused, and the tables and pictures that come of it."""

import dataclasses
import errno
import itertools
import json
import os
import pathlib
import re
import shutil
import statistics
import sys
import xml.etree.ElementTree

import numpy as np
import pytest
import yaml
from browser import browser
from compared import EXAMPLES, TRAINING, Page, check_page, make_run, read_csv, run_command
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from scipy import stats

from resnet_tf import analyze, compare, config, files, train
from resnet_tf.errors import InputError
from resnet_tf.evaluation import answers, curves, page, responses, trained
from resnet_tf.evaluation import compare as comparing

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

SCRIPT = "<script>alert(1)</script>"
OUTPUTS = {
    "report.html", "report.md", "table.csv", "table.md", "flags.csv", "significance.csv",
    *(f"curves_{metric}.{form}" for metric in ("loss", "top1_error", "top5_error") for form in ("png", "svg")),
}  # fmt: skip


@pytest.fixture
def two(tmp_path):
    return [make_run(tmp_path / "a", right=0.9), make_run(tmp_path / "b", right=0.88, lr=0.2)]


# --- Twelve runs -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def twelve(tmp_path_factory):
    """Four recipes of three seeds, and what comes of comparing them: (folders, out, JSON line, what is printed)."""
    root = tmp_path_factory.mktemp("twelve")
    recipes = {
        "base": {},
        "slow": {"lr": 0.01},
        "bf16": {"precision": "bfloat16"},
        "long": {"lr": 0.1, "momentum": 0.8},
    }
    hard = np.random.default_rng(5).permutation(EXAMPLES)
    folders = [
        make_run(root / f"{name}-s{seed}", seed, 0.92 - 0.02 * place - 0.003 * seed, 200, log_every=50 + seed,
                 hard=hard if place == 3 else None, **flags)
        for place, (name, flags) in enumerate(recipes.items()) for seed in range(3)
    ]  # fmt: skip
    lines = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda *words, **_: lines.extend(" ".join(map(str, words)).splitlines()))
        assert run_command(folders, root / "out", "--title=Learning & rates", "--price_per_hour=3") == 0
    return folders, root / "out", json.loads(lines[-1]), lines


def test_every_output_is_there(twelve):
    folders, out, result, lines = twelve
    assert {path.name for path in out.iterdir()} == OUTPUTS | {"significance_seeds.csv"}
    assert result["runs"] == [folder.name for folder in folders] and result["skipped"] == []
    assert [(group["name"], group["runs"], group["seeds"]) for group in result["groups"]] == [
        (name, 3, [0, 1, 2]) for name in ("base", "slow", "bf16", "long")
    ]
    assert result["best"] == {"run": "base-s0", "top1": 0.92, "evaluated": "test"} and result["pairs"] == 6
    for metric in ("loss", "top1_error", "top5_error"):
        picture = Image.open(out / f"curves_{metric}.png")
        assert picture.size[0] > 900 and len(set(picture.convert("RGB").getdata())) > 50
        texts = [e.text for e in xml.etree.ElementTree.parse(out / f"curves_{metric}.svg").iter() if e.text]
        assert {"base (3 seeds)", "slow (3 seeds)", "bf16 (3 seeds)", "long (3 seeds)"} <= set(texts)
    assert any("base, mean of 3 seeds" in line and "91.70 \u00b1 0.30" in line for line in lines)


def test_table_holds_runs_and_their_means(twelve):
    _, out, result, _ = twelve
    rows = read_csv(out / "table.csv")
    assert len(rows) == 16 and [row["kind"] for row in rows[:5]] == ["seeds", "run", "run", "run", "seeds"]
    for index in range(0, 16, 4):
        top1 = [float(row["top1"]) for row in rows[index + 1 : index + 4]]
        assert float(rows[index]["top1"]) == pytest.approx(statistics.mean(top1))
        assert float(rows[index]["top1_sd"]) == pytest.approx(statistics.stdev(top1))
        assert result["groups"][index // 4]["top1_sd"] == pytest.approx(statistics.stdev(top1), abs=1e-6)
    run = rows[1]
    # He et al. 2015 on CIFAR: 0.27 million parameters; 40.8 million MACs by the closed form of this network.
    assert float(run["parameters_mib"]) == pytest.approx(269722 * 4 / 2**20)
    assert float(run["gflops"]) == 2 * float(run["gmacs"]) and 0.040 < float(run["gmacs"]) < 0.042
    # 0.19 million numbers pass a BN, by the same closed form: 7 x 16 x 32^2 + 6 x 32 x 16^2 + 6 x 64 x 8^2.
    assert float(run["gflops_thop"]) == pytest.approx(float(run["gflops"]) + 4 * 188_416 / 1e9)
    assert run["precision_bits"] == "32" and rows[9]["precision_bits"] == "16"
    assert float(run["images_per_second"]) == pytest.approx(1100.5)  # median of 1001 to 1200
    assert float(run["wall_seconds"]) == 7200 and float(run["gpu_hours"]) == 4 and float(run["price"]) == 12
    assert float(run["best_top1"]) >= float(run["top1"]) and run["steps"] == run["planned_steps"] == "20000"
    assert float(run["epochs"]) == 200 and run["commit"] == "0123456789ab"
    markdown = (out / "table.md").read_text().splitlines()
    assert len(markdown) == 18 and len({line.count("|") for line in markdown}) == 1
    for unit in (
        "(MiB)",
        "(bits)",
        "(%)",
        "GMACs",
        "GFLOPs",
        "GFLOPs (thop)",
        "h:mm:ss",
        "Images/s",
        "GPU-hours",
        "(at 3 an hour)",
    ):
        assert unit in markdown[0]


def test_flags_that_differ(twelve):
    rows = {row["flag"]: row for row in read_csv(twelve[1] / "flags.csv")}
    assert set(rows) == {"seed", "lr", "precision", "momentum", "log_every"}
    assert rows["lr"]["slow-s1"] == "0.01" and rows["lr"]["base-s1"] == "0.1"
    assert rows["seed"]["changes_result"] == "True" and rows["log_every"]["changes_result"] == "False"


def test_significance_of_every_pair_of_groups(twelve):
    folders, out, _, _ = twelve
    rows = {(row["a"], row["b"]): row for row in read_csv(out / "significance.csv")}
    assert set(rows) == {("base-s0", "slow-s0"), ("base-s0", "bf16-s0"), ("base-s0", "long-s0"),
                         ("slow-s0", "bf16-s0"), ("slow-s0", "long-s0"), ("bf16-s0", "long-s0")}  # fmt: skip
    assert (rows["base-s0", "slow-s0"]["a_only"], rows["base-s0", "slow-s0"]["b_only"]) == ("20", "0")
    assert float(rows["base-s0", "slow-s0"]["p"]) == pytest.approx(2 / 2**20)
    right = {}
    for name in ("base-s0", "long-s0"):
        found = answers.read(folders[0].parent / name / "examples.csv")
        right[name] = found["label"] == found["predicted"]
    b, c = (right["base-s0"] & ~right["long-s0"]).sum(), (~right["base-s0"] & right["long-s0"]).sum()
    row = rows["base-s0", "long-s0"]
    assert c > 0 and (int(row["a_only"]), int(row["b_only"])) == (b, c)
    assert float(row["p"]) == pytest.approx(stats.binomtest(int(b), int(b + c)).pvalue)
    assert float(row["difference_points"]) == pytest.approx(100 * (b - c) / EXAMPLES)
    assert all(float(row["p_holm"]) >= float(row["p"]) for row in rows.values())


def test_page_needs_nothing_but_itself(twelve):
    text = (twelve[1] / "report.html").read_text()
    assert len(text.encode()) < 3 << 20
    shown = check_page(text)
    tags = [tag for tag, _ in shown.elements]
    assert tags.count("table") == tags.count("caption") == 5 and tags.count("figure") == 3
    assert all("aria-label" in attributes for tag, attributes in shown.elements if tag == "figure")
    assert "Learning & rates" in shown.text and tags.count("h1") == 1
    words = "".join(shown.text)
    assert "python -m resnet_tf.train" in words and "NVIDIA H100" in words and "Holm" in words
    assert "#ffffff" not in text.split("</style>")[1]  # no white ground in the dark
    report_text = (twelve[1] / "report.md").read_text()
    marks = [line for line in report_text.splitlines() if re.fullmatch(r"[-:| ]+", line)]
    assert len(marks) == 5 and all(re.fullmatch(r"\|( -+:? \|)+", line) for line in marks)
    assert "# Learning &amp; rates" in report_text and "](curves_loss.png)" in report_text


def test_page_in_a_browser(twelve, tmp_path):
    """No request but for the page, nothing on the console, nothing wider than a phone; skipped without Chromium."""
    url = (twelve[1] / "report.html").as_uri()
    grounds = {}
    with browser(tmp_path) as opened:
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            opened.open(url, width, 900, scheme)
            requests = [e["params"]["request"]["url"] for e in opened.events if e["method"].endswith("WillBeSent")]
            assert requests == [url]
            spoken = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
            assert not spoken & {event["method"] for event in opened.events}
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            table = "document.querySelector('.results')"
            assert opened.evaluate(f"{table}.scrollWidth > {table}.clientWidth")  # it scrolls by itself
            assert opened.evaluate("document.querySelector('figure svg').getBoundingClientRect().height") > 150
            grounds[scheme] = [
                opened.evaluate(f"getComputedStyle(document.querySelector('{part}')).{what}")
                for part, what in (("body", "backgroundColor"), ("body", "color"), ("figure svg text", "fill"))
            ]
    assert all(light != dark for light, dark in zip(*grounds.values(), strict=True))


# --- A run as training leaves it -------------------------------------------------------------------------------------


def test_a_trained_run_copied_without_checkpoints(tmp_path, last_json):
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--pad=0"]
    flags += ["--train_steps=8", "--log_every=2", "--eval_every=4", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    training = last_json()
    (tmp_path / "copy").mkdir()
    for name in ("manifest.yaml", "metrics.csv", "evaluation.json"):
        shutil.copy(tmp_path / "run" / name, tmp_path / "copy")
    assert run_command([tmp_path / "copy"], tmp_path / "out") == 0
    result = last_json()
    assert result["best"] == {"run": "copy", "top1": training["top1"], "evaluated": "test"} and result["pairs"] == 0
    run = trained.read(tmp_path / "copy")
    assert run.cost.trainable_parameters == run.manifest["model"]["trainable_parameters"]
    assert run.finished and run.planned == run.steps == 8 and len(run.curve("test", "top1")[0]) == 2
    assert run.gpus == 0 and run.unanswered == "no examples.csv"


def test_layer_responses_of_a_checkpoint_or_kept_in_its_place(tmp_path, capsys, caplog):
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--pad=0"]
    run, kept = tmp_path / "run", tmp_path / "run" / "responses.csv"
    assert train.main([*flags, "--train_steps=2", f"--out={run}"]) == 0
    assert run_command([run], tmp_path / "out", "--responses") == 0
    computed = responses.of_run_or_kept(run)
    assert "Layer responses" in (tmp_path / "out" / "report.html").read_text()
    assert analyze.main(["responses", str(run), f"--out={tmp_path}/of.png", f"--csv={kept}"]) == 0
    shutil.rmtree(run / "checkpoints")
    assert run_command([run], tmp_path / "kept", "--responses") == 0
    assert (tmp_path / "kept" / "responses.svg").exists()
    assert responses.of_run_or_kept(run) == pytest.approx(computed, rel=1e-5)  # the file has six digits
    other = shutil.copytree(run, tmp_path / "other", ignore=shutil.ignore_patterns("responses.csv"))
    manifest = (other / "manifest.yaml").read_text()
    (other / "manifest.yaml").write_text(manifest.replace("momentum: 0.9", "momentum: 0.8"))
    assert run_command([run, other], tmp_path / "both", "--responses") == 0
    assert "Layer responses are not known of other." in (tmp_path / "both" / "report.md").read_text()
    kept.write_text(kept.read_text() + kept.read_text().split("\n", 1)[1])  # as of two runs
    capsys.readouterr()
    assert run_command([run], tmp_path / "none", "--responses") == 1
    assert f"{kept}: not the layer responses of one run" in capsys.readouterr().err
    kept.unlink()
    assert run_command([run], tmp_path / "none", "--responses") == 1
    assert "--responses: no run has a checkpoint" in capsys.readouterr().err
    assert "warning: run has neither a checkpoint nor a responses.csv: no layer responses" in caplog.messages
    assert not (tmp_path / "none").exists()
    assert run_command([run], tmp_path / "none", "--data_dir=x") == 1


# --- Bad input -------------------------------------------------------------------------------------------------------


def cut(name, part):
    """Damage: a file of which only a part is left; a whole number of lines where `part` is one."""

    def damage(folder):
        data = (folder / name).read_bytes()
        kept = data[: int(part * len(data))] if part < 1 else b"".join(data.splitlines(keepends=True)[: int(part)])
        (folder / name).write_bytes(kept)

    return damage


def cut_before(name, text):
    """Damage: a file of which the lines before a text are left."""

    def damage(folder):
        (folder / name).write_text((folder / name).read_text().split(text)[0])

    return damage


def without(*names):
    def damage(folder):
        for name in names:
            (folder / name).unlink()

    return damage


def replaced(name, text):
    return lambda folder: (folder / name).write_text(text)


def without_evaluation(folder):
    """As after a few steps of training."""
    (folder / "evaluation.json").unlink()
    lines = (folder / "metrics.csv").read_text().splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(line for line in lines if ",test," not in line))


def edited(**changes):
    def damage(folder):
        manifest = yaml.safe_load((folder / "manifest.yaml").read_text())
        (folder / "manifest.yaml").write_text(yaml.safe_dump(manifest | changes, sort_keys=False))

    return damage


DAMAGES = {
    "no folder": (shutil.rmtree, "no such folder"),
    "no manifest": (without("manifest.yaml"), "manifest.yaml"),
    "manifest cut": (cut("manifest.yaml", 0.6), "manifest.yaml"),
    "manifest cut in its last line": (cut("manifest.yaml", 0.999), "manifest.yaml: cut short"),
    "manifest cut between lines": (cut_before("manifest.yaml", "  out:"), "manifest.yaml: damaged"),
    "manifest of another kind": (replaced("manifest.yaml", "- 1\n"), "manifest.yaml: damaged"),
    "manifest of flags that are none": (edited(flags=None), "manifest.yaml: damaged"),
    "manifest without data": (edited(data=None), "manifest.yaml: damaged"),
    "manifest that is no text": (lambda folder: (folder / "manifest.yaml").write_bytes(b"\xff\xfe"), "manifest.yaml"),
    "network that does not exist": (
        edited(flags={"model": "resnet9", "dataset": "synthetic", "train_steps": 1, "log_every": 5}), "resnet9"
    ),
    "no metrics": (without("metrics.csv"), "metrics.csv: no such file"),
    "metrics cut in their last line": (cut("metrics.csv", 0.99), "metrics.csv: cut short"),
    "metrics with half a line": (replaced("metrics.csv", "step,epoch,split\n1,2\n"), "metrics.csv: damaged"),
    "metrics without rows": (cut("metrics.csv", 1), "metrics.csv: no rows yet"),
    "no evaluation yet": (without_evaluation, "no evaluation yet"),
    "evaluation cut": (cut("evaluation.json", 0.5), "evaluation.json: damaged"),
    "evaluation of another kind": (replaced("evaluation.json", "[1]"), "evaluation.json: damaged"),
    "evaluation in per cent": (
        replaced("evaluation.json", '{"steps":1,"split":"test","examples":9,"top1":90,"top5":99,"loss":1}'), "damaged"
    ),
}  # fmt: skip


def test_a_loss_that_was_not_finite_is_no_damage(tmp_path):
    """Null in JSON; the run stays in the table by its other figures."""
    path = make_run(tmp_path / "a") / "evaluation.json"
    files.write_json(path, json.loads(path.read_text()) | {"loss": float("inf")})
    assert "null" in path.read_text() and np.isnan(trained.read(tmp_path / "a").evaluation["loss"])


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_run_is_named(name, tmp_path):
    damage, reason = DAMAGES[name]
    folder = make_run(tmp_path / "a")
    trained.read(folder)
    damage(folder)
    with pytest.raises(InputError) as caught:
        trained.read(folder)
    message = str(caught.value)
    assert message.startswith(str(folder)) and reason in message and "\n" not in message


def test_damaged_runs_are_left_out_and_named(two, capsys, caplog):
    damage, _ = DAMAGES["manifest cut"]
    damage(two[1])
    absent, out = two[0].parent / "absent", two[0].parent / "out"
    assert run_command([*two, absent], out) == 0
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 2 and all(line.startswith("warning: left out: ") for line in warnings)
    assert f"{two[1]}/manifest.yaml" in warnings[0] and str(absent) in warnings[1]
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["runs"] == ["a"] and [each["run"] for each in result["skipped"]] == [str(two[1]), str(absent)]
    for name in ("report.html", "report.md"):
        assert f"{two[1]}/manifest.yaml: " in (out / name).read_text() and str(absent) in (out / name).read_text()

    shutil.rmtree(out)
    assert run_command([two[1], absent], out) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err and not out.exists()
    line = captured.err.splitlines()[-1]
    assert line.startswith("error: no run is left to compare: ") and str(two[1]) in line and str(absent) in line


def test_a_run_named_twice_counts_once(two, last_json):
    assert run_command([*two, f"{two[0]}/."], two[0].parent / "out") == 0
    result = last_json()
    assert result["runs"] == ["a", "b"] and "named twice" in result["skipped"][0]["reason"]


@pytest.mark.parametrize(
    "changes, named",
    [
        ({"data": {"examples": {"train": TRAINING, "test": EXAMPLES}, "checksum": "beef"}}, "00ff and synthetic"),
        ({"classes": [f"class{i}" for i in range(9)]}, "class 9 is class9 and none"),
        ({"classes": ["cat", *(f"class{i}" for i in range(1, 10))]}, "class 0 is class0 and cat"),
    ],
)
def test_runs_of_other_data_are_refused(changes, named, tmp_path, capsys):
    folders = [make_run(tmp_path / "mine"), make_run(tmp_path / "yours", changes=changes)]
    assert run_command(folders, tmp_path / "out") == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: mine and yours") and named in line
    assert not (tmp_path / "out").exists()


def test_runs_of_other_tasks_are_refused(tmp_path):
    one = trained.read(make_run(tmp_path / "mine"))
    masks = config.from_settings(config.SegmentConfig, {"dataset": "synthetic", "train_steps": 1}, "test")
    with pytest.raises(InputError, match=r"mine and mine do not .* their task: classification and segmentation"):
        trained.check_comparable([one, dataclasses.replace(one, config=masks)])


def test_out_must_be_a_folder_of_its_own(two, capsys):
    file = two[0].parent / "file"
    file.write_text("mine")
    for out in (file, file / "inside", two[0]):
        assert run_command(two, out) == 1
        assert f"error: --out={out}: " in capsys.readouterr().err
    assert file.read_text() == "mine" and len(list(two[0].iterdir())) == 4
    assert compare.main([str(two[0])]) == 1 and "--out" in capsys.readouterr().err
    assert compare.main([f"--out={two[0].parent}/out"]) == 1 and "RUN" in capsys.readouterr().err


def test_full_disk_leaves_whole_files(two, capsys, monkeypatch):
    out = two[0].parent / "out"
    assert run_command(two, out, "--title=First") == 0
    before = (out / "report.html").read_bytes()

    def full(source, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert run_command(two, out, "--title=Second") == 1
    assert "No space left" in capsys.readouterr().err.splitlines()[-1]
    assert (out / "report.html").read_bytes() == before and {path.name for path in out.iterdir()} == OUTPUTS


def test_missing_matplotlib_is_named(two, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert run_command(two, two[0].parent / "out") == 1
    assert "resnet_tf[plot]" in capsys.readouterr().err and not (two[0].parent / "out").exists()


def test_unfinished_runs_are_shown_as_such(tmp_path, last_json):
    folders = [make_run(tmp_path / f"s{seed}", seed, epochs=6, done=3 if seed == 2 else 6) for seed in range(3)]
    (folders[2] / "evaluation.json").unlink()  # as a run that goes on: its curve has evaluations
    assert run_command(folders, tmp_path / "out") == 0
    result = last_json()
    assert [group["seeds"] for group in result["groups"]] == [[0, 1]]  # half a run is no seed of the mean
    assert "300 of 600, unfinished" in (tmp_path / "out" / "table.md").read_text()
    assert "Unfinished: s2 (300 of 600 steps)" in "".join(Page((tmp_path / "out" / "report.html").read_text()).text)


def test_names_from_files_are_only_text(tmp_path, last_json):
    names = ["<script>alert(1)", "<img src=x onerror=alert(1)>", "$a$_b_ `|` &amp;", "\u2603\x1b[1m"]
    changes = {"command": f"</code>{SCRIPT}", "hardware": SCRIPT, "commit": SCRIPT, "versions": "${title}"}
    folders = [make_run(tmp_path / name, lr=0.1 + i, changes=changes) for i, name in enumerate(names)]
    assert run_command([*folders, tmp_path / f"none{SCRIPT[:8]}"], tmp_path / "out", f"--title={SCRIPT}") == 0
    assert last_json()["title"] == SCRIPT
    shown = check_page((tmp_path / "out" / "report.html").read_text())
    words = "".join(shown.text)
    assert SCRIPT in words and all(name in words for name in names[:3]) and "${title}" in words and "\x1b" not in words
    assert "<script" not in (tmp_path / "out" / "report.md").read_text()
    markdown = (tmp_path / "out" / "table.md").read_text().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in markdown}) == 1
    for path in (tmp_path / "out").glob("*.svg"):
        texts = [e.text for e in xml.etree.ElementTree.parse(path).iter() if e.text]
        assert names[2] in texts  # a dollar is no mathematics


# --- Reading ---------------------------------------------------------------------------------------------------------


def test_an_earlier_network_of_a_finished_run(two):
    run = trained.read(two[0])
    run = dataclasses.replace(run, evaluation={**run.evaluation, "steps": 200, "weights": "best"})
    (row,) = comparing.table(comparing.groups([run]))
    assert run.finished and (row["steps"], row["planned_steps"], row["epochs"]) == (200, 400, 2)
    assert row["evaluated"] == "test, best"


def test_groups_count_seeds_once(tmp_path):
    folders = [make_run(tmp_path / name, seed) for name, seed in (("r1", 1), ("r2", 2), ("again", 1))]
    folders.append(make_run(tmp_path / "elsewhere", 3, data_dir="", log_every=7, steps_per_call=3))
    folders.append(make_run(tmp_path / "other", 1, weight_decay=0.5))
    made = comparing.groups([trained.read(folder) for folder in folders])
    assert [[run.name for run in group.runs] for group in made] == [["r1", "r2", "elsewhere"], ["again"], ["other"]]
    assert len({group.name for group in made}) == 3


def test_views_and_weights_of_an_evaluation_are_told_apart(two):
    a, b = map(trained.read, two)
    b = dataclasses.replace(a, name="b", evaluation={**a.evaluation, "views": "ten_crop", "weights": "ema"})
    assert (a.evaluated, b.evaluated) == ("test", "test, ten_crop, ema")
    b = dataclasses.replace(b, config=dataclasses.replace(b.config, optimizer=dataclasses.replace(b.config.optimizer,
                                                                                                 seed=9)))  # fmt: skip
    assert len(comparing.groups([a, b])) == 2


def test_gpus_of_a_run(two):
    def gpus(hardware, **device):
        run = trained.read(two[0])
        chosen = dataclasses.replace(run.config, device=dataclasses.replace(run.config.device, **device))
        return dataclasses.replace(run, config=chosen, manifest={**run.manifest, "hardware": hardware}).gpus

    assert gpus("NVIDIA H100 80GB HBM3 x8") == 8 and gpus("Tesla V100-SXM2-16GB x1") == 1
    assert gpus("NVIDIA H100 80GB HBM3 x8", replicas=2) == 2 and gpus("NVIDIA A100 x8", gpus=(3,)) == 1
    assert gpus("AMD EPYC 9R14 x16", replicas=2) == 0 and gpus("Intel(R) Xeon(R) CPU @ 2.70GHz x2") == 0


def test_mean_curve_takes_the_steps_that_all_have(tmp_path):
    runs = [trained.read(make_run(tmp_path / f"s{seed}", seed)) for seed in (0, 1)]
    runs[1] = dataclasses.replace(runs[1], rows=[row for row in runs[1].rows if row["step"] != 100])
    epochs, means, spread = comparing.Group("s", runs).mean_curve("test", "top1")
    assert epochs.tolist() == [2, 3, 4]
    values = np.array([run.curve("test", "top1")[2][-3:] for run in runs])
    np.testing.assert_allclose(means, values.mean(axis=0))
    np.testing.assert_allclose(spread, [statistics.stdev(pair) for pair in values.T])


# --- Pictures --------------------------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 100), max_size=14))
def test_labels_keep_their_distance(places):
    gap = 5.0
    moved = curves.spread(sorted(places), gap, 0.0, 100.0)
    assert len(moved) == len(places)
    assert all(b - a >= gap - 1e-6 for a, b in itertools.pairwise(moved))
    assert all(-1e-6 <= place <= 100 + 1e-6 for place in moved)
    apart = sorted(places)
    if all(b - a >= gap for a, b in itertools.pairwise(apart)):
        np.testing.assert_allclose(moved, apart, atol=1e-6)


def test_limits_of_the_axis():
    falling = np.array([19.0, 18.0, 9.5, 9.0, 8.8])
    assert curves.limits([falling], percent=True) == (0.0, 20.0)
    assert curves.limits([np.array([70.0, 2.0, 2.0, 1.5, 1.4])], percent=True) == (0.0, 3.0)  # a spike
    assert curves.limits([falling, np.array([55.0, 50.0, 61.0])], percent=True) == (0.0, 80.0)
    assert curves.limits([np.array([99.0, 98.0])], percent=True)[1] == 100.0
    assert curves.limits([np.array([37.0, 33.0])], percent=True) == (32.0, 40.0)
    assert curves.limits([np.array([1.0, 1.0])], percent=True) == (0.0, 2.0)
    assert curves.limits([np.array([np.nan])], percent=False) == (0.0, 1.0) and curves.limits([], True) == (0.0, 100.0)


def test_long_curves_are_thinned():
    x = np.arange(10_007.0)
    epochs, values, spread = curves.thinned((x, 2 * x, np.zeros(10_007)))
    assert len(epochs) == len(values) == len(spread) == 400
    np.testing.assert_allclose(values, 2 * epochs)
    assert epochs[0] == np.arange(25).mean()


def test_trainings_that_share_a_gpu_share_its_cost(tmp_path):
    alone, shared = make_run(tmp_path / "a"), make_run(tmp_path / "b")
    for folder, hardware in ((alone, "NVIDIA H100 x1"), (shared, "NVIDIA H100 x1, shared by 4 trainings")):
        path = folder / "manifest.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"hardware": hardware}))
    rows = [comparing.table(comparing.groups([trained.read(folder)]), 2.0)[0] for folder in (alone, shared)]
    assert rows[0]["gpu_hours"] == pytest.approx(4 * rows[1]["gpu_hours"]) and rows[0]["price"] == 4 * rows[1]["price"]


def test_more_figures_on_the_page(two, tmp_path):
    figure = Figure(figsize=(3, 2))
    figure.add_subplot().plot([1, 2], [3, 4])
    settings = config.CompareConfig(out=str(tmp_path / "out"))
    result = page.compare(settings, [str(folder) for folder in two], [("Responses & layers", figure)] * 2)
    shown = check_page(pathlib.Path(result["out"], "report.html").read_text())
    assert shown.text.count("Responses & layers") == 2
    assert [tag for tag, _ in shown.elements].count("figure") == 5


def test_curves_of_a_run_that_failed(tmp_path):
    """Numbers that are none, and names that are long, do not stop a picture."""
    folder = make_run(tmp_path / ("x" * 80), epochs=2)
    run = trained.read(folder)
    for row in run.rows:
        row["loss"] = float("nan")
    with pytest.raises(InputError):
        trained.read(tmp_path)
    figure = curves.draw(curves.of_groups(comparing.groups([run]), "loss"), "loss")
    assert b"\xe2\x80\xa6" in curves.rendered(figure, "svg")  # shortened by an ellipsis
