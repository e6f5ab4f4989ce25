"""Means over items and ratios of such means, with intervals by clusters."""

import numpy as np
import xarray as xr
from scipy.special import stdtrit

from morality_lens.interactions.cube import cluster_codes
from morality_lens.interactions.intervals import (
    bell_mccaffrey_df,
    cluster_sums,
    settled_mean,
    share_intervals,
)


def mean_over_items(
    values: xr.DataArray, *, alpha: float = 0.05, share: bool = False, span: float = 0.0
) -> xr.Dataset:
    """Mean over ``item`` with its interval over clusters, at every other place.

    Differences have the interval of :func:`morality_lens.interactions.intervals.judge` (CR2, t with
    Bell-McCaffrey df, corrected for skewness). Shares have one that stays inside [0, 1]: that of
    :func:`morality_lens.interactions.intervals.share_intervals` joined with the former where clusters
    hold several items, which covers in .93
    or more of the draws at shares of .5 to .999, 8 to 50 clusters and correlations of up to .5 within them.

    Args:
        values: with the dim ``item``; a coordinate ``cluster`` along it says which items are dependent.
        alpha: level of the interval.
        share: whether the values are shares, probabilities or outcomes of 0 and 1, and no differences.
        span: the largest difference that an item can show, where there is one (1 for differences of shares):
            no change among the items seen then leaves room for some among the others.

    Returns:
        ``estimate``, ``se``, ``df``, ``skew``, ``ci_low``, ``ci_high`` and ``p`` (of a mean of zero; NaN for
        shares, which are not compared with zero); pointwise.

    Raises:
        ValueError: missing values, shares outside [0, 1], or fewer than two clusters.

    Examples:
        >>> found = ml.interactions.mean_over_items(correct, share=True)
        >>> bool((found["ci_low"] <= found["estimate"]).all())
        True
    """
    rest = [d for d in values.dims if d != "item"]
    moved = values.transpose("item", *rest)
    table = _finite(moved).reshape(moved.sizes["item"], -1)
    if share and not ((table > -1e-6) & (table < 1 + 1e-6)).all():
        raise ValueError(
            f"shares lie between 0 and 1; got numbers from {table.min():.3g} to {table.max():.3g}. Use "
            "mean_over_items without share=True."
        )
    if not 0 < alpha < 1:
        raise ValueError(f"an interval needs alpha between 0 and 1; got {alpha}. Use for example 0.05.")
    sums, sizes = _sums(values, table)
    eps = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    largest = np.abs(table).max(axis=0, initial=0.0)
    rounding = largest * (4 * eps + 1e-12)
    seen = np.where(largest > rounding, largest, 0.0)
    found = settled_mean(sums, sizes, rounding, alpha=alpha, span=np.maximum(span, seen))
    low, high, p = found.low, found.high, found.p
    if share:
        whole = np.asarray(np.isin(table, (0.0, 1.0)).all(axis=0))
        inner = share_intervals(sums, sizes, alpha=alpha, whole=whole)
        still = (found.se == 0) | bool(sizes.max() == 1)  # independent items need no more
        low = np.maximum(np.where(still, inner[0], np.minimum(inner[0], low)), 0.0)
        high = np.minimum(np.where(still, inner[1], np.maximum(inner[1], high)), 1.0)
        p = np.full_like(p, np.nan)
    parts = {
        "estimate": found.estimate,
        "se": found.se,
        "df": found.df,
        "skew": found.skew,
        "ci_low": low,
        "ci_high": high,
        "p": p,
    }
    shape = [moved.sizes[d] for d in rest]
    return xr.Dataset(
        {name: (rest, array.reshape(shape)) for name, array in parts.items()},
        coords={name: c for name, c in values.coords.items() if "item" not in c.dims},
        attrs={"alpha": alpha, "n_items": moved.sizes["item"], "n_clusters": len(sizes)},
    )


def ratio_of_means(top: xr.DataArray, bottom: xr.DataArray, *, alpha: float = 0.05) -> xr.Dataset:
    """Mean of ``top`` over the mean of ``bottom``, with Fieller's interval; never a mean of ratios.

    With the means N and D, their CR2 (co)variances V and t with Bell-McCaffrey df the interval holds every r
    with (N - r D)^2 <= t^2 (V_NN - 2 r V_ND + r^2 V_DD). It is bounded where D is distinguishable from
    zero; elsewhere no ratio is given, and all three numbers are NaN (Fieller 1954).

    Args:
        top: with the dim ``item``.
        bottom: the same items, with the dim ``item`` and any of the others.
        alpha: level of the interval.

    Returns:
        ``ratio``, ``low``, ``high``, and ``bottom``, the denominator's mean; ``attrs["refused"]`` says where
        there is none, or is empty.

    Raises:
        ValueError: missing values, other items, or fewer than two clusters.
    """
    if not np.array_equal(top["item"], bottom["item"]):
        raise ValueError("ratio_of_means needs the same items above and below; align them first.")
    below = xr.zeros_like(top) + bottom
    rest = [d for d in top.dims if d != "item"]
    above = _finite(top.transpose("item", *rest)).reshape(top.sizes["item"], -1)
    under = _finite(below.transpose("item", *rest)).reshape(top.sizes["item"], -1)
    sums, sizes = _sums(top, np.concatenate([above, under], axis=1))
    total = sizes.sum()
    n, d = np.split(sums.sum(axis=0) / total, 2)
    centred = sums - sizes[:, None] * np.concatenate([n, d])
    weight = 1 / (1 - sizes / total)[:, None] / total**2
    one, two = np.split(centred, 2, axis=1)
    v_nn, v_nd, v_dd = ((weight * a * b).sum(axis=0) for a, b in ((one, one), (one, two), (two, two)))
    t = float(stdtrit(bell_mccaffrey_df(sizes), 1 - alpha / 2))
    a = d**2 - t**2 * v_dd
    clear = a > 1e-12 * np.maximum(d**2, 1e-300)
    safe = np.where(clear, a, 1.0)
    middle = n * d - t**2 * v_nd
    root = np.sqrt(np.maximum(middle**2 - safe * (n**2 - t**2 * v_nn), 0.0))
    shape = [top.sizes[x] for x in rest]
    ratio = np.divide(n, d, out=np.full_like(n, np.nan), where=clear)
    parts = {
        "ratio": ratio,
        "low": np.where(clear, (middle - root) / safe, np.nan),
        "high": np.where(clear, (middle + root) / safe, np.nan),
        "bottom": d,
    }
    refused = (
        ""
        if clear.all()
        else (
            f"No ratio where the denominator is not distinguishable from zero (at level {alpha:g}): "
            f"{np.sum(~clear)} of {clear.size} places. Add items, or look at the differences themselves."
        )
    )
    return xr.Dataset(
        {name: (rest, array.reshape(shape)) for name, array in parts.items()},
        coords={name: c for name, c in top.coords.items() if "item" not in c.dims},
        attrs={"alpha": alpha, "refused": refused},
    )


def _sums(values: xr.DataArray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    codes = cluster_codes(values)
    if len(np.unique(codes)) < 2:
        raise ValueError("an interval over items needs at least two clusters; add items from other clusters.")
    return cluster_sums(table, codes)


def _finite(values: xr.DataArray) -> np.ndarray:
    numbers = values.values.astype(np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError(
            f"a mean over items needs finite numbers; {np.sum(~np.isfinite(numbers))} of {numbers.size} are "
            "not. Select the items or places that have them."
        )
    return numbers
