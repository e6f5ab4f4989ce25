"""Coverage of intervals of shares, of rare changes and of log-odds, nominal .95.

    python benchmarks/shares.py --runs 1000

Outcomes are 0 or 1, in clusters of 1, 5 or 10 items whose answers correlate (intraclass correlation 0, .1 or
.5; the clusters' shares are beta distributed). A row gives the lowest coverage over sizes and correlations.
"""

import argparse

import numpy as np
import xarray as xr
from scipy.special import logit

from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.interactions.ratios import mean_over_items

CLUSTERS = (8, 12, 20, 50)


def outcomes(
    rng: np.random.Generator, share: float, n_clusters: int, size: int, within: float, runs: int
) -> np.ndarray:
    """Item x run: 0 or 1."""
    rate = np.full((n_clusters, runs), share)
    if within:
        strength = (1 - within) / within
        rate = rng.beta(share * strength, (1 - share) * strength, (n_clusters, runs))
    return (rng.random((n_clusters, size, runs)) < rate[:, None]).reshape(-1, runs).astype(float)


def cube(values: np.ndarray, n_clusters: int, *dims: str) -> xr.DataArray:
    """With the clusters of the items."""
    n_items = len(values)
    coords = {
        "item": np.arange(n_items),
        "cluster": ("item", np.repeat(np.arange(n_clusters), n_items // n_clusters)),
    }
    if "feedback" in dims:
        coords["feedback"] = ["off", "on"]
    return xr.DataArray(values, dims=("item", *dims), coords=coords, attrs={"oriented": True})


def covered(low: np.ndarray, high: np.ndarray, truth: float) -> float:
    """How often intervals that are given hold the truth."""
    given = np.isfinite(low)
    return float(((low <= truth) & (truth <= high))[given].mean()) if given.any() else np.nan


def shares(rng: np.random.Generator, runs: int) -> None:
    """Intervals of mean shares."""
    print("| share | " + " | ".join(f"{n} clusters" for n in CLUSTERS) + " | widest, 20 clusters of 5 |")
    print("|---|---|---|---|---|---|")
    for share in (0.5, 0.8, 0.9, 0.95, 0.99, 0.999):
        lowest, wide = [], 0.0
        for n_clusters in CLUSTERS:
            each = []
            for size in (1, 5, 10):
                for within in (0.0, 0.1, 0.5):
                    y = cube(outcomes(rng, share, n_clusters, size, within, runs), n_clusters, "run")
                    found = mean_over_items(y, share=True)
                    each.append(covered(found.ci_low.values, found.ci_high.values, share))
                    if (n_clusters, size) == (20, 5):
                        wide = max(wide, float((found.ci_high - found.ci_low).median()))
            lowest.append(min(each))
        print(f"| {share} | " + " | ".join(f"{c:.3f}" for c in lowest) + f" | {wide:.2f} |", flush=True)


def rare_changes(rng: np.random.Generator, runs: int) -> None:
    """Effects of a component that turns a few wrong answers right."""
    print("| answers turned right | " + " | ".join(f"{n} clusters" for n in CLUSTERS) + " |")
    print("|---|---|---|---|---|")
    for share in (0.01, 0.03, 0.1):
        lowest = []
        for n_clusters in CLUSTERS:
            each = []
            for size in (5, 10):
                for within in (0.0, 0.1):
                    turned = outcomes(rng, share, n_clusters, size, within, runs)
                    values = np.stack([np.zeros_like(turned), turned], axis=1)
                    y = cube(values, n_clusters, "feedback", "run")
                    found = factorial_effects(y, method="pointwise", family=()).sel(effect="feedback")
                    each.append(covered(found.ci_low.values, found.ci_high.values, share))
            lowest.append(min(each))
        print(f"| {share} | " + " | ".join(f"{c:.3f}" for c in lowest) + " |", flush=True)


def log_odds(rng: np.random.Generator, runs: int) -> None:
    """Effects on the log-odds; in brackets how often there is an interval."""
    print("| shares off, on | " + " | ".join(f"{n} clusters" for n in CLUSTERS) + " |")
    print("|---|---|---|---|---|")
    for pair in ((0.5, 0.7), (0.8, 0.9), (0.9, 0.95), (0.97, 0.99), (0.99, 0.999)):
        cells = []
        for n_clusters in CLUSTERS:
            values = np.stack([outcomes(rng, p, n_clusters, 5, 0.1, runs) for p in pair], axis=1)
            found = marginal_log_odds(cube(values, n_clusters, "feedback", "run")).sel(effect="feedback")
            low, high = found.ci_low.values, found.ci_high.values
            there = float(np.isfinite(low).mean())
            rate = covered(low, high, float(logit(pair[1]) - logit(pair[0])))
            cells.append(f"{rate:.3f} ({there:.2f})" if there > 0.02 else f"none ({there:.2f})")
        print(f"| {pair[0]}, {pair[1]} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    for table in (shares, rare_changes, log_odds):
        table(rng, given.runs)
        print()


if __name__ == "__main__":
    main()
