"""The training examples of a direction, checked: residuals, classes, values and clusters."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from einops import rearrange
from jaxtyping import Float

from morality_lens.items.kinds import Statement
from morality_lens.probes.closed_form import Features, Labels
from morality_lens.probes.kinds import KINDS, Kind


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingData:
    """Training examples, checked.

    Attributes:
        residuals: of the examples that the kind can use.
        classes: 1 and 0 at the two ends of the unit: the labels, or the upper and lower half of the values;
            None for pairs without labels.
        targets: what is fitted: the classes, the values, or NaN.
        labelled: whether the classes are labels.
        values: graded values, NaN where there are none.
        clusters: the names of what is held out together.
    """

    residuals: xr.DataArray
    classes: Labels | None
    targets: Float[np.ndarray, " case"]
    labelled: bool
    values: Float[np.ndarray, " case"]
    clusters: np.ndarray


def check_training_data(residuals: xr.DataArray, kind: Kind) -> TrainingData:
    """The examples that a direction of this kind is trained on.

    Raises:
        ValueError: as :func:`morality_lens.probes.fitting.fit_directions`.
    """
    fitted_on = KINDS[kind].fitted_on
    _check_coords(residuals, kind)
    if fitted_on == "values":
        residuals = residuals.isel(statement=np.isfinite(residuals["value"].values.astype(float)))
    if not np.isfinite(residuals.values).all():
        raise ValueError("the residuals hold NaN or infinite values; read the statements in float32.")
    clusters = residuals["cluster"].values.astype(str)
    values = np.full(len(clusters), np.nan)
    if "value" in residuals.coords and residuals.coords["value"].dims == ("statement",):
        values = residuals["value"].values.astype(np.float64)
    classes, labelled = None, False
    if "label" in residuals.coords:
        classes, labelled = _classes(residuals["label"].values, values, kind)
    targets = np.full(len(clusters), np.nan) if classes is None else classes.astype(np.float64)
    return TrainingData(
        residuals=residuals,
        classes=classes,
        targets=values if fitted_on == "values" else targets,
        labelled=labelled,
        values=values,
        clusters=clusters,
    )


def check_statements(statements: Sequence[Statement], kind: Kind) -> None:
    """Nothing, where a direction of this kind can be trained on the statements; needs no residuals.

    Raises:
        ValueError: none, labels or values that are all the same, or a class in fewer than two clusters; three
            where the kind has a trust card, which chooses a layer inside the training folds.
    """
    if KINDS[kind].fitted_on == "values":
        statements = [one for one in statements if one.value is not None]
    if not statements:
        raise ValueError(f"a direction of the kind {kind} needs labelled statements; got none.")
    values = np.array([np.nan if one.value is None else one.value for one in statements])
    classes, _ = _classes(np.array([one.label for one in statements]), values, kind)
    least = 3 if KINDS[kind].card else 2
    check_folds(classes, np.array([one.cluster for one in statements]), least, least=least)


def _check_coords(residuals: xr.DataArray, kind: Kind) -> None:
    """Refuse residuals without the dims and coordinates that the kind needs."""
    fitted_on = KINDS[kind].fitted_on
    pairs = fitted_on == "pairs"
    wanted = {"statement", "layer", "d_model", *(["side"] if pairs else [])}
    if set(residuals.dims) != wanted or residuals.sizes.get("side", 2) != 2:
        raise ValueError(
            f"{kind} needs dims statement, layer and d_model{' and a side of size 2' * pairs}; got "
            f"{dict(residuals.sizes)}."
        )
    needed = ["cluster", *(["value"] if fitted_on == "values" else [])]
    if not pairs or "label" in residuals.coords:  # pairs may come without labels
        needed = ["label", *needed]
    for name in needed:
        if name not in residuals.coords or residuals.coords[name].dims != ("statement",):
            raise ValueError(f"fit_directions needs a coordinate {name!r} along `statement`; it is missing.")


def _classes(labels: np.ndarray, values: Float[np.ndarray, " case"], kind: Kind) -> tuple[Labels, bool]:
    """The two classes at the ends of the unit, and whether they are the labels."""
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 1 (moral) or 0 (immoral); got {sorted(set(labels.tolist()))[:5]}.")
    classes, labelled = labels.astype(np.int64), len(set(labels.tolist())) == 2
    if KINDS[kind].fitted_on == "values":
        if not graded(values):
            raise ValueError(
                f"{kind} needs statements with different values; got {len(values)} with "
                f"{len(np.unique(values))} different. Give graded statements, or use another kind."
            )
        if not labelled:
            classes = (values > np.median(values)).astype(np.int64)
    if len(np.unique(classes)) < 2:
        raise ValueError(
            f"a probe needs statements of both labels; all {len(labels)} have label {labels[0]}."
        )
    return classes, labelled


def as_features(
    residuals: xr.DataArray,
) -> tuple[Float[np.ndarray, "layer case feature"], Features, Features]:
    """What is fitted, what the direction is applied to, and where the midpoint lies, in float64.

    For pairs these are both sides next to each other, half their difference, and their mean; else all three
    are the residuals.
    """
    if "side" not in residuals.dims:
        plain = residuals.transpose("layer", "statement", "d_model").values.astype(np.float64)
        return plain, plain, plain
    pair = residuals.transpose("layer", "statement", "side", "d_model").values.astype(np.float64)
    return rearrange(pair, "l n s d -> l n (s d)"), (pair[:, :, 0] - pair[:, :, 1]) / 2, pair.mean(2)


def check_folds(labels: Labels, clusters: np.ndarray, folds: int, *, least: int = 2) -> int:
    """How many folds of whole clusters can be held out with both classes left.

    Raises:
        ValueError: a class is in fewer than ``least`` clusters.
    """
    each = [len(set(clusters[labels == label])) for label in (0, 1)]
    if min(each) < least:
        raise ValueError(
            f"held-out quality needs {'two' if least == 2 else least} or more clusters in each class; got "
            f"{each[1]} moral and {each[0]} immoral. Give statements of more families, or a finer `cluster`."
        )
    return max(2, min(folds, *each))


def graded(values: Float[np.ndarray, " case"]) -> bool:
    """Whether there are different values to order by."""
    return len(np.unique(values[np.isfinite(values)])) > 1
