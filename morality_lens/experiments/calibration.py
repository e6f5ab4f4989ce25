"""Uncertainty and calibration of answers: entropy, Brier score, calibration error of the options."""

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.special import entr, ndtr, stdtrit

from morality_lens.design import said_of
from morality_lens.interactions.cube import cluster_codes, conditions_of
from morality_lens.interactions.numbers import interval_of
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.runs.option_notes import NOTE, option_note
from morality_lens.runs.run import Run

UNCERTAINTY = {
    "entropy": "entropy of the options",
    "entropy share": "entropy of the options, as a share of the highest",
    "confidence": "probability of the most probable option",
}
"""What is known of any options, and its name on axes."""
CALIBRATION = {
    "accuracy": "share whose most probable option is the right one",
    "overconfidence": "confidence less accuracy",
    "brier": "Brier score",
    "calibration error": "expected calibration error",
    "binned error": "expected calibration error, not corrected for its bias",
}
"""What needs a right option."""
CubeMeasure = Literal["entropy", "entropy share", "confidence", "accuracy", "overconfidence", "brier"]
CUBES = get_args(CubeMeasure)
"""Measures that each item has; calibration errors are of many items together."""
PER_BIN = 10
"""Least number of items in a bin of the calibration error."""
FEW = 5
"""Below so many clusters with a right, or a wrong, answer a jackknife cannot judge the calibration error."""


def uncertainty_cube(run: Run, measure: CubeMeasure = "entropy") -> xr.DataArray:
    """A number per item, condition and round from the exact probabilities of its options.

    Args:
        run: a run of items with options to choose from.
        measure: ``entropy`` of the options' probabilities in bits; ``entropy share``, the same over log2 of
            the number of options; ``confidence``, the highest probability; and where a right option is named
            ``accuracy`` (whether the most probable option is the right one), ``overconfidence`` (confidence
            less accuracy) and ``brier`` (the squared distance of the probabilities from 1 for the right
            option and 0 for the others, from 0 to 2; Brier 1950).

    Raises:
        ValueError: another measure, options without probabilities, or items without a right option.

    Examples:
        >>> entropy = ml.experiments.uncertainty_cube(run, "entropy")
        >>> bool((entropy <= np.log2(3)).all())
        True
    """
    if measure not in CUBES:
        raise ValueError(f"measure must be one of {', '.join(CUBES)}; got {measure!r}.")
    shares = _option_shares(run)
    if measure in CALIBRATION:
        return _finish(run, _against_right(run, shares, measure), measure)
    if measure == "confidence":
        return _finish(run, shares.max("option"), measure)
    entropy = xr.apply_ufunc(entr, shares).sum("option") / np.log(2)
    if measure == "entropy share":
        counts = [len(run.asked[name].replies) for name in shares["item"].values.tolist()]
        entropy = entropy / np.log2(xr.DataArray(counts, dims="item"))
    return _finish(run, entropy.where(shares.notnull().any("option")), measure)


def _option_shares(run: Run) -> xr.DataArray:
    """The options' probabilities; NaN past an item's last option."""
    if not any(item.replies for item in run.asked.values()):
        raise ValueError(
            "uncertainty of answers needs items with options to choose from; these are open prompts."
        )
    shares = run.option_probabilities.load()
    if not np.isfinite(shares.values).any():
        raise ValueError(
            "the model's tokenizer has no token of its own for each reply, so the options' probabilities do "
            "not exist; score the options by their full text (ml.rounds.score_options)."
        )
    return shares


def _against_right(run: Run, shares: xr.DataArray, measure: str) -> xr.DataArray:
    """Accuracy, overconfidence or Brier score of the options' probabilities."""
    without = [name for name, item in run.asked.items() if item.good is None]
    if without:
        raise ValueError(
            f"{CALIBRATION[measure]} needs a right option in every item; {len(without)} of {len(run.asked)} "
            f"name none (first: {without[0]!r}). Their entropy and confidence need none."
        )
    good = xr.DataArray([run.asked[name].good for name in shares["item"].values.tolist()], dims="item")
    there = shares.notnull().any("option")
    if measure == "brier":
        right = xr.DataArray(np.arange(shares.sizes["option"]), dims="option") == good
        return ((shares - right) ** 2).sum("option").where(there)
    accuracy = (shares.fillna(-1.0).argmax("option") == good).astype(float).where(there)
    return accuracy if measure == "accuracy" else shares.max("option") - accuracy


def _finish(run: Run, values: xr.DataArray, measure: str) -> xr.DataArray:
    """The cube with clusters, units and the note on the options' letters."""
    note, title = option_note(run), {**UNCERTAINTY, **CALIBRATION}[measure]
    units = "bits" if measure == "entropy" else "squared error" if measure == "brier" else "share"
    cube = values.transpose("item", *run.design.names, "round").rename(title).drop_attrs()
    clusters = run.items.loc[cube["item"].values.tolist(), "cluster"].tolist()
    return cube.assign_coords(cluster=("item", clusters)).assign_attrs(
        units=units, **({NOTE: note} if note else {})
    )


def answer_calibration(
    run: Run, measures: Sequence[str] | None = None, *, bins: int = 10, alpha: float = 0.05
) -> xr.Dataset:
    """Uncertainty and calibration of the answers in every condition and round.

    Beside the means of :func:`uncertainty_cube` over items: ``calibration error``, the expected calibration
    error of the most probable option (Guo et al. 2017, arXiv 1706.04599), the mean over bins of the distance
    between mean confidence and accuracy, weighted by the items in a bin. Bins have equal counts, at least ten
    items each, and items of equal confidence share one; Liu et al. (IJCNLP 2025) ask by it whether rounds of
    self-correction calibrate a model.

    The plain binned error (``binned error``) is biased upward: chance alone makes a distance in each bin. The
    bias expected of normal distances with each bin's variance over clusters is subtracted (as Kumar et al.
    2019, arXiv 1909.10155, do for independent items), which leaves about 60 % of it where calibration is
    perfect and little of it elsewhere. The Brier score needs no bins.

    Args:
        run: a run of items with options to choose from.
        measures: names among those; None takes all that the items allow: without a right option only
            entropy, its share and confidence.
        bins: of equal counts; fewer where they would hold fewer than ten items.
        alpha: level of the intervals by clusters, pointwise: of means as in ``mean_over_items``, of
            the calibration error a jackknife over clusters with the bins held, t of one less than their
            number. It reaches up to the largest distance of the mean confidence to an accuracy in the
            interval of their mean (no error is smaller than the distance of the means); it reaches down to
            the smallest one where there is one bin, or where right or wrong answers stand in fewer than five
            clusters, of which a jackknife knows too little; and to 0 where every bin's confidence lies in
            the interval of its accuracy (Bonferroni over bins). In simulations (accuracies of .5 to .99, 8 to
            50 clusters of five, ``benchmarks/calibration.py``) it covers in .93 or more, mostly .97 to 1.
            Intervals of the plain error cover 0 in .2 to .6: it has none.

    Returns:
        ``estimate``, ``ci_low``, ``ci_high`` over ``measure``, the factors and ``round``; ``n_items``,
        ``n_clusters``, ``bins`` and the note on the options' letters in the attributes.

    Raises:
        ValueError: an unknown measure, options without probabilities, items without a right option,
            missing answers, or fewer than two clusters.

    Examples:
        >>> found = ml.experiments.answer_calibration(run, ["entropy", "brier"])
        >>> found["measure"].values.tolist()
        ['entropy', 'brier']
    """
    known = [*UNCERTAINTY, *(CALIBRATION if run.names_good else [])]
    chosen = known if measures is None else list(measures)
    unknown = [name for name in chosen if name not in {**UNCERTAINTY, **CALIBRATION}]
    if unknown or not chosen:
        raise ValueError(f"measures are {', '.join({**UNCERTAINTY, **CALIBRATION})}; got {chosen}.")
    if bins < 1:
        raise ValueError(f"answer_calibration needs at least one bin; got {bins}.")
    of_items = {str(name): name for name in CUBES}
    cubes = {name: uncertainty_cube(run, of_items[name]) for name in chosen if name in of_items}
    tops = {"entropy": np.log2(max(len(item.replies) for item in run.asked.values())), "brier": 2.0}
    parts = [
        _mean(cube, None if name == "overconfidence" else tops.get(name, 1.0), alpha).expand_dims(
            measure=[name]
        )
        for name, cube in cubes.items()
    ]
    binned = [name for name in chosen if name not in CUBES]
    used = max(1, min(bins, len(run.items) // PER_BIN))
    if binned:
        errors = _calibration_errors(
            uncertainty_cube(run, "confidence"), uncertainty_cube(run, "accuracy"), used, alpha
        )
        parts.append(errors.sel(measure=binned))
    found = xr.concat(parts, "measure", coords="minimal", compat="override", combine_attrs="drop")
    clusters = len(set(run.items["cluster"]))
    return found.sel(measure=chosen).assign_attrs(
        n_items=len(run.items), n_clusters=clusters, bins=used, alpha=alpha, **{NOTE: option_note(run)}
    )


def _mean(cube: xr.DataArray, top: float | None, alpha: float) -> xr.Dataset:
    """Mean over items; of what lies between 0 and a top, with an interval inside them."""
    names = ["estimate", "ci_low", "ci_high"]
    if top is None:
        return mean_over_items(cube, alpha=alpha, span=1.0)[names]
    return mean_over_items(cube / top, alpha=alpha, share=True)[names] * top


def _calibration_errors(
    confidence: xr.DataArray, accuracy: xr.DataArray, bins: int, alpha: float
) -> xr.Dataset:
    """Both calibration errors over conditions and rounds."""
    rest = [str(dim) for dim in confidence.dims if dim != "item"]
    shape = [confidence.sizes[dim] for dim in rest]
    tables = [cube.values.reshape(cube.sizes["item"], -1) for cube in (confidence, accuracy)]
    if not np.isfinite(tables).all():
        raise ValueError("a calibration error needs every item's answer in every condition and round.")
    codes = cluster_codes(confidence)
    cells = [
        _with_interval(c, right, codes, bins, alpha) for c, right in zip(*(t.T for t in tables), strict=True)
    ]
    names = ("estimate", "ci_low", "ci_high")
    values = np.stack(cells, axis=-1).reshape(3, 2, *shape)
    coords = {name: confidence.coords[name] for name in rest}
    return xr.Dataset(
        {name: (("measure", *rest), values[i]) for i, name in enumerate(names)},
        coords={"measure": ["calibration error", "binned error"], **coords},
    )


def _with_interval(
    confidence: Float[np.ndarray, " item"],
    right: Float[np.ndarray, " item"],
    codes: Int[np.ndarray, " item"],
    bins: int,
    alpha: float,
) -> Float[np.ndarray, "three two"]:
    """Corrected and plain calibration error: estimates, lower and upper ends by a jackknife over clusters."""
    edges = np.quantile(confidence, np.arange(1, bins) / bins)
    places, groups = np.searchsorted(edges, confidence, side="left"), int(codes.max()) + 1
    gaps, counts = np.zeros((bins, groups)), np.zeros((bins, groups))
    np.add.at(gaps, (places, codes), confidence - right)
    np.add.at(counts, (places, codes), 1.0)
    estimate = _errors(gaps, counts)
    every = np.arange(groups)
    left = np.stack([_errors(gaps[:, every != g], counts[:, every != g]) for g in every])
    se = np.sqrt((groups - 1) / groups * ((left - estimate) ** 2).sum(axis=0))
    half = float(stdtrit(groups - 1, 1 - alpha / 2)) * se
    half[1] = np.nan  # the bias of the plain error makes its interval miss
    low, high = np.maximum(estimate - half, 0.0), np.minimum(estimate + half, 1.0)
    used = np.unique(places)
    gaps_of_bins = [_gap(confidence, right, codes, places == one, alpha / len(used)) for one in used]
    if all(least <= 0 <= most for least, most in gaps_of_bins):
        low[0] = 0.0
    least, most = _gap(confidence, right, codes, np.ones(len(codes), bool), alpha)
    high[0] = max(high[0], abs(least), abs(most))
    if len(used) == 1 or _rare(right, codes) < FEW:
        low[0] = min(low[0], 0.0 if least <= 0 <= most else min(abs(least), abs(most)))
    return np.stack([estimate, low, high])


def _gap(
    confidence: Float[np.ndarray, " item"],
    right: Float[np.ndarray, " item"],
    codes: Int[np.ndarray, " item"],
    kept: Bool[np.ndarray, " item"],
    alpha: float,
) -> tuple[float, float]:
    """Mean confidence of some items less the ends of the interval of their accuracy."""
    mean, clusters = float(confidence[kept].mean()), codes[kept]
    if np.ptp(clusters) == 0:
        return mean - 1, mean
    table = xr.DataArray(right[kept], dims="item", coords={"cluster": ("item", clusters)})
    found = mean_over_items(table, alpha=alpha, share=True)
    return mean - float(found["ci_high"]), mean - float(found["ci_low"])


def _rare(right: Float[np.ndarray, " item"], codes: Int[np.ndarray, " item"]) -> int:
    """In how many clusters the rarer of right and wrong answers stands."""
    return min(len(np.unique(codes[right == one])) for one in (0.0, 1.0))


def _errors(
    gaps: Float[np.ndarray, "bin cluster"], counts: Float[np.ndarray, "bin cluster"]
) -> Float[np.ndarray, " two"]:
    """The corrected and the plain error, from sums of confidence less accuracy, and counts."""
    n = counts.sum(axis=1)
    kept = n > 0
    gaps, counts, n = gaps[kept], counts[kept], n[kept]
    gap = gaps.sum(axis=1) / n
    groups = (counts > 0).sum(axis=1)
    spread = ((gaps - counts * gap[:, None]) ** 2).sum(axis=1) / n**2
    se = np.sqrt(spread * groups / np.maximum(groups - 1, 1))
    distance = np.abs(gap)
    ratio = np.divide(distance, se, out=np.full_like(se, np.inf), where=se > 0)
    by_chance = se * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) - 2 * distance * ndtr(-ratio)
    weights = n / n.sum()
    plain = float(weights @ distance)
    return np.array([max(plain - float(weights @ by_chance), 0.0), plain])


def describe_calibration(found: xr.Dataset) -> str:
    """Uncertainty and calibration in the first and the last round, a sentence for each condition.

    Examples:
        >>> found = ml.experiments.answer_calibration(run)
        >>> print(ml.experiments.describe_calibration(found))
        With no component, round 0 to 2: entropy ... bits, calibration error ...
    """
    rounds = found["round"].values.tolist()
    ends = list(dict.fromkeys((rounds[0], rounds[-1])))
    said = {
        "entropy": "entropy {} bits",
        "calibration error": "calibration error {}",
        "brier": "Brier score {}",
    }
    measures = [name for name in said if name in found["measure"].values]
    lines = []
    for condition in conditions_of(found):
        here = found.sel(condition.coords)
        parts = [
            said[name].format(" to ".join(interval_of(here.sel(measure=name, round=n)) for n in ends))
            for name in measures
        ]
        lines.append(f"With {said_of(condition)}, round {' to '.join(map(str, ends))}: {', '.join(parts)}.")
    if "calibration error" in measures:
        lines.append(
            f"Calibration errors over {found.attrs['bins']} bins of equal counts, most of their upward bias "
            "subtracted; intervals by clusters."
        )
    return "\n".join([*lines, *filter(None, [str(found.attrs.get(NOTE, ""))])])
