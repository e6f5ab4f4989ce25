"""One figure of the result: every effect over layers, and beside it on behaviour."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from morality_lens.plots.style import (
    alpha,
    at_site,
    effect_colors,
    finish,
    forest_mark,
    interval,
    layer_map,
    refused_layers,
    said_refused,
    shade_refused,
    toward,
    trust,
    upright_bar,
    with_unit,
)

ROW = 30
"""Pixels for each effect."""


def summary(
    effects: xr.Dataset | None = None,
    behaviour_effects: xr.Dataset | None = None,
    *,
    layer: int | None = None,
    site: str | None = None,
) -> go.Figure:
    """Effects in the last round: a map over layers and, side by side, a forest plot of behaviour.

    Dots on the map and filled markers have an adjusted p of at most ``alpha``.

    Args:
        effects: from ``factorial_effects``, with a ``layer`` dimension; None: behaviour alone.
        behaviour_effects: the same for a behaviour, without layers; None: the map alone.
        layer: the layer that is framed, such as that of the best probe; None: no frame.
        site: the site of the map; None: the first one.

    Raises:
        ValueError: neither of the two is given, or there is no such site.

    Examples:
        >>> answers = ml.factorial_effects(correct, family=("round",), draws=200)
        >>> figure = ml.plots.summary(effects, answers, layer=3, site="answer_start")
        >>> "in the representation, answer_start" in {title.text for title in figure.layout.annotations}
        True
    """
    shown = [one for one in (effects, behaviour_effects) if one is not None]
    if not shown:
        raise ValueError("plots.summary needs effects, behaviour_effects or both; got neither.")
    _check(effects, behaviour_effects, layer)
    names = list(dict.fromkeys(str(name) for one in shown for name in one["effect"].to_numpy()))
    titles = []
    if effects is not None:
        effects, shown_site = at_site(_last(effects), site)
        where = f", {shown_site}" if shown_site else ""
        titles.append(f"in the representation{where}")
    if behaviour_effects is not None:
        behaviour_effects = _last(behaviour_effects)
        titles.append(with_unit("in behaviour", behaviour_effects.attrs.get("outcome", "")))
    widths = [0.6, 0.4] if len(shown) == 2 else [1.0]
    fig = make_subplots(
        cols=len(shown),
        subplot_titles=titles,
        column_widths=widths,
        shared_yaxes=True,
        horizontal_spacing=0.1,
    )
    refused: list[int] = []
    if effects is not None:
        refused = _draw_map(fig, effects, layer)
    if behaviour_effects is not None:
        _draw_forest(fig, behaviour_effects, names, len(shown))
    fig.update_yaxes(categoryorder="array", categoryarray=names[::-1], showgrid=False)
    rounds = np.atleast_1d(shown[0]["round"].to_numpy()) if "round" in shown[0].coords else []
    when = f" in round {int(rounds[-1])}" if len(rounds) else ""
    known = any(bool(one["p_adj"].notnull().any()) for one in shown)
    level = f"dots and filled marks: adjusted p at most {alpha(shown[0]):g}" if known else "no adjusted p"
    drawn = (
        "" if behaviour_effects is None else f"; lines: {interval(behaviour_effects)[2].partition(';')[0]}"
    )
    return finish(
        fig,
        f"Effects{when}",
        f"{level}{drawn}{said_refused(refused)}",
        height=170 + ROW * len(names),
        trust="" if effects is None else trust(effects),
    )


def _check(effects: xr.Dataset | None, behaviour: xr.Dataset | None, layer: int | None) -> None:
    """Refuse what cannot be drawn, by the argument that has it."""
    for name, one in (("effects", effects), ("behaviour_effects", behaviour)):
        if one is None:
            continue
        over_layers = "layer" in one["estimate"].dims
        if "effect" not in one.dims or over_layers is not (name == "effects") or "band_low" not in one:
            raise ValueError(
                f"plots.summary needs {name} from factorial_effects with the dimension effect, "
                f"{'and layer' if name == 'effects' else 'without layer'}; got {dict(one.sizes)}."
            )
    if effects is not None and layer is not None and layer not in effects["layer"].to_numpy():
        known = effects["layer"].to_numpy().tolist()
        raise ValueError(f"plots.summary has no layer {layer} in effects: choose one of {known}.")


def _last(effects: xr.Dataset) -> xr.Dataset:
    return effects.isel(round=-1) if "round" in effects.dims else effects


def _draw_map(fig: go.Figure, effects: xr.Dataset, layer: int | None) -> list[int]:
    """The map in the first panel; the refused layers come back."""
    one = effects.transpose("effect", "layer", ...)
    refused = refused_layers(one)
    right = fig.to_dict()["layout"]["xaxis"]["domain"][1] + 0.005
    heat, dots = layer_map(
        one,
        [str(name) for name in one["effect"].to_numpy()],
        hover="<b>%{y}</b>",
        size=6,
        colorbar={
            "title": {"text": toward(one)[0].replace(" ", "<br>"), "font": {"size": 12}},
            "thickness": 10,
            "x": right,
            "xpad": 0,
            "tickfont": {"size": 11},
        },
    )
    fig.add_trace(heat, row=1, col=1)
    fig.add_trace(dots, row=1, col=1)
    shade_refused(fig, refused, panels=1)
    if layer is not None:
        upright_bar(fig, layer - 0.5, layer + 0.5, "", line={"color": "#111", "width": 1.5}, layer="above")
    fig.update_xaxes(title_text="layer", showgrid=False, row=1, col=1)
    return refused


def _draw_forest(fig: go.Figure, effects: xr.Dataset, names: Sequence[str], column: int) -> None:
    colors = effect_colors(effects)
    low, high, _ = interval(effects)
    for name in (n for n in names if n in colors):
        fig.add_trace(forest_mark(effects, name, colors[name], low=low, high=high), row=1, col=column)
    upright_bar(fig, 0.0, 0.0, "2" if column == 2 else "", line={"color": "#9A9A9A", "width": 1})
    title = with_unit("effect", effects.attrs.get("units", ""))
    fig.update_xaxes(title_text=title, row=1, col=column)
