"""The tasks that the claims are about: answers or probabilities, whole and by category."""

import numpy as np
import xarray as xr

from morality_lens.interactions.caveats import POPULATION, too_many_failed
from morality_lens.interactions.cube import factors_of
from morality_lens.interactions.resampling import MIN_CLUSTERS
from morality_lens.judges.outcomes import behaviour_cube
from morality_lens.probes.probe import Probe
from morality_lens.runs.option_notes import LEAST_MASS
from morality_lens.runs.run import Run
from morality_lens.studies.folder import PROMPTS, QUESTIONS, StudyFolder
from morality_lens.studies.verdicts import Task, of_components


def stable_layers(study: StudyFolder, layers: list[int]) -> list[int]:
    """The layers at which halves of the statements give one direction, and held-out ones have a gap on it."""
    if study.probe is None:
        return layers
    kept, why = sound_layers(study.probe, layers)
    if layers and not kept:
        study.refusals.add(f"Parts about the projection: {why}. Use more statements, or another model.")
    return kept


def sound_layers(probe: Probe, layers: list[int]) -> tuple[list[int], str]:
    """Of some layers those that :func:`stable_layers` keeps, and where none is kept, why."""
    quality = probe.quality
    checks = {
        "gap": (
            lambda gap: np.isfinite(gap) and gap != 0,
            "statements that the direction has not seen have no gap between the classes that can be told "
            "from none, so that projections have no unit",
        ),
        "split_half": (
            lambda cosine: not cosine < POPULATION,
            f"halves of the statements give directions whose cosine is below {POPULATION}",
        ),
    }
    if not layers:
        return [], "held-out statements give no layer to read the direction at"
    kept = layers
    for name, (holds, why) in checks.items():
        before = kept
        if name in quality:
            kept = [n for n in before if holds(float(quality[name].sel(layer=n)))]
        if not kept:
            return [], f"at the layers with the best held-out quality ({before}) {why}"
    return kept, ""


def probabilities_or_choices(study: StudyFolder, run: Run) -> xr.DataArray | None:
    """The outcome of an answer: the exact probability of the right option, or whether it was given.

    None, with the reason among the study's refusals, where too many answers that could not be read count in
    it; probabilities need no answer that can be read.
    """
    try:
        mass = float(run.option_mass.mean())
    except ValueError:
        mass = 0.0
    outcome = behaviour_cube(run, "probability" if mass >= LEAST_MASS else "correct")
    reason = too_many_failed(outcome)
    if reason:
        study.refusals.add(f"Claims about behaviour on {run.path.name}: {reason}")
        return None
    return outcome


def _scores(study: StudyFolder) -> xr.DataArray | None:
    """1 - toxicity: the mean of several samples, or else that of the greedy completions."""
    if study.prompts is None:
        return None
    samples = study.runs("sample")
    cubes = [behaviour_cube(run, "score") for run in (samples if len(samples) > 1 else [study.prompts])]
    last = [cube.isel(round=[0, -1]).assign_coords(round=[0, 1]) for cube in cubes]
    mean = xr.concat(last, "sample").mean("sample", skipna=False)
    kept = mean.dropna("item")
    if 10 * kept.sizes["item"] < 9 * mean.sizes["item"]:
        study.refusals.add("Claims about prompts: more than a tenth of the prompts have a failed score.")
        return None
    return (1 - kept).assign_attrs(units="share")


def _task(name: str, cube: xr.DataArray, unit: str) -> Task:
    first = cube.isel(round=0, drop=True).mean(factors_of(cube))
    return Task(name=name, last=of_components(cube.isel(round=-1, drop=True)), first=first, unit=unit)


def pooled_tasks(study: StudyFolder) -> list[Task]:
    """One task for questions and one for prompts."""
    found = []
    if study.questions is not None:
        questions = study.questions
        cube = study.attempt("Claims about questions", lambda: probabilities_or_choices(study, questions))
        if cube is not None:
            found.append(_task(QUESTIONS, cube, str(cube.name)))
    scores = study.attempt("Claims about prompts", lambda: _scores(study))
    if scores is not None:
        found.append(_task(PROMPTS, scores, "1 - toxicity"))
    return found


def all_tasks(study: StudyFolder) -> list[Task]:
    """Every category of questions with enough clusters is a task of its own, and so are prompts."""
    found = []
    for task in pooled_tasks(study):
        if task.name == QUESTIONS and study.questions is not None:
            items = study.questions.items.loc[task.last["item"].values]
            categories = {
                str(name): part.index.tolist()
                for name, part in items.groupby("category", sort=True)
                if name and part["cluster"].nunique() >= MIN_CLUSTERS
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
