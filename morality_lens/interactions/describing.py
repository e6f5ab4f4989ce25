"""Plain sentences about factorial effects, and the control at round 0."""

import itertools
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from morality_lens.interactions.names import effect_called, factors_in, main_effects_of
from morality_lens.interactions.numbers import bounds, decimals, is_p, number, ranges, signed
from morality_lens.interactions.refitted import REFUSED

POSITION = "an effect here is the same non-zero number in every cluster, a signature of position or template"
"""Of a place where an effect does not vary though it is not zero."""
SPOKEN = ("Repeated items:", REFUSED, "No p-values and no intervals:")
"""How the notes begin that concern every sentence."""
WHERE = ("round", "layer")
"""Dims within which a sentence says where an effect is; each index of the others has its own sentence."""


def describe(
    effects: xr.Dataset,
    effect: str | Sequence[str] | None = None,
    alpha: float | None = None,
    site: str | None = None,
) -> str:
    """What the data say about effects, in sentences, and no more than that.

    Extents ("layers 3 to 5") come from max-|t| p only: with the alpha of ``effects`` exactly the places
    whose band excludes 0. The text names sign, place, size with band, scale, clusters and what the result is
    conditional on; places without a p (layers whose direction is refused) are counted apart, and the reason
    is given at the end. A negative two-way comes with the cell means of the place that is told. It is called
    sub-additive where ``claim_ladder`` of the same numbers claims L0: where it is negative and both
    components raise the outcome, each by its own adjusted p.

    Args:
        effects: what ``factorial_effects`` or ``marginal_log_odds`` returned (the latter pointwise).
        effect: one of its effects, for example ``instruction:feedback`` (its factors in any order), or
            several; None describes all.
        alpha: threshold for the adjusted p; the one of ``effects`` when None. Bands keep theirs.
        site: the only site to speak of; every site when None.

    Raises:
        ValueError: an effect or a site that is not there, or no effect at all.

    Examples:
        >>> here = effects.sel(layer=[3], round=[2])
        >>> print(ml.describe(here, "instruction", site="answer_start"))
        instruction, site answer_start: positive at round 2 (layer 3) ...
        Effects of projection on the difference scale, in moral-immoral gap; 16 items in 16 clusters; ...
    """
    effects = _with_family(effects)
    known = effects.effect.values
    asked = known if effect is None else [effect] if isinstance(effect, str) else effect
    names = [effect_called(str(name), np.atleast_1d(known), "describe") for name in np.atleast_1d(asked)]
    if not names:
        raise ValueError(
            f"describe needs at least one effect; got none. Choose among {np.atleast_1d(known).tolist()}, or "
            "leave effect out for all."
        )
    effects = _at_site(effects if "effect" in effects.dims else effects.expand_dims("effect"), site)
    level = float(effects.attrs["alpha"]) if alpha is None else alpha
    apart = [dim for dim in effects.estimate.dims if dim not in (*WHERE, "effect")]
    apart.sort(key=lambda dim: (dim != "site", str(dim)))  # one order, whatever that of the dims
    indices = list(itertools.product(*(range(effects.sizes[dim]) for dim in apart)))
    panels = [effects.isel(dict(zip(apart, index, strict=True))) for index in indices]
    lines = [_panel(panel, name, level) for name in names for panel in panels]
    aliases = effects.attrs.get("aliases", {})
    told = [f"{name} is not to be told from {aliases[name]} here." for name in names if name in aliases]
    return "\n".join([*lines, *told, _footing(effects)])


def _with_family(effects: xr.Dataset) -> xr.Dataset:
    """Effects as ``factorial_effects`` gives them, where they come without families (log-odds of means)."""
    if "p_adj" in effects:
        return effects
    absent = dict.fromkeys(("p_adj", "band_low", "band_high"), xr.full_like(effects.p, np.nan))
    made = {"units": "", "method": "pointwise", "method_reason": effects.attrs["method"], "family": ""}
    notes = ["Conditional on one wording of the components.", *effects.attrs["notes"]]
    return effects.assign(absent).assign_attrs(made, notes=notes)


def _at_site(effects: xr.Dataset, site: str | None) -> xr.Dataset:
    """The effects at one site, or all of them.

    Raises:
        ValueError: there is no such site.
    """
    if site is None:
        return effects
    there = np.atleast_1d(effects.coords["site"].values) if "site" in effects.coords else []
    sites = [str(name) for name in there]
    if site not in sites:
        raise ValueError(f"describe needs one of the sites {sites}; got {site!r}.")
    return effects.sel(site=[site]) if "site" in effects.dims else effects


def negative_control(effects: xr.Dataset, early: Sequence[str] = ()) -> dict[str, str | float | bool]:
    """The largest effect at round 0, where under greedy decoding every effect is exactly zero.

    Args:
        effects: what ``factorial_effects`` returned.
        early: factors that speak before the first answer; effects of them alone are no control.

    Returns:
        ``largest`` (|estimate|), ``effect`` that has it, ``exactly_zero``, and a ``sentence``.

    Raises:
        ValueError: ``effects`` has no round 0.

    Examples:
        >>> print(ml.interactions.negative_control(effects)["sentence"])
        At round 0 every effect is exactly zero, as it must be under greedy decoding.
    """
    if "round" not in effects.coords or 0 not in np.atleast_1d(effects.coords["round"].values):
        raise ValueError(
            "negative_control needs effects at round 0; got none. Keep round 0 in what factorial_effects "
            "is given."
        )
    first = effects.estimate.sel(round=0) if "round" in effects.dims else effects.estimate
    late = [name for name in first.effect.values.tolist() if not set(factors_in(name)) <= set(early)]
    first = first.sel(effect=late)
    if not late:
        return {
            "largest": 0.0,
            "effect": "",
            "exactly_zero": False,
            "sentence": "Every factor speaks before the first answer, so round 0 is no control.",
        }
    per_effect = np.abs(first).max([dim for dim in first.dims if dim != "effect"])
    largest = float(per_effect.max())
    name = str(per_effect.effect.values[int(np.argmax(per_effect.values))])
    if largest == 0:
        which = f"every effect but those of {', '.join(early)} alone" if early else "every effect"
        sentence = f"At round 0 {which} is exactly zero, as it must be under greedy decoding."
    else:
        sentence = (
            f"At round 0 the largest effect is {number(largest)} ({name}), not exactly zero: the conditions "
            "did not share one round 0 (sampling, or cells run apart), so later rounds start from "
            "different answers."
        )
    return {"largest": largest, "effect": name, "exactly_zero": largest == 0, "sentence": sentence}


def _panel(panel: xr.Dataset, effect: str, alpha: float) -> str:
    """The sentences about one effect at one site (or one index of any other dim)."""
    chosen = panel.sel(effect=effect)
    fixed = {part.partition("=")[0] for part in chosen.attrs["held_at"].split(",")} | {"effect"}
    places = [(dim, c.item()) for dim, c in chosen.coords.items() if c.ndim == 0 and dim not in fixed]
    places.sort(key=lambda place: ("site", "axis").index(place[0]) if place[0] in ("site", "axis") else 2)
    held = [f"{dim} {value}" for dim, value in places]
    head = ", ".join([effect, *held]) + ": "
    judged = chosen.se.notnull().values
    estimate, se = (np.where(judged, chosen[name].values, 0.0) for name in ("estimate", "se"))
    if judged.any() and not np.any(estimate) and not np.any(se):
        return f"{head}exactly zero{_everywhere(chosen, 'all')}{_room(chosen)}."
    corrected = chosen.p_adj.notnull().any().item()
    found = _found(chosen, alpha)
    t = np.divide(np.abs(estimate), se, out=np.zeros_like(estimate), where=se > 0)
    parts = [_extent(chosen, found, alpha, corrected=corrected)]
    if t.any():
        parts.append(f"The largest |t| {_place(chosen, t)}: {_size(chosen, t, corrected=corrected)}.")
    parts += _sub_additivity(panel, effect, alpha)
    constant = int(np.count_nonzero((se == 0) & (estimate != 0)))
    if constant:
        parts.append(
            f"Warning: at {constant} of {np.count_nonzero(judged)} places the effect is the same non-zero "
            "number in every cluster, a signature of position or template."
        )
    return head + " ".join(parts)


def corrected_p(chosen: xr.Dataset) -> xr.DataArray:
    """The p on which a claim about one effect may rest, NaN where there is none.

    The adjusted one; without any, the pointwise p of an effect that has one place only, as the best of many
    uncorrected tests proves nothing.
    """
    alone = chosen.p.size == 1 and not chosen.p_adj.notnull().any()
    return chosen.p if alone else chosen.p_adj


def _found(chosen: xr.Dataset, alpha: float) -> np.ndarray:
    """Where an effect is distinguishable from zero."""
    return np.asarray(np.nan_to_num(corrected_p(chosen).values, nan=2.0) <= alpha)


def _room(chosen: xr.Dataset) -> str:
    """What an effect of zero in every item leaves possible."""
    judged = chosen.se.notnull()
    names = (
        ("band_low", "band_high")
        if bool((chosen.band_low.notnull() | ~judged).all())
        else ("ci_low", "ci_high")
    )
    low, high = float(chosen[names[0]].min()), float(chosen[names[1]].max())
    if not high > low:
        return ""
    return f" in every item played, which leaves room for {bounds(low, high, signed=True)} in others"


def _extent(chosen: xr.Dataset, found: np.ndarray, alpha: float, *, corrected: bool) -> str:
    """Where the adjusted p is at most alpha, by sign."""
    if not corrected and not chosen.p.notnull().any():
        return "no p-values are given (see the notes), so nothing is claimed."
    if not corrected:
        return f"no family-corrected p ({chosen.attrs['method_reason']}), so no extent is claimed."
    if not found.any():
        smallest = float(np.nanmin(chosen.p_adj.values))
        return (
            f"not distinguishable from zero{_everywhere(chosen, 'any')} (smallest max-|t| "
            f"{is_p(smallest, draws=_draws(chosen, True))}), which is not evidence of no effect."
        )
    words = []
    for sign, name in ((1, "positive"), (-1, "negative")):
        mask = np.asarray(found & (np.sign(chosen.estimate.values) == sign))
        if mask.any():
            words.append(f"{name}{_spots(chosen, mask)}")
    unjudged = int(chosen.se.isnull().sum())
    apart = f", {unjudged} of the {chosen.se.size} places have no p" if unjudged else ""
    return f"{'; '.join(words)} (max-|t| p at most {alpha:g}{apart})."


def _spots(chosen: xr.Dataset, mask: np.ndarray) -> str:
    """`` at round 1 (layers 3 to 5), round 2 (layer 4)``; empty without rounds and layers."""
    dims = chosen.estimate.dims
    if not dims:
        return ""
    if dims != WHERE:
        return f" at {ranges(_labels(chosen, dims[0]), mask, str(dims[0]))}"
    rounds, layers = _labels(chosen, "round"), _labels(chosen, "layer")
    return " at " + ", ".join(
        f"round {rounds[i]} ({ranges(layers, row, 'layer')})" for i, row in enumerate(mask) if row.any()
    )


def _labels(chosen: xr.Dataset, dim: Hashable) -> list:
    return chosen.coords[dim].values.tolist() if dim in chosen.coords else list(range(chosen.sizes[dim]))


def _everywhere(chosen: xr.Dataset, which: str) -> str:
    dims = chosen.estimate.dims
    if not dims:
        return ""
    counts = " x ".join(f"{chosen.sizes[dim]} {dim}s" for dim in dims)
    judged = int(chosen.se.notnull().sum())
    if judged < chosen.se.size:
        there = f"{which} of the {judged} judged places" if judged > 1 else "the one judged place"
        return f" at {there} ({counts}, at {chosen.se.size - judged} of which there is no p)"
    return f" at {which} of the {judged} places ({counts})"


def _index(chosen: xr.Dataset, score: np.ndarray) -> dict[Hashable, int]:
    """Where ``score`` is largest."""
    index = np.unravel_index(int(np.argmax(score)), score.shape)
    return dict(zip(chosen.estimate.dims, map(int, index), strict=True))


def _place(chosen: xr.Dataset, score: np.ndarray) -> str:
    spot = [f"{dim} {_labels(chosen, dim)[i]}" for dim, i in _index(chosen, score).items()]
    return f"is at {', '.join(spot)}" if spot else "has this size"


def _size(chosen: xr.Dataset, score: np.ndarray, *, corrected: bool) -> str:
    """Estimate, interval and p at the place of the largest score."""
    here: Mapping[str, xr.DataArray] = {
        str(k): v for k, v in chosen.isel(_index(chosen, score)).data_vars.items()
    }
    unit = f" {chosen.attrs['units']}" if chosen.attrs["units"] else ""
    low, high = ("band_low", "band_high") if corrected else ("ci_low", "ci_high")
    estimate, ends = here["estimate"].item(), (here[low].item(), here[high].item())
    text = f"{signed(estimate, decimals(*ends))}{unit}"
    p = here["p_adj" if corrected else "p"].item()
    if np.isnan(p):
        return text
    kind = "simultaneous" if corrected else "pointwise"
    level = 100 * (1 - chosen.attrs["alpha"])
    return (
        f"{text} ({kind} {level:g} % {'band' if corrected else 'interval'} {bounds(*ends, signed=True)}, "
        f"{'adjusted' if corrected else 'uncorrected'} {is_p(p, draws=_draws(chosen, corrected))})"
    )


def _draws(chosen: xr.Dataset, corrected: bool) -> float:
    """The draws that a p rests on; 0 for one that rests on a distribution."""
    return float(chosen.attrs.get("draws_used", 0)) if corrected else 0.0


def _sub_additivity(panel: xr.Dataset, effect: str, alpha: float) -> list[str]:
    """Where a two-way is negative: whether that is L0, its size and the cell means at the clearest place."""
    chosen = panel.sel(effect=effect)
    negative = np.asarray(_found(chosen, alpha) & (chosen.estimate.values < 0))
    crossed = factors_in(effect)
    if len(crossed) != 2 or not set(crossed) <= set(chosen.attrs["factors"]) or not negative.any():
        return []
    raised = np.ones_like(negative)
    for name in main_effects_of(effect):
        raised &= _raised(panel, name, alpha)
    shown = negative & raised
    if shown.any():
        claim = (
            f"It is sub-additive on the scale shown (L0){_spots(chosen, shown)}: negative there, and both "
            "components raise the outcome (each by its own adjusted p)."
        )
    else:
        claim = (
            f"Where it is negative{_spots(chosen, negative)}, the two components are not both shown to raise "
            "the outcome, so it is not called sub-additive on the scale shown (L0)."
        )
    told = shown if shown.any() else negative
    size = np.divide(
        np.abs(chosen.estimate.values), chosen.se.values, out=np.full(told.shape, np.inf), where=chosen.se > 0
    )
    score = np.where(told, size, -1.0)
    corrected = chosen.p_adj.notnull().any().item()
    at = f" {_place(chosen, score).removeprefix('is ')}" if chosen.estimate.dims else ""
    return [
        claim,
        f"Clearest{at}: {_size(chosen, score, corrected=corrected)}.",
        f"Cell means{at}: {_cells(chosen, crossed, _index(chosen, score))}.",
    ]


def _raised(panel: xr.Dataset, name: str, alpha: float) -> np.ndarray:
    """Where a component is shown to raise the outcome; nowhere if its effect is not among these."""
    if name not in panel.effect.values:
        return np.zeros(panel.estimate.isel(effect=0).shape, dtype=bool)
    one = panel.sel(effect=name)
    return np.asarray(_found(one, alpha) & (one.estimate.values > 0))


def _cells(chosen: xr.Dataset, crossed: tuple[str, ...], spot: Mapping[Hashable, int]) -> str:
    """The means of the four cells of two factors at one place."""
    first, second = crossed
    others = [name for name in chosen.attrs["factors"] if name not in crossed]
    means = chosen.cell_mean.isel(spot).mean(others)
    return "; ".join(
        f"{first} {a}, {second} {b}: {number(means.sel({first: a, second: b}).item())}"
        for a in means[first].values
        for b in means[second].values
    )


def warnings_in(attrs: Mapping[str, Any]) -> list[str]:
    """The notes that concern every sentence: items that came twice, refused layers, withheld p-values."""
    return [note for note in attrs["notes"][1:] if note.startswith(SPOKEN)]


def _footing(effects: xr.Dataset) -> str:
    """What every sentence rests on."""
    attrs = effects.attrs
    units = f", in {attrs['units']}" if attrs["units"] else ""
    corrected = f", p and bands over {attrs['family']}" if attrs["method"] != "pointwise" else ""
    return (
        f"Effects of {attrs['outcome']} on the {attrs['scale']}{units}; {attrs['n_items']} items in "
        f"{attrs['n_clusters']} clusters; {attrs['method']} ({attrs['method_reason']}){corrected}. "
        f"{' '.join(filter(None, (attrs['notes'][0], *warnings_in(attrs), attrs.get('vouch', ''))))}"
    )
