"""Results from inside the model as sections of the report: sentences and figures."""

import xarray as xr

from morality_lens import plots
from morality_lens.circuits.forming import describe_lens
from morality_lens.circuits.summaries import describe_cost, describe_mediation
from morality_lens.interactions.by_component import describe_components
from morality_lens.report.axes import axes_section
from morality_lens.report.section import Section as Section
from morality_lens.sparse.shares import describe_shares


def inside_groups(kept: dict[str, xr.Dataset]) -> list[Section]:
    """Sentences and figures of the stored results, in reading order."""
    groups = [
        axes_section(kept),
        _attributed(kept, "effects", "Components that carry the effects on the projection"),
        _attributed(kept, "answer", "The direct path to the answer"),
        _patched(kept),
        _steered(kept),
    ]
    if "mediated" in kept:
        lines = tuple(_once(describe_mediation(kept["mediated"]).splitlines(), kept["mediated"]))
        figure = ("mediation", plots.mediation(kept["mediated"]), "")
        groups.append(Section(title="Mediation of an interaction", lines=lines, figures=(figure,)))
    groups += [_lens(kept), _features(kept)]
    return [group for group in groups if group is not None]


def _attributed(kept: dict[str, xr.Dataset], which: str, title: str) -> Section | None:
    found = {n.removeprefix(f"{which}-"): d for n, d in kept.items() if n.startswith(f"{which}-")}
    if not found:
        return None
    first = next(iter(found.values()))
    effect = str(first.attrs.get("shown", first["effect"].values[0]))
    drawn = (
        ("component", plots.attribution_heads, "Every head."),
        (
            "component",
            plots.attribution,
            "The largest components, with simultaneous intervals.",
        ),
        ("layer", plots.attribution_layers, "Bars: contribution of each layer; line: cumulative sum."),
        ("layer-and-segment", plots.attribution_segments, "Contributions of heads by the segment they read."),
        ("head-and-segment", plots.attribution, "Heads by the segment they read."),
    )
    figures = [
        (f"{which}-{name}-{i}", draw(found[name], effect=effect), note)
        for i, (name, draw, note) in enumerate(drawn)
        if name in found
    ]
    # Direct contributions of single heads to the answer are small, so whole components are described.
    finest = found.get("head-and-segment" if which == "effects" else "component", first)
    lines = [describe_components(finest, str(name)) for name in finest["effect"].values]
    lines.append(
        f"The contributions add up to the projection to within {float(finest.attrs['sum_error']):.0e}; "
        f"every layer up to {finest.attrs['layer']} is decomposed."
    )
    return Section(title=title, lines=tuple(_once(lines, finest)), figures=tuple(figures))


def _once(lines: list[str], *results: xr.Dataset) -> list[str]:
    """The sentences with the notes on the options' letters once, at their end."""
    notes = dict.fromkeys(str(one.attrs.get("option_note", "")) for one in results)
    for note in filter(None, notes):
        lines = [text for line in lines if (text := line.replace(note, "").strip())] + [note]
    return lines


def _patched(kept: dict[str, xr.Dataset]) -> Section | None:
    figures = []
    if "patched-residual" in kept:
        one = kept["patched-residual"]
        figures.append(("patched-layers", plots.patching_layers(one, place="answer_start"), ""))
        figures.append(("patched-map", plots.patching_map(one), "Residuals, by place and layer."))
    for what in ("attention", "mlp", "head"):
        if f"patched-{what}" in kept:
            figures.append((f"patched-{what}", plots.patching_map(kept[f"patched-{what}"]), ""))
    if not figures:
        return None
    line = (
        "At a share of 1 the target answers like the source. "
        "At the last layer's answer_start the share is 1 by construction."
    )
    shown = [data for name, data in kept.items() if name.startswith("patched-")]
    return Section(title="Activation patching", lines=tuple(_once([line], *shown)), figures=tuple(figures))


def _steered(kept: dict[str, xr.Dataset]) -> Section | None:
    figures = []
    if "steered" in kept:
        figures.append(("steered", plots.dose_response(kept["steered"]), ""))
    figures += [
        (name, plots.ablations(kept[name]), "The ablated part is set to its mean over items and conditions.")
        for name in ("ablated-on", "ablated-off")
        if name in kept
    ]
    if not figures:
        return None
    lines = ["Random directions of equal length are the control for the size of the change."]
    if "steering-cost" in kept:
        lines.append(describe_cost(kept["steering-cost"]))
    shown = [kept[name] for name in ("steered", "ablated-on", "ablated-off") if name in kept]
    return Section(title="Steering and ablation", lines=tuple(_once(lines, *shown)), figures=tuple(figures))


def _lens(kept: dict[str, xr.Dataset]) -> Section | None:
    """What each layer would answer."""
    drawn = (
        (
            "lens-answer",
            plots.lens_curves,
            "Of the option that the run found most probable at each place, without a letter's leaning.",
        ),
        ("lens-curves", plots.lens_curves, ""),
        ("lens-effects", plots.lens_effects, ""),
        ("lens-onsets", plots.lens_onsets, ""),
        ("lens-agreement", plots.lens_agreement, "Conditions alone: each item's own mean is taken away."),
    )
    figures = [(name, draw(kept[name]), note) for name, draw, note in drawn if name in kept]
    if not figures:
        return None
    lines = describe_lens(kept["lens-onsets"]).splitlines() if "lens-onsets" in kept else []
    lines.append(
        "A lens shows what a layer says in the last layer's terms; what it does not show may be there in "
        "others. Half of the value and the difference from zero are two marks of one curve, not two events."
    )
    shown = [kept[name] for name, *_ in figures]
    return Section(
        title="What each layer would answer", lines=tuple(_once(lines, *shown)), figures=tuple(figures)
    )


def _features(kept: dict[str, xr.Dataset]) -> Section | None:
    """Sparse features that the components switch on, with their cards."""
    effects, shares = kept.get("features-effects"), kept.get("features-shares")
    if effects is None:
        return None
    shown = str(effects.attrs["shown"])
    figures = [("features-effects", plots.feature_effects(effects, effect=shown), "")]
    lines = [
        str(effects.attrs["checked"]),
        f"Kept are features {effects.attrs['rule']}; p is corrected over {effects.attrs['family']}.",
    ]
    if shares is not None:
        figures.append(("features-shares", plots.feature_shares(shares, effect=shown), ""))
        lines += [describe_shares(shares, str(name)) for name in shares["effect"].values]
    cards = list(effects.attrs["cards"])
    notes = dict.fromkeys(str(card["note"]) for card in cards)
    lines += [note for note in notes if note]
    rows = [
        [
            str(card["feature"]),
            f"{card['frequency']:.1%}",
            f"{row['activation']:.3g}",
            str(row["item"]),
            str(row["condition"]),
            str(row.get("token") or row.get("site", "")),
            str(row["text"]),
        ]
        for card in cards
        for row in (*card["tokens"], *card["top"])
    ]
    table = {
        "caption": f"Where the features are on that {shown} moves most",
        "columns": ["feature", "on in", "activation", "item", "condition", "site or token", "text there"],
        "rows": rows,
    }
    return Section(title="Sparse features", lines=tuple(lines), figures=tuple(figures), tables=(table,))
