"""Load and run exported models and runs on this machine, with the same two methods for every kind.

`prepare(content, name)` converts the content of an image file to the input of a model, and `classify` takes a list of
these. A SavedModel takes encoded images; TFLite, ONNX and Keras files and runs take the pixels of `geometry.center`.
"""

import contextlib
import json
import pathlib
import re
import warnings

import numpy as np
import tensorflow as tf

from resnet_tf.config import evaluation_size
from resnet_tf.data import geometry, images, orientation, processors
from resnet_tf.errors import InputError
from resnet_tf.runs import record, restore, versions

TOP_K = 5  # default number of classes per prediction of a model file or a run


class Refused(ValueError):
    """A batch that the model does not answer, such as one with an image that it cannot decode."""


class NoMemory(Refused):
    """A batch for which the device has too little memory; a smaller one may fit."""


@contextlib.contextmanager
def refusals(count: int):
    """Turn errors of TensorFlow for a batch of `count` images into `Refused`, and lack of memory into `NoMemory`."""
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        raise Refused(_in_short(error.message)) from None
    except (tf.errors.ResourceExhaustedError, tf.errors.InternalError) as error:
        words = " ".join(error.message.split())
        if isinstance(error, tf.errors.InternalError) and not re.search("RESOURCE_EXHAUSTED|out of memory", words):
            raise
        raise NoMemory(f"the device has too little memory for a batch of {count}; send fewer images") from None


def _in_short(message):
    """Return the model's own words in an error of TensorFlow."""
    own = r"image_bytes\[[\d, ]*\]: [^\n\]]*|an empty batch|a batch of \d+ images; the largest declared is \d+"
    found = re.search(own, message)
    return found[0].strip() if found else " ".join(message.split())[:300]


def load(path: str | pathlib.Path, top_k: int = 0, runtime: str = "") -> "Encoded | Pixels":
    """Load an exported model or the network of a run.

        model = runtimes.load("model", top_k=3)
        content = model.prepare(pathlib.Path("dog.jpg").read_bytes(), "dog.jpg")
        (predictions,) = model.classify([content])  # [("dog", 0.98), ("wolf", 0.01), ("fox", 0.0)]

    Args:
        path: a folder of versions, the folder of a version, a .tflite, .onnx or .keras file in it, or a run folder.
        top_k: number of classes per prediction; 0 for as many as a SavedModel returns, or `TOP_K` for other kinds.
        runtime: "openvino" for an .onnx file in OpenVINO; "" for the runtime of `FILES`.

    Returns:
        A `SavedModel`, `TFLite`, `ONNX`, `OpenVINO`, `Keras` or `Run`. In a folder without a SavedModel the first file
        is loaded.

    Raises:
        InputError: there is no model, it is damaged, or its library is not installed.
    """
    path = pathlib.Path(path)
    suffix, kind = RUNTIMES.get(runtime, ("", None))
    if runtime and path.exists() and (path.is_dir() or path.suffix != suffix):
        raise InputError(f"--runtime={runtime}: it runs {suffix} files, not --model={path}")
    if path.is_file():
        kind = kind or FILES.get(path.suffix)
        if kind is None:
            raise InputError(f"--model={path}: not a folder, and not a {', '.join(FILES)} file")
        return kind(path, top_k)
    if not path.exists():
        raise InputError(f"--model={path}: no such file or folder")
    if is_run(path):
        return Run(path, top_k, flag="model")
    folder = versions.locate(path)
    if not (folder / versions.SAVED_MODEL).is_file():
        for suffix, kind in FILES.items():
            if (folder / f"model{suffix}").is_file():
                return kind(folder / f"model{suffix}", top_k)
    return SavedModel(folder, top_k)


def is_run(path: str | pathlib.Path) -> bool:
    """Return whether a path is the folder of a run."""
    return (pathlib.Path(path) / record.MANIFEST).is_file()


def load_signature(folder: str | pathlib.Path, signature: str = "serving_default"):
    """Load one signature of a SavedModel; see `savedmodel`.

    Raises:
        InputError: the folder has no SavedModel of this project.
    """
    folder = versions.locate(folder)
    if not (folder / versions.SAVED_MODEL).is_file():
        raise InputError(f"--model={folder}: has no SavedModel ({versions.SAVED_MODEL})")
    try:
        model = tf.saved_model.load(str(folder))
        loaded = model.signatures[signature]
    except (OSError, KeyError, tf.errors.OpError, ValueError) as error:
        raise InputError(f"--model={folder}: damaged SavedModel ({error})") from None
    for output, task in (("masks", "segmentation"), ("boxes", "detection")):
        if output in loaded.structured_outputs:
            raise InputError(f"--model={folder}: a model for {task}, not for classification")
    loaded.keep_alive = model  # a signature does not keep the variables of its model alive
    return loaded


def batch_sizes(folder: str | pathlib.Path) -> tuple[int, ...]:
    """Return the sizes of batches for which a SavedModel is compiled, in order; empty if it takes any."""
    try:
        return tuple(sorted(json.loads((versions.locate(folder) / versions.CARD).read_text())["batch_sizes"]))
    except (OSError, ValueError, KeyError, TypeError):  # no card, or that of an earlier release
        return ()


# --- Models of encoded images ----------------------------------------------------------------------------------------


class Encoded:
    """Base class of models that take encoded images: SavedModels, on this machine or on a server.

    Attributes:
        largest_batch: most images of a call; None for any number.
    """

    largest_batch = None

    def __init__(self, top_k=0):
        self._top_k = top_k

    def prepare(self, content, name):
        """Check the header and return the bytes of an image; an image that only Pillow reads becomes a PNG.

        Raises:
            InputError: the image is refused; names it.
        """
        content = images.readable(content, name)
        images.check_header(content, name)
        return content

    def named(self, classes, scores, all_classes):
        """Return the first --top_k classes and scores of each prediction; `all_classes` is the number of classes.

        Raises:
            InputError: the model returns fewer.
        """
        top_k = self._top_k or len(classes[0])
        if len(classes[0]) < min(top_k, all_classes):
            raise InputError(
                f"--top_k={top_k}: the model returns the {len(classes[0])} likeliest; export it with --top_k={top_k}"
            )
        return [
            [(name, float(score)) for name, score in zip(names[:top_k], values[:top_k], strict=True)]
            for names, values in zip(classes, scores, strict=True)
        ]


class SavedModel(Encoded):
    """A SavedModel on this machine, through its signature for encoded images."""

    def __init__(self, folder, top_k=0, frozen=False):
        """Load the model.

        Args:
            folder: folder of the model, or of its versions.
            top_k: see `load`.
            frozen: convert weights to constants of the graph, whose memory layout TensorFlow then changes once instead
                of in every call. A single image takes a fifth less time on a CPU. The conversion takes some seconds.
        """
        super().__init__(top_k)
        self._signature = load_signature(folder)
        self.largest_batch = max(batch_sizes(folder), default=None)
        if frozen and not self.largest_batch:  # a compiled model has constants already
            from tensorflow.python.framework import convert_to_constants

            graph = convert_to_constants.convert_variables_to_constants_v2(self._signature)
            names = sorted(self._signature.structured_outputs)
            self._signature = lambda image_bytes: dict(zip(names, graph(image_bytes), strict=True))

    def classify(self, encoded):
        """Classify a list of encoded images; return [(class name, probability), ...] for each, the likeliest first.

        Raises:
            Refused: some images cannot be decoded, or there are more than the largest declared batch.
            NoMemory: the device has too little memory for so many.
        """
        with refusals(len(encoded)):
            output = self._signature(image_bytes=tf.constant(encoded))
        classes = [[name.decode() for name in names] for names in output["classes"].numpy()]
        return self.named(classes, output["scores"].numpy(), output["probabilities"].shape[1])


# --- Models of pixels ------------------------------------------------------------------------------------------------


class Pixels:
    """Base class of models that take pixels.

    Attributes:
        size: side of the images in pixels.
        classes: names of the classes in the order of their probabilities.
        dtype: data type of the arrays that `probabilities` takes.
        plans_for_a_shape: whether a batch of another size than the one before costs extra time.
    """

    plans_for_a_shape = False

    def __init__(self, classes, size, resize, exif, dtype, top_k=0, interpolation=""):
        """Prepare images as the evaluation of the network does.

        Args:
            classes: names of the classes.
            size: side of the central crop in pixels.
            resize: shorter side of an image before the crop in pixels; 0 for `size`.
            exif: treatment of orientation tags; see `orientation.treated`.
            dtype: data type of the arrays that `probabilities` takes.
            top_k: see `load`.
            interpolation: see `images.resize_center`.
        """
        self.classes, self.size, self.dtype = list(map(str, classes)), size, np.dtype(dtype)
        self.top_k = min(top_k or TOP_K, len(self.classes))
        treated = orientation.treated(exif)
        self._view = tf.function(
            lambda data: geometry.center(treated(data), size, resize, None, interpolation),
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        )

    def prepare(self, content, name):
        """Decode and crop an image as in evaluation: uint8 [size, size, 3]; raises InputError that names the image."""
        content = images.readable(content, name)
        images.check_header(content, name)
        try:
            return self._view(tf.constant(content)).numpy()
        except tf.errors.OpError:
            raise InputError(f"{name}: damaged or truncated image") from None

    def classify(self, pixels):
        """Classify a list of images [size, size, 3]; see `SavedModel.classify` for the result."""
        probabilities = self.probabilities(np.stack(pixels).astype(self.dtype))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.top_k]
        return [
            [(self.classes[index], float(row[index])) for index in indices]
            for row, indices in zip(probabilities, best, strict=True)
        ]


class File(Pixels):
    """Base class of model files, which need model.json beside them.

    Attributes:
        extra: extra of the package with the library that runs the file.
    """

    extra = "onnx"

    def __init__(self, path, top_k=0):
        """Load the file and its model.json.

        Args:
            path: path of the file.
            top_k: see `load`.

        Raises:
            InputError: the file or model.json is missing or damaged, or the library that runs it is not installed.
        """
        card = pathlib.Path(path).parent / versions.CARD
        try:
            described = json.loads(card.read_text())
            # Older exports have no entry "exif" and ignore the tags, and none "interpolation".
            view = int(described["image_size"]), int(described["resize"]), described.get("exif", "ignore")
            way = described.get("interpolation", "")
            super().__init__(described["classes"], *view, described["input"], top_k, way)
        except FileNotFoundError:
            raise InputError(f"--model={path}: {card} is missing, which describes the inputs of the file") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{card}: damaged ({error!r})") from None
        try:
            self._open(pathlib.Path(path))
        except ImportError as error:
            raise InputError(f"--model={path}: {error}; pip install 'resnet_tf[{self.extra}]'") from None
        except InputError:
            raise
        except Exception as error:  # each library has its own exceptions
            raise InputError(f"--model={path}: damaged ({error})") from None


class TFLite(File):
    """A .tflite file."""

    plans_for_a_shape = True

    def _open(self, path):
        with warnings.catch_warnings():  # TensorFlow 2.21 warns that TensorFlow 2.20 will remove tf.lite
            warnings.simplefilter("ignore", UserWarning)
            self._interpreter = tf.lite.Interpreter(str(path), num_threads=processors.count())
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        self._batch = None

    def probabilities(self, pixels):
        """[batch, size, size, 3] to float32 [batch, classes]."""
        if len(pixels) != self._batch:
            self._batch = len(pixels)
            self._interpreter.resize_tensor_input(self._input, pixels.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input, pixels)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._output)


class ONNX(File):
    """An .onnx file, run by onnxruntime."""

    def _open(self, path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = processors.count()
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=onnxruntime.get_available_providers()
        )
        self._input = self._session.get_inputs()[0].name

    def probabilities(self, pixels):
        """[batch, size, size, 3] to float32 [batch, classes]."""
        return self._session.run(None, {self._input: pixels})[0]


class OpenVINO(File):
    """An .onnx file, run by OpenVINO on CPUs."""

    extra = "openvino"

    def _open(self, path):
        import openvino

        # Newer CPUs would compute in half precision otherwise, and give other probabilities.
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        options["INFERENCE_NUM_THREADS"] = processors.count()
        self._compiled = openvino.Core().compile_model(str(path), "CPU", options)

    def probabilities(self, pixels):
        """[batch, size, size, 3] to float32 [batch, classes]."""
        return self._compiled(pixels)[0]


class Keras(File):
    """A .keras file."""

    def _open(self, path):
        import keras

        model = keras.saving.load_model(path, compile=False)
        self._call = tf.function(lambda pixels: model(pixels, training=False), autograph=False, reduce_retracing=True)

    def probabilities(self, pixels):
        """[batch, size, size, 3] to float32 [batch, classes]."""
        return self._call(tf.constant(pixels)).numpy()


class Run(Pixels):
    """The network of a run, with the view of its evaluation; activations are float32, as in exported models."""

    def __init__(self, folder, top_k=0, weights="raw", flag="run"):
        """Build the network from a checkpoint.

        Args:
            folder: folder of a run of classification.
            top_k: see `load`.
            weights: "raw", "ema" or "best"; see `restore.load`.
            flag: flag that named the folder, for errors.

        Raises:
            InputError: not such a run, or a run without a checkpoint.
        """
        try:
            run, values, normalization = restore.load(folder, weights)
            model = restore.build_model(run, values, weights, precision="float32")
        except InputError as error:
            raise InputError(str(error).replace("--run=", f"--{flag}=", 1)) from None
        data = run.config.data
        view = (evaluation_size(data), data.resize, data.exif)
        super().__init__(run.manifest["classes"], *view, np.uint8, top_k, data.interpolation)
        self._call = tf.function(
            lambda pixels: tf.nn.softmax(model(normalization(pixels), training=False)),
            autograph=False,
            reduce_retracing=True,
        )

    def probabilities(self, pixels):
        """uint8 [batch, size, size, 3] to float32 [batch, classes]."""
        return self._call(tf.constant(pixels)).numpy()


FILES = {".onnx": ONNX, ".tflite": TFLite, ".keras": Keras}
RUNTIMES = {"openvino": (".onnx", OpenVINO)}  # others than those of FILES: what they run, and how
