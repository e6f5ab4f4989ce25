"""Effects from the available cells: least squares with a cluster jackknife, and worst-case bounds."""

from dataclasses import dataclass

import numpy as np
from einops import einsum, rearrange
from jaxtyping import Float, Int

from morality_lens.interactions.intervals import cluster_sums

FEATURES = 256
"""Features that are solved together; memory grows with this times the clusters."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Available:
    """Contrasts of least-squares cell means.

    Attributes:
        sums: scores that add up like the sums of a complete cube: divided by the number of items, their total
            is the estimate, and what a cluster adds is its influence on it.
        se: standard error by the cluster jackknife.
        cells: least-squares mean of each cell, the items' effects averaged out.
    """

    sums: Float[np.ndarray, "cluster effect feature"]
    se: Float[np.ndarray, "effect feature"]
    cells: Float[np.ndarray, "cell feature"]


def available_cells(
    values: Float[np.ndarray, "item cell feature"],
    codes: Int[np.ndarray, "item"],
    matrix: Float[np.ndarray, "effect cell"],
) -> Available:
    """Least squares of y = item + cell on the available cells, and contrasts of its cell effects.

    With o the item's available cells and n their number, the normal equations of the cell effects sum
    diag(o) - o o'/n over items (a graph Laplacian: cells are joined by items that have both). Items with one
    cell contribute nothing. Where nothing is missing, estimates and influences are exactly those of the
    means of the per-item contrasts.

    Args:
        values: NaN where a cell is missing.
        codes: cluster of each item, 0, 1, ... without gaps.
        matrix: weights of the cells; every row sums to zero.

    Raises:
        ValueError: without one of the clusters, or at all, the cells are not joined.
    """
    parts = [
        _solve(values[..., start : start + FEATURES], codes, matrix)
        for start in range(0, values.shape[-1], FEATURES)
    ]
    sums, se, cells = (np.concatenate([part[i] for part in parts], axis=-1) for i in range(3))
    return Available(sums=sums, se=se, cells=cells)


def _solve(
    values: Float[np.ndarray, "item cell feature"],
    codes: Int[np.ndarray, "item"],
    matrix: Float[np.ndarray, "effect cell"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, jackknife standard errors and cell means of some features."""
    n_items, n_cells, _ = values.shape
    there = (~np.isnan(values)).astype(np.float64)
    y = np.where(there > 0, values, 0.0)
    n = there.sum(axis=1, keepdims=True)
    share = np.divide(there, n, out=np.zeros_like(there), where=n > 0)
    y_within = y - there * (share * y).sum(axis=1, keepdims=True)
    outer = einsum(there, share, "item a feature, item b feature -> item feature a b")
    left, sizes = _by_cluster(-outer, codes)
    right, _ = _by_cluster(rearrange(y_within, "item cell feature -> item feature cell"), codes)
    diagonal, _ = _by_cluster(rearrange(there, "item cell feature -> item feature cell"), codes)
    left[..., np.arange(n_cells), np.arange(n_cells)] += diagonal
    n_clusters = len(sizes)
    whole, whole_right = left.sum(axis=0), right.sum(axis=0)
    effects = _cell_effects(whole, whole_right)
    estimate = einsum(matrix, effects, "effect cell, feature cell -> effect feature")

    influence = einsum(
        matrix,
        _cell_effects(whole, right - einsum(left, effects, "g f a b, f b -> g f a")),
        "effect cell, cluster feature cell -> cluster effect feature",
    )
    sums = influence * n_items + sizes[:, None, None] * estimate

    without = _cell_effects(whole - left, whole_right - right)
    dropped = einsum(matrix, without, "effect cell, cluster feature cell -> cluster effect feature")
    se = np.sqrt((n_clusters - 1) / n_clusters * ((dropped - dropped.mean(axis=0)) ** 2).sum(axis=0))
    own = (share * (y - effects.T)).sum(axis=1)  # an item's effect; 0 where it has no cell
    level = own.sum(axis=0) / (n[:, 0] > 0).sum(axis=0)
    return sums, se, rearrange(effects, "feature cell -> cell feature") + level


def _by_cluster(
    values: Float[np.ndarray, "item *rest"], codes: Int[np.ndarray, "item"]
) -> tuple[Float[np.ndarray, "cluster *rest"], Float[np.ndarray, "cluster"]]:
    sums, sizes = cluster_sums(values.reshape(len(values), -1), codes)
    return sums.reshape(-1, *values.shape[1:]), sizes


def _cell_effects(
    left: Float[np.ndarray, "*joined cell cell2"], right: Float[np.ndarray, "*sides cell"]
) -> Float[np.ndarray, "*solved cell"]:
    """Solves singular normal equations for cell effects that sum to zero."""
    n_cells = left.shape[-1]
    joined = left + 1 / n_cells
    weakest = np.linalg.eigvalsh(joined)[..., 0]
    if (weakest <= 1e-9 * n_cells).any():
        raise ValueError(
            "missing='available' needs cells that are joined by items which have several of them, also "
            "without any one cluster; got cells that no item joins to the others. Run more items in the "
            "conditions that failed, or analyse a subset of the factors at fixed levels (at={...})."
        )
    solved = np.linalg.solve(
        joined, np.broadcast_to(right, np.broadcast_shapes(right.shape, left.shape[:-1]))[..., None]
    )
    return solved[..., 0]


def worst_case_bounds(
    values: Float[np.ndarray, "item cell feature"],
    matrix: Float[np.ndarray, "effect cell"],
    lowest: float = 0.0,
    highest: float = 1.0,
) -> tuple[Float[np.ndarray, "effect feature"], Float[np.ndarray, "effect feature"]]:
    """The smallest and the largest effects that any values of the missing cells could give.

    Args:
        values: NaN where a cell is missing.
        matrix: weights of the cells.
        lowest: smallest value that an outcome can have.
        highest: largest.
    """
    filled = [np.where(np.isnan(values), extreme, values).mean(axis=0) for extreme in (lowest, highest)]
    ends = []
    for low, high in (filled, filled[::-1]):
        ends.append(np.clip(matrix, 0, None) @ low + np.clip(matrix, None, 0) @ high)
    return ends[0], ends[1]
