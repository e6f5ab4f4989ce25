"""Summaries of patching, steering, ablation and mediation: recovered shares, slopes, verdicts."""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.interactions.numbers import interval_of, is_p, signed
from morality_lens.interactions.ratios import mean_over_items, ratio_of_means
from morality_lens.probes.card import RULES

MEDIATED = 0.5
"""Least share of the components' effect that ablation must remove for the direction to pass."""
COSTS = {"pass": (0.1, 0.05), "warn": (0.5, 0.15)}
"""The largest rise of perplexity (its upper end) and loss of accuracy of each verdict on the cost.

The loss is that at its interval's end to pass, and its estimate to be warned of: a few questions that keep
their answers do not show that no others lose theirs."""


def recovered(
    patched: xr.Dataset, *, of: Literal["log_odds", "projection"] = "log_odds", read_layer: int | None = None
) -> xr.Dataset:
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

    Examples:
        >>> patched = ml.patch(model, run, source=both, target=none, batching=batching)
        >>> share = ml.circuits.recovered(patched)["ratio"].sel(place="answer_start")
        >>> [abs(round(float(share.sel(layer=layer)), 1)) for layer in (-1, 5)]
        [0.0, 1.0]
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

    Examples:
        >>> steered = ml.steer(model, run, probe, condition=none, doses=doses, random=few, batching=batching)
        >>> slopes = ml.circuits.steering_slopes(steered).mean("item")
        >>> round(float(slopes.sel(direction="probe")), 1)
        0.8
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

    Examples:
        >>> ablated = {
        ...     name: ml.circuits.ablate(
        ...         model, run, probe, condition=one, layers=[3], random=few, batching=batching
        ...     )
        ...     for name, one in (("on", both), ("off", none))
        ... }
        >>> share = ml.circuits.ablated_share(ablated)["ratio"]
        >>> bool(share.sel(ablation="direction") > share.sel(ablation="random 0"))
        True
    """
    effect = ablated["on"]["target_log_odds"] - ablated["off"]["target_log_odds"]
    left = ablated["on"]["log_odds"] - ablated["off"]["log_odds"]
    return ratio_of_means(effect - left, effect)


def causal_lines(
    steered: xr.Dataset, ablated: Mapping[str, xr.Dataset], cost: xr.Dataset | None = None
) -> pd.DataFrame:
    """The trust card's lines about causes, for ``card.with_lines``.

    ``steer`` and ``ablation``; ``beats prompting``, the gain of the dose that gains most beside that of the
    instruction in the prompt, where the run has that condition; and with ``cost`` ``steering cost``, what
    that dose breaks.

    Args:
        steered: from :func:`morality_lens.circuits.steer`.
        ablated: as in :func:`ablated_share`.
        cost: from :func:`morality_lens.circuits.steering_cost` at the same layer and doses.

    Raises:
        ValueError: a cost of another layer or of other doses.

    Examples:
        >>> steered = ml.steer(model, run, probe, condition=none, doses=doses, random=few, batching=batching)
        >>> ablated = {
        ...     name: ml.circuits.ablate(
        ...         model, run, probe, condition=one, layers=[3], random=few, batching=batching
        ...     )
        ...     for name, one in (("on", both), ("off", none))
        ... }
        >>> ml.circuits.causal_lines(steered, ablated)["line"].tolist()
        ['steer', 'ablation', 'beats prompting']
    """
    layer = int(steered.attrs["layer"])
    lines = {"steer": _steering_line(steered, layer), "ablation": _ablation_line(ablated)}
    dose = best_dose(steered)
    if "prompted" in steered:
        lines["beats prompting"] = _prompting_line(steered, dose)
    if cost is not None:
        _refuse_other_steering(steered, cost)
        lines["steering cost"] = _cost_line(cost, dose)
    said = {name: _notes(*(ablated.values() if name == "ablation" else [steered])) for name in lines}
    for name, notes in said.items():
        lines[name]["detail"] = "; ".join(text for text in (lines[name]["detail"], *notes) if text)
    return pd.DataFrame(
        [{"line": name, "layer": layer, "rule": RULES[name], **line} for name, line in lines.items()]
    )


def best_dose(steered: xr.Dataset) -> float:
    """The dose of the direction at which the mean log-odds of the correct option are highest, 0 left out."""
    mean = steered["log_odds"].sel(direction="probe").mean("item").drop_sel(dose=0.0)
    return float(mean["dose"][int(mean.values.argmax())])


def _prompting_line(steered: xr.Dataset, dose: float) -> dict[str, Any]:
    """Whether steering gains more than the instruction in the prompt."""
    condition = str(steered.attrs.get("prompting", ""))
    nothing = {"value": np.nan, "low": np.nan, "high": np.nan, "verdict": "not checked"}
    if not condition:
        return nothing | {"detail": "the run has no condition that adds an instruction to the steered one"}
    own = steered["log_odds"].sel(direction="probe")
    start = own.sel(dose=0.0, drop=True)
    prompted = steered["prompted"].sel(condition=condition, drop=True) - start
    there = prompted["item"].values[np.isfinite(prompted.values)]
    if not there.size:
        return nothing | {"detail": f"no item has log-odds under {condition}"}
    # The best of several doses was chosen by these items, so its interval is one of all of them.
    alpha = 0.05 / (own.sizes["dose"] - 1)
    gain = own.sel(dose=dose, drop=True) - start
    parts = {
        name: mean_over_items(values.sel(item=there), alpha=level)
        for name, values, level in (
            ("steered", gain, alpha),
            ("prompted", prompted, 0.05),
            ("both", gain - prompted, alpha),
        )
    }
    value, low, high = (float(parts["both"][name]) for name in ("estimate", "ci_low", "ci_high"))
    said = {name: interval_of(one, signed=True) for name, one in parts.items()}
    detail = f"steering {said['steered']} at dose {dose:g}, prompting with {condition} {said['prompted']}"
    verdict = "pass" if low > 0 else "fail" if high < 0 else "warn"
    return {"value": value, "low": low, "high": high, "verdict": verdict, "detail": detail}


def _refuse_other_steering(steered: xr.Dataset, cost: xr.Dataset) -> None:
    """Refuse a cost that is not that of this steering."""
    same = np.isin(steered["dose"].values, cost["dose"].values).all()
    if int(cost.attrs["layer"]) != int(steered.attrs["layer"]) or not same:
        raise ValueError(
            f"causal_lines needs the cost of the same steering, at layer {steered.attrs['layer']} with the "
            f"doses {steered['dose'].values.tolist()}; got layer {cost.attrs['layer']} with "
            f"{cost['dose'].values.tolist()}. Give steering_cost the same doses=."
        )


def cost_of_dose(cost: xr.Dataset, dose: float, direction: str = "probe") -> dict[str, float]:
    """Rise of the perplexity (as a share) and change of the accuracy at a dose, each with its interval.

    The rise is that of the geometric mean over the texts, ``rise``, ``rise_low``, ``rise_high``;
    ``accuracy`` is the change from ``accuracy_before``, with ``accuracy_low`` and ``accuracy_high``.

    Args:
        cost: from :func:`morality_lens.circuits.steering_cost`.
        dose: one of its doses.
        direction: one of its directions.
    """
    own = cost.sel(direction=direction)
    change = own.sel(dose=dose, drop=True) - own.sel(dose=0.0, drop=True)
    rise = mean_over_items(change["surprise"].rename(text="item"))
    lost = mean_over_items(change["right"].rename(question="item"), span=1.0)
    ends = ("estimate", "ci_low", "ci_high")
    return {
        **{f"rise{k}": float(np.expm1(rise[v])) for k, v in zip(("", "_low", "_high"), ends, strict=True)},
        **{f"accuracy{k}": float(lost[v]) for k, v in zip(("", "_low", "_high"), ends, strict=True)},
        "accuracy_before": float(own["right"].sel(dose=0.0).mean()),
    }


def _cost_line(cost: xr.Dataset, dose: float) -> dict[str, Any]:
    """What the dose that gains most costs."""
    found = cost_of_dose(cost, dose)
    value, low, high, lost = (found[name] for name in ("rise", "rise_low", "rise_high", "accuracy"))
    reached = {"pass": found["accuracy_low"], "warn": lost}
    verdict = next(
        (name for name, (rise, drop) in COSTS.items() if high <= rise and reached[name] >= -drop - 1e-9),
        "fail",
    )
    random = [str(name) for name in cost["direction"].values if name != "probe"]
    rises = [cost_of_dose(cost, dose, name)["rise"] for name in random]
    before = found["accuracy_before"]
    detail = [
        f"dose {dose:g}",
        f"accuracy on {cost.sizes['question']} settled questions {before:.2f} to {before + lost:.2f} "
        f"[{100 * found['accuracy_low']:+.0f}, {100 * found['accuracy_high']:+.0f} points]",
    ]
    if before <= float(cost.attrs["guessing"]):
        detail.append("which is no better than guessing before steering, so that there is nothing to lose")
    if rises:
        detail.append(f"random directions raise perplexity by {min(rises):.2f} to {max(rises):.2f}")
    return {"value": value, "low": low, "high": high, "verdict": verdict, "detail": ", ".join(detail)}


def describe_cost(cost: xr.Dataset) -> str:
    """What every dose of the direction breaks, in a sentence, with the random directions beside it.

    Examples:
        >>> settled = ml.load_items(context="disambiguated", limit=8)
        >>> cost = ml.circuits.steering_cost(model, probe, doses=doses, questions=settled, batching=batching)
        >>> print(ml.circuits.describe_cost(cost))
        Cost of steering at layer 3: ... of 8 settled questions are right (guessing: 33 %). dose -1: ...
    """
    perplexity = float(np.exp(cost["surprise"].sel(direction="probe", dose=0.0).mean()))
    right = float(cost["right"].sel(direction="probe", dose=0.0).mean())
    words = []
    for dose in cost["dose"].values[cost["dose"].values != 0].tolist():
        found = cost_of_dose(cost, dose)
        others = [cost_of_dose(cost, dose, str(d)) for d in cost["direction"].values if d != "probe"]
        beside = (
            f" (random directions {100 * max(o['rise'] for o in others):+.1f} % at most)" if others else ""
        )
        words.append(
            f"dose {dose:+g}: perplexity {100 * found['rise']:+.1f} % [{100 * found['rise_low']:+.1f}, "
            f"{100 * found['rise_high']:+.1f}]{beside}, accuracy {100 * found['accuracy']:+.0f} points "
            f"[{100 * found['accuracy_low']:+.0f}, {100 * found['accuracy_high']:+.0f}]"
        )
    return (
        f"Cost of steering at layer {cost.attrs['layer']}: without it, everyday text has perplexity "
        f"{perplexity:.1f} and {100 * right:.0f} % of {cost.sizes['question']} settled questions are right "
        f"(guessing: {100 * float(cost.attrs['guessing']):.0f} %). {'; '.join(words)}."
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
        interaction times the mean gain of steering, the gain taken as known (NaN where there is none, which
        ``attrs["unpredicted"]`` says). Two checks, with ``_low`` and
        ``_high``: ``pure``, the effect of the same exchange in the prompt without both components, and
        ``with_prompt``, the rest of ``mediated``: the interaction of the residual with the prompt; by
        ``fraction`` of the distance ``beyond_linear``, by how much ``mediated`` exceeds what that part of the
        way foretells on a straight line. Results of earlier versions lack the checks.

    Examples:
        >>> mediated = ml.mediate(model, run, probe, layers=[2, 4], batching=batching)
        >>> share = ml.circuits.mediated_share(mediated)
        >>> whole = share["mediated"].sel(way="whole site")
        >>> bool(abs(whole.sel(layer=4)) > abs(whole.sel(layer=2)))
        True
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
    parts |= {**_predicted(mediated, gain), "gain": gain}
    parts |= _checks_of_mediation(mediated, kept)
    attrs = {**mediated.attrs, "refused": ratio.attrs["refused"], "alpha": ratio.attrs["alpha"]}
    unknown = gain["layer"].values[gain.isnull().values].tolist()
    if unknown:
        attrs["unpredicted"] = f"Nothing is predicted at layers {unknown}: steering has no gain there."
    return xr.Dataset(parts, attrs=attrs)


def _predicted(mediated: xr.Dataset, gain: xr.DataArray) -> dict[str, xr.DataArray]:
    """The projection's interaction times the mean gain of steering; NaN at layers without a gain."""
    names = {"predicted": "estimate", "predicted_low": "ci_low", "predicted_high": "ci_high"}
    known = gain.dropna("layer")
    if not known.size:
        return dict.fromkeys(names, xr.full_like(gain, np.nan))
    mean = mean_over_items(mediated["interaction"].sel(layer=known["layer"]) * known)
    return {name: mean[key].reindex(layer=gain["layer"]) for name, key in names.items()}


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
    """The mediated share of an interaction at each layer with its two checks, in sentences.

    Examples:
        >>> mediated = ml.mediate(model, run, probe, layers=[4], batching=batching)
        >>> print(ml.circuits.describe_mediation(mediated))
        instruction:feedback at cot=off in round 2: ... log-odds.
        Layer 4 mediates: whole site ...
    """
    found = mediated_share(mediated)
    attrs = mediated.attrs
    held = f" at {attrs['held_at']}" if attrs["held_at"] else ""
    size = interval_of(found, "tau", "tau_low", "tau_high", signed=True)
    tau = f"{attrs['effect']}{held} in round {attrs['round']}: {size} log-odds."
    notes = [*_notes(mediated), *filter(None, [str(found.attrs.get("unpredicted", ""))])]
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
    return f"{name} {share:.0f} % [{low:.0f}, {high:.0f}] ({signed(mediated)}, rest {signed(rest)})"


def _checks_said(found: xr.Dataset) -> str:
    """The two checks of every way at one layer, in words."""
    smallest = float(found["fraction"].min())
    ways = []
    for way in found["way"].values:
        one = found.sel(way=way, fraction=smallest)
        straight = float(one["mediated"] - one["beyond_linear"])
        ways.append(
            f"{way} {signed(float(one['pure']))} there, so that {_with_interval(one, 'with_prompt')} is an "
            f"interaction of the residual with the prompt; {smallest:g} of the distance foretells "
            f"{signed(straight)}, and {_with_interval(one, 'beyond_linear')} comes with its length"
        )
    return f"The same exchange in the prompt without both components: {'. '.join(ways)}."


def _with_interval(one: xr.Dataset, name: str) -> str:
    return interval_of(one, name, f"{name}_low", f"{name}_high", signed=True)


def _random_detail(random: np.ndarray, p: float) -> str:
    if not random.size:
        return "no random directions tried"
    return f"random directions {np.min(random):.2f} to {np.max(random):.2f}, {is_p(p)}"
