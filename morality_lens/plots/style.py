"""Shared style of all figures: colours, panel grids, marks of one series and the template."""

import itertools
import textwrap
from collections.abc import Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from morality_lens.design import Condition
from morality_lens.interactions.names import factors_in
from morality_lens.interactions.numbers import p_value, with_bounds

# From the palette of Okabe and Ito, distinguishable under the common colour-vision deficiencies.
EFFECT_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7A4FB5", "#56B4E9", "#4D4D4D"),
    *("#004B75", "#F2A97A", "#7FD6BB", "#F5C6DF", "#BBA5DD", "#B9DDF4", "#00D5C8", "#8C3D00"),
)
"""Colours of effects in the order of the Dataset: the seven of three factors, then those of four."""


CONDITION_COLORS = (
    "#9A9A9A",
    "#B5A40F",
    "#7A1F3D",
    "#E0457B",
    "#1F4D1F",
    "#8C564B",
    "#2A2A8C",
    "#7FB800",
    "#C21FC2",
)
"""Colours of conditions in the order of the design, far from those of effects; more of them repeat."""
OTHER_COLORS = ("#33414E", "#A8683A", "#5F8A6B", "#9C7FA6", "#8795A1", "#C2A24A")
"""Colours of what is neither an effect nor a condition: directions, controls, parts of the model, groups."""
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "triangle-down", "star", "x")
DASHES = {"off": "dot", "placebo": "dash", "on": "solid"}
REFUSED_COLOR = "#E4E7EB"
"""The ground behind layers at which nothing is claimed."""
ROUNDING = 1e-5
"""Of the largest cell mean: effects below it are rounding errors, however regular."""
WRAP = 118
"""Characters of a line of a figure's subtitle."""
HOVER = "estimate %{customdata[0]}<br>adjusted p %{customdata[1]}, p %{customdata[2]}<extra></extra>"


def effect_colors(data: xr.Dataset) -> dict[str, str]:
    """A colour per effect, by its place in the full design: the same in every figure, of a part of it too."""
    names = [str(name) for name in data["effect"].to_numpy()]
    factors = [str(name) for name in data.attrs.get("factors", ())]
    subsets = [s for size in range(1, len(factors) + 1) for s in itertools.combinations(factors, size)]
    places = [subsets.index(own) if (own := factors_in(name)) in subsets else -1 for name in names]
    if -1 in places or len(set(places)) < len(places):  # simple effects, or contrasts of one's own
        places = list(range(len(names)))
    return {name: EFFECT_COLORS[at % len(EFFECT_COLORS)] for name, at in zip(names, places, strict=True)}


def condition_colors(labels: Sequence[str]) -> dict[str, str]:
    """A colour per condition, given in the order of the design: the same in every figure of one result."""
    return dict(zip(labels, itertools.cycle(CONDITION_COLORS), strict=False))


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


def clear(one: xr.Dataset) -> np.ndarray:
    """Where the adjusted p is at most ``alpha`` and the effect is more than a rounding error."""
    size = float(np.nanmax(np.abs(one["cell_mean"].to_numpy()), initial=0.0)) if "cell_mean" in one else 0.0
    large = np.abs(one["estimate"].to_numpy()) > ROUNDING * size
    return np.asarray((one["p_adj"].to_numpy() <= alpha(one)) & large)


def significance(one: xr.Dataset, color: str, size: int = 6) -> dict:
    """Markers that are filled where an effect is clear, see :func:`clear`."""
    colors = [color if yes else "white" for yes in clear(one)]
    return {"size": size, "color": colors, "line": {"color": color, "width": 1.4}}


def details(one: xr.Dataset, low: str, high: str) -> np.ndarray:
    """Hover texts: the estimate with its interval, and both p values."""
    draws = float(one.attrs.get("draws_used", 0))
    estimate = np.vectorize(partial(with_bounds, signed=True), otypes=[object])(
        *(one[name].to_numpy() for name in ("estimate", low, high))
    )
    corrected = np.vectorize(partial(p_value, draws=draws), otypes=[object])(one["p_adj"].to_numpy())
    pointwise = np.vectorize(p_value, otypes=[object])(one["p"].to_numpy())
    return np.stack([estimate, corrected, pointwise], axis=-1)


def forest_mark(effects: xr.Dataset, name: str, color: str, *, low: str, high: str) -> go.Scatter:
    """One effect of a forest plot: its estimate with the two ends of that name."""
    one = effects.sel(effect=[name])
    estimate = one["estimate"].to_numpy()
    ends = bars(estimate, one[low].to_numpy(), one[high].to_numpy())
    return go.Scatter(
        x=estimate,
        y=[name],
        showlegend=False,
        mode="markers",
        marker=significance(one, color, size=9),
        error_x=ends | {"color": color, "thickness": 2, "width": 0},
        customdata=details(one, low, high),
        hovertemplate=f"<b>{name}</b><br>{HOVER}",
    )


def layer_map(
    one: xr.Dataset, rows: Sequence[str], *, hover: str, size: int, colorbar: Mapping[str, Any]
) -> tuple[go.Heatmap, go.Scatter]:
    """Effects over layers as a heat map, blue above zero, and dots where they are clear.

    Args:
        one: effects over two dimensions, of which ``layer`` is the second; refused layers stay empty.
        rows: names of the first dimension's places.
        hover: how a hover text begins.
        size: of the dots.
        colorbar: of the map.
    """
    layers = one["layer"].to_numpy()
    estimate = one["estimate"].where(~one["layer"].isin(refused_layers(one))).to_numpy()
    limit = float(np.nanmax(np.abs(estimate), initial=0.0)) or 1.0
    heat = go.Heatmap(
        x=layers,
        y=list(rows),
        z=estimate,
        colorscale="RdBu",
        zmin=-limit,
        zmax=limit,
        xgap=1,
        ygap=1,
        customdata=details(one, *interval(one)[:2]),
        hovertemplate=f"{hover}, layer %{{x}}<br>{HOVER}",
        colorbar=dict(colorbar),
    )
    found = np.argwhere(clear(one))
    dots = go.Scatter(
        x=layers[found[:, 1]],
        y=[rows[i] for i in found[:, 0]],
        mode="markers",
        marker={"size": size, "color": "#111", "line": {"color": "white", "width": 1.2}},
        hoverinfo="skip",
        showlegend=False,
    )
    return heat, dots


def at_site(data: xr.Dataset, site: str | None) -> tuple[xr.Dataset, str | None]:
    """The data at one site, the first where None is named, and that site's name."""
    if "site" not in data.dims:
        return data, str(data["site"].item()) if "site" in data.coords else None
    chosen = str(data["site"].to_numpy()[0]) if site is None else site
    return select(data, "site", chosen), chosen


def select(data: xr.Dataset, dim: str, value: int | str) -> xr.Dataset:
    """The data at one place of a dimension.

    Raises:
        ValueError: there is no such place.
    """
    present = data[dim].to_numpy().tolist()
    if value not in present:
        raise ValueError(f"no {dim} {value!r} in this result: choose one of {present}.")
    return data.sel({dim: value})


def refused_layers(data: xr.Dataset) -> list[int]:
    """The layers of a result at which there is no stable direction, so that nothing is claimed there."""
    left_out = [int(layer) for layer in data.attrs.get("refused_layers", ())]
    if "layer" not in data.dims or "se" not in data:
        return left_out
    judged = data["se"].notnull().any([dim for dim in data["se"].dims if dim != "layer"]).to_numpy()
    unjudged = data["layer"].to_numpy()[~judged].tolist() if judged.any() else []
    return sorted({*left_out, *map(int, unjudged)})


def shade_refused(fig: go.Figure, layers: Sequence[int], *, panels: int | None = None) -> None:
    """Grey ground behind the layers at which nothing is claimed, in the first panels or in all."""
    present = sorted(str(axis.plotly_name) for axis in fig.select_xaxes())[:panels]
    for name, layer in itertools.product(present, layers):
        number = name.removeprefix("xaxis")
        upright_bar(fig, layer - 0.5, layer + 0.5, number, fillcolor=REFUSED_COLOR, line_width=0)


def upright_bar(fig: go.Figure, left: float, right: float, panel: str, **look: Any) -> None:
    """A rectangle of a panel's full height, below its marks; ``panel``: the number in its axis's name."""
    refs = {"xref": f"x{panel}", "yref": f"y{panel} domain", "layer": "below"}
    fig.add_shape(type="rect", x0=left, x1=right, y0=0, y1=1, **refs | look)


def said_refused(layers: Sequence[int]) -> str:
    """The words of a subtitle about layers on a grey ground; empty where there are none."""
    return "; grey: refused, nothing is claimed" if layers else ""


def toward(data: xr.Dataset) -> tuple[str, str]:
    """What a positive and a negative effect on a projection is called, by its unit."""
    moral = str(data.attrs.get("units", "")).startswith("moral")
    return ("toward moral", "toward immoral") if moral else ("upward", "downward")


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
    """``mean`` over rounds: a panel per level of the last factor, a line in its own colour per condition.

    With ``unparsed`` a row of bars below shows that column.
    """
    *head, last = factors
    levels = frame[last].drop_duplicates().tolist()
    groups = frame[head].drop_duplicates().to_numpy().tolist() if head else [[]]
    heights = (0.76, 0.24) if unparsed else ()
    fig = grid([f"{last} {level}" for level in levels], columns=len(levels), heights=heights)
    with_bars = "ci_low" in frame
    cells = list(itertools.product(range(len(groups)), range(len(levels))))
    for number, (i, column) in enumerate(cells):
        group, level = groups[i], levels[column]
        keep = (frame[[*head, last]] == [*group, level]).all(axis=1)
        one = frame.loc[keep].sort_values(by="round")
        rounds, mean = one["round"].to_numpy(), one["mean"].to_numpy()
        low, high = (one["ci_low"], one["ci_high"]) if with_bars else (one["mean"], one["mean"])
        full = cell_name(factors, [*group, level])
        color = CONDITION_COLORS[number % len(CONDITION_COLORS)]
        filled = "" if level != "off" else "-open"
        line = go.Scatter(
            # Lines are shifted sideways so that their intervals do not overlap.
            x=rounds + 0.06 * (i - (len(groups) - 1) / 2),
            y=mean,
            name=full,
            legendgroup=full,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": DASHES.get(level, "solid")},
            marker={"symbol": SYMBOLS[i % len(SYMBOLS)] + filled, "size": 8},
            error_y=bars(mean, low.to_numpy(), high.to_numpy()) if with_bars else None,
            customdata=[with_bounds(*ends) for ends in zip(mean, low, high, strict=True)],
            text=[f"round {r}" for r in rounds],
            hovertemplate=f"<b>{full}</b>, %{{text}}<br>mean %{{customdata}}<extra></extra>",
        )
        fig.add_trace(line, row=1, col=column + 1)
        if unparsed:
            share = go.Bar(
                x=rounds,
                y=one["unparsed"].to_numpy(),
                name=full,
                legendgroup=full,
                showlegend=False,
                marker={"color": color},
                hovertemplate=f"<b>{full}</b>, round %{{x}}<br>unparsed %{{y:.1%}}<extra></extra>",
            )
            fig.add_trace(share, row=2, col=column + 1)
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
    lines = [line for part in (subtitle, *trust.split("<br>")) for line in textwrap.wrap(part, WRAP)]
    more = 18 * (len(lines) - 1)
    fig.update_annotations(font_size=14)
    return fig.update_layout(
        template=look(),
        height=height + more + 30 * legend_rows,
        title={"text": f"<b>{title}</b>", "subtitle": {"text": "<br>".join(lines)}},
        margin={"l": 70, "r": 20, "t": top + more, "b": 60 + 30 * legend_rows},
        meta={"legend": [part for part in (subtitle, *trust.split("<br>")) if part]},
    )
