"""One system of `python -m resnet_tf.benchmark inference`, in a process of its own: thread pools and memory its own.

    python timed.py SYSTEM MODEL FOLDER

It first prints what it is made of, {"versions": ...}; then, for each line "BATCH CALLS" that it reads from stdin, it
makes so many calls and prints {"seconds": [of each]}; what goes wrong is {"error": ...}. FOLDER holds pixels.npy, uint8
[n, size, size, 3], and the same images encoded as 0, 1, ...; calls go round them. A call begins with Python's values
(encoded images, or an array as the network takes it) and ends with the probabilities in an array.

SYSTEM is one of `SYSTEMS`; MODEL is a folder of an exported model, or the peer's name for the network. timm's needs
torch and timm alone, so nothing of this package is imported above.
"""

import json
import os
import pathlib
import sys
import time

MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)  # of normalised images, which peers get


def main():
    """Answer until stdin ends."""
    system, model, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        call, take, versions = SYSTEMS[system](model, pathlib.Path(folder))
    except ImportError as error:
        answer(error=f"{error} in {sys.executable}")
        return
    except ValueError as error:
        answer(error=str(error))
        return
    answer(versions=versions)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        first = take(0, batch)
        call(first)  # compiled or laid out, where that has not been done
        seconds = []
        for index in range(calls):
            chosen = take(index * batch, batch)
            begun = time.perf_counter()
            call(chosen)
            seconds.append(time.perf_counter() - begun)
        answer(seconds=seconds)


def _encoded(folder):
    """Function(first, count) that takes images as they are in files."""
    images = [path.read_bytes() for path in sorted(folder.iterdir(), key=_number) if path.name.isdigit()]
    return lambda first, count: [images[(first + index) % len(images)] for index in range(count)]


def _number(path):
    return int(path.name) if path.name.isdigit() else -1


def _arrays(folder, normalized=False, channels_first=False, dtype="float32"):
    """Function(first, count) that takes arrays, copied as they would come."""
    import numpy as np

    pixels = np.load(folder / "pixels.npy").astype(dtype)
    if normalized:
        pixels = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    if channels_first:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return lambda first, count: pixels[np.arange(first, first + count) % len(pixels)]


# --- Ours ------------------------------------------------------------------------------------------------------------


def _saved_model(model, folder, frozen=False):
    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    return runtimes.SavedModel(model, frozen=frozen).classify, _encoded(folder), record.versions()


def _saved_model_pixels(model, folder):
    import tensorflow as tf

    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    signature = runtimes.load_signature(model, "images")
    call = lambda pixels: signature(images=tf.constant(pixels))["probabilities"].numpy()  # noqa: E731
    return call, _arrays(folder, dtype="uint8"), record.versions()


def _file(model, folder, suffix):
    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    loaded = runtimes.load(f"{model}/model{suffix}")
    versions = record.versions()
    if suffix == ".onnx":
        import onnxruntime

        versions += f"; onnxruntime {onnxruntime.__version__}"
    return loaded.probabilities, _arrays(folder, dtype=loaded.dtype), versions


# --- Peers -----------------------------------------------------------------------------------------------------------


def _keras(model, folder, predict=False):
    import resnet_tf  # noqa: F401  (the environment that TensorFlow reads)

    import keras  # isort: skip
    import tensorflow as tf

    from resnet_tf.runs import record

    size = _arrays(folder)(0, 1).shape[1]
    network = getattr(keras.applications, model)(weights=None, input_shape=(size, size, 3))
    if predict:
        return lambda pixels: network.predict(pixels, verbose=0), _arrays(folder, True), record.versions()
    function = tf.function(lambda images: network(images, training=False), reduce_retracing=True)
    return lambda pixels: function(tf.constant(pixels)).numpy(), _arrays(folder, True), record.versions()


def _timm(model, folder):
    torch, network, versions = _torch_network(model)
    network = network.to(memory_format=torch.channels_last)

    def call(pixels):
        with torch.inference_mode():
            images = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
            return torch.softmax(network(images), 1).numpy()

    return call, _arrays(folder, True, channels_first=True), versions


def _timm_onnx(model, folder):
    torch, network, versions = _torch_network(model)
    import onnxruntime

    take = _arrays(folder, True, channels_first=True)
    path = str(folder / f"timm_{model}.onnx")
    images = torch.from_numpy(take(0, 2))
    shapes = ({0: torch.export.Dim("batch")},)
    softmax = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
    torch.onnx.export(softmax, (images,), path, input_names=["images"], dynamo=True, dynamic_shapes=shapes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    versions += f"; onnxruntime {onnxruntime.__version__}"
    return lambda pixels: session.run(None, {"images": pixels})[0], take, versions


def _torch_network(model):
    import timm
    import torch

    torch.manual_seed(0)
    versions = f"python {sys.version.split()[0]}; torch {torch.__version__}; timm {timm.__version__}"
    return torch, timm.create_model(model).eval(), versions


OURS = {  # a format: what makes it, and the file that it needs
    "savedmodel": (_saved_model, "saved_model.pb"),
    "savedmodel_frozen": (lambda *where: _saved_model(*where, frozen=True), "saved_model.pb"),
    "savedmodel_pixels": (_saved_model_pixels, "saved_model.pb"),
    "tflite": (lambda *where: _file(*where, ".tflite"), "model.tflite"),
    "onnx": (lambda *where: _file(*where, ".onnx"), "model.onnx"),
    "keras": (lambda *where: _file(*where, ".keras"), "model.keras"),
}
PEERS = {
    "keras_applications": _keras,
    "keras_predict": lambda *where: _keras(*where, predict=True),
    "timm": _timm,
    "timm_onnx": _timm_onnx,
}
SYSTEMS = {name: make for name, (make, _) in OURS.items()} | PEERS

if __name__ == "__main__":
    if __package__ is None:  # run as a file, by an interpreter that need not have this package: nor its folder's names
        sys.path.pop(0)
    main()
