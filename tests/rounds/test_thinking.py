"""Models that think before they reply: thoughts are a segment of their own, with a limit of their own."""

from dataclasses import replace

import families
import numpy as np
import pytest
import torch
import zoo
from conftest import make_questions
from probes.test_statements import STATEMENTS
from rounds.test_playing import expected_site
from transformers import LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from morality_lens.circuits import Batching, Moment, patch, steer
from morality_lens.circuits.attribution import attribute_answer
from morality_lens.circuits.measuring import log_odds_of
from morality_lens.design import COMPONENTS, SITES, Condition, Design, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import critique_turn, statement_turn
from morality_lens.dialogues.wording import load_wording
from morality_lens.experiments.masking import mask_words
from morality_lens.models.loading import load_model, record_of
from morality_lens.probes import fit_probe
from morality_lens.rounds import Execution
from morality_lens.rounds.feedback import Critic, ReviewedAnswer, said as said_of
from morality_lens.rounds.playing import play
from morality_lens.rounds.replay import dialogue_after
from morality_lens.rounds.side_questions import SideQuestion, ask
from morality_lens.runs.passages import passages

FORGETTING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == 'assistant' else m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
KEEPING = "{# thinks between <think> and </think> #}" + zoo.CHATML
BEGUN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1].strip() if m.role == 'assistant' else m.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}{% if m.role == 'assistant' %}"
    "{% if m.thinking is defined and loop.last %}<|start|>assistant<|channel|>analysis<|message|>"
    "{{ m.thinking }}<|end|>{% endif %}<|start|>assistant<|channel|>final<|message|>{{ m.content }}<|end|>"
    "{% else %}<|start|>{{ m.role }}<|message|>{{ m.content }}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
TEMPLATES = {"forgetting": FORGETTING, "keeping": KEEPING, "begun": BEGUN, "channels": CHANNELS}
SPECIAL = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
PROTOCOL = Protocol(
    design=Design(rounds=2, sites=(*SITES, "thought", "rationale", "question")),
    answer_tokens=6,
    rationale_tokens=7,
    feedback_tokens=6,
    thinking_tokens=8,
    temperature=2.0,
)


def make_tokenizer(template):
    tokenizer = zoo.make_tokenizer(None)
    tokenizer = type(tokenizer)(
        tokenizer_object=tokenizer.backend_tokenizer.from_str(tokenizer.backend_tokenizer.to_str()),
        bos_token="<s>", eos_token="</s>", pad_token="</s>",
    )  # fmt: skip
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    return tokenizer


def load(folder, template, *, often=True, **keywords):
    """A random model whose template marks thoughts; ``often``: a sixth of all tokens end a reply."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(**{**zoo.GROUPED, "vocab_size": 410})).save_pretrained(
        folder
    )
    make_tokenizer(template).save_pretrained(folder)
    model = load_model(folder, device="cpu", template_keywords=keywords)
    if often:
        stops = record_of(model).stops | set(range(0, 400, 6))
        object.__setattr__(model, "morality_lens_record", replace(record_of(model), stops=stops))
    return model


def check_thoughts(record, run, limit):
    """Thoughts, answers after them and all that is captured equal plain transformers on what is stored."""
    cube, answers = run.residuals.load(), run.answers
    compared = 0
    for passage in passages(run):
        residuals, logits = zoo.fresh_pass(record, passage.token_ids)
        where = {"item": passage.item, **passage.condition.coords}
        for number in passage.rounds:
            row = answers.query(f"item == '{passage.item}' and round == {number}")
            row = row[(row[list(COMPONENTS)] == list(passage.condition.coords.values())).all(axis=1)].iloc[0]
            spans = [dict(zip(("name", "round", "start", "stop"), s, strict=True)) for s in passage.spans]
            own = [s for s in spans if s["round"] == number]
            thought = [s for s in own if s["name"] == "thought"][-1]
            answer = next(s for s in own if s["name"] == "answer")
            closing = record.renderer.tokenizer.decode(passage.token_ids[thought["stop"] : answer["start"]])
            assert closing == record.renderer.thinking.closing
            ids = passage.token_ids[thought["start"] : thought["stop"]]
            assert row["thought"] == record.renderer.tokenizer.decode(ids).strip()
            for site in ("answer_start", "answer_end", "answer_mean", "thought", "rationale"):
                got = cube.sel(**where, round=number, site=site).values
                last = [s for s in own if s["name"] == site][-1:]
                want = expected_site(
                    last if site in ("thought", "rationale") else spans, residuals, site, number
                )
                if want is None or (site == "answer_start" and row["thinking_cut"]):
                    assert np.isnan(got).all()
                    continue
                assert np.linalg.norm(got - want) < 1e-5 * np.linalg.norm(want)
                compared += 1
            if row["thinking_cut"]:
                assert (row["text"], row["parsed"], len(ids)) == ("", False, limit)
                assert np.isnan(run.option_probabilities.sel(**where, round=number)).all()
            else:
                letters = rendering.letter_tokens(record.renderer, 3)
                shares = torch.softmax(logits[answer["start"] - 1].double(), -1)
                want = torch.stack([shares[list(t)].sum() for t in letters])
                got = run.option_probabilities.sel(**where, round=number).values
                np.testing.assert_allclose(got, want / want.sum(), rtol=1e-4)
    assert compared > 100
    assert 0 < answers["thinking_cut"].mean() < 1


@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("name", TEMPLATES)
def test_thoughts_are_a_segment_and_every_site_equals_a_fresh_forward(name, tmp_path):
    model, questions = load(tmp_path / "m", TEMPLATES[name]), make_questions(3)
    run = play(model, questions, out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    record = record_of(model)
    assert record.prefix_reuse == (name == "keeping")
    assert run.manifest["study"]["limits"]["thinking_tokens"] == 8
    check_thoughts(record, run, 8)
    for condition in run.design.conditions[::3]:
        dialogue_after(record, run, questions[0], condition, load_wording())  # refuses what differs


@pytest.mark.slow(seconds=20)
@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("name", ["Qwen3", "GPT-OSS"])
def test_families_that_think_do_so_with_their_own_tokenizers(name, tmp_path):
    model, questions = (
        load_model(families.save_family(families.FAMILIES[name], tmp_path / "m")),
        make_questions(2),
    )
    stops = record_of(model).stops | set(range(0, 200_000, 6))
    object.__setattr__(model, "morality_lens_record", replace(record_of(model), stops=stops))
    run = play(model, questions, out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    check_thoughts(record_of(model), run, 8)
    for condition in run.design.conditions[::3]:
        dialogue_after(record_of(model), run, questions[1], condition, load_wording())


@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("name", TEMPLATES)
def test_a_limit_of_zero_skips_the_thoughts_as_the_template_would(name, tmp_path):
    model = load(tmp_path / "m", TEMPLATES[name])
    protocol = replace(PROTOCOL, thinking_tokens=0, design=Design(rounds=1))
    run = play(model, make_questions(2), out=tmp_path / "run", protocol=protocol, progress=False)
    assert set(run.answers["thought"]) == {""}
    assert not run.answers["thinking_cut"].any()
    renderer = record_of(model).renderer
    for passage in passages(run):
        answer = [s for s in passage.spans if s[0] == "answer"][-1]
        before = renderer.tokenizer.decode(passage.token_ids[: answer[2]])
        assert before.endswith(
            {
                "channels": "<|start|>assistant<|channel|>final<|message|>",
                "begun": "<think>\n\n</think>\n\n",
            }.get(name, "<|im_start|>assistant\n<think>\n\n</think>\n\n")
        )


@pytest.mark.filterwarnings("ignore:the chat template of")
def test_a_template_that_skips_thoughts_itself_is_left_alone(tmp_path):
    model = load(tmp_path / "m", FORGETTING, enable_thinking=False)
    run = play(model, make_questions(2), out=tmp_path / "run", protocol=PROTOCOL, progress=False)
    assert set(run.answers["thought"]) == {""}
    text = record_of(model).renderer.tokenizer.decode(run.transcripts["token_ids"].iloc[0])
    assert text.count("<think>") == text.count("</think>") == 1


@pytest.mark.filterwarnings("ignore:the chat template of")
def test_thoughts_of_a_critic_are_not_its_feedback(tmp_path):
    model, (question,) = load(tmp_path / "m", KEEPING), make_questions(1)
    record, wording = record_of(model), load_wording()
    protocol = replace(PROTOCOL, temperature=0.0)
    critic = Critic(record=record, protocol=protocol, wording=wording)
    answers = [ReviewedAnswer(item=question, answer=a, condition="none", round=0) for a in "ABCDEFGHIJKL"]
    heard = critic.feedback(answers)
    renderer, stops, unfinished = record.renderer, record.stops, 0

    def greedy(transcript, limit, ends):
        ids = torch.tensor([transcript.token_ids])
        out = record.lm.module.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=limit, do_sample=False,
            eos_token_id=sorted(ends), pad_token_id=1,
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        return [t for t in out if t not in ends], bool(ends & set(out))

    for answer, said in zip(answers, heard, strict=True):
        asked = rendering.append_turn(
            renderer, Transcript(), critique_turn(question, answer.answer, wording), round=0
        )
        begun = rendering.begin_reply(renderer, asked, round=0, thinking=True)
        thought, ended = greedy(begun, 8, stops | {renderer.thinking.end})
        unfinished += not ended
        begun = rendering.append_reply(renderer, begun, thought, "thought", round=0)
        tokens, whole = greedy(rendering.begin_reply(renderer, begun, round=0), 6, stops)
        text = renderer.tokenizer.decode(tokens, skip_special_tokens=True)
        assert said == (said_of(text, cut=not whole) if ended else None)
    assert 0 < unfinished < len(answers)


@pytest.mark.filterwarnings("ignore:the chat template of")
def test_side_questions_are_asked_without_thoughts(tmp_path):
    record = record_of(load(tmp_path / "m", CHANNELS))
    turn = statement_turn("Is it A or B?")
    (reply,) = ask(record, [SideQuestion(history=Transcript(), turn=turn, replies=("A", "B"))])
    asked = rendering.append_turn(record.renderer, Transcript(), turn, round=0)
    text = asked.text + "<|channel|>final<|message|>"
    _, logits = zoo.fresh_pass(record, rendering.encode(record.renderer, text)[0])
    shares = torch.softmax(logits[-1].double(), -1)
    want = [float(shares[list(t)].sum()) for t in rendering.letter_tokens(record.renderer, 2)]
    np.testing.assert_allclose(reply.probabilities, np.array(want) / sum(want), rtol=1e-4)


@pytest.mark.parametrize("template", [zoo.CHATML, KEEPING])
def test_a_prefix_begins_every_answer_and_stands_in_the_transcript(template, tmp_path):
    model = load(tmp_path / "m", template)
    protocol = replace(PROTOCOL, answer_prefix="Answer:", design=Design(rounds=1))
    run = play(model, make_questions(2), out=tmp_path / "run", protocol=protocol, progress=False)
    record, cube = record_of(model), run.residuals.load()
    letters = rendering.first_tokens(record.renderer, "ABC", "Answer:")
    for passage in passages(run):
        residuals, logits = zoo.fresh_pass(record, passage.token_ids)
        for number in passage.rounds:
            spans = {s[0]: s for s in passage.spans if s[1] == number}
            prefix, answer = spans["answer_prefix"], spans["answer"]
            assert prefix[3] == answer[2]
            assert record.renderer.tokenizer.decode(passage.token_ids[prefix[2] : prefix[3]]) == "Answer:"
            where = {"item": passage.item, **passage.condition.coords, "round": number}
            got = cube.sel(**where, site="answer_start").values
            if np.isnan(got).all():
                continue  # still thinking
            assert np.linalg.norm(got - residuals[:, answer[2] - 1]) < 1e-5 * np.linalg.norm(got)
            shares = torch.softmax(logits[answer[2] - 1].double(), -1)
            want = torch.stack([shares[list(t)].sum() for t in letters])
            got = run.option_probabilities.sel(**where).values
            np.testing.assert_allclose(got, want / want.sum(), rtol=1e-4)
    assert run.manifest["study"]["answer_prefix"] == "Answer:"
    with pytest.raises(ValueError, match="answer_prefix"):
        play(model, make_questions(2), out=tmp_path / "run", protocol=replace(protocol, answer_prefix=""),
             progress=False)  # fmt: skip


@pytest.mark.filterwarnings("ignore:the chat template of")
@pytest.mark.parametrize("name", ["keeping", "forgetting"])
def test_no_reader_of_a_run_measures_answers_that_no_finished_thought_comes_before(name, tmp_path):
    model, questions = load(tmp_path / "m", TEMPLATES[name]), make_questions(6)
    run = play(model, questions, out=tmp_path / "run", protocol=replace(PROTOCOL, thinking_tokens=4),
               progress=False)  # fmt: skip
    table, quiet = run.answers, Batching(progress=False)
    assert 0 < table["thinking_cut"].mean() < 1
    for passage in passages(run):
        for number in passage.rounds:
            missing = np.isnan(
                run.option_probabilities.sel(item=passage.item, **passage.condition.coords, round=number)
            )
            assert bool(missing.all()) == (not passage.places("answer_start", number))
    plain, told = Condition(), Condition(instruction="on")
    answered = {
        c.label: {p.item for p in passages(run, conditions=[c], rounds=[1]) if p.places("answer_start", 1)}
        for c in (plain, told)
    }
    both = answered["none"] & answered["instruction"]
    assert 0 < len(both) < len(questions)
    patched = patch(model, run, source=told, target=Moment(condition=plain, round=1), batching=quiet)
    assert set(patched["item"].values) == both
    stored = log_odds_of(run, patched["item"].values.tolist(), 1).sel(run.design.condition(plain).coords)
    np.testing.assert_allclose(patched["target_log_odds"], stored, rtol=1e-4)
    split = attribute_answer(model, run, execution=Execution(progress=False))["projection"]
    mass = run.option_mass.transpose(*split.dims).sel(item=split["item"])
    np.testing.assert_array_equal(np.isnan(split), np.isnan(mass))
    probe = fit_probe(model, STATEMENTS)
    masked = mask_words(model, run, probe, execution=Execution(progress=False))
    there = probe.project(run).sel(item=masked["item"], site=masked["site"]).transpose(*masked.dims)
    np.testing.assert_array_equal(masked.isnull(), there.isnull())
    steered = steer(model, run, probe, condition=Moment(condition=plain, round=1), batching=quiet)
    assert set(steered["item"].values) == answered["none"]
