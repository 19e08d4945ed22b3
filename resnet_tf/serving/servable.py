"""Models as a server needs them: named signatures that take batches and return named arrays."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.runs import versions
from resnet_tf.serving import runtimes

DEFAULT = "serving_default"
IMAGE_BYTES = "image_bytes"


@dataclasses.dataclass(frozen=True)
class Signature:
    """A function of a model.

    Attributes:
        inputs: {name: `tf.TensorSpec`}, one of them; the first dimension is that of the batch.
        outputs: {name: `tf.TensorSpec`}.
    """

    inputs: dict[str, tf.TensorSpec]
    outputs: dict[str, tf.TensorSpec]

    @property
    def input(self) -> str:
        """The name of the only input."""
        return next(iter(self.inputs))

    @property
    def takes_files(self) -> bool:
        """Whether the input is encoded images."""
        return self.input == IMAGE_BYTES


def load(path: str | pathlib.Path) -> "SavedModel | Pixels":
    """Load what `runtimes.load` loads.

    Raises:
        InputError: there is no model, it is damaged, or its library is not installed.
    """
    path = pathlib.Path(path)
    folder = versions.locate(path) if path.is_dir() else path.parent
    version = int(folder.name) if folder.name.isascii() and folder.name.isdigit() else 1
    if path.is_dir() and (folder / versions.SAVED_MODEL).is_file():
        return SavedModel(folder, version)
    return Pixels(runtimes.load(path), version)


class SavedModel:
    """A SavedModel with all its signatures.

    Attributes:
        version: number of the version.
        batch_sizes: sizes of batches for which it is compiled; empty if it takes any.
        signatures: {name: `Signature`}.
    """

    def __init__(self, folder, version):
        """Load the model from the folder of a version."""
        self.version, self.batch_sizes = version, runtimes.batch_sizes(folder)
        self._functions = dict(runtimes.load_signature(folder).keep_alive.signatures)
        self.signatures = {
            name: Signature(dict(function.structured_input_signature[1]), dict(function.structured_outputs))
            for name, function in self._functions.items()
        }

    def prepare(self, content: bytes, name: str) -> bytes:
        """Return what `run` takes for an image in a format that TensorFlow reads: its bytes."""
        return content

    def run(self, signature: str, items: list) -> dict[str, np.ndarray]:
        """Run a batch.

        Args:
            signature: name of a signature.
            items: what `prepare` returned for each image, or arrays for signatures that take no files.

        Returns:
            {name of the output: array [batch, ...]}.

        Raises:
            runtimes.Refused: some items cannot be used, or there are more than the largest declared batch.
            runtimes.NoMemory: the device has too little memory for so many.
        """
        described = self.signatures[signature]
        if not described.takes_files:
            sizes = list(dict.fromkeys(" x ".join(map(str, item.shape)) for item in items))
            if len(sizes) > 1:
                raise runtimes.Refused(f"{described.input}: arrays of several sizes in a batch: {', '.join(sizes[:4])}")
            items = np.stack(items)
        with runtimes.refusals(len(items)):
            outputs = self._functions[signature](**{described.input: tf.constant(items)})
            return {name: value.numpy() for name, value in outputs.items()}


class Pixels:
    """A `runtimes.Pixels`, with the default signature of an exported SavedModel.

    Attributes:
        version: number of the version.
        batch_sizes: empty: it takes any.
        signatures: {name: `Signature`}.
    """

    batch_sizes = ()

    def __init__(self, model, version):
        """Wrap a loaded model."""
        self._model, self.version = model, version
        top_k, classes = model.top_k, len(model.classes)
        outputs = {
            "classes": tf.TensorSpec([None, top_k], tf.string),
            "scores": tf.TensorSpec([None, top_k], tf.float32),
            "probabilities": tf.TensorSpec([None, classes], tf.float32),
        }
        self.signatures = {DEFAULT: Signature({IMAGE_BYTES: tf.TensorSpec([None], tf.string)}, outputs)}

    def prepare(self, content: bytes, name: str) -> np.ndarray:
        """Return what `run` takes for an image: its view in evaluation, uint8 [size, size, 3].

        Raises:
            InputError: the image cannot be decoded; names it.
        """
        return self._model.prepare(content, name)

    def run(self, signature: str, items: list) -> dict[str, np.ndarray]:
        """See `SavedModel.run`."""
        count = len(items)
        if self._model.plans_for_a_shape:
            items = items + items[-1:] * ((1 << (count - 1).bit_length()) - count)
        probabilities = self._model.probabilities(np.stack(items).astype(self._model.dtype))[:count]
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, : self._model.top_k]
        names = np.array([name.encode() for name in self._model.classes], object)
        scores = np.take_along_axis(probabilities, best, axis=1)
        return {"classes": names[best], "scores": scores, "probabilities": probabilities}


def warm_up(model: "SavedModel | Pixels") -> int:
    """Run grey images through the default signature and return the number of classes.

    On a GPU a batch of each declared size is run, so that no client waits for its compilation.

    Raises:
        InputError: the model has no such signature, or it does not return classes.
    """
    grey = tf.io.encode_jpeg(np.full((64, 64, 3), 128, np.uint8)).numpy()
    item = model.prepare(grey, "warm-up")
    outputs = model.run(DEFAULT, [item])
    for batch in model.batch_sizes if tf.config.list_physical_devices("GPU") else ():
        model.run(DEFAULT, [item] * batch)
    if not {"classes", "scores", "probabilities"} <= set(outputs):
        raise InputError(f"--model: its outputs are {', '.join(outputs)}, not classes, scores and probabilities")
    return outputs["probabilities"].shape[1]
