"""Get files of published weights: from the cache or the network, by their tags."""

import pathlib

from resnet_tf.errors import InputError
from resnet_tf.models import published, zoo
from resnet_tf.models.weight_files import SUFFIXES, first_line


def locate(name: str, source: str | pathlib.Path) -> str | pathlib.Path:
    """Return the path of a file of weights.

    Args:
        name: the network that is to take them.
        source: "imagenet" for the best published weights of the network; "cifar10" for those of `zoo`; a published tag,
            with or without "timm/"; or a path, which is returned as it is. A file of the name of a tag comes first.

    Raises:
        InputError: no such weights, weights of another network, or a file that cannot be had.
    """
    text = str(source)
    if text == "imagenet":
        return fetch(published.best_of(name), text)
    if text == zoo.NAME:
        return zoo.path_of(name)
    if pathlib.Path(text).exists() or not looks_like_tag(text):
        return source
    tag = published.find(text)
    published.check_row(tag, name)
    return fetch(tag, text)


def looks_like_tag(text: str) -> bool:
    """Return whether a text that names no file is meant as a published tag: known, or written as one of timm's."""
    if published.is_tag(text) or text.startswith("timm/"):
        return True
    if "/" in text or text.endswith(SUFFIXES):
        return False
    network, dot, _ = text.partition(".")
    return bool(dot) and published.knows_network(network)


def fetch(tag: published.Tag | str, asked: str = "imagenet") -> str:
    """Download published weights, unless they are in the client's cache; return the path of the file.

    Those of keras-hub are folders.

    Args:
        tag: the weights, or the name of a network for its best ones.
        asked: value of `weights`, for messages.

    Raises:
        InputError: they cannot be had; the message says which file to copy from another machine.
    """
    if isinstance(tag, str):
        tag = published.best_of(tag)
    try:
        return _CLIENTS[tag.publisher](tag)
    except ImportError:
        needed = "kagglehub: pip install kagglehub" if tag.publisher == "keras_hub" else _NEEDED
        raise InputError(f"weights={asked}: needs {needed}") from None
    except Exception as error:  # each client has its own exceptions for a missing network
        source = f"{tag.hub}/{tag.file}" if tag.hub else tag.file
        what = f"folder of {tag.hub}" if tag.publisher == "keras_hub" else f"file {tag.file}"
        raise InputError(
            f"weights={asked}: {source} of {_NAMES[tag.publisher]} cannot be downloaded ({first_line(error)}); without "
            f"a network, copy the {what} from another machine and give its path as weights (--init_from, --source)"
        ) from None


def _from_hub(tag):
    from huggingface_hub import hf_hub_download

    return hf_hub_download(tag.hub, tag.file)


def _from_kaggle(tag):
    """Return the folder of a preset of keras-hub."""
    import kagglehub

    return kagglehub.model_download(tag.hub)


def _from_keras(tag):
    import keras

    applications = keras.src.applications.resnet
    digest = applications.WEIGHTS_HASHES[tag.tag.lower()][0]
    return keras.utils.get_file(
        tag.file, applications.BASE_WEIGHTS_PATH + tag.file, cache_subdir="models", file_hash=digest
    )


def _by_hand(tag):
    if tag.publisher == "torchvision":
        raise OSError("timm's tags tv_in1k and tv2_in1k are the same weights and can be")
    raise OSError("its repository names the address")


_NEEDED = "huggingface_hub: pip install 'resnet_tf[convert]'"
_CLIENTS = {
    "timm": _from_hub, "keras": _from_keras, "keras_hub": _from_kaggle, "torchvision": _by_hand, "trunk": _by_hand,
}  # fmt: skip
_NAMES = {
    "keras_hub": "Kaggle",
    "timm": "the Hugging Face hub",
    "keras": "keras.applications",
    "torchvision": "torchvision",
    "trunk": "GitHub",
}
