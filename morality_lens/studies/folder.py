"""The folder of a study: its runs and results, and the tasks that its claims are about."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import xarray as xr

from morality_lens.behaviour import behaviour_cube, too_many_unparsed
from morality_lens.cube import factors_of
from morality_lens.inside import read_result
from morality_lens.interactions import POPULATION
from morality_lens.probes import Probe, load_probe
from morality_lens.store import Run, open_run
from morality_lens.verdicts import Task, of_components

T = TypeVar("T")
QUESTIONS, PROMPTS, PLACEBO = "questions", "prompts", "placebo"
RESULTS = "results"
MASS = 0.5
"""Mean probability on the options' letters from which on their exact chances stand for the answers."""
LEAST_CLUSTERS = 5
"""Clusters that a category needs to be a task of its own."""


class StudyFolder:
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
        return read_result(self.folder / RESULTS, name)

    def attempt(self, what: str, make: Callable[[], T | None]) -> T | None:
        """The result, or None and a sentence that says why not."""
        try:
            return make()
        except ValueError as error:
            self.refused.append(f"{what}: {error}")
            return None


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


def stable_layers(study: StudyFolder, layers: list[int]) -> list[int]:
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


def chances_or_choices(study: StudyFolder, run: Run) -> xr.DataArray | None:
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


def _scores(study: StudyFolder) -> xr.DataArray | None:
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
    first = cube.isel(round=0, drop=True).mean(factors_of(cube))
    return Task(name=name, last=of_components(cube.isel(round=-1, drop=True)), first=first, unit=unit)


def pooled_tasks(study: StudyFolder) -> list[Task]:
    """One task for questions and one for prompts."""
    found = []
    if study.questions is not None:
        questions = study.questions
        cube = study.attempt("Claims about questions", lambda: chances_or_choices(study, questions))
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
