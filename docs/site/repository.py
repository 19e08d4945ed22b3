"""The repository as a site: README.md is the start page, and links lead to files outside docs/ as they do in a clone.

A hook of mkdocs. The documents link to each other, to results and to notebooks by paths that are right in the
repository. On the site the files of docs/ lie at the top, so each link is rewritten. A file outside docs/ that some
page links to becomes a page (Markdown, notebooks) or is copied (pictures, tables).
"""

import json
import pathlib
import posixpath
import re
from collections.abc import Iterator

DOCS = "docs/"
START = {"README.md": "index.md"}
ENTRIES = ("README.md", "WORKSPACE.md", "CHANGELOG.md", "results/README.md")
# A link or picture, as [text](target "title") or <img src="target">.
_LINK = re.compile(r'(\]\(|<img src=")([^)\s"]+)([^)"]*[)"])')
_ELSEWHERE = re.compile(r"[a-z]+:")  # https:, mailto:, data:
_CODE = re.compile(r"(^ *```.*?^ *```|`[^`\n]+`)", re.DOTALL | re.MULTILINE)


def site_path(path: str) -> str:
    """Return where a file of the repository lies on the site, as a source of mkdocs."""
    path = START.get(path, path).removeprefix(DOCS)
    return re.sub(r"\.ipynb$", ".md", path)


def repository_path(source: str, root: pathlib.Path) -> str:
    """Return the path in the repository of a source of mkdocs: the inverse of `site_path`."""
    if source == "index.md":
        return "README.md"
    notebook = re.sub(r"\.md$", ".ipynb", source)
    for path in (DOCS + source, source, notebook):
        if (root / path).is_file():
            return path
    return DOCS + source  # a page that is written for the site


def links(text: str) -> Iterator[str]:
    """Yield the relative targets of the links and pictures of Markdown, without their anchors."""
    for part in _CODE.split(text)[::2]:
        for _, target, _ in _LINK.findall(part):
            path = target.partition("#")[0]
            if path and not _ELSEWHERE.match(target):
                yield path


def rewritten(text: str, path: str) -> str:
    """Return the Markdown of a file of the repository with its relative links as the site needs them.

    Args:
        text: Markdown.
        path: of the file in the repository.
    """
    here = posixpath.dirname(site_path(path))

    def rewrite(match):
        target, hash_sign, anchor = match[2].partition("#")
        if not target or _ELSEWHERE.match(target):
            return match[0]
        to = site_path(posixpath.normpath(posixpath.join(posixpath.dirname(path), target)))
        return match[1] + posixpath.relpath(to, here or ".") + hash_sign + anchor + match[3]

    parts = _CODE.split(text)
    parts[::2] = [_LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def outside(root: pathlib.Path) -> list[str]:
    """Return the files outside docs/ that the entries and the documents link to, by any number of steps, sorted."""
    waiting = [*ENTRIES, *(f"{DOCS}{path.name}" for path in (root / DOCS).glob("*.md"))]
    seen = set()
    while waiting:
        path = waiting.pop()
        if path in seen or not (root / path).is_file():
            continue
        seen.add(path)
        if path.endswith((".md", ".ipynb")):
            folder = posixpath.dirname(path)
            waiting += [posixpath.normpath(posixpath.join(folder, one)) for one in links(markdown_of(root / path))]
    return sorted(path for path in seen if not path.startswith((DOCS, "../")))


def markdown_of(path: pathlib.Path) -> str:
    """Return a file as Markdown: a notebook with the outputs that are stored in it."""
    text = path.read_text(encoding="utf-8")
    return text if path.suffix != ".ipynb" else "\n\n".join(_cells(json.loads(text)))


def _cells(notebook):
    """Yield the cells of a notebook and their outputs as Markdown."""
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source
        elif cell["cell_type"] == "code":
            yield f"```python\n{source}\n```"
            yield from map(_output, cell["outputs"])


def _output(output):
    """Return an output of a cell as Markdown."""
    data = output.get("data", {})
    if "image/png" in data:
        return f"![output](data:image/png;base64,{''.join(data['image/png']).strip()})".replace("\n", "")
    if "text/markdown" in data:
        return "".join(data["text/markdown"])
    text = "".join(output.get("text", data.get("text/plain", "")))
    return f"```text\n{text.rstrip()}\n```"


def on_files(files, config):
    """Add the files outside docs/ to those of the site."""
    from mkdocs.structure.files import File  # only the site needs it

    root = pathlib.Path(config.config_file_path).parent
    for path in outside(root):
        if path.endswith((".md", ".ipynb")):
            text = markdown_of(root / path)
            files.append(File.generated(config, site_path(path), content=text))
        else:
            files.append(File.generated(config, site_path(path), abs_src_path=str(root / path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Rewrite the links of a page; indent lists in lists by four, as Python-Markdown wants."""
    root = pathlib.Path(config.config_file_path).parent
    text = rewritten(markdown, repository_path(page.file.src_uri, root))
    return re.sub(r"^  - ", "    - ", text, flags=re.MULTILINE)
