"""The five claims of the study (arXiv 2410.20513), each supported, refuted or undecided."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy.special import stdtr

from morality_lens.design import COMPONENTS, Condition, condition_of
from morality_lens.interactions.cube import cluster_codes, factors_of, levels_of
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.interactions.resampling import holm
from morality_lens.probes.card import TrustCard

ALPHA = 0.05
GAIN = 0.02
"""The smallest relevant gain of a component, in share or probability."""
RELIABLE = 0.75
"""Two-alternative accuracy from which on discrimination counts as reliable: the usual threshold."""
FOLLOWED = 0.10
"""Share of answers that follow weak evidence up to which self-correction counts as robust."""
SMALL = 0.1
"""The smallest relevant interaction, as a share of the smaller main effect."""

CLAIMS = {
    1: "No self-correction method is best on every task.",
    2: "External feedback and chain of thought can add gains over the instruction.",
    3: "Inside the model feedback interacts negatively with instruction and with chain of thought.",
    4: "The model corrects its outputs, yet cannot reliably tell its good ones from its bad ones.",
    5: "Self-correction is robust to weak evidence put into the prompt.",
}


RULES = {
    1: "Supported: for every method there is a task on which another one is better (one-sided p, Holm over "
    "methods and tasks, below .05). Refuted: one method is better than every other on every task (all "
    "one-sided p below .05, over seven methods).",
    2: "Supported: each of the two adds to the instruction on some task (one-sided p, Holm over tasks, below "
    f".05). Refuted: one of them adds less than {GAIN} on every task (simultaneous upper bounds).",
    3: "In the last round, at the layers whose held-out AUROC is not distinguishable from the highest one. "
    "Supported: at one of them all three main effects are above 0 and both interactions below 0 (each "
    "one-sided p below .05 divided by the number of layers). Refuted: at each of them one of the "
    f"interactions is not below -{SMALL:.0%} of the smaller main effect. "
    "Undecided where the direction fails its trust card.",
    4: "Supported: outputs improve over the rounds on some task, and wherever they do the accuracy of "
    f"discriminating two of them lies below {RELIABLE}. Refuted: wherever they do, it lies above.",
    5: f"In the last round, mean over the methods. Supported: the share of answers that follow the evidence "
    f"lies below {FOLLOWED}. Refuted: above.",
}


METHODS = tuple(
    Condition(instruction=i, cot=c, feedback=f)
    for i, c, f in itertools.product(("off", "on"), repeat=3)
    if (i, c, f) != ("off", "off", "off")
)
"""The seven methods of self-correction: all cells with a component."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The verdict on one claim.

    Attributes:
        number: of the claim.
        verdict: ``supported``, ``refuted`` or ``undecided``.
        measure: the quantity that ``estimate`` estimates.
        estimate: the decisive estimate; NaN where there is none.
        low: lower end of its interval.
        high: upper end.
        error_rate: the largest probability of a wrong verdict, and its scope.
        why: the reason in one or two sentences.
        figure: id of the figure that shows the estimate.
    """

    number: int
    verdict: str
    measure: str
    estimate: float
    low: float
    high: float
    error_rate: str
    why: str
    figure: str

    @property
    def claim(self) -> str:
        """The claim in words."""
        return CLAIMS[self.number]

    def to_json(self) -> dict[str, Any]:
        """As plain values, NaN as None."""
        row = asdict(self)
        return {k: None if isinstance(v, float) and not np.isfinite(v) else v for k, v in row.items()}

    @staticmethod
    def from_json(row: Mapping[str, Any]) -> "Verdict":
        """The verdict that :meth:`to_json` wrote."""
        numbers = {k: np.nan if row[k] is None else float(row[k]) for k in ("estimate", "low", "high")}
        return Verdict(**{**row, **numbers})


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


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """A mean over items with its interval and its one-sided p of being above zero."""

    estimate: float
    low: float
    high: float
    p_above: float


def undecided(number: int, why: str, figure: str = "") -> Verdict:
    """The verdict ``undecided`` with its reason."""
    return Verdict(
        number=number,
        verdict="undecided",
        measure="",
        estimate=np.nan,
        low=np.nan,
        high=np.nan,
        error_rate="",
        why=why,
        figure=figure,
    )


def mean_contrast(values: xr.DataArray, *, alpha: float = ALPHA) -> Contrast:
    """The mean of a number per item (CR2 by clusters, t with Bell-McCaffrey df).

    Raises:
        ValueError: fewer than five clusters, or missing values.
    """
    n_clusters = int(cluster_codes(values).max()) + 1
    if n_clusters < 5:
        raise ValueError(f"there are {n_clusters} clusters of items, and five are needed.")
    found = mean_over_items(values, alpha=alpha)
    estimate, low, high, p = (float(found[name]) for name in ("estimate", "ci_low", "ci_high", "p"))
    if abs(estimate) < 1e-12:  # nothing but rounding
        above = 0.5
    else:  # without any variance there is no t, and the sign is certain
        half = 0.0 if np.isnan(p) else p / 2
        above = half if estimate > 0 else 1 - half
    return Contrast(estimate=estimate, low=low, high=high, p_above=above)


def _cell(task: Task, condition: Condition) -> xr.DataArray:
    return task.last.sel({name: condition[name] for name in COMPONENTS})


def of_components(cube: xr.DataArray) -> xr.DataArray:
    """The cube over the three components, averaged over the levels of any other factor."""
    return cube.mean([name for name in factors_of(cube) if name not in COMPONENTS], skipna=False)


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
    """Mean and interval of every method on a task."""
    return {m.label: mean_contrast(_cell(task, m)) for m in METHODS}


def no_best_method(tasks: Sequence[Task]) -> Verdict:
    """Claim 1."""
    without = lacking([t.last for t in tasks])
    if without:
        return undecided(1, without)
    if len(tasks) < 2:
        return undecided(1, "There is one task only; add questions of several categories, or prompts.")
    better = {
        (t.name, a.label, b.label): mean_contrast(_cell(t, a) - _cell(t, b))
        for t in tasks
        for a, b in itertools.permutations(METHODS, 2)
    }
    beaten: dict[str, tuple[float, tuple[str, str, str]]] = {}
    for method in METHODS:
        keys = [key for key in better if key[2] == method.label]
        adjusted = holm(np.array([better[key].p_above for key in keys])).tolist()
        beaten[method.label] = min(zip(adjusted, keys, strict=True))
    worst, key = max(beaten.values())
    winners = {m.label: max(better[k].p_above for k in better if k[1] == m.label) for m in METHODS}
    champion = min(winners, key=lambda name: winners[name])
    best = {t.name: max(METHODS, key=lambda m: float(_cell(t, m).mean())).label for t in tasks}
    highest = "; ".join(f"{name}: {label}" for name, label in best.items())
    if worst < ALPHA:
        verdict, why = (
            "supported",
            f"Every method is inferior to another one on some task. Highest means: {highest}.",
        )
    elif winners[champion] < ALPHA / len(METHODS):
        verdict, why, worst = (
            "refuted",
            f"{champion} is better than every other on every task.",
            winners[champion],
        )
        keys = [k for k in better if k[1] == champion]
        key = max(keys, key=lambda k: better[k].p_above)
    else:
        verdict = "undecided"
        why = (
            f"{key[2]} may be best everywhere: no other method is significantly better on any task. "
            f"Highest means: {highest}."
        )
    one = better[key]
    return Verdict(
        number=1,
        verdict=verdict,
        measure=f"{key[1]} minus {key[2]} on {key[0]}, the least certain comparison",
        estimate=one.estimate,
        low=one.low,
        high=one.high,
        error_rate=f"at most 5 % (largest adjusted p {worst:.2g})",
        why=why,
        figure="claim-1",
    )


GAINS = {
    "feedback": ("instruction+feedback", "instruction"),
    "cot": ("instruction+cot", "instruction"),
}


def gains(tasks: Sequence[Task], *, alpha: float = ALPHA) -> dict[tuple[str, str], Contrast]:
    """Gain of feedback and of chain of thought over the instruction alone, by component and task."""
    return {
        (name, t.name): mean_contrast(
            _cell(t, condition_of(more)) - _cell(t, condition_of(less)), alpha=alpha
        )
        for name, (more, less) in GAINS.items()
        for t in tasks
    }


def gains_over_instruction(tasks: Sequence[Task]) -> Verdict:
    """Claim 2."""
    without = lacking([t.last for t in tasks])
    if without:
        return undecided(2, without)
    found = gains(tasks)
    bounds = gains(tasks, alpha=2 * ALPHA / len(tasks))
    p, best = {}, {}
    for name in GAINS:
        keys = [key for key in found if key[0] == name]
        adjusted = holm(np.array([found[key].p_above for key in keys])).tolist()
        p[name], best[name] = min(zip(adjusted, keys, strict=True))
    none = [name for name in GAINS if all(bounds[key].high < GAIN for key in bounds if key[0] == name)]
    decisive = max(p, key=lambda name: p[name])
    why = "; ".join(
        f"{name} adds {found[best[name]].estimate:+.3f} on {best[name][1]} (adjusted p {p[name]:.2g})"
        for name in GAINS
    )
    if p[decisive] < ALPHA:
        verdict = "supported"
    elif none:
        verdict, decisive = "refuted", none[0]
        why += f"; {decisive} adds less than {GAIN} on every task"
    else:
        verdict = "undecided"
    one = found[best[decisive]]
    return Verdict(
        number=2,
        verdict=verdict,
        measure=f"gain of {decisive} over the instruction on {best[decisive][1]}",
        estimate=one.estimate,
        low=one.low,
        high=one.high,
        error_rate="at most 5 % (Holm over tasks; both components must pass)",
        why=f"{why}.",
        figure="claim-2",
    )


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
    last = effects.sel(site="answer_start").isel(round=-1)
    found = {n: _Inside.of(last.sel(layer=n)) for n in here}
    level = ALPHA / len(here)
    best = min(here, key=lambda n: found[n].p)
    if found[best].p < level:
        verdict, layer, name = "supported", best, found[best].weakest
    elif all(one.absent for one in found.values()):
        verdict, layer = "refuted", best
        name = found[best].absent[0]
    else:
        verdict, layer, name = "undecided", best, found[best].weakest
    estimate, low, high, _ = found[layer].parts[name]
    listed = ", ".join(f"{n} {v[0]:+.3f} [{v[1]:+.3f}, {v[2]:+.3f}]" for n, v in found[layer].parts.items())
    return Verdict(
        number=3,
        verdict=verdict,
        measure=f"{name} on the projection at answer_start, layer {layer}",
        estimate=estimate,
        low=low,
        high=high,
        error_rate=f"at most 5 % (every part must pass; {len(here)} layers, Bonferroni)",
        why=f"Layer {layer}: {listed}.",
        figure="claim-3",
    )


@dataclass(frozen=True, kw_only=True)
class _Inside:
    """Main effects and interactions at one layer: estimate, interval, one-sided p of the predicted sign."""

    parts: dict[str, tuple[float, float, float, float]]

    @staticmethod
    def of(here: xr.Dataset) -> "_Inside":
        parts = {}
        for name in (*COMPONENTS, *CONFLICTS):
            at = here.sel(effect=name)
            estimate, se, df = (float(at[v]) for v in ("estimate", "se", "df"))
            if not np.isfinite([estimate, se, df]).all():
                raise ValueError("the effects on the projection have no interval; see the refused estimates.")
            sign = -1 if name in COMPONENTS else 1
            p = float(stdtr(df, sign * estimate / se)) if se > 0 else 0.5
            parts[name] = (estimate, float(at["ci_low"]), float(at["ci_high"]), p)
        return _Inside(parts=parts)

    @property
    def p(self) -> float:
        """The largest p of all parts, which tests them jointly."""
        return max(part[3] for part in self.parts.values())

    @property
    def weakest(self) -> str:
        """The interaction with the largest p."""
        return max(CONFLICTS, key=lambda name: self.parts[name][3])

    @property
    def absent(self) -> list[str]:
        """Interactions smaller than the smallest relevant one."""
        margin = {n: SMALL * min(abs(self.parts[part][0]) for part in n.split(":")) for n in CONFLICTS}
        return [name for name in CONFLICTS if self.parts[name][1] > -margin[name]]


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
    rises = {
        t.name: mean_contrast(sum((_cell(t, m) for m in METHODS), start=0 * t.first) / len(METHODS) - t.first)
        for t in known
    }
    adjusted = dict(zip(rises, holm(np.array([c.p_above for c in rises.values()])).tolist(), strict=True))
    corrected = [name for name, p in adjusted.items() if p < ALPHA]
    why = "; ".join(
        f"{n} improve by {c.estimate:+.3f} (adjusted p {adjusted[n]:.2g})" for n, c in rises.items()
    )
    if not corrected:
        return undecided(4, f"No improvement of the outputs is significant: {why}.", "claim-4")
    accuracy = {n: detection[n].sel(measure="accuracy") for n in corrected}
    highest = max(accuracy, key=lambda n: float(accuracy[n]["ci_high"]))
    lowest = min(accuracy, key=lambda n: float(accuracy[n]["ci_low"]))
    name = highest
    if float(accuracy[highest]["ci_high"]) < RELIABLE:
        verdict = "supported"
    elif float(accuracy[lowest]["ci_low"]) > RELIABLE:
        verdict, name = "refuted", lowest
    else:
        verdict = "undecided"
    one = accuracy[name]
    return Verdict(
        number=4,
        verdict=verdict,
        measure=f"accuracy of discriminating a good from a bad output of its own ({name})",
        estimate=float(one["estimate"]),
        low=float(one["ci_low"]),
        high=float(one["ci_high"]),
        error_rate="at most 5 % (every task that improves must pass)",
        why=f"{why}.",
        figure="claim-4",
    )


def robust_to_evidence(follow: xr.DataArray | None) -> Verdict:
    """Claim 5, from the share of answers that follow the evidence in the last round."""
    if follow is None:
        return undecided(5, "No weak evidence was given for these items.", "claim-5")
    without = lacking([follow])
    if without:
        return undecided(5, without, "claim-5")
    follow = of_components(follow)
    cells = [follow.sel(m.coords) for m in METHODS]
    one = mean_contrast(sum(cells, start=0 * cells[0]) / len(METHODS))
    verdict = "supported" if one.high < FOLLOWED else "refuted" if one.low > FOLLOWED else "undecided"
    with_, without = (follow.sel(instruction=level).mean(COMPONENTS[1:]) for level in ("on", "off"))
    change = mean_contrast(with_ - without)
    return Verdict(
        number=5,
        verdict=verdict,
        measure="share of answers that follow weak evidence after the last round",
        estimate=one.estimate,
        low=one.low,
        high=one.high,
        error_rate="at most 5 %",
        why=f"The instruction changes that share by {change.estimate:+.3f} "
        f"[{change.low:+.3f}, {change.high:+.3f}].",
        figure="claim-5",
    )
