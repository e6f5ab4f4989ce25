"""Families of tests: max-|t| over resampled clusters, by sign-flips or the bootstrap-t, on plain arrays."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float

from morality_lens.interactions.intervals import reach

Resampling = Literal["sign-flip", "bootstrap-t"]

MIN_CLUSTERS = 8
"""Fewer clusters than this allow no corrected p."""
SKEWED, VERY_SKEWED = 0.6, 1.0
"""Visible skewness of a family: the mean over its places, or the median of the size, times sqrt(G/6)."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyWise:
    """Tests of families against the largest |t| of their draws.

    Attributes:
        p: adjusted for the family.
        critical: by family, what a t has to reach.
        skew: what takes the skewness out of a t; 0 where the draws themselves are skewed.
        skewed: by family, whether it was resampled by the bootstrap-t.
        draws_used: how many there were, the observed data among them.
    """

    p: Float[np.ndarray, "family test"]
    critical: Float[np.ndarray, "family"]
    skew: Float[np.ndarray, "family test"]
    skewed: Bool[np.ndarray, "family"]
    draws_used: int

    @classmethod
    def absent(cls, n_families: int, n_tests: int) -> "FamilyWise":
        """No correction was made: everything is unknown."""
        unknown = np.full((n_families, n_tests), np.nan)
        return cls(
            p=unknown,
            critical=np.full(n_families, np.nan),
            skew=np.zeros_like(unknown),
            skewed=np.zeros(n_families, bool),
            draws_used=0,
        )


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How many draws, and their seed."""

    count: int
    seed: int


def visibly_skewed(
    sums: Float[np.ndarray, "cluster family test"], sizes: Float[np.ndarray, "cluster"]
) -> Bool[np.ndarray, "family"]:
    """Which families need draws that are as skewed as the data.

    The draws of sign-flips are symmetric: with log-normal contrasts they reject in .11 to .26 of families
    of 32 places, the bootstrap-t in .01 to .05. It loses power with few clusters that are not skewed (at 8
    clusters .004 instead of .03), so that each family is judged by its own skewness; that of one sign over
    its places is seen with 8 clusters already. A place whose clusters nearly all agree loses its variance in
    many bootstrap samples and would dominate the maximum: such a family keeps the flips. So does a family
    of one place, whose skewness the transform of t takes out.
    """
    n_clusters = len(sizes)
    means = sums / sizes[:, None, None]
    centred = means - means.mean(axis=0)
    spread = reduce(centred**2, "cluster family test -> family test", "mean")
    live = spread > 0
    third = reduce(centred * centred * centred, "cluster family test -> family test", "mean")
    each = np.divide(third, spread**1.5, out=np.zeros_like(third), where=live) * math.sqrt(n_clusters / 6)
    count = np.maximum(live.sum(axis=1), 1)
    middle = np.array(
        [np.median(np.abs(row[there])) if there.any() else 0.0 for row, there in zip(each, live, strict=True)]
    )
    differing = np.count_nonzero(means != np.median(means, axis=0), axis=0)
    fewest = np.where(live, differing, n_clusters).min(axis=1)
    steady = fewest >= min(MIN_CLUSTERS, n_clusters - 1)
    several = live.sum(axis=1) > 1
    return several & steady & ((np.abs(each.sum(axis=1) / count) > SKEWED) | (middle > VERY_SKEWED))


def family_wise(
    sums: Float[np.ndarray, "cluster family test"],
    sizes: Float[np.ndarray, "cluster"],
    t: Float[np.ndarray, "family test"],
    skew: Float[np.ndarray, "family test"],
    skewed: Bool[np.ndarray, "family"],
    draws: Draws,
    *,
    alpha: float,
) -> FamilyWise:
    """p and simultaneous critical values of each family: one test, of which the band is the inversion.

    The largest CR2 |t| over the tests of a family is drawn again from its centred cluster scores: with random
    signs for whole clusters (the wild bootstrap with Rademacher weights, scores scaled as in CR3; all sign
    patterns where they fit into the number of draws), compared with t and its transform that takes the
    skewness out; or, in skewed families, with clusters drawn with replacement, compared with t itself. p
    counts the observed statistic as one of the draws. Step-down p would reject where the band holds 0, so
    every test is compared with the maximum over all. A test of zeros never takes part in a maximum.

    Args:
        sums: of the contrasts, by cluster.
        sizes: items of each cluster.
        t: estimates over the standard errors that they are to be judged with.
        skew: their skewness.
        skewed: families that the bootstrap-t resamples.
        draws: how many.
        alpha: level of the band.
    """
    corrected = np.where(skewed[:, None], 0.0, skew)
    reached = reach(t, corrected)
    p, critical, used = np.ones_like(t), np.full(len(t), np.nan), draws.count
    parts: dict[Resampling, np.ndarray] = {"sign-flip": ~skewed, "bootstrap-t": skewed}
    for method, chosen in parts.items():
        if not chosen.any():
            continue
        weights = _draw_weights(len(sizes), draws, method=method)
        p[chosen], critical[chosen] = _against_maxima(
            sums[:, chosen], sizes, reached[chosen], weights, method=method, alpha=alpha
        )
        used = min(used, weights.shape[1] + 1)
    return FamilyWise(p=p, critical=critical, skew=corrected, skewed=skewed, draws_used=used)


def _against_maxima(
    sums: Float[np.ndarray, "cluster family test"],
    sizes: Float[np.ndarray, "cluster"],
    reached: Float[np.ndarray, "family test"],
    weights: Float[np.ndarray, "cluster draw"],
    *,
    method: Resampling,
    alpha: float,
) -> tuple[Float[np.ndarray, "family test"], Float[np.ndarray, "family"]]:
    """Share of draws whose maximum reaches each statistic, and what a statistic must exceed."""
    total, among = sizes.sum(), weights.shape[1] + 1
    centred = sums - sizes[:, None, None] * (sums.sum(axis=0) / total)
    if method == "sign-flip":
        centred = centred / (1 - sizes / total)[:, None, None]
    rank = math.ceil((1 - alpha) * among - 1e-9)
    tolerance = 1e-9 if weights.dtype == np.float64 else 1e-5
    p, critical = np.empty_like(reached), np.full(len(reached), np.inf)
    # a block of families is sized to stay in the processor's cache
    block = max(1, 2**19 // max(1, reached.shape[1] * weights.shape[1]))
    for start in range(0, len(reached), block):
        part = slice(start, start + block)
        highest = np.sqrt(_squared_t(centred[:, part], sizes, weights, method).max(axis=1))
        highest.sort(axis=-1)
        for row, (own, seen) in enumerate(zip(highest, reached[part], strict=True)):
            hits = own.size - np.searchsorted(own, seen * (1 - tolerance), side="left")
            p[start + row] = (hits + 1) / among
            if rank <= own.size:
                critical[start + row] = own[rank - 1] / (1 - tolerance)
    return p, critical


def _draw_weights(n_clusters: int, draws: Draws, *, method: Resampling) -> Float[np.ndarray, "cluster draw"]:
    """One column per draw: signs, or how often each cluster was drawn; the observed data are not among them.

    Where all sign patterns fit into the number of draws they are listed; a global flip leaves |t|, so there
    are 2^(G-1).
    """
    # draws of few clusters can have next to no variance, which single precision would lose
    dtype = np.float64 if n_clusters <= 12 else np.float32
    rng, count = np.random.default_rng(draws.seed), draws.count
    if method == "sign-flip" and n_clusters - 1 <= math.log2(count):
        bits = np.arange(2 ** (n_clusters - 1)) >> np.arange(n_clusters)[:, None]
        return (1 - 2 * (bits & 1)).astype(dtype)
    if method == "sign-flip":
        return rng.integers(0, 2, size=(n_clusters, count - 1), dtype=np.int8).astype(dtype) * 2 - 1
    picked = rng.integers(0, n_clusters, size=(count - 1, n_clusters))
    flat = picked * (count - 1) + np.arange(count - 1)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_clusters * (count - 1))
    return rearrange(counts, "(cluster draw) -> cluster draw", cluster=n_clusters).astype(dtype)


def holm(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's adjusted p-values (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(scaled, 1.0)
    return out


def _squared_t(
    scores: Float[np.ndarray, "cluster family test"],
    sizes: Float[np.ndarray, "cluster"],
    weights: Float[np.ndarray, "cluster draw"],
    method: Resampling,
) -> Float[np.ndarray, "family test draw"]:
    """Squared CR2 t of every draw, from at most three matrix products.

    With u = scores @ weights, d = u / N* and a = 1 / (1 - n/N), the draw's sum of squares
    sum_g a_g (w_g s_g - n_g d)^2 is expanded; clusters of one size need no product for the middle term.
    """
    dtype = weights.dtype
    leverage = 1 / (1 - sizes / sizes.sum())
    table = rearrange(scores, "cluster family test -> (family test) cluster")
    norm = np.sqrt((leverage * table**2).sum(axis=1, keepdims=True))
    table = np.divide(table, norm, out=np.zeros_like(table), where=norm > 0)
    drawn = table.astype(dtype) @ weights
    if method == "bootstrap-t":
        total = sizes.astype(dtype) @ weights
        power = (leverage * table**2).astype(dtype) @ weights
        square = (leverage * sizes**2).astype(dtype) @ weights
    else:
        total = np.full(weights.shape[1], sizes.sum(), dtype)
        power = np.ones_like(drawn)
        square = np.full(weights.shape[1], (leverage * sizes**2).sum(), dtype)
    if np.ptp(sizes) == 0:
        own = drawn * drawn
        power -= own * (square / total**2)
    else:
        cross = (leverage * sizes * table).astype(dtype) @ weights
        cross *= drawn
        cross *= 2 / total
        power -= cross
        own = np.multiply(drawn, drawn, out=drawn)
        power += own * (square / total**2)
    # a draw without variance counts as beyond every observed statistic
    np.maximum(power, 8 * np.finfo(dtype).eps, out=power)
    own /= power
    return rearrange(own, "(family test) draw -> family test draw", family=scores.shape[1])
