"""One batch of items: every turn is added, every reply generated, and every residual read once."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from morality_lens.design import Condition, Protocol, ReplyLimits
from morality_lens.dialogues import rendering
from morality_lens.dialogues.script import Exchange, Script, until_reply
from morality_lens.dialogues.thinking import THOUGHT
from morality_lens.dialogues.wording import Wording
from morality_lens.items.kinds import Item
from morality_lens.models import beginnings, decoding
from morality_lens.models.decoding import Draws
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.capture import Capture, site_weights
from morality_lens.rounds.endings import line_ends
from morality_lens.rounds.feedback import Source
from morality_lens.rounds.feedback_text import FeedbackPolicy, FeedbackText
from morality_lens.rounds.row import Row, say
from morality_lens.rounds.tables import answer_rows, answer_table, transcript_table
from morality_lens.runs.writing import PlayedBatch


@dataclass(kw_only=True, eq=False)
class Player:
    """Plays batches of items one after the other; ``tokens`` counts those fed and generated in a batch.

    ``layers`` are those whose residuals are kept; None keeps all.
    """

    record: ModelRecord
    protocol: Protocol
    wording: Wording
    source: Source
    layers: tuple[int, ...] | None = None
    tokens: int = 0
    script: Script = field(init=False)
    policy: FeedbackPolicy = field(init=False)

    def __post_init__(self) -> None:
        self.script = Script.of(self.protocol, self.wording)
        self.policy = FeedbackPolicy(
            record=self.record, protocol=self.protocol, script=self.script, source=self.source
        )

    @property
    def limits(self) -> ReplyLimits:
        """Most tokens of each reply."""
        return self.protocol.limits

    @torch.inference_mode()
    def play(
        self, items: Sequence[Item], advance: Callable[[int], object], *, begun: Sequence[Row] = ()
    ) -> PlayedBatch:
        """All rounds of all conditions of these items.

        Args:
            items: of the batch.
            advance: gets the number of dialogue rounds done.
            begun: their dialogues at the end of a round, which are carried on from there; none begins anew.
        """
        started, self.tokens, before = time.perf_counter(), 0, self.source.tokens
        design = self.protocol.design
        prefix = self.script.prefix("answer")
        self.capture = Capture(self.record, design, items, prefix, self.layers)
        self.answers: list[dict[str, Any]] = []
        first, groups = self._carried_on(items, begun) if begun else self._begun(items, advance)
        everyone: list[Row] = []
        for branch, group in groups:
            for number in range(first, design.n_rounds):
                branch = self._round(branch, group, number)
                advance(len(group))
            everyone += group
        self.tokens += self.source.tokens - before
        return self._played(items, everyone, started)

    def _cells_apart(self) -> Iterator[list[int]]:
        """Conditions in which the model generates the same replies: others would wait for each other."""
        conditions = self.protocol.design.conditions
        for written in sorted({self.script.written(c) for c in conditions}, key=len):
            yield [c for c, condition in enumerate(conditions) if self.script.written(condition) == written]

    def _begun(
        self, items: Sequence[Item], advance: Callable[[int], object]
    ) -> tuple[int, Iterator[tuple[decoding.Batch, list[Row]]]]:
        """The next round and the dialogues after round 0, which conditions that open alike share."""
        rows, conditions = self._opening_rows(items), self.protocol.design.conditions
        batch = self._round(decoding.start(self.record.lm, len(rows)), rows, 0)
        advance(len(items) * len(conditions))

        def groups() -> Iterator[tuple[decoding.Batch, list[Row]]]:
            for cells in self._cells_apart():
                origin = [(r, cell) for cell in cells for r, row in enumerate(rows) if cell in row.cells]
                group = [
                    replace(rows[r], condition=conditions[cell], cells=(cell,), kept=list(rows[r].kept))
                    for r, cell in origin
                ]
                yield decoding.take(self.record.lm, batch, [r for r, _ in origin]), group

        return 1, groups()

    def _carried_on(
        self, items: Sequence[Item], begun: Sequence[Row]
    ) -> tuple[int, Iterator[tuple[decoding.Batch, list[Row]]]]:
        """The next round and the dialogues so far, all of whose tokens are still to be read."""
        places = {item.id: place for place, item in enumerate(items)}
        rows = [replace(row, place=places[row.item.id]) for row in begun if row.item.id in places]
        groups = (
            [row for cell in cells for row in rows if row.cells == (cell,)] for cells in self._cells_apart()
        )
        return rows[0].number + 1, ((decoding.start(self.record.lm, len(g)), g) for g in groups)

    def _opening_rows(self, items: Sequence[Item]) -> list[Row]:
        """A row for each item and each opening of the conditions; conditions that open alike share it."""
        design = self.protocol.design
        openings: dict[Any, list[int]] = {}
        for cell, condition in enumerate(design.conditions):
            openings.setdefault(design.opening(condition), []).append(cell)
        return [
            Row(place=i, item=item, condition=design.conditions[cells[0]], cells=tuple(cells))
            for cells in openings.values()
            for i, item in enumerate(items)
        ]

    def _played(self, items: Sequence[Item], rows: Sequence[Row], started: float) -> PlayedBatch:
        design, read = self.protocol.design, self.capture
        levels = tuple(len(f.levels) for f in design.factors)

        def by_factor(array: np.ndarray) -> np.ndarray:
            return array.reshape(len(items), *levels, *array.shape[2:])

        return PlayedBatch(
            residuals=by_factor(read.residuals),
            option_probabilities=by_factor(read.probabilities),
            option_mass=by_factor(read.mass),
            answers=answer_table(self.answers, items, design),
            transcripts=transcript_table(self.record.renderer, rows),
            seconds=time.perf_counter() - started,
            tokens=self.tokens,
            together=(len(items),),
            device=str(self.record.lm.device),
        )

    # ------------------------------------------------------------------------------------- one round
    def _round(self, batch: decoding.Batch, rows: list[Row], number: int) -> decoding.Batch:
        """One round of all rows, in which the model generates the same replies: their turns and replies."""
        for row in rows:
            row.number, row.before, row.rationale_cut = number, row.transcript, False
        feedback = self.policy.texts(rows) if number else [None] * len(rows)
        scripts = [
            until_reply(self.script.round(row.item, row.condition, number, text.text if text else None))
            for row, text in zip(rows, feedback, strict=True)
        ]
        written = [stretch[-1].reply for stretch in scripts[0]]
        rationales = [""] * len(rows)
        for step, name in enumerate(written):
            stretches = [script[step] for script in scripts]
            batch = self._say(batch, rows, stretches)
            logits = self._think(batch, rows, name)
            if name == "answer":
                self._answer(batch, rows, logits, rationales, feedback)
            else:
                reply, rationales = self._reply(batch, rows, logits, name, self.limits.rationale)
                self.capture.store(rows, name, reply.mean)
                for row, stopped in zip(rows, reply.stopped, strict=True):
                    row.rationale_cut = not stopped
        return batch

    def _say(
        self, batch: decoding.Batch, rows: list[Row], stretches: Sequence[Sequence[Exchange]]
    ) -> decoding.Batch:
        """Add a stretch of exchanges to every row; a new batch where the template changed earlier tokens."""
        lm, changed = self.record.lm, False
        for row, stretch in zip(rows, stretches, strict=True):
            for exchange in stretch:
                row.transcript, anew = say(
                    self.record, self.script, row.transcript, exchange, round=row.number
                )
                changed = changed or anew
                if anew and self.record.prefix_reuse and row.number and row.before not in row.kept:
                    row.kept.append(row.before)
            if len(row.transcript.token_ids) > lm.window:
                raise RuntimeError(
                    f"the dialogue of item {row.item.id} exceeded the context window of {lm.window} tokens."
                )
        return decoding.start(lm, len(rows)) if changed else batch

    def _feed(self, batch: decoding.Batch, rows: list[Row], *, answering: bool) -> Float[Tensor, "row vocab"]:
        """Feed what of the transcripts the batch has not read yet, and store the sites in it.

        Args:
            batch: changed in place.
            rows: the dialogues.
            answering: whether the last token chooses the answer's first one.
        """
        lm = self.record.lm
        offsets = [len(tokens) for tokens in batch.tokens]
        new = [list(row.transcript.token_ids[n:]) for row, n in zip(rows, offsets, strict=True)]
        sites = self.capture.sites(answering=answering)
        weights, present = site_weights(rows, sites, offsets, new)
        wanted = torch.from_numpy(weights).to(lm.device) if sites else None
        logits, reads, fed = beginnings.prefill(lm, batch, new, wanted)
        self.tokens += fed
        if reads is not None:
            values = reads.cpu().numpy()
            there = np.array([not row.thinking for row in rows])  # no answer follows a thought that was cut
            for s, site in enumerate(sites):
                here = present[:, s] & there if site == "answer_start" else present[:, s]
                self.capture.store(rows, site, values[:, s], here)
        return logits

    def _think(self, batch: decoding.Batch, rows: list[Row], name: str) -> Float[Tensor, "row vocab"]:
        """Feed the new turns, let the model think where it does; the logits of the reply's first token."""
        renderer = self.record.renderer
        for row in rows:
            row.thought, row.thinking = "", False
        if not (self.script.thinking and rendering.thinks(renderer, rows[0].transcript)):
            return self._feed(batch, rows, answering=name == "answer")
        assert renderer.thinking is not None  # it thinks
        logits = self._feed(batch, rows, answering=False)
        ends = self.record.stops | {renderer.thinking.end}
        thoughts, texts = self._write(
            batch, rows, logits, THOUGHT, f"{name}|{THOUGHT}", limit=self.limits.thinking, stops=ends
        )
        self.capture.store(rows, THOUGHT, thoughts.mean)
        for row, text, stopped in zip(rows, texts, thoughts.stopped, strict=True):
            row.thought, row.thinking = text, not stopped
            row.transcript = rendering.begin_reply(
                renderer, row.transcript, round=row.number, prefix=self.script.prefix(name)
            )
        return self._feed(batch, rows, answering=name == "answer")

    def _reply(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        name: str,
        limit: int,
    ) -> tuple[decoding.Reply, list[str]]:
        """Generate a reply in every row that has ended its thoughts."""
        return self._write(batch, rows, logits, name, name, limit=limit, stops=self.record.stops)

    def _write(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        name: str,
        key: str,
        *,
        limit: int,
        stops: frozenset[int],
    ) -> tuple[decoding.Reply, list[str]]:
        """Generate a segment in every row, and add it to its transcript."""
        keys = [self._key(row, key) for row in rows]
        renderer = self.record.renderer
        reply = decoding.generate(
            self.record.lm,
            batch,
            logits,
            limit=limit,
            stops=stops,
            draws=Draws.of(self.protocol.design.seed, keys, limit, self.protocol.temperature),
            done=[row.thinking for row in rows],
            ends=line_ends(renderer, [row.item for row in rows]) if name == "answer" else None,
        )
        self.tokens += sum(map(len, reply.tokens))
        for row, tokens in zip(rows, reply.tokens, strict=True):
            row.transcript = rendering.append_reply(renderer, row.transcript, tokens, name, round=row.number)
        texts = renderer.tokenizer.batch_decode(reply.tokens, skip_special_tokens=True)
        return reply, [text.strip() for text in texts]

    def _key(self, row: Row, name: str) -> str:
        """The seed of a reply's random numbers: in round 0, cells that open alike share it."""
        condition = row.condition if row.number else self.protocol.design.opening(row.condition)
        label = condition.label if row.number or condition != Condition() else ""
        return f"{row.item.id}|{label}|{row.number}|{name}"

    def _answer(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        rationales: Sequence[str],
        feedback: Sequence[FeedbackText | None],
    ) -> None:
        """Generate all answers; store them, their sites and the probabilities of replies."""
        self.capture.options(rows, logits)
        reply, texts = self._reply(batch, rows, logits, "answer", self.limits.answer)
        self.capture.store(rows, "answer_end", reply.end)
        self.capture.store(rows, "answer_mean", reply.mean)
        control = self.record.renderer.control
        for r, row in enumerate(rows):
            given = feedback[r] or FeedbackText(text="")
            row.answer = texts[r]
            if not self.record.prefix_reuse or row.number == self.protocol.design.rounds:
                row.kept.append(row.transcript)
            self.answers += answer_rows(
                control, row, rationales[r], given, n_tokens=len(reply.tokens[r]), stopped=reply.stopped[r]
            )
