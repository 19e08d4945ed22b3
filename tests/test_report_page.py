"""The page of a report, calibration, label errors and slices: their numbers, and what a browser makes of the page."""

import csv
import dataclasses
import io
import json
import pathlib
import re
import shutil

import numpy as np
import pytest
from browser import browser
from compared import Page
from PIL import Image

from resnet_tf import compare, evaluate, export, relabel, train
from resnet_tf.data import sources
from resnet_tf.data.splits import Source, Split
from resnet_tf.errors import InputError
from resnet_tf.evaluation import (
    answers,
    attribution,
    calibration,
    label_errors,
    metrics,
    report_charts,
    slices,
    thumbnails,
)
from resnet_tf.evaluation.evaluate import write_for_run
from resnet_tf.runs import restore
from resnet_tf.serving import runtimes

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

CLASSES = ("<red>", "blue", "green & grey")
COLOURS = ((200, 60, 50), (40, 60, 200), (70, 160, 80))


def photo(label, index):
    """An encoded picture of a class: its colour under noise, of one of four sizes."""
    rng = np.random.default_rng(100 * label + index)
    width, height = ((60, 40), (40, 60), (48, 48), (90, 60))[index % 4]
    pixels = rng.normal(COLOURS[label], 40, (height, width, 3)) * (0.5 + 0.05 * (index % 10))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A folder of small JPEGs of three classes, a run on it, and the run's report; some test images are mislabelled."""
    folder = tmp_path_factory.mktemp("photos")
    for split, count in (("train", 16), ("val", 8), ("test", 12)):
        for label in range(3):
            for index in range(count):
                named = (label + 1) % 3 if split == "test" and index == 11 else label
                path = folder / "data" / split / CLASSES[named] / f"{label}_{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(photo(label, index + {"train": 0, "val": 20, "test": 40}[split]))
    flags = ["--dataset=folder", f"--data_dir={folder}/data", "--view=random_resized_crop", "--area=0.5,1"]
    flags += ["--model=cifar_resnet8_v1", "--image_size=32", "--resize=36", "--batch_size=12", "--train_steps=60"]
    assert train.main([*flags, "--lr=0.02", "--eval_every=20", f"--out={folder}/run"]) == 0
    return folder


@pytest.fixture(scope="module")
def reported(photos):
    shutil.copytree(photos / "run", photos / "scored")
    assert evaluate.main([f"--run={photos}/scored", f"--report={photos}/report"]) == 0
    return photos / "report"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on images in memory that holds a validation split out."""
    folder = tmp_path_factory.mktemp("digits") / "run"
    flags = ["--dataset=digits", "--model=cifar_resnet8_v1", "--image_size=16", "--mirror=false", "--pad=1"]
    flags += ["--batch_size=64", "--train_steps=30", "--lr=0.05", "--eval_every=15", "--validation_examples=200"]
    assert train.main([*flags, f"--out={folder}"]) == 0
    return folder


def refused(main, flags, capsys):
    """The one line with which a command refuses."""
    capsys.readouterr()
    assert main([str(flag) for flag in flags]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    return captured.err.strip().splitlines()[-1]


def table_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


# --- The page --------------------------------------------------------------------------------------------------------


def test_page_says_what_the_files_say(reported):
    result = json.loads((reported / "evaluation.json").read_text())
    shown = Page((reported / "report.html").read_text())
    text = " ".join(" ".join(shown.text).split())
    right = round(36 * result["top1"])
    low, high = (100 * limit for limit in result["top1_interval"])
    assert f"Right for {right} of 36 images ({100 * right / 36:.1f}%; 95% interval {low:.1f} to {high:.1f}%)" in text
    assert "The split test of its data, one central crop of each image." in text
    assert "and its weights were not chosen on them" in text and "fitted on the validation split" in text
    assert "top-5" not in text.lower()  # of three classes
    rows = table_of(reported / "classes.csv")
    assert list(rows[0])[-4:] == ["precision", "recall", "f1", "support"]
    worst = min(rows, key=lambda row: float(row["f1"]))
    assert re.search(rf"Most often named instead {re.escape(worst['class'])} 12 ", text)
    for heading in ("Training", "Each class", "What is taken for what", "Worst mistakes", "Probable label errors",
                    "Kinds of images", "How this was made"):  # fmt: skip
        assert f" {heading} " in text
    for row in table_of(reported / "slices.csv"):
        assert f"{row['examples']} {100 * float(row['top1']):.1f}% {100 * float(row['low95']):.1f} to " in text
    assert " Landscape " in text and " Shorter side up to " in text
    assert "python -m" in text or "pytest" in text  # its command


def test_page_needs_nothing_but_itself(reported):
    text = (reported / "report.html").read_text()
    shown = Page(text)
    tags = [tag for tag, _ in shown.elements]
    assert not {"script", "iframe", "object", "embed", "form", "base", "red"} & set(tags) and tags.count("h1") == 1
    assert all(source.startswith("data:image/jpeg;base64,") for source in shown.attributes("src"))
    assert all(link == "data:," or link.startswith("#") for link in shown.attributes("href"))
    ids = shown.attributes("id")
    assert len(set(ids)) == len(ids)
    images = [attributes for tag, attributes in shown.elements if tag == "img"]
    assert all("test/" in image["alt"] for image in images)
    mistakes = table_of(reported / "examples.csv")
    wrong = sum(row["label"] != row["predicted"] for row in mistakes)
    suspects = len(table_of(reported / "label_errors.csv"))
    assert len(images) == 2 * min(24, wrong) + min(24, suspects)  # Grad-CAM beside each mistake
    figures = [attributes for tag, attributes in shown.elements if tag == "figure" and "role" in attributes]
    assert len(figures) == 4 and all(attributes["aria-label"] for attributes in figures)
    assert len(text) < 2 << 20


def test_page_in_a_browser(reported, tmp_path):
    """No request but for the page, nothing on the console, nothing wider than a phone; skipped without Chromium."""
    url = (reported / "report.html").as_uri()
    grounds = {}
    with browser(tmp_path) as opened:
        for width, scheme in ((1280, "light"), (390, "light"), (390, "dark")):
            opened.open(url, width, 900, scheme)
            requests = [e["params"]["request"]["url"] for e in opened.events if e["method"].endswith("WillBeSent")]
            assert [request for request in requests if not request.startswith("data:")] == [url]
            spoken = {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"}
            assert not spoken & {event["method"] for event in opened.events}
            assert opened.evaluate("document.documentElement.scrollWidth") <= width
            assert opened.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 30)")
            # Words of the first column are not broken into letters.
            assert opened.evaluate("document.querySelector('#classes tbody th').getBoundingClientRect().height") < 60
            grounds[scheme] = [
                opened.evaluate(f"getComputedStyle(document.querySelector('{part}')).{what}")
                for part, what in (("body", "backgroundColor"), ("body", "color"), ("figure svg text", "fill"),
                                   (".matrix td", "backgroundColor"))
            ]  # fmt: skip
    assert all(light != dark for light, dark in zip(*grounds.values(), strict=True))


def test_page_of_a_run_leaves_the_run_alone(photos, tmp_path):
    """As training calls it; the validation split chose the best weights, and its own halves fit the temperature."""
    before = {path: path.read_bytes() for path in (photos / "run").iterdir() if path.is_file()}
    page = write_for_run(photos / "run", tmp_path / "report", weights="best")
    assert page == tmp_path / "report" / "report.html"
    text = " ".join(" ".join(Page(page.read_text()).text).split())
    assert "The weights were chosen on these images, so the figure is a little too good." in text
    assert "each half is scaled by the temperature of the other half" in text
    assert before == {path: path.read_bytes() for path in (photos / "run").iterdir() if path.is_file()}
    assert json.loads((page.parent / "evaluation.json").read_text())["temperature_from"] == "halves"


def test_page_of_images_in_memory_and_of_an_exported_model(digits, tmp_path, last_json):
    assert export.main([f"--run={digits}", f"--out={tmp_path}/model"]) == 0
    for flag, pictures in ((f"--run={digits}", 2), (f"--model={tmp_path}/model", 1)):
        assert evaluate.main([flag, "--split=train", f"--report={tmp_path}/report"]) == 0
        result = last_json()
        shown = Page((tmp_path / "report" / "report.html").read_text())
        text = " ".join(" ".join(shown.text).split())
        assert "each image as it is" in text and "trained on these images, so the figure says little" in text
        assert "Weak: the network was trained on these images" in text
        worst = min(24, result["examples"] - round(result["examples"] * result["top1"]))
        assert sum(tag == "img" for tag, _ in shown.elements) == (pictures + 1) * worst
        rows = table_of(tmp_path / "report" / "slices.csv")
        assert {row["slice"] for row in rows} == {"brightness (0 to 255)"}
        assert sum(int(row["examples"]) for row in rows) == result["examples"]


@pytest.mark.parametrize("classes", [2, 30, 60, 150])
def test_confusion_of_few_and_many_classes(classes, rng):
    matrix = np.diag(rng.integers(5, 20, classes)) + (rng.random((classes, classes)) < 0.02)
    matrix[0, 1] = 7
    element, text = report_charts.confusion(matrix, [f"<kind> {index}" for index in range(classes)])
    shown = Page(element)
    tags = [tag for tag, _ in shown.elements]
    counts = [int(said) for said in shown.text if said.strip().isdigit()]
    if classes in (2, 30):
        assert sorted(counts) == sorted(matrix[matrix > 0].tolist())
    elif classes == 60:
        assert tags.count("rect") == (matrix > 0).sum() and "<kind> 0 named <kind> 1: 7" in shown.text
    else:
        assert tags.count("tr") == 31 and "Of 150 classes, the 30" in text and 7 in counts


def test_heat_lies_where_the_crop_is(photos):
    """Half of the view is hot; outside the frame the picture is grey and unchanged."""
    pixels = np.full((100, 200, 3), 120, np.uint8)
    heat = np.zeros((4, 4), np.float32)
    heat[:, :2] = 1
    shown = thumbnails.with_heat(thumbnails.Thumbnail(pixels, [10, 60, 80, 80], None), heat).astype(int)
    assert (shown[:8] == 120).all() and (shown[:, :58] == 120).all() and (shown[:, 142:] == 120).all()
    assert shown[50, 65:90].sum(axis=1).min() > shown[50, 115:135].sum(axis=1).max()
    nothing = thumbnails.with_heat(thumbnails.Thumbnail(pixels, [10, 60, 80, 80], None), 0 * heat)
    assert (nothing[40:60, 80:120] == 120).all()
    subject = attribution.load(photos / "run")
    split = sources.index("folder", f"{photos}/data").splits["test"]
    small = [thumbnails.of_example(split, example, subject) for example in (0, 3, 9)]
    for thumbnail, example in zip(small, (0, 3, 9), strict=True):
        file = photos / "data" / split.names[example]
        np.testing.assert_array_equal(thumbnail.view, subject.view(file))
    maps = thumbnails.heat_maps(small, subject, [0, 1, 2])
    for number, found in enumerate(maps):
        alone = attribution.grad_cam(subject, small[number].view, CLASSES[number]).heat
        # Of a batch the sums of float32 run in another order.
        np.testing.assert_allclose(found, alone, atol=1e-4 * max(1, alone.max()))


# --- Metrics of classes ----------------------------------------------------------------------------------------------


def test_metrics_of_classes_are_those_of_scikit_learn(rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    labels, predicted = rng.integers(0, 6, 200), rng.integers(0, 7, 200)
    predicted = np.where(predicted == 2, 3, predicted)  # 2 is never predicted, and 6 never occurs
    matrix = metrics.confusion(predicted, labels, 8)  # 7 neither
    found = metrics.precision_and_recall(matrix)
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        labels, predicted, labels=range(7), zero_division=np.nan
    )
    for name, expected in (("precision", precision), ("recall", recall), ("support", support)):
        np.testing.assert_allclose(found[name][:7], expected)
    assert np.isnan(found["f1"][7]) and found["f1"][2] == found["f1"][6] == 0
    np.testing.assert_allclose(found["f1"][[0, 1, 3, 4, 5]], f1[[0, 1, 3, 4, 5]])
    whole = metrics.overall(matrix, float((labels == predicted).mean()))
    with pytest.warns(UserWarning, match="y_pred contains classes not in y_true"):
        assert whole["balanced_accuracy"] == pytest.approx(sklearn.balanced_accuracy_score(labels, predicted))
    assert whole["macro_f1"] == pytest.approx(sklearn.f1_score(labels, predicted, average="macro", zero_division=0))


def test_wilson_interval():
    """Against Brown, Cai and DasGupta 2001's formula as SciPy has it."""
    stats = pytest.importorskip("scipy.stats")
    for right, examples in ((0, 5), (331, 360), (7, 7), (1, 2)):
        expected = stats.binomtest(right, examples).proportion_ci(method="wilson")
        assert metrics.wilson(right, examples) == pytest.approx((expected.low, expected.high))


# --- Calibration -----------------------------------------------------------------------------------------------------


def drawn(rng, count, temperature):
    """Logits that are too large by `temperature`, and labels drawn from their softmax."""
    logits = rng.normal(size=(count, 5)) * 2
    shares = metrics.probabilities(logits)
    labels = (rng.random(count)[:, None] > shares.cumsum(axis=1)).sum(axis=1)
    return logits * temperature, labels


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_temperature_is_that_of_the_draw(temperature, rng):
    logits, labels = drawn(rng, 20_000, temperature)
    found = calibration.fit(logits, labels)
    assert found == pytest.approx(temperature, rel=0.05)  # of so many examples its deviation is a percent

    def loss(value):
        return metrics.classification(logits / value, labels)["loss"]

    assert loss(found) <= min(loss(found * 1.001), loss(found / 1.001)) + 1e-12
    predictions = answers.of_logits(logits, labels)
    for held_out, name in ((drawn(rng, 5000, temperature), "validation"), (None, "halves")):
        after = calibration.calibrate(logits, predictions, held_out)
        assert after.fitted_on == name and after.error < 0.02 and not calibration.is_bounded(after.temperature)


def test_temperature_has_limits(rng):
    labels = np.arange(40) % 4
    right, wrong = np.eye(4)[labels] * 3, np.eye(4)[(labels + 1) % 4] * 3
    assert (calibration.fit(right, labels), calibration.fit(wrong, labels)) == calibration.LIMITS
    assert calibration.fit(np.ones((40, 4)), labels) == 1
    assert all(calibration.is_bounded(calibration.fit(each, labels)) for each in (right, wrong))
    broken = right.copy()
    broken[3] = np.nan
    assert calibration.fit(broken, labels) == calibration.fit(np.delete(right, 3, 0), np.delete(labels, 3))
    assert calibration.fit(np.full((2, 4), np.nan), labels[:2]) == 1
    one = calibration.calibrate(right[:1], answers.of_logits(right[:1], labels[:1]), None)
    assert np.isfinite(one.probability).all()


def test_calibrated_export_is_softmax_of_logits_over_temperature(digits, tmp_path, last_json, capsys):
    flags = [f"--run={digits}", "--calibrated", f"--out={tmp_path}/model"]
    assert "has no calibration.json" in refused(export.main, flags, capsys)
    assert evaluate.main([f"--run={digits}", "--calibrate"]) == 0
    result, stored = last_json(), json.loads((digits / "calibration.json").read_text())
    assert stored["temperature"] == result["temperature"] and result["temperature_from"] == "validation"
    assert (stored["split"], stored["examples"], stored["step"], stored["weights"]) == ("validation", 200, 30, "raw")
    line = refused(export.main, [*flags, "--weights=best"], capsys)
    assert "calibration.json is of weights raw after 30 steps, not best after" in line
    formats = "--format=savedmodel,tflite,onnx,keras"
    for name, extra in (("plain", []), ("model", ["--calibrated"])):
        assert export.main([f"--run={digits}", formats, *extra, f"--out={tmp_path}/{name}"]) == 0
    pixels = sources.load("digits", image_size=16).splits["test"].images[:50]
    shares = {}
    for name in ("plain", "model"):
        signature = runtimes.load_signature(tmp_path / name, "images")
        shares[name, "pb"] = signature(images=pixels)["probabilities"].numpy()
        for ending in ("tflite", "onnx", "keras"):
            model = runtimes.load(tmp_path / name / "1" / f"model.{ending}")
            shares[name, ending] = model.probabilities(pixels.astype(np.float32))
    assert abs(stored["temperature"] - 1) > 0.02
    for ending in ("pb", "tflite", "onnx", "keras"):
        logits = np.log(np.maximum(shares["plain", ending].astype(np.float64), 1e-30))
        expected = metrics.probabilities(logits / stored["temperature"])
        # 1e-5 as between formats: sums in float32.
        np.testing.assert_allclose(shares["model", ending], expected, atol=1e-5, err_msg=ending)
    card = json.loads((tmp_path / "model" / "1" / "model.json").read_text())
    assert card["temperature"] == stored["temperature"]
    assert "| probabilities | calibrated: " in (tmp_path / "model" / "1" / "model.md").read_text()
    assert "temperature" not in json.loads((tmp_path / "plain" / "1" / "model.json").read_text())
    (digits / "calibration.json").write_text("{}")
    assert "calibration.json: damaged" in refused(export.main, [*flags, "--version=7"], capsys)


def test_calibrate_needs_a_validation_split_of_one_run(photos, tmp_path, capsys):
    flags = ["--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--train_steps=1"]
    assert train.main([*flags, f"--out={tmp_path}/run"]) == 0
    before = sorted(path.name for path in (tmp_path / "run").iterdir())
    line = refused(evaluate.main, [f"--run={tmp_path}/run", "--calibrate"], capsys)
    assert f"--calibrate: --run={tmp_path}/run holds no validation split out" in line
    assert before == sorted(path.name for path in (tmp_path / "run").iterdir())
    assert "ensemble" in refused(evaluate.main, [f"--run={tmp_path}/run,{photos}/run", "--calibrate"], capsys)
    assert "--views" in refused(evaluate.main, [f"--run={photos}/run", "--calibrate", "--views=ten_crop"], capsys)


# --- Label errors ----------------------------------------------------------------------------------------------------


def test_planted_label_errors_are_found(rng):
    """Against the equations in plain loops, on labels of which a twentieth is wrong."""
    true = np.arange(400) % 4
    logits = rng.normal(size=(400, 4)) + 4 * np.eye(4)[true]
    logits[:, 0] += 1  # a network that likes one class
    given = true.copy()
    wrong = np.arange(0, 400, 21)
    given[wrong] = (true[wrong] + 1) % 4
    shares = metrics.probabilities(logits)
    found = label_errors.find(shares, given)
    thresholds = [np.mean([shares[i, c] for i in range(400) if given[i] == c]) for c in range(4)]
    expected = {}
    for i in range(400):
        reached = [c for c in range(4) if shares[i, c] >= thresholds[c]]
        best = max(reached, key=lambda c: shares[i, c], default=given[i])
        if best != given[i] and shares[i, best] > shares[i, given[i]]:
            expected[i] = best
    assert dict(zip(found.example.tolist(), found.suggested.tolist(), strict=True)) == expected
    assert (np.diff(found.score) <= 0).all()
    # Of the planted ones, those are not found whose true class is less likely than it is on average.
    assert np.isin(found.example[:10], wrong).all() and np.isin(wrong, found.example).mean() > 0.5
    shares[5], given[5] = np.nan, 0
    assert 5 not in label_errors.find(shares, given).example
    few = label_errors.find(shares[:3, :], np.zeros(3, int))  # classes without examples suggest nothing
    assert not len(few.example)


def test_report_lists_mislabelled_files(reported):
    rows = table_of(reported / "label_errors.csv")
    assert tuple(rows[0]) == label_errors.COLUMNS and all(row["new_label"] == "" for row in rows)
    assert all(row["file"].split("/")[:2] == ["test", row["label"]] for row in rows)
    assert {row["suggested"] for row in rows} <= set(CLASSES)
    scores = [float(row["score"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


LABELS = "file,label,split\na/1.jpg,cat,train\na/2.jpg,cat,test\nb/3.jpg,dog,train\n"


@pytest.mark.parametrize("separator, begin", [(",", ""), (";", "\ufeff")])  # as some spreadsheets write
def test_relabel(separator, begin, tmp_path, last_json):
    (tmp_path / "split.csv").write_text(LABELS)
    edits = [
        "file,label,suggested,confidence,score,new_label",
        "a/1.jpg,cat,dog,0.9,0.8, dog ",
        "b/3.jpg,dog,cat,1,1,-",
    ]
    edits.append("a/2.jpg,cat,dog,0.5,0.1,")
    (tmp_path / "e.csv").write_text(begin + "\n".join(edits).replace(",", separator) + "\n", encoding="utf-8")
    flags = [f"--labels={tmp_path}/split.csv", f"--edits={tmp_path}/e.csv", f"--out={tmp_path}/labels.csv"]
    assert relabel.main(flags) == 0
    assert (tmp_path / "labels.csv").read_text() == "file,label,split\na/1.jpg,dog,train\na/2.jpg,cat,test\n"
    result = last_json()
    assert (result["files"], result["relabelled"], result["dropped"], result["new_classes"]) == (2, 1, 1, [])


def test_relabel_names_new_classes_and_odd_files(tmp_path, caplog):
    odd = b"file,label\n\xff.jpg,cat\nb.jpg,dog\n"
    (tmp_path / "l.csv").write_bytes(odd)
    (tmp_path / "e.csv").write_bytes(b"file,new_label\n\xff.jpg,cta\n")
    result = label_errors.apply(tmp_path / "l.csv", tmp_path / "e.csv", tmp_path / "out.csv")
    assert result["new_classes"] == ["cta"] and "no file had these labels before: cta" in caplog.text
    assert (tmp_path / "out.csv").read_bytes() == odd.replace(b"cat", b"cta")


@pytest.mark.parametrize(
    "edits, named",
    [
        (None, "No such file"),
        ("file,label\na/1.jpg,cat\n", "has no column new_label; it has file, label"),
        ("file,new_label\nz.jpg,dog\n", "z.jpg is not in"),
        ("file,new_label\na/1.jpg,\n", "nothing to do: the column new_label is empty"),
        ("file,new_label\na/1.jpg,cat\n", "nothing to do: each new_label is the label that the file has"),
        ("file,new_label\na/1.jpg,dog\na/1.jpg,-\n", "a/1.jpg has two new labels, dog and -"),
        ("file,new_label\na/1.jpg,-\na/2.jpg,-\nb/3.jpg,-\n", "no file would be left"),
        ("file,new_label\na/1.jpg\n", "row 2 has not 2 values"),
    ],
)
def test_relabel_refuses(edits, named, tmp_path, capsys):
    (tmp_path / "l.csv").write_text(LABELS)
    if edits is not None:
        (tmp_path / "e.csv").write_text(edits)
    flags = [f"--labels={tmp_path}/l.csv", f"--edits={tmp_path}/e.csv", f"--out={tmp_path}/out.csv"]
    line = refused(relabel.main, flags, capsys)
    assert f"--edits={tmp_path}/e.csv: " in line and named in line and not (tmp_path / "out.csv").exists()
    assert "--out is not set" in refused(relabel.main, flags[:2], capsys)


# --- Slices ----------------------------------------------------------------------------------------------------------


def test_tables_of_few_classes_have_no_top5(photos, tmp_path, capsys):
    assert compare.main([f"{photos}/run", f"--out={tmp_path}/out"]) == 0
    assert "Top-1, last" in (text := capsys.readouterr().out) and "Top-5" not in text
    assert "top5" in (tmp_path / "out" / "table.csv").read_text()  # for those who read it by program


def test_slices_are_of_upright_images(tmp_path):
    """Sizes, shapes and brightness of images of which some are stored sideways."""
    sizes = [(30, 40), (40, 30), (20, 20), (90, 60), (60, 90), (200, 100)]
    for index, (width, height) in enumerate(sizes):
        for split in ("train", "test"):
            path = tmp_path / split / "ab"[index % 2] / f"{index}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            exif = Image.Exif()
            if index in (0, 5):
                exif[0x0112] = 6
            Image.new("RGB", (width, height), (40 * index,) * 3).save(path, exif=exif, quality=95)
    for exif, sideways in (("apply", (0, 5)), ("ignore", ())):
        split = sources.index("folder", str(tmp_path), exif=exif).splits["test"]
        measured = slices.measure(split)
        order = [int(pathlib.PurePath(name).stem) for name in split.names]
        for place, index in enumerate(order):
            width, height = sizes[index][:: -1 if index in sideways else 1]
            assert (measured["width"][place], measured["height"][place]) == (width, height)
            assert measured["brightness"][place] == pytest.approx(40 * index, abs=1.5)  # of JPEG
        rows = slices.table(measured, np.array(order) % 2 == 0)
        found = {(row["slice"], row["group"]): row for row in rows}
        assert found["shape", "square"]["examples"] == 1 and found["shape", "square"]["top1"] == 1
        portrait = {(0, 5): 2, (): 2}[sideways]  # 4 and 5 upright, else 0 and 4
        assert found["shape", "portrait"]["examples"] == portrait
        bright = [row for row in rows if row["slice"].startswith("brightness")]
        assert [row["examples"] for row in bright] == [2, 2, 2] and [row["top1"] for row in bright] == [0.5] * 3
    boxes = np.tile(np.array([[5, 10, 10, 5]], np.int32), (6, 1))
    measured = slices.measure(dataclasses.replace(split, boxes=boxes))
    assert set(measured["height"]) == {10} and set(measured["width"]) == {5}
    equal = Split(np.zeros((4, 8, 8, 3), np.uint8), np.zeros(4, np.int32))
    assert slices.table(slices.measure(equal), np.ones(4, bool)) == []


# --- Other images ----------------------------------------------------------------------------------------------------


def test_a_folder_of_other_images_is_scored(photos, tmp_path, monkeypatch, last_json):
    """With a stand-in for `sources.scored_folder`; the run's own files stay those of its own data."""
    for index in range(6):
        path = tmp_path / "new" / CLASSES[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(index % 2, 90 + index))
    told = {}

    @dataclasses.dataclass(frozen=True, eq=False)
    class Scored(Source):
        how: str = "no image of class <red>"

    def scored_folder(data_dir, classes, labels="", exif="apply", split="test"):
        told.update(data_dir=data_dir, classes=classes, labels=labels, exif=exif, split=split)
        own = sources.index("folder", f"{photos}/data")
        return Scored("folder", classes, {"test": own.splits["test"].take(np.arange(6))})

    monkeypatch.setattr(sources, "scored_folder", scored_folder, raising=False)
    before = (photos / "run" / "evaluation.json").read_bytes()
    flags = [f"--run={photos}/run", f"--data_dir={tmp_path}/new", f"--report={tmp_path}/report"]
    assert evaluate.main([*flags, f"--results={tmp_path}/r.csv"]) == 0
    result = last_json()
    assert told == {"data_dir": f"{tmp_path}/new", "classes": CLASSES, "labels": "", "exif": "apply", "split": ""}
    assert (result["examples"], result["how"], result["data_dir"]) == (6, "no image of class <red>", f"{tmp_path}/new")
    assert "data_changed" not in result and (photos / "run" / "evaluation.json").read_bytes() == before
    text = "".join(Page((tmp_path / "report" / "report.html").read_text()).text)
    assert "No image of class <red>." in text and "Whether the network was trained on some of them is not known" in text
    assert table_of(tmp_path / "r.csv")[0]["epochs"] == ""
    assert evaluate.main([*flags[:2], f"--labels={tmp_path}/l.csv", "--split=validation"]) == 0
    assert (told["labels"], told["split"]) == (f"{tmp_path}/l.csv", "validation")
    assert last_json()["split"] == "validation"


def test_a_folder_with_some_of_the_classes_is_scored(photos, tmp_path, last_json):
    """Without train/, with a class that the run does not know, and without one that it knows."""
    for index, label in enumerate([CLASSES[0]] * 4 + ["unknown"]):
        path = tmp_path / "new" / label / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo(0, 90 + index))
    assert evaluate.main([f"--run={photos}/run", f"--data_dir={tmp_path}/new"]) == 0
    result = last_json()
    assert (result["examples"], result["split"]) == (4, "test")
    assert "not a class of the network: unknown" in result["how"] and f"no image of class {CLASSES[1]}" in result["how"]
    # A folder of splits without a test is scored on its validation images.
    (tmp_path / "new").rename(tmp_path / "val")
    (tmp_path / "split").mkdir()
    (tmp_path / "val").rename(tmp_path / "split" / "val")
    assert evaluate.main([f"--run={photos}/run", f"--data_dir={tmp_path}/split"]) == 0
    assert last_json()["examples"] == 4


def test_page_of_an_ensemble_and_of_imported_weights(photos, tmp_path):
    """Without curves and without Grad-CAM."""
    run, values, _ = restore.load(photos / "run")
    restore.build_model(run, values).save_weights(f"{tmp_path}/net.weights.h5")
    imported = ["--network=cifar_resnet8_v1", f"--init_from={tmp_path}/net.weights.h5", "--dataset=folder"]
    imported += [f"--data_dir={photos}/data", "--image_size=32", "--resize=36"]
    for flags, named, known in (
        ([f"--run={photos}/run,{photos}/run", "--split=validation"], "Ensemble of", "not trained on these"),
        (imported, "Network cifar_resnet8_v1 with the weights", "trained on some of them is not known"),
    ):
        assert evaluate.main([*flags, f"--report={tmp_path}/report"]) == 0
        shown = Page((tmp_path / "report" / "report.html").read_text())
        text = " ".join(" ".join(shown.text).split())
        assert named in text and known in text and "Grad-CAM" not in text and " Training " not in text
        rows = table_of(tmp_path / "report" / "examples.csv")
        wrong = sum(row["label"] != row["predicted"] for row in rows)
        suspects = len(table_of(tmp_path / "report" / "label_errors.csv"))
        assert sum(tag == "img" for tag, _ in shown.elements) == min(24, wrong) + min(24, suspects)


def test_labels_and_splits_of_other_images_are_refused_where_there_are_none(photos, digits, tmp_path, capsys):
    line = refused(evaluate.main, [f"--run={digits}", "--data_dir=x", "--labels=l.csv"], capsys)
    assert "--labels=l.csv is for targets with --dataset=folder, not digits" in line
    assert "--labels needs --data_dir" in refused(evaluate.main, [f"--run={photos}/run", "--labels=l.csv"], capsys)


def test_moved_data_are_the_runs_own_and_changed_ones_are_told(photos, tmp_path, caplog, last_json):
    shutil.copytree(photos / "data", tmp_path / "moved")
    shutil.copytree(photos / "run", tmp_path / "run")
    flags = [f"--run={tmp_path}/run", f"--data_dir={tmp_path}/moved"]
    assert evaluate.main(flags) == 0
    assert not {"data_changed", "how"} & set(last_json()) and "since the training" not in caplog.text
    (tmp_path / "moved" / "train" / CLASSES[0] / "0_0.jpg").unlink()
    assert evaluate.main([*flags, f"--report={tmp_path}/report"]) == 0
    assert last_json()["data_changed"] is True
    assert "images were added, removed or relabelled since the training" in caplog.text
    assert "may have seen some of these images" in (tmp_path / "report" / "report.html").read_text()


def test_apply_needs_no_run(tmp_path):
    with pytest.raises(InputError, match="--labels="):
        label_errors.apply(tmp_path / "none.csv", tmp_path / "none.csv", tmp_path / "out.csv")
