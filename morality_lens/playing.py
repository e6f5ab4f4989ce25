"""One batch of items: every turn said, every reply generated, every residual read once."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from morality_lens import decoding, dialogues, feedback, judges, rendering
from morality_lens.design import SEGMENT_SITES, Condition, Protocol
from morality_lens.dialogues import Turn
from morality_lens.feedback import Asked, Source, uniforms
from morality_lens.items import Item
from morality_lens.model import ModelRecord
from morality_lens.rendering import Renderer, Transcript
from morality_lens.store import PlayedBatch
from morality_lens.wording import Wording, pick


def filler(renderer: Renderer, item: Item, wording: Wording, index: int) -> list[int]:
    """Tokens of the placebo rationale."""
    text = pick(wording.task(item).rationale_placebo, index)
    return rendering.encode(renderer, text if not renderer.plain else " " + text)[0]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """What a row is told of its answer, and whether it names an option, was withheld or was cut short."""

    text: str
    named: bool = False
    withheld: bool = False
    cut: bool = False


@dataclass(kw_only=True, eq=False)
class Row:
    """One dialogue: an item under a condition, with what has been said and read."""

    place: int
    item: Item
    condition: Condition
    transcript: Transcript
    kept: list[Transcript] = field(default_factory=list)
    answer: str = ""
    number: int = 0


@dataclass(kw_only=True, eq=False)
class Player:
    """Plays one batch of items, and holds what has been read of it so far."""

    record: ModelRecord
    protocol: Protocol
    wording: Wording
    source: Source
    tokens: int = 0

    def play(self, items: Sequence[Item], advance: Callable[[int], None]) -> PlayedBatch:
        """All rounds of all conditions of these items; ``advance`` is told of dialogue rounds done."""
        began, self.tokens = time.perf_counter(), 0
        design, lm = self.protocol.design, self.record.lm
        conditions = design.conditions
        shape = (len(items), len(conditions), design.n_rounds)
        signs = max((item.replies for item in items), key=len, default=())
        options = len(signs)
        self.residuals = np.full(
            (*shape, len(design.sites), len(lm.blocks) + 1, self.record.d_model), np.nan, np.float32
        )
        self.probabilities = np.full((*shape, options), np.nan)
        self.mass = np.full(shape, np.nan)
        self.answers: list[dict[str, Any]] = []
        letters = rendering.first_tokens(self.record.renderer, signs)
        self.letters = letters if all(letters) else ()

        rows = [
            Row(place=i, item=item, condition=conditions[0], transcript=Transcript())
            for i, item in enumerate(items)
        ]
        index = self.protocol.wording_index
        batch = decoding.start(lm, len(rows))
        turns = [dialogues.opening_turn(row.item, self.wording, index) for row in rows]
        batch, logits = self._say(batch, rows, turns, 0, shared=True)
        self._answer(batch, rows, logits, 0, shared=True)
        advance(len(items) * len(conditions))

        everyone: list[Row] = []
        for thinking in (False, True):
            cells = [c for c, condition in enumerate(conditions) if (condition.cot == "on") == thinking]
            group = [
                replace(row, condition=conditions[c], kept=list(row.kept)) for c in cells for row in rows
            ]
            if not group:
                continue
            branch = decoding.take(lm, batch, [row.place for row in group])
            for number in range(1, design.n_rounds):
                branch = self._round(branch, group, number, thinking=thinking)
                advance(len(group))
            everyone += group
        levels = tuple(len(f.levels) for f in design.factors)
        return PlayedBatch(
            residuals=self.residuals.reshape(len(items), *levels, *self.residuals.shape[2:]),
            option_probabilities=self.probabilities.reshape(len(items), *levels, design.n_rounds, options),
            option_mass=self.mass.reshape(len(items), *levels, design.n_rounds),
            answers=self._answer_table(items),
            transcripts=self._transcript_table(items, everyone),
            seconds=time.perf_counter() - began,
            tokens=self.tokens,
        )

    # ------------------------------------------------------------------------------------- one round
    def _round(
        self, batch: decoding.Batch, rows: list[Row], number: int, *, thinking: bool
    ) -> decoding.Batch:
        """One correction round of all rows: feedback, rationale where it is on, answer."""
        index = self.protocol.wording_index
        for row in rows:
            row.number = number
        said = self._feedback(rows)
        turns = [
            dialogues.correction_turn(
                row.item, row.condition, self.wording, feedback=remark.text if remark else None, index=index
            )
            for row, remark in zip(rows, said, strict=True)
        ]
        batch, logits = self._say(batch, rows, turns, number)
        rationales = [""] * len(rows)
        if thinking:
            limit = self.protocol.rationale_tokens
            reply, rationales = self._reply(batch, rows, logits, limit, number, "rationale")
            self._store(rows, number, "rationale", reply.mean)
            turns = [dialogues.answer_turn(row.item, self.wording, index) for row in rows]
            batch, logits = self._say(batch, rows, turns, number)
        self._answer(batch, rows, logits, number, rationales, said)
        return batch

    def _say(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        turns: Sequence[Turn],
        number: int,
        *,
        shared: bool = False,
    ) -> tuple[decoding.Batch, Float[Tensor, "row vocab"]]:
        """Add a turn to every row, feed it, and store the sites that lie in it."""
        lm = self.record.lm
        for row, turn in zip(rows, turns, strict=True):
            row.transcript = self._append(row, turn, number)
            if len(row.transcript.token_ids) > lm.window:
                raise RuntimeError(
                    f"the dialogue of item {row.item.id} outgrew the window of {lm.window} tokens."
                )
        if not self.record.prefix_reuse:
            batch = decoding.start(lm, len(rows))
        offsets = [len(tokens) for tokens in batch.tokens]
        new = [list(row.transcript.token_ids[n:]) for row, n in zip(rows, offsets, strict=True)]
        sites = [s for s in self.protocol.design.sites if s in SEGMENT_SITES]
        answering = turns[0].segments[-1].name == "answer_request" or rows[0].condition.cot == "placebo"
        sites += [s for s in self.protocol.design.sites if s == "answer_start"] if answering else []
        weights = torch.zeros(len(rows), len(sites), max(map(len, new)), device=lm.device)
        present = np.zeros((len(rows), len(sites)), bool)
        for r, row in enumerate(rows):
            for s, site in enumerate(sites):
                span = row.transcript.span(site, number)
                if site == "answer_start":
                    start, stop = len(new[r]) - 1, len(new[r])
                elif span is None or (span.name == "rationale" and row.condition.cot == "on"):
                    continue  # not said in this round, or read while it was generated
                else:
                    start, stop = span.start - offsets[r], span.stop - offsets[r]
                if 0 <= start < stop:
                    weights[r, s, start:stop] = 1.0 / (stop - start)
                    present[r, s] = True
        logits, reads = decoding.prefill(lm, batch, new, weights if sites else None)
        self.tokens += sum(map(len, new))
        if reads is not None:
            values = reads.cpu().numpy()
            for s, site in enumerate(sites):
                self._store(rows, number, site, values[:, s], present[:, s], shared=shared)
        return batch, logits

    def _append(self, row: Row, turn: Turn, number: int) -> Transcript:
        renderer = self.record.renderer
        append = rendering.append_turn if self.record.prefix_reuse else rendering.rerender
        transcript = append(renderer, row.transcript, turn, round=number)
        if row.condition.cot == "placebo" and turn.segments[-1].name == "cot_request":
            index = self.protocol.wording_index
            words = filler(renderer, row.item, self.wording, index)
            transcript = rendering.append_reply(renderer, transcript, words, "rationale", round=number)
            asked = dialogues.answer_turn(row.item, self.wording, index)
            transcript = append(renderer, transcript, asked, round=number)
        return transcript

    def _generate(
        self,
        batch: decoding.Batch,
        keys: Sequence[str],
        logits: Float[Tensor, "row vocab"],
        limit: int,
        *,
        read: bool = True,
    ) -> decoding.Reply:
        """Let every row speak; ``keys`` seed the rows' own random numbers."""
        reply = decoding.generate(
            self.record.lm,
            batch,
            logits,
            limit=limit,
            stops=self.record.stops,
            uniforms=uniforms(self.protocol.design.seed, keys, limit, self.protocol.temperature),
            temperature=self.protocol.temperature or 1.0,
            read=read,
        )
        self.tokens += sum(map(len, reply.tokens))
        return reply

    def _reply(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        limit: int,
        number: int,
        name: str,
    ) -> tuple[decoding.Reply, list[str]]:
        """Let every row reply, and put the reply into its transcript."""
        keys = [f"{row.item.id}|{row.condition.label if number else ''}|{number}|{name}" for row in rows]
        reply = self._generate(batch, keys, logits, limit)
        renderer = self.record.renderer
        for row, tokens in zip(rows, reply.tokens, strict=True):
            row.transcript = rendering.append_reply(renderer, row.transcript, tokens, name, round=number)
        texts = renderer.tokenizer.batch_decode(reply.tokens, skip_special_tokens=True)
        return reply, [text.strip() for text in texts]

    def _answer(
        self,
        batch: decoding.Batch,
        rows: list[Row],
        logits: Float[Tensor, "row vocab"],
        number: int,
        rationales: Sequence[str] | None = None,
        remarks: Sequence[Remark | None] | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """Let all rows answer; store the answer, its sites and the options' probabilities."""
        self._options(rows, logits, number, shared=shared)
        reply, texts = self._reply(batch, rows, logits, self.protocol.answer_tokens, number, "answer")
        self._store(rows, number, "answer_end", reply.end, shared=shared)
        self._store(rows, number, "answer_mean", reply.mean, shared=shared)
        for r, row in enumerate(rows):
            remark = (remarks[r] if remarks else None) or Remark(text="")
            row.answer = texts[r]
            if not self.record.prefix_reuse or number == self.protocol.design.rounds:
                row.kept.append(row.transcript)
            for condition in self.protocol.design.conditions if shared else [row.condition]:
                self.answers.append(
                    {
                        "place": row.place,
                        **condition.cell,
                        "round": number,
                        "text": texts[r],
                        "rationale": rationales[r] if rationales else "",
                        "feedback_text": remark.text,
                        "feedback_named": remark.named,
                        "feedback_withheld": remark.withheld,
                        "feedback_cut": remark.cut,
                        "n_tokens": len(reply.tokens[r]),
                        "stopped": reply.stopped[r],
                    }
                )

    # ------------------------------------------------------------------------------------- what is kept
    def _cells(self, row: Row, *, shared: bool) -> Sequence[int]:
        """Places of the conditions that a row speaks for: all of them in round 0, which they share."""
        conditions = self.protocol.design.conditions
        return range(len(conditions)) if shared else [conditions.index(row.condition)]

    def _store(
        self,
        rows: list[Row],
        number: int,
        site: str,
        values: Tensor | np.ndarray,
        present: np.ndarray | None = None,
        *,
        shared: bool = False,
    ) -> None:
        """Put one site's residuals of all rows into the cube, of every cell where they are shared."""
        if site not in self.protocol.design.sites:
            return
        where = self.protocol.design.sites.index(site)
        block = values.cpu().numpy() if isinstance(values, Tensor) else values
        for r, row in enumerate(rows):
            if present is None or present[r]:
                for cell in self._cells(row, shared=shared):
                    self.residuals[row.place, cell, number, where] = block[r]

    def _options(
        self, rows: list[Row], logits: Float[Tensor, "row vocab"], number: int, *, shared: bool
    ) -> None:
        """Exact probability of each reply's sign, a letter or a digit, as the answer's first token."""
        if not self.letters:
            return
        spread = torch.softmax(logits.double(), dim=-1)
        each = torch.stack([spread[:, list(t)].sum(-1) for t in self.letters], dim=-1).cpu().numpy()
        for r, row in enumerate(rows):
            own = each[r, : len(row.item.replies)]
            for cell in self._cells(row, shared=shared):
                self.probabilities[row.place, cell, number, : len(own)] = own / own.sum()
                self.mass[row.place, cell, number] = own.sum()

    # ------------------------------------------------------------------------------------- feedback
    def _feedback(self, rows: list[Row]) -> list["Remark | None"]:
        """What is said of each row's last answer; None where feedback is off.

        A yoked placebo is what the source says of the answer of the next item in the same condition.
        """
        yoked = self.protocol.feedback_placebo == "yoked"
        about: dict[int, Row] = {}
        for r, row in enumerate(rows):
            if row.condition.feedback == "on":
                about[r] = row
            elif row.condition.feedback == "placebo" and yoked:
                about[r] = self._neighbour(rows, row)
        asked = [
            Asked(item=row.item, answer=row.answer, condition=row.condition.label, round=row.number)
            for row in about.values()
        ]
        before = self.source.tokens
        said = dict(zip(about, self.source.remarks(asked), strict=True)) if asked else {}
        self.tokens += self.source.tokens - before
        return [self._remark(row, said.get(r)) for r, row in enumerate(rows)]

    def _neighbour(self, rows: list[Row], row: Row) -> Row:
        others = [other for other in rows if other.condition == row.condition]
        if len(others) < 2:
            raise ValueError(
                "yoked feedback is another item's of the same batch, and there is only one item; raise "
                'batch_size, or take feedback_placebo="neutral".'
            )
        return others[(others.index(row) + 1) % len(others)]

    def _remark(self, row: Row, said: str | None) -> "Remark | None":
        """What a row is told: the source's words, cut to their limit, or neutral ones."""
        if row.condition.feedback == "off":
            return None
        neutral = pick(self.wording.task(row.item).feedback_placebo, self.protocol.wording_index)
        if said is None:
            return Remark(text=neutral)
        text = said
        if self.protocol.feedback != "oracle":
            text = feedback.shortened(self.record, said, self.protocol.feedback_tokens)
        named = row.item.named_in(text)
        withheld = named and self.protocol.feedback_named == "withheld"
        return Remark(text=neutral if withheld else text, named=named, withheld=withheld, cut=text != said)

    # ------------------------------------------------------------------------------------- tables
    def _answer_table(self, items: Sequence[Item]) -> pd.DataFrame:
        rank = {c.levels: i for i, c in enumerate(self.protocol.design.conditions)}
        rows = sorted(
            self.answers,
            key=lambda a: (a["place"], rank[(a["instruction"], a["cot"], a["feedback"])], a["round"]),
        )
        table = pd.DataFrame(rows)
        asked = [items[p] for p in table.pop("place").tolist()]
        table.insert(0, "item", [item.id for item in asked])
        return pd.concat([table, judges.judge_answers(table["text"].tolist(), asked)], axis=1)

    def _transcript_table(self, items: Sequence[Item], rows: Sequence[Row]) -> pd.DataFrame:
        used = sorted({t for row in rows for transcript in row.kept for t in transcript.token_ids})
        words = self.record.renderer.tokenizer.batch_decode([[t] for t in used])
        shown = dict(zip(used, words, strict=True))
        rank = {c.levels: i for i, c in enumerate(self.protocol.design.conditions)}
        table = []
        for row in sorted(rows, key=lambda r: (r.place, rank[r.condition.levels])):
            for transcript in row.kept:
                ids = list(transcript.token_ids)
                table.append(
                    {
                        "item": row.item.id,
                        **row.condition.cell,
                        "round": transcript.turns[-1][0],
                        "token_ids": np.array(ids, np.int32),
                        "tokens": [shown[t] for t in ids],
                        "spans": [asdict(span) for span in rendering.named_spans(transcript)],
                    }
                )
        return pd.DataFrame(table)
