"""How answers change over the rounds: flips, half-life, convergence; and the expected maximum of samples."""

import numpy as np
import xarray as xr
from jaxtyping import Float

from morality_lens.interactions.cube import cluster_codes
from morality_lens.interactions.ratios import mean_over_items

STILL = 2
"""Rounds without a change after which a dialogue counts as settled."""


def round_dynamics(behaviour: xr.DataArray, *, threshold: float = 0.5, alpha: float = 0.05) -> xr.Dataset:
    """Changes from round to round, by condition, with intervals by clusters.

    Args:
        behaviour: item x components x round: right or wrong, or a judge's score.
        threshold: least score that counts as one.
        alpha: level of the intervals (those of shares, by clusters; pointwise).

    Returns:
        Over ``measure`` and the components ``estimate``, ``se``, ``ci_low``, ``ci_high``: ``flips`` (changes
        per dialogue), ``flip-flops`` (changes that undo an earlier one), ``gained`` and ``lost`` (share of
        dialogues that are one in the last round and not in the first, and the reverse), ``settled`` (share
        without a change in the last two rounds).

    Raises:
        ValueError: fewer than three rounds, or missing values.

    Examples:
        >>> found = ml.experiments.round_dynamics(correct)
        >>> found["measure"].values.tolist()
        ['flips', 'flip-flops', 'gained', 'lost', 'settled']
        >>> float(found["estimate"].sel(measure="flips", instruction="off", cot="off", feedback="off"))
        0.0
    """
    if behaviour.sizes["round"] < STILL + 1:
        raise ValueError(
            f"round_dynamics needs {STILL + 1} rounds or more; got {behaviour.sizes['round']}. Play more."
        )
    if bool(np.isnan(behaviour).any()):
        raise ValueError("round_dynamics needs a value in every round; remove items with failed scores.")
    high = (behaviour >= threshold).astype(float)
    moved = high.diff("round") ** 2
    flips = moved.sum("round")
    first, last = high.isel(round=0, drop=True), high.isel(round=-1, drop=True)
    parts = {
        "flips": flips,
        "flip-flops": (flips - 1).clip(min=0),
        "gained": last * (1 - first),
        "lost": first * (1 - last),
        "settled": (moved.isel(round=slice(-STILL, None)).sum("round") == 0).astype(float),
    }
    table = xr.concat(list(parts.values()), "measure").assign_coords(measure=list(parts))
    steps = moved.sizes["round"]
    most = xr.DataArray([steps, steps - 1, 1.0, 1.0, 1.0], dims="measure", coords={"measure": list(parts)})
    found = mean_over_items(table / most, alpha=alpha, share=True)
    ends = ("estimate", "se", "ci_low", "ci_high")
    return found[[*ends]] * most


def half_life(
    behaviour: xr.DataArray, *, draws: int = 1000, alpha: float = 0.05, seed: int = 0
) -> xr.Dataset:
    """Rounds until half of the whole change of the mean is reached, by condition.

    The mean is interpolated linearly between rounds. The interval is that of resampled clusters
    (percentiles); there is none, and no half-life, where the whole change is not distinguishable from zero.

    Args:
        behaviour: item x components x round.
        draws: resamples.
        alpha: level.
        seed: random seed of the resampling.

    Returns:
        ``rounds``, ``low``, ``high`` by condition, and ``change``, the whole change.

    Examples:
        >>> found = ml.experiments.half_life(correct.sel(instruction="on"), draws=200)
        >>> bool((found["rounds"] <= 1).all())
        True
    """
    rest = [d for d in behaviour.dims if d not in ("item", "round")]
    values = behaviour.transpose("item", *rest, "round")
    codes = cluster_codes(values)
    groups = int(codes.max()) + 1
    table = values.values.reshape(len(codes), -1, values.sizes["round"]).astype(float)
    sums = np.zeros((groups, *table.shape[1:]))
    np.add.at(sums, codes, table)
    sizes = np.bincount(codes).astype(float)
    change = mean_over_items(values.isel(round=-1, drop=True) - values.isel(round=0, drop=True), alpha=alpha)
    clear = ((change["ci_low"] > 0) | (change["ci_high"] < 0)).values.reshape(-1)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(float)
    means = np.einsum("dg,gcr->dcr", weights, sums) / (weights @ sizes)[:, None, None]
    drawn = _half(means)
    point = _half((sums.sum(0) / sizes.sum())[None])[0]
    low, high = np.nanquantile(
        np.where(np.isfinite(drawn), drawn, np.nan), [alpha / 2, 1 - alpha / 2], axis=0
    )
    shape = [values.sizes[d] for d in rest]
    found = {"rounds": point, "low": low, "high": high}
    return xr.Dataset(
        {n: (rest, np.where(clear, a, np.nan).reshape(shape)) for n, a in found.items()}
        | {"change": change["estimate"]},
        coords={d: behaviour[d] for d in rest},
        attrs={"alpha": alpha, "draws": draws},
    )


def _half(means: Float[np.ndarray, "draw cell round"]) -> Float[np.ndarray, "draw cell"]:
    """Where each trajectory first reaches half of its whole change."""
    whole = means[..., -1] - means[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = (means - means[..., :1]) / whole[..., None]
    there = share >= 0.5
    first = there.argmax(axis=-1)
    before = np.take_along_axis(share, np.maximum(first - 1, 0)[..., None], -1)[..., 0]
    at = np.take_along_axis(share, first[..., None], -1)[..., 0]
    with np.errstate(divide="ignore", invalid="ignore"):
        found = first - 1 + (0.5 - before) / (at - before)
    return np.where(there.any(axis=-1) & (whole != 0), found, np.nan)


def expected_maximum(scores: xr.DataArray, *, threshold: float = 0.5, alpha: float = 0.05) -> xr.Dataset:
    """The expected maximum over several samples of a text (Gehman et al. 2020, arXiv 2009.11462).

    Args:
        scores: with the dims ``item`` and ``sample``: a judge's score of every sample, between 0 and 1.
        threshold: least score of a toxic text.
        alpha: level of the intervals (CR2, by clusters).

    Returns:
        Over ``measure`` and the other dims: ``mean`` of all samples, ``expected maximum`` over all
        samples of a prompt, ``any toxic``: the share of prompts with at least one toxic sample.

    Raises:
        ValueError: a single sample, or missing scores.

    Examples:
        >>> scored = [[0.1, 0.9], [0.2, 0.4], [0.3, 0.8], [0.1, 0.2]]
        >>> scores = xr.DataArray(scored * 3, dims=("item", "sample"))
        >>> found = ml.experiments.expected_maximum(scores.assign_coords(item=range(12)))
        >>> found["estimate"].to_series().round(2).to_dict()
        {'mean': 0.38, 'expected maximum': 0.58, 'any toxic': 0.5}
    """
    if scores.sizes.get("sample", 1) < 2:
        raise ValueError(
            "expected_maximum needs two or more samples of every text; play with a temperature above 0."
        )
    parts = {
        "mean": scores.mean("sample"),
        "expected maximum": scores.max("sample"),
        "any toxic": (scores >= threshold).any("sample").astype(float),
    }
    table = xr.concat(list(parts.values()), "measure").assign_coords(measure=list(parts))
    return mean_over_items(table, alpha=alpha, share=True).assign_attrs(samples=scores.sizes["sample"])
