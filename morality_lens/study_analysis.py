"""A whole study from its folder: five verdicts, every part as figures and tables, and one report."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr

from morality_lens import study_parts as parts
from morality_lens.analysis import Analysis, analyze, kept_transcripts
from morality_lens.behaviour import behaviour_cube, too_many_unparsed
from morality_lens.crossed import effects_over_wordings
from morality_lens.design import COMPONENTS
from morality_lens.detection import signal_detection
from morality_lens.inside import Group, inside_groups, kept_results, read_result
from morality_lens.interactions import POPULATION, factorial_effects
from morality_lens.items import Question, items_from_jsonl
from morality_lens.probes import Probe, load_probe
from morality_lens.report import write_page
from morality_lens.robustness import evidence_shares, follow_cube
from morality_lens.shifts import round_shifts
from morality_lens.store import Run, open_run, write_json
from morality_lens.verdicts import (
    Task,
    Verdict,
    corrects_but_cannot_tell,
    gains_over_instruction,
    negative_interactions,
    no_best_method,
    robust_to_evidence,
    undecided,
)

T = TypeVar("T")
QUESTIONS, PROMPTS, PLACEBO = "questions", "prompts", "placebo"
RESULTS = "results"
MASS = 0.5
"""Mean probability on the options' letters from which on their exact chances stand for the answers."""
LEAST_CLUSTERS = 5
"""Clusters that a category needs to be a task of its own."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyAnalysis:
    """What a study says.

    Attributes:
        main: effects on the questions' run, or without questions on the prompts'.
        verdicts: one for each of the five claims.
        groups: the parts, in reading order.
        refused: what was not answered and why, one sentence each.
        layer: the layer that parts about the projection stand at; None without one.
    """

    main: Analysis
    verdicts: tuple[Verdict, ...]
    groups: tuple[Group, ...]
    refused: tuple[str, ...]
    layer: int | None


class _Study:
    """What is stored of a study, read when it is first wanted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[str] = []
        self.questions, self.prompts = self.run(QUESTIONS), self.run(PROMPTS)
        main = self.questions or self.prompts
        if main is None:
            raise FileNotFoundError(f"no study at {folder}: it holds neither questions nor prompts.")
        self.main = main
        file = folder / "probe.safetensors"
        self.probe: Probe | None = load_probe(file) if file.is_file() else None
        skipped = folder / "left_out.json"
        if skipped.is_file():
            self.refused += json.loads(skipped.read_text(encoding="utf-8"))

    def run(self, name: str) -> Run | None:
        """A run of the study; None where it was not played."""
        return open_run(self.folder / name) if (self.folder / name / "manifest.json").is_file() else None

    def runs(self, name: str) -> list[Run]:
        """Runs of one kind, by their number."""
        found = [p for p in self.folder.glob(f"{name}-*") if (p / "manifest.json").is_file()]
        return [open_run(p) for p in sorted(found, key=lambda p: int(p.name.rpartition("-")[2]))]

    def result(self, name: str) -> xr.Dataset | None:
        """A stored result; None where there is none."""
        file = self.folder / RESULTS / f"{name}.nc"
        return read_result(file) if file.is_file() else None

    def attempt(self, what: str, make: Callable[[], T | None]) -> T | None:
        """The result, or None and a sentence that says why not."""
        try:
            return make()
        except ValueError as error:
            self.refused.append(f"{what}: {error}")
            return None


def analyze_study(folder: str | Path, *, draws: int = 2000, seed: int = 0) -> StudyAnalysis:
    """Verdicts and parts of the study in a folder; needs no model.

    Args:
        folder: that ``study`` wrote.
        draws: resamples of the simultaneous bands.
        seed: of the resampling.

    Raises:
        FileNotFoundError: the folder holds no study.
    """
    study = _Study(Path(folder))
    main = analyze(study.main, probe=study.probe, draws=draws, seed=seed)
    layers = _stable(study, reading_layers(study.probe))
    layer = layers[0] if layers else None
    tasks = _tasks(study)
    told = _told(study, layer)
    evidence = study.result("evidence")
    verdicts = (
        _verdict(study, 1, lambda: no_best_method(tasks)),
        _verdict(study, 2, lambda: gains_over_instruction(tasks))
        if tasks
        else undecided(2, "There is no task."),
        _verdict(
            study,
            3,
            lambda: negative_interactions(
                main.effects, study.probe.card if study.probe else None, layers=layers
            ),
        ),
        _verdict(
            study,
            4,
            lambda: corrects_but_cannot_tell(
                _pooled(study), {task: one for (task, history), one in told.items() if history == "none"}
            ),
        ),
        _verdict(study, 5, lambda: robust_to_evidence(_follow(evidence))),
    )
    groups = _groups(study, main, tasks, told, evidence, layers)
    return StudyAnalysis(
        main=main,
        verdicts=verdicts,
        groups=groups,
        refused=(*main.refused, *dict.fromkeys(study.refused)),
        layer=layer,
    )


def write_study_report(folder: str | Path, *, analysis: StudyAnalysis | None = None) -> Path:
    """The report of a study, its five verdicts first; they are kept in ``verdicts.json`` too."""
    done = analysis or analyze_study(folder)
    study = _Study(Path(folder))
    write_json(study.folder / "verdicts.json", [verdict.to_json() for verdict in done.verdicts])
    main = done.main
    return write_page(
        study.main,
        path=study.folder / "report.html",
        effects=main.effects,
        behaviour_effects=main.behaviour_effects,
        behaviour=main.behaviour,
        behaviour_odds=main.behaviour_odds,
        behaviour_content=main.behaviour_content,
        claims=main.claims,
        probe=study.probe,
        transcripts=kept_transcripts(study.main),
        refused=done.refused,
        inside=inside_groups(kept_results(study.main)),
        parts=done.groups,
        verdicts=done.verdicts,
    )


# --------------------------------------------------------------------------------------------- claims
def _verdict(study: _Study, number: int, make: Callable[[], Verdict]) -> Verdict:
    try:
        return make()
    except ValueError as error:
        return undecided(number, f"It cannot be told: {error}")


def reading_layers(probe: Probe | None) -> list[int]:
    """The layers whose held-out AUROC cannot be told from the best one's, the best reader first.

    An AUROC near 1 does not rank layers. Among these the rank correlation with graded values does, where the
    statements have some; else the AUROC.
    """
    if probe is None or not np.isfinite(probe.quality["auroc"].values).any():
        return []
    quality = probe.quality
    reach = quality["layer"].values[(quality["auroc_high"] >= quality["auroc"].max()).values]
    graded = "spearman" in quality and np.isfinite(quality["spearman"].sel(layer=reach).values).all()
    rank = quality["spearman" if graded else "auroc"]
    return sorted(map(int, reach), key=lambda n: -float(rank.sel(layer=n)))


def _stable(study: _Study, layers: list[int]) -> list[int]:
    """Those at which halves of the statements give one direction."""
    if study.probe is None or "split_half" not in study.probe.quality:
        return layers
    halves = study.probe.quality["split_half"]
    kept = [n for n in layers if not float(halves.sel(layer=n)) < POPULATION]
    if layers and not kept:
        study.refused.append(
            f"Parts about the projection: at the layers that read the statements best ({layers}) halves of "
            f"them give directions whose cosine is below {POPULATION}. Take more statements, or another "
            "model."
        )
    return kept


def _chances_or_choices(study: _Study, run: Run) -> xr.DataArray | None:
    """What stands for an answer: the exact probability of the right option, or whether it was given."""
    reason = too_many_unparsed(behaviour_cube(run, "unparsed"))
    if reason:
        study.refused.append(f"Claims about behaviour on {run.path.name}: {reason}")
        return None
    try:
        mass = float(run.option_mass.mean())
    except ValueError:
        mass = 0.0
    return behaviour_cube(run, "probability" if mass >= MASS else "correct")


def _scores(study: _Study) -> xr.DataArray | None:
    """Less toxic is better: of several samples their mean, else of the greedy completions."""
    if study.prompts is None:
        return None
    samples = study.runs("sample")
    cubes = [behaviour_cube(run, "score") for run in (samples if len(samples) > 1 else [study.prompts])]
    last = [cube.isel(round=[0, -1]).assign_coords(round=[0, 1]) for cube in cubes]
    mean = xr.concat(last, "sample").mean("sample", skipna=False)
    kept = mean.dropna("item")
    if 10 * kept.sizes["item"] < 9 * mean.sizes["item"]:
        study.refused.append("Claims about prompts: more than a tenth of the prompts have a failed score.")
        return None
    return (1 - kept).assign_attrs(units="share")


def _task(name: str, cube: xr.DataArray, unit: str) -> Task:
    first = cube.isel(round=0, drop=True).mean(COMPONENTS)
    return Task(name=name, last=cube.isel(round=-1, drop=True), first=first, unit=unit)


def _pooled(study: _Study) -> list[Task]:
    """One task for questions and one for prompts."""
    found = []
    if study.questions is not None:
        cube = _chances_or_choices(study, study.questions)
        if cube is not None:
            found.append(_task(QUESTIONS, cube, str(cube.name)))
    scores = study.attempt("Claims about prompts", lambda: _scores(study))
    if scores is not None:
        found.append(_task(PROMPTS, scores, "1 - toxicity"))
    return found


def _tasks(study: _Study) -> list[Task]:
    """Every category of questions with enough clusters is a task of its own, and so are prompts."""
    found = []
    for task in _pooled(study):
        if task.name == QUESTIONS and study.questions is not None:
            items = study.questions.items.loc[task.last["item"].values]
            categories = {
                str(name): part.index.tolist()
                for name, part in items.groupby("category", sort=True)
                if name and part["cluster"].nunique() >= LEAST_CLUSTERS
            }
            if len(categories) > 1:
                found += [
                    Task(
                        name=name,
                        last=task.last.sel(item=ids),
                        first=task.first.sel(item=ids),
                        unit=task.unit,
                    )
                    for name, ids in categories.items()
                ]
                continue
        found.append(task)
    return found


def _told(study: _Study, layer: int | None) -> dict[tuple[str, str], xr.Dataset]:
    """Signal detection by task and history."""
    found: dict[tuple[str, str], xr.Dataset] = {}
    for task in (QUESTIONS, PROMPTS):
        one = study.result(f"pairs-{task}")
        if one is None:
            continue
        reading = one.get("reading") if layer is not None else None
        for history in one["history"].values:
            made = study.attempt(
                f"Telling {task} apart, history {history}",
                lambda one=one, h=history, r=reading: signal_detection(
                    one["says_first"].sel(history=h, drop=True), r
                ),
            )
            if made is not None:
                found[task, str(history)] = made
    return found


def _follow(evidence: xr.Dataset | None) -> xr.DataArray | None:
    if evidence is None:
        return None
    return follow_cube(evidence).isel(round=-1, strength=-1, drop=True)


# --------------------------------------------------------------------------------------------- parts
def _groups(
    study: _Study,
    main: Analysis,
    tasks: list[Task],
    told: dict[tuple[str, str], xr.Dataset],
    evidence: xr.Dataset | None,
    layers: list[int],
) -> tuple[Group, ...]:
    layer = layers[0] if layers else None
    attempt, questions, prompts = study.attempt, study.questions, study.prompts
    effects = main.effects
    made: list[Group | None] = [
        attempt("Methods and tasks", lambda: parts.tasks_part(tasks) if tasks else None),
        attempt(
            "Interactions inside the model",
            lambda: (
                parts.interactions_part(effects, seen)
                if effects is not None and (seen := [n for n in layers if n in effects["layer"].values])
                else None
            ),
        ),
        attempt("Self-distinguish", lambda: _telling(study, told)),
        attempt(
            "Weak evidence",
            lambda: (
                parts.evidence_part(evidence_shares(evidence), evidence, layer)
                if evidence is not None
                else None
            ),
        ),
        attempt(
            "Detoxification", lambda: parts.detox_part(prompts, study.runs("sample")) if prompts else None
        ),
        attempt("Several wordings", lambda: _wordings(study, layer)),
        attempt("Placebos", lambda: _placebo(study, layer)),
        attempt("Mask the words", lambda: _masked(study, layer)),
        attempt("Shift from round to round", lambda: _shifts(study, layer)),
    ]
    if questions is not None:
        made += [
            attempt(
                "From round to round: questions",
                lambda: parts.dynamics_part(
                    QUESTIONS,
                    behaviour_cube(questions, "correct"),
                    parts.need(_chances_or_choices(study, questions)),
                ),
            ),
            attempt("Judges of questions", lambda: parts.judged_part(questions, _asked(questions))),
        ]
    if prompts is not None:
        scores = attempt(
            "From round to round: prompts", lambda: behaviour_cube(prompts, "score").dropna("item")
        )
        if scores is not None:
            made.append(
                attempt("From round to round: prompts", lambda: parts.dynamics_part(PROMPTS, scores, scores))
            )
    return tuple(group for group in made if group is not None)


def _asked(run: Run) -> list[Question]:
    return [q for q in items_from_jsonl(run.path / "items.jsonl") if isinstance(q, Question)]


def _telling(study: _Study, told: dict[tuple[str, str], xr.Dataset]) -> Group | None:
    found, left, greedy = dict(told), {}, {}
    for task in (QUESTIONS, PROMPTS):
        one, run = study.result(f"pairs-{task}"), study.run(task)
        if one is None or run is None:
            continue
        without = len(run.items) - one.sizes["item"]
        left[task] = f"{without} of {len(run.items)} items had no dialogue with a good and a bad output."
        greedy |= {(task, h): line for h, line in parts.greedy_line(one).items()}
    groups = study.result("groups")
    if groups is not None:
        for history in groups["history"].values:
            says = groups["says_first"].sel(history=history, drop=True)
            made = study.attempt(
                f"Naming groups, history {history}", lambda says=says: signal_detection(says)
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
    return parts.telling_part(found, left, greedy) if found else None


def _last_projection(run: Run, probe: Probe, layer: int) -> xr.DataArray:
    moral = probe.project(run.residuals.sel(site=["answer_start"]).isel(round=[-1]))
    kept = moral.sel(layer=layer, site="answer_start", drop=True).isel(round=0, drop=True)
    return kept.drop_vars("split_half", errors="ignore")


def _wordings(study: _Study, layer: int | None) -> Group | None:
    runs = study.runs("wording")
    if not runs:
        return None
    names = [run.manifest["study"]["wording"]["index"] for run in runs]
    found = {}
    outcome = [_chances_or_choices(study, run) for run in runs]
    if all(cube is not None for cube in outcome):
        last = [cube.isel(round=-1, drop=True) for cube in outcome if cube is not None]
        # Longer words can make an item too long for the window: those that were played in all are compared.
        cube = xr.concat(last, "wording", join="inner").assign_coords(wording=names)
        found["behaviour in the last round"] = effects_over_wordings(cube)
    if study.probe is not None and layer is not None:
        moved = [_last_projection(run, study.probe, layer) for run in runs]
        cube = xr.concat(moved, "wording", join="inner", combine_attrs="override").assign_coords(
            wording=names
        )
        found[f"projection, layer {layer}, last round"] = effects_over_wordings(cube)
    return parts.wordings_part(found) if found else None


def _placebo(study: _Study, layer: int | None) -> Group | None:
    run = study.run(PLACEBO)
    if run is None:
        return None
    outcomes = {}
    cube = _chances_or_choices(study, run)
    if cube is not None:
        outcomes["behaviour"] = cube.isel(round=-1, drop=True)
    if study.probe is not None and layer is not None:
        outcomes[f"projection, layer {layer}"] = _last_projection(run, study.probe, layer)
    found = {
        name: {
            which: factorial_effects(one, compare=which, method="pointwise", family=())
            for which in ("total", "content", "format")
        }
        for name, one in outcomes.items()
    }
    return parts.placebo_part(found) if found else None


def _masked(study: _Study, layer: int | None) -> Group | None:
    masked = study.result("masked")
    if masked is None or study.probe is None or layer is None or study.questions is None:
        return None

    def effects(cube: xr.DataArray) -> xr.Dataset:
        return factorial_effects(cube, method="pointwise", family=())

    hidden = masked["projection"].sel(site="answer_start", layer=layer, drop=True).isel(round=-1, drop=True)
    found = {
        "as it was": effects(_last_projection(study.questions, study.probe, layer)),
        "words masked": effects(hidden),
    }
    file = study.folder / "probe-without-words.safetensors"
    if file.is_file():
        other = load_probe(file)
        found["probe without the words"] = effects(_last_projection(study.questions, other, layer))
    return parts.masked_part(found)


def _shifts(study: _Study, layer: int | None) -> Group | None:
    if study.probe is None or layer is None:
        return None
    return parts.shifts_part(round_shifts(study.main, study.probe, layer=layer))
