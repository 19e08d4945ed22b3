"""Classes of unequal size: weights in the loss, and repeated examples."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_tf import train
from resnet_tf.data import Split
from resnet_tf.errors import InputError
from resnet_tf.runs import record, run_data
from resnet_tf.training import losses

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")


def test_weighted_loss_equals_the_weighted_sum_of_keras(rng):
    """With one-hot targets the loss of an example is that of its class times its weight."""
    logits, labels = rng.normal(size=(6, 3)).astype(np.float32), np.array([0, 1, 2, 2, 1, 0])
    weights = (0.5, 2.0, 3.0)
    plain = keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True).numpy()
    weighted = losses.Loss(class_weights=weights)
    np.testing.assert_allclose(weighted(logits, tf.one_hot(labels, 3)), plain * np.take(weights, labels), rtol=1e-5)


def test_gradient_of_the_weighted_loss_equals_differences(rng):
    """Also for smoothed targets, whose weighted sum is not 1: TensorFlow's fused operation would be wrong there."""
    loss = losses.Loss(smoothing=0.2, class_weights=(0.5, 2.0, 3.0))
    logits, targets = tf.constant(rng.normal(size=(4, 3)), tf.float32), loss.targets(np.array([0, 1, 2, 1]), 3)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        total = tf.reduce_sum(loss(logits, targets))
    gradient, step = tape.gradient(total, logits).numpy(), 1e-2
    for place in np.ndindex(4, 3):
        shift = np.zeros((4, 3), np.float32)
        shift[place] = step
        ends = [float(tf.reduce_sum(loss(logits + sign * shift, targets))) for sign in (1, -1)]
        assert gradient[place] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-3)  # float32 over 0.02


def test_balanced_weights_are_scikit_learns():
    compute = pytest.importorskip("sklearn.utils.class_weight").compute_class_weight
    labels = np.repeat([0, 1, 2], [90, 9, 1])
    expected = compute("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(losses.class_weights("balanced", "abc", labels), expected)
    assert losses.class_weights("none", "abc", labels) == ()


@pytest.mark.parametrize("text, said", [
    ("class,weight\na,1\n", "differs from the data in the classes b"),
    ("class,weight\na,1\nb,2\nc,1\n", "differs from the data in the classes c"),
    ("class,weight\na,x\nb,1\n", "could not convert"),
    ("class,weight\na,-1\nb,1\n", "numbers from 0"),
    ("class,weight\na,nan\nb,1\n", "numbers from 0"),
    ("label,weight\na,1\nb,1\n", "columns class,weight"),
])  # fmt: skip
def test_files_of_weights(tmp_path, text, said):
    path = tmp_path / "weights.csv"
    path.write_text("class,weight\nb,2\na,0.5\n")
    assert losses.class_weights(str(path), ("a", "b"), None) == (0.5, 2.0)
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        losses.class_weights(str(path), ("a", "b"), None)
    assert str(caught.value).startswith(f"--class_weights={path}: ") and said in str(caught.value)


def test_balanced_sampling_repeats_the_small_classes():
    labels = np.array([0] * 7 + [1] * 2 + [2] * 3, np.int32)
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    even = run_data.balanced(Split(images, labels))
    assert np.bincount(even.labels).tolist() == [7, 7, 7]
    counts = np.bincount(even.images[:, 0, 0, 0])
    assert counts.tolist() == [1] * 7 + [4, 3] + [3, 2, 2]  # each image, as evenly as can be
    assert (even.labels == labels[even.images[:, 0, 0, 0]]).all()


def test_training_with_both(tmp_path, last_json):
    """512 synthetic images of ten classes; the largest has 65."""
    flags = [
        "--dataset=synthetic", "--image_size=16", "--model=cifar_resnet8_v1", "--batch_size=32", "--pad=2",
        "--train_epochs=0.2", "--class_weights=balanced", "--sampling=balanced", f"--out={tmp_path}/run",
    ]  # fmt: skip
    assert train.main(flags) == 0
    run = record.open_run(tmp_path / "run")
    largest = int(np.bincount(run_data.load(run.config)[0].splits["train"].labels).max())
    assert last_json()["steps"] == -(-10 * largest // (5 * 32))
    assert run.manifest["data"]["examples"]["train"] == 512  # what there is, not what is repeated
