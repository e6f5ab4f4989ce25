"""Figures of lenses: what every layer would answer, effects on it, when it is there, a probe beside it."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.interactions.cube import conditions_of
from morality_lens.plots.factorial import ZERO, effects as draw_effects
from morality_lens.plots.interventions import Curve, simplest
from morality_lens.plots.style import (
    OTHER_COLORS,
    bars,
    condition_colors,
    effect_colors,
    finish,
    provisos,
    round_panels,
)

ANSWER = "#4D4D4D"


def lens_curves(curves: xr.Dataset, *, conditions: Sequence[str] = ()) -> go.Figure:
    """What each layer would answer on average: a line with its band per condition, a panel per round.

    Args:
        curves: from :func:`morality_lens.circuits.lens_curves`.
        conditions: labels of the conditions drawn; none takes the first four without a chain of thought.

    Raises:
        ValueError: a label that no condition has.

    Examples:
        >>> figure = ml.plots.lens_curves(ml.circuits.lens_curves(ml.circuits.lens(model, run)))
        >>> "instruction" in {trace.name for trace in figure.data}
        True
    """
    cells = {cell.label: cell for cell in conditions_of(curves)}
    labels = list(conditions) or simplest(list(cells))
    wrong = [label for label in labels if label not in cells]
    if wrong:
        raise ValueError(f"plots.lens_curves has the conditions {', '.join(cells)}; got {wrong[0]!r}.")
    colors = condition_colors(list(cells))
    rounds = curves["round"].values.tolist()
    units = str(curves.attrs.get("units", ""))
    fig, places = round_panels(rounds, x_title="layer (-1: embedding)", y_title=units)
    banded = not curves.attrs["no_band"]
    low, high = ("band_low", "band_high") if banded else ("ci_low", "ci_high")
    for number, (row, column) in zip(rounds, places, strict=True):
        for label in labels:
            one = curves.sel(round=number).sel(dict(cells[label].coords))
            curve = Curve.of(one, "layer", ("estimate", low, high))
            fig.add_trace(curve.band(colors[label], label), row=row, col=column)
            line = curve.line(label, colors[label]).update(showlegend=(row, column) == (1, 1))
            fig.add_trace(line, row=row, col=column)
    fig.add_hline(y=0, line=ZERO, layer="below")
    what = {"good": "the good option", "answer": "the option it then chooses"}.get(
        str(curves.attrs.get("of"))
    )
    drawn = "bands that hold over all layers at once" if banded else f"pointwise; {curves.attrs['no_band']}"
    return finish(
        fig,
        f"What each layer would answer: {what or units}",
        f"{curves.attrs['lens']}; {100 * (1 - curves.attrs['alpha']):g} % {drawn}",
        height=150 + 250 * places[-1][0],
        legend_rows=1,
        trust=provisos(curves, direction=False),
    )


def lens_effects(effects: xr.Dataset, *, effect: str | Sequence[str] | None = None) -> go.Figure:
    """Factorial effects on what each layer would answer: one line per effect, one panel per round.

    Args:
        effects: from ``factorial_effects`` of a lens.
        effect: a name or several; None: all.

    Examples:
        >>> found = ml.factorial_effects(ml.circuits.lens(model, run), draws=200)
        >>> figure = ml.plots.lens_effects(found, effect="instruction")
        >>> [trace.name for trace in figure.data if trace.name][0]
        'instruction'
    """
    told = effects.assign_attrs(trust=str(effects.attrs.get("option_note", "")))
    fig = draw_effects(told, effect=effect)
    return fig.update_layout(title_text="<b>Effects on what each layer would answer</b>")


def lens_onsets(found: xr.Dataset, *, round: int | None = None) -> go.Figure:
    """The layer from which the answer and every effect are there: half of the last value, and beyond zero.

    Args:
        found: from :func:`morality_lens.circuits.answer_onsets`.
        round: the round; None: the last.

    Examples:
        >>> figure = ml.plots.lens_onsets(ml.circuits.answer_onsets(ml.circuits.lens(model, run)))
        >>> "answer" in {str(y) for trace in figure.data for y in trace.y}
        True
    """
    number = found["round"].values.tolist()[-1] if round is None else round
    one = found.sel(round=number)
    names = one["curve"].values.tolist()
    effects = xr.Dataset({"e": ("effect", np.zeros(len(names) - 1))}, {"effect": names[1:]})
    colors = {"answer": ANSWER, **effect_colors(effects.assign_attrs(factors=_factors(names)))}
    fig = go.Figure()
    shown = [colors[name] for name in names]
    half, low, high = (one[n].values for n in ("half", "half_low", "half_high"))
    for i, name in enumerate(names):
        ends = bars(half[i : i + 1], low[i : i + 1], high[i : i + 1])
        fig.add_trace(
            go.Scatter(
                x=half[i : i + 1],
                y=[name],
                error_x={**ends, "color": shown[i], "thickness": 2, "width": 4},
                mode="markers",
                marker={"size": 10, "color": shown[i]},
                showlegend=False,
                hovertemplate=f"<b>{name}</b><br>half of the last value from layer %{{x}} on"
                f" [{low[i]:.0f}, {high[i]:.0f}]<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=one["first"].values,
            y=names,
            mode="markers",
            marker={"size": 10, "symbol": "line-ns", "line": {"width": 2, "color": shown}},
            showlegend=False,
            hovertemplate="<b>%{y}</b><br>differs from zero from layer %{x} on<extra></extra>",
        )
    )
    untold = [name for name, told in zip(names, one["told"].values, strict=True) if not told]
    fig.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    layers = [v for v in (half, low, high, one["first"].values) if np.isfinite(v).any()]
    if layers:
        fig.update_xaxes(range=[min(map(np.nanmin, layers)) - 1, max(map(np.nanmax, layers)) + 1])
    fig.update_xaxes(title_text="layer")
    left = f"; none for {', '.join(untold)}: no last value that differs from zero" if untold else ""
    return finish(
        fig,
        f"From which layer on the answer is there, and the effects on it, in round {number}",
        "dots: half of the last layer's value, with bootstrap intervals; strokes: differs from zero "
        f"(simultaneous band){left}",
        height=170 + 28 * len(names),
        trust=provisos(found, direction=False),
    )


def lens_agreement(found: xr.Dataset) -> go.Figure:
    """Correlations of a lens with a probe's projection by layer, a panel per round.

    Args:
        found: from :func:`morality_lens.circuits.lens_agreement`.

    Examples:
        >>> agreed = ml.circuits.lens_agreement(ml.circuits.lens(model, run), moral)
        >>> figure = ml.plots.lens_agreement(agreed)
        >>> "over conditions alone" in {trace.name for trace in figure.data}
        True
    """
    rounds = found["round"].values.tolist()
    fig, places = round_panels(rounds, x_title="layer (-1: embedding)", y_title="correlation")
    names = {"items and conditions": "over items and conditions", "conditions": "over conditions alone"}
    for number, (row, column) in zip(rounds, places, strict=True):
        for (across, label), color in zip(names.items(), OTHER_COLORS, strict=False):
            one = found.sel(round=number, across=across)
            curve = Curve.of(one, "layer", ("r", "low", "high"))
            fig.add_trace(curve.band(color, across), row=row, col=column)
            line = curve.line(label, color, group=across).update(showlegend=(row, column) == (1, 1))
            fig.add_trace(line, row=row, col=column)
    fig.add_hline(y=0, line=ZERO, layer="below")
    fig.update_yaxes(range=[-1.05, 1.05])
    return finish(
        fig,
        "Agreement of what each layer would answer with the probe's projection",
        f"{found.attrs['lens']}; pointwise {100 * (1 - found.attrs['alpha']):g} % intervals by clusters",
        height=150 + 250 * places[-1][0],
        legend_rows=1,
        trust=provisos(found),
    )


def _factors(names: Sequence[str]) -> list[str]:
    """The factors that effects are made of."""
    return [name for name in names[1:] if ":" not in name]
