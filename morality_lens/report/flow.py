"""The section of a report about answers between rounds: what became right, and what became wrong."""

import numpy as np
import pandas as pd

from morality_lens.plots.flow import answer_flow, transition_matrices
from morality_lens.report.sections import Section
from morality_lens.runs.run import Run
from morality_lens.runs.transitions import OUTCOMES, answer_transitions, has_roles

TITLE = "Answers between rounds"


def flow_section(run: Run) -> Section | None:
    """The flow of the answers between rounds; None where replies are free text, or there is one round."""
    if run.design.rounds < 1 or not all(item.replies for item in run.asked.values()):
        return None
    ends = (0, run.design.rounds)
    flow = answer_transitions(run)
    whole = answer_transitions(run, pairs=[ends])
    figures = [
        ("answer-flow", answer_flow(flow), ""),
        ("answer-transitions", transition_matrices(whole), ""),
    ]
    tables = [_table(whole, f"From round {ends[0]} to round {ends[1]}")]
    if any(has_roles(item) for item in run.asked.values()):
        roles = answer_transitions(run, by="role", pairs=[ends])
        note = f"The chosen options of {roles.attrs['items']} questions that name the stereotyped one."
        figures.append(("answer-roles", transition_matrices(roles), note))
        tables.append(_table(roles, f"Chosen options, from round {ends[0]} to round {ends[1]}"))
    lines = [*_sentences(whole, run), *_left_out(flow)]
    return Section(title=TITLE, lines=tuple(lines), figures=tuple(figures), tables=tuple(tables))


def _sentences(whole: pd.DataFrame, run: Run) -> list[str]:
    """What became right and what became wrong, under the conditions with the most and the least of it."""
    if tuple(whole.attrs["kinds"]) != OUTCOMES:
        return []
    return [
        _sentence(whole, one, other, run.design.rounds)
        for one, other in (("wrong", "right"), ("right", "wrong"))
        if (whole.loc[whole["from"] == one, "n"] > 0).any()
    ]


def _sentence(whole: pd.DataFrame, one: str, other: str, last: int) -> str:
    began = f"Of the answers that were {one} in round 0,"
    found = []
    for label, own in whole.loc[whole["from"] == one].groupby("condition", sort=False):
        of, became = sum(own["n"].tolist()), sum(own.loc[own["to"] == other, "n"].tolist())
        if of:
            found.append((became / of, f"{became} of {of} under {label}"))
    least, most = min(found, key=lambda pair: pair[0]), max(found, key=lambda pair: pair[0])
    if least[0] == most[0]:
        return f"{began} {most[0]:.0%} are {other} in round {last} under every condition."
    return f"{began} between {least[1]} and {most[1]} are {other} in round {last}."


def _left_out(flow: pd.DataFrame) -> list[str]:
    most = max(flow["missing"].tolist())
    if not most:
        return []
    return [
        f"Up to {most} dialogues of a condition are left out, because one of the two answers is not there."
    ]


def _table(whole: pd.DataFrame, caption: str) -> dict:
    """Numbers and shares of every way: a row for each condition and kind of answer before."""
    kinds, rows = whole.attrs["kinds"], []
    for label, cell in whole.groupby("condition", sort=False):
        for one, own in cell.groupby("from", sort=False):
            ns, shares = own["n"].tolist(), own["share"].tolist()
            rows.append([str(label), str(one), str(sum(ns)), *map(_cell, ns, shares)])
    columns = ["condition", "before", "n", *(f"then {kind}" for kind in kinds)]
    return {"caption": caption, "columns": columns, "rows": rows}


def _cell(n: int, share: float) -> str:
    return str(n) if np.isnan(share) else f"{n} ({share:.0%})"
