"""The settings of the serve command."""

import dataclasses
import re

from resnet_tf.config.fields import setting
from resnet_tf.errors import InputError


@dataclasses.dataclass(frozen=True)
class ServeConfig:
    """Server."""

    model: str = setting(
        "", "Model: a folder of versions, one version, a .tflite, .onnx or .keras file, or a run folder."
    )
    host: str = setting(
        "127.0.0.1", "Address to listen on. 127.0.0.1: this machine alone; 0.0.0.0: everybody who reaches the port."
    )
    port: int = setting(8501, "Port. 0: any free one, which is printed.", low=0, high=65535)
    model_name: str = setting("model", "Name of the model in URLs: /v1/models/NAME:predict.")
    max_megabytes: float = setting(20.0, "Largest image file in megabytes of 1,000,000 bytes.", low=0.001)
    max_pixels: int = setting(
        64_000_000,
        "Largest number of pixels that an image may declare; it is checked before the image is decoded.",
        low=1,
        high=100_000_000,
    )
    batch_size: int = setting(32, "Most images of a batch, from all requests that wait.", low=1)
    batch_timeout_ms: float = setting(
        2.0, "Longest wait of a request for others to share a batch with, in milliseconds.", low=0.0, high=1000.0
    )
    max_waiting: int = setting(256, "Requests answered at a time; more are refused with status 503.", low=1)

    def __post_init__(self):
        """Refuse settings that cannot work."""
        if not self.model:
            raise InputError("--model is not set: the exported model or the run folder to serve")
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", self.model_name):
            raise InputError(f"--model_name={self.model_name}: not letters, digits, and the signs _ . -")
