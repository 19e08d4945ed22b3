"""Convert an ONNX model to integers by onnxruntime's quantisation."""

import pathlib
import tempfile
from collections.abc import Sequence

import numpy as np

from resnet_tf.errors import InputError

# The operations of a network. Normalisation of the input and the softmax stay float32: they cost little, and small
# probabilities would be rounded to zero.
_QUANTISED = ["Conv", "Gemm", "MatMul", "Add", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Pad", "Concat"]


def onnx_int8(source, path: pathlib.Path, calibration: Sequence[np.ndarray]) -> None:
    """Write an ONNX model with integer weights and activations, as pairs of QuantizeLinear and DequantizeLinear.

    Kernels are int8 with a scale for each filter. Activations are uint8 between the smallest and the largest value on
    the calibration images. Processors with AVX512-VNNI, AVX-VNNI or AMX multiply these without saturation; others may
    lose accuracy in long sums, and time.

    Args:
        source: the float32 model, an `onnx.ModelProto` with one input.
        path: path of the file.
        calibration: images [size, size, 3] of the type that the model takes.

    Raises:
        InputError: onnxruntime is not installed.
    """
    try:
        from onnxruntime import quantization
    except ImportError as error:
        raise InputError(
            f"--format=onnx --precision=int8 needs onnxruntime ({error}): pip install 'resnet_tf[onnx]'"
        ) from None

    name = source.graph.input[0].name
    feeds = iter([{name: image[None]} for image in calibration])

    class Reader(quantization.CalibrationDataReader):
        def get_next(self):
            return next(feeds, None)

    with tempfile.TemporaryDirectory() as folder:
        plain = pathlib.Path(folder) / "plain.onnx"
        plain.write_bytes(source.SerializeToString())
        ready = pathlib.Path(folder) / "ready.onnx"
        quantization.quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(ready), str(path), Reader(), quantization.QuantFormat.QDQ, _QUANTISED, per_channel=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
        )  # fmt: skip
