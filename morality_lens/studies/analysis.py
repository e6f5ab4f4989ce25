"""A whole study from its folder: five verdicts, every part as figures and tables, and one report."""

import html
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import xarray as xr

from morality_lens.experiments.detection import signal_detection
from morality_lens.experiments.robustness import evidence_shares, moved_cube
from morality_lens.experiments.shifts import round_shifts
from morality_lens.interactions.carried import without_refits
from morality_lens.interactions.effects import factorial_effects
from morality_lens.interactions.wordings import effects_over_wordings
from morality_lens.items.files import write_json
from morality_lens.items.kinds import Question, items_from_jsonl
from morality_lens.judges.outcomes import behaviour_cube
from morality_lens.probes.layers import reading_layers
from morality_lens.probes.probe import Probe, load_probe
from morality_lens.report.analysis import Analysis, analyze
from morality_lens.report.page import Page, write_page
from morality_lens.report.sections import Section, inside_groups
from morality_lens.report.writing import kept_transcripts
from morality_lens.runs.results import kept_results
from morality_lens.runs.run import Run
from morality_lens.studies import sections
from morality_lens.studies.folder import MAIN, PLACEBO, PROMPTS, QUESTIONS, StudyFolder
from morality_lens.studies.rules import Verdict, undecided
from morality_lens.studies.tasks import (
    all_tasks,
    pooled_tasks,
    probabilities_or_choices,
    sound_layers,
    stable_layers,
)
from morality_lens.studies.verdicts import (
    Task,
    corrects_but_cannot_tell,
    gains_over_instruction,
    negative_interactions,
    no_best_method,
    robust_to_evidence,
)


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyAnalysis:
    """The estimates and verdicts of a study.

    Attributes:
        main: effects on the questions' run, or without questions on the prompts'.
        verdicts: one for each of the five claims.
        groups: the sections of the report, in reading order.
        refused: what was not estimated and why, one sentence each.
        layer: the layer used by the parts about the projection; None without one.
    """

    main: Analysis
    verdicts: tuple[Verdict, ...]
    groups: tuple[Section, ...]
    refused: tuple[str, ...]
    layer: int | None

    def __repr__(self) -> str:
        verdicts = ", ".join(f"{one.number} {one.verdict}" for one in self.verdicts)
        return (
            f"<StudyAnalysis: claims {verdicts}; {len(self.groups)} parts, {len(self.refused)} not answered>"
        )

    def _repr_html_(self) -> str:
        cells = ((f"{one.number}. {one.claim}", one.verdict, one.shown, one.why) for one in self.verdicts)
        head = "".join(f"<th>{name}</th>" for name in ("claim", "verdict", "estimate", "why"))
        body = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in cells
        )
        return f"<table><tr>{head}</tr>{body}</table>"


def analyze_study(folder: str | Path, *, draws: int = 2000, seed: int = 0) -> StudyAnalysis:
    """Verdicts and parts of the study in a folder; needs no model.

    Args:
        folder: that ``study`` wrote.
        draws: resamples of the simultaneous bands.
        seed: of the resampling.

    Raises:
        FileNotFoundError: the folder holds no study.

    Examples:
        >>> found = ml.studies.analyze_study(folder / "study", draws=200)
        >>> [verdict.number for verdict in found.verdicts]
        [1, 2, 3, 4, 5]
    """
    study = StudyFolder(Path(folder))
    main = analyze(study.main, probe=study.probe, draws=draws, seed=seed)
    layers = stable_layers(study, reading_layers(study.probe))
    layer = layers[0] if layers else None
    tasks = all_tasks(study)
    detection = _detection(study, layer)
    evidence = study.result("evidence")
    verdicts = (
        _verdict(1, lambda: no_best_method(tasks)),
        _verdict(2, lambda: gains_over_instruction(tasks)) if tasks else undecided(2, "There is no task."),
        _verdict(
            3,
            lambda: negative_interactions(
                main.effects, study.probe.card if study.probe else None, layers=layers
            ),
        ),
        _verdict(
            4,
            lambda: corrects_but_cannot_tell(
                pooled_tasks(study),
                {task: one for (task, history), one in detection.items() if history == "none"},
            ),
        ),
        _verdict(5, lambda: robust_to_evidence(_moved(evidence))),
    )
    groups = _groups(study, main, tasks, detection, evidence, layers)
    return StudyAnalysis(
        main=main,
        verdicts=verdicts,
        groups=groups,
        refused=(*main.refused, *dict.fromkeys(study.refused)),
        layer=layer,
    )


def write_study_report(folder: str | Path, *, analysis: StudyAnalysis | None = None) -> Path:
    """The report of a study, its five verdicts first; they are kept in ``verdicts.json`` too.

    Examples:
        >>> found = ml.studies.analyze_study(folder / "study", draws=200)
        >>> report = ml.studies.write_study_report(folder / "study", analysis=found)
        >>> "</html>" in report.read_text(encoding="utf-8")
        True
    """
    done = analysis or analyze_study(folder)
    study = StudyFolder(Path(folder))
    write_json(study.folder / "verdicts.json", [verdict.to_json() for verdict in done.verdicts])
    page = Page(
        run=study.main,
        analysis=replace(done.main, refused=done.refused),
        probe=study.probe,
        transcripts=kept_transcripts(study.main),
        inside=inside_groups(kept_results(study.main)),
        parts=done.groups,
        verdicts=[sections.verdict_entry(verdict, done.groups) for verdict in done.verdicts],
    )
    return write_page(page, path=study.folder / "report.html")


# --------------------------------------------------------------------------------------------- claims
def _verdict(number: int, make: Callable[[], Verdict]) -> Verdict:
    try:
        return make()
    except ValueError as error:
        return undecided(number, f"It cannot be judged: {error}")


def _detection(study: StudyFolder, layer: int | None) -> dict[tuple[str, str], xr.Dataset]:
    """Signal detection by task and history."""
    found: dict[tuple[str, str], xr.Dataset] = {}
    for task in (QUESTIONS, PROMPTS):
        one = study.result(f"pairs-{task}")
        if one is None:
            continue
        reading = one.get("reading") if layer is not None else None
        for history in one["history"].values:
            made = study.attempt(
                f"Self-distinguish on {task}, history {history}",
                lambda one=one, h=history, r=reading: signal_detection(
                    one["says_first"].sel(history=h, drop=True), r, said=one["said"].sel(history=h, drop=True)
                ),
            )
            if made is not None:
                found[task, str(history)] = made
    return found


def _moved(evidence: xr.Dataset | None) -> xr.DataArray | None:
    if evidence is None:
        return None
    return moved_cube(evidence).isel(round=-1, strength=-1, drop=True)


# --------------------------------------------------------------------------------------------- parts
def _groups(
    study: StudyFolder,
    main: Analysis,
    tasks: list[Task],
    detection: dict[tuple[str, str], xr.Dataset],
    evidence: xr.Dataset | None,
    layers: list[int],
) -> tuple[Section, ...]:
    layer = layers[0] if layers else None
    attempt, prompts, effects = study.attempt, study.prompts, main.effects
    made: list[Section | None] = [
        attempt("Methods and tasks", lambda: sections.tasks_part(tasks) if tasks else None),
        attempt(
            "Interactions inside the model",
            lambda: (
                sections.interactions_part(effects, seen)
                if effects is not None and (seen := [n for n in layers if n in effects["layer"].values])
                else None
            ),
        ),
        attempt("Several directions", lambda: _directions(study, main, layer)),
        attempt("Self-distinguish", lambda: _self_distinguish(study, detection)),
        attempt(
            "Weak evidence",
            lambda: (
                sections.evidence_part(evidence_shares(evidence), evidence, layer)
                if evidence is not None
                else None
            ),
        ),
        attempt(
            "Detoxification", lambda: sections.detox_part(prompts, study.runs("sample")) if prompts else None
        ),
        attempt("Several wordings", lambda: _wordings(study, layer)),
        attempt("Placebos", lambda: _placebo(study, layer)),
        attempt("Mask the words", lambda: _masked(study, layer)),
        attempt("Shift from round to round", lambda: _shifts(study, layer)),
    ]
    made += [*_question_parts(study), *_prompt_parts(study)]
    return tuple(group for group in made if group is not None)


def _question_parts(study: StudyFolder) -> list[Section | None]:
    """Round dynamics and bias scores of the questions."""
    questions = study.questions
    if questions is None:
        return []
    items = [q for q in items_from_jsonl(questions.path / "items.jsonl") if isinstance(q, Question)]
    return [
        study.attempt(
            "From round to round: questions",
            lambda: sections.dynamics_part(
                QUESTIONS,
                behaviour_cube(questions, "correct"),
                sections.need(probabilities_or_choices(study, questions)),
            ),
        ),
        study.attempt("Judges of questions", lambda: sections.judged_part(questions, items)),
    ]


def _prompt_parts(study: StudyFolder) -> list[Section | None]:
    """Round dynamics of the prompts' scores."""
    prompts, what = study.prompts, "From round to round: prompts"
    if prompts is None:
        return []
    scores = study.attempt(what, lambda: behaviour_cube(prompts, "score").dropna("item"))
    if scores is None:
        return []
    return [study.attempt(what, lambda: sections.dynamics_part(PROMPTS, scores, scores))]


def _directions(study: StudyFolder, main: Analysis, layer: int | None) -> Section | None:
    """The effects on every direction of the study, each at its own best layer, and how far they are one."""
    if study.probe is None or not study.directions:
        return None
    probes = {MAIN: study.probe, **study.directions}
    found = {}
    for name, probe in study.directions.items():
        here = study.attempt(f"The direction {name}", lambda p=probe: _effects_at_best(study.main, p))
        if here is not None:
            found[name] = here
    if main.effects is not None and layer in main.effects["layer"].values:
        found = {MAIN: main.effects.sel(site="answer_start", layer=layer).isel(round=-1), **found}
    return sections.directions_part(probes, found)


def _effects_at_best(run: Run, probe: Probe) -> xr.Dataset:
    """Effects in the last round at the layer that reads the direction's own statements best, of stable ones.

    Raises:
        ValueError: there is no such layer, or nothing can be said of it, for the reason in the notes.
    """
    layers, why = sound_layers(probe, reading_layers(probe))
    if not layers:
        raise ValueError(f"{why}. Use more statements.")
    layer = layers[0]
    here = probe.at_layers([layer]).project(run.residuals.sel(site=["answer_start"], layer=[layer]))
    effects = factorial_effects(here, [factor.name for factor in run.design.factors])
    one = effects.sel(site="answer_start", layer=layer).isel(round=-1)
    if not bool(one["se"].notnull().any()):
        raise ValueError(" ".join(effects.attrs["notes"]))
    return one


def _self_distinguish(study: StudyFolder, detection: dict[tuple[str, str], xr.Dataset]) -> Section | None:
    found, left, greedy = dict(detection), {}, {}
    for task in (QUESTIONS, PROMPTS):
        one, run = study.result(f"pairs-{task}"), study.run(task)
        if one is None or run is None:
            continue
        without = len(run.items) - one.sizes["item"]
        left[task] = f"{without} of {len(run.items)} items had no dialogue with a good and a bad output."
        greedy |= {(task, h): line for h, line in sections.greedy_line(one).items()}
    groups = study.result("groups")
    if groups is not None:
        for history in groups["history"].values:
            says, said = (groups[name].sel(history=history, drop=True) for name in ("says_first", "said"))
            made = study.attempt(
                f"Naming groups, history {history}",
                lambda says=says, said=said: signal_detection(says, said=said),
            )
            if made is not None:
                found["naming the stereotyped group", str(history)] = made
        left["naming the stereotyped group"] = (
            "the unknown option takes "
            + ", ".join(
                f"{float(groups['unknown'].sel(history=h).mean()):.0%} (history {h})"
                for h in groups["history"].values
            )
            + " of the probability; accuracy is between the two groups."
        )
    return sections.distinguish_part(found, left, greedy) if found else None


def _last_projection(run: Run, probe: Probe, layer: int) -> xr.DataArray:
    moral = probe.project(run.residuals.sel(site=["answer_start"]).isel(round=[-1]))
    return moral.sel(layer=layer, site="answer_start", drop=True).isel(round=0, drop=True)


def _on_this_direction(projection: xr.DataArray) -> xr.DataArray:
    """The projection without its refits, where it is compared with others on the same direction."""
    return projection.drop_vars("split_half", errors="ignore").assign_attrs(without_refits(projection.attrs))


def _wordings(study: StudyFolder, layer: int | None) -> Section | None:
    runs = study.runs("wording")
    if not runs:
        return None
    names = [run.manifest["study"]["wording"]["index"] for run in runs]
    found = {}
    outcome = [probabilities_or_choices(study, run) for run in runs]
    if all(cube is not None for cube in outcome):
        last = [cube.isel(round=-1, drop=True) for cube in outcome if cube is not None]
        # A longer wording can exceed the context window: items that were played in all wordings are compared.
        cube = xr.concat(last, "wording", join="inner").assign_coords(wording=names)
        found["behaviour in the last round"] = effects_over_wordings(cube)
    if study.probe is not None and layer is not None:
        moved = [_on_this_direction(_last_projection(run, study.probe, layer)) for run in runs]
        cube = xr.concat(moved, "wording", join="inner", combine_attrs="override").assign_coords(
            wording=names
        )
        found[f"projection, layer {layer}, last round"] = effects_over_wordings(cube)
    return sections.wordings_part(found) if found else None


def _placebo(study: StudyFolder, layer: int | None) -> Section | None:
    run = study.run(PLACEBO)
    if run is None:
        return None
    with_placebo = [name for name, levels in run.design.levels.items() if "placebo" in levels]
    outcomes = {}
    cube = probabilities_or_choices(study, run)
    if cube is not None:
        outcomes["behaviour"] = cube.isel(round=-1, drop=True)
    if study.probe is not None and layer is not None:
        outcomes[f"projection, layer {layer}"] = _last_projection(run, study.probe, layer)
    found = {
        name: {
            which: factorial_effects(
                one, compare=dict.fromkeys(with_placebo, which), method="pointwise", family=()
            )
            for which in ("total", "content", "format")
        }
        for name, one in outcomes.items()
    }
    return sections.placebo_part(found) if found else None


def _masked(study: StudyFolder, layer: int | None) -> Section | None:
    masked = study.result("masked")
    if masked is None or study.probe is None or layer is None or study.questions is None:
        return None

    def effects(cube: xr.DataArray) -> xr.Dataset:
        return factorial_effects(cube, method="pointwise", family=())

    hidden = masked["projection"].sel(site="answer_start", layer=layer, drop=True).isel(round=-1, drop=True)
    found = {
        "original": effects(_on_this_direction(_last_projection(study.questions, study.probe, layer))),
        "words masked": effects(hidden),
    }
    file = study.folder / "probe-without-words.safetensors"
    if file.is_file():
        other = load_probe(file)
        found["probe without the words"] = effects(_last_projection(study.questions, other, layer))
    return sections.masked_part(found)


def _shifts(study: StudyFolder, layer: int | None) -> Section | None:
    if study.probe is None or layer is None:
        return None
    return sections.shifts_part(round_shifts(study.main, study.probe, layer=layer))
