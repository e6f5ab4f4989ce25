"""Fractions of a design: effects of factors whose levels follow from others, and their aliases."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import xarray as xr

from morality_lens.interactions.contrasts import Contrasts
from morality_lens.interactions.cube import factors_of


def with_aliases(found: Contrasts, y: xr.DataArray) -> Contrasts:
    """The contrasts with the generated factors of ``y`` under their names, and the aliases of each.

    Where ``y`` has none they stay as they are; so do explicit contrasts.

    Raises:
        ValueError: contrasts that are not over all factors, on - off.
    """
    generated = generated_of(y)
    if not generated or found.crossed is None:
        return found
    if broken := [name for name, by in generated.items() if not _whole(y, name, by)]:
        raise ValueError(
            f"{', '.join(broken)} follows from other factors, and some of their levels were taken out of "
            "this cube: within the rest its effect is that of another factor. Give the cube of all "
            "conditions, or play every combination."
        )
    whole = len(found.held) == len(factors_of(y)) and all(
        tuple(pair) == ("off", "on") for pair in found.levels.values()
    )
    if found.at or not whole:
        raise ValueError(
            f"in this fraction of a design {', '.join(generated)} follows from the other factors, so their "
            "effects exist over all of them, on - off, within one run; leave out at=, compare= and "
            "factors=, or play every combination."
        )
    return _named(found, found.crossed, generated)


def generated_of(y: xr.DataArray) -> dict[str, tuple[str, ...]]:
    """The factors of a cube whose levels follow from others, each with those: coordinates along factors."""
    factors = factors_of(y)
    return {
        str(name): tuple(str(dim) for dim in coord.dims)
        for name, coord in y.coords.items()
        if coord.ndim and name not in y.dims and set(coord.dims) <= set(factors) and coord.dtype.kind in "UOT"
    }


def _whole(y: xr.DataArray, name: str, by: Sequence[str]) -> bool:
    """Whether a generated factor's signs are still the products of those of two factors or more."""
    sign = {"off": -1.0, "on": 1.0}
    levels = [[sign.get(str(level), np.nan) for level in y[dim].values] for dim in by]
    product = np.prod(np.meshgrid(*levels, indexing="ij"), axis=0)
    own = np.vectorize(lambda level: sign.get(str(level), np.nan))(y.coords[name].values)
    return len(by) > 1 and np.array_equal(own, product)


def _named(
    found: Contrasts, crossed: Sequence[tuple[int, ...]], generated: Mapping[str, tuple[str, ...]]
) -> Contrasts:
    """The contrasts of a fraction: the generated factors' effects by their names, all with their aliases."""
    parts = [frozenset(found.held[n] for n in effect) for effect in crossed]
    own = {frozenset(by): name for name, by in generated.items()}
    names = [own.get(part, name) for part, name in zip(parts, found.names, strict=True)]
    # An interaction of k factors is a sum of differences over 2**(k - 1) pairs; a main effect is their mean.
    scale = [0.5 ** (len(part) - 1) if part in own else 1.0 for part in parts]
    return replace(
        found,
        names=names,
        matrix=found.matrix * np.array(scale)[:, None],
        crossed=None,
        aliases={
            name: ", ".join(_aliases(part, name, generated, [*found.held, *generated]))
            for part, name in zip(parts, names, strict=True)
        },
    )


def _aliases(
    effect: frozenset[str], name: str, generated: Mapping[str, tuple[str, ...]], order: Sequence[str]
) -> list[str]:
    """The effects that have an effect's contrast: its products with the words of the defining relation."""
    words = [frozenset((factor, *by)) for factor, by in generated.items()]
    found = []
    for count in range(len(words) + 1):
        for some in itertools.combinations(words, count):
            product = effect
            for word in some:
                product = product ^ word
            told = ":".join(factor for factor in order if factor in product)
            if told != name:
                found.append(told)
    return sorted(found, key=lambda told: (told.count(":"), found.index(told)))
