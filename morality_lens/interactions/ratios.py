"""Means over items and ratios of such means, with intervals by clusters."""

import numpy as np
import xarray as xr
from scipy.special import stdtr, stdtrit

from morality_lens.interactions.cube import cluster_codes
from morality_lens.interactions.intervals import ends, hall
from morality_lens.interactions.resampling import bell_mccaffrey_df, cluster_sums, mean_over_clusters


def mean_over_items(values: xr.DataArray, *, alpha: float = 0.05, share: bool = False) -> xr.Dataset:
    """Mean over ``item`` with its interval, at every other place.

    Args:
        values: with the dim ``item``; a coordinate ``cluster`` along it says which items are dependent.
        alpha: level of the interval.
        share: whether the values are shares.

    Returns:
        ``estimate``, ``se``, ``df``, ``skew``, ``ci_low``, ``ci_high`` and ``p``; pointwise.

    Raises:
        ValueError: missing values, or fewer than two clusters.
    """
    rest = [d for d in values.dims if d != "item"]
    moved = values.transpose("item", *rest)
    table = _finite(moved).reshape(moved.sizes["item"], -1)
    sums, sizes = _sums(values, table)
    found = mean_over_clusters(sums, sizes, alpha=alpha)
    groups = len(sizes)
    centred = sums - sizes[:, None] * found.estimate
    second = (centred**2).sum(axis=0)
    skew = np.divide((centred**3).sum(axis=0), second**1.5, out=np.zeros_like(second), where=second > 0)
    skew = skew * (groups / (groups - 1)) ** 0.5
    low, high = ends(found.estimate, found.se, skew, found.df, alpha)
    u = 1 - (alpha / 2) ** (1 / groups)
    flat = found.se < 1e-12
    c = found.estimate
    reach = np.where(np.abs(c) < 1e-12, u, 2 * u * np.abs(c))
    low, high = np.where(flat, c - reach, low), np.where(flat, c + reach, high)
    if share:
        low = np.where(flat, c - u * c, np.maximum(low, 0))
        high = np.where(flat, c + u * (1 - c), np.minimum(high, 1))
        low, high = np.where(c <= 1e-12, 0, low), np.where(c >= 1 - 1e-12, 1, high)
    x = hall(np.divide(c, found.se, out=np.zeros_like(c), where=~flat), skew)
    p = np.where(flat, np.where(np.abs(c) < 1e-12, 1.0, 2.0 ** (1 - groups)), 2 * stdtr(found.df, -np.abs(x)))
    parts = {
        "estimate": c,
        "se": np.where(flat, 0, found.se),
        "df": found.df,
        "skew": skew,
        "ci_low": low,
        "ci_high": high,
        **({} if share else {"p": p}),
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
