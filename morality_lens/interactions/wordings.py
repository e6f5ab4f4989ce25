"""Effects over wordings: items and wordings are both samples, and both enter the interval."""

import itertools
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float

from morality_lens.interactions.carried import without_refits
from morality_lens.interactions.caveats import too_many_failed
from morality_lens.interactions.contrasts import Pairs, compared_levels
from morality_lens.interactions.cube import cluster_codes, factors_of, room_of
from morality_lens.interactions.intervals import (
    cluster_sums,
    judge,
    mean_over_clusters,
    settle,
    settled_mean,
    without_variance,
)
from morality_lens.interactions.numbers import interval_of, number, signed


def effects_over_wordings(
    cube: xr.DataArray, factors: Sequence[str] | None = None, *, alpha: float = 0.05
) -> xr.Dataset:
    """Factorial effects over items and wordings: do they hold for wordings like these, not for these alone?

    The effect is the mean over items and wordings of the contrast. Its variance has a part from the items
    (CR2 over clusters of each item's mean over wordings), a part from the wordings (variance of their means
    over their number), less what both hold of the residue, which is counted twice (Cameron, Gelbach and
    Miller 2011); never less than the larger of the two. Degrees of freedom after Satterthwaite, so that few
    wordings that differ give a wide interval.

    Args:
        cube: with the dims ``item``, ``wording``, the factors and any others.
        factors: names of the factors, of two levels each (or ``off`` and ``on`` among them); None takes all.
        alpha: level of the intervals.

    Returns:
        Over ``effect`` and the other dims: ``estimate, se, df, skew, p, ci_low, ci_high`` (where
        nothing varies those of :func:`morality_lens.interactions.intervals.settle`); ``spread``, the standard
        deviation of the effect between wordings beyond chance; ``by_wording``, each wording's own effect,
        with ``by_wording_low`` and ``by_wording_high``. ``attrs["withheld"]`` says why there are no p and no
        intervals where too many answers could not be read.

    Raises:
        ValueError: fewer than two wordings or clusters, a level or dim that is missing, or missing values.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> cube = xr.DataArray(
        ...     rng.normal(size=(4, 20, 2)) + [0.0, 1.0],
        ...     dims=("wording", "item", "feedback"),
        ...     coords={"wording": range(4), "item": range(20), "feedback": ["off", "on"]},
        ... )
        >>> over = ml.interactions.effects_over_wordings(cube).sel(effect="feedback")
        >>> [round(float(over[name]), 1) for name in ("ci_low", "estimate", "ci_high")]
        [0.6, 1.2, 1.6]
    """
    factors = factors_of(cube) if factors is None else factors
    needed = {"item", "wording", *factors}
    if not needed <= set(cube.dims):
        raise ValueError(f"effects_over_wordings needs the dims {sorted(needed)}; got {cube.dims}.")
    if cube.sizes["wording"] < 2:
        raise ValueError("effects_over_wordings needs two or more wordings; play the items in further ones.")
    codes = cluster_codes(cube)
    if len(np.unique(codes)) < 2:
        raise ValueError("effects_over_wordings needs items of two or more clusters; play further ones.")
    pairs = compared_levels(factors, "total", cube)
    for name, pair in pairs.items():
        if not set(pair) <= set(cube[name].values.tolist()):
            raise ValueError(
                f"{name} needs the levels {' and '.join(pair)}; it has {cube[name].values.tolist()}."
            )
    if bool(np.isnan(cube).any()):
        raise ValueError(
            "effects_over_wordings needs every item in every wording; leave out incomplete ones."
        )
    names = [c for size in range(1, len(factors) + 1) for c in itertools.combinations(factors, size)]
    withheld = too_many_failed(cube)
    room = room_of(cube) * xr.DataArray([2.0 ** (len(effect) - 1) for effect in names], dims="effect")
    contrasts = xr.concat([_contrast(cube, effect, pairs) for effect in names], "effect")
    rest = [d for d in contrasts.dims if d not in ("item", "wording")]
    table = contrasts.transpose("item", "wording", *rest)
    flat = table.values.reshape(*table.shape[:2], -1)
    if "round" in table.coords:  # conditions share one answer there
        room = room * (table["round"] != 0)
    span = (room * xr.ones_like(table.isel(item=0, wording=0, drop=True))).transpose(*rest).values.ravel()
    found = _two_way(flat, codes, span, alpha)
    if withheld:
        found |= {name: np.full_like(found[name], np.nan) for name in ("p", "ci_low", "ci_high")}
    shape = [table.sizes[d] for d in rest]
    data = {name: (rest, array.reshape(shape)) for name, array in found.items() if array.ndim == 1}
    data |= {
        name: (["wording", *rest], array.reshape(-1, *shape))
        for name, array in found.items()
        if array.ndim == 2
    }
    coords = {n: c for n, c in cube.coords.items() if n in rest or n == "wording"}
    return xr.Dataset(
        data,
        coords={**coords, "effect": [":".join(effect) for effect in names]},
        attrs={
            **without_refits(cube.attrs),
            "withheld": withheld,
            "alpha": alpha,
            "n_items": table.shape[0],
            "n_wordings": table.shape[1],
        },
    )


def _contrast(cube: xr.DataArray, effect: tuple[str, ...], pairs: Pairs) -> xr.DataArray:
    for name, (low, high) in pairs.items():
        on, off = cube.sel({name: high}, drop=True), cube.sel({name: low}, drop=True)
        cube = on - off if name in effect else (on + off) / 2
    return cube


def _two_way(
    table: Float[np.ndarray, "item wording place"],
    codes: np.ndarray,
    span: Float[np.ndarray, " place"],
    alpha: float,
) -> dict[str, np.ndarray]:
    n, w, _ = table.shape
    sums, sizes = cluster_sums(table.mean(axis=1), codes)
    items = mean_over_clusters(sums, sizes, alpha=alpha)
    v_items = items.se**2
    by_wording = table.mean(axis=0)
    v_wordings = by_wording.var(axis=0, ddof=1) / w
    # What is left of each cluster and wording beside the two means is in both parts.
    residue = table - table.mean(axis=1, keepdims=True) - by_wording[None] + table.mean(axis=(0, 1))
    pieces = np.stack([cluster_sums(residue[:, k], codes)[0] for k in range(w)])
    groups = len(sizes)
    correction = groups / (groups - 1) * w / (w - 1)
    v_both = correction * (pieces**2).sum(axis=(0, 1)) / (n * w) ** 2
    total = np.maximum(v_items + v_wordings - v_both, np.maximum(v_items, v_wordings))
    with np.errstate(divide="ignore", invalid="ignore"):
        df = total**2 / (v_items**2 / items.df + v_wordings**2 / (w - 1))
    df = np.where(np.isfinite(df), df, items.df)
    share = np.divide(v_items, total, out=np.zeros_like(total), where=total > 0)
    rounding = np.abs(table).max(axis=(0, 1), initial=0.0) * 1e-12
    flat, whole = np.abs(np.ptp(by_wording, axis=0)) <= rounding, table.mean(axis=1)
    still = [kind & flat for kind in without_variance(*cluster_sums(whole, codes), rounding)]
    se = np.where(still[0] | still[1], 0.0, np.sqrt(total))
    found = settle(
        judge(table.mean(axis=(0, 1)), se, df, items.skew * share**1.5, alpha=alpha),
        *still,
        n_clusters=groups,
        alpha=alpha,
        span=span,
    )
    own = [
        settled_mean(*cluster_sums(table[:, k], codes), rounding, alpha=alpha, span=span) for k in range(w)
    ]
    return {
        "estimate": found.estimate,
        "se": found.se,
        "df": found.df,
        "skew": found.skew,
        "p": found.p,
        "ci_low": found.low,
        "ci_high": found.high,
        "spread": np.sqrt(np.maximum(0.0, v_wordings - v_both) * w),
        "by_wording": by_wording,
        "by_wording_low": np.stack([o.low for o in own]),
        "by_wording_high": np.stack([o.high for o in own]),
    }


def describe_wordings(found: xr.Dataset) -> str:
    """Every effect over wordings in a line (at one place), or why there are no intervals.

    Examples:
        >>> cube = xr.concat([correct.sel(round=2)] * 3, "wording").assign_coords(wording=range(3))
        >>> over = ml.interactions.effects_over_wordings(cube)
        >>> print(ml.interactions.describe_wordings(over))
        instruction: ... over 3 wordings, whose own effects run from ...
    """
    if found.attrs.get("withheld"):
        return str(found.attrs["withheld"])
    lines = []
    for name in found["effect"].values:
        one = found.sel(effect=name)
        each = one["by_wording"].values
        if float(one["se"]) == 0:
            lines.append(
                f"{name}: {signed(float(one['estimate']))} in every item and each of {len(each)} wordings, "
                "so that there is no interval: what did not vary here may vary in others."
            )
            continue
        lines.append(
            f"{name}: {interval_of(one, signed=True)} over {len(each)} wordings, "
            f"whose own effects run from {signed(each.min())} to {signed(each.max())} (beyond chance they "
            f"vary with a standard deviation of {number(float(one['spread']))})."
        )
    return "\n".join(lines)
