"""Pictures of segmentation: each function returns a `matplotlib.figure.Figure`."""

import numpy as np

from resnet_tf.data.masks import VOID
from resnet_tf.evaluation.charts import BLUE, GREY, short

_INCHES = 2.6  # width of a picture


def colours(count: int) -> np.ndarray:
    """Return a colour for each label, uint8 [256, 3]; neighbours differ strongly, void is black."""
    import colorsys

    table = np.zeros((256, 3), np.uint8)
    for label in range(count):
        # Golden ratio steps around the hue circle, with three levels of brightness.
        rgb = colorsys.hsv_to_rgb(label * 0.618034 % 1, 0.85 - 0.25 * (label % 2), (1.0, 0.75, 0.55)[label % 3])
        table[label] = np.round(255 * np.array(rgb))
    return table


def gallery(rows, classes):
    """Draw images, their true masks and their predicted masks, with a legend of colours.

    Args:
        rows: list of (image, uint8 [H, W, 3]; true and predicted labels, uint8 [H, W]).
        classes: class names.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    table = colours(len(classes))
    height = sum(_INCHES * image.shape[0] / image.shape[1] for image, _, _ in rows)
    present = sorted({int(label) for _, *masks in rows for mask in masks for label in np.unique(mask) if label != VOID})
    lines = -(-(len(present) + 1) // 6)
    figure = Figure(figsize=(3 * _INCHES + 0.2, height + 0.3 + 0.24 * lines), layout="constrained")
    grid = figure.subplots(len(rows), 3, squeeze=False)
    for axes, (image, truth, predicted) in zip(grid, rows, strict=True):
        for panel, mask in zip(axes, (None, truth, predicted), strict=True):
            panel.imshow(image if mask is None else _over(image, mask, table))
            panel.set_axis_off()
    for panel, title in zip(grid[0], ("image", "truth", "prediction"), strict=True):
        panel.set_title(title, fontsize=9)
    handles = [Patch(color=table[label] / 255, label=short(classes[label])) for label in present]
    if any((truth == VOID).any() for _, truth, _ in rows):
        handles.append(Patch(color="black", label="no class"))
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8)
    return figure


def bars(table, classes):
    """Draw the IoU of each class in a table of `segmentation_metrics.per_class`, best first, and its share of pixels.

    Classes without true or predicted pixels are left out.
    """
    from matplotlib.figure import Figure

    iou, pixels = table["iou"], table["pixels"]
    order = [label for label in np.argsort(-np.nan_to_num(iou, nan=-1), kind="stable") if not np.isnan(iou[label])]
    figure = Figure(figsize=(6, 0.7 + 0.22 * len(order)), layout="constrained")
    axes = figure.add_subplot()
    axes.barh(range(len(order)), iou[order], color=BLUE, height=0.7)
    share = pixels / max(1, pixels.sum())
    for row, label in enumerate(order):
        axes.text(iou[label] + 0.01, row, f"{iou[label]:.2f}", va="center", fontsize=8)
    axes.set_yticks(range(len(order)), [f"{short(classes[i])}  {share[i]:.1%}" for i in order], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.08)
    axes.axvline(np.mean(iou[order]), color=GREY, linewidth=1, linestyle="--")
    axes.set_title(f"IoU by class, with its part of the pixels; mean {np.mean(iou[order]):.3f}", fontsize=9, loc="left")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return figure


def _over(image, mask, table):
    mixed = 0.35 * image + 0.65 * table[mask]
    return np.where((mask == VOID)[..., None], 0.35 * image, mixed).astype(np.uint8)
