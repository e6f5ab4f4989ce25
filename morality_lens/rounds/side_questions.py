"""Questions put in passing: after any round of a dialogue that was played, without a trace in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from morality_lens import decoding, rendering
from morality_lens.design import Condition
from morality_lens.dialogues import Turn
from morality_lens.items import Item
from morality_lens.model import ModelRecord
from morality_lens.probes import Probe
from morality_lens.rendering import Transcript
from morality_lens.script import Script
from morality_lens.store import Run
from morality_lens.wording import Wording, load_wording

ROWS = 64
"""Questions put side by side."""


def wording_of(run: Run, path: str | None = None) -> Wording:
    """The words that a run was played in.

    Args:
        run: a run.
        path: its wording's file; None is the package's own.

    Raises:
        ValueError: they are others.
    """
    wording, said = load_wording(path), run.manifest["study"]["wording"]
    if wording.hash_of(run.task) != said["sha256"]:
        raise ValueError(
            f"the run was played in the wording {said['name']!r}, and this is {wording.name!r} with other "
            "words; give the path of the file it was played with as wording."
        )
    return wording


def dialogue_after(
    record: ModelRecord, run: Run, item: Item, condition: Condition, wording: Wording
) -> list[Transcript]:
    """One dialogue of a run as it stood after each round's answer, said once more from what was stored.

    Raises:
        ValueError: what was stored is not what this model's template makes of these words.
    """
    script = Script(design=run.design, wording=wording, index=run.wording_index)
    answers = run.select(run.answers, item.id, condition).sort_values("round").to_dict("records")
    stored = run.select(run.transcripts, item.id, condition).sort_values("round").to_dict("records")
    whole = {int(row["round"]): row for row in stored}
    append = rendering.append_turn if record.prefix_reuse else rendering.rerender
    renderer, transcript, found = record.renderer, Transcript(), []
    for number, answer in enumerate(answers):
        row = whole[number] if number in whole else stored[-1]
        for exchange in script.round(item, condition, number, answer["feedback_text"] or None):
            transcript = append(renderer, transcript, *exchange.turns, round=number)
            # In rewritten history a later dialogue may lack an earlier reply, but its own round's is there.
            span = [s for s in row["spans"] if s["name"] == exchange.reply and int(s["round"]) == number][-1]
            words = [int(t) for t in row["token_ids"][span["start"] : span["stop"]]]
            transcript = rendering.append_reply(renderer, transcript, words, exchange.reply, round=number)
        found.append(transcript)
    kept = tuple(int(t) for t in stored[-1]["token_ids"])
    if found[-1].token_ids != kept:
        raise ValueError(
            f"the stored dialogue of item {item.id} under {condition.label} is not what this model's "
            "template makes of its words; load the model with the template that the run was played with."
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Aside:
    """A question to a dialogue.

    Attributes:
        history: what was said before; an empty transcript for nothing.
        turn: the question.
        replies: the signs that a reply may begin with, a letter or a digit each.
    """

    history: Transcript
    turn: Turn
    replies: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Reply:
    """What a model says to an aside.

    Attributes:
        chances: probability of each reply's sign as the first token, as a share of all of them.
        mass: the share of the whole probability that is on any of them.
        projection: on a probe's directions, at the token whose logits choose the reply; None without one.
        text: what was said; empty where it was not wanted.
    """

    chances: Float[np.ndarray, " reply"]
    mass: float
    projection: Float[np.ndarray, " layer"] | None
    text: str


def ask(
    record: ModelRecord,
    asides: Sequence[Aside],
    *,
    probe: Probe | None = None,
    limit: int = 0,
    rows: int = ROWS,
) -> list[Reply]:
    """What the model says to each question; dialogues that several of them share are read once.

    Args:
        record: the model.
        asides: the questions.
        probe: directions to project on.
        limit: most tokens of the greedy reply; 0 for none.
        rows: questions put side by side.

    Raises:
        ValueError: a question that does not fit into the window, or signs without a token of their own.
    """
    append = rendering.append_turn if record.prefix_reuse else rendering.rerender
    prompts = [
        append(record.renderer, aside.history, aside.turn, round=_round(aside)).token_ids for aside in asides
    ]
    longest = max(map(len, prompts)) + limit
    if longest > record.lm.window:
        raise ValueError(
            f"a question in passing takes up to {longest} tokens, the model's window holds "
            f"{record.lm.window}; play fewer rounds, or ask after earlier ones."
        )
    signs = {replies: _signs(record, replies) for replies in {aside.replies for aside in asides}}
    out: list[Reply | None] = [None] * len(asides)
    for base, mine in _groups(asides, prompts, rows):
        _ask_group(record, asides, prompts, base, mine, signs, probe, limit, out)
    return [reply for reply in out if reply is not None]


def _round(aside: Aside) -> int:
    return aside.history.turns[-1][0] if aside.history.turns else 0


def _signs(record: ModelRecord, replies: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    found = rendering.first_tokens(record.renderer, replies)
    if not all(found):
        raise ValueError(
            f"this tokenizer has no tokens that begin a reply with one of {', '.join(replies)} alone, so the "
            "chances of these replies cannot be told apart."
        )
    return found


def _groups(
    asides: Sequence[Aside], prompts: Sequence[Sequence[int]], rows: int
) -> Iterator[tuple[list[tuple[int, ...]], list[list[int]]]]:
    """Dialogues to be read, and for each the questions put to it, at most ``rows`` questions at a time.

    A dialogue that another one goes on from is part of it.
    """
    order = sorted(range(len(asides)), key=lambda i: asides[i].history.token_ids, reverse=True)
    bases: list[tuple[int, ...]] = []
    mine: list[list[int]] = []
    for i in order:
        history = asides[i].history.token_ids
        if bases and bases[-1][: len(history)] == history:
            mine[-1].append(i)
        else:
            bases.append(history)
            mine.append([i])
    # Questions of like length side by side: histories first, then what is asked.
    ranked = sorted(range(len(bases)), key=lambda b: len(bases[b]))
    chosen: list[int] = []
    for b in ranked:
        if chosen and sum(len(mine[c]) for c in chosen) + len(mine[b]) > rows:
            yield [bases[c] for c in chosen], [mine[c] for c in chosen]
            chosen = []
        chosen.append(b)
    if chosen:
        yield [bases[c] for c in chosen], [mine[c] for c in chosen]


def _ask_group(
    record: ModelRecord,
    asides: Sequence[Aside],
    prompts: Sequence[Sequence[int]],
    bases: Sequence[Sequence[int]],
    mine: Sequence[Sequence[int]],
    signs: dict[tuple[str, ...], tuple[tuple[int, ...], ...]],
    probe: Probe | None,
    limit: int,
    out: list[Reply | None],
) -> None:
    lm = record.lm
    every = [i for questions in mine for i in questions]
    owner = [b for b, questions in enumerate(mine) for _ in questions]
    if lm.cached and any(bases):
        batch = decoding.start(lm, len(bases))
        decoding.prefill(lm, batch, [list(base) for base in bases])
        # The last token is always asked again, so that there is something to feed.
        shared = [
            _common(bases[b], prompts[i][: len(prompts[i]) - 1]) for i, b in zip(every, owner, strict=True)
        ]
        branch = decoding.cropped(lm, batch, owner, shared)
    else:
        branch, shared = decoding.start(lm, len(every)), [0] * len(every)
    new = [list(prompts[i][n:]) for i, n in zip(every, shared, strict=True)]
    weights = None
    if probe is not None:
        weights = torch.zeros(len(every), 1, max(map(len, new)), device=lm.device)
        for r, tokens in enumerate(new):
            weights[r, 0, len(tokens) - 1] = 1.0
    logits, reads = decoding.prefill(lm, branch, new, weights)
    spread = torch.softmax(logits.double(), dim=-1).cpu()
    projected = None
    if probe is not None and reads is not None:
        directions = torch.tensor(probe.direction.values, dtype=torch.float64)
        projected = torch.einsum("rld,ld->rl", reads[:, 0].double().cpu(), directions).numpy()
        projected = projected + probe.intercept.values
    texts = [""] * len(every)
    if limit:
        said = decoding.generate(lm, branch, logits, limit=limit, stops=record.stops, read=False)
        decoded = record.renderer.tokenizer.batch_decode(said.tokens, skip_special_tokens=True)
        texts = [text.strip() for text in decoded]
    for r, i in enumerate(every):
        each = np.array([float(spread[r, list(t)].sum()) for t in signs[asides[i].replies]])
        out[i] = Reply(
            chances=each / each.sum(),
            mass=float(each.sum()),
            projection=None if projected is None else projected[r],
            text=texts[r],
        )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
