"""Published weights by their tags: where they are, which network of this package takes them, what images they expect.

published_tags.csv holds the facts, which benchmarks/peers/make_tags.py collects. Top-1 accuracies of timm's weights are
those of results/results-imagenet.csv of its repository, of 30 October 2025.
"""

import csv
import dataclasses
import difflib
import fnmatch
import functools
import pathlib
import types
import typing

from resnet_tf.errors import InputError

FILE = pathlib.Path(__file__).with_name("published_tags.csv")
_EXTRA = ("in12k", "in21k", "in22k", "ig1b", "yfcc", "bamboo")  # parts of tags: other data than ImageNet-1k
_LARGEST = 320  # pixels


@dataclasses.dataclass(frozen=True)
class Tag:
    """One published file of weights. None, "" and () mean that the source does not say.

    Attributes:
        tag: its name. timm's are NETWORK.RECIPE_DATA, such as "resnet50d.ra4_e3600_r224_in1k"; those of torchvision
            and keras-hub begin with the library, those of trunks with the method; those of keras.applications are
            classes, such as "ResNet50".
        publisher: "timm", "torchvision", "keras", "keras_hub" or "trunk" for trunks of self-supervised training.
        network: name of the network in the library.
        row: name of the network of this package that has its graph; "" if none has.
        hub: timm: repository on the Hugging Face hub; keras_hub: handle of the preset; trunk: repository on GitHub.
        file: name of the file, in the repository if there is one.
        parameters: trainable parameters of the network with its head.
        gmacs: billions of multiply-accumulates for one image of `size`.
        size: side in pixels of the images in training, and by default in use.
        test_size: side in pixels of the images at which the library tests.
        crop: side of the central crop over the shorter side of the scaled image.
        test_crop: the same at `test_size`.
        crop_mode: "center": the shorter side is scaled and the centre is cropped.
        interpolation: "bilinear" or "bicubic", with antialiasing.
        mean: of red, green and blue in [0, 1].
        std: of red, green and blue in [0, 1].
        classes: outputs; 0 for a trunk without a head.
        licence: SPDX identifier in lower case.
        top1: published top-1 accuracy on ImageNet-1k at `test_size` in percent.
        reason: why the file does not load here; "" if it loads.
    """

    tag: str
    publisher: str
    network: str
    row: str
    hub: str
    file: str
    parameters: int | None
    gmacs: float | None
    size: int
    test_size: int
    crop: float | None
    test_crop: float | None
    crop_mode: str
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int | None
    licence: str
    top1: float | None
    reason: str


def as_text(value) -> str:
    """Return a value of a `Tag` as a cell of the table."""
    if isinstance(value, tuple):
        return " ".join(map(as_text, value))
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else str(value)


def _as_value(kind, text):
    if typing.get_origin(kind) is tuple:
        return tuple(map(float, text.split()))
    if isinstance(kind, types.UnionType):
        kind = kind.__args__[0]
        return kind(text) if text else None
    return kind(text)


@functools.cache
def table() -> dict[str, Tag]:
    """Return {tag: its facts} of all published weights, in the order of the file."""
    kinds = typing.get_type_hints(Tag)
    with FILE.open(newline="", encoding="utf-8") as file:
        tags = [
            Tag(**{name: _as_value(kinds[name], text) for name, text in row.items()}) for row in csv.DictReader(file)
        ]
    return {tag.tag: tag for tag in tags}


def names(pattern: str = "*") -> list[str]:
    """Return the tags that match a shell pattern, such as "resnet50d.*", in the order of the table.

    >>> names("resnet18d.*")
    ['resnet18d.ra2_in1k', 'resnet18d.ra4_e3600_r224_in1k']
    """
    pattern = pattern.removeprefix("timm/")
    return [name for name in table() if fnmatch.fnmatchcase(name, pattern)]


def of_row(row: str) -> list[Tag]:
    """Return the published weights of a network of this package, those that do not load too."""
    return [tag for tag in table().values() if tag.row and are_one(tag.row, row)]


def is_tag(text: str) -> bool:
    """Return whether a text is a published tag, with or without "timm/"."""
    return text.removeprefix("timm/") in table()


@functools.cache
def rows() -> dict[str, str]:
    """Return {name of a network in timm or torchvision: the network of this package with its graph, or ""}."""
    return {tag.network: tag.row for tag in table().values() if tag.publisher in ("timm", "torchvision")}


def knows_network(name: str) -> bool:
    """Return whether timm or torchvision has published weights of a network of this name."""
    return name in rows()


def find(tag: str) -> Tag:
    """Return the facts of published weights.

        >>> find("timm/resnet50d.ra2_in1k").row
        'resnet50_v1d'

    Args:
        tag: a tag, with or without "timm/".

    Raises:
        InputError: there is no such tag; the message names the nearest three.
    """
    name = tag.removeprefix("timm/")
    if name in table():
        return table()[name]
    raise InputError(f"{tag}: no such published weights; the nearest tags are {', '.join(nearest(name))}")


def nearest(name: str) -> list[str]:
    """Return the three tags whose letters are nearest to a name."""
    return difflib.get_close_matches(name, table(), n=3, cutoff=0)


@functools.cache
def best() -> dict[str, Tag]:
    """Return {network of this package: the weights that weights="imagenet" takes}.

    Of timm's weights with the 1,000 classes of ImageNet-1k that load, those with the highest published top-1 accuracy:
    of weights trained on ImageNet-1k alone and tested at 320 pixels or less, since the networks are made for 224; where
    there are none, of the others. Weights whose licence forbids commercial use are not taken unasked. Bottlenecks of
    v1, with their stride in the first 1x1, take the weights of keras.applications.
    """
    found = {}
    for tag in table().values():
        if tag.reason or tag.classes != 1000 or "-nc-" in tag.licence or tag.publisher not in ("timm", "keras"):
            continue
        if tag.row not in found or _rank(tag) > _rank(found[tag.row]):
            found[tag.row] = tag
    for depth in (18, 34):  # basic blocks have no 1x1, so that v1 and v1b are one graph
        if f"resnet{depth}_v1b" in found:
            found[f"resnet{depth}_v1"] = found[f"resnet{depth}_v1b"]
    return found


def _rank(tag):
    more_data = any(part in tag.tag.partition(".")[2] for part in _EXTRA)
    return not more_data and tag.test_size <= _LARGEST, tag.top1 or 0.0


def best_of(row: str) -> Tag:
    """Return the weights that weights="imagenet" takes for a network of this package; see `best`.

        >>> best_of("resnet50_v1d").tag
        'resnet50d.ra4_e3600_r224_in1k'

    Raises:
        InputError: there are none; the message names tags that load when they are named, if there are any.
    """
    if row in best():
        return best()[row]
    others = [tag.tag for tag in table().values() if tag.row == row and not tag.reason]
    hint = f"by name there are {', '.join(others[:3])}" if others else f"only for {', '.join(best())}"
    raise InputError(f"weights=imagenet: none are published for {row}, {hint}")


def check_row(tag: Tag, row: str, flag: str = "weights") -> None:
    """Refuse weights of another network than `row`.

    Raises:
        InputError: the weights do not load at all, or belong to another network, which the message names.
    """
    if tag.reason:
        raise InputError(f"{flag}={tag.tag}: does not load: {tag.reason}")
    if not are_one(tag.row, row):
        raise InputError(f"{flag}={tag.tag}: weights of {tag.row}, not of {row}")


def are_one(row: str, other: str) -> bool:
    """Return whether two names of networks mean the same graph: basic blocks have no 1x1, so v1 is v1b there."""
    names = {name + "b" if name in ("resnet18_v1", "resnet34_v1") else name for name in (row, other)}
    return len(names) == 1
