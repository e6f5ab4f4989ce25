"""Wordings in other languages: they say what the English one says, and their placebos have its form."""

import re

import pytest
from conftest import make_questions

import morality_lens as ml
from morality_lens.dialogues.languages import LANGUAGES
from morality_lens.dialogues.wording import Wording, load_wording
from morality_lens.rounds.replay import wording_of

ENGLISH = load_wording()
TASKS = ("choice", "continuation")


def size(text: str, language: str) -> float:
    """Words; for Chinese, which has no blanks, characters by the number that a word has."""
    return len(re.sub(r"\W", "", text)) / 1.6 if language == "zh" else len(text.split())


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_list_of_the_english_wording_with_as_many_alternatives(language, task):
    words, english = getattr(load_wording(language), task), getattr(ENGLISH, task)
    for name, texts in english:
        if not isinstance(texts, tuple):
            continue
        own = getattr(words, name)
        assert len(set(own)) == len(own) == len(texts), name
        for text, original in zip(own, texts, strict=True):
            assert re.findall(r"\{\w+\}", text) == re.findall(r"\{\w+\}", original), name
            assert text == text.strip()
            assert text not in texts or text == "{text}"
    assert {name for name, _ in words.oracle} == {name for name, _ in english.oracle}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_placebos_are_as_long_as_what_they_stand_for(language, task):
    words = getattr(load_wording(language), task)
    for said, neutral in zip(words.instruction, words.instruction_placebo, strict=True):
        assert said != neutral
        assert abs(size(said, language) - size(neutral, language)) <= 3, (said, neutral)
        assert language in ("zh", "ko") or abs(len(said) - len(neutral)) <= 10, (said, neutral)
    longest = max(size(t, language) for t in (*words.oracle.correct, *words.oracle.biased))
    for text in words.feedback_placebo:
        assert abs(size(text, language) - longest) <= 6, text
    for name in ("instruction", "instruction_placebo", "feedback_placebo", "cot_request", "review"):
        assert all(text.endswith((".", "?", "\u3002", "\uff1f")) for text in getattr(words, name)), name


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_words_but_the_places_are_shared_with_english(language):
    def every(wording: Wording) -> str:
        dumped = wording.model_dump(include={"choice", "continuation"})
        return " ".join(re.findall(r"'([^']*)'", str(dumped)))

    shared = set(re.findall(r"[a-z]{5,}", every(load_wording(language)).casefold()))
    assert len(shared & set(re.findall(r"[a-z]{5,}", every(ENGLISH).casefold()))) <= 25  # keys, and cognates


def test_english_has_a_name_too():
    assert load_wording("en") == ENGLISH
    assert ml.Protocol(wording="en").wording == "en"


def test_an_unknown_language_is_named_with_those_that_are_there():
    with pytest.raises(FileNotFoundError, match="or a name out of en, de, es, ko, nl, tr, zh"):
        load_wording("fr")


def test_ratings_have_no_words_in_another_language_and_are_refused():
    rating = ml.items.Rating(id="r", cluster="r", context="", question="How?", low_label="a", high_label="b")
    with pytest.raises(ValueError, match=r"'es' has no table \[rating\]"):
        load_wording("es").task(rating)


def test_a_run_in_spanish_is_in_spanish_throughout_and_is_known_again_without_a_path(tmp_path):
    protocol = ml.Protocol(design=ml.Design(rounds=1), wording="es", feedback="oracle")
    run = ml.play(ml.load_model(), make_questions(2), protocol=protocol, out=tmp_path / "run")
    assert run.manifest["study"]["wording"]["name"] == "es"
    assert wording_of(run) == load_wording("es")
    with pytest.raises(ValueError, match="played in the wording 'es', and this is 'nl'"):
        wording_of(run, "nl")
