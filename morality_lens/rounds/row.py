"""One dialogue while it is played."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from morality_lens.design import Condition
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer, Transcript
from morality_lens.dialogues.script import Exchange, Script
from morality_lens.dialogues.turns import Turn
from morality_lens.items.kinds import Item
from morality_lens.models.loading import ModelRecord


@dataclass(kw_only=True, eq=False)
class Row:
    """One dialogue: an item under a condition, with its transcript so far.

    Attributes:
        place: index of the item in its batch.
        item: the item.
        condition: the cell.
        cells: indices of the conditions that the row represents: in round 0 all that open alike.
        transcript: the dialogue so far.
        kept: transcripts that will be stored.
        answer: the last one.
        number: index of the round.
        before: the dialogue at the end of the round before.
        thought: the model's thoughts before its last reply.
        thinking: whether they were cut by their limit, so that no reply followed.
        rationale_cut: whether the round's rationale was cut by its limit.
    """

    place: int
    item: Item
    condition: Condition
    cells: tuple[int, ...]
    transcript: Transcript = field(default_factory=Transcript)
    kept: list[Transcript] = field(default_factory=list)
    answer: str = ""
    number: int = 0
    before: Transcript = field(default_factory=Transcript)
    thought: str = ""
    thinking: bool = False
    rationale_cut: bool = False


def reply_tokens(renderer: Renderer, text: str) -> list[int]:
    """Tokens of a given reply, which the model does not generate."""
    return rendering.encode_words(renderer, text if not renderer.plain else " " + text)


def said(
    record: ModelRecord, transcript: Transcript, turns: Sequence[Turn], *, round: int
) -> tuple[Transcript, bool]:
    """The transcript with turns added, and whether earlier tokens changed, as in some templates they do.

    A template that keeps what was said may still change one dialogue, because of a reply of odd form.
    """
    if record.prefix_reuse:
        try:
            return rendering.append_turn(record.renderer, transcript, *turns, round=round), False
        except rendering.HistoryRewrittenError:
            pass
    return rendering.rerender(record.renderer, transcript, *turns, round=round), True


def say(
    record: ModelRecord, script: Script, transcript: Transcript, exchange: Exchange, *, round: int
) -> tuple[Transcript, bool]:
    """The transcript with an exchange's turns, what precedes the model's own words, and a given reply.

    Also whether earlier tokens changed: see :func:`said`.
    """
    renderer = record.renderer
    transcript, changed = said(record, transcript, exchange.turns, round=round)
    thinking = script.thinking and exchange.given is None
    prefix = script.prefix(exchange.reply)
    transcript = rendering.begin_reply(renderer, transcript, round=round, thinking=thinking, prefix=prefix)
    if exchange.given is None:
        return transcript, changed
    words = reply_tokens(renderer, exchange.given)
    return rendering.append_reply(renderer, transcript, words, exchange.reply, round=round), changed
