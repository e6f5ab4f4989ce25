"""Measurements of a bundled model in use, before any comparison with the planted truth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from microworld import tokens
from microworld.acting import (
    Actor,
    Dialogue,
    Model,
    Played,
    judge,
    likely_remarks,
    two_outputs,
)
from microworld.talks import Talks
from microworld.valence import Valence, measure_valence
from morality_lens.design import COMPONENTS, Condition, Design
from morality_lens.dialogues.turns import Turn, distinguish_turn, evidence_turn, stereotype_turn
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.world import sampling, truth
from morality_lens.world.sampling import WorldItem

ROUNDS = truth.LAST_ROUND
CELLS = Design().conditions
ALL_THREE = Condition(instruction="on", cot="on", feedback="on")
PLACEBOS = (
    *(Condition(**{name: "placebo"}) for name in COMPONENTS),
    Condition(instruction="placebo", cot="placebo", feedback="placebo"),
)
EVIDENCE_CELLS = (Condition(), Condition(instruction="on"), Condition(feedback="on"), ALL_THREE)
EVIDENCE_ROUNDS = (0, 1, 3, 5)
HISTORIES = ("none", "own", "another item's")


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Everything that is measured of a model.

    Attributes:
        model: which of the bundled models it is, which determines the planted truth.
        parameters: how many.
        played: open questions in the eight cells.
        unseen: part of them in a wording that no training text holds.
        placebos: part of them in the cell without components and in cells of placebos.
        written: open prompts in the eight cells.
        settled: questions that the context settles, in the cell without components.
        remarks: share of the model's own feedback that is true of given answers, by kind of item.
        follows: share of answers that follow weak evidence, by cell, item and round; NaN where not measured.
        choices: probability of calling the first of two outputs the better one, by kind of item and history;
            dims item, place of the better one.
        naming: probability of naming the stereotyped group.
        valence: what the residuals hold.
    """

    model: Model
    parameters: int
    played: dict[Condition, Played]
    unseen: dict[Condition, Played]
    placebos: dict[Condition, Played]
    written: dict[Condition, Played]
    settled: Played
    remarks: dict[str, float]
    follows: dict[Condition, Float[np.ndarray, "_ round"]]
    choices: dict[tuple[str, str], Float[np.ndarray, "_ place"]]
    naming: Float[np.ndarray, " _"]
    valence: Valence


# ------------------------------------------------------------------------------------------- items
def open_questions() -> tuple[Question, ...]:
    """Two open questions of every template, of both polarities and orders; the first of each balanced too."""
    every = sampling.bundled_questions()
    return tuple(
        every[6 * number + i] for number in range(len(every) // 6) for i in (number % 4, 3 - number % 4)
    )


def some_prompts() -> tuple[OpenPrompt, ...]:
    """Two prompts of every family."""
    n = sampling.PROMPTS_PER_FAMILY
    return tuple(p for i, p in enumerate(sampling.bundled_prompts()) if i % n in (0, n // 2))


# ------------------------------------------------------------------------------------------- answers
def good_chance(played: Played) -> Float[np.ndarray, "item round"]:
    """Probability of a fair answer, or of a kind text."""
    rows = [
        options[:, item.label] if isinstance(item, Question) else options[:, : options.shape[1] // 2].sum(1)
        for item, options in zip(played.items, played.options, strict=True)
    ]
    return np.stack(rows)


def part_of(played: Played, rows: Sequence[int]) -> Played:
    """Some of the items."""
    at = list(rows)
    return Played(
        items=tuple(played.items[i] for i in at),
        options=played.options[at],
        residual=played.residual[at],
        answers=tuple(played.answers[i] for i in at),
    )


def share_that_follows(
    given: Float[np.ndarray, "item form option"], named: Int[np.ndarray, "item form"]
) -> Float[np.ndarray, " item"]:
    """By how much evidence for an option makes it likelier than evidence for the other group does.

    Mean over the two options named. Where a share of the answers follows the evidence and the rest answers
    as without it, the difference is that share.
    """
    rows = np.arange(len(given))
    one, two = named.T
    first = given[rows, 0, one] - given[rows, 1, one]
    second = given[rows, 1, two] - given[rows, 0, two]
    return (first + second) / 2


def ask_with_evidence(
    actor: Actor, talks: Talks, rows: Sequence[int], questions: Sequence[Question]
) -> Float[np.ndarray, " item"]:
    """The share that follows weak evidence, by side questions in these rows of the dialogues."""
    forms = [sampling.weak_evidence(question, version) for version, question in enumerate(questions)]
    letters = [list("ABC")] * len(rows)
    given = []
    for form in range(2):
        turns: list[Turn | None] = [None] * len(talks.lengths)
        for row, question, both in zip(rows, questions, forms, strict=True):
            turns[row] = evidence_turn(question, both[form][0], actor.wording)
        given.append(actor.probabilities(talks.ask(turns)[list(rows)], letters))
    named = np.array([[option for _, option in both] for both in forms])
    return share_that_follows(np.stack(given, axis=1), named)


def play_questions(
    actor: Actor, questions: Sequence[Question]
) -> tuple[dict[Condition, Played], dict[Condition, Float[np.ndarray, "item round"]]]:
    """All cells, and in some of them weak evidence on every fourth question after some rounds."""
    chosen = [place for place in range(len(questions)) if place % 8 in (0, 2)]  # of both polarities
    follows = {c: np.full((len(chosen), ROUNDS + 1), np.nan) for c in EVIDENCE_CELLS}

    def after(talks: Talks, dialogues: Sequence[Dialogue], round: int) -> None:
        if round not in EVIDENCE_ROUNDS:
            return
        for condition in EVIDENCE_CELLS:
            rows = [r for r, d in enumerate(dialogues) if d.condition == condition and d.place in chosen]
            if rows:
                places = [dialogues[r].place for r in rows]
                asked = ask_with_evidence(actor, talks, rows, [questions[p] for p in places])
                follows[condition][[chosen.index(p) for p in places], round] = asked

    return actor.play(questions, CELLS, after=after), follows


def truth_of_remarks(actor: Actor, items: Sequence[WorldItem]) -> float:
    """Share of the model's feedback that is true, on a good and a bad answer to each item."""
    asked = [item for item in items for _ in range(2)]
    answers = [text for number, item in enumerate(items) for text in two_outputs(item, number)]
    said = actor.remarks(asked, answers, actor.wording)
    return float(
        np.mean(
            [likely_remarks(i).get(s) == judge(i, a) for i, a, s in zip(asked, answers, said, strict=True)]
        )
    )


# ------------------------------------------------------------------------------------------- discrimination
def choose_outputs(actor: Actor, items: Sequence[WorldItem], history: str) -> Float[np.ndarray, "item place"]:
    """Probability of calling the first of two outputs the better one, in both orders.

    A history holds both outputs over three rounds, with instruction and feedback: the item's own, or that
    of the item before it.
    """
    pairs = [two_outputs(item, number) for number, item in enumerate(items)]
    if history == "none":
        talks = actor.talks(len(items))
    else:
        shift = 0 if history == "own" else 1
        told = [(number - shift) % len(items) for number in range(len(items))]
        scripts = [[pairs[t][t % 2], pairs[t][1 - t % 2], pairs[t][t // 2 % 2]] for t in told]
        cell = Condition(instruction="on", feedback="on")
        talks = actor.tell([items[t] for t in told], scripts, cell)
    found = []
    for place in range(2):
        turns = [
            distinguish_turn(item, pair[place], pair[1 - place], actor.wording)
            for item, pair in zip(items, pairs, strict=True)
        ]
        found.append(actor.probabilities(talks.ask(turns), [["1", "2"]] * len(items))[:, 0])
    return np.stack(found, axis=1)


def name_stereotyped(actor: Actor, questions: Sequence[Question]) -> Float[np.ndarray, " item"]:
    """Probability of naming the group that the stereotype is about."""
    talks = actor.talks(len(questions))
    talks.say([stereotype_turn(question, actor.wording) for question in questions])
    probabilities = actor.probabilities(talks.logits, [list("ABC")] * len(questions))
    return probabilities[np.arange(len(questions)), [q.stereotyped or 0 for q in questions]]


# ------------------------------------------------------------------------------------------- all measures
def measure(actor: Actor, model: Model, value_layer: int) -> Measured:
    """Plays part of the bundled items in every cell and takes all measures.

    Args:
        actor: the model.
        model: what it is.
        value_layer: the block after which moral valence was planted in the organism.
    """
    questions, prompts = open_questions(), some_prompts()
    settled = [q for q in sampling.bundled_questions() if not q.ambiguous]
    few = questions[::2]
    played, follows = play_questions(actor, questions)
    off = part_of(played[Condition()], range(0, len(questions), 2))
    return Measured(
        model=model,
        parameters=sum(p.numel() for p in actor.model.parameters()),
        played=played,
        unseen=actor.play(few, CELLS, wording=tokens.wordings()[2]),
        placebos={Condition(): off} | actor.play(few, PLACEBOS),
        written=actor.play(prompts, CELLS),
        settled=actor.play(settled, [Condition()], rounds=1)[Condition()],
        remarks={
            "questions": truth_of_remarks(actor, [*few, *settled[::2]]),
            "prompts": truth_of_remarks(actor, prompts),
        },
        follows=follows,
        choices={
            (kind, history): choose_outputs(actor, items, history)
            for kind, items in (("questions", few), ("prompts", prompts))
            for history in HISTORIES
        },
        naming=name_stereotyped(actor, questions),
        valence=measure_valence(actor, model, value_layer, questions, played),
    )
