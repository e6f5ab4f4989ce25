"""Answers as trajectories over the rounds: changes, returns, transitions compared, and when they settle."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from scipy.special import stdtrit

from morality_lens.experiments.dynamics import STILL
from morality_lens.interactions.cube import cluster_codes
from morality_lens.interactions.numbers import interval_of, is_p
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.interactions.resampling import MIN_CLUSTERS
from morality_lens.judges.outcomes import answer_cube
from morality_lens.runs.run import Run
from morality_lens.runs.transitions import By, answer_kinds

Change = Literal["changed", "returned"]
CHANGES = {
    "changed": "share of answers that differ from the round before",
    "returned": "share of answers that go back to one given before",
}
"""What of a trajectory is counted, and its name on axes."""
_UNREAD = -1.0


def reply_cube(run: Run) -> xr.DataArray:
    """The reply of every answer: its index, -1 where none could be read, NaN where there is no answer.

    Args:
        run: a run of questions or ratings.

    Returns:
        item x factors x round, with the coordinate ``cluster``.

    Raises:
        ValueError: open prompts, whose texts are no replies to choose from.

    Examples:
        >>> replies = ml.experiments.reply_cube(run)
        >>> replies.dims
        ('item', 'instruction', 'cot', 'feedback', 'round')
    """
    if not all(item.replies for item in run.asked.values()):
        raise ValueError(
            "free text is no reply to choose from, so it neither changes nor settles; a judge's scores "
            "change by degrees (round_dynamics)."
        )
    table = run.answers
    read = table["parsed"].eq(True).to_numpy(dtype=bool)
    replies = np.where(read, table["choice"].fillna(0).to_numpy(dtype=float), _UNREAD)
    early = run.design.early_effects
    return answer_cube(run, table, replies).rename("reply").assign_attrs({"early": early} if early else {})


def change_cube(run: Run, measure: Change = "changed") -> xr.DataArray:
    """Whether each answer changed, or went back to an earlier one: 0 or 1, for ``factorial_effects``.

    An answer that could not be read counts as a reply of its own: a dialogue that loses its answer changes.

    Args:
        run: a run of questions or ratings.
        measure: ``changed``: the reply differs from that of the round before; ``returned``: it does, and is
            one that was given in an earlier round.

    Returns:
        item x factors x round, from round 1 on (``returned`` from round 2 on), NaN where an answer is
        missing.

    Raises:
        ValueError: another measure, open prompts, or too few rounds.

    Examples:
        >>> changed = ml.experiments.change_cube(run)
        >>> changed["round"].values.tolist()
        [1, 2]
        >>> found = ml.factorial_effects(changed.sel(round=1))
        >>> bool(found["estimate"].sel(effect="instruction") > 0)
        True
    """
    if measure not in get_args(Change):
        raise ValueError(f"measure must be one of {get_args(Change)}; got {measure!r}.")
    first = 1 if measure == "changed" else 2
    if run.design.rounds < first:
        raise ValueError(
            f"whether an answer {measure} is known from round {first} on; the run ends with round "
            f"{run.design.rounds}."
        )
    replies = reply_cube(run)
    values = replies.values
    there = np.logical_and.accumulate(np.isfinite(values), axis=-1)
    found = np.full(values.shape, np.nan)
    for number in range(first, values.shape[-1]):
        now, before = values[..., number], values[..., :number]
        moved = now != before[..., -1]
        if measure == "returned":
            moved &= (before == now[..., None]).any(axis=-1)
        known = there[..., number] if measure == "returned" else np.isfinite(now + before[..., -1])
        found[..., number] = np.where(known, moved, np.nan)
    cube = replies.copy(data=found).isel(round=slice(first, None)).rename(CHANGES[measure])
    return cube.assign_attrs(units="share")


# ------------------------------------------------------------------------------------------------- settling
def settling_times(run: Run, *, still: int = STILL) -> xr.Dataset:
    """The round from which each dialogue's answer stays the same, with censoring at the end of the run.

    A dialogue settles in the first round whose answer can be read and is repeated by the next ``still``
    rounds. One that has not done so by the last round at which that could be seen is censored there, as is
    one whose answers end early.

    Args:
        run: a run of questions or ratings.
        still: rounds without a change after which it counts as settled.

    Returns:
        item x factors: ``time``, the round in which it settled, or until which it is known not to have;
        ``settled``, whether it did; ``restricted``, the time up to the horizon (the first round in which
        settling cannot be seen any more), NaN where answers end early: for ``factorial_effects``. ``attrs``
        hold ``horizon`` and ``still``.

    Raises:
        ValueError: open prompts, or fewer than ``still`` correction rounds.

    Examples:
        >>> times = ml.experiments.settling_times(run)
        >>> times.attrs["horizon"], float(times["restricted"].max()) <= times.attrs["horizon"]
        (1, True)
    """
    if still < 1 or run.design.rounds < still:
        raise ValueError(
            f"whether an answer settled is seen {still} rounds later (still={still}, at least 1), and this "
            f"run ends with round {run.design.rounds}; play more rounds."
        )
    replies = reply_cube(run)
    values = replies.values
    horizon = values.shape[-1] - still
    time, settled = _first_still(values, still)
    length = np.isfinite(values).cumprod(axis=-1).sum(axis=-1)
    whole = settled | (length == values.shape[-1])
    restricted = np.where(settled, time, float(horizon))
    dims = replies.dims[:-1]
    units = {"units": "rounds", **replies.attrs}
    return xr.Dataset(
        {
            "time": (dims, time, units),
            "settled": (dims, settled),
            "restricted": (dims, np.where(whole, restricted, np.nan), units),
        },
        coords={name: replies[name] for name in (*dims, "cluster")},
        attrs={"horizon": horizon, "still": still},
    )


def _first_still(
    values: Float[np.ndarray, "*cell round"], still: int
) -> tuple[Float[np.ndarray, "*cell"], Bool[np.ndarray, "*cell"]]:
    """The first round that the next ones repeat, or the last one that they do not; and whether it is one."""
    last = values.shape[-1] - still
    same = np.stack(
        [(values[..., n, None] == values[..., n + 1 : n + 1 + still]).all(axis=-1) for n in range(last)], -1
    )
    seen = np.stack([np.isfinite(values[..., : n + 1 + still]).all(axis=-1) for n in range(last)], axis=-1)
    same &= seen & (values[..., :last] != _UNREAD)  # what cannot be read is no answer to stay with
    settled = np.asarray(same.any(axis=-1))
    return np.where(settled, same.argmax(axis=-1), seen.sum(axis=-1) - 1).astype(float), settled


def settling_curve(times: xr.Dataset, *, alpha: float = 0.05, draws: int = 1000, seed: int = 0) -> xr.Dataset:
    """The share of dialogues not yet settled after each round, by condition: the Kaplan-Meier estimate.

    Where no dialogue ends early the estimate is the share itself and its interval that of a share over
    clusters; else the interval comes from resampled clusters (percentiles).

    Args:
        times: from ``settling_times``.
        alpha: level of the pointwise intervals.
        draws: resamples of the clusters, where dialogues end early.
        seed: random seed of these.

    Returns:
        ``estimate``, ``ci_low``, ``ci_high`` over the factors and ``round``; ``mean`` and its interval
        ``mean_low``, ``mean_high``: the mean number of rounds until settled, up to the horizon (the area
        under the curve). ``attrs`` hold ``censored``, how many dialogues were not seen to settle, and
        ``ended_early``, how many of these ended before the run did.

    Examples:
        >>> curve = ml.experiments.settling_curve(ml.experiments.settling_times(run))
        >>> curve["estimate"].dims
        ('instruction', 'cot', 'feedback', 'round')
    """
    horizon = int(times.attrs["horizon"])
    rounds = np.arange(horizon)
    early = int(times["restricted"].isnull().sum())
    if not early:
        later = (times["restricted"] > xr.DataArray(rounds, dims="round", coords={"round": rounds})) * 1.0
        found = mean_over_items(later, alpha=alpha, share=True)[["estimate", "ci_low", "ci_high"]]
        mean = mean_over_items(times["restricted"], alpha=alpha)
        ends = [mean[name].clip(0, horizon) for name in ("ci_low", "ci_high")]
        found = found.assign(mean=mean["estimate"], mean_low=ends[0], mean_high=ends[1])
    else:
        found = _product_limit(times, rounds, alpha=alpha, draws=draws, seed=seed)
    censored = int((~times["settled"]).sum())
    return found.transpose(..., "round").assign_attrs(
        alpha=alpha, censored=censored, ended_early=early, dialogues=int(times["settled"].size), **times.attrs
    )


def _product_limit(
    times: xr.Dataset, rounds: Int[np.ndarray, " round"], *, alpha: float, draws: int, seed: int
) -> xr.Dataset:
    """Kaplan-Meier curves of every condition, with percentiles of resampled clusters."""
    codes = cluster_codes(times["time"])
    groups = int(codes.max()) + 1
    dims = [str(dim) for dim in times["time"].dims if dim != "item"]
    time = times["time"].transpose("item", *dims).values.reshape(len(codes), -1)
    settled = times["settled"].transpose("item", *dims).values.reshape(len(codes), -1)
    # [cluster, cell, round]: how many are still at risk in a round, and how many settle in it.
    risk, event = (np.zeros((groups, time.shape[1], len(rounds))) for _ in range(2))
    np.add.at(risk, codes, (time[..., None] >= rounds) * 1.0)
    np.add.at(event, codes, (settled[..., None] & (time[..., None] == rounds)) * 1.0)
    weights = np.random.default_rng(seed).multinomial(groups, np.full(groups, 1 / groups), size=draws)

    def curves(weight: np.ndarray) -> np.ndarray:
        at_risk = np.einsum("dg,gcr->dcr", weight, risk)
        with np.errstate(invalid="ignore", divide="ignore"):
            hazard = np.einsum("dg,gcr->dcr", weight, event) / at_risk
        before = np.cumprod(1 - np.nan_to_num(hazard), axis=-1) == 0
        # Where all have settled the curve stays at 0; where the last ones ended early it is not known.
        return np.cumprod(1 - np.where(np.isnan(hazard) & before, 0.0, hazard), axis=-1)

    point, drawn = curves(np.ones((1, groups)))[0], curves(weights.astype(float))
    ends = [alpha / 2, 1 - alpha / 2]
    low, high = _percentiles(drawn, ends)
    mean_low, mean_high = _percentiles(drawn.sum(axis=-1), ends)
    shape = [times.sizes[dim] for dim in dims]
    curve = {"estimate": point, "ci_low": low, "ci_high": high}
    mean = {"mean": point.sum(axis=-1), "mean_low": mean_low, "mean_high": mean_high}
    return xr.Dataset(
        {name: ((*dims, "round"), a.reshape(*shape, -1)) for name, a in curve.items()}
        | {name: (dims, a.reshape(shape)) for name, a in mean.items()},
        coords={**{dim: times[dim] for dim in dims}, "round": rounds},
    )


def _percentiles(drawn: Float[np.ndarray, "draw *place"], ends: Sequence[float]) -> np.ndarray:
    """Percentiles of the draws that have a value; NaN where none has."""
    none = np.isnan(drawn).all(axis=0)
    return np.where(none, np.nan, np.nanquantile(np.where(none, 0.0, drawn), ends, axis=0))


# ---------------------------------------------------------------------------------------------- transitions
@dataclass(frozen=True, kw_only=True, eq=False)
class _Ways:
    """Numbers of transitions in every cluster, with a factor off and on."""

    off: Float[np.ndarray, "cluster before after"]
    on: Float[np.ndarray, "cluster before after"]


def compare_transitions(
    run: Run,
    factors: Sequence[str] | None = None,
    *,
    by: By = "outcome",
    draws: int = 2000,
    alpha: float = 0.05,
    seed: int = 0,
) -> xr.Dataset:
    """Whether a factor changes the way of answers from one round to the next, with other factors averaged.

    For each kind of answer before (right, wrong, unparsed) the shares of the kinds after it are compared, on
    less off, over all rounds and the next: a first-order chain that is observed, not hidden. The test swaps
    the two levels in whole clusters, which leaves the distribution as it is where the factor changes no
    dialogue's course, and compares the largest |t| over all transitions of the factor; t by a jackknife over
    clusters.

    Args:
        run: a run of questions or ratings.
        factors: those compared, at ``off`` and ``on``; None takes all that were run so.
        by: kinds of answers, as ``runs.answer_transitions`` takes them.
        draws: swaps drawn.
        alpha: level of the pointwise intervals.
        seed: random seed of the swaps.

    Returns:
        Over ``factor``, ``before`` and ``after``: ``estimate`` (difference of the shares), ``ci_low``,
        ``ci_high`` (pointwise), ``p_adj`` (over the factor's transitions; its least is the p of "no
        transition differs"), ``off`` and ``on`` (the shares), ``n`` (transitions from that kind, both levels
        together). NaN where the kind came in fewer than 8 clusters at one of the levels.

    Raises:
        ValueError: open prompts, no correction round, fewer than 8 clusters, or factors that were not run at
            off and on.

    Examples:
        >>> found = ml.experiments.compare_transitions(run)
        >>> found["estimate"].dims
        ('factor', 'before', 'after')
        >>> bool(found["p_adj"].sel(factor="instruction").min() < 0.05)
        True
    """
    kinds, items, codes = answer_kinds(run, by)
    crossed = [name for name in run.design.names if {"off", "on"} <= set(run.design.levels[name])]
    chosen = crossed if factors is None else list(factors)
    if not chosen or not set(chosen) <= set(crossed) or run.design.rounds < 1:
        raise ValueError(
            f"compare_transitions needs factors that were run off and on, out of {crossed}, and a correction "
            f"round; got {chosen} and {run.design.rounds} rounds."
        )
    clusters = np.unique(run.items.loc[items, "cluster"].to_numpy(), return_inverse=True)[1]
    groups = int(clusters.max()) + 1
    if groups < MIN_CLUSTERS:
        raise ValueError(
            f"compare_transitions needs {MIN_CLUSTERS} clusters or more to swap; got {groups}. Play items of "
            "more templates."
        )
    cube = xr.DataArray(codes, dims=run.design.dims, coords=run.design.levels)
    signs = np.random.default_rng(seed).random((draws - 1, groups)) < 0.5
    found = [_compared(_ways(cube, name, clusters, len(kinds)), signs, alpha) for name in chosen]
    stacked = xr.concat(found, "factor").assign_coords(factor=chosen, before=list(kinds), after=list(kinds))
    return stacked.assign_attrs(
        alpha=alpha, draws=draws, clusters=groups, items=len(items), rounds=run.design.rounds, by=by
    )


def _ways(cube: xr.DataArray, factor: str, clusters: Int[np.ndarray, " item"], kinds: int) -> _Ways:
    """How often each kind followed each, in every cluster, with the factor off and on."""
    counted = {}
    for level in ("off", "on"):
        own = cube.sel({factor: level}).transpose("item", ..., "round").values
        own = own.reshape(len(clusters), -1, own.shape[-1])
        before, after = own[..., :-1], own[..., 1:]
        there = (before >= 0) & (after >= 0)
        of = np.broadcast_to(clusters[:, None, None], before.shape)
        table = np.zeros((int(clusters.max()) + 1, kinds, kinds))
        np.add.at(table, (of[there], before[there], after[there]), 1.0)
        counted[level] = table
    return _Ways(**counted)


def _compared(ways: _Ways, signs: Bool[np.ndarray, "draw cluster"], alpha: float) -> xr.Dataset:
    """Differences of the shares with intervals and p by swaps of whole clusters."""
    seen = np.minimum(*((a.sum(axis=-1) > 0).sum(axis=0) for a in (ways.off, ways.on))) >= MIN_CLUSTERS
    estimate, se = _difference(ways.off[None], ways.on[None], seen)
    t = _t(estimate, se)[0]
    swap = signs[:, :, None, None]
    drawn = np.concatenate(
        [
            _t(*_difference(np.where(s, ways.on, ways.off), np.where(s, ways.off, ways.on), seen))
            for s in np.array_split(swap, max(1, len(swap) // 100))
        ]
    )
    most = np.where(np.isnan(drawn), 0.0, np.abs(drawn)).max(axis=(1, 2), initial=0.0)
    exceed = (most[:, None, None] >= np.abs(t) * (1 - 1e-9)).sum(axis=0)
    p = np.where(np.isnan(t), np.nan, (1 + exceed) / (1 + len(most)))
    half = stdtrit(len(ways.off) - 1, 1 - alpha / 2) * se[0]
    shares = {
        name: _share(a.sum(axis=0), a.sum(axis=(0, 2))[:, None])
        for name, a in (("off", ways.off), ("on", ways.on))
    }
    dims = ("before", "after")
    values = {
        "estimate": estimate[0],
        "ci_low": np.clip(estimate[0] - half, -1, 1),
        "ci_high": np.clip(estimate[0] + half, -1, 1),
        "p_adj": p,
        **shares,
    }
    n = (ways.off + ways.on).sum(axis=(0, 2))
    return xr.Dataset({name: (dims, a) for name, a in values.items()} | {"n": ("before", n)})


def _difference(
    off: Float[np.ndarray, "draw cluster before after"],
    on: Float[np.ndarray, "draw cluster before after"],
    seen: Bool[np.ndarray, " before"],
) -> tuple[Float[np.ndarray, "draw before after"], Float[np.ndarray, "draw before after"]]:
    """On less off of the shares of what follows, and its standard error by a jackknife over clusters."""
    one_out = []
    point = 0.0
    for counts, sign in ((off, -1.0), (on, 1.0)):
        total = counts.sum(axis=1, keepdims=True)
        rest = total - counts
        one_out.append(sign * _share(rest, rest.sum(axis=-1, keepdims=True)))
        point = point + sign * _share(total, total.sum(axis=-1, keepdims=True))[:, 0]
    left = one_out[0] + one_out[1]
    groups = left.shape[1]
    se = np.sqrt((groups - 1) / groups * ((left - left.mean(axis=1, keepdims=True)) ** 2).sum(axis=1))
    se = np.where(se > 1e-12, se, 0.0)
    where = np.broadcast_to(seen[:, None], se.shape[1:])
    return np.where(where, point, np.nan), np.where(where, se, np.nan)


def _share(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """A number over another; NaN where there is nothing to divide."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(below > 0, above / below, np.nan)


def _t(estimate: np.ndarray, se: np.ndarray) -> np.ndarray:
    """The estimate over its standard error: 0 for no difference, without a bound for a constant one."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(np.abs(estimate) < 1e-12, 0.0 * estimate, estimate / se)


def describe_transitions(found: xr.Dataset) -> str:
    """A line for each factor: whether it changes the way of the answers, and where most.

    Examples:
        >>> told = ml.experiments.describe_transitions(ml.experiments.compare_transitions(run))
        >>> told.splitlines()[0].startswith("instruction: ")
        True
    """
    return "\n".join(_line(found.sel(factor=name), str(name)) for name in found["factor"].values)


def _line(one: xr.Dataset, name: str) -> str:
    p = one["p_adj"].values
    if np.isnan(p).all():
        return f"{name}: no kind of answer came in enough clusters at both levels to compare what follows it."
    lowest = float(np.nanmin(p))
    told = is_p(lowest, draws=float(one.attrs["draws"]))
    rounds = "" if one.attrs["rounds"] == 1 else ", all rounds together"
    if lowest > one.attrs["alpha"]:
        return (
            f"{name}: that answers go the same ways from round to round without and with it is not excluded "
            f"({told} for the largest difference{rounds})."
        )
    strength = np.where(p == lowest, np.abs(one["estimate"].values), -1.0)
    before, after = np.unravel_index(int(np.argmax(strength)), strength.shape)
    place = one.isel(before=int(before), after=int(after))
    told = is_p(lowest, draws=float(one.attrs["draws"]))
    return (
        f"{name}: dialogues go other ways with it: after {place['before'].item()} answers come "
        f"{place['after'].item()} ones in {float(place['on']):.0%}, without it in {float(place['off']):.0%} "
        f"({interval_of(place, signed=True)}, {told} over its transitions{rounds}; the dialogues that get "
        "there may be others)."
    )
