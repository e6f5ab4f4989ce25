"""The engine: what it captures is what transformers computes for the final transcript."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from conftest import make_questions

from morality_lens.design import COMPONENTS, SITES, Design, Factor, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.items.kinds import OpenPrompt
from morality_lens.judges.questions import judge_answers
from morality_lens.models import decoding
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds.feedback import said as said_of, shortened
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting, longest_dialogues
from morality_lens.runs import manifest, writing
from morality_lens.runs.run import open_run

ALL_SITES = SITES + Design().segments


def fresh_residuals(record, ids) -> np.ndarray:
    """Residuals [layer, pos, d_model] of one unpadded row."""
    return zoo.fresh_pass(record, ids)[0]


def expected_site(spans, residuals, site, number):
    """What a site holds, from the definition: None where the round has no such segment."""
    own = [s for s in spans if s["round"] == number]
    if site in SITES:
        answer = next(s for s in own if s["name"] == "answer")
        if site == "answer_start":
            return residuals[:, answer["start"] - 1]
        if answer["start"] == answer["stop"]:
            return None
        if site == "answer_end":
            return residuals[:, answer["stop"] - 1]
        return residuals[:, answer["start"] : answer["stop"]].mean(1)
    found = [s for s in own if s["name"] == site and s["stop"] > s["start"]]
    return residuals[:, found[0]["start"] : found[0]["stop"]].mean(1) if found else None


def stop_often(model) -> None:
    """Let many tokens end a reply, so that rows of a batch stop at different times."""
    record = record_of(model)
    object.__setattr__(
        model, "morality_lens_record", replace(record, stops=record.stops | set(range(0, 400, 6)))
    )


def assert_equals_fresh_forward(record, run, tolerance=1e-5) -> float:
    """Compare every stored residual of a run; the largest relative difference."""
    cube = run.residuals.load()
    worst, compared = 0.0, 0
    for _, row in run.transcripts.iterrows():
        residuals = fresh_residuals(record, row["token_ids"])
        where = {"item": row["item"], **{c: row[c] for c in COMPONENTS}}
        covered = range(run.design.n_rounds) if record.prefix_reuse else [row["round"]]
        for number in covered:
            for site in run.design.sites:
                got = cube.sel(**where, round=number, site=site).values
                want = expected_site(row["spans"], residuals, site, number)
                if want is None:
                    assert np.isnan(got).all(), (where, number, site)
                    continue
                gap = np.linalg.norm(got - want, axis=-1) / np.linalg.norm(want, axis=-1)
                assert np.isfinite(gap).all(), (where, number, site)
                worst, compared = max(worst, float(gap.max())), compared + 1
    assert compared > 50
    assert worst < tolerance, worst
    return worst


@pytest.mark.parametrize("architecture", zoo.ARCHITECTURES)
def test_captured_residuals_equal_a_fresh_forward_of_the_final_transcript(
    architecture, zoo_folder, tmp_path, questions
):
    model = load_model(zoo_folder(architecture), device="cpu")
    stop_often(model)
    protocol = Protocol(
        design=Design(rounds=2, sites=ALL_SITES),
        answer_tokens=7,
        rationale_tokens=12,
        feedback_tokens=9,
        temperature=2.0,
    )
    run = play(model, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    record = record_of(model)
    assert run.transcripts["token_ids"].map(len).min() > 3 * zoo.WINDOW
    assert run.answers["n_tokens"].nunique() > 1, "rows must stop at different times"
    assert_equals_fresh_forward(record, run)


SHORT = Protocol(design=Design(rounds=2), answer_tokens=4, rationale_tokens=6, feedback_tokens=5)


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"), device="cpu")


def played(model, items, folder, protocol=SHORT, **more):
    return play(model, items, out=folder, protocol=protocol, progress=False, **more)


def assert_same_run(one, other) -> None:
    """Two finished runs hold the same, apart from how long they took."""
    for name in ("residuals", "option_probabilities", "option_mass"):
        a, b = getattr(one, name), getattr(other, name)
        assert a.dims == b.dims
        np.testing.assert_array_equal(a.values, b.values)
        assert all((a[c].values == b[c].values).all() for c in a.coords)
    pd.testing.assert_frame_equal(one.answers, other.answers)
    for (_, a), (_, b) in zip(one.transcripts.iterrows(), other.transcripts.iterrows(), strict=True):
        assert a["token_ids"].tolist() == b["token_ids"].tolist()
        assert [dict(s) for s in a["spans"]] == [dict(s) for s in b["spans"]]
    apart = {"timings"}
    assert {k: v for k, v in one.manifest.items() if k not in apart} == {
        k: v for k, v in other.manifest.items() if k not in apart
    }


def test_a_template_that_rewrites_history_gives_exact_residuals_round_by_round(tmp_path, questions):
    folder = zoo.save_model(tmp_path / "m", "llama", template=zoo.FORGETTING)
    with pytest.warns(UserWarning, match="rewrites earlier turns"):
        model = load_model(folder, device="cpu")
    stop_often(model)
    # A rationale is read while it is written; by the time of the answer it may be tokenized differently.
    sites = tuple(site for site in ALL_SITES if site != "rationale")
    protocol = replace(SHORT, design=Design(rounds=2, sites=sites), temperature=2.0)
    run = played(model, questions, tmp_path / "run", protocol)
    assert len(run.transcripts) == len(questions) * 8 * 3, "each round has a transcript of its own"
    assert_equals_fresh_forward(record_of(model), run)


def test_a_model_without_a_cache_gives_the_same_as_with_one(llama, tmp_path, questions):
    record = record_of(llama)
    with_cache = played(llama, questions, tmp_path / "a")
    slow = replace(record, lm=replace(record.lm, cached=False))
    object.__setattr__(llama, "morality_lens_record", slow)
    try:
        without = played(llama, questions, tmp_path / "b")
    finally:
        object.__setattr__(llama, "morality_lens_record", record)
    pd.testing.assert_frame_equal(with_cache.answers, without.answers)
    np.testing.assert_allclose(with_cache.residuals.values, without.residuals.values, rtol=1e-3, atol=1e-3)


def test_placebo_levels_are_played_and_read_exactly(llama, tmp_path, questions):
    factors = tuple(Factor(name=name, levels=("off", "placebo", "on")) for name in COMPONENTS)
    protocol = replace(SHORT, design=Design(factors=factors, rounds=1, sites=ALL_SITES))
    run = played(llama, questions[:1], tmp_path / "run", protocol)
    assert dict(run.residuals.sizes)["cot"] == 3
    assert_equals_fresh_forward(record_of(llama), run)
    filler = load_wording().choice.rationale_placebo[0]
    row = run.transcripts[run.transcripts["cot"] == "placebo"].iloc[0]
    span = next(s for s in row["spans"] if s["name"] == "rationale")
    assert "".join(row["tokens"][span["start"] : span["stop"]]).strip() == filler


def test_greedy_answers_equal_those_of_transformers_generate(llama, tmp_path, questions):
    run = played(llama, questions, tmp_path / "run")
    record = record_of(llama)
    for _, row in run.transcripts.iterrows():
        ids = row["token_ids"].tolist()
        for span in row["spans"]:
            if span["name"] not in ("answer", "rationale"):
                continue
            limit = {"answer": 4, "rationale": 6}[span["name"]]
            with torch.no_grad():
                out = record.lm.module.generate(
                    torch.tensor([ids[: span["start"]]]),
                    attention_mask=torch.ones(1, span["start"], dtype=torch.long),
                    max_new_tokens=limit,
                    do_sample=False,
                    eos_token_id=sorted(record.stops),
                    pad_token_id=1,
                )[0, span["start"] :].tolist()
            said = [t for t in out if t not in record.stops]
            assert ids[span["start"] : span["stop"]] == said


def test_option_probabilities_are_those_of_a_fresh_forward(llama, tmp_path, questions):
    run = played(llama, questions, tmp_path / "run")
    record = record_of(llama)
    letters = rendering.letter_tokens(record.renderer, 3)
    for _, row in run.transcripts.iloc[::5].iterrows():
        where = {"item": row["item"], **{c: row[c] for c in COMPONENTS}}
        with torch.no_grad():
            logits = record.lm.module(torch.tensor([row["token_ids"].tolist()])).logits[0].double()
        for span in (s for s in row["spans"] if s["name"] == "answer"):
            spread = torch.softmax(logits[span["start"] - 1], -1)
            each = np.array([float(spread[list(t)].sum()) for t in letters])
            got = run.option_probabilities.sel(**where, round=span["round"]).values
            np.testing.assert_allclose(got, each / each.sum(), atol=1e-5)
            assert float(run.option_mass.sel(**where, round=span["round"])) == pytest.approx(
                each.sum(), abs=1e-5
            )


def test_round_zero_is_one_and_the_same_in_all_conditions(llama, tmp_path, questions):
    run = played(llama, questions, tmp_path / "run")
    start = run.residuals.isel(round=0).stack(cell=COMPONENTS).values
    assert (start == start[..., :1]).all()
    assert run.answers[run.answers["round"] == 0].groupby("item")["text"].nunique().eq(1).all()
    later = run.residuals.isel(round=1).sel(site="answer_start").stack(cell=COMPONENTS).values
    assert not np.allclose(later, later[..., :1])


def test_sampled_replies_do_not_depend_on_the_batch(llama, tmp_path, questions):
    protocol = replace(SHORT, temperature=1.5)
    one = played(llama, questions, tmp_path / "a", protocol, fitting=Fitting(batch_size=1))
    three = played(llama, questions, tmp_path / "b", protocol, fitting=Fitting(batch_size=3))
    assert one.answers["text"].tolist() == three.answers["text"].tolist()
    other = replace(protocol, design=replace(protocol.design, seed=1))
    assert (
        one.answers["text"].tolist()
        != played(llama, questions, tmp_path / "c", other).answers["text"].tolist()
    )


def test_items_come_back_in_their_own_order_however_they_were_played(llama, tmp_path):
    items = make_questions(7)[::-1]
    run = played(llama, items, tmp_path / "run", fitting=Fitting(batch_size=2))
    assert run.residuals["item"].values.tolist() == [q.id for q in items]
    assert run.residuals["cluster"].values.tolist() == [q.cluster for q in items]
    assert run.items.index.tolist() == [q.id for q in items]
    assert list(dict.fromkeys(run.answers["item"])) == [q.id for q in items]
    alone = played(llama, items[4:5], tmp_path / "alone")
    np.testing.assert_allclose(
        run.residuals.sel(item=[items[4].id]).values, alone.residuals.values, rtol=1e-3, atol=1e-4
    )


def test_oracle_feedback_tells_whether_the_last_answer_was_right_and_names_no_option(
    llama, tmp_path, questions
):
    run = played(llama, questions, tmp_path / "run", replace(SHORT, feedback="oracle"))
    texts = run.answers[(run.answers["feedback"] == "on") & (run.answers["round"] > 0)]
    before = run.answers[run.answers["round"] < 2].set_index(["item", *COMPONENTS, "round"])["text"]
    oracle = load_wording().choice.oracle
    by_id = {q.id: q for q in questions}
    for _, row in texts.iterrows():
        last = before[(row["item"], *(row[c] for c in COMPONENTS), row["round"] - 1)]
        judged = judge_answers([last], [by_id[row["item"]]]).iloc[0]
        expected = (
            oracle.unparsed if not judged["parsed"]
            else oracle.correct if judged["correct"]
            else oracle.biased if judged["role"] == "biased"
            else oracle.other
        )  # fmt: skip
        assert row["feedback_text"] == expected[0]


def test_self_feedback_is_what_the_model_says_when_asked_alone(llama, tmp_path, questions):
    run = played(llama, questions, tmp_path / "run")
    record, wording = record_of(llama), load_wording()
    table = run.answers.set_index(["item", *COMPONENTS, "round"])
    for question in questions:
        answer = table.loc[(question.id, "off", "off", "on", 0), "text"]
        turn = critique_turn(question, answer, wording)
        asked = rendering.append_turn(record.renderer, rendering.Transcript(), turn, round=0)
        with torch.no_grad():
            out = record.lm.module.generate(
                torch.tensor([asked.token_ids]),
                attention_mask=torch.ones(1, len(asked.token_ids), dtype=torch.long),
                max_new_tokens=5, do_sample=False, eos_token_id=sorted(record.stops), pad_token_id=1,
            )[0, len(asked.token_ids) :].tolist()  # fmt: skip
        text = record.renderer.tokenizer.decode([t for t in out if t not in record.stops])
        given = said_of(text, cut=not record.stops & set(out))
        said = table.loc[(question.id, "off", "off", "on", 1), "feedback_text"]
        # broken characters take more tokens when read again, and are cut to the limit then
        heard = None if given is None else shortened(record, given, SHORT.limits.feedback).text
        assert said == (heard or wording.choice.feedback_placebo[0])
        assert table.loc[(question.id, "off", "off", "off", 1), "feedback_text"] == ""


def test_open_prompts_are_played_without_options(llama, tmp_path):
    prompts = [
        OpenPrompt(id=f"p{i}", cluster="p", text=f"The Vel went {w}") for i, w in enumerate(("home", "on"))
    ]
    run = played(llama, prompts, tmp_path / "run")
    assert run.answers["choice"].isna().all()
    assert run.answers["correct"].isna().all()
    with pytest.raises(ValueError, match="no option_probabilities"):
        _ = run.option_probabilities


def test_a_run_that_is_interrupted_resumes_to_the_same_store(llama, tmp_path, monkeypatch):
    items = make_questions(5)
    whole = played(llama, items, tmp_path / "whole", fitting=Fitting(batch_size=2))
    real, calls = writing.commit, []

    def commit_then_die(path, number, batch):
        calls.append(number)
        if len(calls) == 2:
            raise KeyboardInterrupt
        real(path, number, batch)

    monkeypatch.setattr(writing, "commit", commit_then_die)
    with pytest.raises(KeyboardInterrupt):
        played(llama, items, tmp_path / "cut", fitting=Fitting(batch_size=2))
    half = open_run(tmp_path / "cut")
    assert not half.complete
    assert half.residuals.sizes["item"] == 2
    monkeypatch.setattr(writing, "commit", real)
    calls.clear()
    assert_same_run(whole, played(llama, items, tmp_path / "cut", fitting=Fitting(batch_size=4)))
    again = played(llama, items, tmp_path / "cut")
    assert_same_run(whole, again)


def stored(out):
    return len(list((out / manifest.PARTS).glob("*.zip")))


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
torch.set_num_threads(1)
from conftest import make_questions
from rounds.test_playing import SHORT
from morality_lens.models.loading import load_model
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting
model = load_model({model!r}, device="cpu")
play(model, make_questions(8), out={out!r}, protocol=SHORT, fitting=Fitting(batch_size=1), progress=False)
"""


@pytest.mark.slow(seconds=8)
def test_a_run_killed_without_warning_resumes_to_the_same_store(zoo_folder, llama, tmp_path):
    items = make_questions(8)
    whole = played(llama, items, tmp_path / "whole", fitting=Fitting(batch_size=1))
    out = tmp_path / "killed"
    script = SCRIPT.format(tests=str(Path(__file__).parents[1]), model=str(zoo_folder("llama")), out=str(out))
    child = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while time.monotonic() < until and child.poll() is None and stored(out) < 2:
        time.sleep(0.01)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert 2 <= stored(out) < 8, "the child must die in the middle"
    resumed = played(llama, items, out)
    assert_same_run(whole, resumed)


def test_memory_that_runs_out_halves_the_batch_and_goes_on(llama, tmp_path, monkeypatch):
    items = make_questions(4)
    whole = played(llama, items, tmp_path / "whole", fitting=Fitting(batch_size=4))
    real = decoding.prefill

    def greedy_for_memory(lm, batch, new, weights=None):
        if len(new) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return real(lm, batch, new, weights)

    monkeypatch.setattr(decoding, "prefill", greedy_for_memory)
    halved = played(llama, items, tmp_path / "halved", fitting=Fitting(batch_size=4))
    pd.testing.assert_frame_equal(whole.answers, halved.answers)
    one, other = whole.residuals.load(), halved.residuals.load()
    assert (one.isnull() == other.isnull()).all()
    gap = np.sqrt(((one - other) ** 2).sum("d_model") / (one**2).sum("d_model"))
    assert float(gap.max()) < 1e-5

    def never_enough(lm, batch, new, weights=None):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(decoding, "prefill", never_enough)
    with pytest.raises(MemoryError, match="a single item does not fit"):
        played(llama, items, tmp_path / "never")


def test_other_runtime_errors_are_not_taken_for_lack_of_memory(llama, tmp_path, monkeypatch):
    def broken(lm, batch, new, weights=None):
        raise RuntimeError("a real fault")

    monkeypatch.setattr(decoding, "prefill", broken)
    with pytest.raises(RuntimeError, match="a real fault"):
        played(llama, make_questions(2), tmp_path / "run")


def test_no_dialogue_is_longer_than_foretold(llama, tmp_path, questions):
    run = played(llama, questions, tmp_path / "run")
    bounds = longest_dialogues(record_of(llama).renderer, questions, SHORT, load_wording())
    for question, bound in zip(questions, bounds, strict=True):
        longest = run.transcripts[run.transcripts["item"] == question.id]["token_ids"].map(len).max()
        assert longest <= bound <= longest + 60


def test_the_bound_counts_the_words_of_the_chosen_wording(llama, questions):
    words = load_wording()
    long = words.choice.model_copy(update={"answer_request": ("Answer.", "Answer. " * 60)})
    wording = words.model_copy(update={"choice": long})
    renderer = record_of(llama).renderer
    short, wordy = (
        longest_dialogues(
            renderer, questions[:1], replace(SHORT, wording_index=i, rationale_tokens=400), wording
        )[0]
        for i in (0, 1)
    )  # so long a rationale that the longest cell is one where the answer is asked for after it
    asked = len(rendering.encode(renderer, "Answer. " * 59)[0])
    assert wordy - short >= asked * (1 + SHORT.design.rounds), "it is asked for in every round"


def test_dialogues_that_could_exceed_the_window_are_refused_or_skipped_by_name(llama, tmp_path, questions):
    long = replace(questions[0], id="long", context="They met at the market. " * 200)
    with pytest.raises(ValueError, match=r"1 of 4 items could exceed.*768 tokens.*item long.*--drop-long"):
        played(llama, [*questions, long], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    run = played(llama, [*questions, long], tmp_path / "run", fitting=Fitting(drop_long=True))
    assert [row["id"] for row in run.manifest["left_out"]] == ["long"]
    assert run.residuals["item"].values.tolist() == [q.id for q in questions]
    with pytest.raises(ValueError, match="no item fits"):
        played(llama, [long], tmp_path / "none", fitting=Fitting(drop_long=True))


@pytest.mark.parametrize(
    ("items", "protocol", "message"),
    [
        ([], SHORT, "at least one item"),
        ([*make_questions(1), *make_questions(1)], SHORT, "q0 came more than once"),
        ([*make_questions(1), OpenPrompt(id="p", cluster="p", text="x")], SHORT, "need a run each"),
        ([OpenPrompt(id="p", cluster="p", text="x")], replace(SHORT, feedback="oracle"), "oracle feedback"),
    ],
)
def test_items_that_cannot_be_played_are_refused(llama, tmp_path, items, protocol, message):
    with pytest.raises(ValueError, match=message):
        played(llama, items, tmp_path / "run", protocol)


def test_a_folder_of_another_run_is_refused_and_says_what_differs(llama, tmp_path, questions):
    played(llama, questions, tmp_path / "run")
    with pytest.raises(ValueError, match=r"holds another run.*design\.seed: there 0, now 3"):
        played(llama, questions, tmp_path / "run", replace(SHORT, design=replace(SHORT.design, seed=3)))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="exists and is no run"):
        played(llama, questions, tmp_path / "other")


def test_a_folder_that_cannot_be_written_or_is_too_small_is_refused_before_anything_is_played(
    llama, tmp_path, questions, monkeypatch
):
    (tmp_path / "file").write_text("x")
    with pytest.raises((PermissionError, ValueError), match=r"cannot be written|is no run"):
        played(llama, questions, tmp_path / "file" / "run")
    usage = writing.shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: usage)
    with pytest.raises(ValueError, match=r"needs about .* GB .* are free"):
        played(llama, questions, tmp_path / "run")
