"""Charts of a classifier's errors and calibration, each a `matplotlib.figure.Figure`, and helpers for charts."""

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics

_MAX_COUNTS = 20  # most classes for which each cell shows its count
_MAX_CELLS = 250  # most classes for which cells are drawn as an image
_PAIRS = 25  # most pairs of classes that are named beside a large matrix
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # palette of Okabe and Ito, safe for colour-blind readers


def require(feature: str) -> None:
    """Check that charts can be drawn, before the work for them begins.

    Args:
        feature: name of the flag or command that needs charts.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(f"{feature} needs matplotlib: pip install 'resnet_tf[plot]'") from None


def new_figure(width: float, height: float):
    """Return an empty `matplotlib.figure.Figure` of so many inches, with a constrained layout."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def hide_ticks(axes) -> None:
    """Hide the ticks of both axes."""
    axes.set_xticks([])
    axes.set_yticks([])


def short(name: str, longest: int = 18) -> str:
    """Cut a class name to at most `longest` letters."""
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"


def short_end(name: str, longest: int) -> str:
    """Cut a file name to its last `longest` letters; bytes in it that are not text become escapes."""
    name = name.encode(errors="backslashreplace").decode()
    return name if len(name) <= longest else f"\u2026{name[1 - longest :]}"


def confusion(matrix: np.ndarray, classes: list[str]):
    """Draw a confusion matrix.

    Up to 20 classes keep their order, and each cell shows its count. More classes are sorted so that confused classes
    are neighbours (`spectral_order`), colours have a logarithmic scale, and the most frequent confusions are named.

    Args:
        matrix: int [classes, classes] of `metrics.confusion`.
        classes: names of the classes.
    """
    return (_matrix_with_counts if len(classes) <= _MAX_COUNTS else _logarithmic_matrix)(matrix, classes)


def _matrix_with_counts(matrix, classes):
    count = len(classes)
    side = 2.2 + 0.55 * count
    figure = new_figure(side, side)
    axes = figure.add_subplot()
    shares = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(count, count):
        if matrix[row, column]:
            colour = "white" if shares[row, column] > 0.5 else "black"
            size = 9 if matrix[row, column] < 1000 else 7
            axes.text(column, row, f"{matrix[row, column]}", ha="center", va="center", color=colour, fontsize=size)
    names = [short(name) for name in classes]
    turned = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    axes.set_xticks(range(count), names, **turned)
    axes.set_yticks(range(count), names)
    axes.set(xlabel="predicted", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def _logarithmic_matrix(matrix, classes):
    from matplotlib.colors import LogNorm

    count, order = len(classes), spectral_order(matrix)
    ordered = matrix[np.ix_(order, order)]
    figure = new_figure(13.5, 9)
    grid = figure.add_gridspec(1, 2, width_ratios=[9, 4.5])
    axes = figure.add_subplot(grid[0])
    # Colours start at 0.5, so that a count of 1 is not white.
    style = {"cmap": "viridis_r", "norm": LogNorm(0.5, max(ordered.max(), 2))}
    if count <= _MAX_CELLS:
        image = axes.imshow(np.ma.masked_equal(ordered, 0), interpolation="nearest", **style)
    else:  # a cell is hardly a pixel: draw larger points, the greatest counts on top
        rows, columns = np.nonzero(ordered)
        by_count = np.argsort(ordered[rows, columns], kind="stable")
        rows, columns = rows[by_count], columns[by_count]
        image = axes.scatter(columns, rows, s=3.5, c=ordered[rows, columns], marker="s", linewidths=0, **style)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    bar = figure.colorbar(image, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("examples, logarithmic; none: white")
    bar.ax.set_xlim(1, None)
    ticks = [10**power for power in range(int(np.log10(max(ordered.max(), 1))) + 1)]
    bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()
    if count <= 120:
        names = [short(classes[index]) for index in order]
        size = min(7, 500 / count)
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.tick_params(length=0, pad=1)
    else:
        hide_ticks(axes)
    axes.set_xlabel(f"predicted: {count:,} classes, those that are confused side by side")
    axes.set_ylabel("true, in the same order")
    _name_pairs(figure.add_subplot(grid[1]), matrix, classes)
    return figure


def _name_pairs(axes, matrix, classes):
    axes.axis("off")
    axes.set(xlim=(0, 1), ylim=(_PAIRS + 2, -1))
    totals = matrix.sum(axis=1)
    right = matrix.trace()
    pairs = metrics.most_confused(matrix)
    axes.text(0, 0, f"{right:,} of {matrix.sum():,} right. Most confused:", fontsize=10, weight="bold", va="center")
    for line, (label, predicted, times) in enumerate(pairs[:_PAIRS], start=1):
        axes.text(0.13, line + 0.3, f"{times}", fontsize=9, ha="right", va="center", color=BLUE, weight="bold")
        axes.text(0.15, line + 0.3, f"of {totals[label]}", fontsize=7, va="center", color=GREY)
        text = f"{short(classes[label], 20)} \u2192 {short(classes[predicted], 20)}"
        axes.text(0.3, line + 0.3, text, fontsize=8.5, va="center")
    if len(pairs) > _PAIRS:
        more = f"and {len(pairs) - _PAIRS:,} pairs more (true \u2192 predicted)"
        axes.text(0.3, _PAIRS + 1.4, more, fontsize=8.5, color=GREY, va="center")


def spectral_order(matrix: np.ndarray) -> np.ndarray:
    """Sort classes so that confused classes are neighbours.

    Classes are sorted by the Fiedler vector, the eigenvector of the second smallest eigenvalue of a graph's normalised
    Laplacian, which keeps neighbours of the graph close (spectral ordering; Barnard, Pothen and Simon 1995). The weight
    of an edge is the square of how often its two classes were confused.

    Args:
        matrix: int [classes, classes] of `metrics.confusion`.

    Returns:
        int [classes], class numbers.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    # A small weight of all edges keeps the graph connected; the order would mix unconnected parts.
    # Squares let frequent confusions outweigh many single ones.
    edges = np.square((wrong + wrong.T).astype(np.float64)) + 1e-3
    np.fill_diagonal(edges, 0)
    root = 1 / np.sqrt(edges.sum(axis=1))
    _, vectors = np.linalg.eigh(np.eye(len(edges)) - root[:, None] * edges * root)
    return np.argsort(vectors[:, 1] * root, kind="stable")


def reliability(table: dict[str, np.ndarray], error: float):
    """Draw a reliability diagram above a histogram of confidence (Guo et al. 2017, figure 1).

    Args:
        table: what `metrics.calibration` returned.
        error: the expected calibration error, a fraction.
    """
    figure = new_figure(5.5, 7.2)
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1.2])
    above = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    examples, filled = table["examples"], table["examples"] > 0
    low, width = table["low"][filled], (table["high"] - table["low"])[filled]
    accuracy, confidence = table["accuracy"][filled], table["confidence"][filled]
    above.bar(low, accuracy, width, align="edge", color=BLUE, alpha=0.55, edgecolor="white")
    bottom, height = np.minimum(accuracy, confidence), np.abs(confidence - accuracy)
    gap = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "////", "linewidth": 1}
    above.bar(low, height, width, bottom=bottom, align="edge", **gap)
    above.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
    above.set(xlim=(0, 1), ylim=(0, 1.005), ylabel="accuracy")
    above.tick_params(labelbottom=False)
    above.set_title(f"ECE {100 * error:.2f} % of {examples.sum():,} examples\n", fontsize=11, loc="left")
    above.text(0, 1.02, "accuracy", transform=above.transAxes, color=BLUE, fontsize=9)
    above.text(0.17, 1.02, "gap to the mean confidence", transform=above.transAxes, color=ORANGE, fontsize=9)
    shares = examples / examples.sum()
    below.bar(table["low"], shares, table["high"] - table["low"], align="edge", color="#bbbbbb", edgecolor="white")
    below.set(ylim=(0, 1.1 * shares.max()), xlabel="probability of the predicted class", ylabel="part of examples")
    for index, (name, values, colour) in enumerate((("accuracy", accuracy, BLUE), ("confidence", confidence, ORANGE))):
        mean = float((values * shares[filled]).sum())
        below.axvline(mean, color=colour, linewidth=1.5)
        below.text(0.42 * index, 1.04, f"mean {name} {mean:.3f}", transform=below.transAxes, color=colour, fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
