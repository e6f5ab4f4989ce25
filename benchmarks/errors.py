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
SHAPES = ("normal", "exponential", "log-normal", "rare shares")


def autocorrelated(rng: np.random.Generator, n: int) -> np.ndarray:
    """Standard normal rows that are correlated along the layers."""
    row = rng.standard_normal((n, LAYERS))
    for layer in range(1, LAYERS):
        row[:, layer] = CORRELATION * row[:, layer - 1] + math.sqrt(1 - CORRELATION**2) * row[:, layer]
    return row


def shaped(row: np.ndarray, shape: str) -> np.ndarray:
    """Numbers of mean 0 and variance 1 with the same order."""
    if shape == "exponential":
        return -np.log(np.maximum(1 - ndtr(row), 1e-300)) - 1
    if shape == "log-normal":
        return (np.exp(row) - math.exp(0.5)) / math.sqrt(math.e * (math.e - 1))
    return row


def draw(rng: np.random.Generator, sizes: np.ndarray, shape: str, *, neighbours: bool) -> xr.DataArray:
    """Items in clusters that share half of their contrast's variance; the effect is that of instruction."""
    codes = np.repeat(np.arange(len(sizes)), sizes)
    if shape == "rare shares":
        place = (autocorrelated(rng, len(sizes))[codes] + autocorrelated(rng, len(codes))) / math.sqrt(2)
        contrast = (place > ndtri(1 - RARE)).astype(float)
    else:
        contrast = shaped(autocorrelated(rng, len(sizes)), shape)[codes]
        contrast = contrast + shaped(autocorrelated(rng, len(codes)), shape)
    factors = FACTORS if neighbours else FACTORS[:1]
    y = np.zeros((len(codes), 2 ** len(factors), LAYERS))
    if neighbours:
        matrix = factorial_matrix(3, EFFECTS)
        unit = matrix / (matrix**2).sum(axis=1, keepdims=True)
        for number in range(1, len(EFFECTS)):
            y += unit[number][:, None] * autocorrelated(rng, len(codes))[:, None]
        y += np.where(unit[0] > 0, 1.0, 0.0)[:, None] * contrast[:, None]
    else:
        y[:, 1] = contrast
    coords = {
        "item": np.arange(len(codes)),
        **{name: ["off", "on"] for name in factors},
        "layer": np.arange(LAYERS),
    }
    return xr.DataArray(
        y.reshape(len(codes), *[2] * len(factors), LAYERS),
        dims=("item", *factors, "layer"),
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
    pointwise = family = band = 0.0
    truth = RARE if shape == "rare shares" else EFFECT
    for run in range(runs):
        y = draw(rng, sizes_of(rng, n_clusters, equal=equal), shape, neighbours=neighbours)
        if shape != "rare shares":
            y[:, 1] += EFFECT
        found = factorial_effects(y, draws=1000, seed=run).sel(effect=FACTORS[0])
        pointwise += float(((found.ci_low > truth) | (found.ci_high < truth)).mean())
        missed = bool(((found.band_low > truth) | (found.band_high < truth)).any())
        band += missed
        if shape == "rare shares":
            family += missed
            continue
        y[:, 1] -= EFFECT
        null = factorial_effects(y, draws=1000, seed=run).sel(effect=FACTORS[0])
        family += bool((null.p_adj <= 0.05).any())
    return [pointwise / runs, family / runs, band / runs]


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
