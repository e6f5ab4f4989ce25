"""Replies that failed are counted per condition."""

import pandas as pd

from morality_lens.design import Condition, Design, Factor
from morality_lens.report import tables
from morality_lens.runs.rates import failures, reply_rates


def answers() -> tuple[pd.DataFrame, Design]:
    design = Design(factors=(Factor(name="cot"),), rounds=1)
    rows = [
        {"cot": "off", "round": 0, "parsed": True, "stopped": True},
        {"cot": "off", "round": 1, "parsed": False, "stopped": False},
        {"cot": "on", "round": 0, "parsed": True, "stopped": True},
        {"cot": "on", "round": 1, "parsed": False, "stopped": True, "rationale": "So", "rationale_cut": True},
        {"cot": "on", "round": 1, "parsed": False, "stopped": False, "thought": "Hm", "thinking_cut": True},
    ]
    table = pd.DataFrame(rows).assign(feedback_text="", feedback_cut=False, feedback_missing=False)
    table = table.assign(
        rationale=table["rationale"].fillna(""), thought=table["thought"].fillna(""),
        rationale_cut=table["rationale_cut"].eq(True), thinking_cut=table["thinking_cut"].eq(True),
        text=["A", "", "B", "", ""], spells_control=False,
    )  # fmt: skip
    return table, design


def test_failures_are_counted_per_condition_and_only_those_that_occur():
    table, design = answers()
    found = failures(table, design)
    assert found.to_dict("records") == [
        {"condition": Condition().label, "answers not read": "1 of 2", "answers cut": "1 of 2",
         "rationales cut": "", "still thinking (unparsed)": ""},
        {"condition": "cot", "answers not read": "2 of 3", "answers cut": "1 of 3",
         "rationales cut": "1 of 1", "still thinking (unparsed)": "1 of 1"},
    ]  # fmt: skip
    (shown,) = tables.failures(found)
    assert shown["rows"][1] == ["cot", "2 of 3", "1 of 3", "1 of 1", "1 of 1"]
    rates = reply_rates(table)
    assert rates["thinking_cut"] == rates["rationale_cut"] == 1.0


def test_nothing_is_shown_where_every_reply_came_out():
    table, design = answers()
    fine = table.assign(parsed=True, stopped=True, rationale_cut=False, thinking_cut=False)
    assert list(failures(fine, design).columns) == ["condition"]
    assert tables.failures(failures(fine, design)) == []


def test_control_tokens_in_texts_are_told():
    table, _ = answers()
    assert tables.spelled({"items": [], "wording": []}, table) == ""
    said = tables.spelled({"items": ["q1"], "wording": ["</s>"]}, table.assign(spells_control=[True] * 5))
    assert "1 items (q1); the protocol's words (</s>); feedback or replies of 5 answers" in said


def test_what_was_never_played_did_not_fail():
    table, design = answers()
    never = table.iloc[[0, 0]].assign(parsed=None, stopped=None, cot="on")
    both = pd.concat([table, never], ignore_index=True)
    assert failures(both, design).to_dict("records") == failures(table, design).to_dict("records")
    assert reply_rates(both) == reply_rates(table)
    assert tables.unparsed(both) == tables.unparsed(table)
