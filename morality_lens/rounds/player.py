"""One batch of items: every turn is added, every reply generated, and every residual read once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from morality_lens.design import Condition, Protocol
from morality_lens.dialogues import rendering
from morality_lens.dialogues.script import Exchange, Script, until_reply
from morality_lens.dialogues.wording import Wording
from morality_lens.items.kinds import Item
from morality_lens.models import decoding
from morality_lens.models.decoding import Draws
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.capture import Capture, site_weights
from morality_lens.rounds.feedback import Source
from morality_lens.rounds.feedback_text import FeedbackPolicy, FeedbackText
from morality_lens.rounds.row import Row, say
from morality_lens.rounds.tables import answer_table, transcript_table
from morality_lens.runs.writing import PlayedBatch


@dataclass(kw_only=True, eq=False)
class Player:
    """Plays batches of items one after the other; ``tokens`` counts those fed and generated in a batch."""

    record: ModelRecord
    protocol: Protocol
    wording: Wording
    source: Source
    tokens: int = 0
    script: Script = field(init=False)
    policy: FeedbackPolicy = field(init=False)

    def __post_init__(self) -> None:
        self.script = Script.of(self.protocol, self.wording)
        self.policy = FeedbackPolicy(
            record=self.record, protocol=self.protocol, script=self.script, source=self.source
        )

    def play(self, items: Sequence[Item], advance: Callable[[int], object]) -> PlayedBatch:
        """All rounds of all conditions of these items; ``advance`` gets the dialogue rounds done."""
        began, self.tokens, before = time.perf_counter(), 0, self.source.tokens
        design, lm = self.protocol.design, self.record.lm
        self.capture = Capture(self.record, design, items)
        self.answers: list[dict[str, Any]] = []

        rows = self._opening_rows(items)
        batch = self._round(decoding.start(lm, len(rows)), rows, 0)
        advance(len(items) * len(design.conditions))
        everyone: list[Row] = []
        conditions = design.conditions
        # Cells in which the model generates other replies would wait for each other: they are played apart.
        for written in sorted({self.script.written(c) for c in conditions}, key=len):
            cells = [c for c, condition in enumerate(conditions) if self.script.written(condition) == written]
            origin = [(r, cell) for cell in cells for r, row in enumerate(rows) if cell in row.cells]
            group = [
                replace(rows[r], condition=conditions[cell], cells=(cell,), kept=list(rows[r].kept))
                for r, cell in origin
            ]
            branch = decoding.take(lm, batch, [r for r, _ in origin])
            for number in range(1, design.n_rounds):
                branch = self._round(branch, group, number)
                advance(len(group))
            everyone += group
        self.tokens += self.source.tokens - before
        return self._played(items, everyone, began)

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

    def _played(self, items: Sequence[Item], rows: Sequence[Row], began: float) -> PlayedBatch:
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
            seconds=time.perf_counter() - began,
            tokens=self.tokens,
        )

    # ------------------------------------------------------------------------------------- one round
    def _round(self, batch: decoding.Batch, rows: list[Row], number: int) -> decoding.Batch:
        """One round of all rows, in which the model generates the same replies: their turns and replies."""
        for row in rows:
            row.number = number
        feedback = self.policy.texts(rows) if number else [None] * len(rows)
        scripts = [
            until_reply(self.script.round(row.item, row.condition, number, text.text if text else None))
            for row, text in zip(rows, feedback, strict=True)
        ]
        written = [stretch[-1].reply for stretch in scripts[0]]
        rationales = [""] * len(rows)
        for step, name in enumerate(written):
            stretches = [script[step] for script in scripts]
            batch, logits = self._say(batch, rows, stretches, written)
            if name == "answer":
                self._answer(batch, rows, logits, rationales, feedback)
            else:
                reply, rationales = self._reply(batch, rows, logits, name, self.protocol.rationale_tokens)
                self.capture.store(rows, name, reply.mean)
        return batch

    def _say(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        stretches: Sequence[Sequence[Exchange]],
        written: Sequence[str],
    ) -> tuple[decoding.Batch, Float[Tensor, "row vocab"]]:
        """Add a stretch of exchanges to every row, feed it, and store the sites in it."""
        lm = self.record.lm
        for row, stretch in zip(rows, stretches, strict=True):
            for exchange in stretch:
                row.transcript = say(self.record, row.transcript, exchange, round=row.number)
            if len(row.transcript.token_ids) > lm.window:
                raise RuntimeError(
                    f"the dialogue of item {row.item.id} exceeded the context window of {lm.window} tokens."
                )
        if not self.record.prefix_reuse:
            batch = decoding.start(lm, len(rows))
        offsets = [len(tokens) for tokens in batch.tokens]
        new = [list(row.transcript.token_ids[n:]) for row, n in zip(rows, offsets, strict=True)]
        sites = self.capture.sites(answering=stretches[0][-1].reply == "answer")
        weights, present = site_weights(rows, sites, offsets, new, written)
        wanted = torch.from_numpy(weights).to(lm.device) if sites else None
        logits, reads = decoding.prefill(lm, batch, new, wanted)
        self.tokens += sum(map(len, new))
        if reads is not None:
            values = reads.cpu().numpy()
            for s, site in enumerate(sites):
                self.capture.store(rows, site, values[:, s], present[:, s])
        return batch, logits

    def _reply(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        name: str,
        limit: int,
    ) -> tuple[decoding.Reply, list[str]]:
        """Generate a reply in every row, and add it to its transcript."""
        keys = [self._key(row, name) for row in rows]
        reply = decoding.generate(
            self.record.lm,
            batch,
            logits,
            limit=limit,
            stops=self.record.stops,
            draws=Draws.of(self.protocol.design.seed, keys, limit, self.protocol.temperature),
            read=True,
        )
        self.tokens += sum(map(len, reply.tokens))
        renderer = self.record.renderer
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
        reply, texts = self._reply(batch, rows, logits, "answer", self.protocol.answer_tokens)
        self.capture.store(rows, "answer_end", reply.end)
        self.capture.store(rows, "answer_mean", reply.mean)
        for r, row in enumerate(rows):
            given = feedback[r] or FeedbackText(text="")
            row.answer = texts[r]
            if not self.record.prefix_reuse or row.number == self.protocol.design.rounds:
                row.kept.append(row.transcript)
            self.answers += [
                {
                    "place": row.place,
                    "cell": cell,
                    "round": row.number,
                    "text": texts[r],
                    "rationale": rationales[r],
                    "feedback_text": given.text,
                    "feedback_named": given.named,
                    "feedback_withheld": given.withheld,
                    "feedback_cut": given.cut,
                    "feedback_missing": given.missing,
                    "n_tokens": len(reply.tokens[r]),
                    "stopped": reply.stopped[r],
                }
                for cell in row.cells
            ]
