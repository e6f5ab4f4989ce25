"""What each dialogue is told of its last answer: a source's words, neutral ones, or another item's."""

from collections.abc import Sequence
from dataclasses import dataclass

from morality_lens.design import Protocol
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.wording import pick
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds import feedback
from morality_lens.rounds.feedback import Answered, Source
from morality_lens.rounds.row import Row


@dataclass(frozen=True, kw_only=True)
class FeedbackText:
    """What a dialogue is told of its answer.

    Attributes:
        text: the words.
        named: whether they name an option.
        withheld: whether neutral words took the place of words that did.
        cut: whether they were cut short.
    """

    text: str
    named: bool = False
    withheld: bool = False
    cut: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackPolicy:
    """Who is told what: the protocol's rules for one model and one source."""

    record: ModelRecord
    protocol: Protocol
    script: Script
    source: Source

    def texts(self, rows: Sequence[Row]) -> list[FeedbackText | None]:
        """What is said of each row's last answer; None where feedback is off.

        A yoked placebo is what the source says of the answer of the next item in the same condition.
        """
        levels = [self.script.level(row.condition, "feedback") for row in rows]
        about: dict[int, Row] = {}
        for r, row in enumerate(rows):
            if levels[r] == "on":
                about[r] = row
            elif levels[r] == "placebo" and self.protocol.feedback_placebo == "yoked":
                about[r] = _neighbour(rows, row)
        asked = [
            Answered(item=row.item, answer=row.answer, condition=row.condition.label, round=row.number)
            for row in about.values()
        ]
        said = dict(zip(about, self.source.remarks(asked), strict=True)) if asked else {}
        return [
            None if level == "off" else self._text(row, said.get(r))
            for r, (row, level) in enumerate(zip(rows, levels, strict=True))
        ]

    def _text(self, row: Row, said: str | None) -> FeedbackText:
        """The source's words, cut to their limit, or neutral ones."""
        neutral = pick(self.script.wording.task(row.item).feedback_placebo, self.script.index)
        if said is None:
            return FeedbackText(text=neutral)
        text = said
        if self.protocol.feedback != "oracle":
            text = feedback.shortened(self.record, said, self.protocol.feedback_tokens)
        named = row.item.named_in(text)
        withheld = named and self.protocol.feedback_named == "withheld"
        return FeedbackText(
            text=neutral if withheld else text, named=named, withheld=withheld, cut=text != said
        )


def _neighbour(rows: Sequence[Row], row: Row) -> Row:
    others = [other for other in rows if other.condition == row.condition]
    if len(others) < 2:
        raise ValueError(
            "yoked feedback is another item's of the same batch, and there is only one item; raise "
            'batch_size, or take feedback_placebo="neutral".'
        )
    return others[(others.index(row) + 1) % len(others)]
