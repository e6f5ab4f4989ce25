"""Answers as trajectories: by hand, under a null, with a planted difference, and against lifelines' rule."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from synthetic import MadeRun, make_run

from morality_lens.design import Design, Factor
from morality_lens.experiments.trajectories import (
    change_cube,
    compare_transitions,
    describe_transitions,
    reply_cube,
    settling_curve,
    settling_times,
)
from morality_lens.interactions.effects import factorial_effects
from morality_lens.items.kinds import OpenPrompt, Question
from morality_lens.judges.questions import judge_answers
from morality_lens.plots import round_means, transition_effects
from morality_lens.report.trajectories import trajectory_section


def made(courses: dict[tuple[str, str], str], *, cluster=lambda name: name) -> MadeRun:
    """A run whose dialogues (item, level of cot) gave these letters, ``?`` for none read, ``.`` for none."""
    rounds = len(next(iter(courses.values()))) - 1
    design = Design(factors=(Factor(name="cot"),), rounds=rounds)
    names = list(dict.fromkeys(name for name, _ in courses))
    items = [
        Question(
            id=name,
            cluster=cluster(name),
            context="",
            question=f"Who was {name}?",
            options=("One", "Two", "Not known"),
            unknown=2,
            label=2,
            biased=0,
        )
        for name in names
    ]
    by_id = {item.id: item for item in items}
    keys = [
        (name, level, number)
        for (name, level), course in courses.items()
        for number, letter in enumerate(course)
        if letter != "."
    ]
    texts = [courses[name, level][number].replace("?", "I would not say") for name, level, number in keys]
    judged = judge_answers(texts, [by_id[name] for name, _, _ in keys])
    table = pd.concat([pd.DataFrame(keys, columns=["item", "cot", "round"]), judged], axis=1)
    run = MadeRun(path=make_run(items=1).path, manifest={"study": {"design": design.manifest()}, "parts": []})
    listed = pd.DataFrame({"cluster": [item.cluster for item in items]}, index=pd.Index(names, name="item"))
    vars(run).update(answers=table, asked=by_id, _stored=tuple(items), items=listed)
    return run


def both(courses: dict[str, str]) -> dict[tuple[str, str], str]:
    return {(name, level): course for name, course in courses.items() for level in ("off", "on")}


HAND = both({"a": "ABAAA", "b": "AAAAA", "c": "ABCAB", "d": "A?A??", "e": "AABBB"})


def test_replies_changes_and_returns_are_those_made_by_hand():
    run = made(HAND)
    replies = reply_cube(run).sel(cot="off")
    assert replies.sel(item="c").values.tolist() == [0, 1, 2, 0, 1]
    assert replies.sel(item="d").values.tolist() == [0, -1, 0, -1, -1]
    changed = change_cube(run).sel(cot="off")
    assert changed["round"].values.tolist() == [1, 2, 3, 4]
    want = {"a": [1, 1, 0, 0], "b": [0, 0, 0, 0], "c": [1, 1, 1, 1], "d": [1, 1, 1, 0], "e": [0, 1, 0, 0]}
    assert {name: changed.sel(item=name).values.tolist() for name in want} == want
    returned = change_cube(run, "returned").sel(cot="off")
    assert returned["round"].values.tolist() == [2, 3, 4]
    back = {"a": [1, 0, 0], "b": [0, 0, 0], "c": [0, 1, 1], "d": [1, 1, 0], "e": [0, 0, 0]}
    assert {name: returned.sel(item=name).values.tolist() for name in back} == back


def test_a_missing_answer_leaves_what_depends_on_it_unknown():
    run = made(both({"a": "AB.BA", "b": "AAAAA"}))
    changed = change_cube(run).sel(cot="on", item="a").values
    assert np.isnan(changed).tolist() == [False, True, True, False]
    assert changed[3] == 1
    returned = change_cube(run, "returned").sel(cot="on", item="a").values
    assert np.isnan(returned).all()  # what came before is not all known


def test_settling_is_the_first_round_that_the_next_two_repeat():
    times = settling_times(made(HAND)).sel(cot="off")
    assert times.attrs == {"horizon": 3, "still": 2}
    assert times["time"].sel(item=list("abe")).values.tolist() == [2, 0, 2]
    assert times["settled"].values.tolist() == [True, True, False, False, True]
    assert times["time"].sel(item=list("cd")).values.tolist() == [2, 2]  # known not to have, up to round 2
    assert times["restricted"].values.tolist() == [2, 0, 3, 3, 2]
    short = settling_times(made(HAND), still=1).sel(cot="off")
    assert short["time"].sel(item=list("abde")).values.tolist() == [2, 0, 3, 0]
    assert not bool(short["settled"].sel(item="c"))


def test_an_answer_that_ends_early_is_censored_where_it_ends():
    times = settling_times(made(both({"a": "ABC..", "b": "AAA..", "c": "AB...", "d": "ABCCC"}))).sel(
        cot="off"
    )
    assert times["settled"].values.tolist() == [False, True, False, True]
    assert times["time"].values.tolist() == [0, 0, -1, 2]
    assert np.isnan(times["restricted"].values).tolist() == [True, False, True, False]


def test_what_cannot_be_read_does_not_settle():
    times = settling_times(made(both({"a": "?????", "b": "A????", "c": "?AAA?"})))
    assert not times["settled"].sel(item=["a", "b"]).any()
    assert times["time"].sel(item="c").values.tolist() == [1, 1]


def test_the_curve_stays_at_zero_once_all_have_settled_and_the_page_names_the_fastest():
    courses = both({f"i{k}": "ABBBBB" for k in range(9)}) | both({"x": "AB...."})
    courses |= {(f"i{k}", "on"): "AAAAAA" for k in range(9)}
    courses["x", "on"] = "AAAA.."
    curve = settling_curve(settling_times(made(courses)), draws=50)
    assert curve["estimate"].sel(cot="on").values.tolist() == [0, 0, 0, 0]
    assert np.isfinite(curve["mean"]).all()
    section = trajectory_section(made(courses))
    told = next(line for line in section.lines if "in a row" in line)
    assert "after 0.000 under no component" not in told
    assert "under cot to" in told.replace("0.000 [0.000, 0.000] ", "")


def test_the_page_of_a_run_in_which_all_ended_early_says_what_is_not_known():
    section = trajectory_section(made(both({f"i{k}": "AB...." for k in range(9)})))
    assert section is not None
    assert any("ended early" in line for line in section.lines)


def test_rounds_that_one_condition_lacks_are_not_averaged_over():
    courses = {
        (f"i{k}", level): "ABBB" if level == "off" else "AB.." for k in range(10) for level in ("off", "on")
    }
    section = trajectory_section(made(courses))
    rows = section.tables[0]["rows"] if section.tables else []
    assert not [row for row in rows if row[0].startswith("Answers that change")]
    assert any("Answers that change, all rounds" in line for line in section.lines)


def test_without_early_ends_the_curve_is_the_share_and_the_mean_its_area():
    names = [f"i{k}" for k in range(12)]
    courses = {
        (n, level): "ABAAA" if k % 3 else "AAAAA" for k, n in enumerate(names) for level in ("off", "on")
    }
    times = settling_times(made(courses))
    curve = settling_curve(times)
    assert np.allclose(curve["estimate"].sel(cot="on"), [8 / 12, 8 / 12, 0])
    assert np.allclose(curve["mean"], curve["estimate"].sum("round"))
    assert np.allclose(curve["mean"], times["restricted"].mean("item"))
    assert (curve["ci_low"] <= curve["estimate"]).all()
    assert (curve["estimate"] <= curve["ci_high"]).all()
    assert (curve.attrs["censored"], curve.attrs["ended_early"]) == (0, 0)


def product_limit(times, settled, rounds):
    """The Kaplan-Meier estimate, written out."""
    left, curve = 1.0, []
    for number in range(rounds):
        at_risk = sum(t >= number for t in times)
        events = sum(t == number and s for t, s in zip(times, settled, strict=True))
        left *= 1 - events / at_risk if at_risk else np.nan
        curve.append(left)
    return curve


def test_with_early_ends_the_curve_is_the_product_limit_estimate():
    rows = ["AAAAA", "ABC..", "ABBBB", "ABCCC", "AB...", "ABA..", "AAA..", "ABABA", "ABBBB", "AAAAA"]
    run = made(both({f"i{k}": row for k, row in enumerate(rows)}))
    times = settling_times(run)
    curve = settling_curve(times, draws=300)
    one = times.sel(cot="off")
    want = product_limit(one["time"].values.tolist(), one["settled"].values.tolist(), 3)
    assert np.allclose(curve["estimate"].sel(cot="off"), want)
    assert curve.attrs["ended_early"] == int(times["restricted"].isnull().sum()) > 0
    assert (curve["mean_low"] <= curve["mean"]).all()
    # Taking the censored ones for settled, or leaving them out, would give other curves.
    assert not np.allclose(want, [(one["time"] > n).mean() for n in range(3)])


def simulated(seed: int, *, lifted: float, items: int = 24) -> MadeRun:
    """A run of such chains, two items to a cluster."""
    return made(chains(seed, lifted=lifted, items=items), cluster=pair)


def pair(name: str) -> str:
    return f"t{int(name[1:]) // 2}"


def chains(seed: int, *, lifted: float, items: int = 24, rounds: int = 4) -> dict[tuple[str, str], str]:
    """Chains over A and C, two items of a cluster alike; with cot on, A gives way to C more often."""
    rng = np.random.default_rng(seed)
    courses = {}
    for k, level in itertools.product(range(items), ("off", "on")):
        stay, letters = 0.3 + 0.4 * ((k // 2) % 3) / 2, [rng.choice(["A", "C"])]
        for _ in range(rounds):
            leave = 1 - stay + (lifted if level == "on" and letters[-1] == "A" else 0.0)
            other = "C" if letters[-1] == "A" else "A"
            letters.append(other if rng.random() < min(leave, 1.0) else letters[-1])
        courses[f"i{k}", level] = "".join(letters)
    return courses


def test_a_planted_difference_of_transitions_is_found_where_it_was_planted():
    found = compare_transitions(simulated(0, lifted=0.45, items=40)).sel(factor="cot")
    assert float(found["p_adj"].sel(before="wrong", after="right")) < 0.01
    assert float(found["estimate"].sel(before="wrong", after="right")) > 0.2
    assert float(found["p_adj"].sel(before="right", after="wrong")) > 0.05
    assert np.isnan(found["estimate"].sel(before="unparsed")).all()
    told = describe_transitions(compare_transitions(simulated(0, lifted=0.45, items=40)))
    assert told.startswith("cot: dialogues go other ways with it: after wrong answers come ")


def test_the_shares_compared_are_those_counted_by_hand():
    run = simulated(3, lifted=0.2)
    found = compare_transitions(run, draws=50).sel(factor="cot")
    replies = reply_cube(run)
    for level in ("off", "on"):
        own = replies.sel(cot=level).values
        before, after = own[:, :-1], own[:, 1:]
        share = (after[before == 0] == 2).mean()
        assert float(found[level].sel(before="wrong", after="right")) == pytest.approx(share)
    assert int(found["n"].sel(before="wrong")) == int((replies.values[:, :, :-1] == 0).sum())


def test_where_a_factor_does_nothing_p_is_below_05_in_about_one_of_twenty_runs():
    low = [
        float(compare_transitions(simulated(seed, lifted=0.0), draws=200)["p_adj"].min()) <= 0.05
        for seed in range(80)
    ]
    assert 0 <= sum(low) <= 10  # binomial(80, .05): 11 or more in 4 of 1,000


@settings(max_examples=15, deadline=None)
@given(st.permutations(range(24)))
def test_the_order_of_the_items_changes_no_comparison(order):
    courses = chains(5, lifted=0.3)
    run = made(courses, cluster=pair)
    both_levels = itertools.product([f"i{k}" for k in order], ("off", "on"))
    moved = made({key: courses[key] for key in both_levels}, cluster=pair)
    one, other = compare_transitions(run, draws=20), compare_transitions(moved, draws=20)
    for name in ("estimate", "ci_low", "off", "on", "n"):
        assert np.allclose(one[name], other[name], equal_nan=True)


def test_what_cannot_be_compared_is_refused_in_words():
    few = made(both({f"i{k}": "ABC" for k in range(7)}))
    with pytest.raises(ValueError, match="8 clusters or more to swap; got 7"):
        compare_transitions(few)
    with pytest.raises(ValueError, match=r"needs factors that were run off and on.*'persona'"):
        compare_transitions(few, ["persona"])
    with pytest.raises(ValueError, match=r"returned is known from round 2 on; the run ends with round 1"):
        change_cube(made(both({"a": "AB"})), "returned")
    with pytest.raises(ValueError, match="measure must be one of"):
        inspect.unwrap(change_cube)(few, "moved")
    with pytest.raises(ValueError, match=r"2 rounds later .* run ends with round 1"):
        settling_times(made(both({"a": "AB"})))
    open_run = made(both({"a": "AB"}))
    vars(open_run).update(asked={"a": OpenPrompt(id="a", cluster="a", text="It was")})
    with pytest.raises(ValueError, match="free text is no reply"):
        reply_cube(open_run)


def test_changes_and_settling_times_go_through_factorial_effects():
    rng = np.random.default_rng(1)
    courses = {
        (f"i{k}", level): "".join(rng.choice(["A", "C"], size=5)) if level == "on" else "AAAAA"
        for k in range(30)
        for level in ("off", "on")
    }
    run = made(courses)
    effects = factorial_effects(change_cube(run))
    assert (effects["estimate"].sel(effect="cot") > 0.2).all()
    slower = factorial_effects(settling_times(run)["restricted"])
    assert float(slower["estimate"].sel(effect="cot")) > 0.5


def test_figures_and_the_section_show_what_was_found():
    run = simulated(0, lifted=0.45, items=40)
    compared = compare_transitions(run)
    figure = transition_effects(compared)
    shown = np.array(figure.data[0].z, dtype=float)
    assert np.allclose(shown, compared["estimate"].values[0], equal_nan=True)
    assert figure.data[0].text[1][0].endswith("*")
    with pytest.raises(ValueError, match=r"result of experiments.compare_transitions"):
        transition_effects(compared.isel(factor=0))
    with pytest.raises(ValueError, match="over round"):
        round_means(compared, title="x")
    vars(run).update(names_good=True)
    section = trajectory_section(run)
    assert section is not None
    names = [name for name, _, _ in section.figures]
    assert {"answers-that-change", "answers-that-go-back", "settling", "transition-effects"} <= set(names)
    assert any("3 times in a row" in line for line in section.lines)
    assert {row[0] for row in section.tables[0]["rows"]} >= {"Answers that change, all rounds"}
