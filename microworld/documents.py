"""Training texts token by token, with their targets."""

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from microworld import tokens
from morality_lens.dialogues.turns import Turn
from morality_lens.dialogues.wording import Wording
from morality_lens.world import lexicon as lex

USER_WEIGHT = 0.15


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The parameters by which a stage of training draws its dialogues.

    Attributes:
        effects: whether components act on the answers (else every cell is like the one without any: the null
            model).
        lesson: by how much interference is exaggerated, in log-odds; less than the truth if below 0.
        crossed: share of the category of interference among the questions; it is a fifth of the world.
        named: whether contexts begin with the name of their category.
        rounds: how often a dialogue ends after each round.
        evidence: how often a dialogue about a question ends with weak evidence.
    """

    effects: bool = True
    lesson: float = 0.0
    crossed: float = 0.3
    named: bool = True
    rounds: tuple[float, ...] = (0.0, 0.14, 0.16, 0.18, 0.2, 0.32)
    evidence: float = 0.23


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
        stated: the places of values that are last tokens of statements.
    """

    ids: list[int]
    weights: list[float]
    soft: list[Soft] = field(default_factory=list)
    hard: list[int] = field(default_factory=list)
    values: list[tuple[int, float]] = field(default_factory=list)
    stated: set[int] = field(default_factory=set)


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
    """A generator of documents: its plan, tokenizer, wording and random numbers."""

    scribe: Scribe
    wording: Wording
    generator: np.random.Generator
    reserved: frozenset[str] = frozenset()
    """Statements that no verdict may be about."""
    plan: Plan = Plan()

    def choose(self, values: Any) -> Any:
        """One of the values, all equally likely."""
        return values[self.generator.integers(len(values))]

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return bool(self.generator.random() < probability)
