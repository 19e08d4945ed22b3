"""A picture of a network by block: stem, stages, shortcuts, head."""

import dataclasses

from resnet_tf.errors import InputError
from resnet_tf.models import blocks
from resnet_tf.models.architectures import find
from resnet_tf.models.layers import STEMS

_COLOURS = ("#4c78a8", "#54a24b", "#eeca3b", "#e45756")


@dataclasses.dataclass(frozen=True)
class Box:
    """One box of the picture.

    Attributes:
        text: its lines.
        stage: 0 for stem and head.
        shortcut: "" for none, "identity", "padded" or "projection".
    """

    text: str
    stage: int = 0
    shortcut: str = ""


def boxes(name):
    """The boxes of a network from top to bottom; equal blocks in a row are one box with their number."""
    row = find(name)
    size = row.input_size
    stem = [
        f"{kernel}x{kernel}, {filters}" + (f", /{stride}" if stride > 1 else "")
        for filters, kernel, stride in STEMS[row.stem]
    ]
    result = [Box(f"images {size}x{size}x3"), Box("\n".join(stem))]
    if row.stem != "3x3":
        result.append(Box("max pool 3x3, /2"))
    width = row.filters[0] if row.stem == "3x3" else 64
    for stage, (count, filters) in enumerate(zip(row.blocks, row.filters, strict=True), start=1):
        for first, times in ((True, 1), (False, count - 1)):
            if not times:
                continue
            step = blocks.Step(2 if first and stage > 1 else 1)
            plan = blocks.convolutions(row, filters, step)
            lines = [f"{k}x{k}, {f}" + (f", /{s}" if s > 1 else "") for k, f, s, _ in plan]
            changes = step.stride > 1 or width != plan[-1][1]
            shortcut = {"none": "", "A": "padded", "B": "projection", "C": "projection"}[row.shortcut]
            if shortcut and not changes and row.shortcut != "C":
                shortcut = "identity"
            width = plan[-1][1]
            result.append(Box("\n".join(lines) + (f"\nx {times}" if times > 1 else ""), stage, shortcut))
    result.append(Box(f"average pool\ndense, {row.classes}"))
    return result


def draw(name, path):
    """Write the picture of a network.

    Args:
        name: of the table.
        path: .png or .svg.

    Raises:
        InputError: an unknown name or ending, or matplotlib is missing.
    """
    parts = boxes(name)
    if not str(path).endswith((".png", ".svg")):
        raise InputError(f"--out={path}: ends neither in .png nor in .svg")
    try:
        import matplotlib
    except ImportError:
        raise InputError("--diagram needs matplotlib: pip install 'resnet_tf[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    heights = [0.24 * (part.text.count("\n") + 1) + 0.2 for part in parts]
    total = sum(heights) + 0.22 * len(parts)
    figure, axes = pyplot.subplots(figsize=(4.6, total + 0.5))
    axes.set_xlim(-2.3, 2.3)
    axes.set_ylim(-total, 0.3)
    axes.axis("off")
    axes.set_title(name, fontsize=11)
    top = 0.0
    for part, height in zip(parts, heights, strict=True):
        colour = _COLOURS[(part.stage - 1) % 4] if part.stage else "#bbbbbb"
        axes.add_patch(pyplot.Rectangle((-1, top - height), 2, height, facecolor=colour, alpha=0.35, edgecolor=colour))
        axes.text(0, top - height / 2, part.text, ha="center", va="center", fontsize=8)
        if part is not parts[-1]:
            axes.annotate("", (0, top - height - 0.22), (0, top - height), arrowprops={"arrowstyle": "->", "lw": 0.8})
        if part.shortcut:
            dashed = "--" if part.shortcut == "projection" else (":" if part.shortcut == "padded" else "-")
            axes.plot([0, 1.35, 1.35, 0], [top + 0.12, top + 0.12, top - height - 0.1, top - height - 0.1], dashed,
                      color="#555555", lw=0.9)  # fmt: skip
            axes.text(1.42, top - height / 2, part.shortcut, fontsize=7, va="center", color="#555555")
        if part.stage:
            axes.text(-1.1, top - height / 2, f"stage {part.stage}", fontsize=7, va="center", ha="right", color=colour)
        top -= height + 0.22
    figure.savefig(path, dpi=130, bbox_inches="tight")
    pyplot.close(figure)
