"""Clients for models on a TensorFlow Serving server, by REST or gRPC.

They send encoded images to the signature serving_default, after a check of the model's state; docs/serving.md describes
the requests.
"""

import base64
import http.client
import json
import urllib.error
import urllib.parse
import urllib.request

import numpy as np
import tensorflow as tf

from resnet_tf.errors import InputError
from resnet_tf.serving import runtimes

_SIGNATURE = "serving_default"


def connect(address: str, model: str, timeout: float = 60.0, top_k: int = 0):
    """Connect to a model on a server.

    Args:
        address: http://HOST:PORT or https://... for REST, grpc://HOST:PORT or HOST:PORT for gRPC.
        model: name of the model on the server.
        timeout: longest time to wait for a response, in seconds.
        top_k: number of classes per prediction; 0 for as many as the model returns.

    Returns:
        A `Rest` or a `Grpc`, with the same methods as a `runtimes.SavedModel`.

    Raises:
        InputError: the address is invalid, the server does not answer as TensorFlow Serving does, or it does not have
            the model.
    """
    scheme = address.rpartition("://")[0]
    if scheme in ("http", "https"):
        return Rest(address.rstrip("/"), model, timeout, top_k)
    if scheme in ("", "grpc"):
        return Grpc(address.rstrip("/"), model, timeout, top_k)
    raise InputError(f"--server={address}: not http://, https://, grpc:// or HOST:PORT")


class Rest(runtimes.Encoded):
    """A model on a server, by REST: JSON with images in base64."""

    def __init__(self, address, model, timeout=60.0, top_k=0):
        """See `connect`."""
        super().__init__(top_k)
        self._address, self._model, self._timeout = address, model, timeout
        self._url = f"{address}/v1/models/{urllib.parse.quote(model)}"
        try:
            states = [version["state"] for version in self._request(self._url)["model_version_status"]]
        except (KeyError, TypeError):
            raise InputError(f"--server={address}: it does not answer as TensorFlow Serving does") from None
        _check_state(model, address, states)

    def classify(self, encoded: list[bytes]) -> list[list[tuple[str, float]]]:
        """See `runtimes.SavedModel.classify`; raises InputError if the server cannot be reached."""
        instances = [{"image_bytes": {"b64": base64.b64encode(content).decode()}} for content in encoded]
        response = self._request(f"{self._url}:predict", {"signature_name": _SIGNATURE, "instances": instances})
        try:
            rows = response["predictions"]
            classes, scores = ([row[name] for row in rows] for name in ("classes", "scores"))
            return self.named(classes, scores, len(rows[0]["probabilities"]))
        except (KeyError, TypeError, IndexError):
            raise InputError(f"--server={self._address}: the model there has no such outputs as ours") from None

    def _request(self, url, body=None):
        """Send a GET request, or a POST request with a body, and return the JSON of the response."""
        data = None if body is None else json.dumps(body).encode()
        try:
            request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
            with urllib.request.urlopen(request, timeout=self._timeout) as response:
                return json.load(response)
        except urllib.error.HTTPError as error:
            message = _message(error)
            if error.code in (400, 413):  # a bad image, or too many for one request
                raise runtimes.Refused(message) from None
            if error.code == 404:
                raise InputError(f"--model_name={self._model}: {self._address} says: {message}") from None
            raise self._error(message) from None
        except TimeoutError:
            raise self._error(f"no answer in {self._timeout:g} s (--timeout)") from None
        except urllib.error.URLError as error:
            timed_out = isinstance(error.reason, TimeoutError)
            reason = f"no answer in {self._timeout:g} s (--timeout)" if timed_out else error.reason
            raise self._error(f"cannot be reached ({reason})") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._error(f"it does not answer as TensorFlow Serving does ({error})") from None

    def _error(self, reason):
        return InputError(f"--server={self._address}: {reason}")


def _message(error):
    """Return the message in the body of an HTTP error."""
    body = error.read().decode(errors="replace")
    try:
        return json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return f"{error.code} {error.reason}"


class Grpc(runtimes.Encoded):
    """A model on a server, by gRPC: protocol buffers with encoded images."""

    def __init__(self, address, model, timeout=60.0, top_k=0):
        """See `connect`."""
        import grpc
        from tensorflow_serving.apis import (
            get_model_status_pb2,
            model_service_pb2_grpc,
            predict_pb2,
            prediction_service_pb2_grpc,
        )

        super().__init__(top_k)
        self._grpc, self._address, self._model, self._timeout = grpc, address, model, timeout
        self._messages = predict_pb2
        # A response holds the probabilities of all classes, which may exceed gRPC's default limit of 4 MB.
        channel = grpc.insecure_channel(address.removeprefix("grpc://"), [("grpc.max_receive_message_length", -1)])
        self._service = prediction_service_pb2_grpc.PredictionServiceStub(channel)
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        status = self._request(model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus, request)
        state = get_model_status_pb2.ModelVersionStatus.State
        _check_state(model, address, [state.Name(version.state) for version in status.model_version_status])

    def classify(self, encoded: list[bytes]) -> list[list[tuple[str, float]]]:
        """See `runtimes.SavedModel.classify`; raises InputError if the server cannot be reached."""
        request = self._messages.PredictRequest()
        request.model_spec.name, request.model_spec.signature_name = self._model, _SIGNATURE
        request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(encoded))
        outputs = self._request(self._service.Predict, request).outputs
        if not {"classes", "scores", "probabilities"} <= set(outputs):
            raise InputError(f"--server={self._address}: the model there has no such outputs as ours")
        classes, scores = (tf.make_ndarray(outputs[name]) for name in ("classes", "scores"))
        all_classes = outputs["probabilities"].tensor_shape.dim[1].size
        return self.named([[name.decode() for name in np.atleast_1d(row)] for row in classes], scores, all_classes)

    def _request(self, method, request):
        codes = self._grpc.StatusCode
        try:
            return method(request, timeout=self._timeout)
        except self._grpc.RpcError as error:
            code, details = error.code(), error.details()
            if code == codes.INVALID_ARGUMENT:
                raise runtimes.Refused(details) from None
            if code == codes.NOT_FOUND:
                raise InputError(f"--model_name={self._model}: {self._address} says: {details}") from None
            reason = {
                codes.UNAVAILABLE: f"cannot be reached ({details})",
                codes.DEADLINE_EXCEEDED: f"no answer in {self._timeout:g} s (--timeout)",
            }.get(code, f"{code.name}: {details}")
            raise InputError(f"--server={self._address}: {reason}") from None


def _check_state(model, address, states):
    if "AVAILABLE" not in states:
        listed = ", ".join(states) or "no version"
        raise InputError(f"--model_name={model}: {address} does not have it ready ({listed})")
