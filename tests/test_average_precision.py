"""Average precision equal to plain loops and to COCO's own code; files and pictures of detections."""

import contextlib
import io

import numpy as np
import pytest

from resnet_tf.data.boxes import IGNORED, PACKED, Detections, Objects
from resnet_tf.errors import InputError
from resnet_tf.tasks import average_precision, detection_pictures, detections_csv

CLASSES = 4  # of the last there are no objects


def drawn(rng, count):
    start = rng.uniform(0, 300, (count, 2))
    return np.concatenate([start, start + np.exp(rng.uniform(2, 5.5, (count, 2)))], axis=1).astype(np.float32)


def made(ignored=0.15, images=40, seed=0):
    """Detections near objects, some twice, and anywhere; scores with ties."""
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 7, images)
    count = counts.sum()
    labels = rng.integers(0, CLASSES - 1, count).astype(np.int32)
    starts = np.concatenate([[0], np.cumsum(counts)])
    truths = Objects(starts, drawn(rng, count), labels, rng.random(count) < ignored)
    found = []
    for image in range(images):
        boxes, labels, _ = truths.of(image)
        near = [boxes + rng.normal(0, noise, boxes.shape).astype(np.float32) for noise in (2, 8)]
        places = np.concatenate([*near, drawn(rng, 3)])
        labels = np.concatenate([labels, labels, rng.integers(0, CLASSES, 3)]).astype(np.int32)
        kept = rng.random(len(places)) < 0.7
        scores = rng.integers(0, 1000, len(places)).astype(np.float32) / 1000
        found.append(Detections(places[kept], scores[kept], labels[kept]))
    return found, truths


def plainly(found, truths, label, iou):
    """Recall and precision of a class, as VOC's devkit goes through all detections from the surest on."""
    ranked = [
        (-float(score), image, number)
        for image, detected in enumerate(found)
        for number, (score, of) in enumerate(zip(detected.scores, detected.labels, strict=True))
        if of == label
    ]
    taken, right, wrong, points = set(), 0, 0, []
    for _, image, number in sorted(ranked):
        t, x, b, r = found[image].boxes[number].astype(float)
        best, at = -1.0, None
        for place, (box, of, _) in enumerate(zip(*truths.of(image), strict=True)):
            top, left, bottom, right_side = box.astype(float)
            shared = max(min(b, bottom) - max(t, top), 0) * max(min(r, right_side) - max(x, left), 0)
            overlap = shared / ((b - t) * (r - x) + (bottom - top) * (right_side - left) - shared)
            if of == label and overlap > best:
                best, at = overlap, place
        if best >= iou and truths.of(image).kinds[at] == IGNORED:
            continue
        if best >= iou and (image, at) not in taken:
            taken.add((image, at))
            right += 1
        else:
            wrong += 1
        points.append((right, right / (right + wrong)))
    objects = int(((truths.labels == label) & ~truths.ignored).sum())
    return [(count / objects, precision) for count, precision in points]


def area_below(points):
    """The highest precision at each recall or above, times the step of recall that ends there."""
    total, before = 0.0, 0.0
    for recall in sorted({recall for recall, _ in points}):
        total += (recall - before) * max(precision for other, precision in points if other >= recall)
        before = recall
    return total


@pytest.mark.parametrize("ignored, iou", [(0.0, 0.5), (0.2, 0.5), (0.2, 0.75)])
def test_voc_equals_a_plain_loop(ignored, iou):
    found, truths = made(ignored)
    curves = average_precision.curves(found, truths, CLASSES, iou)
    points = [plainly(found, truths, label, iou) for label in range(CLASSES - 1)]
    areas = [area_below(of) for of in points]
    assert min(areas) > 0.05 and max(areas) < 0.9
    np.testing.assert_allclose([average_precision.area(curve) for curve in curves[:-1]], areas, atol=1e-9)
    assert np.isnan(average_precision.area(curves[-1])) and curves[-1].objects == 0
    eleven = [np.mean([max([p for r, p in of if r >= tenth / 10], default=0) for tenth in range(11)]) for of in points]
    np.testing.assert_allclose([average_precision.eleven_point(curve) for curve in curves[:-1]], eleven, atol=1e-9)
    assert np.isnan(average_precision.eleven_point(curves[-1]))


def one(boxes, scores):
    return Detections(np.array(boxes, np.float32), np.array(scores, np.float32), np.zeros(len(scores), np.int32))


def test_figures_that_are_computed_by_hand():
    """Found, missed by a hair of overlap, found, found twice: precision 1, 1/2, 2/3, 1/2 at recall 1/2, 1/2, 1, 1."""
    truth = np.array([[0, 0, 10, 10], [50, 50, 60, 60]], np.float32)
    truths = Objects(np.array([0, 1, 2]), truth, np.zeros(2, np.int32), np.zeros(2, bool))
    found = [one([[0, 0, 10, 10], [0, 0, 10, 9]], [0.9, 0.2]), one([[50, 50, 60, 80], [50, 50, 60, 70]], [0.8, 0.7])]
    (curve,) = average_precision.curves(found, truths, 1)
    np.testing.assert_allclose(curve.recall, [0.5, 0.5, 1, 1])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    assert average_precision.area(curve) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert average_precision.eleven_point(curve) == pytest.approx((6 * 1 + 5 * 2 / 3) / 11)
    figures, table = average_precision.coco(found, truths, 1)
    # 51 of the 101 points of recall are 0.5 at most. At any higher overlap than 0.5 one object is found, the surest.
    assert figures["ap50"] == pytest.approx((51 + 50 * 2 / 3) / 101) and figures["ap75"] == pytest.approx(51 / 101)
    assert figures["ap"] == pytest.approx(((51 + 50 * 2 / 3) + 9 * 51) / 1010)
    assert figures["ap_small"] == figures["ap"] and figures["ap_large"] is None and table["objects"].tolist() == [2]


def test_nothing_found_is_zero_and_other_examples_are_an_error():
    _, truths = made()
    nothing = [one(np.zeros((0, 4)), [])] * len(truths)
    curves = average_precision.curves(nothing, truths, CLASSES)[:-1]
    assert {ap(curve) for curve in curves for ap in (average_precision.area, average_precision.eleven_point)} == {0.0}
    assert set(average_precision.coco(nothing, truths, CLASSES)[0].values()) == {0.0}
    for function in (average_precision.curves, average_precision.coco):
        with pytest.raises(ValueError, match="39 examples for 40"):
            function(nothing[1:], truths, CLASSES)


def test_coco_equals_its_own_code():
    pytest.importorskip("pycocotools")
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    found, truths = made()
    figures, table = average_precision.coco(found, truths, CLASSES)
    theirs = COCO()
    theirs.dataset, results = average_precision.as_coco(found, truths, CLASSES)
    with contextlib.redirect_stdout(io.StringIO()):
        theirs.createIndex()
        evaluation = COCOeval(theirs, theirs.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert truths.ignored.any() and 0.1 < figures["ap"] < figures["ap50"] < 0.9
    np.testing.assert_allclose([figures[name] for name in names], evaluation.stats[:6], atol=1e-9)
    of_first = evaluation.eval["precision"][:, :, 0, 0, 2]
    assert table["ap"][0] == pytest.approx(of_first.mean()) and table["ap50"][0] == pytest.approx(of_first[0].mean())
    assert np.isnan(table["ap"][-1])


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faster_coco_eval", None)
    with pytest.raises(InputError, match=r"pip install 'resnet_tf\[detect\]'"):
        average_precision.coco(*made(), CLASSES)


# --- Files and pictures ----------------------------------------------------------------------------------------------

NAMES = [f"images/{number},a.jpg" for number in range(40)]


def test_file_gives_back_every_bit(tmp_path):
    found, _ = made()
    path = tmp_path / detections_csv.FILE
    detections_csv.write(path, NAMES, ["a", "b, c", '"d"', "e"], found)
    again = detections_csv.read(path, NAMES, ["a", "b, c", '"d"', "e"])
    for ours, theirs in zip(found, again, strict=True):
        for before, after in zip(ours, theirs, strict=True):
            assert before.dtype == after.dtype
            np.testing.assert_array_equal(before, after)
    assert path.read_text().startswith("image,class,score,top,left,bottom,right\n")
    assert not any(file != path for file in tmp_path.iterdir())


@pytest.mark.parametrize(
    "text, expected",
    [
        ("image,score\n", "its columns are image,score, not image,class"),
        ("", "its columns are , not"),
        (",".join(detections_csv.COLUMNS) + "\nx.jpg,a,1,1,2,3,4\n", "row 2: no image x.jpg"),
        (",".join(detections_csv.COLUMNS) + '\n"images/1,a.jpg",z,1,1,2,3,4\n', "or no class z"),
        (",".join(detections_csv.COLUMNS) + '\n"images/1,a.jpg",a,1,1,2,3\n', "damaged"),
        (",".join(detections_csv.COLUMNS) + '\n"images/1,a.jpg",a,1,1,2,3,4,5\n', "damaged"),
        (",".join(detections_csv.COLUMNS) + '\n"images/1,a.jpg",a,much,1,2,3,4\n', "damaged"),
    ],
)
def test_bad_files_are_named(tmp_path, text, expected):
    path = tmp_path / "found.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*found\.csv: ") as caught:
        detections_csv.read(path, NAMES, ["a"])
    assert expected in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        detections_csv.read(tmp_path / "none.csv", NAMES, ["a"])


def test_pictures_show_what_is_there_and_found():
    found, truths = made()
    image = np.full((320, 320, 3), 200, np.uint8)
    example = int(np.diff(truths.starts).argmax())
    rows = np.concatenate([truths.rows(example), np.zeros((3, PACKED), np.float32)])  # filled up, as views are
    figure = detection_pictures.box_gallery([(image, rows, found[example])], list("abcd"), threshold=0.5)
    (axes,) = figure.axes
    sure = found[example].scores >= 0.5
    assert 0 < sure.sum() < len(sure)
    assert sorted(text.get_text()[-4:] for text in axes.texts) == sorted(
        f"{s:.2f}" for s in found[example].scores[sure]
    )
    dashed = [patch for patch in axes.patches if patch.get_linestyle() == (0, (4, 2))]
    assert len(dashed) == len(rows) - 3
    top, left, bottom, right = truths.of(example).boxes[0]
    np.testing.assert_allclose(dashed[0].get_bbox().extents, np.array([left, top, right, bottom]) - 0.5, rtol=1e-6)
    curves = average_precision.curves(found, truths, CLASSES)
    figure = detection_pictures.precision_recall(curves, list("abcd"))
    assert len(figure.axes[0].lines) == CLASSES - 1  # there are no objects of the last
    figure.savefig(io.BytesIO(), format="png")
