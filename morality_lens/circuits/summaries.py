"""Summaries of patching, steering, ablation and mediation: recovered shares, slopes, verdicts."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.interactions.ratios import mean_over_items, ratio_of_means
from morality_lens.probes.card import RULES

MEDIATED = 0.5
"""Least share of the components' effect that ablation must remove for the direction to pass."""


def recovered(patched: xr.Dataset, *, of: str = "log_odds", read_layer: int | None = None) -> xr.Dataset:
    """How much of the difference between source and target a patch recovers.

    The mean of patched - target over the mean of source - target, with Fieller's interval: 0 where a patch
    has no effect, 1 where it makes the target equal to the source.

    Args:
        patched: from :func:`morality_lens.circuits.patch`.
        of: ``log_odds`` or ``projection``.
        read_layer: where the projection is read; None: the last layer.

    Returns:
        ``ratio``, ``low``, ``high`` over place and layer (and head), ``shift`` with ``shift_low`` and
        ``shift_high``, the mean of patched - target, and ``difference``, that of source - target.

    Raises:
        ValueError: this was not measured.
    """
    if of not in ("log_odds", "projection") or of not in patched:
        measured = [name for name in ("log_odds", "projection") if name in patched]
        raise ValueError(f"these patches have {', '.join(measured) or 'no measure'}; got {of!r}.")
    values, target, source = (patched[name] for name in (of, f"target_{of}", f"source_{of}"))
    if of == "projection":
        at = int(patched["read_layer"][-1]) if read_layer is None else read_layer
        values, target, source = (v.sel(read_layer=at, drop=True) for v in (values, target, source))
    change, whole = values - target, source - target
    ratio = ratio_of_means(change, whole)
    mean = mean_over_items(change)
    return xr.Dataset(
        {
            **{name: ratio[name] for name in ("ratio", "low", "high")},
            "difference": ratio["bottom"],
            "shift": mean["estimate"],
            "shift_low": mean["ci_low"],
            "shift_high": mean["ci_high"],
        },
        attrs={**patched.attrs, "of": of, "refused": ratio.attrs["refused"], "alpha": ratio.attrs["alpha"]},
    )


def steering_slopes(steered: xr.Dataset) -> xr.DataArray:
    """The change of each item's log-odds per gap: least squares through the point of dose 0.

    Args:
        steered: from :func:`morality_lens.circuits.steer`.

    Raises:
        ValueError: the items have no options.
    """
    if "log_odds" not in steered:
        raise ValueError("slopes need items with options, whose log-odds steering changes.")
    change = steered["log_odds"] - steered["log_odds"].sel(dose=0.0)
    dose = steered["dose"]
    return (change * dose).sum("dose") / float((dose**2).sum())


def ablated_share(ablated: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Share of the components' effect on the log-odds that each ablation removes.

    Args:
        ablated: under ``on`` and ``off``, :func:`morality_lens.circuits.ablate` of the same items with
            all components, and without any.

    Returns:
        ``ratio``, ``low``, ``high`` by ablation, and ``bottom``, the effect itself; NaN where it is not
        distinguishable from zero.
    """
    effect = ablated["on"]["target_log_odds"] - ablated["off"]["target_log_odds"]
    left = ablated["on"]["log_odds"] - ablated["off"]["log_odds"]
    return ratio_of_means(effect - left, effect)


def causal_lines(steered: xr.Dataset, ablated: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """The trust card's lines ``steer`` and ``ablation``, for ``card.with_lines``.

    Args:
        steered: from :func:`morality_lens.circuits.steer`.
        ablated: as in :func:`ablated_share`.
    """
    layer = int(steered.attrs["layer"])
    lines = {"steer": _steering_line(steered, layer), "ablation": _ablation_line(ablated)}
    for name, notes in (("steer", _notes(steered)), ("ablation", _notes(*ablated.values()))):
        lines[name]["detail"] = "; ".join(text for text in (lines[name]["detail"], *notes) if text)
    return pd.DataFrame(
        [{"line": name, "layer": layer, "rule": RULES[name], **line} for name, line in lines.items()]
    )


def _steering_line(steered: xr.Dataset, layer: int) -> dict[str, Any]:
    """Whether the direction raises the log-odds, and more than random directions do."""
    mean = mean_over_items(steering_slopes(steered))
    own = mean.sel(direction="probe")
    value, low, high = (float(own[name]) for name in ("estimate", "ci_low", "ci_high"))
    random = mean["estimate"].drop_sel(direction="probe").values
    p = float((1 + np.sum(np.abs(random) >= abs(value))) / (1 + random.size))
    verdict = "fail" if low <= 0 else "pass" if p < 0.05 else "warn"
    detail = f"layer {layer}, {_random_detail(random, p)}"
    return {"value": value, "low": low, "high": high, "verdict": verdict, "detail": detail}


def _ablation_line(ablated: Mapping[str, xr.Dataset]) -> dict[str, Any]:
    """Whether ablating the direction removes the components' effect, more than random directions do."""
    found = ablated_share(ablated)
    share = found.sel(ablation="direction")
    value, low, high = (float(share[name]) for name in ("ratio", "low", "high"))
    names = [name for name in found["ablation"].values if str(name).startswith("random")]
    others = found["ratio"].sel(ablation=names).values
    if np.isnan(value):
        verdict, detail = "not checked", "the components have no effect that ablation could remove"
    else:
        beyond = bool(low > 0 and (others < value).all())
        verdict = "fail" if not beyond else "pass" if value >= MEDIATED else "warn"
        detail = f"random directions {np.min(others):.2f} to {np.max(others):.2f}" if others.size else ""
    where = f"from layer {ablated['on'].attrs['layers'][0]} on{', ' if detail else ''}{detail}"
    return {"value": value, "low": low, "high": high, "verdict": verdict, "detail": where}


def mediated_share(mediated: xr.Dataset) -> xr.Dataset:
    """The mediated share of an interaction, by layer and way.

    Args:
        mediated: from :func:`morality_lens.circuits.mediate`.

    Returns:
        ``mediated`` and ``rest`` (its exact complement) with ``_low`` and ``_high``, their sum ``tau`` with
        its interval; ``share``, ``share_low``, ``share_high`` (Fieller; NaN and ``attrs["refused"]`` where
        tau is not distinguishable from zero); and ``predicted`` with its interval: the projection's
        interaction times the mean gain of steering, the gain taken as known. Two checks, with ``_low`` and
        ``_high``: ``pure``, the effect of the same exchange in the prompt without both components, and
        ``with_prompt``, the rest of ``mediated``: the interaction of the residual with the prompt; by
        ``fraction`` of the distance ``beyond_linear``, by how much ``mediated`` exceeds what that part of the
        way foretells on a straight line. Results of earlier versions lack the checks.
    """
    shares, tau = mediated["mediated"], mediated["tau"]
    kept = shares.dropna("layer", how="any")
    parts: dict[str, xr.DataArray] = {}
    for name, values in (("mediated", kept), ("rest", tau - kept), ("tau", tau)):
        mean = mean_over_items(values)
        parts |= {name: mean["estimate"], f"{name}_low": mean["ci_low"], f"{name}_high": mean["ci_high"]}
    ratio = ratio_of_means(kept, tau)
    parts |= {"share": ratio["ratio"], "share_low": ratio["low"], "share_high": ratio["high"]}
    gain = mediated["gain"].sel(layer=kept["layer"]).mean("item")
    mean = mean_over_items(mediated["interaction"].sel(layer=kept["layer"]) * gain)
    parts |= {
        "predicted": mean["estimate"],
        "predicted_low": mean["ci_low"],
        "predicted_high": mean["ci_high"],
        "gain": gain,
    }
    parts |= _checks_of_mediation(mediated, kept)
    return xr.Dataset(
        parts, attrs={**mediated.attrs, "refused": ratio.attrs["refused"], "alpha": ratio.attrs["alpha"]}
    )


def _checks_of_mediation(mediated: xr.Dataset, kept: xr.DataArray) -> dict[str, xr.DataArray]:
    """Means of the pure effect, the interaction with the prompt and the departures from linear."""
    if "pure" not in mediated:
        return {}
    pure = mediated["pure"].sel(layer=kept["layer"])
    dosed = mediated["dosed"].sel(layer=kept["layer"], fraction=mediated["fraction"] < 1)
    found = {
        "pure": pure,
        "with_prompt": kept - pure,
        "beyond_linear": kept - dosed / dosed["fraction"],
    }
    parts: dict[str, xr.DataArray] = {}
    for name, values in found.items():
        mean = mean_over_items(values)
        parts |= {name: mean["estimate"], f"{name}_low": mean["ci_low"], f"{name}_high": mean["ci_high"]}
    return parts


def describe_mediation(mediated: xr.Dataset) -> str:
    """The mediated share of an interaction at each layer with its two checks, in sentences."""
    found = mediated_share(mediated)
    attrs = mediated.attrs
    size, low, high = (float(found[name]) for name in ("tau", "tau_low", "tau_high"))
    tau = (
        f"{attrs['effect']} at {attrs['held_at']} in round {attrs['round']}: {size:+.3f} [{low:+.3f}, "
        f"{high:+.3f}] log-odds."
    )
    notes = _notes(mediated)
    if found.attrs["refused"]:
        return "\n".join([f"{tau} {found.attrs['refused']}", *notes])
    lines = [tau]
    for layer in found["layer"].values:
        ways = [_way(found.sel(layer=layer, way=way), str(way)) for way in found["way"].values]
        lines.append(f"Layer {int(layer)} mediates: {'; '.join(ways)}.")
        if "pure" in found:
            lines.append(_checks_said(found.sel(layer=layer)))
    return "\n".join([*lines, *notes])


def _notes(*results: xr.Dataset) -> list[str]:
    """What is to be said of the options' letters with these results, each note once."""
    return [note for note in dict.fromkeys(str(one.attrs.get("option_note", "")) for one in results) if note]


def _way(found: xr.Dataset, name: str) -> str:
    """One way of mediation at one layer, in words."""
    share, low, high = (100 * float(found[key]) for key in ("share", "share_low", "share_high"))
    mediated, rest = float(found["mediated"]), float(found["rest"])
    return f"{name} {share:.0f} % [{low:.0f}, {high:.0f}] ({mediated:+.3f}, rest {rest:+.3f})"


def _checks_said(found: xr.Dataset) -> str:
    """The two checks of every way at one layer, in words."""
    smallest = float(found["fraction"].min())
    ways = []
    for way in found["way"].values:
        one = found.sel(way=way, fraction=smallest)
        straight = float(one["mediated"] - one["beyond_linear"])
        ways.append(
            f"{way} {float(one['pure']):+.3f} there, so that {_with_interval(one, 'with_prompt')} is an "
            f"interaction of the residual with the prompt; {smallest:g} of the distance foretells "
            f"{straight:+.3f}, and {_with_interval(one, 'beyond_linear')} comes with its length"
        )
    return f"The same exchange in the prompt without both components: {'. '.join(ways)}."


def _with_interval(one: xr.Dataset, name: str) -> str:
    low, high = (float(one[f"{name}_{end}"]) for end in ("low", "high"))
    return f"{float(one[name]):+.3f} [{low:+.3f}, {high:+.3f}]"


def _random_detail(random: np.ndarray, p: float) -> str:
    if not random.size:
        return "no random directions tried"
    return f"random directions {np.min(random):.2f} to {np.max(random):.2f}, p {p:.3f}"
