"""Draw networks block by block: stem, stages, shortcuts, head."""

import dataclasses
import itertools

from resnet_tf.models import blocks, builder
from resnet_tf.models.architectures import Architecture
from resnet_tf.models.layers import stem_plan

_NORM = {"bn": "BN, ReLU", "gn": "GN, ReLU", "evos": "EvoNorm-S0"}
_COLOURS = ("#4c78a8", "#54a24b", "#c79a00", "#e45756")
_WIDTH, _BOX, _GAP, _LINE = 2.1, 1.2, 0.2, 0.16  # inches: width of a network and of a box, gap, height of a text line


@dataclasses.dataclass(frozen=True)
class Box:
    """One box of the picture.

    Attributes:
        text: text in the box, with line breaks.
        stage: number of the stage from 1; 0 for stem and head.
        shortcut: "" for none, "identity", "padded", "projection", or "pooled projection" (v1d).
    """

    text: str
    stage: int = 0
    shortcut: str = ""


def row_of(name: str) -> Architecture:
    """Return the row of a network, named as in `draw`; raises InputError if there is no such network or graph."""
    plain, _, graph = name.partition(":")
    return builder.row_of(plain, graph=graph or None)


def boxes(name: str) -> list[Box]:
    """Return the boxes of a network from top to bottom; consecutive equal blocks share one box, which says how many.

    The first BN and ReLU of a v2 are in the box of the stem, or in the first block if the identity there is raw.
    """
    row = row_of(name)
    size = row.input_size
    stem = [
        f"{kernel}x{kernel}, {filters}" + (f", /{stride}" if stride > 1 else "")
        for filters, kernel, stride in stem_plan(row)
    ]
    if row.whitened:
        stem.insert(0, f"3x3, {9 * 3}, whitening")
    result = [Box(f"images {size}x{size}x3"), Box("\n".join(stem))]
    if row.stem != "3x3":
        result.append(Box(_stem_pool(row)))
    starts_in_block = row.preactivation and not row.bottleneck and row.first_shortcut == "raw"
    if row.preactivation and not starts_in_block:
        result[-1] = Box(f"{result[-1].text}\n{_NORM[row.norm]}")
    width = row.stem_channels
    for stage, (count, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        if row.entry == "conv":
            result.append(Box(f"3x3, {filters}\nmax pool 2x2, /2", stage))
            width = filters
        for first, times in ((True, min(count, 1)), (False, count - 1)):
            if times < 1:
                continue
            sampling = blocks.Sampling(2 if first and stage > 1 and row.entry == "block" else 1)
            plan = blocks.convolutions(row.of_stage(stage), filters, sampling)
            lines = [line for part in plan for line in _lines(part, row)]
            if row.attention != "none":
                lines.append(f"{row.attention.upper()} attention")
            changes = sampling.stride > 1 or width != plan[-1].filters
            shortcut = {"none": "", "A": "padded", "B": "projection", "C": "projection"}[row.shortcut]
            if shortcut and not changes and row.shortcut != "C":
                shortcut = "identity"
            if shortcut == "projection" and row.downsample == "avg_pool" and sampling.stride > 1:
                shortcut = "pooled projection"
            width = plan[-1].filters
            if starts_in_block and first and stage == 1:
                lines.insert(0, _NORM[row.norm])
            result.append(Box("\n".join(lines) + (f"\nx {times}" if times > 1 else ""), stage, shortcut))
    last = f"{_NORM[row.norm]}\n" if row.preactivation else ""
    pool = {"avg": "average pool", "max": "max pool, x 1/8"}[row.head]
    result.append(Box(f"{last}{pool}\ndense, {row.classes}"))
    return result


def _stem_pool(row):
    """Return the text of what halves the resolution after the convolutions of the stem."""
    if row.stem_pool == "conv":
        return f"3x3, {row.stem_channels}, /2"
    return {"none": "max pool 3x3, /2", "avg": "average pool 2x2, /2", "blur": "max pool 3x3\nblur 3x3, /2"}[
        row.antialias
    ]


def _lines(part, row):
    """Return the lines of a `blocks.Convolution`."""
    text = f"{part.kernel}x{part.kernel}, {part.filters}" + (f", /{part.stride}" if part.stride > 1 else "")
    pool = {"avg": "average pool 2x2, /2", "blur": "blur 3x3, /2"}
    groups = [f"in {part.groups} groups"] if part.groups > 1 else []
    return [text, *groups, *([pool[row.antialias]] if part.antialiased else [])]


def draw(names: list[str]):
    """Draw networks side by side, each from top to bottom.

    Args:
        names: names of networks; NAME:timm for timm's graph of a v2.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        InputError: a name is unknown.
    """
    from matplotlib.figure import Figure

    networks = [boxes(name) for name in names]
    # Boxes beside each other have the same height, so that corresponding blocks are aligned.
    levels = itertools.zip_longest(*networks)
    heights = [0.12 + _LINE * max(part.text.count("\n") + 1 for part in level if part) for level in levels]
    total, wide = sum(heights) + _GAP * len(heights), _WIDTH * len(names)
    figure = Figure(figsize=(wide, total + 0.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, wide), ylim=(-total - 0.05, 0.45))  # in inches
    axes.axis("off")
    for index, (name, parts) in enumerate(zip(names, networks, strict=True)):
        row = row_of(name)
        norm = _NORM[row.norm].replace(", ", " and ")
        order = f"{norm} {'before' if row.preactivation else 'after'} convolutions"
        _draw_network(axes, _WIDTH * (index + 0.4), name, order, parts, heights)
    return figure


def _draw_network(axes, middle, name, order, parts, heights):
    from matplotlib.patches import Rectangle

    left, side = middle - _BOX / 2, middle + _BOX / 2 + 0.1  # left edge of the boxes; lines of the shortcuts
    axes.text(middle, 0.3, name.replace(":", " of "), ha="center", fontsize=10, weight="bold")
    axes.text(middle, 0.14, order, ha="center", fontsize=6.5, color="#555555")
    top, stage = 0.0, 0
    for part, height in zip(parts, heights, strict=False):
        colour = _COLOURS[(part.stage - 1) % 4] if part.stage else "#999999"
        box = {"facecolor": colour, "alpha": 0.3, "edgecolor": colour}
        axes.add_patch(Rectangle((left, top - height), _BOX, height, **box))
        axes.text(middle, top - height / 2, part.text, ha="center", va="center", fontsize=8, linespacing=1.3)
        bottom = top - height
        if part is not parts[-1]:
            axes.annotate("", (middle, bottom - _GAP), (middle, bottom), arrowprops={"arrowstyle": "->", "lw": 0.8})
        if part.shortcut:
            style = {"identity": "-", "padded": ":"}.get(part.shortcut, "--")
            path = [middle, side, side, middle], [top + 0.12, top + 0.12, bottom - 0.06, bottom - 0.06]
            axes.plot(*path, style, color="#555555", lw=0.9)
            label = part.shortcut.replace(" ", "\n")
            axes.text(side + 0.05, top - height / 2, label, fontsize=6.5, va="center", color="#555555")
        if part.stage != stage and part.stage:
            style = {"fontsize": 7, "rotation": 90, "ha": "center", "va": "center", "color": colour}
            axes.text(left - 0.09, top - height / 2, f"stage {part.stage}", **style)
        top, stage = bottom - _GAP, part.stage
