"""Folders of weights in the layout of the Hugging Face hub, as timm reads and writes them.

    config.json         the network, its classes and its preprocessing, under timm's keys
    model.safetensors   the weights, under timm's names
    README.md           what the hub shows of them

Folders in the layout of keras-hub are read too; see `keras_hub`.

`timm.create_model("local-dir:FOLDER")`, or "hf-hub:OWNER/NAME" after the folder is uploaded, builds the network.
"""

import dataclasses
import json
import pathlib

from resnet_tf.errors import InputError
from resnet_tf.models import architectures, keras_hub, preprocessing, published

CONFIG, WEIGHTS, README = "config.json", "model.safetensors", "README.md"


@dataclasses.dataclass(frozen=True)
class Folder:
    """What config.json says.

    Attributes:
        row: name of the network of this package.
        classes: number of outputs; 0 for a trunk without a head.
        labels: names of the classes in the order of the outputs; () if it does not say.
        expected: the preprocessing; None if a folder of keras-hub does not say.
        tested: the same with the size and the crop at which the weights were tested, if they are told.
    """

    row: str
    classes: int
    labels: tuple[str, ...]
    expected: preprocessing.Preprocessing | None
    tested: preprocessing.Preprocessing | None


def is_folder(path: str | pathlib.Path) -> bool:
    """Return whether a path is a folder in this layout, or in that of keras-hub."""
    is_own = (pathlib.Path(path) / CONFIG).is_file() and (pathlib.Path(path) / WEIGHTS).is_file()
    return is_own or keras_hub.is_folder(path)


def read(path: str | pathlib.Path) -> Folder:
    """Read config.json of a folder, or what the folder of keras-hub has beside its own.

    Raises:
        InputError: it is damaged, or its network is not one of this package.
    """
    if keras_hub.is_folder(path):
        row, classes, expected = keras_hub.read(path)
        return Folder(row, classes, (), expected, expected)
    file = pathlib.Path(path) / CONFIG
    try:
        config = json.loads(file.read_text("utf-8"))
        expected = config.get("pretrained_cfg", config)  # files of old releases of timm have one level
        architecture = str(config["architecture"])
        views = [_view(expected, expected["input_size"], expected["crop_pct"])]
        size = expected.get("test_input_size") or expected["input_size"]
        views.append(_view(expected, size, expected.get("test_crop_pct") or expected["crop_pct"]))
        classes, labels = int(config["num_classes"]), tuple(map(str, config.get("label_names") or ()))
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, ZeroDivisionError) as error:
        raise InputError(f"{file}: damaged, or not of timm ({error!r})") from None
    return Folder(_row_of(architecture, file), classes, labels, *views)


def _view(expected, size, crop):
    mean, std = (tuple(round(255 * float(value), 3) for value in expected[name]) for name in ("mean", "std"))
    side = int(size[1])
    # The share of a crop that timm stores is exact; a quotient of two whole numbers may be a little too large.
    shorter = preprocessing.scaled(side, float(crop) * (1 - 1e-12))
    return preprocessing.Preprocessing(mean, std, side, shorter, str(expected["interpolation"]))


def _row_of(architecture, file):
    try:
        return architectures.of_timm(architecture)
    except InputError:
        raise InputError(f"{file}: architecture {architecture}: no network here has its graph") from None


def weights_in(path: str | pathlib.Path, name: str) -> pathlib.Path:
    """Return the file of weights in a folder.

    Raises:
        InputError: the folder is of another network than `name`; the message names it.
    """
    row = read(path).row
    if not published.are_one(row, name):
        raise InputError(f"{path}: weights of {row}, not of {name}")
    return pathlib.Path(path) / WEIGHTS


def timm_name(name: str) -> str:
    """Return timm's name of a network of this package.

        >>> timm_name("resnet50_v1d"), timm_name("resnet50_v2")
        ('resnet50d', 'resnetv2_50')

    Raises:
        InputError: timm has no such network.
    """
    architectures.find(name)
    basic = {"resnet18_v1": "resnet18_v1b", "resnet34_v1": "resnet34_v1b"}  # without a 1x1, one graph
    if theirs := architectures.name_in_timm(basic.get(name, name)):
        return theirs
    raise InputError(f"--format=hub: timm has no {name}")
