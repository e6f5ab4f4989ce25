"""Figures of sparse features: the effects on them, and the share of a direction's effect that they carry."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.interactions.by_component import at_place
from morality_lens.plots.style import (
    OTHER_COLORS,
    alpha,
    at_site,
    bars,
    details,
    effect_colors,
    finish,
    interval,
    provisos,
    significance,
    with_unit,
)

ALL = "#4D4D4D"
HOVER = "<b>%{y}</b><br>%{customdata[0]}<br>adjusted p %{customdata[1]}, p %{customdata[2]}<extra></extra>"


def feature_effects(
    effects: xr.Dataset, *, effect: str, round: int | None = None, site: str | None = None, top: int = 14
) -> go.Figure:
    """The features that an effect moves most, by their t, with simultaneous bands.

    Args:
        effects: from :func:`morality_lens.sparse.feature_effects`.
        effect: the effect.
        round: the round; None: the last.
        site: the site; None: the first.
        top: number of features drawn.

    Examples:
        >>> found = ml.sparse.feature_effects(ml.features(run, sae, sites=["answer_start"]))
        >>> figure = ml.plots.feature_effects(found, effect="instruction", top=3)
        >>> len(figure.data[0].y)
        3
    """
    here, name = at_site(effects, site)
    one = at_place(here, effect, round)
    known = np.flatnonzero(np.isfinite(one["p_adj"].values) | np.isfinite(one["p"].values))
    order = known[np.argsort(-np.abs(_t(one.isel(feature=known))), kind="stable")][:top]
    shown = one.isel(feature=order)
    low, high, drawn = interval(effects)
    labels = [f"feature {n}" for n in shown["feature"].values]
    color = effect_colors(effects)[one["effect"].item()]
    estimate = shown["estimate"].values
    fig = go.Figure(
        go.Scatter(
            x=estimate,
            y=labels,
            error_x={**bars(estimate, shown[low].values, shown[high].values), "color": color},
            mode="markers",
            marker=significance(shown, color, 9),
            customdata=details(shown, low, high),
            hovertemplate=HOVER,
            showlegend=False,
        )
    )
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_yaxes(categoryorder="array", categoryarray=labels, autorange="reversed")
    fig.update_xaxes(title_text=with_unit("effect", str(effects.attrs.get("units", ""))))
    clear = int((one["p_adj"].values <= alpha(effects)).sum())
    return finish(
        fig,
        f"Features that {one['effect'].item()} moves{_where(one, name)}",
        f"{drawn}; {clear} of {known.size} tested features have an adjusted p of at most {alpha(effects):g}",
        height=170 + 26 * max(1, len(labels)),
        trust=str(effects.attrs.get("checked", "")),
    )


def feature_shares(found: xr.Dataset, *, effect: str, round: int | None = None) -> go.Figure:
    """How an effect on a direction is made up: named features, other features, and what they leave.

    Args:
        found: from :func:`morality_lens.sparse.direction_shares`.
        effect: the effect.
        round: the round; None: the last.

    Examples:
        >>> parts = ml.sparse.split_direction(run, sae, probe, features=[0, 1])
        >>> figure = ml.plots.feature_shares(ml.sparse.direction_shares(parts), effect="instruction")
        >>> "feature 0" in {str(y) for trace in figure.data for y in trace.y}
        True
    """
    one = at_place(found, effect, round)
    low, high, drawn = interval(found)
    names = ["total effect", *map(str, one["component"].values)]
    fig = go.Figure()
    ends = [np.array([float(one[n])]) for n in ("whole", "whole_low", "whole_high")]
    fig.add_trace(
        go.Scatter(
            x=ends[0],
            y=names[:1],
            error_x={**bars(*ends), "color": ALL},
            mode="markers",
            marker={"symbol": "diamond", "size": 11, "color": ALL},
            showlegend=False,
            hovertemplate="total effect %{x:.3f}<extra></extra>",
        )
    )
    estimate = one["estimate"].values
    fig.add_trace(
        go.Scatter(
            x=estimate,
            y=names[1:],
            error_x={**bars(estimate, one[low].values, one[high].values), "color": OTHER_COLORS[0]},
            mode="markers",
            marker=significance(one, OTHER_COLORS[0], 9),
            customdata=details(one, low, high),
            hovertemplate=HOVER,
            showlegend=False,
        )
    )
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    fig.update_xaxes(title_text=with_unit("effect", str(found.attrs.get("units", ""))))
    share = one.sel(part="named features")
    said = "no share: the total effect is not distinguishable from zero"
    if np.isfinite(float(share["share"])):
        said = (
            f"the named features together carry {float(share['share']):.2f} "
            f"[{float(share['share_low']):.2f}, {float(share['share_high']):.2f}] of it"
        )
    return finish(
        fig,
        f"Parts of what {one['effect'].item()} moves at layer {found.attrs['layer']}{_where(one, None)}",
        f"{drawn}; total: pointwise; {said}",
        height=170 + 26 * len(names),
        trust=provisos(found, options=False),
    )


def _t(one: xr.Dataset) -> np.ndarray:
    """Estimates over their standard errors; the largest where nothing varies."""
    se = one["se"].values
    estimate = one["estimate"].values
    return np.divide(estimate, se, out=np.where(estimate == 0, 0.0, 1e9), where=se > 0)


def _where(one: xr.Dataset, site: str | None) -> str:
    at = f" at {site}" if site else ""
    return at + (f" in round {int(one['round'])}" if "round" in one.coords else "")
