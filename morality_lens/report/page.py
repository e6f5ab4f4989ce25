"""One self-contained HTML file: findings in sentences, figures, tables, transcripts, provenance."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
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
from morality_lens.plots.transcripts import json_for_script, transcript_html
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.report import tables
from morality_lens.report.sections import Section
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView


def write_page(
    run: Run,
    *,
    path: str | Path,
    effects: xr.Dataset | None = None,
    behaviour_effects: xr.Dataset | None = None,
    behaviour: pd.DataFrame | None = None,
    behaviour_odds: xr.Dataset | None = None,
    behaviour_content: xr.Dataset | None = None,
    claims: Sequence[xr.Dataset] = (),
    replies: pd.DataFrame | None = None,
    probe: Probe | None = None,
    transcripts: Sequence[TokenView] = (),
    refused: Sequence[str] = (),
    inside: Sequence[Section] = (),
    parts: Sequence[Section] = (),
    verdicts: Sequence[Mapping[str, Any]] = (),
    layer: int | None = None,
) -> Path:
    """The path of the report, which opens without network access.

    Nothing is estimated here: numbers come from the results, sentences from ``describe``. The file is
    replaced whole.

    Args:
        run: whose study is reported.
        path: the file to write; its folder is made.
        effects: factorial effects of the projection, by layer.
        behaviour_effects: factorial effects of the behaviour: neither ``site`` nor ``layer``.
        behaviour: the table that ``plots.accuracy`` draws.
        behaviour_odds: effects on the log-odds of the behaviour's cell means.
        behaviour_content: effects of what the components say, on - placebo.
        claims: what ``claim_ladder`` returned for two components each, at one place.
        replies: the share of each reply by condition and round, where no reply is the good one.
        probe: the probe whose projection ``effects`` describes.
        transcripts: dialogues to browse.
        refused: what could not be answered and why, one sentence each.
        inside: what was found inside the model, from ``inside_groups``.
        parts: further parts of a whole study.
        verdicts: what a study says of its claims, from ``verdict_entry``; they come first.
        layer: the layer shown where a figure or a table needs one; None: the layer with the highest
            held-out AUROC, or the last one without a probe. Never chosen by the size of an effect.

    Raises:
        ValueError: a result of the wrong shape, or a layer that is not in ``effects``.
    """
    shown, why = _shown_layer(effects, probe, layer)
    study = {**run.manifest.get("study", {}), **run.manifest}
    model = study.get("model", {})
    context = {
        "title": f"Moral self-correction in {_model_name(model)}",
        "organism": bool(model.get("organism")) or model.get("name") == "bundled",
        "design": tables.design_rows(run.items, study),
        "left_out": tables.records(study.get("left_out", [])),
        "listed": tables.LISTED,
        "unparsed": tables.unparsed(run.answers),
        "findings": [
            _findings(title, result)
            for title, result in (
                ("In behaviour", behaviour_effects),
                ("In behaviour, on - placebo", behaviour_content),
                ("In the representation", effects),
            )
            if result is not None
        ],
        "claims": [describe_claims(ladder).splitlines() for ladder in claims],
        "refused": list(refused),
        "figures": _figures(effects, behaviour_effects, behaviour, shown),
        "layer_note": why,
        "inside": [_group(group, "inside") for group in inside],
        "parts": [_group(group, "part") for group in parts],
        "verdicts": list(verdicts),
        "tables": tables.cell_means(effects, behaviour, shown)
        + tables.two_scales(behaviour_effects, behaviour_odds)
        + tables.reply_shares(replies),
        "downloads": tables.downloads(effects, behaviour_effects, behaviour),
        "transcripts": Markup(transcript_html(transcripts)) if transcripts else "",
        "probe": None if probe is None else _probe(probe),
        "checks": tables.checks(study.get("self_test", [])),
        "provenance": tables.nested(
            {k: v for k, v in study.items() if k not in ("self_test", "left_out", "format", "study")}
        ),
        "style": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
        "plotly": Markup(get_plotlyjs()),
    }
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(_asset("report.html.j2")).render(context)
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    return write_text(target, page, errors="replace")


def _group(group: Section, prefix: str) -> dict[str, Any]:
    """A heading with its sentences, figures and tables, as the template takes them."""
    return {
        "title": group.title,
        "lines": group.lines,
        "figures": [_figure(f"{prefix}-{name}", fig, note) for name, fig, note in group.figures],
        "tables": group.tables,
    }


def _model_name(model: Mapping[str, Any]) -> str:
    name = str(model.get("name", "a language model"))
    return "the bundled model" if name == "bundled" else name


def _headless(line: str, name: str) -> str:
    """A sentence without the effect's name, which stands beside it."""
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


def _findings(title: str, effects: xr.Dataset) -> dict[str, Any]:
    """Sentences per effect; lines that all share are given once."""
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
        "control": negative_control(effects) if control else None,
        "claimed": bool((later["p_adj"].to_numpy() < alpha(effects)).any()),
        "corrected": bool(np.isfinite(effects["p_adj"].to_numpy()).any()),
        "alpha": alpha(effects),
        # The first note is in the common lines already.
        "notes": [n for n in effects.attrs.get("notes", []) if not any(n in line for line in common)],
    }


def _probe(probe: Probe) -> dict[str, Any]:
    frame, card = probe.quality.to_dataframe().reset_index(), probe.card
    rows = [] if card is None else card.rows()
    wanted = ("verdict", "line", "rule")
    return {
        "card": None
        if card is None
        else {
            "sentence": card.sentence,
            "figure": _figure("trust-card", plots.trust_card(card), ""),
            "table": {
                "columns": list(wanted),
                "rows": [[str(row[name]) for name in wanted] for row in rows],
            },
        },
        "facts": tables.nested({"kind": probe.kind, **probe.training}),
        "figure": _figure("probe", plots.probe_quality(probe.quality), ""),
        "table": {
            "columns": [str(c).replace("_", " ") for c in frame.columns],
            "rows": [[tables.as_text(v) for v in row] for row in frame.itertuples(index=False)],
        },
    }


def _figures(
    effects: xr.Dataset | None,
    behaviour_effects: xr.Dataset | None,
    behaviour: pd.DataFrame | None,
    layer: int | None,
) -> list[dict[str, Any]]:
    """Groups of figures; those of further sites and the maps are folded away."""
    groups = []
    first = []
    if behaviour is not None:
        measure = behaviour.attrs.get("measure") or "share correct"
        drawn = plots.accuracy(behaviour, measure=measure)
        first.append(_figure("behaviour", drawn, "Dotted: the last component is off."))
    if behaviour_effects is not None:
        first.append(_figure("behaviour-effects", plots.behaviour_effects(behaviour_effects), ""))
    if first:
        groups.append({"title": "Behaviour", "figures": first, "folded": False})
    if effects is None or layer is None:
        return groups
    names = [str(name) for name in effects["effect"].to_numpy()]
    both = [name for name in names if ":" in name]
    where = f" at {effects['site'].to_numpy()[0]}" if "site" in effects.dims else ""
    sites = effects["site"].to_numpy().tolist() if "site" in effects.dims else [None]
    for i, site in enumerate(sites):
        made = [
            _figure(f"effects-{i}-{kind}", plots.effects(effects, site=site, effect=group), note)
            for kind, group, note in (
                ("main", [n for n in names if n not in both], "Main effects of the components."),
                ("interactions", both, "Interactions: how the effect of one component changes with another."),
            )
            if group
        ]
        if "round" in effects.dims:
            told = {name: effects.attrs.get(name, "") for name in ("units", "trust")}
            means = effects["cell_mean"].assign_attrs(told)
            made.append(_figure(f"trajectories-{i}", plots.trajectories(means, site=site, layer=layer), ""))
        title = "Representation" + (f" at {site}" if site else "")
        groups.append({"title": title, "figures": made, "folded": i > 0})
    if "round" in effects.dims:
        made = [
            _figure(f"map-{j}", plots.effects_map(effects, effect=name), "") for j, name in enumerate(names)
        ]
        groups.append(
            {"title": f"Maps of every effect over layers and rounds{where}", "figures": made, "folded": True}
        )
    made = [
        _figure(f"cells-{j}", plots.cell_means(effects, effect=name, layer=layer), "")
        for j, name in enumerate(both)
    ]
    if made:
        groups.append({"title": f"Cell means of the interactions{where}", "figures": made, "folded": True})
    return groups


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
    """A figure's content as plain JSON values: arrays as lists, NaN as null."""
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
