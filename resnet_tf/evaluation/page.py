"""A comparison of runs as files: tables, curves, and one page that needs nothing but itself."""

import dataclasses
import datetime
import html
import logging
import pathlib
import string

from resnet_tf import files
from resnet_tf.errors import InputError
from resnet_tf.evaluation import charts, curves, references, significance, tables, trained
from resnet_tf.evaluation import compare as comparing
from resnet_tf.models import find
from resnet_tf.runs import record

_log = logging.getLogger(__name__)


def compare(settings, folders, figures=()):
    """Compare runs and write tables, curves and a report.

    Args:
        settings: a `config.CompareConfig`.
        folders: of the runs.
        figures: more pictures for the page: list of (title, `matplotlib.figure.Figure`).

    Returns:
        {"out", "title", "runs": names, "skipped": [{"run", "reason"}], "groups": of several seeds [{"name", "runs",
        "seeds", "top1_mean", "top1_sd"}], "pairs": tested, "best": {"run", "top1", "evaluated"}}; of other tasks the
        first of their figures in the place of "top1".

    Raises:
        InputError: --out cannot be a folder of its own; no run can be read; runs of different data or classes;
            references that are damaged or of other data; matplotlib is not installed.
    """
    out = pathlib.Path(settings.out)
    _check_out(out)
    charts.require("compare")
    runs, skipped = trained.read_all(folders)
    for _, reason in skipped:
        _log.warning("warning: left out: %s", reason)
    made = comparing.groups(runs)
    rows = comparing.table(made, settings.price_per_hour)
    if settings.references:
        rows = references.beside(rows, made, settings.references)
    flags = comparing.differing_flags(runs)
    tests, untested = significance.of_pairs(made)
    title = settings.title or f"{len(runs)} run{'s' * (len(runs) > 1)} on {runs[0].config.data.dataset}"
    notes = _notes(runs, made)
    if settings.references:
        notes.append(
            "Published: what others report of networks on the original data, with its source; of no run here, and in "
            "no test."
        )
    if settings.responses:
        drawn, without = _responses(made, settings.data_dir)
        figures = [*figures, ("Layer responses", drawn)]
        if without:
            notes.append(f"Layer responses are not known of {', '.join(without)}.")
    shown = tables.of_report(rows, flags, tests, runs, settings.price_per_hour)
    content = Content(title, runs, made, skipped, shown, notes, untested)

    pictures, contents = {}, {}
    for metric, (column, _, _) in content.metrics.items():
        figure = curves.draw(curves.of_groups(made, column), metric, runs[0].config.task)
        pictures[metric] = curves.rendered(figure, "svg")
        contents[f"curves_{metric}.svg"] = pictures[metric]
        contents[f"curves_{metric}.png"] = curves.rendered(figure, "png")
    contents["table.csv"] = tables.as_csv(rows[0], [row.values() for row in rows])
    contents["table.md"] = content.tables["results"].markdown().encode(errors="replace")
    values = [[row["flag"], row["changes_result"], *row["values"]] for row in flags]
    contents["flags.csv"] = tables.as_csv(["flag", "changes_result", *(run.name for run in runs)], values)
    contents["significance.csv"] = tables.as_csv(
        tables.SIGNIFICANCE, [[row[name] for name in tables.SIGNIFICANCE] for row in tests]
    )
    if settings.responses:
        contents["responses.svg"], contents["responses.png"] = (curves.rendered(drawn, kind) for kind in ("svg", "png"))
    contents["report.md"] = markdown(content).encode(errors="replace")
    contents["report.html"] = render(content, pictures, figures).encode(errors="replace")
    out.mkdir(parents=True, exist_ok=True)
    for name, data in contents.items():
        files.replace_atomically(out / name, lambda file, data=data: file.write(data))

    print(content.tables["results"].markdown(brief=True), flush=True)
    first = next(iter(runs[0].figures))
    best = max(runs, key=lambda run: run.evaluation[first])
    return {
        "out": str(out),
        "title": title,
        "runs": [run.name for run in runs],
        "skipped": [{"run": folder, "reason": reason} for folder, reason in skipped],
        "groups": [
            {"name": row["run"], "runs": row["runs"], "seeds": [int(seed) for seed in row["seed"].split()],
             f"{first}_mean": round(row[first], 6), f"{first}_sd": round(row[f"{first}_sd"], 6)}
            for row in rows if row["kind"] == "seeds"
        ],
        "pairs": len(tests),
        "best": {"run": best.name, first: best.evaluation[first], "evaluated": best.evaluated},
    }  # fmt: skip


def _check_out(out):
    if (out / record.MANIFEST).exists():
        raise InputError(f"--out={out}: a run's folder; choose another")
    for place in (out, *out.parents):
        if place.exists():
            if not place.is_dir():
                raise InputError(f"--out={out}: {'' if place == out else f'{place} is '}a file, not a folder")
            return


def _responses(made, data_dir):
    """Layer responses of groups, by the first run that has any: the picture, plain nets dashed; names of the others."""
    from resnet_tf.evaluation import responses  # which needs TensorFlow at work

    found, without = {}, []
    for group in made:
        of_runs = (responses.of_run_or_kept(run.folder, data_dir) for run in group.runs)
        figures = next(filter(None, of_runs), None)
        if figures:
            found[group.name] = figures
            continue
        without.append(group.name)
        reason = f"{group.name} has neither a checkpoint nor a {responses.KEPT}"
        _log.warning("warning: %s: no layer responses", reason)
    if not found:
        raise InputError(f"--responses: no run has a checkpoint, or the {responses.KEPT} that analyze responses makes")
    plain = [group.name for group in made if find(group.runs[0].config.model.model).shortcut == "none"]
    return responses.draw_responses(found, plain), without


def _notes(runs, made):
    """What a reader should know of the results, a sentence each."""
    notes = [
        "Figures are of the last evaluation; the best of a curve is chosen on the examples it is measured on, so it "
        "stands here for the record only.",
        "Parameters: trainable ones at 4 bytes each. GMACs: 10\u2079 multiply-accumulates of one image, forward, at "
        "the size of evaluation; GFLOPs: twice these; GFLOPs (thop): twice these, and four for each number that passes "
        "a batch normalisation, as the package thop counts. Images/s: the training's, the median over its rows of "
        "metrics.",
    ]
    if any(len(group.runs) > 1 for group in made):
        notes.append("After \u00b1: the sample standard deviation over seeds (n - 1).")
    if len({run.evaluated for run in runs}) > 1:
        notes.append("The runs were not evaluated alike: see the column Evaluated.")
    waiting = [f"{run.name} ({run.steps:,} of {run.planned:,} steps)" for run in runs if not run.finished]
    if waiting:
        notes.append(f"Unfinished: {', '.join(waiting)}.")
    seen = {}
    for run in runs:
        twin = seen.setdefault((comparing.but_for_seed(run), run.seed), run)
        if twin is not run:
            notes.append(f"{twin.name} and {run.name} have the same flags and the same seed.")
    return notes


# --- Report ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Content:
    """What a report says.

    Attributes:
        title: of it.
        runs: list of `trained.Trained`.
        made: list of `compare.Group`.
        skipped: list of (folder, reason).
        tables: {name: `tables.Table`}.
        notes: sentences on the results.
        untested: sentences on pairs that were not tested.
    """

    title: str
    runs: list
    made: list
    skipped: list
    tables: dict
    notes: list
    untested: list

    @property
    def metrics(self):
        """What curves are drawn of; see `curves.metrics_of`."""
        return curves.metrics_of(self.runs[0].config.task)

    def summary(self):
        """What is compared, in a sentence."""
        first, several = self.runs[0], [group for group in self.made if len(group.runs) > 1]
        data = first.manifest["data"]
        examples = ", ".join(f"{count:,} {split}" for split, count in data["examples"].items())
        words = [f"{len(self.runs)} run{'s' * (len(self.runs) != 1)}"]
        if several:
            words.append(f", {sum(len(group.runs) for group in several)} of them in {len(several)} "
                         f"group{'s' * (len(several) != 1)} that differ by seed alone")  # fmt: skip
        words.append(f". Data: {first.config.data.dataset}, {len(first.manifest['classes'])} classes, examples: ")
        words.append(f"{examples}; checksum {data['checksum']}.")
        return "".join(words)

    def facts(self):
        """Where the numbers come from: [(name of a run, {what: text})], the comparison itself first."""
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        found = [("This comparison", {"Command": record.command(), "Commit": record.commit(), "Made": now})]
        for run in self.runs:
            keys = ("command", "commit", "created", "hardware", "versions")
            facts = {key.capitalize(): str(run.manifest[key]) for key in keys if key in run.manifest}
            found.append((run.name, {"Folder": trained.printable(run.folder)} | facts))
        return found


CURVES = (
    "Thin: training, on the augmented batches of the steps before each point. Bold: the held-out split. Dotted: the "
    "same by the moving average of the weights. Bands: one sample standard deviation over seeds. The beginnings of "
    "curves may lie above the picture."
)
TESTS = (
    "McNemar's test, exact and two-sided, on the answers of the first run of each group to the same examples; the "
    "interval is Bonett and Price's (2012). Of many tests some come out small by chance: judge by the last column, "
    "Holm's adjusted p, which keeps the chance of any false finding at the level that it is compared with. The test "
    "knows the spread over examples, not over seeds: two trainings of one recipe may differ by as much."
)


def _sections(content):
    """Headings and their parts, in order: [(id, heading, sentences before, name of the table, or None)]."""
    tables = content.tables
    yield "results", "Results", content.notes, "results"
    yield "curves", "Curves", [CURVES], None
    if tables["flags"].rows:
        yield "flags", "Flags that differ", [], "flags"
    else:
        yield "flags", "Flags that differ", ["None."], None
    if tables["seeds"].rows:
        yield "seeds", "Seeds", ["Mean \u00b1 sample standard deviation over runs that differ by seed alone."], "seeds"
    if tables["significance"].rows:
        yield "significance", "Significance", [TESTS, *content.untested], "significance"
    else:
        yield "significance", "Significance", content.untested or ["There is one group: nothing to test."], None
    if content.skipped:
        yield "skipped", "Left out", [reason for _, reason in content.skipped], None


def markdown(content):
    """The report in Markdown, with the pictures beside it.

    Args:
        content: a `Content`.
    """
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
    for name, facts in content.facts():
        lines = [f"  - {key}: {tables.markdown_text(text)}" for key, text in facts.items()]
        parts.append("\n".join([f"- {tables.markdown_text(name)}", *lines]))
    return "\n\n".join(parts) + "\n"


# --- Page ------------------------------------------------------------------------------------------------------------

_PAGE = string.Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>$title</title>
<style>
:root{$light--ground:#fff;--card:#f6f7f9}
@media (prefers-color-scheme:dark){:root{$dark--ground:#14171b;--card:#1c2026}}
*{box-sizing:border-box}
body{margin:0;background:var(--ground);color:var(--ink);line-height:1.5;-webkit-text-size-adjust:100%;
  font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
main{max-width:76rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1{font-size:1.9rem;line-height:1.2;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:3rem 0 .75rem}
p,li,dd{overflow-wrap:anywhere}
p{max-width:46rem;margin:.5rem 0}
header p{color:var(--muted)}
.note{color:var(--muted);font-size:.875rem}
.wide{overflow-x:auto;border:1px solid var(--rule);border-radius:.5rem;max-width:100%}
.wide:focus-visible{outline:2px solid var(--c0)}
table{border-collapse:separate;border-spacing:0;font-size:.875rem;width:100%;font-variant-numeric:tabular-nums}
caption{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
th,td{padding:.45rem .75rem;text-align:right;white-space:nowrap;border-top:1px solid var(--rule)}
thead th{border-top:0;color:var(--muted);font-weight:500;vertical-align:bottom}
.words{text-align:left}
tbody th{font-weight:500;text-align:left}
th:first-child{position:sticky;left:0;background:var(--ground);border-right:1px solid var(--rule)}
.significance{max-height:34rem;overflow-y:auto}
.significance thead th{position:sticky;top:0;background:var(--ground)}
.significance thead th:first-child{z-index:1}
tr.seeds td,tr.seeds th{background:var(--card);font-weight:600}
tr.member th{padding-left:2.6rem;font-weight:400}
tr.published td,tr.published th{color:var(--muted);font-weight:400}
.key{width:1.4rem;height:.5rem;margin-right:.45rem;vertical-align:middle}
.charts{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,30rem),1fr))}
figure{margin:0}
figure svg{display:block;width:100%;height:auto}
figure svg *{stroke-linejoin:round;stroke-linecap:butt}
figure svg text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif!important}
.paper{background:#fff;border-radius:.5rem;padding:.5rem}
figcaption{color:var(--muted);font-size:.875rem}
details{border-top:1px solid var(--rule);padding:.5rem 0}
summary{cursor:pointer;overflow-wrap:anywhere}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1rem;margin:.5rem 0 .5rem 1rem;font-size:.875rem}
dt{color:var(--muted)}
dd{margin:0;min-width:0}
code{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;font-size:.8125rem}
@media (max-width:40rem){main{padding:1.5rem 1rem 3rem}h1{font-size:1.5rem}th,td{padding:.4rem .55rem}
  th:first-child{min-width:8.5rem;white-space:normal;overflow-wrap:anywhere}tr.member th{padding-left:2.4rem}
  .flags th:first-child{white-space:nowrap}
  dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
@media print{.wide{overflow:visible;max-height:none;border:0}details{break-inside:avoid}}
</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p>$summary</p>
</header>
$sections
</main>
</body>
</html>
""")


def render(content, pictures, figures=()):
    """The report as one HTML page that loads nothing and runs no script, for light and dark screens of any width.

    Args:
        content: a `Content`.
        pictures: {key of `Content.metrics`: SVG bytes}.
        figures: more pictures: list of (title, `matplotlib.figure.Figure`).
    """
    sections = []
    for name, heading, sentences, table in _sections(content):
        css = "" if name in ("skipped", "flags") else ' class="note"'
        text = "".join(f"<p{css}>{html.escape(sentence)}</p>\n" for sentence in sentences)
        if name == "curves":
            text = _charts(content, pictures, text)
        shown = _table(content, table, heading) if table else ""
        # The key table comes first, with what is to be known of it below.
        parts = shown + text if name in ("results", "significance") else text + shown
        sections.append(f'<section id="{name}">\n<h2>{heading}</h2>\n{parts}</section>')
    for number, (title, figure) in enumerate(figures):
        element = curves.inline(curves.rendered(figure, "svg"), f"more{number}-", themed=False)
        sections.append(
            f"<section>\n<h2>{html.escape(title)}</h2>\n"
            f'<figure class="paper" role="img" aria-label="{html.escape(title)}">{element}</figure>\n</section>'
        )
    facts = "".join(
        f"<details{'' if number else ' open'}><summary>{html.escape(name)}</summary><dl>"
        + "".join(f"<dt>{key}</dt><dd><code>{html.escape(text)}</code></dd>" for key, text in part.items())
        + "</dl></details>\n"
        for number, (name, part) in enumerate(content.facts())
    )
    sections.append(f'<section id="provenance">\n<h2>Provenance</h2>\n{facts}</section>')
    return _PAGE.substitute(
        title=html.escape(content.title),
        summary=html.escape(content.summary()),
        light=curves.style(dark=False),
        dark=curves.style(dark=True),
        sections="\n".join(sections),
    )


def _charts(content, pictures, text):
    """The curves, and the text on them; what a picture shows is said in figures by the table above it."""
    parts = []
    for metric, (_, title, _) in content.metrics.items():
        names = ", ".join(group.name for group in content.made)
        label = html.escape(f"{title} over epochs of {names}; the table of results has the last figures")
        element = curves.inline(pictures[metric], f"{metric}-", themed=True)
        parts.append(f'<figure role="img" aria-label="{label}">{element}</figure>\n')
    return f'<div class="charts">\n{"".join(parts)}<div>{text}</div></div>\n'


def _table(content, name, caption):
    table = content.tables[name]
    columns, rows = table.cells()
    hidden = {"hardware", "commit"} if name == "results" else set()  # they are under provenance
    kept = [i for i, column in enumerate(columns) if column.key not in hidden]
    numbers = {group.name: number for number, group in enumerate(content.made)}
    several = {group.name for group in content.made if len(group.runs) > 1}

    def side(index):
        return ' class="words"' if columns[index].words else ""

    headers = [html.escape(columns[i].header).replace(" (", "<br>(", 1) for i in kept]  # units below
    lines = "".join(f'<th scope="col"{side(i)}>{header}</th>' for i, header in zip(kept, headers, strict=True))
    lines = f"<thead><tr>{lines}</tr></thead>\n<tbody>\n"
    for row, cells in zip(table.rows, rows, strict=True):
        kind, key = "", ""
        if name == "results":
            member = row["kind"] == "run" and row["group"] in several
            kind = ' class="member"' if member else f' class="{row["kind"]}"'
            key = "" if member or row["kind"] == "published" else _key(numbers[row["group"]])
        first, *others = (html.escape(cells[i]) for i in kept)
        tail = "".join(f"<td{side(i)}>{cell}</td>" for i, cell in zip(kept[1:], others, strict=True))
        lines += f'<tr{kind}><th scope="row">{key}{first}</th>{tail}</tr>\n'
    label = html.escape(caption)
    return (
        f'<div class="wide {name}" tabindex="0" role="region" aria-label="{label}">\n'
        f"<table><caption>{label}</caption>\n{lines}</tbody></table></div>\n"
    )


def _key(number):
    """A bit of a curve, as it is drawn."""
    colour, dashes = curves.stroke(number)
    dashes = " ".join(f"{3 * dash:g}" for dash in dashes) or "none"
    return (
        f'<svg class="key" viewBox="0 0 22 8" aria-hidden="true"><line x1="1" y1="4" x2="21" y2="4" '
        f'stroke="var(--c{colour})" stroke-width="3" stroke-dasharray="{dashes}"/></svg>'
    )
