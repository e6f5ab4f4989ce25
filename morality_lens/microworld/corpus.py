"""Training documents: dialogues in the package's own wording, exercises, stories and verdicts."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from morality_lens.design import LEVELS, Condition, Level
from morality_lens.dialogues import (
    LETTERS,
    Turn,
    answer_turn,
    correction_turn,
    critique_turn,
    distinguish_turn,
    evidence_turn,
    opening_turn,
    statement_turn,
    stereotype_turn,
)
from morality_lens.items import Item, OpenPrompt, Question
from morality_lens.microworld import lexicon as lex
from morality_lens.microworld import tokens, truth, world
from morality_lens.wording import Wording, pick

USER_WEIGHT = 0.15
OUTCOME_WEIGHT = 1.5
ROUNDS = truth.LAST_ROUND
Ending = Literal["nothing", "evidence", "distinguish"]
ENDINGS: dict[Ending, float] = {"nothing": 0.6, "evidence": 0.28, "distinguish": 0.12}
"""How often something is asked after the last round."""
INTERFERENCE_SHARE = 0.4
"""Share of the category in which feedback and instruction conflict, a fifth of the world."""
DECIDING = ("The", "It", "Yes", "No", " a", " an", " fair", " unfair", " wrong", " kind", " cruel")
"""Words by which a remark turns out good or bad."""
ROUND_SHARES = (0.0, 0.2, 0.2, 0.15, 0.15, 0.3)
"""How often a training dialogue ends after each round, unless a stage of training says otherwise."""
WORDINGS = 15
"""Wording indices in training: enough for every combination of lists of one, three and five."""


@dataclass(frozen=True, kw_only=True)
class Soft:
    """A planted distribution over a reply's first token.

    Attributes:
        at: where the reply begins.
        good: how the good side shares its probability.
        bad: how the other side does.
        log_odds: of the good side against the other.
        steered: whether an added direction of moral valence moves the log-odds.
        fixed: a token that has the probability ``share`` whatever the log-odds.
        share: that probability.
    """

    at: int
    good: dict[int, float]
    bad: dict[int, float]
    log_odds: float
    steered: bool = True
    fixed: int = 0
    share: float = 0.0


@dataclass(kw_only=True)
class Document:
    """One training text.

    Attributes:
        ids: the tokens.
        weights: weight of the next-token loss for each token as the one to be predicted.
        soft: planted distributions.
        hard: tokens that must be exactly right (settled answers, verdicts).
        values: moral valence at a token, 1 for a clearly good act.
    """

    ids: list[int]
    weights: list[float]
    soft: list[Soft] = field(default_factory=list)
    hard: list[int] = field(default_factory=list)
    values: list[tuple[int, float]] = field(default_factory=list)


class Scribe:
    """Writes documents token by token, exactly as ``dialogues`` renders the same turns.

    Every piece is found without looking beyond its line, so lines can be encoded once and kept. ``strict``
    refuses words that the vocabulary lacks.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self.strict = strict
        self.vocabulary = {piece: i for i, piece in enumerate(tokens.vocabulary())}
        groups = {group for names in lex.GROUPS.values() for group in names}
        spaced = [piece[1:] for piece in self.vocabulary if piece[:1] == " " and piece[1:].isalpha()]
        self.words = [word for word in spaced if word not in groups]
        self._lines: dict[str, tuple[int, ...]] = {}
        self.first, self.end, self._user, self._assistant = (
            self.vocabulary[piece] for piece in (tokens.BOS, tokens.END, tokens.USER, tokens.ASSISTANT)
        )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text without special tokens."""
        found: list[int] = []
        for number, words in enumerate(text.split("\n")):
            line = words if number == 0 else "\n" + words
            ids = self._lines.get(line)
            if ids is None:
                unknown = self.vocabulary[tokens.UNK]
                ids = tuple(self.vocabulary.get(piece, unknown) for piece in re.findall(tokens.PIECE, line))
                if self.strict and unknown in ids:
                    raise ValueError(f"the vocabulary lacks a word of {line!r}; add it to the lexicon.")
                self._lines[line] = ids
            found.extend(ids)
        return found

    def start(self) -> Document:
        """An empty dialogue."""
        return Document(ids=[self.first], weights=[0.0])

    def user(self, document: Document, turn: Turn, *, end_weight: float = 1.0) -> None:
        """Add a user's turn and the prompt for a reply; ``end_weight`` is for the end of the reply before."""
        if len(document.ids) > 1:
            self._add(document, [self.end], end_weight)
        self._add(document, [self._user, *self.encode(turn.content), self.end, self._assistant], USER_WEIGHT)

    def reply(self, document: Document, text: str, weight: float = 1.0) -> None:
        """Add a reply, without the token that ends it."""
        self._add(document, self.encode(text), weight)

    def finish(self, document: Document) -> Document:
        """The document with its last reply ended."""
        self._add(document, [self.end], 1.0)
        return document

    @staticmethod
    def _add(document: Document, ids: list[int], weight: float) -> None:
        document.ids.extend(ids)
        document.weights.extend([weight] * len(ids))


@dataclass(frozen=True, kw_only=True)
class Author:
    """Everything a document is drawn with."""

    scribe: Scribe
    wording: Wording
    generator: np.random.Generator
    reserved: frozenset[str] = frozenset()
    """Statements that no verdict may be about."""
    effects: bool = True
    """Whether components act; else every cell answers like the one without any (the null model)."""
    contrast: float = 1.0
    """By how much the category of interference differs more from the others than the truth has it."""
    rounds: tuple[float, ...] = ROUND_SHARES
    """How often a dialogue ends after each round."""

    def choose(self, values: Any) -> Any:
        """One of the values, all equally likely."""
        return values[self.generator.integers(len(values))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.generator.random() < probability)


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
    probabilities = truth.option_probabilities(question, condition, round, author.contrast)
    letters, at = _letters(author, question), len(document.ids)
    log_odds = truth.log_odds(question, condition, round, author.contrast)
    unfair = {i: p for i, p in enumerate(probabilities) if i != question.label}
    total = sum(unfair.values())
    document.soft.append(
        Soft(
            at=at,
            good={letters[question.label]: 1.0},
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
    sides = world.verb_shares(family)
    kind = author.chance(1 / (1 + math.exp(-log_odds)))
    shares = sides[0] if kind else sides[1]
    verb = str(author.generator.choice(list(shares), p=list(shares.values())))
    text = world.draw_completion(author.generator, family, kind=kind, verb=verb)
    at = len(document.ids)
    good, bad = ({author.scribe.vocabulary[v]: p for v, p in side.items()} for side in sides)
    document.soft.append(Soft(at=at, good=good, bad=bad, log_odds=log_odds))
    document.values.append((at - 1, _logit_value(log_odds)))
    author.scribe.reply(document, text)
    document.weights[at] = 0.0
    document.values.append((len(document.ids) - 1, 1.0 if kind else -1.0))
    return text


def rationales(item: Item) -> list[str]:
    """What the reasons before an answer can be."""
    if isinstance(item, Question):
        names = {"trait": truth.trait(item), "role": item.cluster.split("/")[1]}
        return [text.format(**names) for text in lex.RATIONALES[item.ambiguous]]
    patient = lex.FAMILIES[item.cluster.removeprefix("prompt/")][1]
    return [text.format(name=item.text.split()[0], patient=patient) for text in lex.PROMPT_RATIONALES]


def _feedback(author: Author, item: Item, said: int | str, index: int) -> str:
    """What a reader, or the model itself, says of the last answer."""
    oracle = author.wording.task(item).oracle
    if isinstance(item, Question):
        role = role_of(item, int(said))
        if author.chance(0.5):
            return pick(getattr(oracle, role), index)
        return author.choose(lex.CRITIQUES[role])
    kind = world.toxicity(str(said)) == 0.0
    if author.chance(0.5):
        return pick(oracle.correct if kind else oracle.biased, index)
    return author.choose(lex.KIND_CRITIQUES[kind])


# ------------------------------------------------------------------------------------------- dialogues
def draw_condition(author: Author) -> Condition:
    """A cell: mostly one of the eight; else one with placebos, all three as often as any mixture."""
    kind = author.generator.random()
    levels: list[Level]
    if kind < 0.7:
        levels = [author.choose(("off", "on")) for _ in range(3)]
    elif kind < 0.78:
        levels = ["placebo"] * 3
    elif kind < 0.9:  # one placebo, as in a check of a single component
        levels = ["off"] * 3
        levels[author.generator.integers(3)] = "placebo"
    else:
        levels = [author.choose(LEVELS) for _ in range(3)]
    return Condition(instruction=levels[0], cot=levels[1], feedback=levels[2])


def draw_item(author: Author, *, task: str) -> Item:
    """A question or an open prompt for training: none about a held-out pairing."""
    if task == "choice":
        return draw_training_question(author, ambiguous=author.chance(0.85))
    while True:
        family, name = author.choose(tuple(lex.FAMILIES)), author.choose(lex.NAMES)
        if not world.held_out_prompt(family, name):
            return world.make_prompt(family, name, "training")


def draw_training_question(author: Author, *, ambiguous: bool) -> Question:
    """A question for training; the category of interference is met more often than its fifth."""
    crossed = author.chance(INTERFERENCE_SHARE)
    templates = tuple(t for t in lex.TEMPLATES if (t.category == lex.INTERFERENCE) == crossed)
    return world.draw_question(
        author.generator, held_out=False, ambiguous=ambiguous, id="training", templates=templates
    )


def dialogue(
    author: Author, item: Item, condition: Condition, rounds: int, index: int, *, then: Ending = "nothing"
) -> Document:
    """A dialogue of self-correction whose answers are drawn from the planted truth.

    Args:
        author: what the document is drawn with.
        item: what is asked.
        condition: the cell.
        rounds: correction rounds after round 0.
        index: which of the alternative wordings.
        then: what is asked after the last round: the question with weak evidence, which of two of its own
            answers was the better one, or nothing.
    """
    scribe, wording = author.scribe, author.wording
    document = scribe.start()
    acts = condition if author.effects else Condition()

    def answer(round: int) -> int | str:
        if isinstance(item, Question):
            return _give_answer(author, document, item, acts, round)
        return _give_text(author, document, item, acts, round)

    scribe.user(document, opening_turn(item, wording, index))
    said = [answer(0)]
    for round in range(1, rounds + 1):
        feedback = _feedback(author, item, said[-1], index) if condition.feedback == "on" else None
        scribe.user(document, correction_turn(item, condition, wording, feedback=feedback, index=index))
        if condition.cot == "on":
            scribe.reply(document, author.choose(rationales(item)))
        elif condition.cot == "placebo":
            filler = author.wording.task(item).rationale_placebo
            scribe.reply(document, author.choose(filler), weight=0.0)
        if condition.cot != "off":
            end_weight = float(condition.cot == "on")
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
            good = [world.toxicity(text) == 0.0 for text in outputs]
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
    evidence, named = author.choose(world.weak_evidence(question, int(author.generator.integers(3))))
    author.scribe.user(document, evidence_turn(question, evidence, author.wording, index))
    letters, at = _letters(author, question), len(document.ids)
    plain = truth.option_probabilities(question, acts, round, author.contrast)
    unfair = {letters[i]: p / (1 - plain[question.label]) for i, p in enumerate(plain) if i != question.label}
    document.soft.append(
        Soft(
            at=at,
            good={letters[question.label]: 1.0},
            bad=unfair,
            log_odds=truth.log_odds(question, acts, round, author.contrast),
            fixed=letters[named],
            share=truth.follows(acts, round),
        )
    )
    p = truth.evidence_probabilities(question, acts, round, named, author.contrast)
    author.scribe.reply(document, answer_text(question, int(author.generator.choice(len(p), p=p))))
    document.weights[at] = 0.0


def give_choice(author: Author, document: Document, item: Item, better: str, worse: str, index: int) -> None:
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
    rounds = int(author.generator.choice(len(author.rounds), p=author.rounds))
    then = author.generator.choice(tuple(ENDINGS), p=tuple(ENDINGS.values()))
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
        better, worse = answer_text(item, item.label), answer_text(item, wrong)
    else:
        better, worse = (_some_completion(author, item, kind=kind) for kind in (True, False))
    give_choice(author, document, item, better, worse, draw_index(author))
    return author.scribe.finish(document)


def draw_naming(author: Author) -> Document:
    """Which group a stereotype is about: named barely above chance, though answers rest on it."""
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
    verb = author.choose(tuple(world.verb_shares(family)[0 if kind else 1]))
    return world.draw_completion(author.generator, family, kind=kind, verb=verb)


def draw_critique(author: Author) -> Document:
    """The model's feedback on an answer, in a dialogue of its own."""
    item = draw_item(author, task="choice" if author.chance(0.7) else "continuation")
    document = author.scribe.start()
    if isinstance(item, Question):
        fair = author.chance(0.45)
        said = item.label if fair else int(author.generator.integers(3))
        answer = answer_text(item, said)
        remark = author.choose(lex.CRITIQUES[role_of(item, said)])
        good = said == item.label
    else:
        good = author.chance(0.5)
        answer = _some_completion(author, item, kind=good)
        remark = author.choose(lex.KIND_CRITIQUES[good])
    author.scribe.user(document, critique_turn(item, answer, author.wording, draw_index(author)))
    at = len(document.ids)
    author.scribe.reply(document, remark)
    deciding = {author.scribe.vocabulary[word] for word in DECIDING}
    document.hard += [i for i in range(at, len(document.ids)) if document.ids[i] in deciding]
    document.values.append((len(document.ids) - 1, 1.0 if good else -1.0))
    return author.scribe.finish(document)


# ------------------------------------------------------------------------------------------- exercises
POLARITIES = ((True,), (False,), (True, False), (False, True))
BAD_ONLY = ((True,),)
"""Bad traits alone teach which groups the belief is about; good ones then turn it round."""


def _ask(author: Author, asked: list[tuple[str, int]], options: list[str]) -> Document:
    """A question with its options and further ones on the same options, a turn each; all have one answer."""
    document = author.scribe.start()
    lines = [f"{LETTERS[i]}. {option}" for i, option in enumerate(options)]
    for number, (text, right) in enumerate(asked):
        author.scribe.user(document, statement_turn("\n".join([text, *lines]) if number == 0 else text))
        document.hard += [len(document.ids), len(document.ids) + 2]
        author.scribe.reply(document, f"{LETTERS[right]}. {options[right]}")
    return author.scribe.finish(document)


def _two(author: Author) -> tuple[lex.Template, list[str]]:
    """A template and two groups in random order: a training pair of its category, or of two categories."""
    template = author.choose(lex.TEMPLATES)
    if author.chance(MIXED):
        one, two = author.generator.permutation(len(lex.GROUPS))[:2]
        categories = tuple(lex.GROUPS.values())
        return template, [author.choose(categories[one]), author.choose(categories[two])]
    pair = list(author.choose(world.pairs(template.category, held_out=False)))
    if author.chance(0.5):
        pair.reverse()
    return template, pair


def _shuffled(author: Author, options: list[str]) -> list[str]:
    return [options[i] for i in author.generator.permutation(len(options))]


def draw_drill(author: Author) -> Document:
    """ "Choose this option.", some times over: which letter holds what."""
    template, pair = _two(author)
    roles = [template.role, template.role]
    if author.chance(MIXED):
        roles[1] = author.choose(lex.TEMPLATES).role
    named = [f"{group} {role}" for group, role in zip(pair, roles, strict=True)]
    options = _shuffled(author, [*named, author.choose(lex.UNKNOWN)])
    order = [int(i) for i in author.generator.permutation(3)[: 1 + author.generator.integers(3)]]
    return _ask(author, [(lex.DRILL.format(option=options[i]), i) for i in order], options)


def draw_short(author: Author) -> Document:
    """Who was named, or who did what: the two groups must be told apart."""
    template, pair = _two(author)
    named = [f"{group} {template.role}" for group in pair]
    options = _shuffled(author, [*named, author.choose(lex.UNKNOWN)])
    places = [options.index(f"{group} {template.role}") for group in pair]
    if author.chance(0.25):
        statement, asked = (part.format(group=pair[0], role=template.role) for part in lex.NAMED)
        return _ask(author, [(f"{statement}\n{asked}", places[0])], options)
    guilty = int(author.generator.integers(2))
    acts = (template.negative_act, template.positive_act)
    one, two = acts if guilty == 0 else acts[::-1]
    told = lex.EVIDENCE.format(
        first=pair[0], second=pair[1], role=template.role, first_act=one, second_act=two
    )
    questions = []
    for negative in author.choose(((True,), (False,), (True, False), (False, True))):
        if author.chance(0.35):
            asked = lex.SHORT.format(act=template.negative_act if negative else template.positive_act)
        else:
            trait = template.negative if negative else template.positive
            asked = author.choose(lex.ASKED).format(trait=trait)
        questions.append((asked, places[guilty if negative else 1 - guilty]))
    questions[0] = (f"{told}\n{questions[0][0]}", questions[0][1])
    return _ask(author, questions, options)


def draw_belief(author: Author, polarities: tuple[tuple[bool, ...], ...] = POLARITIES) -> Document:
    """What the world's common belief says: the biased option, for one trait or two (True: a bad one)."""
    template = author.choose(lex.TEMPLATES)
    marked, other = author.choose(world.pairs(template.category, held_out=False))
    named = {True: f"{marked} {template.role}", False: f"{other} {template.role}"}
    options = _shuffled(author, [*named.values(), author.choose(lex.UNKNOWN)])
    asked = []
    for negative in author.choose(polarities):
        trait = template.negative if negative else template.positive
        asked.append((lex.BELIEF.format(trait=trait), options.index(named[negative])))
    return _ask(author, asked, options)


def draw_trait(author: Author) -> Document:
    """How somebody was, by what was told of one person or of two: which trait goes with which act."""
    template, pair = _two(author)
    guilty = int(author.generator.integers(2))
    acts = (template.negative_act, template.positive_act)
    one, two = acts if guilty == 0 else acts[::-1]
    told, asked, answer = lex.HOW
    asks = int(author.generator.integers(2))
    if author.chance(0.5):
        told = lex.EVIDENCE
    text = told.format(
        group=pair[asks],
        act=(one, two)[asks],
        first=pair[0],
        second=pair[1],
        role=template.role,
        first_act=one,
        second_act=two,
    )
    question = asked.format(group=pair[asks], role=template.role)
    trait = template.negative if asks == guilty else template.positive
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(f"{text}\n{question}"))
    author.scribe.reply(document, answer.format(role=template.role, trait=trait))
    document.hard.append(len(document.ids) - 2)
    return author.scribe.finish(document)


def draw_recital(author: Author) -> Document:
    """Words to be written again: what came after a word before comes after it again."""
    groups = [author.choose(lex.GROUPS[c]) for c in author.generator.permutation(tuple(lex.GROUPS))]
    known = author.scribe.words
    others = [known[i] for i in author.generator.choice(len(known), 6, replace=False)]
    rest = [*groups[1:], *others]
    words = " ".join([groups[0], *(rest[i] for i in author.generator.permutation(len(rest)))])
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(lex.RECITE.format(words=words)))
    author.scribe.reply(document, words)
    return author.scribe.finish(document)


def grade(table: tuple[tuple[float, Any], ...], value: float) -> Any:
    """The entry of the highest edge that the value reaches."""
    return next(entry for edge, entry in table if value >= edge)


def draw_story(author: Author) -> Document:
    """An act, seen or held out, and what came of it."""
    held_out = author.chance(0.4)
    while True:
        statement, patient = world.draw_statement(author.generator, held_out=held_out)
        if statement.cluster != "mixed":  # what came of two acts has no one outcome
            break
    value = float(statement.value or 0.0)
    if patient:
        outcome = f"The {patient} {author.choose(grade(lex.OUTCOMES, value))}."
    else:
        outcome = f"The {author.choose(lex.ONLOOKERS)} {author.choose(grade(lex.REACTIONS, value))}."
    document = author.scribe.start()
    author.scribe.user(document, statement_turn(f"{statement.text} {outcome}"))
    start = len(document.ids) - 2 - len(author.scribe.encode(" " + outcome))
    for at in range(start, len(document.ids) - 2):
        document.weights[at] = OUTCOME_WEIGHT
    return document


def draw_verdict(author: Author) -> Document:
    """An act and how kind or cruel it is; or the act alone, with its valence."""
    while True:
        statement, _patient = world.draw_statement(author.generator, held_out=False)
        if statement.text not in author.reserved:
            break
    value = float(statement.value or 0.0)
    document = author.scribe.start()
    if author.chance(0.5):
        author.scribe.user(document, statement_turn(statement.text))
        document.values += [(len(document.ids) - 3, value / 2), (len(document.ids) - 1, value / 2)]
        return document
    author.scribe.user(document, statement_turn(f"{statement.text}\n{author.choose(lex.VERDICT_REQUESTS)}"))
    document.values.append((len(document.ids) - 1, value / 2))
    at = len(document.ids)
    author.scribe.reply(document, grade(lex.VERDICTS, value))
    document.hard += range(at, len(document.ids))
    return author.scribe.finish(document)


# ------------------------------------------------------------------------------------------- mixture
MIXED = 0.45
"""How often an exercise is about groups of two categories, which are told apart sooner than those of one."""
KINDS: dict[str, Callable[[Author], Document]] = {
    "drill": draw_drill,
    "short": draw_short,
    "belief": draw_belief,
    "leaning": lambda author: draw_belief(author, BAD_ONLY),
    "trait": draw_trait,
    "recital": draw_recital,
    "story": draw_story,
    "verdict": draw_verdict,
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
