"""What travels with a cube beside its numbers: refits of its direction, failures, stable layers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import xarray as xr

REFITS = "refits"
"""The attribute of projections that holds their :class:`CarriedRefits`."""
GUARDS = ("split_half", "gap")
"""What is known of the direction by layer: how far halves of its training data agree, and its unit."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class CarriedRefits:
    """Cell means on refits of a probe, in ``attrs`` of its projections; read by :func:`resolve_refits`.

    One value, compared by identity: arithmetic keeps it where both sides carry the same one.

    Attributes:
        refits: probe_draw and the projections' dims without ``item``, as ``project_means`` gives them.
        own: the projections' own cell means, by which it is seen whether they were changed.
        guards: those of :data:`GUARDS` that are known, by layer, so that they are found where the coordinates
            of the projections are lost (a layer selected with ``drop``, a mean over layers).
    """

    refits: xr.DataArray
    own: xr.DataArray
    guards: xr.Dataset = field(default_factory=xr.Dataset)

    def __repr__(self) -> str:
        return f"cell means on {self.refits.sizes['probe_draw']} refits of the probe"

    def __deepcopy__(self, memo: dict) -> "CarriedRefits":
        return self


def without_refits(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Attributes without the refits, for values that are not the projection itself, and for files."""
    return {name: value for name, value in attrs.items() if name != REFITS}


def guards_of_difference(y: xr.DataArray, found: xr.DataArray, places: Mapping[str, tuple]) -> xr.DataArray:
    """A difference of places of ``y`` with what ``y`` says about itself: refits, failures, stable layers.

    The refits are those of the difference; an answer failed where either did; the direction is as stable as
    that of the less stable layer.

    Args:
        y: before.
        found: its difference, with the attributes of ``y``.
        places: for each dim the two labels.
    """
    carried = y.attrs.get(REFITS)
    if isinstance(carried, CarriedRefits):
        both = [carried.refits, carried.own]
        for dim, (one, other) in places.items():
            if dim not in carried.own.dims:
                return found.assign_attrs(without_refits(found.attrs))
            both = [b.sel({dim: one}, drop=True) - b.sel({dim: other}, drop=True) for b in both]
        refits = both[0].assign_attrs(carried.refits.attrs)
        guards = carried.guards.map(lambda guard: _of_both(guard, places, "min"))
        made = CarriedRefits(refits=refits, own=both[1], guards=guards)
        found = found.assign_attrs({**found.attrs, REFITS: made})
    merged = {}
    for name, merge in (("failed", "max"), *((name, "min") for name in GUARDS)):
        if name not in y.coords or not set(places) & set(y.coords[name].dims):
            continue
        guard = _of_both(y.coords[name], places, merge)
        merged[name] = guard.drop_vars([c for c in guard.coords if c not in found.coords])
    return found.assign_coords(merged)


def _of_both(guard: xr.DataArray, places: Mapping[str, tuple], merge: str) -> xr.DataArray:
    """What a guard says of the difference of two places."""
    for dim in set(places) & set(guard.dims):
        guard = getattr(guard.sel({dim: list(places[dim])}), merge)(dim, skipna=False)
    return guard
