"""The order of turns: what is said in each round of a dialogue, and which replies follow, said once."""

from collections.abc import Sequence
from dataclasses import dataclass

from morality_lens.design import Condition, Design, Protocol
from morality_lens.dialogues.languages import LANGUAGES
from morality_lens.dialogues.turns import Turn, answer_turn, correction_turn, opening_turns
from morality_lens.dialogues.wording import Wording, pick
from morality_lens.items.kinds import Item


@dataclass(frozen=True, kw_only=True)
class Exchange:
    """What is said to the model, and the reply that follows.

    Attributes:
        turns: of the system and the user.
        reply: segment name of the reply, ``rationale`` or ``answer``.
        given: the reply itself where it is put into the model's mouth; None where the model writes it.
    """

    turns: tuple[Turn, ...]
    reply: str
    given: str | None = None


@dataclass(frozen=True, kw_only=True)
class Script:
    """Who says what, in which order, for every item and condition of a design.

    Attributes:
        design: the factors.
        wording: the words.
        index: which of the alternative wordings.
        thinking: whether a model whose template marks thoughts is to think before its replies.
        answer_prefix: how every answer begins.
        system: the system prompt of every dialogue; None for none.
    """

    design: Design
    wording: Wording
    index: int = 0
    thinking: bool = False
    answer_prefix: str = ""
    system: str | None = None

    @staticmethod
    def of(protocol: Protocol, wording: Wording) -> "Script":
        """The script of a protocol played in these words.

        Raises:
            ValueError: a component comes with English words, and the wording is in another language.
        """
        ready = [factor.name for factor in protocol.design.spoken_factors if factor.ready]
        if ready and wording.name in LANGUAGES:
            raise ValueError(
                f"the components {', '.join(ready)} come with English words, and the wording is in "
                f"{LANGUAGES[wording.name]}; give the factors texts of your own in that language."
            )
        return Script(
            design=protocol.design,
            wording=wording,
            index=protocol.wording_index,
            thinking=protocol.limits.thinking > 0,
            answer_prefix=protocol.answer_prefix,
            system=protocol.system_prompt,
        )

    def prefix(self, reply: str) -> str:
        """How a reply of that name begins, in the words of the protocol."""
        return self.answer_prefix if reply == "answer" else ""

    def round(
        self, item: Item, condition: Condition, number: int, feedback: str | None = None
    ) -> tuple[Exchange, ...]:
        """The exchanges of a round: the opening in round 0, else a correction; the last reply is the answer.

        Args:
            item: the item that is played.
            condition: the cell.
            number: of the round.
            feedback: the source's feedback on the last answer; None where none was requested.
        """
        factors, condition = self.design.spoken_factors, self.design.spoken(condition)
        if number == 0:
            turns = opening_turns(
                item, condition, self.wording, self.index, factors=factors, system=self.system
            )
            return (Exchange(turns=turns, reply="answer"),)
        turn = correction_turn(
            item, condition, self.wording, feedback=feedback, index=self.index, factors=factors
        )
        level = self.level(condition, "rationale")
        if level == "off":
            return (Exchange(turns=(turn,), reply="answer"),)
        filler = pick(self.wording.task(item).rationale_placebo, self.index)
        request = answer_turn(item, self.wording, self.index)
        return (
            Exchange(turns=(turn,), reply="rationale", given=filler if level == "placebo" else None),
            Exchange(turns=(request,), reply="answer"),
        )

    def level(self, condition: Condition, place: str) -> str:
        """The level of the factor at a place; ``off`` where the design has none there."""
        return next((condition[f.name] for f in self.design.factors if f.place == place), "off")

    def written(self, condition: Condition) -> tuple[str, ...]:
        """The replies that the model writes in a correction round."""
        return ("rationale", "answer") if self.level(condition, "rationale") == "on" else ("answer",)


def until_reply(exchanges: Sequence[Exchange]) -> list[tuple[Exchange, ...]]:
    """The exchanges in stretches that can be fed at once: each ends where the model writes."""
    stretches: list[tuple[Exchange, ...]] = []
    so_far: tuple[Exchange, ...] = ()
    for exchange in exchanges:
        so_far = (*so_far, exchange)
        if exchange.given is None:
            stretches.append(so_far)
            so_far = ()
    return stretches
