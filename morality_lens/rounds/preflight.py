"""What is checked before a run is played: items, context window, batch size."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from morality_lens.design import Condition, Protocol, ReplyLimits
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer, Transcript
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.turns import critique_turn, statement_turn, system_turns
from morality_lens.dialogues.wording import Wording
from morality_lens.items.kinds import Item, refuse_unplayable
from morality_lens.judges.toxicity import Judge
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds.row import reply_tokens

MOST_ITEMS = 16
"""Items of a batch where memory allows."""
CPU_WORK = 5_000_000_000
"""Parameters x rows of a batch above which a CPU is busy: 32 rows of a model of 150 million parameters."""
SLACK = 4
"""Tokens that may differ where a reply meets the template."""


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """How items are fitted into memory and into the context window.

    Attributes:
        batch_size: items played together (each becomes one row a condition); None fits it to memory and so
            that some are finished about every minute.
        drop_long: skip items that could exceed the context window, rather than refuse.
        least_parsed: the share of the first items' answers that must parse for the others to be played. The
            command line asks for half. From Python none is asked for: the caller has the answers at hand, and
            models that are not meant to answer (random ones) are played there too.

    Examples:
        >>> ml.rounds.Fitting(batch_size=8).drop_long
        False
    """

    batch_size: int | None = None
    drop_long: bool = False
    least_parsed: float = 0.0


def check_items(items: Sequence[Item], protocol: Protocol, judge: Judge | None) -> None:
    """Refuse items that cannot be played together, or with this feedback."""
    if not items:
        raise ValueError("play needs at least one item; got none. Check the file and its filters.")
    ids = pd.Series([item.id for item in items])
    if ids.duplicated().any():
        repeated = sorted(set(ids[ids.duplicated()]))[:3]
        raise ValueError(f"item ids must be unique; {', '.join(repeated)} came more than once.")
    refuse_unplayable(items, oracle=protocol.feedback == "oracle", judged=judge is not None)


# --------------------------------------------------------------------------------------------- lengths
def fit_window(
    record: ModelRecord, items: Sequence[Item], protocol: Protocol, wording: Wording, *, drop_long: bool
) -> tuple[list[int], list[Item], list[dict[str, object]]]:
    """The longest possible dialogue of each item that fits, those items, and those that were skipped."""
    bounds = longest_dialogues(record.renderer, items, protocol, wording)
    window = record.lm.window
    kept = [(n, item) for n, item in zip(bounds, items, strict=True) if n <= window]
    left = [{"id": item.id, "tokens": n} for n, item in zip(bounds, items, strict=True) if n > window]
    if left and (not drop_long or not kept):
        worst = max(bounds)
        advice = "skip them with drop_long (--drop-long)" if kept else "take another model: no item fits"
        raise ValueError(
            f"{len(left)} of {len(items)} items could exceed the model's context window of {window} tokens "
            f"(up to {worst} tokens, for example item {left[0]['id']}). Play fewer rounds, lower the token "
            f"limits, or {advice}."
        )
    return [n for n, _ in kept], [item for _, item in kept], left


def longest_dialogues(
    renderer: Renderer, items: Sequence[Item], protocol: Protocol, wording: Wording
) -> list[int]:
    """An upper bound of the tokens of each item's longest dialogue, before anything is played."""
    if protocol.system_prompt or any(factor.place == "system" for factor in protocol.design.spoken_factors):
        rendering.check_system(renderer)
    script, blank, limits = Script.of(protocol, wording), Transcript(), protocol.limits
    rewriting = rendering.rewrites_history(renderer)
    growth = max(
        _round_tokens(renderer, script, protocol, items[0], condition, rewriting=rewriting)
        for condition in protocol.design.conditions
    )
    openings = {protocol.design.opening(condition) for condition in protocol.design.conditions}
    bounds = []
    for item in items:
        begun = [
            rendering.append_turn(renderer, blank, *script.round(item, opening, 0)[0].turns, round=0)
            for opening in openings
        ]
        critique = rendering.append_turn(
            renderer,
            blank,
            *system_turns(protocol.system_prompt),
            critique_turn(item, "a", wording, protocol.wording_index),
            round=0,
        )
        opened = max(len(transcript.token_ids) for transcript in begun)
        thought = _thought(renderer, begun[0], limits)
        prefix = len(rendering.encode_words(renderer, protocol.answer_prefix))
        played = opened + thought + prefix + limits.answer + protocol.design.rounds * growth
        asked = len(critique.token_ids) + thought + limits.answer + limits.feedback + SLACK
        bounds.append(max(played, asked if protocol.feedback == "self" else 0))
    return bounds


def _round_tokens(
    renderer: Renderer,
    script: Script,
    protocol: Protocol,
    item: Item,
    condition: Condition,
    *,
    rewriting: bool,
) -> int:
    """An upper bound of the tokens that one correction round adds under a condition."""
    append = rendering.rerender if rewriting else rendering.append_turn
    word = tuple(rendering.encode(renderer, " a")[0][-1:])
    said = rendering.append_turn(renderer, Transcript(), statement_turn("a"), round=0)
    said = rendering.append_reply(renderer, said, word, "answer", round=0)
    limits = protocol.limits
    size = limits.answer + len(rendering.encode_words(renderer, protocol.answer_prefix))
    if script.level(condition, "feedback") != "off":
        size += limits.feedback
    for exchange in script.round(item, condition, 1, "a"):
        after = append(renderer, said, *exchange.turns, round=1)
        size += len(after.token_ids) - len(said.token_ids) + SLACK
        size += _thought(renderer, after, limits) if exchange.given is None else 0
        said = rendering.append_reply(renderer, after, word, exchange.reply, round=1)
        if exchange.reply != "answer":
            given = [] if exchange.given is None else reply_tokens(renderer, exchange.given)
            size += max(limits.rationale, len(given))
    return size


def _thought(renderer: Renderer, prompt: Transcript, limits: ReplyLimits) -> int:
    """An upper bound of the tokens of the thoughts before a reply, with their marks."""
    marks = renderer.thinking
    if marks is None or not rendering.thinks(renderer, prompt):
        return 0
    texts = (marks.opening, marks.closing) if limits.thinking else (marks.skipped,)
    return limits.thinking + sum(len(rendering.encode(renderer, text)[0]) for text in texts)


def affordable_batch(record: ModelRecord, protocol: Protocol, longest: int) -> int:
    """The number of items whose caches fill at most a quarter of the free memory.

    On a CPU it is smaller for larger models: more rows do not make it faster, and finished parts are kept.
    """
    config = record.lm.module.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    width = torch.finfo(record.lm.module.dtype).bits // 8
    item = 2 * record.n_layers * heads * size * width * longest * len(protocol.design.conditions)
    cuda = record.lm.device.type == "cuda"
    free = torch.cuda.mem_get_info(record.lm.device)[0] if cuda else 8e9
    row = sum(p.numel() for p in record.lm.module.parameters()) * len(protocol.design.conditions)
    busy = MOST_ITEMS if cuda else CPU_WORK // row
    return int(max(1, min(MOST_ITEMS, busy, free / 4 // item)))
