"""Figures of the answers between rounds: which became right or wrong, condition by condition."""

import itertools
from collections.abc import Sequence
from itertools import product

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from morality_lens.plots.style import finish

KIND_COLORS = {
    "right": "#1b7f5c",
    "wrong": "#c4553b",
    "unparsed": "#9a9a9a",
    "stereotyped": "#c4553b",
    "unknown": "#5f7d95",
    "counter-stereotyped": "#e8a33d",
}
"""Colours of kinds of answers."""
REPLY_COLORS = (
    "#3b6ea5",
    "#e8a33d",
    "#7d6bb0",
    "#8cc8ae",
    "#a05a6b",
    "#5f7d95",
    "#b59b3a",
    "#6b8e6b",
    "#8c7a6b",
)
"""Colours of replies none of which is the right one."""
COLUMNS = 2
PAD = 0.06
"""Between the kinds of a round, as a share of the height."""


def answer_flow(flow: pd.DataFrame, *, condition: str | None = None) -> go.Figure:
    """How the answers flow from round to round: a Sankey diagram of one condition, or of each.

    Args:
        flow: from ``runs.answer_transitions``, of every round and the next.
        condition: the label of one; None draws all.

    Raises:
        ValueError: no such condition, or rounds between which nothing is counted.

    Examples:
        >>> figure = ml.plots.answer_flow(ml.runs.answer_transitions(run), condition="instruction")
        >>> [trace.type for trace in figure.data]
        ['sankey']
    """
    cells = _cells(flow, condition)
    rounds = sorted({*flow["before"], *flow["round"]})
    if {*zip(flow["before"], flow["round"], strict=True)} != {*itertools.pairwise(rounds)}:
        raise ValueError("answer_flow needs the transitions of every round and the next; leave pairs out.")
    columns = min(COLUMNS, len(cells))
    lines = -(-len(cells) // columns)
    fig = make_subplots(
        rows=lines,
        cols=columns,
        specs=[[{"type": "domain"}] * columns] * lines,
        subplot_titles=list(cells),
        vertical_spacing=0.22 / lines,
        horizontal_spacing=0.06,
    )
    for number, own in enumerate(cells.values()):
        fig.add_trace(_sankey(own, rounds, _kinds(flow)), row=number // columns + 1, col=number % columns + 1)
    return finish(
        fig,
        "Answers between rounds",
        f"from round {rounds[0]} on the left to round {rounds[-1]} on the right; numbers of answers",
        height=140 + 190 * lines,
    )


def transition_matrices(
    flow: pd.DataFrame, *, before: int | None = None, round: int | None = None
) -> go.Figure:
    """A small table for each condition: how many answers went from each kind to each between two rounds.

    The colour is the share of the answers that were of the row's kind.

    Args:
        flow: from ``runs.answer_transitions``.
        before: the earlier round; None: the first.
        round: the later one; None: the last that follows it.

    Raises:
        ValueError: rounds between which nothing is counted.

    Examples:
        >>> figure = ml.plots.transition_matrices(ml.runs.answer_transitions(run), before=0, round=1)
        >>> len(figure.data) == len(run.design.conditions)
        True
    """
    first = min(flow["before"].tolist()) if before is None else before
    later = flow.loc[flow["before"] == first, "round"].tolist()
    last = max(later, default=None) if round is None else round
    shown = flow.loc[(flow["before"] == first) & (flow["round"] == last)]
    if shown.empty:
        raise ValueError(
            f"there are no transitions from round {first} to {last if round is None else round}; "
            "give such a pair to runs.answer_transitions."
        )
    cells, kinds = _cells(shown, None), _kinds(flow)
    columns = min(4 if len(kinds) <= 3 else 2, len(cells))
    lines = -(-len(cells) // columns)
    fig = make_subplots(
        rows=lines,
        cols=columns,
        subplot_titles=list(cells),
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]  # documented by plotly, typed as bool
        shared_xaxes="all",  # pyright: ignore[reportArgumentType]
        horizontal_spacing=0.03,
        vertical_spacing=0.36 / lines,
    )
    for number, own in enumerate(cells.values()):
        fig.add_trace(_matrix(own, kinds), row=number // columns + 1, col=number % columns + 1)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, showticklabels=True, tickvals=list(kinds), tickangle=0)
    fig.update_xaxes(ticktext=[kind.replace("-", "-<br>") for kind in kinds])
    fig.update_yaxes(title_text=f"round {first}", col=1)
    what = "Chosen options" if "stereotyped" in kinds else "Answers"
    return finish(
        fig,
        f"{what} in round {first} and in round {last}",
        f"rows: round {first}, columns: round {last}; number of answers, colour: share of the row",
        height=130 + lines * (84 + 34 * len(kinds)),
    )


def _kinds(flow: pd.DataFrame) -> tuple[str, ...]:
    """The kinds in their order, which the frame names even where it was sorted."""
    return tuple(flow.attrs.get("kinds") or dict.fromkeys(flow["from"]))


def _cells(flow: pd.DataFrame, condition: str | None) -> dict[str, pd.DataFrame]:
    """The rows of each condition, or of one, by its label."""
    found = {str(label): own for label, own in flow.groupby("condition", sort=False)}
    if condition is None:
        return found
    if condition not in found:
        raise ValueError(f"there is no condition {condition!r}; choose one of {', '.join(found)}.")
    return {condition: found[condition]}


def kind_color(kind: str, kinds: Sequence[str]) -> str:
    """The colour of a kind of answer."""
    return KIND_COLORS.get(kind) or REPLY_COLORS[kinds.index(kind) % len(REPLY_COLORS)]


def _sankey(own: pd.DataFrame, rounds: Sequence[int], kinds: Sequence[str]) -> go.Sankey:
    """The diagram of one condition: a node for each kind of answer that a round has."""
    counts = _counts(own, rounds, kinds)
    places = {key: n for n, key in enumerate(counts)}
    ways = own.loc[own["n"] > 0]
    total = max(1, max(sum(n for (r, _), n in counts.items() if r == at) for at in rounds))
    ways_from = list(zip(ways["before"], ways["from"], strict=True))
    ways_to = list(zip(ways["round"], ways["to"], strict=True))
    return go.Sankey(
        arrangement="fixed",
        node={
            "label": [_label(counts, key, rounds) for key in counts],
            "x": [_inside((at - rounds[0]) / max(1, rounds[-1] - rounds[0])) for at, _ in counts],
            "y": [_inside(_height(counts, key, kinds, total)) for key in counts],
            "color": [kind_color(kind, kinds) for _, kind in counts],
            "customdata": [f"round {at}, {kind}: {n}" for (at, kind), n in counts.items()],
            "hovertemplate": "%{customdata}<extra></extra>",
            "pad": 8,
            "thickness": 12,
            "line": {"width": 0},
        },
        link={
            "source": [places[key] for key in ways_from],
            "target": [places[key] for key in ways_to],
            "value": ways["n"].tolist(),
            "color": [_pale(kind_color(kind, kinds)) for _, kind in ways_from],
            "customdata": [
                f"round {b}, {one}, to round {a}, {other}: {n} ({share:.0%} of the {one})"
                for (b, one), (a, other), n, share in zip(
                    ways_from, ways_to, ways["n"], ways["share"], strict=True
                )
            ],
            "hovertemplate": "%{customdata}<extra></extra>",
        },
    )


def _label(counts: dict[tuple[int, str], int], key: tuple[int, str], rounds: Sequence[int]) -> str:
    """The number of a node, with the kind where that is first seen; in round 0 of all."""
    at, kind = key
    known = any((earlier, kind) in counts for earlier in rounds if earlier < at)
    return f"{counts[key]}" if known else f"{kind} {counts[key]}"


def _counts(own: pd.DataFrame, rounds: Sequence[int], kinds: Sequence[str]) -> dict[tuple[int, str], int]:
    """How many answers of each round and kind there are; those that go on, or in the last round that came."""
    found = {}
    for at in rounds:
        side, column = ("before", "from") if at != rounds[-1] else ("round", "to")
        here = own.loc[own[side] == at].groupby(column)["n"].sum()
        came = own.loc[own["round"] == at].groupby("to")["n"].sum()
        for kind in kinds:
            n = max(int(here.get(kind, 0)), int(came.get(kind, 0)))
            if n:
                found[at, kind] = n
    return found


def _height(
    counts: dict[tuple[int, str], int], key: tuple[int, str], kinds: Sequence[str], total: int
) -> float:
    """The middle of a node from the top, as a share of the height."""
    above = [counts[key[0], kind] for kind in kinds[: kinds.index(key[1])] if (key[0], kind) in counts]
    room = 1 - PAD * (len(kinds) - 1)
    return (sum(above) + counts[key] / 2) / total * room + PAD * len(above)


def _inside(share: float) -> float:
    """A place that plotly takes as given: 0 and 1 it does not."""
    return float(np.clip(share, 0.001, 0.999))


def _pale(color: str) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.35)"


def _matrix(own: pd.DataFrame, kinds: Sequence[str]) -> go.Heatmap:
    """Numbers of the ways from each kind to each, coloured by the share of the row."""
    placed = (
        own.drop_duplicates(["from", "to"]).set_index(["from", "to"]).reindex(list(product(kinds, kinds)))
    )
    size = (len(kinds), len(kinds))
    numbers = placed["n"].to_numpy(int).reshape(size).tolist()
    shares = placed["share"].to_numpy(float).reshape(size).tolist()
    said = [
        [
            f"{one} to {other}: {n}" + ("" if np.isnan(s) else f" ({s:.0%} of the {one})")
            for other, n, s in zip(kinds, ns, ss, strict=True)
        ]
        for one, ns, ss in zip(kinds, numbers, shares, strict=True)
    ]
    return go.Heatmap(
        z=shares,
        x=list(kinds),
        y=list(kinds),
        zmin=0,
        zmax=1,
        text=numbers,
        texttemplate="%{text}",
        customdata=said,
        hovertemplate="%{customdata}<extra></extra>",
        colorscale=[[0, "#f4f6f8"], [1, "#5f7d95"]],
        showscale=False,
        xgap=2,
        ygap=2,
    )
