"""Signal detection: does a model distinguish its good outputs from its bad ones, as well as a probe does?"""

from collections.abc import Callable

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.special import ndtri, stdtrit

from morality_lens.interactions.cube import cluster_codes
from morality_lens.interactions.numbers import number, with_bounds
from morality_lens.interactions.ratios import mean_over_items

MEASURES = ("accuracy", "choice_accuracy", "position_bias", "d_prime", "criterion")
NO_INTERVAL = (
    "No interval of a d' or criterion whose rates are 0 or 1 or the same in every cluster: they have no "
    "variance to judge by; the accuracies say how far they are known."
)
"""Why a d' or criterion has no interval."""


def signal_detection(
    says_first: xr.DataArray,
    reading: xr.DataArray | None = None,
    *,
    said: xr.DataArray | None = None,
    alpha: float = 0.05,
) -> xr.Dataset:
    """Two-alternative forced choice with the order counterbalanced, as signal detection.

    With the hit rate H (the first is called better and is) and the false-alarm rate F (the first is called
    better and is not): accuracy (H + 1 - F) / 2, position bias (H + F) / 2 - 1/2, sensitivity
    d' = (z(H) - z(F)) / sqrt 2, criterion -(z(H) + z(F)) / 2 (below 0 the first place is favoured; Macmillan
    and Creelman 2005, chapter 7). Rates are kept half an answer away from 0 and 1. A probe chooses the output
    with the higher projection, correctly with proportion PC; its d' is sqrt 2 z(PC).

    These rates are probabilities. A model that puts .6 on the right output every time has an accuracy of .6,
    and under greedy decoding it is right every time: that is the choice accuracy.

    Args:
        says_first: ``item`` x ``better``: the probability of calling the first output the better one, where
            it is (``first``) and where the second one is (``second``). ``cluster`` along ``item`` gives the
            items that are dependent.
        reading: ``item``: a probe's projection of the better output less that of the other one.
        said: as ``says_first``: the greedy reply, 1, 2, or 0 where it is neither. Where it is neither, or not
            given, the greedy choice is the more probable output, and half right at equal probabilities.
        alpha: level of the intervals. Those of accuracies are of mean shares over clusters, that of the
            position bias of a mean difference, the others jackknife over clusters, with t of one less than
            their number.

    Returns:
        Over ``measure`` (:data:`MEASURES`, with a reading also ``probe_accuracy``, ``probe_d_prime`` and
        ``gap``, by how much the probe's d' exceeds the model's): ``estimate``, ``se``, ``ci_low``,
        ``ci_high``; ``n_items`` and ``n_clusters`` in the attributes. A d' or criterion has no ``se`` and no
        interval (NaN, and the reason in the attribute ``note``) where a rate is kept off 0 or 1, or is the
        same in every cluster.

    Raises:
        ValueError: fewer than five clusters, other dims, or missing values.

    Examples:
        >>> says_first = xr.DataArray([[0.9, 0.2], [0.4, 0.3]] * 8, dims=("item", "better"))
        >>> found = ml.experiments.signal_detection(says_first.assign_coords(better=["first", "second"]))
        >>> round(float(found["estimate"].sel(measure="accuracy")), 2)
        0.7
    """
    if set(says_first.dims) != {"item", "better"} or says_first["better"].values.tolist() != [
        "first",
        "second",
    ]:
        raise ValueError("signal_detection needs item x better, with better at first and second.")
    answers = says_first.transpose("item", "better").values.astype(float)
    read = None if reading is None else reading.values.astype(float)
    if not np.isfinite(answers).all() or (read is not None and not np.isfinite(read).all()):
        raise ValueError(
            "signal_detection needs every item in both orders; remove items with missing answers."
        )
    codes = cluster_codes(says_first)
    n_clusters = int(codes.max()) + 1
    if n_clusters < 5:
        raise ValueError(
            f"signal_detection needs five or more clusters for an interval; these {len(answers)} items have "
            f"{n_clusters}."
        )

    def measures(kept: Int[np.ndarray, " item"]) -> Float[np.ndarray, " measure"]:
        return _measures(answers[kept], None if read is None else read[kept])

    names = ["d_prime", "criterion", *(["probe_d_prime", "gap"] if read is not None else [])]
    every = np.arange(len(answers))
    estimate = measures(every)
    known = _testable(answers, read, codes)
    se = np.where(known, _jackknife(measures, every, codes, estimate), np.nan)
    half = float(stdtrit(n_clusters - 1, 1 - alpha / 2)) * se
    rates = xr.Dataset(
        {
            "estimate": ("measure", estimate),
            "se": ("measure", se),
            "ci_low": ("measure", estimate - half),
            "ci_high": ("measure", estimate + half),
        },
        coords={"measure": names},
    )
    right = {
        "accuracy": _right(answers),
        "choice_accuracy": _right(_choices(answers, said)),
        **({} if read is None else {"probe_accuracy": (read > 0) + 0.5 * (read == 0)}),
    }
    table = xr.DataArray(
        np.stack(list(right.values())),
        dims=("measure", "item"),
        coords={"measure": list(right), "cluster": ("item", codes)},
    )
    shares = mean_over_items(table, alpha=alpha, share=True)[list(rates)]
    bias = _position_bias(answers, table["cluster"], alpha)[list(rates)]
    order = [*MEASURES, *(("probe_accuracy", "probe_d_prime", "gap") if read is not None else ())]
    return (
        xr.concat([shares, bias, rates], "measure")
        .sel(measure=order)
        .assign_attrs(
            n_items=len(answers), n_clusters=n_clusters, alpha=alpha, note="" if known.all() else NO_INTERVAL
        )
    )


def _position_bias(
    answers: Float[np.ndarray, "item two"], clusters: xr.DataArray, alpha: float
) -> xr.Dataset:
    """By how much more than half the first place is chosen, inside [-1/2, 1/2]."""
    chosen = xr.DataArray(answers.mean(axis=1) - 0.5, dims="item", coords={"cluster": clusters})
    found = mean_over_items(chosen, alpha=alpha, span=0.5)
    ends = {name: found[name].clip(-0.5, 0.5) for name in ("ci_low", "ci_high")}
    return found.assign(ends).expand_dims(measure=["position_bias"])


def _testable(
    answers: Float[np.ndarray, "item two"],
    read: Float[np.ndarray, " item"] | None,
    codes: Int[np.ndarray, " item"],
) -> Bool[np.ndarray, " measure"]:
    """Which of d', criterion, and the probe's d' and gap have a variance: every rate varies, off 0 and 1."""
    own = all(_varies(column, codes) for column in answers.T)
    if read is None:
        return np.array([own, own])
    probe = _varies((read > 0) + 0.5 * (read == 0), codes)
    return np.array([own, own, probe, own and probe])


def _varies(values: Float[np.ndarray, " item"], codes: Int[np.ndarray, " item"]) -> bool:
    """Whether a rate lies off 0 and 1 and differs between clusters."""
    rate, n = float(values.mean()), len(values)
    means = np.bincount(codes, values) / np.bincount(codes)
    return rate == _off_the_ends(rate, n) and float(np.ptp(means)) > 1e-9


def _right(firsts: Float[np.ndarray, "item two"]) -> Float[np.ndarray, " item"]:
    """By item, how far both answers call the better output the better one."""
    return (firsts[:, 0] + 1 - firsts[:, 1]) / 2


def _choices(
    answers: Float[np.ndarray, "item two"], said: xr.DataArray | None
) -> Float[np.ndarray, "item two"]:
    """1 where the greedy choice is the first output, 0 where it is the second, 1/2 at a tie."""
    likely = (answers > 0.5) + 0.5 * (answers == 0.5)
    if said is None:
        return likely
    replies = said.transpose("item", "better").values
    return np.where(replies == 0, likely, (replies == 1).astype(float))


def _measures(
    answers: Float[np.ndarray, "item two"], read: Float[np.ndarray, " item"] | None
) -> Float[np.ndarray, " measure"]:
    n = len(answers)
    hit, alarm = answers.mean(axis=0)
    z_hit, z_alarm = (float(ndtri(_off_the_ends(rate, n))) for rate in (hit, alarm))
    d_prime = (z_hit - z_alarm) / np.sqrt(2)
    found = [d_prime, -(z_hit + z_alarm) / 2]
    if read is not None:
        right = float(((read > 0) + 0.5 * (read == 0)).mean())
        probe = np.sqrt(2) * float(ndtri(_off_the_ends(right, n)))
        found += [probe, probe - d_prime]
    return np.array(found)


def _off_the_ends(rate: float, n: int) -> float:
    return float(np.clip(rate, 0.5 / n, 1 - 0.5 / n))


def _jackknife(
    measures: Callable[[Int[np.ndarray, " item"]], Float[np.ndarray, " measure"]],
    every: Int[np.ndarray, " item"],
    codes: Int[np.ndarray, " item"],
    estimate: Float[np.ndarray, " measure"],
) -> Float[np.ndarray, " measure"]:
    """Standard errors from leaving out one cluster after the other, around the estimate of all."""
    groups = int(codes.max()) + 1
    left = np.stack([measures(every[codes != g]) for g in range(groups)])
    return np.sqrt((groups - 1) / groups * ((left - estimate) ** 2).sum(axis=0))


def describe_detection(found: xr.Dataset) -> str:
    """The measures in sentences.

    Examples:
        >>> says_first = xr.DataArray([[0.9, 0.2], [0.4, 0.3]] * 8, dims=("item", "better"))
        >>> found = ml.experiments.signal_detection(says_first.assign_coords(better=["first", "second"]))
        >>> print(ml.experiments.describe_detection(found))
        Accuracy 0.70 ... by probability, 0.75 ... by greedy choice, ...
    """
    values = {str(m): found.sel(measure=m) for m in found["measure"].values}

    def span(name: str) -> str:
        estimate, low, high = (float(values[name][key]) for key in ("estimate", "ci_low", "ci_high"))
        known = np.isfinite([low, high]).all()
        return with_bounds(estimate, low, high) if known else f"{number(estimate)} (no interval)"

    text = (
        f"Accuracy {span('accuracy')} by probability, {span('choice_accuracy')} by greedy choice, "
        f"d' {span('d_prime')}, criterion {span('criterion')}; the first place "
        f"is favoured by {span('position_bias')} ({found.attrs['n_items']} pairs in "
        f"{found.attrs['n_clusters']} clusters)."
    )
    if "gap" in values:
        text += (
            f" The probe distinguishes the same outputs with d' {span('probe_d_prime')}, {span('gap')} more "
            "than the model's answers."
        )
    note = str(found.attrs.get("note", ""))
    return f"{text} {note}" if note else text
