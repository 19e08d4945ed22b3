"""What a recipe may ask of the engine: losses, teachers, averages, accumulation, BN."""

import functools
import json
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

import resnet_tf
from resnet_tf import config as configuration
from resnet_tf import evaluate, export, train
from resnet_tf.data import Source, Split, colour, resident
from resnet_tf.errors import InputError
from resnet_tf.runs import checkpoint, describe, devices, network, record, run_data
from resnet_tf.sweeps import sweep
from resnet_tf.training import distillation, loop, losses, optimizer, precise_bn, schedule, supply
from resnet_tf.training.engine import Engine
from resnet_tf.training.recipe import Recipe
from resnet_tf.training.step import METRICS

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

BATCH = 16
SMALL = (
    "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--lr=0.05",
    "--train_steps=8", "--log_every=4", "--pad=2",
)  # fmt: skip


def data():
    images = np.random.default_rng(1).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    return images, np.arange(64, dtype=np.int32) % 10


def make_engine(replicas=1, bn="local", **recipe):
    strategy = devices.make_strategy(replicas)
    with strategy.scope():
        model = resnet_tf.create_model("cifar_resnet8_v1", input_shape=(16, 16, 3), sync_bn=bn == "sync")
        settings = {
            "optimizer": optimizer.from_config(configuration.OptimizerConfig(), model),
            "schedule": schedule.Schedule(0.02),
        }
        return Engine(strategy, model, colour.IMAGENET, Recipe(**settings | recipe))


def run_steps(engine, steps=1, most=None):
    few = supply.Resident(engine, *data(), BATCH, seed=0, capacity=most or steps)
    return engine.run(few, engine.step, engine.step + steps).numpy()


# --- Losses ----------------------------------------------------------------------------------------------------------


def test_smoothed_targets_sum_to_one_and_equal_keras(rng):
    labels, logits = np.array([0, 3], np.int32), rng.normal(size=(2, 5)).astype(np.float32)
    loss = losses.Loss(smoothing=0.1)
    targets = loss.targets(labels, 5).numpy()
    np.testing.assert_allclose(targets[1], [0.02, 0.02, 0.02, 0.92, 0.02], atol=1e-6)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    keras_loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1, reduction=None)
    np.testing.assert_allclose(loss(logits, targets), keras_loss(tf.one_hot(labels, 5), logits), rtol=1e-5)
    assert (losses.Loss().targets(labels, 5).numpy() == np.eye(5)[labels]).all()


def test_bce_takes_what_is_more_than_a_fifth_as_there(rng):
    logits = rng.normal(size=(2, 4)).astype(np.float32)
    mixed = np.array([[0.7, 0.3, 0, 0], [0.85, 0, 0, 0.15]], np.float32)
    present = np.array([[1, 1, 0, 0], [1, 0, 0, 0]])
    likelihood = 1 / (1 + np.exp(-logits))
    expected = -(present * np.log(likelihood) + (1 - present) * np.log(1 - likelihood)).mean(axis=1)
    np.testing.assert_allclose(losses.Loss("bce")(logits, mixed), expected, rtol=1e-5)


def test_distillation_equals_its_formula(rng):
    logits, teacher = (rng.normal(size=(3, 6)).astype(np.float32) * 4 for _ in range(2))
    targets = np.eye(6, dtype=np.float32)[[0, 5, 2]]

    def softmax(values):
        exponentials = np.exp(values - values.max(axis=1, keepdims=True))
        return exponentials / exponentials.sum(axis=1, keepdims=True)

    hard = -(targets * np.log(softmax(logits))).sum(axis=1)
    soft = -(softmax(teacher / 20) * np.log(softmax(logits / 20))).sum(axis=1)
    found = losses.Loss(temperature=20.0, distillation=0.5)(logits, targets, teacher)
    np.testing.assert_allclose(found, hard + 0.5 * 400 * soft, rtol=1e-5)
    # The gradient vanishes where the student says what the teacher says, apart from the labels' own.
    student = tf.Variable(teacher)
    with tf.GradientTape() as tape:
        both = losses.Loss()(student, targets, teacher) - losses.Loss()(student, targets)
    # T^2 = 400 times rounding of 1e-7.
    np.testing.assert_allclose(tape.gradient(both, student), np.zeros_like(teacher), atol=2e-4)


def test_published_normalisations_are_of_no_data():
    split = Split(*data())
    of = {kind: run_data.normalization(kind, split, 16) for kind in colour.PUBLISHED if kind != "caffe"}
    np.testing.assert_allclose(of["inception"](split.images), split.images / 127.5 - 1, atol=1e-6)
    assert of["imagenet"] is colour.IMAGENET and len(of) == 3
    theirs = (split.images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(of["torchvision"](split.images), theirs, atol=1e-5)  # of levels up to 2.6 in float32


# --- Teachers and weights to start from ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def teacher_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "run"
    flags = [*SMALL, "--normalization=imagenet", "--ema=0.5", "--eval_every=4", f"--out={folder}"]
    assert train.main(flags) == 0
    return folder


@pytest.fixture(scope="module")
def exported(teacher_run):
    folder = teacher_run.with_name("exported")
    assert export.main([f"--run={teacher_run}", f"--out={folder}"]) == 0
    return folder


def config_of(*flags):
    from absl import flags as absl_flags

    values = absl_flags.FlagValues()
    configuration.define_flags(configuration.TrainConfig, values)
    values(["test", *flags])
    return configuration.read_flags(configuration.TrainConfig, values)


def test_teacher_sees_the_views_of_the_student(teacher_run, exported, rng):
    config = config_of(*SMALL)
    images = rng.normal(size=(4, 16, 16, 3)).astype(np.float32)
    student = colour.Normalization(np.float32([100, 110, 120]), np.float32([50, 60, 70]))
    answers = []
    for origin in (teacher_run, exported):
        trained = network.load("teacher", str(origin), config)
        classes = trained.classes
        teacher = distillation.Teacher(trained, classes, student)
        pixels = images * student.std + student.mean
        expected = trained.model((pixels - trained.normalization.mean) / trained.normalization.std, training=False)
        values = [tf.convert_to_tensor(variable) for variable in teacher.variables.values()]
        answers.append(teacher.logits(values, images))
        np.testing.assert_allclose(answers[-1], expected, atol=1e-4)
    np.testing.assert_allclose(*answers, atol=1e-5)  # an exported model teaches what its run does
    with pytest.raises(InputError, match=r"--teacher=.*10 classes that are not the 3"):
        distillation.Teacher(trained, ["a", "b", "c"], student)
    with pytest.raises(InputError, match="--normalization=pixel"):
        distillation.Teacher(trained, classes, colour.Normalization(np.zeros((16, 16, 3), np.float32), student.std))


def test_student_follows_its_teacher(teacher_run, tmp_path, last_json):
    plain = [*SMALL, "--train_steps=2", "--normalization=imagenet", "--lr=0"]
    assert train.main([*plain, f"--out={tmp_path}/plain"]) == 0
    assert train.main([*plain, f"--out={tmp_path}/taught", f"--teacher={teacher_run}", "--temperature=2"]) == 0
    alone, taught = (record.read_metrics(tmp_path / name / "metrics.csv")[0] for name in ("plain", "taught"))
    # The same network on the same views: what is more is T^2 CE, of two distributions over ten classes.
    assert taught["loss"] - alone["loss"] > 4 * 0.5
    assert taught["top1"] == alone["top1"]
    assert taught["gradient_norm"] != alone["gradient_norm"]


def test_start_from_a_run_and_freeze_its_bn(teacher_run, tmp_path):
    flags = [*SMALL, "--train_steps=2", "--normalization=imagenet", f"--init_from={teacher_run}", "--bn=frozen"]
    assert train.main([*flags, f"--out={tmp_path}/run"]) == 0
    before, after = (checkpoint.load_latest(path / "checkpoints") for path in (teacher_run, tmp_path / "run"))
    names = [name for name in after if name.startswith("model/")]
    kept = {name for name in names if (before[name] == after[name]).all()}
    assert kept == {name for name in names if "_bn" in name}
    assert any(name.endswith("moving_mean") for name in kept) and any(name.endswith("gamma") for name in kept)


def test_freeze_parts_of_a_network(teacher_run, tmp_path, capsys):
    flags = [*SMALL, "--train_steps=2", "--normalization=imagenet", f"--init_from={teacher_run}", "--ema=0.9"]
    flags += ["--freeze=stem,stage2", "--precise_bn=2", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    before, after = (checkpoint.load_latest(path / "checkpoints") for path in (teacher_run, tmp_path / "run"))
    names = [name for name in after if name.startswith("model/")]
    kept = {name for name in names if (before[name] == after[name]).all()}
    assert kept == {name for name in names if name.startswith(("model/stem_", "model/stage2_"))}
    assert all((after[name.replace("model/", "ema/")] == after[name]).all() for name in kept)
    words = describe.classification_recipe(record.open_run(tmp_path / "run").config)
    assert " transferred frozen stem+stage2 " in words
    assert train.main([*flags, "--freeze=stem,stage5", f"--out={tmp_path}/other"]) == 1
    assert "--freeze=stem,stage5: cifar_resnet8_v1 has" in capsys.readouterr().err


def test_rates_fall_towards_the_images(teacher_run, tmp_path):
    flags = [*SMALL, "--train_steps=1", "--normalization=imagenet", f"--init_from={teacher_run}", "--weight_decay=0"]
    assert train.main([*flags, f"--out={tmp_path}/one"]) == 0
    assert train.main([*flags, f"--out={tmp_path}/many", "--layer_decay=0.5"]) == 0
    before, one, many = (
        checkpoint.load_latest(path / "checkpoints") for path in (teacher_run, tmp_path / "one", tmp_path / "many")
    )
    rates = {"logits": 1, "stage3": 0.5, "stage2": 0.25, "stage1": 0.125, "stem": 0.0625}
    for part, rate in rates.items():
        for name in (name for name in one if name.startswith(f"model/{part}") and "moving" not in name):
            # The first step of SGD is the rate times the gradient, which both have alike.
            np.testing.assert_allclose(
                many[name] - before[name], rate * (one[name] - before[name]), rtol=1e-3, atol=1e-6, err_msg=name
            )


def test_start_from_weights_of_other_classes_and_of_another_network(teacher_run, tmp_path, capsys):
    config = config_of(*SMALL)
    trained = network.load("init_from", str(teacher_run), config)
    model = resnet_tf.create_model("cifar_resnet8_v1", num_classes=3, input_shape=(16, 16, 3))
    head = model.get_layer("logits").kernel.numpy()
    network.start_from(model, trained)
    np.testing.assert_array_equal(model.get_layer("stem_conv").kernel, trained.model.get_layer("stem_conv").kernel)
    np.testing.assert_array_equal(model.get_layer("logits").kernel, head)
    flags = [*SMALL, "--model=cifar_resnet14_v1", f"--init_from={teacher_run}", f"--out={tmp_path}/run"]
    assert train.main(flags) == 1
    assert f"--init_from={teacher_run}: has no " in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_a_head_follows_the_names_of_the_classes(caplog):
    """As many other classes are no reason to keep a head, and another order none to mix its rows up."""
    caplog.set_level("INFO")
    build = functools.partial(resnet_tf.create_model, "cifar_resnet8_v1", num_classes=3, input_shape=(16, 16, 3))
    theirs = build(seed=1)
    images = np.random.default_rng(0).normal(size=(4, 16, 16, 3)).astype(np.float32)
    answers = theirs(images, training=False).numpy()

    def started(classes, known=("ant", "bee", "cat")):
        model = build(seed=2)
        drawn = [np.array(value) for value in model.get_layer("logits").get_weights()]
        network.start_from(model, network.Trained("theirs", theirs, colour.IMAGENET, known and list(known)), classes)
        fresh = all(map(np.array_equal, drawn, model.get_layer("logits").get_weights()))
        return model(images, training=False).numpy(), fresh, caplog.records[-1].message

    assert np.array_equal(started(["ant", "bee", "cat"])[0], answers)
    found, fresh, said = started(["cat", "ant", "bee"])
    np.testing.assert_allclose(found, answers[:, [2, 0, 1]], atol=1e-6)
    assert not fresh and said == "--init_from=theirs: its head is kept, by the names of the classes"
    found, fresh, said = started(["ant", "bee", "dog"])
    assert fresh and said == "--init_from=theirs: its head starts anew"
    found, fresh, said = started(["ant", "bee", "dog"], known=None)
    assert np.array_equal(found, answers) and "which classes it has is not known" in said


def test_start_from_another_graph_of_the_same_shapes_is_refused(tmp_path):
    theirs = resnet_tf.create_model("cifar_resnet8_v2", graph="timm", num_classes=3)
    trained = network.Trained("theirs", theirs, colour.IMAGENET, None)
    with pytest.raises(InputError, match=r"first_shortcut raw there, activated here; see --graph"):
        network.start_from(resnet_tf.create_model("cifar_resnet8_v2", num_classes=3), trained)
    theirs = network.Trained("theirs", resnet_tf.create_model("resnet50_v1"), colour.IMAGENET, None)
    with pytest.raises(InputError, match=r"stride_in 1x1 there, 3x3 here$"):
        network.start_from(resnet_tf.create_model("resnet50_v1b"), theirs)


def test_a_run_of_before_keeps_the_graph_that_it_had(tmp_path):
    """Its manifest has no --graph: a pre-activation net was timm's then."""
    run = tmp_path / "run"
    flags = [*SMALL, "--model=cifar_resnet8_v2", "--graph=timm", "--train_steps=1", "--batch_size=16", f"--out={run}"]
    assert train.main(flags) == 0
    manifest = yaml.safe_load((run / "manifest.yaml").read_text())
    del manifest["flags"]["graph"]
    (run / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert record.open_run(run).config.model.graph == "timm"
    assert record.open_run(run).config.network == "cifar_resnet8_v2 timm's graph"
    before = json.loads((run / "evaluation.json").read_text())
    assert evaluate.main([f"--run={run}"]) == 0
    assert json.loads((run / "evaluation.json").read_text())["loss"] == pytest.approx(before["loss"], rel=1e-6)
    manifest["flags"]["model"] = "cifar_resnet8_v1"
    (run / "manifest.yaml").write_text(yaml.safe_dump(manifest))
    assert record.open_run(run).config.model.graph == ""


# --- Averages, accumulation, BN --------------------------------------------------------------------------------------


def test_averaged_weights_follow_their_formula_and_are_evaluated(teacher_run, last_json, capsys, tmp_path):
    engine = make_engine(ema=0.3)
    name = "stage1_block1_conv1/kernel"
    average = engine.state.get(f"model/{name}").astype(np.float64)
    np.testing.assert_array_equal(engine.state.get(f"ema/{name}"), average)
    few = supply.Resident(engine, *data(), BATCH, seed=0, capacity=1)
    for step in range(4):
        engine.run(few, step, step + 1)
        decay = min(0.3, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * engine.state.get(f"model/{name}")
        np.testing.assert_allclose(engine.state.get(f"ema/{name}"), average, atol=1e-6)
    assert engine.state.get("ema/stem_bn/moving_mean").any()  # BN's statistics are averaged too

    rows = record.read_metrics(teacher_run / "metrics.csv")
    final = {row["split"]: row["top1"] for row in rows}
    assert set(final) == {"train", "test", "test_ema"}
    for weights, split in (("raw", "test"), ("ema", "test_ema")):
        assert evaluate.main([f"--run={teacher_run}", f"--weights={weights}"]) == 0
        assert last_json()["top1"] == pytest.approx(final[split], abs=1e-6)
    assert train.main([*SMALL, "--train_steps=1", f"--out={tmp_path}/plain"]) == 0
    assert evaluate.main([f"--run={tmp_path}/plain", "--weights=ema"]) == 1
    assert "--weights=ema" in capsys.readouterr().err


def test_accumulated_parts_give_the_gradient_of_replicas():
    """Two parts of a batch, one after another, see the BN that two replicas see, and sum alike."""
    parts, replicas, whole = make_engine(accumulate=2), make_engine(replicas=2), make_engine()
    rows = [run_steps(engine)[0] for engine in (parts, replicas, whole)]
    np.testing.assert_allclose(rows[0][:5], rows[1][:5], rtol=1e-5)
    assert abs(rows[0][0] - rows[2][0]) > 1e-5  # and not the BN of the whole batch
    for name in parts.state.get_all():
        if "moving" not in name:  # which two parts update twice
            np.testing.assert_allclose(
                parts.state.get(name), replicas.state.get(name), rtol=1e-4, atol=1e-6, err_msg=name
            )


@pytest.mark.parametrize("bn", [pytest.param("local", marks=pytest.mark.slow), "sync"])
def test_programs_of_several_gpus_compute_what_cpus_compute(bn, monkeypatch, as_on_gpus):
    """A program of XLA's on each, here of the CPU, which has no collectives of XLA's: each replica sums with itself.

    So replicas part, each by its own images, and each is beside its own.
    """
    monkeypatch.setattr(tf.distribute.ReplicaContext, "all_reduce", lambda _, operation, value: twice(value))
    recipe = {"ema": 0.5, "clip": 2.0, "pad_crop": resident.PadCrop(2, True)}
    plain = make_engine(2, bn, **recipe)
    as_on_gpus()
    programs = make_engine(2, bn, **recipe)
    start = plain.state.get_all()
    programs.state.set_all(start)
    for steps in (2, 1):  # the second call starts from what the first put back
        rows = [run_steps(engine, steps, most=2) for engine in (plain, programs)]
        np.testing.assert_allclose(rows[0], rows[1], rtol=3e-4)
    assert programs.step == 3
    for name, before in start.items():
        copies = [
            [engine.state.local(engine.state.variables[name], replica).numpy() for replica in (0, 1)]
            for engine in (plain, programs)
        ]
        for expected, found in zip(*copies, strict=True):
            # XLA sums in another order; a ReLU that it lets through for that moves single gradients by some 1e-3.
            assert np.linalg.norm(found - expected) <= 2e-2 * np.linalg.norm(expected - before), name
        if name.startswith("model/") and name.endswith("kernel"):
            moved = np.linalg.norm(copies[0][0] - before)
            assert np.linalg.norm(copies[1][0] - copies[1][1]) > 0.1 * moved, name  # not one's images for both


def twice(value):
    return tf.nest.map_structure(lambda tensor: 2 * tensor, value)


def test_accumulation_on_replicas_without_bn_is_exact():
    """With BN frozen a batch is the sum of its parts, however it is cut."""
    states = []
    for replicas, accumulate in ((1, 1), (1, 4), (2, 2)):
        strategy = devices.make_strategy(replicas)
        with strategy.scope():
            model = resnet_tf.create_model("cifar_resnet8_v1", input_shape=(16, 16, 3))
            network.freeze(model, configuration.ModelConfig(bn="frozen"))
            part = optimizer.from_config(configuration.OptimizerConfig(), model)
            recipe = Recipe(part, schedule.Schedule(0.02), accumulate=accumulate)
            engine = Engine(strategy, model, colour.IMAGENET, recipe)
        run_steps(engine, 2)
        states.append(engine.state.get_all())
    for name in states[0]:
        for other in states[1:]:
            np.testing.assert_allclose(states[0][name], other[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_gradient_is_clipped_after_the_sum(limit):
    moved = []
    for clip in (0.0, limit):
        engine = make_engine(replicas=2, clip=clip)
        norm = run_steps(engine)[0][METRICS.index("gradient_norm")]
        moved.append(engine.state.get("momentum/logits/bias"))  # of which nothing decays: the gradient itself
    assert norm > 0.5
    np.testing.assert_allclose(moved[1], moved[0] * min(1.0, limit / norm), rtol=1e-4)


@pytest.mark.parametrize("replicas", [1, 2])
def test_precise_statistics_are_of_all_activations_at_once(replicas):
    engine = make_engine(replicas, ema=0.5)  # the weights as they are and averaged, each its own
    run_steps(engine, 2)
    config = config_of(*SMALL, f"--batch_size={BATCH}", "--pad=0", "--mirror=false")
    # Images of many brightnesses, so that the means of batches, and of replicas' parts of them, lie apart.
    images, labels = data()
    images = (images * np.linspace(0.1, 1, 64)[:, None, None, None]).astype(np.uint8)
    batches = supply.make(engine, config, Split(images, labels), 1, 1)
    before = engine.state.get_all()
    precise_bn.precise_bn(engine, batches, 1, 3)
    after = engine.state.get_all()
    changed = {name for name in before if (before[name] != after[name]).any()}
    assert changed == {name for name in before if "/moving_" in name}
    assert {name.partition("/")[0] for name in changed} == {"model", "ema"}
    for prefix in ("model", "ema"):
        seen = images[resident.order(64, BATCH, 1, 3, seed=0).reshape(-1)]
        every = tf.nn.conv2d(colour.IMAGENET(seen), after[f"{prefix}/stem_conv/kernel"], 1, "SAME").numpy()
        mean, variance = every.mean(axis=(0, 1, 2)), every.astype(np.float64).var(axis=(0, 1, 2))
        np.testing.assert_allclose(after[f"{prefix}/stem_bn/moving_mean"], mean, atol=1e-5)
        # float32 in another order of sums; the means of batches make some per cent of it.
        np.testing.assert_allclose(after[f"{prefix}/stem_bn/moving_variance"], variance, rtol=1e-4)
    assert np.abs(after["model/stem_bn/moving_mean"] - after["ema/stem_bn/moving_mean"]).max() > 1e-4


def test_a_step_that_fails_changes_nothing_and_halts():
    engine = make_engine(replicas=2, ema=0.5)
    kernel = engine.state.get("model/logits/kernel")
    engine.state.set({"model/logits/kernel": np.full_like(kernel, 1e38)})
    before = engine.state.get_all()
    rows = run_steps(engine, 3)
    assert not np.isfinite(rows[:, METRICS.index("gradient_norm")]).any()
    after = engine.state.get_all()
    assert after["state/step"] == 0 and after["state/halted"] == 1
    for name in before:
        if name != "state/halted":
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)


# --- Use as a library ------------------------------------------------------------------------------------------------


def test_fit_takes_data_of_ones_own_and_callbacks(tmp_path):
    seen = []

    class Look(loop.Callback):
        def on_start(self, run, engine):
            seen.append(("start", run.folder.name, engine.step))

        def on_row(self, row):
            seen.append((row["split"], row["step"]))

        def on_checkpoint(self, path):
            seen.append(("checkpoint", path.name))

        def on_end(self, result):
            seen.append(("end", result["examples"]))

    images, labels = data()
    source = Source(
        "mine",
        [str(label) for label in range(10)],
        {"train": Split(images, labels), "test": Split(images[:7], labels[:7])},
    )
    result = resnet_tf.fit(
        source, [Look()], model="cifar_resnet8_v1", image_size=16, batch_size=16, train_steps=4,
        log_every=2, out=str(tmp_path / "run"),
    )  # fmt: skip
    assert result["examples"] == 7
    assert seen == [
        ("start", "run", 0), ("train", 2), ("train", 4), ("test", 4), ("checkpoint", "step-00000004.npz"), ("end", 7)
    ]  # fmt: skip


def test_a_run_that_was_one_step_too_long_is_done(tmp_path, monkeypatch):
    """100 examples over batches of 22, 1.1 times, are 5 in fractions and a little more in floating point."""
    images, labels = (np.concatenate([values, values[:36]]) for values in data())
    source = Source(
        "mine", [str(label) for label in range(10)], {"train": Split(images, labels), "test": Split(*data())}
    )
    settings = {
        "model": "cifar_resnet8_v1", "image_size": 16, "batch_size": 22, "train_epochs": 1.1,
        "out": str(tmp_path / "run"),
    }  # fmt: skip

    def counted_in_floats(config, examples):
        return math.ceil(config.train_epochs * (examples / config.batch_size))

    with monkeypatch.context() as patch:
        patch.setattr(schedule, "total_steps", counted_in_floats)
        assert resnet_tf.fit(source, **settings)["steps"] == 6
    rows = (tmp_path / "run" / "metrics.csv").read_bytes()
    again = resnet_tf.fit(source, **settings)
    assert again["steps"] == 6 and (tmp_path / "run" / "metrics.csv").read_bytes() == rows
    finished, figures = sweep.metrics_of(tmp_path / "run")
    assert finished and figures["steps"] == 6
    assert resnet_tf.fit(source, **settings | {"out": str(tmp_path / "new")})["steps"] == 5


@pytest.mark.parametrize("held_out", [0, 128])
def test_plateau_looks_at_validation_or_training_never_at_test(held_out, tmp_path):
    flags = [
        *SMALL, "--train_steps=20", "--schedule=plateau", "--patience=1", "--lr_factor=0.5", "--eval_every=2",
        "--log_every=2", f"--validation_examples={held_out}", f"--out={tmp_path}/run",
    ]  # fmt: skip
    assert train.main(flags) == 0
    rows = record.read_metrics(tmp_path / "run" / "metrics.csv")
    state = {"falls": 0.0, "best_error": 1.0, "waited": 0.0}
    for row in (row for row in rows if row["split"] == ("validation" if held_out else "train")):
        if not held_out:  # the rate of a row is that of its last step, before the evaluation
            assert row["lr"] == pytest.approx(0.05 * 0.5 ** state["falls"], rel=1e-4)
        state = schedule.after_plateau(state, 1 - row["top1"], patience=1)
    final = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    assert final["state/falls"] == state["falls"] and final["state/best_error"] == pytest.approx(
        state["best_error"], abs=1e-5
    )
