"""Item, condition and what was said become the next turn, every segment of it named."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from morality_lens.design import COMPONENTS, Condition, Factor, Place
from morality_lens.dialogues.wording import Wording, pick
from morality_lens.items.kinds import Item, Question

USUAL = tuple(Factor(name=name) for name in COMPONENTS)
"""The three components as factors."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A named stretch of a turn."""

    name: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Turn:
    """What one speaker says: segments, joined by a line break."""

    role: Literal["system", "user", "assistant"]
    segments: tuple[Segment, ...]

    @property
    def content(self) -> str:
        """The turn's text as the chat template receives it."""
        return "\n".join(segment.text.strip() for segment in self.segments)


def question_text(item: Item, wording: Wording, index: int = 0) -> str:
    """The item as it is put to the model, in the prompt template of its task."""
    return item.format_prompt(pick(wording.task(item).prompt, index))


def factor_segments(
    factors: Sequence[Factor], place: Place, item: Item, condition: Condition, wording: Wording, index: int
) -> tuple[Segment, ...]:
    """What the factors at one place say under a condition: a segment each, named like its factor."""
    segments = []
    for factor in factors:
        level = condition[factor.name]
        if factor.place != place or level == "off":
            continue
        words = wording.task(item)
        if factor.from_wording:
            texts = words.instruction if level == "on" else words.instruction_placebo
        else:
            texts = factor.variants(level)
        text = pick(texts, index)
        if "{option}" in text:
            text = text.replace("{option}", _wrong_option(item, factor.name))
        segments.append(Segment(name=factor.name, text=text))
    return tuple(segments)


def _wrong_option(item: Item, name: str) -> str:
    """The option that expresses the bias, or else (also where that is right) the first wrong one, lettered.

    Raises:
        ValueError: the item has no options, or none that is wrong.
    """
    wrong = []
    if isinstance(item, Question):
        passed = (item.label, item.unknown)
        wrong = [n for n in range(len(item.options)) if item.label is not None and n not in passed]
        wrong = wrong if item.biased in (None, item.label) else [item.biased]
    if not wrong or not isinstance(item, Question):
        raise ValueError(
            f"the factor {name!r} names a wrong option, so it needs questions with a right option or one "
            f"that expresses a bias; item {item.id!r} has none."
        )
    return f"{item.replies[wrong[0]]}. {item.options[wrong[0]]}"


def opening_turn(item: Item, wording: Wording, index: int = 0) -> Turn:
    """Round 0: the plain question, and the request for an answer."""
    (turn,) = opening_turns(item, Condition(), wording, index, factors=())
    return turn


def opening_turns(
    item: Item,
    condition: Condition,
    wording: Wording,
    index: int = 0,
    *,
    factors: Sequence[Factor] = USUAL,
    system: str | None = None,
) -> tuple[Turn, ...]:
    """Round 0: a system turn where something is said there, then the question and the request for an answer.

    Args:
        item: the item that is played.
        condition: the cell.
        wording: the words.
        index: which of the alternative wordings.
        factors: what the condition is of.
        system: the system prompt, said under every condition before what a factor adds to it.
    """
    spoken = {
        place: factor_segments(factors, place, item, condition, wording, index)
        for place in ("system", "before_question", "after_question")
    }
    question = Segment(name="question", text=question_text(item, wording, index))
    request = Segment(name="answer_request", text=pick(wording.task(item).answer_request, index))
    user = Turn(
        role="user", segments=(*spoken["before_question"], question, *spoken["after_question"], request)
    )
    return (*system_turns(system, spoken["system"]), user)


def system_turns(system: str | None, more: tuple[Segment, ...] = ()) -> tuple[Turn, ...]:
    """The system turn: the system prompt and what follows it there; none where nothing is said."""
    prompt = () if system is None else (Segment(name="system", text=system),)
    segments = (*prompt, *more)
    return (Turn(role="system", segments=segments),) if segments else ()


def correction_turn(
    item: Item,
    condition: Condition,
    wording: Wording,
    *,
    feedback: str | None = None,
    index: int = 0,
    factors: Sequence[Factor] = USUAL,
) -> Turn:
    """A correction round's first turn: feedback, review, instruction, then the request for what comes next.

    What comes next is a rationale where the chain of thought is on or placebo (the answer is then requested
    by :func:`answer_turn`), else the answer.

    Args:
        item: the item that was played.
        condition: the cell.
        wording: the words.
        feedback: the source's feedback on the last answer; needed where feedback is on. Where it is placebo,
            None is the wording's neutral text.
        index: which of the alternative wordings.
        factors: what the condition is of.

    Raises:
        ValueError: feedback is on and none was given.
    """
    words = wording.task(item)
    level = {factor.place: condition[factor.name] for factor in factors}
    heard, reasoned = level.get("feedback", "off"), level.get("rationale", "off")
    segments = []
    if heard == "placebo" and feedback is None:
        feedback = pick(words.feedback_placebo, index)
    if heard != "off":
        if not feedback or not feedback.strip():
            raise ValueError(f"condition {condition.label!r} needs feedback on item {item.id!r}; got none.")
        text = pick(words.feedback, index).replace("{feedback}", feedback.strip())
        segments.append(Segment(name="feedback", text=text))
    segments.append(Segment(name="review", text=pick(words.review, index)))
    segments += factor_segments(factors, "with_review", item, condition, wording, index)
    name, texts = ("answer_request", words.answer_request)
    if reasoned != "off":
        name, texts = ("cot_request", words.cot_request)
    segments.append(Segment(name=name, text=pick(texts, index)))
    return Turn(role="user", segments=tuple(segments))


def answer_turn(item: Item, wording: Wording, index: int = 0) -> Turn:
    """The request for the answer after a rationale, in the words of :func:`opening_turn`."""
    text = pick(wording.task(item).answer_request, index)
    return Turn(role="user", segments=(Segment(name="answer_request", text=text),))


def _filled(text: str, **values: str) -> str:
    """The text with every ``{name}`` replaced at once: what a value holds in braces stays as it is."""
    return re.sub(
        "|".join(f"{{{name}}}" for name in values),
        lambda found: values[found[0][1:-1]].strip() or "(nothing)",
        text,
    )


def critique_turn(item: Item, answer: str, wording: Wording, index: int = 0) -> Turn:
    """The question that asks for feedback, in a dialogue of its own."""
    text = pick(wording.task(item).critique_request, index)
    text = _filled(text, question=question_text(item, wording, index), answer=answer)
    return Turn(role="user", segments=(Segment(name="critique_request", text=text),))


def evidence_turn(question: Question, evidence: str, wording: Wording, index: int = 0) -> Turn:
    """The question asked again with one sentence of weak evidence at the end of its context."""
    blank = replace(question, context="")
    return Turn(
        role="user",
        segments=(
            Segment(name="context", text=question.context),
            Segment(name="evidence", text=evidence),
            Segment(name="question", text=question_text(blank, wording, index)),
            Segment(name="answer_request", text=pick(wording.choice.answer_request, index)),
        ),
    )


def distinguish_turn(item: Item, first: str, second: str, wording: Wording, index: int = 0) -> Turn:
    """Two outputs, and which of them is the better one; the answer is ``1`` or ``2``."""
    text = pick(wording.task(item).distinguish_request, index)
    text = _filled(text, question=question_text(item, wording, index), first=first, second=second)
    return Turn(role="user", segments=(Segment(name="distinguish_request", text=text),))


def stereotype_turn(question: Question, wording: Wording, index: int = 0) -> Turn:
    """Which group a stereotype is about, asked from the question alone; the answer is an option's letter."""
    text = pick(wording.choice.stereotype_request, index)
    text = _filled(text, question=question_text(question, wording, index))
    return Turn(role="user", segments=(Segment(name="stereotype_request", text=text),))


def statement_turn(text: str) -> Turn:
    """A statement as a probe reads it: said by the user, with nothing around it."""
    return Turn(role="user", segments=(Segment(name="statement", text=text),))
