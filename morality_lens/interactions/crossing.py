"""Cubes of several runs joined along a factor that no single run can cross, such as the language."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr

from morality_lens.design import Factor
from morality_lens.interactions.carried import REFITS, CarriedRefits
from morality_lens.interactions.cube import check_labelled

SAME = ("units", "oriented", "normalised", "probe", "trust")
"""Attributes in which cubes have to agree to be compared."""


def cross_runs(
    cubes: Mapping[str, xr.DataArray],
    factor: str,
    *,
    item_of: Callable[[str], str] = str,
    common: bool = False,
) -> xr.DataArray:
    """One cube with a further factor, whose levels are runs of the same items in another form.

    A factor that changes the item itself (its language, the order of its options, its names) has a run for
    each level. The items of the runs are matched, so that effects of the factor and its interactions with the
    others are within items: ``factorial_effects(cross_runs({"en": one, "es": other}, "language"))``.

    Args:
        cubes: a cube for each level, in their order: the first is the reference. Each has the dim ``item``.
        factor: the new factor's name.
        item_of: the item that an id belongs to, where the runs call one item by several ids, such as
            ``lambda name: name.partition("/")[2]`` for ids that begin with a language.
        common: keep the items that all cubes have; else each must have all of them.

    Returns:
        item x factor x the cubes' other dims. Refits of a direction come along where every cube has them.

    Raises:
        ValueError: fewer than two cubes, a name that is taken, other dims or labels, units that differ,
            items that are not the same or are in other clusters.

    Examples:
        >>> permuted = ml.play(model, ml.items.permute_options(items), rounds=2, out=folder / "p")
        >>> one, other = (ml.judges.behaviour_cube(r, "probability") for r in (run, permuted))
        >>> both = ml.interactions.cross_runs({"given": one, "permuted": other}, "option_order")
        >>> effects = ml.factorial_effects(both.sel(round=2))
        >>> "option_order[permuted-given]:feedback" in effects["effect"].values
        True
    """
    named = {str(level): cube for level, cube in cubes.items()}
    levels = tuple(named)
    Factor(name=factor, levels=levels, place="after_question", texts={n: n for n in levels if n != "off"})
    matched = {level: _by_item(cube, level, item_of) for level, cube in named.items()}
    first, *others = matched.values()
    for level, cube in zip(levels[1:], others, strict=True):
        _refuse_other_kind(first, cube, factor, level)
    shared = set.intersection(*(set(cube["item"].values.tolist()) for cube in matched.values()))
    missing = {level: cube.sizes["item"] - len(shared) for level, cube in matched.items()}
    if not shared or (any(missing.values()) and not common):
        told = ", ".join(f"{n} of {level}" for level, n in missing.items())
        raise ValueError(
            f"cross_runs needs the same items in every run; without a match are {told} items. Give item_of, "
            "which turns an id into the item's own name, or common=True to take the items that all have."
        )
    order = [name for name in first["item"].values.tolist() if name in shared]
    kept = [cube.sel(item=order) for cube in matched.values()]
    _refuse_other_clusters(kept, levels)
    joined = xr.concat(
        [cube.drop_attrs() for cube in kept],
        dim=xr.Variable(factor, list(levels)),
        join="exact",
        coords="different",
        compat="equals",
    )
    attrs = {name: value for name, value in first.attrs.items() if name != REFITS}
    refits = _joined_refits(kept, factor, levels)
    attrs |= {} if refits is None else {REFITS: refits}
    return joined.transpose("item", factor, ...).rename(first.name).assign_attrs(attrs)


def _by_item(cube: xr.DataArray, level: str, item_of: Callable[[str], str]) -> xr.DataArray:
    """The cube with every item under its own name."""
    check_labelled(cube, "cross_runs")
    names = [item_of(str(name)) for name in cube["item"].values]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"item_of gives {twice!r} for several items of {level!r}; each needs its own name.")
    return cube.assign_coords(item=names)


def _refuse_other_kind(first: xr.DataArray, cube: xr.DataArray, factor: str, level: str) -> None:
    """Refuse two cubes that do not measure the same thing at the same places."""
    if factor in first.dims or set(first.dims) != set(cube.dims):
        raise ValueError(
            f"cross_runs needs cubes with the same dims and without {factor!r}; got {first.dims} and, for "
            f"{level!r}, {cube.dims}."
        )
    for dim in first.dims:
        if dim != "item" and not np.array_equal(first[dim].values, cube[dim].values):
            raise ValueError(
                f"cross_runs needs the same labels along {dim!r}; {level!r} has {cube[dim].values.tolist()} "
                f"and the first cube {first[dim].values.tolist()}. Select those that both have."
            )
    differ = [name for name in SAME if first.attrs.get(name) != cube.attrs.get(name)]
    if differ:
        raise ValueError(
            f"cross_runs needs cubes of one measure; {level!r} differs from the first in "
            f"{', '.join(f'{name} ({cube.attrs.get(name)!r})' for name in differ)}."
        )


def _refuse_other_clusters(cubes: list[xr.DataArray], levels: tuple[str, ...]) -> None:
    """Refuse items that are in other clusters in one run than in another."""
    first, *others = cubes
    for level, cube in zip(levels[1:], others, strict=True):
        both = [one["cluster"].values if "cluster" in one.coords else None for one in (first, cube)]
        same = both[0] is both[1] is None or (
            both[0] is not None and both[1] is not None and (both[0] == both[1]).all()
        )
        if not same:
            raise ValueError(
                f"the items of {level!r} are in other clusters than those of the first run, so which of them "
                "are independent is not known; give both cubes the same coordinate cluster."
            )


def _joined_refits(cubes: list[xr.DataArray], factor: str, levels: tuple[str, ...]) -> CarriedRefits | None:
    """The refits of all cubes along the factor; None where one has none or other items were left out."""
    carried = [cube.attrs.get(REFITS) for cube in cubes]
    found = [one for one in carried if isinstance(one, CarriedRefits)]
    if len(found) < len(cubes):
        return None
    along = xr.Variable(factor, list(levels))
    refits = xr.concat([one.refits for one in found], along, join="exact", combine_attrs="override")
    own = xr.concat([one.own for one in found], along, join="exact", combine_attrs="override")
    return CarriedRefits(refits=refits, own=own, guards=found[0].guards)
