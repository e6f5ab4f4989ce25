"""How well held-out scores rank the examples: AUROC and rank correlation, with intervals over clusters."""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int
from sklearn.metrics import roc_auc_score

Scores = Float[np.ndarray, "layer case"]
ByLayer = Float[np.ndarray, " layer"]
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Scores of one layer and weights [draw, case] to one number per draw."""


def auroc(
    scores: Scores, labels: Int[np.ndarray, " case"], clusters: np.ndarray, *, draws: int, seed: int
) -> tuple[ByLayer, ByLayer, ByLayer]:
    """AUROC of each layer and its 95 % percentile interval under resampling of whole clusters."""
    point = np.array([float(roc_auc_score(labels, s)) for s in scores])
    low, high = _interval(scores, clusters, draws, seed, lambda s, w: weighted_auroc(s, labels, w))
    return point, low, high


def spearman(
    scores: Scores, values: Float[np.ndarray, " case"], clusters: np.ndarray, *, draws: int, seed: int
) -> tuple[ByLayer, ByLayer, ByLayer]:
    """Spearman's correlation with graded values of each layer, with an interval like that of the AUROC.

    Where scores or values are all equal the correlation is 0: nothing is ordered.
    """
    point = np.array([weighted_spearman(s, values, np.ones((1, len(values))))[0] for s in scores])
    low, high = _interval(scores, clusters, draws, seed, lambda s, w: weighted_spearman(s, values, w))
    return np.nan_to_num(point), np.nan_to_num(low), np.nan_to_num(high)


def _interval(
    scores: Scores, clusters: np.ndarray, draws: int, seed: int, statistic: Statistic
) -> tuple[ByLayer, ByLayer]:
    names, member = np.unique(clusters, return_inverse=True)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws).astype(float)
    chunks = np.array_split(drawn, max(1, draws * len(member) // 2_000_000))
    ends = []
    for layer in scores:
        values = np.concatenate([statistic(layer, chunk[:, member]) for chunk in chunks])
        known = values[np.isfinite(values)]
        ends.append(np.percentile(known, [2.5, 97.5]) if len(known) else [np.nan, np.nan])
    low, high = np.array(ends).T
    return low, high


def highest(aurocs: Sequence[float] | ByLayer) -> int | None:
    """Index of the highest AUROC, the first of several; None where there is none.

    Every layer that is chosen by quality is chosen by this rule.
    """
    known = np.asarray(aurocs, np.float64)
    return int(np.nanargmax(known)) if np.isfinite(known).any() else None


def weighted_auroc(
    scores: Float[np.ndarray, " case"],
    labels: Int[np.ndarray, " case"],
    weights: Float[np.ndarray, "draw case"],
) -> Float[np.ndarray, " draw"]:
    """AUROC (ties count half) of each draw's weights; NaN where a draw lacks a class."""
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf) > 0)
    moral = np.add.reduceat(weights[:, order] * labels[order], starts, axis=1)
    immoral = np.add.reduceat(weights[:, order] * (1 - labels[order]), starts, axis=1)
    below = np.cumsum(immoral, axis=1) - immoral
    pairs = moral.sum(1) * immoral.sum(1)
    wins = (moral * (below + immoral / 2)).sum(1)
    return np.where(pairs > 0, wins / np.where(pairs > 0, pairs, 1.0), np.nan)


def weighted_spearman(
    scores: Float[np.ndarray, " case"],
    values: Float[np.ndarray, " case"],
    weights: Float[np.ndarray, "draw case"],
) -> Float[np.ndarray, " draw"]:
    """Correlation of mean ranks of each draw's weights; NaN where a draw has nothing to order."""
    total = np.maximum(weights.sum(1, keepdims=True), 1.0)
    a, b = (_mean_ranks(x, weights) for x in (scores, values))
    a = a - (weights * a).sum(1, keepdims=True) / total
    b = b - (weights * b).sum(1, keepdims=True) / total
    spread = np.sqrt((weights * a**2).sum(1) * (weights * b**2).sum(1))
    known = spread > 1e-9 * total[:, 0]
    return np.where(known, (weights * a * b).sum(1) / np.where(known, spread, 1.0), np.nan)


def _mean_ranks(x: Float[np.ndarray, " case"], weights: np.ndarray) -> Float[np.ndarray, "draw case"]:
    """Ranks among the repeated examples, less one half; equal values share their mean rank."""
    _, tie = np.unique(x, return_inverse=True)
    order = np.argsort(tie, kind="stable")
    starts = np.flatnonzero(np.diff(tie[order], prepend=-1) > 0)
    each = np.add.reduceat(weights[:, order], starts, axis=1)
    return (np.cumsum(each, axis=1) - each / 2)[:, tie]
