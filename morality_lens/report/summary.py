"""The result in one table: every effect in the last round, on behaviour and inside."""

from dataclasses import dataclass

import numpy as np
import xarray as xr

from morality_lens.interactions.names import factors_in
from morality_lens.interactions.numbers import interval_of, p_value, ranges
from morality_lens.plots.style import clear, interval, toward
from morality_lens.probes.layers import best_layer
from morality_lens.probes.probe import Probe
from morality_lens.report.analysis import Analysis

SAME = "the same number in every cluster, a signature of position or template"
"""Of an effect that does not vary though it is not zero."""
LONGEST = 190
"""Characters of a refusal in the summary; the whole sentence stands further down."""


@dataclass(frozen=True, kw_only=True)
class Curve:
    """An effect over rounds or layers, as a small curve draws it.

    Attributes:
        x: rounds or layers.
        estimate: the effect at each.
        low: lower ends of the bands; NaN where there is none.
        high: upper ends.
        at: which of them the numbers beside the curve belong to.
        axis: ``round`` or ``layer``.
    """

    x: tuple[int, ...]
    estimate: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    at: int
    axis: str


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One effect at one place.

    Attributes:
        estimate: the estimate with its band, as text.
        p: the adjusted p, as text.
        clear: whether the adjusted p is at most ``alpha`` and the effect no rounding error.
        curve: the effect over rounds or layers; None where there is one place only.
        words: where the effect is distinguishable from zero.
    """

    estimate: str
    p: str
    clear: bool
    curve: Curve | None
    words: str


@dataclass(frozen=True, kw_only=True)
class EffectRow:
    """One effect of the design: on behaviour and in the representation, either of them None if refused."""

    effect: str
    behaviour: Shown | None
    inside: Shown | None

    @property
    def sentence(self) -> str:
        """What was found, in one sentence."""
        parts = [shown.words for shown in (self.behaviour, self.inside) if shown is not None]
        text = "; ".join(parts)
        return f"{text[:1].upper()}{text[1:]}."


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The result of a run at a glance.

    Attributes:
        rows: one for every effect.
        outcome: the measure of behaviour with its unit, or "".
        round: the round shown, or None.
        layer: the layer shown, or None.
        site: the site shown, or "".
        units: of the projection.
        refused: what was refused and why, shortened.
    """

    rows: tuple[EffectRow, ...] = ()
    outcome: str = ""
    round: int | None = None
    layer: int | None = None
    site: str = ""
    units: str = ""
    refused: tuple[str, ...] = ()


def shown_layer(effects: xr.Dataset | None, probe: Probe | None) -> int | None:
    """The layer with the probe's highest held-out AUROC among those judged; the last one without a probe.

    It is never chosen by the size of an effect.
    """
    if effects is None or "layer" not in effects.dims:
        return None
    layers = effects["layer"].to_numpy().tolist()
    if not layers:
        return None
    known = [] if probe is None else [one for one in layers if one in known_layers(probe)]
    return best_layer(probe, among=known) if probe is not None and known else layers[-1]


def known_layers(probe: Probe) -> list[int]:
    """The layers whose held-out AUROC is known."""
    quality = probe.quality
    return quality["auroc"].dropna("layer")["layer"].to_numpy().tolist() if "auroc" in quality else []


def summarize(found: Analysis, *, probe: Probe | None = None, layer: int | None = None) -> Summary:
    """The effects in the last round, at one layer and one site.

    Args:
        found: the estimates.
        probe: whose projections the effects describe.
        layer: the layer shown; None: see :func:`shown_layer`.
    """
    effects = found.effects
    if effects is not None and "site" in effects.dims:
        effects = effects.isel(site=0)
    layer = shown_layer(effects, probe) if layer is None else layer
    known = [one for one in (found.behaviour_effects, effects) if one is not None]
    names = list(dict.fromkeys(str(name) for one in known for name in one["effect"].to_numpy()))
    rounds = [int(one["round"].to_numpy()[-1]) for one in known if "round" in one.dims]
    return Summary(
        rows=tuple(
            EffectRow(
                effect=name,
                behaviour=_on_behaviour(found.behaviour_effects, name),
                inside=_inside(effects, name, layer),
            )
            for name in names
        ),
        outcome=_outcome(found.behaviour_effects),
        round=rounds[0] if len(set(rounds)) == 1 else None,
        layer=layer,
        site="" if effects is None or "site" not in effects.coords else str(effects["site"].item()),
        units="" if effects is None else str(effects.attrs.get("units", "")),
        refused=tuple(_short(line) for line in found.refused),
    )


def result_lines(found: Analysis, *, probe: Probe | None = None) -> list[str]:
    """The result in at most five lines of plain text: behaviour, representation, and what was refused."""
    summary = summarize(found, probe=probe)
    lines = []
    for title, which in (
        (f"Behaviour ({summary.outcome}{_when(summary.round)})", "behaviour"),
        (f"Inside (layer {summary.layer}{_when(summary.round)}, {summary.units})", "inside"),
    ):
        rows = [(row.effect, getattr(row, which)) for row in summary.rows if getattr(row, which) is not None]
        if not rows:
            continue
        found_here = [f"{name} {shown.estimate}" for name, shown in rows if shown.clear]
        others = [name for name, shown in rows if not shown.clear]
        if all(shown.p == "none" for _, shown in rows):
            lines.append(f"{title}: there is no corrected p, so nothing is claimed.")
            continue
        lines.append(f"{title}: {', '.join(found_here) or 'no effect is distinguishable from zero'}.")
        if others and found_here:
            lines.append(f"{' ' * 4}not distinguishable from zero: {', '.join(others)}.")
    aliased = found.behaviour_effects if found.effects is None else found.effects
    if lines and aliased is not None and aliased.attrs.get("aliases"):
        told = ", ".join(f"{name} with {other}" for name, other in aliased.attrs["aliases"].items())
        lines.append(f"A fraction was played: effects come together, {told}.")
    if summary.refused:
        more = len(summary.refused) - 1
        rest = f" (and {more} more)" if more else ""
        lines.append(f"Not answered: {summary.refused[0]}{rest}")
    return lines or ["No effects were estimated."]


def _outcome(effects: xr.Dataset | None) -> str:
    """The measure of behaviour, with its unit where that is not the share that its name says."""
    if effects is None:
        return ""
    name, unit = str(effects.attrs.get("outcome") or "outcome"), str(effects.attrs.get("units", ""))
    return name if unit in ("", "share") or unit == name else f"{name} in {unit}"


def _when(number: int | None) -> str:
    return "" if number is None else f", round {number}"


def _on_behaviour(effects: xr.Dataset | None, name: str) -> Shown | None:
    if effects is None or name not in effects["effect"].to_numpy():
        return None
    one = effects.sel(effect=name)
    outcome = str(effects.attrs.get("outcome") or "outcome")
    said = (f"raises the {outcome}", f"lowers the {outcome}")
    if not one["p_adj"].notnull().any():
        words = "no corrected p on behaviour, so nothing is claimed"
    elif "round" in one.dims:
        words = _over_rounds(one, name, said)
    else:
        words = _verb(name, said, float(one["estimate"]) > 0) if clear(one) else _nothing("in behaviour")
    place = one.isel(round=-1) if "round" in one.dims else one
    return _shown(place, one if "round" in one.dims else None, "round", words)


def _inside(effects: xr.Dataset | None, name: str, layer: int | None) -> Shown | None:
    if effects is None or layer is None or name not in effects["effect"].to_numpy():
        return None
    one = effects.sel(effect=name)
    last = one.isel(round=-1) if "round" in one.dims else one
    words = (
        _over_layers(last, name)
        if last["p_adj"].notnull().any()
        else "no corrected p inside, so nothing is claimed"
    )
    return _shown(last.sel(layer=layer), last, "layer", words)


def _shown(place: xr.Dataset, line: xr.Dataset | None, axis: str, words: str) -> Shown:
    low, high, _ = interval(place)
    curve = None
    if line is not None and line.sizes[axis] > 1:
        x = tuple(int(v) for v in line[axis].to_numpy())
        ends = (tuple(line[end].to_numpy().tolist()) for end in ("estimate", low, high))
        curve = Curve(
            x=x,
            **dict(zip(("estimate", "low", "high"), ends, strict=True)),
            at=x.index(int(place[axis])),
            axis=axis,
        )
    estimate, se = (float(place[name]) if name in place else np.nan for name in ("estimate", "se"))
    same = f"; {SAME}" if se == 0 and abs(estimate) > 0 and bool(clear(place)) else ""
    return Shown(
        estimate=interval_of(place, "estimate", low, high, signed=True),
        p=p_value(float(place["p_adj"]), draws=float(place.attrs.get("draws_used", 0))),
        clear=bool(clear(place)),
        curve=curve,
        words=f"{words}{same}",
    )


def _over_rounds(one: xr.Dataset, name: str, said: tuple[str, str]) -> str:
    """In which rounds an effect on behaviour is distinguishable from zero, by sign."""
    rounds = [int(r) for r in one["round"].to_numpy()]
    seen, sign = clear(one), np.sign(one["estimate"].to_numpy())
    parts = []
    for way in (1, -1):
        here = seen & (sign == way)
        if not here.any():
            continue
        first = int(np.argmax(here))
        lasts = bool(here[first:].all()) and len(rounds) - first > 1
        when = f"from round {rounds[first]} on" if lasts else f"in {ranges(rounds, here, 'round')}"
        parts.append(f"{_verb(name, said, way > 0)} {when}")
    return ", ".join(parts) or _nothing("in behaviour")


def _over_layers(one: xr.Dataset, name: str) -> str:
    """At which layers an effect in the representation is distinguishable from zero, by sign."""
    layers = [int(n) for n in one["layer"].to_numpy()]
    seen, sign = clear(one), np.sign(one["estimate"].to_numpy())
    said = toward(one)
    parts = [
        f"{_verb(name, said, way > 0)} at {ranges(layers, seen & (sign == way), 'layer')}"
        for way in (1, -1)
        if (seen & (sign == way)).any()
    ]
    return f"inside {', '.join(parts)}" if parts else _nothing("inside")


def _verb(name: str, said: tuple[str, str], up: bool) -> str:
    """What an effect does: the words of a main effect, or the sign of an interaction."""
    if len(factors_in(name)) == 1:
        return said[0] if up else said[1]
    return "positive" if up else "negative"


def _nothing(where: str) -> str:
    return f"not distinguishable from zero {where}"


def _short(line: str) -> str:
    """The beginning of a sentence, cut at a blank."""
    return line if len(line) <= LONGEST else f"{line[:LONGEST].rsplit(' ', 1)[0]} …"
