"""One self-contained HTML file: the result first, then figures, dialogues, tables and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from morality_lens import plots
from morality_lens.interactions.claims import describe_claims
from morality_lens.interactions.describing import describe, negative_control
from morality_lens.items.files import write_text
from morality_lens.plots.style import alpha, effect_colors, interval, refused_layers
from morality_lens.probes.probe import Probe
from morality_lens.report import tables
from morality_lens.report.analysis import Analysis
from morality_lens.report.browser import browser_html
from morality_lens.report.figures import behaviour_figures, figure_entry, representation_figures
from morality_lens.report.flow import flow_section
from morality_lens.report.methods import bibtex, methods_paragraph, shown_name
from morality_lens.report.sections import Section
from morality_lens.report.sparks import spark
from morality_lens.report.summary import Shown, known_layers, shown_layer, summarize
from morality_lens.report.trajectories import trajectory_section
from morality_lens.runs.rates import failures, missing_feedback, said_missing
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView

NO_PROVENANCE = {
    "self_test",
    "left_out",
    "format",
    "study",
    "words",
    "protocol",
    "parts",
    "places",
    "loaded_from",
}
"""Entries of a manifest that a report shows elsewhere, or that only whoever plays the run needs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Page:
    """The content of one report.

    Attributes:
        run: the run that is reported.
        analysis: its estimates, and what was refused.
        probe: the probe whose projection the effects describe.
        transcripts: dialogues to browse.
        inside: results from inside the model, from ``inside_groups``.
        parts: further parts of a study.
        verdicts: one entry for each claim of a study, from ``verdict_entry``; they come first.
        layer: the layer shown where a figure or a table needs one; None: the layer with the highest
            held-out AUROC, or the last one without a probe. It is never chosen by the size of an effect.
    """

    run: Run
    analysis: Analysis = field(default_factory=Analysis)
    probe: Probe | None = None
    transcripts: Sequence[TokenView] = ()
    inside: Sequence[Section] = ()
    parts: Sequence[Section] = ()
    verdicts: Sequence[Mapping[str, Any]] = ()
    layer: int | None = None


def write_page(page: Page, *, path: str | Path) -> Path:
    """The path of the report, which opens without network access.

    Nothing is estimated here: the numbers come from the results and the sentences from ``describe``. The
    file is replaced as a whole.

    Args:
        page: the content.
        path: the file to write; its folder is created.

    Raises:
        ValueError: a result of the wrong shape, or a layer that is not in the effects.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    html = environment.from_string(_asset("report.html.j2")).render(_context(page))
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_text(target, html, errors="replace")


def _context(page: Page) -> dict[str, Any]:
    """The values of the template's variables."""
    found = page.analysis
    layer, why = _shown_layer(found.effects, page.probe, page.layer)
    study = {**page.run.manifest.get("study", {}), **page.run.manifest}
    model = study.get("model", {})
    answers = [flow_section(page.run), trajectory_section(page.run, probe=page.probe, layer=layer)]
    titled = (
        ("In behaviour", found.behaviour_effects),
        ("In behaviour, on - placebo", found.behaviour_content),
        ("In the options' full text", found.text_effects),
        ("In the representation", found.effects),
    )
    return {
        "title": f"Moral self-correction in {shown_name(model)}",
        "played": _played(page.run),
        "question": _question(page.run),
        "result": _result(found, page.probe, layer),
        "organism": bool(model.get("organism")) or model.get("name") == "bundled",
        "design": tables.design_rows(page.run.items, page.run.manifest),
        "left_out": tables.records(study.get("left_out", [])),
        "listed": tables.LISTED,
        "unparsed": tables.unparsed(page.run.answers),
        "missing_feedback": said_missing(missing_feedback(page.run.answers, page.run.design)),
        "spelled": tables.spelled(study.get("control_tokens", {}), page.run.answers),
        "option_lines": list(found.option_lines),
        "findings": [
            _findings(title, result, page.run.design.early_effects)
            for title, result in titled
            if result is not None
        ],
        "claims": [describe_claims(ladder).splitlines() for ladder in found.claims],
        "refused": list(found.refused),
        "behaviour": behaviour_figures(found),
        "answers": [_group(part, "answers") for part in answers if part is not None],
        "representation": representation_figures(found.effects, layer),
        "layer_note": why,
        "inside": [_group(group, "inside") for group in page.inside],
        "parts": [_group(group, "part") for group in page.parts],
        "verdicts": list(page.verdicts),
        "tables": tables.cell_means(found.effects, found.behaviour, layer)
        + tables.two_by_two((found.behaviour_effects, None), (found.effects, layer))
        + tables.two_scales(found.behaviour_effects, found.behaviour_odds)
        + tables.reply_shares(found.replies)
        + tables.calibration(found.calibration)
        + tables.failures(failures(page.run.answers, page.run.design))
        + tables.option_scores(found.scorings)
        + tables.positions(found.positions),
        "methods": methods_paragraph(page.run, found, probe=page.probe),
        "bibtex": bibtex(page.run, found),
        "downloads": tables.downloads(found.effects, found.behaviour_effects, found.behaviour),
        "transcripts": Markup(browser_html(page.run, page.transcripts, probe=page.probe, layer=layer)),
        "probe": None
        if page.probe is None
        else _probe(page.probe, [] if found.effects is None else refused_layers(found.effects)),
        "checks": tables.checks(study.get("self_test", [])),
        "provenance": tables.nested({k: v for k, v in study.items() if k not in NO_PROVENANCE}),
        "style": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
        "plotly": Markup(get_plotlyjs()),
    }


def _group(group: Section, prefix: str) -> dict[str, Any]:
    """A heading with its sentences, figures and tables, as the template takes them."""
    return {
        "title": group.title,
        "lines": group.lines,
        "figures": [figure_entry(f"{prefix}-{name}", fig, note) for name, fig, note in group.figures],
        "tables": group.tables,
    }


def _played(run: Run) -> str:
    """What was played, in a line."""
    design, items = run.design, run.items
    rounds = design.n_rounds - 1
    return (
        f"{len(items)} items in {items['cluster'].nunique()} clusters, each in "
        f"{len(design.conditions)} conditions, "
        f"{rounds} correction round{'' if rounds == 1 else 's'}"
    )


def _question(run: Run) -> str:
    """The question that a report answers, in a line."""
    *some, last = [factor.name for factor in run.design.factors]
    if not some:
        return f"What does {last} change?"
    return f"What do {', '.join(some)} and {last} change, and do they add up?"


def _result(found: Analysis, probe: Probe | None, layer: int | None) -> dict[str, Any]:
    """The table and the figure of the first screen."""
    summary = summarize(found, probe=probe, layer=layer)
    over_layers = found.effects if layer is not None else None
    known = [one for one in (found.behaviour_effects, found.effects) if one is not None]
    colors = {name: color for one in known for name, color in effect_colors(one).items()}
    rows = [
        {
            "effect": row.effect,
            "color": colors[row.effect],
            "sentence": row.sentence,
            "cells": [
                {"what": what, "shown": shown, "spark": _spark(shown, row.effect, colors[row.effect])}
                for what, shown, there in (
                    (summary.outcome, row.behaviour, found.behaviour_effects),
                    (f"inside, layer {layer}", row.inside, over_layers),
                )
                if there is not None
            ],
        }
        for row in summary.rows
    ]
    drawn = over_layers is not None or found.behaviour_effects is not None
    return {
        "summary": summary,
        "rows": rows,
        "bands": " and ".join(dict.fromkeys(interval(one)[2].partition(";")[0] for one in known)),
        "alpha": alpha(known[0]) if known else 0.05,
        "figure": figure_entry("summary", plots.summary(over_layers, found.behaviour_effects, layer=layer))
        if drawn
        else None,
    }


def _spark(shown: Shown | None, name: str, color: str) -> Markup:
    return Markup("") if shown is None or shown.curve is None else spark(shown.curve, color=color, name=name)


def _headless(line: str, name: str) -> str:
    """A sentence without the effect's name, which is printed beside it."""
    text = line.removeprefix(name).lstrip(",: ").partition(" Cell means")[0]  # a table holds them
    return text[:1].upper() + text[1:]


def _asset(name: str) -> str:
    return files("morality_lens.report").joinpath(name).read_text(encoding="utf-8")


def _shown_layer(
    effects: xr.Dataset | None, probe: Probe | None, layer: int | None
) -> tuple[int | None, str]:
    """The layer that figures and tables show, and how it was chosen."""
    if effects is None or "layer" not in effects.dims:
        return None, ""
    layers = effects["layer"].to_numpy().tolist()
    if layer is not None:
        if layer not in layers:
            raise ValueError(f"write_page has no layer {layer} in effects: choose one of {layers}.")
        return layer, f"Layer {layer} was chosen by the caller."
    shown = shown_layer(effects, probe)
    if shown is None:
        return None, ""
    if probe is None or shown not in known_layers(probe):
        return shown, f"Layer {shown} is the last one that is not refused."
    return shown, f"Layer {shown} is the first with the probe's highest held-out AUROC."


def _findings(title: str, effects: xr.Dataset, early: Sequence[str]) -> dict[str, Any]:
    """Sentences per effect; lines common to all are given once."""
    names = [str(name) for name in effects["effect"].to_numpy()]
    texts = {name: describe(effects, name).splitlines() for name in names}
    common = [line for line in texts[names[0]] if len(names) > 1 and all(line in t for t in texts.values())]
    control = "round" in effects.dims and 0 in effects["round"].to_numpy()
    later = effects.sel(round=effects["round"] != 0) if "round" in effects.dims else effects
    return {
        "title": title,
        "effects": [
            (name, [_headless(line, name) for line in lines if line not in common])
            for name, lines in texts.items()
        ],
        "common": common,
        "control": negative_control(effects, early) if control else None,
        "claimed": bool((later["p_adj"].to_numpy() <= alpha(effects)).any()),
        "corrected": bool(np.isfinite(effects["p_adj"].to_numpy()).any()),
        "alpha": alpha(effects),
        # The first note is in the common lines already.
        "notes": [n for n in effects.attrs.get("notes", []) if not any(n in line for line in common)],
    }


def _probe(probe: Probe, refused: Sequence[int]) -> dict[str, Any]:
    frame, card = probe.quality.to_dataframe().reset_index(), probe.card
    rows = [] if card is None else card.rows()
    columns = ("verdict", "line", "rule")
    return {
        "card": None
        if card is None
        else {
            "sentence": card.sentence,
            "figure": figure_entry("trust-card", plots.trust_card(card, refused=refused)),
            "table": {
                "columns": list(columns),
                "rows": [[str(row[name]) for name in columns] for row in rows],
            },
        },
        "facts": tables.nested({"kind": probe.kind, **probe.training}),
        "figure": figure_entry("probe", plots.probe_quality(probe.quality, refused=refused)),
        "table": {
            "columns": [str(c).replace("_", " ") for c in frame.columns],
            "rows": [[tables.as_text(v) for v in row] for row in frame.itertuples(index=False)],
        },
    }
