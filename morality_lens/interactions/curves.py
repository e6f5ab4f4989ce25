"""Means over items along a curve, such as a value at every layer: bands, and from where on it holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from morality_lens.interactions.contrasts import read_contrasts
from morality_lens.interactions.cube import cluster_codes, read_cube
from morality_lens.interactions.effects import Families
from morality_lens.interactions.intervals import (
    cluster_sums,
    half_widths,
    mean_over_clusters,
    settle,
    without_variance,
)
from morality_lens.interactions.resampling import MIN_CLUSTERS, Draws, FamilyWise, family_wise, visibly_skewed


@dataclass(frozen=True, kw_only=True)
class Resampled:
    """How clusters are resampled, and at which level.

    Attributes:
        draws: how many.
        alpha: level of intervals and bands.
        seed: of the draws.
    """

    draws: int = 2000
    alpha: float = 0.05
    seed: int = 0


def mean_curves(
    values: xr.DataArray, *, family: Sequence[str] = ("layer",), how: Resampled = Resampled()
) -> xr.Dataset:
    """Means over items at every place, with pointwise intervals and bands that hold together.

    Args:
        values: finite numbers with the dim ``item``; a coordinate ``cluster`` along it says which items are
            dependent.
        family: the dims over which a band holds together; every index of the others has a band of its own.
        how: resampling.

    Returns:
        ``estimate``, ``se``, ``df``, ``skew``, ``p`` (of a mean of zero) and ``ci_low``, ``ci_high``,
        pointwise; ``p_adj``, ``band_low``, ``band_high`` within the family, made as those of
        :func:`morality_lens.interactions.factorial_effects`; NaN with fewer than 8 clusters, as ``attrs``
        say in ``no_band``.

    Raises:
        ValueError: missing values, or fewer than two clusters.
    """
    rest = tuple(str(d) for d in values.dims if d != "item")
    sums, sizes, rounding = _by_cluster(values, rest)
    zero, constant = without_variance(sums, sizes, rounding)
    point = mean_over_clusters(sums, sizes, alpha=how.alpha)
    judged = settle(point, zero, constant, n_clusters=len(sizes), alpha=how.alpha)
    shape = tuple(values.sizes[d] for d in rest)
    families = Families.over(rest, shape, family)
    live = ~(zero | constant)
    t = np.divide(judged.estimate, judged.se, out=np.zeros_like(judged.se), where=live & (judged.se > 0))
    enough = len(sizes) >= MIN_CLUSTERS
    found = FamilyWise.absent(families.n_families, families.n_tests)
    if enough:
        grouped = families.split(np.where(live, sums, 0.0), leading=True)
        found = family_wise(
            grouped,
            sizes,
            families.split(t),
            families.split(judged.skew),
            visibly_skewed(grouped, sizes),
            Draws(count=how.draws, seed=how.seed),
            alpha=how.alpha,
        )
    critical = families.join(np.repeat(found.critical[:, None], families.n_tests, axis=1))
    below, above = half_widths(np.maximum(critical, judged.critical), families.join(found.skew))
    p = np.where(constant, 1 / max(found.draws_used, 1), families.join(found.p))
    # an estimate that is the same in all clusters keeps its pointwise interval
    below, above = (np.where(live, side * judged.se, 0.0) for side in (below, above))
    columns = {
        "estimate": judged.estimate,
        "se": judged.se,
        "df": judged.df,
        "skew": judged.skew,
        "p": judged.p,
        "ci_low": judged.low,
        "ci_high": judged.high,
        "p_adj": np.maximum(p, judged.p) if enough else np.full_like(p, np.nan),
        "band_low": np.minimum(judged.low, judged.estimate - below) if enough else np.full_like(p, np.nan),
        "band_high": np.maximum(judged.high, judged.estimate + above) if enough else np.full_like(p, np.nan),
    }
    return xr.Dataset(
        {name: (rest, column.reshape(shape)) for name, column in columns.items()},
        coords={name: c for name, c in values.coords.items() if "item" not in c.dims},
        attrs={
            "alpha": how.alpha,
            "draws_used": found.draws_used,
            "family": families.words,
            "n_items": values.sizes["item"],
            "n_clusters": len(sizes),
            "no_band": "" if enough else _too_few(len(sizes)),
        },
    )


def onsets(values: xr.DataArray, *, how: Resampled = Resampled()) -> xr.Dataset:
    """From which layer on a mean over items is there: differs from zero, and has half of its last value.

    Args:
        values: finite numbers with the dims ``item`` and ``layer``; any others are curves of their own.
        how: resampling of whole clusters.

    Returns:
        By curve: ``final``, ``final_low``, ``final_high``: the mean at the last layer, pointwise. ``first``:
        the first layer from which on the band that holds over all layers excludes zero, on the side of the
        final value. ``half``: the first layer from which on the mean is at least half of the final value,
        with ``half_low``, ``half_high`` (percentiles of a bootstrap of clusters). NaN where there is none:
        ``told`` says of which curves the final value differs from zero, so that half of it means something.
        ``attrs`` say why there is no answer at all (``refused``).

    Raises:
        ValueError: missing values, or fewer than two clusters.
    """
    moved = values.transpose(..., "layer")
    curves = mean_curves(moved, how=how)
    layers = moved["layer"].values
    one = curves.isel(layer=-1)
    told = (one["ci_low"] > 0) | (one["ci_high"] < 0)
    sign = np.sign(one["estimate"])
    side = xr.where(sign > 0, curves["band_low"], -curves["band_high"])
    clear = (side > 0).transpose(..., "layer").values
    first = np.where(clear[..., -1], _labelled(layers, _since(clear)), np.nan)
    found = xr.Dataset(
        {
            "final": one["estimate"],
            "final_low": one["ci_low"],
            "final_high": one["ci_high"],
            "first": (told.dims, first),
            "told": told,
        },
        attrs={**curves.attrs, "refused": curves.attrs["no_band"]},
    ).drop_vars("layer")
    drawn = half_places(moved, how)
    low, high = _ends(drawn.values, how.alpha)
    known = told.values & (not found.attrs["refused"])
    for name, places in (("half", drawn.attrs["seen"]), ("half_low", low), ("half_high", high)):
        found[name] = (told.dims, np.where(known, _labelled(layers, places), np.nan))
    return found


def half_places(values: xr.DataArray, how: Resampled) -> xr.DataArray:
    """The place among the layers from which on the mean has half of its last value, in bootstrap samples.

    A sample whose last value has the other sign than the observed one counts as formed at the last layer.

    Returns:
        [draw, curves]; ``attrs["seen"]`` holds the place in the data themselves.
    """
    moved = values.transpose("item", ..., "layer")
    rest = tuple(str(d) for d in moved.dims if d != "item")
    sums, sizes, _ = _by_cluster(moved, rest)
    shape = [moved.sizes[d] for d in rest]
    rng = np.random.default_rng(how.seed)
    weights = rng.multinomial(len(sizes), np.full(len(sizes), 1 / len(sizes)), size=how.draws)
    means = einsum(weights.astype(float), sums, "draw cluster, cluster place -> draw place")
    means = (means / (weights @ sizes)[:, None]).reshape(how.draws, *shape)
    seen = (sums.sum(axis=0) / sizes.sum()).reshape(shape)
    drawn = _half(means, np.sign(seen[..., -1]))
    coords = {name: c for name, c in moved.coords.items() if not {"item", "layer"} & set(c.dims)}
    return xr.DataArray(
        drawn,
        dims=("draw", *rest[:-1]),
        coords={name: c for name, c in coords.items() if name != "layer"},
        attrs={"seen": _half(seen, np.sign(seen[..., -1]))},
    )


def earlier_or_later(values: xr.DataArray, than: xr.DataArray, *, how: Resampled = Resampled()) -> xr.Dataset:
    """By how many layers curves reach half of their last value after another curve does, in the same samples.

    Args:
        values: curves over ``layer``, with ``item``.
        than: the curve that they are compared with, of the same items, layers, and any of the other dims.
        how: resampling; both are drawn from the same clusters at once.

    Returns:
        ``places``: the distance in stored layers, with ``low`` and ``high``; negative where a curve is
        earlier.

    Raises:
        ValueError: other items or layers, missing values, or fewer than two clusters.
    """
    for dim in ("item", "layer"):
        if not np.array_equal(values[dim], than[dim]):
            raise ValueError(f"two curves are compared over the same {dim}s; align them first.")
    one, other = half_places(values, how), half_places(than, how)
    seen = one.isel(draw=0).copy(data=one.attrs["seen"]) - other.isel(draw=0).copy(data=other.attrs["seen"])
    gap = (one - other).transpose("draw", *seen.dims)
    low, high = _ends(gap.values, how.alpha)
    return xr.Dataset({"places": seen, "low": (seen.dims, low), "high": (seen.dims, high)})


def correlations(one: xr.DataArray, other: xr.DataArray, *, alpha: float = 0.05) -> xr.Dataset:
    """Correlations of two values over items and conditions, with intervals by clusters.

    Args:
        one: with the dims ``item`` and ``layer``, any factors, and ``round``.
        other: the same items and places.
        alpha: level of the intervals: a jackknife of whole clusters on Fisher's z.

    Returns:
        ``r``, ``low``, ``high`` over ``across`` (``items and conditions``: all pairs of values;
        ``conditions``: after the mean of every item is taken away), round and layer. NaN where one of the
        two does not vary, or with fewer than three clusters.

    Raises:
        ValueError: missing values.
    """
    places = [d for d in ("round", "layer") if d in one.dims]
    cells = [str(d) for d in one.dims if d not in ("item", *places)]
    tables = []
    for values in (one, other):
        table = values.transpose("item", *cells, *places).values.astype(np.float64)
        if not np.isfinite(table).all():
            raise ValueError("a correlation needs finite numbers; select the places that have them.")
        tables.append(table.reshape(len(table), -1, *(values.sizes[d] for d in places)))
    codes = cluster_codes(one)
    scale = [np.abs(table).max(axis=(0, 1)) for table in tables]
    within = [table - table.mean(axis=1, keepdims=True) for table in tables]
    both = []
    for x, y in (tables, within):
        spread = [np.sqrt(((v - v.mean(axis=(0, 1))) ** 2).mean(axis=(0, 1))) for v in (x, y)]
        varies = np.all([s > 1e-9 * size for s, size in zip(spread, scale, strict=True)], axis=0)
        found = _jackknifed(x, y, codes, alpha)
        both.append([np.where(varies, part, np.nan) for part in found])
    stacked = [np.stack(part) for part in zip(*both, strict=True)]
    coords: dict[str, Any] = {d: one[d].values for d in places}
    coords["across"] = ["items and conditions", "conditions"]
    return xr.Dataset(
        {name: (("across", *places), part) for name, part in zip(("r", "low", "high"), stacked, strict=True)},
        coords=coords,
        attrs={"alpha": alpha, "n_items": one.sizes["item"], "n_clusters": int(codes.max()) + 1},
    )


def item_contrasts(values: xr.DataArray, factors: Sequence[str]) -> xr.DataArray:
    """The contrast of every effect in every item, by ``item``, ``effect`` and the other dims.

    Their means over items are the estimates of ``factorial_effects``.
    """
    wanted = read_contrasts(tuple(factors), None, "total", None, values)
    cube = read_cube(values, wanted.levels, missing="refuse", link="identity")
    each = np.einsum("ec,icf->ief", wanted.matrix, cube.values)
    coords = {n: c for n, c in cube.coords.items() if n in cube.rest}
    whole = xr.DataArray(
        each.reshape(*each.shape[:2], *cube.rest_shape),
        dims=("item", "effect", *cube.rest),
        coords={"item": values["item"].values, "effect": wanted.names, **coords},
        attrs=dict(values.attrs),
    )
    return (
        whole.assign_coords(cluster=("item", values["cluster"].values))
        if "cluster" in values.coords
        else whole
    )


# --------------------------------------------------------------------------------------------- pieces
def _by_cluster(
    values: xr.DataArray, rest: Sequence[str]
) -> tuple[Float[np.ndarray, "cluster place"], Float[np.ndarray, " cluster"], Float[np.ndarray, " place"]]:
    """Sums by cluster, the clusters' sizes, and what rounding alone can make of the numbers."""
    moved = values.transpose("item", *rest)
    table = moved.values.astype(np.float64).reshape(moved.sizes["item"], -1)
    if not np.isfinite(table).all():
        raise ValueError(
            f"a curve over items needs finite numbers; {np.sum(~np.isfinite(table))} of {table.size} are "
            "not. Select the items or places that have them."
        )
    codes = cluster_codes(values)
    if len(np.unique(codes)) < 2:
        raise ValueError("an interval over items needs at least two clusters; add items from other clusters.")
    eps = float(np.finfo(values.dtype).eps) if values.dtype.kind == "f" else 0.0
    rounding = np.abs(table).max(axis=0, initial=0.0) * (4 * eps + 1e-12)
    return *cluster_sums(table, codes), rounding


def _too_few(n_clusters: int) -> str:
    return (
        f"{n_clusters} clusters are fewer than {MIN_CLUSTERS}: no band that holds over all layers, and no "
        "layer is named."
    )


def _since(held: Bool[np.ndarray, "*curve layer"]) -> Int[np.ndarray, "*curve"]:
    """The place from which on something holds up to the last one; past that where it never does."""
    run = np.cumprod(held[..., ::-1], axis=-1).sum(axis=-1)
    return held.shape[-1] - run


def _half(
    means: Float[np.ndarray, "*curve layer"], sign: Float[np.ndarray, "*side"]
) -> Int[np.ndarray, "*curve"]:
    """The place from which on means have half of their last value, of that sign."""
    final = means[..., -1]
    held = means * sign[..., None] >= 0.5 * np.abs(final)[..., None]
    same = final * sign > 0
    return np.where(same, _since(held), means.shape[-1] - 1)


def _labelled(layers: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The layers at those places, as numbers that can be missing."""
    return layers[np.minimum(places, len(layers) - 1)].astype(np.float64)


def _ends(drawn: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentiles of whole numbers, outwards."""
    low = np.quantile(drawn, alpha / 2, axis=0, method="lower")
    return low, np.quantile(drawn, 1 - alpha / 2, axis=0, method="higher")


def _jackknifed(
    x: Float[np.ndarray, "item cell *place"],
    y: Float[np.ndarray, "item cell *place"],
    codes: Int[np.ndarray, " item"],
    alpha: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A correlation over items and cells with the interval of a jackknife of clusters, at every place."""
    shape = x.shape[2:]
    x, y = (v.reshape(*v.shape[:2], -1) for v in (x, y))
    x, y = (v - v.mean(axis=(0, 1)) for v in (x, y))
    moments = np.stack([np.ones_like(x), x, y, x * x, y * y, x * y]).sum(axis=2)  # moment item place
    n_clusters = int(codes.max()) + 1
    by = np.stack([moments[:, codes == g].sum(axis=1) for g in range(n_clusters)], axis=1)
    total = by.sum(axis=1)
    whole, left = _correlation(total), _correlation(total[:, None] - by)
    z, zs = (
        np.arctanh(np.clip(whole, -1 + 1e-12, 1 - 1e-12)),
        np.arctanh(np.clip(left, -1 + 1e-12, 1 - 1e-12)),
    )
    se = np.sqrt((n_clusters - 1) / n_clusters * ((zs - zs.mean(axis=0)) ** 2).sum(axis=0))
    reach = stdtrit(n_clusters - 1, 1 - alpha / 2) * se
    ends = [np.tanh(z - reach), np.tanh(z + reach)] if n_clusters > 2 else [np.full_like(z, np.nan)] * 2
    return whole.reshape(shape), ends[0].reshape(shape), ends[1].reshape(shape)


def _correlation(moments: Float[np.ndarray, "moment *more place"]) -> Float[np.ndarray, "*more place"]:
    """Pearson's r from counts, sums, squares and products."""
    n, x, y, xx, yy, xy = moments
    top = xy - x * y / n
    bottom = np.sqrt(np.maximum(xx - x * x / n, 0.0) * np.maximum(yy - y * y / n, 0.0))
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
