"""A labelled cube of cells, checked and brought into order."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from jaxtyping import Bool, Float, Int

from morality_lens.design import RESERVED, Condition
from morality_lens.interactions.contrasts import apply_link, cells_of

SHARES = ("share", "probability")
"""Units of outcomes between 0 and 1."""
LONGEST_SCALE = 20
"""Most different whole numbers of a scale; more are counts, whose range says little."""
REPEATS = ("seed", "seeds", "sample", "repeat")
"""Dimensions that repeat an item: averaged within item and cell, because they are not further items."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Cube:
    """The checked numbers: cells in the order of the requested levels, the last factor fastest.

    Attributes:
        values: on the link's scale, averaged over repeats; complete items only, unless all available
            cells are requested.
        codes: the cluster of each item, 0, 1, ... without gaps.
        rounding: largest contrast that rounding alone can make.
        rest: the dims other than item and factors, which ``feature`` runs through.
        rest_shape: their lengths.
        coords: their coordinates.
        binary: whether every number that went in is 0 or 1.
        room: between the lowest and the highest of outcomes that are whole numbers; 0 for others.
        n_incomplete: items with a missing value.
        share_incomplete: the same as a share of all items.
        share_failed: share of the items that lack a value because trials failed, not because none was run.
        gap: largest difference in failure rate between two conditions, among the trials that were run.
        repeats: dims that were averaged away.
    """

    values: Float[np.ndarray, "item cell feature"]
    codes: Int[np.ndarray, "item"]
    rounding: Float[np.ndarray, "feature"]
    rest: tuple[str, ...]
    rest_shape: tuple[int, ...]
    coords: dict[str, xr.DataArray]
    binary: bool
    room: float
    n_incomplete: int
    share_incomplete: float
    share_failed: float
    gap: float
    repeats: tuple[str, ...]

    @property
    def holes(self) -> bool:
        """Whether cells are missing among the items that are analysed."""
        return bool(np.isnan(self.values).any())


def check_dims(
    y: xr.DataArray, levels: Mapping[str, Sequence[str]], at: Mapping[str, str], family: Sequence[str]
) -> None:
    """Refuse a cube whose axes are not items, factors at the requested levels, and places."""
    drawn = [dim for dim in y.dims if dim in ("probe_draw", "refit")]
    if drawn:
        raise ValueError(
            f"factorial_effects takes y on the fitted direction itself; got a dim {drawn[0]!r}. Give the "
            "refits' cell means apart, refits=project_means(refit_directions(...), run_cell_means(run))."
        )
    if "item" not in y.dims or "item" not in y.coords or "effect" in y.dims:
        raise ValueError(
            f"factorial_effects needs a dim 'item' with ids as its coordinate and no dim 'effect'; got "
            f"{y.dims} with coordinates {list(y.coords)}. Use y.rename(...) and y.assign_coords(item=ids)."
        )
    for name in (*levels, *at):
        if name not in y.dims or name not in y.coords:
            raise ValueError(
                f"factorial_effects needs the factor {name!r} as a dim with level names as its coordinate; "
                f"got dims {y.dims}. Choose factors=(...) among them, or rename the dim."
            )
        there = [str(level) for level in y.coords[name].values]
        wanted = [at[name]] if name in at else list(levels[name])
        if any(there.count(level) != 1 for level in wanted):
            raise ValueError(
                f"factorial_effects needs the factor {name!r} at the levels {wanted}, once each; got "
                f"{there}. Run these levels, relabel them, or choose another comparison (compare=...)."
            )
    known = {*map(str, y.dims), "round", "site", "layer", "axis", "effect"} - {"item", *levels, *at, *REPEATS}
    unknown = [dim for dim in family if dim not in known]
    if unknown:
        raise ValueError(
            f"factorial_effects corrects over dims of y other than item and factors; got "
            f"family={tuple(family)}. Choose among {sorted(known)}."
        )


def read_cube(
    y: xr.DataArray, levels: Mapping[str, Sequence[str]], *, missing: str, link: str = "identity"
) -> Cube:
    """The numbers of ``y`` in order, checked: what cannot be analysed is refused."""
    _check_items(y)
    codes = cluster_codes(y)
    _check_clusters(np.bincount(codes))
    _check_places(y)
    repeats = tuple(str(dim) for dim in y.dims if dim in REPEATS)
    rest = [str(dim) for dim in y.dims if dim not in ("item", *levels, *repeats)]
    rest.sort(key=_order)
    y = y.sel({name: list(wanted) for name, wanted in levels.items()})
    y = y.transpose("item", *levels, *rest, *repeats)
    raw = _real_numbers(y)
    template = y.isel({**dict.fromkeys(("item", *levels), 0), **dict.fromkeys(repeats, 0)}, drop=True)
    n_cells = int(np.prod([len(wanted) for wanted in levels.values()]))
    each = raw.astype(np.float64).reshape((len(raw), n_cells, int(np.prod(template.shape)), -1))
    values = _mean_of_repeats(each)
    holes = np.isnan(values)
    _check_cells_run(np.all(holes, axis=0), levels, template)
    incomplete = holes.any(axis=(1, 2))
    if incomplete.any() and missing == "refuse":
        raise ValueError(
            f"factorial_effects needs a number in every cell; got NaN in {incomplete.sum()} of {len(raw)} "
            "items. Failure is an outcome: analyse y.isnull().astype(float) first; then missing='available' "
            "estimates from the available cells, and missing='complete_items' checks how much that matters."
        )
    kept = ~incomplete if missing == "complete_items" else ~holes.all(axis=(1, 2))
    codes = pd.factorize(codes[kept])[0].astype(np.int64)
    _check_clusters(np.bincount(codes))
    values = apply_link(values[kept], link)
    failed = failed_trials(y).values.reshape(each.shape)
    ran = ~np.isnan(failed)
    rate = np.nansum(failed, axis=(0, -1)) / np.maximum(ran.sum(axis=(0, -1)), 1)
    return Cube(
        values=values,
        codes=codes,
        rounding=_rounding(values, raw.dtype),
        rest=tuple(rest),
        rest_shape=template.shape,
        coords={str(name): coord for name, coord in template.coords.items()},
        binary=bool(np.isin(each[~np.isnan(each)], (0.0, 1.0)).all()),
        room=room_of(y) if link == "identity" else 0.0,
        n_incomplete=int(incomplete.sum()),
        share_incomplete=float(incomplete.mean()),
        share_failed=float((holes & (failed == 1).any(axis=-1)).any(axis=(1, 2)).mean()),
        gap=float(np.ptp(rate, axis=0).max(initial=0.0)),
        repeats=repeats,
    )


def room_of(y: xr.DataArray) -> float:
    """How long the scale of an outcome is: 1 of shares, its range of whole numbers (1 or more), else 0.

    A difference of exactly 0 of other outcomes, such as projections, is that of one and the same computation.
    """
    values = y.values[~np.isnan(y.values)]
    if "probe" in y.attrs or not values.size:
        return 0.0
    lowest, highest = float(values.min()), float(values.max())
    if str(y.attrs.get("units", "")) in SHARES and lowest >= 0 and highest <= 1:
        return 1.0
    if (values != np.round(values)).any() or np.unique(values).size > LONGEST_SCALE:
        return 0.0
    return max(1.0, highest - lowest)


def check_labelled(y: object, who: str) -> None:
    """Refuse what is no labelled array.

    Raises:
        TypeError: it is something else.
    """
    if not isinstance(y, xr.DataArray):
        raise TypeError(
            f"{who} needs an xarray.DataArray with the dim 'item' and a dim per factor; got "
            f"{type(y).__name__}. ml.judges.behaviour_cube(run) and probe.project(run) make one."
        )


def failed_trials(y: xr.DataArray) -> xr.DataArray:
    """1 for every trial that failed, 0 for one that did not, NaN for one that was never run.

    A missing value is a trial that failed, unless ``y`` says otherwise by its coordinate ``failed``. Without
    that coordinate a repeat is one that was never run where it has no value for any item, or none for this
    item under any condition: items and conditions may have different numbers of repeats.
    """
    missing = y.isnull()
    repeats = [dim for dim in y.dims if dim in REPEATS]
    never = xr.zeros_like(missing)
    if "failed" in y.coords:
        never = missing & ~y.coords["failed"].astype(bool)
    elif repeats:
        others = [dim for dim in y.dims if dim not in ("item", *repeats)]
        never = missing.all("item") | missing.all(others)
    return missing.astype(float).where(~never).transpose(*y.dims)


def _check_items(y: xr.DataArray) -> None:
    ids = pd.Index(y.coords["item"].values)
    if ids.has_duplicates:
        twice = ids[ids.duplicated()].unique()
        raise ValueError(
            f"factorial_effects needs one row per item; got {len(ids)} rows with {len(twice)} ids more "
            f"than once (first: {twice[0]!r}). If these are seeds, give them a dim of their own, 'seed'; "
            "they are averaged within item and cell."
        )


def _check_places(y: xr.DataArray) -> None:
    empty = [str(dim) for dim, length in y.sizes.items() if length == 0]
    if empty:
        raise ValueError(
            f"factorial_effects needs at least one place; got nothing along {empty}. Check the selection "
            "that y went through."
        )


def _real_numbers(y: xr.DataArray) -> np.ndarray:
    """The values, refused where they are not real numbers or missing ones."""
    if y.dtype.kind not in "fiub":
        raise TypeError(
            f"factorial_effects needs real numbers; got dtype {y.dtype}. Convert y with y.astype(float)."
        )
    if np.isinf(y.values).any():
        raise ValueError(
            f"factorial_effects needs finite numbers; got {np.isinf(y.values).sum()} infinite values. Find "
            "where they arise; mark a failed measurement as NaN."
        )
    return y.values


def _rounding(
    values: Float[np.ndarray, "item cell feature"], stored_as: np.dtype
) -> Float[np.ndarray, "feature"]:
    """The largest contrast that rounding alone can make of numbers that were stored in this type."""
    eps = np.finfo(stored_as).eps if stored_as.kind == "f" else np.finfo(np.float64).eps
    return np.nanmax(np.abs(values), axis=(0, 1), initial=0.0) * (4 * float(eps) + 1e-12)


def _mean_of_repeats(
    values: Float[np.ndarray, "item cell feature repeat"],
) -> Float[np.ndarray, "item cell feature"]:
    """The mean of those repeats that did not fail; NaN where all did."""
    if values.shape[-1] == 1:
        return values[..., 0]
    there = ~np.isnan(values)
    n = there.sum(axis=-1)
    total = np.where(there, values, 0.0).sum(axis=-1)
    return np.where(n > 0, total / np.maximum(n, 1), np.nan)


def cluster_codes(y: xr.DataArray) -> Int[np.ndarray, "item"]:
    """A number per item, equal within a cluster."""
    n_items = y.sizes["item"]
    if "cluster" not in y.coords:
        return np.arange(n_items)
    labels = y.coords["cluster"]
    if labels.dims != ("item",):
        raise ValueError(
            f"factorial_effects needs one cluster label per item; got {labels.size} labels along "
            f"{labels.dims} for {n_items} items. Use y.assign_coords(cluster=('item', labels))."
        )
    codes, names = pd.factorize(labels.values)
    absent = codes < 0
    absent |= np.isin(
        codes, [i for i, name in enumerate(names) if isinstance(name, str) and not name.strip()]
    )
    if absent.any():
        raise ValueError(
            f"factorial_effects needs a cluster label for every item; got {absent.sum()} of {n_items} "
            "without one. Give an item that belongs to no template its own id as label."
        )
    return codes.astype(np.int64)


def _check_clusters(sizes: Int[np.ndarray, "cluster"]) -> None:
    if len(sizes) < 2:
        raise ValueError(
            f"factorial_effects needs at least two clusters of complete items; got {len(sizes)}. One "
            "template or item says nothing about others: add items from other clusters."
        )
    if sizes.max() > sizes.sum() / 2:
        raise ValueError(
            f"factorial_effects needs clusters none of which holds more than half of the items; got one with "
            f"{sizes.max()} of {sizes.sum()}. Add items from other clusters, or analyse that cluster apart "
            "with finer cluster labels."
        )


def _check_cells_run(
    never: Bool[np.ndarray, "cell feature"], levels: Mapping[str, Sequence[str]], template: xr.DataArray
) -> None:
    if not never.any():
        return
    cells = cells_of(levels)
    empty = [cells[i] for i in np.flatnonzero(never.any(axis=1))]
    shown = "; ".join(", ".join(f"{name} {level}" for name, level in cell.items()) for cell in empty[:4])
    place = np.unravel_index(int(np.flatnonzero(never.any(axis=0))[0]), template.shape or (1,))
    first = ", ".join(
        f"{dim} {template.coords[dim].values[i] if dim in template.coords else i}"
        for dim, i in zip(template.dims, place, strict=False)
    )
    estimable = [
        f"at={{{name!r}: {level!r}}}"
        for name, wanted in levels.items()
        for level in wanted
        if len(levels) > 1 and not any(cell[name] == level for cell in empty)
    ]
    raise ValueError(
        f"factorial_effects needs every cell to have been run; got no value at all in {len(empty)} of "
        f"{len(cells)} cells ({shown})" + (f", first at {first}" if first else "") + ". "
        "Run them, or leave out the places (rounds, sites) where they do not exist with y.sel(...)"
        + (f", or ask for simple effects that are estimable: {' or '.join(estimable)}." if estimable else ".")
    )


def factors_of(cube: xr.DataArray | xr.Dataset) -> tuple[str, ...]:
    """The factors of a cube: dims whose coordinate holds level names, in their order.

    Names that mean something else in a run (``item``, ``site``, ``option``, ...) are none.
    """
    return tuple(
        str(dim)
        for dim in cube.dims
        if dim not in RESERVED and dim in cube.coords and cube.coords[dim].dtype.kind in "UOT"
    )


def levels_of(cube: xr.DataArray | xr.Dataset) -> dict[str, list[str]]:
    """The levels of every factor of a cube."""
    return {name: [str(v) for v in cube.coords[name].values] for name in factors_of(cube)}


def conditions_of(cube: xr.DataArray | xr.Dataset) -> list[Condition]:
    """Every cell of a cube, the last factor varying fastest."""
    levels = levels_of(cube)
    cells = itertools.product(*levels.values())
    return [Condition(**dict(zip(levels, cell, strict=True))) for cell in cells]


def _order(dim: str) -> int:
    """Factors that are not contrasted first, then places in their usual order, then anything else."""
    usual = ("round", "site", "layer", "d_model")
    return usual.index(dim) + 1 if dim in usual else 0 if dim not in RESERVED else len(usual) + 1
