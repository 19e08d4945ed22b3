"""Batches for Keras: every example once and in order for evaluation; one epoch or endless batches for training."""

import re

import files
import keras
import numpy as np
import pytest
import tensorflow as tf

import resnet_tf
from resnet_tf import data
from resnet_tf.data import Augmentation, colour, geometry
from resnet_tf.errors import InputError

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

VIEW = data.View("random_resized_crop", 16)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders of 12 cats, whose first pixel is 0 to 11 on red, and 8 dogs; a fifth of each is held out."""
    folder = tmp_path_factory.mktemp("photos")
    for name, count in (("cats", 12), ("dogs", 8)):
        (folder / name).mkdir()
        for number in range(count):
            (folder / name / f"{number:02}.png").write_bytes(
                files.picture(number + 100 * (name == "dogs"), size=(24, 20))
            )
    return data.index("folder", str(folder), validation_share=0.2)


@pytest.fixture(scope="module")
def in_memory():
    labels = np.arange(10, dtype=np.int32) % 3
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    splits = {"train": data.Split(images, labels), "test": data.Split(images[:7], labels[:7])}
    return data.Source("mine", ("a", "b", "c"), splits)


def collected(dataset):
    images, labels = zip(*[(images.numpy(), labels.numpy()) for images, labels in dataset], strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_every_example_once_in_order_as_evaluation_sees_it(photos):
    dataset = data.pipeline(photos, 16, batch=3, split="val", training=False, resize=20, labels="int")
    split = photos.splits["validation"]
    assert dataset.class_names == ["cats", "dogs"] and int(dataset.cardinality()) == dataset.steps_per_epoch == 2
    images, labels = collected(dataset)
    np.testing.assert_array_equal(labels, split.labels)
    expected = [geometry.center(split.read(example), 16, 20) for example in range(len(split))]
    np.testing.assert_array_equal(images, expected)
    assert images.dtype == np.float32 and labels.dtype == np.int32
    cubic, _ = collected(data.pipeline(photos, 16, batch=3, training=False, resize=20, interpolation="bicubic"))
    views = [geometry.center(split.read(index), 16, 20, None, "bicubic") for index in range(len(split))]
    np.testing.assert_array_equal(cubic, np.stack(views))
    again = collected(data.pipeline(photos, VIEW, batch=3, training=False, resize=20, normalized=True))
    np.testing.assert_allclose(again[0], colour.IMAGENET(images), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(again[1], np.eye(2)[split.labels])
    layer = resnet_tf.preprocessing_of("resnet18_v1d").layer()
    by_layer, _ = collected(data.pipeline(photos, 16, batch=3, training=False, resize=20, normalization=layer))
    np.testing.assert_allclose(by_layer, layer(images), rtol=0, atol=1e-5)


def test_images_in_memory(in_memory):
    split = in_memory.splits["test"]
    images, labels = collected(data.pipeline(in_memory, batch=4, training=False, labels="int"))
    np.testing.assert_array_equal(images, split.images)
    np.testing.assert_array_equal(labels, split.labels)
    smaller = data.pipeline(in_memory, 4, batch=4, training=False, split="train")
    assert int(smaller.cardinality()) == 3 and next(iter(smaller))[0].shape == (4, 4, 4, 3)
    still = data.pipeline(in_memory, data.PadCrop(), batch=5, labels="int", repeat=False)
    images, labels = collected(still)
    every = in_memory.splits["train"]
    order = [int(np.flatnonzero((every.images == image).all((1, 2, 3)))[0]) for image in images]
    assert sorted(order) == list(range(10))
    np.testing.assert_array_equal(labels, every.labels[order])


def test_cifar_and_synthetic_sources(tmp_path):
    for source, view in ((data.load("synthetic", image_size=8), None), (data.index("synthetic"), VIEW)):
        train = data.pipeline(source, view, batch=64, repeat=False)
        held_out = data.pipeline(source, view, batch=64, training=False)
        assert [int(one.cardinality()) for one in (train, held_out)] == [8, 4] and len(train.class_names) == 10
        images, targets = next(iter(train))
        assert targets.shape == (64, 10) and images.shape[0] == 64


@pytest.mark.parametrize("kind", ["photos", "in_memory"])
def test_an_epoch_has_an_order_and_views_of_its_own(kind, photos, in_memory):
    source, view = (photos, VIEW) if kind == "photos" else (in_memory, None)

    def epochs(seed):
        dataset = data.pipeline(source, view, batch=3, repeat=False, labels="int", seed=seed)
        steps = len(source.splits["train"]) // 3
        assert int(dataset.cardinality()) == dataset.steps_per_epoch == steps
        found = [collected(dataset) for _ in range(2)]
        assert all(len(labels) == 3 * steps for _, labels in found)
        return found

    first, second = epochs(0)
    assert not np.array_equal(first[0], second[0])
    for ours, again in zip((first, second), epochs(0), strict=True):
        np.testing.assert_array_equal(ours[0], again[0])
        np.testing.assert_array_equal(ours[1], again[1])
    assert not np.array_equal(first[0], epochs(1)[0][0])
    if kind == "photos":  # endless batches of files are those of `train`, which tests/test_batches.py reads
        return
    endless = data.pipeline(source, view, batch=3)
    assert int(endless.cardinality()) == tf.data.INFINITE_CARDINALITY
    assert len(list(endless.take(9))) == 9 and next(iter(endless))[1].shape == (3, len(source.classes))


def test_keras_fits_and_knows_its_steps(photos):
    train = data.pipeline(photos, VIEW, batch=4, repeat=False, normalized=True, labels="int")
    held_out = data.pipeline(photos, 16, batch=4, training=False, normalized=True, labels="int")
    model = keras.Sequential([keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(len(train.class_names))])
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    history = model.fit(train, validation_data=held_out, epochs=2, verbose=0)
    assert history.params["steps"] == train.steps_per_epoch and len(history.history["val_accuracy"]) == 2
    assert len(model.predict(held_out, verbose=0)) == len(photos.splits["validation"])


@pytest.mark.parametrize(
    "options, said",
    [
        (
            {"view": 16},
            "view=16: training takes a View of random_resized_crop, scale_jitter, resize_crop; training=False",
        ),
        ({"training": False}, "view=None: training=False takes the side of the central crop in pixels"),
        ({"view": 16, "training": False, "resize": 8}, "resize=8: less than the crop of 16 pixels"),
        ({"view": 16, "training": False, "interpolation": "area"}, "interpolation=area: not one of bilinear, bicubic"),
        ({"view": 16, "training": False, "augmentation": Augmentation()}, "augmentation is for training=True"),
        ({"view": VIEW, "resize": 20}, "resize=20 is for training=False"),
        ({"view": VIEW, "split": "test"}, "split=test: the data have train, validation"),
        ({"view": VIEW, "labels": "names"}, "labels=names: not one of one_hot, int"),
        ({"view": VIEW, "labels": "int", "augmentation": Augmentation(mixup=0.2)}, "labels=int: mixup and CutMix"),
        ({"view": VIEW, "batch": 0}, "batch=0: not a positive number"),
        ({"view": VIEW, "batch": 64}, "batch=64: the split train has 16 examples"),
    ],
)
def test_options_that_do_not_fit_are_refused(photos, options, said):
    with pytest.raises(InputError, match=f"^{re.escape(said)}"):
        data.pipeline(photos, **{"batch": 4} | options)


def test_views_that_do_not_fit_are_refused(in_memory):
    with pytest.raises(InputError, match="view=center: not one of random_resized_crop, scale_jitter, resize_crop"):
        data.View("center", 16)
    with pytest.raises(
        InputError, match=r"images in memory take a PadCrop; index\(\) has data for random_resized_crop"
    ):
        data.pipeline(in_memory, VIEW, batch=4)
    with pytest.raises(InputError, match=r"^resize=20: is not used without a view"):
        data.pipeline(in_memory, batch=4, training=False, resize=20)
