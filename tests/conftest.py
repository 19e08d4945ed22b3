"""What all tests share; two parts of the CPU as devices, for those with two replicas, made before the first use."""

import gc
import json
import os
import pathlib
import threading

import numpy as np
import pytest

import resnet_tf  # noqa: F401  (sets the environment that TensorFlow reads)

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf

from resnet_tf.evaluation import logits
from resnet_tf.models import fusible
from resnet_tf.runs import devices

pytest.register_assert_rewrite("compared")  # its assertions say what they found, as those of tests do

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
# A tenth of the time of tracing; errors keep all their lines.
tf.keras.config.disable_traceback_filtering()
tf.debugging.disable_traceback_filtering()


def pytest_collection_finish():
    """The modules that are imported by now stay: to look for garbage in them again and again is a tenth of the time."""
    gc.collect()
    gc.freeze()
    # Python looks through all that lives anew with each quarter more. Of few objects, that are left after the freeze, a
    # graph is a quarter already: without this a twentieth of the time of two files.
    gc.set_threshold(10_000, 10, 10)


@pytest.fixture(scope="session")
def real_data():
    """Folder of real images; see docs/quick_start.md."""
    folder = os.environ.get("RESNET_TF_DATA")
    if not folder:
        pytest.skip("RESNET_TF_DATA is not set: the folder of real images to test with")
    return pathlib.Path(folder)


@pytest.fixture(scope="session", autouse=True)
def few_images_at_once():
    """Evaluation fills its last batch up, by default one of 500 images: most tests have fewer than 20."""
    with pytest.MonkeyPatch.context() as patch:
        # The 256 test images of the synthetic set are several batches, of which the last one is filled up.
        patch.setattr(logits, "_SMALL_IMAGE_BATCH", 60)
        yield


@pytest.fixture(scope="module")
def graphs_as_they_are():
    """No rewriting of graphs, which a few steps or images do not repay: a third of the time of a small training or set.

    For modules of which neither the loop nor what graphs compute is the subject. The loop's own and those of faults
    train as everybody does; those of views compare graphs as everybody has them.
    """
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})


@pytest.fixture
def rewritten_graphs(graphs_as_they_are):
    """For a single test of such a module."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": False})
    yield
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Function that starts a training, or another command, as a process."""
    import forks

    folder = tmp_path_factory.mktemp("started")
    return lambda *flags, module="train", **environment: forks.Process(module, flags, environment, folder)


@pytest.fixture
def as_on_gpus(monkeypatch):
    """Function from whose call on all is compiled as for GPUs; that the process used some is forgotten afterwards."""

    def compile_for_gpus():
        monkeypatch.setattr(devices, "on_gpu", lambda _: True)
        monkeypatch.setattr(fusible, "on_gpu", lambda: True)

    monkeypatch.setattr(devices, "_gpus_are_used", threading.Event())
    return compile_for_gpus


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def last_json(capsys):
    """The JSON object on the last line of stdout so far."""
    return lambda: json.loads(capsys.readouterr().out.strip().splitlines()[-1])
