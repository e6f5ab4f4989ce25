"""Refits of a direction: those that belong to a cube, their effects, and the layers that are refused."""

import math
from dataclasses import dataclass

import numpy as np
import xarray as xr
from einops import einsum
from jaxtyping import Bool, Float

from morality_lens.interactions.carried import GUARDS, REFITS, CarriedRefits
from morality_lens.interactions.caveats import POPULATION
from morality_lens.interactions.contrasts import Contrasts
from morality_lens.interactions.cube import REPEATS, Cube
from morality_lens.interactions.numbers import ranges

FEWEST_DRAWS = 20
"""Refits whose variance is taken."""
REFUSED = "No p and no interval at the layers"
"""How the notes begin that name refused layers."""
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
    or values changed, they differ from the probe's own, and the refits are left out. Those carried bring what
    is known of the direction there as coordinates; of layers that were averaged, the least.

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
    own, lost = carried.own, []
    refits = carried.refits.assign_coords({str(name): g for name, g in carried.guards.data_vars.items()})
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
        one = hits.isel(place=0, drop=True).drop_vars(lost, errors="ignore")
        return one.assign_coords(_least(hits)) if alike else None
    averaged = places.mean("place").transpose(*means.dims).values
    if np.isclose(averaged, given, rtol=0, atol=near, equal_nan=True).all():
        return at_places.mean("place").assign_attrs(refits.attrs).assign_coords(_least(at_places))
    return None


def _least(refits: xr.DataArray) -> dict[str, xr.DataArray]:
    """What is known of the direction at all the places together: as little as at the least of them."""
    known = {name: refits.coords[name] for name in GUARDS if name in refits.coords}
    return {
        name: guard.reset_coords(drop=True).min("place", skipna=name == "split_half")
        if "place" in guard.dims
        else guard.reset_coords(drop=True)
        for name, guard in known.items()
    }


@dataclass(frozen=True, kw_only=True, eq=False)
class Refitted:
    """How much every effect varies over refits of the probe, and the degrees of freedom of that."""

    se: Float[np.ndarray, "feature"]
    df: int


def effects_of_refits(refits: xr.DataArray, cube: Cube, wanted: Contrasts) -> Refitted:
    """The spread of every effect over refits of the probe on samples of its training clusters.

    The degrees of freedom are those of the clusters that the samples were drawn from, not of the draws.

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
            f"factorial_effects needs refits with the dims {sorted(needed)} and at least {FEWEST_DRAWS} "
            f"draws; got {dict(refits.sizes)}. Use project_means(refit_directions(...), "
            "run_cell_means(run)), 50 to 100 draws."
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
    effects = einsum(wanted.matrix, flat, "effect cell, draw cell place -> draw effect place")
    draws, clusters = len(cells), int(refits.attrs.get("n_clusters", 0))
    correction = math.sqrt(clusters / (clusters - 1)) if clusters else 1.0
    return Refitted(se=correction * effects.std(axis=0, ddof=1).ravel(), df=min(draws, clusters or draws) - 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class RefusedLayers:
    """Places whose effects have an estimate only, and why; they belong into no family's maximum."""

    places: Bool[np.ndarray, "place"]
    words: tuple[str, ...] = ()


def refused_layers(cube: Cube, about_all: bool, refits: xr.DataArray | None = None) -> RefusedLayers:
    """The places where no effect on a projection is judged.

    Where the question is about the moral direction: where halves of the statements do not agree on one
    (coordinate ``split_half``), or where moral and immoral statements have no gap that can be told from none
    (coordinate ``gap`` is NaN, or 0 where the classes do not differ and there is no direction at all). Where
    it is about this direction alone, a note says that its unit there is the gap of its own statements.

    Args:
        cube: the cells, with those coordinates or without.
        about_all: whether refits are used, or carried though they no longer fit.
        refits: those that are used; their coordinates count where the cells have none.

    Raises:
        ValueError: no place is left.
    """
    words = []
    weak, unknown = np.zeros(cube.rest_shape, bool), np.zeros(cube.rest_shape, bool)
    halves, gap = (_guard(name, cube, refits) for name in GUARDS)
    if not about_all:
        return RefusedLayers(places=weak.ravel(), words=_on_own_unit(gap))
    if halves is not None and bool((halves < POPULATION).any()):
        weak = _over_places(halves < POPULATION, cube)
        words.append(
            f"{REFUSED} {_named(halves, halves < POPULATION)}: halves of the "
            f"probe's training data give directions whose cosine (in brackets) is below {POPULATION}, so "
            "there is no stable direction to speak of. The estimates are those of this one direction."
        )
    if gap is not None and not bool((gap > 0).all()):
        unknown = _over_places(~(gap > 0), cube)
        words.append(
            f"{REFUSED} {_named(gap, ~(gap > 0))}: along the direction there, "
            "training data that it has not seen have no gap between the classes that can be told from none, "
            "so that the estimates have no unit."
        )
    if (weak | unknown).all():
        _refuse_all(halves if weak.any() else None)
    return RefusedLayers(places=(weak | unknown).ravel(), words=tuple(words))


def _refuse_all(halves: xr.DataArray | None) -> None:
    """Say why no layer is left: halves that do not agree, or no gap."""
    if halves is None:
        raise ValueError(
            "a projection needs a unit, a gap between the classes of training data that the direction has "
            "not seen; got none that can be told from 0 at any layer. Train the probe on more clusters, or "
            "at layers where the classes differ."
        )
    raise ValueError(
        "a claim about the morality direction needs directions that agree between halves of their training "
        f"data (split-half cosine {POPULATION} or more); got at most {float(halves.max()):.2f} at every "
        "layer. Train the probe on more clusters, or drop the refits (replace(probe, refits=None), no "
        "refits=) and claim no more than that this direction moves."
    )


def _on_own_unit(gap: xr.DataArray | None) -> tuple[str, ...]:
    """The note for layers whose unit is the gap of the training data themselves."""
    words = []
    if gap is not None and bool(gap.isnull().any()):
        words.append(
            f"Warning: at the layers {_named(gap, gap.isnull())} the unit is the gap of the training data "
            "themselves; along the direction there, other data have none that can be told from 0."
        )
    if gap is not None and bool((gap <= 0).any()):
        words.append(
            f"Warning: at the layers {_named(gap, gap <= 0)} the classes of the training data do not differ "
            "(gap in brackets), so there is no direction: an effect of zero there says nothing."
        )
    return tuple(words)


def _guard(name: str, cube: Cube, refits: xr.DataArray | None) -> xr.DataArray | None:
    """What is known of the direction at the places of the cells, from them or from the refits."""
    if name in cube.coords or refits is None or name not in refits.coords:
        return cube.coords.get(name)
    guard = refits.coords[name]
    here = {d: cube.coords[d].values for d in guard.dims if d in cube.coords}
    return guard.sel(here) if set(guard.dims) <= set(cube.rest) else None


def _over_places(layers: xr.DataArray, cube: Cube) -> Bool[np.ndarray, "..."]:
    axes = [n if dim in layers.dims else 1 for dim, n in zip(cube.rest, cube.rest_shape, strict=True)]
    return np.broadcast_to(layers.values.reshape(axes), cube.rest_shape)


def _named(values: xr.DataArray, where: xr.DataArray) -> str:
    """The layers where something holds, with their values where they have some; of several axes, of each."""
    if "axis" in values.dims:
        each = ((str(one), values.sel(axis=one), where.sel(axis=one)) for one in values["axis"].values)
        return "; ".join(f"of {name}: {_spanned(v, there)}" for name, v, there in each if bool(there.any()))
    labels = np.atleast_1d(values.coords["layer"].values if "layer" in values.coords else "given")
    numbers, there = np.atleast_1d(values.values), np.atleast_1d(where.values)
    shown = [f"{n} ({v:.2f})" if np.isfinite(v) else f"{n}" for n, v in zip(labels, numbers, strict=True)]
    return ", ".join(np.array(shown)[there])


def _spanned(values: xr.DataArray, where: xr.DataArray) -> str:
    """The same with runs of layers, and the lowest and the highest value."""
    layers, there = np.atleast_1d(values["layer"].values), np.atleast_1d(where.values)
    known = np.atleast_1d(values.values)[there]
    known = known[np.isfinite(known)]
    ends = dict.fromkeys(f"{end:.2f}" for end in (known.min(), known.max())) if known.size else ()
    told = f" ({' to '.join(ends)})" if ends else ""
    return f"{ranges(layers.tolist(), there, 'layer').partition(' ')[2]}{told}"
