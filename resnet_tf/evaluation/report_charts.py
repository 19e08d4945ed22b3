"""Charts of a report's page in the colours of the page: confusion, reliability, curves, and bars of slices."""

import html

import numpy as np

from resnet_tf.evaluation import charts, curves, metrics
from resnet_tf.evaluation.trained import Trained

_MOST_COUNTS = 30  # most classes of a matrix with a count in each cell, and classes shown of more than _MOST_CELLS
_MOST_CELLS = 100  # most classes of a matrix of coloured cells
_MOST_WIDE = 15  # most classes of a matrix with wide cells
_LETTERS = 20  # most letters of a class name beside a matrix
_CELL, _LETTER = 11, 5.2  # side of a coloured cell, and width of a letter of a name, in pixels
_STRONG = 0.55  # share from which a count is written in the colour of the ground

STYLE = """
.matrix table{width:auto}
.matrix td{text-align:center;padding:.3rem .45rem;min-width:2.1rem;border-left:1px solid var(--rule);
  background:color-mix(in srgb,var(--c0) calc(100%*var(--share,0)),var(--ground))}
.matrix.dense td{min-width:1.65rem;padding:.25rem .1rem}
.matrix.dense thead th{padding-left:.2rem;padding-right:.2rem}
.matrix td.strong{color:var(--ground)}
.matrix thead th{vertical-align:bottom;text-align:left}
.matrix thead span{writing-mode:vertical-rl;transform:rotate(180deg);display:inline-block}
.matrix tbody th{font-weight:400}
.matrix svg{display:block}
.matrix svg text{fill:var(--muted);font-size:9px;font-family:system-ui,sans-serif}
.matrix svg rect{fill:var(--c0)}
.bar{display:inline-block;position:relative;width:7rem;height:.8rem;background:var(--card);vertical-align:middle;
  border-radius:.2rem}
.bar i{position:absolute;inset:0 auto 0 0;background:var(--c0);border-radius:.2rem;opacity:.75}
.bar b{position:absolute;top:50%;height:2px;margin-top:-1px;background:var(--ink)}
@media (max-width:40rem){.bar{width:4rem}.matrix th:first-child{min-width:4rem;overflow-wrap:normal}}
"""


def confusion(matrix: np.ndarray, classes: list[str]) -> tuple[str, str]:
    """Return a confusion matrix as HTML, coloured by the share of its row, and a sentence on what is shown.

    Up to 30 classes have counts, in the order of the classes. Up to 100 are coloured cells, and of more the 30 that are
    most confused have counts; both are sorted so that confused classes are neighbours.

    Args:
        matrix: what `metrics.confusion` returned.
        classes: names of the classes.
    """
    count, rows = len(classes), "Each row holds the images of one class, and its colours are shares of that row."
    if count <= _MOST_COUNTS:
        return _counts(matrix, np.arange(count), classes), rows
    if count <= _MOST_CELLS:
        text = f"{rows} The classes are sorted so that those which are taken for one another are neighbours."
        return _cells(matrix, charts.spectral_order(matrix), classes), text
    wrong = matrix - np.diag(np.diag(matrix))
    most = np.sort(np.argsort(-(wrong.sum(axis=0) + wrong.sum(axis=1)), kind="stable")[:_MOST_COUNTS])
    order = most[charts.spectral_order(matrix[np.ix_(most, most)])]
    text = f"{rows} Of {count:,} classes, the {_MOST_COUNTS} with the most mistakes are shown; confusion.csv has all."
    return _counts(matrix, order, classes), text


def _shares(matrix):
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _short(name):
    """Return the two ends of a long name, since names of classes often begin alike."""
    return name if len(name) <= _LETTERS else f"{name[: _LETTERS // 2]}\u2026{name[-_LETTERS // 2 + 1 :]}"


def _counts(matrix, order, classes):
    shares, names = _shares(matrix), [html.escape(_short(classes[label])) for label in order]
    dense = " dense" if len(order) > _MOST_WIDE else ""
    head = "".join(f'<th scope="col"><span>{name}</span></th>' for name in names)
    lines = ""
    for label, name in zip(order, names, strict=True):
        cells = ""
        for predicted in order:
            times, share = int(matrix[label, predicted]), shares[label, predicted]
            strong = ' class="strong"' if share > _STRONG else ""
            cells += f'<td{strong} style="--share:{share:.3f}">{times:,}</td>' if times else "<td></td>"
        lines += f'<tr><th scope="row">{name}</th>{cells}</tr>\n'
    return (
        f'<div class="wide matrix{dense}" tabindex="0" role="region" aria-label="Confusion matrix">\n'
        "<table><caption>Confusion matrix: true classes in rows, named classes in columns</caption>\n"
        f'<thead><tr><th scope="col">is / named</th>{head}</tr></thead>\n<tbody>\n{lines}</tbody></table></div>\n'
    )


def _cells(matrix, order, classes):
    shares, names = _shares(matrix), [_short(classes[label]) for label in order]
    margin = round(_LETTER * max(map(len, names))) + 8
    side = margin + _CELL * len(order) + 2
    parts = []
    for row, label in enumerate(order):
        middle, name = margin + _CELL * (row + 0.75), html.escape(names[row])
        parts.append(f'<text x="{margin - 4}" y="{middle:.1f}" text-anchor="end">{name}</text>')
        parts.append(f'<text transform="translate({middle:.1f} {margin - 4}) rotate(-90)">{name}</text>')
        for column, predicted in enumerate(order):
            if times := int(matrix[label, predicted]):
                place = f'x="{margin + _CELL * column}" y="{margin + _CELL * row}" width="{_CELL}" height="{_CELL}"'
                # The root lets rare confusions be seen.
                title = f"{name} named {html.escape(names[column])}: {times:,}"
                strength = f'fill-opacity="{np.sqrt(shares[label, predicted]):.2f}"'
                parts.append(f"<rect {place} {strength}><title>{title}</title></rect>")
    label = f"Confusion matrix of {len(order)} classes; the table of classes says what each is most often named instead"
    size = f'width="{side}" height="{side}" viewBox="0 0 {side} {side}"'
    svg = f'<svg role="img" aria-label="{label}" {size}>{"".join(parts)}</svg>'
    return f'<div class="wide matrix" tabindex="0" role="region" aria-label="Confusion matrix">\n{svg}</div>\n'


def reliability(probability: np.ndarray, right: np.ndarray, title: str, prefix: str) -> str:
    """Return how often predictions are right beside how sure they are, as an element of the page.

    Args:
        probability: float [n], of the predicted class.
        right: bool [n].
        title: title of the chart.
        prefix: prefix of ids, which differs between the charts of a page.
    """
    table = metrics.calibration(probability, right, bins=10)
    filled = table["examples"] > 0
    confidence, accuracy, examples = (table[name][filled] for name in ("confidence", "accuracy", "examples"))
    figure, axes = _axes(f"{title}", "how sure it is (%)")
    muted, colour = curves.INK["muted"][0], curves.COLOURS[0][0]
    axes.plot([0, 100], [0, 100], color=muted, linewidth=1, linestyle="--")
    sizes = 20 + 380 * examples / examples.sum()
    axes.scatter(100 * confidence, 100 * accuracy, s=sizes, color=colour, linewidths=0, zorder=3)
    axes.set(xlim=(0, 104), ylim=(0, 104))
    points = "; ".join(
        f"{100 * sure:.0f}% sure, {100 * hits:.0f}% right ({count:,} images)"
        for sure, hits, count in zip(confidence, accuracy, examples, strict=True)
    )
    return _figure(figure, prefix, f"{title}: {points}")


def curves_of(run: Trained) -> str:
    """Return the curves of a run over epochs, top-1 and loss, in training and on the held-out split."""
    parts = []
    for column, title, scale in (("top1", "Right (top-1, %)", 100), ("loss", "Loss (nats)", 1)):
        drawn = [("training", "train", 1), (run.held_out, run.held_out, 0), ("average", f"{run.held_out}_ema", 2)]
        figure, axes = _axes(title, "epoch")
        told = []
        for name, split, number in drawn:
            _, epochs, values = run.curve(split, column)
            if not len(epochs):
                continue
            means = scale * curves.thinned((epochs, values))[1]
            epochs = curves.thinned((epochs, values))[0]
            colour = curves.COLOURS[number][0]
            marker = "o" if len(epochs) < 12 else None
            axes.plot(epochs, means, color=colour, linewidth=1.0 if split == "train" else 2.2, marker=marker,
                      markersize=4, label=name)  # fmt: skip
            told.append(f"{name} ends at {means[-1]:.3g}")
        if not told:
            continue
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0, top=100 if scale == 100 else None)
        axes.legend(frameon=False, fontsize=10, labelcolor=curves.INK["ink"][0])
        parts.append(_figure(figure, f"curve-{column}-", f"{title} over epochs: {', '.join(told)}"))
    return f'<div class="charts">\n{"".join(parts)}</div>\n' if parts else ""


def _axes(title, horizontal):
    """Return a figure and its axes in colours that the page replaces; see `curves.inline`."""
    ink, muted, rule = (curves.INK[name][0] for name in curves.INK)
    figure = charts.new_figure(5.2, 3.6)
    axes = figure.add_subplot()
    axes.set_title(title, loc="left", fontsize=11, color=ink, fontweight="bold", pad=10)
    axes.set_xlabel(horizontal, color=muted, fontsize=10)
    axes.grid(axis="y", color=rule, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.patch.set_visible(False)
    axes.tick_params(colors=muted, labelsize=10, length=0)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(rule)
    return figure, axes


def _figure(figure, prefix, label):
    element = curves.inline(curves.rendered(figure, "svg"), prefix, themed=True)
    return f'<figure role="img" aria-label="{html.escape(label)}">{element}</figure>\n'


def bar(share: float, low: float, high: float) -> str:
    """Return a bar of a fraction with its interval; the numbers stand beside it, so it is hidden from readers."""
    return (
        f'<span class="bar" aria-hidden="true"><i style="width:{100 * share:.1f}%"></i>'
        f'<b style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%"></b></span>'
    )
