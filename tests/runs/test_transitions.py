"""Answers between rounds are counted as by hand, whatever is missing."""

import inspect
import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from synthetic import MadeRun, make_run

from morality_lens.design import Design, Factor
from morality_lens.items.kinds import OpenPrompt, Question, Rating
from morality_lens.judges.questions import judge_answers
from morality_lens.plots import answer_flow, transition_matrices
from morality_lens.report.flow import flow_section
from morality_lens.runs import transitions
from morality_lens.runs.transitions import answer_transitions

DESIGN = Design(factors=(Factor(name="cot"),), rounds=2)
KINDS = ("right", "wrong", "unparsed")
WRITTEN = {"right": "C", "wrong": "A", "unparsed": "I would not say"}


def question(name: str, **more) -> Question:
    given = {"options": ("One", "Two", "Not known"), "unknown": 2, "label": 2, "biased": 0, **more}
    return Question(id=name, cluster=name, context="", question="Who?", **given)


def made(answers: dict[tuple[str, str, int], str], items) -> MadeRun:
    """A run with these texts by item, level of cot and round."""
    by_id = {item.id: item for item in items}
    keys = list(answers)
    judged = judge_answers(list(answers.values()), [by_id[name] for name, _, _ in keys])
    table = pd.DataFrame(keys, columns=["item", "cot", "round"])
    run = MadeRun(path=make_run(items=1).path, manifest={"study": {"design": DESIGN.manifest()}})
    vars(run).update(answers=pd.concat([table, judged], axis=1), asked=by_id, _stored=tuple(items))
    return run


def written(kinds: dict[tuple[str, str, int], str]) -> dict[tuple[str, str, int], str]:
    return {key: WRITTEN[kind] for key, kind in kinds.items()}


HAND = {
    "a": ("right", "wrong", "wrong"),
    "b": ("right", "right", "unparsed"),
    "c": ("wrong", "right", "right"),
    "d": ("unparsed", "right", "right"),
}


def hand_run() -> MadeRun:
    kinds = {(name, "off", n): kind for name, row in HAND.items() for n, kind in enumerate(row)}
    kinds |= {(name, "on", n): "wrong" for name in HAND for n in range(3)}
    return made(written(kinds), [question(name) for name in HAND])


def number(flow, **where) -> int:
    keep = np.all([flow[key] == value for key, value in where.items()], axis=0)
    (n,) = flow.loc[keep, "n"]
    return int(n)


def test_the_counts_are_those_made_by_hand():
    flow = answer_transitions(hand_run())
    off = {"cot": "off", "before": 0, "round": 1}
    want = {("right", "wrong"): 1, ("right", "right"): 1, ("wrong", "right"): 1, ("unparsed", "right"): 1}
    for one, other in itertools.product(KINDS, KINDS):
        assert number(flow, **off, **{"from": one, "to": other}) == want.get((one, other), 0)
    later = {"cot": "off", "before": 1, "round": 2}
    assert number(flow, **later, **{"from": "right", "to": "unparsed"}) == 1
    assert number(flow, **later, **{"from": "right", "to": "right"}) == 2
    assert number(flow, cot="on", before=1, round=2, **{"from": "wrong", "to": "wrong"}) == 4
    shares = flow.loc[(flow["cot"] == "off") & (flow["before"] == 0) & (flow["from"] == "right"), "share"]
    assert shares.tolist() == [0.5, 0.5, 0.0]
    assert flow.loc[(flow["cot"] == "on") & (flow["from"] == "right"), "share"].isna().all()
    assert flow["missing"].eq(0).all()


def test_a_pair_of_rounds_is_counted_over_what_lies_between():
    flow = answer_transitions(hand_run(), pairs=[(0, 2)])
    assert len(flow) == 2 * 9
    assert number(flow, cot="off", **{"from": "right", "to": "unparsed"}) == 1
    assert number(flow, cot="off", **{"from": "wrong", "to": "right"}) == 1
    assert number(flow, cot="off", **{"from": "right", "to": "right"}) == 0
    with pytest.raises(ValueError, match="rounds of 0 to 2"):
        answer_transitions(hand_run(), pairs=[(0, 3)])


ROWS = st.lists(
    st.tuples(*[st.sampled_from([*KINDS, None])] * 6), min_size=1, max_size=12
)  # of an item: rounds 0 to 2 without and with a chain of thought; None: not there


@settings(max_examples=60, deadline=None)
@given(ROWS)
def test_ways_in_and_out_of_a_round_add_up_to_its_answers(rows):
    kinds = {
        (f"q{i}", level, n): row[3 * j + n]
        for i, row in enumerate(rows)
        for j, level in enumerate(("off", "on"))
        for n in range(3)
        if row[3 * j + n] is not None
    }
    if not kinds:
        return
    flow = answer_transitions(made(written(kinds), [question(f"q{i}") for i in range(len(rows))]))
    for (level, before, after), own in flow.groupby(["cot", "before", "round"]):
        both = [
            (kinds[f"q{i}", level, before], kinds[f"q{i}", level, after])
            for i in range(len(rows))
            if (f"q{i}", level, before) in kinds and (f"q{i}", level, after) in kinds
        ]
        assert own["n"].sum() == len(both)
        assert own["missing"].eq(len(rows) - len(both)).all()
        for kind in KINDS:
            assert own.loc[own["from"] == kind, "n"].sum() == sum(one == kind for one, _ in both)
            assert own.loc[own["to"] == kind, "n"].sum() == sum(other == kind for _, other in both)
            shares = own.loc[own["from"] == kind, "share"]
            assert shares.isna().all() or shares.sum() == pytest.approx(1)


def test_roles_are_those_of_the_chosen_options_of_questions_that_name_them():
    items = [question("a"), question("b", biased=1), question("c", biased=None), question("d", biased=None)]
    texts = {(name, level, n): "A" for name in "abcd" for level in ("off", "on") for n in range(3)}
    texts |= {(name, "off", 1): "C" for name in "abcd"}
    flow = answer_transitions(made(texts, items), by="role", pairs=[(0, 1)])
    assert flow.attrs["items"] == 2
    assert flow.attrs["kinds"] == ("stereotyped", "unknown", "counter-stereotyped", "unparsed")
    assert number(flow, cot="off", **{"from": "stereotyped", "to": "unknown"}) == 1
    assert number(flow, cot="off", **{"from": "counter-stereotyped", "to": "unknown"}) == 1
    assert number(flow, cot="on", **{"from": "counter-stereotyped", "to": "counter-stereotyped"}) == 1
    with pytest.raises(ValueError, match="names its stereotyped option"):
        answer_transitions(made(texts, [question(n, biased=None) for n in "abcd"]), by="role")


def test_where_no_reply_is_right_the_replies_are_the_kinds():
    scale = {"low": 1, "high": 3, "low_label": "no", "high_label": "yes"}
    items = [Rating(id=n, cluster=n, context="", question="How good?", **scale) for n in "ab"]
    texts = {(name, level, n): str(n + 1) for name in "ab" for level in ("off", "on") for n in range(3)}
    texts["b", "on", 2] = "cannot say"
    run = made(texts, items)
    flow = answer_transitions(run)
    assert flow.attrs["kinds"] == ("1", "2", "3", "unparsed")
    assert number(flow, cot="on", before=1, round=2, **{"from": "2", "to": "unparsed"}) == 1
    assert number(flow, cot="off", before=0, round=1, **{"from": "1", "to": "2"}) == 2
    section = flow_section(run)
    assert section is not None
    assert section.lines == ()


def test_free_text_has_no_transitions():
    items = [OpenPrompt(id="p", cluster="p", text="It was")]
    run = made({("p", level, n): "late" for level in ("off", "on") for n in range(3)}, items)
    with pytest.raises(ValueError, match="free text"):
        answer_transitions(run)
    assert flow_section(run) is None


def test_the_figures_hold_the_counts():
    flow = answer_transitions(hand_run())
    fig = answer_flow(flow, condition="none")
    (drawn,) = fig.data
    labels = dict(zip(drawn.node.customdata, drawn.node.label, strict=True))
    assert labels["round 0, right: 2"] == "right 2"
    assert labels["round 1, right: 3"] == "3"
    assert sum(drawn.link.value) == 8
    names = [drawn.node.customdata[i] for i in drawn.link.source]
    assert "round 0, unparsed: 1" in names
    assert len(answer_flow(flow).data) == 2
    with pytest.raises(ValueError, match="no condition 'feedback'"):
        answer_flow(flow, condition="feedback")
    with pytest.raises(ValueError, match="leave pairs out"):
        answer_flow(answer_transitions(hand_run(), pairs=[(0, 1), (0, 2)]))
    matrix = transition_matrices(flow, before=0, round=1).data[0]
    np.testing.assert_array_equal(matrix.text, [[1, 1, 0], [1, 0, 0], [1, 0, 0]])
    with pytest.raises(ValueError, match="no transitions from round 0 to 2"):
        transition_matrices(flow, before=0, round=2)


def test_a_table_that_was_sorted_draws_the_same_numbers():
    flow = answer_transitions(make_run(), pairs=[(0, 1)])
    turned = flow.sort_values(["condition", "to", "from"])
    for one, other in zip(transition_matrices(flow).data, transition_matrices(turned).data, strict=True):
        assert one.text == other.text
        assert one.y == other.y
    twice = answer_transitions(make_run(), pairs=[(0, 1), (0, 1)])
    assert transition_matrices(twice).data[0].text == transition_matrices(flow).data[0].text


def test_an_unknown_kind_of_counting_is_refused():
    with pytest.raises(ValueError, match="counts by one of"):
        inspect.unwrap(transitions._kinds)(make_run(), "xx")


def test_the_section_tells_what_became_right_and_what_is_missing():
    section = flow_section(hand_run())
    assert section is not None
    assert section.lines[0] == (
        "Of the answers that were wrong in round 0, between 0 of 4 under cot and 1 of 1 under none are right "
        "in round 2."
    )
    first = section.tables[0]
    assert first["rows"][0] == ["none", "right", "2", "0 (0%)", "1 (50%)", "1 (50%)"]
    kinds = {(name, level, n): "right" for name in "ab" for level in ("off", "on") for n in range(3)}
    del kinds["b", "on", 1]
    holed = flow_section(made(written(kinds), [question(n) for n in "ab"]))
    assert holed is not None
    assert any("Up to 1 dialogues" in line for line in holed.lines)
