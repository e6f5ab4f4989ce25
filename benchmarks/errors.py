"""Error rates of factorial effects: shapes of contrasts, sizes and numbers of clusters, quiet neighbours.

    python benchmarks/errors.py --runs 400

Every data set holds one effect at 32 autocorrelated layers. It is analysed with a known effect, for how often
intervals and bands miss it, and with an effect of zero, for how often the family of 32 layers is rejected.
``among six`` adds the six other effects of three factors, which are normal. Rare shares are outcomes of 0 and
1 that change in .05 of the items; their family is rejected where the band misses that share.
"""

import argparse
import math

import numpy as np
import xarray as xr
from scipy.special import ndtr, ndtri

from morality_lens.interactions.contrasts import factorial_matrix
from morality_lens.interactions.effects import factorial_effects

FACTORS = ("instruction", "cot", "feedback")
EFFECTS = ((0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))
LAYERS = 32
CORRELATION = 0.9
EFFECT = 0.3
RARE = 0.05
TOGETHER = 20
"""Data sets with the same sizes of clusters, which are analysed at once."""
SHAPES = ("normal", "exponential", "log-normal", "rare shares")


def autocorrelated(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Standard normal rows that are correlated along the layers."""
    row = rng.standard_normal((*shape, LAYERS))
    for layer in range(1, LAYERS):
        row[..., layer] *= math.sqrt(1 - CORRELATION**2)
        row[..., layer] += CORRELATION * row[..., layer - 1]
    return row


def shaped(row: np.ndarray, shape: str) -> np.ndarray:
    """Numbers of mean 0 and variance 1 with the same order."""
    if shape == "exponential":
        return -np.log(np.maximum(1 - ndtr(row), 1e-300)) - 1
    if shape == "log-normal":
        return (np.exp(row) - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1))
    return row


def draw(rng: np.random.Generator, sizes: np.ndarray, shape: str, *, neighbours: bool) -> xr.DataArray:
    """Data sets of items in clusters, which share half of the variance of instruction's effect."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    n_items = len(codes)
    own, shared = autocorrelated(rng, n_items, TOGETHER), autocorrelated(rng, len(sizes), TOGETHER)[codes]
    if shape == "rare shares":
        contrast = ((own + shared) / math.sqrt(2) > ndtri(1 - RARE)).astype(float)
    else:
        contrast = shaped(own, shape) + shaped(shared, shape)
    factors = FACTORS if neighbours else FACTORS[:1]
    y = np.zeros((n_items, 2 ** len(factors), TOGETHER, LAYERS))
    if neighbours:
        matrix = factorial_matrix(3, EFFECTS)
        unit = matrix / (matrix**2).sum(axis=1, keepdims=True)
        for number in range(1, len(EFFECTS)):
            y += unit[number][:, None, None] * autocorrelated(rng, n_items, TOGETHER)[:, None]
        y += np.where(unit[0] > 0, 1.0, 0.0)[:, None, None] * contrast[:, None]
    else:
        y[:, 1] = contrast
    coords = {
        "item": np.arange(n_items),
        **{name: ["off", "on"] for name in factors},
        "run": np.arange(TOGETHER),
        "layer": np.arange(LAYERS),
    }
    return xr.DataArray(
        y.reshape(n_items, *[2] * len(factors), TOGETHER, LAYERS),
        dims=("item", *factors, "run", "layer"),
        coords={**coords, "cluster": ("item", codes)},
        attrs={"oriented": True},
    )


def sizes_of(rng: np.random.Generator, n_clusters: int, *, equal: bool) -> np.ndarray:
    """Five items each, or geometric numbers of which none is above half of all."""
    sizes = np.full(n_clusters, 5)
    while not equal:
        sizes = 1 + rng.geometric(0.2, n_clusters)
        if sizes.max() <= sizes.sum() / 2:
            break
    return sizes


def errors(
    rng: np.random.Generator, n_clusters: int, runs: int, shape: str, *, equal: bool, neighbours: bool
) -> list[float]:
    """Shares of wrong pointwise intervals, rejected families and bands that miss the truth somewhere."""
    rates, truth = [], RARE if shape == "rare shares" else EFFECT
    for batch in range(math.ceil(runs / TOGETHER)):
        y = draw(rng, sizes_of(rng, n_clusters, equal=equal), shape, neighbours=neighbours)
        if shape != "rare shares":
            y[:, 1] += EFFECT
        found = estimated(y, batch)
        outside = float(((found.ci_low > truth) | (found.ci_high < truth)).mean())
        missed = float(((found.band_low > truth) | (found.band_high < truth)).any("layer").mean())
        rejected = missed
        if shape != "rare shares":
            y[:, 1] -= EFFECT
            rejected = float((estimated(y, batch).p_adj <= 0.05).any("layer").mean())
        rates.append([outside, rejected, missed])
    return np.mean(rates, axis=0).tolist()


def estimated(y: xr.DataArray, seed: int) -> xr.Dataset:
    """The effect of instruction in every data set, each a family of its layers."""
    return factorial_effects(y, draws=1000, family=("layer",), seed=seed).sel(effect=FACTORS[0])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES))
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    print(
        f"{given.runs} runs a cell, nominal .05; 95 % of a true .05 lie within "
        f"{1.96 * math.sqrt(0.0475 / given.runs):.3f}"
    )
    print(
        "| contrasts | sizes | effect | rate | "
        + " | ".join(f"{n} clusters" for n in (8, 12, 20, 29, 50))
        + " |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for shape in given.shapes:
        for equal in (True, False):
            for neighbours in (False, True):
                found = [
                    errors(rng, n, given.runs, shape, equal=equal, neighbours=neighbours)
                    for n in (8, 12, 20, 29, 50)
                ]
                for row, rate in enumerate(("interval misses", "family rejected", "band misses")):
                    cells = " | ".join(f"{one[row]:.3f}" for one in found)
                    print(
                        f"| {shape} | {'equal' if equal else 'unequal'} "
                        f"| {'among six' if neighbours else 'alone'} | {rate} | {cells} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
