"""Notebooks run top to bottom, and the repository has what they showed.

After a change `python tests/test_notebooks.py notebooks/NAME.ipynb ...` runs them and writes their outputs into them.
Those that train for over a minute are run by `pytest -m slow`, and those of which other tests assert the subjects:
03 (geometry, augmentation, draws and galleries), 06 (export, compiled, predict) and 09 (for_keras); that the names they
use are there is seen of all.
"""

import ast
import hashlib
import pathlib
import re
import sys

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
_LARGEST = 600_000  # bytes
_SLOW = {
    "03_what_the_network_sees", "04_reading_and_comparing_runs", "05_distillation_and_mixup", "06_export_and_use",
    "07_transfer", "08_your_photos", "09_keras_fit",
}  # fmt: skip


@pytest.fixture(scope="module")
def kernel():
    """One for all, for to import TensorFlow takes as long as many a notebook; each begins without names and folder."""
    manager, _ = start_new_kernel()
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    "path",
    [pytest.param(p, id=p.stem, marks=[pytest.mark.slow] if p.stem in _SLOW else []) for p in NOTEBOOKS],
)
def test_notebook_runs_and_holds_its_outputs(path, kernel):
    cells = code_cells(nbformat.read(path, as_version=4))
    ran = code_cells(run(nbformat.read(path, as_version=4), path.parent, kernel))
    assert all_hold(ran[-1])
    assert [kinds(cell) for cell in ran] == [kinds(cell) for cell in cells]  # no picture or table that is not there


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_holds_outputs_of_its_sources(path):
    committed = nbformat.read(path, as_version=4)
    cells = code_cells(committed)
    assert committed.metadata.sources == digest(committed), "its sources have changed since it was run"
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all_hold(cells[-1])
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr"
            text = output.get("text", "") + output.get("data", {}).get("text/plain", "")
            assert not re.search(r"(^|[\s'\"])/\w+/", text), "a path of the machine that it was run on"
    assert path.stat().st_size < _LARGEST


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_names_that_a_notebook_uses_are_there(path):
    lines = [line for cell in code_cells(nbformat.read(path, as_version=4)) for line in cell.source.split("\n")]
    tree = ast.parse("\n".join(line for line in lines if not line.startswith(("%", "!"))))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {}
    exec(compile(ast.Module(imports, []), str(path), "exec"), found)
    ours = {name for name, value in found.items() if getattr(value, "__name__", "").startswith("resnet_tf.")}
    used = [
        (node.value.id, node.attr) for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ours
    ]  # fmt: skip
    assert used and not [f"{name}.{attribute}" for name, attribute in used if not hasattr(found[name], attribute)]


def test_notebooks_are_found():
    assert len(NOTEBOOKS) >= 7 and {path.stem for path in NOTEBOOKS} >= _SLOW


def run(notebook, folder, kernel=None):
    """Run a notebook in a folder; without the progress that goes to stderr. In a kernel of its own where none is given.

    Graphs are not rewritten in a kernel that is given, which so few steps do not repay.
    """
    options = {"timeout": 180, "record_timing": False, "resources": {"metadata": {"path": str(folder)}}}
    if kernel:
        first = nbformat.v4.new_code_cell(
            "%reset -f\nimport os, tensorflow\n"
            f"os.chdir({str(folder)!r})\n"
            "tensorflow.config.optimizer.set_experimental_options({'disable_meta_optimizer': True})\n"
            "del os, tensorflow"
        )
        NotebookClient(nbformat.v4.new_notebook(cells=[first]), km=kernel, **options).execute()
    NotebookClient(notebook, km=kernel, **options).execute()
    for cell in code_cells(notebook):
        cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def digest(notebook):
    return hashlib.sha256("\0".join(cell.source for cell in code_cells(notebook)).encode()).hexdigest()[:16]


def all_hold(cell):
    """Whether the value of a cell, the last one of a notebook, is a tuple of what was checked, all of it true."""
    checked = ast.literal_eval(cell.outputs[-1]["data"]["text/plain"])
    return len(checked) > 1 and set(checked) == {True}


def kinds(cell):
    """What a cell put out: of streams their name, of pictures and values their types, each once."""
    return {output.get("name") or tuple(sorted(output["data"])) for output in cell.outputs}


if __name__ == "__main__":
    for name in sys.argv[1:]:
        chosen = pathlib.Path(name)
        finished = run(nbformat.read(chosen, as_version=4), chosen.parent)
        finished.metadata.sources = digest(finished)
        nbformat.write(finished, chosen)
