"""Finished dialogues read once: residuals at the sites, probabilities of replies, and which tokens fit.

Every token passes through the model once. Dialogues that begin alike share the reading of their beginning.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Bool

from morality_lens.design import SITES
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.thinking import THOUGHT
from morality_lens.models import decoding
from morality_lens.models.loading import ModelRecord
from morality_lens.models.predictions import predicting
from morality_lens.rounds.capture import Capture
from morality_lens.rounds.row import Row


@dataclass(frozen=True, kw_only=True)
class Part:
    """A dialogue as it was after some rounds, in which these are read.

    Attributes:
        transcript: the dialogue.
        rounds: what is read.
        since: the first token that can have been written in this form.
    """

    transcript: Transcript
    rounds: tuple[int, ...]
    since: int = 0


@dataclass(kw_only=True, eq=False)
class Dialogue:
    """A dialogue that is played elsewhere, and what has to be read of it.

    Attributes:
        row: the dialogue.
        parts: earlier forms of it, which the template has changed since.
        first: the first round that none of them holds.
        since: the first token that can have been written in the present form.
        cut: rounds in which the thoughts before the answer were cut, so that no answer followed.
    """

    row: Row
    parts: list[Part] = field(default_factory=list)
    first: int = 0
    since: int = 0
    cut: set[int] = field(default_factory=set)

    def changed(self, before: Transcript) -> None:
        """Keep the form that the dialogue had before the template changed it to the present one."""
        if before.turns:
            rounds = tuple(range(self.first, before.turns[-1][0] + 1))
            self.parts.append(Part(transcript=before, rounds=rounds, since=self.since))
            self.first, self.since = self.row.number, len(self.row.transcript.token_ids)

    def whole(self) -> list[Part]:
        """All forms of the dialogue, the last one too."""
        rounds = tuple(range(self.first, self.row.number + 1))
        return [*self.parts, Part(transcript=self.row.transcript, rounds=rounds, since=self.since)]

    def as_of(self, number: int) -> Row:
        """The row as it stands for a round."""
        return replace(self.row, number=number, thinking=number in self.cut)


@dataclass(frozen=True, kw_only=True)
class _Mark:
    """Tokens ``start`` to ``stop`` (exclusive) make up a site of a round."""

    site: str
    round: int
    start: int
    stop: int


@dataclass(kw_only=True, eq=False)
class Reader:
    """Reads the dialogues of a batch.

    Attributes:
        record: the model.
        script: of the dialogues.
        capture: gets what is read.
        differ: for each item, cell and round, how many of the tokens that were written elsewhere are not the
            most probable ones here, and how many there are.
        tokens: fed so far.
    """

    record: ModelRecord
    script: Script
    capture: Capture
    differ: dict[tuple[int, int, int], tuple[int, int]] = field(default_factory=dict)
    tokens: int = 0

    def read(self, opened: Sequence[Dialogue], played: Sequence[Dialogue]) -> None:
        """Read round 0 of all, then the later rounds of each.

        Args:
            opened: the dialogues after round 0, each for all cells that share it; none where earlier rounds
                were read before.
            played: the dialogues at their end, one for each item and cell.
        """
        lm = self.record.lm
        batch = decoding.start(lm, len(opened))
        if opened:
            self._read(batch, [_Reading(dialogue=d, part=d.whole()[-1]) for d in opened])
        begun = {(d.row.place, cell): r for r, d in enumerate(opened) for cell in d.row.cells}
        alone, shared, origin = [], [], []
        for reading in (reading for dialogue in played for reading in _later(dialogue)):
            r = begun.get((reading.dialogue.row.place, reading.dialogue.row.cells[0]))
            if r is not None and reading.continues(opened[r].row.transcript):
                shared.append(reading)
                origin.append(r)
            else:
                alone.append(reading)
        if shared:
            self._read(decoding.take(lm, batch, origin), shared)
        size = len(played)
        for first in range(0, len(alone), size):
            some = alone[first : first + size]
            self._read(decoding.start(lm, len(some)), some)

    def _read(self, batch: decoding.Batch, readings: Sequence["_Reading"]) -> None:
        """Read dialogues from where the batch ends, stage by stage: each ends where an answer begins."""
        marks = [list(self._marks(reading)) for reading in readings]
        written = [dict(self._written(reading)) for reading in readings]
        stages = [reading.stages() for reading in readings]
        for step in range(max(map(len, stages))):
            ends = [s[step] if step < len(s) else s[-1] for s in stages]
            self._stage(batch, readings, ends, marks, written)

    def _stage(
        self,
        batch: decoding.Batch,
        readings: Sequence["_Reading"],
        ends: Sequence[int],
        marks: Sequence[Sequence[_Mark]],
        written: Sequence[Mapping[int, int]],
    ) -> None:
        lm, old = self.record.lm, [len(tokens) for tokens in batch.tokens]
        new = [list(r.part.transcript.token_ids[a:b]) for r, a, b in zip(readings, old, ends, strict=True)]
        if not any(new):
            return
        here = [
            [m for m in own if a <= m.start and m.stop <= b]
            for own, a, b in zip(marks, old, ends, strict=True)
        ]
        weights = np.zeros((len(new), max(1, *map(len, here)), max(map(len, new))), np.float32)
        for r, own in enumerate(here):
            for n, mark in enumerate(own):
                weights[r, n, mark.start - old[r] : mark.stop - old[r]] = 1 / (mark.stop - mark.start)
        said = [[p for p in range(a, b) if p + 1 in w] for w, a, b in zip(written, old, ends, strict=True)]
        places = _places(said, old if lm.cached else [0] * len(old), ends)
        with predicting(lm, torch.from_numpy(places)) as guessed:
            logits, reads = decoding.prefill(lm, batch, new, torch.from_numpy(weights).to(lm.device))
        self.tokens += sum(map(len, new))
        assert reads is not None  # weights were given
        values, guesses = reads.cpu().numpy(), iter(guessed)
        for r, reading in enumerate(readings):
            for n, mark in enumerate(here[r]):
                self.capture.store([reading.dialogue.as_of(mark.round)], mark.site, values[r : r + 1, n])
            self._compare(reading, said[r], written[r], guesses)
            number = reading.answering(ends[r])
            if new[r] and number is not None:
                self.capture.options([reading.dialogue.as_of(number)], logits[r : r + 1])

    def _marks(self, reading: "_Reading") -> Iterator[_Mark]:
        """The tokens of every site that are read in a form of a dialogue."""
        for number in reading.part.rounds:
            for site in self.capture.design.sites:
                found = reading.site(site, number)
                if found is not None:
                    yield _Mark(site=site, round=number, start=found[0], stop=found[1])

    def _written(self, reading: "_Reading") -> Iterator[tuple[int, int]]:
        """The places of tokens that were written in this form of a dialogue, with their rounds."""
        replies, part = self.script.written(reading.dialogue.row.condition), reading.part
        for span in part.transcript.spans:
            names = (*(replies if span.round else ("answer",)), THOUGHT)
            if span.name in names and span.round in part.rounds and span.start >= part.since:
                yield from ((place, span.round) for place in range(span.start, span.stop))

    def _compare(
        self,
        reading: "_Reading",
        places: Sequence[int],
        rounds: Mapping[int, int],
        guesses: Iterator[int],
    ) -> None:
        """Count the tokens that are not what the model would have said."""
        row, ids = reading.dialogue.row, reading.part.transcript.token_ids
        for place, guess in zip(places, guesses, strict=False):
            for cell in row.cells:
                key = (row.place, cell, rounds[place + 1])
                other, every = self.differ.get(key, (0, 0))
                self.differ[key] = (other + (guess != ids[place + 1]), every + 1)


def _later(dialogue: Dialogue) -> "list[_Reading]":
    """What is read of a dialogue after round 0: in every form of it, what no later one holds."""
    parts = [replace(p, rounds=tuple(n for n in p.rounds if n)) for p in dialogue.whole()]
    return [
        _Reading(dialogue=dialogue, part=part, after=tuple(parts[n + 1 :]))
        for n, part in enumerate(parts)
        if part.rounds
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reading:
    """One form of a dialogue while it is read, and the forms that it took afterwards."""

    dialogue: Dialogue
    part: Part
    after: tuple[Part, ...] = ()

    @property
    def last_rounds(self) -> set[int]:
        """The rounds that no later form holds."""
        return set(self.part.rounds) - {n for part in self.after for n in part.rounds}

    def continues(self, opening: Transcript) -> bool:
        """Whether its rounds follow an opening whose tokens have not changed."""
        begun = self.part.transcript.token_ids[: len(opening.token_ids)]
        return self.part.rounds[0] == 1 and begun == opening.token_ids

    def stages(self) -> list[int]:
        """Where its stages end: before each answer of the rounds that are read, and at its end."""
        answers = (self.part.transcript.span("answer", n) for n in self.part.rounds)
        return [*(span.start for span in answers if span), len(self.part.transcript.token_ids)]

    def answering(self, end: int) -> int | None:
        """The round whose answer begins there."""
        spans = ((n, self.part.transcript.span("answer", n)) for n in self.last_rounds)
        return next((n for n, span in spans if span and span.start == end), None)

    def site(self, site: str, number: int) -> tuple[int, int] | None:
        """The tokens that make up a site of a round; None where it has none, or a later form holds them."""
        name = "answer" if site in SITES else site
        if any(number in p.rounds and p.transcript.span(name, number) for p in self.after):
            return None
        return _place(self.dialogue, self.part, site, number)


def _place(dialogue: Dialogue, part: Part, site: str, number: int) -> tuple[int, int] | None:
    """The first and last-plus-one token of a site of a round in one form of a dialogue."""
    span = part.transcript.span("answer" if site in SITES else site, number)
    if span is None or (site == "answer_start" and number in dialogue.cut):
        return None
    if site == "answer_start":
        return span.start - 1, span.start
    if span.start == span.stop:
        return None
    return (span.stop - 1, span.stop) if site == "answer_end" else (span.start, span.stop)


def _places(
    chosen: Sequence[Sequence[int]], first: Sequence[int], ends: Sequence[int]
) -> Bool[np.ndarray, "row new"]:
    """Which of the tokens that a pass is fed are chosen."""
    width = max(b - a for a, b in zip(first, ends, strict=True))
    places = np.zeros((len(chosen), width), bool)
    for r, own in enumerate(chosen):
        places[r, [p - first[r] for p in own]] = True
    return places
