"""Which tokens of one dialogue correspond to which of another: the places where activations can be moved."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Int

from morality_lens.design import Condition
from morality_lens.runs.passages import Passage, answering
from morality_lens.runs.run import Run

SINGLE = ("answer_start", "answer_end")
"""Places of one token, which correspond whatever surrounds them."""
REPLIES = ("answer", "rationale")
"""Segments that the model says itself."""


def positions(passage: Passage, place: str, round: int) -> tuple[int, ...]:
    """Where a place lies in a dialogue: token indices in order.

    Args:
        passage: the dialogue.
        place: ``answer_start``, a segment's name (``question``, ``review``, ``instruction``, ``feedback``,
            ``answer``, ...) in this round, or ``name@2`` for that of round 2; ``turn`` is all that was said
            since the model's last reply, ``all`` everything up to ``answer_start``. The question is always
            that of round 0.
        round: the round that is looked at.

    Raises:
        ValueError: the dialogue has no such place; the words list those it has.
    """
    name, _, number = place.partition("@")
    if number and not number.isdecimal():
        raise ValueError(f"a place is a name, or name@round; got {place!r}.")
    at = int(number) if number else 0 if name == "question" else round
    if name in ("turn", "all"):
        (start,) = passage.places("answer_start", at) or (None,)
        if start is None:
            raise ValueError(f"{passage.described} has no answer in round {at}: its thoughts were cut.")
        ends = [stop for n, _, _, stop in passage.spans if n in REPLIES and stop <= start]
        return tuple(range(max(ends, default=0) if name == "turn" else 0, start + 1))
    found = passage.places(name, at)
    if not found:
        there = ", ".join(dict.fromkeys(n for n, r, _, _ in passage.spans if r == at)) or "nothing"
        raise ValueError(f"{passage.described} has no {name!r} in round {at}; it has {there} there.")
    return found


def align(
    source: Passage, target: Passage, place: str, round: int
) -> tuple[Int[np.ndarray, " token"], Int[np.ndarray, " token"]]:
    """The tokens of a place in two dialogues of one item, one for one: those of the source and the target.

    A single site always corresponds to itself; a segment does where its tokens are the same in both.

    Raises:
        ValueError: the dialogues are of different items, one lacks the place, or its tokens differ.
    """
    if source.item != target.item:
        raise ValueError(
            f"only dialogues of one item correspond; got {source.described} and {target.described}."
        )
    here, there = positions(source, place, round), positions(target, place, round)
    if place.partition("@")[0] not in SINGLE:
        tokens = [source.token_ids[i] for i in here], [target.token_ids[i] for i in there]
        if tokens[0] != tokens[1]:
            first = next((n for n, (a, b) in enumerate(zip(*tokens, strict=False)) if a != b), None)
            how = "their lengths" if first is None else f"token {first}"
            raise ValueError(
                f"the tokens of {place!r} are not the same in {source.described} ({len(here)} tokens) and "
                f"{target.described} ({len(there)}): they differ in {how}. Patch a single site, or leave "
                "such items out (see alignable)."
            )
    return np.array(here), np.array(there)


def alignable(
    run: Run,
    *,
    source: Condition,
    target: Condition,
    at: str | Sequence[str],
    round: int,
    items: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Reasons against patching: a row for each item, a column for each place, empty where there is none.

    ``table.index[(table == "").all(axis=1)]`` are the items whose places all correspond.

    Args:
        run: a run.
        source: where activations would come from.
        target: where they would go.
        at: places (see :func:`positions`).
        round: the round whose answer is looked at.
        items: ids; None takes all.

    Raises:
        ValueError: a condition, round or item that the run does not have.

    Examples:
        >>> reasons = ml.runs.alignable(run, source=both, target=none, at="answer_start", round=1)
        >>> bool((reasons == "").all().all())
        True
    """
    places = (at,) if isinstance(at, str) else tuple(at)
    rows: dict[str, list[str]] = {}
    for one, two in paired(run, source=source, target=target, round=round, items=items):
        rows[one.item] = []
        for place in places:
            try:
                align(one, two, place, round)
            except ValueError as error:
                rows[one.item].append(str(error))
            else:
                rows[one.item].append("")
    return pd.DataFrame.from_dict(rows, orient="index", columns=list(places)).rename_axis("item")


def paired(
    run: Run, *, source: Condition, target: Condition, round: int, items: Sequence[str] | None
) -> list[tuple[Passage, Passage]]:
    """The dialogues of two conditions, item by item, up to the answer of a round.

    Items whose thoughts were cut before that answer, under either condition, are left out.

    Raises:
        ValueError: a condition, round or item that the run does not have, or no item with both answers.
    """
    both = [
        {p.item: p for p in answering(run, items=items, condition=c, round=round)} for c in (source, target)
    ]
    found = [(both[0][item], both[1][item]) for item in both[1] if item in both[0]]
    if not found:
        raise ValueError(
            f"in round {round} no item has an answer under both {source.label} and {target.label}: thoughts "
            "before it were cut. Play the run with more thinking_tokens."
        )
    return found
