"""The effect of weak evidence on answers: a partition of the items, and the share that follows it."""

from typing import Literal

import numpy as np
import xarray as xr

from morality_lens.design import Condition, said_of
from morality_lens.interactions.cube import conditions_of, factors_of
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.runs.option_notes import NOTE

PARTS = (
    "both unknown",
    "one unknown",
    "same group twice",
    "follows the evidence",
    "goes against it",
    "unreadable",
)
"""Outcomes of the answers to the two versions; each item has one of them, so that shares sum to one."""
MOVES = ("move with the evidence", "move against it")
"""What evidence can do to answers; the share that follows is the first less the second."""

Measure = Literal["probability", "choice"]


def evidence_shares(
    answers: xr.Dataset, *, measure: Measure = "probability", alpha: float = 0.05
) -> xr.Dataset:
    """Shares of the partition under weak evidence, by condition, round and strength.

    The two versions of the evidence favour one group and the other. An item is robust where both answers are
    the unknown option, stereotyped where both name the same group, and follows the evidence where each names
    the group that its evidence favours.

    Args:
        answers: from ``weak_evidence``.
        measure: ``choice``, the greedy answers; or ``probability``: the exact probability of each part if
            both answers were sampled.
        alpha: level of the intervals (CR2, by clusters, pointwise).

    Returns:
        ``estimate``, ``ci_low``, ``ci_high`` over ``part``, conditions and rounds (shares, whose intervals
        stay inside [0, 1]); ``follow_estimate`` and so on, with ``follow_p``: by how much evidence for an
        option raises its probability over evidence for the other group, mean over the two options (the share
        that follows, where all others answer as without evidence).

    Raises:
        ValueError: another measure, or conditions without answers.

    Examples:
        >>> shares = ml.experiments.evidence_shares(given)
        >>> shares["part"].values.tolist()[:4]
        ['both unknown', 'one unknown', 'same group twice', 'follows the evidence']
    """
    given = _probabilities(answers, measure)
    unknown = _pick(given, answers["unknown"])
    named = [_pick(given, answers["named"].isel(version=v, drop=True)) for v in range(2)]
    one, two = (unknown.isel(version=v) for v in range(2))
    # named[o] is the probability, under each version, of the option that version o favours
    first, second = (named[o].isel(version=0) for o in range(2))
    third, fourth = (named[o].isel(version=1) for o in range(2))
    read = [given.isel(version=v).sum("option") for v in range(2)]
    parts = {
        "both unknown": one * two,
        "one unknown": one * (read[1] - two) + (read[0] - one) * two,
        "same group twice": first * third + second * fourth,
        "follows the evidence": first * fourth,
        "goes against it": second * third,
    }
    rest = 1 - xr.concat(list(parts.values()), "part").sum("part", skipna=False)
    table = xr.concat([*parts.values(), rest], "part").assign_coords(part=list(PARTS))
    shares = mean_over_items(table, alpha=alpha, share=True)
    follow = mean_over_items(follow_cube(answers, measure), alpha=alpha, span=1.0)
    ends = {name: follow[name].clip(-1, 1) for name in ("ci_low", "ci_high")}
    follow = follow.assign(ends)
    found = xr.Dataset({**shares, **{f"follow_{name}": array for name, array in follow.items()}})
    note = answers.attrs.get(NOTE, "") if measure == "probability" else ""
    return found.assign_attrs(shares.attrs, measure=measure, **{NOTE: note})


def follow_cube(answers: xr.Dataset, measure: Measure = "probability") -> xr.DataArray:
    """The extent to which each item's answers follow the evidence: a cube for ``factorial_effects``.

    Examples:
        >>> follows = ml.factorial_effects(ml.experiments.follow_cube(given), family=())
        >>> bool((follows["ci_high"].sel(effect="instruction") < 0).all())
        True
    """
    one, two = _shifts(answers, measure)
    return _as_cube((one + two) / 2, answers, measure).rename("share that follows the evidence")


def moved_cube(answers: xr.Dataset, measure: Measure = "probability") -> xr.DataArray:
    """The extent to which the evidence moves each item's answers with it and against it, over ``part``.

    For each of the two options that a version favours: by how much its probability is higher under the
    evidence for it than under that for the other group (``move with the evidence``), or lower (``move against
    it``), mean over both options. The first less the second is :func:`follow_cube`; where half of the items
    move either way that is 0, and these two are not.

    Args:
        answers: from ``weak_evidence``.
        measure: as in :func:`evidence_shares`.

    Examples:
        >>> moved = ml.experiments.moved_cube(given)
        >>> net = moved.sel(part="move with the evidence") - moved.sel(part="move against it")
        >>> bool(abs(net - ml.experiments.follow_cube(given)).max() < 1e-9)
        True
    """
    shifts = _shifts(answers, measure)
    sign = xr.DataArray([1, -1], dims="part", coords={"part": list(MOVES)})
    one, two = ((shift * sign).clip(min=0) for shift in shifts)
    return _as_cube((one + two) / 2, answers, measure).rename("share that moves")


def _shifts(answers: xr.Dataset, measure: str) -> tuple[xr.DataArray, xr.DataArray]:
    """By how much the evidence for each of two options raises its probability over that for the other one."""
    given = _probabilities(answers, measure)
    one, two = (_pick(given, answers["named"].isel(version=v, drop=True)) for v in range(2))
    return one.isel(version=0) - one.isel(version=1), two.isel(version=1) - two.isel(version=0)


def _as_cube(cube: xr.DataArray, answers: xr.Dataset, measure: str) -> xr.DataArray:
    """With the units, and the note on the options' letters where they are measured."""
    note = str(answers.attrs.get(NOTE, "")) if measure == "probability" else ""
    return cube.assign_attrs(units="share", **({NOTE: note} if note else {}))


def dose_response(
    answers: xr.Dataset, *, measure: Measure = "probability", alpha: float = 0.05
) -> xr.Dataset:
    """The slope of the share that follows on the strength of the evidence: a line for each item.

    Returns:
        ``estimate`` (share per unit of strength), ``ci_low``, ``ci_high``, ``p``, by condition and round.

    Raises:
        ValueError: fewer than two strengths.

    Examples:
        >>> two = [
        ...     ml.experiments.Evidence(item=one.item, texts=one.texts, named=one.named, strength=strength)
        ...     for one in evidence for strength in (0.0, 1.0)
        ... ]
        >>> asked = ml.rounds.Selection(rounds=[0], conditions=[none])
        >>> twice = ml.experiments.weak_evidence(model, run, two, selection=asked, execution=quiet)
        >>> slope = ml.experiments.dose_response(twice)["estimate"]
        >>> float(slope.sel(instruction="off", cot="off", feedback="off", round=0))
        0.0
    """
    strength = answers["strength"].astype(float)
    if strength.size < 2:
        raise ValueError("dose_response needs evidence of two or more strengths; this has one.")
    centred = strength - strength.mean()
    slope = (follow_cube(answers, measure) * centred).sum("strength", skipna=False) / (centred**2).sum()
    steepest = float(abs(centred).sum() / (centred**2).sum())  # of an item that follows all or nothing
    return mean_over_items(slope, alpha=alpha, span=steepest)


def describe_evidence(shares: xr.Dataset) -> str:
    """The robust share and the share that follows, in a sentence for each condition, for the last round.

    Examples:
        >>> print(ml.experiments.describe_evidence(ml.experiments.evidence_shares(given)))
        With no component: ... of the items stay with the unknown option under both versions; ...
    """
    last = shares.isel(round=-1, strength=-1)
    lines = []
    for condition in _conditions(last):
        here = last.sel(condition.coords)
        robust = float(here["estimate"].sel(part="both unknown"))
        lines.append(
            f"With {said_of(condition)}: {robust:.0%} of the items stay with the unknown option under both "
            f"versions; {_span(here, 'follow_')} of the answers follow the evidence."
        )
    note = str(shares.attrs.get(NOTE, ""))
    return "\n".join([*lines, note] if note else lines)


def _span(here: xr.Dataset, prefix: str) -> str:
    low, high = (float(here[f"{prefix}ci_{end}"]) for end in ("low", "high"))
    return f"{float(here[f'{prefix}estimate']):.0%} [{low:.0%}, {high:.0%}]"


def _conditions(data: xr.Dataset) -> list[Condition]:
    follow = data["follow_estimate"]
    return [c for c in conditions_of(follow) if np.isfinite(float(follow.sel(c.coords)))]


def _probabilities(answers: xr.Dataset, measure: str) -> xr.DataArray:
    """The probability of every option under every version; an unparsed answer has none."""
    if measure == "probability":
        probabilities = answers["probability"]
        answered = probabilities.notnull().any("option")
        return _answered_only(probabilities.fillna(0.0).where(answered), answered)
    if measure == "choice":
        options = xr.DataArray(np.arange(answers.sizes["option"]), dims="option")
        answered = answers["choice"] >= -1
        return _answered_only((answers["choice"] == options).astype(float).where(answered), answered)
    raise ValueError(f"measure must be probability or choice; got {measure!r}.")


def _answered_only(probabilities: xr.DataArray, answered: xr.DataArray) -> xr.DataArray:
    """Without the conditions that have no answers.

    Raises:
        ValueError: a condition with answers to some items only.
    """
    some, every = answered.any("item"), answered.all("item")
    if bool((some & ~every).any()):
        raise ValueError(
            "some conditions have answers under weak evidence for some items only; repeat it with all items."
        )
    kept = probabilities
    for name in factors_of(probabilities):
        others = [d for d in some.dims if d != name]
        kept = kept.isel({name: np.flatnonzero(some.any(others).values)})
    if bool(np.isnan(kept).any()):
        raise ValueError(
            "these conditions do not form a grid of levels; select conditions, one factor at a time, or give "
            "weak evidence in all of them."
        )
    return kept


def _pick(probabilities: xr.DataArray, option: xr.DataArray) -> xr.DataArray:
    """The probability of one option, which differs between items (and strengths)."""
    return probabilities.isel(option=option).drop_vars("option", errors="ignore")
