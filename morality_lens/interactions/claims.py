"""Which claims an interaction of two components supports, and when it is shown to be negligible."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from scipy.special import stdtr

from morality_lens.interactions.contrasts import Pairs, at_suffix, compared_levels
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.interactions.resampling import holm

LADDER = {
    "L0": "sub-additive on the scale shown",
    "L1": "sub-additive on the additive and on the log-odds scale",
    "L2": "both together are worse than the better of the two alone",
    "L3": "interference",
}


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

    - ``L0``: both main effects are positive and the two-way is negative (intersection-union: the largest of
      three one-sided p).
    - ``L1``: L0, and the two-way is negative on the log-odds scale too. For outcomes of 0 and 1 that is the
      log-odds of cell means, for probabilities each item's logit; missing for other outcomes.
    - ``L2``: with both, the outcome is no more than ``margin`` above the better of the two alone. One of the
      two steps to both must be shown to add less than ``margin`` (twice the smaller one-sided p); with the
      default of 0 both together are worse.
    - ``L3 second|first``: interference, a simple effect that reverses its sign: ``second`` helps without
      ``first`` and hurts with it (intersection-union, p = the larger of the two one-sided).
      ``L3 first|second`` is the other way round. Only this survives every monotone rescaling (Loftus 1978).

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
        Dataset over ``claim`` and the places of ``y``: ``p``; ``p_adj``, corrected over the places (Holm),
        and ``holds``, which rests on it; the simple effects ``simple`` over ``step`` with their interval; and
        ``cell_mean`` over the two factors.

    Raises:
        ValueError: the two factors are not two of those crossed, or ``factorial_effects`` refuses ``y``.
    """
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
    effects = factorial_effects(
        chosen, factors, at=at, contrasts=weights, method="pointwise", alpha=alpha, family=()
    )
    odds = _on_log_odds(chosen, factors, at, weights, alpha)
    names = {name: f"{name}{at_suffix(at or {})}" for name in weights["effect"].values.tolist()}
    on_odds = None if odds is None else _plain_names(odds, names)
    p = _claims(first, second, _plain_names(effects, names), on_odds, margin)
    adjusted = _holm(p)
    others = [name for name in held if name not in (first, second)]
    labels = {
        "second|0": f"{second} without {first}",
        "second|1": f"{second} with {first}",
        "first|0": f"{first} without {second}",
        "first|1": f"{first} with {second}",
    }
    simple = effects.sel(effect=[names[name] for name in labels])
    simple = simple.rename(effect="step").assign_coords(step=list(labels.values()))
    kept = ("outcome", "units", "n_items", "n_clusters", "held_at", "notes")
    return xr.Dataset(
        {
            "p": p,
            "p_adj": adjusted,
            "holds": adjusted < alpha,
            "simple": simple.estimate,
            "simple_low": simple.ci_low,
            "simple_high": simple.ci_high,
            "cell_mean": effects.cell_mean.mean(others),
        },
        attrs={
            **{name: effects.attrs[name] for name in kept},
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


def _claims(
    first: str, second: str, effects: xr.Dataset, odds: xr.Dataset | None, margin: float
) -> xr.DataArray:
    """p of every claim, before it is corrected over the places."""
    below, above = _one_sided(effects)
    within = _one_sided(effects, margin)[0]

    def less(name: str) -> xr.DataArray:
        return below.sel(effect=name, drop=True)

    def more(name: str) -> xr.DataArray:
        return above.sel(effect=name, drop=True)

    l0 = _largest(more("first"), more("second"), less("both"))
    claims = {"L0": l0}
    if odds is not None:
        claims["L1"] = _largest(l0, _one_sided(odds)[0].sel(effect="both", drop=True))
    steps = [within.sel(effect=name, drop=True) for name in ("second|1", "first|1")]
    claims["L2"] = (2 * xr.concat(steps, "test").min("test")).clip(max=1.0)
    claims[f"L3 {second}|{first}"] = _largest(more("second|0"), less("second|1"))
    claims[f"L3 {first}|{second}"] = _largest(more("first|0"), less("first|1"))
    return xr.concat(list(claims.values()), "claim").assign_coords(claim=list(claims))


def describe_claims(ladder: xr.Dataset) -> str:
    """The highest claim that holds at each place, in words, with the cell means it rests on.

    Args:
        ladder: what :func:`claim_ladder` returned.
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
    margin = ladder.attrs["margin"]
    lines.append(
        f"{ladder.attrs['n_items']} items in {ladder.attrs['n_clusters']} clusters, alpha "
        f"{ladder.attrs['alpha']:g}"
        + (", p corrected over the places (Holm)" if len(spots) > 1 else "")
        + (f", a gain of up to {margin:g} counts as none" if margin else "")
        + f". {ladder.attrs['notes'][0]}"
    )
    return "\n".join(lines)


def _sentence(here: xr.Dataset, first: str, second: str) -> str:
    held = [str(claim) for claim in here.claim.values if bool(here.holds.sel(claim=claim))]
    low, high = here.attrs["levels"]
    means = here.cell_mean
    cells = "; ".join(
        f"{first} {a}, {second} {b}: {means.sel({first: a, second: b}).item():.3g}"
        for a in (low, high)
        for b in (low, high)
    )
    if not held:
        smallest = here.p_adj.min().item()
        return (
            f"no claim about {first} and {second} is supported (smallest p = {smallest:.2g}), which is not "
            f"evidence that they add up. Cell means: {cells}."
        )
    words = []
    for claim in held:
        p = f"p = {here.p_adj.sel(claim=claim).item():.2g}"
        if claim.startswith("L3"):
            moved, given = claim.removeprefix("L3 ").split("|")
            steps = [here.simple.sel(step=f"{moved} {w} {given}").item() for w in ("without", "with")]
            words.append(
                f"interference (L3, {p}): {moved} moves the outcome by {steps[0]:+.3g} without {given} and "
                f"by {steps[1]:+.3g} with it"
            )
        else:
            words.append(f"{LADDER[claim]} ({claim}, {p})")
    return f"{first} and {second}: {'; '.join(words)}. Cell means: {cells}."


def equivalence(effects: xr.Dataset, margin: float, *, alpha: float = 0.05) -> xr.Dataset:
    """Whether effects are shown to lie within a margin that was declared beforehand: two one-sided tests.

    A p above .05 does not show that an effect is absent; two one-sided tests that exclude the margin do
    (Schuirmann 1987).

    Args:
        effects: what ``factorial_effects`` returned.
        margin: the largest effect that counts as none, in units of the outcome.
        alpha: level of each claim.

    Returns:
        Dataset with ``p``, the larger of the two one-sided p; ``p_adj``, corrected over all places of an
        effect (Holm), and ``equivalent``, which rests on it; and ``p_everywhere`` by effect, that it lies
        within the margin at all its places (intersection-union, no correction needed).

    Raises:
        ValueError: the margin is not positive, or ``effects`` carry no p-values.
    """
    if not margin > 0:
        raise ValueError(
            f"equivalence needs a margin above 0, declared before the data are seen; got {margin}. Take the "
            "smallest effect that would matter, in units of the outcome."
        )
    if effects.p.isnull().all():
        raise ValueError(
            "equivalence needs effects with p-values; these carry none (see their notes): "
            + " ".join(effects.attrs["notes"][1:])
        )
    p = xr.where(
        effects.se > 0,
        np.maximum(_one_sided(effects, margin)[0], _one_sided(effects, -margin)[1]),
        xr.where(abs(effects.estimate) < margin, 0.0, 1.0),
    )
    places = [dim for dim in p.dims if dim != "effect"]
    adjusted = _holm(p, lead="effect")
    return xr.Dataset(
        {"p": p, "p_adj": adjusted, "equivalent": adjusted < alpha, "p_everywhere": p.max(places)},
        attrs={"margin": float(margin), "alpha": float(alpha), "units": effects.attrs["units"]},
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
        return marginal_log_odds(y, factors, at=at, contrasts=weights, alpha=alpha)
    if values.size and values.min() > 0 and values.max() < 1 and y.attrs.get("units") == "probability":
        return factorial_effects(
            y, factors, at=at, contrasts=weights, link="logit", method="pointwise", family=(), alpha=alpha
        )
    return None


def _one_sided(effects: xr.Dataset, bound: float = 0.0) -> tuple[xr.DataArray, xr.DataArray]:
    """p that the effect is below, and that it is above, the bound; 1 where it does not vary."""
    se, df = effects.se.values, effects.df.values
    t = np.divide(effects.estimate.values - bound, se, out=np.zeros_like(se), where=se > 0)
    there = (se > 0) & ~np.isnan(effects.p.values)
    below, above = (np.where(there, stdtr(df, sign * t), 1.0) for sign in (1, -1))
    return effects.estimate.copy(data=below), effects.estimate.copy(data=above)


def _largest(*p: xr.DataArray) -> xr.DataArray:
    return xr.concat(list(p), "test").max("test")


def _holm(p: xr.DataArray, lead: str = "claim") -> xr.DataArray:
    """Holm's step-down correction over all dims but the leading one."""
    ordered = p.transpose(lead, ...)
    flat = ordered.values.reshape(ordered.sizes[lead], -1)
    return ordered.copy(data=np.array([holm(row) for row in flat]).reshape(ordered.shape))
