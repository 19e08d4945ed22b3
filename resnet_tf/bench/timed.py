"""Program of one system of `python -m resnet_tf.benchmark inference`, so that systems share no threads or memory.

    python timed.py SYSTEM MODEL FOLDER PRECISION

The program first prints {"versions": "...", "load_seconds": ...}, the seconds in which it loaded or built the network,
without the imports. Then, for each line "BATCH CALLS" on stdin, it makes CALLS calls of BATCH images and prints
{"seconds": [seconds of each call], "first_seconds": seconds of a call before them}, which compiles where the system
does. It prints an error as {"error": "..."}. FOLDER holds pixels.npy, uint8 [n, size, size, 3], squares.npy, the same
images before their central crop, and the same images encoded in files 0, 1, ...; calls go round them. A call starts
with Python values (encoded images, or an input array of the network) and ends with the probabilities in an array. On a
GPU, pixels are there before a call starts.

SYSTEM is one of `SYSTEMS`; MODEL is a folder of an exported model, or the peer's name for the network; PRECISION is
that of the activations, which a peer of PyTorch follows. The peers of timm run where only torch and timm are installed,
so this package must not be imported above.
"""

import functools
import importlib.metadata
import json
import os
import pathlib
import sys
import time

MEAN, STD = (123.68, 116.779, 103.939), (58.393, 57.12, 57.375)  # normalisation of peers' images


def main() -> None:
    """Build the system, then answer each line of stdin until it ends."""
    system, model, folder, precision = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that prints of libraries do not mix with answers

    def answer(**values):
        print(json.dumps(values), file=answers, flush=True)

    try:
        call, take, versions, load_seconds = SYSTEMS[system](model, pathlib.Path(folder), precision)
    except ImportError as error:
        return answer(error=f"{error} in {sys.executable}")
    except ValueError as error:
        return answer(error=str(error))
    answer(versions=versions, load_seconds=load_seconds)
    for line in sys.stdin:
        batch, calls = map(int, line.split())
        images, start = take(0, batch), time.perf_counter()
        call(images)  # compiles, if this batch size is new
        first, seconds = time.perf_counter() - start, []
        for index in range(calls):
            images = take(index * batch, batch)
            start = time.perf_counter()
            call(images)
            seconds.append(time.perf_counter() - start)
        answer(seconds=seconds, first_seconds=first)


def _encoded(folder):
    """Return a function(first, count) that returns a list of encoded images."""
    images = [(folder / str(index)).read_bytes() for index in range(sum(p.name.isdigit() for p in folder.iterdir()))]
    return lambda first, count: [images[(first + index) % len(images)] for index in range(count)]


def _arrays(folder, normalized=False, channels_first=False, dtype="float32", file="pixels.npy"):
    """Return a function(first, count) that returns a new array of images."""
    import numpy as np

    pixels = np.load(folder / file).astype(dtype)
    if normalized:
        pixels = ((pixels - np.float32(MEAN)) / np.float32(STD)).astype(np.float32)
    if channels_first:
        pixels = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    return lambda first, count: pixels[np.arange(first, first + count) % len(pixels)]


def _timed(load):
    """Return the result of a function, and the seconds that it took."""
    start = time.perf_counter()
    return load(), time.perf_counter() - start


def _saved_model(model, folder, precision, frozen=False):
    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    loaded, seconds = _timed(lambda: runtimes.SavedModel(model, frozen=frozen))
    return loaded.classify, _encoded(folder), record.versions(), seconds


def _saved_model_pixels(model, folder, precision):
    import tensorflow as tf

    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    signature, seconds = _timed(lambda: runtimes.load_signature(model, "images"))
    arrays, device = _arrays(folder, dtype="uint8", file="squares.npy"), tf.config.list_logical_devices()[-1].name

    def take(first, count):
        with tf.device(device):
            images = tf.identity(arrays(first, count))
            images[:1, :1, :1].numpy()  # waits until the copy has arrived
        return images

    return lambda images: signature(images=images)["probabilities"].numpy(), take, record.versions(), seconds


def _decoding(model, folder, precision):
    """Decode and crop alone, as a SavedModel does: an upper bound of every system that starts from encoded images."""
    import tensorflow as tf

    from resnet_tf.data import geometry
    from resnet_tf.runs import record
    from resnet_tf.serving import savedmodel

    card = json.loads((pathlib.Path(model) / "model.json").read_text())
    size, resize = card["image_size"], card["resize"]
    decode = tf.function(
        lambda data: savedmodel.decode(data, lambda one: geometry.center(one, size, resize), [size, size, 3]),
        input_signature=[tf.TensorSpec([None], tf.string)],
        autograph=False,
    )
    return lambda encoded: decode(tf.constant(encoded)).numpy(), _encoded(folder), record.versions(), 0.0


def _file(model, folder, suffix, runtime=""):
    from resnet_tf.runs import record
    from resnet_tf.serving import runtimes

    loaded, seconds = _timed(lambda: runtimes.load(f"{model}/model{suffix}", runtime=runtime))
    versions = record.versions()
    if suffix.endswith(".onnx"):
        name = runtime or "onnxruntime"
        versions += f"; {name} {importlib.metadata.version(name)}"
    return loaded.probabilities, _arrays(folder, dtype=loaded.dtype), versions, seconds


def _keras(model, folder, precision, predict=False):
    import resnet_tf  # noqa: F401  (the environment that TensorFlow reads)

    import keras  # isort: skip
    import tensorflow as tf

    from resnet_tf.runs import record

    size = _arrays(folder)(0, 1).shape[1]
    build = getattr(keras.applications, model)
    network, seconds = _timed(lambda: build(weights=None, input_shape=(size, size, 3)))
    take = _arrays(folder, True)
    if predict:
        return lambda pixels: network.predict(pixels, verbose=0), take, record.versions(), seconds
    function = tf.function(lambda images: network(images, training=False), reduce_retracing=True)
    return lambda pixels: function(tf.constant(pixels)).numpy(), take, record.versions(), seconds


def _timm(model, folder, precision):
    torch, network, versions, seconds = _torch_network(model)
    if torch.cuda.is_available() or precision != "float32":
        return _timm_on_device(model, folder, precision, "eager")
    network = network.to(memory_format=torch.channels_last)

    def probabilities_of(pixels):
        with torch.inference_mode():
            images = torch.from_numpy(pixels).contiguous(memory_format=torch.channels_last)
            return torch.softmax(network(images), 1).numpy()

    return probabilities_of, _arrays(folder, True, channels_first=True), versions, seconds


def _timm_on_device(model, folder, precision, mode):
    """From uint8 pixels on the device to probabilities on the host; normalisation is compiled with the network."""
    torch, network, versions, seconds = _torch_network(model)
    device, dtype = "cuda" if torch.cuda.is_available() else "cpu", getattr(torch, precision)
    torch.backends.cudnn.benchmark = True
    network = network.to(device, dtype, memory_format=torch.channels_last)
    mean, std = (torch.tensor(values, device=device, dtype=dtype).view(3, 1, 1) for values in (MEAN, STD))

    def probabilities(pixels):  # [n, size, size, 3], which is channels_last
        images = (pixels.permute(0, 3, 1, 2).to(dtype) - mean) / std
        return torch.softmax(network(images).float(), 1)

    compiled = probabilities if mode == "eager" else torch.compile(probabilities, mode=mode, dynamic=False)
    arrays = _arrays(folder, dtype="uint8")

    def call(pixels):
        with torch.inference_mode():
            return compiled(pixels).cpu().numpy()

    def take(first, count):
        pixels = torch.from_numpy(arrays(first, count)).to(device)
        if device == "cuda":
            torch.cuda.synchronize()
        return pixels

    return call, take, versions, seconds


def _timm_onnx(model, folder, precision):
    torch, network, versions, seconds = _torch_network(model)
    import onnxruntime

    take = _arrays(folder, True, channels_first=True)
    path = str(folder / f"timm_{model}.onnx")
    images = torch.from_numpy(take(0, 2))
    shapes = ({0: torch.export.Dim("batch")},)
    softmax = torch.nn.Sequential(network, torch.nn.Softmax(1)).eval()
    torch.onnx.export(softmax, (images,), path, input_names=["images"], dynamo=True, dynamic_shapes=shapes)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    versions += f"; onnxruntime {onnxruntime.__version__}"
    return lambda pixels: session.run(None, {"images": pixels})[0], take, versions, seconds


def _torch_network(model):
    import timm
    import torch

    torch.manual_seed(0)
    versions = f"python {sys.version.split()[0]}; torch {torch.__version__}; timm {timm.__version__}"
    network, seconds = _timed(lambda: timm.create_model(model).eval())
    return torch, network, versions, seconds


# {format: (function that loads it, file that it needs)}; xla is the folder of a compiled export.
OURS = {
    "savedmodel": (_saved_model, "saved_model.pb"),
    "savedmodel_frozen": (lambda *where: _saved_model(*where, frozen=True), "saved_model.pb"),
    "savedmodel_pixels": (_saved_model_pixels, "saved_model.pb"),
    "savedmodel_xla": (lambda model, *rest: _saved_model(f"{model}/xla", *rest), "xla/saved_model.pb"),
    "savedmodel_xla_pixels": (lambda model, *rest: _saved_model_pixels(f"{model}/xla", *rest), "xla/saved_model.pb"),
    "tflite": (lambda model, folder, _: _file(model, folder, ".tflite"), "model.tflite"),
    "onnx": (lambda model, folder, _: _file(model, folder, ".onnx"), "model.onnx"),
    "onnx_int8": (lambda model, folder, _: _file(model, folder, "_int8.onnx"), "model_int8.onnx"),
    "onnx_openvino": (lambda model, folder, _: _file(model, folder, ".onnx", "openvino"), "model.onnx"),
    "onnx_int8_openvino": (lambda model, folder, _: _file(model, folder, "_int8.onnx", "openvino"), "model_int8.onnx"),
    "keras": (lambda model, folder, _: _file(model, folder, ".keras"), "model.keras"),
    "decoding": (_decoding, "model.json"),
}
_MODES = {"timm_compile": "default", "timm_compile_graph": "reduce-overhead", "timm_compile_max": "max-autotune"}
TIMM = ("timm", "timm_onnx", *_MODES)
PEERS = {
    "keras_applications": _keras,
    "keras_predict": lambda *where: _keras(*where, predict=True),
    "timm": _timm,
    "timm_onnx": _timm_onnx,
} | {name: functools.partial(_timm_on_device, mode=mode) for name, mode in _MODES.items()}
SYSTEMS = {name: make for name, (make, _) in OURS.items()} | PEERS

if __name__ == "__main__":
    if __package__ is None:  # run as a file: keep names of this folder from hiding other modules
        sys.path.pop(0)
    main()
