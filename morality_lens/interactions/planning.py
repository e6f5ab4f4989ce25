"""Before a run: the minimal effect that a number of items can be expected to detect."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy.optimize import root_scalar
from scipy.stats import nct, t

from morality_lens.design import COMPONENTS
from morality_lens.interactions.effects import factorial_effects

PLACES = 32
"""Layers that a family of tests is assumed to consist of."""
DRAWS = 20_000


def plan(
    n_items: Sequence[int] = (50, 100, 200, 500),
    *,
    pilot: xr.DataArray | None = None,
    sd: float | None = None,
    cell_sd: float | None = None,
    factors: Sequence[str] | None = None,
    cluster_size: float = 1.0,
    icc: float = 0.0,
    n_tests: int = 1,
    correlation: float = 0.95,
    power: float = 0.8,
    alpha: float = 0.05,
    seed: int = 0,
) -> pd.DataFrame:
    """The minimal detectable effect: the size that is found with the wanted power, by number of items.

    From a pilot run, the standard errors of its own contrasts are carried over to other numbers of items
    (they shrink with the square root). From assumed sds, a contrast varies over items with ``sd``; or the
    cells vary independently with ``cell_sd`` within an item, so that with three factors the sd of a main
    effect is sqrt(1/2), of a two-way sqrt(2), of the three-way sqrt(8) times that: a two-way needs four
    times, the three-way sixteen times the items of a main effect.

    Args:
        n_items: numbers of items.
        pilot: a cube as ``factorial_effects`` takes it.
        sd: sd of a per-item contrast, in units of the outcome.
        cell_sd: sd of a cell within an item.
        factors: the factors of the pilot (None: all it has), or those that ``cell_sd`` is spread over (None:
            the three components).
        cluster_size: mean number of items of a cluster (template).
        icc: correlation of a contrast between two items of a cluster; with ``cluster_size`` it gives the
            design effect 1 + (cluster_size - 1) icc. A pilot brings its own clusters.
        n_tests: size of the family that p is corrected over, layers times rounds.
        correlation: of the statistics of neighbouring layers (autoregressive over 32 layers, independent
            between rounds), from which the family's critical value is drawn. 0 is the most cautious.
        power: probability of finding an effect of that size.
        alpha: level, two-sided.
        seed: of the draws of the family's critical value.

    Returns:
        A row per effect and number of items: ``effect``, ``n_items``, ``n_clusters``, ``sd`` (of the
        contrast, design effect included), ``pointwise`` and ``family``: minimal detectable effects in units
        of the outcome.

    Raises:
        ValueError: not exactly one of ``pilot``, ``sd`` and ``cell_sd``, or numbers out of range.

    Examples:
        >>> ml.interactions.plan([50, 200], sd=1.0)[["n_items", "pointwise"]].round(1).values.tolist()
        [[50.0, 0.4], [200.0, 0.2]]
    """
    given = [
        name for name, value in (("pilot", pilot), ("sd", sd), ("cell_sd", cell_sd)) if value is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"plan needs exactly one of pilot, sd and cell_sd; got {given or 'none'}. Play a few items and "
            "give them as pilot=..., or assume the sd of a per-item contrast, sd=1."
        )
    if not (0 < power < 1 and 0 < alpha < 1 and n_tests >= 1 and cluster_size >= 1 and 0 <= icc <= 1):
        raise ValueError(
            "plan needs power and alpha between 0 and 1, n_tests and cluster_size of 1 or more and an icc "
            f"from 0 to 1; got power={power}, alpha={alpha}, n_tests={n_tests}, "
            f"cluster_size={cluster_size}, icc={icc}."
        )
    if not 0 <= correlation < 1:
        raise ValueError(f"plan needs a correlation from 0 to below 1; got {correlation}.")
    spread = _spreads(pilot, sd, cell_sd, factors, math.sqrt(1 + (cluster_size - 1) * icc))
    size = cluster_size
    if pilot is not None and "cluster" in pilot.coords:
        size = pilot.sizes["item"] / len(set(pilot["cluster"].values.tolist()))
    level = _level_in_family(n_tests, correlation, alpha, seed)
    rows = []
    for n in n_items:
        clusters = max(2, round(n / size))
        if n < 2:
            raise ValueError(f"plan needs two items or more; got {n}.")
        units = [_detectable(clusters - 1, one, power) for one in (alpha, level)]
        rows += [
            {
                "effect": name,
                "n_items": int(n),
                "n_clusters": clusters,
                "sd": value,
                "pointwise": units[0] * value / math.sqrt(n),
                "family": units[1] * value / math.sqrt(n),
            }
            for name, value in spread.items()
        ]
    return pd.DataFrame(rows)


def _spreads(
    pilot: xr.DataArray | None,
    sd: float | None,
    cell_sd: float | None,
    factors: Sequence[str] | None,
    design: float,
) -> dict[str, float]:
    """sd of every contrast over items, clustering included; of a pilot the median over its places."""
    if pilot is not None:
        found = factorial_effects(pilot, factors, method="pointwise")
        per_item = found.se * math.sqrt(found.attrs["n_items"])
        places = [dim for dim in per_item.dims if dim != "effect"]
        moving = per_item.where(per_item > 0).median(places) if places else per_item
        return {str(name): float(v) for name, v in zip(found.effect.values, moving.values, strict=True)}
    if sd is not None:
        return {"any contrast": sd * design}
    assert cell_sd is not None  # exactly one was given
    k, names = len(COMPONENTS if factors is None else factors), ("main effect", "two-way", "three-way")
    return {
        name if order < 3 else f"{order + 1}-way": cell_sd * design * math.sqrt(4 ** (order + 1) / 2**k)
        for order, name in enumerate(names[:k])
    }


def _detectable(df: int, alpha: float, power: float) -> float:
    """The noncentrality at which a two-sided t test has the power: the effect in standard errors."""
    critical = float(t.ppf(1 - alpha / 2, df))

    def missing(shift: float) -> float:
        return float(nct.sf(critical, df, shift)) - power

    return float(root_scalar(missing, bracket=(1e-6, 2 * critical + 20)).root)


def _level_in_family(n_tests: int, correlation: float, alpha: float, seed: int) -> float:
    """The pointwise level at which the largest of the family's |z| exceeds its critical value with alpha."""
    if n_tests == 1:
        return alpha
    rng = np.random.default_rng(seed)
    largest = np.zeros(DRAWS)
    done = 0
    while done < n_tests:
        here = min(PLACES, n_tests - done)
        z = rng.standard_normal(DRAWS)
        for _ in range(here):
            np.maximum(largest, np.abs(z), out=largest)
            z = correlation * z + math.sqrt(1 - correlation**2) * rng.standard_normal(DRAWS)
        done += here
    critical = float(np.quantile(largest, 1 - alpha))
    return 2 * float(_upper_tail(critical))


def _upper_tail(z: float) -> float:
    return float(0.5 * math.erfc(z / math.sqrt(2)))
