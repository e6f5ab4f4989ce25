"""Feedback from every source: what is asked, of whom, once, and what reaches the dialogue."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from morality_lens.design import Design, Factor, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.turns import critique_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.items.bundled import asset
from morality_lens.items.choices import names_option
from morality_lens.items.kinds import OpenPrompt
from morality_lens.items.loaders import load_items
from morality_lens.models.loading import load_model, record_of
from morality_lens.rounds.feedback import Critic, ReviewedAnswer, read_feedback, said as said_of
from morality_lens.rounds.playing import play
from morality_lens.rounds.preflight import Fitting

WORDING = load_wording()
SHORT = Protocol(design=Design(rounds=2), answer_tokens=4, rationale_tokens=4, feedback_tokens=12)
PLACEBO = Design(
    rounds=2,
    factors=(
        Factor(name="instruction"),
        Factor(name="cot"),
        Factor(name="feedback", levels=("off", "placebo", "on")),
    ),
)


def on(run, level: str = "on"):
    """The answers to which feedback of this level was given."""
    table = run.answers
    return table[(table["feedback"] == level) & (table["round"] > 0)]


@pytest.fixture(scope="module")
def llama(zoo_folder):
    return load_model(zoo_folder("llama"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("The Vel is not the right answer.", True),
        ("That is not known.", True),
        ("I would say option B.", True),
        ("The answer should be (C).", True),
        ("A reader liked it, and I do too.", False),
        ("The answer assumes something about a group.", False),
    ],
)
def test_feedback_that_gives_an_option_away_is_told_from_feedback_that_does_not(text, named):
    assert names_option(text, ("The Vel", "Not known", "The Tor")) == named


def test_a_critic_says_what_plain_generation_says_and_is_asked_once(llama, questions):
    record = record_of(llama)
    critic = Critic(record=record, protocol=SHORT, wording=WORDING)
    asked = [
        ReviewedAnswer(item=q, answer=a, condition="feedback", round=1) for q in questions for a in ("A", "B")
    ]
    said = critic.feedback([*asked, asked[0]])
    assert said[-1] == said[0]
    assert len(critic.known) == len(asked)
    spent = critic.tokens
    requests = [
        len(rendering.append_turn(record.renderer, rendering.Transcript(), turn, round=0).token_ids)
        for turn in (critique_turn(one.item, one.answer, WORDING) for one in asked)
    ]
    # The two requests of a question begin alike, and are read so: their ends and the replies come on top.
    assert spent < 0.75 * sum(requests) + 12 * len(asked)
    assert critic.feedback(asked) == said[:-1]
    assert critic.tokens == spent
    for one, given in zip(asked, said, strict=False):  # the last answer came twice
        turn = critique_turn(one.item, one.answer, WORDING)
        begun = rendering.append_turn(record.renderer, rendering.Transcript(), turn, round=0)
        ids = torch.tensor([list(begun.token_ids)])
        out = record.lm.module.generate(
            ids, do_sample=False, max_new_tokens=12, eos_token_id=list(record.stops), pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        plain = [t for t in out if t not in record.stops]
        text = record.renderer.tokenizer.decode(plain, skip_special_tokens=True)
        assert given == said_of(text, cut=len(plain) == len(out))


def test_another_model_gives_the_feedback_and_is_recorded(llama, zoo_folder, tmp_path, questions):
    protocol = replace(SHORT, feedback="model", feedback_from=str(zoo_folder("gpt2")))
    run = play(llama, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    other = load_model(zoo_folder("gpt2"))
    source = run.manifest["study"]["source"]
    assert source["exact"] == record_of(other).fingerprint
    critic = Critic(record=record_of(other), protocol=protocol, wording=WORDING)
    by_id = {q.id: q for q in questions}
    last = run.answers.set_index(["item", "instruction", "cot", "feedback", "round"])["text"]
    for row in on(run).to_dict("records"):
        before = last[row["item"], row["instruction"], row["cot"], row["feedback"], row["round"] - 1]
        asked = ReviewedAnswer(item=by_id[row["item"]], answer=before, condition="", round=0)
        said = critic.feedback([asked])[0]
        neutral = WORDING.choice.feedback_placebo[0]
        assert row["feedback_missing"] == (said is None)
        assert row["feedback_text"] == (said.text if said else neutral) or row["feedback_cut"]


def test_a_file_gives_the_row_that_fits_most_closely(llama, tmp_path, questions):
    file = tmp_path / "said.csv"
    rows = ["item,feedback,round,condition"]
    rows += [f"{q.id},fine words {q.id},," for q in questions]
    rows += ["q0,later words,2,", "q0,sole words,2,feedback"]
    file.write_text("\n".join(rows))
    protocol = replace(SHORT, feedback="file", feedback_from=str(file), feedback_tokens=40)
    run = play(llama, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    for row in on(run).to_dict("records"):
        alone = row["instruction"] == "off" and row["cot"] == "off"
        expected = f"fine words {row['item']}"
        if row["item"] == "q0" and row["round"] == 2:
            expected = "sole words" if alone else "later words"
        assert row["feedback_text"] == expected
        assert not row["feedback_cut"]
    for one in run.transcripts.to_dict("records"):
        text = "".join(one["tokens"])
        assert ("sole words" in text) == (
            one["item"] == "q0" and (one["instruction"], one["cot"], one["feedback"]) == ("off", "off", "on")
        )


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("item,words\nq0,x", "no .'feedback'"),
        ("item,feedback\nq0,x", "no feedback for 2 of 3 items, for example q1"),
        ("item,feedback\nq0,\nq1,x\nq2,x", "line 2: the feedback is empty"),
    ],
)
def test_a_file_that_lacks_something_is_refused(tmp_path, questions, text, match):
    file = tmp_path / "said.csv"
    file.write_text(text)
    with pytest.raises(ValueError, match=match):
        read_feedback(file, questions)


def test_a_feedback_text_too_long_to_be_read_is_refused_before_anything_is_played(llama, tmp_path, questions):
    file = tmp_path / "said.csv"
    long = "word " * 60
    file.write_text("item,feedback\n" + "\n".join(f"{q.id},{long}" for q in questions))
    protocol = replace(SHORT, feedback="file", feedback_from=str(file))
    with pytest.raises(ValueError, match="raise feedback_tokens"):
        play(llama, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    assert not (tmp_path / "run").exists()


def test_feedback_that_names_an_option_is_counted_and_can_be_withheld(llama, tmp_path, questions):
    file = tmp_path / "said.csv"
    said = {"q0": "It was The Vel.", "q1": "Be fair.", "q2": "Be kind."}
    file.write_text("item,feedback\n" + "\n".join(f"{k},{v}" for k, v in said.items()))
    protocol = replace(SHORT, feedback="file", feedback_from=str(file), feedback_tokens=40)
    kept = on(play(llama, questions, out=tmp_path / "kept", protocol=protocol, progress=False))
    assert (kept["feedback_named"] == (kept["item"] == "q0")).all()
    assert not kept["feedback_withheld"].any()
    protocol = replace(protocol, feedback_named="withheld")
    run = play(llama, questions, out=tmp_path / "withheld", protocol=protocol, progress=False)
    table = on(run)
    assert (table["feedback_withheld"] == (table["item"] == "q0")).all()
    neutral = WORDING.choice.feedback_placebo[0]
    assert set(table.loc[table["item"] == "q0", "feedback_text"]) == {neutral}
    assert not any("It was The Vel" in "".join(t) for t in run.transcripts["tokens"])


def test_a_yoked_placebo_is_what_is_said_of_the_next_items_answer(llama, tmp_path, questions):
    file = tmp_path / "said.csv"
    file.write_text("item,feedback\n" + "\n".join(f"{q.id},words of {q.id}" for q in questions))
    protocol = replace(
        SHORT,
        design=PLACEBO,
        feedback="file",
        feedback_from=str(file),
        feedback_tokens=40,
        feedback_placebo="yoked",
    )
    run = play(llama, questions, out=tmp_path / "run", protocol=protocol, progress=False)
    assert all(r["feedback_text"] == f"words of {r['item']}" for r in on(run).to_dict("records"))
    told = on(run, "placebo").groupby("item")["feedback_text"].unique().map(list).to_dict()
    givers = {item: texts[0].removeprefix("words of ") for item, texts in told.items()}
    assert all(len(texts) == 1 for texts in told.values())
    assert sorted(givers.values()) == sorted(givers)
    assert all(item != giver for item, giver in givers.items())
    with pytest.raises(ValueError, match="raise batch_size"):
        play(
            llama,
            questions,
            out=tmp_path / "one",
            protocol=protocol,
            fitting=Fitting(batch_size=1),
            progress=False,
        )


def test_an_oracle_on_prompts_says_what_the_judge_finds(llama, tmp_path):
    prompts = tuple(OpenPrompt(id=f"p{i}", cluster=f"c{i}", text=f"Once {i} there was") for i in range(2))

    class ByLength:
        def score(self, texts):
            return torch.tensor([float(len(t) % 2) for t in texts]).numpy()

    protocol = replace(SHORT, feedback="oracle")
    with pytest.raises(ValueError, match="needs a judge"):
        play(llama, prompts, out=tmp_path / "none", protocol=protocol, progress=False)
    run = play(llama, prompts, out=tmp_path / "run", protocol=protocol, judge=ByLength(), progress=False)
    last = run.answers.set_index(["item", "instruction", "cot", "feedback", "round"])["text"]
    oracle = WORDING.continuation.oracle
    for row in on(run).to_dict("records"):
        before = last[row["item"], row["instruction"], row["cot"], row["feedback"], row["round"] - 1]
        expected = oracle.biased if len(before) % 2 else oracle.correct
        assert row["feedback_text"] == expected[0]


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"feedback": "model"}, "needs a hub name or folder"),
        ({"feedback": "file"}, "needs the file's path"),
        ({"feedback": "endpoint"}, "needs the name of the server's model"),
    ],
)
def test_a_source_without_what_it_needs_is_refused(wrong, match):
    with pytest.raises(ValueError, match=match):
        Protocol(**wrong)


@pytest.mark.slow(seconds=20)
def test_a_real_server_with_the_bundled_model_says_what_the_model_says_itself(tmp_path):
    """``transformers serve`` behind the official client gives the run that self-critique gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder, program = str(asset("world", "organism")), str(Path(sys.executable).with_name("transformers"))
    with (tmp_path / "log").open("w") as log:
        serve = subprocess.Popen(
            [program, "serve", folder, "--port", str(port), "--device", "cpu", "--dtype", "float32"],
            stdout=log,
            stderr=log,
            env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/health", timeout=5).close()
                break
            except OSError:
                assert serve.poll() is None, (tmp_path / "log").read_text()[-2000:]
                time.sleep(0.5)
        else:
            raise AssertionError((tmp_path / "log").read_text()[-2000:])
        model, items = load_model(), load_items(limit=3)
        protocol = Protocol(design=Design(rounds=1), feedback_tokens=24)
        own = play(model, items, out=tmp_path / "own", protocol=protocol, progress=False)
        protocol = replace(
            protocol,
            feedback="endpoint",
            feedback_from=f"http://localhost:{port}/v1",
            feedback_model=folder,
        )
        served = play(model, items, out=tmp_path / "served", protocol=protocol, progress=False)
    finally:
        serve.terminate()
        serve.wait(timeout=30)
    assert on(served)["feedback_text"].tolist() == on(own)["feedback_text"].tolist()
    assert served.answers["text"].tolist() == own.answers["text"].tolist()
