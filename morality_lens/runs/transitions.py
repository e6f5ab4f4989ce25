"""How answers change between rounds: counts from each outcome to each, by condition."""

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from morality_lens.items.kinds import Item, Question
from morality_lens.runs.run import Run

By = Literal["outcome", "role"]
UNPARSED = "unparsed"
OUTCOMES = ("right", "wrong", UNPARSED)
ROLES = {"biased": "stereotyped", "unknown": "unknown", "other": "counter-stereotyped"}
"""What options are called here: the one that follows the stereotype, the one that says the answer cannot be
known, and the remaining one."""


def answer_transitions(
    run: Run, *, by: By = "outcome", pairs: Sequence[tuple[int, int]] | None = None
) -> pd.DataFrame:
    """How many dialogues went from each kind of answer to each, between two rounds of each condition.

    Args:
        run: a run of questions or ratings.
        by: ``outcome``: right, wrong or unparsed, and where no reply is the right one the reply itself;
            ``role``: of the chosen option (stereotyped, unknown, counter-stereotyped) or unparsed, for the
            questions that name the stereotyped option and have one other beside the unknown one.
        pairs: an earlier and a later round each; None takes every round and the next.

    Returns:
        One row for each condition, pair of rounds, and kinds of answer before and after (also where none
        went that way). Columns: the factors' levels, ``condition`` (their label), ``before`` and ``round``
        (the two rounds), ``from`` and ``to``, ``n``, ``share`` (of those with the same ``from``; NaN where
        there are none) and ``missing`` (dialogues left out, because one of the two answers is not there).
        ``attrs`` hold the ``kinds`` in their order, and ``items``, how many items were counted.

    Raises:
        ValueError: free text, which is of no kind; no question with roles; or a round that the run lacks.

    Examples:
        >>> flow = ml.runs.answer_transitions(run, pairs=[(0, 2)])
        >>> flow.attrs["kinds"]
        ('right', 'wrong', 'unparsed')
        >>> int(flow["n"].sum()) == 8 * len(items)
        True
    """
    kinds, items = _kinds(run, by)
    wanted = list(itertools.pairwise(range(run.design.n_rounds))) if pairs is None else list(pairs)
    strange = [n for pair in wanted for n in pair if not 0 <= n < run.design.n_rounds]
    if strange or not wanted:
        raise ValueError(
            f"answers change between two rounds of 0 to {run.design.n_rounds - 1}; got "
            f"{pairs or 'one round'}."
        )
    wide = _kind_by_round(run, by, items)
    names, rows = list(run.design.names), []
    for condition in run.design.conditions:
        own = wide.loc[tuple(condition.coords[name] for name in names)]
        for before, after in wanted:
            rows += [
                {**condition.coords, "condition": condition.label, "before": before, "round": after, **row}
                for row in _counted(own[before].to_numpy(object), own[after].to_numpy(object), kinds)
            ]
    found = pd.DataFrame(rows)
    found.attrs.update(kinds=kinds, items=len(items), by=by)
    return found


def _kinds(run: Run, by: By) -> tuple[tuple[str, ...], list[str]]:
    """The kinds of answers in their order, and the ids of the items whose answers are counted."""
    items = run.asked
    if not all(item.replies for item in items.values()):
        raise ValueError(
            "free text is neither right nor wrong, so there are no transitions between kinds of answers; "
            "a judge's scores change by degrees (cell means over rounds show how)."
        )
    if by not in get_args(By):
        raise ValueError(f"answer_transitions counts by one of {get_args(By)}; got {by!r}.")
    if by == "role":
        with_roles = [name for name, item in items.items() if has_roles(item)]
        if not with_roles:
            raise ValueError("no question of this run names its stereotyped option; take by='outcome'.")
        return (*ROLES.values(), UNPARSED), with_roles
    if run.names_good:
        return OUTCOMES, list(items)
    return (*max((item.replies for item in items.values()), key=len), UNPARSED), list(items)


def answer_kinds(run: Run, by: By = "outcome") -> tuple[tuple[str, ...], list[str], np.ndarray]:
    """The kinds of answers, the items that are counted, and the kind of each of their answers as its number.

    Args:
        run: a run of questions or ratings.
        by: as in :func:`answer_transitions`.

    Returns:
        The kinds in their order; the ids of the items; item x factors x round, -1 where there is no answer.

    Raises:
        ValueError: free text, or no question with roles.
    """
    kinds, items = _kinds(run, by)
    wide = _kind_by_round(run, by, items)
    number = {kind: n for n, kind in enumerate(kinds)}
    codes = np.array([[number.get(kind, -1) for kind in row] for row in wide.to_numpy(object)])
    codes = codes.reshape(*map(len, run.design.levels.values()), len(items), -1)
    return kinds, items, np.moveaxis(codes, -2, 0)


def has_roles(item: Item) -> bool:
    """Whether an item's options are a stereotyped one, one other, and at most an unknown one beside them."""
    if not isinstance(item, Question) or item.biased is None:
        return False
    return len(item.options) - (item.unknown is not None) == 2


def _kind_by_round(run: Run, by: By, items: Sequence[str]) -> pd.DataFrame:
    """The kind of each answer: a row for each condition and item, a column for each round; NaN for none."""
    table = run.answers
    table = table.loc[table["item"].isin(items)]
    names = list(run.design.names)
    keyed = table[[*names, "item", "round"]].assign(kind=_kind(run, by, table))
    wide = keyed.set_index([*names, "item", "round"])["kind"].unstack("round")
    every = pd.MultiIndex.from_product([*run.design.levels.values(), items], names=[*names, "item"])
    return wide.sort_index().reindex(index=every, columns=range(run.design.n_rounds))


def _kind(run: Run, by: By, table: pd.DataFrame) -> np.ndarray:
    """The kind of each answer of a table."""
    parsed = table["parsed"].eq(True).to_numpy(dtype=bool)
    if by == "role":
        named = np.array([ROLES.get(str(role)) for role in table["role"]], dtype=object)
    elif run.names_good:
        named = np.where(table["correct"].eq(True).to_numpy(dtype=bool), "right", "wrong").astype(object)
    else:
        signs = [run.asked[name].replies for name in table["item"]]
        choices = table["choice"].fillna(0).astype(int)
        named = np.array([own[c] for own, c in zip(signs, choices, strict=True)], dtype=object)
    return np.where(parsed, named, UNPARSED)


def _counted(before: np.ndarray, after: np.ndarray, kinds: Sequence[str]) -> list[dict]:
    """Numbers and shares of the ways between two rounds, dialogues with both answers alone."""
    there = pd.notna(before) & pd.notna(after)
    rows = []
    for one in kinds:
        of = there & (before == one)
        for other in kinds:
            n = int((of & (after == other)).sum())
            share = n / of.sum() if of.any() else np.nan
            rows.append({"from": one, "to": other, "n": n, "share": share, "missing": int((~there).sum())})
    return rows
