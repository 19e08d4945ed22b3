"""Learning curves of runs, in the style of He et al. 2015, figure 6 (training thin, evaluation bold), and their SVG."""

import dataclasses
import io
import math
import re
import warnings
from collections.abc import Callable

import numpy as np

from resnet_tf.config import CLASSIFICATION, TASKS
from resnet_tf.evaluation import charts

# Colours of curves on white and on black, safe for colour-blind readers; further curves repeat them with other dashes.
COLOURS = (
    ("#0063a6", "#5fb0ee"), ("#c44601", "#ff9a57"), ("#00795c", "#3ccaa3"), ("#a8327d", "#ee95cd"),
    ("#8a6a00", "#dcb93f"), ("#2b8cae", "#7ad7ee"), ("#5b5f66", "#b9bdc4"), ("#5a4fc0", "#aaa0f7"),
)  # fmt: skip
# Colours of text, lesser text and lines of the grid, on white and on black.
INK = {"ink": ("#1b1f24", "#e8eaed"), "muted": ("#5c636c", "#a2a9b3"), "rule": ("#dfe3e7", "#343a42")}
_VARIABLES = INK | {f"c{number}": pair for number, pair in enumerate(COLOURS)}  # of CSS, by name
_DASHES = ((), (5, 1.5), (1.5, 1.2), (6, 1.5, 1.5, 1.5))  # in line widths, the unit of SVG and matplotlib
_LONGEST = 30  # most letters of a label, such as cifar_resnet110_v1 (3 seeds)
_POINTS = 400  # most points of a curve
_FONT = 10  # font size in points


def metrics_of(task: str) -> dict[str, tuple[str, str, Callable]]:
    """Return the metrics that are drawn for a task.

    Args:
        task: name of the task.

    Returns:
        {name of the chart: (column of metrics.csv, title, function from a value of the column to the drawn value)}.
    """
    drawn = {}
    for metric in TASKS[task].metrics:
        if metric.compared and metric.drawn_as_error:
            drawn[f"{metric.column}_error"] = (metric.column, f"{metric.title} error (%)", lambda x: 100 * (1 - x))
        elif metric.compared:
            drawn[metric.column] = (metric.column, f"{metric.title} (%)", lambda x: 100 * x)
    return drawn | {"loss": ("loss", "Loss (nats)", lambda loss: loss)}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Curves of one column of metrics.csv for a group of runs, each a tuple (epochs, means, standard deviations).

    Attributes:
        name: name of the group.
        number: number of its stroke; see `stroke`.
        training: curve on the training batches.
        evaluation: curve on the held-out split.
        averaged: curve on the held-out split with averaged weights; empty arrays if there is none.
    """

    name: str
    number: int
    training: tuple
    evaluation: tuple
    averaged: tuple


def of_groups(groups: list, column: str) -> list[Curve]:
    """Return the curves of groups of runs.

    Args:
        groups: list of `compare.Group`.
        column: a column of metrics.csv.
    """
    curves = []
    for number, group in enumerate(groups):
        held_out = group.runs[0].held_out
        parts = [group.mean_curve(split, column) for split in ("train", held_out, f"{held_out}_ema")]
        name = f"{group.name} ({len(group.runs)} seeds)" if len(group.runs) > 1 else group.name
        curves.append(Curve(name, number, *parts))
    return curves


def stroke(number: int) -> tuple[int, tuple]:
    """Return the index in `COLOURS` and the dashes of curve `number`; no dashes if it is solid."""
    return number % len(COLOURS), _DASHES[number // len(COLOURS) % len(_DASHES)]


def draw(curves: list[Curve], metric: str, task: str = CLASSIFICATION):
    """Return a `matplotlib.figure.Figure` of the curves of one metric.

    Args:
        curves: what `of_groups` returned for the column of the metric.
        metric: a key of `metrics_of(task)`.
        task: name of the task of the runs.
    """
    _, title, to_drawn = metrics_of(task)[metric]
    figure = charts.new_figure(5.2, max(3.6, 0.19 * len(curves) + 1.2))
    axes = figure.add_subplot()
    ends, values, last = _draw_lines(axes, curves, to_drawn)
    low, high = limits(values, percent=title.endswith("(%)"))
    axes.set_ylim(low, high)
    axes.set_xlim(0, last or 1)
    _label(axes, ends, low, high, last or 1)
    ink, muted, rule = (INK[name][0] for name in INK)
    axes.set_title(title, loc="left", fontsize=_FONT + 1, color=ink, fontweight="bold", pad=10)
    axes.set_xlabel("epoch", color=muted, fontsize=_FONT)
    axes.grid(axis="y", color=rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)  # the background is that of the figure or page
    axes.tick_params(colors=muted, labelsize=_FONT, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(rule)
    return figure


def _draw_lines(axes, curves, to_drawn):
    """Draw all lines; return their ends (x, y, name, colour), the latter halves of their values and the last epoch."""
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
            means = to_drawn(means)
            axes.plot(epochs, means, color=colour, linewidth=width, linestyle=style_of_line, solid_capstyle="round")
            if part is curve.evaluation and spread.any():
                scale = abs(to_drawn(1.0) - to_drawn(0.0))
                low, high = means - scale * spread, means + scale * spread
                axes.fill_between(epochs, low, high, color=colour, alpha=0.18, linewidth=0)
            values.append(means[len(means) // 2 :])
            last = max(last, epochs[-1])
        final = curve.evaluation if len(curve.evaluation[0]) else curve.training
        if len(final[0]):
            ends.append((final[0][-1], to_drawn(final[1][-1]), curve.name, colour))
    return ends, values, last


def thinned(curve: tuple) -> tuple:
    """Reduce a curve to at most 400 points, by means over neighbours."""
    count = len(curve[0])
    if count <= _POINTS:
        return curve
    edges = np.linspace(0, count, _POINTS + 1).astype(int)
    return tuple(np.add.reduceat(part, edges[:-1]) / np.diff(edges) for part in curve)


def limits(values: list[np.ndarray], percent: bool) -> tuple[float, float]:
    """Choose the limits of the vertical axis to show the latter half of every curve, except spikes, and its end.

    Args:
        values: latter halves of the curves; their beginnings may lie outside the picture.
        percent: whether the axis ends at 100 at most.

    Returns:
        Lowest and highest value of the axis; the lowest is 0 unless all values are high.
    """
    parts = [part[np.isfinite(part)] for part in values]
    points = np.array(
        [value for part in parts if len(part) for value in (np.quantile(part, 0.75), part[-1], part.min())]
    )
    if not len(points):
        return 0.0, 100.0 if percent else 1.0
    # Round up to 1, 2, 3, 4, 5, 6, 8 or 10 times a power of ten.
    most = max(float(points.max()) * 1.02, 1.0 if percent else 1e-3)
    power = 10.0 ** math.floor(math.log10(most))
    high = next(power * factor for factor in (1, 2, 3, 4, 5, 6, 8, 10) if power * factor >= most * (1 - 1e-9))
    high = min(high, 100.0) if percent else high
    least = float(points.min()) * 0.98
    low = math.floor(least / (high / 10)) * high / 10 if least > high / 2 else 0.0
    return max(0.0, low), high


def _label(axes, ends, low, high, last):
    """Write names beside the ends of lines, moved apart if they would overlap."""
    height = axes.figure.get_size_inches()[1] * 72 - 80  # approximate height of the axes in points
    gap = (high - low) * (_FONT + 1.5) / height
    ordered = sorted(ends, key=lambda end: end[1] if math.isfinite(end[1]) else high)
    heights = spread([min(max(low, y if math.isfinite(y) else high), high) for _, y, _, _ in ordered], gap, low, high)
    for (x, y, name, colour), label_height in zip(ordered, heights, strict=True):
        # parse_math=False, since names of folders may hold dollar signs.
        axes.annotate(
            shortened(name), xy=(x / last, min(max(low, y if math.isfinite(y) else high), high)),
            xycoords=("axes fraction", "data"), xytext=(1.04, label_height), textcoords=("axes fraction", "data"),
            va="center", fontsize=_FONT - 1, color=colour, parse_math=False, annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.6, "relpos": (0, 0.5), "shrinkA": 1,
                        "shrinkB": 1},
        )  # fmt: skip


def spread(positions: list[float], gap: float, low: float, high: float) -> list[float]:
    """Move positions apart to at least `gap`, as little as possible, and between `low` and `high` if there is room.

    Args:
        positions: numbers in ascending order.
        gap: smallest distance between neighbours.
        low: smallest position.
        high: largest position.
    """
    blocks = []  # [sum of positions, number of positions]: neighbours that touch move together
    for position in positions:
        blocks.append([position, 1])
        while len(blocks) > 1 and _start(blocks[-2], gap) + gap * blocks[-2][1] > _start(blocks[-1], gap):
            total, count = blocks.pop()
            blocks[-1] = [blocks[-1][0] + total, blocks[-1][1] + count]
    moved = [_start(block, gap) + gap * index for block in blocks for index in range(block[1])]
    for index in range(len(moved)):  # push up from `low`, then down from `high`
        moved[index] = max(moved[index], low + gap * index)
    for index in range(len(moved)):
        moved[-1 - index] = min(moved[-1 - index], high - gap * index)
    return moved


def _start(block, gap):
    """Return the lowest position of a block whose members lie evenly about their mean."""
    return block[0] / block[1] - gap * (block[1] - 1) / 2


def shortened(name: str) -> str:
    """Shorten a long name to its two ends."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST // 2 - 1]}\u2026{name[-_LONGEST // 2 :]}"


def rendered(figure, form: str) -> bytes:
    """Return a figure as the bytes of a file, equal for equal figures.

    Args:
        figure: a `matplotlib.figure.Figure`.
        form: "png", or "svg", in which text stays text.
    """
    from matplotlib import rc_context

    file = io.BytesIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "resnet_tf"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # names may hold glyphs that the font lacks
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type")) if form == "svg" else None
        figure.savefig(file, format=form, dpi=200, metadata=metadata)
    return file.getvalue()


def inline(svg: bytes, prefix: str, themed: bool) -> str:
    """Return an SVG file as an element of an HTML page, without a title.

    Args:
        svg: bytes of the file.
        prefix: prefix of its ids, which makes them unique in the page.
        themed: whether to replace the colours of this module by the variables that `style` sets.
    """
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r'\bid="', f'id="{prefix}', text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{prefix}", text)
    text = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true">', text, count=1)
    if themed:
        variables = {light: f"var(--{name})" for name, (light, _) in _VARIABLES.items()}
        text = re.sub("|".join(variables), lambda match: variables[match[0]], text)
        text = re.sub(r'<g id="[^"]*patch_1">.*?</g>', "", text, count=1, flags=re.DOTALL)  # the white background
    return text


def style(dark: bool) -> str:
    """Return CSS variables of all colours, for a dark or light page: "--ink:#...;..."."""
    return "".join(f"--{name}:{colours[dark]};" for name, colours in _VARIABLES.items())
