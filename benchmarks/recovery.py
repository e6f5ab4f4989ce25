"""Recovery of known effects in three worlds: planted ones, none, and an apparent one of the format.

    python benchmarks/recovery.py --runs 200

Planted: questions of the bundled world are drawn anew each time and answered by the planted table; how often
do the intervals hold the true effects? Null: the same without effects. Trap: no condition moves the moral
direction, but components shift the residual along a direction of their own, as any words in that place
would; a probe that was estimated from few statements leans on it by chance.
"""

import argparse
import itertools
from typing import Any

import numpy as np
import xarray as xr

from morality_lens.design import Condition
from morality_lens.interactions.effects import factorial_effects
from morality_lens.world import sampling, truth

FACTORS = ("instruction", "cot", "feedback")
CELLS = [
    Condition(instruction=i, cot=c, feedback=f) for i, c, f in itertools.product(("off", "on"), repeat=3)
]
ITEMS = 200
D_MODEL = 32
REFITS = 60


def probabilities(n: int, seed: int, *, effects: bool) -> tuple[np.ndarray, list[str]]:
    """Probability of a fair answer to drawn ambiguous questions in the last round of every cell."""
    questions = [q for q in sampling.questions(2 * n, seed=seed) if q.ambiguous][:n]
    table = [
        [truth.probability(q, cell if effects else Condition(), truth.LAST_ROUND) for cell in CELLS]
        for q in questions
    ]
    return np.array(table).reshape(-1, 2, 2, 2), [q.cluster for q in questions]


def as_cube(
    y: np.ndarray, clusters: list[str] | np.ndarray, levels: tuple[str, ...] = ("off", "on")
) -> xr.DataArray:
    """Items by cells, labelled."""
    coords = {"item": np.arange(len(y)), **{name: list(levels) for name in FACTORS}}
    cube = xr.DataArray(y, dims=("item", *FACTORS), coords=coords, attrs={"oriented": True})
    return cube.assign_coords(cluster=("item", np.asarray(clusters)))


def answered(runs: int, *, effects: bool) -> np.ndarray:
    """Share of samples whose interval holds the true effect, by effect."""
    wide, clusters = probabilities(20_000, 10**6, effects=effects)
    found = factorial_effects(as_cube(wide, clusters), method="pointwise")
    held = []
    for run in range(runs):
        p, clusters = probabilities(ITEMS, run, effects=effects)
        y = (np.random.default_rng(run).random(p.shape) < p).astype(float)
        got = factorial_effects(as_cube(y, clusters), method="pointwise")
        held.append(((got.ci_low <= found.estimate) & (found.estimate <= got.ci_high)).values)
    return np.mean(held, axis=0)


def trapped(runs: int) -> dict[str, float]:
    """Share of runs in which the instruction seems to move the moral direction, by the form of the prompt."""
    hits = {
        "on - off, one fitted direction": 0.0,
        "on - off, refits in the interval": 0.0,
        "on - placebo": 0.0,
    }
    for run in range(runs):
        rng = np.random.default_rng(run)
        moral, format_ = np.linalg.qr(rng.standard_normal((D_MODEL, 2)))[0].T
        label = np.tile([1.0, -1.0], 40)
        statements = label[:, None] * moral + rng.standard_normal((80, D_MODEL))
        sums = (label[:, None] * statements).reshape(20, 4, D_MODEL).sum(axis=1)

        def fit(weights: np.ndarray, sums: np.ndarray = sums) -> np.ndarray:
            return 2 * weights @ sums / (4 * weights.sum(axis=-1, keepdims=True))

        direction = fit(np.ones(20))
        refits = fit(rng.multinomial(20, np.full(20, 1 / 20), REFITS).astype(float))
        residuals = rng.standard_normal((60, 1, 1, 1, D_MODEL)) + 0.3 * rng.standard_normal(
            (60, 3, 3, 3, D_MODEL)
        )
        for axis in (1, 2, 3):
            residuals[(slice(None),) * axis + (slice(1, None),)] += 0.6 * format_
        levels = ("off", "placebo", "on")
        y = as_cube(residuals @ direction, np.arange(60) // 2, levels)
        means = residuals.mean(axis=0) @ refits.T
        drawn = xr.DataArray(
            np.moveaxis(means, -1, 0),
            dims=("probe_draw", *FACTORS),
            coords={name: list(levels) for name in FACTORS},
        )
        asked: dict[str, dict[str, Any]] = dict(
            zip(hits, ({}, {"refits": drawn}, {"compare": "content"}), strict=True)
        )
        for name, how in asked.items():
            p = factorial_effects(y, method="pointwise", **how).p.isel(effect=0).item()
            hits[name] += p < 0.05
    return {name: count / runs for name, count in hits.items()}


def main() -> None:
    """Print the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    names = ["I", "C", "F", "IC", "IF", "CF", "ICF"]
    print(f"{runs} samples of {ITEMS} questions, answers of 0 and 1 in the last round, 95 % intervals")
    for title, effects in (
        ("planted: intervals that hold the truth", True),
        ("null: intervals without 0", False),
    ):
        share = answered(runs, effects=effects)
        share = share if effects else 1 - share
        cells = " ".join(f"{name} {value:.3f}" for name, value in zip(names, share, strict=True))
        print(f"{title}: {cells}; mean {share.mean():.3f}", flush=True)
    print("trap: an effect of the instruction is claimed at .05 though only the format moves")
    for name, value in trapped(runs).items():
        print(f"  {name}: {value:.3f}")


if __name__ == "__main__":
    main()
