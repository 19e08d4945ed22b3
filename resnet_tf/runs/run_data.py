"""The data of a run: splits, training view, normalization, and clear errors for bad images."""

import contextlib
import csv
import dataclasses
import io
import logging

import numpy as np
import tensorflow as tf

from resnet_tf import files
from resnet_tf.config import GIVEN, evaluation_size
from resnet_tf.data import batches, colour, geometry, images, sources, verify
from resnet_tf.data.splits import Split
from resnet_tf.errors import InputError
from resnet_tf.runs import signals

_log = logging.getLogger(__name__)

SPLIT_FILE = "split.csv"  # in a run folder: file, label and split of each image
_STATISTICS_EXAMPLES = 4096  # examples for estimating mean and deviation of a streamed set
STREAM_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,  # if TensorFlow's message quotes bytes that are not text
)


def load(config) -> tuple:
    """Load the data of a `TrainConfig`.

    Returns:
        A `splits.Source`, decoded in memory for --view=pad_crop and encoded for other views; the skipped images, a list
        of (name, reason).

    Raises:
        InputError: data that are missing, damaged or too large; more bad images than --skip_bad_images.
    """
    data = config.data
    refuse_given(data)
    names = (
        "dataset", "data_dir", "classes", "validation_examples", "validation_sampling", "tfds_name", "exif", "labels",
        "validation_share", "test_share", "split_seed", "val_is", "fold",
    )  # fmt: skip
    common = {name: getattr(data, name) for name in names}
    if config.views.view == "pad_crop":
        return sources.load(image_size=data.image_size, **common), []
    source, skipped = sources.index(**common), []
    if data.skip_bad_images:
        splits = {}
        for name, examples in source.splits.items():
            splits[name], bad = verify.verify(examples, data.skip_bad_images - len(skipped))
            skipped += bad
        source = dataclasses.replace(source, splits=splits)
    return source, skipped


def balanced(split):
    """Return a split in which each class is as frequent as the largest one, by repeated examples.

    Args:
        split: a `Split` or an `Examples`.
    """
    counts = np.bincount(split.labels)
    order = np.argsort(split.labels, kind="stable")
    starts = np.cumsum(counts) - counts
    most = np.arange(counts.max())
    parts = [order[start + most % count] for start, count in zip(starts, counts, strict=True) if count]
    return split.take(np.sort(np.concatenate(parts)))


def held_out(splits) -> str:
    """Return the name of the split that training evaluates on: "validation" if there is one, else "test"."""
    return "validation" if "validation" in splits else "test"


def scored(splits) -> str:
    """Return the name of the split that is scored where none is named: "test" if there is one, else "validation"."""
    return "test" if "test" in splits or "validation" not in splits else "validation"


def refuse_given(data) -> None:
    """Refuse, with an InputError, a data section of any task whose data were passed from Python."""
    if data.dataset == GIVEN:
        raise InputError(f"--dataset={GIVEN}: the data were given from Python to `fit`, and cannot be read here")


def of_run(run, data_dir: str = "") -> tuple:
    """Load the data of a classification run, from `data_dir` if it is not "".

    Returns:
        The `TrainConfig` of the run with that folder; a `splits.Source`.

    Raises:
        InputError: data that are missing or damaged, or have other classes than the run.
    """
    config = run.config
    if data_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir))
    source, _ = load(as_recorded(config, run.folder))
    _log.info("%s", source)
    if list(source.classes) != run.manifest["classes"]:
        where = config.data.data_dir
        raise InputError(f"--data_dir={where}: its classes are not those that {run.folder} was trained on")
    return config, source


def as_recorded(config, folder):
    """Return a configuration that reads the split which the run in a folder recorded, if it did.

    Images that came since do not change the split then, and near-duplicates are not looked for again.
    """
    path = folder / SPLIT_FILE
    if not path.exists():
        return config
    data = dataclasses.replace(config.data, labels=str(path), validation_share=0.0, test_share=0.0)
    return dataclasses.replace(config, data=data)


def write_skipped(folder, skipped: list[tuple[str, str]]) -> None:
    """List skipped images, (name, reason), in skipped.csv of a run folder; write no file if there are none."""
    if skipped:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("image", "reason"), *skipped])
        files.replace_atomically(folder / "skipped.csv", lambda file: file.write(text.getvalue().encode()))


def training_view(config) -> geometry.View | None:
    """Return the training view of a `TrainConfig`; None for a data set held on the device."""
    views, size = config.views, config.data.image_size
    if views.view == "pad_crop":
        return None
    return geometry.View(views.view, size, views.area, views.aspect, views.scale, views.mirror)


def alternates(config) -> bool:
    """Return whether a training of any task mirrors each image in every other epoch."""
    return getattr(config.views, "mirroring", "random") == "alternate"


def normalization(kind: str, split, size: int, resize: int = 0, interpolation: str = "") -> colour.Normalization:
    """Return the normalization of a training split, estimated on 4,096 examples if the split is streamed.

    Args:
        kind: a value of --normalization.
        split: a `Split` or an `Examples`.
        size: side in pixels of the central crops for the statistics of a streamed split.
        resize: shorter side in pixels before the crop; 0 for the side of the crop.
        interpolation: see `images.resize_center`.
    """
    if kind in colour.PUBLISHED:
        return colour.PUBLISHED[kind]
    if isinstance(split, Split):
        return colour.normalization(kind, split.images)
    return colour.normalization(kind, sample(split, _STATISTICS_EXAMPLES, size, resize, interpolation))


def normalization_of(config, split) -> colour.Normalization:
    """Return the normalization of a `TrainConfig`, estimated on evaluation crops; see `normalization`."""
    data = config.data
    return normalization(data.normalization, split, evaluation_size(data), data.resize, data.interpolation)


def sample(split, count: int, size: int, resize: int = 0, interpolation: str = "") -> np.ndarray:
    """Return central crops of at most `count` images of a split, always the same: uint8 [n, size, size, 3]."""
    # A fixed seed, not that of the run: runs with different seeds share their normalization.
    indices = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    if isinstance(split, Split):
        return split.images[indices]

    def center(data, box):
        return geometry.center(data, size, resize, box, interpolation)

    views = batches.testing(split.take(indices), center, batch=1)
    with named_errors(split):
        return np.concatenate([view["pixels"].numpy() for view in views])


@contextlib.contextmanager
def named_errors(split, servers=()):
    """Turn errors of a stream into errors that name the bad image.

    Raises:
        InputError: names the first bad image of the split.
        signals.Stopped: a data server was restarted and does not know this stream.
    """
    try:
        yield
    except STREAM_ERRORS as error:
        if servers and "dispatcher" in str(error):
            raise signals.Stopped(
                f"--data_service={','.join(servers)}: a data server was started anew; the same command goes on from "
                "the last checkpoint"
            ) from None
        if not isinstance(split, Split):
            verify.verify(split, 0)
            verify.annotations(split)
        if "too many pixels:" in str(error):
            raise InputError(f"--scales: an image would have over {images.MAX_PIXELS} pixels") from None
        raise
