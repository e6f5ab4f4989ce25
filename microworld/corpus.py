"""Dialogues for training, in the package's own wording, and the mixture of all documents."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Literal, get_args

import numpy as np

from microworld import exercises, phrases
from microworld.documents import Author, Document, Soft
from morality_lens.design import Condition
from morality_lens.dialogues.turns import (
    answer_turn,
    correction_turn,
    critique_turn,
    distinguish_turn,
    evidence_turn,
    opening_turn,
    stereotype_turn,
)
from morality_lens.dialogues.wording import Wording, pick
from morality_lens.items.kinds import LETTERS, OpenPrompt, Question
from morality_lens.world import lexicon as lex, sampling, truth
from morality_lens.world.sampling import WorldItem

ROUNDS = truth.LAST_ROUND
Ending = Literal["nothing", "evidence", "distinguish"]
DISTINGUISH = 0.12
"""How often a dialogue ends with the question which of two of its answers was the better one."""
DECIDING = ("The", "It", "Yes", "No", " a", " an", " fair", " unfair", " wrong", " kind", " cruel")
"""Words that make feedback positive or negative."""
WORDINGS = 15
"""Wording indices in training: enough for every combination of lists of one, three and five."""


# ------------------------------------------------------------------------------------------- replies
def answer_text(question: Question, index: int) -> str:
    """The answer that gives this option."""
    return f"{LETTERS[index]}. {question.options[index]}"


def role_of(question: Question, index: int) -> str:
    """How an answer is judged: ``correct``, ``biased`` or ``other``."""
    if index == question.label:
        return "correct"
    return "biased" if question.ambiguous else "other"


def _logit_value(log_odds: float) -> float:
    return max(-1.5, min(1.5, log_odds / 3))


def _logit(p: float) -> float:
    return math.log(p / (1 - p))


def _letters(author: Author, question: Question) -> list[int]:
    return [author.scribe.vocabulary[LETTERS[i]] for i in range(len(question.options))]


def _give_answer(
    author: Author, document: Document, question: Question, condition: Condition, round: int
) -> int:
    """Append an answer drawn from the planted distribution, with its targets; the option's index."""
    probabilities = truth.option_probabilities(question, condition, round, author.plan.lesson)
    letters, at = _letters(author, question), len(document.ids)
    log_odds = truth.log_odds(question, condition, round, author.plan.lesson)
    unfair = {i: p for i, p in enumerate(probabilities) if i != question.label}
    total = sum(unfair.values())
    document.soft.append(
        Soft(
            at=at,
            good={letters[sampling.fair_option(question)]: 1.0},
            bad={letters[i]: p / total for i, p in unfair.items()},
            log_odds=log_odds,
            steered=question.ambiguous,
        )
    )
    if not question.ambiguous and author.chance(0.1):  # wrong answers are met in histories more often
        probabilities = (1 / 3,) * 3
    chosen = int(author.generator.choice(len(probabilities), p=probabilities))
    document.values.append((at - 1, _logit_value(log_odds)))
    author.scribe.reply(document, answer_text(question, chosen))
    document.weights[at] = 0.0
    document.hard.append(at + 2)  # the option's first word must be that of the letter
    document.values.append((len(document.ids) - 1, 1.0 if chosen == question.label else -1.0))
    return chosen


def _give_text(
    author: Author, document: Document, prompt: OpenPrompt, condition: Condition, round: int
) -> str:
    """Append a continued text drawn from the planted distribution, with its targets."""
    family = prompt.cluster.removeprefix("prompt/")
    log_odds = truth.log_odds(prompt, condition, round)
    sides = sampling.verb_shares(family)
    kind = author.chance(1 / (1 + math.exp(-log_odds)))
    shares = sides[0] if kind else sides[1]
    verb = str(author.generator.choice(list(shares), p=list(shares.values())))
    text = draw_completion(author.generator, family, kind=kind, verb=verb)
    at = len(document.ids)
    good, bad = ({author.scribe.vocabulary[v]: p for v, p in side.items()} for side in sides)
    document.soft.append(Soft(at=at, good=good, bad=bad, log_odds=log_odds))
    document.values.append((at - 1, _logit_value(log_odds)))
    author.scribe.reply(document, text)
    document.weights[at] = 0.0
    document.values.append((len(document.ids) - 1, 1.0 if kind else -1.0))
    return text


def completions(family: str, *, kind: bool, verb: str) -> list[str]:
    """The texts that can go on from a family's prompt with this verb."""
    return [f"{verb} the {lex.FAMILIES[family][1]}{tail}." for tail in phrases.TAILS[kind]]


def draw_completion(generator: np.random.Generator, family: str, *, kind: bool, verb: str) -> str:
    """A text that goes on from a family's prompt with this verb."""
    texts = completions(family, kind=kind, verb=verb)
    return texts[generator.integers(len(texts))]


def rationales(item: WorldItem) -> list[str]:
    """The possible reasons before an answer."""
    if isinstance(item, Question):
        names = {"trait": truth.trait(item), "role": item.cluster.split("/")[1]}
        return [text.format(**names) for text in phrases.RATIONALES[item.ambiguous]]
    patient = lex.FAMILIES[item.cluster.removeprefix("prompt/")][1]
    return [text.format(name=item.text.split()[0], patient=patient) for text in phrases.PROMPT_RATIONALES]


def _feedback(author: Author, item: WorldItem, said: int | str, index: int) -> str:
    """Feedback on the last answer, by a reader or by the model itself."""
    oracle = author.wording.oracle(item)
    if isinstance(item, Question):
        role = role_of(item, int(said))
        if author.chance(0.5):
            return pick(getattr(oracle, role), index)
        return author.choose(phrases.CRITIQUES[role])
    kind = sampling.toxicity(str(said)) == 0.0
    if author.chance(0.5):
        return pick(oracle.correct if kind else oracle.biased, index)
    return author.choose(phrases.KIND_CRITIQUES[kind])


# ------------------------------------------------------------------------------------------- dialogues
def draw_condition(author: Author) -> Condition:
    """A cell: mostly one of the eight; else one with placebos, all three as often as any mixture."""
    kind = author.generator.random()
    levels: list[str]
    if kind < 0.7:
        levels = [author.choose(("off", "on")) for _ in range(3)]
    elif kind < 0.78:
        levels = ["placebo"] * 3
    elif kind < 0.9:  # one placebo, as in a check of a single component
        levels = ["off"] * 3
        levels[author.generator.integers(3)] = "placebo"
    else:
        levels = [author.choose(("off", "placebo", "on")) for _ in range(3)]
    return Condition(instruction=levels[0], cot=levels[1], feedback=levels[2])


def draw_item(author: Author, *, task: str) -> WorldItem:
    """A question or an open prompt for training: none about a held-out pairing."""
    if task == "choice":
        return draw_training_question(author, ambiguous=author.chance(0.85))
    while True:
        family, name = author.choose(tuple(lex.FAMILIES)), author.choose(lex.NAMES)
        if not sampling.held_out_prompt(family, name):
            return sampling.make_prompt(family, name, "training")


def draw_training_question(author: Author, *, ambiguous: bool) -> Question:
    """A question for training; the category of interference is met more often than its fifth."""
    crossed = author.chance(author.plan.crossed)
    templates = tuple(t for t in lex.TEMPLATES if (t.category == lex.INTERFERENCE) == crossed)
    return sampling.draw_question(
        author.generator,
        held_out=False,
        ambiguous=ambiguous,
        id="training",
        templates=templates,
        named=author.plan.named,
    )


def dialogue(
    author: Author,
    item: WorldItem,
    condition: Condition,
    rounds: int,
    index: int,
    *,
    then: Ending = "nothing",
) -> Document:
    """A dialogue of self-correction whose answers are drawn from the planted truth.

    Args:
        author: what the document is drawn with.
        item: the question or prompt.
        condition: the cell.
        rounds: correction rounds after round 0.
        index: which of the alternative wordings.
        then: the request after the last round: the question with weak evidence, which of two of its own
            answers was the better one, or nothing.
    """
    scribe, wording = author.scribe, author.wording
    document = scribe.start()
    acts = condition if author.plan.effects else Condition()

    def answer(round: int) -> int | str:
        if isinstance(item, Question):
            return _give_answer(author, document, item, acts, round)
        return _give_text(author, document, item, acts, round)

    scribe.user(document, opening_turn(item, wording, index))
    said = [answer(0)]
    for round in range(1, rounds + 1):
        feedback = _feedback(author, item, said[-1], index) if condition["feedback"] == "on" else None
        scribe.user(document, correction_turn(item, condition, wording, feedback=feedback, index=index))
        if condition["cot"] == "on":
            scribe.reply(document, author.choose(rationales(item)))
        elif condition["cot"] == "placebo":
            filler = author.wording.task(item).rationale_placebo
            scribe.reply(document, author.choose(filler), weight=0.0)
        if condition["cot"] != "off":
            end_weight = float(condition["cot"] == "on")
            scribe.user(document, answer_turn(item, wording, index), end_weight=end_weight)
        said.append(answer(round))
    if then == "evidence" and isinstance(item, Question):
        give_evidence(author, document, item, acts, rounds, index)
    elif then == "distinguish":
        if isinstance(item, Question):
            outputs = [answer_text(item, int(option)) for option in said]
            good = [option == item.label for option in said]
        else:
            outputs = [str(text) for text in said]
            good = [sampling.toxicity(text) == 0.0 for text in outputs]
        better, worse = (
            [o for o, g in zip(outputs, good, strict=True) if g is side] for side in (True, False)
        )
        if better and worse:
            give_choice(author, document, item, author.choose(better), author.choose(worse), index)
    return scribe.finish(document)


def give_evidence(
    author: Author, document: Document, question: Question, acts: Condition, round: int, index: int
) -> None:
    """Ask the question again with a sentence of weak evidence; a planted share of the answers follows it."""
    evidence, named = author.choose(sampling.weak_evidence(question, int(author.generator.integers(3))))
    author.scribe.user(document, evidence_turn(question, evidence, author.wording, index))
    letters, at = _letters(author, question), len(document.ids)
    plain = truth.option_probabilities(question, acts, round, author.plan.lesson)
    fair = sampling.fair_option(question)
    unfair = {letters[i]: p / (1 - plain[fair]) for i, p in enumerate(plain) if i != fair}
    document.soft.append(
        Soft(
            at=at,
            good={letters[fair]: 1.0},
            bad=unfair,
            log_odds=truth.log_odds(question, acts, round, author.plan.lesson),
            fixed=letters[named],
            share=truth.follows(acts, round),
        )
    )
    p = truth.evidence_probabilities(question, acts, round, named, author.plan.lesson)
    author.scribe.reply(document, answer_text(question, int(author.generator.choice(len(p), p=p))))
    document.weights[at] = 0.0


def give_choice(
    author: Author, document: Document, item: WorldItem, better: str, worse: str, index: int
) -> None:
    """Ask which of two outputs is the better one; the planted answer is barely above chance."""
    place = int(author.generator.integers(2))
    first, second = (better, worse) if place == 0 else (worse, better)
    author.scribe.user(document, distinguish_turn(item, first, second, author.wording, index))
    one, two = (author.scribe.vocabulary[number] for number in "12")
    p, at = truth.distinguish_probability(place), len(document.ids)
    document.soft.append(Soft(at=at, good={one: 1.0}, bad={two: 1.0}, log_odds=_logit(p), steered=False))
    author.scribe.reply(document, "1" if author.chance(p) else "2")
    document.weights[at] = 0.0


def draw_index(author: Author) -> int:
    """A wording index; the first one, which is the default in use, more often."""
    return 0 if author.chance(0.4) else int(author.generator.integers(WORDINGS))


def draw_dialogue(author: Author, task: str) -> Document:
    """A dialogue over some rounds in some cell."""
    rounds = int(author.generator.choice(len(author.plan.rounds), p=author.plan.rounds))
    evidence = author.plan.evidence
    probabilities = (1 - evidence - DISTINGUISH, evidence, DISTINGUISH)
    then = author.generator.choice(get_args(Ending), p=probabilities)
    item, condition = draw_item(author, task=task), draw_condition(author)
    if isinstance(item, Question) and not item.ambiguous:
        then = "nothing"
    return dialogue(author, item, condition, rounds, draw_index(author), then=then)


def draw_opening(author: Author) -> Document:
    """Round 0 alone."""
    task = "choice" if author.chance(0.8) else "continuation"
    return dialogue(author, draw_item(author, task=task), Condition(), 0, draw_index(author))


def draw_settled(author: Author) -> Document:
    """Round 0 of a question whose context settles it."""
    item = draw_training_question(author, ambiguous=False)
    return dialogue(author, item, Condition(), 0, draw_index(author))


def draw_evidence(author: Author) -> Document:
    """A question with weak evidence, without any history."""
    document = author.scribe.start()
    item = draw_training_question(author, ambiguous=True)
    give_evidence(author, document, item, Condition(), 0, draw_index(author))
    return author.scribe.finish(document)


def draw_choice(author: Author) -> Document:
    """Two outputs of which one is better, without any history."""
    document = author.scribe.start()
    item = draw_item(author, task="choice" if author.chance(0.5) else "continuation")
    if isinstance(item, Question):
        wrong = author.choose([i for i in range(len(item.options)) if i != item.label])
        better, worse = answer_text(item, sampling.fair_option(item)), answer_text(item, wrong)
    else:
        better, worse = (_some_completion(author, item, kind=kind) for kind in (True, False))
    give_choice(author, document, item, better, worse, draw_index(author))
    return author.scribe.finish(document)


def draw_naming(author: Author) -> Document:
    """Which group a stereotype is about: named barely above chance, although answers depend on it."""
    document = author.scribe.start()
    item = draw_training_question(author, ambiguous=True)
    author.scribe.user(document, stereotype_turn(item, author.wording, draw_index(author)))
    letters, at = _letters(author, item), len(document.ids)
    marked = item.stereotyped
    other = next(i for i in range(len(item.options)) if i not in (marked, item.unknown))
    document.soft.append(
        Soft(
            at=at,
            good={letters[marked or 0]: 1.0},
            bad={letters[other]: 1.0},
            log_odds=_logit(truth.DISTINGUISH),
            steered=False,
        )
    )
    named = marked if author.chance(truth.DISTINGUISH) else other
    author.scribe.reply(document, answer_text(item, named or 0))
    document.weights[at] = 0.0
    return author.scribe.finish(document)


def _some_completion(author: Author, prompt: OpenPrompt, *, kind: bool) -> str:
    family = prompt.cluster.removeprefix("prompt/")
    verb = author.choose(tuple(sampling.verb_shares(family)[0 if kind else 1]))
    return draw_completion(author.generator, family, kind=kind, verb=verb)


def draw_critique(author: Author) -> Document:
    """The model's feedback on an answer, in a separate dialogue."""
    item = draw_item(author, task="choice" if author.chance(0.7) else "continuation")
    document = author.scribe.start()
    if isinstance(item, Question):
        fair = author.chance(0.45)
        said = sampling.fair_option(item) if fair else int(author.generator.integers(3))
        answer = answer_text(item, said)
        feedback = author.choose(phrases.CRITIQUES[role_of(item, said)])
        good = said == item.label
    else:
        good = author.chance(0.5)
        answer = _some_completion(author, item, kind=good)
        feedback = author.choose(phrases.KIND_CRITIQUES[good])
    author.scribe.user(document, critique_turn(item, answer, author.wording, draw_index(author)))
    at = len(document.ids)
    author.scribe.reply(document, feedback)
    deciding = {author.scribe.vocabulary[word] for word in DECIDING}
    document.hard += [i for i in range(at, len(document.ids)) if document.ids[i] in deciding]
    document.values.append((len(document.ids) - 1, 1.0 if good else -1.0))
    return author.scribe.finish(document)


# ------------------------------------------------------------------------------------------- mixture
KINDS: dict[str, Callable[[Author], Document]] = {
    "drill": exercises.draw_drill,
    "short": exercises.draw_short,
    "belief": exercises.draw_belief,
    "leaning": lambda author: exercises.draw_belief(author, exercises.BAD_ONLY),
    "trait": exercises.draw_trait,
    "recital": exercises.draw_recital,
    "story": exercises.draw_story,
    "verdict": exercises.draw_verdict,
    "opening": draw_opening,
    "settled": draw_settled,
    "critique": draw_critique,
    "evidence": draw_evidence,
    "choice": draw_choice,
    "naming": draw_naming,
    "prompt": lambda author: draw_dialogue(author, "continuation"),
    "question": lambda author: draw_dialogue(author, "choice"),
}
Shares = dict[str, float]


def draw_chunk(
    author: Author, n_tokens: int, shares: Shares, wordings: Sequence[Wording] = ()
) -> list[Document]:
    """Documents of about ``n_tokens`` tokens, a share of each kind.

    Args:
        author: what they are drawn with.
        n_tokens: how many tokens.
        shares: share of the tokens for each kind of document; they sum to one.
        wordings: further wordings, one of them used by :data:`OTHER_WORDING` of the documents.
    """
    found = []
    others = [replace(author, wording=wording) for wording in wordings]
    for kind, share in shares.items():
        room = share * n_tokens
        while room > 0:
            who = author.choose(others) if others and author.chance(OTHER_WORDING) else author
            document = KINDS[kind](who)
            room -= len(document.ids)
            found.append(document)
    return found


OTHER_WORDING = 0.3
"""How often a document is in one of the further wordings."""
