"""Projections of residuals on directions: the one formula, for one layer and for all; means of cells."""

import numpy as np
from jaxtyping import Float


def projection(
    residuals: Float[np.ndarray, "*place d_model"],
    direction: Float[np.ndarray, " d_model"],
    intercept: float = 0.0,
) -> Float[np.ndarray, "*place"]:
    """Projections on one layer's direction, computed in float64."""
    return residuals.astype(np.float64) @ direction.astype(np.float64) + intercept


def projections(
    residuals: Float[np.ndarray, "*place layer d_model"],
    directions: Float[np.ndarray, "layer d_model"],
    intercepts: Float[np.ndarray, " layer"] | None = None,
) -> Float[np.ndarray, "*place layer"]:
    """Projections at every layer on that layer's direction, computed in float64."""
    added = np.zeros(len(directions)) if intercepts is None else intercepts
    each = [
        projection(residuals[..., layer, :], direction, float(added[layer]))
        for layer, direction in enumerate(directions)
    ]
    return np.stack(each, axis=-1)


def cell_means(
    values: Float[np.ndarray, "*place d_model"], axis: int = 0
) -> Float[np.ndarray, "*cell d_model"]:
    """Residuals averaged over the items that have them, in float64; NaN where no item does."""
    total = values.sum(axis, dtype=np.float64)
    if np.isfinite(total).all():
        return total / values.shape[axis]
    there = np.isfinite(values)
    count = there.sum(axis)
    total = np.where(there, values, 0).sum(axis, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
