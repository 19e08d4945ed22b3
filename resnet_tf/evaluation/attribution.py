"""Parts of an image to which a trained network responds: feature maps and Grad-CAM.

Images are prepared as in evaluation and serving, and the network computes in float32. `activations` and `grad_cam`
return arrays; `draw_activations` and `draw_grad_cam` draw them in a `matplotlib.figure.Figure`.
"""

import dataclasses
import pathlib

import keras
import numpy as np
import tensorflow as tf

from resnet_tf.config import AnalyzeConfig, evaluation_size
from resnet_tf.data import colour, images, orientation
from resnet_tf.data.splits import listed
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, metrics, pictures
from resnet_tf.models import inside
from resnet_tf.runs import restore

_INCHES = 1.1  # side of a feature map


@dataclasses.dataclass(frozen=True)
class Subject:
    """The network of a run, and how its images are prepared.

    Attributes:
        model: model from normalised images to logits, in float32.
        normalization: a `colour.Normalization`.
        classes: names of the classes.
        size: height and width of the evaluation view in pixels.
        resize: shorter side of an image before the central crop in pixels; 0 for `size`.
        exif: treatment of orientation tags; see `orientation.treated`.
        interpolation: see `images.resize_center`.
    """

    model: keras.Model
    normalization: colour.Normalization
    classes: list[str]
    size: int
    resize: int
    exif: str = "apply"
    interpolation: str = ""

    def view(self, path: str | pathlib.Path) -> np.ndarray:
        """Return the evaluation view of an image file: uint8 [size, size, 3].

        Raises:
            InputError: the file is missing or not an image.
        """
        try:
            data = pathlib.Path(path).read_bytes()
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None
        data = orientation.treated(self.exif)(tf.constant(images.readable(data, str(path)))).numpy()
        return images.resize_center(images.decode(data, str(path)), self.size, self.resize, self.interpolation).numpy()


def load(folder: str | pathlib.Path, weights: str = "") -> Subject:
    """Load the network of a run.

    Args:
        folder: folder of the run.
        weights: "raw", "ema" or "best", as in `restore`.

    Raises:
        InputError: the run or its checkpoint is missing.
    """
    run, values, normalization = restore.load(folder, weights)
    model = restore.build_model(run, values, weights, precision="float32")
    data = run.config.data
    size, classes = evaluation_size(data), list(run.manifest["classes"])
    return Subject(model, normalization, classes, size, data.resize, data.exif, data.interpolation)


def _prepare(settings, paths, kind):
    """Check the flags, and return the path of the picture, the `Subject` and the views of all image files."""
    out = pictures.check(settings.out, "analyze")
    if not settings.run:
        raise InputError("--run is not set: the folder of the run to look into")
    if not paths:
        raise InputError(f"no image was named: analyze {kind} FILE --run=RUN --out=FILE")
    subject = load(settings.run, settings.weights)
    return out, subject, [subject.view(path) for path in paths]


def analyse_activations(settings: AnalyzeConfig, paths: list) -> dict:
    """Draw the feature maps of an image to --out.

    Args:
        settings: a `config.AnalyzeConfig`.
        paths: list of one image file.

    Returns:
        {"out", "run", "image", "layers": number of stages, "channels": [number of maps of each stage]}.

    Raises:
        InputError: there is not exactly one image, it cannot be decoded, or the run is missing.
    """
    if len(paths) > 1:
        raise InputError(f"{paths[1]}: a second image; activations draws one")
    out, subject, views = _prepare(settings, paths, "activations")
    stages = activations(subject, views[0], settings.channels)
    pictures.write(out, draw_activations(views[0], stages))
    channels = [len(maps) for maps in stages.values()]
    return {"out": str(out), "run": settings.run, "image": str(paths[0]), "layers": len(stages), "channels": channels}


def activations(subject: Subject, view: np.ndarray, channels: int = 8) -> dict[str, dict[int, np.ndarray]]:
    """Return the strongest feature maps of an image at the end of each stage; see `inside.stage_ends`.

    Args:
        subject: network of a run.
        view: uint8 [height, width, 3], such as `Subject.view` returns.
        channels: number of maps of each stage.

    Returns:
        {"stage1": {index of the channel: float32 [height, width]}, ...}, the maps of the largest mean absolute value,
        the largest first.
    """
    network = inside.with_outputs(subject.model, inside.stage_ends(subject.model))
    stages = {}
    for stage, output in network(subject.normalization(view[None]), training=False).items():
        maps = output[0].numpy()
        strongest = np.argsort(-np.abs(maps).mean(axis=(0, 1)), kind="stable")[:channels]
        stages[stage] = {int(channel): maps[:, :, channel] for channel in strongest}
    return stages


def draw_activations(view: np.ndarray, stages: dict[str, dict[int, np.ndarray]]):
    """Draw an image and, in a row for each stage, its feature maps with the indices of their channels.

    Large values are light. The maps of a stage share one scale, from their smallest to their largest value.

    Args:
        view: uint8 [height, width, 3].
        stages: what `activations` returned.
    """
    columns = max(len(maps) for maps in stages.values())
    figure = charts.new_figure(_INCHES * (columns + 2.2), _INCHES * 1.25 * len(stages))
    grid = figure.add_gridspec(len(stages), columns + 1, width_ratios=[2, *[1] * columns])
    _draw_image(figure.add_subplot(grid[:, 0]), view, "")
    for row, (stage, maps) in enumerate(stages.items()):
        low, high = min(values.min() for values in maps.values()), max(values.max() for values in maps.values())
        for column, (channel, values) in enumerate(maps.items(), start=1):
            axes = figure.add_subplot(grid[row, column])
            _draw_image(axes, values, str(channel), cmap="viridis", vmin=low, vmax=high)
            if column == 1:
                axes.set_ylabel(f"{stage}\n{values.shape[0]} x {values.shape[1]}", fontsize=8)
    return figure


def _draw_image(axes, pixels, title, **style):
    axes.imshow(pixels, interpolation="nearest", **style)
    charts.hide_ticks(axes)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=8)


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A heat map that shows where in an image a network sees a class.

    Attributes:
        view: uint8 [height, width, 3], the input image before normalisation.
        heat: float32 [h, w] at the resolution of the last stage, 0 or above.
        explained: name of the class.
        probability: probability of this class, in [0, 1].
        predicted: name of the likeliest class.
    """

    view: np.ndarray
    heat: np.ndarray
    explained: str
    probability: float
    predicted: str


def analyse_grad_cam(settings: AnalyzeConfig, paths: list) -> dict:
    """Draw heat maps of a class over images to --out.

    Args:
        settings: a `config.AnalyzeConfig`.
        paths: list of image files.

    Returns:
        {"out", "run", "images": [{"file", "class", "probability", "predicted"}, ...]}.

    Raises:
        InputError: no image is named, an image cannot be decoded, or the run or the class is missing.
    """
    out, subject, views = _prepare(settings, paths, "grad_cam")
    name = settings.class_name
    if name and name not in subject.classes:
        raise InputError(f"--class_name={name}: {settings.run} knows {listed(subject.classes)}")
    explanations = [grad_cam(subject, view, name or None) for view in views]
    pictures.write(out, draw_grad_cam(explanations))
    images = [
        {"file": str(path), "class": e.explained, "probability": round(e.probability, 6), "predicted": e.predicted}
        for path, e in zip(paths, explanations, strict=True)
    ]
    return {"out": str(out), "run": settings.run, "images": images}


def grad_cam(subject: Subject, view: np.ndarray, class_name: str | None = None) -> Explanation:
    """Compute Grad-CAM at the end of the last stage (Selvaraju et al. 2017, equations 1 and 2).

    alpha_k = mean over positions of dy / dA_k; heat = ReLU(sum over k of alpha_k A_k), with y the class's logit and
    A_k the feature maps. Since a mean over positions and a dense layer follow, alpha_k is that layer's weight divided
    by the number of positions, and the heat is that of CAM (Zhou et al. 2016) up to this factor, without its bias.

    Args:
        subject: network of a run.
        view: uint8 [height, width, 3], such as `Subject.view` returns.
        class_name: name of a class of the subject; None for the predicted class.
    """
    wanted = None if class_name is None else np.array([subject.classes.index(class_name)])
    (heat,), logits = heat_maps(subject, view[None], wanted)
    predicted = int(logits[0].argmax())
    explained = predicted if wanted is None else int(wanted[0])
    probability = float(metrics.probabilities(logits)[0, explained])
    return Explanation(view, heat, subject.classes[explained], probability, subject.classes[predicted])


def heat_maps(subject: Subject, views: np.ndarray, classes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute `grad_cam` of several images at once.

    Args:
        subject: network of a run.
        views: uint8 [n, height, width, 3].
        classes: int [n], class to explain in each image; None for the predicted ones.

    Returns:
        Heat maps, float32 [n, h, w] at the resolution of the last stage, 0 or above; logits, float32 [n, classes].
    """
    last = list(inside.stage_ends(subject.model).values())[-1]
    network = inside.with_outputs(subject.model, [last, *subject.model.outputs])
    with tf.GradientTape() as tape:
        maps, logits = network(subject.normalization(views), training=False)
        explained = tf.argmax(logits, axis=1) if classes is None else tf.constant(classes, tf.int64)
        # An example's score depends on its own maps alone, so the gradient of the sum is that of each.
        scores = tf.gather(logits, explained, axis=1, batch_dims=1)
    weights = tf.reduce_mean(tape.gradient(scores, maps), axis=[1, 2], keepdims=True)
    return tf.nn.relu(tf.reduce_sum(weights * maps, axis=-1)).numpy(), logits.numpy()


def draw_grad_cam(explanations: list[Explanation]):
    """Draw a row for each image: the image, and its heat map over the image in grey.

    The lightest value is the largest of that image; nothing is laid over an image whose heat is zero everywhere.
    """
    figure = charts.new_figure(5.6, 2.9 * len(explanations))
    for row, e in zip(figure.subplots(len(explanations), 2, squeeze=False), explanations, strict=True):
        heat = tf.image.resize(e.heat[..., None], e.view.shape[:2]).numpy()[..., 0]
        _draw_image(row[0], e.view, f"predicted: {e.predicted}")
        _draw_image(row[1], e.view @ colour.LUMA, f"{e.explained}, probability {e.probability:.3f}", cmap="gray")
        if heat.max() > 0:
            row[1].imshow(heat / heat.max(), cmap="inferno", alpha=0.6, vmin=0, vmax=1, interpolation="nearest")
    return figure
