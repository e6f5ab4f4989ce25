"""What patching, steering and ablation amount to: recovered shares, slopes, verdicts, mediated shares."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.interactions.ratios import mean_over_items, ratio_of_means
from morality_lens.probes.card import RULES

MEDIATED = 0.5
"""Share of the components' effect from which on a direction silences it."""


def recovered(patched: xr.Dataset, *, of: str = "log_odds", read_layer: int | None = None) -> xr.Dataset:
    """How much of the difference between source and target a patch brings back.

    The mean of patched - target over the mean of source - target, with Fieller's interval: 0 where a patch
    does nothing, 1 where it makes the target like the source.

    Args:
        patched: from :func:`morality_lens.circuits.patch`.
        of: ``log_odds`` or ``projection``.
        read_layer: where the projection is read; None: the last layer.

    Returns:
        ``ratio``, ``low``, ``high`` over place and layer (and head), ``shift`` with ``shift_low`` and
        ``shift_high``, the mean of patched - target, and ``difference``, that of source - target.

    Raises:
        ValueError: nothing of that kind was measured.
    """
    if of not in ("log_odds", "projection") or of not in patched:
        there = [name for name in ("log_odds", "projection") if name in patched]
        raise ValueError(f"these patches have {', '.join(there) or 'no measure'}; got {of!r}.")
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
    """By how much one gap moves each item's log-odds: least squares through the point of dose 0.

    Args:
        steered: from :func:`morality_lens.circuits.steer`.

    Raises:
        ValueError: the items have no options.
    """
    if "log_odds" not in steered:
        raise ValueError("slopes need items with options, whose log-odds steering moves.")
    change = steered["log_odds"] - steered["log_odds"].sel(dose=0.0)
    dose = steered["dose"]
    return (change * dose).sum("dose") / float((dose**2).sum())


def ablated_share(ablated: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Share of the components' effect on the log-odds that is gone under every ablation.

    Args:
        ablated: under ``on`` and ``off``, :func:`morality_lens.circuits.ablate` of the same items with
            all components, and without any.

    Returns:
        ``ratio``, ``low``, ``high`` by ablation, and ``bottom``, the effect itself; NaN where it is not told
        from zero.
    """
    effect = ablated["on"]["target_log_odds"] - ablated["off"]["target_log_odds"]
    left = ablated["on"]["log_odds"] - ablated["off"]["log_odds"]
    return ratio_of_means(effect - left, effect)


def causal_lines(steered: xr.Dataset, ablated: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """The trust card's lines ``steer`` and ``silence`` (``card.with_lines`` takes them).

    Args:
        steered: from :func:`morality_lens.circuits.steer`.
        ablated: as in :func:`ablated_share`.
    """
    slopes = steering_slopes(steered)
    mean = mean_over_items(slopes)
    own = mean.sel(direction="probe")
    random = mean["estimate"].drop_sel(direction="probe").values
    beaten = float((1 + np.sum(np.abs(random) >= abs(float(own["estimate"])))) / (1 + random.size))
    low = float(own["ci_low"])
    steers = "pass" if low > 0 and beaten < 0.05 else "warn" if low > 0 else "fail"
    layer = int(steered.attrs["layer"])
    found = ablated_share(ablated)
    share = found.sel(ablation="direction")
    names = [name for name in found["ablation"].values if str(name).startswith("random")]
    others = found["ratio"].sel(ablation=names).values
    value, end = float(share["ratio"]), float(share["low"])
    if np.isnan(value):
        silences, detail = "not checked", "the components have no effect to silence"
    else:
        beyond = bool(end > 0 and (others < value).all())
        silences = "fail" if not beyond else "pass" if value >= MEDIATED else "warn"
        detail = f"random directions {np.min(others):.2f} to {np.max(others):.2f}" if others.size else ""
    moved = f"layer {layer}, {_random_detail(random, beaten)}"
    held = f"from layer {ablated['on'].attrs['layers'][0]} on{', ' if detail else ''}{detail}"
    rows = [
        ("steer", float(own["estimate"]), low, float(own["ci_high"]), steers, moved),
        ("silence", value, end, float(share["high"]), silences, held),
    ]
    return pd.DataFrame(
        [
            {
                "line": name,
                "layer": layer,
                "value": v,
                "low": a,
                "high": b,
                "rule": RULES[name],
                "verdict": verdict,
                "detail": said,
            }
            for name, v, a, b, verdict, said in rows
        ]
    )


def mediated_share(mediated: xr.Dataset) -> xr.Dataset:
    """What an interaction's mediation comes to, by layer and way.

    Args:
        mediated: from :func:`morality_lens.circuits.mediate`.

    Returns:
        ``mediated`` and ``rest`` (its exact complement) with ``_low`` and ``_high``, their sum ``tau`` with
        its interval; ``share``, ``share_low``, ``share_high`` (Fieller; NaN and ``attrs["refused"]`` where
        tau is not told from zero); and ``predicted`` with its interval: the projection's interaction times
        the mean gain of steering, the gain taken as known.
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
    return xr.Dataset(
        parts, attrs={**mediated.attrs, "refused": ratio.attrs["refused"], "alpha": ratio.attrs["alpha"]}
    )


def describe_mediation(mediated: xr.Dataset) -> str:
    """Which share of an interaction the representation bears at which layer, in sentences."""
    found = mediated_share(mediated)
    tau = (
        f"{mediated.attrs['effect']} at {mediated.attrs['held_at']} in round {mediated.attrs['round']}: "
        f"{float(found['tau']):+.3f} [{float(found['tau_low']):+.3f}, {float(found['tau_high']):+.3f}] "
        "log-odds."
    )
    if found.attrs["refused"]:
        return f"{tau} {found.attrs['refused']}"
    lines = [tau]
    for layer in found["layer"].values:
        said = []
        for way in found["way"].values:
            one = found.sel(layer=layer, way=way)
            said.append(
                f"{way} {100 * float(one['share']):.0f} % [{100 * float(one['share_low']):.0f}, "
                f"{100 * float(one['share_high']):.0f}] ({float(one['mediated']):+.3f}, rest "
                f"{float(one['rest']):+.3f})"
            )
        lines.append(f"Layer {int(layer)} bears: {'; '.join(said)}.")
    return "\n".join(lines)


def _random_detail(random: np.ndarray, p: float) -> str:
    if not random.size:
        return "no random directions tried"
    return f"random directions {np.min(random):.2f} to {np.max(random):.2f}, p {p:.3f}"
