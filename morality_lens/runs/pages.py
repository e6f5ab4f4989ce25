"""A run's dialogues page by page: which ones match, and one of them whole; memory does not grow with the run.

Answers and transcripts are read part by part, and no more than a few parts are held. What a run holds of each
item (its text and id) is read when the run is opened.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.design import Condition
from morality_lens.items.kinds import Item
from morality_lens.runs.manifest import Part
from morality_lens.runs.run import Run

RIGHT, WRONG, UNPARSED, ANSWERED, ABSENT = "r", "w", "u", "a", "-"
"""How an answer came out: ``a`` where no reply is the right one, ``-`` where it was not played."""
CHANGED = "c"
"""What is asked for beside an outcome: another reply than in the round before."""
TEXTS = ("text", "rationale", "thought", "feedback_text")
"""Columns of the answers that are searched."""
PLAIN = ("round", "parsed", "correct", "choice")
"""Columns of the answers that say how they came out."""
HELD = 6
"""Groups of parts whose tables are held."""


@dataclass(frozen=True, kw_only=True)
class Query:
    """Which dialogues are wanted; what is empty is not asked for.

    Attributes:
        condition: a condition's label.
        outcome: one of :data:`RIGHT`, :data:`WRONG`, :data:`UNPARSED`, :data:`ANSWERED`, :data:`CHANGED`.
        round: where the outcome is; None for any round.
        category: of the item.
        words: all of which are in the item or in what was written.
        item: the id of the only item that is wanted.
    """

    condition: str = ""
    outcome: str = ""
    round: int | None = None
    category: str = ""
    words: str = ""
    item: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Told:
    """A dialogue in a line.

    Attributes:
        item: the item.
        condition: the cell.
        rounds: for each round how its answer came out (``outcome``), its reply's index (``choice``, or None)
            and whether that differs from the one in the round before (``changed``).
    """

    item: Item
    condition: Condition
    rounds: tuple[dict[str, Any], ...]

    @property
    def outcomes(self) -> str:
        """The outcomes of all rounds."""
        return "".join(told["outcome"] for told in self.rounds)


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """A page of dialogues.

    Attributes:
        told: the dialogues.
        cursor: where the next page begins; None after the last one.
        searched: items that were searched so far.
    """

    told: tuple[Told, ...]
    cursor: tuple[int, int] | None
    searched: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Items that lie in the same parts.

    Attributes:
        parts: over all rounds.
        places: of the items in the playing order.
    """

    parts: tuple[Part, ...]
    places: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Shelf:
    """A run of which some parts are held in memory, those that were read last.

    Attributes:
        run: the run.
        groups: its finished items, by the parts that hold them.
        read: reads a table of a group.
        shares: reads the probabilities of an item's replies.
    """

    run: Run
    groups: tuple[Group, ...]
    read: Callable[[str, int], pd.DataFrame] = field(repr=False)
    shares: Callable[[str], np.ndarray] = field(repr=False)

    def rows(self, name: str, number: int, item: str | None = None) -> pd.DataFrame:
        """A table (``answers``, ``transcripts``) of a group, or of one of its items."""
        table = self.read(name, number)
        return table if item is None else table.loc[table["item"] == item]

    def group_of(self, item: str) -> int | None:
        """The number of the group that holds an item; None where it is not finished."""
        places = {place for place, one in enumerate(self.run.stored) if one.id == item}
        return next((n for n, group in enumerate(self.groups) if places & set(group.places)), None)

    def probabilities(self, item: Item, condition: Condition) -> list[list[float | None]] | None:
        """The probability of each reply's sign in each round; None where there are none."""
        if not item.replies:
            return None
        values = self.shares(item.id)[self.run.design.place(condition)][:, : len(item.replies)]
        return [[float(f"{v:.4g}") if np.isfinite(v) else None for v in row] for row in values]


def shelf(run: Run) -> Shelf:
    """The run, to be read page by page."""
    at: dict[int, tuple[Part, ...]] = {}
    for part in run.finished:
        for place in part.places:
            at[place] = (*at.get(place, ()), part)
    parts = dict.fromkeys(at.values())
    groups = tuple(Group(parts=own, places=tuple(p for p in at if at[p] == own)) for own in parts)

    @lru_cache(maxsize=2 * HELD)
    def read(name: str, number: int) -> pd.DataFrame:
        ids = [run.stored[place].id for place in groups[number].places]
        table = pd.concat([run.part_table(part, name) for part in groups[number].parts], ignore_index=True)
        return table.loc[table["item"].isin(ids)]

    @cache
    def every_share() -> xr.DataArray:
        return run.option_probabilities

    @lru_cache(maxsize=HELD)
    def shares(item: str) -> np.ndarray:
        return every_share().sel(item=item).transpose(*run.design.names, "round", "option").values

    return Shelf(run=run, groups=groups, read=read, shares=shares)


def find(
    held: Shelf, query: Query, *, cursor: tuple[int, int] = (0, 0), size: int = 40, seconds: float = 1.0
) -> Found:
    """The next dialogues that match, in the order in which the items were played.

    Args:
        held: the run.
        query: what is wanted.
        cursor: where to go on: the number of a group, and of a dialogue in it.
        size: the most dialogues.
        seconds: after which what was found so far is returned, at the end of a group.
    """
    found: list[Told] = []
    until, number, searched = time.monotonic() + seconds, cursor[0], 0
    for number in range(cursor[0], len(held.groups)):
        skipped = cursor[1] if number == cursor[0] else 0
        searched = sum(len(group.places) for group in held.groups[: number + 1])
        for place, told in enumerate(matching(held, number, query)):
            if place < skipped:
                continue
            if len(found) == size:
                return Found(told=tuple(found), cursor=(number, place), searched=searched)
            found.append(told)
        if time.monotonic() > until and number + 1 < len(held.groups):
            return Found(told=tuple(found), cursor=(number + 1, 0), searched=searched)
    return Found(told=tuple(found), cursor=None, searched=searched)


def matching(held: Shelf, number: int, query: Query) -> Iterator[Told]:
    """The dialogues of a group that match, item by item."""
    items = [held.run.stored[place] for place in held.groups[number].places]
    wanted = [item for item in items if _wanted(item, query)]
    if not wanted:
        return
    design, words = held.run.design, query.words.casefold().split()
    table = held.rows("answers", number, query.item or None)
    rows = _by_dialogue(table, design.names, (*PLAIN, *(n for n in TEXTS if words and n in table)))
    for item, condition in itertools.product(wanted, design.conditions):
        own = rows.get((item.id, *condition.coords.values()))
        if own is None or query.condition not in ("", condition.label):
            continue
        told = Told(item=item, condition=condition, rounds=told_rounds(own, item, design.n_rounds))
        if has_outcome(told.rounds, query.outcome, query.round) and _has_words(item, own, words):
            yield told


def _by_dialogue(
    table: pd.DataFrame, names: Sequence[str], columns: Sequence[str]
) -> dict[tuple[str, ...], list[dict[str, Any]]]:
    """Some columns of the answers of each dialogue, by item and levels."""
    keys = zip(*(table[name].tolist() for name in ("item", *names)), strict=True)
    values = zip(*(table[name].tolist() for name in columns), strict=True)
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for key, row in zip(keys, values, strict=True):
        found.setdefault(key, []).append(dict(zip(columns, row, strict=True)))
    return found


def _wanted(item: Item, query: Query) -> bool:
    return query.item in ("", item.id) and query.category in ("", item.category)


def told_rounds(answers: Sequence[Mapping[str, Any]], item: Item, rounds: int) -> tuple[dict[str, Any], ...]:
    """How the answers of one dialogue came out, round by round, see :class:`Told`."""
    by_round = {int(row["round"]): row for row in answers}
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        row = by_round.get(number)
        choice = None if row is None or pd.isna(row["choice"]) else int(row["choice"])
        before = found[-1]["choice"] if found else None
        found.append(
            {
                "round": number,
                "outcome": ABSENT if row is None else outcome_of_answer(row, item),
                "choice": choice,
                "changed": choice is not None and before is not None and choice != before,
            }
        )
    return tuple(found)


def outcome_of_answer(row: Any, item: Item) -> str:
    """How one answer came out, as a letter."""
    if not row["parsed"]:
        return UNPARSED
    if item.good is None:
        return ANSWERED
    return RIGHT if row["correct"] else WRONG


def outcomes_of(items: Sequence[Item]) -> str:
    """The outcomes that answers to such items can have, those that can be asked for."""
    one = items[0]
    if not one.replies:
        return ANSWERED + UNPARSED
    return (ANSWERED if one.good is None else RIGHT + WRONG) + UNPARSED + CHANGED


def has_outcome(rounds: Sequence[dict[str, Any]], outcome: str, round: int | None) -> bool:
    """Whether a dialogue has an outcome in a round, or in any."""
    return not outcome or any(
        told["changed"] if outcome == CHANGED else told["outcome"] == outcome
        for told in rounds
        if round is None or told["round"] == round
    )


def _has_words(item: Item, answers: Sequence[Mapping[str, Any]], words: Sequence[str]) -> bool:
    """Whether all words are in the item or in what was written in its dialogue."""
    if not words:
        return True
    texts = [item.id, item.format_prompt("{text}")]
    texts += [str(row[name]) for row in answers for name in TEXTS if name in row]
    whole = "\n".join(texts).casefold()
    return all(word in whole for word in words)
