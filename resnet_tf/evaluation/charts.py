"""Pictures of how a classifier errs and how well it knows: each function returns a `matplotlib.figure.Figure`."""

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics

_NUMBERED = 20  # classes up to which each count is written into its cell
_CELLS = 250  # up to which a cell is drawn as such
_PAIRS = 25  # that are named beside a matrix of more
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#777777"  # of Okabe and Ito, apart for colour-blind readers


def require(what):
    """Refuse to begin work whose pictures could not be drawn.

    Args:
        what: needs them, such as a flag.

    Raises:
        InputError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise InputError(f"{what} needs matplotlib: pip install 'resnet_tf[plot]'") from None


def short(name, longest=18):
    """A class name of so many letters at most."""
    return name if len(name) <= longest else f"{name[: longest - 1]}\u2026"


def short_end(name, longest):
    """The end of a file's name, of so many letters at most; bytes in it that are no text are spelt out."""
    name = name.encode(errors="backslashreplace").decode()
    return name if len(name) <= longest else f"\u2026{name[1 - longest :]}"


def confusion(matrix, classes):
    """Which classes are taken for which.

    Up to 20 classes stand in their own order, with the count in each cell. More are sorted so that classes taken for
    each other stand side by side (`spectral_order`), the counts are on a logarithmic scale, and the most frequent
    confusions are named.

    Args:
        matrix: int [classes, classes] of `metrics.confusion`.
        classes: their names.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    return _numbered(matrix, classes) if len(classes) <= _NUMBERED else _logarithmic(matrix, classes)


def _numbered(matrix, classes):
    from matplotlib.figure import Figure

    count = len(classes)
    side = 2.2 + 0.55 * count
    figure = Figure(figsize=(side, side), layout="constrained")
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
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return figure


def _logarithmic(matrix, classes):
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure

    count, order = len(classes), spectral_order(matrix)
    ordered = matrix[np.ix_(order, order)]
    figure = Figure(figsize=(13.5, 9), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[9, 4.5])
    axes = figure.add_subplot(grid[0])
    # From half on, so that a single confusion is no shade of white.
    style = {"cmap": "viridis_r", "norm": LogNorm(0.5, max(ordered.max(), 2))}
    if count <= _CELLS:
        picture = axes.imshow(np.ma.masked_equal(ordered, 0), interpolation="nearest", **style)
    else:  # a cell is hardly a pixel: points that are larger, the greatest counts on top
        rows, columns = np.nonzero(ordered)
        by_count = np.argsort(ordered[rows, columns], kind="stable")
        rows, columns = rows[by_count], columns[by_count]
        picture = axes.scatter(columns, rows, s=3.5, c=ordered[rows, columns], marker="s", linewidths=0, **style)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5), aspect="equal")
    bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("examples, logarithmic; none: white")
    bar.ax.set_xlim(1, None)
    ticks = [10**power for power in range(int(np.log10(max(ordered.max(), 1))) + 1)]
    bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()
    if count <= 120:
        names = [short(classes[place]) for place in order]
        size = min(7, 500 / count)
        axes.set_xticks(range(count), names, rotation=90, fontsize=size)
        axes.set_yticks(range(count), names, fontsize=size)
        axes.tick_params(length=0, pad=1)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    axes.set_xlabel(f"predicted: {count:,} classes, those that are confused side by side")
    axes.set_ylabel("true, in the same order")
    _name_pairs(figure.add_subplot(grid[1]), matrix, classes)
    return figure


def _name_pairs(axes, matrix, classes):
    axes.axis("off")
    axes.set_xlim(0, 1)
    axes.set_ylim(_PAIRS + 2, -1)
    totals = matrix.sum(axis=1)
    right = matrix.trace()
    pairs = metrics.most_confused(matrix)
    axes.text(0, 0, f"{right:,} of {matrix.sum():,} right. Most confused:", fontsize=10, weight="bold", va="center")
    for place, (label, predicted, times) in enumerate(pairs[:_PAIRS], start=1):
        axes.text(0.13, place + 0.3, f"{times}", fontsize=9, ha="right", va="center", color=BLUE, weight="bold")
        axes.text(0.15, place + 0.3, f"of {totals[label]}", fontsize=7, va="center", color=GREY)
        words = f"{short(classes[label], 20)} \u2192 {short(classes[predicted], 20)}"
        axes.text(0.3, place + 0.3, words, fontsize=8.5, va="center")
    if len(pairs) > _PAIRS:
        more = f"and {len(pairs) - _PAIRS:,} pairs more (true \u2192 predicted)"
        axes.text(0.3, _PAIRS + 1.4, more, fontsize=8.5, color=GREY, va="center")


def spectral_order(matrix):
    """Sort classes so that those that are confused stand side by side.

    The order of the Fiedler vector, that of the second smallest eigenvalue of a graph's normalised Laplacian, which
    keeps neighbours close (spectral ordering; Barnard, Pothen and Simon 1995). Edges weigh the square of how often two
    classes were taken for each other.

    Args:
        matrix: int [classes, classes] of `metrics.confusion`.

    Returns:
        int [classes], class numbers.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    # The little that all share keeps the graph in one piece, without which parts of it would be mixed.
    # Squares let what is confused again and again outweigh the many that were once.
    edges = np.square((wrong + wrong.T).astype(np.float64)) + 1e-3
    np.fill_diagonal(edges, 0)
    root = 1 / np.sqrt(edges.sum(axis=1))
    _, vectors = np.linalg.eigh(np.eye(len(edges)) - root[:, None] * edges * root)
    return np.argsort(vectors[:, 1] * root, kind="stable")


def reliability(table, error):
    """A reliability diagram above the histogram of confidence (Guo et al. 2017, figure 1).

    Args:
        table: of `metrics.calibration`.
        error: the expected calibration error, a fraction.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1.2])
    above = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    examples, some = table["examples"], table["examples"] > 0
    low, width = table["low"][some], (table["high"] - table["low"])[some]
    accuracy, confidence = table["accuracy"][some], table["confidence"][some]
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
    for place, (name, values, colour) in enumerate((("accuracy", accuracy, BLUE), ("confidence", confidence, ORANGE))):
        mean = float((values * shares[some]).sum())
        below.axvline(mean, color=colour, linewidth=1.5)
        below.text(0.42 * place, 1.04, f"mean {name} {mean:.3f}", transform=below.transAxes, color=colour, fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
