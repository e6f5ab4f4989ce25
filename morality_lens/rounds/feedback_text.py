"""The feedback text of each dialogue: its source's, a neutral one, or that of another item."""

from collections.abc import Sequence
from dataclasses import dataclass

from morality_lens.design import Protocol
from morality_lens.dialogues.script import Script
from morality_lens.dialogues.wording import pick
from morality_lens.models.loading import ModelRecord
from morality_lens.rounds import feedback
from morality_lens.rounds.feedback import ReviewedAnswer, Said, Source
from morality_lens.rounds.row import Row


@dataclass(frozen=True, kw_only=True)
class FeedbackText:
    """The feedback on a dialogue's answer.

    Attributes:
        text: the text.
        named: whether it names an option.
        withheld: whether a neutral text replaces one that does.
        cut: whether its end is missing.
        missing: whether a neutral text stands in for feedback that the source did not give.
    """

    text: str
    named: bool = False
    withheld: bool = False
    cut: bool = False
    missing: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class FeedbackPolicy:
    """Which dialogue gets which feedback: the protocol's rules for one model and one source."""

    record: ModelRecord
    protocol: Protocol
    script: Script
    source: Source

    def texts(self, rows: Sequence[Row]) -> list[FeedbackText | None]:
        """The feedback on each row's last answer; None where feedback is off.

        A yoked placebo is the source's feedback on the answer to the next item in the same condition.
        """
        levels = [self.script.level(row.condition, "feedback") for row in rows]
        about: dict[int, Row] = {}
        for r, row in enumerate(rows):
            if levels[r] == "on":
                about[r] = row
            elif levels[r] == "placebo" and self.protocol.feedback_placebo == "yoked":
                about[r] = _neighbour(rows, row)
        answers = [
            ReviewedAnswer(item=row.item, answer=row.answer, condition=row.condition.label, round=row.number)
            for row in about.values()
        ]
        texts = dict(zip(about, self.source.feedback(answers), strict=True)) if answers else {}
        return [
            None if level == "off" else self._text(row, texts.get(r), missing=r in about and texts[r] is None)
            for r, (row, level) in enumerate(zip(rows, levels, strict=True))
        ]

    def _text(self, row: Row, given: Said | None, *, missing: bool) -> FeedbackText:
        """The source's text, cut to its limit, or a neutral one."""
        neutral = pick(self.script.wording.task(row.item).feedback_placebo, self.script.index)
        if given is None:
            return FeedbackText(text=neutral, missing=missing)
        if self.protocol.feedback != "oracle":
            given = feedback.shortened(self.record, given, self.protocol.limits.feedback)
        named = row.item.named_in(given.text)
        withheld = named and self.protocol.feedback_named == "withheld"
        return FeedbackText(
            text=neutral if withheld else given.text, named=named, withheld=withheld, cut=given.cut
        )


def _neighbour(rows: Sequence[Row], row: Row) -> Row:
    others = [other for other in rows if other.condition == row.condition]
    if len(others) < 2:
        raise ValueError(
            "yoked feedback comes from another item of the same batch, and there is only one item; raise "
            'batch_size, or take feedback_placebo="neutral".'
        )
    return others[(others.index(row) + 1) % len(others)]
