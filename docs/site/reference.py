"""The pages of the site that are written from the source: the API, the recipes, and the flags of every command.

A hook of mkdocs. Nothing here imports TensorFlow: the flags are fields of `resnet_tf.config`, and the API is read, not
imported.
"""

import ast
import html
import pathlib
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from resnet_tf import config as settings  # noqa: E402
from resnet_tf.commands import main as program  # noqa: E402


def _from(home, **modules):
    """Return {HOME.NAME: MODULE.NAME} of names that a package hands on, given as MODULE="NAME NAME"."""
    return {
        f"{home}.{name}": f"resnet_tf.{module.replace('__', '.')}.{name}"
        for module, names in modules.items()
        for name in names.split()
    }


def _modules(room, names):
    """Return {module: module} of the named modules of a room."""
    return {f"resnet_tf.{room}.{name}": f"resnet_tf.{room}.{name}" for name in names.split()}


# {page: (title, introduction, what to document: {name as users write it: where it is})}. A module stands for its public
# functions and classes.
API = {
    "api/resnet_tf.md": (
        "resnet_tf",
        "The commands and the networks from Python.",
        _from(
            "resnet_tf",
            api="fit Fitted evaluate export predict preprocessing_of",
            models__builder="create_model create_backbone",
            models__cost="cost",
            models__architectures="list_models",
            models__imagenet="decode_predictions",
            errors="InputError",
        ),
    ),
    "api/data.md": (
        "resnet_tf.data",
        "Find, decode, crop, augment and batch images.",
        _from(
            "resnet_tf.data",
            data__sources="index load",
            data__splits="Source Split",
            data__examples="Examples",
            data__for_keras="pipeline",
            data__geometry="View",
            data__resident="PadCrop",
            data__augmentation="Augmentation",
            data__images="decode decode_tensor resize_center",
            data__archives="read_members",
        ),
    ),
    "api/models.md": (
        "resnet_tf.models",
        "A row of a table in, a Keras network out; files of weights.",
        _from("resnet_tf.models", models__architectures="Architecture find", models__cost="Cost cost_by_name")
        | _modules("models", "weights inside"),
    ),
    "api/training.md": (
        "resnet_tf.training",
        "The loop of a training and its callbacks.",
        _modules("training", "loop logging_callbacks"),
    ),
    "api/evaluation.md": (
        "resnet_tf.evaluation",
        "Scores of a split, comparisons of runs, and looks inside networks.",
        _modules("evaluation", "evaluate metrics significance compare curves page charts responses attribution"),
    ),
    "api/serving.md": (
        "resnet_tf.serving",
        "Exports, models that answer, and a server of them.",
        _modules("serving", "export runtimes client predict server"),
    ),
}


def api_page(title: str, introduction: str, names: dict[str, str]) -> str:
    """Return a page of the API as Markdown for mkdocstrings."""
    parts = [f"# {title}\n\n{introduction}\n"]
    for name, place in names.items():
        parts.append(f"::: {place}\n    options:\n      heading: {name}\n      toc_label: {name.rpartition('.')[2]}\n")
    return "\n".join(parts)


def commands() -> dict[str, type]:
    """Return {command: class of its configuration}, read from the source of the commands."""
    found = {}
    for name, module in program.COMMANDS.items():
        path = ROOT / "resnet_tf" / "commands" / (module.removeprefix("resnet_tf.").replace(".", "/") + ".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("command.entry", "command.launch"):
                found[name] = getattr(settings, node.args[1].attr)
    return found


def flags_page(name: str, config_type: type) -> str:
    """Return the page of the flags of a command, as Markdown: one list for each section of its configuration."""
    lines = [f"# Flags of {name}", "", f"`python -m {program.COMMANDS[name]} --help` lists them too.", ""]
    for section in settings.section_types(config_type).values():
        title = section.__doc__.strip().rstrip(".").split("\n")[0]
        lines += [f"## {title}", ""]
        for flag, field in settings.fields_of(section).items():
            limits = " ".join(filter(None, (_choices(field.metadata), settings.usage(config_type, flag))))
            meaning = html.escape(f"{field.metadata['help']} {limits}".strip(), quote=False)
            lines.append(f"- **`--{flag}`**, default {_value(field.default)}: {meaning}")
        lines.append("")
    return "\n".join(lines)


def _choices(metadata):
    """Return the allowed values of a flag as a sentence."""
    if metadata["choices"]:
        return f"One of {', '.join(one or 'unset' for one in metadata['choices'])}."
    limits = {"at least": metadata["low"], "at most": metadata["high"]}
    bounds = [f"{word} {limit:g}" for word, limit in limits.items() if limit is not None]
    return f"{' and '.join(bounds).capitalize()}." if bounds else ""


def _value(default):
    """Return a default as a flag takes it."""
    if default is None or default in ("", ()):
        return "unset"
    text = settings.listed(default) if isinstance(default, tuple) else str(default)
    return f"`{text.lower() if isinstance(default, bool) else text}`"


def recipes_page() -> str:
    """Return the page of the recipes and grids: each file of flags/ as it is, with its header."""
    lines = ["# Recipes", "", "`--recipe=NAME` takes the flags of `flags/NAME.cfg`; flags after it override them.", ""]
    for path in sorted((ROOT / "flags").glob("*.cfg")):
        lines += [f"## {path.stem}", "", "```ini", path.read_text(encoding="utf-8").strip(), "```", ""]
    lines += ["## Grids", "", "`python -m resnet_tf.sweep --grid=FILE` trains every row of one.", ""]
    for path in sorted((ROOT / "flags" / "grids").glob("*.yaml")):
        lines += [f"### {path.stem}", "", "```yaml", path.read_text(encoding="utf-8").strip(), "```", ""]
    return "\n".join(lines)


def pages() -> dict[str, str]:
    """Return {source of mkdocs: Markdown} of all pages that are written here."""
    written = {page: api_page(*parts) for page, parts in API.items()}
    written["reference/recipes.md"] = recipes_page()
    return written | {f"reference/{name}.md": flags_page(name, kind) for name, kind in commands().items()}


def on_config(config):
    """Name the written pages in the navigation."""
    flags = [{name: f"reference/{name}.md"} for name in commands()]
    sections = {
        "Recipes and flags": [{"Recipes": "reference/recipes.md"}, *flags],
        "API": [{title: page} for page, (title, _, _) in API.items()],
    }
    for entry in config.nav:
        for title in sections.keys() & entry.keys():
            entry[title] = sections[title]
    return config


def on_files(files, config):
    """Add the written pages to those of the site."""
    from mkdocs.structure.files import File  # only the site needs it

    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files
