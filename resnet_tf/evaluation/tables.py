"""Tables of a comparison for people: their columns, and the text of their values."""

import dataclasses
import html
import re
import typing

from resnet_tf.evaluation.trained import Trained

_FEW_CLASSES = 10  # of fewer classes, to be among the five likeliest says nothing


class Column(typing.NamedTuple):
    """Column of a table.

    Attributes:
        key: key of the value in a row.
        header: header with the unit.
        show: function(value, row) that returns the text of a value.
        brief: whether the column is printed in the terminal.
        words: whether values are text, aligned left.
    """

    key: str
    header: str
    show: typing.Callable
    brief: bool = False
    words: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Columns and rows of a table; columns without any value are left out."""

    columns: list[Column]
    rows: list[dict]

    def cells(self, brief: bool = False) -> tuple[list[Column], list[list[str]]]:
        """Return the visible columns, and the texts of each row."""
        kept = [column for column in self.columns if any(row[column.key] is not None for row in self.rows)]
        kept = [column for column in kept if column.brief or not brief]
        return kept, [["" if row[c.key] is None else c.show(row[c.key], row) for c in kept] for row in self.rows]

    def markdown(self, brief: bool = False) -> str:
        """Return the table in Markdown with aligned columns."""
        columns, rows = self.cells(brief)
        rows = [[markdown_text(cell) for cell in row] for row in [[c.header for c in columns], *rows]]
        widths = [max(3, *(len(row[index]) for row in rows)) for index in range(len(columns))]
        sides = ["<" if column.words else ">" for column in columns]

        def line(cells):
            padded = (f"{cell:{side}{width}}" for cell, side, width in zip(cells, sides, widths, strict=True))
            return f"| {' | '.join(padded)} |"

        marks = ["-" * (width - 1) + ("-" if side == "<" else ":") for side, width in zip(sides, widths, strict=True)]
        return "\n".join([line(rows[0]), line(marks), *map(line, rows[1:])]) + "\n"


def markdown_text(text: str) -> str:
    """Escape text so that it is plain text in a cell of Markdown."""
    text = html.escape(" ".join(text.split()), quote=False)
    return re.sub(r"([\\`*\[\]|~]|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z]))", r"\\\1", text)  # not _ within words


def _text(value, _):
    return str(value)


def _number(digits):
    return lambda value, _: f"{value:,.{digits}f}"


def _percent(key):
    def show(value, row):
        sd = row.get(f"{key}_sd")
        return f"{100 * value:.2f}" + (f" \u00b1 {100 * sd:.2f}" if sd is not None else "")

    return show


def _steps(value, row):
    if value in ("several", row["planned_steps"]):
        return str(value) if value == "several" else f"{value:,}"
    return f"{value:,} of {row['planned_steps']:,}{'' if row['finished'] else ', unfinished'}"


def _clock(value, _):
    minutes, seconds = divmod(round(value), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _name(value, row):
    suffixes = {"seeds": f", mean of {row['runs']} seeds", "published": ", published"}
    return f"{value}{suffixes.get(row['kind'], '')}"


def _p(value, _=None):
    return f"{value:.4f}" if value >= 0.0001 else f"{value:.1e}"


def of_report(rows: list[dict], flags: list[dict], tests: list[dict], runs: list[Trained], price: float) -> dict:
    """Return the tables of a report.

    Args:
        rows: what `compare.table` or `references.beside` returned.
        flags: what `compare.differing_flags` returned.
        tests: tests that `significance.of_pairs` returned.
        runs: list of `trained.Trained`.
        price: price of a GPU for an hour.

    Returns:
        {name: `Table`} of "results", "flags", "seeds" and "significance".
    """
    metrics = runs[0].metrics
    if len(runs[0].manifest["classes"]) < _FEW_CLASSES:
        metrics = {name: title for name, title in metrics.items() if name != "top5"}
    changed = [
        Column("flag", "Flag", lambda value, _: f"--{value}", words=True),
        Column("changes_result", "Changes the result", lambda value, _: "yes" if value else "no", words=True),
        *(Column(index, run.name, lambda value, _: value or "unset", words=True) for index, run in enumerate(runs)),
    ]
    seeds = [
        Column("run", "Group", _text, words=True),
        Column("runs", "n", _text),
        Column("seed", "Seeds", _text, words=True),
        *(Column(key, f"{name}, last (%)", _percent(key)) for key, name in metrics.items()),
        Column("loss_nats", "Loss (nats)", lambda value, row: f"{value:.4f} \u00b1 {row['loss_nats_sd']:.4f}"),
    ]
    return {
        "results": Table(_result_columns(metrics, price), rows),
        "flags": Table(changed, [row | dict(enumerate(row["values"])) for row in flags]),
        "seeds": Table(seeds, [row for row in rows if row["kind"] == "seeds"]),
        "significance": Table(_TEST_COLUMNS, tests),
    }


def over_seeds(tests: list[dict]) -> Table:
    """Return the table of tests over seeds, which `significance.of_seeds` returned."""
    same = {column.key: column for column in _TEST_COLUMNS}
    distance, interval = (same[key] for key in ("difference_points", "low_points"))
    return Table(
        [
            *(same[key] for key in ("a", "b")),
            Column("runs_a", "n of A", _text),
            Column("runs_b", "n of B", _text),
            distance._replace(header="A - B (points)"),
            interval,
            Column("degrees_of_freedom", "Degrees of freedom", _number(1)),
            *(same[key] for key in ("p", "p_holm")),
        ],
        tests,
    )


def beside_published(differences: list[dict]) -> Table:
    """Return the table of groups beside published accuracies: a row a group, a column a source.

    Args:
        differences: what `references.differences` returned.
    """
    rows, sources = {}, {}
    for each in differences:
        key = sources.setdefault(each["source"], len(sources))
        row = rows.setdefault(each["group"], dict(each))
        row[key] = [*row.get(key, []), _beside(each)]
    columns = [
        Column("group", "Group", _text, words=True),
        Column("runs", "n", _text),
        Column("top1_percent", "Top-1, mean ± sd (%)", _mean_of_seeds),
        Column("standard_error_points", "Two standard errors (points)", lambda value, _: f"{2 * value:.2f}"),
        *(Column(key, f"{source} (%)", _joined, words=True) for source, key in sources.items()),
    ]
    return Table(columns, [dict.fromkeys(sources.values()) | row for row in rows.values()])


def _joined(values, _):
    return "; ".join(values)


def _mean_of_seeds(value, row):
    spread = row["sd_points"]
    return f"{value:.2f}" + ("" if spread is None else f" \u00b1 {spread:.2f}")


def _beside(each):
    """Return a published accuracy with our distance from it, such as 93.39 ± 0.16, mean of five (-0.12, -1.1 se)."""
    spread, errors = each["published_sd_points"], each["difference_in_standard_errors"]
    published = f"{each['published_percent']:.2f}" + ("" if spread is None else f" \u00b1 {spread:.2f}")
    _, _, more = each["name"].partition(", ")
    distance = f"{each['difference_points']:+.2f}" + ("" if errors is None else f", {errors:+.1f} se")
    return f"{published}{f', {more}' if more else ''} ({distance})"


def _result_columns(metrics, price):
    return [
        Column("run", "Run", _name, brief=True, words=True),
        *(Column(key, f"{name}, last (%)", _percent(key), brief=True) for key, name in metrics.items()),
        *(Column(f"best_{key}", f"{name}, best (%)", _percent(f"best_{key}")) for key, name in metrics.items()),
        Column("published", "Published top-1 (%)", _text, words=True),
        Column("source", "Source", _text, brief=True, words=True),
        Column("evaluated", "Evaluated", _text, words=True),
        Column("architecture", "Architecture", _text, brief=True, words=True),
        Column("precision_bits", "Precision (bits)", _text),
        Column("parameters_mib", "Parameters (MiB)", _number(2), brief=True),
        Column("gmacs", "GMACs", _number(4), brief=True),
        Column("gflops", "GFLOPs", _number(4)),
        Column("gflops_thop", "GFLOPs (thop)", _number(4)),
        Column("steps", "Steps", _steps, brief=True),
        Column("epochs", "Epochs", _number(1)),
        Column("wall_seconds", "Wall time (h:mm:ss)", _clock, brief=True),
        Column("images_per_second", "Images/s", _number(0), brief=True),
        Column("gpu_hours", "GPU-hours", _number(2)),
        Column("price", f"Price (at {price:g} an hour)", _number(2)),
        Column("hardware", "Hardware", _text, words=True),
        Column("commit", "Commit", _text, words=True),
    ]


_TEST_COLUMNS = [
    Column("a", "A", _text, words=True),
    Column("b", "B", _text, words=True),
    Column("examples", "Examples", _number(0)),
    Column("a_only", "Only A right", _number(0)),
    Column("b_only", "Only B right", _number(0)),
    Column("difference_points", "A - B, top-1 (points)", lambda value, _: f"{value:+.2f}"),
    Column("low_points", "95% interval (points)", lambda value, row: f"{value:+.2f} to {row['high_points']:+.2f}"),
    Column("p", "p", _p),
    Column("p_holm", "p, Holm", _p),
]
