"""Batches of decoded views: every example in its place, whatever the threads, replicas and resumes."""

import dataclasses
import io

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from resnet_tf import config, evaluate, export, train
from resnet_tf import data as package
from resnet_tf.data import batches, colour, geometry, resident, sources
from resnet_tf.data.augmentation import Augmentation
from resnet_tf.data.examples import Examples, Memory
from resnet_tf.errors import InputError
from resnet_tf.evaluation.logits import COMBINE, SplitLogits
from resnet_tf.runs import checkpoint, devices, restore, run_data, runner
from resnet_tf.training import smoke, supply

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

VIEW = geometry.View("random_resized_crop", 16)
STREAMED = (
    "--dataset=synthetic", "--view=random_resized_crop", "--image_size=16", "--model=cifar_resnet8_v1",
    "--batch_size=32", "--lr=0.05", "--color_jitter=0.4,0.4,0.4,0.4", "--lighting=0.1", "--erasing=0.25",
    "--mixup=0.2", "--cutmix=1", "--log_every=4", "--randaugment=2,6,0.5",
)  # fmt: skip


@pytest.fixture(scope="module")
def examples():
    """Images of one colour each, which tells which example a view is of."""
    pixels = [np.full((20, 24, 3), 2 * index, np.uint8) for index in range(50)]
    data = [tf.io.encode_png(image).numpy() for image in pixels]
    names = [f"{index}.png" for index in range(50)]
    labels = np.arange(50, dtype=np.int32)
    return Examples(Memory("drawn", names, data), np.arange(50), labels)


def take(dataset, count):
    taken = list(dataset.take(count).as_numpy_iterator())
    return {name: np.concatenate([batch[name] for batch in taken]) for name in taken[0]}


def same(first, second):
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


def test_each_epoch_is_a_permutation_and_views_show_their_example(examples):
    seen = take(batches.training(examples, VIEW, batch=20), 10)  # 4 epochs; batches span their borders
    np.testing.assert_array_equal(seen["pixels"][:, 0, 0, 0], 2 * seen["labels"])
    epochs = seen["labels"].reshape(4, 50)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(50))
    assert (epochs[0] != epochs[1]).any()
    assert len(set(seen["keys"].tolist())) == 200
    assert (epochs[0] != take(batches.training(examples, VIEW, batch=50, seed=1), 1)["labels"]).any()


@pytest.mark.parametrize(
    "view",
    [
        geometry.View("random_resized_crop", 40),
        geometry.View("resize_crop", 40, scale=(48,)),
        geometry.View("scale_jitter", 40, scale=(48, 90)),
    ],
    ids=lambda view: view.kind,
)
def test_images_that_are_held_are_seen_as_those_that_are_decoded(view, rng):
    pixels = rng.integers(0, 256, (50, 48, 64, 3), dtype=np.uint8)
    names = [f"{index}.png" for index in range(50)]
    storage = Memory("drawn", names, [tf.io.encode_png(image).numpy() for image in pixels])
    examples = Examples(storage, np.arange(50)[::-1].copy(), np.arange(50, dtype=np.int32))
    held = sources.decoded(examples)
    np.testing.assert_array_equal(held, pixels[::-1])
    streamed = take(batches.training(examples, view, batch=20), 4)
    places = take(batches.training(examples, view, batch=20, held=held.shape[1:3]), 4)
    for name in ("labels", "keys"):
        np.testing.assert_array_equal(streamed[name], places[name])
    seen = resident.sampled(held, places["examples"], places["rows"], places["columns"]).numpy()
    differences = np.abs(seen.astype(int) - streamed["pixels"])
    # Places in float32 are off by 4e-6 of a pixel, values by 1e-3: so many are rounded to the other side of a half.
    assert differences.max() <= 1 and (differences > 0).mean() < 0.01
    assert not view.shrinks(48, 64) and view.shrinks(96, 128)


def test_images_that_are_held_have_one_size_and_fit(examples, monkeypatch):
    storage = Memory("drawn", examples.storage.names, list(examples.storage.data))
    storage.data[30] = tf.io.encode_png(np.zeros((20, 25, 3), np.uint8)).numpy()
    with pytest.raises(InputError, match=r"30\.png: 20 x 25 pixels, but drawn: 0\.png has 20 x 24: --hold_images"):
        sources.decoded(dataclasses.replace(examples, storage=storage))
    storage.data[20] = storage.data[20][:60]
    with pytest.raises(InputError, match=r"drawn: 20\.png: damaged or truncated"):
        sources.decoded(dataclasses.replace(examples, storage=storage))
    boxes = np.tile(np.int32([0, 0, 8, 8]), (50, 1))
    with pytest.raises(InputError, match="--hold_images: the examples are boxes"):
        sources.decoded(dataclasses.replace(examples, boxes=boxes))
    monkeypatch.setattr(sources, "MAX_BYTES", 50 * 20 * 24 * 3 - 1)
    with pytest.raises(InputError, match="--hold_images: 50 images of 20 x 24 pixels take over"):
        sources.decoded(examples)


def test_smoke_holds_no_images():
    """Its views are so small that they would have to average pixels."""
    data = config.DataConfig(dataset="synthetic", image_size=128)
    views = config.ViewConfig(view="random_resized_crop", hold_images=True)
    recipe = config.TrainConfig(data=data, views=views, record=config.RecordConfig(smoke=True))
    assert not smoke.shrink(recipe).views.hold_images


def test_shuffling_leaves_no_example_near_its_place():
    """Over many epochs each example stands in each quarter of the order alike."""
    index, epochs, count = np.arange(40), 500, 40
    places = np.stack([batches.shuffled(index, 3, np.full(40, epoch), count) for epoch in range(epochs)])
    quarters = np.stack([(places // 10 == quarter).mean(axis=0) for quarter in range(4)])
    # Each is a mean of 500 with standard deviation 0.0194; the largest of 160 stays below 5 of them.
    assert np.abs(quarters - 0.25).max() < 0.097


def test_views_do_not_depend_on_threads_or_resume(examples):
    whole = take(batches.training(examples, VIEW, batch=20, threads=1), 6)
    same(whole, take(batches.training(examples, VIEW, batch=20, threads=4), 6))
    later = take(batches.training(examples, VIEW, batch=20, first_step=4), 2)
    same({name: values[80:] for name, values in whole.items()}, later)


def test_a_resume_decodes_nothing_of_what_it_skips(examples):
    """The first 100 steps hold an image that cannot be decoded; later ones of the same epoch do not."""
    order = batches.shuffled(np.arange(50), 0, np.zeros(50, np.int64), 50).numpy()
    data = list(examples.storage.data)
    data[order[0]] = b"broken"
    broken = dataclasses.replace(examples, storage=Memory("drawn", examples.storage.names, data))
    with pytest.raises(tf.errors.InvalidArgumentError):
        take(batches.training(broken, VIEW, batch=10), 1)
    assert len(take(batches.training(broken, VIEW, batch=10, first_step=1), 1)["labels"]) == 10


def test_replicas_share_the_global_batch(examples):
    whole = take(batches.training(examples, VIEW, batch=20), 3)
    parts = [take(batches.training(examples, VIEW, batch=20, replica=part, replicas=2), 3) for part in (0, 1)]
    for name, values in whole.items():
        halves = [part[name].reshape(3, 10, *values.shape[1:]) for part in parts]
        np.testing.assert_array_equal(np.concatenate(halves, axis=1).reshape(values.shape), values)


def test_repeated_augmentation_shows_an_image_in_several_views(examples):
    seen = take(batches.training(examples, VIEW, batch=24, repeats=3), 2)
    triples = seen["labels"].reshape(-1, 3)
    assert (triples == triples[:, :1]).all() and len(set(triples[:16, 0])) == 16
    assert len(set(seen["keys"].tolist())) == 48


@pytest.mark.parametrize("batch, replicas", [(50, 1), (7, 1), (64, 1), (8, 2), (100, 2)])
def test_evaluation_sees_every_example_once(examples, batch, replicas):
    def view(data, box):
        return geometry.center(data, 16, 0, box)[None]

    parts = [
        take(batches.testing(examples, view, batch=batch, replica=part, replicas=replicas), -1)
        for part in range(replicas)
    ]
    per_step = batch // replicas
    labels = np.stack([part["labels"].reshape(-1, per_step) for part in parts], axis=1).reshape(-1)
    np.testing.assert_array_equal(labels[:50], np.arange(50))
    assert (labels[50:] == -1).all() and len(labels) == -(-50 // batch) * batch
    pixels = np.stack([part["pixels"].reshape(-1, per_step, 16, 16, 3) for part in parts], axis=1)
    np.testing.assert_array_equal(pixels.reshape(-1, 16, 16, 3)[:50, 0, 0, 0], 2 * np.arange(50))


def test_pipeline_is_ready_for_keras():
    source = sources.index("synthetic")
    augmentation = Augmentation((0.4, 0.4, 0.4, 0.4), 0.1, 0.25, 0.2, 1.0)
    dataset = package.pipeline(source, VIEW, batch=8, augmentation=augmentation, normalization=colour.IMAGENET)
    images, targets = next(iter(dataset))
    assert images.shape == (8, 16, 16, 3) and images.dtype == tf.float32 and targets.shape == (8, 10)
    np.testing.assert_allclose(targets.numpy().sum(axis=1), 1, atol=1e-6)
    views = next(iter(batches.training(source.splits["train"], VIEW, batch=8)))
    expected = augmentation.colour(views["pixels"], views["keys"], colour.IMAGENET)
    expected, _ = augmentation.mix(expected, tf.one_hot(views["labels"], 10), views["keys"])
    np.testing.assert_allclose(images, expected, atol=1e-5)  # host and device are compiled apart


# --- Training on streams ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("streams") / "run"
    assert train.main([*STREAMED, "--train_steps=8", "--checkpoint_every=4", f"--out={folder}"]) == 0
    return folder


def test_resumed_stream_equals_the_unbroken_bit_for_bit(unbroken, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "manifest.yaml").write_text((unbroken / "manifest.yaml").read_text())
    first = unbroken / "checkpoints" / "step-00000004.npz"
    (folder / "checkpoints" / first.name).write_bytes(first.read_bytes())
    flags = [*STREAMED, "--train_steps=8", "--checkpoint_every=4", f"--out={folder}", "--threads=1"]
    assert train.main(flags) == 0
    one, two = (checkpoint.load(path / "checkpoints" / "step-00000008.npz") for path in (unbroken, folder))
    for name in one:
        np.testing.assert_array_equal(one[name], two[name], err_msg=name)


def test_streams_on_two_replicas_train_as_on_one(unbroken, tmp_path):
    flags = [*STREAMED, "--train_steps=4", "--checkpoint_every=4", "--replicas=2", "--bn=sync", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    one, two = (checkpoint.load(path / "checkpoints" / "step-00000004.npz") for path in (unbroken, tmp_path / "run"))
    for name in one:
        # Sums in another order: 1e-7, which each step through BN makes some ten times as much, so that after four the
        # momenta were seen 3% of their norm apart. Those of other images, or not summed, are as far apart as long.
        apart = np.linalg.norm(one[name].astype(np.float64) - two[name])
        assert apart <= 0.1 * np.linalg.norm(one[name]) + 2e-4, name


def test_evaluation_of_a_streamed_run(unbroken, last_json):
    assert evaluate.main([f"--run={unbroken}", "--batch_size=100"]) == 0
    first = last_json()
    assert first["examples"] == 256
    assert evaluate.main([f"--run={unbroken}", "--batch_size=7"]) == 0
    assert last_json()["loss"] == pytest.approx(first["loss"], abs=1e-5)
    assert evaluate.main([f"--run={unbroken}", "--views=ten_crop"]) == 1  # there is nothing around the centre


@pytest.fixture(scope="module")
def finetuned(tmp_path_factory):
    """A run of odd image sizes, evaluated at another size than it was trained at; trained for the sake of BN alone."""
    folder = tmp_path_factory.mktemp("sizes")
    for index in range(12):
        path = folder / "data" / ("train" if index < 8 else "test") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (6, 5, 3), np.uint8)
        image = Image.fromarray(pixels).resize((40 + 7 * (index % 3), 60 - 5 * (index % 4)), Image.Resampling.BICUBIC)
        image.save(path)
    flags = [*FOLDER, f"--data_dir={folder}/data", "--eval_size=24", "--resize=28", "--train_steps=3"]
    assert train.main([*flags, f"--out={folder}/run"]) == 0
    return folder / "run"


def by_hand(run, views):
    """Probabilities [n, classes] of the test split: function(pixels) -> views of an image, by the model itself."""
    stored, values, normalization = restore.load(run)
    model = restore.build_model(stored, values)
    source, _ = run_data.load(stored.config)
    answers = []
    for example in range(len(source.splits["test"])):
        image = Image.open(io.BytesIO(source.splits["test"].read(example)))
        logits = [model(normalization(np.asarray(view)[None]), training=False)[0] for view in views(image)]
        answers.append(tf.reduce_mean(tf.nn.softmax(tf.stack(logits)), axis=0))
    return np.stack(answers)


def answers_of(run, **options):
    stored, values, normalization = restore.load(run)
    engine = restore.build_runner(stored, values, normalization, devices.make_strategy(options.pop("replicas", 1)))
    source, _ = run_data.load(stored.config)
    return SplitLogits(engine, stored.config.data, source.splits["test"], **options).logits()


def scaled(image, shorter):
    sides = [int(side * shorter / min(image.size) + 0.5) for side in image.size]
    return image.resize(sides, Image.Resampling.BILINEAR)


def test_evaluation_at_another_size_than_training(finetuned, last_json):
    def centre(image):
        whole = scaled(image, 28)
        left, top = (whole.width - 24) // 2, (whole.height - 24) // 2
        return [whole.crop((left, top, left + 24, top + 24))]

    # Pillow's resampling differs by a level here and there, 1 / 57 after normalisation.
    expected = by_hand(finetuned, centre)
    np.testing.assert_allclose(tf.nn.softmax(answers_of(finetuned)), expected, atol=2e-3)
    assert export.main([f"--run={finetuned}", f"--out={finetuned.parent}/model"]) == 0
    test = run_data.load(restore.load(finetuned)[0].config)[0].splits["test"]
    served = tf.saved_model.load(str(finetuned.parent / "model" / "1")).signatures["serving_default"]
    answers = served(image_bytes=tf.constant([test.read(example) for example in range(4)]))["probabilities"]
    np.testing.assert_allclose(answers, tf.nn.softmax(answers_of(finetuned)), atol=1e-5)


def test_multi_scale_scores_the_whole_image_at_each_scale(finetuned, last_json):
    def views(image):
        data = tf.constant(encoded_png(image))
        for scale in (16, 33):
            whole = geometry.scaled_whole(data, scale).numpy()
            assert np.abs(whole.astype(int) - np.asarray(scaled(image, scale))).max() <= 1
            yield from (whole, whole[:, ::-1])

    expected = by_hand(finetuned, views)
    options = {"views": "multi_scale", "scales": (16, 33)}
    found = answers_of(finetuned, **options)
    np.testing.assert_allclose(np.exp(found), expected, atol=1e-4)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answers_of(finetuned, replicas=2, **options), found, atol=1e-4)
    logits = answers_of(finetuned, average="logits", **options)
    each = [answers_of(finetuned, average="logits", views="multi_scale", scales=(s,)) for s in options["scales"]]
    np.testing.assert_allclose(logits, np.mean(each, axis=0), atol=1e-5)
    assert evaluate.main([f"--run={finetuned}", "--views=multi_scale", "--scales=16,33"]) == 0
    result = last_json()
    assert result["examples"] == 4 and result["scales"] == [16, 33] and result["views"] == "multi_scale"
    assert result["loss"] == pytest.approx(-np.log(expected[np.arange(4), [0, 0, 1, 1]]).mean(), abs=1e-3)


def test_multi_scale_traces_once_whatever_the_sizes(finetuned, monkeypatch):
    traces, plain = [], runner.Runner._forward

    def counted(self, *arguments):
        traces.append(1)
        return plain(self, *arguments)

    monkeypatch.setattr(runner.Runner, "_forward", counted)
    answers_of(finetuned, views="multi_scale", scales=(16, 33))
    assert len(traces) == 1  # not for each scale, and not for each image


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--scales=16"], "--scales is not used by --views=center"),
        (["--views=multi_scale", "--scales=20,16"], "--scales=20,16"),
        (["--views=multi_scale", "--scales=4"], "--scales=4"),
        (["--views=multi_scale", "--batch_size=8"], "--batch_size is not used by --views=multi_scale"),
        (["--views=multi_scale", "--scales=16,90000"], "--scales"),
    ],
)
def test_scales_that_make_no_sense_are_named(flags, named, finetuned, capsys):
    before = sorted(path.name for path in finetuned.iterdir())
    assert evaluate.main([f"--run={finetuned}", *flags]) == 1
    assert named in capsys.readouterr().err.strip().splitlines()[-1]
    assert sorted(path.name for path in finetuned.iterdir()) == before


def encoded_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def test_ten_crop_averages_softmax_or_logits(rng):
    logits = rng.normal(size=(4, 10, 7)).astype(np.float32) * 5
    mean = np.log(np.mean(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=1))
    np.testing.assert_allclose(COMBINE["softmax"](tf.constant(logits)), mean, atol=1e-5)
    np.testing.assert_allclose(COMBINE["logits"](tf.constant(logits)), logits.mean(axis=1), atol=1e-5)


def write_folder(root, bad=()):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            for index in range(8):
                path = root / split / label / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tf.io.encode_png(np.full((20, 24, 3), 10 * index, np.uint8)).numpy())
    for name, content in bad:
        (root / name).write_bytes(content)
    return root


FOLDER = (
    "--dataset=folder", "--view=resize_crop", "--scale=20", "--image_size=16", "--model=cifar_resnet8_v1",
    "--batch_size=8", "--train_steps=2", "--normalization=imagenet",
)  # fmt: skip


def test_bad_image_ends_a_run_and_is_named(tmp_path, capsys):
    root = write_folder(tmp_path / "data", [("train/cat/3.png", b"\x89PNG\r\n\x1a\nand then nothing at all")])
    flags = [*FOLDER, f"--data_dir={root}", f"--out={tmp_path}/run"]
    assert train.main([*flags, "--train_steps=4"]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ") and "train/cat/3.png" in error
    assert train.main([*flags[:-1], f"--out={tmp_path}/tolerant", "--skip_bad_images=1"]) == 0
    assert "train/cat/3.png" in (tmp_path / "tolerant" / "skipped.csv").read_text()
    capsys.readouterr()
    (root / "test" / "dog" / "1.png").write_bytes(b"text")
    assert train.main([*flags[:-1], f"--out={tmp_path}/other", "--skip_bad_images=1"]) == 1
    assert "test/dog/1.png" in capsys.readouterr().err


@pytest.mark.parametrize(
    "flags, named",
    [
        (["--view=random_resized_crop", "--pad=3"], "--pad"),
        (["--view=pad_crop", "--area=0.5,1"], "--area"),
        (["--view=random_resized_crop", "--area=0.5"], "--area"),
        (["--view=random_resized_crop", "--area=0.5,2"], "--area"),
        (["--view=random_resized_crop", "--aspect=2,1"], "--aspect"),
        (["--view=scale_jitter", "--scale=8,40"], "--scale"),
        (["--view=resize_crop"], "--scale"),
        (["--color_jitter=0.4,0.4"], "--color_jitter"),
        (["--mixup=0.2", "--batch_size=7"], "--mixup"),
        (["--resize=8"], "--resize"),
        (["--view=resize_crop", "--scale=16", "--eval_size=24", "--resize=20"], "--eval_size=24"),
        (["--eval_size=24"], "--eval_size"),
        (["--randaugment=2"], "--randaugment=2"),
        (["--randaugment=1.5,6"], "--randaugment=1.5,6"),
        (["--randaugment=2,11"], "--randaugment=2,11"),
        (["--skip_bad_images=1"], "--skip_bad_images"),
        (["--hold_images"], "--hold_images"),
        (["--view=random_resized_crop", "--hold_images"], "--hold_images: views of --image_size=16 shrink"),
        (["--view=resize_crop", "--scale=95", "--hold_images"], "--hold_images: views of --image_size=16 shrink"),
        (["--view=random_resized_crop", "--hold_images", "--data_service=localhost:1"], "--data_service"),
        (["--tfds_name=cifar10"], "--tfds_name"),
    ],
)
def test_flags_that_make_no_sense_are_named(flags, named, capsys, tmp_path):
    base = ["--dataset=synthetic", "--image_size=16", "--train_steps=1", f"--out={tmp_path}/run"]
    assert train.main([*base, *flags]) == 1
    assert named in capsys.readouterr().err and not (tmp_path / "run").exists()


def test_groups_of_batches_change_nothing(unbroken, tmp_path, monkeypatch):
    """A GPU steps through several batches at once; calls, rows and checkpoints end anywhere within them."""
    monkeypatch.setattr(supply, "batches_per_call", lambda *_: 3)
    flags = [*STREAMED, "--train_steps=8", "--checkpoint_every=4", "--steps_per_call=5", f"--out={tmp_path}/run"]
    assert train.main(flags) == 0
    for name in ("step-00000004.npz", "step-00000008.npz"):
        one, two = (checkpoint.load(path / "checkpoints" / name) for path in (unbroken, tmp_path / "run"))
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(STREAMED, marks=pytest.mark.slow),  # the step of the others, without changes of images in it
        (*STREAMED, "--image_size=65", "--hold_images", "--batch_size=8"),  # 65: less would average 96 x 128 pixels
        # The step of the others, with the views that test_programs_of_several_gpus in tests/test_recipes.py compiles.
        pytest.param(("--dataset=synthetic", "--image_size=16", "--batch_size=32", "--pad=2"), marks=pytest.mark.slow),
    ],
    ids=["streamed", "held", "small"],
)
def test_programs_of_a_gpu_compute_what_a_cpu_computes(data, tmp_path, as_on_gpus):
    """All that a GPU compiles, compiled by XLA for the CPU."""
    flags = [
        *data,
        "--model=cifar_resnet8_v1", "--normalization=imagenet", "--lr=0.01", "--train_steps=4", "--accumulate=2",
        "--ema=0.9", "--clip=1", "--loss=bce", "--optimizer=lamb", "--schedule=cosine", "--precise_bn=2",
        "--log_every=3", "--randaugment=",
    ]  # fmt: skip
    assert train.main([*flags, f"--out={tmp_path}/cpu"]) == 0
    as_on_gpus()
    assert train.main([*flags, f"--out={tmp_path}/gpu"]) == 0
    one, two = (checkpoint.load_latest(tmp_path / name / "checkpoints") for name in ("cpu", "gpu"))
    assert one.keys() == two.keys()
    for name in one:
        # XLA's convolutions sum in another order; LAMB divides by roots of small squares.
        np.testing.assert_allclose(one[name], two[name], rtol=2e-2, atol=2e-3, err_msg=name)
