"""Curves of runs over epochs, in the manner of He et al. 2015, figure 6: training thin, evaluation bold."""

import dataclasses
import io
import math
import re
import warnings

import numpy as np

from resnet_tf.config import CLASSIFICATION, TASKS


def _error(fraction):
    return 100 * (1 - fraction)


def _percent(fraction):
    return 100 * fraction


# Of curves on white and on black: told apart by colour-blind readers too; after them the strokes change.
COLOURS = (
    ("#0063a6", "#5fb0ee"), ("#c44601", "#ff9a57"), ("#00795c", "#3ccaa3"), ("#a8327d", "#ee95cd"),
    ("#8a6a00", "#dcb93f"), ("#2b8cae", "#7ad7ee"), ("#5b5f66", "#b9bdc4"), ("#5a4fc0", "#aaa0f7"),
)  # fmt: skip
# Of all else: text, lesser text, lines of the grid.
INK = {"ink": ("#1b1f24", "#e8eaed"), "muted": ("#5c636c", "#a2a9b3"), "rule": ("#dfe3e7", "#343a42")}
_DASHES = ((), (5, 1.5), (1.5, 1.2), (6, 1.5, 1.5, 1.5))  # in widths of the line, as SVG and matplotlib take them
_LONGEST = 30  # letters of a label, such as cifar_resnet110_v1 (3 seeds)
_POINTS = 400  # of a curve
_FONT = 10  # points


def metrics_of(task):
    """What is drawn of the runs of a task.

    Args:
        task: its name.

    Returns:
        {name of the picture: (column of metrics.csv, title, how a fraction or a loss is shown)}.
    """
    drawn = {}
    for metric in TASKS[task].metrics:
        if metric.compared and metric.drawn_as_error:
            drawn[f"{metric.column}_error"] = (metric.column, f"{metric.title} error (%)", _error)
        elif metric.compared:
            drawn[metric.column] = (metric.column, f"{metric.title} (%)", _percent)
    return drawn | {"loss": ("loss", "Loss (nats)", lambda loss: loss)}


@dataclasses.dataclass(frozen=True)
class Curve:
    """What is drawn of a group of runs: (epochs, means, standard deviations) of a column, each an array.

    Attributes:
        name: of the group.
        number: of its stroke.
        training: of the training batches.
        evaluation: of the held-out split.
        averaged: the same by the moving average of the weights; empty arrays where there is none.
    """

    name: str
    number: int
    training: tuple
    evaluation: tuple
    averaged: tuple


def of_groups(made, column):
    """The curves of groups of runs.

    Args:
        made: list of `compare.Group`.
        column: of metrics.csv.

    Returns:
        List of `Curve`.
    """
    found = []
    for number, group in enumerate(made):
        held_out = group.runs[0].held_out
        parts = [group.mean_curve(split, column) for split in ("train", held_out, f"{held_out}_ema")]
        name = f"{group.name} ({len(group.runs)} seeds)" if len(group.runs) > 1 else group.name
        found.append(Curve(name, number, *parts))
    return found


def stroke(number):
    """Of the curve of a number: the number of its colour, and its dashes, none where it is solid."""
    return number % len(COLOURS), _DASHES[number // len(COLOURS) % len(_DASHES)]


def draw(curves, metric, task=CLASSIFICATION):
    """Draw one metric.

    Args:
        curves: of its column, from `of_groups`.
        metric: a key of `metrics_of` that task.
        task: the name of what the runs are of.

    Returns:
        A `matplotlib.figure.Figure`.
    """
    from matplotlib.figure import Figure

    _, title, shown = metrics_of(task)[metric]
    ink, muted, rule = (INK[name][0] for name in INK)
    figure = Figure(figsize=(5.2, max(3.6, 0.19 * len(curves) + 1.2)), layout="constrained")
    axes = figure.add_subplot()
    ends, values, last = [], [], 0.0
    for curve in curves:
        number, dashes = stroke(curve.number)
        colour, line = COLOURS[number][0], (0, dashes)
        for part, width, style_of_line in (
            (curve.training, 0.7, line), (curve.evaluation, 2.0, line), (curve.averaged, 1.3, (0, (1, 1)))
        ):  # fmt: skip
            epochs, means, spread = thinned(part)
            if not len(epochs):
                continue
            means = shown(means)
            axes.plot(epochs, means, color=colour, linewidth=width, linestyle=style_of_line, solid_capstyle="round")
            if part is curve.evaluation and spread.any():
                scale = abs(shown(1.0) - shown(0.0))
                low, high = means - scale * spread, means + scale * spread
                axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
            values.append(means[len(means) // 2 :])
            last = max(last, epochs[-1])
        final = curve.evaluation if len(curve.evaluation[0]) else curve.training
        if len(final[0]):
            ends.append((final[0][-1], shown(final[1][-1]), curve.name, colour))
    low, high = limits(values, percent=title.endswith("(%)"))
    axes.set_ylim(low, high)
    axes.set_xlim(0, last or 1)
    _label(axes, ends, low, high, last or 1)
    axes.set_title(title, loc="left", fontsize=_FONT + 1, color=ink, fontweight="bold", pad=10)
    axes.set_xlabel("epoch", color=muted, fontsize=_FONT)
    axes.grid(axis="y", color=rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)  # the ground is the figure's, and the page's
    axes.tick_params(colors=muted, labelsize=_FONT, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(rule)
    return figure


def thinned(curve):
    """A curve of at most some 400 points, means of neighbours where it has more."""
    count = len(curve[0])
    if count <= _POINTS:
        return curve
    edges = np.linspace(0, count, _POINTS + 1).astype(int)
    return tuple(np.add.reduceat(part, edges[:-1]) / np.diff(edges) for part in curve)


def limits(values, percent):
    """Ends of the vertical axis: where every curve is in its latter half, but for spikes, and where it ends.

    Args:
        values: list of arrays, the latter halves of curves. Where curves begin is off the picture.
        percent: whether they end at 100.

    Returns:
        Lowest and highest value of the axis; the lowest is 0 unless all values are high.
    """
    parts = [part[np.isfinite(part)] for part in values]
    every = np.array(
        [value for part in parts if len(part) for value in (np.quantile(part, 0.75), part[-1], part.min())]
    )
    if not len(every):
        return 0.0, 100.0 if percent else 1.0
    # By round numbers: the next of 1, 2, 3, 4, 5, 6, 8, 10 times a power of ten above what is there.
    most = max(float(every.max()) * 1.02, 1.0 if percent else 1e-3)
    power = 10.0 ** math.floor(math.log10(most))
    high = next(power * step for step in (1, 2, 3, 4, 5, 6, 8, 10) if power * step >= most * (1 - 1e-9))
    high = min(high, 100.0) if percent else high
    least = float(every.min()) * 0.98
    low = math.floor(least / (high / 10)) * high / 10 if least > high / 2 else 0.0
    return max(0.0, low), high


def _label(axes, ends, low, high, last):
    """Names at the ends of lines, moved apart where they would overlap."""
    height = axes.figure.get_size_inches()[1] * 72 - 80  # of the axes, in points, about
    gap = (high - low) * (_FONT + 1.5) / height
    ordered = sorted(ends, key=lambda end: end[1] if math.isfinite(end[1]) else high)
    places = spread([min(max(low, y if math.isfinite(y) else high), high) for _, y, _, _ in ordered], gap, low, high)
    for (x, y, name, colour), place in zip(ordered, places, strict=True):
        # Names are of folders: a dollar in them is no mathematics.
        axes.annotate(
            shortened(name), xy=(x / last, min(max(low, y if math.isfinite(y) else high), high)),
            xycoords=("axes fraction", "data"), xytext=(1.04, place), textcoords=("axes fraction", "data"),
            va="center", fontsize=_FONT - 1, color=colour, parse_math=False, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1,
                        "shrinkB": 1},
        )  # fmt: skip


def spread(places, gap, low, high):
    """Rising places moved apart to at least a gap, as little as may be, and between low and high where there is room.

    Args:
        places: list of rising numbers.
        gap: least distance.
        low: least place.
        high: largest place.
    """
    blocks = []  # [sum of places less their offsets, how many]: neighbours that touch move as one
    for place in places:
        blocks.append([place, 1])
        while len(blocks) > 1 and _start(blocks[-2], gap) + gap * blocks[-2][1] > _start(blocks[-1], gap):
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    found = [_start(block, gap) + gap * index for block in blocks for index in range(block[1])]
    for index, _ in enumerate(found):  # pushed up from the floor, then down from the ceiling
        found[index] = max(found[index], low + gap * index)
    for index in range(len(found)):
        found[-1 - index] = min(found[-1 - index], high - gap * index)
    return found


def _start(block, gap):
    """Lowest place of a block whose members lie evenly about their mean."""
    return block[0] / block[1] - gap * (block[1] - 1) / 2


def shortened(name):
    """A name for a label: its two ends where it is long."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}\u2026{name[-_LONGEST // 2 :]}"


# --- Files -----------------------------------------------------------------------------------------------------------


def rendered(figure, form):
    """A figure as the bytes of a file, the same for the same figure.

    Args:
        figure: a `matplotlib.figure.Figure`.
        form: "png" or "svg", whose text stays text.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "resnet_tf"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names in scripts that the font has not
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if form == "svg" else None
        figure.savefig(file, format=form, dpi=200, metadata=metadata)
    return file.getvalue()


def inline(svg, prefix, themed):
    """An SVG file as an element of a page.

    Args:
        svg: bytes of the file.
        prefix: of its ids, which are to be unique in the page.
        themed: whether its colours, those of this module, become the variables that `style` sets.

    Returns:
        The element, without a title.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would hold for the whole page
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    if themed:
        variables = {light: f"var(--{name})" for name, light, _ in _variables()}
        text = re.sub("|".join(variables), lambda match: variables[match[0]], text)
        text = re.sub(r'<g id="[^"]*patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the white ground
    return text


def style(dark):
    """CSS variables of all colours: "--ink:#...;..."."""
    return "".join(f"--{name}:{(light, night)[dark]};" for name, light, night in _variables())


def _variables():
    yield from ((name, *pair) for name, pair in INK.items())
    yield from ((f"c{number}", *pair) for number, pair in enumerate(COLOURS))
