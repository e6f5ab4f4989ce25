"""How far a direction depends on its training statements: refits, halves, and projections on refits."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from morality_lens.interactions.carried import without_refits
from morality_lens.probes.closed_form import Directions, class_means, class_sums, in_gaps
from morality_lens.probes.estimators import raw_directions
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import KINDS, Kind, check_kind
from morality_lens.probes.probe import Probe
from morality_lens.probes.projecting import cell_means
from morality_lens.probes.training_data import (
    TrainingData,
    as_features,
    check_folds,
    check_training_data,
)
from morality_lens.runs.run import Run


def refit_directions(
    residuals: xr.DataArray,
    *,
    draws: int = 50,
    kind: Kind = "mean_difference",
    seed: int = 0,
    direction: xr.DataArray | None = None,
) -> xr.DataArray:
    """The direction fitted again on bootstrap samples of whole training clusters.

    Every refit is divided by the constant that scales the fit on all statements, layer by layer, so a refit
    is as long as its own statements make it: the variance over refits of an effect is then what the choice
    of statements adds to it. (Refits of one length would be shortened by their angle to the truth.) With
    ``mean_difference`` all refits of a layer are one product of the drawn weights and the clusters' sums.
    That variance has as many degrees of freedom as there are clusters less one, however many draws there are:
    ``attrs`` keep ``n_clusters``.

    Args:
        residuals: labelled statements as :func:`morality_lens.probes.fitting.fit_directions` takes them.
        draws: refits; one that lacks a class is drawn again.
        kind: any kind of direction but ``ccs``.
        seed: of the draws.
        direction: layer x d_model, the fit on all statements, whose scale the refits take; None fits it.

    Returns:
        probe_draw x layer x d_model; zero at a layer where the classes do not differ.

    Raises:
        ValueError: as :func:`morality_lens.probes.fitting.fit_directions`; no draws; or the kind is ``ccs``.

    Examples:
        >>> residuals = ml.probes.read_statements(model, statements)
        >>> refits = ml.probes.refit_directions(residuals, draws=10)
        >>> dict(refits.sizes)
        {'probe_draw': 10, 'layer': 7, 'd_model': 128}
    """
    chosen = check_kind(kind)
    if KINDS[chosen].refits is None:
        raise ValueError(f"a refit of a {chosen} direction has no sign of its own; refit another kind.")
    if draws < 1:
        raise ValueError(f"refit_directions needs one or more draws; got {draws}.")
    examples, labels, cluster, held = _clusters(residuals, chosen)
    rng, count = np.random.default_rng(seed), len(held)
    drawn = [
        _until_both(held, lambda: rng.multinomial(count, np.full(count, 1 / count))[None])
        for _ in range(draws)
    ]
    weights = np.concatenate([np.ones((1, count)), *drawn])  # the fit on all statements comes first
    whole = fit_directions(residuals, kind=chosen, draws=1).direction if direction is None else direction
    found = np.zeros((draws, residuals.sizes["layer"], residuals.sizes["d_model"]))
    for layer, scaled in enumerate(whole.transpose("layer", "d_model").values):
        raw, _ = _fits(examples, labels, cluster, chosen, weights, layer)
        if scaled.any():
            found[:, layer] = raw[1:] * (scaled @ scaled) / (raw[0] @ scaled)
    return xr.DataArray(
        found,
        dims=("probe_draw", "layer", "d_model"),
        coords={"probe_draw": np.arange(draws), "layer": residuals["layer"].values},
        name="refit_directions",
        attrs={"kind": chosen, "seed": seed, "n_clusters": count},
    )


def split_half_cosine(residuals: xr.DataArray, *, splits: int = 20, seed: int = 0) -> xr.DataArray:
    """Mean cosine between the mean differences of two random halves of the training clusters, by layer.

    Near 1 the statements agree on one direction; below .5 it reflects little more than the choice of
    statements. A layer at which the classes do not differ has no direction and NaN.

    Args:
        residuals: labelled statements as :func:`morality_lens.probes.fitting.fit_directions` takes them.
        splits: random halvings; one that leaves a half without a class is drawn again.
        seed: of the halvings.

    Raises:
        ValueError: as :func:`morality_lens.probes.fitting.fit_directions`, or no splits.

    Examples:
        >>> residuals = ml.probes.read_statements(model, statements)
        >>> halves = ml.probes.split_half_cosine(residuals)
        >>> bool(halves.sel(layer=3) > 0.5), bool(halves.sel(layer=0) > 0.5)
        (True, False)
    """
    if splits < 1:
        raise ValueError(f"split_half_cosine needs one or more splits; got {splits}.")
    examples, labels, cluster, held = _clusters(residuals, "mean_difference")
    rng, count = np.random.default_rng(seed), len(held)

    def halves() -> np.ndarray:
        first = rng.permutation(count) < count // 2
        return np.stack([first, ~first]).astype(np.int64)

    weights = np.concatenate([_until_both(held, halves) for _ in range(splits)]).astype(np.float64)
    cosines = np.full(residuals.sizes["layer"], np.nan)
    for layer in range(len(cosines)):
        raw, gap = _fits(examples, labels, cluster, "mean_difference", weights, layer)
        if gap.all():
            unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
            cosines[layer] = (unit[0::2] * unit[1::2]).sum(1).mean()
    return xr.DataArray(
        cosines, dims="layer", coords={"layer": residuals["layer"].values}, name="split_half_cosine"
    )


def with_refits(probe: Probe, residuals: xr.DataArray, *, draws: int = 50, seed: int = 0) -> Probe:
    """The probe with refits and with the split-half cosine of its statements in ``quality``.

    Its projections carry the cell means on the refits and how far halves of the statements agree:
    ``factorial_effects`` of them adds what the choice of statements adds to every interval.

    Args:
        probe: of any kind but ``ccs``.
        residuals: what it was fitted on.
        draws: refits; mean differences cost next to nothing, other kinds one fit per draw and layer.
        seed: of draws and halvings.

    Raises:
        ValueError: as :func:`refit_directions`, or the residuals are not the probe's.
    """
    given = str(residuals.attrs.get("statements_sha256", ""))
    if given != str(probe.training.get("statements_sha256", "")):
        raise ValueError(
            "with_refits needs the residuals that the probe was fitted on; got other statements."
        )
    refits = refit_directions(residuals, draws=draws, kind=probe.kind, seed=seed, direction=probe.direction)
    halves = split_half_cosine(residuals, seed=seed)
    return replace(probe, refits=refits, quality=probe.quality.assign(split_half=("layer", halves.values)))


def for_file(projections: xr.DataArray) -> xr.DataArray:
    """The projections with attributes that a netCDF file takes: without refits, all others kept.

    ``oriented`` and other truth values become 0 and 1, None becomes an empty text. What is read back has no
    refits: effects of it say whether this direction moves, not whether the morality direction does.

    Args:
        projections: what ``project`` returned, or what was made of it.

    Examples:
        >>> "refits" in moral.attrs, "refits" in ml.probes.for_file(moral).attrs
        (True, False)
        >>> ml.probes.for_file(moral).to_netcdf(folder / "moral.nc")
    """
    kept = without_refits(projections.attrs)
    plain = {name: "" if v is None else int(v) if isinstance(v, bool) else v for name, v in kept.items()}
    return projections.drop_attrs(deep=False).assign_attrs(plain)


def run_cell_means(run: Run, *, layers: Sequence[int] | None = None) -> xr.DataArray:
    """Residuals of a run averaged over its items: conditions x round x site x layer x d_model.

    One site and layer is read at a time. The mean is over the items that have the residual; where no item
    has one (a segment that is not in the condition) it is NaN.

    Args:
        run: a run.
        layers: the layers wanted; None: all.

    Examples:
        >>> ml.probes.run_cell_means(run, layers=[3]).dims
        ('instruction', 'cot', 'feedback', 'round', 'site', 'layer', 'd_model')
    """
    residuals = run.residuals if layers is None else run.residuals.sel(layer=list(layers))
    dims = tuple(d for d in residuals.dims if d not in ("item", "site", "layer"))
    shape = [residuals.sizes[d] for d in (*dims[:-1], "site", "layer", dims[-1])]
    means = np.empty(shape)
    for site in range(residuals.sizes["site"]):
        for layer in range(residuals.sizes["layer"]):
            values = residuals.isel(site=site, layer=layer).transpose("item", *dims).values
            means[..., site, layer, :] = cell_means(values)
    coords = {name: c for name, c in residuals.coords.items() if not {"item", "d_model"} & set(c.dims)}
    return xr.DataArray(
        means, dims=(*dims[:-1], "site", "layer", "d_model"), coords=coords, name="cell_means"
    )


def project_means(directions: xr.DataArray, cell_means: xr.DataArray) -> xr.DataArray:
    """Cell means on every refit of a direction, in one batched product; NaN stays NaN.

    No midpoint is subtracted: it is the same in all cells, so it cancels in every contrast.

    Args:
        directions: probe_draw x layer x d_model, from :func:`refit_directions`.
        cell_means: any dims with layer and d_model, from :func:`run_cell_means`.

    Returns:
        probe_draw and the other dims of ``cell_means``, layer last, named ``refits``.

    Raises:
        ValueError: dims are missing, or the layers or the width differ.

    Examples:
        >>> means = ml.probes.run_cell_means(run, layers=[3])
        >>> projected = ml.probes.project_means(probe.refits.sel(layer=[3]), means)
        >>> projected.sizes["probe_draw"], "d_model" in projected.dims
        (50, False)
    """
    lacking = {"probe_draw", "layer", "d_model"} - set(directions.dims) or {"layer", "d_model"} - set(
        cell_means.dims
    )
    if lacking:
        raise ValueError(
            "project_means needs directions over probe_draw, layer and d_model, and means over layer and "
            f"d_model; got {directions.dims} and {cell_means.dims}."
        )
    same_layers = np.array_equal(directions["layer"], cell_means["layer"])
    if not same_layers or directions.sizes["d_model"] != cell_means.sizes["d_model"]:
        raise ValueError(
            f"project_means needs the same layers and width on both; got {dict(directions.sizes)} and "
            f"{dict(cell_means.sizes)}. Read the statements with the run's own model, select the same layers."
        )
    dims = tuple(d for d in cell_means.dims if d not in ("layer", "d_model"))
    means = cell_means.transpose("layer", *dims, "d_model").values.astype(np.float64)
    flat = means.reshape(means.shape[0], -1, means.shape[-1])
    w = directions.transpose("layer", "d_model", "probe_draw").values
    values = np.moveaxis(flat @ w, (0, 2), (2, 0)).reshape(
        directions.sizes["probe_draw"], *means.shape[1:-1], means.shape[0]
    )
    coords = {name: c for name, c in cell_means.coords.items() if "d_model" not in c.dims}
    return xr.DataArray(
        values,
        dims=("probe_draw", *dims, "layer"),
        coords={**coords, "probe_draw": directions["probe_draw"].values},
        name="refits",
        attrs={name: directions.attrs[name] for name in ("n_clusters",) if name in directions.attrs},
    )


def _clusters(
    residuals: xr.DataArray, kind: Kind
) -> tuple[
    TrainingData, Int[np.ndarray, " case"], Int[np.ndarray, " case"], Int[np.ndarray, "cluster class"]
]:
    """The examples, their classes and cluster numbers, and how many of each class a cluster holds."""
    examples = check_training_data(residuals, kind)
    assert examples.classes is not None  # no kind but ccs goes without
    check_folds(examples.classes, examples.clusters, 2)
    names, cluster = np.unique(examples.clusters, return_inverse=True)
    held = np.zeros((len(names), 2), np.int64)
    np.add.at(held, (cluster, examples.classes), 1)
    return examples, examples.classes, cluster, held


def _until_both(held: Int[np.ndarray, "cluster class"], draw: Callable[[], np.ndarray]) -> np.ndarray:
    """Drawn weights of the clusters, drawn until every row takes examples of both classes."""
    while True:
        weights = draw()
        if (weights @ held).min() > 0:
            return weights


def _fits(
    examples: TrainingData,
    labels: Int[np.ndarray, " case"],
    cluster: Int[np.ndarray, " case"],
    kind: Kind,
    weights: Float[np.ndarray, "fit cluster"],
    layer: int,
) -> tuple[Float[np.ndarray, "fit d_model"], Float[np.ndarray, " fit"]]:
    """Raw directions of one layer, and the gap of each fit's classes along it; 0 where they do not differ."""
    x, _, _ = as_features(examples.residuals.isel(layer=[layer]))
    raw: Directions = raw_directions(kind, x, examples.targets, cluster, groups=cluster, weights=weights)
    means = class_means(*class_sums(x, labels, cluster), weights)
    _, gap = in_gaps(raw, means, np.abs(x).max((1, 2)))
    return raw[:, 0], gap[:, 0]
