"""Plain sentences about factorial effects, and the control at round 0."""

import itertools
from collections.abc import Hashable, Mapping, Sequence

import numpy as np
import xarray as xr

WHERE = ("round", "layer")
"""Dims within which a sentence says where an effect is; each index of the others has its own sentence."""


def describe(effects: xr.Dataset, effect: str, alpha: float | None = None, site: str | None = None) -> str:
    """What the data say about one effect, in sentences, and no more than that.

    Extents ("layers 3 to 5") come from step-down max-|t| p only. The text names sign, place, size with band,
    scale, clusters and what the result is conditional on; a negative two-way comes with its cell means.

    Args:
        effects: what ``factorial_effects`` returned.
        effect: one of its effects, for example ``instruction:feedback``.
        alpha: threshold for the adjusted p; the one of ``effects`` when None. Bands keep theirs.
        site: the only site to speak of; every site when None.

    Raises:
        ValueError: an effect or a site that is not there.
    """
    names = [str(name) for name in effects.effect.values]
    if effect not in names:
        raise ValueError(f"describe needs one of the effects {names}; got {effect!r}.")
    chosen = effects.sel(effect=effect)
    if site is not None:
        sites = (
            [str(name) for name in np.atleast_1d(effects.coords["site"].values)]
            if "site" in effects.coords
            else []
        )
        if site not in sites:
            raise ValueError(f"describe needs one of the sites {sites}; got {site!r}.")
        if "site" in chosen.dims:
            chosen = chosen.sel(site=[site])
    level = float(effects.attrs["alpha"]) if alpha is None else alpha
    apart = [dim for dim in chosen.estimate.dims if dim not in WHERE]
    panels = itertools.product(*(range(chosen.sizes[dim]) for dim in apart))
    lines = [_panel(chosen.isel(dict(zip(apart, index, strict=True))), effect, level) for index in panels]
    return "\n".join([*lines, _footing(effects)])


def negative_control(effects: xr.Dataset, early: Sequence[str] = ()) -> dict[str, str | float | bool]:
    """The largest effect at round 0, where under greedy decoding every effect is exactly zero.

    Args:
        effects: what ``factorial_effects`` returned.
        early: factors that speak before the first answer; effects of them alone are no control.

    Returns:
        ``largest`` (|estimate|), ``effect`` that has it, ``exactly_zero``, and a ``sentence``.

    Raises:
        ValueError: ``effects`` has no round 0.
    """
    if "round" not in effects.coords or 0 not in np.atleast_1d(effects.coords["round"].values):
        raise ValueError(
            "negative_control needs effects at round 0; got none. Keep round 0 in what factorial_effects "
            "is given."
        )
    first = effects.estimate.sel(round=0) if "round" in effects.dims else effects.estimate
    late = [name for name in first.effect.values.tolist() if not _factors_in(name) <= set(early)]
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
            f"At round 0 the largest effect is {largest:.3g} ({name}), not exactly zero: the conditions "
            "did not share one round 0 (sampling, or cells run apart), so later rounds start from "
            "different answers."
        )
    return {"largest": largest, "effect": name, "exactly_zero": largest == 0, "sentence": sentence}


def _factors_in(effect: str) -> set[str]:
    """The factors of an effect, from its name: of ``a[on-placebo]:b@c=off``, a and b."""
    return {part.partition("[")[0] for part in effect.partition("@")[0].split(":")}


def _panel(chosen: xr.Dataset, effect: str, alpha: float) -> str:
    """The sentences about one site (or one index of any other dim)."""
    fixed = {part.partition("=")[0] for part in chosen.attrs["held_at"].split(",")} | {"effect"}
    held = [f"{dim} {c.item()}" for dim, c in chosen.coords.items() if c.ndim == 0 and dim not in fixed]
    head = ", ".join([effect, *held]) + ": "
    estimate, se = chosen.estimate.values, chosen.se.values
    if not np.any(estimate) and not np.any(se):
        return f"{head}exactly zero{_everywhere(chosen, 'all')}."
    corrected = chosen.p_adj.notnull().any().item()
    p = chosen.p_adj if corrected else chosen.p
    t = np.divide(np.abs(estimate), se, out=np.zeros_like(estimate), where=se > 0)
    # the best of many uncorrected tests proves nothing
    found = np.asarray((np.nan_to_num(p.values, nan=1.0) < alpha) & (corrected or p.size == 1))
    parts = [_extent(chosen, found, alpha, corrected=corrected)]
    if t.any():
        parts.append(f"The largest |t| {_place(chosen, t)}: {_size(chosen, t, corrected=corrected)}.")
    negative = found & (estimate < 0)
    if effect.partition("@")[0].count(":") == 1 and negative.any():
        parts.append(_sub_additivity(chosen, effect, np.where(negative, t, -1.0)))
    constant = int(np.count_nonzero((se == 0) & (estimate != 0)))
    if constant:
        parts.append(
            f"Warning: at {constant} of {estimate.size} places the effect is the same non-zero number in "
            "every cluster, a signature of position or template."
        )
    return head + " ".join(parts)


def _extent(chosen: xr.Dataset, found: np.ndarray, alpha: float, *, corrected: bool) -> str:
    """Where the adjusted p is below alpha, by sign."""
    if not corrected and not chosen.p.notnull().any():
        return "no p-values are given (see the notes), so nothing is claimed."
    if not corrected:
        return f"no family-corrected p ({chosen.attrs['method_reason']}), so no extent is claimed."
    if not found.any():
        smallest = float(np.nanmin(chosen.p_adj.values))
        return (
            f"not distinguishable from zero{_everywhere(chosen, 'any')} (smallest step-down max-|t| p = "
            f"{smallest:.2g}), which is not evidence of no effect."
        )
    words = []
    for sign, name in ((1, "positive"), (-1, "negative")):
        mask = np.asarray(found & (np.sign(chosen.estimate.values) == sign))
        if mask.any():
            words.append(f"{name}{_spots(chosen, mask)}")
    return f"{'; '.join(words)} (step-down max-|t| p below {alpha:g})."


def _spots(chosen: xr.Dataset, mask: np.ndarray) -> str:
    """`` at round 1 (layers 3 to 5), round 2 (layer 4)``; empty without rounds and layers."""
    dims = chosen.estimate.dims
    if not dims:
        return ""
    if dims != WHERE:
        return f" at {_ranges(_labels(chosen, dims[0]), mask, str(dims[0]))}"
    rounds, layers = _labels(chosen, "round"), _labels(chosen, "layer")
    return " at " + ", ".join(
        f"round {rounds[i]} ({_ranges(layers, row, 'layer')})" for i, row in enumerate(mask) if row.any()
    )


def _ranges(labels: list, mask: np.ndarray, noun: str) -> str:
    """Runs of neighbouring whole numbers as ``layers 3 to 5 and 8``; labels that skip numbers stay apart."""
    runs: list[list] = []
    for label in (label for label, inside in zip(labels, mask, strict=True) if inside):
        if runs and isinstance(label, int) and label == runs[-1][-1] + 1:
            runs[-1].append(label)
        else:
            runs.append([label])
    words = [f"{run[0]} to {run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs]
    plural = "s" if np.count_nonzero(mask) > 1 else ""
    return f"{noun}{plural} " + " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


def _labels(chosen: xr.Dataset, dim: Hashable) -> list:
    return chosen.coords[dim].values.tolist() if dim in chosen.coords else list(range(chosen.sizes[dim]))


def _everywhere(chosen: xr.Dataset, which: str) -> str:
    dims = chosen.estimate.dims
    if not dims:
        return ""
    counts = " x ".join(f"{chosen.sizes[dim]} {dim}s" for dim in dims)
    return f" at {which} of the {chosen.estimate.size} places ({counts})"


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
    text = f"{here['estimate'].item():+.3g}{unit}"
    p = here["p_adj" if corrected else "p"].item()
    if np.isnan(p):
        return text
    kind = "simultaneous" if corrected else "pointwise"
    level = 100 * (1 - chosen.attrs["alpha"])
    return (
        f"{text} ({kind} {level:g} % {'band' if corrected else 'interval'} {here[low].item():+.3g} to "
        f"{here[high].item():+.3g}, {'adjusted' if corrected else 'uncorrected'} p = {p:.2g})"
    )


def _sub_additivity(chosen: xr.Dataset, effect: str, score: np.ndarray) -> str:
    """L0 and the four cell means where the negative two-way is clearest."""
    first, second = (part.partition("[")[0] for part in effect.partition("@")[0].split(":"))
    spot = _index(chosen, score)
    others = [name for name in chosen.attrs["factors"] if name not in (first, second)]
    means = chosen.cell_mean.isel(spot).mean(others)
    cells = "; ".join(
        f"{first} {a}, {second} {b}: {means.sel({first: a, second: b}).item():.3g}"
        for a in means[first].values
        for b in means[second].values
    )
    gains = [(means.isel({name: 1}) - means.isel({name: 0})).mean().item() for name in (first, second)]
    if min(gains) > 0:
        claim = "This is sub-additive on the scale shown (L0), and no more is claimed."
    else:
        claim = (
            "This is a negative difference of differences on the scale shown (L0); the two components do "
            "not both raise the outcome there, so it is not called sub-additive."
        )
    at = f" {_place(chosen, score).removeprefix('is ')}" if spot else ""
    return f"{claim} Cell means{at}: {cells}."


def _footing(effects: xr.Dataset) -> str:
    """What every sentence rests on."""
    attrs = effects.attrs
    units = f", in {attrs['units']}" if attrs["units"] else ""
    corrected = f", p and bands over {attrs['family']}" if attrs["method"] != "pointwise" else ""
    return (
        f"Effects of {attrs['outcome']} on the {attrs['scale']}{units}; {attrs['n_items']} items in "
        f"{attrs['n_clusters']} clusters; {attrs['method']} ({attrs['method_reason']}){corrected}. "
        f"{attrs['notes'][0]}"
    )
