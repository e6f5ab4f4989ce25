"""Which inputs are refused, and which caveats are reported before and after effects are estimated."""

from collections.abc import Mapping

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float

from morality_lens.interactions.contrasts import Contrasts
from morality_lens.interactions.cube import REPEATS, Cube, factors_of
from morality_lens.interactions.intervals import bell_mccaffrey_df
from morality_lens.interactions.numbers import is_p, number, signed

MISSING_ITEMS, MISSING_GAP = 0.10, 0.05
"""Above either (share of incomplete items, gap between conditions) p-values are withheld."""
STABLE = 0.8
"""A direction whose split-half cosine is below this comes with a warning."""
POPULATION = 0.5
"""Below this split-half cosine no claim is made about the direction of a population of statements."""
CEILING = 0.05
"""A cell mean of a share this near to 0 or 1 leaves no room to move."""
DISCRETE = 20
"""An outcome with at most so many different numbers is not continuous: its items are equal by chance."""

VISIBLE = 2.5
"""Skewness times sqrt(G/6) from which on it is mentioned: that of one in a hundred normal samples."""
NEARLY_EQUAL = 0.8
"""Clusters are nearly equal where the degrees of freedom are above this share of their number less one."""
MISSED_EQUAL, MISSED_UNEQUAL = 0.08, 0.09
"""How often intervals missed log-normal contrasts, at worst (``benchmarks/errors.py``)."""


def reason_to_withhold(cube: Cube) -> str:
    """Why p-values are withheld; empty where they are given."""
    if cube.share_failed <= MISSING_ITEMS and cube.gap <= MISSING_GAP:
        return ""
    return (
        f"No p-values and no intervals: {cube.share_failed:.1%} of the items are incomplete (limit 10 %) "
        f"and failure rates differ by up to {100 * cube.gap:.1f} points between conditions (limit 5). "
        "Analyse y.isnull().astype(float) as an outcome; accept_missing=True gives them nevertheless."
    )


def too_many_failed(y: xr.DataArray, wanted: Contrasts | None = None) -> str:
    """Why p-values are withheld where answers that could not be read were counted; empty where they are not.

    Args:
        y: with the coordinate ``failed``; without it (a mean over rounds, say) its attribute ``failed`` says
            what held of the whole.
        wanted: the contrasts, whose levels alone are looked at; None looks at all.
    """
    if "failed" not in y.coords:
        return str(y.attrs.get("failed", ""))
    if wanted is not None:
        y = y.sel(wanted.at).sel({name: list(levels) for name, levels in wanted.levels.items()})
    failed = y.coords["failed"].astype(float)
    share = float(failed.mean())
    cells = failed.mean([dim for dim in ("item", *REPEATS) if dim in failed.dims])
    factors = [dim for dim in factors_of(y) if dim in cells.dims]
    gap = float((cells.max(factors) - cells.min(factors)).max())
    if share <= MISSING_ITEMS and gap <= MISSING_GAP:
        return ""
    return (
        f"No p-values and no intervals: {share:.0%} of the answers could not be read (limit "
        f"{MISSING_ITEMS:.0%}), and their share differs by up to {100 * gap:.0f} points between conditions "
        f"(limit {100 * MISSING_GAP:.0f}). They were counted all the same, so an effect may be one on form. "
        "Use a model that answers in form, or raise answer_tokens; accept_missing=True gives p-values "
        "nevertheless."
    )


def check_input(y: xr.DataArray, *, accept_normalised: bool) -> list[str]:
    """Refuse values that are not linear, not signed or fitted on their own outcomes; caveats on the rest."""
    if y.attrs.get("oriented") is not None and not y.attrs["oriented"]:
        raise ValueError(
            "factorial_effects needs projections on an oriented direction (+ is more moral); got "
            "y.attrs['oriented'] = False. Fit the probe on labelled statements, or flip the sign and set "
            "it to True."
        )
    if y.attrs.get("leakage"):
        raise ValueError(
            "factorial_effects needs a probe that was not trained on the analysed cells: "
            f"{y.attrs['leakage']} Such a probe reproduces the effects on behaviour even if the activations "
            "hold nothing about morality, also across items. Train it on statements, on one condition, or "
            "with the condition means removed (demean=True)."
        )
    normalised = str(y.attrs.get("normalised", ""))
    if normalised == "cell" and not accept_normalised:
        raise ValueError(
            "factorial_effects needs raw projections, scaled at most by one constant per layer; got values "
            "normalised per cell (y.attrs['normalised'] = 'cell'), on which purely additive effects look "
            "like negative interactions. Use the raw projection, or pass accept_normalised=True."
        )
    notes = [str(y.attrs[name]) for name in ("option_note", "cluster_note", "unit_note") if y.attrs.get(name)]
    notes += _note_on_repeats(y)
    if "oriented" not in y.attrs:
        notes.append("y.attrs does not say that + is more moral; signs are read as if it were so.")
    if normalised == "cell":
        notes.append(
            "Values normalised per cell were accepted: interactions may come from the normalisation."
        )
    halves = split_halves(y)
    if halves.size and halves.min() < STABLE:
        notes.append(
            f"Warning: the direction is unstable, with split-half cosines down to {float(halves.min()):.2f} "
            f"(wanted: {STABLE}): other training data would give another one."
        )
    return notes


def _note_on_repeats(y: xr.DataArray) -> list[str]:
    """A warning that items of different clusters have the same numbers in every cell.

    Continuous outcomes only, with more than :data:`DISCRETE` different numbers that are not all whole:
    answers of 0 or 1, ratings and shares of a few samples are equal by chance. Rows count as repeated where
    they vary, and hold some number that is not whole and that no other row holds.
    """
    if "item" not in y.dims or "cluster" not in y.coords or y.coords["cluster"].dims != ("item",):
        return []
    ordered = y.transpose("item", ...)
    rows = ordered.values.reshape(len(ordered), -1)
    if rows.dtype.kind != "f" or not rows.size:
        return []
    some = np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // 128)])
    first: dict[bytes, int] = {}
    same = [(first.setdefault(row.tobytes(), number), number) for number, row in enumerate(some)]
    clusters, items = y.coords["cluster"].values, y.coords["item"].values
    pairs = [
        (one, other)
        for one, other in same
        if clusters[one] != clusters[other] and _same_and_varying(rows[one], rows[other])
    ]
    own = _own_numbers(some) if pairs else np.zeros(0, bool)
    pairs = [(one, other) for one, other in pairs if own[one]]
    if not pairs:
        return []
    shown = " and ".join(str(items[number]) for number in pairs[0])
    return [
        f"Repeated items: {len(pairs)} have the same numbers in every cell as an item of another cluster "
        f"(such as {shown}), like one text under two ids; give such items one cluster, or every standard "
        "error is too small."
    ]


def _own_numbers(rows: Float[np.ndarray, "item cell"]) -> Bool[np.ndarray, " item"]:
    """Which rows hold a number that is not whole and that only they and rows equal to them hold.

    None where the numbers are discrete.
    """
    found, codes, counts = np.unique(rows, return_inverse=True, return_counts=True)
    codes = codes.reshape(rows.shape)
    broken = np.isfinite(found) & (found != np.round(found))
    if np.isfinite(found).sum() <= DISCRETE or not broken.any():
        return np.zeros(len(rows), bool)
    copies: dict[bytes, int] = {}
    for row in codes:
        copies[row.tobytes()] = copies.get(row.tobytes(), 0) + 1
    own = []
    for row in codes:
        held, times = np.unique(row, return_counts=True)
        own.append(bool((broken[held] & (counts[held] == copies[row.tobytes()] * times)).any()))
    return np.array(own)


def _same_and_varying(one: Float[np.ndarray, " cell"], other: Float[np.ndarray, " cell"]) -> bool:
    """Whether two rows have the same numbers, of which there are several."""
    there = one[~np.isnan(one)]
    return np.array_equal(one, other, equal_nan=True) and bool(there.size and there.min() < there.max())


def split_halves(y: xr.DataArray) -> Float[np.ndarray, " direction"]:
    """Split-half cosines of the directions (coordinate ``split_half``), without layers that have none."""
    halves = np.atleast_1d(y.coords["split_half"].values if "split_half" in y.coords else np.ones(0))
    return halves[np.isfinite(halves)]


def scope(y: xr.DataArray, refits: xr.DataArray | None) -> str:
    """The conditions under which every sentence about the result holds."""
    which = "the direction of each axis" if "axis" in y.coords else "the morality direction"
    if refits is None:
        return (
            "Conditional on one wording of the components and, for a projection, on one fitted direction: "
            f"the intervals say whether this direction moves, not whether {which} moves."
        )
    return (
        f"Conditional on one wording of the components. The variance over {refits.sizes['probe_draw']} "
        f"refits of the probe is in every interval: they say whether {which} moves, as far as "
        "its training statements are a sample of all."
    )


def notes_on_cube(cube: Cube, missing: str) -> list[str]:
    """Proportions, ceilings, repeats and missing values."""
    notes = []
    if cube.binary:
        notes.append(
            "The outcome is 0/1: effects are differences of proportions; marginal_log_odds gives them on the "
            "log-odds scale."
        )
        means = np.nanmean(cube.values, axis=0)
        extreme = (means < CEILING) | (means > 1 - CEILING)
        if extreme.any():
            notes.append(
                f"{extreme.sum()} of {extreme.size} cell means lie within {CEILING:g} of 0 or 1: a negative "
                "interaction there may be a ceiling."
            )
    if cube.repeats:
        notes.append(f"Averaged over {' and '.join(cube.repeats)} within item and cell.")
    if cube.n_incomplete and missing == "complete_items":
        notes.append(
            f"Complete items only: {cube.n_incomplete} items ({cube.share_incomplete:.1%}) with a missing "
            "value were left out, which is a sensitivity check and no primary analysis."
        )
    elif cube.n_incomplete:
        notes.append(
            f"{cube.n_incomplete} items ({cube.share_incomplete:.1%}) lack a value in some cell: least "
            "squares with item fixed effects on the available cells, standard errors by a cluster jackknife."
        )
    return notes


def note_on_failures(names: list[str], found: Mapping[str, Float[np.ndarray, "feature"]]) -> list[str]:
    """The clearest contrast of the failure rate, which is to be read before all others."""
    rate, p = found["failure"].reshape(len(names), -1), found["failure_p"].reshape(len(names), -1)
    smallest = np.where(np.isnan(p), 0.0, p)
    effect, place = np.unravel_index(int(np.argmin(smallest)), p.shape)
    return [
        "Failure first: the contrast of the failure rate with the smallest pointwise p is "
        f"{names[int(effect)]}, {signed(rate[effect, place])} "
        f"({is_p(smallest[effect, place])}); the largest in size is {number(np.abs(rate).max())}."
    ]


def notes_on_result(
    names: list[str],
    shape: tuple[int, ...],
    *,
    zero: Bool[np.ndarray, "feature"],
    constant: Bool[np.ndarray, "feature"],
    estimate: Float[np.ndarray, "feature"],
) -> list[str]:
    """Count the features without variance."""
    notes = []
    if zero.any():
        inexact = int(np.count_nonzero(estimate[zero]))
        notes.append(
            f"{zero.sum()} of {zero.size} tests have an effect of zero without any variance and were left "
            f"out of their family's maximum ({inexact} of them are zero up to rounding, the others exactly)."
        )
    if constant.any():
        hit = np.atleast_1d(constant.reshape(shape[0], -1).any(axis=1))
        which = ", ".join(name for name, is_hit in zip(names, hit, strict=True) if is_hit)
        notes.append(
            f"Warning: in {constant.sum()} of {constant.size} tests ({which}) the effect is the same "
            "non-zero number in every cluster: a signature of position or template. With no variance to test "
            "by, their p is that of signs alone, 2 / 2^clusters, and their interval leaves room for clusters "
            "that were not seen."
        )
    return notes


def words_on_aliases(aliases: Mapping[str, str]) -> str:
    """What the effects of a fraction of a design cannot be told from."""
    told = "; ".join(f"{name} from {other}" for name, other in aliases.items())
    return (
        "A fraction of the combinations was played, so effects come in sums; not to be told apart are "
        f"{told}. Each is that of its name if the others are nil."
    )


def words_on_skew(
    names: list[str],
    shape: tuple[int, ...],
    skewness: Float[np.ndarray, "feature"],
    sizes: Float[np.ndarray, "cluster"],
) -> str:
    """How far the level of intervals can be relied on, where contrasts are visibly skewed; else nothing.

    Args:
        names: of the effects.
        shape: of effects and places.
        skewness: of the mean over clusters, by feature.
        sizes: items of each cluster.
    """
    n_clusters = len(sizes)
    of_clusters = (skewness * np.sqrt(n_clusters)).reshape(shape[0], -1)
    typical = np.median(np.abs(of_clusters), axis=1)
    skewed = typical * np.sqrt(n_clusters / 6) > VISIBLE
    if not skewed.any():
        return ""
    listed = ", ".join(
        f"{name} {value:.1f}" for name, value, is_so in zip(names, typical, skewed, strict=True) if is_so
    )
    equal = bell_mccaffrey_df(sizes) > NEARLY_EQUAL * (n_clusters - 1)
    return (
        f"Skewed contrasts (skewness of the clusters' means: {listed}): with clusters of "
        f"{'nearly equal' if equal else 'unequal'} sizes 95 % intervals of simulated log-normal contrasts "
        f"missed in up to {MISSED_EQUAL if equal else MISSED_UNEQUAL:.0%} of the draws."
    )
