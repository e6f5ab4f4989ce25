"""Questions put in passing: after any round of a dialogue that was played, without a trace in it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import Turn
from morality_lens.models import decoding
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.probe import Probe

ROWS = 64
"""Questions put side by side."""


@dataclass(frozen=True, kw_only=True)
class SideQuestion:
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
class SideReply:
    """What a model says to an aside.

    Attributes:
        probabilities: probability of each reply's sign as the first token, as a share of all of them.
        mass: the share of the whole probability that is on any of them.
        projection: on a probe's directions, at the token whose logits choose the reply; None without one.
        text: what was said; empty where it was not wanted.
    """

    probabilities: Float[np.ndarray, " reply"]
    mass: float
    projection: Float[np.ndarray, " layer"] | None
    text: str


def ask(
    record: ModelRecord,
    asides: Sequence[SideQuestion],
    *,
    probe: Probe | None = None,
    limit: int = 0,
    rows: int = ROWS,
) -> list[SideReply]:
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
    out: list[SideReply | None] = [None] * len(asides)
    for base, mine in _groups(asides, prompts, rows):
        _ask_group(record, asides, prompts, base, mine, signs, probe, limit, out)
    return [reply for reply in out if reply is not None]


def _round(aside: SideQuestion) -> int:
    return aside.history.turns[-1][0] if aside.history.turns else 0


def _signs(record: ModelRecord, replies: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    found = rendering.first_tokens(record.renderer, replies)
    if not all(found):
        raise ValueError(
            f"this tokenizer has no tokens that begin a reply with one of {', '.join(replies)} alone, so the "
            "probabilities of these replies cannot be told apart."
        )
    return found


def _groups(
    asides: Sequence[SideQuestion], prompts: Sequence[Sequence[int]], rows: int
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
    asides: Sequence[SideQuestion],
    prompts: Sequence[Sequence[int]],
    bases: Sequence[Sequence[int]],
    mine: Sequence[Sequence[int]],
    signs: dict[tuple[str, ...], tuple[tuple[int, ...], ...]],
    probe: Probe | None,
    limit: int,
    out: list[SideReply | None],
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
        projected = probe.project_all(reads[:, 0].double().cpu().numpy())
    texts = [""] * len(every)
    if limit:
        said = decoding.generate(lm, branch, logits, limit=limit, stops=record.stops, read=False)
        decoded = record.renderer.tokenizer.batch_decode(said.tokens, skip_special_tokens=True)
        texts = [text.strip() for text in decoded]
    for r, i in enumerate(every):
        each = np.array([float(spread[r, list(t)].sum()) for t in signs[asides[i].replies]])
        out[i] = SideReply(
            probabilities=each / each.sum(),
            mass=float(each.sum()),
            projection=None if projected is None else projected[r],
            text=texts[r],
        )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next(
        (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
