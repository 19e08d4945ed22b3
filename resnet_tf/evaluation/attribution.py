"""What of an image a trained network answers to: its feature maps, and Grad-CAM.

Images come the way they come in evaluation and serving, and the network computes in float32.
`activations` and `grad_cam` return plain figures, `draw_activations` and `draw_grad_cam` draw them.
"""

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.config import evaluation_size
from resnet_tf.data import colour, images, orientation
from resnet_tf.data.splits import listed
from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics, pictures
from resnet_tf.models import inside
from resnet_tf.runs import restore

_INCHES = 1.1  # a feature map's side


@dataclasses.dataclass(frozen=True)
class Subject:
    """The network of a run.

    Attributes:
        model: from normalised images to logits, in float32.
        normalization: a `colour.Normalization`.
        classes: their names.
        size: height and width of evaluation's view in pixels.
        resize: its shorter side before the central crop in pixels; 0 for `size`.
        exif: what is done with orientation tags; see `orientation.treated`.
    """

    model: keras.Model
    normalization: colour.Normalization
    classes: list[str]
    size: int
    resize: int
    exif: str = "apply"

    def view(self, path):
        """The view of evaluation and serving of an image file: uint8 [size, size, 3].

        Raises:
            InputError: no such file, or not an image; names it.
        """
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        data = orientation.treated(self.exif)(tf.constant(images.readable(data, str(path)))).numpy()
        return images.resize_center(images.decode(data, str(path)), self.size, self.resize).numpy()


def load(folder, weights="raw"):
    """The `Subject` of a run.

    Args:
        folder: of the run.
        weights: "raw", "ema" or "best", as in `restore`.

    Raises:
        InputError: no such run, or one without a checkpoint.
    """
    run, values, normalization = restore.load(folder, weights)
    model = restore.build_model(run, values, weights, precision="float32")
    data = run.config.data
    return Subject(model, normalization, list(run.manifest["classes"]), evaluation_size(data), data.resize, data.exif)


def _asked(settings, paths, kind):
    """The picture to write, the subject, and the views of all files."""
    out = pictures.check(settings.out, "analyze")
    if not settings.run:
        raise InputError("--run is not set: the folder of the run to look into")
    if not paths:
        raise InputError(f"no image was named: analyze {kind} FILE --run=RUN --out=FILE")
    subject = load(settings.run, settings.weights)
    return out, subject, [subject.view(path) for path in paths]


# --- Feature maps ----------------------------------------------------------------------------------------------------


def analyse_activations(settings, paths):
    """Draw the feature maps of an image.

    Args:
        settings: a `config.AnalyzeConfig`.
        paths: of one image.

    Returns:
        {"out", "run", "image", "layers": stages, "channels": of each}.

    Raises:
        InputError: not one image, or none that can be decoded; no such run.
    """
    if len(paths) > 1:
        raise InputError(f"{paths[1]}: a second image; activations draws one")
    out, subject, views = _asked(settings, paths, "activations")
    found = activations(subject, views[0], settings.channels)
    pictures.write(out, draw_activations(views[0], found))
    return {
        "out": str(out),
        "run": settings.run,
        "image": str(paths[0]),
        "layers": len(found),
        "channels": [len(maps) for maps in found.values()],
    }


def activations(subject, view, channels=8):
    """The feature maps that answer most strongly to an image, where each stage ends; see `inside.stage_ends`.

    Args:
        subject: a `Subject`.
        view: uint8 [height, width, 3], such as `Subject.view` gives.
        channels: how many of each stage.

    Returns:
        {"stage1": {number of the channel: float32 [height, width]}, ...}, those of the largest mean absolute value,
        the largest first.
    """
    network = inside.with_outputs(subject.model, inside.stage_ends(subject.model))
    found = {}
    for stage, output in network(subject.normalization(view[None]), training=False).items():
        maps = output[0].numpy()
        strongest = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:channels]
        found[stage] = {int(channel): maps[:, :, channel] for channel in strongest}
    return found


def draw_activations(view, found):
    """A figure of an image and, in a row for each stage, its feature maps, numbered by channel.

    Light is a large value; the maps of a stage share one scale, from the smallest to the largest value.

    Args:
        view: uint8 [height, width, 3].
        found: what `activations` returned.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    across = max(len(maps) for maps in found.values())
    figure = Figure(figsize=(_INCHES * (across + 2.2), _INCHES * 1.25 * len(found)), layout="constrained")
    grid = figure.add_gridspec(len(found), across + 1, width_ratios=[2, *[1] * across])
    _image(figure.add_subplot(grid[:, 0]), view, "")
    for row, (stage, maps) in enumerate(found.items()):
        least, most = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
        for place, (channel, values) in enumerate(maps.items()):
            axes = figure.add_subplot(grid[row, place + 1])
            _image(axes, values, str(channel), cmap="viridis", vmin=least, vmax=most)
            if not place:
                axes.set_ylabel(f"{stage}\n{values.shape[0]} x {values.shape[1]}", fontsize=8)
    return figure


def _image(axes, pixels, title, **more):
    axes.imshow(pixels, interpolation="nearest", **more)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8)


# --- Grad-CAM --------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Explanation:
    """Where in an image a network sees a class.

    Attributes:
        view: uint8 [height, width, 3], what the network was shown.
        heat: float32 [h, w] at the resolution of the last stage, 0 or above.
        explained: name of the class.
        probability: that the network gives it, in [0, 1].
        predicted: name of the likeliest class.
    """

    view: np.ndarray
    heat: np.ndarray
    explained: str
    probability: float
    predicted: str


def analyse_grad_cam(settings, paths):
    """Draw where in some images a network sees a class.

    Args:
        settings: a `config.AnalyzeConfig`.
        paths: of the images.

    Returns:
        {"out", "run", "images": {"file", "class", "probability", "predicted"} of each}.

    Raises:
        InputError: no images, or one that cannot be decoded; no such run or class.
    """
    out, subject, views = _asked(settings, paths, "grad_cam")
    name = settings.class_name
    if name and name not in subject.classes:
        raise InputError(f"--class_name={name}: {settings.run} knows {listed(subject.classes)}")
    found = [grad_cam(subject, view, name or None) for view in views]
    pictures.write(out, draw_grad_cam(found))
    answers = [
        {
            "file": str(path),
            "class": one.explained,
            "probability": round(one.probability, 6),
            "predicted": one.predicted,
        }
        for path, one in zip(paths, found, strict=True)
    ]
    return {"out": str(out), "run": settings.run, "images": answers}


def grad_cam(subject, view, class_name=None):
    """Grad-CAM where the last stage ends (Selvaraju et al. 2017, equations 1 and 2).

    alpha_k = mean over positions of dy / dA_k; heat = ReLU(sum over k of alpha_k A_k), with y the class's logit and
    A_k the feature maps. Since a mean over positions and a dense layer follow, alpha_k is that layer's weight over
    the number of positions, and the heat is CAM's (Zhou et al. 2016) up to that number, without its bias.

    Args:
        subject: a `Subject`.
        view: uint8 [height, width, 3], such as `Subject.view` gives.
        class_name: one of the subject's classes; None for the predicted one.

    Returns:
        An `Explanation`.
    """
    last = list(inside.stage_ends(subject.model).values())[-1]
    network = inside.with_outputs(subject.model, [last, *subject.model.outputs])
    with tf.GradientTape() as tape:
        maps, logits = network(subject.normalization(view[None]), training=False)
        predicted = int(tf.argmax(logits[0]))
        explained = predicted if class_name is None else subject.classes.index(class_name)
        score = logits[0, explained]
    weights = tf.reduce_mean(tape.gradient(score, maps), axis=[1, 2], keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1))[0].numpy()
    probability = float(metrics.probabilities(logits.numpy())[0, explained])
    return Explanation(view, heat, subject.classes[explained], probability, subject.classes[predicted])


def draw_grad_cam(found):
    """A figure with a row for each image: what the network was shown, and over it, in grey, where it sees the class.

    Light is the largest value of that image; where the heat is nowhere above zero nothing is laid over it.

    Args:
        found: list of `Explanation`.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.6, 2.9 * len(found)), layout="constrained")
    for row, one in zip(figure.subplots(len(found), 2, squeeze=False), found, strict=True):
        height, width = one.view.shape[:2]
        heat = tf.image.resize(one.heat[..., None], [height, width]).numpy()[..., 0]
        _image(row[0], one.view, f"predicted: {one.predicted}")
        _image(row[1], one.view @ colour.LUMA, f"{one.explained}, probability {one.probability:.3f}", cmap="gray")
        if heat.max() > 0:
            row[1].imshow(heat / heat.max(), cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="nearest")
    return figure
