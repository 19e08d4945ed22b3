"""The JSON of TensorFlow Serving's REST interface: requests to batches, arrays to responses.

See https://www.tensorflow.org/tfx/serving/api_rest, whose words for errors are used where they are clear.
"""

import base64
import binascii
import json
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2

from resnet_tf.errors import InputError
from resnet_tf.serving import servable


class Request(NamedTuple):
    """A request to predict.

    Attributes:
        signature: name of the signature.
        items: the encoded images, or arrays for a signature that takes no files.
        in_rows: whether the response has a row for each instance, or a column for each output.
    """

    signature: str
    items: list
    in_rows: bool


def parse(body: bytes, signatures: dict[str, servable.Signature]) -> Request:
    """Parse the body of a request to predict.

    Args:
        body: JSON, {"instances": [...]} or {"inputs": ...}, and optionally "signature_name".
        signatures: those of the model.

    Raises:
        InputError: not such JSON, no such signature, or an input that is not base64 or not an array of its type.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise InputError(f"JSON Parse Error: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise InputError('JSON Value: not an object with the key "instances" or "inputs"')
    if ("instances" in content) == ("inputs" in content):
        raise InputError('Missing "inputs" or "instances" key' if "inputs" not in content else
                         'Not expecting both "inputs" and "instances" keys')  # fmt: skip
    name = content.get("signature_name") or servable.DEFAULT
    if not isinstance(name, str) or name not in signatures:
        named = json.dumps(name)[:100]
        raise InputError(f"Serving signature name: {named} not found; there are {', '.join(signatures)}")
    signature, key = signatures[name], "instances" if "instances" in content else "inputs"
    values = content[key]
    if key == "inputs" and isinstance(values, dict):
        if set(values) != {signature.input}:
            raise InputError(f'"inputs": its keys must be equal to: {signature.input}')
        values = values[signature.input]
    if not isinstance(values, list) or not values:
        raise InputError(f'"{key}": not a list with at least one element')
    convert = _file if signature.takes_files else _array
    spec = signature.inputs[signature.input]
    items = [
        convert(_value(value, signature.input, place) if key == "instances" else value, spec, place)
        for place, value in ((f"{key}[{index}]", value) for index, value in enumerate(values))
    ]
    return Request(name, items, key == "instances")


def _value(instance, name, place):
    """Return the value of the only input in an instance, which may be without its name."""
    if not isinstance(instance, dict) or set(instance) == {"b64"}:
        return instance
    if set(instance) != {name}:
        raise InputError(f"{place}: its keys must be equal to: {name}")
    return instance[name]


def _file(value, spec, place):
    if not isinstance(value, dict) or set(value) != {"b64"} or not isinstance(value["b64"], str):
        raise InputError(f'{place}: not {{"b64": "..."}}, an image file in base64')
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError):
        raise InputError(f"{place}: not base64") from None


def _array(value, spec, place):
    dtype = np.dtype(spec.dtype.as_numpy_dtype)
    try:
        array = np.asarray(value)
        cast = array.astype(dtype)
    except (ValueError, TypeError, OverflowError):
        raise InputError(f"{place}: not an array of {dtype}") from None
    if array.dtype.kind not in "iuf" or not np.array_equal(array, cast):
        raise InputError(f"{place}: not an array of {dtype}")
    if not spec.shape[1:].is_compatible_with(cast.shape) or 0 in cast.shape:
        raise InputError(f"{place}: of shape {list(cast.shape)}, not {spec.shape[1:].as_list()}")
    return cast


def response(outputs: dict[str, np.ndarray], in_rows: bool) -> dict:
    """Return {"predictions": a list of rows} or {"outputs": columns}; a single output stands without its name."""
    columns = {name: _plain(values) for name, values in outputs.items()}
    if len(columns) == 1:
        return {"predictions" if in_rows else "outputs": next(iter(columns.values()))}
    if not in_rows:
        return {"outputs": columns}
    return {"predictions": [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]}


def _plain(values):
    if values.dtype.kind in "OS":
        return np.vectorize(lambda one: one.decode(errors="replace"), otypes=[object])(values).tolist()
    return values.tolist()


def status(version: int) -> dict:
    """Return the state of a model that is ready."""
    state = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
    return {"model_version_status": [{"version": str(version), **state}]}


def metadata(name: str, version: int, signatures: dict[str, servable.Signature]) -> dict:
    """Return the signatures of a model, as the definition of `GetModelMetadataResponse` has them in JSON."""
    described = {
        key: {
            "inputs": {one: _tensor(f"{key}_{one}:0", spec) for one, spec in signature.inputs.items()},
            "outputs": {one: _tensor("StatefulPartitionedCall:0", spec) for one, spec in signature.outputs.items()},
            "method_name": "tensorflow/serving/predict",
        }
        for key, signature in signatures.items()
    }
    return {
        "model_spec": {"name": name, "signature_name": "", "version": str(version)},
        "metadata": {"signature_def": {"signature_def": described}},
    }


def _tensor(name, spec):
    sides = [] if spec.shape.rank is None else spec.shape.as_list()
    dimensions = [{"size": str(-1 if side is None else side), "name": ""} for side in sides]
    shape = {"dim": dimensions, "unknown_rank": spec.shape.rank is None}
    dtype = types_pb2.DataType.Name(tf.as_dtype(spec.dtype).as_datatype_enum)
    return {"dtype": dtype, "tensor_shape": shape, "name": name}
