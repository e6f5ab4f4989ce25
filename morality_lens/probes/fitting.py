"""Directions fitted on labelled residuals, one per layer, with their held-out quality."""

import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedGroupKFold

from morality_lens.probes import quality
from morality_lens.probes.closed_form import Features, Groups, Labels, class_means, class_sums, in_gaps
from morality_lens.probes.estimators import raw_directions
from morality_lens.probes.gaps import held_out_gap, share_along_mean_difference, share_of_whole_fit
from morality_lens.probes.kinds import Kind, check_kind
from morality_lens.probes.probe import UNITS, Probe
from morality_lens.probes.training_data import (
    TrainingData,
    as_features,
    check_folds,
    check_training_data,
    graded,
)

BLOCK = 2**28
"""Bytes of residuals that are fitted together."""


def fit_directions(
    residuals: xr.DataArray,
    *,
    kind: Kind = "mean_difference",
    folds: int = 5,
    draws: int = 500,
    seed: int = 0,
    regularisation: float | None = 1.0,
) -> Probe:
    """A probe fitted on the residuals of labelled statements, one direction per layer.

    Quality is measured on statements of clusters that the fit has not seen: in each of ``folds`` folds whole
    clusters are held out; the interval is a percentile bootstrap over clusters.

    Args:
        residuals: statement x layer x d_model with coordinates ``label`` (1 moral, 0 immoral) and
            ``cluster`` along ``statement``, and ``value`` where ratings are graded. For ``ccs`` a dimension
            ``side`` of two comes beside them, and ``label`` may be absent.
        kind: one of :data:`morality_lens.probes.kinds.KINDS`: ``mean_difference``, ``logistic``, ``lda``,
            ``ridge`` (on ``value``) or ``ccs`` (on pairs; labels, where present, choose the sign).
        folds: groups of clusters held out in turn.
        draws: bootstrap draws of the interval.
        seed: of the folds and of the bootstrap.
        regularisation: C of ``logistic``; None chooses it by cross-validation inside the training clusters.

    Returns:
        The probe. Without both labels the unit is the distance between the means of the upper and the lower
        half: of the ratings (``ridge``), or of the projections themselves (``ccs``, whose sign is then not
        known).

    Raises:
        ValueError: a label is missing or not 0 or 1, a class is absent, residuals are not finite, ratings
            are absent, or there are fewer than two clusters in a class.
    """
    chosen = check_kind(kind)
    examples = check_training_data(residuals, chosen)
    fold, weights = np.zeros(len(examples.clusters), np.int64), np.ones((1, 1))
    if examples.classes is not None:
        folds = check_folds(examples.classes, examples.clusters, folds)
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=seed)
        for number, (_, test) in enumerate(
            splitter.split(examples.classes, examples.classes, examples.clusters)
        ):
            fold[test] = number
        weights = np.concatenate([np.ones((1, folds)), 1 - np.eye(folds)])  # all folds, then all but each
    layers = residuals["layer"].values
    size = 8 * int(np.prod([n for d, n in examples.residuals.sizes.items() if d != "layer"]))
    blocks = np.array_split(np.arange(len(layers)), min(len(layers), -(-len(layers) * size // BLOCK)))
    parts = [
        _fit_block(examples.residuals.isel(layer=block), examples, chosen, fold, weights, regularisation)
        for block in blocks
    ]
    direction, intercept, gap, held_out = (np.concatenate(each) for each in zip(*parts, strict=True))
    coords = {"layer": layers}
    return Probe(
        kind=chosen,
        direction=xr.DataArray(direction, dims=("layer", "d_model"), coords=coords),
        intercept=xr.DataArray(intercept, dims="layer", coords=coords),
        quality=xr.Dataset(
            {
                **{name: ("layer", v) for name, v in _quality(held_out, examples, draws, seed).items()},
                "gap": ("layer", gap),
            },
            coords=coords,
        ),
        training={
            "source": "statements",
            "n": len(examples.clusters),
            **(
                {"n_moral": int(examples.classes.sum())}
                if examples.labelled and examples.classes is not None
                else {}
            ),
            "n_clusters": len(set(examples.clusters)),
            "folds": folds if examples.classes is not None else 0,
            "seed": seed,
            "units": UNITS if examples.labelled else "gap between upper and lower half",
            "oriented": examples.classes is not None,
            "demeaned": False,
            "conditions": [],
            "items": [],
            "model_fingerprint": str(residuals.attrs.get("model_fingerprint", "")),
            "statements_sha256": str(residuals.attrs.get("statements_sha256", "")),
            "read": str(residuals.attrs.get("read", "")),
        },
    )


def _fit_block(
    residuals: xr.DataArray,
    examples: TrainingData,
    kind: Kind,
    fold: Int[np.ndarray, " case"],
    weights: Float[np.ndarray, "fit group"],
    regularisation: float | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Direction, intercept, gap and held-out scores (none without classes) of some layers."""
    fitted, applied, middle = as_features(residuals)
    _, member = np.unique(examples.clusters, return_inverse=True)
    raw = raw_directions(
        kind,
        fitted,
        examples.targets,
        member,
        groups=fold,
        weights=weights,
        regularisation=regularisation,
    )
    largest = np.abs(applied).max((1, 2))
    if examples.classes is None:  # the two halves that the direction separates take the place of the classes
        scores = np.einsum("lnd,ld->ln", applied, raw[0])
        above = (scores > scores.mean(1, keepdims=True)).astype(np.int64)
        stacked = [
            np.stack([applied[i, a == c].mean(0) if (a == c).any() else applied[i, 0] for c in (0, 1)])
            for i, a in enumerate(above)
        ]
        means = rearrange(np.array(stacked), "l c d -> 1 c l d")
        centres = middle.mean(1)[None]
    else:
        means = class_means(*class_sums(applied, examples.classes, fold), weights)
        centres = class_means(*class_sums(middle, examples.classes, fold), weights).mean(1)
    directions, gaps = in_gaps(raw, means, largest)
    direction, gap = directions[0], gaps[0]
    held_out = np.zeros((len(applied), len(fold)))
    for number, without in enumerate(directions[1:]):
        test = fold == number
        scores = np.einsum("lnd,ld->ln", applied[:, test], without)
        held_out[:, test] = scores - (means[number + 1].mean(0) * without).sum(-1)[:, None]
    length = np.linalg.norm(raw[0], axis=-1)
    distance = np.abs(gap) / np.where(length > 0, length, 1.0)
    if examples.classes is not None:
        share = _share(kind, applied, examples.classes, member, fold, held_out)
        direction = direction / np.where(np.isfinite(share), share, 1.0)[:, None]
        distance = np.where(gap != 0, distance * share, 0.0)
    return direction, -(centres[0] * direction).sum(-1), distance, held_out


def _share(
    kind: Kind,
    applied: Features,
    classes: Labels,
    clusters: Groups,
    fold: Groups,
    held_out: Float[np.ndarray, "layer case"],
) -> Float[np.ndarray, " layer"]:
    """The share of the gap in sample that new statements have; NaN where it cannot be told from none."""
    reached, above = held_out_gap(held_out, classes, clusters)
    if kind == "mean_difference":
        share = share_along_mean_difference(applied, classes, clusters)
    else:
        share = share_of_whole_fit(reached, int(fold.max()) + 1)
    return np.where(above & (share > 0), share, np.nan)


def _quality(
    held_out: Float[np.ndarray, "layer case"], examples: TrainingData, draws: int, seed: int
) -> dict[str, np.ndarray]:
    found = {name: np.full(len(held_out), np.nan) for name in ("auroc", "auroc_low", "auroc_high")}
    if examples.classes is not None and examples.labelled:
        measured = quality.auroc(held_out, examples.classes, examples.clusters, draws=draws, seed=seed)
        found = dict(zip(found, measured, strict=True))
    if examples.classes is not None and graded(examples.values):
        known = np.isfinite(examples.values)
        ranked = quality.spearman(
            held_out[:, known], examples.values[known], examples.clusters[known], draws=draws, seed=seed
        )
        found |= dict(zip(("spearman", "spearman_low", "spearman_high"), ranked, strict=True))
    return found
