"""A run's dialogues to browse in its report: as many as fit into the page, and how to see all of them."""

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from morality_lens.items.kinds import Item, OpenPrompt, Question
from morality_lens.plots.transcripts import (
    Strings,
    by_dialogue,
    color_scales,
    fragment,
    in_one_direction,
    packed,
    safe,
)
from morality_lens.probes.layers import opening_layer, sound_layers
from morality_lens.probes.probe import Probe
from morality_lens.runs.pages import Query, Shelf, Told, matching, outcomes_of, shelf
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view

MOST = 1_600_000
"""Characters of dialogues in a report, so that a whole report stays below some 8 MB."""
LONGEST_TITLE = 120

Views = Mapping[tuple[str, str], Sequence[TokenView]]


def browser_html(
    run: Run,
    views: Sequence[TokenView] = (),
    *,
    probe: Probe | None = None,
    layer: int | None = None,
    most: int = MOST,
) -> str:
    """An HTML fragment to choose and read the dialogues of a run, without network access.

    Dialogues with values are coloured. All conditions of an item are there or none; the items of ``views``
    come first, the others are drawn at random. What does not fit is told, with the command that shows it.

    Args:
        run: a run.
        views: dialogues with their tokens, of one or several directions.
        probe: of the direction without a name, for the layers that it refuses.
        layer: that this direction opens at; None: the best held-out one that is not refused.
        most: characters of dialogues.
    """
    own = opened(views, probe, layer)
    room = _Room(strings=Strings(), most=most)
    held = shelf(run)
    coloured = by_dialogue(own)
    known = {told.item.id for told in _fill(room, held, coloured)}
    for (item, _), some in coloured.items():
        if item not in known:  # of no item of this run
            room.take([packed(some, room.strings)])
    items = list(held.run.items.index)
    data = {
        "dialogues": room.dialogues,
        "scales": color_scales(own),
        "strings": list(room.strings.numbers),
        "about": {**about(held), "links": True, "total": len(room.dialogues)},
    }
    said = _missing(run, len(room.dialogues), len(known), len(items) * len(run.design.conditions), own)
    data["about"]["missing"] = said
    return fragment(data, in_one_direction(own), more=f"<p>{safe(said)}</p>")


def about(held: Shelf) -> dict[str, Any]:
    """What there is to choose from: conditions, rounds, outcomes, categories."""
    run = held.run
    return {
        "conditions": [condition.label for condition in run.design.conditions],
        "rounds": run.design.n_rounds,
        "outcomes": outcomes_of(run.stored),
        "categories": sorted({item.category for item in run.stored if item.category}),
        "layers": int(run.manifest["study"]["model"]["n_layers"]),
    }


def opened(views: Sequence[TokenView], probe: Probe | None, layer: int | None) -> list[TokenView]:
    """The views with the layers at which they open and those that are refused, as the probe says."""
    if probe is None and layer is None:
        return list(views)
    sound = None if probe is None else sound_layers(probe)
    best = layer if layer is not None or probe is None else opening_layer(probe)
    found = []
    for view in views:
        if view.direction or view.values is None:
            found.append(view)
            continue
        refused = view.refused if sound is None else [one for one in view.layers if one not in sound]
        opening = best if best in view.layers else None
        found.append(replace(view, opening=opening, refused=tuple(refused)))
    return found


def dialogue(
    held: Shelf, told: Told, views: Sequence[TokenView], strings: Strings, *, tokens: bool
) -> dict[str, Any]:
    """One dialogue of a run as the browser's script takes it, with its answers.

    Args:
        held: the run.
        told: how it came out.
        views: its tokens, see :func:`morality_lens.plots.transcripts.packed`.
        strings: of the page.
        tokens: whether single tokens are given.
    """
    run, item = held.run, told.item
    shares = held.probabilities(item, told.condition)
    notes = _scores(run, item, told)
    rounds = [
        {
            **one,
            **({} if shares is None else {"probabilities": shares[one["round"]]}),
            **({"note": notes[one["round"]]} if one["round"] in notes else {}),
        }
        for one in told.rounds
    ]
    return {
        **packed(views, strings, tokens=tokens),
        "title": views[0].title or title(item),
        "category": item.category,
        "outcomes": told.outcomes,
        "rounds": rounds,
        "options": options(item),
    }


def title(item: Item) -> str:
    """What an item asks, in a line."""
    text = item.text if isinstance(item, OpenPrompt) else item.question
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}\u2026"


def options(item: Item) -> list[dict[str, Any]]:
    """The replies to choose from: the sign and text of each, and whether it is the right one."""
    texts = item.options if isinstance(item, Question) else [""] * len(item.replies)
    return [
        {"sign": sign, "text": text, **({"good": True} if i == item.good else {})}
        for i, (sign, text) in enumerate(zip(item.replies, texts, strict=True))
    ]


def rows_of(held: Shelf, told: Told, group: int) -> pd.DataFrame:
    """The rows of a run's transcripts that hold one dialogue."""
    return held.run.select(held.rows("transcripts", group, told.item.id), told.item.id, told.condition)


def _scores(run: Run, item: Item, told: Told) -> dict[int, str]:
    """The first judge's score of each answer in words, where a judge scored them."""
    file = run.path / "scores.parquet"
    if item.replies or not file.is_file():
        return {}
    table = pq.read_table(file, filters=[("item", "=", item.id)]).to_pandas()
    own = run.select(table, item.id, told.condition)
    own = own.loc[own["judge"] == own["judge"].iloc[0]] if len(own) else own
    known = own.loc[own["score"].notna()]
    return {int(n): f"judge's score {s:.2f}" for n, s in zip(known["round"], known["score"], strict=True)}


# --------------------------------------------------------------------------------------------- what fits
@dataclass(kw_only=True, eq=False)
class _Room:
    """The dialogues of a page, as long as there is room.

    Attributes:
        strings: of the page.
        most: characters that there are.
        used: characters so far, without those of the strings.
    """

    strings: Strings
    most: int
    used: int = 0

    def __post_init__(self) -> None:
        self.dialogues: list[dict[str, Any]] = []
        self.texts, self.counted = 0, 0

    def take(self, some: Sequence[dict[str, Any]]) -> bool:
        """Whether some dialogues were added: False where they have no room."""
        texts = list(self.strings.numbers)[self.counted :]
        self.texts += sum(len(text) + 3 for text in texts)
        self.counted += len(texts)
        size = sum(len(json.dumps(one, separators=(",", ":"))) for one in some)
        if self.used + self.texts + size > self.most:
            return False
        self.used += size
        self.dialogues += some
        return True


def _fill(room: _Room, held: Shelf, coloured: Views) -> Iterator[Told]:
    """Add the dialogues of one item after the other, as long as there is room; those that were added."""
    first = list(dict.fromkeys(item for item, _ in coloured))
    places = {item.id: n for n, group in enumerate(held.groups) for item in _items(held, group.places)}
    drawn = sorted(places, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
    for name in dict.fromkeys([*(name for name in first if name in places), *drawn]):
        told = list(matching(held, places[name], Query(item=name)))
        if not told:
            continue
        made = partial(_item_dialogues, held, told, places[name], coloured, room.strings)
        if not (room.take(made(values=True)) or (name in first and room.take(made(values=False)))):
            return
        yield from told


def _items(held: Shelf, places: Sequence[int]) -> list[Item]:
    return [held.run.stored[place] for place in places]


def _item_dialogues(
    held: Shelf, told: Sequence[Told], group: int, coloured: Views, strings: Strings, *, values: bool
) -> list[dict[str, Any]]:
    """All dialogues of one item, with the values of those that have some or without."""
    names = held.run.design.names
    rows = held.rows("transcripts", group, told[0].item.id)
    stored: dict[tuple[str, ...], list[TokenView]] = {}
    for _, row in rows.iterrows():
        stored.setdefault(tuple(str(row[name]) for name in names), []).append(token_view(row))
    found = []
    for one in told:
        views = coloured.get((one.item.id, one.condition.label), ())
        if any(view.values is not None for view in views) and values:
            found.append(dialogue(held, one, views, strings, tokens=True))
            continue
        if plain := stored.get(tuple(one.condition.coords[name] for name in names)):
            found.append(dialogue(held, one, plain, strings, tokens=False))
    return found


def _missing(run: Run, shown: int, items: int, total: int, views: Sequence[TokenView]) -> str:
    """What the page does not hold, and the command that shows it."""
    coloured = len({(v.item, v.condition_label) for v in views if v.values is not None})
    held = (
        f"All {total} dialogues are here"
        if shown >= total
        else f"{shown} of {total} dialogues are here: all conditions of {items} of {len(run.items)} items"
    )
    colours = f"; the tokens of {coloured} are coloured" if coloured else ""
    command = f"morality-lens view {shlex.quote(str(run.path))}"
    return (
        f"{held}{colours}. All of them, with the colours of every one and the attention of every head, are "
        f"shown by: {command}"
    )
