"""Directions with a closed form: fitted for all layers and many weightings of the examples at once."""

import numpy as np
from jaxtyping import Float, Int

Features = Float[np.ndarray, "layer case d_model"]
Labels = Int[np.ndarray, " case"]
Groups = Int[np.ndarray, " case"]
Weights = Float[np.ndarray, "fit group"]
Directions = Float[np.ndarray, "fit layer d_model"]


def class_sums(
    features: Features, labels: Labels, groups: Groups
) -> tuple[Float[np.ndarray, "group class layer d_model"], Float[np.ndarray, "group class"]]:
    """Sums and counts of the examples of each group and class: all that a mean difference needs to know.

    Args:
        features: one example per row.
        labels: 1 or 0.
        groups: numbers 0, 1, ... of what is left out or resampled whole (a fold, a cluster).
    """
    count = int(groups.max()) + 1
    sums = np.empty((count, 2, features.shape[0], features.shape[2]))
    counts = np.empty((count, 2))
    for group in range(count):
        for label in (0, 1):
            mine = (groups == group) & (labels == label)
            sums[group, label] = features[:, mine].sum(1)
            counts[group, label] = mine.sum()
    return sums, counts


def class_means(
    sums: Float[np.ndarray, "group class layer d_model"],
    counts: Float[np.ndarray, "group class"],
    weights: Weights,
) -> Float[np.ndarray, "fit class layer d_model"]:
    """Class means of every fit in one matrix product; a fit is a weighting of the groups.

    Weights of 1 and 0 leave groups out, multinomial counts draw them with replacement.
    """
    return np.tensordot(weights, sums, 1) / (weights @ counts)[:, :, None, None]


def lda_directions(features: Features, labels: Labels, groups: Groups, weights: Weights) -> Directions:
    """Linear discriminants with Ledoit-Wolf shrinkage within each class, for all layers and fits.

    Equal to the coefficients of scikit-learn's ``LinearDiscriminantAnalysis(solver="lsqr",
    shrinkage="auto")`` on the repeated examples. With fewer examples than dimensions the covariance is never
    formed: it is a diagonal and a product of low rank, inverted by Woodbury's identity.
    """
    means = class_means(*class_sums(features, labels, groups), weights)
    return np.stack(
        [_discriminant(features, labels, w[groups], m) for w, m in zip(weights, means, strict=True)]
    )


def _discriminant(
    features: Features,
    labels: Labels,
    weight: Float[np.ndarray, " case"],
    means: Float[np.ndarray, "class layer d_model"],
) -> Float[np.ndarray, "layer d_model"]:
    between = means[1] - means[0]
    diagonal, low = np.zeros_like(between), []
    for label in (0, 1):
        mine = (labels == label) & (weight > 0)
        size = weight[mine].sum()
        prior = size / weight.sum()
        centred = (features[:, mine] - means[label][:, None]) * np.sqrt(weight[mine])[:, None]
        variance = (centred**2).sum(1) / size
        # What does not vary but for rounding is left unscaled, as scikit-learn's StandardScaler does.
        eps = np.finfo(np.float64).eps
        constant = variance <= size * eps * variance + (size * eps * means[label]) ** 2
        scale = np.where(constant, 1.0, np.sqrt(variance))
        shrinkage, level = _ledoit_wolf(centred / scale[:, None], weight[mine])
        diagonal += (prior * shrinkage * level)[:, None] * scale**2
        low.append(centred * np.sqrt(prior * (1 - shrinkage) / size)[:, None, None])
    factor = np.concatenate(low, axis=1)  # covariance = diagonal + factor' factor
    if factor.shape[1] < factor.shape[2] and diagonal.min() > 0:
        scaled = factor / diagonal[:, None]
        inner = np.eye(factor.shape[1]) + scaled @ factor.swapaxes(1, 2)
        along = np.linalg.solve(inner, scaled @ between[..., None])
        return between / diagonal - (scaled.swapaxes(1, 2) @ along)[..., 0]
    covariance = factor.swapaxes(1, 2) @ factor
    covariance[:, range(between.shape[1]), range(between.shape[1])] += diagonal
    return np.stack([np.linalg.lstsq(c, b, rcond=None)[0] for c, b in zip(covariance, between, strict=True)])


def _ledoit_wolf(
    rows: Float[np.ndarray, "layer case d_model"], weight: Float[np.ndarray, " case"]
) -> tuple[Float[np.ndarray, " layer"], Float[np.ndarray, " layer"]]:
    """Ledoit and Wolf's shrinkage (2004) and the mean variance, of rows already times sqrt(weight)."""
    size, width = weight.sum(), rows.shape[2]
    turned = rows.swapaxes(1, 2)
    gram = rows @ turned if rows.shape[1] < width else turned @ rows
    norms = (rows**2).sum(2) / weight
    level = (weight * norms).sum(1) / (size * width)
    square = (gram**2).sum((1, 2)) / size**2
    beta = ((weight * norms**2).sum(1) / size - square) / (width * size)
    delta = square / width - level**2
    usable = (beta > 0) & (delta > 0)
    return np.where(usable, np.minimum(beta, delta) / np.where(usable, delta, 1.0), 0.0), level


def in_gaps(
    raw: Directions, means: Float[np.ndarray, "fit class layer d_model"], largest: Float[np.ndarray, " layer"]
) -> tuple[Directions, Float[np.ndarray, "fit layer"]]:
    """Directions along which the class means lie one unit apart, and what each raw one was divided by.

    Both are 0 where the classes do not differ but for rounding (``largest`` is a layer's largest residual).
    """
    between = means[:, 1] - means[:, 0]
    gap = (between * raw).sum(-1)
    differ = np.linalg.norm(between, axis=-1) > 1e-9 * np.maximum(1.0, largest)
    gap = np.where(differ & np.isfinite(gap), gap, 0.0)
    some = gap[..., None] != 0
    return np.where(some, raw / np.where(some, gap[..., None], 1.0), 0.0), gap
