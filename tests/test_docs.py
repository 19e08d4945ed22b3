"""README and documents: short, with links that lead somewhere and commands that exist; the hooks of their site."""

import ast
import importlib.util
import pathlib
import re
import shlex

import pytest

import resnet_tf
from resnet_tf import config
from resnet_tf.commands import main as program
from resnet_tf.config import recipes

ROOT = pathlib.Path(__file__).parent.parent
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "results/README.md", "results/*/README.md", "results/*/report.md")
    for path in ROOT.glob(pattern)
)
# Flags of absl and of `command.launch`, which no configuration has.
COMMON = {"flagfile", "recipe", "list_recipes", "help"}


def hook(name):
    """A hook of the site as a module; mkdocs itself is not needed."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / "site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def repository():
    return hook("repository")


@pytest.fixture(scope="module")
def reference():
    return hook("reference")


def anchors(text):
    """The anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_readme_is_short():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 130 and len(text.split()) <= 1200


@pytest.mark.parametrize("name", DOCUMENTS)
def test_links_lead_to_files(repository, name):
    text = (ROOT / name).read_text()
    for part in repository._CODE.split(text)[::2]:
        for _, target, _ in repository._LINK.findall(part):
            if repository._ELSEWHERE.match(target):
                continue
            path, _, anchor = target.partition("#")
            file = (ROOT / name).parent / path if path else ROOT / name
            assert file.is_file(), target
            assert not anchor or anchor in anchors(file.read_text()), target


def told(name):
    """The command lines of the fenced blocks of a document, [(command, its flags)]."""
    for block in re.findall(r"^ *```\w*\n(.*?)^ *```", (ROOT / name).read_text(), re.DOTALL | re.MULTILINE):
        for line in re.sub(r"\\\n\s*", " ", block).splitlines():
            if found := re.search(r"python -m resnet_tf\.([\w.]+)(.*)", line):
                words = shlex.split(found[2], comments=True)
                words = words[: words.index("--")] if "--" in words else words  # after it, flags of trainings
                yield found[1], [re.split("=", word[2:])[0] for word in words if word.startswith("--")]


def test_commands_of_the_documents_exist_with_their_flags(reference):
    kinds = {program.COMMANDS[name].removeprefix("resnet_tf."): kind for name, kind in reference.commands().items()}
    kinds |= {"models": config.ModelsConfig, "transfer.export": config.TransferExportConfig}
    seen = 0
    for name in DOCUMENTS:
        if name.endswith("report.md"):
            continue  # records of what was run then
        for command, flags in told(name):
            known = {*config.fields_of(kinds[command]), *COMMON}
            unknown = {flag for flag in flags if flag.removeprefix("no") not in known and flag not in known}
            assert not unknown, f"{name}: {command} {unknown}"
            seen += 1
    assert seen > 50


def test_the_table_of_commands_is_complete():
    text = (ROOT / "docs" / "commands.md").read_text()
    missing = [name for name, module in program.COMMANDS.items() if name != "models" and module not in text]
    # `transfer.score` and `transfer.export` share a row; the module of `models` has another name.
    assert missing == [] and "`resnet_tf.models" in text


def test_pages_of_flags_name_every_flag(reference):
    commands, pages = reference.commands(), reference.pages()
    assert commands.keys() == program.COMMANDS.keys()
    for name, kind in commands.items():
        for flag in config.fields_of(kind):
            assert f"- **`--{flag}`**, default " in pages[f"reference/{name}.md"], (name, flag)
    row = next(line for line in pages["reference/train.md"].splitlines() if line.startswith("- **`--batch_size`**"))
    assert "At least 1." in row
    for recipe in recipes.names():
        assert f"## {recipe}\n" in pages["reference/recipes.md"]


def test_names_of_the_api_exist(reference):
    """Read from the source, as the site does: an import of each would take TensorFlow."""
    for _, _, names in reference.API.values():
        for place in names.values():
            module = ROOT / (place.replace(".", "/") + ".py")
            if module.is_file():
                continue
            owner, _, name = place.rpartition(".")
            source = (ROOT / (owner.replace(".", "/") + ".py")).read_text()
            assert re.search(rf"^(def|class) {name}\b", source, re.MULTILINE), place


def test_every_public_name_has_a_page_of_the_api(reference):
    documented = {name for _, _, names in reference.API.values() for name in names}
    public = {"resnet_tf": resnet_tf.__all__}
    for room in ("data", "models"):
        tree = ast.parse((ROOT / "resnet_tf" / room / "__init__.py").read_text())
        (names,) = [one.value for one in tree.body if isinstance(one, ast.Assign) and one.targets[0].id == "__all__"]
        public[f"resnet_tf.{room}"] = [name for name in ast.literal_eval(names) if not name.isupper()]
    assert len(public["resnet_tf.data"]) > 10 and len(public["resnet_tf.models"]) > 5
    handed_on = {f"resnet_tf.models.{name}" for name in resnet_tf.__all__}  # they are on the page of resnet_tf
    lacking = {f"{home}.{name}" for home, names in public.items() for name in names} - handed_on - documented
    assert not lacking


@pytest.mark.parametrize("path, text, expected", [
    ("README.md", "[a](docs/photos.md#ten-steps)", "[a](photos.md#ten-steps)"),
    ("README.md", '<img src="results/a/b.png" width="9">', '<img src="results/a/b.png" width="9">'),
    ("docs/photos.md", "[a](../notebooks/08.ipynb) [b](serving.md)", "[a](notebooks/08.md) [b](serving.md)"),
    ("results/README.md", "[a](../docs/photos.md) [b](../README.md)", "[a](../photos.md) [b](../index.md)"),
    ("docs/a.md", "`[a](../b.md)` [d](#e)", "`[a](../b.md)` [d](#e)"),
    ("docs/a.md", "[b](https://example.org/c)", "[b](https://example.org/c)"),
    ("docs/a.md", "```\n[a](../b.md)\n```\n", "```\n[a](../b.md)\n```\n"),
])  # fmt: skip
def test_links_are_rewritten_for_the_site(repository, path, text, expected):
    assert repository.rewritten(text, path) == expected


def test_the_site_takes_what_is_linked_and_no_more(repository):
    found = repository.outside(ROOT)
    assert {"README.md", "WORKSPACE.md", "results/README.md", "results/cifar10_originals/curves_top1_error.png"} <= set(
        found
    )
    assert sum(path.endswith(".ipynb") for path in found) == 11
    assert not any("/runs/" in path for path in found)


def test_a_notebook_is_shown_with_its_outputs(repository):
    text = repository.markdown_of(ROOT / "notebooks" / "07_transfer.ipynb")
    assert text.startswith("# Transfer") and "```python\nimport os" in text
    assert "](data:image/png;base64," in text and "| anew | " in text
