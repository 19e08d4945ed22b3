"""The pages of the site that are written from the source: the API, the recipes, and the flags of every command.

A hook of mkdocs. Nothing here imports TensorFlow: the flags are fields of `resnet_tf.config`, and the API is read, not
imported.
"""

import ast
import html
import pathlib
import sys

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from resnet_tf import config as settings  # noqa: E402
from resnet_tf.commands import main as program  # noqa: E402

# {page: (title, introduction, what to document: {name as users write it: where it is})}. A module stands for its public
# functions and classes.
API = {
    "api/resnet_tf.md": (
        "resnet_tf",
        "The commands and the networks from Python.",
        {f"resnet_tf.{name}": f"resnet_tf.api.{name}" for name in ("fit", "evaluate", "export", "predict")}
        | {f"resnet_tf.{name}": f"resnet_tf.models.builder.{name}" for name in ("create_model", "create_backbone")}
        | {
            "resnet_tf.cost": "resnet_tf.models.cost.cost",
            "resnet_tf.list_models": "resnet_tf.models.architectures.list_models",
            "resnet_tf.InputError": "resnet_tf.errors.InputError",
        },
    ),
    "api/data.md": (
        "resnet_tf.data",
        "Find, decode, crop, augment and batch images.",
        {
            f"resnet_tf.data.{name}": f"resnet_tf.data.{module}.{name}"
            for module, names in {
                "sources": ("index", "load"),
                "splits": ("Source", "Split"),
                "examples": ("Examples",),
                "batches": ("pipeline",),
                "geometry": ("View",),
                "augmentation": ("Augmentation",),
                "images": ("decode", "decode_tensor", "resize_center"),
                "archives": ("read_members",),
            }.items()
            for name in names
        },
    ),
    "api/models.md": (
        "resnet_tf.models",
        "A row of a table in, a Keras network out; files of weights.",
        {
            "resnet_tf.models.Architecture": "resnet_tf.models.architectures.Architecture",
            "resnet_tf.models.find": "resnet_tf.models.architectures.find",
            "resnet_tf.models.Cost": "resnet_tf.models.cost.Cost",
            "resnet_tf.models.cost_by_name": "resnet_tf.models.cost.cost_by_name",
        }
        | {name: name for name in ("resnet_tf.models.weights", "resnet_tf.models.inside")},
    ),
    "api/training.md": (
        "resnet_tf.training",
        "The loop of a training and its callbacks.",
        {name: name for name in ("resnet_tf.training.loop", "resnet_tf.training.logging_callbacks")},
    ),
    "api/evaluation.md": (
        "resnet_tf.evaluation",
        "Scores of a split, comparisons of runs, and looks inside networks.",
        {
            f"resnet_tf.evaluation.{name}": f"resnet_tf.evaluation.{name}"
            for name in ("evaluate", "metrics", "significance", "compare", "curves", "page", "charts", "responses")
            + ("attribution",)
        },
    ),
    "api/serving.md": (
        "resnet_tf.serving",
        "Exports, models that answer, and a server of them.",
        {
            f"resnet_tf.serving.{name}": f"resnet_tf.serving.{name}"
            for name in ("export", "runtimes", "client", "predict", "server")
        },
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
    """Return the page of the flags of a command, as Markdown: one table for each section of its configuration."""
    lines = [f"# Flags of {name}", "", f"`python -m {program.COMMANDS[name]} --help` lists them too.", ""]
    for section in settings.section_types(config_type).values():
        title = section.__doc__.strip().rstrip(".").split("\n")[0]
        lines += [f"## {title}", "", "| flag | default | meaning |", "|---|---|---|"]
        for flag, field in settings.fields_of(section).items():
            limits = " ".join(filter(None, (_choices(field.metadata), settings.usage(config_type, flag))))
            meaning = html.escape(f"{field.metadata['help']} {limits}".strip(), quote=False).replace("|", r"\|")
            lines.append(f"| `--{flag}` | {_value(field.default)} | {meaning} |")
        lines.append("")
    return "\n".join(lines)


def _choices(metadata):
    """Return the allowed values of a flag as a sentence."""
    if metadata["choices"]:
        return f"One of {', '.join(one or 'unset' for one in metadata['choices'])}."
    low, high = metadata["low"], metadata["high"]
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
    for page, text in pages().items():
        files.append(File.generated(config, page, content=text))
    return files
