"""When an answer forms: lens curves with bands, the layers from which they hold, a probe beside them."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.curves import (
    Resampled,
    correlations,
    earlier_or_later,
    item_contrasts,
    mean_curves,
    onsets,
)
from morality_lens.interactions.numbers import with_bounds

CARRIED = ("units", "lens", "of", "checked", "option_note", "trust")
"""What is said with every number that a lens gives."""


def lens_curves(odds: xr.DataArray, *, how: Resampled = Resampled()) -> xr.Dataset:
    """Mean lens curves of every condition and round, with bands that hold over all layers at once.

    Args:
        odds: from :func:`morality_lens.circuits.lens`, of one number per item and place.
        how: resampling.

    Returns:
        What :func:`morality_lens.interactions.curves.mean_curves` gives, by factors, round and layer.

    Raises:
        ValueError: missing values (answers that never began), or fewer than two clusters.

    Examples:
        >>> curves = ml.circuits.lens_curves(ml.circuits.lens(model, run))
        >>> "band_low" in curves
        True
    """
    _need(odds, "lens_curves")
    return mean_curves(odds, how=how).assign_attrs(_told(odds))


def answer_onsets(
    odds: xr.DataArray,
    answer: xr.DataArray | None = None,
    *,
    factors: Sequence[str] | None = None,
    how: Resampled = Resampled(),
) -> xr.Dataset:
    """From which layer on the answer is there, and whether the effect of each component is there before it.

    A curve is there from the layer on from which, up to the last one, its simultaneous band excludes zero
    (``first``), and from which on it has half of its last value (``half``, with an interval from a
    bootstrap of clusters). For a curve whose last value does not differ from zero there is neither. An
    effect is ``before`` or ``after`` the answer where it reaches its half before or after the answer does in
    all but ``alpha`` of the same bootstrap samples.

    Args:
        odds: from :func:`morality_lens.circuits.lens`: the outcome whose effects are looked at.
        answer: the same of the option that the run chose (``of="answer"``), whose mean over items and
            conditions is the answer's curve; None takes ``odds`` itself for it.
        factors: as in ``factorial_effects``; None takes all.
        how: resampling.

    Returns:
        By ``curve`` (``answer``, then every effect) and round: ``final``, ``final_low``, ``final_high``,
        ``first``, ``half``, ``half_low``, ``half_high``, ``told``, and for effects ``later`` with
        ``later_low`` and ``later_high``: by how many stored layers their half comes after the answer's.

    Raises:
        ValueError: the last layer was not stored, missing values, or fewer than two clusters.

    Examples:
        >>> odds = ml.circuits.lens(model, run)
        >>> found = ml.circuits.answer_onsets(odds, ml.circuits.lens(model, run, of="answer"))
        >>> found["curve"].values.tolist()[:3]
        ['answer', 'instruction', 'cot']
        >>> bool(found["told"].sel(curve="answer", round=2))
        True
    """
    _need(odds, "answer_onsets")
    if not odds.attrs.get("final", True):
        raise ValueError(
            "when an answer forms is told by its value at the last layer, and this run did not store that; "
            "play it with the last layer too."
        )
    names = factors_of(odds) if factors is None else tuple(factors)
    own = odds if answer is None else answer
    base = own.mean(factors_of(own)).expand_dims(curve=["answer"])
    effects = item_contrasts(odds, names).rename(effect="curve")
    found = onsets(xr.concat([base, effects], "curve", coords="minimal", compat="override"), how=how)
    later = earlier_or_later(effects, base.isel(curve=0, drop=True), how=how)
    known = found["told"].sel(curve="answer") & found["told"].sel(curve=effects["curve"])
    known = known & (not found.attrs["refused"])
    for name, part in (("later", "places"), ("later_low", "low"), ("later_high", "high")):
        found[name] = later[part].where(known).reindex(curve=found["curve"])
    about = {name: str(own.attrs.get(key, "")) for name, key in (("answer", "of"), ("letters", "letters"))}
    return found.assign_attrs({**_told(odds), **about})


def lens_agreement(odds: xr.DataArray, moral: xr.DataArray, *, alpha: float = 0.05) -> xr.Dataset:
    """How far a lens and a probe say the same: correlations over items and conditions, by round and layer.

    Args:
        odds: from :func:`morality_lens.circuits.lens`.
        moral: projections of the same run, ``probe.project(run)``; its site ``answer_start`` is taken.
        alpha: level of the intervals, a jackknife of clusters on Fisher's z.

    Returns:
        ``r``, ``low``, ``high`` over ``across``: ``items and conditions``, and ``conditions`` (each item's
        own mean taken away). NaN where one of the two does not vary.

    Raises:
        ValueError: no common items, rounds or layers, or missing values.

    Examples:
        >>> agreed = ml.circuits.lens_agreement(ml.circuits.lens(model, run), moral)
        >>> agreed["r"].dims, bool(agreed["r"].sel(across="conditions", round=2, layer=4) > 0.2)
        (('across', 'round', 'layer'), True)
    """
    _need(odds, "lens_agreement")
    here = moral.sel(site="answer_start", drop=True) if "site" in moral.dims else moral
    one, other = xr.align(odds, here.transpose(*odds.dims), join="inner")
    if not all(one.sizes.values()):
        raise ValueError("the lens and the projections share no item, round or layer; take those of one run.")
    found = correlations(one, other, alpha=alpha)
    return found.assign_attrs({**_told(odds), "trust": str(moral.attrs.get("trust", ""))})


def describe_lens(found: xr.Dataset, *, round: int | None = None) -> str:
    """When the answer forms in every round, and each effect before or after it, in sentences.

    Args:
        found: from :func:`answer_onsets`.
        round: the only round to speak of; None: the answer of every round, and the effects of the last.

    Examples:
        >>> odds = ml.circuits.lens(model, run)
        >>> print(ml.circuits.describe_lens(ml.circuits.answer_onsets(odds)))
        Round 0: the answer ...
    """
    rounds = found["round"].values.tolist()
    if round is not None and round not in rounds:
        raise ValueError(f"no round {round} here; choose out of {rounds}.")
    shown = rounds if round is None else [round]
    lines = [
        f"Round {number}: {_sentence(found.sel(round=number, curve='answer'), found)}" for number in shown
    ]
    for name in map(str, found["curve"].values[1:]):
        lines.append(f"Round {shown[-1]}: {_sentence(found.sel(round=shown[-1], curve=name), found)}")
    notes = [str(found.attrs.get(name, "")) for name in ("letters", "checked", "option_note")]
    return "\n".join([*lines, *filter(None, notes)])


def _sentence(one: xr.Dataset, found: xr.Dataset) -> str:
    """What is known of one curve."""
    name = str(one["curve"].values)
    what = _answer_of(found) if name == "answer" else f"the effect of {name}"
    ends = [float(one[n]) for n in ("final", "final_low", "final_high")]
    if not any(ends):
        return f"{what} is zero at the last layer."
    units = str(found.attrs.get("units", ""))
    value = f"{what} is {with_bounds(*ends, signed=True)} {units}".rstrip() + " at the last layer"
    if found.attrs["refused"]:
        return f"{value}; {found.attrs['refused']}"
    if not bool(one["told"]):
        return f"{value}, not distinguishable from zero, so no layer is named."
    parts = [value]
    if np.isfinite(one["first"]):
        parts.append(f"it differs from zero from layer {int(one['first'])} on")
    ends = [int(one[n]) for n in ("half", "half_low", "half_high")]
    parts.append(f"it has half of that value from layer {ends[0]} on [{ends[1]}, {ends[2]}]{_order(one)}")
    return "; ".join(parts) + "."


def _answer_of(found: xr.Dataset) -> str:
    """What the answer's curve is the mean of."""
    return {
        "answer": "the answer (the most probable option against the others, without a letter's leaning)",
        "good": "the answer (the good option against the others)",
    }.get(str(found.attrs.get("answer", "")), "the answer")


def _order(one: xr.Dataset) -> str:
    """Whether an effect is there before or after the answer."""
    if not np.isfinite(one["later"]):
        return ""
    later, low, high = (float(one[n]) for n in ("later", "later_low", "later_high"))
    ends = f"[{low:+.0f}, {high:+.0f}]"
    if low == high == 0:
        return ", as the answer has in every sample"
    if high < 0 or low > 0:
        return f", {'before' if high < 0 else 'after'} the answer does ({later:+.0f} layers {ends})"
    return f", and whether before or after the answer does cannot be told ({later:+.0f} layers {ends})"


def _need(odds: xr.DataArray, who: str) -> None:
    if "option" in odds.dims or not {"item", "round", "layer"} <= set(odds.dims):
        raise ValueError(
            f"{who} needs one number per item, round and layer; got the dims {odds.dims}. Use lens(model, "
            "run) with of='good', 'answer' or 'rating'."
        )


def _told(odds: xr.DataArray) -> dict[str, str]:
    """What is said with every number."""
    return {name: str(odds.attrs.get(name, "")) for name in CARRIED}
