"""What is taken out of residuals before a direction is fitted: nuisances, and the other axes."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Float
from sklearn.covariance import ledoit_wolf_shrinkage

from morality_lens.probes.closed_form import class_means, class_sums
from morality_lens.probes.erasure import Eraser, fit_leace
from morality_lens.probes.kinds import Method
from morality_lens.probes.training_data import as_features

ByLayer = Float[np.ndarray, "*fit layer d_model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Removal:
    """Affine maps of the residuals, one after another at each layer.

    Attributes:
        erasers: by layer, in the order in which they are applied; none where nothing is taken out.
    """

    erasers: tuple[tuple[Eraser, ...], ...]

    def __call__(self, residuals: xr.DataArray) -> xr.DataArray:
        """The residuals of statements without what is taken out."""
        kept = residuals.transpose("layer", ...).astype(np.float64)
        for number, erasers in enumerate(self.erasers):
            for eraser in erasers:
                kept.values[number] = eraser(kept.values[number])
        return kept.transpose(*residuals.dims)

    def moved(self, differences: ByLayer) -> ByLayer:
        """Differences of residuals as they are afterwards."""
        out = np.array(differences, np.float64)
        for number, erasers in enumerate(self.erasers):
            for eraser in erasers:
                out[..., number, :] = eraser.moved(out[..., number, :])
        return out

    def read(self, directions: ByLayer) -> ByLayer:
        """Directions that read from a residual what these read from it afterwards, but for a constant."""
        out = np.array(directions, np.float64)
        for number, erasers in enumerate(self.erasers):
            for eraser in reversed(erasers):
                out[..., number, :] = eraser.read(out[..., number, :])
        return out

    def constant(self, directions: Float[np.ndarray, "layer d_model"]) -> Float[np.ndarray, " layer"]:
        """What directions read from the residual 0 afterwards."""
        found = np.zeros(len(directions))
        for number, erasers in enumerate(self.erasers):
            point = np.zeros(directions.shape[1])
            for eraser in erasers:
                point = eraser(point)
            found[number] = point @ directions[number]
        return found

    def then(self, other: "Removal") -> "Removal":
        """This one, and the other after it."""
        both = zip(self.erasers, other.erasers, strict=True)
        return Removal(erasers=tuple((*mine, *its) for mine, its in both))


def nothing_removed(layers: int) -> Removal:
    """The removal that leaves residuals as they are."""
    return Removal(erasers=((),) * layers)


def removal_of(nuisances: Mapping[str, xr.DataArray], method: Method) -> Removal:
    """What takes the labels of nuisances out of residuals, fitted on their own statements.

    ``project`` takes out the component along the difference of the class means (of several nuisances, along
    all of them). ``leace`` takes it out where linear classifiers look for it, with the covariance shrunk as
    Ledoit and Wolf say (see :func:`morality_lens.probes.erasure.fit_leace`); several are taken out one after
    another, in the order of their names. After either the class means of the nuisance's own statements are
    equal, so that on these statements no affine predictor of its label beats a constant
    (Belrose et al. 2023, arXiv 2306.03819); that says nothing about other statements.

    Args:
        nuisances: residuals of labelled statements, by name.
        method: one of the two.
    """
    layers = next(iter(nuisances.values())).sizes["layer"]
    if method == "project":
        return projecting(layers, [mean_differences(nuisances[name]) for name in sorted(nuisances)])
    made = nothing_removed(layers)
    for name in sorted(nuisances):
        points, labels = made(nuisances[name]), nuisances[name]["label"].values
        differ = mean_differences(points)
        found = []
        for x, difference in zip(as_features(points)[0], differ, strict=True):
            share = float(ledoit_wolf_shrinkage(x)) if difference.any() else 0.0
            found.append((fit_leace(x, labels, shrinkage=share),) if difference.any() else ())
        made = made.then(Removal(erasers=tuple(found)))
    return made


def projecting(layers: int, directions: Sequence[Float[np.ndarray, "layer d_model"]]) -> Removal:
    """What takes out all that lies along some directions.

    Args:
        layers: how many there are.
        directions: zero where there is nothing to take out.
    """
    found = []
    for number in range(layers):
        units: list[np.ndarray] = []
        for direction in directions:
            length = np.linalg.norm(direction[number])
            rest = direction[number] - sum((u * (u @ direction[number]) for u in units), np.zeros(1))
            left = np.linalg.norm(rest)
            if left > 1e-9 * max(length, 1e-300):
                units.append(rest / left)
        found.append(tuple(Eraser(mean=np.zeros_like(u), along=u, across=u) for u in units))
    return Removal(erasers=tuple(found))


def mean_differences(residuals: xr.DataArray) -> Float[np.ndarray, "layer d_model"]:
    """The differences of the class means; 0 where they do not differ but for rounding."""
    x, labels = as_features(residuals)[0], residuals["label"].values.astype(np.int64)
    means = class_means(*class_sums(x, labels, np.zeros(len(labels), np.int64)), np.ones((1, 1)))[0]
    between = means[1] - means[0]
    differ = np.linalg.norm(between, axis=-1) > 1e-9 * np.maximum(1.0, np.abs(x).max((1, 2)))
    return np.where(differ[:, None], between, 0.0)


def drawn_again(residuals: xr.DataArray, rng: np.random.Generator) -> xr.DataArray:
    """Statements of clusters drawn with replacement, drawn until both labels are there."""
    _, member = np.unique(residuals["cluster"].values.astype(str), return_inverse=True)
    count, labels = int(member.max()) + 1, residuals["label"].values
    rows = np.zeros(0, np.int64)
    while len(np.unique(labels[rows])) < 2:
        drawn = rng.integers(count, size=count)
        rows = np.concatenate([np.flatnonzero(member == one) for one in drawn])
    return residuals.isel(statement=rows)


def seed_of(name: str, seed: int) -> int:
    """A seed for each name, so that draws do not depend on the order in which sets are named."""
    return seed + zlib.crc32(name.encode())
