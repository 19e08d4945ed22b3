"""Exported models on this machine, each format behind the same two methods.

A SavedModel takes encoded images. TFLite, ONNX and Keras files take pixels: the view of evaluation, `geometry.center`.
`prepare(content, name)` makes of a file's content what `classify` takes a list of.
"""

import json
import pathlib
import warnings

import numpy as np
import tensorflow as tf

from resnet_tf.data import geometry, images, orientation, processors
from resnet_tf.errors import InputError
from resnet_tf.runs import versions

TOP_K = 5  # classes that a file's answer names where nobody says how many


class Refused(ValueError):
    """A batch holds what the model cannot decode; the message is the model's."""


def load(path, top_k=0):
    """Load an exported model.

    Args:
        path: of a folder of versions, of one version, or of a .tflite, .onnx or .keras file in a version's folder.
        top_k: how many classes an answer names; 0 for as many as a SavedModel does, and for `TOP_K` of a file.

    Returns:
        A `SavedModel`, `TFLite`, `ONNX` or `Keras`. Of a folder without a SavedModel, the first file that is there.

    Raises:
        InputError: there is none, it is damaged, or its library is not installed.
    """
    path = pathlib.Path(path)
    if path.is_file():
        kind = FILES.get(path.suffix)
        if kind is None:
            raise InputError(f"--model={path}: not a folder, and not a {', '.join(FILES)} file")
        return kind(path, top_k)
    if not path.exists():
        raise InputError(f"--model={path}: no such file or folder")
    folder = versions.locate(path)
    if not (folder / versions.SAVED_MODEL).is_file():
        for suffix, kind in FILES.items():
            if (folder / f"model{suffix}").is_file():
                return kind(folder / f"model{suffix}", top_k)
    return SavedModel(folder, top_k)


def load_signature(folder, signature="serving_default"):
    """Load one signature of a SavedModel; see `savedmodel`.

    Raises:
        InputError: not a folder with a SavedModel of this project.
    """
    folder = versions.locate(folder)
    if not (folder / versions.SAVED_MODEL).is_file():
        raise InputError(f"--model={folder}: no SavedModel is there ({versions.SAVED_MODEL})")
    try:
        model = tf.saved_model.load(str(folder))
        loaded = model.signatures[signature]
    except (OSError, KeyError, tf.errors.OpError, ValueError) as error:
        raise InputError(f"--model={folder}: damaged SavedModel ({error})") from None
    for output, task in (("masks", "segmentation"), ("boxes", "detection")):
        if output in loaded.structured_outputs:
            raise InputError(f"--model={folder}: a model of {task}, not of classification")
    loaded.keep_alive = model  # the signature does not hold its model's variables by itself
    return loaded


# --- From encoded images ---------------------------------------------------------------------------------------------


class Encoded:
    """What takes encoded images: SavedModels, here or on a server."""

    def __init__(self, top_k=0):
        self._top_k = top_k

    def prepare(self, content, name):
        """Bytes as they are, or a PNG of what only Pillow reads, once their header has been looked at.

        Raises:
            InputError: names the image.
        """
        content = images.readable(content, name)
        images.check_header(content, name)
        return content

    def named(self, classes, scores, all_classes):
        """Cut each answer, of classes best first and their scores, to --top_k; `all_classes` is how many there are.

        Raises:
            InputError: the model names fewer.
        """
        wanted = self._top_k or len(classes[0])
        if len(classes[0]) < min(wanted, all_classes):
            raise InputError(
                f"--top_k={wanted}: the model names the {len(classes[0])} likeliest; export it with --top_k={wanted}"
            )
        return [
            [(name, float(score)) for name, score in zip(names[:wanted], values[:wanted], strict=True)]
            for names, values in zip(classes, scores, strict=True)
        ]


class SavedModel(Encoded):
    """A SavedModel on this machine, through its signature for encoded images."""

    def __init__(self, folder, top_k=0, frozen=False):
        """Load it.

        Args:
            folder: of the model, or of its versions.
            top_k: see `load`.
            frozen: make weights constants of the graph, which TensorFlow then lays out once and not in every call:
                a single image takes a fifth less time on a CPU. That takes some seconds, once.
        """
        super().__init__(top_k)
        self._signature = load_signature(folder)
        if frozen:
            from tensorflow.python.framework import convert_to_constants

            graph = convert_to_constants.convert_variables_to_constants_v2(self._signature)
            names = sorted(self._signature.structured_outputs)
            self._signature = lambda image_bytes: dict(zip(names, graph(image_bytes), strict=True))

    def classify(self, encoded):
        """Classify a list of encoded images: for each [(class name, probability), ...], best first.

        Raises:
            Refused: some cannot be decoded.
        """
        try:
            output = self._signature(image_bytes=tf.constant(encoded))
        except tf.errors.InvalidArgumentError as error:
            raise Refused(error.message) from None
        classes = [[name.decode() for name in names] for names in output["classes"].numpy()]
        return self.named(classes, output["scores"].numpy(), output["probabilities"].shape[1])


# --- From pixels -----------------------------------------------------------------------------------------------------


class Pixels:
    """What takes pixels: model files, with model.json beside them.

    Attributes:
        size: side of the images in pixels.
        classes: names of the classes in the order of their probabilities.
        dtype: of the arrays that `probabilities` takes.
    """

    def __init__(self, path, top_k=0):
        """Load the file and what model.json says of it.

        Args:
            path: of the file.
            top_k: see `load`.

        Raises:
            InputError: the file or model.json is missing or damaged, or the library that runs it is not installed.
        """
        card = pathlib.Path(path).parent / versions.CARD
        try:
            described = json.loads(card.read_text())
            self.size, self._resize = int(described["image_size"]), int(described["resize"])
            self.classes = [str(name) for name in described["classes"]]
            self.dtype = np.dtype(described["input"])
            treated = orientation.treated(described.get("exif", "ignore"))  # exports from before it ignore the tag
        except FileNotFoundError:
            raise InputError(f"--model={path}: {card} is missing, which says what the file takes") from None
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{card}: damaged ({error!r})") from None
        self._top_k = min(top_k or TOP_K, len(self.classes))
        self._view = tf.function(
            lambda data: geometry.center(treated(data), self.size, self._resize),
            input_signature=[tf.TensorSpec([], tf.string)],
            autograph=False,
        )
        try:
            self._open(pathlib.Path(path))
        except ImportError as error:
            raise InputError(f"--model={path}: {error}; pip install 'resnet_tf[onnx]'") from None
        except InputError:
            raise
        except Exception as error:  # each library has its own
            raise InputError(f"--model={path}: damaged ({error})") from None

    def prepare(self, content, name):
        """Decode an image to what evaluation saw of it: uint8 [size, size, 3]; raises InputError, which names it."""
        content = images.readable(content, name)
        images.check_header(content, name)
        try:
            return self._view(tf.constant(content)).numpy()
        except tf.errors.OpError:
            raise InputError(f"{name}: damaged or truncated image") from None

    def classify(self, pixels):
        """Classify a list of images [size, size, 3]: for each [(class name, probability), ...], best first."""
        probabilities = self.probabilities(np.stack(pixels).astype(self.dtype))
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._top_k]
        return [
            [(self.classes[index], float(row[index])) for index in indices]
            for row, indices in zip(probabilities, best, strict=True)
        ]


class TFLite(Pixels):
    """A .tflite file."""

    def _open(self, path):
        with warnings.catch_warnings():  # TensorFlow 2.21 says that 2.20 will be without it
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


class ONNX(Pixels):
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


class Keras(Pixels):
    """A .keras file."""

    def _open(self, path):
        import keras

        model = keras.saving.load_model(path, compile=False)
        self._call = tf.function(lambda pixels: model(pixels, training=False), autograph=False, reduce_retracing=True)

    def probabilities(self, pixels):
        """[batch, size, size, 3] to float32 [batch, classes]."""
        return self._call(tf.constant(pixels)).numpy()


FILES = {".onnx": ONNX, ".tflite": TFLite, ".keras": Keras}
