"""Shared style of all figures: colours, panel grids, marks of one series and the template."""

import itertools
from collections.abc import Sequence
from functools import cache

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from morality_lens.design import Condition

# From the palette of Okabe and Ito, distinguishable under the common colour-vision deficiencies.
EFFECT_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A4FB5", "#56B4E9", "#4D4D4D")
"""Colours of effects in the order of the Dataset: main effects, two-ways, three-way."""


CELL_COLORS = (
    "#7F7F7F",
    "#D55E00",
    "#0072B2",
    "#7A4FB5",
    "#E69F00",
    "#56B4E9",
    "#009E73",
    "#CC79A7",
    "#000000",
)
"""Colours of the combinations of all factors but the last, whose levels have a panel and a dash each."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star", "x")
DASHES = {"off": "dot", "placebo": "dash", "on": "solid"}
HOVER = (
    "estimate {value}<br>interval [%{{customdata[0]}}, %{{customdata[1]}}]"
    "<br>adjusted p %{{customdata[2]}}<br>p %{{customdata[3]}}<extra></extra>"
)


def effect_colors(data: xr.Dataset) -> dict[str, str]:
    """A colour per effect: the same in every figure of one result."""
    names = [str(name) for name in data["effect"].to_numpy()]
    return dict(zip(names, itertools.cycle(EFFECT_COLORS), strict=False))


def alpha(data: xr.Dataset) -> float:
    """The level of the result's intervals and adjusted p."""
    return float(data.attrs.get("alpha", 0.05))


def interval(data: xr.Dataset) -> tuple[str, str, str]:
    """The names of the two ends to draw, and their description with that of the marks."""
    level = f"{100 * (1 - alpha(data)):g} %"
    known = {name: bool(np.isfinite(data[name].to_numpy()).any()) for name in ("band_low", "ci_low", "p_adj")}
    marks = f"filled: adjusted p at most {alpha(data):g}" if known["p_adj"] else "no adjusted p"
    own = " with the direction's sampling error" if data.attrs.get("question") == "direction" else ""
    if known["band_low"]:
        return "band_low", "band_high", f"simultaneous {level} bands{own}; {marks}"
    if known["ci_low"]:
        return "ci_low", "ci_high", f"pointwise {level} intervals{own}, no simultaneous band; {marks}"
    return "ci_low", "ci_high", f"no intervals; {marks}"


def significance(one: xr.Dataset, color: str, size: int = 6) -> dict:
    """Markers that are filled where the adjusted p is at most ``alpha``."""
    filled = one["p_adj"].to_numpy() <= alpha(one)
    colors = [color if yes else "white" for yes in filled]
    return {"size": size, "color": colors, "line": {"color": color, "width": 1.4}}


def details(one: xr.Dataset, low: str, high: str) -> np.ndarray:
    """Hover texts: the two ends and both p values."""
    texts = [np.vectorize(number, otypes=[object])(one[name]) for name in (low, high, "p_adj", "p")]
    return np.stack(texts, axis=-1)


def number(value: float | np.ndarray | xr.DataArray) -> str:
    """A number as figures print it; a missing one reads as ``none``."""
    plain = float(value)
    if np.isnan(plain):
        return "none"
    return f"{plain:.3f}" if abs(plain) >= 0.001 or plain == 0 else f"{plain:.1e}"


def band(x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str, group: str) -> go.Scatter:
    """The area between two lines, as part of a legend group; it breaks where an end is missing."""
    across, along = _outline(x, low, high)
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=np.array(across, dtype=object if None in across else None),
        y=np.array(along, dtype=object if None in along else None),
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},0.16)",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
    )


def _outline(x: np.ndarray, low: np.ndarray, high: np.ndarray) -> tuple[list, list]:
    """Along the upper line and back along the lower one; None parts the stretches where both are known."""
    places = np.flatnonzero(np.isfinite(low) & np.isfinite(high))
    runs = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    across: list = []
    along: list = []
    for run in runs:
        at, above, below = x[run], high[run], low[run]
        if len(run) == 1 and len(runs) > 1:  # one place between missing ones is shown by a narrow box
            half = 0.15 * np.abs(np.diff(x)).min()
            at, above, below = x[run] + half * np.array([-1, 1]), np.repeat(above, 2), np.repeat(below, 2)
        across += [None, *at.tolist(), *at[::-1].tolist()]
        along += [None, *above.tolist(), *below[::-1].tolist()]
    return across[1:], along[1:]


def bars(middle: np.ndarray, low: np.ndarray, high: np.ndarray) -> dict:
    """Error bars from the ends of an interval."""
    ends = {"array": high - middle, "arrayminus": middle - low}
    return {"type": "data", "symmetric": False, **ends, "thickness": 1.5, "width": 2}


def cell_name(factors: Sequence[str], levels: Sequence[str]) -> str:
    """The label of a cell, see :class:`morality_lens.design.Condition`."""
    return Condition(**dict(zip(factors, levels, strict=True))).label


def round_name(index: int | None) -> str:
    """A panel's title: round 0 precedes any correction and serves as the control."""
    if index is None:
        return ""
    return "round 0 (control)" if index == 0 else f"round {index}"


def trust(data: xr.Dataset | xr.DataArray) -> str:
    """The verdict on the direction of the projection, for the subtitle of a figure."""
    return str(data.attrs.get("trust", ""))


def provisos(data: xr.Dataset | xr.DataArray, *, options: bool = True, direction: bool = True) -> str:
    """What is to be said with a figure's numbers: of the direction, and of the options' letters.

    Args:
        data: what is drawn.
        options: whether numbers are made of the probabilities of the options' letters.
        direction: whether numbers are projections.
    """
    found = [trust(data) if direction else "", data.attrs.get("option_note", "") if options else ""]
    return "<br>".join(str(line) for line in found if line)


def with_unit(name: str, unit: str) -> str:
    """An axis title."""
    return f"{name} ({unit})" if unit else name


def grid(titles: Sequence[str], *, columns: int, heights: Sequence[float] = ()) -> go.Figure:
    """Panels with shared axes, ``columns`` to a row; ``heights`` adds rows of untitled panels below."""
    rows = len(heights) or -(-len(titles) // columns)
    cells = len(titles) * (len(heights) or 1)
    return make_subplots(
        rows=rows,
        cols=columns,
        specs=[[{} if r * columns + c < cells else None for c in range(columns)] for r in range(rows)],
        shared_xaxes="all",  # pyright: ignore[reportArgumentType]  # documented by plotly, typed as bool
        shared_yaxes="rows" if heights else "all",  # pyright: ignore[reportArgumentType]
        subplot_titles=list(titles),
        row_heights=list(heights) or None,
        horizontal_spacing=0.025,
        vertical_spacing=0.07 if heights else 0.28 / max(rows, 2),
    )


def round_panels(
    rounds: Sequence[int | None], *, x_title: str, y_title: str
) -> tuple[go.Figure, list[tuple[int, int]]]:
    """One panel per round, three to a row, and each round's row and column."""
    columns = min(3, len(rounds))
    fig = grid([round_name(r) for r in rounds], columns=columns)
    places = [(i // columns + 1, i % columns + 1) for i in range(len(rounds))]
    fig.update_yaxes(title_text=y_title, col=1)
    for row, column in places[-columns:]:
        fig.update_xaxes({"title": {"text": x_title}, "showticklabels": True}, row=row, col=column)
    return fig, places


def condition_panels(frame: pd.DataFrame, factors: Sequence[str], *, unparsed: bool) -> go.Figure:
    """``mean`` over rounds: a panel per level of the last factor, a line per cell of the others.

    With ``unparsed`` a row of bars below shows that column.
    """
    *head, last = factors
    levels = frame[last].drop_duplicates().tolist()
    groups = frame[head].drop_duplicates().to_numpy().tolist() if head else [[]]
    heights = (0.76, 0.24) if unparsed else ()
    fig = grid([f"{last} {level}" for level in levels], columns=len(levels), heights=heights)
    with_bars = "ci_low" in frame
    for (column, level), (i, group) in itertools.product(enumerate(levels, 1), enumerate(groups)):
        keep = (frame[[*head, last]] == [*group, level]).all(axis=1)
        one = frame.loc[keep].sort_values(by="round")
        rounds, mean = one["round"].to_numpy(), one["mean"].to_numpy()
        low, high = (one["ci_low"], one["ci_high"]) if with_bars else (one["mean"], one["mean"])
        name, full = cell_name(head, group), cell_name(factors, [*group, level])
        color = CELL_COLORS[i % len(CELL_COLORS)]
        hover = "<br>interval [%{customdata[0]:.3f}, %{customdata[1]:.3f}]" if with_bars else ""
        line = go.Scatter(
            # Lines are shifted sideways so that their intervals do not overlap.
            x=rounds + 0.06 * (i - (len(groups) - 1) / 2),
            y=mean,
            name=name,
            legendgroup=name,
            showlegend=column == 1,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": DASHES.get(level, "solid")},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)], "size": 8},
            error_y=bars(mean, low.to_numpy(), high.to_numpy()) if with_bars else None,
            customdata=np.stack([low, high], axis=-1),
            text=[f"round {r}" for r in rounds],
            hovertemplate=f"<b>{full}</b>, %{{text}}<br>mean %{{y:.3f}}{hover}<extra></extra>",
        )
        fig.add_trace(line, row=1, col=column)
        if unparsed:
            share = go.Bar(
                x=rounds,
                y=one["unparsed"].to_numpy(),
                name=name,
                legendgroup=name,
                showlegend=False,
                marker={"color": color},
                hovertemplate=f"<b>{full}</b>, round %{{x}}<br>unparsed %{{y:.1%}}<extra></extra>",
            )
            fig.add_trace(share, row=2, col=column)
    fig.update_xaxes(tickvals=sorted(frame["round"].unique().tolist()))
    fig.update_xaxes(title_text="round (0: before any correction)", row=2 if unparsed else 1)
    return fig


@cache
def look() -> go.layout.Template:
    """The template that all figures share; set on each figure, so that no global template changes."""
    axis = {"zeroline": False, "automargin": True, "gridcolor": "#ebeef2", "title": {"font": {"size": 13}}}
    line = {
        "title": {"font": {"size": 13}, "standoff": 8},
        "showline": True,
        "linecolor": "#888",
        "ticks": "outside",
        "tickcolor": "#888",
    }
    title = {"x": 0, "xref": "container", "y": 1, "yref": "container", "yanchor": "top", "font": {"size": 17}}
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    layout = {
        "font": {"family": "system-ui, 'Segoe UI', 'DejaVu Sans', sans-serif", "size": 13, "color": "#222"},
        "title": {**title, "pad": {"l": 14, "t": 14}, "subtitle": {"font": {"size": 13, "color": "#555"}}},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
        "legend": legend,
        "hoverlabel": {"align": "left"},
        # No button that selects (nothing listens) or sends the figure's numbers elsewhere.
        "modebar": {
            "remove": ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "sendChartToCloud"]
        },
        "xaxis": {**axis, **line},
        "yaxis": axis,
    }
    return go.layout.Template(layout=layout)


def finish(
    fig: go.Figure, title: str, subtitle: str, *, height: int, legend_rows: int = 0, trust: str = ""
) -> go.Figure:
    """The figure with titles, height and the shared template; ``trust``: further lines of the subtitle."""
    top = 104 if fig["layout"]["annotations"] else 84  # titles of panels need room
    if trust:
        more = 18 * (1 + trust.count("<br>"))
        subtitle, top, height = f"{subtitle}<br>{trust}", top + more, height + more
    fig.update_annotations(font_size=14)
    return fig.update_layout(
        template=look(),
        height=height + 30 * legend_rows,
        title={"text": f"<b>{title}</b>", "subtitle": {"text": subtitle}},
        margin={"l": 70, "r": 20, "t": top, "b": 60 + 30 * legend_rows},
    )
