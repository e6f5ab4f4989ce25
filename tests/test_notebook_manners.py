"""What a notebook shows: no red text, and short values."""

import json

import nbformat
import pytest
from conftest import make_questions
from nbclient import NotebookClient

from morality_lens.items.files import write_text
from morality_lens.items.kinds import item_row

SETUP = "import morality_lens as ml"
WITHOUT_WIDGETS = "import sys; sys.modules['ipywidgets'] = None"
RUN = "ml.play(model, ml.load_questions({data!r}), out={out!r}, rounds=1, protocol=short)"
CELLS = (
    "model = ml.load_model({model!r}); model",
    "short = ml.Protocol(feedback='oracle', answer_tokens=3, rationale_tokens=4, feedback_tokens=4); short",
    f"run = {RUN}; run",
    "probe = ml.fit_probe(model, ml.load_statements('world')[:200]); probe",
    "analysis = ml.analyze(run, probe=probe); analysis",
    "ml.circuits.ablate(model, run, probe, condition=ml.Condition(), layers=[0]);",
    "ml.Design()",
    "ml.models.record_of(model)",
    "ml.rounds.read_transcripts(model, run, probe)[0]",
    "ml.studies.Material(statements=ml.load_statements('world'), questions=ml.load_items())",
    "ml.studies.Plan()",
    "ml.studies.Verdict(number=1, verdict='mixed', measure='a', estimate=1.0, low=.5, high=2.0, "
    "error_rate='', why='w' * 999, figure='')",
    "ml.studies.PROFILES['quick']",
)


def executed(cells):
    """The outputs of cells, cell by cell."""
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    return [cell.outputs for cell in notebook.cells]


@pytest.fixture
def filled(zoo_folder, tmp_path):
    """A function that fills the paths of a model, data and a folder into a cell."""
    rows = [json.dumps(item_row(item)) for item in make_questions(4)]
    write_text(tmp_path / "q.jsonl", "\n".join(rows) + "\n")
    places = {
        "model": str(zoo_folder("llama")),
        "data": str(tmp_path / "q.jsonl"),
        "out": str(tmp_path / "run"),
    }
    return lambda cell: cell.format(**places) if "!r}" in cell else cell


@pytest.mark.filterwarnings("default")
@pytest.mark.slow(seconds=20)
def test_nothing_is_red_and_every_value_is_short_without_widgets_too(filled):
    found = executed([WITHOUT_WIDGETS, SETUP, *map(filled, CELLS)])
    for cell, outputs in zip(CELLS, found[2:], strict=True):
        red = [one.text for one in outputs if one.output_type == "stream" and one.name == "stderr"]
        assert not red, (cell, red)
        values = [one["data"]["text/plain"] for one in outputs if one.output_type == "execute_result"]
        assert all(len(value) < 400 for value in values), (cell, values)
        assert bool(values) != cell.endswith(";"), cell
    streams = "".join(one.text for cell in found for one in cell if one.output_type == "stream")
    assert "dialogue rounds: 100%" in streams
    assert "intervening: 100%" in streams


@pytest.mark.filterwarnings("default")
@pytest.mark.slow(seconds=8)
def test_bars_are_widgets_where_there_are_widgets(filled):
    pytest.importorskip("ipywidgets")
    found = executed([SETUP, *map(filled, CELLS[:3])])
    shown = [kind for cell in found for one in cell for kind in one.get("data", {})]
    assert "application/vnd.jupyter.widget-view+json" in shown
    assert not [one for cell in found for one in cell if one.output_type == "stream" and one.name == "stderr"]
