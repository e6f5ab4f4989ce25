"""The gap of the class means along a direction, as statements show it that the direction has not seen.

A direction follows the noise of its own statements: along it their class means lie further apart than those
of other statements, and effects in that unit come out too small. Of a mean difference w the excess is known,
the trace of its variance in |w|^2; of other kinds it is measured on statements that were left out.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from morality_lens.probes.closed_form import Features, Groups, Labels, class_sums

ByLayer = Float[np.ndarray, " layer"]
LEVEL = 0.95
"""Of the interval of a held-out gap, which must lie above 0 for the gap to be a unit."""


def held_out_gap(
    scores: Float[np.ndarray, "layer case"], labels: Labels, clusters: Groups
) -> tuple[ByLayer, Bool[np.ndarray, " layer"]]:
    """The gap between the classes' mean scores, and whether its interval over clusters lies above 0.

    Args:
        scores: held out, in gaps of the statements that each direction was fitted on, so that the gap is 1
            where nothing is lost.
        labels: 1 or 0.
        clusters: numbers of the clusters.
    """
    sums, counts = class_sums(scores[..., None], labels, clusters)
    means = (sums.sum(0) / counts.sum(0)[:, None, None])[..., 0]
    gap = means[1] - means[0]
    error = np.sqrt(_squared_length_of_error(sums, counts))
    return gap, gap > stdtrit(len(counts) - 1, (1 + LEVEL) / 2) * error


def share_along_mean_difference(features: Features, labels: Labels, clusters: Groups) -> ByLayer:
    """(|w|^2 - tr V) / |w|^2 of the mean difference w of each layer, V its variance by clusters.

    The expectation of |w|^2 is the squared gap of the population plus the trace of V. V is that of two means
    of cluster sums (CR2 where a cluster's cases vary alike); at most 1, not above 0 where all may be noise.
    """
    share = np.ones(len(features))
    for layer in range(len(features)):  # a sum for each cluster: one layer at a time
        sums, counts = class_sums(features[[layer]], labels, clusters)
        means = sums.sum(0) / counts.sum(0)[:, None, None]
        squared = ((means[1] - means[0]) ** 2).sum()
        if squared > 0:
            share[layer] = 1 - _squared_length_of_error(sums, counts)[0] / squared
    return share


def share_of_whole_fit(held_out: ByLayer, folds: int) -> ByLayer:
    """The share that new statements have of the gap of a fit on all, from that of fits without a fold.

    A gap in sample exceeds that of new statements in inverse proportion to the number of statements: fits on
    (folds - 1) / folds of them exceed by more than the fit on all. At most 1.
    """
    lost = np.maximum(1 - held_out, 0) * (folds - 1) / folds
    total = held_out + lost
    return np.divide(held_out, total, out=np.zeros_like(held_out), where=total > 0)


def _squared_length_of_error(
    sums: Float[np.ndarray, "group class layer d_model"], counts: Float[np.ndarray, "group class"]
) -> ByLayer:
    """The trace of the variance of a difference of class means, from the clusters' parts of it."""
    totals = counts.sum(0)
    share = counts / totals
    means = sums.sum(0) / totals[:, None, None]
    parts = sums / totals[:, None, None] - share[..., None, None] * means
    parts = parts / np.sqrt(np.maximum(1 - share, np.finfo(float).tiny))[..., None, None]
    return ((parts[:, 1] - parts[:, 0]) ** 2).sum((0, -1))
