"""Least-squares concept erasure: the smallest change after which no linear classifier finds a label."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

TINY = 1e-8
"""Eigenvalues of the covariance below this share of the largest count as zero."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Eraser:
    """x -> x - along (across . (x - mean)): LEACE for a label with two values.

    Attributes:
        mean: of the training points.
        along: the direction that is taken out.
        across: how much of it a point holds; ``across . along`` is 1.
    """

    mean: Float[np.ndarray, " d_model"]
    along: Float[np.ndarray, " d_model"]
    across: Float[np.ndarray, " d_model"]

    def __call__(self, points: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
        """The points with the label erased."""
        return points - ((points - self.mean) @ self.across)[..., None] * self.along

    def moved(self, differences: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
        """Differences of points as they are after the erasure."""
        return differences - (differences @ self.across)[..., None] * self.along

    def read(self, directions: Float[np.ndarray, "... d_model"]) -> Float[np.ndarray, "... d_model"]:
        """Directions that read from points what the given ones read from erased points, but for a constant.

        The constant is what the given ones read from the erased point 0: ``directions @ self(0)``.
        """
        return directions - (directions @ self.along)[..., None] * self.across


def fit_leace(
    points: Float[np.ndarray, "point d_model"], labels: Num[np.ndarray, " point"], *, shrinkage: float = 0.0
) -> Eraser:
    """The eraser of a label, in closed form.

    With the covariance S of the points and c their covariance with the label, LEACE is the projection
    x - W^+ P W (x - mean) where W is the whitening of S and P projects on W c (Belrose et al. 2023, LEACE:
    Perfect linear concept erasure in closed form, theorem 4.2). For one label that is
    x - c (c' S^+ (x - mean)) / (c' S^+ c): no linear classifier can do better than chance on the training
    points, and no other affine map that achieves this moves them less in mean square.

    With fewer points than dimensions S knows nothing of most of them, and what is taken from new points is
    noise. S may then be shrunk towards the identity: any x - c (a' (x - mean)) with a' c = 1 leaves the
    training points without the label, so shrinkage costs nothing there. At 1 it is the projection along c.

    Args:
        points: training points.
        labels: a number for each; one with two values, or graded.
        shrinkage: share of the identity (times the mean variance) in the covariance, from 0 to 1.

    Raises:
        ValueError: fewer than two points, a label that does not vary or is uncorrelated with the points, or
            another shrinkage.

    Examples:
        >>> rng = np.random.default_rng(0)
        >>> labels = np.repeat([0.0, 1.0], 50)
        >>> points = rng.normal(size=(100, 3)) + np.outer(labels, [3.0, 0.0, 0.0])
        >>> erased = ml.probes.fit_leace(points, labels)(points)
        >>> gap = erased[labels == 1].mean(0) - erased[labels == 0].mean(0)
        >>> bool(np.abs(gap).max() < 1e-9)
        True
    """
    x, z = np.asarray(points, np.float64), np.asarray(labels, np.float64)
    if len(x) < 2 or np.ptp(z) == 0:
        raise ValueError(f"fit_leace needs a label that varies over the points; got {len(x)} points.")
    if not 0 <= shrinkage <= 1:
        raise ValueError(f"fit_leace needs a shrinkage from 0 to 1; got {shrinkage}.")
    mean = x.mean(axis=0)
    centred = x - mean
    c = centred.T @ (z - z.mean()) / len(x)
    _, singular, axes = np.linalg.svd(centred / np.sqrt(len(x)), full_matrices=False)
    keep = singular**2 > TINY * singular[0] ** 2
    level = (singular**2).sum() / x.shape[1]
    spread = np.sqrt((1 - shrinkage) * singular[keep] ** 2 + shrinkage * level)
    seen = axes[keep] @ c / spread
    power = float(seen @ seen)
    if not power > 0:
        raise ValueError("the label is uncorrelated with the points, so there is nothing to erase.")
    across = (seen / spread) @ axes[keep] / power
    return Eraser(mean=mean, along=c, across=across)
