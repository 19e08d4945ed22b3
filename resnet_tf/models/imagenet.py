"""The classes of ImageNet-1k (ILSVRC 2012), for networks that end in its 1,000 classes."""

import functools
import pathlib

import numpy as np

from resnet_tf.errors import InputError

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


def decode_predictions(probabilities: np.ndarray, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Name the most likely classes of ImageNet-1k, as `keras.applications.imagenet_utils.decode_predictions` does.

        model = resnet_tf.create_model("resnet50_v1d", weights="imagenet")
        probabilities = keras.ops.softmax(model(images))
        for identifier, words, probability in resnet_tf.decode_predictions(probabilities, top=3)[0]:
            print(f"{probability:.0%} {words}")

    Args:
        probabilities: [batch, 1000] in [0, 1], a NumPy array or a tensor.
        top: number of classes to name, 1 to 1,000.

    Returns:
        For each image [(WordNet identifier, words, probability), ...], most likely class first.

    Raises:
        InputError: another shape, values that are not probabilities, or `top` out of range.
    """
    values = np.asarray(probabilities)
    if values.ndim != 2 or values.shape[1] != len(classes()):
        raise InputError(f"probabilities: shape {list(values.shape)}, not [batch, {len(classes())}] as of ImageNet-1k")
    if not ((values >= 0) & (values <= 1)).all():  # logits, or NaN
        raise InputError(
            "probabilities: not in [0, 1]; networks return logits, which keras.ops.softmax turns into them"
        )
    if not 1 <= top <= len(classes()):
        raise InputError(f"top={top}: not in the range 1 to {len(classes())}")
    order = np.argsort(-values, axis=1, kind="stable")[:, :top]
    return [[(*classes()[label], float(row[label])) for label in best] for row, best in zip(values, order, strict=True)]
