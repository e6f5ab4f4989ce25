"""The five claims on made-up data: each verdict where it is due, and how often a wrong one is given."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from morality_lens.design import COMPONENTS, Design
from morality_lens.experiments.detection import signal_detection
from morality_lens.interactions.resampling import holm
from morality_lens.probes.card import TrustCard
from morality_lens.studies.verdicts import (
    METHODS,
    Task,
    Verdict,
    corrects_but_cannot_tell,
    gains_over_instruction,
    negative_interactions,
    no_best_method,
    robust_to_evidence,
)

LEVELS = ["off", "on"]


def task(name, means, *, n=30, noise=0.1, start=0.3, seed=0):
    """A task with these means by label, the rest at .3."""
    rng = np.random.default_rng(seed)
    items = [f"{name}{k}" for k in range(n)]
    coords = {"item": items, "cluster": ("item", items), **dict.fromkeys(COMPONENTS, LEVELS)}
    cube = xr.DataArray(rng.normal(0.3, noise, (n, 2, 2, 2)), dims=("item", *COMPONENTS), coords=coords)
    for label, mean in means.items():
        at = Design().condition(label).coords
        cube.loc[at] += mean - 0.3
    first = xr.DataArray(
        rng.normal(start, noise, n), dims="item", coords={"item": items, "cluster": ("item", items)}
    )
    return Task(name=name, last=cube, first=first, unit="share")


def by_label(label):
    return next(m for m in METHODS if m.label == label)


def test_holm_by_hand():
    assert holm(np.array([0.01, 0.04, 0.03])) == pytest.approx([0.03, 0.06, 0.06])
    assert holm(np.array([0.5, 0.9])) == pytest.approx([1.0, 1.0])


def test_different_winners_on_two_tasks_support_the_first_claim():
    found = no_best_method([task("one", {"instruction": 0.9}), task("two", {"cot": 0.9}, seed=1)])
    assert found.verdict == "supported"
    assert found.low > 0


def test_one_winner_everywhere_refutes_it_and_no_difference_leaves_it_open():
    same = {"instruction+feedback": 0.9}
    found = no_best_method([task("one", same), task("two", same, seed=1)])
    assert found.verdict == "refuted"
    assert "instruction+feedback" in found.why
    assert no_best_method([task("one", {}), task("two", {}, seed=1)]).verdict == "undecided"
    assert no_best_method([task("one", same)]).verdict == "undecided"


@pytest.mark.slow(seconds=20)
def test_one_method_that_is_best_everywhere_is_seldom_called_none():
    wrong = 0
    for seed in range(150):
        tie = {"instruction": 0.5, "cot": 0.5}  # both are best: "no method is best" would be false
        pair = [task("one", tie, n=12, seed=2 * seed), task("two", tie, n=12, seed=2 * seed + 1)]
        wrong += no_best_method(pair).verdict == "supported"
    assert wrong / 150 <= 0.05


def test_gains_over_the_instruction():
    both = {"instruction": 0.5, "instruction+feedback": 0.7, "instruction+cot": 0.6}
    assert gains_over_instruction([task("one", both)]).verdict == "supported"
    one = {**both, "instruction+cot": 0.5}
    assert gains_over_instruction([task("one", one)]).verdict == "undecided"
    less = {**both, "instruction+cot": 0.3}
    assert gains_over_instruction([task("one", less)]).verdict == "refuted"
    tiny = {**both, "instruction+cot": 0.5}
    exact = gains_over_instruction([task("one", tiny, n=400, noise=0.02)])
    assert exact.verdict == "refuted"
    assert "less than 0.02" in exact.why


def effects(values, se=0.02, layers=(2, 3)):
    """Effects at some layers in the last round."""
    names = ["instruction", "cot", "feedback", "instruction:cot", "instruction:feedback", "cot:feedback"]
    estimate = np.array([[values[layer].get(n, 0.0) for layer in layers] for n in names])
    dims, shape = ("effect", "round", "site", "layer"), (len(names), 1, 1, len(layers))
    half = 2.0 * se
    full = {
        "estimate": estimate,
        "se": np.full_like(estimate, se),
        "df": np.full_like(estimate, 40.0),
        "ci_low": estimate - half,
        "ci_high": estimate + half,
    }
    return xr.Dataset(
        {n: (dims, a.reshape(shape)) for n, a in full.items()},
        coords={"effect": names, "round": [5], "site": ["answer_start"], "layer": list(layers)},
    )


@pytest.fixture
def card(monkeypatch):
    made = object.__new__(TrustCard)
    monkeypatch.setattr(TrustCard, "verdict", property(lambda _: "pass"))
    return made


MAINS = {"instruction": 0.5, "cot": 0.4, "feedback": 0.5}


def test_negative_interactions_inside(card):
    conflict = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": -0.2}
    none = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": 0.1}
    vague = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": -0.04}
    for two, three, expected in (
        (none, conflict, "supported"),
        (none, none, "refuted"),
        (none, vague, "undecided"),
        (conflict, conflict, "supported"),
    ):
        found = negative_interactions(effects({2: two, 3: three}), card, layers=[3, 2])
        assert found.verdict == expected, found.why
    assert negative_interactions(effects({2: none, 3: conflict}), card, layers=[2]).verdict == "refuted"
    assert negative_interactions(None, card, layers=[2]).verdict == "undecided"
    weak = {**conflict, "cot": 0.0}
    assert negative_interactions(effects({2: weak, 3: weak}), card, layers=[3]).verdict != "supported"


def test_a_direction_that_is_not_trusted_decides_nothing(monkeypatch):
    conflict = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": -0.2}
    found = negative_interactions(effects({2: conflict, 3: conflict}), None, layers=[3])
    assert found.verdict == "undecided"
    assert "no trust card" in found.why
    failed = object.__new__(TrustCard)
    object.__setattr__(failed, "lines", pd.DataFrame({"line": ["beats words"], "verdict": ["fail"]}))
    found = negative_interactions(effects({2: conflict, 3: conflict}), failed, layers=[3])
    assert found.verdict == "undecided"
    assert "beats words" in found.why


def told(p, n=40, seed=0):
    rng = np.random.default_rng(seed)
    values = np.stack([rng.random(n) < p, rng.random(n) >= p], axis=1).astype(float)
    items = [f"i{k}" for k in range(n)]
    coords = {"item": items, "better": ["first", "second"], "cluster": ("item", items)}
    return signal_detection(xr.DataArray(values, dims=("item", "better"), coords=coords))


def test_corrects_but_cannot_tell():
    better = {m.label: 0.8 for m in METHODS}
    one = task("questions", better)
    for p, expected in ((0.55, "supported"), (0.97, "refuted"), (0.75, "undecided")):
        assert corrects_but_cannot_tell([one], {"questions": told(p)}).verdict == expected
    flat = corrects_but_cannot_tell([task("questions", {})], {"questions": told(0.55)})
    assert flat.verdict == "undecided"
    two = task("prompts", better, seed=4)
    mixed = corrects_but_cannot_tell([one, two], {"questions": told(0.55), "prompts": told(0.97)})
    assert mixed.verdict == "undecided"
    assert corrects_but_cannot_tell([one], {}).verdict == "undecided"


def test_robust_to_evidence():
    for share, expected in ((0.02, "supported"), (0.3, "refuted"), (0.1, "undecided")):
        cube = (
            task("q", {"none": share}, noise=0.05, seed=2).last * 0
            + task("q", {}, noise=0.03).last
            - 0.3
            + share
        )
        found = robust_to_evidence(cube)
        assert found.verdict == expected
        assert found.low < share + 0.02
    assert robust_to_evidence(None).verdict == "undecided"


def test_a_verdict_goes_through_json():
    for one in (robust_to_evidence(None), robust_to_evidence(task("q", {}).last)):
        again = Verdict.from_json(json.loads(json.dumps(one.to_json())))
        assert again.to_json() == one.to_json()
