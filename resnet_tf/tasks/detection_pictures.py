"""Pictures of detection: each function returns a `matplotlib.figure.Figure`."""

import numpy as np

from resnet_tf.data.boxes import IGNORED, ImageObjects
from resnet_tf.evaluation import pictures
from resnet_tf.evaluation.charts import GREY, short
from resnet_tf.tasks.average_precision import area
from resnet_tf.tasks.segmentation_pictures import colours

_INCHES = 4.6  # a picture's width
_DASHED = (0, (4, 2))
_NAMED = 20  # curves that have a colour and a name, the best ones


def box_gallery(shown, classes, threshold=0.0):
    """Draw images with their objects dashed and thin, ignored ones grey, and detections solid, with class and score.

    Args:
        shown: list of images, uint8 [H, W, 3]; their objects, float [k, boxes.PACKED], see `boxes.ImageObjects.pack`,
            whose padding is left out; and `boxes.Detections` or None.
        classes: their names.
        threshold: score below which a detection is not drawn.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    shown = [(image, ImageObjects.unpack(rows), found) for image, rows, found in shown]
    colour = _colours_of(len(classes))
    columns = min(2, len(shown))
    lines = -(-len(shown) // columns)
    tallest = max(image.shape[0] / image.shape[1] for image, _, _ in shown)
    figure = Figure(figsize=(columns * _INCHES, lines * _INCHES * tallest + 0.4), layout="constrained")
    grid = figure.subplots(lines, columns, squeeze=False).ravel()
    for axes, (image, objects, found) in zip(grid, shown, strict=False):
        axes.imshow(image)
        _draw_objects(axes, objects, colour)
        if found is not None:
            _draw_found(axes, found, classes, colour, threshold)
    for axes in grid:
        axes.set_axis_off()
    there = {int(label) for _, objects, _ in shown for label in objects.labels[objects.kinds != 0]}
    there |= {int(label) for _, _, found in shown if found is not None for label in found.labels}
    handles = [Line2D([], [], color=colour[label], linewidth=2, label=short(classes[label])) for label in sorted(there)]
    handles.append(Line2D([], [], color=GREY, linewidth=1, linestyle=_DASHED, label="truth"))
    if any(found is not None for _, _, found in shown):
        handles.append(Line2D([], [], color=GREY, linewidth=2, label="detected"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def _colours_of(count):
    """A colour for each label; see `pictures.colours` and, of more than it has apart, `colours`."""
    return pictures.colours(count) if count <= 6 else colours(count)[:count] / 255


def _draw_objects(axes, objects, colour):
    from matplotlib.patches import Rectangle

    for (top, left, bottom, right), label, kind in zip(*objects, strict=True):
        if kind:
            drawn = GREY if kind == IGNORED else colour[int(label)]
            place = (left - 0.5, top - 0.5), right - left, bottom - top  # a pixel's centre is a whole number
            axes.add_patch(Rectangle(*place, fill=False, edgecolor="white", linewidth=1.6, alpha=0.7))
            axes.add_patch(Rectangle(*place, fill=False, edgecolor=drawn, linewidth=1, linestyle=_DASHED))


def _draw_found(axes, found, classes, colour, threshold):
    from matplotlib.patches import Rectangle

    order = np.argsort(found.scores, kind="stable")  # the surest on top
    for number in order[found.scores[order] >= threshold]:
        (top, left, bottom, right), label = found.boxes[number], int(found.labels[number])
        place = (left - 0.5, top - 0.5), right - left, bottom - top
        axes.add_patch(Rectangle(*place, fill=False, edgecolor=colour[label], linewidth=1.8))
        above = top > 0.04 * axes.get_ylim()[0]  # else there is no room there, and the name is in the box
        axes.text(
            max(left, 0), max(top, 0), f"{short(classes[label], 12)} {found.scores[number]:.2f}", color="white",
            fontsize=5.5, va="bottom" if above else "top", clip_on=True,
            bbox={"facecolor": colour[label], "edgecolor": "none", "pad": 0.8},
        )  # fmt: skip


def precision_recall(curves, classes):
    """Precision over recall of each class, and its average precision.

    Args:
        curves: of `average_precision.curves`; those of classes without objects are left out.
        classes: their names.
    """
    from matplotlib.figure import Figure

    colour = _colours_of(len(classes))
    figure = Figure(figsize=(6.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    there = [label for label, curve in enumerate(curves) if curve.objects]
    precision = {label: area(curves[label]) for label in there}
    for place, label in enumerate(sorted(there, key=lambda label: -precision[label])):
        curve = curves[label]
        style = {"color": GREY, "linewidth": 0.5}
        if place < _NAMED:
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
