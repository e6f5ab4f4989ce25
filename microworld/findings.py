"""One measured property, its target, and whether the target is met."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row of the table: a property, its target and its measured value.

    ``holds`` is None where there is no target; a model that misses a ``required`` one is rejected.
    """

    name: str
    aim: str
    reached: str
    holds: bool | None = None
    required: bool = False


def at_most(name: str, reached: float, most: float, *, where: str = "", required: bool = True) -> Finding:
    """A finding that holds where a size does not exceed a bound."""
    return Finding(
        name=name,
        aim=f"<= {_short(most)}",
        reached=f"{reached:.3f}{f' ({where})' if where else ''}",
        holds=bool(reached <= most),
        required=required,
    )


def at_least(name: str, reached: float, least: float, *, where: str = "", required: bool = True) -> Finding:
    """A finding that holds where a size reaches a bound."""
    return Finding(
        name=name,
        aim=f">= {_short(least)}",
        reached=f"{reached:.3f}{f' ({where})' if where else ''}",
        holds=bool(reached >= least),
        required=required,
    )


def _short(bound: float) -> str:
    return f"{bound:g}".removeprefix("0") or "0"


def largest(errors: Mapping[str, Float[np.ndarray, " round"]]) -> tuple[float, str]:
    """The largest size among errors by round (NaN: not measured), and where it is."""
    sizes = {
        f"{label}, round {r}": abs(float(e))
        for label, row in errors.items()
        for r, e in enumerate(row)
        if not np.isnan(e)
    }
    where = max(sizes, key=lambda key: sizes[key])
    return sizes[where], where
