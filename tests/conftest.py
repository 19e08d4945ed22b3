"""Two parts of the CPU as devices, for tests with two replicas; made before TensorFlow is first used."""

import json
import os
import pathlib

import numpy as np
import pytest

import resnet_tf  # noqa: F401  (sets the environment that TensorFlow reads)

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real images; see the README for what is in it."""
    folder = os.environ.get("RESNET_TF_DATA")
    if not folder:
        pytest.skip("RESNET_TF_DATA is not set: the folder of real images to test with")
    return pathlib.Path(folder)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def last_json(capsys):
    """The JSON object on the last line of stdout so far."""
    return lambda: json.loads(capsys.readouterr().out.strip().splitlines()[-1])
