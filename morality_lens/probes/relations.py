"""How several axes lie to each other: what each reads in the others' statements, and their cosines."""

from collections.abc import Callable, Mapping

import numpy as np
import xarray as xr
from jaxtyping import Float

from morality_lens.probes import quality
from morality_lens.probes.closed_form import Labels
from morality_lens.probes.comparing import direction_cosines
from morality_lens.probes.controls import directions, make_folds, shuffle_labels
from morality_lens.probes.fitting import fit_directions
from morality_lens.probes.kinds import Kind, Method
from morality_lens.probes.probe import Probe
from morality_lens.probes.removal import Removal, removal_of, seed_of
from morality_lens.probes.training_data import as_features

FOLDS, DRAWS, SHUFFLES = 5, 500, 200
"""Folds and bootstrap draws of the AUROC of a direction on other statements; shuffles of the null cosines."""
Removing = Callable[[str, Mapping[str, xr.DataArray]], Removal]
"""What is taken out before the axis of that name is fitted, from the given statements of all sets."""


def transfer_table(
    probes: Mapping[str, Probe],
    residuals: Mapping[str, xr.DataArray],
    removing: Removing,
    used: Mapping[str, tuple[str, ...]],
    kind: Kind,
    seed: int,
) -> xr.Dataset:
    """The AUROC of every direction on the statements of every set, with 95 % intervals over clusters.

    On its own statements a direction is measured held out, as its quality is. Where the statements of another
    set had a part in a direction (that set's direction was taken out of it), the direction is made again
    without each fifth of that set's clusters, and measured on that fifth.

    Args:
        probes: by name.
        residuals: statements of every set.
        removing: see :data:`Removing`.
        used: for each probe the sets that were taken out of it.
        kind: of the fits.
        seed: of folds and draws.
    """
    names = list(probes)
    layers = residuals[names[0]]["layer"].values
    values = np.full((3, len(names), len(names), len(layers)), np.nan)
    for i, train in enumerate(names):
        for j, test in enumerate(names):
            if i == j:
                own = probes[train].quality
                values[:, i, j] = [own[name].values for name in ("auroc", "auroc_low", "auroc_high")]
                continue
            labels = residuals[test]["label"].values.astype(np.int64)
            clusters = residuals[test]["cluster"].values.astype(str)
            if test in used[train]:
                scores = _without_each_fold(train, test, residuals, removing, kind, seed)
            else:
                scores = np.einsum(
                    "lnd,ld->ln", as_features(residuals[test])[0], probes[train].direction.values
                )
            values[:, i, j] = quality.auroc(scores, labels, clusters, draws=DRAWS, seed=seed_of(test, seed))
    named = zip(("auroc", "auroc_low", "auroc_high"), values, strict=True)
    return xr.Dataset(
        {name: (("train", "test", "layer"), array) for name, array in named},
        coords={"train": names, "test": names, "layer": layers},
    )


def _without_each_fold(
    train: str,
    test: str,
    residuals: Mapping[str, xr.DataArray],
    removing: Removing,
    kind: Kind,
    seed: int,
) -> Float[np.ndarray, "layer statement"]:
    """Scores of another set's statements by directions made without their fold."""
    tested, own = residuals[test], residuals[train]
    labels = tested["label"].values.astype(np.int64)
    fold = make_folds(labels, tested["cluster"].values.astype(str), FOLDS, seed)
    x, y = as_features(tested)[0], own["label"].values.astype(np.int64)
    scores = np.zeros(x.shape[:2])
    for number in np.unique(fold):
        without = {**residuals, test: tested.isel(statement=fold != number)}
        removal = removing(train, without)
        found = removal.read(directions(removal(own), y, kind))
        middle = np.stack([as_features(own)[0][:, y == label].mean(1) for label in (0, 1)]).mean(0)
        held = fold == number
        scores[:, held] = np.einsum("lnd,ld->ln", x[:, held] - middle[:, None], found)
    return scores


def cosine_table(
    probes: Mapping[str, Probe],
    residuals: Mapping[str, xr.DataArray],
    removals: Mapping[str, Removal],
    seed: int,
) -> xr.Dataset:
    """The cosines of directions, and how far from 0 they lie where labels mean nothing.

    ``null`` is the 95 % quantile of |cosine| between mean differences of labels that were shuffled within
    clusters: residuals vary in few of their dimensions, so directions of unrelated labels are further apart
    from orthogonal than random vectors are. It is NaN where a fit of another kind was made.

    Args:
        probes: by name.
        residuals: statements of every set.
        removals: what was taken out of each.
        seed: of the shuffles.
    """
    names = list(probes)
    found = direction_cosines(probes)
    null = np.full(found.shape, np.nan)
    if all(probe.kind == "mean_difference" for probe in probes.values()):
        weights = {name: _shuffled_weights(residuals[name], seed_of(name, seed)) for name in names}
        for number in range(found.sizes["layer"]):
            units = [
                _units(weights[name], residuals[name].isel(layer=number).values, removals[name], number)
                for name in names
            ]
            stacked = np.einsum("asd,bsd->abs", np.stack(units), np.stack(units))
            null[..., number] = np.quantile(np.abs(stacked), 0.95, axis=-1)
        null[range(len(names)), range(len(names))] = np.nan
    dims = ("first", "second", "layer")
    return xr.Dataset(
        {"cosine": (dims, found.values), "null": (dims, null)},
        coords={"first": names, "second": names, "layer": found["layer"].values},
    )


def _shuffled_weights(residuals: xr.DataArray, seed: int) -> Float[np.ndarray, "shuffle statement"]:
    """Weights of the statements in mean differences of shuffled labels."""
    rng, labels = np.random.default_rng(seed), residuals["label"].values.astype(np.int64)
    clusters = residuals["cluster"].values.astype(str)
    drawn = np.stack([shuffle_labels(labels, clusters, rng) for _ in range(SHUFFLES)])
    return drawn / drawn.sum(1, keepdims=True) - (1 - drawn) / (1 - drawn).sum(1, keepdims=True)


def _units(
    weights: np.ndarray, values: np.ndarray, removal: Removal, number: int
) -> Float[np.ndarray, "shuffle d_model"]:
    """Directions of unit length of shuffled labels at one layer."""
    there = Removal(erasers=(removal.erasers[number],))
    raw = there.read(there.moved((weights @ values.astype(np.float64))[:, None]))[:, 0]
    length = np.linalg.norm(raw, axis=1, keepdims=True)
    return raw / np.where(length > 0, length, np.inf)


def cost_table(
    before: Mapping[str, Probe],
    after: Mapping[str, Probe],
    nuisances: Mapping[str, xr.DataArray],
    method: Method | None,
    kind: Kind,
    seed: int,
) -> xr.Dataset:
    """What it costs to take something out of directions.

    For every axis its held-out AUROC ``before`` and ``after``, with intervals, and the ``kept`` cosine
    between the direction before and after. For every nuisance the AUROC of a new direction of it, fitted
    (held out) on statements from which an eraser that has not seen them took it, ``nuisance_after``; and on
    the same statements as they were, ``nuisance_before``.

    Args:
        before: the axes with nothing taken out.
        after: the axes.
        nuisances: residuals of their statements.
        method: how they are taken out; None where there are none.
        kind: of the fits.
        seed: of folds and halves.
    """
    names, layer = list(after), next(iter(after.values())).quality["layer"].values
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for prefix, probes in (("before", before), ("after", after)):
        for end in ("", "_low", "_high"):
            values = np.stack([probes[name].quality[f"auroc{end}"].values for name in names])
            found[f"{prefix}{end}"] = (("axis", "layer"), values)
    pairs = [direction_cosines({"old": before[name], "new": after[name]}) for name in names]
    kept = np.stack([pair.sel(first="old", second="new").values for pair in pairs])
    found["kept"] = (("axis", "layer"), kept)
    coords = {"axis": names, "layer": layer}
    if nuisances:
        both = np.stack([_left_over(one, method, kind, seed) for one in nuisances.values()])
        for number, name in enumerate(("nuisance_before", "nuisance_after")):
            found[name] = (("nuisance", "layer"), both[:, number])
        coords["nuisance"] = list(nuisances)
    return xr.Dataset(found, coords=coords)


def _left_over(
    nuisance: xr.DataArray, method: Method | None, kind: Kind, seed: int
) -> Float[np.ndarray, "when layer"]:
    """The AUROC of a nuisance's own direction before and after an eraser of other clusters."""
    names, member = np.unique(nuisance["cluster"].values.astype(str), return_inverse=True)
    first = np.random.default_rng(seed).permutation(len(names))[: len(names) // 2]
    inside = np.isin(member, first)
    halves = [nuisance.isel(statement=inside), nuisance.isel(statement=~inside)]
    rows = []
    for mine, other in (halves, halves[::-1]):
        erased = mine if method is None else removal_of({"nuisance": other}, method)(mine)
        rows.append(
            [fit_directions(x, kind=kind, draws=1, seed=seed).quality["auroc"].values for x in (mine, erased)]
        )
    return np.mean(rows, axis=0)


def check_labels(name: str, labels: Labels) -> None:
    """Nothing, where a set of statements has both labels.

    Raises:
        ValueError: it has one alone.
    """
    if set(np.unique(labels).tolist()) != {0, 1}:
        raise ValueError(
            f"the axis {name!r} needs statements of both labels, 1 and 0; got {len(labels)}, all with "
            f"{sorted(set(labels.tolist()))}."
        )
