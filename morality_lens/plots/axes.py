"""Figures of several axes: what each reads of the others' statements, cosines, effects, costs."""

import numpy as np
import plotly.graph_objects as go
import xarray as xr

from morality_lens.plots.style import (
    OTHER_COLORS,
    at_site,
    bars,
    effect_colors,
    finish,
    forest_mark,
    grid,
    interval,
    select,
    with_unit,
)
from morality_lens.probes.card import short

INSIDE, OUTSIDE, SPREAD = OTHER_COLORS[4], OTHER_COLORS[1], "#E4E7EB"


def axes_transfer(relations: xr.Dataset, *, layer: int | None = None) -> go.Figure:
    """The AUROC of every direction on every set of statements at one layer; intervals on hovering.

    Args:
        relations: :attr:`morality_lens.probes.Axes.relations`.
        layer: the layer; None: that with the highest mean held-out AUROC of the axes.

    Raises:
        ValueError: no such layer.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> figure = ml.plots.axes_transfer(axes.relations)
        >>> np.shape(figure.data[0].z)
        (2, 2)
    """
    at = relations.attrs["layer"] if layer is None else layer
    here = select(relations, "layer", at)
    names = here["train"].to_numpy().tolist()
    shown = here["auroc"].to_numpy()
    heat = go.Heatmap(
        z=shown,
        x=names,
        y=names,
        zmin=0.0,
        zmax=1.0,
        zmid=0.5,
        colorscale="RdBu",
        text=np.vectorize(short, otypes=[object])(shown),
        texttemplate="%{text}",
        customdata=np.stack([here["auroc_low"].to_numpy(), here["auroc_high"].to_numpy()], axis=-1),
        hovertemplate="fitted on %{y}<br>tested on %{x}<br>AUROC %{z:.3f} "
        "[%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra></extra>",
        colorbar={"title": {"text": "AUROC", "font": {"size": 13}}, "thickness": 14},
    )
    fig = go.Figure(heat)
    fig.update_xaxes(title_text="tested on the statements of", showgrid=False)
    fig.update_yaxes(title_text="direction", autorange="reversed", showgrid=False)
    subtitle = f"{_how(relations)}; diagonal: held-out clusters; .5: chance; below .5: reversed"
    return finish(fig, f"What each axis reads, layer {at}", subtitle, height=200 + 44 * len(names))


def axes_cosines(relations: xr.Dataset, *, layer: int | None = None) -> go.Figure:
    """The cosine of every two directions at one layer, over the spread that shuffled labels have.

    Args:
        relations: :attr:`morality_lens.probes.Axes.relations` of two directions or more.
        layer: as for :func:`axes_transfer`.

    Raises:
        ValueError: no such layer, or one direction only.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> figure = ml.plots.axes_cosines(axes.relations)
        >>> list(figure.data[-1].y)
        ['all, half']
    """
    if "cosine" not in relations:
        raise ValueError("plots.axes_cosines needs two directions or more; got one.")
    at = relations.attrs["layer"] if layer is None else layer
    here = select(relations, "layer", at)
    one, other = np.triu_indices(here.sizes["first"], 1)
    cosine, null = here["cosine"].to_numpy()[one, other], here["null"].to_numpy()[one, other]
    order = np.argsort(cosine, kind="stable")
    cosine, null = cosine[order], null[order]
    names = here["first"].to_numpy()
    pairs = [f"{names[a]}, {names[b]}" for a, b in zip(one[order], other[order], strict=True)]
    beyond = np.abs(cosine) > null
    spread = go.Bar(
        x=2 * null,
        base=-null,
        y=pairs,
        orientation="h",
        marker={"color": SPREAD},
        width=0.7,
        name="labels shuffled: 95 % of cosines",
        hovertemplate="shuffled labels: within %{base:.2f}<extra></extra>",
    )
    dots = go.Scatter(
        x=cosine,
        y=pairs,
        mode="markers",
        marker={"size": 9, "color": np.where(beyond, OUTSIDE, INSIDE).tolist()},
        showlegend=False,
        customdata=null,
        hovertemplate="%{y}<br>cosine %{x:.3f}; shuffled labels reach %{customdata:.3f}<extra></extra>",
    )
    fig = go.Figure([spread, dots])
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"})
    fig.update_xaxes(title_text="cosine", range=[-1.02, 1.02])
    fig.update_yaxes(showgrid=False, automargin=True)
    subtitle = f"{_how(relations)}; grey: 95 % of cosines of shuffled labels; brown: beyond it"
    title = f"Cosines between axes, layer {at}"
    return finish(fig, title, subtitle, height=190 + 22 * len(pairs), legend_rows=1)


def axes_effects(
    effects: xr.Dataset, *, layer: int, round: int | None = None, site: str | None = None
) -> go.Figure:
    """Every effect on every axis at one layer, round and site, with simultaneous bands.

    Args:
        effects: ``factorial_effects`` of :meth:`morality_lens.probes.Axes.project`.
        layer: the layer.
        round: the round; None: the last.
        site: the site; None: the first.

    Raises:
        ValueError: no axes, or no such place.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> found = ml.factorial_effects(axes.project(run), draws=200)
        >>> figure = ml.plots.axes_effects(found, layer=3)
        >>> [note.text for note in figure.layout.annotations]
        ['all', 'half']
    """
    if "axis" not in effects.dims:
        raise ValueError(f"plots.axes_effects needs effects with a dim 'axis'; got {tuple(effects.dims)}.")
    here, at = at_site(select(effects, "layer", layer), site)
    which = None
    if "round" in here.dims:
        which = int(here["round"][-1]) if round is None else round
        here = select(here, "round", which)
    names = here["axis"].to_numpy().tolist()
    low, high, drawn = interval(effects)
    columns = len(names) if len(names) <= 5 else -(-len(names) // -(-len(names) // 4))
    fig = grid(names, columns=columns)
    colors = effect_colors(effects)
    for number, name in enumerate(names):
        one = here.sel(axis=name)
        for effect, color in colors.items():
            mark = forest_mark(one, effect, color, low=low, high=high)
            fig.add_trace(mark, row=number // columns + 1, col=number % columns + 1)
    rows = -(-len(names) // columns)
    fig.add_vline(x=0, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_yaxes(autorange="reversed", automargin=True)
    fig.update_xaxes(showticklabels=True)
    for number in range(max(0, len(names) - columns), len(names)):
        row, column = divmod(number, columns)
        fig.update_xaxes(title_text=with_unit("effect", "gaps"), row=row + 1, col=column + 1)
    place = ", ".join(filter(None, [f"layer {layer}", f"round {which}" * (which is not None), at]))
    height = 130 + rows * (70 + 24 * len(colors))
    refused = "; no bar: nothing is claimed there" if bool(here["se"].isnull().any()) else ""
    subtitle = f"{drawn}; corrected over axes too{refused}"
    return finish(fig, f"Effects on each axis, {place}", subtitle, height=height)


def axes_cost(relations: xr.Dataset, *, layer: int | None = None) -> go.Figure:
    """Held-out AUROC of every axis before and after something was taken out of it, and that of nuisances.

    Args:
        relations: :attr:`morality_lens.probes.Axes.relations` of axes out of which something was taken.
        layer: as for :func:`axes_transfer`.

    Raises:
        ValueError: nothing was taken out, or no such layer.

    Examples:
        >>> from dataclasses import replace
        >>> long = [replace(one, label=int(len(one.text) > 40)) for one in statements]
        >>> axes = ml.probes.fit_axes(model, {"moral": statements, "long": long}, remove=["long"])
        >>> figure = ml.plots.axes_cost(axes.relations)
        >>> list(figure.data[0].y)
        ['moral', 'long (nuisance)']
    """
    if "before" not in relations:
        raise ValueError("plots.axes_cost needs axes out of which something was taken; nothing was.")
    at = relations.attrs["layer"] if layer is None else layer
    here = select(relations, "layer", at)
    nuisances = here["nuisance"].to_numpy().tolist() if "nuisance" in here.dims else []
    rows = [*here["axis"].to_numpy().tolist(), *(f"{name} (nuisance)" for name in nuisances)]
    kept = [f"cosine with the axis before {value:.2f}" for value in here["kept"].to_numpy()]
    kept += ["a new direction of it, on statements that the removal has not seen"] * len(nuisances)
    fig = go.Figure()
    for name, color, symbol in (
        ("before", OTHER_COLORS[4], "circle-open"),
        ("after", OTHER_COLORS[0], "circle"),
    ):
        own = [here[f"{name}{end}"].to_numpy() for end in ("", "_low", "_high")]
        other = here[f"nuisance_{name}"].to_numpy() if nuisances else np.zeros(0)
        middle, low, high = (np.concatenate([values, other]) for values in own)
        fig.add_trace(
            go.Scatter(
                x=middle,
                y=rows,
                error_x={**bars(middle, low, high), "color": color},
                mode="markers",
                marker={"size": 10, "color": color, "symbol": symbol},
                name=name,
                customdata=np.stack([low, high, np.array(kept, object)], axis=-1),
                hovertemplate=f"%{{y}}, {name}<br>AUROC %{{x:.3f}} [%{{customdata[0]:.3f}}, "
                "%{customdata[1]:.3f}]<br>%{customdata[2]}<extra></extra>",
            )
        )
    fig.add_vline(x=0.5, line={"color": "#777", "dash": "dash"}, layer="below")
    fig.update_xaxes(title_text="held-out AUROC")
    fig.update_yaxes(autorange="reversed", automargin=True)
    subtitle = f"{_how(relations)}; bars: pointwise interval over clusters; dashed: chance"
    title = f"What the removal costs, layer {at}"
    return finish(fig, title, subtitle, height=190 + 30 * len(rows), legend_rows=1)


def _how(relations: xr.Dataset) -> str:
    """How the axes were fitted, in a few words."""
    removed = relations.attrs["removed"]
    without = f", without {', '.join(removed)} ({relations.attrs['method']})" if removed else ""
    return f"axes fitted {'together' if relations.attrs['together'] else 'apart'}{without}"
