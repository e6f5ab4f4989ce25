"""Figures of factorial effects, cell means and behaviour; they compute nothing."""

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import xarray as xr

from morality_lens.design import RESERVED
from morality_lens.interactions.names import effect_called
from morality_lens.interactions.numbers import interval_of, is_p
from morality_lens.plots.style import (
    DASHES,
    HOVER,
    OTHER_COLORS,
    at_site,
    band,
    condition_panels,
    details,
    effect_colors,
    finish,
    forest_mark,
    grid,
    interval,
    layer_map,
    refused_layers,
    round_name,
    round_panels,
    said_refused,
    select,
    shade_refused,
    significance,
    toward,
    trust,
    with_unit,
)

ZERO = {"color": "#9A9A9A", "width": 1}
NOT_FACTORS = ("item", "effect", "round", "site", "layer")


def effects(
    effects: xr.Dataset, *, site: str | None = None, effect: str | Sequence[str] | None = None
) -> go.Figure:
    """Factorial effects by layer: one line per effect, one panel per round, simultaneous bands.

    Filled markers: adjusted p at most ``alpha``. The band breaks at layers that have none. Where no
    simultaneous band exists the pointwise interval is drawn, as the subtitle states.

    Args:
        effects: from ``factorial_effects``, with a ``layer`` dimension.
        site: the site shown; None: the first one.
        effect: a name or several; None: all.

    Raises:
        ValueError: a site or effect that is not there, or no ``layer`` dimension.

    Examples:
        >>> figure = ml.plots.effects(effects, site="answer_start", effect=["instruction", "feedback"])
        >>> sorted({trace.name for trace in figure.data if trace.name})
        ['feedback', 'instruction']
    """
    data, site_name = at_site(effects, site)
    _need(data["estimate"], "plots.effects", ("effect", "layer"))
    names = _effect_names(data, effect)
    low, high, drawn = interval(data.sel(effect=names))
    rounds, colors = _rounds(data), effect_colors(data)
    unit = with_unit("effect", data.attrs.get("units", ""))
    fig, places = round_panels(rounds, x_title="layer", y_title=unit)
    layers, refused = data["layer"].to_numpy(), refused_layers(data)
    data = data.assign(estimate=data["estimate"].where(~data["layer"].isin(refused)))
    for index, (row, column) in zip(rounds, places, strict=True):
        shown = data if index is None else data.sel(round=index)
        for rank, name in reversed(
            list(enumerate(names))
        ):  # the widest bands, of the last effects, lie below
            one, color = shown.sel(effect=name), colors[name]
            area = band(layers, one[low].to_numpy(), one[high].to_numpy(), color, name)
            fig.add_trace(area, row=row, col=column)
            line = go.Scatter(
                x=layers,
                y=one["estimate"].to_numpy(),
                name=name,
                legendgroup=name,
                legendrank=rank,
                showlegend=(row, column) == (1, 1),
                mode="lines+markers",
                line={"color": color, "width": 1.8},
                marker=significance(one, color),
                customdata=details(one, low, high),
                hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>{HOVER}",
            )
            fig.add_trace(line, row=row, col=column)
    shade_refused(fig, refused)
    fig.add_hline(y=0, line=ZERO, layer="below")
    return finish(
        fig,
        f"{'Effects' if len(names) > 1 else f'Effect of {names[0]}'} by layer{_where(site_name)}",
        f"{drawn}; above 0: {toward(data)[0]}{said_refused(refused)}",
        height=150 + 240 * places[-1][0],
        legend_rows=1 + (len(names) > 4),
        trust=trust(data),
    )


def effects_map(effects: xr.Dataset, *, effect: str, site: str | None = None) -> go.Figure:
    """One effect over layers and rounds as a heat map; blue is positive (toward moral), dots mark adjusted p.

    Args:
        effects: from ``factorial_effects``, with ``layer`` and ``round`` dimensions.
        effect: the effect's name.
        site: the site shown; None: the first one.

    Raises:
        ValueError: a site or effect that is not there, or a missing dimension.

    Examples:
        >>> figure = ml.plots.effects_map(effects, effect="instruction", site="answer_start")
        >>> np.shape(figure.data[0].z)
        (3, 7)
    """
    data, site_name = at_site(effects, site)
    _need(data["estimate"], "plots.effects_map", ("effect", "layer", "round"))
    name = _effect_names(data, effect)[0]
    one = data.sel(effect=name).transpose("round", "layer", ...)
    refused, drawn = refused_layers(data), interval(one)[2]
    rounds = [round_name(r) for r in one["round"].to_numpy().tolist()]
    unit = data.attrs.get("units", "").replace(" ", "<br>")
    heat, dots = layer_map(
        one,
        rounds,
        hover=f"<b>{name}</b>, %{{y}}",
        size=7,
        colorbar={"title": {"text": unit, "font": {"size": 13}}, "thickness": 14},
    )
    fig = go.Figure([heat, dots])
    shade_refused(fig, refused)
    fig.update_xaxes(title_text="layer", showgrid=False)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return finish(
        fig,
        f"Effect of {name} by layer and round{_where(site_name)}",
        f"blue: {toward(data)[0]}; {drawn.partition('; ')[2].replace('filled', 'dots')}"
        f"{said_refused(refused)}",
        height=160 + 44 * len(rounds),
        trust=trust(data),
    )


def trajectories(
    means: xr.DataArray,
    *,
    site: str | None = None,
    layer: int | None = None,
    ci_low: xr.DataArray | None = None,
    ci_high: xr.DataArray | None = None,
) -> go.Figure:
    """The mean projection over rounds, one line per condition, one panel per level of the last factor.

    Args:
        means: cell means: the factors' dimensions and ``round``; ``site`` and ``layer`` optional.
        site: the site shown; None: the first one.
        layer: the layer shown; None: the last one.
        ci_low: lower end of a pointwise interval, labelled as ``means``; None: no intervals.
        ci_high: upper end; given when ``ci_low`` is.

    Raises:
        ValueError: an ``item`` dimension, a missing ``round``, or a site or layer that is not there.

    Examples:
        >>> figure = ml.plots.trajectories(effects["cell_mean"], site="answer_start", layer=3)
        >>> "instruction" in {trace.name for trace in figure.data}
        True
    """
    if "item" in means.dims:
        raise ValueError(
            'plots.trajectories draws cell means: got one value per item. Give `effects["cell_mean"]` '
            'or `projections.mean("item")`.'
        )
    _need(means, "plots.trajectories", ("round",))
    if (ci_low is None) != (ci_high is None):
        raise ValueError("plots.trajectories needs ci_low and ci_high together: got only one of them.")
    parts = {"mean": means, "ci_low": ci_low, "ci_high": ci_high}
    data, site_name = at_site(xr.Dataset({k: v for k, v in parts.items() if v is not None}), site)
    where = _where(site_name)
    if "layer" in data.dims:
        layer = int(data["layer"].to_numpy()[-1]) if layer is None else layer
        data = select(data, "layer", layer)
        where += f", layer {layer}"
    fig = condition_panels(data.to_dataframe().reset_index(), _factors(means), unparsed=False)
    fig.update_yaxes(title_text=with_unit("projection", means.attrs.get("units", "")), col=1)
    shown = "no intervals" if ci_low is None else "bars: pointwise intervals"
    return finish(
        fig,
        f"Mean projection over rounds{where}",
        f"one line per condition; {shown}; higher: more moral",
        height=430,
        legend_rows=2,
        trust=trust(means),
    )


def accuracy(table: pd.DataFrame, *, measure: str = "share correct") -> go.Figure:
    """A measure of behaviour over rounds, one line per condition, with intervals and the unparsed share.

    Args:
        table: a column for each factor, then round, mean, ci_low, ci_high, n, unparsed.
        measure: name of the measure; the axis title.

    Raises:
        ValueError: a missing column.

    Examples:
        >>> figure = ml.plots.accuracy(ml.judges.behaviour_table(correct))
        >>> "instruction+cot" in {trace.name for trace in figure.data}
        True
    """
    needed = ("round", "mean", "ci_low", "ci_high", "n", "unparsed")
    missing = [name for name in needed if name not in table.columns]
    factors = [str(name) for name in table.columns if name not in RESERVED]
    if missing or not factors:
        raise ValueError(
            f"plots.accuracy needs a column for each factor and {needed}; missing: {missing or 'factors'}."
        )
    most_failed = float(np.nan_to_num(table["unparsed"].to_numpy(dtype=float)).max())
    fig = condition_panels(table, factors, unparsed=most_failed > 0)
    fig.update_yaxes(title_text=measure, row=1, col=1)
    if most_failed:
        fig.update_yaxes(tickformat=".0%", range=[0, max(0.05, 1.1 * most_failed)], row=2)
        fig.update_yaxes(title_text="unparsed", row=2, col=1)
    least, most = int(table["n"].to_numpy().min()), int(table["n"].to_numpy().max())
    return finish(
        fig,
        f"{measure[:1].upper()}{measure[1:]} over rounds",
        f"{least if least == most else f'{least} to {most}'} items per condition; with pointwise intervals; "
        + ("below: share of unparsed answers" if most_failed else "every answer was parsed"),
        height=540 if most_failed else 430,
        legend_rows=2,
    )


def behaviour_effects(effects: xr.Dataset) -> go.Figure:
    """Factorial effects on a behaviour as a forest plot: one row per effect, one panel per round.

    Args:
        effects: from ``factorial_effects`` for a behaviour: no ``layer`` and no ``site`` dimension.

    Raises:
        ValueError: a dimension other than ``effect`` and ``round``.

    Examples:
        >>> found = ml.factorial_effects(correct, family=("round",), draws=200)
        >>> figure = ml.plots.behaviour_effects(found)
        >>> len(figure.data) >= found.sizes["effect"]
        True
    """
    extra = [dim for dim in effects["estimate"].dims if dim not in ("effect", "round")]
    if extra:
        raise ValueError(
            f"plots.behaviour_effects draws effects by round: got the dimensions {extra} too. "
            "Select one of each first, or use plots.effects."
        )
    names, colors, rounds = _effect_names(effects, None), effect_colors(effects), _rounds(effects)
    low, high, drawn = interval(effects)
    unit = with_unit("effect", effects.attrs.get("units", ""))
    fig, places = round_panels(rounds, x_title=unit, y_title="")
    for index, (row, column) in zip(rounds, places, strict=True):
        shown = effects if index is None else effects.sel(round=index)
        for name in names:
            fig.add_trace(forest_mark(shown, name, colors[name], low=low, high=high), row=row, col=column)
    fig.add_vline(x=0, line=ZERO, layer="below")
    fig.update_yaxes(autorange="reversed", showgrid=False)
    return finish(
        fig,
        "Effects on behaviour by round",
        drawn,
        height=150 + places[-1][0] * (60 + 26 * len(names)),
    )


def cell_means(
    effects: xr.Dataset,
    *,
    effect: str,
    round: int | None = None,
    layer: int | None = None,
    site: str | None = None,
) -> go.Figure:
    """The cell means of one effect; parallel lines mean no two-way interaction.

    The effect's first factor is the axis, its second (or the next factor) the lines, the rest the panels;
    nothing is averaged.

    Args:
        effects: from ``factorial_effects``, with ``cell_mean``.
        effect: the effect's name.
        round: the round shown; None: the last one.
        layer: the layer shown; None: the last one.
        site: the site shown; None: the first one.

    Raises:
        ValueError: an effect, round, layer or site that is not there.

    Examples:
        >>> place = {"round": 2, "layer": 3, "site": "answer_start"}
        >>> figure = ml.plots.cell_means(effects, effect="instruction:feedback", **place)
        >>> {"feedback off", "feedback on"} <= {trace.name for trace in figure.data}
        True
    """
    data, site_name = at_site(effects, site)
    name = _effect_names(data, effect)[0]
    where = _where(site_name)
    for dim, value in (("round", round), ("layer", layer)):
        if dim in data.dims:
            chosen = int(data[dim].to_numpy()[-1]) if value is None else value
            data = select(data, dim, chosen)
            where += f", {dim} {chosen}"
    one, means = data.sel(effect=name), data["cell_mean"]
    low, high, drawn = interval(one)
    own = name.partition("@")[0].split(":")
    axis, *others = own + [factor for factor in _factors(means) if factor not in own]
    levels = {factor: [str(v) for v in means[factor].to_numpy()] for factor in (axis, *others)}
    panels = [
        dict(zip(others[1:], p, strict=True)) for p in itertools.product(*(levels[f] for f in others[1:]))
    ]
    fig = grid([", ".join(map(" ".join, p.items())) for p in panels], columns=len(panels))
    lines = [{factor: level} for factor in others[:1] for level in levels[factor]] or [{}]
    for (column, panel), line in itertools.product(enumerate(panels, 1), lines):
        label = " ".join(*line.items()) if line else axis
        level = next(iter(line.values()), "on")
        color = {"off": OTHER_COLORS[4], "placebo": OTHER_COLORS[1]}.get(level, OTHER_COLORS[0])
        trace = go.Scatter(
            x=levels[axis],
            y=means.sel(panel | line).to_numpy(),
            name=label,
            legendgroup=label,
            showlegend=column == 1,
            mode="lines+markers",
            line={"color": color, "dash": DASHES.get(level, "solid"), "width": 2.5},
            marker={"size": 9},
            hovertemplate=f"{label}<br>{axis} %{{x}}<br>mean %{{y:.3f}}<extra></extra>",
        )
        fig.add_trace(trace, row=1, col=column)
    fig.update_yaxes(title_text=with_unit("cell mean", data.attrs.get("units", "")), col=1)
    fig.update_xaxes(title_text=axis, type="category")
    return finish(
        fig,
        f"Cell means of {name}{where}",
        f"effect {interval_of(one, 'estimate', low, high, signed=True)}, adjusted "
        f"{is_p(float(one['p_adj']), draws=float(data.attrs.get('draws_used', 0)))}; "
        f"{drawn.partition(';')[0]}",
        height=420,
        legend_rows=1,
        trust=trust(data),
    )


def _need(data: xr.DataArray, who: str, dims: Sequence[str]) -> None:
    missing = [dim for dim in dims if dim not in data.dims]
    if missing:
        raise ValueError(f"{who} needs the dimensions {tuple(dims)}: got {data.dims}, without {missing}.")


def _effect_names(data: xr.Dataset, effect: str | Sequence[str] | None) -> list[str]:
    present = [str(name) for name in data["effect"].to_numpy()]
    names = present if effect is None else [effect] if isinstance(effect, str) else list(effect)
    if not names:
        raise ValueError(f"no effect was named: choose from {present}, or give None for all.")
    return [effect_called(name, present, "a figure") for name in names]


def _rounds(data: xr.Dataset) -> list[int | None]:
    return data["round"].to_numpy().tolist() if "round" in data["estimate"].dims else [None]


def _factors(data: xr.DataArray) -> list[str]:
    return [str(dim) for dim in data.dims if dim not in NOT_FACTORS]


def _where(site: str | None) -> str:
    return f" at {site}" if site else ""
