"""Detection: boxes as tensors, the networks, training, the score, and what is served."""

import csv
import signal

import numpy as np
import pytest
import tensorflow as tf
from keras_cv.layers import BoxMatcher

from resnet_tf import compare, predict
from resnet_tf import config as configuration
from resnet_tf.data import colour, draws
from resnet_tf.data import detection as data_detection
from resnet_tf.data.boxes import IGNORED, OBJECT, PACKED, Detections, ImageObjects
from resnet_tf.errors import InputError
from resnet_tf.models import create_model, inside
from resnet_tf.runs import checkpoint, devices, network, record
from resnet_tf.runs.runner import Runner
from resnet_tf.tasks import average_precision, detection, detectors, regions
from resnet_tf.tasks import detections_csv as written
from resnet_tf.training import optimizer, schedule, step, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.transfer import detect, export, score

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def boxes_of(rng, shape, side=100.0):
    """Boxes in a square, with sides from a tenth of it up."""
    start = rng.uniform(0, 0.6, (*shape, 2))
    return (side * np.concatenate([start, start + rng.uniform(0.1, 0.4, (*shape, 2))], axis=-1)).astype(np.float32)


def objects_of(*objects):
    """Objects of one view, with padding: (box, class, kind) each."""
    boxes, labels, kinds = zip(*objects, ((0, 0, 0, 0), 0, 0), strict=True)
    return ImageObjects(tf.constant([boxes], tf.float32), tf.constant([labels]), tf.constant([kinds]))


# --- Boxes as tensors ------------------------------------------------------------------------------------------------


def aligned(values, box, stride, size):
    """RoI align of one box as Mask R-CNN's paper has it, sample by sample, in float64."""
    values, box = values.astype(np.float64), np.asarray(box, np.float64)
    height, width = values.shape[:2]
    result = np.zeros((size, size, values.shape[2]))
    for i, j, u, v in np.ndindex(size, size, 2, 2):
        y = (box[0] + (box[2] - box[0]) * (i + (u + 0.5) / 2) / size) / stride - 0.5
        x = (box[1] + (box[3] - box[1]) * (j + (v + 0.5) / 2) / size) / stride - 0.5
        y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
        top, left = int(y), int(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        upper = (1 - (x - left)) * values[top, left] + (x - left) * values[top, right]
        lower = (1 - (x - left)) * values[bottom, left] + (x - left) * values[bottom, right]
        result[i, j] += ((1 - (y - top)) * upper + (y - top) * lower) / 4
    return result


def test_align_is_roi_align(rng):
    features = [rng.normal(size=(2, side, side + 2, 5)).astype(np.float32) for side in (16, 8)]
    boxes = np.concatenate([boxes_of(rng, (2, 6), 128.0), boxes_of(rng, (2, 2), 64.0) + 64.0], axis=1)
    boxes[0, 0] = (0, 0, 128, 128)  # to all edges
    found = regions.align([tf.constant(features[0])], [8], tf.constant(boxes), 7).numpy()
    for example, number in np.ndindex(found.shape[:2]):
        expected = aligned(features[0][example], boxes[example, number], 8, 7)
        np.testing.assert_allclose(found[example, number], expected, atol=1e-4)
    # A pyramid: 224 pixels belong to stride 16, and an octave less to 8; from 448 on, to the last there is.
    boxes = np.float32([[[0, 0, 224, 224], [0, 0, 223, 223], [10, 10, 122, 122], [0, 0, 111, 111], [0, 0, 300, 900]]])
    maps = [tf.fill([1, side, side, 1], float(stride)) for side, stride in ((32, 8), (16, 16))]
    found = regions.align(maps, [8, 16], tf.constant(boxes), 2).numpy()[0, :, 0, 0, 0]
    np.testing.assert_allclose(found, [16, 8, 8, 8, 16], atol=1e-4)


def test_what_is_not_taken_of_keras_cv():
    """What regions.py says of it; where a release mends this, ours can go."""
    overlap = np.zeros((1, 6, 2), np.float32)
    overlap[0, 2, 0] = 0.8  # of a row of padding there is no overlap
    matcher = BoxMatcher([0.3, 0.7], [-1, -2, 1], force_match_for_each_col=True)
    assert matcher(tf.constant(overlap))[1].numpy().tolist() == [[1, -1, 1, -1, -1, -1]]


def test_anchors_stand_at_the_centres_of_places():
    (found,) = regions.anchors((40, 33), [16], [(32, 64)], (0.5, 2.0))
    expected = []
    for row, column, size, ratio in np.ndindex(3, 3, 2, 2):
        height = (32, 64)[size] / np.sqrt((0.5, 2.0)[ratio])
        width = height * (0.5, 2.0)[ratio]
        y, x = 16 * row + 8, 16 * column + 8
        expected.append((y - height / 2, x - width / 2, y + height / 2, x + width / 2))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_coding_of_boxes(rng):
    boxes, anchors, deviations = boxes_of(rng, (2, 7)), boxes_of(rng, (2, 7)), (0.1, 0.1, 0.2, 0.2)
    found = regions.encode(boxes, anchors, deviations).numpy()
    centre, other = (b[..., :2] + (b[..., 2:] - b[..., :2]) / 2 for b in (boxes, anchors))
    sides, others = (b[..., 2:] - b[..., :2] for b in (boxes, anchors))
    expected = np.concatenate([(centre - other) / others, np.log(sides / others)], axis=-1) / deviations
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(regions.decode(tf.constant(found), anchors, 100, deviations), boxes, atol=1e-3)
    wild = regions.decode(tf.fill([2, 7, 4], 1e6), anchors, 100).numpy()
    assert np.isfinite(wild).all() and wild.max() <= 100
    np.testing.assert_allclose(regions.iou(boxes, anchors)[1], average_precision.ious(boxes[1], anchors[1]), atol=1e-5)


def test_matching():
    boxes = np.float32([
        (0, 0, 10, 10),  # on the first object
        (0, 0, 10, 6),  # 0.6 of it: neither
        (0, 0, 10, 2),  # 0.2: negative
        (40, 40, 60, 60),  # best of the second, by 0.25
        (80, 80, 90, 90),  # on the ignored one
        (0, 0, 0, 0),  # no box
    ])  # fmt: skip
    objects = objects_of(
        ((0, 0, 10, 10), 1, OBJECT), ((50, 40, 60, 50), 0, OBJECT),
        ((80, 80, 90, 90), 1, IGNORED), ((90, 0, 99, 9), 1, OBJECT),
    )  # fmt: skip
    found = regions.match(boxes, objects, 0.3, 0.7, best=True)
    assert found.positive.numpy().tolist() == [[True, False, False, True, False, False]]
    assert found.negative.numpy().tolist() == [[False, False, True, False, False, False]]
    assert found.matched.numpy()[0, [0, 3]].tolist() == [0, 1]
    assert regions.match(boxes, objects, 0.3, 0.7).positive.numpy().tolist() == [[True] + 5 * [False]]
    nothing = regions.match(boxes, objects_of(), 0.3, 0.7, best=True)
    assert not nothing.positive.numpy().any() and nothing.negative.numpy().tolist() == [5 * [True] + [False]]


def test_sampling(rng):
    positive, negative = np.zeros((3, 400), bool), np.zeros((3, 400), bool)
    positive[0, :100] = positive[1, :5] = True
    negative[:2, 200:] = negative[2, :7] = True
    keys = tf.constant([11, 12, 13], tf.int64)
    matches, first = regions.Matches(None, positive, negative), regions.Matches(None, positive[:1], negative[:1])
    index, there = (x.numpy() for x in regions.sample(matches, keys, draws.Stream.REGIONS, 64, 16))
    assert there.sum(axis=1).tolist() == [64, 64, 7]
    for example, hits in enumerate((16, 5, 0)):
        chosen = index[example][there[example]]
        assert len(set(chosen)) == len(chosen)
        assert positive[example, chosen].sum() == hits and negative[example, chosen].sum() == len(chosen) - hits
    # A function of the key alone, and another choice for another.
    alone, _ = regions.sample(first, keys[:1], draws.Stream.REGIONS, 64, 16)
    np.testing.assert_array_equal(alone[0], index[0])
    other, _ = regions.sample(first, keys[1:2], draws.Stream.REGIONS, 64, 16)
    assert set(other.numpy()[0]) != set(index[0])


def greedy(boxes, scores, threshold, count):
    """Indices of non-maximum suppression, one by one."""
    kept = []
    for number in np.argsort(-scores, kind="stable"):
        if len(kept) < count and (average_precision.ious(boxes[[number]], boxes[kept]) <= threshold).all():
            kept.append(number)
    return kept


def test_proposals_and_detections_are_greedy(rng):
    anchors = [boxes_of(rng, (40,)), boxes_of(rng, (12,))]
    logits, deltas = rng.normal(size=(2, 52)).astype(np.float32), 0.1 * rng.normal(size=(2, 52, 4)).astype(np.float32)
    found = regions.propose(tf.constant(logits), tf.constant(deltas), anchors, 100, 30, 9, 0.6).numpy()
    for example in range(2):
        best = []
        for part, of_level in ((slice(0, 40), anchors[0]), (slice(40, 52), anchors[1])):
            boxes = regions.decode(tf.constant(deltas[example, part]), of_level, 100).numpy()
            order = np.argsort(-logits[example, part])[:30]
            for number in greedy(boxes[order], logits[example, part][order], 0.6, 9):
                best.append((-logits[example, part][order[number]], *boxes[order[number]]))
        np.testing.assert_allclose(found[example], [row[1:] for row in sorted(best)[:9]], atol=1e-3)

    boxes, scores = boxes_of(rng, (2, 30, 3)), rng.uniform(size=(2, 30, 3)).astype(np.float32)
    found = regions.detect(tf.constant(boxes), tf.constant(scores), 0.3, 0.4, 200)
    assert found.shape == (2, 200, PACKED)
    found = Detections.unpack(found.numpy())
    for example in range(2):
        expected = []
        for label in range(3):
            places, likely = boxes[example, :, label], scores[example, :, label]
            for number in greedy(places, likely, 0.4, 200):
                if likely[number] > 0.3:
                    expected.append(Detections(places[number], likely[number], label))
        expected.sort(key=lambda one: -one.scores)
        for part, values in zip(found, zip(*expected, strict=True), strict=True):
            np.testing.assert_allclose(part[example, : len(expected)], values, rtol=1e-6)
            assert not part[example, len(expected) :].any()


def test_loss_is_that_of_the_papers(rng):
    """Every anchor drawn, so that nothing is left to chance."""
    anchors = boxes_of(rng, (30,))
    objects = objects_of((anchors[3], 1, OBJECT), (anchors[9] + 1, 0, OBJECT))
    objectness, deltas = rng.normal(size=(1, 30)).astype(np.float32), rng.normal(size=(1, 30, 4)).astype(np.float32)
    rois = np.concatenate([anchors[None, 3:12], np.zeros((1, 1, 4), np.float32)], axis=1)
    logits, roi_deltas = rng.normal(size=(10, 3)).astype(np.float32), rng.normal(size=(10, 8)).astype(np.float32)
    loss = detection.DetectionLoss(anchors, 2, 60)
    outputs = detectors.Outputs(
        detections=None, objectness=objectness, anchor_deltas=deltas, rois=tf.constant(rois), class_logits=logits,
        roi_deltas=roi_deltas, keys=tf.constant([5], tf.int64),
    )  # fmt: skip
    boxes, labels = objects.boxes.numpy()[0, :2], objects.labels.numpy()[0, :2]
    overlap = average_precision.ious(anchors, boxes)

    def smooth(x, beta):
        return np.where(np.abs(x) < beta, x**2 / 2 / beta, np.abs(x) - beta / 2).sum()

    def deltas_of(box, anchor, scale=(1, 1, 1, 1)):
        return regions.encode(np.float32(box)[None], np.float32(anchor)[None]).numpy()[0] / scale

    total, drawn = 0.0, 0
    for number in range(30):
        object_ = overlap[number].max() >= 0.7 or (overlap[number] == overlap.max(axis=0)).any()
        if object_ or overlap[number].max() < 0.3:
            drawn += 1
            total += np.log1p(np.exp(-objectness[0, number] if object_ else objectness[0, number]))
        if object_:
            wanted = deltas_of(boxes[overlap[number].argmax()], anchors[number])
            total += smooth(deltas[0, number] - wanted, 1 / 9)
    expected, right = total / drawn, []
    for number in range(9):
        mine = overlap[number + 3]
        label = int(labels[mine.argmax()]) if mine.max() >= 0.5 else 2
        z = logits[number].astype(np.float64)
        expected += (np.log(np.exp(z).sum()) - z[label]) / 9
        right.append(z.argmax() == label)
        if label < 2:
            wanted = deltas_of(boxes[mine.argmax()], rois[0, number], (0.1, 0.1, 0.2, 0.2))
            expected += smooth(roi_deltas[number, 4 * label : 4 * label + 4] - wanted, 1.0) / 9
    np.testing.assert_allclose(loss(outputs, loss.targets(objects.pack(), 2)), [expected], rtol=1e-4)
    figures = loss.metrics(outputs, objects.pack())
    np.testing.assert_allclose(figures["top1"], [np.mean(right)], rtol=1e-6)
    np.testing.assert_array_equal(figures["top5"], [1])


# --- Networks --------------------------------------------------------------------------------------------------------

FEW = detectors.Choices(candidates=60, proposals=(40, 20), rois=(16, 0.25), detections=10)


@pytest.mark.parametrize(("name", "neck", "dtype"), [
    ("resnet18_v2", "c4", "float32"), ("cifar_resnet8_v1", "fpn", "mixed_bfloat16"),
])  # fmt: skip
def test_all_of_a_classifier_is_in_a_detector(name, neck, dtype):
    model = detectors.create(name, 3, 64, neck=neck, most=4, choices=FEW, dtype=dtype)
    classifier = create_model(name, num_classes=7, input_shape=(64, 64, 3), seed=5)
    theirs = {v.path: v for v in classifier.variables if inside.part(v.path) != "logits"}
    ours = {v.path: v for v in model.variables}
    assert {path: v.shape for path, v in theirs.items()}.items() <= {path: v.shape for path, v in ours.items()}.items()
    assert {inside.part(path) for path in ours.keys() - theirs.keys()} == {"logits"}
    assert set(map(inside.part, ours)) <= inside.depths(model).keys()
    network.start_from(model, network.Trained("here", classifier, colour.IMAGENET, None))
    for path, variable in theirs.items():
        np.testing.assert_array_equal(ours[path], variable, path)
    assert [output.dtype for output in model.outputs] == 6 * ["float32"] + ["int64"]


def test_sizes_that_a_network_cannot_have():
    for words, options in (
        ("image_size=100", {"size": 100}), ("5 levels", {"size": 64, "anchor_sizes": (8, 16, 32)})
    ):  # fmt: skip
        with pytest.raises(InputError, match=words):
            detectors.create("resnet18_v1", 3, neck="fpn", **options)


# --- Training --------------------------------------------------------------------------------------------------------

TINY = {
    "dataset": "synthetic", "image_size": 64, "model": "cifar_resnet8_v1", "anchor_sizes": (12.0, 20.0),
    "candidates": 200, "proposals": 100, "eval_proposals": 50, "regions": 32, "anchors": 64, "most_objects": 8,
    "batch_size": 8,
}  # fmt: skip


def trainer(**settings):
    """Task, engine and batches of a training on eight images."""
    config = configuration.from_settings(configuration.DetectConfig, TINY | settings, "test")
    source = data_detection.index("synthetic")
    few = source.splits["train"].take(np.arange(8))
    strategy, total = devices.make_strategy(1), config.optimizer.train_steps
    with strategy.scope():
        task = detection.Detection(config)
        recipe = Recipe(
            optimizer=optimizer.from_config(config.optimizer, model := task.build(2)),
            schedule=schedule.Schedule(config.schedule.lr, "cosine", total=total, warmup=total // 10),
            **task.recipe(source, colour.IMAGENET),
        )  # fmt: skip
        engine = Engine(strategy, model, colour.IMAGENET, recipe)
    return task, engine, supply.make(engine, config, few, 0, 10, task.view(colour.IMAGENET)), few


@pytest.mark.slow  # hundreds of steps
def test_a_network_learns_eight_images_by_heart(rewritten_graphs):
    """From which it is sure that image, boxes, anchors, crops and loss belong together."""
    task, engine, batches, few = trainer(
        train_steps=150, lr=0.2, optimizer="nesterov", scale=(1.0, 1.0), mirror=False, weight_decay=0.0
    )
    engine.run(batches, 0, 150)  # after 100 rounding decides: 0.93 or 1.0 by the processor and its threads
    figures, _ = task.score(task.evaluation(engine, few, colour.IMAGENET), few, False, lambda: None)
    assert figures["examples"] == 8 and figures["ap50"] >= 0.95


def test_xla_compiles_a_step():
    """As one program, shapes and all; a CPU trains without it."""
    _, engine, batches, _ = trainer(neck="fpn", anchor_sizes=(), train_steps=10, batch_size=2, regions=8)
    (batch,) = next(batches.peek(0, 1))
    state = engine.state.read(0)

    def gradients(state, batch):
        return step.forward_backward(engine.recipe, engine.model, state, batch, examples=2)

    compiled = tf.function(gradients, jit_compile=True, autograph=False)(state, batch)
    eager = gradients(state, batch)
    # Compilers add in another order, and a score in the last bits may order proposals otherwise.
    np.testing.assert_allclose(compiled["loss"], eager["loss"], rtol=1e-3)
    norms = [float(tf.linalg.global_norm(sums["gradients"])) for sums in (compiled, eager)]
    assert norms[0] == pytest.approx(norms[1], rel=2e-2) and norms[0] > 0
    assert all(np.abs(gradient).max() > 0 for gradient in eager["gradients"])


SMALL = (
    *(f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}" for name, value in TINY.items()),
    "--train_steps=8", "--log_every=4", "--checkpoint_every=4", "--lr=0.1", "--ema=0.9",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("detection")
    assert detect.main([*SMALL, f"--out={folder}/run", f"--results={folder}/results.csv"]) == 0
    return folder


def state_of(folder):
    return checkpoint.load_latest(folder / "checkpoints")


def test_a_run_is_recorded(trained):
    rows = record.read_metrics(trained / "run" / "metrics.csv")
    train = [row for row in rows if row["split"] == "train"]
    (last,) = [row for row in rows if row["split"] == "test"]
    assert train[-1]["loss"] < train[0]["loss"] and 0 < train[-1]["top1"] <= 1 and 0 <= last["ap50"] <= 1
    with open(trained / "results.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert tuple(row) == record.results_columns("detection")
    assert row["model"] == "faster_rcnn c4 cifar_resnet8_v1" and row["examples"] == "64"
    with open(trained / "run" / "classes.csv", newline="") as file:
        classes = list(csv.DictReader(file))
    # Six digits in each file.
    assert float(row["ap50"]) == pytest.approx(np.mean([float(one["ap50"]) for one in classes]), abs=2e-6)
    split = data_detection.index("synthetic").splits["test"]
    assert sum(int(one["objects"]) for one in classes) == len(split.objects.labels)
    assert compare.main([f"{trained}/run", f"--out={trained}/compared"]) == 0
    text = (trained / "compared" / "table.md").read_text()
    assert f"{100 * last['ap50']:.2f}" in text and "faster_rcnn c4 cifar_resnet8_v1" in text


def test_resume_equals_unbroken_to_the_bit(trained, tmp_path, monkeypatch):
    """The anchors and boxes that are drawn too, which follow from the keys of the examples."""
    flags = [*SMALL, f"--out={tmp_path}/run"]
    write = checkpoint.save

    def stop_after(folder, step, arrays):
        path = write(folder, step, arrays)
        if step == 4:
            signal.raise_signal(signal.SIGTERM)
        return path

    monkeypatch.setattr(checkpoint, "save", stop_after)
    assert detect.main(flags) == 75
    monkeypatch.undo()
    assert detect.main(flags) == 0
    ours, theirs = state_of(tmp_path / "run"), state_of(trained / "run")
    for name, value in theirs.items():
        if not name.startswith("window/"):
            np.testing.assert_array_equal(ours[name], value, name)


@pytest.mark.parametrize(("flags", "words"), [
    (("--dataset=voc",), "--data_dir= is not set"),
    (("--scale=2,1",), "--scale=2"),
    (("--anchor_ratios=1,-1",), "--anchor_ratios=1,-1: "),
    (("--data_service=localhost:1",), "--data_service"),
    (("--most_objects=2",), "--most_objects=2: an image has 3"),
    (("--neck=fpn", "--image_size=66"), "--image_size=66"),
    (("--init_from=/nowhere/at/all",), "/nowhere/at/all"),
])  # fmt: skip
def test_bad_flags_are_named(flags, words, tmp_path, capsys):
    assert detect.main([*SMALL, *flags, f"--out={tmp_path}/run"]) == 1
    assert words in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "run").exists()


# --- Afterwards ------------------------------------------------------------------------------------------------------


def test_what_is_scored_is_what_is_served(trained, tmp_path, last_json, capsys):
    assert export.main([f"--run={trained}/run", f"--out={tmp_path}/model", "--weights=ema"]) == 0
    served = tf.saved_model.load(str(tmp_path / "model" / "1")).signatures
    assert predict.main([f"--model={tmp_path}/model", __file__]) == 1
    assert "a model for detection, not for classification" in capsys.readouterr().err
    report = tmp_path / "report"
    flags = [f"--run={trained}/run", "--weights=ema", f"--report={report}", f"--results={tmp_path}/r.csv"]
    assert score.main(flags) == 0
    result = last_json()
    split = data_detection.index("synthetic").splits["test"]
    scored = written.read(report / written.FILE, split.names, ["grey", "bright"])
    all_found = []
    for example in range(len(split)):
        answer = served["serving_default"](image_bytes=tf.constant(split.read(example)))
        answer = {name: values.numpy() for name, values in answer.items()}
        all_found.append(Detections(answer["boxes"], answer["scores"], answer["labels"]))
        # One image at a time here, eight there: convolutions add in another order.
        np.testing.assert_allclose(answer["scores"], scored[example].scores, atol=1e-4)
        np.testing.assert_allclose(answer["boxes"], scored[example].boxes, atol=1e-2)
    assert [name.decode() for name in answer["classes"]] == ["grey", "bright"]
    curves = average_precision.curves(all_found, split.objects, 2)
    figures, _ = detection.metrics_of(all_found, split.objects, curves)
    assert figures == pytest.approx({name: result[name] for name in configuration.TASKS["detection"].columns}, abs=1e-3)
    pixels = tf.io.decode_image(split.read(example))
    both = served["images"](images=tf.stack([pixels, pixels]))
    count = len(all_found[-1].scores)
    assert both["boxes"].shape == (2, 100, 4) and not both["scores"][:, count:].numpy().any()
    np.testing.assert_allclose(both["boxes"][1, :count], all_found[-1].boxes, atol=1e-2)
    assert sorted(path.name for path in report.iterdir()) == [
        "boxes.png", "classes.csv", "detections.csv", "precision_recall.png"
    ]  # fmt: skip


def test_two_replicas_find_the_same(trained):
    run = record.open_run(trained / "run", tasks=("detection",))
    split = data_detection.index("synthetic").splits["test"]
    names = split.names
    expected = written.read(trained / "run" / written.FILE, names, ["grey", "bright"])
    strategy = devices.make_strategy(2)
    with strategy.scope():
        task = detection.Detection(run.config)
        model = task.build(2, 2)
        network.assign(model, state_of(trained / "run"), "test")
        engine = Runner(strategy, model, colour.IMAGENET)
    found = task.evaluation(engine, split.take(np.arange(5)), colour.IMAGENET).detections()
    assert len(found) == 5
    for ours, theirs in zip(found, expected, strict=False):
        np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=1e-2)
