"""Import time, and the time of factorial effects with corrected p and bands.

    python benchmarks/effects.py

200 items x 8 conditions x 5 rounds x 32 layers, all seven effects, 2,000 draws; beside it a loop of
statsmodels' AnovaRM over the same 160 places, timed on 4 of them and scaled; and MNE's permutation t-test of
the same contrasts, corrected over the 160 places of each effect.
"""

import itertools
import statistics
import subprocess
import sys
import time
import warnings

import numpy as np
import xarray as xr

from morality_lens.interactions.effects import factorial_effects


def import_seconds(statement: str, runs: int = 5) -> float:
    """Median time of an import in a fresh Python, less the time of Python itself."""

    def once(code: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return time.perf_counter() - began

    return statistics.median(once(statement) for _ in range(runs)) - statistics.median(
        once("pass") for _ in range(runs)
    )


def cube(items: int = 200, clusters: int = 40) -> xr.DataArray:
    """Autocorrelated noise in the shape of a projected run."""
    rng = np.random.default_rng(0)
    values = np.cumsum(rng.normal(size=(items, 2, 2, 2, 5, 32)), axis=-1)
    levels = ["off", "on"]
    return xr.DataArray(
        values,
        dims=("item", "instruction", "cot", "feedback", "round", "layer"),
        coords={
            "item": np.arange(items),
            "cluster": ("item", np.arange(items) % clusters),
            "instruction": levels,
            "cot": levels,
            "feedback": levels,
            "round": np.arange(5),
            "layer": np.arange(32),
        },
    )


def statsmodels_seconds(y: xr.DataArray, places: int = 4) -> float:
    """Time of AnovaRM at every round and layer, from a few of them; no corrected p, no bands."""
    from statsmodels.stats.anova import AnovaRM

    factors = ["instruction", "cot", "feedback"]
    began = time.perf_counter()
    for layer in range(places):
        frame = y.isel(round=0, layer=layer, drop=True).to_dataframe("y").reset_index()
        AnovaRM(frame, "y", "item", factors).fit()
    return (time.perf_counter() - began) / places * y.sizes["round"] * y.sizes["layer"]


def mne_seconds(y: xr.DataArray) -> float:
    """Time of MNE's max-|t| sign flips for all seven effects: items flipped singly, no bands, no CR2."""
    from mne.stats import permutation_t_test

    began = time.perf_counter()
    for size in (1, 2, 3):
        for factors in itertools.combinations(("instruction", "cot", "feedback"), size):
            contrast = y
            for factor in factors:
                contrast = contrast.sel({factor: "on"}) - contrast.sel({factor: "off"})
            rest = [f for f in ("instruction", "cot", "feedback") if f in contrast.dims]
            values = contrast.mean(rest).values.reshape(y.sizes["item"], -1)
            permutation_t_test(values, n_permutations=2000, rng=0, verbose="error")
    return time.perf_counter() - began


def main() -> None:
    """Print the table."""
    warnings.filterwarnings("ignore")
    print(f"import morality_lens: {import_seconds('import morality_lens'):.3f} s")
    y = cube()
    times = []
    for _ in range(6):
        began = time.perf_counter()
        effects = factorial_effects(y)
        times.append(time.perf_counter() - began)
    ours = statistics.median(times[1:])
    loop, mne = statsmodels_seconds(y), mne_seconds(y)
    print(f"{effects.attrs['n_clusters']} clusters, {effects.attrs['method']}, 1,120 features, 2,000 draws")
    print(f"factorial_effects: {ours:.3f} s")
    print(
        f"statsmodels AnovaRM loop: {loop:.0f} s, scaled from 4 of 160 places; "
        f"{loop / ours:,.0f} times as long"
    )
    print(f"MNE permutation_t_test, seven effects: {mne:.1f} s; {mne / ours:,.0f} times as long")


if __name__ == "__main__":
    main()
