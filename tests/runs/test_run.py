"""A run on disk: laid out for reading by layer, opened lazily, refused when damaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import make_questions

from morality_lens.design import COMPONENTS, Condition, Design, Factor, Protocol
from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
from morality_lens.runs import archives, manifest, run as run_module, writing
from morality_lens.runs.run import open_run

PROTOCOL = Protocol(
    design=Design(rounds=1, sites=("answer_start", "instruction")),
    answer_tokens=3,
    rationale_tokens=4,
    feedback_tokens=4,
)


@pytest.fixture(scope="module")
def run(zoo_folder, tmp_path_factory):
    model = load_model(zoo_folder("llama"), device="cpu")
    out = tmp_path_factory.mktemp("store") / "run"
    return play(
        model, make_questions(3), out=out, protocol=PROTOCOL, fitting=Fitting(batch_size=2), progress=False
    )


def test_the_cube_has_its_dims_in_order_and_its_coordinates(run):
    cube = run.residuals
    assert cube.dims == Design().cube_dims
    assert tuple(cube.sizes.values()) == (3, 2, 2, 2, 2, 2, 4, 32)
    assert cube["layer"].values.tolist() == [-1, 0, 1, 2]
    assert cube["instruction"].values.tolist() == ["off", "on"]
    assert cube["site"].values.tolist() == ["answer_start", "instruction"]
    assert cube["cluster"].values.tolist() == ["t0", "t1", "t0"]


def test_a_segment_that_is_not_said_is_missing_and_nothing_else_is(run):
    there = np.isfinite(run.residuals.values).all(axis=-1)
    assert there[..., 0, :].all(), "answer_start is always there"
    said = there[..., 1, :]
    assert said[:, 1, :, :, 1].all()
    assert not said[:, 0].any()
    assert not said[:, :, :, :, 0].any()


def test_a_layer_is_read_without_touching_the_others(run):
    arrays = archives.open_arrays(next((run.path / manifest.PARTS).glob("*.zip")))
    assert arrays["residuals.later"].chunks == (2, 2, 2, 2, 1, 1, 1, 32)
    assert arrays["residuals.first"].chunks == (2, 1, 1, 1, 32), "round 0 is stored once"


def test_opening_reads_nothing_but_the_manifest(run, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("read too early")

    monkeypatch.setattr(archives.zipfile, "ZipFile", fail)
    monkeypatch.setattr(run_module, "read_items", fail)
    assert open_run(run.path).manifest["format"] == manifest.FORMAT


def test_a_run_tells_what_it_is(run):
    study = run.manifest["study"]
    assert {"model", "items", "design", "wording", "feedback", "limits", "temperature"} <= study.keys()
    assert len(study["model"]["fingerprint"]) == len(study["wording"]["sha256"]) == 64
    assert {"torch", "transformers", "transformer-lens", "morality-lens"} <= run.manifest["versions"].keys()
    assert all(check["passed"] for check in run.manifest["self_test"])
    assert run.manifest["timings"]["tokens"] > 100
    assert "3 items x 8 conditions x 2 rounds" in repr(run)
    assert "<table>" in run._repr_html_()
    assert run.design == PROTOCOL.design


def test_rows_of_one_dialogue_are_selected(run):
    condition = Condition(instruction="on", cot="off", feedback="on")
    rows = run.select(run.answers, "q1", condition)
    assert rows["round"].tolist() == [0, 1]
    assert set(rows["item"]) == {"q1"}
    assert set(zip(*(rows[c] for c in COMPONENTS), strict=True)) == {("on", "off", "on")}


def test_html_of_a_run_escapes_what_it_shows(run):
    named = replace(run, manifest=json.loads(json.dumps(run.manifest)))
    named.manifest["study"]["model"]["name"] = "<script>alert(1)</script>"
    assert "<script>" not in named._repr_html_()


def test_scores_are_kept_and_asked_for_in_words(run, tmp_path):
    with pytest.raises(ValueError, match="no scores yet"):
        _ = run.scores
    writing.write_scores(run.path, run.answers[["item"]].assign(score=0.5))
    assert (run.scores["score"] == 0.5).all()
    (run.path / "scores.parquet").unlink()


def test_damaged_or_foreign_manifests_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run at"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        open_run(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(ValueError, match="format 99; this version reads format 2"):
        open_run(tmp_path)


def test_half_precision_is_stored_without_loss(zoo_folder, tmp_path):
    protocol = replace(PROTOCOL, design=replace(PROTOCOL.design, sites=("answer_start",)))
    for dtype, kept in (("bfloat16", "float32"), ("float16", "float16")):
        model = load_model(zoo_folder("gpt2"), device="cpu", dtype=dtype)
        run = play(model, make_questions(1), out=tmp_path / dtype, protocol=protocol, progress=False)
        values = run.residuals.values
        assert values.dtype == kept
        if dtype == "bfloat16":
            assert (values.view(np.uint32) & 0xFFFF == 0).all(), "every value is a bfloat16"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Factor(name="a", levels=("on",)), "two or more different levels"),
        (lambda: Factor(name="a", levels=("on", "on")), "two or more different levels"),
        (lambda: Design(rounds=0), "at least one correction round"),
        (lambda: Design(sites=("nose",)), "sites must be different names"),
        (lambda: Design(factors=(Factor(name="cot"), Factor(name="cot"))), "different factors"),
        (lambda: Design(factors=()), "one or more"),
        (lambda: Factor(name="reader"), "place out of"),
        (lambda: Factor(name="reader", place="system"), "needs a text for on"),
        (lambda: Factor(name="round", place="system", texts={"on": "x"}), "means nothing else"),
        (lambda: Protocol(answer_tokens=0), "at least one token"),
        (lambda: Protocol(temperature=-1.0), "temperature must be a finite number, 0 or above"),
        (lambda: Protocol(wording_index=-1), "wording_index"),
    ],
)
def test_a_design_that_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_conditions_run_through_all_cells_and_name_themselves():
    labels = [c.label for c in Design().conditions]
    assert labels[0] == "none"
    assert labels[-1] == "instruction+cot+feedback"
    assert len(set(labels)) == 8
    assert Condition(instruction="placebo").label == "instruction(placebo)"
