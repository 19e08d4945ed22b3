"""The program `resnet-tf`: `resnet-tf train ...` is `python -m resnet_tf.train ...`."""

import ast
import difflib
import importlib
import importlib.util
import pathlib
import sys

import resnet_tf

COMMANDS = {  # {command: module}
    name: f"resnet_tf.{name}"
    for name in (
        "train", "sweep", "evaluate", "compare", "analyze", "features", "export", "predict", "serve", "relabel",
        "convert", "prepare", "show", "benchmark", "data_server", "demo",
    )
}  # fmt: skip
COMMANDS |= {"models": "resnet_tf.list_networks"}
COMMANDS |= {name: f"resnet_tf.transfer.{name}" for name in ("segment", "detect", "score")}


def main(argv=None) -> int:
    """Run a command and return its exit code.

    Args:
        argv: name of the command and its arguments, or () to list all commands; None for those of the process.
    """
    name, *arguments = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name == "--version":
        print(f"resnet_tf {resnet_tf.__version__}")
        return 0
    if name in ("--help", "-h", "help"):
        print("usage: resnet-tf COMMAND [--flagfile=FILE] [--flag=value ...]\n")
        for known, module in COMMANDS.items():
            print(f"  {known:12} {_summary(module)}")
        print("\nresnet-tf COMMAND --help lists the flags of a command, resnet-tf --version prints the version.")
        return 0
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=3, cutoff=0)
        print(f"error: {name}: no such command; the nearest are {', '.join(nearest)}", file=sys.stderr)
        return 2
    return importlib.import_module(COMMANDS[name]).main(arguments)


def _summary(module):
    """Return the first sentence of a module's docstring without importing the module."""
    source = pathlib.Path(importlib.util.find_spec(module).origin).read_text()
    return ast.get_docstring(ast.parse(source)).split("\n")[0].split(": `")[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
