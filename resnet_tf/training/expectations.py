"""Compare the images of a training with those that the weights of --init_from expect."""

import numpy as np

from resnet_tf import config as configuration
from resnet_tf.data import colour
from resnet_tf.models import preprocessing
from resnet_tf.runs import network

# The channels of photographs have a mean within a quarter of a deviation of the constants of ImageNet, and a deviation
# within 1.3 times; "inception" has 2.2 times.
_MEANS, _DEVIATIONS = 0.25, 1.3


def warning(config, normalization, was_chosen: bool = False) -> str:
    """Return a sentence that names the flags by which images become what the weights of --init_from expect.

    Args:
        config: the configuration of a training of any task.
        normalization: the `colour.Normalization` of the training.
        was_chosen: whether sizes were chosen to suit the device, and are not to be named.

    Returns:
        "" where nothing differs, or the weights do not say: runs, exported models and files.
    """
    origin = config.model.init_from
    if not origin or network.locate("init_from", origin) != "weights":
        return ""
    views = [network.expected_of("init_from", origin, tested) for tested in (False, True)]
    if views[0] is None:
        return ""
    parts = [_of_levels(config, normalization, views[0]), _of_scaling(config, views[0])]
    parts += [] if was_chosen else [_of_sizes(config, views)]
    parts = [part for part in parts if part]
    return f"--init_from={origin}: its weights expect other images than they get: {'; '.join(parts)}" if parts else ""


def _of_levels(config, normalization, expected):
    mean, theirs = (np.reshape(one.mean, (-1, 3)).mean(0) for one in (normalization, expected))  # of mean images too
    std = np.broadcast_to(normalization.std, 3)
    shift = np.abs(mean - theirs) / expected.std
    factor = np.exp(np.abs(np.log(std / np.asarray(expected.std))))
    if shift.max() <= _MEANS and factor.max() <= _DEVIATIONS:
        return ""
    told = f"mean {_levels(theirs)} and deviation {_levels(expected.std)}"
    told += f", not {_levels(mean)} and {_levels(std)}"
    kind = preprocessing.name_of(expected.mean)
    known = configuration.fields_of(type(config))["normalization"].metadata["choices"]
    shares_constants = np.abs(theirs - colour.PUBLISHED[kind].mean).max() < 1
    has_flag = shares_constants and kind in known and kind != config.data.normalization
    return f"--normalization={kind} ({told})" if has_flag else f"{told}, which no --normalization gives"


def _levels(values):
    texts = [f"{value:.3g}" for value in np.asarray(values)]
    return texts[0] if len(set(texts)) == 1 else " ".join(texts)


def _of_scaling(config, expected):
    ours = getattr(config.data, "interpolation", None)
    if ours is None or not configuration.is_used(type(config), "interpolation", configuration.settings_of(config)):
        return ""
    way = expected.interpolation
    return "" if (ours or "bilinear") == way else f"--interpolation={way}"


def _of_sizes(config, views):
    """Name the size and the crop of training unless those of evaluation are these, or those of the weights' test."""
    if config.task != "classification" or config.views.view == "pad_crop":
        return ""  # other tasks see whole images, and small images are held as they are
    size = configuration.evaluation_size(config.data)
    resize = config.data.resize or size
    if (size, resize) in [(view.size, view.resize) for view in views]:
        return ""
    return f"--image_size={views[0].size} --resize={views[0].resize}"
