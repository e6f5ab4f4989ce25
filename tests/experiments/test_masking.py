"""Masked words: nobody reads them, everything else keeps its place."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import make_questions
from tiny import made_up_probe, tiny_run

from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments import masking
from morality_lens.experiments.masking import component_words, mask_words, without_words
from morality_lens.items.kinds import Statement
from morality_lens.models.loading import record_of
from morality_lens.rounds.selection import Execution
from morality_lens.runs.passages import passages

QUIET = Execution(progress=False)


@pytest.fixture(scope="module", params=["llama", "mistral", "gpt2", "gemma2"])
def small(request, zoo_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("masking") / "run"
    return tiny_run(zoo_folder(request.param), out, make_questions(4), rounds=2)


def test_without_components_nothing_is_masked(small):
    model, run = small
    probe = made_up_probe(model)
    found, stored = mask_words(model, run, probe, execution=QUIET), probe.project(run)
    cell = {"instruction": "off", "cot": "off", "feedback": "off"}
    np.testing.assert_allclose(found.sel(cell).values, stored.sel(cell).values, rtol=2e-3, atol=2e-3)
    first = found.sel(round=0).values
    np.testing.assert_allclose(first, stored.sel(round=0).values, rtol=2e-3, atol=2e-3)
    full = {"instruction": "on", "cot": "on", "feedback": "on", "round": 2, "site": "answer_start"}
    assert np.abs(found.sel(full) - stored.sel(full)).max() > 0.05


@pytest.mark.parametrize("component", ["instruction", "feedback", "cot"])
def test_masked_words_may_be_any_words(small, component, monkeypatch):
    """Other tokens in the place of the masked ones change nothing, and of those not masked they do."""
    model, run = small
    probe = made_up_probe(model)
    hidden = set({f.name: f.segments for f in run.design.factors}[component])

    def other(*args, **kwargs):
        for passage in passages(*args, **kwargs):
            ids = list(passage.token_ids)
            for name, _, start, stop in passage.spans:
                if name in hidden:
                    ids[start:stop] = [7] * (stop - start)
            yield replace(passage, token_ids=tuple(ids))

    cell = {"instruction": "on", "cot": "on", "feedback": "on"}
    before = mask_words(model, run, probe, components=[component], execution=QUIET).sel(cell)
    rest = [c for c in ("instruction", "feedback", "cot") if c != component]
    read = mask_words(model, run, probe, components=rest, execution=QUIET).sel(cell)
    monkeypatch.setattr(masking, "passages", other)
    after = mask_words(model, run, probe, components=[component], execution=QUIET).sel(cell)
    changed = mask_words(model, run, probe, components=rest, execution=QUIET).sel(cell)
    np.testing.assert_allclose(after.values, before.values, rtol=1e-3, atol=1e-3)
    far = getattr(record_of(model).lm.module.config, "sliding_window", None)  # it may not reach so far back
    assert far or np.abs(changed - read).sel(round=[1, 2], site="answer_start").max() > 0.05


def test_masked_projections_are_those_of_plain_transformers_with_that_mask(small):
    model, run = small
    record, probe = record_of(model), made_up_probe(model)
    found = mask_words(model, run, probe, components=["instruction"], execution=QUIET)
    passage = [p for p in passages(run) if p.condition.label == "instruction+feedback"][1]
    mask = torch.ones(1, len(passage.token_ids), dtype=torch.long)
    for name, _, start, stop in passage.spans:
        if name == "instruction":
            mask[0, start:stop] = 0
    ids = torch.tensor([list(passage.token_ids)])
    with torch.no_grad():
        states = record.lm.module(
            ids,
            attention_mask=mask,
            position_ids=torch.arange(ids.shape[1])[None],
            use_cache=False,
            output_hidden_states=True,
        ).hidden_states
    place = passage.places("answer_start", 2)[0]
    inner = torch.stack(states[:-1])[:, 0, place].double().numpy()  # the last one is after the final norm
    moral = (inner * probe.direction.values[:-1]).sum(-1) + probe.intercept.values[:-1]
    here = found.sel(
        item=passage.item, instruction="on", cot="off", feedback="on", round=2, site="answer_start"
    )
    np.testing.assert_allclose(here.values[:-1], moral, rtol=1e-3, atol=1e-3)


def test_parts_that_are_not_there_are_refused(small):
    model, run = small
    with pytest.raises(ValueError, match="luck"):
        mask_words(model, run, made_up_probe(model), components=["luck"], execution=QUIET)


def test_the_components_words_are_those_that_no_placebo_says():
    words = component_words(load_wording(), "choice")
    assert {"fair", "stereotype", "bias"} <= words
    assert not {"answer", "text", "letter", "the", "be"} & words
    said = [
        Statement(id=str(i), cluster=str(i), text=t, label=1)
        for i, t in enumerate(("Be Fair!", "Ann ran.", "Bo sat."))
    ]
    assert [s.id for s in without_words(said, words)] == ["1", "2"]
    with pytest.raises(ValueError, match="only 1 of 3"):
        without_words([*said[:1], replace(said[0], id="x"), said[1]], words)
