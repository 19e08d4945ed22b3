"""The flags that editors complete: resnet_tf/api.pyi has the signature of every function with flags as keywords.

After a change of flags `python tests/test_stub.py` writes the file.
"""

import ast
import dataclasses
import pathlib
import subprocess
import sys
import typing

import jedi

from resnet_tf import config

SOURCE = pathlib.Path(__file__).parents[1] / "resnet_tf" / "api.py"
STUB = SOURCE.with_suffix(".pyi")
# The configurations whose flags a function takes; `fit` takes those of the task.
FLAGS = {
    "fit": [row.config_type for row in config.TASKS.values()],
    "evaluate": [config.EvaluateConfig],
    "export": [config.ExportConfig],
}


def stub():
    """The text of api.pyi: the functions and classes of api.py without bodies, `**flags` replaced by each flag."""
    tree = ast.parse(SOURCE.read_text())
    lines = ['"""The signatures of api.py, with every flag; written by tests/test_stub.py."""', ""]
    lines += ["from typing import Any, Literal", ""]
    kept = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom | ast.Assign)]
    lines += [ast.unparse(node) for node in kept]
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            lines += ["", *signature(node, 0)]
        elif isinstance(node, ast.ClassDef):
            lines += ["", ast.unparse(ast.ClassDef(node.name, node.bases, [], [ast.Pass()], [])).splitlines()[0]]
            lines += ["    task: str"]
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    lines += signature(method, 4)
    return "\n".join(lines) + "\n"


def signature(node, indent):
    """The lines of a function without its body."""
    node = ast.FunctionDef(node.name, node.args, [ast.Expr(ast.Constant(...))], node.decorator_list, node.returns)
    flags = node.args.kwarg and sorted(typed_flags(node.name).items())
    node.args.kwarg = None
    taken = {argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)}
    for name, kind in flags or ():
        if name not in taken:
            node.args.kwonlyargs.append(ast.arg(name, ast.parse(kind, mode="eval").body))
            node.args.kw_defaults.append(ast.Constant(...))
    return [" " * indent + line for line in ast.unparse(ast.fix_missing_locations(node)).splitlines()]


def typed_flags(function):
    """{flag or its other name: type as it is written} of a function."""
    found = {}
    for config_type in FLAGS[function]:
        for section in config.section_types(config_type).values():
            hints = typing.get_type_hints(section)
            for field in dataclasses.fields(section):
                if is_used(config_type, field.name):
                    found.setdefault(field.name, set()).add(written(hints[field.name], field.metadata["choices"]))
    found |= {other: found[name] for other, name in config.SYNONYMS.items() if name in found and other not in found}
    if function == "fit":
        found["recipe"] = {"str"}
    return {name: " | ".join(sorted(kinds)) for name, kinds in found.items()}


def is_used(config_type, name):
    return config.usage(config_type, name) != "Not used by this command."


def written(hint, choices):
    """The type of a flag: a path or text, one of some texts, a number, or several, also as text with commas."""
    if choices:
        return f"Literal[{', '.join(repr(one) for one in choices)}]"
    if typing.get_origin(hint) is tuple:
        return f"Sequence[{typing.get_args(hint)[0].__name__}] | str"
    return "Path" if hint is str else hint.__name__


def test_the_stub_has_every_flag():
    assert STUB.read_text() == formatted(stub()), "run python tests/test_stub.py"
    functions = {node.name: node for node in ast.parse(stub()).body if isinstance(node, ast.FunctionDef)}
    assert functions.keys() >= {"fit", "evaluate", "export", "predict", "preprocessing_of"}
    for name, config_types in FLAGS.items():
        taken = {argument.arg for argument in (*functions[name].args.args, *functions[name].args.kwonlyargs)}
        wanted = {one for kind in config_types for one in config.fields_of(kind) if is_used(kind, one)}
        assert wanted <= taken, name
    assert {"epochs", "lr", "learning_rate", "batch_size", "verbose", "recipe", "output_stride"} <= {
        argument.arg for argument in functions["fit"].args.kwonlyargs
    }


def test_editors_complete_flags_and_results():
    lines = "import resnet_tf\nfitted = resnet_tf.fit(train_ep"
    assert "train_epochs=" in {one.name_with_symbols for one in jedi.Script(lines).complete()}
    lines = "import resnet_tf\nresnet_tf.fit(epochs=2).hist"
    assert [one.name for one in jedi.Script(lines).complete()] == ["history"]


def formatted(text):
    """The text as ruff leaves it, without imports that no signature uses."""
    ruff = pathlib.Path(sys.executable).with_name("ruff")
    for options in (["check", "--fix", "--select=F401,I,UP037"], ["format"]):
        command = [ruff, *options, "--quiet", f"--stdin-filename={STUB}", "-"]
        done = subprocess.run(command, input=text, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        text = done.stdout
    return text


if __name__ == "__main__":
    STUB.write_text(formatted(stub()))
