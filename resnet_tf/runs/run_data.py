"""The data of a run: its splits, what training and evaluation see of an image, and the normalization."""

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

_STATISTICS_EXAMPLES = 4096  # of a streamed set, whose mean and deviation are estimated
STREAM_ERRORS = (
    tf.errors.InvalidArgumentError,
    tf.errors.DataLossError,
    tf.errors.NotFoundError,
    UnicodeDecodeError,  # where TensorFlow's message quotes bytes that are no text
)


def load(config):
    """The data of a `TrainConfig`.

    Args:
        config: a `TrainConfig`.

    Returns:
        A `splits.Source`, its splits in memory for --view=pad_crop and encoded for the others; and the images left
        out, (name, reason) each.

    Raises:
        InputError: data that are missing, damaged or too large; more bad images than --skip_bad_images.
    """
    data = config.data
    refuse_given(data)
    common = {
        "dataset": data.dataset,
        "data_dir": data.data_dir,
        "classes": data.classes,
        "validation_examples": data.validation_examples,
        "validation_sampling": data.validation_sampling,
        "tfds_name": data.tfds_name,
        "exif": data.exif,
    }
    if config.views.view == "pad_crop":
        source = sources.load(image_size=data.image_size, **common)
        _log.info("%s", source)
        return source, []
    source, skipped = sources.index(**common), []
    _log.info("%s", source)
    if data.skip_bad_images:
        splits = {}
        for name, examples in source.splits.items():
            splits[name], bad = verify.verify(examples, data.skip_bad_images - len(skipped))
            skipped += bad
        source = dataclasses.replace(source, splits=splits)
    return source, skipped


def refuse_given(data):
    """Refuse to read data that were given from Python, with an InputError.

    Args:
        data: the section of data of a run of any task.
    """
    if data.dataset == GIVEN:
        raise InputError(f"--dataset={GIVEN}: the data were given from Python to `fit`, and cannot be read here")


def of_run(run, data_dir=""):
    """The data of a run.

    Args:
        run: a `record.Run`.
        data_dir: where they are now; "" for where they were in training.

    Returns:
        The run's `TrainConfig` with that folder; a `splits.Source`.

    Raises:
        InputError: data that are missing or damaged, or whose classes are not those of the run.
    """
    config = run.config
    if data_dir:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, data_dir=data_dir))
    source, _ = load(config)
    if list(source.classes) != run.manifest["classes"]:
        raise InputError(
            f"--data_dir={config.data.data_dir}: its classes are not those that {run.folder} was trained on"
        )
    return config, source


def write_skipped(folder, skipped):
    """Name in skipped.csv of a run's folder what was left out; nothing where nothing was."""
    if skipped:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([("image", "reason"), *skipped])
        files.replace_atomically(folder / "skipped.csv", lambda file: file.write(text.getvalue().encode()))


def training_view(config):
    """The training view that a `TrainConfig` describes; None for a set that lives on the device."""
    views, size = config.views, config.data.image_size
    if views.view == "pad_crop":
        return None
    return geometry.View(views.view, size, views.area, views.aspect, views.scale, views.mirror)


def normalization(kind, split, size, resize=0):
    """Return the normalization of a training split; estimated on 4,096 of its examples where it is streamed.

    Args:
        kind: a value of --normalization.
        split: a `Split` or an `Examples`.
        size: height and width in pixels of the central crops that statistics of a stream are taken of.
        resize: shorter side in pixels before the crop; 0 for that of the crop.

    Returns:
        A `colour.Normalization`.
    """
    if kind in colour.PUBLISHED:
        return colour.PUBLISHED[kind]
    if isinstance(split, Split):
        return colour.normalization(kind, split.images)
    return colour.normalization(kind, sample(split, _STATISTICS_EXAMPLES, size, resize))


def normalization_of(config, split):
    """Return the `colour.Normalization` of a `TrainConfig`, by the views of its evaluation; see `normalization`."""
    data = config.data
    return normalization(data.normalization, split, evaluation_size(data), data.resize)


def sample(split, count, size, resize=0):
    """Return central crops of some images of a split, the same ones every time: uint8 [n, size, size, 3]."""
    # Not the run's seed: runs with different seeds must share what they are evaluated with.
    chosen = np.sort(np.random.default_rng(0).permutation(len(split))[:count])
    if isinstance(split, Split):
        return split.images[chosen]
    views = batches.testing(split.take(chosen), lambda data, box: geometry.center(data, size, resize, box), batch=1)
    with named_errors(split):
        return np.concatenate([view["pixels"].numpy() for view in views])


@contextlib.contextmanager
def named_errors(split, servers=()):
    """Where a stream fails, say which image it is.

    Raises:
        InputError: names the first bad image of the split.
        signals.Stopped: a data server was started anew and knows nothing of this stream.
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
