"""Statements and transcripts read through a model equal plain transformers."""

import inspect
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_questions

from morality_lens.design import Design, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import load_model, record_of
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.from_statements import fit_probe
from morality_lens.probes.refits import project_means, refit_directions, run_cell_means
from morality_lens.probes.statements import read_pairs, read_statements
from morality_lens.rounds.playing import play
from morality_lens.rounds.rereading import read_transcripts, sample_dialogues

KIND = ("helped", "thanked", "fed", "praised", "warmed", "cheered")
CRUEL = ("robbed", "mocked", "starved", "scolded", "froze", "tripped")
STATEMENTS = tuple(
    Statement(id=f"{verb}{i}", cluster=verb, text=f"The Vel {verb} the Tor{' again' * i}.", label=label)
    for label, verbs in ((1, KIND), (0, CRUEL))
    for verb in verbs
    for i in range(3)
)


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


@pytest.fixture(scope="module")
def run(llama, tmp_path_factory):
    protocol = Protocol(design=Design(rounds=1), answer_tokens=4, rationale_tokens=40, feedback_tokens=4)
    out = tmp_path_factory.mktemp("reading") / "run"
    return play(llama, make_questions(2), out=out, protocol=protocol, progress=False)


@pytest.mark.parametrize("architecture", ["gpt2", "mistral", "gemma2"])
@pytest.mark.parametrize("read", ["end", "mean"])
def test_statements_are_read_as_transformers_reads_them_alone(architecture, read, zoo_folder):
    model = load_model(zoo_folder(architecture), device="cpu")
    record = record_of(model)
    got = read_statements(model, STATEMENTS, read=read)
    for statement in STATEMENTS[::7]:
        opened = rendering.append_turn(record.renderer, Transcript(), statement_turn(statement.text), round=0)
        span = opened.span("statement", 0)
        with torch.no_grad():
            states = record.lm.module(
                torch.tensor([opened.token_ids]), output_hidden_states=True
            ).hidden_states[:-1]
        at = slice(span.start, span.stop) if read == "mean" else slice(span.stop - 1, span.stop)
        want = np.stack([s[0, at].mean(0).numpy() for s in states])
        np.testing.assert_allclose(
            got.sel(statement=statement.id).values[:-1], want, rtol=1e-4, atol=1e-4 * np.abs(want).max()
        )


def test_a_probe_fitted_through_the_model_knows_its_model_and_statements(llama):
    probe = fit_probe(llama, STATEMENTS)
    assert probe.training["model_fingerprint"] == record_of(llama).fingerprint
    assert probe.training["n"] == len(STATEMENTS)
    assert probe.direction.shape == (4, 32)


def test_token_projections_agree_with_the_projected_run_at_its_sites(llama, run):
    probe = fit_probe(llama, STATEMENTS)
    projected = probe.project(run)
    assert projected.dims == ("item", "instruction", "cot", "feedback", "round", "site", "layer")
    views = read_transcripts(llama, run, probe)
    assert len(views) == 8
    assert max(len(v.tokens) for v in views) > 128, "more than one stretch must be read"
    for view in views:
        for span in (s for s in view.spans if s["name"] == "answer" and s["stop"] > s["start"]):
            where = {"item": view.item, **view.condition, "round": span["round"]}
            for site, at in (("answer_start", span["start"] - 1), ("answer_end", span["stop"] - 1)):
                np.testing.assert_allclose(
                    view.values[:, at], projected.sel(**where, site=site).values, atol=2e-3
                )


def test_a_pair_is_the_statement_read_with_each_ending(llama):
    few = STATEMENTS[:4] + STATEMENTS[-4:]
    pairs = read_pairs(llama, few, endings=("It was kind.", " It was cruel."))
    assert pairs.dims == ("statement", "side", "layer", "d_model")
    for side, ending in enumerate(("It was kind.", "It was cruel.")):
        want = read_statements(llama, [replace(s, text=f"{s.text} {ending}") for s in few])
        np.testing.assert_array_equal(pairs.sel(side=side).values, want.values)
    plain = read_statements(llama, few)
    for name in ("label", "cluster", "statement"):
        np.testing.assert_array_equal(pairs[name], plain[name])
    assert pairs.attrs["statements_sha256"] == plain.attrs["statements_sha256"]
    assert pairs.attrs["model_fingerprint"] == record_of(llama).fingerprint
    with pytest.raises(ValueError, match="two different endings"):
        read_pairs(llama, few, endings=("Yes.", "Yes. "))


def test_pairs_give_a_direction_of_the_models_width(llama):
    probe = fit_directions(read_pairs(llama, STATEMENTS), kind="ccs")
    assert probe.direction.shape == (4, 32)
    assert probe.training["statements_sha256"]


def test_cell_means_of_a_run_on_refits_are_means_of_its_projections(llama, run):
    statements = read_statements(llama, STATEMENTS)
    refits = refit_directions(statements, draws=2)
    got = project_means(refits, run_cell_means(run))
    probe = fit_directions(statements)
    for draw in range(2):
        one = replace(probe, direction=refits[draw], intercept=0 * probe.intercept)
        np.testing.assert_allclose(got[draw].values, one.project(run).mean("item").values, atol=1e-9)


def test_a_probe_or_a_model_of_another_run_is_refused(llama, run, zoo_folder):
    probe = fit_probe(llama, STATEMENTS)
    other = load_model(zoo_folder("mistral"), device="cpu")  # the same weights, another attention
    with pytest.raises(ValueError, match="the run was made with another model"):
        read_transcripts(other, run, probe)
    with pytest.raises(ValueError, match="the probe was fitted on another model"):
        fit_probe(other, STATEMENTS).project(run)


def test_statements_that_cannot_be_read_are_refused(llama):
    with pytest.raises(ValueError, match="unique ids"):
        read_statements(llama, [STATEMENTS[0], STATEMENTS[0]])
    with pytest.raises(ValueError, match="'end' or 'mean'"):
        inspect.unwrap(read_statements)(llama, STATEMENTS, read="last")
    long = replace(STATEMENTS[0], id="long", text="again " * 900)
    with pytest.raises(ValueError, match=r"'long' has \d+ tokens, the model's window 768"):
        read_statements(llama, [*STATEMENTS, long])


def test_the_sample_of_dialogues_has_all_conditions_of_some_items(run):
    rows = sample_dialogues(run, items=1)
    assert rows["item"].nunique() == 1
    assert len(rows) == 8
