"""Figures of a study's parts: forest plots, weak evidence, shifts from round to round."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.interactions.cube import conditions_of, factors_of
from morality_lens.interactions.numbers import with_bounds
from morality_lens.plots.style import OTHER_COLORS, SYMBOLS, condition_colors, finish

PART_COLORS = ("#1b7f5c", "#8cc8ae", "#c4553b", "#e8a33d", "#7d6bb0", "#9a9a9a")


@dataclass(frozen=True, kw_only=True)
class ForestRow:
    """One estimate with its interval: a row of a forest plot, in the colour of its group.

    Examples:
        >>> row = ml.plots.ForestRow(label="layer 3", group="instruction", estimate=0.3, low=0.2, high=0.4)
        >>> row.low < row.estimate < row.high
        True
    """

    label: str
    group: str
    estimate: float
    low: float
    high: float


def forest(
    rows: Sequence[ForestRow],
    *,
    title: str,
    subtitle: str,
    unit: str,
    references: Sequence[tuple[float, str]] = ((0.0, ""),),
    trust: str = "",
) -> go.Figure:
    """A forest plot: estimates with intervals, a row for each, those of a group in one colour.

    Args:
        rows: from the top.
        title: of the figure.
        subtitle: the kind of intervals.
        unit: of the axis.
        references: values marked by a line, each with a label.
        trust: verdict on the direction, where one is used.

    Raises:
        ValueError: no rows.

    Examples:
        >>> rows = [
        ...     ml.plots.ForestRow(label=f"layer {k}", group="instruction", estimate=k, low=0.0, high=2 * k)
        ...     for k in (1.0, 2.0)
        ... ]
        >>> figure = ml.plots.forest(rows, title="Instruction", subtitle="95 % intervals", unit="gap")
        >>> figure.data[0].x.round(1).tolist()
        [1.0, 2.0]
    """
    if not rows:
        raise ValueError("plots.forest needs at least one row; got none.")
    labels = list(dict.fromkeys(row.label for row in rows))
    groups = list(dict.fromkeys(row.group for row in rows))
    fig = go.Figure()
    for g, group in enumerate(groups):
        mine = [row for row in rows if row.group == group]
        offset = (g - (len(groups) - 1) / 2) * min(0.2, 0.8 / len(groups))
        x = np.array([row.estimate for row in mine])
        fig.add_trace(
            go.Scatter(
                x=x,
                y=[labels.index(row.label) + offset for row in mine],
                error_x={
                    "array": np.array([row.high for row in mine]) - x,
                    "arrayminus": x - np.array([row.low for row in mine]),
                    "symmetric": False,
                    "thickness": 1.5,
                    "width": 0,
                },
                mode="markers",
                name=group,
                marker={
                    "color": OTHER_COLORS[g % len(OTHER_COLORS)],
                    "symbol": SYMBOLS[g % len(SYMBOLS)],
                    "size": 8,
                },
                customdata=[
                    f"{row.label}, {row.group}: " + with_bounds(row.estimate, row.low, row.high)
                    for row in mine
                ],
                hovertemplate="%{customdata}<extra></extra>",
                showlegend=len(groups) > 1,
            )
        )
    for value, label in references:
        fig.add_vline(x=value, line={"color": "#777", "dash": "dash"}, layer="below")
        fig.add_annotation(x=value, y=1, yref="paper", text=label, showarrow=False, yanchor="bottom")
    fig.update_xaxes(title_text=unit)
    fig.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=labels,
        range=[len(labels) - 0.4, -0.6],
        automargin=True,
        showgrid=False,
    )
    height = 190 + max(26 * len(labels), int(len(labels) * len(groups) * 11))
    return finish(fig, title, subtitle, height=height, legend_rows=int(len(groups) > 1), trust=trust)


def cell_labels(data: xr.Dataset | xr.DataArray) -> list[tuple[str, dict[str, str]]]:
    """Every condition of a result with a short name, the fewest components first."""
    named = [(condition.label, condition.coords) for condition in conditions_of(data)]
    return sorted(named, key=lambda pair: (pair[0] != "none", pair[0].count("+")))


def evidence(shares: xr.Dataset, *, round: int, strength: float | None = None) -> go.Figure:
    """Effect of weak evidence on the answers by condition: answer patterns, and the share that follows.

    Args:
        shares: from ``evidence_shares``.
        round: after which round.
        strength: of the evidence; None: the strongest.

    Examples:
        >>> figure = ml.plots.evidence(ml.experiments.evidence_shares(given), round=2)
        >>> "follows the evidence" in {trace.name for trace in figure.data}
        True
    """
    here = shares.sel(round=round)
    here = here.isel(strength=-1) if strength is None else here.sel(strength=strength)
    cells = cell_labels(here)
    names = [name for name, _ in cells]
    fig = go.Figure()
    for part, color in zip(here["part"].values, PART_COLORS, strict=True):
        values = [float(here["estimate"].sel({**cell, "part": part})) for _, cell in cells]
        if max(values) < 5e-4:
            continue
        fig.add_trace(
            go.Bar(
                y=names,
                x=values,
                name=str(part),
                orientation="h",
                marker={"color": color},
                hovertemplate=f"%{{y}}: {part} %{{x:.1%}}<extra></extra>",
            )
        )
    follow = [here.sel(cell) for _, cell in cells]
    x = np.array([float(f["follow_estimate"]) for f in follow])
    fig.add_trace(
        go.Scatter(
            y=names,
            x=x,
            mode="markers",
            name="share that follows",
            marker={"color": "#111", "symbol": "diamond", "size": 9},
            error_x={
                "array": np.array([float(f["follow_ci_high"]) for f in follow]) - x,
                "arrayminus": x - np.array([float(f["follow_ci_low"]) for f in follow]),
                "symmetric": False,
                "width": 0,
            },
            hovertemplate="%{y}: %{x:.1%} follow<extra></extra>",
        )
    )
    fig.update_layout(barmode="stack")
    fig.update_xaxes(
        title_text="share of items (bars), of answers (diamonds)", tickformat=".0%", range=[0, 1]
    )
    fig.update_yaxes(autorange="reversed", automargin=True)
    when = "before any correction" if round == 0 else f"after round {round}"
    by = "probabilities of the options" if shares.attrs["measure"] == "probability" else "greedy answers"
    return finish(
        fig,
        f"Answers to weak evidence, roles swapped, {when}",
        f"by {by}; diamonds: increase of an option's share by evidence for it, pointwise 95 % intervals",
        height=250 + 30 * len(names),
        legend_rows=2,
    )


def shifts(data: xr.Dataset) -> go.Figure:
    """Alignment of the between-round shift with the moral direction, compared with random directions.

    Args:
        data: from ``round_shifts``.

    Examples:
        >>> figure = ml.plots.shifts(ml.experiments.round_shifts(run, probe, layer=3))
        >>> "instruction+feedback" in {trace.name for trace in figure.data}
        True
    """
    fig = go.Figure()
    rounds = data["round"].values
    bound = data["random_high"].sel(kind="as items vary")
    widest = bound.max(factors_of(bound)).values
    for sign in (1, -1):
        fig.add_trace(
            go.Scatter(
                x=rounds,
                y=sign * widest,
                mode="lines",
                line={"color": "#999", "dash": "dot"},
                name="95 % of random directions, as items vary (widest condition)",
                showlegend=sign == 1,
                hoverinfo="skip",
            )
        )
    colors = condition_colors([condition.label for condition in conditions_of(data["alignment"])])
    for name, cell in cell_labels(data):
        one, color = data.sel(cell), colors[name]
        y = one["alignment"].values
        fig.add_trace(
            go.Scatter(
                x=rounds,
                y=y,
                mode="lines+markers",
                name=name,
                line={"color": color, "dash": "dash" if "cot" in name else "solid"},
                error_y={
                    "array": one["ci_high"].values - y,
                    "arrayminus": y - one["ci_low"].values,
                    "symmetric": False,
                    "width": 0,
                },
                hovertemplate=f"{name}, round %{{x}}: %{{y:.3f}}<extra></extra>",
            )
        )
    fig.update_xaxes(title_text="to round", dtick=1)
    fig.update_yaxes(title_text="cosine")
    return finish(
        fig,
        f"Between-round shift along the moral direction, {data.attrs['site']}, layer {data.attrs['layer']}",
        "cosine of the mean shift with the direction; bars: percentiles of resampled clusters",
        height=470,
        legend_rows=3,
        trust=str(data.attrs.get("trust", "")),
    )
