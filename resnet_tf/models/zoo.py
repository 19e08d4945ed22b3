"""Networks that this project trained on CIFAR-10, with their weights: `create_model(NAME, weights="cifar10")`.

    resnet_tf/models/cifar10/NAME.safetensors   the weights, under timm's names. Kernels are float16; what batch
                                                normalisation has is float32, since small variances would be lost
    results/zoo.csv                             a row a network: hash, accuracies, command, commit and hardware

The header of a file says what its weights expect of images, which classes they tell apart, and how they were trained; a
file that is copied elsewhere loads by its path. `benchmarks/make_zoo.py` writes files and rows.
"""

import csv
import dataclasses
import hashlib
import json
import pathlib

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.models.weight_files import ABOUT

NAME = "cifar10"  # the value of `weights`
KEY = "training"  # in the description of a network that `weight_files.describe` makes: a `Training`
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = pathlib.Path(__file__).with_name("cifar10")
_FILE = "resnet_tf/models/cifar10/{}.safetensors"
# A wheel has a copy of the table, which setup.py makes; a clone reads its own.
_TABLES = (pathlib.Path(__file__).with_name("zoo.csv"), pathlib.Path(__file__).parents[2] / "results" / "zoo.csv")


@dataclasses.dataclass(frozen=True)
class Training:
    """What a file says of its weights.

    Attributes:
        dataset: name of the data set, "cifar10".
        classes: names of the classes in the order of the outputs.
        size: side in pixels of the square images.
        mean: subtracted from images in levels of 0 to 255: of red, green and blue; or of every pixel, in rows of
            columns of such threes, where the training subtracted its mean image (He et al. 2015).
        std: of red, green and blue in the same levels, by which the differences are divided.
        seed: seed of the training.
        steps: steps of the training.
        command: command of the training.
        commit: commit of the source that trained.
        top1: top-1 accuracy in [0, 1] of the stored weights on the test images; None before they were scored.
        examples: number of these images; None before.
    """

    dataset: str
    classes: tuple[str, ...]
    size: int
    mean: tuple
    std: tuple[float, ...]
    seed: int
    steps: int
    command: str
    commit: str
    top1: float | None = None
    examples: int | None = None

    def metadata(self, description: str) -> dict[str, str]:
        """Return the metadata of a .safetensors: this, in the description of the network by `weight_files.describe`.

        There is one entry, since safetensors writes several in no fixed order, and the same weights shall be one file.
        """
        return {ABOUT: json.dumps(json.loads(description) | {KEY: dataclasses.asdict(self)})}


def table() -> dict[str, dict[str, str]]:
    """Return {name of a network: its row of results/zoo.csv}, in the order of the file; {} without such a file."""
    file = next((path for path in _TABLES if path.is_file()), None)
    if not file:
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {row["model"]: row for row in csv.DictReader(lines)}


def path_of(name: str) -> pathlib.Path:
    """Return the path of the weights of a network.

        >>> path_of("cifar_resnet20_v1").name
        'cifar_resnet20_v1.safetensors'

    Raises:
        InputError: there are none for this network, the installation lacks the file, or it is not the one of the table.
    """
    rows = table()
    if name not in rows:
        known = f"only for {', '.join(rows)}" if rows else "results/zoo.csv has no row yet"
        raise InputError(f"weights={NAME}: none for {name}, {known}")
    path = FOLDER / f"{name}.safetensors"
    if not path.is_file():
        raise InputError(
            f"weights={NAME}: this installation lacks {path.name}, which is {_FILE.format(name)} of the repository; "
            "copy it from there and give its path as weights (--init_from)"
        )
    if sha256(path) != rows[name]["sha256"]:
        raise InputError(f"weights={NAME}: {path}: damaged, or not the file of results/zoo.csv: another SHA-256")
    return path


def sha256(path: str | pathlib.Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def read(path: str | pathlib.Path) -> Training | None:
    """Return what a file says of its weights; None for files of other kinds, or that say nothing.

    Raises:
        InputError: the file is damaged.
    """
    path = pathlib.Path(path)
    if path.suffix != ".safetensors" or not path.is_file():
        return None
    import safetensors

    try:
        with safetensors.safe_open(path, "np") as file:
            about = (file.metadata() or {}).get(ABOUT)
        told = json.loads(about).get(KEY) if about else None
        if not told:
            return None
        told |= {name: _tuples(told[name]) for name in ("classes", "mean", "std")}
        return _checked(Training(**told))
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: damaged ({str(error).splitlines()[0] if str(error) else error!r})") from None


def _tuples(values):
    return tuple(map(_tuples, values)) if isinstance(values, list) else values


def _checked(training):
    mean, std = np.asarray(training.mean, np.float64), np.asarray(training.std, np.float64)
    if mean.shape not in ((3,), (training.size, training.size, 3)) or std.shape != (3,):
        raise ValueError(f"a mean of shape {list(mean.shape)} and a deviation of shape {list(std.shape)}")
    if not (np.isfinite(mean).all() and (std > 0).all()):
        raise ValueError("means or deviations that are no such numbers")
    return training
