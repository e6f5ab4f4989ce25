"""Which claims an interaction of two components supports, and when it is shown to be negligible."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from morality_lens.interactions.carried import without_refits
from morality_lens.interactions.contrasts import Pairs, at_suffix, compared_levels
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.describing import POSITION, corrected_p, warnings_in
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.fractions import generated_of
from morality_lens.interactions.intervals import one_sided
from morality_lens.interactions.numbers import is_p, number, signed
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.interactions.refitted import resolve_refits
from morality_lens.interactions.resampling import holm

LADDER = {
    "L0": "sub-additive on the scale shown",
    "L1": "sub-additive on the additive and on the log-odds scale",
    "L2": "both together are worse than the better of the two alone",
    "L3": "interference",
}
WITHIN = "both together are no more than {margin:g} above the better of the two alone"
"""What L2 shows with a margin."""


def claim_ladder(
    y: xr.DataArray,
    first: str = "instruction",
    second: str = "feedback",
    *,
    factors: Sequence[str] | None = None,
    at: Mapping[str, str] | None = None,
    levels: tuple[str, str] = ("off", "on"),
    margin: float = 0.0,
    alpha: float = 0.05,
) -> xr.Dataset:
    """Which claims about two components hold, from the weakest to the one that survives every rescaling.

    - ``L0``: both main effects are positive and the two-way is negative (intersection-union: the largest p of
      the three).
    - ``L1``: L0, and the two-way is negative on the log-odds scale too. For outcomes of 0 and 1 that is the
      log-odds of cell means, for probabilities each item's logit; missing for other outcomes.
    - ``L2``: with both, the outcome is no more than ``margin`` above the better of the two alone. One of the
      two steps to both must be shown to add less than ``margin`` (twice the smaller one-sided p); with the
      default of 0 both together are worse.
    - ``L3 second|first``: interference, a simple effect that reverses its sign: ``second`` helps without
      ``first`` and hurts with it (intersection-union, p = the larger of the two).
      ``L3 first|second`` is the other way round. Only this survives every monotone rescaling (Loftus 1978).

    The inference is that of ``factorial_effects`` and :func:`describe` with the same ``y``: max-|t| over
    rounds and layers, two-sided, a claim counting where the sign is the claimed one. So L0 holds exactly
    where ``describe`` calls the two-way sub-additive. Log-odds of cell means have no max-|t|; there L1 is
    corrected over the places by Holm. With fewer than 8 clusters and several places nothing is claimed.

    Other factors are averaged over the two levels, unless ``at`` holds them.

    Args:
        y: as ``factorial_effects`` takes it; the higher the better.
        first: a factor.
        second: another one.
        factors: all factors of ``y`` that are to be averaged over or held; None takes all it has.
        at: levels at which other factors are held.
        levels: the level without and the level with a component; ("placebo", "on") makes the
            claims about the content.
        margin: the largest gain that counts as none, in units of ``y``.
        alpha: level of every claim.

    Returns:
        Dataset over ``claim`` and the places of ``y``: ``p``, one-sided at each place; ``p_adj``, two-sided
        and corrected over the places, and ``holds`` (``p_adj`` at most ``alpha``); the simple effects
        ``simple`` over ``step`` with their pointwise interval; ``constant``, whether an effect there is the
        same non-zero number in every cluster; and ``cell_mean`` over the two factors. A p is NaN where
        ``factorial_effects`` gives none.

    Raises:
        ValueError: the two factors are not two of those crossed, the margin is negative or not finite, or
            ``factorial_effects`` refuses ``y``.

    Examples:
        >>> ladder = ml.interactions.claim_ladder(correct.sel(round=2))
        >>> ladder["claim"].values.tolist()
        ['L0', 'L1', 'L2', 'L3 feedback|instruction', 'L3 instruction|feedback']
    """
    if not 0 <= margin < math.inf:
        raise ValueError(
            "claim_ladder needs a finite margin of 0 or more, declared before the data are seen; got "
            f"{margin}. Take the largest gain that counts as none, in units of y."
        )
    if generated := generated_of(y):
        raise ValueError(
            f"claim_ladder compares single conditions, and in this fraction of a design they differ in "
            f"{', '.join(generated)} too; play every combination for claims about an interaction."
        )
    factors = factors_of(y) if factors is None else factors
    held = tuple(name for name in factors if name not in (at or {}))
    if first == second or first not in held or second not in held:
        raise ValueError(
            f"claim_ladder needs two different factors that are crossed and not held; got {first!r} and "
            f"{second!r} among {held}. Name them as first=..., second=..."
        )
    pairs = _pairs_of_ladder(y, held, levels)
    weights = _steps(first, second, pairs)
    chosen = y.sel({name: list(pair) for name, pair in pairs.items()})
    names = {name: f"{name}{at_suffix(at or {})}" for name in weights["effect"].values.tolist()}
    effects = factorial_effects(chosen, factors, at=at, contrasts=weights, alpha=alpha)
    within, odds = effects, _on_log_odds(chosen, factors, at, weights, alpha)
    if margin:
        both = {name: pairs[name][1] for name in (first, second)}
        refits, _ = resolve_refits(chosen, None)
        lowered = _lowered(chosen, both, margin)
        if refits is not None:  # those that lowered carries are of what was not lowered
            lowered = lowered.drop_attrs(deep=False).assign_attrs(without_refits(chosen.attrs))
            refits = _lowered(refits, both, margin)
        within = factorial_effects(lowered, factors, at=at, contrasts=weights, alpha=alpha, refits=refits)
        # A step that is the same in every cluster says nothing of others, wherever the margin lies.
        within = within.assign({name: within[name].where(effects.se > 0) for name in ("p", "p_adj")})
    tests = _Tests(
        plain=_plain_names(effects, names),
        within=_plain_names(within, names),
        odds=None if odds is None else _plain_names(odds, names),
    )
    adjusted = _claims(first, second, tests, one=_adjusted, two=_adjusted)
    others = [name for name in held if name not in (first, second)]
    labels = {
        "second|0": f"{second} without {first}",
        "second|1": f"{second} with {first}",
        "first|0": f"{first} without {second}",
        "first|1": f"{first} with {second}",
    }
    simple = effects.sel(effect=[names[name] for name in labels])
    simple = simple.rename(effect="step").assign_coords(step=list(labels.values()))
    kept = ("outcome", "units", "n_items", "n_clusters", "held_at", "method", "method_reason", "family")
    return xr.Dataset(
        {
            "p": _claims(first, second, tests, one=_one_sided, two=_two_sided),
            "p_adj": adjusted,
            "holds": adjusted <= alpha,
            "simple": simple.estimate,
            "simple_low": simple.ci_low,
            "simple_high": simple.ci_high,
            "constant": ((effects.se == 0) & (effects.estimate != 0)).any("effect"),
            "cell_mean": effects.cell_mean.mean(others),
        },
        attrs={
            **{name: effects.attrs[name] for name in kept},
            "notes": [_in_words(note, labels, first, second) for note in effects.attrs["notes"]],
            "vouch": _in_words(effects.attrs["vouch"], labels, first, second),
            "first": first,
            "second": second,
            "levels": list(levels),
            "margin": float(margin),
            "alpha": float(alpha),
        },
    )


def _pairs_of_ladder(y: xr.DataArray, held: Sequence[str], levels: tuple[str, str]) -> Pairs:
    """The two levels of every factor: ``levels`` where it has them, else its usual ones."""
    usual = compared_levels(held, "total", y)
    own = {name: set(levels) <= set(y[name].values.tolist()) for name in held if name in y.coords}
    return {name: levels if own.get(name, True) else usual[name] for name in held}


def _plain_names(effects: xr.Dataset, names: Mapping[str, str]) -> xr.Dataset:
    """The effects under the names of :func:`_steps`, without the levels that are held."""
    return effects.sel(effect=list(names.values())).assign_coords(effect=list(names))


def _in_words(text: str, labels: Mapping[str, str], first: str, second: str) -> str:
    """A note of ``factorial_effects``, in which the steps of the ladder are called by the components."""
    called = {**labels, "first": first, "second": second, "both": f"{first}:{second}"}
    listed = re.compile(r"(?:(?<=\()|(?<=[,:] ))(" + "|".join(map(re.escape, called)) + r")(?=[@,) ])")
    return listed.sub(lambda found: called[found[0]], text)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tests:
    """The tests a ladder rests on, under the names of :func:`_steps`.

    Attributes:
        plain: effects on the scale shown.
        within: the same where both together have lost the margin.
        odds: effects on the log-odds scale, where the outcome has one.
    """

    plain: xr.Dataset
    within: xr.Dataset
    odds: xr.Dataset | None


Reading = Callable[[xr.Dataset, str, int], xr.DataArray]
"""p that an effect has a sign: of a result, by name and sign."""


def _lowered(y: xr.DataArray, both: Mapping[str, str], margin: float) -> xr.DataArray:
    """``y`` less the margin in the cells that have both components, so that 0 is tested for the margin."""
    there = xr.DataArray(1.0)
    for name, level in both.items():
        there = there * (y[name] == level)
    return (y - margin * there).transpose(*y.dims).assign_attrs(y.attrs).rename(y.name)


def _one_sided(effects: xr.Dataset, name: str, sign: int) -> xr.DataArray:
    """p of the side, at each place: half the two-sided one, or what it lacks to 1."""
    here = effects.sel(effect=name, drop=True)
    return (here.p / 2).where(sign * here.estimate > 0, 1 - here.p / 2)


def _of_sign(p: xr.DataArray, estimate: xr.DataArray, sign: int) -> xr.DataArray:
    """p where the estimate has the sign, 1 where it has the other one; a missing p stays missing."""
    return p.where((sign * estimate > 0) | p.isnull(), 1.0)


def _two_sided(effects: xr.Dataset, name: str, sign: int) -> xr.DataArray:
    """Two-sided p at each place; 1 where the sign is the other one."""
    here = effects.sel(effect=name, drop=True)
    return _of_sign(here.p, here.estimate, sign)


def _adjusted(effects: xr.Dataset, name: str, sign: int) -> xr.DataArray:
    """Two-sided p, corrected over the places; 1 where the sign is the other one."""
    here = effects.sel(effect=name, drop=True)
    return _of_sign(corrected_p(here), here.estimate, sign)


def _claims(first: str, second: str, tests: _Tests, *, one: Reading, two: Reading) -> xr.DataArray:
    """p of every claim.

    Args:
        first: a factor.
        second: another one.
        tests: what the claims rest on.
        one: how a claim reads the p of each thing it needs.
        two: how it reads the p of each of two things of which one is enough.
    """

    def less(name: str) -> xr.DataArray:
        return one(tests.plain, name, -1)

    def more(name: str) -> xr.DataArray:
        return one(tests.plain, name, 1)

    claims = {"L0": _largest(more("first"), more("second"), less("both"))}
    if tests.odds is not None:
        claims["L1"] = _largest(claims["L0"], one(tests.odds, "both", -1))
    steps = [two(tests.within, name, -1) for name in ("second|1", "first|1")]
    claims["L2"] = xr.concat(steps, "test").min("test")
    claims[f"L3 {second}|{first}"] = _largest(more("second|0"), less("second|1"))
    claims[f"L3 {first}|{second}"] = _largest(more("first|0"), less("first|1"))
    return xr.concat(list(claims.values()), "claim").assign_coords(claim=list(claims))


def describe_claims(ladder: xr.Dataset) -> str:
    """The highest claim that holds at each place, in words, with the cell means it rests on.

    Args:
        ladder: what :func:`claim_ladder` returned.

    Examples:
        >>> ladder = ml.interactions.claim_ladder(correct.sel(round=2))
        >>> print(ml.interactions.describe_claims(ladder))
        instruction and feedback: sub-additive on the scale shown (L0, p ...
        16 items in 16 clusters, alpha 0.05, ...
    """
    first, second = ladder.attrs["first"], ladder.attrs["second"]
    places = ladder.p.isel(claim=0).stack(place=[...]) if ladder.p.ndim > 1 else None
    spots = (
        [{}]
        if places is None
        else [dict(zip(ladder.p.dims[1:], key, strict=True)) for key in places.place.values]
    )
    lines = []
    for spot in spots:
        here = ladder.sel(spot)
        head = ", ".join(f"{dim} {label}" for dim, label in spot.items())
        lines.append((f"{head}: " if head else "") + _sentence(here, first, second))
    attrs = ladder.attrs
    corrected = attrs["method"] != "pointwise"
    over = f", p corrected over {attrs['family']} (max-|t|)" if corrected else ""
    within = f", a gain of up to {attrs['margin']:g} counts as none" if attrs["margin"] else ""
    said = " ".join(filter(None, (attrs["notes"][0], *warnings_in(attrs), attrs["vouch"])))
    lines.append(
        f"{attrs['n_items']} items in {attrs['n_clusters']} clusters, alpha {attrs['alpha']:g}{over}{within}."
        f" {said}"
    )
    return "\n".join(lines)


def _sentence(here: xr.Dataset, first: str, second: str) -> str:
    held = [str(claim) for claim in here.claim.values if bool(here.holds.sel(claim=claim))]
    low, high = here.attrs["levels"]
    means = here.cell_mean
    cells = "; ".join(
        f"{first} {a}, {second} {b}: {number(means.sel({first: a, second: b}).item())}"
        for a in (low, high)
        for b in (low, high)
    )
    cells += f". Warning: {POSITION}" if bool(here.constant) else ""
    if not held:
        return f"{_nothing(here, first, second)} Cell means: {cells}."
    words = []
    for claim in held:
        p = is_p(here.p_adj.sel(claim=claim).item())
        if claim.startswith("L3"):
            moved, given = claim.removeprefix("L3 ").split("|")
            steps = [here.simple.sel(step=f"{moved} {w} {given}").item() for w in ("without", "with")]
            words.append(
                f"interference (L3, {p}): {moved} moves the outcome by {signed(steps[0])} "
                f"without {given} and by {signed(steps[1])} with it"
            )
        else:
            margin = here.attrs["margin"]
            shown = WITHIN.format(margin=margin) if claim == "L2" and margin else LADDER[claim]
            words.append(f"{shown} ({claim}, {p})")
    return f"{first} and {second}: {'; '.join(words)}. Cell means: {cells}."


def _nothing(here: xr.Dataset, first: str, second: str) -> str:
    """Why there is no claim at a place: no p, no corrected one, or none that is small enough."""
    smallest = here.p_adj.min().item()
    if here.p.isnull().all():
        return f"no claim about {first} and {second} is made, as there is no p here (see below)."
    if np.isnan(smallest):
        return (
            f"no claim about {first} and {second} is made, as there is no corrected p "
            f"({here.attrs['method_reason']})."
        )
    return (
        f"no claim about {first} and {second} is supported (smallest {is_p(smallest)}), which is not "
        "evidence that they add up."
    )


def equivalence(effects: xr.Dataset, margin: float, *, alpha: float = 0.05) -> xr.Dataset:
    """Whether effects are shown to lie within a margin that was declared beforehand: two one-sided tests.

    A p above .05 does not show that an effect is absent; two one-sided tests that exclude the margin do
    (Schuirmann 1987). Where every cluster has the same effect there is no standard error and so no test:
    what never changed in a few items may change in others.

    Args:
        effects: what ``factorial_effects`` or ``marginal_log_odds`` returned.
        margin: the largest effect that counts as none, in units of the outcome.
        alpha: level of each claim.

    Returns:
        Dataset with ``p``, the larger of the two one-sided p; ``p_adj``, corrected over all places of an
        effect (Holm), and ``equivalent``, which rests on it; and ``p_everywhere`` by effect, that it lies
        within the margin at all its places (intersection-union, no correction needed; NaN if one of them
        has no p). ``attrs["note"]`` counts the places without a p, and is empty where all have one.

    Raises:
        ValueError: the margin is not positive and finite, or ``effects`` carry no p-values or no standard
            error.

    Examples:
        >>> same = ml.interactions.equivalence(effects, 0.5)
        >>> place = {"site": "answer_start", "layer": 3, "round": 2}
        >>> bool(same["equivalent"].sel(effect="instruction", **place))
        True
    """
    if not 0 < margin < math.inf:
        raise ValueError(
            f"equivalence needs a finite margin above 0, declared before the data are seen; got {margin}. "
            "Take the smallest effect that would matter, in units of the outcome."
        )
    if effects.p.isnull().all():
        raise ValueError(
            "equivalence needs effects with p-values; these carry none (see their notes): "
            + " ".join(effects.attrs["notes"][1:])
        )
    varies = (effects.se > 0) & effects.p.notnull()
    if not varies.any():
        raise ValueError(
            "equivalence needs effects that vary between clusters; got a standard error of 0, or no p, at "
            f"all {varies.size} places. That nothing moved in these clusters does not show that little would "
            "in others: add items, or read the interval of factorial_effects."
        )
    sides = xr.concat([one_sided(effects, margin)[0], one_sided(effects, -margin)[1]], "side")
    p = sides.max("side", skipna=False).where(varies)
    places = [dim for dim in p.dims if dim != "effect"]
    adjusted = _holm(p)
    without = int((~varies).sum())
    note = (
        f"At {without} of {varies.size} places there is no p, as the effect is the same in every cluster or "
        "its p is withheld: nothing is claimed there."
    )
    return xr.Dataset(
        {
            "p": p,
            "p_adj": adjusted,
            "equivalent": adjusted <= alpha,
            "p_everywhere": p.max(places, skipna=False),
        },
        attrs={
            "margin": float(margin),
            "alpha": float(alpha),
            "units": str(effects.attrs.get("units", "")),
            "note": note if without else "",
        },
    )


def _steps(first: str, second: str, pairs: Pairs) -> xr.DataArray:
    """Weights of the main effects, the two-way, and the four steps of one factor at a level of the other."""
    kinds = {
        "first": ([-1, 1], [0.5, 0.5]),
        "second": ([0.5, 0.5], [-1, 1]),
        "both": ([-1, 1], [-1, 1]),
        "second|0": ([1, 0], [-1, 1]),
        "second|1": ([0, 1], [-1, 1]),
        "first|0": ([-1, 1], [1, 0]),
        "first|1": ([-1, 1], [0, 1]),
    }
    rows = []
    for one, two in kinds.values():
        row = xr.DataArray(1.0)
        for name, pair in pairs.items():
            weights = one if name == first else two if name == second else [0.5, 0.5]
            row = row * xr.DataArray(np.array(weights, dtype=float), dims=name, coords={name: list(pair)})
        rows.append(row)
    return xr.concat(rows, "effect").assign_coords(effect=list(kinds))


def _on_log_odds(
    y: xr.DataArray,
    factors: Sequence[str],
    at: Mapping[str, str] | None,
    weights: xr.DataArray,
    alpha: float,
) -> xr.Dataset | None:
    """The same contrasts on the log-odds scale where the outcome has one."""
    values = y.values[np.isfinite(y.values)]
    if np.isin(values, (0.0, 1.0)).all():
        odds = marginal_log_odds(y, factors, at=at, contrasts=weights, alpha=alpha)
        return odds.assign(p_adj=_holm(odds.p))
    if values.size and values.min() > 0 and values.max() < 1 and y.attrs.get("units") == "probability":
        return factorial_effects(y, factors, at=at, contrasts=weights, link="logit", alpha=alpha)
    return None


def _largest(*p: xr.DataArray) -> xr.DataArray:
    """The largest p; NaN where one is missing."""
    return xr.concat(list(p), "test").max("test", skipna=False)


def _holm(p: xr.DataArray) -> xr.DataArray:
    """Holm's correction over all places of each effect; a missing p counts as a test and stays missing."""
    ordered = p.transpose("effect", ...)
    flat = ordered.fillna(1.0).values.reshape(ordered.sizes["effect"], -1)
    found = ordered.copy(data=np.array([holm(row) for row in flat]).reshape(ordered.shape))
    return found.where(ordered.notnull())
