"""From a run to its report: projections, effects and tables, each refused in words where it must be."""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from morality_lens.design import SITES
from morality_lens.interactions.caveats import POPULATION
from morality_lens.interactions.claims import claim_ladder
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.odds import marginal_log_odds
from morality_lens.items.files import write_json
from morality_lens.judges.outcomes import behaviour_cube, behaviour_table, reply_shares, too_many_unparsed
from morality_lens.probes.probe import Probe
from morality_lens.probes.refits import project_means, run_cell_means
from morality_lens.report.page import write_page
from morality_lens.report.sections import inside_groups
from morality_lens.runs.results import kept_results
from morality_lens.runs.run import Run
from morality_lens.runs.token_view import TokenView, token_view


@dataclass(frozen=True, kw_only=True, eq=False)
class Analysis:
    """What a run says, and what it cannot say.

    Attributes:
        projections: item x conditions x round x site x layer; None without a probe.
        effects: factorial effects of the projections at the sites where they can be had; None without. With
            a probe that was refitted they hold its own error and leave out layers without a stable direction.
        behaviour: mean and interval of every condition and round.
        behaviour_effects: factorial effects of the behaviour, or None.
        behaviour_odds: the same on the log-odds of cell means, for answers that are right or wrong.
        behaviour_content: the same of what the components say, on - placebo, where all have a placebo.
        claims: for every two components, what their interaction in the last round's behaviour may be called.
        replies: the share of each reply by condition and round, where no reply is the good one; else None.
        refused: what was not answered and why, one sentence each.
    """

    projections: xr.DataArray | None
    effects: xr.Dataset | None
    behaviour: pd.DataFrame | None
    behaviour_effects: xr.Dataset | None
    behaviour_odds: xr.Dataset | None = None
    behaviour_content: xr.Dataset | None = None
    claims: tuple[xr.Dataset, ...] = ()
    replies: pd.DataFrame | None = None
    refused: tuple[str, ...] = field(default=())


def analyze(
    run: Run, *, probe: Probe | None = None, measure: str | None = None, draws: int = 2000, seed: int = 0
) -> Analysis:
    """Effects of the three components on behaviour and, with a probe, on its projections.

    A part that cannot be answered honestly is left out, and ``refused`` says why; the others are not lost.

    Args:
        run: a run.
        probe: fitted on the run's model.
        measure: of behaviour, one of ``run.measures``; None takes the first of them.
        draws: resamples of the simultaneous bands.
        seed: of the resampling.
    """
    refused: list[str] = []

    def attempt(what: str, make: Callable[[], Any]) -> Any:
        try:
            return make()
        except ValueError as error:
            refused.append(f"{what}: {error}")
            return None

    design = run.design
    if not run.complete:
        refused.append("The run is not finished: what follows rests on the items played so far.")
    names = [f.name for f in design.factors]
    placebo = [f.name for f in design.factors if "placebo" in f.levels]
    content = dict.fromkeys(placebo, "content")

    wanted = run.measures[0] if measure is None else measure
    outcome = attempt("Behaviour", lambda: behaviour_cube(run, wanted))
    behaviour = behaviour_effects = odds = by_content = None
    claims: list[xr.Dataset] = []
    if outcome is not None:
        failed = behaviour_cube(run, "unparsed")
        behaviour = behaviour_table(outcome, unparsed=failed)
        reason = too_many_unparsed(failed)
        if reason:
            refused.append(f"Effects on behaviour: {reason}")
        else:
            behaviour_effects = attempt(
                "Effects on behaviour",
                lambda: factorial_effects(outcome, names, family=("round",), draws=draws, seed=seed),
            )
            if placebo:
                by_content = attempt(
                    "Content of the components",
                    lambda: factorial_effects(
                        outcome, names, compare=content, family=("round",), draws=draws, seed=seed
                    ),
                )
            if behaviour_effects is not None and run.measure(wanted).binary:
                odds = attempt("Effects on the log-odds", lambda: marginal_log_odds(outcome, names))
            if behaviour_effects is not None and outcome.attrs.get("oriented") and design.n_rounds > 1:
                last = outcome.isel(round=-1)
                for one, two in itertools.combinations(names, 2):
                    ladder = attempt(
                        f"Claims about {one} and {two}",
                        lambda one=one, two=two: claim_ladder(last, one, two, factors=names),
                    )
                    claims += [ladder] if ladder is not None else []
    projections = effects = None
    if probe is not None:
        projections = probe.project(run)
        usable, refits = projections, None
        if probe.refits is not None:
            usable, said = _stable_layers(projections)
            refused += said
            layers = usable["layer"].values.tolist()
            if layers:
                refits = project_means(probe.refits.sel(layer=layers), run_cell_means(run, layers=layers))
        found = []
        for site in (s for s in design.sites if s in SITES and usable.sizes["layer"]):
            one = usable.sel(site=[site])
            result = attempt(
                f"Effects on the projection at {site}",
                lambda one=one: factorial_effects(one, names, refits=refits, draws=draws, seed=seed),
            )
            found += [result] if result is not None else []
        if found:
            effects = _join_sites(found)
    return Analysis(
        projections=projections,
        effects=effects,
        behaviour=behaviour,
        behaviour_effects=behaviour_effects,
        behaviour_odds=odds,
        behaviour_content=by_content,
        claims=tuple(claims),
        replies=reply_shares(run),
        refused=tuple(refused),
    )


def _stable_layers(projections: xr.DataArray) -> tuple[xr.DataArray, list[str]]:
    """The layers with a morality direction to speak of, and why the others are left out."""
    halves = projections["split_half"]
    weak = np.isfinite(halves.values) & (halves.values < POPULATION)
    if not weak.any():
        return projections, []
    listed = ", ".join(
        f"{layer} ({cosine:.2f})"
        for layer, cosine in zip(halves["layer"].values[weak], halves.values[weak], strict=True)
    )
    return projections.isel(layer=~weak), [
        f"Effects on the projection at the layers {listed}: halves of the probe's statements give directions "
        f"whose cosine (in brackets) is below {POPULATION}, so there is no morality direction to claim "
        "anything about. factorial_effects(probe.project(run)) tells how this one direction moves there."
    ]


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
    methods = dict.fromkeys(one.attrs["method"] for one in found)
    return joined.assign_attrs(notes=list(notes), method=" and ".join(methods))


def write_report(
    run: Run,
    *,
    path: str | Path,
    probe: Probe | None = None,
    analysis: Analysis | None = None,
    transcripts: Sequence[TokenView] | None = None,
) -> Path:
    """One self-contained HTML file about a run, with what was kept of looks inside the model.

    Args:
        run: a run.
        path: the file to write.
        probe: fitted on the run's model; without one the report is about behaviour only.
        analysis: from :func:`analyze`; None makes it.
        transcripts: dialogues to browse; None takes those kept with the run by :func:`keep_transcripts`, or
            else the first item's, uncoloured.
    """
    done = analysis or analyze(run, probe=probe)
    views = kept_transcripts(run) if transcripts is None else tuple(transcripts)
    return write_page(
        run,
        path=path,
        effects=done.effects,
        behaviour_effects=done.behaviour_effects,
        behaviour=done.behaviour,
        behaviour_odds=done.behaviour_odds,
        behaviour_content=done.behaviour_content,
        claims=done.claims,
        replies=done.replies,
        probe=probe,
        transcripts=views,
        refused=done.refused,
        inside=inside_groups(kept_results(run)),
    )


def keep_transcripts(run: Run, views: Sequence[TokenView]) -> Path:
    """Keep coloured transcripts in the run's folder, so that a report needs no model."""
    target = run.path / "coloured.json"
    rows = []
    for view in views:
        row = asdict(view)
        row["values"] = None if view.values is None else np.round(view.values, 4).tolist()
        rows.append(row)
    return write_json(target, rows, indent=None)


def kept_transcripts(run: Run) -> tuple[TokenView, ...]:
    """The transcripts kept with a run, or its first item's without colours."""
    file = run.path / "coloured.json"
    if not file.is_file():
        first = run.transcripts[run.transcripts["item"] == run.transcripts["item"].iloc[0]]
        return tuple(token_view(row) for _, row in first.iterrows())
    rows = json.loads(file.read_text(encoding="utf-8"))
    return tuple(
        TokenView(**{**row, "values": None if row["values"] is None else np.array(row["values"])})
        for row in rows
    )
