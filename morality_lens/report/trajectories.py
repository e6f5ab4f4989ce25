"""The section of a report about answers as trajectories: changes, uncertainty, settling, transitions."""

from functools import partial

import plotly.graph_objects as go
import xarray as xr

from morality_lens import plots
from morality_lens.design import Condition, said_of
from morality_lens.experiments.calibration import uncertainty_cube
from morality_lens.experiments.dynamics import STILL
from morality_lens.experiments.shifts import round_shifts
from morality_lens.experiments.trajectories import (
    change_cube,
    compare_transitions,
    describe_transitions,
    settling_curve,
    settling_times,
)
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.fractions import generated_of
from morality_lens.interactions.numbers import p_value, with_bounds
from morality_lens.interactions.ratios import mean_over_items
from morality_lens.probes.probe import Probe
from morality_lens.report.refusals import Refusals
from morality_lens.report.sections import Section
from morality_lens.runs.run import Run

TITLE = "Answers as trajectories"
MEASURES = {
    "Answers that change": partial(change_cube, measure="changed"),
    "Answers that go back": partial(change_cube, measure="returned"),
    "Entropy of the options": partial(uncertainty_cube, measure="entropy share"),
    "Overconfidence": partial(uncertainty_cube, measure="overconfidence"),
}
"""What is shown over the rounds, and how it is made."""

MOST_NUMBERS = 2**27
"""Residual numbers of one layer up to which shifts are computed for the page: 1 GB."""

Figures = list[tuple[str, go.Figure, str]]


def trajectory_section(run: Run, *, probe: Probe | None = None, layer: int | None = None) -> Section | None:
    """How answers change over the rounds; None where replies are free text or there is one round.

    Args:
        run: the run.
        probe: its direction, to which the shifts between rounds are compared; None leaves them out.
        layer: of that comparison; it is left out where the run keeps no residuals there.
    """
    if run.design.rounds < 1 or not all(item.replies for item in run.asked.values()):
        return None
    refusals = Refusals()
    figures: Figures = []
    outcomes: dict[str, xr.DataArray] = {}
    for title, make in MEASURES.items():
        cube = refusals.attempt(title, partial(make, run))
        if cube is None:
            continue
        figures += _over_rounds(cube, title, refusals)
        counted = "round" if title.startswith("Answers") else None
        whole = (
            cube.mean("round", keep_attrs=True, skipna=False) if counted else cube.isel(round=-1, drop=True)
        )
        outcomes[f"{title}, {'all rounds' if counted else 'last round'}"] = whole
    lines = [
        *_settling(run, figures, outcomes, refusals),
        *_transitions(run, figures, refusals),
        *([] if probe is None or layer is None else _shifts(run, probe, layer, figures, refusals)),
    ]
    table = _effects_table(outcomes, refusals)
    return Section(
        title=TITLE, lines=(*lines, *refusals.lines), figures=tuple(figures), tables=(table,) if table else ()
    )


def _over_rounds(cube: xr.DataArray, title: str, refusals: Refusals) -> Figures:
    """The means of a measure by round and condition, as a figure; none where they are refused."""
    share = title != "Overconfidence"  # a difference of two shares
    means = refusals.attempt(title, lambda: mean_over_items(cube, share=share))
    if means is None:
        return []
    figure = plots.round_means(means.assign_attrs(cube.attrs), title=title, note=str(cube.name))
    return [(title.casefold().replace(" ", "-"), figure, "")]


def _settling(run: Run, figures: Figures, outcomes: dict[str, xr.DataArray], refusals: Refusals) -> list[str]:
    """The sentence on when answers settle; its curve joins the figures and its times the outcomes."""
    what = "When answers settle"
    times = refusals.attempt(what, lambda: settling_times(run))
    if times is None:
        return []
    outcomes["Rounds until settled"] = times["restricted"]
    curve = refusals.attempt(what, lambda: settling_curve(times))
    if curve is None:
        return []
    note = f"share of dialogues whose answer has not yet begun to stay the same for {STILL} more rounds"
    figure = plots.round_means(
        curve.assign_attrs(units="share"), title="Dialogues that have not settled", note=note
    )
    figures.append(("settling", figure, ""))
    return [_settled(curve, run)]


def _settled(curve: xr.Dataset, run: Run) -> str:
    """How many dialogues settled, and the conditions in which they did so fastest and slowest."""
    seen, of = curve.attrs["dialogues"] - curve.attrs["censored"], curve.attrs["dialogues"]
    early = curve.attrs["ended_early"]
    ended = f" ({early} ended early; they are censored there)" if early else ""
    told = f"{seen} of {of} dialogues give one answer that can be read {STILL + 1} times in a row{ended}."
    mean = curve["mean"].stack(cell=curve["mean"].dims).dropna("cell")
    if not seen or not mean.size:
        return told
    fast, slow = (mean.isel(cell=int(one)) for one in (mean.argmin("cell"), mean.argmax("cell")))
    up_to = f"counted up to round {curve.attrs['horizon']}"
    unknown = curve["mean"].size - mean.size
    left = (
        f"; of {unknown} conditions it is not known, since the last dialogues ended early" if unknown else ""
    )
    if float(fast) == float(slow):
        return (
            f"{told} On average this begins after {float(fast):.2f} rounds in every condition, {up_to}{left}."
        )
    ends = " to ".join(_mean_rounds(curve, one, run) for one in (fast, slow))
    return f"{told} On average this begins after {ends} rounds, {up_to}{left}."


def _mean_rounds(curve: xr.Dataset, cell: xr.DataArray, run: Run) -> str:
    """The mean number of rounds in a condition, with its interval and the condition's name."""
    levels = {name: str(cell[name].item()) for name in run.design.names}
    place = curve.sel(levels)
    told = with_bounds(*(float(place[name]) for name in ("mean", "mean_low", "mean_high")))
    return f"{told} under {said_of(run.design.spoken(Condition(**levels)))}"


def _transitions(run: Run, figures: Figures, refusals: Refusals) -> list[str]:
    """Whether factors change the transitions: the figure joins the others, and the sentences come back."""
    compared = refusals.attempt("Transitions compared", lambda: compare_transitions(run))
    if compared is None:
        return []
    figures.append(("transition-effects", plots.transition_effects(compared), ""))
    return describe_transitions(compared).splitlines()


def _shifts(run: Run, probe: Probe, layer: int, figures: Figures, refusals: Refusals) -> list[str]:
    """Whether residuals move along the direction between rounds: the figure joins the others."""
    stored = run.manifest.get("stored", {"keep": "projections"})
    if stored["keep"] == "projections" or layer not in run.layers:
        return []
    size = (
        len(run.asked) * len(run.design.conditions) * run.design.n_rounds * probe.direction.sizes["d_model"]
    )
    if size > MOST_NUMBERS:
        return [
            "The alignment of the shifts between rounds with the direction is not shown here, since the "
            "residuals of so large a run do not fit into memory at once; experiments.round_shifts reads them."
        ]
    found = refusals.attempt("Shifts between rounds", lambda: round_shifts(run, probe, layer=layer))
    if found is None:
        return []
    figures.append(("shifts", plots.shifts(found), ""))
    return []


def _effects_table(outcomes: dict[str, xr.DataArray], refusals: Refusals) -> dict | None:
    """Effects of the components on each outcome: a row for each, with p corrected over the effects."""
    rows = []
    for name, cube in outcomes.items():
        make = partial(factorial_effects, cube, family=("effect",))
        found = refusals.attempt(f"Effects on: {name}", make)
        rows += [] if found is None else [[name, *cells] for cells in _effect_rows(found)]
    if not rows:
        return None
    caption = "Effects on the course of the answers; bands and p hold for all effects on an outcome together"
    if any(generated_of(cube) for cube in outcomes.values()):
        caption += "; a fraction was played, so each comes with its aliases"
    return {"caption": caption, "columns": ["outcome", "effect", "estimate", "p"], "rows": rows}


def _effect_rows(found: xr.Dataset) -> list[list[str]]:
    """Name, estimate with its band or interval, and p of each effect."""
    corrected = bool(found["p_adj"].notnull().any())
    low, high, p = ("band_low", "band_high", "p_adj") if corrected else ("ci_low", "ci_high", "p")
    draws = float(found.attrs.get("draws_used", 0)) if corrected else 0.0
    rows = []
    for effect in found["effect"].values:
        one = found.sel(effect=effect)
        ends = (float(one[name]) for name in ("estimate", low, high))
        rows.append([str(effect), with_bounds(*ends, signed=True), p_value(float(one[p]), draws=draws)])
    return rows
