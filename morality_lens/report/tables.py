"""The tables of a report: plain texts in rows and columns."""

import base64
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.design import RESERVED
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.numbers import number
from morality_lens.interactions.tabulating import effects_table
from morality_lens.plots.style import cell_name, with_unit
from morality_lens.runs.option_notes import NOTE

LISTED = 12
"""Longest list of names that is shown in full."""


def factor_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a table that hold the levels of factors."""
    return [str(name) for name in table.columns if name not in RESERVED]


def unparsed(answers: pd.DataFrame) -> dict[str, Any] | None:
    """The number of unparsed answers and the cell with most of them; None without parsing."""
    if "parsed" not in answers.columns or bool(answers["parsed"].isna().to_numpy().all()):
        return None
    factors = factor_columns(answers)
    answers = answers.loc[answers["parsed"].notna()]  # what was never played did not fail
    frame = answers[[*factors, "round"]].assign(failed=~answers["parsed"].eq(True).to_numpy(dtype=bool))
    cells = {
        f"{cell_name(factors, levels[:-1])}, round {levels[-1]}": group["failed"].to_numpy().mean()
        for levels, group in frame.groupby([*factors, "round"])
        if isinstance(levels, tuple)
    }
    worst = max(cells, key=lambda name: cells[name])
    failed = frame["failed"].to_numpy()
    return {
        "count": int(failed.sum()),
        "total": len(failed),
        "share": f"{failed.mean():.1%}",
        "worst_share": f"{cells[worst]:.1%}",
        "worst": worst,
    }


def design_rows(items: pd.DataFrame, manifest: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Components, rounds, sites, items, model and what is kept of its residuals, a line each."""
    study = manifest["study"]
    design, model = study.get("design", {}), study.get("model", {})
    rows = [(f"Component: {f['name']}", ", ".join(f["levels"])) for f in design.get("factors", [])]
    if "rounds" in design:
        rows.append(("Rounds", f"round 0 (no correction yet) and {design['rounds']} correction rounds"))
    if "sites" in design:
        rows.append(("Sites", ", ".join(design["sites"])))
    rows.append(("Items", f"{len(items)} in {len(set(items['cluster']))} clusters"))
    if "order" in items.columns:
        rows.append(("Order of the options", "permuted, balanced over roles and positions"))
    counts = Counter(items["category"]) if "category" in items.columns else Counter()
    if any(counts):
        rows.append(("Categories", ", ".join(f"{name or 'none'} ({n})" for name, n in counts.items())))
    if "n_layers" in model:
        name = model.get("name", "")
        depth = f"{model['n_layers']} layers (and the embedding, written as layer -1)"
        rows.append(("Model", f"{name}: {depth}, residual width {model.get('d_model', '?')}"))
        rows += _kept_rows(manifest.get("stored", {}), int(model["n_layers"]))
    return rows


def _kept_rows(stored: Mapping[str, Any], blocks: int) -> list[tuple[str, str]]:
    """What is kept of the residuals, where it is less than all of them."""
    layers, parts = list(stored.get("layers", [])), []
    if layers != list(range(-1, blocks)):
        parts.append(f"layers {', '.join(map(str, layers))}")
    if stored.get("keep") == "projections":
        parts.append("projections on the probe and its refits, in place of residuals")
    if stored.get("dtype") == "float16":
        parts.append("float16 (relative rounding error of at most 1/2048)")
    return [("Kept", "; ".join(parts))] if parts else []


def records(rows: Iterable[Any]) -> dict[str, Any]:
    """Any list as a table: mappings by their keys, other values as one column."""
    plain = [dict(row) if isinstance(row, Mapping) else {"item": row} for row in rows]
    columns = list(dict.fromkeys(key for row in plain for key in row))
    return {
        "columns": [str(c).replace("_", " ") for c in columns],
        "rows": [[as_text(row.get(c, "")) for c in columns] for row in plain],
    }


def checks(rows: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The self-test with a verdict in the last column."""
    plain, failed = [], 0
    for row in rows:
        ok = row.get("passed")
        if ok is None and {"difference", "tolerance"} <= row.keys():
            ok = row["difference"] <= row["tolerance"]
        failed += ok is not None and not ok
        verdict = "not stated" if ok is None else "passed" if ok else "FAILED"
        plain.append({**{k: v for k, v in row.items() if k != "passed"}, "result": verdict})
    return {**records(plain), "failed": failed}


def two_scales(effects: xr.Dataset | None, odds: xr.Dataset | None) -> list[dict[str, Any]]:
    """Effects on behaviour in the last round, on the additive and the log-odds scale side by side."""
    if effects is None or odds is None:
        return []
    rows = []
    for name in effects["effect"].to_numpy().tolist():
        row = [str(name)]
        for result in (effects, odds):
            here = result.sel(effect=name)
            here = here.isel(round=-1) if "round" in here.dims else here
            row += [
                f"{number(here['estimate'].item())} "
                f"[{number(here['ci_low'].item())}, {number(here['ci_high'].item())}]",
                number(here["p"].item()),
            ]
        rows.append(row)
    columns = ["effect", "difference of shares", "p", "difference of log-odds", "p"]
    return [
        {
            "caption": "Effects on behaviour in the last round, pointwise, on two scales",
            "columns": columns,
            "rows": rows,
        }
    ]


def cell_means(
    effects: xr.Dataset | None, behaviour: pd.DataFrame | None, layer: int | None
) -> list[dict[str, Any]]:
    """Cell means: a row per condition, a column per round."""
    tables = []
    if behaviour is not None:
        frame = behaviour.assign(
            cell=[
                f"{number(m)} [{number(low)}, {number(high)}]"
                for m, low, high in zip(
                    behaviour["mean"], behaviour["ci_low"], behaviour["ci_high"], strict=True
                )
            ]
        )
        tables.append(_wide(frame, factor_columns(behaviour), "Behaviour: mean with its pointwise interval"))
    if effects is not None:
        means = effects["cell_mean"]
        factors = [str(d) for d in means.dims if d not in ("item", "effect", "round", "site", "layer")]
        where = ""
        if layer is not None:
            means, where = means.sel(layer=layer), f", layer {layer}"
        if "site" not in means.dims:
            means = means.expand_dims(site=[""])
        for site in means["site"].to_numpy().tolist():
            frame = means.sel(site=site, drop=True).rename("value").to_dataframe().reset_index()
            frame["cell"] = [number(v) for v in frame["value"]]
            unit = with_unit("Mean projection", effects.attrs.get("units", ""))
            tables.append(_wide(frame, factors, f"{unit}{f' at {site}' if site else ''}{where}"))
    return tables


def two_by_two(*results: tuple[xr.Dataset | None, int | None]) -> list[dict[str, Any]]:
    """The four means of every two components in the last round, averaged over the others.

    Args:
        results: effects, and the layer shown of those that have layers.
    """
    tables = []
    for effects, layer in results:
        if effects is None:
            continue
        means, where = _last_means(effects, layer)
        for one, other in itertools.combinations(factors_of(means), 2):
            four = means.mean([dim for dim in means.dims if dim not in (one, other)])
            levels = four[other].to_numpy().tolist()
            rows = [
                [f"{one} {a}", *(number(float(four.sel({one: a, other: b}))) for b in levels)]
                for a in four[one].to_numpy().tolist()
            ]
            unit = with_unit(str(effects.attrs.get("outcome", "mean")), str(effects.attrs.get("units", "")))
            caption = f"Cell means of {one} and {other}{where}: {unit}"
            tables.append(
                {"caption": caption, "columns": ["", *(f"{other} {b}" for b in levels)], "rows": rows}
            )
    return tables


def _last_means(effects: xr.Dataset, layer: int | None) -> tuple[xr.DataArray, str]:
    """The cell means at the place that the summary shows, and that place in words."""
    means, where = effects["cell_mean"], ""
    if "round" in means.dims:
        means, where = means.isel(round=-1), f", round {int(means['round'][-1])}"
    if "site" in means.dims:
        means, where = means.isel(site=0), f"{where}, {means['site'].to_numpy()[0]}"
    if "layer" in means.dims:
        means, where = means.sel(layer=layer), f"{where}, layer {layer}"
    return means, where


def reply_shares(shares: pd.DataFrame | None) -> list[dict[str, Any]]:
    """Shares of the replies in the last round: a row per condition, a column per reply."""
    if shares is None:
        return []
    last = shares.loc[shares["round"] == shares["round"].max()]
    columns = [str(c) for c in last.columns]
    factors, signs = columns[: columns.index("round")], columns[columns.index("round") + 1 :]
    rows = [
        [cell_name(factors, [str(row[c]) for c in factors]), *(f"{row[sign]:.1%}" for sign in signs)]
        for row in last.to_dict("records")
    ]
    caption = "Share of each reply in the last round; no reply is designated as the good one"
    return [{"caption": caption, "columns": ["components", *signs], "rows": rows}]


CALIBRATION = {
    "entropy": "Uncertainty of the answers: entropy of the options' probabilities in bits",
    "calibration error": "Calibration of the answers: expected calibration error of the most probable "
    "option, {bins} bins of equal counts, most of its upward bias subtracted",
    "brier": "Calibration of the answers: Brier score, from 0 (certain and right) to 2 (certain and wrong)",
}
"""The captions of the measures that are shown."""


def calibration(found: xr.Dataset | None) -> list[dict[str, Any]]:
    """Uncertainty and calibration of the answers: a row per condition, a column per round."""
    if found is None:
        return []
    factors = factors_of(found)
    shown = []
    for measure, caption in CALIBRATION.items():
        if measure not in found["measure"].values:
            continue
        frame = found.sel(measure=measure, drop=True).to_dataframe().reset_index()
        frame["cell"] = [
            f"{number(e)} [{number(low)}, {number(high)}]"
            for e, low, high in zip(frame["estimate"], frame["ci_low"], frame["ci_high"], strict=True)
        ]
        text = f"{caption.format(bins=found.attrs['bins'])}; pointwise intervals by clusters."
        shown.append(_wide(frame, factors, f"{text} {found.attrs[NOTE]}".strip()))
    return shown


def spelled(found: Mapping[str, Any], answers: pd.DataFrame) -> str:
    """What of a run's texts spells a control token of the model, in a sentence; empty where nothing does."""
    parts = []
    if found.get("items"):
        names = ", ".join(found["items"][:LISTED])
        parts.append(f"{len(found['items'])} items ({names})")
    if found.get("wording"):
        parts.append(f"the protocol's words ({', '.join(found['wording'])})")
    said = int(answers["spells_control"].eq(True).to_numpy().sum()) if "spells_control" in answers else 0
    if said:
        parts.append(f"feedback or replies of {said} answers")
    if not parts:
        return ""
    return (
        f"Control tokens of the model are spelled in {'; '.join(parts)}. "
        "They were read as text: they begin no turn and end no reply. A model whose chat template marks "
        "turns by plain words may still take such words for a mark."
    )


def failures(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Replies that failed: a row per condition; none where none did."""
    if len(found.columns) < 2:
        return []
    caption = "Replies that were cut, could not be read or are missing, all rounds"
    return [
        {
            "caption": caption,
            "columns": list(found.columns),
            "rows": found.astype(str).to_numpy().tolist(),
        }
    ]


def option_scores(found: pd.DataFrame | None) -> list[dict[str, Any]]:
    """The options' full texts beside their letters in the last round: a row per condition."""
    if found is None:
        return []
    last = found.loc[found["round"] == found["round"].max()]
    names = [str(c) for c in last.columns]
    factors, shown = names[: names.index("round")], names[names.index("round") + 1 :]
    rows = [
        [cell_name(factors, [str(row[c]) for c in factors]), *(as_share(row[name]) for name in shown)]
        for row in last.to_dict("records")
    ]
    caption = (
        "Options scored by their full text, last round: share of items whose highest-scored option is the "
        "right one, and whose choice is that of the letters"
        if "right by letters" in shown
        else "Options scored by their full text, last round: share of items whose choice is the letters'"
    )
    return [{"caption": caption, "columns": ["components", *shown], "rows": rows}]


def positions(bias: xr.Dataset | None) -> list[dict[str, Any]]:
    """How much each position is preferred in the last round: a row per condition, a column per position."""
    if bias is None:
        return []
    last = bias.isel(round=-1)
    factors = [str(d) for d in last["estimate"].dims if d not in ("measure", "position")]
    tables = []
    for measure, name in (("choice", "share of the answers"), ("probability", "probability of the letters")):
        frame = last.sel(measure=measure).to_dataframe().reset_index()
        if frame["estimate"].isna().to_numpy().all():
            continue
        rows = [
            [
                cell_name(factors, [str(v) for v in np.atleast_1d(np.asarray(levels, dtype=object))]),
                *(
                    f"{number(e)} [{number(low)}, {number(high)}]"
                    for e, low, high in zip(group["estimate"], group["ci_low"], group["ci_high"], strict=True)
                ),
            ]
            for levels, group in frame.groupby(factors, sort=False)
        ]
        caption = (
            f"Preference for a position in the last round: {name} beyond chance "
            f"({bias.attrs['chance']:.2f}), content held equal, pointwise intervals. {bias.attrs['basis']}"
        )
        columns = ["components", *map(str, last["position"].values)]
        tables.append({"caption": caption, "columns": columns, "rows": rows})
    return tables


def as_share(value: float) -> str:
    """A share in per cent; a missing one reads as ``none``."""
    return "none" if np.isnan(value) else f"{value:.1%}"


def _wide(frame: pd.DataFrame, factors: Sequence[str], caption: str) -> dict[str, Any]:
    frame = frame.assign(round=0) if "round" not in frame else frame
    rounds = sorted(frame["round"].unique().tolist())
    rows = []
    for levels, group in frame.groupby(list(factors), sort=False):
        cells = dict(zip(group["round"], group["cell"], strict=True))
        label = cell_name(factors, [str(v) for v in np.atleast_1d(np.asarray(levels, dtype=object))])
        rows.append([label, *(cells.get(r, "none") for r in rounds)])
    head = ["components", *(f"round {r}" for r in rounds)]
    return {"caption": caption, "columns": head, "rows": rows}


def nested(value: Any) -> Any:
    """Mappings as nested lists of pairs, for the template's tree of provenance."""
    if isinstance(value, Mapping):
        return [(str(k), nested(v)) for k, v in value.items()]
    if isinstance(value, (list, tuple)) and any(isinstance(v, (Mapping, list, tuple)) for v in value):
        return [_named(i, v) for i, v in enumerate(value)]
    return as_text(value)


def _named(index: int, value: Any) -> tuple[str, Any]:
    """A member of a list under its own name, or under its index where it has none."""
    if isinstance(value, Mapping) and "name" in value:
        return str(value["name"]), nested({k: v for k, v in value.items() if k != "name"})
    return str(index), nested(value)


def as_text(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "yes", False: "no"}[value]
    if isinstance(value, (float, np.floating)):
        return f"{float(value):.4g}"
    if isinstance(value, (list, tuple)):
        names = [as_text(v) for v in value]
        more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
        return ", ".join(names[:LISTED]) + more
    return str(value)


def downloads(
    effects: xr.Dataset | None, behaviour_effects: xr.Dataset | None, behaviour: pd.DataFrame | None
) -> list[tuple[str, str]]:
    """The plotted numbers as CSV files inside the page."""
    frames = {
        "behaviour.csv": behaviour,
        "behaviour_effects.csv": None if behaviour_effects is None else effects_table(behaviour_effects),
        "effects.csv": None if effects is None else effects_table(effects),
    }
    return [
        (name, "data:text/csv;base64," + base64.b64encode(_csv(frame)).decode("ascii"))
        for name, frame in frames.items()
        if frame is not None
    ]


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.6g").encode("utf-8")
