"""Side questions: asked in a fork of a played dialogue after any round, so that the dialogue is unchanged."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Transcript
from morality_lens.dialogues.turns import Turn, system_turns
from morality_lens.items.kinds import Item
from morality_lens.models import beginnings, decoding
from morality_lens.models.beginnings import common_length
from morality_lens.models.loading import ModelRecord
from morality_lens.probes.probe import Probe
from morality_lens.rounds.endings import line_ends
from morality_lens.rounds.row import said

ROWS = 64
"""Most questions of a batch."""


@dataclass(frozen=True, kw_only=True)
class SideQuestion:
    """A question in a fork of a dialogue.

    Attributes:
        history: the dialogue before it; an empty transcript for none.
        turn: the question.
        replies: the signs that a reply may begin with, a letter or a digit each.
        system: the system prompt where no dialogue comes before, which would hold it; None for none.
        item: what is answered, so that the reply ends with the line that chooses; None lets it go on.
    """

    history: Transcript
    turn: Turn
    replies: tuple[str, ...]
    system: str | None = None
    item: Item | None = None

    @property
    def turns(self) -> tuple[Turn, ...]:
        """What is said: the question, after the system prompt where it begins the dialogue."""
        return (self.turn,) if self.history.turns else (*system_turns(self.system), self.turn)


@dataclass(frozen=True, kw_only=True, eq=False)
class SideReply:
    """The reply to a side question.

    Attributes:
        probabilities: probability of each reply's sign as the first token, as a share of all of them.
        mass: total probability of all of them.
        projection: on a probe's directions, at the token whose logits choose the reply; None without one.
        text: the reply; empty where none was requested.
    """

    probabilities: Float[np.ndarray, " reply"]
    mass: float
    projection: Float[np.ndarray, " layer"] | None
    text: str


def ask(
    record: ModelRecord,
    questions: Sequence[SideQuestion],
    *,
    probe: Probe | None = None,
    limit: int = 0,
    rows: int = ROWS,
) -> list[SideReply]:
    """The model's reply to each question; a dialogue that several of them share is read once.

    Args:
        record: the model.
        questions: the side questions.
        probe: directions to project on.
        limit: most tokens of the greedy reply; 0 for none.
        rows: most questions of a batch.

    Raises:
        ValueError: a question that exceeds the context window, or signs without a token of their own.
    """
    signs = {replies: _signs(record, replies) for replies in {q.replies for q in questions}}
    asked = [
        _Asked(
            prompt=_prompt(record, q).token_ids,
            history=q.history.token_ids,
            signs=signs[q.replies],
            item=q.item,
        )
        for q in questions
    ]
    longest = max(len(a.prompt) for a in asked) + limit
    if longest > record.lm.window:
        raise ValueError(
            f"a side question takes up to {longest} tokens and the model's context window holds "
            f"{record.lm.window}; play fewer rounds, or ask after earlier ones."
        )
    out: dict[int, SideReply] = {}
    for forks in _groups(asked, rows):
        order = [i for fork in forks for i in fork]
        batches = [[asked[i] for i in fork] for fork in forks]
        out |= zip(order, _ask_group(record, batches, probe, limit), strict=True)
    return [out[i] for i in range(len(asked))]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """A side question as tokens.

    Attributes:
        prompt: the dialogue and the question.
        history: the dialogue.
        signs: the tokens of each reply's sign.
        item: what is answered.
    """

    prompt: tuple[int, ...]
    history: tuple[int, ...]
    signs: tuple[tuple[int, ...], ...]
    item: Item | None


def _prompt(record: ModelRecord, question: SideQuestion) -> Transcript:
    """The dialogue, the question, and the prompt for a reply, before which the model does not think."""
    history = question.history
    number = history.turns[-1][0] if history.turns else 0
    asked, _ = said(record, history, list(question.turns), round=number)
    return rendering.begin_reply(record.renderer, asked, round=number)


def _signs(record: ModelRecord, replies: tuple[str, ...]) -> tuple[tuple[int, ...], ...]:
    found = rendering.first_tokens(record.renderer, replies)
    if not all(found):
        raise ValueError(
            f"this tokenizer has no tokens that begin a reply with one of {', '.join(replies)} alone, so the "
            "probabilities of these replies cannot be told apart."
        )
    return found


def _groups(asked: Sequence[_Asked], rows: int) -> Iterator[list[list[int]]]:
    """The questions of some dialogues that are read together, at most ``rows`` questions at a time.

    The first question of a dialogue has its longest history; those of the others are its beginnings.
    """
    order = sorted(range(len(asked)), key=lambda i: asked[i].history, reverse=True)
    forks: list[list[int]] = []
    for i in order:
        history = asked[i].history
        if forks and asked[forks[-1][0]].history[: len(history)] == history:
            forks[-1].append(i)
        else:
            forks.append([i])
    # Dialogues of similar length are read together.
    chosen: list[list[int]] = []
    for fork in sorted(forks, key=lambda fork: len(asked[fork[0]].history)):
        if chosen and sum(map(len, chosen)) + len(fork) > rows:
            yield chosen
            chosen = []
        chosen.append(fork)
    if chosen:
        yield chosen


@torch.inference_mode()
def _ask_group(
    record: ModelRecord, forks: Sequence[Sequence[_Asked]], probe: Probe | None, limit: int
) -> list[SideReply]:
    """The replies to the questions of some dialogues, one dialogue after the other."""
    lm = record.lm
    asked = [a for fork in forks for a in fork]
    branch, shared = _branched(record, forks)
    new = [list(a.prompt[n:]) for a, n in zip(asked, shared, strict=True)]
    weights = None
    if probe is not None:
        weights = torch.zeros(len(asked), 1, max(map(len, new)), device=lm.device)
        for r, tokens in enumerate(new):
            weights[r, 0, len(tokens) - 1] = 1.0
    logits, reads = decoding.prefill(lm, branch, new, weights)
    shares = torch.softmax(logits.double(), dim=-1).cpu()
    projected = None
    if probe is not None and reads is not None:
        projected = probe.project_all(reads[:, 0].double().cpu().numpy())
    texts = [""] * len(asked)
    if limit:
        ends = line_ends(record.renderer, [a.item for a in asked])
        reply = decoding.generate(lm, branch, logits, limit=limit, stops=record.stops, ends=ends, read=False)
        decoded = record.renderer.tokenizer.batch_decode(reply.tokens, skip_special_tokens=True)
        texts = [text.strip() for text in decoded]
    found = []
    for r, one in enumerate(asked):
        each = np.array([float(shares[r, list(t)].sum()) for t in one.signs])
        found.append(
            SideReply(
                probabilities=each / each.sum(),
                mass=float(each.sum()),
                projection=None if projected is None else projected[r],
                text=texts[r],
            )
        )
    return found


def _branched(record: ModelRecord, forks: Sequence[Sequence[_Asked]]) -> tuple[decoding.Batch, list[int]]:
    """A row for each question, which has read what its prompt shares with its dialogue: so many tokens."""
    lm = record.lm
    bases = [list(fork[0].history) for fork in forks]
    owner = [b for b, fork in enumerate(forks) for _ in fork]
    if not lm.cached or not any(bases):
        return decoding.start(lm, len(owner)), [0] * len(owner)
    batch = decoding.start(lm, len(bases))
    beginnings.prefill(lm, batch, bases)
    # The last token is always read again, so that there is something to feed.
    asked = [a for fork in forks for a in fork]
    shared = [common_length(bases[b], a.prompt[:-1]) for a, b in zip(asked, owner, strict=True)]
    return decoding.cropped(lm, batch, owner, shared), shared
