"""An HTML page that loads nothing and runs no script, for light and dark screens, desktop and phone."""

import html
import string
from collections.abc import Sequence

from resnet_tf.evaluation import curves

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
  th:first-child{min-width:8.5rem;white-space:normal;overflow-wrap:anywhere}
  dl{grid-template-columns:1fr;gap:0}dd{margin-bottom:.4rem}}
@media print{.wide{overflow:visible;max-height:none;border:0}details{break-inside:avoid}}
$style</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
$summary
</header>
$sections
</main>
</body>
</html>
""")


def render(title: str, summary: str, sections: Sequence[str], style: str = "") -> str:
    """Return a page.

    Args:
        title: title of the page, plain text.
        summary: HTML below the title.
        sections: HTML of each section.
        style: CSS of this page beside that of all pages. It may use the variables of `curves.style`.
    """
    return _PAGE.substitute(
        title=html.escape(title),
        summary=summary,
        light=curves.style(dark=False),
        dark=curves.style(dark=True),
        style=style,
        sections="\n".join(sections),
    )


def details(name: str, facts: dict[str, str], is_open: bool = False) -> str:
    """Return a part that can be folded, with a list of facts.

    Args:
        name: its heading, plain text.
        facts: {label: text}, plain text.
        is_open: whether it is unfolded at first.
    """
    items = "".join(f"<dt>{key}</dt><dd><code>{html.escape(text)}</code></dd>" for key, text in facts.items())
    return f"<details{' open' if is_open else ''}><summary>{html.escape(name)}</summary><dl>{items}</dl></details>\n"
