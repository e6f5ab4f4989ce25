"""One dialogue while it is played."""

from dataclasses import dataclass, field

from morality_lens.design import Condition
from morality_lens.dialogues import rendering
from morality_lens.dialogues.rendering import Renderer, Transcript
from morality_lens.dialogues.script import Exchange
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
    """

    place: int
    item: Item
    condition: Condition
    cells: tuple[int, ...]
    transcript: Transcript = field(default_factory=Transcript)
    kept: list[Transcript] = field(default_factory=list)
    answer: str = ""
    number: int = 0


def reply_tokens(renderer: Renderer, text: str) -> list[int]:
    """Tokens of a given reply, which the model does not generate."""
    return rendering.encode(renderer, text if not renderer.plain else " " + text)[0]


def say(record: ModelRecord, transcript: Transcript, exchange: Exchange, *, round: int) -> Transcript:
    """The transcript with an exchange's turns added, and its reply if that is given."""
    append = rendering.append_turn if record.prefix_reuse else rendering.rerender
    transcript = append(record.renderer, transcript, *exchange.turns, round=round)
    if exchange.given is None:
        return transcript
    words = reply_tokens(record.renderer, exchange.given)
    return rendering.append_reply(record.renderer, transcript, words, exchange.reply, round=round)
