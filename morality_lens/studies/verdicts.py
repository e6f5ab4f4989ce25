"""The five claims of the study (arXiv 2410.20513), each supported, refuted, mixed or undecided."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from morality_lens.design import COMPONENTS, Condition, condition_of
from morality_lens.interactions.cube import cluster_codes, factors_of, levels_of
from morality_lens.interactions.intervals import one_sided
from morality_lens.interactions.numbers import is_p, number, signed, with_bounds
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.interactions.resampling import MIN_CLUSTERS, holm
from morality_lens.probes.card import TrustCard
from morality_lens.runs.option_notes import NOTE
from morality_lens.studies.rules import (
    ALPHA,
    FOLLOWED,
    GAIN,
    RELIABLE,
    SIDE,
    SMALL,
    Verdict,
    error_rate,
    undecided,
)

METHODS = tuple(
    Condition(instruction=i, cot=c, feedback=f)
    for i, c, f in itertools.product(("off", "on"), repeat=3)
    if (i, c, f) != ("off", "off", "off")
)
"""The seven methods of self-correction: all cells with a component."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """The outcome of one task in each condition of the last round; higher is better.

    Attributes:
        name: of the task.
        last: item x components, in the last round.
        first: item, in round 0.
        unit: of both.
    """

    name: str
    last: xr.DataArray
    first: xr.DataArray
    unit: str

    @property
    def n_clusters(self) -> int:
        """Clusters of its items."""
        return int(cluster_codes(self.last).max()) + 1


@dataclass(frozen=True)
class Contrast:
    """A mean over items with its 95 % interval, and one-sided p of lying above and below a bound."""

    estimate: float
    low: float
    high: float
    p_above: float
    p_below: float


_NAMES = ("estimate", "ci_low", "ci_high", "p_above", "p_below")
"""A contrast's numbers, in a result's names and in its own order."""


def check_clusters(values: xr.DataArray) -> int:
    """The number of clusters of the items.

    Raises:
        ValueError: fewer than a verdict needs, or items without a number somewhere.
    """
    holes = int(values.isnull().any([d for d in values.dims if d != "item"]).sum())
    if holes:
        raise ValueError(
            f"a verdict needs every item's outcome in every cell; {holes} of {values.sizes['item']} items "
            "lack one. Select the items that have them."
        )
    n_clusters = int(cluster_codes(values).max()) + 1
    if n_clusters < MIN_CLUSTERS:
        raise ValueError(
            f"a verdict needs items from at least {MIN_CLUSTERS} clusters; these "
            f"{values.sizes['item']} items have {n_clusters}. Add items from other templates."
        )
    return n_clusters


def mean_contrasts(values: xr.DataArray, *, bound: float = 0.0) -> xr.Dataset:
    """Means over items of differences of shares: ``estimate ci_low ci_high p_above p_below``.

    The p are one-sided, of lying above and below the bound. Where no cluster differs from another they invert
    the interval of :func:`mean_over_items`: the same non-zero number c in all of G clusters may be off by
    2 u |c|, a difference of 0 by u, with 1 - u the G-th root of the level; signs give 2^-G at best.

    Raises:
        ValueError: fewer than eight clusters, or missing values.
    """
    n_clusters = check_clusters(values)
    found = mean_over_items(values, alpha=ALPHA, span=1.0)
    p_below, p_above = one_sided(found, bound)
    still, mean = found["se"] == 0, found["estimate"]
    moved = np.abs(mean) > 1e-12  # by more than rounding
    beyond = (mean - bound) / xr.where(moved, 2 * np.abs(mean), 1.0)
    least = xr.where(moved, 0.5**n_clusters, 0.0)
    above, below = (np.maximum((1 - (sign * beyond).clip(0, 1)) ** n_clusters, least) for sign in (1.0, -1.0))
    parts = {
        "p_above": xr.where(still, above, p_above),
        "p_below": xr.where(still, below, p_below),
    }
    return found[["estimate", "ci_low", "ci_high"]].assign(parts)


def mean_contrast(values: xr.DataArray, *, bound: float = 0.0) -> Contrast:
    """The mean of a difference of shares per item; see :func:`mean_contrasts`."""
    return _at(mean_contrasts(values, bound=bound), {})


def _at(found: xr.Dataset, place: Mapping[str, object]) -> Contrast:
    here = found.sel(place)
    return Contrast(*(float(here[name]) for name in _NAMES))


def _adjusted(p: float, tests: int) -> float:
    """A one-sided p as a two-sided one, after Bonferroni."""
    return min(1.0, 2 * tests * p)


def _cell(task: Task, condition: Condition) -> xr.DataArray:
    return task.last.sel({name: condition[name] for name in COMPONENTS}, drop=True)


def of_components(cube: xr.DataArray) -> xr.DataArray:
    """The cube over the three components, averaged over the levels of any other factor."""
    return cube.mean([name for name in factors_of(cube) if name not in COMPONENTS], skipna=False)


def over_methods(cube: xr.DataArray) -> xr.DataArray:
    """The cube with a dim ``cell`` of labels in place of the three components, without the empty cell."""
    levels = {name: xr.DataArray([m[name] for m in METHODS], dims="cell") for name in COMPONENTS}
    cells = cube.sel(levels).drop_vars(COMPONENTS)
    return cells.assign_coords(cell=[m.label for m in METHODS])


def lacking(cubes: Sequence[xr.DataArray]) -> str:
    """Why claims about the three components cannot be judged on these cubes; empty where they can."""
    for cube in cubes:
        levels = levels_of(cube)
        absent = [name for name in COMPONENTS if not {"off", "on"} <= set(levels.get(name, []))]
        if absent:
            needed = f"The claim is about {', '.join(COMPONENTS)}, each off and on"
            return f"{needed}, and this design lacks {', '.join(absent)}."
    return ""


def method_means(task: Task) -> dict[str, Contrast]:
    """Mean and interval of every method on a task, a share."""
    found = mean_over_items(over_methods(task.last), alpha=ALPHA, share=True)
    return {
        m.label: Contrast(estimate=estimate, low=low, high=high, p_above=np.nan, p_below=np.nan)
        for m in METHODS
        for here in [found.sel(cell=m.label)]
        for estimate, low, high in [[float(here[v]) for v in ("estimate", "ci_low", "ci_high")]]
    }


# -------------------------------------------------------------------------------------------- claim 1
def no_best_method(tasks: Sequence[Task]) -> Verdict:
    """Claim 1."""
    without = lacking([t.last for t in tasks])
    if without:
        return undecided(1, without)
    if len(tasks) < 2:
        return undecided(1, "There is one task only; add questions of several categories, or prompts.")
    better = _comparisons(tasks)
    labels = [m.label for m in METHODS]
    tests = len(tasks) * (len(METHODS) - 1)
    beaten = {b: min((k for k in better if k[2] == b), key=lambda k: better[k].p_above) for b in labels}
    weakest = {a: max((k for k in better if k[1] == a), key=lambda k: better[k].p_above) for a in labels}
    key = max(beaten.values(), key=lambda k: better[k].p_above)
    worst = _adjusted(better[key].p_above, tests)
    champion = min(labels, key=lambda a: better[weakest[a]].p_above)
    ahead = _adjusted(better[weakest[champion]].p_above, len(METHODS))
    best = {t.name: max(METHODS, key=lambda m: float(_cell(t, m).mean())).label for t in tasks}
    highest = f"Highest means: {'; '.join(f'{name}: {label}' for name, label in best.items())}."
    if worst < ALPHA:
        verdict = "supported"
        why = f"Every method is inferior to another one on some task (largest {is_p(worst)}). {highest}"
    elif ahead < ALPHA:
        verdict, key = "refuted", weakest[champion]
        why = f"{champion} is better than every other on every task (largest {is_p(ahead)})."
    else:
        verdict = "undecided"
        why = (
            f"{key[2]} may be best everywhere: no other method is significantly better on any task. {highest}"
        )
    return _verdict(
        1,
        verdict,
        better[key],
        measure=f"{key[1]} minus {key[2]} on {key[0]}, the least certain comparison",
        unit=_unit(tasks, key[0]),
        why=why,
        n_clusters=min(t.n_clusters for t in tasks),
    )


def _unit(tasks: Sequence[Task], name: str) -> str:
    """The unit in which a task's outcome is measured."""
    return next(task.unit for task in tasks if task.name == name)


def _comparisons(tasks: Sequence[Task]) -> dict[tuple[str, str, str], Contrast]:
    """By task and two methods, the mean of the first less the second one."""
    found = {}
    pairs = list(itertools.permutations(range(len(METHODS)), 2))
    one, two = (xr.DataArray([pair[i] for pair in pairs], dims="pair") for i in range(2))
    for task in tasks:
        cells = over_methods(task.last).drop_vars("cell")
        means = mean_contrasts(cells.isel(cell=one) - cells.isel(cell=two))
        columns = [means[name].values.tolist() for name in _NAMES]
        for (i, j), numbers in zip(pairs, zip(*columns, strict=True), strict=True):
            found[task.name, METHODS[i].label, METHODS[j].label] = Contrast(*numbers)
    return found


def _verdict(
    number: int, verdict: str, one: Contrast, *, measure: str, unit: str, why: str, n_clusters: int
) -> Verdict:
    """The verdict with its decisive contrast."""
    return Verdict(
        number=number,
        verdict=verdict,
        measure=measure,
        estimate=one.estimate,
        low=one.low,
        high=one.high,
        error_rate=error_rate(number, verdict, n_clusters),
        why=why,
        figure=f"claim-{number}",
        unit=unit,
    )


# -------------------------------------------------------------------------------------------- claim 2
GAINS = {
    "feedback": ("instruction+feedback", "instruction"),
    "cot": ("instruction+cot", "instruction"),
}


def gains(tasks: Sequence[Task]) -> dict[tuple[str, str], Contrast]:
    """Gain of feedback and of chain of thought over the instruction alone, by component and task.

    The p are those of lying above and below :data:`GAIN`.
    """
    return {
        (name, t.name): mean_contrast(_cell(t, condition_of(more)) - _cell(t, condition_of(less)), bound=GAIN)
        for name, (more, less) in GAINS.items()
        for t in tasks
    }


def gains_over_instruction(tasks: Sequence[Task]) -> Verdict:
    """Claim 2.

    Raises:
        ValueError: no task, too few clusters, or missing values.
    """
    if not tasks:
        raise ValueError("gains_over_instruction needs at least one task; got none.")
    without = lacking([t.last for t in tasks])
    if without:
        return undecided(2, without)
    found = gains(tasks)
    best = {name: min((k for k in found if k[0] == name), key=lambda k: found[k].p_above) for name in GAINS}
    most = {name: max((k for k in found if k[0] == name), key=lambda k: found[k].p_below) for name in GAINS}
    more = {name: _adjusted(found[best[name]].p_above, len(tasks)) for name in GAINS}
    less = {name: _adjusted(found[most[name]].p_below, len(GAINS)) for name in GAINS}
    absent = min(less, key=lambda name: less[name])
    why = "; ".join(
        f"{name} adds {signed(found[best[name]].estimate)} on {best[name][1]} (more than {GAIN}: "
        f"{is_p(more[name])})"
        for name in GAINS
    )
    if max(more.values()) < ALPHA:
        verdict, key = "supported", best[max(more, key=lambda name: more[name])]
    elif less[absent] < ALPHA:
        verdict, key = "refuted", most[absent]
        why += f"; {absent} adds less than {GAIN} on every task ({is_p(less[absent])})"
    else:
        verdict, key = "undecided", best[max(more, key=lambda name: more[name])]
    return _verdict(
        2,
        verdict,
        found[key],
        measure=f"gain of {key[0]} over the instruction on {key[1]}",
        unit=_unit(tasks, key[1]),
        why=f"{why}.",
        n_clusters=min(t.n_clusters for t in tasks),
    )


# -------------------------------------------------------------------------------------------- claim 3
CONFLICTS = ("instruction:feedback", "cot:feedback")


def negative_interactions(
    effects: xr.Dataset | None, card: TrustCard | None, *, layers: Sequence[int]
) -> Verdict:
    """Claim 3, from effects on the projection at ``answer_start`` that include the probe's sampling error.

    Args:
        effects: on the projections.
        card: of the direction.
        layers: with the best held-out quality of the direction, chosen independently of the effects.
    """
    here = [n for n in layers if effects is not None and n in effects["layer"].values]
    if effects is None or not here:
        return undecided(3, "There is no stable moral direction: see the refused estimates.")
    if card is None or card.verdict == "fail":
        failed = [] if card is None else card.lines.loc[card.lines["verdict"] == "fail", "line"].tolist()
        reason = "it has no trust card" if card is None else f"its trust card fails in: {', '.join(failed)}"
        return undecided(3, f"The direction is not validated as a moral one: {reason}.", "claim-3")
    absent = [name for name in (*COMPONENTS, *CONFLICTS) if name not in effects["effect"].values]
    if absent:
        return undecided(
            3, f"The claim is about effects that this design lacks: {', '.join(absent)}.", "claim-3"
        )
    n_clusters = int(effects.attrs["n_clusters"])
    if n_clusters < MIN_CLUSTERS:
        return undecided(
            3, f"A verdict needs at least {MIN_CLUSTERS} clusters; there are {n_clusters}.", "claim-3"
        )
    last = effects.sel(site="answer_start").isel(round=-1)
    found = {n: _Inside.of(last.sel(layer=n)) for n in here}
    verdict, layer, name = _over_layers(found)
    return _verdict(
        3,
        verdict,
        found[layer].parts[name],
        measure=f"{name} on the projection at answer_start, layer {layer}",
        unit=str(effects.attrs.get("units", "")),
        why=" ".join(f"Layer {n}: {found[n].listed}." for n in sorted(found)),
        n_clusters=n_clusters,
    )


def _over_layers(found: Mapping[int, "_Inside"]) -> tuple[str, int, str]:
    """The verdict over all judged layers, and the layer and interaction that decide it."""
    best = min(found, key=lambda n: found[n].p)
    if all(one.absent for one in found.values()):
        return "refuted", best, found[best].absent[0]
    split = [name for name in CONFLICTS if _signs_differ([one.parts[name] for one in found.values()])]
    if split:
        against = min(found, key=lambda n: found[n].parts[split[0]].p_above)
        return "mixed", against, split[0]
    decided = found[best].p < SIDE / len(found)
    return "supported" if decided else "undecided", best, found[best].weakest


def _signs_differ(parts: Sequence[Contrast]) -> bool:
    """Whether an interaction is below zero at one layer and above at another, corrected over all."""
    level = SIDE / (len(parts) * len(CONFLICTS))
    return min(one.p_above for one in parts) < level and min(one.p_below for one in parts) < level


@dataclass(frozen=True, kw_only=True)
class _Inside:
    """Main effects and interactions at one layer."""

    parts: dict[str, Contrast]

    @staticmethod
    def of(here: xr.Dataset) -> "_Inside":
        below, above = one_sided(here)
        parts = {}
        for name in (*COMPONENTS, *CONFLICTS):
            estimate, low, high = (float(here[v].sel(effect=name)) for v in ("estimate", "ci_low", "ci_high"))
            if not np.isfinite([estimate, low, high]).all():
                raise ValueError("the effects on the projection have no interval; see the refused estimates.")
            # without variance there is no test, and no sign is claimed
            p_above, p_below = (float(p.sel(effect=name).fillna(1.0)) for p in (above, below))
            parts[name] = Contrast(estimate=estimate, low=low, high=high, p_above=p_above, p_below=p_below)
        return _Inside(parts=parts)

    @property
    def p(self) -> float:
        """The largest one-sided p of all parts, which tests them jointly."""
        return max(
            *(self.parts[name].p_above for name in COMPONENTS),
            *(self.parts[name].p_below for name in CONFLICTS),
        )

    @property
    def weakest(self) -> str:
        """The interaction with the largest p."""
        return max(CONFLICTS, key=lambda name: self.parts[name].p_below)

    @property
    def absent(self) -> list[str]:
        """Interactions that are not below minus the smallest relevant one.

        The 95 % interval has 2.5 % on this side; over the two interactions the level is 5 %.
        """
        margin = {n: SMALL * min(abs(self.parts[part].estimate) for part in n.split(":")) for n in CONFLICTS}
        return [name for name in CONFLICTS if self.parts[name].low > -margin[name]]

    @property
    def listed(self) -> str:
        """All parts with their intervals."""
        return ", ".join(
            f"{n} {with_bounds(v.estimate, v.low, v.high, signed=True)}" for n, v in self.parts.items()
        )


# -------------------------------------------------------------------------------------------- claim 4
ACCURACIES = {
    "choice_accuracy": "share of pairs on which the greedy choice is the better output",
    "accuracy": "mean probability of the better output",
}
"""Measures of discrimination that the claim is about, the decisive one first."""


def corrects_but_cannot_tell(tasks: Sequence[Task], detection: Mapping[str, xr.Dataset]) -> Verdict:
    """Claim 4.

    Args:
        tasks: with the names of ``detection``.
        detection: of a good and a bad output of the model itself, without history, by task.
    """
    known = [t for t in tasks if t.name in detection]
    if not known:
        return undecided(4, "No task has good and bad outputs of the model to discriminate.", "claim-4")
    without = lacking([t.last for t in known])
    if without:
        return undecided(4, without, "claim-4")
    few = {t.name: int(detection[t.name].attrs["n_clusters"]) for t in known}
    if min(few.values()) < MIN_CLUSTERS:
        name = min(few, key=lambda n: few[n])
        return undecided(
            4,
            f"A verdict needs at least {MIN_CLUSTERS} clusters of pairs; {name} has {few[name]}.",
            "claim-4",
        )
    rises = {
        t.name: mean_contrast(over_methods(t.last).mean("cell", skipna=False) - t.first, bound=GAIN)
        for t in known
    }
    doubled = np.minimum(1.0, 2 * np.array([c.p_above for c in rises.values()]))
    adjusted = dict(zip(rises, holm(doubled).tolist(), strict=True))
    why = "; ".join(
        f"{n} improve by {signed(c.estimate)} (more than {GAIN}: {is_p(adjusted[n])})"
        for n, c in rises.items()
    )
    if min(adjusted.values()) >= ALPHA:
        return undecided(4, f"No relevant improvement of the outputs is significant: {why}.", "claim-4")
    open_to = [name for name, one in rises.items() if one.p_below >= SIDE]
    told = {(n, m): _at(_accuracy(detection[n]), {"measure": m}) for n in open_to for m in ACCURACIES}
    unknown = [
        f"{ACCURACIES[m]} ({n})" for (n, m), one in told.items() if not np.isfinite([one.low, one.high]).all()
    ]
    if unknown:
        return undecided(4, f"Discrimination was not measured: {', '.join(unknown)} is missing.", "claim-4")
    verdict, key = _reliability(told)
    listed = "; ".join(
        f"{ACCURACIES[m]} ({n}) {with_bounds(one.estimate, one.low, one.high)}"
        for (n, m), one in told.items()
    )
    return _verdict(
        4,
        verdict,
        told[key],
        measure=f"{ACCURACIES[key[1]]}, of two outputs of its own ({key[0]})",
        unit="share",
        why=f"{why}; {listed}.",
        n_clusters=min([*few.values(), *(t.n_clusters for t in known)]),
    )


def _accuracy(found: xr.Dataset) -> xr.Dataset:
    none = xr.full_like(found["estimate"], np.nan)
    return found[["estimate", "ci_low", "ci_high"]].assign(p_above=none, p_below=none)


def _reliability(told: Mapping[tuple[str, str], Contrast]) -> tuple[str, tuple[str, str]]:
    """The verdict on accuracies by task and measure, and the decisive one."""
    highest = max(told, key=lambda k: told[k].high)
    choices = [k for k in told if k[1] == "choice_accuracy"]
    lowest = min(choices, key=lambda k: told[k].low)
    if told[highest].high < RELIABLE:
        return "supported", highest
    if told[lowest].low > RELIABLE:
        return "refuted", lowest
    return "undecided", highest


# -------------------------------------------------------------------------------------------- claim 5
def robust_to_evidence(moved: xr.DataArray | None) -> Verdict:
    """Claim 5, from the share of answers that the evidence moves in the last round.

    Args:
        moved: from :func:`morality_lens.experiments.moved_cube`, at one round and strength.
    """
    if moved is None:
        return undecided(5, "No weak evidence was given for these items.", "claim-5")
    without = lacking([moved])
    if without:
        return undecided(5, without, "claim-5")
    n_clusters = check_clusters(moved)
    shares = over_methods(of_components(moved))
    tests = shares.sizes["cell"] * shares.sizes["part"]
    found = mean_over_items(shares, alpha=ALPHA, share=True)
    surely = mean_over_items(shares, alpha=ALPHA / tests, share=True)["ci_low"]
    highest, surest = found["ci_high"].argmax(...), surely.argmax(...)
    if float(found["ci_high"].max()) < FOLLOWED:
        verdict, place = "supported", highest
    elif float(surely.max()) > FOLLOWED:
        verdict, place = "refuted", surest
    else:
        verdict, place = "undecided", highest
    here = found.isel(place)
    estimate, low, high = (float(here[name]) for name in ("estimate", "ci_low", "ci_high"))
    return _verdict(
        5,
        verdict,
        Contrast(estimate=estimate, low=low, high=high, p_above=np.nan, p_below=np.nan),
        measure=f"share of answers that {here['part'].item()} after the last round, {here['cell'].item()}",
        unit="share of answers",
        why=_moves(of_components(moved), found),
        n_clusters=n_clusters,
    )


def _moves(moved: xr.DataArray, found: xr.Dataset) -> str:
    """Every method's shares, what the instruction changes, and the note on the options' letters."""
    with_, against = moved["part"].values.tolist()
    numbers = found["estimate"].transpose("cell", "part").values.tolist()
    shares = "; ".join(
        f"{name} {number(one)} and {number(other)}"
        for name, (one, other) in zip(found["cell"].values.tolist(), numbers, strict=True)
    )
    net = moved.sel(part=with_, drop=True) - moved.sel(part=against, drop=True)
    on, off = (net.sel(instruction=level, drop=True).mean(COMPONENTS[1:]) for level in ("on", "off"))
    change = mean_contrast(on - off)
    lines = (
        f"Shares that {with_} and {against}: {shares}.",
        f"The instruction changes the share that moves with it, less that against, by "
        f"{with_bounds(change.estimate, change.low, change.high, signed=True)}.",
        str(moved.attrs.get(NOTE, "")),
    )
    return " ".join(line for line in lines if line)
