"""The estimates of a run: projections, effects and claims, or the reason why there are none."""

import html
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import pandas as pd
import xarray as xr

from morality_lens.design import SITES
from morality_lens.experiments.calibration import answer_calibration
from morality_lens.interactions.caveats import too_many_failed
from morality_lens.interactions.claims import claim_ladder
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.interactions.refitted import REFUSED
from morality_lens.items.kinds import Question
from morality_lens.judges.outcomes import (
    OPTION_TEXT,
    behaviour_cube,
    behaviour_table,
    compare_scorings,
    reply_shares,
)
from morality_lens.judges.positions import position_bias
from morality_lens.probes.probe import Probe
from morality_lens.report.refusals import Refusals
from morality_lens.runs.option_notes import mass_lines, option_masses
from morality_lens.runs.run import Run


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """The estimates of a run, and what was refused.

    Attributes:
        projections: item x conditions x round x site x layer; None without a probe.
        effects: factorial effects of the projections at the sites where they can be estimated, or None.
            With a refitted probe they include its sampling error and exclude layers without a stable
            direction.
        behaviour: mean and interval of every condition and round.
        behaviour_effects: factorial effects on behaviour, or None.
        behaviour_odds: the same on the log-odds of cell means, for answers that are right or wrong.
        behaviour_content: the same for the content of the components, on - placebo, where all have a placebo.
        claims: for every two components, which claim about their interaction in the last round's behaviour
            holds.
        text_effects: factorial effects on the share of the good option's text, where the options were scored
            by their full text; else None.
        scorings: what the options' full texts choose beside their letters, where they were scored; else None.
        option_lines: sentences about the probability of the letters, where it is low (see ``mass_lines``),
            and about texts that were played under several ids.
        calibration: uncertainty and calibration of the answers by condition and round, where the options have
            probabilities; else None.
        positions: by how much each position is preferred, or None.
        replies: the share of each reply by condition and round, where no reply is the good one; else None.
        refused: what was not estimated and why, one sentence each.

    Examples:
        >>> analysis = ml.analyze(run, probe=probe, draws=200)
        >>> analysis.effects.sizes["effect"], len(analysis.behaviour)
        (7, 24)
    """

    projections: xr.DataArray | None = None
    effects: xr.Dataset | None = None
    behaviour: pd.DataFrame | None = None
    behaviour_effects: xr.Dataset | None = None
    behaviour_odds: xr.Dataset | None = None
    behaviour_content: xr.Dataset | None = None
    claims: tuple[xr.Dataset, ...] = ()
    text_effects: xr.Dataset | None = None
    scorings: pd.DataFrame | None = None
    option_lines: tuple[str, ...] = ()
    calibration: xr.Dataset | None = None
    positions: xr.Dataset | None = None
    replies: pd.DataFrame | None = None
    refused: tuple[str, ...] = ()

    def _held(self) -> list[tuple[str, str]]:
        """What was estimated, and how large it is."""
        held = [(one.name, getattr(self, one.name)) for one in fields(self) if one.name != "refused"]
        return [(name, _size(value)) for name, value in held if value is not None and len(value)]

    def __repr__(self) -> str:
        held = ", ".join(name for name, _ in self._held()) or "nothing estimated"
        return f"<Analysis: {held}; {len(self.refused)} not answered>"

    def _repr_html_(self) -> str:
        rows = "".join(f"<tr><th>{name}</th><td>{html.escape(size)}</td></tr>" for name, size in self._held())
        refused = "".join(f"<li>{html.escape(line)}</li>" for line in self.refused)
        said = f"<p>Not answered:</p><ul>{refused}</ul>" if refused else ""
        return f"<table><caption>Analysis</caption>{rows}</table>{said}"


def _size(value: xr.Dataset | xr.DataArray | pd.DataFrame | tuple) -> str:
    """How large an estimate is, by its dimensions, rows or number."""
    if isinstance(value, xr.Dataset | xr.DataArray):
        return " x ".join(f"{n} {dim}" for dim, n in value.sizes.items())
    return f"{len(value)} rows" if isinstance(value, pd.DataFrame) else str(len(value))


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """What is estimated from which run, and how the bands are resampled."""

    run: Run
    measure: str
    draws: int
    seed: int
    refusals: Refusals

    @property
    def names(self) -> list[str]:
        """The design's factors."""
        return [f.name for f in self.run.design.factors]


def analyze(
    run: Run, *, probe: Probe | None = None, measure: str | None = None, draws: int = 2000, seed: int = 0
) -> Analysis:
    """Effects of the components on behaviour and, with a probe, on its projections.

    An estimate that would be misleading is left out, and ``refused`` gives the reason; the others are kept.

    Args:
        run: a run.
        probe: fitted on the run's model.
        measure: of behaviour, one of ``run.measures``; None takes the first of them.
        draws: resamples of the simultaneous bands.
        seed: of the resampling.

    Examples:
        >>> analysis = ml.analyze(run, probe=probe, draws=200)
        >>> "halves of the probe's training data" in analysis.refused[0]
        True
    """
    refusals = Refusals()
    if not run.complete:
        refusals.add("The run is not finished: the estimates rest on the items played so far.")
    request = Request(
        run=run,
        measure=run.measures[0] if measure is None else measure,
        draws=draws,
        seed=seed,
        refusals=refusals,
    )
    found = _on_behaviour(request)
    if probe is not None:
        projections = probe.project(run)
        found = replace(found, projections=projections, effects=on_projections(request, projections))
    return replace(
        found,
        text_effects=_text_effects(request),
        scorings=compare_scorings(run) if _scored(run) else None,
        option_lines=(*mass_lines(run), *filter(None, [run.cluster_note])),
        calibration=_calibration(request),
        positions=_positions(request),
        replies=reply_shares(run),
        refused=refusals.lines,
    )


def _on_behaviour(request: Request) -> Analysis:
    """Means, effects and claims of one measure of behaviour."""
    outcome = request.refusals.attempt("Behaviour", lambda: behaviour_cube(request.run, request.measure))
    if outcome is None:
        return Analysis()
    failed = behaviour_cube(request.run, "unparsed")
    found = Analysis(behaviour=behaviour_table(outcome, unparsed=failed))
    reason = too_many_failed(outcome)
    if reason:
        request.refusals.add(f"Effects on behaviour: {reason}")
        return found
    effects = _behaviour_effects(request, outcome)
    return replace(
        found,
        behaviour_effects=effects,
        behaviour_content=_content_effects(request, outcome),
        behaviour_odds=None if effects is None else _odds_effects(request, outcome),
        claims=() if effects is None else _claims(request, outcome),
    )


def _behaviour_effects(request: Request, outcome: xr.DataArray) -> xr.Dataset | None:
    return request.refusals.attempt(
        "Effects on behaviour",
        lambda: factorial_effects(
            outcome, request.names, family=("round",), draws=request.draws, seed=request.seed
        ),
    )


def _text_effects(request: Request) -> xr.Dataset | None:
    """Effects on the share of the good option's full text, where the options were scored by it."""
    if OPTION_TEXT not in request.run.measures or request.measure == OPTION_TEXT:  # none is the right one
        return None
    return request.refusals.attempt(
        "Effects on the share of the right option's text",
        lambda: factorial_effects(
            behaviour_cube(request.run, OPTION_TEXT),
            request.names,
            family=("round",),
            draws=request.draws,
            seed=request.seed,
        ),
    )


def _scored(run: Run) -> bool:
    """Whether the options were scored by their full text."""
    return any(name.startswith(OPTION_TEXT) for name in run.measures)


def _calibration(request: Request) -> xr.Dataset | None:
    if option_masses(request.run) is None:
        return None
    return request.refusals.attempt(
        "Uncertainty and calibration of the answers", lambda: answer_calibration(request.run)
    )


def _positions(request: Request) -> xr.Dataset | None:
    if not all(isinstance(item, Question) for item in request.run.asked.values()):
        return None
    return request.refusals.attempt("Position bias", lambda: position_bias(request.run))


def _content_effects(request: Request, outcome: xr.DataArray) -> xr.Dataset | None:
    placebo = [f.name for f in request.run.design.factors if "placebo" in f.levels]
    if not placebo:
        return None
    return request.refusals.attempt(
        "Content of the components",
        lambda: factorial_effects(
            outcome,
            request.names,
            compare=dict.fromkeys(placebo, "content"),
            family=("round",),
            draws=request.draws,
            seed=request.seed,
        ),
    )


def _odds_effects(request: Request, outcome: xr.DataArray) -> xr.Dataset | None:
    if not request.run.measure(request.measure).binary:
        return None
    return request.refusals.attempt(
        "Effects on the log-odds", lambda: marginal_log_odds(outcome, request.names)
    )


def _claims(request: Request, outcome: xr.DataArray) -> tuple[xr.Dataset, ...]:
    """For every two components, the claims about their interaction in the last round.

    They are corrected over all rounds, as are the effects that the sentences beside them describe.
    """
    if not outcome.attrs.get("oriented") or request.run.design.n_rounds < 2:
        return ()
    found = [
        request.refusals.attempt(
            f"Claims about {one} and {two}",
            lambda one=one, two=two: claim_ladder(outcome, one, two, factors=request.names).isel(round=-1),
        )
        for one, two in itertools.combinations(request.names, 2)
    ]
    return tuple(ladder for ladder in found if ladder is not None)


def on_projections(request: Request, projections: xr.DataArray) -> xr.Dataset | None:
    """Factorial effects of the projections at every site where they can be estimated."""

    def effects_at(site: str) -> xr.Dataset:
        return factorial_effects(
            projections.sel(site=[site]), request.names, draws=request.draws, seed=request.seed
        )

    sites = [s for s in request.run.design.sites if s in SITES]
    found = [
        request.refusals.attempt(f"Effects on the projection at {site}", lambda site=site: effects_at(site))
        for site in sites
    ]
    kept = [effects for effects in found if effects is not None]
    return _judged_layers(_join_sites(kept), request.refusals) if kept else None


def _judged_layers(effects: xr.Dataset, refusals: Refusals) -> xr.Dataset:
    """The layers about which something is claimed; why nothing is about the others joins the refusals."""
    for note in effects.attrs["notes"]:
        if note.startswith(REFUSED):
            refusals.add(f"Effects on the projection: {note}")
    judged = effects["se"].notnull().any([dim for dim in effects["se"].dims if dim != "layer"])
    left_out = effects["layer"].values[~judged.values].tolist()
    return effects.isel(layer=judged.values).assign_attrs(refused_layers=left_out)


def _join_sites(found: Sequence[xr.Dataset]) -> xr.Dataset:
    """Effects of several sites as one result, with the notes of each."""
    joined = xr.concat(
        list(found),
        "site",
        combine_attrs="override",
        data_vars="minimal",
        coords="minimal",
        compat="override",
    )
    notes = dict.fromkeys(note for one in found for note in one.attrs["notes"])
    methods = dict.fromkeys(name for one in found for name in one.attrs["method"].split(" and "))
    return joined.assign_attrs(notes=list(notes), method=" and ".join(methods))
