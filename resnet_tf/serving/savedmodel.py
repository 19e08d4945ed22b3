"""Write the network of a run as a SavedModel, whose predictions equal those of the run's evaluation.

Signatures take batches of any size:

    serving_default  image_bytes: string [batch], each a JPEG, PNG, BMP, GIF or WebP (the first frame is used)
    images           images: uint8 [batch, height, width, 3] of any size
    ten_crop         image_bytes; optional: softmax averaged over ten crops

They return

    classes        string [batch, k]: names of the k likeliest classes, the likeliest first
    scores         float32 [batch, k]: their probabilities
    probabilities  float32 [batch, classes], in the order of the training labels

The signatures `features` of image_bytes and `images_features` of images return

    features       float32 [batch, channels]: the pooled vector before the classifier

If the run has --exif=apply, encoded images are turned upright as their orientation tags say. All signatures except
ten_crop crop images as evaluation does, by `images.resize_center`. If some image_bytes cannot be decoded, the call
fails and the error lists their positions in the batch, such as image_bytes[1, 4]. An empty batch is an error too.
"""

import pathlib
import uuid

import keras
import numpy as np
import tensorflow as tf
import yaml

from resnet_tf.data import colour, formats, geometry, images, orientation, processors, resizing
from resnet_tf.errors import InputError
from resnet_tf.models import builder, find
from resnet_tf.runs import network
from resnet_tf.serving import compiled

WARM_UP = "tf_serving_warmup_requests"  # in assets.extra, where TensorFlow Serving looks for it
# Images decoded in parallel. TensorFlow runs as many as it has threads, one for each core; more than that cost nothing
# (docs/performance.md), and with this many the largest images still fit into memory.
_DECODING = 16


class Served(tf.Module):
    """The weights of a network for inference, and the network as a function of images.

    Kernels may be stored in half precision, which halves the file. They are converted to float32 once, when the model
    is loaded. Vectors (biases, BN) stay float32, since they are small and small variances would be lost.

    With `batch_sizes` the answers come from constants of the graph instead, see `compiled`. The weights are in the file
    all the same, for trainings that start from it.

    Attributes:
        weights: list of the `tf.Variable`s in the file.
        paths: tuple of their names in the network.
        answer: function of uint8 [n, size, size, 3], of any size if not compiled; returns what `compiled.make` says.
        answer_scaled: the same for images of `resize` pixels each way before their crop, or None.
    """

    def __init__(
        self,
        model: keras.Model,
        normalization: colour.Normalization,
        precision: str = "float32",
        temperature: float = 1.0,
        size: int = 0,
        batch_sizes: tuple[int, ...] = (),
        resize: int = 0,
        interpolation: str = "",
        top_k: int = 5,
    ):
        """Copy the weights.

        Args:
            model: a `keras.Model` of `models.create_model` with its weights.
            normalization: a `colour.Normalization`.
            precision: precision of kernels in the file: "float32", "bfloat16" or "float16".
            temperature: number by which logits are divided before the softmax.
            size: side of the crop in pixels; only needed with `batch_sizes`.
            batch_sizes: sizes of batches to compile for; empty for a graph that is not compiled.
            resize: side of images before the crop; only needed with `batch_sizes`, as `interpolation` is.
            interpolation: see `images.resize_center`.
            top_k: number of classes per prediction; all classes if there are fewer.
        """
        super().__init__()
        self.batch_sizes, self.answer_scaled, self.top_k = tuple(batch_sizes), None, top_k
        variables = [*model.trainable_variables, *model.non_trainable_variables]
        self.paths = tuple(variable.path for variable in variables)
        self.weights, self._widened = [], []
        for variable in variables:
            half = precision if len(variable.shape) > 1 else variable.dtype
            self.weights.append(tf.Variable(tf.cast(variable.value, half), trainable=False, name=variable.path))
            if self.weights[-1].dtype != tf.as_dtype(variable.dtype) and not batch_sizes:
                self._widened.append(_Widened(self.weights[-1]))
        row = find(model.name)
        outputs = [model.get_layer("pool").output, model.outputs[0]]
        both = builder.close(row, model.inputs[0], outputs, model.name)
        if batch_sizes:
            options = (batch_sizes, temperature, resize, interpolation, top_k)
            answers = compiled.make(both, normalization, size, *options)
            self.answer, self.answer_scaled = answers[size], answers.get(resize)
        else:
            self.answer = self._of_variables(both, normalization, temperature, len(model.trainable_variables))

    def _of_variables(self, both, normalization, temperature, trainable):
        widened = {id(copy.stored): copy for copy in self._widened}
        reads = [widened[id(weight)].read if id(weight) in widened else weight.read_value for weight in self.weights]

        @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8)], autograph=False)
        def answer(pixels):
            """Compute features and ranked probabilities of a batch of images, uint8 [n, height, width, 3]."""
            values = [read() for read in reads]
            # Without this check, an empty batch fails in oneDNN's convolutions with an incomprehensible message.
            with tf.control_dependencies([tf.debugging.Assert(tf.shape(pixels)[0] > 0, ["an empty batch"])]):
                inputs = normalization(pixels)
            (features, logits), _ = both.stateless_call(values[:trainable], values[trainable:], inputs, training=False)
            logits = logits if temperature == 1 else logits / temperature
            return {"features": tf.cast(features, tf.float32)} | compiled.ranked(tf.nn.softmax(logits), self.top_k)

        return answer


class _Widened(tf.saved_model.experimental.TrackableResource):
    """A float32 copy of a variable in half precision, created whenever the model is loaded."""

    def __init__(self, stored):
        super().__init__()
        self.stored = stored
        self._shape = stored.shape
        self._name = f"widened_{uuid.uuid4()}"  # models in one process share names
        self._initialize()

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(dtype=tf.float32, shape=self._shape, shared_name=self._name)

    def _initialize(self):
        value = tf.cast(self.stored, tf.float32)
        tf.raw_ops.AssignVariableOp(resource=self.resource_handle, value=value)

    def read(self):
        """Return the float32 value, with the shape of the variable."""
        value = tf.raw_ops.ReadVariableOp(resource=self.resource_handle, dtype=tf.float32)
        value.set_shape(self._shape)
        return value


def write(
    folder: pathlib.Path,
    served: "Served",
    description: dict,
    size: int,
    resize: int,
    ten_crop: bool,
    exif: str = "apply",
    interpolation: str = "",
) -> list[str]:
    """Write the SavedModel.

    Args:
        folder: an existing folder.
        served: a `Served`.
        description: {"flags", "classes", "normalization"}, for trainings that start from the model or distil it; see
            `network.describe_exported`.
        size: side of the crop in evaluation, in pixels.
        resize: length of the shorter side before the crop; 0 for `size`.
        ten_crop: whether to add a signature for ten crops.
        exif: treatment of orientation tags; see `orientation.treated`.
        interpolation: see `images.resize_center`.

    Returns:
        Names of the signatures.

    Raises:
        InputError: TensorFlow cannot write the files.
    """
    signatures = _signatures(served, description["classes"], size, resize, ten_crop, exif, interpolation)
    try:
        tf.saved_model.save(served, str(folder), signatures=signatures)
    except tf.errors.OpError as error:  # TensorFlow's error for a full disk, for instance
        raise InputError(f"--out={folder.parent}: {error.message}") from None
    extra = folder / "assets.extra"
    extra.mkdir()
    described = {**description, "variables": list(served.paths)}
    (extra / network.MANIFEST_ASSET).write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True))
    _write_warm_up(extra / WARM_UP, size, served.batch_sizes or (1,))
    return list(signatures)


def _signatures(served, classes, size, resize, ten_crop, exif, interpolation):
    names, treated = tf.constant(classes), orientation.treated(exif)

    def named(answer):
        # Names are on the host; nothing but the indices travels there from a GPU (docs/performance.md).
        classes = tf.gather(names, answer["indices"])
        return {"classes": classes, "scores": answer["scores"], "probabilities": answer["probabilities"]}

    def center(data):
        return images.resize_center(images.decode_tensor(treated(data)), size, resize, interpolation)

    def ten(data):
        return geometry.ten_crop(treated(data), size, resize, None, interpolation)

    def from_bytes(image_bytes):
        return served.answer(decode(image_bytes, center, [size, size, 3]))

    def resized(pixels):
        return served.answer(images.resize_center(pixels, size, resize, interpolation, on_gpu=True))

    def from_images(pixels):
        if served.answer_scaled is None:
            return resized(pixels)
        # Numbers of 32 bits, which are compared on the host; see `compiled`.
        height, width = (tf.shape(pixels)[axis] - resize for axis in (1, 2))
        return tf.cond(
            tf.equal(height * height + width * width, 0),
            lambda: served.answer_scaled(tf.ensure_shape(pixels, [None, resize, resize, 3])),
            lambda: resizing.as_one_operation(resized)(pixels),
        )

    def of_ten_crops(image_bytes):
        views = decode(image_bytes, ten, [10, size, size, 3])
        answers = served.answer(tf.reshape(views, [-1, size, size, 3]))["probabilities"]
        means = tf.reduce_mean(tf.reshape(answers, [-1, 10, len(classes)]), axis=1)
        return compiled.ranked(means, served.top_k)

    text = tf.TensorSpec([None], tf.string, name="image_bytes")
    pixels = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    functions = {
        "serving_default": (text, lambda image_bytes: named(from_bytes(image_bytes))),
        "images": (pixels, lambda images: named(from_images(images))),
        "features": (text, lambda image_bytes: {"features": from_bytes(image_bytes)["features"]}),
        "images_features": (pixels, lambda images: {"features": from_images(images)["features"]}),
    }
    if ten_crop:
        functions["ten_crop"] = (text, lambda image_bytes: named(of_ten_crops(image_bytes)))
    return {
        name: tf.function(function, input_signature=[spec], autograph=False)
        for name, (spec, function) in functions.items()
    }


def decode(image_bytes, view, shape):
    """Decode a batch inside a graph, several images in parallel.

    Args:
        image_bytes: string [batch].
        view: function(scalar string) -> uint8 of `shape`, which fails for a bad image.
        shape: shape of one view.

    Returns:
        uint8 [batch, *shape].

    Raises:
        tf.errors.InvalidArgumentError: when the graph runs, if `view` fails; names the positions of all bad images.
    """
    count = tf.size(image_bytes, tf.int64)

    good = (
        tf.data.Dataset.from_tensor_slices((tf.range(count), image_bytes))
        .map(lambda position, data: (position, view(data)), num_parallel_calls=_DECODING, deterministic=True)
        .ignore_errors()
    )
    end = tf.data.Dataset.from_tensors((count, tf.zeros(shape, tf.uint8)))  # so that the batch below is not empty
    options = processors.dataset_options()
    positions, views = good.concatenate(end).batch(count + 1).with_options(options).get_single_element()
    bad = tf.reduce_all(tf.range(count)[:, None] != positions[None], axis=1)
    listed = tf.strings.reduce_join(tf.strings.as_string(tf.where(bad)[:, 0]), separator=", ")
    reason = (
        f"]: not a {formats.NAMES} image that can be decoded: empty, truncated, damaged, or of more than "
        f"{images.MAX_PIXELS} pixels"
    )
    message = tf.strings.join(["image_bytes[", listed, reason])
    with tf.control_dependencies([tf.debugging.Assert(~tf.reduce_any(bad), [message])]):
        return views[:count]


def _write_warm_up(path, size, batch_sizes):
    """Write requests with grey JPEGs, which TensorFlow Serving runs before it reports that the model is ready.

    There is one for each declared size of a batch, whose compilation a client would otherwise wait for.
    """
    from tensorflow_serving.apis import model_pb2, predict_pb2, prediction_log_pb2

    image = tf.io.encode_jpeg(np.full((size, size, 3), 128, np.uint8)).numpy()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for batch in batch_sizes:
            request = predict_pb2.PredictRequest(
                model_spec=model_pb2.ModelSpec(signature_name="serving_default"),
                inputs={"image_bytes": tf.make_tensor_proto([image] * batch)},
            )
            log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
            writer.write(log.SerializeToString())
