"""Shifts of the residual stream between rounds: their alignment with the moral direction and random ones."""

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from morality_lens.design import said_of
from morality_lens.interactions.cube import cluster_codes, conditions_of
from morality_lens.interactions.numbers import interval_of, is_p
from morality_lens.probes.probe import Probe
from morality_lens.runs.run import Run


def round_shifts(
    run: Run,
    probe: Probe,
    *,
    site: str = "answer_start",
    layer: int,
    draws: int = 500,
    seed: int = 0,
    alpha: float = 0.05,
) -> xr.Dataset:
    """Alignment of the mean shift between two rounds with the probe's direction, by condition and round.

    The shift of an item from one round to the next is the difference of its residuals; the alignment is the
    cosine between the mean shift of all items and the direction (Lee et al. 2025, arXiv 2505.11924, compare
    shifts with contrastive directions). A cosine is hard to interpret where few directions hold most of the
    variance, so it is compared with those of random directions: isotropic ones, and ones with the covariance
    of the residuals between items. Cosines are not on a linear scale and not meant for ``factorial_effects``.

    Args:
        run: a run.
        probe: fitted on the run's model.
        site: where residuals are read.
        layer: after which block.
        draws: random directions of each kind, and resamples of the clusters.
        seed: random seed of both.
        alpha: level of the intervals (percentiles of resampled clusters) and of the random directions.

    Returns:
        ``alignment``, ``ci_low``, ``ci_high`` by condition and round (from 1); ``random_high``: the 1 - alpha
        quantile of the absolute cosine of random directions, by ``kind`` (``any direction``, ``as items
        vary``); ``p``, the share of directions with the items' covariance that align at least as well;
        ``length``, the length of the mean shift.

    Raises:
        ValueError: the probe is of another model, or fitted on this run's own answers, or the direction is
            zero at this layer.

    Examples:
        >>> shifts = ml.experiments.round_shifts(run, probe, layer=3)
        >>> shifts["alignment"].dims
        ('instruction', 'cot', 'feedback', 'round')
    """
    probe.project(run.residuals.isel(item=slice(0, 1), site=[0]))  # refuses another model's layers
    probe.refuse_other_model(run)
    direction = probe.direction.sel(layer=layer).values.astype(np.float64)
    if not np.linalg.norm(direction) > 0:
        raise ValueError(f"the direction is zero at layer {layer}; choose another layer.")
    factors = run.design.names
    cube = run.residuals.sel(site=site, layer=layer).transpose(*run.design.dims, "d_model")
    values = cube.values.astype(np.float64)
    n, d = values.shape[0], values.shape[-1]
    shape = values.shape[1:-1]
    flat = values.reshape(n, -1, shape[-1], d)
    if np.isnan(flat).any():
        raise ValueError(f"the site {site!r} is missing in some dialogues; take answer_start.")
    shift = np.diff(flat, axis=2).reshape(n, -1, d)
    rng = np.random.default_rng(seed)
    start = flat[:, 0, 0] - flat[:, 0, 0].mean(axis=0)
    kinds = {
        "any direction": rng.standard_normal((draws, d)),
        "as items vary": rng.standard_normal((draws, n)) @ start,
    }
    mean = shift.mean(axis=0)
    alignment = _cosine(mean, direction[None])[:, 0]
    codes = cluster_codes(cube.isel(round=0, d_model=0, drop=True))
    resampled = _resampled(shift, codes, rng, draws)
    low, high = np.quantile(_cosine(resampled, direction[None])[..., 0], [alpha / 2, 1 - alpha / 2], axis=0)
    against = {name: np.abs(_cosine(mean, vectors)) for name, vectors in kinds.items()}
    better = (against["as items vary"] >= np.abs(alignment)[:, None]).sum(axis=1)
    dims = (*factors, "round")
    where = (*shape[:-1], shape[-1] - 1)
    bounds = np.stack([np.quantile(a, 1 - alpha, axis=1).reshape(where) for a in against.values()])
    return xr.Dataset(
        {
            "alignment": (dims, alignment.reshape(where)),
            "ci_low": (dims, low.reshape(where)),
            "ci_high": (dims, high.reshape(where)),
            "length": (dims, np.linalg.norm(mean, axis=-1).reshape(where)),
            "p": (dims, ((better + 1) / (draws + 1)).reshape(where)),
            "random_high": (("kind", *dims), bounds),
        },
        coords={
            **{name: cube[name].values for name in factors},
            "round": cube["round"].values[1:],
            "kind": list(kinds),
        },
        attrs={"site": site, "layer": layer, "alpha": alpha, "draws": draws, **probe.told},
    )


def _cosine(
    rows: Float[np.ndarray, "*place d_model"], directions: Float[np.ndarray, "direction d_model"]
) -> Float[np.ndarray, "*place direction"]:
    unit = directions / np.maximum(np.linalg.norm(directions, axis=-1, keepdims=True), 1e-300)
    return rows @ unit.T / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-300)


def _resampled(
    shift: Float[np.ndarray, "item place d_model"],
    codes: Int[np.ndarray, " item"],
    rng: np.random.Generator,
    draws: int,
) -> Float[np.ndarray, "draw place d_model"]:
    """Mean shifts of clusters drawn with replacement."""
    groups = int(codes.max()) + 1
    sums = np.zeros((groups, *shift.shape[1:]))
    np.add.at(sums, codes, shift)
    sizes = np.bincount(codes).astype(float)
    weights = rng.multinomial(groups, np.full(groups, 1 / groups), size=draws).astype(float)
    return np.einsum("wg,gpd->wpd", weights, sums) / (weights @ sizes)[:, None, None]


def describe_shifts(shifts: xr.Dataset) -> str:
    """The alignment of the first round's shift, in a sentence for each condition.

    Examples:
        >>> shifts = ml.experiments.round_shifts(run, probe, layer=3)
        >>> print(ml.experiments.describe_shifts(shifts))
        With no component: cosine ...; 95 % of random directions ...
    """
    first = shifts.isel(round=0)
    lines = []
    for condition in conditions_of(first["alignment"]):
        here = first.sel(condition.coords)
        bound = float(here["random_high"].sel(kind="as items vary"))
        lines.append(
            f"With {said_of(condition)}: cosine {interval_of(here, 'alignment', signed=True)}; "
            f"95 % of random directions with the covariance of items stay below {bound:.2f} "
            f"({is_p(float(here['p']))})."
        )
    return "\n".join(lines)
