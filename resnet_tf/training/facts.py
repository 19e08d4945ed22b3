"""What choices depend on: the sizes of the images, the devices, and whether published weights are at hand."""

import io
import os
import socket
import subprocess
import urllib.parse
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from resnet_tf.data import orientation
from resnet_tf.data.examples import Examples
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.models import fetching, published
from resnet_tf.runs import devices

_MEASURED = 256  # images whose sizes are looked at first
_GPU_BYTES = 8 * 2**30  # assumed where the memory of a GPU is not known


class Facts(NamedTuple):
    """What the choices depend on.

    Attributes:
        images: number of training images.
        side: median of the shorter sides of the images in pixels.
        size: (height, width) of all images; None if they differ.
        on_gpu: whether the training runs on GPUs.
        replicas: number of replicas.
        memory: bytes of the memory of the smallest GPU; 0 without one.
        half: whether the GPUs are fast in 16 bits.
        weights: value of --init_from; "" for none.
    """

    images: int
    side: int
    size: tuple[int, int] | None
    on_gpu: bool
    replicas: int
    memory: int
    half: bool
    weights: str


def of(train: Split | Examples, replicas: int, init_from: str) -> Facts:
    """Look at a training split and at the devices.

    Args:
        train: the training split.
        replicas: number of replicas that the user wants; 0 for all GPUs, or one.
        init_from: value of --init_from.

    Raises:
        InputError: none of the images can be read.
    """
    on_gpu = devices.has_gpu()
    gpus = tf.config.list_physical_devices("GPU") if on_gpu else []
    capability = [tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus]
    sizes = _sizes(train, np.sort(np.random.default_rng(0).permutation(len(train))[:_MEASURED]))
    if on_gpu and _are_equal(sizes) and len(train) > len(sizes):
        sizes = _sizes(train, np.arange(len(train)))  # one other image is enough
    return Facts(
        images=len(train),
        side=int(np.median(sizes.min(axis=1))),
        size=tuple(sizes[0].tolist()) if _are_equal(sizes) else None,
        on_gpu=on_gpu,
        replicas=replicas or max(1, len(gpus)),
        memory=_memory() if on_gpu else 0,
        half=on_gpu and min(capability) >= (7, 0),
        weights=init_from,
    )


def _are_equal(sizes):
    return bool((sizes == sizes[0]).all())


def _sizes(split, indices):
    """Return height and width of images as they are seen, int [n, 2]; without those that cannot be read."""
    if isinstance(split, Split):
        return np.array([split.images.shape[1:3]])
    from PIL import Image, UnidentifiedImageError

    sizes = []
    for index in indices.tolist():
        try:
            with Image.open(io.BytesIO(split.read(index))) as image:
                sizes.append(image.size if orientation.is_sideways(image) else image.size[::-1])
        except (InputError, UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError):
            continue  # training names it, or skips it
    if not sizes:
        raise InputError(f"--data_dir: none of {len(indices)} images can be read, such as {split.name(0)}")
    return np.array(sizes)


def _memory():
    """Return the bytes of memory of the smallest GPU; an assumption where the driver does not say."""
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        return min(int(line) for line in answer.split()) * 2**20
    except (OSError, ValueError, subprocess.SubprocessError):
        return _GPU_BYTES


def get_published(name: str) -> None:
    """Download the published weights of a network, unless they are in the cache.

    Raises:
        InputError: there are none, or they cannot be had.
    """
    if not _can_download(name):
        raise InputError("their server cannot be reached")
    fetching.fetch(name)


def _can_download(name):
    """Return whether published weights are in the cache or their server answers; its client would try for 24 s."""
    try:
        import huggingface_hub
    except ImportError:
        return True  # `fetch` says what to install
    tag = published.best().get(name)
    has_proxy = any(os.environ.get(key) for key in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"))
    if tag is None or tag.publisher != "timm" or has_proxy:
        return True
    if isinstance(huggingface_hub.try_to_load_from_cache(tag.hub, tag.file), str):
        return True
    host = urllib.parse.urlsplit(huggingface_hub.constants.ENDPOINT).hostname
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True
