"""Pictures of detection: each function returns a `matplotlib.figure.Figure`."""

import numpy as np

from resnet_tf.data.boxes import IGNORED, ImageObjects
from resnet_tf.evaluation import pictures
from resnet_tf.evaluation.charts import GREY, short
from resnet_tf.tasks.average_precision import area
from resnet_tf.tasks.segmentation_pictures import colours

_INCHES = 4.6  # width of a picture
_DASHED = (0, (4, 2))
_NAMED = 20  # best curves, which have a colour and a name


def box_gallery(shown, classes, threshold=0.0):
    """Draw images with true objects (thin, dashed; ignored ones grey) and detections (solid, with class and score).

    Args:
        shown: list of (image, uint8 [H, W, 3]; objects, float [k, boxes.PACKED], see `boxes.ImageObjects.pack`;
            `boxes.Detections` or None).
        classes: class names.
        threshold: lowest score of drawn detections.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = [(image, ImageObjects.unpack(rows), detections) for image, rows, detections in shown]
    colour = _colours_of(len(classes))
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    tallest = max(image.shape[0] / image.shape[1] for image, _, _ in shown)
    figure = Figure(figsize=(columns * _INCHES, lines * _INCHES * tallest + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (image, objects, detections) in zip(grid, shown, strict=False):
        axes.imshow(image)
        _draw_objects(axes, objects, colour)
        if detections is not None:
            _draw_detections(axes, detections, classes, colour, threshold)
    for axes in grid:
        axes.set_axis_off()
    all_detections = [detections for _, _, detections in shown if detections is not None]
    present = {int(label) for _, objects, _ in shown for label in objects.labels[objects.kinds != 0]}
    present |= {int(label) for detections in all_detections for label in detections.labels}
    handles = [Line2D([], [], color=colour[one], linewidth=2, label=short(classes[one])) for one in sorted(present)]
    handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=_DASHED, label="truth"))
    if all_detections:
        handles.append(Line2D([], [], color=GREY, linewidth=2, label="detected"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _colours_of(count):
    """Return a colour for each label: `pictures.colours` for up to six, `colours` for more."""
    return pictures.colours(count) if count <= 6 else colours(count)[:count] / 255


def _draw_objects(axes, objects, colour):
    from matplotlib.patches import Rectangle

    for (top, left, bottom, right), label, kind in zip(*objects, strict=True):
        if kind:
            edge = GREY if kind == IGNORED else colour[int(label)]
            rectangle = (left - 0.5, top - 0.5), right - left, bottom - top  # pixel centres are whole numbers
            axes.add_patch(Rectangle(*rectangle, fill=False, edgecolor="white", linewidth=1.6, alpha=0.7))
            axes.add_patch(Rectangle(*rectangle, fill=False, edgecolor=edge, linewidth=1, linestyle=_DASHED))


def _draw_detections(axes, detections, classes, colour, threshold):
    from matplotlib.patches import Rectangle

    order = np.argsort(detections.scores, kind="stable")  # the highest score on top
    for index in order[detections.scores[order] >= threshold]:
        (top, left, bottom, right), label = detections.boxes[index], int(detections.labels[index])
        rectangle = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(*rectangle, fill=False, edgecolor=colour[label], linewidth=1.8))
        is_above = top > 0.04 * axes.get_ylim()[0]  # else there is no room above, and the name is in the box
        axes.text(
            max(left, 0), max(top, 0), f"{short(classes[label], 12)} {detections.scores[index]:.2f}", color="white",
            fontsize=5.5, va="bottom" if is_above else "top", clip_on=True,
            bbox={"facecolor": colour[label], "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def precision_recall(curves, classes):
    """Draw the curves of `average_precision.curves`, with average precisions; skip classes without objects."""
    from matplotlib.figure import Figure

    colour = _colours_of(len(classes))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    precision = {label: area(curve) for label, curve in enumerate(curves) if curve.objects}
    for rank, label in enumerate(sorted(precision, key=lambda label: -precision[label])):
        curve = curves[label]
        style = {"color": GREY, "linewidth": 0.5}
        if rank < _NAMED:
            name = f"{precision[label]:.3f}  {short(classes[label])} ({curve.objects})"
            style = {"color": colour[label], "linewidth": 1.6, "label": name}
        axes.plot(curve.recall, curve.precision, **style)
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    style = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    figure.legend(title="AP, class (objects)", loc="outside right upper", **style)
    axes.set_title(f"mean AP {np.mean(list(precision.values())):.3f}", fontsize=9, loc="left")
    return figure
