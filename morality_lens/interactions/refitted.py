"""Refits of a direction: those that belong to a cube, their effects, and layers about which nothing is claimed."""

import math

import numpy as np
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float

from morality_lens.interactions.carried import REFITS, CarriedRefits
from morality_lens.interactions.caveats import POPULATION
from morality_lens.interactions.contrasts import Contrasts
from morality_lens.interactions.cube import REPEATS, Cube

FEWEST_DRAWS = 20
"""Refits whose variance is taken."""
STALE = (
    "Warning: the refits that y carries are left out, because its cell means are no longer those of the "
    "projection (items were left out or the values were changed): the intervals say whether this direction "
    "moves. Project the residuals that are analysed, probe.project(run.residuals.sel(item=ids)), or give "
    "refits=project_means(probe.refits, ...) changed as y was."
)


def resolve_refits(y: xr.DataArray, refits: xr.DataArray | None) -> tuple[xr.DataArray | None, list[str]]:
    """The refits that belong to ``y``, and a note where those that it carries no longer do.

    Those given are taken as they are. Those carried are taken where ``y`` still is the projection: at any
    places and levels of it (also where the dims of one place were dropped), averaged over rounds, sites or
    layers, or a difference of places made by ``between``. Its cell means show that: where items were left out
    or values changed, they differ from the probe's own, and the refits are left out.

    Args:
        y: what is analysed.
        refits: given by hand, or None.
    """
    if refits is not None:
        return refits, []
    carried = y.attrs.get(REFITS)
    if not isinstance(carried, CarriedRefits):
        return None, []
    found = _at_places_of(y, carried)
    return found, [STALE] if found is None else []


def _at_places_of(y: xr.DataArray, carried: CarriedRefits) -> xr.DataArray | None:
    """The refits at the places of ``y``; None where its cell means are not the probe's own there."""
    means = y.mean([d for d in y.dims if d == "item" or d in REPEATS]).astype(np.float64)
    own, refits, lost = carried.own, carried.refits, []
    if not set(means.dims) <= set(own.dims):
        return None
    for dim in map(str, own.dims):
        if dim not in means.coords:
            lost.append(dim)
            continue
        wanted = means.coords[dim].values
        if not np.isin(wanted, own[dim].values).all():
            return None
        own, refits = own.sel({dim: wanted}), refits.sel({dim: wanted})
    if set(lost) & set(means.dims):  # a dim without labels
        return None
    near = (1e-9 if y.dtype.itemsize >= 8 else 1e-6) * float(np.abs(carried.own).max())
    return _where_equal(means, own, refits, lost, near)


def _where_equal(
    means: xr.DataArray, own: xr.DataArray, refits: xr.DataArray, lost: list[str], near: float
) -> xr.DataArray | None:
    """The refits where the cell means are equal: at one place along the lost dims, or averaged over them."""
    places = own.stack(place=lost).transpose("place", *means.dims) if lost else own.expand_dims("place")
    at_places = refits.stack(place=lost) if lost else refits.expand_dims("place")
    want, given = places.transpose("place", *means.dims).values, means.values
    same = np.isclose(want, given, rtol=0, atol=near, equal_nan=True).reshape(len(want), -1).all(1)
    hits = at_places.isel(place=np.flatnonzero(same)).transpose("place", ...)
    if same.any():
        alike = np.array_equal(hits.values, np.broadcast_to(hits.values[:1], hits.shape), equal_nan=True)
        return hits.isel(place=0, drop=True).drop_vars(lost, errors="ignore") if alike else None
    averaged = places.mean("place").transpose(*means.dims).values
    if np.isclose(averaged, given, rtol=0, atol=near, equal_nan=True).all():
        return at_places.mean("place").assign_attrs(refits.attrs)
    return None


def effects_of_refits(
    refits: xr.DataArray, cube: Cube, wanted: Contrasts
) -> Float[np.ndarray, "draw effect place"]:
    """Every effect of the cell means on every refit of the probe; NaN where those of a layer are.

    Args:
        refits: from :func:`resolve_refits`, at the levels at which factors are held.
        cube: the cells of the projection itself.
        wanted: the contrasts.

    Raises:
        ValueError: refits of other places, too few, or not finite.
    """
    needed = {"probe_draw", *wanted.levels, *cube.rest}
    if not needed <= set(refits.dims) or refits.sizes.get("probe_draw", 0) < FEWEST_DRAWS:
        raise ValueError(
            f"factorial_effects needs refits with the dims {sorted(needed)} and at least {FEWEST_DRAWS} draws; "
            f"got {dict(refits.sizes)}. Use project_means(refit_directions(...), run_cell_means(run)), 50 to "
            "100 draws."
        )
    for dim in cube.rest:
        here = cube.coords[dim].values if dim in cube.coords else None
        if here is not None and not (dim in refits.coords and np.isin(here, refits[dim].values).all()):
            raise ValueError(
                f"factorial_effects needs refits at the places of y; they lack some along {dim!r}."
            )
    chosen = refits.sel(
        {**wanted.levels, **{d: cube.coords[d].values for d in cube.rest if d in cube.coords}}
    )
    cells = chosen.transpose("probe_draw", *wanted.levels, *cube.rest).values
    if not np.isfinite(cells).all():
        raise ValueError(
            "factorial_effects needs finite refits; got NaN or infinities. Select the rounds and sites that "
            "exist, or leave refits out and claim no more than that this direction moves."
        )
    flat = cells.reshape(len(cells), wanted.matrix.shape[1], -1)
    return einsum(wanted.matrix, flat, "effect cell, draw cell place -> draw effect place")


def refused_layers(y: xr.DataArray, refits: xr.DataArray | None) -> tuple[xr.DataArray | None, list[str]]:
    """Where no effect on the projection is judged, and why: True along ``layer``, or without a dim for one.

    A layer is refused where the moral and the immoral statements have no gap that can be told from none
    (coordinate ``gap`` is NaN), so that the projection has no unit. Where refits are used, or carried though
    they no longer fit, the question is about the moral direction: then also where halves of the statements
    do not agree on one (coordinate ``split_half``).

    Args:
        y: what is analysed.
        refits: those that are used, or None.

    Returns:
        None, and no words, where nothing is refused.
    """
    about_all = refits is not None or REFITS in y.attrs
    halves = y.coords.get("split_half") if about_all else None
    refused, words = None, []
    if halves is not None and bool((halves < POPULATION).any()):
        refused = halves < POPULATION
        words.append(
            f"No p-values and no intervals at {_named(halves, refused)}: halves of the probe's statements give "
            f"directions whose cosine (in brackets) is below {POPULATION}, so there is no stable moral "
            "direction there. Train the probe on more clusters of statements."
        )
    gap = y.coords.get("gap")
    if gap is not None and bool(gap.isnull().any()):
        words.append(
            f"No p-values and no intervals at {_named(gap, gap.isnull(), numbers=False)}: moral and immoral "
            "statements that the direction has not seen have no gap along it that can be told from none, so "
            "the projection has no unit there. Train the probe on more statements."
        )
        refused = gap.isnull() if refused is None else refused | gap.isnull()
    if refused is None:
        return None, []
    return refused.drop_vars([c for c in refused.coords if c != "layer"]).rename("refused"), words


def refused_features(refused: xr.DataArray | None, cube: Cube, n_effects: int) -> Bool[np.ndarray, "feature"]:
    """The refused tests among all, effects times places; they belong into no family's maximum."""
    if refused is None:
        return np.zeros(n_effects * math.prod(cube.rest_shape), bool)
    axes = [size if dim in refused.dims else 1 for dim, size in zip(cube.rest, cube.rest_shape, strict=True)]
    at_places = np.broadcast_to(refused.values.reshape(axes), cube.rest_shape).ravel()
    return np.tile(at_places, n_effects)


def _named(values: xr.DataArray, where: xr.DataArray, *, numbers: bool = True) -> str:
    """The layers where something holds, with their values."""
    if not values.ndim:
        name = f"layer {values['layer'].item()}" if "layer" in values.coords else "this layer"
        return f"{name} ({float(values):.2f})" if numbers else name
    some = values[where.values]
    labels = some["layer"].values.tolist() if "layer" in some.coords else np.flatnonzero(where).tolist()
    shown = [f"{n} ({v:.2f})" if numbers else f"{n}" for n, v in zip(labels, some.values, strict=True)]
    return f"the layer{'s' * (len(shown) > 1)} {', '.join(shown)}"
