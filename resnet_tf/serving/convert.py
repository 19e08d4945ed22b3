"""A run's network -> one file for other runtimes: TFLite, ONNX, Keras.

All take images, float32 [batch, size, size, 3] in [0, 255], at the size of evaluation's crop and before normalisation,
and return probabilities, float32 [batch, classes].
"""

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.models.layers import FORMAT, KERAS, MinusInfinityPadding, PaddedIdentity

_OPSET = 17  # of ONNX


def _function(model, normalization, size):
    """The network as a function of images, its weights constants of the graph."""
    trainable = [np.asarray(variable) for variable in model.trainable_variables]
    others = [np.asarray(variable) for variable in model.non_trainable_variables]
    signature = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")

    @tf.function(input_signature=[signature], autograph=False)
    def classify(images):
        values = [[tf.constant(value) for value in group] for group in (trainable, others)]
        logits, _ = model.stateless_call(*values, normalization(images), training=False)
        return {"probabilities": tf.nn.softmax(logits)}

    return classify


def tflite(path, model, normalization, size, precision="float32", calibration=()):
    """Write a TFLite model, with a signature of its own, `serving_default`.

    Args:
        path: of the file.
        model: a `keras.Model` of `models.create_model` in float32, from normalised images to logits.
        normalization: a `colour.Normalization`.
        size: side of the images in pixels.
        precision: "float32"; "float16": kernels are kept in it; "int8": weights and activations are integers, the
            range of each activation that of `calibration`, while images and probabilities stay float32.
        calibration: int8: uint8 images of that size.
    """
    classify = _function(model, normalization, size).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([classify], tf.Module())
    if precision != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if precision == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if precision == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([image[None].astype(np.float32)] for image in calibration)
    path.write_bytes(converter.convert())


def onnx(path, model, normalization, size, precision="float32"):
    """Write an ONNX model of opset 17; arguments as for `tflite`, but no "int8".

    Raises:
        InputError: tf2onnx is not installed.
    """
    try:
        import onnx as library
        import tf2onnx
    except ImportError as error:
        raise InputError("--format=onnx needs tf2onnx: pip install 'resnet_tf[onnx]'") from error

    classify = _function(model, _ChannelsFirst(normalization), size)
    proto, _ = tf2onnx.convert.from_function(classify, classify.input_signature, opset=_OPSET)
    _pad_in_pools(library, proto.graph)
    if precision == "float16":
        _halve(library, proto.graph)
    path.write_bytes(proto.SerializeToString())


class _ChannelsFirst:
    """A normalisation that lays images out as ONNX's convolutions take them before it computes, not after.

    A mean of three numbers is then one number for each plane: on a CPU 2 of the 57 ms of a ResNet-50 less.
    """

    def __init__(self, normalization):
        mean, std = np.asarray(normalization.mean), np.asarray(normalization.std)
        self._mean = np.moveaxis(mean.reshape((1, 1, 3) if mean.ndim == 1 else mean.shape), -1, 0)
        self._scale = np.float32(1) / std.reshape((-1, 1, 1) if std.ndim else ())

    def __call__(self, images):
        """float32 [batch, height, width, 3] to the same."""
        # The second transposition meets that of the first convolution, and the converter leaves out both.
        return tf.transpose((tf.transpose(images, [0, 3, 1, 2]) - self._mean) * self._scale, [0, 2, 3, 1])


def _pad_in_pools(library, graph):
    """Let a max pool pad by itself where zeros are padded after a ReLU; onnxruntime copies what a node of its own pads.

    The pool pads with what it never chooses, and each of its windows has a pixel of at least zero.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    for pool in [node for node in graph.node if node.op_type == "MaxPool"]:
        pad = makers.get(pool.input[0])
        if pad is None or pad.op_type != "Pad" or makers[pad.input[0]].op_type != "Relu":
            continue
        before, after = library.numpy_helper.to_array(constants[pad.input[1]]).reshape(2, 4)[:, 2:].tolist()
        kept = [attribute for attribute in pool.attribute if attribute.name not in ("auto_pad", "pads")]
        del pool.attribute[:]
        pool.attribute.extend([*kept, library.helper.make_attribute("pads", before + after)])
        pool.input[0] = pad.input[0]
        graph.node.remove(pad)
    used = {name for node in graph.node for name in node.input}
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in used]:
        graph.initializer.remove(tensor)


def _halve(library, graph):
    """Keep kernels in float16; a runtime makes them float32 once, as it loads the graph."""
    for tensor in graph.initializer:
        if tensor.data_type != library.TensorProto.FLOAT or len(tensor.dims) < 2:
            continue
        values, name = library.numpy_helper.to_array(tensor), tensor.name
        tensor.CopyFrom(library.numpy_helper.from_array(values.astype(np.float16), f"{name}_float16"))
        cast = library.helper.make_node("Cast", [tensor.name], [name], to=library.TensorProto.FLOAT)
        graph.node.insert(0, cast)


def keras_file(path, model, normalization, size):
    """Write a .keras file, which needs nothing but Keras to be loaded; arguments as for `tflite`."""
    images = keras.Input((size, size, 3), dtype="float32", name="images")
    mean = np.asarray(normalization.mean)
    normalize = keras.layers.Normalization(
        axis=-1 if mean.ndim == 1 else (1, 2, 3),
        mean=mean,
        variance=np.broadcast_to(np.square(normalization.std), mean.shape),
        name="normalization",
    )
    plain = keras.models.clone_model(model, clone_function=_plain)
    plain.set_weights(model.get_weights())
    probabilities = keras.layers.Softmax(name="probabilities")(plain(normalize(images)))
    keras.Model(images, probabilities, name=model.name).save(path)


def _plain(layer):
    """A layer of Keras' own that computes what one of ours does."""
    if isinstance(layer, PaddedIdentity):
        pool = keras.layers.AveragePooling2D(1, layer.stride, data_format=FORMAT, name=f"{layer.name}_pool")
        return lambda x: keras.ops.pad(pool(x), [[0, 0]] * 3 + [[0, layer.filters - x.shape[-1]]])
    if isinstance(layer, MinusInfinityPadding):
        sides = [[0, 0], [layer.pixels] * 2, [layer.pixels] * 2, [0, 0]]
        return lambda x: keras.ops.pad(x, sides, constant_values=float("-inf"))
    config = layer.get_config()
    if "kernel_initializer" in config:
        config["kernel_initializer"] = "zeros"  # ours is not Keras', and the weights follow
    return KERAS.get(type(layer), type(layer)).from_config(config)
