"""Files of a comparison of runs: tables, curves, a report, and one HTML page that loads nothing else."""

import dataclasses
import datetime
import html
import logging
import pathlib
from collections.abc import Iterator, Sequence

from resnet_tf import files
from resnet_tf.config import CompareConfig
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, curves, document, pictures, references, significance, tables, trained
from resnet_tf.evaluation import compare as comparing
from resnet_tf.models import find
from resnet_tf.runs import record

_log = logging.getLogger(__name__)


def compare(settings: CompareConfig, folders: Sequence, figures: Sequence[tuple] = ()) -> dict:
    """Compare runs and write tables, curves and a report to --out.

    Args:
        settings: a `config.CompareConfig`.
        folders: folders of the runs.
        figures: further pictures for the page: (title, `matplotlib.figure.Figure`).

    Returns:
        {"out", "title", "runs": names, "skipped": [{"run", "reason"}], "groups": groups of several seeds [{"name",
        "runs", "seeds", "top1_mean", "top1_sd"}], "pairs": number of tests, "best": {"run", "top1", "evaluated"}}. For
        tasks other than classification, their first metric takes the place of "top1".

    Raises:
        InputError: --out cannot be a folder of its own, no run can be read, runs have different data or classes,
            references are damaged or of other data, or matplotlib is not installed.
    """
    out = pathlib.Path(settings.out)
    _check_out(out)
    charts.require("compare")
    runs, skipped = trained.read_all(folders)
    for _, reason in skipped:
        _log.warning("warning: left out: %s", reason)
    content, responses = _content(settings, runs, skipped)
    figures = [*figures, *([("Layer responses", responses)] if responses else [])]
    contents = _files(content, figures)
    for suffix in ("svg", "png") if responses else ():
        contents[f"responses.{suffix}"] = curves.rendered(responses, suffix)
    out.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        files.replace_atomically(out / name, lambda file, data=data: file.write(data))
    print(content.tables["results"].markdown(brief=True), flush=True)
    metric = next(iter(runs[0].metrics))
    best = max(runs, key=lambda run: run.evaluation[metric])
    return {
        "out": str(out), "title": content.title, "runs": [run.name for run in runs],
        "skipped": [{"run": folder, "reason": reason} for folder, reason in skipped],
        "groups": [
            {"name": row["run"], "runs": row["runs"], "seeds": [int(seed) for seed in row["seed"].split()],
             f"{metric}_mean": round(row[metric], 6), f"{metric}_sd": round(row[f"{metric}_sd"], 6)}
            for row in content.rows if row["kind"] == "seeds"
        ],
        "pairs": len(content.tests),
        "best": {"run": best.name, metric: best.evaluation[metric], "evaluated": best.evaluated},
    }  # fmt: skip


def _content(settings, runs, skipped):
    """Return the `Content` of the report and the picture of layer responses, None without --responses."""
    groups = comparing.groups(runs)
    rows = comparing.table(groups, settings.price_per_hour)
    notes, responses, differences = _notes(runs, groups), None, []
    if settings.references:
        differences = references.differences(rows, groups, settings.references)
        rows = references.beside(rows, groups, settings.references)
        notes.append(
            "Published: accuracies that others report for networks on the original data, with their sources. They are "
            "of no run here, and in no test."
        )
    if settings.responses:
        responses, without = _responses(groups, settings.data_dir)
        if without:
            notes.append(f"Layer responses are not known of {', '.join(without)}.")
    flags = comparing.differing_flags(runs)
    tests, untested = significance.of_pairs(groups)
    title = settings.title or f"{len(runs)} run{'s' * (len(runs) > 1)} on {runs[0].config.data.dataset}"
    shown = tables.of_report(rows, flags, tests, runs, settings.price_per_hour)
    over_seeds = significance.of_seeds(groups)
    shown["significance_seeds"] = tables.over_seeds(over_seeds)
    shown["published"] = tables.beside_published(differences)
    return Content(title, runs, groups, skipped, rows, flags, tests, shown, notes, untested, differences), responses


def _files(content, figures):
    """Return the files of a comparison: {name: bytes}."""
    svgs, contents = {}, {}
    for metric, (column, _, _) in content.metrics.items():
        figure = curves.draw(curves.of_groups(content.groups, column), metric, content.runs[0].config.task)
        svgs[metric] = contents[f"curves_{metric}.svg"] = curves.rendered(figure, "svg")
        contents[f"curves_{metric}.png"] = curves.rendered(figure, "png")
    flags = [[row["flag"], row["changes_result"], *row["values"]] for row in content.flags]
    tests = [[row[name] for name in significance.COLUMNS] for row in content.tests]
    texts = {
        "table.csv": pictures.csv_text(content.rows[0], [row.values() for row in content.rows]),
        "table.md": content.tables["results"].markdown(),
        "flags.csv": pictures.csv_text(["flag", "changes_result", *(run.name for run in content.runs)], flags),
        **_published(content),
        **_over_seeds(content),
        "significance.csv": pictures.csv_text(significance.COLUMNS, tests),
        "report.md": markdown(content),
        "report.html": render(content, svgs, figures),
    }
    return contents | {name: text.encode(errors="replace") for name, text in texts.items()}


def _published(content):
    """Return the file of differences from published accuracies, {name: text}; {} where there are none."""
    rows = [row.values() for row in content.differences]
    return {"published.csv": pictures.csv_text(references.DIFFERENCES, rows)} if rows else {}


def _over_seeds(content):
    """Return the file of tests over seeds, {name: text}; {} where fewer than two groups have several."""
    rows = [[row[name] for name in significance.SEEDS_COLUMNS] for row in content.tables["significance_seeds"].rows]
    return {"significance_seeds.csv": pictures.csv_text(significance.SEEDS_COLUMNS, rows)} if rows else {}


def _check_out(out):
    if (out / record.MANIFEST).exists():
        raise InputError(f"--out={out}: a run's folder; choose another")
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not nearest.is_dir():
        raise InputError(f"--out={out}: {'' if nearest == out else f'{nearest} is '}a file, not a folder")


def _responses(groups, data_dir):
    """Draw the layer responses of the first run that has any in each group; also return names of groups without any."""
    from resnet_tf.evaluation import responses  # needs TensorFlow

    deviations, without = {}, []
    for group in groups:
        of_runs = (responses.of_run_or_kept(run.folder, data_dir) for run in group.runs)
        layers = next(filter(None, of_runs), None)
        if layers:
            deviations[group.name] = layers
        else:
            without.append(group.name)
            reason = f"{group.name} has neither a checkpoint nor a {responses.KEPT}"
            _log.warning("warning: %s: no layer responses", reason)
    if not deviations:
        raise InputError(f"--responses: no run has a checkpoint, or the {responses.KEPT} that analyze responses makes")
    plain = [group.name for group in groups if find(group.runs[0].config.model.model).shortcut == "none"]
    return responses.draw_responses(deviations, plain), without


def _notes(runs, groups):
    """Return sentences that explain the results."""
    notes = [
        "Metrics are those of the last evaluation. The best value of a curve is chosen on the examples on which it is "
        "measured, so it is given for the record only.",
        "Parameters: trainable parameters of 4 bytes. GMACs: 10\u2079 multiply-accumulates for one image, forward, "
        "at the size of evaluation. GFLOPs: twice the GMACs. GFLOPs (thop): twice the GMACs, and four operations for "
        "each number that passes a batch normalisation, as the package thop counts. Images/s: speed of training, the "
        "median over rows of metrics.csv.",
    ]
    if any(len(group.runs) > 1 for group in groups):
        notes.append("After \u00b1: the sample standard deviation over seeds (n - 1).")
    if len({run.evaluated for run in runs}) > 1:
        notes.append("The runs were not evaluated alike: see the column Evaluated.")
    waiting = [f"{run.name} ({run.steps:,} of {run.planned:,} steps)" for run in runs if not run.finished]
    if waiting:
        notes.append(f"Unfinished: {', '.join(waiting)}.")
    seen = {}
    for run in runs:
        twin = seen.setdefault((comparing.key_without_seed(run), run.seed), run)
        if twin is not run:
            notes.append(f"{twin.name} and {run.name} have the same flags and the same seed.")
    return notes


@dataclasses.dataclass(frozen=True)
class Content:
    """Content of a report.

    Attributes:
        title: title of the report.
        runs: list of `trained.Trained`.
        groups: list of `compare.Group`.
        skipped: list of (folder, reason).
        rows: what `compare.table` returned, with published rows if there are any.
        flags: what `compare.differing_flags` returned.
        tests: tests that `significance.of_pairs` returned.
        tables: {name: `tables.Table`}, the tables for people.
        notes: sentences on the results.
        untested: sentences on pairs without a test.
        differences: what `references.differences` returned; [] without references.
    """

    title: str
    runs: list
    groups: list
    skipped: list
    rows: list
    flags: list
    tests: list
    tables: dict
    notes: list
    untested: list
    differences: list

    @property
    def metrics(self) -> dict:
        """Metrics whose curves are drawn; see `curves.metrics_of`."""
        return curves.metrics_of(self.runs[0].config.task)

    def summary(self) -> str:
        """Return two sentences on the runs and their data."""
        first, several = self.runs[0], [group for group in self.groups if len(group.runs) > 1]
        data = first.manifest["data"]
        examples = ", ".join(f"{count:,} {split}" for split, count in data["examples"].items())
        text = f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"
        if several:
            text += (f", {sum(len(group.runs) for group in several)} of them in {len(several)} "
                     f"group{'s' * (len(several) != 1)} that differ by seed alone")  # fmt: skip
        text += f". Data: {first.config.data.dataset}, {len(first.manifest['classes'])} classes, examples: {examples}"
        return f"{text}; checksum {data['checksum']}."

    def provenance(self) -> list[tuple[str, dict]]:
        """Return the origin of the numbers: [(name of a run, {label: text})], the comparison itself first."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        origins = [("This comparison", {"Command": record.command(), "Commit": record.commit(), "Made": now})]
        for run in self.runs:
            keys = ("command", "commit", "created", "hardware", "versions")
            facts = {key.capitalize(): str(run.manifest[key]) for key in keys if key in run.manifest}
            origins.append((run.name, {"Folder": trained.printable(run.folder)} | facts))
        return origins


CURVES = (
    "Thin: training, on the augmented batches of the steps before each point. Bold: the held-out split. Dotted: the "
    "held-out split with the moving average of the weights. Bands: one sample standard deviation over seeds. The "
    "beginnings of curves may lie above the picture."
)
OVER_SEEDS = (
    "Welch's test, two-sided, of the means over seeds, with the 95% interval of their difference: whether trainings of "
    "one recipe differ from those of another. Judge by the last column, Holm's adjusted p. The test takes results of "
    "seeds to be normally distributed, which few seeds cannot show."
)
PUBLISHED = (
    "In brackets: our mean less the published accuracy in percentage points, and over the standard error of our mean "
    "(se): the standard deviation over seeds divided by the root of their number n, uncertain itself where they are "
    "few. A published accuracy of one training, or of the best of several, has a spread of its own, which this does "
    "not count."
)
TESTS = (
    "McNemar's test, exact and two-sided, on the predictions of the first run of each group for the same examples; the "
    "interval is that of Bonett and Price (2012). Some of many tests give a small p by chance: judge by the last "
    "column, Holm's adjusted p, which keeps the chance of any false positive at the level that it is compared with. "
    "The test knows the spread over examples, not over seeds: two trainings of one recipe may differ by as much."
)


def _sections(content) -> Iterator[tuple]:
    """Yield the sections in order: (id, heading, sentences, name of the table or None)."""
    yield "results", "Results", content.notes, "results"
    yield "curves", "Curves", [CURVES], None
    yield "flags", "Flags that differ", *(([], "flags") if content.flags else (["None."], None))
    if content.tables["seeds"].rows:
        yield "seeds", "Seeds", ["Mean \u00b1 sample standard deviation over runs that differ by seed alone."], "seeds"
    if content.tables["significance_seeds"].rows:
        yield "over_seeds", "Significance over seeds", [OVER_SEEDS], "significance_seeds"
    if content.tables["published"].rows:
        yield "published", "Beside published results", [PUBLISHED], "published"
    if content.tests:
        yield "significance", "Significance", [TESTS, *content.untested], "significance"
    else:
        yield "significance", "Significance", content.untested or ["There is one group: nothing to test."], None
    if content.skipped:
        yield "skipped", "Left out", [reason for _, reason in content.skipped], None


def markdown(content: Content) -> str:
    """Return the report in Markdown, with links to pictures in its folder."""
    parts = [f"# {tables.markdown_text(content.title)}", tables.markdown_text(content.summary())]
    for name, heading, sentences, table in _sections(content):
        parts.append(f"## {heading}")
        parts += [f"- {tables.markdown_text(text)}" for text in sentences] if name == "skipped" else []
        text = "" if name == "skipped" else "\n\n".join(map(tables.markdown_text, sentences))
        shown = content.tables[table].markdown().rstrip() if table else ""
        parts += [part for part in ((shown, text) if name == "results" else (text, shown)) if part]
        if name == "curves":
            parts += [f"![{title}](curves_{metric}.png)" for metric, (_, title, _) in content.metrics.items()]
    parts.append("## Provenance")
    for name, facts in content.provenance():
        lines = [f"  - {key}: {tables.markdown_text(text)}" for key, text in facts.items()]
        parts.append("\n".join([f"- {tables.markdown_text(name)}", *lines]))
    return "\n\n".join(parts) + "\n"


# --- Page ------------------------------------------------------------------------------------------------------------


_STYLE = """
.significance{max-height:34rem;overflow-y:auto}
.significance thead th{position:sticky;top:0;background:var(--ground)}
.significance thead th:first-child{z-index:1}
tr.seeds td,tr.seeds th{background:var(--card);font-weight:600}
tr.member th{padding-left:2.6rem;font-weight:400}
tr.published td,tr.published th{color:var(--muted);font-weight:400}
.key{width:1.4rem;height:.5rem;margin-right:.45rem;vertical-align:middle}
@media (max-width:40rem){tr.member th{padding-left:2.4rem}.flags th:first-child{white-space:nowrap}}
"""


def render(content: Content, svgs: dict[str, bytes], figures: Sequence[tuple] = ()) -> str:
    """Return the report as one HTML page that loads nothing and runs no script, for light and dark screens.

    Args:
        content: a `Content`.
        svgs: {key of `Content.metrics`: SVG file}.
        figures: further pictures: (title, `matplotlib.figure.Figure`).
    """
    sections = []
    for name, heading, sentences, table in _sections(content):
        css = "" if name in ("skipped", "flags") else ' class="note"'
        text = "".join(f"<p{css}>{html.escape(sentence)}</p>\n" for sentence in sentences)
        if name == "curves":
            text = _charts(content, svgs, text)
        shown = _table(content, table, heading) if table else ""
        # These tables come before their sentences.
        parts = shown + text if name in ("results", "significance") else text + shown
        sections.append(f'<section id="{name}">\n<h2>{heading}</h2>\n{parts}</section>')
    for number, (title, figure) in enumerate(figures):
        element = curves.inline(curves.rendered(figure, "svg"), f"more{number}-", themed=False)
        sections.append(
            f"<section>\n<h2>{html.escape(title)}</h2>\n"
            f'<figure class="paper" role="img" aria-label="{html.escape(title)}">{element}</figure>\n</section>'
        )
    origins = enumerate(content.provenance())
    facts = "".join(document.details(name, part, is_open=not number) for number, (name, part) in origins)
    sections.append(f'<section id="provenance">\n<h2>Provenance</h2>\n{facts}</section>')
    return document.render(content.title, f"<p>{html.escape(content.summary())}</p>", sections, _STYLE)


def _charts(content, svgs, text):
    """Return the curves and their text; the label of a curve refers to the table of results for its numbers."""
    parts = []
    for metric, (_, title, _) in content.metrics.items():
        names = ", ".join(group.name for group in content.groups)
        label = html.escape(f"{title} over epochs of {names}; the table of results has the last values")
        element = curves.inline(svgs[metric], f"{metric}-", themed=True)
        parts.append(f'<figure role="img" aria-label="{label}">{element}</figure>\n')
    return f'<div class="charts">\n{"".join(parts)}<div>{text}</div></div>\n'


def _table(content, name, caption):
    table = content.tables[name]
    columns, rows = table.cells()
    hidden = {"hardware", "commit"} if name == "results" else set()  # they are in the section on provenance
    kept = [i for i, column in enumerate(columns) if column.key not in hidden]
    numbers = {group.name: number for number, group in enumerate(content.groups)}
    several = {group.name for group in content.groups if len(group.runs) > 1}
    css_class = [' class="words"' if column.words else "" for column in columns]
    headers = [html.escape(columns[i].header).replace(" (", "<br>(", 1) for i in kept]  # units below
    lines = "".join(f'<th scope="col"{css_class[i]}>{header}</th>' for i, header in zip(kept, headers, strict=True))
    lines = f"<thead><tr>{lines}</tr></thead>\n<tbody>\n"
    for row, cells in zip(table.rows, rows, strict=True):
        kind, key = "", ""
        if name == "results":
            member = row["kind"] == "run" and row["group"] in several
            kind = ' class="member"' if member else f' class="{row["kind"]}"'
            key = "" if member or row["kind"] == "published" else _key(numbers[row["group"]])
        first, *others = (html.escape(cells[i]) for i in kept)
        tail = "".join(f"<td{css_class[i]}>{cell}</td>" for i, cell in zip(kept[1:], others, strict=True))
        lines += f'<tr{kind}><th scope="row">{key}{first}</th>{tail}</tr>\n'
    label = html.escape(caption)
    return (
        f'<div class="wide {name}" tabindex="0" role="region" aria-label="{label}">\n'
        f"<table><caption>{label}</caption>\n{lines}</tbody></table></div>\n"
    )


def _key(number):
    """Return an SVG sample of the line of a curve."""
    colour, dashes = curves.stroke(number)
    dashes = " ".join(f"{3 * dash:g}" for dash in dashes) or "none"
    return (
        f'<svg class="key" viewBox="0 0 22 8" aria-hidden="true"><line x1="1" y1="4" x2="21" y2="4" '
        f'stroke="var(--c{colour})" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )
