"""Program of one system of `python -m resnet_tf.benchmark inference`, so that systems share no threads or memory.

    python timed.py SYSTEM MODEL FOLDER

The program first prints {"versions": "..."}. Then, for each line "BATCH CALLS" on stdin, it makes CALLS calls of BATCH
images and prints {"seconds": [seconds of each call]}. It prints an error as {"error": "..."}. FOLDER holds pixels.npy,
uint8 [n, size, size, 3], and the same images encoded in files 0, 1, ...; calls go round them. A call starts with Python
values (encoded images, or the input array of the network) and ends with the probabilities in an array.

SYSTEM is one of `SYSTEMS`; MODEL is a folder of an exported model, or the peer's name for the network. The peers of
timm run where only torch and timm are installed, so this package must not be imported above.
"""

import json
import os
import pathlib
import sys
import time

MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)  # normalisation of peers' images


def main() -> None:
    """Build the system, then answer each line of stdin until it ends."""
    system, model, folder = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that prints of libraries do not mix with answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        call, take, versions = SYSTEMS[system](model, pathlib.Path(folder))
    except ImportError as error:
        return answer(error=f"{error} in {sys.executable}")
    except ValueError as error:
        return answer(error=str(error))
    answer(versions=versions)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        call(take(0, batch))  # compiles, if this batch size is new
        seconds = []
        for index in range(calls):
            images = take(index * batch, batch)
            start = time.perf_counter()
            call(images)
            seconds.append(time.perf_counter() - start)
        answer(seconds=seconds)


def _encoded(folder):
    """Return a function(first, count) that returns a list of encoded images."""
    images = [(folder / str(index)).read_bytes() for index in range(sum(p.name.isdigit() for p in folder.iterdir()))]
    return lambda first, count: [images[(first + index) % len(images)] for index in range(count)]


def _arrays(folder, normalized=False, channels_first=False, dtype="float32"):
    """Return a function(first, count) that returns a new array of images."""
    import numpy as np

    pixels = np.load(folder / "pixels.npy").astype(dtype)
    if normalized:
        pixels = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    if channels_first:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return lambda first, count: pixels[np.arange(first, first + count) % len(pixels)]


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

    def probabilities_of(pixels):
        with torch.inference_mode():
            images = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
            return torch.softmax(network(images), 1).numpy()

    return probabilities_of, _arrays(folder, True, channels_first=True), versions


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


OURS = {  # format: (function that loads it, file that it needs)
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
    if __package__ is None:  # run as a file: keep names of this folder from hiding other modules
        sys.path.pop(0)
    main()
