"""Published figures beside those of runs: the file, which of it is shown where, and what is refused."""

import csv
import json
import pathlib
import statistics

import pytest
from compared import check_page, make_run, read_csv, run_command

from resnet_tf import compare
from resnet_tf.errors import InputError
from resnet_tf.evaluation import references

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

PUBLISHED = pathlib.Path(__file__).parent.parent / "results" / "references" / "published.csv"
HEADER = ",".join(references.COLUMNS)
AKAMASTER = "akamaster/pytorch_resnet_cifar10"
# He et al. 2015, table 6: test error in per cent.
TABLE_6 = {
    "Maxout": 9.38, "NIN": 8.81, "DSN": 8.22, "FitNet, 19 layers": 8.39, "Highway, 19 layers": 7.54,
    "Highway, 19 layers, mean of five": 7.72, "Highway, 32 layers": 8.80, "ResNet-20": 8.75, "ResNet-32": 7.51,
    "ResNet-44": 7.17, "ResNet-56": 6.97, "ResNet-110, best of five": 6.43, "ResNet-110, mean of five": 6.61,
    "ResNet-1202": 7.93,
}  # fmt: skip


def test_the_file_has_the_paper_s_table():
    lines = [line for line in references.read(PUBLISHED) if line["source"] == "He et al. 2015, table 6"]
    errors = {line["name"]: 100 - line["top1_percent"] for line in lines}
    assert errors == pytest.approx(TABLE_6) and {line["dataset"] for line in lines} == {"cifar10"}
    assert [line["name"] for line in lines if line["sd_points"] == 0.16] == [
        "Highway, 19 layers, mean of five", "ResNet-110, mean of five"
    ]  # fmt: skip


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one network, the same with other shortcuts, and one that nothing is published of."""
    of = {"data_dir": "cifar.tar.gz", "dataset": "cifar10"}
    return [
        make_run(tmp_path / "r20-s0", **of),
        make_run(tmp_path / "r20-s1", seed=1, **of),
        make_run(tmp_path / "r20-B", shortcut="B", **of),
        make_run(tmp_path / "r26", model="cifar_resnet26_v1", **of),
    ]


def test_published_rows_stand_below_those_of_runs_and_in_no_test(runs, tmp_path, last_json, capsys):
    assert run_command(runs, tmp_path / "alone") == 0
    alone = last_json()
    assert run_command(runs, tmp_path / "out", f"--references={PUBLISHED}") == 0
    printed = capsys.readouterr().out
    assert "| He et al. 2015, table 6 " in printed
    # Runs, groups, pairs and the best one are as they were.
    assert json.loads(printed.splitlines()[-1]) | {"out": ""} == alone | {"out": ""}
    rows = read_csv(tmp_path / "out" / "table.csv")
    of_runs, published = rows[:5], rows[5:]
    assert {row["kind"] for row in published} == {"published"}
    lines = [line for line in references.read(PUBLISHED) if line["dataset"] == "cifar10"]
    assert [row["run"] for row in published] == [line["name"] for line in lines] and len(lines) == 35
    for row, line in zip(published, lines, strict=True):
        assert float(row["top1"]) == pytest.approx(line["top1_percent"] / 100) and row["source"] == line["source"]
        assert row["steps"] == row["seed"] == row["group"] == row["hardware"] == ""
    # A network by its name, with its own shortcuts.
    others = ("He et al. 2015, table 6", "notes that this project began from", AKAMASTER, f"{AKAMASTER}, scored here")
    figures = zip(("91.25", "88.66", "91.73", "91.73"), others, strict=True)
    expected = "; ".join(f"{figure} ({source})" for figure, source in figures)
    assert [row["published"] for row in of_runs] == [expected] * 3 + ["", ""]
    tests = [read_csv(tmp_path / name / "significance.csv") for name in ("out", "alone")]
    assert tests[0] == tests[1]

    page = check_page((tmp_path / "out" / "report.html").read_text())
    assert [attributes.get("class") for tag, attributes in page.elements if tag == "tr"].count("published") == 35
    for text in ((tmp_path / "out" / name).read_text() for name in ("table.md", "report.md")):
        assert "| FitNet, 19 layers, published " in text and "He et al. 2015, table 6" in text
        (line,) = [line for line in text.splitlines() if "ResNet-110, mean of five" in line]
        assert "93.39 \u00b1 0.16" in line and " 6.48 " in line  # 1.7 million parameters are 6.48 MiB
    for name in ("report.md", "report.html"):
        assert "of no run here, and in no test" in (tmp_path / "out" / name).read_text()
    assert "ublished" not in (tmp_path / "alone" / "table.md").read_text()


def test_means_stand_beside_the_papers_with_their_distance(tmp_path):
    """Two finished groups and a run in progress, of which nothing is said; sources are columns, in the file's order."""
    of = {"data_dir": "cifar.tar.gz", "dataset": "cifar10"}
    made = [make_run(tmp_path / f"r20-s{seed}", seed=seed, right=0.9 - 0.01 * seed, **of) for seed in range(3)]
    made.append(make_run(tmp_path / "r110", model="cifar_resnet110_v1", right=0.8, **of))
    made.append(make_run(tmp_path / "r32", model="cifar_resnet32_v1", done=2, **of))
    made.append(make_run(tmp_path / "r20-B", shortcut="B", **of))
    assert run_command(made, tmp_path / "out", f"--references={PUBLISHED}") == 0
    top1 = [json.loads((run / "evaluation.json").read_text())["top1"] for run in made]
    rows = read_csv(tmp_path / "out" / "published.csv")
    assert tuple(rows[0]) == references.DIFFERENCES
    assert [(row["architecture"], row["name"]) for row in rows] == [
        ("cifar_resnet20_v1", "ResNet-20"), ("cifar_resnet110_v1", "ResNet-110, best of five"),
        ("cifar_resnet110_v1", "ResNet-110, mean of five"), *[("cifar_resnet20_v1", "ResNet-20")] * 3,
    ]  # fmt: skip
    mean, sd = 100 * statistics.mean(top1[:3]), 100 * statistics.stdev(top1[:3])
    numbers = {name: float(rows[0][name]) for name in references.DIFFERENCES[2:6] + references.DIFFERENCES[10:]}
    assert numbers == pytest.approx({
        "runs": 3, "top1_percent": mean, "sd_points": sd, "standard_error_points": sd / 3**0.5,
        "difference_points": mean - 91.25, "difference_in_standard_errors": (mean - 91.25) / (sd / 3**0.5),
    })  # fmt: skip
    assert rows[2]["published_sd_points"] == "0.16" and rows[2]["difference_in_standard_errors"] == ""  # one seed
    check_page((tmp_path / "out" / "report.html").read_text())
    text = (tmp_path / "out" / "report.md").read_text().split("## Beside published results")[1].split("\n## ")[0]
    header, _, *lines = [line for line in text.splitlines() if line.startswith("|")]
    sources = ("He et al. 2015, table 6", "notes that this project began from", AKAMASTER)
    places = [header.index(f"| {source} (%)") for source in sources]
    assert places == sorted(places) and len(lines) == 2
    distance = f"{mean - 91.25:+.2f}, {(mean - 91.25) / (sd / 3**0.5):+.1f} se"
    assert f" {mean:.2f} ± {sd:.2f} |" in lines[0] and f"91.25 ({distance})" in lines[0]
    deep = 100 * top1[3]
    assert f"93.57, best of five ({deep - 93.57:+.2f}); 93.39 ± 0.16, mean of five ({deep - 93.39:+.2f})" in lines[1]


@pytest.mark.parametrize(
    "text, named",
    [
        (None, "No such file"),
        (b"\xff\xfe\x00", "no CSV file"),
        ("", "its columns are not"),
        ("name,top1\nx,1\n", "its columns are not"),
        (f"{HEADER}\ncifar10,,a\n", "line 2: not 8 values"),
        (f"{HEADER}\ncifar10,,a,,90,,,b,c\n", "line 2: not 8 values"),
        (f"{HEADER}\ncifar10,,,,90,,,b\n", "line 2: no name"),
        (f"{HEADER}\ncifar10,,a,,90,,,\n", "line 2: no source"),
        (f"{HEADER}\ncifar10,,a,,,,,b\n", "line 2: no top1_percent"),
        (f"{HEADER}\ncifar10,,a,,high,,,b\n", "line 2: top1_percent=high is no number"),
        (f"{HEADER}\ncifar10,,a,,nan,,,b\n", "line 2: top1_percent=nan is out of range"),
        (f"{HEADER}\ncifar10,,a,,90,,101,b\n", "line 2: top5_percent=101 is out of range"),
        (f"{HEADER}\ncifar10,,a,,90,,,b\n\ncifar10,resnet51,a,,90,,,b\n", "line 4: --model=resnet51"),
        (f"{HEADER}\nvoc,,a,,90,,,b\n", "no line is of cifar10"),
    ],
)
def test_bad_references_are_one_line_and_nothing_is_written(text, named, runs, tmp_path, capsys):
    path = tmp_path / "published.csv"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    assert compare.main([str(runs[0]), f"--out={tmp_path}/out", f"--references={path}"]) == 1
    captured = capsys.readouterr()
    line = captured.err.strip().splitlines()[-1]
    assert line.startswith(f"error: --references={path}") and named in line and captured.out == ""
    assert not (tmp_path / "out").exists()


def test_references_are_of_classification(tmp_path):
    made = [type("Group", (), {"name": "a", "runs": [type("Run", (), {"config": type("Other", (), {"task": "x"})()})]})]
    with pytest.raises(InputError, match="of classification, and the runs are of x"):
        references.beside([{}], made, PUBLISHED)


def test_a_file_of_ones_own(runs, tmp_path):
    path = tmp_path / "mine.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([references.COLUMNS, ("cifar10", "cifar_resnet26_v1", "a | <b>", "", 91, "", 99.5, "me")])
    assert run_command([runs[3]], tmp_path / "out", f"--references={path}") == 0
    check_page((tmp_path / "out" / "report.html").read_text())
    rows = read_csv(tmp_path / "out" / "table.csv")
    assert rows[0]["published"] == "91.00 (me)" and rows[1]["top5"] == "0.995"
    assert r"a \| &lt;b&gt;, published" in (tmp_path / "out" / "table.md").read_text()
