"""Figures as the page takes them: a heading, a legend and the numbers, in a reader's order."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from markupsafe import Markup

from morality_lens import plots
from morality_lens.plots.transcripts import json_for_script
from morality_lens.report.analysis import Analysis

PANEL_TITLES, NO_TITLES = 34, 14
"""Pixels above the plot, with and without titles of panels; the figure's own title is text of the page."""


def figure_entry(name: str, fig: go.Figure, note: str = "") -> dict[str, Any]:
    """A figure with its title as text, so that it is neither clipped nor repeated.

    Args:
        name: its anchor on the page.
        fig: the figure.
        note: a sentence below it.
    """
    content = _finite(fig.to_plotly_json())
    layout = content["layout"]
    top = PANEL_TITLES if layout.get("annotations") else NO_TITLES
    height = layout["height"] - (layout["margin"]["t"] - top)
    content |= {"top": top, "height": height}
    heading = layout["title"]["text"].replace("<b>", "").replace("</b>", "")
    legend = " · ".join(layout["meta"]["legend"])
    return {
        "id": name,
        "title": heading,
        "legend": legend,
        "label": f"{heading}: {legend}",
        "note": note,
        "height": height,
        "json": Markup(json_for_script(content)),
    }


def behaviour_figures(found: Analysis) -> list[dict[str, Any]]:
    """The figures about behaviour; none without a result."""
    made = []
    if found.behaviour is not None:
        measure = found.behaviour.attrs.get("measure") or "share correct"
        made.append(figure_entry("behaviour", plots.accuracy(found.behaviour, measure=measure)))
    if found.behaviour_effects is not None:
        made.append(figure_entry("behaviour-effects", plots.behaviour_effects(found.behaviour_effects)))
    return made


def representation_figures(effects: xr.Dataset | None, layer: int | None) -> list[dict[str, Any]]:
    """Groups of figures about the projection; those of further sites, the maps and cell means are folded."""
    if effects is None or layer is None:
        return []
    names = [str(name) for name in effects["effect"].to_numpy()]
    sites = effects["site"].to_numpy().tolist() if "site" in effects.dims else [None]
    groups = [
        {
            "title": "The representation" + (f" at {site}" if site else ""),
            "figures": _at_site(effects, i, site, layer),
            "folded": i > 0,
        }
        for i, site in enumerate(sites)
    ]
    where = f" at {sites[0]}" if sites[0] else ""
    maps = [
        figure_entry(f"map-{j}", plots.effects_map(effects, effect=name))
        for j, name in enumerate(names if "round" in effects.dims else [])
    ]
    cells = [
        figure_entry(f"cells-{j}", plots.cell_means(effects, effect=name, layer=layer))
        for j, name in enumerate(n for n in names if ":" in n)
    ]
    folded = (
        (f"Maps of every effect over layers and rounds{where}", maps),
        (f"Cell means of the interactions{where}, layer {layer}", cells),
    )
    return groups + [{"title": title, "figures": made, "folded": True} for title, made in folded if made]


def _at_site(effects: xr.Dataset, index: int, site: str | None, layer: int) -> list[dict[str, Any]]:
    """Main effects, interactions and trajectories at one site."""
    names = [str(name) for name in effects["effect"].to_numpy()]
    kinds = (
        ("main", [n for n in names if ":" not in n], "Main effects of the components."),
        (
            "interactions",
            [n for n in names if ":" in n],
            "Interactions: how the effect of one component changes with another.",
        ),
    )
    made = [
        figure_entry(f"effects-{index}-{kind}", plots.effects(effects, site=site, effect=group), note)
        for kind, group, note in kinds
        if group
    ]
    if "round" in effects.dims:
        labels = {name: effects.attrs.get(name, "") for name in ("units", "trust")}
        means = effects["cell_mean"].assign_attrs(labels)
        made.append(figure_entry(f"trajectories-{index}", plots.trajectories(means, site=site, layer=layer)))
    return made


def _finite(value: Any) -> Any:
    """The content of a figure as plain JSON values: arrays as lists, NaN as null."""
    if isinstance(value, Mapping):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, np.ndarray):
        return _finite(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    if isinstance(value, np.generic):
        return _finite(value.item())
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    return value
