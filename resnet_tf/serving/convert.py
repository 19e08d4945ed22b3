"""Convert the network of a run to a file for other runtimes: TFLite, ONNX, Keras.

All of them take images before normalisation, float32 or, of TFLite and ONNX, optionally uint8 [batch, size, size, 3] in
[0, 255], where size is that of the crop in evaluation. They return probabilities, float32 [batch, classes].
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.data.colour import Normalization
from resnet_tf.errors import InputError
from resnet_tf.models import naming, variants
from resnet_tf.models.layers import FORMAT, KERAS
from resnet_tf.serving import quantize

_OPSET = 17  # ONNX operator set


def _function(model, normalization, size, temperature, pixels="float32"):
    """Return the network as a function of images, with its weights as constants of the graph; see `tflite`."""
    trainable = [np.asarray(variable) for variable in model.trainable_variables]
    others = [np.asarray(variable) for variable in model.non_trainable_variables]
    signature = tf.TensorSpec([None, size, size, 3], pixels, name="images")

    @tf.function(input_signature=[signature], autograph=False)
    def classify(images):
        values = [[tf.constant(value) for value in group] for group in (trainable, others)]
        logits, _ = model.stateless_call(*values, normalization(tf.cast(images, tf.float32)), training=False)
        return {"probabilities": tf.nn.softmax(logits if temperature == 1 else logits / temperature)}

    return classify


def tflite(
    path: pathlib.Path,
    model: keras.Model,
    normalization: Normalization,
    size: int,
    precision: str = "float32",
    calibration=(),
    temperature: float = 1.0,
    pixels: str = "float32",
) -> None:
    """Write a TFLite model with the signature `serving_default`.

    Args:
        path: path of the file.
        model: a `keras.Model` of `models.create_model` in float32, from normalised images to logits.
        normalization: a `colour.Normalization`.
        size: side of the images in pixels.
        precision: "float32"; "float16" for kernels in float16; or "int8" for integer weights and activations, with
            float32 images and probabilities.
        calibration: uint8 images of this size that determine the range of each activation for int8.
        temperature: number by which logits are divided before the softmax.
        pixels: type of the images, "float32" or "uint8".
    """
    classify = _function(model, normalization, size, temperature, pixels).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([classify], tf.Module())
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image[None].astype(pixels)] for image in calibration)
    path.write_bytes(converter.convert())


def onnx(
    path: pathlib.Path,
    model: keras.Model,
    normalization: Normalization,
    size: int,
    precision: str = "float32",
    temperature: float = 1.0,
    calibration=(),
    pixels: str = "float32",
) -> None:
    """Write an ONNX model of opset 17; see `tflite` for the arguments.

    Raises:
        InputError: tf2onnx, or for "int8" onnxruntime, is not installed.
    """
    try:
        import onnx as library
        import tf2onnx
    except ImportError as error:
        raise InputError("--format=onnx needs tf2onnx: pip install 'resnet_tf[onnx]'") from error

    classify = _function(model, _ChannelsFirst(normalization), size, temperature, pixels)
    proto, _ = tf2onnx.convert.from_function(classify, classify.input_signature, opset=_OPSET)
    _pad_in_pools(library, proto.graph)
    if precision == "float16":
        _halve(library, proto.graph)
    if precision == "int8":
        return quantize.onnx_int8(proto, path, [image.astype(pixels) for image in calibration])
    path.write_bytes(proto.SerializeToString())


class _ChannelsFirst:
    """A normalisation that transposes images to the channels-first layout of ONNX before it computes.

    A mean of three numbers is then a single number for each plane, which saves 2 of 57 ms of a ResNet-50 on a CPU.
    """

    def __init__(self, normalization):
        mean, std = np.asarray(normalization.mean), np.asarray(normalization.std)
        self._mean = np.moveaxis(mean.reshape((1, 1, 3) if mean.ndim == 1 else mean.shape), -1, 0)
        self._scale = np.float32(1) / std.reshape((-1, 1, 1) if std.ndim else ())

    def __call__(self, images):
        """Normalise float32 [batch, height, width, 3]; the shape stays the same."""
        # The converter removes the second transposition together with that of the first convolution.
        return tf.transpose((tf.transpose(images, [0, 3, 1, 2]) - self._mean) * self._scale, [0, 2, 3, 1])


def _pad_in_pools(library, graph):
    """Replace a node that pads zeros between a ReLU and a max pool by padding in the pool, which saves a copy.

    The pool ignores its padding. The result is the same, since each window has a pixel of at least zero.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = makers.get(pool.input[0])
        if pad is None or pad.op_type != "Pad" or makers[pad.input[0]].op_type != "Relu":
            continue
        before, after = library.numpy_helper.to_array(constants[pad.input[1]]).reshape(2, 4)[:, 2:].tolist()
        attributes = [attribute for attribute in pool.attribute if attribute.name not in ("auto_pad", "pads")]
        del pool.attribute[:]
        pool.attribute.extend([*attributes, library.helper.make_attribute("pads", before + after)])
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _halve(library, graph):
    """Store kernels in float16; a runtime converts them to float32 once, when it loads the graph."""
    for tensor in graph.initializer:
        if tensor.data_type != library.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values, name = library.numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(library.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        cast = library.helper.make_node("Cast", [tensor.name], [name], to=library.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def keras_file(
    path: pathlib.Path, model: keras.Model, normalization: Normalization, size: int, temperature: float = 1.0
) -> None:
    """Write a .keras file that Keras can load without this package; see `tflite` for the arguments."""
    images = keras.Input((size, size, 3), dtype="float32", name="images")
    mean = np.asarray(normalization.mean)
    normalize = keras.layers.Normalization(
        axis=-1 if mean.ndim == 1 else (1, 2, 3),
        mean=mean,
        variance=np.broadcast_to(np.square(normalization.std), mean.shape),
        name="normalization",
    )
    plain = keras.models.clone_model(naming.plain(model), clone_function=_plain)
    plain.set_weights(model.get_weights())
    for layer in model.layers:
        if isinstance(layer, variants.StandardizedConv2D):
            plain.get_layer(layer.name).set_weights([np.asarray(layer.standardized_kernel())])
    logits = plain(normalize(images))
    if temperature != 1:
        logits = keras.layers.Rescaling(1 / temperature, name="temperature")(logits)
    probabilities = keras.layers.Softmax(name="probabilities")(logits)
    keras.Model(images, probabilities, name=naming.network_of(model)).save(path)


def _plain(layer):
    """Return a layer of Keras' own with the same result as a layer of this package."""
    if isinstance(layer, variants.PaddedIdentity):
        pool = keras.layers.AveragePooling2D(1, layer.stride, data_format=FORMAT, name=f"{layer.name}_pool")
        return lambda x: keras.ops.pad(pool(x), [[0, 0]] * 3 + [[0, layer.filters - x.shape[-1]]])
    if isinstance(layer, variants.EvoNorm):
        raise InputError(f"--format=keras: Keras has no layer with the result of {layer.name} (EvoNorm-S0)")
    if isinstance(layer, variants.BlurPool):
        return _blur
    if isinstance(layer, variants.MinusInfinityPadding):
        sides = [[0, 0], [layer.pixels] * 2, [layer.pixels] * 2, [0, 0]]
        return lambda x: keras.ops.pad(x, sides, constant_values=float("-inf"))
    config = layer.get_config()
    if "kernel_initializer" in config:
        config["kernel_initializer"] = "zeros"  # the initializer is not Keras' own, and the weights are set anyway
    return KERAS.get(type(layer), type(layer)).from_config(config)


def _blur(x):
    """`variants.BlurPool` in operations of Keras."""
    x = keras.ops.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "reflect")
    x = (x[:, :-2:2] + 2 * x[:, 1:-1:2] + x[:, 2::2]) / 4
    return (x[:, :, :-2:2] + 2 * x[:, :, 1:-1:2] + x[:, :, 2::2]) / 4
