"""The five claims on made-up data: each verdict where it is due, and how often a wrong one is given."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from morality_lens.design import COMPONENTS, Design
from morality_lens.experiments.detection import signal_detection
from morality_lens.experiments.robustness import MOVES
from morality_lens.interactions.resampling import holm
from morality_lens.probes.card import TrustCard
from morality_lens.studies.rules import MEASURED, VERDICTS, VOUCHED, Verdict, error_rate
from morality_lens.studies.verdicts import (
    METHODS,
    Task,
    corrects_but_cannot_tell,
    gains_over_instruction,
    mean_contrast,
    negative_interactions,
    no_best_method,
    robust_to_evidence,
)

LEVELS = ["off", "on"]
ROOT = Path(__file__).parents[2]


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


def test_a_gain_below_the_smallest_relevant_one_supports_nothing():
    shares = {"instruction": 0.5, "instruction+feedback": 0.7, "instruction+cot": 0.504}
    found = gains_over_instruction([task("one", shares, n=400, noise=0.002)])
    assert found.verdict == "refuted"  # +.004 with an interval of +-.0003
    assert 0 < found.low < found.high < 0.02
    shares["instruction+cot"] = 0.53
    assert gains_over_instruction([task("one", shares, n=400, noise=0.002)]).verdict == "supported"


def test_a_refuted_gain_is_corrected_for_its_two_components():
    """Two-sided p of .06 for one component: below .05 on one side without the correction, not with it."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 30)
    noise = (noise - noise.mean()) / noise.std(ddof=1)
    for t, expected in ((-1.95, "undecided"), (-2.6, "refuted")):
        made = task("one", {"instruction+feedback": 0.9})
        base = made.last.sel(Design().condition("instruction").coords).values
        made.last.loc[Design().condition("instruction+cot").coords] = (
            base + 0.02 + 0.01 * (noise + t / np.sqrt(30))
        )
        assert gains_over_instruction([made]).verdict == expected


def along(values, clusters=None):
    items = np.arange(len(values))
    coords = {"item": items, "cluster": ("item", items if clusters is None else clusters)}
    return xr.DataArray(np.asarray(values, float), dims="item", coords=coords)


def test_nothing_is_certain_where_nothing_varies():
    same = mean_contrast(along(np.full(8, 0.05)))
    assert same.p_above == pytest.approx(0.5**8)  # the signs of eight clusters
    assert same.p_below == 1
    none = mean_contrast(along(np.zeros(40)), bound=0.02)
    assert none.p_below == pytest.approx(0.98**40)  # 2 % of unseen changes are not excluded
    assert none.p_above == 1
    assert mean_contrast(along(np.zeros(40))).p_above == 1
    still = {m.label: 0.5 for m in METHODS}
    assert gains_over_instruction([task("one", still, noise=0.0)]).verdict == "undecided"


def test_fewer_than_eight_clusters_decide_nothing():
    rng = np.random.default_rng(0)
    for n, enough in ((7, False), (8, True)):
        values = along(rng.normal(0.5, 0.01, 3 * n), np.repeat(np.arange(n), 3))
        if enough:
            assert mean_contrast(values).p_above < 1e-4
        else:
            with pytest.raises(ValueError, match="at least 8 clusters"):
                mean_contrast(values)
    with pytest.raises(ValueError, match="at least 8 clusters"):
        robust_to_evidence(moves(n=7))
    better = task("questions", {m.label: 0.8 for m in METHODS})
    assert "8 clusters" in corrects_but_cannot_tell([better], {"questions": told(0.5, n=7)}).why


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
        "skew": np.zeros_like(estimate),
        "p": np.full_like(estimate, 0.5),
        "ci_low": estimate - half,
        "ci_high": estimate + half,
    }
    return xr.Dataset(
        {n: (dims, a.reshape(shape)) for n, a in full.items()},
        coords={"effect": names, "round": [5], "site": ["answer_start"], "layer": list(layers)},
        attrs={"n_clusters": 40},
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
    absent = {**none, "cot:feedback": 0.01}
    vague = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": -0.04}
    for two, three, expected in (
        (none, conflict, "mixed"),  # cot:feedback is above zero at one layer and below at the other
        (absent, conflict, "supported"),
        (absent, absent, "refuted"),
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


def test_every_judged_layer_is_listed_and_layers_of_opposite_sign_are_mixed(card):
    conflict = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": -0.2}
    opposite = {**MAINS, "instruction:feedback": -0.3, "cot:feedback": 0.07}
    found = negative_interactions(effects({2: opposite, 3: conflict}), card, layers=[3, 2])
    assert found.verdict == "mixed"
    assert (found.estimate, "layer 2" in found.measure) == (0.07, True)
    assert found.why.startswith("Layer 2: ")
    assert "Layer 3: " in found.why
    assert found.error_rate.startswith("nominal 5%")
    open_to = {**opposite, "cot:feedback": 0.01}  # not distinguishable from zero: no disagreement
    found = negative_interactions(effects({2: open_to, 3: conflict}), card, layers=[3, 2])
    assert found.verdict == "supported"
    assert "Layer 2: " in found.why
    few = effects({2: conflict, 3: conflict}).assign_attrs(n_clusters=7)
    assert negative_interactions(few, card, layers=[3]).verdict == "undecided"
    flat = effects({2: conflict, 3: conflict}, se=0.0)  # no variance, no test
    assert negative_interactions(flat, card, layers=[3]).verdict != "supported"


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


def test_an_accuracy_that_is_missing_decides_nothing():
    one = task("questions", {m.label: 0.8 for m in METHODS})
    for lost in ("choice_accuracy", "accuracy"):
        half = told(0.55)
        for name in ("estimate", "ci_low", "ci_high"):
            half[name].loc[{"measure": lost}] = np.nan
        found = corrects_but_cannot_tell([one], {"questions": half})
        assert found.verdict == "undecided"
        assert "was not measured" in found.why


def test_items_without_an_outcome_are_counted_and_no_task_is_refused():
    one, two = task("one", {"instruction": 0.9}), task("two", {"cot": 0.9}, seed=1)
    one.last[:2, 1, 0, 1] = np.nan
    for judged in (no_best_method, gains_over_instruction):
        with pytest.raises(ValueError, match="2 of 30 items lack one"):
            judged([one, two])
    with pytest.raises(ValueError, match="at least one task"):
        gains_over_instruction([])


def test_what_is_right_every_time_is_reliable_at_any_probability():
    better = task("questions", {m.label: 0.8 for m in METHODS})
    rng, items = np.random.default_rng(0), np.arange(40)
    first = 0.6 + rng.normal(0, 0.01, 40)
    coords = {"item": items, "better": ["first", "second"], "cluster": ("item", items)}
    says = xr.DataArray(np.stack([first, 1 - first], axis=1), dims=("item", "better"), coords=coords)
    found = corrects_but_cannot_tell([better], {"questions": signal_detection(says)})
    assert found.verdict == "refuted"
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert 0.85 < found.low < 1.0  # 40 of 40 do not exclude that one in twelve is wrong
    assert "mean probability of the better output (questions) 0.599" in found.why
    wrong = signal_detection(says, said=xr.zeros_like(says) + xr.DataArray([1, 1], dims="better"))
    assert corrects_but_cannot_tell([better], {"questions": wrong}).verdict == "supported"


def test_a_task_that_may_improve_is_asked_too():
    one, two = task("questions", {m.label: 0.8 for m in METHODS}), task("prompts", {}, n=10, noise=1.0)
    both = {"questions": told(0.55), "prompts": told(0.97)}
    assert corrects_but_cannot_tell([one, two], both).verdict == "undecided"
    flat = task("prompts", {}, seed=4, noise=0.02)  # improves by less than the smallest relevant gain
    found = corrects_but_cannot_tell([one, flat], both)
    assert found.verdict == "supported"
    barely = task("questions", {m.label: 0.305 for m in METHODS}, noise=0.002)
    assert corrects_but_cannot_tell([barely], both).verdict == "undecided"


def moves(with_=0.02, against=0.01, *, n=40, noise=0.005, seed=0):
    """Shares of answers that move with the evidence and against it, by item and method."""
    rng, items = np.random.default_rng(seed), np.arange(n)
    coords = {"item": items, "cluster": ("item", items), **dict.fromkeys(COMPONENTS, LEVELS)}
    cube = xr.DataArray(rng.uniform(-noise, noise, (n, 2, 2, 2, 2)), dims=("item", *COMPONENTS, "part"))
    means = xr.DataArray([with_, against], dims="part", coords={"part": list(MOVES)})
    return (cube.assign_coords(coords) + means).clip(0, 1).transpose("item", *COMPONENTS, "part")


def test_robust_to_evidence():
    for share, expected in ((0.02, "supported"), (0.3, "refuted"), (0.1, "undecided")):
        found = robust_to_evidence(moves(with_=share))
        assert found.verdict == expected
        assert found.low < share + 0.02
    assert robust_to_evidence(None).verdict == "undecided"


def test_answers_that_move_against_the_evidence_are_not_robust():
    found = robust_to_evidence(moves(with_=0.02, against=0.3))
    assert found.verdict == "refuted"
    assert "move against it" in found.measure
    halves = robust_to_evidence(moves(with_=0.25, against=0.25))  # none on the whole
    assert halves.verdict == "refuted"


def test_one_method_of_seven_that_follows_refutes_robustness():
    one = moves()
    one.loc[{**by_label("cot").coords, "part": MOVES[0]}] += 0.58
    found = robust_to_evidence(one)
    assert found.verdict == "refuted"
    assert found.measure.endswith("cot")
    assert found.estimate == pytest.approx(0.6, abs=0.01)
    one = moves()
    one.loc[{**by_label("cot").coords, "part": MOVES[0]}] += 0.075  # .095, and its interval is narrow
    assert robust_to_evidence(one).verdict == "supported"
    one = moves(noise=0.02)
    one.loc[{**by_label("cot").coords, "part": MOVES[0]}] += 0.08
    assert robust_to_evidence(one).verdict == "undecided"


def test_answers_that_never_move_are_robust_only_from_many_clusters_on():
    assert robust_to_evidence(moves(0.0, 0.0, n=20, noise=0.0)).verdict == "undecided"
    assert robust_to_evidence(moves(0.0, 0.0, n=60, noise=0.0)).verdict == "supported"


def test_the_note_on_the_letters_goes_into_the_verdict():
    assert "letters hold 10%" in robust_to_evidence(moves().assign_attrs(option_note="letters hold 10%.")).why


def test_error_rates_are_nominal_and_measured_and_none_where_nothing_is_decided():
    assert error_rate(1, "undecided", 20) == ""
    found = no_best_method([task("one", {}), task("two", {}, seed=1)])
    assert (found.verdict, found.error_rate) == ("undecided", "")
    for (claim, verdict), rates in MEASURED.items():
        assert set(rates) == {8, 12, 20, 40}
        assert verdict in VERDICTS
        for n, rate in rates.items():
            said = error_rate(claim, verdict, n + 2)
            assert said.startswith("nominal 5%, 2.5% on each side; measured ")
            assert f"measured {rate:.1%} (worst simulated case, {n} clusters)" in said
            assert ("cannot know" in said) == (rate > VOUCHED)


@pytest.mark.slow(seconds=25)
@pytest.mark.parametrize("claim", [1, 2, 3, 4, 5])
def test_the_measured_rates_are_those_of_the_benchmark(claim):
    """Within chance, for every case of the claim at twelve clusters, and below .07 where that can be had."""
    spec = importlib.util.spec_from_file_location("simulated", ROOT / "benchmarks" / "verdicts.py")
    made = importlib.util.module_from_spec(spec)
    sys.modules["simulated"] = made
    spec.loader.exec_module(made)
    runs, worst = 60, {}
    for case in (one for one in made.CASES if one.claim == claim):
        found = made.simulate(case, 12, runs, seed=5)
        for verdict in case.wrong:
            worst[verdict] = max(worst.get(verdict, 0.0), found[verdict] / runs)
    assert set(worst) == {verdict for number, verdict in MEASURED if number == claim}
    for verdict, share in worst.items():
        kept = MEASURED[claim, verdict][12]
        assert abs(share - kept) < 4 * np.sqrt(max(kept, 0.02) / runs)


def test_a_verdict_goes_through_json():
    for one in (robust_to_evidence(None), robust_to_evidence(moves())):
        again = Verdict.from_json(json.loads(json.dumps(one.to_json())))
        assert again.to_json() == one.to_json()
