"""Segmentation: networks, training, the score, and what is served."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.models import create_backbone, create_model, inside
from resnet_tf.transfer import heads


def test_enlarge_is_bilinear_resizing(rng):
    """For any size, growing or as it is; float32 rounding is some 1e-7 of values around 1."""
    for sides, wanted in (((5, 4), (37, 53)), ((1, 1), (6, 7)), ((8, 8), (64, 64)), ((6, 6), (6, 6))):
        x, like = rng.normal(size=(2, *sides, 3)).astype(np.float32), np.zeros((2, *wanted, 1), np.float32)
        expected = tf.image.resize(x, wanted, "bilinear")
        np.testing.assert_allclose(heads.Enlarge()([x, like]), expected, atol=2e-6)


@pytest.mark.parametrize(("name", "head", "stride"), [
    ("resnet18_v1", "fcn", 8), ("resnet18_v2", "deeplabv3plus", 16), ("cifar_resnet8_v1", "fcn", 2),
])  # fmt: skip
def test_every_pixel_has_logits(name, head, stride, rng):
    model = heads.create(name, 5, head=head, output_stride=stride, auxiliary=True)
    images = rng.normal(size=(2, 33, 47, 3)).astype(np.float32)
    logits, auxiliary = model(images)
    assert logits.shape == auxiliary.shape == (2, 33, 47, 5)
    assert logits.dtype == tf.float32
    # All of the classifier but its logits is there under the same names, and the rest is the part "logits".
    theirs = {v.path: v.shape for v in create_model(name, num_classes=7).variables if inside.part(v.path) != "logits"}
    ours = {v.path: v.shape for v in model.variables}
    assert theirs.items() <= ours.items()
    assert {inside.part(path) for path in ours.keys() - theirs.keys()} == {"logits"}
    assert set(map(inside.part, ours)) <= inside.depths(model).keys()
    alone = heads.create(name, 5, head=head, output_stride=stride)
    np.testing.assert_array_equal(alone(images), logits)  # the auxiliary head changes nothing of it
    with pytest.raises(InputError, match="output_stride=3"):
        heads.create(name, 5, output_stride=3)


def test_mixed_precision_keeps_logits_in_float32():
    model = heads.create("resnet18_v1d", 3, head="deeplabv3plus", dtype="mixed_bfloat16")
    assert model.outputs[0].dtype == "float32" and model.get_layer("logits_decoder2_conv").compute_dtype == "bfloat16"
    backbone = create_backbone("resnet18_v1d", (5,), zero_gamma=True, initializer="xavier")
    assert not backbone.get_layer("stage1_block1_bn2").gamma.numpy().any()


def test_dropout_follows_the_image(rng):
    layer = heads.ImageDropout(0.25)
    x = np.ones((3, 16, 16, 8), np.float32)
    images = rng.normal(size=(3, 32, 32, 3)).astype(np.float32)
    images[2] = images[0]
    dropped = layer([x, images], training=True).numpy()
    np.testing.assert_array_equal(dropped, layer([x, images], training=True))
    np.testing.assert_array_equal(dropped[0], dropped[2])
    assert (dropped[0] != dropped[1]).any()
    np.testing.assert_array_equal(np.unique(dropped), np.float32([0, 1 / 0.75]))
    # 2,048 draws an image: three deviations of their mean are 0.03.
    np.testing.assert_allclose((dropped == 0).mean(axis=(1, 2, 3)), 0.25, atol=0.03)
    np.testing.assert_array_equal(layer([x, images]), x)
    assert not keras.tree.flatten(layer.variables)
