"""Arrays of a run as one lazy array: items in their own order, round 0 expanded to all conditions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Int
from xarray.backends import BackendArray
from xarray.core import indexing

from morality_lens.design import Design
from morality_lens.runs.archives import Stored, open_arrays, reading
from morality_lens.runs.manifest import Part

FIRST, LATER = "first", "later"
"""Suffixes of an array's two pieces: round 0, once for all conditions that open alike, and later rounds."""


def openings_of(design: Design) -> Int[np.ndarray, " cell"]:
    """For each condition, which of the different openings it has."""
    openings = [design.opening(condition) for condition in design.conditions]
    different = list(dict.fromkeys(openings))
    return np.array([different.index(opening) for opening in openings])


def pieces(
    name: str, values: np.ndarray, design: Design, *, start: int, whole: int, large: bool
) -> dict[str, Stored]:
    """What is stored of an array of one part: of large ones round 0 once for all conditions that open alike.

    Args:
        name: of the array.
        values: item x factors x round x others, from ``start`` on.
        design: the factors.
        start: the first round.
        whole: how many of the last dimensions are read in one piece.
        large: whether round 0 is kept apart.

    Raises:
        ValueError: round 0 differs between conditions that open alike.
    """
    factors = len(design.names)
    others = tuple(f"{name}_{n}" for n in range(values.ndim - factors - 2))

    def stored(array: np.ndarray, dims: tuple[str, ...]) -> Stored:
        cut = array.ndim - whole
        fine = array.ndim - len(others)
        chunks = [n if d < fine or d >= cut else 1 for d, n in enumerate(array.shape)]
        return Stored(values=array, dims=(*dims, *others), chunks=tuple(max(n, 1) for n in chunks))

    found = {}
    if start == 0 and large:
        opening = values.reshape(len(values), -1, *values.shape[1 + factors :])[:, :, 0]
        groups = openings_of(design)
        _, representative = np.unique(groups, return_index=True)
        first = np.ascontiguousarray(opening[:, representative])
        if not np.array_equal(first[:, groups], opening, equal_nan=True):
            raise ValueError(f"{name}: round 0 differs between conditions that open alike.")
        found[f"{name}.{FIRST}"] = stored(first, ("item", "opening"))
        values = values[(slice(None),) * (1 + factors) + (slice(1, None),)]
    if values.shape[1 + factors]:
        found[f"{name}.{LATER}"] = stored(np.ascontiguousarray(values), design.dims)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Cube(BackendArray):
    """An array over all parts; what is asked for is read, and nothing else.

    Attributes:
        run: the folder.
        parts: those that are done, and for each the run, items and rounds that its file must name.
        name: of the array.
        design: the factors and rounds.
        order: place on disk of each item shown.
        others: sizes of the dimensions after the round.
        dtype: of the values.
    """

    run: Path
    parts: Mapping[Part, Mapping[str, Any]]
    name: str
    design: Design
    order: Int[np.ndarray, " item"]
    others: tuple[int, ...]
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        """Items, levels of the factors, rounds, others."""
        levels = (len(factor.levels) for factor in self.design.factors)
        return (len(self.order), *levels, self.design.n_rounds, *self.others)

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        chosen = [np.atleast_1d(np.arange(n)[k]) for n, k in zip(self.shape, key, strict=True)]
        single = tuple(d for d, k in enumerate(key) if isinstance(k, int | np.integer))
        factors = len(self.design.names)
        items, levels = self.order[chosen[0]], chosen[1 : 1 + factors]
        rounds, rest = chosen[1 + factors], chosen[2 + factors :]
        values = np.full([len(c) for c in chosen], np.nan, self.dtype)
        for part in self.parts:
            here = np.flatnonzero((items >= part.first) & (items < part.first + part.items))
            now = np.flatnonzero((rounds >= part.start) & (rounds < part.stop))
            if len(here) and len(now):
                read = self._part(part, items[here] - part.first, levels, rounds[now], rest)
                values[np.ix_(here, *(np.arange(len(c)) for c in levels), now)] = read
        return values.squeeze(single) if single else values

    def _part(
        self,
        part: Part,
        items: np.ndarray,
        levels: Sequence[np.ndarray],
        rounds: np.ndarray,
        rest: Sequence[np.ndarray],
    ) -> np.ndarray:
        """The chosen values of one part."""
        file = part.file(self.run)
        group = open_arrays(file, self.parts[part])
        shape = [len(items), *map(len, levels), len(rounds), *map(len, rest)]
        found = np.full(shape, np.nan, self.dtype)
        apart = f"{self.name}.{FIRST}" in group
        early, late = np.flatnonzero(apart & (rounds == 0)), np.flatnonzero((not apart) | (rounds > 0))
        places = [np.arange(len(c)) for c in levels]
        with reading(file):
            if len(early):
                cells = np.arange(len(self.design.conditions)).reshape(self.shape[1 : 1 + len(levels)])
                wanted, back = np.unique(
                    openings_of(self.design)[cells[np.ix_(*levels)]], return_inverse=True
                )
                first = _orthogonal(group[f"{self.name}.{FIRST}"], [items, wanted, *rest])
                expanded = first[:, back.reshape(shape[1 : 1 + len(levels)])]
                found[np.ix_(np.arange(len(items)), *places, early)] = np.expand_dims(
                    expanded, 1 + len(levels)
                )
            if len(late):
                begins = max(part.start, int(apart))
                later = _orthogonal(
                    group[f"{self.name}.{LATER}"], [items, *levels, rounds[late] - begins, *rest]
                )
                found[np.ix_(np.arange(len(items)), *places, late)] = later
        return found


def _orthogonal(array: Any, chosen: Sequence[np.ndarray]) -> np.ndarray:
    """An array at chosen places of every dimension; NaN past the end of the last one (of the options)."""
    *before, last = chosen
    inside = last[last < array.shape[-1]]
    index = [_plain(c, n) for c, n in zip([*before, inside], array.shape, strict=True)]
    found = np.asarray(array.oindex[tuple(index)])
    missing = [(0, 0)] * (found.ndim - 1) + [(0, len(last) - len(inside))]
    return np.pad(found, missing, constant_values=np.nan) if len(last) > len(inside) else found


def _plain(chosen: np.ndarray, size: int) -> slice | np.ndarray:
    if len(chosen) == size and np.array_equal(chosen, np.arange(size)):
        return slice(None)
    if len(chosen) == 1:
        return slice(int(chosen[0]), int(chosen[0]) + 1)
    return chosen


def lazy_cube(cube: Cube, dims: Sequence[str]) -> xr.DataArray:
    """A cube as an array with names, nothing of which is read."""
    lazy: Any = indexing.LazilyIndexedArray(cube)
    return xr.DataArray(xr.Variable(tuple(dims), indexing.CopyOnWriteArray(lazy)))
