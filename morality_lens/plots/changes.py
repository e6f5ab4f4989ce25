"""Figures of answers as trajectories: means by round and condition, settling, transitions compared."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from morality_lens.interactions.numbers import p_value, signed, with_bounds
from morality_lens.plots.style import alpha, condition_panels, finish, with_unit


def round_means(means: xr.Dataset, *, title: str, note: str = "") -> go.Figure:
    """Means with their pointwise intervals over rounds, one line per condition.

    Args:
        means: ``estimate``, ``ci_low`` and ``ci_high`` over the factors and ``round``; ``attrs`` may say
            ``units``.
        title: of the figure.
        note: what the numbers are, for the subtitle.

    Raises:
        ValueError: a variable or the dimension ``round`` is missing.

    Examples:
        >>> changed = ml.experiments.change_cube(run)
        >>> means = ml.interactions.mean_over_items(changed, share=True)
        >>> figure = ml.plots.round_means(means, title="Answers that change")
        >>> "instruction" in {trace.name for trace in figure.data}
        True
    """
    needed = {"estimate", "ci_low", "ci_high"}
    if not needed <= set(means) or "round" not in means.dims:
        raise ValueError(
            f"plots.round_means draws {', '.join(sorted(needed))} over round; got {sorted(map(str, means))} "
            f"over {tuple(means.dims)}."
        )
    factors = [str(dim) for dim in means["estimate"].dims if dim != "round"]
    shown = means[[*needed]].rename(estimate="mean").reset_coords(drop=True)
    fig = condition_panels(shown.to_dataframe().reset_index(), factors, unparsed=False)
    fig.update_yaxes(title_text=with_unit("mean", str(means.attrs.get("units", ""))), col=1)
    level = f"bars: pointwise {100 * (1 - alpha(means)):g} % intervals"
    return finish(fig, title, "; ".join(filter(None, (note, level))), height=430, legend_rows=2)


def transition_effects(found: xr.Dataset) -> go.Figure:
    """A small table for each factor: how it changes the shares of what follows each kind of answer.

    Args:
        found: from ``experiments.compare_transitions``.

    Raises:
        ValueError: something else.

    Examples:
        >>> figure = ml.plots.transition_effects(ml.experiments.compare_transitions(run))
        >>> len(figure.data)
        3
    """
    if not {"factor", "before", "after"} <= set(found.dims):
        raise ValueError(
            "plots.transition_effects draws the result of experiments.compare_transitions; got one over "
            f"{tuple(found.dims)}."
        )
    names = [str(name) for name in found["factor"].values]
    fig = make_subplots(
        rows=1,
        cols=len(names),
        subplot_titles=names,
        shared_yaxes="all",  # pyright: ignore[reportArgumentType]  # documented by plotly, typed as bool
        horizontal_spacing=0.03,
    )
    reach = max(0.05, float(np.nanmax(np.abs(found["estimate"].values), initial=0.0)))
    for column, name in enumerate(names, start=1):
        fig.add_trace(_difference(found.sel(factor=name), reach, column == len(names)), row=1, col=column)
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_yaxes(title_text="answer before", col=1)
    fig.update_xaxes(title_text="answer in the next round", showgrid=False)
    level = float(found.attrs["alpha"])
    return finish(
        fig,
        "Transitions with and without each factor",
        f"difference of the shares of the row, on less off, over all rounds; *: adjusted p below {level:g}; "
        "empty: too few clusters",
        height=160 + 60 * found.sizes["before"],
    )


def _difference(one: xr.Dataset, reach: float, bar: bool) -> go.Heatmap:
    """The differences of one factor."""
    level, draws = float(one.attrs["alpha"]), float(one.attrs["draws"])
    estimate, p = one["estimate"].values, one["p_adj"].values
    text = np.full(estimate.shape, "", dtype=object)
    hover = np.full((*estimate.shape, 3), "none", dtype=object)
    for place in zip(*np.nonzero(np.isfinite(estimate)), strict=True):
        text[place] = signed(float(estimate[place]), 2) + ("*" if p[place] < level else "")
        ends = (float(one[name].values[place]) for name in ("estimate", "ci_low", "ci_high"))
        shares = f"{float(one['off'].values[place]):.0%} off, {float(one['on'].values[place]):.0%} on"
        hover[place] = (with_bounds(*ends, signed=True), p_value(float(p[place]), draws=draws), shares)
    return go.Heatmap(
        z=estimate,
        x=[str(kind) for kind in one["after"].values],
        y=[str(kind) for kind in one["before"].values],
        zmin=-reach,
        zmax=reach,
        colorscale="RdBu",
        showscale=bar,
        colorbar={"title": {"text": "difference"}, "thickness": 12},
        text=text,
        texttemplate="%{text}",
        customdata=hover,
        hovertemplate="%{y} → %{x}<br>difference %{customdata[0]}<br>adjusted p %{customdata[1]}"
        "<br>%{customdata[2]}<extra></extra>",
    )
