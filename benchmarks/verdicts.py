"""How often each of the five verdicts is wrong: simulated at the truths at which it is just wrong.

    python benchmarks/verdicts.py --runs 400

Items stand in clusters of five, outcomes are 0 or 1 with a spread between clusters, and every draw goes
through the study's own functions. A verdict is wrong if it is given at its boundary or beyond; ``!`` marks
shares above .07. The rows of clear truths have a fourth of the draws. The last lines are the worst case of
every verdict by clusters, as ``morality_lens/studies/rules.py`` keeps them (``MEASURED``).
"""

import argparse
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.design import COMPONENTS
from morality_lens.experiments.detection import signal_detection
from morality_lens.experiments.robustness import MOVES
from morality_lens.interactions.effects import factorial_effects
from morality_lens.probes.card import TrustCard
from morality_lens.studies.rules import FOLLOWED, GAIN, RELIABLE, SMALL, VOUCHED, Verdict
from morality_lens.studies.verdicts import (
    METHODS,
    Task,
    corrects_but_cannot_tell,
    gains_over_instruction,
    negative_interactions,
    no_best_method,
    robust_to_evidence,
)

CLUSTERS = (8, 12, 20, 40)
SIZE = 5
SPREAD = 10.0
"""Sum of the parameters of the beta distribution of shares over clusters: a correlation of 1/11 in them."""
LEVELS = ["off", "on"]
LABELS = [m.label for m in METHODS]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A truth under which some verdicts are wrong.

    Attributes:
        claim: number of the claim.
        truth: in words.
        wrong: the verdicts that would be wrong.
        draw: one verdict from a generator and a number of clusters.
    """

    claim: int
    truth: str
    wrong: tuple[str, ...]
    draw: Callable[[np.random.Generator, int], Verdict]


def codes_of(groups: int) -> np.ndarray:
    """The cluster of every item."""
    return np.repeat(np.arange(groups), SIZE)


def coords_of(groups: int) -> dict[str, Any]:
    """Coordinates of the items."""
    codes = codes_of(groups)
    return {"item": np.arange(len(codes)), "cluster": ("item", codes)}


def outcomes(rng: np.random.Generator, groups: int, share: float) -> np.ndarray:
    """0 or 1 by item, with a mean that varies over clusters around a share."""
    if share in (0.0, 1.0):
        return np.full(groups * SIZE, share)
    level = rng.beta(SPREAD * share, SPREAD * (1 - share), groups)
    return (rng.random(groups * SIZE) < level[codes_of(groups)]).astype(float)


def cube(groups: int, methods: np.ndarray) -> xr.DataArray:
    """Items by components, from items by the seven methods; nothing without a component."""
    shape = (groups * SIZE, 2, 2, 2)
    values = np.zeros(shape)
    for k, method in enumerate(METHODS):
        place = tuple(LEVELS.index(method[name]) for name in COMPONENTS)
        values[(slice(None), *place)] = methods[:, k]
    coords = {**coords_of(groups), **dict.fromkeys(COMPONENTS, LEVELS)}
    return xr.DataArray(values, dims=("item", *COMPONENTS), coords=coords)


def a_task(
    rng: np.random.Generator, groups: int, shares: dict[str, float], *, rest: float = 0.3, first: float = 0.3
) -> Task:
    """A task with these shares of right answers by method."""
    methods = np.stack([outcomes(rng, groups, shares.get(label, rest)) for label in LABELS], axis=1)
    start = xr.DataArray(outcomes(rng, groups, first), dims="item", coords=coords_of(groups))
    return Task(name="questions", last=cube(groups, methods), first=start, unit="share")


# -------------------------------------------------------------------------------------------- claim 1
def tied(rng: np.random.Generator, groups: int) -> Verdict:
    """Two methods are best on both tasks."""
    best = {"instruction": 0.7, "cot": 0.7}
    tasks = [a_task(rng, groups, best) for _ in range(2)]
    return no_best_method([tasks[0], _named(tasks[1], "prompts")])


def nearly_best(rng: np.random.Generator, groups: int) -> Verdict:
    """One method is best on one task and shares the first place on the other."""
    one, two = {"instruction": 0.9}, {"instruction": 0.9, "cot": 0.9}
    return no_best_method(
        [a_task(rng, groups, one), _named(a_task(rng, groups, two), "prompts")],
    )


def two_winners(rng: np.random.Generator, groups: int) -> Verdict:
    """Another method is far better on either task."""
    one, two = a_task(rng, groups, {"instruction": 0.9}), a_task(rng, groups, {"cot": 0.9})
    return no_best_method([one, _named(two, "prompts")])


def _named(task: Task, name: str) -> Task:
    return Task(name=name, last=task.last, first=task.first, unit=task.unit)


# -------------------------------------------------------------------------------------------- claim 2
def gain_at_the_margin(rng: np.random.Generator, groups: int) -> Verdict:
    """Chain of thought adds exactly the smallest relevant gain, feedback much."""
    shares = {"instruction": 0.5, "instruction+feedback": 0.8, "instruction+cot": 0.5 + GAIN}
    return gains_over_instruction([a_task(rng, groups, shares)])


def no_gain(rng: np.random.Generator, groups: int) -> Verdict:
    """Chain of thought adds nothing, feedback much."""
    shares = {"instruction": 0.5, "instruction+feedback": 0.8, "instruction+cot": 0.5}
    return gains_over_instruction([a_task(rng, groups, shares)])


def both_gain(rng: np.random.Generator, groups: int) -> Verdict:
    """Both components add much."""
    shares = {"instruction": 0.4, "instruction+feedback": 0.7, "instruction+cot": 0.7}
    return gains_over_instruction([a_task(rng, groups, shares)])


def rare_template(usual: float, rare: float) -> Callable[[np.random.Generator, int], Verdict]:
    """Chain of thought adds ``usual`` in most templates and ``rare`` in one of ten; feedback much."""

    def draw(rng: np.random.Generator, groups: int) -> Verdict:
        found = a_task(rng, groups, {"instruction+feedback": 0.95, "instruction": 0.5})
        gain = np.where(rng.random(groups) < 0.1, rare, usual)[codes_of(groups)]
        gain = gain + rng.normal(0, 0.02, len(gain))
        base = found.last.sel({"instruction": "on", "cot": "off", "feedback": "off"}).values
        found.last.loc[{"instruction": "on", "cot": "on", "feedback": "off"}] = base + gain
        return gains_over_instruction([found])

    return draw


# -------------------------------------------------------------------------------------------- claim 3
def card() -> TrustCard:
    """A card of a direction that passes all that was checked."""
    made = object.__new__(TrustCard)
    object.__setattr__(made, "lines", pd.DataFrame({"line": ["beats words"], "verdict": ["pass"]}))
    return made


CARD = card()


def inside(*layers: dict[str, float]) -> Callable[[np.random.Generator, int], Verdict]:
    """Effects on the projection with these means at each layer, main effects .5."""

    def draw(rng: np.random.Generator, groups: int) -> Verdict:
        y = np.zeros((groups * SIZE, 2, 2, 2, 1, 1, len(layers)))
        codes = codes_of(groups)
        for at, values in enumerate(layers):
            means = {"instruction": 0.5, "cot": 0.5, "feedback": 0.5, **values}
            for name, mean in means.items():
                each = mean + 0.1 * (rng.standard_normal(groups)[codes] + rng.standard_normal(len(codes)))
                coding = np.ones((2, 2, 2))
                for part in name.split(":"):
                    axis = COMPONENTS.index(part)
                    coding = coding * np.array([-0.5, 0.5]).reshape([2 if k == axis else 1 for k in range(3)])
                y[..., 0, 0, at] += each[:, None, None, None] * coding
        coords = {
            **coords_of(groups),
            **dict.fromkeys(COMPONENTS, LEVELS),
            "round": [1],
            "site": ["answer_start"],
            "layer": list(range(len(layers))),
        }
        array = xr.DataArray(
            y, dims=("item", *COMPONENTS, "round", "site", "layer"), coords=coords, attrs={"oriented": True}
        )
        effects = factorial_effects(array, COMPONENTS, method="pointwise", family=())
        return negative_interactions(effects, CARD, layers=range(len(layers)))

    return draw


# -------------------------------------------------------------------------------------------- claim 4
def told(rng: np.random.Generator, groups: int, share: float, *, rare: bool = False) -> xr.Dataset:
    """Discrimination whose greedy choices are right in a share of the pairs, all at a probability of .55.

    Args:
        rng: generator.
        groups: clusters.
        share: of right choices.
        rare: no choice is right in one cluster of ten, and more in the others.
    """
    right = [outcomes(rng, groups, share) for _ in range(2)]
    if rare:
        other = (rng.random(groups) < 0.1)[codes_of(groups)]
        usual = share / 0.9
        right = [np.where(other, 0.0, outcomes(rng, groups, usual)) for _ in range(2)]
    first, second = (0.45 + 0.1 * one for one in right)
    says = np.stack([first, 1 - second], axis=1)
    coords = {**coords_of(groups), "better": ["first", "second"]}
    return signal_detection(xr.DataArray(says, dims=("item", "better"), coords=coords))


def corrects(
    rise: float, share: float, *, rare: bool = False
) -> Callable[[np.random.Generator, int], Verdict]:
    """Outputs that rise, and a discrimination."""

    def draw(rng: np.random.Generator, groups: int) -> Verdict:
        task = a_task(rng, groups, {}, rest=0.3 + rise, first=0.3)
        return corrects_but_cannot_tell([task], {"questions": told(rng, groups, share, rare=rare)})

    return draw


# -------------------------------------------------------------------------------------------- claim 5
def evidence(with_: dict[str, float], against: dict[str, float], rest: float) -> Callable[..., Verdict]:
    """Shares of answers that move with the evidence and against it, by method; the rest move a little."""

    def draw(rng: np.random.Generator, groups: int) -> Verdict:
        parts = []
        for shares in (with_, against):
            quiet = rng.uniform(0, 2 * rest, (groups * SIZE, len(LABELS)))
            given = [
                outcomes(rng, groups, shares[n]) if n in shares else quiet[:, k] for k, n in enumerate(LABELS)
            ]
            methods = np.stack(given, axis=1)
            parts.append(cube(groups, methods))
        return robust_to_evidence(xr.concat(parts, "part").assign_coords(part=list(MOVES)))

    return draw


ALL = dict.fromkeys(LABELS, FOLLOWED)
CONFLICT = {"instruction:feedback": -0.3, "cot:feedback": -0.3}
CASES = (
    Case(claim=1, truth="two methods tie as best on both tasks", wrong=("supported", "refuted"), draw=tied),
    Case(
        claim=1, truth="best on one task, tied on the other", wrong=("supported", "refuted"), draw=nearly_best
    ),
    Case(claim=2, truth="a gain of 0", wrong=("supported",), draw=no_gain),
    Case(claim=2, truth=f"a gain of {GAIN}", wrong=("supported", "refuted"), draw=gain_at_the_margin),
    Case(
        claim=2,
        truth="+.05 in most templates, -.45 in one of ten (0)",
        wrong=("supported",),
        draw=rare_template(0.05, -0.45),
    ),
    Case(
        claim=2,
        truth=f"-.03 in most templates, +.47 in one of ten ({GAIN})",
        wrong=("supported", "refuted"),
        draw=rare_template(-0.03, 0.47),
    ),
    Case(
        claim=3,
        truth="cot:feedback 0 at both layers",
        wrong=("supported", "mixed"),
        draw=inside(*[{**CONFLICT, "cot:feedback": 0.0}] * 2),
    ),
    Case(
        claim=3,
        truth=f"cot:feedback -{SMALL:.0%} of the main effect at both layers",
        wrong=("refuted", "mixed"),
        draw=inside(*[{**CONFLICT, "cot:feedback": -0.5 * SMALL}] * 2),
    ),
    Case(
        claim=3,
        truth="both interactions at the smallest relevant size, one layer",
        wrong=("refuted",),
        draw=inside({"instruction:feedback": -0.5 * SMALL, "cot:feedback": -0.5 * SMALL}),
    ),
    Case(
        claim=3,
        truth="both negative at one layer, 0 at the other",
        wrong=("mixed", "refuted"),
        draw=inside(CONFLICT, {"instruction:feedback": 0.0, "cot:feedback": 0.0}),
    ),
    Case(
        claim=4,
        truth=f"greedy choice right in {RELIABLE}, outputs improve",
        wrong=("supported", "refuted"),
        draw=corrects(0.4, RELIABLE),
    ),
    Case(
        claim=4,
        truth="the same, never right in one template of ten",
        wrong=("supported", "refuted"),
        draw=corrects(0.4, RELIABLE, rare=True),
    ),
    Case(
        claim=4,
        truth=f"outputs improve by {GAIN}, choice right in half",
        wrong=("supported",),
        draw=corrects(GAIN, 0.5),
    ),
    Case(
        claim=5,
        truth=f"one method of seven moves {FOLLOWED} with the evidence, the rest .01",
        wrong=("supported", "refuted"),
        draw=evidence({"instruction": FOLLOWED}, {}, 0.01),
    ),
    Case(
        claim=5,
        truth=f"one method of seven moves {FOLLOWED} against it, the rest .01",
        wrong=("supported", "refuted"),
        draw=evidence({}, {"cot": FOLLOWED}, 0.01),
    ),
    Case(
        claim=5,
        truth=f"all methods move {FOLLOWED} both ways",
        wrong=("supported", "refuted"),
        draw=evidence(ALL, ALL, FOLLOWED),
    ),
)


CLEAR = (
    Case(claim=1, truth="far better methods, another one on each task", wrong=("refuted",), draw=two_winners),
    Case(claim=2, truth="both gain .3", wrong=("refuted",), draw=both_gain),
    Case(claim=3, truth="both interactions -.3", wrong=("refuted", "mixed"), draw=inside(CONFLICT, CONFLICT)),
    Case(
        claim=4,
        truth="outputs improve by .4, choice right in half",
        wrong=("refuted",),
        draw=corrects(0.4, 0.5),
    ),
    Case(claim=5, truth="all methods move .02 both ways", wrong=("refuted",), draw=evidence({}, {}, 0.02)),
    Case(
        claim=5,
        truth="one method of seven moves .6 with the evidence, the rest .01",
        wrong=("supported",),
        draw=evidence({"cot": 0.6}, {}, 0.01),
    ),
)
"""Truths at which a verdict is due: how often it is found."""


def simulate(case: Case, groups: int, runs: int, seed: int) -> Counter[str]:
    """How often each verdict is given."""
    rng = np.random.default_rng([seed, case.claim, groups])
    return Counter(case.draw(rng, groups).verdict for _ in range(runs))


def rows(runs: int, seed: int) -> Iterator[tuple[Case, int, Counter[str], int]]:
    """Every case, and with a fourth of the draws those with a clear truth, at every number of clusters."""
    for case in (*CASES, *CLEAR):
        draws = runs if case in CASES else max(1, runs // 4)
        for groups in CLUSTERS:
            yield case, groups, simulate(case, groups, draws, seed), draws


def main() -> None:
    """Print the table, and the worst case of every verdict."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    worst: dict[tuple[int, str], dict[int, float]] = {}
    print("| claim | truth | clusters | supported | refuted | mixed | undecided |")
    print("|---|---|---|---|---|---|---|")
    for case, groups, found, draws in rows(given.runs, given.seed):
        cells = []
        for verdict in ("supported", "refuted", "mixed", "undecided"):
            share = found[verdict] / draws
            wrong = verdict in case.wrong
            if wrong and case in CASES:
                kept = worst.setdefault((case.claim, verdict), {})
                kept[groups] = max(kept.get(groups, 0.0), share)
            cells.append(f"{share:.3f}{' wrong' if wrong else ''}{'!' if wrong and share > VOUCHED else ''}")
        print(f"| {case.claim} | {case.truth} | {groups} | {' | '.join(cells)} |", flush=True)
    for (claim, verdict), rates in worst.items():
        print(f"({claim}, {verdict!r}): { ({n: round(r, 3) for n, r in rates.items()}) },")


if __name__ == "__main__":
    main()
