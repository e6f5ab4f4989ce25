"""Figures of interventions: patches by place and layer, doses, ablations, mediation."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.circuits.summaries import mediated_share, recovered
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.plots.style import OTHER_COLORS, band, bars, condition_colors, finish, provisos

METRICS: tuple[tuple[Literal["log_odds", "projection"], str], ...] = (
    ("log_odds", "log-odds of the correct option"),
    ("projection", "projection at the last layer"),
)
RANDOM = "#9AA3AE"
ENDS = "<br>%{{{value}:.3f}} [%{{customdata[0]:.3f}}, %{{customdata[1]:.3f}}]<extra></extra>"


def patching_map(
    patched: xr.Dataset, *, of: Literal["log_odds", "projection"] = "log_odds", head: int | None = None
) -> go.Figure:
    """The share of the difference between source and target that a patch recovers, by place and layer.

    Args:
        patched: from :func:`morality_lens.circuits.patch`.
        of: ``log_odds`` or ``projection``.
        head: for patches of heads: one head, instead of a row for each.

    Examples:
        >>> heads = ml.circuits.Activations(what="head")
        >>> patched = ml.patch(model, run, source=both, target=none, activations=heads, batching=batching)
        >>> figure = ml.plots.patching_map(patched)
        >>> np.shape(figure.data[0].z)
        (4, 6)
    """
    found = recovered(patched, of=of)
    if "head" in found.dims:
        found = found.sel(head=head) if head is not None else found
    if "head" in found.dims:
        found = found.stack(row=("place", "head"))
        names = [
            f"{place}, head {h}" for place, h in zip(found["place"].values, found["head"].values, strict=True)
        ]
    else:
        found = found.rename(place="row")
        names = found["row"].values.tolist()
    shares = bool(np.isfinite(found["ratio"].values).any())
    shown = ("ratio", "low", "high") if shares else ("shift", "shift_low", "shift_high")
    z, low, high = (found[name].transpose("row", "layer").values for name in shown)
    limit = max(1.0, float(np.nanmax(np.abs(z)))) if shares else float(np.nanmax(np.abs(z), initial=1e-12))
    fig = go.Figure(
        go.Heatmap(
            z=z,
            x=[_layer(v) for v in found["layer"].values.tolist()],
            y=names,
            zmin=-limit,
            zmax=limit,
            colorscale="RdBu",
            text=[[f"{v:.2f}" for v in row] for row in z],
            texttemplate="%{text}" if z.size <= 300 else "",
            customdata=np.stack([low, high], axis=-1),
            hovertemplate=f"%{{y}}, %{{x}}{ENDS.format(value='z')}",
            colorbar={"title": {"text": "recovered" if shares else "shift"}, "thickness": 14},
        )
    )
    fig.update_yaxes(autorange="reversed", showgrid=False)
    fig.update_xaxes(title_text=f"layer ({patched.attrs['what']})", showgrid=False)
    difference = float(found["difference"].values.flat[0])
    subtitle = f"source - target {difference:+.3f}; intervals (pointwise 95 %) on hover"
    title = f"Patching {patched.attrs['source']} into {patched.attrs['target']}{_round(patched)}"
    more = "" if shares else "; no shares, since that difference is not distinguishable from zero"
    return finish(
        fig,
        title,
        subtitle + more,
        height=210 + 34 * len(names),
        trust=provisos(patched, options=of == "log_odds", direction=of == "projection"),
    )


def patching_layers(patched: xr.Dataset, *, place: str | None = None) -> go.Figure:
    """The recovered share by layer for every metric, with intervals.

    Args:
        patched: from :func:`morality_lens.circuits.patch`, not of heads.
        place: one of its places; None: the first.

    Raises:
        ValueError: patches of heads, or no such place.

    Examples:
        >>> patched = ml.patch(model, run, source=both, target=none, batching=batching)
        >>> figure = ml.plots.patching_layers(patched)
        >>> "log-odds of the correct option" in {trace.name for trace in figure.data}
        True
    """
    places = patched["place"].values.tolist()
    at = places[0] if place is None else place
    if at not in places or "head" in patched.dims:
        raise ValueError(
            f"plots.patching_layers draws patches that are not of heads, at {places}; got {at!r}."
        )
    fig = go.Figure()
    refused = []
    for (of, label), color in zip(METRICS, OTHER_COLORS, strict=False):
        if of not in patched:
            continue
        one = recovered(patched, of=of).sel(place=at)
        if one.attrs["refused"]:
            refused.append(label)
            continue
        curve = Curve.of(one, "layer", ("ratio", "low", "high"))
        fig.add_trace(curve.band(color, of))
        fig.add_trace(curve.line(label, color, group=of))
    for level in (0.0, 1.0):
        fig.add_hline(y=level, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_xaxes(title_text="layer of the patch (-1: embedding)")
    fig.update_yaxes(title_text="recovered share")
    title = f"Patching {patched.attrs['source']} into {patched.attrs['target']} at {at}{_round(patched)}"
    sub = "0: like the target, 1: like the source; bands: pointwise 95 % (Fieller)"
    sub += f"; no share of {' and '.join(refused)}: no difference" if refused else ""
    return finish(fig, title, sub, height=420, legend_rows=1, trust=provisos(patched))


def simplest(labels: Sequence[str]) -> list[str]:
    """The labels of conditions without a rationale or other levels than on; no more than four."""
    plain = [n for n in labels if "cot" not in n.split("+") and "(" not in n]
    return plain[:4]


def dose_response(steered: xr.Dataset, *, conditions: Sequence[str] = ()) -> go.Figure:
    """Log-odds of the correct option by dose, with random directions and unsteered conditions.

    Args:
        steered: from :func:`morality_lens.circuits.steer`.
        conditions: labels of conditions whose own log-odds are drawn as lines; none takes the first four
            without a chain of thought.

    Examples:
        >>> steered = ml.steer(model, run, probe, condition=none, doses=doses, random=few, batching=batching)
        >>> figure = ml.plots.dose_response(steered)
        >>> "the direction" in {trace.name for trace in figure.data}
        True
    """
    mean = mean_over_items(steered["log_odds"])
    doses = mean["dose"].values
    fig = go.Figure()
    random = [d for d in mean["direction"].values if d != "probe"]
    for i, name in enumerate(random):
        one = mean.sel(direction=name)
        fig.add_trace(
            go.Scatter(
                x=doses,
                y=one["estimate"].values,
                mode="lines",
                line={"color": RANDOM, "width": 1},
                name=f"{len(random)} random directions of equal length",
                legendgroup="random",
                showlegend=i == 0,
                hovertemplate=f"{name}, dose %{{x}}<br>%{{y:.3f}}<extra></extra>",
            )
        )
    own = mean.sel(direction="probe")
    curve = Curve.of(own, "dose", ("estimate", "ci_low", "ci_high"))
    fig.add_trace(curve.band(OTHER_COLORS[0], "probe"))
    fig.add_trace(curve.line("the direction", OTHER_COLORS[0], group="probe"))
    if "baseline" in steered:
        labels = steered["condition"].values.tolist()
        colors = condition_colors(labels)
        for label in conditions or simplest(labels):
            color = colors[label]
            level = float(steered["baseline"].sel(condition=label))
            fig.add_trace(
                go.Scatter(
                    x=[doses.min(), doses.max()],
                    y=[level, level],
                    mode="lines",
                    line={"color": color, "width": 1.5, "dash": "dot"},
                    name=f"unsteered: {label}",
                    hovertemplate=f"unsteered, {label}<br>%{{y:.3f}}<extra></extra>",
                )
            )
    fig.update_xaxes(title_text="dose (moral-immoral gaps)")
    fig.update_yaxes(title_text="log-odds of the correct option")
    title = f"Steering {steered.attrs['condition']} at layer {steered.attrs['layer']}{_round(steered)}"
    sub = f"added at: {steered.attrs['at']}; band: pointwise 95 %; dotted: the unsteered conditions"
    return finish(fig, title, sub, height=460, legend_rows=2, trust=provisos(steered))


def ablations(ablated: xr.Dataset) -> go.Figure:
    """The change of the log-odds of the correct option under each ablation.

    Args:
        ablated: from :func:`morality_lens.circuits.ablate`.

    Examples:
        >>> ablated = ml.circuits.ablate(
        ...     model, run, probe, condition=none, layers=[3], random=few, batching=batching
        ... )
        >>> figure = ml.plots.ablations(ablated)
        >>> "direction" in {str(y) for trace in figure.data for y in trace.y}
        True
    """
    mean = mean_over_items(ablated["log_odds"] - ablated["target_log_odds"])
    names = [n for n in mean["ablation"].values if not str(n).startswith("random")]
    random = mean.sel(ablation=[n for n in mean["ablation"].values if n not in names])
    own = mean.sel(ablation=names)
    y, low, high = (own[n].values for n in ("estimate", "ci_low", "ci_high"))
    fig = go.Figure()
    if random.sizes["ablation"]:
        label = f"{random.sizes['ablation']} random directions"
        fig.add_trace(
            go.Scatter(
                x=random["estimate"].values,
                y=[label] * random.sizes["ablation"],
                mode="markers",
                marker={"color": RANDOM, "size": 7, "opacity": 0.7},
                hovertemplate="random direction<br>%{x:.3f}<extra></extra>",
            )
        )
    fig.add_trace(
        go.Scatter(
            x=y,
            y=names,
            mode="markers",
            marker={"color": OTHER_COLORS[0], "size": 10},
            error_x=bars(y, low, high),
            customdata=np.stack([low, high], axis=-1),
            hovertemplate="%{y}" + ENDS.format(value="x"),
        )
    )
    fig.update_traces(showlegend=False)
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_xaxes(title_text="change of the log-odds of the correct option")
    fig.update_yaxes(
        categoryorder="array", categoryarray=[*names, *([label] if random.sizes["ablation"] else [])]
    )
    fig.update_yaxes(autorange="reversed")
    layers = ablated.attrs["layers"]
    title = f"Ablation in {ablated.attrs['condition']}, layers {layers[0]} to {layers[-1]}{_round(ablated)}"
    sub = f"unablated {float(ablated['target_log_odds'].mean()):+.3f}; intervals: pointwise 95 %"
    return finish(fig, title, sub, height=210 + 34 * (len(names) + 1), trust=provisos(ablated))


def mediation(mediated: xr.Dataset) -> go.Figure:
    """The mediated part of an interaction at every layer, measured by patching and predicted.

    Args:
        mediated: from :func:`morality_lens.circuits.mediate`.

    Examples:
        >>> mediated = ml.mediate(model, run, probe, layers=[2, 4], batching=batching)
        >>> figure = ml.plots.mediation(mediated)
        >>> any("whole site" in (trace.name or "") for trace in figure.data)
        True
    """
    found = mediated_share(mediated)
    fig = go.Figure()
    for way, color in zip(found["way"].values, OTHER_COLORS, strict=False):
        one = found.sel(way=way)
        curve = Curve.of(one, "layer", ("mediated", "mediated_low", "mediated_high"))
        fig.add_trace(curve.band(color, str(way)))
        label = "patched: whole site" if way == "whole site" else "patched: along the direction"
        fig.add_trace(curve.line(label, color, group=str(way)))
    curve = Curve.of(found, "layer", ("predicted", "predicted_low", "predicted_high"))
    label = "predicted: effect on the projection x steering gain"
    fig.add_trace(curve.line(label, OTHER_COLORS[2], dash="dot"))
    tau = float(found["tau"])
    fig.add_hline(y=tau, line={"color": "#4D4D4D"}, annotation={"text": "total interaction"}, layer="below")
    fig.add_hline(y=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_xaxes(title_text="layer (-1: embedding)")
    fig.update_yaxes(title_text="log-odds")
    title = f"Mediated part of {mediated.attrs['effect']}{_round(mediated)}"
    sub = (
        f"{mediated.attrs['held_at']}; total {tau:+.3f} [{float(found['tau_low']):+.3f}, "
        f"{float(found['tau_high']):+.3f}]; bands: pointwise 95 %; the rest arises downstream"
    )
    return finish(fig, title, sub, height=440, legend_rows=2, trust=provisos(mediated))


class Curve(NamedTuple):
    """Estimates along an axis with the ends of their intervals."""

    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(data: xr.Dataset, x: str, names: tuple[str, str, str]) -> "Curve":
        """The curve of three variables (estimate, low, high) along a coordinate."""
        return Curve(data[x].values, *(data[name].values for name in names))

    def band(self, color: str, group: str) -> go.Scatter:
        """The area between the ends."""
        return band(self.x, self.low, self.high, color, group)

    def line(self, name: str, color: str, *, dash: str = "solid", group: str | None = None) -> go.Scatter:
        """The estimates, with the ends on hover."""
        return go.Scatter(
            x=self.x,
            y=self.y,
            name=name,
            legendgroup=group or name,
            mode="lines+markers",
            line={"color": color, "width": 2, "dash": dash},
            customdata=np.stack([self.low, self.high], axis=-1),
            hovertemplate=f"{name}, %{{x}}{ENDS.format(value='y')}",
        )


def _layer(layer: int) -> str:
    return "embedding" if layer == -1 else f"L{layer}"


def _round(data: xr.Dataset) -> str:
    return f", round {data.attrs['round']}" if "round" in data.attrs else ""
