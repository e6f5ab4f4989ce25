"""Every notebook runs from its first cell to its last."""

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

TOLD_FROM_STORED = ("04_a_real_model",)
"""Without a model, and without any text of its data."""
NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
@pytest.mark.filterwarnings("default")
@pytest.mark.slow(seconds=40)
def test_a_notebook_runs_and_shows_what_it_promises(path, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [o for cell in notebook.cells if cell.cell_type == "code" for o in cell.outputs]
    shown = {kind for o in outputs for kind in o.get("data", {})}
    assert "text/html" in shown
    assert "application/vnd.plotly.v1+json" in shown
    html = "".join(o["data"].get("text/html", "") for o in outputs if "data" in o)
    assert "AUROC" in html, "the probe shows itself"
    if path.stem not in TOLD_FROM_STORED:
        assert "input" in html, "the transcript has a layer slider"


def test_notebooks_are_stored_without_outputs():
    for path in NOTEBOOKS:
        for cell in nbformat.read(path, as_version=4).cells:
            assert not cell.get("outputs")
