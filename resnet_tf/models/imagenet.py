"""The classes of ImageNet-1k (ILSVRC 2012), for networks that end in its 1,000 classes."""

import functools
import pathlib
from collections.abc import Sequence

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models import zoo

# A line a class in the order of labels: WordNet's identifier, a tab, its words. Identifiers are in alphabetical order;
# the words are those of TensorFlow Datasets (Apache License 2.0), which tell cranes and maillots apart.
_FILE = pathlib.Path(__file__).with_name("imagenet_classes.tsv")


@functools.cache
def classes() -> tuple[tuple[str, str], ...]:
    """Return (WordNet identifier, words) of each class in the order of labels.

    >>> classes()[285]
    ('n02124075', 'Egyptian cat')
    """
    lines = _FILE.read_text("utf-8").splitlines()
    return tuple(tuple(line.split("\t")) for line in lines)


@functools.cache
def _labels() -> dict[str, int]:
    """Return {name: label} of WordNet's identifiers, of the words of each class, and of words that one class has."""
    found: dict[str, set[int]] = {}
    for label, (identifier, words) in enumerate(classes()):
        for name in {identifier, words, *words.split(",")}:
            found.setdefault(_plain(name), set()).add(label)
    whole = {_plain(words): label for label, (_, words) in enumerate(classes())}
    return {name: min(labels) for name, labels in found.items() if len(labels) == 1} | whole


def _plain(name):
    return " ".join(name.replace("_", " ").casefold().split())


def is_class(name: str) -> bool:
    """Return whether a name is that of one class of ImageNet-1k; see `labels_of`."""
    return _plain(name) in _labels()


def labels_of(names: Sequence[str]) -> list[int]:
    """Return the label of each named class in ImageNet-1k.

    >>> labels_of(["n02124075", "tench", "English_springer"])
    [285, 0, 217]

    Args:
        names: WordNet's identifiers, or words of a class: all of them as in `classes`, or one that no other class has;
            in any case, and with _ for a blank.

    Raises:
        InputError: some names are not classes of ImageNet-1k, or two name the same class.
    """
    unknown = [name for name in names if not is_class(name)]
    if unknown:
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise InputError(f"not classes of ImageNet-1k (WordNet identifiers or words): {', '.join(unknown[:8])}{more}")
    labels = [_labels()[_plain(name)] for name in names]
    twice = [name for name, label in zip(names, labels, strict=True) if labels.count(label) > 1]
    if twice:
        raise InputError(f"{', '.join(twice[:8])}: name the same class of ImageNet-1k")
    return labels


def decode_predictions(
    probabilities: np.ndarray, top: int = 5, weights: str = "imagenet"
) -> list[list[tuple[str, str, float]]]:
    """Name the most likely classes, as `keras.applications.imagenet_utils.decode_predictions` does.

        model = resnet_tf.create_model("resnet50_v1d", weights="imagenet")
        probabilities = keras.ops.softmax(model(images))
        for identifier, words, probability in resnet_tf.decode_predictions(probabilities, top=3)[0]:
            print(f"{probability:.0%} {words}")

    Args:
        probabilities: [batch, classes] in [0, 1], a NumPy array or a tensor.
        top: number of classes to name, from 1 to all of them.
        weights: "imagenet" for the 1,000 classes of ImageNet-1k, or "cifar10" for the ten of CIFAR-10, as for
            `create_model`.

    Returns:
        For each image [(WordNet identifier, words, probability), ...], most likely class first. Classes of CIFAR-10
        have one name, which is in both places.

    Raises:
        InputError: another shape, values that are not probabilities, or another argument out of range.
    """
    if weights not in ("imagenet", zoo.NAME):
        raise InputError(f"weights={weights}: not one of imagenet, {zoo.NAME}, whose classes are known")
    of, names = ("ImageNet-1k", classes()) if weights == "imagenet" else ("CIFAR-10", [(n, n) for n in zoo.CLASSES])
    values = np.asarray(probabilities)
    if values.ndim != 2 or values.shape[1] != len(names):
        raise InputError(f"probabilities: shape {list(values.shape)}, not [batch, {len(names)}] as of {of}")
    if not ((values >= 0) & (values <= 1)).all():  # logits, or NaN
        raise InputError(
            "probabilities: not in [0, 1]; networks return logits, which keras.ops.softmax turns into them"
        )
    if not 1 <= top <= len(names):
        raise InputError(f"top={top}: not in the range 1 to {len(names)}")
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [[(*names[label], float(row[label])) for label in best] for row, best in zip(values, order, strict=True)]
