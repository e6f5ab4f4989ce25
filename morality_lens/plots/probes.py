"""Figures of a direction: its held-out quality, its trust card, its transfer."""

import itertools
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from plotly.subplots import make_subplots

from morality_lens.plots.style import OTHER_COLORS, band, finish, said_refused, shade_refused
from morality_lens.probes.card import TrustCard, interval_text, short

VERDICT_COLORS = {"pass": "#009E73", "warn": "#E69F00", "fail": "#D55E00", "not checked": "#7F7F7F"}
CONTROLS = (("random_auroc", "random-initialised controls", "dash"), ("shuffled", "shuffled labels", "dot"))


def probe_quality(quality: xr.Dataset, *, refused: Sequence[int] = ()) -> go.Figure:
    """Held-out AUROC of a probe by layer, with its interval and chance.

    Args:
        quality: ``probe.quality``: ``auroc``, ``auroc_low`` and ``auroc_high`` by ``layer``.
        refused: layers at which no effect is claimed, on a grey ground.

    Raises:
        ValueError: a missing variable.

    Examples:
        >>> figure = ml.plots.probe_quality(probe.quality)
        >>> [len(trace.x) for trace in figure.data if trace.mode and "lines" in trace.mode]
        [14, 7]
    """
    missing = [name for name in ("auroc", "auroc_low", "auroc_high") if name not in quality]
    if missing:
        raise ValueError(f"plots.probe_quality needs auroc, auroc_low and auroc_high; missing: {missing}.")
    if "layer" not in quality["auroc"].dims:
        raise ValueError("plots.probe_quality needs the dimension layer; got one number.")
    layers = quality["layer"].to_numpy()
    middle, low, high = (quality[name].to_numpy() for name in ("auroc", "auroc_low", "auroc_high"))
    line = go.Scatter(
        x=layers,
        y=middle,
        mode="lines+markers",
        showlegend=False,
        line={"color": OTHER_COLORS[0], "width": 2},
        customdata=np.stack([low, high], axis=-1),
        hovertemplate="layer %{x}<br>AUROC %{y:.3f}"
        "<br>interval [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
    )
    fig = go.Figure([band(layers, low, high, OTHER_COLORS[0], "auroc"), line])
    fig.add_hline(y=0.5, line={"color": "#777", "dash": "dash"}, annotation={"text": "chance"}, layer="below")
    floor = min(0.4, float(np.nanmin(low, initial=0.5)) - 0.03)
    fig.update_yaxes(title_text="AUROC on held-out statements", range=[floor, 1.02])
    fig.update_xaxes(title_text="layer (-1: embedding)")
    shade_refused(fig, refused)
    drawn = f"band: pointwise interval; dashed: chance{said_refused(refused)}"
    return finish(fig, "Probe quality by layer", drawn, height=380)


def trust_card(card: TrustCard, *, refused: Sequence[int] = ()) -> go.Figure:
    """A trust card: AUROC by layer with that of the controls, and every line with its verdict.

    Args:
        card: from :func:`morality_lens.probes.trust_card`.
        refused: layers at which no effect is claimed, on a grey ground.

    Examples:
        >>> card = ml.fit_probe(model, statements, card=True, random_models=0).card
        >>> figure = ml.plots.trust_card(card)
        >>> "direction" in {trace.name for trace in figure.data}
        True
    """
    fig = make_subplots(
        rows=1,
        cols=2,
        specs=[[{"type": "xy"}, {"type": "domain"}]],
        column_widths=[0.42, 0.58],
        horizontal_spacing=0.04,
    )
    layers = card.by_layer["layer"].to_numpy()
    middle, low, high = (card.by_layer[name].to_numpy() for name in ("auroc", "low", "high"))
    fig.add_trace(band(layers, low, high, OTHER_COLORS[0], "direction"), row=1, col=1)
    fig.add_trace(_curve(layers, middle, "direction", OTHER_COLORS[0], "solid"), row=1, col=1)
    for (name, label, dash), color in zip(CONTROLS, OTHER_COLORS[1:], strict=False):
        values = card.by_layer[name].to_numpy()
        if np.isfinite(values).any():
            fig.add_trace(_curve(layers, values, label, color, dash), row=1, col=1)
    words, best = card.lexical["baseline"].iloc[0], float(card.lexical["auroc"].iloc[0])
    line = _curve(layers, np.full(len(layers), best), f"words alone ({words})", OTHER_COLORS[3], "dashdot")
    fig.add_trace(line.update(mode="lines"), row=1, col=1)
    lowest = min(0.4, float(np.nanmin([*low, *middle, *card.by_layer["random_auroc"].to_numpy()])) - 0.03)
    fig.update_yaxes(title_text="AUROC on held-out statements", range=[lowest, 1.02])
    fig.update_xaxes(title_text="layer (-1: embedding)")
    rows = card.rows()
    colors = [VERDICT_COLORS[row["verdict"]] for row in rows]
    columns = [
        [row["line"] for row in rows],
        [f"<b>{row['verdict']}</b>" for row in rows],
        [f"{short(row['value'])} {interval_text(row)}".strip() for row in rows],
        [row["detail"] for row in rows],
    ]
    table = go.Table(
        columnwidth=[1.7, 1.2, 1.6, 2.2],
        header={"values": ["check", "verdict", "value", "detail"], "align": "left", "fill_color": "#f1f3f6"},
        cells={
            "values": columns,
            "align": "left",
            "height": 27,
            "fill_color": "white",
            "font": {"color": ["#222", colors, "#222", "#555"], "size": 12},
        },
    )
    fig.add_trace(table, row=1, col=2)
    shade_refused(fig, refused)
    subtitle = f"left: band, pointwise interval{said_refused(refused)}; right: verdicts by the card's rules"
    title = f"Trust card of the {card.kind.replace('_', ' ')} (lines: layer {card.layer})"
    height = 590 + 48 * max(0, len(rows) - 10)
    return finish(fig, title, subtitle, height=height, legend_rows=1, trust=card.headline)


def transfer(card: TrustCard, *, layer: int | None = None) -> go.Figure:
    """AUROC of directions fitted on one set of statements and tested on another.

    Args:
        card: a card made with ``others``.
        layer: the layer shown; None: the card's.

    Raises:
        ValueError: the card has only one set, or no such layer.

    Examples:
        >>> sets = {"one": statements, "other": ml.load_statements("world", limit=120, seed=1)}
        >>> probes = ml.probes.fit_probes(model, sets, random_models=0)
        >>> figure = ml.plots.transfer(probes["one"].card)
        >>> np.shape(figure.data[0].z)
        (2, 2)
    """
    at = card.layer if layer is None else layer
    layers = card.transfer["layer"].to_numpy().tolist()
    if card.transfer.sizes["train"] < 2 or at not in layers:
        raise ValueError(
            f"plots.transfer needs a card made with `others`, and one of its layers {layers}; got "
            f"{card.transfer.sizes['train']} set of statements and layer {at}."
        )
    values = card.transfer.sel(layer=at)
    names = values["train"].to_numpy().tolist()
    heat = go.Heatmap(
        z=values.to_numpy(),
        x=names,
        y=names,
        zmin=0.0,
        zmax=1.0,
        zmid=0.5,
        colorscale="RdBu",
        text=np.vectorize(short, otypes=[object])(values.to_numpy()),
        texttemplate="%{text}",
        hovertemplate="trained on %{y}<br>tested on %{x}<br>AUROC %{z:.3f}<extra></extra>",
        colorbar={"title": {"text": "AUROC", "font": {"size": 13}}, "thickness": 14},
    )
    fig = go.Figure(heat)
    fig.update_xaxes(title_text="tested on", showgrid=False)
    fig.update_yaxes(title_text="trained on", autorange="reversed", showgrid=False)
    subtitle = "diagonal: held-out clusters; .5: chance; below .5: reversed"
    return finish(
        fig, f"Transfer between sets of statements, layer {at}", subtitle, height=190 + 60 * len(names)
    )


def direction_cosines(cosines: xr.DataArray, *, first: str | None = None) -> go.Figure:
    """Cosines of one direction with the others by layer.

    Args:
        cosines: from :func:`morality_lens.probes.direction_cosines`.
        first: the one direction; None takes the first.

    Raises:
        ValueError: no such direction.

    Examples:
        >>> lda = ml.fit_probe(model, statements, kind="lda")
        >>> figure = ml.plots.direction_cosines(ml.probes.direction_cosines({"mean": probe, "lda": lda}))
        >>> [trace.name for trace in figure.data]
        ['lda']
    """
    names = cosines["first"].values.tolist()
    one = names[0] if first is None else first
    if one not in names:
        raise ValueError(f"plots.direction_cosines has the directions {names}; got {one!r}.")
    layers = cosines["layer"].to_numpy()
    others = [name for name in names if name != one]
    lines = [
        _curve(layers, cosines.sel(first=one, second=other).to_numpy(), other, color, "solid", of="cosine")
        for other, color in zip(others, itertools.cycle(OTHER_COLORS), strict=False)
    ]
    fig = go.Figure([line.update(showlegend=True) for line in lines])
    fig.add_hline(y=0.0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_yaxes(title_text="cosine", range=[-1.02, 1.02])
    fig.update_xaxes(title_text="layer (-1: embedding)")
    subtitle = "1: the same direction; 0: orthogonal, as unrelated directions are on average"
    return finish(fig, f"Cosine of the direction {one} with others", subtitle, height=400, legend_rows=1)


def _curve(
    x: np.ndarray, y: np.ndarray, name: str, color: str, dash: str, *, of: str = "AUROC"
) -> go.Scatter:
    return go.Scatter(
        x=x,
        y=y,
        name=name,
        legendgroup=name,
        mode="lines+markers",
        line={"color": color, "width": 2, "dash": dash},
        hovertemplate=f"<b>{name}</b>, layer %{{x}}<br>{of} %{{y:.3f}}<extra></extra>",
    )
