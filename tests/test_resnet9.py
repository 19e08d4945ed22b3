"""ResNet-9 of Page 2018: its graph beside plain operations, its cost by hand, and what it refuses."""

import drawn
import keras
import numpy as np
import pytest
import reference
import tensorflow as tf
from test_family import TOLERANCE, randomise, relative

import resnet_tf
from resnet_tf.errors import InputError
from resnet_tf.models import architectures, builder, cost_by_name, diagram, inside, weights, whitening
from resnet_tf.runs import checkpoint

pytestmark = pytest.mark.usefixtures("graphs_as_they_are")

NAMES = ("cifar_resnet9", "cifar_resnet9_celu", "cifar_resnet9_whitened")
# (input channels, filters, side in pixels) of the eight convolutions: dawn.py of davidcpage/cifar10-fast.
CONVOLUTIONS = (
    (3, 64, 32), (64, 128, 32), (128, 128, 16), (128, 128, 16), (128, 256, 16), (256, 512, 8), (512, 512, 4),
    (512, 512, 4),
)  # fmt: skip


def page(images, values, celu=False):
    """Return the logits by dawn.py, whose names of layers are in the comments, in plain tf.nn operations."""
    written = reference.Reference(values)

    def conv_bn(x, prefix, index=""):
        x = written.bn(written.conv(x, f"{prefix}_conv{index}"), f"{prefix}_bn{index}")
        return tf.where(x > 0, x, 0.3 * (tf.exp(tf.minimum(x, 0) / 0.3) - 1)) if celu else tf.nn.relu(x)

    x = images
    if "stem_whiten/kernel" in values:
        x = written.conv(x, "stem_whiten")
    x = conv_bn(x, "stem")  # prep
    for stage in ("stage1", "stage2", "stage3"):  # layer1, layer2, layer3
        x = tf.nn.max_pool2d(conv_bn(x, stage), 2, 2, "VALID")
        if stage != "stage2":  # residual
            x = x + conv_bn(conv_bn(x, f"{stage}_block1", 1), f"{stage}_block1", 2)
    return 0.125 * tf.reduce_max(x, [1, 2]) @ values["logits/kernel"]


@pytest.mark.parametrize("name", NAMES)
def test_equal_to_plain_operations(name):
    model = resnet_tf.create_model(name, input_shape=(None, None, 3))
    values = randomise(model)
    for height, width in ((32, 32), (33, 47)):
        images = drawn.images(height, width)
        assert relative(model(images, training=False), page(images, values, name != "cifar_resnet9")) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_cost_by_hand(name):
    found = cost_by_name(name)
    # 27 filters that are not trained; the 1x1 after them has as many weights as the 3x3 for three channels.
    fixed = 27 * 27 if name == "cifar_resnet9_whitened" else 0
    macs = sum(9 * before * after * side**2 for before, after, side in CONVOLUTIONS) + 5120
    assert found.macs == macs + 1024 * fixed and macs == 379_261_952
    parameters = sum(9 * before * after + 2 * after for before, after, _ in CONVOLUTIONS) + 5120
    assert found.trainable_parameters == parameters == 6_573_120
    assert found.parameters == parameters + 2 * sum(after for _, after, _ in CONVOLUTIONS) + fixed
    assert resnet_tf.cost(resnet_tf.create_model(name)) == found


def test_a_built_network_tells_its_row_and_stages():
    model = resnet_tf.create_model("cifar_resnet9")
    assert inside.row_of(model) == inside.row_of(keras.models.clone_model(model)) == architectures.find("cifar_resnet9")
    assert [ends.shape[1:] for ends in inside.stage_ends(model).values()] == [(16, 16, 128), (8, 8, 256), (4, 4, 512)]
    assert inside.depths(model) == {"logits": 0, "stage3": 1, "stage2": 2, "stage1": 3, "stem": 4}
    assert builder.levels_of("cifar_resnet9") == [1, 2, 3]
    features = resnet_tf.create_backbone("cifar_resnet9", levels=(1, 3), input_shape=(32, 32, 3)).output
    assert {level: features[level].shape[1:] for level in features} == {"1": (16, 16, 128), "3": (4, 4, 512)}
    texts = [box.text for box in diagram.boxes("cifar_resnet9")]
    assert texts[1:5] == ["3x3, 64", "3x3, 128\nmax pool 2x2, /2", "3x3, 128\n3x3, 128", "3x3, 256\nmax pool 2x2, /2"]
    assert texts[-1] == "max pool, x 1/8\ndense, 10"


@pytest.mark.parametrize("name, suffix", [("cifar_resnet9", "weights.h5"), ("cifar_resnet9_whitened", "safetensors")])
def test_files_of_weights(name, suffix, tmp_path):
    model = resnet_tf.create_model(name, seed=1)
    weights.save(model, tmp_path / f"a.{suffix}")
    loaded = resnet_tf.create_model(name, weights=tmp_path / f"a.{suffix}")
    for mine, theirs in zip(loaded.weights, model.weights, strict=True):
        np.testing.assert_array_equal(mine, theirs, err_msg=mine.path)
    assert resnet_tf.create_model(name, weights=tmp_path / f"a.{suffix}", num_classes=7).output_shape[1] == 7
    with pytest.raises(InputError, match=r"another graph.*(activation|whitened)"):
        resnet_tf.create_model("cifar_resnet9_celu", weights=tmp_path / f"a.{suffix}")


def test_names_for_pytorch():
    names = weights.state_dict(resnet_tf.create_model("cifar_resnet9"))
    kernels = [name for name in names if name.endswith("weight") and "bn" not in name]
    assert kernels == [
        "conv1.weight", "layer1.conv.weight", "layer1.0.conv1.weight", "layer1.0.conv2.weight", "layer2.conv.weight",
        "layer3.conv.weight", "layer3.0.conv1.weight", "layer3.0.conv2.weight", "fc.weight",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "options, said",
    [
        ({"shortcut": "A"}, "--shortcut=A: the shapes of cifar_resnet9 change outside its blocks"),
        ({"zero_gamma": True}, "--zero_gamma: the branches of cifar_resnet9 end in an activation"),
        ({"input_shape": (7, 32, 3)}, "at least 8 pixels"),
    ],
)
def test_what_it_has_not(options, said):
    with pytest.raises(InputError, match=said):
        resnet_tf.create_model("cifar_resnet9", **options)
    with pytest.raises(InputError, match="output_stride=4: the strides of cifar_resnet9 cannot become dilations"):
        resnet_tf.create_backbone("cifar_resnet9", levels=(3,), output_stride=4)


def test_whitened_patches_are_uncorrelated(rng):
    # Smooth images, whose pixels are correlated as those of photographs are.
    noise = rng.normal(size=(600, 36, 36, 3))
    images = np.cumsum(np.cumsum(noise, 1), 2)[:, 4:] / 20
    kernel = whitening.kernel(images.astype(np.float32))
    assert kernel.shape == (3, 3, 3, 27)
    responses = tf.reshape(tf.nn.conv2d(images, kernel.astype(np.float64), 1, "VALID"), [-1, 27])
    moments = tf.matmul(responses, responses, transpose_a=True) / len(responses)
    assert np.abs(moments - np.diag(np.diag(moments))).max() < 1e-3
    # An eigenvalue v becomes v / (v + epsilon).
    variances = np.diag(moments)
    assert variances[0] > 0.99 and (np.diff(variances) < 1e-6).all() and variances.min() > 0
    flat = kernel.reshape(27, 27)
    assert (flat[np.abs(flat).argmax(0), np.arange(27)] > 0).all()


def test_a_training_fits_the_whitening_and_keeps_it(tmp_path):
    arguments = {
        "dataset": "synthetic", "model": "cifar_resnet9_whitened", "image_size": 8, "batch_size": 8, "train_steps": 2,
        "ema": 0.9, "lr": 0.01, "log_every": 1, "out": str(tmp_path / "run"),
    }  # fmt: skip
    resnet_tf.fit(**arguments)
    values = checkpoint.load_latest(tmp_path / "run" / "checkpoints")
    kernel = values["model/stem_whiten/kernel"]
    flat = kernel.reshape(27, 27).astype(np.float64)
    norms = np.linalg.norm(flat, axis=0)
    np.testing.assert_allclose((flat / norms).T @ (flat / norms), np.eye(27), atol=1e-5)
    assert (np.diff(norms) > -1e-4).all() and norms[-1] > norms[0]  # eigenvalues fall
    np.testing.assert_allclose(values["ema/stem_whiten/kernel"], kernel, rtol=1e-6)
    assert not any(name.startswith("momentum/stem_whiten") for name in values)
