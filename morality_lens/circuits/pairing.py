"""Dialogues of a source and a target condition, item by item, and the tokens that correspond in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Int

from morality_lens.circuits.measuring import passage_prompt
from morality_lens.circuits.settings import Batching, Moment
from morality_lens.design import Condition
from morality_lens.runs.alignment import align, paired
from morality_lens.runs.passages import Passage
from morality_lens.runs.run import Run

Aligned = tuple[Int[np.ndarray, " _"], Int[np.ndarray, " _"]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairing:
    """Source and target dialogues.

    Attributes:
        couples: the source and the target of each item.
        round: the round whose answer is measured.
        places: names of the places that correspond.
        spots: by item and place, the tokens in the source and those in the target.
    """

    couples: Sequence[tuple[Passage, Passage]]
    round: int
    places: tuple[str, ...]
    spots: Mapping[tuple[str, str], Aligned]

    @staticmethod
    def of(run: Run, source: Condition, target: Moment, places: tuple[str, ...]) -> "Pairing":
        """The dialogues of a run, aligned at all places before anything is computed.

        Raises:
            ValueError: a condition, round or item that the run does not have, or dialogues whose tokens do
                not correspond.
        """
        couples = paired(run, source=source, target=target.condition, round=target.number, items=target.items)
        spots = {(t.item, place): align(s, t, place, target.number) for s, t in couples for place in places}
        return Pairing(couples=couples, round=target.number, places=places, spots=spots)

    @property
    def items(self) -> list[str]:
        """Ids of the items."""
        return [target.item for _, target in self.couples]

    def prompts(self) -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
        """Tokens up to the answer: of the sources, and of the targets."""
        sources = [passage_prompt(source, self.round) for source, _ in self.couples]
        return sources, [passage_prompt(target, self.round) for _, target in self.couples]

    def tokens(self, place: str) -> list[Aligned]:
        """The tokens of a place in the source and the target of each item."""
        return [self.spots[item, place] for item in self.items]

    def only(self, items: Sequence[str]) -> "Pairing":
        """The same for some items."""
        return replace(self, couples=[couple for couple in self.couples if couple[1].item in items])

    def batches(self, batching: Batching) -> list["Pairing"]:
        """The same, some items at a time."""
        return [replace(self, couples=chunk) for chunk in batching.chunks(self.couples)]
