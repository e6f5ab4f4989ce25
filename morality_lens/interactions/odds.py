"""Effects on the log-odds of cell means, for outcomes of 0 and 1."""

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from scipy.special import logit

from morality_lens.interactions.caveats import check_input, too_many_failed, words_on_aliases
from morality_lens.interactions.contrasts import Comparison, at_suffix, read_contrasts
from morality_lens.interactions.cube import check_dims, check_labelled, factors_of, read_cube
from morality_lens.interactions.fractions import with_aliases
from morality_lens.interactions.intervals import bell_mccaffrey_df, cluster_sums, judge, skewness

RAREST = 3
"""Fewer of an outcome than this in a cell give its log-odds no interval."""


def marginal_log_odds(
    y: xr.DataArray,
    factors: Sequence[str] | None = None,
    *,
    at: Mapping[str, str] | None = None,
    compare: Comparison | Mapping[str, str | tuple[str, str]] = "total",
    contrasts: xr.DataArray | None = None,
    alpha: float = 0.05,
) -> xr.Dataset:
    """The contrasts of ``factorial_effects``, of the log-odds of the cells' means over items.

    Additive effects and these can differ in sign: near 0 and 1 there is less room to move. Shares are clipped
    at half a count, 0.5/n. A place at which a cell has fewer than three of one outcome has an estimate but no
    interval (at shares of .97 to .999 intervals of what is not clipped miss in .2 to .6). Standard errors are
    those of a jackknife over clusters, p and intervals those of
    :func:`morality_lens.interactions.intervals.judge`, pointwise.

    Args:
        y: outcomes of 0 and 1 (or shares of them over seeds) with the dims of ``factorial_effects``.
        factors: the names of the factors; None takes all that ``y`` has.
        at: levels at which some factors are held.
        compare: as in ``factorial_effects``.
        contrasts: as in ``factorial_effects``.
        alpha: level of the intervals.

    Returns:
        Dataset over effect and the places of ``y``: ``estimate`` (log-odds), ``se``, ``df``,
        ``skew``, ``p``, ``ci_low``, ``ci_high``, ``clipped`` (whether a cell was at 0 or 1), and
        ``cell_mean`` (shares).

    Raises:
        ValueError: ``y`` holds other numbers, or ``factorial_effects`` would refuse it too.

    Examples:
        >>> odds = ml.interactions.marginal_log_odds(correct)
        >>> bool(odds["estimate"].sel(effect="instruction", round=2) > 0)
        True
    """
    wanted = read_contrasts(factors_of(y) if factors is None else factors, at, compare, contrasts, y)
    wanted = with_aliases(wanted, y)
    check_dims(y, wanted.levels, wanted.at, ())
    check_labelled(y, "marginal_log_odds")
    notes = check_input(y, accept_normalised=False)
    notes += [words_on_aliases(wanted.aliases)] if wanted.aliases else []
    cube = read_cube(y.sel(wanted.at), wanted.levels, missing="refuse")
    if cube.values.min() < 0 or cube.values.max() > 1:
        raise ValueError(
            "marginal_log_odds needs outcomes of 0 and 1, or shares of them; got numbers from "
            f"{cube.values.min():.3g} to {cube.values.max():.3g}. Use factorial_effects for other outcomes."
        )
    n_items, n_cells, n_places = cube.values.shape
    sums, sizes = cluster_sums(cube.values.reshape(n_items, -1), cube.codes)
    counts = sums.sum(axis=0).reshape(n_cells, n_places)
    clipped = ((counts <= 0) | (counts >= n_items)).any(axis=0)
    scarce = ((counts < RAREST) | (counts > n_items - RAREST)).any(axis=0)
    if clipped.any():
        notes.append(
            f"At {clipped.sum()} of {clipped.size} places a cell is at 0 or 1 and was clipped at 0.5/n."
        )
    if scarce.any():
        notes.append(
            f"At {scarce.sum()} of {scarce.size} places a cell has fewer than {RAREST} of one of the two "
            "outcomes: there is an estimate of its log-odds, but no p and no interval."
        )
    withheld = too_many_failed(y, wanted)
    notes += [withheld] if withheld else []
    found = _contrasts_of_log_odds(
        sums.reshape(-1, n_cells, n_places), sizes, wanted.matrix, scarce | bool(withheld), alpha
    )
    dims, shape = ("effect", *cube.rest), (len(wanted.names), *cube.rest_shape)
    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        name: (dims, values.reshape(shape)) for name, values in found.items()
    }
    data["clipped"] = (cube.rest, clipped.reshape(cube.rest_shape))
    lengths = [len(levels) for levels in wanted.levels.values()]
    data["cell_mean"] = (
        (*wanted.held, *cube.rest),
        (counts / n_items).reshape([*lengths, *cube.rest_shape]),
    )
    attrs = {
        "outcome": str(y.name or "y"),
        "scale": "log-odds of cell means",
        "factors": list(wanted.held),
        "held_at": at_suffix(wanted.at).removeprefix("@"),
        "n_items": n_items,
        "n_clusters": len(sizes),
        "method": "cluster jackknife",
        "alpha": float(alpha),
        "notes": notes,
    }
    return xr.Dataset(data, coords={**cube.coords, "effect": wanted.names, **wanted.levels}, attrs=attrs)


def _contrasts_of_log_odds(
    sums: Float[np.ndarray, "cluster cell place"],
    sizes: Float[np.ndarray, " cluster"],
    matrix: Float[np.ndarray, "effect cell"],
    scarce: Bool[np.ndarray, " place"],
    alpha: float,
) -> dict[str, Float[np.ndarray, "effect place"]]:
    """Contrasts of the cells' log-odds with their jackknife errors, p-values and intervals."""
    total, n_items, n_clusters = sums.sum(axis=0), sizes.sum(), len(sizes)
    pattern = "effect cell, cluster cell place -> cluster effect place"
    estimate = einsum(matrix, _log_odds(total[None], np.array([n_items])), pattern)[0]
    dropped = einsum(matrix, _log_odds(total - sums, n_items - sizes), pattern)
    moved = rearrange(dropped.mean(axis=0) - dropped, "cluster effect place -> cluster (effect place)")
    se = np.sqrt((n_clusters - 1) / n_clusters * (moved**2).sum(axis=0))
    df = np.full_like(se, bell_mccaffrey_df(sizes))
    found = judge(estimate.ravel(), se, df, skewness(moved), alpha=alpha)
    unknown = np.broadcast_to(scarce, estimate.shape).ravel() | (found.se <= 1e-12)
    known = {"se": found.se, "df": found.df, "skew": found.skew, "p": found.p, "ci_low": found.low}
    known["ci_high"] = found.high
    return {
        "estimate": estimate,
        **{name: np.where(unknown, np.nan, v).reshape(estimate.shape) for name, v in known.items()},
    }


def _log_odds(
    counts: Float[np.ndarray, "row cell place"], n: Float[np.ndarray, " row"]
) -> Float[np.ndarray, "row cell place"]:
    least = (0.5 / n)[:, None, None]
    return logit(np.clip(counts / n[:, None, None], least, 1 - least))
