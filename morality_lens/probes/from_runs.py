"""Directions fitted on a run's own residuals, and the direction in which a component moves them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import xarray as xr
from jaxtyping import Float, Int

from morality_lens.design import Condition
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import ON_LABELS, Kind
from morality_lens.probes.probe import Probe
from morality_lens.runs.run import Run


def fit_on_run(
    run: Run,
    *,
    site: str,
    label: xr.DataArray,
    items: Sequence[str] | None = None,
    conditions: Sequence[Condition] | None = None,
    demean: bool = False,
    kind: Kind = "mean_difference",
    seed: int = 0,
) -> Probe:
    """A probe fitted on the residuals that a run left at one site; clusters are those of the items.

    A direction trained on outcomes of several conditions captures whatever else differs between them, and
    reproduces the effects on behaviour even if nothing else can be read. So train on one condition, or let
    ``demean`` take the mean of each condition and round away first; else ``project`` reports ``leakage``.

    Args:
        run: a run.
        site: where it was read.
        label: 1 or 0, NaN for an answer that is not trained on; over some of item, the factors and round. A
            level or round that a coordinate fixes is meant alone, a dim that is not there means all of them.
            A behaviour cube of correct answers will do.
        items: ids of the items to train on; None takes all.
        conditions: cells to train on; None takes all.
        demean: remove the mean of each condition and round before fitting.
        kind: one that is fitted on labels: ``mean_difference``, ``logistic`` or ``lda``.
        seed: of folds and intervals.

    Raises:
        ValueError: an unknown site, kind, item or condition; labels that are not 0, 1 or NaN, or have other
            dims; no answer left to train on; or what ``fit_directions`` refuses.

    Examples:
        >>> found = ml.probes.fit_on_run(run, site="answer_end", label=correct, demean=True)
        >>> found.kind, found.direction.sizes["layer"]
        ('mean_difference', 7)
    """
    residuals = run.residuals
    _check_names("site", [site], residuals["site"].values.tolist())
    _check_names("kind", [kind], ON_LABELS)
    wanted = _on_all_places(label, residuals, run.design.dims)
    if items is not None:
        _check_names("item", items, residuals["item"].values.tolist())
        wanted = wanted.where(wanted["item"].isin(list(items)))
    place, names = _training_places(run, site, wanted, conditions)
    at_site = residuals.sel(site=site).transpose(*run.design.dims, "layer", "d_model")
    coords = {
        "label": ("statement", wanted.values[tuple(place.T)].astype(np.int64)),
        "cluster": ("statement", residuals["cluster"].values[place[:, 0]].astype(str)),
    }
    rounds = place[:, -1]
    _, cell = np.unique([f"{name}|{r}" for name, r in zip(names, rounds, strict=True)], return_inverse=True)
    fits: list[Probe] = []
    for layer in range(at_site.sizes["layer"]):  # one at a time, so memory does not grow with their number
        x = at_site.isel(layer=layer).values[tuple(place.T)].astype(np.float64)
        examples = xr.DataArray(
            (_without_cell_means(x, cell) if demean else x)[:, None],
            dims=("statement", "layer", "d_model"),
            coords={**coords, "layer": at_site["layer"].values[[layer]]},
            attrs={"model_fingerprint": run.manifest["study"]["model"]["fingerprint"], "read": site},
        )
        fits.append(fit_directions(examples, kind=kind, seed=seed))
    used = residuals["item"].values[np.unique(place[:, 0])].astype(str)
    return Probe(
        kind=fits[0].kind,
        direction=xr.concat([fit.direction for fit in fits], "layer"),
        intercept=xr.concat([fit.intercept for fit in fits], "layer"),
        quality=xr.concat([fit.quality for fit in fits], "layer"),
        training={
            **fits[0].training,
            "source": "run",
            "items": sorted(used.tolist()),
            "conditions": [c.label for c in run.design.conditions if c.label in set(names.tolist())],
            "rounds": sorted({str(r) for r in residuals["round"].values[rounds]}),
            "demeaned": demean,
            "units": "gap between labels 1 and 0",
        },
    )


def _training_places(
    run: Run, site: str, wanted: xr.DataArray, conditions: Sequence[Condition] | None
) -> tuple[Int[np.ndarray, "case dim"], np.ndarray]:
    """Where the training answers stand along item, factors and round, and their conditions' labels.

    Raises:
        ValueError: an unknown condition, or no answer with both a label and a residual.
    """
    design = run.design
    cells = [c.label for c in design.conditions]
    chosen = cells if conditions is None else [design.condition(c).label for c in conditions]
    _check_names("condition", chosen, cells)
    place = np.argwhere(np.isfinite(wanted.values))
    sizes = tuple(map(len, design.levels.values()))
    numbers = np.atleast_1d(np.ravel_multi_index(tuple(place[:, 1:-1].T), sizes))
    names = np.array([cells[i] for i in numbers], str)
    taken = np.isin(names, chosen)
    place, names = place[taken], names[taken]
    first = run.residuals.sel(site=site).isel(layer=0).transpose(*design.dims, "d_model")
    there = np.isfinite(first.values[tuple(place.T)]).all(1)
    if not there.any():
        raise ValueError(
            f"no answer to train on at {site!r}: none of the chosen items and conditions has both a "
            "label and a residual. Give a label over the run's own items, or choose others."
        )
    return place[there], names[there]


def condition_direction(run: Run, *, factor: str, site: str, round: int, seed: int = 0) -> Probe:
    """The direction in which a component moves the residuals: mean(on) - mean(off) over all else.

    Its unit is that distance. Its sign means on or off, not good or bad (``oriented`` is False), and it was
    trained on the very cells it separates (``leakage``): it serves for comparison with other directions.

    Args:
        run: a run.
        factor: one of the run's factors, such as ``instruction``.
        site: where residuals were read.
        round: which round's.
        seed: of the folds of its held-out quality.

    Raises:
        ValueError: an unknown factor, site or round, or a factor that was not run both on and off.

    Examples:
        >>> moved = ml.probes.condition_direction(run, factor="instruction", site="answer_start", round=2)
        >>> dict(moved.direction.sizes)
        {'layer': 7, 'd_model': 128}
    """
    residuals = run.residuals
    _check_names("factor", [factor], run.design.names)
    _check_names("round", [round], residuals["round"].values.tolist())
    _check_names(f"level of {factor}", ["on", "off"], residuals[factor].values.tolist())
    side = [{"on": 1.0, "off": 0.0}.get(level, np.nan) for level in residuals[factor].values.tolist()]
    label = xr.DataArray(side, dims=factor, coords={factor: residuals[factor].values, "round": round})
    fitted = fit_on_run(run, site=site, label=label, seed=seed)
    own = {"oriented": False, "factor": factor, "units": f"on-off gap of {factor}"}
    return replace(fitted, training={**fitted.training, **own})


def _check_names(what: str, given: Sequence, known: Sequence) -> None:
    unknown = [name for name in given if name not in known]
    if unknown or not given:
        raise ValueError(
            f"unknown {what} {', '.join(map(str, unknown)) or '(none given)'}; choose out of "
            f"{', '.join(map(str, known[:20]))}."
        )


def _on_all_places(label: xr.DataArray, residuals: xr.DataArray, dims: tuple[str, ...]) -> xr.DataArray:
    """The labels over items, factors and rounds; NaN where there is none."""
    extra = set(label.dims) - set(dims)
    if extra:
        raise ValueError(f"label may have the dims {', '.join(dims)}; got {sorted(map(str, extra))} too.")
    values = label.values.astype(np.float64)
    if not np.isin(values[np.isfinite(values)], (0, 1)).all() or np.isinf(values).any():
        raise ValueError("label must be 1, 0 or NaN (not trained on); make other outcomes 0 and 1 first.")
    found = label.astype(np.float64)
    for name in dims:
        known = residuals[name].values
        if name in found.dims and name in found.coords:
            found = found.reindex({name: known})
        elif name in found.dims:
            raise ValueError(
                f"label needs a coordinate along {name!r}, which says what its values belong to."
            )
        elif name in found.coords:  # one level was selected: only that one is meant
            found = found.expand_dims(name).reindex({name: known})
        else:
            found = found.expand_dims({name: known})
    return found.transpose(*dims)


def _without_cell_means(
    x: Float[np.ndarray, "case d_model"], cell: Int[np.ndarray, " case"]
) -> Float[np.ndarray, "case d_model"]:
    """Every example less its cell's mean, plus the mean of those means, so the midpoint does not move."""
    member = (np.arange(cell.max() + 1)[:, None] == cell).astype(np.float64)
    means = member @ x / member.sum(1, keepdims=True)
    return x - means[cell] + means.mean(0)
