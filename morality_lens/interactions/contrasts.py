"""Which contrasts are taken: levels of factors, matrices of weights, links, and differences of places."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy.special import logit

from morality_lens.interactions.carried import guards_of_difference

Pairs = dict[str, tuple[str, str]]
"""For each factor, the level that is taken away and the one it is taken from."""

COMPARISONS: dict[str, tuple[str, str]] = {
    "total": ("off", "on"),
    "content": ("placebo", "on"),
    "format": ("off", "placebo"),
}
Comparison = Literal["total", "content", "format"]
"""The names of :data:`COMPARISONS`."""
Link = Literal["identity", "logit", "log1m"]
LINKS = get_args(Link)


@dataclass(frozen=True, kw_only=True, eq=False)
class Contrasts:
    """The requested contrasts.

    Attributes:
        held: the crossed factors.
        at: the level of each factor that is held.
        names: of the effects.
        levels: of each crossed factor, in the order of the cells (the last factor fastest).
        matrix: weights of the cells.
        crossed: which crossed factors each effect is of; None for explicit contrasts.
        words: what is compared with what.
        aliases: in a fraction of a design, by effect, what it cannot be told from.
    """

    held: tuple[str, ...]
    at: dict[str, str]
    names: list[str]
    levels: dict[str, list[str]]
    matrix: Float[np.ndarray, "effect cell"]
    crossed: list[tuple[int, ...]] | None
    words: str
    aliases: dict[str, str] = field(default_factory=dict)


def read_contrasts(
    factors: Sequence[str],
    at: Mapping[str, str] | None,
    compare: str | Mapping[str, str | tuple[str, str]],
    contrasts: xr.DataArray | None,
    y: xr.DataArray,
) -> Contrasts:
    """All main effects and interactions of the factors of ``y``, or the explicit contrasts.

    Raises:
        ValueError: no factor is left, or names, comparisons or weights make no contrasts.
    """
    fixed = dict(at or {})
    held = tuple(name for name in factors if name not in fixed)
    if not held or len(set(held)) != len(held) or any(mark in name for name in held for mark in ":@["):
        raise ValueError(
            f"contrasts need one or more different factors without ':', '@' or '[' in their names, not "
            f"all of them held fixed by at=; got {held}. Name them as factors=('instruction', 'feedback')."
        )
    if contrasts is not None:
        rows = check_matrix(contrasts, held)
        names = [f"{name}{at_suffix(fixed)}" for name in rows["effect"].values]
        levels = {name: [str(level) for level in rows[name].values] for name in held}
        matrix, crossed, words = rows.values.reshape(len(names), -1), None, "explicit contrasts"
    else:
        pairs = compared_levels(held, compare, y)
        crossed = [c for k in range(len(held)) for c in itertools.combinations(range(len(held)), k + 1)]
        names = effect_names([tuple(held[i] for i in effect) for effect in crossed], pairs, fixed)
        levels = {name: list(pairs[name]) for name in held}
        matrix, words = factorial_matrix(len(held), crossed), _compared(pairs)
    return Contrasts(
        held=held, at=fixed, names=names, levels=levels, matrix=matrix, crossed=crossed, words=words
    )


def _compared(pairs: Pairs) -> str:
    """``on - off``, or factor by factor where they differ."""
    words = {name: f"{high} - {low}" for name, (low, high) in pairs.items()}
    if len(set(words.values())) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{name} {word}" for name, word in words.items())


def compared_levels(
    held: Sequence[str], compare: str | Mapping[str, str | tuple[str, str]], y: xr.DataArray
) -> Pairs:
    """The two levels that each factor's contrast compares.

    A factor of two levels, none of them called ``on`` or ``placebo``, is compared in their order.

    Raises:
        ValueError: an unknown comparison, or one of a factor that is not crossed.
    """
    given = dict.fromkeys(held, compare) if isinstance(compare, str) else {**compare}
    pairs = {name: pair for name, pair in given.items() if not isinstance(pair, str) and len(pair) == 2}
    named = {name: word for name, word in given.items() if name not in pairs}
    if any(name not in held for name in given) or not set(map(str, named.values())) <= set(COMPARISONS):
        raise ValueError(
            f"compare needs one of {tuple(COMPARISONS)} (on - off, on - placebo, placebo - off), or a "
            f"mapping from the factors {tuple(held)} to them or to pairs of levels (from, to); got "
            f"{compare!r}."
        )
    usual = {name: COMPARISONS[str(named.get(name, "total"))] for name in held}
    return {name: pairs.get(name) or _own_pair(name, usual[name], y) for name in held}


def _own_pair(name: str, usual: tuple[str, str], y: xr.DataArray) -> tuple[str, str]:
    """The usual pair, unless the factor has two levels that are called otherwise."""
    there = [str(level) for level in y.coords[name].values] if name in y.coords else list(usual)
    named = usual == COMPARISONS["total"] and len(there) == 2 and not {"on", "placebo"} & set(there)
    return (there[0], there[1]) if named else usual


def effect_names(effects: Sequence[tuple[str, ...]], pairs: Pairs, at: Mapping[str, str]) -> list[str]:
    """``instruction:feedback`` for on - off; else with the levels, ``instruction[on-placebo]``."""

    def named(name: str) -> str:
        low, high = pairs[name]
        return name if (low, high) == COMPARISONS["total"] else f"{name}[{high}-{low}]"

    return [":".join(named(name) for name in parts) + at_suffix(at) for parts in effects]


def at_suffix(at: Mapping[str, str]) -> str:
    """How the name of a simple effect ends: ``@cot=off``."""
    return "@" + ",".join(f"{name}={level}" for name, level in at.items()) if at else ""


def factorial_matrix(n_factors: int, effects: Sequence[tuple[int, ...]]) -> Float[np.ndarray, "effect cell"]:
    """Weights of the cells (two levels per factor, the last factor fastest) on the difference scale.

    A factor that is in the effect has weights -1 and 1, one that is not has 1/2 and 1/2.
    """
    rows = []
    for effect in effects:
        row = np.ones(1)
        for number in range(n_factors):
            row = np.kron(row, [-1.0, 1.0] if number in effect else [0.5, 0.5])
        rows.append(row)
    return np.array(rows)


def difference_contrasts(
    values: Float[np.ndarray, "item cell feature"], n_factors: int, effects: Sequence[tuple[int, ...]]
) -> Float[np.ndarray, "effect item feature"]:
    """Per-item contrasts with the weights of :func:`factorial_matrix`.

    Factor by factor, (low, high) becomes (mean, high - low); equal cells therefore give exactly zero.
    """
    cube = values.reshape(len(values), *[2] * n_factors, values.shape[-1])
    for axis in range(1, n_factors + 1):
        low, high = np.take(cube, 0, axis=axis), np.take(cube, 1, axis=axis)
        cube = np.stack([(low + high) / 2, high - low], axis=axis)
    picked = [tuple(int(i in effect) for i in range(n_factors)) for effect in effects]
    return np.stack([cube[(slice(None), *index)] for index in picked])


def check_matrix(contrasts: xr.DataArray, held: Sequence[str]) -> xr.DataArray:
    """An explicit matrix of contrasts, with its dims in order.

    Raises:
        ValueError: dims, names or levels are missing, or a row is no contrast.
    """
    if set(contrasts.dims) != {"effect", *held} or any(d not in contrasts.coords for d in contrasts.dims):
        raise ValueError(
            f"contrasts needs the dims effect and {tuple(held)}, each with names as its coordinate; got "
            f"{contrasts.dims} with coordinates {list(contrasts.coords)}. Build it as xr.DataArray(weights, "
            "dims=('effect', *factors), coords={'effect': names, factor: levels, ...})."
        )
    rows = contrasts.transpose("effect", *held).astype(float)
    total = abs(rows.sum(dim=held)).values
    size = abs(rows).sum(dim=held).values
    wrong = [
        str(n) for n, t, s in zip(rows["effect"].values, total, size, strict=True) if t > 1e-9 * s or not s
    ]
    if wrong:
        raise ValueError(
            "contrasts needs weights that sum to zero in every row and are not all zero; got others in "
            f"{wrong}. Subtract the weights' mean, or drop the row."
        )
    return rows


def apply_link(values: np.ndarray, link: str) -> np.ndarray:
    """Cells on the scale on which contrasts are taken; NaN stays.

    ``logit`` is log(p / (1 - p)). ``log1m`` is -log(1 - p), on which independent contributions to a
    probability add up (Bliss 1939); both rise with p.

    Raises:
        ValueError: an unknown link, or values that are no probabilities strictly between 0 and 1.
    """
    if link not in LINKS:
        raise ValueError(f"link must be one of {LINKS}; got {link!r}.")
    if link == "identity":
        return values
    outside = (values <= 0) | (values >= 1) if link == "logit" else (values < 0) | (values >= 1)
    if outside.any():
        raise ValueError(
            f"link={link!r} needs a probability strictly inside (0, 1) in every cell; got {outside.sum()} of "
            f"{values.size} outside. For outcomes of 0 and 1 use marginal_log_odds, which takes log-odds of "
            "cell means; for exact probabilities use measure='probability'."
        )
    return logit(values) if link == "logit" else -np.log1p(-values)


def between(y: xr.DataArray, **places: tuple) -> xr.DataArray:
    """``y`` at one place minus ``y`` at another: a contrast of two layers, rounds or sites.

    That an effect is significant at one place and not at another is not evidence that the two differ; the
    effects of this difference test it.

    Args:
        y: a cube as ``factorial_effects`` takes it.
        places: for one or more dims, the pair (this label, minus that label); several dims give the
            difference of differences.

    Returns:
        ``y`` without those dims, named for the difference.

    Raises:
        ValueError: a dim or a label that is not there.

    Examples:
        >>> change = ml.interactions.between(moral.sel(layer=3), round=(2, 0))
        >>> gained = ml.factorial_effects(change, family=())
        >>> bool(gained["ci_low"].sel(effect="instruction", site="answer_start") > 0)
        True
    """
    found, words = y, []
    for dim, pair in places.items():
        labels = found.coords[dim].values.tolist() if dim in found.coords else None
        if (
            dim == "item"
            or dim not in found.dims
            or labels is None
            or len(pair) != 2
            or not set(pair) <= set(labels)
        ):
            raise ValueError(
                f"between needs two labels of a dim of y other than items and factors; got {dim}={pair!r} "
                f"with dims {found.dims}" + (f" and labels {labels[:8]}." if labels else ".")
            )
        found = found.sel({dim: pair[0]}, drop=True) - found.sel({dim: pair[1]}, drop=True)
        words.append(f"{dim} {pair[0]} minus {dim} {pair[1]}")
    if not words:
        raise ValueError("between needs a pair of places, for example between(y, layer=(12, 3)).")
    name = f"{y.name or 'y'} ({', '.join(words)})"
    found = found.rename(name).assign_attrs({**y.attrs, "between": ", ".join(words)})
    return guards_of_difference(y, found, places)


def cells_of(levels: Mapping[str, Sequence[str]]) -> list[dict[str, str]]:
    """All combinations of levels, the last factor fastest."""
    return [dict(zip(levels, cell, strict=True)) for cell in itertools.product(*levels.values())]
