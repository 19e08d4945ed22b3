"""Notebooks run top to bottom, and say what they say in the repository."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((pathlib.Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    assert all(cell.outputs or "class " in cell.source or "import" in cell.source for cell in code_cells(notebook))
    text = str(notebook)
    NotebookClient(notebook, timeout=180, resources={"metadata": {"path": str(path.parent)}}).execute()
    last = code_cells(notebook)[-1].outputs[-1]
    assert last["data"]["text/plain"] == "(True, True)" and "(True, True)" in text


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]
