"""Figures of attribution: components with intervals, layers, heads, segments."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.interactions.by_component import at_place
from morality_lens.interactions.numbers import number
from morality_lens.plots.style import (
    OTHER_COLORS,
    alpha,
    bars,
    finish,
    interval,
    provisos,
    significance,
    with_unit,
)

WHOLE, ATTENTION, MLP, OTHER = "#4D4D4D", OTHER_COLORS[0], OTHER_COLORS[1], OTHER_COLORS[2]


def attribution(effects: xr.Dataset, *, effect: str, round: int | None = None, top: int = 14) -> go.Figure:
    """The components that carry an effect, largest first, with intervals, and the total effect.

    Args:
        effects: from :func:`morality_lens.interactions.attribute_effects`.
        effect: the effect.
        round: the round; None: the last.
        top: number of components drawn; the sum of the others is drawn without an interval.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="head and segment", draws=200)
        >>> figure = ml.plots.attribution(split, effect="instruction", top=3)
        >>> {"attention", "others"} <= {trace.name for trace in figure.data}
        True
    """
    one = at_place(effects, effect, round)
    low, high, drawn = interval(effects)
    order = np.argsort(-np.abs(one["estimate"].values), kind="stable")
    shown = one.isel(component=order[:top])
    rest = float(one["estimate"].values[order[top:]].sum())
    fig = go.Figure()
    fig.add_trace(
        go.Scatter(
            x=[float(one["whole"])],
            y=["total effect"],
            error_x=bars(*(np.array([float(one[n])]) for n in ("whole", "whole_low", "whole_high"))),
            mode="markers",
            marker={"symbol": "diamond", "size": 11, "color": WHOLE},
            name="total effect (pointwise interval)",
            hovertemplate="total effect %{x:.3f}<extra></extra>",
        )
    )
    for name, color, keep in _kinds(shown):
        some = shown.isel(component=keep)
        estimate = some["estimate"].values
        ends = bars(estimate, some[low].values, some[high].values)
        fig.add_trace(
            go.Scatter(
                x=estimate,
                y=some["component"].values,
                error_x={**ends, "color": color},
                mode="markers",
                marker=significance(some, color, 9),
                name=name,
                customdata=np.stack([some[low], some[high], some["p_adj"]], axis=-1),
                hovertemplate="%{y}<br>%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
                "<br>adjusted p %{customdata[2]:.3g}<extra></extra>",
            )
        )
    names = ["total effect", *shown["component"].values.tolist()]
    if order.size > top:
        names.append(f"{order.size - top} others together")
        fig.add_trace(
            go.Scatter(
                x=[rest], y=names[-1:], mode="markers", marker={"symbol": "x", "color": WHOLE}, name="others"
            )
        )
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    fig.update_xaxes(title_text=_axis(effects))
    title = f"Components of {one['effect'].item()}{_when(one)}"
    return finish(
        fig,
        title,
        f"{drawn}; {_sum(effects)}",
        height=170 + 26 * len(names),
        legend_rows=1,
        trust=provisos(effects),
    )


def attribution_layers(effects: xr.Dataset, *, effect: str, round: int | None = None) -> go.Figure:
    """Attention and MLP of every layer, with their cumulative sum up to the decomposed residual.

    Args:
        effects: from ``attribute_effects(..., by="layer")``.
        effect: the effect.
        round: the round; None: the last.

    Raises:
        ValueError: the effects are of another level of detail.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer", draws=200)
        >>> figure = ml.plots.attribution_layers(split, effect="instruction")
        >>> {"attention", "MLP", "embedding"} <= {trace.name for trace in figure.data}
        True
    """
    _need(effects, "layer", "attribution_layers")
    one = at_place(effects, effect, round)
    low, high, drawn = interval(effects)
    fig = go.Figure()
    blocks = one["block"].values
    for name, color, keep in _kinds(one):
        some = one.isel(component=keep)
        estimate = some["estimate"].values
        fig.add_trace(
            go.Bar(
                x=some["block"].values,
                y=estimate,
                error_y=bars(estimate, some[low].values, some[high].values),
                name=name,
                marker={"color": color},
                customdata=some["component"].values,
                hovertemplate="%{customdata}<br>%{y:.3f}<extra></extra>",
            )
        )
    layers = np.unique(blocks)
    running = np.cumsum([float(one["estimate"].values[blocks == layer].sum()) for layer in layers])
    fig.add_trace(
        go.Scatter(
            x=layers,
            y=running,
            mode="lines+markers",
            name="cumulative sum",
            line={"color": WHOLE, "width": 2},
            hovertemplate="up to layer %{x}: %{y:.3f}<extra></extra>",
        )
    )
    fig.add_hline(y=0, line={"color": "#777"}, layer="below")
    fig.update_xaxes(title_text="layer (-1: embedding)", tickvals=layers.tolist())
    fig.update_yaxes(title_text=_axis(effects))
    title = f"{one['effect'].item()}{_when(one)}, layer by layer"
    return finish(fig, title, f"{drawn}; {_sum(effects)}", height=420, legend_rows=1, trust=provisos(effects))


def attribution_heads(effects: xr.Dataset, *, effect: str, round: int | None = None) -> go.Figure:
    """The contribution of every head to an effect, by layer.

    Args:
        effects: from ``attribute_effects(..., by="component")``.
        effect: the effect.
        round: the round; None: the last.

    Raises:
        ValueError: the effects are of another level of detail.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="component", draws=200)
        >>> figure = ml.plots.attribution_heads(split, effect="instruction")
        >>> np.shape(figure.data[0].z)
        (4, 4)
    """
    _need(effects, "component", "attribution_heads")
    one = at_place(effects, effect, round)
    heads = one.isel(component=np.flatnonzero(one["kind"].values == "head"))
    heads = heads.assign_coords(row=("component", [f"head {h}" for h in heads["head"].values]))
    rows = list(dict.fromkeys(heads["row"].values[np.argsort(heads["head"].values, kind="stable")]))
    return _map(heads, rows, effects, f"{one['effect'].item()}{_when(one)} by head and layer")


def attribution_segments(effects: xr.Dataset, *, effect: str, round: int | None = None) -> go.Figure:
    """The contribution of each segment, through the heads of every layer, to an effect.

    Args:
        effects: from ``attribute_effects(..., by="layer and segment")``.
        effect: the effect.
        round: the round; None: the last.

    Raises:
        ValueError: the effects are of another level of detail.

    Examples:
        >>> split = ml.interactions.attribute_effects(parts, by="layer and segment", draws=200)
        >>> figure = ml.plots.attribution_segments(split, effect="instruction")
        >>> "instruction" in {str(name) for name in (*figure.data[0].x, *figure.data[0].y)}
        True
    """
    _need(effects, "layer and segment", "attribution_segments")
    one = at_place(effects, effect, round)
    heads = one.isel(component=np.flatnonzero(one["kind"].values == "head"))
    heads = heads.assign_coords(row=("component", heads["segment"].values))
    used = [
        r for r in dict.fromkeys(heads["row"].values) if heads["estimate"].values[heads["row"] == r].any()
    ]
    rows = used or list(dict.fromkeys(heads["row"].values))
    some = heads.isel(component=np.isin(heads["row"].values, rows))
    return _map(some, rows, effects, f"{one['effect'].item()}{_when(one)} by segment read and layer")


def _map(one: xr.Dataset, rows: list[str], effects: xr.Dataset, title: str) -> go.Figure:
    """A map over layers, with a dot where the adjusted p is at most alpha."""
    layers = np.unique(one["block"].values)
    z = np.full((len(rows), len(layers)), np.nan)
    mark = np.full(z.shape, "", dtype=object)
    for i, (row, layer) in enumerate(zip(one["row"].values, one["block"].values, strict=True)):
        at = rows.index(row), int(np.searchsorted(layers, layer))
        z[at] = float(one["estimate"].values[i])
        clear = float(one["p_adj"].values[i]) <= alpha(effects)
        mark[at] = f"{number(z[at])}{' ●' if clear else ''}"
    limit = float(np.nanmax(np.abs(z), initial=1e-12))
    heat = go.Heatmap(
        z=z,
        x=[f"L{layer}" for layer in layers],
        y=rows,
        zmin=-limit,
        zmax=limit,
        colorscale="RdBu",
        text=mark,
        texttemplate="%{text}" if z.size <= 400 else "",
        hovertemplate="%{y}, %{x}<br>%{text}<extra></extra>",
        colorbar={
            "title": {"text": str(effects.attrs.get("units", "")), "font": {"size": 13}},
            "thickness": 14,
        },
    )
    fig = go.Figure(heat)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(showgrid=False, title_text="layer of the heads")
    subtitle = f"● adjusted p at most {alpha(effects):g}; heads only: without MLPs, biases and embedding"
    return finish(fig, title, subtitle, height=190 + 30 * len(rows), trust=provisos(effects))


def _kinds(one: xr.Dataset) -> list[tuple[str, str, np.ndarray]]:
    """The kinds of components present: name, colour, indices."""
    kinds = one["kind"].values
    groups = (
        ("attention", ATTENTION, np.isin(kinds, ("head", "attention", "bias"))),
        ("MLP", MLP, kinds == "MLP"),
        ("embedding", OTHER, np.isin(kinds, ("embedding", "position"))),
    )
    return [(name, color, np.flatnonzero(keep)) for name, color, keep in groups if keep.any()]


def _need(effects: xr.Dataset, by: str, who: str) -> None:
    if effects.attrs.get("by") != by:
        raise ValueError(
            f"plots.{who} needs attribute_effects(parts, by={by!r}); got by={effects.attrs.get('by')!r}."
        )


def _axis(effects: xr.Dataset) -> str:
    layer = effects.attrs.get("layer", "")
    return with_unit(
        f"contribution at layer {layer}" if layer != "" else "contribution", str(effects.attrs["units"])
    )


def _sum(effects: xr.Dataset) -> str:
    return f"contributions add up to the total within {float(effects.attrs['sum_error']):.0e}"


def _when(one: xr.Dataset) -> str:
    return f" in round {int(one['round'])}" if "round" in one.coords else ""
