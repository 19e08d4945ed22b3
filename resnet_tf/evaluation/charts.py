"""Pictures of how a classifier errs and how well it knows: each function returns a `matplotlib.figure.Figure`."""

import numpy as np

from resnet_tf.errors import InputError
from resnet_tf.evaluation import metrics

_NUMBERED = 20  # classes up to which each count is written into its cell
_PAIRS = 25  # that are named beside a matrix of more
_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#777777"  # of Okabe and Ito, apart for colour-blind readers


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
    axes.set_xticks(range(count), names, rotation=45 if max(map(len, names)) > 3 else 0, ha="center")
    if max(map(len, names)) > 3:
        axes.set_xticks(range(count), names, rotation=45, ha="right", rotation_mode="anchor")
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
    shown = np.ma.masked_equal(ordered, 0)
    # From half on, so that a single confusion is no shade of white.
    norm = LogNorm(0.5, max(ordered.max(), 2))
    picture = axes.imshow(shown, cmap="viridis_r", norm=norm, interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, location="bottom", shrink=0.5, aspect=40, pad=0.02)
    bar.set_label("examples, logarithmic; none: white")
    bar.ax.set_xlim(1, None)
    ticks = [10**power for power in range(int(np.log10(max(ordered.max(), 1))) + 1)]
    bar.set_ticks(ticks, labels=[f"{tick:,}" for tick in ticks])
    bar.ax.minorticks_off()
    if count <= 120:
        names = [short(classes[place], 14) for place in order]
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
        axes.text(0.13, place + 0.3, f"{times}", fontsize=9, ha="right", va="center", color=_BLUE, weight="bold")
        axes.text(0.15, place + 0.3, f"of {totals[label]}", fontsize=7, va="center", color=_GREY)
        words = f"{short(classes[label], 20)} \u2192 {short(classes[predicted], 20)}"
        axes.text(0.3, place + 0.3, words, fontsize=8.5, va="center")
    if len(pairs) > _PAIRS:
        more = f"and {len(pairs) - _PAIRS:,} pairs more (true \u2192 predicted)"
        axes.text(0.3, _PAIRS + 1.4, more, fontsize=8.5, color=_GREY, va="center")


def spectral_order(matrix):
    """Sort classes so that those that are confused stand side by side.

    The order of the Fiedler vector, of the second smallest eigenvalue of the normalised Laplacian of the graph whose
    edges weigh how often two classes were taken for each other, for it minimises the squared distances of neighbours
    (spectral ordering; Barnard, Pothen and Simon 1995).

    Args:
        matrix: int [classes, classes] of `metrics.confusion`.

    Returns:
        int [classes], class numbers.
    """
    wrong = matrix - np.diag(np.diag(matrix))
    # The little that all share keeps the graph in one piece, without which parts of it would be mixed.
    edges = (wrong + wrong.T).astype(np.float64) + 1e-3
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

    figure = Figure(figsize=(5.5, 7), layout="constrained")
    grid = figure.add_gridspec(2, 1, height_ratios=[3, 1.3])
    above = figure.add_subplot(grid[0])
    below = figure.add_subplot(grid[1], sharex=above)
    some = table["examples"] > 0
    low, width = table["low"], table["high"] - table["low"]
    accuracy, confidence = (np.where(some, table[name], 0.0) for name in ("accuracy", "confidence"))
    style = {"align": "edge", "linewidth": 0.8, "edgecolor": "white"}
    above.bar(low[some], accuracy[some], width[some], color=_BLUE, **style)
    gap = (confidence - accuracy)[some]
    above.bar(low[some], gap, width[some], bottom=accuracy[some], color=_ORANGE, alpha=0.35, **style)
    above.plot([0, 1], [0, 1], color=_GREY, linewidth=1, linestyle="--")
    above.text(0.04, 0.95, f"ECE {100 * error:.2f} %", transform=above.transAxes, fontsize=12, weight="bold")
    above.text(0.04, 0.89, "accuracy", transform=above.transAxes, color=_BLUE)
    above.text(0.04, 0.84, "its gap to the mean confidence", transform=above.transAxes, color=_ORANGE)
    above.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    above.tick_params(labelbottom=False)
    shares = table["examples"] / table["examples"].sum()
    below.bar(low, shares, width, color=_GREY, **style)
    total = table["examples"].sum()
    means = {name: np.nansum(table[name] * shares) for name in ("accuracy", "confidence")}
    highest = max(shares.max() * 1.3, 1e-9)
    for name, colour in (("accuracy", _BLUE), ("confidence", _ORANGE)):
        below.axvline(means[name], color=colour, linewidth=1.5)
    text = f"mean accuracy {means['accuracy']:.3f}, mean confidence {means['confidence']:.3f}"
    below.set_title(text, fontsize=9, loc="left")
    below.set(ylim=(0, highest), xlabel="confidence: probability of the predicted class", ylabel="part of examples")
    below.text(0.04, 0.85, f"{total:,} examples", transform=below.transAxes, color=_GREY, fontsize=9)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure
