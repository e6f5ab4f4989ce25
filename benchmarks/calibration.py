"""How often intervals of the calibration error hold it: simulated at many accuracies and numbers of clusters.

    python benchmarks/calibration.py --runs 150

Answers of 0 or 1 stand in clusters of five and are correlated within them (normal copula, .2). Confidence is
one number for all items, or spread evenly by up to .1 to either side, and lies above the accuracy by the
planted error (below it where that is negative). In the last row confidences from .5 to 1 say nothing: the
accuracy is .75 at each, so that errors of both signs cancel in the mean. A column holds coverage and mean
width; ``!`` marks coverage below .93.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtri

from morality_lens.experiments.calibration import PER_BIN, _with_interval

CLUSTERS = (8, 12, 20, 50)
SIZE = 5
CORRELATED = 0.2
TRUTHS = (
    (0.5, 0.0), (0.5, 0.15), (0.7, 0.0), (0.7, 0.15), (0.7, -0.15), (0.9, 0.0), (0.9, 0.05), (0.9, 0.1),
    (0.9, -0.15), (0.95, 0.0), (0.95, 0.05), (0.98, 0.02), (0.99, 0.01), (0.99, -0.04), (0.99, -0.15),
)  # fmt: skip
"""Accuracies, and by how much confidence exceeds them."""


def cases() -> Iterator[tuple[str, float, float, float]]:
    """Name, accuracy, error and half the spread; an error of NaN where confidence says nothing."""
    for accuracy, error in TRUTHS:
        top = max(accuracy, accuracy + error)
        yield "one", accuracy, error, 0.0
        yield "spread", accuracy, error, min(0.1, 1 - top)
    yield "says nothing", 0.75, np.nan, 0.25


def drawn(
    rng: np.random.Generator, n_clusters: int, case: tuple[str, float, float, float]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence, accuracy and answers of the items."""
    _, mean, error, spread = case
    n = n_clusters * SIZE
    moved = rng.uniform(-spread, spread, n)
    silent = np.isnan(error)
    accuracy = np.full(n, mean) if silent else mean + moved
    confidence = mean + moved if silent else accuracy + error
    shared = np.repeat(rng.standard_normal(n_clusters), SIZE)
    latent = np.sqrt(CORRELATED) * shared + np.sqrt(1 - CORRELATED) * rng.standard_normal(n)
    return confidence, accuracy, (latent < ndtri(accuracy)).astype(float)


def truth(confidence: np.ndarray, accuracy: np.ndarray, bins: int) -> float:
    """The error in these bins of equal counts."""
    places = np.searchsorted(np.quantile(confidence, np.arange(1, bins) / bins), confidence, side="left")
    gaps = np.bincount(places, confidence - accuracy)
    return float(np.abs(gaps).sum() / len(places))


def main() -> None:
    """Print coverage and mean width by case and number of clusters."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(f"{'confidence':14}{'accuracy':>9}{'error':>7}" + "".join(f"{n:>14}" for n in CLUSTERS))
    for case in cases():
        cells = []
        for n_clusters in CLUSTERS:
            rng = np.random.default_rng([given.seed, n_clusters])
            codes = np.repeat(np.arange(n_clusters), SIZE)
            bins = max(1, min(10, len(codes) // PER_BIN))
            hits, width = 0, 0.0
            for _ in range(given.runs):
                confidence, accuracy, right = drawn(rng, n_clusters, case)
                low, high = _with_interval(confidence, right, codes, bins, 0.05)[1:, 0]
                hits += low - 1e-9 <= truth(confidence, accuracy, bins) <= high + 1e-9
                width += (high - low) / given.runs
            share = hits / given.runs
            cells.append(f"{share:.3f} ({width:.2f}){'!' if share < 0.93 else ' '}")
        error = "" if np.isnan(case[2]) else f"{case[2]:+.2f}"
        print(f"{case[0]:14}{case[1]:9.2f}{error:>7}" + "".join(f"{cell:>14}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
