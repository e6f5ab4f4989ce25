"""The system prompt and the template's keywords: what they say, where, and that a run keeps them."""

import numpy as np
import pytest
import zoo
from conftest import make_questions

from morality_lens.design import Condition, Design, Factor, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import statement_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.models import load_model
from morality_lens.models.loading import record_of, reload_model
from morality_lens.rounds import play
from morality_lens.rounds.replay import dialogue_after, same_model
from morality_lens.rounds.side_questions import SideQuestion

PROMPT = "You are a careful judge."
SHORT = {"answer_tokens": 3, "rationale_tokens": 4, "feedback_tokens": 4}
TONE = Factor(name="tone", place="system", texts={"on": "Speak softly."})
LOUD = zoo.CHATML.replace("{% for m", "{% if loud %}LOUD {{ loud }}\n{% endif %}{% for m", 1)


def protocol(prompt: str | None, **more) -> Protocol:
    factors = (TONE, Factor(name="feedback"))
    return Protocol(design=Design(factors=factors, rounds=1), system_prompt=prompt, **SHORT, **more)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    # In float64: differences of float32 reach a hundred thousandth, by which order sums are taken in.
    folder = zoo.save_model(tmp_path_factory.mktemp("m"), "llama", template=zoo.CHATML)
    return load_model(folder, device="cpu", dtype="float64")


@pytest.fixture(scope="module")
def spoken(model, tmp_path_factory):
    """A run with a system prompt, and the turns of all requests for feedback."""
    heard, real = [], rendering.append_turn

    def listening(renderer, transcript, *said, round):
        if said[-1].segments[0].name == "critique_request":
            heard.append(said)
        return real(renderer, transcript, *said, round=round)

    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "append_turn", listening)
        run = play(model, make_questions(2), out=out, protocol=protocol(PROMPT), progress=False)
    return run, heard


def test_it_is_said_first_under_every_condition_and_before_what_a_factor_adds(model, spoken):
    run, _ = spoken
    record = record_of(model)
    for row in run.transcripts.to_dict("records"):
        (span,) = [s for s in row["spans"] if s["name"] == "system"]
        decode = record.renderer.tokenizer.decode
        assert decode(row["token_ids"][span["start"] : span["stop"]]).strip() == PROMPT
        assert decode(row["token_ids"]).startswith(f"<|im_start|>system\n{PROMPT}")
        more = [s for s in row["spans"] if s["name"] == "tone"]
        assert len(more) == (row["tone"] == "on")
        assert all(s["start"] >= span["stop"] for s in more)
        fresh = zoo.fresh_pass(record, list(row["token_ids"]))[0]
        answer = [s for s in row["spans"] if s["name"] == "answer"][-1]
        here = {name: row[name] for name in run.design.names} | {"item": row["item"]}
        got = run.residuals.sel(here).sel(round=1, site="answer_start").values
        np.testing.assert_allclose(got, fresh[:, answer["start"] - 1], atol=1e-5)


def test_the_models_own_feedback_is_under_it_and_another_models_is_not(model, spoken, tmp_path, zoo_folder):
    _, heard = spoken
    assert heard
    assert {said[0].role for said in heard} == {"system"}
    assert {said[0].content for said in heard} == {PROMPT}
    requests, real = [], rendering.append_turn

    def listening(renderer, transcript, *said, round):
        if said[-1].segments[0].name == "critique_request" and renderer is not record_of(model).renderer:
            requests.append(said)
        return real(renderer, transcript, *said, round=round)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendering, "append_turn", listening)
        by_another = protocol(PROMPT, feedback="model", feedback_from=str(zoo_folder("gpt2")))
        play(model, make_questions(1), out=tmp_path / "run", protocol=by_another, progress=False)
    assert requests
    assert {said[0].role for said in requests} == {"user"}


def test_a_run_keeps_it_and_is_resumed_with_no_other(model, spoken):
    run, _ = spoken
    assert run.manifest["study"]["system_prompt"] == run.system_prompt == PROMPT
    for other in (None, "You are a judge."):
        with pytest.raises(ValueError, match="holds another run; it differs in system_prompt"):
            play(model, make_questions(2), out=run.path, protocol=protocol(other), progress=False)
    play(model, make_questions(2), out=run.path, protocol=protocol(PROMPT), progress=False)


def test_its_dialogues_are_built_again_with_it(model, spoken):
    run, _ = spoken
    item, condition = run.asked[run.items.index[0]], Condition(tone="on", feedback="on")
    found = dialogue_after(record_of(model), run, item, condition, load_wording())
    assert found[0].turns[0][1].content == f"{PROMPT}\nSpeak softly."
    bare = SideQuestion(history=Transcript(), turn=statement_turn("a"), replies=("1",), system=PROMPT)
    assert [turn.role for turn in bare.turns] == ["system", "user"]
    after = SideQuestion(history=found[0], turn=statement_turn("a"), replies=("1",), system=PROMPT)
    assert [turn.role for turn in after.turns] == ["user"]


def test_runs_without_it_are_as_they_were(model, tmp_path):
    run = play(model, make_questions(1), out=tmp_path / "run", protocol=protocol(None), progress=False)
    assert "system_prompt" not in run.manifest["study"]
    assert not {"template_keywords", "quantization", "adapter", "device_map"} & set(
        run.manifest["study"]["model"]
    )
    assert run.system_prompt is None


def test_a_template_without_a_system_turn_refuses_it_before_anything_is_played(tmp_path):
    silent = zoo.CHATML.replace("{% for m in messages %}", "{% for m in messages if m.role != 'system' %}", 1)
    model = load_model(zoo.save_model(tmp_path / "m", "llama", template=silent), device="cpu")
    with pytest.raises(ValueError, match="has no system turn"):
        play(model, make_questions(1), out=tmp_path / "run", protocol=protocol(PROMPT), progress=False)
    assert not (tmp_path / "run").exists()


def test_a_system_prompt_has_words():
    with pytest.raises(ValueError, match="system_prompt needs words"):
        protocol("  ")


def test_the_templates_keywords_are_part_of_a_run(tmp_path):
    folder = zoo.save_model(tmp_path / "m", "llama", template=LOUD)
    loud = load_model(folder, device="cpu", template_keywords={"loud": 3})
    plain = load_model(folder, device="cpu")
    run = play(loud, make_questions(1), out=tmp_path / "run", protocol=protocol(None), progress=False)
    ids = run.transcripts["token_ids"].iloc[0]
    assert record_of(loud).renderer.tokenizer.decode(ids).startswith("LOUD 3\n")
    stored = run.manifest["study"]["model"]
    assert stored["template_keywords"] == {"loud": 3}
    with pytest.raises(ValueError, match=r"holds another run; it differs in model\.template_keywords"):
        play(plain, make_questions(1), out=tmp_path / "run", protocol=protocol(None), progress=False)
    with pytest.raises(ValueError, match=r"load it with template_keywords={'loud': 3}"):
        same_model(plain, run, None)
    again = reload_model(stored, device="cpu")
    assert same_model(again, run, None).options == {"template_keywords": {"loud": 3}}
