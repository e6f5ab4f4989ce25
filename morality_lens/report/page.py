"""One self-contained HTML file: findings in sentences, figures, tables, transcripts, provenance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import xarray as xr
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from morality_lens import plots
from morality_lens.interactions.claims import describe_claims
from morality_lens.interactions.describing import describe, negative_control
from morality_lens.items.files import write_text
from morality_lens.plots.style import alpha
from morality_lens.plots.transcripts import json_for_script
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.report import tables
from morality_lens.report.analysis import Analysis
from morality_lens.report.browser import browser_html
from morality_lens.report.flow import flow_section
from morality_lens.report.sections import Section
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
    titled = (
        ("In behaviour", found.behaviour_effects),
        ("In behaviour, on - placebo", found.behaviour_content),
        ("In the options' full text", found.text_effects),
        ("In the representation", found.effects),
    )
    return {
        "title": f"Moral self-correction in {_model_name(model)}",
        "organism": bool(model.get("organism")) or model.get("name") == "bundled",
        "design": tables.design_rows(page.run.items, page.run.manifest),
        "left_out": tables.records(study.get("left_out", [])),
        "listed": tables.LISTED,
        "unparsed": tables.unparsed(page.run.answers),
        "missing_feedback": said_missing(missing_feedback(page.run.answers, page.run.design)),
        "spelled": tables.spelled(study.get("control_tokens", {}), page.run.answers),
        "option_lines": list(found.option_lines),
        "findings": [
            _findings(title, result, page.run.design.early) for title, result in titled if result is not None
        ],
        "claims": [describe_claims(ladder).splitlines() for ladder in found.claims],
        "refused": list(found.refused),
        "figures": [
            *_behaviour_figures(found),
            *_flow_figures(page.run),
            *_representation_figures(found.effects, layer),
        ],
        "layer_note": why,
        "inside": [_group(group, "inside") for group in page.inside],
        "parts": [_group(group, "part") for group in page.parts],
        "verdicts": list(page.verdicts),
        "tables": tables.cell_means(found.effects, found.behaviour, layer)
        + tables.two_scales(found.behaviour_effects, found.behaviour_odds)
        + tables.reply_shares(found.replies)
        + tables.calibration(found.calibration)
        + tables.failures(failures(page.run.answers, page.run.design))
        + tables.option_scores(found.scorings)
        + tables.positions(found.positions),
        "downloads": tables.downloads(found.effects, found.behaviour_effects, found.behaviour),
        "transcripts": Markup(browser_html(page.run, page.transcripts, probe=page.probe, layer=layer)),
        "probe": None if page.probe is None else _probe(page.probe),
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
        "figures": [_figure(f"{prefix}-{name}", fig, note) for name, fig, note in group.figures],
        "tables": group.tables,
    }


def _model_name(model: Mapping[str, Any]) -> str:
    """The model as a title shows it: a folder or file without the path that leads to it."""
    name = str(model.get("name", "a language model"))
    local = Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    shown = (Path(name).stem if name.endswith(".gguf") else Path(name).name) if local else name
    return "the bundled model" if name == "bundled" else shown


def _headless(line: str, name: str) -> str:
    """A sentence without the effect's name, which is printed beside it."""
    text = line.removeprefix(name).lstrip(",: ")
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
    if probe is not None:
        known = probe.quality["auroc"].dropna("layer")["layer"].values.tolist()
        if set(known) & set(layers):
            best = best_layer(probe, among=layers)
            return best, f"Layer {best} is the first with the probe's highest held-out AUROC."
    return layers[-1], f"Layer {layers[-1]} is the last one."


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


def _probe(probe: Probe) -> dict[str, Any]:
    frame, card = probe.quality.to_dataframe().reset_index(), probe.card
    rows = [] if card is None else card.rows()
    columns = ("verdict", "line", "rule")
    return {
        "card": None
        if card is None
        else {
            "sentence": card.sentence,
            "figure": _figure("trust-card", plots.trust_card(card), ""),
            "table": {
                "columns": list(columns),
                "rows": [[str(row[name]) for name in columns] for row in rows],
            },
        },
        "facts": tables.nested({"kind": probe.kind, **probe.training}),
        "figure": _figure("probe", plots.probe_quality(probe.quality), ""),
        "table": {
            "columns": [str(c).replace("_", " ") for c in frame.columns],
            "rows": [[tables.as_text(v) for v in row] for row in frame.itertuples(index=False)],
        },
    }


def _behaviour_figures(found: Analysis) -> list[dict[str, Any]]:
    """The group of figures about behaviour; empty without a result."""
    made = []
    if found.behaviour is not None:
        measure = found.behaviour.attrs.get("measure") or "share correct"
        drawn = plots.accuracy(found.behaviour, measure=measure)
        made.append(_figure("behaviour", drawn, "Dotted: the last component is off."))
    if found.behaviour_effects is not None:
        made.append(_figure("behaviour-effects", plots.behaviour_effects(found.behaviour_effects), ""))
    return [{"title": "Behaviour", "figures": made, "folded": False}] if made else []


def _flow_figures(run: Run) -> list[dict[str, Any]]:
    """The folded group of figures about answers between rounds; none where answers are free text."""
    section = flow_section(run)
    return [] if section is None else [{**_group(section, "flow"), "folded": True}]


def _representation_figures(effects: xr.Dataset | None, layer: int | None) -> list[dict[str, Any]]:
    """Groups of figures about the projection; those of further sites, the maps and cell means are folded."""
    if effects is None or layer is None:
        return []
    names = [str(name) for name in effects["effect"].to_numpy()]
    sites = effects["site"].to_numpy().tolist() if "site" in effects.dims else [None]
    groups = [
        {
            "title": "Representation" + (f" at {site}" if site else ""),
            "figures": _site_figures(effects, i, site, layer),
            "folded": i > 0,
        }
        for i, site in enumerate(sites)
    ]
    where = f" at {sites[0]}" if sites[0] else ""
    maps = [
        _figure(f"map-{j}", plots.effects_map(effects, effect=name), "")
        for j, name in enumerate(names if "round" in effects.dims else [])
    ]
    cells = [
        _figure(f"cells-{j}", plots.cell_means(effects, effect=name, layer=layer), "")
        for j, name in enumerate(n for n in names if ":" in n)
    ]
    folded = (
        (f"Maps of every effect over layers and rounds{where}", maps),
        (f"Cell means of the interactions{where}", cells),
    )
    return groups + [{"title": title, "figures": made, "folded": True} for title, made in folded if made]


def _site_figures(effects: xr.Dataset, index: int, site: str | None, layer: int) -> list[dict[str, Any]]:
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
        _figure(f"effects-{index}-{kind}", plots.effects(effects, site=site, effect=group), note)
        for kind, group, note in kinds
        if group
    ]
    if "round" in effects.dims:
        labels = {name: effects.attrs.get(name, "") for name in ("units", "trust")}
        means = effects["cell_mean"].assign_attrs(labels)
        made.append(_figure(f"trajectories-{index}", plots.trajectories(means, site=site, layer=layer), ""))
    return made


def _figure(name: str, fig: go.Figure, note: str) -> dict[str, Any]:
    title = fig["layout"]["title"]
    plain = f"{title['text']}: {title['subtitle']['text']}".replace("<b>", "").replace("</b>", "")
    return {
        "id": name,
        "label": plain,
        "note": note,
        "height": fig["layout"]["height"],
        "json": Markup(json_for_script(_finite(fig.to_plotly_json()))),
    }


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
