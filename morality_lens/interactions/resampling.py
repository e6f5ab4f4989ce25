"""Cluster-robust variances, sign-flips, bootstrap-t and step-down max-|t| on plain arrays."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from scipy.special import stdtr, stdtrit

Resampling = Literal["sign-flip", "bootstrap-t"]

MIN_CLUSTERS = 8
"""Fewer clusters than this allow no corrected p."""
BOOTSTRAP_CLUSTERS = 30
"""From this many clusters on, the bootstrap-t is trusted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Pointwise:
    """One test per feature."""

    estimate: Float[np.ndarray, "feature"]
    se: Float[np.ndarray, "feature"]
    p: Float[np.ndarray, "feature"]
    df: Float[np.ndarray, "feature"]
    critical: Float[np.ndarray, "feature"]


@dataclass(frozen=True, kw_only=True, eq=False)
class FamilyWise:
    """Adjusted p per test and, per family, the half-width of the band in standard errors."""

    p: Float[np.ndarray, "family test"]
    critical: Float[np.ndarray, "family"]
    draws_used: int

    @classmethod
    def absent(cls, n_families: int, n_tests: int) -> "FamilyWise":
        """No correction was made: everything is unknown."""
        p, critical = np.full((n_families, n_tests), np.nan), np.full(n_families, np.nan)
        return cls(p=p, critical=critical, draws_used=0)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """How clusters are resampled: the method, how many draws, and their seed."""

    method: Resampling
    count: int
    seed: int


def cluster_sums(
    values: Float[np.ndarray, "item feature"], codes: Int[np.ndarray, "item"]
) -> tuple[Float[np.ndarray, "cluster feature"], Float[np.ndarray, "cluster"]]:
    """Sums of the items of each cluster (codes 0, 1, ... without gaps) and the clusters' sizes."""
    sizes = np.bincount(codes)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    in_order = values[np.argsort(codes, kind="stable")]
    return np.add.reduceat(in_order, starts, axis=0), sizes.astype(np.float64)


def bell_mccaffrey_df(sizes: Float[np.ndarray, "cluster"]) -> float:
    """Degrees of freedom of the CR2 variance of a mean, Bell and McCaffrey (2002).

    With c = (1 - n/N)^-1/2 and L = diag(c) - (c n) 1'/N, the df of M = L diag(n) L' are
    tr(M)^2 / sum M_ij^2. Here M_gh = c_g c_h (n_g [g = h] - n_g n_h / N) and tr(M) = N, so no matrix is
    built. Clusters of one size n give exactly G - 1.
    """
    total = sizes.sum()
    spread = sizes**2 / (1 - sizes / total)
    squares = (sizes**2).sum() + (spread.sum() ** 2 - (spread**2).sum()) / total**2
    return float(total**2 / squares)


def mean_over_clusters(
    sums: Float[np.ndarray, "cluster feature"], sizes: Float[np.ndarray, "cluster"], *, alpha: float
) -> Pointwise:
    """Mean per feature with its CR2 standard error, and t with Bell-McCaffrey df.

    The variance is sum_g (S_g - n_g mean)^2 / (1 - n_g/N) / N^2. Singleton clusters give exactly the
    one-sample t. Features without variance get p = 1 where the mean is 0 and p = NaN elsewhere.
    """
    total = sizes.sum()
    estimate = sums.sum(axis=0) / total
    centred = sums - sizes[:, None] * estimate
    se = np.sqrt((centred**2 / (1 - sizes / total)[:, None]).sum(axis=0)) / total
    return _judge(estimate, se, np.full_like(se, bell_mccaffrey_df(sizes)), alpha)


def with_variance(
    point: Pointwise,
    se: Float[np.ndarray, "feature"],
    *,
    alpha: float,
    draws: int = 0,
    clusters: int = 0,
    added: bool = False,
) -> Pointwise:
    """The same estimates judged with another standard error, or with one more source of variance.

    Args:
        point: the estimates.
        se: takes the place of theirs, or is added to it in squares.
        alpha: level of the interval.
        draws: from how many draws an added one was estimated; the df are then Welch and Satterthwaite's.
        added: whether it is added.
    """
    if not added:
        return _judge(point.estimate, se, point.df, alpha)
    known = min(draws, clusters) if clusters else draws
    se = se * np.sqrt(clusters / (clusters - 1)) if clusters else se
    variance = point.se**2 + se**2
    parts = point.se**4 / point.df + se**4 / (known - 1)
    df = np.divide(variance**2, parts, out=point.df.copy(), where=parts > 0)
    return _judge(point.estimate, np.sqrt(variance), df, alpha)


def _judge(
    estimate: Float[np.ndarray, "feature"],
    se: Float[np.ndarray, "feature"],
    df: Float[np.ndarray, "feature"],
    alpha: float,
) -> Pointwise:
    t = np.divide(np.abs(estimate), se, out=np.zeros_like(se), where=se > 0)
    p = np.where((se == 0) & (estimate != 0), np.nan, 2 * stdtr(df, -t))
    return Pointwise(estimate=estimate, se=se, p=p, df=df, critical=stdtrit(df, 1 - alpha / 2))


def choose_resampling(
    sums: Float[np.ndarray, "cluster feature"], sizes: Float[np.ndarray, "cluster"]
) -> tuple[Resampling, str]:
    """The resampling that keeps its level for these cluster means, and why.

    30 clusters or more: bootstrap-t. Fewer: sign-flips, or bootstrap-t where the cluster means are visibly
    skewed (median over features of |skew| sqrt(G/6) above 1). A feature whose clusters nearly all agree loses
    its variance in many bootstrap samples and would dominate the family's maximum: then sign-flips.
    """
    n_clusters = len(sizes)
    means = sums / sizes[:, None]
    if not means.shape[1]:
        return "sign-flip", "no feature has any variance"
    off_median = np.count_nonzero(means != np.median(means, axis=0), axis=0)
    if off_median.min() < min(MIN_CLUSTERS, n_clusters - 1):
        return "sign-flip", (
            f"in some feature fewer than {MIN_CLUSTERS} clusters differ from the rest, "
            "which a bootstrap sample often misses"
        )
    if n_clusters >= BOOTSTRAP_CLUSTERS:
        return "bootstrap-t", f"{n_clusters} clusters are at least {BOOTSTRAP_CLUSTERS}"
    centred = means - means.mean(axis=0)
    variance = reduce(centred**2, "cluster feature -> feature", "mean")
    skew = (
        reduce(centred**3, "cluster feature -> feature", "mean") / np.where(variance > 0, variance, 1) ** 1.5
    )
    skewness = float(np.median(np.abs(skew))) * math.sqrt(n_clusters / 6)
    if skewness > 1:
        return (
            "bootstrap-t",
            f"{n_clusters} clusters, contrasts visibly skewed (|skew| sqrt(G/6) = {skewness:.2f})",
        )
    return (
        "sign-flip",
        f"{n_clusters} clusters are fewer than {BOOTSTRAP_CLUSTERS}, contrasts not visibly skewed",
    )


def holm(p: Float[np.ndarray, "test"]) -> Float[np.ndarray, "test"]:
    """Holm's adjusted p-values (Holm 1979)."""
    order = np.argsort(p, kind="stable")
    scaled = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    out = np.empty_like(p)
    out[order] = np.minimum(scaled, 1.0)
    return out


def step_down(
    drawn: Float[np.ndarray, "family test draw"],
    observed: Float[np.ndarray, "family test"],
    *,
    tolerance: float,
) -> Int[np.ndarray, "family test"]:
    """How many draws reach each observed statistic, Westfall and Young's step-down; overwrites ``drawn``.

    Tests must be sorted from the largest observed statistic to the smallest: each is compared with the
    maximum over itself and the smaller ones, and p never falls along the order.
    """
    upward = drawn[:, ::-1]
    np.maximum.accumulate(upward, axis=1, out=upward)
    hits = np.count_nonzero(drawn >= (observed * (1 - tolerance))[..., None], axis=-1)
    return np.maximum.accumulate(hits, axis=1)


def family_wise(
    sums: Float[np.ndarray, "cluster family test"],
    sizes: Float[np.ndarray, "cluster"],
    draws: Draws,
    *,
    alpha: float,
    shrink: Float[np.ndarray, "family test"] | None = None,
) -> FamilyWise:
    """Step-down max-|t| p and simultaneous critical values of each family.

    The statistic is the CR2 t of every draw. Sign-flips flip whole clusters; they run through all patterns
    where those fit into the number of draws (a global flip leaves |t|, so there are 2^(G-1)), and their band
    comes from flips of the centred sums scaled as in CR3. The bootstrap-t resamples clusters and serves
    both. The observed statistic counts as one of the draws. A feature of zeros never takes part in a maximum.

    ``shrink`` is each test's CR2 variance as a share of the variance that its t is to be judged with, where
    that is another one (a refitted probe adds to it); the draws keep their own.
    """
    n_clusters, n_families, n_tests = sums.shape
    method = draws.method
    exact = method == "sign-flip" and n_clusters - 1 <= math.log2(draws.count)
    weights = _draw_weights(n_clusters, draws, exact=exact)
    total = sizes.sum()
    centred = sums - sizes[:, None, None] * (sums.sum(axis=0) / total)
    spread = reduce(
        centred**2 / (1 - sizes / total)[:, None, None], "cluster family test -> family test", "sum"
    )
    squared_sum = sums.sum(axis=0) ** 2
    observed = np.divide(squared_sum, spread, out=np.zeros_like(spread), where=spread > 0)
    observed = observed if shrink is None else observed * shrink
    order = np.argsort(-observed, axis=1, kind="stable")
    p = np.empty_like(observed)
    critical = np.empty(n_families)
    # a block of families is sized to stay in the processor's cache
    block = max(1, 2**19 // max(1, n_tests * weights.shape[1]))
    for start in range(0, n_families, block):
        part = slice(start, start + block)
        ranked = order[part]
        flipped = np.take_along_axis(sums[:, part], ranked[None], axis=2)
        inner = np.take_along_axis(centred[:, part], ranked[None], axis=2)
        if method == "sign-flip":
            highest = _squared_t(inner / (1 - sizes / total)[:, None, None], sizes, weights, method).max(
                axis=1
            )
            drawn = _squared_t(flipped, sizes, weights, method)
        else:
            drawn = _squared_t(inner, sizes, weights, method)
            highest = drawn.max(axis=1)
        tolerance = 1e-9 if drawn.dtype == np.float64 else 1e-5
        hits = step_down(drawn, np.take_along_axis(observed[part], ranked, axis=1), tolerance=tolerance)
        among = drawn.shape[-1] + (not exact)
        np.put_along_axis(p[part], ranked, (hits + (not exact)) / among, axis=1)
        rank = math.ceil((1 - alpha) * among - 1e-9)
        critical[part] = np.sqrt(np.partition(highest, rank - 1, axis=-1)[:, rank - 1])
    return FamilyWise(p=p, critical=critical, draws_used=2 * weights.shape[1] if exact else draws.count)


def _draw_weights(n_clusters: int, draws: Draws, *, exact: bool) -> Float[np.ndarray, "cluster draw"]:
    """One column per draw: signs, or how often each cluster was drawn.

    The observed data are not among them, except where all sign patterns are listed.
    """
    # few clusters make exact ties between draws, which single precision would break
    dtype = np.float64 if n_clusters <= 24 else np.float32
    rng, count = np.random.default_rng(draws.seed), draws.count
    if exact:
        bits = np.arange(2 ** (n_clusters - 1)) >> np.arange(n_clusters)[:, None]
        return (1 - 2 * (bits & 1)).astype(dtype)
    if draws.method == "sign-flip":
        return rng.integers(0, 2, size=(n_clusters, count - 1), dtype=np.int8).astype(dtype) * 2 - 1
    picked = rng.integers(0, n_clusters, size=(count - 1, n_clusters))
    flat = picked * (count - 1) + np.arange(count - 1)[:, None]
    counts = np.bincount(flat.ravel(), minlength=n_clusters * (count - 1))
    return rearrange(counts, "(cluster draw) -> cluster draw", cluster=n_clusters).astype(dtype)


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


def without_variance(
    sums: Float[np.ndarray, "cluster feature"],
    sizes: Float[np.ndarray, "cluster"],
    rounding: Float[np.ndarray, "feature"],
) -> tuple[Bool[np.ndarray, "feature"], Bool[np.ndarray, "feature"]]:
    """Which features have the same mean in every cluster, split into those of mean zero and the others.

    ``rounding`` is the largest difference that storage of the numbers alone can make.
    """
    estimate = sums.sum(axis=0) / sizes.sum()
    constant = np.abs(sums / sizes[:, None] - estimate).max(axis=0) <= rounding
    zero = constant & (np.abs(estimate) <= rounding)
    return zero, constant & ~zero
