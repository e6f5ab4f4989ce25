"""Several axes in the report: effects on each, what each reads, and what a removal cost."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from morality_lens import plots
from morality_lens.interactions.describing import describe
from morality_lens.interactions.names import factors_in
from morality_lens.plots.style import refused_layers
from morality_lens.probes.axes import Axes
from morality_lens.report.analysis import Request, on_projections
from morality_lens.report.refusals import Refusals
from morality_lens.report.section import Section
from morality_lens.runs.run import Run

SITE = "answer_start"
"""The site that sentences and figures are about, where there is one of that name."""


def effects_on_axes(run: Run, axes: Axes, *, draws: int = 2000, seed: int = 0) -> xr.Dataset | None:
    """Factorial effects on all axes at every site where they can be estimated; None where at none.

    p and bands are corrected over axes, layers and rounds in one family. ``attrs["refused"]`` says what was
    not estimated and why, ``attrs["layer"]`` which layer is shown.

    Args:
        run: played by the axes' model.
        axes: from ``fit_axes``.
        draws: resamples.
        seed: of the resampling.

    Examples:
        >>> axes = ml.probes.fit_axes(model, {"all": statements, "half": statements[::2]})
        >>> found = ml.report.effects_on_axes(run, axes, draws=200)
        >>> found.sizes["axis"], found.attrs["family"]
        (2, '42 tests (3 rounds x 7 layers x 2 axes), separately for each effect and site')
    """
    refusals = Refusals()
    request = Request(run=run, measure=run.measures[0], draws=draws, seed=seed, refusals=refusals)
    found = on_projections(request, axes.project(run))
    return None if found is None else found.assign_attrs(refused=list(refusals.lines))


def axes_section(kept: Mapping[str, xr.Dataset]) -> Section | None:
    """The section on several axes, from what was kept with a run; None where nothing was."""
    if "axes" not in kept:
        return None
    relations, effects = kept["axes"], kept.get("axes-effects")
    layer = int(relations.attrs["layer"])
    lines, figures = [_opening(relations, layer)], []
    if effects is not None and layer in effects["layer"].values:
        lines += effect_lines(effects)
        shown = plots.axes_effects(effects, layer=layer, site=_site(effects))
        note = "Filled marks: distinguishable from zero by the p corrected over axes, layers and rounds."
        figures.append(("axes-effects", shown, note))
    elif effects is not None:
        lines += [f"At layer {layer} nothing is claimed of any axis.", *effect_lines(effects)]
    else:
        lines.append("Effects on the axes could not be estimated.")
    lines += cost_lines(relations)
    figures.append(("axes-transfer", plots.axes_transfer(relations), ""))
    if "cosine" in relations:
        figures.append(("axes-cosines", plots.axes_cosines(relations), ""))
    if "before" in relations:
        figures.append(("axes-cost", plots.axes_cost(relations), ""))
    lines += list(relations.attrs["refused"].values())
    return Section(
        title="Several axes", lines=tuple(lines), figures=tuple(figures), tables=(_table(relations, layer),)
    )


def effect_lines(effects: xr.Dataset) -> list[str]:
    """What the data say about the main effects on every axis, and of the refusals."""
    main = [str(name) for name in effects["effect"].values if len(factors_in(str(name))) == 1]
    said = describe(effects, main, site=_site(effects)).splitlines()
    left_out = refused_layers(effects)
    where = (
        f"Of no axis anything is claimed at the layers {', '.join(map(str, left_out))}." if left_out else ""
    )
    return [*said, *filter(None, [where])]


def cost_lines(relations: xr.Dataset) -> list[str]:
    """What was taken out of the axes, and what that cost at the layer that is shown."""
    if "before" not in relations:
        return []
    layer = int(relations.attrs["layer"])
    here, removed = relations.sel(layer=layer), list(relations.attrs["removed"])
    each = [
        f"{name} {float(before):.2f} to {float(after):.2f} (cosine with the axis before {float(kept):.2f})"
        for name, before, after, kept in zip(
            here["axis"].values, here["before"], here["after"], here["kept"], strict=True
        )
    ]
    what = " and ".join(
        [*removed, *(["each axis's mean difference from the others"] if relations.attrs["together"] else [])]
    )
    lines = [f"Taking out {what} changes the held-out AUROC at layer {layer}: {'; '.join(each)}."]
    for number, name in enumerate(here["nuisance"].values if removed else ()):
        before, after = (float(here[f"nuisance_{when}"][number]) for when in ("before", "after"))
        lines.append(
            f"A new direction for {name}, in statements of it that the removal has not seen, has an AUROC of "
            f"{after:.2f} (before the removal {before:.2f}); .5 would be none of it left."
        )
    return lines


def _opening(relations: xr.Dataset, layer: int) -> str:
    removed = list(relations.attrs["removed"])
    names = ", ".join(str(name) for name in relations["train"].values if name not in removed)
    without = f", without {' and '.join(removed)}" if removed else ""
    how = "together: each is what the others do not hold" if relations.attrs["together"] else "apart"
    return (
        f"Directions for {names}{without}, fitted {how}. Layer {layer} is shown, chosen by their mean "
        "held-out AUROC and never by an effect."
    )


def _site(effects: xr.Dataset) -> str | None:
    there = [str(name) for name in np.atleast_1d(effects["site"].values)] if "site" in effects.coords else []
    return SITE if SITE in there else (there or [None])[0]


def _table(relations: xr.Dataset, layer: int) -> dict[str, Any]:
    """Every direction's number of statements and held-out AUROC."""
    here = relations.sel(layer=layer)
    rows = []
    for name in map(str, here["train"].values):
        own = here.sel(train=name, test=name)
        ends = f"{float(own['auroc_low']):.2f} to {float(own['auroc_high']):.2f}"
        count = str(relations.attrs["statements"][name])
        nuisance = " (nuisance)" if name in relations.attrs["removed"] else ""
        rows.append([f"{name}{nuisance}", count, f"{float(own['auroc']):.2f}", ends])
    return {
        "caption": f"Held-out AUROC of every direction at layer {layer}",
        "columns": ["direction", "statements", "AUROC", "95 % interval"],
        "rows": rows,
    }
