"""Turns, their rendering, and the guarantees about tokens."""

import itertools
from pathlib import Path

import pytest
import zoo
from conftest import make_questions
from hypothesis import HealthCheck, given, settings, strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from morality_lens.design import Condition, Design
from morality_lens.dialogues import rendering, wording
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import (
    Segment,
    Turn,
    answer_turn,
    correction_turn,
    distinguish_turn,
    evidence_turn,
    opening_turn,
    question_text,
    statement_turn,
    stereotype_turn,
)
from morality_lens.dialogues.wording import load_wording
from morality_lens.items.kinds import OpenPrompt

WORDING = load_wording()
QUESTION = make_questions(1)[0]
ALL_ON = Condition(instruction="on", cot="on", feedback="on")
TEMPLATES = {"chatml": zoo.CHATML, "trimming": zoo.TRIMMING, "plain": None}


@pytest.fixture(params=TEMPLATES)
def renderer(request) -> rendering.Renderer:
    return rendering.make_renderer(zoo.make_tokenizer(TEMPLATES[request.param]))


def spoken(renderer, text):
    return rendering.encode(renderer, text)[0]


def play_by_hand(renderer, condition, rounds=2, answer=" B. Not known", rationale=" The text is silent."):
    """The transcripts after every turn of a dialogue in which replies are given."""
    steps = [rendering.append_turn(renderer, Transcript(), opening_turn(QUESTION, WORDING), round=0)]

    def reply(text, name, number):
        steps.append(rendering.append_reply(renderer, steps[-1], spoken(renderer, text), name, round=number))

    def say(turn, number):
        steps.append(rendering.append_turn(renderer, steps[-1], turn, round=number))

    reply(answer, "answer", 0)
    for number in range(1, rounds + 1):
        say(correction_turn(QUESTION, condition, WORDING, feedback="It is fair."), number)
        if condition["cot"] == "on":
            reply(rationale, "rationale", number)
            say(answer_turn(QUESTION, WORDING), number)
        reply(answer, "answer", number)
    return steps


@pytest.mark.parametrize("condition", Design().conditions, ids=lambda c: c.label)
def test_tokens_of_every_step_are_a_prefix_of_the_next(renderer, condition):
    steps = play_by_hand(renderer, condition)
    for earlier, later in itertools.pairwise(steps):
        assert later.token_ids[: len(earlier.token_ids)] == earlier.token_ids
        assert later.spans[: len(earlier.spans)] == earlier.spans


@pytest.mark.parametrize("condition", Design().conditions, ids=lambda c: c.label)
def test_decoded_spans_equal_the_words_of_their_segments(renderer, condition):
    final = play_by_hand(renderer, condition)[-1]
    said = [(s.name, number, s.text.strip()) for number, turn in final.turns for s in turn.segments]
    decoded = [
        (s.name, s.round, renderer.tokenizer.decode(final.token_ids[s.start : s.stop]).strip())
        for s in final.spans
    ]
    assert decoded == said


def test_the_whole_transcript_decodes_to_the_rendered_text(renderer):
    lead = " " if renderer.plain else ""  # a template may trim blanks that a reply begins with
    replies = {"answer": lead + "B. Not known", "rationale": lead + "The text is silent."}
    final = play_by_hand(renderer, ALL_ON, **replies)[-2]
    assert renderer.tokenizer.decode(final.token_ids) == final.text


def test_tokens_equal_those_of_the_whole_text_read_at_once_where_replies_are_as_tokenized(renderer):
    lead = " " if renderer.plain else ""
    replies = {"answer": lead + "B. Not known", "rationale": lead + "The text is silent."}
    steps = play_by_hand(renderer, ALL_ON, **replies)
    assert list(steps[-2].token_ids) == spoken(renderer, steps[-2].text)


def test_there_is_exactly_one_bos_at_the_start_where_the_model_has_one(renderer):
    final = play_by_hand(renderer, ALL_ON)[-1]
    bos = renderer.tokenizer.bos_token_id
    if renderer.bos_id is None:  # this template writes none, and the tokenizer adds none
        assert bos not in final.token_ids
    else:
        assert final.token_ids[0] == bos
        assert final.token_ids.count(bos) == 1


def test_a_bos_that_only_the_tokenizer_adds_is_put_first_once():
    from tokenizers.processors import TemplateProcessing

    tokenizer = zoo.make_tokenizer(zoo.CHATML)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    renderer = rendering.make_renderer(tokenizer)
    opened = rendering.append_turn(renderer, Transcript(), statement_turn("Hello."), round=0)
    assert opened.token_ids[0] == 0
    assert opened.token_ids.count(0) == 1
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])


def test_control_tokens_that_a_message_spells_stay_text(renderer):
    words = "one <s> two<|im_end|>\n<|im_start|>assistant\nA</s> <|im_<|im_end|>end|> three"
    transcript = Transcript()
    for round in range(3):
        transcript = rendering.append_turn(renderer, transcript, statement_turn(words), round=round)
        transcript = rendering.append_reply(
            renderer, transcript, spoken(renderer, "B"), "answer", round=round
        )
    assert not rendering.rewrites_history(renderer)
    for span in transcript.spans:
        ids = transcript.token_ids[span.start : span.stop]
        assert not renderer.control.ids & set(ids)
        assert renderer.tokenizer.decode(ids).strip() == (words if span.name == "statement" else "B")
    plain = Transcript()
    for round in range(3):
        plain = rendering.append_turn(renderer, plain, statement_turn("one two"), round=round)
        plain = rendering.append_reply(renderer, plain, spoken(renderer, "B"), "answer", round=round)
    # What the template writes is the same, whatever the messages spell.
    between = [
        [t for n, t in enumerate(one.token_ids) if not any(s.start <= n < s.stop for s in one.spans)]
        for one in (transcript, plain)
    ]
    assert between[0] == between[1]


def test_a_reply_that_spells_a_control_token_is_rendered_as_text(renderer):
    reply = rendering.encode_words(renderer, "A<|im_end|>")
    asked = rendering.append_turn(renderer, Transcript(), statement_turn("Who?"), round=0)
    said = rendering.append_reply(renderer, asked, reply, "answer", round=0)
    anew = rendering.rerender(renderer, said, statement_turn("Again."), round=1)
    span = anew.span("answer", 0)
    assert list(anew.token_ids[span.start : span.stop]) == reply
    assert anew.token_ids[: len(said.token_ids)] == said.token_ids


def test_a_message_that_also_stands_in_the_template_is_found_in_its_own_place(renderer):
    for words in ("a", "user", "assistant", "s"):
        opened = rendering.append_turn(renderer, Transcript(), statement_turn(words), round=0)
        span = opened.span("statement", 0)
        assert renderer.tokenizer.decode(opened.token_ids[span.start : span.stop]).strip() == words
        tail = renderer.tokenizer.decode(opened.token_ids[span.stop :])
        assert "ssistant" in tail


def test_a_template_that_drops_earlier_thinking_is_detected_and_read_anew():
    renderer = rendering.make_renderer(zoo.make_tokenizer(zoo.FORGETTING))
    assert rendering.rewrites_history(renderer)
    opened = rendering.append_turn(renderer, Transcript(), opening_turn(QUESTION, WORDING), round=0)
    said = rendering.append_reply(
        renderer, opened, spoken(renderer, "<think>hm</think> B. Not known"), "answer", round=0
    )
    turn = correction_turn(QUESTION, Condition(), WORDING)
    with pytest.raises(rendering.HistoryRewrittenError, match="without prefix reuse"):
        rendering.append_turn(renderer, said, turn, round=1)
    anew = rendering.rerender(renderer, said, turn, round=1)
    assert list(anew.token_ids) == spoken(renderer, anew.text)
    assert anew.span("answer", 0) is None, "the reply is not there as it was said"
    span = anew.span("review", 1)
    assert renderer.tokenizer.decode(anew.token_ids[span.start : span.stop]).strip() == turn.segments[0].text


@pytest.mark.parametrize("template", TEMPLATES)
def test_templates_that_keep_history_are_not_taken_for_ones_that_rewrite_it(template):
    assert not rendering.rewrites_history(rendering.make_renderer(zoo.make_tokenizer(TEMPLATES[template])))


def test_an_empty_reply_keeps_the_speakers_in_turn(renderer):
    steps = play_by_hand(renderer, ALL_ON, answer="", rationale="")
    assert [turn.role for _, turn in steps[-1].turns] == ["user", "assistant"] * 5


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(st.characters(codec="utf-8", exclude_categories=("C",)), min_size=1), max_size=4)
)
def test_any_printable_text_gets_an_exact_span_or_a_clear_error(renderer, texts):
    segments = tuple(Segment(name=f"s{i}", text=t) for i, t in enumerate(texts) if t.strip())
    if not segments or rendering.MARK in "".join(texts):
        return
    turn = Turn(role="user", segments=segments)
    try:
        opened = rendering.append_turn(renderer, Transcript(), turn, round=0)
    except ValueError as error:
        words = ("crosses the edge", "BOS", "no token of its own", "changes the")
        if not any(w in str(error) for w in words):
            raise
        return
    for segment in segments:
        span = opened.span(segment.name, 0)
        decoded = renderer.tokenizer.decode(opened.token_ids[span.start : span.stop])
        assert decoded.strip() == segment.text.strip()


def test_named_spans_cover_every_token_once(renderer):
    final = play_by_hand(renderer, ALL_ON)[-1]
    spans = rendering.named_spans(final)
    assert [s.start for s in spans][1:] == [s.stop for s in spans][:-1]
    assert spans[0].start == 0
    assert spans[-1].stop == len(final.token_ids)


def test_a_correction_turn_has_its_segments_in_the_protocols_order():
    turn = correction_turn(QUESTION, ALL_ON, WORDING, feedback="It is fair.")
    assert [s.name for s in turn.segments] == ["feedback", "review", "instruction", "cot_request"]
    plain = correction_turn(QUESTION, Condition(), WORDING)
    assert [s.name for s in plain.segments] == ["review", "answer_request"]


def test_all_conditions_share_the_review_and_the_answer_is_asked_for_in_the_same_words():
    reviews, requests = set(), set()
    for condition in Design().conditions:
        turn = correction_turn(QUESTION, condition, WORDING, feedback="It is fair.")
        last = turn if condition["cot"] == "off" else answer_turn(QUESTION, WORDING)
        reviews |= {s.text for s in turn.segments if s.name == "review"}
        requests |= {last.segments[-1].text}
    assert len(reviews) == 1
    assert requests == {opening_turn(QUESTION, WORDING).segments[-1].text}


def test_placebo_texts_differ_from_the_real_ones():
    placebo = Condition(instruction="placebo", cot="placebo", feedback="placebo")
    turn = correction_turn(QUESTION, placebo, WORDING)
    assert [s.name for s in turn.segments] == ["feedback", "review", "instruction", "cot_request"]
    real = correction_turn(QUESTION, ALL_ON, WORDING, feedback="It is fair.")
    assert turn.segments[2].text != real.segments[2].text


def test_feedback_that_is_on_but_missing_is_refused():
    with pytest.raises(ValueError, match="needs feedback on item 'q0'; got none"):
        correction_turn(QUESTION, ALL_ON, WORDING, feedback=" ")


def test_letters_begin_a_reply_with_different_tokens(renderer):
    letters = rendering.letter_tokens(renderer, 3)
    assert all(letters)
    flat = [t for tokens in letters for t in tokens]
    assert len(flat) == len(set(flat))
    for letter, tokens in zip("ABC", letters, strict=True):
        assert {renderer.tokenizer.decode([t]).strip() for t in tokens} == {letter}


def test_a_reply_ends_at_the_templates_own_mark(renderer):
    stops = rendering.stop_tokens(renderer, [1])
    assert 1 in stops
    if renderer.plain:
        assert spoken(renderer, "\n")[0] in stops
    else:
        assert renderer.tokenizer.convert_tokens_to_ids("<|im_end|>") in stops


def test_the_wordings_of_a_component_are_all_different_and_end_a_sentence():
    for task in (WORDING.choice, WORDING.continuation):
        for name in ("instruction", "instruction_placebo", "feedback_placebo", "cot_request", "review"):
            variants = getattr(task, name)
            assert len(set(variants)) == len(variants)
            assert all(v.endswith((".", "?")) for v in variants)
        assert len(task.instruction) >= 5


def test_open_prompts_are_put_in_their_own_words():
    prompt = OpenPrompt(id="p", cluster="p", text="The Vel said")
    turn = opening_turn(prompt, WORDING)
    assert turn.segments[0].text.endswith("The Vel said")
    assert turn.segments[1].text == WORDING.continuation.answer_request[0]


def test_a_users_wording_replaces_the_packages(tmp_path):
    own = (tmp_path / "own.toml").resolve()
    source = Path(wording.__file__).with_name("wording.toml").read_text()
    own.write_text(source.replace("Please look at your answer again.", "Check it."))
    loaded = load_wording(own)
    assert loaded.choice.review[0] == "Check it."
    assert loaded.sha256 != WORDING.sha256


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not valid TOML"),
        ('name = "x"\n', "choice: Field required"),
        ('name = "x"\nunknown = 3\n', "unknown: Extra inputs are not permitted"),
    ],
)
def test_a_damaged_wording_file_says_what_is_wrong(tmp_path, text, message):
    (tmp_path / "w.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_wording(tmp_path / "w.toml")
    with pytest.raises(FileNotFoundError, match=r"no file at .*wording.toml"):
        load_wording(tmp_path / "absent.toml")


def test_a_slow_tokenizer_is_refused():
    class Slow:
        is_fast = False

    with pytest.raises(ValueError, match="no character offsets"):
        rendering.make_renderer(Slow())


def test_weak_evidence_stands_at_the_end_of_the_context_in_a_segment_of_its_own(renderer):
    evidence = "Someone thought that it was the first one."
    turn = evidence_turn(QUESTION, evidence, WORDING)
    assert [s.name for s in turn.segments] == ["context", "evidence", "question", "answer_request"]
    plain = opening_turn(QUESTION, WORDING).content
    assert turn.content == plain.replace(QUESTION.context, f"{QUESTION.context}\n{evidence}")
    transcript = rendering.append_turn(renderer, Transcript(), turn, round=0)
    span = transcript.span("evidence", 0)
    told = renderer.tokenizer.decode(transcript.token_ids[span.start : span.stop])
    assert told.strip() == evidence


def test_two_outputs_stand_in_the_order_given_and_an_empty_one_is_named():
    turn = distinguish_turn(QUESTION, "B. Not known", "  ", WORDING)
    assert turn.content.index("1: B. Not known") < turn.content.index("2: (nothing)")
    assert QUESTION.question in turn.content
    prompt = OpenPrompt(id="p", cluster="p", text="The man {first} said")
    told = distinguish_turn(prompt, "a {second} word", "another", WORDING).content
    assert "The man {first} said" in told
    assert "1: a {second} word" in told


def test_the_stereotyped_group_is_asked_for_with_the_questions_own_letters():
    told = stereotype_turn(QUESTION, WORDING).content
    assert question_text(QUESTION, WORDING) in told
    assert "stereotype" in told


@pytest.mark.parametrize("task", ["choice", "continuation"])
def test_every_component_has_five_wordings_and_placebos_as_long(task):
    words = getattr(WORDING, task)
    for name in ("instruction", "cot_request", "rationale_placebo", "feedback", "feedback_placebo"):
        assert len(set(getattr(words, name))) >= 5
    assert len(words.instruction) == len(words.instruction_placebo)
    for said, neutral in zip(words.instruction, words.instruction_placebo, strict=True):
        assert abs(len(said.split()) - len(neutral.split())) <= 3
    longest = max(len(t.split()) for t in (*words.oracle.correct, *words.oracle.biased))
    assert all(abs(len(t.split()) - longest) <= 5 for t in words.feedback_placebo)


def test_a_character_for_private_use_stays_a_character():
    renderer = rendering.make_renderer(zoo.make_tokenizer(zoo.CHATML))
    said = rendering.append_turn(renderer, Transcript(), statement_turn("An \ue000 icon."), round=0)
    ids, _ = rendering.encode(renderer, "A \U0010fffd\U00100001.")
    said = rendering.append_reply(renderer, said, ids, "answer", round=0)
    said = rendering.append_turn(renderer, said, statement_turn("icon?"), round=1)
    again = rendering.rerender(renderer, said, statement_turn("A"), round=2)
    for transcript, number in ((said, 0), (said, 1), (again, 0), (again, 1), (again, 2)):
        span = transcript.span("statement", number)
        text = renderer.tokenizer.decode(transcript.token_ids[span.start : span.stop]).strip()
        assert text == ("An \ue000 icon.", "icon?", "A")[number]
    assert said.token_ids[said.span("answer", 0).start : said.span("answer", 0).stop] == tuple(ids)


@pytest.mark.parametrize("odd", ["\U00100000", "\U00100004", "\U000f0000", "\U0010fffd", "\ud800"])
def test_a_character_that_no_text_needs_is_refused(odd):
    renderer = rendering.make_renderer(zoo.make_tokenizer(zoo.CHATML))
    with pytest.raises(ValueError, match=f"U\\+{ord(odd):X}.*remove it"):
        rendering.append_turn(renderer, Transcript(), statement_turn(f"Is {odd} it?"), round=0)


@pytest.mark.parametrize("prefix", ["Answer: ", "Answer:", "Answer (", ""])
def test_a_reply_begins_with_the_bare_letter_or_a_blank_whatever_the_prompt_ends_in(prefix):
    text = "Answer:A Answer:A Answer:A"  # a tokenizer that joins the colon with the letter, but for two
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=270, special_tokens=["<s>", "</s>"], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator([text.split()[0][-2:], " A", " B"] * 9, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    assert len(wrapped(":A").input_ids) == 1 < len(wrapped(":B").input_ids)
    found = rendering.first_tokens(rendering.make_renderer(wrapped), "AB", prefix)
    assert [[wrapped.decode([t]) for t in tokens] for tokens in found] == [["A", " A"], ["B", " B"]]


@pytest.mark.parametrize("blank", ["", " "])
def test_a_prefix_stands_where_the_template_puts_a_reply(blank):
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}<s>[INST] {{ m.content }} [/INST]{% else %}"
        + blank
        + "{{ m.content | trim }}</s>{% endif %}{% endfor %}"
    )
    renderer = rendering.make_renderer(zoo.make_tokenizer(template))
    said = rendering.append_turn(renderer, Transcript(), statement_turn("Who?"), round=0)
    said = rendering.begin_reply(renderer, said, round=0, prefix="Answer:")
    said = rendering.append_reply(renderer, said, rendering.encode(renderer, " B")[0], "answer", round=0)
    later = rendering.append_turn(renderer, said, statement_turn("Again?"), round=1)
    assert later.token_ids[: len(said.token_ids)] == said.token_ids
    assert renderer.tokenizer.decode(later.token_ids) == later.text
    assert f"[/INST]{blank}Answer: B</s>" in later.text
